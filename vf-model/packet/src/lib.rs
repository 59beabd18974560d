//! What there is to read, and to make right, in a packet: the one vocabulary of the NIC model and of the device side of
//! vhost-user, so that neither takes a frame for something that the other does not. Below both, and knows neither.
//!
//! Works on bytes in private memory. Never panics, whatever they are; never judges.
#![forbid(unsafe_code)]

pub mod checksum;
mod ip;
mod segment;
mod tcp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use ip::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IpHeader, PROTO_TCP, PROTO_UDP};
pub use segment::{Gso, Segmenter};
pub use tcp::TcpLayout;

/// Bytes of a frame that are copied out before it is judged: the most header bytes that anything may look at.
pub const HEAD_MAX: usize = 128;

/// Whether an EtherType is the type of a VLAN tag (TPID): a customer's (IEEE 802.1Q 9.5: 0x8100), a provider's (0x88a8), or
/// that which switches used for the outer of two before the provider's was standardised (0x9100).
#[inline]
#[must_use]
pub const fn is_vlan_tpid(ethertype: u16) -> bool {
    matches!(ethertype, 0x8100 | 0x88a8 | 0x9100)
}

/// The 16 bits at `at`, in network byte order; `None` if they are not all there.
#[inline]
#[must_use]
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_types_of_vlan_tags() {
        let tags: Vec<u16> = (0..=u16::MAX).filter(|&t| is_vlan_tpid(t)).collect();
        assert_eq!(tags, [0x8100, 0x88a8, 0x9100]);
    }

    #[test]
    fn sixteen_bits_at_the_end_and_behind_it() {
        assert_eq!(be16(&[1, 2, 3], 1), Some(0x0203));
        for at in [2, 3, usize::MAX] {
            assert_eq!(be16(&[1, 2, 3], at), None);
        }
    }
}
