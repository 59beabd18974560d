//! Notifications both ways, of each pair of rings: a driver that kicks only when it is asked to, and one that waits to be called.

use std::time::{Duration, Instant};

use crate::bench::{DEADLINE, Link, QUIET, without};
use crate::case::{Case, Level, Need};
use crate::cases::control::ALL;
use crate::control::refused;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, Ring, feature};

/// After so long a device that has nothing to do has gone to sleep.
const IDLE: Duration = Duration::from_millis(120);
const PAIRS: u16 = 2;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "ring/kick-asked-for",
        level: Level::Text,
        needs: &[],
        source: "V 2.7.10 Available Buffer Notification Suppression, 2.8.14",
        sent: "Frames 120 ms apart, in turn in each send ring there is, which are kicked only if the device asks for it; with EVENT_IDX and without.",
        expected: "Each is given back within 2 s: a device that has gone to sleep has asked to be woken.",
        run: |bench| {
            let pairs = match bench.features() & feature::MQ {
                0 => 1,
                _ => PAIRS,
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
                    if link.sees().is_ok() {
                        link.arrives_on(&frame, pairs.into())?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/call-of-every-pair",
        level: Level::Must,
        needs: &[Need::Feature(feature::MQ, "MQ"), Need::Peer],
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
];

/// Whether the driver is called for a ring.
fn called(ring: &Ring) -> Result<bool, Failure> {
    match &ring.call {
        Some(call) => Ok(call.wait(DEADLINE)?),
        None => Ok(false),
    }
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
