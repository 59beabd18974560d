//! A TCP/IP host on one virtio-net device: bulk senders and receivers.
//!
//! [`TcpGuest::poll`] does everything: takes received frames, runs TCP, fills the send ring while it
//! has room. It never reads a clock and never sleeps; equal inputs and seeds give equal frames. A
//! full send ring is back-pressure, not loss. TCP is smoltcp's, with each stream in a socket set of
//! its own: an arriving segment meets only its own socket, and senders take turns on a full ring.

mod config;
mod pattern;
mod phy;
mod stream;

use std::net::Ipv4Addr;

use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpCidr};

use crate::driver::DeviceFault;
use crate::net::NetDevice;
use phy::Phy;
use stream::{Role, Stream};

pub use config::{GuestConfig, GuestStats};
pub use stream::StreamStats;

/// What a poll left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestStep {
    /// When the guest next has to run though the device has nothing for it, in nanoseconds.
    pub next: Option<u64>,
    /// Whether the device asked to be told about what was put on its rings.
    pub kicked: bool,
}

/// Names one stream of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(usize);

/// A host with one interface.
#[derive(Debug)]
pub struct TcpGuest {
    config: GuestConfig,
    iface: Iface,
    phy: Phy,
    streams: Vec<Stream>,
    /// Frames that belong to no stream (ARP, echo, strangers) are processed with this set.
    nobody: SocketSet<'static>,
    /// What sends echo requests, once there is one.
    pinger: Option<SocketHandle>,
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
/// Echo requests that may wait for their turn.
const ECHOES: usize = 64;
/// Length of an echo request behind the IP header: what ping(8) sends.
const ECHO_BYTES: usize = 64;
/// Rounds of one poll when frames keep coming while it runs.
const MAX_ROUNDS: u32 = 8;
/// Time a stream that claims to be ready but sends nothing is left alone.
const RETRY_US: i64 = 1000;

impl TcpGuest {
    /// A host that owns `net`. Panics if the MAC or IP address is no unicast address.
    pub fn new(config: GuestConfig, net: NetDevice) -> TcpGuest {
        let mut phy = Phy::new(&config, net, RESERVE);
        let mac = HardwareAddress::Ethernet(EthernetAddress(config.mac));
        let mut iface_config = Config::new(mac);
        iface_config.random_seed = config.seed;
        let mut iface = Interface::new(iface_config, &mut phy, Instant::ZERO);
        iface.update_ip_addrs(|addrs| {
            // The list is empty and has room for two.
            let _ = addrs.push(IpCidr::new(config.ip.into(), config.prefix_len));
        });
        TcpGuest {
            config,
            iface: Iface(iface),
            phy,
            streams: Vec::new(),
            nobody: SocketSet::new(Vec::new()),
            pinger: None,
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

    /// Has a sender send no more than what is on its way already, and then close.
    pub fn finish(&mut self, id: StreamId) {
        self.streams[id.0].finish();
    }

    /// Sends an echo request to `ip` at the next poll. One that finds no room is lost.
    pub fn ping(&mut self, ip: Ipv4Addr, id: u16, seq: u16) {
        let handle = *self.pinger.get_or_insert_with(|| {
            let buffer = || {
                let slots = vec![icmp::PacketMetadata::EMPTY; ECHOES];
                icmp::PacketBuffer::new(slots, vec![0; ECHOES * ECHO_BYTES])
            };
            let mut socket = icmp::Socket::new(buffer(), buffer());
            // Fails only for a socket in use.
            let _ = socket.bind(icmp::Endpoint::Ident(id));
            self.nobody.add(socket)
        });
        let request = Icmpv4Repr::EchoRequest {
            ident: id,
            seq_no: seq,
            data: &[0; ECHO_BYTES - 8],
        };
        let socket = self.nobody.get_mut::<icmp::Socket>(handle);
        if let Ok(bytes) = socket.send(request.buffer_len(), ip.into()) {
            let mut packet = Icmpv4Packet::new_unchecked(bytes);
            request.emit(&mut packet, &ChecksumCapabilities::default());
        }
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
            self.egress(at)?;
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

    /// Echo requests, and then one segment a ready stream in turn, until none is ready or the ring is full.
    fn egress(&mut self, at: Instant) -> Result<(), DeviceFault> {
        if let Some(handle) = self.pinger {
            // Who pings looks at the frames, not at the guest: replies are not kept.
            while self.nobody.get_mut::<icmp::Socket>(handle).recv().is_ok() {}
            self.phy.select(0, false);
            self.iface
                .0
                .poll_egress(at, &mut self.phy, &mut self.nobody);
        }
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
            let bulk = stream.is_sender();
            self.phy.select(index, bulk);
            if bulk && !self.phy.has_room(RESERVE)? {
                idle += 1;
                continue;
            }
            stream.run_application();
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
        Ok(())
    }

    /// Counters of one stream.
    pub fn stream(&self, id: StreamId) -> StreamStats {
        self.streams[id.0].stats()
    }

    /// All streams in the order they were added.
    pub fn streams(&self) -> impl Iterator<Item = StreamStats> + '_ {
        self.streams.iter().map(Stream::stats)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cable::Cable;
    use crate::checksum::TcpFrame;
    use crate::net::{GSO_TCPV4, HDR_NEEDS_CSUM, NetConfig, NetHeader, Notify, feature};

    const GIGABIT_10: f64 = 0.8;

    fn guest(number: u8, config: GuestConfig, net: &NetConfig) -> TcpGuest {
        let net = NetConfig {
            notify: Notify::Polled,
            ..net.clone()
        };
        let device = NetDevice::detached(u64::MAX, &net).unwrap();
        let config = GuestConfig {
            mac: [2, 0, 0, 0, 0, number],
            ip: Ipv4Addr::new(10, 0, 0, number),
            seed: number.into(),
            ..config
        };
        TcpGuest::new(config, device)
    }

    fn cable(config: &GuestConfig, net: &NetConfig) -> Cable {
        let guests = [1, 2].map(|n| guest(n, config.clone(), net));
        Cable::new(guests, GIGABIT_10)
    }

    fn ip(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, number)
    }

    /// Payload length of a TCP frame with its virtio header.
    fn payload(frame: &[u8]) -> Option<usize> {
        TcpFrame::parse(&frame[12..]).map(|tcp| tcp.l4 + tcp.l4_len - tcp.payload)
    }

    #[test]
    fn a_stream_arrives_whole_and_closes() {
        for (features, csum) in [
            (NetConfig::PLAIN, false),
            (NetConfig::PLAIN | feature::RING_PACKED, false),
            (NetConfig::PLAIN | NetConfig::CHECKSUM, true),
            (feature::VERSION_1, false),
        ] {
            let config = GuestConfig {
                csum,
                ..GuestConfig::default()
            };
            let net = NetConfig {
                features,
                ..NetConfig::default()
            };
            let mut cable = cable(&config, &net);
            let tx = cable.guests[0].send_to(ip(2), 5001, Some(1_234_567));
            let rx = cable.guests[1].receive_on(5001);
            cable.run(1_000_000_000, &mut |_, _| true);
            assert_eq!(cable.guests[0].stream(tx).acked, 1_234_567);
            let got = cable.guests[1].stream(rx);
            assert_eq!((got.received, got.mismatches), (1_234_567, 0));
            assert!(!got.established);
        }
    }

    #[test]
    fn an_endless_stream_is_finished_whole() {
        let mut cable = cable(&GuestConfig::default(), &NetConfig::default());
        let tx = cable.guests[0].send_to(ip(2), 5001, None);
        let rx = cable.guests[1].receive_on(5001);
        cable.run(5_000_000, &mut |_, _| true);
        assert!(!cable.guests[0].stream(tx).done);
        cable.guests[0].finish(tx);
        cable.run(1_000_000_000, &mut |_, _| true);
        let (sent, got) = (cable.guests[0].stream(tx), cable.guests[1].stream(rx));
        assert!(sent.done && !sent.established && !got.established);
        assert_eq!((got.received, got.mismatches), (sent.acked, 0));
        assert!(sent.acked > 1_000_000);
    }

    #[test]
    fn echo_requests_are_answered() {
        let mut cable = cable(&GuestConfig::default(), &NetConfig::default());
        (0..3).for_each(|seq| cable.guests[0].ping(ip(2), 7, seq));
        let mut seen = [Vec::new(), Vec::new()];
        cable.run(10_000_000, &mut |side, frame| {
            // ICMP behind virtio, Ethernet and IPv4 headers: type, identifier, sequence number.
            if frame[12 + 12..12 + 14] == [8, 0] && frame[12 + 23] == 1 {
                let icmp = &frame[12 + 34..];
                seen[side].push((icmp[0], icmp[4..8].to_vec()));
            }
            true
        });
        for (side, kind) in [8, 0].into_iter().enumerate() {
            let want = [0, 1, 2].map(|seq| (kind, vec![0, 7, 0, seq]));
            assert_eq!(seen[side], want);
        }
    }

    #[test]
    fn one_acknowledgement_for_two_full_segments_at_line_rate() {
        let mut cable = cable(&GuestConfig::default(), &NetConfig::default());
        for port in 5001..5005 {
            cable.guests[0].send_to(ip(2), port, None);
            cable.guests[1].receive_on(port);
        }
        cable.run(20_000_000, &mut |_, _| true);
        assert!(cable.guests.iter().all(TcpGuest::established));
        let received =
            |guest: &TcpGuest| guest.streams().map(|stream| stream.received).sum::<u64>();
        let (before, start) = (received(&cable.guests[1]), cable.now);
        let (mut full, mut short, mut acks) = (0, 0, 0);
        cable.run(60_000_000, &mut |side, frame| {
            match payload(frame) {
                Some(1460) => full += 1,
                Some(0) => acks += 1,
                _ => short += 1,
            }
            assert_eq!(side == 0, payload(frame) != Some(0));
            true
        });
        let bytes = received(&cable.guests[1]) - before;
        let rate = bytes as f64 * 8.0 / (cable.now - start) as f64;
        assert!(rate > 9.48, "{rate} Gb/s of 10");
        assert!(short * 100 < full, "{short} short segments of {full}");
        let ratio = f64::from(full) / f64::from(acks);
        assert!((1.98..2.02).contains(&ratio), "{ratio} segments an ACK");
    }

    #[test]
    fn both_directions_saturate_and_share_fairly() {
        let mut cable = cable(&GuestConfig::default(), &NetConfig::default());
        for port in 5001..5005 {
            for side in 0..2 {
                cable.guests[side].send_to(ip(2 - side as u8), port, None);
                cable.guests[side].receive_on(port);
            }
        }
        cable.run(20_000_000, &mut |_, _| true);
        let (mut data, mut acks) = ([0; 2], [0; 2]);
        cable.run(60_000_000, &mut |side, frame| {
            match payload(frame) {
                Some(0) => acks[side] += 1,
                _ => data[side] += 1,
            }
            true
        });
        for side in 0..2 {
            let ratio = f64::from(data[side]) / f64::from(acks[1 - side]);
            assert!((1.95..2.05).contains(&ratio), "{ratio} segments an ACK");
            let got: Vec<_> = cable.guests[side]
                .streams()
                .filter(|s| !s.sender)
                .map(|s| s.received)
                .collect();
            let (min, max) = (got.iter().min().unwrap(), got.iter().max().unwrap());
            assert!(max - min < max / 4, "{got:?}");
            assert!(cable.guests[side].streams().all(|s| s.mismatches == 0));
        }
    }

    #[test]
    fn equal_inputs_give_equal_frames() {
        let trace = || {
            let mut cable = cable(&GuestConfig::default(), &NetConfig::default());
            cable.guests[0].send_to(ip(2), 7, Some(100_000));
            cable.guests[1].receive_on(7);
            let mut trace = Vec::new();
            cable.run(50_000_000, &mut |side, frame| {
                trace.push((side, frame.clone()));
                true
            });
            trace
        };
        let first = trace();
        assert!(first.len() > 70);
        assert_eq!(first, trace());
    }

    #[test]
    fn loss_is_repaired() {
        let mut cable = cable(&GuestConfig::default(), &NetConfig::default());
        cable.guests[0].send_to(ip(2), 7, Some(3_000_000));
        let rx = cable.guests[1].receive_on(7);
        let mut count = 0;
        cable.run(60_000_000_000, &mut |_, _| {
            count += 1;
            count % 101 != 0
        });
        let got = cable.guests[1].stream(rx);
        assert_eq!((got.received, got.mismatches), (3_000_000, 0));
    }

    #[test]
    fn corruption_without_offload_is_dropped_and_counted() {
        let mut cable = cable(&GuestConfig::default(), &NetConfig::default());
        cable.guests[0].send_to(ip(2), 7, Some(100_000));
        let rx = cable.guests[1].receive_on(7);
        let mut count = 0;
        cable.run(60_000_000_000, &mut |side, frame| {
            // A wire would complete the checksum and vouch for nothing.
            if let Some(tcp) = TcpFrame::parse(&frame[12..]) {
                assert_eq!(frame[0], HDR_NEEDS_CSUM);
                let seg = 12 + tcp.l4;
                let check = !crate::checksum::sum(&frame[seg..seg + tcp.l4_len]);
                frame[seg + 16..seg + 18].copy_from_slice(&check.to_be_bytes());
                frame[0] = 0;
                count += 1;
                if side == 0 && count % 40 == 0 {
                    *frame.last_mut().unwrap() ^= 1;
                }
            }
            true
        });
        let got = cable.guests[1].stream(rx);
        assert_eq!((got.received, got.mismatches), (100_000, 0));
        assert!(cable.guests[1].stats().rx_bad_checksum >= 1);
    }

    #[test]
    fn super_frames_carry_what_a_device_needs_to_cut_them() {
        let config = GuestConfig {
            tso: true,
            ..GuestConfig::default()
        };
        let packed = feature::RING_PACKED;
        for merge in [0, feature::MRG_RXBUF, feature::MRG_RXBUF | packed] {
            let net = NetConfig {
                features: (NetConfig::PLAIN & !feature::MRG_RXBUF)
                    | NetConfig::CHECKSUM
                    | NetConfig::TSO
                    | merge,
                ..NetConfig::default()
            };
            let mut cable = cable(&config, &net);
            cable.guests[0].send_to(ip(2), 7, Some(5_000_000));
            let rx = cable.guests[1].receive_on(7);
            let mut largest = 0;
            cable.run(1_000_000_000, &mut |_, frame| {
                let hdr = NetHeader::decode(frame[..12].try_into().unwrap());
                if payload(frame).is_some_and(|len| len > 1460) {
                    assert_eq!(hdr.gso_type, GSO_TCPV4);
                    assert_eq!((hdr.gso_size, hdr.hdr_len), (1460, 54));
                    assert_eq!((hdr.csum_start, hdr.csum_offset), (34, 16));
                } else {
                    assert_eq!(hdr.gso_type, 0);
                }
                largest = largest.max(frame.len());
                true
            });
            let got = cable.guests[1].stream(rx);
            assert_eq!((got.received, got.mismatches), (5_000_000, 0));
            assert!(largest > 30_000, "{largest}");
        }
    }

    #[test]
    fn a_full_ring_holds_senders_back_without_loss() {
        let net = NetConfig {
            queue_size: 32,
            ..NetConfig::default()
        };
        let mut guests = [1, 2].map(|n| guest(n, GuestConfig::default(), &net));
        guests[0].send_to(ip(2), 7, None);
        guests[1].receive_on(7);
        let mut cable = Cable::new(guests, GIGABIT_10);
        let mut most = 0;
        cable.run(30_000_000, &mut |side, _| {
            if side == 0 {
                most += 1;
            }
            true
        });
        let room = cable.guests[0].net().tx_room(0).unwrap();
        assert!((RESERVE..32).contains(&room), "{room}");
        assert!(most > 15_000, "{most}");
        assert_eq!(cable.guests[1].streams().next().unwrap().mismatches, 0);
    }
}
