//! Charts of pages as SVG text: grouped bars and lines over time. Colours are classes of the page's style sheet, so that
//! one chart serves light, dark and paper; a bar tells its figure when pointed at. Never draws a scale that does not start
//! at zero.
//!
//! `plotters`, which draws the pictures of `vf-conformance bench`, does not draw these: its SVG has colours in place of classes,
//! neither round corners nor titles, so that the page would lose its dark and its paper form and its bars their figures.

use super::escape;

/// Units of a chart from its left to its right.
pub(crate) const WIDTH: f64 = 520.0;
/// Room for the figures of a scale.
pub(crate) const LEFT: f64 = 42.0;

/// A bar of a group.
pub(crate) struct Bar {
    /// Its height.
    pub(crate) value: f64,
    /// Its share of the group's width; wide enough ones carry their figure.
    pub(crate) weight: f64,
    /// Its class.
    pub(crate) class: &'static str,
    /// What it says when pointed at.
    pub(crate) tip: String,
}

/// Groups of bars, numbered from 1, on a scale up to `top`; `ceiling` is a dashed line and its name.
pub(crate) fn bars(
    title: &str,
    unit: &str,
    groups: &[Vec<Bar>],
    top: f64,
    ceiling: Option<(f64, String)>,
) -> String {
    const HEIGHT: f64 = 270.0;
    const FLOOR: f64 = HEIGHT - 24.0;
    const ROOF: f64 = 34.0;
    let y = |value: f64| FLOOR - (FLOOR - ROOF) * value / top;
    let mut out = open(title, HEIGHT);
    let step = round_step(top / 5.0);
    for i in 0..=(top / step) as u32 {
        let value = step * f64::from(i);
        out += &grid(y(value), &format!("{value:.0}"), i == 0, WIDTH);
    }
    out += &format!(
        "<text x=\"{WIDTH}\" y=\"14\" text-anchor=\"end\">{}</text>",
        escape(unit)
    );
    let room = (WIDTH - LEFT) / groups.len().max(1) as f64;
    for (number, group) in groups.iter().enumerate() {
        let left = LEFT + room * number as f64;
        let weights: f64 = group.iter().map(|bar| bar.weight).sum();
        let share = room * 0.86 / weights.max(1.0);
        let mut x = left + room * 0.07;
        for bar in group {
            let width = share * bar.weight;
            let roof = y(bar.value);
            out += &format!(
                "<rect class=\"{}\" x=\"{x:.1}\" y=\"{roof:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{:.1}\"><title>{}</title></rect>",
                bar.class,
                (width - width.min(10.0) * 0.15).max(0.5),
                (FLOOR - roof).max(0.0),
                (width / 8.0).min(2.0),
                escape(&bar.tip),
            );
            if width > 30.0 && FLOOR - roof > 20.0 {
                let (x, y) = (x + width * 0.48, roof + 14.0);
                out += &format!(
                    "<text class=\"value\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{:.0}</text>",
                    bar.value
                );
            }
            x += width;
        }
        if room > 18.0 {
            let (x, y) = (left + room / 2.0, HEIGHT - 8.0);
            out += &format!(
                "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{}</text>",
                number + 1
            );
        }
    }
    if let Some((value, name)) = ceiling {
        let at = y(value);
        out += &format!(
            "<line class=\"ceiling\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"ceiling-name\" x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            at - 6.0,
            escape(&name)
        );
    }
    out + "</svg>"
}

/// A bar of a small chart, with the range of the runs that it is the mean of.
pub(crate) struct RangedBar {
    pub(crate) value: f64,
    pub(crate) range: (f64, f64),
    pub(crate) class: &'static str,
    pub(crate) tip: String,
}

/// Groups of bars by name on a scale up to `top`, each with the ceiling of its group.
pub(crate) fn multiple(
    title: &str,
    unit: &str,
    groups: &[(String, Vec<RangedBar>, Option<f64>)],
    top: f64,
) -> String {
    const HEIGHT: f64 = 220.0;
    const FLOOR: f64 = HEIGHT - 24.0;
    const ROOF: f64 = 34.0;
    let y = |value: f64| FLOOR - (FLOOR - ROOF) * value / top;
    let mut out = open(title, HEIGHT);
    let step = round_step(top / 4.0);
    for i in 0..=(top / step) as u32 {
        let value = step * f64::from(i);
        out += &grid(y(value), &format!("{value:.0}"), i == 0, WIDTH);
    }
    out += &format!(
        "<text x=\"{WIDTH}\" y=\"14\" text-anchor=\"end\">{}</text>",
        escape(unit)
    );
    let room = (WIDTH - LEFT) / groups.len().max(1) as f64;
    for (n, (name, bars, ceiling)) in groups.iter().enumerate() {
        let left = LEFT + room * n as f64;
        let width = (room * 0.8 / bars.len().max(1) as f64).min(60.0);
        let first = left + (room - width * bars.len() as f64) / 2.0;
        for (i, bar) in bars.iter().enumerate() {
            let x = first + width * i as f64;
            let (roof, middle) = (y(bar.value), x + width * 0.45);
            out += &format!(
                "<rect class=\"{}\" x=\"{x:.1}\" y=\"{roof:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"2\"><title>{}</title></rect>\
                 <line class=\"base\" x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                bar.class,
                width * 0.9,
                (FLOOR - roof).max(0.0),
                escape(&bar.tip),
                y(bar.range.0),
                y(bar.range.1),
            );
        }
        if let Some(ceiling) = ceiling {
            let at = y(*ceiling);
            let (from, to) = (first - 4.0, first + width * bars.len() as f64 + 4.0);
            out += &format!(
                "<line class=\"ceiling\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>"
            );
        }
        out += &format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            left + room / 2.0,
            HEIGHT - 8.0,
            escape(name)
        );
    }
    out + "</svg>"
}

