//! The chart of single packets behind a measurement. Measures nothing.

use crate::experiment::outcome::{Depth, Timeline};
use crate::page::chart::{LEFT, WIDTH, grid, open, round_step};
use crate::page::escape;

/// Single packets on their way from A to B, a row a place, and below what waits meanwhile.
pub(super) fn svg(title: &str, timeline: &Timeline) -> String {
    const ROW: f64 = 34.0;
    const ROOF: f64 = 30.0;
    const DEPTH: f64 = 96.0;
    let length = timeline.length_us.max(1.0);
    let rows = ROOF + ROW * timeline.lanes.len() as f64;
    let (roof, floor) = (rows + 26.0, rows + 26.0 + DEPTH);
    let x = |us: f64| LEFT + (WIDTH - LEFT) * us / length;
    let mut out = open(title, floor + 34.0);
    for (n, lane) in timeline.lanes.iter().enumerate() {
        let y = ROOF + ROW * n as f64;
        out += &format!(
            "<text x=\"{LEFT}\" y=\"{:.0}\">{}</text>",
            y + 10.0,
            escape(lane.place)
        );
        for (class, name, times) in [
            ("link", "data", &lane.data_us),
            ("hypervisor", "ACKs", &lane.ack_us),
        ] {
            let ticks = times.iter().filter(|us| (0.0..=length).contains(*us));
            let ticks: String = ticks
                .map(|us| format!("M{:.1} {:.0}v12", x(*us), y + 14.0))
                .collect();
            if !ticks.is_empty() {
                out += &format!(
                    "<path class=\"tick {class}-line\" d=\"{ticks}\"><title>{name}: {}</title></path>",
                    times.len()
                );
            }
        }
    }
    let all = timeline.depth.iter();
    let most = all.map(|d| d.inside.max(d.rings.unwrap_or(0))).max();
    let top = most.unwrap_or(0).max(4) as f64;
    let y = |frames: f64| floor - (floor - roof) * frames / top;
    let step = round_step((top / 3.0).max(1.0));
    for i in 0..=(top / step) as u32 {
        let frames = step * f64::from(i);
        out += &grid(y(frames), &format!("{frames:.0}"), i == 0, WIDTH);
    }
    let mut at = LEFT;
    let waits = |place: usize, depth: &Depth| match place {
        0 => depth.rings,
        _ => Some(depth.inside),
    };
    let lines = [
        ("mediated", "on the guests' send rings"),
        ("direct", "behind them, up to B's guests"),
    ];
    for (place, (class, name)) in lines.into_iter().enumerate() {
        let depth = timeline.depth.iter();
        let points = depth.filter_map(|d| Some((d.at_us, waits(place, d)?)));
        let path: String = points
            .map(|(us, frames)| format!("{:.1},{:.1} ", x(us), y(frames as f64)))
            .collect();
        if path.is_empty() {
            continue;
        }
        out += &format!(
            "<polyline class=\"line {class}-line\" points=\"{path}\"/>\
             <text class=\"{class}-text\" x=\"{at:.0}\" y=\"{:.0}\">{name}</text>",
            roof - 8.0
        );
        at += 170.0;
    }
    out += &format!(
        "<text x=\"{WIDTH}\" y=\"{:.0}\" text-anchor=\"end\">frames</text>",
        roof - 8.0
    );
    let step = round_step(length / 5.0);
    for i in 0..=(length / step + 1e-9) as u32 {
        let us = step * f64::from(i);
        let anchor = if us + step / 2.0 > length {
            "end"
        } else {
            "middle"
        };
        out += &format!(
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{us:.0}</text>",
            x(us),
            floor + 14.0
        );
    }
    out += &format!(
        "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">\u{b5}s after the measurement</text>",
        f64::midpoint(LEFT, WIDTH),
        floor + 30.0
    );
    out + "</svg>"
}
