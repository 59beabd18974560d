//! A VXLAN tunnel to other hosts as the uplink (RFC 7348): each frame travels in a UDP datagram, to the host behind which its receiver
//! has been heard, else to all. The hosts are listed, and nobody else is listened to; a frame of one is never passed on to another.
//! Needs no privileges. Never cuts a datagram into pieces: a frame that is too long for the way there is dropped.

mod header;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::sys::socket::sockopt::RxqOvfl;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt};
use rustix::io::Errno;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, ip_mtu, ipv6_mtu, set_ip_mtu_discover,
    set_ipv6_mtu_discover, set_ipv6_v6only,
};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmsg_addr,
};
use std::sync::Arc;
use vf_model::{Counter, DropReason, Link, LinkConfig, MacAddr, Nanos};
use vf_packet::Segmenter;
use vf_vhost::udp_socket::accept_without_checksum;

use self::header::{Vni, unwrap, wrap};
use super::plain::finish;
use super::transmitter::PacedLink;
use super::{
    ARRIVAL, Arrivals, HandOver, Kind, Lost, OpenError, Opened, Statistic, TxFrame, TxRoom, Uplink,
};
use crate::queue::{Frame, Pool};

/// The port of VXLAN (RFC 7348 5).
const PORT: u16 = 4789;
/// How long it is remembered behind which host a station is, as on Linux (ageing of vxlan, 300 s).
const AGEING: Nanos = Nanos(300_000_000_000);
/// Stations that are remembered at a time.
const STATIONS: usize = 8192;
/// How many times as many as are still free may be behind one host: who sends from ever new addresses leaves a ninth of all to the others.
const SHARE: usize = 8;
/// How often those that have aged are looked for, if there is no room for more: to look at all of them takes as long as many frames.
const AGE_EVERY: Nanos = Nanos(1_000_000_000);
/// Hosts at the other ends.
const MOST_REMOTES: usize = 64;
/// Datagrams that are sent in a round: the segments of a super-frame to all hosts may be many thousands, of a few microseconds each.
const AT_ONCE: usize = 256;
/// Bytes around a packet in the tunnel: IP, UDP and VXLAN header, and its own Ethernet header.
const AROUND_V4: u32 = 20 + 8 + 8 + 14;
const AROUND_V6: u32 = 40 + 8 + 8 + 14;
/// The longest datagram.
const LONGEST: usize = 65_535;
/// What the words are.
const FORM: &str =
    "id VNI remote ADDR[:PORT] [remote ...] [local ADDR] [dstport PORT] [nolearning]";

/// `vxlan id VNI remote ADDR ...`.
pub(super) const KIND: Kind = Kind {
    word: "vxlan",
    operand: "id VNI remote ADDR ...",
    of_this_machine: true,
    is_host_device: false,
    check: |words| Settings::parse(words).map(drop),
    open: |words, config, slack| opened(words, Vxlan::open(words, config, slack)),
    // Behind which host a station is, is learned again.
    hand_over: HandOver::Descriptor(|words, fd, config, slack| {
        opened(words, Vxlan::of(words, fd.into(), config, slack))
    }),
};

fn opened(words: &str, vxlan: io::Result<Vxlan>) -> Opened {
    match vxlan {
        Ok(vxlan) => Ok(Box::new(vxlan)),
        Err(source) => Err(OpenError {
            uplink: format!("vxlan {words}"),
            source,
            help: "local is an address of this host, and dstport a UDP port that nobody else has there; a kernel's vxlan device takes 4789, too".to_owned(),
        }),
    }
}

/// `fe80::1%eth0` as `fe80::1%2` (RFC 4007 11.2), with a port or without; none of an address without the name of a device.
///
/// # Errors
/// What is wrong with the name, in one line.
fn with_zone_by_number(remote: &str) -> Result<Option<String>, String> {
    let Some((address, rest)) = remote.split_once('%') else {
        return Ok(None);
    };
    let (name, port) = rest.split_at(rest.find(']').unwrap_or(rest.len()));
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None);
    let index = socket.and_then(|socket| rustix::net::netdevice::name_to_index(socket, name));
    let index =
        index.map_err(|error| format!("remote '{}': {name}: {error}", remote.escape_debug()))?;
    Ok(Some(format!("{address}%{index}{port}")))
}

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    vni: Vni,
    local: IpAddr,
    port: u16,
    remotes: Vec<SocketAddr>,
    learning: bool,
}

