//! Super-frames of UDP, cut into their datagrams (Linux's `UDP_SEGMENT`, which QUIC and WireGuard use). No virtio device here is offered them, and a
//! packet socket hands them over as a veth's other end has sent them. Checksums stay partial. Judges nothing.

use vf_packet::checksum::Sum;
use vf_packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, HEADERS_MAX, Header, Offload, PartialChecksum, be16,
};
use vf_vhost::net_hdr::NetHdr;

use crate::queue::{Frame, Pool};

/// `VIRTIO_NET_HDR_GSO_UDP_L4` (virtio 5.1.6).
const GSO_UDP_L4: u8 = 5;
/// Of the UDP header.
const UDP: usize = 8;
/// Datagrams of one frame, as many as Linux puts into one (`UDP_MAX_SEGMENTS`).
const MOST: usize = 128;
const CHECKSUM: u16 = 6;
/// Of the fixed header of IPv6.
const IPV6: usize = 40;

/// Whether a frame with this header is one.
pub(super) fn is_super_frame(hdr: &NetHdr) -> bool {
    hdr.gso_type == GSO_UDP_L4
}

/// Gives each datagram of a frame; `None`, and none of them, if its headers are not as its virtio-net header says, or longer than those
/// of any super-frame may be: each datagram has a copy of them.
pub(super) fn datagrams(
    frame: &[u8],
    hdr: &NetHdr,
    pool: &Pool,
    mut each: impl FnMut(Frame),
) -> Option<()> {
    let udp = usize::from(hdr.csum_start);
    let (headers, payload) = frame.split_at_checked(udp + UDP)?;
    let is_partial = hdr.needs_csum() && hdr.csum_offset == CHECKSUM;
    let pieces = payload.len().checked_div(hdr.gso_size.into())?;
    if !is_partial || payload.is_empty() || pieces > MOST || headers.len() > HEADERS_MAX {
        return None;
    }
    let ethernet = Header::parse(frame).ok()?;
    let ip = usize::from(ethernet.l3_offset);
    let is_v4 = match (ethernet.ethertype, udp.checked_sub(ip)?) {
        (ETHERTYPE_IPV4, 20..=60) => true,
        (ETHERTYPE_IPV6, IPV6..) => false,
        _ => return None,
    };
    let (was, pseudo) = (be16(headers, udp + 4)?, be16(headers, udp + 6)?);
    let id = be16(headers, ip + 4)?;
    // The sum of the pseudo header, but for the length in it.
    let pseudo = Sum::default().with_u16(pseudo).with_u16(!was);
    let offload = Offload::new(
        Some(PartialChecksum {
            start: hdr.csum_start,
            offset: CHECKSUM,
        }),
        None,
    );
    for (n, piece) in (0..).zip(payload.chunks(hdr.gso_size.into())) {
        // The first is the longest.
        let len = u16::try_from(UDP + piece.len()).ok()?;
        let in_ip = u16::try_from(udp - ip).ok()?.checked_add(len)?;
        let mut datagram = pool.take(headers.len() + piece.len());
        datagram.offload = offload;
        let data = &mut datagram.data;
        data.clear();
        data.extend_from_slice(headers);
        data.extend_from_slice(piece);
        put(data, udp + 4, len);
        put(data, udp + 6, pseudo.with_u16(len).folded());
        if is_v4 {
            put(data, ip + 2, in_ip);
            put(data, ip + 4, id.wrapping_add(n));
            put(data, ip + 10, 0);
            let sum = Sum::default().with(&data[ip..udp]).checksum();
            put(data, ip + 10, sum);
        } else {
            put(data, ip + 4, in_ip - IPV6 as u16);
        }
        each(datagram);
    }
    Some(())
}

