//! The NIC as pure logic: VF policy, filters, the embedded switch, the wire's time, the hypervisor's bridge and its cost.
//! Never does I/O, never reads a clock, never logs, never starts a thread: time is an argument and the same calls give
//! the same answers.
//!
//! A [`Policy`] is all that has been said about a NIC: an immutable value that a [`Command`] makes a new one of. [`Nic`] judges
//! by it what the direct path sees, [`HypervisorModel`] what the mediated path sees, so that a frame reaches the same VFs with
//! the same tags whichever path they take. What each of them has beside it, limiters and counters, is its own.
#![forbid(unsafe_code)]

mod addr;
mod bridge;
mod command;
mod config;
mod cost;
mod cow_map;
mod entry;
mod filter;
mod filter_table;
mod flow;
mod frame;
mod hypervisor;
mod judge;
mod link;
mod lookup;
mod mac_index;
mod mailbox;
mod nic;
mod policy;
mod profile;
mod rate;
mod reach;
mod refusal;
mod rss;
mod source;
mod stats;
mod steering;
mod steering_words;
mod time;
mod verdict;
mod verdict_cache;
mod vf;
mod words;

pub use addr::{AddrError, MacAddr, Vid, VlanProto, VlanTag};
pub use bridge::{Bridge, BridgePort, BridgeStats, FdbEntry};
pub use command::Command;
pub use config::NicConfig;
pub use cost::{CostModel, CpuBudget};
pub use filter::{Filter, FilterError, Filters, MAX_FILTERS, MAX_UNTRUSTED_FILTERS};
pub use filter_table::{FilterTable, TableError};
pub use flow::HEAD_LEN;
pub use frame::{FrameError, FrameMeta, Gso, Header, MAX_FRAME, Tags};
pub use hypervisor::HypervisorModel;
pub use judge::{Account, Judge};
pub use link::{Departure, Link, LinkConfig, OnWire, wire_bytes};
pub use mailbox::{MAX_UNTRUSTED_GROUPS, RxFilter, RxMode, VfRequest};
pub use nic::Nic;
pub use policy::Policy;
pub use profile::{MAX_TABLE_FILTERS, Profile};
pub use rate::TokenBucket;
pub use refusal::{Refusal, Refused};
pub use rss::{MAX_RSS_QUEUES, Rss, RssKey, RssQueues, RssSpread};
pub use source::Source;
pub use stats::{Counters, DropReason, Drops};
pub use steering::{
    FilterAction, FilterMatch, FilterPriority, FilterSpec, FlowEnd, MatchError, Transport,
};
pub use time::Nanos;
pub use verdict::{Hop, Onward, TagEdit, Tagging, To, Verdict};
pub use vf::{
    MAX_VFS, Mbps, Path, PortVlan, SettingError, VfIndex, VfLinkState, VfPolicy, VfSet, VfSetting,
};
pub use words::ParseError;
