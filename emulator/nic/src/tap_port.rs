//! A network device of the host on a VF, where else a VMM would be: a tap, in the host's network namespace or another, whose frames
//! take a front end's way. It is a guest to the NIC, whatever that does with it: it connects to the VF's socket, has
//! virtqueues in memory of its own, and a thread that copies between them and the tap. Its device has the VF's address, and a carrier while the
//! VF has a link and the NIC is there.
//!
//! Opens devices, for which it takes `CAP_NET_ADMIN` there (and `CAP_SYS_ADMIN` to get there); what follows takes no privileges. Judges nothing and
//! counts nothing: the NIC does, as of any guest.
//!
//! The same thread serves a NIC's port that is the front end of somebody else's back end (`uplink/vhost_user`): then the frames are those of the
//! port, which come and go by a pair of sockets as they would by a tap.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vf_guest::driver::DeviceFault;
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::message::{protocol, request};
use vf_guest::net::{
    ConfigSpace, HDR_DATA_VALID, HDR_NEEDS_CSUM, NetConfig, NetDevice, NetHeader, RxFrame, feature,
};
use vf_model::{MacAddr, Mtu};
use vf_packet::{FoundChecksum, PartialChecksum, partial_checksum};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::net_hdr::{MAX_FRAME, NetHdr};
use vf_vhost::tap;

use crate::queue::Pool;
use crate::sandbox::{Role, Sandbox};
use crate::uplink::{Presence, finish, open_queues, segments};

/// Where `ip netns` has namespaces (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";
/// The virtio-net header as a tap has it (no `num_buffers`).
const HEADER: usize = 10;
/// Frames of one direction before the other one has its turn.
const BURST: usize = 64;
/// What a back end has to take for frames to pass as they are.
const AS_THEY_ARE: u64 = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6;
/// Pieces of a super-frame whose segments are not shorter than TCP's default (RFC 9293 3.7.1): 536 bytes.
const PIECES: usize = 128;
/// How long until another attempt at a session.
const RETRY: Duration = Duration::from_millis(100);
/// How often it is asked, that far apart, whether a program that has given up its connection has ended.
const REAPS: usize = 20;

/// A device by its name, and the network namespace that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapDevice {
    /// Its name there.
    pub name: String,
    /// The name that `ip netns` has for the namespace, or the path of a file of it; the host's own if there is none.
    pub netns: Option<String>,
}

impl std::fmt::Display for TapDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.netns {
            Some(netns) => write!(f, "tap {} in netns {netns}", self.name),
            None => write!(f, "tap {}", self.name),
        }
    }
}

/// A device that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{device}: {why}{help}")]
pub struct OpenTapError {
    device: TapDevice,
    why: io::Error,
    help: &'static str,
}

