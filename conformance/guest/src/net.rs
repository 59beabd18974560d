//! A virtio-net driver (virtio 5.1) over one vhost-user session.
//!
//! Moves frames: each TX slot and each RX slot has a fixed buffer in guest memory, so a frame
//! costs one copy and one descriptor. Knows nothing of IP. What the device must not do is a
//! [`DeviceFault`]; the queue is not used any further by then.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use vm_memory::Bytes;

use crate::driver::{Buffer, DeviceFault, RingFeatures};
use crate::eventfd::EventFd;
use crate::frontend::{Frontend, FrontendError};
use crate::memory::{Allocator, GUEST_BASE, GuestMemory, Region, RegionLayout, USER_OFFSET};
use crate::message::protocol;

use crate::net_ring::refill;

pub use crate::net_layout::{
    ConfigSpace, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HDR_DATA_VALID, HDR_NEEDS_CSUM,
    NetHeader, feature, parse_mac,
};
pub use crate::net_ring::Ring;

/// Length of Ethernet header with room for two tags, in bytes.
const L2_ROOM: u32 = 14 + 8;
/// Room for a command and its answer, in bytes.
const COMMAND_ROOM: u32 = 64 << 10;
/// The base of a packed ring that is new, on both sides.
const NEW_PACKED: u32 = 0x8000_8000;
/// Longest TCP/IP super-frame with its Ethernet header.
const SUPER_FRAME: u32 = 65550;

/// How driver and device tell each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notify {
    /// Eventfds both ways.
    #[default]
    EventFd,
    /// No descriptors: both poll, or something outside carries the news.
    Polled,
}

/// How to set a device up.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Features to acknowledge if offered.
    pub features: u64,
    /// Protocol features to acknowledge if offered.
    pub protocol_features: u64,
    /// Queue pairs to use; ring `2n` receives, ring `2n + 1` sends.
    pub queue_pairs: u16,
    /// Descriptors a ring, of a split ring a power of two.
    pub queue_size: u16,
    /// The same of rings that send, if it is another number.
    pub tx_queue_size: Option<u16>,
    /// Descriptors of the control queue, likewise.
    pub control_size: u16,
    /// IP MTU the buffers are made for.
    pub mtu: u16,
    /// Bytes a receive buffer, header included; `None`: whatever the features need.
    pub rx_buffer: Option<u32>,
    /// Kind of notification.
    pub notify: Notify,
    /// Entries that both rings have seen before they start; of a packed ring, descriptors.
    pub base: u16,
    /// Whether [`resume`](NetDevice::resume) gives packed rings the base of a new ring, as QEMU does when a back end was killed.
    pub forgets: bool,
    /// Whether the memory file is sealed against shrinking.
    pub seals: bool,
    /// Where guest memory begins in its file, a multiple of a page.
    pub mmap_offset: u64,
    /// Bytes of memory in front of rings and buffers, a multiple of a page. Nobody touches them, so that they cost nothing.
    pub lead: u64,
    /// Whether buffers are in another region than rings, with a hole in between.
    pub apart: bool,
    /// Descriptors that a receive buffer is cut into.
    pub rx_pieces: u32,
    /// Whether they are in an indirect table, which lies behind the buffer.
    pub rx_indirect: bool,
}

impl NetConfig {
    /// Features of a plain modern driver, without offloads.
    pub const PLAIN: u64 = feature::VERSION_1
        | feature::PROTOCOL_FEATURES
        | feature::EVENT_IDX
        | feature::INDIRECT_DESC
        | feature::IN_ORDER
        | feature::MRG_RXBUF
        | feature::MAC
        | feature::MTU
        | feature::STATUS
        | feature::MQ;
    /// Checksum offload both ways.
    pub const CHECKSUM: u64 = feature::CSUM | feature::GUEST_CSUM;
    /// TCP/IPv4 segmentation offload both ways; needs [`NetConfig::CHECKSUM`].
    pub const TSO: u64 = feature::HOST_TSO4 | feature::GUEST_TSO4;
}

impl Default for NetConfig {
    /// One pair of 256 descriptors, MTU 1500, checksum offload, no segmentation offload.
    fn default() -> NetConfig {
        NetConfig {
            features: NetConfig::PLAIN | NetConfig::CHECKSUM,
            protocol_features: protocol::MQ
                | protocol::REPLY_ACK
                | protocol::CONFIG
                | protocol::CONFIGURE_MEM_SLOTS,
            queue_pairs: 1,
            queue_size: 256,
            tx_queue_size: None,
            control_size: 16,
            mtu: 1500,
            rx_buffer: None,
            notify: Notify::EventFd,
            base: 0,
            forgets: false,
            seals: true,
            mmap_offset: 0,
            lead: 0,
            apart: false,
            rx_pieces: 1,
            rx_indirect: false,
        }
    }
}

