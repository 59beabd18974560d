//! A scenario's outcome as a page: what arrived and what was busy over time, with the commands marked, and which promises were kept.
//! Measures nothing.

use vf_model::Nanos;
use vf_model::duration::Duration;

use super::outcome::{JobOutcome, Sample, ScenarioOutcome};
use crate::page::chart::{course, hue};
use crate::page::{document, escape};
use crate::provenance::Provenance;

/// The page: complete in itself, no scripts.
#[must_use]
pub fn html(outcome: &ScenarioOutcome, made_by: &Provenance) -> String {
    let failed = outcome.failed().count() + outcome.faults.len();
    let title = match (failed, outcome.expectations.len()) {
        (0, 0) => "What came of it".to_owned(),
        (0, 1) => "The promise was kept".to_owned(),
        (0, all) => format!("All {all} promises were kept"),
        (n, all) => format!("{n} of {all} promises were not kept"),
    };
    let scenario = outcome.scenario.display();
    let head = format!(
        "<p class=\"lede\">{}: {} guests, {} of virtual time.</p>\n<p class=\"note\">Digest {}. {}.</p>",
        escape(&scenario.to_string()),
        outcome.guests,
        time(outcome.seconds),
        escape(&outcome.digest),
        escape(&made_by.to_string()),
    );
    let main = format!(
        "<section>\n<h2>Over time</h2>\n<div class=\"pair\">{}{}{}</div>\n{}</section>\n{}{}",
        chart(
            outcome,
            "What arrived",
            "Mb/s of payload",
            jobs(outcome),
            |s| &s.goodput_mbps
        ),
        chart(outcome, "Link", "share of the time", nics(outcome), |s| &s
            .link_busy),
        chart(
            outcome,
            "Hypervisor",
            "share of the time",
            nics(outcome),
            |s| &s.hypervisor_busy
        ),
        events(outcome),
        figures(outcome),
        promises(outcome),
    );
    document(&title, "scenario", &head, &main)
}

fn time(seconds: f64) -> String {
    Duration(Nanos((seconds * 1e9).round() as u64)).to_string()
}

fn jobs(outcome: &ScenarioOutcome) -> Vec<&str> {
    outcome.jobs.iter().map(|job| job.name.as_str()).collect()
}

fn nics(outcome: &ScenarioOutcome) -> Vec<&str> {
    outcome.nics.iter().map(|nic| nic.name.as_str()).collect()
}

/// One figure of the samples as lines; nothing if it was 0 throughout.
fn chart(
    outcome: &ScenarioOutcome,
    title: &str,
    unit: &str,
    names: Vec<&str>,
    of: fn(&Sample) -> &Vec<f64>,
) -> String {
    let samples = &outcome.samples;
    let lines = names.iter().enumerate().map(|(n, name)| {
        let points = samples
            .iter()
            .filter_map(|s| Some((s.at_s, *of(s).get(n)?)));
        ((*name).to_owned(), points.collect())
    });
    let lines: Vec<(String, Vec<(f64, f64)>)> = lines.collect();
    if lines
        .iter()
        .all(|(_, points)| points.iter().all(|point| point.1 <= 0.0))
    {
        return String::new();
    }
    let marks: Vec<f64> = outcome.events.iter().map(|event| event.at_s).collect();
    let key: String = names
        .iter()
        .enumerate()
        .map(|(n, name)| format!("<li><i class=\"{}-bar\"></i>{}</li>", hue(n), escape(name)))
        .collect();
    format!(
        "<figure>{}<ul class=\"legend\">{key}</ul></figure>",
        course(title, unit, &lines, &marks, outcome.seconds)
    )
}

/// The commands that the charts mark.
fn events(outcome: &ScenarioOutcome) -> String {
    let events = outcome.events.iter().map(|event| {
        format!(
            "<li>{}, {}: <code>{}</code> <span class=\"old\">{}</span></li>",
            time(event.at_s),
            escape(&event.nic),
            escape(&event.command),
            escape(&event.answer)
        )
    });
    let events: String = events.collect();
    match events.is_empty() {
        true => events,
        false => format!("<ol>{events}</ol>\n"),
    }
}

/// Jobs and what was lost.
fn figures(outcome: &ScenarioOutcome) -> String {
    // Of no interest where nobody pings.
    let pings = outcome.jobs.iter().any(|job| job.unanswered.is_some());
    let echoes = |job: &JobOutcome| {
        let rtt = job
            .rtt()
            .map(|rtt| rtt.map(|time| time.to_string()).join(" / "));
        let unanswered = job.unanswered().or(job.unanswered.map(|n| n.to_string()));
        [rtt, unanswered].map(|cell| format!("<td>{}</td>", cell.unwrap_or_default()))
    };
    let rows = outcome.jobs.iter().map(|job| {
        let exit = job
            .exit
            .map_or_else(|| "runs on".to_owned(), |code| code.to_string());
        format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td><td>{exit}</td><td>{:.1}</td><td>{}</td>{}</tr>",
            escape(&job.name),
            escape(&job.what),
            time(job.at_s),
            job.goodput_mbps,
            job.retransmits,
            if pings {
                echoes(job).concat()
            } else {
                String::new()
            }
        )
    });
    let rows: String = rows.collect();
    let drops = outcome.nics.iter().flat_map(|nic| {
        let drops = nic.drops.iter();
        drops.map(|(what, n)| format!("<li>{}: {} {n}</li>", escape(&nic.name), escape(what)))
    });
    let drops: String = drops.collect();
    let drops = match drops.is_empty() {
        true => drops,
        false => format!("<h3>Dropped</h3>\n<ul>{drops}</ul>\n"),
    };
    let of_pings = match pings {
        true => "<th>rtt, least / mean / most</th><th>unanswered</th>",
        false => "",
    };
    format!(
        "<section>\n<h2>Jobs</h2>\n<div class=\"scroll\"><table><thead><tr><th>job</th><th>what</th><th>from</th><th>exit</th><th>Mb/s</th>\
         <th>sent again</th>{of_pings}</tr></thead><tbody>{rows}</tbody></table></div>\n{drops}</section>\n"
    )
}

/// What was to come of it, and what did.
fn promises(outcome: &ScenarioOutcome) -> String {
    let rows = outcome.expectations.iter().map(|judged| {
        let (class, verdict) = match judged.pass {
            true => ("", "kept"),
            false => ("total", "not kept"),
        };
        format!(
            "<tr class=\"{class}\"><th>{}</th><td>{}</td><td>{}</td><td>{verdict}</td></tr>",
            escape(&judged.figure),
            escape(&judged.got),
            escape(&judged.want)
        )
    });
    let rows: String = rows.collect();
    let faults = outcome
        .faults
        .iter()
        .map(|fault| format!("<li>{}</li>", escape(fault)));
    let faults: String = faults.collect();
    if rows.is_empty() && faults.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<h2>Promises</h2>\n<div class=\"scroll\"><table><thead><tr><th>what</th><th>came</th><th>wanted</th><th></th></tr></thead>\
         <tbody>{rows}</tbody></table></div>\n<ul>{faults}</ul></section>"
    )
}
