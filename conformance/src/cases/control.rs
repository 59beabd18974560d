//! The control queue, for back ends that serve it themselves: what is obeyed shows in what arrives. What a receive filter keeps out is in
//! `receive_filter`, how long calls are held back in `coalescing`.

use std::time::Duration;

use crate::bench::{Bench, Link, with};
use crate::case::{Case, Level, Need};
use crate::control::{
    ERR, OK, at_once, coalesce, command, mac_table, obeyed, queue_pairs, refused, vlan,
};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{DESC_NEXT, Desc};
use vf_guest::net::{NetConfig, NetDevice, feature};

const CTRL: Need = Need::Control;
pub(super) const RX: Need = Need::Feature(feature::CTRL_VQ | feature::CTRL_RX, "CTRL_RX");
pub(super) const EXTRA: Need =
    Need::Feature(feature::CTRL_RX | feature::CTRL_RX_EXTRA, "CTRL_RX_EXTRA");
pub(super) const VLAN: Need = Need::Feature(feature::CTRL_VQ | feature::CTRL_VLAN, "CTRL_VLAN");
pub(super) const MAC: Need =
    Need::Feature(feature::CTRL_VQ | feature::CTRL_MAC_ADDR, "CTRL_MAC_ADDR");
pub(super) const MQ: Need = Need::Feature(feature::CTRL_VQ | feature::MQ, "MQ");
pub(super) const CONFIG: Need = Need::Protocol(vf_guest::message::protocol::CONFIG, "CONFIG");

/// All that can be said on a control queue.
pub(super) const ALL: u64 = feature::CTRL_VQ
    | feature::CTRL_RX
    | feature::CTRL_RX_EXTRA
    | feature::CTRL_VLAN
    | feature::CTRL_MAC_ADDR
    | feature::NOTF_COAL
    | feature::VQ_NOTF_COAL;

pub(super) const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0xc0, 0x77];
pub(super) const GROUP: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0x17];
pub(super) const BROADCAST: [u8; 6] = [0xff; 6];

