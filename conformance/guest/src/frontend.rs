//! One vhost-user session over one Unix socket, from the front end's side.
//!
//! Knows messages and the order of replies, not rings or frames. Every request has a typed method
//! that behaves, and [`Frontend::send_raw`] that does whatever it is told: wrong sizes, wrong
//! flags, descriptors nobody expects. Never blocks for longer than its timeout; while it waits it
//! calls [`Frontend::on_wait`], so that one thread can be both ends.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
    socket_with,
};

use crate::memory::Region;
use crate::message::{
    self, FLAG_NEED_REPLY, FLAG_REPLY, FLAG_VERSION, HEADER_LEN, Header, VRING_NO_FD, protocol,
    request,
};

/// How long a reply may take before the back end counts as hung.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// Most descriptors one message carries here; the document's limit is 8, a lie may need more.
const MAX_FDS: usize = 64;
/// Longest reply that is read; anything larger is a fault of the back end.
const MAX_REPLY: usize = 4096;

/// Why a session did not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontendError {
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
    /// The back end closed the connection.
    #[error("the back end closed the connection")]
    Closed,
    /// No reply came in time.
    #[error("no reply within the timeout")]
    Timeout,
    /// The back end refused a request, with the value it answered.
    #[error("{} was refused: answered with {value}, and 0 is success", named(*request))]
    Nack {
        /// Id of the refused request.
        request: u32,
        /// The non-zero value of the acknowledgement.
        value: u64,
    },
    /// A reply broke the protocol: wrong id, flags or size.
    #[error("bad reply to {}: {header:?}", named(*request))]
    BadReply {
        /// Id of the request that was to be answered.
        request: u32,
        /// The header that came.
        header: Header,
    },
    /// Memory or queues of the guest could not be made.
    #[error("guest memory is too small")]
    NoMemory,
}

impl From<rustix::io::Errno> for FrontendError {
    fn from(errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET => FrontendError::Closed,
            errno => FrontendError::Io(errno.into()),
        }
    }
}

/// A reply: its header, payload and descriptors.
#[derive(Debug)]
pub struct Reply {
    /// Header as received.
    pub header: Header,
    /// Payload, `header.size` bytes.
    pub payload: Vec<u8>,
    /// Descriptors that came along.
    pub fds: Vec<OwnedFd>,
}

/// What was said in a session, or in several: a line a message, the oldest forgotten first.
#[derive(Clone, Debug, Default)]
pub struct Transcript(Arc<Mutex<VecDeque<String>>>);

impl Transcript {
    /// Most lines that are kept.
    const LINES: usize = 200;

    /// Takes out what was said since this was last asked.
    pub fn take(&self) -> Vec<String> {
        self.with(|lines| lines.drain(..).collect())
    }

