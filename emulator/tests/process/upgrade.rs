//! Another process goes on where `vfnic` is, under traffic, and guests notice nothing: the same sessions, every frame once. Five upgrades
//! of each kind unless `VFNIC_UPGRADES` says how many.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pcap_file::pcap::{PcapPacket, PcapWriter};
use vf_guest::memory::GuestMemory;
use vf_guest::net::{NetConfig, feature};
use vfnic::control::{Connection, Request, Response, ask};
use vfnic::handover::FORMAT;

use crate::blocking::negotiated;
use crate::control::command;
use crate::emulator::{BACK_TO_BACK, DEADLINE, Emulator, back_to_back, drops, wait_for};
use crate::host::{Host, await_progress, stream};
use crate::port::{Port, pass};
use crate::sandbox::of_threads;
use crate::switching::ports_with;

const PACKED: u64 = NetConfig::PLAIN | NetConfig::CHECKSUM | feature::RING_PACKED;
const SPLIT: u64 = NetConfig::PLAIN | NetConfig::CHECKSUM;
const VFS: [&str; 4] = ["a vf 0", "a vf 1", "b vf 0", "b vf 1"];

fn upgrades() -> usize {
    std::env::var("VFNIC_UPGRADES").map_or(5, |n| n.parse().unwrap())
}

/// `disturb` is done again and again while frames pass; each is to come to everybody it is for exactly once, in order.
fn nothing_is_lost(
    file: &str,
    path: &str,
    features: u64,
    mut disturb: impl FnMut(&mut Emulator) + Send,
) {
    let mut emulator = Emulator::with_config(file);
    for vf in VFS {
        command(&emulator, &format!("{vf} set path {path}"));
    }
    let mut traffic = ports_with(&emulator, features);
    traffic.run(0, 1000);
    let mut sent = 1000;
    std::thread::scope(|scope| {
        let disturber = scope.spawn(|| {
            for _ in 0..upgrades() {
                disturb(&mut emulator);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        while !disturber.is_finished() {
            traffic.run(sent, 1000);
            sent += 1000;
        }
        disturber.join().unwrap();
    });
    traffic.run(sent, 1000);
    sent += 1000;
    traffic.check();
    assert_eq!(traffic.out_of_order, 0);
    let show = emulator.show();
    for nic in &show.nics {
        for vf in &nic.vfs {
            assert_eq!(drops(&vf.total), [], "{} vf {}", nic.name, vf.vf);
            assert_eq!((vf.sessions, vf.refusals), (1, 0));
            assert!(vf.connected && vf.path == path);
        }
    }
    // What was counted before is counted still.
    assert_eq!(show.nics[0].vfs[0].total.tx_packets, u64::from(sent));
    assert_eq!(show.nics[0].vfs[0].queues[0].tx_packets, u64::from(sent));
}

#[test]
fn upgrades_under_load_lose_and_double_nothing_on_the_direct_path() {
    nothing_is_lost(BACK_TO_BACK, "direct", SPLIT, Emulator::upgrade);
    nothing_is_lost(&back_to_back(2), "direct", PACKED, Emulator::upgrade);
}

#[test]
fn upgrades_under_load_lose_and_double_nothing_on_the_mediated_path() {
    nothing_is_lost(&back_to_back(2), "mediated", SPLIT, Emulator::upgrade);
    nothing_is_lost(BACK_TO_BACK, "mediated", PACKED, Emulator::upgrade);
}

#[test]
fn upgrades_under_load_lose_and_double_nothing_on_path_auto() {
    nothing_is_lost(BACK_TO_BACK, "auto", SPLIT, Emulator::upgrade);
}

#[test]
fn a_relative_folder_is_that_in_which_it_was_said() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = dir.path().join("t");
    let ctl = folder.join("ctl.sock");
    let run = |args: &[&str], from: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfnic"));
        command.args(args).current_dir(from).env_remove("RUST_LOG");
        command
    };
    let mut first = run(&["run", "--quiet", "--socket-dir", "t"], dir.path())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("vfnic answers", || ask(&ctl, &Request::Show).ok());
    let asks = |args: &[&str]| {
        let mut asked = run(args, other.path());
        let output = asked.arg("--ctl").arg(&ctl).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let socket = folder.join("vf0.sock").display().to_string();
    for args in [["show", "--json"], ["guest", "0"]] {
        assert!(asks(&args).contains(&socket), "{args:?}");
    }
    let guest = asks(&["guest", "0", "--for", "podman"]);
    assert!(
        guest.contains(&format!("-v {socket}:/vfnic/vf0.sock:z ")),
        "{guest}"
    );
    asks(&["upgrade"]);
    asks(&["vf", "0", "set", "trust", "on"]);
    assert!(folder.join("state.toml").exists());
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
    first.wait().unwrap();
    let pid = std::fs::read_to_string(folder.join("ready")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    for name in ["ready", "ctl.sock", "vf0.sock"] {
        wait_for(name, || (!folder.join(name).exists()).then_some(()));
    }
}

/// How long guests stood still, as each process that has gone on says.
fn stood_still(emulator: &Emulator) -> Vec<String> {
    let log = emulator.log();
    let said = log.lines().filter_map(|line| {
        let (_, stood) = line.split_once("guests stood still for ")?;
        Some(stood.to_owned())
    });
    said.collect()
}

#[test]
fn the_log_goes_on_where_it_was() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    // Ends when nobody can write to standard error any more, and not before.
    let output = emulator.try_to_upgrade(&[]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    emulator.follow();
    wait_for("a line of the log", || {
        (stood_still(&emulator).len() == 1).then_some(())
    });
}

#[test]
fn whoever_goes_on_says_how_long_guests_stood_still() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let _guests = VFS.map(|vf| Port::open(&emulator.path(&(vf.replace(" vf ", "-vf") + ".sock"))));
    for n in 1..=upgrades() {
        emulator.upgrade();
        // The log has a thread of its own.
        wait_for("a line of the log", || {
            (stood_still(&emulator).len() == n).then_some(())
        });
    }
    println!(
        "guests of two NICs stood still for {}",
        stood_still(&emulator).join(", ")
    );
}

#[test]
fn the_service_manager_is_told_of_a_process_that_is_its_own_child() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let path = emulator.path("manager");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut command = emulator.upgrade_command();
    let command = command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null());
    let mut upgrade = command.spawn().unwrap();
    let mut said = [0; 256];
    let len = manager.recv(&mut said).unwrap();
    let said = std::str::from_utf8(&said[..len]).unwrap();
    let pid = said
        .strip_prefix("MAINPID=")
        .unwrap()
        .lines()
        .next()
        .unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    // systemd kills what it is told of then and is not its own, as it could not wait for its end.
    assert_ne!(parent.unwrap().trim(), upgrade.id().to_string());
    assert!(upgrade.wait().unwrap().success());
    emulator.follow();
}

