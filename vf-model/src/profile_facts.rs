//! What a profile says, as words: every entry of its table with its name, for people and programs to read and compare. Decides nothing.

use serde::Serialize;

use crate::profile::{Mailbox, Profile, Rows};

/// One entry of a profile's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is called.
    pub name: &'static str,
    /// What it says.
    pub value: String,
    /// What that means.
    pub help: &'static str,
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn list<T: ToString>(all: &[T]) -> String {
    let all: Vec<_> = all.iter().map(T::to_string).collect();
    if all.is_empty() {
        return "none".to_owned();
    }
    all.join(", ")
}

fn by_trust([untrusted, trusted]: [usize; 2]) -> String {
    match untrusted == trusted {
        true => trusted.to_string(),
        false => format!("{untrusted}, {trusted} with trust"),
    }
}

impl Profile {
    /// In a line, which NICs it is like.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Profile::Generic => "no NIC in particular: all there is",
            Profile::Falcon => {
                "Solarflare SFC4000: no switch, and two banks of filters on IPv4 flows"
            }
            Profile::Siena => "Solarflare SFC9000: no switch, and one address a VF",
            Profile::Ef10 => "Solarflare SFC9100 and X2: a switch, and filters of all kinds",
            Profile::Igb => {
                "Intel 82576 and I350: seven VFs, and no operation for a VF's link state"
            }
            Profile::Ixgbe => "Intel 82599: no VF receives what is for nobody here",
            Profile::I40e => "Intel X710: filters on flows and on addresses",
            Profile::Mlx5Legacy => {
                "NVIDIA ConnectX in legacy mode: a switch by address, and no filters"
            }
        }
    }

    /// Every entry of its table, the same ones in the same order for all profiles.
    #[must_use]
    pub fn facts(self) -> Vec<Fact> {
        let silicon = self.silicon();
        let rooms = [false, true].map(|trust| silicon.vf_room(trust));
        let loopback = self.loopback();
        let room = |rows| silicon.room(rows).to_string();
        let fact = |name, value, help| Fact { name, value, help };
        vec![
            fact("vfs", silicon.vfs.to_string(), "VFs that it can have"),
            fact(
                "hwmode",
                list(silicon.modes),
                "modes of its switch, the first until it is told",
            ),
            fact(
                "refuses",
                list(silicon.lacks),
                "settings of a VF that its drivers do not have, and what they answer",
            ),
            fact(
                "promisc",
                yes(silicon.promiscuous),
                "a trusted VF can receive what comes from the wire for nobody here",
            ),
            fact(
                "mac_filters_end_spoofchk",
                yes(silicon.addresses_end_spoofchk),
                "spoofchk is silently off for a VF whose driver has further addresses",
            ),
            fact(
                "vlan_sets_spoofchk",
                yes(silicon.vlan_sets_spoofchk),
                "a port VLAN switches spoofchk on",
            ),
            fact(
                "vlan_4095",
                yes(silicon.vlan_4095),
                "drivers take VLAN 4095 for a port VLAN, which IEEE 802.1Q reserves",
            ),
            fact(
                "spoofchk_by_list",
                yes(silicon.spoofchk_by_list),
                "spoofchk lets a VF whose driver lists VLANs send in those only",
            ),
            fact(
                "double_tags",
                yes(silicon.double_tags()),
                "a VF in an 802.1Q port VLAN can send tagged frames",
            ),
            fact(
                "vf_macs",
                by_trust(rooms.map(|room| room.addresses)),
                "addresses of a VF's driver besides its own",
            ),
            fact(
                "vf_groups",
                by_trust(rooms.map(|room| room.groups)),
                "groups that a VF's driver can list",
            ),
            fact(
                "vf_macs_and_groups",
                by_trust(rooms.map(|room| room.addresses_and_groups)),
                "both together",
            ),
            fact(
                "vf_vlans",
                by_trust(rooms.map(|room| room.vlans)),
                "VLANs that a VF's driver can list",
            ),
            fact("filters_ip4", room(Rows::Flows4), "filters on IPv4 flows"),
            fact("filters_ip6", room(Rows::Flows6), "filters on IPv6 flows"),
            fact("filters_mac", room(Rows::Macs), "filters on addresses"),
            fact(
                "filters_proto",
                room(Rows::EtherTypes),
                "filters on EtherTypes",
            ),
            fact(
                "filters_egress",
                room(Rows::Egress),
                "filters on what VFs send",
            ),
            fact(
                "egress_allows_only",
                yes(silicon.egress_allows_only),
                "a VF that an egress filter names sends only what one of them lets out",
            ),
            fact(
                "mailbox",
                match silicon.mailbox {
                    Mailbox::All => "all messages".to_owned(),
                    Mailbox::Igb => {
                        "reset, mac, macvlan, multicast, allmulti, vlan, mtu".to_owned()
                    }
                },
                "what a VF's driver can ask (vf N request)",
            ),
            fact(
                "rss_contexts",
                yes(silicon.rss_contexts),
                "a filter can spread what it gives a VF by a table of its own",
            ),
            fact(
                "rss_queues",
                silicon.rss_queues.to_string(),
                "queues of a VF that its frames are spread over",
            ),
            fact(
                "filters_mirror",
                yes(silicon.filters_mirror),
                "a filter can give a VF a copy",
            ),
            fact(
                "filters_unknown",
                room(Rows::Unknown),
                "filters on what has no other",
            ),
            fact(
                "pcie",
                silicon.pcie.to_string(),
                "its bus, which bounds what passes from VF to VF",
            ),
            fact(
                "loopback_rate",
                format!("{:.1} Gb/s", loopback.rate_bps as f64 / 1e9),
                "of frames from VF to VF on the virtual clock",
            ),
            fact(
                "dma_latency",
                loopback.propagation.to_string(),
                "of frames from VF to VF on the virtual clock; an order of magnitude (SIGCOMM 2018, Neugebauer et al.)",
            ),
        ]
    }
}
