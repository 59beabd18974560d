//! Filters on what a port receives, in the words of `ethtool -N`: what they match, which of several wins, what is refused. Frames and
//! answers tell: never looks at how a back end keeps a filter. Further kinds are in `filter_kinds`.

use crate::bench::{Bench, DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::vf::{ADMIN, colons, is_seen, plain, tagged};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::NetConfig;

pub(super) const UDP: u8 = 17;
pub(super) const TCP: u8 = 6;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "filter/match-each-field",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N flow-type; sfc efx_filter_match_flags; DPDK DTS generic_flow_api",
        sent: "A filter that drops, on each field in turn: destination and source address, type, VLAN, IP addresses, protocol, ports.",
        expected: "A frame that has the value is dropped, one that differs in that field alone arrives.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let [src, dst] = [link.src, link.dst];
            let as_made = Packet::default();
            let fields: &[(String, Packet)] = &[
                (
                    "flow-type ip4 src-ip 10.0.0.1".into(),
                    Packet {
                        src: [10, 0, 0, 9],
                        ..as_made
                    },
                ),
                (
                    "flow-type ip4 dst-ip 10.0.0.2".into(),
                    Packet {
                        dst: [10, 0, 0, 9],
                        ..as_made
                    },
                ),
                (
                    "flow-type ip4 dst-ip 10.0.0.2 l4proto 17".into(),
                    Packet {
                        protocol: TCP,
                        ..as_made
                    },
                ),
                (
                    "flow-type udp4 dst-ip 10.0.0.2 dst-port 80".into(),
                    Packet {
                        dst_port: 81,
                        ..as_made
                    },
                ),
                (
                    "flow-type udp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 1000 dst-port 80"
                        .into(),
                    Packet {
                        src_port: 1001,
                        ..as_made
                    },
                ),
                (
                    "flow-type udp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 1000 dst-port 80"
                        .into(),
                    Packet {
                        src: [10, 0, 0, 9],
                        ..as_made
                    },
                ),
                (
                    format!("flow-type ether dst {} vlan 7", colons(dst)),
                    Packet {
                        vlan: Some(8),
                        ..as_made
                    },
                ),
                (
                    format!(
                        "flow-type ether dst {} src {} proto 0x800",
                        colons(dst),
                        colons(src)
                    ),
                    Packet {
                        kind: 0x88b6,
                        ..as_made
                    },
                ),
                (
                    "flow-type ether proto 0x800".into(),
                    Packet {
                        kind: 0x88b6,
                        ..as_made
                    },
                ),
            ];
            for (filter, other) in fields {
                let meant = match filter.contains("vlan") {
                    true => Packet {
                        vlan: Some(7),
                        ..as_made
                    },
                    false => as_made,
                };
                dropping(bench, filter)?;
                sees(&mut link, &meant, false, filter)?;
                sees(&mut link, other, true, filter)?;
                bench.administer(&format!("filter del {filter}"))?;
                sees(&mut link, &meant, true, filter)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/mask-and-prefix",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ethtool(8) -N dst-ip m; V 5.1.9.6 selectors with masks",
        sent: "A filter that drops what goes to 10.1.0.0/16.",
        expected: "Frames to 10.1.255.255 are dropped, to 10.2.0.0 arrive.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type ip4 dst-ip 10.1.0.0/16";
            dropping(bench, filter)?;
            for (dst, arrives) in [([10, 1, 255, 255], false), ([10, 2, 0, 0], true)] {
                let packet = Packet {
                    dst,
                    ..Packet::default()
                };
                sees(&mut link, &packet, arrives, filter)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/order-by-precedence",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 5.1.9.6.4 Flow filter (the first match in order of precedence ends); ethtool(8) -N",
        sent: "A filter that delivers one port of a host, and one that drops all that goes to the host, added in either order.",
        expected: "The narrower one decides about its port, the wider one about all others; in which order they were added makes no difference.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let narrow = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            let wide = "flow-type ip4 dst-ip 10.0.0.2";
            let add = [
                format!("filter add {narrow} vf 1"),
                format!("filter add {wide} action drop"),
            ];
            for order in [[0, 1], [1, 0]] {
                for which in order {
                    bench.administer(&add[which])?;
                }
                sees(&mut link, &Packet::default(), true, narrow)?;
                let other = Packet {
                    dst_port: 81,
                    ..Packet::default()
                };
                sees(&mut link, &other, false, wide)?;
                for filter in [narrow, wide] {
                    bench.administer(&format!("filter del {filter}"))?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/equal-precedence-stable",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 5.1.9.6.4 (equal precedence: the device's choice); determinism",
        sent: "A filter on the source that delivers and one on the destination that drops, both of which match, added in either order.",
        expected: "The same one decides both times.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filters = [
                "flow-type ip4 src-ip 10.0.0.1",
                "flow-type ip4 dst-ip 10.0.0.2",
            ];
            let actions = ["vf 1", "action drop"];
            let mut ends = Vec::new();
            for order in [[0, 1], [1, 0]] {
                for which in order {
                    let (filter, action) = (filters[which], actions[which]);
                    bench.administer(&format!("filter add {filter} {action}"))?;
                }
                let frame = Packet::default().frame(&mut link);
                link.send(&frame)?;
                ends.push(link.arrives(&frame, DEADLINE)?);
                for filter in filters {
                    bench.administer(&format!("filter del {filter}"))?;
                }
            }
            ensure(ends[0] == ends[1], "the order of adding decided")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/replace-by-priority",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Linux sfc efx_filter_priority",
        sent: "A filter of priority required that drops, one with the same match of priority hint, and the end of the first.",
        expected: "The hint is refused and changes nothing; when the required one is gone, frames arrive.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            bench.administer(&format!(
                "filter add {filter} action drop priority required"
            ))?;
            bench.refuses(&format!("filter replace {filter} vf 1 priority hint"))?;
            sees(&mut link, &Packet::default(), false, filter)?;
            bench.administer(&format!("filter del {filter} priority required"))?;
            sees(&mut link, &Packet::default(), true, filter)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/duplicate",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Linux efx_filter_insert_filter (EEXIST); V 2.12.1.3.5",
        sent: "The same filter again, with another action.",
        expected: "Refused; the first one stays in force.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            dropping(bench, filter)?;
            bench.refuses(&format!("filter add {filter} vf 1"))?;
            sees(&mut link, &Packet::default(), false, filter)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/delete-absent",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Linux ethtool ETHTOOL_SRXCLSRLDEL (ENOENT); V 2.12.1.3.5",
        sent: "The end of a filter that there is not.",
        expected: "Refused, and frames pass as before.",
        run: |bench| {
            bench.refuses("filter del flow-type udp4 dst-ip 10.0.0.2 dst-port 80")?;
            plain(bench)
        },
    },
    Case {
        id: "filter/target-missing-queue",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 5.1.9.6.4 (a queue that there is not); ethtool(8) -N",
        sent: "A filter for a VF that there is not.",
        expected: "Refused, and frames that it would match pass as before.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            bench.refuses(&format!("filter add {filter} vf 4000"))?;
            sees(&mut link, &Packet::default(), true, filter)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/default-multicast",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Linux sfc EFX_FILTER_MATCH_LOC_MAC_IG",
        sent: "A filter that drops what goes to groups that nothing else names, and frames to a group, to all and to the port.",
        expected: "The frame to the group is dropped, the others arrive.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type ether dst unknown-multicast";
            dropping(bench, filter)?;
            let own = link.dst;
            for (dst, arrives) in [
                ([0x01, 0, 0x5e, 0, 0, 0x17], false),
                ([0xff; 6], true),
                (own, true),
            ] {
                let mut frame = link.frame(100);
                frame[..6].copy_from_slice(&dst);
                link.send(&frame)?;
                is_seen(&mut link, &frame, arrives)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/fragment-and-short-l4",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "RFC 791 3.2 (ports are in the first fragment); DPDK DTS ip_fragment",
        sent: "A filter on a UDP port, and a later fragment that has the port's number where the first has it, and a packet that ends before its ports.",
        expected: "Neither matches: both arrive.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            dropping(bench, filter)?;
            let fragment = Packet {
                offset: 100,
                ..Packet::default()
            };
            sees(&mut link, &fragment, true, filter)?;
            let short = Packet {
                length: Some(22),
                ..Packet::default()
            };
            sees(&mut link, &short, true, filter)?;
            sees(&mut link, &Packet::default(), false, filter)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/vlan-tagged-l3",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "DPDK DTS dual_vlan; Linux flow dissector (VLAN)",
        sent: "A filter on a UDP port, and packets to it behind a tag.",
        expected: "They are dropped: the port is found behind the tag.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            dropping(bench, filter)?;
            let tagged = Packet {
                vlan: Some(5),
                ..Packet::default()
            };
            sees(&mut link, &tagged, false, filter)?;
            let other = Packet {
                dst_port: 81,
                ..tagged
            };
            sees(&mut link, &other, true, filter)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/qinq",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 (S-VLAN tags); DPDK DTS qinq_filter",
        sent: "A filter on a UDP port, and a packet to it behind two tags.",
        expected: "It is dropped: the port is found behind both.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            dropping(bench, "flow-type udp4 dst-ip 10.0.0.2 dst-port 80")?;
            let inner = Packet {
                vlan: Some(5),
                ..Packet::default()
            }
            .frame(&mut link);
            let frame = tagged(&inner, 0x88a8, 9);
            link.send(&frame)?;
            link.expect_nothing(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/back-to-sender",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 8.6.1 (never back to the port of reception)",
        sent: "A filter that gives packets to the VF that sends them to another.",
        expected: "They do not come back to it.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            bench.administer(&format!("filter add {filter} vf 0"))?;
            let frame = Packet::default().frame(&mut link);
            link.send(&frame)?;
            link.sent()?;
            let came = link.returned(QUIET, |came| came == frame)?;
            ensure(!came, "the sender received what it had sent")?;
            bench.administer(&format!("filter del {filter}"))?;
            sees(&mut link, &Packet::default(), true, filter)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "filter/change-under-traffic",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "V 5.1.9.6.4; RFC 2544 (a device that is being changed loses nothing)",
        sent: "A filter that gives packets to one VF and to another in turn, 12 times, with frames before and after each answer.",
        expected: "Each frame arrives at one of the two, once; those after an answer at the new one.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            let filter = "flow-type udp4 dst-ip 10.0.0.2 dst-port 80";
            for turn in 0..12 {
                let vf = 1 + turn % 2;
                bench.administer(&format!("filter replace {filter} vf {vf}"))?;
                let frame = Packet::default().frame(&mut link);
                link.send(&frame)?;
                let (there, here) = match vf {
                    1 => (link.arrives(&frame, DEADLINE)?, onlooker.sees(&frame, 0)?),
                    _ => (link.arrives(&frame, QUIET)?, onlooker.sees(&frame, 1)?),
                };
                ensure(
                    there == (vf == 1) && here == usize::from(vf == 2),
                    format_args!(
                        "given to VF {vf}: the first got it: {there}, the second {here} times"
                    ),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// A UDP or TCP packet over IPv4.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) kind: u16,
    pub(super) vlan: Option<u16>,
    pub(super) src: [u8; 4],
    pub(super) dst: [u8; 4],
    pub(super) protocol: u8,
    pub(super) src_port: u16,
    pub(super) dst_port: u16,
    /// Where it is in its datagram, in units of eight bytes.
    pub(super) offset: u16,
    /// Length by its IP header, if it ends there.
    pub(super) length: Option<u16>,
}

impl Default for Packet {
    /// From 10.0.0.1 port 1000 to 10.0.0.2 port 80 by UDP.
    fn default() -> Packet {
        Packet {
            kind: 0x0800,
            vlan: None,
            src: [10, 0, 0, 1],
            dst: [10, 0, 0, 2],
            protocol: UDP,
            src_port: 1000,
            dst_port: 80,
            offset: 0,
            length: None,
        }
    }
}

impl Packet {
    /// The next frame with it from sender to receiver.
    pub(super) fn frame(&self, link: &mut Link) -> Vec<u8> {
        let unique = link.frame(60);
        let serial = &unique[14..46];
        let length = self.length.unwrap_or(20 + 20 + serial.len() as u16);
        let mut ip = [0; 20];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        ip[6..8].copy_from_slice(&self.offset.to_be_bytes());
        (ip[8], ip[9]) = (64, self.protocol);
        ip[12..16].copy_from_slice(&self.src);
        ip[16..20].copy_from_slice(&self.dst);
        let sum = !vf_guest::checksum::sum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut l4 = [0; 20];
        l4[..2].copy_from_slice(&self.src_port.to_be_bytes());
        l4[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        match self.protocol {
            // No checksum, and a payload that looks like a TCP header's end.
            UDP => l4[4..6].copy_from_slice(&(length.saturating_sub(20)).to_be_bytes()),
            _ => l4[12] = 0x50,
        }
        let mut frame = [&unique[..12], &self.kind.to_be_bytes(), &ip, &l4, serial].concat();
        if let Some(length) = self.length {
            frame.truncate(14 + usize::from(length));
        }
        match self.vlan {
            Some(vid) => tagged(&frame, 0x8100, vid),
            None => frame,
        }
    }
}

pub(super) fn dropping(bench: &Bench, filter: &str) -> Result<(), Failure> {
    bench
        .administer(&format!("filter add {filter} action drop"))
        .map(drop)
}

/// Checks that a packet arrives while `filter` is in force, or does not.
pub(super) fn sees(
    link: &mut Link,
    packet: &Packet,
    does: bool,
    filter: &str,
) -> Result<(), Failure> {
    let frame = packet.frame(link);
    link.send(&frame)?;
    let wait = if does { DEADLINE } else { QUIET };
    let seen = link.arrives(&frame, wait)?;
    ensure(
        seen == does,
        format_args!(
            "{packet:?} {}, with {filter}",
            if seen { "arrived" } else { "did not arrive" }
        ),
    )
}
