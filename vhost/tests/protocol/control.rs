//! The control queue, for front ends that leave it to the device.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use mio::{Events, Poll, Token};
use vf_vhost::control::{Coalescing, CtrlCommand, RxMode};
use vf_vhost::endpoint::{DeviceConfig, TURN};
use vf_vhost::features::VirtioFeatures;

use crate::front_end::*;

/// The number of the control queue of a device with two queue pairs, and where it is in memory.
const RING: u32 = 4;
const AT: u64 = 0x1_0000;
/// A command and its answer: offset, length, flags, next.
const CHAIN: [(u64, u32, u16, u16); 2] = [(0x3000, 4, 1, 1), (0x3800, 1, 2, 0)];

/// A driver of the control queue, which has 256 entries.
struct Driver {
    memory: OwnedFd,
    kick: OwnedFd,
    call: OwnedFd,
    err: OwnedFd,
    avail: u16,
}

impl Driver {
    fn write(&self, at: u64, bytes: &[u8]) {
        rustix::io::pwrite(&self.memory, bytes, AT + at).unwrap();
    }

    fn read<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        rustix::io::pread(&self.memory, &mut bytes, AT + at).unwrap();
        bytes
    }

    fn chain(&self, descs: &[(u64, u32, u16, u16)]) {
        for (at, &(offset, len, flags, next)) in (0..).step_by(16).zip(descs) {
            self.write(at, &(GUEST + AT + offset).to_le_bytes());
            self.write(at + 8, &len.to_le_bytes());
            self.write(at + 12, &flags.to_le_bytes());
            self.write(at + 14, &next.to_le_bytes());
        }
    }

    /// Makes the chain at descriptor 0 available `times` times, and kicks.
    fn offer(&mut self, times: u16) {
        for _ in 0..times {
            self.write(0x1004 + u64::from(self.avail % 256) * 2, &[0, 0]);
            self.avail = self.avail.wrapping_add(1);
        }
        self.write(0x1002, &self.avail.to_le_bytes());
        rustix::io::write(&self.kick, &1u64.to_ne_bytes()).unwrap();
    }

    fn put(&mut self, command: [u8; 4]) {
        self.put_with(&command, 1);
    }

    /// A command with room for an answer of so many bytes.
    fn put_with(&mut self, command: &[u8], room: u32) {
        self.write(0x3000, command);
        self.write(0x3800, &[0xaa; 16]);
        let [(at, _, flags, next), answer] = CHAIN;
        let (command, answer) = (
            (at, command.len() as u32, flags, next),
            (answer.0, room, 2, 0),
        );
        self.chain(&[command, answer]);
        // Call when it is done (virtio 2.7.10).
        self.write(0x1004 + 512, &self.used().to_le_bytes());
        self.offer(1);
    }

    fn answer(&self) -> u8 {
        self.read::<1>(0x3800)[0]
    }

    fn used(&self) -> u16 {
        u16::from_le_bytes(self.read(0x2002))
    }
}

fn drained(fd: &OwnedFd) -> bool {
    rustix::io::read(fd, &mut [0; 8]).is_ok()
}

fn start_control(w: &mut World, driver: &Driver) {
    let ring = u64s(&[RING.into()]);
    w.place_ring(RING, driver.avail.into());
    w.tell(SET_VRING_CALL, &ring, &[driver.call.as_fd()]);
    w.tell(SET_VRING_ERR, &ring, &[driver.err.as_fd()]);
    w.tell(SET_VRING_KICK, &ring, &[driver.kick.as_fd()]);
    w.tell(SET_VRING_ENABLE, &u32s(&[RING, 1]), &[]);
}

/// A device with two queue pairs that run, and its control queue.
fn world() -> (World, Driver) {
    world_of(device(2))
}

fn world_of(config: DeviceConfig) -> (World, Driver) {
    let mut w = World::new(config);
    w.negotiate();
    let memory = memfd(2 * AT);
    let regions = table(&[[GUEST, 2 * AT, USER, 0]]);
    w.tell(SET_MEM_TABLE, &regions, &[memory.as_fd()]);
    for ring in 0..4 {
        w.place_ring(ring, 0);
        w.kick_ring(ring);
        w.tell(SET_VRING_ENABLE, &u32s(&[ring, 1]), &[]);
    }
    // A front end that serves it itself leaves it at that.
    assert_eq!(enabled(&w), [0, 1, 2, 3]);
    let event = || {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        rustix::event::eventfd(0, flags).unwrap()
    };
    let driver = Driver {
        memory,
        kick: event(),
        call: event(),
        err: event(),
        avail: 0,
    };
    start_control(&mut w, &driver);
    (w, driver)
}

