//! Paths switched while traffic runs.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vf_guest::net::NetConfig;

use crate::control::command;
use crate::emulator::{DEADLINE, Emulator, back_to_back, drops};
use crate::host::{Host, await_progress, stream};
use crate::port::{BROADCAST, Port};

/// What TCP's own bursts may meet: a ring or a queue that is full for a moment.
const FULL: [&str; 5] = [
    "no_rx_buffer",
    "wire_queue_full",
    "worker_queue_full",
    "hypervisor_queue_full",
    "pf_queue_full",
];

#[test]
fn a_tcp_connection_survives_many_switches_of_its_paths() {
    survives_many_switches(1, ["a-vf0.sock", "b-vf0.sock"]);
}

#[test]
fn a_tcp_connection_survives_many_switches_between_workers() {
    survives_many_switches(2, ["a-vf1.sock", "b-vf0.sock"]);
}

/// `sockets` are one of each NIC.
fn survives_many_switches(workers: usize, sockets: [&str; 2]) {
    let emulator = Emulator::with_config(&back_to_back(workers));
    let vfs = sockets.map(|s| s.as_bytes()[4] - b'0');
    let a = Host::start(emulator.path(sockets[0]), 1);
    let b = Host::start(emulator.path(sockets[1]), 2);
    let there = stream(&a, &b, 5001, None);
    let back = stream(&b, &a, 5002, None);
    await_progress(&b, there);
    await_progress(&a, back);
    let mut paths = ["direct"; 2];
    for n in 0..60usize {
        // One side, the other side, both at once.
        for side in 0..2 {
            if n % 3 == side || n % 3 == 2 {
                paths[side] = match paths[side] {
                    "direct" => "mediated",
                    "mediated" => "auto",
                    _ => "direct",
                };
                command(
                    &emulator,
                    &format!(
                        "{} vf {} set path {}",
                        ["a", "b"][side],
                        vfs[side],
                        paths[side]
                    ),
                );
            }
        }
        if n % 10 == 0 {
            await_progress(&b, there);
            await_progress(&a, back);
        } else {
            std::thread::sleep(Duration::from_millis(n as u64 % 7));
        }
    }
    await_progress(&b, there);
    await_progress(&a, back);
    // The same connections still, and every byte has been compared.
    assert!(a.with(|guest| guest.established()));
    assert!(b.with(|guest| guest.established()));
    let show = emulator.show();
    for (nic, vf) in show.nics.iter().zip(vfs) {
        let vf = &nic.vfs[usize::from(vf)];
        for counters in [&vf.direct, &vf.mediated] {
            assert!(counters.tx_packets > 100, "{vf:?}");
            assert!(counters.rx_packets > 100, "{vf:?}");
        }
        let others = [&nic.pf, &nic.link.counters].map(drops).concat();
        for (reason, n) in drops(&vf.total).into_iter().chain(others) {
            assert!(FULL.contains(&reason.as_str()), "{n} {reason}");
        }
        assert_eq!((vf.sessions, vf.refusals), (1, 0));
    }
}

/// Sends numbered frames from the first port to the others while `each` runs between bursts: to each in turn, and every
/// eighth to all. Never more under way than a ring holds, so that nothing may be dropped.
pub(crate) struct Numbered {
    ports: Vec<Port>,
    /// How often each receiver got each frame, and how often it should.
    got: Vec<BTreeMap<u32, (u32, u32)>>,
    under_way: usize,
    pub(crate) out_of_order: u64,
}

/// Frames that are sent and not yet received, at most: half a ring.
const WINDOW: usize = 100;

impl Numbered {
    fn new(ports: Vec<Port>) -> Numbered {
        Numbered {
            got: ports.iter().map(|_| BTreeMap::new()).collect(),
            ports,
            under_way: 0,
            out_of_order: 0,
        }
    }

    /// Sends frame `n` and remembers who must get it.
    fn send(&mut self, n: u32) {
        let receivers = self.ports.len() - 1;
        let to = match n % 8 {
            7 => 1..=receivers,
            _ => {
                let one = 1 + n as usize % receivers;
                one..=one
            }
        };
        let dst = match n % 8 {
            7 => BROADCAST,
            _ => self.ports[*to.start()].mac,
        };
        let mut frame = self.ports[0].frame(dst, 60 + n as usize * 37 % 1455);
        frame[14..18].copy_from_slice(&n.to_be_bytes());
        assert!(self.ports[0].offer(&frame), "the window fits into the ring");
        for port in to {
            self.got[port].entry(n).or_default().1 += 1;
            self.under_way += 1;
        }
    }

