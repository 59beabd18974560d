//! The NIC's filter table and what a frame is looked up in: one hash probe for each family of kinds in use, however many
//! filters there are. Filters that differ only in how much they match lie in one family, the wide match in front: a frame
//! to a local port that no filter names is done with after one probe. A copy of the table shares with it all that does not
//! change. Never allocates while looking up, and gives the same answers in every run.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use vf_packet::{Header, PlainIpv4, Vlan};

use crate::cow_map::{CowMap, seed};
use crate::filter_spec::{FilterAction, FilterMatch, FilterPriority, FilterSpec, MatchError};
use crate::profile::{MAX_TABLE_FILTERS, Profile, Rows};

/// Why the table does not take a filter, or has none to give up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// No frame can match it.
    #[error(transparent)]
    Match(#[from] MatchError),
    /// The NIC has a filter with this match and priority.
    #[error("filter {0} priority {1}: is there already, delete it first")]
    Exists(FilterMatch, FilterPriority),
    /// The NIC has no filter with this match and priority.
    #[error("filter {0} priority {1}: there is no such filter")]
    NotFound(FilterMatch, FilterPriority),
    /// No room for another filter.
    #[error("the filter table is full: {room} filters, delete one first")]
    Full {
        /// How many filters the table holds.
        room: usize,
    },
    /// No room for another filter of its kind in the table of a NIC with this profile, or no such filters at all.
    #[error("filter: a NIC of profile {profile} holds {room} of the kind {matches}")]
    KindFull {
        /// What the NIC is like.
        profile: Profile,
        /// Of the kind that is meant.
        matches: FilterMatch,
        /// How many it holds.
        room: usize,
    },
}

/// The filters of a NIC.
#[derive(Clone, Debug)]
pub struct FilterTable {
    profile: Profile,
    rows: CowMap<FilterMatch, Row>,
    /// How many filters there are.
    len: usize,
    /// How many of each kind.
    used: [usize; Rows::COUNT],
    index: Index,
}

/// The filters with one match, by priority.
#[derive(Clone, Copy, Debug, Default)]
struct Row([Option<FilterAction>; FilterPriority::ALL.len()]);

impl Row {
    /// Of the highest priority.
    fn in_force(&self) -> Option<FilterAction> {
        self.0.iter().rev().find_map(|action| *action)
    }
}

/// The filter in force for each match.
#[derive(Clone, Debug)]
struct Index {
    v4: Family<Local4, End4>,
    /// Local ports that a filter in `v4` names.
    ports4: Ports,
    v6: Family<Local6, End6>,
    macs: Family<u64, u16>,
    ethertypes: CowMap<u16, FilterAction>,
    unknown_multicast: Option<FilterAction>,
    unknown_unicast: Option<FilterAction>,
}

/// Filters on a wide key, and on that and a further key together.
#[derive(Clone, Debug)]
struct Family<W, N> {
    wide: CowMap<W, Wide>,
    narrow: CowMap<(W, N), FilterAction>,
}

/// A set of ports, a bit for each; empty until the first is put in. It only ever saves a probe: a port stays in it until no
/// filter on IPv4 flows is left.
#[derive(Clone, Debug, Default)]
struct Ports(Arc<[u64]>);

#[derive(Clone, Copy, Debug, Default)]
struct Wide {
    action: Option<FilterAction>,
    /// How many filters go on from here.
    narrower: u32,
}

/// What the filters of a family say of a frame: the one that matches more goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    narrow: Option<FilterAction>,
    wide: Option<FilterAction>,
}

/// IPv4 address, port and protocol.
type Local4 = u64;
/// IPv4 address and port.
type End4 = u64;
/// IPv6 address; port and protocol.
type Local6 = (u128, u32);
/// IPv6 address and port.
type End6 = (u128, u16);

impl Ports {
    fn insert(&mut self, port: u16) {
        if self.contains(port) {
            return;
        }
        if self.0.is_empty() {
            self.0 = vec![0; 1 << 10].into();
        }
        if let Some(word) = Arc::make_mut(&mut self.0).get_mut(usize::from(port) / 64) {
            *word |= 1 << (port % 64);
        }
    }

    #[inline]
    fn contains(&self, port: u16) -> bool {
        let word = self.0.get(usize::from(port) / 64);
        word.is_some_and(|word| word >> (port % 64) & 1 == 1)
    }
}

impl FilterTable {
    /// The empty table of a NIC.
    pub(crate) fn new(profile: Profile) -> FilterTable {
        let seed = seed();
        FilterTable {
            profile,
            rows: CowMap::new(seed),
            len: 0,
            used: [0; Rows::COUNT],
            index: Index::new(seed),
        }
    }

    /// Which NIC's table it is like.
    pub(crate) fn profile(&self) -> Profile {
        self.profile
    }