/// The rings on which frames flow; those that run and the device has are all four.
fn enabled(w: &World) -> Vec<u32> {
    assert_eq!(w.running(), [0, 1, 2, 3]);
    let rings = w.rings.running.iter();
    rings
        .filter(|(_, vring)| vring.enabled())
        .map(|(ring, _)| *ring)
        .collect()
}

#[test]
fn the_driver_says_how_many_pairs_it_uses() {
    let (mut w, mut driver) = world();
    // What it has put on a transmit ring goes out all the same.
    assert_eq!(enabled(&w), [0, 1, 3]);
    for (pairs, answer, rings) in [
        (2, 0, &[0, 1, 2, 3][..]),
        (3, 1, &[0, 1, 2, 3]),
        (0, 1, &[0, 1, 2, 3]),
        (1, 0, &[0, 1, 3]),
        (2, 0, &[0, 1, 2, 3]),
    ] {
        driver.put([4, 0, pairs, 0]);
        w.poll();
        assert_eq!((driver.answer(), enabled(&w)), (answer, rings.to_vec()));
        assert_eq!(driver.used(), driver.avail);
        assert!(drained(&driver.call) && !drained(&driver.kick));
    }
    // To change the ring is not to change what was asked for, a new start is.
    w.tell(
        SET_VRING_CALL,
        &u64s(&[RING.into()]),
        &[driver.call.as_fd()],
    );
    assert_eq!(enabled(&w), [0, 1, 2, 3]);
    assert_eq!(w.get_base(RING), u32::from(driver.avail));
    w.tell(
        SET_FEATURES,
        &u64s(&[w.endpoint.config().features.bits() & !(PACKED | LOG_ALL)]),
        &[],
    );
    start_control(&mut w, &driver);
    assert_eq!(enabled(&w), [0, 1, 3]);
    // Whatever waits when it starts is served.
    w.get_base(RING);
    driver.put([4, 0, 2, 0]);
    w.poll();
    assert_eq!(driver.answer(), 0xaa);
    driver.avail -= 1;
    start_control(&mut w, &driver);
    assert_eq!(driver.answer(), 0);
    driver.avail += 1;
    // A ring that is not enabled has no effects.
    w.tell(SET_VRING_ENABLE, &u32s(&[RING, 0]), &[]);
    driver.put([4, 0, 1, 0]);
    w.poll();
    assert_eq!((driver.answer(), enabled(&w)), (1, vec![0, 1, 2, 3]));
    drop(w.stream.shutdown(std::net::Shutdown::Both));
    w.poll();
    assert!(w.rings.running.is_empty());
}

#[test]
fn without_the_feature_it_is_a_ring_like_others() {
    let (mut w, _driver) = world();
    let bits =
        w.endpoint.config().features.bits() & !(PACKED | LOG_ALL) & !VirtioFeatures::CTRL_VQ.bits();
    w.tell(SET_FEATURES, &u64s(&[bits]), &[]);
    assert_eq!(w.running(), [0, 1, 2, 3, RING]);
    // Without MQ there is one pair, and the control queue is behind that.
    w.tell(
        SET_FEATURES,
        &u64s(&[(bits | VirtioFeatures::CTRL_VQ.bits()) & !VirtioFeatures::MQ.bits()]),
        &[],
    );
    assert_eq!(w.running(), [0, 1, 3, RING]);
}

#[test]
fn its_kick_is_an_event_of_the_endpoint() {
    let (mut w, mut driver) = world();
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(8);
    let mut reported = |poll: &mut Poll| {
        let wait = Some(Duration::from_millis(20));
        poll.poll(&mut events, wait).unwrap();
        events.iter().any(|event| event.token() == Token(7))
    };
    w.endpoint.register(poll.registry(), Token(7)).unwrap();
    w.poll();
    while reported(&mut poll) {}
    driver.put([4, 0, 2, 0]);
    assert!(reported(&mut poll));
    w.poll();
    assert_eq!(driver.answer(), 0);
    assert!(!reported(&mut poll));
    // More than is served at a time.
    driver.offer(20);
    let mut polls = 0;
    while reported(&mut poll) {
        w.poll();
        polls += 1;
    }
    assert_eq!((driver.used(), polls), (driver.avail, 3));
    // Another kick takes the place of the first one, and nothing that of the second one.
    let old = std::mem::replace(&mut driver.kick, eventfd());
    start_control(&mut w, &driver);
    while reported(&mut poll) {}
    rustix::io::write(&old, &1u64.to_ne_bytes()).unwrap();
    assert!(!reported(&mut poll));
    driver.put([4, 0, 1, 0]);
    assert!(reported(&mut poll));
    w.poll();
    assert_eq!(driver.answer(), 0);
    drop(w.stream.shutdown(std::net::Shutdown::Both));
    w.poll();
    while reported(&mut poll) {}
    rustix::io::write(&driver.kick, &1u64.to_ne_bytes()).unwrap();
    assert!(!reported(&mut poll));
}

