//! What a scenario file asks for, with every name resolved. A [`ScenarioPlan`] cannot be wrong. Runs nothing.

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vf_model::{Command, DropReason, Nanos, Profile, VfIndex, VfRequest};
use vf_nic::config::Config;

/// What plays the guests of a scenario.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum GuestKind {
    /// A driver and a TCP stack in this process: fast, no image needed.
    #[default]
    Embedded,
    /// Linux kernels on the virtual clock.
    Linux,
}

impl fmt::Display for GuestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GuestKind::Embedded => "embedded",
            GuestKind::Linux => "linux",
        })
    }
}

/// A checked scenario.
#[derive(Debug)]
pub struct ScenarioPlan {
    /// The file it is from.
    pub file: PathBuf,
    /// What it shows, in a line.
    pub about: String,
    /// Which NIC the first of its NICs is like.
    pub profile: Profile,
    /// What plays the guests.
    pub kind: GuestKind,
    /// When it ends.
    pub until: Nanos,
    /// Bytes of each frame that a capture keeps; 0 is all.
    pub snaplen: u32,
    /// Seed of sequence numbers.
    pub(super) seed: u64,
    /// Least time between two interrupts of a VF.
    pub(super) moderation: Nanos,
    /// NICs and wires.
    pub(super) config: Config,
    pub(super) guests: Vec<GuestPlan>,
    pub(super) jobs: Vec<Job>,
    pub(super) frames: Vec<FramePlan>,
    /// In the order in which they are applied.
    pub(super) events: Vec<Event>,
    pub(super) expectations: Vec<Expectation>,
    pub(super) names: Names,
}

/// Which of them a name is.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) jobs: HashMap<String, usize>,
    pub(super) frames: HashMap<String, usize>,
    pub(super) events: HashMap<String, usize>,
}

/// A guest.
#[derive(Debug)]
pub(super) struct GuestPlan {
    pub(super) name: String,
    /// At least one; the first is the one that others send to.
    pub(super) interfaces: Vec<Interface>,
    pub(super) mtu: u16,
}

impl GuestPlan {
    pub(super) fn address(&self) -> Ipv4Addr {
        self.interfaces
            .first()
            .map_or(Ipv4Addr::UNSPECIFIED, |i| i.address)
    }
}

/// A VF as a guest has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interface {
    /// Index of the NIC.
    pub(super) nic: usize,
    pub(super) vf: VfIndex,
    pub(super) address: Ipv4Addr,
    pub(super) prefix_len: u8,
}

/// Something that a guest does.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) name: String,
    /// Index of the guest.
    pub(super) guest: usize,
    pub(super) at: Nanos,
    pub(super) work: Work,
    /// The TCP port that its connections go to; `None`: any.
    pub(super) port: Option<u16>,
}

/// What a job does.
#[derive(Debug)]
pub(super) enum Work {
    /// A shell command of a Linux guest.
    Run(String),
    /// TCP streams to the guest of this index.
    Send {
        to: usize,
        amount: Amount,
        streams: u16,
    },
    /// Echo requests to the guest of this index.
    Ping {
        to: usize,
        count: u16,
        interval: Nanos,
    },
}

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Amount {
    /// Bytes in all streams together.
    Bytes(u64),
    /// As much as goes in this time.
    For(Nanos),
    /// As much as goes until the scenario ends.
    Endless,
}

/// A frame that a guest sends as it stands.
#[derive(Debug)]
pub(super) struct FramePlan {
    pub(super) name: String,
    pub(super) at: Nanos,
    /// Index of the guest.
    pub(super) guest: usize,
    pub(super) bytes: Vec<u8>,
}

/// Something that is asked of a NIC at a time.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) name: Option<String>,
    pub(super) at: Nanos,
    /// Index of the NIC.
    pub(super) nic: usize,
    pub(super) asked: Request,
    /// What becomes of that, in a line.
    pub(super) answer: String,
    /// Whether nothing becomes of it.
    pub(super) refused: bool,
}

/// What can be asked of a NIC.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// By the administrator.
    Command(Command),
    /// By the driver of a VF, and in which words.
    Driver(VfIndex, VfRequest, String),
    /// Of its socket, by the front end of a guest.
    FrontEnd {
        /// Index of the guest.
        guest: usize,
        /// The VF that it is on.
        vf: VfIndex,
        /// What it does.
        does: FrontEnd,
    },
}

/// What a front end does with its connection; the guest, its memory and its rings stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FrontEnd {
    /// Loses it, as when the back end ends.
    Disconnect,
    /// Connects again, and goes on with the rings where they are.
    Connect,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Command(command) => command.fmt(f),
            Request::Driver(vf, _, words) => write!(f, "the driver of {vf} asks: {words}"),
            Request::FrontEnd { vf, does, .. } => write!(
                f,
                "the front end of {vf} {}",
                match does {
                    FrontEnd::Disconnect => "disconnects",
                    FrontEnd::Connect => "connects",
                }
            ),
        }
    }
}

/// A promise.
#[derive(Debug)]
pub(super) struct Expectation {
    /// Where it is in the file.
    pub(super) line: usize,
    pub(super) figure: Figure,
    pub(super) from: Nanos,
    pub(super) to: Nanos,
    pub(super) want: Want,
}

/// What is measured for a promise. Jobs and NICs by their index in the plan.
#[derive(Debug)]
pub(super) enum Figure {
    /// Bits a second of payload.
    Goodput(Vec<usize>),
    Retransmits(Vec<usize>),
    /// Nanoseconds from each echo request to its reply.
    Rtt(Vec<usize>),
    /// The exit code of a job.
    Exit(usize),
    /// Frames lost.
    Drops {
        nic: usize,
        vf: Option<VfIndex>,
        reason: Option<DropReason>,
    },
    LinkBusy(usize),
    HypervisorBusy(usize),
    Bottleneck,
    /// Who has received the frame of this index.
    Reaches(usize),
    /// The answer to the event of this index.
    Answer(usize),
}

/// What is to come out.
#[derive(Debug)]
pub(super) enum Want {
    Between(Option<f64>, Option<f64>),
    Code(i32),
    Named(Bottleneck),
    /// These receivers, in order.
    Receivers(Vec<String>),
    /// An answer with this in it.
    Says(String),
}

/// What bound a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bottleneck {
    Hypervisor,
    Link,
    /// Windows, losses, limits, or there was no more to send.
    Neither,
}

impl Bottleneck {
    pub(super) const ALL: [Bottleneck; 3] = [
        Bottleneck::Hypervisor,
        Bottleneck::Link,
        Bottleneck::Neither,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Bottleneck::Hypervisor => "hypervisor",
            Bottleneck::Link => "link",
            Bottleneck::Neither => "neither",
        }
    }
}
