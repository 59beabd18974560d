//! What is set for a virtual function, in the words of `ip link set dev PF vf N`: addresses, VLANs, spoof check, trust, rates, reset. Never
//! looks inside a back end: frames, answers, counters and configuration space tell.

use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, Link, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::control::{controlled, told};
use crate::cases::net::tcp;
use crate::control::{OK, command, mac_table, obeyed};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::checksum::TcpFrame;
use vf_guest::net::{GSO_NONE, HDR_NEEDS_CSUM, NetConfig, NetHeader, feature};

pub(super) const ADMIN: Need = Need::Administration;
pub(super) const CTRL_MAC: Need =
    Need::Feature(feature::CTRL_VQ | feature::CTRL_MAC_ADDR, "CTRL_MAC_ADDR");
pub(super) const CTRL_RX: Need = Need::Feature(feature::CTRL_VQ | feature::CTRL_RX, "CTRL_RX");
pub(super) const CONFIG: Need = Need::Protocol(vf_guest::message::protocol::CONFIG, "CONFIG");

/// Addresses that no port has.
pub(super) const NEW: [u8; 6] = [0x02, 0, 0, 0, 0xc0, 0x51];
pub(super) const FOREIGN: [u8; 6] = [0x02, 0, 0, 0, 0xc0, 0x52];
const GROUP: [u8; 6] = [0x01, 0, 0x5e, 0, 0, 0x17];
/// A number that no port has.
const NOBODY: &str = "4000";