    fn say(&self, line: String) {
        self.with(|lines| {
            if lines.len() == Transcript::LINES {
                lines.pop_front();
            }
            lines.push_back(line);
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut VecDeque<String>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Called while a reply is awaited.
pub type OnWait = Box<dyn FnMut()>;

/// The front end's end of a session.
pub struct Frontend {
    stream: UnixStream,
    /// How long a reply may take; [`REPLY_TIMEOUT`] unless changed.
    pub timeout: Duration,
    /// Called again and again while a reply is awaited: the place to run the back end when it
    /// lives in the same thread.
    pub on_wait: Option<OnWait>,
    protocol_features: u64,
    /// Where what is said is written down, and which session it was.
    transcript: Option<(Transcript, String)>,
}

impl std::fmt::Debug for Frontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontend")
            .field("stream", &self.stream)
            .field("protocol_features", &self.protocol_features)
            .finish_non_exhaustive()
    }
}

impl Frontend {
    /// Connects to a back end that listens (the back end is the server).
    ///
    /// # Errors
    /// What `connect` says; `WouldBlock` at once when as many wait already as the back end lets wait.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Frontend> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path.as_ref())?)?;
        Frontend::from_stream(socket.into())
    }

    /// Listens on `path` and waits for one back end to connect (the back end is the client). A
    /// stale socket file is replaced; the file is removed again once the back end is there.
    pub fn listen(path: impl AsRef<Path>, timeout: Duration) -> io::Result<Frontend> {
        let path = path.as_ref();
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let ready = wait_readable(listener.as_fd(), timeout)?;
        let accepted = if ready {
            listener.accept().map(|(stream, _)| stream)
        } else {
            Err(io::ErrorKind::TimedOut.into())
        };
        std::fs::remove_file(path)?;
        Frontend::from_stream(accepted?)
    }

    /// A session over a socket that is connected already.
    pub fn from_stream(stream: UnixStream) -> io::Result<Frontend> {
        stream.set_nonblocking(true)?;
        Ok(Frontend {
            stream,
            timeout: REPLY_TIMEOUT,
            on_wait: None,
            protocol_features: 0,
            transcript: None,
        })
    }

    /// Has what is said from now on written down, as said by session `name`.
    pub fn write_down(&mut self, transcript: &Transcript, name: &str) {
        self.transcript = Some((transcript.clone(), name.to_owned()));
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if let Some((transcript, name)) = &self.transcript {
            transcript.say(format!("{name} {}", what()));
        }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Protocol features that were acknowledged.
    pub fn protocol_features(&self) -> u64 {
        self.protocol_features
    }

    // --- raw ---

    /// Sends bytes and descriptors as they are, in one `sendmsg` as far as the socket takes them.
    pub fn send_raw(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), FrontendError> {
        self.note(|| format!("-> {}", message::describe(bytes, fds.len())));
        let deadline = Instant::now() + self.timeout;
        let mut rest = bytes;
        let mut fds = fds;
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.stream, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    fds = &[];
                }
                Err(rustix::io::Errno::AGAIN) => self.pause(deadline, PollFlags::OUT)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Sends one message with a true header; `flags` are added to the version.
    pub fn send(
        &mut self,
        request: u32,
        flags: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        let header = Header {
            request,
            flags: FLAG_VERSION | flags,
            size: payload.len() as u32,
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(payload);
        self.send_raw(&bytes, fds)
    }

    /// Waits for the next message of the back end, whatever it is.
    pub fn receive(&mut self) -> Result<Reply, FrontendError> {
        let came = self.receive_one();
        self.note(|| match &came {
            Ok(reply) => {
                let bytes = [&reply.header.encode()[..], &reply.payload].concat();
                format!("<- {}", message::describe(&bytes, reply.fds.len()))
            }
            Err(error) => format!("<- ({error})"),
        });
        came
    }

    fn receive_one(&mut self) -> Result<Reply, FrontendError> {
        let deadline = Instant::now() + self.timeout;
        let mut fds = Vec::new();
        let mut head = [0; HEADER_LEN];
        self.read_exact(&mut head, &mut fds, deadline)?;
        let header = Header::decode(head);
        if header.size as usize > MAX_REPLY {
            return Err(FrontendError::BadReply {
                request: header.request,
                header,
            });
        }
        let mut payload = vec![0; header.size as usize];
        self.read_exact(&mut payload, &mut fds, deadline)?;
        Ok(Reply {
            header,
            payload,
            fds,
        })
    }

    /// Whether the back end has sent something, or hung up, within `wait`.
    pub fn readable(&mut self, wait: Duration) -> Result<bool, FrontendError> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(hook) = &mut self.on_wait {
                hook();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let step = if self.on_wait.is_some() {
                Duration::ZERO
            } else {
                left
            };
            if wait_readable(self.stream.as_fd(), step)? {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    fn read_exact(
        &mut self,
        mut buf: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Instant,
    ) -> Result<(), FrontendError> {
        while !buf.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let got = recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(buf)],
                &mut control,
                flags,
            );
            match got {
                Ok(message) if message.bytes == 0 => return Err(FrontendError::Closed),
                Ok(message) => {
                    for part in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = part {
                            fds.extend(rights);
                        }
                    }
                    buf = &mut buf[message.bytes..];
                }
                Err(rustix::io::Errno::AGAIN) => self.pause(deadline, PollFlags::IN)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn pause(&mut self, deadline: Instant, events: PollFlags) -> Result<(), FrontendError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(FrontendError::Timeout);
        }
        if let Some(hook) = &mut self.on_wait {
            hook();
            return Ok(());
        }
        let mut fds = [PollFd::new(&self.stream, events)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    // --- typed requests ---

    /// Sends a request that has no reply of its own; asks for an acknowledgement and waits for it
    /// when `REPLY_ACK` was negotiated.
    pub fn set(
        &mut self,
        request: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        let ack = self.protocol_features & protocol::REPLY_ACK != 0;
        self.send(request, if ack { FLAG_NEED_REPLY } else { 0 }, payload, fds)?;
        if ack { self.await_ack(request) } else { Ok(()) }
    }

    /// Reads the acknowledgement of `request`; a non-zero value is [`FrontendError::Nack`].
    pub fn await_ack(&mut self, request: u32) -> Result<(), FrontendError> {
        match u64_of(&self.await_reply(request)?) {
            Ok(0) => Ok(()),
            Ok(value) => Err(FrontendError::Nack { request, value }),
            Err(header) => Err(FrontendError::BadReply { request, header }),
        }
    }

    /// Reads the reply to `request` and checks its header (vhost-user "Header").
    pub fn await_reply(&mut self, request: u32) -> Result<Reply, FrontendError> {
        let reply = self.receive()?;
        let header = reply.header;
        if header.request != request
            || header.flags & (FLAG_REPLY | 0x3) != FLAG_REPLY | FLAG_VERSION
        {
            return Err(FrontendError::BadReply { request, header });
        }
        Ok(reply)
    }

    /// Sends a request that is answered with a `u64`.
    pub fn get_u64(&mut self, request: u32) -> Result<u64, FrontendError> {
        self.send(request, 0, &[], &[])?;
        let reply = self.await_reply(request)?;
        u64_of(&reply).map_err(|header| FrontendError::BadReply { request, header })
    }

    /// `GET_FEATURES`.
    pub fn get_features(&mut self) -> Result<u64, FrontendError> {
        self.get_u64(request::GET_FEATURES)
    }

    /// `SET_FEATURES`.
    pub fn set_features(&mut self, features: u64) -> Result<(), FrontendError> {
        self.set(request::SET_FEATURES, &features.to_le_bytes(), &[])
    }

    /// `GET_PROTOCOL_FEATURES`.
    pub fn get_protocol_features(&mut self) -> Result<u64, FrontendError> {
        self.get_u64(request::GET_PROTOCOL_FEATURES)
    }

    /// `SET_PROTOCOL_FEATURES`. It is sent without asking for an acknowledgement: whether one may
    /// be asked for is what it settles.
    pub fn set_protocol_features(&mut self, features: u64) -> Result<(), FrontendError> {
        self.send(
            request::SET_PROTOCOL_FEATURES,
            0,
            &features.to_le_bytes(),
            &[],
        )?;
        self.protocol_features = features;
        Ok(())
    }

    /// `SET_OWNER`.
    pub fn set_owner(&mut self) -> Result<(), FrontendError> {
        self.set(request::SET_OWNER, &[], &[])
    }

    /// `GET_QUEUE_NUM`.
    pub fn get_queue_num(&mut self) -> Result<u64, FrontendError> {
        self.get_u64(request::GET_QUEUE_NUM)
    }

    /// `GET_CONFIG`: `len` bytes of configuration space at `offset`. An empty answer is the back
    /// end's way to refuse.
    pub fn get_config(&mut self, offset: u32, len: u32) -> Result<Vec<u8>, FrontendError> {
        let request = request::GET_CONFIG;
        self.send(request, 0, &message::config(offset, len), &[])?;
        let reply = self.await_reply(request)?;
        Ok(reply.payload.get(12..).unwrap_or_default().to_vec())
    }

    /// Gives the back end all regions: `ADD_MEM_REG` for each when `CONFIGURE_MEM_SLOTS` was
    /// negotiated (as QEMU does), else one `SET_MEM_TABLE`.
    pub fn set_memory(&mut self, regions: &[Region]) -> Result<(), FrontendError> {
        if self.protocol_features & protocol::CONFIGURE_MEM_SLOTS != 0 {
            for region in regions {
                self.add_mem_region(region)?;
            }
            Ok(())
        } else {
            self.set_mem_table(regions)
        }
    }

    /// `SET_MEM_TABLE`.
    pub fn set_mem_table(&mut self, regions: &[Region]) -> Result<(), FrontendError> {
        let entries: Vec<_> = regions.iter().map(region_entry).collect();
        let fds: Vec<_> = regions.iter().map(Region::fd).collect();
        self.set(request::SET_MEM_TABLE, &message::mem_table(&entries), &fds)
    }

    /// `ADD_MEM_REG`.
    pub fn add_mem_region(&mut self, region: &Region) -> Result<(), FrontendError> {
        let payload = message::single_region(&region_entry(region));
        self.set(request::ADD_MEM_REG, &payload, &[region.fd()])
    }

    /// `REM_MEM_REG`.
    pub fn remove_mem_region(&mut self, region: &Region) -> Result<(), FrontendError> {
        let payload = message::single_region(&region_entry(region));
        self.set(request::REM_MEM_REG, &payload, &[])
    }

    /// `SET_LOG_BASE`, which has a reply when the log is shared memory.
    pub fn set_log_base(
        &mut self,
        fd: impl AsFd,
        size: u64,
        offset: u64,
    ) -> Result<(), FrontendError> {
        let request = request::SET_LOG_BASE;
        self.send(request, 0, &message::log(size, offset), &[fd.as_fd()])?;
        self.await_reply(request).map(drop)
    }

    /// `SET_VRING_NUM`.
    pub fn set_vring_num(&mut self, index: u32, size: u32) -> Result<(), FrontendError> {
        self.set(
            request::SET_VRING_NUM,
            &message::vring_state(index, size),
            &[],
        )
    }

    /// `SET_VRING_BASE`.
    pub fn set_vring_base(&mut self, index: u32, base: u32) -> Result<(), FrontendError> {
        self.set(
            request::SET_VRING_BASE,
            &message::vring_state(index, base),
            &[],
        )
    }

    /// `SET_VRING_ADDR`, in user addresses.
    pub fn set_vring_addr(
        &mut self,
        index: u32,
        desc: u64,
        used: u64,
        avail: u64,
    ) -> Result<(), FrontendError> {
        let payload = message::vring_addr(index, desc, used, avail);
        self.set(request::SET_VRING_ADDR, &payload, &[])
    }

    /// `SET_VRING_KICK`; without a descriptor the back end has to poll the ring.
    pub fn set_vring_kick(
        &mut self,
        index: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FrontendError> {
        self.set_vring_fd(request::SET_VRING_KICK, index, fd)
    }

    /// `SET_VRING_CALL`; without a descriptor the driver polls.
    pub fn set_vring_call(
        &mut self,
        index: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FrontendError> {
        self.set_vring_fd(request::SET_VRING_CALL, index, fd)
    }

    /// `SET_VRING_ERR`.
    pub fn set_vring_err(
        &mut self,
        index: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FrontendError> {
        self.set_vring_fd(request::SET_VRING_ERR, index, fd)
    }

    fn set_vring_fd(
        &mut self,
        request: u32,
        index: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FrontendError> {
        let no_fd = if fd.is_none() { VRING_NO_FD } else { 0 };
        let payload = (u64::from(index) | no_fd).to_le_bytes();
        self.set(request, &payload, fd.as_slice())
    }

    /// `SET_VRING_ENABLE`.
    pub fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<(), FrontendError> {
        let payload = message::vring_state(index, enable.into());
        self.set(request::SET_VRING_ENABLE, &payload, &[])
    }

    /// `GET_VRING_BASE`: stops the ring and tells the next available index.
    pub fn get_vring_base(&mut self, index: u32) -> Result<u32, FrontendError> {
        let request = request::GET_VRING_BASE;
        self.send(request, 0, &message::vring_state(index, 0), &[])?;
        let reply = self.await_reply(request)?;
        let header = reply.header;
        match <[u8; 8]>::try_from(reply.payload.as_slice()) {
            Ok(p) if p[0..4] == index.to_le_bytes() => {
                Ok(u32::from_le_bytes([p[4], p[5], p[6], p[7]]))
            }
            _ => Err(FrontendError::BadReply { request, header }),
        }
    }
}

/// A request by its name and number.
fn named(id: u32) -> String {
    match request::name(id) {
        Some(name) => format!("{name} (request {id})"),
        None => format!("request {id}"),
    }
}

fn region_entry(region: &Region) -> Vec<u8> {
    let l = region.layout();
    message::region(l.guest_addr, l.size, l.user_addr, l.mmap_offset)
}

fn u64_of(reply: &Reply) -> Result<u64, Header> {
    <[u8; 8]>::try_from(reply.payload.as_slice())
        .map(u64::from_le_bytes)
        .map_err(|_| reply.header)
}

fn timespec(d: Duration) -> Timespec {
    Timespec {
        tv_sec: d.as_secs() as _,
        tv_nsec: d.subsec_nanos() as _,
    }
}

/// Whether `fd` has something to read, or hung up, within `wait`.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, wait: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    match poll(&mut fds, Some(&timespec(wait))) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn pair() -> (Frontend, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        (Frontend::from_stream(a).unwrap(), b)
    }

    fn reply(request: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Header {
            request,
            flags: FLAG_VERSION | FLAG_REPLY,
            size: payload.len() as u32,
        }
        .encode()
        .to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_get_is_answered_while_the_hook_runs_the_other_end() {
        let (mut front, mut back) = pair();
        let mut served = false;
        front.on_wait = Some(Box::new(move || {
            if !served {
                let mut head = [0; HEADER_LEN];
                back.read_exact(&mut head).unwrap();
                assert_eq!(Header::decode(head).request, request::GET_FEATURES);
                back.write_all(&reply(request::GET_FEATURES, &7u64.to_le_bytes()))
                    .unwrap();
                served = true;
            }
        }));
        assert_eq!(front.get_features().unwrap(), 7);
    }

    #[test]
    fn an_acknowledgement_is_asked_for_only_once_negotiated() {
        let (mut front, mut back) = pair();
        front.set_owner().unwrap();
        let mut head = [0; HEADER_LEN];
        back.read_exact(&mut head).unwrap();
        assert_eq!(Header::decode(head).flags, FLAG_VERSION);

        front.set_protocol_features(protocol::REPLY_ACK).unwrap();
        back.read_exact(&mut [0; 20]).unwrap();
        back.write_all(&reply(request::SET_OWNER, &5u64.to_le_bytes()))
            .unwrap();
        let refused = front.set_owner();
        assert!(
            matches!(refused, Err(FrontendError::Nack { value: 5, .. })),
            "{refused:?}"
        );
        back.read_exact(&mut head).unwrap();
        assert_eq!(Header::decode(head).flags, FLAG_VERSION | FLAG_NEED_REPLY);
    }

    #[test]
    fn silence_and_hang_up_are_told_apart() {
        let (mut front, back) = pair();
        front.timeout = Duration::from_millis(10);
        assert!(matches!(front.get_features(), Err(FrontendError::Timeout)));
        drop(back);
        assert!(matches!(front.get_features(), Err(FrontendError::Closed)));
    }

    #[test]
    fn a_reply_to_something_else_is_a_bad_reply() {
        let (mut front, mut back) = pair();
        back.write_all(&reply(request::GET_QUEUE_NUM, &[0; 8]))
            .unwrap();
        assert!(matches!(
            front.get_features(),
            Err(FrontendError::BadReply { .. })
        ));
    }

    #[test]
    fn a_back_end_may_come_to_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let dial = path.clone();
        let thread = std::thread::spawn(move || {
            loop {
                if let Ok(stream) = UnixStream::connect(&dial) {
                    return stream;
                }
            }
        });
        let front = Frontend::listen(&path, Duration::from_secs(5)).unwrap();
        drop(front);
        let mut byte = [0];
        assert_eq!(thread.join().unwrap().read(&mut byte).unwrap(), 0);
        assert!(!path.exists());
    }
}
