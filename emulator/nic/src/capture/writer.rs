//! The thread that writes what captures see to whoever has asked for it, over the connection on which it was asked. If that reader is
//! slow, this thread waits and the captures' queues fill: planes never do. Ends when the reader hangs up.

use std::io::{self, BufWriter};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::form::{Form, Watched};
use super::lines::Lines;
use super::paths::Paths;
use super::pcapng::Pcapng;
use crate::queue::Doorbell;

const BELL: Token = Token(0);
const READER: Token = Token(1);
/// How long the thread sleeps at least, so that planes need not wake it for every frame.
const NAP: Duration = Duration::from_millis(1);
/// What is written between two looks for the reader's end.
const BATCH: usize = 1024;
const BUFFER: usize = 64 << 10;

/// How a reader wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Frames, as pcapng.
    Pcapng,
    /// Events and drops, a JSON object a line.
    Lines,
    /// Frames on which the paths do not agree, a JSON object a line.
    Paths,
}

/// A thread that does not run yet.
pub struct Writer {
    poll: Poll,
    bell: Doorbell,
}

impl Writer {
    /// # Errors
    /// When the system gives no epoll or eventfd.
    pub fn new() -> io::Result<Writer> {
        let poll = Poll::new()?;
        let bell = Doorbell::new(Waker::new(poll.registry(), BELL)?);
        Ok(Writer { poll, bell })
    }

    /// What wakes it.
    #[must_use]
    pub fn bell(&self) -> Doorbell {
        self.bell.clone()
    }

    /// Starts the thread, which writes to `reader` what is watched until that hangs up, or closes its half of the connection and is
    /// given the rest.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(
        self,
        watched: Vec<Watched>,
        reader: Arc<UnixStream>,
        how: Written,
    ) -> io::Result<()> {
        reader.set_nonblocking(false)?;
        let fd = reader.as_raw_fd();
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&fd), READER, Interest::READABLE)?;
        let thread = std::thread::Builder::new().name("capture".to_owned());
        let run = move || {
            // It fails when the reader has gone, who then hears nothing any more.
            let _ = self.write(&watched, &reader, how);
        };
        thread.spawn(run).map(drop)
    }

    fn write(self, watched: &[Watched], reader: &UnixStream, how: Written) -> io::Result<()> {
        let out = BufWriter::with_capacity(BUFFER, reader);
        match how {
            Written::Pcapng => self.run(watched, reader, Pcapng::begin(out, watched)?),
            Written::Lines => self.run(watched, reader, Lines::begin(out, watched)),
            Written::Paths => self.run(watched, reader, Paths::begin(out)),
        }
    }

    fn run(
        mut self,
        watched: &[Watched],
        reader: &UnixStream,
        mut form: impl Form,
    ) -> io::Result<()> {
        let mut events = Events::with_capacity(8);
        let mut ended = false;
        while !ended {
            ended = has_ended(reader);
            if ended {
                // What is there now is written, and nothing that comes after it is wanted.
                watched.iter().for_each(|of| of.capture.close());
            }
            while drain(watched, &mut form)? == BATCH && (ended || !has_ended(reader)) {}
            form.flush()?;
            if ended {
                break;
            }
            self.bell.going_to_sleep();
            if watched.iter().all(|of| of.capture.is_empty()) {
                match self.poll.poll(&mut events, None) {
                    Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                    _ => {}
                }
            }
            self.bell.awake();
            std::thread::sleep(NAP);
        }
        form.end(watched)
    }
}

/// Writes some of what waits; how much.
fn drain(watched: &[Watched], form: &mut impl Form) -> io::Result<usize> {
    let (mut written, mut first) = (0, 0);
    for of in watched {
        let mut left = BATCH;
        while left > 0
            && let Some(item) = of.capture.take()
        {
            let done = form.item(first, of, &item);
            of.capture.recycle(item);
            done?;
            left -= 1;
        }
        written = written.max(BATCH - left);
        first += of.capture.wanted().ports.len();
    }
    Ok(written)
}

/// Whether the reader has closed its half of the connection, or has gone. What it says is of no meaning.
fn has_ended(reader: &UnixStream) -> bool {
    let mut said = [0; 4096];
    // One that goes on talking is not listened to for ever.
    for _ in 0..16 {
        match recv(reader.as_fd(), &mut said, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => return true,
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(_) => return true,
        }
    }
    false
}
