//! Either side killed, and back again.

use vf_guest::frontend::Frontend;
use vf_guest::net::{NetConfig, feature};
use vf_guest::tcp::GuestConfig;

use crate::control::command;
use crate::emulator::{BACK_TO_BACK, Emulator, wait_for};
use crate::host::{Host, await_progress, stream};
use crate::port::{Port, pass};

/// Goes on over a new session with the memory and rings that the guest has, as a front end that reconnects does.
fn reconnect(emulator: &Emulator, socket: &str, host: &Host) {
    let socket = emulator.path(socket);
    let resumed = host.with(move |guest| {
        let frontend = Frontend::connect(socket)?;
        guest.net().resume(frontend, &NetConfig::default())
    });
    resumed.unwrap();
}

#[test]
fn traffic_resumes_after_the_emulator_was_killed() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let a = Host::start(emulator.path("a-vf0.sock"), 1);
    let b = Host::start(emulator.path("b-vf0.sock"), 2);
    let there = stream(&a, &b, 5001, None);
    let back = stream(&b, &a, 5002, None);
    for path in ["direct", "mediated", "direct"] {
        for nic in ["a", "b"] {
            command(&emulator, &format!("{nic} vf 0 set path {path}"));
        }
        await_progress(&b, there);
        await_progress(&a, back);
        emulator.kill();
        assert!(emulator.ctl().exists() && emulator.path("a-vf0.sock").exists());
        emulator.restart();
        reconnect(&emulator, "a-vf0.sock", &a);
        reconnect(&emulator, "b-vf0.sock", &b);
        await_progress(&b, there);
        await_progress(&a, back);
        assert!(a.with(|guest| guest.established()) && b.with(|guest| guest.established()));
    }
}

/// What QEMU has with `packed=on`: it does not know where its rings were, and says that they are new.
fn packed_as_in_qemu() -> NetConfig {
    NetConfig {
        features: (NetConfig::PLAIN | feature::RING_PACKED) & !feature::IN_ORDER,
        forgets: true,
        ..NetConfig::default()
    }
}

#[test]
fn traffic_on_packed_rings_resumes_whatever_the_front_end_says_of_them() {
    let mut emulator = Emulator::with_config(BACK_TO_BACK);
    let start = |socket, number| {
        let socket = emulator.path(socket);
        Host::start_with(socket, number, GuestConfig::default(), packed_as_in_qemu())
    };
    let (a, b) = (start("a-vf0.sock", 1), start("b-vf0.sock", 2));
    let there = stream(&a, &b, 5001, None);
    let back = stream(&b, &a, 5002, None);
    for path in ["direct", "mediated", "direct"] {
        for nic in ["a", "b"] {
            command(&emulator, &format!("{nic} vf 0 set path {path}"));
        }
        await_progress(&b, there);
        await_progress(&a, back);
        emulator.kill();
        emulator.restart();
        for (socket, host) in [("a-vf0.sock", &a), ("b-vf0.sock", &b)] {
            let socket = emulator.path(socket);
            let resumed = host.with(move |guest| {
                let frontend = Frontend::connect(socket)?;
                guest.net().resume(frontend, &packed_as_in_qemu())
            });
            resumed.unwrap();
        }
        await_progress(&b, there);
        await_progress(&a, back);
    }
}

/// What FDio/vpp#1361 and #1885 tell of: a front end remembers what was offered, and its guest goes by it.
#[test]
fn a_back_end_that_offers_less_than_before_says_so_and_serves_again_when_it_offers_that() {
    let config = |offloads: &str| format!("[[nic]]\nname = 'a'\noffloads = '{offloads}'\n");
    let mut emulator = Emulator::with_config(&config("csum"));
    let restart_with = |emulator: &mut Emulator, offloads| {
        emulator.kill();
        std::fs::write(emulator.path("nic.toml"), config(offloads)).unwrap();
        emulator.restart();
    };
    let [mut a, mut b] = ["a-vf0.sock", "a-vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    let socket = emulator.path("a-vf0.sock");
    pass(&mut a, &mut b);
    let before = a.net.features();
    restart_with(&mut emulator, "none");
    let mut frontend = Frontend::connect(&socket).unwrap();
    let offered = frontend.get_features().unwrap();
    assert_ne!(offered & before, before);
    let protocol = frontend.get_protocol_features().unwrap();
    frontend
        .set_protocol_features(protocol & NetConfig::default().protocol_features)
        .unwrap();
    frontend.set_owner().unwrap();
    // One that does not look takes what it had.
    assert!(frontend.set_features(before).is_err());
    drop(frontend);
    wait_for("the refusal is counted", || {
        (emulator.vf(0, 0).refusals == 1).then_some(())
    });
    // It is a thread of its own that writes lines.
    let log = wait_for("a warning", || {
        Some(emulator.log()).filter(|log| log.contains("WARN"))
    });
    let said: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(
        said[0].contains("a vf0") && said[0].contains("feature"),
        "{}",
        said[0]
    );
    // What is configured as before offers what it did.
    restart_with(&mut emulator, "csum");
    for (port, socket) in [(&mut a, "a-vf0.sock"), (&mut b, "a-vf1.sock")] {
        let frontend = Frontend::connect(emulator.path(socket)).unwrap();
        port.net.resume(frontend, &NetConfig::default()).unwrap();
    }
    pass(&mut a, &mut b);
}

#[test]
fn guests_that_are_killed_come_back() {
    let emulator = Emulator::start(&["--vfs", "4"]);
    let a = Host::start(emulator.path("vf0.sock"), 1);
    let b = Host::start(emulator.path("vf2.sock"), 2);
    let lasting = stream(&a, &b, 5001, None);
    for round in 0..6 {
        let path = ["direct", "mediated"][round % 2];
        emulator.does(&format!("vf 1 set path {path}"));
        let c = Host::start(emulator.path("vf1.sock"), 3);
        let port = 6000 + round as u16;
        let up = stream(&c, &a, port, None);
        let down = stream(&a, &c, port + 100, None);
        await_progress(&a, up);
        await_progress(&c, down);
        drop(c); // in the middle of both
        await_progress(&b, lasting);
    }
    wait_for("the last session has ended", || {
        (!emulator.vf(0, 1).connected).then_some(())
    });
    let vf = emulator.vf(0, 1);
    assert_eq!((vf.sessions, vf.refusals, vf.rings), (6, 0, 0));
    let [mut c, mut d] = ["vf1.sock", "vf3.sock"].map(|s| Port::open(&emulator.path(s)));
    pass(&mut c, &mut d);
}

#[test]
fn a_second_emulator_leaves_the_first_alone() {
    let emulator = Emulator::start(&[]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    let dir = emulator.ctl().parent().unwrap().to_owned();
    let second = crate::emulator::vfnic(&["run", "--socket-dir", dir.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(2), "{second:?}");
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    pass(&mut a, &mut b);
    emulator.show();
}

#[test]
fn it_stops_cleanly_when_asked_to() {
    let mut emulator = Emulator::start(&[]);
    let _port = Port::open(&emulator.path("vf0.sock"));
    emulator.terminate("a session");
    for socket in ["ctl.sock", "vf0.sock", "vf1.sock"] {
        assert!(!emulator.path(socket).exists(), "{socket} is left");
    }
    emulator.restart();
}
