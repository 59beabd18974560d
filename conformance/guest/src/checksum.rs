//! The Internet checksum over the little a driver with checksum offload still has to do itself:
//! the pseudo-header of what it sends, and frames nobody has vouched for. Reads untagged TCP
//! over IPv4 and nothing else.

/// Ones'-complement sum of `data` as big-endian words, folded to 16 bits, not complemented.
pub fn sum(data: &[u8]) -> u16 {
    let mut total = 0u64;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut tail = [0; 4];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    total += u64::from(u32::from_be_bytes(tail));
    fold(total)
}

/// Folds carries until the sum fits 16 bits.
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// Where the TCP segment of an untagged IPv4 frame lies, or `None` if it is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFrame {
    /// Offset of the TCP header in the frame.
    pub l4: usize,
    /// Length of TCP header and payload by the IP header.
    pub l4_len: usize,
    /// Offset of the payload in the frame.
    pub payload: usize,
    /// Pseudo-header sum, not complemented.
    pub pseudo: u16,
}

impl TcpFrame {
    /// Finds the segment; refuses fragments and lengths that do not fit the frame.
    pub fn parse(frame: &[u8]) -> Option<TcpFrame> {
        let ip = frame.get(14..)?;
        if frame[12..14] != [8, 0] || ip.len() < 20 || ip[0] >> 4 != 4 || ip[9] != 6 {
            return None;
        }
        let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff;
        let ihl = usize::from(ip[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        if fragment != 0 || ihl < 20 || total < ihl + 20 || total > ip.len() {
            return None;
        }
        let l4_len = total - ihl;
        let tcp = &ip[ihl..total];
        let doff = usize::from(tcp[12] >> 4) * 4;
        if doff < 20 || doff > l4_len {
            return None;
        }
        let pseudo = fold(u64::from(sum(&ip[12..20])) + 6 + l4_len as u64);
        Some(TcpFrame {
            l4: 14 + ihl,
            l4_len,
            payload: 14 + ihl + doff,
            pseudo,
        })
    }

    /// Whether the segment's checksum is right.
    pub fn verify(&self, frame: &[u8]) -> bool {
        let tcp = &frame[self.l4..self.l4 + self.l4_len];
        fold(u64::from(self.pseudo) + u64::from(sum(tcp))) == 0xffff
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A TCP/IPv4 frame with a right checksum.
    pub(crate) fn tcp_frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 54 + payload.len()];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&((40 + payload.len()) as u16).to_be_bytes());
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[46] = 0x50;
        frame[54..].copy_from_slice(payload);
        let tcp = TcpFrame::parse(&frame).unwrap();
        let check = !fold(u64::from(tcp.pseudo) + u64::from(sum(&frame[34..])));
        frame[50..52].copy_from_slice(&check.to_be_bytes());
        frame
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            0xddf2
        );
        assert_eq!(sum(&[0xff, 0xff, 0x01]), 0x0100);
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let good = tcp_frame(b"some payload of odd length");
        assert!(TcpFrame::parse(&good).unwrap().verify(&good));
        for bit in 26 * 8..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = TcpFrame::parse(&bad).is_none_or(|tcp| !tcp.verify(&bad));
            assert!(found, "bit {bit}");
        }
    }
}
