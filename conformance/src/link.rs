//! Frames between two ports, and a port that looks on.
//!
//! Every wait has an end. Frames that the suite did not send itself are passed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::bench::{DEADLINE, Delivery, QUIET};
use crate::verdict::{Failure, ensure};
use vf_guest::net::{NetDevice, NetHeader, RxFrame};

/// Why the suite stops looking at what comes.
const FLOOD: &str = "frames that nobody sent arrive without end";
/// EtherType of the suite's frames (IEEE "local experimental").
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// A port that looks on.
#[derive(Debug)]
pub(crate) struct Onlooker {
    /// Its device.
    pub(crate) net: NetDevice,
    /// Its address.
    pub(crate) mac: [u8; 6],
    got: RxFrame,
}

impl Onlooker {
    pub(crate) fn new(net: NetDevice, mac: [u8; 6]) -> Onlooker {
        Onlooker {
            net,
            mac,
            got: RxFrame::default(),
        }
    }

    /// How often `frame` comes that is to come so often: until it has, and nothing more has come for a while.
    pub(crate) fn sees(&mut self, frame: &[u8], expected: usize) -> Result<usize, Failure> {
        let mut seen = 0;
        let patience = |seen: usize| if seen < expected { DEADLINE } else { QUIET };
        let mut deadline = Instant::now() + patience(seen);
        let end = Instant::now() + 2 * DEADLINE;
        while Instant::now() < deadline && Instant::now() < end {
            match self.net.recv(0, &mut self.got)? {
                true if self.got.bytes() == frame => {
                    seen += 1;
                    deadline = Instant::now() + patience(seen);
                }
                true => {}
                false => std::thread::sleep(Duration::from_micros(100)),
            }
            self.net.kick();
        }
        Ok(seen)
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
    /// Whether a frame was to pass where none is seen to.
    unseen: Arc<AtomicBool>,
    serial: u32,
    got: RxFrame,
}

impl Link {
    pub(crate) fn new(
        tx: NetDevice,
        rx: Option<NetDevice>,
        src: [u8; 6],
        dst: [u8; 6],
        delivery: Delivery,
        unseen: Arc<AtomicBool>,
    ) -> Link {
        Link {
            tx,
            rx,
            src,
            dst,
            delivery,
            unseen,
            serial: 0,
            got: RxFrame::default(),
        }
    }

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
            Delivery::None => {
                self.unseen.store(true, Ordering::Relaxed);
                Ok(())
            }
            Delivery::Peer | Delivery::Echo => self.expect(frame).map(drop),
        }
    }

    /// Whether one of the frames that are sent until then arrives.
    pub(crate) fn passes(&mut self, deadline: Instant) -> Result<bool, Failure> {
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

    /// Waits for `frame` to arrive, as the next one that the sender has sent: nothing comes twice.
    ///
    /// # Errors
    /// [`Failure::Unseen`] with a subject whose frames arrive nowhere.
    pub(crate) fn expect_next(&mut self, frame: &[u8]) -> Result<(), Failure> {
        self.sees()?;
        let Some(got) = self.receive(DEADLINE)? else {
            return Err(Failure::Wrong(format!(
                "a frame of {} bytes did not arrive",
                frame.len()
            )));
        };
        ensure(
            got.bytes() == frame,
            format_args!(
                "{} bytes of before came where {} were sent",
                got.bytes().len(),
                frame.len()
            ),
        )
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

    /// Whether the sender receives such a frame within `wait`.
    pub(crate) fn returned(
        &mut self,
        wait: Duration,
        such: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, Failure> {
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            for pair in 0..self.tx.queue_pairs() {
                while self.tx.recv(pair, &mut self.got)? {
                    self.tx.kick();
                    if such(self.got.bytes()) {
                        return Ok(true);
                    }
                }
            }
            std::thread::sleep(Duration::from_micros(100));
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
