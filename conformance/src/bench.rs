//! What cases are written with: sessions to the subject, its administration, what it has in use, waiting.
//!
//! Every wait has an end. Frames that the suite did not send itself are passed over.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::adapter::Adapter;
use crate::listener::Listener;
use crate::subject::{Ended, Leaves, Process, Resources, Subject};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::Format;
use vf_guest::frontend::{Frontend, FrontendError, Transcript};
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, NetDevice, feature};

pub use crate::link::Link;
pub(crate) use crate::link::Onlooker;

/// How long anything that must happen may take.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// How long the suite waits to see that nothing happens.
pub const QUIET: Duration = Duration::from_millis(60);

/// Where frames that are sent can be seen to arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At the peer's socket.
    Peer,
    /// At the same socket: the subject loops frames back.
    Echo,
    /// Nowhere.
    None,
}

/// How long the first frame may take after a subject has started.
const WARMING: Duration = Duration::from_secs(15);
/// What takes longer than this until frames pass has a data path that learns of rings after it has acknowledged them.
const AT_ONCE: Duration = Duration::from_millis(30);

/// How much longer a fresh session may take after hostile input than it does otherwise.
const STALL: Duration = Duration::from_millis(500);

/// The first port behind sender and receiver.
const THIRD: usize = 2;
/// Sessions by which it is learned what an ordinary one leaves behind.
const ORDINARY: u64 = 4;

/// A port of the subject.
#[derive(Debug, Clone)]
struct Port {
    path: PathBuf,
    mac: Option<[u8; 6]>,
    /// Where the suite listens, if the subject is the client.
    listener: Option<Arc<Listener>>,
}

/// A subject, probed.
#[derive(Debug)]
pub struct Bench {
    pub(crate) subject: Arc<Subject>,
    process: Arc<Mutex<Option<Process>>>,
    pub(crate) adapter: RefCell<Option<Adapter>>,
    ports: Vec<Port>,
    /// Which of them is the sender's; the peer, if there is one, is the next.
    first: usize,
    transcript: Transcript,
    /// Sessions so far, and what each ordinary one leaves behind.
    sessions: Cell<u64>,
    leaves: Option<Leaves>,
    /// How long a fresh session took at most until its frames had passed, in the beginning and since that was last asked.
    usual: Duration,
    slowest: Cell<Duration>,
    features: u64,
    protocol: u64,
    delivery: Delivery,
    /// Whether a frame was to pass where none is seen to.
    pub(crate) unseen: Arc<AtomicBool>,
    format: Format,
    serves_control: bool,
    passed: bool,
    settle: Duration,
}

impl Bench {
    /// Starts the subject, reads what it offers, and finds out where frames arrive, how long after a set-up they do, and
    /// whether it answers commands on a control queue.
    pub fn new(subject: Subject) -> Result<Bench, Failure> {
        let mut ports = Vec::new();
        for path in subject.sockets() {
            let mut listener = None;
            if subject.listen {
                listener = Some(Arc::new(Listener::bind(path)?));
            }
            ports.push(Port {
                path: path.clone(),
                mac: None,
                listener,
            });
        }
        let process = Process::start(&subject)?;
        let mut bench = Bench {
            process: Arc::new(Mutex::new(process)),
            adapter: RefCell::new(None),
            ports,
            first: 0,
            transcript: Transcript::default(),
            sessions: Cell::new(0),
            leaves: None,
            usual: Duration::ZERO,
            slowest: Cell::default(),
            delivery: if subject.peer.is_some() {
                Delivery::Peer
            } else {
                Delivery::Echo
            },
            settle: subject.settle,
            subject: Arc::new(subject),
            features: 0,
            protocol: 0,
            unseen: Arc::default(),
            format: Format::Split,
            serves_control: false,
            passed: false,
        };
        let mut frontend = bench.first()?;
        bench.features = frontend.get_features()?;
        if bench.features & feature::PROTOCOL_FEATURES != 0 {
            bench.protocol = frontend.get_protocol_features()?;
        }
        drop(frontend);
        if !bench.subject.control.is_empty() {
            bench.adapter = RefCell::new(Some(Adapter::start(&bench.subject.control)?));
            bench.administer("reset")?;
        }
        // Some sessions do without configuration space; the addresses are known by then.
        let given = [bench.subject.mac, bench.subject.peer_mac];
        for n in 0..bench.ports.len() {
            let given = given.get(n).copied().flatten();
            bench.ports[n].mac = given.or(bench.told_mac(n)?);
        }
        bench.warm_up();
        let offers = bench.features & feature::CTRL_VQ != 0;
        // Whoever has no time for one command in two seconds may have some for the next.
        bench.serves_control = offers && (bench.commanded() || bench.commanded());
        bench.leaves = bench.ordinary();
        // One that passes no frames is to be judged for that by the cases.
        let _ = bench.alive().and_then(|()| bench.alive());
        bench.usual = bench.slowest.take();
        Ok(bench)
    }

