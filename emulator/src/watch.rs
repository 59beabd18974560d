//! Every frame that passes a VF or arrives over a wire, shown to whoever asks the virtual clock's hosts for it: captures,
//! expectations, the digest of a run. Changes nothing that it sees.

use std::cell::Cell;
use std::rc::Rc;

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

/// Is shown every frame, in the order in which they pass.
pub type Watcher = Box<dyn FnMut(&Seen<'_>)>;

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number that tells two sequences of frames apart: for "the same run twice", not for security. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Digest(Rc<Cell<u64>>);

impl Digest {
    /// The digest of all that has been seen so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.get()
    }

    /// What adds all that it sees to this digest: time, host, port, direction and every byte.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        let digest = self.clone();
        Box::new(move |seen| {
            let port = match seen.port {
                Port::Wire => 0,
                Port::Vf(vf) => 1 + vf.index() as u64,
            };
            let place =
                (seen.host as u64) << 32 | port << 1 | u64::from(seen.direction == Direction::Tx);
            let before = mix(mix(digest.0.get(), seen.at.0), place);
            digest.0.set(mix(before, seen.sum));
        })
    }
}

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

fn mix(digest: u64, word: u64) -> u64 {
    (digest.rotate_left(29) ^ word).wrapping_mul(MULTIPLIER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(frame: &[u8]) -> Seen<'_> {
        Seen {
            at: Nanos(5),
            host: 1,
            port: Port::Wire,
            direction: Direction::Rx,
            frame,
            len: frame.len(),
            sum: sum(frame),
            gso: None,
        }
    }

    fn digest(all: &[Seen<'_>]) -> u64 {
        let digest = Digest::default();
        let mut watcher = digest.watcher();
        all.iter().for_each(&mut *watcher);
        digest.value()
    }

    #[test]
    fn every_byte_and_every_boundary_counts() {
        let frame: Vec<u8> = (0..77).collect();
        let whole = digest(&[seen(&frame)]);
        assert_eq!(whole, digest(&[seen(&frame)]));
        for at in 0..frame.len() {
            let mut other = frame.clone();
            other[at] ^= 1;
            assert_ne!(whole, digest(&[seen(&other)]), "{at}");
            assert_ne!(whole, digest(&[seen(&frame[..at])]), "{at}");
            assert_ne!(whole, digest(&[seen(&frame[..at]), seen(&frame[at..])]));
        }
    }

    #[test]
    fn time_and_place_count() {
        let it = seen(&[1; 60]);
        let vf = |vf| Port::Vf(VfIndex(vf));
        let others = [
            Seen { at: Nanos(6), ..it },
            Seen { host: 0, ..it },
            Seen { port: vf(0), ..it },
            Seen { port: vf(1), ..it },
            Seen {
                direction: Direction::Tx,
                ..it
            },
        ];
        for (i, other) in others.iter().enumerate() {
            assert_ne!(digest(&[it]), digest(&[*other]), "{i}");
            for (j, another) in others.iter().enumerate() {
                assert_eq!(i == j, digest(&[*other]) == digest(&[*another]));
            }
        }
    }
}