/// A received frame; its buffer is used again and again.
#[derive(Debug, Default)]
pub struct RxFrame {
    /// The header the device wrote.
    pub hdr: NetHeader,
    data: Vec<u8>,
    len: usize,
}

impl RxFrame {
    /// The frame from its destination address on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

/// A virtio-net device as its driver sees it.
#[derive(Debug)]
pub struct NetDevice {
    mem: Arc<GuestMemory>,
    features: u64,
    header_len: usize,
    config: ConfigSpace,
    rx: Vec<Ring>,
    tx: Vec<Ring>,
    /// The control queue, if it was negotiated.
    control: Option<Ring>,
    frontend: Option<Frontend>,
}

impl NetDevice {
    /// Negotiates, shares memory and starts all rings, in the order Linux guests under QEMU cause.
    pub fn start(mut frontend: Frontend, config: &NetConfig) -> Result<NetDevice, FrontendError> {
        let (features, space) = negotiate(&mut frontend, config)?;
        let mut device = NetDevice::detached(features, config)?;
        device.config = space;
        device.run(frontend)?;
        Ok(device)
    }

    /// Memory and filled rings for `features`, without a session: for a device side that is
    /// handed the memory directly.
    pub fn detached(features: u64, config: &NetConfig) -> Result<NetDevice, FrontendError> {
        let features = features & config.features;
        let header_len = if features & (feature::VERSION_1 | feature::MRG_RXBUF) != 0 {
            12
        } else {
            10
        };
        let plain = 12 + L2_ROOM + u32::from(config.mtu);
        let huge = features & (feature::GUEST_TSO4 | feature::GUEST_TSO6) != 0;
        let rx_len = config
            .rx_buffer
            .unwrap_or(match (huge, features & feature::MRG_RXBUF != 0) {
                (true, false) => 12 + SUPER_FRAME,
                (true, true) => 4096,
                (false, _) => plain,
            });
        let giants = feature::HOST_TSO4 | feature::HOST_TSO6 | feature::HOST_USO;
        let tx_len = if features & giants != 0 {
            12 + SUPER_FRAME
        } else {
            plain
        };
        let table = if config.rx_indirect {
            16 * config.rx_pieces
        } else {
            0
        };
        let rx_len = (rx_len + table).next_multiple_of(64);
        let tx_len = tx_len.next_multiple_of(64);

        let sending = NetConfig {
            queue_size: config.tx_queue_size.unwrap_or(config.queue_size),
            ..config.clone()
        };
        let rings = |size: u16, len: u32| u64::from(size) * u64::from(len + 26);
        let pair = rings(config.queue_size, rx_len) + rings(sending.queue_size, tx_len);
        let control = u64::from(config.control_size) * u64::from(COMMAND_ROOM + 26) + 4096;
        let size = u64::from(config.queue_pairs) * (pair + 1024) + control;
        let mem = Arc::new(memory(size, config)?);
        let regions = mem.regions().iter();
        let behind = |region: &Region| Allocator::behind(region.layout(), config.lead);
        let mut alloc: Vec<Allocator> = regions.map(behind).collect();
        let ring_features = RingFeatures {
            packed: features & feature::RING_PACKED != 0,
            event_idx: features & feature::EVENT_IDX != 0,
            in_order: features & feature::IN_ORDER != 0,
        };
        let mut make = |config, stride| Ring::new(&mem, &mut alloc, config, ring_features, stride);
        let mut rx = Vec::new();
        let mut tx = Vec::new();
        for _ in 0..config.queue_pairs {
            rx.push(make(config, rx_len)?);
            tx.push(make(&sending, tx_len)?);
        }
        let control = NetConfig {
            queue_size: config.control_size,
            ..config.clone()
        };
        let control = match features & feature::CTRL_VQ {
            0 => None,
            _ => Some(Ring::new(
                &mem,
                &mut alloc,
                &control,
                ring_features,
                COMMAND_ROOM,
            )?),
        };
        let mut device = NetDevice {
            mem,
            features,
            header_len,
            config: ConfigSpace::default(),
            rx,
            tx,
            control,
            frontend: None,
        };
        for ring in &mut device.rx {
            ring.pieces = config.rx_pieces;
            ring.indirect = config.rx_indirect;
            refill(ring);
            ring.queue.publish();
        }
        Ok(device)
    }

