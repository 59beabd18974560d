//! Every frame that passes a VF or arrives over a wire, as it is shown to whoever watches a host on the
//! virtual clock. Changes nothing that it sees.

use vf_model::{Gso, Nanos, VfIndex};

/// Where a frame was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// Between a guest and its VF.
    Vf(VfIndex),
    /// Where the NIC's cable is plugged in.
    Wire,
}

/// Which way a frame went, as the guest sees it, or as the NIC sees its wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the guest; in from the wire.
    Rx,
    /// From the guest. Nobody is shown what goes out to a wire: it is seen where it arrives.
    Tx,
}

/// A frame that was seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When.
    pub at: Nanos,
    /// Index of the host.
    pub host: usize,
    /// Where.
    pub port: Port,
    /// Which way it went.
    pub direction: Direction,
    /// Its bytes, as many as the watcher has asked for: an L2 frame without FCS, as it was handed over. A frame that is still to
    /// be segmented is whole, and a checksum that is still to be completed is not there.
    pub frame: &'a [u8],
    /// How many bytes it has.
    pub len: usize,
    /// The [`sum`] of all of them.
    pub sum: u64,
    /// How it is to be segmented, if it is.
    pub gso: Option<Gso>,
}

/// How much of each frame a watcher wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Its first bytes, as many as the NIC looks at.
    #[default]
    Head,
    /// All of it, which costs a copy.
    Whole,
}

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number for these bytes, and where they end.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    // Four at a time: one would have to wait for the one before.
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [bytes.len() as u64, 1, 2, 3];
    for block in blocks {
        let (words, _) = block.as_chunks();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let digest = lanes.into_iter().reduce(mix).unwrap_or_default();
    rest.chunks(8).fold(digest, |digest, bytes| {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = *from;
        }
        mix(digest, u64::from_le_bytes(word))
    })
}

/// A number for all that `digest` is one for, and this word behind it.
#[must_use]
pub fn mix(digest: u64, word: u64) -> u64 {
    (digest.rotate_left(29) ^ word).wrapping_mul(MULTIPLIER)
}
