//! What the files of `bench --json` hold, round by round, and which rounds may be set against each other.
//!
//! The k-th file of a label is its round k, measured next to round k of the others, so that what the machine does to one it
//! does to all. Where the CPUs were not as far apart for both, a round is set against another one for which they were; what
//! has no partner is left out of a ratio and counted. The only place that decides this.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::distance::comparable;
use super::plan::Mode;
use super::record::{Record, Run, median, spread};
use super::table;

/// A figure of a round that ratios and bars are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Figure {
    /// Mpps that arrived, or were sent where none arrive.
    Rate,
    /// Median of the round trips, in ns.
    P50,
    /// 99.9 % of the round trips took no longer, in ns.
    #[serde(rename = "p99.9")]
    P999,
    /// Frames that did not arrive, in percent.
    Loss,
    /// What the port that got least got, as a share of the port that got most.
    Fairness,
    /// Share of a wire's line rate, in percent; of both ways, the weaker one.
    Wire,
    /// Busy cycles a packet by the back end's own counter.
    Cycles,
    /// CPU time of the back end, in percent of one CPU.
    Cpu,
    /// Resident memory of the back end, in MiB.
    Memory,
    /// Rate of one TCP stream, in Mb/s.
    Tcp,
}

impl Figure {
    /// The figure's unit, with a blank in front.
    pub(super) fn unit(self) -> &'static str {
        match self {
            Figure::Rate => " Mpps",
            Figure::P50 | Figure::P999 => " ns",
            Figure::Loss | Figure::Wire | Figure::Cpu => " %",
            Figure::Fairness => "",
            Figure::Cycles => " cycles",
            Figure::Memory => " MiB",
            Figure::Tcp => " Mb/s",
        }
    }

    /// A value of the figure with as many digits as tell something, without its unit.
    pub(super) fn digits(self, value: f64) -> String {
        match self {
            Figure::Rate | Figure::Wire => format!("{value:.2}"),
            Figure::Loss | Figure::Fairness => format!("{value:.3}"),
            Figure::Cpu => format!("{value:.1}"),
            Figure::P50 | Figure::P999 | Figure::Cycles | Figure::Memory | Figure::Tcp => {
                format!("{value:.0}")
            }
        }
    }
}

/// What was measured by other means than the generator: one file of it is one round.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Other {
    part: String,
    label: String,
    ports: usize,
    figures: BTreeMap<Figure, f64>,
}

/// What is comparable. Figures that no run of the generator found have neither mode, ring nor bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub(super) part: String,
    pub(super) mode: Option<Mode>,
    pub(super) ports: usize,
    pub(super) active: usize,
    pub(super) flows: u32,
    pub(super) ring: String,
    pub(super) bytes: usize,
}

/// What one file has of a kind.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) runs: Vec<Run>,
    other: BTreeMap<Figure, f64>,
    line_ns: Vec<u64>,
}

impl Round {
    /// A figure of the round: the median of its runs; `None` when it was not measured.
    pub(super) fn figure(&self, figure: Figure) -> Option<f64> {
        let of = |value: fn(&Run) -> Option<f64>| {
            let mut known = self.runs.iter().filter_map(value).peekable();
            known.peek().is_some().then(|| median(known))
        };
        match figure {
            Figure::Rate => of(|run| Some(run.pps() / 1e6)),
            Figure::P50 => of(|run| run.latency.as_ref().map(|latency| latency.p50 as f64)),
            Figure::P999 => of(|run| run.latency.as_ref().map(|latency| latency.p999 as f64)),
            Figure::Loss => of(|run| Some(100.0 * run.loss())),
            Figure::Fairness => of(|run| Some(run.fairness)),
            Figure::Wire => of(|run| run.wire.map(|wire| 100.0 * wire.share)),
            Figure::Cycles => of(|run| run.cycles),
            Figure::Cpu | Figure::Memory | Figure::Tcp => self.other.get(&figure).copied(),
        }
    }
}

