//! `vfnic check paths` beside traffic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vfnic::capture::paths::{Checked, Line};

use crate::control::command;
use crate::emulator::{Emulator, back_to_back};
use crate::host::{Host, await_progress, stream};

/// What `vfnic check paths` says with these options; it has to find no difference.
#[track_caller]
fn checked(emulator: &Emulator, options: &[&str]) -> Checked {
    let output = emulator.vfnic(&[&["check", "paths", "--json"], options].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    match serde_json::from_str(said.trim()).unwrap() {
        Line::Checked(checked) => checked,
        Line::Difference(found) => panic!("{found:?}"),
    }
}

#[test]
fn frames_that_pass_are_judged_again_and_the_paths_agree_whatever_is_changed_meanwhile() {
    let emulator = Emulator::with_config(&back_to_back(2));
    let a = Host::start(emulator.path("a-vf0.sock"), 1);
    let b = Host::start(emulator.path("b-vf0.sock"), 2);
    let (there, back) = (stream(&a, &b, 5001, None), stream(&b, &a, 5002, None));
    let filter = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 vf 1";
    command(&emulator, &format!("b {filter}"));
    let stop = AtomicBool::new(false);
    for paths in [["direct", "direct"], ["mediated", "auto"]] {
        for (nic, path) in ["a", "b"].iter().zip(paths) {
            command(&emulator, &format!("{nic} vf 0 set path {path}"));
        }
        await_progress(&b, there);
        await_progress(&a, back);
        std::thread::scope(|scope| {
            // Frames on their way were judged by the policy before.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for words in ["set mirror 1", "set mirror none"] {
                        command(&emulator, &format!("b vf 0 {words}"));
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            });
            let all = checked(&emulator, &["--seconds", "1", "--rate", "1000000"]);
            let of_a = checked(
                &emulator,
                &["--seconds", "0.3", "--rate", "100", "--nic", "a"],
            );
            stop.store(true, Ordering::Relaxed);
            assert!(all.frames > 100, "{all:?}");
            // A VF, the wire, and a second begun.
            assert!((1..=3 * 40).contains(&of_a.frames), "{of_a:?}");
        });
        stop.store(false, Ordering::Relaxed);
    }
}

#[test]
fn a_check_of_a_nic_without_frames_says_so_and_a_wrong_one_is_refused() {
    let emulator = Emulator::start(&[]);
    let output = emulator.vfnic(&["check", "paths", "--seconds", "0.05"]);
    assert_eq!(output.stdout, b"no frame has passed\n");
    assert!(output.status.success());
    for (options, says) in [
        (["--nic", "c"], "no NIC 'c'"),
        (
            ["--rate", "0"],
            "a whole number from 1 to 1000000 is wanted",
        ),
        (["--seconds", "soon"], "seconds are wanted, a number"),
    ] {
        let output = emulator.vfnic(&[&["check", "paths"][..], &options].concat());
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(says), "{said}");
    }
}
