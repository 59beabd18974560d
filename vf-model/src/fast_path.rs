//! The NIC's side of path `auto`: which of a VF's frames take the fast path, and when a flow may change to it. Never says who
//! receives a frame.
//!
//! A flow that changes from the slow path to the fast one would overtake its own frames that are still with the hypervisor.
//! So it changes behind a *marker*, which the NIC sends after them through the hypervisor and back, in the queues that the
//! frames take. From when the marker is asked for until it is back the flow's frames wait: received ones in buffers of the
//! NIC, as many as the VF's pages allow, and sent ones in the guest's ring. The way back needs none: what took the fast path is in
//! the receiver's ring or on its way out before the next frame is looked at. Waiting for a gap in the flow instead would keep a
//! busy flow on the slow path for good, and to reorder by sequence number would need a state for every flow.

use std::collections::VecDeque;
use std::sync::Arc;

use vf_packet::MacAddr;

use crate::counter::{Counter, Shared};
use crate::learned::{FastEvent, FastKey, Learned};
use crate::policy::Policy;
use crate::source::Source;
use crate::verdict::Verdict;
use crate::vf::{VfIndex, VfSet};

/// Most addresses that a VF reaches by the fast path; one more takes the place of the one known longest.
const MAX_MACS: usize = 1024;
/// Most stale filters that are told of at a time.
const MAX_STALE: usize = 64;

/// The way of a frame of a VF on path `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// By way of the hypervisor.
    Slow,
    /// Straight through the NIC.
    Fast,
    /// The flow is changing to the fast path, and the frame has to wait.
    Wait,
}

/// What took which path, in the view of the VF; the names are those of the plug-in's statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FastCounters<N = u64> {
    /// Frames sent on the fast path.
    pub fastpath_tx_packets: N,
    /// Bytes of those.
    pub fastpath_tx_bytes: N,
    /// Frames received on the fast path.
    pub fastpath_rx_packets: N,
    /// Bytes of those.
    pub fastpath_rx_bytes: N,
    /// Frames that the guest sent and the fast path could not carry (`CANT`).
    pub slowpath_tx_packets: N,
    /// Frames received by way of the hypervisor.
    pub slowpath_rx_packets: N,
    /// Received frames that waited until their flow had changed to the fast path.
    pub waited: N,
    /// Received frames that found no buffer to wait in, and were dropped (`BUSY`).
    pub busy: N,
    /// Addresses that the VF reaches by the fast path.
    pub forwarded_macs: N,
}

type LiveFast = FastCounters<Counter>;

impl LiveFast {
    fn read(&self) -> FastCounters {
        FastCounters {
            fastpath_tx_packets: self.fastpath_tx_packets.get(),
            fastpath_tx_bytes: self.fastpath_tx_bytes.get(),
            fastpath_rx_packets: self.fastpath_rx_packets.get(),
            fastpath_rx_bytes: self.fastpath_rx_bytes.get(),
            slowpath_tx_packets: self.slowpath_tx_packets.get(),
            slowpath_rx_packets: self.slowpath_rx_packets.get(),
            waited: self.waited.get(),
            busy: self.busy.get(),
            forwarded_macs: self.forwarded_macs.get(),
        }
    }
}

impl std::ops::AddAssign for FastCounters {
    /// Workers of a NIC count each for itself.
    fn add_assign(&mut self, other: FastCounters) {
        self.fastpath_tx_packets += other.fastpath_tx_packets;
        self.fastpath_tx_bytes += other.fastpath_tx_bytes;
        self.fastpath_rx_packets += other.fastpath_rx_packets;
        self.fastpath_rx_bytes += other.fastpath_rx_bytes;
        self.slowpath_tx_packets += other.slowpath_tx_packets;
        self.slowpath_rx_packets += other.slowpath_rx_packets;
        self.waited += other.waited;
        self.busy += other.busy;
        self.forwarded_macs += other.forwarded_macs;
    }
}

