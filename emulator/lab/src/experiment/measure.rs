//! Turning what hosts and guests have counted into figures. Two readings and the time between them make a result. Reads counters that are
//! there; looks at no frame and reads no clock.

use std::collections::BTreeMap;

use vf_guest::tcp::{StreamId, TcpGuest};
use vf_model::{Nanos, Path};
use vf_nic::instance::NicInstance;

use super::outcome::{Directions, Hosts, PathResult, Sample};
use super::plan::ExperimentPlan;
use super::settling::WarmedUp;
use super::theory::{bottleneck, is_used_up};

/// Everything that is measured, at one moment. All counts are since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    at: Nanos,
    /// Nanoseconds that each host's transmitter was busy.
    link_busy: Vec<u64>,
    /// Nanoseconds that each host's hypervisor was busy.
    hypervisor_busy: Vec<u64>,
    /// Payload bytes received of each stream.
    received: Vec<u64>,
    /// Data segments, a super-frame as many as the wire carries, and bare ACKs that guests have put on their rings.
    data_frames: u64,
    ack_frames: u64,
    drops: BTreeMap<String, u64>,
}

/// Collects a [`Reading`].
pub(super) struct Meters(Reading);

impl Meters {
    pub(super) fn new(at: Nanos) -> Meters {
        Meters(Reading {
            at,
            ..Reading::default()
        })
    }

    /// Reads a host; host A first.
    pub(super) fn host(&mut self, host: &NicInstance) {
        let reading = &mut self.0;
        let statistics = &host.statistics;
        reading.link_busy.push(statistics.port_busy(reading.at).0);
        let busy = statistics.hypervisor.busy_ns(reading.at);
        reading.hypervisor_busy.push(busy);
        for (_, reason, n) in statistics.drops() {
            *reading.drops.entry(reason.to_string()).or_default() += n;
        }
    }

    /// Reads a guest; in the order of pairs.
    pub(super) fn guest(&mut self, guest: &TcpGuest, stream: StreamId) {
        let stats = guest.stats();
        let stream = guest.stream(stream);
        if stream.sender {
            self.0.data_frames += stats.tx_segments;
        } else {
            self.0.ack_frames += stats.tx_bare;
            self.0.received.push(stream.received);
        }
    }

    /// Adds a pair of guests that were read elsewhere.
    pub(super) fn pair(&mut self, received: u64, data_frames: u64, ack_frames: u64) {
        self.0.received.push(received);
        self.0.data_frames += data_frames;
        self.0.ack_frames += ack_frames;
    }

    pub(super) fn reading(self) -> Reading {
        self.0
    }
}

/// Megabits a second.
fn mbps(bytes: u64, ns: u64) -> f64 {
    bytes as f64 * 8000.0 / ns.max(1) as f64
}

impl Reading {
    /// When it was read.
    pub(super) fn at(&self) -> Nanos {
        self.at
    }

    /// Whether every stream has carried a byte.
    pub(super) fn all_moved(&self) -> bool {
        self.received.iter().all(|bytes| *bytes > 0)
    }

    fn seconds_since(&self, start: &Reading) -> f64 {
        (self.at.0 - start.at.0) as f64 / 1e9
    }

    fn ns_since(&self, start: &Reading) -> u64 {
        self.at.0 - start.at.0
    }

    fn streams_since(&self, start: &Reading) -> Vec<f64> {
        let ns = self.ns_since(start);
        let pairs = self.received.iter().zip(&start.received);
        pairs.map(|(now, then)| mbps(now - then, ns)).collect()
    }

    fn share(&self, start: &Reading, of: impl Fn(&Reading) -> &Vec<u64>) -> [f64; 2] {
        let ns = self.ns_since(start).max(1) as f64;
        let at =
            |reading: &Reading, host: usize| of(reading).get(host).copied().unwrap_or_default();
        [0, 1].map(|host| at(self, host).saturating_sub(at(start, host)) as f64 / ns)
    }
}

/// Averages of the interval between two readings, `at` seconds into the measurement.
pub(super) fn sample(
    plan: &ExperimentPlan,
    begin: &Reading,
    from: &Reading,
    to: &Reading,
) -> Sample {
    let result = summary(plan, from, to);
    Sample {
        at_s: to.seconds_since(begin),
        a_to_b_mbps: result.a_to_b,
        b_to_a_mbps: result.b_to_a,
        link_utilisation: result.link_utilisation,
        hypervisor_cpu: result.hypervisor_cpu,
    }
}

/// What a warm-up looks at.
pub(super) struct Step {
    /// Payload of the two directions.
    pub(super) mbps: [f64; 2],
    /// Whether the hypervisor, or the wire in every direction that carries data, was used up.
    pub(super) used_up: bool,
}

