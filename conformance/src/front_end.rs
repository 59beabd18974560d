//! The other half: judges front ends (QEMU, User-Mode Linux, DPDK's virtio-user), with a back end that is ours and uses each freedom
//! that the document leaves it: it offers little, answers late, refuses, closes and comes back.
//!
//! The back end is [`vf_vhost`]'s endpoint, and sends every frame back to its guest. Between it and the front end stands a relay that
//! hears each request, and does to the replies what a case wants done. Nothing here judges a back end.

mod cases;
mod echo;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use vf_guest::driver::Format;
use vf_guest::frontend::{Frontend, FrontendError, Reply, Transcript};
use vf_guest::message::{FLAG_NEED_REPLY, FLAG_REPLY, FLAG_VERSION, Header};
use vf_vhost::endpoint::{DeviceConfig, Endpoint};
use vf_vhost::session::SessionRefusal;

use self::echo::Echo;
pub use cases::CASES;

use crate::case::{Case, Finding, Outcome};
use crate::listener::Listener;
use crate::subject::{Process, Subject};
use crate::verdict::{Failure, ensure};

/// How many messages of a failed case are told.
const TOLD: usize = 12;

/// Where front ends come to.
#[derive(Debug)]
pub struct Stage {
    subject: Subject,
    listener: Listener,
    process: RefCell<Option<Process>>,
    transcript: Transcript,
    patience: Duration,
}

/// What is done to what the back end says.
#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    /// Each reply comes so much later.
    late: Duration,
    /// The connection is closed with the message of this number.
    close_at: Option<usize>,
    /// The replies to this request have another request's number.
    mislabel: Option<u32>,
    /// This request is refused, if its front end wants to know.
    refuse: Option<u32>,
}

/// A request that came.
#[derive(Debug)]
struct Heard {
    header: Header,
    payload: Vec<u8>,
    fds: usize,
}

impl Heard {
    /// The first number in it.
    fn number(&self) -> u64 {
        let long = self.payload.first_chunk().copied();
        long.map_or(0, u64::from_le_bytes)
    }

    /// The second of two short ones.
    fn second(&self) -> u32 {
        let word = self.payload.get(4..8).and_then(|word| word.first_chunk());
        word.copied().map_or(0, u32::from_le_bytes)
    }
}

/// A front end with a back end.
#[derive(Debug)]
struct Session {
    front: Frontend,
    back: Frontend,
    endpoint: Endpoint,
    device: Echo,
    rules: Rules,
    heard: Vec<Heard>,
    /// Replies that are not due yet.
    replies: VecDeque<(Instant, Vec<u8>, Vec<OwnedFd>)>,
    /// A request was refused by a rule.
    refused: bool,
    /// Nobody says anything any more.
    over: bool,
}

impl Stage {
    /// Listens at `path`, where `command` has a front end come to, if there is one; else somebody else does. One that has not come
    /// after `patience` does not come.
    ///
    /// # Errors
    /// The path cannot be listened at.
    pub fn new(path: PathBuf, command: Vec<String>, patience: Duration) -> Result<Stage, Failure> {
        let listener = Listener::bind(&path)?;
        Ok(Stage {
            subject: Subject {
                socket: path,
                command,
                listen: true,
                ..Subject::default()
            },
            listener,
            process: RefCell::new(None),
            transcript: Transcript::default(),
            patience,
        })
    }

    /// A fresh front end.
    fn session(&self, config: DeviceConfig, rules: Rules) -> Result<Session, Failure> {
        // What still waits there is the last one's.
        *self.process.borrow_mut() = None;
        if !self.subject.command.is_empty() {
            while self.listener.accept().is_ok() {}
            *self.process.borrow_mut() = Process::start(&self.subject)?;
        }
        if let Some(session) = self.again(config, rules)? {
            return Ok(session);
        }
        let mut process = self.process.borrow_mut();
        Err(
            match process.as_mut().map(Process::exited).transpose()?.flatten() {
                Some(ended) => Failure::Ended(ended),
                None => Failure::Wrong(format!("no front end came within {:?}", self.patience)),
            },
        )
    }

    /// The front end that comes by itself, if it does.
    fn again(&self, config: DeviceConfig, rules: Rules) -> Result<Option<Session>, Failure> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.listener.accept() {
                Ok(stream) => {
                    return Ok(Some(Session::new(stream, config, rules, &self.transcript)?));
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) if Instant::now() > deadline => return Ok(None),
                Err(_) if !self.lives()? => return Ok(None),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Whether the front end's process has not ended by itself.
    ///
    /// # Errors
    /// It was ended by a signal.
    fn lives(&self) -> Result<bool, Failure> {
        let mut process = self.process.borrow_mut();
        match process.as_mut().map(Process::exited).transpose()?.flatten() {
            Some(ended) if !ended.by_itself() => Err(Failure::Ended(ended)),
            ended => Ok(ended.is_none()),
        }
    }
}

impl Session {
    fn new(
        stream: UnixStream,
        config: DeviceConfig,
        rules: Rules,
        transcript: &Transcript,
    ) -> io::Result<Session> {
        let (ours, its) = UnixStream::pair()?;
        let mut front = Frontend::from_stream(stream)?;
        front.write_down(transcript, "front end");
        Ok(Session {
            front,
            back: Frontend::from_stream(ours)?,
            endpoint: Endpoint::from_stream(its, config),
            device: Echo::default(),
            rules,
            heard: Vec::new(),
            replies: VecDeque::new(),
            refused: false,
            over: false,
        })
    }