    /// The first session. A subject that connects itself may take as long for that as one that is started.
    fn first(&self) -> Result<Frontend, Failure> {
        let patience = self.subject.patience();
        let deadline = Instant::now() + patience;
        loop {
            match self.dial(0) {
                Err(Failure::Session(FrontendError::Io(error)))
                    if self.subject.listen && error.kind() == io::ErrorKind::WouldBlock =>
                {
                    if Instant::now() > deadline {
                        let path = self.subject.socket.display();
                        return Err(Failure::Wrong(format!(
                            "nobody has connected to {path} within {patience:?}: the back end is to, as the client that it is with --listen"
                        )));
                    }
                }
                dialled => return dialled,
            }
        }
    }

    /// The same subject, at its `pair`th pair of ports.
    pub(crate) fn beside(&self, pair: usize) -> Bench {
        Bench {
            subject: Arc::clone(&self.subject),
            process: Arc::clone(&self.process),
            adapter: RefCell::new(None),
            ports: self.ports.clone(),
            first: pair * self.width(),
            transcript: Transcript::default(),
            sessions: Cell::new(0),
            slowest: Cell::default(),
            unseen: Arc::default(),
            ..*self
        }
    }

    /// How many pairs of ports there are, or ports if frames come back where they were sent.
    pub fn pairs(&self) -> usize {
        self.ports.len() / self.width()
    }

    /// How many ports a pair has.
    fn width(&self) -> usize {
        1 + usize::from(self.subject.peer.is_some())
    }

    /// Whether frames pass between the ports of this pair.
    pub(crate) fn is_served(&self) -> bool {
        let link = self.link(&NetConfig::default());
        link.and_then(|mut link| link.passes(Instant::now() + DEADLINE))
            .unwrap_or(false)
    }

