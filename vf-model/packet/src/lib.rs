//! What there is to read, and to make right, in a packet: the one vocabulary of the NIC model and of the device side of
//! vhost-user, so that neither takes a frame for something that the other does not. Below both, and knows neither.
//!
//! Works on bytes in private memory. Never panics, whatever they are; never judges.
#![forbid(unsafe_code)]

pub mod checksum;
mod ethernet;
mod flow;
mod ip;
mod judged;
mod mac;
mod offload;
pub mod rarp;
mod segment;
mod tcp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod transport;
mod vlan;
mod wire;

pub use ethernet::{FrameError, Header, MAX_FRAME, Tags};
pub use flow::{FlowKey, HEAD_LEN, PlainIpv4};
pub use ip::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, IpHeader, PROTO_SCTP, PROTO_TCP, PROTO_UDP};
pub use judged::judged_len;
pub use mac::{AddrError, MacAddr, on_a_line};
pub use offload::{Offload, PartialChecksum, Segmentation};
pub use segment::Segmenter;
pub use tcp::{LayoutError, TcpLayout};
pub use transport::{FoundChecksum, partial_checksum, put_pseudo_header};
pub use vlan::{Vid, Vlan, VlanProto, VlanTag, is_vlan_tpid};
pub use wire::{FrameMeta, Gso, MIN_FRAME, OnWire, wire_bytes};

/// Bytes of a frame that are copied out before it is judged: the most that a decision on it may look at.
pub const HEAD_MAX: usize = 128;

/// Bytes that the headers of a super-frame may have, from Ethernet's to TCP's: who cuts one must know where they end. Enough for
/// two tags, a segment list (RFC 8754) of twenty addresses and all of TCP's options.
pub const HEADERS_MAX: usize = 512;

/// The same of a super-frame on its way, where a port VLAN's tag may have been put in front.
pub const TAGGED_HEADERS_MAX: usize = HEADERS_MAX + 4;

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
    fn sixteen_bits_at_the_end_and_behind_it() {
        assert_eq!(be16(&[1, 2, 3], 1), Some(0x0203));
        for at in [2, 3, usize::MAX] {
            assert_eq!(be16(&[1, 2, 3], at), None);
        }
    }
}
