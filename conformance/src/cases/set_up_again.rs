//! What a front end says of a ring once more, or not at all: the state in which a ring begins, and descriptors that take the place of
//! others (vhost-user "Ring states", SET_VRING_CALL). Nothing here is hostile: each is what a front end may send.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use vf_guest::driver::Format;
use vf_guest::eventfd::EventFd;
use vf_guest::message::{protocol, request};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, RxFrame, feature};

use crate::bench::{Bench, DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::clauses::{enabled, started, started_as_they_are, stopped};
use crate::cases::control::{
    ALL, CONFIG, GROUP, MQ, OTHER, RX, VLAN, address, gets, gets_tagged, told,
};
use crate::cases::protocol::F30;
use crate::cases::ring_states::{given_back, to_sender};
use crate::control::{coalesce, command, mac_table, obeyed, queue_pairs, vlan};
use crate::verdict::{Failure, Seen, ensure};

const CTRL: Need = Need::Control;
/// How long a call may take.
const CALLED: Duration = Duration::from_secs(2);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "proto/starts-disabled",
        level: Level::Text,
        needs: &[F30],
        source: "VU Ring states",
        sent: "A whole set-up but for SET_VRING_ENABLE, and a frame in each send ring; then SET_VRING_ENABLE 1, and others.",
        expected: "The first frames do not arrive, the others do: with bit 30 negotiated a ring starts out disabled, and what is sent on a disabled ring is discarded. The first pair may be enabled, as vhost-user-net \"has historically automatically enabled the first queue pair\".",
        run: |bench| {
            let (mut front, mut net) = bench.negotiated(&pairs(bench))?;
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            started_as_they_are(&mut net, front)?;
            let mut link = bench.link_from(net, &pairs(bench))?;
            disabled(bench, &mut link)
        },
    },
    Case {
        id: "proto/reset-disables",
        level: Level::Text,
        needs: &[
            F30,
            Need::Protocol(protocol::RESET_DEVICE, "RESET_DEVICE"),
            Need::Delivery,
        ],
        source: "VU RESET_DEVICE",
        sent: "RESET_DEVICE while rings run, the set-up again but for SET_VRING_ENABLE, and a frame in each send ring; then SET_VRING_ENABLE 1, and others.",
        expected: "The first frames do not arrive, the others do: all rings are disabled by the request. The first pair may be enabled again, as it may in the beginning.",
        run: |bench| {
            let mut config = pairs(bench);
            config.protocol_features ^= protocol::RESET_DEVICE | protocol::CONFIGURE_MEM_SLOTS;
            let mut link = bench.link_of(&config, &pairs(bench))?;
            let frame = link.frame(300);
            link.pass(&frame)?;
            let mut front = stopped(&mut link)?;
            front.set(request::RESET_DEVICE, &[], &[])?;
            front.set_features(link.tx.features())?;
            front.set_mem_table(link.tx.memory().regions())?;
            started_as_they_are(&mut link.tx, front)?;
            disabled(bench, &mut link)
        },
    },
    Case {
        id: "proto/renegotiate-other",
        level: Level::Should,
        needs: &[],
        source: "V 2.2.2 Feature Bits; VU REPLY_ACK",
        sent: "Rings that are stopped, SET_FEATURES with another set (without MRG_RXBUF, EVENT_IDX and IN_ORDER, then with all of them and RING_PACKED if it is offered), more memory and rings by that set, as when a guest starts again with another driver.",
        expected: "Accepted, and frames pass each time: the set that came last is in force.",
        run: |bench| {
            let few = feature::MRG_RXBUF | feature::EVENT_IDX | feature::IN_ORDER;
            let mut config = NetConfig::default();
            config.protocol_features &= !protocol::CONFIGURE_MEM_SLOTS;
            let mut link = bench.link_of(&config, &NetConfig::default())?;
            let all = config.features;
            for features in [all & !few, all | feature::RING_PACKED, all] {
                let frame = link.frame(300);
                link.pass(&frame)?;
                let mut front = stopped(&mut link)?;
                config.features = features;
                // Also at other addresses: whether memory takes the place of other memory at the same ones is another matter.
                config.lead += 1 << 20;
                let mut net = NetDevice::detached(bench.features(), &config)?;
                front.set_features(net.features())?;
                front.set_mem_table(net.memory().regions())?;
                started(&mut net, front)?;
                bench.settle();
                link.tx = net;
                for len in [60, 1514] {
                    let frame = link.frame(len);
                    link.pass(&frame)?;
                    if link.rx.is_some() {
                        let frame = to_sender(&mut link, len)?;
                        let came = link.returned(DEADLINE, |came| came == frame)?;
                        ensure(came, format_args!("{len} bytes to the port did not arrive"))?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/reset-forgets",
        level: Level::Must,
        needs: &[
            CTRL,
            RX,
            VLAN,
            MQ,
            CONFIG,
            Need::Peer,
            Need::Protocol(protocol::RESET_DEVICE, "RESET_DEVICE"),
            Need::Pairs(2),
        ],
        source: "VU RESET_DEVICE; V 2.4.1, 5.1.9.5.2.1, 5.1.9.5.3.1, 5.1.9.5.6",
        sent: "A MAC table, a VLAN, two pairs, another address and moderation of a ring by one driver, GET_VRING_BASE of all rings, RESET_DEVICE, and a set-up in the same session with rings that go on.",
        expected: "The driver receives on the first pair only and has no moderation: a reset MUST take those back. It has its first address, and should receive neither those addresses nor that VLAN.",
        run: |bench| forgets(bench, Reset::Device),
    },
    Case {
        id: "control/other-features-forget",
        level: Level::Must,
        needs: &[CTRL, RX, VLAN, MQ, CONFIG, Need::Peer, Need::Pairs(2)],
        source: "V 2.2 (features are negotiated anew only after a reset), 2.4.1, 5.1.9.5.2.1, 5.1.9.5.3.1, 5.1.9.5.6",
        sent: "The same without RESET_DEVICE, as most front ends do without it: GET_VRING_BASE of all rings, and SET_FEATURES with a set that has one feature less.",
        expected: "The same: no driver has other features than before unless it was reset.",
        run: |bench| forgets(bench, Reset::Features),
    },
    Case {
        id: "proto/reset-stops",
        level: Level::Text,
        needs: &[F30, Need::Protocol(protocol::RESET_DEVICE, "RESET_DEVICE")],
        source: "VU RESET_DEVICE",
        sent: "RESET_DEVICE while rings run, then a frame in the send ring, kicked, and a broadcast for the receive ring; the same after SET_FEATURES.",
        expected: "Neither ring is touched: all rings are disabled and all state is as in the beginning, so that they have to be set up again.",
        run: |bench| {
            let mut config = NetConfig::default();
            config.protocol_features |= protocol::RESET_DEVICE;
            let mut link = bench.link(&config)?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            let features = link.tx.features();
            let before = given_back(&mut link.tx);
            for request in [request::RESET_DEVICE, request::SET_FEATURES] {
                if let Some(front) = link.tx.frontend() {
                    match request {
                        request::RESET_DEVICE => front.set(request, &[], &[])?,
                        _ => front.set_features(features)?,
                    }
                }
                let frame = link.frame(100);
                link.tx.send(0, &NetHeader::default(), &frame)?;
                if let Some(peer) = &mut link.rx {
                    peer.send(0, &NetHeader::default(), &[0xff; 60])?;
                    peer.kick();
                }
                let ring = link.tx.tx_ring(0);
                ring.queue.publish();
                if let Some(kick) = &ring.kick {
                    kick.signal();
                }
                bench.settle();
                std::thread::sleep(QUIET);
                let after = given_back(&mut link.tx);
                ensure(
                    before == after,
                    format_args!("used indices of the rings went from {before:?} to {after:?}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/call-fd-replaced",
        level: Level::Text,
        needs: &[],
        source: "VU SET_VRING_CALL",
        sent: "A frame; then SET_VRING_CALL with another eventfd for the send ring, which wants to be called, and another frame.",
        expected: "The other eventfd is signalled: it has taken the place of the first, as whenever a guest is told of other interrupts.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            let call = EventFd::new()?;
            if let Some(front) = link.tx.frontend() {
                front.set_vring_call(1, Some(call.as_fd()))?;
            }
            bench.settle();
            std::thread::sleep(QUIET);
            // Some signal the moment that they have it.
            call.drain();
            link.tx.tx_ring(0).queue.arm(1);
            let frame = link.frame(100);
            link.pass(&frame)?;
            ensure(call.wait(CALLED)?, "the eventfd was not signalled")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/call-fd-taken-away",
        level: Level::Text,
        needs: &[],
        source: "VU SET_VRING_CALL",
        sent: "A frame; then SET_VRING_CALL without a descriptor for the send ring, which wants to be called, and another frame.",
        expected: "The frame passes, and the eventfd of before is not signalled any more: the driver polls now.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            if let Some(front) = link.tx.frontend() {
                front.set_vring_call(1, None)?;
            }
            bench.settle();
            std::thread::sleep(QUIET);
            let ring = link.tx.tx_ring(0);
            if let Some(call) = &ring.call {
                call.drain();
            }
            ring.queue.arm(1);
            let frame = link.frame(100);
            link.pass(&frame)?;
            let called = match &link.tx.tx_ring(0).call {
                Some(call) => call.wait(QUIET)?,
                None => false,
            };
            ensure(!called, "the eventfd of before was signalled")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/queue-num-covers-pairs",
        level: Level::Text,
        needs: &[
            F30,
            Need::Protocol(protocol::MQ, "MQ"),
            Need::Protocol(protocol::CONFIG, "CONFIG"),
            Need::Feature(feature::MQ, "MQ"),
        ],
        source: "VU Multiple queue support; V 5.1.4 max_virtqueue_pairs",
        sent: "GET_QUEUE_NUM, and GET_CONFIG for max_virtqueue_pairs.",
        expected: "At least as many queues as pairs: whoever takes the number for pairs, and whoever takes it for rings, can have all that the configuration says.",
        run: |bench| {
            let (mut front, _) = bench.negotiated(&NetConfig::default())?;
            let queues = front.get_queue_num()?;
            let pairs = front.get_config(8, 2)?;
            let pairs = pairs
                .first_chunk()
                .map_or(0, |bytes| u16::from_le_bytes(*bytes));
            ensure(
                queues >= u64::from(pairs),
                format_args!("{queues} queues for {pairs} pairs"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/packed-base-second-lap",
        level: Level::Text,
        needs: &[F30, Need::Format(Format::Packed), Need::Delivery],
        source: "VU Virtio vring state (packed virtqueues)",
        sent: "As many frames as a packed ring has descriptors, SET_VRING_ENABLE 0 and 1, and as many frames again; the same with GET_VRING_BASE and a new start.",
        expected: "They pass: index 0 with a wrap counter of 0 is where the second lap begins, not the first.",
        run: |bench| {
            const SIZE: u16 = 64;
            let config = NetConfig {
                queue_size: SIZE,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            for stops in [false, false, true, true, true] {
                for _ in 0..SIZE {
                    let frame = link.frame(100);
                    link.pass(&frame)?;
                }
                if stops {
                    let front = stopped(&mut link)?;
                    started(&mut link.tx, front)?;
                } else if let Some(front) = link.tx.frontend() {
                    front.set_vring_enable(1, false)?;
                    front.set_vring_enable(1, true)?;
                }
                bench.settle();
            }
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
];

/// Two pairs of rings where there are several.
fn pairs(bench: &Bench) -> NetConfig {
    let several = Need::Pairs(2).met(bench);
    NetConfig {
        queue_pairs: if several { 2 } else { 1 },
        ..NetConfig::default()
    }
}

/// Checks that the rings of a sender are disabled that are all there otherwise, and that they are served once they are enabled. The first
/// pair may be enabled.
fn disabled(bench: &Bench, link: &mut Link) -> Result<Seen, Failure> {
    let pairs = link.tx.queue_pairs();
    let mut seen = Seen::Conforms;
    bench.settle();
    for pair in 0..pairs {
        let frame = link.frame_of_flow(pair as u16);
        link.tx.send(pair, &NetHeader::default(), &frame)?;
        link.tx.kick();
        link.sees()?;
        if came(link, &frame, QUIET)? {
            ensure(
                pair == 0,
                format_args!("a frame of pair {pair} arrived before the pair was enabled"),
            )?;
            seen = Seen::Tolerated;
        }
    }
    enabled(&mut link.tx)?;
    bench.settle();
    for pair in 0..pairs {
        let frame = link.frame_of_flow(pair as u16);
        link.tx.send(pair, &NetHeader::default(), &frame)?;
        link.tx.kick();
        ensure(
            came(link, &frame, DEADLINE)?,
            format_args!("a frame of pair {pair} did not arrive after the pair was enabled"),
        )?;
    }
    Ok(seen)
}

/// Whether a frame comes within `wait`, in whichever of the receiver's pairs.
fn came(link: &mut Link, frame: &[u8], wait: Duration) -> Result<bool, Failure> {
    let mut got = RxFrame::default();
    let end = Instant::now() + wait;
    let receiver = link.receiver();
    loop {
        for pair in 0..receiver.queue_pairs() {
            while receiver.recv(pair, &mut got)? {
                receiver.kick();
                if got.bytes() == frame {
                    return Ok(true);
                }
            }
        }
        if Instant::now() > end {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// How a back end is told that a guest starts again.
#[derive(Clone, Copy, PartialEq)]
enum Reset {
    Device,
    Features,
}

/// A guest that starts again while its front end goes on.
fn forgets(bench: &Bench, reset: Reset) -> Result<Seen, Failure> {
    const PAIRS: usize = 2;
    let config = NetConfig::default();
    let mut protocol_features = config.protocol_features & !protocol::CONFIGURE_MEM_SLOTS;
    if reset == Reset::Device {
        protocol_features |= protocol::RESET_DEVICE;
    }
    let receiver = NetConfig {
        features: config.features | ALL,
        protocol_features,
        queue_pairs: PAIRS as u16,
        ..config.clone()
    };
    let mut link = bench.link_of(&config, &receiver)?;
    let device = link.receiver();
    obeyed(device, &mac_table(&[OTHER], &[GROUP]))?;
    obeyed(device, &vlan(true, 5))?;
    obeyed(device, &queue_pairs(PAIRS as u16))?;
    for dst in [OTHER, GROUP] {
        gets(&mut link, dst, true)?;
    }
    gets_tagged(&mut link, 5, true)?;

    let own = link.dst;
    let device = link.receiver();
    let moderates = device.has(feature::VQ_NOTF_COAL);
    if device.has(feature::CTRL_MAC_ADDR) {
        obeyed(device, &address(OTHER))?;
    }
    if moderates {
        obeyed(device, &coalesce(2, Some(0), 7, 80))?;
    }
    let gone = || Failure::Wrong("there is no session".into());
    let mut front = device.take_frontend().ok_or_else(gone)?;
    let rings: Vec<u32> = (0..device.rings())
        .chain([device.control_index()])
        .collect();
    for ring in &rings {
        front.get_vring_base(*ring)?;
    }
    match reset {
        Reset::Device => {
            front.set(request::RESET_DEVICE, &[], &[])?;
            front.set_features(device.features())?;
        }
        // The next driver completes checksums itself.
        Reset::Features => front.set_features(device.features() & !feature::GUEST_CSUM)?,
    }
    front.set_mem_table(device.memory().regions())?;
    for ring in &rings {
        device.place_ring(&mut front, *ring)?;
        device.start_ring(&mut front, *ring)?;
    }
    for ring in &rings {
        front.set_vring_enable(*ring, true)?;
    }
    device.adopt(front);
    bench.settle();

    if moderates {
        let (_, held) = command(link.receiver(), &[6, 3, 0, 0, 0, 0], 8)?;
        ensure(
            held == [0; 8],
            format_args!("VQ_GET said {held:?} after a reset"),
        )?;
    }
    for flow in 0..32 {
        let frame = link.frame_of_flow(flow);
        link.send(&frame)?;
        let pair = link.arrives_on(&frame, PAIRS)?;
        ensure(
            pair == 0,
            "a frame came in a pair that the driver has not chosen",
        )?;
    }
    // No clause on addresses says it: all state is as in the beginning.
    told(link.receiver(), own).map_err(|failure| failure.at(Level::Text))?;
    // Like Linux it begins with its tables. What is in none should be dropped.
    obeyed(link.receiver(), &mac_table(&[], &[]))?;
    let mut keeps_out = || {
        for dst in [OTHER, GROUP] {
            gets(&mut link, dst, false)?;
        }
        gets_tagged(&mut link, 5, false)
    };
    keeps_out().map_err(|failure: Failure| failure.at(Level::Should))?;
    Ok(Seen::Conforms)
}
