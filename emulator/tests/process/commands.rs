//! Wrong words: one line, exit code 2, nothing changed.

use std::process::Output;

use crate::emulator::{BACK_TO_BACK, Emulator, vfnic};

/// Asserts exit code 2 and one line on standard error, and returns the line.
#[track_caller]
fn refused(what: &str, output: &Output) -> String {
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{what}: {line}");
    assert_eq!(line.lines().count(), 1, "{what}: {line}");
    assert!(
        line.starts_with("vfnic: ") && line.len() > 20,
        "{what}: {line}"
    );
    assert!(output.stdout.is_empty(), "{what}");
    line
}

#[test]
fn wrong_commands_change_nothing() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    emulator.does("--nic a vf 1 set vlan 7 qos 3 max_tx_rate 100");
    let said = emulator.settled();
    // As ip-link(8) has it: the same.
    emulator.does("link set dev a vf 1 vlan 7 qos 3 rate 100");
    assert_eq!(emulator.settled(), said);
    // There is something of everything to lose.
    for words in [
        "--nic a vf 0 mac add 02:00:00:00:00:99",
        "--nic a vf 0 vlan add 100-119",
        "--nic a vf 0 rss weight 3 1",
        "--nic a vf 0 request promisc on",
        "--nic a filter add flow-type ether proto 0x88b5 vf 1",
        "--nic a fdb add 02:00:00:00:00:55 self",
        "--nic a link set mtu 4000",
    ] {
        emulator.does(words);
    }
    let before = emulator.settled();
    for (words, says) in [
        ("vf 0 set path direct", "--nic"),
        ("--nic c vf 0 set path mediated", "'c'"),
        ("--nic a vf 2 set path mediated", "0 to 1"),
        ("--nic a vf x set path mediated", "'x'"),
        ("--nic a vf 0 set path sideways", "sideways"),
        ("--nic a vf 0 set path", "direct, mediated or auto"),
        ("--nic a vf 0 set", "path"),
        ("--nic a vf 0 set speed 3", "speed"),
        ("--nic a vf 0 set vlan 4095", "4094"),
        ("--nic a vf 0 set mac 01:00:5e:00:00:01", "unicast"),
        ("--nic a vf 0 set mac 02:00", "02:00"),
        ("--nic a vf 0 set qos 3", "vlan"),
        // The first part is right: all of it or nothing.
        ("--nic a vf 0 set trust on spoofchk off path none", "none"),
        ("--nic a vf 0 set trust on vlan 5000", "4094"),
        ("--nic a vf 0 set trust on qos 1", "vlan"),
        ("--nic a vf 0 mac add ff:ff:ff:ff:ff:ff", "unicast"),
        ("--nic a vf 0 mac del 02:00:00:00:00:77", "no such filter"),
        ("--nic a vf 1 vlan add 9", "port VLAN"),
        (
            "--nic a filter add flow-type ether proto 2048 vf 2",
            "0 to 1",
        ),
        ("--nic a filter add flow-type tcp4 dst 1 vf 1", "dst-ip"),
        ("--nic a filter del flow-type ether proto 2048", "no such"),
        (
            "--nic a link set sideways",
            "up, down, carrier, mtu, storm_control, numvfs, hwmode, flap, vf,",
        ),
        ("link set dev c vf 0 trust on", "no NIC 'c'"),
        ("--nic b link set dev a vf 0 trust on", "--nic b and dev a"),
        ("--nic b filter flush dev a", "--nic b and dev a"),
        ("--nic a vf 0-2 trust on", "0 to 1"),
        ("--nic a vf 0 link_state auto", "did you mean 'state'?"),
        ("--nic a vf 0 mtu 67", "an MTU is 68 to 9216 bytes"),
        ("--nic a link set up mtu 9217", "an MTU is 68 to 9216 bytes"),
        ("--nic a link down", "set"),
        ("--nic a link set down hwmode vepa", "up, down"),
        ("--nic a vf 0-1 request mtu 5000", "an MTU of 4000"),
        ("--nic a vf 0-1 request rss", "query_rss"),
        ("--nic a vf 0-2 reset", "0 to 1"),
        ("--nic a vf 0 rss weight 0 0", "1 to 16 queues"),
        ("--nic a vf 0 set vlan 5 vlan 6", "vlan is said twice"),
        ("--nic a link set up down", "up or down is said twice"),
        ("fdb add 02:00:00:00:00:77 dev a dev b", "dev is said twice"),
        ("link set dev a mtu -1", "mtu '-1': 68 to 9216"),
        (
            "link set dev a delay -1ms",
            "-1ms: nothing is less than zero",
        ),
        ("fdb add -1 dev a", "mac '-1'"),
        ("link set dev a up --json", "--json is for what shows"),
        ("--nic a fdb add 01:00:5e:00:00:01 self", "unicast"),
        ("--nic a fdb del 02:00:00:00:00:56 self", "no such"),
    ] {
        let args: Vec<&str> = words.split_whitespace().collect();
        let line = refused(words, &emulator.vfnic(&args));
        assert!(line.contains(says), "{words}: {line}");
        assert_eq!(emulator.settled(), before, "{words}");
    }
}

