//! The NIC's filter table and what a frame is looked up in: one hash probe for each family of kinds in use, however many
//! filters there are. Filters that differ only in how much they match lie in one family, the wide match in front: a frame
//! to a local port that no filter names is done with after one probe. Never allocates while looking up, and gives the same
//! answers in every run.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::IpAddr;

use crate::addr::Vlan;
use crate::command::Refusal;
use crate::frame::{Header, be16};
use crate::steering::{FilterAction, FilterMatch, FilterPriority, FilterSpec};

/// Most filters in the table of a NIC.
pub const MAX_TABLE_FILTERS: usize = 8192;

/// The filters of a NIC, in the order in which they win.
#[derive(Clone, Debug, Default)]
pub struct FilterTable {
    rows: BTreeMap<(FilterMatch, FilterPriority), FilterAction>,
    index: Index,
}

/// The filter in force for each match.
#[derive(Clone, Debug, Default)]
struct Index {
    v4: Family<Local4, End4>,
    v6: Family<Local6, End6>,
    macs: Family<u64, u16>,
    ethertypes: Map<u16, FilterAction>,
    unknown_multicast: Option<FilterAction>,
    unknown_unicast: Option<FilterAction>,
}

/// Filters on a wide key, and on that and a further key together.
#[derive(Clone, Debug)]
struct Family<W, N> {
    wide: Map<W, Wide>,
    narrow: Map<(W, N), FilterAction>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wide {
    action: Option<FilterAction>,
    /// How many filters go on from here.
    narrower: u32,
}

/// IPv4 address, port and protocol.
type Local4 = u64;
/// IPv4 address and port.
type End4 = u64;
/// IPv6 address; port and protocol.
type Local6 = (u128, u32);
/// IPv6 address and port.
type End6 = (u128, u16);

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// A hash that is the same in every run. Keys are the administrator's, so nobody can choose them to collide, and a frame
/// that collides is as quick as another.
#[derive(Clone, Copy, Default)]
struct Fold(u64);

impl Hasher for Fold {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        // Both halves of the product depend on all bits of the word.
        let product = u128::from(self.0 ^ word ^ 0x2437_7300_8ab4_13c5) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product ^ product >> 64) as u64;
    }

    #[inline]
    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    #[inline]
    fn write_u16(&mut self, word: u16) {
        self.write_u64(word.into());
    }
}

