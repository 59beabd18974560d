//! Silicon profiles: what some families of NICs can do and how much of it, as a table that policy is checked against. Never
//! another way through the code.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vf_packet::VlanProto;

use crate::farch;
use crate::filter_fields::MatchFlags;
use crate::filter_spec::FilterMatch;
use crate::filter_store::{EF10_COMBINATIONS, EF10_ROWS};
use crate::lack::{self, Answer, Lack, PortState};
use crate::link::LinkConfig;
use crate::pcie::Pcie;
use crate::rss::MAX_RSS_QUEUES;
use crate::switch_mode::SwitchMode;
use crate::vf::{MAX_VFS, PortVlan, VfSetting};
use crate::vf_filter::{MAX_FILTERS, MAX_UNTRUSTED_FILTERS, MAX_UNTRUSTED_GROUPS};
use crate::words::ParseError;

/// Most filters in a table whose rows software numbers.
pub const MAX_TABLE_FILTERS: usize = 8192;

/// Which NIC this one is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// None: all there is.
    #[default]
    Generic,
    /// Solarflare SFC4000: no switch, two banks of filters on IPv4 flows.
    Falcon,
    /// Solarflare SFC9000: no switch, filters on IPv4 flows and on addresses, one address a VF.
    Siena,
    /// Solarflare SFC9100 and X2: a switch, and filters of all kinds.
    Ef10,
    /// Intel 82576 and I350, as QEMU emulates the former: eight pools, seven of them VFs.
    Igb,
    /// Intel 82599: no VF receives what has nobody's address.
    Ixgbe,
    /// Intel X710: filters on flows and on addresses.
    I40e,
    /// NVIDIA ConnectX in legacy mode: a switch by address and no filters for VFs.
    Mlx5Legacy,
}

/// What a profile says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silicon {
    /// What its switch can be, first what it is until it is told.
    pub(crate) modes: &'static [SwitchMode],
    /// Its bus.
    pub(crate) pcie: Pcie,
    /// Most VFs (`sriov_totalvfs`), where the table of the family says it.
    pub(crate) vfs: u16,
    /// Settings of a VF that its drivers do not have.
    pub(crate) lacks: &'static [Lack],
    /// Whether a VF whose driver has further addresses may send from any address, while its spoofchk is shown as on.
    pub(crate) addresses_end_spoofchk: bool,
    /// Whether a port VLAN switches spoofchk on.
    pub(crate) vlan_sets_spoofchk: bool,
    /// Whether its drivers take VLAN 4095 for a port VLAN, which IEEE 802.1Q reserves.
    pub(crate) vlan_4095: bool,
    /// Whether spoofchk lets a VF whose driver lists VLANs send in those only.
    pub(crate) spoofchk_by_list: bool,
    /// Whether a VF can receive frames from the wire that are for nobody here.
    pub(crate) promiscuous: bool,
    /// Most addresses besides its own that a VF can have.
    pub(crate) vf_macs: usize,
    /// Whether a VF in an 802.1Q port VLAN can send tagged frames, the port VLAN's tag in front of theirs; in one of 802.1ad
    /// it always can, for that is what it is for.
    double_tags: bool,
    /// Most groups that its driver can list without `trust`, and with.
    vf_groups: [usize; 2],
    /// Most further addresses and groups together, likewise.
    vf_addresses_and_groups: [usize; 2],
    /// Most VLANs that its driver can list, likewise.
    vf_vlans: [usize; 2],
    /// Where its filters lie.
    pub(crate) table: TableKind,
    /// Whether an automatic filter is refused beneath a higher one with the same match, where others have it wait.
    pub(crate) refuses_auto_below: bool,
    /// Which fields filters can look at besides those of the kinds.
    pub(crate) fields: FieldRoom,
    /// Which fields filters can look at of what VFs send.
    pub(crate) egress: FieldRoom,
    /// Whether a VF that such a filter names sends nothing but what one of them lets out.
    pub(crate) egress_allows_only: bool,
    /// Which messages the driver of a VF has.
    pub(crate) mailbox: Mailbox,
    /// Whether the driver of a VF can put in filters one by one.
    pub(crate) filter_op: bool,
    /// Whether a VF has RSS contexts, for filters to name.
    pub(crate) rss_contexts: bool,
    /// Most queues of a VF that its frames are spread over.
    pub(crate) rss_queues: u16,
    /// Whether a filter can have what it matches copied.
    pub(crate) filters_mirror: bool,
    /// Most filters on IPv4 flows and local ends.
    flows4: usize,
    /// Most filters on IPv6 flows and local ends.
    flows6: usize,
    /// Most filters on addresses.
    macs: usize,
    /// Most filters on types.
    ethertypes: usize,
    /// Most filters on unknown stations and groups.
    unknown: usize,
}

