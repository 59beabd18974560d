//! The control socket: one line in, one line out, for any number of clients. Never waits for a client, and serves none for
//! long: VFs and other clients have their turn in between.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::process::Uid;
use vf_vhost::closer::{Aside, Closer};
use vf_vhost::listener::Listener;

use super::protocol::{MAX_LINE, MAX_OBSERVER_LINE, MOST_BROUGHT, Request, Response};
use super::stream::Takeover;
use crate::kept::Progress;

/// Clients at a time. One more takes the place of the one that has been quiet for longest.
const MAX_CLIENTS: usize = 64;
/// How long the requests of one client are answered at a time, if it has sent several.
const TURN: Duration = Duration::from_micros(500);
/// How long to wait before trying again to accept a client, when the process has too many open files.
const RETRY: Duration = Duration::from_millis(100);

/// Clients that are accepted in a row.
const ACCEPTS: usize = 16;

const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// What clients of a socket may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a line.
    pub line: usize,
    /// Connections that somebody else writes to since it was asked for there. One more ends the oldest; `None`: who is asked decides.
    pub streams: Option<usize>,
}

impl Bounds {
    /// What administrators may have.
    pub const ADMINISTRATORS: Bounds = Bounds {
        line: MAX_LINE,
        streams: None,
    };
    /// What observers may have, who ask for little and whom nobody else can end.
    pub const OBSERVERS: Bounds = Bounds {
        line: MAX_OBSERVER_LINE,
        streams: Some(8),
    };
}

/// The listening socket and everybody connected to it.
pub struct Clients {
    listener: Listener,
    tokens: Range<usize>,
    next_token: usize,
    clients: BTreeMap<usize, Client>,
    /// Closes the descriptors that they have sent.
    closer: Closer,
    bounds: Bounds,
    /// Connections that others have, the oldest first.
    handed_over: VecDeque<Weak<std::os::unix::net::UnixStream>>,
    /// When to try again to accept clients.
    retry_at: Option<Instant>,
    /// Which changes have been written down, whose answers may go.
    kept: Progress,
}

/// An answer, and when it may go.
pub struct Answer {
    /// What is answered.
    pub response: Response,
    /// It waits until [`Clients::keep`] has told of this change, and says so if that could not be written down; 0 is none.
    pub change: u64,
    /// What has the client's connection then.
    pub takeover: Option<Takeover>,
}

impl From<Response> for Answer {
    /// One that goes at once.
    fn from(response: Response) -> Answer {
        Answer {
            response,
            change: 0,
            takeover: None,
        }
    }
}

/// What has come along with a request.
#[derive(Debug)]
pub struct Brought {
    /// Descriptors, in their order.
    pub fds: Vec<Aside<OwnedFd>>,
    /// Whose process has connected, if that is known.
    pub user: Option<Uid>,
}

struct Client {
    stream: Aside<UnixStream>,
    closer: Closer,
    input: Vec<u8>,
    /// How much of `input` is known to have no end of a line.
    searched: usize,
    /// The descriptors that have come with what is in `input`: of more than any request is about, the last ones.
    brought: VecDeque<Aside<OwnedFd>>,
    output: Vec<u8>,
    /// An answer that waits for a change to be written down.
    waiting: Option<(u64, Response)>,
    finished: bool,
    /// When it last had something to say.
    heard: Instant,
    /// What is to have its connection when it has been answered.
    takeover: Option<Takeover>,
}

/// What is left to do for a client.
#[derive(PartialEq, Eq)]
enum Left {
    /// Nothing, until it sends or reads.
    Nothing,
    /// More requests of its have come.
    More,
    /// Nothing for ever.
    Over,
    /// Its connection is somebody else's.
    TakenOver,
}

impl Clients {
    /// Has `registry` tell of whoever connects to `listener`, by the first of `tokens`, and of clients by the others.
    ///
    /// # Errors
    /// The system's.
    pub fn new(
        listener: Listener,
        registry: &Registry,
        tokens: Range<usize>,
        bounds: Bounds,
    ) -> io::Result<Clients> {
        let fd = listener.as_raw_fd();
        registry.register(&mut SourceFd(&fd), Token(tokens.start), Interest::READABLE)?;
        Ok(Clients {
            listener,
            next_token: tokens.start + 1,
            tokens,
            clients: BTreeMap::new(),
            closer: Closer::default(),
            bounds,
            handed_over: VecDeque::new(),
            retry_at: None,
            kept: Progress::default(),
        })
    }

    /// The socket that listens.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The socket is this process' from now on ([`Listener::own`]).
    pub fn own(&mut self) {
        self.listener.own();
    }

