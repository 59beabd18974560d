//! What path `auto` has learned of flows, as a part of a NIC's policy: the filters by which received frames take the fast path to
//! their VF, within each VF's quotas. They say which path a frame takes and never who receives it, so both paths stay the
//! same to every rule (the Xen acceleration plug-in of sfc, accel_fwd.c and accel_solarflare.c). Never looks at a policy's other parts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use serde::Serialize;
use vf_packet::{Header, MacAddr, PROTO_TCP, PROTO_UDP, PlainIpv4};

use crate::filter_spec::{
    FilterAction, FilterMatch, FilterPriority, FilterSpec, FlowEnd, Transport,
};
use crate::vf::VfIndex;

/// What a VF on path `auto` may have of the NIC, as the plug-in's `limits/*` in xenstore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct AutoLimits {
    /// Most learned filters; the next one takes the place of one of the VF's own, drawn at random.
    pub max_filters: u16,
    /// Most groups on the fast path; the others stay on the slow one.
    pub max_mcasts: u16,
    /// Most buffer pages of 4 KiB: half of them hold frames that wait until their flow has changed to the fast path.
    pub max_buf_pages: u16,
}

impl Default for AutoLimits {
    /// Those of the plug-in.
    fn default() -> AutoLimits {
        AutoLimits {
            max_filters: 8,
            max_mcasts: 8,
            max_buf_pages: 384,
        }
    }
}

impl AutoLimits {
    /// Receive buffers, of 2048 bytes each: two a page, and they have half of the pages.
    #[must_use]
    pub fn buffers(&self) -> usize {
        usize::from(self.max_buf_pages)
    }
}

/// What a learned filter matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FastKey {
    /// Every TCP or UDP packet to one port of one IPv4 address. Fragments have no ports, so they never take the fast path.
    Flow {
        /// Protocol.
        transport: Transport,
        /// Destination address.
        ip: Ipv4Addr,
        /// Destination port, not 0.
        port: u16,
    },
    /// A group that the VF's driver has listed.
    Group(MacAddr),
}

impl FastKey {
    /// What would have to be learned for frames that begin like this to take the fast path; `None` if nothing would do.
    #[must_use]
    #[inline]
    pub fn of_frame(head: &[u8]) -> Option<FastKey> {
        let dst = MacAddr::of_frame(head);
        if dst.is_multicast() {
            return (!dst.is_broadcast()).then_some(FastKey::Group(dst));
        }
        let (protocol, ip, port) = match PlainIpv4::of_frame(head) {
            Some(packet) if !packet.has_ports() => return None,
            Some(packet) => (
                packet.protocol(),
                Ipv4Addr::from_bits(packet.dst()),
                packet.dst_port(),
            ),
            None => {
                let flow = Header::parse(head).ok()?.flow(head)?;
                let IpAddr::V4(ip) = flow.dst else {
                    return None;
                };
                (flow.protocol, ip, flow.ports?.1)
            }
        };
        let transport = match protocol {
            PROTO_TCP => Transport::Tcp,
            PROTO_UDP => Transport::Udp,
            _ => return None,
        };
        (port != 0).then_some(FastKey::Flow {
            transport,
            ip,
            port,
        })
    }

    /// The filter of the NIC's table that it takes; none for a group, which is a subscription.
    pub(crate) fn filter(self, vf: VfIndex) -> Option<FilterSpec> {
        let FastKey::Flow {
            transport,
            ip,
            port,
        } = self
        else {
            return None;
        };
        let ip = IpAddr::V4(ip);
        Some(FilterSpec {
            matches: FilterMatch::Local {
                transport,
                local: FlowEnd { ip, port },
            },
            action: FilterAction::Vf(vf),
            priority: FilterPriority::Hint,
        })
    }
}

/// What a plane has seen that path `auto` is to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastEvent {
    /// The hypervisor was handed a frame for this VF that the fast path could have carried.
    Learn {
        /// Who receives it.
        vf: VfIndex,
        /// What the frame matches.
        key: FastKey,
    },
    /// A frame matched a filter of this VF and is not the VF's to receive: the address lives elsewhere now.
    Stale {
        /// Whose filter it is.
        vf: VfIndex,
        /// What the filter matches.
        key: FastKey,
    },
}

/// How often filters of a VF have come and gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LearnedStats {
    /// Filters learned.
    pub learned: u64,
    /// Filters that gave way to others of the same VF.
    pub evicted: u64,
    /// Filters that matched frames for somebody else.
    pub stale: u64,
}

/// A learned filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LearnedFilter {
    pub(crate) key: FastKey,
    pub(crate) vf: VfIndex,
    /// No other learned filter of the NIC has ever had it.
    pub(crate) id: u64,
}

/// The learned filters of a NIC, by key and VF. A copy shares them until it changes.
#[derive(Clone, Debug)]
pub(crate) struct Learned(Arc<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    filters: Vec<LearnedFilter>,
    stats: Vec<LearnedStats>,
    next_id: u64,
    seed: u64,
}

impl Learned {
    /// None, of a NIC with so many VFs.
    pub(crate) fn new(vfs: usize, seed: u64) -> Learned {
        Learned(Arc::new(Inner {
            filters: Vec::new(),
            stats: vec![LearnedStats::default(); vfs],
            next_id: 1,
            seed,
        }))
    }

