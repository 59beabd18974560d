//! What cases are written with: sessions to the subject, frames between two ports, waiting.
//!
//! Every wait has an end. Frames that the suite did not send itself are passed over.

use std::time::{Duration, Instant};

use crate::subject::Subject;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::Format;
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, NetDevice, NetHeader, RxFrame, feature};

/// How long anything that must happen may take.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// How long the suite waits to see that nothing happens.
pub const QUIET: Duration = Duration::from_millis(60);
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

/// A subject, probed.
#[derive(Debug)]
pub struct Bench {
    subject: Subject,
    features: u64,
    protocol: u64,
    delivery: Delivery,
    format: Format,
}

impl Bench {
    /// Reads what the subject offers, and finds out where frames arrive.
    pub fn new(subject: Subject) -> Result<Bench, Failure> {
        let mut bench = Bench {
            delivery: if subject.peer.is_some() {
                Delivery::Peer
            } else {
                Delivery::Echo
            },
            subject,
            features: 0,
            protocol: 0,
            format: Format::Split,
        };
        let mut frontend = bench.connect()?;
        bench.features = frontend.get_features()?;
        if bench.features & feature::PROTOCOL_FEATURES != 0 {
            bench.protocol = frontend.get_protocol_features()?;
        }
        drop(frontend);
        // Some sessions do without configuration space; the addresses are known by then.
        let subject = &mut bench.subject;
        subject.mac = subject.mac.or(told_mac(&subject.socket)?);
        if let Some(peer) = &subject.peer {
            subject.peer_mac = subject.peer_mac.or(told_mac(peer)?);
        }
        if bench.delivery == Delivery::Echo {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(100);
            link.send(&frame)?;
            if !link.arrives(&frame, Duration::from_millis(300))? {
                bench.delivery = Delivery::None;
            }
        }
        Ok(bench)
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
        dial(&self.subject.socket)
    }

    /// A connection beside another one, which nobody need answer.
    pub fn try_connect(&self) -> std::io::Result<Frontend> {
        Frontend::connect(&self.subject.socket)
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
        let rx = match &self.subject.peer {
            Some(path) => Some(NetDevice::start(dial(path)?, &self.formatted(rx))?),
            None => None,
        };
        let tx = NetDevice::start(self.connect()?, &self.formatted(tx))?;
        Ok(self.link_to(tx, rx))
    }

    /// A link whose sender was set up by hand.
    pub fn link_from(&self, tx: NetDevice, rx: &NetConfig) -> Result<Link, Failure> {
        let rx = match &self.subject.peer {
            Some(path) => Some(NetDevice::start(dial(path)?, &self.formatted(rx))?),
            None => None,
        };
        Ok(self.link_to(tx, rx))
    }

    fn link_to(&self, tx: NetDevice, rx: Option<NetDevice>) -> Link {
        let made_up = |last| [0x02, 0, 0, 0, 0xc0, last];
        let src = self.subject.mac.unwrap_or(made_up(1));
        let dst = match rx {
            Some(_) => self.subject.peer_mac.unwrap_or(made_up(2)),
            None => src,
        };
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
            Err(FrontendError::Nack { .. } | FrontendError::BadReply { .. }) => Seen::Refused,
            Err(FrontendError::Closed) => Seen::Closed,
            Err(other) => return Err(other.into()),
        };
        self.alive()?;
        Ok(seen)
    }
}

/// The MAC address that the subject's configuration space tells.
fn told_mac(path: &std::path::Path) -> Result<Option<[u8; 6]>, Failure> {
    let mut frontend = dial(path)?;
    let (features, space) = vf_guest::net::negotiate(&mut frontend, &NetConfig::default())?;
    Ok((features & feature::MAC != 0 && space.mac != [0; 6]).then_some(space.mac))
}

/// Connects, and makes sure that somebody answers.
fn dial(path: &std::path::Path) -> Result<Frontend, Failure> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let attempt = Frontend::connect(path).map_err(FrontendError::from);
        let answered = attempt.and_then(|mut frontend| {
            frontend.timeout = DEADLINE;
            frontend.get_features()?;
            Ok(frontend)
        });
        match answered {
            Ok(frontend) => return Ok(frontend),
            Err(FrontendError::Timeout) => return Err(FrontendError::Timeout.into()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
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

    /// The link in the other direction, if there is a peer.
    pub fn reversed(self) -> Option<Link> {
        let rx = self.rx?;
        Some(Link {
            tx: rx,
            rx: Some(self.tx),
            src: self.dst,
            dst: self.src,
            ..self
        })
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

    /// Sends a frame and waits for it: to be given back, and to arrive where the suite can see it.
    pub fn pass(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.send(frame)?;
        self.sent()?;
        self.expect(frame).map(drop)
    }

    /// Waits for `frame` to arrive and returns the header it came with. On a subject that delivers
    /// nowhere there is nothing to wait for.
    pub fn expect(&mut self, frame: &[u8]) -> Result<NetHeader, Failure> {
        if self.delivery == Delivery::None {
            return Ok(NetHeader::default());
        }
        let arrived = self.arrives(frame, DEADLINE)?;
        ensure(
            arrived,
            format_args!("a frame of {} bytes did not arrive", frame.len()),
        )?;
        Ok(self.got.hdr)
    }

    /// Whether `frame` arrives within `wait`.
    pub fn arrives(&mut self, frame: &[u8], wait: Duration) -> Result<bool, Failure> {
        let deadline = Instant::now() + wait;
        while self.next(deadline)? {
            if self.got.bytes() == frame {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next frame between the two ports that arrives within `wait`.
    pub fn receive(&mut self, wait: Duration) -> Result<Option<&RxFrame>, Failure> {
        let deadline = Instant::now() + wait;
        while self.next(deadline)? {
            let bytes = self.got.bytes();
            if bytes.len() >= 12 && bytes[6..12] == self.src {
                return Ok(Some(&self.got));
            }
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
    pub fn expect_nothing(&mut self, frame: &[u8]) -> Result<(), Failure> {
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
