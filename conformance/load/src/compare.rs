//! `vf-conformance compare`: several back ends beside each other, from the files of `bench --json`.
//!
//! The k-th file of a back end is compared with the k-th of the base: they were measured one after
//! the other, so that what the machine does to one it does to both. If the CPUs were not as far apart for both, each is
//! compared with another round for which they were.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::distance::comparable;
use super::plan::Mode;
use super::record::{Record, Run, median, spread};
use super::table;

/// Compare back ends: ratios from files of `bench --json`
///
/// Prints a line for each kind of run and a column for each label: the median rate in Mpps, and the ratio to the base as
/// median and min..max over the rounds; for round trips the median p50 in ns. `g`: the generator was the bottleneck,
/// `~`: both were. `c`: busy cycles a packet by the back end's own counter (bench --counter). The k-th file of a label is round k, and is
/// compared with round k of the base, or with another one if the hypervisor had moved the CPUs apart or together in between
/// (bench --back-end-cpu); `less N`: for so many rounds there was none.
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// Label that ratios are to [default: that of the first file]
    #[arg(long)]
    base: Option<String>,
    /// Print every round for programs instead: words with tabs in between, and a line that names them
    #[arg(long, conflicts_with = "base")]
    tsv: bool,
    /// Files of `bench --json`
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// What is comparable: mode, ports attached, ports active, flows, ring, bytes.
type Kind = (Mode, usize, usize, u32, String, usize);

/// What one file has of a kind.
struct Round {
    runs: Vec<Run>,
    line_ns: Vec<u64>,
}

/// By kind, and by label: each round.
type Rounds = BTreeMap<Kind, HashMap<String, Vec<Round>>>;

impl Compare {
    /// Reads the files and prints the table.
    pub fn run(&self, out: &mut impl Write) -> io::Result<()> {
        let mut labels = Vec::new();
        let mut kinds = Rounds::new();
        for file in &self.files {
            let wrong = |error: &dyn std::fmt::Display| {
                io::Error::other(format!("{}: {error}", file.display()))
            };
            let text = fs::read_to_string(file).map_err(|e| wrong(&e))?;
            let record: Record = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
            if !labels.contains(&record.label) {
                labels.push(record.label.clone());
            }
            sort_in(&mut kinds, record);
        }
        if self.tsv {
            return tsv(out, &kinds);
        }
        let base = match &self.base {
            Some(base) if !labels.contains(base) => {
                let error = format!("--base {base}: the files are of {}", labels.join(", "));
                return Err(io::Error::other(error));
            }
            Some(base) => base.clone(),
            None => labels[0].clone(),
        };
        labels.sort_by_key(|label| *label != base);
        write!(out, "| mode | ports | flows | ring | bytes |")?;
        for label in &labels {
            write!(out, " {label} |")?;
        }
        writeln!(out, "\n|{}", "---|".repeat(5 + labels.len()))?;
        for ((mode, ports, active, flows, ring, size), by_label) in &kinds {
            let ports = if active < ports {
                format!("{active} of {ports}")
            } else {
                ports.to_string()
            };
            let mode_name = table::name(*mode);
            write!(out, "| {mode_name} | {ports} | {flows} | {ring} | {size} |")?;
            for label in &labels {
                let cell = by_label
                    .get(label)
                    .map(|rounds| cell(rounds, by_label.get(&base).filter(|_| *label != base)));
                write!(out, " {} |", cell.unwrap_or_default())?;
            }
            writeln!(out)?;
        }
        out.flush()
    }
}

/// Every round as a line. What is not known is `-`; the time a cache line took is the shortest and the longest of the file's.
fn tsv(out: &mut impl Write, kinds: &Rounds) -> io::Result<()> {
    writeln!(
        out,
        "mode\tports\tactive\tflows\tring\tbytes\tlabel\tround\tmpps\tp50_ns\tloss_percent\tfairness\tcycles\tbottleneck\tline_ns_min\tline_ns_max"
    )?;
    for ((mode, ports, active, flows, ring, size), by_label) in kinds {
        let mode = table::name(*mode);
        let mut labels: Vec<_> = by_label.iter().collect();
        labels.sort_by_key(|(label, _)| *label);
        for (label, rounds) in labels {
            for (k, Round { runs, line_ns }) in rounds.iter().enumerate() {
                let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
                let known =
                    |known: Option<f64>| known.map_or("-".to_owned(), |x| format!("{x:.1}"));
                let p50 = runs.iter().filter_map(|run| run.latency.as_ref());
                let p50: Vec<f64> = p50.map(|latency| latency.p50 as f64).collect();
                writeln!(
                    out,
                    "{mode}\t{ports}\t{active}\t{flows}\t{ring}\t{size}\t{label}\t{k}\t{:.4}\t{}\t{:.4}\t{:.4}\t{}\t{}\t{}\t{}",
                    of(|run| run.pps() / 1e6),
                    known((!p50.is_empty()).then(|| median(p50))),
                    of(|run| 100.0 * run.loss()),
                    of(|run| run.fairness),
                    known(table::cycles(runs)),
                    table::bottleneck(runs).replace(' ', "-"),
                    known(line_ns.iter().min().map(|ns| *ns as f64)),
                    known(line_ns.iter().max().map(|ns| *ns as f64)),
                )?;
            }
        }
    }
    out.flush()
}

