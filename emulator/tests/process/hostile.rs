//! Hostile front ends and guests on VF 1, while VFs 0 and 2 pass traffic all the time: the process lives, the others do
//! not notice, and VF 1 can be opened again each time.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use vf_conformance::bench::Bench;
use vf_conformance::runner::{self, Plan};
use vf_conformance::subject::Subject;
use vf_conformance::{cases, report};
use vf_guest::driver::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc};
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::memory::{Region, RegionLayout};
use vf_guest::message::{self, FLAG_NEED_REPLY, FLAG_VERSION, Header, request};
use vf_guest::net::{NetConfig, NetDevice, negotiate};
use vf_guest::tcp::StreamId;

use crate::control::command;
use crate::emulator::{DEADLINE, Emulator, wait_for};
use crate::host::{Host, await_progress, stream};
use crate::port::{Port, pass, start};

/// A stream between VFs 0 and 2, whatever a test does on 1, and 3 to see whether 1 still works.
pub(crate) struct Neighbours {
    pub(crate) emulator: Emulator,
    hosts: [Host; 2],
    streams: [StreamId; 2],
    pub(crate) witness: Port,
}

impl Neighbours {
    pub(crate) fn new() -> Neighbours {
        Neighbours::of(&[])
    }

    fn of(args: &[&str]) -> Neighbours {
        let emulator = Emulator::start(&[&["--vfs", "9"], args].concat());
        let hosts = [("vf0.sock", 1), ("vf2.sock", 2)]
            .map(|(socket, n)| Host::start(emulator.path(socket), n));
        let streams = [
            stream(&hosts[0], &hosts[1], 5001, None),
            stream(&hosts[1], &hosts[0], 5002, None),
        ];
        let witness = Port::open(&emulator.path("vf3.sock"));
        Neighbours {
            emulator,
            hosts,
            streams,
            witness,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.emulator.path("vf1.sock")
    }

    /// The streams go on from wherever they are now.
    #[track_caller]
    fn pass_traffic(&self) {
        for (host, stream) in self.hosts.iter().rev().zip(self.streams) {
            await_progress(host, stream);
        }
    }

    /// The others pass traffic, and VF 1 does again with a new front end.
    #[track_caller]
    pub(crate) fn unharmed(&mut self, what: &str) {
        assert!(self.emulator.lives(), "{what}: the process has ended");
        self.pass_traffic();
        let mut port = Port::open(&self.socket());
        // What others have sent to everybody meanwhile has filled its ring.
        while self.witness.poll().is_some() {}
        pass(&mut port, &mut self.witness);
        for vf in [0, 2, 3] {
            let vf = self.emulator.vf(0, vf);
            assert_eq!((vf.sessions, vf.refusals), (1, 0), "{what}: {vf:?}");
        }
    }

    /// Runs `attack` on VF 1 on both paths; each must leave a line about VF 1 in the log. What it returns, a session perhaps, is
    /// kept until then: a thread that has no CPU for a while must have time to see it.
    pub(crate) fn suffer<T>(&mut self, what: &str, attack: impl Fn(&mut Neighbours) -> T) {
        for path in ["direct", "mediated"] {
            command(&self.emulator, &format!("nic0 vf 1 set path {path}"));
            let before = complaints(&self.emulator).len();
            let kept = attack(self);
            let said = wait_for(&format!("a line in the log about: {what}"), || {
                let said = complaints(&self.emulator).split_off(before);
                (!said.is_empty()).then_some(said)
            });
            drop(kept);
            self.unharmed(what);
            assert!(
                said.iter().all(|line| line.contains("vf1")),
                "{what}: {said:?}"
            );
        }
    }
}

/// The warnings in the log.
fn complaints(emulator: &Emulator) -> Vec<String> {
    let log = emulator.log();
    let lines = log
        .lines()
        .filter(|l| l.contains("WARN") || l.contains("ERROR"));
    lines.map(str::to_owned).collect()
}

/// A fresh session with everything settled up to `SET_FEATURES`, and a device whose memory has not been shared.
fn negotiated(socket: PathBuf, config: &NetConfig) -> (Frontend, NetDevice) {
    let (mut frontend, features) = wait_for("a session", || {
        let mut frontend = Frontend::connect(&socket).ok()?;
        let (features, _) = negotiate(&mut frontend, config).ok()?;
        Some((frontend, features))
    });
    frontend.set_features(features).unwrap();
    (frontend, NetDevice::detached(features, config).unwrap())
}

/// Asserts that the back end refused something, or hung up.
#[track_caller]
fn refused<T: std::fmt::Debug>(what: &str, answer: Result<T, FrontendError>) {
    assert!(
        matches!(
            answer,
            Err(FrontendError::Nack { .. } | FrontendError::Closed)
        ),
        "{what}: {answer:?}"
    );
}

#[test]
fn memory_that_is_not_there() {
    let mut neighbours = Neighbours::new();
    neighbours.suffer("a memfd shorter than its region", |n| {
        let (mut frontend, _) = negotiated(n.socket(), &NetConfig::default());
        let layout = RegionLayout {
            guest_addr: 0,
            user_addr: 1 << 40,
            size: 4096,
            mmap_offset: 0,
        };
        let file = Region::new(layout, false).unwrap();
        let claim = message::single_region(&message::region(0, 1 << 30, 1 << 40, 0));
        refused(
            "memfd",
            frontend.set(request::ADD_MEM_REG, &claim, &[file.fd()]),
        );
    });
    let unsealed = NetConfig {
        seals: false,
        ..NetConfig::default()
    };
    neighbours.suffer("a memfd cut off under a send ring", |n| {
        let mut net = start(&n.socket(), &unsealed);
        let kick = net.tx_ring(0).kick.take().unwrap();
        let file = net.memory().regions()[0].dup_fd().unwrap();
        // From here on nothing of ours may touch that memory.
        rustix::fs::ftruncate(&file, 0).unwrap();
        kick.signal();
        wait_for("the session has ended", || gone(&mut net));
    });
    neighbours.suffer("a memfd cut off under a receive ring", |n| {
        let mut net = start(&n.socket(), &unsealed);
        let mac = net.config_space().mac;
        let file = net.memory().regions()[0].dup_fd().unwrap();
        rustix::fs::ftruncate(&file, 0).unwrap();
        wait_for("the session has ended", || {
            let frame = n.witness.frame(mac, 1000);
            n.witness.send(&frame);
            gone(&mut net)
        });
    });
}

/// Pieces of a chain that is a hundred and more faults if each is on a page of its own.
const PIECES: u64 = 140;

/// Where a region lies that is cut off while it is in use, far behind the device's own memory.
const CUT_OFF: u64 = 1 << 44;

/// A started device both of whose rings are full of chains of [`PIECES`] bytes, each `stride` pages behind the one before,
/// in a region whose file has no length any more.
fn scattered(socket: &std::path::Path, stride: u64) -> NetDevice {
    let mut net = start(socket, &NetConfig::default());
    let layout = |guest_addr, size| RegionLayout {
        guest_addr,
        user_addr: guest_addr,
        size,
        mmap_offset: 0,
    };
    let tables = Region::new(layout(CUT_OFF / 2, 512 * 16 * PIECES), true).unwrap();
    let pieces = Region::new(layout(CUT_OFF, 256 * PIECES * 4096 * stride), false).unwrap();
    for region in [&tables, &pieces] {
        let RegionLayout {
            guest_addr, size, ..
        } = region.layout();
        let claim = message::single_region(&message::region(guest_addr, size, guest_addr, 0));
        let frontend = net.frontend().unwrap();
        frontend
            .set(request::ADD_MEM_REG, &claim, &[region.fd()])
            .unwrap();
    }
    rustix::fs::ftruncate(pieces.fd(), 0).unwrap();
    for (ring, kind) in [(0, 0), (1, DESC_WRITE)] {
        for chain in 0..256 {
            let table = (ring * 256 + chain) * 16 * PIECES;
            for piece in 0..PIECES {
                let at = CUT_OFF + (chain * PIECES + piece) * 4096 * stride;
                let next = if piece + 1 < PIECES { DESC_NEXT } else { 0 };
                let entry = desc(at, 1, kind | next, piece as u16 + 1);
                let to = tables.at((table + 16 * piece) as usize, 16).unwrap();
                to.copy_from(&entry.bytes());
            }
            let head = desc(CUT_OFF / 2 + table, 16 * PIECES as u32, DESC_INDIRECT, 0);
            let ring = match ring {
                0 => net.tx_ring(0),
                _ => net.rx_ring(0),
            };
            let queue = ring.queue.as_split().unwrap();
            queue.set_desc(chain as u16, head);
            queue.set_avail_entry(chain as u16, chain as u16);
        }
    }
    net
}

#[test]
fn a_long_batch_on_memory_that_is_not_there() {
    let mut neighbours = Neighbours::new();
    for (stride, what) in [(2, "every other page"), (1, "adjacent pages")] {
        neighbours.suffer(&format!("a full send ring on {what} cut off"), |n| {
            let mut net = scattered(&n.socket(), stride);
            let ring = net.tx_ring(0);
            ring.queue.as_split().unwrap().set_avail_idx(256);
            ring.kick.as_ref().unwrap().signal();
            hangs_up(&mut net);
        });
        neighbours.suffer(&format!("a full receive ring on {what} cut off"), |n| {
            let mut net = scattered(&n.socket(), stride);
            let mac = net.config_space().mac;
            for _ in 0..200 {
                // Three chains of pieces: no more descriptors than a frame may have.
                let frame = n.witness.frame(mac, 400);
                n.witness.send(&frame);
            }
            hangs_up(&mut net);
        });
    }
}

/// Asserts that the back end hangs up by itself: a message would have it look at the session.
#[track_caller]
fn hangs_up(net: &mut NetDevice) {
    let frontend = net.frontend().unwrap();
    assert!(frontend.readable(DEADLINE).unwrap(), "the session goes on");
    assert_eq!(gone(net), Some(()));
}

/// Whether the back end has hung up on the device.
fn gone(net: &mut NetDevice) -> Option<()> {
    let answer = net.frontend()?.get_features();
    matches!(answer, Err(FrontendError::Closed)).then_some(())
}

#[test]
fn descriptors_and_messages_that_make_no_sense() {
    let mut neighbours = Neighbours::new();
    neighbours.suffer("a pipe as call fd", |n| {
        let (mut frontend, net) = negotiated(n.socket(), &NetConfig::default());
        frontend.set_memory(net.memory().regions()).unwrap();
        net.place_ring(&mut frontend, 0).unwrap();
        let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        refused("call", frontend.set_vring_call(0, Some(writer.as_fd())));
    });
    neighbours.suffer("a file as kick fd", |n| {
        let (mut frontend, net) = negotiated(n.socket(), &NetConfig::default());
        frontend.set_memory(net.memory().regions()).unwrap();
        net.place_ring(&mut frontend, 1).unwrap();
        let null = OwnedFd::from(std::fs::File::open("/dev/zero").unwrap());
        refused("kick", frontend.set_vring_kick(1, Some(null.as_fd())));
    });
    neighbours.suffer("rings outside memory", |n| {
        let (mut frontend, net) = negotiated(n.socket(), &NetConfig::default());
        frontend.set_memory(net.memory().regions()).unwrap();
        frontend.set_vring_num(1, 256).unwrap();
        let answer = frontend
            .set_vring_addr(1, 1 << 50, (1 << 50) + 8192, (1 << 50) + 16384)
            .and_then(|()| net.start_ring(&mut frontend, 1))
            .and_then(|()| frontend.set_vring_enable(1, true));
        refused("addresses", answer);
    });
    // A message that never ends says nothing yet, so there is nothing to log.
    for path in ["direct", "mediated"] {
        command(&neighbours.emulator, &format!("nic0 vf 1 set path {path}"));
        let head = Header {
            request: request::SET_FEATURES,
            flags: FLAG_VERSION,
            size: 8,
        };
        for len in [1, 11, 12, 15] {
            let mut frontend = Frontend::connect(neighbours.socket()).unwrap();
            let bytes = [&head.encode()[..], &[0; 8]].concat();
            frontend.send_raw(&bytes[..len], &[]).unwrap();
            // While it is connected the VF is its, and its alone.
            neighbours.pass_traffic();
            drop(frontend);
            neighbours.unharmed("half a message");
        }
    }
}

#[test]
fn chains_that_make_no_sense() {
    let mut neighbours = Neighbours::new();
    type Lie = fn(&NetDevice, u64) -> Desc;
    let lies: [(&str, Lie); 6] = [
        ("a chain that is a loop", |_, at| desc(at, 64, DESC_NEXT, 0)),
        ("a chain that leaves its table", |_, at| {
            desc(at, 64, DESC_NEXT, 256)
        }),
        ("a buffer outside memory", |_, _| desc(1 << 50, 64, 0, 0)),
        ("a buffer that wraps around", |_, _| {
            desc(u64::MAX - 8, 64, 0, 0)
        }),
        ("an indirect table outside memory", |_, _| {
            desc(1 << 50, 64, DESC_INDIRECT, 0)
        }),
        ("an indirect table in an indirect table", |net, at| {
            let inner = desc(at, 64, 0, 0).bytes();
            let outer = desc(at + 1024, 16, DESC_INDIRECT, 0).bytes();
            net.memory().slice(at + 1024, 16).unwrap().copy_from(&inner);
            net.memory().slice(at + 512, 16).unwrap().copy_from(&outer);
            desc(at + 512, 16, DESC_INDIRECT, 0)
        }),
    ];
    for (what, lie) in lies {
        neighbours.suffer(what, |n| {
            let mut net = start(&n.socket(), &NetConfig::default());
            let at = net.tx_ring(0).buffer_addr(0);
            let head = lie(&net, at);
            let ring = net.tx_ring(0);
            ring.queue.lie(&[head]);
            ring.kick.as_ref().unwrap().signal();
            // The session outlives its ring, which stands still from here on.
            net.frontend().unwrap().get_features().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(net.tx_ring(0).queue.given_back(), 0, "{what}");
            net
        });
    }
    neighbours.suffer("an available index far ahead", |n| {
        let mut net = start(&n.socket(), &NetConfig::default());
        let ring = net.tx_ring(0);
        ring.queue.as_split().unwrap().set_avail_idx(30_000);
        ring.kick.as_ref().unwrap().signal();
        net
    });
    neighbours.suffer("receive buffers that cannot be written", |n| {
        let mut net = start(&n.socket(), &NetConfig::default());
        let mac = net.config_space().mac;
        let ring = net.rx_ring(0);
        for i in 0..256 {
            let queue = ring.queue.as_split().unwrap();
            queue.set_desc(i, desc(1 << 50, 2048, 2, 0));
        }
        let frame = n.witness.frame(mac, 1000);
        n.witness.send(&frame);
        net
    });
}

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc {
        addr,
        len,
        flags,
        next,
    }
}

