//! What the administrator has said about a NIC, as what is to be said to have it again. What drivers have asked for, what path
//! `auto` has learned and what has been counted is none of it. Every part of a [`Policy`] is named here, so that a new one that is
//! left out does not compile.

use vf_packet::{MacAddr, Vid};

use super::{Changed, Policy};
use crate::driver_filter::{DriverAction, FilterOp};
use crate::entry::Entry;
use crate::fdb::SelfEntry;
use crate::filter_spec::FilterMatch;
use crate::filter_spec::NumberedFilter;
use crate::mailbox::{Asked, MailboxRequest, RxFilter, UnknownIn, VfRequest};
use crate::mtu::Mtu;
use crate::netem::{Flap, Impairments};
use crate::refusal::Refusal;
use crate::rss::{RssKey, RssSpread};
use crate::switch_mode::SwitchMode;
use crate::vf::{SETTING_KEYS, VfIndex, VfPolicy, VfSetting};

/// What the administrator has said about a NIC; what is as it was at the start is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedPolicy {
    /// How many VFs there are, if not all that there can be.
    pub num_vfs: Option<usize>,
    /// Whether its port is up.
    pub port_up: bool,
    /// The port's MTU.
    pub mtu: Option<Mtu>,
    /// How many frames from outside are flooded, if there is a limit.
    pub storm_control: Option<u32>,
    /// What becomes of frames that pass its port.
    pub netem: Impairments,
    /// Whether its cable is out. Where in its time a flapping link is, is not kept.
    pub cable_out: bool,
    /// How its cable comes out and goes in again, if it does.
    pub flap: Option<Flap>,
    /// How its switch forwards, if that is not as its family does.
    pub switch_mode: Option<SwitchMode>,
    /// Stations behind the PF.
    pub fdb: Vec<SelfEntry>,
    /// Its filters, in the words that add them one after the other; into the same rows, where software numbers those.
    pub filters: Vec<String>,
    /// Its VFs, in order, with those that there are not now.
    pub vfs: Vec<SavedVf>,
}

/// What the administrator has said about a VF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedVf {
    /// Its settings, in the order in which they depend on each other.
    pub settings: Vec<VfSetting>,
    /// What becomes of frames that it sends and receives.
    pub netem: Impairments,
    /// Further addresses, each in every VLAN or in one.
    pub macs: Vec<(MacAddr, Option<Vid>)>,
    /// VLANs that it takes part in, in order.
    pub vlans: Vec<Vid>,
    /// The key of its hash.
    pub rss_key: Option<RssKey>,
    /// How its frames are spread over its queues.
    pub rss_spread: Option<RssSpread>,
    /// Its RSS contexts, in the words that make each after `rss context new`.
    pub rss_contexts: Vec<String>,
}

impl Policy {
    /// What the administrator has said.
    #[must_use]
    pub fn saved(&self) -> SavedPolicy {
        let Policy {
            version: _,
            verdicts: _,
            entries,
            num_vfs,
            enabled: _,
            port_up,
            // The other end of the cable says that, and the port's rate is that of what is plugged in.
            carrier: _,
            port_rate: _,
            unplugged,
            flap,
            netem,
            mtu,
            storm_control,
            silicon,
            switch_mode,
            fdb,
            filter_table: _,
            with_learned: _,
            learned: _,
            migrating: _,
            own_counters: _,
            steered: _,
            lookup: _,
        } = self;
        let default_mode = silicon.default_mode();
        SavedPolicy {
            num_vfs: Some(*num_vfs).filter(|n| *n != entries.len()),
            port_up: *port_up,
            mtu: *mtu,
            storm_control: storm_control.limit(),
            netem: netem.clone(),
            cable_out: *unplugged && flap.is_none(),
            flap: *flap,
            switch_mode: Some(*switch_mode).filter(|mode| *mode != default_mode),
            fdb: fdb.entries().to_vec(),
            filters: self.saved_filters(),
            vfs: entries.iter().map(|entry| entry.saved()).collect(),
        }
    }

    /// What the driver of a VF has asked for, as what it would ask for to have that again; filters of its own are left out.
    #[must_use]
    pub fn saved_requests(&self, vf: VfIndex) -> Vec<VfRequest> {
        let RxFilter {
            mac,
            mode,
            unicast,
            multicast,
            group_hashes,
            vlans,
            unknown_in: _, // filters of its own have come to that
        } = self.asked(vf).clone();
        let reset = VfRequest::Reset {
            lists_groups: multicast.is_some(),
            lists_vlans: vlans.is_some(),
        };
        let said = [
            Some(reset),
            self.agreed_mtu(vf).map(VfRequest::Mtu),
            mac.map(VfRequest::Mac),
            Some(VfRequest::RxMode(mode)),
            Some(VfRequest::Unicast(unicast)),
            multicast.map(VfRequest::Multicast),
            Some(VfRequest::GroupHashes(group_hashes)),
            vlans.map(VfRequest::Vlans),
        ];
        said.into_iter().flatten().collect()
    }

