//! A frame with any header before a NIC with filters, VLANs and spoof checks.
//!
//! Rules: both paths give it to the same receivers with the same tags (the golden rule), an explanation says what the judge says, and a
//! sender never gets its own frame.

use std::sync::OnceLock;

use vf_model::{
    BothPaths, Command, FrameMeta, Gso, MacAddr, NicConfig, Policy, Profile, Source, VfIndex,
};
use vf_packet::HEAD_MAX;

use crate::bytes::Bytes;

/// Bytes of a VF's MAC address but for its number.
const BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);

/// What the NICs are told; what one of a family refuses is left out there.
const SAID: &[&str] = &[
    "vf 0 set spoofchk on",
    "vf 1 set vlan 100",
    "vf 2 set trust on",
    "vf 2 request promisc on",
    "vf 3 set state disable",
    "vf 4 set rate 100",
    "vf 0 vlan add 5",
    "vf 2 vlan add 100",
    "filter add flow-type ether proto 0x88b5 vf 1",
    "filter add flow-type ether dst 02:00:00:00:00:11 vlan 5 vf 2",
    "filter add flow-type tcp4 dst-ip 10.0.0.2 dst-port 80 vf 2",
    "filter add flow-type udp4 dst-ip 10.0.0.2 dst-port 53 action drop",
    "filter add flow-type ip4 dst-ip 10.0.0.0/8 vf 4",
    "filter add flow-type tcp6 dst-ip 2001:db8::1 dst-port 443 vf 0",
    "filter add flow-type ether dst unknown-unicast vf 2",
    "filter add flow-type ether dst unknown-multicast vf 2",
    "filter add egress vf 4 flow-type ether proto 0x88b6 action drop",
];

/// NICs of several families, alone and with all that is said, on each path of their own.
fn nics() -> &'static [(Policy, BothPaths)] {
    static NICS: OnceLock<Vec<(Policy, BothPaths)>> = OnceLock::new();
    NICS.get_or_init(|| {
        let mut all = Vec::new();
        for profile in [
            Profile::Generic,
            Profile::Siena,
            Profile::Ixgbe,
            Profile::I40e,
        ] {
            for mode in ["veb", "vepa"] {
                let mut policy = Policy::new(NicConfig {
                    vfs: 5,
                    mac_base: BASE,
                    profile,
                });
                let mode = format!("link set hwmode {mode}");
                for words in std::iter::once(&mode[..]).chain(SAID.iter().copied()) {
                    let words: Vec<&str> = words.split(' ').collect();
                    let command =
                        Command::parse(&words).unwrap_or_else(|why| panic!("{words:?}: {why}"));
                    policy = policy.with(&command).unwrap_or(policy);
                }
                let both = BothPaths::of(&policy).unwrap();
                all.push((policy, both));
            }
        }
        all
    })
}

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let nics = nics();
    let (policy, both) = &nics[usize::from(bytes.u8()) % nics.len()];
    let source = match bytes.below(6) {
        5 => Source::Wire,
        vf => Source::Vf(VfIndex(vf)),
    };
    let frame = frame(&mut bytes);
    let size = bytes.u16() % 2000;
    let meta = FrameMeta {
        len: frame.len() as u32,
        gso: (size > 500).then_some(Gso {
            header_len: 54,
            size,
        }),
    };
    let head = &frame[..frame.len().min(HEAD_MAX)];
    let difference = both.difference(source, head, &meta, None);
    assert!(difference.is_none(), "{difference:?}");
    let why = policy.why(source, head, &meta);
    assert_eq!(why, policy.why(source, head, &meta), "asked twice");
    assert!(why.steps.iter().all(|step| !step.to_string().is_empty()));
}

/// A header of the kinds that are told apart, or any bytes.
fn frame(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let kind = bytes.u8();
    if kind & 7 == 0 {
        let mut frame = bytes.rest().to_vec();
        frame.truncate(9000);
        return frame;
    }
    let mac = |bytes: &mut Bytes<'_>| match bytes.u8() {
        n @ 0..=0x7f => [2, 0, 0, 0, 0, 0x10 + n % 6],
        0x80..=0xbf => [1, 0, 0x5e, 0, 0, 1],
        0xc0..=0xdf => [0xff; 6],
        _ => bytes.array(),
    };
    let mut frame = [mac(bytes), mac(bytes)].concat();
    for _ in 0..kind >> 3 & 3 {
        let tpid: [u8; 2] = if bytes.u8() & 1 == 0 {
            [0x81, 0]
        } else {
            [0x88, 0xa8]
        };
        let vid = match bytes.below(4) {
            0 => 5,
            1 => 100,
            2 => 0,
            _ => bytes.u16(),
        };
        frame.extend(tpid);
        frame.extend(vid.to_be_bytes());
    }
    match kind & 7 {
        1..=4 => {
            let protocol = [6, 17, 1, 132][usize::from(bytes.below(4))];
            frame.extend([
                8,
                0,
                0x45,
                0,
                0,
                100,
                0,
                0,
                0,
                bytes.u8() & 0x3f,
                64,
                protocol,
                0,
                0,
            ]);
            frame.extend([10, 0, 0, bytes.below(4), 10, 0, 0, bytes.below(4)]);
            frame.extend([0, 80, 0, [80, 53, 9, 1][usize::from(bytes.below(4))]]);
        }
        5 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 60, 6, 64]);
            let address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            frame.extend(address);
            frame.push(bytes.below(3));
            frame.extend(address);
            frame.push(bytes.below(3));
            frame.extend([0, 9, 1, 0xbb]);
        }
        _ => frame.extend([0x88, 0xb4 + bytes.below(4)]),
    }
    frame.extend(bytes.take(64));
    frame.resize(frame.len().max(60), 0);
    frame
}
