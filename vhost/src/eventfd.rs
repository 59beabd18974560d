//! Kick, call and error notifications: eventfds which nobody can make us wait on.
//!
//! vhost-user allows pipes where a system has no eventfd; Linux has, so they are refused. A write to
//! a full pipe would block, a read from a closed one spin. But User-Mode Linux, whose interrupts
//! come from SIGIO, wants to be called through a socket, so a socket is good enough to signal on,
//! though not to wait on. The counter itself is never used: a notification carries no number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SendFlags};
use thiserror::Error;

/// A descriptor that cannot serve as a notification.
#[derive(Debug, Error)]
pub enum EventFdError {
    /// The front end sent a pipe, a file, a socket to wait on...
    #[error("the descriptor is not an eventfd")]
    NotAnEventFd,
    /// The kernel refused to look at the descriptor or to make it non-blocking.
    #[error("cannot use the eventfd")]
    Io(#[from] io::Error),
}

/// An eventfd in non-blocking mode, or one end of a socket pair. Clones are the same descriptor.
///
/// The mode belongs to the open file, which the front end shares: it can change it back, and then
/// fill the counter, to make [`EventFd::signal`] wait for it. Nothing short of a thread of its own
/// for each front end prevents that.
#[derive(Debug, Clone)]
pub struct EventFd {
    fd: Arc<OwnedFd>,
    is_socket: bool,
}

impl EventFd {
    /// A new eventfd with a counter of zero.
    ///
    /// # Errors
    /// The process or the system has too many open files.
    pub fn new() -> io::Result<EventFd> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(EventFd {
            fd: Arc::new(fd),
            is_socket: false,
        })
    }

    /// Takes a descriptor to [`EventFd::drain`], or to signal, that came from a front end.
    ///
    /// # Errors
    /// It is not an eventfd; it is closed then.
    pub fn from_fd(fd: OwnedFd) -> Result<EventFd, EventFdError> {
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if link.as_os_str() != "anon_inode:[eventfd]" {
            return Err(EventFdError::NotAnEventFd);
        }
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(io::Error::from)?;
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
        }
        Ok(EventFd {
            fd: Arc::new(fd),
            is_socket: false,
        })
    }

    /// Takes a descriptor to [`EventFd::signal`], and nothing else, that came from a front end.
    ///
    /// # Errors
    /// It is neither an eventfd nor a Unix socket; it is closed then.
    pub fn to_signal(fd: OwnedFd) -> Result<EventFd, EventFdError> {
        if rustix::net::sockopt::socket_domain(&fd) != Ok(AddressFamily::UNIX) {
            return EventFd::from_fd(fd);
        }
        Ok(EventFd {
            fd: Arc::new(fd),
            is_socket: true,
        })
    }

    /// Notifies the other side. A full counter or socket is a notification already pending.
    pub fn signal(&self) {
        let one = 1u64.to_ne_bytes();
        let _ = if self.is_socket {
            rustix::net::send(&self.fd, &one, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        } else {
            rustix::io::write(&self.fd, &one)
        };
    }

    /// Takes what was notified; `true` if there was anything.
    pub fn drain(&self) -> bool {
        let mut counter = [0; 8];
        rustix::io::read(&self.fd, &mut counter).is_ok()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_drained_once() {
        let ours = EventFd::new().unwrap();
        let theirs = EventFd::from_fd(ours.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(!ours.drain());
        theirs.signal();
        theirs.signal();
        assert!(ours.drain());
        assert!(!ours.drain());
    }

    #[test]
    fn a_blocking_full_eventfd_does_not_block() {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        EventFd::from_fd(fd).unwrap().signal();
    }

    #[test]
    fn a_pipe_is_refused() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        for fd in [read, write] {
            let again = fd.try_clone().unwrap();
            for refused in [EventFd::from_fd(fd), EventFd::to_signal(again)] {
                assert!(matches!(refused, Err(EventFdError::NotAnEventFd)));
            }
        }
    }

    #[test]
    fn a_socket_is_only_good_to_signal_on() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(EventFd::from_fd(ours.try_clone().unwrap().into()).is_err());
        let call = EventFd::to_signal(ours.into()).unwrap();
        call.signal();
        let mut one = [0; 8];
        std::io::Read::read_exact(&mut theirs, &mut one).unwrap();
        assert_eq!(one, 1u64.to_ne_bytes());
        // Neither a full one nor one that is closed stops us.
        for _ in 0..100_000 {
            call.signal();
        }
        drop(theirs);
        call.signal();
    }
}