#[test]
fn a_hostile_driver_loses_its_control_queue_only() {
    for (why, chain) in [
        ("a loop", [(0x3000, 4, 1, 0), (0, 0, 0, 0)]),
        ("outside", [(2 * AT, 4, 1, 1), (0x3800, 1, 2, 0)]),
        ("no such descriptor", [(0x3000, 4, 1, 256), (0, 0, 0, 0)]),
        ("the answer first", [(0x3800, 1, 3, 1), (0x3000, 4, 0, 0)]),
    ] {
        let (mut w, mut driver) = world();
        driver.chain(&chain);
        driver.offer(1);
        w.poll();
        assert!(drained(&driver.err), "{why}");
        assert_eq!((driver.used(), enabled(&w)), (0, vec![0, 1, 3]), "{why}");
        driver.put([4, 0, 2, 0]);
        w.poll();
        assert_eq!(driver.answer(), 0xaa, "{why}");
        assert!(w.endpoint.is_connected() && !drained(&driver.err), "{why}");
        // Started anew, it goes on.
        assert_eq!(w.get_base(RING), 0);
        driver.avail = 0;
        driver.write(0x1002, &[0, 0]);
        start_control(&mut w, &driver);
        driver.put([4, 0, 2, 0]);
        w.poll();
        assert_eq!(
            (driver.answer(), enabled(&w)),
            (0, vec![0, 1, 2, 3]),
            "{why}"
        );
    }
}

fn entries(macs: &[[u8; 6]]) -> Vec<u8> {
    let count = (macs.len() as u32).to_le_bytes();
    [&count[..], macs.as_flattened()].concat()
}

#[test]
fn what_is_not_the_sessions_is_the_devices() {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    let (mut w, mut driver) = world();
    // It is told again to what MTU the driver has agreed: what it knew is forgotten.
    let events = &w.rings.events[w.rings.events.len() - 2..];
    assert_eq!(events, ["controlled", "mtu 1500"]);
    let mac_of = |w: &mut World| w.ask(GET_CONFIG, &u32s(&[0, 6, 0]))[12..18].to_vec();
    let table = [&[1, 0][..], &entries(&[MAC]), &entries(&[[1; 6], [3; 6]])].concat();
    let mode = |mode, on| CtrlCommand::RxMode { mode, on };
    let commands = [
        (&[0, 0, 1][..], mode(RxMode::Promisc, true)),
        (&[0, 5, 0], mode(RxMode::NoBcast, false)),
        (
            &table,
            CtrlCommand::MacTable {
                unicast: vec![MAC],
                multicast: vec![[1; 6], [3; 6]],
            },
        ),
        (&[1, 1, 2, 0, 0, 0, 0, 0x77], CtrlCommand::MacAddr(MAC)),
        (&[2, 0, 5, 0], CtrlCommand::Vlan { vid: 5, on: true }),
    ];
    for refuse in [true, false] {
        w.rings.refuse = refuse;
        for (bytes, command) in &commands {
            driver.put_with(bytes, 1);
            w.poll();
            assert_eq!(w.rings.commands.pop().as_ref(), Some(command));
            assert_eq!(driver.answer(), u8::from(refuse));
        }
        // A new address shows where the driver reads it (virtio 5.1.4).
        let own = w.endpoint.config().mac;
        assert_eq!(mac_of(&mut w), if refuse { own } else { MAC });
    }
    for malformed in [&[0, 0][..], &[1, 0, 1, 0, 0, 0], &[9, 9, 9], &[0; 20_000]] {
        driver.put_with(malformed, 1);
        w.poll();
        assert_eq!(driver.answer(), 1, "{}", malformed.len());
    }
    assert!(w.rings.commands.is_empty());
    // Whoever is given another address, or starts anew, has chosen none.
    w.endpoint.set_mac([2; 6], None);
    assert_eq!(mac_of(&mut w), [2; 6]);
    w.endpoint.set_mac([2; 6], Some([4; 6]));
    assert_eq!(mac_of(&mut w), [4; 6], "it may have that again");
    driver.put_with(commands[3].0, 1);
    w.poll();
    assert_eq!(mac_of(&mut w), MAC);
    w.tell(RESET_DEVICE, &[], &[]);
    assert_eq!(w.rings.events.last().map(String::as_str), Some("reset"));
    assert_eq!(mac_of(&mut w), [2; 6]);
}