/// Frames pass from one NIC to another with what is plugged into their ports, however often another process goes on.
fn passes_through_upgrades(uplinks: [&str; 2]) {
    let nic = |name: &str, uplink| format!("[[nic]]\nname = '{name}'\nuplink = '{uplink}'\n");
    let config = nic("a", uplinks[0]) + &nic("b", uplinks[1]);
    let mut emulator = Emulator::with_config(&config);
    let a = Host::start(emulator.path("a-vf0.sock"), 1);
    let b = Host::start(emulator.path("b-vf0.sock"), 2);
    let stream = stream(&a, &b, 5001, None);
    let before = emulator.show().nics[0].link.counters.tx_packets;
    for _ in 0..upgrades() {
        await_progress(&b, stream);
        emulator.upgrade();
        await_progress(&b, stream);
    }
    assert!(b.with(|guest| guest.established()));
    let show = emulator.show();
    assert!(show.nics[0].link.counters.tx_packets > before);
    for nic in &show.nics {
        assert_eq!(nic.vfs[0].sessions, 1);
    }
}

#[test]
fn a_tunnel_goes_on_with_its_socket() {
    let port = 20_000 + std::process::id() % 10_000;
    let end = |local, remote| format!("vxlan id 7 local {local} dstport {port} remote {remote}");
    let [a, b] = [("127.0.0.3", "127.0.0.4"), ("127.0.0.4", "127.0.0.3")];
    passes_through_upgrades([&end(a.0, a.1), &end(b.0, b.1)]);
}

