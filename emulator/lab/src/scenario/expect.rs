//! What a scenario promises: a figure, the time it is taken over, and its bounds. Judges readings; measures nothing.

use std::fmt;

use serde::Serialize;
use vf_model::{DropReason, Nanos, VfIndex};
use vf_nic::config::parse_rate;

use super::error::{ScenarioError, value};
use super::parse::{Bound, ExpectSection, Names};
use super::plan::{Amount, Bottleneck, Expectation, Figure, ScenarioPlan, Want, Work};
use super::reading::Reading;
use super::record::Record;
use vf_model::duration::Duration;

/// How a promise was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckResult {
    /// Where it is in the file.
    pub line: usize,
    /// What was measured, and over which time.
    pub figure: String,
    /// What was to come out.
    pub want: String,
    /// What did.
    pub got: String,
    /// Whether that will do.
    pub pass: bool,
}

impl fmt::Display for CheckResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckResult {
            line,
            figure,
            want,
            got,
            ..
        } = self;
        write!(f, "line {line}: {figure}: {got}, want {want}")
    }
}

/// How a figure is written.
#[derive(Clone, Copy)]
enum Unit {
    Rate,
    Count,
    Time,
    Share,
}

impl Unit {
    fn read(self, bound: &Bound) -> Result<f64, ScenarioError> {
        let wrong = |got: &str, allowed| value("min, max", got, allowed);
        let text = match bound {
            Bound::Text(text) => format!("\"{text}\""),
            Bound::Number(n) => n.to_string(),
        };
        match (self, bound) {
            (Unit::Rate, Bound::Number(0.0)) => Ok(0.0),
            (Unit::Rate, Bound::Text(rate)) => parse_rate(rate)
                .map(|bps| bps as f64)
                .map_err(|_| wrong(&text, "a rate such as \"9.4G\", at least 1M, or 0")),
            (Unit::Rate, _) => Err(wrong(&text, "a rate such as \"9.4G\", at least 1M, or 0")),
            (Unit::Count, Bound::Number(n)) if *n >= 0.0 && n.fract() == 0.0 => Ok(*n),
            (Unit::Count, _) => Err(wrong(&text, "a whole number")),
            (Unit::Time, Bound::Text(time)) => Duration::parse(time)
                .map(|time| time.0.0 as f64)
                .ok_or_else(|| wrong(&text, "a time such as \"20us\"")),
            (Unit::Time, _) => Err(wrong(&text, "a time such as \"20us\"")),
            (Unit::Share, Bound::Number(n)) if (0.0..=1.0).contains(n) => Ok(*n),
            (Unit::Share, _) => Err(wrong(&text, "a share from 0 to 1")),
        }
    }

    fn show(self, figure: f64) -> String {
        match self {
            Unit::Rate => rate(figure),
            Unit::Count => format!("{figure}"),
            Unit::Time => Duration(Nanos(figure as u64)).to_string(),
            Unit::Share => format!("{:.1} %", 100.0 * figure),
        }
    }
}

/// Bits a second, as short as is useful.
pub(super) fn rate(bps: f64) -> String {
    let (scaled, unit) = match bps {
        b if b >= 999.5e6 => (b / 1e9, "Gb/s"),
        b if b >= 999.5e3 => (b / 1e6, "Mb/s"),
        b => (b / 1e3, "kb/s"),
    };
    format!("{scaled:.3} {unit}")
}

/// What stands for a frame that left on the wire and that no guest there took.
pub(super) const WIRE: &str = "wire";

/// Receivers in words.
fn receivers(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        names => names.join(", "),
    }
}

