//! What guests of one switch have to do with each other: nothing that an administrator has not ordered. Addresses that a driver takes and are
//! another's, lists that are a driver's own beside a neighbour in a port VLAN, copies of what goes to nobody here, and what becomes of frames that
//! are lost, by the counters of both. Never looks at what a back end has inside.

use std::time::Instant;

use crate::bench::{Bench, DEADLINE, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::clauses_net::link_with_set_mtu;
use crate::cases::control::{BROADCAST, VLAN, address, controlled};
use crate::cases::vf::{ADMIN, CTRL_MAC, CTRL_RX, counters, is_seen, tagged};
use crate::control::{command, mac_table, obeyed, vlan};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, NetHeader, feature};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "vf/address-of-another",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Control,
            CTRL_MAC,
            CTRL_RX,
            Need::Peer,
            Need::Onlooker,
        ],
        source: "ip-link(8) vf spoofchk, trust; IEEE 802.1Q-2018 8.8.1 (a station is behind one port); docs of the back end",
        sent: "By a driver that is not trusted, the address of another VF, of a lower and of a higher number, as one of its list and as its own; frames to that VF; and with spoofchk on frames in its name to a third.",
        expected: "Whatever the driver was answered, the frames come to that VF and not to the driver, and none arrives in its name.",
        run: address_of_another,
    },
    Case {
        id: "vf/vlan-list-beside-port-vlan",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, VLAN, Need::Peer, Need::Onlooker],
        source: "V 5.1.9.5.3.1; IEEE 802.1Q-2018 8.8.3 (the VLANs of a port are its own)",
        sent: "Frames to its address and to all in VLANs 5, 6 and 100 to a driver that has added VLAN 5, while a third VF is in no VLAN and in port VLAN 100.",
        expected: "Those of VLAN 5 alone arrive, both times: the list of a driver is no matter of its neighbours.",
        run: |bench| {
            for port in [0, 100] {
                bench.administer(&format!("vf 2 vlan {port}"))?;
                let mut link = controlled(bench)?;
                obeyed(link.receiver(), &vlan(true, 5))?;
                for dst in [link.dst, BROADCAST] {
                    for (vid, does) in [(5, true), (6, false), (100, false)] {
                        let mut frame = link.frame(100);
                        frame[..6].copy_from_slice(&dst);
                        let frame = tagged(&frame, 0x8100, vid);
                        link.send(&frame)?;
                        let came = link.arrives(&frame, if does { DEADLINE } else { QUIET })?;
                        ensure(
                            came == does,
                            format_args!(
                                "with a third VF in port VLAN {port}, of VLAN {vid} to {dst:02x?} it arrived: {came}"
                            ),
                        )?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/mirror-of-what-leaves",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "tc-mirred(8) mirror (of all that a port sends); DPDK rte_eth mirror rules of VFs",
        sent: "By a VF that is mirrored to a third one, a frame to an address that is nobody's here, which is for the uplink; and without the mirror.",
        expected: "The third gets a copy of the first, once, and of the second none: what leaves is sent, too.",
        run: |bench| {
            const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0xee, 0x21];
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            for (order, times) in [("vf 0 mirror 2", 1), ("vf 0 mirror none", 0)] {
                bench.administer(order)?;
                let mut frame = link.frame(100);
                frame[..6].copy_from_slice(&NOBODY);
                link.send(&frame)?;
                let seen = onlooker.sees(&frame, times)?;
                ensure(
                    seen == times,
                    format_args!("behind '{order}' a copy came {seen} times"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/counters-of-too-long",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Feature(feature::MTU, "MTU"),
            Need::Protocol(protocol::NET_MTU, "NET_MTU"),
            Need::Peer,
        ],
        source: "IFLA_VF_STATS; RFC 2863 (what goes in comes out or is counted)",
        sent: "20 frames, by a driver that has not accepted MTU, which are longer than its receiver's mtu (NET_SET_MTU).",
        expected: "None arrives, and what was dropped of the sender's and for the receiver is 20 more than before.",
        run: counters_of_too_long,
    },
];

fn address_of_another(bench: &Bench) -> Result<Seen, Failure> {
    bench.administer("vf 1 spoofchk on")?;
    let mut link = controlled(bench)?;
    let mut onlooker = bench.onlooker(&NetConfig::default())?;
    let (first, thief, third) = (link.src, link.dst, onlooker.mac);
    for (victim, other) in [(first, third), (third, first)] {
        for taken in [mac_table(&[victim], &[]), address(victim)] {
            command(link.receiver(), &taken, 0)?;
            let how = match taken.get(1) {
                Some(0) => "listed",
                _ => "set",
            };
            // To the victim, from the one of the two that it is not.
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&victim);
            frame[6..12].copy_from_slice(&other);
            let came = match victim == third {
                true => {
                    link.send(&frame)?;
                    onlooker.sees(&frame, 1)? == 1
                }
                false => {
                    onlooker.net.send(0, &NetHeader::default(), &frame)?;
                    onlooker.net.kick();
                    link.returned(DEADLINE, |came| came == frame)?
                }
            };
            ensure(
                came,
                format_args!("{victim:02x?}, {how} by another: a frame to it did not come to it"),
            )?;
            let stolen = link.arrives(&frame, QUIET)?;
            ensure(
                !stolen,
                format_args!("{victim:02x?}, {how} by another, which got a frame to it"),
            )?;
            // In the victim's name.
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&other);
            frame[6..12].copy_from_slice(&victim);
            let device = link.receiver();
            device.send(0, &NetHeader::default(), &frame)?;
            device.kick();
            let passed = match victim == third {
                true => link.returned(QUIET, |came| came == frame)?,
                false => onlooker.sees(&frame, 0)? > 0,
            };
            ensure(
                !passed,
                format_args!("{victim:02x?}, {how} by another, which sent in its name"),
            )?;
            for own in [mac_table(&[], &[]), address(thief)] {
                command(link.receiver(), &own, 0)?;
            }
        }
    }
    let frame = link.frame(100);
    link.send(&frame)?;
    is_seen(&mut link, &frame, true)?;
    Ok(Seen::Conforms)
}

fn counters_of_too_long(bench: &Bench) -> Result<Seen, Failure> {
    const FRAMES: u64 = 20;
    // The one with the mtu is the first port, and its peer sends.
    let (mut link, mtu) = link_with_set_mtu(bench)?;
    let before = [counters(bench, 0)?, counters(bench, 1)?];
    let (to, from) = (link.src, link.dst);
    for _ in 0..FRAMES {
        let mut frame = link.frame_of(usize::from(mtu) + 200);
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        if let Some(peer) = &mut link.rx {
            peer.send(0, &NetHeader::default(), &frame)?;
            peer.kick();
        }
    }
    let came = link.returned(QUIET, |came| came.get(6..12) == Some(&from[..]))?;
    ensure(!came, "a frame that is longer than the receiver's mtu came")?;
    // Counters may be gathered now and then only.
    let deadline = Instant::now() + DEADLINE;
    loop {
        let after = [counters(bench, 0)?, counters(bench, 1)?];
        let rose = |n: usize, name: &str| after[n].get(name).saturating_sub(before[n].get(name));
        let dropped = rose(0, "rx_dropped") + rose(1, "tx_dropped");
        if dropped == FRAMES {
            return Ok(Seen::Conforms);
        }
        ensure(
            Instant::now() < deadline,
            format_args!("{dropped} were counted as dropped, of {FRAMES} that did not arrive"),
        )?;
        std::thread::sleep(QUIET);
    }
}
