//! A TCP/IP host on one virtio-net device: bulk senders and receivers.
//!
//! [`Guest::poll`] does everything: takes received frames, runs TCP, fills the send ring while it
//! has room. It never reads a clock and never sleeps; equal inputs and seeds give equal frames. A
//! full send ring is back-pressure, not loss. TCP is smoltcp's, with each stream in a socket set of
//! its own: an arriving segment meets only its own socket, and senders take turns on a full ring.

use std::net::Ipv4Addr;

use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::driver::DeviceFault;
use crate::net::NetDevice;
use crate::phy::Phy;
use crate::stream::{Role, Stream};

pub use crate::stream::StreamStats;

/// How a guest's host part is set up.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// Ethernet address; unicast.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: Ipv4Addr,
    /// Prefix length of the network that is reached directly.
    pub prefix_len: u8,
    /// IP MTU.
    pub mtu: u16,
    /// Send super-frames, if the device negotiated `HOST_TSO4`.
    pub tso: bool,
    /// Leave checksums to the device, if it negotiated `CSUM` and `GUEST_CSUM`.
    pub csum: bool,
    /// Bytes of receive window, and of send buffer, a stream.
    pub window: usize,
    /// Seed of sequence numbers.
    pub seed: u64,
    /// Cubic congestion control; off: the peer's window alone limits a sender.
    pub cubic: bool,
    /// Nagle's algorithm. For a bulk sender it costs nothing and keeps a congestion window that
    /// is no multiple of the segment size from being filled up with tiny segments.
    pub nagle: bool,
    /// How long a lone segment waits for its ACK, in microseconds. Every second full segment is
    /// acknowledged at once whatever this says.
    pub ack_delay_us: u64,
    /// Check every received byte against the stream's pattern.
    pub verify: bool,
}

impl Default for GuestConfig {
    fn default() -> GuestConfig {
        GuestConfig {
            mac: [0x02, 0, 0, 0, 0, 1],
            ip: Ipv4Addr::new(10, 0, 0, 1),
            prefix_len: 24,
            mtu: 1500,
            tso: false,
            csum: true,
            window: 256 * 1024,
            seed: 1,
            cubic: true,
            nagle: true,
            ack_delay_us: 10_000,
            verify: true,
        }
    }
}

/// What a poll left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestStep {
    /// When the guest next has to run though the device has nothing for it, in nanoseconds.
    pub next: Option<u64>,
    /// Whether the device asked to be told about what was put on its rings.
    pub kicked: bool,
}

/// Counters of a guest's network interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Frames put on send rings.
    pub tx_frames: u64,
    /// Bytes of those, without virtio headers.
    pub tx_bytes: u64,
    /// Frames of those without TCP payload, or not TCP.
    pub tx_bare: u64,
    /// Frames taken from receive rings.
    pub rx_frames: u64,
    /// Bytes of those, without virtio headers.
    pub rx_bytes: u64,
    /// Frames of those without TCP payload, or not TCP.
    pub rx_bare: u64,
    /// Received frames dropped for a wrong TCP checksum nobody had vouched for.
    pub rx_bad_checksum: u64,
}

/// Names one stream of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(usize);

/// A host with one interface.
#[derive(Debug)]
pub struct Guest {
    config: GuestConfig,
    iface: Iface,
    phy: Phy,
    streams: Vec<Stream>,
    /// Frames that belong to no stream (ARP, echo, strangers) are processed with this empty set.
    nobody: SocketSet<'static>,
    /// Where the next round of senders starts.
    turn: usize,
    fault: Option<DeviceFault>,
}

/// smoltcp's interface, which has no `Debug`.
struct Iface(Interface);

impl std::fmt::Debug for Iface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Interface({:?})", self.0.ip_addrs())
    }
}

/// Slots of a send ring that bulk data leaves free: an ACK or an ARP reply always finds room.
const RESERVE: u16 = 16;
/// Rounds of one poll when frames keep coming while it runs.
const MAX_ROUNDS: u32 = 8;
/// Time a stream that claims to be ready but sends nothing is left alone.
const RETRY_US: i64 = 1000;

