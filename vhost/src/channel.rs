//! A stream socket as a sequence of messages with their descriptors.
//!
//! Never blocks and never reads beyond the message it is in, so that descriptors stay with the
//! message they came with. Half a message is kept until the rest comes. Whoever is given a descriptor may
//! drop it: what may make that wait is closed aside, and something as useless stands for it. Knows headers,
//! not requests.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the longest message"
)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, sendmsg, shutdown,
};
use rustix::pipe::PipeFlags;

use crate::closer::{Aside, Closer};
use crate::descriptor;
use crate::error::Malformed;
use crate::error::SessionRefusal;
use crate::eventfd::SignalCost;
use crate::message::{HEADER_LEN, Header, MAX_FDS};

/// Bytes that are read at a time.
const MAX_READ: usize = 4096;

/// What all messages of a protocol begin with.
pub trait Head: Copy {
    /// An array of its bytes.
    type Bytes: for<'a> TryFrom<&'a [u8]>;

    /// Reads it.
    ///
    /// # Errors
    /// It begins no message, or one that is longer than any that is read.
    fn parse(bytes: Self::Bytes) -> Result<Self, Malformed>;

    /// How many bytes of the message follow.
    fn payload_len(&self) -> usize;
}

impl Head for Header {
    type Bytes = [u8; HEADER_LEN];

    fn parse(bytes: [u8; HEADER_LEN]) -> Result<Header, Malformed> {
        Header::parse(bytes)
    }

    fn payload_len(&self) -> usize {
        self.size as usize
    }
}

/// What came out of a [`Channel`].
#[derive(Debug)]
pub enum Received<H> {
    /// A whole message.
    Message(H, Vec<u8>, Vec<OwnedFd>),
    /// Nothing more for now.
    Nothing,
    /// The other side is gone.
    HungUp,
}

/// See the module.
#[derive(Debug)]
pub struct Channel<H> {
    stream: Aside<UnixStream>,
    /// The message so far, header included.
    bytes: Vec<u8>,
    header: Option<H>,
    fds: Vec<OwnedFd>,
    /// The sockets and files among the descriptors of this message, or of the last one, once more: whoever drops one of those
    /// then is not the last who has it, and neither closes what was put into it nor gives its memory back.
    spares: Vec<Aside<OwnedFd>>,
    closer: Closer,
    /// What it costs to send: whoever waits for the other end, thousands perhaps, is woken by that.
    cost: SignalCost,
    /// Another process still has the stream, and goes on with it if this one does not.
    lent: bool,
}

