//! Where rings and buffers lie in guest memory, and where a ring goes on that others have used before. Nothing here is hostile: each is a
//! place that a front end may choose.

use std::time::{Duration, Instant};

use vm_memory::Bytes;

use crate::bench::{DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::clauses::{started, stopped, went};
use crate::cases::ring::SPLIT;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{Buffer, DESC_NEXT, DESC_WRITE, Desc, Format};
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::message::{self, protocol, request};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, feature};

const PAGE: u64 = 4096;
/// What buffers are full of that nobody may write to.
const PATTERN: u8 = 0x5a;
/// Length of the frames that are sent from odd places.
const FRAME: usize = 300;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "ring/used-index-from-memory",
        level: Level::Text,
        needs: &[SPLIT],
        source: "VU SET_VRING_BASE (split virtqueues)",
        sent: "A send ring whose used index in memory is 7, SET_VRING_BASE 10, and a frame: three chains were taken by an earlier back end and never given back.",
        expected: "The used elements go on at 7: the used index is read from memory and not from the base.",
        run: |bench| {
            const USED: u16 = 7;
            let config = NetConfig {
                base: 10,
                ..NetConfig::default()
            };
            let (mut front, mut net) = bench.negotiated(&config)?;
            let used = net.tx_ring(0).queue.layout().used;
            let element = used + 4 + 8 * u64::from(USED);
            write(&net, used + 2, &USED.to_le_bytes())?;
            write(&net, element, &[0xff; 8])?;
            net.send(0, &NetHeader::default(), &[0xff; 60])?;
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
                front.set_vring_base(index, 10)?;
            }
            run_rings(&mut net, front)?;
            let deadline = Instant::now() + DEADLINE;
            while net.tx_ring(0).queue.given_back() == USED {
                ensure(Instant::now() < deadline, "the frame was not given back")?;
                std::thread::sleep(Duration::from_millis(1));
            }
            ensure(
                read(&net, element, 8)? != [0xff; 8],
                format_args!(
                    "the used index is {}, and nothing is where it was before",
                    net.tx_ring(0).queue.given_back()
                ),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/buffer-spans-regions",
        level: Level::Text,
        needs: &[],
        source: "VU Memory access; CVE-2019-18960",
        sent: "A frame in a buffer that begins in one region and ends in the next one, which is behind it in guest addresses.",
        expected: "The frame: a buffer lies in guest addresses, in whatever regions those are.",
        run: |bench| {
            let (mut front, mut net) = bench.negotiated(&table_only())?;
            front.set_features(net.features())?;
            let ring = net.tx_ring(0);
            let border = (ring.buffer_addr(0) + PAGE).next_multiple_of(PAGE);
            set_in_two(&mut front, &net, border)?;
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
            }
            run_rings(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            sent_from(&mut link, border - 100)
        },
    },
    Case {
        id: "ring/rx-buffer-spans-regions",
        level: Level::Text,
        needs: &[Need::Peer],
        source: "VU Memory access; CVE-2019-18960",
        sent: "16 frames to receive buffers that lie one behind the other over the border of two regions.",
        expected: "Each arrives as it was.",
        run: |bench| {
            let (mut front, mut net) = bench.negotiated(&table_only())?;
            front.set_features(net.features())?;
            let ring = net.rx_ring(0);
            let (start, len) = (ring.buffer_addr(0), u64::from(ring.buffer_len()));
            let inside = |border: &u64| (100..len - 100).contains(&((border - start) % len));
            let mut borders = (1..8).map(|n| (start + n * PAGE).next_multiple_of(PAGE));
            let border = borders.find(inside).unwrap_or_default();
            set_in_two(&mut front, &net, border)?;
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
            }
            run_rings(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            for n in 0..16 {
                let mut frame = link.frame(1500 - n);
                frame[..6].copy_from_slice(&link.src);
                frame[6..12].copy_from_slice(&link.dst);
                if let Some(peer) = &mut link.rx {
                    peer.send(0, &NetHeader::default(), &frame)?;
                    peer.kick();
                }
                let came = link.returned(DEADLINE, |came| came == frame)?;
                ensure(came, format_args!("frame {n} did not arrive as it was"))?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/buffer-ends-at-top",
        level: Level::Text,
        needs: &[],
        source: "VU Memory access; Firecracker #1296",
        sent: "A frame in a buffer whose last byte is the last one of its region.",
        expected: "The frame: that byte is memory.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let all = link.tx.memory().regions()[0].layout();
            let len = FRAME + link.tx.header_len();
            sent_from(&mut link, all.guest_addr + all.size - len as u64)
        },
    },
    Case {
        id: "ring/ends-with-region",
        level: Level::Text,
        needs: &[Need::Peer],
        source: "VU Memory access",
        sent: "Frames to a receive ring of 256 whose descriptors fill one region to its end, and whose other parts are in the next one.",
        expected: "They arrive: the last byte of a region is memory.",
        run: |bench| {
            let (mut front, mut net) = bench.negotiated(&table_only())?;
            front.set_features(net.features())?;
            let layout = net.rx_ring(0).queue.layout();
            let border = layout.desc + 16 * u64::from(layout.size);
            ensure(
                border.is_multiple_of(PAGE),
                "a ring of our own is not where it was put",
            )?;
            set_in_two(&mut front, &net, border)?;
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
            }
            run_rings(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            for n in 0..16 {
                let mut frame = link.frame(1500 - n);
                frame[..6].copy_from_slice(&link.src);
                frame[6..12].copy_from_slice(&link.dst);
                if let Some(peer) = &mut link.rx {
                    peer.send(0, &NetHeader::default(), &frame)?;
                    peer.kick();
                }
                let came = link.returned(DEADLINE, |came| came == frame)?;
                ensure(came, format_args!("frame {n} did not arrive as it was"))?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/rx-readable-untouched",
        level: Level::Must,
        needs: &[SPLIT, Need::Peer],
        source: "V 2.7.5.1 The Virtqueue Descriptor Table",
        sent: "Frames to receive buffers whose first descriptor is to be read by the device and whose second is to be written.",
        expected: "Not a byte of the first was written, whatever becomes of the frames: a device MUST NOT write to a device-readable buffer.",
        run: |bench| {
            const FIRST: u32 = 64;
            let (mut front, mut net) = bench.negotiated(&NetConfig::default())?;
            let ring = net.rx_ring(0);
            let len = ring.buffer_len();
            let readable: Vec<u64> = (0..8)
                .step_by(2)
                .map(|head| ring.buffer_addr(head))
                .collect();
            for head in (0..8u16).step_by(2) {
                let (first, second) = (ring.buffer_addr(head), ring.buffer_addr(head + 1));
                let chain = [
                    (head, first, FIRST, DESC_NEXT, head + 1),
                    (head + 1, second, len, DESC_WRITE, 0),
                ];
                for (index, addr, len, flags, next) in chain {
                    let desc = Desc {
                        addr,
                        len,
                        flags,
                        next,
                    };
                    if let Some(queue) = ring.queue.as_split() {
                        queue.set_desc(index, desc);
                    }
                }
            }
            for at in &readable {
                write(&net, *at, &[PATTERN; FIRST as usize])?;
            }
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
            }
            run_rings(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            for _ in 0..4 {
                let mut frame = link.frame(200);
                frame[..6].copy_from_slice(&link.src);
                frame[6..12].copy_from_slice(&link.dst);
                if let Some(peer) = &mut link.rx {
                    peer.send(0, &NetHeader::default(), &frame)?;
                    peer.kick();
                }
            }
            std::thread::sleep(2 * QUIET);
            for at in &readable {
                ensure(
                    read(&link.tx, *at, FIRST as usize)? == [PATTERN; FIRST as usize],
                    "a buffer that the device is to read was written",
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/packed-used-stays",
        level: Level::Must,
        needs: &[Need::Format(Format::Packed)],
        source: "V 2.8.15 The Virtqueue Descriptor Table",
        sent: "50 frames on a packed ring of 256, whose first descriptor is looked at after each.",
        expected: "It stays as it was when it was used: a device MUST NOT change a descriptor any more then.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            let table = link.tx.tx_ring(0).queue.layout().desc;
            let used = read(&link.tx, table, 16)?;
            for n in 1..50 {
                let frame = link.frame(100);
                link.pass(&frame)?;
                let now = read(&link.tx, table, 16)?;
                ensure(
                    now == used,
                    format_args!("it was {used:02x?} and is {now:02x?} after {n} more frames"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/other-memory",
        level: Level::Text,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "Rings that are stopped, SET_MEM_TABLE with other files at the same addresses, and the rings again in that memory, as when a guest starts again.",
        expected: "Frames pass: the table that came last is in force.",
        run: |bench| {
            let config = table_only();
            let mut link = bench.link(&config)?;
            let frame = link.frame(300);
            link.pass(&frame)?;
            for _ in 0..2 {
                let mut front = stopped(&mut link)?;
                let mut net = NetDevice::detached(link.tx.features(), &config)?;
                front.set_mem_table(net.memory().regions())?;
                started(&mut net, front)?;
                bench.settle();
                link.tx = net;
                for len in [60, 1514] {
                    let frame = link.frame(len);
                    link.pass(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/unsorted-traffic",
        level: Level::Text,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "Rings in one region and buffers in four that meet, SET_MEM_TABLE with the highest first, and frames.",
        expected: "They pass, or the table is refused: no order is asked for, and what is accepted is to be used.",
        run: |bench| {
            let config = NetConfig {
                apart: true,
                ..table_only()
            };
            let (mut front, mut net) = bench.negotiated(&config)?;
            front.set_features(net.features())?;
            let memory = net.memory().clone();
            let (mut entries, mut fds) = (Vec::new(), Vec::new());
            for (region, parts) in memory.regions().iter().zip([1, 4]) {
                let all = region.layout();
                let each = (all.size / parts).next_multiple_of(PAGE);
                for start in (0..all.size).step_by(each as usize) {
                    entries.push(message::region(
                        all.guest_addr + start,
                        each.min(all.size - start),
                        all.user_addr + start,
                        all.mmap_offset + start,
                    ));
                    fds.push(region.fd());
                }
            }
            entries.reverse();
            fds.reverse();
            match front.set(request::SET_MEM_TABLE, &message::mem_table(&entries), &fds) {
                Err(FrontendError::Nack { .. }) => return Ok(Seen::Refused),
                Err(FrontendError::Closed) => return Ok(Seen::Closed),
                answer => answer?,
            }
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
            }
            run_rings(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            for len in [60, 1514] {
                let frame = link.frame(len);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
];

fn table_only() -> NetConfig {
    let mut config = NetConfig::default();
    config.protocol_features &= !protocol::CONFIGURE_MEM_SLOTS;
    config
}

/// Tells the one region of a guest as two that meet at this guest address.
fn set_in_two(front: &mut Frontend, net: &NetDevice, border: u64) -> Result<(), Failure> {
    let region = &net.memory().regions()[0];
    let all = region.layout();
    let first = border - all.guest_addr;
    let (user_addr, offset) = (all.user_addr + first, all.mmap_offset + first);
    let table = message::mem_table(&[
        message::region(all.guest_addr, first, all.user_addr, all.mmap_offset),
        message::region(border, all.size - first, user_addr, offset),
    ]);
    front.set(request::SET_MEM_TABLE, &table, &[region.fd(), region.fd()])?;
    Ok(())
}

/// Starts and enables rings that have been placed.
fn run_rings(net: &mut NetDevice, mut front: Frontend) -> Result<(), Failure> {
    for index in 0..net.rings() {
        net.start_ring(&mut front, index)?;
    }
    if net.has(feature::PROTOCOL_FEATURES) {
        for index in 0..net.rings() {
            front.set_vring_enable(index, true)?;
        }
    }
    net.adopt(front);
    Ok(())
}

/// Sends a frame whose header begins at this guest address, and sees it arrive.
fn sent_from(link: &mut Link, addr: u64) -> Result<Seen, Failure> {
    let frame = link.frame(FRAME);
    let bytes = [&vec![0; link.tx.header_len()][..], &frame].concat();
    write(&link.tx, addr, &bytes)?;
    let buffer = Buffer {
        addr,
        len: bytes.len() as u32,
        writable: false,
    };
    let added = link.tx.tx_ring(0).queue.add(&[buffer]);
    ensure(added.is_some(), "the chain does not fit the ring")?;
    went(link, &frame)
}

fn write(net: &NetDevice, at: u64, bytes: &[u8]) -> Result<(), Failure> {
    let slice = net.memory().slice(at, bytes.len());
    let written = slice.is_some_and(|slice| slice.write_slice(bytes, 0).is_ok());
    ensure(written, "memory of our own cannot be written")
}

fn read(net: &NetDevice, at: u64, len: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = vec![0; len];
    let slice = net.memory().slice(at, len);
    let read = slice.is_some_and(|slice| slice.read_slice(&mut bytes, 0).is_ok());
    ensure(read, "memory of our own cannot be read")?;
    Ok(bytes)
}
