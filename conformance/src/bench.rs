//! What cases are written with: sessions to the subject, frames between two ports, waiting.
//!
//! Every wait has an end. Frames that the suite did not send itself are passed over.

use std::cell::RefCell;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::subject::{Ended, Process, Resources, Subject};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::Format;
use vf_guest::frontend::{Frontend, FrontendError, Transcript};
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, NetDevice, NetHeader, RxFrame, feature};

/// How long anything that must happen may take.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// How long the suite waits to see that nothing happens.
pub const QUIET: Duration = Duration::from_millis(60);
/// Why the suite stops looking at what comes.
const FLOOD: &str = "frames that nobody sent arrive without end";
/// EtherType of the suite's frames (IEEE "local experimental").
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

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

/// A subject, probed.
#[derive(Debug)]
pub struct Bench {
    subject: Subject,
    process: RefCell<Option<Process>>,
    listeners: Vec<(PathBuf, UnixListener)>,
    transcript: Transcript,
    features: u64,
    protocol: u64,
    delivery: Delivery,
    format: Format,
    serves_control: bool,
    passed: bool,
    settle: Duration,
}

impl Bench {
    /// Starts the subject, reads what it offers, and finds out where frames arrive, how long after a set-up they do, and
    /// whether it answers commands on a control queue.
    pub fn new(subject: Subject) -> Result<Bench, Failure> {
        let mut listeners = Vec::new();
        for path in [Some(&subject.socket), subject.peer.as_ref()]
            .into_iter()
            .flatten()
        {
            if subject.listen {
                let listener = UnixListener::bind(path).map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?;
                listener.set_nonblocking(true)?;
                listeners.push((path.clone(), listener));
            }
        }
        let mut bench = Bench {
            process: RefCell::new(Process::start(&subject)?),
            listeners,
            transcript: Transcript::default(),
            delivery: if subject.peer.is_some() {
                Delivery::Peer
            } else {
                Delivery::Echo
            },
            settle: subject.settle,
            subject,
            features: 0,
            protocol: 0,
            format: Format::Split,
            serves_control: false,
            passed: false,
        };
        let mut frontend = bench.connect()?;
        bench.features = frontend.get_features()?;
        if bench.features & feature::PROTOCOL_FEATURES != 0 {
            bench.protocol = frontend.get_protocol_features()?;
        }
        drop(frontend);
        // Some sessions do without configuration space; the addresses are known by then.
        bench.subject.mac = bench.subject.mac.or(bench.told_mac("a")?);
        if bench.subject.peer.is_some() {
            bench.subject.peer_mac = bench.subject.peer_mac.or(bench.told_mac("b")?);
        }
        bench.warm_up();
        bench.serves_control = bench.features & feature::CTRL_VQ != 0 && bench.commanded();
        Ok(bench)
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
        let settle = match self.settle.as_millis() {
            0 => String::new(),
            ms => format!(", given {ms} ms after each set-up"),
        };
        format!(
            "features {:#x}, protocol features {:#x}; {frames}{settle}{control}",
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
        self.dial("a")
    }

    /// A connection beside another one, which nobody need answer.
    pub fn try_connect(&self) -> io::Result<Frontend> {
        self.reach("a")
    }

    /// Whether the subject answers a fresh connection at once.
    pub(crate) fn answers(&self) -> bool {
        let answered = self.reach("a").map_err(FrontendError::from);
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
                self.dial("b")?,
                &self.formatted(config),
            )?)),
            None => Ok(None),
        }
    }

    fn link_to(&self, tx: NetDevice, rx: Option<NetDevice>) -> Link {
        let made_up = |last| [0x02, 0, 0, 0, 0xc0, last];
        let src = self.subject.mac.unwrap_or(made_up(1));
        let dst = match rx {
            Some(_) => self.subject.peer_mac.unwrap_or(made_up(2)),
            None => src,
        };
        self.settle();
        // A back end may signal a call as soon as it is given one.
        for call in tx.calls().chain(rx.iter().flat_map(NetDevice::calls)) {
            call.drain();
        }
        Link {
            tx,
            rx,
            src,
            dst,
            delivery: self.delivery,
            serial: 0,
            got: RxFrame::default(),
        }
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
        check().map_err(|failure| Failure::Dead(Box::new(failure)))
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

    /// The MAC address that the configuration space of a port tells.
    fn told_mac(&self, port: &str) -> Result<Option<[u8; 6]>, Failure> {
        let mut frontend = self.dial(port)?;
        let (features, space) = vf_guest::net::negotiate(&mut frontend, &NetConfig::default())?;
        Ok((features & feature::MAC != 0 && space.mac != [0; 6]).then_some(space.mac))
    }

    /// Connects port `a` or `b`, or has it come, and makes sure that somebody answers.
    fn dial(&self, port: &str) -> Result<Frontend, Failure> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answered = self.reach(port).map_err(FrontendError::from);
            let answered = answered.and_then(|mut frontend| {
                frontend.timeout = DEADLINE;
                frontend.write_down(&self.transcript, port);
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

    fn reach(&self, port: &str) -> io::Result<Frontend> {
        let path = match (port, &self.subject.peer) {
            ("b", Some(peer)) => peer,
            _ => &self.subject.socket,
        };
        match self.listeners.iter().find(|(at, _)| at == path) {
            Some((_, listener)) => Frontend::from_stream(listener.accept()?.0),
            None => Frontend::connect(path),
        }
    }

    /// Starts a process again that serves one session and has ended by itself. One that serves many and has ended is told.
    fn revive(&self) -> Result<(), Failure> {
        let mut process = self.process.borrow_mut();
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
        let mut process = self.process.borrow_mut();
        Ok(process.as_mut().map(Process::exited).transpose()?.flatten())
    }

    /// Whether the process ends with each session.
    pub(crate) fn serves_one_session(&self) -> bool {
        self.subject.single_session
    }

    /// What the process that we have started has in use.
    pub(crate) fn resources(&self) -> Result<Resources, Failure> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        Ok(Resources::of(self.process_id().ok_or_else(gone)?)?)
    }

    /// The process that we have started.
    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process.borrow().as_ref().map(Process::id)
    }

    /// Starts the subject again, if we have started it, and waits until frames pass, as it was in the beginning.
    pub(crate) fn restart(&self) -> Result<(), Failure> {
        if self.subject.command.is_empty() {
            return Ok(());
        }
        let mut process = self.process.borrow_mut();
        *process = None;
        *process = Process::start(&self.subject)?;
        drop(process);
        if self.passed {
            let mut link = self.link(&NetConfig::default())?;
            link.passes(Instant::now() + WARMING)?;
        }
        Ok(())
    }
}

