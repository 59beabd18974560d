//! Link-layer addresses: MAC addresses, VLAN ids and VLAN tags. Never looks at a frame.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::words::ParseError;

/// Why an address or a VLAN cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// A group address, or zero.
    #[error(
        "mac {0}: a VF's address is a unicast address other than zero; group addresses are received without a filter"
    )]
    NotUnicast(MacAddr),
    /// A unicast address where a group's belongs.
    #[error("mac {0}: a group address was expected")]
    NotMulticast(MacAddr),
    /// A VLAN id out of range.
    #[error("vlan {0}: VLANs are 1 to 4094")]
    Vlan(u16),
}

/// A MAC address in the order of the wire; a string like `02:00:00:00:00:01` in text.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// The destination of a frame, from its first bytes; zero if there are fewer than six.
    #[must_use]
    #[inline]
    pub fn of_frame(head: &[u8]) -> MacAddr {
        head.first_chunk()
            .copied()
            .map_or_else(MacAddr::default, MacAddr)
    }

    /// Whether this is a group address; broadcast is one.
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether this is the broadcast address.
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == MacAddr::BROADCAST
    }

    /// Whether an interface can have this address: neither a group address nor zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }

    /// Whether bridges keep frames to this address to themselves: 01:80:c2:00:00:00 to 0f (IEEE 802.1D 7.12.6).
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] < 0x10
    }

    /// The `n`th address after this one; the last three bytes wrap around.
    #[must_use]
    pub fn offset(self, n: u32) -> MacAddr {
        let [a, b, c, d, e, f] = self.0;
        let [_, d, e, f] = u32::from_be_bytes([0, d, e, f])
            .wrapping_add(n)
            .to_be_bytes();
        MacAddr([a, b, c, d, e, f])
    }

    #[inline]
    pub(crate) fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        let (high, low) = ([a, b, c, d], [e, f]);
        u64::from(u32::from_be_bytes(high)) << 16 | u64::from(u16::from_be_bytes(low))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<MacAddr, ParseError> {
        let wrong = || ParseError::word("mac", text, "six bytes such as 02:00:00:00:00:01");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(wrong)?;
            if !(1..=2).contains(&part.len()) || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(MacAddr(bytes)),
            Some(_) => Err(wrong()),
        }
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseError;
    fn try_from(text: String) -> Result<MacAddr, ParseError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

/// A VLAN id that traffic can be put into: 1 to 4094.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Vid(u16);

impl Vid {
    /// # Errors
    /// [`AddrError::Vlan`] unless `vid` is 1 to 4094: 0 means no VLAN and 4095 is reserved (IEEE 802.1Q 9.6).
    pub fn new(vid: u16) -> Result<Vid, AddrError> {
        if (1..=4094).contains(&vid) {
            Ok(Vid(vid))
        } else {
            Err(AddrError::Vlan(vid))
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which kind of tag a port VLAN puts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VlanProto {
    /// A customer tag, 0x8100.
    #[default]
    #[serde(rename = "802.1Q")]
    Dot1Q,
    /// A service tag, 0x88a8.
    #[serde(rename = "802.1ad")]
    Dot1ad,
}

impl VlanProto {
    /// The tag's protocol id.
    #[must_use]
    pub fn tpid(self) -> u16 {
        match self {
            VlanProto::Dot1Q => 0x8100,
            VlanProto::Dot1ad => 0x88a8,
        }
    }
}

impl fmt::Display for VlanProto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VlanProto::Dot1Q => "802.1Q",
            VlanProto::Dot1ad => "802.1ad",
        })
    }
}

impl FromStr for VlanProto {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<VlanProto, ParseError> {
        match text {
            "802.1Q" | "802.1q" => Ok(VlanProto::Dot1Q),
            "802.1ad" => Ok(VlanProto::Dot1ad),
            _ => Err(ParseError::word("proto", text, "802.1Q or 802.1ad")),
        }
    }
}