impl Guest {
    /// A host that owns `net`. Panics if the MAC or IP address is no unicast address.
    pub fn new(config: GuestConfig, net: NetDevice) -> Guest {
        let mut phy = Phy::new(&config, net, RESERVE);
        let mac = HardwareAddress::Ethernet(EthernetAddress(config.mac));
        let mut iface_config = Config::new(mac);
        iface_config.random_seed = config.seed;
        let mut iface = Interface::new(iface_config, &mut phy, Instant::ZERO);
        iface.update_ip_addrs(|addrs| {
            // The list is empty and has room for two.
            let _ = addrs.push(IpCidr::new(config.ip.into(), config.prefix_len));
        });
        Guest {
            config,
            iface: Iface(iface),
            phy,
            streams: Vec::new(),
            nobody: SocketSet::new(Vec::new()),
            turn: 0,
            fault: None,
        }
    }

    /// Adds a stream that connects to `ip`:`port` and sends the pattern: `limit` bytes and then
    /// closes, or for ever.
    pub fn send_to(&mut self, ip: Ipv4Addr, port: u16, limit: Option<u64>) -> StreamId {
        let local = 49152 + (self.streams.len() % 16384) as u16;
        let role = Role::sender(ip, port, limit);
        let mut stream = Stream::new(&self.config, local, role);
        stream.connect(self.iface.0.context());
        self.push(stream)
    }

    /// Adds a stream that accepts one connection to `port` and drains it. Call it once for each
    /// connection to come.
    pub fn receive_on(&mut self, port: u16) -> StreamId {
        let mut stream = Stream::new(&self.config, port, Role::receiver());
        stream.listen();
        self.push(stream)
    }

    fn push(&mut self, stream: Stream) -> StreamId {
        self.streams.push(stream);
        StreamId(self.streams.len() - 1)
    }

    /// Runs the guest at `now`, nanoseconds since an epoch that is the caller's.
    pub fn poll(&mut self, now: u64) -> GuestStep {
        let at = Instant::from_micros((now / 1000) as i64);
        let mut step = GuestStep::default();
        if self.fault.is_some() {
            return step;
        }
        for stream in &mut self.streams {
            stream.wake_if_due(at);
        }
        match self.rounds(at) {
            Ok((kicked, again)) => {
                step.kicked = kicked;
                let due = self.streams.iter().filter_map(Stream::due);
                let due = due.min().map(|at| (at.total_micros() as u64) * 1000);
                step.next = if again { Some(now) } else { due };
            }
            Err(fault) => self.fault = Some(fault),
        }
        step
    }

    /// Receive and send until nothing is left to do; (notification wanted, frames keep coming).
    fn rounds(&mut self, at: Instant) -> Result<(bool, bool), DeviceFault> {
        let mut kicked = false;
        for _ in 0..MAX_ROUNDS {
            let stuck = self.ingress(at)?;
            self.egress(at);
            self.phy.check()?;
            kicked |= self.phy.net.kick();
            // A stream that is still ready has found the ring full: it runs when slots come back.
            let blocked = stuck || self.streams.iter().any(|s| s.ready);
            let more = self.phy.net.arm(blocked);
            if !more || (blocked && !self.phy.has_room(RESERVE)?) {
                return Ok((kicked, false));
            }
        }
        Ok((kicked, true))
    }

    /// Processes all received frames; true when it had to stop for want of send slots.
    fn ingress(&mut self, at: Instant) -> Result<bool, DeviceFault> {
        while self.phy.load()? {
            if !self.phy.has_room(0)? {
                return Ok(true);
            }
            let frame = self.phy.frame();
            let Some(index) = find_stream(&mut self.streams, frame) else {
                let arp = frame.get(12..14) == Some(&[8, 6]);
                self.ingress_single(at, None);
                if arp {
                    // Somebody may have waited for this neighbour.
                    self.streams.iter_mut().for_each(|s| s.ready = true);
                }
                continue;
            };
            self.ingress_single(at, Some(index));
            let stream = &mut self.streams[index];
            stream.run_application();
            stream.ready = true;
            self.phy.select(index, stream.is_sender());
            // At once, so that every second segment gets its own ACK.
            self.iface
                .0
                .poll_egress(at, &mut self.phy, &mut stream.sockets);
        }
        Ok(false)
    }

