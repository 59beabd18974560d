//! The dirty log of a live migration: what has to be in it, and logs that lie.

use vf_guest::frontend::Frontend;
use vf_guest::memory::{GUEST_BASE, GuestMemory};
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, NetDevice, feature};

use crate::bench::Bench;
use crate::case::{Case, Level, Need};
use crate::link::Link;
use crate::verdict::{Failure, Seen, ensure};

const LOGS: &[Need] = &[
    Need::Feature(feature::LOG_ALL, "VHOST_F_LOG_ALL"),
    Need::Protocol(protocol::LOG_SHMFD, "LOG_SHMFD"),
];
/// Bytes of guest memory to a bit of the log.
const PAGE: u64 = 4096;
/// Log bytes that the guest's memory of all cases has.
const LOG: u64 = (GUEST_BASE + (1 << 30)) / PAGE / 8;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "mem/log-base",
        level: Level::Should,
        needs: &[LOGS[0], LOGS[1], Need::Delivery],
        source: "VU Migration",
        sent: "Frames to a receiver before VHOST_F_LOG_ALL, with it, after another memory table, and without it again.",
        expected: "While it is set, and only then, the pages of buffers and of the used ring are marked in the log.",
        run: |bench| {
            let mut link = bench.link(&config())?;
            let log = Log::new(LOG)?;
            let features = link.receiver().features();
            let front = front_of(link.receiver())?;
            log.give(front, LOG, 0)?;
            log.sees(&mut link, false)?;
            front_of(link.receiver())?.set_features(features | feature::LOG_ALL)?;
            log.sees(&mut link, true)?;
            let memory = link.receiver().memory().clone();
            front_of(link.receiver())?.set_mem_table(memory.regions())?;
            log.sees(&mut link, true)?;
            front_of(link.receiver())?.set_features(features)?;
            log.sees(&mut link, false)?;
            Ok(Seen::Conforms)
        },
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
                log.sees(&mut link, true)?;
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
struct Log(GuestMemory);

impl Log {
    fn new(len: u64) -> Result<Log, Failure> {
        Ok(Log(GuestMemory::new(len, true)?))
    }

    fn give(&self, front: &mut Frontend, size: u64, offset: u64) -> Result<(), Failure> {
        Ok(front.set_log_base(self.0.regions()[0].fd(), size, offset)?)
    }

    fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let mapping = self.0.regions()[0].mapping();
        let mut bytes = vec![0; mapping.len()];
        mapping.copy_to(&mut bytes);
        Ok(bytes)
    }

    fn clear(&self) {
        let mapping = self.0.regions()[0].mapping();
        mapping.copy_from(&vec![0u8; mapping.len()]);
    }

    /// Passes a frame, and looks whether all pages of the buffer that it is in are marked, and one of the ring that tells of it; or, if
    /// it is not to be `marked`, whether no page is.
    fn sees(&self, link: &mut Link, marked: bool) -> Result<(), Failure> {
        self.clear();
        let frame = link.frame(1400);
        link.send(&frame)?;
        link.expect(&frame)?;
        let bytes = self.bytes()?;
        if !marked {
            return ensure(
                bytes.iter().all(|byte| *byte == 0),
                "a page is marked that nobody asked for",
            );
        }
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
        let is_marked = |page: u64| {
            bytes
                .get((page / 8) as usize)
                .is_some_and(|byte| byte & 1 << (page % 8) != 0)
        };
        for page in at / PAGE..=(at + header + frame.len() as u64 - 1) / PAGE {
            ensure(
                is_marked(page),
                format_args!("page {page:#x} of a buffer is not marked"),
            )?;
        }
        let (ring, len) = match packed {
            true => (layout.desc, 16 * u64::from(layout.size)),
            false => (layout.used, 4),
        };
        let mut pages = ring / PAGE..=(ring + len - 1) / PAGE;
        ensure(pages.any(is_marked), "the used ring is not marked")
    }
}
