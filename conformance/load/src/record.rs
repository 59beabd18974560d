//! What a bench found, as it is kept in a file. Never sets records against each other: that is `compare`'s.

use serde::{Deserialize, Serialize};

use super::account::Measured;
use super::plan::{LoadPlan, Mode};
use super::wire::{OnWire, line_pps};

/// Quantiles of the latency that are kept.
const QUANTILES: [f64; 12] = [
    0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 1.0,
];

/// One invocation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// The part of a larger measurement that this is; may be empty.
    #[serde(default)]
    pub(super) part: String,
    /// Which program measured, on what machine, and how many threads wanted a CPU there over the last minute before.
    #[serde(default)]
    pub(super) made_by: String,
    /// The user's name for the back end.
    pub(super) label: String,
    /// Which rate was searched, `NDR` or `PDR N %`; otherwise the rates are what was reached flat out or as offered.
    #[serde(default)]
    pub(super) search: Option<String>,
    /// Sockets.
    pub(super) ports: usize,
    /// Ports that took part.
    pub(super) active: usize,
    /// Ring and features, as in `split-vec`.
    pub(super) ring: String,
    pub(super) queue_size: u16,
    pub(super) queues: u16,
    pub(super) burst: u16,
    pub(super) flows: u32,
    pub(super) vlan: Option<u16>,
    /// What of each frame was written and read.
    pub(super) touch: String,
    /// Pages of guest memory.
    pub(super) memory: String,
    /// The CPU the generator was pinned to.
    pub(super) cpu: Option<usize>,
    /// Nanoseconds that a cache line took to the back end's CPU and back, before and after the runs of each size.
    pub(super) line_ns: Vec<u64>,
    pub(super) runs: Vec<Run>,
}

/// This program on this machine, and its load now.
pub(super) fn made_by() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| {
        let (key, name) = line.split_once(':')?;
        (key.trim() == "model name").then(|| name.trim())
    });
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "vf-conformance {} on {}, {cpus} CPUs, Linux {}, load {}",
        env!("CARGO_PKG_VERSION"),
        model.unwrap_or("unknown CPU"),
        rustix::system::uname().release().to_string_lossy(),
        load.split(' ').next().unwrap_or("unknown"),
    )
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) mode: Mode,
    /// Bytes a frame, without FCS.
    pub(super) size: usize,
    pub(super) round: u32,
    /// Whether a command ran beside it.
    #[serde(default)]
    pub(super) beside: bool,
    /// Frames a second that were to be sent in all, if paced.
    pub(super) offered_pps: Option<f64>,
    pub(super) tx_pps: f64,
    pub(super) rx_pps: f64,
    /// Of the frames received, or sent where none are; frames without FCS.
    pub(super) gbps: f64,
    pub(super) sent: u64,
    pub(super) lost: u64,
    pub(super) reordered: u64,
    pub(super) duplicates: u64,
    pub(super) foreign: u64,
    pub(super) bad: u64,
    /// Share of the bursts that did not fit into the send ring.
    pub(super) ring_full: f64,
    /// Share of the time in which the generator had nothing to do.
    pub(super) idle: f64,
    /// Least frames received on a port, as a share of the most on a port.
    pub(super) fairness: f64,
    /// Generator's busy time a frame sent or received, in nanoseconds.
    pub(super) busy_ns: f64,
    /// How much that is of a wire's line rate, if one was said to be between the ports.
    #[serde(default)]
    pub(super) wire: Option<OnWire>,
    /// Busy cycles a packet by the back end's own counter.
    #[serde(default)]
    pub(super) cycles: Option<f64>,
    pub(super) bound: Option<Bound>,
    pub(super) latency: Option<Latency>,
    /// Nanoseconds that a cache line took to the back end's CPU and back, before and after the runs of this size.
    #[serde(default)]
    pub(super) line_ns: Vec<u64>,
}

/// Round trips, or times from port to port under load, in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) frames: u64,
    pub(super) min: u64,
    pub(super) p50: u64,
    pub(super) p90: u64,
    pub(super) p99: u64,
    #[serde(rename = "p99.9")]
    pub(super) p999: u64,
    pub(super) max: u64,
    /// Quantile and nanoseconds.
    pub(super) curve: Vec<(f64, u64)>,
}

