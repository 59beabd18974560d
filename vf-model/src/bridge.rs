//! The hypervisor's learning bridge: at which port a station was last heard, and so on which ports a frame is tried. Whether
//! a port takes its copy is for the receive filters to say, which [`crate::HypervisorModel`] holds.
//! A table of fixed size, in rows: a station whose row is full of others is not learned. Never allocates once it is made,
//! never forgets a station that is heard to make room for another, never reads a clock.

use std::fmt;
use std::sync::Arc;

use vf_packet::{Header, MacAddr, Vlan, VlanTag};

use crate::counter::{Counter, Shared};
use crate::time::Nanos;
use crate::vf::{VfIndex, VfSet};

/// A station not heard for so long is forgotten (IEEE 802.1D table 7-5).
const AGEING: Nanos = Nanos(300_000_000_000);
const ROW_BITS: u32 = 10;
/// Stations in a row. Eight make it unlikely that a row is full before the table is half full.
const ROW: usize = 8;

/// A port of the bridge; in text `vf0` or `pf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgePort {
    /// The back end of a mediated VF.
    Vif(VfIndex),
    /// The NIC, and behind it the direct VFs and the wire.
    Pf,
}

impl fmt::Display for BridgePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BridgePort::Vif(vf) => vf.fmt(f),
            BridgePort::Pf => f.write_str("pf"),
        }
    }
}

/// A station that the bridge has learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Its address.
    pub mac: MacAddr,
    /// The VLAN it was heard in, as a tag without priority; `None` outside all VLANs.
    pub vlan: Option<VlanTag>,
    /// Where it was heard last.
    pub port: BridgePort,
    /// How long ago.
    pub age: Nanos,
}

/// What the bridge has done so far. Each station learned is an entry still, has aged, or was flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct BridgeStats<N = u64> {
    /// Stations it knows now.
    pub entries: N,
    /// Stations learned.
    pub learned: N,
    /// Stations heard at another port than before.
    pub moved: N,
    /// Stations forgotten because they were not heard for 300 s.
    pub aged: N,
    /// Stations forgotten because their port went away.
    pub flushed: N,
    /// Frames whose sender was not learned for want of room.
    pub full: N,
    /// Frames to groups and to stations it does not know that went out at several ports.
    pub floods: N,
    /// Frames that filters take at another port than the one where the address was learned: they went where the filters say.
    pub overruled: N,
}

/// Ports to try a frame on, never the one it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BridgeSet {
    pub(crate) vifs: VfSet,
    pub(crate) pf: bool,
    /// Whether that is every port there is.
    all: bool,
}

#[derive(Clone, Copy, Debug)]
struct Station {
    mac: MacAddr,
    vlan: Vlan,
    port: BridgePort,
}

/// The bridge's ports, the stations it has learned, and its counters.
#[derive(Clone, Debug)]
pub struct Bridge {
    rows: Vec<[Option<Station>; ROW]>,
    vifs: VfSet,
    known: Shared<Known>,
}

/// What of a bridge others can read.
#[derive(Clone, Debug)]
struct Known {
    /// When the station in each place of a row was last heard, and a nanosecond; zero where there is none.
    seen: Vec<[Counter; ROW]>,
    /// Without what can be told from that only when asked.
    stats: BridgeStats<Counter>,
}

/// What a bridge has done, for any thread to read while it does more.
#[derive(Clone, Debug)]
pub struct PublishedBridge(Arc<Known>);

impl PublishedBridge {
    /// What it has done up to `now`.
    #[must_use]
    pub fn stats(&self, now: Nanos) -> BridgeStats {
        self.0.stats(now)
    }
}

impl Known {
    fn stats(&self, now: Nanos) -> BridgeStats {
        let counted = &self.stats;
        let mut stats = BridgeStats {
            entries: 0,
            learned: counted.learned.get(),
            moved: counted.moved.get(),
            aged: counted.aged.get(),
            flushed: counted.flushed.get(),
            full: counted.full.get(),
            floods: counted.floods.get(),
            overruled: counted.overruled.get(),
        };
        for seen in self.seen.iter().flatten().filter_map(seen_at) {
            if has_aged(seen, now) {
                stats.aged += 1;
            } else {
                stats.entries += 1;
            }
        }
        stats
    }
}