#[test]
fn commands_that_were_not_negotiated_are_refused() {
    let (mut w, mut driver) = world();
    let without = w.endpoint.config().features.bits()
        & !(PACKED | LOG_ALL)
        & !VirtioFeatures::CTRL_VLAN.bits();
    w.tell(SET_FEATURES, &u64s(&[without]), &[]);
    for (command, answer) in [(&[2, 0, 5, 0][..], 1), (&[0, 0, 1], 0)] {
        driver.put_with(command, 1);
        w.poll();
        assert_eq!(driver.answer(), answer);
    }
    assert_eq!(w.rings.commands.len(), 1);
}

#[test]
fn rings_are_not_stopped_for_a_driver_that_gives_too_many_commands() {
    let (mut w, mut driver) = world_of(device(2));
    w.rings.refuse = true;
    let starts = w.rings.starts;
    for command in [
        &[4, 0, 2, 0][..],
        &[6, 1, 1, 0, 0, 0, 100, 0, 0, 0],
        &[6, 2, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0],
    ] {
        driver.put_with(command, 1);
        w.poll();
        assert_eq!(driver.answer(), 1, "{command:?}");
    }
    assert_eq!(w.rings.starts, starts);
    assert_eq!(w.endpoint.coalescing(0), None);
}

#[test]
fn how_long_calls_are_held_back_is_kept_for_whoever_holds_them() {
    let (mut w, mut driver) = world_of({
        let mut config = device(2);
        config.coalescing.max_usecs = 20;
        config
    });
    let held = |max_packets, max_usecs| Coalescing {
        max_packets,
        max_usecs,
    };
    let get = |w: &mut World, driver: &mut Driver, ring: u8, room| {
        driver.put_with(&[6, 3, ring, 0], room);
        w.poll();
        driver.read::<9>(0x3800)
    };
    let said = |w: &World| [0, 1, 2, 3, 4].map(|ring| w.endpoint.coalescing(ring));
    assert_eq!(said(&w), [None; 5]);
    assert_eq!(get(&mut w, &mut driver, 0, 9), [0, 0, 0, 0, 0, 20, 0, 0, 0]);
    let (rx, tx, one) = (held(1, 100), held(0, 0x100), held(3, 4));
    for command in [
        &[6, 1, 1, 0, 0, 0, 100, 0, 0, 0][..],
        &[6, 0, 0, 0, 0, 0, 0, 1, 0, 0],
        &[6, 2, 3, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0],
    ] {
        driver.put_with(command, 1);
        w.poll();
        assert_eq!(driver.answer(), 0, "{command:?}");
    }
    assert_eq!(said(&w), [Some(rx), Some(tx), Some(rx), Some(one), None]);
    let rings = w.rings.running.values();
    let heeded: Vec<_> = rings.map(|ring| ring.coalescing()).collect();
    assert_eq!(heeded, [rx, tx, rx, one]);
    assert_eq!(get(&mut w, &mut driver, 3, 9), [0, 3, 0, 0, 0, 4, 0, 0, 0]);
    // As much as there is room for; and there is no such ring for frames.
    assert_eq!(get(&mut w, &mut driver, 3, 3)[..4], [0, 3, 0, 0xaa]);
    assert_eq!(get(&mut w, &mut driver, RING as u8, 9)[..2], [1, 0xaa]);
    driver.put_with(&[6, 2, RING as u8, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0], 1);
    w.poll();
    assert_eq!((driver.answer(), said(&w)[4]), (1, None));
    let split = w.endpoint.config().features.bits() & !(PACKED | LOG_ALL);
    w.tell(SET_FEATURES, &u64s(&[split]), &[]);
    assert_eq!(said(&w), [None; 5]);
}

/// Eight that took 15 ms each held up all other devices of the thread.
#[test]
fn dear_commands_end_a_turn_when_its_time_is_over() {
    let (mut w, mut driver) = world();
    driver.put_with(&[0, 0, 1], 1);
    w.poll();
    assert_eq!(w.rings.commands.len(), 1);
    w.rings.takes = TURN + Duration::from_millis(1);
    driver.offer(3);
    // What is left is told of again.
    let mut obeyed = Vec::new();
    while readable(&driver.kick) {
        w.poll();
        obeyed.push(w.rings.commands.len());
    }
    assert_eq!(obeyed, [2, 3, 4, 4], "once more, to find nothing");
    assert_eq!(driver.used(), driver.avail);
}

/// Whether there is something to be read, which is left there.
fn readable(fd: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec::default();
    rustix::event::poll(&mut fds, Some(&now)).unwrap() > 0
}
