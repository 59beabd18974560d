//! Who receives the frames that a scenario has its guests send one by one: told by their bytes, behind whatever tags the NIC has
//! put on or taken off. Judges nothing: who was to receive them is `expect`'s.

use std::collections::{BTreeMap, BTreeSet};

use vf_model::{Header, Nanos, VfIndex};
use vf_nic::watch::{Direction, Port, Seen};

use super::expect::WIRE;
use super::plan::ScenarioPlan;

/// A frame without its tags: addresses, then type and payload.
type Untagged<'a> = (&'a [u8], &'a [u8]);

/// What has been seen of a frame.
#[derive(Clone, Debug, Default)]
struct Spread {
    guests: BTreeSet<String>,
    /// Hosts where it has arrived over a wire.
    wires: BTreeSet<usize>,
    /// Hosts where a guest has received it.
    hosts: BTreeSet<usize>,
}

/// The frames of a plan and how far each has come.
pub(super) struct Receivers {
    /// When each frame is sent.
    frames: Vec<(Nanos, Vec<u8>)>,
    /// Which guest is on a VF of a host.
    guests: BTreeMap<(usize, VfIndex), String>,
    spread: Vec<Spread>,
}

impl Receivers {
    pub(super) fn new(plan: &ScenarioPlan) -> Receivers {
        let on = plan.guests.iter().flat_map(|guest| {
            let interfaces = guest.interfaces.iter();
            interfaces.map(|i| ((i.nic, i.vf), guest.name.clone()))
        });
        Receivers {
            frames: plan
                .frames
                .iter()
                .map(|f| (f.at, f.bytes.clone()))
                .collect(),
            guests: on.collect(),
            spread: vec![Spread::default(); plan.frames.len()],
        }
    }

    pub(super) fn add(&mut self, seen: &Seen<'_>) {
        if self.spread.is_empty() || seen.direction == Direction::Tx {
            return;
        }
        let Some(bytes) = untagged(seen.frame) else {
            return;
        };
        // Of equal frames it is the one that was sent last.
        let sent = self.frames.iter().zip(&mut self.spread);
        let sent = sent.filter(|((at, sent), _)| *at <= seen.at && is(untagged(sent), bytes));
        let Some((_, spread)) = sent.max_by_key(|((at, _), _)| *at) else {
            return;
        };
        match seen.port {
            Port::Wire => {
                spread.wires.insert(seen.host);
            }
            // It goes on from there.
            Port::Pf => {}
            Port::Vf(vf) => {
                if let Some(guest) = self.guests.get(&(seen.host, vf)) {
                    spread.guests.insert(guest.clone());
                    spread.hosts.insert(seen.host);
                }
            }
        }
    }

    /// The names of the receivers of each frame, in order; `wire` stands for a wire at whose end no guest has received it.
    pub(super) fn names(&self) -> Vec<Vec<String>> {
        let names = self.spread.iter().map(|spread| {
            let lost = spread.wires.difference(&spread.hosts).next();
            let mut names: Vec<_> = spread.guests.iter().cloned().collect();
            names.extend(lost.map(|_| WIRE.to_owned()));
            names.sort();
            names
        });
        names.collect()
    }
}

fn untagged(frame: &[u8]) -> Option<Untagged<'_>> {
    let header = Header::parse(frame).ok()?;
    let behind = usize::from(header.l3_offset).checked_sub(2)?;
    Some((frame.get(..12)?, frame.get(behind..)?))
}

/// Whether one is the other, but for padding.
fn is(sent: Option<Untagged<'_>>, seen: Untagged<'_>) -> bool {
    sent.is_some_and(|sent| {
        let len = sent.1.len().min(seen.1.len());
        sent.0 == seen.0 && sent.1[..len] == seen.1[..len]
    })
}
