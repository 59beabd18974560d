//! The memory table: translation, odd tables, tables that lie. Where rings and buffers lie in memory is in `places`, what is logged of it
//! in `migration`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use vm_memory::Bytes;

use crate::bench::{Bench, Link};
use crate::case::{Case, Level, Need};
use crate::cases::clauses::started;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::Buffer;
use vf_guest::frontend::FrontendError;
use vf_guest::memory::{GUEST_BASE, GuestMemory, Region, RegionLayout};
use vf_guest::message::{self, protocol, request};
use vf_guest::net::NetConfig;

const SLOTS: Need = Need::Protocol(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS");
const ACK: Need = Need::Protocol(protocol::REPLY_ACK, "REPLY_ACK");
const PAGE: u64 = 4096;
/// How long it may take to map some gigabytes.
const MAPPING: Duration = Duration::from_secs(25);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "mem/set-mem-table",
        level: Level::Text,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "A set-up with SET_MEM_TABLE.",
        expected: "A frame passes.",
        run: |bench| {
            let mut config = NetConfig::default();
            config.protocol_features &= !protocol::CONFIGURE_MEM_SLOTS;
            let mut link = bench.link(&config)?;
            let frame = link.frame(300);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/mmap-offset",
        level: Level::Text,
        needs: &[],
        source: "VU Memory region description",
        sent: "Guest memory that begins at 8192 in its file; frames.",
        expected: "Frames pass: the offset is where the region begins in what is mapped.",
        run: |bench| {
            laid_out(
                bench,
                NetConfig {
                    mmap_offset: 2 * PAGE,
                    ..table_only()
                },
            )
        },
    },
    Case {
        id: "mem/large",
        level: Level::Text,
        needs: &[],
        source: "VU Memory region description",
        sent: "Rings and buffers behind 4 GiB of memory that nobody uses, and such in a file in which they begin behind 4 GiB; frames.",
        expected: "Frames pass: sizes, addresses and offsets have 64 bits.",
        run: |bench| {
            // On one side only: some touch all of it when they map it.
            const BEHIND: u64 = (4 << 30) + PAGE;
            for (lead, mmap_offset) in [(BEHIND, 0), (0, BEHIND)] {
                let config = NetConfig {
                    lead,
                    mmap_offset,
                    ..table_only()
                };
                let (mut front, mut net) = patiently(|| bench.negotiated(&config))?;
                front.timeout = MAPPING;
                front.set_features(net.features())?;
                front.set_mem_table(net.memory().regions())?;
                started(&mut net, front)?;
                let mut link = bench.link_from(net, &NetConfig::default())?;
                for len in [60, 1514] {
                    let frame = link.frame(len);
                    link.pass(&frame)?;
                }
            }
            // Nor is it all given back at once.
            patiently(|| bench.connect())?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/eight-regions",
        level: Level::Text,
        needs: &[],
        source: "VU SET_MEM_TABLE; VU Memory regions description (up to 8)",
        sent: "Rings in one region and buffers in seven that meet, SET_MEM_TABLE with all of them in their order, and frames.",
        expected: "They pass: a table has up to eight regions.",
        run: |bench| {
            let config = NetConfig {
                apart: true,
                ..table_only()
            };
            let (mut front, mut net) = bench.negotiated(&config)?;
            front.set_features(net.features())?;
            let memory = net.memory().clone();
            let (mut entries, mut fds) = (Vec::new(), Vec::new());
            for (region, parts) in memory.regions().iter().zip([1, 7]) {
                let all = region.layout();
                let each = all.size / parts / PAGE * PAGE;
                for part in 0..parts {
                    let start = part * each;
                    let end = if part + 1 == parts {
                        all.size
                    } else {
                        start + each
                    };
                    entries.push(message::region(
                        all.guest_addr + start,
                        end - start,
                        all.user_addr + start,
                        all.mmap_offset + start,
                    ));
                    fds.push(region.fd());
                }
            }
            front.set(request::SET_MEM_TABLE, &message::mem_table(&entries), &fds)?;
            started(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            // Every buffer of the send ring in turn.
            for n in 0..300 {
                let frame = link.frame(60 + n);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/two-regions-with-hole",
        level: Level::Text,
        needs: &[],
        source: "VU Memory access",
        sent: "Rings in one region and buffers in another, with a hole in between; user addresses in the other order.",
        expected: "Frames pass: ring addresses are user addresses, buffers have guest addresses.",
        run: |bench| {
            laid_out(
                bench,
                NetConfig {
                    apart: true,
                    ..table_only()
                },
            )
        },
    },
    Case {
        id: "mem/two-regions-by-slot",
        level: Level::Must,
        needs: &[SLOTS],
        source: "VU ADD_MEM_REG",
        sent: "The same regions, each with an ADD_MEM_REG and at an offset in its file.",
        expected: "Frames pass.",
        run: |bench| {
            laid_out(
                bench,
                NetConfig {
                    apart: true,
                    mmap_offset: PAGE,
                    ..NetConfig::default()
                },
            )
        },
    },
    Case {
        id: "mem/unsorted",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "SET_MEM_TABLE with regions that are not in order.",
        expected: "Contained. No text asks for an order, and one that refuses this keeps a front end out.",
        run: |bench| {
            let layouts = [3, 1, 2].map(|i| region(GUEST_BASE + i * 0x100_0000, PAGE));
            let memory = GuestMemory::with_regions(&layouts, true)?;
            let (mut front, _) = bench.negotiated(&table_only())?;
            let answer = front
                .set_mem_table(memory.regions())
                .and_then(|()| front.get_features());
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "mem/replace-while-running",
        level: Level::Text,
        needs: &[],
        source: "VU SET_MEM_TABLE; QEMU, when memory is plugged or a BAR moves",
        sent: "SET_MEM_TABLE with the same regions, five times between frames.",
        expected: "Frames pass: it may come while rings run.",
        run: |bench| {
            let mut link = bench.link(&table_only())?;
            for _ in 0..5 {
                let frame = link.frame(300);
                link.pass(&frame)?;
                let memory = link.tx.memory().clone();
                if let Some(front) = link.tx.frontend() {
                    front.set_mem_table(memory.regions())?;
                }
            }
            let frame = link.frame(300);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/add-rem-slot",
        level: Level::Must,
        needs: &[SLOTS],
        source: "VU ADD_MEM_REG, REM_MEM_REG",
        sent: "ADD_MEM_REG and REM_MEM_REG of an unused region, ten times while rings run.",
        expected: "A frame passes.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let extra = GuestMemory::with_regions(&[region(GUEST_BASE + (1 << 40), PAGE)], true)?;
            if let Some(front) = link.tx.frontend() {
                for _ in 0..10 {
                    front.add_mem_region(&extra.regions()[0])?;
                    front.remove_mem_region(&extra.regions()[0])?;
                }
            }
            let frame = link.frame(300);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/removed-is-gone",
        level: Level::Must,
        needs: &[SLOTS, Need::Delivery],
        source: "VU REM_MEM_REG",
        sent: "A frame in a region that was added while rings run, and another one there when the region has been removed.",
        expected: "The first arrives, the second does not: the region is unmapped.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let at = GUEST_BASE + (1 << 40);
            let extra = GuestMemory::with_regions(&[region(at, PAGE)], true)?;
            if let Some(front) = link.tx.frontend() {
                front.add_mem_region(&extra.regions()[0])?;
            }
            let frame = send_from(&mut link, &extra, at)?;
            link.expect(&frame)?;
            if let Some(front) = link.tx.frontend() {
                front.remove_mem_region(&extra.regions()[0])?;
            }
            let frame = send_from(&mut link, &extra, at)?;
            link.expect_nothing(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/rem-right-slot",
        level: Level::Must,
        needs: &[SLOTS, Need::Delivery],
        source: "VU REM_MEM_REG",
        sent: "Two regions of one size that are added while rings run, and a frame in each; the second is removed, and another frame comes in the first.",
        expected: "They arrive: the region that was named is unmapped, and no other.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let places = [1, 2].map(|n| GUEST_BASE + (n << 40));
            let extra = GuestMemory::with_regions(&places.map(|at| region(at, PAGE)), true)?;
            if let Some(front) = link.tx.frontend() {
                for region in extra.regions() {
                    front.add_mem_region(region)?;
                }
            }
            for at in places {
                let frame = send_from(&mut link, &extra, at)?;
                link.expect(&frame)?;
            }
            if let Some(front) = link.tx.frontend() {
                front.remove_mem_region(&extra.regions()[1])?;
            }
            let frame = send_from(&mut link, &extra, places[0])?;
            link.expect(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/slots-all-there",
        level: Level::Text,
        needs: &[SLOTS],
        source: "VU GET_MAX_MEM_SLOTS, ADD_MEM_REG",
        sent: "ADD_MEM_REG with regions of a page until there are as many as GET_MAX_MEM_SLOTS says, 256 at most.",
        expected: "Each is taken.",
        run: |bench| {
            let (mut front, net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            let slots = front.get_u64(request::GET_MAX_MEM_SLOTS)?;
            for slot in 0..slots.min(256) {
                let at = GUEST_BASE + slot * 2 * PAGE;
                let answer = front.add_mem_region(&Region::new(region(at, PAGE), true)?);
                ensure(
                    answer.is_ok(),
                    format_args!("region {slot} of {slots} was refused: {answer:?}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/refusals-told",
        level: Level::Should,
        needs: &[ACK],
        source: "VU REPLY_ACK; VU SET_MEM_TABLE, ADD_MEM_REG",
        sent: "SET_MEM_TABLE with need_reply and a pipe as the descriptor of its region, and ADD_MEM_REG of the same where there is that.",
        expected: "Neither is answered with 0: that says success, and a pipe cannot be mapped.",
        run: |bench| {
            let (pipe, _writer) = rustix::pipe::pipe()?;
            let region = message::region(GUEST_BASE, PAGE, GUEST_BASE, 0);
            let (mut front, _) = bench.negotiated(&table_only())?;
            let table = message::mem_table(std::slice::from_ref(&region));
            let answer = front.set(request::SET_MEM_TABLE, &table, &[pipe.as_fd()]);
            ensure(answer.is_err(), "a table with a pipe was accepted")?;
            drop(front);
            if bench.protocol_features() & protocol::CONFIGURE_MEM_SLOTS != 0 {
                let (mut front, _) = bench.negotiated(&NetConfig::default())?;
                let slot = message::single_region(&region);
                let answer = front.set(request::ADD_MEM_REG, &slot, &[pipe.as_fd()]);
                ensure(answer.is_err(), "a region with a pipe was accepted")?;
            }
            bench.alive()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/overlap-guest",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "SET_MEM_TABLE with regions that overlap in guest addresses.",
        expected: "Contained.",
        run: |bench| {
            let layouts = [0, PAGE].map(|offset| region(GUEST_BASE + offset, 2 * PAGE));
            let memory = GuestMemory::with_regions(&layouts, true)?;
            let (mut front, _) = bench.negotiated(&table_only())?;
            let answer = front.set_mem_table(memory.regions());
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "mem/wraps-64-bit",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "SET_MEM_TABLE with regions that end behind 2^64: guest address, user address, offset in the file.",
        expected: "Contained.",
        run: |bench| {
            lying(
                bench,
                &[message::region(u64::MAX - PAGE + 1, 2 * PAGE, 0, 0)],
            )?;
            lying(
                bench,
                &[message::region(0, 2 * PAGE, u64::MAX - PAGE + 1, 0)],
            )?;
            lying(bench, &[message::region(0, PAGE, 0, u64::MAX - PAGE + 1)])
        },
    },
    Case {
        id: "mem/zero-size",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "SET_MEM_TABLE with a region of no bytes.",
        expected: "Contained.",
        run: |bench| lying(bench, &[message::region(0, 0, 0, 0)]),
    },
    Case {
        id: "mem/fds-mismatch",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "SET_MEM_TABLE with three regions and one descriptor.",
        expected: "Contained.",
        run: |bench| {
            let entries = [0, 1, 2].map(|i| message::region(i * PAGE, PAGE, i * PAGE, 0));
            lying(bench, &entries)
        },
    },
    Case {
        id: "mem/count-9",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "SET_MEM_TABLE that counts nine regions and has one.",
        expected: "Contained, and best of all refused: what it counts is not there.",
        run: |bench| {
            // The count says nine, the payload has one.
            let memory = GuestMemory::new(PAGE, true)?;
            let mut payload = message::mem_table(&[message::region(0, PAGE, 0, 0)]);
            payload[0] = 9;
            let (mut front, _) = bench.negotiated(&table_only())?;
            let answer = front.set(
                request::SET_MEM_TABLE,
                &payload,
                &[memory.regions()[0].fd().as_fd()],
            );
            drop(front);
            bench.contained(answer)
        },
    },
];

/// Tries for as long as some gigabytes may take that are still being mapped, or given back.
fn patiently<T>(act: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
    let deadline = Instant::now() + MAPPING;
    loop {
        match act() {
            Err(Failure::Session(FrontendError::Timeout)) if Instant::now() < deadline => {}
            acted => return acted,
        }
    }
}

/// Sends a frame that lies in other memory than the rings, at this guest address.
fn send_from(link: &mut Link, memory: &GuestMemory, at: u64) -> Result<Vec<u8>, Failure> {
    let frame = link.frame(300);
    let bytes = [&vec![0; link.tx.header_len()][..], &frame].concat();
    let slice = memory.slice(at, bytes.len());
    let written = slice.is_some_and(|slice| slice.write_slice(&bytes, 0).is_ok());
    ensure(written, "memory of our own cannot be written")?;
    let buffer = Buffer {
        addr: at,
        len: bytes.len() as u32,
        writable: false,
    };
    let added = link.tx.tx_ring(0).queue.add(&[buffer]);
    ensure(added.is_some(), "the chain does not fit the ring")?;
    link.tx.kick();
    Ok(frame)
}

fn region(guest_addr: u64, size: u64) -> RegionLayout {
    RegionLayout {
        guest_addr,
        user_addr: guest_addr + (1 << 44),
        size,
        mmap_offset: 0,
    }
}

/// Frames of two lengths with memory that is laid out like this.
fn laid_out(bench: &Bench, config: NetConfig) -> Result<Seen, Failure> {
    let mut link = bench.link(&config)?;
    for len in [60, 1514] {
        let frame = link.frame(len);
        link.pass(&frame)?;
    }
    Ok(Seen::Conforms)
}

fn table_only() -> NetConfig {
    let mut config = NetConfig::default();
    config.protocol_features &= !protocol::CONFIGURE_MEM_SLOTS;
    config
}

/// Sends a memory table of `entries` with one descriptor of one page.
fn lying(bench: &Bench, entries: &[Vec<u8>]) -> Result<Seen, Failure> {
    let memory = GuestMemory::new(PAGE, true)?;
    let (mut front, _) = bench.negotiated(&table_only())?;
    let answer = front.set(
        request::SET_MEM_TABLE,
        &message::mem_table(entries),
        &[memory.regions()[0].fd()],
    );
    drop(front);
    bench.contained(answer)
}
