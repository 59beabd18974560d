//! One port of the load generator: session, memory, queues, and frames in bursts. Reads no clock and keeps no account.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::frame::{HEAD, TAG_AT, Tag};
use super::vring::{BURST, Buffers, Mem, Used, Virtqueue, Vring};
use vf_guest::driver::DeviceFault;
use vf_guest::eventfd::EventFd;
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::ixgbevf::DriverError;
use vf_guest::memory::{Allocator, GUEST_BASE, GuestMemory, USER_OFFSET};
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, feature, negotiate};
use vf_guest::pci::{FunctionError, PciFunction};

/// Where the frame lies in a buffer: with a cache line. What is in front of it ends there.
const FRAME_AT: usize = 64;
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;

/// How a port is set up.
#[derive(Debug, Clone)]
pub(crate) struct PortConfig {
    /// `VIRTIO_F_IN_ORDER`.
    pub(crate) in_order: bool,
    /// `VIRTIO_NET_F_MRG_RXBUF`.
    pub(crate) mergeable: bool,
    /// Queue pairs.
    pub(crate) pairs: u16,
    /// Descriptors a queue.
    pub(crate) queue_size: u16,
    /// Longest frame.
    pub(crate) frame: usize,
}

/// Why a port cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortError {
    #[error(transparent)]
    Session(#[from] FrontendError),
    #[error("the back end does not offer {0}")]
    NotOffered(&'static str),
    #[error("guest memory: {0}")]
    Memory(std::io::Error),
    #[error("the back end breaks the ring: {0}")]
    Fault(#[from] DeviceFault),
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error(transparent)]
    Driver(DriverError),
    #[error("the function has no link")]
    NoLink,
    #[error(
        "its doorbells are messages, and a message a burst is what would be measured: start vfnic with --poll always"
    )]
    NoDoorbellPage,
}

/// What keeps a port attached.
pub(crate) enum Session {
    VhostUser(Box<Frontend>),
    Function(Box<PciFunction>),
}

struct Pair<R> {
    rx: R,
    tx: R,
    rx_buffers: usize,
    tx_buffers: usize,
    rx_kick: EventFd,
    tx_kick: EventFd,
    /// Whether there is something the device may have to be told.
    rx_news: bool,
    tx_news: bool,
    /// Buffers that still belong to the frame whose first was seen last.
    merged: u16,
}

/// A port with its queues.
pub(crate) struct Port<R> {
    mem: Arc<GuestMemory>,
    huge: bool,
    pairs: Vec<Pair<R>>,
    stride: usize,
    mergeable: bool,
    scratch: Vec<u8>,
    told_mac: Option<[u8; 6]>,
    session: Option<Session>,
}

impl<R: Virtqueue> Port<R> {
    /// Negotiates, shares memory and starts all queues.
    pub(crate) fn start(mut frontend: Frontend, config: &PortConfig) -> Result<Port<R>, PortError> {
        let (in_order, merge) = (feature::IN_ORDER, feature::MRG_RXBUF);
        let wanted = [
            (true, feature::VERSION_1, "VIRTIO_F_VERSION_1"),
            (config.mergeable, merge, "VIRTIO_NET_F_MRG_RXBUF"),
            (config.in_order, in_order, "VIRTIO_F_IN_ORDER"),
            (R::PACKED, feature::RING_PACKED, "VIRTIO_F_RING_PACKED"),
            (config.pairs > 1, feature::MQ, "VIRTIO_NET_F_MQ"),
        ];
        let needed = wanted.iter().filter(|w| w.0).fold(0, |mask, w| mask | w.1);
        let optional = feature::PROTOCOL_FEATURES | feature::MAC;
        let (features, space) = negotiate(
            &mut frontend,
            &NetConfig {
                features: needed | optional,
                ..NetConfig::default()
            },
        )?;
        if let Some(missing) = wanted.iter().find(|w| w.0 && features & w.1 == 0) {
            return Err(PortError::NotOffered(missing.2));
        }
        let mut port = Port::detached(config)?;
        if features & feature::MAC != 0 && space.mac != [0; 6] {
            port.told_mac = Some(space.mac);
        }
        port.run(frontend, features)?;
        Ok(port)
    }

