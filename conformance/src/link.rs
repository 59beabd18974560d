//! Frames between two ports, and a port that looks on.
//!
//! Every wait has an end. Frames that the suite did not send itself are passed over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bench::{DEADLINE, Delivery, QUIET};
use crate::notes::Notes;
use crate::verdict::{Failure, ensure};
use vf_guest::net::{GSO_NONE, GSO_UDP_L4, NetDevice, NetHeader, RxFrame, feature};

/// Why the suite stops looking at what comes.
const FLOOD: &str = "frames that nobody sent arrive without end";
/// EtherType of the suite's frames (IEEE "local experimental").
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// Bytes of an Ethernet header, of a VLAN tag and of a UDP header.
const ETHERNET: usize = 14;
const TAG: usize = 4;
const UDP_HEADER: usize = 8;

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
    /// The least mtu that one of the ports tells, if one does.
    mtu: Option<u16>,
    notes: Arc<Notes>,
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
        mtu: Option<u16>,
        notes: Arc<Notes>,
    ) -> Link {
        Link {
            tx,
            rx,
            src,
            dst,
            delivery,
            mtu,
            notes,
            serial: 0,
            got: RxFrame::default(),
        }
    }

    /// The receiving device.
    pub fn receiver(&mut self) -> &mut NetDevice {
        self.rx.as_mut().unwrap_or(&mut self.tx)
    }

    /// A new frame of `len` bytes (at least 18), or of as many as the mtu allows that the ports tell, from sender to receiver, unlike
    /// any before.
    pub fn frame(&mut self, len: usize) -> Vec<u8> {
        self.frame_of(len.min(self.longest().unwrap_or(len)))
    }

    /// The same of `len` bytes, whatever mtu is told.
    pub(crate) fn frame_of(&mut self, len: usize) -> Vec<u8> {
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

    /// The most bytes of a frame without tags that a receiver may get which has accepted MTU, if an mtu is told.
    pub(crate) fn longest(&self) -> Option<usize> {
        self.mtu.map(|mtu| ETHERNET + usize::from(mtu))
    }

    /// Whether a driver may send this: one that has accepted MTU sends nothing longer than the mtu that it was told (virtio 5.1.4.1), nor
    /// anything that is to be cut into such.
    ///
    /// # Errors
    /// [`Failure::Unmet`]: the case needs a larger mtu.
    pub(crate) fn may_send(&self, hdr: &NetHeader, frame: &[u8]) -> Result<(), Failure> {
        let Some(mtu) = self.mtu.filter(|_| self.tx.has(feature::MTU)) else {
            return Ok(());
        };
        let mut at = ETHERNET;
        while let Some([0x81, 0] | [0x88, 0xa8]) = frame.get(at - 2..at) {
            at += TAG;
        }
        let long = match hdr.gso_type {
            GSO_NONE => frame.len().saturating_sub(at),
            kind => {
                let start = usize::from(hdr.csum_start);
                // TCP says itself how long its header is, in words of four bytes.
                let transport = match (kind, frame.get(start + 12)) {
                    (GSO_UDP_L4, _) => UDP_HEADER,
                    (_, Some(words)) => usize::from(words >> 4) * 4,
                    (_, None) => 0,
                };
                let segment = start.saturating_sub(at) + transport + usize::from(hdr.gso_size);
                segment.min(frame.len().saturating_sub(at))
            }
        };
        match long <= usize::from(mtu) {
            true => Ok(()),
            false => Err(Failure::Unmet(format!(
                "an mtu of {long}, and the back end tells {mtu}"
            ))),
        }
    }

    /// Sends a frame with a header of the case's own.
    pub fn send_with(&mut self, hdr: &NetHeader, frame: &[u8]) -> Result<(), Failure> {
        self.may_send(hdr, frame)?;
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
                self.notes.unseen();
                Ok(())
            }
            Delivery::Peer | Delivery::Echo => self.expect(frame).map(drop),
        }
    }

    /// Whether frames are seen to arrive. Where they are not, a case that goes on without them has not seen that all is as it is to be.
    pub(crate) fn is_seen(&self) -> bool {
        let seen = self.sees().is_ok();
        if !seen {
            self.notes.unseen();
        }
        seen
    }

    /// What the case comes upon and goes on.
    pub(crate) fn notes(&self) -> Arc<Notes> {
        Arc::clone(&self.notes)
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
        self.arrives_among(frame, wait, |_| Ok(()))
    }

    /// The same, and has the others looked at.
    pub(crate) fn arrives_among(
        &mut self,
        frame: &[u8],
        wait: Duration,
        look: impl Fn(&[u8]) -> Result<(), Failure>,
    ) -> Result<bool, Failure> {
        let deadline = Instant::now() + wait;
        while self.next(deadline)? {
            if self.got.bytes() == frame {
                return Ok(true);
            }
            look(self.got.bytes())?;
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
            // Of rings that send, which may be the same device's, cases ask themselves.
            if !device.arm_rx() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use vf_guest::net::{GSO_TCPV4, HDR_NEEDS_CSUM, NetConfig};

    fn link(features: u64, mtu: Option<u16>) -> Link {
        let config = NetConfig {
            features,
            ..NetConfig::default()
        };
        let net = NetDevice::detached(u64::MAX, &config).unwrap();
        let notes = Arc::new(Notes::default());
        Link::new(net, None, [2; 6], [4; 6], Delivery::Echo, mtu, notes)
    }

    #[test]
    fn a_driver_that_was_told_an_mtu_sends_nothing_longer() {
        let mut told = link(NetConfig::PLAIN, Some(1400));
        assert_eq!(told.frame(1514).len(), 1414);
        let plain = NetHeader::default();
        let long = told.frame_of(1415);
        assert!(matches!(
            told.may_send(&plain, &long),
            Err(Failure::Unmet(_))
        ));
        // A tag is no part of what the mtu counts.
        let mut tagged = told.frame(1414);
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert!(told.may_send(&plain, &tagged).is_ok());
        // Ethernet, IPv4 and TCP: segments of 1360 fit.
        let mut giant = told.frame_of(20_000);
        giant[34 + 12] = 0x50;
        for (gso_size, fits) in [(1360, true), (1361, false)] {
            let hdr = NetHeader {
                flags: HDR_NEEDS_CSUM,
                gso_type: GSO_TCPV4,
                gso_size,
                csum_start: 34,
                ..NetHeader::default()
            };
            assert_eq!(told.may_send(&hdr, &giant).is_ok(), fits, "{gso_size}");
        }
        for (features, mtu) in [
            (NetConfig::PLAIN & !feature::MTU, Some(1400)),
            (NetConfig::PLAIN, None),
        ] {
            assert!(link(features, mtu).may_send(&plain, &long).is_ok());
        }
    }
}
