//! One bulk stream: a TCP socket and the application on it.
//!
//! A sender pours the pattern into its socket, a receiver drains and checks it. Knows nothing of
//! frames; time comes in as an argument.

use std::net::Ipv4Addr;

use smoltcp::iface::{Context, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};

use super::config::GuestConfig;
use super::pattern;

/// Bytes of IPv4 and TCP header without options.
const HEADERS: usize = 40;
/// A receiver acknowledges every segment until this much has arrived, as Linux does, so that slow
/// start is not held up by a delayed ACK.
const QUICK_ACK_BYTES: u64 = 64 * 1024;

/// What the application does.
#[derive(Debug)]
pub(crate) enum Role {
    /// Sends the pattern.
    Sender {
        /// Peer to connect to.
        peer: (Ipv4Addr, u16),
        /// Bytes to send before closing; `None` for ever.
        limit: Option<u64>,
        /// Bytes handed to the socket.
        queued: u64,
    },
    /// Drains what arrives.
    Receiver {
        /// Who connected.
        peer: Option<(Ipv4Addr, u16)>,
        /// Bytes drained.
        received: u64,
        /// Chunks that differ from the pattern.
        mismatches: u64,
    },
}

impl Role {
    pub(crate) fn sender(ip: Ipv4Addr, port: u16, limit: Option<u64>) -> Role {
        Role::Sender {
            peer: (ip, port),
            limit,
            queued: 0,
        }
    }

    pub(crate) fn receiver() -> Role {
        Role::Receiver {
            peer: None,
            received: 0,
            mismatches: 0,
        }
    }
}

/// Counters of a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Local TCP port.
    pub local_port: u16,
    /// Whether the stream sends.
    pub sender: bool,
    /// Whether the connection is up.
    pub established: bool,
    /// Sender: payload bytes acknowledged by the peer.
    pub acked: u64,
    /// Sender: whether all that it was to send has been acknowledged.
    pub done: bool,
    /// Receiver: payload bytes drained.
    pub received: u64,
    /// Receiver: drained chunks that differ from what was sent. Not zero is corruption.
    pub mismatches: u64,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) sockets: SocketSet<'static>,
    pub(crate) local_port: u16,
    /// Something has happened since the socket last had nothing to send.
    pub(crate) ready: bool,
    handle: SocketHandle,
    role: Role,
    due: Option<Instant>,
    verify: bool,
    /// The delay that a receiver's socket gets once it has left its quick-ACK phase.
    slow_ack: Option<Duration>,
    mss: usize,
}

impl Stream {
    pub(crate) fn new(config: &GuestConfig, local_port: u16, role: Role) -> Stream {
        let mss = usize::from(config.mtu).saturating_sub(HEADERS).max(1);
        // Whole segments, so that the end of the ring buffer does not cut one in two.
        let send = (config.window / mss).max(4) * mss;
        let (rx_len, tx_len) = match role {
            Role::Sender { .. } => (4096, send),
            Role::Receiver { .. } => (config.window, 4096),
        };
        let mut socket = Socket::new(
            SocketBuffer::new(vec![0; rx_len]),
            SocketBuffer::new(vec![0; tx_len]),
        );
        socket.set_nagle_enabled(config.nagle);
        socket.set_ack_delay(None);
        if config.cubic {
            socket.set_congestion_control(CongestionControl::Cubic);
        }
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Stream {
            sockets,
            local_port,
            ready: true,
            handle,
            role,
            due: None,
            verify: config.verify,
            // A super-frame stands for several segments.
            slow_ack: (!config.tso).then(|| Duration::from_micros(config.ack_delay_us)),
            mss,
        }
    }

    /// Starts the connection of a sender.
    pub(crate) fn connect(&mut self, context: &mut Context) {
        if let Role::Sender { peer, .. } = self.role {
            let local = self.local_port;
            // Fails only for a socket in use or a port 0, and then the stream stays unconnected.
            let _ = self.socket().connect(context, peer, local);
        }
    }

