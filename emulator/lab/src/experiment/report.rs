//! An outcome for people: one page of HTML with its charts inside, and a summary for the console. Every figure is the
//! outcome's; nothing is measured, fetched or timed here, so the same outcome gives the same bytes.

mod again;
mod packets;
mod section;
pub(super) mod series;
mod text;

use self::section::section;
use crate::page::{document, escape};
use crate::provenance::Provenance;
use vf_nic::config::{DeviceKind, Offloads};

use super::outcome::{
    AutoFrames, ExperimentOutcome, PathResult, PlanView, Sensitivity, SensitivityPoint,
};
use super::plan::Tool;
use super::theory;

pub use self::text::text;

/// The page of an outcome: complete in itself, no scripts.
#[must_use]
pub fn html(outcome: &ExperimentOutcome) -> String {
    let headline = headline(outcome);
    let sections: String = clocks(outcome)
        .into_iter()
        .map(|clock| section(outcome, clock))
        .collect();
    let head = format!("{}\n{}", lede(outcome), setup(outcome));
    let main = format!(
        "{sections}{}\n{}\n{}\n{}",
        wire(outcome),
        calibration(outcome),
        original(outcome),
        reproduce(std::slice::from_ref(outcome)),
    );
    document(&headline, "experiment", &head, &main)
}

/// The clocks of an outcome, in the order they ran.
fn clocks(outcome: &ExperimentOutcome) -> Vec<&str> {
    let mut clocks = Vec::new();
    for result in &outcome.results {
        if !clocks.contains(&result.clock.as_str()) {
            clocks.push(result.clock.as_str());
        }
    }
    clocks
}

/// The result of a path on a clock.
fn result<'a>(outcome: &'a ExperimentOutcome, clock: &str, path: &str) -> Option<&'a PathResult> {
    outcome
        .results
        .iter()
        .find(|result| result.clock == clock && result.path == path)
}

/// Direct over mediated, for each clock that ran both.
fn ratio(outcome: &ExperimentOutcome) -> Vec<(&str, f64)> {
    let of = |clock| {
        Some((
            result(outcome, clock, "direct")?.total_mbps,
            result(outcome, clock, "mediated")?.total_mbps,
        ))
    };
    clocks(outcome)
        .into_iter()
        .filter_map(|clock| {
            of(clock)
                .filter(|(_, mediated)| *mediated > 0.0)
                .map(|(direct, mediated)| (clock, direct / mediated))
        })
        .collect()
}

/// Whether the plan is the one that was measured in 2009, as far as throughput is concerned.
fn is_2009_setup(plan: &PlanView) -> bool {
    (plan.a_to_b_streams, plan.b_to_a_streams, plan.mtu) == (4, 4, 1500)
        && plan.rate_mbps == 10_000.0
        && plan.netem.is_none()
}

/// What becomes of frames on the wire, behind what else is said of it.
fn netem(plan: &PlanView) -> String {
    let words = plan.netem.as_ref();
    words.map_or_else(String::new, |words| format!(", netem {words}"))
}

/// What took which path when each flow took its own.
fn auto(frames: &AutoFrames) -> String {
    let AutoFrames {
        fastpath_packets: fast,
        slowpath_packets: slow,
        waited,
        first,
    } = frames;
    let share = *slow as f64 / (fast + slow).max(1) as f64;
    let mut text = format!(
        "{fast} frames straight through a NIC, {slow} by way of a hypervisor ({:.4} %), {waited} of the former waited for their flow to change",
        share * 100.0
    );
    let flows = first.iter().filter(|flow| !flow.from.ends_with(":0"));
    let counts: Vec<_> = flows.map(|flow| flow.sent.max(flow.received)).collect();
    if let (Some(least), Some(most)) = (counts.iter().min(), counts.iter().max()) {
        text += &format!(
            "; on the slow path the first {least} to {most} packets of each of {} flows",
            counts.len()
        );
    }
    text
}

