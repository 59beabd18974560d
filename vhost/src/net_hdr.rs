//! The virtio-net header (virtio 5.1.9): its bytes, and the judgement of what a driver wrote in it. At the virtqueue it becomes an
//! [`Offload`], and an `Offload` becomes it again; nobody behind knows it.
//!
//! `num_buffers` is not part of [`NetHdr`]: only the receive queue knows it. Never touches guest
//! memory; a header is judged on a private copy together with the first bytes of its frame.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

use vf_packet::{
    Gso, LayoutError, Offload, PartialChecksum, Segmentation, TcpLayout, be16, judged_len,
};
use virtio_bindings::virtio_net as net;

pub use crate::error::FrameFault;
use crate::features::VirtioFeatures;
pub use crate::limits::{HEAD_MAX, HEADERS_MAX, MAX_FRAME, MIN_FRAME};
use crate::limits::{SEGMENTS_MAX, SHORTEST_SEGMENT};

/// The fields of a virtio-net header, but for `num_buffers`. What travels with a frame is what they ask for, an [`Offload`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetHdr {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`, with the ECN bit.
    pub gso_type: u8,
    /// Bytes of L2, L3 and L4 header of a super-frame; from a driver only a hint, from [`check`](Self::check) right.
    pub hdr_len: u16,
    /// Payload bytes a segment of a super-frame.
    pub gso_size: u16,
    /// Where the checksummed bytes start, from the first byte of the frame.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
}

/// Bytes of the virtio-net header on a ring: 12 with `VERSION_1` or `MRG_RXBUF`, else 10 (virtio 5.1.9).
pub const fn header_len(features: VirtioFeatures) -> usize {
    if features.intersects(VirtioFeatures::VERSION_1.union(VirtioFeatures::MRG_RXBUF)) {
        12
    } else {
        10
    }
}

impl NetHdr {
    /// `flags`: the checksum at `csum_start + csum_offset` is partial.
    pub const NEEDS_CSUM: u8 = net::VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
    /// `gso_type`: not a super-frame.
    pub const GSO_NONE: u8 = net::VIRTIO_NET_HDR_GSO_NONE as u8;
    /// `gso_type`: TCP over IPv4.
    pub const GSO_TCPV4: u8 = net::VIRTIO_NET_HDR_GSO_TCPV4 as u8;
    /// `gso_type`: TCP over IPv6.
    pub const GSO_TCPV6: u8 = net::VIRTIO_NET_HDR_GSO_TCPV6 as u8;
    /// `gso_type` bit: the TCP header carries ECN flags that only the first segment may have.
    pub const GSO_ECN: u8 = net::VIRTIO_NET_HDR_GSO_ECN as u8;

    /// The header whose first 10 bytes these are.
    pub fn from_bytes(b: &[u8; 10]) -> NetHdr {
        let low = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        NetHdr::from_words(low, u16::from_le_bytes([b[8], b[9]]))
    }