pub(super) const CASES: &[Case] = &[
    Case {
        id: "vf/member-out-of-range",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 2.12.1.5; ip-link(8) vf NUM",
        sent: "An order for a VF that there is not.",
        expected: "Refused, and frames pass as before.",
        run: |bench| {
            bench.refuses(&format!("vf {NOBODY} trust on"))?;
            plain(bench)
        },
    },
    Case {
        id: "vf/numvfs-above-total",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "PCI SR-IOV 9.3.3.7 NumVFs; CVE-2024-26327; Linux sriov_numvfs (ERANGE)",
        sent: "More VFs than the device has: 60000.",
        expected: "Refused, and frames pass as before.",
        run: |bench| {
            bench.refuses("link numvfs 60000")?;
            plain(bench)
        },
    },
    Case {
        id: "vf/apply-atomic",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "V 2.12.1.5 (the state MUST NOT change with a command that fails)",
        sent: "One order with a VLAN and a group address as the VF's own.",
        expected: "Refused, and the VLAN is not in force: an untagged frame arrives untagged.",
        run: |bench| {
            bench.refuses("vf 0 vlan 100 mac 01:00:5e:00:00:01")?;
            plain(bench)
        },
    },
    Case {
        id: "vf/mac-unicast",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Linux is_valid_ether_addr in ndo_set_vf_mac; DPDK DTS vf_macfilter",
        sent: "A group address as the VF's own.",
        expected: "Refused, and frames pass as before.",
        run: |bench| {
            bench.refuses("vf 1 mac 01:00:5e:00:00:01")?;
            plain(bench)
        },
    },
    Case {
        id: "vf/mac-in-force",
        level: Level::Model,
        needs: &[ADMIN, CONFIG, Need::Peer],
        source: "ip-link(8) vf mac; V 5.1.4",
        sent: "Another address for the receiver, and a fresh driver.",
        expected: "The driver is told that address, frames to it arrive, and frames to the old one no more.",
        run: |bench| {
            let old = bench.mac(1);
            bench.administer(&format!("vf 1 mac {}", colons(NEW)))?;
            let mut link = bench.link(&NetConfig::default())?;
            told(link.receiver(), NEW)?;
            to(&mut link, NEW, true)?;
            to(&mut link, old, false)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/mac-admin-wins",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, CTRL_MAC, CONFIG, Need::Peer],
        source: "Linux ixgbe and i40e (administratively set MAC); ip-link(8) trust",
        sent: "An address set by the administrator, and then another one by the driver (MAC_ADDR_SET), untrusted and trusted.",
        expected: "The administrator's holds until the VF is trusted; then the driver's.",
        run: |bench| {
            bench.administer(&format!("vf 1 mac {}", colons(NEW)))?;
            let mut link = controlled(bench)?;
            let set = [&[1, 1][..], &FOREIGN].concat();
            let (said, _) = command(link.receiver(), &set, 0)?;
            ensure(said != OK, "MAC_ADDR_SET of an untrusted VF was obeyed")?;
            to(&mut link, FOREIGN, false)?;
            to(&mut link, NEW, true)?;
            bench.administer("vf 1 trust on")?;
            obeyed(link.receiver(), &set)?;
            to(&mut link, FOREIGN, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/spoofchk-mac",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf spoofchk",
        sent: "Frames from a foreign source address, with spoofchk on and off.",
        expected: "They arrive with off alone.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for (spoofchk, arrives) in [("on", false), ("off", true), ("on", false)] {
                bench.administer(&format!("vf 0 spoofchk {spoofchk}"))?;
                let mut frame = link.frame(100);
                frame[6..12].copy_from_slice(&FOREIGN);
                link.send(&frame)?;
                is_seen(&mut link, &frame, arrives)?;
            }
            let frame = link.frame(100);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/spoofchk-vlan",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "Intel 82599 datasheet 7.10.3.9.2 (VLAN anti-spoofing); IEEE 802.1Q-2018 8.6.2 Ingress",
        sent: "Frames in the VLAN of which the VF is a member, and in another one.",
        expected: "The first arrive; the others do not, whether they are tagged by the sender or the receiver is a member.",
        run: |bench| {
            bench.administer("vf 0 vlan add 5")?;
            let mut link = bench.link(&NetConfig::default())?;
            for (vid, arrives) in [(5, true), (6, false)] {
                let frame = tagged(&link.frame(100), 0x8100, vid);
                link.send(&frame)?;
                is_seen(&mut link, &frame, arrives)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/port-vlan-insert-strip",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf vlan, qos; IEEE 802.1Q-2018 8.6.2, 8.8",
        sent: "Untagged frames from a VF in port VLAN 100 with priority 3 to one without, and frames tagged 100, also with priority 7 and DEI, and 200 the other way.",
        expected: "The first arrive tagged 100 with priority 3, and with 0 once the VLAN is set again without one. Of the others those of 100 arrive without the tag, those of 200 not at all.",
        run: |bench| {
            bench.administer("vf 0 vlan 100 qos 3")?;
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.send(&frame)?;
            link.expect(&tagged(&frame, 0x8100, 3 << 13 | 100))?;
            bench.administer("vf 0 vlan 100")?;
            let frame = link.frame(100);
            link.send(&frame)?;
            link.expect(&tagged(&frame, 0x8100, 100))?;
            // The other way, from the peer's ring.
            let (src, dst) = (link.dst, link.src);
            for (tci, arrives) in [(100, true), (0xf000 | 100, true), (200, false)] {
                let mut plain = link.frame(100);
                plain[..6].copy_from_slice(&dst);
                plain[6..12].copy_from_slice(&src);
                let sent = tagged(&plain, 0x8100, tci);
                if let Some(peer) = &mut link.rx {
                    peer.send(0, &NetHeader::default(), &sent)?;
                    peer.kick();
                }
                let wait = if arrives { DEADLINE } else { QUIET };
                let came = link.returned(wait, |came| came == plain)?;
                ensure(
                    came == arrives,
                    format_args!("with TCI {tci:#x}: came without its tag: {came}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/port-vlan-partial-csum",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Peer,
            Need::Feature(feature::CSUM | feature::GUEST_CSUM, "CSUM"),
        ],
        source: "ip-link(8) vf vlan; V 5.1.9.4.1",
        sent: "A frame with NEEDS_CSUM from a VF in port VLAN 100 to one without, which accepted GUEST_CSUM.",
        expected: "It arrives tagged, its checksum complete, or partial and where the tag has moved it to.",
        run: |bench| {
            bench.administer("vf 0 vlan 100")?;
            let mut link = bench.link(&NetConfig::default())?;
            let (sent, frame, _) = tcp(&link, 1000, GSO_NONE);
            link.send_with(&sent, &frame)?;
            let came = link.receive(DEADLINE)?;
            let came = came.ok_or_else(|| Failure::Wrong("the frame did not arrive".into()))?;
            let hdr = came.hdr;
            let mut inner = came.bytes().to_vec();
            ensure(inner.len() == frame.len() + 4, "it came without a tag")?;
            inner.drain(12..16);
            let complete = TcpFrame::parse(&inner).is_some_and(|tcp| tcp.verify(&inner));
            let place = (hdr.csum_start, hdr.csum_offset);
            let partial = hdr.flags & HDR_NEEDS_CSUM != 0
                && place == (sent.csum_start + 4, sent.csum_offset)
                && inner == frame;
            ensure(
                complete || partial,
                format_args!("flags {}, checksum of {place:?}", hdr.flags),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/trust-gates-promisc",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, CTRL_RX, Need::Peer, Need::Onlooker],
        source: "ip-link(8) trust; DPDK DTS vf promiscuous",
        sent: "Promiscuous mode of a VF that is not trusted, and of one that is, which then leaves it; frames to a group and of a VLAN that it has not listed, and between two others.",
        expected: "With trust and in that mode it gets the first two; without, whatever it is answered, none of them.",
        run: |bench| {
            for (trust, does) in [("off", false), ("on", true)] {
                bench.administer(&format!("vf 1 trust {trust}"))?;
                let mut link = controlled(bench)?;
                let onlooker = bench.onlooker(&NetConfig::default())?;
                for (on, does) in [(1, does), (0, false)] {
                    command(link.receiver(), &[0, 0, on], 0)?;
                    to(&mut link, GROUP, does)?;
                    if link.receiver().has(feature::CTRL_VLAN) {
                        let frame = tagged(&link.frame(100), 0x8100, 5);
                        link.send(&frame)?;
                        is_seen(&mut link, &frame, does)?;
                    }
                    if !does {
                        to(&mut link, onlooker.mac, false)?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/trust-gates-allmulti",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, CTRL_RX, Need::Peer],
        source: "ip-link(8) trust; Linux ixgbe (IXGBEVF_XCAST_MODE_ALLMULTI needs trust)",
        sent: "All-multicast mode of a VF that is not trusted, and of one that is, whose trust ends and comes back, and which then leaves it, and frames to a group that it has not listed.",
        expected: "They arrive while there is trust alone, and only in that mode.",
        run: |bench| {
            for (trust, arrives) in [("off", false), ("on", true)] {
                bench.administer(&format!("vf 1 trust {trust}"))?;
                let mut link = controlled(bench)?;
                command(link.receiver(), &[0, 1, 1], 0)?;
                to(&mut link, GROUP, arrives)?;
                if arrives {
                    for (trust, arrives) in [("off", false), ("on", true)] {
                        bench.administer(&format!("vf 1 trust {trust}"))?;
                        to(&mut link, GROUP, arrives)?;
                    }
                }
                obeyed(link.receiver(), &[0, 1, 0])?;
                to(&mut link, GROUP, false)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/reset-forgets-guest-keeps-admin",
        level: Level::Model,
        needs: &[ADMIN, Need::Control, CTRL_RX, CONFIG, Need::Peer],
        source: "PCIe Function Level Reset; V 5.1.9.5.2.1",
        sent: "A reset of a VF whose administrator has set its address and whose driver has listed another one.",
        expected: "What the driver said is forgotten, the address that was set stays.",
        run: |bench| {
            bench.administer(&format!("vf 1 mac {}", colons(NEW)))?;
            bench.administer("vf 1 trust on")?;
            let mut link = controlled(bench)?;
            obeyed(link.receiver(), &mac_table(&[FOREIGN], &[]))?;
            to(&mut link, FOREIGN, true)?;
            bench.administer("vf 1 reset")?;
            // Its driver has to set everything up again.
            for dst in [NEW, FOREIGN] {
                to(&mut link, dst, false)?;
            }
            drop(link);
            let mut link = controlled(bench)?;
            told(link.receiver(), NEW)?;
            to(&mut link, FOREIGN, false)?;
            to(&mut link, NEW, true)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/rate-cap",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf max_tx_rate",
        sent: "Frames of 1514 bytes for a second, as fast as they are taken, by a VF that may send 10 Mb/s.",
        expected: "Not more than 10 Mb/s arrive behind the first burst, within 5 %, and in one second of five at least three quarters of that.",
        run: |bench| {
            const RATE: f64 = 10e6;
            bench.administer("vf 0 rate 10")?;
            let mut link = bench.link(&NetConfig::default())?;
            // What a token bucket holds at first, and what the last frame had begun.
            let burst = 64.0 * 1538.0 * 8.0;
            let mut said = String::new();
            // A machine that has others to serve may have no time for a back end, for a second.
            for _ in 0..5 {
                let (bytes, took) = flood(&mut link, Duration::from_secs(1))?;
                let bits = (bytes * 8) as f64;
                said = format!("{:.0} Mb in {took:?}", bits / 1e6);
                ensure(bits <= RATE * took.as_secs_f64() * 1.05 + burst, &said)?;
                if bits >= RATE * 0.75 * took.as_secs_f64() {
                    return Ok(Seen::Conforms);
                }
            }
            Err(Failure::Wrong(format!(
                "only {said}, the last of five times"
            )))
        },
    },
    Case {
        id: "vf/rate-fair",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf max_tx_rate",
        sent: "Frames of a VF to one whose rate is limited and whose send ring is full.",
        expected: "They arrive as ever: the limit is the sender's alone.",
        run: |bench| {
            bench.administer("vf 1 rate 1")?;
            let mut link = bench.link(&NetConfig::default())?;
            let (src, dst) = (link.dst, link.src);
            for _ in 0..200 {
                let mut frame = link.frame(1514);
                frame[..6].copy_from_slice(&dst);
                frame[6..12].copy_from_slice(&src);
                if let Some(peer) = &mut link.rx {
                    peer.send(0, &NetHeader::default(), &frame)?;
                    peer.kick();
                }
            }
            for _ in 0..20 {
                let frame = link.frame(500);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/disable-mid-traffic",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "ip-link(8) vf state",
        sent: "State disable for the receiver, and for the sender, while frames go; then auto.",
        expected: "Of what is sent after the answer nothing arrives, and the sender's ring is emptied. With auto frames pass again.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for vf in [1, 0] {
                for _ in 0..50 {
                    let frame = link.frame(200);
                    link.send(&frame)?;
                }
                bench.administer(&format!("vf {vf} state disable"))?;
                let frames: Vec<_> = (0..20).map(|_| link.frame(200)).collect();
                for frame in &frames {
                    link.send(frame)?;
                }
                link.sent()?;
                // Those of before are passed over.
                let mut late = 0;
                while let Some(frame) = link.receive(QUIET)? {
                    late += usize::from(frames.iter().any(|sent| sent == frame.bytes()));
                }
                ensure(late == 0, format_args!("{late} of 20 frames arrived"))?;
                bench.administer(&format!("vf {vf} state auto"))?;
                let frame = link.frame(200);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/isolation-load",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "SR-IOV: virtual functions share nothing that one may use up",
        sent: "300 frames to a VF beside a flood of frames of their sender's neighbour to itself, which nobody asked for.",
        expected: "Each arrives.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let mut neighbour = bench.onlooker(&NetConfig::default())?;
            let to_self = [&neighbour.mac[..], &neighbour.mac, &[0x88, 0xb5], &[0; 46]].concat();
            for _ in 0..300 {
                // To itself: they are judged, and go nowhere.
                for _ in 0..16 {
                    neighbour.net.send(0, &NetHeader::default(), &to_self)?;
                }
                neighbour.net.kick();
                let frame = link.frame(300);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/counters-conserve",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IFLA_VF_STATS; RFC 2863 (what goes in comes out or is counted)",
        sent: "60 frames, 20 of which have a foreign source address.",
        expected: "What the sender has sent and had dropped is 60 more than before, what the receiver got 40 more.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            bench.administer("vf 0 spoofchk on")?;
            let before = [counters(bench, 0)?, counters(bench, 1)?];
            for n in 0..60 {
                let mut frame = link.frame(200);
                if n % 3 == 0 {
                    frame[6..12].copy_from_slice(&FOREIGN);
                }
                link.send(&frame)?;
                if n % 3 != 0 {
                    link.expect(&frame)?;
                }
            }
            link.sent()?;
            // Counters may be gathered now and then only.
            let deadline = Instant::now() + DEADLINE;
            loop {
                let after = [counters(bench, 0)?, counters(bench, 1)?];
                let rose =
                    |n: usize, name: &str| after[n].get(name).saturating_sub(before[n].get(name));
                let sent = rose(0, "tx") + rose(0, "tx_dropped");
                // A frame that is dropped for its sender may count as sent or not.
                let right = (sent == 60 || rose(0, "tx") == 60) && rose(1, "rx") == 40;
                if right {
                    return Ok(Seen::Conforms);
                }
                ensure(
                    Instant::now() < deadline,
                    format_args!(
                        "sent {} and dropped {} of the sender's, {} received",
                        rose(0, "tx"),
                        rose(0, "tx_dropped"),
                        rose(1, "rx")
                    ),
                )?;
                std::thread::sleep(QUIET);
            }
        },
    },
    Case {
        id: "vf/port-vlan-priority-tag",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 6.9 (what only carries a priority is in the port's VLAN); ip-link(8) vf vlan",
        sent: "A frame with a tag of VLAN 0 and priority 5, from one VF in port VLAN 100 to another.",
        expected: "It arrives, with that tag or without.",
        run: |bench| {
            for vf in 0..2 {
                bench.administer(&format!("vf {vf} vlan 100"))?;
            }
            let mut link = bench.link(&NetConfig::default())?;
            let plain = link.frame(100);
            let sent = tagged(&plain, 0x8100, 5 << 13);
            link.send(&sent)?;
            let came = link.receive(DEADLINE)?;
            let came = came.ok_or_else(|| Failure::Wrong("the frame did not arrive".into()))?;
            ensure(
                came.bytes() == sent || came.bytes() == plain,
                format_args!("it came as {:02x?}", came.bytes().get(12..20)),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/port-vlan-over-buffers",
        level: Level::Model,
        needs: &[
            ADMIN,
            Need::Peer,
            Need::Feature(feature::MRG_RXBUF, "MRG_RXBUF"),
        ],
        source: "ip-link(8) vf vlan, qos; V 5.1.9.4.1",
        sent: "Frames from a VF in port VLAN 100 to one without, whose receive buffers have 64 bytes.",
        expected: "They arrive tagged, as they do in one buffer.",
        run: |bench| {
            bench.administer("vf 0 vlan 100 qos 3")?;
            let receiver = NetConfig {
                rx_buffer: Some(64),
                ..NetConfig::default()
            };
            let mut link = bench.link_of(&NetConfig::default(), &receiver)?;
            for len in [60, 500, 1514] {
                let frame = link.frame(len);
                link.send(&frame)?;
                link.expect(&tagged(&frame, 0x8100, 3 << 13 | 100))?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// A frame from sender to receiver passes.
pub(super) fn plain(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let frame = link.frame(100);
    link.pass(&frame)?;
    Ok(Seen::Conforms)
}

/// Checks that the receiver gets a frame to `dst`, or does not.
pub(super) fn to(link: &mut Link, dst: [u8; 6], does: bool) -> Result<(), Failure> {
    let mut frame = link.frame(100);
    frame[..6].copy_from_slice(&dst);
    link.send(&frame)?;
    is_seen(link, &frame, does)
}

/// Checks that a frame arrives, or does not.
pub(super) fn is_seen(link: &mut Link, frame: &[u8], does: bool) -> Result<(), Failure> {
    match does {
        true => link.expect(frame).map(drop),
        false => link.expect_nothing(frame),
    }
}

/// The frame with a tag behind its addresses.
pub(super) fn tagged(frame: &[u8], kind: u16, tci: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &kind.to_be_bytes(), &tci.to_be_bytes(), rest].concat()
}

/// An address as people write it.
pub(super) fn colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Sends long frames for a while; bytes that arrived in which time, preamble and gap counted.
pub(super) fn flood(link: &mut Link, wait: Duration) -> Result<(u64, Duration), Failure> {
    let start = Instant::now();
    let mut bytes = 0;
    while start.elapsed() < wait {
        for _ in 0..32 {
            let frame = link.frame(1514);
            if !link.tx.send(0, &NetHeader::default(), &frame)? {
                break;
            }
        }
        link.tx.kick();
        while let Some(frame) = link.receive(Duration::ZERO)? {
            bytes += frame.bytes().len() as u64 + 24;
        }
    }
    Ok((bytes, start.elapsed()))
}

/// What an adapter says of a port's counters: `rx=N tx=N rx_dropped=N tx_dropped=N`.
pub(super) struct Counters(Vec<(String, u64)>);

impl Counters {
    pub(super) fn get(&self, name: &str) -> u64 {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or(0, |(_, n)| *n)
    }
}

pub(super) fn counters(bench: &Bench, vf: usize) -> Result<Counters, Failure> {
    let said = bench.administer(&format!("vf {vf} stats"))?;
    let pairs = said.split_whitespace().filter_map(|word| {
        let (key, n) = word.split_once('=')?;
        Some((key.to_owned(), n.parse().ok()?))
    });
    Ok(Counters(pairs.collect()))
}
