//! Findings as lines for people and as JSON, a line each; and which of them fail a run. Runs nothing.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::case::{Case, Finding, Level, Outcome};

/// What a run is measured by: which failures count.
#[derive(Debug, Clone, Default)]
pub struct Measure {
    /// Whether a SHOULD that is not kept fails the run, and administration that does otherwise.
    pub strict: bool,
    /// Failures that are known: a case, and the ring format if it is only about that one.
    pub known: Vec<(String, Option<String>)>,
}

/// What a finding is for a run.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It passed.
    Pass,
    /// It failed, and so does the run.
    Fail,
    /// A SHOULD is not kept, or something is not as it usually is: administration, or what a network does.
    Warn,
    /// It failed as it is known to.
    KnownFail,
    /// It is known to fail and has passed: the list of known failures is out of date, and the run fails.
    UnexpectedPass,
    /// It was not run, because of something that it needs.
    Skip,
    /// Nothing can be said.
    NotJudged,
}

impl Standing {
    /// Whether the run fails with it.
    pub fn fails(self) -> bool {
        matches!(self, Standing::Fail | Standing::UnexpectedPass)
    }

    /// Its word in a line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Standing::Pass => "pass",
            Standing::Fail => "FAIL",
            Standing::Warn => "warn",
            Standing::KnownFail => "known",
            Standing::UnexpectedPass => "XPASS",
            Standing::Skip => "skip",
            Standing::NotJudged => "none",
        }
    }
}

/// A list of known failures that says something else than a case in a line.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct KnownError {
    /// Where, from 1 on.
    line: usize,
    what: String,
}

impl Measure {
    /// Reads known failures: a case in a line, with `split` or `packed` behind it if only one ring format is meant; `#` begins a
    /// comment.
    ///
    /// # Errors
    /// [`KnownError`] at a line that names no case, or something behind it that is no ring format.
    pub fn know(&mut self, text: &str) -> Result<(), KnownError> {
        for (line, said) in (1..).zip(text.lines()) {
            let wrong = |what| KnownError { line, what };
            let mut words = said
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let Some(id) = words.next() else {
                continue;
            };
            if !crate::cases::all().any(|case| case.id == id) {
                return Err(wrong(format!("there is no case {id}")));
            }
            let ring = words.next().map(str::to_owned);
            if let Some(more) = words.next() {
                return Err(wrong(format!(
                    "{more} is one word too many: a line a ring format"
                )));
            }
            if let Some(other) = ring
                .iter()
                .find(|ring| *ring != "split" && *ring != "packed")
            {
                return Err(wrong(format!("{other} is no ring format: split or packed")));
            }
            self.known.push((id.to_owned(), ring));
        }
        Ok(())
    }

    /// What `finding` is for the run.
    pub fn standing<B>(&self, finding: &Finding<B>) -> Standing {
        let ring = finding.format.to_string();
        let known = self.known.iter().any(|(id, only)| {
            id == finding.case.id && only.as_ref().is_none_or(|only| *only == ring)
        });
        match (&finding.outcome, finding.level()) {
            (Outcome::Passed(_), _) if known => Standing::UnexpectedPass,
            (Outcome::Passed(_), _) => Standing::Pass,
            (Outcome::Failed(_), _) if known => Standing::KnownFail,
            (Outcome::Failed(_), Level::Should | Level::Model) if !self.strict => Standing::Warn,
            (Outcome::Failed(_), _) => Standing::Fail,
            (Outcome::Skipped(_), _) => Standing::Skip,
            (Outcome::NotJudged(_), _) => Standing::NotJudged,
        }
    }
}

/// What a file of findings begins with.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Heading {
    /// What the subject is called.
    pub subject: String,
    /// The suite's version.
    pub suite: String,
    /// What the suite found out about the subject.
    pub found: String,
}

impl Heading {
    /// Writes it as a JSON object in a line.
    pub fn json_line(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }
}

/// A finding as a record.
#[derive(Debug, serde::Serialize)]
struct Record<'a> {
    id: &'a str,
    ring: String,
    level: Level,
    source: &'a str,
    outcome: Standing,
    detail: String,
    seconds: f64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    messages: &'a [String],
}