    /// Goes on over a new session after the old one broke: same memory, same rings, from the used
    /// index on.
    pub fn resume(
        &mut self,
        mut frontend: Frontend,
        config: &NetConfig,
    ) -> Result<(), FrontendError> {
        let wanted = NetConfig {
            features: self.features,
            ..config.clone()
        };
        let (features, space) = negotiate(&mut frontend, &wanted)?;
        if features != self.features {
            return Err(FrontendError::Closed);
        }
        self.config = space;
        self.run_from(frontend, config.forgets.then_some(NEW_PACKED))
    }

    fn run(&mut self, frontend: Frontend) -> Result<(), FrontendError> {
        self.run_from(frontend, None)
    }

    /// Starts all rings, packed ones at this base if there is one.
    fn run_from(
        &mut self,
        mut frontend: Frontend,
        packed_base: Option<u32>,
    ) -> Result<(), FrontendError> {
        frontend.set_features(self.features)?;
        frontend.set_memory(self.mem.regions())?;
        let control = self.control.as_ref().map(|_| self.control_index());
        for index in (0..self.rings()).chain(control) {
            let queue = &self.ring(index).queue;
            let packed = queue.as_packed().and(packed_base);
            self.place_ring_at(&mut frontend, index, packed.unwrap_or(queue.base()))?;
            self.start_ring(&mut frontend, index)?;
        }
        if self.has(feature::PROTOCOL_FEATURES) {
            for index in (0..self.rings()).chain(control) {
                frontend.set_vring_enable(index, true)?;
            }
        }
        if frontend.protocol_features() & protocol::REPLY_ACK == 0 {
            // Without acknowledgements any reply says that all before it was handled.
            frontend.get_features()?;
        }
        self.adopt(frontend);
        Ok(())
    }

    /// Tells the back end size, base and addresses of ring `index`; the base is behind all that is used.
    pub fn place_ring(&self, frontend: &mut Frontend, index: u32) -> Result<(), FrontendError> {
        self.place_ring_at(frontend, index, self.ring(index).queue.base())
    }

    fn place_ring_at(
        &self,
        frontend: &mut Frontend,
        index: u32,
        base: u32,
    ) -> Result<(), FrontendError> {
        let layout = self.ring(index).queue.layout();
        let user = |addr| self.mem.user_addr(addr).ok_or(FrontendError::NoMemory);
        frontend.set_vring_num(index, layout.size.into())?;
        frontend.set_vring_base(index, base)?;
        frontend.set_vring_addr(
            index,
            user(layout.desc)?,
            user(layout.used)?,
            user(layout.avail)?,
        )
    }

    /// Gives the back end kick and call of ring `index`. The kick has been signalled, as QEMU's always has, so that the ring starts
    /// at once.
    pub fn start_ring(&self, frontend: &mut Frontend, index: u32) -> Result<(), FrontendError> {
        if let Some(kick) = &self.ring(index).kick {
            kick.signal();
        }
        self.hand_ring(frontend, index)
    }

    /// Gives the back end kick and call of ring `index` as they are: unless somebody has signalled the kick, the ring is still
    /// stopped.
    pub fn hand_ring(&self, frontend: &mut Frontend, index: u32) -> Result<(), FrontendError> {
        let ring = self.ring(index);
        // In this order: a kick that has been signalled starts the ring, and whoever has no call then has nobody to tell.
        frontend.set_vring_call(index, ring.call.as_ref().map(AsFd::as_fd))?;
        frontend.set_vring_kick(index, ring.kick.as_ref().map(AsFd::as_fd))
    }

    /// Keeps a session whose rings were started by hand, and kicks every ring once.
    pub fn adopt(&mut self, frontend: Frontend) {
        for ring in self.rx.iter_mut().chain(&mut self.tx) {
            // Chains that were published before the session have no kick of their own.
            ring.notify();
            if let Some(kick) = &ring.kick {
                kick.signal();
            }
        }
        self.frontend = Some(frontend);
    }

    /// The number of the control queue: behind all rings for frames that the device has (virtio 5.1.2).
    pub fn control_index(&self) -> u32 {
        let all = self
            .has(feature::MQ)
            .then_some(self.config.max_virtqueue_pairs);
        2 * u32::from(all.unwrap_or(1).max(1))
    }

