//! Commands on a control queue (virtio 5.1.9.5), cut into buffers anyhow, of a driver that may lie about them.
//!
//! Rules: a command that has room for its answer is answered once, with VIRTIO_NET_OK or VIRTIO_NET_ERR; one that the device does not obey
//! with ERR, and then nothing of the session has changed; and nothing is written but answers and the device's part of the ring.

use std::fmt::{self, Write};
use std::iter;
use std::ops::Range;
use std::os::fd::OwnedFd;

use vf_vhost::features::VirtioFeatures;
use vf_vhost::message::Header;
use vf_vhost::session::{DeviceConfig, Session};

use crate::bytes::Bytes;
use crate::guest::{self, GUEST, Guest, SIZE, USER};
use crate::session::Device;

const RING: usize = 16;
const AVAIL: usize = 0x1000;
const USED: usize = 0x1800;
const COMMAND: usize = 0x2000;
const ANSWER: usize = 0x8000;
/// What is where the answer belongs before there is one.
const NONE: u8 = 0xaa;

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let config = DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], 2);
    let mut session = Session::new(&config);
    let mut device = Device::default();
    guest::with(|guest| {
        guest.write(0, &[0; SIZE]);
        let optional = VirtioFeatures::CTRL_RX_EXTRA
            | VirtioFeatures::CTRL_VLAN
            | VirtioFeatures::CTRL_MAC_ADDR
            | VirtioFeatures::MQ;
        let left_out = VirtioFeatures::from_bits_truncate(bytes.u32().into()) & optional;
        let features = config.features - VirtioFeatures::RING_PACKED - left_out;
        let ring = if features.contains(VirtioFeatures::MQ) {
            4
        } else {
            2
        };
        set_up(&mut session, &mut device, &config, guest, features, ring);
        let mut used = 0u16;
        for _ in 0..24 {
            if bytes.is_empty() {
                break;
            }
            device.obeys = bytes.u8() & 3 != 0;
            let lies = offer(guest, used, &mut bytes);
            let before = said(&session);
            let contents = guest.contents();
            device.decided = 0;
            session.serve_control();
            device.act(&mut session, &config);
            let after = guest.contents();
            let now = u16::from_le_bytes([after[USED + 2], after[USED + 3]]);
            let answered = now.wrapping_sub(used);
            assert!(answered <= 1, "{answered} answers to a command");
            let own = [USED..USED + 6 + 8 * RING, ANSWER..ANSWER + 0x1000];
            let wrong = written(&contents, &after, own);
            assert_eq!(wrong, None, "written at {wrong:x?}");
            if lies {
                // The queue may have been broken for that.
                break;
            }
            assert_eq!(answered, 1, "no answer");
            used = now;
            let answer = after[ANSWER];
            assert!(answer <= 1, "answered with {answer:#x}");
            if device.decided > 0 && !device.obeys {
                assert_eq!(answer, 1, "called obeyed, and was not");
            }
            if answer == 1 {
                assert_eq!(said(&session), before, "a refused command");
            }
        }
        session.end();
        device.act(&mut session, &config);
    });
    assert!(device.running.is_empty());
}

/// What a session remembers but for the control queue itself, which has gone on. What comes behind that is long, and not written.
fn said(session: &Session) -> String {
    struct UpTo(String);
    impl fmt::Write for UpTo {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.push_str(text);
            match self.0.ends_with(", control: ") {
                true => Err(fmt::Error),
                false => Ok(()),
            }
        }
    }
    let mut said = UpTo(String::new());
    let all = write!(said, "{session:?}");
    assert!(all.is_err(), "a session shows its control queue");
    said.0
}

/// Where memory is another than before, but for what is the device's to write, in order.
fn written(before: &[u8], after: &[u8], own: [Range<usize>; 2]) -> Option<usize> {
    let mut from = 0;
    for own in own.into_iter().chain(iter::once(SIZE..SIZE)) {
        let kept = from..own.start;
        if before[kept.clone()] != after[kept.clone()] {
            return kept.clone().find(|at| before[*at] != after[*at]);
        }
        from = own.end;
    }
    None
}

