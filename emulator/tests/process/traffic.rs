//! VF to VF traffic on both paths, within a NIC and across the wire.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use vf_guest::net::{NetConfig, NetHeader};
use vf_guest::tcp::GuestConfig;
use vf_vhost::packet_socket::PacketSocket;

use crate::emulator::{BACK_TO_BACK, Emulator, back_to_back, drops, wait_for};
use crate::host::{Host, await_bytes, stream};
use crate::port::{BROADCAST, Port, pass};

const BYTES: u64 = 4_000_000;

/// Streams both ways between two sockets, whole to the last byte.
fn streams_arrive(emulator: &Emulator, sockets: [&str; 2], tso: bool, queue_pairs: u16) {
    let offload = if tso { NetConfig::TSO } else { 0 };
    let net = NetConfig {
        features: NetConfig::default().features | offload,
        queue_pairs,
        ..NetConfig::default()
    };
    let config = GuestConfig {
        tso,
        ..GuestConfig::default()
    };
    let [a, b] = [(sockets[0], 1), (sockets[1], 2)]
        .map(|(s, n)| Host::start_with(emulator.path(s), n, config.clone(), net.clone()));
    let there = stream(&a, &b, 5001, Some(BYTES));
    let back = stream(&b, &a, 5002, Some(BYTES));
    await_bytes(&b, there, BYTES);
    await_bytes(&a, back, BYTES);
    assert_eq!(b.stream(there).received, BYTES);
    assert_eq!(a.stream(back).received, BYTES);
    let bad = [&a, &b].map(|h| h.with(|guest| guest.stats().rx_bad_checksum));
    assert_eq!(bad, [0, 0], "frames with wrong checksums");
}

#[test]
fn tcp_across_the_wire_arrives_whole_on_both_paths() {
    let emulator = Emulator::with_config(BACK_TO_BACK);
    for path in ["direct", "mediated"] {
        for nic in ["a", "b"] {
            emulator.does(&format!("--nic {nic} vf 0 set path {path}"));
        }
        for tso in [false, true] {
            streams_arrive(&emulator, ["a-vf0.sock", "b-vf0.sock"], tso, 1);
        }
        for nic in 0..2 {
            let vf = emulator.vf(nic, 0);
            let (used, other) = match path {
                "direct" => (&vf.direct, &vf.mediated),
                _ => (&vf.mediated, &vf.direct),
            };
            assert_eq!(vf.path, path);
            assert!(used.tx_bytes > 2 * BYTES, "{vf:?}");
            assert!(used.rx_bytes > 2 * BYTES, "{vf:?}");
            assert!(path == "mediated" || other.tx_packets == 0, "{vf:?}");
        }
    }
    let wire = &emulator.show().nics[0].link.counters;
    assert!(
        wire.tx_bytes > 4 * BYTES && wire.rx_bytes > 4 * BYTES,
        "{wire:?}"
    );
    assert_eq!(drops(wire), []);
}

#[test]
fn path_auto_learns_its_flows_while_they_run() {
    for workers in [1, 2] {
        let emulator = Emulator::with_config(&back_to_back(workers));
        for nic in ["a", "b"] {
            emulator.does(&format!("--nic {nic} vf 0 set path auto max_filters 4"));
        }
        for tso in [false, true] {
            streams_arrive(&emulator, ["a-vf0.sock", "b-vf0.sock"], tso, 1);
        }
        for nic in 0..2 {
            let vf = emulator.vf(nic, 0);
            assert_eq!((vf.path.as_str(), vf.mediated.tx_packets), ("auto", 0));
            let auto = vf.auto.unwrap();
            let counted = auto.counters;
            // Whole streams have passed straight, and little more than their beginnings by way of the hypervisor.
            assert!(counted.fastpath_rx_bytes > BYTES, "{auto:?}");
            assert!(counted.fastpath_tx_bytes > BYTES, "{auto:?}");
            assert!(counted.slowpath_rx_packets > 0, "{auto:?}");
            assert!(counted.slowpath_tx_packets > 0, "{auto:?}");
            assert!(auto.learned >= 2 && auto.filters >= 2, "{auto:?}");
            assert_eq!(auto.max_filters, 4);
        }
        let shown = emulator.vfnic(&["--nic", "a", "filter", "show"]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("vf 0 priority hint"), "{shown}");
        // Without a link all is forgotten, and learned again.
        emulator.does("--nic a link set down");
        let auto = emulator.vf(0, 0).auto.unwrap();
        assert_eq!(auto.filters, 0);
        let before = auto.counters.fastpath_rx_bytes;
        emulator.does("--nic a link set up");
        streams_arrive(&emulator, ["a-vf0.sock", "b-vf0.sock"], false, 1);
        let after = emulator.vf(0, 0).auto.unwrap().counters.fastpath_rx_bytes;
        assert!(after > before + BYTES / 2, "{before} {after}");
    }
}