impl FilterTable {
    /// How many filters it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The filters: the kind that wins first, and of the same match the one in force last.
    pub fn iter(&self) -> impl Iterator<Item = FilterSpec> + '_ {
        self.rows
            .iter()
            .map(|((matches, priority), action)| FilterSpec {
                matches: *matches,
                action: *action,
                priority: *priority,
            })
    }

    pub(crate) fn insert(&mut self, spec: &FilterSpec) -> Result<(), Refusal> {
        spec.matches.check()?;
        let row = (spec.matches, spec.priority);
        if self.rows.contains_key(&row) {
            return Err(Refusal::MatchExists(spec.matches, spec.priority));
        }
        if self.rows.len() >= MAX_TABLE_FILTERS {
            return Err(Refusal::TableFull {
                room: MAX_TABLE_FILTERS,
            });
        }
        self.rows.insert(row, spec.action);
        self.index(&spec.matches);
        Ok(())
    }

    pub(crate) fn remove(
        &mut self,
        matches: &FilterMatch,
        priority: FilterPriority,
    ) -> Result<(), Refusal> {
        match self.rows.remove(&(*matches, priority)) {
            None => Err(Refusal::NoSuchMatch(*matches, priority)),
            Some(_) => {
                self.index(matches);
                Ok(())
            }
        }
    }

    /// Puts the filter that is in force for a match now into the index, or takes the last one out.
    fn index(&mut self, matches: &FilterMatch) {
        let all = (*matches, FilterPriority::Hint)..=(*matches, FilterPriority::Required);
        let action = self.rows.range(all).next_back().map(|(_, action)| *action);
        let Index {
            v4,
            v6,
            macs,
            ethertypes,
            unknown_multicast,
            unknown_unicast,
        } = &mut self.index;
        match *matches {
            FilterMatch::Full {
                transport,
                local,
                remote,
            } => match (local.ip, remote.ip) {
                (IpAddr::V4(l), IpAddr::V4(r)) => {
                    let wide = local4(l.to_bits(), local.port, transport.protocol());
                    v4.set_narrow(wide, end4(r.to_bits(), remote.port), action);
                }
                (IpAddr::V6(l), IpAddr::V6(r)) => {
                    let wide = local6(l.to_bits(), local.port, transport.protocol());
                    v6.set_narrow(wide, (r.to_bits(), remote.port), action);
                }
                _ => {} // refused by the check of the match
            },
            FilterMatch::Local { transport, local } => match local.ip {
                IpAddr::V4(ip) => v4.set(
                    local4(ip.to_bits(), local.port, transport.protocol()),
                    action,
                ),
                IpAddr::V6(ip) => v6.set(
                    local6(ip.to_bits(), local.port, transport.protocol()),
                    action,
                ),
            },
            FilterMatch::MacVlan { mac, vid } => {
                macs.set_narrow(mac.to_u64(), Vlan::of_vid(vid).to_u16(), action);
            }
            FilterMatch::Mac(mac) => macs.set(mac.to_u64(), action),
            FilterMatch::EtherType(proto) => {
                put(ethertypes, proto, action);
            }
            FilterMatch::UnknownMulticast => *unknown_multicast = action,
            FilterMatch::UnknownUnicast => *unknown_unicast = action,
        }
    }

    /// What the first filter says that matches a frame in `vlan` and is not passed over, unknown stations left out.
    #[inline]
    pub(crate) fn find(
        &self,
        header: &Header,
        head: &[u8],
        vlan: Vlan,
        takes: impl Fn(FilterAction) -> bool,
    ) -> Option<FilterAction> {
        let index = &self.index;
        if !(index.v4.is_empty() && index.v6.is_empty())
            && let Some(action) = index.flow(header, head, &takes)
        {
            return Some(action);
        }
        let takes = |action: &FilterAction| takes(*action);
        let by_mac = || {
            index
                .macs
                .find(header.dst.to_u64(), || vlan.to_u16(), takes)
        };
        let by_type = || index.ethertypes.get(&header.ethertype).copied();
        let unknown = || {
            index
                .unknown_multicast
                .filter(|_| header.dst.is_multicast() && !header.dst.is_broadcast())
        };
        by_mac()
            .or_else(|| by_type().filter(takes))
            .or_else(|| unknown().filter(takes))
    }

    /// Whether a filter may match the frame's flow. No is certain, and quick for the frames that there are many of.
    #[inline]
    pub(crate) fn may_match_flow(&self, head: &[u8]) -> bool {
        let Index { v4, v6, .. } = &self.index;
        if v4.is_empty() && v6.is_empty() {
            return false;
        }
        match be16(head, 12) {
            Some(0x0800) if v4.is_empty() => false,
            Some(0x0800) => plain_local4(head).is_none_or(|local| v4.wide.contains_key(&local)),
            Some(0x86dd) => !v6.is_empty(),
            ethertype => ethertype.is_none_or(|t| matches!(t, 0x8100 | 0x88a8 | 0x9100)),
        }
    }

    /// What is said about stations that nobody has.
    pub(crate) fn unknown_unicast(&self) -> Option<FilterAction> {
        self.index.unknown_unicast
    }
}

impl Index {
    #[inline]
    fn flow(
        &self,
        header: &Header,
        head: &[u8],
        takes: &impl Fn(FilterAction) -> bool,
    ) -> Option<FilterAction> {
        let takes = |action: &FilterAction| takes(*action);
        let flow = header.flow(head)?;
        let (src, dst) = flow.ports;
        match (flow.dst, flow.src) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => self.v4.find(
                local4(local.to_bits(), dst, flow.protocol),
                || end4(remote.to_bits(), src),
                takes,
            ),
            (IpAddr::V6(local), IpAddr::V6(remote)) => self.v6.find(
                local6(local.to_bits(), dst, flow.protocol),
                || (remote.to_bits(), src),
                takes,
            ),
            _ => None,
        }
    }
}

/// The local end of an untagged, whole IPv4 packet of TCP or UDP without options.
#[inline]
fn plain_local4(head: &[u8]) -> Option<Local4> {
    let packet: &[u8; 24] = head.get(14..)?.first_chunk()?;
    let whole = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0;
    let [a, b, c, d] = [packet[16], packet[17], packet[18], packet[19]];
    let port = u16::from_be_bytes([packet[22], packet[23]]);
    let protocol = packet[9];
    let plain = packet[0] == 0x45 && whole && matches!(protocol, 6 | 17);
    plain.then(|| local4(u32::from_be_bytes([a, b, c, d]), port, protocol))
}

fn local4(ip: u32, port: u16, protocol: u8) -> Local4 {
    u64::from(ip) << 32 | u64::from(port) << 8 | u64::from(protocol)
}

fn end4(ip: u32, port: u16) -> End4 {
    u64::from(ip) << 16 | u64::from(port)
}

fn local6(ip: u128, port: u16, protocol: u8) -> Local6 {
    (ip, u32::from(port) << 8 | u32::from(protocol))
}

fn put<K: Hash + Eq>(map: &mut Map<K, FilterAction>, key: K, action: Option<FilterAction>) -> bool {
    match action {
        Some(action) => map.insert(key, action).is_some(),
        None => map.remove(&key).is_some(),
    }
}