impl Bridge {
    /// A bridge with the PF as its only port.
    pub(crate) fn new() -> Bridge {
        Bridge {
            rows: vec![[None; ROW]; 1 << ROW_BITS],
            vifs: VfSet::default(),
            known: Shared::new(Known {
                seen: vec![std::array::from_fn(|_| Counter::default()); 1 << ROW_BITS],
                stats: BridgeStats::default(),
            }),
        }
    }

    /// Says which VFs have a port. Stations at ports that are gone are forgotten.
    pub(crate) fn set_vifs(&mut self, vifs: VfSet) {
        let gone = self.vifs.difference(vifs);
        self.vifs = vifs;
        if gone.is_empty() {
            return;
        }
        let seen = self.known.seen.iter().flatten();
        for (slot, seen) in self.rows.iter_mut().flatten().zip(seen) {
            if let Some(BridgePort::Vif(vf)) = slot.map(|s| s.port)
                && gone.contains(vf)
            {
                *slot = None;
                seen.set(0);
                self.known.stats.flushed.add(1);
            }
        }
    }

    /// Learns the sender of a frame in `vlan` and says where to try the frame.
    pub(crate) fn forward(
        &mut self,
        now: Nanos,
        from: BridgePort,
        vlan: Vlan,
        header: &Header,
    ) -> BridgeSet {
        if header.src.is_unicast() && self.has(from) {
            self.learn(now, from, vlan, header.src);
        }
        let all = BridgeSet {
            vifs: self.vifs,
            pf: true,
            all: true,
        };
        let port = self.find(now, vlan, header.dst);
        let mut to = port.map_or(all, BridgeSet::only);
        match from {
            BridgePort::Vif(vf) => to.vifs.remove(vf),
            BridgePort::Pf => to.pf = false,
        }
        to
    }

    /// Counts what has become of a frame that [`Bridge::forward`] would have tried there: which ports took it.
    pub(crate) fn count(&mut self, tried: BridgeSet, vifs: VfSet, pf: bool) {
        let stats = &self.known.stats;
        if !tried.covers(vifs, pf) {
            stats.overruled.add(1);
        } else if tried.all && vifs.len() + usize::from(pf) > 1 {
            stats.floods.add(1);
        }
    }

    fn has(&self, port: BridgePort) -> bool {
        match port {
            BridgePort::Vif(vf) => self.vifs.contains(vf),
            BridgePort::Pf => true,
        }
    }

    fn learn(&mut self, now: Nanos, port: BridgePort, vlan: Vlan, mac: MacAddr) {
        let at = row_of(vlan, mac);
        let (row, seen, stats) = (&mut self.rows[at], &self.known.seen[at], &self.known.stats);
        let own = row.iter().position(|s| s.is_some_and(|s| s.is(vlan, mac)));
        let is_free = |seen| seen_at(seen).is_none_or(|seen| has_aged(seen, now));
        let Some(at) = own.or_else(|| seen.iter().position(is_free)) else {
            stats.full.add(1);
            return;
        };
        match row[at] {
            Some(station) if !is_free(&seen[at]) => {
                stats.moved.add((station.port != port).into());
            }
            before => {
                stats.aged.add(before.is_some().into());
                stats.learned.add(1);
            }
        }
        row[at] = Some(Station { mac, vlan, port });
        seen[at].set(now.0.saturating_add(1));
    }

    fn find(&self, now: Nanos, vlan: Vlan, mac: MacAddr) -> Option<BridgePort> {
        let at = row_of(vlan, mac);
        let mut row = stations_of(&self.rows[at], &self.known.seen[at]);
        row.find(|(s, seen)| s.is(vlan, mac) && !has_aged(*seen, now))
            .map(|(s, _)| s.port)
    }

