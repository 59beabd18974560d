//! `vfnic top` on a terminal of script(1): it ends when it is told to, when the terminal goes, and when there is nothing to look at.

use std::fs;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::emulator::{Emulator, wait_for};

/// Starts one on a terminal of script(1).
fn top(emulator: &Emulator, more: &str) -> Child {
    let ctl = emulator.ctl();
    let ctl = ctl.to_str().unwrap();
    let line = format!(
        "exec {} top --ctl {ctl} {more}",
        env!("CARGO_BIN_EXE_vfnic")
    );
    Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1), of util-linux")
}

/// The process that draws: the one below script(1).
fn drawing(script: &Child) -> Pid {
    let children = format!("/proc/{0}/task/{0}/children", script.id());
    let comm = |pid: &str| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let pid = wait_for("top draws", || {
        let children = fs::read_to_string(&children).unwrap_or_default();
        let vfnic = children
            .split_whitespace()
            .find(|pid| comm(pid) == "vfnic\n")?;
        // It catches signals from then on.
        let status = fs::read_to_string(format!("/proc/{vfnic}/status")).ok()?;
        let caught = status
            .lines()
            .find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught >> (Signal::TERM.as_raw() - 1) & 1 == 1).then(|| vfnic.parse().unwrap())
    });
    Pid::from_raw(pid).unwrap()
}

fn is_gone(pid: Pid) -> Option<()> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    // One that nobody has asked about has ended, too.
    stat.map_or(true, |stat| stat.contains(") Z "))
        .then_some(())
}

#[test]
fn it_ends_with_its_terminal_and_when_it_is_told_to() {
    let emulator = Emulator::start(&[]);
    for told in [Some(Signal::TERM), Some(Signal::INT), None] {
        let mut script = top(&emulator, "");
        let pid = drawing(&script);
        match told {
            Some(signal) => kill_process(pid, signal).unwrap(),
            // Its end of the terminal goes.
            None => script.kill().unwrap(),
        }
        wait_for("top ends", || is_gone(pid));
        let _ = script.kill();
        script.wait().unwrap();
    }
}

#[test]
fn a_nic_that_is_not_there_is_told_with_those_that_are() {
    let emulator = Emulator::start(&[]);
    let script = top(&emulator, "--nic foo");
    let output = script.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no NIC 'foo': there is nic0"), "{said}");
}
