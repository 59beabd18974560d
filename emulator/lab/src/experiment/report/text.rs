//! The summary on the console: plain text, at most [`WIDTH`] columns, the same for the same outcome. Measures nothing.

use super::{
    auto, busy, capital, device, fewer_acks, is_2009_setup, netem, offloads, ratio, spread, tcp,
    warm_up, whole,
};
use crate::experiment::outcome::{ExperimentOutcome, PathResult, SensitivityPoint};

/// Columns of the console that are used.
const WIDTH: usize = 100;
/// Streams a row.
const PER_ROW: usize = 8;

/// The summary of an outcome, with a newline at its end.
#[must_use]
pub fn text(outcome: &ExperimentOutcome) -> String {
    let plan = &outcome.plan;
    let mut lines = wrap(
        "Plan",
        &format!(
            "{} streams A to B, {} B to A, MTU {}, link {} Gb/s{}, TCP {}, NICs like {}, guests have {}, left to them: {}; {} s measured once rates have settled, seed {}.",
            plan.a_to_b_streams,
            plan.b_to_a_streams,
            plan.mtu,
            plan.rate_mbps / 1e3,
            netem(plan),
            tcp(plan),
            plan.profile,
            device(plan),
            offloads(plan),
            plan.seconds,
            outcome.seed
        ),
    );
    let widest = usize::from(plan.a_to_b_streams.max(plan.b_to_a_streams));
    let per_row = widest.clamp(4, PER_ROW);
    for result in &outcome.results {
        lines.push(String::new());
        lines.extend(path(outcome, result, per_row));
    }
    lines.push(String::new());
    for (clock, times) in ratio(outcome) {
        let published =
            f64::from(outcome.original.direct_mbps) / f64::from(outcome.original.mediated_mbps);
        lines.push(format!(
            "{:<12}direct / mediated = {times:.2} on the {clock} clock (2009: {published:.2})",
            "Ratio"
        ));
    }
    let theory = &outcome.theory;
    lines.extend(wrap(
        "Theory",
        &format!(
            "{:.0} + {:.0} = {:.0} Mb/s for {:.2} segments an ACK (one direction alone: {:.0}): {}",
            theory.a_to_b_mbps,
            theory.b_to_a_mbps,
            theory.total_mbps,
            theory.segments_per_ack,
            theory.naive_mbps,
            theory.how
        ),
    ));
    let original = &outcome.original;
    let other = if is_2009_setup(plan) {
        ""
    } else {
        " Its setup was not this one."
    };
    lines.extend(wrap(
        "2009",
        &format!(
            "mediated {} Mb/s ({}), direct {} Mb/s ({}). {}.{other}{}",
            original.mediated_mbps,
            original.mediated_bottleneck,
            original.direct_mbps,
            original.direct_bottleneck,
            original.source,
            fewer_acks(outcome)
        ),
    ));
    let calibration = &outcome.calibration;
    lines.extend(wrap(
        "Calibrated",
        &format!(
            "{} = {}: {}",
            calibration.constant, calibration.value, calibration.note
        ),
    ));
    if let Some(sensitivity) = &outcome.sensitivity {
        let list = |points: &[SensitivityPoint], unit: &str| {
            let points = points.iter();
            let said = points.map(|p| format!("{:.0} at {}{unit}", p.total_mbps, p.value));
            said.collect::<Vec<_>>().join(", ")
        };
        lines.extend(wrap(
            "Sensitivity",
            &format!(
                "the mediated path carries, by moderation, {}; by cost scale, {} (Mb/s, {} s each)",
                list(&sensitivity.moderation_us, " us"),
                list(&sensitivity.cost_scale, ""),
                sensitivity.seconds
            ),
        ));
    }
    if outcome
        .results
        .iter()
        .any(|result| result.clock == "virtual")
    {
        lines.extend(wrap("Clock", "virtual: the same figures on every machine."));
    }
    let digests = outcome.results.iter().filter_map(|result| {
        let digest = result.digest.as_ref()?;
        Some(format!("{} {digest}", result.path))
    });
    let digests: Vec<_> = digests.collect();
    if !digests.is_empty() {
        lines.extend(wrap("Digest", &digests.join(", ")));
    }
    if let Some(made_by) = &outcome.made_by {
        lines.extend(wrap("Made by", &made_by.to_string()));
    }
    if outcome.results.iter().any(|result| result.clock == "wall") {
        lines.extend(wrap(
            "Clock",
            "wall: this machine's figures, not comparable with virtual ones.",
        ));
    }
    lines.join("\n") + "\n"
}

/// The rows of one path under load.
fn path(outcome: &ExperimentOutcome, result: &PathResult, per_row: usize) -> Vec<String> {
    let streams = per_row * 7;
    let title = format!("{} path, {} clock", capital(&result.path), result.clock);
    let mut lines = vec![format!(
        "{title:<0$}{1:>9}{2:>9}{3:>14}",
        8 + streams,
        "Mb/s",
        "link",
        "hypervisor"
    )];
    let (a_to_b, b_to_a) = result
        .streams
        .split_at(usize::from(outcome.plan.a_to_b_streams).min(result.streams.len()));
    let rows = [
        (
            "A to B",
            a_to_b,
            result.a_to_b_mbps,
            result.link.a_to_b,
            "A",
            result.hypervisor.a,
        ),
        (
            "B to A",
            b_to_a,
            result.b_to_a_mbps,
            result.link.b_to_a,
            "B",
            result.hypervisor.b,
        ),
    ];
    for (name, figures, sum, link, host, cpu) in rows {
        let rows: Vec<String> = figures
            .chunks(per_row)
            .map(|row| row.iter().map(|mbps| format!("{mbps:>7.0}")).collect())
            .collect();
        let last = rows.len().saturating_sub(1);
        for row in &rows[..last] {
            lines.push(format!("  {name:<6}{row}"));
        }
        let row = rows.last().map_or("", String::as_str);
        lines.push(format!(
            "  {name:<6}{row:<streams$}{:>9}{:>7.1} %{:>10.1} % {host}",
            whole(sum),
            link * 100.0,
            cpu * 100.0
        ));
    }
    let spread = format!(
        "fastest / slowest {}, {:.2} segments an ACK, {}",
        spread(result),
        result.segments_per_ack,
        warm_up(result)
    );
    lines.push(format!(
        "  {:<6}{:<streams$}{:>9.0}",
        "total", "", result.total_mbps
    ));
    lines.extend(wrap("  Bound by", &format!("{}; {spread}", busy(result))));
    if let Some(frames) = &result.auto {
        lines.extend(wrap("  Fast path", &auto(frames)));
    }
    if !result.drops.is_empty() {
        let drops: Vec<String> = result
            .drops
            .iter()
            .map(|(reason, frames)| format!("{reason} {frames}"))
            .collect();
        lines.extend(wrap("  Drops", &drops.join(", ")));
    }
    if !result.cpu_seconds.is_empty() {
        let threads: Vec<String> = result
            .cpu_seconds
            .iter()
            .map(|(thread, seconds)| format!("{thread} {seconds:.2}"))
            .collect();
        lines.extend(wrap("  CPU s", &threads.join(", ")));
    }
    lines
}

/// `text` in lines beside a name, broken between words.
fn wrap(name: &str, text: &str) -> Vec<String> {
    let indent = 12;
    let mut lines = Vec::new();
    let mut line = format!("{name:<indent$}");
    let mut length = indent;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        if length > indent && length + 1 + letters > WIDTH {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            length = indent;
        } else if length > indent {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += letters;
    }
    lines.push(line);
    lines
}
