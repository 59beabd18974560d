//! Direct and mediated path of an emulated NIC, or of a NIC that falls back to software: who receives what is the same on both, and a
//! change while traffic runs is not seen in it. Never looks at how a path is made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::filter::Packet;
use crate::cases::vf::{ADMIN, tagged};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{NetConfig, NetHeader};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "path/same-result",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "the data path of a switch is no part of what it promises",
        sent: "The same frames of many kinds on each path: short, long, tagged, to groups, with foreign addresses, fragments, more than MTU.",
        expected: "Those that arrive on the one arrive on the others, with the same bytes.",
        run: same_result,
    },
    Case {
        id: "path/switch-over-no-loss",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "the data path of a switch is no part of what it promises",
        sent: "64 frames at a time, all the time, while sender and receiver change paths up to 60 times.",
        expected: "Each arrives, once, in its order.",
        run: switch_over,
    },
    Case {
        id: "path/switch-over-limited",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "the data path of a switch is no part of what it promises; ip-link(8) vf max_tx_rate: a limit, no loss",
        sent: "40 frames of 1514 bytes at once from a VF that may send 1 Mb/s, which then changes its path four times.",
        expected: "Each arrives, once, in its order, and is given back: what waits for its turn changes the path, too.",
        run: switch_over_limited,
    },
    Case {
        id: "path/waits-in-order",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 6.5.3 (order)",
        sent: "On both paths, 200 times four frames to a receiver with four buffers, which looks at them later than they come and now and then.",
        expected: "Those that arrive do so in the order in which they were sent: none overtakes those that wait for a buffer.",
        run: waits_in_order,
    },
];

fn same_result(bench: &Bench) -> Result<Seen, Failure> {
    let mut ends: Vec<Vec<Option<Vec<u8>>>> = Vec::new();
    for path in paths(bench)? {
        for vf in 0..2 {
            bench.administer(&format!("vf {vf} path {path}"))?;
        }
        let mut link = bench.link(&NetConfig::default())?;
        let mut frames = Vec::new();
        for len in [18, 59, 60, 61, 500, 1513, 1514] {
            frames.push(link.frame(len));
        }
        for dst in [
            [0xff; 6],
            [1, 0, 0x5e, 0, 0, 1],
            [1, 0x80, 0xc2, 0, 0, 0],
            [2, 0, 0, 0, 0xc0, 0x55],
        ] {
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&dst);
            frames.push(frame);
        }
        let mut foreign = link.frame(100);
        foreign[6..12].copy_from_slice(&[2, 0, 0, 0, 0xc0, 0x56]);
        frames.push(foreign);
        for (kind, tci) in [
            (0x8100, 0),
            (0x8100, 5),
            (0x8100, 0x6fff),
            (0x88a8, 7),
            (0x9100, 8),
        ] {
            let frame = link.frame(80);
            frames.push(tagged(&frame, kind, tci));
        }
        for packet in [
            Packet::default(),
            Packet {
                offset: 0x2000,
                ..Packet::default()
            },
            Packet {
                length: Some(20),
                ..Packet::default()
            },
            Packet {
                protocol: 132,
                ..Packet::default()
            },
        ] {
            frames.push(packet.frame(&mut link));
        }
        let mut came = Vec::new();
        for frame in &frames {
            link.send(frame)?;
            link.sent()?;
            // What comes is one of ours and was not changed on the way, or it is another's.
            // What came on the first path is to come on this one, however long that takes.
            let before = ends.first().and_then(|ends: &Vec<_>| ends.get(came.len()));
            let wait = match before {
                Some(Some(_)) => DEADLINE,
                _ => QUIET,
            };
            let arrived = link.arrives(frame, wait)?;
            came.push(arrived.then(|| frame.clone()));
        }
        if let Some(first) = ends.first() {
            for (n, (direct, here)) in first.iter().zip(&came).enumerate() {
                ensure(
                    direct == here,
                    format_args!(
                        "frame {n} arrives on the direct path: {}, on the path {path}: {}",
                        direct.is_some(),
                        here.is_some()
                    ),
                )?;
            }
        }
        ends.push(came);
    }
    ensure(
        ends[0].iter().flatten().count() > 5,
        "hardly any frame arrived on either path",
    )?;
    Ok(Seen::Conforms)
}

/// Which paths there are, the direct one first.
fn paths(bench: &Bench) -> Result<Vec<&'static str>, Failure> {
    let mut all = vec!["direct", "mediated"];
    match bench.administer("vf 0 path auto") {
        Err(Failure::Unsupported(_)) => {}
        said => drop(said.map(|_| all.push("auto"))?),
    }
    Ok(all)
}