#[test]
fn what_is_sent_is_impaired_as_the_sender_says_and_shown() {
    let config = BACK_TO_BACK
        .replacen("'a'", "'a'\nnetem = 'delay 30ms duplicate 100%'", 1)
        .replacen("'b'\n", "'b'\nnetem = 'loss 100%'\n", 1);
    let emulator = Emulator::with_config(&config);
    let [mut a, mut b] =
        ["a-vf0.sock", "b-vf0.sock"].map(|socket| Port::open(&emulator.path(socket)));
    let frame = a.frame(b.mac, 60);
    let sent = Instant::now();
    a.send(&frame);
    b.gets(&frame);
    // The threads slept meanwhile.
    assert!(sent.elapsed() >= Duration::from_millis(30));
    b.gets(&frame);
    let lost = b.frame(a.mac, 60);
    b.send(&lost);
    a.never_gets(&lost);
    let [ours, theirs] = &emulator.show().nics[..] else {
        panic!("two NICs");
    };
    assert_eq!(ours.uplink, "wire netem delay 30ms duplicate 100%");
    assert_eq!(ours.link.xstats["netem_duplicated"], 1);
    assert_eq!(ours.link.counters.tx_packets, 1);
    assert_eq!(drops(&theirs.link.counters), [("netem_loss".to_owned(), 1)]);
}

#[test]
fn tcp_with_segmentation_arrives_whole_over_an_impaired_wire() {
    let config = BACK_TO_BACK.to_owned() + "netem = 'delay 200us 50us loss 0.2% reorder 2%'\n";
    let emulator = Emulator::with_config(&config);
    streams_arrive(&emulator, ["a-vf0.sock", "b-vf0.sock"], true, 1);
    let lost = |nic: usize| emulator.show().nics[nic].link.counters.tx_drops["netem_loss"];
    assert!(lost(0) > 0 && lost(1) > 0);
}

#[test]
fn tcp_within_a_nic_arrives_whole_on_equal_and_unequal_paths() {
    let emulator = Emulator::start(&["--queue-pairs", "2"]);
    for (first, second) in [
        ("direct", "direct"),
        ("direct", "mediated"),
        ("mediated", "mediated"),
        ("mediated", "direct"),
    ] {
        emulator.does(&format!("vf 0 set path {first}"));
        emulator.does(&format!("vf 1 set path {second}"));
        for queue_pairs in [1, 2] {
            streams_arrive(&emulator, ["vf0.sock", "vf1.sock"], false, queue_pairs);
        }
    }
}

#[test]
fn tcp_between_workers_arrives_whole_and_is_counted_once() {
    let emulator = Emulator::start(&["--workers", "2"]);
    for tso in [false, true] {
        streams_arrive(&emulator, ["vf0.sock", "vf1.sock"], tso, 2);
    }
    let nic = &emulator.show().nics[0];
    let names: Vec<_> = nic.workers.iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names, ["worker0-nic0", "worker1-nic0", "hyp-nic0"]);
    let [first, second, _] = &nic.workers[..] else {
        unreachable!()
    };
    assert_eq!(nic.worker.busy_ns, first.busy_ns + second.busy_ns);
    let text = emulator.vfnic(&["show", "workers"]).stdout;
    assert!(String::from_utf8(text).unwrap().contains("worker1-nic0: "));
    for (from, to, worker) in [(0, 1, first), (1, 0, second)] {
        let (sent, received) = (&nic.vfs[from].total, &nic.vfs[to].total);
        assert!(sent.tx_bytes > 2 * BYTES, "{sent:?}");
        let lost: u64 = received.rx_drops.values().sum();
        let on_wire = nic.link.counters.tx_packets; // groups and first frames
        assert!(received.rx_packets + lost <= sent.tx_packets);
        assert!(received.rx_packets + lost + on_wire >= sent.tx_packets);
        assert!(worker.handed_over + on_wire >= sent.tx_packets);
        let by_queue: u64 = nic.vfs[to].queues.iter().map(|q| q.rx_packets).sum();
        assert_eq!(by_queue, received.rx_packets);
    }
}