    /// The 12 bytes of the header; of a 10-byte header they are the first 10.
    #[inline]
    pub fn to_bytes(&self, num_buffers: u16) -> [u8; 12] {
        let (low, high) = self.to_words(num_buffers);
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes());
        bytes
    }

    /// The same as two little-endian numbers, of 8 bytes and of 4.
    #[inline]
    pub(crate) fn to_words(self, num_buffers: u16) -> (u64, u32) {
        let low = u64::from(self.flags)
            | u64::from(self.gso_type) << 8
            | u64::from(self.hdr_len) << 16
            | u64::from(self.gso_size) << 32
            | u64::from(self.csum_start) << 48;
        let high = u32::from(self.csum_offset) | u32::from(num_buffers) << 16;
        (low, high)
    }

    /// Whether the checksum is partial.
    pub fn needs_csum(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }

    /// Whether the frame is a super-frame.
    pub fn is_gso(&self) -> bool {
        self.gso_type != Self::GSO_NONE
    }

    /// The header whose first 8 bytes are the little-endian number `low` and whose next two `high`.
    pub(crate) fn from_words(low: u64, high: u16) -> NetHdr {
        NetHdr {
            flags: low as u8,
            gso_type: (low >> 8) as u8,
            hdr_len: (low >> 16) as u16,
            gso_size: (low >> 32) as u16,
            csum_start: (low >> 48) as u16,
            csum_offset: high,
        }
    }

    /// Judges a header that a driver wrote, as virtio 5.1.9.2.2 asks, and says what it asks for: unknown flags and fields that
    /// the flags do not make meaningful ask for nothing, `hdr_len` is recomputed from the frame.
    ///
    /// `features` are the bits the driver acknowledged, `head` the first bytes of the frame of `len` bytes; of a super-frame
    /// all of its headers.
    ///
    /// # Errors
    /// What the header says is not so, or was not negotiated. [`FrameFault::HeadersTooLong`]: the headers of a super-frame go on
    /// behind `head`.
    #[inline]
    pub fn check(
        &self,
        features: VirtioFeatures,
        head: &[u8],
        len: u32,
    ) -> Result<Offload, FrameFault> {
        if self.asks_nothing() {
            return Ok(Offload::default());
        }
        self.check_offloads(features, head, len)
    }

    /// Whether nothing is left to the device to do.
    #[inline]
    fn asks_nothing(&self) -> bool {
        NetHdr::word_asks_nothing(self.to_words(0).0)
    }

    /// The same by the first 8 bytes as a little-endian number: most headers need not be taken apart.
    #[inline]
    pub(crate) fn word_asks_nothing(low: u64) -> bool {
        let gso_type = u64::from(u8::MAX) << 8;
        low & (gso_type | u64::from(Self::NEEDS_CSUM)) == u64::from(Self::GSO_NONE) << 8
    }

    #[inline(never)]
    fn check_offloads(
        &self,
        features: VirtioFeatures,
        head: &[u8],
        len: u32,
    ) -> Result<Offload, FrameFault> {
        let (mut checksum, mut segmentation) = (None, None);
        if self.needs_csum() {
            if !features.contains(VirtioFeatures::CSUM) {
                return Err(FrameFault::NotNegotiated);
            }
            if u32::from(self.csum_start) + u32::from(self.csum_offset) + 2 > len {
                return Err(FrameFault::ChecksumOutside);
            }
            let field = usize::from(self.csum_start) + usize::from(self.csum_offset);
            // That of a super-frame is where TCP has it.
            if !self.is_gso() && field < judged_len(head) {
                return Err(FrameFault::ChecksumOutside);
            }
            checksum = Some(PartialChecksum {
                start: self.csum_start,
                offset: self.csum_offset,
            });
        }
        if self.is_gso() {
            let offered = match self.gso_type & !Self::GSO_ECN {
                Self::GSO_TCPV4 => features.contains(VirtioFeatures::HOST_TSO4),
                Self::GSO_TCPV6 => features.contains(VirtioFeatures::HOST_TSO6),
                _ => false,
            };
            let ecn = self.gso_type & Self::GSO_ECN != 0;
            if !offered || ecn && !features.contains(VirtioFeatures::HOST_ECN) {
                return Err(FrameFault::NotNegotiated);
            }
            segmentation = Some(self.segmentation(head, len)?);
        }
        Ok(Offload::new(checksum, segmentation))
    }

    /// How a super-frame is cut, from its own headers; `hdr_len` is not trusted.
    fn segmentation(&self, head: &[u8], len: u32) -> Result<Segmentation, FrameFault> {
        let layout = TcpLayout::parse(head).map_err(|error| match error {
            LayoutError::NotTcp => FrameFault::BadGsoHeaders,
            LayoutError::Beyond if head.len() < len as usize => FrameFault::HeadersTooLong,
            LayoutError::Beyond => FrameFault::BadGsoHeaders,
        })?;
        let v6 = match self.gso_type & !NetHdr::GSO_ECN {
            NetHdr::GSO_TCPV4 => false,
            NetHdr::GSO_TCPV6 => true,
            _ => return Err(FrameFault::BadGso),
        };
        if v6 != layout.v6 || !states_all_headers(head, &layout) {
            return Err(FrameFault::BadGsoHeaders);
        }
        let field_is_tcp = usize::from(self.csum_start) == layout.tcp
            && usize::from(self.csum_offset) == TcpLayout::CHECKSUM;
        if !self.needs_csum() || !field_is_tcp {
            return Err(FrameFault::BadGso);
        }
        Ok(Segmentation {
            v6,
            ecn: self.gso_type & NetHdr::GSO_ECN != 0,
            gso: cut(layout.payload, self.gso_size, len)?,
        })
    }
}