    /// Which of the addresses that the driver of a VF has asked for were another's when it did, in order: those are not in force. Of two
    /// drivers the first keeps an address, and what they ask for says not who that was.
    #[must_use]
    pub fn saved_taken(&self, vf: VfIndex) -> &[MacAddr] {
        self.entry(vf).asked.taken()
    }

    /// What it becomes when the driver of a VF has asked for these [requests](Self::saved_requests), of whose addresses these were
    /// [another's](Self::saved_taken): nobody else is asked, so that the order in which VFs come makes no difference. The same for a VF that
    /// there is not.
    ///
    /// # Errors
    /// [`Refusal`] of a request that makes no sense.
    pub fn with_saved(
        &self,
        vf: VfIndex,
        requests: &[VfRequest],
        taken: &[MacAddr],
    ) -> Result<Policy, Refusal> {
        let mut policy = self.clone();
        let Ok(entry) = policy.entry_mut(vf) else {
            return Ok(policy);
        };
        // What is not in force any more was, when the driver asked for it, and may be again: it is remembered.
        let mut when_it_asked = entry.policy;
        when_it_asked.trust = true;
        let mut asked = Asked::default();
        for request in requests {
            let taken = |macs: &[MacAddr]| {
                let macs = macs.iter().copied();
                macs.filter(|mac| taken.contains(mac)).collect()
            };
            asked = asked.with(request, &when_it_asked, taken)?;
        }
        entry.rx = asked.granted(&entry.policy, &self.silicon);
        entry.asked = asked;
        policy.publish(Some(Changed::Vfs));
        Ok(policy)
    }

    /// The filters of its own that the driver of a VF has, and how it spreads its flows, as what it would ask for to have them again after
    /// [the others](Self::saved_requests).
    #[must_use]
    pub fn saved_messages(&self, vf: VfIndex) -> Vec<MailboxRequest> {
        let unknown = self.asked(vf).unknown_in.iter().map(|unknown| {
            let UnknownIn { vid, multicast } = *unknown;
            let matches = match multicast {
                true => FilterMatch::UnknownMulticast,
                false => FilterMatch::UnknownUnicast,
            };
            (matches, Some(vid), DriverAction::Receive)
        });
        let on_packets = self.driver_filters(vf).iter();
        let on_packets = on_packets.map(|filter| (filter.matches(), None, filter.action()));
        let filter = |(matches, vlan, action)| {
            MailboxRequest::Filter(FilterOp {
                add: true,
                matches,
                vlan,
                action,
            })
        };
        let rss = self.entry(vf).driver_rss.as_ref();
        let rss = rss.map(|rss| MailboxRequest::SetRss(Some(Box::new(rss.to_driver()))));
        unknown.chain(on_packets).map(filter).chain(rss).collect()
    }

    /// Filters that have not been learned, and are no driver's. One that waits for another with the same match to be deleted comes before that.
    fn saved_filters(&self) -> Vec<String> {
        let numbered = self.filter_table.has_numbered_rows();
        let mut saved = Vec::new();
        for NumberedFilter { id, spec } in self.all_filters().numbered() {
            if !self.filter_table.holds(&spec) || self.is_drivers(&spec) {
                continue;
            }
            match id {
                Some(id) if numbered => saved.push(format!("{spec} loc {id}")),
                Some(_) => saved.push(spec.to_string()),
                None => saved.insert(saved.len().saturating_sub(1), spec.to_string()),
            }
        }
        saved
    }
}

impl Entry {
    fn saved(&self) -> SavedVf {
        let Entry {
            policy,
            filters,
            // The driver's.
            asked: _,
            rx: _,
            driver_filters: _,
            own_filters: _,
            driver_rss: _,
            rss,
            rss_contexts,
            netem,
            resets: _,
        } = self;
        SavedVf {
            settings: policy.saved(),
            netem: netem.clone(),
            macs: filters.macs().to_vec(),
            vlans: filters.vlans().to_vec(),
            rss_key: Some(rss.key()).filter(|key| *key != RssKey::default()),
            rss_spread: Some(rss.spread())
                .filter(|spread| **spread != RssSpread::default())
                .cloned(),
            rss_contexts: rss_contexts.saved(),
        }
    }
}

