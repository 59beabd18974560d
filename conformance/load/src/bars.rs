//! Bars: what a back end has to reach, from a TOML file, and the verdict on what was measured.
//!
//! A bar with `to` is on the ratio of a figure to that of another label or kind of run, over rounds that compare, and is
//! judged for each kind that `of` names. A bar without is on the figure itself, and is judged where that is worst. What was not
//! measured is no verdict: it is named below the table.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use toml::Spanned;

use super::compare::mark;
use super::plan::Mode;
use super::rounds::{Figure, Kind, Ratio, Round, Rounds, bottleneck, middle};

/// A file of bars.
#[derive(Debug)]
pub(super) struct Bars {
    file: PathBuf,
    bars: Vec<Bar>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    bar: Vec<Spanned<Bar>>,
}

/// One bar.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bar {
    /// What it is about, for people.
    what: String,
    /// Whose figure.
    of: Selector,
    /// To whose the ratio is: what is not said here is as in `of`.
    to: Option<Selector>,
    #[serde(default = "rate")]
    figure: Figure,
    at_least: Option<Limit>,
    at_most: Option<Limit>,
    /// A ratio of rates below the bar will do if the generator was the limit and the base needs that many times the cycles.
    #[serde(default)]
    or_cycles: bool,
}

fn rate() -> Figure {
    Figure::Rate
}

/// Names kinds of runs: those that have what is said here.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    part: Option<String>,
    label: Option<String>,
    mode: Option<Mode>,
    ports: Option<usize>,
    active: Option<usize>,
    flows: Option<u32>,
    ring: Option<String>,
    bytes: Option<usize>,
}

impl Selector {
    fn names(&self, kind: &Kind) -> bool {
        fn fits<T: PartialEq>(wanted: Option<&T>, is: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == is)
        }
        fits(self.part.as_ref(), &kind.part)
            && self.mode.is_none_or(|mode| kind.mode == Some(mode))
            && fits(self.ports.as_ref(), &kind.ports)
            && fits(self.active.as_ref(), &kind.active)
            && fits(self.flows.as_ref(), &kind.flows)
            && fits(self.ring.as_ref(), &kind.ring)
            && fits(self.bytes.as_ref(), &kind.bytes)
    }

    /// The kind with what is said here in place of its own.
    fn instead(&self, kind: &Kind) -> Kind {
        Kind {
            part: self.part.clone().unwrap_or_else(|| kind.part.clone()),
            mode: self.mode.or(kind.mode),
            ports: self.ports.unwrap_or(kind.ports),
            active: self.active.unwrap_or(kind.active),
            flows: self.flows.unwrap_or(kind.flows),
            ring: self.ring.clone().unwrap_or_else(|| kind.ring.clone()),
            bytes: self.bytes.unwrap_or(kind.bytes),
        }
    }

    /// What tells a kind from the others that are named here.
    fn rest(&self, kind: &Kind) -> String {
        let ring = self.ring.is_none() && !kind.ring.is_empty();
        let bytes = self.bytes.is_none() && kind.bytes > 0;
        let ring = ring.then(|| format!(", {}", kind.ring));
        let bytes = bytes.then(|| format!(", {} B", kind.bytes));
        ring.unwrap_or_default() + &bytes.unwrap_or_default()
    }
}

/// A number, or one for each frame size that has a bar.
#[derive(Debug)]
enum Limit {
    All(f64),
    ByBytes(BTreeMap<usize, f64>),
}

