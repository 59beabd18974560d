//! What a VF's driver may do on a NIC whose firmware knows privileges (Solarflare's EF10, MC_CMD_PRIVILEGE_MASK): finer than
//! `trust`, of which such a NIC has none. Only those that decide something here. Never judges a frame.

use std::fmt;
use std::str::FromStr;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::words::ParseError;

bitflags! {
    /// Privileges, under the names that the firmware's interface gives them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Privileges: u8 {
        /// Filters on addresses of stations besides its own.
        const UNICAST = 1;
        /// Filters on groups.
        const MULTICAST = 1 << 1;
        /// The filter on broadcast.
        const BROADCAST = 1 << 2;
        /// The filter on all groups.
        const ALL_MULTICAST = 1 << 3;
        /// The filter on stations that nobody has.
        const PROMISCUOUS = 1 << 4;
        /// Frames from any source address: the same as `spoofchk off`.
        const MAC_SPOOFING_TX = 1 << 5;
        /// Another address than the administrator has set.
        const CHANGE_MAC = 1 << 6;
        /// Filters on packets that name no address of its own: they take frames from others.
        const INSECURE_FILTERS = 1 << 7;
    }
}

impl Default for Privileges {
    /// What a VF has that nobody has given any: what is for itself.
    fn default() -> Privileges {
        Privileges::UNICAST | Privileges::MULTICAST | Privileges::BROADCAST
    }
}

impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut comma = "";
        self.iter_names().try_for_each(|(name, _)| {
            let said = write!(f, "{comma}{name}");
            comma = ",";
            said
        })
    }
}

/// What the administrator says of a VF's privileges: `UNICAST,MULTICAST` that it has these and no others, `+CHANGE_MAC,-UNICAST`
/// that it has one more and one less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum PrivilegeChange {
    /// These and no others.
    Only(Privileges),
    /// Some more, and some no longer.
    By {
        /// Those that it gets.
        add: Privileges,
        /// Those that it loses.
        remove: Privileges,
    },
}

/// What stands for them in help.
pub(crate) const PRIVILEGE_VALUES: &str = "+NAME,-NAME,... or NAME,... or none, of UNICAST, MULTICAST, BROADCAST, ALL_MULTICAST, PROMISCUOUS, MAC_SPOOFING_TX, CHANGE_MAC and INSECURE_FILTERS";

impl PrivilegeChange {
    /// What it makes of privileges.
    #[must_use]
    pub fn of(self, now: Privileges) -> Privileges {
        match self {
            PrivilegeChange::Only(privileges) => privileges,
            PrivilegeChange::By { add, remove } => now.union(add).difference(remove),
        }
    }
}

impl fmt::Display for PrivilegeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (add, remove) = match self {
            PrivilegeChange::Only(privileges) => return privileges.fmt(f),
            PrivilegeChange::By { add, remove } => (add, remove),
        };
        let signed = |sign: char, all: &Privileges| {
            let names = all.iter_names();
            names
                .map(|(name, _)| format!("{sign}{name}"))
                .collect::<Vec<_>>()
        };
        let all = [signed('+', add), signed('-', remove)].concat();
        f.write_str(&all.join(","))
    }
}

impl FromStr for PrivilegeChange {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<PrivilegeChange, ParseError> {
        let wrong = || ParseError::word("privilege", text, PRIVILEGE_VALUES);
        if text == "none" {
            return Ok(PrivilegeChange::Only(Privileges::empty()));
        }
        let [mut only, mut add, mut remove] = [Privileges::empty(); 3];
        for word in text.split(',') {
            let (name, to) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(name), _) => (name, &mut add),
                (_, Some(name)) => (name, &mut remove),
                _ => (word, &mut only),
            };
            let named = Privileges::from_name(&name.to_ascii_uppercase());
            to.insert(named.ok_or_else(wrong)?);
        }
        let changes = add.union(remove);
        match (only.is_empty(), changes.is_empty()) {
            (false, true) => Ok(PrivilegeChange::Only(only)),
            (true, false) if !add.intersects(remove) => Ok(PrivilegeChange::By { add, remove }),
            _ => Err(wrong()),
        }
    }
}

impl From<PrivilegeChange> for String {
    fn from(change: PrivilegeChange) -> String {
        change.to_string()
    }
}

impl TryFrom<String> for PrivilegeChange {
    type Error = ParseError;

    fn try_from(text: String) -> Result<PrivilegeChange, ParseError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_are_given_one_by_one_or_all_at_once() {
        let now = Privileges::default();
        for (words, shown, then) in [
            (
                "+promiscuous,-UNICAST",
                "+PROMISCUOUS,-UNICAST",
                "MULTICAST,BROADCAST,PROMISCUOUS",
            ),
            (
                "BROADCAST,UNICAST",
                "UNICAST,BROADCAST",
                "UNICAST,BROADCAST",
            ),
            ("none", "none", "none"),
        ] {
            let change: PrivilegeChange = words.parse().unwrap();
            assert_eq!(change.to_string(), shown);
            assert_eq!(change.of(now).to_string(), then);
            assert_eq!(shown.parse(), Ok(change));
        }
        for wrong in ["", "+", "trust", "UNICAST,-MULTICAST", "+UNICAST,-UNICAST"] {
            assert!(wrong.parse::<PrivilegeChange>().is_err(), "{wrong}");
        }
    }
}
