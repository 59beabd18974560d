//! smoltcp's view of a [`NetDevice`]: tokens, offload capabilities, counters.
//!
//! Turns what smoltcp leaves undone into virtio-net header fields, and back. Holds at most one
//! received frame, which the guest has a look at before smoltcp gets it. Never reads a clock,
//! and never waits for room on a ring: then there is no token.

use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken,
    TxToken,
};
use smoltcp::time::Instant;

use super::config::{GuestConfig, GuestStats};
use crate::checksum::TcpFrame;
use crate::driver::DeviceFault;
use crate::net::{
    GSO_TCPV4, HDR_DATA_VALID, HDR_NEEDS_CSUM, NetDevice, NetHeader, RxFrame, feature,
};

/// Ethernet header in front of the IP MTU.
const ETHERNET: usize = 14;
/// Ethernet, IPv4 and TCP headers without options.
const HEADERS: usize = 54;
/// Longest IPv4 packet.
const MAX_IP: usize = 65535;

/// A net device with the buffers smoltcp works in.
#[derive(Debug)]
pub(crate) struct Phy {
    pub(crate) net: NetDevice,
    pub(crate) stats: GuestStats,
    capabilities: DeviceCapabilities,
    rx: RxFrame,
    loaded: bool,
    rx_pair: usize,
    tx: Vec<u8>,
    tx_pair: usize,
    /// Send slots to leave free, by kind of stream.
    reserve: u16,
    keep: u16,
    full: bool,
    tx_csum: bool,
    rx_csum: bool,
    fault: Option<DeviceFault>,
}

impl Phy {
    pub(crate) fn new(config: &GuestConfig, net: NetDevice, reserve: u16) -> Phy {
        let tx_csum = config.csum && net.has(feature::CSUM);
        let rx_csum = net.has(feature::GUEST_CSUM);
        let mut checksum = ChecksumCapabilities::default();
        checksum.tcp = match (tx_csum, rx_csum) {
            (false, false) => Checksum::Both,
            (true, false) => Checksum::Rx,
            (false, true) => Checksum::Tx,
            (true, true) => Checksum::None,
        };
        let mtu = usize::from(config.mtu);
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = mtu + ETHERNET;
        capabilities.checksum = checksum;
        let mut tx_len = mtu + ETHERNET;
        if config.tso && tx_csum && net.has(feature::HOST_TSO4) {
            // Whole segments only, as many as an IPv4 packet can hold.
            let mss = mtu.saturating_sub(HEADERS - ETHERNET).max(1);
            let limit = HEADERS + (MAX_IP + ETHERNET - HEADERS) / mss * mss;
            capabilities.segmentation.tcpv4 = limit.try_into().ok();
            tx_len = limit;
        }
        Phy {
            net,
            stats: GuestStats::default(),
            capabilities,
            rx: RxFrame::default(),
            loaded: false,
            rx_pair: 0,
            tx: vec![0; tx_len],
            tx_pair: 0,
            reserve,
            keep: 0,
            full: false,
            tx_csum,
            rx_csum,
            fault: None,
        }
    }

    /// Chooses the queue pair of stream `index`, and whether it is bulk that leaves the reserve
    /// alone; forgets that the ring was full.
    pub(crate) fn select(&mut self, index: usize, bulk: bool) {
        self.tx_pair = index % self.net.queue_pairs();
        self.keep = if bulk { self.reserve } else { 0 };
        self.full = false;
    }

    /// Whether a send found no slot since [`Phy::select`].
    pub(crate) fn was_full(&self) -> bool {
        self.full
    }

