//! Frames through the rings, with a driver at either end.

use vf_guest::ixgbevf::Ask;
use vf_packet::testing::{super_frame, verify};
use vf_packet::{TcpLayout, checksum};

use super::*;

fn pair() -> (Guest, Guest, Driver, Driver) {
    let (mut guest, mut peer) = (Guest::new(0), Guest::new(1));
    let (driver, other) = (guest.start(), peer.start());
    assert_eq!((guest.running(), peer.running()), (vec![0, 1], vec![0, 1]));
    (guest, peer, driver, other)
}

#[test]
fn frames_go_both_ways_and_all_descriptors_come_back() {
    let (mut guest, mut peer, mut driver, mut other) = pair();
    assert_eq!(driver.mac, guest.nic.policy.mac(VfIndex(0)).0);
    for round in 0..600 {
        let frame: Vec<u8> = (0..60 + round * 7).map(|i| (i + round) as u8).collect();
        assert!(driver.send(&frame, &Ask::default()));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 1);
        let got = other.recv(&mut peer).unwrap();
        assert_eq!((got.checked, got.vlan), (false, None));
        assert_eq!(got.bytes, frame);
        assert_eq!(driver.reap() as usize, frame.len().div_ceil(2048));
        assert!(other.send(&frame, &Ask::default()));
        other.kick(&mut peer);
        assert_eq!(carry(&mut peer, &mut guest), 1);
        assert_eq!(driver.recv(&mut guest).unwrap().bytes, frame);
    }
}

#[test]
fn a_burst_fills_the_ring_and_what_finds_no_buffer_is_lost() {
    let (mut guest, mut peer, mut driver, mut other) = pair();
    for round in 0..10 {
        let mut sent = 0u32;
        while driver.send(&sent.to_be_bytes().repeat(16), &Ask::default()) {
            sent += 1;
        }
        assert_eq!(sent, 255, "round {round}");
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 255);
        let more = driver.send(&[9; 64], &Ask::default());
        driver.kick(&mut guest);
        assert!(
            more && carry(&mut guest, &mut peer) == 0,
            "no buffer is left"
        );
        for n in 0..255u32 {
            let got = other.recv(&mut peer).unwrap().bytes;
            assert_eq!(got, n.to_be_bytes().repeat(16));
        }
        assert_eq!(other.recv(&mut peer), None);
        assert_eq!(driver.reap(), 1);
    }
}

/// What Linux asks for a frame with these headers.
fn ask(frame: &[u8], mss: Option<u16>) -> Ask {
    let layout = TcpLayout::parse(frame).unwrap();
    Ask {
        vlan: None,
        checksum: Some((layout.ip as u8, (layout.tcp - layout.ip) as u8, 6)),
        cut: mss.map(|mss| (mss, (layout.payload - layout.tcp) as u8)),
        v4: !layout.v6,
    }
}

#[test]
fn checksums_are_made_and_said_to_be_right() {
    let (mut guest, mut peer, mut driver, mut other) = pair();
    for v6 in [false, true] {
        let frame = super_frame(v6, 0, 1000);
        assert!(driver.send(&frame, &ask(&frame, None)));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 1);
        let got = other.recv(&mut peer).unwrap();
        assert!(got.checked);
        let _ = verify(&got.bytes);
        assert_eq!(driver.reap(), 2, "the context, too");
    }
}

/// What nobody vouches for the NIC looks at, as far as it goes: a driver that looks at errors alone takes what has none for right.
#[test]
fn checksums_that_come_are_looked_at() {
    let (mut guest, mut peer, mut driver, mut other) = pair();
    let mut said = |frame: &[u8]| {
        assert!(driver.send(frame, &Ask::default()));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 1);
        driver.reap();
        let got = other.recv(&mut peer).unwrap();
        assert_eq!(got.bytes, frame);
        (got.checked, got.wrong)
    };
    let (right, wrong, unknown) = ((true, false), (false, true), (false, false));
    // Within the head of a frame, beyond it, and over two buffers.
    for payload in [10, 1000, 3000] {
        for v6 in [false, true] {
            let mut frame = super_frame(v6, 0, payload);
            let layout = TcpLayout::parse(&frame).unwrap();
            checksum::complete(&mut frame, layout.tcp as u16, 16).unwrap();
            if !v6 {
                frame[24..26].fill(0);
                let sum = checksum::Sum::default().with(&frame[14..34]).checksum();
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(said(&frame), right, "{payload} {v6}");
            let mut last = frame.clone();
            *last.last_mut().unwrap() ^= 1;
            assert_eq!(said(&last), wrong, "{payload} {v6}");
            if !v6 {
                let mut header = frame.clone();
                header[25] ^= 1;
                assert_eq!(said(&header), wrong, "IPv4 header");
                let mut part = frame.clone();
                part[20] = 0x20;
                part[24..26].fill(0);
                let sum = checksum::Sum::default().with(&part[14..34]).checksum();
                part[24..26].copy_from_slice(&sum.to_be_bytes());
                assert_eq!(said(&part), unknown, "a part of a packet");
            }
        }
    }
    assert_eq!(said(&[9; 60]), unknown);
}

