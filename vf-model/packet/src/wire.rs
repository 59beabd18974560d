//! What a frame, or a super-frame as its segments, is on a wire, in frames and in byte times. Knows lengths only.

/// Shortest frame without FCS; shorter ones are padded (IEEE 802.3 3.2.8).
pub const MIN_FRAME: u32 = 60;
/// Frame check sequence, preamble with start delimiter, and inter-packet gap.
const OVERHEAD: u64 = 4 + 8 + 12;

/// What must be known of a frame beside its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// Length from destination address to payload, tags included, FCS not.
    pub len: u32,
    /// Set if this is a super-frame that becomes several frames on a wire.
    pub gso: Option<Gso>,
}

/// How a super-frame is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Bytes of link, network and transport header that each segment repeats.
    pub header_len: u16,
    /// Payload bytes of each segment but the last.
    pub size: u16,
}

impl FrameMeta {
    /// Length of the longest frame this is on a wire, FCS not included.
    #[inline]
    #[must_use]
    pub fn longest(&self) -> u32 {
        match self.cut() {
            None => self.len,
            Some((gso, _)) => u32::from(gso.header_len) + u32::from(gso.size),
        }
    }

    /// How it is cut and the payload that is to be cut, if that makes more than one frame of it.
    #[inline]
    #[must_use]
    pub fn cut(&self) -> Option<(Gso, u32)> {
        let gso = self.gso?;
        let payload = self.len.checked_sub(u32::from(gso.header_len))?;
        (gso.size > 0 && payload > u32::from(gso.size)).then_some((gso, payload))
    }
}

/// What a frame, or all segments of a super-frame, take of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnWire {
    /// Byte times: padding, FCS, preamble and gap included.
    pub bytes: u64,
    /// Frames on the wire, a super-frame as its segments.
    pub segments: u64,
}

impl OnWire {
    /// What a frame takes.
    #[must_use]
    #[inline]
    pub fn of(meta: &FrameMeta) -> OnWire {
        let one = |len: u64| len.max(MIN_FRAME.into()) + OVERHEAD;
        let Some((gso, payload)) = meta.cut() else {
            return OnWire {
                bytes: one(u64::from(meta.len)),
                segments: 1,
            };
        };
        let (header, size) = (u64::from(gso.header_len), u64::from(gso.size));
        let full = u64::from(payload) / size;
        let rest = u64::from(payload) % size;
        let tail = if rest > 0 { one(header + rest) } else { 0 };
        OnWire {
            bytes: full * one(header + size) + tail,
            segments: full + u64::from(rest > 0),
        }
    }
}

/// Byte times that a frame, or all segments of a super-frame, take on a wire: padding, FCS, preamble and gap included.
#[must_use]
#[inline]
pub fn wire_bytes(meta: &FrameMeta) -> u64 {
    OnWire::of(meta).bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(len: u32) -> FrameMeta {
        FrameMeta { len, gso: None }
    }

    fn super_frame(len: u32, header_len: u16, size: u16) -> FrameMeta {
        let gso = Some(Gso { header_len, size });
        FrameMeta { len, gso }
    }

    #[test]
    fn short_frames_are_padded() {
        assert_eq!(wire_bytes(&plain(14)), 84);
        assert_eq!(wire_bytes(&plain(60)), 84);
        assert_eq!(wire_bytes(&plain(61)), 85);
    }

    #[test]
    fn what_is_cut() {
        let meta = |len, header_len, size| FrameMeta {
            len,
            gso: Some(Gso { header_len, size }),
        };
        assert!(meta(1514, 66, 1448).cut().is_none());
        assert!(meta(1515, 66, 1448).cut().is_some());
        assert!(meta(1514, 66, 0).cut().is_none());
        assert!(meta(60, 66, 1448).cut().is_none());
        assert_eq!(meta(65000, 66, 1448).longest(), 1514);
    }

    proptest! {
        #[test]
        fn segments_sum_up(header in 14u16..200, size in 1u16..9000, payload in 0u32..65536) {
            let meta = super_frame(u32::from(header) + payload, header, size);
            let mut left = payload;
            let mut sum = 0;
            loop {
                let segment = left.min(size.into());
                sum += wire_bytes(&plain(u32::from(header) + segment));
                left -= segment;
                if left == 0 {
                    break;
                }
            }
            prop_assert_eq!(wire_bytes(&meta), sum);
        }
    }
}
