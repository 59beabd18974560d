//! Requests of the back end to the front end, over the socket that SET_BACKEND_REQ_FD brought.
//!
//! Sends a request at a time, hears the replies in order, never waits for one. What a request says
//! is the session's.

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::SendFlags;

use crate::closer::Closer;
use crate::descriptor;
use crate::error::SessionRefusal;
use crate::eventfd::EventFdError;
use crate::message::{self, ACK_LEN};

/// See the module.
#[derive(Debug)]
pub(crate) struct BackendRequests {
    fd: OwnedFd,
    /// Numbers of the requests that have not been answered, oldest first.
    awaited: VecDeque<u32>,
    /// The reply so far.
    bytes: Vec<u8>,
}

impl BackendRequests {
    /// Requests over this socket, which must be one end of a pair.
    pub(crate) fn new(fd: OwnedFd) -> Result<BackendRequests, SessionRefusal> {
        if !descriptor::is_empty_pair_end(&fd) {
            return Err(EventFdError::NotAPair.into());
        }
        Ok(BackendRequests {
            fd,
            awaited: VecDeque::new(),
            bytes: Vec::new(),
        })
    }

    /// Sends a request, and notes that a reply is due if it is to be answered; `false` if the front
    /// end does not take it.
    pub(crate) fn send(&mut self, request: u32, payload: &[u8], need_reply: bool) -> bool {
        let message = message::backend_request(request, payload, need_reply);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let sent = rustix::net::send(&self.fd, &message, flags) == Ok(message.len());
        if sent && need_reply {
            self.awaited.push_back(request);
        }
        sent
    }

    /// Whether a reply is due.
    pub(crate) fn awaits_reply(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// The socket, which is to be closed where nobody waits for that: what the front end has put into it is closed with it.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Takes the replies that have come, and gives to `gone` what is to be closed where nobody waits for it. Whether the front end succeeded is its own
    /// affair.
    ///
    /// # Errors
    /// What came is no reply to what was asked, or nothing was, or the socket failed.
    pub(crate) fn hear(
        &mut self,
        gone: &mut Vec<Box<dyn Any + Send>>,
    ) -> Result<(), SessionRefusal> {
        while let Some(&request) = self.awaited.front() {
            let mut bytes = [0; ACK_LEN];
            let (room, _) = bytes.split_at_mut(ACK_LEN.saturating_sub(self.bytes.len()));
            let mut fds = Vec::new();
            let got = Closer::receive(&self.fd, room, &mut fds);
            gone.extend(fds.into_iter().map(|fd| Box::new(fd) as _));
            match got {
                Ok(0) | Err(Errno::CONNRESET) => {
                    // Nobody will answer; the session's own socket says what that means.
                    self.awaited.clear();
                    return Ok(());
                }
                Ok(got) => self.bytes.extend(room.iter().take(got)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(SessionRefusal::Socket(errno.into())),
            }
            if let Some(reply) = self.bytes.first_chunk() {
                if !message::is_reply_to(request, reply) {
                    return Err(SessionRefusal::NoReply(request));
                }
                self.bytes.clear();
                self.awaited.pop_front();
            }
        }
        // What nobody asked for would stay there, and the descriptors with it.
        if descriptor::is_empty(&self.fd) {
            Ok(())
        } else {
            Err(SessionRefusal::NotAsked)
        }
    }
}

impl AsFd for BackendRequests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
