//! `vfnic` killed at any instant under traffic, and its guests go on: no ring is stuck, no interrupt lost, and frames add up. Three
//! kills of each kind unless `VFNIC_KILLS` says how many: 125 make 1000 in all.
//!
//! What is published to the receiver and not yet returned to the sender when the process ends comes once more: a burst at most. What
//! the hypervisor has in its own buffers is lost.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use vf_guest::driver::Buffer;
use vf_guest::frontend::Frontend;
use vf_guest::net::{NetConfig, feature};
use vm_memory::Bytes;

use crate::emulator::{DEADLINE, Emulator};
use crate::port::{ETHERTYPE, Port};

/// Frames that are under way at most.
const WINDOW: u32 = 64;
/// Frames that are taken from a ring at a time.
const BURST: u32 = 32;
/// How soon an interrupt has to come.
const CALL: Duration = Duration::from_secs(5);

const SOCKETS: [&str; 2] = ["a-vf0.sock", "a-vf1.sock"];

struct Pair {
    emulator: Emulator,
    config: NetConfig,
    from: Port,
    to: Port,
    /// How often each frame has come.
    seen: Vec<u32>,
    /// The first frame that has not come and still may: they keep their order.
    due: u32,
}

impl Pair {
    fn new(path: &str, config: NetConfig) -> Pair {
        let vf = |index| format!("[[nic.vf]]\nindex = {index}\npath = '{path}'\n");
        let file = format!("[[nic]]\nname = 'a'\nvfs = 2\n{}{}", vf(0), vf(1));
        let emulator = Emulator::with_config(&file);
        let open = |socket| Port::open_with(&emulator.path(socket), &config);
        let (from, to) = (open(SOCKETS[0]), open(SOCKETS[1]));
        let (seen, due) = (Vec::new(), 0);
        Pair {
            emulator,
            config,
            from,
            to,
            seen,
            due,
        }
    }

    /// Puts frames on the ring, as many as may be under way.
    fn offer(&mut self) {
        while self.seen.len() as u32 - self.due < WINDOW {
            let number = (self.seen.len() as u32).to_be_bytes();
            let mut frame = [&self.to.mac[..], &self.from.mac, &ETHERTYPE, &number].concat();
            frame.resize(200, number[3]);
            if !self.from.offer(&frame) {
                break;
            }
            self.seen.push(0);
        }
        self.from.net.kick();
    }

    /// Takes what has arrived; whether anything has.
    fn take(&mut self) -> bool {
        let before = self.due;
        let mut came = false;
        while let Some(frame) = self.to.poll_past_empty() {
            let number = u32::from_be_bytes(frame[14..18].try_into().unwrap());
            assert!(frame[18..].iter().all(|byte| *byte == number as u8));
            self.seen[number as usize] += 1;
            self.due = self.due.max(number + 1);
            came = true;
        }
        came || self.due > before
    }

    /// Frames pass until `done`, the receiver asleep in between; one that is not woken has lost an interrupt.
    fn pass(&mut self, sleep: Duration, mut done: impl FnMut(&Pair) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < deadline, "a ring is stuck");
            self.offer();
            if self.take() || self.to.net.arm(false) {
                continue;
            }
            let called = self.to.net.wait_rx_call(0, sleep).unwrap();
            assert!(
                called || !self.take() || sleep < CALL,
                "an interrupt is lost"
            );
        }
    }

    fn kill_and_go_on(&mut self, after: Duration) {
        let pid = Pid::from_raw(self.emulator.pid().cast_signed()).unwrap();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            kill_process(pid, Signal::KILL).unwrap();
        });
        self.pass(Duration::from_millis(1), |_| killer.is_finished());
        killer.join().unwrap();
        self.emulator.kill();
        self.take();
        self.emulator.restart();
        // The receiver first: what the sender's ring still has is for nobody otherwise, and counted as that.
        for (port, socket) in [&mut self.from, &mut self.to]
            .into_iter()
            .zip(SOCKETS)
            .rev()
        {
            let frontend = Frontend::connect(self.emulator.path(socket)).unwrap();
            port.net.resume(frontend, &self.config).unwrap();
        }
        self.take();
        // What has not come may be lost; what is sent from now on is not.
        let first = self.seen.len() as u32;
        self.due = first;
        self.pass(CALL, |pair| pair.due >= first + 2 * WINDOW);
    }
}

