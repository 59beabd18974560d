//! Real Linux kernels on the virtual clock, where examples/linux-guests/build.sh has built them; skipped where not.
//!
//!     cargo test -p vfnic --test linux_guests -- --nocapture

#![forbid(unsafe_code)]
// All of it is test code; what is not a `#[test]` itself only serves one.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::path::Path;
use std::process::{Command, Output};
use std::rc::Rc;
use std::time::Duration;

use vf_model::Nanos;
use vfnic::config::{Config, DeviceKind, Overrides};
use vfnic::linux::{GuestSpec, Image, Launcher};
use vfnic::timetravel::{Settings, Simulation, Summary};
use vfnic::virtual_hosts::Watcher;
use vfnic::watch::{Detail, Direction, Port};

/// The image, or nothing and a word about it.
fn image() -> Option<Image> {
    Image::find(None)
        .inspect_err(|missing| println!("skipped: Linux guests, because there are {missing}"))
        .ok()
}

/// A NIC for each of two guests, joined by a wire.
const NICS: &str = "\
[[nic]]
name = 'a'
vfs = 2
[[nic]]
name = 'b'
vfs = 2
[[wire]]
between = ['a', 'b']
propagation_ns = 1000
";

/// Two guests and how they live.
struct Run<'a> {
    nics: &'a str,
    /// Of each guest, in the order of its interfaces.
    sockets: [&'a [&'a str]; 2],
    /// What each guest finds there.
    devices: [DeviceKind; 2],
    scripts: [&'a str; 2],
    shared: bool,
    watchdog: Duration,
    /// How many others take part.
    strangers: u16,
    watcher: Option<Watcher>,
    /// The guests' processes, once they have been started.
    processes: Rc<RefCell<Vec<u32>>>,
}