/// A figure's median over rounds; `None` when no round has it.
pub(super) fn middle(rounds: &[Round], figure: Figure) -> Option<f64> {
    let known: Vec<_> = rounds.iter().filter_map(|r| r.figure(figure)).collect();
    (!known.is_empty()).then(|| median(known))
}

/// Which side was the bottleneck over all rounds: `generator`, `back end`, `both`, or `-`.
pub(super) fn bottleneck(rounds: &[Round]) -> &'static str {
    let runs: Vec<Run> = rounds.iter().flat_map(|r| r.runs.clone()).collect();
    table::bottleneck(&runs)
}

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Labels in the order of the files.
    pub(super) labels: Vec<String>,
    /// By kind, and by label: each round.
    pub(super) kinds: BTreeMap<Kind, HashMap<String, Vec<Round>>>,
}

impl Rounds {
    /// Reads files of `bench --json`, and of other measurements.
    pub(super) fn read(files: &[PathBuf]) -> io::Result<Rounds> {
        let mut rounds = Rounds::default();
        for file in files {
            rounds.read_one(file).map_err(|error| {
                let text = error.to_string().replace('\n', " ");
                io::Error::other(format!("{}: {text}", file.display()))
            })?;
        }
        Ok(rounds)
    }

    fn read_one(&mut self, file: &Path) -> io::Result<()> {
        let value: serde_json::Value = serde_json::from_slice(&fs::read(file)?)?;
        if value.get("figures").is_some() {
            let Other {
                part,
                label,
                ports,
                figures: other,
            } = serde_json::from_value(value)?;
            let kind = Kind {
                part,
                mode: None,
                ports,
                active: ports,
                flows: 0,
                ring: String::new(),
                bytes: 0,
            };
            let round = Round {
                runs: Vec::new(),
                other,
                line_ns: Vec::new(),
            };
            self.know(&label);
            self.add(kind, &label, round);
            return Ok(());
        }
        let record: Record = serde_json::from_value(value)?;
        self.know(&record.label);
        // Runs that a command ran beside have a label of their own.
        let with = format!("{} beside", record.label);
        let mut new: BTreeMap<(Kind, bool), Vec<Run>> = BTreeMap::new();
        for run in record.runs {
            let kind = Kind {
                part: record.part.clone(),
                mode: Some(run.mode),
                ports: record.ports,
                active: record.active,
                flows: record.flows,
                ring: record.ring.clone(),
                bytes: run.size,
            };
            new.entry((kind, run.beside)).or_default().push(run);
        }
        for ((kind, beside), runs) in new {
            let mut line_ns: Vec<u64> = runs.iter().flat_map(|run| run.line_ns.clone()).collect();
            if line_ns.is_empty() {
                line_ns.clone_from(&record.line_ns);
            }
            let round = Round {
                runs,
                other: BTreeMap::new(),
                line_ns,
            };
            let label = if beside { &with } else { &record.label };
            self.know(label);
            self.add(kind, label, round);
        }
        Ok(())
    }

    fn know(&mut self, label: &str) {
        if !self.labels.iter().any(|known| known == label) {
            self.labels.push(label.to_owned());
        }
    }

    fn add(&mut self, kind: Kind, label: &str, round: Round) {
        let by_label = self.kinds.entry(kind).or_default();
        by_label.entry(label.to_owned()).or_default().push(round);
    }
}

/// A ratio over the rounds that compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ratio {
    /// The median; `None` when no round compares.
    pub(super) median: Option<f64>,
    low: f64,
    high: f64,
    /// Rounds that had no partner, or not the figure.
    left_out: usize,
}