/// Writes a number into headers that are there.
fn put(data: &mut [u8], at: usize, number: u16) {
    data[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::finish;

    /// A super-frame with so much payload as Linux sends it, behind so many tags.
    fn super_frame(v6: bool, tags: usize, payload: usize) -> (Vec<u8>, NetHdr) {
        let mut data = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for _ in 0..tags {
            data.extend([0x81, 0, 0, 7]);
        }
        let len = (UDP + payload) as u16;
        let (ethertype, ip) = match v6 {
            false => {
                let mut ip = vec![0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 17, 0, 0];
                ip.extend([10, 0, 0, 1, 10, 0, 0, 2]);
                (ETHERTYPE_IPV4, ip)
            }
            true => {
                let mut ip = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
                ip.extend((0..32).map(|n| n * 7));
                (ETHERTYPE_IPV6, ip)
            }
        };
        let addresses = &ip[if v6 { 8 } else { 12 }..];
        let pseudo = Sum::default().with(addresses).with_u16(17).with_u16(len);
        data.extend(ethertype.to_be_bytes());
        data.extend(&ip);
        let hdr = NetHdr {
            flags: 1,
            gso_type: GSO_UDP_L4,
            gso_size: 1000,
            csum_start: data.len() as u16,
            csum_offset: CHECKSUM,
            ..NetHdr::default()
        };
        for number in [4000, 5000, len, pseudo.folded()] {
            data.extend(number.to_be_bytes());
        }
        data.extend((0..payload).map(|n| ((n * n) >> 5) as u8));
        (data, hdr)
    }

    #[test]
    fn datagrams_are_whole_and_hold_what_was_sent() {
        for (v6, tags) in [(false, 0), (false, 1), (true, 0), (true, 2)] {
            let (data, hdr) = super_frame(v6, tags, 2500);
            let (ip, udp) = (14 + 4 * tags, usize::from(hdr.csum_start));
            let mut all = Vec::new();
            datagrams(&data, &hdr, &Pool::new(4), |datagram| all.push(datagram)).unwrap();
            let mut payload = Vec::new();
            for (n, mut datagram) in all.into_iter().enumerate() {
                assert!(finish(&mut datagram));
                let data = &datagram.data;
                let len = data.len() - udp;
                assert_eq!(be16(data, udp + 4).unwrap(), len as u16);
                let addresses = match v6 {
                    true => {
                        assert_eq!(be16(data, ip + 4).unwrap(), len as u16);
                        &data[ip + 8..ip + 40]
                    }
                    false => {
                        assert_eq!(be16(data, ip + 2).unwrap(), 20 + len as u16);
                        assert_eq!(
                            be16(data, ip + 4).unwrap(),
                            0xffff_u16.wrapping_add(n as u16)
                        );
                        assert_eq!(Sum::default().with(&data[ip..udp]).checksum(), 0);
                        &data[ip + 12..ip + 20]
                    }
                };
                let pseudo = Sum::default()
                    .with(addresses)
                    .with_u16(17)
                    .with_u16(len as u16);
                assert_eq!(pseudo.with(&data[udp..]).checksum(), 0, "{v6} {n}");
                payload.push(data[udp + UDP..].to_vec());
            }
            let lens: Vec<_> = payload.iter().map(Vec::len).collect();
            assert_eq!(lens, [1000, 1000, 500]);
            assert_eq!(payload.concat(), data[udp + UDP..]);
        }
    }

    #[test]
    fn headers_that_are_not_as_it_is_said_give_nothing() {
        let (data, hdr) = super_frame(false, 0, 100);
        let none = |data: &[u8], hdr: &NetHdr| {
            let given = datagrams(data, hdr, &Pool::new(1), |_| panic!("a datagram"));
            assert_eq!(given, None);
        };
        for csum_start in [0, 13, 14, 33, 75, 200, u16::MAX] {
            none(&data, &NetHdr { csum_start, ..hdr });
        }
        none(&data, &NetHdr { gso_size: 0, ..hdr });
        none(&data, &NetHdr { flags: 0, ..hdr });
        none(&data[..40], &hdr);
        none(&data[..42], &hdr);
        let (data, hdr) = super_frame(false, 0, 2500);
        none(&data, &NetHdr { gso_size: 1, ..hdr });
    }

    /// Each of 128 datagrams has a copy of the headers: 60 KB of those were 8 MB.
    #[test]
    fn headers_longer_than_any_super_frames_may_be_are_not_copied() {
        let (short, hdr) = super_frame(true, 0, 128);
        for (options, given) in [(0, true), (448, true), (456, false), (60_000, false)] {
            let mut data = short.clone();
            let udp = usize::from(hdr.csum_start);
            data.splice(udp..udp, std::iter::repeat_n(0, options));
            let hdr = NetHdr {
                csum_start: (udp + options) as u16,
                gso_size: 1,
                ..hdr
            };
            let mut copied = 0;
            let whole = datagrams(&data, &hdr, &Pool::new(4), |datagram| {
                copied += datagram.data.len();
            });
            assert_eq!(whole.is_some(), given, "{options}");
            assert_eq!(copied > 0, given, "{options}");
        }
    }
}
