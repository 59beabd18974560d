//! MAC addresses, and why an address or a VLAN cannot be had. Never looks further into a frame than its destination.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
    /// Text that is no MAC address.
    #[error("mac '{0}': six bytes such as 02:00:00:00:00:01")]
    Mac(Box<str>),
    /// Text that names no kind of tag.
    #[error("proto '{0}': 802.1Q or 802.1ad")]
    Proto(Box<str>),
    /// A VLAN id out of range.
    #[error("vlan {0}: VLANs are 1 to 4094")]
    Vlan(u16),
}

/// What was typed, as a part of a line, whatever that was: at most 64 characters.
#[must_use]
pub fn on_a_line(word: &str) -> Box<str> {
    word.escape_debug().take(64).collect::<String>().into()
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
    #[inline]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Whether this is the broadcast address.
    #[must_use]
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == MacAddr::BROADCAST
    }

    /// Whether an interface can have this address: neither a group address nor zero.
    #[must_use]
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }

    /// Whether bridges keep frames to this address to themselves: 01:80:c2:00:00:00 to 0f (IEEE 802.1D 7.12.6).
    #[must_use]
    #[inline]
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

    /// The address as a number.
    #[inline]
    #[must_use]
    pub fn to_u64(self) -> u64 {
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
    type Err = AddrError;

    fn from_str(text: &str) -> Result<MacAddr, AddrError> {
        let wrong = || AddrError::Mac(on_a_line(text));
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
    type Error = AddrError;
    fn try_from(text: String) -> Result<MacAddr, AddrError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
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
