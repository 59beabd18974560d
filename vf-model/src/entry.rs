//! All that has been said about one VF, by the administrator and by its driver, and what of it is in force. Never judges a
//! frame.

use std::collections::BTreeSet;

use vf_packet::{Header, MacAddr, Vid, Vlan};

use crate::driver_filter::DriverFilter;
use crate::filter_fields::FieldWords;
use crate::filter_space::Spaces;
use crate::mailbox::{Asked, RxFilter};
use crate::mtu::Mtu;
use crate::netem::Impairments;
use crate::rss::Rss;
use crate::rss_context::RssContexts;
use crate::rule::Rule;
use crate::vf::VfPolicy;
use crate::vf_filter::VfFilters;

/// One VF as configured.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) policy: VfPolicy,
    pub(crate) filters: VfFilters,
    /// What the driver has asked for.
    pub(crate) asked: Asked,
    /// What of that is in force.
    pub(crate) rx: RxFilter,
    /// Filters on packets that its driver has put in.
    pub(crate) driver_filters: Vec<DriverFilter>,
    /// Those of them that are for frames which it receives anyway, to be looked up.
    pub(crate) own_filters: Spaces,
    /// As the administrator has it.
    pub(crate) rss: Rss,
    /// As its driver has set it, which is in force instead.
    pub(crate) driver_rss: Option<Rss>,
    /// Further ones, for filters that name them.
    pub(crate) rss_contexts: RssContexts,
    /// What becomes of frames that it sends and receives.
    pub(crate) netem: Impairments,
    /// How often the administrator has reset it.
    pub(crate) resets: u64,
}

impl Entry {
    /// A VF of which nobody has said anything, made with this address.
    pub(crate) fn new(mac: MacAddr, rss: Rss) -> Entry {
        Entry {
            policy: VfPolicy::new(mac),
            filters: VfFilters::default(),
            asked: Asked::default(),
            rx: RxFilter::default(),
            driver_filters: Vec::new(),
            own_filters: Spaces::default(),
            rss,
            driver_rss: None,
            rss_contexts: RssContexts::default(),
            netem: Impairments::default(),
            resets: 0,
        }
    }

    /// The VF's address.
    #[inline]
    pub(crate) fn mac(&self) -> MacAddr {
        self.rx.mac.unwrap_or(self.policy.mac)
    }

    /// The MTU of what it sends, on a port of this MTU: the port's unless it has its own.
    #[inline]
    pub(crate) fn tx_mtu(&self, port: Mtu) -> Mtu {
        self.policy.mtu.unwrap_or(port)
    }

    /// The MTU of what it receives: nothing is passed to a driver that exceeds the MTU to which it has agreed (virtio 5.1.4.1).
    #[inline]
    pub(crate) fn rx_mtu(&self, port: Mtu) -> Mtu {
        let mtu = self.tx_mtu(port);
        self.asked.mtu.map_or(mtu, |agreed| mtu.min(agreed))
    }

    /// The first of its driver's own filters that matches a frame which it receives.
    pub(crate) fn own_rule(&self, header: &Header, vlan: Vlan, head: &[u8]) -> Option<Rule> {
        let link = FieldWords::of_header(header, vlan);
        let packet = match self.own_filters.looks_at_packets() {
            true => link.with_packet(head),
            false => None,
        };
        let words = packet.unwrap_or(link);
        self.own_filters.find(&words, packet.is_some())
    }

    /// Whether `mac` is one of the further addresses in this VLAN.
    pub(crate) fn has(&self, mac: MacAddr, vlan: Vlan) -> bool {
        let in_vlan = |vid: &Option<Vid>| vid.is_none_or(|vid| Vlan::of_vid(vid) == vlan);
        self.added(mac).any(|(_, vid)| in_vlan(vid)) || self.rx.has(mac)
    }

    /// Whether `mac` is its own or one of the further addresses, in whatever VLAN.
    pub(crate) fn claims(&self, mac: MacAddr) -> bool {
        let has = self.mac() == mac || self.added(mac).next().is_some() || self.rx.has(mac);
        has && !self.policy.bridge
    }

    /// Adds those of `macs`, which are in order, that it [claims](Self::claims).
    pub(crate) fn claimed_of(&self, macs: &[MacAddr], found: &mut BTreeSet<MacAddr>) {
        if !self.policy.bridge {
            let one = |mac: MacAddr| self.added(mac).next().is_some() || self.rx.has(mac);
            let added = self.filters.macs().iter().map(|(mac, _)| *mac);
            let all = added.chain(self.rx.unicast.iter().copied());
            let many = self.filters.macs().len() + self.rx.unicast.len();
            shared(macs, self.mac(), one, (all, many), found);
        }
    }

    /// Adds those of `macs`, which are in order, that the NIC or the administrator has given it, whatever its driver uses.
    pub(crate) fn given_of(&self, macs: &[MacAddr], found: &mut BTreeSet<MacAddr>) {
        let one = |mac: MacAddr| self.added(mac).next().is_some();
        let added = self.filters.macs().iter().map(|(mac, _)| *mac);
        let many = self.filters.macs().len();
        shared(macs, self.policy.mac, one, (added, many), found);
    }

    /// What the administrator has added of an address.
    fn added(&self, mac: MacAddr) -> impl Iterator<Item = &(MacAddr, Option<Vid>)> {
        let macs = self.filters.macs();
        let at = macs.partition_point(|(m, _)| *m < mac);
        macs[at..].iter().take_while(move |(m, _)| *m == mac)
    }

    /// Whether frames of this VLAN are the VF's to send and receive.
    #[inline]
    pub(crate) fn takes_part(&self, vlan: Vlan) -> bool {
        match &self.policy.port_vlan {
            Some(port) => vlan == Vlan::of_tag(port.tag()),
            None => {
                vlan == Vlan::NONE
                    || self.filters.vlans().is_empty()
                    || lists(self.filters.vlans(), vlan)
            }
        }
    }

    /// Whether its driver wants frames of this VLAN, too.
    #[inline]
    pub(crate) fn receives(&self, vlan: Vlan) -> bool {
        let wants =
            |vlans: &Vec<Vid>| vlan == Vlan::NONE || vlan.is_service() || lists(vlans, vlan);
        !self.policy.bridge && self.takes_part(vlan) && self.rx.vlans.as_ref().is_none_or(wants)
    }
}

/// Adds what `macs`, in order, share with the VF whose `own` address this is and which has `all` of so many besides, of which `one` is found
/// fast: the shorter list is looked up in the longer one.
fn shared(
    macs: &[MacAddr],
    own: MacAddr,
    one: impl Fn(MacAddr) -> bool,
    (all, many): (impl Iterator<Item = MacAddr>, usize),
    found: &mut BTreeSet<MacAddr>,
) {
    let asked = |mac: &MacAddr| macs.binary_search(mac).is_ok();
    found.extend(Some(own).filter(asked));
    match macs.len() < many {
        true => found.extend(macs.iter().copied().filter(|mac| one(*mac))),
        false => found.extend(all.filter(asked)),
    }
}

fn lists(vlans: &[Vid], vlan: Vlan) -> bool {
    vlans
        .binary_search_by_key(&vlan, |v| Vlan::of_vid(*v))
        .is_ok()
}
