//! Descriptors that others have sent, and connections on which they send some, are closed where nobody waits for it: on a
//! thread of their own.
//!
//! To close a descriptor can take as long as its sender likes. The last `close` of a TCP socket with `SO_LINGER` waits for the
//! peer, that of a file of FUSE for its server; and with a Unix socket everything is closed that waits in it to be received,
//! such descriptors among them. To give a guest's memory back takes the longer the more of it was touched. The watchdog ends what a
//! signal can end. What it cannot end holds up the thread here, and with it whatever else the same sender has sent;
//! [`Closer::pending`] says how much that is. Never closes anything on the caller's thread.

#![expect(clippy::arithmetic_side_effects, reason = "a count of descriptors")]

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::watchdog;

/// How long the thread stays when there is nothing to close: who comes and goes all the time needs no new one each time.
const IDLE: Duration = Duration::from_millis(200);
/// Descriptors of a sender that have not been closed yet, at most, when more of it is served: as many as one message has, if it is the longest one.
const UNCLOSED: usize = 256;
/// When it asks for room again.
const LATER: Duration = Duration::from_millis(1);
/// How long a sender waits for room.
const PATIENCE: Duration = Duration::from_secs(1);
/// It does nothing that takes room.
const STACK: usize = 64 << 10;
/// Descriptors that a message can bring (`SCM_MAX_FD`). All of them are taken: the kernel would close the others at once.
pub const MOST_FDS: usize = 253;

/// Whether there is room for more of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Enough,
    /// Not now.
    None,
    /// What it has sent is not being closed.
    Never,
}

/// There is no room for a sender.
#[derive(Clone, Copy, Debug)]
pub struct Full {
    since: Instant,
    /// When to ask again.
    pub ask_at: Instant,
}

/// Closes descriptors, one after the other. Clones are the same one; each sender has one of its own, so that none waits for
/// another's.
#[derive(Clone, Debug, Default)]
pub struct Closer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Box<dyn Any + Send>>,
    closing: usize,
    has_thread: bool,
}

impl Closer {
    /// Has a descriptor closed.
    pub fn close(&self, fd: OwnedFd) {
        self.let_go(Box::new(fd));
    }

    /// Has anything dropped.
    pub fn let_go(&self, held: Box<dyn Any + Send>) {
        let mut queue = self.0.lock();
        queue.waiting.push_back(held);
        self.0.bell.notify_one();
        self.attend(&mut queue);
    }

    /// How many descriptors have not been closed yet, or memories given back.
    pub fn pending(&self) -> usize {
        let mut queue = self.0.lock();
        self.attend(&mut queue);
        queue.waiting.len() + queue.closing
    }

    /// Whether that is so much that nothing more of the same sender is to be served now: it may not fill the table of descriptors.
    pub fn is_full(&self) -> bool {
        self.pending() > UNCLOSED
    }

    /// What becomes of a sender of whom there is more to be served. `full` is what this has said of it before.
    pub fn room(&self, now: Instant, full: &mut Option<Full>) -> Room {
        if !self.is_full() {
            *full = None;
            return Room::Enough;
        }
        let since = full.map_or(now, |full| full.since);
        let ask_at = now.checked_add(LATER).unwrap_or(now);
        *full = Some(Full { since, ask_at });
        match now.saturating_duration_since(since) < PATIENCE {
            true => Room::None,
            false => Room::Never,
        }
    }

    /// Sees to it that there is a thread for what waits. If there are too many threads, whoever asks next tries again.
    fn attend(&self, queue: &mut Queue) {
        if queue.has_thread || queue.waiting.is_empty() {
            return;
        }
        // If the watchdog cannot be started, the thread closes all the same; a `close` that hangs is not interrupted then.
        let _ = watchdog::start();
        let shared = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("close".to_owned());
        let thread = thread.stack_size(STACK).spawn(move || shared.run());
        queue.has_thread = thread.is_ok();
    }

    /// Reads from a socket without waiting, all descriptors that come with the bytes included; how many bytes.
    ///
    /// # Errors
    /// The kernel's, `AGAIN` if there is nothing to be read.
    pub fn receive(
        socket: impl AsFd,
        bytes: &mut [u8],
        fds: &mut Vec<OwnedFd>,
    ) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = loop {
            let mut iov = [IoSliceMut::new(bytes)];
            // A process without descriptors left has those that it cannot have closed in this call.
            let got = watchdog::watched(|| recvmsg(&socket, &mut iov, &mut control, flags));
            match got {
                Err(Errno::INTR) => {}
                got => break got?,
            }
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        if got.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Errno::MFILE);
        }
        Ok(got.bytes)
    }

    /// Reads from a socket on which no descriptors are to come, without waiting; those that come nevertheless are closed aside.
    /// How many bytes it is.
    ///
    /// # Errors
    /// The kernel's, `AGAIN` if there is nothing to be read.
    pub fn read(&self, socket: impl AsFd, bytes: &mut [u8]) -> Result<usize, Errno> {
        let mut fds = Vec::new();
        let got = Closer::receive(socket, bytes, &mut fds);
        fds.into_iter().for_each(|fd| self.close(fd));
        got
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(held) = queue.waiting.pop_front() {
                queue.closing = 1;
                drop(queue);
                watchdog::watched(|| drop(held));
                queue = self.lock();
                queue.closing = 0;
                continue;
            }
            let waited = self.bell.wait_timeout(queue, IDLE);
            let timeout;
            (queue, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() && queue.waiting.is_empty() {
                queue.has_thread = false;
                return;
            }
        }
    }
}

