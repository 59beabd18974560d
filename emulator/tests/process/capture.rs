//! `vfnic capture`, `vfnic monitor` and `vfnic extcap` on a NIC that runs, with guests that move numbered frames.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use vf_guest::net::{NetConfig, NetHeader};
use vf_packet::checksum::Sum;

use crate::control::{client, command};
use crate::emulator::{Emulator, back_to_back, vfnic, wait_for};
use crate::port::{BROADCAST, Port, pass};

/// A vfnic that captures or monitors until it is told to end.
struct Watcher {
    child: Option<Child>,
}

impl Watcher {
    fn start(emulator: &Emulator, args: &str, stdout: Stdio) -> Watcher {
        let child = Command::new(env!("CARGO_BIN_EXE_vfnic"))
            .arg("--ctl")
            .arg(emulator.ctl())
            .args(args.split_whitespace())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Watcher { child: Some(child) }
    }

    /// One that writes a file, which has begun.
    fn capture(emulator: &Emulator, args: &str, file: &Path) -> Watcher {
        let args = format!("capture {args} -w {}", file.display());
        let watcher = Watcher::start(emulator, &args, Stdio::null());
        wait_for("the capture begins", || {
            let len = std::fs::metadata(file).map_or(0, |file| file.len());
            (len > 0).then_some(())
        });
        watcher
    }

