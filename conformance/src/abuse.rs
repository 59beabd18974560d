//! `vf-conformance abuse`: does to one socket what costs others the most, as often as it can, for whoever measures two other ports
//! meanwhile. Never judges; says how often it has done it.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vf_guest::driver::Buffer;
use vf_guest::eventfd::EventFd;
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::message::{FLAG_VERSION, Header, request};
use vf_guest::net::{GSO_TCPV4, HDR_NEEDS_CSUM, NetConfig, NetDevice, NetHeader, RxFrame, feature};

/// Do the worst to a socket that a front end or a guest can do, until the time is over
#[derive(Debug, Args)]
pub(crate) struct Abuse {
    /// What to do.
    kind: Kind,
    /// The socket.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 3600.0)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Sessions that begin and end.
    Connect,
    /// SET_VRING_ENABLE, on and off.
    Enable,
    /// SET_VRING_KICK, another descriptor each time.
    Kick,
    /// SET_MEM_TABLE, the same memory again.
    Memory,
    /// Commands on the control queue: promiscuous, and not.
    Commands,
    /// Broadcasts, as many as the ring takes.
    Broadcast,
    /// Super-frames to everybody, cut into the smallest segments.
    Segments,
    /// A call descriptor that makes whoever writes to it wait, and frames to be called for.
    Call,
    /// Descriptors that take an hour to close.
    Linger,
}

impl Abuse {
    /// Does it. What ends a session is done again in the next one.
    ///
    /// # Errors
    /// Nobody takes connections at the socket at all.
    pub(crate) fn run(&self, out: &mut impl Write) -> io::Result<bool> {
        let until = Instant::now() + Duration::from_secs_f64(self.seconds.clamp(0.0, 1e6));
        drop(Frontend::connect(&self.socket)?);
        let (mut done, mut sessions) = (0u64, 0u64);
        while Instant::now() < until {
            sessions += 1;
            // A back end may turn away whom it does not like; how it does that is not judged here.
            let _ = self.once(until, &mut done);
        }
        writeln!(out, "{:?}: {done} times in {sessions} sessions", self.kind)?;
        Ok(true)
    }

    /// Goes on until the session ends.
    fn once(&self, until: Instant, done: &mut u64) -> Result<(), FrontendError> {
        let go_on = |done: &mut u64| {
            *done += 1;
            Instant::now() < until
        };
        let socket = self.socket.as_path();
        match self.kind {
            Kind::Connect => {
                drop(Frontend::connect(socket)?);
                *done += 1;
            }
            Kind::Enable => {
                let mut net = start(socket, 0)?;
                while go_on(done) {
                    let on = done.is_multiple_of(2);
                    session(&mut net)?.set_vring_enable(0, on)?;
                }
            }
            Kind::Kick => {
                let mut net = start(socket, 0)?;
                while go_on(done) {
                    let kick = EventFd::new()?;
                    session(&mut net)?.set_vring_kick(1, Some(kick.as_fd()))?;
                }
            }
            Kind::Memory => {
                let mut net = start(socket, 0)?;
                let memory = std::sync::Arc::clone(net.memory());
                while go_on(done) {
                    session(&mut net)?.set_mem_table(memory.regions())?;
                }
            }
            Kind::Commands => {
                let mut net = start(socket, feature::CTRL_VQ | feature::CTRL_RX)?;
                let ring = net.control_ring().ok_or(FrontendError::Closed)?;
                let at = ring.buffer_addr(0);
                let chain = [(at, 3, false), (at + 64, 1, true)];
                let chain = chain.map(|(addr, len, writable)| Buffer {
                    addr,
                    len,
                    writable,
                });
                while go_on(done) {
                    while ring.queue.pop_used().is_ok_and(|used| used.is_some()) {}
                    while ring.queue.add(&chain).is_some() {}
                    ring.queue.publish();
                    if let Some(kick) = &ring.kick {
                        kick.signal();
                    }
                }
            }
            Kind::Broadcast => {
                let mut net = start(socket, 0)?;
                let frame = frame(&net, [0xff; 6], 60);
                flood(&mut net, &NetHeader::default(), &frame, || go_on(done));
            }
            Kind::Segments => {
                let mut net = start(socket, NetConfig::TSO)?;
                let (header, frame) = super_frame(&net);
                flood(&mut net, &header, &frame, || go_on(done));
            }
            Kind::Call => {
                let config = NetConfig {
                    // It wants to be called for each frame.
                    features: NetConfig::default().features & !feature::EVENT_IDX,
                    ..NetConfig::default()
                };
                let mut net = NetDevice::start(Frontend::connect(socket)?, &config)?;
                net.tx_ring(0).call.as_ref().inspect(|call| fill(call));
                let frame = frame(&net, [2, 0, 0, 0, 0, 9], 60);
                flood(&mut net, &NetHeader::default(), &frame, || go_on(done));
            }
            Kind::Linger => {
                let mut frontend = Frontend::connect(socket)?;
                let head = Header {
                    request: request::SET_VRING_CALL,
                    flags: FLAG_VERSION,
                    size: 8,
                };
                let message = [&head.encode()[..], &[0; 8]].concat();
                let (fd, _peer) = lingering()?;
                frontend.send_raw(&message, &[fd.as_fd()])?;
                drop(fd);
                *done += 1;
                // Until it has been closed, or is being closed.
                frontend.readable(Duration::from_millis(20))?;
            }
        }
        Ok(())
    }
}