/// What happened between two readings.
pub(super) fn step(plan: &ExperimentPlan, from: &Reading, to: &Reading) -> Step {
    let summary = summary(plan, from, to);
    let carries = (plan.a_to_b > 0, plan.b_to_a > 0);
    Step {
        mbps: [summary.a_to_b, summary.b_to_a],
        used_up: is_used_up(summary.link, summary.hypervisor, carries),
    }
}

struct Summary {
    a_to_b: f64,
    b_to_a: f64,
    streams: Vec<f64>,
    link: Directions,
    link_utilisation: f64,
    hypervisor: Hosts,
    hypervisor_cpu: f64,
}

fn summary(plan: &ExperimentPlan, from: &Reading, to: &Reading) -> Summary {
    let streams = to.streams_since(from);
    let (there, back) = streams.split_at(usize::from(plan.a_to_b).min(streams.len()));
    let [a, b] = to.share(from, |r| &r.link_busy);
    let [ha, hb] = to.share(from, |r| &r.hypervisor_busy);
    let link_utilisation = match (plan.a_to_b > 0, plan.b_to_a > 0) {
        (true, false) => a,
        (false, true) => b,
        _ => (a + b) / 2.0,
    };
    Summary {
        // Of no streams it is 0, which the sum of no numbers (-0) is not for people.
        a_to_b: there.iter().fold(0.0, |sum, mbps| sum + mbps),
        b_to_a: back.iter().fold(0.0, |sum, mbps| sum + mbps),
        link: Directions {
            a_to_b: a,
            b_to_a: b,
        },
        link_utilisation,
        hypervisor: Hosts { a: ha, b: hb },
        hypervisor_cpu: (ha + hb) / 2.0,
        streams,
    }
}

/// The fastest stream over the slowest, of the direction where that is worse; none if a stream got nothing.
fn spread(plan: &ExperimentPlan, streams: &[f64]) -> Option<f64> {
    let (there, back) = streams.split_at(usize::from(plan.a_to_b).min(streams.len()));
    let ratio = |s: &[f64]| {
        let max = s.iter().copied().fold(0.0, f64::max);
        let min = s.iter().copied().fold(f64::INFINITY, f64::min);
        if s.is_empty() { 1.0 } else { max / min }
    };
    let spread = ratio(there).max(ratio(back));
    (starved(streams) == 0).then_some(spread)
}

/// How many streams got nothing.
fn starved(streams: &[f64]) -> usize {
    streams.iter().filter(|mbps| **mbps <= 0.0).count()
}

/// What a path did between the first and the last of `readings`.
pub(super) fn result(
    plan: &ExperimentPlan,
    clock: &str,
    path: Path,
    warmed_up: WarmedUp,
    readings: &[Reading],
) -> PathResult {
    let (Some(first), Some(last)) = (readings.first(), readings.last()) else {
        return result(plan, clock, path, warmed_up, &[empty(plan), empty(plan)]);
    };
    let total = summary(plan, first, last);
    let carries = (plan.a_to_b > 0, plan.b_to_a > 0);
    let acks = (last.ack_frames - first.ack_frames).max(1);
    let samples = readings
        .windows(2)
        .map(|w| sample(plan, first, &w[0], &w[1]))
        .collect();
    let drops = last
        .drops
        .iter()
        .map(|(reason, n)| (reason.clone(), n - first.drops.get(reason).unwrap_or(&0)))
        .filter(|(_, n)| *n > 0)
        .collect();
    PathResult {
        path: path.to_string(),
        clock: clock.to_owned(),
        warm_up_seconds: warmed_up.seconds,
        settled: warmed_up.settled,
        a_to_b_mbps: total.a_to_b,
        b_to_a_mbps: total.b_to_a,
        total_mbps: total.a_to_b + total.b_to_a,
        spread: spread(plan, &total.streams),
        starved: starved(&total.streams),
        streams: total.streams,
        link_utilisation: total.link_utilisation,
        link: total.link,
        hypervisor_cpu: total.hypervisor_cpu,
        hypervisor: total.hypervisor,
        bottleneck: bottleneck(total.link, total.hypervisor, carries),
        timestamps: false,
        reported: Vec::new(),
        digest: None,
        segments_per_ack: (last.data_frames - first.data_frames) as f64 / acks as f64,
        drops,
        cpu_seconds: BTreeMap::new(),
        auto: None,
        samples,
        timeline: None,
    }
}

fn empty(plan: &ExperimentPlan) -> Reading {
    Reading {
        link_busy: vec![0; 2],
        hypervisor_busy: vec![0; 2],
        received: vec![0; usize::from(plan.pairs())],
        ..Reading::default()
    }
}
