//! What `vf-conformance compare --bars` says to the script that called it. Measures nothing: the files are made up.

use std::fs;
use std::process::Command;

#[test]
fn bars_met_missed_and_wrong_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let figures = dir.path().join("idle.json");
    let measured =
        r#"{ "part": "idle", "label": "vfnic", "ports": 64, "figures": { "cpu": 0.4 } }"#;
    fs::write(&figures, measured).unwrap();
    let judged = |limit: &str| {
        let bars = dir.path().join("bars.toml");
        let bar = format!(
            "[[bar]]\nwhat = \"idle\"\nfigure = \"cpu\"\nof = {{ label = \"vfnic\" }}\n{limit}\n"
        );
        fs::write(&bars, bar).unwrap();
        let mut compare = Command::new(env!("CARGO_BIN_EXE_vf-conformance"));
        let compare = compare.args(["compare", "--bars"]).args([&bars, &figures]);
        let output = compare.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (status, table, _) = judged("at_most = 0.5");
    assert_eq!(status, Some(0));
    assert!(
        table.contains("| idle | <= 0.5 % | 0.4 % | - | - | met |"),
        "{table}"
    );
    let (status, table, _) = judged("at_most = 0.3");
    assert_eq!(status, Some(1));
    assert!(table.contains("| NOT MET |"), "{table}");
    let (status, _, error) = judged("at_mots = 0.3");
    assert_eq!(status, Some(2));
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(
        error.contains("bars.toml:5: unknown field `at_mots`"),
        "{error}"
    );
}