fn start(socket: &Path, features: u64) -> Result<NetDevice, FrontendError> {
    let config = NetConfig {
        features: NetConfig::default().features | features,
        ..NetConfig::default()
    };
    NetDevice::start(Frontend::connect(socket)?, &config)
}

fn session(net: &mut NetDevice) -> Result<&mut Frontend, FrontendError> {
    net.frontend().ok_or(FrontendError::Closed)
}

/// Sends a frame again and again, until the device is gone or `go_on` says no.
fn flood(net: &mut NetDevice, header: &NetHeader, frame: &[u8], mut go_on: impl FnMut() -> bool) {
    let mut got = RxFrame::default();
    while go_on() {
        while net.send(0, header, frame).is_ok_and(|sent| sent) {}
        while net.recv(0, &mut got).is_ok_and(|some| some) {}
        net.kick();
        // What is to be read is the end of the session.
        let over = session(net).and_then(|frontend| frontend.readable(Duration::ZERO));
        if over.unwrap_or(true) {
            return;
        }
    }
}

fn frame(net: &NetDevice, dst: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = [&dst[..], &net.config_space().mac, &[0x88, 0xb5]].concat();
    frame.resize(len, 0);
    frame
}

/// A TCP frame for everybody that is to be cut as often as can be.
fn super_frame(net: &NetDevice) -> (NetHeader, Vec<u8>) {
    const LEN: u16 = 65_000;
    let mut frame = [&[0xff; 6][..], &net.config_space().mac, &[8, 0]].concat();
    let ip_len = LEN - 14;
    frame.extend([0x45, 0]);
    frame.extend(ip_len.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0x12, 0x34, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ]);
    frame.resize(LEN.into(), 0);
    let header = NetHeader {
        flags: HDR_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 32,
        csum_start: 34,
        csum_offset: 16,
        ..NetHeader::default()
    };
    (header, frame)
}

/// Makes whoever writes to the counter wait.
fn fill(event: &EventFd) {
    event.drain();
    // It may have been signalled in between; then it takes a little less.
    let most = (u64::MAX - 1).to_ne_bytes();
    while rustix::io::write(event.as_fd(), &most).is_err() && event.drain() > 0 {}
    if let Ok(flags) = fcntl_getfl(event.as_fd()) {
        let _ = fcntl_setfl(event.as_fd(), flags - OFlags::NONBLOCK);
    }
}

/// A socket whose last `close` waits for an hour, and what keeps it from ending before.
fn lingering() -> io::Result<(OwnedFd, (TcpListener, TcpStream))> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut socket = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::from_secs(3600)))?;
    socket.set_nonblocking(true)?;
    while socket.write(&[0; 1 << 16]).is_ok() {}
    Ok((socket.into(), (listener, peer)))
}