impl Drop for Shared {
    /// What still waits here has found no thread, and stays open: to close it now would have the caller wait.
    fn drop(&mut self) {
        let queue = self.queue.get_mut().unwrap_or_else(PoisonError::into_inner);
        std::mem::forget(std::mem::take(&mut queue.waiting));
    }
}

/// What holds a descriptor that is not to be closed on the thread that drops it.
pub struct Aside<T: Into<OwnedFd>> {
    inner: Option<T>,
    closer: Closer,
}

impl<T: Into<OwnedFd>> Aside<T> {
    /// Has `closer` close it when it is dropped.
    pub fn new(inner: T, closer: &Closer) -> Aside<T> {
        Aside {
            inner: Some(inner),
            closer: closer.clone(),
        }
    }

    /// Gives it to whoever can wait for it.
    pub fn into_inner(mut self) -> T {
        self.inner.take().expect("taken here and in drop only")
    }
}

impl<T: Into<OwnedFd>> Deref for Aside<T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("taken in drop only")
    }
}

impl<T: Into<OwnedFd>> DerefMut for Aside<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("taken in drop only")
    }
}

impl<T: Into<OwnedFd>> Drop for Aside<T> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.closer.close(inner.into());
        }
    }
}

impl<T: Into<OwnedFd> + fmt::Debug> fmt::Debug for Aside<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};

    use super::*;

    /// A socket whose last close waits for an hour, and who keeps its peer from reading.
    fn lingering() -> (OwnedFd, (TcpListener, TcpStream)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        sockopt::set_socket_linger(&socket, Some(Duration::from_secs(3600))).unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.write(&[0; 1 << 16]).is_ok() {}
        (socket.into(), (listener, peer))
    }

    fn until(what: impl Fn() -> bool) {
        let began = Instant::now();
        while !what() {
            assert!(began.elapsed() < Duration::from_secs(10), "it is closed");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn nobody_waits_for_a_socket_that_lingers() {
        let closer = Closer::default();
        let (fd, _peer) = lingering();
        let began = Instant::now();
        closer.close(fd);
        assert!(began.elapsed() < Duration::from_secs(5));
        // The watchdog ends the wait, so that what comes behind it is closed as well.
        let (ours, theirs) = UnixStream::pair().unwrap();
        closer.close(theirs.into());
        until(|| closer.pending() == 0);
        assert_eq!(rustix::io::read(&ours, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn what_waits_in_a_socket_is_closed_aside_whether_it_is_read_or_not() {
        let closer = Closer::default();
        for read in [true, false] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (fd, _peer) = lingering();
            let fds = [fd.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
            let iov = [std::io::IoSlice::new(b"x")];
            sendmsg(&theirs, &iov, &mut control, SendFlags::empty()).unwrap();
            drop(fd);
            let began = Instant::now();
            let ours = Aside::new(ours, &closer);
            if read {
                assert_eq!(closer.read(&*ours, &mut [0; 8]), Ok(1));
                assert_eq!(closer.read(&*ours, &mut [0; 8]), Err(Errno::AGAIN));
            }
            drop(ours);
            assert!(began.elapsed() < Duration::from_secs(5));
            until(|| closer.pending() == 0);
        }
    }

    #[test]
    fn what_finds_no_thread_is_closed_by_nobody_who_would_wait_for_it() {
        let closer = Closer::default();
        let (fd, _peer) = lingering();
        closer.0.lock().waiting.push_back(Box::new(fd));
        let began = Instant::now();
        drop(closer);
        assert!(began.elapsed() < Duration::from_secs(5));
        // One that is asked how much waits looks for a thread again.
        let closer = Closer::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        closer.0.lock().waiting.push_back(Box::new(theirs));
        until(|| closer.pending() == 0);
        assert_eq!(rustix::io::read(&ours, &mut [0; 1]), Ok(0));
    }

    #[test]
    fn its_thread_comes_when_it_is_needed() {
        let closer = Closer::default();
        for _ in 0..2 {
            closer.close(UnixStream::pair().unwrap().0.into());
            until(|| closer.pending() == 0);
            until(|| !closer.0.lock().has_thread);
        }
    }
}
