//! `vf-conformance compare`: several back ends beside each other, from the files of `bench --json`.
//!
//! The k-th file of a back end is compared with the k-th of the base: they were measured one after
//! the other, so that what the machine does to one it does to both.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::plan::Mode;
use super::record::{Record, Run, median, spread};
use super::table;

/// Compare back ends: ratios from files of `bench --json`
///
/// Prints a line for each kind of run and a column for each label: the median rate in Mpps, and the ratio to the base as
/// median and min..max over the rounds; for round trips the median p50 in ns. `g`: the generator was the bottleneck,
/// `~`: both were. The k-th file of a label is round k.
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// Label that ratios are to [default: that of the first file]
    #[arg(long)]
    base: Option<String>,
    /// Files of `bench --json`
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// What is comparable: mode, ports attached, ports active, flows, ring, bytes.
type Kind = (Mode, usize, usize, u32, String, usize);

/// By kind, and by label: the runs of each round.
type Runs = BTreeMap<Kind, HashMap<String, Vec<Vec<Run>>>>;

impl Compare {
    /// Reads the files and prints the table.
    pub fn run(&self, out: &mut impl Write) -> io::Result<()> {
        let mut labels = Vec::new();
        let mut kinds = Runs::new();
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

fn sort_in(kinds: &mut Runs, record: Record) {
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
        by_label.entry(record.label.clone()).or_default().push(runs);
    }
}

/// What counts of the runs of a round: frames a second, or nanoseconds there and back.
fn figure(runs: &[Run]) -> f64 {
    median(runs.iter().map(|run| match (&run.latency, run.mode) {
        (Some(latency), Mode::Pingpong) => latency.p50 as f64,
        _ => run.pps(),
    }))
}

fn cell(rounds: &[Vec<Run>], base: Option<&Vec<Vec<Run>>>) -> String {
    let all: Vec<Run> = rounds.concat();
    let middle = median(rounds.iter().map(|runs| figure(runs)));
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
    let lost = median(all.iter().map(Run::loss));
    if lost > 0.0003 {
        cell += &format!(", {:.2} % lost", 100.0 * lost);
    }
    if let Some(base) = base {
        let pairs = rounds.iter().zip(base);
        let ratios: Vec<f64> = pairs.map(|(a, b)| figure(a) / figure(b)).collect();
        let (low, high) = spread(ratios.iter().copied());
        cell += &format!(" ({:.2}: {low:.2}..{high:.2})", median(ratios));
    }
    cell
}
