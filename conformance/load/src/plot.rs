//! A bench as a picture: rates by frame size, and how latencies are distributed. Draws what is in the record; measures nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::plan::Mode;
use super::record::{Record, Run, median, spread};
use super::table;

/// Width of the picture and height of a panel, in pixels.
const SIZE: (u32, u32) = (820, 400);
const FONT: &str = "sans-serif";
const GREY: RGBColor = RGBColor(0x60, 0x60, 0x60);
/// Told apart by those who do not see all colours (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x00, 0x00, 0x00),
];

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), String>;

/// Writes an SVG file with a panel for rates and one for latencies, whichever there are.
pub(super) fn draw(record: &Record, file: &Path) -> Drawn {
    std::fs::write(file, svg(record)?).map_err(text)
}

/// The same as text.
pub(super) fn svg(record: &Record) -> Result<String, String> {
    let rates = Rates::of(record);
    let latencies = latencies(record);
    let panels = usize::from(!rates.bars.is_empty()) + usize::from(!latencies.is_empty());
    if panels == 0 {
        return Err("there is nothing to draw: no frame has arrived".into());
    }
    let mut svg = String::new();
    let size = (SIZE.0, SIZE.1 * panels as u32);
    {
        let all = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        all.fill(&WHITE).map_err(text)?;
        let mut areas = all.split_evenly((panels, 1)).into_iter();
        if !rates.bars.is_empty()
            && let Some(area) = areas.next()
        {
            rates.draw(record, &area)?;
        }
        if let Some(area) = areas.next() {
            draw_latencies(record, &latencies, &area)?;
        }
        all.present().map_err(text)?;
    }
    Ok(svg)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Median, least and most Mpps by size and mode, and whether the back end was the limit.
struct Rates {
    sizes: Vec<usize>,
    modes: Vec<Mode>,
    bars: BTreeMap<(usize, Mode), (f64, f64, f64, bool)>,
}

impl Rates {
    fn of(record: &Record) -> Rates {
        let mut runs: BTreeMap<(usize, Mode), Vec<Run>> = BTreeMap::new();
        for run in record.runs.iter().filter(|run| run.mode != Mode::Pingpong) {
            let of_kind = runs.entry((run.size, run.mode)).or_default();
            of_kind.push(run.clone());
        }
        let mut sizes: Vec<_> = runs.keys().map(|(size, _)| *size).collect();
        sizes.dedup();
        let mut modes: Vec<_> = runs.keys().map(|(_, mode)| *mode).collect();
        modes.sort_unstable();
        modes.dedup();
        let bar = |runs: &Vec<Run>| {
            let mpps = || runs.iter().map(|run| run.pps() / 1e6);
            let (low, high) = spread(mpps());
            let limited = table::bottleneck(runs) == "generator";
            (median(mpps()), low, high, limited)
        };
        let bars = runs.iter().map(|(key, runs)| (*key, bar(runs))).collect();
        Rates { sizes, modes, bars }
    }

    fn draw(&self, record: &Record, area: &Panel<'_>) -> Drawn {
        let names = self.modes.iter().map(|mode| table::name(*mode)).collect();
        let area = headed(record, area, names)?;
        let top = self.bars.values().map(|bar| bar.2).fold(0.0, f64::max);
        let x = Named {
            range: -0.5..self.sizes.len() as f64 - 0.5,
            names: self.sizes.iter().map(ToString::to_string).collect(),
        };
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(55)
            .build_cartesian_2d(x, 0.0..top.max(1e-3) * 1.12)
            .map_err(text)?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.25))
            .label_style((FONT, 13))
            .axis_desc_style((FONT, 14))
            .x_desc("bytes a frame, without FCS")
            .y_desc(match &record.search {
                Some(searched) => format!("Mpps, {searched}"),
                None => "Mpps".into(),
            });
        mesh.draw().map_err(text)?;
        let width = 0.8 / self.modes.len() as f64;
        let label =
            TextStyle::from((FONT, 12).into_font()).pos(Pos::new(HPos::Center, VPos::Bottom));
        for (&(size, mode), &(rate, low, high, limited)) in &self.bars {
            // Both lists are sorted and hold the keys of the bars.
            let place = self.sizes.partition_point(|&s| s < size) as f64;
            let series = self.modes.partition_point(|&m| m < mode);
            let left = place - 0.4 + width * series as f64;
            let middle = left + width / 2.0;
            let colour = COLOURS[series % COLOURS.len()];
            let inner = (left + width * 0.06, left + width * 0.94);
            let bar = Rectangle::new([(inner.0, 0.0), (inner.1, rate)], colour.filled());
            chart.draw_series([bar]).map_err(text)?;
            let whisker = PathElement::new([(middle, low), (middle, high)], BLACK.stroke_width(2));
            chart.draw_series([whisker]).map_err(text)?;
            let mark = if limited { " g" } else { "" };
            let told = Text::new(format!("{rate:.2}{mark}"), (middle, high), &label);
            chart.draw_series([told]).map_err(text)?;
        }
        Ok(())
    }
}

/// Named lines of nines and microseconds.
type Lines = Vec<(String, Vec<(f64, f64)>)>;

