//! Shapes that few drivers give rings, buffers and memory, and all may: sizes at either end, buffers that hold next to nothing or are
//! too few, rings that move, regions that begin in the middle of a page. Nothing here is hostile.

use std::collections::HashMap;

use vm_memory::Bytes;

use crate::bench::{Bench, DEADLINE, Link, QUIET, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::clauses::{started, stopped};
use crate::cases::offloads::{MSS, TAKES_TSO4, TSO4, segments};
use crate::cases::packets::{TCP, packet};
use crate::cases::vf::{ADMIN, tagged};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::Format;
use vf_guest::frontend::FrontendError;
use vf_guest::message::{self, protocol, request};
use vf_guest::net::{GSO_NONE, NetConfig, NetDevice, NetHeader, feature};

const MRG: Need = Need::Feature(feature::MRG_RXBUF, "MRG_RXBUF");

pub(super) const CASES: &[Case] = &[
    Case {
        id: "ring/every-size",
        level: Level::Text,
        needs: &[Need::Delivery],
        source: "V 2.7, 2.8.10.1 (queue size); VU SET_VRING_NUM",
        sent: "Frames on rings of 1, 2, 1024 and 32768 descriptors, packed ones also of 3 and 1000, that begin two entries before their end; and GET_VRING_BASE.",
        expected: "They pass, and the ring is where its driver is; or the size is refused visibly.",
        run: every_size,
    },
    Case {
        id: "net/mrg-smallest",
        level: Level::Text,
        needs: &[Need::Delivery, MRG],
        source: "V 5.1.9.3, 5.1.9.4.1",
        sent: "Frames into buffers of 64 bytes with MRG_RXBUF.",
        expected: "They arrive: a buffer has to hold a header and need not hold more.",
        run: |bench| {
            let mut link = bench.link_of(&NetConfig::default(), &buffers(64, 256))?;
            for len in [52, 53, 60, 500, 1514] {
                for _ in 0..10 {
                    let frame = link.frame(len);
                    link.pass(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/mrg-many",
        level: Level::Model,
        needs: &[Need::Peer, MRG, TSO4, TAKES_TSO4],
        source: "V 5.1.9.3, 5.1.9.4.1; Linux vhost-net (1024 descriptors a frame)",
        sent: "A super-frame of 65,000 bytes to a driver with GUEST_TSO4 and MRG_RXBUF that has posted 1024 buffers of 128 bytes, and as many descriptors for such in two pieces; three times at most.",
        expected: "It arrives: whole in 509 of them, as num_buffers says, or in segments.",
        run: |bench| {
            for pieces in [1, 2] {
                mrg_many(bench, pieces)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/mrg-waits",
        level: Level::Text,
        needs: &[Need::Peer, MRG],
        source: "V 5.1.9.3, 5.1.9.4.1; V 2.7.8",
        sent: "With MRG_RXBUF, 40 frames that need six buffers each to a receiver that has posted eight and looks at them later; five times over.",
        expected: "Once it has taken those that have come, frames pass: buffers that were too few for a frame are there for the next.",
        run: |bench| {
            let mut link = bench.link_of(&NetConfig::default(), &buffers(256, 8))?;
            for _ in 0..5 {
                for _ in 0..40 {
                    let frame = link.frame(1514);
                    link.send(&frame)?;
                }
                link.sent()?;
                while link.receive(QUIET)?.is_some() {}
                for len in [1514, 60, 1514] {
                    let frame = link.frame(len);
                    link.pass(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tag-beside-mtu",
        level: Level::Model,
        needs: &[Need::Delivery, Need::Feature(feature::MTU, "MTU")],
        source: "V 5.1.4.1 (mtu is that of the payload); IEEE 802.3-2022 3.2.7 (a tagged frame has 4 bytes more)",
        sent: "A frame of 1518 bytes with a VLAN tag between drivers that accepted an mtu of 1500; of fewer if a smaller one is told.",
        expected: "It arrives: its payload is as long as the mtu.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let plain = link.frame(14 + usize::from(NetConfig::default().mtu));
            let frame = tagged(&plain, 0x8100, 7);
            link.send(&frame)?;
            link.expect(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/two-tags-beside-mtu",
        level: Level::Model,
        needs: &[Need::Delivery, Need::Feature(feature::MTU, "MTU")],
        source: "V 5.1.4.1 (mtu is that of the payload); IEEE 802.1Q-2018 9 (a service and a customer tag)",
        sent: "A frame of 1522 bytes with two VLAN tags between drivers that accepted an mtu of 1500; of fewer if a smaller one is told.",
        expected: "It arrives: its payload is as long as the mtu.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let plain = link.frame(14 + usize::from(NetConfig::default().mtu));
            let frame = tagged(&tagged(&plain, 0x8100, 7), 0x88a8, 5);
            link.send(&frame)?;
            link.expect(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/header-is-written",
        level: Level::Must,
        needs: &[Need::Delivery],
        source: "V 5.1.9.4.1",
        sent: "Frames into buffers full of ones, to a driver without GUEST_CSUM and MRG_RXBUF.",
        expected: "flags and gso_type are 0 and num_buffers is 1, whatever was in the buffer.",
        run: |bench| {
            let plain = without(NetConfig::CHECKSUM | feature::MRG_RXBUF);
            let mut link = bench.link(&plain)?;
            let receiver = link.receiver();
            let memory = receiver.memory().clone();
            let ring = receiver.rx_ring(0);
            for head in 0..ring.queue.layout().size {
                let slice = memory.slice(ring.buffer_addr(head), 64);
                let put = slice.is_some_and(|slice| slice.write_slice(&[0xff; 64], 0).is_ok());
                ensure(put, "memory of our own cannot be written")?;
            }
            for len in [60, 1000, 1514] {
                let frame = link.frame(len);
                link.send(&frame)?;
                let hdr = link.expect(&frame)?;
                ensure(
                    (hdr.flags, hdr.gso_type, hdr.num_buffers) == (0, GSO_NONE, 1),
                    format_args!("{hdr:?}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/ring-moves",
        level: Level::Text,
        needs: &[],
        source: "VU SET_VRING_NUM, SET_VRING_ADDR",
        sent: "Rings that are stopped, and set up again in the same session in other memory, with other sizes and at other addresses, as by a guest that starts again with another driver.",
        expected: "Frames pass: what was said last of a ring is in force.",
        run: |bench| {
            let mut config = NetConfig::default();
            config.protocol_features &= !protocol::CONFIGURE_MEM_SLOTS;
            let mut link = bench.link(&config)?;
            let frame = link.frame(300);
            link.pass(&frame)?;
            for queue_size in [64, 128] {
                config.queue_size = queue_size;
                let mut front = stopped(&mut link)?;
                let mut net = NetDevice::detached(link.tx.features(), &config)?;
                front.set_mem_table(net.memory().regions())?;
                started(&mut net, front)?;
                bench.settle();
                link.tx = net;
                for n in 0..4 * usize::from(queue_size) {
                    let frame = link.frame(60 + n);
                    link.pass(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/slots-unsorted",
        level: Level::Must,
        needs: &[Need::Protocol(
            protocol::CONFIGURE_MEM_SLOTS,
            "CONFIGURE_MEM_SLOTS",
        )],
        source: "VU ADD_MEM_REG",
        sent: "Rings in one region and buffers in four that meet, each with an ADD_MEM_REG, the highest first.",
        expected: "Frames pass: each region is added to those that there are.",
        run: |bench| {
            let config = NetConfig {
                apart: true,
                ..NetConfig::default()
            };
            let (mut front, mut net) = bench.negotiated(&config)?;
            front.set_features(net.features())?;
            let memory = net.memory().clone();
            for (region, parts) in memory.regions().iter().zip([1, 4]).rev() {
                let all = region.layout();
                let each = (all.size / parts).next_multiple_of(4096);
                for start in (0..parts).rev().map(|part| part * each) {
                    let part = message::region(
                        all.guest_addr + start,
                        each.min(all.size - start),
                        all.user_addr + start,
                        all.mmap_offset + start,
                    );
                    let part = message::single_region(&part);
                    front.set(request::ADD_MEM_REG, &part, &[region.fd()])?;
                }
            }
            started(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            for len in [60, 1514] {
                let frame = link.frame(len);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/mmap-offset-odd",
        level: Level::Text,
        needs: &[],
        source: "VU Memory region description",
        sent: "A region that begins 512 bytes before the end of a page of its file, and frames.",
        expected: "They pass, or the table is refused: what is accepted is to be used.",
        run: |bench| {
            const EARLIER: u64 = 512;
            let config = NetConfig {
                mmap_offset: 8192,
                ..NetConfig::default()
            };
            let (mut front, mut net) = bench.negotiated(&config)?;
            front.set_features(net.features())?;
            let memory = net.memory().clone();
            let (mut entries, mut fds) = (Vec::new(), Vec::new());
            for region in memory.regions() {
                let all = region.layout();
                entries.push(message::region(
                    all.guest_addr - EARLIER,
                    all.size + EARLIER,
                    all.user_addr - EARLIER,
                    all.mmap_offset - EARLIER,
                ));
                fds.push(region.fd());
            }
            match front.set(request::SET_MEM_TABLE, &message::mem_table(&entries), &fds) {
                Err(FrontendError::Nack { .. }) => return Ok(Seen::Refused),
                Err(FrontendError::Closed) => return Ok(Seen::Closed),
                answer => answer?,
            }
            started(&mut net, front)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            for len in [60, 1514] {
                let frame = link.frame(len);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/every-descriptor",
        level: Level::Text,
        needs: &[Need::Delivery],
        source: "V 2.7, 2.7.8, 2.8 (any descriptor may be the head of a chain)",
        sent: "Rings of 1024 full of frames with one kick behind them, twice; without IN_ORDER, so that each is given back by its own name. Where some are lost, the rings full again, at most 64 at a time.",
        expected: "Each is given back, and what each descriptor has arrives once at least: a network may lose some of so many at once.",
        run: |bench| {
            let config = NetConfig {
                queue_size: 1024,
                ..without(feature::IN_ORDER)
            };
            let mut link = bench.link(&config)?;
            every_descriptor(&mut link)
        },
    },
    Case {
        id: "net/long-without-mtu",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 5.1.4.1 (whoever has not accepted MTU was told none); docs of the back end (the longest frame that it carries)",
        sent: "Frames of 2000, 9014 and 9230 bytes between drivers that have not accepted MTU, and have buffers for them, with MRG_RXBUF and without.",
        expected: "They arrive as they were.",
        run: |bench| {
            for other in [0, feature::MRG_RXBUF] {
                let config = NetConfig {
                    mtu: 9216,
                    ..without(feature::MTU | other)
                };
                let mut link = bench.link(&config)?;
                if let Some(longest) = link.longest().filter(|longest| *longest < 1514) {
                    let mtu = longest - 14;
                    return Err(Failure::Unmet(format!(
                        "a network for long frames, and an mtu of {mtu} is told"
                    )));
                }
                for len in [2000, 9014, 9230] {
                    let frame = link.frame_of(len);
                    link.pass(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
];

/// A receiver with so many buffers of this length.
fn buffers(len: u32, queue_size: u16) -> NetConfig {
    NetConfig {
        rx_buffer: Some(len),
        queue_size,
        ..NetConfig::default()
    }
}

fn every_size(bench: &Bench) -> Result<Seen, Failure> {
    let sizes: &[u16] = match bench.format() {
        Format::Split => &[1, 2, 1024, 32768],
        Format::Packed => &[1, 2, 3, 1000, 1024, 32768],
    };
    let mut seen = Seen::Conforms;
    for &queue_size in sizes {
        let config = NetConfig {
            base: queue_size.saturating_sub(2),
            mtu: 80,
            ..buffers(128, queue_size)
        };
        let mut link = match bench.link(&config) {
            Err(
                Failure::Session(FrontendError::Nack { .. } | FrontendError::Closed)
                | Failure::Unmet(_),
            ) => {
                seen = Seen::Refused;
                continue;
            }
            link => link?,
        };
        let of_size = |failure| match failure {
            Failure::Wrong(what) => Failure::Wrong(format!("{queue_size} descriptors: {what}")),
            failure => failure,
        };
        for len in 60..66 {
            let frame = link.frame(len);
            link.pass(&frame).map_err(of_size)?;
        }
        let base = link.tx.tx_ring(0).queue.base();
        let said = match link.tx.frontend() {
            Some(front) => front.get_vring_base(1)?,
            None => base,
        };
        // Back ends that work in order may leave the used side of a packed ring out.
        ensure(
            said == base || bench.format() == Format::Packed && said == base & 0xffff,
            format_args!("{queue_size} descriptors: base {said:#x}, the driver is at {base:#x}"),
        )?;
    }
    Ok(seen)
}

/// Sends from each descriptor of a ring until what it had has arrived once, all with one kick and then few at a time.
fn every_descriptor(link: &mut Link) -> Result<Seen, Failure> {
    const SIZE: usize = 1024;
    const FEW: usize = 64;
    let mut arrived = [false; SIZE];
    let mut sent = HashMap::new();
    for (lap, at_once) in [SIZE, SIZE, FEW, FEW, FEW].into_iter().enumerate() {
        for _ in 0..SIZE / at_once {
            for _ in 0..at_once {
                let head = link.tx.tx_ring(0).queue.next_head().map(usize::from);
                let frame = link.frame(60);
                let room = link.tx.send(0, &NetHeader::default(), &frame)?;
                ensure(room, "the send ring is full too soon")?;
                sent.insert(frame, head.unwrap_or_default());
            }
            link.tx.kick();
            let mut came = 0;
            while came < at_once
                && let Some(got) = link.receive(DEADLINE / 4)?
            {
                let changed = || Failure::Wrong("a frame arrived twice, or changed".into());
                let head = sent.remove(got.bytes()).ok_or_else(changed)?;
                if let Some(arrived) = arrived.get_mut(head) {
                    *arrived = true;
                }
                came += 1;
            }
            link.sent()?;
        }
        if lap > 0 && !arrived.contains(&false) {
            return Ok(Seen::Conforms);
        }
    }
    let lost = arrived.iter().filter(|arrived| !**arrived).count();
    Err(Failure::Wrong(format!(
        "of {lost} of {SIZE} descriptors no frame arrived in five tries"
    )))
}

fn mrg_many(bench: &Bench, pieces: u32) -> Result<(), Failure> {
    const LEN: usize = 65_000;
    let config = NetConfig {
        features: with(NetConfig::TSO).features,
        rx_pieces: pieces,
        ..buffers(128, 1024)
    };
    let mut link = bench.link_of(&with(NetConfig::TSO), &config)?;
    let mut most = 0;
    for _ in 0..3 {
        let (hdr, frame) = packet(&link, false, TCP, LEN, MSS);
        let got = segments(&mut link, &hdr, &frame, LEN, |bytes, hdr| {
            let least = (bytes.len() + 12).div_ceil(128);
            ensure(
                usize::from(hdr.num_buffers) == least,
                format_args!(
                    "num_buffers is {} for {} bytes",
                    hdr.num_buffers,
                    bytes.len()
                ),
            )
        })?;
        if got == LEN {
            return Ok(());
        }
        most = most.max(got);
    }
    Err(Failure::Wrong(format!("{most} of {LEN} bytes arrived")))
}
