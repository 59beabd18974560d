//! A front end of a few lines, and a device that only notes which rings it has. Judges nothing.

use std::collections::BTreeMap;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::fs::MemfdFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vf_vhost::control::CtrlCommand;
use vf_vhost::endpoint::{Device, DeviceConfig, Endpoint, SessionEvent};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::vring::Vring;

pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
/// `VIRTIO_F_RING_PACKED`, for which few front ends ask.
pub(crate) const PACKED: u64 = 1 << 34;
/// `VHOST_F_LOG_ALL`, which is for the time of a migration.
pub(crate) const LOG_ALL: u64 = 1 << 26;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const RESET_OWNER: u32 = 4;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ERR: u32 = 14;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
pub(crate) const SET_VRING_ENABLE: u32 = 18;
pub(crate) const SEND_RARP: u32 = 19;
pub(crate) const NET_SET_MTU: u32 = 20;
pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
pub(crate) const GET_CONFIG: u32 = 24;
pub(crate) const SET_CONFIG: u32 = 25;
pub(crate) const RESET_DEVICE: u32 = 34;
pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
pub(crate) const ADD_MEM_REG: u32 = 37;
pub(crate) const REM_MEM_REG: u32 = 38;

pub(crate) const NEED_REPLY: u32 = 8;
pub(crate) const NO_FD: u64 = 0x100;
/// Where the test guest's memory starts for the guest and for the front end.
pub(crate) const GUEST: u64 = 0x4000_0000;
pub(crate) const USER: u64 = 0x7f00_0000_0000;
pub(crate) const SIZE: u64 = 0x1_0000;

/// Notes which rings it has and checks that they come and go in turn.
#[derive(Default)]
pub(crate) struct Rings {
    pub(crate) running: BTreeMap<u32, Vring>,
    pub(crate) events: Vec<String>,
    pub(crate) starts: usize,
    /// What the driver asked for.
    pub(crate) commands: Vec<CtrlCommand>,
    /// Whether it may not have it.
    pub(crate) refuse: bool,
    /// How long it takes to obey.
    pub(crate) takes: std::time::Duration,
}

impl Device for Rings {
    fn start_rings(&mut self, rings: Vec<Vring>) {
        for vring in rings {
            self.starts += 1;
            assert!(
                self.running.insert(vring.index(), vring).is_none(),
                "started twice"
            );
        }
    }

    fn stop_rings(&mut self, rings: &[u32]) -> Vec<Option<Vring>> {
        let stop = |ring| {
            let vring = self.running.remove(ring);
            assert!(vring.is_some(), "stopped without having been started");
            vring
        };
        rings.iter().map(stop).collect()
    }

    fn allows(&mut self) -> bool {
        !self.refuse
    }

    fn command(&mut self, command: &CtrlCommand) -> bool {
        self.commands.push(command.clone());
        std::thread::sleep(self.takes);
        !self.refuse
    }

    fn session(&mut self, event: SessionEvent<'_>) {
        self.events.push(match event {
            SessionEvent::Disconnected { why: Some(why) } => format!("closed: {why}"),
            SessionEvent::Disconnected { why: None } => "hung up".to_owned(),
            SessionEvent::Refused { what } => format!("refused: {what}"),
            SessionEvent::Negotiated { features } => format!("features {features:#x}"),
            SessionEvent::Controlled { .. } => "controlled".to_owned(),
            SessionEvent::Mtu(mtu) => format!("mtu {mtu}"),
            SessionEvent::Announce(_) => "announced".to_owned(),
            SessionEvent::Reset => "reset".to_owned(),
            _ => "connected".to_owned(),
        });
    }
}

pub(crate) fn device(queue_pairs: u16) -> DeviceConfig {
    DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], queue_pairs)
}

pub(crate) fn memfd(size: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("guest", flags).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

pub(crate) fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
}

