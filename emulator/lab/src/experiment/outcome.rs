//! What an experiment found, as its JSON says it. Figures come from a run, or are marked as what they are: theory, the
//! 2009 measurement, the one calibrated constant. Computes none of them.

use std::collections::BTreeMap;

use serde::Serialize;
use vf_model::Profile;
use vf_nic::config::{DeviceKind, Offloads};

use super::plan::Tool;
use crate::provenance::Provenance;

/// The outcome of `vfnic experiment`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExperimentOutcome {
    /// What made it, if somebody has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<Provenance>,
    /// `embedded` or `linux`: whose TCP it was.
    pub guests: String,
    /// `virtual`, `wall` or `both`.
    pub clock: String,
    /// The seed of sequence numbers and start times.
    pub seed: u64,
    /// What was run.
    pub plan: PlanView,
    /// One entry a clock and path, in the order they ran.
    pub results: Vec<PathResult>,
    /// What the wire allows, computed for the segments an ACK that the direct run showed.
    pub theory: Theory,
    /// The measurement that this reproduces.
    pub original: Original,
    /// What was fitted and to what.
    pub calibration: Calibration,
    /// How far the mediated figure depends on that, if it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<Sensitivity>,
}

/// The experiment's parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanView {
    /// Streams from host A to host B; each has a guest of its own at either end.
    pub a_to_b_streams: u16,
    /// Streams from host B to host A.
    pub b_to_a_streams: u16,
    /// The guests' IP MTU in bytes.
    pub mtu: u16,
    /// The link's rate.
    pub rate_mbps: f64,
    /// Nanoseconds from one end of the wire to the other.
    pub propagation_ns: u64,
    /// What becomes of frames on the wire, in the words of tc-netem, if anything does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netem: Option<String>,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Seconds before that which were not, at least.
    pub warm_up_seconds: f64,
    /// What makes the streams of Linux guests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<Tool>,
    /// Bytes of each stream's receive window; Linux guests size theirs themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// What the NICs are like.
    pub profile: Profile,
    /// What guests leave to the NIC.
    pub offloads: Offloads,
    /// What guests find on their VF, by the name of its driver.
    pub device: DeviceKind,
    /// Least time between two interrupts of a VF, in nanoseconds.
    pub interrupt_moderation_ns: u64,
}

/// One path under load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathResult {
    /// `mediated`, `direct` or `auto`.
    pub path: String,
    /// `virtual` or `wall`. Figures of different clocks are not comparable.
    pub clock: String,
    /// Seconds from the start of the streams to the measurement: until rates had settled. The hypervisor, or every direction of
    /// the wire that carries data, was used up in two quarters of the least warm-up in a row with rates within 3 %; or rates
    /// stayed within 1 % in ten of them. On the wall clock, where nothing is as steady, a fixed time after every stream had moved
    /// its first byte.
    pub warm_up_seconds: f64,
    /// Whether they had; on the wall clock, whether every stream had moved.
    pub settled: bool,
    /// TCP payload from host A to host B, in 10^6 bit/s.
    pub a_to_b_mbps: f64,
    /// TCP payload from host B to host A.
    pub b_to_a_mbps: f64,
    /// Both.
    pub total_mbps: f64,
    /// Every stream, A to B first.
    pub streams: Vec<f64>,
    /// What the tool of each stream of Linux guests says of it (iperf3 where it is received, netperf where it is sent), over
    /// those of its own intervals that were over when the measurement was; none if there was none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reported: Vec<f64>,
    /// The fastest stream over the slowest of the same direction, the worse of both directions. None if a stream of a direction
    /// got nothing.
    pub spread: Option<f64>,
    /// How many streams got nothing at all.
    pub starved: usize,
    /// Share of time in which the wire carried a frame, preamble and gap included: the mean of the directions that carry
    /// data.
    pub link_utilisation: f64,
    /// The two directions of the wire.
    pub link: Directions,
    /// Share of time in which the hypervisor's CPU worked: the mean of both hosts.
    pub hypervisor_cpu: f64,
    /// The two hosts' hypervisors.
    pub hypervisor: Hosts,
    /// `Hypervisor CPU`, `Link (...)` or `Guests`, named from the utilisations.
    pub bottleneck: String,
    /// Data segments received for each ACK sent, over all guests.
    pub segments_per_ack: f64,
    /// Whether segments carried TCP timestamps.
    pub timestamps: bool,
    /// Frames that did not arrive, by reason.
    pub drops: BTreeMap<String, u64>,
    /// A digest of time, place and bytes of every frame from the start of the guests to the end of the measurement; on the
    /// virtual clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Seconds of CPU by thread, wall clock only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_seconds: BTreeMap<String, f64>,
    /// What took which path, if each flow took its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto: Option<AutoFrames>,
    /// The run over time.
    pub samples: Vec<Sample>,
    /// A fraction of a millisecond behind it, frame by frame; of embedded guests on the virtual clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
}