/// Who held the rate down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Bound {
    /// The send ring was seldom full: the back end could do more.
    Generator,
    /// The send ring was mostly full and the generator idle at times.
    BackEnd,
    /// Both were near their limit.
    Both,
}

impl Bound {
    /// From the share of bursts that met a full ring, and of time without anything to do.
    pub(super) fn of(ring_full: f64, idle: f64) -> Bound {
        if ring_full < 0.25 && idle < 0.1 {
            Bound::Generator
        } else if ring_full > 0.5 && idle > 0.1 {
            Bound::BackEnd
        } else {
            Bound::Both
        }
    }
}

impl Run {
    pub(super) fn new(plan: &LoadPlan, round: u32, found: &Measured) -> Run {
        let rate = |count: u64| count as f64 / found.seconds;
        let bits = match plan.mode {
            Mode::Drain => found.sent as f64 * plan.size as f64 * 8.0,
            _ => found.bytes as f64 * 8.0,
        };
        let unbound = plan.rate.is_some() || matches!(plan.mode, Mode::Sink | Mode::Pingpong);
        let h = &found.latency;
        Run {
            mode: plan.mode,
            size: plan.size,
            round,
            beside: false,
            offered_pps: plan.rate,
            tx_pps: rate(found.sent),
            rx_pps: rate(found.received),
            gbps: bits / found.seconds / 1e9,
            sent: found.all_sent,
            lost: match plan.mode {
                Mode::Drain | Mode::Sink => 0,
                _ => found.lost,
            },
            reordered: found.reordered,
            duplicates: found.duplicates,
            foreign: found.foreign,
            bad: found.bad,
            ring_full: found.ring_full,
            idle: found.idle,
            fairness: found.fairness,
            busy_ns: found.busy_ns,
            wire: plan.wire.map(|bits| {
                let line_pps = line_pps(bits, plan.size);
                let share = found.weaker_way * rate(found.received) / line_pps;
                OnWire { line_pps, share }
            }),
            cycles: None,
            line_ns: Vec::new(),
            bound: (!unbound).then(|| Bound::of(found.ring_full, found.idle)),
            latency: (!h.is_empty()).then(|| Latency {
                frames: h.len(),
                min: h.min(),
                p50: h.value_at_quantile(0.5),
                p90: h.value_at_quantile(0.9),
                p99: h.value_at_quantile(0.99),
                p999: h.value_at_quantile(0.999),
                max: h.max(),
                curve: QUANTILES.map(|q| (q, h.value_at_quantile(q))).to_vec(),
            }),
        }
    }

    /// Frames a second that count: those received, or sent where none are.
    pub(super) fn pps(&self) -> f64 {
        match self.mode {
            Mode::Drain => self.tx_pps,
            _ => self.rx_pps,
        }
    }

    /// Frames a second that the generator could do at least: at the time that each took it. The fuller its bursts, the more.
    pub(super) fn generator_pps(&self) -> f64 {
        self.pps() / (1.0 - self.idle).max(0.001)
    }

    /// Share of the frames that were lost; of a paced run, also those that could not be sent.
    pub(super) fn loss(&self) -> f64 {
        let lost = self.lost as f64 / self.sent.max(1) as f64;
        let unsent = self.offered_pps.map_or(0.0, |pps| 1.0 - self.tx_pps / pps);
        // A moment that the machine took away is no failure of the back end.
        if unsent > 0.01 {
            lost.max(unsent)
        } else {
            lost
        }
    }
}

/// The middle one of some figures; 0 when there are none.
pub(super) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<_> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Smallest and largest figure.
pub(super) fn spread(figures: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    figures
        .into_iter()
        .fold(start, |(low, high), x| (low.min(x), high.max(x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_the_bottleneck() {
        assert_eq!(Bound::of(0.05, 0.0), Bound::Generator);
        assert_eq!(Bound::of(0.97, 0.5), Bound::BackEnd);
        assert_eq!(Bound::of(0.8, 0.02), Bound::Both);
        assert_eq!(Bound::of(0.1, 0.3), Bound::Both);
    }

    #[test]
    fn the_middle_one() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
        assert_eq!(spread([4.0, 1.0]), (1.0, 4.0));
    }
}