    /// How many filters it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The filters: the kind that wins first, and of the same match the one in force first. Sorts them all.
    pub fn iter(&self) -> impl Iterator<Item = FilterSpec> + use<> {
        let mut rows: Vec<(FilterMatch, Row)> = self.rows.iter().copied().collect();
        rows.sort_unstable_by_key(|(matches, _)| *matches);
        rows.into_iter().flat_map(|(matches, row)| {
            let actions = FilterPriority::ALL.into_iter().zip(row.0);
            actions.rev().filter_map(move |(priority, action)| {
                Some(FilterSpec {
                    matches,
                    action: action?,
                    priority,
                })
            })
        })
    }

    pub(crate) fn insert(&mut self, spec: &FilterSpec) -> Result<(), TableError> {
        spec.matches.check()?;
        let mut row = self.rows.get(&spec.matches).unwrap_or_default();
        let action = &mut row.0[spec.priority as usize];
        if action.is_some() {
            return Err(TableError::Exists(spec.matches, spec.priority));
        }
        if self.len >= MAX_TABLE_FILTERS {
            return Err(TableError::Full {
                room: MAX_TABLE_FILTERS,
            });
        }
        let rows = Rows::of(&spec.matches);
        let (used, room) = (self.used[rows as usize], self.profile.silicon().room(rows));
        if used >= room {
            return Err(TableError::KindFull {
                profile: self.profile,
                matches: spec.matches,
                room,
            });
        }
        *action = Some(spec.action);
        self.len += 1;
        self.used[rows as usize] += 1;
        self.set(&spec.matches, row);
        Ok(())
    }

    pub(crate) fn remove(
        &mut self,
        matches: &FilterMatch,
        priority: FilterPriority,
    ) -> Result<(), TableError> {
        let mut row = self.rows.get(matches).unwrap_or_default();
        if row.0[priority as usize].take().is_none() {
            return Err(TableError::NotFound(*matches, priority));
        }
        self.len -= 1;
        self.used[Rows::of(matches) as usize] -= 1;
        self.set(matches, row);
        Ok(())
    }

    /// Sets the filters with one match, and puts the one that is in force now into the index or takes the last one out.
    fn set(&mut self, matches: &FilterMatch, row: Row) {
        let action = row.in_force();
        self.rows.put(*matches, action.map(|_| row));
        let Index {
            v4,
            ports4,
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
                    ports4.insert(local.port);
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
                IpAddr::V4(ip) => {
                    ports4.insert(local.port);
                    v4.set(
                        local4(ip.to_bits(), local.port, transport.protocol()),
                        action,
                    );
                }
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
                ethertypes.put(proto, action);
            }
            FilterMatch::UnknownMulticast => *unknown_multicast = action,
            FilterMatch::UnknownUnicast => *unknown_unicast = action,
        }
        if v4.is_empty() {
            *ports4 = Ports::default();
        }
    }

    /// What filters on flows say of a frame.
    #[inline]
    pub(crate) fn flow_actions(&self, head: &[u8]) -> Actions {
        let Index { v4, v6, ports4, .. } = &self.index;
        if v4.is_empty() && v6.is_empty() {
            return Actions::default();
        }
        match plain_flow4(head, ports4) {
            Plain::Unnamed => Actions::default(),
            Plain::Flow(local, remote) => v4.get(local, || remote),
            Plain::No => self.index.any_flow(head).unwrap_or_default(),
        }
    }

    /// What the first filter says that matches a frame in `vlan` and is not passed over, filters on flows given and those
    /// on unknown stations left out.
    #[inline]
    pub(crate) fn find(
        &self,
        header: &Header,
        flow: Actions,
        vlan: Vlan,
        mut takes: impl FnMut(&FilterAction) -> bool,
    ) -> Option<FilterAction> {
        let index = &self.index;
        let by_mac = || index.macs.get(header.dst.to_u64(), || vlan.to_u16());
        let by_type = || index.ethertypes.get(&header.ethertype);
        let to_group = header.dst.is_multicast() && !header.dst.is_broadcast();
        let unknown = || index.unknown_multicast.filter(|_| to_group);
        flow.first(&mut takes)
            .or_else(|| by_mac().first(&mut takes))
            .or_else(|| by_type().filter(&mut takes))
            .or_else(|| unknown().filter(&mut takes))
    }

    /// What is said about stations that nobody has.
    pub(crate) fn unknown_unicast(&self) -> Option<FilterAction> {
        self.index.unknown_unicast
    }
}

impl Actions {
    /// The first that is not passed over.
    #[inline]
    fn first(self, mut takes: impl FnMut(&FilterAction) -> bool) -> Option<FilterAction> {
        self.narrow
            .filter(&mut takes)
            .or_else(|| self.wide.filter(&mut takes))
    }

    /// A number of at most 20 bits that no other actions have.
    #[inline]
    pub(crate) fn code(self) -> u64 {
        let code = |action| match action {
            None => 0,
            Some(FilterAction::Drop) => 1,
            Some(FilterAction::Vf(vf)) => 2 + u64::from(vf.0),
        };
        code(self.narrow) << 10 | code(self.wide)
    }
}

