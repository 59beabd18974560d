//! Traffic as guests make it: many frames both ways, several pairs of rings, drivers of before virtio 1, receivers without buffers. Never
//! measures how fast.

use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, Delivery, Link, QUIET, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::by_hand::desc;
use crate::cases::clauses::started;
use crate::cases::control::controlled_pairs;
use crate::cases::net::tcp;
use crate::cases::protocol::F30;
use crate::cases::ring::{INDIRECT, SPLIT};
use crate::cases::ring_states::to_sender;
use crate::control::{obeyed, queue_pairs};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{DESC_NEXT, DESC_WRITE, SplitQueue};
use vf_guest::frontend::FrontendError;
use vf_guest::net::{GSO_TCPV4, NetConfig, NetHeader, RxFrame, feature};

const MRG: Need = Need::Feature(feature::MRG_RXBUF, "MRG_RXBUF");
const MQ: Need = Need::Feature(feature::CTRL_VQ | feature::MQ, "MQ");

pub(super) const CASES: &[Case] = &[
    Case {
        id: "net/load",
        level: Level::Model,
        needs: &[Need::Peer],
        source: "V 5.1.9.2, 5.1.9.4; IEEE 802.1Q-2018 6.5.3 (order), 6.5.2 (loss is rare)",
        sent: "20,000 frames of 60 to 1514 bytes, at most 64 of which are under way.",
        expected: "Each arrives as it was, once, in order: there are always buffers for it.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            windowed(&mut link, 20_000)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/load-both-ways",
        level: Level::Model,
        needs: &[Need::Peer],
        source: "V 5.1.9.2, 5.1.9.4; IEEE 802.1Q-2018 6.5.2",
        sent: "4,000 frames each way at a time, at most 32 of which are under way either way.",
        expected: "Each arrives as it was, once, in order.",
        run: both_ways,
    },
    Case {
        id: "net/second-pair-disabled",
        level: Level::Must,
        needs: &[
            F30,
            Need::Feature(feature::MQ, "MQ"),
            Need::Peer,
            Need::Pairs(2),
        ],
        source: "VU Ring states",
        sent: "Frames in the send rings of two pairs, the second of which is disabled and then enabled again.",
        expected: "Those of the first pair pass all the time, that of the disabled ring is given back and not forwarded, and those after it pass.",
        run: |bench| {
            const RING: u32 = 3;
            let mut link = bench.link(&NetConfig {
                queue_pairs: 2,
                ..NetConfig::default()
            })?;
            let sent = |link: &mut Link, pair: usize, passes: bool| {
                let frame = link.frame_of_flow(pair as u16);
                link.tx.send(pair, &NetHeader::default(), &frame)?;
                link.tx.kick();
                if passes {
                    link.arrives_on(&frame, 2)?;
                }
                let deadline = Instant::now() + DEADLINE;
                while link.tx.tx_ring(pair).queue.outstanding() > 0 {
                    link.tx.tx_room(pair)?;
                    ensure(
                        Instant::now() < deadline,
                        format_args!("a frame of pair {pair} was not given back"),
                    )?;
                }
                Ok::<_, Failure>(frame)
            };
            let enable = |link: &mut Link, enable: bool| {
                if let Some(front) = link.tx.frontend() {
                    front.set_vring_enable(RING, enable)?;
                }
                bench.settle();
                Ok::<_, Failure>(())
            };
            sent(&mut link, 1, true)?;
            enable(&mut link, false)?;
            let discarded = sent(&mut link, 1, false)?;
            std::thread::sleep(QUIET);
            let mut got = RxFrame::default();
            for pair in 0..2 {
                while link.receiver().recv(pair, &mut got)? {
                    ensure(
                        got.bytes() != discarded,
                        "a frame that was sent on a disabled ring was forwarded",
                    )?;
                }
            }
            sent(&mut link, 0, true)?;
            enable(&mut link, true)?;
            sent(&mut link, 1, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/second-pair-unused",
        level: Level::Text,
        needs: &[
            F30,
            Need::Feature(feature::MQ, "MQ"),
            Need::Peer,
            Need::Pairs(2),
        ],
        source: "VU Multiple queue support (queues are enabled and disabled as the driver uses them); VU Ring states",
        sent: "Frames of 32 flows to a receiver of two pairs, the second of which is disabled, as QEMU does with pairs that its driver has not asked for.",
        expected: "Each arrives, in the first pair: no flow is for a ring that is disabled.",
        run: |bench| {
            let receiver = NetConfig {
                queue_pairs: 2,
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&NetConfig::default(), &receiver)?;
            if let Some(front) = link.receiver().frontend() {
                for ring in [2, 3] {
                    front.set_vring_enable(ring, false)?;
                }
            }
            bench.settle();
            for flow in 0..32 {
                let frame = link.frame_of_flow(flow);
                link.send(&frame)?;
                let pair = link.arrives_on(&frame, 2)?;
                ensure(
                    pair == 0,
                    format_args!("flow {flow} came in the pair that is disabled"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tx-disabled-discards-all",
        level: Level::Must,
        needs: &[F30],
        source: "VU Ring states",
        sent: "200 frames with one kick in a send ring that is disabled.",
        expected: "All are given back, and none is forwarded: a back end must process and discard what is sent, not only the first of it.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let enable = |link: &mut Link, enable: bool| {
                if let Some(front) = link.tx.frontend() {
                    front.set_vring_enable(1, enable)?;
                }
                bench.settle();
                Ok::<_, Failure>(())
            };
            enable(&mut link, false)?;
            let mut last = Vec::new();
            for _ in 0..200 {
                last = link.frame(100);
                link.tx.send(0, &NetHeader::default(), &last)?;
            }
            link.tx.kick();
            link.sent()?;
            enable(&mut link, true)?;
            link.expect_nothing(&last)?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/hdr-legacy",
        level: Level::Text,
        // Who knows packed rings knows virtio 1.1.
        needs: &[SPLIT, Need::Delivery],
        source: "V 5.1.9 Legacy Interface: Device Operation; V 2.2.3; V 6.2",
        sent: "Frames, to a station and to all, by and to drivers that accept neither VERSION_1 nor MRG_RXBUF: their header has 10 bytes.",
        expected: "They arrive as they were; or none does, or SET_FEATURES is refused: a device may fail to operate without VERSION_1. What arrives is nothing else.",
        run: |bench| {
            let off = feature::VERSION_1 | feature::MRG_RXBUF | feature::IN_ORDER;
            legacy(bench, &without(off))
        },
    },
    Case {
        id: "net/hdr-legacy-mrg",
        level: Level::Text,
        needs: &[SPLIT, Need::Delivery, MRG],
        source: "V 5.1.9 Legacy Interface: Device Operation; V 2.2.3; V 6.2",
        sent: "Frames, to a station and to all, by and to drivers that accept MRG_RXBUF and not VERSION_1: their header has 12 bytes all the same.",
        expected: "They arrive as they were, in one buffer and over several; or none does, or SET_FEATURES is refused: a device may fail to operate without VERSION_1. What arrives is nothing else.",
        run: |bench| {
            let mut seen = Seen::Conforms;
            for rx_buffer in [None, Some(512)] {
                let config = NetConfig {
                    rx_buffer,
                    ..without(feature::VERSION_1 | feature::IN_ORDER)
                };
                match legacy(bench, &config)? {
                    Seen::Conforms => {}
                    other => seen = other,
                }
            }
            Ok(seen)
        },
    },
    Case {
        id: "ring/rx-indirect",
        level: Level::Must,
        needs: &[Need::Delivery, INDIRECT],
        source: "V 2.7.4.1 Message Framing; V 2.7.5.3, 2.8.7 Indirect Descriptors",
        sent: "Frames into receive buffers of 1, 3 and 5 descriptors in indirect tables; with MRG_RXBUF and without.",
        expected: "The same frames.",
        run: |bench| {
            for off in [0, feature::MRG_RXBUF] {
                for rx_pieces in [1, 3, 5] {
                    let config = NetConfig {
                        rx_pieces,
                        rx_indirect: true,
                        ..without(off)
                    };
                    let mut link = bench.link_of(&without(off), &config)?;
                    for _ in 0..100 {
                        for len in [60, 300, 1401, 1513] {
                            let frame = link.frame(len);
                            link.send(&frame)?;
                            link.expect(&frame)?;
                        }
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/rx-starved",
        level: Level::Hard,
        needs: &[Need::Peer],
        source: "CVE-2015-7295",
        sent: "100 frames to a receiver whose ring holds 4 buffers, of which it posts none again; then it does.",
        expected: "Contained, and frames arrive again.",
        run: |bench| {
            let config = NetConfig {
                queue_size: 4,
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&NetConfig::default(), &config)?;
            for _ in 0..100 {
                let frame = link.frame(1000);
                link.send(&frame)?;
            }
            link.sent()?;
            while link.receive(Duration::from_millis(20))?.is_some() {}
            let frame = link.frame(1000);
            link.pass(&frame)?;
            drop(link);
            bench.contained(Ok(()))
        },
    },
    Case {
        id: "net/rx-without-second-kick",
        level: Level::Text,
        needs: &[Need::Delivery],
        source: "V 5.1.9.3; V 2.7.10.2; rust-vmm/vhost #375",
        sent: "Frames one by one, more than the ring has descriptors, to a driver that kicks its receive ring as the device asks for it.",
        expected: "Each arrives: no kick beyond those is needed.",
        run: |bench| {
            let config = NetConfig {
                queue_size: 16,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            for _ in 0..64 {
                let frame = link.frame(200);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/mrg-last-buffer-unmapped",
        level: Level::Hard,
        needs: &[Need::Peer, MRG, SPLIT],
        source: "CVE-2021-3748, CVE-2022-26353",
        sent: "Frames for three buffers of a receiver with MRG_RXBUF, the last of which is where there is no memory.",
        expected: "Contained: no part of one arrives as a frame.",
        run: |bench| {
            let config = NetConfig {
                rx_buffer: Some(256),
                queue_size: 64,
                ..NetConfig::default()
            };
            nowhere(bench, &config, |queue, _| {
                for head in (2..64).step_by(3) {
                    queue.set_desc(head, desc(1 << 50, 256, DESC_WRITE, 0));
                }
            })
        },
    },
    Case {
        id: "net/rx-chain-to-nowhere",
        level: Level::Hard,
        needs: &[Need::Peer, SPLIT],
        source: "V 2.7.5.2; CVE-2020-10725",
        sent: "Frames for receive buffers of two descriptors, the second of which is where there is no memory.",
        expected: "Contained: no part of one arrives as a frame.",
        run: |bench| {
            nowhere(bench, &NetConfig::default(), |queue, at| {
                for head in (0..256).step_by(2) {
                    queue.set_desc(head, desc(at, 64, DESC_WRITE | DESC_NEXT, head + 1));
                    queue.set_desc(head + 1, desc(1 << 50, 2000, DESC_WRITE, 0));
                }
            })
        },
    },
    Case {
        id: "control/flow-keeps-its-pair",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.6 Automatic receive steering in multiqueue mode; Linux aRFS, RSS",
        sent: "Frames of 32 flows, four of each in turn, to a driver that has chosen two pairs.",
        expected: "Those of a flow all come in one pair, so that they keep their order.",
        run: |bench| {
            const PAIRS: u16 = 2;
            let mut link = controlled_pairs(bench, PAIRS)?;
            obeyed(link.receiver(), &queue_pairs(PAIRS))?;
            let mut of_flow = [None; 32];
            for _ in 0..4 {
                for flow in 0..32 {
                    let frame = link.frame_of_flow(flow);
                    link.send(&frame)?;
                    let pair = link.arrives_on(&frame, PAIRS.into())?;
                    let kept = *of_flow[usize::from(flow)].get_or_insert(pair);
                    ensure(
                        kept == pair,
                        format_args!("flow {flow} came in pair {kept} and {pair}"),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/flows-spread",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.6 Automatic receive steering in multiqueue mode; Microsoft RSS",
        sent: "Frames of 64 flows that differ in their source port alone, to a driver that has chosen two pairs, and then four.",
        expected: "Some come in each of them.",
        run: |bench| {
            for pairs in [2u16, 4] {
                if !Need::Pairs(pairs).met(bench) {
                    continue;
                }
                let mut link = controlled_pairs(bench, pairs)?;
                obeyed(link.receiver(), &queue_pairs(pairs))?;
                let mut came = vec![0; pairs.into()];
                for flow in 0..64 {
                    let frame = link.frame_of_flow(flow);
                    link.send(&frame)?;
                    came[link.arrives_on(&frame, pairs.into())?] += 1;
                }
                ensure(
                    came.iter().all(|flows| *flows > 0),
                    format_args!("of 64 flows so many came in each pair: {came:?}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/tso-into-few-buffers",
        level: Level::Text,
        needs: &[
            Need::Peer,
            Need::Feature(feature::HOST_TSO4 | feature::CSUM, "HOST_TSO4"),
        ],
        source: "V 5.1.9.2, 5.1.9.4; V 2.7.8",
        sent: "Super-frames of 30 segments to a driver without GUEST_TSO4 that has posted eight buffers and looks at them later.",
        expected: "Once it has taken those that have come, frames pass: no buffer is kept that was filled.",
        run: |bench| {
            let receiver = NetConfig {
                queue_size: 8,
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&with(NetConfig::TSO), &receiver)?;
            for _ in 0..3 {
                let (hdr, frame, _) = tcp(&link, 30_000, GSO_TCPV4);
                link.send_with(&hdr, &frame)?;
                link.sent()?;
                while link.receive(QUIET)?.is_some() {}
                let frame = link.frame(1000);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// Sends frames by and to such drivers of before virtio 1, whom a device need not serve. If it does, with a header of the wrong length,
/// frames arrive without their first bytes or with more before them.
fn legacy(bench: &Bench, legacy: &NetConfig) -> Result<Seen, Failure> {
    let modern = NetConfig::default();
    let all = [[&modern, legacy], [legacy, &modern], [legacy, legacy]];
    let ends = match bench.delivery() {
        Delivery::Peer => &all[..],
        _ => &all[2..],
    };
    let mut seen = Seen::Conforms;
    for [tx, rx] in ends {
        let mut link = match bench.link_of(tx, rx) {
            Err(Failure::Session(FrontendError::Nack { .. })) => return Ok(Seen::Refused),
            Err(Failure::Session(FrontendError::Closed)) => return Ok(Seen::Closed),
            link => link?,
        };
        let mut served = None;
        for len in [60, 61, 700, 1514] {
            for to_all in [false, true] {
                let mut frame = link.frame(len);
                if to_all {
                    frame[..6].fill(0xff);
                }
                link.send(&frame)?;
                let wait = if served == Some(false) {
                    QUIET
                } else {
                    DEADLINE
                };
                // What no other frame has.
                let own = &frame[14..];
                let came = link.arrives_among(&frame, wait, |other| {
                    ensure(
                        !other.ends_with(own),
                        format_args!(
                            "{} bytes arrived that end as a frame of {len} does and are not it",
                            other.len()
                        ),
                    )
                })?;
                // Whoever serves such a driver serves it whatever it sends.
                ensure(
                    came || !*served.get_or_insert(came),
                    format_args!("a frame of {len} bytes did not arrive, and others did"),
                )?;
            }
        }
        if served == Some(false) {
            seen = Seen::Tolerated;
        }
    }
    Ok(seen)
}

/// Has frames sent to a port whose receive ring `lie` has rewritten before it started; none may arrive but whole.
fn nowhere(
    bench: &Bench,
    config: &NetConfig,
    lie: impl FnOnce(&SplitQueue, u64),
) -> Result<Seen, Failure> {
    let (mut front, mut net) = bench.negotiated(config)?;
    let ring = net.rx_ring(0);
    let other = || Failure::Wrong("the ring is not split".into());
    lie(
        ring.queue.as_split().ok_or_else(other)?,
        ring.buffer_addr(0),
    );
    front.set_features(net.features())?;
    front.set_memory(net.memory().regions())?;
    started(&mut net, front)?;
    let mut link = bench.link_from(net, &NetConfig::default())?;
    for _ in 0..4 {
        let frame = to_sender(&mut link, 600)?;
        let part = link.returned(QUIET, |came| {
            // Where its serial number lies.
            came.get(6..18) == frame.get(6..18) && came != frame
        });
        match part {
            // A driver finds out as well that what it is told of a buffer cannot be.
            Err(Failure::Ring(_)) | Ok(false) => {}
            part => {
                part?;
                return Err(Failure::Wrong("a part of a frame arrived as one".into()));
            }
        }
    }
    drop(link);
    bench.contained(Ok(()))
}

/// Sends so many frames of all lengths with at most 64 under way, and checks that each arrives in its turn.
fn windowed(link: &mut Link, count: usize) -> Result<(), Failure> {
    let mut under_way = std::collections::VecDeque::new();
    let mut sent = 0;
    while sent < count || !under_way.is_empty() {
        let mut added = false;
        while sent < count && under_way.len() < 64 {
            let frame = link.frame(60 + sent * 37 % 1455);
            if !link.tx.send(0, &NetHeader::default(), &frame)? {
                break;
            }
            under_way.push_back(frame);
            sent += 1;
            added = true;
        }
        if added {
            link.tx.kick();
        }
        let Some(got) = link.receive(DEADLINE)? else {
            let first = sent - under_way.len();
            return Err(Failure::Wrong(format!(
                "frame {first} of {count} did not arrive"
            )));
        };
        let right = under_way
            .pop_front()
            .is_some_and(|frame| frame == got.bytes());
        ensure(
            right,
            format_args!(
                "frame {} of {count} was changed, lost or overtaken",
                sent - under_way.len() - 1
            ),
        )?;
    }
    Ok(())
}

fn both_ways(bench: &Bench) -> Result<Seen, Failure> {
    const COUNT: usize = 4_000;
    let mut link = bench.link(&NetConfig::default())?;
    let macs = [link.src, link.dst];
    // By direction: what has been sent and has not arrived, and how many have been.
    let mut under_way: [std::collections::VecDeque<Vec<u8>>; 2] = Default::default();
    let mut sent = [0; 2];
    let mut got = RxFrame::default();
    let mut since = Instant::now();
    while sent != [COUNT; 2] || under_way.iter().any(|frames| !frames.is_empty()) {
        for way in 0..2 {
            let mut frames = Vec::new();
            while sent[way] < COUNT && under_way[way].len() < 32 {
                let mut frame = link.frame(60 + sent[way] * 37 % 1455);
                frame[..6].copy_from_slice(&macs[1 - way]);
                frame[6..12].copy_from_slice(&macs[way]);
                frames.push(frame.clone());
                under_way[way].push_back(frame);
                sent[way] += 1;
            }
            let sender = match way {
                0 => &mut link.tx,
                _ => link.rx.as_mut().ok_or(Failure::Unseen)?,
            };
            for frame in &frames {
                ensure(
                    sender.send(0, &NetHeader::default(), frame)?,
                    "a send ring of 256 is full with 32 frames under way",
                )?;
            }
            sender.kick();
            while sender.recv(0, &mut got)? {
                let ours = got.bytes().get(6..12) == Some(&macs[1 - way][..]);
                if !ours {
                    continue;
                }
                let right = under_way[1 - way].pop_front();
                ensure(
                    right.is_some_and(|frame| frame == got.bytes()),
                    "a frame was changed, lost or overtaken",
                )?;
                since = Instant::now();
            }
        }
        ensure(since.elapsed() < DEADLINE, "a frame did not arrive")?;
    }
    Ok(Seen::Conforms)
}