    /// Serves what `token` stands for.
    pub fn serve(
        &mut self,
        token: Token,
        registry: &Registry,
        mut answer: impl FnMut(Request, Brought) -> Answer,
    ) {
        if token.0 == self.tokens.start {
            self.accept(registry);
            return;
        }
        let Some(client) = self.clients.get_mut(&token.0) else {
            return;
        };
        let served = client.serve(&mut answer, &self.kept, self.bounds.line);
        match served.unwrap_or(Left::Over) {
            Left::Nothing => {}
            // It is told of again, as it can surely be written to.
            Left::More => {
                let _ = registry.reregister(&mut *client.stream, token, INTEREST);
            }
            Left::Over => self.remove(token.0, registry),
            Left::TakenOver => self.hand_over(token.0, registry),
        }
    }

    /// Lets all answers go that have waited for changes which have been written down, or could not be.
    pub fn keep(&mut self, kept: Progress, registry: &Registry) {
        self.kept = kept;
        let waiting = self.clients.iter_mut();
        for (token, client) in waiting.filter(|(_, client)| client.waiting.is_some()) {
            // It is told of again, as it can surely be written to.
            let _ = registry.reregister(&mut *client.stream, Token(*token), INTEREST);
        }
    }

    /// The same at once, as far as clients take it: nobody serves them any more.
    pub fn keep_and_leave(&mut self, kept: Progress) {
        self.kept = kept;
        for client in self.clients.values_mut() {
            if client.waiting.is_some() && matches!(client.say_kept(&self.kept), Ok(true)) {
                // Who does not read his answer does not get it.
                let _ = client.write_out();
            }
        }
    }