#[test]
fn a_tunnels_own_counters_go_on() {
    let port = 20_000 + std::process::id() % 10_000;
    let mut emulator = Emulator::with_config(&format!(
        "[[nic]]\nname = 'a'\nuplink = 'vxlan id 7 local 127.0.0.5 dstport {port} remote 127.0.0.6'\n"
    ));
    let stranger = std::net::UdpSocket::bind("127.0.0.7:0").unwrap();
    stranger
        .send_to(&[0; 60], ("127.0.0.5", port as u16))
        .unwrap();
    let heard = |emulator: &Emulator| {
        let nic: serde_json::Value = serde_json::from_str(&emulator.settled()).unwrap();
        nic["nics"][0]["link"]
            .to_string()
            .contains("\"vxlan_strangers\":1")
    };
    wait_for("the stranger's datagram", || heard(&emulator).then_some(()));
    emulator.upgrade();
    assert!(heard(&emulator), "{}", emulator.settled());
}

#[test]
fn a_capture_that_is_played_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.pcap");
    let mut writer = PcapWriter::new(File::create(&path).unwrap()).unwrap();
    // Two hundred frames, each of its own length, 5 ms apart.
    let frames: Vec<Vec<u8>> = (0..200_usize)
        .map(|n| {
            let header = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 0x55], &[0x88, 0xb5]].concat();
            header
                .into_iter()
                .chain(std::iter::repeat_n(n as u8, 46 + n))
                .collect()
        })
        .collect();
    for (n, frame) in frames.iter().enumerate() {
        let at = Duration::from_millis(5 * n as u64);
        let packet = PcapPacket::new(at, frame.len() as u32, frame);
        writer.write_packet(&packet).unwrap();
    }
    drop(writer);
    let words = format!("pcap {} delay 2s", path.display());
    let mut emulator = Emulator::with_config(&format!("[[nic]]\nname = 'a'\nuplink = '{words}'\n"));
    let mut to = Port::open(&emulator.path("a-vf0.sock"));
    // Before it has begun, and while it is under way.
    emulator.upgrade();
    for (n, frame) in frames.iter().enumerate() {
        let got = wait_for("each frame in turn", || to.poll().map(<[u8]>::to_vec));
        assert_eq!(&got, frame, "frame {n}");
        if n % 60 == 30 {
            emulator.upgrade();
        }
    }
    assert_eq!(emulator.vf(0, 0).total.rx_packets, 200);
    // It does not begin again.
    emulator.upgrade();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(to.poll(), None);
}

#[test]
fn a_tcp_connection_survives_upgrades() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let a = Host::start(emulator.path("a-vf0.sock"), 1);
    let b = Host::start(emulator.path("b-vf0.sock"), 2);
    let there = stream(&a, &b, 5001, None);
    let back = stream(&b, &a, 5002, None);
    for path in ["direct", "mediated", "auto"] {
        command(&emulator, &format!("a vf 0 set path {path}"));
        await_progress(&b, there);
        emulator.upgrade();
        await_progress(&b, there);
        await_progress(&a, back);
    }
    assert!(a.with(|guest| guest.established()));
    assert!(b.with(|guest| guest.established()));
}

/// All that `show` says but for what is of a process: its times, and what its hypervisor's bridge has learned.
fn shown(emulator: &Emulator) -> serde_json::Value {
    let mut show: serde_json::Value = serde_json::from_str(&emulator.settled()).unwrap();
    for nic in show["nics"].as_array_mut().unwrap() {
        nic.as_object_mut().unwrap().remove("bridge").unwrap();
        let link = nic["link"].as_object_mut().unwrap();
        for time in ["tx_utilisation", "tx_busy_ns"] {
            link.remove(time).unwrap();
        }
    }
    show
}