    fn receive(&mut self) {
        for (port, got) in self.ports.iter_mut().zip(&mut self.got).skip(1) {
            while let Some(frame) = port.poll() {
                let n = u32::from_be_bytes(frame[14..18].try_into().unwrap());
                if got.range(n + 1..).any(|(_, (times, _))| *times > 0) {
                    self.out_of_order += 1;
                }
                got.entry(n).or_default().0 += 1;
                self.under_way = self.under_way.saturating_sub(1);
            }
        }
        self.ports[0].net.tx_room(0).unwrap();
    }

    /// Sends `frames`, in bursts as the window allows, and receives them all.
    pub(crate) fn run(&mut self, first: u32, frames: u32) {
        let deadline = Instant::now() + DEADLINE;
        let mut next = first;
        while next < first + frames || self.under_way > 0 {
            while next < first + frames && self.under_way < WINDOW {
                self.send(next);
                next += 1;
            }
            self.ports[0].net.kick();
            self.receive();
            std::thread::yield_now();
            if Instant::now() > deadline {
                break; // what is missing is said below
            }
        }
    }

    /// Asserts that every frame came to everybody it was for exactly once.
    pub(crate) fn check(&mut self) {
        std::thread::sleep(Duration::from_millis(30));
        self.receive();
        for (port, got) in self.got.iter().enumerate() {
            let wrong: Vec<_> = got
                .iter()
                .filter(|(_, (times, due))| times != due)
                .collect();
            assert!(
                wrong.is_empty(),
                "port {port}: {} of {} frames lost or doubled: {:?}",
                wrong.len(),
                got.len(),
                &wrong[..wrong.len().min(10)]
            );
        }
    }
}

fn ports(emulator: &Emulator) -> Numbered {
    ports_with(emulator, NetConfig::default().features)
}

/// All four of two NICs back to back, with drivers that have these features.
pub(crate) fn ports_with(emulator: &Emulator, features: u64) -> Numbered {
    let config = NetConfig {
        queue_size: 256,
        features,
        ..NetConfig::default()
    };
    let names = ["a-vf0.sock", "a-vf1.sock", "b-vf0.sock", "b-vf1.sock"];
    Numbered::new(
        names
            .map(|n| Port::open_with(&emulator.path(n), &config))
            .into(),
    )
}

/// Switches of single VFs' paths, all sets of them in an order that visits each transition, each with a policy that
/// makes no difference to who gets what.
fn switches() -> impl Iterator<Item = String> {
    let vfs = ["a vf 0", "b vf 0", "a vf 1", "b vf 1"];
    (0usize..).map(move |n| {
        let path = ["mediated", "direct"][(n / vfs.len() + n % 3) % 2];
        let trust = ["on", "off"][n / 7 % 2];
        format!("{} set path {path} trust {trust}", vfs[n % vfs.len()])
    })
}

#[test]
fn a_switch_between_bursts_loses_and_doubles_nothing() {
    for workers in [1, 2] {
        let emulator = Emulator::with_config(&back_to_back(workers));
        let mut traffic = ports(&emulator);
        for (n, switch) in (0..).zip(switches().take(80)) {
            command(&emulator, &switch);
            traffic.run(n * 64, 64);
        }
        traffic.check();
        assert_eq!(traffic.out_of_order, 0);
    }
}

#[test]
fn a_switch_under_load_loses_and_doubles_nothing() {
    [1, 2].into_iter().for_each(switches_under_load);
}

fn switches_under_load(workers: usize) {
    let emulator = Emulator::with_config(&back_to_back(workers));
    let mut traffic = ports(&emulator);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let switched = std::thread::scope(|scope| {
        let switcher = scope.spawn(|| {
            let mut switched = 0;
            for switch in switches() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                command(&emulator, &switch);
                switched += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            switched
        });
        traffic.run(0, 40_000);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        switcher.join().unwrap()
    });
    traffic.check();
    assert!(switched >= 20, "only {switched} switches under load");
    for nic in &emulator.show().nics {
        for vf in &nic.vfs {
            assert_eq!(drops(&vf.total), [], "{} vf {}", nic.name, vf.vf);
        }
    }
}