#[test]
fn both_paths_agree_on_who_receives_what() {
    paths_agree(1);
}

#[test]
fn both_paths_agree_on_who_receives_what_from_which_worker() {
    paths_agree(2);
}

fn paths_agree(workers: usize) {
    let emulator = Emulator::with_config(&format!(
        "{}[[nic]]\nname = 'c'\n",
        back_to_back(workers).replacen("'a'\n", "'a'\nvfs = 3\n", 1)
    ));
    let mut ports: Vec<Port> = ["a-vf0", "a-vf1", "a-vf2", "b-vf0", "b-vf1"]
        .map(|name| Port::open(&emulator.path(&format!("{name}.sock"))))
        .into();
    // Every set of paths of the five VFs.
    for paths in 0..1 << ports.len() {
        for (i, at) in ["a vf 0", "a vf 1", "a vf 2", "b vf 0", "b vf 1"]
            .iter()
            .enumerate()
        {
            let path = ["direct", "mediated"][paths >> i & 1];
            crate::control::command(&emulator, &format!("{at} set path {path}"));
        }
        let sender = paths % ports.len();
        let frame = ports[sender].frame(BROADCAST, 200);
        ports[sender].send(&frame);
        for (i, port) in ports.iter_mut().enumerate() {
            if i != sender {
                port.gets(&frame);
            }
        }
        // Once each, and not to the sender: whatever comes next is the unicast frame.
        for to in 0..ports.len() {
            if to == sender {
                continue;
            }
            let frame = {
                let mac = ports[to].mac;
                ports[sender].frame(mac, 1514)
            };
            ports[sender].send(&frame);
            let got = crate::emulator::wait_for("a frame", || ports[to].poll().map(<[u8]>::to_vec));
            assert_eq!(got, frame, "paths {paths:05b}, {sender} to {to}");
        }
        assert_eq!(ports[sender].poll(), None);
    }
    let [a, b, ..] = &mut ports[..] else {
        unreachable!()
    };
    pass(a, b);
}

/// On a slow wire a ring full of frames takes seconds.
#[test]
fn a_queue_that_waits_for_the_wire_does_not_hold_its_vfs_other_queues() {
    for workers in [1, 2] {
        let config = back_to_back(workers) + "rate = '1M'\n";
        let emulator = Emulator::with_config(&config);
        let net = NetConfig {
            queue_pairs: 2,
            ..NetConfig::default()
        };
        // With two workers the port is with the other VF's.
        let mut sender = Port::open_with(&emulator.path("a-vf1.sock"), &net);
        let [mut near, far] =
            ["a-vf0.sock", "b-vf0.sock"].map(|socket| Port::open(&emulator.path(socket)));
        let send = |port: &mut Port, pair, dst, len| {
            let frame = port.frame(dst, len);
            let sent = port.net.send(pair, &NetHeader::default(), &frame).unwrap();
            port.net.kick();
            (sent, frame)
        };
        // Between the workers there is room for as many as a ring has.
        for _ in 0..256 * workers - 50 {
            wait_for("room in the send ring", || {
                send(&mut sender, 0, far.mac, 1514).0.then_some(())
            });
        }
        for _ in 0..500 {
            let (sent, frame) = send(&mut sender, 1, near.mac, 60);
            assert!(sent);
            near.gets(&frame);
        }
        sender.net.tx_room(0).unwrap();
        let waiting = sender.net.tx_ring(0).queue.outstanding();
        assert!(
            waiting > 0,
            "{workers} workers: nothing waits for the wire any more"
        );
        assert_eq!(drops(&emulator.vf(0, 0).total), []);
    }
}

