//! What a bench prints. Measures nothing.

use std::io::{self, Write};

use super::plan::Mode;
use super::record::{Bound, Run, median, spread};

/// Writes the runs of one mode and size as a line: medians, and the spread of what counts. With a
/// head when `last` was printed under another.
pub(super) fn line(out: &mut impl Write, runs: &[Run], last: Option<Mode>) -> io::Result<()> {
    let Some(run) = runs.first() else {
        return Ok(());
    };
    let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
    let sum = |count: fn(&Run) -> u64| runs.iter().map(count).sum::<u64>();
    let round_trip = |mode| mode == Mode::Pingpong;
    let same_head = last.is_some_and(|last| round_trip(last) == round_trip(run.mode));
    if round_trip(run.mode) {
        if !same_head {
            writeln!(
                out,
                "mode      bytes  round trip: min ns      p50      p90      p99    p99.9        max     frames  lost"
            )?;
        }
        let ns = |figure: fn(&super::record::Latency) -> u64| {
            median(
                runs.iter()
                    .filter_map(|run| run.latency.as_ref())
                    .map(|l| figure(l) as f64),
            )
        };
        writeln!(
            out,
            "{:<9} {:>5} {:>19.0} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>10.0} {:>10} {:>5}",
            name(run.mode),
            run.size,
            ns(|l| l.min),
            ns(|l| l.p50),
            ns(|l| l.p90),
            ns(|l| l.p99),
            ns(|l| l.p999),
            ns(|l| l.max),
            sum(|run| run.latency.as_ref().map_or(0, |l| l.frames)),
            sum(|run| run.lost),
        )?;
    } else {
        if !same_head {
            writeln!(
                out,
                "mode      bytes    Mpps     min..max      Gb/s  loss %  reord   dup  fair  ring full %  idle %  ns/frame  cycles  bottleneck"
            )?;
        }
        let (low, high) = spread(runs.iter().map(|run| run.pps() / 1e6));
        writeln!(
            out,
            "{:<9} {:>5} {:>7.3} {:>6.2}..{:<6.2} {:>8.2} {:>7.3} {:>6} {:>5}  {:>4.2} {:>12.0} {:>7.0} {:>9.1} {:>7}  {}",
            name(run.mode),
            run.size,
            of(|run| run.pps() / 1e6),
            low,
            high,
            of(|run| run.gbps),
            of(|run| 100.0 * run.loss()),
            sum(|run| run.reordered),
            sum(|run| run.duplicates),
            of(|run| run.fairness),
            of(|run| 100.0 * run.ring_full),
            of(|run| 100.0 * run.idle),
            of(|run| run.busy_ns),
            cycles(runs).map_or("-".to_owned(), |cycles| format!("{cycles:.0}")),
            bottleneck(runs),
        )?;
        if let Some(wire) = &run.wire {
            writeln!(
                out,
                "{:>15} wire: {:.2} % of {:.3} Mpps{}; the generator could do at least {:.1} Mpps in all",
                "",
                of(|run| 100.0 * run.wire.map_or(0.0, |wire| wire.share)),
                wire.line_pps / 1e6,
                if run.mode == Mode::Bidir {
                    " each way, the weaker one"
                } else {
                    ""
                },
                of(|run| run.generator_pps() / 1e6),
            )?;
        }
        if let Some(latency) = &run.latency {
            writeln!(
                out,
                "{:>15} latency ns: min {} p50 {} p90 {} p99 {} p99.9 {} max {}",
                "", latency.min, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
            )?;
        }
    }
    let (foreign, bad) = (sum(|run| run.foreign), sum(|run| run.bad));
    if foreign + bad > 0 {
        writeln!(
            out,
            "{:>15} {bad} frames came changed, {foreign} came that were not sent to that port",
            ""
        )?;
    }
    out.flush()
}

/// Writes what a command beside the runs did to their figures: each run with it over the one before it without.
pub(super) fn beside(
    out: &mut impl Write,
    command: &str,
    without: &[Run],
    with: &[Run],
) -> io::Result<()> {
    let times = |figure: fn(&Run) -> Option<f64>| {
        let pairs = with.iter().zip(without);
        let ratios = pairs.filter_map(|(with, without)| Some(figure(with)? / figure(without)?));
        median(ratios.filter(|ratio| ratio.is_finite()))
    };
    write!(out, "{:>15} beside `{command}`: ", "")?;
    if with.iter().any(|run| run.mode == Mode::Pingpong) {
        let p50 = times(|run| run.latency.as_ref().map(|l| l.p50 as f64));
        let p99 = times(|run| run.latency.as_ref().map(|l| l.p99 as f64));
        let p999 = times(|run| run.latency.as_ref().map(|l| l.p999 as f64));
        writeln!(
            out,
            "p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2} times that without"
        )
    } else {
        let rate = times(|run| Some(run.pps()));
        writeln!(out, "rate {rate:.2} times that without")
    }
}

/// Cycles a packet that the back end has counted, if it was asked.
pub(super) fn cycles(runs: &[Run]) -> Option<f64> {
    let counted = || runs.iter().filter_map(|run| run.cycles);
    counted().next().map(|_| median(counted()))
}

/// The bottleneck of several runs: by their median figures.
pub(super) fn bottleneck(runs: &[Run]) -> &'static str {
    if runs.iter().any(|run| run.bound.is_none()) {
        return "-";
    }
    let of = |figure: fn(&Run) -> f64| median(runs.iter().map(figure));
    match Bound::of(of(|run| run.ring_full), of(|run| run.idle)) {
        Bound::Generator => "generator",
        Bound::BackEnd => "back end",
        Bound::Both => "both",
    }
}

/// A mode as the command line has it.
pub(super) fn name(mode: Mode) -> String {
    use clap::ValueEnum;
    mode.to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