    fn run(&mut self, mut frontend: Frontend, features: u64) -> Result<(), FrontendError> {
        frontend.set_features(features)?;
        frontend.set_memory(self.mem.regions())?;
        for (rx, pair) in (0..).step_by(2).zip(&self.pairs) {
            start_ring(&mut frontend, rx, &pair.rx, &pair.rx_kick)?;
            start_ring(&mut frontend, rx + 1, &pair.tx, &pair.tx_kick)?;
        }
        if features & feature::PROTOCOL_FEATURES != 0 {
            for index in 0..2 * self.pairs.len() as u32 {
                frontend.set_vring_enable(index, true)?;
            }
        }
        if frontend.protocol_features() & protocol::REPLY_ACK == 0 {
            // Without acknowledgements any reply says that all before it was handled.
            frontend.get_features()?;
        }
        for pair in &self.pairs {
            // What was made available before the session has no kick of its own.
            pair.rx_kick.signal();
            pair.tx_kick.signal();
        }
        self.session = Some(Session::VhostUser(Box::new(frontend)));
        Ok(())
    }
}

impl<R: Vring> Port<R> {
    /// Where what is in front of a frame lies in a buffer.
    const HEADER_AT: usize = FRAME_AT - R::HEADER;

    /// Memory and queues with their receive buffers, without a session.
    pub(crate) fn detached(config: &PortConfig) -> Result<Port<R>, PortError> {
        // An odd number of cache lines, so that equal places in many buffers do not meet in the
        // same sets of a cache.
        let lines = (FRAME_AT + config.frame.max(1984)).div_ceil(64);
        let stride = 64 * (lines | 1);
        let size = u64::from(config.queue_size);
        let each = size * (stride as u64 + 32) + 8192;
        let total = 2 * u64::from(config.pairs) * each;
        let (memory, huge) = match GuestMemory::huge(total) {
            Ok(memory) => (memory, true),
            Err(_) => (
                GuestMemory::new(total, true).map_err(PortError::Memory)?,
                false,
            ),
        };
        let mem = Mem(memory.regions()[0].mapping());
        let mut alloc = Allocator::new(memory.regions()[0].layout());
        let mut queue = |writable| -> Option<(R, usize)> {
            let addr = alloc.alloc(size * stride as u64, 4096)?;
            let buffers = Buffers {
                addr: addr + Self::HEADER_AT as u64,
                stride: stride as u32,
                writable,
            };
            let ring = R::new(mem, &mut alloc, config.queue_size, config.in_order, buffers)?;
            Some((ring, (addr - GUEST_BASE) as usize))
        };
        let mut pairs = Vec::new();
        for _ in 0..config.pairs {
            let (mut rx, rx_buffers) = queue(true).ok_or(FrontendError::NoMemory)?;
            let (tx, tx_buffers) = queue(false).ok_or(FrontendError::NoMemory)?;
            let room = rx.room();
            rx.make_available(mem, room, (stride - Self::HEADER_AT) as u32);
            pairs.push(Pair {
                rx,
                tx,
                rx_buffers,
                tx_buffers,
                rx_kick: EventFd::new().map_err(FrontendError::Io)?,
                tx_kick: EventFd::new().map_err(FrontendError::Io)?,
                rx_news: false,
                tx_news: false,
                merged: 0,
            });
        }
        Ok(Port {
            mem: Arc::new(memory),
            huge,
            pairs,
            stride,
            mergeable: config.mergeable,
            scratch: Vec::new(),
            told_mac: None,
            session: None,
        })
    }