/// Has the device hold interrupts of what is received back: 8 frames, or 200 us (VIRTIO_NET_CTRL_NOTF_COAL_RX_SET).
fn coalesce(port: &mut Port) {
    let memory = port.net.memory().clone();
    let ring = port.net.control_ring().unwrap();
    let head = ring.queue.next_head().unwrap();
    let at = ring.buffer_addr(head);
    let command = [
        &[6, 1][..],
        &8u32.to_le_bytes(),
        &200u32.to_le_bytes(),
        &[0xaa],
    ]
    .concat();
    let len = command.len() as u32 - 1;
    let slice = memory.slice(at, command.len()).unwrap();
    slice.write_slice(&command, 0).unwrap();
    let buffer = |addr, len, writable| Buffer {
        addr,
        len,
        writable,
    };
    let answer = at + u64::from(len);
    ring.queue
        .add(&[buffer(at, len, false), buffer(answer, 1, true)]);
    ring.notify();
    crate::emulator::wait_for("an answer", || ring.queue.pop_used().unwrap());
    assert_eq!(
        memory.slice(answer, 1).unwrap().read_obj::<u8>(0).unwrap(),
        0
    );
}

fn many(path: &str, features: u64, forgets: bool) {
    let config = NetConfig {
        features,
        forgets,
        ..NetConfig::default()
    };
    let coalesces = features & feature::NOTF_COAL != 0;
    let kills = std::env::var("VFNIC_KILLS").map_or(3, |n| n.parse().unwrap());
    let mut pair = Pair::new(path, config);
    let (mut lost, mut twice, mut number) = (0, 0, 1u64);
    let mut at = 0;
    for kill in 0..kills {
        if coalesces {
            coalesce(&mut pair.to);
        }
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        pair.kill_and_go_on(Duration::from_micros(number >> 52));
        // All that was under way has come, or will not.
        let settled = pair.due as usize;
        let gone = pair.seen[at..settled].iter().filter(|n| **n == 0).count() as u32;
        let again: u32 = pair.seen[at..settled]
            .iter()
            .map(|n| n.saturating_sub(1))
            .sum();
        assert!(
            again <= BURST,
            "{path}, kill {kill}: {again} frames came twice"
        );
        assert!(
            gone <= if path == "direct" { 0 } else { WINDOW },
            "{path}, kill {kill}: {gone} frames are lost"
        );
        (lost, twice, at) = (lost + gone, twice + again, settled);
    }
    println!(
        "{kills} kills, path {path}, features {features:#x}: {at} frames, {lost} lost, {twice} twice"
    );
}

const SPLIT: u64 = NetConfig::PLAIN;
const PACKED: u64 = NetConfig::PLAIN | feature::RING_PACKED;

#[test]
fn killed_under_traffic_on_split_rings() {
    for path in ["direct", "mediated"] {
        many(path, SPLIT, false);
        many(path, SPLIT & !feature::EVENT_IDX, false);
    }
}

#[test]
fn killed_under_traffic_on_packed_rings() {
    many("direct", PACKED, false);
    many("mediated", PACKED, false);
    // As QEMU does.
    many("direct", PACKED & !feature::IN_ORDER, true);
}

#[test]
fn killed_under_traffic_while_interrupts_are_held_back() {
    many(
        "direct",
        SPLIT | feature::CTRL_VQ | feature::NOTF_COAL,
        false,
    );
}
