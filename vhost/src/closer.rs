//! Descriptors that others have sent, and connections on which they send some, are closed where nobody waits for it: on a
//! thread of their own.
//!
//! To close a descriptor can take as long as its sender likes. The last `close` of a TCP socket with `SO_LINGER` waits for the
//! peer, that of a file of FUSE for its server; and with a Unix socket everything is closed that waits in it to be received,
//! such descriptors among them. To give a guest's memory back takes a fifth of a second for each GiB. The watchdog ends what a signal can end. What it cannot end holds up the thread here, and with
//! it whatever else the same sender has sent; [`Closer::pending`] says how much that is. Never closes anything on the caller's
//! thread.

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
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::watchdog;

/// How long the thread stays when there is nothing to close: who comes and goes all the time needs no new one each time.
const IDLE: Duration = Duration::from_millis(200);
/// It does nothing that takes room.
const STACK: usize = 64 << 10;
/// Descriptors that a message can bring (`SCM_MAX_FD`). All of them are taken: the kernel would close the others at once.
const MOST_FDS: usize = 253;

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
        if queue.has_thread {
            self.0.bell.notify_one();
            return;
        }
        // Without it nobody would interrupt the thread, which is the same as if it had nothing to interrupt it for.
        let _ = watchdog::start();
        let shared = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("close".to_owned());
        let thread = thread.stack_size(STACK).spawn(move || shared.run());
        // If there are too many threads, the next one to close something tries again.
        queue.has_thread = thread.is_ok();
    }

    /// How many descriptors have not been closed yet, or memories given back.
    pub fn pending(&self) -> usize {
        let queue = self.0.lock();
        queue.waiting.len() + queue.closing
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
    use std::time::Instant;

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
    fn its_thread_comes_when_it_is_needed() {
        let closer = Closer::default();
        for _ in 0..2 {
            closer.close(UnixStream::pair().unwrap().0.into());
            until(|| closer.pending() == 0);
            until(|| !closer.0.lock().has_thread);
        }
    }
}
