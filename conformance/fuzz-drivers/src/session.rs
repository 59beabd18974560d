//! A session with a front end that says anything, in any order, with any descriptors.
//!
//! Rules: rings come and go in turn; a request that is refused has changed nothing; each request that asks for an answer gets one and
//! no other gets any; and when the session has ended, nobody has a ring.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use vf_vhost::features::{ProtocolFeatures, VirtioFeatures};
use vf_vhost::message::{FrontendRequest, Header};
use vf_vhost::session::{Action, DeviceConfig, Session};
use vf_vhost::vring::Vring;

use crate::bytes::Bytes;
use crate::guest::{self, GUEST, Guest, SIZE, USER};

/// The device's end: what it holds, and what came of the last request.
#[derive(Default)]
pub(crate) struct Device {
    pub(crate) running: BTreeMap<u32, Vring>,
    replies: usize,
    refused: bool,
    closed: bool,
    /// What it says to commands.
    pub(crate) obeys: bool,
    /// Commands that it has decided.
    pub(crate) decided: usize,
}

impl Device {
    pub(crate) fn act(&mut self, session: &mut Session, config: &DeviceConfig) {
        (self.replies, self.refused, self.closed) = (0, false, false);
        while let Some(action) = session.poll(config) {
            match action {
                Action::Stop(rings) => {
                    let stop = |ring| {
                        let vring = self.running.remove(&ring);
                        assert!(vring.is_some(), "ring {ring} was stopped and never started");
                        vring
                    };
                    session.stopped(rings.into_iter().map(stop).collect());
                }
                Action::Start(rings) => {
                    for ring in rings {
                        let index = ring.index();
                        let before = self.running.insert(index, ring);
                        assert!(before.is_none(), "ring {index} was started twice");
                    }
                }
                Action::CtrlCommand(_) | Action::Allow => {
                    self.decided += 1;
                    session.decided(self.obeys);
                }
                Action::Reply(_) | Action::Kicked { reply: Some(_), .. } => self.replies += 1,
                Action::Refused(..) => self.refused = true,
                Action::Close(_) => self.closed = true,
                _ => {}
            }
        }
    }
}

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let config = DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], 1 + u16::from(bytes.below(2)));
    let mut session = Session::new(&config);
    let mut device = Device {
        obeys: bytes.u8() & 1 == 0,
        ..Device::default()
    };
    let mut acks = false;
    guest::with(|guest| {
        guest.write(0, &[0; SIZE]);
        for _ in 0..64 {
            if bytes.is_empty() {
                break;
            }
            let (request, payload, fds) = message(&mut bytes, guest);
            let need_reply = bytes.u8() & 1 == 1;
            let header = Header {
                request,
                flags: 1 | u32::from(need_reply) << 3,
                size: payload.len() as u32,
            };
            let before = format!("{session:?}");
            session.receive(&config, header, &payload, fds);
            device.act(&mut session, &config);
            if device.refused || device.closed {
                assert_eq!(format!("{session:?}"), before, "a refused request");
            }
            if !device.refused && !device.closed && request == 16 {
                let bits = payload
                    .first_chunk()
                    .map_or(0, |bits| u64::from_ne_bytes(*bits));
                acks = bits & ProtocolFeatures::REPLY_ACK.bits() != 0;
            }
            if !device.closed {
                // Without a log in shared memory nobody knows SET_LOG_BASE, which has a reply of its own otherwise.
                let unknown = request == 6 && device.refused;
                let own = FrontendRequest::has_reply(request) && !unknown;
                let due = own || need_reply && acks;
                assert_eq!(
                    device.replies,
                    usize::from(due),
                    "replies to request {request}"
                );
            }
            let unkicked: Vec<u32> = session.unkicked().map(|(ring, _)| ring).collect();
            if let Some(ring) = unkicked.first()
                && bytes.u8() & 1 == 1
            {
                session.kicked(*ring);
                device.act(&mut session, &config);
            }
            session.serve_control();
            device.act(&mut session, &config);
            if session.check_shared().is_err() {
                break;
            }
        }
        session.end();
        device.act(&mut session, &config);
    });
    assert!(device.running.is_empty(), "rings outlive the session");
}