fn sort_in(kinds: &mut Rounds, record: Record) {
    let mut new: BTreeMap<Kind, Vec<Run>> = BTreeMap::new();
    for run in record.runs {
        let ring = record.ring.clone();
        let kind = (
            run.mode,
            record.ports,
            record.active,
            record.flows,
            ring,
            run.size,
        );
        new.entry(kind).or_default().push(run);
    }
    for (kind, runs) in new {
        let by_label = kinds.entry(kind).or_default();
        let mut line_ns: Vec<u64> = runs.iter().flat_map(|run| run.line_ns.clone()).collect();
        if line_ns.is_empty() {
            line_ns.clone_from(&record.line_ns);
        }
        let rounds = by_label.entry(record.label.clone()).or_default();
        rounds.push(Round { runs, line_ns });
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

/// What counts of the runs of a round: frames a second, or nanoseconds there and back.
fn figure(runs: &[Run]) -> f64 {
    median(runs.iter().map(|run| match (&run.latency, run.mode) {
        (Some(latency), Mode::Pingpong) => latency.p50 as f64,
        _ => run.pps(),
    }))
}

fn cell(rounds: &[Round], base: Option<&Vec<Round>>) -> String {
    let all: Vec<Run> = rounds.iter().flat_map(|round| round.runs.clone()).collect();
    let middle = median(rounds.iter().map(|round| figure(&round.runs)));
    let mut cell = if all.iter().any(|run| run.mode == Mode::Pingpong) {
        format!("{middle:.0} ns")
    } else {
        let mark = match table::bottleneck(&all) {
            "generator" => " g",
            "both" => " ~",
            _ => "",
        };
        format!("{:.2}{mark}", middle / 1e6)
    };
    if let Some(cycles) = table::cycles(&all) {
        cell += &format!(", {cycles:.0} c");
    }
    let lost = median(all.iter().map(Run::loss));
    if lost > 0.0003 {
        cell += &format!(", {:.2} % lost", 100.0 * lost);
    }
    let fairness = median(all.iter().map(|run| run.fairness));
    if matches!(
        all.first().map(|run| run.mode),
        Some(Mode::Bidir | Mode::Ring)
    ) && fairness < 0.95
    {
        cell += &format!(", fair {fairness:.2}");
    }
    if let Some(base) = base {
        let pairs = partners(rounds, base);
        let ratios = pairs.iter().map(|(a, b)| figure(&a.runs) / figure(&b.runs));
        let ratios: Vec<f64> = ratios.collect();
        let (low, high) = spread(ratios.iter().copied());
        let left_out = rounds.len().min(base.len()) - ratios.len();
        cell += &match (ratios.is_empty(), left_out) {
            (true, _) => " (no ratio)".to_owned(),
            (false, 0) => format!(" ({:.2}: {low:.2}..{high:.2})", median(ratios)),
            (false, n) => format!(" ({:.2}: {low:.2}..{high:.2}, less {n})", median(ratios)),
        };
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(dir: &std::path::Path, name: &str, label: &str, pps: f64, line_ns: u64) -> PathBuf {
        let record = json!({
            "label": label, "ports": 2, "active": 2, "ring": "split-vec", "queue_size": 256, "queues": 1,
            "burst": 32, "flows": 1, "vlan": null, "touch": "head", "memory": "", "cpu": 0, "line_ns": [line_ns],
            "runs": [{
                "mode": "oneway", "size": 64, "round": 0, "offered_pps": null, "tx_pps": pps, "rx_pps": pps,
                "gbps": 0.0, "sent": 100, "lost": 0, "reordered": 0, "duplicates": 0, "foreign": 0, "bad": 0,
                "ring_full": 0.9, "idle": 0.5, "fairness": 1.0, "busy_ns": 30.0, "bound": "back-end", "latency": null,
            }],
        });
        let path = dir.join(name);
        fs::write(&path, record.to_string()).unwrap();
        path
    }

    #[test]
    fn rounds_are_compared_that_were_measured_at_one_distance() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name, label, mpps: f64, ns| file(dir.path(), name, label, mpps * 1e6, ns);
        let compare = Compare {
            base: Some("a".into()),
            tsv: false,
            files: vec![
                at("1", "b", 1.0, 100),
                at("2", "a", 2.0, 110),
                at("3", "b", 3.0, 100),
                at("4", "a", 4.0, 105),
                at("5", "b", 9.0, 100),
                at("6", "a", 1.0, 400),
                at("7", "b", 8.0, 400),
                at("8", "a", 4.0, 30),
            ],
        };
        let print = |compare: &Compare| {
            let mut out = Vec::new();
            compare.run(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let text = print(&compare);
        let line = "| oneway | 2 | 1 | split-vec | 64 | 3.00 | 5.50 (0.75: 0.50..8.00, less 1) |\n";
        assert!(text.ends_with(line), "{text}");

        let rounds = print(&Compare {
            base: None,
            tsv: true,
            ..compare.clone()
        });
        let rounds: Vec<Vec<&str>> = rounds.lines().map(|l| l.split('\t').collect()).collect();
        assert_eq!(rounds.len(), 9);
        assert!(rounds.iter().all(|words| words.len() == rounds[0].len()));
        let last = "oneway 2 2 1 split-vec 64 b 3 8.0000 - 0.0000 1.0000 - back-end 400.0 400.0";
        assert_eq!(rounds[8].join(" "), last);

        let nobody = Compare {
            base: Some("c".into()),
            ..compare
        };
        let error = nobody.run(&mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "--base c: the files are of b, a");
    }
}
