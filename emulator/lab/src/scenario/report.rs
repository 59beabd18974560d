//! An outcome as text: who did what when, how it went over time, and which promises were kept. Measures nothing.

use std::fmt::Write as _;

use vf_model::Nanos;

use super::expect::rate;
use super::outcome::{Sample, ScenarioOutcome};
use vf_model::duration::Duration;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The whole report.
#[must_use]
pub fn text(outcome: &ScenarioOutcome) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(outcome, &mut out);
    out
}

fn time(seconds: f64) -> String {
    Duration(Nanos((seconds * 1e9).round() as u64)).to_string()
}

fn write(outcome: &ScenarioOutcome, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{}: {} guests, {} of virtual time\n",
        outcome.scenario.display(),
        outcome.guests,
        time(outcome.seconds)
    )?;
    write_happenings(outcome, out)?;
    write_course(outcome, out)?;
    for nic in outcome.nics.iter().filter(|nic| !nic.drops.is_empty()) {
        let drops: Vec<_> = nic
            .drops
            .iter()
            .map(|(what, n)| format!("{what} {n}"))
            .collect();
        writeln!(out, "dropped by {}: {}", nic.name, drops.join(", "))?;
    }
    if !outcome.expectations.is_empty() {
        writeln!(out)?;
    }
    for judged in &outcome.expectations {
        let verdict = if judged.pass { "PASS" } else { "FAIL" };
        writeln!(
            out,
            "{verdict}  {}: {} (want {})",
            judged.figure, judged.got, judged.want
        )?;
    }
    writeln!(out)?;
    for fault in &outcome.faults {
        writeln!(out, "fault: {fault}")?;
    }
    if let Some(first) = outcome.captures.first() {
        let dir = first.file.parent().unwrap_or(&first.file);
        let bytes: u64 = outcome.captures.iter().map(|capture| capture.bytes).sum();
        let kept = match outcome.snaplen {
            0 => "whole frames".to_owned(),
            n => format!("the first {n} bytes of each frame"),
        };
        writeln!(
            out,
            "captures: {} files in {}, {:.1} MB, {kept}",
            outcome.captures.len(),
            dir.display(),
            bytes as f64 / 1e6
        )?;
    }
    writeln!(out, "digest {}", outcome.digest)
}

/// Jobs and commands in the order of their times.
fn write_happenings(outcome: &ScenarioOutcome, out: &mut String) -> std::fmt::Result {
    let jobs = outcome.jobs.iter().map(|job| {
        let name = if job.name == job.guest {
            String::new()
        } else {
            format!("{}: ", job.name)
        };
        (
            job.at_s,
            &job.guest,
            format!("{name}{}", job.what.replace('\n', "; ")),
        )
    });
    let events = outcome
        .events
        .iter()
        .map(|event| (event.at_s, &event.nic, event.command.clone()));
    let mut all: Vec<_> = events.chain(jobs).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let width = all.iter().map(|(_, who, _)| who.len()).max().unwrap_or(0);
    for (at, who, what) in all {
        writeln!(out, "{:>10}  {who:width$}  {what}", time(at))?;
    }
    writeln!(out)
}

/// Each job and each NIC over time, and below them when commands were given.
fn write_course(outcome: &ScenarioOutcome, out: &mut String) -> std::fmt::Result {
    let samples = &outcome.samples;
    let most = samples
        .iter()
        .flat_map(|s| &s.goodput_mbps)
        .copied()
        .fold(0.0, f64::max);
    let width = outcome
        .jobs
        .iter()
        .map(|job| job.name.len())
        .max()
        .unwrap_or(0);
    let width = width.max(
        outcome
            .nics
            .iter()
            .map(|nic| nic.name.len() + 11)
            .max()
            .unwrap_or(0),
    );
    writeln!(
        out,
        "{:width$}  goodput, a full block is {}",
        "",
        rate(most * 1e6)
    )?;
    for (j, job) in outcome.jobs.iter().enumerate() {
        let bars = bars(samples, most, |s| s.goodput_mbps[j]);
        write!(
            out,
            "{:width$}  {bars}  {}",
            job.name,
            rate(job.goodput_mbps * 1e6)
        )?;
        if job.retransmits > 0 {
            write!(out, ", {} segments sent again", job.retransmits)?;
        }
        if let Some([min, mean, max]) = job.rtt() {
            write!(out, ", rtt {min} / {mean} / {max}")?;
        }
        if let Some(unanswered) = job.unanswered() {
            write!(out, ", {unanswered} echoes unanswered")?;
        }
        match job.exit {
            None | Some(0) => writeln!(out)?,
            Some(code) => writeln!(out, ", exit code {code}")?,
        }
    }
    for (n, nic) in outcome.nics.iter().enumerate() {
        let share = |share: f64| format!("{:.0} % busy", 100.0 * share);
        let link = bars(samples, 1.0, |s| s.link_busy[n]);
        let name = format!("{} link", nic.name);
        writeln!(out, "{name:width$}  {link}  {}", share(nic.link_busy))?;
        if nic.hypervisor_busy > 0.0 {
            let cpu = bars(samples, 1.0, |s| s.hypervisor_busy[n]);
            let name = format!("{} hypervisor", nic.name);
            writeln!(out, "{name:width$}  {cpu}  {}", share(nic.hypervisor_busy))?;
        }
    }
    let mut axis = vec!['-'; samples.len()];
    for event in &outcome.events {
        let at = samples.iter().position(|s| event.at_s < s.at_s);
        if let Some(mark) = at.and_then(|at| axis.get_mut(at)) {
            *mark = '^';
        }
    }
    let axis: String = axis.into_iter().collect();
    let marks = if outcome.events.is_empty() {
        ""
    } else {
        "  ^ command"
    };
    writeln!(
        out,
        "{:>width$}  {axis}  {}{marks}",
        "0s",
        time(outcome.seconds)
    )
}

fn bars(samples: &[Sample], most: f64, of: impl Fn(&Sample) -> f64) -> String {
    let bar = |sample| {
        let share = of(sample) / most.max(f64::MIN_POSITIVE);
        if share < 0.005 {
            return ' ';
        }
        BARS[((share * 8.0) as usize).min(BARS.len() - 1)]
    };
    samples.iter().map(bar).collect()
}
