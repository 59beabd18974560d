//! TCP frames for tests: a super-frame as a driver gives it, and the judgement of a frame as a wire carries it. Panics, as
//! tests do. In no build of a program: the feature `testing` is for tests and `vf-fuzz-drivers`.
#![allow(clippy::unwrap_used)]

use crate::checksum::Sum;
use crate::{PROTO_TCP, TcpLayout, be16};

/// A super-frame with a partial checksum, with FIN, PSH and CWR set, behind `tags` customer tags.
#[must_use]
pub fn super_frame(v6: bool, tags: usize, payload: usize) -> Vec<u8> {
    let mut data = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for i in 0..tags {
        data.extend([0x81, 0, 0, 100 + i as u8]);
    }
    data.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    let ip = data.len();
    if v6 {
        data.extend([0x60, 0, 0, 0, 0, 0, PROTO_TCP, 64]);
        data.extend([0xfd; 16]);
        data.extend([0xfc; 16]);
    } else {
        data.extend([
            0x45, 0, 0, 0, 0xff, 0xfe, 0x40, 0, 64, PROTO_TCP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
    }
    let tcp = data.len();
    data.extend([
        0x12, 0x34, 0, 80, 0xff, 0xff, 0xff, 0x00, 1, 2, 3, 4, 0x80, 0x99, 2, 0, 0, 0, 0, 0,
    ]);
    data.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]);
    data.extend((0..payload).map(|i| (i * 7 + i / 251) as u8));
    let l4 = (data.len() - tcp) as u16;
    let total = (data.len() - ip) as u16;
    let addresses = if v6 {
        data[ip + 4..ip + 6].copy_from_slice(&l4.to_be_bytes());
        ip + 8..ip + 40
    } else {
        data[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
        ip + 12..ip + 20
    };
    let pseudo = Sum::default()
        .with(&data[addresses])
        .with_u16(u16::from(PROTO_TCP))
        .with_u16(l4)
        .folded();
    data[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
    data
}

/// An IPv6 super-frame behind a used segment routing header (RFC 8754) with so many addresses: 94 B of headers, 16 more an
/// address.
#[must_use]
pub fn routed_super_frame(addresses: usize, payload: usize) -> Vec<u8> {
    let mut data = super_frame(true, 0, payload);
    data[20] = 43;
    let header = [
        PROTO_TCP,
        2 * addresses as u8,
        4,
        0,
        addresses as u8 - 1,
        0,
        0,
        0,
    ];
    let list = std::iter::repeat_n(0xfb, 16 * addresses);
    data.splice(54..54, header.into_iter().chain(list));
    data
}

/// Checks one frame's IP lengths and checksums; returns its layout.
#[must_use]
pub fn verify(frame: &[u8]) -> TcpLayout {
    let layout = TcpLayout::parse(frame).unwrap();
    let TcpLayout { v6, ip, tcp, .. } = layout;
    let length = |at| usize::from(be16(frame, at).unwrap());
    let addresses = if v6 {
        assert_eq!(length(ip + 4), frame.len() - ip - 40, "payload length");
        &frame[ip + 8..ip + 40]
    } else {
        assert_eq!(length(ip + 2), frame.len() - ip, "total length");
        let header = Sum::default().with(&frame[ip..tcp]);
        assert_eq!(header.folded(), 0xffff, "IP checksum");
        &frame[ip + 12..ip + 20]
    };
    let sum = Sum::default()
        .with(addresses)
        .with_u16(u16::from(PROTO_TCP))
        .with_u16((frame.len() - tcp) as u16)
        .with(&frame[tcp..]);
    assert_eq!(sum.folded(), 0xffff, "TCP checksum");
    layout
}
