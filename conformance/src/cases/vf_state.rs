//! What a VF and its neighbours see of it when its administrator and its driver each have a say, when a setting is taken back, and beside a VF that is
//! never quiet; and what is promised by name. Never looks at what a back end has inside: frames, counters and configuration space tell.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, QUIET, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::control::{address, controlled, told};
use crate::cases::offloads::TSO4;
use crate::cases::packets::{TCP, packet};
use crate::cases::vf::{
    ADMIN, CONFIG, CTRL_MAC, CTRL_RX, FOREIGN, NEW, colons, counters, flood, is_seen, plain,
    tagged, to,
};
use crate::control::{command, mac_table, obeyed};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{NetConfig, NetHeader, RxFrame};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "vf/offers-what-it-promises",
        level: Level::Model,
        needs: &[ADMIN],
        source: "the back end's documentation, as its control adapter tells it",
        sent: "The order 'offers', GET_FEATURES and GET_PROTOCOL_FEATURES.",
        expected: "Each feature that is promised is offered.",
        run: offers,
    },
    Case {
        id: "vf/spoofchk-follows-driver",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, CTRL_MAC, CTRL_RX, Need::Peer],
        source: "ip-link(8) vf spoofchk; Linux ixgbe and i40e (the MAC filters of a VF are what it may send from)",
        sent: "With spoofchk on, frames from an address that the sender's driver has set (MAC_ADDR_SET), from the one before, and from one that it lists for a while (MAC_TABLE_SET).",
        expected: "Those from the addresses that it has at the time arrive.",
        run: |bench| {
            bench.administer("vf 0 spoofchk on")?;
            let mut link = controlled(bench)?;
            let own = link.src;
            let sends = |link: &mut crate::bench::Link, src: [u8; 6], does: bool| {
                let mut frame = link.frame(100);
                frame[6..12].copy_from_slice(&src);
                link.send(&frame)?;
                is_seen(link, &frame, does)
            };
            obeyed(&mut link.tx, &address(NEW))?;
            for (src, does) in [(NEW, true), (own, false), (FOREIGN, false)] {
                sends(&mut link, src, does)?;
            }
            obeyed(&mut link.tx, &mac_table(&[FOREIGN], &[]))?;
            for (src, does) in [(FOREIGN, true), (NEW, true), (own, false)] {
                sends(&mut link, src, does)?;
            }
            obeyed(&mut link.tx, &mac_table(&[], &[]))?;
            sends(&mut link, FOREIGN, false)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/spoofchk-before-checksum",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Peer,
            Need::Feature(vf_guest::net::feature::CSUM, "CSUM"),
        ],
        source: "ip-link(8) vf spoofchk, vlan (what is judged is what is delivered); V 5.1.9.2.1",
        sent: "With spoofchk on, and in port VLAN 100, frames whose checksum (NEEDS_CSUM) is to be put into their source address, their EtherType and the tag in front, to a driver without GUEST_CSUM.",
        expected: "Nothing arrives from another address than the sender's, with another type or in another VLAN: such frames are dropped, or their addresses stay.",
        run: spoofed_by_checksum,
    },
    Case {
        id: "vf/mac-admin-wins-later",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, CTRL_MAC, CONFIG, Need::Peer],
        source: "Linux ixgbe and i40e (administratively set MAC); ip-link(8) vf mac",
        sent: "An address set by a driver (MAC_ADDR_SET), which is not trusted, and by one that is, and then another one by the administrator.",
        expected: "The administrator's holds from then on: configuration space tells it, frames to it arrive, and to the driver's no more.",
        run: |bench| {
            for trust in ["off", "on"] {
                bench.administer("reset")?;
                bench.administer(&format!("vf 1 trust {trust}"))?;
                let mut link = controlled(bench)?;
                obeyed(link.receiver(), &address(FOREIGN))?;
                to(&mut link, FOREIGN, true)?;
                bench.administer(&format!("vf 1 mac {}", colons(NEW)))?;
                told(link.receiver(), NEW)?;
                to(&mut link, NEW, true)?;
                to(&mut link, FOREIGN, false)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/taken-back",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf: vlan 0, max_tx_rate 0 and spoofchk off each end what was set before",
        sent: "A port VLAN, a rate of 1 Mb/s and a VLAN that the VF is a member of, each set and taken back, and frames.",
        expected: "Each passes as before: untagged, all of 200 long ones within two seconds, and of any VLAN.",
        run: taken_back,
    },
    Case {
        id: "vf/counters-of-receiver",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IFLA_VF_STATS (rx_dropped); RFC 2863 (what comes in is given on or counted)",
        sent: "60 frames to a receiver with four buffers that posts none again, until its session ends.",
        expected: "What it got and what was dropped of its frames is 60 more than before.",
        run: |bench| {
            let before = counters(bench, 1)?;
            let receiver = NetConfig {
                queue_size: 4,
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&NetConfig::default(), &receiver)?;
            for _ in 0..60 {
                let frame = link.frame(200);
                link.send(&frame)?;
            }
            link.sent()?;
            drop(link);
            let deadline = Instant::now() + DEADLINE;
            loop {
                let after = counters(bench, 1)?;
                let rose = |name: &str| after.get(name).saturating_sub(before.get(name));
                let (got, dropped) = (rose("rx"), rose("rx_dropped"));
                if got + dropped == 60 {
                    return Ok(Seen::Conforms);
                }
                ensure(
                    Instant::now() < deadline,
                    format_args!("{got} received and {dropped} dropped, of 60"),
                )?;
                std::thread::sleep(QUIET);
            }
        },
    },
    Case {
        id: "vf/quiet-beside-busy",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "SR-IOV: virtual functions share nothing that one may use up",
        sent: "20 frames of a VF that was quiet, 20 ms apart, beside a neighbour that sends without a pause.",
        expected: "Each arrives while the neighbour goes on.",
        run: quiet_beside_busy,
    },
    Case {
        id: "vf/vlan-list-receives",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 8.6.2 (ingress), 8.8.3 (member set); bridge(8) vlan add",
        sent: "Frames and broadcasts without a tag and of VLANs 5, 6 and 7 to a VF that is made a member of 5, 6 and 7, then of 6 no more, and then of 5.",
        expected: "Those without a tag arrive, and those of the VLANs that it is a member of at the time.",
        run: |bench| {
            bench.administer("vf 1 vlan add 5")?;
            let mut link = bench.link(&NetConfig::default())?;
            let mut look = |member: [bool; 3]| {
                for dst in [link.dst, [0xff; 6]] {
                    to(&mut link, dst, true)?;
                    for (vid, does) in [5, 6, 7].into_iter().zip(member) {
                        let mut frame = link.frame(100);
                        frame[..6].copy_from_slice(&dst);
                        let frame = tagged(&frame, 0x8100, vid);
                        link.send(&frame)?;
                        is_seen(&mut link, &frame, does)?;
                    }
                }
                Ok::<_, Failure>(())
            };
            look([true, false, false])?;
            bench.administer("vf 1 vlan add 6")?;
            look([true, true, false])?;
            bench.administer("vf 1 vlan add 7")?;
            bench.administer("vf 1 vlan del 6")?;
            look([true, false, true])?;
            bench.administer("vf 1 vlan del 5")?;
            look([false, false, true])?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/port-vlan-own-tag",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf vlan (a guest cannot leave its VLAN); Intel 82599 datasheet 7.10.3.9.2",
        sent: "Frames that a VF in port VLAN 100 tags 200 and 100 itself, to one in no VLAN, in port VLAN 200 and in port VLAN 100.",
        expected: "To the first none arrives but with the tag of 100 in front, to the second none at all, to the third none without what was sent.",
        run: |bench| {
            bench.administer("vf 0 vlan 100")?;
            for port in [0, 200, 100] {
                bench.administer(&format!("vf 1 vlan {port}"))?;
                let mut link = bench.link(&NetConfig::default())?;
                for vid in [200, 100] {
                    let sent = tagged(&link.frame(100), 0x8100, vid);
                    link.send(&sent)?;
                    link.sent()?;
                    while let Some(came) = link.receive(QUIET)? {
                        let whole = match port {
                            0 => tagged(&sent, 0x8100, 100),
                            100 => sent.clone(),
                            _ => Vec::new(),
                        };
                        ensure(
                            came.bytes() == whole,
                            format_args!(
                                "tagged {vid}, to a VF in port VLAN {port}, it came as {:02x?}",
                                came.bytes().get(12..20)
                            ),
                        )?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/port-vlan-keeps-out",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 8.6.2, 8.8.3; ip-link(8) vf vlan",
        sent: "Frames of a VF in no VLAN to one in port VLAN 100, to a group and to all: without a tag, with a priority alone, of VLAN 200 and of VLAN 100.",
        expected: "Those of VLAN 100 alone arrive, without the tag.",
        run: |bench| {
            bench.administer("vf 1 vlan 100")?;
            let mut link = bench.link(&NetConfig::default())?;
            for dst in [link.dst, [1, 0, 0x5e, 0, 0, 0x17], [0xff; 6]] {
                let mut frame = link.frame(100);
                frame[..6].copy_from_slice(&dst);
                for tag in [None, Some(5 << 13), Some(200)] {
                    let sent = tag.map_or_else(|| frame.clone(), |tci| tagged(&frame, 0x8100, tci));
                    link.send(&sent)?;
                    link.sent()?;
                    let came = link.receive(QUIET)?.is_some();
                    ensure(!came, format_args!("a frame with tag {tag:x?} arrived"))?;
                }
                link.send(&tagged(&frame, 0x8100, 100))?;
                is_seen(&mut link, &frame, true)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/rate-of-segments",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, TSO4],
        source: "ip-link(8) vf max_tx_rate (what is limited is what is sent); V 5.1.9.2",
        sent: "Super-frames with segments of 100 bytes for a second, as fast as they are taken, by a VF that may send 10 Mb/s, to a driver that takes none.",
        expected: "Not more than 10 Mb/s arrive behind the first burst, within 5 %, with the headers of each segment.",
        run: rate_of_segments,
    },
    Case {
        id: "vf/rate-changed",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf max_tx_rate (what is set last holds)",
        sent: "By a VF that may send 1 Mb/s, a frame; with 1000 Mb/s 200 of 1514 bytes, three times at most; and with 10 Mb/s such frames for a second.",
        expected: "The 200 arrive within a second, and then no more than 10 Mb/s behind the first burst, within 5 %.",
        run: rate_changed,
    },
    Case {
        id: "vf/mac-admin-wins-table",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, CTRL_RX, Need::Peer],
        source: "Linux ixgbe and i40e (administratively set MAC); ip-link(8) vf mac, spoofchk",
        sent: "An address set by the administrator, and another one listed by the driver (MAC_TABLE_SET), untrusted: frames to that; and with spoofchk on frames from it.",
        expected: "None arrive, whatever the driver was answered; those to and from the administrator's do.",
        run: |bench| {
            bench.administer(&format!("vf 1 mac {}", colons(NEW)))?;
            let mut link = controlled(bench)?;
            command(link.receiver(), &mac_table(&[FOREIGN], &[]), 0)?;
            for (dst, does) in [(FOREIGN, false), (NEW, true)] {
                to(&mut link, dst, does)?;
            }
            drop(link);
            bench.administer("reset")?;
            bench.administer(&format!("vf 0 mac {} spoofchk on", colons(NEW)))?;
            let mut link = controlled(bench)?;
            command(&mut link.tx, &mac_table(&[FOREIGN], &[]), 0)?;
            for (src, does) in [(FOREIGN, false), (NEW, true)] {
                let mut frame = link.frame(100);
                frame[6..12].copy_from_slice(&src);
                link.send(&frame)?;
                is_seen(&mut link, &frame, does)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/trust-ends",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, CTRL_MAC, Need::Peer],
        source: "ip-link(8) vf trust; Linux ixgbe (what needed trust does not outlive it)",
        sent: "An address set by the administrator, trust, another address set by the driver (MAC_ADDR_SET), and the end of the trust; frames to both, and with spoofchk on frames from both.",
        expected: "With trust those to and from the driver's pass, and behind its end those to and from the administrator's alone.",
        run: |bench| {
            for vf in 0..2 {
                bench.administer("reset")?;
                bench.administer(&format!("vf {vf} mac {} trust on spoofchk on", colons(NEW)))?;
                let mut link = controlled(bench)?;
                let device = match vf {
                    0 => &mut link.tx,
                    _ => link.receiver(),
                };
                obeyed(device, &address(FOREIGN))?;
                for (trust, drivers, administrators) in [("on", true, false), ("off", false, true)]
                {
                    bench.administer(&format!("vf {vf} trust {trust}"))?;
                    for (mac, does) in [(FOREIGN, drivers), (NEW, administrators)] {
                        let mut frame = link.frame(100);
                        match vf {
                            0 => frame[6..12].copy_from_slice(&mac),
                            _ => frame[..6].copy_from_slice(&mac),
                        }
                        link.send(&frame)?;
                        is_seen(&mut link, &frame, does)?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/port-vlan-every-priority",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf vlan, qos; IEEE 802.1Q-2018 9.6 (PCP has three bits, VID has twelve)",
        sent: "Frames of a VF in port VLANs 1, 2048 and 4094 with each priority from 0 to 7, to one without.",
        expected: "They arrive with that VLAN and priority in their tag.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for (vid, priorities) in [(1, 0..4), (2048, 4..8), (4094, 0..8)] {
                for priority in priorities {
                    bench.administer(&format!("vf 0 vlan {vid} qos {priority}"))?;
                    let frame = link.frame(100);
                    link.send(&frame)?;
                    is_seen(
                        &mut link,
                        &tagged(&frame, 0x8100, priority << 13 | vid),
                        true,
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/service-port-vlan",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf vlan, proto 802.1ad; IEEE 802.1Q-2018 6.9 (S-VLANs are not C-VLANs), 9.6",
        sent: "Frames of a VF in no VLAN to one in port VLAN 10 of 802.1ad, to its address, to a group and to all, with an S-TAG of 10 and of 11, with a C-TAG of 10 and with a tag of 0x9100 and 10; and frames of that VF to one in no VLAN.",
        expected: "Those with the S-TAG of 10 alone arrive, without it, and those the other way come with it: the VLAN of customers with that number is another one.",
        run: |bench| {
            const SERVICE: u16 = 0x88a8;
            bench.administer("vf 1 vlan 10 proto 802.1ad")?;
            let mut link = bench.link(&NetConfig::default())?;
            for dst in [link.dst, [1, 0, 0x5e, 0, 0, 0x17], [0xff; 6]] {
                for (kind, vid, does) in [
                    (SERVICE, 10, true),
                    (0x8100, 10, false),
                    (0x9100, 10, false),
                    (SERVICE, 11, false),
                ] {
                    let mut plain = link.frame(100);
                    plain[..6].copy_from_slice(&dst);
                    link.send(&tagged(&plain, kind, vid))?;
                    is_seen(&mut link, &plain, does)?;
                }
            }
            drop(link);
            bench.administer("vf 1 vlan 0")?;
            bench.administer("vf 0 vlan 10 proto 802.1ad")?;
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.send(&frame)?;
            is_seen(&mut link, &tagged(&frame, SERVICE, 10), true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/vlan-list-service-tags",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 6.9, 9.6 (S-VLANs are not C-VLANs); docs of the back end",
        sent: "Frames with a C-TAG, an S-TAG and a tag of 0x9100, each of VLAN 5, to and by a VF that is a member of VLAN 5.",
        expected: "Those with the C-TAG alone arrive: it is a member of no other VLAN with that number.",
        run: |bench| {
            for vf in 0..2 {
                bench.administer("reset")?;
                bench.administer(&format!("vf {vf} vlan add 5"))?;
                let mut link = bench.link(&NetConfig::default())?;
                for (kind, does) in [(0x8100, true), (0x88a8, false), (0x9100, false)] {
                    let frame = tagged(&link.frame(100), kind, 5);
                    link.send(&frame)?;
                    is_seen(&mut link, &frame, does)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/vlan-out-of-range",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf vlan, qos; Linux rtnetlink do_setvfinfo (VLANs to 4095, qos to 7); IEEE 802.1Q-2018 9.6",
        sent: "Port VLANs 4097 and 5000, a priority of 8, and membership of VLAN 5000.",
        expected: "Refused, and frames pass as before.",
        run: |bench| {
            for order in ["vlan 5000", "vlan 4097", "vlan 100 qos 8", "vlan add 5000"] {
                bench.refuses(&format!("vf 0 {order}"))?;
            }
            plain(bench)
        },
    },
    Case {
        id: "vf/counters-of-groups",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IFLA_VF_STATS (broadcasts and groups are packets, too); RFC 2863",
        sent: "20 broadcasts and 20 frames to a group, each of which arrives.",
        expected: "What the sender has sent and what the receiver got is 40 more than before.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let before = [counters(bench, 0)?, counters(bench, 1)?];
            for n in 0..40 {
                let dst = if n % 2 == 0 {
                    [0xff; 6]
                } else {
                    [1, 0, 0x5e, 0, 0, 0x17]
                };
                to(&mut link, dst, true)?;
            }
            link.sent()?;
            // Counters may be gathered now and then only.
            let deadline = Instant::now() + DEADLINE;
            loop {
                let (sent, got) = (counters(bench, 0)?, counters(bench, 1)?);
                let sent = sent.get("tx").saturating_sub(before[0].get("tx"));
                let got = got.get("rx").saturating_sub(before[1].get("rx"));
                if (sent, got) == (40, 40) {
                    return Ok(Seen::Conforms);
                }
                ensure(
                    Instant::now() < deadline,
                    format_args!("{sent} sent and {got} received, of 40"),
                )?;
                std::thread::sleep(QUIET);
            }
        },
    },
];

fn offers(bench: &Bench) -> Result<Seen, Failure> {
    let said = bench.administer("offers")?;
    let offered = [
        ("features", bench.features()),
        ("protocol_features", bench.protocol_features()),
    ];
    for word in said.split_whitespace() {
        let promised = word.split_once("=0x").and_then(|(name, bits)| {
            let offered = offered.iter().find(|(known, _)| *known == name)?;
            Some((name, u64::from_str_radix(bits, 16).ok()?, offered.1))
        });
        let Some((name, promised, offered)) = promised else {
            return Err(Failure::Wrong(format!(
                "the control adapter promises '{word}'"
            )));
        };
        ensure(
            promised & !offered == 0,
            format_args!(
                "{name} {:#x} are promised and not offered",
                promised & !offered
            ),
        )?;
    }
    Ok(Seen::Conforms)
}

fn spoofed_by_checksum(bench: &Bench) -> Result<Seen, Failure> {
    for vlan in [0, 100] {
        bench.administer(&format!("vf 0 vlan {vlan} spoofchk on"))?;
        let plain = NetConfig {
            features: NetConfig::default().features & !vf_guest::net::feature::GUEST_CSUM,
            ..NetConfig::default()
        };
        let asks = NetConfig {
            features: plain.features | vf_guest::net::feature::CSUM,
            ..plain.clone()
        };
        let mut link = bench.link_of(&asks, &plain)?;
        for (csum_start, csum_offset) in [(0, 6), (0, 10), (0, 12), (8, 6), (12, 2), (14, 0)] {
            let frame = link.frame(100);
            let hdr = NetHeader {
                flags: vf_guest::net::HDR_NEEDS_CSUM,
                csum_start,
                csum_offset,
                ..NetHeader::default()
            };
            link.send_with(&hdr, &frame)?;
            link.sent()?;
            // Of any source.
            let mut got = RxFrame::default();
            let until = Instant::now() + QUIET;
            while Instant::now() < until {
                if link.receiver().recv(0, &mut got)? {
                    let tag = if vlan == 0 {
                        &[][..]
                    } else {
                        &[0x81, 0, 0, 100]
                    };
                    let head = [&frame[..12], tag, &frame[12..14]].concat();
                    ensure(
                        got.bytes().starts_with(&head),
                        format_args!(
                            "a checksum at byte {} made it {:02x?}",
                            csum_start + csum_offset,
                            got.bytes().get(..18)
                        ),
                    )?;
                }
                link.receiver().kick();
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
    Ok(Seen::Conforms)
}

fn taken_back(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    bench.administer("vf 0 vlan 100")?;
    let frame = link.frame(100);
    link.send(&frame)?;
    is_seen(&mut link, &tagged(&frame, 0x8100, 100), true)?;
    bench.administer("vf 0 vlan 0")?;
    let frame = link.frame(100);
    link.pass(&frame)?;

    bench.administer("vf 0 vlan add 5")?;
    bench.administer("vf 0 vlan del 5")?;
    let frame = tagged(&link.frame(100), 0x8100, 6);
    link.pass(&frame)?;

    bench.administer("vf 0 rate 1")?;
    bench.administer("vf 0 rate 0")?;
    // They take two seconds and a half at that rate.
    let start = Instant::now();
    let frames: Vec<_> = (0..200).map(|_| link.frame(1514)).collect();
    for frame in &frames {
        link.send(frame)?;
    }
    for frame in &frames {
        link.expect(frame)?;
    }
    let took = start.elapsed();
    ensure(
        took < Duration::from_secs(2),
        format_args!("200 frames took {took:?} without a limit"),
    )?;
    Ok(Seen::Conforms)
}

fn quiet_beside_busy(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let beside = bench.beside(1);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let done = &done;
        let flood = scope.spawn(move || {
            let mut busy = beside.link(&NetConfig::default())?;
            // To itself: they are judged, and go nowhere.
            let frame = [&busy.src[..], &busy.src, &[0x88, 0xb5], &[0; 46]].concat();
            let mut sent = 0u64;
            while !done.load(Ordering::Relaxed) {
                while busy.tx.send(0, &NetHeader::default(), &frame)? {
                    sent += 1;
                }
                busy.tx.kick();
                std::thread::yield_now();
            }
            Ok::<_, Failure>(sent)
        });
        std::thread::sleep(Duration::from_millis(300));
        let mut passed = Ok(());
        for _ in 0..20 {
            let frame = link.frame(300);
            passed = passed.and_then(|()| link.pass(&frame));
            std::thread::sleep(Duration::from_millis(20));
        }
        done.store(true, Ordering::Relaxed);
        let flood = flood.join();
        let sent = flood.unwrap_or_else(|_| Err(Failure::Wrong("the flood broke off".into())))?;
        passed?;
        ensure(
            sent > 1000,
            format_args!("only {sent} frames of the neighbour's were taken"),
        )?;
        Ok(Seen::Conforms)
    })
}

fn rate_of_segments(bench: &Bench) -> Result<Seen, Failure> {
    const RATE: f64 = 10e6;
    const LEN: usize = 5000;
    bench.administer("vf 0 rate 10")?;
    let mut link = bench.link_of(&with(NetConfig::TSO), &without(NetConfig::CHECKSUM))?;
    let (hdr, frame) = packet(&link, false, TCP, LEN, 100);
    let (mut bits, start) = (0, Instant::now());
    while start.elapsed() < Duration::from_secs(1) {
        while link.tx.send(0, &hdr, &frame)? {}
        link.tx.kick();
        while let Some(segment) = link.receive(Duration::ZERO)? {
            // With checksum, preamble and gap.
            bits += 8 * (segment.bytes().len() as u64 + 24);
        }
    }
    let took = start.elapsed();
    // What a token bucket holds at first, and what the last super-frame had begun.
    let burst = 8.0 * 64.0 * 1538.0;
    let said = format!("{:.1} Mb in {took:?}", bits as f64 / 1e6);
    ensure(
        bits as f64 <= RATE * took.as_secs_f64() * 1.05 + burst,
        said,
    )?;
    Ok(Seen::Conforms)
}

fn rate_changed(bench: &Bench) -> Result<Seen, Failure> {
    const FRAMES: usize = 200;
    let mut most = 0;
    let mut link = None;
    // A machine that has others to serve may have no time for a back end, for a second.
    for _ in 0..3 {
        bench.administer("vf 0 rate 1")?;
        let mut fresh = bench.link(&NetConfig::default())?;
        let frame = fresh.frame(1514);
        fresh.pass(&frame)?;
        bench.administer("vf 0 rate 1000")?;
        for _ in 0..FRAMES {
            let frame = fresh.frame(1514);
            fresh.tx.send(0, &NetHeader::default(), &frame)?;
        }
        fresh.tx.kick();
        let (mut came, end) = (0, Instant::now() + Duration::from_secs(1));
        while came < FRAMES && Instant::now() < end {
            came += usize::from(fresh.receive(Duration::from_millis(1))?.is_some());
        }
        most = most.max(came);
        if came == FRAMES {
            link = Some(fresh);
            break;
        }
    }
    let few = || {
        Failure::Wrong(format!(
            "with 1000 Mb/s {most} of {FRAMES} came in a second"
        ))
    };
    let mut link = link.ok_or_else(few)?;
    bench.administer("vf 0 rate 10")?;
    let (bytes, took) = flood(&mut link, Duration::from_secs(1))?;
    // What a token bucket holds at first, and what the last frame had begun.
    let most = 10e6 * took.as_secs_f64() * 1.05 + 64.0 * 1538.0 * 8.0;
    let bits = (bytes * 8) as f64;
    ensure(
        bits <= most,
        format_args!("with 10 Mb/s {:.0} Mb in {took:?}", bits / 1e6),
    )?;
    Ok(Seen::Conforms)
}
