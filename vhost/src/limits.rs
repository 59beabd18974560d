//! How long frames are, and how much of one is looked at.

/// Bytes of a frame that are copied out for judgement: the most header bytes anything may look at.
pub const HEAD_MAX: usize = 128;

/// The shortest frame: an Ethernet header and nothing else.
pub const MIN_FRAME: u32 = 14;

/// The longest (super-)frame: Ethernet header, two VLAN tags, IPv6 header, 65535 bytes of payload.
pub const MAX_FRAME: u32 = 14 + 8 + 40 + 65535;
