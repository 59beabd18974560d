//! `vf-conformance compare`: several back ends beside each other, from the files of `bench --json`, and whether bars are met. Measures
//! nothing.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::bars::Bars;
use super::plan::Mode;
use super::rounds::{Figure, Kind, Ratio, Round, Rounds, bottleneck, middle};
use super::table;

/// Compare back ends by files of `bench --json`, or judge them by bars
///
/// Prints a line for each kind of run and a column for each label: the median rate in Mpps, and the ratio to the base as
/// median and min..max over the rounds; for round trips the median p50 in ns. `g`: the generator was the bottleneck,
/// `~`: both were. `c`: busy cycles a packet by the back end's own counter (bench --counter). The k-th file of a label is round k, and is
/// compared with round k of the base, or with another one if the hypervisor had moved the CPUs apart or together in between
/// (bench --back-end-cpu); `less N`: for so many rounds there was none.
///
/// With --bars it prints for each bar what was reached and whether that is enough. Exit status: 0 when all bars that the files
/// are about are met, 1 when one is missed or cannot be compared, 2 when a file cannot be read.
#[derive(Debug, Clone, Args)]
pub struct Compare {
    /// Label that ratios are to [default: that of the first file]
    #[arg(long, value_name = "LABEL")]
    base: Option<String>,
    /// Judge by the bars of this TOML file instead (examples/against-peers/bars.toml explains it)
    #[arg(long, value_name = "FILE", conflicts_with = "base")]
    bars: Option<PathBuf>,
    /// Files of `bench --json`
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Compare {
    /// Reads the files and prints the table, or the verdicts; whether no bar is missed.
    pub fn run(&self, out: &mut impl Write) -> io::Result<bool> {
        // What is wrong with the bars is told before long lists of files are read.
        let bars = self.bars.as_deref().map(Bars::read).transpose()?;
        let rounds = Rounds::read(&self.files)?;
        match bars {
            Some(bars) => bars.judge(&rounds, out),
            None => self.table(&rounds, out).map(|()| true),
        }
    }

    fn table(&self, rounds: &Rounds, out: &mut impl Write) -> io::Result<()> {
        let mut labels = rounds.labels.clone();
        let base = match &self.base {
            Some(base) if !labels.contains(base) => {
                let error = format!("--base {base}: the files are of {}", labels.join(", "));
                return Err(io::Error::other(error));
            }
            Some(base) => base.clone(),
            None => labels[0].clone(),
        };
        labels.sort_by_key(|label| *label != base);
        let mut parts = rounds.kinds.keys().map(|kind| &kind.part);
        let first = parts.next();
        let by_part = parts.any(|part| Some(part) != first);
        let part = |text: &str| {
            if by_part {
                format!("| {text} ")
            } else {
                String::new()
            }
        };

        write!(
            out,
            "{}| mode | ports | flows | ring | bytes |",
            part("part")
        )?;
        for label in &labels {
            write!(out, " {label} |")?;
        }
        let columns = 5 + usize::from(by_part) + labels.len();
        writeln!(out, "\n|{}", "---|".repeat(columns))?;
        for (kind, by_label) in &rounds.kinds {
            let Kind {
                ports, flows, ring, ..
            } = kind;
            let ports = if kind.active < *ports {
                format!("{} of {ports}", kind.active)
            } else {
                ports.to_string()
            };
            let mode = kind.mode.map_or("-".to_owned(), table::name);
            write!(
                out,
                "{}| {mode} | {ports} | {flows} | {ring} | {} |",
                part(&kind.part),
                kind.bytes
            )?;
            for label in &labels {
                let cell = by_label.get(label).map(|rounds| {
                    cell(kind, rounds, by_label.get(&base).filter(|_| *label != base))
                });
                write!(out, " {} |", cell.unwrap_or_default())?;
            }
            writeln!(out)?;
        }
        out.flush()
    }
}

fn cell(kind: &Kind, rounds: &[Round], base: Option<&Vec<Round>>) -> String {
    let known = |figure: Figure| middle(rounds, figure);
    let main = match kind.mode {
        Some(Mode::Pingpong) => Figure::P50,
        Some(_) => Figure::Rate,
        None => {
            let other = [Figure::Tcp, Figure::Cpu, Figure::Memory];
            let main = other.into_iter().find(|figure| known(*figure).is_some());
            main.unwrap_or(Figure::Tcp)
        }
    };
    let mut cell = main.digits(known(main).unwrap_or_default());
    match kind.mode {
        Some(Mode::Pingpong) => cell += " ns",
        Some(_) => cell += mark(rounds),
        None => cell += main.unit(),
    }
    if let Some(cycles) = known(Figure::Cycles) {
        cell += &format!(", {cycles:.0} c");
    }
    if let Some(lost) = known(Figure::Loss).filter(|lost| *lost > 0.03) {
        cell += &format!(", {lost:.2} % lost");
    }
    let both_ways = matches!(kind.mode, Some(Mode::Bidir | Mode::Ring));
    if let Some(fairness) = known(Figure::Fairness).filter(|x| both_ways && *x < 0.95) {
        cell += &format!(", fair {fairness:.2}");
    }
    if let Some(memory) = known(Figure::Memory).filter(|_| main != Figure::Memory) {
        cell += &format!(", {memory:.0} MiB");
    }
    if let Some(base) = base {
        cell += &format!(" ({})", Ratio::of(main, rounds, base));
    }
    cell
}

/// Marks a rate at which the generator was at its limit, or near it.
pub(super) fn mark(rounds: &[Round]) -> &'static str {
    match bottleneck(rounds) {
        "generator" => " g",
        "both" => " ~",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounds::tests::{files, run};
    use super::*;

    #[test]
    fn rounds_are_compared_that_were_measured_at_one_distance() {
        let dir = tempfile::tempdir().unwrap();
        let compare = Compare {
            base: Some("a".into()),
            bars: None,
            files: files(
                dir.path(),
                &[
                    run("", "b", 1.0, 100),
                    run("", "a", 2.0, 110),
                    run("", "b", 3.0, 100),
                    run("", "a", 4.0, 105),
                    run("", "b", 9.0, 100),
                    run("", "a", 1.0, 400),
                    run("", "b", 8.0, 400),
                    run("", "a", 4.0, 30),
                ],
            ),
        };
        let mut out = Vec::new();
        assert!(compare.run(&mut out).unwrap());
        let text = String::from_utf8(out).unwrap();
        let line = "| oneway | 2 | 1 | split-vec | 64 | 3.00 | 5.50 (0.75: 0.50..8.00, less 1) |\n";
        assert!(text.ends_with(line), "{text}");

        let nobody = Compare {
            base: Some("c".into()),
            ..compare
        };
        let error = nobody.run(&mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "--base c: the files are of b, a");
    }

    #[test]
    fn parts_are_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let idle = serde_json::json!({
            "part": "idle", "label": "a", "ports": 64, "figures": { "cpu": 0.32, "memory": 71.0 }
        });
        let compare = Compare {
            base: None,
            bars: None,
            files: files(
                dir.path(),
                &[run("one", "a", 1.0, 100), run("two", "a", 2.0, 100), idle],
            ),
        };
        let mut out = Vec::new();
        compare.run(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| idle | - | 64 | 0 |  | 0 | 0.3 %, 71 MiB |",
                "| one | oneway | 2 | 1 | split-vec | 64 | 1.00 |",
                "| two | oneway | 2 | 1 | split-vec | 64 | 2.00 |",
            ]
        );
    }
}
