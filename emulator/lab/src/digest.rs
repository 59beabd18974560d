//! A number that tells two runs apart: what was seen, when and where. Changes nothing that it sees.
//!
//! It is XXH3 (xxHash 0.8, 64 bits, no seed), so that others can compute it again, the digest of a port from a capture of whole
//! frames. All numbers are little-endian.
//!
//! The digest of a port is XXH3 of a record for each frame that passed it, in their order:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | when, in nanoseconds of virtual time |
//! | 1 | 1 if its guest sent it, 0 if it was on its way to the guest, or in from the wire |
//! | 8 | XXH3 of its bytes: the L2 frame without FCS as it was handed over, a super-frame whole |
//!
//! The digest of a run is XXH3 of a record for each port that any frame passed, in the order of hosts and on each of them the
//! wire, then the VFs:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the host's number, from 0 |
//! | 2 | 0 for the wire, else 1 + the VF's number |
//! | 8 | the digest of the port |

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use vf_nic::watch::{Direction, Port};
use xxhash_rust::xxh3::Xxh3;

use crate::virtual_hosts::Watcher;

/// A number that tells two sequences of frames apart: for "the same run twice", not for security. Clones share it.
#[derive(Clone, Default)]
pub struct Digest(Rc<RefCell<BTreeMap<(u32, u16), Xxh3>>>);

impl Digest {
    /// The digest of all that has been seen so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        let mut all = Xxh3::new();
        for ((host, port), frames) in self.0.borrow().iter() {
            all.update(&host.to_le_bytes());
            all.update(&port.to_le_bytes());
            all.update(&frames.digest().to_le_bytes());
        }
        all.digest()
    }

    /// The digest of what has been seen so far at one port; of nothing, if no frame passed it.
    #[must_use]
    pub fn of_port(&self, host: usize, port: Port) -> u64 {
        let ports = self.0.borrow();
        let frames = ports.get(&key(host, port));
        frames.map_or_else(|| Xxh3::new().digest(), Xxh3::digest)
    }

    /// What adds all that it sees to this digest: time, host, port, direction and every byte.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        let digest = self.clone();
        Box::new(move |seen| {
            let mut ports = digest.0.borrow_mut();
            let frames = ports.entry(key(seen.host, seen.port)).or_default();
            frames.update(&seen.at.0.to_le_bytes());
            frames.update(&[u8::from(seen.direction == Direction::Tx)]);
            frames.update(&seen.xxh3.to_le_bytes());
        })
    }
}

fn key(host: usize, port: Port) -> (u32, u16) {
    let port = match port {
        Port::Wire => 0,
        Port::Vf(vf) => 1 + u16::from(vf.0),
        Port::Pf => 257,
    };
    (host as u32, port)
}

#[cfg(test)]
mod tests {
    use vf_model::{Nanos, VfIndex};
    use vf_nic::watch::Seen;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    fn seen(frame: &[u8]) -> Seen<'_> {
        Seen {
            at: Nanos(5),
            host: 1,
            port: Port::Wire,
            direction: Direction::Rx,
            frame,
            len: frame.len(),
            xxh3: xxh3_64(frame),
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
    fn it_is_what_the_module_says() {
        let frame = [0xab; 60];
        let vf = |vf| Port::Vf(VfIndex(vf));
        let sent = Seen {
            at: Nanos(0x0102),
            port: vf(2),
            direction: Direction::Tx,
            ..seen(&frame)
        };
        let all = [
            sent,
            seen(&[]),
            Seen { host: 0, ..sent },
            Seen {
                at: Nanos(9),
                ..sent
            },
        ];
        // The reference implementation's values of nothing (XXH3_64bits of xxHash 0.8), and of this frame.
        let nothing = 0x2d06_8005_38d3_94c2_u64;
        assert_eq!(xxh3_64(&[]), nothing);
        let bytes = xxh3_64(&frame).to_le_bytes();
        let record = |at: u8, high: u8| [&[at, high, 0, 0, 0, 0, 0, 0, 1][..], &bytes].concat();
        let of_0 = xxh3_64(&record(2, 1)).to_le_bytes();
        let of_1 = xxh3_64(&[record(2, 1), record(9, 0)].concat()).to_le_bytes();
        let wire = [&[5, 0, 0, 0, 0, 0, 0, 0, 0][..], &nothing.to_le_bytes()].concat();
        let of_wire = xxh3_64(&wire).to_le_bytes();
        let run = [
            &[0, 0, 0, 0, 3, 0][..],
            &of_0,
            &[1, 0, 0, 0, 0, 0],
            &of_wire,
            &[1, 0, 0, 0, 3, 0],
            &of_1,
        ];
        assert_eq!(digest(&all), xxh3_64(&run.concat()));
        let one = Digest::default();
        all.iter().for_each(&mut *one.watcher());
        assert_eq!(one.of_port(0, vf(2)).to_le_bytes(), of_0);
        assert_eq!(one.of_port(0, vf(1)), nothing);
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
