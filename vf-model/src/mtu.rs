//! The MTU of a VF or of a NIC's port: how long a frame may be, its Ethernet header and VLAN tags not counted. Knows no VF and
//! judges nothing.

use std::fmt;

use vf_packet::FrameMeta;

/// Addresses and type.
const ETHERNET_HEADER: u32 = 14;
/// A VLAN tag.
pub(crate) const TAG: u32 = 4;

/// An MTU, in bytes of an Ethernet frame's payload (RFC 894).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Mtu(u16);

/// A number of bytes that is no MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mtu {0}: an MTU is 68 to 9216 bytes")]
pub struct MtuError(pub u32);

/// The values of the key `mtu`, as a refusal names them.
pub(crate) const MTU_VALUES: &str = "68 to 9216 bytes";

impl Mtu {
    /// What IPv4 needs at least (RFC 791).
    const MIN: u32 = 68;
    /// The most that the NIC can do. Whoever has this one takes every frame that a NIC takes, whatever its tags.
    pub const MAX: Mtu = Mtu(9216);
    /// What guests are told where nobody has set one.
    pub const ETHERNET: Mtu = Mtu(1500);

    /// An MTU of so many bytes.
    ///
    /// # Errors
    /// [`MtuError`] if it is below 68 or above 9216.
    pub fn new(bytes: u32) -> Result<Mtu, MtuError> {
        let within = (Mtu::MIN..=u32::from(Mtu::MAX.0)).contains(&bytes);
        let mtu = u16::try_from(bytes).ok().filter(|_| within);
        mtu.map(Mtu).ok_or(MtuError(bytes))
    }

    /// In bytes.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// Length of the longest frame with so many VLAN tags.
    #[inline]
    pub(crate) fn longest(self, tags: usize) -> u32 {
        match self {
            Mtu::MAX => u32::MAX,
            Mtu(mtu) => u32::from(mtu) + ETHERNET_HEADER + TAG * tags as u32,
        }
    }

    /// Whether a frame with so many VLAN tags, or a segment of a super-frame, is too long for it.
    #[inline]
    pub(crate) fn is_exceeded(self, tags: usize, meta: &FrameMeta) -> bool {
        meta.longest() > self.longest(tags)
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vf_packet::Gso;

    #[test]
    fn what_an_mtu_lets_pass() {
        for wrong in [0, 67, 9217, 65_535, u32::MAX] {
            assert_eq!(Mtu::new(wrong), Err(MtuError(wrong)));
        }
        let mtu = Mtu::new(1500).unwrap();
        let plain = |len| FrameMeta { len, gso: None };
        for (tags, len) in [(0, 1514), (1, 1518), (2, 1522)] {
            assert!(!mtu.is_exceeded(tags, &plain(len)));
            assert!(mtu.is_exceeded(tags, &plain(len + 1)));
        }
        // Of a super-frame the segments count.
        let cut = |size| FrameMeta {
            len: 60_000,
            gso: Some(Gso {
                header_len: 66,
                size,
            }),
        };
        assert!(!mtu.is_exceeded(0, &cut(1448)) && mtu.is_exceeded(0, &cut(1449)));
        assert!(!Mtu::MAX.is_exceeded(0, &plain(vf_packet::MAX_FRAME + 4)));
    }
}