/// The bottleneck and how busy it was.
fn busy(result: &PathResult) -> String {
    let (link, cpu) = (result.link, result.hypervisor);
    let share = match result.bottleneck.as_str() {
        "Hypervisor CPU" => cpu.a.max(cpu.b),
        "Link (A to B)" => link.a_to_b,
        "Link (B to A)" => link.b_to_a,
        "Link (both directions)" => link.a_to_b.min(link.b_to_a),
        "Impairment (rate)" => {
            return "Impairment (rate): what passed is what it lets pass".to_owned();
        }
        _ => {
            let (link, cpu) = (
                percent(result.link_utilisation),
                percent(result.hypervisor_cpu),
            );
            return format!(
                "{}: neither link ({link}) nor hypervisor ({cpu}) is used up",
                result.bottleneck
            );
        }
    };
    format!("{}, {} busy", result.bottleneck, percent(share))
}

/// When the measurement began.
fn warm_up(result: &PathResult) -> String {
    let seconds = (result.warm_up_seconds * 1e3).round() / 1e3;
    match (result.settled, result.clock.as_str()) {
        (true, _) => format!("measured from {seconds} s on"),
        (false, "wall") => {
            format!("not every stream had moved a byte after {seconds} s: this is no comparison")
        }
        (false, _) => format!("rates had not settled after {seconds} s"),
    }
}

/// How evenly streams shared what there was.
fn spread(result: &PathResult) -> String {
    match result.spread {
        Some(spread) => format!("{spread:.3}"),
        None => format!("{} of {} got nothing", result.starved, result.streams.len()),
    }
}

/// With a capital letter.
fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// A share as text.
fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A number without its fraction. The sum of no floats is -0.
fn whole(value: f64) -> String {
    format!("{:.0}", value + 0.0)
}

/// A number with its thousands set apart.
fn thousands(value: f64) -> String {
    let digits = whole(value);
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// The result in a sentence, from the first clock that ran both paths.
fn headline(outcome: &ExperimentOutcome) -> String {
    match (ratio(outcome).first(), outcome.results.first()) {
        (Some((_, times)), _) => {
            format!("Direct carries {times:.2} times what the hypervisor does")
        }
        (None, Some(only)) => {
            format!(
                "The {} path carries {:.2} Gb/s",
                only.path,
                only.total_mbps / 1e3
            )
        }
        (None, None) => "Nothing was run".to_owned(),
    }
}

/// The paragraph below the headline.
fn lede(outcome: &ExperimentOutcome) -> String {
    let Some(clock) = ratio(outcome)
        .first()
        .map(|first| first.0)
        .or(clocks(outcome).first().copied())
    else {
        return String::new();
    };
    let mut text = String::new();
    if let Some(mediated) = result(outcome, clock, "mediated") {
        text += &format!(
            "With the hypervisor passing every packet, the guests move {} Mb/s of TCP payload. Bottleneck: {}. ",
            thousands(mediated.total_mbps),
            escape(&busy(mediated))
        );
    }
    if let Some(direct) = result(outcome, clock, "direct") {
        text += &format!(
            "With the NIC reading and writing guest memory itself, the guests move {} Mb/s. Bottleneck: {}.",
            thousands(direct.total_mbps),
            escape(&busy(direct))
        );
        if let Some(auto) = result(outcome, clock, "auto") {
            text += &format!(
                " With each flow on its own path, as the NICs of 2009 had it, they move {} Mb/s, {} of that.",
                thousands(auto.total_mbps),
                percent(auto.total_mbps / direct.total_mbps.max(1.0))
            );
        }
    }
    format!("<p class=\"lede\">{text}</p>")
}

/// Whose TCP it was.
fn tcp(plan: &PlanView) -> String {
    match (plan.tool, plan.window) {
        (Some(Tool::Iperf3), _) => "Linux, iperf3".to_owned(),
        (Some(Tool::Netperf), _) => "Linux, netperf".to_owned(),
        (None, window) => format!("embedded, window {} KiB", window.unwrap_or(0) / 1024),
    }
}

/// What guests find on their VF.
fn device(plan: &PlanView) -> &'static str {
    match plan.device {
        DeviceKind::Virtio => "virtio-net",
        DeviceKind::Ixgbevf => "Intel 82599 VFs (driver ixgbevf)",
        DeviceKind::Sfc => "Solarflare SFC9120 VFs (driver sfc)",
    }
}

/// What guests leave to the NIC.
fn offloads(plan: &PlanView) -> &'static str {
    match plan.offloads {
        Offloads::None => "nothing",
        Offloads::Csum => "checksums",
        Offloads::Tso => "checksums, segmentation (TSO)",
    }
}

