//! Messages: headers, replies, order, refusals.

use std::time::Duration;

use crate::bench::{Bench, QUIET, without_ack};
use crate::case::{Case, Level, Need};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::message::{
    self, FLAG_NEED_REPLY, FLAG_REPLY, FLAG_VERSION, Header, protocol, request,
};
use vf_guest::net::{ConfigSpace, NetConfig, feature};

const F30: Need = Need::Feature(feature::PROTOCOL_FEATURES, "protocol features");
const ACK: Need = Need::Protocol(protocol::REPLY_ACK, "REPLY_ACK");

pub(super) const CASES: &[Case] = &[
    Case {
        id: "proto/get-features-idempotent",
        level: Level::Must,
        needs: &[],
        source: "VU GET_FEATURES",
        run: |bench| {
            let mut front = bench.connect()?;
            let first = front.get_features()?;
            ensure(front.get_features()? == first, "two answers differ")?;
            ensure(
                first & feature::PROTOCOL_FEATURES != 0,
                "bit 30 is not offered",
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/version-1-offered",
        level: Level::Must,
        needs: &[],
        source: "V 6.2 Reserved Feature Bits",
        run: |bench| {
            ensure(
                bench.features() & feature::VERSION_1 != 0,
                "VERSION_1 is not offered",
            )?;
            ensure(bench.features() & feature::SR_IOV == 0, "SR_IOV is offered")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/feature-deps",
        level: Level::Must,
        needs: &[],
        source: "V 2.2.2, 5.1.3.1 Feature bit requirements",
        run: |bench| {
            // Each bit, and the bits of which it needs one.
            let table: &[(u32, &[u32])] = &[
                (7, &[1]),
                (8, &[1]),
                (9, &[7, 8]),
                (10, &[1]),
                (11, &[0]),
                (12, &[0]),
                (13, &[11, 12]),
                (14, &[0]),
                (18, &[17]),
                (19, &[17]),
                (21, &[17]),
                (23, &[17]),
            ];
            let has = |bit: &u32| bench.features() >> bit & 1 == 1;
            for (bit, needs) in table {
                ensure(
                    !has(bit) || needs.iter().any(has),
                    format_args!("feature {bit} is offered without any of {needs:?}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/unoffered-bit-refused",
        level: Level::Must,
        needs: &[F30, ACK],
        source: "V 2.2.2 Feature Bits",
        run: |bench| {
            let (mut front, _) = bench.negotiated(&NetConfig::default())?;
            let stranger = 1 << (!bench.features()).ilog2();
            let answer = front.set_features(bench.features() | stranger);
            ensure(answer.is_err(), "an unoffered feature was accepted")?;
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "proto/protocol-features-before-set",
        level: Level::Must,
        needs: &[F30],
        source: "VU GET_PROTOCOL_FEATURES",
        run: |bench| {
            let mut front = bench.connect()?;
            let offered = front.get_protocol_features()?;
            front.set_protocol_features(offered & protocol::REPLY_ACK)?;
            // QEMU repeats the exchange for every queue pair.
            ensure(
                front.get_protocol_features()? == offered,
                "two answers differ",
            )?;
            front.set_protocol_features(offered & protocol::REPLY_ACK)?;
            front.get_features()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/queue-num",
        level: Level::Should,
        needs: &[F30, Need::Protocol(protocol::MQ, "MQ")],
        source: "VU Multiple queue support",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(bench.protocol_features() & protocol::MQ)?;
            let queues = front.get_queue_num()?;
            ensure(
                (1..=0x8000).contains(&queues),
                format_args!("{queues} queues"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/reply-ack-all",
        level: Level::Must,
        needs: &[F30, ACK],
        source: "VU REPLY_ACK",
        run: |bench| {
            // Every request of a set-up waits for its acknowledgement; then none may be left over.
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            silent(link.tx.frontend())?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/reply-ack-own-reply",
        level: Level::Must,
        needs: &[F30, ACK],
        source: "VU REPLY_ACK",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::REPLY_ACK)?;
            front.send(request::GET_FEATURES, FLAG_NEED_REPLY, &[], &[])?;
            front.await_reply(request::GET_FEATURES)?;
            silent(Some(&mut front))?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/reply-ack-not-negotiated",
        level: Level::Must,
        needs: &[F30],
        source: "VU REPLY_ACK",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(0)?;
            front.send(request::SET_OWNER, FLAG_NEED_REPLY, &[], &[])?;
            silent(Some(&mut front))?;
            front.get_features()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/no-ack-session",
        level: Level::Must,
        needs: &[],
        source: "VU Communication",
        run: |bench| {
            let mut link = bench.link(&without_ack())?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            silent(link.tx.frontend())?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/version-wrong",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        run: |bench| header(bench, request::GET_FEATURES, 0x2),
    },
    Case {
        id: "proto/reply-bit-set",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        run: |bench| header(bench, request::GET_FEATURES, FLAG_VERSION | FLAG_REPLY),
    },
    Case {
        id: "proto/reserved-flags",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        run: |bench| header(bench, request::GET_FEATURES, FLAG_VERSION | 0xffff_fff0),
    },
    Case {
        id: "proto/unknown-request",
        level: Level::Hard,
        needs: &[],
        source: "VU Communication",
        run: |bench| {
            let mut last = Seen::Tolerated;
            for id in [0, 99, 0xffff_ffff] {
                last = header(bench, id, FLAG_VERSION)?;
            }
            Ok(last)
        },
    },
    Case {
        id: "proto/short-payload",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        run: |bench| payload(bench, request::SET_VRING_NUM, &[0; 7]),
    },
    Case {
        id: "proto/long-payload",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        run: |bench| payload(bench, request::SET_VRING_NUM, &[0; 4096]),
    },
    Case {
        id: "proto/payload-4g",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        run: |bench| {
            let mut front = bench.connect()?;
            let head = Header {
                request: request::SET_OWNER,
                flags: FLAG_VERSION,
                size: u32::MAX,
            };
            front.send_raw(&head.encode(), &[])?;
            // It may wait for the rest for ever, as long as nobody else has to.
            let answer = match front.readable(QUIET)? {
                true => front.receive().map(drop),
                false => Ok(()),
            };
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "proto/split-header",
        level: Level::Must,
        needs: &[],
        source: "VU Communication (stream semantics)",
        run: |bench| {
            let mut front = bench.connect()?;
            let head = Header {
                request: request::GET_FEATURES,
                flags: FLAG_VERSION,
                size: 0,
            };
            for byte in head.encode() {
                front.send_raw(&[byte], &[])?;
                std::thread::sleep(Duration::from_millis(1));
            }
            let reply = front.await_reply(request::GET_FEATURES)?;
            let expected = bench.features().to_le_bytes();
            ensure(
                reply.payload == expected,
                "another answer than to a whole header",
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/vring-enable-before-features",
        level: Level::Must,
        needs: &[F30],
        source: "VU SET_VRING_ENABLE; the order of QEMU's netdev",
        run: |bench| {
            let config = NetConfig::default();
            let (mut front, mut net) = bench.negotiated(&config)?;
            for index in 0..net.rings() {
                front.set_vring_enable(index, true)?;
            }
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
                net.start_ring(&mut front, index)?;
            }
            net.adopt(front);
            traffic(bench, net)
        },
    },
    Case {
        id: "proto/order-kick-last",
        level: Level::Must,
        needs: &[],
        source: "VU Ring states; the order of cloud-hypervisor",
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
        run: |bench| started_by(bench, false),
    },
    Case {
        id: "proto/start-on-kick",
        level: Level::Should,
        needs: &[F30],
        source: "VU Ring states; a back end that polls cannot tell",
        run: |bench| started_by(bench, true),
    },
    Case {
        id: "proto/kick-before-enable",
        level: Level::Must,
        needs: &[F30],
        source: "VU Ring states; rust-vmm/vhost #247",
        run: |bench| {
            let (mut front, mut net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            for index in 0..net.rings() {
                net.place_ring(&mut front, index)?;
                net.start_ring(&mut front, index)?;
            }
            net.adopt(front);
            std::thread::sleep(QUIET);
            let rings = net.rings();
            if let Some(front) = net.frontend() {
                for index in 0..rings {
                    front.set_vring_enable(index, true)?;
                }
            }
            traffic(bench, net)
        },
    },
    Case {
        id: "proto/enable-without-f30",
        level: Level::Must,
        needs: &[],
        source: "VU Ring states",
        run: |bench| {
            let mut link = bench.link(&crate::bench::without(feature::PROTOCOL_FEATURES))?;
            let frame = link.frame(200);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/set-features-keeps-rings",
        level: Level::Must,
        needs: &[F30],
        source: "VU Ring states; rust-vmm/vhost #210",
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
        id: "proto/vring-base-roundtrip",
        level: Level::Must,
        needs: &[],
        source: "VU GET_VRING_BASE; rust-vmm/vhost #161",
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
        id: "proto/vring-index-high-bits",
        level: Level::Hard,
        needs: &[F30, ACK],
        source: "VU Vring state description; CVE-2020-10723",
        run: |bench| {
            let mut last = Seen::Tolerated;
            for index in [256, 65536, u32::MAX] {
                let (mut front, _) = bench.negotiated(&NetConfig::default())?;
                let answer = front.set_vring_num(index, 256);
                ensure(answer.is_err(), format_args!("ring {index} was accepted"))?;
                drop(front);
                last = bench.contained(answer)?;
            }
            Ok(last)
        },
    },
    Case {
        id: "proto/vring-num-not-pow2",
        level: Level::Hard,
        needs: &[F30, ACK],
        source: "V 2.7; VU SET_VRING_NUM",
        run: |bench| {
            let mut last = Seen::Tolerated;
            for size in [0, 3, 65536, u32::MAX] {
                let (mut front, _) = bench.negotiated(&NetConfig::default())?;
                let answer = front.set_vring_num(0, size);
                ensure(
                    answer.is_err(),
                    format_args!("ring size {size} was accepted"),
                )?;
                drop(front);
                last = bench.contained(answer)?;
            }
            Ok(last)
        },
    },
    Case {
        id: "proto/kick-fd-missing",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_KICK; CVE-2019-14818",
        run: |bench| {
            let (mut front, _) = bench.negotiated(&NetConfig::default())?;
            let answer = front.set(request::SET_VRING_KICK, &0u64.to_le_bytes(), &[]);
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "proto/config-size-match",
        level: Level::Must,
        needs: &[F30, Need::Protocol(protocol::CONFIG, "CONFIG")],
        source: "VU GET_CONFIG",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::CONFIG)?;
            for len in [1, 6, ConfigSpace::LEN as u32] {
                let got = front.get_config(0, len)?.len();
                ensure(
                    got == len as usize,
                    format_args!("{got} bytes of configuration for {len}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/config-out-of-range",
        level: Level::Hard,
        needs: &[F30, Need::Protocol(protocol::CONFIG, "CONFIG")],
        source: "VU GET_CONFIG",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::CONFIG)?;
            front.send(
                request::GET_CONFIG,
                0,
                &message::config(u32::MAX - 3, 8),
                &[],
            )?;
            let answer = front.await_reply(request::GET_CONFIG);
            drop(front);
            bench.contained(answer)
        },
    },
];

/// Sends a bare header; the answer may be anything but a hang of everybody.
fn header(bench: &Bench, id: u32, flags: u32) -> Result<Seen, Failure> {
    let mut front = bench.connect()?;
    let head = Header {
        request: id,
        flags,
        size: 0,
    };
    front.send_raw(&head.encode(), &[])?;
    let answer = followed_up(&mut front);
    drop(front);
    bench.contained(answer)
}

/// Sends a request with a payload of the wrong size.
fn payload(bench: &Bench, id: u32, bytes: &[u8]) -> Result<Seen, Failure> {
    let (mut front, _) = bench.negotiated(&NetConfig::default())?;
    let answer = front.set(id, bytes, &[]);
    drop(front);
    bench.contained(answer)
}

/// Whether the session still answers a proper request after what was sent.
fn followed_up(front: &mut Frontend) -> Result<(), FrontendError> {
    if front.readable(QUIET)? {
        front.receive()?;
    }
    front.get_features().map(drop)
}

fn silent(front: Option<&mut Frontend>) -> Result<(), Failure> {
    match front {
        Some(front) => ensure(!front.readable(QUIET)?, "a message nobody asked for"),
        None => Ok(()),
    }
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
            net.start_ring(&mut front, index)?;
        }
        front.set_vring_enable(index, true)?;
    }
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

/// Whether a device that was set up by hand passes a frame.
fn traffic(bench: &Bench, net: vf_guest::net::NetDevice) -> Result<Seen, Failure> {
    let mut link = bench.link_from(net, &NetConfig::default())?;
    let frame = link.frame(200);
    link.pass(&frame)?;
    Ok(Seen::Conforms)
}
