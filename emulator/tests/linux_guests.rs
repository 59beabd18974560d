//! Real Linux kernels on the virtual clock, where examples/linux-guests/build.sh has built them; skipped where not.
//!
//!     cargo test -p vfnic --test linux_guests -- --nocapture

#![forbid(unsafe_code)]
// All of it is test code; what is not a `#[test]` itself only serves one.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::rc::Rc;
use std::time::Duration;

use vf_model::Nanos;
use vfnic::config::{Config, Overrides};
use vfnic::linux::{GuestSpec, Image, Launcher};
use vfnic::timetravel::{Settings, Simulation, Summary};
use vfnic::watch::{Detail, Direction, Port, Watcher};

/// The image, or nothing and a word about it.
fn image() -> Option<Image> {
    Image::find(None)
        .inspect_err(|missing| println!("skipped, because there are {missing}"))
        .ok()
}

/// A NIC for each of two guests, joined by a wire.
const NICS: &str = "\
[[nic]]
name = 'a'
vfs = 1
[[nic]]
name = 'b'
vfs = 1
[[wire]]
between = ['a', 'b']
propagation_ns = 1000
";

/// Two guests with a script each, until both have powered off. What they have printed, and how it went.
fn simulate(
    image: &Image,
    scripts: [&str; 2],
    moderation: Nanos,
    watcher: Option<Watcher>,
) -> ([String; 2], Summary) {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let file = run.join("nics.toml");
    std::fs::write(&file, NICS).unwrap();
    let over = Overrides {
        socket_dir: Some(run.to_owned()),
        ..Overrides::default()
    };
    let config = Config::load(Some(&file), &over).unwrap();
    let settings = Settings {
        calendar: run.join("calendar"),
        guests: 2,
        shared: true,
        until: Some(Nanos(10_000_000_000)),
        watchdog: Duration::from_secs(60),
        moderation,
        digest: true,
    };
    let mut simulation = Simulation::start(&config, settings).unwrap();
    if let Some(watcher) = watcher {
        simulation.watch(Detail::Head, watcher);
    }
    let launcher = Launcher::new(image, run, Path::new("calendar"), 512);
    for (id, (name, script)) in (1..).zip(["a", "b"].into_iter().zip(scripts)) {
        let spec = GuestSpec {
            name: name.into(),
            id,
            sockets: vec![PathBuf::from(format!("{name}-vf0.sock"))],
            mtu: 1500,
            address: format!("10.0.0.{id}/24"),
            script: script.into(),
            memory_mib: 256,
            seed: id,
        };
        let child = launcher.start(&spec).unwrap();
        simulation.watch_child(id, name.into(), child);
    }
    let summary = simulation.run().unwrap();
    let printed = ["a", "b"].map(|name| {
        let output = launcher.output(name);
        assert_eq!(output.code, Some(0), "{name}: {}", output.text);
        output.text
    });
    assert!(summary.faults.is_empty(), "{:?}", summary.faults);
    (printed, summary)
}

#[test]
fn a_ping_takes_what_the_wire_takes() {
    let Some(image) = image() else { return };
    // When echo requests and replies have arrived over the wire, by host.
    let arrivals = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&arrivals);
    let watcher: Watcher = Box::new(move |it| {
        const ICMP: u8 = 1;
        let icmp = it.frame.get(12..14) == Some(&[8, 0]) && it.frame.get(23) == Some(&ICMP);
        if icmp && (it.port, it.direction) == (Port::Wire, Direction::Rx) {
            seen.borrow_mut().push((it.host, it.at.0));
        }
    });
    let ping = "sleep 1; ping -c 3 -i 0.2 10.0.0.1";
    let (printed, _) = simulate(&image, ["sleep 3", ping], Nanos(0), Some(watcher));
    assert!(printed[1].contains("3 packets received"), "{}", printed[1]);
    let arrivals = arrivals.borrow();
    assert_eq!(arrivals.len(), 6);
    for pair in arrivals.chunks(2) {
        let [(0, request), (1, reply)] = *pair else {
            panic!("{arrivals:?}");
        };
        // 98 bytes, FCS, preamble and gap at 10 Gb/s, and a microsecond of wire; the guest answers in no time.
        assert_eq!(reply - request, (98 + 4 + 20) * 8 / 10 + 1 + 1000);
    }
}

