//! Several runs for people: a table on the console, and a page of small charts of the same scale, one for each number of streams. Measures
//! nothing.

use super::{capital, thousands, whole};
use crate::experiment::series::{Figure, Series, Setting};
use crate::page::chart::{self, RangedBar};
use crate::page::{document, escape};

/// The rows on the console, with a newline at the end.
#[must_use]
pub fn text(series: &Series) -> String {
    let mut out = String::new();
    for (clock, title) in [
        ("virtual", "Virtual clock"),
        ("wall", "This machine's clock"),
    ] {
        let paths: Vec<_> = series
            .paths()
            .into_iter()
            .filter(|p| p.0 == clock)
            .collect();
        if paths.is_empty() {
            continue;
        }
        out += &format!("{title:<22}{:>5}", "runs");
        for (_, path) in &paths {
            out += &format!("{:>28}", format!("{path}, Mb/s"));
        }
        out += &format!("{:>8}\n", "ratio");
        for setting in series.settings() {
            let (a, b) = setting.streams;
            let name = format!("  {a}x{b}, MTU {}", setting.mtu);
            out += &format!("{name:<22}{:>5}", setting.runs.len());
            for (_, path) in &paths {
                let figure = setting.total(clock, path);
                out += &format!("{:>28}", figure.map_or_else(String::new, ranged));
            }
            let ratio = ratio(&setting, clock).map_or_else(String::new, |r| format!("{r:.2}"));
            out += &format!("{ratio:>8}\n");
        }
        for (_, path) in &paths {
            let settings = series.settings();
            let bound: Vec<_> = settings.iter().map(|s| bound(s, clock, path)).collect();
            let all: std::collections::BTreeSet<_> = bound.iter().flatten().collect();
            let all: Vec<_> = all.into_iter().map(String::as_str).collect();
            out += &format!("  {} bound by {}\n", capital(path), all.join(", or "));
        }
    }
    for run in &series.runs {
        for result in run.results.iter().filter(|r| !r.settled || r.starved > 0) {
            out += &format!(
                "  Not to be trusted: {}x{}, MTU {}, seed {}, {}: {}; fastest / slowest {}\n",
                run.plan.a_to_b_streams,
                run.plan.b_to_a_streams,
                run.plan.mtu,
                run.seed,
                result.path,
                super::warm_up(result),
                super::spread(result)
            );
        }
    }
    out += &format!("Run it again: {}\n", super::again::command(&series.runs));
    if let Some(made_by) = &series.made_by {
        out += &format!("Made by {made_by}\n");
    }
    out
}

/// A mean, and from where to where single runs are if they differ.
fn ranged(figure: Figure) -> String {
    let [mean, least, most] = [figure.mean, figure.least, figure.most].map(whole);
    match least == most {
        true => mean,
        false => format!("{mean} ({least}..{most})"),
    }
}

/// Direct over mediated.
fn ratio(setting: &Setting<'_>, clock: &str) -> Option<f64> {
    let mediated = setting.total(clock, "mediated")?.mean;
    let direct = setting.total(clock, "direct")?.mean;
    (mediated > 0.0).then(|| direct / mediated)
}

/// What bound a path, each once.
fn bound(setting: &Setting<'_>, clock: &str, path: &str) -> Vec<String> {
    let results = setting.results(clock, path);
    let mut all: Vec<_> = results.iter().map(|r| r.bottleneck.clone()).collect();
    all.sort();
    all.dedup();
    all
}

/// The page: complete in itself, no scripts.
#[must_use]
pub fn html(series: &Series) -> String {
    let settings = series.settings();
    let mut clocks: Vec<_> = series.paths().iter().map(|p| p.0).collect();
    clocks.dedup();
    let charts: String = clocks
        .iter()
        .map(|clock| multiples(series, &settings, clock))
        .collect();
    let rows: String = settings
        .iter()
        .map(|setting| rows(series, setting))
        .collect();
    let common = series.runs.first().into_iter().flat_map(super::common);
    let made_by = series.made_by.as_ref().map(super::made);
    let title = format!("{} runs of {} settings", series.runs.len(), settings.len());
    let head = super::list(common.chain(made_by));
    let again = super::reproduce(&series.runs);
    let main = format!(
        "{charts}<section>\n<h2>All figures</h2>\n<div class=\"scroll\"><table><thead><tr><th>Streams, MTU</th><th>path</th><th>runs</th>\
         <th>Mb/s</th><th>least</th><th>most</th><th>the wire allows</th><th>bound by</th></tr></thead><tbody>{rows}</tbody></table></div>\n\
         </section>\n{again}"
    );
    document(&title, "experiment", &head, &main)
}

/// The charts of one clock, all on one scale.
fn multiples(series: &Series, settings: &[Setting<'_>], clock: &str) -> String {
    let paths: Vec<_> = series
        .paths()
        .into_iter()
        .filter(|p| p.0 == clock)
        .collect();
    let theory = settings.iter().filter_map(Setting::theory);
    let figures = settings
        .iter()
        .flat_map(|s| paths.iter().filter_map(|p| s.total(clock, p.1)));
    let top = figures.map(|f| f.most).chain(theory).fold(1.0, f64::max) * 1.05;
    let mut streams: Vec<_> = settings.iter().map(|s| s.streams).collect();
    streams.dedup();
    let charts: String = streams
        .iter()
        .map(|of| {
            let groups: Vec<_> = settings
                .iter()
                .filter(|setting| setting.streams == *of)
                .map(|setting| {
                    let bars = paths.iter().filter_map(|(_, path)| {
                        let figure = setting.total(clock, path)?;
                        Some(RangedBar {
                            value: figure.mean,
                            range: (figure.least, figure.most),
                            class: super::section::classes(path)[0],
                            tip: format!("{path}: {} Mb/s", ranged(figure)),
                        })
                    });
                    (
                        format!("MTU {}", setting.mtu),
                        bars.collect(),
                        setting.theory(),
                    )
                })
                .collect();
            let title = format!("{} streams A to B, {} B to A", of.0, of.1);
            format!(
                "<figure>{}</figure>",
                chart::multiple(&title, "Mb/s of payload", &groups, top)
            )
        })
        .collect();
    let key: String = paths
        .iter()
        .map(|(_, path)| {
            let class = super::section::classes(path)[0];
            format!("<li><i class=\"{class}\"></i>{}</li>", escape(path))
        })
        .collect();
    format!(
        "<section>\n<h2>On the {} clock</h2>\n<ul class=\"legend\">{key}<li>dashed: what the wire allows</li></ul>\n\
         <div class=\"pair\">{charts}</div>\n</section>\n",
        escape(clock)
    )
}

/// The rows of a setting.
fn rows(series: &Series, setting: &Setting<'_>) -> String {
    let rows = series.paths().into_iter().filter_map(|(clock, path)| {
        let figure = setting.total(clock, path)?;
        Some(format!(
            "<tr><th>{}x{}, {}</th><td>{}, {}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            setting.streams.0,
            setting.streams.1,
            setting.mtu,
            escape(path),
            escape(clock),
            setting.runs.len(),
            thousands(figure.mean),
            thousands(figure.least),
            thousands(figure.most),
            setting.theory().map_or_else(String::new, thousands),
            escape(&bound(setting, clock, path).join(", ")),
        ))
    });
    rows.collect()
}