impl Settings {
    /// Reads the words of ip-link(8)'s vxlan, as far as they are known here.
    fn parse(text: &str) -> Result<Settings, String> {
        let (mut vni, mut local, mut port) = (None, None::<IpAddr>, PORT);
        let (mut remotes, mut learning) = (Vec::new(), true);
        let mut words = text.split_whitespace();
        let mut said = Vec::new();
        while let Some(word) = words.next() {
            let what = match word {
                "vni" => "id",
                "nolearning" => "learning",
                _ => word,
            };
            if what != "remote" && said.contains(&what) {
                return Err(format!("'{}': it is said twice", word.escape_debug()));
            }
            said.push(what);
            if what == "learning" {
                learning = word == "learning";
                continue;
            }
            let value = words.next().unwrap_or_default();
            let wrong = |wants: &str| format!("{word} '{}': {wants}", value.escape_debug());
            match word {
                "id" | "vni" => {
                    let id = value.parse().ok().and_then(Vni::new);
                    vni = Some(id.ok_or_else(|| wrong("a VNI, 0 to 16777215"))?);
                }
                "local" => {
                    local = Some(
                        value
                            .parse()
                            .map_err(|_| wrong("an IP address of this host"))?,
                    )
                }
                "dstport" => {
                    let value = value.parse().ok().filter(|port| *port != 0);
                    port = value.ok_or_else(|| wrong("a UDP port, 1 to 65535"))?;
                }
                "remote" => remotes.push(value.to_owned()),
                _ => return Err(format!("'{}': it is {FORM}", word.escape_debug())),
            }
        }
        let vni = vni.ok_or_else(|| format!("no VNI: it is {FORM}"))?;
        let wrong = |remote: &str| {
            format!(
                "remote '{}': the IP address of another host, with its port behind it if that is not dstport",
                remote.escape_debug()
            )
        };
        let remotes = remotes.iter().map(|remote| {
            let by_number = match with_zone_by_number(remote)? {
                Some(by_number) => by_number,
                None => remote.clone(),
            };
            let address = by_number.parse().map(|ip| SocketAddr::new(ip, port));
            let address = address.or_else(|_| by_number.parse::<SocketAddr>());
            // One with a zone is read with a port only.
            let address = address.or_else(|_| format!("[{by_number}]:{port}").parse());
            let address = address.ok().filter(is_of_a_host);
            address.ok_or_else(|| wrong(remote))
        });
        let remotes = remotes.collect::<Result<Vec<SocketAddr>, _>>()?;
        let twice = |(n, remote): (usize, _)| remotes.iter().take(n).any(|other| other == remote);
        if let Some(n) = remotes.iter().enumerate().position(twice) {
            return Err(format!("remote {}: it is said twice", remotes[n]));
        }
        let Some(first) = remotes.first() else {
            return Err(format!("no remote host: it is {FORM}"));
        };
        if remotes.len() > MOST_REMOTES {
            return Err(format!("{} remotes: {MOST_REMOTES} at most", remotes.len()));
        }
        let v6 = first.is_ipv6();
        let local = local.unwrap_or(match v6 {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        });
        if remotes.iter().any(|remote| remote.is_ipv6() != v6) || local.is_ipv6() != v6 {
            return Err("remote and local: all of them IPv4, or all IPv6".to_owned());
        }
        Ok(Settings {
            vni,
            local,
            port,
            remotes,
            learning,
        })
    }
}

impl Settings {
    /// The longest packet that passes on the way to every one of the remotes, as far as this host knows it (as Linux's own device has it, which takes
    /// so much less than the device below it).
    fn mtu(&self) -> Option<u16> {
        let ways = self.remotes.iter().filter_map(|remote| {
            let way = UdpSocket::bind((self.local, 0)).ok()?;
            way.connect(remote).ok()?;
            let (mtu, headers) = match remote {
                SocketAddr::V4(_) => (ip_mtu(&way).ok()?, AROUND_V4),
                SocketAddr::V6(_) => (ipv6_mtu(&way).ok()?, AROUND_V6),
            };
            Some(mtu.saturating_sub(headers))
        });
        ways.min().map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
    }
}

/// Whether a datagram can come from there: from no group (RFC 7348 4.2 has hosts find each other by one, which is not done here), from no port 0.
fn is_of_a_host(address: &SocketAddr) -> bool {
    let ip = address.ip();
    let is_broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(ip.is_unspecified() || ip.is_multicast() || is_broadcast || address.port() == 0)
}

/// What is not taken of what comes, or does not go out.
#[derive(Default)]
struct Counters {
    /// Copies of frames that went to other hosts.
    unsent: Arc<Counter>,
    /// From a host that is none of those listed.
    strangers: Arc<Counter>,
    /// No VXLAN header in front, or no VNI in it.
    bad_header: Arc<Counter>,
    /// Of another network.
    other_vni: Arc<Counter>,
    /// For which the socket had no room.
    missed: Arc<Counter>,
}

/// Behind which of the hosts a station is, and when it was heard there.
struct Stations {
    heard: HashMap<MacAddr, (usize, Nanos)>,
    /// How many of them are behind each host.
    behind: [usize; MOST_REMOTES],
    /// When those that have aged were last looked for.
    aged_at: Option<Nanos>,
}

impl Default for Stations {
    fn default() -> Stations {
        Stations {
            heard: HashMap::new(),
            behind: [0; MOST_REMOTES],
            aged_at: None,
        }
    }
}