impl<'a> Run<'a> {
    fn new(scripts: [&'a str; 2]) -> Run<'a> {
        Run {
            nics: NICS,
            sockets: [&["a-vf0.sock"], &["b-vf0.sock"]],
            devices: [DeviceKind::Virtio; 2],
            scripts,
            shared: true,
            watchdog: Duration::from_secs(60),
            strangers: 0,
            watcher: None,
            processes: Rc::default(),
        }
    }

    /// Until both have ended. What they have printed, and how it went.
    fn simulate(self, image: &Image, moderation: Nanos) -> ([vfnic::linux::Output; 2], Summary) {
        let folder = tempfile::tempdir().unwrap();
        self.simulate_in(folder.path(), image, moderation)
    }

    fn simulate_in(
        self,
        run: &Path,
        image: &Image,
        moderation: Nanos,
    ) -> ([vfnic::linux::Output; 2], Summary) {
        let file = run.join("nics.toml");
        std::fs::write(&file, self.nics).unwrap();
        let over = Overrides {
            socket_dir: Some(run.to_owned()),
            ..Overrides::default()
        };
        let config = Config::load(Some(&file), &over).unwrap();
        let settings = Settings {
            calendar: run.join("calendar"),
            guests: 2 + self.strangers,
            shared: self.shared,
            until: Some(Nanos(10_000_000_000)),
            watchdog: self.watchdog,
            moderation,
            digest: true,
        };
        let mut simulation = Simulation::start(&config, settings).unwrap();
        if let Some(watcher) = self.watcher {
            simulation.watch(Detail::Head, watcher);
        }
        let launcher = Launcher::new(image, run, Path::new("calendar"), 512);
        let guests = ["a", "b"].into_iter().zip(self.sockets).zip(self.scripts);
        for (id, (((name, sockets), script), device)) in (1..).zip(guests.zip(self.devices)) {
            let spec = GuestSpec {
                name: name.into(),
                id,
                nics: sockets.iter().map(|at| (device, at.into())).collect(),
                mtu: 1500,
                address: format!("10.0.0.{id}/24"),
                script: script.into(),
                memory_mib: 256,
                seed: id,
            };
            let child = launcher.start(&spec).unwrap();
            self.processes.borrow_mut().push(child.id());
            simulation.watch_child(id, name.into(), child);
        }
        let summary = simulation.run().unwrap();
        (["a", "b"].map(|name| launcher.output(name)), summary)
    }
}

/// What guests have printed who did what they should.
fn printed(outputs: [vfnic::linux::Output; 2], summary: &Summary) -> [String; 2] {
    assert!(summary.faults.is_empty(), "{:?}", summary.faults);
    outputs.map(|output| {
        assert_eq!(output.code, Some(0), "{}", output.text);
        output.text
    })
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
    let mut run = Run::new(["sleep 3", ping]);
    run.watcher = Some(watcher);
    let (outputs, summary) = run.simulate(&image, Nanos(0));
    let printed = printed(outputs, &summary);
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
fn a_stream_is_the_same_twice_and_by_messages() {
    let Some(image) = image() else { return };
    let jobs = ["iperf3 -s -1", "sleep 1; iperf3 -c 10.0.0.1 -n 64M -f k"];
    let once = |shared| {
        let mut run = Run::new(jobs);
        run.shared = shared;
        let (outputs, summary) = run.simulate(&image, Nanos(20_000));
        (printed(outputs, &summary), summary)
    };
    let [(printed, first), (_, second), (_, by_messages)] = [true, true, false].map(once);
    let received = printed[1].lines().find(|line| line.ends_with("receiver"));
    let kbps = received.and_then(|line| line.split_whitespace().rev().nth(2));
    let kbps: f64 = kbps.unwrap().parse().unwrap();
    assert!((9.38e6..=9.42e6).contains(&kbps), "{}", printed[1]);
    assert!(first.digest.is_some_and(|digest| digest != 0));
    let essence = |of: &Summary| (of.digest, of.virtual_time, of.runs);
    assert_eq!(essence(&first), essence(&second));
    // A guest is told how far it may go in either way, so it is run as often.
    assert_eq!(essence(&first), essence(&by_messages));
}

/// The drivers of Solarflare and Intel, which Linux has, on registers that are ours.
const DRIVERS: &str = "\
[[nic]]
name = 'a'
vfs = 2
device = 'sfc'
[[nic]]
name = 'b'
vfs = 2
device = 'ixgbevf'
[[wire]]
between = ['a', 'b']
propagation_ns = 1000
";

#[test]
fn drivers_of_real_hardware_reach_each_other_and_the_same_twice() {
    let Some(image) = image() else { return };
    if let Err(missing) = image.kernel_for(DeviceKind::Sfc) {
        println!("skipped: drivers of real hardware, because there is {missing}");
        return;
    }
    // Carrier, a stream, the guest's own filter on what it sends, and the carrier again after the NIC's driver has started anew.
    let sfc = "ethtool -i eth0; ethtool eth0; iperf3 -s -1\n\
               ethtool -N eth0 flow-type udp4 dst-ip 10.0.0.1 dst-port 9 action -1; sleep 2; ethtool -n eth0";
    let ixgbevf = "ethtool -i eth0; ethtool eth0; sleep 1; iperf3 -c 10.0.0.1 -n 16M -f k\n\
                   ip link set eth0 down; ip link set eth0 up; sleep 0.5; ping -c 2 -i 0.2 10.0.0.1";
    let once = || {
        let mut run = Run::new([sfc, ixgbevf]);
        run.nics = DRIVERS;
        run.devices = [DeviceKind::Sfc, DeviceKind::Ixgbevf];
        let (outputs, summary) = run.simulate(&image, Nanos(0));
        (printed(outputs, &summary), summary)
    };
    let ([a, b], first) = once();
    for (printed, driver) in [(&a, "driver: sfc"), (&b, "driver: ixgbevf")] {
        for word in [driver, "Speed: 10000Mb/s", "Link detected: yes"] {
            assert!(printed.contains(word), "{word}\n{printed}");
        }
    }
    assert!(
        a.contains("Dest port: 9") && a.contains("Action: Drop"),
        "{a}"
    );
    let received = b.lines().find(|line| line.ends_with("receiver"));
    let kbps = received.and_then(|line| line.split_whitespace().rev().nth(2));
    let kbps: f64 = kbps.unwrap().parse().unwrap();
    assert!((9.0e6..=9.42e6).contains(&kbps), "{b}");
    assert!(b.contains("2 packets received"), "{b}");
    let (_, second) = once();
    let essence = |of: &Summary| (of.digest, of.virtual_time, of.runs);
    assert_eq!(essence(&first), essence(&second));
}

/// Two VFs of one NIC and one of another, in the same guest.
#[test]
fn a_guest_may_have_several_nics() {
    let Some(image) = image() else { return };
    let nics = format!(
        "{NICS}[[nic]]\nname = 'c'\nvfs = 1\n[[nic]]\nname = 'd'\nvfs = 1\n\
         [[wire]]\nbetween = ['c', 'd']\npropagation_ns = 7000\n"
    );
    let addresses = |end: u8| {
        format!("ip addr add 10.0.1.{end}/24 dev eth1; ip addr add 10.0.2.{end}/24 dev eth2\n")
    };
    let scripts = [
        format!("{}iperf3 -s -1", addresses(1)),
        format!(
            "{}sleep 1; for net in 0 1 2; do ping -c 2 -i 0.1 10.0.$net.1; done; iperf3 -c 10.0.2.1 -n 8M",
            addresses(2)
        ),
    ];
    let once = |shared| {
        let mut run = Run::new([&scripts[0], &scripts[1]]);
        run.nics = &nics;
        run.sockets = [
            &["a-vf0.sock", "a-vf1.sock", "c-vf0.sock"],
            &["b-vf0.sock", "b-vf1.sock", "d-vf0.sock"],
        ];
        run.shared = shared;
        // Frames that have arrived at each VF, by NIC.
        let frames = Rc::new(RefCell::new(std::collections::BTreeMap::new()));
        let seen = Rc::clone(&frames);
        run.watcher = Some(Box::new(move |it| {
            if let (Port::Vf(vf), Direction::Rx) = (it.port, it.direction) {
                *seen.borrow_mut().entry((it.host, vf)).or_insert(0) += 1;
            }
        }));
        let (outputs, summary) = run.simulate(&image, Nanos(20_000));
        let printed = printed(outputs, &summary);
        assert_eq!(
            printed[1].matches("2 packets received").count(),
            3,
            "{}",
            printed[1]
        );
        let frames: Vec<u64> = frames.borrow().values().copied().collect();
        assert_eq!(frames.len(), 6, "each VF has had some");
        assert!(
            frames[4] > 100,
            "the stream's are where its address is: {frames:?}"
        );
        (summary.digest, summary.virtual_time, frames)
    };
    assert_eq!(once(true), once(false));
}

/// Kills the process group of a guest of `run` when so many frames have passed its VFs and wires.
fn kill_at(run: &mut Run<'_>, guest: usize, frames: u32) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let processes = Rc::clone(&run.processes);
    let mut left = frames;
    run.watcher = Some(Box::new(move |_| {
        left = left.saturating_sub(1);
        if left == 0 {
            let id = i32::try_from(processes.borrow()[guest]).unwrap();
            // The second time there is nobody left.
            let _ = kill_process_group(Pid::from_raw(id).unwrap(), Signal::KILL);
        }
    }));
}

#[test]
fn a_guest_that_is_killed_is_named_and_the_other_ends_as_it_should() {
    let Some(image) = image() else { return };
    for shared in [true, false] {
        for (guest, name) in ["a", "b"].into_iter().enumerate() {
            let ping = "sleep 1; ping -c 100 -i 0.01 10.0.0.1; true";
            let mut run = Run::new(["sleep 3", ping]);
            run.shared = shared;
            kill_at(&mut run, guest, 100);
            let (outputs, summary) = run.simulate(&image, Nanos(0));
            let [fault] = &summary.faults[..] else {
                panic!("{:?}", summary.faults);
            };
            let start = format!("guest {name} has died: signal: 9 (SIGKILL), at ");
            assert!(fault.starts_with(&start), "{fault}");
            assert_eq!(outputs[guest].code, None);
            assert_eq!(outputs[1 - guest].code, Some(0));
        }
    }
}

#[test]
fn a_guest_that_spins_is_named_and_the_other_ends_as_it_should() {
    let Some(image) = image() else { return };
    let mut run = Run::new(["sleep 3", "sleep 1; while :; do :; done"]);
    run.watchdog = Duration::from_secs(3);
    let (outputs, summary) = run.simulate(&image, Nanos(0));
    let [fault] = &summary.faults[..] else {
        panic!("{:?}", summary.faults);
    };
    let start = "guest b spins: it has run for 3 s without a word, at ";
    assert!(fault.starts_with(start), "{fault}");
    assert_eq!(outputs[0].code, Some(0));
}

/// A participant that runs once, says nonsense to its VF, and is cut off.
fn vandal(run: &Path) {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let connect = |name| loop {
        // Once the simulation has made it.
        if let Ok(stream) = UnixStream::connect(run.join(name)) {
            break stream;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let mut calendar = connect("calendar");
    let mut say = |op: u32, time: u64| {
        let mut message = [0; 16];
        message[..4].copy_from_slice(&op.to_ne_bytes());
        message[8..].copy_from_slice(&time.to_ne_bytes());
        calendar.write_all(&message).unwrap();
        calendar.read_exact(&mut message).unwrap();
    };
    const START: u32 = 1;
    const UPDATE: u32 = 5;
    say(START, 3);
    say(UPDATE, 0);
    let mut vf = connect("a-vf1.sock");
    vf.write_all(&[0xff; 64]).unwrap();
    let _ = calendar.read(&mut [0]);
}

#[test]
fn nonsense_on_a_vf_harms_no_guest() {
    let Some(image) = image() else { return };
    let ping = "sleep 1; ping -c 3 -i 0.2 10.0.0.1";
    let mut run = Run::new(["sleep 3", ping]);
    run.strangers = 1;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let stranger = std::thread::spawn(move || vandal(&path));
    let (outputs, summary) = run.simulate_in(folder.path(), &image, Nanos(0));
    stranger.join().unwrap();
    let [fault] = &summary.faults[..] else {
        panic!("{:?}", summary.faults);
    };
    let start = "guest 3 breaks the protocol of a vf1: malformed message: ";
    assert!(fault.starts_with(start), "{fault}");
    assert!(
        outputs[1].text.contains("3 packets received"),
        "{}",
        outputs[1].text
    );
    assert_eq!(outputs.map(|output| output.code), [Some(0); 2]);
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
        let text = std::fs::read_to_string(file).unwrap();
        let mut outcome: serde_json::Value = serde_json::from_str(&text).unwrap();
        // The machine, and how busy it was.
        assert!(outcome["made_by"].take().is_object(), "{text}");
        outcome
    };
    let (outcome, second) = (json("first"), json("second"));
    assert_eq!(outcome, second);
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
    let once = |name: &str| {
        let file = format!(
            "{}/../examples/scenarios/{name}.toml",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut vfnic = Command::new(env!("CARGO_BIN_EXE_vfnic"));
        let args = ["scenario", "run", "--guests", "linux", "--json", &file];
        let output = vfnic.args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for name in ["link-flap", "path-switch"] {
        let first = once(name);
        assert_eq!(first, once(name), "{name}");
        let outcome: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!(outcome["guests"], "linux");
        // TCP has mended what the cable lost, and a switch of paths loses nothing.
        let mended = outcome["jobs"][0]["retransmits"].as_u64().unwrap() > 0;
        assert_eq!(mended, name == "link-flap");
    }
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

#[test]
fn an_experiment_whose_guest_is_killed_says_so_and_leaves_nobody() {
    use std::io::{BufRead, BufReader};
    if image().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut vfnic = Command::new(env!("CARGO_BIN_EXE_vfnic"))
        .args(["experiment", "seed", "--guests", "linux:1x1"])
        .env("TMPDIR", dir.path())
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(vfnic.stderr.take().unwrap()).lines();
    // The first progress: streams have begun.
    assert!(lines.next().unwrap().unwrap().contains("mediated"));
    let victim = processes_in(dir.path())
        .into_iter()
        .filter(|id| {
            let words = std::fs::read_to_string(format!("/proc/{id}/cmdline"));
            words.is_ok_and(|words| words.contains("umid=b0"))
        })
        // Its helpers come later.
        .min()
        .unwrap();
    let id = rustix::process::Pid::from_raw(victim).unwrap();
    rustix::process::kill_process_group(id, rustix::process::Signal::KILL).unwrap();
    let last = lines.map(Result::unwrap).last().unwrap();
    let what = "guest b0 has died: signal: 9 (SIGKILL), at ";
    assert!(last.starts_with("vfnic: ") && last.contains(what), "{last}");
    assert_eq!(vfnic.wait().unwrap().code(), Some(1));
    assert!(processes_in(dir.path()).is_empty());
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

/// The processes that work in a folder of `dir`.
fn processes_in(dir: &Path) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap();
    let ids = all.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    ids.filter(|id: &i32| {
        let works_in = std::fs::read_link(format!("/proc/{id}/cwd"));
        works_in.is_ok_and(|folder| folder.starts_with(dir))
    })
    .collect()
}