impl TapDevice {
    /// Whether a later start would find it by what is said: a namespace of a process (`/proc/PID/ns/net`) is another one, the host's perhaps, once
    /// its number is that of another process.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        let netns = self.netns.as_deref().unwrap_or_default();
        let of_process = netns.strip_prefix("/proc/").map(|rest| {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            digits > 0 && rest[digits..].starts_with('/')
        });
        of_process != Some(true)
    }

    /// Whether its name can be one.
    ///
    /// # Errors
    /// Why not, in one line.
    pub fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let free = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
        match name.len() {
            1..=15 if name.bytes().all(free) && ![".", ".."].contains(&&**name) => Ok(()),
            _ => Err(format!(
                "tap = \"{}\": a name of 1 to 15 letters, digits and signs but / and :",
                name.escape_debug()
            )),
        }
    }

    /// Opens it, and makes it if it is not there: with this address, this MTU, so many queues and a virtio-net header, and down. Its queues; one
    /// if it was there already and has no more. Nobody else may have it open.
    ///
    /// # Errors
    /// [`OpenTapError`], in one line.
    pub fn open(&self, mac: MacAddr, mtu: Mtu, queues: u16) -> Result<Vec<OwnedFd>, OpenTapError> {
        let failed = |help| {
            move |why| OpenTapError {
                device: self.clone(),
                why,
                help,
            }
        };
        let netns = self.netns.as_deref().map(|netns| {
            let path = Path::new(NAMESPACES).join(netns);
            File::open(path).map_err(failed(
                " (a namespace is one that 'ip netns add' makes, or the path of another, such as /proc/PID/ns/net)",
            ))
        });
        let netns = netns.transpose()?;
        let open = || {
            if let Some(netns) = &netns {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            }
            let queues = open_queues(&self.name, queues)?;
            if let [device, ..] = &queues[..] {
                tap::set_mac(device, mac.0)?;
                if device.mtu()? != mtu.get() {
                    device.set_mtu(mtu.get())?;
                }
            }
            let queues = queues.iter();
            queues
                .map(|queue| queue.as_fd().try_clone_to_owned())
                .collect()
        };
        // A thread is in another namespace for good.
        let opened = thread::scope(|scope| scope.spawn(open).join());
        let opened = opened.unwrap_or_else(|_| Err(io::Error::other("opening it has failed")));
        opened.map_err(|why| match why.kind() {
            io::ErrorKind::ResourceBusy => failed(
                " (it is on a VF already, or another program has it open: say another name)",
            )(why),
            io::ErrorKind::PermissionDenied => {
                failed(" (it takes CAP_NET_ADMIN and CAP_SYS_ADMIN, so root)")(why)
            }
            io::ErrorKind::AlreadyExists => {
                failed(": say another name ('name DEVICE', or tap = \"DEVICE\" in a file)")(why)
            }
            _ => failed("")(why),
        })
    }
}

/// A tap on a VF, until this is dropped.
#[derive(Debug)]
pub struct TapPort {
    /// Its thread ends when the other end of this hangs up.
    _alive: UnixStream,
    thread: JoinHandle<()>,
}

impl TapPort {
    /// Puts a device whose queues are open on the VF with this socket. `on` says which VF that is, in the log. Its thread goes into the `sandbox`,
    /// unless it is there already as whoever starts it is.
    ///
    /// # Errors
    /// The system's: it is no tap device, or there are too many descriptors or threads.
    pub fn start(
        queues: Vec<OwnedFd>,
        socket: PathBuf,
        on: String,
        sandbox: Sandbox,
    ) -> io::Result<TapPort> {
        for queue in &queues {
            tap::set_offloads(queue)?;
            tap::set_header_len(queue, HEADER)?;
            rustix::io::ioctl_fionbio(queue, true)?;
        }
        let socket = BackEnd::Listens(socket);
        let (alive, thread) = Port::start(queues, Device::Tap, socket, on, sandbox)?;
        Ok(TapPort {
            _alive: alive,
            thread,
        })
    }

    /// Whether its device is there still: it goes with its namespace.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.thread.is_finished()
    }
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("it is taken away")]
    Stopped,
    #[error("its device is gone: {0}")]
    Gone(Errno),
    #[error("it has ended, and is not started again")]
    Ended,
    #[error("{0}")]
    Session(#[from] FrontendError),
    #[error("{0}")]
    Device(#[from] DeviceFault),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Over {
        Over::Session(error.into())
    }
}

/// The back end that the thread is a front end of.
pub(crate) enum BackEnd {
    /// It listens here, and another session follows one that is over.
    Listens(PathBuf),
    /// It is a program of our own, which has this connection and no other one.
    Program {
        connection: Option<UnixStream>,
        child: Child,
    },
}

/// Whose frames they are.
pub(crate) enum Device {
    /// A tap's: it is shown the VF's link and address.
    Tap,
    /// A NIC's port: it is told whether there is a back end.
    Port(Presence),
}