    /// When to [`Clients::retry`].
    pub fn next_timer(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Accepts those that could not be accepted before, if it is time for that.
    pub fn retry(&mut self, registry: &Registry) {
        if self.retry_at.take_if(|at| *at <= Instant::now()).is_some() {
            self.accept(registry);
        }
    }

    fn remove(&mut self, token: usize, registry: &Registry) {
        if let Some(mut gone) = self.clients.remove(&token) {
            let _ = registry.deregister(&mut *gone.stream);
            // The client sees it at once, whenever it is closed.
            let _ = gone.stream.shutdown(Shutdown::Both);
        }
    }

    fn hand_over(&mut self, token: usize, registry: &Registry) {
        let Some(mut client) = self.clients.remove(&token) else {
            return;
        };
        let _ = registry.deregister(&mut *client.stream);
        let Some(takeover) = client.takeover else {
            return;
        };
        let stream: Arc<std::os::unix::net::UnixStream> =
            Arc::new(client.stream.into_inner().into());
        self.handed_over.retain(|other| other.strong_count() > 0);
        if let Some(most) = self.bounds.streams {
            while self.handed_over.len() >= most
                && let Some(oldest) = self.handed_over.pop_front()
            {
                // Whoever writes to it sees that at once, and ends.
                let _ = oldest
                    .upgrade()
                    .map(|oldest| oldest.shutdown(Shutdown::Both));
            }
            self.handed_over.push_back(Arc::downgrade(&stream));
        }
        if let Err(error) = takeover(stream) {
            tracing::warn!(%error, "a client cannot be given what it has asked for");
        }
    }

    fn accept(&mut self, registry: &Registry) {
        for _ in 0..ACCEPTS {
            if self.closer.is_full() {
                self.retry_at = Some(Instant::now() + RETRY);
                return;
            }
            let stream = match self.listener.accept() {
                Ok(Some(stream)) => stream,
                Ok(None) => return,
                Err(_) => {
                    self.retry_at = Some(Instant::now() + RETRY);
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let quiet = self.clients.iter().min_by_key(|(_, client)| client.heard);
            if let Some(quiet) = quiet.map(|(token, _)| *token)
                && self.clients.len() >= MAX_CLIENTS
            {
                self.remove(quiet, registry);
            }
            let mut stream = Aside::new(UnixStream::from_std(stream), &self.closer);
            // There are fewer clients than tokens, so one is free.
            while self.clients.contains_key(&self.next_token) || self.next_token >= self.tokens.end
            {
                self.next_token = if self.next_token >= self.tokens.end {
                    self.tokens.start + 1
                } else {
                    self.next_token + 1
                };
            }
            let token = self.next_token;
            self.next_token += 1;
            if registry
                .register(&mut *stream, Token(token), INTEREST)
                .is_ok()
            {
                self.clients.insert(
                    token,
                    Client {
                        stream,
                        closer: self.closer.clone(),
                        input: Vec::new(),
                        searched: 0,
                        brought: VecDeque::new(),
                        output: Vec::new(),
                        waiting: None,
                        finished: false,
                        heard: Instant::now(),
                        takeover: None,
                    },
                );
            }
        }
        // Others have their turn before more of those that have connected.
        self.retry_at = Some(Instant::now());
    }
}

impl Client {
    fn say(&mut self, response: &Response) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, response)?;
        self.output.push(b'\n');
        Ok(())
    }

    /// Answers what has waited for a change to be written down, if that has been tried; whether nothing waits for that.
    fn say_kept(&mut self, kept: &Progress) -> io::Result<bool> {
        let Some((change, response)) = self.waiting.take() else {
            return Ok(true);
        };
        if change > kept.tried {
            self.waiting = Some((change, response));
            return Ok(false);
        }
        let response = match kept.misses(change) {
            Some(why) => response.not_kept(why),
            None => response,
        };
        self.say(&response)?;
        Ok(true)
    }

    /// Writes what it has been answered, as far as it takes that now.
    fn write_out(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Reads no further while an answer waits to be read: a client that does not read costs one answer, not all of them.
    fn serve(
        &mut self,
        answer: &mut impl FnMut(Request, Brought) -> Answer,
        kept: &Progress,
        longest: usize,
    ) -> io::Result<Left> {
        let mut chunk = [0; 16 << 10];
        let started = Instant::now();
        loop {
            if !self.say_kept(kept)? {
                return Ok(Left::Nothing);
            }
            match self.write_out() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Left::Nothing),
                written => written?,
            }
            if self.takeover.is_some() {
                return Ok(Left::TakenOver);
            }
            let mut unsearched = self.input[self.searched..].iter();
            if let Some(end) = unsearched.position(|b| *b == b'\n') {
                if started.elapsed() >= TURN {
                    return Ok(Left::More);
                }
                let line: Vec<u8> = self.input.drain(..=self.searched + end).collect();
                self.searched = 0;
                let peer = rustix::net::sockopt::socket_peercred(&*self.stream);
                let brought = Brought {
                    fds: std::mem::take(&mut self.brought).into(),
                    user: peer.ok().map(|peer| peer.uid),
                };
                let Answer {
                    response,
                    change,
                    takeover,
                } = match Request::parse(&line) {
                    Ok(request) => answer(request, brought),
                    Err(why) => Response::Refused(why).into(),
                };
                self.takeover = takeover;
                match change {
                    0 => self.say(&response)?,
                    change => self.waiting = Some((change, response)),
                }
                continue;
            }
            self.searched = self.input.len();
            if self.finished {
                return Ok(Left::Over);
            }
            if self.input.len() > longest {
                let most = format!("a request has {longest} bytes at most");
                self.say(&Response::Refused(most))?;
                self.stream.write_all(&self.output)?;
                return Ok(Left::Over);
            }
            if self.closer.is_full() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut fds = Vec::new();
            let got = Closer::receive(&*self.stream, &mut chunk, &mut fds);
            for fd in fds {
                if self.brought.len() >= MOST_BROUGHT {
                    self.brought.pop_front();
                }
                self.brought.push_back(Aside::new(fd, &self.closer));
            }
            match got {
                Ok(0) => self.finished = true,
                Ok(n) => {
                    self.heard = Instant::now();
                    self.input.extend_from_slice(&chunk[..n]);
                }
                Err(Errno::AGAIN) => return Ok(Left::Nothing),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    /// A command beside an upgrade holds in the process that goes on: whoever gave it heard that the connection was closed.
    #[test]
    fn answers_that_wait_for_the_disk_go_before_nobody_serves_their_clients() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctl.sock");
        let mut poll = mio::Poll::new().unwrap();
        let listener = Listener::bind(&path).unwrap();
        let registry = poll.registry().try_clone().unwrap();
        let bounds = Bounds::ADMINISTRATORS;
        let mut clients = Clients::new(listener, &registry, 0..9, bounds).unwrap();
        let connect = |request: &[u8]| {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
            stream.write_all(request).unwrap();
            stream
        };
        let [first, second] = [(); 2].map(|()| connect(b"\"show\"\n"));
        let mut events = mio::Events::with_capacity(8);
        // Each waits for a change of its own to be on the disk.
        let mut asked = 0;
        while asked < 2 {
            poll.poll(&mut events, None).unwrap();
            for event in &events {
                clients.serve(event.token(), &registry, |_, _| {
                    asked += 1;
                    Answer {
                        change: asked,
                        ..Response::Done(vec![asked.to_string()]).into()
                    }
                });
            }
        }
        let kept = crate::kept::Kept::new(dir.path().join("state.toml"));
        kept.note(1, Ok(()));
        clients.keep_and_leave(kept.progress());
        drop(clients);
        let mut lines = [first, second].map(|stream| {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line
        });
        lines.sort();
        assert_eq!(lines, ["", "{\"done\":[\"1\"]}\n"]);
    }
}
