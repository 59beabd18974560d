//! Many frames at once: what is done to each of a burst is what is done to it alone, whichever flow it is of and whoever is beside it. Never
//! judges how many of a burst a network loses.

use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, Link, QUIET, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::control::{ALL, BROADCAST, MQ, controlled_pairs};
use crate::cases::filter::{TCP, UDP};
use crate::cases::vf::{ADMIN, FOREIGN, tagged};
use crate::control::{obeyed, queue_pairs, vlan};
use crate::link::Onlooker;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{HDR_NEEDS_CSUM, NetConfig, NetDevice, NetHeader, RxFrame, feature};

/// IP Encapsulating Security Payload (RFC 4303), which has no ports.
const ESP: u8 = 50;

/// Flows of which some come in each of two pairs.
const FLOWS: u16 = 32;
/// Pairs that a driver has chosen.
const PAIRS: u16 = 2;
/// Frames that a ring holds, and fewer than a receiver has buffers.
const MANY: usize = 200;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "control/burst-keeps-pairs",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.6 Automatic receive steering in multiqueue mode; Linux aRFS, RSS",
        sent: "A frame of each of 32 flows, one after the other, and then eight times one of each with a single kick, to a driver that has chosen two pairs.",
        expected: "Those of a flow come in the pair that its first came in, whatever is sent beside them.",
        run: |bench| burst_keeps_pairs(bench, 1),
    },
    Case {
        id: "control/burst-of-pairs-keeps-pairs",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.6 Automatic receive steering in multiqueue mode; Linux aRFS, RSS",
        sent: "The same by a driver that has two pairs itself.",
        expected: "The same: how many pairs a sender has is no matter of its receiver's.",
        run: |bench| burst_keeps_pairs(bench, PAIRS),
    },
    Case {
        id: "control/fragments-keep-pair",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "RFC 791 3.2 (ports are in the first fragment alone); Microsoft RSS and Linux (fragments are hashed without ports)",
        sent: "Datagrams of 32 flows in two fragments each, to a driver that has chosen two pairs.",
        expected: "Both fragments of each come in one pair, so that they keep their order.",
        run: |bench| {
            let mut link = controlled_pairs(bench, PAIRS)?;
            obeyed(link.receiver(), &queue_pairs(PAIRS))?;
            for flow in 0..FLOWS {
                let mut pairs = Vec::new();
                // More are to come; and from byte 88 on, the last.
                for place in [[0x20, 0], [0, 11]] {
                    let mut frame = link.frame_of_flow(flow);
                    frame[18..20].copy_from_slice(&flow.to_be_bytes());
                    frame[20..22].copy_from_slice(&place);
                    link.send(&frame)?;
                    pairs.push(link.arrives_on(&frame, PAIRS.into())?);
                }
                ensure(
                    pairs[0] == pairs[1],
                    format_args!("of flow {flow} the fragments came in pairs {pairs:?}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/flows-spread-v6",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.6 Automatic receive steering in multiqueue mode; Microsoft RSS",
        sent: "UDP packets of 64 flows over IPv6 that differ in their source port alone, to a driver that has chosen two pairs.",
        expected: "Some come in each of them.",
        run: |bench| {
            let mut link = controlled_pairs(bench, PAIRS)?;
            obeyed(link.receiver(), &queue_pairs(PAIRS))?;
            let mut came = [0; PAIRS as usize];
            for flow in 0..64 {
                let frame = frame6_of_flow(&mut link, flow);
                link.send(&frame)?;
                came[link.arrives_on(&frame, PAIRS.into())?] += 1;
            }
            ensure(
                came.iter().all(|flows| *flows > 0),
                format_args!("of 64 flows so many came in each pair: {came:?}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/bad-header-in-burst",
        level: Level::Model,
        needs: &[Need::Peer, Need::Feature(feature::CSUM, "CSUM")],
        source: "V 5.1.9.2 (each buffer is a packet with a header of its own), 5.1.9.2.2",
        sent: "A frame whose checksum (NEEDS_CSUM) is to be put far behind its end; and bursts of good frames with such between them.",
        expected: "The good ones arrive, once and in their order, and the others where the first one did: nothing goes on in the name of its neighbour.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let bad = NetHeader {
                flags: HDR_NEEDS_CSUM,
                csum_start: 3000,
                ..NetHeader::default()
            };
            let frame = link.frame(100);
            link.send_with(&bad, &frame)?;
            link.sent()?;
            let taken = link.arrives(&frame, 2 * QUIET)?;
            for _ in 0..8 {
                let frames: Vec<_> = (0..12).map(|_| link.frame(100)).collect();
                let is_bad = |n: usize| n % 3 == 1;
                for (n, frame) in frames.iter().enumerate() {
                    let hdr = if is_bad(n) { bad } else { NetHeader::default() };
                    let sent = link.tx.send(0, &hdr, frame)?;
                    ensure(sent, "the send ring is full")?;
                }
                link.tx.kick();
                link.sent()?;
                let expected = frames.iter().enumerate();
                let expected = expected.filter(|(n, _)| taken || !is_bad(*n));
                for (n, frame) in expected {
                    let came = link.receive(DEADLINE)?;
                    ensure(
                        came.is_some_and(|came| came.bytes() == frame),
                        format_args!("frame {n} of a burst was lost, or something came before it"),
                    )?;
                }
                let more = link.receive(QUIET)?.is_some();
                ensure(!more, "a frame came that was not to")?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/rings-take-turns",
        level: Level::Model,
        needs: &[Need::Peer, Need::Feature(feature::MQ, "MQ"), Need::Pairs(2)],
        source: "V 5.1.2 (each pair is a queue of its own); IEEE 802.1Q-2018 8.6.8 (transmission selection)",
        sent: "By a driver of two pairs, 200 frames at once in the first send ring, and right behind them one in the second; again for some seconds at most.",
        expected: "That one arrives before the last quarter of the others: a ring that is full does not hold up another.",
        run: |bench| {
            let sender = NetConfig {
                queue_pairs: PAIRS,
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&sender, &NetConfig::default())?;
            takes_its_turn(|| {
                fill(&mut link)?;
                let frame = link.frame(100);
                link.tx.send(1, &NetHeader::default(), &frame)?;
                link.tx.kick();
                place_of(&mut link, &frame)
            })
        },
    },
    Case {
        id: "path/turns",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "SR-IOV: virtual functions share nothing that one may use up",
        sent: "With all VFs on the direct and then on the mediated path, 200 frames of a VF at once, and right behind them one of another VF, whose number is higher; again for some seconds at most.",
        expected: "That one arrives before the last quarter of the others: senders take turns, whatever their numbers are.",
        run: |bench| {
            for path in ["direct", "mediated"] {
                for vf in 0..3 {
                    bench.administer(&format!("vf {vf} path {path}"))?;
                }
                let mut link = bench.link(&NetConfig::default())?;
                let mut quiet = bench.onlooker(&NetConfig::default())?;
                takes_its_turn(|| {
                    let mut frame = link.frame(100);
                    frame[6..12].copy_from_slice(&quiet.mac);
                    quiet.net.send(0, &NetHeader::default(), &frame)?;
                    fill(&mut link)?;
                    link.tx.kick();
                    quiet.net.kick();
                    place_of(&mut link, &frame)
                })
                .map_err(|failure| match failure {
                    Failure::Wrong(why) => Failure::Wrong(format!("{why} (on path {path})")),
                    other => other,
                })?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/flows-spread-kinds",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.6 Automatic receive steering in multiqueue mode; Microsoft RSS",
        sent: "64 flows of TCP and of UDP behind a tag that differ in their source port alone, to a driver that has chosen two pairs.",
        expected: "Of each kind some come in each of them.",
        run: |bench| {
            let mut link = controlled_pairs(bench, PAIRS)?;
            obeyed(link.receiver(), &queue_pairs(PAIRS))?;
            if link.receiver().has(feature::CTRL_VLAN) {
                obeyed(link.receiver(), &vlan(true, 5))?;
            }
            for behind_tag in [false, true] {
                let mut came = [0; PAIRS as usize];
                for flow in 0..64 {
                    let mut frame = link.frame_of_flow(flow);
                    match behind_tag {
                        true => frame = tagged(&frame, 0x8100, 5),
                        false => frame[23] = TCP,
                    }
                    link.send(&frame)?;
                    came[link.arrives_on(&frame, PAIRS.into())?] += 1;
                }
                ensure(
                    came.iter().all(|flows| *flows > 0),
                    format_args!(
                        "of 64 flows so many came in each pair: {came:?} (tagged: {behind_tag})"
                    ),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/unfit-in-burst",
        level: Level::Model,
        needs: &[Need::Peer],
        source: "V 5.1.9.2 (each buffer is a packet of its own), 5.1.9.4",
        sent: "Bursts with frames that do not fit the buffers of their receiver, which has not accepted MRG_RXBUF, between such that do.",
        expected: "Those that fit arrive, each once and in their order.",
        run: |bench| {
            let receiver = NetConfig {
                rx_buffer: Some(600),
                ..without(feature::MRG_RXBUF)
            };
            let mut link = bench.link_of(&NetConfig::default(), &receiver)?;
            for _ in 0..8 {
                let is_long = |n: usize| n % 3 == 1;
                let len = |n: usize| if is_long(n) { 1400 } else { 300 };
                let frames: Vec<_> = (0..12).map(|n| link.frame(len(n))).collect();
                for frame in &frames {
                    let sent = link.tx.send(0, &NetHeader::default(), frame)?;
                    ensure(sent, "the send ring is full")?;
                }
                link.tx.kick();
                link.sent()?;
                for (n, frame) in frames.iter().enumerate().filter(|(n, _)| !is_long(*n)) {
                    let came = link.receive(DEADLINE)?;
                    ensure(
                        came.is_some_and(|came| came.bytes() == frame),
                        format_args!("frame {n} of a burst was lost, or something came before it"),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/burst-of-many",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "IEEE 802.1Q-2018 8.8.3, 8.6.3, 6.5.3; ip-link(8) vf spoofchk",
        sent: "With spoofchk on, eight times 24 frames with a single kick: to one VF, to another, to all, to a reserved address and from a foreign one, in turn; to a VF of one pair and of two.",
        expected: "Each VF gets what is for it and for all, once, in each pair in the order of sending, and nothing else: what is decided about a frame holds for no other one.",
        run: burst_of_many,
    },
    Case {
        id: "control/flows-spread-hosts",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.6 Automatic receive steering in multiqueue mode; Microsoft RSS (packets without ports are hashed by their addresses)",
        sent: "UDP packets from 64 hosts with the same ports, and packets of ESP, which has none, from 64 hosts, over IPv4 and IPv6, to a driver that has chosen two pairs.",
        expected: "Of each kind some come in each of them.",
        run: |bench| {
            let mut link = controlled_pairs(bench, PAIRS)?;
            obeyed(link.receiver(), &queue_pairs(PAIRS))?;
            for v6 in [false, true] {
                for protocol in [UDP, ESP] {
                    let mut came = [0; PAIRS as usize];
                    for host in 1..=64 {
                        let mut frame = match v6 {
                            true => frame6_of_flow(&mut link, 5000),
                            false => link.frame_of_flow(5000),
                        };
                        let (next, last) = if v6 { (20, 37) } else { (23, 29) };
                        (frame[next], frame[last]) = (protocol, host);
                        link.send(&frame)?;
                        came[link.arrives_on(&frame, PAIRS.into())?] += 1;
                    }
                    ensure(
                        came.iter().all(|hosts| *hosts > 0),
                        format_args!(
                            "of 64 hosts so many came in each pair: {came:?} (IPv6: {v6}, protocol {protocol})"
                        ),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/fragments-keep-pair-v6",
        level: Level::Model,
        needs: &[Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "RFC 8200 4.5 (ports are in the first fragment alone); Microsoft RSS and Linux (fragments are hashed without ports)",
        sent: "Datagrams of 32 flows over IPv6 in two fragments each, to a driver that has chosen two pairs.",
        expected: "Both fragments of each come in one pair, so that they keep their order.",
        run: |bench| {
            let mut link = controlled_pairs(bench, PAIRS)?;
            obeyed(link.receiver(), &queue_pairs(PAIRS))?;
            for flow in 0..FLOWS {
                let mut pairs = Vec::new();
                // More are to come; and from byte 88 on, the last.
                for place in [1, 11 << 3] {
                    let frame = fragment6(frame6_of_flow(&mut link, flow), place, flow);
                    link.send(&frame)?;
                    pairs.push(link.arrives_on(&frame, PAIRS.into())?);
                }
                ensure(
                    pairs[0] == pairs[1],
                    format_args!("of flow {flow} the fragments came in pairs {pairs:?}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// Flows by a sender of so many pairs, one by one and in bursts.
fn burst_keeps_pairs(bench: &Bench, sending: u16) -> Result<Seen, Failure> {
    let sender = NetConfig {
        queue_pairs: sending,
        ..NetConfig::default()
    };
    let receiver = NetConfig {
        queue_pairs: PAIRS,
        ..with(ALL)
    };
    let mut link = bench.link_of(&sender, &receiver)?;
    obeyed(link.receiver(), &queue_pairs(PAIRS))?;
    let mut alone = Vec::new();
    for flow in 0..FLOWS {
        let frame = link.frame_of_flow(flow);
        link.send(&frame)?;
        alone.push(link.arrives_on(&frame, PAIRS.into())?);
    }
    for _ in 0..8 {
        let frames: Vec<_> = (0..FLOWS).map(|flow| link.frame_of_flow(flow)).collect();
        for (flow, pair) in pairs_of(&mut link, &frames)?.into_iter().enumerate() {
            ensure(
                pair.is_none_or(|pair| pair == alone[flow]),
                format_args!(
                    "flow {flow} came in pair {}, and in pair {pair:?} among others",
                    alone[flow]
                ),
            )?;
        }
    }
    Ok(Seen::Conforms)
}

/// In which pair each of these frames comes, which are sent with one kick; `None`: it is lost.
fn pairs_of(link: &mut Link, frames: &[Vec<u8>]) -> Result<Vec<Option<usize>>, Failure> {
    for frame in frames {
        let sent = link.tx.send(0, &NetHeader::default(), frame)?;
        ensure(sent, "the send ring is full")?;
    }
    link.tx.kick();
    let mut came = vec![None; frames.len()];
    let mut got = RxFrame::default();
    let deadline = Instant::now() + DEADLINE;
    while came.contains(&None) && Instant::now() < deadline {
        for pair in 0..usize::from(PAIRS) {
            while link.receiver().recv(pair, &mut got)? {
                let at = frames.iter().position(|frame| frame == got.bytes());
                if let Some(of) = at.and_then(|at| came.get_mut(at)) {
                    *of = Some(pair);
                }
            }
        }
        link.receiver().kick();
    }
    Ok(came)
}

/// A UDP packet over IPv6 of the `flow`th of many flows, unlike any before.
fn frame6_of_flow(link: &mut Link, flow: u16) -> Vec<u8> {
    let unique = link.frame(60);
    let payload = &unique[14..46];
    let len = (8 + payload.len()) as u16;
    let host = |last: u8| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    [
        &unique[..12],
        &[0x86, 0xdd, 0x60, 0, 0, 0],
        &len.to_be_bytes(),
        &[17, 64],
        &host(1),
        &host(2),
        &flow.to_be_bytes(),
        &[0x13, 0x89],
        &len.to_be_bytes(),
        &[0, 0],
        payload,
    ]
    .concat()
}

/// Puts frames into the first send ring, which nobody is told of yet.
fn fill(link: &mut Link) -> Result<(), Failure> {
    link.sent()?;
    for _ in 0..MANY {
        let frame = link.frame(1000);
        let sent = link.tx.send(0, &NetHeader::default(), &frame)?;
        ensure(sent, "the send ring is full")?;
    }
    Ok(())
}

/// How many frames come before this one, which is one behind many; the others are taken, too.
fn place_of(link: &mut Link, frame: &[u8]) -> Result<usize, Failure> {
    let mut got = RxFrame::default();
    let (mut came, mut place) = (0, None);
    let deadline = Instant::now() + DEADLINE;
    while came <= MANY && Instant::now() < deadline {
        while link.receiver().recv(0, &mut got)? {
            if got.bytes() == frame {
                place = Some(came);
            }
            came += 1;
        }
        link.receiver().kick();
    }
    place.ok_or_else(|| Failure::Wrong("the frame behind the others did not arrive".into()))
}

/// Whether it is not among the last three times within some seconds: a machine that has others to serve may tell of it too late.
fn takes_its_turn(mut place: impl FnMut() -> Result<usize, Failure>) -> Result<Seen, Failure> {
    const LONG: Duration = Duration::from_secs(4);
    let (mut early, mut tries, start) = (0, 0, Instant::now());
    while tries < 20 || start.elapsed() < LONG {
        tries += 1;
        early += usize::from(place()? < MANY * 3 / 4);
        if early == 3 {
            return Ok(Seen::Conforms);
        }
    }
    Err(Failure::Wrong(format!(
        "in {} of {tries} tries it came behind three quarters of the others",
        tries - early
    )))
}

/// The packet over IPv6 behind a fragment header (RFC 8200 4.5) with this place and flag, of that datagram.
fn fragment6(mut frame: Vec<u8>, place: u16, datagram: u16) -> Vec<u8> {
    const FRAGMENT: u8 = 44;
    let header = [
        &[frame[20], 0][..],
        &place.to_be_bytes(),
        &u32::from(datagram).to_be_bytes(),
    ]
    .concat();
    frame[20] = FRAGMENT;
    frame.splice(54..54, header);
    let length = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

fn burst_of_many(bench: &Bench) -> Result<Seen, Failure> {
    bench.administer("vf 0 spoofchk on")?;
    let mut onlooker = bench.onlooker(&NetConfig::default())?;
    let mut link = bench.link(&NetConfig::default())?;
    bursts_of_many(&mut link, &mut onlooker, 1)?;
    if bench.serves_control() && MQ.met(bench) && Need::Pairs(PAIRS).met(bench) {
        drop(link);
        link = controlled_pairs(bench, PAIRS)?;
        obeyed(link.receiver(), &queue_pairs(PAIRS))?;
        bursts_of_many(&mut link, &mut onlooker, PAIRS.into())?;
    }
    Ok(Seen::Conforms)
}

fn bursts_of_many(link: &mut Link, onlooker: &mut Onlooker, pairs: usize) -> Result<(), Failure> {
    const FRAMES: usize = 24;
    /// A reserved address (IEEE 802.1Q-2018 8.6.3).
    const RESERVED: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];
    // So that whoever remembers where frames go knows it of both.
    let frame = link.frame(100);
    link.send(&frame)?;
    link.arrives_on(&frame, pairs)?;
    let mut frame = link.frame(100);
    frame[..6].copy_from_slice(&onlooker.mac);
    link.send(&frame)?;
    onlooker.sees(&frame, 1)?;
    for _ in 0..8 {
        let mut frames: Vec<_> = (0..FRAMES).map(|_| link.frame(100)).collect();
        for (n, frame) in frames.iter_mut().enumerate() {
            match n % 6 {
                1 => frame[..6].copy_from_slice(&onlooker.mac),
                2 => frame[6..12].copy_from_slice(&FOREIGN),
                3 => frame[..6].copy_from_slice(&BROADCAST),
                4 => frame[..6].copy_from_slice(&RESERVED),
                _ => {}
            }
        }
        for frame in &frames {
            let sent = link.tx.send(0, &NetHeader::default(), frame)?;
            ensure(sent, "the send ring is full")?;
        }
        link.tx.kick();
        link.sent()?;
        gets_of(link.receiver(), pairs, &frames, &[0, 3, 5], "receiver")?;
        gets_of(&mut onlooker.net, 1, &frames, &[1, 3], "third VF")?;
    }
    Ok(())
}

/// Checks that of these frames a device gets those whose places in each six are these, once, in each pair in their order, and nothing else.
fn gets_of(
    device: &mut NetDevice,
    pairs: usize,
    frames: &[Vec<u8>],
    places: &[usize],
    who: &str,
) -> Result<(), Failure> {
    let expected: Vec<_> = (0..frames.len())
        .filter(|n| places.contains(&(n % 6)))
        .collect();
    let mut came = vec![Vec::new(); pairs];
    let mut got = RxFrame::default();
    let deadline = Instant::now() + DEADLINE;
    let mut end = deadline;
    while Instant::now() < end {
        for (pair, came) in came.iter_mut().enumerate() {
            while device.recv(pair, &mut got)? {
                came.extend(frames.iter().position(|frame| frame == got.bytes()));
            }
        }
        device.kick();
        if end == deadline && came.iter().map(Vec::len).sum::<usize>() >= expected.len() {
            // Nothing more is to come.
            end = Instant::now() + QUIET;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    let mut all = came.concat();
    all.sort_unstable();
    ensure(
        all == expected && came.iter().all(|pair| pair.is_sorted()),
        format_args!("of a burst the {who} got {came:?}, and was to get {expected:?}"),
    )
}