#[test]
fn a_stream_is_the_same_twice() {
    let Some(image) = image() else { return };
    let jobs = ["iperf3 -s -1", "sleep 1; iperf3 -c 10.0.0.1 -n 64M -f k"];
    let once = || simulate(&image, jobs, Nanos(20_000), None);
    let ((printed, first), (_, second)) = (once(), once());
    let received = printed[1].lines().find(|line| line.ends_with("receiver"));
    let kbps = received.and_then(|line| line.split_whitespace().rev().nth(2));
    let kbps: f64 = kbps.unwrap().parse().unwrap();
    assert!((9.38e6..=9.42e6).contains(&kbps), "{}", printed[1]);
    assert!(first.digest.is_some_and(|digest| digest != 0));
    assert_eq!(
        (first.digest, first.virtual_time, first.runs),
        (second.digest, second.virtual_time, second.runs)
    );
}

fn experiment(args: &[&str]) -> Output {
    let mut vfnic = Command::new(env!("CARGO_BIN_EXE_vfnic"));
    let args = [&["experiment", "seed", "--guests", "linux:1x1"], args].concat();
    vfnic.args(args).output().unwrap()
}

#[test]
fn an_experiment_is_as_theory_says_and_the_same_twice() {
    if image().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = |name| {
        let file = dir.path().join(name);
        let args = ["--seconds", "0.02", "--json", file.to_str().unwrap()];
        let output = experiment(&args);
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(file).unwrap()
    };
    let (first, second) = (json("first"), json("second"));
    assert_eq!(first, second);
    let outcome: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(outcome["guests"], "linux");
    let direct = &outcome["results"][1];
    let theory = &outcome["theory"];
    assert_eq!(theory["timestamps"], true);
    for direction in ["a_to_b_mbps", "b_to_a_mbps"] {
        let of = |of: &serde_json::Value| of[direction].as_f64().unwrap();
        let share = of(direct) / of(theory);
        assert!((0.99..=1.01).contains(&share), "{direction}: {share}");
    }
    assert!(direct["link_utilisation"].as_f64().unwrap() >= 0.99);
    assert_eq!(direct["bottleneck"], "Link (both directions)");
}

#[test]
fn a_scenario_keeps_its_promises_and_is_the_same_twice() {
    if image().is_none() {
        return;
    }
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/scenarios/link-flap.toml"
    );
    let once = || {
        let mut vfnic = Command::new(env!("CARGO_BIN_EXE_vfnic"));
        let args = ["scenario", "run", "--guests", "linux", "--json", file];
        let output = vfnic.args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = once();
    assert_eq!(first, once());
    let outcome: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(outcome["guests"], "linux");
    // TCP has mended what the cable lost.
    assert!(outcome["jobs"][0]["retransmits"].as_u64().unwrap() > 0);
    assert_eq!(outcome["jobs"][0]["exit"], 0);
}

#[test]
fn guests_that_cannot_run_are_named_in_a_line() {
    let Some(image) = image() else { return };
    let dir = tempfile::tempdir().unwrap();
    let with = |kernel: &str, args: &[&str]| {
        let linux = dir.path().join("linux");
        let _ = std::fs::remove_file(&linux);
        if kernel.is_empty() {
            std::os::unix::fs::symlink(&image.kernel, &linux).unwrap();
        } else {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(&linux, kernel).unwrap();
            std::fs::set_permissions(&linux, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let initramfs = dir.path().join("initramfs.gz");
        std::fs::copy(&image.initramfs, initramfs).unwrap();
        let folder = ["--image", dir.path().to_str().unwrap()];
        let output = experiment(&[&folder[..], args].concat());
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    };
    let line = with("#!/bin/sh\nexit 3\n", &[]);
    assert!(line.contains("guest a0") && line.contains('3'), "{line}");
    let line = with("#!/bin/sh\nkill -9 $$\n", &[]);
    assert!(line.contains("guest a0") && line.contains('9'), "{line}");
    let line = with("", &["--tool", "netperf"]);
    assert!(
        line.contains("guest a0") && line.contains("netperf"),
        "{line}"
    );
}
