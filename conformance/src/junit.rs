//! Findings as JUnit, which build servers read. Decides nothing about what counts: [`Measure`] does.

use std::collections::BTreeMap;
use std::io::{self, Write};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::case::Finding;
use crate::report::{Measure, Standing, detail};

/// Writes all findings: a suite for each group of cases.
pub fn write(
    findings: &[Finding],
    measure: &Measure,
    subject: &str,
    out: impl Write,
) -> io::Result<()> {
    let mut report = Report::new("vf-conformance");
    let mut suites: BTreeMap<&str, TestSuite> = BTreeMap::new();
    for finding in findings {
        let (group, _) = finding
            .case
            .id
            .split_once('/')
            .unwrap_or((finding.case.id, ""));
        let text = detail(finding);
        let mut status = match measure.standing(finding) {
            standing if standing.fails() => TestCaseStatus::non_success(NonSuccessKind::Failure),
            Standing::Pass => TestCaseStatus::success(),
            _ => TestCaseStatus::skipped(),
        };
        status.set_message(text);
        let mut case = TestCase::new(format!("{} ({})", finding.case.id, finding.format), status);
        case.set_classname(subject).set_time(finding.took);
        suites
            .entry(group)
            .or_insert_with(|| TestSuite::new(group))
            .add_test_case(case);
    }
    report.add_test_suites(suites.into_values());
    report.serialize(out).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Outcome;
    use crate::verdict::{Failure, Seen};

    fn finding(id: &str, outcome: Outcome) -> Finding {
        Finding {
            case: crate::cases::all().find(|case| case.id == id).unwrap(),
            format: vf_guest::driver::Format::Split,
            outcome,
            took: std::time::Duration::from_millis(5),
            said: Vec::new(),
            beside: None,
        }
    }

    #[test]
    fn junit_has_a_suite_for_each_group() {
        let wrong = Outcome::Failed(Failure::Wrong("it did not".into()));
        let mut out = Vec::new();
        let passed = finding("net/runt", Outcome::Passed(Seen::Tolerated));
        write(
            &[finding("ring/order", wrong), passed],
            &Measure::default(),
            "x",
            &mut out,
        )
        .unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in [
            "<testsuite name=\"net\"",
            "<testsuite name=\"ring\"",
            "<failure message=\"it did not\"",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