fn switch_over(bench: &Bench) -> Result<Seen, Failure> {
    /// Frames that are sent with one kick.
    const BURST: usize = 64;
    let done = AtomicBool::new(false);
    let traffic = bench.beside(0);
    let (ready, begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let done = &done;
        let stream = scope.spawn(move || {
            let mut link = traffic.link(&NetConfig::default())?;
            let (mut sent, mut next) = (Vec::new(), 0);
            let mut quiet = None;
            loop {
                let over = done.load(Ordering::Relaxed);
                // Fewer than there are buffers, so that none has to be dropped.
                if !over && sent.len() - next < 64 {
                    for _ in 0..BURST {
                        let frame = link.frame(200);
                        ensure(
                            link.tx.send(0, &NetHeader::default(), &frame)?,
                            "the send ring is full",
                        )?;
                        sent.push(frame);
                    }
                    link.tx.kick();
                }
                if sent.len() == 2 * BURST {
                    // Nobody waits any more if the suite has given up.
                    let _ = ready.send(());
                }
                while let Some(got) = link.receive(Duration::from_micros(50))? {
                    ensure(
                        sent.get(next).is_some_and(|frame| frame == got.bytes()),
                        format_args!(
                            "frame {next} of {} was lost, doubled or overtaken",
                            sent.len()
                        ),
                    )?;
                    next += 1;
                }
                if over {
                    let since = *quiet.get_or_insert_with(Instant::now);
                    if next == sent.len() {
                        return Ok(next);
                    }
                    ensure(
                        since.elapsed() < DEADLINE,
                        format_args!("{} of {} frames were lost", sent.len() - next, sent.len()),
                    )?;
                }
            }
        });
        // Nothing comes if the stream has failed, which it says in the end.
        let _ = begun.recv_timeout(DEADLINE);
        let paths = paths(bench)?;
        let change = || {
            let start = Instant::now();
            for turn in 0..60 {
                // An order takes as long as the machine has others to serve.
                if turn > 12 && start.elapsed() > 2 * DEADLINE {
                    break;
                }
                let path = paths[(turn / 2 + 1) % paths.len()];
                bench.administer(&format!("vf {} path {path}", turn % 2))?;
            }
            Ok(())
        };
        let changed: Result<(), Failure> = change();
        done.store(true, Ordering::Relaxed);
        let streamed = stream
            .join()
            .unwrap_or_else(|_| Err(Failure::Wrong("the suite's stream broke off".into())));
        changed?;
        let frames: usize = streamed?;
        ensure(frames > 20, format_args!("only {frames} frames in all"))?;
        Ok(Seen::Conforms)
    })
}

fn switch_over_limited(bench: &Bench) -> Result<Seen, Failure> {
    bench.administer("vf 0 rate 1")?;
    let mut link = bench.link(&NetConfig::default())?;
    let frames: Vec<Vec<u8>> = (0..40).map(|_| link.frame(1514)).collect();
    for frame in &frames {
        link.send(frame)?;
    }
    for path in ["mediated", "direct", "mediated", "direct"] {
        // Three frames' time of the half second that all of them take.
        std::thread::sleep(Duration::from_millis(36));
        bench.administer(&format!("vf 0 path {path}"))?;
    }
    for (n, frame) in frames.iter().enumerate() {
        let got = link.receive(DEADLINE)?;
        ensure(
            got.is_some_and(|got| got.bytes() == frame),
            format_args!("frame {n} of 40 was lost, doubled or overtaken"),
        )?;
    }
    link.sent()?;
    Ok(Seen::Conforms)
}

fn waits_in_order(bench: &Bench) -> Result<Seen, Failure> {
    for path in ["mediated", "direct"] {
        for vf in 0..2 {
            bench.administer(&format!("vf {vf} path {path}"))?;
        }
        let receiver = NetConfig {
            queue_size: 4,
            ..NetConfig::default()
        };
        let mut link = bench.link_of(&NetConfig::default(), &receiver)?;
        let (mut sent, mut next) = (Vec::new(), 0);
        for turn in 0..200 {
            for _ in 0..4 {
                let frame = link.frame(200);
                link.send(&frame)?;
                sent.push(frame);
            }
            let wait = match turn {
                199 => QUIET,
                _ => Duration::ZERO,
            };
            // Now one of what has come, now three.
            for _ in 0..if turn == 199 {
                usize::MAX
            } else {
                1 + turn % 2 * 2
            } {
                let Some(got) = link.receive(wait)? else {
                    break;
                };
                let later = sent.iter().skip(next);
                let at = later.clone().position(|frame| frame == got.bytes());
                let at = at.ok_or_else(|| {
                    Failure::Wrong(format!("a frame was overtaken or doubled on path {path}"))
                })?;
                next += at + 1;
            }
        }
        ensure(
            next > 100,
            format_args!("only {next} frames on path {path}"),
        )?;
    }
    Ok(Seen::Conforms)
}