/// The definition, a bit at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
    let byte = |crc, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc));
    !bytes.iter().fold(u32::MAX, byte)
}

#[test]
fn an_sctp_packet_leaves_with_its_crc() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    let (mut guest, mut peer, mut driver, mut other) = pair();
    for (payload, tag) in [(4, None), (100, Some(5)), (1400, None), (7000, None)] {
        let mut frame = super_frame(false, 0, payload);
        frame[23] = 132;
        let ask = Ask {
            vlan: tag,
            checksum: Some((14, 20, 132)),
            v4: true,
            ..Ask::default()
        };
        assert!(driver.send(&frame, &ask));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 1, "{payload}");
        let got = other.recv(&mut peer).unwrap();
        assert!(!got.checked, "that is the driver's");
        assert_eq!(got.vlan, tag);
        let mut packet = got.bytes[34..].to_vec();
        let crc: [u8; 4] = packet[8..12].try_into().unwrap();
        packet[8..12].fill(0);
        assert_eq!(u32::from_le_bytes(crc), crc32c(&packet), "{payload}");
        assert_eq!(packet[12..], frame[46..]);
    }
    // There is no room for a checksum.
    let frame = super_frame(false, 0, 4);
    let ask = Ask {
        checksum: Some((14, 60, 132)),
        ..Ask::default()
    };
    assert!(driver.send(&frame, &ask));
    driver.kick(&mut guest);
    assert_eq!(carry(&mut guest, &mut peer), 0);
}

#[test]
fn a_super_frame_arrives_as_its_segments() {
    let (mut guest, mut peer, mut driver, mut other) = pair();
    for (v6, payload) in [(false, 60_000), (true, 20_000), (false, 100)] {
        let mut frame = super_frame(v6, 0, payload);
        // The lengths are the NIC's business.
        let at = if v6 { 18 } else { 16 };
        frame[at..at + 2].fill(0);
        assert!(driver.send(&frame, &ask(&frame, Some(1448))));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 1);
        let whole = TcpLayout::parse(&frame).unwrap();
        let mut again = Vec::new();
        while let Some(got) = other.recv(&mut peer) {
            assert!(got.checked);
            let layout = verify(&got.bytes);
            assert!(got.bytes.len() - layout.payload <= 1448);
            again.extend_from_slice(&got.bytes[layout.payload..]);
        }
        assert_eq!(again, frame[whole.payload..]);
    }
}

#[test]
fn a_tag_is_put_in_by_one_and_taken_out_by_the_other() {
    let (mut guest, mut peer, mut driver, mut other) = pair();
    let frame = super_frame(false, 0, 100);
    let tagged = super_frame(false, 1, 100);
    let plain = Ask {
        vlan: Some(100),
        ..Ask::default()
    };
    let with_checksum = Ask {
        vlan: Some(100),
        ..ask(&frame, None)
    };
    let mut complete = frame.clone();
    checksum::complete(&mut complete, 34, 16).unwrap();
    for (sent, ask, vlan, got) in [
        (&frame, plain, Some(100), &frame),
        (&tagged, Ask::default(), Some(100), &frame),
        (&frame, with_checksum, Some(100), &complete),
    ] {
        assert!(driver.send(sent, &ask));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 1);
        let received = other.recv(&mut peer).unwrap();
        assert_eq!(received.vlan, vlan);
        // The IP header's checksum is asked for, too.
        let mut got = got.clone();
        if ask.checksum.is_some() {
            got[24..26].copy_from_slice(&received.bytes[24..26]);
            let _ = verify(&received.bytes);
        }
        assert_eq!(received.bytes, got);
    }
    // Whoever does not want that gets the tag.
    let control = guest.read(reg::RX + reg::CONTROL) & !vf_guest::ixgbevf::VLAN_MODE;
    peer.write(reg::RX + reg::CONTROL, control);
    assert!(driver.send(&frame, &plain));
    driver.kick(&mut guest);
    assert_eq!(carry(&mut guest, &mut peer), 1);
    let received = other.recv(&mut peer).unwrap();
    assert_eq!((received.vlan, received.bytes), (None, tagged));
}

/// A TCP segment with addresses and ports of Microsoft's verification suite, whose hash is 0x51ccc178, without ports 0x323e8fc2.
fn known_flow(v6: bool, payload: usize) -> Vec<u8> {
    let mut frame = super_frame(v6, 0, payload);
    if !v6 {
        frame[26..34].copy_from_slice(&[66, 9, 149, 187, 161, 142, 100, 80]);
        frame[34..38].copy_from_slice(&[0x0a, 0xea, 0x06, 0xe6]);
    }
    frame
}