/// A session whose control queue runs.
fn set_up(
    session: &mut Session,
    device: &mut Device,
    config: &DeviceConfig,
    guest: &Guest,
    features: VirtioFeatures,
    ring: u32,
) {
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_ne_bytes()).collect() };
    let longs = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_ne_bytes()).collect() };
    let region = longs(&[GUEST, SIZE as u64, USER, 0]);
    let part = |at: usize| USER + at as u64;
    let addr = longs(&[part(0), part(USED), part(AVAIL), u64::MAX]);
    let messages: [(u32, Vec<u8>, Vec<OwnedFd>); 6] = [
        (2, longs(&[features.bits()]), vec![]),
        (5, [words(&[1, 0]), region].concat(), vec![guest.fd()]),
        (8, words(&[ring, RING as u32]), vec![]),
        (9, [words(&[ring, 0]), addr].concat(), vec![]),
        (18, words(&[ring, 1]), vec![]),
        // Without a descriptor it is polled, and starts at once.
        (12, longs(&[u64::from(ring) | 0x100]), vec![]),
    ];
    for (request, payload, fds) in messages {
        let header = Header {
            request,
            flags: 1,
            size: payload.len() as u32,
        };
        session.receive(config, header, &payload, fds);
        device.act(session, config);
    }
}

/// Puts a command on the ring; whether its chain is one that no driver may make.
fn offer(guest: &Guest, used: u16, bytes: &mut Bytes<'_>) -> bool {
    const CLASSES: [(u8, u8); 16] = [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 4),
        (0, 5),
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
        (4, 0),
        (6, 0),
        (6, 1),
        (6, 2),
        (6, 3),
        (3, 0),
    ];
    let kind = bytes.u8();
    let len = usize::from(bytes.u8() % 64);
    let (class, command) = match kind & 0x10 {
        0 => CLASSES[usize::from(kind & 15)],
        _ => (bytes.u8(), bytes.u8()),
    };
    let all = match kind >> 5 {
        // A MAC table that may count more than it has.
        0 => {
            let (some, more) = (bytes.u8(), bytes.u8());
            let list = |n: u8, bytes: &mut Bytes<'_>| {
                let macs: Vec<u8> = (0..n % 8).flat_map(|_| bytes.array::<6>()).collect();
                [&u32::from(n).to_le_bytes()[..], &macs].concat()
            };
            [vec![1, 0], list(some, bytes), list(more, bytes)].concat()
        }
        _ => [&[class, command][..], bytes.take(len)].concat(),
    };
    guest.write(COMMAND, &all);
    guest.write(ANSWER, &[NONE; 64]);
    let pieces = 1 + usize::from(bytes.below(4));
    let each = all.len().div_ceil(pieces).max(1);
    let mut chain: Vec<(u64, u32, bool)> = (0..all.len())
        .step_by(each)
        .map(|at| {
            let len = each.min(all.len() - at);
            (GUEST + (COMMAND + at) as u64, len as u32, false)
        })
        .collect();
    let room = 1 + u32::from(bytes.below(16));
    chain.push((GUEST + ANSWER as u64, 1, true));
    chain.push((GUEST + ANSWER as u64 + 1, room, true));
    let lie = bytes.u8();
    for (index, (addr, len, writable)) in chain.iter().enumerate() {
        let more = index + 1 < chain.len();
        let flags = u16::from(more) | u16::from(*writable) << 1;
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&addr.to_le_bytes());
        entry[8..12].copy_from_slice(&len.to_le_bytes());
        entry[12..14].copy_from_slice(&flags.to_le_bytes());
        entry[14..].copy_from_slice(&(index as u16 + 1).to_le_bytes());
        guest.write(16 * index, &entry);
    }
    if lie < 16 {
        // A descriptor of any bytes, anywhere in the chain.
        let at = usize::from(lie) % chain.len();
        let mut entry = bytes.array::<16>();
        // Not one to write to: where that may lie would have to be known.
        entry[12] &= !2;
        entry[13] = 0;
        guest.write(16 * at, &entry);
    }
    let slot = usize::from(used) % RING;
    guest.write(AVAIL + 4 + 2 * slot, &[0, 0]);
    guest.write(AVAIL + 2, &used.wrapping_add(1).to_le_bytes());
    lie < 16
}