impl Stations {
    /// Remembers behind which host a station is, if there is room for one more there.
    fn learn(&mut self, now: Nanos, station: MacAddr, host: usize) {
        if let Some(known) = self.heard.get_mut(&station) {
            let (before, _) = std::mem::replace(known, (host, now));
            if before != host {
                self.count(before, |n| n.saturating_sub(1));
                self.count(host, |n| n + 1);
            }
            return;
        }
        let since = |at: Nanos| now.saturating_sub(at);
        if !self.has_room(host) && self.aged_at.is_none_or(|at| since(at) >= AGE_EVERY) {
            self.heard.retain(|_, (_, at)| since(*at) < AGEING);
            self.behind = [0; MOST_REMOTES];
            for (host, _) in self.heard.values() {
                if let Some(behind) = self.behind.get_mut(*host) {
                    *behind += 1;
                }
            }
            self.aged_at = Some(now);
        }
        if self.has_room(host) {
            self.count(host, |n| n + 1);
            self.heard.insert(station, (host, now));
        }
    }

    fn has_room(&self, host: usize) -> bool {
        let free = STATIONS.saturating_sub(self.heard.len());
        let behind = self.behind.get(host);
        behind.is_some_and(|behind| *behind < SHARE * free)
    }

    fn count(&mut self, host: usize, change: impl FnOnce(usize) -> usize) {
        if let Some(behind) = self.behind.get_mut(host) {
            *behind = change(*behind);
        }
    }

    /// Behind which host a station is, if that has been heard lately.
    fn host(&self, now: Nanos, station: MacAddr) -> Option<usize> {
        let (host, at) = self.heard.get(&station)?;
        (now.saturating_sub(*at) < AGEING).then_some(*host)
    }
}

/// An open tunnel.
struct Vxlan {
    words: String,
    settings: Settings,
    socket: UdpSocket,
    stations: Stations,
    paced: PacedLink,
    scratch: Vec<u8>,
    /// Room for what the kernel says of a datagram.
    control: Vec<u8>,
    /// How many had found no room when the last one came; `None` where another process has counted them.
    dropped: Option<u32>,
    counters: Counters,
    mtu: Option<u16>,
    /// What has been taken and is not sent yet, and how many segments of the first are.
    rest: VecDeque<Frame>,
    sent: u32,
    /// Why the first of those was sent to nobody that were not: one drop for all of a frame.
    failed: Option<DropReason>,
}

impl Vxlan {
    fn open(words: &str, config: LinkConfig, slack: Nanos) -> io::Result<Vxlan> {
        let settings = Settings::parse(words).map_err(io::Error::other)?;
        let family = match settings.local {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        // RFC 7348 4.3: VTEPs must not fragment.
        match settings.local {
            IpAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?,
            IpAddr::V6(_) => {
                set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?;
                // The port of IPv4 is another tunnel's.
                set_ipv6_v6only(&socket, true)?;
                accept_without_checksum(&socket)?;
            }
        }
        let local = SocketAddr::new(settings.local, settings.port);
        rustix::net::bind(&socket, &local)?;
        // As much as bursts need, if the system allows it; the first takes a privilege.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4 << 20));
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, 4 << 20);
        setsockopt(&socket, RxqOvfl, &1)?;
        let mut vxlan = Vxlan::of(words, socket.into(), config, slack)?;
        vxlan.dropped = Some(0);
        Ok(vxlan)
    }

    /// A tunnel by its socket, which is as it is to be.
    fn of(words: &str, socket: UdpSocket, config: LinkConfig, slack: Nanos) -> io::Result<Vxlan> {
        let settings = Settings::parse(words).map_err(io::Error::other)?;
        Ok(Vxlan {
            words: words.to_owned(),
            mtu: settings.mtu(),
            settings,
            control: nix::cmsg_space!(u32),
            dropped: None,
            socket,
            stations: Stations::default(),
            paced: PacedLink::new(config, slack),
            scratch: vec![0; LONGEST],
            counters: Counters::default(),
            rest: VecDeque::new(),
            sent: 0,
            failed: None,
        })
    }

    /// The hosts that are to have a frame that begins so: one, if it is known behind which its receiver is.
    fn remotes(&self, now: Nanos, head: &[u8]) -> &[SocketAddr] {
        let remotes = &self.settings.remotes;
        let host = self.stations.host(now, MacAddr::of_frame(head));
        let one = host.and_then(|host| remotes.get(host..=host));
        one.unwrap_or(remotes)
    }

    /// Goes on with what has been taken, as far as a round may.
    fn go_on(&mut self, now: Nanos, pool: &Pool, lost: &mut Lost<'_>) {
        let mut left = AT_ONCE;
        while left > 0
            && let Some(mut frame) = self.rest.pop_front()
        {
            if !self.send_frame(now, &mut frame, &mut left) {
                self.rest.push_front(frame);
                return;
            }
            self.sent = 0;
            if let Some(why) = self.failed.take() {
                lost(why, &frame);
            }
            pool.give(frame);
        }
    }