#[test]
fn any_message_at_any_time() {
    let mut neighbours = Neighbours::new();
    // Messages that mean something somewhere, and some that never do; the same ones in each run.
    let mut state = 2009u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..60 {
        let (mut frontend, net) = negotiated(neighbours.socket(), &NetConfig::default());
        if round % 2 == 0 {
            frontend.set_memory(net.memory().regions()).unwrap();
            for ring in 0..2 {
                net.place_ring(&mut frontend, ring).unwrap();
                net.start_ring(&mut frontend, ring).unwrap();
            }
        }
        for _ in 0..20 {
            let len = [0, 4, 8, 12, 40, 72, 300][random(7) as usize];
            let word = |value: u64| match value % 4 {
                0 => 0,
                1 => value % 5,
                2 => 1 << (value % 64),
                _ => u64::MAX,
            };
            let mut payload: Vec<u8> = Vec::new();
            while payload.len() < len {
                payload.extend(word(random(1 << 20)).to_le_bytes());
            }
            payload.truncate(len);
            let event = vf_guest::eventfd::EventFd::new().unwrap();
            let fds = vec![event.as_fd(); random(3) as usize];
            let flags = [0, FLAG_NEED_REPLY][random(2) as usize];
            if frontend
                .send(random(45) as u32, flags, &payload, &fds)
                .is_err()
            {
                break; // it hung up, as it should
            }
        }
        drop((frontend, net));
        if round % 10 == 9 {
            neighbours.unharmed("random messages");
        }
    }
}