pub(super) const CASES: &[Case] = &[
    Case {
        id: "control/rx-mode",
        level: Level::Must,
        needs: &[CTRL, RX],
        source: "V 5.1.9.5.1.1",
        sent: "Promiscuous and all-multicast mode, on and off.",
        expected: "Obeyed, and a frame passes.",
        run: |bench| {
            let mut link = controlled(bench)?;
            for mode in [0, 1] {
                for on in [1, 0] {
                    obeyed(link.receiver(), &[0, mode, on])?;
                }
            }
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/without-mq",
        level: Level::Text,
        needs: &[CTRL, RX],
        source: "V 5.1.2 Virtqueues",
        sent: "Promiscuous mode, on and off, by a driver that has not accepted MQ: its control queue is the third ring.",
        expected: "Obeyed, and a frame passes.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&NetConfig {
                features: (config.features | ALL) & !feature::MQ,
                ..config
            })?;
            for on in [1, 0] {
                obeyed(link.receiver(), &[0, 0, on])?;
            }
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/rx-mode-extra",
        level: Level::Should,
        needs: &[CTRL, EXTRA, Need::Peer],
        source: "V 5.1.9.5.1.1",
        sent: "NOUNI, NOMULTI and NOBCAST, on and off.",
        expected: "Frames of that kind stay away while it is on, and no others.",
        run: |bench| {
            let mut link = controlled(bench)?;
            obeyed(link.receiver(), &mac_table(&[], &[GROUP]))?;
            let own = link.dst;
            for (mode, dst) in [(4, own), (3, GROUP), (5, BROADCAST)] {
                gets(&mut link, dst, true)?;
                obeyed(link.receiver(), &[0, mode, 1])?;
                gets(&mut link, dst, false)?;
                obeyed(link.receiver(), &[0, mode, 0])?;
                gets(&mut link, dst, true)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/mac-table",
        level: Level::Must,
        needs: &[CTRL, RX, Need::Peer],
        source: "V 5.1.9.5.2.1",
        sent: "MAC_TABLE_SET with three addresses and eight groups, in no order and one of them twice, then with one of each.",
        expected: "Frames to each arrive while it is listed, to all and to the own address in any case.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let stations = [0x79, 0x77, 0x78].map(|last| [2, 0, 0, 0, 0xc0, last]);
            let groups = [9, 3, 7, 1, 5, 3, 0x17, 4].map(|last| [1, 0, 0x5e, 0, 0, last]);
            obeyed(link.receiver(), &mac_table(&stations, &groups))?;
            for dst in stations
                .into_iter()
                .chain(groups)
                .chain([BROADCAST, link.dst])
            {
                gets(&mut link, dst, true)?;
            }
            obeyed(link.receiver(), &mac_table(&[OTHER], &[GROUP]))?;
            for dst in [OTHER, GROUP, BROADCAST, link.dst] {
                gets(&mut link, dst, true)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/mac-addr",
        level: Level::Must,
        needs: &[CTRL, MAC, CONFIG, Need::Peer],
        source: "V 5.1.9.5.2",
        sent: "MAC_ADDR_SET.",
        expected: "Frames to the new address arrive, and configuration space tells it; a new driver finds the first one.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let own = link.dst;
            obeyed(link.receiver(), &address(OTHER))?;
            gets(&mut link, OTHER, true)?;
            told(link.receiver(), OTHER)?;
            obeyed(link.receiver(), &address(own))?;
            gets(&mut link, own, true)?;
            told(link.receiver(), own)?;
            // A new driver finds what the device came with.
            obeyed(link.receiver(), &address(OTHER))?;
            drop(link);
            let mut link = controlled(bench)?;
            told(link.receiver(), own)?;
            gets(&mut link, own, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/mac-addr-multicast",
        level: Level::Hard,
        needs: &[CTRL, MAC],
        source: "V 5.1.9.5.2",
        sent: "MAC_ADDR_SET with a group address and with zeroes.",
        expected: "An answer, and a fresh session passes frames: a driver SHOULD NOT do this, and no text says what a device does then.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let mut seen = Seen::Refused;
            for mac in [GROUP, [0; 6]] {
                let (said, _) = command(link.receiver(), &address(mac), 0)?;
                if said == OK {
                    seen = Seen::Tolerated;
                }
            }
            drop(link);
            bench.contained(Ok(()))?;
            Ok(seen)
        },
    },
    Case {
        id: "control/vlan",
        level: Level::Must,
        needs: &[CTRL, VLAN, Need::Peer],
        source: "V 5.1.9.5.3.1",
        sent: "VLAN_ADD of four VLANs in no order, and VLAN_DEL of one.",
        expected: "With CTRL_VLAN tagged frames arrive in the VLANs that were added and not taken away; untagged ones always.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let vlans = [5, 4094, 6, 0x234];
            for vid in vlans {
                obeyed(link.receiver(), &vlan(true, vid))?;
            }
            for vid in vlans {
                gets_tagged(&mut link, vid, true)?;
            }
            obeyed(link.receiver(), &vlan(false, 6))?;
            for vid in vlans.into_iter().filter(|vid| *vid != 6) {
                gets_tagged(&mut link, vid, true)?;
            }
            let own = link.dst;
            gets(&mut link, own, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/vlan-not-negotiated",
        level: Level::Must,
        needs: &[CTRL, Need::Peer],
        source: "V 5.1.9.5.3.1",
        sent: "A tagged frame to a driver that did not accept CTRL_VLAN.",
        expected: "It arrives: the device MUST NOT filter VLANs then.",
        run: |bench| {
            let mut link = bench.link(&with(ALL & !feature::CTRL_VLAN))?;
            gets_tagged(&mut link, 5, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/queue-pairs",
        level: Level::Text,
        needs: &[CTRL, MQ, CONFIG],
        source: "V 5.1.9.5.6",
        sent: "VQ_PAIRS_SET with 1, all, and numbers that there are not.",
        expected: "Obeyed or refused accordingly, and a frame passes.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let device = link.receiver();
            let most = device.config_space().max_virtqueue_pairs;
            for pairs in [1, most] {
                obeyed(device, &queue_pairs(pairs))?;
            }
            for pairs in [0, most + 1, 0x8001] {
                refused(device, &queue_pairs(pairs))?;
            }
            obeyed(device, &queue_pairs(1))?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/one-pair-until-asked",
        level: Level::Must,
        needs: &[CTRL, MQ, CONFIG, Need::Peer, Need::Pairs(2)],
        source: "V 5.1.9.5.6; cloud-hypervisor #8307",
        sent: "Frames of many flows to a receiver that has two pairs of rings enabled, while its driver has chosen none, both, and one.",
        expected: "Each arrives, and in the second pair only while both are chosen.",
        run: |bench| {
            const PAIRS: usize = 2;
            let mut link = controlled_pairs(bench, PAIRS as u16)?;
            // Its front end has enabled both pairs; its driver has chosen none, then both, then one.
            for chosen in [None, Some(2), Some(1)] {
                if let Some(pairs) = chosen {
                    obeyed(link.receiver(), &queue_pairs(pairs))?;
                }
                for flow in 0..32 {
                    let frame = link.frame_of_flow(flow);
                    link.send(&frame)?;
                    let pair = link.arrives_on(&frame, PAIRS)?;
                    ensure(
                        pair == 0 || chosen == Some(2),
                        "a frame came in a pair that the driver has not chosen",
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/new-driver-begins-anew",
        level: Level::Should,
        needs: &[CTRL, RX, VLAN, Need::Peer],
        source: "V 5.1.9.5.2.1, 5.1.9.5.3.1; V 2.4.1",
        sent: "A MAC table and a VLAN of one driver, the end of its session, and a new driver.",
        expected: "The new one receives neither those addresses nor that VLAN: the tables are empty after a reset, and what is in none should be dropped.",
        run: |bench| {
            let mut link = controlled(bench)?;
            obeyed(link.receiver(), &mac_table(&[OTHER], &[GROUP]))?;
            obeyed(link.receiver(), &vlan(true, 5))?;
            for dst in [OTHER, GROUP] {
                gets(&mut link, dst, true)?;
            }
            gets_tagged(&mut link, 5, true)?;
            drop(link);
            let mut link = controlled(bench)?;
            for dst in [OTHER, GROUP] {
                gets(&mut link, dst, false)?;
            }
            gets_tagged(&mut link, 5, false)?;
            let own = link.dst;
            gets(&mut link, own, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/new-driver-hears-all",
        level: Level::Text,
        needs: &[CTRL, EXTRA, Need::Peer],
        source: "V 2.4, 5.1.9.5.1",
        sent: "NOUNI, NOMULTI and NOBCAST of one driver, the end of its session, and a new driver that lists a group.",
        expected: "The new one receives what is for it, that group and broadcast: what the one before did not want went with it.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let own = link.dst;
            for mode in [3, 4, 5] {
                obeyed(link.receiver(), &[0, mode, 1])?;
            }
            for dst in [own, GROUP, BROADCAST] {
                gets(&mut link, dst, false)?;
            }
            drop(link);
            let mut link = controlled(bench)?;
            obeyed(link.receiver(), &mac_table(&[], &[GROUP]))?;
            for dst in [own, GROUP, BROADCAST] {
                gets(&mut link, dst, true)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/unknown-command",
        level: Level::Text,
        needs: &[CTRL],
        source: "V 5.1.9.5",
        sent: "Classes and commands that there are not.",
        expected: "VIRTIO_NET_ERR for each.",
        run: |bench| {
            let mut link = controlled(bench)?;
            for bytes in [
                &[0x7f, 0][..],
                &[0, 0x7f, 1],
                &[1, 0x7f],
                &[2, 0x7f, 5, 0],
                &[4, 0x7f, 1, 0],
            ] {
                refused(link.receiver(), bytes)?;
            }
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/not-negotiated",
        level: Level::Hard,
        needs: &[CTRL],
        source: "V 5.1.9.5, 3.2.1",
        sent: "Commands whose features were not accepted.",
        expected: "An answer to each, and a fresh session passes frames: a driver MUST NOT send them, and no text says what a device does then.",
        run: |bench| {
            let mut link = bench.link(&with(feature::CTRL_VQ))?;
            let mut seen = Seen::Refused;
            for bytes in [
                vec![0, 0, 1],
                vec![0, 4, 1],
                mac_table(&[], &[]),
                address(OTHER),
                vlan(true, 5),
                coalesce(1, None, 0, 0),
            ] {
                let (said, _) = command(link.receiver(), &bytes, 0)?;
                if said == OK {
                    seen = Seen::Tolerated;
                }
            }
            drop(link);
            bench.contained(Ok(()))?;
            Ok(seen)
        },
    },
    Case {
        id: "control/malformed",
        level: Level::Hard,
        needs: &[CTRL, RX],
        source: "V 5.1.9.5",
        sent: "Commands that end too soon or count more than they have.",
        expected: "Contained; usually VIRTIO_NET_ERR is the answer to each, and frames go on. A device may also stop the ring.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let mut lie = mac_table(&[OTHER], &[GROUP]);
            lie[2..6].copy_from_slice(&u32::MAX.to_le_bytes());
            for bytes in [
                vec![],
                vec![0],
                vec![0, 0],
                vec![1, 0, 1, 0, 0, 0],
                vec![1, 1, 2],
                vec![2, 0, 5],
                lie,
            ] {
                match command(link.receiver(), &bytes, 0) {
                    Ok((said, _)) => link.notes().ought(
                        Level::Model,
                        said == ERR,
                        format_args!("a command of {} bytes was obeyed", bytes.len()),
                    ),
                    // It is not answered any more.
                    Err(Failure::Wrong(_)) => {
                        drop(link);
                        bench.contained(Ok(()))?;
                        return Ok(Seen::RingStopped);
                    }
                    Err(other) => return Err(other),
                }
            }
            let frame = link.frame(100);
            link.pass(&frame)?;
            drop(link);
            bench.contained(Ok(()))
        },
    },
    Case {
        id: "control/huge-mac-table",
        level: Level::Hard,
        needs: &[CTRL, RX],
        source: "V 5.1.9.5.2",
        sent: "MAC tables of 64 to 9000 addresses.",
        expected: "An answer, and frames to the own address go on arriving.",
        run: |bench| {
            let mut link = controlled(bench)?;
            for count in [64u32, 1024, 1025, 9000] {
                let mac = |i: u32| {
                    let [_, b, c, d] = i.to_be_bytes();
                    [0x02, 0, 0xaa, b, c, d]
                };
                let unicast: Vec<_> = (0..count).map(mac).collect();
                // As many as it likes: one that overflows may refuse, or receive too much.
                command(link.receiver(), &mac_table(&unicast, &[]), 0)?;
                let own = link.dst;
                gets(&mut link, own, true)?;
            }
            drop(link);
            bench.contained(Ok(()))
        },
    },
    Case {
        id: "control/during-traffic",
        level: Level::Text,
        needs: &[CTRL, RX, Need::Delivery],
        source: "V 5.1.9.5",
        sent: "200 frames with two commands after each.",
        expected: "Every frame arrives.",
        run: |bench| {
            let mut link = controlled(bench)?;
            for i in 0..200u8 {
                let frame = link.frame(100 + usize::from(i));
                link.send(&frame)?;
                obeyed(link.receiver(), &[0, 1, i % 2])?;
                obeyed(
                    link.receiver(),
                    &mac_table(&[], &[[0x01, 0, 0x5e, 0, 0, i]]),
                )?;
                link.expect(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/many-at-once",
        level: Level::Text,
        needs: &[CTRL, RX],
        source: "V 5.1.9.5; VU SET_VRING_KICK",
        sent: "200 commands with one kick behind them.",
        expected: "Each is given back, and frames go on.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&NetConfig {
                features: config.features | ALL,
                control_size: 512,
                ..config
            })?;
            at_once(link.receiver(), &[0, 0, 1], 200)?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/loop",
        level: Level::Hard,
        needs: &[CTRL],
        source: "V 2.7.5.2",
        sent: "A descriptor chain on the control queue that leads back to its start.",
        expected: "Contained; frames go on.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let device = link.receiver();
            let control = device.control_index();
            if let Some(ring) = device.control_ring() {
                let addr = ring.buffer_addr(0);
                let desc = Desc {
                    addr,
                    len: 2,
                    flags: DESC_NEXT,
                    next: 0,
                };
                if let Some(queue) = ring.queue.as_split() {
                    queue.set_desc(0, desc);
                    queue.set_avail_entry(0, 0);
                    queue.set_avail_idx(1);
                }
                if let Some(kick) = &ring.kick {
                    kick.signal();
                }
            }
            std::thread::sleep(Duration::from_millis(20));
            // Frames go on; what becomes of the ring is the back end's choice.
            let frame = link.frame(100);
            let passed = link.pass(&frame);
            let answer = match link.receiver().frontend() {
                Some(frontend) => frontend.get_vring_base(control).map(drop),
                None => Ok(()),
            };
            if answer.is_ok() {
                passed?;
            }
            drop(link);
            bench.contained(answer)
        },
    },
    Case {
        id: "control/vlan-groups",
        level: Level::Should,
        needs: &[CTRL, VLAN, Need::Peer],
        source: "V 5.1.9.5.3.1",
        sent: "Broadcasts tagged 5 and 6 to a driver that has added VLAN 5.",
        expected: "That of 5 arrives, that of 6 does not: a VLAN that is not in the table should be filtered, whoever the frame is for.",
        run: |bench| {
            let mut link = controlled(bench)?;
            obeyed(link.receiver(), &vlan(true, 5))?;
            for (vid, does) in [(5, true), (6, false)] {
                arrives(&mut link, does, |frame| {
                    let tag = [0x81, 0, 0, vid];
                    [&BROADCAST[..], &frame[6..12], &tag, &frame[12..]].concat()
                })?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// A link both ends of which have a control queue with all that the subject offers.
pub(super) fn controlled(bench: &Bench) -> Result<Link, Failure> {
    bench.link(&NetConfig {
        features: NetConfig::default().features | ALL,
        ..NetConfig::default()
    })
}

/// The same with so many pairs of rings of the receiver's.
pub(super) fn controlled_pairs(bench: &Bench, pairs: u16) -> Result<Link, Failure> {
    let rx = NetConfig {
        features: NetConfig::default().features | ALL,
        queue_pairs: pairs,
        ..NetConfig::default()
    };
    bench.link_of(&NetConfig::default(), &rx)
}

/// `VIRTIO_NET_CTRL_MAC_ADDR_SET`.
pub(super) fn address(mac: [u8; 6]) -> Vec<u8> {
    [&[1, 1][..], &mac].concat()
}

/// Checks that the receiver gets a frame to `dst`, or does not.
pub(super) fn gets(link: &mut Link, dst: [u8; 6], does: bool) -> Result<(), Failure> {
    arrives(link, does, |frame| {
        let (_, rest) = frame.split_at(6);
        [&dst[..], rest].concat()
    })
}

/// The same of a frame to the receiver's own address in a VLAN.
pub(super) fn gets_tagged(link: &mut Link, vid: u16, does: bool) -> Result<(), Failure> {
    let tag = [&[0x81, 0][..], &vid.to_be_bytes()].concat();
    arrives(link, does, |frame| {
        let (addresses, rest) = frame.split_at(12);
        [addresses, &tag, rest].concat()
    })
}

/// Who has been told that a command is obeyed finds it in force: one frame decides.
fn arrives(link: &mut Link, does: bool, make: impl Fn(&[u8]) -> Vec<u8>) -> Result<(), Failure> {
    let frame = link.frame(100);
    let frame = make(&frame);
    link.send(&frame)?;
    match does {
        true => link.expect(&frame).map(drop),
        false => link.expect_nothing(&frame),
    }
}

/// Checks the address in configuration space.
pub(super) fn told(device: &mut NetDevice, mac: [u8; 6]) -> Result<(), Failure> {
    let Some(frontend) = device.frontend() else {
        return Ok(());
    };
    let space = frontend.get_config(0, 6)?;
    ensure(
        space == mac,
        format_args!("configuration space says {space:02x?}, not {mac:02x?}"),
    )
}