/// Reads an expectation.
pub(super) fn check(
    plan: &ScenarioPlan,
    section: ExpectSection,
    line: usize,
) -> Result<Expectation, ScenarioError> {
    let of_drops = section.nic.is_some() || section.vf.is_some();
    if of_drops && section.drops.is_none() {
        return Err(ScenarioError::Needs(
            "nic, vf: only drops are those of a NIC or a VF",
        ));
    }
    if section.code.is_some() && section.exit.is_none() {
        return Err(ScenarioError::Needs("code: belongs to exit"));
    }
    if section.receivers.is_some() != section.reaches.is_some() {
        return Err(ScenarioError::Needs(
            "reaches and receivers belong together",
        ));
    }
    if section.is.is_some() != section.answer.is_some() {
        return Err(ScenarioError::Needs("answer and is belong together"));
    }
    let bounds = (section.min.as_ref(), section.max.as_ref());
    let (figure, want) = figure(plan, &section)?;
    let want = match (want, bounds) {
        (Some(want), (None, None)) => want,
        (Some(_), _) => {
            return Err(ScenarioError::Needs(
                "min, max: exit, bottleneck, reaches and answer are not between bounds",
            ));
        }
        (None, (None, None)) => {
            return Err(ScenarioError::Needs("an expectation has min, max or both"));
        }
        (None, (min, max)) => {
            let read = |bound: Option<&Bound>| bound.map(|b| figure.unit().read(b)).transpose();
            let (min, max) = (read(min)?, read(max)?);
            if let (Some(min), Some(max)) = (min, max)
                && min > max
            {
                return Err(ScenarioError::Needs("min is above max"));
            }
            Want::Between(min, max)
        }
    };
    let start = match &figure {
        Figure::Goodput(jobs) => jobs.iter().map(|job| plan.jobs[*job].at).min(),
        _ => None,
    };
    let from = section
        .from
        .map(|from| plan.within("from", from))
        .transpose()?;
    let to = section.to.map(|to| plan.within("to", to)).transpose()?;
    let (from, to) = (from.or(start).unwrap_or_default(), to.unwrap_or(plan.until));
    if from >= to {
        return Err(value(
            "from",
            Duration(from),
            "a time before to, or before the end",
        ));
    }
    Ok(Expectation {
        line,
        figure,
        from,
        to,
        want,
    })
}

/// The one figure that a section names, and what it is to be if that is no number.
fn figure(
    plan: &ScenarioPlan,
    section: &ExpectSection,
) -> Result<(Figure, Option<Want>), ScenarioError> {
    let jobs = |key, names: &Names| {
        let names = match names {
            Names::One(name) => std::slice::from_ref(name),
            Names::Several(names) => names,
        };
        if names.is_empty() {
            return Err(value(key, "[]", "at least one job"));
        }
        let mut jobs = Vec::new();
        for name in names {
            let job = plan.job_named(key, name)?;
            check_work(plan, key, job)?;
            if jobs.contains(&job) {
                return Err(value(key, format!("\"{name}\""), "each job once"));
            }
            jobs.push(job);
        }
        Ok(jobs)
    };
    let mut figures = Vec::new();
    if let Some(names) = &section.goodput {
        figures.push((Figure::Goodput(jobs("goodput", names)?), None));
    }
    if let Some(names) = &section.retransmits {
        figures.push((Figure::Retransmits(jobs("retransmits", names)?), None));
    }
    if let Some(names) = &section.rtt {
        figures.push((Figure::Rtt(jobs("rtt", names)?), None));
    }
    if let Some(name) = &section.exit {
        let code = Want::Code(section.code.unwrap_or(0));
        let job = plan.job_named("exit", name)?;
        check_work(plan, "exit", job)?;
        figures.push((Figure::Exit(job), Some(code)));
    }
    if let Some(reason) = &section.drops {
        figures.push((drops(plan, section, reason)?, None));
    }
    if let Some(nic) = &section.link_busy {
        figures.push((Figure::LinkBusy(plan.nic(Some(nic))?), None));
    }
    if let Some(nic) = &section.hypervisor_busy {
        figures.push((Figure::HypervisorBusy(plan.nic(Some(nic))?), None));
    }
    if let (Some(name), Some(receivers)) = (&section.reaches, &section.receivers) {
        let mut receivers = receivers.clone();
        for receiver in receivers.iter().filter(|receiver| *receiver != WIRE) {
            plan.guest_named("receivers", receiver)?;
        }
        receivers.sort();
        let figure = Figure::Reaches(plan.frame_named(name)?);
        figures.push((figure, Some(Want::Receivers(receivers))));
    }
    if let (Some(name), Some(is)) = (&section.answer, &section.is) {
        if is.trim().is_empty() {
            return Err(value(
                "is",
                "\"\"",
                "a part of the answer: nothing is in every answer",
            ));
        }
        let figure = Figure::Answer(plan.event_named(name)?);
        figures.push((figure, Some(Want::Says(is.clone()))));
    }
    if let Some(name) = &section.bottleneck {
        let known = Bottleneck::ALL.into_iter().find(|b| b.name() == name);
        let known = known.ok_or_else(|| {
            value(
                "bottleneck",
                format!("\"{name}\""),
                "hypervisor, link or neither",
            )
        })?;
        figures.push((Figure::Bottleneck, Some(Want::Named(known))));
    }
    match (figures.pop(), figures.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(ScenarioError::Needs(
            "an expectation is about one of goodput, retransmits, rtt, exit, drops, link_busy, hypervisor_busy, bottleneck, reaches, answer",
        )),
    }
}

