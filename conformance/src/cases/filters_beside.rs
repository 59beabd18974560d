//! Filters beside others: of protocols and prefixes that differ little, one that goes while another stays, flows of the same two stations that are
//! treated differently, and flows that ran before there was a filter. What one filter alone does is `filter` and `filter_kinds`.
//! Never looks at a back end's table: only at what arrives.

use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::filter::{Packet, TCP, UDP, dropping, sees};
use crate::cases::filter_kinds::{B, SCTP, packet6};
use crate::cases::vf::{ADMIN, colons};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{NetConfig, NetDevice, RxFrame};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "filter/of-a-protocol-v6",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N flow-type udp6|tcp6|sctp6",
        sent: "Filters that drop a port of UDP, of TCP and of SCTP over IPv6, of a host and of all, and one on a source port, and packets of all three protocols with those ports.",
        expected: "Those of the filter's protocol are dropped, the others arrive.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let protocols = [("udp6", UDP), ("tcp6", TCP), ("sctp6", SCTP)];
            for (word, of) in protocols {
                for port in [
                    "dst-ip 2001:db8::b dst-port 80",
                    "dst-port 80",
                    "src-port 1000",
                ] {
                    let filter = format!("flow-type {word} {port}");
                    dropping(bench, &filter)?;
                    for (name, protocol) in protocols {
                        let frame = packet6(&mut link, B, protocol, 80, None);
                        link.send(&frame)?;
                        let does = protocol != of;
                        let came = link.arrives(&frame, if does { DEADLINE } else { QUIET })?;
                        ensure(
                            came == does,
                            format_args!("a packet for {name} arrived: {came}, with {filter}"),
                        )?;
                    }
                    bench.administer(&format!("filter del {filter}"))?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/prefix-of-any-length",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N dst-ip m; RFC 4632 3.1 (a prefix has any number of bits)",
        sent: "Filters that drop prefixes of 9, 20 and 31 bits, over IPv6 of 60 and 121, and packets to the last address in each and to the first behind it.",
        expected: "Those to the last in it are dropped, those behind it arrive.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for (prefix, last, behind) in [
                ("10.0.0.0/9", [10, 127, 255, 255], [10, 128, 0, 0]),
                ("10.0.16.0/20", [10, 0, 31, 255], [10, 0, 32, 0]),
                ("10.0.0.2/31", [10, 0, 0, 3], [10, 0, 0, 4]),
            ] {
                let filter = format!("flow-type ip4 dst-ip {prefix}");
                dropping(bench, &filter)?;
                for (dst, does) in [(last, false), (behind, true)] {
                    let packet = Packet {
                        dst,
                        ..Packet::default()
                    };
                    sees(&mut link, &packet, does, &filter)?;
                }
                bench.administer(&format!("filter del {filter}"))?;
            }
            // The byte in which the prefix ends, and what that is in the last address and in the next one.
            for (prefix, at, ends) in [
                ("2001:db8:0:10::/60", 7, [0x1f, 0x20]),
                ("2001:db8::/121", 15, [0x7f, 0x80]),
            ] {
                let filter = format!("flow-type ip6 dst-ip {prefix}");
                dropping(bench, &filter)?;
                for (byte, does) in ends.into_iter().zip([false, true]) {
                    let mut dst = B;
                    dst[at] = byte;
                    let frame = packet6(&mut link, dst, UDP, 80, None);
                    link.send(&frame)?;
                    let came = link.arrives(&frame, if does { DEADLINE } else { QUIET })?;
                    ensure(
                        came == does,
                        format_args!("to {dst:02x?} it arrived: {came}, with {filter}"),
                    )?;
                }
                bench.administer(&format!("filter del {filter}"))?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/delete-leaves-others",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N delete (of one rule)",
        sent: "Pairs of filters that drop and have most in common: two flows to one port of a host, two ports of a host, two hosts with one port, two prefixes, an address in two VLANs; and the end of the one, and then of the other.",
        expected: "What the one was about arrives from its end on, and what the other is about is dropped until its own.",
        run: delete_leaves_others,
    },
    Case {
        id: "filter/egress-while-running",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "tc-flower(8) and rte_flow (egress): a rule is in force when it has been taken; docs of the back end",
        sent: "Frames of a flow; a filter that drops what VFs send by its address, its VLAN, its type, its host or its ports; frames; the end of the filter, and frames.",
        expected: "They arrive before and behind it, and none while it is there: what is known of a flow is no reason to let it pass.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let in_vlan = Packet {
                vlan: Some(7),
                ..Packet::default()
            };
            let station = format!("ether dst {}", colons(link.dst));
            for (fields, packet) in [
                (station.clone(), Packet::default()),
                (format!("{station} vlan 7"), in_vlan),
                ("ether vlan 7".into(), in_vlan),
                ("ether proto 0x800".into(), Packet::default()),
                ("ip4 dst-ip 10.0.0.2".into(), Packet::default()),
                (
                    "udp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 1000 dst-port 80".into(),
                    Packet::default(),
                ),
            ] {
                let filter = format!("egress flow-type {fields}");
                for _ in 0..2 {
                    sees(&mut link, &packet, true, "no filter")?;
                }
                dropping(bench, &filter)?;
                for _ in 0..2 {
                    sees(&mut link, &packet, false, &filter)?;
                }
                bench.administer(&format!("filter del {filter}"))?;
                sees(&mut link, &packet, true, "no filter any more")?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/actions-beside",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "ethtool(8) -N vf; tc-mirred(8) mirror",
        sent: "Four flows between two VFs in turn, one by one and in bursts: one that a filter gives to a third VF, one that a filter copies to it, one that a filter drops, and one without.",
        expected: "The first comes to the third alone, the second to both, the third to none, the fourth where it is for: what is known of one is no matter of the others.",
        run: actions_beside,
    },
];

