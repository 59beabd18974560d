//! The client's side of the control socket. Waits for an answer, but not for good.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::protocol::{MAX_LINE, MOST_BROUGHT, PROTOCOL, Request, Response};

/// How long an answer may take. On the virtual clock a guest that does not stop holds it up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// Nobody serves the socket.
    #[error(
        "no vfnic at {socket}: {source} (start one with 'vfnic run', or name its socket with --ctl)"
    )]
    Connect {
        /// The control socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("vfnic at {socket} does not answer: {source}")]
    Io {
        /// The control socket.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// The other side speaks another version of the protocol.
    #[error("vfnic at {socket} is of another version: {why}")]
    Version {
        /// The control socket.
        socket: String,
        /// What it says.
        why: String,
    },
    /// The answer is not of this version's protocol.
    #[error("vfnic at {socket} answers in another version's words")]
    Protocol {
        /// The control socket.
        socket: String,
    },
    /// A request that the other side would cut off.
    #[error("the request has {0} bytes, and {MAX_LINE} are the most that go into one: split it")]
    TooLong(usize),
}

/// A connection to the control socket of a running emulator, of the same version of the protocol.
#[derive(Debug)]
pub struct Connection {
    socket: String,
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects to the emulator at `socket` and agrees on the version of the protocol.
    ///
    /// # Errors
    /// [`CtlError`].
    pub fn open(socket: &Path) -> Result<Connection, CtlError> {
        let name = socket.display().to_string();
        let stream = UnixStream::connect(socket).map_err(|source| CtlError::Connect {
            socket: name.clone(),
            source,
        })?;
        let mut connection = Connection {
            socket: name,
            stream: BufReader::new(stream),
        };
        connection.agree()?;
        Ok(connection)
    }

    fn agree(&mut self) -> Result<(), CtlError> {
        let stream = self.stream.get_ref();
        let set = stream.set_read_timeout(Some(PATIENCE));
        set.map_err(|source| self.broken(source))?;
        let hello = Request::Hello {
            protocol: Some(PROTOCOL),
        };
        match self.ask(&hello)? {
            Response::Hello { protocol, .. } if protocol == PROTOCOL => Ok(()),
            Response::Hello { protocol, program } => Err(self.foreign(format!(
                "{program} speaks version {protocol} of the control protocol"
            ))),
            Response::Refused(why) => Err(self.foreign(why)),
            _ => Err(CtlError::Protocol {
                socket: self.socket.clone(),
            }),
        }
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`CtlError`]; a refusal is an answer, not an error.
    pub fn ask(&mut self, request: &Request) -> Result<Response, CtlError> {
        self.ask_with(request, &[])
    }

    /// The same with descriptors that go along, no more than a device has queues.
    ///
    /// # Errors
    /// As of [`Connection::ask`].
    pub fn ask_with(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Response, CtlError> {
        let line = serde_json::to_string(request).map_err(|e| self.broken(e.into()))?;
        if line.len() > MAX_LINE {
            return Err(CtlError::TooLong(line.len()));
        }
        let answer = self
            .exchange(&line, fds)
            .map_err(|source| self.broken(source))?;
        serde_json::from_str(&answer).map_err(|_| CtlError::Protocol {
            socket: self.socket.clone(),
        })
    }

    fn exchange(&mut self, line: &str, fds: &[BorrowedFd<'_>]) -> io::Result<String> {
        self.stream.get_mut().write_all(line.as_bytes())?;
        // Descriptors come with the line whose end they come with.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_BROUGHT))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let end = [IoSlice::new(b"\n")];
        sendmsg(
            self.stream.get_ref(),
            &end,
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            let what = "it has closed the connection";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        Ok(answer)
    }

    /// What follows the last answer, when that was [`Response::Stream`]: however long it takes.
    ///
    /// # Errors
    /// [`CtlError`].
    pub fn into_stream(self) -> Result<BufReader<UnixStream>, CtlError> {
        let set = self.stream.get_ref().set_read_timeout(None);
        set.map_err(|source| self.broken(source))?;
        Ok(self.stream)
    }

    fn broken(&self, source: io::Error) -> CtlError {
        let source = match source.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(
                io::ErrorKind::TimedOut,
                format!("it has said nothing for {PATIENCE:?}"),
            ),
            _ => source,
        };
        CtlError::Io {
            socket: self.socket.clone(),
            source,
        }
    }

    fn foreign(&self, why: String) -> CtlError {
        CtlError::Version {
            socket: self.socket.clone(),
            why,
        }
    }
}

/// Asks the emulator at `socket` one thing and waits for the answer.
///
/// # Errors
/// [`CtlError`]; a refusal is an answer, not an error.
pub fn ask(socket: &Path, request: &Request) -> Result<Response, CtlError> {
    Connection::open(socket)?.ask(request)
}