    /// Relays until that is so, or for so long; whether it is.
    fn until(
        &mut self,
        wait: Duration,
        what: impl Fn(&Session) -> bool,
    ) -> Result<bool, FrontendError> {
        let deadline = Instant::now() + wait;
        while !what(self) {
            if self.over || Instant::now() > deadline {
                return Ok(false);
            }
            if !self.step()? {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        Ok(true)
    }

    /// Relays what there is; whether there was anything.
    fn step(&mut self) -> Result<bool, FrontendError> {
        let mut busy = false;
        while !self.over && self.front.readable(Duration::ZERO)? {
            busy = true;
            match self.front.receive() {
                Ok(request) => self.hear(request)?,
                Err(FrontendError::Closed) => self.over = true,
                Err(FrontendError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.over = true;
                }
                Err(error) => return Err(error),
            }
        }
        self.endpoint.poll(Instant::now(), &mut self.device);
        busy |= self.device.poll();
        while self.back.readable(Duration::ZERO)? {
            match self.back.receive() {
                Ok(reply) => self.queue(reply),
                Err(FrontendError::Closed) => {
                    self.over = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        while let Some((due, ..)) = self.replies.front()
            && Instant::now() >= *due
            && let Some((_, bytes, fds)) = self.replies.pop_front()
        {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match self.front.send_raw(&bytes, &fds) {
                Err(FrontendError::Closed) => self.over = true,
                sent => sent?,
            }
        }
        Ok(busy)
    }

    fn hear(&mut self, request: Reply) -> Result<(), FrontendError> {
        let Reply {
            header,
            payload,
            fds,
        } = request;
        let bytes = [&header.encode()[..], &payload].concat();
        let number = self.heard.len();
        self.heard.push(Heard {
            header,
            payload,
            fds: fds.len(),
        });
        if self.rules.close_at == Some(number) {
            self.over = true;
            return Ok(());
        }
        if self.rules.refuse == Some(header.request) && header.flags & FLAG_NEED_REPLY != 0 {
            self.refused = true;
            let no = Header {
                request: header.request,
                flags: FLAG_VERSION | FLAG_REPLY,
                size: 8,
            };
            let bytes = [&no.encode()[..], &1u64.to_le_bytes()].concat();
            self.replies.push_back((Instant::now(), bytes, Vec::new()));
            return Ok(());
        }
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match self.back.send_raw(&bytes, &fds) {
            Err(FrontendError::Closed) => self.over = true,
            sent => sent?,
        }
        Ok(())
    }

    fn queue(&mut self, reply: Reply) {
        let Reply {
            mut header,
            payload,
            fds,
        } = reply;
        if self.rules.mislabel == Some(header.request) {
            header.request += 1;
        }
        let bytes = [&header.encode()[..], &payload].concat();
        self.replies
            .push_back((Instant::now() + self.rules.late, bytes, fds));
    }

    /// Requests of this number that came.
    fn of(&self, request: u32) -> impl Iterator<Item = &Heard> {
        let all = self.heard.iter();
        all.filter(move |heard| heard.header.request == request)
    }

    /// Waits until the first pair of rings runs and is enabled.
    fn runs(&mut self, stage: &Stage) -> Result<(), Failure> {
        let runs = self.until(stage.patience, |session| session.device.runs())?;
        stage.lives()?;
        let why = match self.endpoint.refusals() {
            0 => String::new(),
            n => format!("; {n} of its requests were refused"),
        };
        ensure(
            runs,
            format_args!(
                "the first pair of rings does not run: rings {:?} were started, {} requests came{why}",
                self.device.started(),
                self.heard.len()
            ),
        )
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The device gives its rings back first.
        let why = SessionRefusal::Socket(io::ErrorKind::ConnectionAborted.into());
        self.endpoint
            .close_session(why, Instant::now(), &mut self.device);
    }
}

/// Runs `cases` one after another, telling `each` as they end.
pub fn run(
    stage: &Stage,
    cases: &[&'static Case<Stage>],
    mut each: impl FnMut(&Finding<Stage>),
) -> Vec<Finding<Stage>> {
    let mut findings = Vec::new();
    for &case in cases {
        let start = Instant::now();
        stage.transcript.take();
        let outcome = match (case.run)(stage) {
            Ok(seen) => Outcome::Passed(seen),
            Err(Failure::System(error)) => Outcome::NotJudged(error.to_string()),
            Err(failure) => Outcome::Failed(failure),
        };
        let mut said = stage.transcript.take();
        said.drain(..said.len().saturating_sub(TOLD));
        let finding = Finding {
            case,
            format: Format::Split,
            outcome,
            took: start.elapsed(),
            said,
            beside: None,
        };
        each(&finding);
        findings.push(finding);
    }
    findings
}
