//! What a suite has started does not outlive it: neither a subject nor what that has started itself.

#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vf_conformance::group::Group;

/// Far more than is needed, and far less than what is started here would last.
const DEADLINE: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Whether a process is there, and not only its exit status.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_group_that_is_dropped_takes_along_what_it_has_started() {
    let mut command = shell("sleep 600 & sleep 600");
    let mut group = Group::spawn(command.stdout(Stdio::piped())).unwrap();
    assert_eq!(group.id(), group.child().id());
    assert!(group.exited().unwrap().is_none());
    // The pipe is open at its other end as long as any of them lives.
    let mut output = group.child().stdout.take().unwrap();
    let (tell, ended) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        let _ = tell.send(output.read_to_end(&mut all));
    });
    assert!(ended.recv_timeout(Duration::from_millis(50)).is_err());
    drop(group);
    assert!(ended.recv_timeout(DEADLINE).is_ok());
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    let refused = Group::spawn(&mut Command::new("/no/such/back-end")).unwrap_err();
    assert!(
        refused.to_string().starts_with("/no/such/back-end: "),
        "{refused}"
    );
}

/// A suite whose subject never listens, the script of which writes the ids of its processes to `ids`.
fn suite(dir: &Path) -> (Group, Vec<String>) {
    let ids = dir.join("ids");
    // Neither of the two ends when it is asked to.
    let subject = format!(
        "sh -c 'trap \"\" TERM INT HUP; sleep 600 & echo $$ $! >{0}.new; mv {0}.new {0}; wait; sleep 600'",
        ids.display()
    );
    let mut suite = Command::new(env!("CARGO_BIN_EXE_vf-conformance"));
    suite.arg("run").arg("--socket").arg(dir.join("none.sock"));
    suite
        .arg("--start")
        .arg(subject)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let suite = Group::spawn(&mut suite).unwrap();
    wait_until("the subject is started", || ids.exists());
    let both = std::fs::read_to_string(ids).unwrap();
    let both: Vec<String> = both.split_whitespace().map(str::to_owned).collect();
    assert!(
        both.len() == 2 && both.iter().all(|pid| lives(pid)),
        "{both:?}"
    );
    (suite, both)
}

#[test]
fn a_suite_that_is_ended_by_a_signal_ends_its_subject() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut suite, subject) = suite(dir.path());
        let pid = Pid::from_child(suite.child());
        // To the suite alone: its subject leads a group of its own.
        kill_process(pid, signal).unwrap();
        let mut ended = None;
        wait_until("the suite ends", || {
            ended = suite.exited().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.and_then(|status| status.code()), Some(status));
        for pid in &subject {
            wait_until("what it has started ends", || !lives(pid));
        }
    }
}