impl Limit {
    fn for_bytes(&self, bytes: usize) -> Option<f64> {
        match self {
            Limit::All(limit) => Some(*limit),
            Limit::ByBytes(limits) => limits.get(&bytes).copied(),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Limit, D::Error> {
        struct Numbers;
        impl<'de> Visitor<'de> for Numbers {
            type Value = Limit;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, or { BYTES = number, ... }")
            }

            fn visit_f64<E>(self, limit: f64) -> Result<Limit, E> {
                Ok(Limit::All(limit))
            }

            fn visit_i64<E>(self, limit: i64) -> Result<Limit, E> {
                Ok(Limit::All(limit as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Limit, A::Error> {
                let mut limits = BTreeMap::new();
                while let Some((bytes, limit)) = map.next_entry::<String, f64>()? {
                    let bytes = bytes.parse();
                    let bytes = bytes.map_err(|_| A::Error::custom("not a number of bytes"))?;
                    limits.insert(bytes, limit);
                }
                Ok(Limit::ByBytes(limits))
            }
        }
        from.deserialize_any(Numbers)
    }
}

/// How a bar came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Met,
    Missed,
    /// No two rounds were measured at one distance.
    NotComparable,
    /// The bar has no limit: the figure is to be seen, not judged.
    Shown,
}

impl Bars {
    /// Reads a file of bars.
    pub(super) fn read(file: &Path) -> io::Result<Bars> {
        let wrong = |line: usize, error: &str| {
            let error = error.trim_end().replace('\n', ", ");
            io::Error::other(format!("{}:{line}: {error}", file.display()))
        };
        let text = fs::read_to_string(file)
            .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        let line_of = |at: usize| 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
        let document: Document = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(line_of(at), error.message())
        })?;
        let mut bars = Vec::new();
        for bar in document.bar {
            let line = line_of(bar.span().start);
            let bar = bar.into_inner();
            bar.check().map_err(|error| wrong(line, error))?;
            bars.push(bar);
        }
        Ok(Bars {
            file: file.to_owned(),
            bars,
        })
    }

    /// Prints what was reached of each bar; whether none was missed and all could be compared.
    pub(super) fn judge(&self, rounds: &Rounds, out: &mut impl Write) -> io::Result<bool> {
        let mut rows = Vec::new();
        let mut unmeasured = Vec::new();
        for bar in &self.bars {
            let new = match &bar.to {
                Some(to) => bar.ratios(to, rounds),
                None => bar.worst(rounds).into_iter().collect(),
            };
            if new.is_empty() {
                unmeasured.push(&bar.what[..]);
            }
            rows.extend(new);
        }
        if rows.is_empty() {
            let error = format!("{}: no bar is about these files", self.file.display());
            return Err(io::Error::other(error));
        }
        writeln!(
            out,
            "| what | bar | reached | medians | cycles | |\n|---|---|---|---|---|---|"
        )?;
        for row in &rows {
            row.print(out)?;
        }
        let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
        let (met, missed) = (count(Verdict::Met), count(Verdict::Missed));
        let apart = count(Verdict::NotComparable);
        writeln!(
            out,
            "\nof {} bars {met} met, {missed} not, {apart} not comparable",
            met + missed + apart
        )?;
        if !unmeasured.is_empty() {
            writeln!(out, "not measured: {}", unmeasured.join("; "))?;
        }
        out.flush()?;
        Ok(missed + apart == 0)
    }
}

/// A line of the verdicts.
#[derive(Debug)]
struct Row {
    what: String,
    bar: String,
    reached: String,
    medians: String,
    cycles: String,
    verdict: Verdict,
    by_cycles: bool,
}

impl Row {
    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let verdict = match self.verdict {
            Verdict::Met => "met",
            Verdict::Missed => "NOT MET",
            Verdict::NotComparable => "not comparable",
            Verdict::Shown => "-",
        };
        let by = if self.by_cycles { " by cycles" } else { "" };
        let Row {
            what,
            bar,
            reached,
            medians,
            cycles,
            ..
        } = self;
        writeln!(
            out,
            "| {what} | {bar} | {reached} | {medians} | {cycles} | {verdict}{by} |"
        )
    }
}