fn delete_leaves_others(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let made = Packet::default();
    let station = format!("ether dst {}", colons(link.dst));
    let in_vlan = |vlan| Packet {
        vlan: Some(vlan),
        ..made
    };
    for ([first, second], packets) in [
        (
            [
                "udp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 1000 dst-port 80".to_owned(),
                "udp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 1001 dst-port 80".to_owned(),
            ],
            [
                made,
                Packet {
                    src_port: 1001,
                    ..made
                },
            ],
        ),
        (
            ["80", "81"].map(|port| format!("udp4 dst-ip 10.0.0.2 dst-port {port}")),
            [
                made,
                Packet {
                    dst_port: 81,
                    ..made
                },
            ],
        ),
        (
            ["2", "3"].map(|host| format!("udp4 dst-ip 10.0.0.{host} dst-port 80")),
            [
                made,
                Packet {
                    dst: [10, 0, 0, 3],
                    ..made
                },
            ],
        ),
        (
            ["10.1.0.0/16", "10.2.0.0/16"].map(|prefix| format!("ip4 dst-ip {prefix}")),
            [1, 2].map(|net| Packet {
                dst: [10, net, 0, 9],
                ..made
            }),
        ),
        (
            ["7", "8"].map(|vlan| format!("{station} vlan {vlan}")),
            [in_vlan(7), in_vlan(8)],
        ),
    ] {
        let filters = [first, second].map(|fields| format!("flow-type {fields}"));
        // Which of the two goes first.
        for [goes, stays] in [[0, 1], [1, 0]] {
            for filter in &filters {
                dropping(bench, filter)?;
            }
            for (packet, filter) in packets.iter().zip(&filters) {
                sees(&mut link, packet, false, filter)?;
            }
            bench.administer(&format!("filter del {}", filters[goes]))?;
            sees(&mut link, &packets[goes], true, &filters[stays])?;
            sees(&mut link, &packets[stays], false, &filters[stays])?;
            bench.administer(&format!("filter del {}", filters[stays]))?;
            sees(&mut link, &packets[stays], true, "no filter any more")?;
        }
    }
    Ok(Seen::Conforms)
}

fn actions_beside(bench: &Bench) -> Result<Seen, Failure> {
    // The port of each flow, and how often its frames come to the receiver and to the third VF.
    const FLOWS: [(u16, usize, usize); 4] = [(80, 0, 1), (81, 1, 1), (82, 0, 0), (83, 1, 0)];
    let mut link = bench.link(&NetConfig::default())?;
    let mut onlooker = bench.onlooker(&NetConfig::default())?;
    for (port, action) in [(80, "vf 2"), (81, "mirror 2"), (82, "action drop")] {
        let filter = format!("flow-type udp4 dst-ip 10.0.0.2 dst-port {port}");
        bench.administer(&format!("filter add {filter} {action}"))?;
    }
    let frame_to = |link: &mut Link, dst_port: u16| {
        let packet = Packet {
            dst_port,
            ..Packet::default()
        };
        packet.frame(link)
    };
    for turns in [1, 4] {
        let mut sent = Vec::new();
        for _ in 0..turns {
            for (port, here, there) in FLOWS {
                let frame = frame_to(&mut link, port);
                let taken = link.tx.send(0, &Default::default(), &frame)?;
                ensure(taken, "the send ring is full")?;
                sent.push((port, frame, here, there));
            }
        }
        link.tx.kick();
        let (src, receiver) = (link.src, link.receiver());
        let came = gathered(receiver, src, sent.iter().map(|(_, _, here, _)| here).sum())?;
        let copies = gathered(
            &mut onlooker.net,
            src,
            sent.iter().map(|(.., there)| there).sum(),
        )?;
        for (port, frame, here, there) in &sent {
            let times = |all: &[Vec<u8>]| all.iter().filter(|got| *got == frame).count();
            let (seen, copied) = (times(&came), times(&copies));
            ensure(
                (seen, copied) == (*here, *there),
                format_args!(
                    "of port {port} a frame came {seen} times where it is for and {copied} times to the third VF"
                ),
            )?;
        }
    }
    Ok(Seen::Conforms)
}

/// The frames of that sender that a device gets: until so many have come, and nothing more does for a while.
fn gathered(device: &mut NetDevice, src: [u8; 6], wanted: usize) -> Result<Vec<Vec<u8>>, Failure> {
    let (mut came, mut got) = (Vec::new(), RxFrame::default());
    let (end, mut last) = (Instant::now() + DEADLINE, Instant::now());
    while Instant::now() < end && (came.len() < wanted || last.elapsed() < QUIET) {
        while device.recv(0, &mut got)? {
            if got.bytes().get(6..12) == Some(&src[..]) {
                came.push(got.bytes().to_vec());
            }
            last = Instant::now();
        }
        device.kick();
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(came)
}