    #[inline]
    pub(crate) fn filters(&self) -> &[LearnedFilter] {
        &self.0.filters
    }

    pub(crate) fn is_same(&self, other: &Learned) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Who has learned this.
    pub(crate) fn of_key(&self, key: FastKey) -> &[LearnedFilter] {
        let all = &self.0.filters;
        let begin = all.partition_point(|filter| filter.key < key);
        let rest = &all[begin..];
        &rest[..rest.partition_point(|filter| filter.key == key)]
    }

    pub(crate) fn has(&self, key: FastKey, vf: VfIndex) -> bool {
        self.of_key(key).iter().any(|filter| filter.vf == vf)
    }

    pub(crate) fn stats(&self, vf: VfIndex) -> LearnedStats {
        self.0.stats.get(vf.index()).copied().unwrap_or_default()
    }

    /// A VF's own of one kind.
    pub(crate) fn of_vf(&self, vf: VfIndex, groups: bool) -> impl Iterator<Item = FastKey> + '_ {
        let own = self.0.filters.iter().filter(move |filter| {
            filter.vf == vf && matches!(filter.key, FastKey::Group(_)) == groups
        });
        own.map(|filter| filter.key)
    }

    /// One of a VF's filters on flows, drawn at random: the next to give way.
    pub(crate) fn draw(&self, vf: VfIndex) -> Option<FastKey> {
        let own = self.of_vf(vf, false).count();
        // `next_id` is another number at each draw, so that it is not always the same place in the list that gives way.
        let drawn = splitmix(self.0.seed, self.0.next_id) % (own as u64).max(1);
        self.of_vf(vf, false).nth(drawn as usize)
    }

    pub(crate) fn add(&mut self, key: FastKey, vf: VfIndex) {
        let inner = Arc::make_mut(&mut self.0);
        let id = inner.next_id;
        inner.next_id += 1;
        let at = inner
            .filters
            .partition_point(|filter| (filter.key, filter.vf) < (key, vf));
        inner.filters.insert(at, LearnedFilter { key, vf, id });
        self.count(vf, |stats| stats.learned += 1);
    }

    pub(crate) fn remove(&mut self, key: FastKey, vf: VfIndex) {
        let gone = |filter: &LearnedFilter| (filter.key, filter.vf) == (key, vf);
        Arc::make_mut(&mut self.0).filters.retain(|f| !gone(f));
    }

    pub(crate) fn count(&mut self, vf: VfIndex, count: impl FnOnce(&mut LearnedStats)) {
        let inner = Arc::make_mut(&mut self.0);
        inner.stats.get_mut(vf.index()).map(count);
    }
}

/// A well-spread number for each `n`.
fn splitmix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(dst: u8, protocol: u8, fragment: u8, options: bool) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
        frame.extend([
            0x45 + u8::from(options),
            0,
            0,
            44,
            0,
            0,
            fragment,
            0,
            64,
            protocol,
            0,
            0,
        ]);
        frame.extend([10, 0, 0, 9, 10, 0, 0, dst]);
        if options {
            frame.extend([1; 4]);
        }
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn only_whole_tcp_and_udp_packets_of_ipv4_and_groups_can_be_learned() {
        let key = |transport| {
            Some(FastKey::Flow {
                transport,
                ip: Ipv4Addr::new(10, 0, 0, 1),
                port: 80,
            })
        };
        assert_eq!(FastKey::of_frame(&tcp(1, 6, 0, false)), key(Transport::Tcp));
        assert_eq!(FastKey::of_frame(&tcp(1, 6, 0, true)), key(Transport::Tcp));
        assert_eq!(
            FastKey::of_frame(&tcp(1, 17, 0, false)),
            key(Transport::Udp)
        );
        assert_eq!(
            FastKey::of_frame(&tcp(1, 6, 0x20, false)),
            None,
            "a fragment"
        );
        assert_eq!(FastKey::of_frame(&tcp(1, 1, 0, false)), None, "ICMP");
        let mut arp = tcp(1, 6, 0, false);
        arp[13] = 6;
        assert_eq!(FastKey::of_frame(&arp), None);
        let mut group = tcp(1, 6, 0, false);
        group[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
        let mac = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(FastKey::of_frame(&group), Some(FastKey::Group(mac)));
        group[..6].copy_from_slice(&MacAddr::BROADCAST.0);
        assert_eq!(FastKey::of_frame(&group), None);
        for len in 0..group.len() {
            let _ = FastKey::of_frame(&group[..len]);
        }
    }

    #[test]
    fn who_gives_way_is_drawn_and_drawn_alike_in_every_run() {
        let drawn = |seed| {
            let mut learned = Learned::new(2, seed);
            let key = |port| FastKey::Flow {
                transport: Transport::Tcp,
                ip: Ipv4Addr::LOCALHOST,
                port,
            };
            (1..9).for_each(|port| learned.add(key(port), VfIndex(1)));
            assert_eq!(learned.draw(VfIndex(0)), None);
            let draws = (9..40).map(|port| {
                let gone = learned.draw(VfIndex(1)).unwrap();
                learned.remove(gone, VfIndex(1));
                learned.add(key(port), VfIndex(1));
                assert_eq!(learned.of_vf(VfIndex(1), false).count(), 8);
                gone
            });
            draws.collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
    }
}
