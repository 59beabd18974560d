//! Descriptors and messages that are mutated at random, by the thousand, on VF 1 of the real process, in sessions that come and go: its neighbours' traffic goes
//! on, and in the end the process has no more descriptors, threads, mappings and memory than before.
//!
//! Some thousand descriptors and a quarter as many messages, or `VFNIC_ATTACKS` descriptors; the same choices for the same `VFNIC_ATTACK_SEED`,
//! which is printed.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use vf_guest::driver::{Desc, Virtqueue};
use vf_guest::eventfd::EventFd;
use vf_guest::frontend::Frontend;
use vf_guest::message::FLAG_NEED_REPLY;
use vf_guest::net::{NetConfig, NetDevice, NetHeader, feature};

use crate::emulator::wait_for;
use crate::hostile::Neighbours;
use crate::in_use::{InUse, resident};
use crate::port::{start, try_start};
use crate::random::Random;

/// Descriptors in a session: most of them break its ring, and what comes behind is not looked at.
const IN_A_SESSION: usize = 16;
/// How much more memory the process may have in the end, in kB.
const SLACK: u64 = 24 << 10;

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).map_or(or, |n| n.parse().unwrap())
}

/// A number that means something somewhere, or one beside it.
fn word(random: &mut Random, near: u64) -> u64 {
    let around = random.below(17) as u64;
    match random.below(6) {
        0 => around,
        1 => near.wrapping_add(around).wrapping_sub(8),
        2 => (1u64 << random.below(64))
            .wrapping_add(around)
            .wrapping_sub(8),
        3 => u64::MAX - around,
        4 => u64::from(u32::MAX) - around,
        _ => near,
    }
}

/// Puts descriptors on a ring that are nearly as they should be, in its table and as chains that are made available.
fn mutate(random: &mut Random, queue: &mut Virtqueue, buffer: u64, writable: bool) {
    let layout = queue.layout();
    let mutated = |random: &mut Random| {
        let flags = random.of(&[0, 0, 1, 2, 3, 4, 5, 6, 0x80, 0x8000, 0x8080, 0xffff]);
        Desc {
            addr: word(random, buffer),
            len: word(random, 1514) as u32,
            flags: flags | if writable { 2 } else { 0 },
            next: word(random, u64::from(layout.size)) as u16,
        }
    };
    let memory = std::sync::Arc::clone(queue.memory());
    let at = random.below(usize::from(layout.size)) as u64;
    let desc = mutated(random);
    let entry = memory.slice(layout.desc + 16 * at, 16).unwrap();
    entry.copy_from(&desc.bytes());
    if random.below(2) == 0 && queue.room() > 4 {
        let chain: Vec<Desc> = (0..=random.below(3)).map(|_| mutated(random)).collect();
        queue.lie(&chain);
    }
    match random.below(12) {
        // What the driver says of the ring: its flags and index, or its event suppression.
        0 => {
            let area = memory.slice(layout.avail, 4).unwrap();
            area.copy_from(&(word(random, 0) as u32).to_le_bytes());
        }
        // What is the device's to write.
        1 => {
            let area = memory.slice(layout.used, 4).unwrap();
            area.copy_from(&(word(random, 0) as u32).to_le_bytes());
        }
        _ => {}
    }
}

fn descriptors(neighbours: &mut Neighbours, random: &mut Random, all: u64) {
    let (mut done, mut sessions) = (0, 0);
    while done < all {
        let mut features = NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO;
        features |= random.of(&[0, feature::RING_PACKED]);
        features &= !random.of(&[0, feature::MRG_RXBUF, feature::EVENT_IDX]);
        let config = NetConfig {
            features,
            queue_size: random.of(&[8, 64, 256]),
            ..NetConfig::default()
        };
        let mut net = start(&neighbours.socket(), &config);
        sessions += 1;
        let mac = net.config_space().mac;
        for _ in 0..IN_A_SESSION {
            let buffer = net.tx_ring(0).buffer_addr(0);
            // A header that asks for what makes no sense.
            let header = NetHeader {
                flags: random.of(&[0, 1, 2, 0xff]),
                gso_type: random.of(&[0, 1, 3, 4, 5, 0x81, 0xff]),
                hdr_len: word(random, 54) as u16,
                gso_size: word(random, 1448) as u16,
                csum_start: word(random, 34) as u16,
                csum_offset: word(random, 16) as u16,
                ..NetHeader::default()
            };
            let frame = vec![0x45; random.of(&[14, 60, 1514])];
            let _ = net.send(0, &header, &frame);
            mutate(random, &mut net.tx_ring(0).queue, buffer, false);
            let buffer = net.rx_ring(0).buffer_addr(0);
            mutate(random, &mut net.rx_ring(0).queue, buffer, true);
            done += 2;
        }
        net.kick();
        net.tx_ring(0).kick.as_ref().unwrap().signal();
        net.rx_ring(0).kick.as_ref().unwrap().signal();
        let frame = neighbours.witness.frame(mac, 500);
        neighbours.witness.send(&frame);
        if random.below(4) == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(net);
        if sessions % 500 == 0 {
            neighbours.unharmed("mutated descriptors");
        }
    }
    println!("{done} mutated descriptors in {sessions} sessions");
}