fn saved(emulator: &Emulator) -> String {
    let output = emulator.vfnic(&["save"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn settings_counters_and_what_drivers_have_asked_for_go_on() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let mut from = Port::open(&emulator.path("a-vf0.sock"));
    let mut to = Port::open(&emulator.path("b-vf0.sock"));
    for words in [
        "a vf 0 set trust on spoofchk off",
        "a vf 1 set path mediated rate 100",
        "a filter add flow-type ether proto 5000 action drop",
        "b vf 1 set path auto",
        "b link set mtu 9000",
        "a vf 0 request mode promisc",
        "a vf 0 request table 02:00:00:00:00:77 01:00:5e:00:00:01",
        "a vf 0 request vlans 5 7",
    ] {
        command(&emulator, words);
    }
    for _ in 0..3 {
        let frame = from.frame(to.mac, 100);
        from.send(&frame);
        assert!(to.gets_within(&frame, DEADLINE));
    }
    let nobody = from.frame([2, 0, 0, 0, 0, 0x99], 100);
    from.send(&nobody);
    wait_for("the drop", || {
        let nics = emulator.show().nics;
        let all = nics.iter().map(|nic| &nic.link.counters);
        let vfs = nics.iter().flat_map(|nic| &nic.vfs).map(|vf| &vf.total);
        let dropped = all.chain(vfs).flat_map(drops).next();
        dropped.map(|_| ())
    });
    let before = (shown(&emulator), saved(&emulator));
    emulator.upgrade();
    assert_eq!((shown(&emulator), saved(&emulator)), before);
    emulator.upgrade();
    assert_eq!((shown(&emulator), saved(&emulator)), before);
    let frame = from.frame(to.mac, 100);
    from.send(&frame);
    assert!(to.gets_within(&frame, DEADLINE));
    // What commands change is kept as ever, and found by whoever starts with the same file.
    command(&emulator, "b vf 1 set vlan 9");
    let last = saved(&emulator);
    drop((from, to));
    emulator.terminate("an upgrade");
    assert!(!emulator.path("a-vf0.sock").exists() && !emulator.path("ready").exists());
    emulator.restart();
    assert_eq!(saved(&emulator), last);
}

/// Else whoever has asked for another's address would have it after the next upgrade, if its VF has the lower number.
#[test]
fn of_two_drivers_the_first_keeps_its_address_in_an_upgrade() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    for words in [
        "a vf 1 request mac 02:00:00:00:00:77",
        "a vf 0 request table 02:00:00:00:00:77",
    ] {
        command(&emulator, words);
    }
    let before = shown(&emulator);
    for _ in 0..2 {
        emulator.upgrade();
        assert_eq!(shown(&emulator), before);
    }
    let [other, chosen] = [0, 1].map(|vf| emulator.vf(0, vf).state.mac);
    assert_eq!(chosen, "02:00:00:00:00:77");
    assert_ne!(other, chosen);
}

#[test]
fn every_thread_of_the_one_that_goes_on_is_confined() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let _guests = VFS.map(|vf| Port::open(&emulator.path(&(vf.replace(" vf ", "-vf") + ".sock"))));
    emulator.upgrade();
    wait_for("all are confined", || {
        let filtered = of_threads(&emulator, "Seccomp:");
        let has_watchdog = filtered.iter().any(|(thread, _)| thread == "watchdog");
        (has_watchdog && filtered.iter().all(|(_, mode)| mode == "2")).then_some(())
    });
    for (thread, held) in of_threads(&emulator, "CapEff:") {
        assert_eq!(held, "0000000000000000", "{thread}");
    }
}

#[test]
fn sockets_without_front_ends_and_sockets_of_commands_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let [metrics, observe] = ["metrics", "observe"].map(|name| dir.path().join(name));
    let address = format!("unix:{}", metrics.display());
    let observers = observe.to_str().unwrap();
    let mut emulator = Emulator::start(&["--metrics", &address, "--observe", observers]);
    emulator.upgrade();
    wait_for("scrapes", || UnixStream::connect(&metrics).ok());
    assert!(matches!(
        ask(&observe, &Request::Save),
        Ok(Response::Save(_))
    ));
    let mut a = Port::open(&emulator.path("vf0.sock"));
    emulator.upgrade();
    let mut b = Port::open(&emulator.path("vf1.sock"));
    let frame = a.frame(b.mac, 100);
    a.send(&frame);
    assert!(b.gets_within(&frame, DEADLINE));
    assert_eq!(emulator.vf(0, 0).sessions, 1);
}

#[test]
fn what_waits_for_buffers_goes_along() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    for vf in VFS {
        command(&emulator, &format!("{vf} set path mediated"));
    }
    let few = NetConfig {
        queue_size: 8,
        ..NetConfig::default()
    };
    let mut from = Port::open(&emulator.path("a-vf0.sock"));
    let mut to = Port::open_with(&emulator.path("b-vf0.sock"), &few);
    let frames: Vec<_> = (0..100).map(|n| from.frame(to.mac, 60 + 14 * n)).collect();
    frames.iter().for_each(|frame| from.send(frame));
    wait_for("all are with the receiver's hypervisor", || {
        let sent = emulator.show().nics[1].link.counters.rx_packets;
        (sent == 100).then_some(())
    });
    emulator.upgrade();
    emulator.upgrade();
    for frame in &frames {
        let got = wait_for("each of them in turn", || to.poll().map(<[u8]>::to_vec));
        assert_eq!(&got, frame);
    }
    assert_eq!(drops(&emulator.vf(1, 0).total), []);
}