/// Whether the length that the packet of a super-frame states, if it states one, has room for its headers. One that ends before its ports
/// is judged as if it had none, and its segments would have some.
fn states_all_headers(head: &[u8], layout: &TcpLayout) -> bool {
    let (at, fixed) = if layout.v6 { (4, 40) } else { (2, 0) };
    let stated = be16(head, layout.ip + at).map_or(0, usize::from);
    stated == 0 || layout.ip + fixed + stated >= layout.payload
}

/// How a super-frame of `len` bytes, with so many of headers, is cut into segments of `size` bytes.
///
/// # Errors
/// Into none, or into more or shorter ones than any stack makes: each of them is work for others.
pub(crate) fn cut(headers: usize, size: u16, len: u32) -> Result<Gso, FrameFault> {
    if size == 0 {
        return Err(FrameFault::BadGso);
    }
    let payload = (len as usize).saturating_sub(headers);
    if size < SHORTEST_SEGMENT || payload.div_ceil(size.into()) > SEGMENTS_MAX {
        return Err(FrameFault::TooManySegments);
    }
    Ok(Gso {
        header_len: headers as u16,
        size,
    })
}

/// Whether a driver that acknowledged `features` can take the frame as it is (virtio 5.1.9.4.1).
#[inline]
pub(crate) fn acceptable(offload: &Offload, features: VirtioFeatures) -> bool {
    offload.is_none() || acceptable_offload(offload, features)
}

fn acceptable_offload(offload: &Offload, features: VirtioFeatures) -> bool {
    if offload.checksum().is_some() && !features.contains(VirtioFeatures::GUEST_CSUM) {
        return false;
    }
    let Some(Segmentation { v6, ecn, .. }) = offload.segmentation() else {
        return true;
    };
    let tso = if v6 {
        VirtioFeatures::GUEST_TSO6
    } else {
        VirtioFeatures::GUEST_TSO4
    };
    features.contains(tso) && (!ecn || features.contains(VirtioFeatures::GUEST_ECN))
}