fn descriptor(random: &mut Random) -> OwnedFd {
    match random.below(5) {
        0 | 1 => EventFd::new()
            .unwrap()
            .as_fd()
            .try_clone_to_owned()
            .unwrap(),
        2 => {
            let file = memfd_create("attack", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
            let file = file.unwrap();
            let size = random.of(&[0, 1, 4096, 1 << 20]);
            rustix::fs::ftruncate(&file, size).unwrap();
            file
        }
        3 => UnixStream::pair().unwrap().0.into(),
        _ => std::fs::File::open("/dev/null").unwrap().into(),
    }
}

fn messages(neighbours: &mut Neighbours, random: &mut Random, all: u64) {
    let (mut done, mut sessions) = (0, 0);
    while done < all {
        let config = NetConfig::default();
        // Of a session that runs, or of one that has not begun.
        let running: Option<NetDevice> = match random.below(2) {
            0 => try_start(&neighbours.socket(), &config).ok(),
            _ => None,
        };
        let near = running
            .as_ref()
            .map_or(0, |net| net.memory().regions()[0].layout().user_addr);
        let mut net = running;
        let mut front = match net.as_mut().and_then(NetDevice::take_frontend) {
            Some(front) => front,
            None => wait_for("a connection", || {
                Frontend::connect(neighbours.socket()).ok()
            }),
        };
        sessions += 1;
        for _ in 0..1 + random.below(20) {
            let len = random.of(&[0, 4, 8, 8, 12, 16, 32, 40, 72, 300]);
            let mut payload = Vec::new();
            while payload.len() < len {
                match random.below(2) {
                    0 => payload.extend(word(random, near).to_le_bytes()),
                    _ => payload.extend((word(random, 2) as u32).to_le_bytes()),
                }
            }
            payload.truncate(len);
            let fds: Vec<OwnedFd> = (0..random.of(&[0, 0, 1, 1, 2, 8]))
                .map(|_| descriptor(random))
                .collect();
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            let flags = random.of(&[0, FLAG_NEED_REPLY, 3, 4]);
            done += 1;
            if front
                .send(random.below(48) as u32, flags, &payload, &fds)
                .is_err()
            {
                break; // it hung up, as it should
            }
        }
        drop((front, net));
        if sessions % 500 == 0 {
            neighbours.unharmed("mutated messages");
        }
    }
    println!("{done} mutated messages in {sessions} sessions");
}

#[test]
fn mutated_descriptors_and_messages_leave_others_alone_and_nothing_behind() {
    let all = number("VFNIC_ATTACKS", 4000);
    let seed = number("VFNIC_ATTACK_SEED", 2009);
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut neighbours = Neighbours::new();
    neighbours.unharmed("nothing yet");
    let at_rest = |neighbours: &Neighbours| {
        wait_for("the end of the last session", || {
            (!neighbours.emulator.vf(0, 1).connected).then_some(())
        });
        InUse::of(neighbours.emulator.pid())
    };
    let mut first = None;
    for path in ["direct", "mediated"] {
        neighbours.emulator.does(&format!("vf 1 set path {path}"));
        for part in 0..2 {
            descriptors(&mut neighbours, &mut random, all / 4);
            messages(&mut neighbours, &mut random, all / 16);
            neighbours.unharmed(path);
            let now = at_rest(&neighbours);
            let pid = neighbours.emulator.pid();
            // What is kept for reuse has come by then.
            let (in_use, memory) = first.get_or_insert_with(|| (now, resident(pid)));
            wait_for("as much in use as before", || {
                (at_rest(&neighbours) == *in_use).then_some(())
            });
            let grown = resident(pid).saturating_sub(*memory);
            println!("{path}, part {part}: {in_use:?}, {grown} kB more");
            assert!(grown < SLACK, "{grown} kB more than before");
        }
    }
}
