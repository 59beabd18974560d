//! How cases are run: one after another or several at a time, each watched, and the subject started again when a case has ended it.
//!
//! A case that fails beside others is judged once more alone, and an unmet need is never a pass.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bench::Bench;
use crate::case::{Case, Finding, Level, Need, Outcome};
use crate::group;
use crate::verdict::{Failure, Seen};
use crate::victim::Victim;
use vf_guest::driver::Format;
use vf_guest::net::feature;

/// How long a case may take, unless it is said otherwise.
pub const LIMIT: Duration = Duration::from_secs(60);
/// How many messages of a failed case are told.
const TOLD: usize = 8;

/// How cases are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// With rings of this format, or of every one that is offered.
    pub format: Option<Format>,
    /// None may take longer, if we have started the subject and so can end it.
    pub limit: Duration,
    /// How many may run at a time, each on a pair of ports of its own. Those that are about the whole subject or hostile to it run alone, and
    /// so does once more each that has not passed beside others: the verdict is that.
    pub jobs: usize,
}

impl Default for Plan {
    /// Both formats, one case at a time, of at most [`LIMIT`].
    fn default() -> Plan {
        Plan {
            format: None,
            limit: LIMIT,
            jobs: 1,
        }
    }
}

/// Runs `cases` on `bench` as `plan` says, telling `each` in the order of the cases as soon as they end. A subject that has died, or
/// serves nobody any more, is started again before the next case. While a hostile case runs, frames go between the pair of ports behind
/// those of `plan`'s jobs, if there is one.
///
/// # Errors
/// [`Failure`] if packed rings are asked for and not offered, or if a subject cannot be started again.
pub fn run(
    bench: &mut Bench,
    cases: &[&'static Case],
    plan: &Plan,
    mut each: impl FnMut(&Finding),
) -> Result<Vec<Finding>, Failure> {
    let packed = bench.features() & feature::RING_PACKED != 0;
    let formats = match plan.format {
        Some(Format::Packed) if !packed => {
            return Err(Failure::Wrong("RING_PACKED is not offered".into()));
        }
        Some(format) => vec![format],
        None if packed => vec![Format::Split, Format::Packed],
        None => vec![Format::Split],
    };
    let jobs = plan.jobs.clamp(1, bench.pairs().max(1));
    let beside = (jobs < bench.pairs()).then(|| bench.beside(jobs));
    let victim = beside.filter(Bench::is_served).map(Victim::start);
    let mut runner = Runner {
        limit: plan.limit,
        jobs,
        culprit: None,
        victim,
    };
    let mut findings = Vec::new();
    for &format in &formats {
        bench.set_format(format);
        let all = formats.len() == 1;
        let suit = cases.iter().filter(|case| all || case.suits(format));
        let cases: Vec<&'static Case> = suit.copied().collect();
        findings.extend(runner.run(bench, &cases, &mut each)?);
    }
    Ok(findings)
}

/// What holds for all cases of a run.
struct Runner {
    limit: Duration,
    jobs: usize,
    /// The case that has left nobody who answers.
    culprit: Option<&'static str>,
    victim: Option<Victim>,
}

/// Findings as they come, told in the order of their cases.
struct InOrder<'a> {
    findings: Vec<Option<Finding>>,
    told: usize,
    /// How those failed beside others that are still to be run alone.
    beside: BTreeMap<usize, String>,
    each: &'a mut dyn FnMut(&Finding),
}

impl InOrder<'_> {
    fn put(&mut self, at: usize, finding: Finding) {
        self.findings[at] = Some(finding);
        while let Some(Some(next)) = self.findings.get(self.told) {
            (self.each)(next);
            self.told += 1;
        }
    }
}