    /// What an ordinary session leaves behind, if the process can be looked at.
    fn ordinary(&self) -> Option<Leaves> {
        let sessions = |count: u64| {
            for _ in 0..count {
                let mut link = self.link(&NetConfig::default())?;
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            Ok::<_, Failure>(())
        };
        self.watched_id().filter(|_| !self.subject.single_session)?;
        sessions(2).ok()?;
        let before = self.at_rest().ok()?;
        sessions(ORDINARY).ok()?;
        let after = self.at_rest().ok()?;
        // A link has a session at each end.
        Some(Leaves::of(&before, &after, ORDINARY * self.width() as u64))
    }

    /// Waits until frames pass, and learns how long after a set-up they do. A port that echoes nothing for a moment echoes
    /// nothing.
    fn warm_up(&mut self) {
        let patience = match self.delivery {
            Delivery::Peer => WARMING,
            Delivery::Echo => Duration::from_millis(300),
            Delivery::None => return,
        };
        let passes = || {
            let mut link = self.link(&NetConfig::default())?;
            let start = Instant::now();
            let passed = link.passes(start + patience)?;
            Ok::<_, Failure>((passed, start.elapsed()))
        };
        // A subject that takes no frame at all is to be judged for that. What the first set-up takes longer is for once: memory, say.
        let first = passes();
        let (passed, took) = match first {
            Ok((true, took)) if took > AT_ONCE => passes().unwrap_or((true, took)),
            first => first.unwrap_or_default(),
        };
        self.passed = passed;
        if !self.passed && self.delivery == Delivery::Echo {
            self.delivery = Delivery::None;
        }
        if self.passed && took > AT_ONCE {
            self.settle = self.settle.max(3 * took);
        }
    }

    /// Whether the subject answers a command on a control queue: with most back ends the front end does that.
    fn commanded(&self) -> bool {
        let answered = || {
            let mut link = self.link(&with(feature::CTRL_VQ))?;
            crate::control::command(link.receiver(), &[0x7f, 0], 0)
        };
        answered().is_ok()
    }

    /// What the suite has found out, as a line for people.
    pub fn describe(&self) -> String {
        let frames = match self.delivery {
            Delivery::Peer if self.passed => "frames arrive at the peer",
            Delivery::Peer => "no frame arrives at the peer: is it forwarded to --peer-mac?",
            Delivery::Echo => "frames come back",
            Delivery::None => "frames arrive nowhere (--peer-socket)",
        };
        let control = match (self.features & feature::CTRL_VQ != 0, self.serves_control) {
            (false, _) => "",
            (true, true) => ", serves the control queue",
            (true, false) => ", leaves the control queue to the front end",
        };
        let pairs = match self.pairs() {
            0 | 1 => String::new(),
            pairs => format!(", {pairs} pairs of ports"),
        };
        let settle = match self.settle.as_millis() {
            0 => String::new(),
            ms => format!(", given {ms} ms after each set-up"),
        };
        format!(
            "features {:#x}, protocol features {:#x}; {frames}{pairs}{settle}{control}",
            self.features, self.protocol
        )
    }

    /// Features the subject offers.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Which format the rings of sessions have from now on.
    pub fn set_format(&mut self, format: Format) {
        self.format = format;
    }

    /// Which format the rings of sessions have.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether the subject answers commands on a control queue.
    pub fn serves_control(&self) -> bool {
        self.serves_control
    }

    /// What was said in all sessions since this was last asked: a line a message.
    pub fn transcript(&self) -> Vec<String> {
        self.transcript.take()
    }

    /// Gives the subject the time it needs until what it has acknowledged is in force.
    pub fn settle(&self) {
        std::thread::sleep(self.settle);
    }

    /// A configuration with rings of that format.
    fn formatted(&self, config: &NetConfig) -> NetConfig {
        let packed = match self.format {
            Format::Split => 0,
            Format::Packed => feature::RING_PACKED,
        };
        NetConfig {
            features: config.features & !feature::RING_PACKED | packed,
            ..config.clone()
        }
    }

    /// Protocol features the subject offers.
    pub fn protocol_features(&self) -> u64 {
        self.protocol
    }

    /// Where frames arrive.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// A fresh session, in which nothing but one `GET_FEATURES` was sent. Tries again while the
    /// subject is still busy with the end of the last session.
    pub fn connect(&self) -> Result<Frontend, Failure> {
        self.dial(0)
    }

    /// The same on the peer's socket.
    pub(crate) fn connect_peer(&self) -> Result<Frontend, Failure> {
        self.dial(1)
    }

    /// Breaks the sender's session off and puts a fresh one in its place.
    pub(crate) fn reconnect(&self, link: &mut Link) -> Result<(), Failure> {
        drop(link.tx.take_frontend());
        link.tx = NetDevice::start(self.connect()?, &self.formatted(&NetConfig::default()))?;
        self.settle();
        Ok(())
    }

    /// A connection beside another one, which nobody need answer.
    pub fn try_connect(&self) -> io::Result<Frontend> {
        self.reach(0)
    }

    /// Whether the subject answers a fresh connection at once.
    pub(crate) fn answers(&self) -> bool {
        let answered = self.reach(0).map_err(FrontendError::from);
        let answered = answered.and_then(|mut frontend| {
            frontend.timeout = QUIET;
            frontend.get_features()
        });
        answered.is_ok()
    }

    /// A fresh session with protocol features and ownership settled, and the features to
    /// acknowledge; `SET_FEATURES` and everything after it is left to the case.
    pub fn negotiated(&self, config: &NetConfig) -> Result<(Frontend, NetDevice), Failure> {
        let mut frontend = self.connect()?;
        let config = self.formatted(config);
        let (features, _) = vf_guest::net::negotiate(&mut frontend, &config)?;
        Ok((frontend, NetDevice::detached(features, &config)?))
    }

    /// Sender and receiver with equal features.
    pub fn link(&self, config: &NetConfig) -> Result<Link, Failure> {
        self.link_of(config, config)
    }

    /// A sender on the first port, and a receiver on the second if there is one, else both on the
    /// first with the sender's features.
    pub fn link_of(&self, tx: &NetConfig, rx: &NetConfig) -> Result<Link, Failure> {
        let rx = self.receiver(rx)?;
        let tx = NetDevice::start(self.connect()?, &self.formatted(tx))?;
        Ok(self.link_to(tx, rx))
    }

    /// A link whose sender was set up by hand.
    pub fn link_from(&self, tx: NetDevice, rx: &NetConfig) -> Result<Link, Failure> {
        let rx = self.receiver(rx)?;
        Ok(self.link_to(tx, rx))
    }

    fn receiver(&self, config: &NetConfig) -> Result<Option<NetDevice>, Failure> {
        match &self.subject.peer {
            Some(_) => Ok(Some(NetDevice::start(
                self.dial(1)?,
                &self.formatted(config),
            )?)),
            None => Ok(None),
        }
    }

    fn link_to(&self, tx: NetDevice, rx: Option<NetDevice>) -> Link {
        let src = self.mac(0);
        let dst = match rx {
            Some(_) => self.mac(1),
            None => src,
        };
        self.settle();
        // A back end may signal a call as soon as it is given one.
        for call in tx.calls().chain(rx.iter().flat_map(NetDevice::calls)) {
            call.drain();
        }
        let unseen = Arc::clone(&self.unseen);
        Link::new(tx, rx, src, dst, self.delivery, unseen)
    }

    /// Checks that a fresh session passes traffic: the end of every hostile case.
    pub fn alive(&self) -> Result<(), Failure> {
        let check = || {
            let mut link = self.link(&NetConfig::default())?;
            for len in [100, 1514] {
                let frame = link.frame(len);
                link.pass(&frame)?;
            }
            Ok(())
        };
        let start = Instant::now();
        check().map_err(|failure| Failure::Dead(Box::new(failure)))?;
        self.slowest.set(self.slowest.get().max(start.elapsed()));
        Ok(())
    }

    /// What there is to complain of if fresh sessions have taken far longer than they do until their frames passed, since this was
    /// last asked.
    pub(crate) fn stalled(&self) -> Option<String> {
        let slowest = self.slowest.take();
        (slowest > STALL + 4 * self.usual).then(|| {
            format!(
                "a fresh session took {} ms until its frames passed, and {} before",
                slowest.as_millis(),
                self.usual.as_millis()
            )
        })
    }

    /// Judges an answer to hostile input, then checks that the subject is alive. Silence where an
    /// answer is due is a hang, and no way to contain anything.
    pub fn contained<T>(&self, answer: Result<T, FrontendError>) -> Result<Seen, Failure> {
        let seen = match answer {
            Ok(_) => Seen::Tolerated,
            Err(FrontendError::Nack { .. }) => Seen::Refused,
            Err(FrontendError::Closed) => Seen::Closed,
            Err(other) => return Err(other.into()),
        };
        self.alive()?;
        Ok(seen)
    }

    /// The MAC address of a port, counted from the sender's on; a made-up one if nobody has told it.
    pub(crate) fn mac(&self, port: usize) -> [u8; 6] {
        let at = self.first + port;
        let told = self.ports.get(at).and_then(|port| port.mac);
        told.unwrap_or([0x02, 0, 0, 0, 0xc0, 1 + at as u8])
    }

    /// A port of neither sender nor receiver, if there is one: a guest of the same switch who looks on.
    pub(crate) fn onlooker(&self, config: &NetConfig) -> Result<Onlooker, Failure> {
        let net = NetDevice::start(self.dial(THIRD)?, &self.formatted(config))?;
        self.settle();
        Ok(Onlooker::new(net, self.mac(THIRD)))
    }

    /// Whether there is one.
    pub(crate) fn has_onlooker(&self) -> bool {
        self.first + THIRD < self.ports.len()
    }

    /// The MAC address that the configuration space of a port tells.
    fn told_mac(&self, port: usize) -> Result<Option<[u8; 6]>, Failure> {
        let mut frontend = self.dial(port)?;
        let (features, space) = vf_guest::net::negotiate(&mut frontend, &NetConfig::default())?;
        Ok((features & feature::MAC != 0 && space.mac != [0; 6]).then_some(space.mac))
    }

    /// Connects a port, counted from the sender's on, or has it come, and makes sure that somebody answers.
    fn dial(&self, port: usize) -> Result<Frontend, Failure> {
        let deadline = Instant::now() + DEADLINE.min(self.subject.patience());
        let letter = char::from(b'a' + ((self.first + port) % 26) as u8);
        loop {
            let answered = self.reach(port).map_err(FrontendError::from);
            let answered = answered.and_then(|mut frontend| {
                frontend.timeout = DEADLINE;
                frontend.write_down(&self.transcript, &letter.to_string());
                frontend.get_features()?;
                Ok(frontend)
            });
            match answered {
                Ok(frontend) => return Ok(frontend),
                Err(FrontendError::Timeout) => return Err(FrontendError::Timeout.into()),
                Err(error) => {
                    self.revive()?;
                    if Instant::now() > deadline {
                        return Err(error.into());
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }

    fn reach(&self, port: usize) -> io::Result<Frontend> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let port = self.ports.get(self.first + port).ok_or_else(missing)?;
        let frontend = match &port.listener {
            Some(listener) => Frontend::from_stream(listener.accept()?),
            None => Frontend::connect(&port.path),
        };
        self.sessions
            .set(self.sessions.get() + u64::from(frontend.is_ok()));
        frontend
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process again that serves one session and has ended by itself. One that serves many and has ended is told.
    fn revive(&self) -> Result<(), Failure> {
        let mut process = self.process();
        match process.as_mut().map(Process::exited).transpose()?.flatten() {
            Some(ended) if self.subject.single_session && ended.by_itself() => {
                *process = None;
                *process = Process::start(&self.subject)?;
                Ok(())
            }
            Some(ended) => Err(Failure::Ended(ended)),
            None => Ok(()),
        }
    }

    /// How the process that we have started ended, if it has.
    pub(crate) fn ended(&self) -> Result<Option<Ended>, Failure> {
        let mut process = self.process();
        Ok(process.as_mut().map(Process::exited).transpose()?.flatten())
    }

    /// Whether the process ends with each session.
    pub(crate) fn serves_one_session(&self) -> bool {
        self.subject.single_session
    }

    /// What the process has in use.
    pub(crate) fn resources(&self) -> Result<Resources, Failure> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        Ok(Resources::of(self.watched_id().ok_or_else(gone)?)?)
    }

    /// The same as soon as it stands still: sessions that have been closed end a little later.
    pub(crate) fn at_rest(&self) -> Result<Resources, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let mut last = self.resources()?;
        let mut alike = 0;
        while alike < 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.resources()?;
            alike = if now.is_like(&last) { alike + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    /// Checks that the process gets back to what it had in use when there had been so many sessions.
    pub(crate) fn gives_back(&self, before: &Resources, sessions: u64) -> Result<(), Failure> {
        let more = self.sessions().saturating_sub(sessions);
        let Some(leaves) = &self.leaves else {
            return Ok(());
        };
        let before = before.after(more, leaves);
        let deadline = Instant::now() + DEADLINE;
        loop {
            let after = self.resources()?;
            if after.fits(&before) {
                return Ok(());
            }
            ensure(
                Instant::now() < deadline,
                format_args!("in use afterwards: {after}; before: {before}"),
            )?;
            std::thread::sleep(QUIET);
        }
    }

    /// Sessions that have been opened so far.
    pub(crate) fn sessions(&self) -> u64 {
        self.sessions.get()
    }

    /// The process that we have started, and may end.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process().as_ref().map(Process::id)
    }

    /// The process that can be looked at.
    pub(crate) fn watched_id(&self) -> Option<u32> {
        self.process_id().or(self.subject.pid)
    }

    /// Starts the subject again, if we have started it, and waits until frames pass, as it was in the beginning.
    pub(crate) fn restart(&self) -> Result<(), Failure> {
        if self.subject.command.is_empty() {
            return Ok(());
        }
        let mut process = self.process();
        *process = None;
        *process = Process::start(&self.subject)?;
        drop(process);
        if self.is_administered() {
            *self.adapter.borrow_mut() = Some(Adapter::start(&self.subject.control)?);
            self.administer("reset")?;
        }
        if self.passed {
            let mut link = self.link(&NetConfig::default())?;
            link.passes(Instant::now() + WARMING)?;
        }
        Ok(())
    }
}

/// `config` without some features.
pub fn without(features: u64) -> NetConfig {
    let config = NetConfig::default();
    NetConfig {
        features: config.features & !features,
        ..config
    }
}

/// The default configuration with more features.
pub fn with(features: u64) -> NetConfig {
    let config = NetConfig::default();
    NetConfig {
        features: config.features | features,
        ..config
    }
}

/// The default configuration without acknowledgements.
pub fn without_ack() -> NetConfig {
    let config = NetConfig::default();
    NetConfig {
        protocol_features: config.protocol_features & !protocol::REPLY_ACK,
        ..config
    }
}
