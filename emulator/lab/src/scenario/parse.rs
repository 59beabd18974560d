//! A scenario file as its TOML has it. Knows the words of each section; what they refer to is the plan's to find.

use serde::Deserialize;
use toml::Spanned;
use vf_nic::config::{HypervisorSection, NicSection, WireSection};

use super::plan::{FrontEnd, GuestKind};
use vf_model::duration::Duration;

/// A whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) about: Option<String>,
    pub(super) until: Duration,
    pub(super) guests: Option<GuestKind>,
    pub(super) seed: Option<u64>,
    pub(super) moderation: Option<Duration>,
    pub(super) snaplen: Option<u32>,
    #[serde(default)]
    pub(super) hypervisor: HypervisorSection,
    #[serde(default)]
    pub(super) nic: Vec<Spanned<NicSection>>,
    #[serde(default)]
    pub(super) wire: Vec<Spanned<WireSection>>,
    #[serde(default)]
    pub(super) guest: Vec<Spanned<GuestSection>>,
    #[serde(default)]
    pub(super) job: Vec<Spanned<JobSection>>,
    #[serde(default)]
    pub(super) frame: Vec<Spanned<FrameSection>>,
    #[serde(default)]
    pub(super) event: Vec<Spanned<EventSection>>,
    #[serde(default)]
    pub(super) expect: Vec<Spanned<ExpectSection>>,
}

/// A guest and the VFs it is on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GuestSection {
    pub(super) name: String,
    pub(super) nic: Option<String>,
    #[serde(default)]
    pub(super) vf: u16,
    pub(super) address: String,
    pub(super) mtu: Option<u16>,
    #[serde(default)]
    pub(super) also: Vec<InterfaceSection>,
}

/// A further VF of a guest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InterfaceSection {
    pub(super) nic: Option<String>,
    #[serde(default)]
    pub(super) vf: u16,
    pub(super) address: String,
}

/// Something that a guest does.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobSection {
    pub(super) name: Option<String>,
    pub(super) guest: String,
    pub(super) at: Duration,
    pub(super) run: Option<String>,
    pub(super) send: Option<SendSection>,
    pub(super) ping: Option<PingSection>,
    pub(super) port: Option<u16>,
}

/// TCP to another guest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ to = ..., bytes = ... }")]
pub(super) struct SendSection {
    pub(super) to: String,
    pub(super) bytes: Option<u64>,
    #[serde(rename = "for")]
    pub(super) duration: Option<Duration>,
    #[serde(default = "one")]
    pub(super) streams: u16,
}

/// Echo requests to another guest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "{ to = ..., count = ... }")]
pub(super) struct PingSection {
    pub(super) to: String,
    #[serde(default = "one")]
    pub(super) count: u16,
    pub(super) interval: Option<Duration>,
}

/// One frame that a guest sends, in the words of `vfnic why`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FrameSection {
    pub(super) name: String,
    pub(super) at: Duration,
    pub(super) nic: Option<String>,
    pub(super) send: String,
}

/// A command of the administrator, a request of the driver of a VF, or something that a guest's front end does.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventSection {
    pub(super) name: Option<String>,
    pub(super) at: Duration,
    pub(super) nic: Option<String>,
    #[serde(rename = "do")]
    pub(super) command: Option<String>,
    pub(super) vf: Option<u8>,
    pub(super) ask: Option<String>,
    pub(super) guest: Option<String>,
    pub(super) front_end: Option<FrontEnd>,
}

/// What is to come out. Exactly one of the first group is named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectSection {
    pub(super) goodput: Option<Names>,
    pub(super) retransmits: Option<Names>,
    pub(super) rtt: Option<Names>,
    pub(super) exit: Option<String>,
    pub(super) drops: Option<String>,
    pub(super) link_busy: Option<String>,
    pub(super) hypervisor_busy: Option<String>,
    pub(super) bottleneck: Option<String>,
    pub(super) reaches: Option<String>,
    pub(super) answer: Option<String>,

    pub(super) receivers: Option<Vec<String>>,
    pub(super) is: Option<String>,
    pub(super) nic: Option<String>,
    pub(super) vf: Option<u16>,
    pub(super) code: Option<i32>,
    pub(super) from: Option<Duration>,
    pub(super) to: Option<Duration>,
    pub(super) min: Option<Bound>,
    pub(super) max: Option<Bound>,
}

/// One name or several.
#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "wanted the name of a job or a list of names")]
pub(super) enum Names {
    One(String),
    Several(Vec<String>),
}

/// A bound: a plain number, or one with a unit.
#[derive(Clone, Deserialize)]
#[serde(untagged, expecting = "wanted a number, or one with a unit in quotes")]
pub(super) enum Bound {
    Number(f64),
    Text(String),
}

fn one() -> u16 {
    1
}