/// Whether a job has what is asked of it: a promise about nothing is never kept, or always.
fn check_work(plan: &ScenarioPlan, key: &'static str, job: usize) -> Result<(), ScenarioError> {
    let job = &plan.jobs[job];
    let why = match (&job.work, key) {
        (Work::Ping { .. }, "goodput" | "retransmits") => {
            "it is a ping, which has none: a send has"
        }
        (Work::Send { .. }, "rtt") => "it is a send, which has none: a ping has",
        (
            Work::Send {
                amount: Amount::Endless,
                ..
            },
            "exit",
        ) => "it sends until the scenario ends and has none: give it bytes or for",
        _ => return Ok(()),
    };
    let job = job.name.clone();
    Err(ScenarioError::NoFigure { key, job, why })
}

fn drops(
    plan: &ScenarioPlan,
    section: &ExpectSection,
    reason: &str,
) -> Result<Figure, ScenarioError> {
    let nic = plan.nic(section.nic.as_deref())?;
    let vf = match section.vf {
        Some(vf) if vf >= plan.config.nics[nic].num_vfs() => {
            return Err(value("vf", vf, "the VFs of a NIC are 0 to its vfs - 1"));
        }
        vf => vf.map(|vf| VfIndex::from(usize::from(vf))),
    };
    let reason = match reason {
        "any" => None,
        name => match DropReason::all().find(|known| known.name() == name) {
            Some(known) => Some(known),
            None => {
                let all: Vec<_> = DropReason::all().map(DropReason::name).collect();
                return Err(ScenarioError::NoSuch {
                    what: "drops",
                    name: name.escape_debug().to_string(),
                    known: format!("any, {}", all.join(", ")),
                });
            }
        },
    };
    Ok(Figure::Drops { nic, vf, reason })
}

impl Figure {
    fn unit(&self) -> Unit {
        match self {
            Figure::Goodput(_) => Unit::Rate,
            Figure::Rtt(_) => Unit::Time,
            Figure::LinkBusy(_) | Figure::HypervisorBusy(_) => Unit::Share,
            _ => Unit::Count,
        }
    }

    fn name(&self, plan: &ScenarioPlan) -> String {
        let jobs = |jobs: &[usize]| {
            let names: Vec<_> = jobs
                .iter()
                .map(|job| plan.jobs[*job].name.as_str())
                .collect();
            names.join(" + ")
        };
        let nic = |nic: &usize| plan.config.nics[*nic].name.as_str();
        match self {
            Figure::Goodput(of) => format!("goodput of {}", jobs(of)),
            Figure::Retransmits(of) => format!("retransmits of {}", jobs(of)),
            Figure::Rtt(of) => format!("rtt of {}", jobs(of)),
            Figure::Exit(of) => format!("exit code of {}", plan.jobs[*of].name),
            Figure::Drops {
                nic: of,
                vf,
                reason,
            } => {
                let vf = vf.map_or(String::new(), |vf| format!(" {vf}"));
                let reason = reason.map_or("any", DropReason::name);
                format!("drops of {}{vf} ({reason})", nic(of))
            }
            Figure::LinkBusy(of) => format!("link of {} busy", nic(of)),
            Figure::HypervisorBusy(of) => format!("hypervisor of {} busy", nic(of)),
            Figure::Bottleneck => "bottleneck".to_owned(),
            Figure::Reaches(of) => plan.frames[*of].name.clone(),
            Figure::Answer(of) => plan.events[*of].name.clone().unwrap_or_default(),
        }
    }

