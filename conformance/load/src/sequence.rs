//! What became of numbered frames: late ones are told from those that came twice.
//!
//! Pure. Frames of a stream are numbered from 0. In order, a frame costs one comparison; only gaps
//! are remembered, and only as many as [`MAX_GAPS`].

use std::collections::BTreeMap;

/// Gaps that are remembered; beyond that a late frame counts as reordered, though it might be a
/// duplicate.
const MAX_GAPS: usize = 1 << 16;

/// The receiver's account of many streams.
#[derive(Debug, Default)]
pub(crate) struct Sequences {
    /// The number each stream goes on with.
    next: Vec<u32>,
    /// Numbers that were passed over: by stream and first number, the end.
    gaps: BTreeMap<(u32, u32), u32>,
    forgotten: bool,
    reordered: u64,
    duplicates: u64,
}

impl Sequences {
    /// For `streams` streams, all at 0.
    pub(crate) fn new(streams: usize) -> Sequences {
        Sequences {
            next: vec![0; streams],
            ..Sequences::default()
        }
    }

    /// Frame `seq` of a stream has come. False when there is no such stream.
    #[inline]
    pub(crate) fn see(&mut self, stream: usize, seq: u32) -> bool {
        let Some(next) = self.next.get_mut(stream) else {
            return false;
        };
        if *next == seq {
            *next = seq.wrapping_add(1);
        } else {
            self.out_of_turn(stream, seq);
        }
        true
    }

    #[cold]
    fn out_of_turn(&mut self, stream: usize, seq: u32) {
        let next = &mut self.next[stream];
        let stream = stream as u32;
        if seq > *next {
            if self.gaps.len() < MAX_GAPS {
                self.gaps.insert((stream, *next), seq);
            } else {
                self.forgotten = true;
            }
            *next = seq + 1;
            return;
        }
        let gap = self.gaps.range(..=(stream, seq)).next_back();
        match gap.map(|(&key, &end)| (key, end)) {
            Some(((of, start), end)) if of == stream && seq < end => {
                self.gaps.remove(&(stream, start));
                if start < seq {
                    self.gaps.insert((stream, start), seq);
                }
                if seq + 1 < end {
                    self.gaps.insert((stream, seq + 1), end);
                }
                self.reordered += 1;
            }
            _ if self.forgotten => self.reordered += 1,
            _ => self.duplicates += 1,
        }
    }

    /// Frames that came after one with a higher number.
    pub(crate) fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Frames that came again.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        /// Against an account that remembers every frame.
        #[test]
        fn every_frame_is_in_turn_late_or_again(frames in prop::collection::vec((0usize..3, 0u32..40), 0..200)) {
            let mut sequences = Sequences::new(3);
            let mut seen = HashSet::new();
            let mut highest = [None; 3];
            let (mut reordered, mut duplicates) = (0, 0);
            for (stream, seq) in frames {
                prop_assert!(sequences.see(stream, seq));
                if !seen.insert((stream, seq)) {
                    duplicates += 1;
                } else if highest[stream] > Some(seq) {
                    reordered += 1;
                }
                highest[stream] = highest[stream].max(Some(seq));
                prop_assert_eq!((sequences.reordered(), sequences.duplicates()), (reordered, duplicates));
            }
        }
    }

    #[test]
    fn there_are_only_so_many_streams() {
        assert!(!Sequences::new(2).see(2, 0));
    }
}
