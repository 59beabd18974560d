//! What the descriptors of a hardware NIC ask to be done to a frame, and the doing of it: a tag and the header checksums are put in,
//! and what is left becomes an [`Offload`] as a virtio-net header would.
//!
//! Works on a private copy of a frame's headers; never touches guest memory, and knows no family's descriptors.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of headers and frames"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

use vf_packet::checksum::Sum;
use vf_packet::{
    FoundChecksum, Header, IpHeader, LayoutError, Offload, PROTO_TCP, PartialChecksum,
    Segmentation, TcpLayout, judged_len, partial_checksum, put_pseudo_header,
};

use super::Transport;
use crate::error::FrameFault;
use crate::net_hdr::cut;

/// What is asked for one frame. By default nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TxRequest {
    /// Control information of an 802.1Q tag that is put in front of the EtherType.
    pub vlan: Option<u16>,
    /// The checksum of the IPv4 header.
    pub ip_checksum: bool,
    /// The checksum of what is in the packet.
    pub checksum: Checksum,
    /// Payload bytes of a segment, if the frame is to be cut.
    pub segment: Option<u16>,
    /// Where its driver says that the headers are; else the NIC looks for itself.
    pub headers: Option<Headers>,
}

/// Who sums up what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Checksum {
    /// There is nothing to do.
    #[default]
    None,
    /// That of such a header, in whose field the sum of the pseudo-header is.
    Of(Transport),
    /// That of whatever TCP or UDP packet it is, its pseudo-header included. Nothing of any other frame.
    Any,
}

/// Lengths of headers, an inserted tag not among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Headers {
    /// Ethernet's and its tags'.
    pub link: u16,
    /// IP's.
    pub network: u16,
    /// TCP's, if the frame is to be cut.
    pub transport: u16,
}

const TAG: usize = 4;

/// What is left to be done to a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// By whoever gives it to its receivers.
    pub(crate) offload: Offload,
    /// At once, for it takes bytes that are not in the headers.
    pub(crate) sum_up: Option<SumUp>,
}

/// A checksum that is made at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SumUp {
    /// The CRC32c (RFC 9260 6.8) of the SCTP packet that begins there.
    Sctp(usize),
    /// That of a packet which ends there: the frame goes on behind it, and a partial checksum is of all that is in a frame.
    Packet(PartialChecksum, usize),
}

impl From<Offload> for Left {
    fn from(offload: Offload) -> Left {
        Left {
            offload,
            sum_up: None,
        }
    }
}

