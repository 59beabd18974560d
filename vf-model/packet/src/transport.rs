//! The checksum of a TCP or UDP packet whose sender has not said where it is, or has made none. Completes none: see [`checksum`](crate::checksum).

use crate::checksum::{FieldOutside, Sum};
use crate::{Header, IpHeader, PROTO_TCP, PROTO_UDP, PartialChecksum};

/// A checksum that was found by [`partial_checksum`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundChecksum {
    /// Where it is.
    pub partial: PartialChecksum,
    /// Where its packet ends, if what is behind that in the frame has to be left out by whoever makes the sum.
    pub end: Option<usize>,
}

/// Makes the checksum of a TCP or UDP packet a partial one, in a frame of `len` bytes that begins with `headers`: says where it is, and sums its
/// pseudo-header up there. If `headers` are all of the frame, padding behind the packet becomes zeros, which count for nothing where the sum is made
/// of all that is in the frame. None if the frame is no such packet, or a part of one.
///
/// # Errors
/// [`FieldOutside`], and nothing is changed, if the packet ends before its checksum.
pub fn partial_checksum(
    headers: &mut [u8],
    len: u32,
) -> Result<Option<FoundChecksum>, FieldOutside> {
    let Ok(link) = Header::parse(headers) else {
        return Ok(None);
    };
    let ip = usize::from(link.l3_offset);
    let packet = headers.get(ip..).unwrap_or_default();
    let header = IpHeader::parse(link.ethertype, packet);
    let Some(header) = header.filter(|header| !header.fragment) else {
        return Ok(None);
    };
    let offset = match header.protocol {
        PROTO_TCP => 16,
        PROTO_UDP => 6,
        _ => return Ok(None),
    };
    let (start, Some(dst)) = (ip + header.transport, header.final_dst) else {
        return Ok(None);
    };
    let field = start + usize::from(offset);
    // A frame may have been padded to the least length, with whatever bytes.
    let stated = header.end.map(|end| ip + end);
    let end = stated.filter(|end| (start..len as usize).contains(end));
    let Some(length) = end.unwrap_or(len as usize).checked_sub(start) else {
        return Err(FieldOutside);
    };
    let addresses = ip + if header.v6 { dst + 16 } else { 20 };
    let inside = field + 2 <= headers.len() && addresses <= headers.len();
    let (Ok(length), true, Ok(at)) = (u16::try_from(length), inside, u16::try_from(start)) else {
        return Err(FieldOutside);
    };
    let goes_on = headers.len() < len as usize;
    let behind = end.filter(|end| goes_on && *end >= field + 2);
    if behind.is_none()
        && let Some(padding) = end.and_then(|end| headers.get_mut(end..))
    {
        padding.fill(0);
    }
    put_pseudo_header(
        headers,
        header.v6,
        ip,
        ip + dst,
        header.protocol,
        length,
        field,
    );
    Ok(Some(FoundChecksum {
        partial: PartialChecksum { start: at, offset },
        end: behind,
    }))
}

/// Puts the sum of a pseudo-header into the field at `field`; `ip` is where the IP header is, `dst` the destination.
///
/// # Panics
/// One of them lies outside of `headers`.
pub fn put_pseudo_header(
    headers: &mut [u8],
    v6: bool,
    ip: usize,
    dst: usize,
    protocol: u8,
    length: u16,
    field: usize,
) {
    let addresses = match v6 {
        true => Sum::default()
            .with(&headers[ip + 8..ip + 24])
            .with(&headers[dst..dst + 16]),
        false => Sum::default().with(&headers[ip + 12..ip + 20]),
    };
    let sum = addresses.with_u16(protocol.into()).with_u16(length);
    headers[field..field + 2].copy_from_slice(&sum.folded().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TcpLayout;
    use crate::checksum::complete;
    use crate::testing::super_frame;

    #[test]
    fn a_checksum_that_is_found_can_be_completed() {
        for (v6, tags) in [(false, 0), (true, 0), (false, 1), (true, 2)] {
            let mut frame = super_frame(v6, tags, 1000);
            let tcp = TcpLayout::parse(&frame).unwrap().tcp;
            // Its own is partial, too.
            let mut expected = frame.clone();
            complete(&mut expected, tcp as u16, 16).unwrap();
            frame[tcp + 16..tcp + 18].fill(0x5a);
            let len = frame.len() as u32;
            let found = partial_checksum(&mut frame, len).unwrap().unwrap();
            assert_eq!(found.end, None);
            let PartialChecksum { start, offset } = found.partial;
            complete(&mut frame, start, offset).unwrap();
            assert_eq!(frame, expected, "v6 {v6}, {tags} tags");
        }
        assert_eq!(partial_checksum(&mut [0; 60], 60), Ok(None));
    }

    #[test]
    fn padding_is_not_summed_up_whatever_its_bytes() {
        for payload in [3, 4] {
            let whole = super_frame(false, 0, payload);
            let mut frame = [&whole[..], &[0xaa; 9]].concat();
            let len = frame.len() as u32;
            let found = partial_checksum(&mut frame, len).unwrap().unwrap();
            assert_eq!(found.end, None);
            let PartialChecksum { start, offset } = found.partial;
            complete(&mut frame, start, offset).unwrap();
            let mut expected = whole;
            complete(&mut expected, start, offset).unwrap();
            assert_eq!(frame, [&expected[..], &[0; 9]].concat());
        }
    }

    #[test]
    fn where_a_packet_ends_is_said_if_more_follows_than_is_in_hand() {
        let packet = super_frame(false, 0, 40);
        let end = packet.len();
        for (trailer, in_hand, said) in [
            (0, end, None),
            (0, 100, None),
            (9, end + 9, None),
            (9, end, Some(end)),
            (9, 100, Some(end)),
            (200, end + 100, Some(end)),
        ] {
            let frame = [&packet[..], &vec![0xaa; trailer]].concat();
            let mut headers = frame[..in_hand].to_vec();
            let found = partial_checksum(&mut headers, frame.len() as u32);
            assert_eq!(found.unwrap().unwrap().end, said, "{trailer} {in_hand}");
        }
    }
}