    /// Sends a frame, or what is left of a super-frame, as long as datagrams are left; whether it is sent.
    fn send_frame(&mut self, now: Nanos, frame: &mut Frame, left: &mut usize) -> bool {
        let datagrams = self.remotes(now, &frame.data).len();
        let gso = frame.offload.gso();
        let Some(mut cutter) = gso.and_then(|gso| Segmenter::new(&frame.data, gso.size)) else {
            self.failed = match finish(frame) {
                true => self.send(now, &frame.data, &[]).err(),
                false => Some(DropReason::BadHeader),
            };
            *left = left.saturating_sub(datagrams);
            return true;
        };
        cutter.skip(self.sent);
        while let Some((header, payload)) = cutter.next_segment() {
            if *left == 0 {
                return false;
            }
            if let Err(why) = self.send(now, header, payload) {
                self.failed.get_or_insert(why);
            }
            self.sent += 1;
            *left = left.saturating_sub(datagrams);
        }
        true
    }

    /// Sends a frame that is as it is on a wire, in two parts; why not, if it cannot be sent to anybody.
    fn send(&self, now: Nanos, head: &[u8], rest: &[u8]) -> Result<(), DropReason> {
        let header = wrap(self.settings.vni);
        let parts = [&header[..], head, rest].map(IoSlice::new);
        let (mut copies, mut unsent) = (0, 0);
        let mut done = Ok(());
        for remote in self.remotes(now, head) {
            let mut control = SendAncillaryBuffer::default();
            let flags = SendFlags::DONTWAIT;
            let why = match sendmsg_addr(&self.socket, remote, &parts, &mut control, flags) {
                Ok(_) => {
                    copies += 1;
                    continue;
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => DropReason::WireQueueFull,
                Err(Errno::MSGSIZE) => DropReason::MtuExceeded,
                // No way there, or its host has said that nobody listens.
                Err(_) => DropReason::NoCarrier,
            };
            unsent += 1;
            done = Err(why);
        }
        if copies == 0 {
            return done;
        }
        self.counters.unsent.add(unsent);
        Ok(())
    }

    /// The next datagram, whose bytes are in `scratch`, without waiting: how many, and from where. Counts those that have found no room before it.
    fn receive(&mut self) -> nix::Result<(usize, SocketAddr)> {
        let fd = self.socket.as_raw_fd();
        let mut parts = [IoSliceMut::new(&mut self.scratch)];
        let control = Some(self.control.as_mut_slice());
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(fd, &mut parts, control, flags)?;
        let dropped = message.cmsgs()?.find_map(|said| match said {
            ControlMessageOwned::RxqOvfl(dropped) => Some(dropped),
            _ => None,
        });
        let from = message.address.ok_or(nix::Error::EAFNOSUPPORT)?;
        let v4 = from.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
        let v6 = from.as_sockaddr_in6();
        let from = v4.or_else(|| v6.map(|v6| SocketAddr::V6((*v6).into())));
        let (len, from) = (message.bytes, from.ok_or(nix::Error::EAFNOSUPPORT)?);
        if let Some(now) = dropped {
            let before = self.dropped.replace(now).unwrap_or(now);
            self.counters.missed.add(now.wrapping_sub(before).into());
        }
        Ok((len, from))
    }

    /// What a datagram brings: the frame's bytes, or why it is not taken.
    fn take(&mut self, now: Nanos, from: SocketAddr, len: usize) -> Option<&[u8]> {
        // Others may send from any port: it is meant to differ from flow to flow (RFC 7348 5). Of several at one address it is the one whose
        // port it is, as vfnic's is; else it may be any, so nothing is learned.
        let is_it = |remote: &SocketAddr| remote.ip() == from.ip() && remote.port() == from.port();
        let remotes = &self.settings.remotes;
        let at_address = remotes.iter().filter(|remote| remote.ip() == from.ip());
        let host = match (remotes.iter().position(is_it), at_address.count()) {
            (Some(host), _) => Some(Some(host)),
            (None, 0) => None,
            (None, 1) => Some(remotes.iter().position(|remote| remote.ip() == from.ip())),
            (None, _) => Some(None),
        };
        let Some(host) = host else {
            self.counters.strangers.add(1);
            return None;
        };
        let data = self.scratch.get(..len)?;
        let Some((vni, frame)) = unwrap(data) else {
            self.counters.bad_header.add(1);
            return None;
        };
        if vni != self.settings.vni {
            self.counters.other_vni.add(1);
            return None;
        }
        let source = frame.get(6..12).and_then(|mac| mac.try_into().ok());
        let source = source.map(MacAddr).filter(|mac| !mac.is_multicast());
        let source = source.filter(|_| self.settings.learning);
        if let Some((source, host)) = source.zip(host) {
            self.stations.learn(now, source, host);
        }
        Some(frame)
    }
}

impl Uplink for Vxlan {
    fn tx_room(&mut self, now: Nanos, pool: &Pool, lost: &mut Lost<'_>) -> TxRoom {
        self.go_on(now, pool, lost);
        if self.is_sending() {
            return TxRoom::default();
        }
        self.paced.room(now)
    }