    /// Ctrl-C.
    fn end(mut self) -> Output {
        let child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A frame of a file.
#[derive(Clone, Debug)]
struct CapturedFrame {
    interface: String,
    data: Vec<u8>,
    len: u32,
    inbound: bool,
    comments: Vec<String>,
}

/// What is in a file.
#[derive(Debug, Default)]
struct Contents {
    frames: Vec<CapturedFrame>,
    /// By interface: frames that were not captured.
    missed: BTreeMap<String, u64>,
    notes: Vec<String>,
}

impl Contents {
    fn read(file: &Path) -> Contents {
        let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
        let mut names = Vec::new();
        let mut contents = Contents::default();
        while let Some(block) = reader.next_block() {
            match block.expect("whole blocks") {
                Block::InterfaceDescription(interface) => {
                    names.extend(interface.options.iter().find_map(|option| match option {
                        pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption::IfName(name) => {
                            Some(name.to_string())
                        }
                        _ => None,
                    }));
                }
                Block::EnhancedPacket(packet) => {
                    let flags = packet.options.iter().find_map(|option| match option {
                        EnhancedPacketOption::Flags(flags) => Some(*flags),
                        _ => None,
                    });
                    let comments = packet.options.iter().filter_map(|option| match option {
                        EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                        _ => None,
                    });
                    contents.frames.push(CapturedFrame {
                        interface: names[packet.interface_id as usize].clone(),
                        inbound: flags == Some(1),
                        comments: comments.collect(),
                        len: packet.original_len,
                        data: packet.data.to_vec(),
                    });
                }
                Block::InterfaceStatistics(statistics) => {
                    for option in &statistics.options {
                        match option {
                            InterfaceStatisticsOption::IsbIfDrop(missed) => {
                                let name = names[statistics.interface_id as usize].clone();
                                contents.missed.insert(name, *missed);
                            }
                            InterfaceStatisticsOption::Comment(Cow::Borrowed(note)) => {
                                contents.notes.push((*note).to_owned());
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        contents
    }

    fn of(&self, interface: &str) -> Vec<&CapturedFrame> {
        let frames = self.frames.iter();
        frames
            .filter(|frame| frame.interface == interface)
            .collect()
    }

    fn has_comment(&self, text: &str) -> bool {
        let mut comments = self.frames.iter().flat_map(|frame| &frame.comments);
        comments.any(|comment| comment.contains(text))
    }
}

fn open(emulator: &Emulator, name: &str) -> Port {
    Port::open(&emulator.path(name))
}

/// Every frame of a captured VF is in the file or counted as not captured, at both ends, while its path changes under load.
#[test]
fn both_ends_of_a_path_switch_are_captured_frame_by_frame() {
    for workers in [1, 2] {
        let emulator = Emulator::with_config(&back_to_back(workers));
        let config = NetConfig {
            queue_size: 256,
            ..NetConfig::default()
        };
        let names = ["a-vf0.sock", "b-vf0.sock"];
        let [mut a, mut b] = names.map(|name| Port::open_with(&emulator.path(name), &config));
        let file = emulator.path("both.pcapng");
        let watcher = Watcher::capture(&emulator, "a vf 0 b vf 0", &file);
        let before = [0, 1].map(|nic| counted(&emulator, nic, 0));
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                    let path = ["mediated", "direct", "auto"][n / 2 % 3];
                    command(
                        &emulator,
                        &format!("{} vf 0 set path {path}", ["a", "b"][n % 2]),
                    );
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            for n in 0..20_000_usize {
                let frame = a.frame(b.mac, 60 + n * 37 % 1455);
                while !a.offer(&frame) {
                    a.net.kick();
                    std::thread::yield_now();
                }
                if n % 16 == 0 {
                    a.net.kick();
                    while b.poll().is_some() {}
                }
            }
            a.net.kick();
            wait_for("all of it is sent", || {
                while b.poll().is_some() {}
                a.net.tx_room(0).unwrap();
                (a.net.tx_ring(0).queue.outstanding() == 0).then_some(())
            });
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        // What waits for buffers gets them, until nothing moves.
        let now = || [0, 1].map(|nic| counted(&emulator, nic, 0));
        let mut after = now();
        wait_for("nothing moves", || {
            while b.poll().is_some() {}
            std::thread::sleep(Duration::from_millis(150));
            let last = std::mem::replace(&mut after, now());
            (last == after).then_some(())
        });
        let output = watcher.end();
        assert!(output.status.success(), "{output:?}");
        let contents = Contents::read(&file);
        for (n, interface) in ["a-vf0", "b-vf0"].into_iter().enumerate() {
            let frames = contents.of(interface).len() as u64;
            let missed = contents.missed[interface];
            let counted = after[n] - before[n];
            assert_eq!(
                frames + missed,
                counted,
                "{interface}: {missed} not captured"
            );
            assert!(frames > 1000, "{frames}");
        }
        assert!(contents.has_comment("vf0: path mediated"), "{workers}");
        assert!(contents.has_comment("command: vf 0 set path"), "{workers}");
        for path in ["path direct, queue 0", "path mediated, queue 0"] {
            assert!(contents.has_comment(path), "{path}");
        }
        let says = String::from_utf8(output.stderr).unwrap();
        assert!(says.contains("frames not captured"), "{says}");
    }
}

/// What a VF has sent, received and lost, as it is counted.
fn counted(emulator: &Emulator, nic: usize, vf: usize) -> u64 {
    let vf = emulator.vf(nic, vf).total;
    let drops = vf
        .rx_drops
        .values()
        .chain(vf.tx_drops.values())
        .sum::<u64>();
    vf.rx_packets + vf.tx_packets + drops
}

#[test]
fn a_dropped_frame_has_its_reason_and_rule_and_the_others_are_left_out() {
    let emulator = Emulator::start(&["--vfs", "2"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|name| open(&emulator, name));
    emulator.does("vf 0 set spoofchk on");
    emulator.does("filter add flow-type ether src 02:00:00:00:00:77 action drop");
    emulator.does("vf 1 set spoofchk off");
    let file = emulator.path("drops.pcapng");
    let watcher = Watcher::capture(&emulator, "vf 0-1 --drops --snaplen 40", &file);
    pass(&mut a, &mut b);
    let mut spoofed = a.frame(b.mac, 100);
    spoofed[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    a.send(&spoofed);
    let mut filtered = b.frame(a.mac, 200);
    filtered[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    b.send(&filtered);
    let nonsense = NetHeader {
        gso_type: 0x7f,
        ..NetHeader::default()
    };
    assert!(a.net.send(0, &nonsense, &[0; 60]).unwrap());
    a.net.kick();
    wait_for("three drops", || {
        let drops: u64 = emulator.show().nics[0]
            .vfs
            .iter()
            .map(|vf| vf.total.tx_drops.values().sum::<u64>())
            .sum();
        (drops >= 3).then_some(())
    });
    assert!(watcher.end().status.success());
    let contents = Contents::read(&file);
    assert_eq!(contents.frames.len(), 3, "{contents:?}");
    let dropped = |len: u32| contents.frames.iter().find(|f| f.len == len).unwrap();
    let frame = dropped(100);
    assert_eq!(
        (frame.interface.as_str(), frame.inbound),
        ("nic0-vf0", false)
    );
    assert_eq!(frame.data, spoofed[..40]);
    let says = frame.comments.join("\n");
    assert!(
        says.contains("path direct, queue 0")
            && says
                .contains("dropped: spoofed_mac. spoofchk: 02:00:00:00:00:09 is no address of vf0"),
        "{says}"
    );
    let says = dropped(200).comments.join("\n");
    assert!(
        says.contains(
            "dropped: filtered. a filter matches: flow-type ether src 02:00:00:00:00:77 action drop"
        ),
        "{says}"
    );
    assert!(dropped(0).comments.join("\n").contains("bad_header"));
}

#[test]
fn only_what_is_wanted_is_captured() {
    let emulator = Emulator::start(&["--vfs", "2"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|name| open(&emulator, name));
    let file = emulator.path("some.pcapng");
    let watcher = Watcher::capture(
        &emulator,
        "vf 0 flow-type ether dst ff:ff:ff:ff:ff:ff",
        &file,
    );
    pass(&mut a, &mut b);
    let all = b.frame(BROADCAST, 70);
    b.send(&all);
    a.gets(&all);
    assert!(watcher.end().status.success());
    let contents = Contents::read(&file);
    let [frame] = contents.frames.as_slice() else {
        panic!("{contents:?}");
    };
    assert_eq!((&frame.data, frame.inbound), (&all, true));
    for (words, says) in [
        ("vf 7", "0 to 1"),
        ("wier", "did you mean 'wire'"),
        ("vf 0 dst-ip 10.0.0.1", "flow-type"),
    ] {
        let args = format!("capture {words} -w /dev/null");
        let output = emulator.vfnic(&args.split(' ').collect::<Vec<_>>());
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words}: {line}");
        assert!(line.contains(says) && line.lines().count() == 1, "{line}");
    }
}

#[test]
fn a_dead_reader_costs_itself_only() {
    let emulator = Emulator::start(&["--vfs", "2"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|name| open(&emulator, name));
    // It asks and never reads.
    let mut dead = client(&emulator);
    dead.write_all(b"{\"capture\":{\"words\":[\"vf\",\"0-1\",\"wire\"]}}\n")
        .unwrap();
    let mut answer = String::new();
    let mut first = BufReader::with_capacity(1, dead.try_clone().unwrap());
    first.read_line(&mut answer).unwrap();
    assert_eq!(answer, "\"stream\"\n");
    // More than the queue and the socket hold.
    for _ in 0..40 {
        for _ in 0..500 {
            let frame = a.frame(b.mac, 60);
            while !a.offer(&frame) {
                a.net.kick();
                while b.poll().is_some() {}
            }
        }
        a.net.kick();
        // The receiver has room again.
        wait_for("all of it is sent", || {
            while b.poll().is_some() {}
            a.net.tx_room(0).unwrap();
            (a.net.tx_ring(0).queue.outstanding() == 0).then_some(())
        });
        while b.poll().is_some() {}
        pass(&mut a, &mut b);
    }
    let before = emulator.show();
    assert!(before.nics[0].vfs[0].total.tx_packets >= 20_000);
    // It reads after all, and is told what it has missed.
    dead.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).unwrap();
    let file = emulator.path("dead.pcapng");
    std::fs::write(&file, rest).unwrap();
    let contents = Contents::read(&file);
    let missed: u64 = contents.missed.values().sum();
    let packets: u64 = (0..2).map(|vf| counted(&emulator, 0, vf)).sum();
    assert!(missed > 0, "{:?}", contents.missed);
    assert_eq!(contents.frames.len() as u64 + missed, packets);
}

#[test]
fn a_full_disk_is_said_once_and_the_nic_runs_on() {
    let emulator = Emulator::start(&["--vfs", "2"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|name| open(&emulator, name));
    let output = emulator.vfnic(&["capture", "vf", "0", "-w", "/dev/full"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let says = String::from_utf8(output.stderr).unwrap();
    assert!(
        says.contains("No space left") && says.lines().count() == 1,
        "{says}"
    );
    pass(&mut a, &mut b);
}

#[test]
fn a_monitor_tells_of_guests_commands_paths_and_drops() {
    let emulator = Emulator::start(&["--vfs", "2"]);
    let mut asks = client(&emulator);
    asks.write_all(b"{\"monitor\":{\"drops\":true}}\n").unwrap();
    let mut lines = BufReader::new(asks.try_clone().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "\"stream\"");
    let mut next = |event: &str| -> serde_json::Value {
        loop {
            let line = lines.next().expect("it goes on").unwrap();
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            if value["event"] == event {
                return value;
            }
        }
    };
    emulator.does("vf 1 set trust on");
    let said = next("command");
    assert_eq!(
        (&said["nic"], &said["words"]),
        (&"nic0".into(), &"vf 1 set trust on".into())
    );
    let [mut a, b] = ["vf0.sock", "vf1.sock"].map(|name| open(&emulator, name));
    assert_eq!(next("attached")["vf"], 0);
    emulator.does("vf 0 set path mediated");
    let path = next("path");
    assert_eq!(
        (&path["vf"], &path["path"]),
        (&0.into(), &"mediated".into())
    );
    // No ring moves from direct to auto.
    for path in ["direct", "auto", "mediated"] {
        emulator.does(&format!("vf 0 set path {path}"));
        assert_eq!(next("path")["path"], path);
    }
    emulator.does("vf 0 set spoofchk on");
    let mut spoofed = a.frame(b.mac, 100);
    spoofed[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
    a.send(&spoofed);
    let drop = next("drop");
    assert_eq!(drop["reason"], "spoofed_mac");
    assert_eq!(
        (&drop["port"], &drop["direction"]),
        (&"vf0".into(), &"tx".into())
    );
    assert!(
        drop["why"]
            .as_str()
            .unwrap()
            .contains("is no address of vf0"),
        "{drop}"
    );
    std::mem::drop(a);
    assert_eq!(next("left")["vf"], 0);
}

#[test]
fn a_monitor_prints_a_line_for_each_event_until_it_is_told_to_end() {
    let emulator = Emulator::start(&[]);
    let mut monitor = Watcher::start(&emulator, "monitor", Stdio::piped());
    let lines = monitor.child.as_mut().unwrap().stdout.take().unwrap();
    let heard = std::sync::atomic::AtomicBool::new(false);
    let line = std::thread::scope(|scope| {
        // When it begins to listen is not to be seen from here.
        scope.spawn(|| {
            while !heard.load(std::sync::atomic::Ordering::Relaxed) {
                emulator.does("vf 1 set trust on");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let line = BufReader::new(lines).lines().next().unwrap().unwrap();
        heard.store(true, std::sync::atomic::Ordering::Relaxed);
        line
    });
    assert!(
        line.ends_with(" nic0: command: vf 1 set trust on"),
        "{line}"
    );
    assert!(monitor.end().status.success());
}

/// A monitor that has heard something.
fn listening(emulator: &Emulator) -> Watcher {
    let mut monitor = Watcher::start(emulator, "monitor", Stdio::piped());
    let mut lines = BufReader::new(monitor.child.as_mut().unwrap().stdout.take().unwrap());
    let (heard, mut line) = (std::sync::atomic::AtomicBool::new(false), String::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !heard.load(std::sync::atomic::Ordering::Relaxed) {
                emulator.does("vf 1 set trust on");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        lines.read_line(&mut line).unwrap();
        heard.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    monitor
}

#[test]
fn a_monitor_says_that_vfnic_has_ended_or_that_another_goes_on() {
    let mut emulator = Emulator::start(&[]);
    let said = |mut monitor: Watcher| {
        let output = monitor.child.take().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let monitor = listening(&emulator);
    emulator.upgrade();
    let after = said(monitor);
    assert!(after.contains("another vfnic goes on"), "{after}");
    assert!(after.contains("start this again"), "{after}");
    let monitor = listening(&emulator);
    emulator.kill();
    let after = said(monitor);
    assert!(after.contains("vfnic has ended"), "{after}");
    emulator.restart();
}

#[test]
fn a_refused_capture_leaves_the_file_as_it_was() {
    let emulator = Emulator::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.pcapng");
    std::fs::write(&file, "mine").unwrap();
    let file = file.to_str().unwrap();
    for words in ["vf 9", "wire flow-type ether dts 1", "--nic foo wire"] {
        let words = words.split(' ');
        let args: Vec<_> = ["capture", "-w", file].into_iter().chain(words).collect();
        let output = emulator.vfnic(&args);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "mine", "{args:?}");
    }
    let nobody = vfnic(&["--ctl", "/no/such", "capture", "-w", file, "wire"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");
}

#[test]
fn wireshark_finds_the_ports_of_nics_that_run() {
    let emulator = Emulator::start(&["--vfs", "2"]);
    let list = emulator.vfnic(&["extcap", "--extcap-interfaces"]);
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(text.starts_with("extcap {version="), "{text}");
    for port in ["vf0", "vf1", "wire", "pf"] {
        assert!(
            text.contains(&format!("interface {{value=vfnic-nic0-{port}}}")),
            "{text}"
        );
    }
    let dlts = emulator.vfnic(&[
        "extcap",
        "--extcap-interface",
        "vfnic-nic0-vf0",
        "--extcap-dlts",
    ]);
    assert!(
        String::from_utf8(dlts.stdout)
            .unwrap()
            .starts_with("dlt {number=1}")
    );
    // No vfnic runs there, and Wireshark says nothing of it.
    let none = vfnic(&[
        "--ctl",
        "/nonexistent/ctl.sock",
        "extcap",
        "--extcap-interfaces",
    ]);
    assert!(none.status.success());

    // As Wireshark runs it, from a link in its folder.
    let Ok(tshark) = Command::new("tshark").arg("--version").output() else {
        eprintln!("skipped: tshark's list of interfaces, because tshark is not installed");
        return;
    };
    assert!(tshark.status.success());
    let home = tempfile::tempdir().unwrap();
    let extcap = home.path().join(".config/wireshark/extcap");
    std::fs::create_dir_all(&extcap).unwrap();
    symlink(env!("CARGO_BIN_EXE_vfnic"), extcap.join("vfnic")).unwrap();
    let runtime = home.path().join("run");
    std::fs::create_dir_all(runtime.join("vfnic")).unwrap();
    symlink(emulator.ctl(), runtime.join("vfnic/ctl.sock")).unwrap();
    let listed = Command::new("tshark")
        .arg("-D")
        .env("HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path().join(".config"))
        .env("XDG_RUNTIME_DIR", &runtime)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("vfnic-nic0-vf0"), "{listed}");
}

/// As tcpdump shows what leaves by a device with netem, and what is lost with its reason.
#[test]
fn what_an_impaired_port_loses_is_captured_once() {
    let emulator = Emulator::with_config(&back_to_back(1));
    let [mut a, mut b] = ["a-vf0.sock", "b-vf0.sock"].map(|name| open(&emulator, name));
    pass(&mut a, &mut b);
    emulator.does("link set dev a netem loss 50% delay 1ms seed 1");
    let file = emulator.path("wire.pcapng");
    let watcher = Watcher::capture(&emulator, "a wire", &file);
    let drops = emulator.path("drops.pcapng");
    let dropped = Watcher::capture(&emulator, "a wire --drops", &drops);
    let frames: Vec<_> = (0..100).map(|_| a.frame(b.mac, 100)).collect();
    frames.iter().for_each(|frame| a.send(frame));
    wait_for("all have left or are lost", || {
        let nic = &emulator.show().nics[0];
        let lost = nic
            .link
            .counters
            .tx_drops
            .get("netem_loss")
            .copied()
            .unwrap_or(0);
        while b.poll().is_some() {}
        (emulator.vf(1, 0).total.rx_packets + lost >= 102 && lost > 0).then_some(())
    });
    watcher.end();
    dropped.end();
    let contents = Contents::read(&file);
    let lost = |frame: &&CapturedFrame| {
        let comments = &frame.comments;
        comments
            .iter()
            .any(|said| said.starts_with("dropped: netem_loss"))
    };
    for frame in &frames {
        let shown = contents.frames.iter().filter(|seen| seen.data == *frame);
        assert_eq!(shown.count(), 1);
    }
    let marked = contents.frames.iter().filter(lost).count();
    assert!((20..80).contains(&marked), "{marked}");
    let only = Contents::read(&drops);
    assert_eq!(only.frames.iter().filter(lost).count(), marked);
    assert_eq!(only.frames.len(), marked);
}

/// What a guest leaves to its NIC is done on a wire, and what has left by it does not come in.
#[test]
fn what_came_in_by_a_captured_wire_can_be_replayed() {
    let emulator = Emulator::with_config(&back_to_back(1));
    let config = NetConfig {
        features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO,
        ..NetConfig::default()
    };
    let [mut a, mut b] =
        ["a-vf0.sock", "b-vf0.sock"].map(|name| Port::open_with(&emulator.path(name), &config));
    let file = emulator.path("replay.pcapng");
    let watcher = Watcher::capture(&emulator, "b wire", &file);
    let offload = |gso_type| NetHeader {
        flags: 1,
        gso_type,
        gso_size: 1000,
        csum_start: 34,
        csum_offset: 16,
        ..NetHeader::default()
    };
    for (payload, gso_type) in [(4000, 1), (500, 0)] {
        let mut frame = vf_packet::testing::super_frame(false, 0, payload);
        frame[..6].copy_from_slice(&b.mac);
        frame[6..12].copy_from_slice(&a.mac);
        // The IP header's own, and of TCP the pseudo header's.
        frame[24..26].fill(0);
        let of_ip = Sum::default().with(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&of_ip.to_be_bytes());
        let pseudo = Sum::default().with(&frame[26..34]).with_u16(6);
        let pseudo = pseudo.with_u16(frame.len() as u16 - 34).folded();
        frame[50..52].copy_from_slice(&pseudo.to_be_bytes());
        assert!(a.net.send(0, &offload(gso_type), &frame).unwrap());
        a.net.kick();
        wait_for("it arrives", || b.poll().map(drop));
    }
    let back = b.frame(a.mac, 100);
    b.send(&back);
    a.gets(&back);
    watcher.end();
    assert_eq!(Contents::read(&file).frames.len(), 4 + 1 + 1);

    let mac = emulator.vf(1, 0).state.mac;
    let replay = Emulator::with_config(&format!(
        "[[nic]]\nname = 'b'\nuplink = 'pcap {} delay 2s'\n[[nic.vf]]\nindex = 0\nmac = '{mac}'\n",
        file.display()
    ));
    let plain = NetConfig {
        features: NetConfig::PLAIN,
        ..NetConfig::default()
    };
    let mut guest = Port::open_with(&replay.path("b-vf0.sock"), &plain);
    for _ in 0..5 {
        let frame = wait_for("a frame is played", || guest.poll().map(<[u8]>::to_vec));
        let _ = vf_packet::testing::verify(&frame);
    }
    assert_eq!(replay.show().nics[0].link.xstats["rx_replayed"], 5);
}