impl<W: Copy + Hash + Eq, N: Hash + Eq> Family<W, N> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.wide.is_empty()
    }

    fn set(&mut self, key: W, action: Option<FilterAction>) {
        self.change(key, |wide| wide.action = action);
    }

    fn set_narrow(&mut self, key: W, further: N, action: Option<FilterAction>) {
        let was = put(&mut self.narrow, (key, further), action);
        self.change(key, |wide| {
            wide.narrower = wide.narrower + u32::from(action.is_some()) - u32::from(was);
        });
    }

    fn change(&mut self, key: W, change: impl FnOnce(&mut Wide)) {
        let wide = self.wide.entry(key).or_default();
        change(wide);
        if wide.action.is_none() && wide.narrower == 0 {
            self.wide.remove(&key);
        }
    }

    #[inline]
    fn find(
        &self,
        key: W,
        further: impl FnOnce() -> N,
        takes: impl Fn(&FilterAction) -> bool,
    ) -> Option<FilterAction> {
        let wide = self.wide.get(&key)?;
        let narrow = || {
            let action = self.narrow.get(&(key, further())).copied();
            action.filter(&takes)
        };
        (wide.narrower > 0)
            .then(narrow)
            .flatten()
            .or_else(|| wide.action.filter(&takes))
    }
}

impl<W, N> Default for Family<W, N> {
    fn default() -> Family<W, N> {
        Family {
            wide: Map::default(),
            narrow: Map::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::MacAddr;

    fn spec(words: &str) -> FilterSpec {
        words.parse().unwrap()
    }

    fn found(table: &FilterTable, dst: [u8; 6]) -> Option<String> {
        let mut head = [dst, [2, 0, 0, 0, 0, 9]].concat();
        head.extend([0x88, 0xb5]);
        let header = Header::parse(&head).unwrap();
        let action = table.find(&header, &head, Vlan::NONE, |_| true);
        action.map(|action| action.to_string())
    }

    #[test]
    fn the_highest_priority_is_in_force_and_the_others_take_over() {
        let mut table = FilterTable::default();
        for (vf, priority) in [(1, "auto"), (2, "required"), (3, "hint"), (4, "manual")] {
            let words =
                format!("flow-type ether dst 02:00:00:00:00:01 vf {vf} priority {priority}");
            table.insert(&spec(&words)).unwrap();
        }
        for vf in [2, 4, 1, 3] {
            assert_eq!(found(&table, [2, 0, 0, 0, 0, 1]), Some(format!("vf {vf}")));
            let last = table.iter().last().unwrap();
            table.remove(&last.matches, last.priority).unwrap();
        }
        assert_eq!(found(&table, [2, 0, 0, 0, 0, 1]), None);
        assert!(table.is_empty() && table.index.macs.wide.is_empty());
    }

    #[test]
    fn a_table_holds_so_many_and_nothing_twice() {
        let mut table = FilterTable::default();
        let nth = |n| {
            let mac = MacAddr([2, 0, 0, 0, 0, 0]).offset(n);
            spec(&format!("flow-type ether dst {mac} action drop"))
        };
        for n in 0..MAX_TABLE_FILTERS {
            table.insert(&nth(n as u32)).unwrap();
        }
        let full = table.insert(&nth(MAX_TABLE_FILTERS as u32)).unwrap_err();
        assert_eq!(
            full.to_string(),
            "the filter table is full: 8192 filters, delete one first"
        );
        let again = table.insert(&nth(7)).unwrap_err().to_string();
        assert!(
            again.contains("dst 02:00:00:00:00:07 priority manual: is there already"),
            "{again}"
        );
        table
            .remove(&nth(7).matches, FilterPriority::Manual)
            .unwrap();
        let gone = table
            .remove(&nth(7).matches, FilterPriority::Manual)
            .unwrap_err();
        assert!(
            gone.to_string().ends_with("there is no such filter"),
            "{gone}"
        );
        table.insert(&nth(MAX_TABLE_FILTERS as u32)).unwrap();
    }

    #[test]
    fn what_no_frame_can_match_is_refused() {
        let mut table = FilterTable::default();
        for (words, says) in [
            (
                "flow-type tcp4 dst-ip 10.0.0.1 dst-port 0 vf 1",
                "ports are 1 to 65535",
            ),
            (
                "flow-type ether dst 00:00:00:00:00:00 vf 1",
                "other than zero",
            ),
            ("flow-type ether proto 0x5ff vf 1", "0x600 or more"),
        ] {
            let refusal = table.insert(&spec(words)).unwrap_err().to_string();
            assert!(refusal.contains(says), "{words}: {refusal}");
        }
        assert!(table.is_empty());
    }
}