    fn tx_room_at(&mut self) -> Option<Nanos> {
        Some(self.paced.room_at())
    }

    fn tx_burst(
        &mut self,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        lost: &mut Lost<'_>,
    ) {
        for TxFrame { frame, on_wire } in frames.drain(..) {
            self.paced.link.put(now, on_wire);
            self.rest.push_back(frame);
        }
        self.go_on(now, pool, lost);
    }

    fn cuts(&self) -> bool {
        true
    }

    fn is_sending(&self) -> bool {
        !self.rest.is_empty()
    }

    fn rx_burst(&mut self, now: Nanos, limit: usize, pool: &Pool, arrivals: &mut Arrivals) {
        for _ in 0..limit {
            let (len, from) = match self.receive() {
                Ok(datagram) => datagram,
                // What ICMP has said of something that was sent is told once.
                Err(nix::Error::ECONNREFUSED) => continue,
                Err(_) => return,
            };
            let taken = self.take(now, from, len);
            let data = taken.unwrap_or_default();
            let mut frame = pool.take(data.len());
            frame.offload = Default::default();
            frame.data.clear();
            frame.data.extend_from_slice(data);
            match frame.data.is_empty() {
                true => arrivals.dropped.push((DropReason::NotOfTunnel, frame)),
                false => arrivals.frames.push(frame),
            }
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn next(&mut self) -> Option<Nanos> {
        None
    }

    fn register(&self, registry: &Registry) {
        let fd = self.socket.as_raw_fd();
        if let Err(error) = registry.register(&mut SourceFd(&fd), ARRIVAL, Interest::READABLE) {
            tracing::warn!(%error, "cannot wait for the tunnel's datagrams");
        }
    }

    fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    fn link(&self) -> &Link {
        &self.paced.link
    }

    fn link_mut(&mut self) -> &mut Link {
        &mut self.paced.link
    }

    fn statistics(&self) -> Vec<Statistic> {
        let Counters {
            strangers,
            bad_header,
            other_vni,
            unsent,
            missed,
        } = &self.counters;
        let all = [
            ("vxlan_strangers", strangers),
            ("vxlan_bad_header", bad_header),
            ("vxlan_other_vni", other_vni),
            ("vxlan_unsent", unsent),
            ("rx_missed", missed),
        ];
        all.map(|(name, counter)| (name, Arc::clone(counter)))
            .into()
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vxlan {}", self.words)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use vf_model::{FrameMeta, OnWire};
    use vf_vhost::frame::FrameBuf;

    use super::*;

    #[test]
    fn words_are_those_of_ip_link() {
        let said = Settings::parse(
            "id 42 remote 10.0.0.2 remote 10.0.0.3:5000 local 10.0.0.1 nolearning dstport 8472",
        )
        .unwrap();
        let want = Settings {
            vni: Vni::new(42).unwrap(),
            local: "10.0.0.1".parse().unwrap(),
            port: 8472,
            remotes: vec![
                "10.0.0.2:8472".parse().unwrap(),
                "10.0.0.3:5000".parse().unwrap(),
            ],
            learning: false,
        };
        assert_eq!(said, want);
        let said = Settings::parse("id 1 remote 2001:db8::1").unwrap();
        assert_eq!(said.remotes, ["[2001:db8::1]:4789".parse().unwrap()]);
        assert_eq!(said.local, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        // lo is 1 in each namespace.
        for words in ["fe80::1%lo", "fe80::1%1", "[fe80::1%lo]:4789"] {
            let said = Settings::parse(&format!("id 1 remote {words}")).unwrap();
            let want = SocketAddrV6::new("fe80::1".parse().unwrap(), PORT, 0, 1);
            assert_eq!(said.remotes, [want.into()], "{words}");
        }
        for (wrong, says) in [
            ("", "no VNI"),
            ("id 42", "no remote host"),
            ("id 16777216 remote 10.0.0.2", "id '16777216': a VNI"),
            ("id 42 remote host", "remote 'host': the IP address"),
            (
                "id 42 remote 239.1.1.1",
                "remote '239.1.1.1': the IP address",
            ),
            (
                "id 42 remote fe80::1%nowhere0",
                "remote 'fe80::1%nowhere0': nowhere0: No such device",
            ),
            ("id 42 remote 10.0.0.2%lo", "the IP address"),
            ("id 42 remote ff02::1", "remote 'ff02::1': the IP address"),
            ("id 42 remote 0.0.0.0", "the IP address of another host"),
            ("id 42 remote 255.255.255.255", "the IP address"),
            ("id 42 remote 10.0.0.2:0", "the IP address"),
            ("id 42 dstport 0 remote 10.0.0.2", "dstport '0': a UDP port"),
            (
                "id 42 remote 10.0.0.2 remote 10.0.0.2:4789",
                "remote 10.0.0.2:4789: it is said twice",
            ),
            ("id 1 vni 2 remote 10.0.0.2", "'vni': it is said twice"),
            (
                "id 1 remote 10.0.0.2 learning nolearning",
                "'nolearning': it is said twice",
            ),
            ("id 42 remote 10.0.0.2 remote ::1", "all of them IPv4"),
            ("id 42 remote 10.0.0.2 local ::1", "all of them IPv4"),
            ("id 42 group 239.1.1.1", "'group': it is id VNI"),
            (
                "id 42 remote 10.0.0.2 dstport 99999",
                "dstport '99999': a UDP port",
            ),
        ] {
            let said = Settings::parse(wrong).unwrap_err();
            assert!(said.contains(says), "{wrong}: {said}");
        }
    }

    /// Ends of a tunnel between hosts that are this one, each at an address of its own.
    fn ends(addresses: &[&str]) -> Vec<Vxlan> {
        // A port that nobody has.
        let free = UdpSocket::bind((addresses[0], 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let end = |local: &&str| {
            let others = addresses.iter().filter(|other| *other != local);
            let remotes: Vec<_> = others.map(|other| format!("remote {other}")).collect();
            let words = format!("id 42 local {local} dstport {port} {}", remotes.join(" "));
            Vxlan::open(&words, LinkConfig::default(), Nanos(0)).unwrap()
        };
        addresses.iter().map(end).collect()
    }

    /// Ports that nobody has, at the loopback address.
    fn free_ports<const N: usize>() -> [u16; N] {
        let sockets = [(); N].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        sockets.map(|socket| socket.local_addr().unwrap().port())
    }

    fn open(words: &str) -> Vxlan {
        Vxlan::open(words, LinkConfig::default(), Nanos(0)).unwrap()
    }

    #[test]
    fn hosts_at_one_address_are_told_apart_by_their_ports() {
        let ports: [u16; 3] = free_ports();
        let mut ends = ports.map(|own| {
            let others = ports.iter().filter(|port| **port != own);
            let remotes: Vec<_> = others
                .map(|port| format!("remote 127.0.0.1:{port}"))
                .collect();
            open(&format!("id 42 dstport {own} {}", remotes.join(" ")))
        });
        send(&mut ends[2], frame(1, 9, 60));
        assert_eq!(got(&mut ends[0]), (vec![9], 0));
        let third: SocketAddr = format!("127.0.0.1:{}", ports[2]).parse().unwrap();
        assert_eq!(ends[0].remotes(Nanos(1), &frame(9, 1, 60).data), [third]);
        // From a port that is nobody's it may be any of them.
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let whole = [&wrap(Vni::new(42).unwrap())[..], &frame(1, 8, 60).data].concat();
        other.send_to(&whole, ("127.0.0.1", ports[0])).unwrap();
        assert_eq!(got(&mut ends[0]), (vec![8], 0));
        assert_eq!(ends[0].remotes(Nanos(1), &frame(8, 1, 60).data).len(), 2);
    }

    #[test]
    fn a_tunnel_over_ipv6_leaves_the_port_of_ipv4_to_another() {
        if let Err(why) = UdpSocket::bind("[::1]:0") {
            eprintln!("skipped: a tunnel over IPv6, because there is none here: {why}");
            return;
        }
        let [port] = free_ports();
        let v4 = open(&format!("id 43 dstport {port} remote 10.9.0.2"));
        let v6 = open(&format!("id 42 dstport {port} remote fd00::2"));
        assert!(v4.settings.local.is_ipv4() && v6.settings.local.is_ipv6());
    }

    #[test]
    fn a_frame_is_sent_if_one_of_several_hosts_can_be_reached() {
        let mut both = ends(&["127.0.0.1", "127.0.0.2"]);
        let remote = both[0].settings.remotes[0];
        // From an address of this host there is no way to another one's.
        both[0]
            .settings
            .remotes
            .push("203.0.113.1:4789".parse().unwrap());
        assert_eq!(send(&mut both[0], frame(9, 1, 60)), []);
        assert_eq!(got(&mut both[1]), (vec![1], 0));
        assert_eq!(both[0].counters.unsent.get(), 1);
        both[0].settings.remotes.retain(|other| *other != remote);
        assert_eq!(send(&mut both[0], frame(9, 1, 60)), [DropReason::NoCarrier]);
        assert_eq!(both[0].counters.unsent.get(), 1);
    }

    fn frame(to: u8, from: u8, len: usize) -> Frame {
        let mut data = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5];
        data.resize(len, 7);
        Box::new(FrameBuf {
            data,
            ..FrameBuf::default()
        })
    }

    fn send(end: &mut Vxlan, frame: Frame) -> Vec<DropReason> {
        let meta = FrameMeta {
            len: frame.len(),
            gso: None,
        };
        let on_wire = OnWire::of(&meta);
        let mut lost = Vec::new();
        let mut frames = vec![TxFrame { frame, on_wire }];
        end.tx_burst(Nanos(0), &mut frames, &Pool::new(4), &mut |why, _| {
            lost.push(why)
        });
        lost
    }

    /// What has come: the senders of frames, and how many are dropped. UDP within a host is there when it has been sent.
    fn got(end: &mut Vxlan) -> (Vec<u8>, usize) {
        let mut arrivals = Arrivals::default();
        end.rx_burst(Nanos(1), 64, &Pool::new(4), &mut arrivals);
        let senders = arrivals.frames.iter().map(|frame| frame.data[11]);
        (senders.collect(), arrivals.dropped.len())
    }

    #[test]
    fn a_frame_goes_to_all_hosts_until_its_receiver_has_been_heard() {
        let mut ends = ends(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
        assert_eq!(send(&mut ends[0], frame(9, 1, 60)), []);
        assert_eq!(
            [1, 2].map(|n| got(&mut ends[n])),
            [(vec![1], 0), (vec![1], 0)]
        );
        // The answer goes where the question came from, and from then on the next question, too.
        send(&mut ends[2], frame(1, 9, 60));
        assert_eq!(
            [0, 1].map(|n| got(&mut ends[n])),
            [(vec![9], 0), (vec![], 0)]
        );
        send(&mut ends[0], frame(9, 1, 1000));
        assert_eq!(
            [1, 2].map(|n| got(&mut ends[n])),
            [(vec![], 0), (vec![1], 0)]
        );
        // Until it is forgotten.
        let sent = frame(9, 1, 60);
        assert_eq!(ends[0].remotes(AGEING, &sent.data).len(), 1);
        assert_eq!(ends[0].remotes(AGEING + Nanos(2), &sent.data).len(), 2);
    }

    /// Each datagram takes a few microseconds, and others have their turn in between.
    #[test]
    fn a_super_frame_of_many_segments_is_sent_in_several_rounds() {
        let mut ends = ends(&["127.0.0.1", "127.0.0.2"]);
        let pool = Pool::new(4);
        let mut frames = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..2 {
            let (frame, on_wire, segments) = super_frame(10, 2000);
            frames.push(TxFrame { frame, on_wire });
            sent.extend(segments);
        }
        let lost: &mut Lost<'_> = &mut |why, _| panic!("{why}");
        ends[0].tx_burst(Nanos(0), &mut frames, &pool, lost);
        let mut came = Vec::new();
        let mut rounds = 0;
        loop {
            let mut arrivals = Arrivals::default();
            ends[1].rx_burst(Nanos(1), usize::MAX, &pool, &mut arrivals);
            assert!(arrivals.frames.len() <= 256);
            came.extend(arrivals.frames.into_iter().map(|frame| frame.data));
            if !ends[0].is_sending() {
                break;
            }
            rounds += 1;
            let room = ends[0].tx_room(LATER, &pool, lost);
            assert_eq!(room.any(), !ends[0].is_sending());
        }
        assert_eq!(rounds, 15, "behind the first 256");
        assert!(came == sent, "{}", came.len());
    }

    #[test]
    fn a_super_frame_that_goes_to_nobody_is_one_drop() {
        let mut ends = ends(&["127.0.0.1", "127.0.0.2"]);
        ends[0].settings.remotes = vec!["203.0.113.1:4789".parse().unwrap()];
        let (frame, on_wire, _) = super_frame(1000, 5);
        let mut frames = vec![TxFrame { frame, on_wire }];
        let mut lost = Vec::new();
        let lose: &mut Lost<'_> = &mut |why, frame| lost.push((why, frame.len()));
        ends[0].tx_burst(Nanos(0), &mut frames, &Pool::new(4), lose);
        assert_eq!(lost, [(DropReason::NoCarrier, 5066)]);
    }

    /// A super-frame of so many segments with so many bytes each, what it takes of a wire, and the segments.
    fn super_frame(size: u16, segments: usize) -> (Frame, OnWire, Vec<Vec<u8>>) {
        let data = vf_packet::testing::super_frame(false, 0, usize::from(size) * segments);
        let gso = vf_model::Gso {
            header_len: 66,
            size,
        };
        let segmentation = vf_packet::Segmentation {
            v6: false,
            ecn: false,
            gso,
        };
        let offload = vf_packet::Offload::new(None, Some(segmentation));
        let frame = Box::new(FrameBuf { data, offload });
        let mut cutter = Segmenter::new(&frame.data, size).unwrap();
        let mut all = Vec::new();
        while let Some((header, payload)) = cutter.next_segment() {
            all.push([header, payload].concat());
        }
        assert_eq!(all.len(), segments);
        let on_wire = OnWire::of(&FrameMeta {
            len: frame.len(),
            gso: Some(gso),
        });
        (frame, on_wire, all)
    }

    /// The link has sent everything.
    const LATER: Nanos = Nanos(1_000_000_000);

    #[test]
    fn one_host_leaves_room_to_stations_behind_the_others() {
        let mac = |n: u32| MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8]);
        let mut stations = Stations::default();
        for n in 0..60_000 {
            stations.learn(Nanos(0), mac(n), 0);
        }
        let most = STATIONS * 8 / 9;
        assert!(stations.heard.len().abs_diff(most) <= 1);
        for n in 0..500 {
            stations.learn(Nanos(1), mac(60_000 + n), 1);
            assert_eq!(stations.host(Nanos(1), mac(60_000 + n)), Some(1));
        }
        // Those that have moved are the other's.
        for n in 0..500 {
            stations.learn(Nanos(2), mac(60_000 + n), 0);
            stations.learn(Nanos(2), mac(n), 2);
        }
        assert_eq!(
            stations.behind[..4],
            [stations.heard.len() - 500, 0, 500, 0]
        );
    }

    #[test]
    fn a_full_table_is_looked_through_once_a_second() {
        let mac = |n: u32| MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8]);
        let mut stations = Stations::default();
        for n in 0..STATIONS as u32 {
            stations.learn(Nanos(0), mac(n), 0);
        }
        stations.learn(Nanos(1), mac(60_000), 0);
        assert_eq!(stations.host(Nanos(1), mac(60_000)), None, "no room");
        // One that is known may be heard elsewhere.
        stations.learn(AGEING, mac(7), 1);
        assert_eq!(stations.host(AGEING, mac(7)), Some(1));
        assert_eq!(stations.aged_at, Some(Nanos(0)));
        // The others have aged.
        stations.learn(AGEING, mac(60_000), 0);
        assert_eq!(stations.host(AGEING, mac(60_000)), Some(0));
        assert_eq!(stations.heard.len(), 2);
        for n in 0..STATIONS as u32 {
            stations.learn(AGEING + Nanos(1), mac(n), 0);
        }
        assert_eq!(stations.aged_at, Some(AGEING), "not again at once");
    }

    #[test]
    fn what_is_not_of_the_tunnel_is_dropped_and_counted() {
        let mut ends = ends(&["127.0.0.1", "127.0.0.2"]);
        let to = ends[0].socket.local_addr().unwrap();
        let counted = |end: &Vxlan| {
            let all = end.statistics();
            all.iter().map(|(_, n)| n.get()).collect::<Vec<_>>()
        };
        let stranger = UdpSocket::bind("127.0.0.3:0").unwrap();
        let whole = [&wrap(Vni::new(42).unwrap())[..], &frame(1, 2, 60).data].concat();
        stranger.send_to(&whole, to).unwrap();
        assert_eq!(got(&mut ends[0]), (vec![], 1));
        assert_eq!(counted(&ends[0]), [1, 0, 0, 0, 0]);
        let friend = UdpSocket::bind("127.0.0.2:0").unwrap();
        let mut no_vni = whole.clone();
        no_vni[0] = 0;
        let other = [&wrap(Vni::new(43).unwrap())[..], &frame(1, 2, 60).data].concat();
        for wrong in [&no_vni[..], &whole[..7], &[], &other] {
            friend.send_to(wrong, to).unwrap();
        }
        assert_eq!(got(&mut ends[0]), (vec![], 4));
        assert_eq!(counted(&ends[0]), [1, 3, 1, 0, 0]);
        friend.send_to(&whole, to).unwrap();
        assert_eq!(got(&mut ends[0]), (vec![2], 0));
    }

    /// As many as come while nobody reads for a moment.
    #[test]
    fn datagrams_that_find_no_room_are_counted() {
        const SENT: u64 = 20_000;
        let mut ends = ends(&["127.0.0.1", "127.0.0.2"]);
        let to = ends[0].socket.local_addr().unwrap();
        let friend = UdpSocket::bind("127.0.0.2:0").unwrap();
        let whole = [&wrap(Vni::new(42).unwrap())[..], &frame(1, 2, 60).data].concat();
        for _ in 0..SENT {
            friend.send_to(&whole, to).unwrap();
        }
        let mut came = 0;
        loop {
            let (frames, _) = got(&mut ends[0]);
            came += frames.len() as u64;
            if frames.is_empty() {
                break;
            }
        }
        // How many there were is said with the next that comes.
        friend.send_to(&whole, to).unwrap();
        came += got(&mut ends[0]).0.len() as u64;
        assert!(came < SENT, "{came} had room");
        assert_eq!(ends[0].counters.missed.get(), SENT + 1 - came);
    }

    #[test]
    fn a_frame_that_is_too_long_is_dropped_and_not_cut() {
        let mut ends = ends(&["127.0.0.1", "127.0.0.2"]);
        // The loopback device has an MTU of 65536.
        assert_eq!(
            send(&mut ends[0], frame(9, 1, 65_530)),
            [DropReason::MtuExceeded]
        );
        assert_eq!(send(&mut ends[0], frame(9, 1, 9_000)), []);
        assert_eq!(got(&mut ends[1]), (vec![1], 0));
    }
}