impl<H: Head> Channel<H> {
    /// What is sent on `stream`, of which `closer` closes what may make that wait.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(stream: UnixStream, closer: &Closer) -> io::Result<Channel<H>> {
        let stream = Aside::new(stream, closer);
        stream.set_nonblocking(true)?;
        Ok(Channel {
            stream,
            bytes: Vec::new(),
            header: None,
            fds: Vec::new(),
            spares: Vec::new(),
            closer: closer.clone(),
            cost: SignalCost::default(),
            lent: false,
        })
    }

    /// A channel that goes on where another process has [saved](Channel::save) it, which has it until it is [ours](Channel::own).
    ///
    /// # Errors
    /// As of [`Channel::new`]; or what was saved begins no message.
    pub(crate) fn restore(
        stream: UnixStream,
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
        closer: &Closer,
    ) -> Result<Channel<H>, SessionRefusal> {
        let mut channel = Channel::new(stream, closer).map_err(SessionRefusal::Socket)?;
        let head = bytes.get(..size_of::<H::Bytes>());
        let head = head.and_then(|head| H::Bytes::try_from(head).ok());
        channel.header = head.map(H::parse).transpose()?;
        (channel.bytes, channel.fds) = (bytes, fds);
        channel.lent = true;
        Ok(channel)
    }

    /// The stream is this process' from now on.
    pub(crate) fn own(&mut self) {
        self.lent = false;
    }

    /// The message so far, and the descriptors that have come with it.
    pub(crate) fn save(&self) -> (&[u8], &[OwnedFd]) {
        (&self.bytes, &self.fds)
    }

    /// The next message, if all of it has come.
    ///
    /// # Errors
    /// What came is no message, or the socket failed; there is no going on.
    pub fn receive(&mut self) -> Result<Received<H>, SessionRefusal> {
        let head = size_of::<H::Bytes>();
        if self.bytes.is_empty() {
            self.spares.clear();
        }
        loop {
            let payload = self.header.map_or(0, |header| header.payload_len());
            let missing = (head + payload).saturating_sub(self.bytes.len());
            if missing > 0 {
                match self.read(missing)? {
                    Some(0) => return Ok(Received::HungUp),
                    Some(_) => continue,
                    None if self.fds.iter().all(descriptor::holds_nothing) => {
                        return Ok(Received::Nothing);
                    }
                    // We would hold whatever it holds, our own connection perhaps, and never see it end.
                    None => return Err(SessionRefusal::HalfMessage),
                }
            }
            if let Some(header) = self.header.take() {
                let payload = self.bytes.split_off(head);
                self.bytes.clear();
                return Ok(Received::Message(
                    header,
                    payload,
                    std::mem::take(&mut self.fds),
                ));
            }
            if let Ok(head) = H::Bytes::try_from(&self.bytes) {
                self.header = Some(H::parse(head)?);
            }
        }
    }

    /// Reads at most `missing` bytes; `None` if there are none, 0 at the end of the stream.
    fn read(&mut self, missing: usize) -> Result<Option<usize>, SessionRefusal> {
        let mut bytes = [0; MAX_READ];
        let Some(bytes) = bytes.get_mut(..missing.min(MAX_READ)) else {
            return Ok(None);
        };
        let mut fds = Vec::new();
        let got = Closer::receive(&*self.stream, bytes, &mut fds);
        for fd in fds {
            self.keep(fd)?;
        }
        let got = match got {
            Ok(got) => got,
            Err(Errno::AGAIN) => return Ok(None),
            // The front end died with replies unread.
            Err(Errno::CONNRESET) => return Ok(Some(0)),
            Err(errno) => return Err(SessionRefusal::Socket(errno.into())),
        };
        if self.fds.len() > MAX_FDS {
            return Err(SessionRefusal::TooManyDescriptors);
        }
        self.bytes
            .extend_from_slice(bytes.get(..got).unwrap_or(&[]));
        Ok(Some(got))
    }

    /// Keeps a descriptor for the message that it came with.
    fn keep(&mut self, fd: OwnedFd) -> Result<(), SessionRefusal> {
        if descriptor::is_eventfd(&fd).unwrap_or(false) {
            self.fds.push(fd);
            return Ok(());
        }
        let is_of_use = descriptor::is_unix_socket(&fd) || descriptor::is_memfd(&fd);
        // What closes it is there before anything can fail.
        let fd = Aside::new(fd, &self.closer);
        let given = match is_of_use {
            true => fd.try_clone(),
            // Nothing that a front end may give us is a pipe either.
            false => rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
                .map(|(pipe, _)| pipe)
                .map_err(Into::into),
        };
        self.fds.push(given?);
        if is_of_use {
            self.spares.push(fd);
        }
        Ok(())
    }

    /// Sends all of `bytes`, or gives up at once. A front end that has hung up does not matter:
    /// [`Channel::receive`] finds out.
    ///
    /// # Errors
    /// The other side does not read, or the socket failed.
    pub fn send(&self, bytes: &[u8]) -> Result<(), SessionRefusal> {
        self.send_with(bytes, None)
    }

    /// The same, and a file with it.
    ///
    /// # Errors
    /// As of [`Channel::send`].
    pub fn send_with(
        &self,
        bytes: &[u8],
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(), SessionRefusal> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(file) = &file {
            // There is room for one.
            control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(file)));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let iov = [IoSlice::new(bytes)];
        let sent = self
            .cost
            .timed(|| sendmsg(&*self.stream, &iov, &mut control, flags));
        if self.cost.is_too_high() {
            return Err(SessionRefusal::Blocks);
        }
        match sent {
            Ok(sent) if sent == bytes.len() => Ok(()),
            Ok(_) | Err(Errno::AGAIN) => Err(SessionRefusal::Unread),
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(errno) => Err(SessionRefusal::Socket(errno.into())),
        }
    }
}

impl<H> Drop for Channel<H> {
    /// The front end sees it at once, whenever the socket is closed.
    fn drop(&mut self) {
        if !self.lent {
            let _ = shutdown(&*self.stream, Shutdown::Both);
        }
    }
}

impl<H> AsRawFd for Channel<H> {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl<H> AsFd for Channel<H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::MemfdFlags;

    use super::*;
    use crate::eventfd::ends_with_watchers;

    fn pair() -> (Channel<Header>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Channel::new(ours, &Closer::default()).unwrap(), theirs)
    }

    #[test]
    fn a_channel_whose_other_end_thousands_watch_is_not_answered_for_long() {
        let (channel, theirs) = pair();
        theirs.set_nonblocking(true).unwrap();
        let fd = OwnedFd::from(theirs.try_clone().unwrap());
        let mut answered = 0;
        let over = ends_with_watchers(&fd, |cost| match channel.send(b"answer") {
            Ok(()) => {
                answered += 1;
                rustix::io::read(&theirs, &mut [0; 64]).unwrap();
            }
            Err(SessionRefusal::Blocks) => cost.is_over(),
            Err(other) => panic!("{other}"),
        });
        assert_ne!(over, Some(false), "{answered} answers");
    }

    #[test]
    fn whoever_drops_the_memory_of_a_message_is_not_the_last_who_has_it() {
        let (mut channel, theirs) = pair();
        let name = format!("channel-test-{}", std::process::id());
        let open = || {
            let all = std::fs::read_dir("/proc/self/fd").unwrap();
            let links = all.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
            links
                .filter(|to| to.to_string_lossy().contains(&name))
                .count()
        };
        let memory = rustix::fs::memfd_create(&name, MemfdFlags::CLOEXEC).unwrap();
        // GET_FEATURES.
        let head = [1, 1, 0].map(u32::to_ne_bytes);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [memory.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let iov = [IoSlice::new(head.as_flattened())];
        sendmsg(&theirs, &iov, &mut control, SendFlags::empty()).unwrap();
        drop(memory);
        let Received::Message(_, _, fds) = channel.receive().unwrap() else {
            panic!("all of it has come");
        };
        assert_eq!((fds.len(), open()), (1, 2));
        drop(fds);
        assert_eq!(open(), 1);
        assert!(matches!(channel.receive(), Ok(Received::Nothing)));
        while channel.closer.pending() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(open(), 0);
    }
}
