//! Bounds: how long frames are and how much of one is looked at, and how much work one frame, one burst or one device's turn may be
//! before others have theirs. Enforces none.

use std::time::Duration;

pub(crate) use vf_packet::TAGGED_HEADERS_MAX;
pub use vf_packet::{HEAD_MAX, HEADERS_MAX};

/// The shortest frame: an Ethernet header and nothing else.
pub const MIN_FRAME: u32 = 14;

/// How long the messages of one device are served in a row: some are dear, and other devices share the thread.
pub const TURN: Duration = Duration::from_millis(2);

/// Messages that are served in a row, however cheap they are, and front ends that are looked at.
pub const MESSAGES_A_TURN: usize = 128;

/// Descriptors that the chains of one received frame may have, as many as Linux' vhost-net allows. A chain may have as many for
/// itself, so that twice that is what is looked at for one frame at most.
pub(crate) const FRAME_DESCRIPTORS: u64 = 1024;

/// Segments that a super-frame is cut into at most. 64 KiB with a segment size of 32 B are 2048; Linux' smallest TCP segments
/// (`TCP_MIN_SND_MSS`) hold 36 B with a time stamp.
pub(crate) const SEGMENTS_MAX: usize = 2048;

/// Payload bytes of a segment at least: Linux' smallest TCP segments (48 B) with all the options that there is room for (40 B).
pub(crate) const SHORTEST_SEGMENT: u16 = 8;

/// Descriptors and segments of a frame that are not counted as [effort](crate::rx::RxQueue::effort): more than a Linux driver's
/// longest buffer has (19), and than a frame of 64 KiB has at an MSS of 1024 B.
pub const EFFORTLESS: u64 = 64;

/// Effort that a burst may be to a receiver, or a turn to a sender, before others get theirs.
pub const BURST_EFFORT: u64 = 4096;

/// Descriptors of a driver that are walked for one burst of its frames, but for the last chain's.
pub(crate) const FETCH_DESCRIPTORS: u64 = 1024;

/// The longest (super-)frame: Ethernet header, two VLAN tags, IPv6 header, 65535 bytes of payload.
pub const MAX_FRAME: u32 = 14 + 8 + 40 + 65535;
