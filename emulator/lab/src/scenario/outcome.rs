//! What came out of a scenario, as its JSON says it. Equal runs give equal outcomes: nothing of the machine is in them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use vf_model::Nanos;

use super::capture::Capture;
use super::expect::CheckResult;
use super::guests::{Ended, JobEnd};
use super::plan::{Amount, GuestKind, Job, ScenarioPlan, Work};
use super::record::{Record, SAMPLES, sample_time};
use super::traffic::JobTraffic;
use vf_model::duration::Duration;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScenarioOutcome {
    /// The scenario's file.
    pub scenario: PathBuf,
    /// What played the guests.
    pub guests: GuestKind,
    /// Virtual time, in seconds.
    pub seconds: f64,
    /// The [digest](crate::digest) of time, port and bytes of every frame that passed a VF or arrived over a wire: 16 hexadecimal
    /// digits.
    pub digest: String,
    /// In the order of the file.
    pub jobs: Vec<JobOutcome>,
    /// In the order in which they were applied.
    pub events: Vec<EventOutcome>,
    /// In the order of the file.
    pub nics: Vec<NicOutcome>,
    /// The run in equal steps.
    pub samples: Vec<Sample>,
    /// In the order of the file.
    pub expectations: Vec<CheckResult>,
    /// One a VF with a guest, if any were asked for.
    pub captures: Vec<Capture>,
    /// Bytes of each frame that a capture keeps; 0 is all.
    pub snaplen: u32,
    /// What went wrong beside that, a line each.
    pub faults: Vec<String>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobOutcome {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub guest: String,
    /// What it does, in words.
    pub what: String,
    /// When it started, in seconds.
    pub at_s: f64,
    /// Its exit code; none if it had not ended.
    pub exit: Option<i32>,
    /// TCP payload that arrived.
    pub bytes: u64,
    /// Mean from its start to its last byte, in 10^6 bit/s.
    pub goodput_mbps: f64,
    /// TCP segments that were sent again.
    pub retransmits: u64,
    /// Nanoseconds from each echo request to its reply.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rtt_ns: Vec<u64>,
    /// Echo requests without a reply by the end of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unanswered: Option<u64>,
    /// What it printed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventOutcome {
    /// When, in seconds.
    pub at_s: f64,
    /// The NIC.
    pub nic: String,
    /// In the words of the command line.
    pub command: String,
    /// What became of it: `done` or `granted`, or why it was not.
    pub answer: String,
}

/// A NIC.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NicOutcome {
    /// Its name.
    pub name: String,
    /// Share of the time in which it sent, 0 to 1.
    pub link_busy: f64,
    /// Share of the time in which its hypervisor worked.
    pub hypervisor_busy: f64,
    /// Frames lost, by VF (or `port`) and reason.
    pub drops: BTreeMap<String, u64>,
}

/// The averages of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Its end, in seconds.
    pub at_s: f64,
    /// Of each job, in 10^6 bit/s.
    pub goodput_mbps: Vec<f64>,
    /// Of each job.
    pub retransmits: Vec<u64>,
    /// Of each NIC.
    pub link_busy: Vec<f64>,
    /// Of each NIC.
    pub hypervisor_busy: Vec<f64>,
}

impl JobOutcome {
    /// The least, the mean and the most of `rtt_ns`, if there are any.
    pub(super) fn rtt(&self) -> Option<[Duration; 3]> {
        let (min, max) = (self.rtt_ns.iter().min()?, self.rtt_ns.iter().max()?);
        let mean = self.rtt_ns.iter().sum::<u64>() / self.rtt_ns.len() as u64;
        Some([*min, mean, *max].map(|ns| Duration(Nanos(ns))))
    }

    /// `2 of 40`, of echo requests that have no reply; none where there are none of those.
    pub(super) fn unanswered(&self) -> Option<String> {
        let unanswered = self.unanswered.filter(|n| *n > 0)?;
        let all = unanswered + self.rtt_ns.len() as u64;
        Some(format!("{unanswered} of {all}"))
    }
}

impl ScenarioOutcome {
    /// Expectations that were not met.
    pub fn failed(&self) -> impl Iterator<Item = &CheckResult> {
        self.expectations.iter().filter(|judged| !judged.pass)
    }
}

fn seconds(time: Nanos) -> f64 {
    time.0 as f64 / 1e9
}

