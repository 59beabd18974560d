//! What a case is, and how one is run.
//!
//! A case passes only when it ran: an unmet need is a skip with its reason. For hostile input
//! there is one criterion, *contained*: the back end lives and a fresh session passes traffic.
//! Which way it contained the input is recorded and not judged.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::bench::{Bench, Delivery};
use crate::driver::DeviceFault;
use crate::frontend::FrontendError;
use crate::subject::{Process, Subject};

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

/// How a case was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// As the document says.
    Conforms,
    /// The request was answered with an error.
    Refused,
    /// The connection was closed.
    Closed,
    /// The ring was stopped.
    RingStopped,
    /// The input was taken, or ignored, without harm.
    Tolerated,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Seen::Conforms => "conforms",
            Seen::Refused => "refused",
            Seen::Closed => "closed the connection",
            Seen::RingStopped => "stopped the ring",
            Seen::Tolerated => "tolerated",
        })
    }
}

/// Why a case failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The back end did something else than it must.
    #[error("{0}")]
    Wrong(String),
    /// The session broke where it had to go on.
    #[error("session: {0}")]
    Session(#[from] FrontendError),
    /// The device broke a rule of the rings.
    #[error("ring: {0}")]
    Ring(#[from] DeviceFault),
    /// The suite's own machinery failed.
    #[error("system: {0}")]
    System(#[from] io::Error),
    /// After the case the subject did not serve a fresh session.
    #[error("no traffic in a fresh session afterwards: {0}")]
    Dead(#[source] Box<Failure>),
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Failure {
        Failure::System(errno.into())
    }
}

/// `Ok` if `right`, else what is wrong.
pub(crate) fn ensure(right: bool, what: impl fmt::Display) -> Result<(), Failure> {
    if right {
        Ok(())
    } else {
        Err(Failure::Wrong(what.to_string()))
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
    /// Its end.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// Runs `cases` one after another against `subject`, telling `each` as they end. A subject that
/// we started and that has died is started again before the next case.
pub fn run(
    subject: &Subject,
    cases: &[&'static Case],
    mut each: impl FnMut(&Finding),
) -> Result<Vec<Finding>, Failure> {
    let mut process = Process::start(subject)?;
    let bench = Bench::new(subject.clone())?;
    let mut findings = Vec::new();
    for &case in cases {
        let start = Instant::now();
        let outcome = match unmet(case, &bench) {
            Some(reason) => Outcome::Skipped(reason),
            None => {
                let result = (case.run)(&bench);
                let status = match &mut process {
                    Some(process) => process.exited()?,
                    None => None,
                };
                match (status, result) {
                    (Some(status), _) => {
                        process = Process::start(subject)?;
                        Outcome::Exited(status)
                    }
                    (None, Ok(seen)) => Outcome::Passed(seen),
                    (None, Err(failure)) => {
                        // It may hang: the next case is to be judged for itself.
                        if process.take().is_some() {
                            process = Process::start(subject)?;
                        }
                        Outcome::Failed(failure)
                    }
                }
            }
        };
        let finding = Finding {
            case,
            outcome,
            took: start.elapsed(),
        };
        each(&finding);
        findings.push(finding);
    }
    Ok(findings)
}

/// The first need of `case` that `bench` cannot meet, as a reason to skip.
fn unmet(case: &Case, bench: &Bench) -> Option<String> {
    case.needs.iter().find_map(|need| {
        let (met, what) = match *need {
            Need::Feature(mask, name) => (bench.features() & mask == mask, name),
            Need::Protocol(mask, name) => (bench.protocol_features() & mask == mask, name),
            Need::Delivery => (bench.delivery() != Delivery::None, "a peer or an echo"),
            Need::Peer => (bench.delivery() == Delivery::Peer, "a peer"),
        };
        (!met).then(|| format!("needs {what}"))
    })
}