    /// The control queue, if it was negotiated.
    pub fn control_ring(&mut self) -> Option<&mut Ring> {
        self.control.as_mut()
    }

    /// Number of rings for frames.
    pub fn rings(&self) -> u32 {
        (self.rx.len() + self.tx.len()) as u32
    }

    /// Ring `index` as vhost-user counts: even receives, odd sends.
    fn ring(&self, index: u32) -> &Ring {
        if let Some(control) = &self.control
            && index == self.control_index()
        {
            return control;
        }
        let pair = (index / 2) as usize;
        if index.is_multiple_of(2) {
            &self.rx[pair]
        } else {
            &self.tx[pair]
        }
    }

    /// Stops all rings and takes the session out; each ring's next available index, in ring order.
    pub fn stop(&mut self) -> Result<Vec<u32>, FrontendError> {
        let Some(mut frontend) = self.frontend.take() else {
            return Ok(Vec::new());
        };
        (0..self.rings())
            .map(|index| frontend.get_vring_base(index))
            .collect()
    }

    /// The session, while there is one.
    pub fn frontend(&mut self) -> Option<&mut Frontend> {
        self.frontend.as_mut()
    }

    /// Takes the session out without a word to the back end; dropped, it is a disconnect.
    pub fn take_frontend(&mut self) -> Option<Frontend> {
        self.frontend.take()
    }

    /// Features in force.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether all bits of `mask` are in force.
    #[inline]
    pub fn has(&self, mask: u64) -> bool {
        self.features & mask == mask
    }

    /// Length of the virtio-net header in bytes.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Configuration space, all zero when the back end does not serve it.
    pub fn config_space(&self) -> ConfigSpace {
        self.config
    }

    /// Guest memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.mem
    }

    /// Queue pairs in use.
    pub fn queue_pairs(&self) -> usize {
        self.tx.len()
    }

    /// Receive ring of pair `pair`.
    pub fn rx_ring(&mut self, pair: usize) -> &mut Ring {
        &mut self.rx[pair]
    }

    /// Send ring of pair `pair`.
    pub fn tx_ring(&mut self, pair: usize) -> &mut Ring {
        &mut self.tx[pair]
    }

    /// Frames that pair `pair` can still take, after looking at what the device has finished.
    #[inline]
    pub fn tx_room(&mut self, pair: usize) -> Result<u16, DeviceFault> {
        let ring = &mut self.tx[pair];
        while ring.queue.pop_used()?.is_some() {}
        Ok(ring.queue.room())
    }

    /// Puts a frame into the send ring of pair `pair`; false when the ring is full or the frame
    /// longer than its buffer. Not visible to the device before [`NetDevice::kick`].
    #[inline]
    pub fn send(
        &mut self,
        pair: usize,
        hdr: &NetHeader,
        frame: &[u8],
    ) -> Result<bool, DeviceFault> {
        if self.tx[pair].queue.room() == 0 && self.tx_room(pair)? == 0 {
            return Ok(false);
        }
        let header_len = self.header_len;
        let ring = &mut self.tx[pair];
        let len = header_len + frame.len();
        let Some(head) = ring.queue.next_head() else {
            return Ok(false);
        };
        if len > ring.stride as usize {
            return Ok(false);
        }
        let at = ring.offset + ring.stride as usize * usize::from(head);
        let Some(slot) = self.mem.regions()[ring.region].at(at, len) else {
            return Ok(false);
        };
        slot.write_slice(&hdr.encode()[..header_len], 0)
            .and_then(|()| slot.write_slice(frame, header_len))
            .expect("the slot was made this long");
        ring.queue.add(&[Buffer {
            addr: ring.buffer_addr(head),
            len: len as u32,
            writable: false,
        }]);
        Ok(true)
    }