/// The counters of path `auto` of a NIC, for any thread to read while they are counted.
#[derive(Clone, Debug)]
pub struct PublishedFast(Arc<[LiveFast]>);

impl PublishedFast {
    /// What has been counted of a VF so far; nothing of one that the NIC has not.
    #[must_use]
    pub fn vf(&self, vf: VfIndex) -> FastCounters {
        self.0
            .get(vf.index())
            .map(LiveFast::read)
            .unwrap_or_default()
    }

    /// Goes on from what another process has counted of a VF. Only before the NIC counts anything.
    pub fn go_on_from(&self, vf: VfIndex, counted: &FastCounters) {
        let Some(counters) = self.0.get(vf.index()) else {
            return;
        };
        for (counter, n) in [
            (&counters.fastpath_tx_packets, counted.fastpath_tx_packets),
            (&counters.fastpath_tx_bytes, counted.fastpath_tx_bytes),
            (&counters.fastpath_rx_packets, counted.fastpath_rx_packets),
            (&counters.fastpath_rx_bytes, counted.fastpath_rx_bytes),
            (&counters.slowpath_tx_packets, counted.slowpath_tx_packets),
            (&counters.slowpath_rx_packets, counted.slowpath_rx_packets),
            (&counters.waited, counted.waited),
            (&counters.busy, counted.busy),
            (&counters.forwarded_macs, counted.forwarded_macs),
        ] {
            counter.set(n);
        }
    }
}

/// The markers on their way through the hypervisor: one at a time.
#[derive(Clone, Copy, Debug, Default)]
struct Markers {
    /// The last that was sent.
    sent: u64,
    /// The last that came back.
    back: u64,
    /// Whether somebody waits for the one after the last that was sent.
    wanted: bool,
}

impl Markers {
    /// The number of the marker that everything sent up so far goes before.
    fn request(&mut self) -> u64 {
        self.wanted = true;
        self.sent + 1
    }

    /// Whether all that went before this marker has arrived.
    #[inline]
    fn has_passed(&self, number: u64) -> bool {
        number <= self.back
    }

    fn lane(&self, after: u64) -> Lane {
        match self.has_passed(after) {
            true => Lane::Fast,
            false => Lane::Wait,
        }
    }
}

/// A learned filter as frames find it.
#[derive(Clone, Copy, Debug)]
struct Gate {
    key: FastKey,
    vf: VfIndex,
    id: u64,
    /// The marker that opens it.
    after: u64,
}

/// The addresses that a VF reaches by the fast path, each with the marker that opens the way.
#[derive(Clone, Debug, Default)]
struct MacTable {
    /// By address.
    known: Vec<(MacAddr, u64)>,
    /// The same in the order in which they were learned.
    age: VecDeque<MacAddr>,
}

impl MacTable {
    #[inline]
    fn get(&self, mac: MacAddr) -> Option<u64> {
        let at = self.known.binary_search_by_key(&mac, |(m, _)| *m).ok()?;
        self.known.get(at).map(|(_, after)| *after)
    }

    fn remove(&mut self, mac: MacAddr) -> bool {
        let at = self.known.binary_search_by_key(&mac, |(m, _)| *m);
        if let Ok(at) = at {
            self.known.remove(at);
            self.age.retain(|m| *m != mac);
        }
        at.is_ok()
    }

    fn retain(&mut self, keep: impl Fn(MacAddr) -> bool) {
        let before = self.known.len();
        self.known.retain(|(mac, _)| keep(*mac));
        if self.known.len() < before {
            self.age.retain(|mac| keep(*mac));
        }
    }