/// What was run.
fn setup(outcome: &ExperimentOutcome) -> String {
    let plan = &outcome.plan;
    let own = [
        (
            "Streams",
            format!(
                "{} A to B, {} B to A",
                plan.a_to_b_streams, plan.b_to_a_streams
            ),
        ),
        (
            "Guests",
            format!("{} a host", plan.a_to_b_streams + plan.b_to_a_streams),
        ),
        ("MTU", format!("{} B", thousands(f64::from(plan.mtu)))),
    ];
    let own = own.map(|(name, fact)| (name.to_owned(), fact));
    let digests = outcome.results.iter().filter_map(|result| {
        let digest = result.digest.as_ref()?;
        Some((format!("Digest, {}", result.path), digest.clone()))
    });
    let seed = [("Seed".to_owned(), outcome.seed.to_string())];
    let made_by = outcome.made_by.as_ref().map(made);
    let rest = seed.into_iter().chain(digests).chain(made_by);
    list(own.into_iter().chain(common(outcome)).chain(rest))
}

/// What made it.
fn made(by: &Provenance) -> (String, String) {
    ("Made by".to_owned(), by.to_string())
}

/// What was run, but for streams, MTU and seed, in which the runs of a series differ.
fn common(outcome: &ExperimentOutcome) -> impl Iterator<Item = (String, String)> {
    let plan = &outcome.plan;
    let facts = [
        (
            "Link",
            format!(
                "{} Gb/s, {} ns long{}",
                plan.rate_mbps / 1e3,
                thousands(plan.propagation_ns as f64),
                netem(plan)
            ),
        ),
        ("TCP", tcp(plan)),
        ("NICs like", plan.profile.to_string()),
        ("Guests' NICs", device(plan).to_owned()),
        ("Left to the NIC", offloads(plan).to_owned()),
        (
            "Interrupts",
            format!(
                "{} \u{b5}s apart",
                plan.interrupt_moderation_ns as f64 / 1e3
            ),
        ),
        (
            "Measured",
            format!("{} s, once rates have settled", plan.seconds),
        ),
        ("Clock", outcome.clock.clone()),
    ];
    facts
        .map(|(name, fact)| (name.to_owned(), fact))
        .into_iter()
}

fn list(facts: impl Iterator<Item = (String, String)>) -> String {
    let facts: String = facts
        .map(|(name, fact)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(&fact)))
        .collect();
    format!("<dl>{facts}</dl>")
}

/// What the wire allows, and how near the direct path comes.
fn wire(outcome: &ExperimentOutcome) -> String {
    let (plan, theory) = (&outcome.plan, &outcome.theory);
    let acks = if plan.a_to_b_streams > 0 && plan.b_to_a_streams > 0 {
        format!(
            "But every segment must be acknowledged, and the ACKs of one direction ride in the other, among its data. At the \
             {:.2} segments an ACK that this run showed, that leaves <strong>{}</strong> Mb/s each way, {} in all.",
            theory.segments_per_ack,
            thousands(theory.a_to_b_mbps),
            thousands(theory.total_mbps)
        )
    } else {
        "The ACKs have the other direction to themselves, so they cost it nothing.".to_owned()
    };
    let near: String = outcome
        .results
        .iter()
        .filter(|result| result.path == "direct" && theory.total_mbps > 0.0)
        .map(|result| {
            let share = percent(result.total_mbps / theory.total_mbps);
            format!(
                " On the {} clock the direct path reaches {share} of that.",
                escape(&result.clock)
            )
        })
        .collect();
    format!(
        "<section>\n<h2>What the wire allows</h2>\n<p>A {} Gb/s link does not carry {0} Gb/s of payload: each frame also pays for \
         its headers, checksum, preamble and gap. A direction alone could carry {} Mb/s. {acks}{near}</p>\n\
         <p class=\"note\"><code>{}</code></p>\n</section>",
        plan.rate_mbps / 1e3,
        thousands(theory.naive_mbps),
        escape(&theory.how),
    )
}