    /// The guest's memory.
    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        &self.mem
    }

    /// The first pair of rings: the one that receives and the one that sends.
    pub(crate) fn rings(&mut self) -> (&mut R, &mut R) {
        let pair = &mut self.pairs[0];
        (&mut pair.rx, &mut pair.tx)
    }

    /// Its session is this from now on, and its address what that told.
    pub(crate) fn joined(&mut self, session: Session, told_mac: Option<[u8; 6]>) {
        (self.session, self.told_mac) = (Some(session), told_mac);
    }

    /// Whether guest memory is huge pages.
    pub(crate) fn huge(&self) -> bool {
        self.huge
    }

    /// The MAC address in the back end's configuration space.
    pub(crate) fn told_mac(&self) -> Option<[u8; 6]> {
        self.told_mac
    }

    /// Queue pairs.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Writes a whole frame into every send buffer.
    pub(crate) fn fill(&self, head: [u64; HEAD / 8], filling: &[u8]) {
        let mem = Mem(self.mem.regions()[0].mapping());
        for pair in &self.pairs {
            for slot in 0..usize::from(pair.tx.size()) {
                let at = pair.tx_buffers + slot * self.stride + FRAME_AT;
                mem.put(head, at);
                mem.bytes(at + HEAD, filling.len()).copy_from(filling);
            }
        }
    }

    /// Sends up to `want` frames of `len` bytes, and says how many had room. `head` writes the
    /// first bytes of each, if any are written; `filling` is what follows, if that is. The back end is
    /// told by [`Port::kick`].
    #[inline]
    pub(crate) fn send(
        &mut self,
        pair: usize,
        want: u16,
        len: usize,
        mut head: impl FnMut() -> Option<[u64; HEAD / 8]>,
        filling: Option<&[u8]>,
    ) -> Result<u16, DeviceFault> {
        let mem = Mem(self.mem.regions()[0].mapping());
        let pair = &mut self.pairs[pair];
        if pair.tx.room() < want {
            pair.tx.reclaim(mem)?;
        }
        let n = pair.tx.room().min(want);
        if n == 0 {
            return Ok(0);
        }
        for k in 0..n {
            let at = pair.tx_buffers + usize::from(pair.tx.slot(k)) * self.stride + FRAME_AT;
            if let Some(head) = head() {
                mem.put(head, at);
            }
            if let Some(filling) = filling {
                mem.bytes(at + HEAD, filling.len()).copy_from(filling);
            }
        }
        pair.tx.make_available(mem, n, (R::HEADER + len) as u32);
        pair.tx_news = true;
        Ok(n)
    }

    /// Takes what has come on one queue, hands each frame to `seen`, and gives the buffers back;
    /// how many buffers there were. Without `touch` nothing of a frame is read. The back end is told
    /// by [`Port::kick`].
    #[inline]
    pub(crate) fn receive(
        &mut self,
        pair: usize,
        touch: Option<Touched<'_>>,
        mut seen: impl FnMut(Arrival),
    ) -> Result<u16, DeviceFault> {
        let mem = Mem(self.mem.regions()[0].mapping());
        let pair = &mut self.pairs[pair];
        let mut used = [Used::default(); BURST];
        let n = pair.rx.take_used(mem, &mut used)?;
        if n == 0 {
            return Ok(0);
        }
        let used = &used[..usize::from(n)];
        let frame_at =
            |used: &Used| pair.rx_buffers + usize::from(used.slot) * self.stride + FRAME_AT;
        // All tags before the first is looked at: the cache misses of a burst overlap.
        let mut words = [[0u64; 2]; BURST];
        if touch.is_some() {
            for (used, words) in used.iter().zip(&mut words) {
                let tag = mem.words(frame_at(used) + TAG_AT[0], 2);
                *words = [tag.load(0), tag.load(1)];
            }
        }
        for (used, words) in used.iter().zip(words) {
            if self.mergeable {
                if pair.merged > 0 {
                    pair.merged -= 1;
                    continue;
                }
                let header = mem.shorts(frame_at(used) - R::HEADER + NUM_BUFFERS, 1);
                let num_buffers = u16::from_le(header.load(0));
                let fault = DeviceFault::MergedBuffers { num_buffers };
                pair.merged = num_buffers.checked_sub(1).ok_or(fault)?;
            }
            let short = DeviceFault::ShortHeader { len: used.len };
            let len = used.len.checked_sub(R::HEADER as u32).ok_or(short)?;
            let Some(touch) = touch else {
                seen(Arrival {
                    len,
                    tag: None,
                    intact: true,
                });
                continue;
            };
            let tag = match Tag::decode(words.map(u64::from_le), touch.run) {
                Some(tag) => Some(tag),
                None => TAG_AT[1..].iter().find_map(|at| {
                    let tag = mem.words(frame_at(used) + at, 2);
                    Tag::decode([tag.load(0), tag.load(1)].map(u64::from_le), touch.run)
                }),
            };
            let intact = touch.filling.is_none_or(|filling| {
                let scratch = &mut self.scratch;
                scratch.resize(filling.len(), 0);
                mem.bytes(frame_at(used) + HEAD, filling.len())
                    .copy_to(scratch);
                scratch == filling
            });
            seen(Arrival { len, tag, intact });
        }
        pair.rx
            .make_available(mem, n, (self.stride - Self::HEADER_AT) as u32);
        pair.rx_news = true;
        Ok(n)
    }

    /// Tells the back end what is new, if it wants to be told. A full fence lies between that and
    /// this: one for all ports is enough, and the later it comes, the less it waits for.
    #[inline]
    pub(crate) fn kick(&mut self) {
        let mem = Mem(self.mem.regions()[0].mapping());
        for pair in &mut self.pairs {
            if std::mem::take(&mut pair.tx_news) {
                pair.tx.notify(mem, &pair.tx_kick);
            }
            if std::mem::take(&mut pair.rx_news) {
                pair.rx.notify(mem, &pair.rx_kick);
            }
        }
    }

    /// Whether the back end has hung up.
    pub(crate) fn closed(&mut self) -> bool {
        match &mut self.session {
            Some(Session::VhostUser(session)) => session.readable(Duration::ZERO).unwrap_or(true),
            Some(Session::Function(function)) => function.is_gone(),
            None => false,
        }
    }
}