impl TxRequest {
    /// Whether nothing is asked.
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        *self == TxRequest::default()
    }

    /// The tag to put in front of the EtherType.
    pub(crate) fn tag(&self) -> Option<[u8; TAG]> {
        let [high, low] = self.vlan?.to_be_bytes();
        Some([0x81, 0, high, low])
    }

    /// Does to the headers of a frame of `len` bytes, its tag put in, what the NIC does at once, and says what is left to do.
    ///
    /// # Errors
    /// The frame is not what its driver says. [`FrameFault::HeadersTooLong`]: its headers go on behind `headers`.
    pub(crate) fn apply(&self, headers: &mut [u8], len: u32) -> Result<Left, FrameFault> {
        if let Some(size) = self.segment {
            return self.apply_segmentation(headers, len, size).map(Left::from);
        }
        if self.ip_checksum {
            self.sum_up_ip_header(headers)?;
        }
        let found = match self.checksum {
            Checksum::None => return Ok(Left::default()),
            Checksum::Of(Transport::Sctp) => {
                return Ok(Left {
                    offload: Offload::default(),
                    sum_up: self.given().map(|(_, start)| SumUp::Sctp(start)),
                });
            }
            Checksum::Of(transport) => FoundChecksum {
                partial: self.given_checksum(transport)?,
                end: None,
            },
            Checksum::Any => match partial_checksum(headers, len) {
                Ok(None) => return Ok(Left::default()),
                Ok(Some(found)) => found,
                Err(_) => return Err(FrameFault::ChecksumOutside),
            },
        };
        let PartialChecksum { start, offset } = found.partial;
        let field = u32::from(start) + u32::from(offset);
        // Nor where it is judged by.
        if field + 2 > len || (field as usize) < judged_len(headers) {
            return Err(FrameFault::ChecksumOutside);
        }
        Ok(match found.end {
            None => Offload::new(Some(found.partial), None).into(),
            Some(end) => Left {
                offload: Offload::default(),
                sum_up: Some(SumUp::Packet(found.partial, end)),
            },
        })
    }

    /// Where the IP header is, and what is behind it, as the driver says.
    fn given(&self) -> Option<(usize, usize)> {
        let headers = self.headers?;
        let tag = if self.vlan.is_some() { TAG } else { 0 };
        let ip = usize::from(headers.link) + tag;
        Some((ip, ip + usize::from(headers.network)))
    }

    fn sum_up_ip_header(&self, headers: &mut [u8]) -> Result<(), FrameFault> {
        let outside = FrameFault::ChecksumOutside;
        let (ip, end) = match self.given() {
            Some(given) => given,
            None => {
                let Some((ip, header)) = find_ip(headers).filter(|(_, header)| !header.v6) else {
                    return Ok(());
                };
                (ip, ip + header.transport)
            }
        };
        let header = headers.get_mut(ip..end).filter(|header| header.len() >= 20);
        put_ip_checksum(header.ok_or(outside)?);
        Ok(())
    }

    fn given_checksum(&self, transport: Transport) -> Result<PartialChecksum, FrameFault> {
        let offset = field_of(transport).ok_or(FrameFault::NotNegotiated)?;
        let (_, start) = self.given().ok_or(FrameFault::ChecksumOutside)?;
        let start = u16::try_from(start).map_err(|_| FrameFault::ChecksumOutside)?;
        Ok(PartialChecksum { start, offset })
    }

    /// The super-frame's headers are found anew and made those of one long packet, which drivers leave to the NIC.
    fn apply_segmentation(
        &self,
        headers: &mut [u8],
        len: u32,
        size: u16,
    ) -> Result<Offload, FrameFault> {
        let layout = TcpLayout::parse(headers).map_err(|error| match error {
            LayoutError::Beyond if headers.len() < len as usize => FrameFault::HeadersTooLong,
            _ => FrameFault::BadGsoHeaders,
        })?;
        let TcpLayout {
            v6,
            ip,
            dst,
            tcp,
            payload,
        } = layout;
        let as_given = self.given().is_none_or(|given| given == (ip, tcp));
        let tcp_len = self.headers.map(|headers| usize::from(headers.transport));
        if !as_given || tcp_len.is_some_and(|given| given != payload - tcp) {
            return Err(FrameFault::BadGso);
        }
        let ip_len = len as usize - ip - if v6 { 40 } else { 0 };
        let ip_len = u16::try_from(ip_len).map_err(|_| FrameFault::Oversize)?;
        let gso = cut(payload, size, len)?;
        let at = if v6 { ip + 4 } else { ip + 2 };
        headers[at..at + 2].copy_from_slice(&ip_len.to_be_bytes());
        if !v6 {
            put_ip_checksum(&mut headers[ip..tcp]);
        }
        // Not longer than the packet.
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        let length = (len as usize - tcp) as u16;
        put_pseudo_header(headers, v6, ip, dst, PROTO_TCP, length, tcp + 16);
        let ecn = headers[tcp + 13] & TcpLayout::CWR != 0;
        #[expect(clippy::cast_possible_truncation, reason = "headers are short")]
        let start = tcp as u16;
        let checksum = PartialChecksum { start, offset: 16 };
        let segmentation = Segmentation { v6, ecn, gso };
        Ok(Offload::new(Some(checksum), Some(segmentation)))
    }
}

/// Where the checksum is in a header.
fn field_of(transport: Transport) -> Option<u16> {
    match transport {
        Transport::Tcp => Some(16),
        Transport::Udp => Some(6),
        Transport::Sctp | Transport::Other => None,
    }
}

fn find_ip(headers: &[u8]) -> Option<(usize, IpHeader)> {
    let link = Header::parse(headers).ok()?;
    let at = usize::from(link.l3_offset);
    Some((at, IpHeader::parse(link.ethertype, headers.get(at..)?)?))
}

