//! How a NIC's switch forwards: what `bridge link set dev DEV hwmode` sets on Linux. Never forwards anything.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::words::ParseError;

/// What a NIC does with a frame that one of its VFs sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwitchMode {
    /// The NIC has no switch: it sends to the wire, and the hypervisor has what is for a VF here.
    None,
    /// Virtual Ethernet bridge: what is for a VF here goes there and not to the wire.
    Veb,
    /// Virtual Ethernet port aggregator (IEEE 802.1Qbg): everything goes to the wire, and the adjacent bridge gives back what
    /// is for a VF here; a group's frame that it gives back is kept from the VF that sent it.
    Vepa,
    /// A VEB without an uplink: VFs reach each other whatever the link, and nothing passes the port.
    Floating,
}

impl SwitchMode {
    /// Every mode that there is.
    pub const ALL: [SwitchMode; 4] = [
        SwitchMode::None,
        SwitchMode::Veb,
        SwitchMode::Vepa,
        SwitchMode::Floating,
    ];
}

impl fmt::Display for SwitchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SwitchMode::None => "none",
            SwitchMode::Veb => "veb",
            SwitchMode::Vepa => "vepa",
            SwitchMode::Floating => "floating",
        })
    }
}

impl FromStr for SwitchMode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<SwitchMode, ParseError> {
        let mut all = SwitchMode::ALL.into_iter();
        all.find(|mode| mode.to_string() == text)
            .ok_or_else(|| ParseError::word("hwmode", text, "veb, vepa, floating or none"))
    }
}
