//! TCP segmentation in software: a super-frame becomes the frames a wire would carry, for a
//! receiver that did not negotiate `GUEST_TSO4`/`GUEST_TSO6`.
//!
//! Works on private bytes only; lengths, sequence numbers, IP identification, flags and checksums
//! of each segment are made right, payload bytes are never copied here.

use crate::checksum::Sum;
use crate::error::FrameFault;
use crate::limits::HEAD_MAX;
use crate::net_hdr::{GsoMeta, NetHdr, gso_meta};
use crate::tcp::{PROTO_TCP, TcpLayout};

/// Cuts one super-frame. Ask for [`header`](Self::next_segment) until it is `None`.
pub struct Segmenter<'a> {
    frame: &'a [u8],
    layout: TcpLayout,
    size: usize,
    /// The next segment's header is built here.
    header: [u8; HEAD_MAX],
    /// Where in the frame the next segment's payload starts.
    at: usize,
    index: u16,
    done: bool,
}

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

impl<'a> Segmenter<'a> {
    /// A cutter for `frame`, whose header is `hdr`; fails if that does not describe a TCP
    /// super-frame (see [`gso_meta`]).
    pub fn new(hdr: &NetHdr, frame: &'a [u8]) -> Result<Segmenter<'a>, FrameFault> {
        let head = frame.get(..HEAD_MAX).unwrap_or(frame);
        let Some(GsoMeta { size, .. }) = gso_meta(hdr, head)? else {
            return Err(FrameFault::BadGso);
        };
        let layout = TcpLayout::parse(head).ok_or(FrameFault::BadGsoHeaders)?;
        let mut header = [0; HEAD_MAX];
        header[..head.len()].copy_from_slice(head);
        Ok(Segmenter {
            frame,
            layout,
            size: usize::from(size),
            header,
            at: layout.payload,
            index: 0,
            done: false,
        })
    }

    /// The next segment as its complete headers and its payload, or `None` after the last. A
    /// super-frame without payload is one segment.
    pub fn next_segment(&mut self) -> Option<(&[u8], &'a [u8])> {
        if self.done {
            return None;
        }
        let end = (self.at + self.size).min(self.frame.len());
        let payload = &self.frame[self.at..end];
        self.done = end == self.frame.len();
        self.patch(payload);
        self.at = end;
        self.index = self.index.wrapping_add(1);
        Some((&self.header[..self.layout.payload], payload))
    }

    /// Makes `header` the header of the segment with this payload.
    fn patch(&mut self, payload: &[u8]) {
        let TcpLayout {
            v6,
            ip,
            tcp,
            payload: headers,
        } = self.layout;
        let original = &self.frame[..headers];
        let header = &mut self.header[..headers];
        let l4_len = (headers - tcp + payload.len()) as u16;
        let pseudo = if v6 {
            let ip_payload = (headers - ip - 40 + payload.len()) as u16;
            header[ip + 4..ip + 6].copy_from_slice(&ip_payload.to_be_bytes());
            Sum::default().with(&header[ip + 8..ip + 40])
        } else {
            let total = (headers - ip + payload.len()) as u16;
            let id =
                u16::from_be_bytes([original[ip + 4], original[ip + 5]]).wrapping_add(self.index);
            header[ip + 2..ip + 4].copy_from_slice(&total.to_be_bytes());
            header[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
            header[ip + 10..ip + 12].fill(0);
            let sum = Sum::default().with(&header[ip..tcp]).checksum();
            header[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
            Sum::default().with(&header[ip + 12..ip + 20])
        };

        let seq = [
            original[tcp + 4],
            original[tcp + 5],
            original[tcp + 6],
            original[tcp + 7],
        ];
        let seq = u32::from_be_bytes(seq).wrapping_add((self.at - headers) as u32);
        header[tcp + 4..tcp + 8].copy_from_slice(&seq.to_be_bytes());
        let mut flags = original[tcp + 13];
        if !self.done {
            flags &= !FIN_PSH;
        }
        if self.index > 0 {
            flags &= !CWR;
        }
        header[tcp + 13] = flags;
        let at = tcp + TcpLayout::CHECKSUM;
        header[at..at + 2].fill(0);
        let sum = pseudo
            .with_u16(u16::from(PROTO_TCP))
            .with_u16(l4_len)
            .with(&header[tcp..])
            .with(payload)
            .checksum();
        header[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use vf_packet::{be16, is_vlan_tpid};

    use super::*;
    use crate::features::VirtioFeatures;
    use crate::frame::FrameBuf;

    /// A super-frame as a driver gives it: checksum partial, FIN, PSH and CWR set.
    pub(crate) fn super_frame(v6: bool, tags: usize, payload: usize, gso_size: u16) -> FrameBuf {
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
        let headers = data.len();
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
            .with_u16(6)
            .with_u16(l4)
            .folded();
        data[tcp + 16..tcp + 18].copy_from_slice(&pseudo.to_be_bytes());
        let hdr = NetHdr {
            flags: NetHdr::NEEDS_CSUM,
            gso_type: if v6 {
                NetHdr::GSO_TCPV6
            } else {
                NetHdr::GSO_TCPV4
            },
            hdr_len: headers as u16,
            gso_size,
            csum_start: tcp as u16,
            csum_offset: 16,
        };
        FrameBuf { hdr, data }
    }

    /// Checks one frame's IP lengths and checksums; returns its layout.
    pub(crate) fn verify(frame: &[u8]) -> TcpLayout {
        let layout = TcpLayout::parse(frame).expect("TCP");
        let TcpLayout { v6, ip, tcp, .. } = layout;
        let l4 = (frame.len() - tcp) as u16;
        let addresses = if v6 {
            assert_eq!(
                usize::from(be16(frame, ip + 4).unwrap()),
                frame.len() - ip - 40
            );
            &frame[ip + 8..ip + 40]
        } else {
            assert_eq!(usize::from(be16(frame, ip + 2).unwrap()), frame.len() - ip);
            assert_eq!(
                Sum::default().with(&frame[ip..tcp]).folded(),
                0xffff,
                "IP checksum"
            );
            &frame[ip + 12..ip + 20]
        };
        let sum = Sum::default()
            .with(addresses)
            .with_u16(6)
            .with_u16(l4)
            .with(&frame[tcp..]);
        assert_eq!(sum.folded(), 0xffff, "TCP checksum");
        layout
    }

    fn cut(frame: &FrameBuf) -> Vec<Vec<u8>> {
        let mut cutter = Segmenter::new(&frame.hdr, &frame.data).unwrap();
        let mut out = Vec::new();
        while let Some((header, payload)) = cutter.next_segment() {
            out.push([header, payload].concat());
        }
        out
    }

    #[test]
    fn flags_and_identification() {
        let frame = super_frame(false, 0, 2500, 1000);
        let segments = cut(&frame);
        let flags: Vec<u8> = segments.iter().map(|s| s[14 + 20 + 13]).collect();
        assert_eq!(flags, [0x90, 0x10, 0x19], "CWR first, FIN and PSH last");
        let ids: Vec<u16> = segments.iter().map(|s| be16(s, 18).unwrap()).collect();
        assert_eq!(ids, [0xfffe, 0xffff, 0], "identification counts and wraps");
    }

    #[test]
    fn a_super_frame_may_be_behind_any_tag_that_a_plain_frame_may_be_behind() {
        let tpids: Vec<u16> = (0..=u16::MAX).filter(|&t| is_vlan_tpid(t)).collect();
        for (outer, inner) in tpids.iter().flat_map(|o| tpids.iter().map(move |i| (o, i))) {
            let mut frame = super_frame(false, 2, 2500, 1000);
            frame.data[12..14].copy_from_slice(&outer.to_be_bytes());
            frame.data[16..18].copy_from_slice(&inner.to_be_bytes());
            let plain = NetHdr {
                gso_type: NetHdr::GSO_NONE,
                ..frame.hdr
            };
            for hdr in [frame.hdr, plain] {
                let checked = hdr.check(VirtioFeatures::all(), frame.head(), frame.len());
                assert!(checked.is_ok(), "{outer:#x} {inner:#x} {checked:?}");
            }
            let segments = cut(&frame);
            assert_eq!(segments.len(), 3);
            for segment in &segments {
                assert_eq!(segment[12..20], frame.data[12..20]);
                verify(segment);
            }
        }
    }

    #[test]
    fn ipv6_extension_headers_are_stepped_over_and_fragments_refused() {
        let frame = super_frame(true, 0, 0, 1).data;
        let with = |next: u8| {
            let mut f = frame.clone();
            f[20] = next;
            f.splice(54..54, [PROTO_TCP, 0, 0, 0, 0, 0, 0, 0]);
            TcpLayout::parse(&f)
        };
        assert_eq!(with(60).map(|l| l.tcp), Some(62));
        assert_eq!(with(44), None);
        assert_eq!(with(17), None);
        let mut v4 = super_frame(false, 0, 0, 1).data;
        v4[20] = 0x20;
        assert_eq!(TcpLayout::parse(&v4), None, "more fragments");
    }

    proptest! {
        #[test]
        fn segments_verify_and_reassemble(v6: bool, tags in 0usize..3, payload in 0usize..20_000, size in 1u16..3000) {
            let size = size.max((payload / 60) as u16).max(1);
            let frame = super_frame(v6, tags, payload, size);
            let segments = cut(&frame);
            prop_assert_eq!(segments.len(), payload.div_ceil(usize::from(size)).max(1));
            let whole = TcpLayout::parse(&frame.data).unwrap();
            let first_seq = &frame.data[whole.tcp + 4..whole.tcp + 8];
            let first_seq = u32::from_be_bytes(first_seq.try_into().unwrap());
            let mut again = Vec::new();
            for segment in &segments {
                let layout = verify(segment);
                prop_assert_eq!(layout, whole);
                let seq = u32::from_be_bytes(segment[layout.tcp + 4..layout.tcp + 8].try_into().unwrap());
                prop_assert_eq!(seq, first_seq.wrapping_add(again.len() as u32));
                let part = &segment[layout.payload..];
                prop_assert!(part.len() <= usize::from(size));
                again.extend_from_slice(part);
            }
            prop_assert_eq!(&again[..], &frame.data[whole.payload..]);
        }

        #[test]
        fn any_bytes_parse_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0usize..4,
            flags: u8, gso_type: u8, size: u16, start: u16,
        ) {
            if bytes.len() > 15 {
                bytes[12..16].copy_from_slice(&[[8, 0, 0x45, 0], [0x86, 0xdd, 0x60, 0], [0x81, 0, 0, 1], [0x88, 0xa8, 0, 1]][kind]);
            }
            let hdr = NetHdr { flags, gso_type, hdr_len: size, gso_size: size, csum_start: start, csum_offset: 16 };
            if let Ok(mut cutter) = Segmenter::new(&hdr, &bytes) {
                while cutter.next_segment().is_some() {}
            }
            let _ = hdr.check(VirtioFeatures::all(), &bytes[..bytes.len().min(HEAD_MAX)], bytes.len() as u32);
        }
    }
}