#[test]
fn the_hash_by_which_flows_are_spread_is_told_of_each_frame() {
    let (mut guest, mut peer, mut driver, mut other) = pair();
    let mut hash = |peer: &mut Guest, frame: &[u8], ask: &Ask| {
        assert!(driver.send(frame, ask));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, peer), 1);
        let mut hashes = Vec::new();
        while let Some(got) = other.recv(peer) {
            hashes.push(got.hash);
        }
        hashes
    };
    let none = Ask::default();
    let tcp = known_flow(false, 100);
    assert_eq!(hash(&mut peer, &tcp, &none), [None], "without RSS");
    peer.write(regs::VFPSRTYPE, 1 << 29);
    assert_eq!(hash(&mut peer, &tcp, &none), [Some((1, 0x51cc_c178))]);
    let tagged = Ask {
        vlan: Some(100),
        ..none
    };
    assert_eq!(hash(&mut peer, &tcp, &tagged), [Some((1, 0x51cc_c178))]);
    let mut fragment = tcp.clone();
    fragment[20] = 0x20;
    assert_eq!(hash(&mut peer, &fragment, &none), [Some((2, 0x323e_8fc2))]);
    let long = known_flow(false, 4000);
    let segments = hash(&mut peer, &long, &ask(&long, Some(1448)));
    assert_eq!(segments, [Some((1, 0x51cc_c178)); 3]);
    let v6 = known_flow(true, 100);
    let [Some((3, before))] = hash(&mut peer, &v6, &none)[..] else {
        panic!("no hash of TCP over IPv6");
    };
    assert_eq!(hash(&mut peer, &[0; 60], &none), [None], "no IP");

    // Another key holds at once.
    let key = ["01"; 40].join(":");
    peer.administer(&format!("vf 1 rss hkey {key}"));
    let [Some((3, after))] = hash(&mut peer, &v6, &none)[..] else {
        panic!("no hash of TCP over IPv6");
    };
    assert_ne!(before, after);
}

#[test]
fn a_function_with_one_queue_pair_tells_no_hash() {
    let (mut guest, mut peer) = (Guest::new(0), Guest::new(1));
    peer.function = Ixgbevf::new(1);
    let dma = peer.dma();
    peer.map(Some(dma));
    let (mut driver, mut other) = (guest.start(), peer.start());
    assert!(driver.send(&known_flow(false, 100), &Ask::default()));
    driver.kick(&mut guest);
    assert_eq!(carry(&mut guest, &mut peer), 1);
    assert_eq!(other.recv(&mut peer).unwrap().hash, None);
}

#[test]
fn interrupts_come_for_what_was_reported_and_not_twice() {
    let (mut guest, mut peer, mut driver, mut other) = pair();
    let (_, _) = (guest.interrupted(), peer.interrupted());
    // Nobody wants to know of this one.
    let buffer = driver.tx.buffer(200);
    let unreported = 3 << 20 | 1 << 29 | 1 << 24 | 60;
    driver.tx.write(0, [buffer, unreported]);
    guest.write(reg::TX + reg::TAIL, 1);
    assert_eq!(carry(&mut guest, &mut peer), 1);
    assert_eq!((guest.interrupted(), driver.reap()), ([false; 3], 0));
    assert_eq!(guest.read(reg::TX + reg::HEAD), 1);
    while other.recv(&mut peer).is_some() {}
    guest.write(reg::TX + reg::CONTROL, 0);
    driver.reset(&mut guest).unwrap();
    driver.open(&mut guest).unwrap();
    peer.interrupted();
    peer.write(reg::VTEIMS, 3);
    assert!(driver.send(&[1; 60], &Ask::default()));
    driver.kick(&mut guest);
    carry(&mut guest, &mut peer);
    assert_eq!(guest.interrupted(), [true, false, false]);
    assert_eq!(peer.interrupted(), [true, false, false]);
    // Both have masked themselves until their driver has looked.
    assert!(driver.send(&[1; 60], &Ask::default()));
    driver.kick(&mut guest);
    carry(&mut guest, &mut peer);
    assert_eq!(
        (guest.interrupted(), peer.interrupted()),
        ([false; 3], [false; 3])
    );
    while other.recv(&mut peer).is_some() {}
    peer.write(reg::VTEIMS, 3);
    assert_eq!(peer.interrupted(), [true, false, false], "for the second");
    guest.write(reg::VTEITR, 200);
    let tx = guest.nic.tx.values().next().unwrap();
    assert_eq!(tx.vring().coalescing().max_usecs, 50);
    assert!(tx.vring().calls());
}