/// The constant that was fitted, and how far the result depends on it.
fn calibration(outcome: &ExperimentOutcome) -> String {
    let calibration = &outcome.calibration;
    format!(
        "<section>\n<h2>What was calibrated</h2>\n<p>Fitted, not measured: <code>{} = {}</code>, {}</p>\n{}</section>",
        escape(calibration.constant),
        calibration.value,
        escape(calibration.note),
        outcome
            .sensitivity
            .as_ref()
            .map(sensitivity)
            .unwrap_or_default(),
    )
}

/// What the mediated path carries with other values of the two fitted numbers, as bars.
fn sensitivity(sensitivity: &Sensitivity) -> String {
    let both = [&sensitivity.moderation_us, &sensitivity.cost_scale];
    let top = both.into_iter().flatten();
    let top = top.fold(1.0, |top: f64, point| top.max(point.total_mbps));
    let bars = |points: &[SensitivityPoint], unit: &str| -> String {
        let bar = |point: &SensitivityPoint| {
            let (class, mark) = match point.chosen {
                true => ("mediated-bar", ", as here"),
                false => ("mediated-2009", ""),
            };
            format!(
                "<div class=\"meter\"><span>{}{unit}{mark}</span><svg viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" \
                 aria-hidden=\"true\"><rect class=\"{class}\" width=\"{:.1}\" height=\"8\"/></svg><b>{}</b></div>",
                point.value,
                point.total_mbps / top * 100.0,
                thousands(point.total_mbps)
            )
        };
        points.iter().map(bar).collect()
    };
    format!(
        "<p>How far the mediated figure, in Mb/s, depends on either, with the other as it is here ({} s of embedded guests on the \
         virtual clock each):</p>\n<div class=\"pair\"><figure><figcaption>Interrupt moderation</figcaption>{}</figure>\
         <figure><figcaption>Cost scale</figcaption>{}</figure></div>\n",
        sensitivity.seconds,
        bars(&sensitivity.moderation_us, " \u{b5}s"),
        bars(&sensitivity.cost_scale, ""),
    )
}

/// Where the figures of 2009 are from.
fn original(outcome: &ExperimentOutcome) -> String {
    let original = &outcome.original;
    let same = if is_2009_setup(&outcome.plan) {
        "Four streams each way, MTU 1500, one 10 Gb/s link, as here."
    } else {
        "It had four streams each way, MTU 1500 and one 10 Gb/s link, and this run did not: read its figures as a landmark only."
    };
    format!(
        "<section>\n<h2>The measurement of 2009</h2>\n<p>{}. {} Mb/s through the hypervisor, {} directly: {:.2} times as much. \
         {same}{}</p>\n</section>",
        escape(original.source),
        thousands(f64::from(original.mediated_mbps)),
        thousands(f64::from(original.direct_mbps)),
        f64::from(original.direct_mbps) / f64::from(original.mediated_mbps),
        fewer_acks(outcome),
    )
}

/// Why 2009's direct figure may stand above what the wire allows here.
fn fewer_acks(outcome: &ExperimentOutcome) -> String {
    let (plan, theory) = (&outcome.plan, &outcome.theory);
    let published = f64::from(outcome.original.direct_mbps);
    if !is_2009_setup(plan) || published <= theory.total_mbps {
        return String::new();
    }
    theory::segments_per_ack(plan.mtu, theory.timestamps, plan.rate_mbps, published / 2.0).map_or_else(String::new, |least| {
        format!(
            " Its direct figure is more than the wire allows with {:.2} segments an ACK: its guests must have sent fewer ACKs, one for {least:.2} segments.",
            theory.segments_per_ack
        )
    })
}

/// How to get this page again.
fn reproduce(runs: &[ExperimentOutcome]) -> String {
    let promise = match runs.first().map(|run| run.clock.as_str()) {
        Some("virtual") | None => {
            "The figures come out the same to the last digit, on any machine."
        }
        Some("wall") => "Figures of the wall clock vary with the machine and from run to run.",
        Some(_) => {
            "The virtual figures come out the same to the last digit; the wall clock's vary."
        }
    };
    format!(
        "<section>\n<h2>Run it again</h2>\n<pre><code>{} --report report.html</code></pre>\n<p class=\"note\">{promise}</p>\n</section>",
        escape(&again::command(runs))
    )
}

#[cfg(test)]
mod tests;
