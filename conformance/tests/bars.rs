//! The verdicts of examples/against-peers: what counts as met, and which rounds count.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::process::{Command, Stdio};

/// A line of `vf-conformance compare --tsv` behind its part: one round of one back end on one ring.
fn round(label: &str, bytes: u32, round: u32, mpps: &str, bound: &str, line_ns: u32) -> String {
    let cycles = if label == "vfnic" { 150 } else { 180 };
    format!(
        "rings\toneway\t2\t2\t1\tsplit-vec\t{bytes}\t{label}\t{round}\t{mpps}\t-\t0.001\t-\t{cycles}\t{bound}\t{line_ns}\t{line_ns}\n"
    )
}

fn table(lines: &[String]) -> Option<String> {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/against-peers/bars.awk"
    );
    let mut awk = Command::new("awk");
    awk.args(["-f", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let Ok(mut awk) = awk.spawn() else {
        eprintln!("skipped, because there is no awk");
        return None;
    };
    let mut input = awk.stdin.take().unwrap();
    input.write_all(lines.concat().as_bytes()).unwrap();
    drop(input);
    let output = awk.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_bar_is_met_by_rounds_that_compare_or_by_cycles_where_the_generator_is_the_limit() {
    let lines = [
        // Two rounds that compare, and one in which the CPUs were apart for one of both.
        round("vfnic", 64, 0, "22.0", "back-end", 60),
        round("testpmd-io", 64, 0, "20.0", "back-end", 62),
        round("vfnic", 64, 1, "20.4", "back-end", 60),
        round("testpmd-io", 64, 1, "20.0", "back-end", 60),
        round("vfnic", 64, 2, "5.0", "back-end", 300),
        round("testpmd-io", 64, 2, "20.0", "back-end", 60),
        round("vfnic", 128, 0, "19.0", "back-end", 60),
        round("testpmd-io", 128, 0, "20.0", "back-end", 60),
        // What does not compare with the same round may compare with another.
        round("vfnic", 128, 1, "6.0", "back-end", 300),
        round("testpmd-io", 128, 1, "20.0", "back-end", 100),
        round("testpmd-io", 128, 2, "5.0", "back-end", 300),
        // Slower, but the generator could not send more; and as many cycles as the bar allows.
        round("vfnic", 512, 0, "10.0", "generator", 60),
        round("testpmd-io", 512, 0, "20.0", "back-end", 60),
        round("vfnic", 1518, 0, "6.0", "back-end", 300),
        round("testpmd-io", 1518, 0, "4.0", "back-end", 60),
    ];
    let Some(table) = table(&lines) else { return };
    let row = |bytes: u32| {
        let start = format!("| split-vec | {bytes} |");
        let row = table.lines().find(|line| line.starts_with(&start));
        row.unwrap_or_else(|| panic!("{start}: {table}")).to_owned()
    };
    assert!(row(64).contains("| 1.06: 1.02..1.10 |"), "{}", row(64));
    assert!(row(64).ends_with("| met |"), "{}", row(64));
    assert!(row(128).contains("| 1.07: 0.95..1.20 |"), "{}", row(128));
    assert!(row(128).ends_with("| met |"), "{}", row(128));
    assert!(row(512).ends_with("| NOT MET by cycles |"), "{}", row(512));
    assert!(row(1518).ends_with("| not comparable |"), "{}", row(1518));
    // Loss is one more.
    assert!(
        table.contains("of 5 bars 3 met, 1 not, 1 not comparable"),
        "{table}"
    );
}
