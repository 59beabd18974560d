//! Rings of both formats: framing and notification. Chains and rings that lie are in `chain`, states of rings in `ring_states`.

use std::os::fd::AsFd;
use std::time::Duration;

use vm_memory::Bytes;

use crate::bench::{Bench, DEADLINE, QUIET, without};
use crate::case::{Case, Level, Need};
use crate::cases::by_hand::{called, called_within, desc, finish, place, quiet, send_cut, signal};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{DESC_NEXT, Desc, Format, SplitQueue};
use vf_guest::net::{NetConfig, NetHeader, feature};

pub(super) const INDIRECT: Need = Need::Feature(feature::INDIRECT_DESC, "INDIRECT_DESC");
const EVENT_IDX: Need = Need::Feature(feature::EVENT_IDX, "EVENT_IDX");
pub(super) const SPLIT: Need = Need::Format(Format::Split);
const PACKED: Need = Need::Format(Format::Packed);
/// A ring that is processed no more has no more errors: so many signals are a loop.
const STORM: u64 = 20;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "ring/basic-split",
        level: Level::Text,
        needs: &[SPLIT],
        source: "V 2.7 Split Virtqueues",
        sent: "Frames of 60, 61, 1000 and 1514 bytes on split rings.",
        expected: "Each arrives as it was.",
        run: basic,
    },
    Case {
        id: "ring/basic-packed",
        level: Level::Text,
        needs: &[PACKED],
        source: "V 2.8 Packed Virtqueues",
        sent: "Frames of 60, 61, 1000 and 1514 bytes on packed rings.",
        expected: "Each arrives as it was.",
        run: basic,
    },
    Case {
        id: "ring/packed-not-pow2",
        level: Level::Text,
        needs: &[PACKED],
        source: "V 2.8.10.1 Structure Size and Alignment",
        sent: "50 frames on packed rings of 11 descriptors.",
        expected: "Each arrives: packed rings need not be powers of two.",
        run: |bench| {
            let config = NetConfig {
                queue_size: 11,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            for _ in 0..50 {
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/packed-base-roundtrip",
        level: Level::Text,
        needs: &[PACKED],
        source: "VU Virtio vring state (packed virtqueues)",
        sent: "SET_VRING_BASE 250 for packed rings of 256, 40 frames, GET_VRING_BASE.",
        expected: "Index 34 and the other wrap counter.",
        run: |bench| {
            // 40 frames from 250 on, in a ring of 256: the second lap, whose wrap counter is 0.
            let config = NetConfig {
                base: 250,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            for _ in 0..40 {
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            let base = link.tx.stop()?[1];
            // Back ends that work in order may leave the used side out.
            ensure(
                base == 34 * 0x1_0001 || base == 34,
                format_args!("base {base:#x} after 40 frames from 250 on"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/packed-base-of-chains",
        level: Level::Text,
        needs: &[PACKED],
        source: "VU Virtio vring state (packed virtqueues)",
        sent: "10 frames of three descriptors each on packed rings of 256, and GET_VRING_BASE.",
        expected: "Index 30: it counts descriptors.",
        run: |bench| {
            const BASE: u32 = 0x8000 | 30;
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..10 {
                let frame = link.frame(100);
                send_cut(&mut link, &frame, &[12, 50], false)?;
                link.sent()?;
            }
            let base = link.tx.stop()?[1];
            // Back ends that work in order may leave the used side out.
            ensure(
                base == BASE * 0x1_0001 || base == BASE,
                format_args!("base {base:#x}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/packed-event-legal",
        level: Level::Text,
        needs: &[PACKED],
        source: "V 2.8.14 Event Suppression Structure Format",
        sent: "Frames on packed rings, one after the other and with pauses, with and without EVENT_IDX.",
        expected: "The device's event suppression structure says 0, 1, or with EVENT_IDX 2 and an index that the ring has.",
        run: |bench| {
            for features in [0, feature::EVENT_IDX] {
                let mut link = bench.link(&without(features))?;
                let event_idx = link.tx.has(feature::EVENT_IDX);
                // While it looks for more, and when it has gone to sleep.
                for wait in [0, 1, 4, 120] {
                    let frame = link.frame(100);
                    link.pass(&frame)?;
                    std::thread::sleep(Duration::from_millis(wait));
                    let packed = link.tx.tx_ring(0).queue.as_packed();
                    let (bits, flags) = packed.map(|q| q.device_event()).unwrap_or_default();
                    let legal = flags < 2 || flags == 2 && event_idx && bits & 0x7fff < 256;
                    ensure(
                        legal,
                        format_args!(
                            "event flags {flags:#x}, event {bits:#x}, EVENT_IDX: {event_idx}"
                        ),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/index-wrap",
        level: Level::Text,
        needs: &[],
        source: "V 2.7.6, 2.7.8",
        sent: "600 frames on rings that start at index 0xfffe.",
        expected: "Each arrives, once, past the end of the index and of the ring.",
        run: |bench| {
            let config = NetConfig {
                base: 0xfffe,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            for _ in 0..600 {
                let frame = link.frame(60);
                link.send(&frame)?;
                link.sent()?;
                if link.is_seen() {
                    link.expect_next(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/order",
        level: Level::Must,
        needs: &[Need::Delivery],
        source: "V 6.2 Reserved Feature Bits (IN_ORDER), 2.8.12; IEEE 802.1Q-2018 6.5.2, 6.5.3",
        sent: "200 frames, kicked once; with IN_ORDER and without; three times at most.",
        expected: "All are given back, with IN_ORDER in their order. They arrive in their order, too, all of them in one of the tries: no text of virtio's asks for that, and a network does it.",
        run: |bench| {
            in_order(bench, &NetConfig::default())?;
            // Here each chain is given back by its own name.
            in_order(bench, &without(feature::IN_ORDER))
        },
    },
    Case {
        id: "ring/framing-free",
        level: Level::Must,
        needs: &[],
        source: "V 2.7.4.1 Message Framing",
        sent: "A frame cut into 1, 2, 3, 17 and 100 descriptors.",
        expected: "The same frame each time: a device MUST NOT assume how buffers are cut.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for pieces in [1, 2, 3, 17, 100] {
                let frame = link.frame(300);
                let cuts: Vec<_> = (1..pieces).map(|i| i * 312 / pieces).collect();
                send_cut(&mut link, &frame, &cuts, false)?;
                link.sent()?;
                link.expect(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/hdr-over-n-descs",
        level: Level::Must,
        needs: &[],
        source: "V 2.7.4.1 Message Framing; CVE-2022-2132",
        sent: "A frame whose header is cut into 1 to 12 descriptors of a byte each.",
        expected: "The same frame each time.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for n in 1..=12 {
                let frame = link.frame(100);
                let cuts: Vec<_> = (1..=n).collect();
                send_cut(&mut link, &frame, &cuts, false)?;
                link.sent()?;
                link.expect(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/rx-framing-free",
        level: Level::Must,
        needs: &[Need::Delivery],
        source: "V 2.7.4.1 Message Framing",
        sent: "Frames into receive buffers of 2, 3 and 7 descriptors each, the first of which has 5 bytes; with MRG_RXBUF and without.",
        expected: "The same frames: a device MUST NOT assume how buffers are cut.",
        run: |bench| {
            for off in [0, feature::MRG_RXBUF] {
                for rx_pieces in [2, 3, 7] {
                    let config = NetConfig {
                        rx_pieces,
                        ..without(off)
                    };
                    let mut link = bench.link_of(&without(off), &config)?;
                    for len in [60, 300, 1514] {
                        let frame = link.frame(len);
                        link.send(&frame)?;
                        link.expect(&frame)?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/indirect",
        level: Level::Must,
        needs: &[INDIRECT],
        source: "V 2.7.5.3 Indirect Descriptors",
        sent: "A frame in indirect tables of 1, 2 and 4 descriptors.",
        expected: "The same frame each time.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for cuts in [&[][..], &[12], &[5, 12, 100]] {
                let frame = link.frame(300);
                send_cut(&mut link, &frame, cuts, true)?;
                link.sent()?;
                link.expect(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/no-write-readable",
        level: Level::Must,
        needs: &[SPLIT],
        source: "V 2.7.5.1 The Virtqueue Descriptor Table",
        sent: "A frame whose buffer and descriptor are compared afterwards.",
        expected: "Not a byte of either was written: a device MUST NOT write to a buffer that it is to read, nor to a descriptor.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(1000);
            let ring = link.tx.tx_ring(0);
            let layout = ring.queue.layout();
            let (at, len) = (ring.buffer_addr(0), ring.buffer_len() as usize);
            link.pass(&frame)?;
            let read = |addr, len| -> Result<Vec<u8>, Failure> {
                let mut bytes = vec![0; len];
                let slice = link.tx.memory().slice(addr, len);
                let copied = slice.is_some_and(|s| s.read_slice(&mut bytes, 0).is_ok());
                ensure(copied, "memory of our own cannot be read")?;
                Ok(bytes)
            };
            let header = link.tx.header_len();
            let mut buffer = vec![0; len];
            buffer[header..header + frame.len()].copy_from_slice(&frame);
            ensure(read(at, len)? == buffer, "a buffer to be read was written")?;
            let desc = Desc {
                addr: at,
                len: (header + frame.len()) as u32,
                flags: 0,
                next: 0,
            };
            ensure(
                read(layout.desc, 16)? == desc.bytes(),
                "a descriptor was written",
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/spurious-kick",
        level: Level::Must,
        needs: &[],
        source: "V 2.7.10.2 Available Buffer Notification Suppression",
        sent: "10,000 kicks of an empty ring, then a frame.",
        expected: "Nothing is used before the frame, and the frame passes.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..10_000 {
                if let Some(kick) = &link.tx.tx_ring(0).kick {
                    kick.signal();
                }
            }
            std::thread::sleep(QUIET);
            let used = link.tx.tx_ring(0).queue.given_back();
            ensure(used == 0, "something was used that was never available")?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/event-idx-call",
        level: Level::Must,
        needs: &[EVENT_IDX],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "8 frames with used_event 4.",
        expected: "A call when the used index passes used_event, with the fifth: a device MUST.",
        run: |bench| {
            let calls = event_idx(bench)?;
            ensure(
                calls[4],
                format_args!("called after frame 1 to 8: {calls:?}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/event-idx-quiet",
        level: Level::Should,
        needs: &[EVENT_IDX],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "8 frames with used_event 4.",
        expected: "No call but with the fifth: otherwise a device SHOULD NOT.",
        run: |bench| quiet(event_idx(bench)?),
    },
    Case {
        id: "ring/packed-event-wrap",
        level: Level::Text,
        needs: &[PACKED, EVENT_IDX],
        source: "V 2.8.14 Event Suppression Structure Format",
        sent: "260 frames on packed rings of 256 that ask for a call at descriptor 2 of the second lap.",
        expected: "A call with frame 259: the wrap counter of the event says which lap is meant.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            link.tx.tx_ring(0).queue.set_interrupt_after(258);
            let mut calls = Vec::new();
            for n in 1..=260 {
                let frame = link.frame(60);
                link.pass(&frame)?;
                // Most take no call at all, and a late one is seen with the next frame.
                let wait = if n % 64 == 3 { 20 } else { 0 };
                if called_within(&mut link, Duration::from_millis(wait))? {
                    calls.push(n);
                }
            }
            if calls.iter().all(|n| *n < 259) && called_within(&mut link, DEADLINE)? {
                calls.push(260);
            }
            let any = |frames: [u16; 2]| calls.iter().any(|n| frames.contains(n));
            ensure(
                any([259, 260]),
                format_args!("called with frames {calls:?}"),
            )?;
            // No text forbids others: a driver has to live with them.
            Ok(match calls.len() {
                1 => Seen::Conforms,
                _ => Seen::Tolerated,
            })
        },
    },
    Case {
        id: "ring/packed-event-lap-quiet",
        level: Level::Should,
        needs: &[PACKED, EVENT_IDX],
        source: "V 2.7.7.2 Used Buffer Notification Suppression (the same for packed rings), 2.8.14",
        sent: "16 frames on packed rings of 256 that ask for a call at descriptor 2 of the second lap.",
        expected: "No call with frame 3 or behind it: that descriptor is meant in another lap.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            link.tx.tx_ring(0).queue.set_interrupt_after(258);
            for n in 1..=16 {
                let frame = link.frame(60);
                link.pass(&frame)?;
                let wait = if n == 3 { 20 } else { 0 };
                let called = called_within(&mut link, Duration::from_millis(wait))?;
                ensure(!called || n < 3, format_args!("called with frame {n}"))?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/error-told",
        level: Level::Text,
        needs: &[SPLIT],
        source: "VU SET_VRING_ERR",
        sent: "SET_VRING_ERR, and a descriptor chain that leads back to its start.",
        expected: "If the ring is not processed any more its error eventfd is signalled, and not without an end.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let event = vf_guest::eventfd::EventFd::new()?;
            if let Some(front) = link.tx.frontend() {
                front.set_vring_err(1, Some(event.as_fd()))?;
            }
            bench.settle();
            let frame = link.frame(200);
            let (at, len) = place(&mut link, &frame)?;
            let chain = [desc(at, len, DESC_NEXT, 1), desc(at, len, DESC_NEXT, 0)];
            link.tx.tx_ring(0).queue.lie(&chain);
            signal(&mut link);
            let told = event.wait(DEADLINE)?;
            std::thread::sleep(QUIET);
            let times = event.drain();
            ensure(
                times < STORM,
                format_args!("it was signalled {times} times within {QUIET:?}"),
            )?;
            let seen = finish(bench, link)?;
            ensure(
                told || seen != Seen::RingStopped,
                "the ring stopped, and nobody was told",
            )?;
            Ok(seen)
        },
    },
    Case {
        id: "ring/no-interrupt-flag",
        level: Level::Should,
        needs: &[],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "Frames with the NO_INTERRUPT flag set and cleared in turn, without EVENT_IDX.",
        expected: "A call for each frame with the flag cleared, none with it set.",
        run: |bench| {
            let mut link = bench.link(&without(feature::EVENT_IDX))?;
            for wanted in [false, true, false, true] {
                link.tx.tx_ring(0).queue.set_interrupts(wanted);
                let frame = link.frame(100);
                link.pass(&frame)?;
                let called = called(&mut link, wanted)?;
                ensure(
                    called == wanted,
                    format_args!("asked to be called: {wanted}, called: {called}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/used-flags-legal",
        level: Level::Must,
        needs: &[SPLIT, EVENT_IDX],
        source: "V 2.7.10.2 Available Buffer Notification Suppression",
        sent: "Frames with EVENT_IDX, one after the other and with pauses.",
        expected: "The used ring's flags are 0 all the time: the device MUST set them so.",
        run: |bench| used_flags(bench, 0, 0),
    },
    Case {
        id: "ring/packed-chains-round-end",
        level: Level::Must,
        needs: &[PACKED],
        source: "V 2.8.15 The Virtqueue Descriptor Table (packed), 2.8.1 Driver and Device Ring Wrap Counters",
        sent: "40 frames, one after the other, as chains of 2 and of 3 descriptors on packed rings of 5, 7 and 8, where many a chain begins before the end of the ring and ends behind it.",
        expected: "Each arrives, once: what is behind a chain in the next lap is not available yet.",
        run: |bench| {
            for queue_size in [5, 7, 8] {
                let sender = NetConfig {
                    queue_size,
                    ..NetConfig::default()
                };
                let mut link = bench.link_of(&sender, &NetConfig::default())?;
                for n in 0..40 {
                    let frame = link.frame(100 + n);
                    let cuts: &[usize] = if n % 8 < 4 { &[12] } else { &[12, 50] };
                    send_cut(&mut link, &frame, cuts, false)?;
                    link.sent()?;
                    link.expect_next(&frame)?;
                }
                let last = link.frame(100);
                link.send(&last)?;
                link.expect_next(&last)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/chain-as-long-as-ring",
        level: Level::Must,
        needs: &[],
        source: "V 2.7.4.1, 2.8.9 Message Framing; V 2.7.5.2 (a chain may be as long as the ring)",
        sent: "10 frames, each cut into as many descriptors as the ring has, 16, and with INDIRECT_DESC one in a table of 256.",
        expected: "The same frames: a device MUST NOT assume how buffers are cut.",
        run: |bench| {
            let sender = NetConfig {
                queue_size: 16,
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&sender, &NetConfig::default())?;
            let cuts: Vec<usize> = (1..16).map(|piece| piece * 19).collect();
            for n in 0..10 {
                let frame = link.frame(300 + n);
                send_cut(&mut link, &frame, &cuts, false)?;
                link.sent()?;
                if link.is_seen() {
                    link.expect(&frame)?;
                }
            }
            drop(link);
            let mut link = bench.link(&NetConfig::default())?;
            if link.tx.has(feature::INDIRECT_DESC) {
                let cuts: Vec<usize> = (1..256).map(|piece| piece * 5).collect();
                let frame = link.frame(1400);
                send_cut(&mut link, &frame, &cuts, true)?;
                link.sent()?;
                if link.is_seen() {
                    link.expect(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
];

/// Sends 200 frames with one kick, and checks that they are given back, in their order where that was agreed on (what the ring finds out
/// itself). How they arrive is the network's.
fn in_order(bench: &Bench, config: &NetConfig) -> Result<Seen, Failure> {
    let mut link = bench.link(config)?;
    let notes = link.notes();
    let mut most = 0;
    for _ in 0..3 {
        let frames: Vec<_> = (0..200).map(|_| link.frame(100)).collect();
        for frame in &frames {
            link.tx.send(0, &NetHeader::default(), frame)?;
        }
        link.tx.kick();
        let (mut came, mut next) = (0, 0);
        while came < frames.len()
            && let Some(got) = link.receive(DEADLINE)?
        {
            let at = frames.iter().position(|frame| frame == got.bytes());
            let at = at.ok_or_else(|| Failure::Wrong("a frame was changed".into()))?;
            notes.ought(
                Level::Model,
                at >= next,
                format_args!("frame {at} came behind frame {next} or twice"),
            );
            (came, next) = (came + 1, at + 1);
        }
        link.sent()?;
        if came == frames.len() {
            return Ok(Seen::Conforms);
        }
        most = most.max(came);
    }
    notes.ought(
        Level::Model,
        false,
        format_args!("{most} of 200 frames arrived, in the best of three tries"),
    );
    Ok(Seen::Conforms)
}

/// Frames by a driver without those features, while the used ring's flags are looked at: they are no more than `most`.
pub(super) fn used_flags(bench: &Bench, off: u64, most: u16) -> Result<Seen, Failure> {
    let mut link = bench.link(&without(off))?;
    for n in 0..64 {
        let frame = link.frame(100);
        link.send(&frame)?;
        for wait in [0, n % 8] {
            std::thread::sleep(Duration::from_millis(wait));
            let split = link.tx.tx_ring(0).queue.as_split();
            let flags = split.map_or(0, SplitQueue::used_flags);
            ensure(flags <= most, format_args!("used flags {flags:#x}"))?;
        }
        link.sent()?;
    }
    Ok(Seen::Conforms)
}

/// Frames of several lengths, one after the other.
fn basic(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    for len in [60, 61, 1000, 1514] {
        let frame = link.frame(len);
        link.pass(&frame)?;
    }
    Ok(Seen::Conforms)
}

/// After which of 8 frames the driver was called that asked for it after the fifth.
fn event_idx(bench: &Bench) -> Result<[bool; 8], Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    link.tx.tx_ring(0).queue.set_interrupt_after(4);
    let mut calls = [false; 8];
    for (n, call) in calls.iter_mut().enumerate() {
        let frame = link.frame(100);
        link.pass(&frame)?;
        *call = called(&mut link, n == 4)?;
    }
    Ok(calls)
}
