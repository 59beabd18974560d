//! What a driver's receive filter keeps out, which a device should and need not, and what it lets in though nothing lists it; and whether there is
//! a control queue where the document has it. Frames that arrive, and those that do not, tell: never looks at a table.

use crate::bench::{Bench, DEADLINE, QUIET, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::clauses::stopped;
use crate::cases::clauses_net::set_mtu;
use crate::cases::coalescing::held;
use crate::cases::control::{
    ALL, BROADCAST, CONFIG, EXTRA, GROUP, MAC, MQ, OTHER, RX, VLAN, address, controlled,
    controlled_pairs, gets, gets_tagged, told,
};
use crate::cases::ring_states::frame_to_sender;
use crate::cases::vf::{ADMIN, is_seen, tagged};
use crate::control::{OK, coalesce, command, command_cut, mac_table, obeyed, queue_pairs, vlan};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::message::{protocol, request};
use vf_guest::net::{NetConfig, feature};

const CTRL: Need = Need::Control;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "control/served",
        level: Level::Text,
        needs: &[
            Need::Feature(feature::CTRL_VQ | feature::MQ, "CTRL_VQ"),
            Need::Protocol(protocol::MQ | protocol::CONFIG, "MQ and CONFIG"),
        ],
        source: "V 5.1.2 Virtqueues, 5.1.9.5; VU GET_QUEUE_NUM",
        sent: "GET_QUEUE_NUM, and, if that is odd and so counts a control queue behind the pairs, a command on the ring behind them.",
        expected: "There are twice max_virtqueue_pairs and one rings, and the command is answered; or the number is that of the pairs.",
        run: served,
    },
    Case {
        id: "control/enabled-without-f30",
        level: Level::Must,
        needs: &[CTRL, RX],
        source: "VU Ring states; V 5.1.2 Virtqueues",
        sent: "SET_FEATURES without VHOST_USER_F_PROTOCOL_FEATURES and MQ, no SET_VRING_ENABLE, and promiscuous mode, on and off, on the third ring.",
        expected: "Obeyed, and a frame passes: all rings start out enabled then, and not those for frames alone.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&NetConfig {
                features: (config.features | ALL) & !(feature::MQ | feature::PROTOCOL_FEATURES),
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
        id: "control/mac-table-keeps-out",
        level: Level::Should,
        needs: &[CTRL, RX, Need::Peer],
        source: "V 5.1.9.5.2.1",
        sent: "MAC_TABLE_SET with an address and a group, then with none.",
        expected: "Frames to both arrive while they are listed, and only then: a device should drop the others.",
        run: |bench| {
            let mut link = controlled(bench)?;
            for (unicast, multicast, does) in [
                (&[][..], &[][..], false),
                (&[OTHER], &[GROUP], true),
                (&[], &[], false),
            ] {
                obeyed(link.receiver(), &mac_table(unicast, multicast))?;
                for dst in [OTHER, GROUP] {
                    gets(&mut link, dst, does)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/mac-addr-keeps-out",
        level: Level::Should,
        needs: &[CTRL, MAC, CONFIG, Need::Peer],
        source: "V 5.1.9.5.2, 5.1.9.5.2.1",
        sent: "MAC_ADDR_SET of another address, of the first one again, and of another one before the session ends.",
        expected: "Frames to the address that is not the driver's any more do not arrive, at a new driver neither.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let own = link.dst;
            for (mine, other) in [(OTHER, own), (own, OTHER), (OTHER, own)] {
                obeyed(link.receiver(), &address(mine))?;
                gets(&mut link, mine, true)?;
                gets(&mut link, other, false)?;
            }
            drop(link);
            let mut link = controlled(bench)?;
            gets(&mut link, own, true)?;
            gets(&mut link, OTHER, false)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/vlan-keeps-out",
        level: Level::Should,
        needs: &[CTRL, VLAN, Need::Peer],
        source: "V 5.1.9.5.3.1",
        sent: "VLAN_ADD and VLAN_DEL, of the last one that is left, too.",
        expected: "Tagged frames of a VLAN that was not added, or was taken away, do not arrive: of none when there is none.",
        run: |bench| {
            let mut link = controlled(bench)?;
            gets_tagged(&mut link, 5, false)?;
            obeyed(link.receiver(), &vlan(true, 5))?;
            gets_tagged(&mut link, 5, true)?;
            gets_tagged(&mut link, 6, false)?;
            obeyed(link.receiver(), &vlan(true, 6))?;
            obeyed(link.receiver(), &vlan(false, 5))?;
            gets_tagged(&mut link, 5, false)?;
            gets_tagged(&mut link, 6, true)?;
            obeyed(link.receiver(), &vlan(false, 6))?;
            for vid in [5, 6, 7] {
                gets_tagged(&mut link, vid, false)?;
            }
            let own = link.dst;
            gets(&mut link, own, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/vlan-priority-tag",
        level: Level::Model,
        needs: &[CTRL, VLAN, Need::Peer],
        source: "IEEE 802.1Q-2018 6.9 (what only carries a priority is in no VLAN of its own); V 5.1.9.5.3.1",
        sent: "Frames with a tag of VLAN 0 to a driver that has added none, and one, to its address and to all.",
        expected: "They arrive, as those without a tag do.",
        run: |bench| {
            let mut link = controlled(bench)?;
            for add in [false, true] {
                if add {
                    obeyed(link.receiver(), &vlan(true, 5))?;
                }
                for dst in [link.dst, BROADCAST] {
                    let mut frame = link.frame(100);
                    frame[..6].copy_from_slice(&dst);
                    let frame = tagged(&frame, 0x8100, 5 << 13);
                    link.send(&frame)?;
                    is_seen(&mut link, &frame, true)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/modes-beside",
        level: Level::Should,
        needs: &[ADMIN, CTRL, EXTRA, Need::Peer],
        source: "V 5.1.9.5.1.1",
        sent: "By a driver that is trusted and in all-multicast and all-unicast mode, NOBCAST, NOUNI and NOMULTI, on and off.",
        expected: "Frames of that kind stay away while it is on, and no others: neither of the two makes up for one of the three.",
        run: |bench| {
            bench.administer("vf 1 trust on")?;
            let mut link = controlled(bench)?;
            for mode in [1, 2] {
                obeyed(link.receiver(), &[0, mode, 1])?;
            }
            let kinds = [(5, BROADCAST), (4, link.dst), (3, GROUP)];
            for (mode, _) in kinds {
                for on in [1, 0] {
                    obeyed(link.receiver(), &[0, mode, on])?;
                    for (of, dst) in kinds {
                        gets(&mut link, dst, on == 0 || of != mode)?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/service-tags",
        level: Level::Model,
        needs: &[CTRL, VLAN, Need::Peer],
        source: "Linux virtio_net (NETIF_F_HW_VLAN_CTAG_FILTER: a driver lists VLANs of C-TAGs); V 5.1.9.5.3.1",
        sent: "Frames with an S-TAG (0x88a8), to its address and to all, to a driver that has added VLAN 5.",
        expected: "They arrive: it has not been able to list them.",
        run: |bench| {
            let mut link = controlled(bench)?;
            obeyed(link.receiver(), &vlan(true, 5))?;
            for dst in [link.dst, BROADCAST] {
                let mut frame = link.frame(100);
                frame[..6].copy_from_slice(&dst);
                let frame = tagged(&frame, 0x88a8, 7);
                link.send(&frame)?;
                is_seen(&mut link, &frame, true)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/mtu-not-exceeded",
        level: Level::Text,
        needs: &[
            CTRL,
            CONFIG,
            Need::Feature(feature::MTU, "MTU"),
            Need::Protocol(protocol::NET_MTU, "NET_MTU"),
            Need::Peer,
        ],
        source: "V 5.1.4.1; VU NET_SET_MTU",
        sent: "NET_SET_MTU 1300, or 100 less than the mtu that is told, for a driver with a control queue that has accepted MTU, before its rings start; and to it a frame as long as that and one that is 186 bytes longer.",
        expected: "The first arrives and the second does not: what it says on the queue has nothing to do with that.",
        run: mtu_not_exceeded,
    },
    Case {
        id: "control/stop-keeps",
        level: Level::Text,
        needs: &[
            CTRL,
            MAC,
            MQ,
            CONFIG,
            Need::Peer,
            Need::Feature(feature::VQ_NOTF_COAL, "VQ_NOTF_COAL"),
            Need::Pairs(2),
        ],
        source: "VU Ring states; VU GET_VRING_BASE (it stops a ring, and is no reset); V 5.1.9.5",
        sent: "An address, two pairs and moderation of a ring, each obeyed; GET_VRING_BASE of all rings, and all of them again where they were.",
        expected: "What the driver has chosen is as before: only a reset takes it back.",
        run: stop_keeps,
    },
    Case {
        id: "control/framing-free",
        level: Level::Must,
        needs: &[CTRL, RX, Need::Peer],
        source: "V 2.7.4.1, 5.1.9.5.2.1",
        sent: "MAC_TABLE_SET with an address and a group, as one piece, as Linux cuts it (header, addresses, groups), cut elsewhere, and a byte a descriptor; in an indirect table, too.",
        expected: "Each is obeyed, and frames to both arrive: the device MUST NOT assume how a command is cut.",
        run: |bench| {
            let mut link = bench.link(&NetConfig {
                features: NetConfig::default().features | ALL,
                control_size: 64,
                ..NetConfig::default()
            })?;
            let table = mac_table(&[OTHER], &[GROUP]);
            let bytes: Vec<usize> = (1..table.len()).collect();
            let indirect = link.receiver().has(feature::INDIRECT_DESC);
            for cuts in [&[][..], &[2, 12], &[1, 5, 13, 18], &bytes] {
                for indirect in [false, true].into_iter().filter(|kind| indirect || !kind) {
                    obeyed(link.receiver(), &mac_table(&[], &[]))?;
                    let (said, _) = command_cut(link.receiver(), &table, 0, cuts, indirect)?;
                    ensure(
                        said == OK,
                        format_args!(
                            "MAC_TABLE_SET was refused, cut at {cuts:?} (indirect: {indirect})"
                        ),
                    )?;
                    for dst in [OTHER, GROUP] {
                        gets(&mut link, dst, true)?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/mac-table-many",
        level: Level::Model,
        needs: &[CTRL, RX, Need::Peer],
        source: "V 5.1.9.5.2.1; Linux ixgbe (30 groups of an untrusted VF), IPv6 neighbour discovery (a group for each address of a guest)",
        sent: "MAC_TABLE_SET with 16 addresses and 14 groups, and with 30 groups alone.",
        expected: "Obeyed, and frames to each arrive.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let stations: Vec<_> = (0..16).map(|n| [2, 0, 0, 0, 0xc1, n]).collect();
            let groups: Vec<_> = (0..30).map(|n| [0x33, 0x33, 0xff, 0, n % 7, n]).collect();
            for (stations, groups) in [(&stations[..], &groups[..14]), (&[], &groups[..])] {
                obeyed(link.receiver(), &mac_table(stations, groups))?;
                for dst in stations.iter().chain(groups) {
                    gets(&mut link, *dst, true)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/vlan-drop-eligible",
        level: Level::Model,
        needs: &[CTRL, VLAN, Need::Peer],
        source: "IEEE 802.1Q-2018 9.6 (VID has 12 bits, PCP and DEI are no part of it); V 5.1.9.5.3.1",
        sent: "Frames with priority 7 and DEI in a VLAN that a driver has added, and in one that it has not.",
        expected: "Those of the first arrive, those of the other do not: as without priority.",
        run: |bench| {
            const PRIORITY: u16 = 0xf000;
            let mut link = controlled(bench)?;
            obeyed(link.receiver(), &vlan(true, 5))?;
            for (vid, does) in [(5, true), (6, false)] {
                gets_tagged(&mut link, vid, does)?;
                gets_tagged(&mut link, PRIORITY | vid, does)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "control/vlan-zero",
        level: Level::Model,
        needs: &[CTRL, VLAN, Need::Peer],
        source: "Linux 8021q (a device with a VLAN filter is given VLAN 0 when it goes up); IEEE 802.1Q-2018 6.9",
        sent: "VLAN_ADD and VLAN_DEL of VLAN 0, and behind each a frame without a tag and one with a tag of VLAN 0.",
        expected: "Both are obeyed, and the frames arrive.",
        run: |bench| {
            let mut link = controlled(bench)?;
            let own = link.dst;
            for add in [true, false] {
                obeyed(link.receiver(), &vlan(add, 0))?;
                gets(&mut link, own, true)?;
                gets_tagged(&mut link, 5 << 13, true)?;
            }
            Ok(Seen::Conforms)
        },
    },
];

fn served(bench: &Bench) -> Result<Seen, Failure> {
    let mut front = bench.connect()?;
    let config = with(feature::CTRL_VQ);
    let (_, space) = vf_guest::net::negotiate(&mut front, &config)?;
    let queues = front.get_u64(request::GET_QUEUE_NUM)?;
    drop(front);
    let pairs = u64::from(space.max_virtqueue_pairs);
    // An even number is that of the pairs' rings alone, and DPDK and QEMU read any as that of the pairs: the front end has the control
    // queue.
    if queues % 2 == 0 || queues == pairs {
        return Ok(Seen::Tolerated);
    }
    ensure(
        queues == 2 * pairs + 1,
        format_args!("GET_QUEUE_NUM says {queues}, max_virtqueue_pairs {pairs}"),
    )?;
    let mut link = bench.link(&config)?;
    command(link.receiver(), &[0x7f, 0], 0)?;
    Ok(Seen::Conforms)
}

fn mtu_not_exceeded(bench: &Bench) -> Result<Seen, Failure> {
    let mtu = set_mtu(bench);
    let mut config = with(ALL);
    config.protocol_features |= protocol::NET_MTU;
    let mut link = bench.link_of(&config, &without(feature::MTU))?;
    let mut front = stopped(&mut link)?;
    let control = link.tx.control_index();
    front.get_vring_base(control)?;
    front.set_features(link.tx.features())?;
    front.set(request::NET_SET_MTU, &u64::from(mtu).to_ne_bytes(), &[])?;
    for ring in (0..link.tx.rings()).chain([control]) {
        link.tx.place_ring(&mut front, ring)?;
        link.tx.start_ring(&mut front, ring)?;
        front.set_vring_enable(ring, true)?;
    }
    link.tx.adopt(front);
    bench.settle();
    let longest = usize::from(mtu) + 14;
    for (len, does) in [(longest, true), (longest + 186, false)] {
        // The sender has accepted no mtu.
        let frame = link.frame_of(len);
        let frame = frame_to_sender(&mut link, frame)?;
        let wait = if does { DEADLINE } else { QUIET };
        let came = link.returned(wait, |came| came == frame)?;
        ensure(
            came == does,
            format_args!("a frame of {len} bytes came: {came}"),
        )?;
    }
    Ok(Seen::Conforms)
}

fn stop_keeps(bench: &Bench) -> Result<Seen, Failure> {
    const HELD: [u32; 2] = [3, 40];
    let mut link = controlled_pairs(bench, 2)?;
    let device = link.receiver();
    obeyed(device, &address(OTHER))?;
    obeyed(device, &queue_pairs(2))?;
    obeyed(device, &coalesce(2, Some(1), HELD[0], HELD[1]))?;
    let gone = || Failure::Wrong("there is no session".into());
    let mut front = device.take_frontend().ok_or_else(gone)?;
    let rings = (0..device.rings()).chain([device.control_index()]);
    for ring in rings.clone() {
        front.get_vring_base(ring)?;
    }
    for ring in rings {
        device.place_ring(&mut front, ring)?;
        device.start_ring(&mut front, ring)?;
    }
    device.adopt(front);
    bench.settle();
    told(link.receiver(), OTHER)?;
    let now = held(link.receiver(), 1)?;
    ensure(now == HELD, format_args!("VQ_GET of ring 1 said {now:?}"))?;
    let mut second = 0;
    for flow in 0..32 {
        let mut frame = link.frame_of_flow(flow);
        frame[..6].copy_from_slice(&OTHER);
        link.send(&frame)?;
        second += link.arrives_on(&frame, 2)?;
    }
    ensure(second > 0, "none of 32 flows came in the second pair")?;
    Ok(Seen::Conforms)
}
