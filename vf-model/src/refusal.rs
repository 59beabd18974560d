//! Why a NIC refuses a command or a request of a driver. Each vocabulary type has an error of its own; this is all of them,
//! and what only their combination can get wrong. Never decides anything.

use vf_packet::{AddrError, MacAddr};

use crate::fdb::FdbError;
use crate::filter_spec::MatchError;
use crate::filter_table::TableError;
use crate::lack::Answer;
use crate::mtu::{Mtu, MtuError};
use crate::netem_words::NetemError;
use crate::privilege::Privileges;
use crate::profile::Profile;
use crate::rss::RssQueues;
use crate::rss_context::RssContextError;
use crate::switch_mode::SwitchMode;
use crate::vf::{Mbps, SettingError, VfIndex, VfSetting};
use crate::vf_filter::VfFilterError;
use crate::words::ParseError;

/// Why a command is refused; nothing has changed. One line that says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Words that are no command.
    #[error(transparent)]
    Words(#[from] ParseError),
    /// An address or a VLAN that cannot be had.
    #[error(transparent)]
    Addr(#[from] AddrError),
    /// A setting of a VF.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A number of bytes that is no MTU.
    #[error(transparent)]
    Mtu(#[from] MtuError),
    /// A receive filter of a VF.
    #[error(transparent)]
    Filter(#[from] VfFilterError),
    /// A filter that no frame can match, or words that are no filter.
    #[error(transparent)]
    Match(#[from] MatchError),
    /// A filter of the NIC's table.
    #[error(transparent)]
    Table(Box<TableError>),
    /// Words that say no impairments.
    #[error(transparent)]
    Netem(Box<NetemError>),
    /// An entry of the switch's table.
    #[error(transparent)]
    Fdb(#[from] FdbError),
    /// A mode of the switch that NICs like this one do not have.
    #[error("hwmode {mode}: {profile} has {} (see vfnic profile list)", listed(.profile.silicon().modes))]
    SwitchMode {
        /// Which was asked for.
        mode: SwitchMode,
        /// Which NIC it is like.
        profile: Profile,
    },
    /// A setting that the drivers of NICs like this one do not have.
    #[error("{setting}: drivers of {profile} answer {answer} (see vfnic profile show {profile})")]
    Lacking {
        /// The setting.
        setting: VfSetting,
        /// Which NIC it is like.
        profile: Profile,
        /// What they answer.
        answer: Answer,
    },
    /// A VF that is mirrored to itself, to or from a station on the hypervisor's bridge, or to one in a port VLAN.
    #[error("mirror {}: from a VF to another, which is in no port VLAN (neither can have bridge on)", .0.0)]
    Mirror(VfIndex),
    /// An indirection table that names no queue or too many.
    #[error(transparent)]
    RssQueues(#[from] RssQueues),
    /// NICs like this one have no RSS contexts.
    #[error(
        "rss context: a NIC of profile {0} has none: it spreads all frames of a VF alike (see vfnic profile show {0})"
    )]
    NoRssContexts(Profile),
    /// An RSS context of a VF.
    #[error(transparent)]
    RssContext(#[from] RssContextError),
    /// A queue that no VF of NICs like this one has.
    #[error("action {queue}: EINVAL, the queues of a VF of {profile} are 0 to {last}")]
    Queue {
        /// The queue.
        queue: u8,
        /// Which NIC it is like.
        profile: Profile,
        /// The last that a VF can have.
        last: u16,
    },
    /// There is no such VF.
    #[error("{vf}: the VFs of this NIC are 0 to {}", last.0)]
    NoSuchVf {
        /// Which was named.
        vf: VfIndex,
        /// The last there is.
        last: VfIndex,
    },
    /// There are no VFs now.
    #[error("{0}: this NIC has no VFs now: 'link set numvfs N' makes them")]
    NoVfs(VfIndex),
    /// More VFs than the NIC can have.
    #[error(
        "numvfs {wanted}: ERANGE, this NIC can have 0 to {total} VFs (vfs in its configuration)"
    )]
    TooManyVfs {
        /// How many there are to be.
        wanted: u16,
        /// How many there can be.
        total: usize,
    },
    /// Another number of VFs while there are some.
    #[error(
        "numvfs {wanted}: EBUSY, there are {now} VFs already: set numvfs 0 first, which takes them from their guests"
    )]
    VfsInUse {
        /// How many there are to be.
        wanted: u16,
        /// How many there are.
        now: usize,
    },
    /// A port VLAN for a VF with VLAN filters, or the reverse.
    #[error("a VF has a port VLAN or filters that name VLANs, not both: remove the other first")]
    PortVlanAndFilters,
    /// A driver wants to read what the administrator does not show it.
    #[error("the key of the hash and its table are not for the VF to read: set query_rss on")]
    QueryRss,
    /// A driver wants longer frames than it may have.
    #[error("mtu {asked}: the VF has an MTU of {mtu}")]
    MtuBeyond {
        /// What it wants.
        asked: Mtu,
        /// What it may have.
        mtu: Mtu,
    },
    /// A guarantee above the limit.
    #[error("min_tx_rate {min}: the VF has a max_tx_rate of {max}, which is less")]
    RateOrder {
        /// What is to be guaranteed.
        min: Mbps,
        /// The limit.
        max: Mbps,
    },
    /// More is guaranteed than there is.
    #[error("min_tx_rate: {sum} Mb/s would be guaranteed to VFs in all, and the port has {rate}")]
    Guarantees {
        /// The sum of all guarantees, in Mb/s.
        sum: u64,
        /// What the port has, in Mb/s.
        rate: u64,
    },
    /// A driver wants another address than the administrator has set.
    #[error("the administrator has set {0}: only a trusted VF can choose its addresses then")]
    MacSet(MacAddr),
    /// A driver wants a filter that its VF has no privilege for.
    #[error("EPERM: it has not the privilege {privilege}; vf {} set privilege +{privilege} gives it", vf.0)]
    Privilege {
        /// Whose driver.
        vf: VfIndex,
        /// What it takes.
        privilege: Privileges,
    },
    /// A driver wants a filter of a NIC whose drivers have other messages for it.
    #[error(
        "filter: drivers of {0} have no such message: they send macvlan, multicast, promisc and allmulti"
    )]
    NoFilterOp(Profile),
    /// The driver of a VF has such a filter (EEXIST).
    #[error("filter {0}: this filter is there already")]
    DriverFilterExists(Box<str>),
    /// It has none (ENOENT).
    #[error("filter {0}: there is no such filter")]
    NoDriverFilter(Box<str>),
    /// It has as many on packets as it can have (EBUSY).
    #[error(
        "filter: the VF's driver has {0} on packets, as many as there can be: delete one first"
    )]
    DriverFilters(usize),
    /// A driver sends a message that NICs like this one do not have.
    #[error(
        "request: the mailbox of {0} has no such message: reset, mac, macvlan, multicast, allmulti, vlan and mtu"
    )]
    NoMessage(Profile),
    /// A driver wants the address of another VF.
    #[error("mac {0}: another VF has it; only a trusted VF can have it, too")]
    MacTaken(MacAddr),
    /// A driver wants to choose its VLANs.
    #[error("the VF is in a port VLAN: its driver cannot choose others")]
    PortVlan,
}

/// The first of several commands that is refused; none of them has changed anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("command {}: {why}", at + 1)]
pub struct Refused {
    /// Which, counted from 0.
    pub at: usize,
    /// Why.
    pub why: Refusal,
}

fn listed(modes: &[SwitchMode]) -> String {
    let modes: Vec<_> = modes.iter().map(SwitchMode::to_string).collect();
    modes.join(", ")
}

impl From<TableError> for Refusal {
    fn from(refused: TableError) -> Refusal {
        Refusal::Table(Box::new(refused))
    }
}

impl From<NetemError> for Refusal {
    fn from(error: NetemError) -> Refusal {
        Refusal::Netem(Box::new(error))
    }
}

impl Refusal {
    pub(crate) fn word(what: &'static str, got: &str, allowed: &'static str) -> Refusal {
        ParseError::word(what, got, allowed).into()
    }
}