/// A sender and a receiver.
#[derive(Debug)]
pub struct Link {
    /// The sender; on an echoing subject also the receiver.
    pub tx: NetDevice,
    /// The receiver at the peer, if there is one.
    pub rx: Option<NetDevice>,
    /// Sender's MAC address.
    pub src: [u8; 6],
    /// Receiver's MAC address.
    pub dst: [u8; 6],
    delivery: Delivery,
    serial: u32,
    got: RxFrame,
}

impl Link {
    /// The receiving device.
    pub fn receiver(&mut self) -> &mut NetDevice {
        self.rx.as_mut().unwrap_or(&mut self.tx)
    }

    /// A new frame of `len` bytes (at least 18) from sender to receiver, unlike any before.
    pub fn frame(&mut self, len: usize) -> Vec<u8> {
        self.serial += 1;
        let mut frame = [
            &self.dst[..],
            &self.src,
            &ETHERTYPE,
            &self.serial.to_be_bytes(),
        ]
        .concat();
        let start = frame.len();
        frame.extend((start..len).map(|i| (i as u32).wrapping_mul(self.serial + 7) as u8));
        frame
    }

    /// Sends a frame without any offload.
    pub fn send(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.send_with(&NetHeader::default(), frame)
    }

    /// Sends a frame with a header of the case's own.
    pub fn send_with(&mut self, hdr: &NetHeader, frame: &[u8]) -> Result<(), Failure> {
        let deadline = Instant::now() + DEADLINE;
        while !self.tx.send(0, hdr, frame)? {
            self.tx.kick();
            ensure(Instant::now() < deadline, "the send ring stays full")?;
            std::thread::yield_now();
        }
        self.tx.kick();
        Ok(())
    }