    /// The figure between two readings; `None` if there is none. Of echo times the one that is furthest out of its bounds.
    fn measure(
        &self,
        from: &Reading,
        to: &Reading,
        record: &Record,
        bounds: (Option<f64>, Option<f64>),
    ) -> Option<f64> {
        match self {
            Figure::Goodput(jobs) => {
                Some(jobs.iter().map(|job| to.goodput_since(from, *job)).sum())
            }
            Figure::Retransmits(jobs) => {
                let of = |job: &usize| to.jobs[*job].retransmits - from.jobs[*job].retransmits;
                Some(jobs.iter().map(of).sum::<u64>() as f64)
            }
            Figure::Rtt(jobs) => {
                let echoes = jobs.iter().flat_map(|job| &record.traffic[*job].echoes);
                let inside = echoes.filter(|(at, _)| (from.at..=to.at).contains(at));
                let times = inside.map(|(_, time)| time.0 as f64);
                let out = |time: &f64| match bounds {
                    (Some(min), None) => min - time,
                    (Some(min), Some(max)) => (min - time).max(time - max),
                    (None, _) => *time,
                };
                times.max_by(|a, b| out(a).total_cmp(&out(b)))
            }
            Figure::Drops { nic, vf, reason } => {
                Some(to.drops_since(from, *nic, *vf, *reason) as f64)
            }
            Figure::LinkBusy(nic) => Some(to.link_since(from, *nic)),
            Figure::HypervisorBusy(nic) => Some(to.hypervisor_since(from, *nic)),
            Figure::Exit(_) | Figure::Bottleneck | Figure::Reaches(_) | Figure::Answer(_) => None,
        }
    }
}

impl Expectation {
    /// Compares with what came out.
    pub(super) fn judge(&self, plan: &ScenarioPlan, record: &Record) -> CheckResult {
        let (from, to) = (record.at(self.from), record.at(self.to));
        let (want, got, pass) = match (&self.want, &self.figure) {
            (Want::Code(code), Figure::Exit(job)) => {
                let got = record.exits[*job];
                let shown = got.map_or("has not ended".to_owned(), |code| code.to_string());
                (code.to_string(), shown, got == Some(*code))
            }
            (Want::Named(name), _) => {
                let got = to.bottleneck_since(from);
                (name.name().to_owned(), got.name().to_owned(), got == *name)
            }
            (Want::Receivers(want), Figure::Reaches(frame)) => {
                let got = &record.receivers[*frame];
                (receivers(want), receivers(got), got == want)
            }
            (Want::Says(says), Figure::Answer(event)) => {
                let answer = plan.events[*event].answer.clone();
                let pass = answer.contains(says);
                (format!("\"{says}\""), answer, pass)
            }
            (want, figure) => {
                let (min, max) = match want {
                    Want::Between(min, max) => (*min, *max),
                    _ => (None, None),
                };
                let show = |figure| self.figure.unit().show(figure);
                let wanted = match (min.map(show), max.map(show)) {
                    (Some(min), Some(max)) if min == max => min,
                    (Some(min), Some(max)) => format!("{min} to {max}"),
                    (Some(min), None) => format!("at least {min}"),
                    (None, Some(max)) => format!("at most {max}"),
                    (None, None) => String::new(),
                };
                let got = figure.measure(from, to, record, (min, max));
                let above = |got: f64| min.is_none_or(|min| got >= min);
                let pass = got.is_some_and(|got| above(got) && max.is_none_or(|max| got <= max));
                (wanted, got.map_or("nothing".to_owned(), show), pass)
            }
        };
        let whole = self.from == Nanos(0) && self.to == plan.until;
        let time = if whole
            || matches!(
                self.figure,
                Figure::Exit(_) | Figure::Reaches(_) | Figure::Answer(_)
            ) {
            String::new()
        } else {
            format!(" from {} to {}", Duration(self.from), Duration(self.to))
        };
        CheckResult {
            line: self.line,
            figure: format!("{}{time}", self.figure.name(plan)),
            want,
            got,
            pass,
        }
    }
}
