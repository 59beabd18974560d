//! Sessions that go on in ways that are seldom seen: descriptors and addresses replaced while rings run, requests that are refused, memory
//! tables that are odd. Frames pass here only to show that a session goes on.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::bench::{Bench, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::protocol::F30;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::eventfd::EventFd;
use vf_guest::frontend::FrontendError;
use vf_guest::message::{self, FLAG_NEED_REPLY, FLAG_VERSION, Header, protocol, request};
use vf_guest::net::{NetConfig, feature};

const ACK: Need = Need::Protocol(protocol::REPLY_ACK, "REPLY_ACK");
const SLOTS: Need = Need::Protocol(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS");
/// `VHOST_USER_PROTOCOL_F_RARP`, and the request that it allows.
const RARP: Need = Need::Protocol(1 << 2, "RARP");
const SEND_RARP: u32 = 19;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "proto/nack-then",
        level: Level::Hard,
        needs: &[],
        source: "VU Communication; VU REPLY_ACK",
        sent: "A request that is to be refused (SET_VRING_ADDR where there is no memory), and then the rest of a set-up.",
        expected: "The session goes on or is closed; a fresh one passes traffic.",
        run: |bench| {
            let (mut front, net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            let refused = front.set_vring_addr(0, 4096, 8192, 12_288);
            let then = front.get_features();
            drop(front);
            bench.contained(refused.and(then))
        },
    },
    Case {
        id: "proto/kick-fd-unexpected",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_KICK (bit 8: no descriptor)",
        sent: "SET_VRING_KICK and SET_VRING_CALL that say they come without a descriptor, and come with one.",
        expected: "Contained.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let event = EventFd::new()?;
            let said = (1u64 | message::VRING_NO_FD).to_le_bytes();
            let answer = match link.tx.frontend() {
                Some(front) => front
                    .set(request::SET_VRING_CALL, &said, &[event.as_fd()])
                    .and_then(|()| front.set(request::SET_VRING_KICK, &said, &[event.as_fd()]))
                    .and_then(|()| front.get_features().map(drop)),
                None => Ok(()),
            };
            drop(link);
            bench.contained(answer)
        },
    },
    Case {
        id: "proto/set-kick-keeps-enabled",
        level: Level::Text,
        needs: &[F30],
        source: "VU Ring states; rust-vmm/vhost #227",
        sent: "A new kick and a new call descriptor for a send ring that runs, and frames.",
        expected: "They pass: neither request enables or disables a ring. One that is refused leaves the ring as it is: the document does not say which aspects can be changed on the fly.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            let mut seen = Seen::Conforms;
            for _ in 0..3 {
                let (kick, call) = (EventFd::new()?, EventFd::new()?);
                let (mut new_kick, mut new_call) = (true, true);
                if let Some(front) = link.tx.frontend() {
                    let taken = |answer| match answer {
                        Err(FrontendError::Nack { .. }) => Ok(false),
                        answer => answer.map(|()| true),
                    };
                    let mut set = || {
                        new_call = taken(front.set_vring_call(1, Some(call.as_fd())))?;
                        new_kick = taken(front.set_vring_kick(1, Some(kick.as_fd())))?;
                        Ok(())
                    };
                    match set() {
                        Err(FrontendError::Closed) => return Ok(Seen::Closed),
                        set => set?,
                    }
                }
                bench.settle();
                let frame = link.frame(100);
                // The old one is signalled as well: whichever the back end listens to, its ring is enabled.
                link.send(&frame)?;
                kick.signal();
                link.sent()?;
                if link.is_seen() {
                    link.expect(&frame)?;
                }
                let ring = link.tx.tx_ring(0);
                if new_kick {
                    ring.kick = Some(kick);
                }
                if new_call {
                    ring.call = Some(call);
                }
                if !(new_kick && new_call) {
                    seen = Seen::Refused;
                }
            }
            Ok(seen)
        },
    },
    Case {
        id: "proto/addr-while-started",
        level: Level::Hard,
        needs: &[],
        source: "VU Ring states; CVE-2026-5747",
        sent: "SET_VRING_ADDR and SET_VRING_NUM for a send ring that runs.",
        expected: "Contained.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            let at = link.tx.memory().regions()[0].layout().user_addr;
            let answer = match link.tx.frontend() {
                Some(front) => front
                    .set_vring_addr(1, at + 65_536, at + 131_072, at + 98_304)
                    .and_then(|()| front.set_vring_num(1, 64))
                    .and_then(|()| front.get_features().map(drop)),
                None => Ok(()),
            };
            std::thread::sleep(QUIET);
            drop(link);
            bench.contained(answer)
        },
    },
    Case {
        id: "mem/count-0",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_MEM_TABLE",
        sent: "A memory table without regions, on a session that runs.",
        expected: "Contained.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let answer = match link.tx.frontend() {
                Some(front) => front
                    .set(request::SET_MEM_TABLE, &message::mem_table(&[]), &[])
                    .and_then(|()| front.get_features().map(drop)),
                None => Ok(()),
            };
            std::thread::sleep(QUIET);
            drop(link);
            bench.contained(answer)
        },
    },
    Case {
        id: "mem/overlap-user",
        level: Level::Hard,
        needs: &[],
        source: "VU Memory region description",
        sent: "Two regions whose user addresses overlap, and whose guest addresses do not.",
        expected: "Contained.",
        run: |bench| {
            let link = bench.link(&NetConfig::default())?;
            let file = link.tx.memory().regions()[0].dup_fd()?;
            drop(link);
            let (mut front, net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            let table = message::mem_table(&[
                message::region(0, 1 << 16, 1 << 40, 0),
                message::region(1 << 20, 1 << 16, (1 << 40) + 4096, 0),
            ]);
            let answer = front.set(
                request::SET_MEM_TABLE,
                &table,
                &[file.as_fd(), file.as_fd()],
            );
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "mem/rem-absent",
        level: Level::Hard,
        needs: &[SLOTS],
        source: "VU REM_MEM_REG",
        sent: "REM_MEM_REG for a region that was never added.",
        expected: "Contained.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let gone = message::single_region(&message::region(1 << 44, 4096, 1 << 45, 0));
            let answer = match link.tx.frontend() {
                Some(front) => front.set(request::REM_MEM_REG, &gone, &[]),
                None => Ok(()),
            };
            drop(link);
            bench.contained(answer)
        },
    },
    Case {
        id: "net/rarp",
        level: Level::Text,
        needs: &[RARP, Need::Peer],
        source: "VU SEND_RARP",
        sent: "SEND_RARP with the guest's address.",
        expected: "A broadcast RARP arrives at the peer: a reverse request (RFC 903) of Ethernet and IPv4 in which that address is sender and target.",
        run: |bench| {
            let config = NetConfig {
                protocol_features: NetConfig::default().protocol_features | 1 << 2,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            // A switch may let a guest send from its own address only.
            let mac = link.src;
            if let Some(front) = link.tx.frontend() {
                front.set(SEND_RARP, &[&mac[..], &[0, 0]].concat(), &[])?;
            }
            let Some(frame) = link.receive(crate::bench::DEADLINE)? else {
                return Err(Failure::Wrong("no frame from that address arrived".into()));
            };
            let bytes = frame.bytes();
            ensure(
                bytes.get(..6) == Some(&[0xff; 6][..])
                    && bytes.get(12..14) == Some(&[0x80, 0x35][..]),
                format_args!("it is no RARP: {:02x?}", bytes.get(..22)),
            )?;
            let (sender, target) = (bytes.get(22..28), bytes.get(32..38));
            ensure(
                bytes.get(14..22) == Some(&[0, 1, 8, 0, 6, 4, 0, 3])
                    && sender == Some(&mac)
                    && target == Some(&mac),
                format_args!("it says {:02x?}", bytes.get(14..42)),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/ring-refusals-told",
        level: Level::Should,
        needs: &[F30, ACK, Need::Feature(feature::RING_PACKED, "RING_PACKED")],
        source: "VU REPLY_ACK; VU SET_VRING_NUM, SET_VRING_BASE; V 2.8 (a packed ring has 2^15 descriptors at most)",
        sent: "With need_reply, behind SET_FEATURES with RING_PACKED: sizes of 0, 32769 and 65535, and base 300 of a ring of 256.",
        expected: "None is answered with 0: that says success, and such a ring can never run.",
        run: ring_refusals_told,
    },
    Case {
        id: "proto/base-reserved-bits",
        level: Level::Model,
        needs: &[F30, ACK],
        source: "VU Vring descriptor index for split virtqueues (bits 16 to 31 are reserved)",
        sent: "SET_VRING_BASE 0x10005 of a split ring, with need_reply.",
        expected: "It is not answered with 0: an index that is not one of the ring's is a front end's mistake, and the ring would go on elsewhere.",
        run: |bench| {
            let (mut front, net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            front.set_vring_num(0, 256)?;
            let taken = front.set_vring_base(0, 0x1_0005).is_ok();
            ensure(!taken, "base 0x10005 of a split ring was accepted")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/used-ring-outside",
        level: Level::Model,
        needs: &[F30, ACK],
        source: "VU SET_VRING_ADDR, REPLY_ACK (what is said at once is said of the right message)",
        sent: "With need_reply, behind SET_FEATURES, memory and SET_VRING_NUM 256: SET_VRING_ADDR with a used ring that begins 1040 bytes before its region ends.",
        expected: "It is not answered with 0: such a ring can never run.",
        run: |bench| {
            let (mut front, net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            front.set_memory(net.memory().regions())?;
            front.set_vring_num(0, 256)?;
            let region = net.memory().regions()[0].layout();
            let (at, end) = (region.user_addr, region.user_addr + region.size);
            let taken = front.set_vring_addr(0, at, end - 1040, at + 8192).is_ok();
            ensure(!taken, "a used ring that leads out of memory was accepted")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/config-whole",
        level: Level::Model,
        needs: &[F30, Need::Protocol(protocol::CONFIG, "CONFIG")],
        source: "V 5.1.4 (struct virtio_net_config has 24 bytes); QEMU asks for all of it at once",
        sent: "GET_CONFIG of 24 bytes, and of the first six.",
        expected: "24 bytes, which begin with those six.",
        run: |bench| {
            let mut front = bench.connect()?;
            front.set_protocol_features(protocol::CONFIG)?;
            let whole = front.get_config(0, 24)?;
            let got = whole.len();
            ensure(
                got == 24,
                format_args!("{got} bytes of configuration for 24"),
            )?;
            let first = front.get_config(0, 6)?;
            ensure(whole.starts_with(&first), "two answers differ")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "proto/payload-behind-header",
        level: Level::Model,
        needs: &[F30, ACK],
        source: "VU Communication (a Unix stream keeps no boundaries)",
        sent: "SET_VRING_NUM and SET_MEM_TABLE with need_reply, the payload 20 ms behind the header, which carries the descriptor.",
        expected: "Each is answered with 0, as one that comes at once.",
        run: |bench| {
            let config = NetConfig::default();
            let (mut front, net) = bench.negotiated(&NetConfig {
                protocol_features: config.protocol_features & !protocol::CONFIGURE_MEM_SLOTS,
                ..config
            })?;
            front.set_features(net.features())?;
            let region = &net.memory().regions()[0];
            let laid = region.layout();
            let place = [laid.guest_addr, laid.size, laid.user_addr, laid.mmap_offset];
            let [guest, size, user, offset] = place;
            let table = message::mem_table(&[message::region(guest, size, user, offset)]);
            let number = message::vring_state(0, 256);
            for (request, payload, fds) in [
                (request::SET_VRING_NUM, number, vec![]),
                (request::SET_MEM_TABLE, table, vec![region.fd()]),
            ] {
                let head = Header {
                    request,
                    flags: FLAG_VERSION | FLAG_NEED_REPLY,
                    size: payload.len() as u32,
                };
                front.send_raw(&head.encode(), &fds)?;
                std::thread::sleep(Duration::from_millis(20));
                front.send_raw(&payload, &[])?;
                front.await_ack(request)?;
            }
            Ok(Seen::Conforms)
        },
    },
];

fn ring_refusals_told(bench: &Bench) -> Result<Seen, Failure> {
    let begun = || {
        let (mut front, net) = bench.negotiated(&NetConfig::default())?;
        front.set_features(net.features() | feature::RING_PACKED)?;
        Ok::<_, Failure>(front)
    };
    for size in [0, 32_769, 65_535] {
        let taken = begun()?.set_vring_num(0, size).is_ok();
        ensure(!taken, format_args!("a packed ring of {size} was accepted"))?;
    }
    let mut front = begun()?;
    front.set_vring_num(0, 256)?;
    let taken = front.set_vring_base(0, 300).is_ok();
    ensure(!taken, "base 300 of a packed ring of 256 was accepted")?;
    Ok(Seen::Conforms)
}