    fn insert(&mut self, mac: MacAddr, after: u64) {
        if self.known.len() >= MAX_MACS
            && let Some(oldest) = self.age.front().copied()
        {
            self.remove(oldest);
        }
        if let Err(at) = self.known.binary_search_by_key(&mac, |(m, _)| *m) {
            self.known.insert(at, (mac, after));
            self.age.push_back(mac);
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct FastPath {
    /// Whether any VF is on path `auto`.
    in_use: bool,
    /// Whether markers and what comes from the wire come here: to the worker with the port. Others leave to it which way their
    /// flows take.
    has_port: bool,
    auto: VfSet,
    learned: Learned,
    /// By key and VF.
    gates: Vec<Gate>,
    macs: Vec<MacTable>,
    markers: Markers,
    stale: Vec<FastEvent>,
    counters: Shared<[LiveFast]>,
}

impl FastPath {
    pub(crate) fn new(policy: &Policy) -> FastPath {
        let vfs = policy.vf_count();
        let mut fast = FastPath {
            in_use: false,
            has_port: true,
            auto: VfSet::default(),
            learned: Learned::new(vfs, 0),
            gates: Vec::new(),
            macs: vec![MacTable::default(); vfs],
            markers: Markers::default(),
            stale: Vec::new(),
            counters: (0..vfs).map(|_| LiveFast::default()).collect(),
        };
        fast.adopt(policy, None);
        fast
    }

    /// Leaves to the worker with the port which way flows take that VFs here send.
    pub(crate) fn without_port(&mut self) {
        self.has_port = false;
        self.gates.clear();
    }

    /// Whether a frame that a VF sends to the wire is left to the worker with the port: one of a flow, which may be on the fast
    /// path.
    #[inline]
    pub(crate) fn is_left_to_port(&self, vf: VfIndex, head: &[u8]) -> bool {
        let left = !self.has_port && self.auto.contains(vf);
        left && matches!(FastKey::of_frame(head), Some(FastKey::Flow { .. }))
    }

    /// Whether what a VF sends to the wire is left to the worker with the port, which counts it.
    #[inline]
    pub(crate) fn is_counted_by_port(&self, vf: VfIndex) -> bool {
        !self.has_port && self.auto.contains(vf)
    }

    #[inline]
    pub(crate) fn is_in_use(&self) -> bool {
        self.in_use
    }

    /// Takes over what a policy has learned, in place of the one of before. Addresses are learned anew when something is said about the
    /// link or the switch; and those that a VF has now, when something is said about VFs: their drivers say much, and cost others nothing.
    pub(crate) fn adopt(&mut self, policy: &Policy, before: Option<&Policy>) {
        if before.is_none_or(|before| !before.has_same_vfs(policy)) {
            self.auto = policy.auto();
            self.in_use = !self.auto.is_empty();
            let same_link = before.is_some_and(|before| before.has_same_link(policy));
            let macs = &policy.lookup().macs;
            self.keep_macs(|vf, mac| same_link && policy.auto().contains(vf) && !macs.has(mac));
        }
        if self.has_port && !policy.learned().is_same(&self.learned) {
            self.learned = policy.learned().clone();
            let known = std::mem::take(&mut self.gates);
            for filter in self.learned.filters() {
                let was = known.binary_search_by_key(&(filter.key, filter.vf), |g| (g.key, g.vf));
                let was = was.ok().and_then(|at| known.get(at));
                let after = match was.filter(|gate| gate.id == filter.id) {
                    Some(gate) => gate.after,
                    None => self.markers.request(),
                };
                self.gates.push(Gate {
                    key: filter.key,
                    vf: filter.vf,
                    id: filter.id,
                    after,
                });
            }
        }
    }

    fn keep_macs(&mut self, keep: impl Fn(VfIndex, MacAddr) -> bool) {
        for vf in (0..self.macs.len()).map(VfIndex::from) {
            if let Some(table) = self.macs.get_mut(vf.index()) {
                table.retain(|mac| keep(vf, mac));
            }
            self.count_macs(vf);
        }
    }

    fn of_key(&self, key: FastKey) -> &[Gate] {
        let begin = self.gates.partition_point(|gate| gate.key < key);
        let rest = self.gates.get(begin..).unwrap_or_default();
        let len = rest.iter().take_while(|gate| gate.key == key).count();
        rest.get(..len).unwrap_or_default()
    }

    /// The way of received frames with this key to a VF.
    pub(crate) fn lane_in(&self, key: FastKey, vf: VfIndex) -> Lane {
        let mut gates = self.of_key(key).iter();
        let gate = gates.find(|gate| gate.vf == vf);
        gate.map_or(Lane::Slow, |gate| self.markers.lane(gate.after))
    }

    /// The way of a frame that a VF sends, if nobody here receives it.
    #[inline]
    pub(crate) fn lane_out(&self, vf: VfIndex, head: &[u8]) -> Lane {
        let table = self.macs.get(vf.index());
        match table.and_then(|table| table.get(MacAddr::of_frame(head))) {
            Some(after) if matches!(FastKey::of_frame(head), Some(FastKey::Flow { .. })) => {
                self.markers.lane(after)
            }
            _ => Lane::Slow,
        }
    }

    /// What is to be known of a frame's way beside its addresses; `None` if it is changing just now.
    #[inline]
    pub(crate) fn code(&self, source: Source, head: &[u8]) -> Option<u16> {
        const IN: u16 = 1 << 8;
        const OUT: u16 = 1 << 9;
        match source {
            Source::Vf(vf) if !self.auto.contains(vf) => Some(0),
            Source::Vf(vf) if self.is_left_to_port(vf, head) => None,
            Source::Vf(vf) => match self.lane_out(vf, head) {
                Lane::Slow => Some(0),
                Lane::Fast => Some(OUT),
                Lane::Wait => None,
            },
            Source::Wire => match FastKey::of_frame(head) {
                // Verdicts on groups are not kept on this path.
                None | Some(FastKey::Group(_)) => Some(0),
                Some(key) => match self.of_key(key).first() {
                    None => Some(0),
                    Some(gate) if self.markers.has_passed(gate.after) => {
                        Some(IN | u16::from(gate.vf.0))
                    }
                    Some(_) => None,
                },
            },
        }
    }

    /// Of VFs that receive a frame from the wire: who does so on the fast path, and whose copies have to wait.
    pub(crate) fn split_arrival(&self, vfs: VfSet, head: &[u8]) -> (VfSet, VfSet) {
        let (mut fast, mut waits) = (VfSet::default(), VfSet::default());
        let key = FastKey::of_frame(head);
        for gate in key.map(|key| self.of_key(key)).unwrap_or_default() {
            if vfs.contains(gate.vf) {
                match self.markers.has_passed(gate.after) {
                    true => fast.insert(gate.vf),
                    false => waits.insert(gate.vf),
                }
            }
        }
        (fast, waits)
    }

    /// Learns from a frame from the wire that has been judged: VFs that got it on the fast path reach its sender there; and a
    /// filter that matches it although it is for somebody else is stale.
    pub(crate) fn look_at_arrival(&mut self, policy: &Policy, head: &[u8], verdict: &Verdict) {
        let src = head.get(6..).map(MacAddr::of_frame).unwrap_or_default();
        if src.is_unicast() && self.has_port && !verdict.waits {
            for vf in verdict.vfs.intersection(self.auto).iter() {
                self.learn_mac(vf, src);
            }
        }
        let Some(key @ FastKey::Flow { .. }) = FastKey::of_frame(head) else {
            return;
        };
        if let Some(gate) = self.of_key(key).first().copied() {
            let vf = gate.vf;
            if !verdict.vfs.contains(vf)
                && !policy.entry(vf).claims(MacAddr::of_frame(head))
                && self.stale.len() < MAX_STALE
            {
                self.stale.push(FastEvent::Stale { vf, key });
            }
        }
    }

    fn learn_mac(&mut self, vf: VfIndex, mac: MacAddr) {
        let Some(table) = self.macs.get_mut(vf.index()) else {
            return;
        };
        if table.get(mac).is_none() {
            table.insert(mac, self.markers.request());
            self.count_macs(vf);
        }
    }

    fn count_macs(&self, vf: VfIndex) {
        if let (Some(table), Some(counters)) =
            (self.macs.get(vf.index()), self.counters.get(vf.index()))
        {
            counters.forwarded_macs.set(table.known.len() as u64);
        }
    }

    /// Forgets that an address is reached by the fast path; whether anybody did.
    pub(crate) fn may_be_local(&mut self, mac: MacAddr) -> bool {
        let mut known = false;
        for vf in self.auto.iter() {
            if self.macs.get_mut(vf.index()).is_some_and(|t| t.remove(mac)) {
                known = true;
                self.count_macs(vf);
            }
        }
        known
    }

    pub(crate) fn take_stale(&mut self) -> Vec<FastEvent> {
        std::mem::take(&mut self.stale)
    }

    /// The marker to be sent up next, if somebody waits for one and none is on its way.
    #[inline]
    pub(crate) fn marker_to_send(&self) -> Option<u64> {
        let Markers { sent, back, wanted } = self.markers;
        (wanted && sent == back).then_some(sent + 1)
    }

    pub(crate) fn is_marker_due(&self) -> bool {
        let Markers { sent, back, wanted } = self.markers;
        wanted || sent != back
    }

    pub(crate) fn marker_sent(&mut self) {
        self.markers.sent += 1;
        self.markers.wanted = false;
    }

    pub(crate) fn marker_back(&mut self, number: u64) {
        self.markers.back = number;
    }

    #[inline]
    fn counters(&self, vf: VfIndex) -> Option<&LiveFast> {
        self.counters.get(vf.index())
    }

    /// Counts a frame that one VF sends or receives on the fast path.
    #[inline]
    pub(crate) fn count_fast(&self, source: Source, to: Option<VfIndex>, len: u32) {
        match (source, to) {
            (Source::Vf(vf), None) if self.auto.contains(vf) => self.count_fast_tx(vf, len),
            (Source::Wire, Some(vf)) if self.auto.contains(vf) => self.count_fast_rx(vf, len),
            _ => {}
        }
    }

    pub(crate) fn count_slow_tx(&self, vf: VfIndex) {
        if let Some(counters) = self.counters(vf) {
            counters.slowpath_tx_packets.add(1);
        }
    }

    pub(crate) fn count_fast_tx(&self, vf: VfIndex, len: u32) {
        if let Some(counters) = self.counters(vf) {
            counters.fastpath_tx_packets.add(1);
            counters.fastpath_tx_bytes.add(len.into());
        }
    }

    pub(crate) fn count_fast_rx(&self, vf: VfIndex, len: u32) {
        if let Some(counters) = self.counters(vf) {
            counters.fastpath_rx_packets.add(1);
            counters.fastpath_rx_bytes.add(len.into());
        }
    }

    /// Counts a frame that has been judged here.
    pub(crate) fn count(&self, source: Source, verdict: &Verdict, len: u32) {
        match source {
            Source::Vf(vf) if !self.auto.contains(vf) => {}
            Source::Vf(vf) if verdict.wire => self.count_fast_tx(vf, len),
            Source::Vf(vf) => self.count_slow_tx(vf),
            Source::Wire => {
                // Those that wait are counted when they go on.
                let vfs = verdict.vfs.intersection(self.auto);
                for vf in vfs.iter().filter(|_| !verdict.waits) {
                    self.count_fast_rx(vf, len);
                }
            }
        }
    }

    /// Counts a frame that the hypervisor hands over for these VFs.
    pub(crate) fn count_from_pf(&self, vfs: VfSet) {
        let vfs = vfs.intersection(self.auto);
        for counters in vfs.iter().filter_map(|vf| self.counters(vf)) {
            counters.slowpath_rx_packets.add(1);
        }
    }

    pub(crate) fn count_waited(&self, vf: VfIndex) {
        if let Some(counters) = self.counters(vf) {
            counters.waited.add(1);
        }
    }

    pub(crate) fn count_busy(&self, vf: VfIndex) {
        if let Some(counters) = self.counters(vf) {
            counters.busy.add(1);
        }
    }

    pub(crate) fn published(&self) -> PublishedFast {
        PublishedFast(self.counters.reader())
    }
}
