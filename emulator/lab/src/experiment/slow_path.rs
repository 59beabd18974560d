//! What took the slow path when VFs choose it flow by flow: the first packets of each flow, as the hypervisors saw them.
//! Changes nothing that it sees.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use vf_model::{Header, Nanos, VfIndex};
use vf_nic::instance::NicInstance;
use vf_nic::watch::{Direction, Port};

use super::outcome::{AutoFrames, FirstPackets};
use crate::virtual_hosts::Watcher;

/// Flows that are told apart; those of an experiment are far fewer.
const MOST: usize = 4096;

/// The ends of a flow.
type Ends = (SocketAddr, SocketAddr);

#[derive(Default)]
struct Noted {
    sent: u64,
    received: u64,
    first: Nanos,
    last: Nanos,
}

/// A note of every flow that hypervisors have seen frames of.
#[derive(Clone, Default)]
pub(super) struct SlowPathLog(Rc<RefCell<BTreeMap<Ends, Noted>>>);

impl SlowPathLog {
    /// What notes the frames that it sees on their slow path.
    pub(super) fn watcher(&self) -> Watcher {
        let flows = Rc::clone(&self.0);
        Box::new(move |seen| {
            let header = Header::parse(seen.frame).ok();
            let flow = header.and_then(|header| header.flow(seen.frame));
            let (Port::Pf, Some(flow)) = (seen.port, flow) else {
                return;
            };
            let (src, dst) = flow.ports.unwrap_or_default();
            let ends = (
                SocketAddr::new(flow.src, src),
                SocketAddr::new(flow.dst, dst),
            );
            let mut flows = flows.borrow_mut();
            if flows.len() >= MOST && !flows.contains_key(&ends) {
                return;
            }
            let noted = flows.entry(ends).or_insert_with(|| Noted {
                first: seen.at,
                ..Noted::default()
            });
            noted.last = seen.at;
            match seen.direction {
                Direction::Tx => noted.sent += 1,
                Direction::Rx => noted.received += 1,
            }
        })
    }

    /// The flows, in the order in which they were first seen.
    pub(super) fn flows(&self) -> Vec<FirstPackets> {
        let us = |at: Nanos| at.0 as f64 / 1e3;
        let flows = self.0.borrow();
        let mut flows: Vec<_> = flows.iter().collect();
        flows.sort_by_key(|(ends, noted)| (noted.first, **ends));
        let flows = flows.into_iter().map(|((from, to), noted)| FirstPackets {
            from: from.to_string(),
            to: to.to_string(),
            sent: noted.sent,
            received: noted.received,
            first_us: us(noted.first),
            last_us: us(noted.last),
        });
        flows.collect()
    }
}

/// Adds what the VFs of a host have counted so far.
pub(super) fn count(frames: &mut AutoFrames, host: &NicInstance) {
    for vf in (0..host.vfs.len()).map(VfIndex::from) {
        let counted = host.statistics.fast_path(vf);
        frames.fastpath_packets += counted.fastpath_tx_packets + counted.fastpath_rx_packets;
        frames.slowpath_packets += counted.slowpath_tx_packets + counted.slowpath_rx_packets;
        frames.waited += counted.waited;
    }
}
