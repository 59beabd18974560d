//! The suite against the stock back end: what it passes, and that the known failures are found.

// Helpers are as much a test as the test that calls them.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use vf_conformance::bench::Bench;
use vf_conformance::case::{Case, Finding, Outcome};
use vf_conformance::cases;
use vf_conformance::report::{self, Measure};
use vf_conformance::runner::{self, Plan};
use vf_conformance::subject::Subject;

/// What `examples/stock-backend.rs` fails, and why.
const KNOWN_FAILURES: &[&str] = &[
    // The size of a ring is acknowledged and ignored.
    "proto/refusals-told",
    // A ring runs once it is enabled.
    "proto/start-on-kick",
    "proto/polled-rings",
    // It looks where a ring is when it starts.
    "proto/base-reserved-bits",
    "proto/used-ring-outside",
    // The flag is not looked at.
    "ring/no-interrupt-flag",
    "ring/call-for-discarded",
    // A broken chain looks like a short one.
    "ring/next-out-of-range",
    // The customary loop around `enable_notification` never ends, and with it the session.
    "ring/avail-jump",
    "ring/avail-backwards",
    // A disabled ring is left to the author.
    "net/tx-disabled-discards",
    "net/rx-disabled-silent",
    "net/tx-disabled-discards-all",
    // Its header has twelve bytes whatever was negotiated.
    "net/hdr-legacy",
    // The worker blocks in its write.
    "robust/pipe-as-call-fd",
    "robust/saturated-call-fd",
    // The process dies of SIGBUS.
    "robust/memfd-short",
    "robust/memfd-truncate",
    // A descriptor a session.
    "robust/leaks",
    "robust/memfd-hole-punch",
    // What is sent on a disabled ring is kept.
    "proto/enabled-is-kept",
    // RESET_OWNER discards the features that were acknowledged.
    "proto/reset-owner-harmless",
];

/// What it fails not in every run: it may go on listening to the old kick descriptor when it is given a new one, and then leaves a
/// frame (rust-vmm/vhost #227); it ends where it has no descriptor for its next session, if that is when they are few; and it
/// ends at an available index that jumps, if it sees one of those that come and go.
const SOMETIMES: [&str; 3] = [
    "proto/set-kick-keeps-enabled",
    "robust/fd-exhaustion",
    "ring/index-tearing",
];

fn program() -> &'static str {
    env!("CARGO_BIN_EXE_vf-conformance")
}

/// Back ends that are judged at the same time.
const PARTS: usize = 4;

/// Judges a back end of its own by these cases.
fn judge(chosen: &[&'static Case]) -> Vec<Finding> {
    judge_started(chosen, |backend, socket| [backend, socket].into())
}

/// The same, started by a command that is made of its program and its socket.
fn judge_started(
    chosen: &[&'static Case],
    command: impl FnOnce(String, String) -> Vec<String>,
) -> Vec<Finding> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("stock.sock");
    // Examples are built along with tests, beside the programs.
    let backend = Path::new(program()).with_file_name("examples/stock-backend");
    let [backend, path] = [&backend, &socket].map(|part| part.to_str().unwrap().to_owned());
    let subject = Subject {
        socket,
        command: command(backend, path),
        ..Subject::default()
    };
    let mut bench = Bench::new(subject).unwrap();
    runner::run(&mut bench, chosen, &Plan::default(), |_| {}).unwrap()
}

#[test]
fn the_stock_back_end_fails_where_it_is_known_to() {
    let chosen = cases::matching(&[]);
    // Most of the time the suite waits for what must not come.
    let findings: Vec<_> = std::thread::scope(|scope| {
        let parts = chosen.chunks(chosen.len().div_ceil(PARTS));
        let parts: Vec<_> = parts.map(|part| scope.spawn(|| judge(part))).collect();
        let parts = parts.into_iter().map(|part| part.join().unwrap());
        parts.flatten().collect()
    });
    let failed: Vec<_> = findings
        .iter()
        .filter(|f| report::is_failure(f))
        .map(|f| f.case.id)
        .filter(|id| !SOMETIMES.contains(id))
        .collect();
    assert_eq!(failed, KNOWN_FAILURES);
    for finding in &findings {
        if let Outcome::Skipped(reason) = &finding.outcome {
            assert!(reason.starts_with("needs "), "{reason}");
        }
    }
    let measure = Measure::default();
    let mut json = Vec::new();
    for finding in &findings {
        report::json_line(finding, &measure, &mut json).unwrap();
    }
    let records: Vec<serde_json::Value> = serde_json::Deserializer::from_slice(&json)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(records.len(), chosen.len());
    let failed = records.iter().filter(|r| r["outcome"] == "fail").count();
    let must = findings
        .iter()
        .filter(|f| measure.standing(f).fails())
        .count();
    assert_eq!(failed, must);
}

#[test]
fn what_a_script_has_started_is_looked_at_and_not_the_script() {
    let chosen = cases::matching(&["robust/leaks".into()]);
    let findings = judge_started(&chosen, |backend, socket| {
        let script = format!("'{backend}' '{socket}'; true");
        ["sh", "-c", &script].map(str::to_owned).into()
    });
    // The stock back end's descriptors, which it is known to leave.
    assert!(findings.iter().all(report::is_failure), "{findings:?}");
}

#[test]
fn wrong_usage_and_an_absent_subject_are_told_apart_from_failures() {
    let status = |args: &[&str]| {
        let output = Command::new(program()).args(args).output().unwrap();
        output.status.code()
    };
    assert_eq!(status(&["list"]), Some(0));
    assert_eq!(status(&["run"]), Some(2));
    assert_eq!(status(&["run", "--socket", "/nonexistent/socket"]), Some(2));
    assert_eq!(
        status(&["run", "--socket", "/nonexistent", "no/such-case"]),
        Some(2)
    );
    assert_eq!(status(&["explain", "ring/order"]), Some(0));
    assert_eq!(status(&["explain", "ring/ordre"]), Some(2));
    assert_eq!(status(&["list", "--json", "ring/"]), Some(0));
    assert_eq!(status(&["run", "--socket", "x", "--start", "'"]), Some(2));
    assert_eq!(status(&["run", "--socket", "x", "--mac", "02:00"]), Some(2));
}
