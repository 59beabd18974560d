//! The jail of `vfnic run`: every thread is in it, and whatever a user of it may ask for later goes on working there. What each
//! kind of thread is refused is in the unit tests of `vf-nic`'s `sandbox`.

use std::fs;

use crate::emulator::{Emulator, wait_for};
use crate::port::{Port, pass};

/// A line of each thread's status by the thread's name.
pub(crate) fn of_threads(emulator: &Emulator, key: &str) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{}/task", emulator.pid())).unwrap();
    let threads = tasks.filter_map(|task| {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.unwrap().path().join("status")).ok()?;
        let line = |key: &str| {
            let mut lines = status.lines();
            Some(lines.find_map(|l| l.strip_prefix(key))?.trim().to_owned())
        };
        Some((line("Name:")?, line(key)?))
    });
    threads.collect()
}

#[test]
fn every_thread_is_confined() {
    let emulator = Emulator::start(&["--metrics", "127.0.0.1:0"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    pass(&mut a, &mut b);
    let names = [
        "vfnic", "dp0", "hyp-nic0", "log", "signals", "metrics", "state", "watchdog",
    ];
    // They go there by themselves, when they have been started.
    wait_for("all are confined", || {
        let filtered = of_threads(&emulator, "Seccomp:");
        let is_there = |name: &&str| filtered.iter().any(|(thread, _)| thread == name);
        let all = names.iter().all(is_there) && filtered.iter().all(|(_, mode)| mode == "2");
        all.then_some(())
    });
    let keys = [
        ("NoNewPrivs:", "1"),
        ("CapEff:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
    ];
    for (key, expected) in keys {
        for (thread, value) in of_threads(&emulator, key) {
            assert_eq!(value, expected, "{key} {thread}");
        }
    }
    let log = emulator.log();
    for line in log.lines().filter(|line| line.contains("sandbox")) {
        assert!(line.contains("no Landlock"), "{line}");
        println!("skipped: files in the sandbox, because this kernel has no Landlock");
    }
}

#[test]
fn without_a_sandbox_the_log_says_so() {
    let emulator = Emulator::start(&["--no-sandbox"]);
    let filtered = of_threads(&emulator, "Seccomp:");
    // Whatever holds for this test holds for what it starts.
    let here = fs::read_to_string("/proc/self/status").unwrap();
    if here.contains("Seccomp:\t0") {
        assert!(filtered.iter().all(|(_, mode)| mode == "0"), "{filtered:?}");
    }
    wait_for("the log says so", || {
        emulator.log().contains("--no-sandbox").then_some(())
    });
}

#[test]
fn what_is_asked_for_later_works_in_the_sandbox() {
    let emulator = Emulator::start(&["--vfs", "4"]);
    // Sockets that are made and removed.
    emulator.does("link set numvfs 0");
    emulator.does("link set numvfs 4");
    emulator.does("vf 0 set trust on vlan 5");
    emulator.does("vf 0 set vlan 0");
    let state = fs::read_to_string(emulator.path("state.toml")).unwrap();
    assert!(state.contains("trust = true"), "{state}");
    // A thread that is started.
    let capture = emulator.path("capture.pcapng");
    let mut writer = std::process::Command::new(env!("CARGO_BIN_EXE_vfnic"))
        .arg("--ctl")
        .arg(emulator.ctl())
        .args(["capture", "vf", "0", "-w"])
        .arg(&capture)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let [mut a, mut b] = ["vf0.sock", "vf3.sock"].map(|s| Port::open(&emulator.path(s)));
    wait_for("frames are captured", || {
        pass(&mut a, &mut b);
        let written = fs::metadata(&capture).is_ok_and(|file| file.len() > 1000);
        written.then_some(())
    });
    writer.kill().unwrap();
    writer.wait().unwrap();
}
