//! The page's section of one clock: its paths at a glance, stream by stream, over time, and in a table. Figures of
//! different clocks never meet in one.

use super::packets;
use super::{auto, is_2009_setup, percent, spread, thousands, warm_up};
use crate::experiment::outcome::{AutoFrames, ExperimentOutcome, PathResult, Sample};
use crate::page::chart::{self, Bar, Line};
use crate::page::escape;

/// All about one clock.
pub(super) fn section(outcome: &ExperimentOutcome, clock: &str) -> String {
    let (title, meaning) = match clock {
        "virtual" => (
            "On the virtual clock",
            "Guests, rings, NIC, hypervisor and wire run step by step on a calendar: the same seed gives these very figures on every machine.",
        ),
        "wall" => (
            "On this machine's clock",
            "Real sockets, threads and copies: the figures of the machine that ran it, to be compared with each other only.",
        ),
        other => (other, ""),
    };
    let results: Vec<&PathResult> = outcome
        .results
        .iter()
        .filter(|result| result.clock == clock)
        .collect();
    let cards: String = results.iter().map(|result| card(outcome, result)).collect();
    let over_time: String = results.iter().map(|result| over_time(result)).collect();
    format!(
        "<section>\n<h2>{}</h2>\n<p class=\"note\">{meaning}</p>\n<div class=\"cards\">{cards}</div>\n\
         <h3>Each guest's stream</h3>\n{}\n<h3>{}</h3>\n<div class=\"pair\">{over_time}</div>\n\
         <h3>All figures</h3>\n{}{}{}</section>\n",
        escape(title),
        streams(outcome, &results),
        match results.iter().any(|result| result.timeline.is_some()) {
            true => "From A to B, packet by packet",
            false => "What was busy, over time",
        },
        table(outcome, &results),
        leftovers(&results),
        results
            .iter()
            .filter_map(|r| r.auto.as_ref())
            .map(first_packets)
            .collect::<String>(),
    )
}

/// A path at a glance.
fn card(outcome: &ExperimentOutcome, result: &PathResult) -> String {
    let (name, what, published, bound) = match result.path.as_str() {
        "direct" => (
            "Direct",
            "guest, NIC, wire",
            outcome.original.direct_mbps,
            outcome.original.direct_bottleneck,
        ),
        "auto" => (
            "Auto",
            "each flow on its own path",
            outcome.original.direct_mbps,
            outcome.original.direct_bottleneck,
        ),
        _ => (
            "Mediated",
            "guest, hypervisor, NIC, wire",
            outcome.original.mediated_mbps,
            outcome.original.mediated_bottleneck,
        ),
    };
    let meter = |name: &str, class: &str, share: f64| {
        format!(
            "<div class=\"meter\"><span>{name}</span><svg viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"{class}-fill\" width=\"{:.1}\" height=\"8\"/></svg><b>{}</b></div>",
            share.clamp(0.0, 1.0) * 100.0,
            percent(share)
        )
    };
    format!(
        "<article class=\"card {}\"><h3>{name} <span class=\"old\">{what}</span></h3>\
         <p class=\"big\">{:.2} <small>Gb/s of payload</small></p>\
         <p>{} A to B + {} B to A Mb/s</p>{}{}\
         <p style=\"margin-top:.7rem\">Bottleneck: <strong>{}</strong></p><p class=\"old\">2009: {:.2} Gb/s, {}</p>\
         <p class=\"old\">{}</p></article>",
        name.to_lowercase(),
        result.total_mbps / 1e3,
        thousands(result.a_to_b_mbps),
        thousands(result.b_to_a_mbps),
        meter("Link", "link", result.link_utilisation),
        meter("Hypervisor CPU", "hypervisor", result.hypervisor_cpu),
        escape(&result.bottleneck),
        f64::from(published) / 1e3,
        escape(bound),
        warm_up(result),
    )
}

