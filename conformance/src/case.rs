//! What a case is, and how one is run.
//!
//! A case passes only when it ran: an unmet need is a skip with its reason. For hostile input
//! there is one criterion, *contained*: the back end lives and a fresh session passes traffic.
//! Which way it contained the input is recorded and not judged.

use std::fmt;
use std::time::{Duration, Instant};

use crate::bench::{Bench, Delivery};
use crate::subject::{Process, Subject};
use crate::verdict::{Failure, Seen};
use vf_guest::driver::Format;
use vf_guest::net::feature;

/// How binding a case is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A MUST of a document.
    Must,
    /// A SHOULD of a document.
    Should,
    /// Hostile or impossible input: has to be contained.
    Hard,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Must => "must",
            Level::Should => "should",
            Level::Hard => "hard",
        })
    }
}

/// What a case needs of the subject.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// These virtio features are offered.
    Feature(u64, &'static str),
    /// These protocol features are offered.
    Protocol(u64, &'static str),
    /// Frames that are sent arrive where the suite can see them: at a peer, or back again.
    Delivery,
    /// Frames that are sent arrive at another port.
    Peer,
    /// The rings have this format.
    Format(Format),
}

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Group and name, for ever.
    pub id: &'static str,
    /// How binding it is.
    pub level: Level,
    /// What it needs; unmet: skipped.
    pub needs: &'static [Need],
    /// Where the requirement comes from: V is virtio, VU the vhost-user document.
    pub source: &'static str,
    /// Runs it.
    pub run: fn(&Bench) -> Result<Seen, Failure>,
}

impl Case {
    /// Whether the case is to be run with rings of this format: once, or if it is about rings and what goes through them,
    /// with each.
    fn suits(&self, format: Format) -> bool {
        let wanted = self.needs.iter().find_map(|need| match need {
            Need::Format(wanted) => Some(*wanted),
            _ => None,
        });
        match wanted {
            Some(wanted) => wanted == format,
            None => {
                let mut rings = ["ring/", "net/", "robust/"].iter();
                format == Format::Split || rings.any(|group| self.id.starts_with(group))
            }
        }
    }
}

/// How a case ended.
#[derive(Debug)]
pub enum Outcome {
    /// It passed.
    Passed(Seen),
    /// It failed.
    Failed(Failure),
    /// It was not run, for this reason.
    Skipped(String),
    /// It was not judged: the subject's process was gone afterwards.
    Exited(std::process::ExitStatus),
}

/// A case and how it ended.
#[derive(Debug)]
pub struct Finding {
    /// The case.
    pub case: &'static Case,
    /// Which format the rings had.
    pub format: Format,
    /// Its end.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// Runs `cases` one after another against `subject`, telling `each` as they end: with rings of `format`, or else of every
/// format that is offered. A subject that we started and that has died is started again before the next case.
pub fn run(
    subject: &Subject,
    cases: &[&'static Case],
    format: Option<Format>,
    mut each: impl FnMut(&Finding),
) -> Result<Vec<Finding>, Failure> {
    let mut process = Process::start(subject)?;
    let mut bench = Bench::new(subject.clone())?;
    let packed = bench.features() & feature::RING_PACKED != 0;
    let formats = match format {
        Some(Format::Packed) if !packed => {
            return Err(Failure::Wrong("RING_PACKED is not offered".into()));
        }
        Some(format) => vec![format],
        None if packed => vec![Format::Split, Format::Packed],
        None => vec![Format::Split],
    };
    let mut findings = Vec::new();
    for &format in &formats {
        bench.set_format(format);
        let all = formats.len() == 1;
        for &case in cases.iter().filter(|case| all || case.suits(format)) {
            let finding = run_one(subject, case, &bench, &mut process)?;
            each(&finding);
            findings.push(finding);
        }
    }
    Ok(findings)
}

fn run_one(
    subject: &Subject,
    case: &'static Case,
    bench: &Bench,
    process: &mut Option<Process>,
) -> Result<Finding, Failure> {
    let start = Instant::now();
    let outcome = match unmet(case, bench) {
        Some(reason) => Outcome::Skipped(reason),
        None => {
            let result = (case.run)(bench);
            let status = match process {
                Some(process) => process.exited()?,
                None => None,
            };
            match (status, result) {
                (Some(status), _) => {
                    *process = Process::start(subject)?;
                    Outcome::Exited(status)
                }
                (None, Ok(seen)) => Outcome::Passed(seen),
                (None, Err(failure)) => {
                    // It may hang: the next case is to be judged for itself.
                    if process.take().is_some() {
                        *process = Process::start(subject)?;
                    }
                    Outcome::Failed(failure)
                }
            }
        }
    };
    Ok(Finding {
        case,
        format: bench.format(),
        outcome,
        took: start.elapsed(),
    })
}

/// The first need of `case` that `bench` cannot meet, as a reason to skip.
fn unmet(case: &Case, bench: &Bench) -> Option<String> {
    case.needs.iter().find_map(|need| {
        let (met, what) = match *need {
            Need::Feature(mask, name) => (bench.features() & mask == mask, name),
            Need::Protocol(mask, name) => (bench.protocol_features() & mask == mask, name),
            Need::Delivery => (bench.delivery() != Delivery::None, "a peer or an echo"),
            Need::Peer => (bench.delivery() == Delivery::Peer, "a peer"),
            Need::Format(Format::Split) => (bench.format() == Format::Split, "split rings"),
            Need::Format(Format::Packed) => (bench.format() == Format::Packed, "packed rings"),
        };
        (!met).then(|| format!("needs {what}"))
    })
}