/// What the thread has.
pub(crate) struct Port {
    /// Where frames are read and written, each with its virtio-net header: one at least, and a queue pair of the VF for each.
    queues: Vec<Queue>,
    device: Device,
    back_end: BackEnd,
    alive: UnixStream,
    on: String,
    /// A frame of the host.
    frame: Vec<u8>,
    /// One for the host.
    received: RxFrame,
    /// One for the host whose sender has vouched for it.
    vouched: Vec<u8>,
    /// Whether what is for the host waits for room: a NIC's port, unlike a tap, takes all that it is given.
    is_held: bool,
    pool: Pool,
}

/// A queue of the device.
struct Queue {
    frames: OwnedFd,
    /// Whether the host may have put a frame there since it was found empty.
    is_ready: bool,
}

/// What there is while the NIC is there.
struct Session {
    guest: NetDevice,
    /// To hear that it is over.
    socket: UnixStream,
    /// Where the NIC says that the device's configuration has changed.
    news: UnixStream,
}

/// The header of a frame that its sender vouches for (`DATA_VALID`), for receivers who have only the frame: a back end need not have made a checksum then,
/// and passt makes none. It becomes a partial one.
fn doubted(header: NetHeader, frame: &mut [u8]) -> NetHeader {
    let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    match partial_checksum(frame, len) {
        Ok(Some(FoundChecksum {
            partial: PartialChecksum { start, offset },
            ..
        })) => NetHeader {
            flags: HDR_NEEDS_CSUM,
            csum_start: start,
            csum_offset: offset,
            ..header
        },
        _ => header,
    }
}