impl VfPolicy {
    /// The settings that make it of what nobody has set anything of.
    fn saved(&self) -> Vec<VfSetting> {
        let new = VfPolicy::new(self.permanent_mac);
        let keys = SETTING_KEYS.iter().filter_map(|key| {
            let setting = key.of(self)?;
            let said = match setting {
                VfSetting::Mac(_) => self.mac_set,
                _ => key.of(&new) != Some(setting),
            };
            said.then_some(setting)
        });
        keys.collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    /// Words that may be values: those that keys name, and some that they describe.
    fn values() -> Vec<String> {
        let named = SETTING_KEYS.iter().flat_map(|key| {
            let words = [key.values, key.allowed].map(|words| words.split(['|', ' ', ',']));
            words.into_iter().flatten()
        });
        let more = ["0", "1", "2", "5", "7", "1500", "9000", "02:00:00:00:00:07"];
        named.chain(more).map(str::to_owned).collect()
    }

    proptest! {
        #[test]
        fn settings_that_are_saved_make_the_same_policy(
            said in prop::collection::vec((any::<Index>(), select(values())), 0..60),
        ) {
            let permanent = MacAddr([2, 0, 0, 0, 0, 1]);
            let mut policy = VfPolicy::new(permanent);
            for (key, value) in said {
                let setting = key.get(SETTING_KEYS).parse(&value);
                policy = setting.and_then(|setting| policy.with(setting)).unwrap_or(policy);
            }
            let saved = policy.saved();
            let again = saved.iter().try_fold(VfPolicy::new(permanent), |policy, setting| policy.with(*setting));
            prop_assert_eq!(again, Ok(policy));
        }
    }

    fn nic(vfs: u16) -> Policy {
        Policy::new(crate::NicConfig {
            vfs,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: crate::Profile::Generic,
        })
    }

    /// What drivers have asked for of this policy and those after it, in other hands: first their VFs are reset.
    fn in_other_hands(policy: &Policy) -> Policy {
        let vfs = (0..policy.num_vfs()).map(VfIndex::from);
        let none = vfs.clone().fold(policy.clone(), |policy, vf| {
            let anew = VfRequest::Reset {
                lists_groups: false,
                lists_vlans: false,
            };
            policy.with_request(vf, &anew).unwrap().policy
        });
        vfs.fold(none, |again, vf| {
            let (requests, taken) = (policy.saved_requests(vf), policy.saved_taken(vf));
            again.with_saved(vf, &requests, taken).unwrap()
        })
    }

    #[test]
    fn of_two_drivers_the_first_keeps_an_address_in_other_hands() {
        let (first, second) = (VfIndex::from(2), VfIndex::from(0));
        let chosen = MacAddr([2, 0, 0, 0, 0, 0x77]);
        let mac = nic(3).with_request(first, &VfRequest::Mac(chosen));
        let wants = VfRequest::Unicast(vec![chosen]);
        let policy = mac.unwrap().policy.with_request(second, &wants).unwrap();
        assert_eq!(policy.denied, Some(Refusal::MacTaken(chosen)));
        let again = in_other_hands(&policy.policy);
        assert_eq!(again.mac(first), chosen);
        assert_eq!(again.in_force(second).unicast, []);
        // What it has asked for it is given when it may have that.
        let trusted = crate::Command::parse(&["vf", "0", "set", "trust", "on"]).unwrap();
        let trusted = again.with(&trusted).unwrap();
        assert_eq!(trusted.in_force(second).unicast, [chosen]);
    }

    /// What happens to a VF, with one of few addresses.
    fn said(vf: u16, what: u8, address: u8, on: bool) -> String {
        let mac = MacAddr([2, 0, 0, 0, 0, address]);
        let (add, on) = match on {
            true => ("add", "on"),
            false => ("del", "off"),
        };
        match what {
            0 => format!("vf {vf} request mac {mac}"),
            1 => format!("vf {vf} request table {mac}"),
            2 => format!("vf {vf} request table {mac}*2"),
            3 => format!("vf {vf} request macvlan"),
            4 => format!("vf {vf} request reset"),
            5 => format!("vf {vf} set mac {mac}"),
            6 => format!("vf {vf} set trust {on}"),
            _ => format!("vf {vf} mac {add} {mac}"),
        }
    }

    proptest! {
        #[test]
        fn what_drivers_have_is_what_they_had_in_whichever_order_they_asked(
            all in prop::collection::vec((0..3u16, 0..8u8, 0..5u8, any::<bool>()), 0..40),
        ) {
            let mut policy = nic(3);
            for (vf, what, address, on) in all {
                let words = said(vf, what, address, on);
                let words: Vec<_> = words.split(' ').collect();
                let command = crate::Command::parse(&words);
                prop_assert!(command.is_ok(), "{words:?}: {command:?}");
                policy = policy.with(&command.unwrap()).unwrap_or(policy);
            }
            let again = in_other_hands(&policy);
            for vf in (0..3).map(VfIndex) {
                prop_assert_eq!(again.asked(vf), policy.asked(vf));
                prop_assert_eq!(again.in_force(vf), policy.in_force(vf));
                prop_assert_eq!(again.mac(vf), policy.mac(vf));
            }
        }
    }

    #[test]
    fn what_a_driver_has_asked_for_is_asked_for_again() {
        let policy = nic(2);
        let vf = VfIndex::from(1);
        let asked = [
            "reset groups vlans",
            "mtu 1400",
            "mac 02:00:00:00:00:77",
            "mode promisc nobcast",
            "macvlan 02:00:00:00:00:78 02:00:00:00:00:79",
            "multicast 01:00:5e:00:00:01",
            "hashes 0x123",
            "vlans 5 7",
        ];
        for said in [&asked[..0], &asked[..1], &asked[..4], &asked[..]] {
            let read = |words: &String| {
                let words: Vec<_> = words.split(' ').collect();
                VfRequest::parse(&words).unwrap()
            };
            let said: Vec<_> = said
                .iter()
                .map(|words| read(&(*words).to_owned()))
                .collect();
            let (after, _) = policy.with_requests(vf, &said);
            // In words, as they go to another version.
            let words: Vec<_> = after
                .saved_requests(vf)
                .iter()
                .map(ToString::to_string)
                .collect();
            let again: Vec<_> = words.iter().map(read).collect();
            let again = policy.with_saved(vf, &again, &[]).unwrap();
            assert_eq!(again.asked(vf), after.asked(vf));
            assert_eq!(again.agreed_mtu(vf), after.agreed_mtu(vf));
            assert_eq!(again.in_force(vf), after.in_force(vf));
        }
    }

    #[test]
    fn what_a_driver_has_put_in_is_put_in_again() {
        let policy = Policy::new(crate::NicConfig {
            vfs: 2,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: crate::Profile::Ef10,
        });
        let vf = VfIndex::from(1);
        let words = "vf 1 privilege +ALL_MULTICAST,+PROMISCUOUS".split(' ');
        let may = crate::Command::parse(&words.collect::<Vec<_>>()).unwrap();
        let policy = policy.with(&may).unwrap();
        let read = |words: &str| {
            let words: Vec<_> = words.split(' ').collect();
            MailboxRequest::parse(&words).unwrap()
        };
        let put_in =
            |policy: &Policy, words: &str| policy.with_message(vf, &read(words)).unwrap().policy;
        let after = [
            "filter add flow-type ether dst unknown-unicast vlan 7",
            "filter add flow-type ether dst unknown-multicast vlan 8",
            "filter add flow-type tcp4 dst-ip 10.0.0.2 dst-port 80 action 1",
            "filter add flow-type udp4 dst-ip 10.0.0.2 dst-port 53 action drop",
            "rss types ipv6 weight 3 1",
        ]
        .iter()
        .fold(policy.clone(), |policy, words| put_in(&policy, words));
        let words: Vec<_> = after
            .saved_messages(vf)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(words.len(), 5, "{words:?}");
        let again = words
            .iter()
            .fold(policy, |policy, words| put_in(&policy, words));
        assert_eq!(again.asked(vf), after.asked(vf));
        assert_eq!(again.driver_filters(vf), after.driver_filters(vf));
        assert_eq!(again.rss(vf).to_driver(), after.rss(vf).to_driver());
    }

    #[test]
    fn every_setting_but_those_of_nothing_is_tried_with_a_value_that_it_takes() {
        let policy = VfPolicy::new(MacAddr([2, 0, 0, 0, 0, 1]))
            .with(VfSetting::Vlan(3))
            .unwrap();
        for key in SETTING_KEYS {
            let takes = |value: &String| {
                let setting = key.parse(value).ok()?;
                policy.with(setting).ok().filter(|other| *other != policy)
            };
            assert!(
                values().iter().find_map(takes).is_some(),
                "none of the values changes {}",
                key.name
            );
        }
    }
}