/// The streams of all paths side by side, a chart a direction.
fn streams(outcome: &ExperimentOutcome, results: &[&PathResult]) -> String {
    let plan = &outcome.plan;
    let with_2009 = is_2009_setup(plan);
    let share = |total: f64, streams: u16| total / f64::from(streams.max(1));
    let a_to_b = usize::from(plan.a_to_b_streams);
    let directions = [
        (
            "Host A to host B",
            0,
            a_to_b,
            share(outcome.theory.a_to_b_mbps, plan.a_to_b_streams),
        ),
        (
            "Host B to host A",
            a_to_b,
            usize::from(plan.b_to_a_streams),
            share(outcome.theory.b_to_a_mbps, plan.b_to_a_streams),
        ),
    ];
    let shown = directions.iter().filter(|direction| direction.2 > 0);
    let fastest = results
        .iter()
        .flat_map(|result| &result.streams)
        .fold(1.0, |top: f64, mbps| top.max(*mbps));
    let top = shown
        .clone()
        .fold(fastest, |top, direction| top.max(direction.3))
        * 1.08;
    let charts: String = shown
        .map(|(title, first, count, fair)| {
            let groups: Vec<Vec<Bar>> = (0..*count)
                .map(|stream| {
                    let direction = usize::from(*first > 0);
                    results
                        .iter()
                        .flat_map(|result| {
                            pair_of_bars(
                                outcome,
                                result,
                                direction,
                                first + stream,
                                stream,
                                with_2009,
                            )
                        })
                        .collect()
                })
                .collect();
            let ceiling = (
                *fair,
                format!("the wire's share for each: {}", thousands(*fair)),
            );
            format!(
                "<figure>{}</figure>",
                chart::bars(title, "Mb/s of payload", &groups, top, Some(ceiling))
            )
        })
        .collect();
    let key = |class: &str, name: &str| format!("<li><i class=\"{class}\"></i>{name}</li>");
    let mut legend = String::new();
    for result in results {
        let [class, old] = classes(&result.path);
        let name = &result.path;
        legend += &key(class, &escape(name));
        if with_2009 {
            legend += &key(old, &format!("{}, 2009", escape(name)));
        }
    }
    let note = if with_2009 {
        ""
    } else {
        "<p class=\"note\">The plan is not that of 2009, so its streams are not drawn beside these.</p>"
    };
    format!("<ul class=\"legend\">{legend}</ul>\n<div class=\"pair\">{charts}</div>{note}")
}

/// The bar of a stream and, narrower, that of 2009.
fn pair_of_bars(
    outcome: &ExperimentOutcome,
    result: &PathResult,
    direction: usize,
    index: usize,
    stream: usize,
    with_2009: bool,
) -> Vec<Bar> {
    let [class, old] = classes(&result.path);
    let published = match result.path.as_str() {
        "direct" | "auto" => &outcome.original.direct_streams,
        _ => &outcome.original.mediated_streams,
    };
    let bar = |value: f64, weight, class, when: &str| Bar {
        value,
        weight,
        class,
        tip: format!("{}{when}: {} Mb/s", result.path, thousands(value)),
    };
    let mut bars: Vec<Bar> = result
        .streams
        .get(index)
        .map(|mbps| bar(*mbps, 3.0, class, ""))
        .into_iter()
        .collect();
    if with_2009 {
        bars.extend(
            published[direction]
                .get(stream)
                .map(|mbps| bar(f64::from(*mbps), 1.2, old, " in 2009")),
        );
    }
    bars
}

/// The classes of a path's bars: of this run, and of 2009.
pub(super) fn classes(path: &str) -> [&'static str; 2] {
    match path {
        "direct" => ["direct-bar", "direct-2009"],
        "auto" => ["auto-bar", "direct-2009"],
        _ => ["mediated-bar", "mediated-2009"],
    }
}

/// Single packets, if they were watched; else link and hypervisor over time.
fn over_time(result: &PathResult) -> String {
    let title = match result.path.as_str() {
        "direct" => "Direct path",
        "auto" => "Path auto",
        _ => "Mediated path",
    };
    if let Some(timeline) = &result.timeline {
        let key = "<figcaption><span class=\"link-text\">Data</span>, <span class=\"hypervisor-text\">ACKs</span></figcaption>";
        return format!("<figure>{}{key}</figure>", packets::svg(title, timeline));
    }
    let line = |name, class, of: fn(&Sample) -> f64, mean| Line {
        name,
        class,
        figure: percent(mean),
        points: result
            .samples
            .iter()
            .map(|sample| (sample.at_s, of(sample)))
            .collect(),
    };
    let lines = [
        line(
            "Link",
            "link",
            |sample| sample.link_utilisation,
            result.link_utilisation,
        ),
        line(
            "Hypervisor",
            "hypervisor",
            |sample| sample.hypervisor_cpu,
            result.hypervisor_cpu,
        ),
    ];
    format!("<figure>{}</figure>", chart::shares(title, &lines))
}