/// Payload fields, in the order they go.
pub(crate) fn u32s(fields: &[u32]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

pub(crate) fn u64s(fields: &[u64]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

/// Bytes and descriptors onto a stream.
pub(crate) fn send_raw(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
}

pub(crate) fn message(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    [
        u32s(&[request, flags | 1, payload.len() as u32]),
        payload.to_vec(),
    ]
    .concat()
}

/// A device, its endpoint and one front end, all in one thread.
pub(crate) struct World {
    pub(crate) endpoint: Endpoint,
    pub(crate) rings: Rings,
    pub(crate) stream: UnixStream,
}

impl World {
    /// Two ends of a socket pair.
    pub(crate) fn new(config: DeviceConfig) -> World {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        let endpoint = Endpoint::from_stream(theirs, config);
        World {
            endpoint,
            rings: Rings::default(),
            stream,
        }
    }

    pub(crate) fn poll(&mut self) {
        self.endpoint.poll(Instant::now(), &mut self.rings);
    }

    /// Sends a request, lets the endpoint work.
    pub(crate) fn tell(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        send_raw(&self.stream, &message(request, 0, payload), fds);
        self.poll();
    }

    /// The payload of the reply to `request` that is there.
    pub(crate) fn reply(&mut self, request: u32) -> Vec<u8> {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).expect("a reply");
        let fields: Vec<u32> = head
            .chunks(4)
            .map(|c| u32::from_ne_bytes(c.try_into().unwrap()))
            .collect();
        assert_eq!(fields[..2], [request, 5]);
        let mut payload = vec![0; fields[2] as usize];
        self.stream.read_exact(&mut payload).unwrap();
        payload
    }

    pub(crate) fn ask(&mut self, request: u32, payload: &[u8]) -> Vec<u8> {
        self.tell(request, payload, &[]);
        self.reply(request)
    }

    pub(crate) fn ask_u64(&mut self, request: u32) -> u64 {
        u64::from_ne_bytes(self.ask(request, &[]).try_into().unwrap())
    }

    /// Sends a request with NEED_REPLY; 0 is success.
    pub(crate) fn acked(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> u64 {
        send_raw(&self.stream, &message(request, NEED_REPLY, payload), fds);
        self.poll();
        u64::from_ne_bytes(self.reply(request).try_into().unwrap())
    }

    /// Nothing has been sent back, or the socket is at its end.
    pub(crate) fn silent(&mut self) -> bool {
        let mut byte = [0];
        self.stream.read(&mut byte).is_err()
    }

    pub(crate) fn get_base(&mut self, ring: u32) -> u32 {
        let reply = self.ask(GET_VRING_BASE, &u32s(&[ring, 0]));
        assert_eq!(reply[..4], ring.to_ne_bytes());
        u32::from_ne_bytes(reply[4..].try_into().unwrap())
    }

    /// Features, with split rings, and one region of memory, as most front ends do it.
    pub(crate) fn negotiate(&mut self) -> OwnedFd {
        self.negotiate_with(self.endpoint.config().features.bits() & !(PACKED | LOG_ALL))
    }

    pub(crate) fn negotiate_with(&mut self, bits: u64) -> OwnedFd {
        let protocol = self.ask_u64(GET_PROTOCOL_FEATURES);
        self.tell(SET_PROTOCOL_FEATURES, &u64s(&[protocol]), &[]);
        self.tell(SET_OWNER, &[], &[]);
        assert_eq!(self.acked(SET_FEATURES, &u64s(&[bits]), &[]), 0);
        let memory = memfd(SIZE);
        assert_eq!(
            self.acked(SET_MEM_TABLE, &table(&[region(0)]), &[memory.as_fd()]),
            0
        );
        memory
    }

    /// NUM, BASE, ADDR of a ring.
    pub(crate) fn place_ring(&mut self, ring: u32, base: u32) {
        self.tell(SET_VRING_NUM, &u32s(&[ring, 256]), &[]);
        self.tell(SET_VRING_BASE, &u32s(&[ring, base]), &[]);
        self.tell(SET_VRING_ADDR, &ring_addr(ring), &[]);
    }

    pub(crate) fn kick_ring(&mut self, ring: u32) {
        let (kick, call) = (eventfd(), eventfd());
        self.tell(SET_VRING_KICK, &u64s(&[ring.into()]), &[kick.as_fd()]);
        self.tell(SET_VRING_CALL, &u64s(&[ring.into()]), &[call.as_fd()]);
    }

    pub(crate) fn running(&self) -> Vec<u32> {
        self.rings.running.keys().copied().collect()
    }
}

/// The `n`th region of [`SIZE`] bytes, with a hole between each two.
pub(crate) fn region(n: u64) -> [u64; 4] {
    [GUEST + n * 2 * SIZE, SIZE, USER + n * 2 * SIZE, 0]
}

pub(crate) fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let head = u32s(&[regions.len() as u32, 0]);
    [head, u64s(regions.as_flattened())].concat()
}

/// SET_VRING_ADDR: ring `ring` of 256 entries, each in 16 KiB of the first region.
pub(crate) fn ring_addr(ring: u32) -> Vec<u8> {
    ring_addr_at(ring, USER)
}

pub(crate) fn ring_addr_at(ring: u32, user: u64) -> Vec<u8> {
    let at = user + u64::from(ring) * 0x4000;
    [
        u32s(&[ring, 0]),
        u64s(&[at, at + 0x2000, at + 0x1000, u64::MAX]),
    ]
    .concat()
}

/// A whole session on a connected stream.
pub(crate) fn can_be_served(endpoint: &mut Endpoint, rings: &mut Rings, mut stream: UnixStream) {
    stream.write_all(&message(GET_FEATURES, 0, &[])).unwrap();
    endpoint.poll(Instant::now(), rings);
    stream.set_nonblocking(true).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).expect("a reply");
    let offered = VirtioFeatures::offered(endpoint.config().queue_pairs);
    assert_eq!(reply[12..], offered.bits().to_ne_bytes());
}