    fn ingress_single(&mut self, at: Instant, stream: Option<usize>) {
        let sockets = match stream {
            Some(index) => &mut self.streams[index].sockets,
            None => &mut self.nobody,
        };
        self.phy.select(stream.unwrap_or(0), false);
        let result = self.iface.0.poll_ingress_single(at, &mut self.phy, sockets);
        if result == PollIngressSingleResult::None {
            // Not even looked at: never look at it again.
            self.phy.discard();
        }
    }

    /// One segment a ready stream in turn, until none is ready or the ring is full.
    fn egress(&mut self, at: Instant) {
        let count = self.streams.len();
        let mut idle = 0;
        while idle < count {
            let index = self.turn;
            self.turn = (self.turn + 1) % count;
            let stream = &mut self.streams[index];
            if !stream.ready {
                idle += 1;
                continue;
            }
            stream.run_application();
            self.phy.select(index, stream.is_sender());
            let sent = self
                .iface
                .0
                .poll_egress(at, &mut self.phy, &mut stream.sockets);
            if sent == PollResult::SocketStateChanged {
                idle = 0;
                continue;
            }
            idle += 1;
            if !self.phy.was_full() {
                stream.ready = false;
                let due = self.iface.0.poll_at(at, &stream.sockets);
                stream.set_due(due.map(|due| {
                    if due > at {
                        due
                    } else {
                        Instant::from_micros(at.total_micros() + RETRY_US)
                    }
                }));
            }
        }
    }

    /// Counters of one stream.
    pub fn stream(&self, id: StreamId) -> StreamStats {
        self.streams[id.0].stats()
    }

    /// All streams in the order they were added.
    pub fn streams(&self) -> impl Iterator<Item = StreamStats> + '_ {
        self.streams.iter().map(Stream::stats)
    }

    /// Payload bytes received in order, all streams together.
    pub fn bytes_received(&self) -> u64 {
        self.streams().map(|s| s.received).sum()
    }

    /// Payload bytes sent and acknowledged, all streams together.
    pub fn bytes_acked(&self) -> u64 {
        self.streams().map(|s| s.acked).sum()
    }

    /// Whether every stream is connected.
    pub fn established(&self) -> bool {
        self.streams().all(|s| s.established)
    }

    /// Frame counters.
    pub fn stats(&self) -> GuestStats {
        self.phy.stats
    }

    /// What the device did wrong, if it did: the guest stands still since then.
    pub fn fault(&self) -> Option<DeviceFault> {
        self.fault
    }

    /// The device.
    pub fn net(&mut self) -> &mut NetDevice {
        &mut self.phy.net
    }
}

/// The stream a TCP/IPv4 frame belongs to: the one with its four addresses, else a listener.
fn find_stream(streams: &mut [Stream], frame: &[u8]) -> Option<usize> {
    let ip = frame.get(14..)?;
    let ihl = usize::from(ip.first()? & 0xf) * 4;
    if frame[12..14] != [8, 0] || *ip.get(9)? != 6 {
        return None;
    }
    let ports = ip.get(ihl..ihl + 4)?;
    let peer = (
        Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]),
        u16::from_be_bytes([ports[0], ports[1]]),
    );
    let port = u16::from_be_bytes([ports[2], ports[3]]);
    let known = |s: &Stream| s.local_port == port && s.peer() == Some(peer);
    let index = streams
        .iter()
        .position(known)
        .or_else(|| streams.iter().position(|s| s.is_listening_on(port)))?;
    streams[index].meet(peer);
    Some(index)
}
