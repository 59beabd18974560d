//! Several subjects beside each other, from the files that their findings were written to: the cases that not all of them pass. Judges
//! nothing again: of a case that was run several times the worst end counts.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use crate::case::Level;
use crate::cases;
use crate::report::{Heading, Standing};

/// What was found about one subject.
#[derive(Debug)]
pub struct Judged {
    heading: Heading,
    /// By case and ring format, the worst of all times that it was run.
    findings: BTreeMap<(String, String), Standing>,
}

/// What is read of a finding.
#[derive(Debug, serde::Deserialize)]
struct Found {
    id: String,
    ring: String,
    outcome: Standing,
}

impl Judged {
    /// Reads a file that `run --json` has written.
    ///
    /// # Errors
    /// A file that cannot be read, or has something else in it.
    pub fn read(path: &Path) -> io::Result<Judged> {
        let text = std::fs::read_to_string(path);
        text.and_then(|text| Judged::parse(&text))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    fn parse(text: &str) -> io::Result<Judged> {
        let wrong = |line: usize, error: serde_json::Error| {
            let what = format!("line {line} is none of 'vf-conformance run --json': {error}");
            io::Error::new(io::ErrorKind::InvalidData, what)
        };
        let mut lines = (1..).zip(text.lines());
        let (_, first) = lines.next().unwrap_or((1, ""));
        let heading = serde_json::from_str(first).map_err(|error| wrong(1, error))?;
        let mut findings = BTreeMap::new();
        for (n, line) in lines {
            let found: Found = serde_json::from_str(line).map_err(|error| wrong(n, error))?;
            let key = (found.id, found.ring);
            let worst = findings.entry(key).or_insert(found.outcome);
            *worst = severity(*worst, found.outcome);
        }
        Ok(Judged { heading, findings })
    }

    fn count(&self, wanted: Standing) -> usize {
        self.findings
            .values()
            .filter(|found| **found == wanted)
            .count()
    }
}

/// The worse of two ends.
fn severity(a: Standing, b: Standing) -> Standing {
    let rank = |standing| match standing {
        Standing::Fail => 6,
        Standing::UnexpectedPass => 5,
        Standing::KnownFail => 4,
        Standing::Warn => 3,
        Standing::NotJudged => 2,
        Standing::Skip => 1,
        Standing::Pass => 0,
    };
    if rank(b) > rank(a) { b } else { a }
}

/// All cases, those for back ends first.
fn listed() -> impl Iterator<Item = (&'static str, Level)> {
    let back_ends = cases::all().map(|case| (case.id, case.level));
    #[cfg(feature = "cli")]
    let all = back_ends.chain(
        crate::front_end::CASES
            .iter()
            .map(|case| (case.id, case.level)),
    );
    #[cfg(not(feature = "cli"))]
    let all = back_ends;
    all
}

/// Writes the table: what each subject is, how many cases ended how, and a row for each case that not all pass.
pub fn write(subjects: &[Judged], out: &mut impl Write) -> io::Result<()> {
    for Judged { heading, .. } in subjects {
        writeln!(
            out,
            "- **{}** (suite {}): {}",
            heading.subject, heading.suite, heading.found
        )?;
    }
    writeln!(out)?;
    let cells = |cells: Vec<String>| cells.join(" | ");
    let names = subjects.iter().map(|s| s.heading.subject.clone()).collect();
    writeln!(out, "| case | level | rings | {} |", cells(names))?;
    writeln!(out, "|---|---|---|{}", "---|".repeat(subjects.len()))?;
    let totals = subjects.iter().map(|s| {
        let [pass, fail, warn] =
            [Standing::Pass, Standing::Fail, Standing::Warn].map(|wanted| s.count(wanted));
        format!(
            "{pass} pass, {fail} fail, {warn} warn of {}",
            s.findings.len()
        )
    });
    writeln!(out, "| *all* | | | {} |", cells(totals.collect()))?;
    for (id, level) in listed() {
        for ring in ["split", "packed"] {
            let key = (id.to_owned(), ring.to_owned());
            let ends: Vec<_> = subjects.iter().map(|s| s.findings.get(&key)).collect();
            let told = [
                Standing::Fail,
                Standing::Warn,
                Standing::NotJudged,
                Standing::KnownFail,
            ];
            if !ends.iter().flatten().any(|end| told.contains(*end)) {
                continue;
            }
            let words = ends.iter().map(|end| match end {
                Some(end @ (Standing::Fail | Standing::Warn)) => format!("**{}**", end.word()),
                Some(end) => end.word().to_owned(),
                None => "-".to_owned(),
            });
            writeln!(
                out,
                "| {id} | {level} | {ring} | {} |",
                cells(words.collect())
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(subject: &str, lines: &[&str]) -> Judged {
        let heading =
            format!(r#"{{"subject":"{subject}","suite":"0.1.0","found":"frames come back"}}"#);
        Judged::parse(&[&[&heading[..]], lines].concat().join("\n")).unwrap()
    }

    #[test]
    fn what_not_all_pass_is_a_row_and_the_worst_of_several_times_counts() {
        let pass = r#"{"id":"ring/order","ring":"split","outcome":"pass"}"#;
        let fail = r#"{"id":"ring/order","ring":"split","outcome":"fail"}"#;
        let skip = r#"{"id":"net/runt","ring":"split","outcome":"skip"}"#;
        let subjects = [judged("a", &[pass, fail, pass]), judged("b", &[pass, skip])];
        let mut out = Vec::new();
        write(&subjects, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<&str> = text.lines().skip(5).collect();
        assert_eq!(
            rows,
            [
                "| *all* | | | 0 pass, 1 fail, 0 warn of 1 | 1 pass, 0 fail, 0 warn of 2 |",
                "| ring/order | must | split | **FAIL** | pass |",
            ]
        );
        assert!(Judged::parse("{}").is_err());
    }
}
