//! Filters on further kinds of packets, on what VFs send, to a queue of a VF; and what no filter can do. Never looks at how a back end
//! keeps a filter.

use crate::bench::{Bench, DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::control::{MQ, controlled_pairs};
use crate::cases::filter::{Packet, TCP, UDP, dropping, sees};
use crate::cases::vf::{ADMIN, FOREIGN, NEW, colons, is_seen, tagged, to};
use crate::control::{obeyed, queue_pairs};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::NetConfig;

pub(super) const SCTP: u8 = 132;
/// IPv6 options (RFC 8200 4.3, 4.6).
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;
/// IPv6 hosts a and b.
const A: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa];
pub(super) const B: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb];

pub(super) const CASES: &[Case] = &[
    Case {
        id: "filter/of-a-protocol",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N flow-type udp4|tcp4|sctp4",
        sent: "Filters that drop a port of UDP, of TCP and of SCTP, and one on a source port, and packets of all three protocols with those ports.",
        expected: "Those of the filter's protocol are dropped, the others arrive.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let protocols = [("udp4", UDP), ("tcp4", TCP), ("sctp4", SCTP)];
            for (word, of) in protocols {
                for port in [
                    "dst-ip 10.0.0.2 dst-port 80",
                    "dst-port 80",
                    "src-port 1000",
                ] {
                    let filter = format!("flow-type {word} {port}");
                    dropping(bench, &filter)?;
                    for (_, protocol) in protocols {
                        let packet = Packet {
                            protocol,
                            ..Packet::default()
                        };
                        sees(&mut link, &packet, protocol != of, &filter)?;
                    }
                    bench.administer(&format!("filter del {filter}"))?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/ipv6",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N flow-type ip6|udp6|tcp6; RFC 8200 4.1 (extension headers)",
        sent: "Filters that drop a host, a prefix and a port of UDP over IPv6, and packets that match or differ in one field: plain, behind a tag, and behind destination and hop-by-hop options.",
        expected: "Those that match are dropped, the others arrive.",
        run: ipv6,
    },
    Case {
        id: "filter/not-beyond-vlan",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "IEEE 802.1Q-2018 8.8.3 (a frame stays in its VLAN)",
        sent: "A filter that gives a port of UDP to a VF in port VLAN 20, and such packets of a VF in port VLAN 10 to another one there.",
        expected: "They are not given to the VF in VLAN 20, and arrive where they are for.",
        run: |bench| {
            for (vf, vlan) in [(0, 10), (1, 20), (2, 10)] {
                bench.administer(&format!("vf {vf} vlan {vlan}"))?;
            }
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            bench.administer("filter add flow-type udp4 dst-ip 10.0.0.2 dst-port 80 vf 1")?;
            let mut frame = Packet::default().frame(&mut link);
            frame[..6].copy_from_slice(&onlooker.mac);
            link.send(&frame)?;
            let seen = onlooker.sees(&frame, 1)?;
            ensure(
                seen == 1,
                format_args!("it came {seen} times where it is for"),
            )?;
            link.expect_nothing(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/to-disabled",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "ip-link(8) vf state disable",
        sent: "A filter that gives a port of UDP to a VF in state disable, and such a packet, for that VF and for a third one.",
        expected: "Neither arrives there, and both do in state auto.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let onlooker = bench.onlooker(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            bench.administer(&format!("filter add {filter} vf 1"))?;
            for (state, does) in [("disable", false), ("auto", true)] {
                bench.administer(&format!("vf 1 state {state}"))?;
                sees(&mut link, &Packet::default(), does, filter)?;
                let mut frame = Packet::default().frame(&mut link);
                frame[..6].copy_from_slice(&onlooker.mac);
                link.send(&frame)?;
                is_seen(&mut link, &frame, does)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/egress",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "tc-flower(8) and rte_flow (egress); docs of the back end",
        sent: "A filter that drops what a VF sends to a port of UDP, one on all VFs, and one that passes a host of those.",
        expected: "Of that VF alone, of all, and of all but that host such packets are dropped; what it receives is not touched.",
        run: egress,
    },
    Case {
        id: "filter/to-queue",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, MQ, Need::Peer, Need::Pairs(2)],
        source: "ethtool(8) -N action N",
        sent: "Packets of 16 flows to a driver of two pairs, a filter on their port that gives them to queue 1 of its VF, and to queue 0.",
        expected: "All come in the pair that the filter says.",
        run: |bench| {
            const PAIRS: u16 = 2;
            let mut link = controlled_pairs(bench, PAIRS)?;
            obeyed(link.receiver(), &queue_pairs(PAIRS))?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            for queue in [1, 0] {
                bench.administer(&format!("filter replace {filter} vf 1 action {queue}"))?;
                for flow in 0..16 {
                    let packet = Packet {
                        src_port: 2000 + flow,
                        ..Packet::default()
                    };
                    let frame = packet.frame(&mut link);
                    link.send(&frame)?;
                    let pair = link.arrives_on(&frame, PAIRS.into())?;
                    ensure(
                        pair == queue,
                        format_args!("flow {flow} came in pair {pair}, not {queue}"),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/mirror",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "tc-mirred(8) mirror; ethtool(8) -N",
        sent: "A filter that mirrors a port of UDP to a third VF, and packets to it and to another port.",
        expected: "All arrive, and the third VF gets a copy of the first, once.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            bench.administer(&format!("filter add {filter} mirror 2"))?;
            for (dst_port, times) in [(80, 1), (81, 0)] {
                let packet = Packet {
                    dst_port,
                    ..Packet::default()
                };
                let frame = packet.frame(&mut link);
                link.send(&frame)?;
                is_seen(&mut link, &frame, true)?;
                let seen = onlooker.sees(&frame, times)?;
                ensure(
                    seen == times,
                    format_args!("of port {dst_port} a copy came {seen} times"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/inner-vlan",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 (a tag behind a tag); docs of the back end",
        sent: "A filter that drops VLAN 5 behind VLAN 9, and frames with a tag of 9, with 6 and with 5 behind it, and with 5 alone, in turn; and a filter that drops VLAN 5 behind any other, and frames with 5 alone and behind 6.",
        expected: "Those of 5 behind 9, and with the other filter behind 6, are dropped, the others arrive: a tag alone is in front of nothing.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type ether vlan 9 inner-vlan 5";
            dropping(bench, filter)?;
            for _ in 0..2 {
                for (tags, does) in [
                    (&[9][..], true),
                    (&[6, 9], true),
                    (&[5, 9], false),
                    (&[6, 9], true),
                    (&[5], true),
                ] {
                    let mut frame = link.frame(100);
                    for vid in tags {
                        frame = tagged(&frame, 0x8100, *vid);
                    }
                    link.send(&frame)?;
                    is_seen(&mut link, &frame, does)?;
                }
            }
            bench.administer(&format!("filter del {filter}"))?;
            dropping(bench, "flow-type ether inner-vlan 5")?;
            for (tags, does) in [(&[5][..], true), (&[5, 6], false), (&[5], true)] {
                let mut frame = link.frame(100);
                for vid in tags {
                    frame = tagged(&frame, 0x8100, *vid);
                }
                link.send(&frame)?;
                is_seen(&mut link, &frame, does)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/longer-prefix-first",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 5.1.9.6.4 Flow filter (the first match in order of precedence ends); docs of the back end",
        sent: "A filter that delivers 10.1.2.0/24, and one that drops 10.1.0.0/16, added in either order; over IPv6 the same with /64 and /48.",
        expected: "The longer prefix decides about its hosts, the shorter one about the others.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for order in [[0, 1], [1, 0]] {
                for (filters, v6) in [
                    (["ip4 dst-ip 10.1.2.0/24", "ip4 dst-ip 10.1.0.0/16"], false),
                    (
                        ["ip6 dst-ip 2001:db8:0:1::/64", "ip6 dst-ip 2001:db8::/48"],
                        true,
                    ),
                ] {
                    let actions = ["vf 1", "action drop"];
                    for which in order {
                        let (filter, action) = (filters[which], actions[which]);
                        bench.administer(&format!("filter add flow-type {filter} {action}"))?;
                    }
                    for (host, does) in [(2, true), (3, false)] {
                        let frame = match v6 {
                            true => {
                                let mut dst = B;
                                dst[7] = host - 1;
                                packet6(&mut link, dst, UDP, 80, None)
                            }
                            false => Packet {
                                dst: [10, 1, host, 9],
                                ..Packet::default()
                            }
                            .frame(&mut link),
                        };
                        link.send(&frame)?;
                        is_seen(&mut link, &frame, does)?;
                    }
                    for filter in filters {
                        bench.administer(&format!("filter del flow-type {filter}"))?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/source-beside-destination",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N flow-type ether src dst (all that is said has to match)",
        sent: "A filter that drops what goes from one address to another, and frames from that address and from another one, of a VF without spoofchk.",
        expected: "Those from the address are dropped, the others arrive.",
        run: |bench| {
            bench.administer("vf 0 spoofchk off")?;
            let mut link = bench.link(&NetConfig::default())?;
            let (src, dst) = (colons(link.src), colons(link.dst));
            dropping(bench, &format!("flow-type ether dst {dst} src {src}"))?;
            for (from, does) in [(link.src, false), (FOREIGN, true)] {
                let mut frame = link.frame(100);
                frame[6..12].copy_from_slice(&from);
                link.send(&frame)?;
                is_seen(&mut link, &frame, does)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/order-of-kinds",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 5.1.9.6.4 Flow filter (the first match in order of precedence ends); docs of the back end",
        sent: "Pairs of filters, of which the narrower one delivers and the wider one drops, added in either order: a port and an address, an address and a type, four fields of a flow and two, an address in a VLAN and the address.",
        expected: "What both match arrives, and what only the wider one matches does not.",
        run: order_of_kinds,
    },
    Case {
        id: "filter/required-holds",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Linux sfc efx_filter_priority",
        sent: "The end, by one of no priority, of a filter of priority required that drops; and over a hint that drops one with the same match of priority required that delivers.",
        expected: "The first is refused and changes nothing; the second is taken, and packets arrive.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            let required = format!("filter add {filter} action drop priority required");
            bench.administer(&required)?;
            bench.refuses(&format!("filter del {filter}"))?;
            sees(&mut link, &Packet::default(), false, filter)?;
            bench.administer(&format!("filter del {filter} priority required"))?;
            bench.administer(&format!("filter add {filter} action drop priority hint"))?;
            sees(&mut link, &Packet::default(), false, filter)?;
            bench.administer(&format!("filter add {filter} vf 1 priority required"))?;
            sees(&mut link, &Packet::default(), true, filter)?;
            bench.administer(&format!("filter del {filter} priority required"))?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/mask-of-address",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N flow-type ether src m (a bit that is set is not compared)",
        sent: "A filter that drops what comes from 02:00:00:00:c0 and any last byte, of a VF without spoofchk, and frames from two such addresses and from another one.",
        expected: "Those from the two are dropped, the other arrives.",
        run: |bench| {
            bench.administer("vf 0 spoofchk off")?;
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type ether src 02:00:00:00:c0:00 m 00:00:00:00:00:ff";
            dropping(bench, filter)?;
            let mut other = FOREIGN;
            other[4] = 0xd0;
            for (src, does) in [(NEW, false), (FOREIGN, false), (other, true)] {
                let mut frame = link.frame(100);
                frame[6..12].copy_from_slice(&src);
                link.send(&frame)?;
                is_seen(&mut link, &frame, does)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/behind-ip-options",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "RFC 791 3.1 (IHL says where ports are); RFC 2113 (router alert)",
        sent: "A filter that drops a port of UDP, a packet to it with a router alert among its IP options, and one to another port with an alert whose value is the filter's port.",
        expected: "The first is dropped, the second arrives: options are no ports.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            dropping(bench, "flow-type udp4 dst-ip 10.0.0.2 dst-port 80")?;
            for (value, dst_port, does) in [(0, 80, false), (80, 81, true)] {
                let packet = Packet {
                    dst_port,
                    ..Packet::default()
                };
                let mut frame = packet.frame(&mut link);
                let length = u16::from_be_bytes([frame[16], frame[17]]) + 4;
                frame[14] = 0x46;
                frame[16..18].copy_from_slice(&length.to_be_bytes());
                frame[24..26].fill(0);
                frame.splice(34..34, [0x94, 4, 0, value]);
                let sum = !vf_guest::checksum::sum(&frame[14..38]);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
                link.send(&frame)?;
                is_seen(&mut link, &frame, does)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/fragment-v6",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "RFC 8200 4.5 (ports are in the first fragment)",
        sent: "A filter that drops a port of UDP over IPv6, a later fragment that has the port's number where the first has it, and a packet to the port.",
        expected: "The fragment arrives, the packet is dropped.",
        run: |bench| {
            const FRAGMENT: u8 = 44;
            let mut link = bench.link(&NetConfig::default())?;
            dropping(bench, "flow-type udp6 dst-ip 2001:db8::b dst-port 80")?;
            // From byte 88 on, the last.
            let mut frame = packet6(&mut link, B, UDP, 80, Some(FRAGMENT));
            frame[54..62].copy_from_slice(&[UDP, 0, 0, 11 << 3, 0, 0, 0, 7]);
            link.send(&frame)?;
            is_seen(&mut link, &frame, true)?;
            let frame = packet6(&mut link, B, UDP, 80, None);
            link.send(&frame)?;
            is_seen(&mut link, &frame, false)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/in-port-vlan",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 6.9 (the VLAN of an untagged frame is that of its port); ethtool(8) -N vlan",
        sent: "Between VFs in port VLAN 100, packets to two ports of UDP, with a filter that drops the first port in VLAN 100, and one that drops it in VLAN 200.",
        expected: "Those to the first port are dropped by the filter of VLAN 100, the others arrive.",
        run: |bench| {
            for vf in 0..2 {
                bench.administer(&format!("vf {vf} vlan 100"))?;
            }
            let mut link = bench.link(&NetConfig::default())?;
            let other = Packet {
                dst_port: 81,
                ..Packet::default()
            };
            for (vlan, does) in [(100, false), (200, true)] {
                let filter = format!("flow-type udp4 dst-ip 10.0.0.2 dst-port 80 vlan {vlan}");
                dropping(bench, &filter)?;
                sees(&mut link, &Packet::default(), does, &filter)?;
                sees(&mut link, &other, true, &filter)?;
                bench.administer(&format!("filter del {filter}"))?;
            }
            Ok(Seen::Conforms)
        },
    },
];

fn egress(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let port = "flow-type udp4 dst-port 80";
    let packet = Packet::default();
    let other = Packet {
        dst_port: 81,
        ..packet
    };
    // From the peer, whose frames the first filter is not about.
    let back = |link: &mut Link, does: bool| {
        let mut frame = packet.frame(link);
        let (src, dst) = (link.src, link.dst);
        frame[..6].copy_from_slice(&src);
        frame[6..12].copy_from_slice(&dst);
        if let Some(peer) = &mut link.rx {
            peer.send(0, &Default::default(), &frame)?;
            peer.kick();
        }
        let wait = if does { DEADLINE } else { QUIET };
        let came = link.returned(wait, |came| came == frame)?;
        ensure(came == does, format_args!("the peer's packet came: {came}"))
    };
    let only = format!("egress vf 0 {port}");
    bench.administer(&format!("filter add {only} action drop"))?;
    sees(&mut link, &packet, false, &only)?;
    sees(&mut link, &other, true, &only)?;
    back(&mut link, true)?;
    bench.administer(&format!("filter del {only}"))?;

    let all = format!("egress {port}");
    let host = "egress flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
    bench.administer(&format!("filter add {all} action drop"))?;
    sees(&mut link, &packet, false, &all)?;
    back(&mut link, false)?;
    bench.administer(&format!("filter add {host} action pass"))?;
    sees(&mut link, &packet, true, host)?;
    let elsewhere = Packet {
        dst: [10, 0, 0, 9],
        ..packet
    };
    sees(&mut link, &elsewhere, false, &all)?;
    let own = link.dst;
    to(&mut link, own, true)?;
    Ok(Seen::Conforms)
}

fn ipv6(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let mut other_prefix = B;
    other_prefix[5] = 1;
    let mut other_host = B;
    other_host[15] = 0xc;
    for (filter, dst, other) in [
        ("flow-type ip6 dst-ip 2001:db8::b", B, other_host),
        ("flow-type ip6 dst-ip 2001:db8::/48", B, other_prefix),
        (
            "flow-type udp6 dst-ip 2001:db8::b dst-port 80",
            B,
            other_host,
        ),
    ] {
        dropping(bench, filter)?;
        for options in [None, Some(DESTINATION), Some(HOP_BY_HOP)] {
            for tag in [false, true] {
                for (dst, protocol, does) in [(dst, UDP, false), (other, UDP, true)] {
                    let frame = packet6(&mut link, dst, protocol, 80, options);
                    let frame = match tag {
                        true => tagged(&frame, 0x8100, 5),
                        false => frame,
                    };
                    link.send(&frame)?;
                    let came = link.arrives(&frame, if does { DEADLINE } else { QUIET })?;
                    ensure(
                        came == does,
                        format_args!(
                            "options {options:?}, tag {tag}, to {dst:02x?}: arrived: {came}, with {filter}"
                        ),
                    )?;
                }
            }
        }
        if filter.contains("udp6") {
            for (protocol, port) in [(TCP, 80), (UDP, 81)] {
                let frame = packet6(&mut link, dst, protocol, port, None);
                link.send(&frame)?;
                is_seen(&mut link, &frame, true)?;
            }
        }
        bench.administer(&format!("filter del {filter}"))?;
    }
    Ok(Seen::Conforms)
}

/// The next frame with a UDP or TCP packet from a to a host, behind eight bytes of options of this kind or none.
pub(super) fn packet6(
    link: &mut Link,
    dst: [u8; 16],
    protocol: u8,
    port: u16,
    options: Option<u8>,
) -> Vec<u8> {
    let unique = link.frame(60);
    let serial = &unique[14..46];
    let mut l4 = [0; 20];
    l4[..2].copy_from_slice(&1000u16.to_be_bytes());
    l4[2..4].copy_from_slice(&port.to_be_bytes());
    match protocol {
        UDP => l4[4..6].copy_from_slice(&(20 + serial.len() as u16).to_be_bytes()),
        _ => l4[12] = 0x50,
    }
    // PadN of six bytes.
    let between = [protocol, 0, 1, 4, 0, 0, 0, 0];
    let between = options.map_or(&[][..], |_| &between);
    let next = options.unwrap_or(protocol);
    let length = (between.len() + l4.len() + serial.len()) as u16;
    let [high, low] = length.to_be_bytes();
    let ip = [0x60, 0, 0, 0, high, low, next, 64];
    [
        &unique[..12],
        &[0x86, 0xdd],
        &ip,
        &A,
        &dst,
        between,
        &l4,
        serial,
    ]
    .concat()
}

fn order_of_kinds(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let own = format!("flow-type ether dst {}", colons(link.dst));
    let port = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80".to_owned();
    let flow = "flow-type udp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 1000 dst-port 80";
    let both = Packet::default();
    let to_other_port = Packet {
        dst_port: 81,
        ..both
    };
    let from_other_port = Packet {
        src_port: 1001,
        ..both
    };
    let in_vlan = Packet {
        vlan: Some(7),
        ..both
    };
    for (narrow, wide, of_both, of_wide) in [
        (port.clone(), own.clone(), both, Some(to_other_port)),
        // The frames of the wide one alone are for others.
        (
            own.clone(),
            "flow-type ether proto 0x800".into(),
            both,
            None,
        ),
        (flow.into(), port, both, Some(from_other_port)),
        (format!("{own} vlan 7"), own.clone(), in_vlan, Some(both)),
    ] {
        let add = [
            format!("filter add {narrow} vf 1"),
            format!("filter add {wide} action drop"),
        ];
        for order in [[0, 1], [1, 0]] {
            for which in order {
                bench.administer(&add[which])?;
            }
            sees(&mut link, &of_both, true, &narrow)?;
            match of_wide {
                Some(packet) => sees(&mut link, &packet, false, &wide)?,
                None => {
                    let mut frame = both.frame(&mut link);
                    frame[..6].fill(0xff);
                    link.send(&frame)?;
                    link.expect_nothing(&frame)?;
                }
            }
            for filter in [&narrow, &wide] {
                bench.administer(&format!("filter del {filter}"))?;
            }
        }
    }
    Ok(Seen::Conforms)
}
