//! What `vf-conformance` says to whoever calls it wrong, or calls it where nobody is: a line, and nothing of theirs is lost.

// All of it is test code; what is not a `#[test]` itself only serves one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// Exit code and what was said, which is a line.
fn refused(args: &[&str]) -> String {
    let suite = Command::new(env!("CARGO_BIN_EXE_vf-conformance"))
        .args(args)
        .output();
    let output = suite.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    said
}

#[test]
fn wrong_words_are_a_line_each() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let empty = empty.to_str().unwrap();
    for (args, says) in [
        (&["explian"][..], "'explain'"),
        (&["run"], "--socket <PATH>"),
        (&["run", "--sockt", "x"], "'--socket'"),
        (
            &["run", "--socket", "x", "--repeat", "x"],
            "a whole number is wanted (see 'vf-conformance run --help')",
        ),
        (&["run", "--socket", "x", "--repeat", "0"], "--repeat"),
        (
            &["run", "--socket", "x", "--timeout", "1"],
            "--timeout is for --start",
        ),
        (&["run", "--socket", "x", "--timeout", "0"], "--timeout"),
        (&["run", "--socket", "x", "--level", "shall"], "must"),
        (
            &["table", empty],
            "empty: line 1 is none of 'vf-conformance run --json'",
        ),
    ] {
        let said = refused(args);
        assert!(said.contains(says), "{args:?}: {said}");
    }
}

#[test]
fn a_run_that_cannot_begin_leaves_files_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let [json, junit, socket] =
        ["f.json", "f.xml", "none.sock"].map(|name| dir.path().join(name).display().to_string());
    fs::write(&json, "mine").unwrap();
    refused(&[
        "run", "--socket", &socket, "--json", &json, "--junit", &junit,
    ]);
    assert_eq!(fs::read_to_string(&json).unwrap(), "mine");
    assert!(!fs::exists(&junit).unwrap());
    let listen = [
        "front-end",
        "--listen",
        "/no/such/folder/s",
        "--json",
        &json,
    ];
    refused(&listen);
    assert_eq!(fs::read_to_string(&json).unwrap(), "mine");
    // Nor is anything begun whose findings could not be kept.
    let said = refused(&[
        "run",
        "--socket",
        &socket,
        "--junit",
        "/no/such/folder/f.xml",
    ]);
    assert!(said.contains("/no/such/folder/f.xml"), "{said}");
}

#[test]
fn a_back_end_that_does_not_come_is_waited_for_as_long_as_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("a.sock").display().to_string();
    let begun = Instant::now();
    for _ in 0..2 {
        let said = refused(&["run", "--socket", &socket, "--listen", "--timeout", "1"]);
        assert!(
            said.contains("nobody has connected to") && said.contains("within 1s"),
            "{said}"
        );
        assert!(!fs::exists(&socket).unwrap());
    }
    let start = ["--start", "sleep 90", "--timeout", "1"];
    let said = refused(&[&["run", "--socket", &socket], &start[..]].concat());
    assert!(said.contains("within 1s"), "{said}");
    // Else each would have been waited for a minute.
    assert!(begun.elapsed() < Duration::from_secs(55));
}

#[test]
fn a_front_end_that_cannot_be_started_is_not_passed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("f.sock");
    let socket = socket.to_str().unwrap();
    let start = "/nonexistent/qemu {socket}";
    let said = refused(&["front-end", "--listen", socket, "--start", start]);
    assert!(said.contains("cases nothing can be said"), "{said}");
}
