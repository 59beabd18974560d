//! Notifications both ways, of each pair of rings: a driver that kicks only when it is asked to, and one that waits to be called. Never
//! asks how soon one comes.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use vm_memory::Bytes;

use crate::bench::{Bench, DEADLINE, Link, QUIET, without};
use crate::case::{Case, Level, Need};
use crate::cases::by_hand::{desc, finish, place, quiet, signal};
use crate::cases::clauses::started;
use crate::cases::control::ALL;
use crate::cases::protocol::F30;
use crate::cases::ring::SPLIT;
use crate::cases::ring_states::to_sender;
use crate::control::refused;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{Buffer, DESC_NEXT, DESC_WRITE, Desc};
use vf_guest::eventfd::EventFd;
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, NetDevice, NetHeader, Ring, feature};

/// After so long a device that has nothing to do has gone to sleep.
const IDLE: Duration = Duration::from_millis(120);
const PAIRS: u16 = 2;
/// After so long a call that is not due would have been seen.
const SEEN: Duration = Duration::from_millis(20);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "ring/kick-asked-for",
        level: Level::Text,
        needs: &[],
        source: "V 2.7.10 Available Buffer Notification Suppression, 2.8.14",
        sent: "Frames 120 ms apart, in turn in each send ring there is, which are kicked only if the device asks for it; with EVENT_IDX and without.",
        expected: "Each is given back within 2 s: a device that has gone to sleep has asked to be woken.",
        run: |bench| {
            let pairs = if Need::Pairs(PAIRS).met(bench) {
                PAIRS
            } else {
                1
            };
            for off in [0, feature::EVENT_IDX] {
                let mut link = bench.link(&NetConfig {
                    queue_pairs: pairs,
                    ..without(off)
                })?;
                for n in 0..3 * pairs {
                    std::thread::sleep(IDLE);
                    let pair = usize::from(n % pairs);
                    let frame = link.frame_of_flow(n);
                    link.tx.send(pair, &NetHeader::default(), &frame)?;
                    link.tx.kick();
                    given_back(&mut link, pair)?;
                    if link.is_seen() {
                        link.arrives_on(&frame, pairs.into())?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/kick-asked-for-each-lap",
        level: Level::Text,
        needs: &[Need::Feature(feature::EVENT_IDX, "EVENT_IDX")],
        source: "V 2.7.10 Available Buffer Notification Suppression, 2.8.14 (an index of 16 bits, a wrap counter)",
        sent: "Frames 120 ms apart, which are kicked only if the device asks for it, in rings that go on shortly before their index is 32768 and 0, and in rings of four descriptors for three laps.",
        expected: "Each is given back within 2 s: where the device asks to be woken next is right on each lap.",
        run: |bench| {
            for (queue_size, base, frames) in [(256, 0x7ffe, 4), (256, 0xfffe, 4), (4, 0, 10)] {
                let mut link = bench.link(&NetConfig {
                    queue_size,
                    base,
                    ..NetConfig::default()
                })?;
                for n in 0..frames {
                    std::thread::sleep(IDLE);
                    let frame = link.frame(100);
                    link.tx.send(0, &NetHeader::default(), &frame)?;
                    link.tx.kick();
                    given_back(&mut link, 0).map_err(|failure| match failure {
                        Failure::Wrong(what) => {
                            let of = format!("{queue_size} descriptors, from {base:#x} on");
                            Failure::Wrong(format!("frame {n} in a ring of {of}: {what}"))
                        }
                        other => other,
                    })?;
                    if link.is_seen() {
                        link.expect(&frame)?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/call-of-every-pair",
        level: Level::Must,
        needs: &[
            Need::Feature(feature::MQ, "MQ"),
            Need::Pairs(PAIRS),
            Need::Peer,
        ],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "Frames of 16 flows, in turn from the first and the second pair of rings, by a driver that asks to be called for each, to one that does.",
        expected: "A call for the send ring of each frame, and for the receive ring in which it comes: a device MUST notify when the used index passes the one that was asked for.",
        run: |bench| {
            let mut link = bench.link(&NetConfig {
                queue_pairs: PAIRS,
                ..NetConfig::default()
            })?;
            for flow in 0..16 {
                let pair = usize::from(flow % PAIRS);
                let receiver = link.rx.iter().flat_map(NetDevice::calls);
                for call in link.tx.calls().chain(receiver) {
                    call.drain();
                }
                link.tx.tx_ring(pair).queue.arm(1);
                for pair in 0..PAIRS.into() {
                    link.receiver().rx_ring(pair).queue.arm(1);
                }
                let frame = link.frame_of_flow(flow);
                link.tx.send(pair, &NetHeader::default(), &frame)?;
                link.tx.kick();
                ensure(
                    called(link.tx.tx_ring(pair))?,
                    format_args!("no call for the send ring of pair {pair}"),
                )?;
                let came = link.arrives_on(&frame, PAIRS.into())?;
                ensure(
                    called(link.receiver().rx_ring(came))?,
                    format_args!("no call for the receive ring of pair {came}"),
                )?;
                link.tx.tx_room(pair)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/call-by-flag",
        level: Level::Must,
        needs: &[Need::Peer],
        source: "V 2.7.7.2 Used Buffer Notification Suppression, 2.8.14",
        sent: "Frames without EVENT_IDX, while neither the send ring nor the receive ring has a flag that keeps notifications away.",
        expected: "A call for each ring with each frame.",
        run: |bench| {
            let mut link = bench.link(&without(feature::EVENT_IDX))?;
            link.tx.tx_ring(0).queue.set_interrupts(true);
            link.receiver().rx_ring(0).queue.set_interrupts(true);
            for n in 0..8 {
                drain(&link);
                taken(&mut link)?;
                ensure(
                    called(link.tx.tx_ring(0))?,
                    format_args!("no call for the send ring with frame {n}"),
                )?;
                ensure(
                    called(link.receiver().rx_ring(0))?,
                    format_args!("no call for the receive ring with frame {n}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/rx-event-idx-call",
        level: Level::Must,
        needs: &[Need::Feature(feature::EVENT_IDX, "EVENT_IDX"), Need::Peer],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "8 frames to a receive ring with used_event 4.",
        expected: "A call when the used index passes used_event, with the fifth buffer: a device MUST.",
        run: |bench| {
            let calls = rx_event_idx(bench)?;
            ensure(
                calls[4],
                format_args!("called after buffer 1 to 8: {calls:?}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/rx-event-idx-quiet",
        level: Level::Should,
        needs: &[Need::Feature(feature::EVENT_IDX, "EVENT_IDX"), Need::Peer],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "8 frames to a receive ring with used_event 4.",
        expected: "No call but with the fifth: otherwise a device SHOULD NOT.",
        run: |bench| quiet(rx_event_idx(bench)?),
    },
    Case {
        id: "ring/rx-error-told",
        level: Level::Text,
        needs: &[Need::Peer],
        source: "VU SET_VRING_ERR",
        sent: "SET_VRING_ERR for a receive ring whose first descriptor chain never ends, and frames to it.",
        expected: "If the ring is not processed any more its error eventfd is signalled.",
        run: rx_error_told,
    },
    Case {
        id: "ring/tx-writable-behind",
        level: Level::Should,
        needs: &[],
        source: "V 2.7.5.1 The Virtqueue Descriptor Table, 2.7.4.2 (device-writable descriptors come last)",
        sent: "Frames behind whose descriptor there is one of 16 bytes that the device may write.",
        expected: "The frames without those bytes, or nothing: a device SHOULD NOT read a device-writable buffer.",
        run: tx_writable_behind,
    },
    Case {
        id: "control/answer-is-called",
        level: Level::Must,
        needs: &[Need::Control],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "A command by a driver that asks to be called when it is answered; with EVENT_IDX and without.",
        expected: "A call for the control queue: a device MUST notify when the used index passes the one that was asked for, or when flags is 0.",
        run: |bench| {
            for off in [0, feature::EVENT_IDX] {
                let config = without(off);
                let features = config.features | ALL;
                let mut link = bench.link(&NetConfig { features, ..config })?;
                // What is signalled while a ring is set up says nothing of the command.
                std::thread::sleep(QUIET);
                for _ in 0..3 {
                    if let Some(ring) = link.receiver().control_ring() {
                        if let Some(call) = &ring.call {
                            call.drain();
                        }
                        ring.queue.arm(1);
                    }
                    // Of a class that there is not: it is answered all the same.
                    refused(link.receiver(), &[0x7f, 0])?;
                    let called = link.receiver().control_ring().map(|ring| called(ring));
                    ensure(
                        called.transpose()?.unwrap_or_default(),
                        "no call for a command that was answered",
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/call-for-discarded",
        level: Level::Must,
        needs: &[F30],
        source: "V 2.7.7.2 Used Buffer Notification Suppression, 2.8.14; VU Ring states",
        sent: "Frames without EVENT_IDX in a send ring that is disabled, one after the other.",
        expected: "A call for each that is given back: the driver cannot know what became of it.",
        run: |bench| {
            let mut link = bench.link(&without(feature::EVENT_IDX))?;
            if let Some(front) = link.tx.frontend() {
                front.set_vring_enable(1, false)?;
            }
            bench.settle();
            link.tx.tx_ring(0).queue.set_interrupts(true);
            for n in 0..3 {
                drain(&link);
                let frame = link.frame(100);
                link.send(&frame)?;
                link.sent().map_err(|failure| match failure {
                    Failure::Wrong(_) => Failure::Wrong(format!("frame {n} is not given back")),
                    other => other,
                })?;
                ensure(
                    called(link.tx.tx_ring(0))?,
                    format_args!("no call for frame {n}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/call-of-last-pair",
        level: Level::Must,
        needs: &[
            Need::Feature(feature::MQ, "MQ"),
            Need::Protocol(protocol::CONFIG, "CONFIG"),
            Need::Peer,
        ],
        source: "V 2.7.7.2 Used Buffer Notification Suppression; V 5.1.4 (max_virtqueue_pairs)",
        sent: "Frames in the send ring of each of as many pairs as there can be, eight at most, by a driver that asks to be called for each.",
        expected: "Each arrives, and a call comes for its ring.",
        run: |bench| {
            let pairs = bench.queue_pairs().clamp(1, 8);
            let sender = NetConfig {
                queue_pairs: pairs,
                queue_size: 64,
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&sender, &NetConfig::default())?;
            for pair in 0..usize::from(pairs) {
                drain(&link);
                link.tx.tx_ring(pair).queue.arm(1);
                let frame = link.frame_of_flow(pair as u16);
                link.tx.send(pair, &NetHeader::default(), &frame)?;
                link.tx.kick();
                ensure(
                    called(link.tx.tx_ring(pair))?,
                    format_args!("no call for the send ring of pair {pair} of {pairs}"),
                )?;
                link.expect(&frame)?;
                link.tx.tx_room(pair)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/error-fd-replaced",
        level: Level::Text,
        needs: &[SPLIT],
        source: "VU SET_VRING_ERR",
        sent: "SET_VRING_ERR with one descriptor and then with another, or with none, and a descriptor chain that leads back to its start.",
        expected: "If the ring is not processed any more the last descriptor is signalled, and never the first.",
        run: |bench| {
            let mut seen = Seen::Tolerated;
            for with in [true, false] {
                let mut link = bench.link(&NetConfig::default())?;
                let (first, last) = (EventFd::new()?, EventFd::new()?);
                if let Some(front) = link.tx.frontend() {
                    front.set_vring_err(1, Some(first.as_fd()))?;
                    front.set_vring_err(1, with.then_some(last.as_fd()))?;
                }
                bench.settle();
                let frame = link.frame(200);
                let (at, len) = place(&mut link, &frame)?;
                let chain = [desc(at, len, DESC_NEXT, 1), desc(at, len, DESC_NEXT, 0)];
                link.tx.tx_ring(0).queue.lie(&chain);
                signal(&mut link);
                let told = with && last.wait(DEADLINE)?;
                let before = first.wait(2 * QUIET)?;
                seen = finish(bench, link)?;
                ensure(!before, "a descriptor was signalled that was replaced")?;
                ensure(
                    told || !with || seen != Seen::RingStopped,
                    "the ring stopped, and nobody was told",
                )?;
            }
            Ok(seen)
        },
    },
];

/// Whether the driver is called for a ring.
fn called(ring: &Ring) -> Result<bool, Failure> {
    match &ring.call {
        Some(call) => Ok(call.wait(DEADLINE)?),
        None => Ok(false),
    }
}

/// Forgets all calls of both ends.
fn drain(link: &Link) {
    let receiver = link.rx.iter().flat_map(NetDevice::calls);
    for call in link.tx.calls().chain(receiver) {
        call.drain();
    }
}

/// Passes a frame without asking for a call.
fn taken(link: &mut Link) -> Result<(), Failure> {
    let frame = link.frame(100);
    link.send(&frame)?;
    link.arrives_on(&frame, 1)?;
    link.sent()
}

/// After which of 8 used buffers the driver was called that asked for it after the fifth, of its receive ring. Whoever else sends
/// something to the port uses buffers of it as well.
fn rx_event_idx(bench: &Bench) -> Result<[bool; 8], Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let receiver = link.receiver();
    let begin = receiver.rx_ring(0).queue.given_back();
    let fifth = begin.wrapping_add(4);
    receiver.rx_ring(0).queue.set_interrupt_after(fifth);
    let mut calls = [false; 8];
    let mut before = 0;
    while before < calls.len() {
        taken(&mut link)?;
        let receiver = link.receiver();
        let used = |receiver: &mut NetDevice| {
            let now = receiver.rx_ring(0).queue.given_back();
            usize::from(now.wrapping_sub(begin)).min(8)
        };
        let mut called = receiver.wait_rx_call(0, SEEN)?;
        let now = used(receiver);
        let due = (before..now).contains(&4);
        if due && !called {
            // The one that is due may be late.
            called = receiver.wait_rx_call(0, DEADLINE)?;
        }
        let at = if due { 4 } else { now.saturating_sub(1) };
        calls[at] |= called;
        before = now;
    }
    Ok(calls)
}

fn rx_error_told(bench: &Bench) -> Result<Seen, Failure> {
    let (mut front, mut net) = bench.negotiated(&NetConfig::default())?;
    let event = EventFd::new()?;
    let memory = net.memory().clone();
    let ring = net.rx_ring(0);
    let layout = ring.queue.layout();
    match ring.queue.as_split() {
        Some(queue) => {
            let leads_back = Desc {
                addr: ring.buffer_addr(0),
                len: 64,
                flags: DESC_WRITE | DESC_NEXT,
                next: 0,
            };
            queue.set_desc(0, leads_back);
        }
        // A chain that fills the ring and goes on.
        None => {
            for desc in 0..u64::from(layout.size) {
                let flags = memory.slice(layout.desc + 16 * desc + 14, 2);
                let told = flags.and_then(|flags| {
                    let now: u16 = flags.read_obj(0).ok()?;
                    flags.write_obj(now | DESC_NEXT, 0).ok()
                });
                ensure(told.is_some(), "memory of our own cannot be written")?;
            }
        }
    }
    front.set_features(net.features())?;
    front.set_memory(net.memory().regions())?;
    front.set_vring_err(0, Some(event.as_fd()))?;
    started(&mut net, front)?;
    let mut link = bench.link_from(net, &NetConfig::default())?;
    for _ in 0..4 {
        to_sender(&mut link, 1000)?;
    }
    let told = event.wait(DEADLINE)?;
    let used = link.tx.rx_ring(0).queue.given_back();
    drop(link);
    bench.alive()?;
    ensure(told || used > 0, "the ring stopped, and nobody was told")?;
    Ok(if used == 0 {
        Seen::RingStopped
    } else {
        Seen::Tolerated
    })
}

fn tx_writable_behind(bench: &Bench) -> Result<Seen, Failure> {
    const PATTERN: [u8; 16] = [0x5a; 16];
    let mut link = bench.link(&NetConfig::default())?;
    let memory = link.tx.memory().clone();
    let mut came = false;
    for _ in 0..4 {
        let frame = link.frame(200);
        let (addr, len) = place(&mut link, &frame)?;
        let behind = link.tx.tx_ring(0).buffer_addr(4);
        let slice = memory.slice(behind, PATTERN.len());
        let put = slice.is_some_and(|slice| slice.write_slice(&PATTERN, 0).is_ok());
        ensure(put, "memory of our own cannot be written")?;
        let chain = [(addr, len, false), (behind, PATTERN.len() as u32, true)];
        let chain = chain.map(|(addr, len, writable)| Buffer {
            addr,
            len,
            writable,
        });
        let ring = link.tx.tx_ring(0);
        ensure(ring.queue.add(&chain).is_some(), "the chain does not fit")?;
        ring.notify();
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            if link.tx.tx_ring(0).queue.pop_used()?.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if link.is_seen()
            && let Some(got) = link.receive(QUIET)?
        {
            ensure(
                got.bytes() == frame,
                format_args!("{} bytes came of 200", got.bytes().len()),
            )?;
            came = true;
        }
    }
    drop(link);
    bench.alive()?;
    Ok(if came {
        Seen::Conforms
    } else {
        Seen::Tolerated
    })
}

/// Waits until the device has given back what is in the send ring of a pair.
fn given_back(link: &mut Link, pair: usize) -> Result<(), Failure> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        link.tx.tx_room(pair)?;
        if link.tx.tx_ring(pair).queue.outstanding() == 0 {
            return Ok(());
        }
        ensure(
            Instant::now() < deadline,
            format_args!("a frame in the send ring of pair {pair} was not given back"),
        )?;
        std::thread::sleep(Duration::from_micros(200));
    }
}