fn latencies(record: &Record) -> Lines {
    let mut lines = Lines::new();
    for run in &record.runs {
        let name = format!("{} {} B", table::name(run.mode), run.size);
        let Some(latency) = &run.latency else {
            continue;
        };
        // The first round stands for all.
        if lines.iter().any(|line| line.0 == name) {
            continue;
        }
        let curve = latency.curve.iter().filter(|(q, _)| *q < 1.0);
        let points = curve.map(|(q, ns)| (-(1.0 - q).log10(), (*ns).max(1) as f64 / 1e3));
        lines.push((name, points.collect()));
    }
    lines
}

fn draw_latencies(record: &Record, lines: &Lines, area: &Panel<'_>) -> Drawn {
    let area = headed(record, area, lines.iter().map(|l| l.0.clone()).collect())?;
    let all = || lines.iter().flat_map(|line| &line.1);
    let right = all().map(|p| p.0).fold(1.0, f64::max);
    let (low, high) = spread(all().map(|p| p.1));
    let names = ["fastest", "90 %", "99 %", "99.9 %", "99.99 %"];
    let x = Named {
        range: 0.0..right * 1.03,
        names: names.map(str::to_owned).into(),
    };
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(55)
        .build_cartesian_2d(x, (low * 0.8..high * 1.3).log_scale())
        .map_err(text)?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(GREY.mix(0.25))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .x_desc("share of the frames that took at most so long")
        .y_desc("microseconds")
        .y_label_formatter(&|us| format!("{us}"));
    mesh.draw().map_err(text)?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points = || line.1.iter().copied();
        let series = LineSeries::new(points(), colour.stroke_width(2));
        chart.draw_series(series).map_err(text)?;
        let dots = points().map(|at| Circle::new(at, 3, colour.filled()));
        chart.draw_series(dots).map_err(text)?;
    }
    Ok(())
}

/// Writes the head of a panel: what was measured, and which colour is what. What is left of it.
fn headed<'a>(record: &Record, area: &Panel<'a>, names: Vec<String>) -> Result<Panel<'a>, String> {
    let flows = if record.flows == 1 { "flow" } else { "flows" };
    let title = format!(
        "{}: {}, {} ports, {} {flows}",
        record.label, record.ring, record.active, record.flows
    );
    let (head, rest) = area.split_vertically(56);
    let big = TextStyle::from((FONT, 18).into_font());
    head.draw(&Text::new(title, (20, 10), &big)).map_err(text)?;
    let mut x = 22;
    let small = TextStyle::from((FONT, 13).into_font());
    for (name, colour) in names.into_iter().zip(COLOURS.iter().cycle()) {
        let square = Rectangle::new([(x, 38), (x + 12, 50)], colour.filled());
        head.draw(&square).map_err(text)?;
        let width = 30 + 8 * name.len() as i32;
        head.draw(&Text::new(name, (x + 17, 38), &small))
            .map_err(text)?;
        x += width;
    }
    Ok(rest)
}

/// An axis with a name at each whole number from 0 on.
struct Named {
    range: Range<f64>,
    names: Vec<String>,
}

impl Ranged for Named {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        let all = (0..self.names.len()).map(|i| i as f64);
        all.filter(|at| self.range.contains(at)).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Named {
    fn format_ext(&self, at: &f64) -> String {
        self.names.get(*at as usize).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(runs: &[serde_json::Value]) -> Record {
        let record = json!({
            "label": "a switch", "ports": 2, "active": 2, "ring": "split-vec", "queue_size": 256, "queues": 1,
            "burst": 32, "flows": 1, "vlan": null, "touch": "head", "memory": "", "cpu": 0, "line_ns": [], "runs": runs,
        });
        serde_json::from_value(record).unwrap()
    }

    fn run(mode: &str, size: usize, pps: f64) -> serde_json::Value {
        let latency = json!({
            "frames": 9, "min": 900, "p50": 1000, "p90": 1100, "p99": 2000, "p99.9": 9000, "max": 10000,
            "curve": [[0.0, 900], [0.5, 1000], [0.9, 1100], [0.999, 9000], [1.0, 10000]],
        });
        json!({
            "mode": mode, "size": size, "round": 0, "offered_pps": null, "tx_pps": pps, "rx_pps": pps,
            "gbps": 0.0, "sent": 100, "lost": 0, "reordered": 0, "duplicates": 0, "foreign": 0, "bad": 0,
            "ring_full": 0.1, "idle": 0.0, "fairness": 1.0, "busy_ns": 30.0, "bound": "generator",
            "latency": (mode == "pingpong").then_some(latency),
        })
    }

    #[test]
    fn every_mode_size_and_round_trip_has_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plot.svg");
        let runs = [
            run("oneway", 64, 14.75e6),
            run("bidir", 64, 15.5e6),
            run("oneway", 1518, 4.25e6),
            run("pingpong", 64, 0.0),
        ];
        draw(&record(&runs), &file).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        for text in [
            "a switch: split-vec, 2 ports, 1 flow",
            "14.75 g",
            "15.50 g",
            "4.25 g",
            "1518",
            "pingpong 64 B",
            "99.9 %",
        ] {
            assert!(svg.lines().any(|line| line.trim() == text), "{text}");
        }
        let page = super::super::page::html(&record(&runs), "2 ports <of> it").unwrap();
        for text in [
            "<h1>a switch</h1>",
            "2 ports &lt;of&gt; it",
            "14.750",
            "14.75 g",
            "round trip",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
        let nothing = draw(&record(&[]), &file).unwrap_err();
        assert!(nothing.contains("nothing to draw"), "{nothing}");
    }
}
