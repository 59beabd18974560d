//! What cases are written with: sessions to the subject, its administration, what it has in use, waiting.
//!
//! Every wait has an end. Frames that the suite did not send itself are passed over.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::adapter::Adapter;
use crate::listener::Listener;
use crate::notes::Notes;
use crate::port::{Port, Told};
use crate::subject::{Ended, Leaves, Process, Subject};
use crate::verdict::{Failure, Seen};
use vf_guest::driver::Format;
use vf_guest::frontend::{Frontend, FrontendError, Transcript};
use vf_guest::message::{protocol, request};
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

/// The most descriptors that rings of nearly all cases have, and the least that a back end is known to take at most.
const USUAL_SIZE: u16 = 256;
/// The first port behind sender and receiver.
const THIRD: usize = 2;

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
    pub(crate) leaves: Option<Leaves>,
    /// How long a fresh session took at most until its frames had passed, in the beginning and since that was last asked.
    usual: Duration,
    slowest: Cell<Duration>,
    features: u64,
    protocol: u64,
    delivery: Delivery,
    /// What the case that runs has come upon.
    pub(crate) notes: Arc<Notes>,
    /// The process that serves, as the last session told.
    pub(crate) server: Cell<Option<u32>>,
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
                told: Told {
                    mac: None,
                    mtu: None,
                    queue_pairs: 1,
                },
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
            notes: Arc::default(),
            server: Cell::default(),
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
            let told = Told::of(bench.dial(n)?)?;
            let given = given.get(n).copied().flatten();
            bench.ports[n].told = Told {
                mac: given.or(told.mac),
                ..told
            };
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
            notes: Arc::default(),
            server: self.server.clone(),
            ..*self
        }
    }

    /// How many pairs of ports there are, or ports if frames come back where they were sent.
    pub fn pairs(&self) -> usize {
        self.ports.len() / self.width()
    }

    /// How many ports a pair has.
    pub(crate) fn width(&self) -> usize {
        1 + usize::from(self.subject.peer.is_some())
    }

    /// Whether frames pass between the ports of this pair.
    pub(crate) fn is_served(&self) -> bool {
        let link = self.link(&NetConfig::default());
        link.and_then(|mut link| link.passes(Instant::now() + DEADLINE))
            .unwrap_or(false)
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

    /// Whether the subject answers a fresh connection at once, or comes soon if it is a client.
    pub(crate) fn answers(&self) -> bool {
        let answers = || {
            let answered = self.reach(0).map_err(FrontendError::from);
            let answered = answered.and_then(|mut frontend| {
                frontend.timeout = QUIET;
                frontend.get_features()
            });
            answered.is_ok()
        };
        // Clients come again when they like, most within a second.
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answered = answers();
            if answered || !self.subject.listen || Instant::now() > deadline {
                return answered;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether the subject is a client, which decides itself when it comes.
    pub(crate) fn waits_for_clients(&self) -> bool {
        self.subject.listen
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
    ///
    /// # Errors
    /// [`Failure::Unmet`] if the back end has no rings of that size or number, where nothing has told that it does.
    pub fn link_of(&self, tx: &NetConfig, rx: &NetConfig) -> Result<Link, Failure> {
        let rx = self.receiver(rx)?;
        let tx = self.started(0, tx)?;
        Ok(self.link_to(tx, rx))
    }

    /// A device on a port of the sender's or behind it. No text gives a front end the largest ring that a back end takes, and
    /// `GET_QUEUE_NUM` counts pairs here and rings there: to refuse what goes beyond the usual breaks no rule.
    fn started(&self, port: usize, config: &NetConfig) -> Result<NetDevice, Failure> {
        let size = config.queue_size.max(config.control_size);
        let size = size.max(config.tx_queue_size.unwrap_or_default());
        let device = NetDevice::start(self.dial(port)?, &self.formatted(config));
        device.map_err(|error| match error {
            FrontendError::Nack { request, .. } if request != request::SET_VRING_NUM => {
                error.into()
            }
            FrontendError::Nack { .. } | FrontendError::Closed if size > USUAL_SIZE => {
                Failure::Unmet(format!("rings of {size} descriptors, and they are refused"))
            }
            FrontendError::Nack { .. }
                if config.queue_pairs > 1 && self.protocol & protocol::CONFIG == 0 =>
            {
                let pairs = config.queue_pairs;
                Failure::Unmet(format!("{pairs} pairs of rings, and they are refused"))
            }
            error => error.into(),
        })
    }

    /// A link whose sender was set up by hand.
    pub fn link_from(&self, tx: NetDevice, rx: &NetConfig) -> Result<Link, Failure> {
        let rx = self.receiver(rx)?;
        Ok(self.link_to(tx, rx))
    }

    fn receiver(&self, config: &NetConfig) -> Result<Option<NetDevice>, Failure> {
        match &self.subject.peer {
            Some(_) => Ok(Some(self.started(1, config)?)),
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
        let notes = Arc::clone(&self.notes);
        Link::new(tx, rx, src, dst, self.delivery, self.mtu(), notes)
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
        let told = self.ports.get(at).and_then(|port| port.told.mac);
        told.unwrap_or([0x02, 0, 0, 0, 0xc0, 1 + at as u8])
    }

    /// The least mtu that one of the ports tells, if one does: what is longer passes between no two of them.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.ports.iter().filter_map(|port| port.told.mtu).min()
    }

    /// How many pairs of rings for frames sender and receiver have.
    pub(crate) fn queue_pairs(&self) -> u16 {
        let ports = self.ports.iter().skip(self.first).take(self.width());
        ports.map(|port| port.told.queue_pairs).min().unwrap_or(1)
    }

    /// A port of neither sender nor receiver, if there is one: a guest of the same switch who looks on.
    pub(crate) fn onlooker(&self, config: &NetConfig) -> Result<Onlooker, Failure> {
        let net = self.started(THIRD, config)?;
        self.settle();
        Ok(Onlooker::new(net, self.mac(THIRD)))
    }

    /// Whether there is one.
    pub(crate) fn has_onlooker(&self) -> bool {
        self.first + THIRD < self.ports.len()
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
                Ok(frontend) => {
                    self.server.set(self.server_of(&frontend));
                    return Ok(frontend);
                }
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
                self.server.set(None);
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

    /// Sessions that have been opened so far.
    pub(crate) fn sessions(&self) -> u64 {
        self.sessions.get()
    }

    /// The process that we have started, and may end.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process().as_ref().map(Process::id)
    }

    /// Starts the subject again, if we have started it, and waits until frames pass, as it was in the beginning.
    pub(crate) fn restart(&self) -> Result<(), Failure> {
        if self.subject.command.is_empty() {
            return Ok(());
        }
        let mut process = self.process();
        *process = None;
        self.server.set(None);
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
