//! Who receives what is for several or is no plain Ethernet frame: groups, broadcasts and tags of all kinds, and copies of a mirror. Never
//! looks at how a switch finds them: ports that receive tell.

use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, Link, QUIET, with};
use crate::case::{Case, Level, Need};
use crate::cases::vf::{ADMIN, FOREIGN, is_seen, tagged, to};
use crate::link::Onlooker;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, RxFrame, feature};

const ALL: [u8; 6] = [0xff; 6];
/// All hosts, a name service, all nodes and a solicited node of IPv6.
const GROUPS: [[u8; 6]; 4] = [
    [0x01, 0, 0x5e, 0, 0, 1],
    [0x01, 0, 0x5e, 0, 0, 0xfb],
    [0x33, 0x33, 0, 0, 0, 1],
    [0x33, 0x33, 0xff, 0, 0xc0, 0x51],
];

pub(super) const CASES: &[Case] = &[
    Case {
        id: "switch/groups-without-a-list",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "IEEE 802.1Q-2018 8.8.2; V 5.1.9.5.1 (only with CTRL_RX can a driver say what it wants)",
        sent: "Frames to groups of IPv4 and IPv6, without a tag and tagged, to drivers that have not accepted CTRL_RX, without a control queue and with one.",
        expected: "All of them get each: neighbour discovery of IPv6 lives on that.",
        run: |bench| {
            // Without a control queue, and with one on which groups cannot be listed.
            for control in [0, feature::CTRL_VQ | feature::CTRL_MAC_ADDR] {
                let config = with(control);
                let mut link = bench.link(&config)?;
                let mut onlooker = bench.onlooker(&config)?;
                for group in GROUPS {
                    for tag in [false, true] {
                        let mut frame = link.frame(100);
                        frame[..6].copy_from_slice(&group);
                        if tag {
                            frame = tagged(&frame, 0x8100, 5);
                        }
                        link.send(&frame)?;
                        both_get(&mut link, &mut onlooker, &frame)?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/tags-of-all-kinds",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 9.6 (C-TAG, S-TAG); IEEE 802.3-2022 3.2.6 (a length in place of a type)",
        sent: "Frames with a C-TAG, an S-TAG, one behind the other, a tag of 0x9100, a length in place of a type, and ARP, to the address of a VF in no VLAN and to all.",
        expected: "They arrive as they were.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for dst in [link.dst, ALL] {
                for tags in [
                    &[(0x8100, 5)][..],
                    &[(0x88a8, 7)],
                    &[(0x8100, 5), (0x88a8, 7)],
                    &[(0x9100, 8)],
                ] {
                    let mut frame = link.frame(100);
                    frame[..6].copy_from_slice(&dst);
                    for (kind, vid) in tags {
                        frame = tagged(&frame, *kind, *vid);
                    }
                    link.send(&frame)?;
                    is_seen(&mut link, &frame, true)?;
                }
                for kind in [[0, 86], [0x08, 0x06]] {
                    let mut frame = link.frame(100);
                    frame[..6].copy_from_slice(&dst);
                    frame[12..14].copy_from_slice(&kind);
                    link.send(&frame)?;
                    is_seen(&mut link, &frame, true)?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/disabled-third",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "ip-link(8) vf state disable",
        sent: "A broadcast and a frame to a group while one of three VFs is in state disable, and in state auto again.",
        expected: "The other one gets them each time, that one in state auto alone.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            for (state, times) in [("disable", 0), ("auto", 1)] {
                bench.administer(&format!("vf 2 state {state}"))?;
                for dst in [ALL, GROUPS[0]] {
                    let mut frame = link.frame(100);
                    frame[..6].copy_from_slice(&dst);
                    link.send(&frame)?;
                    is_seen(&mut link, &frame, true)?;
                    let seen = onlooker.sees(&frame, times)?;
                    ensure(
                        seen == times,
                        format_args!("in state {state} it came {seen} times"),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/mirror",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "tc-mirred(8) mirror; DPDK rte_eth mirror rules of VFs",
        sent: "A VF that is mirrored to a third one: frames to it, a broadcast of its own, one that is dropped as spoofed; then no mirror.",
        expected: "The third gets each of those that pass once, the dropped one not, and nothing of it without the mirror; nobody else gets more or less than before.",
        run: mirror,
    },
    Case {
        id: "switch/unreserved-forwarded",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "IEEE 802.1Q-2018 8.6.3, Table 8-1 (reserved addresses end at 01-80-C2-00-00-0F)",
        sent: "Frames to 01-80-C2-00-00-10, -20, -21 and -2F, such as MVRP's, to a driver that has not accepted CTRL_RX.",
        expected: "They arrive: a bridge that does not speak those protocols forwards them as it does other groups.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for last in [0x10, 0x20, 0x21, 0x2f] {
                to(&mut link, [0x01, 0x80, 0xc2, 0, 0, last], true)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "switch/mirror-to-sender",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "tc-mirred(8) mirror; IEEE 802.1Q-2018 8.6.1 (never to the port it came from)",
        sent: "A VF that is mirrored to the VF that sends to it, a frame from that one, and one of its own to a third.",
        expected: "The first passes and does not come back to its sender; of the second it gets a copy, once.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let mut onlooker = bench.onlooker(&NetConfig::default())?;
            bench.administer("vf 1 mirror 0")?;
            let frame = link.frame(100);
            link.pass(&frame)?;
            let back = link.returned(QUIET, |came| came == frame)?;
            ensure(!back, "a frame came back to its sender as a copy")?;
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&onlooker.mac);
            frame[6..12].copy_from_slice(&link.dst);
            if let Some(peer) = &mut link.rx {
                peer.send(0, &NetHeader::default(), &frame)?;
                peer.kick();
            }
            let seen = onlooker.sees(&frame, 1)?;
            ensure(
                seen == 1,
                format_args!("a frame came {seen} times where it is for"),
            )?;
            let copied = link.returned(DEADLINE, |came| came == frame)?;
            ensure(copied, "no copy came where the VF is mirrored to")?;
            let again = link.returned(QUIET, |came| came == frame)?;
            ensure(!again, "a copy came twice")?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "vf/storm-limited",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "IEEE 802.1Q-2018 8.8 (what is flooded reaches all ports); storm control of switches; docs of the back end",
        sent: "By a VF that may have 100 frames a second flooded, 200 broadcasts at once and 200 frames to one VF behind them; and 200 broadcasts without a limit.",
        expected: "A tenth of those 100 at once, and what the time adds, reach each other VF; the frames to one VF arrive, and without a limit all broadcasts.",
        run: |bench| storm_limited(bench, ALL),
    },
    Case {
        id: "vf/storm-limited-groups",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "IEEE 802.1Q-2018 8.8 (a group that nobody has listed reaches all ports); storm control of switches; docs of the back end",
        sent: "The same with frames to a group in place of broadcasts, to drivers that cannot list groups.",
        expected: "The same: it is flooded as broadcasts are.",
        run: |bench| storm_limited(bench, GROUPS[1]),
    },
];

/// Checks that receiver and onlooker get a frame, once.
pub(super) fn both_get(
    link: &mut Link,
    onlooker: &mut Onlooker,
    frame: &[u8],
) -> Result<(), Failure> {
    is_seen(link, frame, true)?;
    let seen = onlooker.sees(frame, 1)?;
    ensure(
        seen == 1,
        format_args!(
            "a third VF got a frame to {:02x?} {seen} times",
            &frame[..6]
        ),
    )
}

fn mirror(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let mut onlooker = bench.onlooker(&NetConfig::default())?;
    for (order, times) in [("vf 1 mirror 2", 1), ("vf 1 mirror none", 0)] {
        bench.administer(order)?;
        let frame = link.frame(100);
        link.pass(&frame)?;
        let seen = onlooker.sees(&frame, times)?;
        ensure(
            seen == times,
            format_args!("behind '{order}' a copy came {seen} times"),
        )?;
        let again = link.arrives(&frame, QUIET)?;
        ensure(!again, "a mirrored frame came twice")?;
        // What it sends itself: to the first VF, and from an address that is not its own.
        let (src, dst) = (link.dst, link.src);
        for (from, passes) in [(src, true), (FOREIGN, false)] {
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&dst);
            frame[6..12].copy_from_slice(&from);
            if let Some(peer) = &mut link.rx {
                peer.send(0, &Default::default(), &frame)?;
                peer.kick();
            }
            let wait = if passes { DEADLINE } else { QUIET };
            let came = link.returned(wait, |came| came == frame)?;
            ensure(
                came == passes,
                format_args!("from {from:02x?} it came: {came}"),
            )?;
            let expected = if passes { times } else { 0 };
            let seen = onlooker.sees(&frame, expected)?;
            ensure(
                seen == expected,
                format_args!(
                    "behind '{order}' of a frame from {from:02x?} a copy came {seen} times"
                ),
            )?;
        }
        // What is not the mirrored VF's is not copied.
        let third = onlooker.mac;
        to(&mut link, third, false)?;
    }
    Ok(Seen::Conforms)
}

fn storm_limited(bench: &Bench, flooded: [u8; 6]) -> Result<Seen, Failure> {
    const FRAMES: usize = 200;
    const LIMIT: usize = 100;
    bench.administer(&format!("vf 0 storm {LIMIT}"))?;
    let mut link = bench.link(&NetConfig::default())?;
    let mut onlooker = bench.onlooker(&NetConfig::default())?;
    let start = Instant::now();
    let burst = |link: &mut Link, count: usize, dst: [u8; 6]| {
        for _ in 0..count {
            let mut frame = link.frame(100);
            frame[..6].copy_from_slice(&dst);
            let sent = link.tx.send(0, &NetHeader::default(), &frame)?;
            ensure(sent, "the send ring is full")?;
        }
        link.tx.kick();
        link.sent()
    };
    burst(&mut link, FRAMES, flooded)?;
    let src = link.src;
    let here = came(link.receiver(), src, 0)?;
    let there = came(&mut onlooker.net, src, 0)?;
    let most = LIMIT / 10 + 2 + start.elapsed().as_millis() as usize * LIMIT / 1000;
    ensure(
        here.max(there) <= most,
        format_args!(
            "{here} and {there} of {FRAMES} frames to {flooded:02x?} came, and {most} were the most"
        ),
    )?;
    let dst = link.dst;
    burst(&mut link, FRAMES, dst)?;
    let here = came(link.receiver(), src, FRAMES)?;
    ensure(
        here == FRAMES,
        format_args!("{here} of {FRAMES} frames to one VF came"),
    )?;
    bench.administer("vf 0 storm 0")?;
    let mut here = 0;
    for _ in 0..FRAMES / 25 {
        burst(&mut link, 25, flooded)?;
        here += came(link.receiver(), src, 25)?;
    }
    ensure(
        here == FRAMES,
        format_args!("{here} of {FRAMES} frames to {flooded:02x?} came without a limit"),
    )?;
    Ok(Seen::Conforms)
}

/// How many frames of that sender a device gets: until so many have come, and nothing more does for a while.
fn came(device: &mut NetDevice, src: [u8; 6], expected: usize) -> Result<usize, Failure> {
    let mut got = RxFrame::default();
    let (mut count, end) = (0, Instant::now() + DEADLINE);
    let mut last = Instant::now();
    while Instant::now() < end && (count < expected || last.elapsed() < QUIET) {
        while device.recv(0, &mut got)? {
            count += usize::from(got.bytes().get(6..12) == Some(&src[..]));
            last = Instant::now();
        }
        device.kick();
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(count)
}