/// What passed from host A to host B behind a measurement, and what waited.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeline {
    /// How long it is, in microseconds.
    pub length_us: f64,
    /// TCP packets by the place where they were seen, in the order of their way.
    pub lanes: Vec<Lane>,
    /// What waited, each microsecond.
    pub depth: Vec<Depth>,
}

/// When TCP packets passed a place, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lane {
    /// The place.
    pub place: &'static str,
    /// Those with payload.
    pub data_us: Vec<f64>,
    /// ACKs without.
    pub ack_us: Vec<f64>,
}

/// How many frames from A to B waited at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Depth {
    /// When, in microseconds.
    pub at_us: f64,
    /// On the send rings of host A's guests; not known of super-frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rings: Option<u64>,
    /// Behind those, up to the guests of host B: in hypervisors and NICs, and on the wire.
    pub inside: u64,
}

/// What took which path from the first frame to the end of the measurement, over all VFs of both hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AutoFrames {
    /// Frames sent and received straight through the NIC.
    pub fastpath_packets: u64,
    /// Frames sent and received by way of a hypervisor.
    pub slowpath_packets: u64,
    /// Received frames that waited while their flow changed to the fast path.
    pub waited: u64,
    /// What hypervisors saw of each flow; only embedded guests on the virtual clock are watched for that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<FirstPackets>,
}

/// The packets of a flow that took the slow path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FirstPackets {
    /// Address and port of the sender.
    pub from: String,
    /// Address and port of the receiver.
    pub to: String,
    /// How many the sender's hypervisor saw.
    pub sent: u64,
    /// How many the receiver's hypervisor saw.
    pub received: u64,
    /// When the first was seen, in microseconds from the start.
    pub first_us: f64,
    /// When the last was.
    pub last_us: f64,
}

/// A figure for each direction of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Directions {
    /// Host A to host B.
    pub a_to_b: f64,
    /// Host B to host A.
    pub b_to_a: f64,
}

/// A figure for each host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Hosts {
    /// Host A.
    pub a: f64,
    /// Host B.
    pub b: f64,
}

/// The averages of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// End of the interval, in seconds from the start of the measurement.
    pub at_s: f64,
    /// TCP payload in 10^6 bit/s.
    pub a_to_b_mbps: f64,
    /// TCP payload in 10^6 bit/s.
    pub b_to_a_mbps: f64,
    /// As in [`PathResult::link_utilisation`].
    pub link_utilisation: f64,
    /// As in [`PathResult::hypervisor_cpu`].
    pub hypervisor_cpu: f64,
}

/// What arithmetic says about the wire.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Theory {
    /// Payload of one direction if it had the wire to itself, without a thought for ACKs.
    pub naive_mbps: f64,
    /// Payload of A to B when both directions are saturated and carry each other's ACKs.
    pub a_to_b_mbps: f64,
    /// Payload of B to A likewise.
    pub b_to_a_mbps: f64,
    /// Both.
    pub total_mbps: f64,
    /// The ACK ratio the above is computed for.
    pub segments_per_ack: f64,
    /// Whether it is computed for segments and ACKs with TCP timestamps.
    pub timestamps: bool,
    /// The formula in words.
    pub how: String,
}

/// The 2009 measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Original {
    /// Where it was published.
    pub source: &'static str,
    /// Mb/s of the A-to-B and B-to-A streams through the hypervisor.
    pub mediated_streams: [[u32; 4]; 2],
    /// Mb/s of the A-to-B and B-to-A streams directly.
    pub direct_streams: [[u32; 4]; 2],
    /// Total through the hypervisor.
    pub mediated_mbps: u32,
    /// Total directly.
    pub direct_mbps: u32,
    /// What bound the mediated run.
    pub mediated_bottleneck: &'static str,
    /// What bound the direct run.
    pub direct_bottleneck: &'static str,
}

impl Original {
    /// The figures as published.
    pub const PUBLISHED: Original = Original {
        source: "Citrix blog, 2009-04-13: XenServer, Nehalem and Solarflare",
        mediated_streams: [[1094, 1068, 1046, 1128], [1019, 1028, 1050, 1021]],
        direct_streams: [[2355, 2318, 2296, 2289], [2285, 2295, 2315, 2350]],
        mediated_mbps: 8454,
        direct_mbps: 18503,
        mediated_bottleneck: "Hypervisor CPU",
        direct_bottleneck: "Link (both directions)",
    };
}

/// What the mediated path carries with other values of the two numbers that were fitted, one at a time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sensitivity {
    /// Seconds that each run measured.
    pub seconds: f64,
    /// By interrupt moderation, in microseconds.
    pub moderation_us: Vec<SensitivityPoint>,
    /// By the scale of the hypervisor's costs.
    pub cost_scale: Vec<SensitivityPoint>,
}

/// One value of a number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SensitivityPoint {
    /// The value.
    pub value: f64,
    /// What the mediated path carries with it, both ways.
    pub total_mbps: f64,
    /// Whether it is the plan's.
    pub chosen: bool,
}

/// The one constant that was fitted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Its name.
    pub constant: &'static str,
    /// Its value.
    pub value: f64,
    /// What it was fitted to, and what it is not.
    pub note: &'static str,
}
