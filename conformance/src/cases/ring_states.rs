//! The states of a ring: what starts, stops, enables and disables it, and in which orders (vhost-user "Ring states"). Where a ring goes on
//! that others have used is in `places`, what is said of one once more in `set_up_again`.

use std::time::Duration;

use crate::bench::{Bench, DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::clauses::{enabled, started_as_they_are, stopped};
use crate::cases::protocol::F30;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, NetDevice, NetHeader, Notify, feature};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "proto/vring-enable-before-features",
        level: Level::Hard,
        needs: &[F30],
        source: "VU SET_VRING_ENABLE; the order of QEMU's netdev",
        sent: "SET_VRING_ENABLE before SET_FEATURES, as QEMU sends it; then the rest of a set-up.",
        expected: "Contained, and best of all a frame passes. The document has the request sent only with bit 30 negotiated, so no text binds the back end here.",
        run: |bench| {
            let config = NetConfig::default();
            let (mut front, mut net) = bench.negotiated(&config)?;
            let mut set_up = || {
                for index in 0..net.rings() {
                    front.set_vring_enable(index, true)?;
                }
                front.set_features(net.features())?;
                front.set_memory(net.memory().regions())?;
                for index in 0..net.rings() {
                    net.place_ring(&mut front, index)?;
                    net.start_ring(&mut front, index)?;
                }
                Ok(())
            };
            let answer = set_up();
            if answer.is_err() {
                drop(front);
                return bench.contained(answer);
            }
            net.adopt(front);
            match traffic(bench, net) {
                Ok(seen) => Ok(seen),
                Err(_) => bench.contained(answer),
            }
        },
    },
    Case {
        id: "proto/order-kick-last",
        level: Level::Must,
        needs: &[],
        source: "VU Ring states; the order of cloud-hypervisor",
        sent: "A set-up in cloud-hypervisor's order: rings placed and enabled first, kicks last.",
        expected: "A frame passes: the document ties ENABLE and KICK to no order.",
        run: |bench| {
            let (mut front, mut net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
            }
            if net.has(feature::PROTOCOL_FEATURES) {
                for index in 0..net.rings() {
                    front.set_vring_enable(index, true)?;
                }
            }
            for index in 0..net.rings() {
                net.start_ring(&mut front, index)?;
            }
            net.adopt(front);
            traffic(bench, net)
        },
    },
    Case {
        id: "proto/not-before-set-kick",
        level: Level::Must,
        needs: &[F30],
        source: "VU Ring states",
        sent: "Rings placed and enabled, with a frame in the send ring, and no SET_VRING_KICK.",
        expected: "Nothing is processed: the rings are stopped. Once they are kicked a frame passes.",
        run: |bench| started_by(bench, false),
    },
    Case {
        id: "proto/start-on-kick",
        level: Level::Must,
        needs: &[F30],
        source: "VU Ring states",
        sent: "A whole set-up with a frame in the send ring, and a kick eventfd that nobody has signalled.",
        expected: "Nothing is processed before the kick: a ring starts when its kick's descriptor becomes readable, and a stopped ring must not be processed at all.",
        run: |bench| started_by(bench, true),
    },
    Case {
        id: "proto/kick-before-enable",
        level: Level::Must,
        needs: &[F30],
        source: "VU Ring states; rust-vmm/vhost #247",
        sent: "Rings placed and kicked, enabled only later.",
        expected: "A frame passes afterwards: rings may be enabled at any time.",
        run: |bench| {
            let mut net = kicked(bench, None)?;
            enabled(&mut net)?;
            traffic(bench, net)
        },
    },
    Case {
        id: "proto/kick-before-enable-kept",
        level: Level::Must,
        needs: &[F30, Need::Peer],
        source: "VU Ring states; rust-vmm/vhost #247",
        sent: "Rings placed and kicked, with buffers in the receive ring and a frame in the send ring, enabled only later and kicked no more; and a frame to that receive ring.",
        expected: "That arrives, and the other one is given back, forwarded or discarded: a ring has started with its kick, and must be processed, disabled or not.",
        run: |bench| {
            // It lies there before the kick: what is put behind a kick that has been taken may need another one.
            let mut net = kicked(bench, Some(&[0xff; 64]))?;
            // Whoever has slept through it is not woken by another one.
            for ring in [net.rx_ring(0).kick.take(), net.tx_ring(0).kick.take()] {
                ensure(ring.is_some(), "a ring of our own has no kick")?;
            }
            enabled(&mut net)?;
            let mut link = bench.link_from(net, &NetConfig::default())?;
            let frame = to_sender(&mut link, 200)?;
            let came = link.returned(DEADLINE, |came| came == frame)?;
            ensure(came, "a frame to the port did not arrive")?;
            link.sent()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/enable-without-f30",
        level: Level::Must,
        needs: &[],
        source: "VU Ring states",
        sent: "SET_FEATURES without VHOST_USER_F_PROTOCOL_FEATURES, and no SET_VRING_ENABLE.",
        expected: "A frame passes: rings start out enabled then.",
        run: |bench| {
            let mut link = bench.link(&crate::bench::without(feature::PROTOCOL_FEATURES))?;
            let frame = link.frame(200);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/enable-without-mq",
        level: Level::Text,
        needs: &[F30],
        source: "VU SET_VRING_ENABLE; rust-vmm/vhost #34",
        sent: "One pair of rings, set up and enabled without MQ among the features of either kind.",
        expected: "Ring 1 is enabled as ring 0 is, and a frame passes.",
        run: |bench| {
            // Two rings are no multiqueue: the second is enabled like the first.
            let config = crate::bench::without(feature::MQ);
            let mut link = bench.link(&NetConfig {
                protocol_features: config.protocol_features & !protocol::MQ,
                ..config
            })?;
            let frame = link.frame(200);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/set-features-keeps-rings",
        level: Level::Text,
        needs: &[F30],
        source: "VU Ring states; rust-vmm/vhost #210",
        sent: "SET_FEATURES once more, the same, on rings that run.",
        expected: "A frame passes: with bit 30 it enables and disables nothing.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let features = link.tx.features();
            if let Some(front) = link.tx.frontend() {
                front.set_features(features)?;
            }
            let frame = link.frame(200);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/enabled-outlives-stop",
        level: Level::Should,
        needs: &[F30, Need::Delivery],
        source: "VU Ring states",
        sent: "GET_VRING_BASE for the rings of a port, which are placed and started again without SET_VRING_ENABLE; and frames from it and to it.",
        expected: "They pass: nothing but SET_VRING_ENABLE disables a ring, and whether a stopped ring is enabled should still be tracked.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..2 {
                let frame = link.frame(300);
                link.pass(&frame)?;
                let front = stopped(&mut link)?;
                started_as_they_are(&mut link.tx, front)?;
                bench.settle();
                let frame = link.frame(400);
                link.pass(&frame)?;
                if link.rx.is_some() {
                    let frame = to_sender(&mut link, 400)?;
                    let came = link.returned(DEADLINE, |came| came == frame)?;
                    ensure(came, "a frame to the port did not arrive")?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/vring-base-roundtrip",
        level: Level::Text,
        needs: &[],
        source: "VU GET_VRING_BASE; rust-vmm/vhost #161",
        sent: "SET_VRING_BASE 0xfff0, 40 frames, GET_VRING_BASE.",
        expected: "0x0018: the index counted on, 16 bits of it and nothing above.",
        run: |bench| {
            let config = NetConfig {
                base: 0xfff0,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            for _ in 0..40 {
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            let bases = link.tx.stop()?;
            ensure(
                bases[1] == u32::from(0xfff0u16.wrapping_add(40)),
                format_args!("base {:#x} after 40 frames from 0xfff0 on", bases[1]),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/base-of-receive-ring",
        level: Level::Text,
        needs: &[Need::Delivery],
        source: "VU GET_VRING_BASE",
        sent: "40 frames to a receive ring that begins at 0xfff0 and is full of buffers, and GET_VRING_BASE for it.",
        expected: "The used index, 0x0018: buffers that were not used are still to be processed, whether the back end has looked at them or not.",
        run: |bench| {
            let config = NetConfig {
                base: 0xfff0,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            for _ in 0..40 {
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            let receiver = link.receiver();
            let base = match receiver.frontend() {
                Some(front) => front.get_vring_base(0)?,
                None => 0,
            };
            // Others may have sent something as well.
            let used = receiver.rx_ring(0).queue.given_back();
            ensure(
                base == u32::from(used),
                format_args!("base {base:#x}, and the used index is {used:#x}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/base-of-every-ring",
        level: Level::Text,
        needs: &[Need::Feature(feature::MQ, "MQ"), Need::Pairs(2), Need::Peer],
        source: "VU GET_VRING_BASE",
        sent: "3 frames in the send ring of the first pair and 5 in that of the second, and GET_VRING_BASE for each ring of sender and receiver.",
        expected: "3 and 5 of the sender's, and of the receiver's the used index: as many as came in each, whoever sent them.",
        run: |bench| {
            let mut link = bench.link(&NetConfig {
                queue_pairs: 2,
                ..NetConfig::default()
            })?;
            for n in 0..8 {
                let frame = link.frame_of_flow(n);
                let pair = usize::from(n >= 3);
                link.tx.send(pair, &Default::default(), &frame)?;
                link.tx.kick();
                link.arrives_on(&frame, 2)?;
            }
            let sent = link.tx.stop()?;
            let receiver = link.receiver();
            let got = receiver.stop()?;
            // Others may have sent something as well.
            let used = [0, 1].map(|pair| u32::from(receiver.rx_ring(pair).queue.given_back()));
            ensure(
                [sent[1], sent[3]] == [3, 5] && [got[0], got[2]] == used,
                format_args!(
                    "{sent:?} of the sender's rings and {got:?} of the receiver's, whose used indices are {used:?}"
                ),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/base-stops-ring",
        level: Level::Must,
        needs: &[],
        source: "VU Ring states; VU GET_VRING_BASE",
        sent: "GET_VRING_BASE for both rings, then a frame in the send ring, kicked, and one to the receive ring.",
        expected: "Neither ring is touched any more: a stopped ring must not be processed at all.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            if let Some(front) = link.tx.frontend() {
                front.get_vring_base(1)?;
                front.get_vring_base(0)?;
            }
            let before = given_back(&mut link.tx);
            let frame = link.frame(100);
            link.send(&frame)?;
            // A broadcast of the peer's is for the stopped ring, too.
            if let Some(peer) = &mut link.rx {
                peer.send(0, &Default::default(), &[0xff; 60])?;
                peer.kick();
            }
            bench.settle();
            std::thread::sleep(QUIET);
            let after = given_back(&mut link.tx);
            ensure(
                before == after,
                format_args!("used indices of the stopped rings went from {before:?} to {after:?}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/unkicked-is-kept",
        level: Level::Text,
        needs: &[F30, Need::Delivery],
        source: "VU Ring states",
        sent: "A session whose rings have stopped, a frame that is put into the send ring and not kicked for, SET_VRING_KICK while the ring is disabled, 300 ms, SET_VRING_ENABLE, and a kick.",
        expected: "The frame arrives: a ring starts when it is kicked, and what is in one that has not started is not discarded.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..2 {
                let frame = link.frame(300);
                link.pass(&frame)?;
                let mut front = stopped(&mut link)?;
                let rings = link.tx.rings();
                for index in 0..rings {
                    front.set_vring_enable(index, false)?;
                }
                let frame = link.frame(400);
                link.tx.send(0, &NetHeader::default(), &frame)?;
                let ring = link.tx.tx_ring(0);
                ring.queue.publish();
                if let Some(kick) = &ring.kick {
                    kick.drain();
                }
                for index in 0..rings {
                    link.tx.place_ring(&mut front, index)?;
                    link.tx.hand_ring(&mut front, index)?;
                }
                std::thread::sleep(Duration::from_millis(300));
                for index in 0..rings {
                    front.set_vring_enable(index, true)?;
                }
                link.tx.adopt(front);
                bench.settle();
                if let Some(kick) = &link.tx.tx_ring(0).kick {
                    kick.signal();
                }
                link.sent()?;
                link.expect(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/polled-rings",
        level: Level::Should,
        needs: &[],
        source: "VU SET_VRING_KICK (invalid FD flag)",
        sent: "A set-up whose SET_VRING_KICK has bit 8 set and no descriptor, and frames that nobody kicks for; GET_VRING_BASE of the receive ring, and more frames.",
        expected: "They pass: a back end should poll then instead of waiting for the kick.",
        run: |bench| {
            let polled = NetConfig {
                notify: Notify::Polled,
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&polled, &NetConfig::default())?;
            for stop in [false, true] {
                if let Some(front) = link.tx.frontend().filter(|_| stop) {
                    front.get_vring_base(0)?;
                }
                for len in [60, 500, 1514] {
                    // Whoever sleeps is asleep by now.
                    std::thread::sleep(QUIET);
                    let frame = link.frame(len);
                    link.pass(&frame)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
];

/// What stands still for the first pair's rings as long as neither is touched.
pub(super) fn given_back(net: &mut NetDevice) -> (u16, u16) {
    let tx = net.tx_ring(0).queue.given_back();
    (tx, net.rx_ring(0).queue.given_back())
}

/// Publishes a frame on rings that are enabled and addressed, without (or with) a descriptor to
/// kick on, and checks that nothing happens before the kick.
fn started_by(bench: &Bench, with_fd: bool) -> Result<Seen, Failure> {
    let (mut front, mut net) = bench.negotiated(&NetConfig::default())?;
    front.set_features(net.features())?;
    front.set_memory(net.memory().regions())?;
    net.send(0, &Default::default(), &[0xff; 64])?;
    net.kick();
    if let Some(kick) = &net.tx_ring(0).kick {
        kick.drain();
    }
    for index in 0..net.rings() {
        net.place_ring(&mut front, index)?;
        if with_fd {
            net.hand_ring(&mut front, index)?;
        }
        front.set_vring_enable(index, true)?;
    }
    // A data path that learns of rings late is given its time.
    bench.settle();
    std::thread::sleep(QUIET);
    let used = net.tx_ring(0).queue.given_back();
    ensure(used == 0, "a ring ran before it was started")?;
    if !with_fd {
        for index in 0..net.rings() {
            net.start_ring(&mut front, index)?;
        }
    }
    net.adopt(front);
    traffic(bench, net)
}

/// A device all rings of which have been placed and kicked, and none enabled; for long enough to have been looked at. The frame, if there
/// is one, is in its send ring by then.
fn kicked(bench: &Bench, frame: Option<&[u8]>) -> Result<NetDevice, Failure> {
    let (mut front, mut net) = bench.negotiated(&NetConfig::default())?;
    if let Some(frame) = frame {
        net.send(0, &NetHeader::default(), frame)?;
        net.tx_ring(0).queue.publish();
    }
    front.set_features(net.features())?;
    front.set_memory(net.memory().regions())?;
    started_as_they_are(&mut net, front)?;
    bench.settle();
    std::thread::sleep(QUIET);
    Ok(net)
}

/// Has the receiver send a frame to the sender: the frame.
pub(super) fn to_sender(link: &mut Link, len: usize) -> Result<Vec<u8>, Failure> {
    let frame = link.frame(len);
    frame_to_sender(link, frame)
}

/// The same of a frame that was made.
pub(super) fn frame_to_sender(link: &mut Link, mut frame: Vec<u8>) -> Result<Vec<u8>, Failure> {
    frame[..6].copy_from_slice(&link.src);
    frame[6..12].copy_from_slice(&link.dst);
    if let Some(peer) = &mut link.rx {
        peer.send(0, &NetHeader::default(), &frame)?;
        peer.kick();
    }
    Ok(frame)
}

/// Whether a device that was set up by hand passes a frame.
fn traffic(bench: &Bench, net: NetDevice) -> Result<Seen, Failure> {
    let mut link = bench.link_from(net, &NetConfig::default())?;
    let frame = link.frame(200);
    link.pass(&frame)?;
    Ok(Seen::Conforms)
}