/// A TCP stream each way between guests of two NICs with these uplinks.
fn streams_arrive_over(uplinks: [&str; 2]) {
    let nic = |name: &str, uplink| format!("[[nic]]\nname = '{name}'\nuplink = '{uplink}'\n");
    let config = nic("a", uplinks[0]) + &nic("b", uplinks[1]);
    let emulator = Emulator::with_config(&config);
    for tso in [false, true] {
        streams_arrive(&emulator, ["a-vf0.sock", "b-vf0.sock"], tso, 1);
    }
    let wire = emulator.show().nics.remove(0).link.counters;
    assert!(wire.tx_bytes > BYTES && wire.rx_bytes > BYTES, "{wire:?}");
}

#[test]
fn tcp_arrives_whole_through_a_vxlan_tunnel() {
    let port = 30_000 + std::process::id() % 20_000;
    for (a, b) in [("127.0.0.1", "127.0.0.2"), ("::1", "::1")] {
        // This host has one IPv6 address, so there the ends are told apart by their ports.
        let end = |local: &str, remote: &str, n: u32| match local {
            "::1" => format!(
                "vxlan id 42 local ::1 dstport {} remote [::1]:{}",
                port + n,
                port + 1 - n
            ),
            _ => format!("vxlan id 42 local {local} dstport {port} remote {remote}"),
        };
        if a == "::1" && std::net::UdpSocket::bind("[::1]:0").is_err() {
            println!("skipped: VXLAN over IPv6, because this host has no ::1");
            continue;
        }
        streams_arrive_over([&end(a, b, 0), &end(b, a, 1)]);
    }
}

/// Runs this with both ends of a cable, a pair of veth devices, unless there can be none.
fn on_a_cable(what: &str, job: impl FnOnce([&str; 2], &dyn Fn(&str) -> bool)) {
    let ip = |words: &str| {
        let ip = std::process::Command::new("ip")
            .args(words.split(' '))
            .output();
        ip.is_ok_and(|output| output.status.success())
    };
    let id = std::process::id() % 100_000;
    let [a, b] = ["a", "b"].map(|end| format!("{what:.2}{end}{id}"));
    if !ip(&format!("link add {a} type veth peer name {b}")) {
        println!("skipped: {what}, because 'ip' cannot make veth devices here");
        return;
    }
    let up = |name: &String| ip(&format!("link set {name} mtu 9000 up"));
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        assert!(up(&a) && up(&b));
        job([&a, &b], &ip);
    }));
    ip(&format!("link del {a}"));
    result.unwrap();
}

#[test]
fn tcp_arrives_whole_over_macvtap_devices_on_two_ends_of_a_cable() {
    on_a_cable("macvtap devices", |ends, ip| {
        let made = ends.map(|end| {
            let made = ip(&format!(
                "link add link {end} name {end}t type macvtap mode passthru"
            ));
            (made && ip(&format!("link set {end}t mtu 9000 up"))).then(|| format!("macvtap {end}t"))
        });
        match made {
            [Some(a), Some(b)] => streams_arrive_over([&a, &b]),
            _ => println!("skipped: macvtap devices, because 'ip' cannot make them here"),
        }
    });
}

#[test]
fn tcp_arrives_whole_over_packet_sockets_on_two_ends_of_a_cable() {
    on_a_cable("packet sockets", |[a, b], _| {
        streams_arrive_over([&format!("packet {a}"), &format!("packet {b}")]);
    });
}

/// As two hosts on an Ethernet of 1500 have it that the guide's first line joins.
#[test]
fn it_is_said_what_is_too_long_for_a_tunnel() {
    on_a_cable("tunnels on a cable", |[a, _], ip| {
        assert!(ip(&format!("address add 198.18.77.1/24 dev {a}")));
        let start = |mtu: &str| {
            let port = 30_000 + std::process::id() % 20_000;
            Emulator::with_config(&format!(
                "[[nic]]\nname = 'a'\n{mtu}uplink = 'vxlan id 42 local 198.18.77.1 dstport {port} remote 198.18.77.2'\n"
            ))
            .log()
        };
        let says = |log: &str| log.contains("do not pass");
        assert!(!says(&start("")), "of an MTU of 9000");
        assert!(ip(&format!("link set {a} mtu 1500")));
        let log = start("");
        assert!(
            log.contains("packets over 1450 bytes do not pass vxlan id 42"),
            "{log}"
        );
        assert!(log.contains("say mtu = 1450"), "{log}");
        assert!(!says(&start("mtu = 1450\n")));
    });
}