/// A request, mostly one that makes sense.
fn message(bytes: &mut Bytes<'_>, guest: &Guest) -> (u32, Vec<u8>, Vec<OwnedFd>) {
    let eventfd = || {
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        rustix::event::eventfd(0, flags).unwrap()
    };
    let other = |kind: u8| match kind {
        0 => rustix::pipe::pipe().unwrap().0,
        1 => rustix::fs::memfd_create("short", MemfdFlags::CLOEXEC).unwrap(),
        _ => eventfd(),
    };
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_ne_bytes()).collect() };
    let longs = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_ne_bytes()).collect() };
    let ring = |bytes: &mut Bytes<'_>| match bytes.u8() {
        0xff => bytes.u32(),
        few => u32::from(few % 7),
    };
    let region = |bytes: &mut Bytes<'_>| {
        let (at, len) = (u64::from(bytes.below(4)), u64::from(bytes.below(4)));
        let size = match len {
            0..=2 => SIZE as u64,
            _ => bytes.u64(),
        };
        let offset = match bytes.u8() {
            0xff => bytes.u64(),
            _ => 0,
        };
        let step = SIZE as u64;
        longs(&[GUEST + at * step, size, USER + at * step, offset])
    };
    let kind = bytes.u8();
    let odd = bytes.u8();
    let (request, mut payload, mut fds) = match kind % 16 {
        0 => {
            let offered = VirtioFeatures::offered(2).bits();
            let bits = match bytes.u8() & 7 {
                0 => bytes.u64(),
                1 => offered & !(1 << 30),
                2 => offered & !VirtioFeatures::RING_PACKED.bits(),
                3 => offered & bytes.u64(),
                _ => offered,
            };
            (2, longs(&[bits]), vec![])
        }
        1 => {
            let all = ProtocolFeatures::all().bits();
            let bits = match bytes.u8() & 3 {
                0 => bytes.u64(),
                1 => all & bytes.u64(),
                _ => all,
            };
            (16, longs(&[bits]), vec![])
        }
        2 | 3 => {
            let count = bytes.below(4);
            let regions: Vec<u8> = (0..count).flat_map(|_| region(bytes)).collect();
            let payload = [words(&[count.into(), 0]), regions].concat();
            (5, payload, (0..count).map(|_| guest.fd()).collect())
        }
        4 => (
            37 + u32::from(bytes.u8() & 1),
            [vec![0; 8], region(bytes)].concat(),
            vec![guest.fd()],
        ),
        5 => {
            let size = match bytes.u8() {
                0xff => bytes.u32(),
                exponent => 1 << (exponent % 9),
            };
            (8, words(&[ring(bytes), size]), vec![])
        }
        6 | 7 => {
            let page = u64::from(bytes.below(16)) * 0x1000;
            let at = match bytes.u8() {
                0xff => bytes.u64(),
                _ => USER + page,
            };
            let log = u64::MAX;
            let parts = [at, at.wrapping_add(0x1800), at.wrapping_add(0x1000), log];
            (
                9,
                [words(&[ring(bytes), 0]), longs(&parts)].concat(),
                vec![],
            )
        }
        8 => (10, words(&[ring(bytes), bytes.u32()]), vec![]),
        9 => (11, words(&[ring(bytes), 0]), vec![]),
        10 | 11 => {
            let none = bytes.u8() & 7 == 0;
            let bits = u64::from(ring(bytes)) | u64::from(none) << 8;
            let fds = if none { vec![] } else { vec![eventfd()] };
            (12 + u32::from(bytes.below(3)), longs(&[bits]), fds)
        }
        12 => (18, words(&[ring(bytes), u32::from(bytes.u8() & 1)]), vec![]),
        13 => {
            let (offset, size) = (bytes.u8(), bytes.u8());
            let space = vec![0; size.into()];
            let payload = [words(&[offset.into(), size.into(), 0]), space].concat();
            (24 + u32::from(bytes.u8() & 1), payload, vec![])
        }
        14 => {
            const PLAIN: [u32; 10] = [1, 3, 4, 15, 17, 20, 21, 34, 35, 36];
            let code = PLAIN[usize::from(bytes.u8()) % PLAIN.len()];
            let payload = match code {
                20 => longs(&[bytes.u16().into()]),
                35 => words(&[ring(bytes), 0]),
                _ => vec![],
            };
            (code, payload, vec![])
        }
        _ => {
            let len = usize::from(bytes.u8() % 80);
            (u32::from(bytes.u8() % 48), bytes.take(len).to_vec(), vec![])
        }
    };
    match odd {
        0 => payload.truncate(payload.len() / 2),
        1 => payload.push(0),
        2 => fds.clear(),
        3..=6 => fds.push(other(odd - 3)),
        _ => {}
    }
    (request, payload, fds)
}
