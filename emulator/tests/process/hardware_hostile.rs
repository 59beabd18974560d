//! Guests and hypervisors that lie to VFs of hardware, while others on the same NIC pass frames: the process lives, the others do not notice, and
//! such a VF can be had again each time.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vf_guest::ixgbevf::{Registers, reg};
use vf_guest::memory::{GUEST_BASE, GuestMemory};
use vf_guest::net::parse_mac;
use vfio_user::Client;

use crate::blocking::{lingering, put};
use crate::emulator::{Emulator, wait_for};
use crate::exhaustion::descriptors;
use crate::hardware::Intel;
use crate::port::{Port, pass};

pub(crate) const NIC: &str = "\
[[nic]]
name = 'a'
vfs = 4
[[nic.vf]]
index = 0
device = 'ixgbevf'
[[nic.vf]]
index = 1
device = 'sfc'
";

pub(crate) const DMA_MAP: u16 = 2;
pub(crate) const SET_IRQS: u16 = 8;
pub(crate) const READ: u16 = 9;
pub(crate) const WRITE: u16 = 10;
pub(crate) const WRITE_MULTI: u16 = 15;
const POSTED: u32 = 1 << 4;

/// How long floods last.
const FLOOD: Duration = Duration::from_millis(300);

/// A NIC with VFs of hardware, and two others.
pub(crate) struct Beside {
    pub(crate) emulator: Emulator,
    victims: [Port; 2],
}

impl Beside {
    pub(crate) fn new(words: &str) -> Beside {
        Beside::with_nic(words, NIC)
    }

    pub(crate) fn with_nic(words: &str, nic: &str) -> Beside {
        let emulator = Emulator::with_config(&format!("{words}{nic}"));
        let victims = ["a-vf2.sock", "a-vf3.sock"].map(|name| Port::open(&emulator.path(name)));
        Beside { emulator, victims }
    }

    fn intel(&self) -> Intel {
        Intel::probe(&self.emulator.path("a-vf0.sock"))
    }

    pub(crate) fn victims(&mut self) -> &mut [Port; 2] {
        &mut self.victims
    }

    pub(crate) fn raw(&self, vf: usize) -> Raw {
        Raw::agreed(&self.emulator.path(&format!("a-vf{vf}.sock")))
    }

    /// Sees the session on this VF end. A socket that was closed here may be open for a moment yet, in a process that another test has just forked.
    #[track_caller]
    pub(crate) fn alone(&self, vf: usize) {
        wait_for("the end of a session", || {
            (!self.emulator.vf(0, vf).connected).then_some(())
        });
    }

    /// The others pass frames.
    #[track_caller]
    pub(crate) fn pass(&mut self) {
        let [a, b] = &mut self.victims;
        pass(a, b);
    }

    /// They do, and nothing was said about them; and both functions can be had again.
    #[track_caller]
    pub(crate) fn unharmed(&mut self, what: &str) {
        self.others_noticed_nothing(what);
        self.alone(0);
        self.intel().pass(&mut self.victims[0]);
        let solarflare = self.emulator.path("a-vf1.sock");
        wait_for("a session", || Client::new(&solarflare).ok());
    }

    #[track_caller]
    pub(crate) fn others_noticed_nothing(&mut self, what: &str) {
        assert!(self.emulator.lives(), "{what}: the process has ended");
        self.pass();
        for vf in [2, 3] {
            let vf = self.emulator.vf(0, vf);
            assert_eq!((vf.sessions, vf.refusals), (1, 0), "{what}: {vf:?}");
        }
    }

    /// Has this done again and again, and sees the others pass frames and the NIC answer meanwhile.
    fn flood(&mut self, mut once: impl FnMut() + Send) {
        std::thread::scope(|scope| {
            let end = Instant::now() + FLOOD;
            scope.spawn(move || {
                while Instant::now() < end {
                    once();
                }
            });
            while Instant::now() < end {
                self.pass();
                self.emulator.vf(0, 2);
            }
        });
    }
}

/// A client that says anything.
pub(crate) struct Raw(UnixStream);

impl Raw {
    fn agreed(socket: &Path) -> Raw {
        let mut raw = Raw::silent(socket);
        assert_eq!(raw.asks(1, &[0, 0, 1, 0], &[]), Some(0));
        raw
    }

    /// One that has not said which version it speaks.
    pub(crate) fn silent(socket: &Path) -> Raw {
        let stream = wait_for("a socket", || UnixStream::connect(socket).ok());
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        Raw(stream)
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        &self.0
    }