/// A line: shares (0 to 1), each the average of the interval that ends at its second.
pub(crate) struct Line<'a> {
    /// Its name, at its end.
    pub(crate) name: &'a str,
    /// The stem of its classes, `-line` and `-fill`.
    pub(crate) class: &'a str,
    /// Where it ends up, as text.
    pub(crate) figure: String,
    /// End of the interval in seconds, and the share.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Shares over time, in per cent.
pub(crate) fn shares(title: &str, lines: &[Line<'_>]) -> String {
    const HEIGHT: f64 = 220.0;
    const FLOOR: f64 = HEIGHT - 34.0;
    const ROOF: f64 = 34.0;
    const RIGHT: f64 = WIDTH - 92.0;
    let end = lines
        .iter()
        .flat_map(|line| &line.points)
        .fold(0.0, |end: f64, point| end.max(point.0));
    let end = if end > 0.0 { end } else { 1.0 };
    let x = |second: f64| LEFT + (RIGHT - LEFT) * second / end;
    let y = |share: f64| FLOOR - (FLOOR - ROOF) * share.clamp(0.0, 1.0);
    let mut out = open(title, HEIGHT);
    for per_cent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        out += &grid(
            y(per_cent / 100.0),
            &format!("{per_cent} %"),
            per_cent == 0.0,
            RIGHT,
        );
    }
    let step = round_step(end / 5.0);
    for i in 0..=(end / step + 1e-9) as u32 {
        let second = step * f64::from(i);
        let digits = usize::from(step < 1.0) + usize::from(step < 0.1) + usize::from(step < 0.01);
        out += &format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{second:.digits$}</text>",
            x(second),
            FLOOR + 15.0
        );
    }
    let (middle, below) = (f64::midpoint(LEFT, RIGHT), HEIGHT - 4.0);
    out += &format!(
        "<text x=\"{middle:.1}\" y=\"{below}\" text-anchor=\"middle\">seconds of measurement</text>"
    );
    let mut names: Vec<(f64, &Line<'_>)> = Vec::new();
    for line in lines {
        let Some(&(_, last)) = line.points.last() else {
            continue;
        };
        let (mut path, mut from) = (String::new(), 0.0);
        for &(second, share) in &line.points {
            path += &format!(
                "{:.1},{:.1} {:.1},{:.1} ",
                x(from),
                y(share),
                x(second),
                y(share)
            );
            from = second;
        }
        out += &format!(
            "<polygon class=\"area {0}-fill\" points=\"{path}{1:.1},{FLOOR} {LEFT},{FLOOR}\"/>\
             <polyline class=\"line {0}-line\" points=\"{path}\"><title>{2}: {3}</title></polyline>",
            line.class,
            x(from),
            escape(line.name),
            escape(&line.figure)
        );
        names.push((y(last), line));
    }
    // Names of lines that end close together move apart, the lower one upwards if it would leave the chart.
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = ROOF - 8.0;
    let count = names.len();
    for (i, (at, line)) in names.into_iter().enumerate() {
        let room = FLOOR - 30.0 * (count - 1 - i) as f64 - 10.0;
        let at = at.min(room).max(below);
        below = at + 30.0;
        out += &format!(
            "<text class=\"{}-fill\" x=\"{}\" y=\"{:.1}\">{}<tspan x=\"{}\" dy=\"13\">{}</tspan></text>",
            line.class,
            RIGHT + 8.0,
            at + 4.0,
            escape(line.name),
            RIGHT + 8.0,
            escape(&line.figure)
        );
    }
    out + "</svg>"
}