impl Port {
    /// Starts the thread, which ends when what is returned is dropped.
    pub(crate) fn start(
        queues: Vec<OwnedFd>,
        device: Device,
        back_end: BackEnd,
        on: String,
        sandbox: Sandbox,
    ) -> io::Result<(UnixStream, JoinHandle<()>)> {
        if queues.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (ours, alive) = UnixStream::pair()?;
        let name = match device {
            Device::Tap => "tap",
            Device::Port(_) => "vhost-user",
        };
        let queues = queues.into_iter().map(|frames| Queue {
            frames,
            is_ready: true,
        });
        let port = Port {
            queues: queues.collect(),
            device,
            back_end,
            alive,
            on,
            frame: vec![0; MAX_FRAME as usize],
            received: RxFrame::default(),
            vouched: Vec::new(),
            is_held: false,
            pool: Pool::new(BURST),
        };
        let thread = thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || {
            sandbox.confine(Role::Tap);
            port.run();
        })?;
        Ok((ours, thread))
    }

    fn run(mut self) {
        let device = self.on.clone();
        loop {
            let session = self.connect();
            let was_there = session.is_ok();
            let over = session.and_then(|mut session| {
                tracing::info!(device, "its other end is there");
                self.move_frames(&mut session)
            });
            // It fails if the device is gone, which is found out.
            let _ = self.set_carrier(false);
            match over {
                Err(Over::Stopped) => return,
                Err(Over::Ended) => {
                    let how = self.how_it_ended();
                    tracing::warn!(device, "its other end is gone for good: {how}");
                    return;
                }
                Err(why @ Over::Gone(_)) => {
                    tracing::warn!(device, %why, "its other end is gone for good");
                    return;
                }
                Err(why) if was_there => {
                    tracing::info!(device, %why, "its other end is not there any more");
                }
                Err(why) => tracing::debug!(device, %why, "its other end is not there for now"),
                Ok(never) => match never {},
            }
            let mut stopped = [PollFd::new(&self.alive, PollFlags::IN)];
            if wait(&mut stopped, Some(RETRY)).unwrap_or(true) {
                return;
            }
        }
    }

    /// What the program says that was the back end: by now it has given up its connection, and a program that was killed is waited for.
    fn how_it_ended(&mut self) -> String {
        let BackEnd::Program { child, .. } = &mut self.back_end else {
            return Over::Ended.to_string();
        };
        for _ in 0..REAPS {
            if let Ok(Some(status)) = child.try_wait() {
                return format!("it has ended with {status}, and is not started again");
            }
            let mut stopped = [PollFd::new(&self.alive, PollFlags::IN)];
            if wait(&mut stopped, Some(RETRY)).unwrap_or(true) {
                break;
            }
        }
        "it has given up the connection, and gets no other one".to_owned()
    }

    fn connect(&mut self) -> Result<Session, Over> {
        let pairs = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        let several = if pairs > 1 { feature::MQ } else { 0 };
        // Of buffers for whole super-frames, so that all take no more memory than those of four pairs.
        let few = (1024 / pairs.next_power_of_two()).clamp(64, 256);
        let mut frontend = match &mut self.back_end {
            BackEnd::Listens(path) => Frontend::connect(path)?,
            BackEnd::Program { connection, .. } => {
                Frontend::from_stream(connection.take().ok_or(Over::Ended)?)?
            }
        };
        // As many places as a tap of the kernel's has: that many frames of a wire may come before the thread has its turn. A super-frame takes several.
        // Where it may not, each place has room for one, and all together no more memory.
        let merges = frontend.get_features()? & feature::MRG_RXBUF != 0;
        let (places, rx_buffer) = match merges {
            true => ((8192 / pairs.next_power_of_two()).clamp(256, 1024), 8192),
            false => (few, 12 + MAX_FRAME),
        };
        let config = NetConfig {
            features: (NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO) & !feature::MQ
                | several
                | feature::HOST_TSO6
                | feature::GUEST_TSO6,
            queue_pairs: pairs,
            queue_size: places,
            // Each has room for a super-frame.
            tx_queue_size: Some(few),
            protocol_features: NetConfig::default().protocol_features | protocol::BACKEND_REQ,
            mtu: Mtu::MAX.get(),
            rx_buffer: Some(rx_buffer),
            ..NetConfig::default()
        };
        let mut guest = NetDevice::start(frontend, &config)?;
        let (news, theirs) = UnixStream::pair()?;
        news.set_nonblocking(true)?;
        let frontend = guest.frontend().ok_or(FrontendError::Closed)?;
        if frontend.protocol_features() & protocol::BACKEND_REQ != 0 {
            frontend.set(request::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
        }
        let socket = frontend.stream().try_clone()?;
        self.follow(&mut guest)?;
        Ok(Session {
            guest,
            socket,
            news,
        })
    }

    /// Makes the device as the VF is: its address, its link.
    fn follow(&self, guest: &mut NetDevice) -> Result<(), Over> {
        let tells = guest.has(feature::STATUS);
        let frontend = guest.frontend().ok_or(FrontendError::Closed)?;
        if frontend.protocol_features() & protocol::CONFIG == 0 {
            return self.set_carrier(true);
        }
        let bytes = frontend.get_config(0, ConfigSpace::LEN as u32)?;
        let ConfigSpace { mac, status, .. } = ConfigSpace::decode(&bytes).unwrap_or_default();
        if let (Device::Tap, Some(queue)) = (&self.device, self.queues.first()) {
            self.done(tap::set_mac(&queue.frames, mac))?;
        }
        self.set_carrier(!tells || status & 1 != 0)
    }

    fn set_carrier(&self, up: bool) -> Result<(), Over> {
        match &self.device {
            // Any of its queues will do.
            Device::Tap => match self.queues.first() {
                Some(queue) => self.done(tap::set_carrier(&queue.frames, up)),
                None => Ok(()),
            },
            Device::Port(presence) => {
                presence.set(up);
                Ok(())
            }
        }
    }

    /// Hears what the kernel says of something that its device was to become: it may be gone, or not be so.
    fn done(&self, said: io::Result<()>) -> Result<(), Over> {
        let Err(why) = said else { return Ok(()) };
        match Errno::from_io_error(&why) {
            Some(errno @ (Errno::BADFD | Errno::NODEV)) => Err(Over::Gone(errno)),
            _ => {
                tracing::warn!(device = self.on.as_str(), %why, "its device does not follow the VF");
                Ok(())
            }
        }
    }

    /// Moves frames both ways until something ends that.
    fn move_frames(&mut self, session: &mut Session) -> Result<Infallible, Over> {
        loop {
            let guest = &mut session.guest;
            let mut moved = 0;
            for pair in 0..self.queues.len() {
                moved += self.give_host(guest, pair)? + self.take_host(guest, pair)?;
            }
            guest.kick();
            let mut full = false;
            for pair in 0..self.queues.len() {
                full |= frames_fit(guest, pair)? == 0;
            }
            let busy = moved > 0 || guest.arm(full);
            self.look(session, busy)?;
        }
    }

    /// Gives the host what has come for it on a queue pair; how many frames.
    fn give_host(&mut self, guest: &mut NetDevice, pair: usize) -> Result<usize, Over> {
        let Some(queue) = self.queues.get(pair) else {
            return Ok(0);
        };
        for n in 0..BURST {
            if !std::mem::take(&mut self.is_held) && !guest.recv(pair, &mut self.received)? {
                return Ok(n);
            }
            let mut header = self.received.hdr;
            let mut frame = self.received.bytes();
            if matches!(self.device, Device::Port(_)) && header.flags & HDR_DATA_VALID != 0 {
                self.vouched.clear();
                self.vouched.extend_from_slice(frame);
                header = doubted(header, &mut self.vouched);
                frame = &self.vouched;
            }
            let header = header.encode();
            let (header, _) = header.split_at(HEADER);
            let parts = [IoSlice::new(header), IoSlice::new(frame)];
            match rustix::io::writev(&queue.frames, &parts) {
                Err(Errno::AGAIN) if matches!(self.device, Device::Port(_)) => {
                    self.is_held = true;
                    return Ok(n);
                }
                // The host has the device down, has no memory or takes no such frame; it counts that.
                Ok(_)
                | Err(
                    Errno::AGAIN
                    | Errno::IO
                    | Errno::INVAL
                    | Errno::MSGSIZE
                    | Errno::NOBUFS
                    | Errno::NOMEM,
                ) => {}
                Err(errno) => return Err(Over::Gone(errno)),
            }
        }
        Ok(BURST)
    }

    /// Sends what the host wants to have sent by a queue, as far as there is room on its pair; how many frames.
    fn take_host(&mut self, guest: &mut NetDevice, pair: usize) -> Result<usize, Over> {
        let Some(queue) = self.queues.get_mut(pair).filter(|queue| queue.is_ready) else {
            return Ok(0);
        };
        let room = frames_fit(guest, pair)?;
        for n in 0..room {
            let mut header = [0; 12];
            let (of_tap, _) = header.split_at_mut(HEADER);
            let mut parts = [IoSliceMut::new(of_tap), IoSliceMut::new(&mut self.frame)];
            let len = match rustix::io::readv(&queue.frames, &mut parts) {
                Ok(0) => return Err(Over::Gone(Errno::PIPE)),
                Ok(len) => len.saturating_sub(HEADER),
                Err(Errno::AGAIN | Errno::INTR) => {
                    queue.is_ready = false;
                    return Ok(n);
                }
                // It was one that no header is for: of a tunnel that is still to be cut.
                Err(Errno::INVAL) => continue,
                Err(errno) => return Err(Over::Gone(errno)),
            };
            let frame = self.frame.get(..len).unwrap_or_default();
            match guest.has(AS_THEY_ARE) {
                true => drop(guest.send(pair, &NetHeader::decode(&header), frame)?),
                false => finished(frame, header, &self.pool, |frame| {
                    guest.send(pair, &NetHeader::default(), frame).map(drop)
                })?,
            }
        }
        Ok(room)
    }

    /// Hears what else there is, and sleeps until there is something unless it is `busy`. What the host sends by a queue whose ring is full is
    /// none of it.
    fn look(&mut self, session: &mut Session, busy: bool) -> Result<(), Over> {
        let Session {
            guest,
            socket,
            news,
        } = session;
        let mut taps = Vec::with_capacity(self.queues.len());
        for (pair, queue) in self.queues.iter().enumerate() {
            let room = frames_fit(guest, pair)? > 0;
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, room);
            events.set(PollFlags::OUT, self.is_held);
            taps.push(PollFd::new(&queue.frames, events));
        }
        let first = taps.len();
        let others = [self.alive.as_fd(), socket.as_fd(), news.as_fd()];
        let others = others.into_iter().chain(guest.calls().map(AsFd::as_fd));
        let mut fds = taps;
        fds.extend(others.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        wait(&mut fds, busy.then_some(Duration::ZERO))?;
        let heard: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let (taps, others) = heard.split_at(first);
        for (queue, ready) in self.queues.iter_mut().zip(taps) {
            queue.is_ready |= ready;
        }
        let mut others = others.iter().copied();
        let [stopped, over, changed] = [(); 3].map(|()| others.next().unwrap_or_default());
        for (call, _) in guest.calls().zip(others).filter(|(_, heard)| *heard) {
            call.drain();
        }
        if stopped {
            return Err(Over::Stopped);
        }
        if over {
            return Err(FrontendError::Closed.into());
        }
        if changed {
            // What it says is always the same.
            let mut bytes = [0; 256];
            while rustix::io::read(&*news, &mut bytes).is_ok_and(|len| len > 0) {}
            self.follow(guest)?;
        }
        Ok(())
    }
}