    /// Whether every send ring has more than `keep` free slots.
    pub(crate) fn has_room(&mut self, keep: u16) -> Result<bool, DeviceFault> {
        for pair in 0..self.net.queue_pairs() {
            if self.net.tx_ring(pair).queue.room() <= keep && self.net.tx_room(pair)? <= keep {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A fault met inside a token, where it could not be returned.
    pub(crate) fn check(&mut self) -> Result<(), DeviceFault> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Makes sure a received frame is at hand; false when there is none. Frames with a wrong
    /// checksum that nobody vouched for are dropped and counted.
    pub(crate) fn load(&mut self) -> Result<bool, DeviceFault> {
        let mut empty = 0;
        while !self.loaded && empty < self.net.queue_pairs() {
            if !self.net.recv(self.rx_pair, &mut self.rx)? {
                self.rx_pair = (self.rx_pair + 1) % self.net.queue_pairs();
                empty += 1;
                continue;
            }
            let frame = self.rx.bytes();
            self.stats.rx_frames += 1;
            self.stats.rx_bytes += frame.len() as u64;
            let tcp = TcpFrame::parse(frame);
            if tcp.is_none_or(|tcp| tcp.l4 + tcp.l4_len == tcp.payload) {
                self.stats.rx_bare += 1;
            }
            let vouched = self.rx.hdr.flags & (HDR_NEEDS_CSUM | HDR_DATA_VALID) != 0;
            if self.rx_csum && !vouched && tcp.is_some_and(|tcp| !tcp.verify(frame)) {
                self.stats.rx_bad_checksum += 1;
                continue;
            }
            self.loaded = true;
        }
        Ok(self.loaded)
    }

    /// The frame at hand.
    pub(crate) fn frame(&self) -> &[u8] {
        self.rx.bytes()
    }

    /// Forgets the frame at hand.
    pub(crate) fn discard(&mut self) {
        self.loaded = false;
    }

    fn tx_ready(&mut self) -> bool {
        let pair = self.tx_pair;
        let room = match self.net.tx_ring(pair).queue.room() {
            room if room > self.keep => Ok(room),
            _ => self.net.tx_room(pair),
        };
        match room {
            Ok(room) if room > self.keep => true,
            Ok(_) => {
                self.full = true;
                false
            }
            Err(fault) => {
                self.fault = Some(fault);
                false
            }
        }
    }
}

impl Device for Phy {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Slot<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Slot<'_>)> {
        if !self.loaded || !self.tx_ready() {
            return None;
        }
        self.loaded = false;
        let slot = Slot {
            net: &mut self.net,
            stats: &mut self.stats,
            fault: &mut self.fault,
            buffer: &mut self.tx,
            pair: self.tx_pair,
            csum: self.tx_csum,
            gso_size: 0,
        };
        Some((Received(self.rx.bytes()), slot))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Slot<'_>> {
        if !self.tx_ready() {
            return None;
        }
        Some(Slot {
            net: &mut self.net,
            stats: &mut self.stats,
            fault: &mut self.fault,
            buffer: &mut self.tx,
            pair: self.tx_pair,
            csum: self.tx_csum,
            gso_size: 0,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// The frame at hand.
pub(crate) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// A free send slot.
pub(crate) struct Slot<'a> {
    net: &'a mut NetDevice,
    stats: &'a mut GuestStats,
    fault: &'a mut Option<DeviceFault>,
    buffer: &'a mut Vec<u8>,
    pair: usize,
    csum: bool,
    gso_size: u16,
}

impl TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        let frame = &mut self.buffer[..len];
        let result = f(frame);
        let tcp = TcpFrame::parse(frame);
        let mut hdr = NetHeader::default();
        if let Some(tcp) = tcp.filter(|_| self.csum) {
            // virtio 5.1.9.2.1: the field holds the pseudo-header's sum, the device adds the rest.
            frame[tcp.l4 + 16..tcp.l4 + 18].copy_from_slice(&tcp.pseudo.to_be_bytes());
            hdr.flags = HDR_NEEDS_CSUM;
            hdr.csum_start = tcp.l4 as u16;
            hdr.csum_offset = 16;
            if self.gso_size > 0 {
                hdr.gso_type = GSO_TCPV4;
                hdr.gso_size = self.gso_size;
                hdr.hdr_len = tcp.payload as u16;
            }
        }
        match self.net.send(self.pair, &hdr, frame) {
            Ok(_) => {
                self.stats.tx_frames += 1;
                self.stats.tx_bytes += len as u64;
                match tcp.map_or(0, |tcp| tcp.l4 + tcp.l4_len - tcp.payload) {
                    0 => self.stats.tx_bare += 1,
                    bytes if self.gso_size > 0 => {
                        let segments = bytes.div_ceil(self.gso_size.into());
                        self.stats.tx_segments += segments as u64;
                    }
                    _ => self.stats.tx_segments += 1,
                }
            }
            Err(fault) => *self.fault = Some(fault),
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.gso_size = meta.segmentation_offload_size.map_or(0, |size| size.get());
    }
}