    /// Waits until the device has given back everything that was sent.
    pub fn sent(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            self.tx.tx_room(0)?;
            let left = self.tx.tx_ring(0).queue.outstanding();
            if left == 0 {
                return Ok(());
            }
            ensure(
                Instant::now() < deadline,
                format_args!("{left} sent frames were not given back"),
            )?;
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Sends a frame and waits for it: to be given back, and to arrive if the suite sees anything arrive.
    pub fn pass(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.send(frame)?;
        self.sent()?;
        match self.delivery {
            Delivery::None => Ok(()),
            Delivery::Peer | Delivery::Echo => self.expect(frame).map(drop),
        }
    }

    /// Whether one of the frames that are sent until then arrives.
    fn passes(&mut self, deadline: Instant) -> Result<bool, Failure> {
        while Instant::now() < deadline {
            let frame = self.frame(100);
            self.send(&frame)?;
            if self.arrives(&frame, Duration::from_millis(20))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits for `frame` to arrive and returns the header it came with.
    ///
    /// # Errors
    /// [`Failure::Unseen`] with a subject whose frames arrive nowhere.
    pub fn expect(&mut self, frame: &[u8]) -> Result<NetHeader, Failure> {
        self.sees()?;
        let arrived = self.arrives(frame, DEADLINE)?;
        ensure(
            arrived,
            format_args!("a frame of {} bytes did not arrive", frame.len()),
        )?;
        Ok(self.got.hdr)
    }

    pub(crate) fn sees(&self) -> Result<(), Failure> {
        match self.delivery {
            Delivery::None => Err(Failure::Unseen),
            Delivery::Peer | Delivery::Echo => Ok(()),
        }
    }

    /// Whether `frame` arrives within `wait`, or soon after among others that do.
    pub fn arrives(&mut self, frame: &[u8], wait: Duration) -> Result<bool, Failure> {
        let deadline = Instant::now() + wait;
        while self.next(deadline)? {
            if self.got.bytes() == frame {
                return Ok(true);
            }
            ensure(Instant::now() < deadline + DEADLINE, FLOOD)?;
        }
        Ok(false)
    }

    /// Waits for `frame` on any of the receiver's first `pairs` pairs; on which it arrives.
    pub fn arrives_on(&mut self, frame: &[u8], pairs: usize) -> Result<usize, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let device = self.rx.as_mut().unwrap_or(&mut self.tx);
        while Instant::now() < deadline {
            for pair in 0..pairs {
                while device.recv(pair, &mut self.got)? {
                    device.kick();
                    if self.got.bytes() == frame {
                        return Ok(pair);
                    }
                }
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        let what = "a frame arrived on none of the receiver's pairs";
        Err(Failure::Wrong(what.into()))
    }

    /// A frame of the `flow`th of many UDP flows, unlike any before.
    pub fn frame_of_flow(&mut self, flow: u16) -> Vec<u8> {
        let mut frame = self.frame(100);
        let ip = [
            0x45, 0, 0, 86, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        let udp = [
            [(flow >> 8) as u8, flow as u8],
            [0x13, 0x89],
            [0, 66],
            [0, 0],
        ]
        .concat();
        // What makes it unlike others goes behind the headers.
        let serial = self.serial.to_be_bytes();
        frame.splice(12..46, [&[8, 0][..], &ip, &udp, &serial].concat());
        frame
    }

    /// The next frame between the two ports that arrives within `wait`.
    pub fn receive(&mut self, wait: Duration) -> Result<Option<&RxFrame>, Failure> {
        let deadline = Instant::now() + wait;
        while self.next(deadline)? {
            let bytes = self.got.bytes();
            if bytes.get(6..12).is_none_or(|src| src == self.src) {
                return Ok(Some(&self.got));
            }
            ensure(Instant::now() < deadline + DEADLINE, FLOOD)?;
        }
        Ok(None)
    }

    fn next(&mut self, deadline: Instant) -> Result<bool, Failure> {
        let device = self.rx.as_mut().unwrap_or(&mut self.tx);
        loop {
            if device.recv(0, &mut self.got)? {
                device.kick();
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            if !device.arm(false) {
                device.wait_rx_call(0, Duration::from_millis(2))?;
            }
        }
    }

    /// Checks that `frame` does not arrive.
    ///
    /// # Errors
    /// [`Failure::Unseen`] with a subject whose frames arrive nowhere.
    pub fn expect_nothing(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.sees()?;
        let arrived = self.arrives(frame, QUIET)?;
        ensure(!arrived, "a frame that must not be forwarded was")
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