impl Bar {
    /// What is wrong with it.
    fn check(&self) -> Result<(), &'static str> {
        if self.of.label.is_none() {
            return Err("of: whose? give a label");
        }
        if self.at_least.is_some() && self.at_most.is_some() {
            return Err("at_least and at_most: one of them");
        }
        let rates = self.figure == Figure::Rate && self.to.is_some() && self.at_least.is_some();
        if self.or_cycles && !rates {
            return Err("or_cycles: only with to, at_least and the rate");
        }
        Ok(())
    }

    /// Whether the bar is about frames of this size at all.
    fn covers(&self, kind: &Kind) -> bool {
        let limit = self.at_least.as_ref().or(self.at_most.as_ref());
        self.of.names(kind) && limit.is_none_or(|limit| limit.for_bytes(kind.bytes).is_some())
    }

    /// The bar in words, and whether a value reaches it.
    fn verdict(&self, kind: &Kind, value: Option<f64>) -> (String, Verdict) {
        let limit = |limit: &Option<Limit>| limit.as_ref().and_then(|l| l.for_bytes(kind.bytes));
        let number = |limit: f64| match self.to {
            Some(_) => format!("{limit:.2}"),
            None => format!("{limit}{}", self.figure.unit()),
        };
        let (text, reached) = match (limit(&self.at_least), limit(&self.at_most)) {
            (Some(least), _) => (format!(">= {}", number(least)), value.map(|x| x >= least)),
            (_, Some(most)) => (format!("<= {}", number(most)), value.map(|x| x <= most)),
            (None, None) => return ("-".into(), Verdict::Shown),
        };
        let verdict = match reached {
            Some(true) => Verdict::Met,
            Some(false) => Verdict::Missed,
            None => Verdict::NotComparable,
        };
        (text, verdict)
    }

    /// A row for each kind of which both sides were measured.
    fn ratios(&self, to: &Selector, rounds: &Rounds) -> Vec<Row> {
        let Some(label) = &self.of.label else {
            return Vec::new();
        };
        let row = |(kind, by_label): (&Kind, &HashMap<String, Vec<Round>>)| {
            let own = by_label.get(label).filter(|_| self.covers(kind))?;
            let base = rounds.kinds.get(&to.instead(kind))?;
            let base = base.get(to.label.as_ref().unwrap_or(label))?;
            Some(self.ratio(kind, own, base))
        };
        rounds.kinds.iter().filter_map(row).collect()
    }

    fn ratio(&self, kind: &Kind, own: &[Round], base: &[Round]) -> Row {
        let ratio = Ratio::of(self.figure, own, base);
        let cycles = Ratio::of(Figure::Cycles, base, own);
        let (bar, mut verdict) = self.verdict(kind, ratio.median);
        // Where the generator is the limit, cycles are the proof.
        let at_limit = matches!(bottleneck(own), "generator" | "both");
        let by_cycles = self.or_cycles && verdict == Verdict::Missed && at_limit;
        if by_cycles {
            verdict = self.verdict(kind, cycles.median).1;
        }
        let known = |rounds, figure: Figure| {
            middle(rounds, figure).map_or("-".into(), |value| figure.digits(value))
        };
        let side = |rounds| {
            let mark = if self.figure == Figure::Rate {
                mark(rounds)
            } else {
                ""
            };
            known(rounds, self.figure) + mark
        };
        let (a, b) = (known(own, Figure::Cycles), known(base, Figure::Cycles));
        Row {
            what: self.what.clone() + &self.of.rest(kind),
            bar,
            reached: ratio.to_string(),
            medians: format!("{} to {}{}", side(own), side(base), self.figure.unit()),
            cycles: match cycles.median.filter(|_| self.or_cycles) {
                Some(times) => format!("{a} to {b}, {times:.2} times"),
                None => "-".into(),
            },
            verdict,
            by_cycles,
        }
    }

    /// One row for the kind whose figure is worst; none when nothing was measured.
    fn worst(&self, rounds: &Rounds) -> Option<Row> {
        let label = self.of.label.as_ref()?;
        let mut all: Vec<(f64, &Kind)> = Vec::new();
        for (kind, by_label) in &rounds.kinds {
            if let Some(own) = by_label.get(label).filter(|_| self.covers(kind)) {
                all.extend(middle(own, self.figure).map(|value| (value, kind)));
            }
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let &(value, kind) = if self.at_least.is_some() {
            all.first()?
        } else {
            all.last()?
        };
        let (bar, verdict) = self.verdict(kind, Some(value));
        let at = match self.of.rest(kind) {
            rest if rest.is_empty() => rest,
            rest => format!(" ({})", rest.trim_start_matches(", ")),
        };
        Some(Row {
            what: self.what.clone(),
            bar,
            reached: self.figure.digits(value) + self.figure.unit() + &at,
            medians: "-".into(),
            cycles: "-".into(),
            verdict,
            by_cycles: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounds::tests::{files, run};
    use super::*;
    use serde_json::{Value, json};

    const BARS: &str = r#"
[[bar]]
what = "rate one way"
of = { part = "rings", label = "vfnic" }
to = { label = "testpmd-io" }
at_least = { 64 = 1.00, 128 = 1.00, 512 = 1.30, 1518 = 1.50 }
or_cycles = true

[[bar]]
what = "loss"
figure = "loss"
of = { part = "rings", label = "vfnic" }
at_most = 0.03

[[bar]]
what = "idle"
figure = "cpu"
of = { part = "idle", label = "vfnic" }
at_most = 1

[[bar]]
what = "memory"
figure = "memory"
of = { part = "idle", label = "vfnic" }

[[bar]]
what = "both ways to one way"
of = { part = "bidir", mode = "bidir", label = "vfnic" }
to = { part = "rings", mode = "oneway" }
at_least = 0.95
"#;

    /// One round of one back end at a frame size.
    fn round(label: &str, bytes: u32, mpps: f64, ring_full: f64, line_ns: u64) -> Value {
        let mut file = run("rings", label, mpps, line_ns);
        let run = &mut file["runs"][0];
        run["size"] = bytes.into();
        run["ring_full"] = ring_full.into();
        run["idle"] = if ring_full < 0.5 { 0.0 } else { 0.5 }.into();
        run["cycles"] = if label == "vfnic" { 150.0 } else { 180.0 }.into();
        file
    }

    fn judge(bars: &str, measured: &[Value]) -> io::Result<(String, bool)> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bars.toml");
        fs::write(&file, bars).unwrap();
        let rounds = Rounds::read(&files(dir.path(), measured)).unwrap();
        let mut out = Vec::new();
        let good = Bars::read(&file)?.judge(&rounds, &mut out)?;
        Ok((String::from_utf8(out).unwrap(), good))
    }

    #[test]
    fn a_bar_is_met_by_rounds_that_compare_or_by_cycles_where_the_generator_is_the_limit() {
        const BACK_END: f64 = 0.9;
        const GENERATOR: f64 = 0.1;
        let (table, good) = judge(
            BARS,
            &[
                // Two rounds that compare, and one in which the CPUs were apart for one of both.
                round("vfnic", 64, 22.0, BACK_END, 60),
                round("testpmd-io", 64, 20.0, BACK_END, 62),
                round("vfnic", 64, 20.4, BACK_END, 60),
                round("testpmd-io", 64, 20.0, BACK_END, 60),
                round("vfnic", 64, 5.0, BACK_END, 300),
                round("testpmd-io", 64, 20.0, BACK_END, 60),
                round("vfnic", 128, 19.0, BACK_END, 60),
                round("testpmd-io", 128, 20.0, BACK_END, 60),
                // What does not compare with the same round may compare with another.
                round("vfnic", 128, 6.0, BACK_END, 300),
                round("testpmd-io", 128, 20.0, BACK_END, 100),
                round("testpmd-io", 128, 5.0, BACK_END, 300),
                // Slower, but the generator could not send more; and not as few cycles as the bar asks for.
                round("vfnic", 512, 10.0, GENERATOR, 60),
                round("testpmd-io", 512, 20.0, BACK_END, 60),
                round("vfnic", 1518, 6.0, BACK_END, 300),
                round("testpmd-io", 1518, 4.0, BACK_END, 60),
                // No bar is about this size.
                round("vfnic", 256, 1.0, BACK_END, 60),
                round("testpmd-io", 256, 9.0, BACK_END, 60),
                json!({ "part": "idle", "label": "vfnic", "ports": 64, "figures": { "cpu": 1.2, "memory": 71 } }),
            ],
        )
        .unwrap();
        assert!(!good);
        let rows: Vec<&str> = table
            .lines()
            .skip(2)
            .take_while(|l| !l.is_empty())
            .collect();
        let expected = [
            "| rate one way, split-vec, 64 B | >= 1.00 | 1.06: 1.02..1.10, less 1 | 20.40 to 20.00 Mpps | 150 to 180, 1.20 times | met |",
            "| rate one way, split-vec, 128 B | >= 1.00 | 1.07: 0.95..1.20 | 12.50 to 20.00 Mpps | 150 to 180, 1.20 times | met |",
            "| rate one way, split-vec, 512 B | >= 1.30 | 0.50: 0.50..0.50 | 10.00 g to 20.00 Mpps | 150 to 180, 1.20 times | NOT MET by cycles |",
            "| rate one way, split-vec, 1518 B | >= 1.50 | no ratio | 6.00 to 4.00 Mpps | - | not comparable |",
            "| loss | <= 0.03 % | 0.000 % (split-vec, 1518 B) | - | - | met |",
            "| idle | <= 1 % | 1.2 % | - | - | NOT MET |",
            "| memory | - | 71 MiB | - | - | - |",
        ];
        for (row, expected) in rows.iter().zip(expected) {
            assert_eq!(*row, expected);
        }
        assert_eq!(rows.len(), expected.len(), "{table}");
        assert!(
            table.ends_with(
                "of 6 bars 3 met, 2 not, 1 not comparable\nnot measured: both ways to one way\n"
            ),
            "{table}"
        );
    }

    #[test]
    fn a_ratio_to_another_part_takes_all_else_from_the_same_kind() {
        let mut both = run("bidir", "vfnic", 19.0, 60);
        both["runs"][0]["mode"] = "bidir".into();
        let one = run("rings", "vfnic", 20.0, 60);
        let (table, good) = judge(BARS, &[both, one]).unwrap();
        assert!(good, "{table}");
        let row = "| both ways to one way, split-vec, 64 B | >= 0.95 | 0.95: 0.95..0.95 | 19.00 to 20.00 Mpps | - | met |";
        assert!(table.contains(row), "{table}");
    }

    #[test]
    fn the_bars_of_the_example_are_bars() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../examples/against-peers/bars.toml"
        );
        assert!(Bars::read(Path::new(file)).unwrap().bars.len() > 10);
    }

    #[test]
    fn a_typo_is_one_line_with_its_number() {
        let one = |line: &str| {
            format!("# bars\n[[bar]]\nwhat = \"x\"\nof = {{ label = \"a\" }}\n{line}\n")
        };
        for (line, says) in [
            ("at_leats = 1.0", ":5: unknown field `at_leats`"),
            ("figure = \"p51\"", ":5: unknown variant `p51`"),
            ("to = { lable = \"b\" }", ":5: unknown field `lable`"),
            (
                "to = { mode = \"bothways\" }",
                ":5: unknown variant `bothways`",
            ),
            (
                "at_least = \"1\"",
                ":5: invalid type: string \"1\", expected a number",
            ),
            ("at_least = { small = 1.0 }", ":5: not a number of bytes"),
            ("at_least = = 1", ":5: "),
            (
                "at_least = 1\nat_most = 2",
                ":2: at_least and at_most: one of them",
            ),
            ("at_least = 1\nor_cycles = true", ":2: or_cycles: only with"),
        ] {
            let error = judge(&one(line), &[]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("bars.toml{says}")),
                "{line}: {error}"
            );
            assert!(!error.contains('\n'), "{error}");
        }
        let nobody = judge("[[bar]]\nwhat = \"x\"\nof = {}\n", &[]).unwrap_err();
        assert!(nobody.to_string().contains(":1: of: whose?"), "{nobody}");
    }

    #[test]
    fn bars_that_nothing_was_measured_for_are_no_success() {
        let error = judge(BARS, &[run("", "b", 1.0, 60)]).unwrap_err();
        assert!(
            error.to_string().ends_with("no bar is about these files"),
            "{error}"
        );
    }
}