    /// The stations it knows at `now`, in an order that means nothing.
    pub fn entries(&self, now: Nanos) -> impl Iterator<Item = FdbEntry> + '_ {
        let rows = self.rows.iter().zip(&self.known.seen);
        let stations = rows.flat_map(|(row, seen)| stations_of(row, seen));
        let known = stations.filter(move |(_, seen)| !has_aged(*seen, now));
        known.map(move |(s, seen)| FdbEntry {
            mac: s.mac,
            vlan: s.vlan.tag(),
            port: s.port,
            age: now.saturating_sub(seen),
        })
    }

    /// What it has done up to `now`.
    #[must_use]
    pub fn stats(&self, now: Nanos) -> BridgeStats {
        self.known.stats(now)
    }

    /// The same, for others to read while it does more.
    #[must_use]
    pub fn published(&self) -> PublishedBridge {
        PublishedBridge(self.known.reader())
    }
}

/// The stations of a row and when each was last heard.
fn stations_of<'a>(
    row: &'a [Option<Station>; ROW],
    seen: &'a [Counter; ROW],
) -> impl Iterator<Item = (&'a Station, Nanos)> {
    let both = row.iter().zip(seen);
    both.filter_map(|(station, seen)| Some((station.as_ref()?, seen_at(seen)?)))
}

/// When the station was last heard whose entry of [`Known::seen`] this is.
fn seen_at(seen: &Counter) -> Option<Nanos> {
    seen.get().checked_sub(1).map(Nanos)
}

#[inline]
fn has_aged(seen: Nanos, now: Nanos) -> bool {
    now.saturating_sub(seen) >= AGEING
}

impl BridgeSet {
    fn only(port: BridgePort) -> BridgeSet {
        BridgeSet {
            vifs: match port {
                BridgePort::Vif(vf) => VfSet::from_iter([vf]),
                BridgePort::Pf => VfSet::default(),
            },
            pf: port == BridgePort::Pf,
            all: false,
        }
    }

    /// Whether all of these ports are in it.
    fn covers(&self, vifs: VfSet, pf: bool) -> bool {
        vifs.difference(self.vifs).is_empty() && (self.pf || !pf)
    }
}

impl Station {
    #[inline]
    fn is(&self, vlan: Vlan, mac: MacAddr) -> bool {
        self.mac == mac && self.vlan == vlan
    }
}

