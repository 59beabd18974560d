//! How long calls may be held back, as a driver says on the control queue. Asks for no exact time: a call that comes is told from none, and
//! from one that comes far too late.

use std::time::{Duration, Instant};

use super::control::{ALL, controlled, controlled_pairs};
use crate::bench::{Bench, DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::control::{ERR, OK, coalesce, command, obeyed, queue_pairs, refused};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::Format;
use vf_guest::net::{NetConfig, NetDevice, feature};

const CTRL: Need = Need::Control;
const COAL: Need = Need::Feature(feature::CTRL_VQ | feature::NOTF_COAL, "NOTF_COAL");
const MQ: Need = Need::Feature(feature::CTRL_VQ | feature::MQ, "MQ");
const VQ_COAL: Need = Need::Feature(feature::CTRL_VQ | feature::VQ_NOTF_COAL, "VQ_NOTF_COAL");

pub(super) const CASES: &[Case] = &[
    Case {
        id: "control/coalescing",
        level: Level::Text,
        needs: &[CTRL, COAL],
        source: "V 5.1.9.5.10",
        sent: "NOTF_COAL for each direction, on and off.",
        expected: "Obeyed; frames pass, later at most.",
        run: |bench| {
            let mut link = controlled(bench)?;
            for (direction, usecs) in [(0, 100), (1, 100), (0, 0), (1, 0)] {
                obeyed(link.receiver(), &coalesce(direction, None, 8, usecs))?;
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-of-a-ring",
        level: Level::Must,
        needs: &[CTRL, VQ_COAL],
        source: "V 5.1.9.5.10.6",
        sent: "VQ_NOTF_COAL set and read back.",
        expected: "What was set is read; of a ring that is not there it is refused.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let device = link.receiver();
            obeyed(device, &coalesce(2, Some(1), 3, 40))?;
            let now = held(device, 1)?;
            ensure(now == [3, 40], format_args!("VQ_GET said {now:?}"))?;
            refused(device, &coalesce(2, Some(0x7fff), 3, 40))?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-by-direction",
        level: Level::Text,
        needs: &[CTRL, COAL, VQ_COAL],
        source: "V 5.1.9.5.10",
        sent: "NOTF_COAL_RX_SET and TX_SET, and VQ_GET of a receive and a send ring after each.",
        expected: "Each holds for all rings of its direction, and those of the other one keep theirs.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let device = link.receiver();
            let before = held(device, 1)?;
            obeyed(device, &coalesce(1, None, 3, 40))?;
            said_of(device, [[3, 40], before])?;
            obeyed(device, &coalesce(0, None, 5, 60))?;
            said_of(device, [[3, 40], [5, 60]])?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-every-pair",
        level: Level::Text,
        needs: &[CTRL, COAL, VQ_COAL, MQ, Need::Pairs(2)],
        source: "V 5.1.9.5.10",
        sent: "With two pairs, NOTF_COAL_RX_SET and TX_SET and VQ_SET of single rings, and VQ_GET of all four after each.",
        expected: "The first two hold for both rings of their direction, and the last for the one that it names.",
        run: |bench| {
            let mut link = controlled_pairs(bench, 2)?;
            let device = link.receiver();
            obeyed(device, &queue_pairs(2))?;
            obeyed(device, &coalesce(1, None, 3, 40))?;
            obeyed(device, &coalesce(0, None, 5, 60))?;
            let mut all = [[3, 40], [5, 60], [3, 40], [5, 60]];
            said_of(device, all)?;
            for ring in [1, 0, 2, 3] {
                let own = [7 + u32::from(ring), 80];
                obeyed(device, &coalesce(2, Some(ring), own[0], own[1]))?;
                all[usize::from(ring)] = own;
                said_of(device, all)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-reserved",
        level: Level::Must,
        needs: &[CTRL, VQ_COAL],
        source: "V 5.1.9.5.10.6",
        sent: "VQ_NOTF_COAL whose reserved field is not 0.",
        expected: "Obeyed as ever: the device MUST ignore it.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let device = link.receiver();
            let mut bytes = coalesce(2, Some(1), 7, 80);
            bytes[4..6].fill(0xff);
            obeyed(device, &bytes)?;
            let now = held(device, 1)?;
            ensure(now == [7, 80], format_args!("VQ_GET said {now:?}"))?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-new-driver",
        level: Level::Must,
        needs: &[CTRL, VQ_COAL],
        source: "V 5.1.9.5.10.6",
        sent: "VQ_NOTF_COAL for both rings, the end of the session, and VQ_GET in a new one.",
        expected: "0 packets and 0 microseconds: a reset sets all of it to 0.",
        run: |bench| {
            let mut link = controlled(bench)?;
            for ring in [0, 1] {
                obeyed(link.receiver(), &coalesce(2, Some(ring), 7, 80))?;
            }
            drop(link);
            let mut link = controlled(bench)?;
            said_of(link.receiver(), [[0; 2]; 2])?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-suppressed",
        level: Level::Should,
        needs: &[CTRL, COAL, Need::Peer],
        source: "V 5.1.9.5.10.6",
        sent: "NOTF_COAL_RX_SET with 2 packets and 100 microseconds, and 8 frames to a driver that wants no notifications (NO_INTERRUPT).",
        expected: "No call: a device SHOULD NOT notify then, although coalescing would.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&NetConfig {
                features: (config.features | ALL) & !feature::EVENT_IDX,
                ..config
            })?;
            obeyed(link.receiver(), &coalesce(1, None, 2, 100))?;
            let ring = link.receiver().rx_ring(0);
            ring.queue.set_interrupts(false);
            std::thread::sleep(QUIET);
            if let Some(call) = &ring.call {
                call.drain();
            }
            for _ in 0..8 {
                let frame = link.frame(100);
                link.send(&frame)?;
            }
            link.sent()?;
            std::thread::sleep(QUIET);
            let called = link.receiver().wait_rx_call(0, Duration::ZERO)?;
            ensure(!called, "the driver was called")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-ends",
        level: Level::Text,
        needs: &[CTRL, COAL, Need::Peer],
        source: "V 5.1.9.5.10.1",
        sent: "NOTF_COAL_RX_SET with 1000 packets and 20 ms, and pairs of frames, the second one right after the call for the first.",
        expected: "A call for the second one, too, when the time is up: it is held back and not forgotten, nor for seven times as long.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&NetConfig {
                features: (config.features | ALL) & !feature::EVENT_IDX,
                ..config
            })?;
            obeyed(link.receiver(), &coalesce(1, None, 1000, 20_000))?;
            link.receiver().rx_ring(0).queue.set_interrupts(true);
            in_time(|n| {
                let frame = link.frame(100);
                link.send(&frame)?;
                let start = Instant::now();
                let called = link.receiver().wait_rx_call(0, DEADLINE)?;
                ensure(called, format_args!("no call for frame {n}"))?;
                let took = start.elapsed();
                link.expect(&frame)?;
                Ok(took)
            })
        },
    },
    Case {
        id: "control/coalescing-packets",
        level: Level::Text,
        needs: &[CTRL, COAL, Need::Peer],
        source: "V 5.1.9.5.10",
        sent: "NOTF_COAL_RX_SET with 4 packets and a minute, and three times 8 frames.",
        expected: "A call for each 8 of them within 2 s: so many packets are the most that come before a notification, however long the time is.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&NetConfig {
                features: (config.features | ALL) & !feature::EVENT_IDX,
                ..config
            })?;
            obeyed(link.receiver(), &coalesce(1, None, 4, 60_000_000))?;
            link.receiver().rx_ring(0).queue.set_interrupts(true);
            for turn in 0..3 {
                let frames: Vec<Vec<u8>> = (0..8).map(|_| link.frame(100)).collect();
                for frame in &frames {
                    link.send(frame)?;
                }
                let called = link.receiver().wait_rx_call(0, DEADLINE)?;
                ensure(
                    called,
                    format_args!("no call for frames {} to {}", 8 * turn, 8 * turn + 7),
                )?;
                for frame in &frames {
                    link.expect(frame)?;
                }
                for call in link.receiver().calls() {
                    call.drain();
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-ends-tx",
        level: Level::Text,
        needs: &[CTRL, COAL],
        source: "V 5.1.9.5.10.1",
        sent: "NOTF_COAL_TX_SET with 1000 packets and 20 ms, and eight frames, each sent after the call for the one before.",
        expected: "A call for each when the time is up: it is held back and not forgotten, nor for seven times as long.",
        run: |bench| {
            let mut link = held_back(bench, 1000, 20_000)?;
            in_time(|n| {
                let frame = link.frame(100);
                link.send(&frame)?;
                let start = Instant::now();
                is_called(&mut link, format_args!("frame {n}"))?;
                let took = start.elapsed();
                link.sent()?;
                Ok(took)
            })
        },
    },
    Case {
        id: "control/coalescing-packets-tx",
        level: Level::Text,
        needs: &[CTRL, COAL],
        source: "V 5.1.9.5.10",
        sent: "NOTF_COAL_TX_SET with 4 packets and a minute, and three times 8 frames.",
        expected: "A call for each 8 of them within 2 s: so many packets are the most that are sent before a notification, however long the time is.",
        run: |bench| {
            let mut link = held_back(bench, 4, 60_000_000)?;
            for turn in 0..3 {
                for _ in 0..8 {
                    let frame = link.frame(100);
                    link.send(&frame)?;
                }
                let (first, last) = (8 * turn, 8 * turn + 7);
                is_called(&mut link, format_args!("frames {first} to {last}"))?;
                link.sent()?;
                for call in link.tx.calls() {
                    call.drain();
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-of-nobody",
        level: Level::Must,
        needs: &[CTRL, VQ_COAL],
        source: "V 5.1.9.5.10.6",
        sent: "VQ_SET and VQ_GET of the control queue's own ring and of rings that there are not.",
        expected: "VIRTIO_NET_ERR for each: none of them is a receive or send ring that is enabled.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let device = link.receiver();
            let control = device.control_index() as u16;
            for ring in [control, 0x1234, 0xffff] {
                refused(device, &coalesce(2, Some(ring), 7, 80))?;
                let [low, high] = ring.to_le_bytes();
                let (said, _) = command(device, &[6, 3, low, high, 0, 0], 8)?;
                ensure(
                    said == ERR,
                    format_args!("VQ_GET of ring {ring:#x} was not refused"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-each-its-own",
        level: Level::Text,
        needs: &[CTRL, COAL, Need::Peer],
        source: "V 5.1.9.5.10.1",
        sent: "NOTF_COAL_TX_SET with 10 s by the sender and RX_SET with 20 ms by the receiver, and eight frames, each sent when the one before has come.",
        expected: "The receiver is called for each within two seconds: its time is its own.",
        run: |bench| {
            let mut link = held_back(bench, 1000, 10_000_000)?;
            obeyed(link.receiver(), &coalesce(1, None, 1000, 20_000))?;
            link.receiver().rx_ring(0).queue.set_interrupts(true);
            for n in 0..8 {
                let frame = link.frame(100);
                link.send(&frame)?;
                let called = link.receiver().wait_rx_call(0, DEADLINE)?;
                ensure(called, format_args!("no call for frame {n}"))?;
                link.expect(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-holds",
        level: Level::Model,
        needs: &[CTRL, COAL, Need::Peer],
        source: "V 5.1.9.5.10 (it is best-effort, and a driver that asks for fewer calls has its reasons)",
        sent: "NOTF_COAL_RX_SET with 8 packets and a second, 24 frames, then six frames 20 ms apart, and 20 with 1000 packets.",
        expected: "Three calls for the six at most, after so many packets as before, and two a second for the others.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&NetConfig {
                features: (config.features | ALL) & !feature::EVENT_IDX,
                ..config
            })?;
            obeyed(link.receiver(), &coalesce(1, None, 8, 1_000_000))?;
            link.receiver().rx_ring(0).queue.set_interrupts(true);
            for _ in 0..24 {
                let frame = link.frame(100);
                link.send(&frame)?;
                link.expect(&frame)?;
            }
            let mut calls = 0;
            for _ in 0..6 {
                for call in link.receiver().calls() {
                    call.drain();
                }
                let frame = link.frame(100);
                link.send(&frame)?;
                calls += u32::from(link.receiver().wait_rx_call(0, Duration::from_millis(20))?);
                link.expect(&frame)?;
            }
            ensure(calls <= 3, format_args!("{calls} calls for six frames"))?;
            // Few enough to wait for the time alone.
            obeyed(link.receiver(), &coalesce(1, None, 1000, 1_000_000))?;
            let (mut calls, start) = (0, Instant::now());
            for _ in 0..20 {
                link.receiver().calls().for_each(|call| {
                    call.drain();
                });
                let frame = link.frame(100);
                link.send(&frame)?;
                calls += u32::from(link.receiver().wait_rx_call(0, Duration::from_millis(20))?);
                link.expect(&frame)?;
            }
            let took = start.elapsed();
            ensure(
                calls <= 2 + 2 * took.as_secs() as u32,
                format_args!("{calls} calls in {took:?}, and one a second was asked for"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/packed-laps-held-back",
        level: Level::Text,
        needs: &[
            CTRL,
            COAL,
            Need::Peer,
            Need::Feature(feature::EVENT_IDX, "EVENT_IDX"),
            Need::Format(Format::Packed),
        ],
        source: "V 2.8.10, 5.1.9.5.10.1",
        sent: "With NOTF_COAL_RX_SET of 1000 packets and 300 ms, seven frames to a ring of four descriptors, which the driver takes without being called, and an eighth that it asks to be called for.",
        expected: "A call for that one when the time is up, though the ring has gone round as often as its wrap counter can tell.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&NetConfig {
                features: config.features | ALL,
                queue_size: 4,
                ..config
            })?;
            obeyed(link.receiver(), &coalesce(1, None, 1000, 300_000))?;
            for turn in 0..3 {
                // The call for the first one begins the time.
                for n in 0..9 {
                    let frame = link.frame(100);
                    let waits = n % 8 == 0;
                    if waits {
                        link.receiver().calls().for_each(|call| {
                            call.drain();
                        });
                        link.receiver().arm(false);
                    }
                    link.send(&frame)?;
                    if waits {
                        let called = link.receiver().wait_rx_call(0, DEADLINE)?;
                        ensure(called, format_args!("in turn {turn} no call for frame {n}"))?;
                    }
                    link.expect(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-packets-exact",
        level: Level::Text,
        needs: &[CTRL, COAL, Need::Peer],
        source: "V 5.1.9.5.10",
        sent: "NOTF_COAL_RX_SET and TX_SET with 4 packets and a minute, a frame, and three times just four frames.",
        expected: "A call at each end for each four of them within 2 s: so many are the most that come before a notification.",
        run: |bench| {
            let mut link = held_back(bench, 4, 60_000_000)?;
            obeyed(link.receiver(), &coalesce(1, None, 4, 60_000_000))?;
            link.receiver().rx_ring(0).queue.set_interrupts(true);
            // The first is called for at once, and so does not count.
            let frame = link.frame(100);
            link.pass(&frame)?;
            quiet_calls(&link);
            for turn in 0..3 {
                let frames: Vec<Vec<u8>> = (0..4).map(|_| link.frame(100)).collect();
                for frame in &frames {
                    link.send(frame)?;
                }
                let what = format!("frames {} to {}", 4 * turn, 4 * turn + 3);
                is_called(&mut link, format_args!("the sender of {what}"))?;
                let called = link.receiver().wait_rx_call(0, DEADLINE)?;
                ensure(called, format_args!("no call for {what}"))?;
                for frame in &frames {
                    link.expect(frame)?;
                }
                link.sent()?;
                quiet_calls(&link);
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/coalescing-of-one-pair",
        level: Level::Text,
        needs: &[CTRL, COAL, VQ_COAL, MQ, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.10.1",
        sent: "With two pairs, VQ_SET of one receive ring with 1000 packets and a minute, and a flow of the other one; then the other way round.",
        expected: "A call for each frame of that flow within 2 s: a ring is held back as was said of it.",
        run: of_one_pair,
    },
];

/// A sender that wants to be called for what was sent, so much later.
fn held_back(bench: &Bench, packets: u32, usecs: u32) -> Result<Link, Failure> {
    let config = NetConfig::default();
    let mut link = bench.link(&NetConfig {
        features: (config.features | ALL) & !feature::EVENT_IDX,
        ..config
    })?;
    obeyed(&mut link.tx, &coalesce(0, None, packets, usecs))?;
    link.tx.tx_ring(0).queue.set_interrupts(true);
    for call in link.tx.calls() {
        call.drain();
    }
    Ok(link)
}

/// Checks that the sender is called for what it has sent.
fn is_called(link: &mut Link, what: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    let called = match &link.tx.tx_ring(0).call {
        Some(call) => {
            let called = call.wait(DEADLINE)?;
            call.drain();
            called
        }
        None => false,
    };
    ensure(called, format_args!("no call for {what}"))
}

/// Packets and microseconds of a ring, by `VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET`.
pub(super) fn held(device: &mut NetDevice, ring: u8) -> Result<[u32; 2], Failure> {
    let (said, held) = command(device, &[6, 3, ring, 0, 0, 0], 8)?;
    ensure(said == OK, "VQ_GET was refused")?;
    let mut words = held
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word));
    Ok([(); 2].map(|()| words.next().unwrap_or_default()))
}

/// Checks that of the first rings.
fn said_of<const RINGS: usize>(
    device: &mut NetDevice,
    expected: [[u32; 2]; RINGS],
) -> Result<(), Failure> {
    for (ring, expected) in (0..).zip(expected) {
        let now = held(device, ring)?;
        ensure(
            now == expected,
            format_args!("VQ_GET of ring {ring} said {now:?}, not {expected:?}"),
        )?;
    }
    Ok(())
}

/// Checks that of calls that are held back for 20 ms at most eight come, and three of them soon: a machine that has others to serve may be late
/// with some.
fn in_time(mut called: impl FnMut(u32) -> Result<Duration, Failure>) -> Result<Seen, Failure> {
    const SOON: Duration = Duration::from_millis(150);
    const MOST: u32 = 40;
    let (mut soon, mut n) = (0, 0);
    while n < 8 || soon < 3 {
        ensure(
            n < MOST,
            format_args!("of {MOST} calls {soon} came within {SOON:?}, and 20 ms were asked for"),
        )?;
        soon += u32::from(called(n)? < SOON);
        n += 1;
    }
    Ok(Seen::Conforms)
}

fn of_one_pair(bench: &Bench) -> Result<Seen, Failure> {
    const PAIRS: usize = 2;
    let config = NetConfig::default();
    let receiver = NetConfig {
        features: (config.features | ALL) & !feature::EVENT_IDX,
        queue_pairs: PAIRS as u16,
        ..config.clone()
    };
    let mut link = bench.link_of(&config, &receiver)?;
    obeyed(link.receiver(), &queue_pairs(PAIRS as u16))?;
    let mut flows = [None; PAIRS];
    for flow in 0..64 {
        let frame = link.frame_of_flow(flow);
        link.send(&frame)?;
        flows[link.arrives_on(&frame, PAIRS)?] = Some(flow);
    }
    for (held, free) in [(1, 0), (0, 1)] {
        let none = || Failure::Wrong(format!("none of 64 flows came in pair {free}"));
        let flow = flows[free].ok_or_else(none)?;
        for (pair, packets, usecs) in [(held, 1000, 60_000_000), (free, 0, 0)] {
            let ring = 2 * pair as u16;
            obeyed(link.receiver(), &coalesce(2, Some(ring), packets, usecs))?;
        }
        let device = link.receiver();
        device.rx_ring(free).queue.set_interrupts(true);
        for call in device.calls() {
            call.drain();
        }
        for n in 0..8 {
            let frame = link.frame_of_flow(flow);
            link.send(&frame)?;
            let called = link.receiver().wait_rx_call(free, DEADLINE)?;
            ensure(
                called,
                format_args!(
                    "no call of pair {free} for frame {n}, while pair {held} is held back"
                ),
            )?;
            link.arrives_on(&frame, PAIRS)?;
        }
    }
    Ok(Seen::Conforms)
}

/// Takes the calls of both ends that have come, and such as are on their way.
fn quiet_calls(link: &Link) {
    std::thread::sleep(QUIET);
    let both = link
        .tx
        .calls()
        .chain(link.rx.iter().flat_map(NetDevice::calls));
    for call in both {
        call.drain();
    }
}