#[test]
fn wrong_configurations_start_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let sockets = dir.path().join("sockets");
    let file = dir.path().join("nic.toml");
    let run = |args: &[&str]| {
        let common = ["run", "--socket-dir", sockets.to_str().unwrap()];
        vfnic(&[&common, args].concat())
    };
    for (text, says) in [
        ("", "[[nic]]"),
        ("[[nic]]\nname='a'\nvfs=300", "256"),
        // Words that commands take for others.
        ("[[nic]]\nname='wire'", "nic name 'wire'"),
        ("[[nic]]\nname='-a'", "nic name '-a'"),
        ("[[nic]]\nname='a'\ncolour='red'", "line 3"),
        ("[[nic]]\nname='a'\n[[nic.vf]]\nindex=9", "0 to 1"),
        (
            "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\nvlan=4095",
            "nic.toml: line 5: a vf0: vlan 4095",
        ),
        (
            "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\npath='none'",
            "none",
        ),
        (
            "[[nic]]\nname='a'\n[[wire]]\nbetween=['a','a']",
            "two different",
        ),
        ("[[nic]]\nname='a'\nmac_base='ff:ff:ff:ff:ff:ff'", "unicast"),
        ("not toml at all", "line 1"),
    ] {
        std::fs::write(&file, text).unwrap();
        let line = refused(text, &run(&["--config", file.to_str().unwrap()]));
        assert!(line.contains(says), "{text}: {line}");
        assert!(!sockets.exists(), "{text}");
    }
    for (args, says) in [
        (&["--config", "/no/such/file"][..], "/no/such/file"),
        (&["--config", "/dev/zero"], "16 MiB"),
        (&["--qmp", "9=/tmp/x"], "--qmp 9=/tmp/x: the VFs of nic0"),
        (&["--vfs", "0"], "256"),
        (&["--vfs", "257"], "256"),
        (&["--queue-pairs", "0"], "queue"),
        (&["--workers", "0"], "1 to 16 workers"),
        (&["--vfs", "64", "--workers", "17"], "1 to 16 workers"),
        (&["--workers", "3"], "of which it has 2"),
        (&["--mac-base", "01:00:00:00:00:00"], "unicast"),
    ] {
        let line = refused(&args.join(" "), &run(args));
        assert!(line.contains(says), "{args:?}: {line}");
        assert!(!sockets.join("ctl.sock").exists(), "{args:?}");
    }
    let taken = dir.path().join("file");
    std::fs::write(&taken, "").unwrap();
    let output = vfnic(&["run", "--socket-dir", taken.to_str().unwrap()]);
    refused("a file as the socket directory", &output);
}

#[test]
fn words_that_the_command_line_does_not_have() {
    for args in [
        &["fly"][..],
        &["run", "--vfs", "many"],
        &["run", "--mac-base", "02"],
        &["run", "--colour"],
        &[
            "run",
            "--workers",
            "2",
            "--clock",
            "virtual",
            "--calendar",
            "x",
            "--wait-for",
            "1",
        ],
        &["experiment", "--mtu", "9"],
        &["experiment", "--guests", "0x0"],
        &["experiment", "--guests", "linux:linux"],
        &["experiment", "plant"],
        &["experiment", "--report", "both", "--json", "both"],
        &["experiment", "--sensitivity", "--repeat", "2"],
        &["run", "--until", "5"],
        &["run", "--moderation", "40us"],
        &["experiment", "7", "--seed", "8"],
        &["experiment", "--tool", "netperf"],
        &["experiment", "--guests", "linux", "--clock", "wall"],
        &["experiment", "--guests", "linux", "--window", "64"],
        &["show", "me"],
        &["vf"],
    ] {
        refused(&args.join(" "), &vfnic(args));
    }
}

#[test]
fn a_word_that_is_nearly_right_gets_the_right_one() {
    for (args, meant) in [
        (&["shw"][..], "show"),
        (&["fliter", "show"], "filter"),
        (&["filter", "shwo"], "show"),
        (&["profile", "lst"], "list"),
        (&["run", "--vf", "3"], "--vfs"),
        (&["run", "--socketdir", "x"], "--socket-dir"),
        (&["run", "--poll", "adaptiv"], "adaptive"),
        (&["show", "worker"], "workers"),
        (&["vf", "0", "set", "spofchk", "on"], "spoofchk"),
        (&["link", "set", "dellay", "10ms"], "delay"),
        (&["vf", "0", "rss", "eqal", "4"], "equal"),
        #[cfg(feature = "lab")]
        (&["scenario", "run", "path-swich"], "path-switch"),
        #[cfg(feature = "lab")]
        (
            &["scenario", "check", "surprises/03-ipv6-untrustd"],
            "surprises/03-ipv6-untrusted",
        ),
        #[cfg(feature = "lab")]
        (
            &["scenario", "new", "x.toml", "--from", "link-flpa"],
            "link-flap",
        ),
    ] {
        let line = refused(&args.join(" "), &vfnic(args));
        assert!(
            line.contains(&format!("did you mean '{meant}'?")),
            "{args:?}: {line}"
        );
    }
}