#[test]
fn tags_pass_a_packet_socket_as_they_are() {
    on_a_cable("tags of a packet socket", |[a, b], _| {
        let emulator = Emulator::with_config(&format!(
            "[[nic]]\nname = 'a'\nuplink = 'packet {a}'\n[[nic]]\nname = 'b'\nuplink = 'packet {b}'\n"
        ));
        let [mut from, mut to] =
            ["a-vf0.sock", "b-vf0.sock"].map(|socket| Port::open(&emulator.path(socket)));
        for tags in [&[0x81, 0, 0, 5][..], &[0x88, 0xa8, 0x60, 7, 0x81, 0, 0, 9]] {
            let mut frame = from.frame(to.mac, 200);
            frame.splice(12..12, tags.iter().copied());
            from.send(&frame);
            to.gets(&frame);
        }
    });
}

/// A NIC's port as a front end of another NIC's VF, and of nobody for a while.
#[test]
fn tcp_arrives_whole_over_a_vhost_user_back_end() {
    let mut there = Emulator::start(&["--vfs", "2"]);
    for vf in 0..2 {
        there.does(&format!("vf {vf} mac add 02:00:00:00:0{}:00", vf + 1));
    }
    let config = |name: &str, vf: u8, mac: u8| {
        let socket = there.path(&format!("vf{vf}.sock"));
        let socket = socket.display();
        format!(
            "[[nic]]\nname = '{name}'\nmac_base = '02:00:00:00:0{mac}:00'\nuplink = 'vhost-user {socket}'\n"
        )
    };
    let here = Emulator::with_config(&(config("a", 0, 1) + &config("b", 1, 2)));
    for again in [false, true] {
        if again {
            there.kill();
            there.restart();
        }
        wait_for("both sessions", || {
            (there.vf(0, 0).rings == 2 && there.vf(0, 1).rings == 2).then_some(())
        });
        streams_arrive(&here, ["a-vf0.sock", "b-vf0.sock"], true, 1);
    }
}

/// As a bond or a routing daemon in a guest wants it, which fails over when the link is down.
#[test]
fn a_port_has_a_carrier_while_its_back_end_has_one() {
    let mut there = Emulator::start(&["--vfs", "1"]);
    let socket = there.path("vf0.sock");
    let here = Emulator::with_config(&format!(
        "[[nic]]\nname = 'a'\nuplink = 'vhost-user {}'\n",
        socket.display()
    ));
    let guest = Port::open(&here.path("a-vf0.sock"));
    let sees = |up: bool, what: &str| {
        wait_for(what, || {
            let nic = here.show().nics.remove(0);
            let told = nic.vfs[0].state.link == if up { "up" } else { "down" };
            (nic.link.carrier == up && told).then_some(())
        });
    };
    sees(true, "the back end is there");
    there.does("vf 0 set state disable");
    sees(false, "the back end says that its link is down");
    there.does("vf 0 set state enable");
    sees(true, "and up");
    there.kill();
    sees(false, "the back end has gone");
    let log = here.log();
    assert!(log.contains("its other end is not there any more"), "{log}");
    there.restart();
    sees(true, "the back end is there again");
    drop(guest);
}

