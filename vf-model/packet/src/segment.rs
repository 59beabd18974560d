//! TCP segmentation (GSO) in software: a super-frame becomes the frames a wire would carry.
//!
//! Lengths, sequence numbers, IP identification, flags and checksums of each segment are made right; payload bytes are never
//! copied here.

use crate::checksum::Sum;
use crate::{PROTO_TCP, TAGGED_HEADERS_MAX, TcpLayout};

/// Cuts one super-frame. Ask for the [next segment](Self::next_segment) until there is none.
#[derive(Debug)]
pub struct Segmenter<'a> {
    frame: &'a [u8],
    layout: TcpLayout,
    size: usize,
    /// The next segment's header is built here.
    header: [u8; TAGGED_HEADERS_MAX],
    /// Where in the frame the next segment's payload starts.
    at: usize,
    index: u16,
    done: bool,
}

const FIN_PSH: u8 = 0x09;

impl<'a> Segmenter<'a> {
    /// A cutter for `frame` into segments of `size` payload bytes; `None` if that is zero, or unless its headers up to TCP's
    /// lie in its first [`TAGGED_HEADERS_MAX`] bytes (see [`TcpLayout`]).
    #[must_use]
    pub fn new(frame: &'a [u8], size: u16) -> Option<Segmenter<'a>> {
        let head = frame.get(..TAGGED_HEADERS_MAX).unwrap_or(frame);
        let layout = TcpLayout::parse(head).ok().filter(|_| size > 0)?;
        let mut header = [0; TAGGED_HEADERS_MAX];
        header[..layout.payload].copy_from_slice(&head[..layout.payload]);
        Some(Segmenter {
            frame,
            layout,
            size: usize::from(size),
            header,
            at: layout.payload,
            index: 0,
            done: false,
        })
    }

    /// How many segments there are in all; a super-frame without payload is one.
    #[must_use]
    pub fn segments(&self) -> usize {
        let payload = self.frame.len() - self.layout.payload;
        payload.div_ceil(self.size).max(1)
    }

    /// Leaves out the next `n` segments.
    pub fn skip(&mut self, n: u32) {
        let left = self.frame.len() - self.at;
        let bytes = self.size.saturating_mul(n as usize);
        self.done |= n > 0 && bytes >= left;
        self.at += bytes.min(left);
        self.index = self.index.wrapping_add(n as u16);
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
            dst,
            tcp,
            payload: headers,
        } = self.layout;
        let original = &self.frame[..headers];
        let header = &mut self.header[..headers];
        let l4_len = (headers - tcp + payload.len()) as u16;
        let pseudo = if v6 {
            let ip_payload = (headers - ip - 40 + payload.len()) as u16;
            header[ip + 4..ip + 6].copy_from_slice(&ip_payload.to_be_bytes());
            Sum::default()
                .with(&header[ip + 8..ip + 24])
                .with(&header[dst..dst + 16])
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
            flags &= !TcpLayout::CWR;
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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LayoutError::{self, NotTcp};
    use crate::testing::{routed_super_frame, super_frame, verify};
    use crate::{HEADERS_MAX, be16, is_vlan_tpid};

    fn cut(frame: &[u8], size: u16) -> Vec<Vec<u8>> {
        let mut cutter = Segmenter::new(frame, size).unwrap();
        let mut out = Vec::new();
        while let Some((header, payload)) = cutter.next_segment() {
            out.push([header, payload].concat());
        }
        out
    }

    #[test]
    fn flags_and_identification() {
        let segments = cut(&super_frame(false, 0, 2500), 1000);
        let flags: Vec<u8> = segments.iter().map(|s| s[14 + 20 + 13]).collect();
        assert_eq!(flags, [0x90, 0x10, 0x19], "CWR first, FIN and PSH last");
        let ids: Vec<u16> = segments.iter().map(|s| be16(s, 18).unwrap()).collect();
        assert_eq!(ids, [0xfffe, 0xffff, 0], "identification counts and wraps");
    }

    #[test]
    fn a_super_frame_may_be_behind_any_tag_that_a_plain_frame_may_be_behind() {
        let tpids: Vec<u16> = (0..=u16::MAX).filter(|&t| is_vlan_tpid(t)).collect();
        for (outer, inner) in tpids.iter().flat_map(|o| tpids.iter().map(move |i| (o, i))) {
            let mut frame = super_frame(false, 2, 2500);
            frame[12..14].copy_from_slice(&outer.to_be_bytes());
            frame[16..18].copy_from_slice(&inner.to_be_bytes());
            let segments = cut(&frame, 1000);
            assert_eq!(segments.len(), 3);
            for segment in &segments {
                assert_eq!(segment[12..20], frame[12..20]);
                assert_eq!(verify(segment).ip, 22);
            }
        }
    }

    /// Of which those that decide on a frame read two, and a port VLAN's may be in front of them.
    #[test]
    fn a_super_frame_is_cut_behind_however_many_tags() {
        for (v6, tags) in [(false, 3), (true, 3), (false, 4), (true, 20)] {
            let frame = super_frame(v6, tags, 2500);
            let segments = cut(&frame, 1000);
            assert_eq!(segments.len(), 3);
            for segment in &segments {
                let ip = 14 + 4 * tags;
                assert_eq!(segment[..ip], frame[..ip]);
                assert_eq!(verify(segment).ip, ip);
            }
        }
        let frame = [&[0; 12][..], &[0x81, 0, 0, 1].repeat(40)].concat();
        assert_eq!(TcpLayout::parse(&frame), Err(LayoutError::Beyond));
    }

    #[test]
    fn ipv6_extension_headers_are_stepped_over_and_fragments_refused() {
        let frame = super_frame(true, 0, 0);
        let with = |next: u8, offset_and_more: u8| {
            let mut f = frame.clone();
            f[20] = next;
            f.splice(54..54, [PROTO_TCP, 0, 0, offset_and_more, 0, 0, 0, 0]);
            TcpLayout::parse(&f).ok().map(|l| l.tcp)
        };
        for options in [0, 60] {
            assert_eq!(with(options, 0), Some(62));
        }
        assert_eq!(with(44, 0), Some(62), "an atomic fragment");
        assert_eq!(with(44, 1), None, "more fragments");
        assert_eq!(with(44, 8), None, "not the first");
        assert_eq!(with(51, 0), None, "authenticated");
        assert_eq!(with(17, 0), None);
        let mut v4 = super_frame(false, 0, 0);
        v4[20] = 0x20;
        assert_eq!(TcpLayout::parse(&v4), Err(NotTcp), "more fragments");
    }

    #[test]
    fn the_checksum_is_for_where_a_routing_header_leads_in_the_end() {
        let plain = super_frame(true, 0, 2500);
        let there = [0xfb; 16];
        let routed = |kind, left, list: &[[u8; 16]]| {
            let mut frame = plain.clone();
            frame[20] = 43;
            let header = [PROTO_TCP, 2 * list.len() as u8, kind, left, 0, 0, 0, 0];
            frame.splice(54..54, header.into_iter().chain(list.concat()));
            let length = (frame.len() - 54) as u16;
            frame[18..20].copy_from_slice(&length.to_be_bytes());
            frame
        };
        let [other, used] = [[0xfa; 16], [0xfc; 16]];
        for (kind, left, list, dst) in [
            (2, 1, &[there][..], there),
            (0, 2, &[other, there], there),
            (4, 1, &[there, other], there),
            (2, 0, &[other], used),
        ] {
            for segment in cut(&routed(kind, left, list), 1000) {
                // For where it goes in the end, as the receiver takes it.
                let mut arrived = segment;
                arrived[38..54].copy_from_slice(&dst);
                arrived[57] = 0;
                let _ = verify(&arrived);
            }
        }
        for (kind, left, list) in [(3, 1, &[there][..]), (2, 1, &[])] {
            assert_eq!(TcpLayout::parse(&routed(kind, left, list)), Err(NotTcp));
        }
    }

    #[test]
    fn headers_may_be_longer_than_what_is_judged() {
        let longest = (HEADERS_MAX - 94) / 16;
        for addresses in [1, 3, longest] {
            let frame = routed_super_frame(addresses, 2500);
            let layout = TcpLayout::parse(&frame[..HEADERS_MAX]).unwrap();
            assert_eq!(layout.payload, 94 + 16 * addresses);
            let cut_short = TcpLayout::parse(&frame[..layout.payload - 1]);
            assert_eq!(cut_short, Err(LayoutError::Beyond));
            let segments = cut(&frame, 1000);
            assert_eq!(segments.len(), 3);
            for segment in &segments {
                assert_eq!(verify(segment), layout);
                assert_eq!(segment[54..layout.tcp], frame[54..layout.tcp]);
            }
        }
        // As long as a driver's may be, and in a port VLAN.
        let mut frame = routed_super_frame(longest, 2500);
        frame.splice(12..12, [0x81, 0, 0, 1]);
        assert_eq!(HEADERS_MAX, 94 + 16 * longest + 2);
        assert_eq!(cut(&frame, 1000).len(), 3);
        let frame = routed_super_frame(longest + 1, 2500);
        assert!(Segmenter::new(&frame, 1000).is_none());
    }

    proptest! {
        #[test]
        fn segments_verify_and_reassemble(v6: bool, tags in 0usize..5, payload in 0usize..20_000, size in 1u16..3000, skipped in 0u32..40) {
            let size = size.max((payload / 60) as u16).max(1);
            let frame = super_frame(v6, tags, payload);
            let segments = cut(&frame, size);
            let mut rest = Segmenter::new(&frame, size).unwrap();
            prop_assert_eq!(segments.len(), rest.segments());
            rest.skip(skipped);
            let next = rest.next_segment().map(|(header, payload)| [header, payload].concat());
            prop_assert_eq!(next.as_ref(), segments.get(skipped as usize));
            prop_assert_eq!(segments.len(), payload.div_ceil(usize::from(size)).max(1));
            let whole = TcpLayout::parse(&frame).unwrap();
            let first_seq = &frame[whole.tcp + 4..whole.tcp + 8];
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
            prop_assert_eq!(&again[..], &frame[whole.payload..]);
        }

        #[test]
        fn any_bytes_parse_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            kind in 0usize..4,
            size: u16,
        ) {
            if bytes.len() > 15 {
                bytes[12..16].copy_from_slice(&[[8, 0, 0x45, 0], [0x86, 0xdd, 0x60, 0], [0x81, 0, 0, 1], [0x88, 0xa8, 0, 1]][kind]);
            }
            if let Some(mut cutter) = Segmenter::new(&bytes, size) {
                while cutter.next_segment().is_some() {}
            }
        }
    }
}