/// Which messages drivers of a family have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mailbox {
    /// All of them.
    All,
    /// Those of igb, whose mailbox knows no versions of its words (`e1000_mbx.h`): a reset, the VF's own address and further
    /// ones, groups, all groups, a VLAN, and the length of its frames.
    Igb,
}

/// How much of each kind the driver of a VF can have.
#[derive(Clone, Copy, Debug)]
pub struct VfRoom {
    /// Addresses besides its own.
    pub addresses: usize,
    /// Groups.
    pub groups: usize,
    /// Both together.
    pub addresses_and_groups: usize,
    /// 802.1Q VLANs.
    pub vlans: usize,
}

/// Where the filters of a NIC lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableKind {
    /// In the hashed tables of Falcon and Siena.
    Farch {
        /// Banks of rows for IPv4 flows.
        ip_banks: usize,
        /// Whether there are rows for addresses, and for what has no filter.
        mac: bool,
    },
    /// In one table that the driver hashes, and rules of the firmware's that nobody sees.
    Ef10,
    /// In rows that software numbers.
    Numbered,
}

/// What else filters can look at together but what the kinds do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldRoom {
    /// Nothing.
    None,
    /// These fields, without masks.
    Listed(&'static [MatchFlags]),
    /// Any fields with any masks, in no more than [`MAX_COMBINATIONS`](crate::filter_space::MAX_COMBINATIONS) combinations at a time.
    Any,
}

/// Filters that share their rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    Flows4,
    Flows6,
    Macs,
    EtherTypes,
    Unknown,
    Fields,
    Egress,
}

impl Rows {
    /// How many there are.
    pub(crate) const COUNT: usize = 7;

    pub(crate) fn of(matches: &FilterMatch) -> Rows {
        match matches {
            FilterMatch::Full { local, .. } | FilterMatch::Local { local, .. } => {
                match local.ip.is_ipv4() {
                    true => Rows::Flows4,
                    false => Rows::Flows6,
                }
            }
            FilterMatch::MacVlan { .. } | FilterMatch::Mac(_) => Rows::Macs,
            FilterMatch::EtherType(_) => Rows::EtherTypes,
            FilterMatch::UnknownMulticast | FilterMatch::UnknownUnicast => Rows::Unknown,
            FilterMatch::Fields(_) => Rows::Fields,
            FilterMatch::Egress { .. } => Rows::Egress,
        }
    }
}

impl Silicon {
    /// Whether its tag goes in front of another in an 802.1Q port VLAN.
    pub(crate) fn double_tags(&self) -> bool {
        self.double_tags
    }

    /// Whether a VF's own tags pass inside its port VLAN.
    #[inline]
    pub(crate) fn stacks(&self, port: &PortVlan) -> bool {
        self.double_tags || port.proto == VlanProto::Dot1ad
    }

    /// What its driver answers to a setting that it does not have.
    pub(crate) fn lack(&self, setting: &VfSetting, port: PortState) -> Option<Answer> {
        let lack = self.lacks.iter().find(|lack| lack.is(setting, port));
        lack.map(|lack| lack.answer)
    }

    /// How its switch forwards until it is told.
    pub(crate) fn default_mode(&self) -> SwitchMode {
        self.modes.first().copied().unwrap_or(SwitchMode::None)
    }

    /// Whether its administrators can trust a VF.
    pub(crate) fn has_trust(&self) -> bool {
        self.lacks.iter().all(|lack| lack.key != "trust")
    }

    /// How much the driver of a VF can have.
    pub(crate) fn vf_room(&self, trust: bool) -> VfRoom {
        let trust = trust && self.has_trust();
        let addresses = [MAX_UNTRUSTED_FILTERS, MAX_FILTERS][usize::from(trust)];
        let addresses = addresses.min(self.vf_macs);
        let groups = self.vf_groups[usize::from(trust)];
        let both = self.vf_addresses_and_groups[usize::from(trust)];
        VfRoom {
            addresses,
            groups,
            addresses_and_groups: both.min(addresses + groups),
            vlans: self.vf_vlans[usize::from(trust)],
        }
    }

    /// Most filters of a kind.
    pub(crate) fn room(&self, rows: Rows) -> usize {
        match rows {
            Rows::Flows4 => self.flows4,
            Rows::Flows6 => self.flows6,
            Rows::Macs => self.macs,
            Rows::EtherTypes => self.ethertypes,
            Rows::Unknown => self.unknown,
            Rows::Fields => match self.fields {
                FieldRoom::None => 0,
                FieldRoom::Listed(_) => EF10_ROWS,
                FieldRoom::Any => MAX_TABLE_FILTERS,
            },
            Rows::Egress => match self.egress {
                FieldRoom::None => 0,
                FieldRoom::Listed(_) => farch::MAC_ROWS,
                FieldRoom::Any => MAX_TABLE_FILTERS,
            },
        }
    }
}

