//! Findings as text and as JSON.

use std::io::{self, Write};

use crate::case::{Finding, Level, Outcome};

/// A finding as a record.
#[derive(Debug, serde::Serialize)]
struct Record<'a> {
    id: &'a str,
    ring: String,
    level: Level,
    source: &'a str,
    outcome: &'static str,
    detail: String,
    seconds: f64,
}

/// Word and detail of an outcome.
fn words(outcome: &Outcome) -> (&'static str, String) {
    match outcome {
        Outcome::Passed(seen) => ("pass", seen.to_string()),
        Outcome::Failed(failure) => ("fail", failure.to_string()),
        Outcome::Skipped(reason) => ("skip", reason.clone()),
        Outcome::Exited(status) => ("fail", format!("the back end's process ended: {status}")),
    }
}

/// Whether the finding counts against the subject.
pub fn is_failure(finding: &Finding) -> bool {
    matches!(finding.outcome, Outcome::Failed(_) | Outcome::Exited(_))
}

/// One line for one finding.
pub fn line(finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let (word, detail) = words(&finding.outcome);
    writeln!(
        out,
        "{word}  {:<32} {:<6} {:<6} {detail}",
        finding.case.id,
        finding.format,
        finding.case.level.to_string()
    )
}

/// How many passed, failed and were skipped.
pub fn summary(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let failed = findings.iter().filter(|f| is_failure(f)).count();
    let skipped = findings
        .iter()
        .filter(|f| matches!(f.outcome, Outcome::Skipped(_)))
        .count();
    let passed = findings.len() - failed - skipped;
    writeln!(out, "{passed} passed, {failed} failed, {skipped} skipped")
}

/// All findings as a JSON array.
pub fn json(findings: &[Finding], out: impl Write) -> io::Result<()> {
    let records: Vec<_> = findings
        .iter()
        .map(|finding| {
            let (outcome, detail) = words(&finding.outcome);
            Record {
                id: finding.case.id,
                ring: finding.format.to_string(),
                level: finding.case.level,
                source: finding.case.source,
                outcome,
                detail,
                seconds: finding.took.as_secs_f64(),
            }
        })
        .collect();
    serde_json::to_writer_pretty(out, &records).map_err(io::Error::from)
}