/// A received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Its length in bytes.
    pub(crate) len: u32,
    /// Its tag, if it was looked for and is one of this run.
    pub(crate) tag: Option<Tag>,
    /// Whether what was checked of its content is as it was sent.
    pub(crate) intact: bool,
}

/// How received frames are looked at.
#[derive(Clone, Copy)]
pub(crate) struct Touched<'a> {
    /// The run their tags must be of.
    pub(crate) run: u8,
    /// What follows the first 64 bytes, if that is to be checked.
    pub(crate) filling: Option<&'a [u8]>,
}

fn start_ring<R: Virtqueue>(
    frontend: &mut Frontend,
    index: u32,
    ring: &R,
    kick: &EventFd,
) -> Result<(), FrontendError> {
    let user = |offset: usize| GUEST_BASE + USER_OFFSET + offset as u64;
    let at = ring.areas();
    frontend.set_vring_num(index, ring.size().into())?;
    frontend.set_vring_base(index, R::BASE)?;
    frontend.set_vring_addr(index, user(at.desc), user(at.used), user(at.avail))?;
    // A ring starts when it is kicked.
    kick.signal();
    frontend.set_vring_kick(index, Some(kick.as_fd()))?;
    // Nobody waits for calls; but some back ends take a ring without one for unfinished.
    frontend.set_vring_call(index, Some(EventFd::new()?.as_fd()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::split::Split;
    use crate::vring::VIRTIO_NET_HEADER as HEADER;
    use vf_guest::driver::{QueueLayout, RingFeatures};
    use vf_guest::loopback::DeviceRing;
    use vm_memory::Bytes;

    /// The device's end of one pair of a detached port.
    pub(crate) struct Device {
        mem: Arc<GuestMemory>,
        pub(crate) rx: DeviceRing,
        pub(crate) tx: DeviceRing,
    }

    impl Device {
        pub(crate) fn new(port: &Port<Split>, pair: usize) -> Device {
            let ring = |ring: &Split| {
                let areas = ring.areas();
                let layout = QueueLayout {
                    size: ring.size(),
                    desc: GUEST_BASE + areas.desc as u64,
                    avail: GUEST_BASE + areas.avail as u64,
                    used: GUEST_BASE + areas.used as u64,
                };
                DeviceRing::at(port.mem.clone(), layout, RingFeatures::default(), 0)
            };
            Device {
                mem: port.mem.clone(),
                rx: ring(&port.pairs[pair].rx),
                tx: ring(&port.pairs[pair].tx),
            }
        }

        /// The next frame that was sent, without its header.
        pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
            let (head, buffers) = self.tx.pop()?;
            let [(addr, len, false)] = buffers[..] else {
                panic!("a chain is one buffer: {buffers:?}")
            };
            let mut frame = vec![0; len as usize];
            let bytes = self.mem.slice(addr, frame.len()).unwrap();
            bytes.read_slice(&mut frame, 0).unwrap();
            assert_eq!(frame[..HEADER], [0; HEADER]);
            self.tx.push_used(head, 0);
            Some(frame.split_off(HEADER))
        }

        /// Delivers a frame; false when there is no buffer.
        pub(crate) fn give(&mut self, frame: &[u8]) -> bool {
            let Some((head, buffers)) = self.rx.pop() else {
                return false;
            };
            let [(addr, room, true)] = buffers[..] else {
                panic!("a chain is one buffer: {buffers:?}")
            };
            let mut bytes = vec![0; HEADER];
            bytes[NUM_BUFFERS] = 1;
            bytes.extend(frame);
            assert!(bytes.len() <= room as usize);
            let buffer = self.mem.slice(addr, bytes.len()).unwrap();
            buffer.write_slice(&bytes, 0).unwrap();
            self.rx.push_used(head, bytes.len() as u32);
            true
        }
    }
}
