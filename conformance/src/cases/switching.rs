//! The switch between the ports: who receives what is sent to an address, to a group, to all, in which VLAN; and in which order. Never
//! looks at a switch's tables: who receives a frame tells.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::bench::{Bench, DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::control::{controlled, told};
use crate::cases::vf::{ADMIN, NEW, colons, is_seen, to};
use crate::control::{mac_table, obeyed};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::frontend::Frontend;
use vf_guest::message::{FLAG_NEED_REPLY, FLAG_REPLY, protocol, request};
use vf_guest::net::{NetConfig, NetHeader, feature};

const GROUP: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0x17];
const ALL: [u8; 6] = [0xff; 6];
/// `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`.
const CHANGED: u32 = 2;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "switch/vf-to-vf-mac",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 8.8.3; DPDK DTS veb_switch 1",
        sent: "100 frames of all lengths from one VF to the address of another.",
        expected: "All 100, as they were.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for n in 0..100 {
                let frame = link.frame(60 + n * 14);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/vf-to-vf-vlan",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 8.8.3 (VLAN membership); DPDK DTS veb_switch 2",
        sent: "Frames and broadcasts between VFs in port VLANs 10 and 20, and 10 and 10.",
        expected: "None between different VLANs, all in the same one.",
        run: |bench| {
            bench.administer("vf 0 vlan 10")?;
            for (vlan, arrives) in [(20, false), (10, true)] {
                bench.administer(&format!("vf 1 vlan {vlan}"))?;
                let mut link = bench.link(&NetConfig::default())?;
                let own = link.dst;
                for dst in [own, ALL] {
                    to(&mut link, dst, arrives)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/unknown-unicast-to-uplink",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "IEEE 802.1Qbg Virtual Ethernet Bridge; PCI SR-IOV NICs",
        sent: "Frames to an address that is nobody's.",
        expected: "No VF gets them: a VEB knows its stations, and gives the rest to its uplink. (A bridge that learns floods them.)",
        run: |bench| {
            bench.administer("switch veb")?;
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&NEW);
            link.send(&frame)?;
            link.expect_nothing(&frame)?;
            let seen = onlooker.sees(&frame, 0)?;
            ensure(seen == 0, "a third VF got a frame to nobody")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/broadcast-once-each",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "IEEE 802.1Q-2018 8.8 (each port of the VLAN once)",
        sent: "10 broadcasts.",
        expected: "Each other port gets each once, the sender none.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            for _ in 0..10 {
                let mut frame = link.frame(100);
                frame[..6].copy_from_slice(&ALL);
                link.send(&frame)?;
                link.expect(&frame)?;
                let seen = onlooker.sees(&frame, 1)?;
                ensure(
                    seen == 1,
                    format_args!("a third VF got a broadcast {seen} times"),
                )?;
                link.expect_nothing(&frame)?;
                let own = link.returned(QUIET, |came| came == frame)?;
                ensure(!own, "the sender got its own broadcast")?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/multicast-subscribed",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Control,
            Need::Feature(feature::CTRL_VQ | feature::CTRL_RX, "CTRL_RX"),
            Need::Peer,
            Need::Onlooker,
        ],
        source: "V 5.1.9.5.1.1, 5.1.9.5.2.1; IEEE 802.1Q-2018 8.8.2",
        sent: "Frames to a group that one driver has listed and another one has not.",
        expected: "The first gets them, the second does not.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let config = NetConfig {
                features: NetConfig::default().features | feature::CTRL_VQ | feature::CTRL_RX,
                ..NetConfig::default()
            };
            let mut onlooker = bench.onlooker(&config)?;
            obeyed(link.receiver(), &mac_table(&[], &[GROUP]))?;
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&GROUP);
            link.send(&frame)?;
            link.expect(&frame)?;
            let seen = onlooker.sees(&frame, 0)?;
            ensure(seen == 0, "a VF got a group that it has not listed")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/floating-veb",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Intel X710 floating VEB; DPDK DTS floating_veb",
        sent: "Frames between VFs of a switch without an uplink, while the port's link is down.",
        expected: "They arrive.",
        run: |bench| {
            bench.administer("switch floating")?;
            bench.administer("link down")?;
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..10 {
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/learn-move",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "IEEE 802.1Q-2018 8.7 (a station moves)",
        sent: "Frames to an address that is one VF's and then another's.",
        expected: "Each arrives where the address is at the time, and nowhere else.",
        run: |bench| {
            let mac = colons(NEW);
            bench.administer(&format!("vf 1 mac {mac}"))?;
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            to(&mut link, NEW, true)?;
            bench.administer("vf 1 mac 02:00:00:00:c0:53")?;
            bench.administer(&format!("vf 2 mac {mac}"))?;
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&NEW);
            link.send(&frame)?;
            let seen = onlooker.sees(&frame, 1)?;
            ensure(
                seen == 1,
                format_args!("it came {seen} times where the address is now"),
            )?;
            link.expect_nothing(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/flood-slow-receiver",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "SR-IOV: a port that does not receive holds up nobody",
        sent: "600 broadcasts, 5000 a second at most, to two VFs, one of which never looks at its receive ring.",
        expected: "The other one gets all of them.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let slow = bench.onlooker(&NetConfig::default())?;
            for _ in 0..600 {
                let mut frame = link.frame(100);
                frame[..6].copy_from_slice(&ALL);
                link.send(&frame)?;
                link.expect(&frame)?;
                // A back end may limit what is flooded.
                std::thread::sleep(Duration::from_micros(200));
            }
            drop(slow);
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/no-reflection",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 8.6.1 (never to the port it came from)",
        sent: "Frames to all, to a group, to nobody and to the sender itself.",
        expected: "The sender receives none of them.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let own = link.src;
            for dst in [ALL, GROUP, NEW, own] {
                let mut frame = link.frame(100);
                frame[..6].copy_from_slice(&dst);
                link.send(&frame)?;
                link.sent()?;
            }
            let own = link.src;
            let returned = link.returned(QUIET, |came| came.get(6..12) == Some(&own[..]))?;
            ensure(!returned, "a frame came back to its sender")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/order-per-flow",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 6.5.3 (frames are not reordered)",
        sent: "400 frames of 8 flows, 50 at a time.",
        expected: "Each arrives, and those of a flow in their order.",
        run: order,
    },
    Case {
        id: "link/vf-auto",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf state auto",
        sent: "Frames between VFs in state auto while the port's link is down, and up again.",
        expected: "None while it is down: the VFs' links follow it. All when it is up.",
        run: |bench| in_state(bench, "auto", [false, true]),
    },
    Case {
        id: "link/vf-enable",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf state enable",
        sent: "Frames between VFs in state enable while the port's link is down, and up again.",
        expected: "All arrive: the VFs speak with each other whatever the link is.",
        run: |bench| in_state(bench, "enable", [true, true]),
    },
    Case {
        id: "link/vf-disable",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf state disable",
        sent: "Frames between VFs in state disable while the port's link is down, and up again.",
        expected: "None arrive.",
        run: |bench| in_state(bench, "disable", [false, false]),
    },
    Case {
        id: "link/status-bit",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Feature(feature::STATUS, "STATUS"),
            Need::Protocol(protocol::CONFIG, "CONFIG"),
        ],
        source: "V 5.1.4 (status, VIRTIO_NET_S_LINK_UP)",
        sent: "State disable, enable and auto of a VF, the port's link down and up, and GET_CONFIG after each.",
        expected: "Bit 0 of status is 0 and 1; in state auto it is the port's link, and in state enable 1 whatever that is.",
        run: |bench| {
            for (order, up) in [
                ("vf 0 state disable", 0),
                ("vf 0 state enable", 1),
                ("vf 0 state disable", 0),
                ("vf 0 state auto", 1),
                ("link down", 0),
                ("vf 0 state enable", 1),
                ("vf 0 state auto", 0),
                ("link up", 1),
            ] {
                bench.administer(order)?;
                let mut link = bench.link(&NetConfig::default())?;
                let space = match link.tx.frontend() {
                    Some(frontend) => frontend.get_config(6, 2)?,
                    None => Vec::new(),
                };
                let status = space.first().copied().unwrap_or_default();
                ensure(
                    status & 1 == up,
                    format_args!("status is {status:#x} after '{order}'"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "link/config-change-msg",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Feature(feature::STATUS, "STATUS"),
            Need::Protocol(protocol::CONFIG, "CONFIG"),
            Need::Protocol(protocol::BACKEND_REQ, "BACKEND_REQ"),
        ],
        source: "VU BACKEND_CONFIG_CHANGE_MSG; V 5.1.4 (status)",
        sent: "SET_BACKEND_REQ_FD, and of a VF whose rings run state disable and auto, and the port's link down and up.",
        expected: "BACKEND_CONFIG_CHANGE_MSG after each, once, and GET_CONFIG tells the new status then.",
        run: |bench| {
            let gone = || Failure::Wrong("there is no session".into());
            let (mut link, mut requests) = asked_by(bench, protocol::CONFIG)?;
            for (order, up) in [
                ("vf 0 state disable", 0),
                ("vf 0 state auto", 1),
                ("link down", 0),
                ("link up", 1),
            ] {
                bench.administer(order)?;
                let header = requests.receive()?.header;
                ensure(
                    header.request == CHANGED,
                    format_args!("request {} of the back end's", header.request),
                )?;
                if header.flags & FLAG_NEED_REPLY != 0 {
                    requests.send(CHANGED, FLAG_REPLY, &[0; 8], &[])?;
                }
                let front = link.tx.frontend().ok_or_else(gone)?;
                let status = front.get_config(6, 2)?.first().copied().unwrap_or_default();
                ensure(
                    status & 1 == up,
                    format_args!("status is {status:#x} after '{order}'"),
                )?;
                ensure(
                    !requests.readable(QUIET)?,
                    "another request of the back end's came",
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "link/config-change-elsewhere",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Feature(feature::STATUS, "STATUS"),
            Need::Protocol(protocol::CONFIG, "CONFIG"),
            Need::Protocol(protocol::BACKEND_REQ, "BACKEND_REQ"),
        ],
        source: "VU SET_BACKEND_REQ_FD (the descriptor for what the back end asks); VU BACKEND_CONFIG_CHANGE_MSG",
        sent: "SET_BACKEND_REQ_FD twice, the first socket closed, and state disable of a VF whose rings run.",
        expected: "BACKEND_CONFIG_CHANGE_MSG on the second socket.",
        run: |bench| {
            let mut config = NetConfig::default();
            config.protocol_features |= protocol::BACKEND_REQ;
            let mut link = bench.link(&config)?;
            let (first, second) = (UnixStream::pair()?, UnixStream::pair()?);
            let gone = || Failure::Wrong("there is no session".into());
            let front = link.tx.frontend().ok_or_else(gone)?;
            for (_, theirs) in [&first, &second] {
                front.set(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
            }
            drop(first);
            bench.administer("vf 0 state disable")?;
            let mut requests = Frontend::from_stream(second.0)?;
            ensure(
                requests.readable(DEADLINE)?,
                "nothing came on the second socket",
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "link/flap-storm",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "link flaps lose frames, and nothing else",
        sent: "40 times link down and up, with frames in between.",
        expected: "A frame passes in the end, and the session lives.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..40 {
                for state in ["down", "up"] {
                    bench.administer(&format!("link {state}"))?;
                    let frame = link.frame(100);
                    link.send(&frame)?;
                }
            }
            link.sent()?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "link/down-drains-tx",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Linux ndo_start_xmit without a carrier; V 5.1.9.2",
        sent: "200 frames by a VF whose link is down.",
        expected: "All are given back, and none arrives.",
        run: |bench| {
            bench.administer("vf 0 state disable")?;
            let mut link = bench.link(&NetConfig::default())?;
            let mut last = Vec::new();
            for _ in 0..200 {
                last = link.frame(100);
                link.send(&last)?;
            }
            link.sent()?;
            link.expect_nothing(&last)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "link/disabled-receives-nothing",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf state disable",
        sent: "A frame to the address of a VF in state disable, one to a group and a broadcast, from a VF whose link is up; and once more in state enable.",
        expected: "None arrive, and then those to its address and to all do.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let own = link.dst;
            bench.administer("vf 1 state disable")?;
            for dst in [own, GROUP, ALL] {
                to(&mut link, dst, false)?;
            }
            bench.administer("vf 1 state enable")?;
            for dst in [own, ALL] {
                to(&mut link, dst, true)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/reserved-not-forwarded",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 8.6.3 (reserved addresses); IEEE 802.3-2022 31 (MAC Control)",
        sent: "Frames to each of 01-80-C2-00-00-00 to -0F, and a MAC Control frame (EtherType 0x8808) to the address of the other VF.",
        expected: "None arrive: they are for the neighbour on a link, such as PAUSE, and no bridge of customers relays them.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for last in 0..=0xf {
                to(&mut link, [0x01, 0x80, 0xc2, 0, 0, last], false)?;
            }
            let mut pause = link.frame(60);
            pause[12..16].copy_from_slice(&[0x88, 0x08, 0, 1]);
            link.send(&pause)?;
            link.expect_nothing(&pause)?;
            let frame = link.frame(60);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "link/config-change-of-mac",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Protocol(protocol::CONFIG, "CONFIG"),
            Need::Protocol(protocol::BACKEND_REQ, "BACKEND_REQ"),
        ],
        source: "VU BACKEND_CONFIG_CHANGE_MSG; V 5.1.4 (mac); ip-link(8) vf mac",
        sent: "SET_BACKEND_REQ_FD, and another address for a VF whose rings run.",
        expected: "BACKEND_CONFIG_CHANGE_MSG, once, and GET_CONFIG tells the new address then.",
        run: |bench| {
            let (mut link, mut requests) = asked_by(bench, protocol::CONFIG)?;
            bench.administer(&format!("vf 0 mac {}", colons(NEW)))?;
            let header = requests.receive()?.header;
            ensure(
                header.request == CHANGED,
                format_args!("request {} of the back end's", header.request),
            )?;
            told(&mut link.tx, NEW)?;
            let more = requests.readable(QUIET)?;
            ensure(!more, "another request of the back end's came")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "link/config-change-unasked",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Feature(feature::STATUS, "STATUS"),
            Need::Protocol(protocol::CONFIG, "CONFIG"),
            Need::Protocol(protocol::BACKEND_REQ, "BACKEND_REQ"),
        ],
        source: "VU BACKEND_CONFIG_CHANGE_MSG (if CONFIG is negotiated)",
        sent: "SET_BACKEND_REQ_FD by a front end that has accepted BACKEND_REQ and not CONFIG, and of a VF whose rings run state disable and auto.",
        expected: "Nothing: such a front end does not know the message.",
        run: |bench| {
            let (_link, mut requests) = asked_by(bench, 0)?;
            for state in ["disable", "auto"] {
                bench.administer(&format!("vf 0 state {state}"))?;
                ensure(
                    !requests.readable(QUIET)?,
                    format_args!("a request of the back end's came behind state {state}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// Frames while the port's link is down and up again, of which those arrive.
fn in_state(bench: &Bench, state: &str, arrive: [bool; 2]) -> Result<Seen, Failure> {
    for vf in 0..2 {
        bench.administer(&format!("vf {vf} state {state}"))?;
    }
    let mut link = bench.link(&NetConfig::default())?;
    for (port, arrives) in ["down", "up"].iter().zip(arrive) {
        bench.administer(&format!("link {port}"))?;
        let frame = link.frame(100);
        link.send(&frame)?;
        is_seen(&mut link, &frame, arrives)?;
    }
    Ok(Seen::Conforms)
}

fn order(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    for _ in 0..8 {
        let frames: Vec<_> = (0..50).map(|n| link.frame_of_flow(n % 8)).collect();
        for frame in &frames {
            ensure(
                link.tx.send(0, &NetHeader::default(), frame)?,
                "the send ring is full",
            )?;
        }
        link.tx.kick();
        let mut next: Vec<Vec<_>> = vec![Vec::new(); 8];
        for (n, frame) in frames.iter().enumerate().rev() {
            next[n % 8].push(frame);
        }
        for _ in 0..frames.len() {
            let Some(got) = link.receive(DEADLINE)? else {
                return Err(Failure::Wrong("a frame of a flow did not arrive".into()));
            };
            let flow = next
                .iter_mut()
                .find(|flow| flow.last().is_some_and(|f| f.as_slice() == got.bytes()));
            match flow {
                Some(flow) => drop(flow.pop()),
                None => {
                    return Err(Failure::Wrong(
                        "a frame came out of its flow's order".into(),
                    ));
                }
            }
        }
    }
    Ok(Seen::Conforms)
}

/// A link whose sender has given the back end a socket for its requests, the other end of it, and CONFIG accepted or not.
fn asked_by(bench: &Bench, config: u64) -> Result<(Link, Frontend), Failure> {
    let usual = NetConfig::default();
    let accepted = usual.protocol_features & !protocol::CONFIG | config | protocol::BACKEND_REQ;
    let mut link = bench.link(&NetConfig {
        protocol_features: accepted,
        ..usual
    })?;
    let frame = link.frame(100);
    link.send(&frame)?;
    link.sent()?;
    let (ours, theirs) = UnixStream::pair()?;
    let gone = || Failure::Wrong("there is no session".into());
    let front = link.tx.frontend().ok_or_else(gone)?;
    front.set(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
    Ok((link, Frontend::from_stream(ours)?))
}