/// Sums up an IPv4 header of at least 20 bytes.
fn put_ip_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = Sum::default().with(header).checksum();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vf_packet::testing::{routed_super_frame, super_frame, verify};
    use vf_packet::{Segmenter, checksum};

    use super::*;

    /// As Intel's drivers leave a super-frame to their NIC: lengths of zero, a pseudo-header without the length.
    fn left(mut frame: Vec<u8>) -> (Vec<u8>, Headers) {
        let TcpLayout {
            v6,
            ip,
            tcp,
            payload,
            ..
        } = TcpLayout::parse(&frame).unwrap();
        let at = if v6 { ip + 4 } else { ip + 2 };
        frame[at..at + 2].fill(0);
        frame[tcp + 16..tcp + 18].fill(0x5a);
        let headers = Headers {
            link: ip as u16,
            network: (tcp - ip) as u16,
            transport: (payload - tcp) as u16,
        };
        (frame, headers)
    }

    fn cut(headers: Option<Headers>, size: u16) -> TxRequest {
        TxRequest {
            segment: Some(size),
            headers,
            ..TxRequest::default()
        }
    }

    #[test]
    fn a_super_frame_becomes_what_a_virtio_driver_would_give() {
        for (v6, tags) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
            let whole = super_frame(v6, tags, 5000);
            let (mut frame, headers) = left(whole.clone());
            let len = frame.len() as u32;
            for headers in [Some(headers), None] {
                let left = cut(headers, 1000).apply(&mut frame[..128], len).unwrap();
                let offload = left.offload;
                let mut expected = whole.clone();
                if !v6 {
                    let ip = 14 + 4 * tags;
                    put_ip_checksum(&mut expected[ip..ip + 20]);
                }
                assert_eq!(frame, expected);
                assert_eq!(offload.gso().unwrap().size, 1000);
                assert!(offload.segmentation().unwrap().ecn, "CWR is set");
                let mut segments = Segmenter::new(&frame, 1000).unwrap();
                while let Some((header, payload)) = segments.next_segment() {
                    let _ = verify(&[header, payload].concat());
                }
            }
        }
    }

    #[test]
    fn headers_that_go_on_are_asked_for_and_wrong_ones_refused() {
        let routed = routed_super_frame(5, 3000);
        let len = routed.len() as u32;
        let mut headers = routed[..512].to_vec();
        let request = cut(None, 1000);
        let short = request.apply(&mut headers[..128], len);
        assert_eq!(short, Err(FrameFault::HeadersTooLong));
        assert!(request.apply(&mut headers, len).is_ok());

        let (frame, headers) = left(super_frame(false, 0, 3000));
        let len = frame.len() as u32;
        let refuse = |request: TxRequest, len| {
            let mut head = frame[..128].to_vec();
            request.apply(&mut head, len).unwrap_err()
        };
        let off = |link, network, transport| {
            let headers = Headers {
                link: headers.link + link,
                network: headers.network + network,
                transport: headers.transport + transport,
            };
            cut(Some(headers), 1000)
        };
        for wrong in [off(1, 0, 0), off(0, 4, 0), off(0, 0, 4), off(4, 65000, 0)] {
            assert_eq!(refuse(wrong, len), FrameFault::BadGso);
        }
        assert_eq!(refuse(cut(Some(headers), 0), len), FrameFault::BadGso);
        assert_eq!(refuse(cut(None, 9), 65_600), FrameFault::Oversize);
        let tagged = TxRequest {
            vlan: Some(5),
            ..cut(Some(headers), 1000)
        };
        assert_eq!(refuse(tagged, len), FrameFault::BadGso, "not put in");
    }

    /// What is behind the headers in front is not looked at, whether the driver says where it is (Intel's) or not (Solarflare's).
    #[test]
    fn a_super_frame_in_a_tunnel_or_behind_mpls_is_refused() {
        let inner = super_frame(false, 0, 3000);
        let (link, packet) = inner.split_at(14);
        let ipv4 = |protocol| {
            [
                0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2,
            ]
        };
        let ipv6 = [&[0x60, 0, 0, 0, 0, 0, 41, 64][..], &[0xfd; 32]].concat();
        let (ip4, ip6, mpls) = ([8, 0], [0x86, 0xdd], [0x88, 0x47]);
        let vxlan = [0x12, 0x34, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 7, 0];
        let wrapped = [
            ("MPLS", mpls, vec![0, 1, 1, 64], packet),
            ("IP in IP", ip4, ipv4(4).to_vec(), packet),
            ("IPv4 in IPv6", ip6, ipv6, packet),
            ("GRE", ip4, [&ipv4(47)[..], &[0, 0, 8, 0]].concat(), packet),
            ("VXLAN", ip4, [&ipv4(17)[..], &vxlan].concat(), &inner[..]),
        ];
        for (name, ethertype, outer, rest) in wrapped {
            let frame = [&link[..12], &ethertype, &outer, rest].concat();
            let tcp = frame.len() - 3000 - 32;
            // Of labels the link's header is longer, of tunnels IP's.
            let link = if name == "MPLS" { 18 } else { 14 };
            let said = Headers {
                link,
                network: tcp as u16 - link,
                transport: 32,
            };
            for headers in [Some(said), None] {
                let mut head = frame[..128].to_vec();
                let refused = cut(headers, 1000).apply(&mut head, frame.len() as u32);
                assert_eq!(refused, Err(FrameFault::BadGsoHeaders), "{name}");
            }
        }
    }

    #[test]
    fn checksums_are_of_what_the_driver_says_or_of_what_is_there() {
        let mut frame = super_frame(false, 0, 1000);
        let len = frame.len() as u32;
        let headers = Headers {
            link: 14,
            network: 20,
            transport: 0,
        };
        let given = TxRequest {
            ip_checksum: true,
            checksum: Checksum::Of(Transport::Tcp),
            headers: Some(headers),
            ..TxRequest::default()
        };
        let found = TxRequest {
            ip_checksum: true,
            checksum: Checksum::Any,
            ..TxRequest::default()
        };
        for request in [given, found] {
            let left = request.apply(&mut frame[..128], len).unwrap();
            assert_eq!(left.sum_up, None);
            let partial = left.offload.checksum().unwrap();
            assert_eq!((partial.start, partial.offset), (34, 16));
            let mut whole = frame.clone();
            checksum::complete(&mut whole, 34, 16).unwrap();
            let _ = verify(&whole);
        }
        // A NIC that sums up the pseudo-header itself does not care what is there.
        frame[50..52].fill(0x77);
        found.apply(&mut frame[..128], len).unwrap();
        checksum::complete(&mut frame, 34, 16).unwrap();
        let _ = verify(&frame);

        let refuse = |request: TxRequest, len| request.apply(&mut frame.clone()[..60], len);
        let outside = Err(FrameFault::ChecksumOutside);
        assert_eq!(refuse(given, 51), outside);
        assert_eq!(refuse(found, 51), outside);
        let far = Headers {
            link: 60,
            ..headers
        };
        let far = TxRequest {
            headers: Some(far),
            ..given
        };
        assert_eq!(refuse(far, len), outside);
        let sctp = TxRequest {
            checksum: Checksum::Of(Transport::Other),
            ..given
        };
        assert_eq!(refuse(sctp, len), Err(FrameFault::NotNegotiated));
        let arp = [0xff; 60];
        assert_eq!(found.apply(&mut arp.clone(), 60), Ok(Left::default()));
    }

    #[test]
    fn padding_is_not_of_the_packet_that_a_checksum_is_of() {
        for v6 in [false, true] {
            let whole = super_frame(v6, 0, 5);
            let mut padded = whole.clone();
            padded.resize(whole.len() + 20, 0);
            let field = TcpLayout::parse(&whole).unwrap().tcp + 16;
            padded[field..field + 2].fill(0x77);
            let len = padded.len() as u32;
            let found = TxRequest {
                ip_checksum: !v6,
                checksum: Checksum::Any,
                ..TxRequest::default()
            };
            let left = found.apply(&mut padded, len).unwrap();
            let partial = left.offload.checksum().unwrap();
            checksum::complete(&mut padded, partial.start, partial.offset).unwrap();
            let _ = verify(&padded[..whole.len()]);
        }
    }

    proptest! {
        #[test]
        fn any_request_is_judged_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 14..200),
            kind in 0usize..4,
            ip_checksum: bool,
            vlan: Option<u16>,
            segment: Option<u16>,
            headers: Option<(u16, u16, u16)>,
            checksum in prop::sample::select(vec![
                Checksum::None, Checksum::Any, Checksum::Of(Transport::Tcp), Checksum::Of(Transport::Udp),
            ]),
            more in 0u32..70_000,
        ) {
            if bytes.len() > 15 {
                bytes[12..16].copy_from_slice(&[[8, 0, 0x45, 0], [0x86, 0xdd, 0x60, 0], [0x81, 0, 0, 1], [0x88, 0xa8, 0, 1]][kind]);
            }
            let headers = headers.map(|(link, network, transport)| Headers { link, network, transport });
            let request = TxRequest { vlan, ip_checksum, checksum, segment, headers };
            let len = bytes.len() as u32 + more;
            let Ok(left) = request.apply(&mut bytes, len) else { return Ok(()) };
            if let Some(PartialChecksum { start, offset }) = left.offload.checksum() {
                prop_assert!(u32::from(start) + u32::from(offset) + 2 <= len);
            }
            if let Some(SumUp::Packet(PartialChecksum { start, offset }, end)) = left.sum_up {
                let field = usize::from(start) + usize::from(offset);
                prop_assert!(field + 2 <= end.min(bytes.len()) && end < len as usize);
            }
        }
    }
}