/// As long as a thread may have to wait for its turn: what a tap of the kernel's would hold.
#[test]
fn frames_wait_for_a_front_end_of_ours_that_has_no_turn() {
    const MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
    let there = Emulator::start(&["--vfs", "2"]);
    there.does("vf 0 mac add 02:00:00:00:01:00");
    let socket = there.path("vf0.sock");
    let here = Emulator::with_config(&format!(
        "[[nic]]\nname = 'a'\nuplink = 'vhost-user {}'\n",
        socket.display()
    ));
    wait_for("the session", || (there.vf(0, 0).rings == 2).then_some(()));
    let mut sender = Port::open(&there.path("vf1.sock"));
    let to_here = |signal| {
        let pid = Pid::from_raw(here.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    };
    to_here(rustix::process::Signal::STOP);
    for _ in 0..600 {
        let frame = sender.frame(MAC, 1514);
        sender.send(&frame);
    }
    let judged = |vf| there.vf(0, vf).total;
    wait_for("all have been sent", || {
        (judged(1).tx_packets == 600).then_some(())
    });
    to_here(rustix::process::Signal::CONT);
    assert_eq!(drops(&judged(0)), []);
    wait_for("all have come", || {
        let dropped = &here.show().nics[0].link.counters.rx_drops;
        (dropped.get("no_receiver") == Some(&600)).then_some(())
    });
}

/// The thread that is the back end's front end is faster than who reads what it has.
#[test]
fn what_a_vhost_user_back_end_sends_is_not_lost_on_the_way_to_the_port() {
    const MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
    let there = Emulator::start(&["--vfs", "2"]);
    there.does("vf 0 mac add 02:00:00:00:01:00");
    let socket = there.path("vf0.sock");
    let here = Emulator::with_config(&format!(
        "[[nic]]\nname = 'a'\nuplink = 'vhost-user {}'\n",
        socket.display()
    ));
    wait_for("the session", || (there.vf(0, 0).rings == 2).then_some(()));
    // Who reads has to wait for its turn behind a thread that has all of them.
    let mut first = CpuSet::new();
    first.set(0);
    for task in std::fs::read_dir(format!("/proc/{}/task", here.pid())).unwrap() {
        let task = task.unwrap();
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap();
        if name.trim() != "vhost-user" {
            let id = task.file_name().into_string().unwrap().parse().unwrap();
            sched_setaffinity(Pid::from_raw(id), &first).unwrap();
            setpriority_process(Pid::from_raw(id), 19).unwrap();
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sched_setaffinity(None, &first).unwrap();
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        let mut sender = Port::open(&there.path("vf1.sock"));
        let frame = sender.frame(MAC, 1514);
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            while sender.offer(&frame) {}
            sender.net.kick();
            // Its ring takes them again once they have gone.
            std::thread::sleep(Duration::from_micros(200));
        }
        over.store(true, Ordering::Relaxed);
    });
    // Nobody here has such an address, so they end at the port.
    wait_for("what the back end has given", || {
        let given = there.vf(0, 0).total.rx_packets;
        let link = here.show().nics.remove(0).link.counters;
        let came: u64 = drops(&link).iter().map(|(_, n)| n).sum();
        (given > 1000 && came + link.rx_packets == given).then_some(())
    });
}

/// While a NIC stands still, its host has room for so many frames.
#[test]
fn what_a_packet_socket_has_no_room_for_is_counted() {
    on_a_cable("packet sockets", |[a, b], _| {
        let emulator =
            Emulator::with_config(&format!("[[nic]]\nname = 'a'\nuplink = 'packet {a}'\n"));
        let index = std::fs::read_to_string(format!("/sys/class/net/{b}/ifindex")).unwrap();
        let cable = PacketSocket::open(index.trim().parse().unwrap()).unwrap();
        let pid = Pid::from_raw(emulator.pid().cast_signed()).unwrap();
        let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
        signal(rustix::process::Signal::STOP);
        // A virtio-net header of zeros is in front.
        let mut frame = vec![0; 10];
        frame.extend([2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 8, 8, 0x88, 0xb5]);
        frame.resize(10 + 1500, 7);
        let mut sent = 0;
        let mut send = || {
            wait_for("room on the cable", || {
                rustix::io::write(&cable, &frame).ok()
            });
            sent += 1;
            sent
        };
        for _ in 0..10_000 {
            send();
        }
        signal(rustix::process::Signal::CONT);
        // The count comes along with the next frame that finds room. What the host has sent by itself is seen, too.
        wait_for("all of them", || {
            let sent = send();
            let link = emulator.show().nics.remove(0).link;
            let seen: u64 = drops(&link.counters).iter().map(|(_, n)| n).sum();
            let missed = link.xstats["rx_missed"];
            (missed > 0 && seen + link.counters.rx_packets + missed >= sent).then_some(())
        });
    });
}
