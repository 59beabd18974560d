//! How long frames are, and how much of one is looked at.

pub use vf_packet::{HEAD_MAX, HEADERS_MAX};

/// The shortest frame: an Ethernet header and nothing else.
pub const MIN_FRAME: u32 = 14;

/// The longest (super-)frame: Ethernet header, two VLAN tags, IPv6 header, 65535 bytes of payload.
pub const MAX_FRAME: u32 = 14 + 8 + 40 + 65535;