/// Rates over time, a line each, with numbered marks for what was done meanwhile.
pub(crate) fn course(
    title: &str,
    unit: &str,
    lines: &[(String, Vec<(f64, f64)>)],
    marks: &[f64],
    end: f64,
) -> String {
    const HEIGHT: f64 = 230.0;
    const FLOOR: f64 = HEIGHT - 34.0;
    const ROOF: f64 = 44.0;
    const RIGHT: f64 = WIDTH - 8.0;
    let end = if end > 0.0 { end } else { 1.0 };
    let points = lines.iter().flat_map(|(_, points)| points);
    let top = points.fold(0.0, |top: f64, point| top.max(point.1)) * 1.05;
    let top = if top > 0.0 { top } else { 1.0 };
    let x = |second: f64| LEFT + (RIGHT - LEFT) * (second / end).clamp(0.0, 1.0);
    let y = |value: f64| FLOOR - (FLOOR - ROOF) * value / top;
    let mut out = open(title, HEIGHT);
    out += &format!(
        "<text x=\"{WIDTH}\" y=\"14\" text-anchor=\"end\">{}</text>",
        escape(unit)
    );
    let step = round_step(top / 4.0);
    for i in 0..=(top / step) as u32 {
        let value = step * f64::from(i);
        let digits = usize::from(step < 1.0) + usize::from(step < 0.1);
        out += &grid(y(value), &format!("{value:.digits$}"), i == 0, RIGHT);
    }
    let step = round_step(end / 5.0);
    for i in 0..=(end / step + 1e-9) as u32 {
        let second = step * f64::from(i);
        let digits = usize::from(step < 1.0) + usize::from(step < 0.1) + usize::from(step < 0.01);
        out += &format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{second:.digits$}</text>",
            x(second),
            FLOOR + 15.0
        );
    }
    out += &format!(
        "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">seconds</text>",
        f64::midpoint(LEFT, RIGHT),
        HEIGHT - 4.0
    );
    for (n, at) in marks.iter().enumerate() {
        out += &format!(
            "<line class=\"ceiling\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{1}\" y2=\"{FLOOR}\"/>\
             <text class=\"ceiling-name\" x=\"{0:.1}\" y=\"{2}\" text-anchor=\"middle\">{3}</text>",
            x(*at),
            ROOF - 6.0,
            ROOF - 10.0,
            n + 1
        );
    }
    for (n, (name, points)) in lines.iter().enumerate() {
        let mut from = 0.0;
        let mut path = String::new();
        for (second, value) in points {
            path += &format!("{:.1},{:.1} {:.1},{1:.1} ", x(from), y(*value), x(*second));
            from = *second;
        }
        out += &format!(
            "<polyline class=\"line {}-line\" points=\"{path}\"><title>{}</title></polyline>",
            hue(n),
            escape(name)
        );
    }
    out + "</svg>"
}

/// The stem of the classes of a page's `n`th line.
pub(crate) fn hue(n: usize) -> &'static str {
    const HUES: [&str; 4] = ["direct", "mediated", "link", "hypervisor"];
    HUES[n % HUES.len()]
}

/// The start of a chart.
pub(crate) fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\
         <text class=\"title\" x=\"0\" y=\"14\">{title}</text>"
    )
}

/// A line of the grid with its figure.
pub(crate) fn grid(y: f64, figure: &str, base: bool, right: f64) -> String {
    let class = if base { "base" } else { "grid" };
    format!(
        "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{figure}</text>",
        LEFT - 7.0,
        y + 4.0
    )
}

/// The least of 1, 2, 5, 10, ... times a power of ten that is not below `least` (above 0).
pub(crate) fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .map(|digit| digit * power)
        .into_iter()
        .find(|step| *step >= least * 0.999)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (least, step) in [
            (1.0, 1.0),
            (1.1, 2.0),
            (471.0, 500.0),
            (501.0, 1000.0),
            (0.04, 0.05),
            (0.1, 0.1),
        ] {
            assert!(
                (round_step(least) - step).abs() < step / 1e6,
                "{least}: {}",
                round_step(least)
            );
        }
    }

    #[test]
    fn bars_are_as_high_as_their_figure() {
        let bar = |value| Bar {
            value,
            weight: 1.0,
            class: "c",
            tip: String::from("<&\">"),
        };
        let svg = bars(
            "t",
            "Mb/s",
            &[vec![bar(50.0), bar(100.0), bar(0.0)]],
            100.0,
            Some((75.0, "top".into())),
        );
        let heights: Vec<&str> = svg
            .match_indices("height=\"")
            .map(|(at, key)| svg[at + key.len()..].split('"').next().unwrap())
            .collect();
        assert_eq!(heights, ["106.0", "212.0", "0.0"]);
        assert!(svg.contains("y1=\"87.0\"") && !svg.contains("<&"), "{svg}");
    }

    #[test]
    fn names_of_lines_that_meet_stay_apart() {
        for share in [0.0, 0.5, 1.0] {
            let line = |name| Line {
                name,
                class: "link",
                figure: "x".into(),
                points: vec![(1.0, share)],
            };
            let svg = shares("t", &[line("one"), line("two")]);
            let at = |name: &str| -> f64 {
                let head = svg.split(&format!("\">{name}<tspan")).next().unwrap();
                head.rsplit("y=\"").next().unwrap().parse().unwrap()
            };
            assert!((at("one") - at("two")).abs() >= 29.0, "{svg}");
            assert!(at("one") > 20.0 && at("two") < 186.0, "{svg}");
        }
    }

    #[test]
    fn a_chart_of_nothing_is_still_a_chart() {
        assert!(shares("t", &[]).ends_with("</svg>"));
        assert!(bars("t", "u", &[], 1.0, None).ends_with("</svg>"));
    }
}