impl Ratio {
    /// Of a figure of some rounds to that of the base's.
    pub(super) fn of(figure: Figure, rounds: &[Round], base: &[Round]) -> Ratio {
        let each = |(a, b): (&Round, &Round)| {
            let (a, b) = (a.figure(figure)?, b.figure(figure)?);
            (a != 0.0 && b != 0.0).then(|| a / b)
        };
        let ratios: Vec<f64> = partners(rounds, base)
            .into_iter()
            .filter_map(each)
            .collect();
        let (low, high) = spread(ratios.iter().copied());
        Ratio {
            low,
            high,
            left_out: rounds.len().min(base.len()).saturating_sub(ratios.len()),
            median: (!ratios.is_empty()).then(|| median(ratios)),
        }
    }
}

/// Median and spread, and how many rounds were left out, as in `1.06: 1.02..1.10, less 1`.
impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(median) = self.median else {
            return f.write_str("no ratio");
        };
        write!(f, "{median:.2}: {:.2}..{:.2}", self.low, self.high)?;
        match self.left_out {
            0 => Ok(()),
            n => write!(f, ", less {n}"),
        }
    }
}

/// Rounds that may be set against each other: the same one of both where that is possible, and of the rest whichever comes
/// first.
fn partners<'a>(rounds: &'a [Round], base: &'a [Round]) -> Vec<(&'a Round, &'a Round)> {
    let fits = |a: &Round, b: &Round| comparable(&a.line_ns, &b.line_ns);
    let same = rounds.iter().zip(base);
    let same = (0..).zip(same).filter(|(_, (a, b))| fits(a, b));
    let (taken, mut pairs): (Vec<usize>, Vec<_>) = same.unzip();
    let rest = |rounds: &'a [Round]| {
        let rest = (0..).zip(rounds).filter(|(k, _)| !taken.contains(k));
        rest.map(|(_, round)| round).collect::<Vec<_>>()
    };
    let mut free = rest(base);
    for round in rest(rounds) {
        if let Some(at) = free.iter().position(|base| fits(round, base)) {
            pairs.push((round, free.remove(at)));
        }
    }
    pairs
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    /// A file of `bench --json` with one run of 64-byte frames, one way, on split rings.
    pub(in super::super) fn run(
        part: &str,
        label: &str,
        mpps: f64,
        line_ns: u64,
    ) -> serde_json::Value {
        json!({
            "part": part, "label": label, "ports": 2, "active": 2, "ring": "split-vec", "queue_size": 256, "queues": 1,
            "burst": 32, "flows": 1, "vlan": null, "touch": "head", "memory": "", "cpu": 0, "line_ns": [line_ns],
            "runs": [{
                "mode": "oneway", "size": 64, "round": 0, "offered_pps": null, "tx_pps": mpps * 1e6, "rx_pps": mpps * 1e6,
                "gbps": 0.0, "sent": 100_000, "lost": 0, "reordered": 0, "duplicates": 0, "foreign": 0, "bad": 0,
                "ring_full": 0.9, "idle": 0.5, "fairness": 1.0, "busy_ns": 30.0, "cycles": null, "bound": "back-end",
                "latency": null,
            }],
        })
    }

    /// Writes each value into a file of its own.
    pub(in super::super) fn files(dir: &Path, values: &[serde_json::Value]) -> Vec<PathBuf> {
        let write = |(k, value): (usize, &serde_json::Value)| {
            let file = dir.join(format!("{k:04}.json"));
            fs::write(&file, value.to_string()).unwrap();
            file
        };
        values.iter().enumerate().map(write).collect()
    }

    #[test]
    fn a_file_that_is_none_of_ours_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        for (value, says) in [
            (json!({ "label": "a" }), "missing field"),
            (
                json!({ "part": "idle", "label": "a", "ports": 1, "figures": { "cpus": 1.0 } }),
                "unknown variant `cpus`",
            ),
        ] {
            let files = files(dir.path(), &[value]);
            let error = Rounds::read(&files).unwrap_err().to_string();
            assert!(
                error.starts_with(&files[0].display().to_string()),
                "{error}"
            );
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }
}
