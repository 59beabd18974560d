//! The dirty log of a live migration: what has to be in it, and logs that lie. Moves no guest: a front end that logs is all there is of a
//! migration.

use std::time::{Duration, Instant};

use vf_guest::frontend::Frontend;
use vf_guest::memory::{GUEST_BASE, GuestMemory};
use vf_guest::message::{self, protocol, request};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, feature};

use crate::bench::{Bench, DEADLINE, QUIET, with};
use crate::case::{Case, Level, Need};
use crate::cases::clauses::{contents, started};
use crate::cases::coalescing::held;
use crate::cases::control::{ALL, told};
use crate::cases::packets::{TCP, packet};
use crate::cases::vf::{NEW, tagged};
use crate::control::{coalesce, mac_table, obeyed, queue_pairs, vlan};
use crate::link::Link;
use crate::verdict::{Failure, Seen, ensure};

const LOGS: &[Need] = &[
    Need::Feature(feature::LOG_ALL, "VHOST_F_LOG_ALL"),
    Need::Protocol(protocol::LOG_SHMFD, "LOG_SHMFD"),
];
/// Bytes of guest memory to a bit of the log.
const PAGE: u64 = 4096;
/// An address that the driver lists besides its own.
const LISTED: [u8; 6] = [0x02, 0, 0, 0, 0xc0, 0x77];
/// Log bytes that the guest's memory of all cases has.
const LOG: u64 = (GUEST_BASE + (1 << 30)) / PAGE / 8;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "mem/log-base",
        level: Level::Should,
        needs: &[LOGS[0], LOGS[1], Need::Delivery],
        source: "VU Migration",
        sent: "Frames to a receiver with VHOST_F_LOG_ALL, then with VHOST_VRING_F_LOG of its ring and the ring's address, and after another memory table.",
        expected: "The pages of buffers are marked in the log, and those of the used ring once its flags say so.",
        run: |bench| {
            let mut link = bench.link(&config())?;
            let log = Log::new(LOG)?;
            let features = link.receiver().features();
            let front = front_of(link.receiver())?;
            log.give(front, LOG, 0)?;
            front_of(link.receiver())?.set_features(features | feature::LOG_ALL)?;
            log.sees(&mut link, false)?;
            set_ring_log(link.receiver(), 0, true)?;
            log.sees(&mut link, true)?;
            let memory = link.receiver().memory().clone();
            front_of(link.receiver())?.set_mem_table(memory.regions())?;
            log.sees(&mut link, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/log-only-then",
        level: Level::Model,
        needs: &[LOGS[0], LOGS[1], Need::Delivery],
        source: "VU Migration (VHOST_F_LOG_ALL starts and ends it)",
        sent: "A log, and frames to a receiver before VHOST_F_LOG_ALL and when it has been taken back.",
        expected: "Nothing is marked: no text forbids it, and each mark is a page that is sent for nothing.",
        run: |bench| {
            let mut link = bench.link(&config())?;
            let log = Log::new(LOG)?;
            let features = link.receiver().features();
            log.give(front_of(link.receiver())?, LOG, 0)?;
            log.stays_clean(&mut link)?;
            front_of(link.receiver())?.set_features(features | feature::LOG_ALL)?;
            log.sees(&mut link, false)?;
            front_of(link.receiver())?.set_features(features)?;
            log.stays_clean(&mut link)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/log-base-again",
        level: Level::Should,
        needs: &[LOGS[0], LOGS[1], Need::Delivery],
        source: "VU Migration; VU SET_LOG_BASE",
        sent: "VHOST_F_LOG_ALL before there is a log, a log, and then a larger one in another file, as when memory is plugged in during a migration; frames to a receiver after each.",
        expected: "The pages of buffers are marked in the log that came last, and none in the one before.",
        run: |bench| {
            let mut link = bench.link(&config())?;
            let (first, second) = (Log::new(LOG)?, Log::new(2 * LOG)?);
            let features = link.receiver().features();
            front_of(link.receiver())?.set_features(features | feature::LOG_ALL)?;
            first.give(front_of(link.receiver())?, LOG, 0)?;
            first.sees(&mut link, false)?;
            second.give(front_of(link.receiver())?, 2 * LOG, 0)?;
            first.clear();
            second.sees(&mut link, false)?;
            ensure(first.is_clean()?, "a page is marked in the log of before")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/logged-while-running",
        level: Level::Should,
        needs: &[LOGS[0], LOGS[1], Need::Delivery],
        source: "VU Migration; VU Ring states",
        sent: "What QEMU sends when a migration begins: a log, VHOST_F_LOG_ALL, and SET_VRING_ADDR of each ring that runs with the same addresses, VHOST_VRING_F_LOG and an address for the log; frames; the same with flags 0, as when it ends; at both ends.",
        expected: "Frames pass all the time, and while the flag is set the page of a split ring's used ring is marked.",
        run: |bench| {
            let config = NetConfig {
                base: 10,
                ..config()
            };
            let mut link = bench.link(&config)?;
            let log = Log::new(LOG)?;
            pass_some(&mut link)?;
            for on in [true, false, true] {
                let both = [Some(&mut link.tx), link.rx.as_mut()];
                for device in both.into_iter().flatten() {
                    let features = device.features() | if on { feature::LOG_ALL } else { 0 };
                    log.give(front_of(device)?, LOG, 0)?;
                    front_of(device)?.set_features(features)?;
                    for index in 0..device.rings() {
                        set_ring_log(device, index, on)?;
                    }
                }
                bench.settle();
                pass_some(&mut link)?;
                if on {
                    log.sees(&mut link, true)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/migration-keeps",
        level: Level::Text,
        needs: &[
            LOGS[0],
            LOGS[1],
            Need::Control,
            Need::Peer,
            Need::Feature(
                feature::CTRL_RX | feature::CTRL_VLAN | feature::CTRL_MAC_ADDR | feature::MQ,
                "CTRL_RX, CTRL_VLAN, CTRL_MAC_ADDR and MQ",
            ),
            Need::Feature(feature::VQ_NOTF_COAL, "VQ_NOTF_COAL"),
            Need::Protocol(protocol::CONFIG, "CONFIG"),
            Need::Pairs(2),
        ],
        source: "VU Migration; V 2.4.1, 5.1.9.5",
        sent: "A MAC table, a VLAN, an address, two pairs and coalescing of a ring, each obeyed; a log, VHOST_F_LOG_ALL, and the features without it.",
        expected: "All of it holds with the log and without: the driver has nothing to do with a migration that begins or ends.",
        run: migration_keeps,
    },
    Case {
        id: "mem/log-pieces",
        level: Level::Should,
        needs: &[LOGS[0], LOGS[1], Need::Delivery],
        source: "VU Migration",
        sent: "Frames into buffers of several descriptors in indirect tables, with VHOST_F_LOG_ALL.",
        expected: "Each page of a frame is marked.",
        run: |bench| {
            let config = NetConfig {
                rx_pieces: 5,
                rx_indirect: true,
                ..config()
            };
            let mut link = bench.link(&config)?;
            ensure(
                link.receiver().has(feature::INDIRECT_DESC),
                "INDIRECT_DESC was offered, and is not in force",
            )?;
            let log = Log::new(LOG)?;
            log.give(front_of(link.receiver())?, LOG, 0)?;
            let features = link.receiver().features();
            front_of(link.receiver())?.set_features(features | feature::LOG_ALL)?;
            for _ in 0..8 {
                log.sees(&mut link, false)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/log-window",
        level: Level::Hard,
        needs: LOGS,
        source: "VU Migration",
        sent: "A log of 64 bytes in a file of a page, VHOST_F_LOG_ALL, and frames to memory far behind what 64 bytes have bits for.",
        expected: "Contained; nothing is written to the file that is not the log.",
        run: |bench| {
            let mut link = bench.link(&config())?;
            let log = Log::new(PAGE)?;
            let features = link.receiver().features();
            let front = front_of(link.receiver())?;
            let answer = log
                .give(front, 64, 64)
                .and_then(|()| Ok(front.set_features(features | feature::LOG_ALL)?));
            if answer.is_ok() {
                for len in [60, 1514] {
                    let frame = link.frame(len);
                    link.pass(&frame)?;
                }
            }
            let bytes = log.bytes()?;
            let outside = [&bytes[..64], &bytes[128..]].concat();
            ensure(
                outside.iter().all(|byte| *byte == 0),
                "what is not the log was written to",
            )?;
            drop(link);
            bench.alive()?;
            Ok(Seen::Tolerated)
        },
    },
    Case {
        id: "proto/log-size-overflow",
        level: Level::Hard,
        needs: LOGS,
        source: "VU SET_LOG_BASE; CVE-2020-10722",
        sent: "Logs whose size and offset are beyond 2^64, beyond their file, or nothing; VHOST_F_LOG_ALL, and frames.",
        expected: "Contained.",
        run: |bench| {
            for (size, offset) in [
                (u64::MAX, PAGE),
                (PAGE, u64::MAX),
                (u64::MAX - PAGE + 1, PAGE),
                (2 * PAGE, 0),
                (PAGE, 1),
                (0, 0),
            ] {
                lying(bench, size, offset, PAGE)?;
            }
            Ok(Seen::Tolerated)
        },
    },
    Case {
        id: "robust/log-shrinks",
        level: Level::Hard,
        needs: LOGS,
        source: "VU SET_LOG_BASE",
        sent: "A log whose file is cut to nothing, VHOST_F_LOG_ALL, and frames.",
        expected: "Contained.",
        run: |bench| lying(bench, LOG, 0, 0),
    },
    Case {
        id: "mem/log-at-offset",
        level: Level::Should,
        needs: &[LOGS[0], LOGS[1], Need::Delivery],
        source: "VU Migration; VU Log description (mmap offset)",
        sent: "A log that begins behind the first page of its file, VHOST_F_LOG_ALL, and frames to a receiver.",
        expected: "The pages of buffers are marked in it, and nothing in front of it.",
        run: |bench| {
            let mut link = bench.link(&config())?;
            let log = Log::behind(PAGE, LOG)?;
            let features = link.receiver().features();
            log.give(front_of(link.receiver())?, LOG, PAGE)?;
            front_of(link.receiver())?.set_features(features | feature::LOG_ALL)?;
            log.sees(&mut link, false)?;
            let bytes = log.bytes()?;
            let front = bytes.get(..PAGE as usize).unwrap_or_default();
            ensure(
                front.iter().all(|byte| *byte == 0),
                "something is marked in front of the log",
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/log-covers-changes",
        level: Level::Model,
        needs: &[LOGS[0], LOGS[1], Need::Peer],
        source: "VU Migration (what has changed and is not marked stays behind)",
        sent: "Eight frames at once to a receive ring of 512 entries that goes round its end meanwhile, with VHOST_F_LOG_ALL, VHOST_VRING_F_LOG and a driver that does nothing.",
        expected: "Each page of guest memory that has changed is marked, those of the ring and of its buffers.",
        run: covers_changes,
    },
    Case {
        id: "mem/log-long-frames",
        level: Level::Should,
        needs: &[
            LOGS[0],
            LOGS[1],
            Need::Peer,
            Need::Feature(
                NetConfig::TSO | NetConfig::CHECKSUM,
                "HOST_TSO4 and GUEST_TSO4",
            ),
        ],
        source: "VU Migration",
        sent: "Super-frames of 40,000 bytes to a receiver that takes them, in one buffer and in several of a page each (MRG_RXBUF), with VHOST_F_LOG_ALL and VHOST_VRING_F_LOG.",
        expected: "Each page of guest memory that has changed is marked, those in the midst of a buffer, too.",
        run: |bench| {
            let takes = NetConfig {
                features: config().features | NetConfig::TSO,
                ..config()
            };
            for receiver in [
                NetConfig {
                    features: takes.features & !feature::MRG_RXBUF,
                    ..takes.clone()
                },
                NetConfig {
                    rx_buffer: Some(PAGE as u32),
                    ..takes.clone()
                },
            ] {
                let mut link = bench.link_of(&with(NetConfig::TSO), &receiver)?;
                let log = logging(bench, &mut link)?;
                covers(&mut link, &log, 3, |link| {
                    for _ in 0..3 {
                        let (hdr, frame) = packet(link, false, TCP, 40_000, 1400);
                        link.tx.send(0, &hdr, &frame)?;
                    }
                    Ok(())
                })?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/log-from-the-start",
        level: Level::Should,
        needs: &[LOGS[0], LOGS[1], Need::Peer],
        source: "VU Migration; VU SET_FEATURES",
        sent: "VHOST_F_LOG_ALL with the first SET_FEATURES of a session, as when a front end comes back during a migration, SET_LOG_BASE before it and behind it, and frames to that receiver.",
        expected: "The pages of buffers are marked in the log.",
        run: |bench| {
            for before in [true, false] {
                let mut link = bench.link(&config())?;
                drop(link.rx.take());
                let mut front = bench.connect_peer()?;
                let (features, _) = vf_guest::net::negotiate(&mut front, &config())?;
                let mut device = NetDevice::detached(features, &config())?;
                let log = Log::new(LOG)?;
                if before {
                    log.give(&mut front, LOG, 0)?;
                }
                front.set_features(device.features() | feature::LOG_ALL)?;
                if !before {
                    log.give(&mut front, LOG, 0)?;
                }
                front.set_mem_table(device.memory().regions())?;
                started(&mut device, front)?;
                link.rx = Some(device);
                bench.settle();
                log.sees(&mut link, false)?;
            }
            Ok(Seen::Conforms)
        },
    },
];

fn config() -> NetConfig {
    let mut config = NetConfig::default();
    config.protocol_features &= !protocol::CONFIGURE_MEM_SLOTS;
    config.protocol_features |= protocol::LOG_SHMFD;
    config
}

fn front_of(device: &mut NetDevice) -> Result<&mut Frontend, Failure> {
    let none = || Failure::Wrong("the session is over".into());
    device.frontend().ok_or_else(none)
}

/// Says where a ring is once more; with the flag by which its used ring is logged, at its guest address, or without. A packed ring's used
/// descriptors are where all of them are.
fn set_ring_log(device: &mut NetDevice, index: u32, on: bool) -> Result<(), Failure> {
    let pair = (index / 2) as usize;
    let ring = match index % 2 {
        0 => device.rx_ring(pair),
        _ => device.tx_ring(pair),
    };
    let layout = ring.queue.layout();
    let parts = [layout.desc, layout.used, layout.avail];
    let written = match ring.queue.as_packed() {
        Some(_) => layout.desc,
        None => layout.used,
    };
    let memory = device.memory().clone();
    let user = parts.map(|part| memory.user_addr(part).unwrap_or_default());
    let payload = message::vring_addr_logged(index, user, on.then_some(written));
    Ok(front_of(device)?.set(request::SET_VRING_ADDR, &payload, &[])?)
}

/// Passes more frames than one, each of which moves all indices.
fn pass_some(link: &mut Link) -> Result<(), Failure> {
    for len in [60, 500, 1514, 100, 300] {
        let frame = link.frame(len);
        link.pass(&frame)?;
    }
    Ok(())
}

fn migration_keeps(bench: &Bench) -> Result<Seen, Failure> {
    const RING: u8 = 1;
    const HELD: [u32; 2] = [3, 40];
    let receiver = NetConfig {
        features: config().features | ALL,
        queue_pairs: 2,
        ..config()
    };
    let mut link = bench.link_of(&NetConfig::default(), &receiver)?;
    let group = [0x01, 0, 0x5e, 0, 0, 0x17];
    let table = mac_table(&[LISTED], &[group]);
    let address = [&[1, 1][..], &NEW].concat();
    let held_back = coalesce(2, Some(RING.into()), HELD[0], HELD[1]);
    let device = link.receiver();
    for command in [
        &table,
        &vlan(true, 5),
        &address,
        &queue_pairs(2),
        &held_back,
    ] {
        obeyed(device, command)?;
    }
    let holds = |link: &mut Link, when: &str| {
        let said = |failure| match failure {
            Failure::Wrong(what) => Failure::Wrong(format!("{when}: {what}")),
            failure => failure,
        };
        for (dst, tag) in [(LISTED, false), (group, false), (NEW, false), (NEW, true)] {
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&dst);
            if tag {
                frame = tagged(&frame, 0x8100, 5);
            }
            link.send(&frame)?;
            link.arrives_on(&frame, 2).map_err(said)?;
        }
        told(link.receiver(), NEW).map_err(said)?;
        let now = held(link.receiver(), RING)?;
        ensure(
            now == HELD,
            format_args!("{when}: VQ_GET of ring {RING} said {now:?}"),
        )?;
        let mut second = 0;
        for flow in 0..32 {
            let mut frame = link.frame_of_flow(flow);
            frame[..6].copy_from_slice(&NEW);
            link.send(&frame)?;
            second += link.arrives_on(&frame, 2)?;
        }
        ensure(
            second > 0,
            format_args!("{when}: none of 32 flows came in the second pair"),
        )
    };
    holds(&mut link, "before")?;
    let log = Log::new(LOG)?;
    let features = link.receiver().features();
    log.give(front_of(link.receiver())?, LOG, 0)?;
    front_of(link.receiver())?.set_features(features | feature::LOG_ALL)?;
    holds(&mut link, "with the log")?;
    front_of(link.receiver())?.set_features(features)?;
    holds(&mut link, "without it again")?;
    Ok(Seen::Conforms)
}

fn covers_changes(bench: &Bench) -> Result<Seen, Failure> {
    const FRAMES: usize = 8;
    let config = NetConfig {
        queue_size: 512,
        base: 512 - FRAMES as u16 / 2,
        ..config()
    };
    // The sender's ring goes round elsewhere, so that what it sends at once may come at once.
    let mut link = bench.link_of(&NetConfig::default(), &config)?;
    let log = logging(bench, &mut link)?;
    covers(&mut link, &log, FRAMES / 4 + 1, |link| {
        for _ in 0..FRAMES {
            let frame = link.frame(1400);
            link.tx.send(0, &NetHeader::default(), &frame)?;
        }
        Ok(())
    })?;
    Ok(Seen::Conforms)
}

/// A log of what is written for the receiver from now on, to its buffers and its first ring.
fn logging(bench: &Bench, link: &mut Link) -> Result<Log, Failure> {
    let log = Log::new(LOG)?;
    let features = link.receiver().features();
    log.give(front_of(link.receiver())?, LOG, 0)?;
    front_of(link.receiver())?.set_features(features | feature::LOG_ALL)?;
    set_ring_log(link.receiver(), 0, true)?;
    bench.settle();
    Ok(log)
}

/// Checks that each page of the receiver's memory is marked that changes with what `send` places into the send ring, and that so many do.
fn covers(
    link: &mut Link,
    log: &Log,
    least: usize,
    send: impl FnOnce(&mut Link) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let before = contents(link.receiver())?;
    send(link)?;
    link.tx.kick();
    link.sent()?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        // What is written is marked a moment later at most: no text says when.
        std::thread::sleep(QUIET);
        let (after, bytes) = (contents(link.receiver())?, log.bytes()?);
        let first = link.receiver().memory().regions()[0].layout().guest_addr / PAGE;
        let pages = before
            .chunks(PAGE as usize)
            .zip(after.chunks(PAGE as usize));
        let mut changed = (first..).zip(pages).filter(|(_, (was, is))| was != is);
        let missing = changed.clone().find(|(page, _)| !log.has(&bytes, *page));
        let Some((page, _)) = missing else {
            ensure(
                changed.nth(least - 1).is_some(),
                "hardly a page has changed",
            )?;
            return Ok(());
        };
        ensure(
            Instant::now() < deadline,
            format_args!("page {page:#x} has changed and is not marked"),
        )?;
    }
}

/// A log that lies about itself, in a file that is cut to `left` bytes, and frames while it is used.
fn lying(bench: &Bench, size: u64, offset: u64, left: u64) -> Result<Seen, Failure> {
    let mut link = bench.link(&config())?;
    let file = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC);
    let file = file.map_err(std::io::Error::from)?;
    let cut = |len| rustix::fs::ftruncate(&file, len).map_err(std::io::Error::from);
    cut(if left == 0 { size } else { left })?;
    let features = link.receiver().features();
    let front = front_of(link.receiver())?;
    let mut answer = front.set_log_base(&file, size, offset);
    cut(left)?;
    if answer.is_ok() {
        answer = front.set_features(features | feature::LOG_ALL);
    }
    if answer.is_ok() {
        let frame = link.frame(300);
        // Whether it arrives is not the question.
        let _ = link.send(&frame).and_then(|()| link.sent());
    }
    drop(link);
    bench.contained(answer)
}

/// A log that the suite looks at.
struct Log {
    memory: GuestMemory,
    /// Where it begins in its file.
    at: u64,
}

impl Log {
    fn new(len: u64) -> Result<Log, Failure> {
        Log::behind(0, len)
    }

    fn behind(at: u64, len: u64) -> Result<Log, Failure> {
        let memory = GuestMemory::new(at + len, true)?;
        Ok(Log { memory, at })
    }

    fn give(&self, front: &mut Frontend, size: u64, offset: u64) -> Result<(), Failure> {
        Ok(front.set_log_base(self.memory.regions()[0].fd(), size, offset)?)
    }

    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let mapping = self.memory.regions()[0].mapping();
        let mut bytes = vec![0; mapping.len()];
        mapping.copy_to(&mut bytes);
        Ok(bytes)
    }

    /// Whether a page is marked in these bytes of its file.
    fn has(&self, bytes: &[u8], page: u64) -> bool {
        let byte = bytes.get((self.at + page / 8) as usize);
        byte.is_some_and(|byte| byte & 1 << (page % 8) != 0)
    }

    fn clear(&self) {
        let mapping = self.memory.regions()[0].mapping();
        mapping.copy_from(&vec![0u8; mapping.len()]);
    }

    fn is_clean(&self) -> Result<bool, Failure> {
        Ok(self.bytes()?.iter().all(|byte| *byte == 0))
    }

    /// Passes a frame, and looks whether any page is marked.
    fn stays_clean(&self, link: &mut Link) -> Result<(), Failure> {
        self.clear();
        let frame = link.frame(1400);
        link.send(&frame)?;
        link.expect(&frame)?;
        ensure(self.is_clean()?, "a page is marked that nobody asked for")
    }

    /// Passes a frame, and looks until all pages of the buffer that it is in are marked, and if `ring` says so one of a split ring's used
    /// ring: no text says when.
    fn sees(&self, link: &mut Link, ring: bool) -> Result<(), Failure> {
        self.clear();
        let frame = link.frame(1400);
        link.send(&frame)?;
        link.expect(&frame)?;
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.is_marked(link, &frame, ring) {
                Err(Failure::Wrong(_)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                seen => return seen,
            }
        }
    }

    fn is_marked(&self, link: &mut Link, frame: &[u8], used: bool) -> Result<(), Failure> {
        let bytes = self.bytes()?;
        let device = link.receiver();
        let header = device.header_len() as u64;
        let memory = device.memory().clone();
        let ring = device.rx_ring(0);
        let (layout, packed) = (ring.queue.layout(), ring.queue.as_packed().is_some());
        let at = (0..layout.size).map(|head| ring.buffer_addr(head));
        let holds = |at: &u64| {
            let mut bytes = vec![0; frame.len()];
            let slice = memory.slice(*at + header, frame.len());
            slice.is_some_and(|slice| {
                slice.copy_to(&mut bytes);
                bytes == frame
            })
        };
        let at = at
            .filter(holds)
            .max()
            .ok_or(Failure::Wrong("a frame is in no buffer".into()))?;
        let is_marked = |page: u64| self.has(&bytes, page);
        for page in at / PAGE..=(at + header + frame.len() as u64 - 1) / PAGE {
            ensure(
                is_marked(page),
                format_args!("page {page:#x} of a buffer is not marked"),
            )?;
        }
        // What is logged of a packed ring, which has no used ring, no text says.
        ensure(
            !used || packed || is_marked(layout.used / PAGE),
            "the used ring is not marked",
        )
    }
}
