//! `vfnic save`, and what is left of commands when the process is started again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vfnic::control::{NOT_KEPT, NicCommand, Request, Response, ask};

use crate::emulator::{BACK_TO_BACK, Emulator, vfnic, wait_for};

fn saved(emulator: &Emulator) -> String {
    let output = emulator.vfnic(&["save"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const SAID: [&str; 7] = [
    "--nic a vf 0-1 set vlan 7 trust on",
    "--nic a vf 1 set path mediated",
    "--nic b vf 0 mac add 02:00:00:00:00:99",
    "--nic b filter add flow-type ether proto 0x88b5 vf 1 loc 9",
    "--nic b link set down",
    "--nic a fdb add 02:00:00:00:00:77 self",
    "--nic a vf 0 request promisc on",
];

#[test]
fn what_is_saved_starts_the_same_again() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let before = saved(&emulator);
    for words in SAID {
        emulator.does(words);
    }
    let text = saved(&emulator);
    assert_ne!(before, text);
    assert!(!text.contains("promisc"), "{text}");
    for refused in [
        "--nic a vf 7 set vlan 3",
        "--nic a vf 0 vlan add 5",
        "--nic b filter add flow-type ether proto 0x88b6 vf 1 loc 9",
        "--nic c link set down",
    ] {
        let words: Vec<_> = refused.split(' ').collect();
        assert_eq!(emulator.vfnic(&words).status.code(), Some(2), "{refused}");
        assert_eq!(saved(&emulator), text, "{refused}");
    }
    // In the same place, when the first one has gone; its own state is not looked at.
    let file = emulator.path("saved.toml");
    fs::write(&file, &text).unwrap();
    let again = Emulator::with_config(&text.replace(
        emulator.ctl().parent().unwrap().to_str().unwrap(),
        "/nowhere",
    ));
    let same = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("socket_dir"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(same(&saved(&again)), same(&text));
    // The other end of the wire has lost its carrier there, too.
    let link = |emulator: &Emulator| emulator.show().nics[0].vfs[0].state.link.clone();
    assert_eq!(
        format!("{:?}", link(&again)),
        format!("{:?}", link(&emulator))
    );
}

#[test]
fn what_commands_have_said_is_there_after_a_restart() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let fresh = saved(&emulator);
    assert!(
        !emulator.path("state.toml").exists(),
        "nothing was said yet"
    );
    for words in SAID {
        emulator.does(words);
    }
    let text = saved(&emulator);
    let mode = fs::metadata(emulator.path("state.toml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    for how in ["kill", "terminate"] {
        match how {
            "kill" => emulator.kill(),
            _ => emulator.terminate("commands"),
        }
        emulator.restart();
        assert_eq!(saved(&emulator), text, "{how}");
    }
    assert!(
        emulator.log().contains("going on with"),
        "{}",
        emulator.log()
    );
    // With another configuration, that holds, and is told.
    emulator.kill();
    fs::write(
        emulator.path("nic.toml"),
        format!("threads = 2\n{BACK_TO_BACK}"),
    )
    .unwrap();
    emulator.restart();
    assert_eq!(
        saved(&emulator),
        fresh.replace("threads = 1", "threads = 2")
    );
    assert!(emulator.log().contains("the configuration has changed"));
    let aside = fs::read_to_string(emulator.path("state.toml.old")).unwrap();
    assert!(aside.contains(&text), "{aside}");
}

#[test]
fn without_a_state_nothing_is_kept() {
    let mut emulator = Emulator::start(&["--no-state"]);
    let fresh = saved(&emulator);
    emulator.does("vf 0 set vlan 7");
    emulator.kill();
    emulator.restart();
    assert_eq!(saved(&emulator), fresh);
    assert!(!emulator.path("state.toml").exists());
}

#[test]
fn a_foreign_state_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.toml");
    fs::write(&state, "[[nic]]\nname = 'mine'\n").unwrap();
    let output = vfnic(&["run", "--socket-dir", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(
        line.contains("no state of a vfnic") && line.lines().count() == 1,
        "{line}"
    );
    assert!(fs::read_to_string(&state).unwrap().contains("mine"));
}

#[test]
fn a_disk_that_takes_nothing_is_complained_of_once() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("state");
    let emulator = Emulator::start(&["--state", folder.to_str().unwrap()]);
    emulator.does("vf 0 set vlan 7");
    assert!(folder.join("state.toml").exists());
    // One that is made anew would not be the one that the sandbox leaves to vfnic.
    let away = state.path().join("away");
    fs::rename(&folder, &away).unwrap();
    for vlan in 8..12 {
        emulator.does(&format!("vf 0 set vlan {vlan}"));
    }
    let log = emulator.log();
    assert_eq!(log.matches("the NICs run on").count(), 1, "{log}");
    fs::rename(&away, &folder).unwrap();
    emulator.does("vf 0 set vlan 12");
    let text = fs::read_to_string(folder.join("state.toml")).unwrap();
    assert!(text.contains("vlan = 12"), "{text}");
}

#[test]
fn a_change_that_cannot_be_kept_is_answered_with_why() {
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().join("state");
    let emulator = Emulator::start(&["--state", folder.to_str().unwrap()]);
    let kept = |page: &str, n: u8| page.contains(&format!("\nvfnic_state_kept {n}\n"));
    let text = |args: &[&str]| String::from_utf8(emulator.vfnic(args).stdout).unwrap();
    assert!(kept(&text(&["show", "--openmetrics"]), 1));
    assert!(emulator.show().state.unwrap().kept);
    let away = state.path().join("away");
    fs::rename(&folder, &away).unwrap();
    let file = folder.join("state.toml").display().to_string();
    let why = format!("{NOT_KEPT}{file}: No such file or directory");
    for words in [
        "vf 0 set vlan 8",
        "link set mtu 1600",
        "filter add flow-type ether proto 0x88b5 vf 1",
        "vf 0 request promisc on",
    ] {
        let words: Vec<_> = words.split(' ').collect();
        let output = emulator.vfnic(&words);
        let [out, err] = [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        let said: Vec<_> = err.lines().filter(|line| line.contains(&why)).collect();
        assert_eq!(said.len(), 1, "{words:?}: {err}");
        assert!(!out.contains(NOT_KEPT), "{words:?}: {out}");
    }
    assert_eq!(emulator.vf(0, 0).settings["vlan"], "8");
    let show = emulator.show().state.unwrap();
    assert!(!show.kept && show.error.unwrap().contains(&file));
    assert!(text(&["show"]).contains(&format!("what commands change is not kept: {file}: ")));
    assert!(kept(&text(&["show", "--openmetrics"]), 0));
    // What was not kept is written as soon as it can be, though nobody says a thing.
    fs::rename(&away, &folder).unwrap();
    wait_for("it is kept", || emulator.show().state?.kept.then_some(()));
    let file = fs::read_to_string(folder.join("state.toml")).unwrap();
    assert!(
        file.contains("vlan = 8") && file.contains("mtu = 1600"),
        "{file}"
    );
    assert!(kept(&text(&["show", "--openmetrics"]), 1));
    let output = emulator.vfnic(&["vf", "0", "set", "vlan", "9"]);
    assert!(output.stderr.is_empty(), "{output:?}");
    assert!(!text(&["show"]).contains("not kept"));
}

#[test]
fn what_could_not_be_kept_is_kept_by_the_process_that_goes_on() {
    let mut emulator = Emulator::start(&[]);
    // The file cannot be made where a folder is.
    let in_the_way = emulator.path("state.toml.new");
    fs::create_dir(&in_the_way).unwrap();
    let output = emulator.vfnic(&["vf", "0", "set", "vlan", "8"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(NOT_KEPT), "{said}");
    emulator.upgrade();
    wait_for("the successor has tried", || {
        (!emulator.show().state?.kept).then_some(())
    });
    fs::remove_dir(&in_the_way).unwrap();
    wait_for("it is kept", || emulator.show().state?.kept.then_some(()));
    let text = fs::read_to_string(emulator.path("state.toml")).unwrap();
    assert!(text.contains("vlan = 8"), "{text}");
    emulator.kill();
    emulator.restart();
    assert_eq!(emulator.vf(0, 0).settings["vlan"], "8");
}

/// How often it is killed while commands come.
const KILLS: u64 = 12;

#[test]
fn killed_at_any_moment_it_has_the_state_before_or_after_a_command() {
    let mut emulator = Emulator::start(&[]);
    let kills = std::env::var("VFNIC_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut said = 0;
    for kill in 0..kills {
        let ctl = emulator.ctl();
        let done = AtomicU64::new(said);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Each says two things at once, until there is nobody to say them to.
                for n in said + 1.. {
                    let command = |vf| NicCommand {
                        nic: None,
                        words: format!("vf {vf} set max_tx_rate {n}")
                            .split(' ')
                            .map(str::to_owned)
                            .collect(),
                    };
                    let commands = vec![command(0), command(1)];
                    match ask(&ctl, &Request::Batch { commands }) {
                        Ok(Response::Done(_)) => done.store(n, Ordering::SeqCst),
                        Ok(other) => panic!("{other:?}"),
                        Err(_) => return,
                    }
                }
            });
            wait_for("a first command", || {
                (done.load(Ordering::SeqCst) > said).then_some(())
            });
            std::thread::sleep(Duration::from_micros(kill * 7919 % 20_000));
            emulator.kill();
        });
        let last = done.into_inner();
        emulator.restart();
        let rates = [0, 1].map(|vf| {
            emulator.vf(0, vf).settings["max_tx_rate"]
                .parse::<u64>()
                .unwrap()
        });
        assert_eq!(rates[0], rates[1], "half of a batch");
        assert!(
            (last..=last + 1).contains(&rates[0]),
            "{} after {last} was done",
            rates[0]
        );
        said = rates[0];
    }
}