/// Puts together what was measured.
pub(super) fn outcome(
    plan: &ScenarioPlan,
    record: &Record,
    ended: Ended,
    digest: u64,
    captures: Vec<Capture>,
) -> ScenarioOutcome {
    let jobs = plan.jobs.iter().zip(&record.traffic).zip(ended.jobs);
    ScenarioOutcome {
        scenario: plan.file.clone(),
        guests: plan.kind,
        seconds: seconds(plan.until),
        digest: format!("{digest:016x}"),
        jobs: jobs
            .map(|((job, traffic), end)| of_job(plan, job, traffic, end))
            .collect(),
        events: plan
            .events
            .iter()
            .map(|event| EventOutcome {
                at_s: seconds(event.at),
                nic: plan.config.nics[event.nic].name.clone(),
                command: event.asked.to_string(),
                answer: event.answer.clone(),
            })
            .collect(),
        nics: (0..plan.config.nics.len())
            .map(|nic| of_nic(plan, record, nic))
            .collect(),
        samples: (1..=SAMPLES).map(|n| sample(plan, record, n)).collect(),
        expectations: plan
            .expectations
            .iter()
            .map(|e| e.judge(plan, record))
            .collect(),
        captures,
        snaplen: plan.snaplen,
        faults: ended.faults,
    }
}

fn of_job(plan: &ScenarioPlan, job: &Job, traffic: &JobTraffic, end: JobEnd) -> JobOutcome {
    let active = seconds(traffic.last.saturating_sub(job.at));
    // A guest in this process asks when it is said to, whatever keeps a request from its NIC then.
    let due = match (plan.kind, &job.work) {
        (
            GuestKind::Embedded,
            Work::Ping {
                count, interval, ..
            },
        ) if job.at <= plan.until => {
            let more = (plan.until.0 - job.at.0).checked_div(interval.0);
            let count = u64::from(*count);
            more.map_or(count, |more| more.saturating_add(1).min(count))
        }
        _ => 0,
    };
    let asked = traffic.echo_requests.max(due);
    let answered = traffic.echoes.len() as u64;
    JobOutcome {
        name: job.name.clone(),
        guest: plan.guests[job.guest].name.clone(),
        what: words(plan, &job.work),
        at_s: seconds(job.at),
        exit: end.exit,
        bytes: traffic.bytes,
        goodput_mbps: traffic.bytes as f64 * 8e-6 / active.max(1e-9),
        retransmits: traffic.retransmits,
        rtt_ns: traffic.echoes.iter().map(|(_, time)| time.0).collect(),
        unanswered: (asked > 0).then(|| asked.saturating_sub(answered)),
        output: end.output,
    }
}

fn words(plan: &ScenarioPlan, work: &Work) -> String {
    let name = |guest: usize| plan.guests[guest].name.as_str();
    match work {
        Work::Run(command) => command.clone(),
        Work::Send {
            to,
            amount,
            streams,
        } => {
            let amount = match amount {
                Amount::Bytes(bytes) => format!("{bytes} bytes"),
                Amount::For(time) => format!("for {}", Duration(*time)),
                Amount::Endless => "to the end".to_owned(),
            };
            let streams = match streams {
                1 => String::new(),
                n => format!(", {n} streams"),
            };
            format!("send to {}, {amount}{streams}", name(*to))
        }
        Work::Ping {
            to,
            count,
            interval,
        } => {
            format!("ping {}, {count} every {}", name(*to), Duration(*interval))
        }
    }
}

fn of_nic(plan: &ScenarioPlan, record: &Record, nic: usize) -> NicOutcome {
    let (first, last) = (record.at(Nanos(0)), record.at(plan.until));
    let drops = last.nics[nic].drops.iter();
    NicOutcome {
        name: plan.config.nics[nic].name.clone(),
        link_busy: last.link_since(first, nic),
        hypervisor_busy: last.hypervisor_since(first, nic),
        drops: drops
            .map(|((vf, reason), n)| {
                let port = vf.map_or("port".to_owned(), |vf| vf.to_string());
                (format!("{port} {reason}"), *n)
            })
            .collect(),
    }
}

fn sample(plan: &ScenarioPlan, record: &Record, n: u64) -> Sample {
    let (from, to) = (
        record.at(sample_time(plan, n - 1)),
        record.at(sample_time(plan, n)),
    );
    let jobs = 0..plan.jobs.len();
    let nics = 0..plan.config.nics.len();
    Sample {
        at_s: seconds(to.at),
        goodput_mbps: jobs
            .clone()
            .map(|job| to.goodput_since(from, job) / 1e6)
            .collect(),
        retransmits: jobs
            .map(|job| to.jobs[job].retransmits - from.jobs[job].retransmits)
            .collect(),
        link_busy: nics.clone().map(|nic| to.link_since(from, nic)).collect(),
        hypervisor_busy: nics.map(|nic| to.hypervisor_since(from, nic)).collect(),
    }
}