    /// Takes the next received frame of pair `pair`; false when there is none. Buffers go back
    /// into the ring at once, visible to the device after [`NetDevice::kick`].
    #[inline]
    pub fn recv(&mut self, pair: usize, into: &mut RxFrame) -> Result<bool, DeviceFault> {
        let ring = &mut self.rx[pair];
        let Some(first) = ring.queue.pop_used()? else {
            return Ok(false);
        };
        let mut have = first.len as usize;
        if have < self.header_len {
            return Err(DeviceFault::ShortHeader { len: first.len });
        }
        if into.data.len() < have {
            into.data.resize(have, 0);
        }
        let region = &self.mem.regions()[ring.region];
        let slot = |head: u16, len: usize| {
            region
                .at(ring.offset + ring.stride as usize * usize::from(head), len)
                .expect("used lengths are checked against the buffer")
        };
        let mut header = [0; 12];
        let buffer = slot(first.head, have);
        buffer
            .read_slice(&mut header[..self.header_len], 0)
            .and_then(|()| {
                let len = have - self.header_len;
                buffer.read_slice(&mut into.data[..len], self.header_len)
            })
            .expect("the buffer is this long");
        have -= self.header_len;
        into.hdr = NetHeader::decode(&header);
        if self.features & feature::MRG_RXBUF != 0 {
            let num_buffers = into.hdr.num_buffers;
            let merged = DeviceFault::MergedBuffers { num_buffers };
            if num_buffers == 0 {
                return Err(merged);
            }
            for _ in 1..num_buffers {
                let more = ring.queue.pop_used()?.ok_or(merged)?;
                let end = have + more.len as usize;
                if into.data.len() < end {
                    into.data.resize(end, 0);
                }
                slot(more.head, more.len as usize)
                    .read_slice(&mut into.data[have..end], 0)
                    .expect("the buffer is this long");
                have = end;
            }
        }
        into.len = have;
        refill(ring);
        Ok(true)
    }

    /// Makes everything new visible to the device, signals the kick eventfds that it wants
    /// signalled, and says whether it wanted any (also when there is no eventfd to signal).
    #[inline]
    pub fn kick(&mut self) -> bool {
        let mut wanted = false;
        for ring in self.rx.iter_mut().chain(&mut self.tx) {
            wanted |= ring.notify();
        }
        wanted
    }

    /// Asks to be called for received frames, and with `tx` when half of what is being sent is
    /// finished. True when that is so already: poll again instead of sleeping.
    pub fn arm(&mut self, tx: bool) -> bool {
        let mut ready = self.arm_rx();
        for ring in &mut self.tx {
            if tx {
                ready |= ring.queue.arm(ring.queue.outstanding() / 2);
            } else {
                ring.queue.disarm();
            }
        }
        ready
    }

    /// Asks to be called for received frames, and leaves the rings that send as they are. True when there are some already.
    pub fn arm_rx(&mut self) -> bool {
        let mut ready = false;
        for ring in &mut self.rx {
            ready |= ring.queue.arm(1);
        }
        ready
    }

    /// The eventfds that the device signals, if there are any: what a caller waits on that has several devices.
    pub fn calls(&self) -> impl Iterator<Item = &EventFd> {
        self.rx
            .iter()
            .chain(&self.tx)
            .filter_map(|r| r.call.as_ref())
    }

    /// Waits for the call of pair `pair`'s receive ring and drains it; false on timeout, or when
    /// there is no eventfd.
    pub fn wait_rx_call(&self, pair: usize, wait: Duration) -> io::Result<bool> {
        match &self.rx[pair].call {
            Some(call) => {
                let called = call.wait(wait)?;
                call.drain();
                Ok(called)
            }
            None => Ok(false),
        }
    }
}

/// Guest memory for so many bytes, as the configuration wants it laid out.
fn memory(size: u64, config: &NetConfig) -> io::Result<GuestMemory> {
    let size = size.next_multiple_of(4096).saturating_add(config.lead);
    let regions = 1 + u64::from(config.apart);
    let layouts: Vec<RegionLayout> = (0..regions)
        .map(|i| RegionLayout {
            guest_addr: GUEST_BASE + i * 2 * size,
            // The other way round than guest addresses: who takes one for the other is found out.
            user_addr: GUEST_BASE + USER_OFFSET + (regions - 1 - i) * 2 * size,
            size,
            mmap_offset: config.mmap_offset,
        })
        .collect();
    GuestMemory::with_regions(&layouts, config.seals)
}