    /// A BAR that answers and reaches this memory.
    fn with_memory(socket: &Path, memory: &GuestMemory) -> Raw {
        let mut raw = Raw::agreed(socket);
        let region = &memory.regions()[0];
        let at = region.layout();
        let map = map(at.guest_addr, at.size);
        assert_eq!(raw.asks(DMA_MAP, &map, &[region.fd()]), Some(0));
        assert_eq!(raw.asks(WRITE, &write(7, 4, &[6, 0]), &[]), Some(0));
        raw
    }

    /// Says it and answers the error that comes back, or nothing if the session ends.
    pub(crate) fn asks(
        &mut self,
        command: u16,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Option<u32> {
        let size = payload.len() as u32 + 16;
        let message = [&head(command, size, 0), payload].concat();
        self.says(&message, fds)?;
        let mut head = [0; 16];
        self.0.read_exact(&mut head).ok()?;
        let [size, flags, error] =
            [4, 8, 12].map(|at| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap()));
        let mut payload = vec![0; size as usize - 16];
        self.0.read_exact(&mut payload).ok()?;
        Some(if flags & 1 << 5 == 0 { 0 } else { error })
    }

    pub(crate) fn says(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Option<()> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let bytes = [std::io::IoSlice::new(bytes)];
        let sent = sendmsg(&self.0, &bytes, &mut control, SendFlags::NOSIGNAL);
        sent.ok().map(|_| ())
    }

    /// Writes registers and waits for nothing; as much as the socket takes.
    pub(crate) fn posts(&mut self, bar: u32, writes: &[(u64, u32)]) {
        let messages = writes.iter().flat_map(|(offset, value)| {
            let payload = write(bar, *offset, &value.to_le_bytes());
            [
                &head(WRITE, payload.len() as u32 + 16, POSTED),
                &payload[..],
            ]
            .concat()
        });
        let messages: Vec<u8> = messages.collect();
        // Whoever is not read for so long has been turned away, which is as good.
        let _ = self.0.write_all(&messages);
    }

    /// The session goes on.
    #[track_caller]
    fn goes_on(&mut self, after: &str) {
        let id = access(0, 7, 4);
        assert_eq!(self.asks(READ, &id, &[]), Some(0), "{after}");
    }

    #[track_caller]
    fn is_over(&mut self, after: &str) {
        let mut rest = Vec::new();
        let end = self.0.read_to_end(&mut rest);
        let over =
            end.is_ok() || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(over, "{after}");
    }
}