/// The same in every run. The high bits of the product depend on every bit of both.
#[inline]
fn row_of(vlan: Vlan, mac: MacAddr) -> usize {
    let both = u64::from(vlan.to_u16()) << 48 | mac.to_u64();
    (both.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ROW_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::collections::BTreeMap;
    use vf_packet::Vid;

    /// How many stations it can know at most.
    const CAPACITY: usize = ROW << ROW_BITS;

    const PF: BridgePort = BridgePort::Pf;

    fn vif(vf: u8) -> BridgePort {
        BridgePort::Vif(VfIndex(vf))
    }

    fn mac(n: u32) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, 0]).offset(n)
    }

    fn vlan(vid: u16) -> Vlan {
        Vid::new(vid).map_or(Vlan::NONE, Vlan::of_vid)
    }

    fn seconds(s: u64) -> Nanos {
        Nanos(s * 1_000_000_000)
    }

    fn header(dst: MacAddr, src: MacAddr) -> Header {
        Header::parse(&[&dst.0[..], &src.0, &[8, 0]].concat()).unwrap()
    }

    fn bridge(vifs: impl IntoIterator<Item = u8>) -> Bridge {
        let mut bridge = Bridge::new();
        bridge.set_vifs(vifs.into_iter().map(VfIndex).collect());
        bridge
    }

    /// The ports to try, the PF as 255.
    fn tried(set: BridgeSet) -> Vec<u8> {
        let vifs = set.vifs.iter().map(|vf| vf.0);
        vifs.chain(set.pf.then_some(255)).collect()
    }

    #[test]
    fn learns_moves_and_ages() {
        let mut bridge = bridge(0..3);
        let mut send = |at, from, dst, src| {
            let set = bridge.forward(seconds(at), from, Vlan::NONE, &header(mac(dst), mac(src)));
            bridge.count(set, set.vifs, set.pf);
            (tried(set), bridge.stats(seconds(at)))
        };
        assert_eq!(send(0, vif(0), 2, 1).0, [1, 2, 255], "unknown: flooded");
        assert_eq!(send(1, vif(1), 1, 2).0, [0]);
        assert_eq!(send(1, vif(0), 2, 1).0, [1]);
        assert_eq!(send(2, PF, 1, 3).0, [0]);
        assert_eq!(send(2, vif(0), 3, 1).0, [255]);
        assert_eq!(send(3, PF, 1, 2).0, [0], "2 has moved to the PF");
        assert!(send(3, PF, 3, 2).0.is_empty(), "lives where it comes from");
        let (to, stats) = send(302, vif(0), 3, 1);
        assert_eq!(to, [1, 2, 255], "1 and 3 were last heard at 2");
        let expected = BridgeStats {
            entries: 2,
            learned: 4,
            moved: 1,
            aged: 2,
            floods: 2,
            ..BridgeStats::default()
        };
        assert_eq!(stats, expected);
        assert_eq!(send(303, vif(0), 2, 1).0, [1, 2, 255]);
    }

    #[test]
    fn never_learns_groups_nor_zero_nor_at_ports_it_has_not() {
        let mut bridge = bridge(0..2);
        let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        for src in [MacAddr::BROADCAST, group, MacAddr::default()] {
            bridge.forward(Nanos(0), vif(0), Vlan::NONE, &header(mac(1), src));
            let set = bridge.forward(Nanos(0), PF, Vlan::NONE, &header(src, mac(1)));
            assert_eq!(tried(set), [0, 1]);
        }
        bridge.forward(Nanos(0), vif(7), Vlan::NONE, &header(mac(1), mac(7)));
        let learned: Vec<_> = bridge.entries(Nanos(5)).collect();
        let expected = FdbEntry {
            mac: mac(1),
            vlan: None,
            port: PF,
            age: Nanos(5),
        };
        assert_eq!(learned, [expected]);
    }

    #[test]
    fn a_full_row_takes_nobody_until_somebody_has_aged() {
        let mut bridge = bridge([0]);
        let row = row_of(Vlan::NONE, mac(0));
        let same = (0..).map(mac).filter(|m| row_of(Vlan::NONE, *m) == row);
        let same: Vec<_> = same.take(ROW + 2).collect();
        let mut hear = |at, n: usize| {
            bridge.forward(seconds(at), vif(0), Vlan::NONE, &header(mac(0), same[n]));
            bridge.stats(seconds(at))
        };
        for n in 0..ROW {
            hear(n as u64, n);
        }
        let stats = hear(299, ROW);
        assert_eq!((stats.entries, stats.learned, stats.full), (8, 8, 1));
        hear(299, 0);
        let stats = hear(301, ROW);
        assert_eq!((stats.learned, stats.aged, stats.full), (9, 1, 1));
        let heard = |n: usize| bridge.entries(seconds(301)).any(|e| e.mac == same[n]);
        assert!(heard(0), "was heard again in time");
        assert!(!heard(1), "had aged and gave way");
        assert!(heard(ROW));
    }

    #[test]
    fn vlans_do_not_mix_even_in_one_row() {
        let mut bridge = bridge(0..2);
        let row = row_of(vlan(1), mac(1));
        let same = (2..4095).map(vlan).find(|v| row_of(*v, mac(1)) == row);
        let other = same.unwrap();
        bridge.forward(Nanos(0), vif(0), vlan(1), &header(mac(9), mac(1)));
        assert_eq!(bridge.find(Nanos(0), other, mac(1)), None);
        bridge.forward(Nanos(0), vif(1), other, &header(mac(9), mac(1)));
        assert_eq!(bridge.find(Nanos(0), vlan(1), mac(1)), Some(vif(0)));
        assert_eq!(bridge.find(Nanos(0), other, mac(1)), Some(vif(1)));
    }

    #[test]
    fn a_flood_of_addresses_ends_at_the_capacity() {
        let mut bridge = bridge([0]);
        let many = 4 * CAPACITY as u32;
        for n in 0..many {
            bridge.forward(Nanos(0), vif(0), Vlan::NONE, &header(mac(0), mac(n)));
        }
        let stats = bridge.stats(Nanos(0));
        assert!(stats.entries <= CAPACITY as u64);
        assert!(stats.entries >= CAPACITY as u64 / 2, "spread badly");
        assert_eq!(stats.learned + stats.full, u64::from(many));
        assert_eq!(bridge.find(Nanos(0), Vlan::NONE, mac(0)), Some(vif(0)));
    }

    #[test]
    fn a_port_that_goes_takes_its_stations_with_it() {
        let mut bridge = bridge(0..2);
        for (n, port) in [vif(0), vif(1), PF].into_iter().enumerate() {
            let frame = header(mac(9), mac(n as u32));
            bridge.forward(Nanos(0), port, vlan(n as u16 + 1), &frame);
        }
        bridge.set_vifs([VfIndex(1), VfIndex(2)].into_iter().collect());
        let tags = |e: FdbEntry| (e.port, e.vlan.map(VlanTag::vid));
        let mut left: Vec<_> = bridge.entries(Nanos(0)).map(tags).collect();
        left.sort_by_key(|e| e.1);
        assert_eq!(left, [(vif(1), Some(2)), (PF, Some(3))]);
        assert_eq!(bridge.stats(Nanos(0)).flushed, 1);
        let set = bridge.forward(Nanos(0), PF, Vlan::NONE, &header(mac(8), mac(9)));
        assert_eq!(tried(set), [1, 2]);
    }

    fn any_port() -> impl Strategy<Value = BridgePort> {
        prop_oneof![(0..3u8).prop_map(vif), Just(PF)]
    }

    proptest! {
        /// Against a map without bounds, which keeps when and where each station was heard last.
        #[test]
        fn does_what_a_map_does(
            frames in proptest::collection::vec(
                (select(vec![0, 0, 1, 150, 299, 300, 301]), any_port(), 0u16..3, 0u32..4, 0u32..4),
                0..60,
            ),
        ) {
            let mut bridge = bridge(0..3);
            let mut map = BTreeMap::new();
            let (mut now, mut floods) = (0, 0);
            for (gap, from, vid, src, dst) in frames {
                now += gap;
                map.insert((vid, src), (now, from));
                let known = map.get(&(vid, dst)).filter(|(seen, _)| now - seen < 300);
                let mut expected = match known {
                    None => vec![vif(0), vif(1), vif(2), PF],
                    Some((_, port)) => vec![*port],
                };
                floods += u64::from(known.is_none());
                expected.retain(|port| *port != from);
                let set = bridge.forward(seconds(now), from, vlan(vid), &header(mac(dst), mac(src)));
                bridge.count(set, set.vifs, set.pf);
                let ports = set.vifs.iter().map(BridgePort::Vif).chain(set.pf.then_some(PF));
                prop_assert_eq!(ports.collect::<Vec<_>>(), expected);
                let stats = bridge.stats(seconds(now));
                let known = map.values().filter(|(seen, _)| now - seen < 300).count() as u64;
                prop_assert_eq!((stats.entries, stats.floods, stats.full), (known, floods, 0));
                prop_assert_eq!(stats.learned, stats.entries + stats.aged);
            }
        }

        /// Whatever comes and goes, also when time stands still or steps back.
        #[test]
        fn every_station_learned_is_known_has_aged_or_was_flushed(
            frames in proptest::collection::vec(
                (0u64..1000, any_port(), 0u32..20_000, proptest::option::weighted(0.1, 0u8..8)),
                0..200,
            ),
            end in 0u64..1500,
        ) {
            let mut bridge = bridge(0..3);
            for (at, from, src, vifs) in frames {
                bridge.forward(seconds(at), from, Vlan::NONE, &header(mac(src / 2), mac(src)));
                if let Some(bits) = vifs {
                    bridge.set_vifs((0..3).filter(|i| bits >> i & 1 == 1).map(VfIndex).collect());
                }
                let stats = bridge.stats(seconds(end));
                prop_assert_eq!(stats.learned, stats.entries + stats.aged + stats.flushed);
                prop_assert_eq!(stats.entries, bridge.entries(seconds(end)).count() as u64);
            }
        }
    }
}
