//! What a case is, and how one is run.
//!
//! A case passes only when it ran: an unmet need is a skip with its reason. For hostile input
//! there is one criterion, *contained*: the back end lives and a fresh session passes traffic.
//! Which way it contained the input is recorded and not judged. A case that was not run because an earlier one left nobody there
//! is *not judged*.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::{Bench, Delivery};
use crate::subject;
use crate::verdict::{Failure, Seen};
use vf_guest::driver::Format;
use vf_guest::net::feature;

/// How long a case may take, unless it is said otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How many messages of a failed case are told.
const TOLD: usize = 8;

/// How binding a case is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A MUST of a document.
    Must,
    /// What a document says without MUST or SHOULD.
    Text,
    /// A SHOULD of a document.
    Should,
    /// Hostile or impossible input: has to be contained.
    Hard,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Must => "must",
            Level::Text => "text",
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
    /// Commands on the control queue are answered by the back end, where most leave them to the front end.
    Control,
    /// We have started the subject, and so can look what it has in use.
    Process,
    /// The rings have this format.
    Format(Format),
}

impl Need {
    /// Whether `bench` can meet it.
    fn met(self, bench: &Bench) -> bool {
        match self {
            Need::Feature(mask, _) => bench.features() & mask == mask,
            Need::Protocol(mask, _) => bench.protocol_features() & mask == mask,
            Need::Delivery => bench.delivery() != Delivery::None,
            Need::Peer => bench.delivery() == Delivery::Peer,
            Need::Control => bench.serves_control(),
            Need::Process => bench.process_id().is_some(),
            Need::Format(format) => bench.format() == format,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Feature(_, name) => write!(f, "the feature {name}"),
            Need::Protocol(_, name) => write!(f, "the protocol feature {name}"),
            Need::Delivery => f.write_str("a port where frames arrive: --peer-socket PATH"),
            Need::Peer => f.write_str("a second port: --peer-socket PATH"),
            Need::Control => f.write_str("a control queue that the back end serves itself"),
            Need::Process => f.write_str("a process that the suite has started: --start CMD"),
            Need::Format(format) => write!(f, "{format} rings"),
        }
    }
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
    /// What the subject is given.
    pub sent: &'static str,
    /// What it has to make of that.
    pub expected: &'static str,
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
    /// It was not run, because of something that it needs.
    Skipped(String),
    /// It was run or was to be, and nothing can be said, for this reason.
    NotJudged(String),
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
    /// The last messages of its sessions, the first port's called `a` and the second's `b`.
    pub said: Vec<String>,
}

/// Runs `cases` one after another on `bench`, telling `each` as they end: with rings of `format`, or else of every
/// format that is offered. None may take longer than `limit`, if we have started the subject and so can end it. One that has died, or
/// serves nobody any more, is started again before the next case.
///
/// # Errors
/// [`Failure`] if packed rings are asked for and not offered, or if a subject cannot be started again.
pub fn run(
    bench: &mut Bench,
    cases: &[&'static Case],
    format: Option<Format>,
    limit: Duration,
    mut each: impl FnMut(&Finding),
) -> Result<Vec<Finding>, Failure> {
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
    let mut culprit = None;
    for &format in &formats {
        bench.set_format(format);
        let all = formats.len() == 1;
        for &case in cases.iter().filter(|case| all || case.suits(format)) {
            let finding = run_one(case, bench, limit, &mut culprit)?;
            each(&finding);
            findings.push(finding);
        }
    }
    Ok(findings)
}

/// Runs one case; `culprit` is the one that has left nobody who answers.
fn run_one(
    case: &'static Case,
    bench: &Bench,
    limit: Duration,
    culprit: &mut Option<&'static str>,
) -> Result<Finding, Failure> {
    let start = Instant::now();
    let mut said = Vec::new();
    let unmet = case.needs.iter().find(|need| !need.met(bench));
    let outcome = match (unmet, *culprit) {
        (Some(need), _) => Outcome::Skipped(format!("needs {need}")),
        (None, Some(culprit)) if !bench.answers() => Outcome::NotJudged(format!(
            "nobody answers since {culprit}; --start CMD starts the back end again"
        )),
        (None, _) => {
            *culprit = None;
            judged(case, bench, limit, culprit, &mut said)?
        }
    };
    said.drain(..said.len().saturating_sub(TOLD));
    Ok(Finding {
        case,
        format: bench.format(),
        outcome,
        took: start.elapsed(),
        said,
    })
}

fn judged(
    case: &'static Case,
    bench: &Bench,
    limit: Duration,
    culprit: &mut Option<&'static str>,
    said: &mut Vec<String>,
) -> Result<Outcome, Failure> {
    bench.transcript();
    let watchdog = bench.process_id().map(|id| Watchdog::new(id, limit));
    let result = (case.run)(bench);
    *said = bench.transcript();
    let broken_off = watchdog.is_some_and(Watchdog::has_bitten);
    let ended = bench.ended()?;
    let failure = match (result, ended) {
        _ if broken_off => Failure::OutOfTime(limit),
        (_, Some(ended)) if !bench.serves_one_session() || !ended.by_itself() => {
            Failure::Ended(ended)
        }
        (Ok(seen), _) => return Ok(Outcome::Passed(seen)),
        (Err(Failure::Unseen), _) => {
            return Ok(Outcome::Skipped(format!("needs {}", Need::Delivery)));
        }
        (Err(Failure::System(error)), _) => {
            return Ok(Outcome::NotJudged(Failure::System(error).to_string()));
        }
        (Err(failure), _) => failure,
    };
    // It may hang: the next case is to be judged for itself.
    if bench.process_id().is_none() {
        if !bench.answers() {
            *culprit = Some(case.id);
        }
    } else if bench.alive().is_err() {
        bench.restart()?;
    }
    Ok(Outcome::Failed(failure))
}

/// A thread that ends a subject's processes when a case takes too long, so that nobody waits for them any more.
struct Watchdog {
    done: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Watchdog {
    fn new(leader: u32, limit: Duration) -> Watchdog {
        let (done, waits) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let late = waits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
            if late {
                subject::kill(leader);
            }
            late
        });
        Watchdog { done, thread }
    }

    fn has_bitten(self) -> bool {
        // Nobody listens any more when it has bitten.
        let _ = self.done.send(());
        self.thread.join().unwrap_or(false)
    }
}