pub(crate) fn head(command: u16, size: u32, flags: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[2..4].copy_from_slice(&command.to_ne_bytes());
    head[4..8].copy_from_slice(&size.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head
}

pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(crate) fn access(offset: u64, region: u32, count: u32) -> Vec<u8> {
    [&offset.to_ne_bytes()[..], &words(&[region, count])].concat()
}

pub(crate) fn write(region: u32, offset: u64, data: &[u8]) -> Vec<u8> {
    [&access(offset, region, data.len() as u32)[..], data].concat()
}

pub(crate) fn map(address: u64, size: u64) -> Vec<u8> {
    let numbers = [0, address, size].map(u64::to_ne_bytes);
    [&words(&[32, 3])[..], numbers.as_flattened()].concat()
}

#[test]
fn lengths_and_halves_of_messages_and_descriptors_that_are_no_files() {
    let mut beside = Beside::new("");
    let mut raw = beside.raw(0);
    for (command, payload) in [
        (READ, access(0, 0, u32::MAX)),
        (READ, access(u64::MAX, 7, u32::MAX)),
        (WRITE, access(0, 0, u32::MAX)),
        (WRITE_MULTI, u64::MAX.to_ne_bytes().to_vec()),
        (WRITE_MULTI, [1u64 << 32, 0].map(u64::to_ne_bytes).concat()),
        (SET_IRQS, words(&[20, 0x24, 2, 0, u32::MAX])),
        (DMA_MAP, map(u64::MAX - 1, 4096)),
    ] {
        assert_ne!(raw.asks(command, &payload, &[]), Some(0), "{command}");
        raw.goes_on("a length");
    }
    // No files that a function could reach, and none that could be signalled.
    let folder: OwnedFd = std::fs::File::open("/").unwrap().into();
    let zero: OwnedFd = std::fs::File::open("/dev/zero").unwrap().into();
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let (socket, _peer) = UnixDatagram::pair().unwrap();
    for fd in [folder.as_fd(), zero.as_fd(), pipe.as_fd(), socket.as_fd()] {
        assert_ne!(raw.asks(DMA_MAP, &map(0, 4096), &[fd]), Some(0));
        let vector = words(&[20, 0x24, 2, 0, 1]);
        assert_ne!(raw.asks(SET_IRQS, &vector, &[fd]), Some(0));
        raw.goes_on("a descriptor");
    }
    drop(raw);
    beside.unharmed("lengths and descriptors");
    // Not even a head, a head without its payload, descriptors without their message.
    for (bytes, fds) in [
        (&head(READ, 32, 0)[..7], false),
        (&head(READ, 32, 0)[..], false),
        (&head(DMA_MAP, 48, 0)[..], true),
    ] {
        let mut raw = beside.raw(0);
        let zero = [zero.as_fd()];
        raw.says(bytes, if fds { &zero } else { &[] }).unwrap();
        beside.pass();
        drop(raw);
        beside.unharmed("half a message");
    }
    for size in [0, 15, u32::MAX] {
        let mut raw = beside.raw(0);
        raw.says(&head(READ, size, 0), &[]).unwrap();
        raw.is_over("a size");
    }
    beside.unharmed("sizes");
}

#[test]
fn rings_that_are_nowhere_and_descriptors_that_never_end() {
    let mut beside = Beside::new("");
    let outside = 1 << 40;
    for (base, length, tail) in [
        (outside, 4096, 1),
        (GUEST_BASE + (1 << 20) - 128, 4096, 1),
        (!127, 4096, 1),
        (GUEST_BASE, 0, 1),
        (GUEST_BASE, 0xf_ff80, 0xffff),
        (GUEST_BASE, 4096, 256),
        (GUEST_BASE, 4096, 0xffff),
        // Zeros: buffers at address 0 whose frame never ends.
        (GUEST_BASE, 4096, 255),
    ] {
        let memory = GuestMemory::new(1 << 20, true).unwrap();
        let mut raw = Raw::with_memory(&beside.emulator.path("a-vf0.sock"), &memory);
        for queue in [reg::RX, reg::TX] {
            raw.posts(
                0,
                &[
                    (queue + reg::BASE_LOW, base as u32),
                    (queue + reg::BASE_HIGH, (base >> 32) as u32),
                    (queue + reg::LENGTH, length),
                    (queue + reg::HEAD, 0),
                    (queue + reg::CONTROL, 1 << 25),
                    (queue + reg::TAIL, tail),
                ],
            );
        }
        raw.goes_on("a ring");
        let mac = parse_mac(&beside.emulator.vf(0, 0).state.mac).unwrap();
        let [victim, _] = &mut beside.victims;
        let frame = victim.frame(mac, 100);
        victim.send(&frame);
        beside.pass();
        drop(raw);
        beside.unharmed("a ring");
    }
    // Descriptors without an end, round and round.
    let memory = GuestMemory::new(1 << 20, true).unwrap();
    let mut raw = Raw::with_memory(&beside.emulator.path("a-vf0.sock"), &memory);
    raw.posts(
        0,
        &[
            (reg::TX + reg::BASE_LOW, GUEST_BASE as u32),
            (reg::TX + reg::BASE_HIGH, (GUEST_BASE >> 32) as u32),
            (reg::TX + reg::LENGTH, 4096),
            (reg::TX + reg::CONTROL, 1 << 25),
        ],
    );
    let mut tail = 0;
    beside.flood(|| {
        tail = (tail + 251) % 256;
        raw.posts(0, &[(reg::TX + reg::TAIL, tail)]);
    });
    drop(raw);
    beside.unharmed("a frame without end");
}

#[test]
fn floods_of_doorbells_mailbox_messages_and_requests() {
    let mut beside = Beside::new("");
    let memory = GuestMemory::new(1 << 20, true).unwrap();
    let mut raw = Raw::with_memory(&beside.emulator.path("a-vf0.sock"), &memory);
    let doorbells: Vec<_> = (0..256).map(|tail| (reg::TX + reg::TAIL, tail)).collect();
    beside.flood(|| raw.posts(0, &doorbells));
    drop(raw);
    beside.unharmed("doorbells");
    for message in [1, 2, 3 | 30 << 16, 5, 8, 0xc, u32::MAX] {
        let mut raw = Raw::with_memory(&beside.emulator.path("a-vf0.sock"), &memory);
        let requests = [
            (reg::VFMAILBOX, 4),
            (reg::VFMBMEM, message),
            (reg::VFMAILBOX, 1),
            (reg::VFMAILBOX, 2),
        ];
        beside.flood(|| raw.posts(0, &requests));
    }
    beside.unharmed("mailbox");
    // Enabled and disabled, reset and reset.
    let mut raw = Raw::with_memory(&beside.emulator.path("a-vf0.sock"), &memory);
    let toggles = [
        (reg::RX + reg::BASE_HIGH, (GUEST_BASE >> 32) as u32),
        (reg::RX + reg::LENGTH, 4096),
        (reg::RX + reg::CONTROL, 1 << 25),
        (reg::RX + reg::CONTROL, 0),
        (reg::VFCTRL, 1 << 26),
    ];
    beside.flood(|| raw.posts(0, &toggles));
    drop(raw);
    beside.unharmed("resets");
}

/// Requests to the controller of an EF10 NIC: where they are, how long they say they are, and how many.
#[test]
fn requests_of_any_length_to_a_controller() {
    let mut beside = Beside::new("");
    let memory = GuestMemory::new(1 << 20, true).unwrap();
    let socket = beside.emulator.path("a-vf1.sock");
    let mut raw = Raw::with_memory(&socket, &memory);
    let end = GUEST_BASE + (1 << 20);
    let mut seed = 1u32;
    beside.flood(|| {
        for at in [GUEST_BASE, end - 256, end - 4, end, 0, !255] {
            seed = seed.wrapping_mul(0x19660d).wrapping_add(0x3c6ef35f);
            // A command of either version with any length, its last bytes in the last of the memory or behind it.
            let v2 = if seed & 1 << 30 == 0 {
                0x7f
            } else {
                seed >> 8 & 0x7f
            };
            let header = [v2 | (seed >> 16 & 0xff) << 8, seed & 0x3ff_ffff];
            let header = header.map(u32::to_le_bytes);
            for place in [GUEST_BASE, end - 256] {
                let place = memory.slice(place, 8).unwrap();
                place.copy_from(header.as_flattened());
            }
            raw.posts(0, &[(0x200, (at >> 32) as u32), (0x204, at as u32)]);
        }
    });
    raw.goes_on("requests");
    drop(raw);
    beside.unharmed("requests");
}

/// A driver whose registers are mapped writes anything into all of them, as fast as it can.
#[test]
fn anything_in_a_page_that_workers_look_at() {
    let mut beside = Beside::new("poll = 'always'\n");
    let mut intel = beside.intel();
    intel.pass(&mut beside.victims[0]);
    let page = std::sync::Arc::clone(intel.function.page().unwrap());
    let mut seed = 1u32;
    beside.flood(|| {
        for _ in 0..64 {
            seed = seed.wrapping_mul(0x19660d).wrapping_add(0x3c6ef35f);
            let queue = if seed & 1 << 31 == 0 {
                reg::RX
            } else {
                reg::TX
            };
            let at = queue + u64::from(seed >> 8 & 0x7c);
            let value = match seed >> 28 & 3 {
                0 => u32::MAX,
                1 => seed >> 16 & 0xff,
                2 => 1 << 25,
                _ => seed,
            };
            page.register(at).unwrap().store(value, Ordering::Relaxed);
        }
    });
    assert_eq!(intel.function.read(8), 1 << 19);
    drop(intel);
    beside.unharmed("a page of anything");
}

#[test]
fn a_client_whose_descriptors_take_an_hour_to_close_is_heard_no_faster_than_that() {
    let mut beside = Beside::new("");
    let mut raw = beside.raw(0);
    let before = descriptors(&beside.emulator);
    let mut peers = Vec::new();
    // DEVICE_GET_INFO, which needs none of them.
    let message = [&head(4, 32, 0)[..], &words(&[16, 0, 0, 0])].concat();
    let mut most = 0;
    for _ in 0..60 {
        let (slow, theirs): (Vec<_>, Vec<_>) = (0..8).map(|_| lingering()).unzip();
        peers.extend(theirs);
        put(&beside.emulator, raw.stream(), &message, slow);
        most = descriptors(&beside.emulator).max(most);
    }
    assert!((before..before + 300).contains(&most), "{before}: {most}");
    beside.others_noticed_nothing("descriptors that take an hour to close");
    // What put them there was in a hurry.
    raw.0.set_nonblocking(false).unwrap();
    let patience = Some(Duration::from_secs(20));
    raw.0.set_read_timeout(patience).unwrap();
    let mut answer = [0; 32];
    for _ in 0..60 {
        raw.0.read_exact(&mut answer).unwrap();
    }
    drop((raw, peers));
    beside.unharmed("descriptors that took an hour to close");
}
