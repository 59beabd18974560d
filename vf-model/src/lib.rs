//! The NIC as pure logic: VF policy, filters, the embedded switch, the wire's time, the hypervisor's bridge and its cost.
//! Never does I/O, never reads a clock, never logs, never starts a thread: time is an argument and the same calls give
//! the same answers.
//!
//! A [`Policy`] is all that has been said about a NIC: an immutable value that a [`Command`] makes a new one of. [`Nic`] judges
//! by it what the direct path sees, [`HypervisorModel`] what the mediated path sees, so that a frame reaches the same VFs with
//! the same tags whichever path they take. What each of them has beside it, limiters and counters, is its own.
//!
//! # Judge a frame
//!
//! ```
//! use std::sync::Arc;
//! use vf_model::{
//!     Command, DropReason, FrameMeta, Judge, MacAddr, Nanos, Nic, NicConfig, Policy, Profile, Source, VfIndex,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = Policy::new(NicConfig {
//!     vfs: 2,
//!     mac_base: MacAddr([0x02, 0, 0, 0, 0, 0x10]), // of VF 0; VF 1 has the next one
//!     profile: Profile::default(),
//! });
//! let words = ["vf", "0", "set", "spoofchk", "on"];
//! let mut nic = Nic::new(Arc::new(policy.with(&Command::parse(&words)?)?));
//!
//! // From VF 0 to VF 1. A header is all that is looked at here: 128 bytes of a frame are always enough.
//! let mut head = [0; 60];
//! head[..6].copy_from_slice(&nic.policy().mac(VfIndex(1)).0);
//! head[6..12].copy_from_slice(&nic.policy().mac(VfIndex(0)).0);
//! head[12..14].copy_from_slice(&[0x88, 0xb5]); // an EtherType for experiments
//! let meta = FrameMeta { len: 1514, gso: None };
//! let verdict = nic.ingress(Nanos(0), Source::Vf(VfIndex(0)), &head, &meta);
//! assert_eq!(verdict.vfs.iter().collect::<Vec<_>>(), [VfIndex(1)]);
//! assert!(!verdict.wire && !verdict.pf);
//! // Whoever moves frames counts what has arrived.
//! nic.count_delivered(VfIndex(1), MacAddr::of_frame(&head), meta.len);
//!
//! // The same with VF 1's address as the sender's.
//! head[11] += 1;
//! let verdict = nic.ingress(Nanos(0), Source::Vf(VfIndex(0)), &head, &meta);
//! assert_eq!(verdict.drop, Some(DropReason::SpoofedMac));
//! assert_eq!(nic.counters(VfIndex(0)).tx_drops.get(DropReason::SpoofedMac), 1);
//!
//! // A new policy, which all planes of a NIC share, is adopted as a whole.
//! let off = Command::parse(&["vf", "0", "set", "spoofchk", "off"])?;
//! let policy = nic.policy().with(&off)?;
//! nic.adopt(Arc::new(policy));
//! let verdict = nic.ingress(Nanos(0), Source::Vf(VfIndex(0)), &head, &meta);
//! assert_eq!(verdict.vfs.len(), 1);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod bridge;
mod bridge_words;
mod command;
mod config;
mod cost;
mod counter;
mod cow_map;
mod driver_filter;
pub mod duration;
mod entry;
mod farch;
mod fast_path;
mod fdb;
mod filter_fields;
mod filter_index;
mod filter_space;
mod filter_spec;
mod filter_store;
mod filter_table;
mod filter_words;
mod flooded;
mod frame_match;
mod hash_rows;
mod hits;
mod hypervisor;
mod judge;
mod lack;
mod learned;
mod learner;
mod link;
mod lookup;
mod mac_index;
mod mailbox;
mod mtu;
mod netem;
mod netem_words;
mod nic;
mod number_set;
mod paths;
mod pcie;
mod policy;
mod privilege;
mod probe;
mod profile;
mod profile_facts;
mod question;
mod rate;
mod reach;
mod reach_len;
mod refusal;
mod request_words;
mod rss;
mod rss_context;
mod rule;
mod source;
mod stats;
mod switch_mode;
mod time;
mod verdict;
mod verdict_cache;
mod vf;
mod vf_filter;
mod vf_set;
mod why;
mod words;

pub use bridge::{Bridge, BridgePort, BridgeStats, FdbEntry, PublishedBridge};
pub use command::{Addressed, Command, LinkSetting};
pub use config::NicConfig;
pub use cost::{CostModel, CpuBudget};
pub use counter::Counter;
pub use driver_filter::{DriverAction, DriverFilter, FilterOp};
pub use fast_path::{FastCounters, Lane, PublishedFast};
pub use fdb::{FdbError, SelfEntry};
pub use filter_fields::{IpPrefix, MacMask, MatchFields, MatchFlags};
pub use filter_spec::{
    FilterAction, FilterId, FilterMatch, FilterPriority, FilterSpec, FlowEnd, MatchError,
    NumberedFilter, Transport,
};
pub use filter_store::{SearchDepth, TableUse};
pub use filter_table::{FilterTable, TableError};
pub use frame_match::FrameMatch;
pub use hits::PublishedHits;
pub use hypervisor::HypervisorModel;
pub use judge::{Account, Judge, PublishedCounters};
pub use lack::Answer;
pub use learned::{AutoLimits, FastEvent, FastKey, LearnedStats};
pub use link::{Departure, Link, LinkConfig};
pub use mailbox::{GroupHash, MailboxRequest, RxFilter, RxMode, UnknownIn, VfRequest};
pub use mtu::{Mtu, MtuError};
pub use netem::{Distribution, Flap, Impairments, Loss, NetemSpec, NetemWay, Odds, Percent};
pub use netem_words::NetemError;
pub use nic::Nic;
pub use paths::{BothPaths, PathDifference, Receivers};
pub use policy::{Granted, Policy, SavedPolicy, SavedVf};
pub use privilege::{PrivilegeChange, Privileges};
pub use probe::Step;
pub use profile::{MAX_TABLE_FILTERS, Profile, VfRoom};
pub use profile_facts::Fact;
pub use question::Question;
pub use rate::TokenBucket;
pub use refusal::{Refusal, Refused};
pub use rss::{DriverRss, HashTypes, MAX_RSS_QUEUES, Rss, RssKey, RssQueues, RssSpread};
pub use rss_context::{MAX_RSS_CONTEXTS, RssContextError, RssContextId, RssContextOp, RssContexts};
pub use rule::CounterId;
pub use source::Source;
pub use stats::{Counters, DropReason, Drops, PublishedPort};
pub use switch_mode::SwitchMode;
pub use time::{BusyTime, Nanos};
pub use verdict::{Again, Hop, Onward, TagEdit, Tagging, To, Verdict};
pub use vf::{
    FloodRate, MAX_VFS, Mbps, Path, PortVlan, SETTING_KEYS, SettingError, SettingKey, VfIndex,
    VfLinkState, VfPolicy, VfRange, VfSet, VfSetting,
};
pub use vf_filter::{
    MAX_FILTERS, MAX_UNTRUSTED_FILTERS, MAX_UNTRUSTED_GROUPS, VfFilter, VfFilterError,
    VfFilterRange, VfFilters,
};
pub use vf_packet::{
    AddrError, FrameError, FrameMeta, Gso, HEAD_LEN, Header, MAX_FRAME, MacAddr, Offload, OnWire,
    PartialChecksum, Segmentation, Tags, Vid, VlanProto, VlanTag, wire_bytes,
};
pub use why::Explanation;
pub use words::{ParseError, nearest};