/// A VLAN tag as a frame carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VlanTag {
    /// Protocol id: 0x8100, 0x88a8 or 0x9100.
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1 bit), VLAN id (12 bits).
    pub tci: u16,
}

impl VlanTag {
    /// The VLAN id, 0 to 4095; 0 is a tag that carries a priority only.
    #[must_use]
    pub fn vid(self) -> u16 {
        self.tci & 0xfff
    }

    /// The tag as it is on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 4] {
        let [a, b] = self.tpid.to_be_bytes();
        let [c, d] = self.tci.to_be_bytes();
        [a, b, c, d]
    }
}

/// The VLAN that a frame belongs to, by its outermost tag. Equal ids of customer and service tags are different VLANs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Vlan(u16);

impl Vlan {
    /// No tag, or one that carries a priority only.
    pub(crate) const NONE: Vlan = Vlan(0);

    pub(crate) fn of_tag(tag: VlanTag) -> Vlan {
        let space: u16 = match tag.tpid {
            _ if tag.vid() == 0 => 0,
            0x8100 => 0,
            0x88a8 => 0x1000,
            _ => 0x2000,
        };
        Vlan(space | tag.vid())
    }

    /// The customer VLAN that VLAN filters speak of.
    pub(crate) fn of_vid(vid: Vid) -> Vlan {
        Vlan(vid.get())
    }

    /// The tag, without priority, of frames that belong to it; the opposite of [`Vlan::of_tag`].
    pub(crate) fn tag(self) -> Option<VlanTag> {
        let tpid = match self.0 & 0xf000 {
            0 => 0x8100,
            0x1000 => 0x88a8,
            _ => 0x9100,
        };
        let tci = self.0 & 0xfff;
        (tci != 0).then_some(VlanTag { tpid, tci })
    }

    pub(crate) fn to_u16(self) -> u16 {
        self.0
    }

    /// Whether its tag is of another kind than 802.1Q.
    pub(crate) fn is_service(self) -> bool {
        self.0 & 0xf000 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mac_text_is_strict() {
        assert_eq!("02:0:0:0:A:ff".parse(), Ok(MacAddr([2, 0, 0, 0, 10, 0xff])));
        for bad in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:0g",
            "02:00:00:00:00:+1",
            "02-00-00-00-00-00",
            "002:00:00:00:00:00",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn offset_stays_in_the_low_half() {
        let base = MacAddr([2, 0, 0, 0xff, 0xff, 0xff]);
        assert_eq!(base.offset(1), MacAddr([2, 0, 0, 0, 0, 0]));
        assert_eq!(MacAddr::default().offset(256).0, [0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn reserved_addresses_are_the_first_sixteen() {
        assert!(MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]).is_reserved());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]).is_reserved());
        assert!(!MacAddr([1, 0x80, 0xc2, 0, 1, 0]).is_reserved());
    }

    #[test]
    fn tag_spaces_do_not_mix() {
        let tag = |tpid, tci| Vlan::of_tag(VlanTag { tpid, tci });
        assert_eq!(tag(0x8100, 0xe00a), tag(0x8100, 10));
        assert_ne!(tag(0x8100, 10), tag(0x88a8, 10));
        assert_ne!(tag(0x9100, 10), tag(0x88a8, 10));
        assert_eq!(tag(0x88a8, 0xe000), Vlan::NONE);
        assert_eq!(Vlan::NONE.tag(), None);
        for tpid in [0x8100, 0x88a8, 0x9100] {
            let stripped = VlanTag { tpid, tci: 10 };
            assert_eq!(tag(tpid, 0xe00a).tag(), Some(stripped));
        }
    }

    proptest! {
        #[test]
        fn mac_text_round_trips(bytes: [u8; 6]) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }

        #[test]
        fn mac_parse_never_panics(text in "[0-9a-f:é ]{0,24}") {
            let _ = text.parse::<MacAddr>();
        }
    }
}