    /// Lets a receiver accept one connection.
    pub(crate) fn listen(&mut self) {
        let local = self.local_port;
        // Fails only for port 0, and then the stream stays unconnected.
        let _ = self.socket().listen(local);
    }

    /// Has a sender send no more than it has handed to its socket, and then close.
    pub(crate) fn finish(&mut self) {
        if let Role::Sender { limit, queued, .. } = &mut self.role {
            *limit = Some(*queued);
            self.socket().close();
            self.ready = true;
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn is_sender(&self) -> bool {
        matches!(self.role, Role::Sender { .. })
    }

    pub(crate) fn peer(&self) -> Option<(Ipv4Addr, u16)> {
        match self.role {
            Role::Sender { peer, .. } => Some(peer),
            Role::Receiver { peer, .. } => peer,
        }
    }

    pub(crate) fn is_listening_on(&self, port: u16) -> bool {
        self.local_port == port
            && matches!(self.role, Role::Receiver { .. })
            && self.sockets.get::<Socket>(self.handle).state() == State::Listen
    }

    /// Remembers who a segment for this stream came from.
    pub(crate) fn meet(&mut self, from: (Ipv4Addr, u16)) {
        if let Role::Receiver { peer, .. } = &mut self.role {
            *peer = Some(from);
        }
    }

    /// Fills or drains the socket.
    pub(crate) fn run_application(&mut self) {
        let seed = |port: u16| u64::from(port) * 7919;
        let socket = self.sockets.get_mut::<Socket>(self.handle);
        match &mut self.role {
            Role::Sender {
                peer,
                limit,
                queued,
            } => {
                let room = socket.send_capacity() - socket.send_queue();
                let left = limit.map_or(u64::MAX, |limit| limit - *queued);
                if !socket.may_send() || (room < self.mss && left >= room as u64) {
                    return;
                }
                // Twice: the free room may wrap around the end of the ring buffer.
                for _ in 0..2 {
                    let left = limit.map_or(u64::MAX, |limit| limit - *queued);
                    let filled = socket.send(|buf| {
                        let len = (buf.len() as u64).min(left) as usize;
                        pattern::fill(seed(peer.1) + *queued, &mut buf[..len]);
                        (len, len)
                    });
                    *queued += filled.unwrap_or(0) as u64;
                }
                if *limit == Some(*queued) {
                    socket.close();
                }
            }
            Role::Receiver {
                received,
                mismatches,
                ..
            } => {
                while socket.can_recv() {
                    let at = seed(self.local_port) + *received;
                    let verify = self.verify;
                    let drained = socket.recv(|buf| {
                        let wrong = verify && !pattern::matches(at, buf);
                        (buf.len(), (buf.len() as u64, wrong))
                    });
                    let Ok((len, wrong)) = drained else { break };
                    *received += len;
                    *mismatches += u64::from(wrong);
                }
                if *received >= QUICK_ACK_BYTES
                    && let Some(delay) = self.slow_ack.take()
                {
                    socket.set_ack_delay(Some(delay));
                }
                if socket.state() == State::CloseWait {
                    socket.close();
                }
            }
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn set_due(&mut self, due: Option<Instant>) {
        self.due = due;
    }

    pub(crate) fn wake_if_due(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.due = None;
            self.ready = true;
        }
    }

    pub(crate) fn stats(&self) -> StreamStats {
        let socket = self.sockets.get::<Socket>(self.handle);
        let mut stats = StreamStats {
            local_port: self.local_port,
            sender: self.is_sender(),
            established: socket.state() == State::Established,
            ..StreamStats::default()
        };
        match self.role {
            Role::Sender { queued, limit, .. } => {
                stats.acked = queued - socket.send_queue() as u64;
                stats.done = limit == Some(stats.acked);
            }
            Role::Receiver {
                received,
                mismatches,
                ..
            } => {
                stats.received = received;
                stats.mismatches = mismatches;
            }
        }
        stats
    }
}