#[test]
fn a_wrong_word_is_told_with_the_help_of_its_command() {
    for (words, says) in [
        ("capture", "(see 'vfnic capture --help'"),
        (
            "--nic show capture vf 0 --snaplen x",
            "'--snaplen <N>': a whole number is wanted (see 'vfnic capture --help'",
        ),
        ("profile show 82599", "(see 'vfnic profile show --help'"),
        ("profile lst", "(see 'vfnic profile --help'"),
        (
            "guest 0 --queues 0",
            "a whole number from 1 to 16 is wanted",
        ),
        ("check paths --seconds 5ms", "seconds are wanted"),
        #[cfg(feature = "lab")]
        (
            "experiment --mtu 1500,",
            "a whole number from 576 to 9216 is wanted",
        ),
        ("shw", "(see 'vfnic --help'"),
        (
            "run --vfs many",
            "a whole number from 1 to 256 is wanted (see 'vfnic run --help'",
        ),
        ("check paths --ratee 1", "(see 'vfnic check paths --help'"),
    ] {
        let args: Vec<&str> = words.split(' ').collect();
        let line = refused(words, &vfnic(&args));
        assert!(line.contains(says), "{words}: {line}");
    }
}

#[test]
fn which_nic_is_meant_is_for_commands_that_ask_one() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    let ctl = emulator.ctl();
    let ctl = ctl.to_str().unwrap();
    // In front of a command and behind it.
    for args in [
        &["--ctl", ctl, "--nic", "b", "show", "--json"][..],
        &["show", "--nic", "b", "--json", "--ctl", ctl],
    ] {
        let show: serde_json::Value = serde_json::from_slice(&vfnic(args).stdout).unwrap();
        assert_eq!(
            (&show["nics"][0]["name"], &show["nics"][1]),
            (&"b".into(), &().into())
        );
    }
    assert!(
        vfnic(&["filter", "--ctl", ctl, "show", "--nic", "a"])
            .status
            .success()
    );
    for args in [
        &["--nic", "a", "profile", "list"][..],
        &["--ctl", ctl, "profile", "list"],
        &["--nic", "a", "run"],
        &["--nic", "a", "--ctl", ctl, "save"],
    ] {
        let line = refused(&args.join(" "), &vfnic(args));
        let option = if args.contains(&"--nic") {
            "--nic"
        } else {
            "--ctl"
        };
        assert!(line.contains(&format!("{option} is for show")), "{line}");
    }
    let line = refused("profile", &vfnic(&["profile", "list", "--nic", "a"]));
    assert!(line.contains("'--nic'"), "{line}");
}

#[test]
fn profiles_are_listed_shown_and_compared() {
    let said = |args: &[&str]| {
        let output = vfnic(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(said(&["profile", "list"]).lines().count(), 8);
    assert!(said(&["profile", "show", "ixgbe"]).contains("min_tx_rate: EINVAL"));
    let same = said(&["profile", "diff", "ixgbe", "ixgbe"]);
    assert_eq!(same, "ixgbe and ixgbe do not differ\n");
    let diff = said(&["profile", "diff", "siena", "ef10", "--json"]);
    let diff: serde_json::Value = serde_json::from_str(&diff).unwrap();
    assert_eq!(diff["hwmode"], serde_json::json!(["none", "veb"]));
    assert!(diff["mac_filters_end_spoofchk"].is_null(), "no difference");
    refused("profile", &vfnic(&["profile", "show", "82599"]));
}

#[cfg(feature = "lab")]
#[test]
fn without_an_image_linux_guests_are_told_how_to_build_one() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_str().unwrap();
    let args = ["experiment", "seed", "--guests", "linux", "--image", folder];
    let line = refused("no image", &vfnic(&args));
    assert!(line.contains(folder) && line.contains("examples/linux-guests/build.sh"));
}

#[cfg(not(feature = "lab"))]
#[test]
fn without_the_laboratory_its_commands_are_refused_by_the_name_of_its_feature() {
    for args in [
        &["experiment"][..],
        &["scenario", "check", "x"],
        &["run", "--clock", "virtual"],
    ] {
        let line = refused(&args.join(" "), &vfnic(args));
        assert!(line.contains("feature 'lab'"), "{args:?}: {line}");
    }
}

#[test]
fn without_an_emulator_a_command_fails_in_one_line() {
    let output = vfnic(&["--ctl", "/no/such/socket", "show"]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains("vfnic run"), "{line}");
}