/// What is to be said of how a case ended.
pub(crate) fn detail<B>(finding: &Finding<B>) -> String {
    match &finding.outcome {
        Outcome::Passed(seen) => match &finding.beside {
            Some(why) => format!("{seen} alone; beside others: {why}"),
            None => seen.to_string(),
        },
        Outcome::Failed(failure) => failure.to_string(),
        Outcome::Skipped(reason) | Outcome::NotJudged(reason) => reason.clone(),
    }
}

/// Whether the subject did something else than the case expects, whatever the run is measured by.
pub fn is_failure<B>(finding: &Finding<B>) -> bool {
    matches!(finding.outcome, Outcome::Failed(_))
}

/// One line for one finding; of a failure that counts, what was expected and said, and with `again` the command that runs it alone.
pub fn line<B>(
    finding: &Finding<B>,
    measure: &Measure,
    again: Option<&str>,
    out: &mut impl Write,
) -> io::Result<()> {
    let standing = measure.standing(finding);
    let case = finding.case;
    writeln!(
        out,
        "{:<5} {:<36} {:<6} {:<6} {}",
        standing.word(),
        case.id,
        finding.format,
        finding.level().to_string(),
        detail(finding)
    )?;
    if !matches!(standing, Standing::Fail | Standing::Warn) {
        return Ok(());
    }
    writeln!(out, "      sent:     {}", case.sent)?;
    writeln!(out, "      expected: {} [{}]", case.expected, case.source)?;
    messages(finding, out)?;
    if let Some(again) = again {
        writeln!(
            out,
            "      alone:    {again} --ring {} {}",
            finding.format, case.id
        )?;
    }
    Ok(())
}

/// The last messages of a finding, a line each.
pub fn messages<B>(finding: &Finding<B>, out: &mut impl Write) -> io::Result<()> {
    finding
        .said
        .iter()
        .try_for_each(|message| writeln!(out, "      {message}"))
}

