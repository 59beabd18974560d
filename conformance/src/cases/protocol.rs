//! Messages: headers, replies, order, refusals. The states of rings are in `ring_states`, sessions that go on in odd ways in `session`.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::bench::{Bench, QUIET, without_ack};
use crate::case::{Case, Level, Need};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::memory::GuestMemory;
use vf_guest::message::{
    self, FLAG_NEED_REPLY, FLAG_REPLY, FLAG_VERSION, Header, protocol, request,
};
use vf_guest::net::{ConfigSpace, NetConfig, feature};

pub(super) const F30: Need = Need::Feature(feature::PROTOCOL_FEATURES, "protocol features");
const ACK: Need = Need::Protocol(protocol::REPLY_ACK, "REPLY_ACK");

pub(super) const CASES: &[Case] = &[
    Case {
        id: "proto/get-features-idempotent",
        level: Level::Text,
        needs: &[],
        source: "VU GET_FEATURES",
        sent: "GET_FEATURES, twice.",
        expected: "The same answer both times.",
        run: |bench| {
            let mut front = bench.connect()?;
            let first = front.get_features()?;
            ensure(front.get_features()? == first, "two answers differ")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/version-1-offered",
        level: Level::Must,
        needs: &[],
        source: "V 6.2 Reserved Feature Bits",
        sent: "GET_FEATURES.",
        expected: "VIRTIO_F_VERSION_1 (bit 32) is offered: a device MUST. VIRTIO_F_SR_IOV (bit 37) is not: it is a PCI function's.",
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
        sent: "GET_FEATURES.",
        expected: "No segmentation or checksum feature is offered without the one that it requires, such as HOST_TSO4 without CSUM. Features of the control queue are not looked at: the front end offers them.",
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
                (54, &[1]),
                (55, &[1]),
                (56, &[0]),
                (61, &[11, 12]),
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
        level: Level::Hard,
        needs: &[F30, ACK],
        source: "V 2.2.2 Feature Bits",
        sent: "SET_FEATURES with all that is offered and one bit that is not.",
        expected: "The back end lives. A driver must not do this and no text says what a back end does then; refusing shows the front end its mistake.",
        run: |bench| {
            let (mut front, _) = bench.negotiated(&NetConfig::default())?;
            let stranger = 1 << (!bench.features()).ilog2();
            let answer = front.set_features(bench.features() | stranger);
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "proto/protocol-features-before-set",
        level: Level::Must,
        needs: &[F30],
        source: "VU GET_PROTOCOL_FEATURES",
        sent: "GET_PROTOCOL_FEATURES and SET_PROTOCOL_FEATURES, twice, before any SET_FEATURES.",
        expected: "Both are answered as ever: the document allows them from the moment that bit 30 is offered, and QEMU repeats them for each queue pair.",
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
        level: Level::Text,
        needs: &[F30, Need::Protocol(protocol::MQ, "MQ")],
        source: "VU Multiple queue support",
        sent: "GET_QUEUE_NUM.",
        expected: "As many queues as there can be: 1 to 0x8000.",
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
        sent: "A whole set-up in which each request has need_reply.",
        expected: "Exactly one acknowledgement for each, with 0, and none left over; a frame passes.",
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
        level: Level::Text,
        needs: &[F30, ACK],
        source: "VU REPLY_ACK",
        sent: "GET_FEATURES with need_reply, with REPLY_ACK negotiated.",
        expected: "One reply, the request's own, and no acknowledgement beside it.",
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
        id: "proto/reply-ack-unasked",
        level: Level::Text,
        needs: &[F30, ACK],
        source: "VU REPLY_ACK",
        sent: "SET_OWNER without need_reply, with REPLY_ACK negotiated.",
        expected: "No acknowledgement: the front end says which requests are to have one.",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::REPLY_ACK)?;
            front.send(request::SET_OWNER, 0, &[], &[])?;
            silent(Some(&mut front))?;
            front.get_features()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/unknown-not-done",
        level: Level::Text,
        needs: &[F30, ACK],
        source: "VU REPLY_ACK",
        sent: "Request 999, which there is not, with need_reply.",
        expected: "Anything but an acknowledgement with 0, which says that it was carried out.",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::REPLY_ACK)?;
            front.send(999, FLAG_NEED_REPLY, &[], &[])?;
            let answer = match front.readable(QUIET)? {
                true => front.await_ack(999),
                false => return Ok(Seen::Tolerated),
            };
            match answer {
                Ok(()) => Err(Failure::Wrong("it was acknowledged as done".into())),
                Err(FrontendError::Nack { .. }) => Ok(Seen::Refused),
                Err(FrontendError::Closed) => Ok(Seen::Closed),
                Err(other) => Err(other.into()),
            }
        },
    },
    Case {
        id: "proto/reply-ack-not-negotiated",
        level: Level::Hard,
        needs: &[F30],
        source: "VU REPLY_ACK",
        sent: "SET_OWNER with need_reply, without REPLY_ACK.",
        expected: "The back end lives. What it makes of the flag is not said in any text: some answer, some do not.",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(0)?;
            front.send(request::SET_OWNER, FLAG_NEED_REPLY, &[], &[])?;
            let answer = followed_up(&mut front);
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "proto/no-ack-session",
        level: Level::Text,
        needs: &[],
        source: "VU Communication",
        sent: "A whole set-up without REPLY_ACK.",
        expected: "A frame passes, and the back end says nothing that it was not asked.",
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
        sent: "GET_FEATURES with version 2 in its flags.",
        expected: "Contained: an error, a closed connection, or an answer.",
        run: |bench| header(bench, request::GET_FEATURES, 0x2),
    },
    Case {
        id: "proto/reply-bit-set",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        sent: "GET_FEATURES with the reply flag, which only a back end sets.",
        expected: "Contained.",
        run: |bench| header(bench, request::GET_FEATURES, FLAG_VERSION | FLAG_REPLY),
    },
    Case {
        id: "proto/reserved-flags",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        sent: "GET_FEATURES with every reserved flag set.",
        expected: "Contained.",
        run: |bench| header(bench, request::GET_FEATURES, FLAG_VERSION | 0xffff_fff0),
    },
    Case {
        id: "proto/unknown-request",
        level: Level::Hard,
        needs: &[],
        source: "VU Communication",
        sent: "Requests 0, 99 and 2^32-1.",
        expected: "Contained.",
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
        sent: "SET_VRING_NUM with 7 bytes, one too few.",
        expected: "Contained.",
        run: |bench| payload(bench, request::SET_VRING_NUM, &[0; 7]),
    },
    Case {
        id: "proto/long-payload",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        sent: "SET_VRING_NUM with 4096 bytes.",
        expected: "Contained.",
        run: |bench| payload(bench, request::SET_VRING_NUM, &[0; 4096]),
    },
    Case {
        id: "proto/payload-4g",
        level: Level::Hard,
        needs: &[],
        source: "VU Header",
        sent: "A header that announces 4 GiB.",
        expected: "The back end serves others; it may wait for the rest as long as it likes, or hang up.",
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
        level: Level::Hard,
        needs: &[],
        source: "VU Communication (stream semantics)",
        sent: "The twelve bytes of GET_FEATURES, one at a time.",
        expected: "The answer that a whole header gets: a Unix stream keeps no boundaries, so a message may come in pieces. Ending the session is containment, too; ending the process is not.",
        run: |bench| {
            let mut front = bench.connect()?;
            let head = Header {
                request: request::GET_FEATURES,
                flags: FLAG_VERSION,
                size: 0,
            };
            let mut sent = Ok(());
            for byte in head.encode() {
                sent = sent.and_then(|()| front.send_raw(&[byte], &[]));
                std::thread::sleep(Duration::from_millis(1));
            }
            let reply = sent.and_then(|()| front.await_reply(request::GET_FEATURES));
            if let Ok(reply) = &reply {
                let expected = bench.features().to_le_bytes();
                ensure(
                    reply.payload == expected,
                    "another answer than to a whole header",
                )?;
            }
            drop(front);
            bench.contained(reply)
        },
    },
    Case {
        id: "proto/reply-ack-more",
        level: Level::Must,
        needs: &[F30, ACK],
        source: "VU REPLY_ACK",
        sent: "SET_VRING_ERR, RESET_OWNER and, where they are offered, NET_SET_MTU and SET_BACKEND_REQ_FD, with need_reply.",
        expected: "Exactly one acknowledgement for each, of success or failure, and an answer to what is asked afterwards.",
        run: |bench| {
            let mut config = NetConfig::default();
            config.protocol_features |= protocol::NET_MTU | protocol::BACKEND_REQ;
            let (mut front, net) = bench.negotiated(&config)?;
            front.set_features(net.features())?;
            let event = vf_guest::eventfd::EventFd::new()?;
            let answered = |answer| match answer {
                Err(FrontendError::Nack { .. }) => Ok(()),
                answer => answer,
            };
            answered(front.set_vring_err(0, Some(event.as_fd())))?;
            answered(front.set_vring_err(0, None))?;
            if front.protocol_features() & protocol::NET_MTU != 0 && net.has(feature::MTU) {
                answered(front.set(request::NET_SET_MTU, &1500u64.to_le_bytes(), &[]))?;
            }
            // What the back end says there is not heard.
            let (_ours, its) = UnixStream::pair()?;
            if front.protocol_features() & protocol::BACKEND_REQ != 0 {
                answered(front.set(request::SET_BACKEND_REQ_FD, &[], &[its.as_fd()]))?;
            }
            match front.set(request::RESET_OWNER, &[], &[]) {
                // It is used no longer, the document says, and some end the session then.
                Err(FrontendError::Closed) => return Ok(Seen::Closed),
                answer => answered(answer)?,
            }
            silent(Some(&mut front))?;
            front.get_features()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/vring-index-high-bits",
        level: Level::Hard,
        needs: &[F30, ACK],
        source: "VU Vring state description; CVE-2020-10723",
        sent: "SET_VRING_NUM for rings 32768, 65536 and 2^32-1.",
        expected: "Contained, and best of all refused: such rings are not there.",
        run: |bench| {
            let mut last = Seen::Tolerated;
            for index in [32_768, 65_536, u32::MAX] {
                let (mut front, _) = bench.negotiated(&NetConfig::default())?;
                let answer = front.set_vring_num(index, 256);
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
        sent: "SET_VRING_NUM with 0, 3, 65536 and 2^32-1.",
        expected: "Contained, and best of all refused: a split ring's size is a power of two of at most 32768.",
        run: |bench| {
            let mut last = Seen::Tolerated;
            for size in [0, 3, 65536, u32::MAX] {
                let (mut front, _) = bench.negotiated(&NetConfig::default())?;
                let answer = front.set_vring_num(0, size);
                drop(front);
                last = bench.contained(answer)?;
            }
            Ok(last)
        },
    },
    Case {
        id: "proto/refusals-told",
        level: Level::Should,
        needs: &[F30, ACK],
        source: "VU REPLY_ACK; VU SET_VRING_NUM, SET_MEM_TABLE",
        sent: "What cannot be carried out, with need_reply, after SET_FEATURES: SET_VRING_NUM for rings 32768, 65536 and 2^32-1, and with sizes 0, 3, 65536 and 2^32-1 of a split ring; SET_MEM_TABLE that counts nine regions and has one; SET_CONFIG of a field that is read-only.",
        expected: "None is answered with 0: that says success.",
        run: |bench| {
            let rings = [32_768, 65_536, u32::MAX].map(|ring| (ring, 256));
            let sizes = [0, 3, 65_536, u32::MAX].map(|size| (0, size));
            for (ring, size) in rings.into_iter().chain(sizes) {
                let (mut front, net) = bench.negotiated(&NetConfig::default())?;
                // A packed ring may have any size.
                front.set_features(net.features())?;
                ensure(
                    front.set_vring_num(ring, size).is_err(),
                    format_args!("size {size} of ring {ring} was accepted"),
                )?;
            }
            let memory = GuestMemory::new(4096, true)?;
            let mut payload = message::mem_table(&[message::region(0, 4096, 0, 0)]);
            payload[0] = 9;
            let mut config = NetConfig::default();
            config.protocol_features &= !protocol::CONFIGURE_MEM_SLOTS;
            let (mut front, _) = bench.negotiated(&config)?;
            let fds = [memory.regions()[0].fd()];
            ensure(
                front.set(request::SET_MEM_TABLE, &payload, &fds).is_err(),
                "a table that ends too soon was accepted",
            )?;
            drop(front);
            if bench.protocol_features() & protocol::CONFIG != 0 {
                let (mut front, _) = bench.negotiated(&NetConfig::default())?;
                let status = message::config(6, 2);
                ensure(
                    front.set(request::SET_CONFIG, &status, &[]).is_err(),
                    "a write to a field that is read-only was accepted",
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/kick-fd-missing",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_KICK; CVE-2019-14818",
        sent: "SET_VRING_KICK that promises a descriptor, without one.",
        expected: "Contained.",
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
        sent: "GET_CONFIG for 1, 6 and all bytes.",
        expected: "As many bytes as were asked for.",
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
        id: "proto/config-reply-header",
        level: Level::Text,
        needs: &[F30, Need::Protocol(protocol::CONFIG, "CONFIG")],
        source: "VU GET_CONFIG",
        sent: "GET_CONFIG of all bytes, and of single fields by their offsets.",
        expected: "Offset, size and flags of the reply are those of the request, and the bytes those of the whole that lie there.",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::CONFIG)?;
            let all = front.get_config(0, ConfigSpace::LEN as u32)?;
            for (offset, size) in [(0, 6), (6, 2), (8, 2), (10, 2), (3, 5)] {
                let asked = message::config(offset, size);
                front.send(request::GET_CONFIG, 0, &asked, &[])?;
                let reply = front.await_reply(request::GET_CONFIG)?;
                let (from, to) = (offset as usize, (offset + size) as usize);
                let expected = [&asked[..12], all.get(from..to).unwrap_or_default()].concat();
                ensure(
                    reply.payload == expected,
                    format_args!("{:02x?}, not {expected:02x?}", reply.payload),
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
        sent: "GET_CONFIG behind the end of everything.",
        expected: "An answer without bytes, a refusal or a closed connection.",
        run: |bench| {
            const FAR: u32 = u32::MAX - 3;
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::CONFIG)?;
            front.send(request::GET_CONFIG, 0, &message::config(FAR, 8), &[])?;
            let answer = front.await_reply(request::GET_CONFIG);
            if let Ok(reply) = &answer {
                // Offset, length and flags come before the bytes themselves.
                let len = reply.payload.len();
                let nothing = [FAR.to_le_bytes(), [0; 4]].concat();
                ensure(
                    [0, 12 + 8].contains(&len) || len == 12 && reply.payload.starts_with(&nothing),
                    format_args!("a reply of {len} bytes, neither an error nor what was asked for"),
                )?;
            }
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
