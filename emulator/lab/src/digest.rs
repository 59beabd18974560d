//! A number that tells two runs apart: what was seen, when and where. Changes nothing that it sees.

use std::cell::Cell;
use std::rc::Rc;

use vf_nic::watch::{Direction, Port, mix};

use crate::virtual_hosts::Watcher;

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

#[cfg(test)]
mod tests {
    use vf_model::{Nanos, VfIndex};
    use vf_nic::watch::{Seen, sum};

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