/// Cases about paths that are no other group's once more.
const OWN_OF_PATHS: [&str; 4] = [
    "path/same-result",
    "path/switch-over-no-loss",
    "path/switch-over-limited",
    "path/waits-in-order",
];

/// The whole suite on VFs 1 and 4 with these paths, so many cases at the same time: a second one is on VFs 5 and 6. The next two VFs are those
/// who are to be served meanwhile.
fn suite(args: &[&str], jobs: usize, paths: [&str; 2]) {
    let mut neighbours = Neighbours::of(args);
    // Flat out they take both CPUs of a small machine, which the suite then waits for.
    for vf in [0, 2] {
        command(&neighbours.emulator, &format!("nic0 vf {vf} set rate 100"));
    }
    let socket = |n: usize| neighbours.emulator.path(&format!("vf{n}.sock"));
    let adapter = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../conformance/subjects/vfnic-control"
    );
    let control = format!(
        "VFNIC='{}' exec '{adapter}' --ctl '{}' 1 4 5 6 7 8",
        env!("CARGO_BIN_EXE_vfnic"),
        neighbours.emulator.ctl().display()
    );
    let subject = Subject {
        socket: socket(1),
        peer: Some(socket(4)),
        others: (5..9).map(socket).collect(),
        pid: Some(neighbours.emulator.pid()),
        control: vec!["sh".to_owned(), "-c".to_owned(), control],
        ..Subject::default()
    };
    for (vf, path) in [1, 4, 5, 6].iter().zip(paths.iter().cycle()) {
        command(
            &neighbours.emulator,
            &format!("nic0 vf {vf} set path {path}"),
        );
    }
    let mut bench = Bench::new(subject).unwrap();
    let plan = Plan {
        jobs,
        ..Plan::default()
    };
    // What is done again on other paths need not be where all is done on those.
    let mut chosen = cases::matching(&[]);
    let again = |id: &str| id.starts_with("path/") && !OWN_OF_PATHS.contains(&id);
    chosen.retain(|case| paths == ["direct"; 2] || !again(case.id));
    let findings = runner::run(&mut bench, &chosen, &plan, |_| {}).unwrap();
    let failed: Vec<_> = findings.iter().filter(|f| report::is_failure(f)).collect();
    assert!(failed.is_empty(), "on {paths:?}: {failed:#?}");
    drop(bench);
    neighbours.unharmed("the suite");
}

#[test]
fn the_conformance_suite_beside_traffic() {
    suite(&[], 1, ["direct"; 2]);
}

#[test]
fn the_conformance_suite_on_the_mediated_path() {
    suite(&[], 2, ["mediated"; 2]);
}

#[test]
fn the_conformance_suite_with_two_workers() {
    suite(&["--workers", "2"], 2, ["direct", "mediated"]);
}