impl Profile {
    /// Most VFs that such a NIC has.
    #[must_use]
    pub fn max_vfs(self) -> u16 {
        self.silicon().vfs
    }

    /// Every profile there is.
    pub fn all() -> impl Iterator<Item = Profile> {
        [
            Profile::Generic,
            Profile::Falcon,
            Profile::Siena,
            Profile::Ef10,
            Profile::Igb,
            Profile::Ixgbe,
            Profile::I40e,
            Profile::Mlx5Legacy,
        ]
        .into_iter()
    }

    /// What frames from VF to VF take inside it: the rate of its bus, and the latency of a DMA read and a write.
    #[must_use]
    pub fn loopback(self) -> LinkConfig {
        self.silicon().pcie.loopback()
    }

    /// Which fields a filter of a VF's driver can look at together, if its messages name such filters one by one; what wins comes first.
    #[must_use]
    pub fn driver_matches(self) -> Vec<MatchFlags> {
        let silicon = self.silicon();
        let with_vlan = |flags: &MatchFlags| {
            flags.intersects(MatchFlags::MAC_VLAN.difference(MatchFlags::DST_MAC))
        };
        let all = EF10_COMBINATIONS.iter().filter(|flags| !with_vlan(flags));
        all.copied().filter(|_| silicon.filter_op).collect()
    }

