//! Clauses of the ledger that no other case judges: configuration space, lengths, what a header says.

use crate::bench::{Bench, DEADLINE, Link, QUIET, with, without};
use crate::case::{Case, Level, Need};
use crate::cases::clauses::started;
use crate::cases::net::tcp;
use crate::cases::protocol::F30;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::checksum::TcpFrame;
use vf_guest::message::{protocol, request};
use vf_guest::net::{
    GSO_NONE, GSO_TCPV4, HDR_DATA_VALID, HDR_NEEDS_CSUM, NetConfig, NetHeader, feature,
};

const CONFIG: Need = Need::Protocol(protocol::CONFIG, "CONFIG");
const MTU: Need = Need::Feature(feature::MTU, "MTU");
const CSUM: Need = Need::Feature(feature::CSUM, "CSUM");
const TSO: Need = Need::Feature(feature::HOST_TSO4 | feature::CSUM, "HOST_TSO4");
const GUEST_TSO: Need = Need::Feature(feature::GUEST_TSO4 | feature::GUEST_CSUM, "GUEST_TSO4");
/// `VIRTIO_NET_F_SPEED_DUPLEX`, which the guest makes nothing of.
const SPEED_DUPLEX: u64 = 1 << 63;
/// `VIRTIO_NET_HDR_F_RSC_INFO`.
const HDR_RSC_INFO: u8 = 4;
/// Ethernet, IPv4 and TCP headers of the frames here, in bytes.
const HEADERS: u16 = 54;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "net/config-mac-unicast",
        level: Level::Text,
        needs: &[F30, CONFIG, Need::Feature(feature::MAC, "MAC")],
        source: "V 5.1.4",
        sent: "GET_CONFIG.",
        expected: "The address of a station: neither a group's nor all zeroes.",
        run: |bench| {
            let mac = space(bench)?.mac;
            ensure(
                mac != [0; 6] && mac[0] & 1 == 0,
                format_args!("MAC address {mac:02x?}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/config-mtu-legal",
        level: Level::Must,
        needs: &[F30, CONFIG, MTU],
        source: "V 5.1.4.1, 2.5.2",
        sent: "GET_CONFIG before SET_FEATURES.",
        expected: "mtu is at least 68.",
        run: |bench| {
            let mtu = space(bench)?.mtu;
            ensure(mtu >= 68, format_args!("mtu is {mtu}"))?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/config-speed-usual",
        level: Level::Model,
        needs: &[F30, CONFIG, Need::Feature(SPEED_DUPLEX, "SPEED_DUPLEX")],
        source: "V 5.1.4 (speed is in Mb/s, little-endian); IEEE 802.3-2022 1.3",
        sent: "GET_CONFIG of speed.",
        expected: "Unknown, or a rate that Ethernet has.",
        run: |bench| {
            const OFFSET: u32 = 12;
            const RATES: [u32; 15] = [
                10, 100, 1000, 2500, 5000, 10_000, 14_000, 20_000, 25_000, 40_000, 50_000, 56_000,
                100_000, 200_000, 400_000,
            ];
            let (mut front, _) = bench.negotiated(&with(SPEED_DUPLEX))?;
            let bytes = front.get_config(OFFSET, 4)?;
            let speed = bytes
                .first_chunk()
                .map_or(0, |speed| u32::from_le_bytes(*speed));
            ensure(
                RATES.contains(&speed) || speed == 800_000 || speed > 0x7fff_ffff,
                format_args!("speed is {speed} Mb/s ({speed:#x})"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/config-pairs",
        level: Level::Must,
        needs: &[F30, CONFIG, Need::Feature(feature::MQ, "MQ")],
        source: "V 5.1.4.1, 2.5.2",
        sent: "GET_CONFIG before SET_FEATURES.",
        expected: "max_virtqueue_pairs is 1 to 0x8000.",
        run: |bench| {
            let pairs = space(bench)?.max_virtqueue_pairs;
            ensure(
                (1..=0x8000).contains(&pairs),
                format_args!("max_virtqueue_pairs is {pairs}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/config-mtu-1280",
        level: Level::Should,
        needs: &[F30, CONFIG, MTU],
        source: "V 5.1.4.1",
        sent: "GET_CONFIG.",
        expected: "mtu is at least 1280.",
        run: |bench| {
            let mtu = space(bench)?.mtu;
            ensure(mtu >= 1280, format_args!("mtu is {mtu}"))?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/config-mtu-stays",
        level: Level::Must,
        needs: &[F30, CONFIG, MTU],
        source: "V 5.1.4.1",
        sent: "GET_CONFIG, SET_FEATURES, frames, and GET_CONFIG again.",
        expected: "The same mtu: a device MUST NOT modify it.",
        run: |bench| {
            const OFFSET: u32 = 10;
            let mut link = bench.link(&NetConfig::default())?;
            let before = link.tx.config_space().mtu.to_le_bytes();
            for _ in 0..3 {
                let frame = link.frame(400);
                link.pass(&frame)?;
                if let Some(front) = link.tx.frontend() {
                    let after = front.get_config(OFFSET, 2)?;
                    ensure(
                        after == before,
                        format_args!("mtu was {before:02x?} and is {after:02x?}"),
                    )?;
                }
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/config-speed-duplex",
        level: Level::Must,
        needs: &[F30, CONFIG, Need::Feature(SPEED_DUPLEX, "SPEED_DUPLEX")],
        source: "V 5.1.4.1",
        sent: "GET_CONFIG of speed and duplex.",
        expected: "speed is at most 0x7fffffff or all ones, duplex 0, 1 or 0xff.",
        run: |bench| {
            const OFFSET: u32 = 12;
            let (mut front, _) = bench.negotiated(&with(SPEED_DUPLEX))?;
            let bytes = front.get_config(OFFSET, 5)?;
            let Ok([a, b, c, d, duplex]) = <[u8; 5]>::try_from(bytes) else {
                return Err(Failure::Wrong("speed and duplex cannot be read".into()));
            };
            let speed = u32::from_le_bytes([a, b, c, d]);
            ensure(
                speed <= 0x7fff_ffff || speed == u32::MAX,
                format_args!("speed is {speed:#x}"),
            )?;
            ensure(
                [0, 1, 0xff].contains(&duplex),
                format_args!("duplex is {duplex:#x}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "link/speed-stable-while-up",
        level: Level::Should,
        needs: &[F30, CONFIG, Need::Feature(SPEED_DUPLEX, "SPEED_DUPLEX")],
        source: "V 5.1.4.1",
        sent: "GET_CONFIG of speed and duplex before and after frames.",
        expected: "The same: a device SHOULD NOT change either while the link is up.",
        run: |bench| {
            let mut link = bench.link(&with(SPEED_DUPLEX))?;
            let mut told = Vec::new();
            for _ in 0..3 {
                let frame = link.frame(400);
                link.pass(&frame)?;
                if let Some(front) = link.tx.frontend() {
                    told.push(front.get_config(12, 5)?);
                }
            }
            told.dedup();
            ensure(
                told.len() < 2,
                format_args!("speed and duplex were {told:02x?}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/mtu-forward",
        level: Level::Must,
        needs: &[F30, CONFIG, MTU, Need::Delivery],
        source: "V 5.1.4.1",
        sent: "Frames of up to the mtu that configuration space tells, and their Ethernet header, between drivers that accepted MTU.",
        expected: "Each arrives whole.",
        run: |bench| {
            let mtu = space(bench)?.mtu;
            let config = NetConfig {
                mtu,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            let most = usize::from(mtu) + ETHERNET;
            for len in [most.min(1514), most - 1, most] {
                let frame = link.frame(len);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/mtu-not-exceeded",
        level: Level::Must,
        needs: &[F30, CONFIG, MTU, Need::Peer],
        source: "V 5.1.4.1",
        sent: "A frame 100 bytes longer than mtu allows, from a driver that did not accept MTU to one that did, before and after one that it allows.",
        expected: "It does not arrive.",
        run: |bench| {
            let (mut link, longest) = link_with_room(bench)?;
            for _ in 0..2 {
                let long = link.frame_of(longest + 100);
                link.send(&long)?;
                link.expect_nothing(&long)?;
                let frame = link.frame(400);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/mtu-in-burst",
        level: Level::Must,
        needs: &[F30, CONFIG, MTU, Need::Peer],
        source: "V 5.1.4.1",
        sent: "The same in bursts: frames that mtu allows, and behind each, with the same kick, one that is 100 bytes longer than it allows.",
        expected: "Those that are longer do not arrive: that the frame before one went the same way and was short enough is no matter.",
        run: |bench| {
            let (mut link, longest) = link_with_room(bench)?;
            for _ in 0..8 {
                for len in [longest, longest + 100, 400, longest + 100, 400] {
                    let frame = link.frame_of(len);
                    let sent = link.tx.send(0, &NetHeader::default(), &frame)?;
                    ensure(sent, "the send ring is full")?;
                }
                link.tx.kick();
                let last = link.frame(300);
                link.send(&last)?;
                let came = link.arrives_among(&last, DEADLINE, |other| {
                    ensure(
                        other.len() <= longest,
                        format_args!("{} bytes came, where mtu allows {longest}", other.len()),
                    )
                })?;
                ensure(came, "a frame behind a burst did not arrive")?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/mtu-of-segments",
        level: Level::Must,
        needs: &[F30, CONFIG, MTU, TSO, Need::Peer],
        source: "V 5.1.4.1",
        sent: "Super-frames of 10,000 bytes whose gso_size is the whole mtu, so that a segment with its headers is longer, by a driver that did not accept MTU to one that did and takes no super-frames.",
        expected: "No frame that is longer than mtu allows arrives.",
        run: |bench| {
            const LEN: usize = 10_000;
            let mtu = space(bench)?.mtu;
            if usize::from(mtu) >= LEN {
                return Err(Failure::Unmet(format!(
                    "an mtu below {LEN}, and it is {mtu}"
                )));
            }
            let wide = |config| NetConfig {
                mtu: mtu.saturating_add(200),
                ..config
            };
            let sender = NetConfig {
                features: with(NetConfig::TSO).features & !feature::MTU,
                ..NetConfig::default()
            };
            let plain = without(NetConfig::CHECKSUM);
            let mut link = bench.link_of(&wide(sender), &wide(plain))?;
            for _ in 0..3 {
                let (hdr, frame, _) = tcp(&link, LEN, GSO_TCPV4);
                let gso_size = mtu;
                link.send_with(&NetHeader { gso_size, ..hdr }, &frame)?;
                while let Some(came) = link.receive(QUIET)? {
                    let len = came.bytes().len();
                    ensure(
                        len <= usize::from(mtu) + ETHERNET,
                        format_args!("{len} bytes arrived where mtu is {mtu}"),
                    )?;
                }
            }
            let frame = link.frame(400);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/partial-csum-flags",
        level: Level::Must,
        needs: &[Need::Peer, CSUM],
        source: "V 5.1.9.4.1",
        sent: "A frame with NEEDS_CSUM to a driver without GUEST_CSUM.",
        expected: "If it arrives, its flags are 0.",
        run: |bench| {
            let plain = without(NetConfig::CHECKSUM);
            let mut link = bench.link_of(&NetConfig::default(), &plain)?;
            let (hdr, frame, _) = tcp(&link, 1000, GSO_NONE);
            link.send_with(&hdr, &frame)?;
            let Some(got) = link.receive(DEADLINE)? else {
                return Ok(Seen::Tolerated);
            };
            ensure(got.hdr.flags == 0, format_args!("flags {}", got.hdr.flags))?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/data-valid-validated",
        level: Level::Must,
        needs: &[
            Need::Delivery,
            Need::Feature(feature::GUEST_CSUM, "GUEST_CSUM"),
        ],
        source: "V 5.1.9.4.1, 5.1.9.2.2",
        sent: "A TCP frame with a wrong checksum and without NEEDS_CSUM to a driver with GUEST_CSUM.",
        expected: "If it arrives, nobody vouches for the checksum: no DATA_VALID, and no NEEDS_CSUM either.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let (_, mut frame, _) = tcp(&link, 1000, GSO_NONE);
            frame[50] ^= 0x55;
            link.send_with(&NetHeader::default(), &frame)?;
            let Some(got) = link.receive(DEADLINE)? else {
                return Ok(Seen::Tolerated);
            };
            let flags = got.hdr.flags;
            ensure(
                flags & (HDR_DATA_VALID | HDR_NEEDS_CSUM) == 0,
                format_args!("a wrong checksum came with flags {flags}"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/gso-described",
        level: Level::Must,
        needs: &[Need::Peer, TSO, GUEST_TSO],
        source: "V 5.1.9.4.1",
        sent: "A super-frame of 10,000 bytes to a driver with GUEST_TSO4.",
        expected: "What arrives with a gso_type has NEEDS_CSUM and a gso_size, and no RSC_INFO.",
        run: |bench| {
            super_frame(bench, |hdr| {
                ensure(
                    hdr.flags & HDR_NEEDS_CSUM != 0 && hdr.flags & HDR_RSC_INFO == 0,
                    format_args!("gso_type {} with flags {:#x}", hdr.gso_type, hdr.flags),
                )?;
                ensure(hdr.gso_size > 0, "gso_size is 0")
            })
        },
    },
    Case {
        id: "net/gso-hdr-len",
        level: Level::Should,
        needs: &[Need::Peer, TSO, GUEST_TSO],
        source: "V 5.1.9.4.1",
        sent: "A super-frame of 10,000 bytes to a driver with GUEST_TSO4.",
        expected: "hdr_len of what arrives with a gso_type covers its 54 bytes of headers.",
        run: |bench| {
            super_frame(bench, |hdr| {
                ensure(
                    hdr.hdr_len >= HEADERS,
                    format_args!("hdr_len is {}", hdr.hdr_len),
                )
            })
        },
    },
    Case {
        id: "net/hdr-len-not-relied-on",
        level: Level::Must,
        needs: &[Need::Peer, TSO],
        source: "V 5.1.9.2.2",
        sent: "Super-frames of 10,000 bytes whose hdr_len is 0, 1, 20 and 0xffff.",
        expected: "Their payload arrives as it was, in one piece or in segments, where that of those with the right hdr_len does; in one of three tries.",
        run: |bench| {
            let mut link = bench.link(&with(NetConfig::TSO))?;
            for hdr_len in [HEADERS, 0, 1, 20, 0xffff] {
                let mut most = 0;
                for _ in 0..3 {
                    let (hdr, frame, payload) = tcp(&link, 10_000, GSO_TCPV4);
                    link.send_with(&NetHeader { hdr_len, ..hdr }, &frame)?;
                    let got = arrived(&mut link, payload.len(), |_| Ok(()))?;
                    most = most.max(got.len());
                    if got == payload {
                        break;
                    }
                }
                if hdr_len == HEADERS && most < 10_000 {
                    // One that loses them whatever is said does not rely on it.
                    return Ok(Seen::Tolerated);
                }
                ensure(
                    most == 10_000,
                    format_args!("with hdr_len {hdr_len} {most} bytes of it arrived"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "net/set-mtu-heeded",
        level: Level::Text,
        needs: &[
            F30,
            MTU,
            Need::Protocol(protocol::NET_MTU, "NET_MTU"),
            Need::Peer,
        ],
        source: "VU NET_SET_MTU; V 5.1.4.1",
        sent: "NET_SET_MTU 1300, or 100 less than the mtu that is told, for a driver that has accepted MTU, before its rings start; and to it a frame as long as that and one that is 186 bytes longer.",
        expected: "The first arrives and the second does not: that is the mtu which the driver has been told.",
        run: |bench| {
            let (mut link, mtu) = link_with_set_mtu(bench)?;
            let (src, dst) = (link.dst, link.src);
            let longest = usize::from(mtu) + ETHERNET;
            for (len, arrives) in [(longest, true), (longest + 186, false)] {
                let mut frame = link.frame_of(len);
                frame[..6].copy_from_slice(&dst);
                frame[6..12].copy_from_slice(&src);
                if let Some(peer) = &mut link.rx {
                    peer.send(0, &NetHeader::default(), &frame)?;
                    peer.kick();
                }
                let wait = if arrives { DEADLINE } else { QUIET };
                let came = link.returned(wait, |came| came == frame)?;
                ensure(
                    came == arrives,
                    format_args!("a frame of {len} bytes came: {came}"),
                )?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// A driver that has not accepted MTU and one that has, with room for 200 bytes more than mtu on both sides, so that only the rule keeps
/// longer frames away; and how long a frame may be.
fn link_with_room(bench: &Bench) -> Result<(Link, usize), Failure> {
    let mtu = space(bench)?.mtu;
    let wide = |config| NetConfig {
        mtu: mtu.saturating_add(200),
        ..config
    };
    if mtu > u16::MAX - 200 {
        return Err(Failure::Unmet(format!(
            "an mtu that a frame can exceed, and it is {mtu}"
        )));
    }
    let link = bench.link_of(&wide(without(feature::MTU)), &wide(with(0)))?;
    Ok((link, usize::from(mtu) + ETHERNET))
}

/// An mtu for NET_SET_MTU, below those that the ports tell.
pub(super) fn set_mtu(bench: &Bench) -> u16 {
    let told = bench.mtu().unwrap_or(1400).min(1400);
    told.saturating_sub(100).max(68)
}

/// A driver that has accepted MTU, whose front end has said NET_SET_MTU before its rings started, its peer, which has not accepted it, and that mtu.
pub(super) fn link_with_set_mtu(bench: &Bench) -> Result<(Link, u16), Failure> {
    let mtu = set_mtu(bench);
    let mut config = NetConfig::default();
    config.protocol_features |= protocol::NET_MTU;
    let (mut front, mut net) = bench.negotiated(&config)?;
    front.set_features(net.features())?;
    front.set(request::NET_SET_MTU, &u64::from(mtu).to_ne_bytes(), &[])?;
    front.set_memory(net.memory().regions())?;
    started(&mut net, front)?;
    let link = bench.link_from(net, &without(feature::MTU))?;
    Ok((link, mtu))
}

/// What configuration space tells before features are acknowledged.
fn space(bench: &Bench) -> Result<vf_guest::net::ConfigSpace, Failure> {
    let mut front = bench.connect()?;
    Ok(vf_guest::net::negotiate(&mut front, &NetConfig::default())?.1)
}

/// Sends a super-frame to a driver that takes them, and has the headers looked at that come with a gso_type.
fn super_frame(
    bench: &Bench,
    check: impl Fn(&NetHeader) -> Result<(), Failure>,
) -> Result<Seen, Failure> {
    let mut link = bench.link(&with(NetConfig::TSO))?;
    let (hdr, frame, payload) = tcp(&link, 10_000, GSO_TCPV4);
    link.send_with(&hdr, &frame)?;
    let mut whole = false;
    let got = arrived(&mut link, payload.len(), |hdr| {
        if hdr.gso_type == GSO_NONE {
            return Ok(());
        }
        whole = true;
        check(hdr)
    })?;
    let lost = got.len() < payload.len();
    ensure(lost || got == payload, "the payload changed")?;
    // In segments, or lost: allowed, and then there is nothing to describe.
    Ok(if whole && !lost {
        Seen::Conforms
    } else {
        Seen::Tolerated
    })
}

/// The payload of the TCP frames that arrive, until it is as long as that; `look` sees their headers.
fn arrived(
    link: &mut Link,
    len: usize,
    mut look: impl FnMut(&NetHeader) -> Result<(), Failure>,
) -> Result<Vec<u8>, Failure> {
    let mut got = Vec::new();
    while got.len() < len {
        let Some(frame) = link.receive(DEADLINE)? else {
            break;
        };
        look(&frame.hdr)?;
        let bytes = frame.bytes();
        let payload =
            TcpFrame::parse(bytes).and_then(|tcp| bytes.get(tcp.payload..tcp.l4 + tcp.l4_len));
        let Some(payload) = payload else {
            return Err(Failure::Wrong("what arrived is no TCP frame".into()));
        };
        got.extend_from_slice(payload);
    }
    Ok(got)
}