impl From<&Offload> for NetHdr {
    #[inline]
    fn from(offload: &Offload) -> NetHdr {
        let mut hdr = NetHdr::default();
        if let Some(PartialChecksum { start, offset }) = offload.checksum() {
            hdr.flags = NetHdr::NEEDS_CSUM;
            (hdr.csum_start, hdr.csum_offset) = (start, offset);
        }
        if let Some(Segmentation { v6, ecn, gso }) = offload.segmentation() {
            let kind = if v6 {
                NetHdr::GSO_TCPV6
            } else {
                NetHdr::GSO_TCPV4
            };
            hdr.gso_type = kind | if ecn { NetHdr::GSO_ECN } else { 0 };
            (hdr.hdr_len, hdr.gso_size) = (gso.header_len, gso.size);
        }
        hdr
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::FrameBuf;

    const ALL: VirtioFeatures = VirtioFeatures::all();

    /// A super-frame as a driver gives it: checksum partial, FIN, PSH and CWR set.
    pub(crate) fn super_frame(v6: bool, tags: usize, payload: usize, gso_size: u16) -> FrameBuf {
        asking(vf_packet::testing::super_frame(v6, tags, payload), gso_size)
    }

    /// A super-frame as a driver gives it, with 94 B of headers and 16 more for each address of a routing header.
    pub(crate) fn routed_super_frame(addresses: usize, payload: usize, gso_size: u16) -> FrameBuf {
        asking(
            vf_packet::testing::routed_super_frame(addresses, payload),
            gso_size,
        )
    }

    /// A super-frame and what its driver asks for.
    fn asking(data: Vec<u8>, gso_size: u16) -> FrameBuf {
        let layout = TcpLayout::parse(&data).unwrap();
        let checksum = PartialChecksum {
            start: layout.tcp as u16,
            offset: 16,
        };
        let segmentation = Segmentation {
            v6: layout.v6,
            ecn: false,
            gso: Gso {
                header_len: layout.payload as u16,
                size: gso_size,
            },
        };
        let offload = Offload::new(Some(checksum), Some(segmentation));
        FrameBuf { offload, data }
    }

    #[test]
    fn header_length_by_features() {
        assert_eq!(header_len(VirtioFeatures::empty()), 10);
        assert_eq!(header_len(VirtioFeatures::MRG_RXBUF), 12);
        assert_eq!(header_len(VirtioFeatures::VERSION_1), 12);
        assert_eq!(header_len(ALL), 12);
    }

    #[test]
    fn bytes_are_little_endian_and_come_back() {
        let hdr = NetHdr {
            flags: 1,
            gso_type: 4,
            hdr_len: 0x0203,
            gso_size: 0x0405,
            csum_start: 0x0607,
            csum_offset: 0x0809,
        };
        let bytes = hdr.to_bytes(0x0a0b);
        assert_eq!(bytes, [1, 4, 3, 2, 5, 4, 7, 6, 9, 8, 0x0b, 0x0a]);
        let mut ten = [0; 10];
        ten.copy_from_slice(&bytes[..10]);
        assert_eq!(NetHdr::from_bytes(&ten), hdr);
    }

    #[test]
    fn unknown_flags_and_unset_fields_are_ignored() {
        let hdr = NetHdr {
            flags: 0xfe,
            gso_type: 0,
            hdr_len: 9999,
            gso_size: 7,
            csum_start: 0xffff,
            csum_offset: 0xffff,
        };
        assert_eq!(
            hdr.check(VirtioFeatures::empty(), &[0; 60], 60),
            Ok(Offload::default())
        );
    }

    #[test]
    fn checksum_requests() {
        let hdr = NetHdr {
            flags: 0x81,
            csum_start: 34,
            csum_offset: 16,
            ..NetHdr::default()
        };
        let checksum = PartialChecksum {
            start: 34,
            offset: 16,
        };
        let kept = Offload::new(Some(checksum), None);
        assert_eq!(NetHdr::from(&kept), NetHdr { flags: 1, ..hdr });
        assert_eq!(hdr.check(ALL, &[0; 60], 60), Ok(kept));
        assert_eq!(hdr.check(ALL, &[0; 52], 52), Ok(kept));
        assert_eq!(
            hdr.check(ALL, &[0; 51], 51),
            Err(FrameFault::ChecksumOutside)
        );
        assert_eq!(
            hdr.check(VirtioFeatures::empty(), &[0; 60], 60),
            Err(FrameFault::NotNegotiated)
        );
        let far = NetHdr {
            csum_start: 0xffff,
            csum_offset: 0xffff,
            ..hdr
        };
        assert_eq!(
            far.check(ALL, &[0; 128], 65535),
            Err(FrameFault::ChecksumOutside)
        );
    }

    /// Spoof check, VLANs and filters have been asked by then.
    #[test]
    fn no_checksum_is_completed_in_what_a_frame_is_judged_by() {
        let asks = |data: &[u8], csum_start, csum_offset| {
            let hdr = NetHdr {
                flags: NetHdr::NEEDS_CSUM,
                csum_start,
                csum_offset,
                ..NetHdr::default()
            };
            hdr.check(ALL, &data[..data.len().min(HEAD_MAX)], data.len() as u32)
        };
        let mut udp = vec![0; 100];
        udp[12..15].copy_from_slice(&[8, 0, 0x45]);
        (udp[17], udp[23]) = (86, 17);
        let outside = Err(FrameFault::ChecksumOutside);
        // Source address, EtherType, IP addresses, ports.
        for (start, offset) in [
            (0, 10),
            (0, 12),
            (12, 0),
            (14, 12),
            (34, 0),
            (34, 2),
            (36, 0),
        ] {
            assert_eq!(asks(&udp, start, offset), outside, "{start} + {offset}");
        }
        for (start, offset) in [(34, 6), (34, 16), (42, 16), (0, 40), (50, 0)] {
            assert!(asks(&udp, start, offset).is_ok(), "{start} + {offset}");
        }
        let tagged = [&udp[..12], &[0x81, 0, 0, 5], &udp[12..]].concat();
        assert_eq!(asks(&tagged, 12, 2), outside, "the tag");
        assert_eq!(asks(&tagged, 34, 6), outside, "the ports behind it");
        assert!(asks(&tagged, 38, 6).is_ok());
        // Addresses before extension headers that go on behind what is looked at, and a packet that a byte more makes one.
        let mut extended = vec![0; 200];
        extended[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        (extended[20], extended[54], extended[55]) = (60, 44, 8);
        assert_eq!(asks(&extended, 52, 0), outside, "the destination");
        assert!(asks(&extended, 126, 6).is_ok());
        let mut none = udp.clone();
        none[14] = 0x15;
        assert_eq!(asks(&none, 14, 0), outside, "the version");
    }

    /// Its segments would have ports that it was not judged by.
    #[test]
    fn a_super_frame_that_ends_within_its_headers_is_refused() {
        for (v6, headers) in [(false, 52), (true, 32)] {
            let whole = super_frame(v6, 0, 5000, 1000);
            let at = if v6 { 18 } else { 16 };
            for (stated, holds) in [
                (0, true),
                (headers, true),
                (headers - 1, false),
                (20, false),
                (1, false),
            ] {
                let mut data = whole.data.clone();
                data[at..at + 2].copy_from_slice(&u16::to_be_bytes(stated));
                let checked = NetHdr::from(&whole.offload).check(ALL, &data[..HEAD_MAX], 5066);
                assert_eq!(checked.is_ok(), holds, "{v6} {stated}");
            }
        }
    }

    #[test]
    fn a_super_frame_is_not_cut_into_more_or_shorter_segments_than_any_stack_makes() {
        assert_eq!(cut(66, 0, 5066), Err(FrameFault::BadGso));
        for (size, len, refused) in [
            (7, 80, true),
            (8, 80, false),
            (8, 66 + 8 * 2048, false),
            (8, 66 + 8 * 2048 + 1, true),
            (36, 66 + 65_483, false),
            (32, 65_536, false),
            (31, 65_536, true),
            (u16::MAX, 66, false),
        ] {
            let refusal = cut(66, size, len).err();
            let want = refused.then_some(FrameFault::TooManySegments);
            assert_eq!(refusal, want, "{len} bytes in segments of {size}");
        }
    }

    #[test]
    fn super_frame_requests() {
        for (v6, tags) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
            let frame = super_frame(v6, tags, 5000, 1000);
            let len = frame.data.len() as u32;
            let head = &frame.data[..HEAD_MAX];
            let mut lying = NetHdr::from(&frame.offload);
            lying.hdr_len = 3;
            let checked = lying.check(ALL, head, len).unwrap();
            assert_eq!(checked, frame.offload, "hdr_len is recomputed");
            let meta = checked.gso().unwrap();
            assert_eq!(usize::from(meta.header_len), frame.data.len() - 5000);
            assert_eq!(meta.size, 1000);

            let refuse = |hdr: NetHdr| hdr.check(ALL, head, len).unwrap_err();
            assert_eq!(
                refuse(NetHdr {
                    gso_size: 0,
                    ..lying
                }),
                FrameFault::BadGso
            );
            assert_eq!(refuse(NetHdr { flags: 0, ..lying }), FrameFault::BadGso);
            assert_eq!(
                refuse(NetHdr {
                    csum_start: 30,
                    ..lying
                }),
                FrameFault::BadGso
            );
            assert_eq!(
                refuse(NetHdr {
                    gso_type: 3,
                    ..lying
                }),
                FrameFault::NotNegotiated
            );
            assert_eq!(
                refuse(NetHdr {
                    gso_type: 5,
                    ..lying
                }),
                FrameFault::NotNegotiated
            );
            let other = if v6 {
                NetHdr::GSO_TCPV4
            } else {
                NetHdr::GSO_TCPV6
            };
            assert_eq!(
                refuse(NetHdr {
                    gso_type: other,
                    ..lying
                }),
                FrameFault::BadGsoHeaders
            );
            let csum_only = VirtioFeatures::CSUM;
            assert_eq!(
                lying.check(csum_only, head, len),
                Err(FrameFault::NotNegotiated)
            );
            let ecn = NetHdr {
                gso_type: lying.gso_type | NetHdr::GSO_ECN,
                ..lying
            };
            let asked = ecn.check(ALL, head, len).unwrap();
            assert_eq!(NetHdr::from(&asked).gso_type, ecn.gso_type);
            let no_ecn = ALL - VirtioFeatures::HOST_ECN;
            assert_eq!(ecn.check(no_ecn, head, len), Err(FrameFault::NotNegotiated));
        }
    }

    #[test]
    fn what_a_receiver_accepts() {
        let gso = super_frame(false, 0, 5000, 1000).offload;
        let csum = Offload::new(gso.checksum(), None);
        let g_csum = VirtioFeatures::GUEST_CSUM;
        let g_tso4 = VirtioFeatures::GUEST_TSO4;
        assert!(acceptable(&Offload::default(), VirtioFeatures::empty()));
        assert!(!acceptable(&csum, VirtioFeatures::empty()));
        assert!(acceptable(&csum, g_csum));
        assert!(!acceptable(&gso, g_csum));
        assert!(!acceptable(&gso, g_tso4));
        assert!(!acceptable(&gso, g_csum | VirtioFeatures::GUEST_TSO6));
        assert!(acceptable(&gso, g_csum | g_tso4));
        let segmentation = gso.segmentation().unwrap();
        let ecn = Segmentation {
            ecn: true,
            ..segmentation
        };
        let ecn = Offload::new(gso.checksum(), Some(ecn));
        assert!(!acceptable(&ecn, g_csum | g_tso4));
        assert!(acceptable(
            &ecn,
            g_csum | g_tso4 | VirtioFeatures::GUEST_ECN
        ));
    }

    #[test]
    fn a_super_frame_may_be_behind_any_tag_that_a_plain_frame_may_be_behind() {
        let tpids = [[0x81, 0], [0x88, 0xa8], [0x91, 0]];
        for (outer, inner) in tpids.iter().flat_map(|o| tpids.iter().map(move |i| (o, i))) {
            let mut frame = super_frame(false, 2, 2500, 1000);
            frame.data[12..14].copy_from_slice(outer);
            frame.data[16..18].copy_from_slice(inner);
            let hdr = NetHdr::from(&frame.offload);
            let plain = NetHdr {
                gso_type: NetHdr::GSO_NONE,
                ..hdr
            };
            for hdr in [hdr, plain] {
                let checked = hdr.check(ALL, frame.head(), frame.len());
                assert!(checked.is_ok(), "{outer:x?} {inner:x?} {checked:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_request_is_judged_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..HEAD_MAX),
            flags: u8, gso_type: u8, size: u16, start: u16,
        ) {
            let hdr = NetHdr { flags, gso_type, hdr_len: size, gso_size: size, csum_start: start, csum_offset: 16 };
            let _ = hdr.check(ALL, &bytes, bytes.len() as u32);
        }
    }
}