impl Index {
    fn new(seed: u64) -> Index {
        Index {
            v4: Family::new(seed),
            ports4: Ports::default(),
            v6: Family::new(seed),
            macs: Family::new(seed),
            ethertypes: CowMap::new(seed),
            unknown_multicast: None,
            unknown_unicast: None,
        }
    }

    #[inline(never)]
    fn any_flow(&self, head: &[u8]) -> Option<Actions> {
        let flow = Header::parse(head).ok()?.flow(head)?;
        let (src, dst) = flow.ports?;
        match (flow.dst, flow.src) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => Some(
                self.v4
                    .get(local4(local.to_bits(), dst, flow.protocol), || {
                        end4(remote.to_bits(), src)
                    }),
            ),
            (IpAddr::V6(local), IpAddr::V6(remote)) => Some(
                self.v6
                    .get(local6(local.to_bits(), dst, flow.protocol), || {
                        (remote.to_bits(), src)
                    }),
            ),
            _ => None,
        }
    }
}

/// A frame as [`plain_flow4`] sees it.
enum Plain {
    /// To a port that no filter names, if it has ports at all.
    Unnamed,
    /// This flow.
    Flow(Local4, End4),
    /// Something else.
    No,
}

/// The flow of a whole IPv4 packet of TCP or UDP without options behind at most one tag: of nearly all there are.
#[inline]
fn plain_flow4(head: &[u8], named: &Ports) -> Plain {
    let Some(packet) = PlainIpv4::of_frame(head) else {
        return Plain::No;
    };
    if !named.contains(packet.dst_port()) {
        return Plain::Unnamed;
    }
    if !packet.has_ports() {
        return Plain::No;
    }
    let local = local4(packet.dst(), packet.dst_port(), packet.protocol());
    Plain::Flow(local, end4(packet.src(), packet.src_port()))
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

impl<W: Copy + Hash + Eq, N: Copy + Hash + Eq> Family<W, N> {
    fn new(seed: u64) -> Family<W, N> {
        Family {
            wide: CowMap::new(seed),
            narrow: CowMap::new(seed),
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.wide.is_empty()
    }

    fn set(&mut self, key: W, action: Option<FilterAction>) {
        self.change(key, |wide| wide.action = action);
    }

    fn set_narrow(&mut self, key: W, further: N, action: Option<FilterAction>) {
        let was = self.narrow.put((key, further), action);
        self.change(key, |wide| {
            wide.narrower = wide.narrower + u32::from(action.is_some()) - u32::from(was);
        });
    }

    fn change(&mut self, key: W, change: impl FnOnce(&mut Wide)) {
        let mut wide = self.wide.get(&key).unwrap_or_default();
        change(&mut wide);
        let empty = wide.action.is_none() && wide.narrower == 0;
        self.wide.put(key, (!empty).then_some(wide));
    }

    #[inline]
    fn get(&self, key: W, further: impl FnOnce() -> N) -> Actions {
        let Some(wide) = self.wide.get(&key) else {
            return Actions::default();
        };
        Actions {
            narrow: match wide.narrower {
                0 => None,
                _ => self.narrow.get(&(key, further())),
            },
            wide: wide.action,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vf_packet::MacAddr;

    fn spec(words: &str) -> FilterSpec {
        words.parse().unwrap()
    }

    fn found(table: &FilterTable, dst: [u8; 6]) -> Option<String> {
        let mut head = [dst, [2, 0, 0, 0, 0, 9]].concat();
        head.extend([0x88, 0xb5]);
        let header = Header::parse(&head).unwrap();
        let flow = table.flow_actions(&head);
        let action = table.find(&header, flow, Vlan::NONE, |_| true);
        action.map(|action| action.to_string())
    }

    #[test]
    fn the_highest_priority_is_in_force_and_the_others_take_over() {
        let mut table = FilterTable::new(Profile::Generic);
        for (vf, priority) in [(1, "auto"), (2, "required"), (3, "hint"), (4, "manual")] {
            let words =
                format!("flow-type ether dst 02:00:00:00:00:01 vf {vf} priority {priority}");
            table.insert(&spec(&words)).unwrap();
        }
        for vf in [2, 4, 1, 3] {
            assert_eq!(found(&table, [2, 0, 0, 0, 0, 1]), Some(format!("vf {vf}")));
            let first = table.iter().next().unwrap();
            table.remove(&first.matches, first.priority).unwrap();
        }
        assert_eq!(found(&table, [2, 0, 0, 0, 0, 1]), None);
        assert!(table.is_empty() && table.index.macs.wide.is_empty());
    }

    #[test]
    fn a_table_holds_so_many_and_nothing_twice() {
        let mut table = FilterTable::new(Profile::Generic);
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
        let mut table = FilterTable::new(Profile::Generic);
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