/// Asks for everything as a new process does, and goes no further than `until`.
fn asks_and_gives_up(emulator: &Emulator, until: impl FnOnce(&mut UnixStream)) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut connection = Connection::open(&emulator.ctl()).unwrap();
    let request = Request::HandOver { format: FORMAT };
    let answer = connection.ask_with(&request, &[theirs.as_fd()]).unwrap();
    assert!(matches!(answer, Response::Done(_)), "{answer:?}");
    drop(theirs);
    until(&mut ours);
}

#[test]
fn whoever_cannot_go_on_costs_guests_nothing() {
    let mut n = 0;
    nothing_is_lost(BACK_TO_BACK, "direct", SPLIT, |emulator| {
        n += 1;
        asks_and_gives_up(emulator, |ours| match n % 3 {
            // It ends at once, in the middle of what it is sent, and with a word.
            0 => {}
            1 => ours.read_exact(&mut [0; 30]).unwrap(),
            _ => ours.write_all(b"no room\n").unwrap(),
        });
        let output = emulator.try_to_upgrade(&["/bin/false"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    });
    let mut n = 0;
    nothing_is_lost(BACK_TO_BACK, "mediated", PACKED, |emulator| {
        n += 1;
        asks_and_gives_up(emulator, |ours| match n % 2 {
            0 => {}
            _ => ours.write_all(b"no room\n").unwrap(),
        });
    });
}

#[test]
fn nothing_is_handed_over_on_a_connection_that_has_a_name() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let [mut a, mut b] =
        ["a-vf0", "b-vf0"].map(|vf| Port::open(&emulator.path(&format!("{vf}.sock"))));
    let mut connection = Connection::open(&emulator.ctl()).unwrap();
    // Its other end is vfnic's own here. Of another service's it may be anybody's.
    let own = UnixStream::connect(emulator.ctl()).unwrap();
    let request = Request::HandOver { format: FORMAT };
    let answer = connection.ask_with(&request, &[own.as_fd()]).unwrap();
    let Response::Refused(why) = &answer else {
        panic!("{answer:?}");
    };
    assert!(why.contains("only its own user"), "{why}");
    pass(&mut a, &mut b);
    emulator.upgrade();
    pass(&mut a, &mut b);
}

#[test]
fn a_front_end_cannot_refuse_others_an_upgrade() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let [mut a, mut b] =
        ["a-vf0", "b-vf0"].map(|vf| Port::open(&emulator.path(&format!("{vf}.sock"))));
    pass(&mut a, &mut b);
    // Its memory is shorter than it has said by then.
    let mut hostile = negotiated(&emulator.path("a-vf1.sock"));
    let memory = GuestMemory::new(1 << 20, false).unwrap();
    hostile.set_mem_table(memory.regions()).unwrap();
    let file = memory.regions()[0].dup_fd().unwrap();
    rustix::fs::ftruncate(&file, 4096).unwrap();
    emulator.upgrade();
    pass(&mut a, &mut b);
    assert!(hostile.get_features().is_err(), "its session goes on");
    pass(&mut Port::open(&emulator.path("a-vf1.sock")), &mut a);
}

#[test]
fn what_cannot_be_handed_over_is_refused_before_anything_stops() {
    let mut emulator = Emulator::start(&["--device", "ixgbevf"]);
    let before = shown(&emulator);
    let output = emulator.try_to_upgrade(&[]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("does not go on"), "said once: {said}");
    let line = said
        .lines()
        .find(|line| line.contains("handed over"))
        .unwrap();
    assert!(
        line.contains("vf 0: device of hardware cannot be handed over")
            && line.contains("the vfnic that runs goes on"),
        "{line}"
    );
    assert_eq!(shown(&emulator), before);
    assert!(emulator.lives());
    // Nor to a process that would not understand it.
    let mut connection = Connection::open(&emulator.ctl()).unwrap();
    let request = Request::HandOver { format: FORMAT + 1 };
    let answer = connection.ask(&request).unwrap();
    assert!(matches!(answer, Response::Refused(_)), "{answer:?}");
}
