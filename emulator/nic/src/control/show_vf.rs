//! What `vfnic show` says of a VF beside its settings: its addresses and VLANs, its link, what its driver may have, and its counters
//! under the names of the kernel. Only presents.

use serde::{Deserialize, Serialize};
use vf_model::{Counters, Policy, VfIndex, Vid};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowVfState {
    /// `up` or `down`: what its link is, where the setting `state` says what it follows.
    pub link: String,
    /// How a VF without a link is kept from its network. `discard`: its frames are dropped both ways, and its guest is told by a front
    /// end that takes its configuration from here. `socket`: its socket is gone, too. `qmp`: its QEMU has said that the guest has no
    /// carrier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_method: Option<String>,
    /// The address that it has: its driver's choice if that is allowed, else the administrator's, else the permanent one.
    pub mac: String,
    /// The address that it was made with.
    pub permanent_mac: String,
    /// The one that the administrator has set, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_mac: Option<String>,
    /// What `mac add` has added, in its words.
    pub macs: Vec<String>,
    /// What `vlan add` has added, in ranges; none: all VLANs.
    pub vlans: Vec<String>,
    /// How much its driver may ask for.
    pub limits: ShowVfLimits,
    /// Its counters under the names of the kernel (IFLA_VF_STATS).
    pub stats: ShowVfStats,
}

/// How much the driver of a VF may have of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowVfLimits {
    /// Addresses besides its own.
    pub macs: u64,
    /// Groups.
    pub groups: u64,
    /// VLANs.
    pub vlans: u64,
}

/// A VF's counters as `ip -s link show` has them: rx is what the guest got. Both paths together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowVfStats {
    /// IFLA_VF_STATS_RX_PACKETS.
    pub rx_packets: u64,
    /// IFLA_VF_STATS_TX_PACKETS.
    pub tx_packets: u64,
    /// IFLA_VF_STATS_RX_BYTES.
    pub rx_bytes: u64,
    /// IFLA_VF_STATS_TX_BYTES.
    pub tx_bytes: u64,
    /// IFLA_VF_STATS_BROADCAST: broadcast frames received.
    pub broadcast: u64,
    /// IFLA_VF_STATS_MULTICAST: frames received to other groups.
    pub multicast: u64,
    /// IFLA_VF_STATS_RX_DROPPED, for all reasons.
    pub rx_dropped: u64,
    /// IFLA_VF_STATS_TX_DROPPED, for all reasons.
    pub tx_dropped: u64,
}

impl ShowVfState {
    /// What a policy says of a VF that has counted this.
    #[must_use]
    pub fn new(
        policy: &Policy,
        vf: VfIndex,
        counters: &Counters,
        link_method: Option<&str>,
    ) -> ShowVfState {
        let said = policy.vf(vf);
        let filters = policy.filters(vf);
        let room = policy.room(vf);
        let macs = filters.macs().iter().map(|(mac, vlan)| match vlan {
            None => mac.to_string(),
            Some(vid) => format!("{mac} vlan {vid}"),
        });
        ShowVfState {
            link: if policy.link_up_for(vf) { "up" } else { "down" }.to_owned(),
            link_method: link_method.map(str::to_owned),
            mac: policy.mac(vf).to_string(),
            permanent_mac: said.permanent_mac.to_string(),
            admin_mac: said.mac_set.then(|| said.mac.to_string()),
            macs: macs.collect(),
            vlans: ranges(filters.vlans()),
            limits: ShowVfLimits {
                macs: room.addresses as u64,
                groups: room.groups as u64,
                vlans: room.vlans as u64,
            },
            stats: ShowVfStats {
                rx_packets: counters.rx_packets,
                tx_packets: counters.tx_packets,
                rx_bytes: counters.rx_bytes,
                tx_bytes: counters.tx_bytes,
                broadcast: counters.rx_broadcast,
                multicast: counters.rx_multicast,
                rx_dropped: counters.rx_drops.total(),
                tx_dropped: counters.tx_drops.total(),
            },
        }
    }
}

/// VLANs in the words of `vlan add`, which takes those that follow each other as one.
fn ranges(vlans: &[Vid]) -> Vec<String> {
    let words = Vid::runs(vlans).map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vf_model::{Command, MacAddr, NicConfig, Profile};

    #[test]
    fn what_has_been_added_to_a_vf_is_shown_in_the_words_that_add_it() {
        let mut policy = Policy::new(NicConfig {
            vfs: 1,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: Profile::Generic,
        });
        let fresh = ShowVfState::new(&policy, VfIndex(0), &Counters::default(), None);
        assert_eq!((&*fresh.link, &*fresh.mac), ("up", "02:00:00:00:00:00"));
        assert!(fresh.macs.is_empty() && fresh.vlans.is_empty());
        for words in [
            "vf 0 mac add 02:00:00:00:00:07 vlan 5",
            "vf 0 vlan add 100-119",
            "vf 0 vlan add 7",
            "vf 0 set mac 02:00:00:00:00:09 state disable",
        ] {
            let words: Vec<_> = words.split(' ').collect();
            policy = policy.with(&Command::parse(&words).unwrap()).unwrap();
        }
        let shown = ShowVfState::new(&policy, VfIndex(0), &Counters::default(), Some("discard"));
        assert_eq!(shown.link, "down");
        assert_eq!(shown.admin_mac.as_deref(), Some("02:00:00:00:00:09"));
        assert_eq!(shown.macs, ["02:00:00:00:00:07 vlan 5"]);
        let json = serde_json::to_value(&shown).unwrap();
        assert_eq!(json["permanent_mac"], "02:00:00:00:00:00");
        assert_eq!(json["vlans"], serde_json::json!(["7", "100-119"]));
        assert_eq!(json["limits"]["macs"], 16);
    }
}
