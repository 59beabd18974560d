//! A virtio-net header and a frame, as a driver writes them, and the frame's segments.
//!
//! Rules: a header that is read and written is the same; what is accepted describes the frame, and is accepted again when it is written as a
//! header; a super-frame's segments are whole frames with right lengths and checksums, have its payload in its order, and are as many as
//! were announced and charged.
//!
//! Has no ring and no guest memory: the bytes are this process' own.

use vf_packet::checksum::Sum;
use vf_packet::{
    FrameMeta, HEADERS_MAX, OnWire, PROTO_TCP, Segmenter, TAGGED_HEADERS_MAX, TcpLayout, testing,
    wire_bytes,
};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::net_hdr::NetHdr;

use crate::bytes::Bytes;

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let raw: [u8; 10] = bytes.array();
    let hdr = NetHdr::from_bytes(&raw);
    assert_eq!(hdr.to_bytes(0)[..10], raw, "read and written");
    let features = VirtioFeatures::from_bits_truncate(bytes.u64());
    let frame = frame(&mut bytes);
    let head = &frame[..frame.len().min(HEADERS_MAX)];
    if let Ok(offload) = hdr.check(features, head, frame.len() as u32) {
        if let Some(checksum) = offload.checksum() {
            let end = usize::from(checksum.start) + usize::from(checksum.offset) + 2;
            assert!(end <= frame.len(), "a checksum outside");
        }
        if let Some(cut) = offload.segmentation() {
            let layout = TcpLayout::parse(head).unwrap();
            assert_eq!(usize::from(cut.gso.header_len), layout.payload);
            assert!(cut.gso.size > 0 && offload.checksum().is_some());
        }
        let again = NetHdr::from(&offload);
        assert_eq!(again.check(features, head, frame.len() as u32), Ok(offload));
    }
    if let Some(segmenter) = Segmenter::new(&frame, hdr.gso_size) {
        segments(&frame, segmenter, hdr.gso_size, bytes.u8());
    }
}

/// A TCP super-frame with some bytes changed, or any bytes.
fn frame(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let kind = bytes.u8();
    let payload = usize::from(bytes.u16() % 9000);
    let mut frame = match kind % 4 {
        0 => return bytes.rest().to_vec(),
        1 => testing::routed_super_frame(1 + usize::from(kind / 4 % 20), payload),
        _ => testing::super_frame(kind % 4 == 3, usize::from(kind / 4 % 3), payload),
    };
    for _ in 0..bytes.below(8) {
        let at = usize::from(bytes.u8());
        if let Some(byte) = frame.get_mut(at) {
            *byte ^= bytes.u8();
        }
    }
    frame
}

/// Lengths and checksums of a segment; a routing header says which address TCP's checksum is over (RFC 8200 8.1).
fn verify(segment: &[u8], layout: &TcpLayout) {
    assert_eq!(TcpLayout::parse(segment), Ok(*layout));
    let TcpLayout {
        v6, ip, dst, tcp, ..
    } = *layout;
    let length = |at: usize| usize::from(u16::from_be_bytes([segment[at], segment[at + 1]]));
    let pseudo = Sum::default()
        .with_u16(u16::from(PROTO_TCP))
        .with_u16((segment.len() - tcp) as u16);
    let pseudo = if v6 {
        assert_eq!(length(ip + 4), segment.len() - ip - 40, "payload length");
        pseudo
            .with(&segment[ip + 8..ip + 24])
            .with(&segment[dst..dst + 16])
    } else {
        assert_eq!(length(ip + 2), segment.len() - ip, "total length");
        let header = Sum::default().with(&segment[ip..tcp]);
        assert_eq!(header.folded(), 0xffff, "IP checksum");
        pseudo.with(&segment[ip + 12..ip + 20])
    };
    let sum = pseudo.with(&segment[tcp..]);
    assert_eq!(sum.folded(), 0xffff, "TCP checksum");
}

fn segments(frame: &[u8], mut segmenter: Segmenter<'_>, size: u16, skipped: u8) {
    // As many as there are room for in IPv4's length: others are refused at the ring.
    let layout = TcpLayout::parse(&frame[..frame.len().min(TAGGED_HEADERS_MAX)]).unwrap();
    let announced = segmenter.segments();
    let (mut payload, mut wire, mut count) = (Vec::new(), 0, 0);
    let mut all = Vec::new();
    while let Some((head, data)) = segmenter.next_segment() {
        let segment = [head, data].concat();
        assert_eq!(head.len(), layout.payload);
        if segment.len() - layout.ip <= usize::from(u16::MAX) {
            verify(&segment, &layout);
        }
        assert!(data.len() <= usize::from(size));
        payload.extend_from_slice(data);
        wire += wire_bytes(&FrameMeta {
            len: segment.len() as u32,
            gso: None,
        });
        count += 1;
        all.push(segment);
    }
    assert_eq!(payload, frame[layout.payload..], "the payload");
    assert_eq!(count, announced, "segments");
    let gso = Some(vf_packet::Gso {
        header_len: layout.payload as u16,
        size,
    });
    let charged = OnWire::of(&FrameMeta {
        len: frame.len() as u32,
        gso,
    });
    assert_eq!(
        (charged.bytes, charged.segments as usize),
        (wire, count),
        "charged"
    );
    let mut again = Segmenter::new(frame, size).unwrap();
    again.skip(skipped.into());
    let rest = all.get(usize::from(skipped)..).unwrap_or_default();
    for segment in rest {
        let (head, data) = again.next_segment().unwrap();
        assert_eq!(
            [head, data].concat(),
            *segment,
            "after {skipped} that were left out"
        );
    }
    assert!(again.next_segment().is_none());
}
