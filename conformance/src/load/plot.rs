//! A bench as a picture: rates over frame sizes, and how latencies are distributed.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::prelude::*;

use super::plan::Mode;
use super::record::{Record, median};
use super::table;

const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0xff, 0x7f, 0x0e),
    RGBColor(0x7f, 0x7f, 0x7f),
];

/// A named line through points.
type Lines = BTreeMap<String, Vec<(f64, f64)>>;

/// Writes an SVG file with a panel for rates and one for latencies, whichever there are.
pub(super) fn draw(record: &Record, file: &Path) -> Result<(), String> {
    let panels = [
        (rates(record), "frame size in bytes", "Mpps"),
        (
            latencies(record),
            "number of nines: share of frames that took longer, 1 = 10 %, 2 = 1 %, ...",
            "microseconds",
        ),
    ];
    let panels: Vec<_> = panels.iter().filter(|panel| !panel.0.is_empty()).collect();
    let area = SVGBackend::new(file, (720, 360 * panels.len().max(1) as u32)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| e.to_string())?;
    for ((lines, x, y), area) in panels
        .iter()
        .zip(area.split_evenly((panels.len().max(1), 1)))
    {
        panel(record, lines, x, y, &area).map_err(|e| e.to_string())?;
    }
    area.present().map_err(|e| e.to_string())
}

fn rates(record: &Record) -> Lines {
    let mut rates: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    for run in record.runs.iter().filter(|run| run.mode != Mode::Pingpong) {
        let key = (table::name(run.mode), run.size);
        rates.entry(key).or_default().push(run.pps() / 1e6);
    }
    let mut lines = Lines::new();
    for ((mode, size), rates) in rates {
        let line = lines.entry(mode).or_default();
        line.push((size as f64, median(rates)));
    }
    lines
}

fn latencies(record: &Record) -> Lines {
    let mut lines = Lines::new();
    for run in &record.runs {
        let Some(latency) = &run.latency else {
            continue;
        };
        let name = format!("{} {} B", table::name(run.mode), run.size);
        let curve = latency.curve.iter().filter(|(q, _)| *q < 1.0);
        let points = curve.map(|(q, ns)| (-(1.0 - q).log10(), *ns as f64 / 1e3));
        lines.entry(name).or_insert_with(|| points.collect());
    }
    lines
}

fn panel<B: DrawingBackend>(
    record: &Record,
    lines: &Lines,
    x: &str,
    y: &str,
    area: &DrawingArea<B, plotters::coord::Shift>,
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let points = || lines.values().flatten();
    let right = points().map(|p| p.0).fold(1.0, f64::max) * 1.05;
    let top = points().map(|p| p.1).fold(0.0, f64::max) * 1.1;
    let title = format!(
        "{}, {}, {} flow(s)",
        record.label, record.ring, record.flows
    );
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..right, 0.0..top.max(1e-3))?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(x).y_desc(y).draw()?;
    for ((name, line), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        chart
            .draw_series(
                LineSeries::new(line.iter().copied(), colour.stroke_width(2)).point_size(3),
            )?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    let mut legend = chart.configure_series_labels();
    legend.border_style(BLACK).background_style(WHITE).draw()
}