/// How many frames of the host there is room for on a queue pair: of those that are to be cut, in all their pieces.
fn frames_fit(guest: &mut NetDevice, pair: usize) -> Result<usize, DeviceFault> {
    let pieces = if guest.has(AS_THEY_ARE) { 1 } else { PIECES };
    Ok((usize::from(guest.tx_room(pair)?) / pieces).min(BURST))
}

/// A frame as a wire has it, for who takes it only so: in pieces, with checksums.
fn finished(
    data: &[u8],
    header: [u8; 12],
    pool: &Pool,
    mut send: impl FnMut(&[u8]) -> Result<(), DeviceFault>,
) -> Result<(), DeviceFault> {
    let mut frame = pool.take(data.len());
    frame.data.clear();
    frame.data.extend_from_slice(data);
    let hdr = header.first_chunk().map(NetHdr::from_bytes);
    let offload =
        hdr.unwrap_or_default()
            .check(VirtioFeatures::all(), frame.headers(), frame.len());
    let Ok(offload) = offload else {
        return Ok(()); // it comes from a kernel or a NIC, and is none
    };
    frame.offload = offload;
    let mut sent = Ok(());
    segments(frame, pool, |mut segment, _| {
        if sent.is_ok() && finish(&mut segment) {
            sent = send(&segment.data);
        }
        pool.give(segment);
    });
    sent
}

/// Waits until one of these has something, or for so long; whether one has.
fn wait(fds: &mut [PollFd<'_>], long: Option<Duration>) -> io::Result<bool> {
    let long = long.map(|long| Timespec {
        tv_sec: long.as_secs().cast_signed(),
        tv_nsec: long.subsec_nanos().into(),
    });
    match poll(fds, long.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use vf_packet::checksum::complete;
    use vf_packet::testing::super_frame;

    use super::*;

    #[test]
    fn what_a_back_end_vouches_for_has_a_checksum_for_others() {
        let mut frame = super_frame(false, 0, 500);
        let mut expected = frame.clone();
        complete(&mut expected, 34, 16).unwrap();
        frame[50..52].fill(0);
        let vouched = NetHeader {
            flags: HDR_DATA_VALID,
            ..NetHeader::default()
        };
        let header = doubted(vouched, &mut frame);
        assert_eq!(header.flags, HDR_NEEDS_CSUM);
        complete(&mut frame, header.csum_start, header.csum_offset).unwrap();
        assert_eq!(frame, expected);
        // Of what has none there is nothing to make.
        assert_eq!(doubted(vouched, &mut [0; 60]), vouched);
    }
}
