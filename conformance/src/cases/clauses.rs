//! Clauses of the ledger that no other case judges: sessions, rings, what a program does.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use vm_memory::Bytes;

use crate::bench::{Bench, Link, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::by_hand::{called, place, signal};
use crate::cases::protocol::F30;
use crate::cases::ring::used_flags;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{
    Buffer, DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, Format, SplitQueue, Virtqueue,
};
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::memory::{Region, RegionLayout};
use vf_guest::message::{self, protocol, request};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, feature};

const ACK: Need = Need::Protocol(protocol::REPLY_ACK, "REPLY_ACK");
const CONFIG: Need = Need::Protocol(protocol::CONFIG, "CONFIG");
const SLOTS: Need = Need::Protocol(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS");
const SPLIT: Need = Need::Format(Format::Split);
const EVENT_IDX: Need = Need::Feature(feature::EVENT_IDX, "EVENT_IDX");
const INDIRECT: Need = Need::Feature(feature::INDIRECT_DESC, "INDIRECT_DESC");
/// How long a program may take to end.
const ENDING: Duration = Duration::from_secs(10);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "proto/any-subset",
        level: Level::Should,
        needs: &[],
        source: "V 2.2.2 Feature Bits; VU REPLY_ACK",
        sent: "Sessions whose driver accepts few of the features: none, each of the rings' alone, checksums alone.",
        expected: "Each passes a frame: a device SHOULD accept any valid subset.",
        run: |bench| {
            let least = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
            for more in [
                0,
                feature::EVENT_IDX,
                feature::INDIRECT_DESC,
                feature::IN_ORDER,
                feature::MRG_RXBUF,
                feature::CSUM,
                feature::GUEST_CSUM,
            ] {
                let mut link = bench.link(&NetConfig {
                    features: least | more,
                    ..NetConfig::default()
                })?;
                let frame = link.frame(300);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/renegotiate-same",
        level: Level::Should,
        needs: &[],
        source: "V 2.2.2 Feature Bits; VU REPLY_ACK",
        sent: "Rings that are stopped, SET_FEATURES with the same set and the rings again, twice, as when a guest starts again.",
        expected: "Accepted, and a frame passes each time.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..2 {
                let mut front = stopped(&mut link)?;
                front.set_features(link.tx.features())?;
                started(&mut link.tx, front)?;
                bench.settle();
                let frame = link.frame(300);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/enabled-is-kept",
        level: Level::Should,
        needs: &[F30, Need::Delivery],
        source: "VU Ring states",
        sent: "A send ring that is disabled while it is stopped, and then started, with a frame; then enabled.",
        expected: "The first frame is given back and discarded, and the next one passes: whether a stopped ring is enabled should still be tracked.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let mut front = stopped(&mut link)?;
            front.set_vring_enable(1, false)?;
            started_as_they_are(&mut link.tx, front)?;
            bench.settle();
            let frame = link.frame(300);
            link.send(&frame)?;
            link.sent()?;
            link.expect_nothing(&frame)?;
            if let Some(front) = link.tx.frontend() {
                front.set_vring_enable(1, true)?;
            }
            bench.settle();
            let frame = link.frame(300);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/suspended-quiet",
        level: Level::Must,
        needs: &[],
        source: "VU Suspended device state; VU Migration; V 2.4.1",
        sent: "GET_VRING_BASE for all rings of a port; then a frame in its send ring, kicked, and a broadcast for it.",
        expected: "Not a byte of guest memory changes, no call and no message comes, and GET_FEATURES is answered.",
        run: |bench| suspended(bench, false),
    },
    Case {
        id: "proto/suspended-when-disabled",
        level: Level::Must,
        needs: &[F30],
        source: "VU Suspended device state; VU Ring states (a stopped ring must not be processed, enabled or not)",
        sent: "SET_VRING_ENABLE 0 and GET_VRING_BASE for all rings of a port, as QEMU stops one; then a frame in its send ring, kicked, a broadcast for it, and 400 ms.",
        expected: "Not a byte of guest memory changes, no call and no message comes, and GET_FEATURES is answered: what is in a stopped ring is not discarded either.",
        run: |bench| suspended(bench, true),
    },
    Case {
        id: "proto/reset-device",
        level: Level::Text,
        needs: &[F30, Need::Protocol(protocol::RESET_DEVICE, "RESET_DEVICE")],
        source: "VU RESET_DEVICE",
        sent: "Frames, RESET_DEVICE, the set-up again in the same session, and frames.",
        expected: "They pass: the device is as in the beginning, and still the front end's.",
        run: |bench| {
            let mut config = NetConfig::default();
            config.protocol_features &= !protocol::CONFIGURE_MEM_SLOTS;
            config.protocol_features |= protocol::RESET_DEVICE;
            let mut link = bench.link(&config)?;
            for _ in 0..3 {
                let frame = link.frame(300);
                link.pass(&frame)?;
                let mut front = stopped(&mut link)?;
                front.set(request::RESET_DEVICE, &[], &[])?;
                front.set_features(link.tx.features())?;
                front.set_memory(link.tx.memory().regions())?;
                started(&mut link.tx, front)?;
                bench.settle();
            }
            let frame = link.frame(300);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/reset-owner-harmless",
        level: Level::Should,
        needs: &[F30],
        source: "VU RESET_OWNER",
        sent: "RESET_OWNER while rings run, and SET_VRING_ENABLE for each.",
        expected: "A frame passes: it is recommended to ignore the request or to disable the rings, and nothing else.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let rings = link.tx.rings();
            if let Some(front) = link.tx.frontend() {
                front.set(request::RESET_OWNER, &[], &[])?;
                for index in 0..rings {
                    front.set_vring_enable(index, true)?;
                }
            }
            bench.settle();
            let frame = link.frame(300);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/in-band-alone",
        level: Level::Should,
        needs: &[
            F30,
            Need::Protocol(protocol::INBAND_NOTIFICATIONS, "INBAND_NOTIFICATIONS"),
        ],
        source: "VU In-band notifications",
        sent: "SET_PROTOCOL_FEATURES with INBAND_NOTIFICATIONS, and neither BACKEND_REQ nor REPLY_ACK.",
        expected: "The connection is closed: a back end should, as it cannot tell the error in another way.",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::INBAND_NOTIFICATIONS)?;
            match front.get_features() {
                Err(FrontendError::Closed) => Ok(Seen::Closed),
                Err(other) => Err(other.into()),
                Ok(_) => Err(Failure::Wrong("the session goes on".into())),
            }
        },
    },
    Case {
        id: "proto/mq-offered",
        level: Level::Should,
        needs: &[F30],
        source: "VU Multiple queue support",
        sent: "GET_PROTOCOL_FEATURES.",
        expected: "MQ is among them: back ends should always implement it.",
        run: |bench| {
            ensure(
                bench.protocol_features() & protocol::MQ != 0,
                "MQ is not offered",
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/mtu-answered",
        level: Level::Must,
        needs: &[
            F30,
            ACK,
            Need::Feature(feature::MTU, "MTU"),
            Need::Protocol(protocol::NET_MTU, "NET_MTU"),
        ],
        source: "VU NET_SET_MTU",
        sent: "NET_SET_MTU with 1500, or with the mtu that is told if that is less, with just the mtu that is told, and with 65536, which no 16 bits of configuration space hold.",
        expected: "0 for the first two, something else for the third.",
        run: |bench| {
            let mut config = NetConfig::default();
            config.protocol_features |= protocol::NET_MTU;
            let (mut front, net) = bench.negotiated(&config)?;
            front.set_features(net.features())?;
            let mut set = |mtu: u64| front.set(request::NET_SET_MTU, &mtu.to_ne_bytes(), &[]);
            let told = bench.mtu().unwrap_or(1500);
            for mtu in [told.min(1500), told] {
                set(mtu.into())?;
            }
            let answer = set(65536);
            ensure(answer.is_err(), "an MTU of 65536 was called valid")?;
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "proto/config-read-only",
        level: Level::Must,
        needs: &[F30, CONFIG],
        source: "VU SET_CONFIG",
        sent: "SET_CONFIG of the status field with flags 0.",
        expected: "Configuration space tells what it told before: a driver cannot write that field.",
        run: |bench| {
            const STATUS: u32 = 6;
            let (mut front, _) = bench.negotiated(&NetConfig::default())?;
            let before = front.get_config(STATUS, 2)?;
            let mut payload = message::config(STATUS, 2);
            for (byte, old) in payload.iter_mut().skip(12).zip(&before) {
                *byte = !old;
            }
            let answer = front.set(request::SET_CONFIG, &payload, &[]);
            if matches!(answer, Ok(()) | Err(FrontendError::Nack { .. }))
                && let Ok(after) = front.get_config(STATUS, 2)
            {
                ensure(after == before, "a field that is read-only was written")?;
            }
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "mem/slots-told",
        level: Level::Should,
        needs: &[F30, SLOTS],
        source: "VU GET_MAX_MEM_SLOTS",
        sent: "GET_MAX_MEM_SLOTS.",
        expected: "A number that is not 0.",
        run: |bench| {
            let (mut front, _) = bench.negotiated(&NetConfig::default())?;
            let slots = front.get_u64(request::GET_MAX_MEM_SLOTS)?;
            ensure(slots > 0, "there are no memory slots")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "mem/rem-with-fd",
        level: Level::Must,
        needs: &[F30, SLOTS, Need::Process],
        source: "VU REM_MEM_REG",
        sent: "REM_MEM_REG with a descriptor, 20 times.",
        expected: "Accepted or refused, and the descriptor is closed: the back end holds no more of them than before.",
        run: |bench| {
            let (mut front, net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            let layout = RegionLayout {
                guest_addr: 0x70_0000_0000,
                size: 0x1000,
                user_addr: 0x7d00_0000_0000,
                mmap_offset: 0,
            };
            let spare = Region::new(layout, true)?;
            let entry = message::region(layout.guest_addr, layout.size, layout.user_addr, 0);
            let before = bench.at_rest()?;
            let mut seen = Seen::Tolerated;
            for _ in 0..20 {
                front.add_mem_region(&spare)?;
                let payload = message::single_region(&entry);
                match front.set(request::REM_MEM_REG, &payload, &[spare.fd()]) {
                    Ok(()) => {}
                    Err(FrontendError::Nack { .. }) => {
                        seen = Seen::Refused;
                        front.remove_mem_region(&spare)?;
                    }
                    Err(FrontendError::Closed) => return bench.contained(Ok(())),
                    Err(other) => return Err(other.into()),
                }
            }
            let after = bench.at_rest()?;
            ensure(
                after.fits(&before),
                format_args!("{after} in use after 20 of them, {before} before"),
            )?;
            Ok(seen)
        },
    },
    Case {
        id: "ring/used-event-ignored",
        level: Level::Must,
        needs: &[SPLIT],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "Frames without EVENT_IDX, with used_event far away.",
        expected: "A call for each: used_event is to be ignored then.",
        run: |bench| {
            let mut link = bench.link(&without(feature::EVENT_IDX))?;
            split(&mut link)?.set_used_event(0x7fff);
            link.tx.tx_ring(0).queue.set_interrupts(true);
            for _ in 0..4 {
                let frame = link.frame(100);
                link.pass(&frame)?;
                ensure(called(&mut link, true)?, "used_event kept a call away")?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/flags-ignored",
        level: Level::Must,
        needs: &[SPLIT, EVENT_IDX],
        source: "V 2.7.7.2 Used Buffer Notification Suppression",
        sent: "Frames with EVENT_IDX and the flag NO_INTERRUPT, each of which is asked to be told of by used_event.",
        expected: "A call for each: the flag is to be ignored then.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            split(&mut link)?.set_avail_flags(1);
            for count in 0..4 {
                link.tx.tx_ring(0).queue.set_interrupt_after(count);
                let frame = link.frame(100);
                link.pass(&frame)?;
                ensure(called(&mut link, true)?, "the flag kept a call away")?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/used-flags-0-or-1",
        level: Level::Must,
        needs: &[SPLIT],
        source: "V 2.7.10.2 Available Buffer Notification Suppression",
        sent: "Frames without EVENT_IDX, one after the other and with pauses.",
        expected: "The used ring's flags are 0 or 1 all the time.",
        run: |bench| used_flags(bench, feature::EVENT_IDX, 1),
    },
    Case {
        id: "ring/used-len",
        level: Level::Must,
        needs: &[Need::Delivery],
        source: "V 2.7.8.2 The Virtqueue Used Ring",
        sent: "500 frames of many lengths, each read as soon as the used index has moved.",
        expected: "The length is there, and so are that many bytes: both come before the index.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for i in 0..500 {
                let frame = link.frame(60 + i * 37 % 1455);
                link.send(&frame)?;
                link.expect(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "ring/indirect-write-flag",
        level: Level::Must,
        needs: &[SPLIT, INDIRECT],
        source: "V 2.7.5.3.2 Indirect Descriptors",
        sent: "A frame in an indirect table whose own descriptor has the write flag set.",
        expected: "The frame: the flag is to be ignored in a descriptor that refers to a table.",
        run: |bench| {
            let mut link = bench.link(&with(feature::INDIRECT_DESC))?;
            let frame = link.frame(300);
            let (addr, len) = place(&mut link, &frame)?;
            let table = link.tx.tx_ring(0).buffer_addr(4);
            let buffer = Buffer {
                addr,
                len,
                writable: false,
            };
            let head = link.tx.tx_ring(0).queue.add_indirect(table, &[buffer]);
            let marked = Desc {
                addr: table,
                len: 16,
                flags: DESC_INDIRECT | DESC_WRITE,
                next: 0,
            };
            split(&mut link)?.set_desc(head.unwrap_or_default(), marked);
            went(&mut link, &frame)
        },
    },
    Case {
        id: "ring/normal-then-indirect",
        level: Level::Must,
        needs: &[SPLIT, INDIRECT],
        source: "V 2.7.5.3.2 Indirect Descriptors",
        sent: "A frame whose header has a descriptor of its own, and which goes on in an indirect table of two.",
        expected: "The frame: normal descriptors may come before the one that refers to a table.",
        run: |bench| {
            let mut link = bench.link(&with(feature::INDIRECT_DESC))?;
            let frame = link.frame(300);
            let (at, len) = place(&mut link, &frame)?;
            let table = link.tx.tx_ring(0).buffer_addr(4);
            let desc = |addr, len, flags, next| Desc {
                addr,
                len,
                flags,
                next,
            };
            let entries = [
                desc(at + 12, 20, DESC_NEXT, 1),
                desc(at + 32, len - 32, 0, 0),
            ];
            link.tx.tx_ring(0).queue.write_table(table, &entries);
            let chain = [(at, 12), (table, 32)].map(|(addr, len)| Buffer {
                addr,
                len,
                writable: false,
            });
            let head = link.tx.tx_ring(0).queue.add(&chain).unwrap_or_default();
            // Where the driver has put the second descriptor says the first one.
            let layout = link.tx.tx_ring(0).queue.layout();
            let mut next = [0; 2];
            let place = layout.desc + 16 * u64::from(head) + 14;
            let read = link.tx.memory().slice(place, 2);
            let read = read.is_some_and(|slice| slice.read_slice(&mut next, 0).is_ok());
            ensure(read, "the descriptor cannot be read")?;
            let second = desc(table, 32, DESC_INDIRECT, 0);
            split(&mut link)?.set_desc(u16::from_le_bytes(next), second);
            went(&mut link, &frame)
        },
    },
    Case {
        id: "proto/sigterm",
        level: Level::Should,
        needs: &[Need::Process],
        source: "VU Backend program conventions",
        sent: "SIGTERM to the back end's process and those that it was started by, while a guest is attached.",
        expected: "It ends within 10 seconds.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(300);
            link.pass(&frame)?;
            if let Some(id) = bench.process_id() {
                // The whole group: it may have been started by a shell.
                crate::group::signal(id, Signal::TERM);
            }
            let deadline = Instant::now() + ENDING;
            while bench.ended()?.is_none() {
                ensure(Instant::now() < deadline, "it has not ended after 10 s")?;
                std::thread::sleep(Duration::from_millis(5));
            }
            drop(link);
            bench.restart()?;
            Ok(Seen::Conforms)
        },
    },
];

/// All rings of a port stop, disabled before or not, and stay as they are.
fn suspended(bench: &Bench, disables: bool) -> Result<Seen, Failure> {
    let gone = || Failure::Wrong("there is no session".into());
    // A back end may look now and then only for what is to be discarded.
    let wait = if disables { 400 } else { 120 };
    let wait = Duration::from_millis(wait);
    let mut link = bench.link(&NetConfig::default())?;
    let frame = link.frame(200);
    link.pass(&frame)?;
    if disables {
        let rings = link.tx.rings();
        let front = link.tx.frontend().ok_or_else(gone)?;
        for index in 0..rings {
            front.set_vring_enable(index, false)?;
        }
    }
    let mut front = stopped(&mut link)?;
    link.tx.send(0, &NetHeader::default(), &[0xff; 60])?;
    link.tx.tx_ring(0).queue.publish();
    link.tx.calls().for_each(|call| {
        call.drain();
    });
    let before = contents(&link.tx)?;
    signal(&mut link);
    if let Some(peer) = &mut link.rx {
        peer.send(0, &NetHeader::default(), &[0xff; 60])?;
        peer.kick();
    }
    ensure(!front.readable(wait)?, "a message came unasked")?;
    let after = contents(&link.tx)?;
    let wrong = before.iter().zip(&after).position(|(a, b)| a != b);
    ensure(
        wrong.is_none(),
        format_args!("byte {wrong:?} of guest memory changed"),
    )?;
    for call in link.tx.calls() {
        ensure(!call.wait(Duration::ZERO)?, "the driver was called")?;
    }
    front.get_features()?;
    Ok(Seen::Conforms)
}

/// Stops all rings of the sender and takes its session out.
pub(super) fn stopped(link: &mut Link) -> Result<Frontend, Failure> {
    let gone = || Failure::Wrong("there is no session".into());
    let mut front = link.tx.take_frontend().ok_or_else(gone)?;
    for index in 0..link.tx.rings() {
        front.get_vring_base(index)?;
    }
    Ok(front)
}

/// Starts and enables all rings again where they were, in this session.
pub(super) fn started(net: &mut NetDevice, front: Frontend) -> Result<(), Failure> {
    started_as_they_are(net, front)?;
    if net.has(feature::PROTOCOL_FEATURES) {
        enabled(net)?;
        // What came while they were disabled may need another kick.
        if let Some(front) = net.take_frontend() {
            net.adopt(front);
        }
    }
    Ok(())
}

/// Starts all rings again where they were, enabled or not.
pub(super) fn started_as_they_are(net: &mut NetDevice, mut front: Frontend) -> Result<(), Failure> {
    for index in 0..net.rings() {
        net.place_ring(&mut front, index)?;
        net.start_ring(&mut front, index)?;
    }
    net.adopt(front);
    Ok(())
}

/// Enables all rings.
pub(super) fn enabled(net: &mut NetDevice) -> Result<(), Failure> {
    let rings = net.rings();
    if let Some(front) = net.frontend() {
        for index in 0..rings {
            front.set_vring_enable(index, true)?;
        }
    }
    Ok(())
}

/// All of a guest's memory.
pub(super) fn contents(net: &NetDevice) -> Result<Vec<u8>, Failure> {
    let mut all = Vec::new();
    for region in net.memory().regions() {
        let mapping = region.mapping();
        let mut bytes = vec![0; mapping.len()];
        let read = mapping.read_slice(&mut bytes, 0);
        ensure(read.is_ok(), "memory of our own cannot be read")?;
        all.extend(bytes);
    }
    Ok(all)
}

/// The send ring, which is split: the case needs that.
fn split(link: &mut Link) -> Result<&SplitQueue, Failure> {
    let queue: &Virtqueue = &link.tx.tx_ring(0).queue;
    let other = || Failure::Wrong("the ring is not split".into());
    queue.as_split().ok_or_else(other)
}

/// Kicks what was added, and checks that it is given back and arrives as this frame.
pub(super) fn went(link: &mut Link, frame: &[u8]) -> Result<Seen, Failure> {
    link.tx.kick();
    link.sent()?;
    if link.is_seen() {
        link.expect(frame)?;
    }
    Ok(Seen::Conforms)
}