impl Runner {
    fn run(
        &mut self,
        bench: &Bench,
        cases: &[&'static Case],
        each: &mut dyn FnMut(&Finding),
    ) -> Result<Vec<Finding>, Failure> {
        let mut found = InOrder {
            findings: cases.iter().map(|_| None).collect(),
            told: 0,
            beside: BTreeMap::new(),
            each,
        };
        if self.jobs > 1 {
            self.run_beside_each_other(bench, cases, &mut found)?;
        }
        for (at, case) in cases.iter().enumerate() {
            if found.findings[at].is_none() {
                let beside = found.beside.remove(&at);
                let finding = Finding {
                    beside,
                    ..self.run_alone(case, bench)?
                };
                found.put(at, finding);
            }
        }
        Ok(found.findings.into_iter().flatten().collect())
    }

    /// Runs those that may be run beside each other. What has not passed is left to be run alone, and so is everything once the subject
    /// has died and cannot be started again.
    fn run_beside_each_other(
        &self,
        bench: &Bench,
        cases: &[&'static Case],
        found: &mut InOrder<'_>,
    ) -> Result<(), Failure> {
        let shared = (0..cases.len()).filter(|at| cases[*at].may_share());
        let left = Mutex::new(shared.collect::<VecDeque<usize>>());
        let next = || {
            left.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()
        };
        while !left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
        {
            let died = AtomicBool::new(false);
            let (tell, told) = mpsc::channel();
            std::thread::scope(|scope| {
                for pair in 0..self.jobs {
                    let (bench, tell) = (bench.beside(pair), tell.clone());
                    let (died, next, limit) = (&died, &next, self.limit);
                    scope.spawn(move || {
                        while !died.load(Ordering::Relaxed)
                            && let Some(at) = next()
                        {
                            let finding = beside_others(cases[at], &bench, limit);
                            if !bench.answers() {
                                died.store(true, Ordering::Relaxed);
                            }
                            // Nobody listens any more only if the run has been given up.
                            let _ = tell.send((at, finding));
                        }
                    });
                }
                drop(tell);
                for (at, finding) in told {
                    match finding {
                        Ok(finding) => found.put(at, finding),
                        Err(failure) => {
                            found.beside.insert(at, failure.to_string());
                        }
                    }
                }
            });
            if died.into_inner() {
                if bench.process_id().is_none() {
                    return Ok(());
                }
                bench.restart()?;
            }
        }
        Ok(())
    }

    /// Runs one case while no other is.
    fn run_alone(&mut self, case: &'static Case, bench: &Bench) -> Result<Finding, Failure> {
        let start = Instant::now();
        let mut said = Vec::new();
        let outcome = match (unmet(case, bench), self.culprit) {
            (Some(skipped), _) => skipped,
            (None, Some(culprit)) if !bench.answers() => Outcome::NotJudged(format!(
                "nobody answers since {culprit}; --start CMD starts the back end again"
            )),
            (None, _) => {
                self.culprit = None;
                self.judged(case, bench, &mut said)?
            }
        };
        Ok(finding(case, bench, outcome, start, said))
    }

    fn judged(
        &mut self,
        case: &'static Case,
        bench: &Bench,
        said: &mut Vec<String>,
    ) -> Result<Outcome, Failure> {
        let administered = case.needs(|need| matches!(need, Need::Administration));
        if let Some(victim) = self
            .victim
            .as_ref()
            .filter(|_| case.needs(|need| matches!(need, Need::Onlooker | Need::Process)))
        {
            victim.leave();
        }
        let mut verdict = self.attempt(case, bench, said, administered)?;
        if let Attempt::Stalled(_) = verdict {
            // A machine may stand still; a back end that does so on this input does it again.
            verdict = self.attempt(case, bench, said, administered)?;
        }
        let failure = match verdict {
            Attempt::Over(outcome) => return Ok(outcome),
            Attempt::Stalled(what) => Failure::Wrong(what),
            Attempt::Failed(failure) => failure,
        };
        // It may hang: the next case is to be judged for itself.
        if bench.process_id().is_none() {
            if !bench.answers() {
                self.culprit = Some(case.id);
            }
        } else if bench.alive().is_err() {
            bench.restart()?;
            if let Some(victim) = &self.victim {
                victim.leave();
            }
        }
        Ok(Outcome::Failed(failure))
    }

    fn attempt(
        &self,
        case: &'static Case,
        bench: &Bench,
        said: &mut Vec<String>,
        administered: bool,
    ) -> Result<Attempt, Failure> {
        // Whom a case ends itself serves nobody meanwhile.
        let ends = case.needs(|need| matches!(need, Need::Process));
        let hostile = case.level == Level::Hard && !ends;
        let mut act = || {
            let before = match hostile && bench.watched_id().is_some() {
                true => bench.at_rest().ok(),
                false => None,
            };
            let sessions = bench.sessions();
            bench.stalled();
            let seen = watched(case, bench, self.limit, said)?;
            if let Some(before) = &before {
                bench.gives_back(before, sessions)?;
            }
            Ok(seen)
        };
        let (result, report) = match self.victim.as_ref().filter(|_| hostile) {
            Some(victim) => victim.during(act),
            None => (act(), None),
        };
        // Two other ports are the better witnesses, and their thread knows when it was late itself.
        let complaint = match &report {
            Some(report) => report.complaint(),
            None => bench.stalled().filter(|_| hostile),
        };
        if administered && bench.ended()?.is_none() {
            match bench.administer("reset") {
                Err(Failure::System(error)) => return Err(error.into()),
                Err(refused) if result.is_ok() => return Ok(Attempt::Failed(refused)),
                _ => {}
            }
        }
        Ok(match (result, complaint) {
            (Ok(_), Some(complaint)) => Attempt::Stalled(complaint),
            (Ok(seen), None) => Attempt::Over(Outcome::Passed(seen)),
            (Err(failure), _) => match said_of(failure) {
                Ok(outcome) => Attempt::Over(outcome),
                Err(failure) => Attempt::Failed(failure),
            },
        })
    }
}

/// How a case went, once.
enum Attempt {
    Over(Outcome),
    Failed(Failure),
    /// All was as expected, but others were not served meanwhile.
    Stalled(String),
}

/// The end of a case that did not fail, if it did not.
fn said_of(failure: Failure) -> Result<Outcome, Failure> {
    match failure {
        Failure::Unseen => Ok(Outcome::Skipped(format!("needs {}", Need::Delivery))),
        Failure::Unsupported(_) | Failure::Unmet(_) => Ok(Outcome::Skipped(failure.to_string())),
        Failure::System(_) => Ok(Outcome::NotJudged(failure.to_string())),
        failure => Err(failure),
    }
}

/// Why a case cannot be run, if it cannot.
fn unmet(case: &Case, bench: &Bench) -> Option<Outcome> {
    let unmet = case.needs.iter().find(|need| !need.met(bench))?;
    Some(Outcome::Skipped(format!("needs {unmet}")))
}

fn finding(
    case: &'static Case,
    bench: &Bench,
    outcome: Outcome,
    start: Instant,
    mut said: Vec<String>,
) -> Finding {
    said.drain(..said.len().saturating_sub(TOLD));
    Finding {
        case,
        format: bench.format(),
        outcome,
        took: start.elapsed(),
        said,
        beside: None,
    }
}

/// Runs a case while others are; if it fails it has to be run alone after all.
fn beside_others(case: &'static Case, bench: &Bench, limit: Duration) -> Result<Finding, Failure> {
    let start = Instant::now();
    let mut said = Vec::new();
    let outcome = match unmet(case, bench) {
        Some(skipped) => skipped,
        None => Outcome::Passed(watched(case, bench, limit, &mut said)?),
    };
    Ok(finding(case, bench, outcome, start, said))
}

/// Runs a case and looks whether it comes to an end, and whether the subject lives then.
fn watched(
    case: &'static Case,
    bench: &Bench,
    limit: Duration,
    said: &mut Vec<String>,
) -> Result<Seen, Failure> {
    bench.transcript();
    bench.notes.clear();
    let watchdog = bench.process_id().map(|id| Watchdog::new(id, limit));
    let result = (case.run)(bench);
    *said = bench.transcript();
    if watchdog.is_some_and(Watchdog::has_bitten) {
        return Err(Failure::OutOfTime(limit));
    }
    match bench.ended()? {
        Some(ended) if !bench.serves_one_session() || !ended.by_itself() => {
            Err(Failure::Ended(ended))
        }
        _ => result.and_then(|seen| bench.notes.ended(seen)),
    }
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
                group::signal(leader, Signal::KILL);
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