/// The figures of a clock's paths, 2009's beside them, and the wire's.
fn table(outcome: &ExperimentOutcome, results: &[&PathResult]) -> String {
    let (original, theory) = (&outcome.original, &outcome.theory);
    let mut columns = String::from("<th></th>");
    for result in results {
        columns += &format!(
            "<th>{}</th><th class=\"old\">2009</th>",
            escape(&result.path)
        );
    }
    let published = |result: &PathResult| match result.path.as_str() {
        "direct" | "auto" => (
            original.direct_streams,
            original.direct_mbps,
            original.direct_bottleneck,
        ),
        _ => (
            original.mediated_streams,
            original.mediated_mbps,
            original.mediated_bottleneck,
        ),
    };
    let sum = |streams: [u32; 4]| thousands(f64::from(streams.iter().sum::<u32>()));
    let row =
        |class: &str, name: &str, wire: String, of: &dyn Fn(&PathResult) -> (String, String)| {
            let cells: String = results
                .iter()
                .map(|result| of(result))
                .map(|(now, then)| {
                    format!(
                        "<td>{}</td><td class=\"old\">{}</td>",
                        escape(&now),
                        escape(&then)
                    )
                })
                .collect();
            format!("<tr class=\"{class}\"><th>{name}</th>{cells}<td>{wire}</td></tr>")
        };
    let none = String::new;
    let rows = [
        row("", "A to B, Mb/s", thousands(theory.a_to_b_mbps), &|r| {
            (thousands(r.a_to_b_mbps), sum(published(r).0[0]))
        }),
        row("", "B to A, Mb/s", thousands(theory.b_to_a_mbps), &|r| {
            (thousands(r.b_to_a_mbps), sum(published(r).0[1]))
        }),
        row("total", "Total, Mb/s", thousands(theory.total_mbps), &|r| {
            (
                thousands(r.total_mbps),
                thousands(f64::from(published(r).1)),
            )
        }),
        row("", "Fastest / slowest stream", none(), &|r| {
            (spread(r), spread_of(published(r).0))
        }),
        row("", "Link busy, A to B", none(), &|r| {
            (percent(r.link.a_to_b), none())
        }),
        row("", "Link busy, B to A", none(), &|r| {
            (percent(r.link.b_to_a), none())
        }),
        row("", "Hypervisor CPU busy, host A", none(), &|r| {
            (percent(r.hypervisor.a), none())
        }),
        row("", "Hypervisor CPU busy, host B", none(), &|r| {
            (percent(r.hypervisor.b), none())
        }),
        row(
            "",
            "Segments an ACK",
            format!("{:.2}", theory.segments_per_ack),
            &|r| (format!("{:.2}", r.segments_per_ack), none()),
        ),
        row("total", "Bottleneck", none(), &|r| {
            (r.bottleneck.clone(), published(r).2.to_owned())
        }),
    ];
    format!(
        "<div class=\"scroll\"><table><thead><tr>{columns}<th>the wire allows</th></tr></thead><tbody>{}</tbody></table></div>\n",
        rows.concat()
    )
}

/// The packets of each flow that took the slow path before the flow changed to the fast one.
fn first_packets(frames: &AutoFrames) -> String {
    let rows: String = frames
        .first
        .iter()
        .map(|flow| {
            format!(
                "<tr><th>{} to {}</th><td>{}</td><td>{}</td><td>{:.1}</td><td>{:.1}</td></tr>",
                escape(&flow.from),
                escape(&flow.to),
                flow.sent,
                flow.received,
                flow.first_us,
                flow.last_us
            )
        })
        .collect();
    let note = format!("<p class=\"note\">Path auto: {}.</p>\n", auto(frames));
    if rows.is_empty() {
        return note;
    }
    format!(
        "<h3>The first packets of each flow, on the slow path</h3>\n{note}<div class=\"scroll\"><table><thead><tr><th></th>\
         <th>sent</th><th>received</th><th>first, \u{b5}s</th><th>last, \u{b5}s</th></tr></thead><tbody>{rows}</tbody></table></div>\n"
    )
}

/// The fastest over the slowest stream of a direction, the worse of both.
fn spread_of(directions: [[u32; 4]; 2]) -> String {
    let of = |streams: [u32; 4]| {
        let (slow, fast) = streams
            .into_iter()
            .fold((u32::MAX, 0), |(slow, fast), mbps| {
                (slow.min(mbps), fast.max(mbps))
            });
        f64::from(fast) / f64::from(slow)
    };
    format!("{:.3}", of(directions[0]).max(of(directions[1])))
}

/// Frames that did not arrive and, on the wall clock, CPU time by thread.
fn leftovers(results: &[&PathResult]) -> String {
    let mut out = String::new();
    for result in results {
        let frames: u64 = result.drops.values().sum();
        let reasons: Vec<String> = result
            .drops
            .iter()
            .map(|(reason, frames)| format!("{} {}", escape(reason), thousands(*frames as f64)))
            .collect();
        let drops = if frames == 0 {
            "every frame arrived".to_owned()
        } else {
            format!("frames that did not arrive: {}", reasons.join(", "))
        };
        out += &format!("<p class=\"note\">{}: {drops}.", escape(&result.path));
        if !result.cpu_seconds.is_empty() {
            let threads: Vec<String> = result
                .cpu_seconds
                .iter()
                .map(|(thread, seconds)| format!("{} {seconds:.2}", escape(thread)))
                .collect();
            out += &format!(
                " CPU seconds by thread: {}; {:.2} in all.",
                threads.join(", "),
                result.cpu_seconds.values().sum::<f64>()
            );
        }
        out += "</p>\n";
    }
    out
}