    /// Solarflare's sizes are those of Linux's sfc driver (farch.c, mcdi_filters.c), Intel's flows and ixgbe's addresses and types
    /// only their order of magnitude; where software numbers the rows, no more than [`MAX_TABLE_FILTERS`] of all kinds.
    pub(crate) fn silicon(self) -> Silicon {
        const ALL: usize = MAX_TABLE_FILTERS;
        const ALL_VLANS: usize = 4094;
        let generic = Silicon {
            modes: &[SwitchMode::Veb, SwitchMode::Vepa, SwitchMode::Floating],
            pcie: Pcie::Gen3X8,
            vfs: MAX_VFS,
            lacks: &[],
            addresses_end_spoofchk: false,
            vlan_sets_spoofchk: false,
            vlan_4095: false,
            spoofchk_by_list: false,
            promiscuous: true,
            vf_macs: MAX_FILTERS,
            double_tags: true,
            vf_groups: [MAX_UNTRUSTED_GROUPS, MAX_FILTERS],
            vf_addresses_and_groups: [
                MAX_UNTRUSTED_FILTERS + MAX_UNTRUSTED_GROUPS,
                2 * MAX_FILTERS,
            ],
            vf_vlans: [MAX_UNTRUSTED_FILTERS, ALL_VLANS],
            table: TableKind::Numbered,
            refuses_auto_below: false,
            fields: FieldRoom::Any,
            egress: FieldRoom::Any,
            egress_allows_only: false,
            rss_contexts: true,
            rss_queues: MAX_RSS_QUEUES,
            filters_mirror: true,
            mailbox: Mailbox::All,
            filter_op: true,
            flows4: ALL,
            flows6: ALL,
            macs: ALL,
            ethertypes: ALL,
            unknown: 2,
        };
        let none = Silicon {
            fields: FieldRoom::None,
            egress: FieldRoom::None,
            rss_contexts: false,
            filters_mirror: false,
            filter_op: false,
            flows4: 0,
            flows6: 0,
            macs: 0,
            ethertypes: 0,
            unknown: 0,
            ..generic
        };
        match self {
            Profile::Generic => generic,
            Profile::Falcon => Silicon {
                lacks: lack::FALCON,
                pcie: Pcie::Gen1X8,
                modes: &[SwitchMode::None],
                promiscuous: false,
                vf_macs: 0,
                table: TableKind::Farch {
                    ip_banks: 2,
                    mac: false,
                },
                refuses_auto_below: true,
                flows4: 2 * farch::IP_ROWS,
                ..none
            },
            Profile::Siena => Silicon {
                lacks: lack::SIENA,
                pcie: Pcie::Gen2X8,
                modes: &[SwitchMode::None],
                promiscuous: false,
                vf_macs: 0,
                table: TableKind::Farch {
                    ip_banks: 1,
                    mac: true,
                },
                refuses_auto_below: true,
                egress: FieldRoom::Listed(farch::TX_COMBINATIONS),
                egress_allows_only: true,
                flows4: farch::IP_ROWS,
                macs: farch::MAC_ROWS,
                unknown: 2,
                ..none
            },
            Profile::Ef10 => Silicon {
                // Of an adapter (Solarflare's user guide, SF-103837-CD).
                vfs: 240,
                lacks: lack::EF10,
                // Its firmware's interface marks VEPA obsolete.
                modes: &[SwitchMode::Veb],
                vf_macs: 32,
                table: TableKind::Ef10,
                fields: FieldRoom::Listed(EF10_COMBINATIONS),
                // What its VFs send is checked by their privileges.
                egress: FieldRoom::None,
                filters_mirror: false,
                flows4: EF10_ROWS,
                flows6: EF10_ROWS,
                macs: EF10_ROWS,
                ethertypes: EF10_ROWS,
                ..generic
            },
            // The eighth pool is the PF's. Addresses are what is left of 24 rows; groups are the first 30, and VLANs the table's
            // 32, as with ixgbe; ethtool's rules are on addresses and types (igb.h). Loopback between the pools is always on.
            Profile::Igb => Silicon {
                vfs: 7,
                pcie: Pcie::Gen1X4,
                lacks: lack::IGB,
                modes: &[SwitchMode::Veb],
                // "82576 supports 2 RSS queues for SR-IOV", says igb_setup_mrqc: sixteen queues in eight pools.
                rss_queues: 2,
                mailbox: Mailbox::Igb,
                vlan_4095: true,
                spoofchk_by_list: true,
                promiscuous: false,
                double_tags: false,
                vf_macs: 16,
                vf_groups: [MAX_UNTRUSTED_GROUPS; 2],
                vf_vlans: [32; 2],
                macs: 16,
                ethertypes: 3,
                ..none
            },
            // The flow director's table, and what is left of eight filters on types.
            Profile::Ixgbe => Silicon {
                // One of its 64 pools is the PF's (IXGBE_MAX_VFS_DRV_LIMIT).
                vfs: 63,
                lacks: lack::IXGBE,
                pcie: Pcie::Gen2X8,
                // What a pool has where there are 32 of them (ixgbe_set_sriov_queues); with 64 they have two.
                rss_queues: 4,
                // "to avoid false positives", says ixgbe_set_vf_macvlan_msg.
                addresses_end_spoofchk: true,
                vlan_4095: true,
                spoofchk_by_list: true,
                modes: &[SwitchMode::Veb, SwitchMode::Vepa],
                promiscuous: false,
                // Its check of types knows no tag behind the one that it puts in itself.
                double_tags: false,
                // Linux's ixgbe takes the first 30 groups of any VF, and the NIC's table of VLANs has 64 rows.
                vf_groups: [MAX_UNTRUSTED_GROUPS; 2],
                vf_vlans: [64; 2],
                flows4: ALL,
                macs: 128,
                ethertypes: 5,
                ..none
            },
            // 18 filters on addresses for a VF without trust, groups among them, less its own and broadcast (i40e_virtchnl_pf.c).
            Profile::I40e => Silicon {
                // Of a device (I40E_MAX_VF_COUNT).
                vfs: 128,
                lacks: lack::I40E,
                vlan_4095: true,
                spoofchk_by_list: true,
                vf_groups: [MAX_UNTRUSTED_FILTERS, MAX_FILTERS],
                vf_addresses_and_groups: [MAX_UNTRUSTED_FILTERS, MAX_FILTERS],
                flows4: ALL,
                flows6: ALL,
                macs: 3072,
                ..none
            },
            // Lists of VLANs are as long as there are VLANs, whoever is trusted.
            Profile::Mlx5Legacy => Silicon {
                lacks: lack::MLX5_LEGACY,
                vlan_sets_spoofchk: true,
                modes: &[SwitchMode::Veb, SwitchMode::Vepa],
                vf_vlans: [ALL_VLANS; 2],
                ..none
            },
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Generic => "generic",
            Profile::Falcon => "falcon",
            Profile::Siena => "siena",
            Profile::Ef10 => "ef10",
            Profile::Igb => "igb",
            Profile::Ixgbe => "ixgbe",
            Profile::I40e => "i40e",
            Profile::Mlx5Legacy => "mlx5-legacy",
        })
    }
}

impl FromStr for Profile {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Profile, ParseError> {
        const NAMES: &str = "generic, falcon, siena, ef10, igb, ixgbe, i40e or mlx5-legacy";
        let mut all = Profile::all();
        all.find(|profile| profile.to_string() == text)
            .ok_or_else(|| ParseError::word("profile", text, NAMES))
    }
}