/// Features, protocol features, ownership and configuration space: everything before
/// `SET_FEATURES`. The features are those to acknowledge.
pub fn negotiate(
    frontend: &mut Frontend,
    config: &NetConfig,
) -> Result<(u64, ConfigSpace), FrontendError> {
    let features = frontend.get_features()? & config.features;
    let mut space = ConfigSpace::default();
    if features & feature::PROTOCOL_FEATURES != 0 {
        let protocol = frontend.get_protocol_features()? & config.protocol_features;
        frontend.set_protocol_features(protocol)?;
        frontend.set_owner()?;
        if protocol & protocol::MQ != 0 {
            frontend.get_queue_num()?;
        }
        if protocol & protocol::CONFIG != 0 {
            let bytes = frontend.get_config(0, ConfigSpace::LEN as u32)?;
            space = ConfigSpace::decode(&bytes).unwrap_or_default();
        }
    } else {
        frontend.set_owner()?;
    }
    Ok((features, space))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loopback::DevicePair;

    fn device(features: u64, rx_buffer: u32) -> (NetDevice, DevicePair) {
        let config = NetConfig {
            features,
            rx_buffer: Some(rx_buffer),
            notify: Notify::Polled,
            queue_size: 16,
            ..NetConfig::default()
        };
        let mut net = NetDevice::detached(u64::MAX, &config).unwrap();
        let port = DevicePair::new(&mut net);
        (net, port)
    }

    #[test]
    fn to_wait_for_frames_leaves_the_rings_that_send_as_they_are() {
        let (mut net, _port) = device(NetConfig::PLAIN & !feature::EVENT_IDX, 2048);
        net.tx_ring(0).queue.set_interrupts(true);
        let flags = |net: &mut NetDevice| {
            let at = net.tx_ring(0).queue.layout().avail;
            let flags: u16 = net.memory().slice(at, 2).unwrap().read_obj(0).unwrap();
            flags
        };
        net.arm_rx();
        assert_eq!(flags(&mut net), 0);
        net.arm(false);
        assert_eq!(flags(&mut net), 1);
    }

    fn framed(len: usize) -> Vec<u8> {
        (0..len + 12)
            .map(|i| if i < 12 { 0 } else { i as u8 })
            .collect()
    }

    #[test]
    fn merged_buffers_make_one_frame_again() {
        for features in [NetConfig::PLAIN, NetConfig::PLAIN | feature::RING_PACKED] {
            let (mut net, mut port) = device(features, 128);
            let mut got = RxFrame::default();
            for round in 0..20 {
                for len in [60, 116, 117, 600, 1514] {
                    let frame = framed(len);
                    assert!(port.give(&frame));
                    assert!(net.recv(0, &mut got).unwrap());
                    assert_eq!(got.bytes(), &frame[12..], "round {round}");
                    assert_eq!(usize::from(got.hdr.num_buffers), (len + 12).div_ceil(128));
                    assert!(!net.recv(0, &mut got).unwrap());
                    net.kick();
                }
            }
        }
    }

    #[test]
    fn a_frame_goes_out_behind_its_header_and_a_full_ring_takes_none() {
        let packed = NetConfig::PLAIN | feature::RING_PACKED;
        for (features, header) in [(NetConfig::PLAIN, 12), (packed, 12), (0, 10)] {
            let (mut net, mut port) = device(features, 2048);
            assert_eq!(net.header_len(), header);
            let hdr = NetHeader {
                flags: HDR_NEEDS_CSUM,
                csum_start: 34,
                ..NetHeader::default()
            };
            for _ in 0..16 {
                assert!(net.send(0, &hdr, b"frame").unwrap());
            }
            assert!(!net.send(0, &hdr, b"frame").unwrap());
            assert!(port.take().is_none(), "not published yet");
            assert!(net.kick());
            let sent = port.take().unwrap();
            assert_eq!(sent, [&hdr.encode()[..header], b"frame"].concat());
            assert!(net.send(0, &hdr, b"frame").unwrap());
            assert!(
                !net.send(0, &hdr, &[0; 4096]).unwrap(),
                "longer than a buffer"
            );
        }
    }

    #[test]
    fn headers_that_lie_are_faults() {
        let mut got = RxFrame::default();
        let (mut net, mut port) = device(NetConfig::PLAIN, 2048);
        let (head, _) = port.rx.pop().unwrap();
        port.rx.push_used(head, 11);
        assert_eq!(
            net.recv(0, &mut got),
            Err(DeviceFault::ShortHeader { len: 11 })
        );

        for num_buffers in [0u16, 2] {
            let (mut net, mut port) = device(NetConfig::PLAIN, 2048);
            let (head, buffers) = port.rx.pop().unwrap();
            let mut frame = framed(60);
            frame[10..12].copy_from_slice(&num_buffers.to_le_bytes());
            let slice = net.memory().slice(buffers[0].0, 72).unwrap();
            slice.write_slice(&frame, 0).unwrap();
            port.rx.push_used(head, 72);
            let fault = DeviceFault::MergedBuffers { num_buffers };
            assert_eq!(net.recv(0, &mut got), Err(fault));
        }
    }
}