/// How many there are of each kind, and why some were skipped.
pub fn summary<B>(
    findings: &[Finding<B>],
    measure: &Measure,
    out: &mut impl Write,
) -> io::Result<()> {
    let count = |wanted: Standing| {
        let of_kind = findings.iter().filter(|f| measure.standing(f) == wanted);
        of_kind.count()
    };
    write!(
        out,
        "{} passed, {} failed, {} skipped",
        count(Standing::Pass),
        count(Standing::Fail),
        count(Standing::Skip)
    )?;
    for (standing, words) in [
        (Standing::Warn, "SHOULDs not kept or done otherwise"),
        (Standing::KnownFail, "failed as known"),
        (Standing::UnexpectedPass, "passed that are known to fail"),
        (Standing::NotJudged, "not judged"),
    ] {
        match count(standing) {
            0 => {}
            n => write!(out, ", {n} {words}")?,
        }
    }
    writeln!(out)?;
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in findings {
        if let Outcome::Skipped(reason) | Outcome::NotJudged(reason) = &finding.outcome {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    reasons
        .iter()
        .try_for_each(|(reason, n)| writeln!(out, "  {n:>3} {reason}"))
}

/// One finding as a JSON object in a line.
pub fn json_line<B>(
    finding: &Finding<B>,
    measure: &Measure,
    out: &mut impl Write,
) -> io::Result<()> {
    let failed = is_failure(finding);
    let record = Record {
        id: finding.case.id,
        ring: finding.format.to_string(),
        level: finding.level(),
        source: finding.case.source,
        outcome: measure.standing(finding),
        detail: detail(finding),
        seconds: finding.took.as_secs_f64(),
        messages: if failed { &finding.said } else { &[] },
    };
    serde_json::to_writer(&mut *out, &record)?;
    writeln!(out)
}

/// What a case is, as a JSON object in a line.
pub fn json_case<B>(case: &Case<B>, out: &mut impl Write) -> io::Result<()> {
    let needs: Vec<String> = case.needs.iter().map(ToString::to_string).collect();
    let record = serde_json::json!({
        "id": case.id,
        "level": case.level,
        "source": case.source,
        "needs": needs,
        "sent": case.sent,
        "expected": case.expected,
    });
    serde_json::to_writer(&mut *out, &record)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::{Failure, Seen};
    use std::time::Duration;
    use vf_guest::driver::Format;

    fn finding(id: &str, outcome: Outcome) -> Finding {
        Finding {
            case: crate::cases::all().find(|case| case.id == id).unwrap(),
            format: Format::Split,
            outcome,
            took: Duration::from_millis(5),
            said: vec!["a -> GET_FEATURES".into()],
            beside: None,
        }
    }

    #[test]
    fn what_fails_only_beside_others_is_told() {
        let finding = Finding {
            beside: Some("it did not".into()),
            ..finding("ring/order", Outcome::Passed(Seen::Conforms))
        };
        assert_eq!(
            detail(&finding),
            "conforms alone; beside others: it did not"
        );
    }

    fn wrong() -> Outcome {
        Outcome::Failed(Failure::Wrong("it did not".into()))
    }

    #[test]
    fn a_run_fails_by_what_it_is_measured_by() {
        let must = finding("ring/order", wrong());
        let should = finding("ring/event-idx-quiet", wrong());
        let passed = finding("ring/order", Outcome::Passed(Seen::Conforms));
        let mut measure = Measure::default();
        assert_eq!(measure.standing(&must), Standing::Fail);
        assert_eq!(measure.standing(&should), Standing::Warn);
        let lesser = |level| Failure::Lesser {
            level,
            what: "it ought to".into(),
        };
        let upon = |id, level| finding(id, Outcome::Failed(lesser(level)));
        let upon_should = upon("ring/order", Level::Should);
        assert_eq!(measure.standing(&upon_should), Standing::Warn);
        assert_eq!(
            measure.standing(&upon("ring/order", Level::Text)),
            Standing::Fail
        );
        // A case is never more binding than it says.
        assert_eq!(
            measure.standing(&upon("net/load", Level::Text)),
            Standing::Warn
        );
        measure.strict = true;
        assert_eq!(measure.standing(&should), Standing::Fail);
        assert_eq!(measure.standing(&upon_should), Standing::Fail);
        measure
            .know("# ours\nring/order split # since ever\n\n")
            .unwrap();
        assert_eq!(measure.standing(&must), Standing::KnownFail);
        assert_eq!(measure.standing(&passed), Standing::UnexpectedPass);
        let packed = Finding {
            format: Format::Packed,
            ..finding("ring/order", wrong())
        };
        assert_eq!(measure.standing(&packed), Standing::Fail);
        let said = measure
            .know("ring/order\nring/ordre")
            .unwrap_err()
            .to_string();
        assert_eq!(said, "line 2: there is no case ring/ordre");
        let said = measure.know("ring/order split packed").unwrap_err();
        assert_eq!(
            said.to_string(),
            "line 1: packed is one word too many: a line a ring format"
        );
        let said = measure.know("ring/order pcked").unwrap_err().to_string();
        assert_eq!(said, "line 1: pcked is no ring format: split or packed");
    }

    #[test]
    fn a_failure_says_what_was_sent_and_how_to_run_it_alone() {
        let mut out = Vec::new();
        let failed = finding("ring/order", wrong());
        line(
            &failed,
            &Measure::default(),
            Some("vf-conformance run --socket a"),
            &mut out,
        )
        .unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(
            lines[0],
            "FAIL  ring/order                           split  must   it did not"
        );
        assert_eq!(
            lines[1],
            "sent:     200 frames, kicked once; with IN_ORDER and without; three times at most."
        );
        assert!(
            lines[2].starts_with("expected: All are given back, with IN_ORDER in their order.")
        );
        assert!(lines[2].contains(" [V 6.2 Reserved Feature Bits"));
        assert_eq!(lines[3], "a -> GET_FEATURES");
        assert_eq!(
            lines[4],
            "alone:    vf-conformance run --socket a --ring split ring/order"
        );
    }

    #[test]
    fn a_summary_counts_why_cases_were_skipped() {
        let skipped = || finding("ring/order", Outcome::Skipped("needs a peer".into()));
        let mut out = Vec::new();
        let findings = [skipped(), skipped(), finding("ring/order", wrong())];
        summary(&findings, &Measure::default(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "0 passed, 1 failed, 2 skipped\n    2 needs a peer\n");
    }
}
