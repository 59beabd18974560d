//! A guest that moves raw frames: numbered, addressed, compared byte by byte. Has no TCP and no thread.

use std::path::Path;
use std::time::{Duration, Instant};

use vf_guest::driver::DeviceFault;
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, RxFrame};

use crate::emulator::{DEADLINE, wait_for};

/// EtherType of the tests' frames (IEEE "local experimental").
pub(crate) const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
/// How long a frame that must not arrive is waited for.
const QUIET: Duration = Duration::from_millis(60);

/// One VF with a raw driver on it.
pub(crate) struct Port {
    pub(crate) net: NetDevice,
    pub(crate) mac: [u8; 6],
    got: RxFrame,
    serial: u32,
}

/// Connects to a socket that may not be there yet, or may be busy with the end of its last session.
pub(crate) fn start(socket: &Path, config: &NetConfig) -> NetDevice {
    wait_for("a session on the VF's socket", || {
        try_start(socket, config).ok()
    })
}

/// One attempt to connect and negotiate.
pub(crate) fn try_start(socket: &Path, config: &NetConfig) -> Result<NetDevice, FrontendError> {
    NetDevice::start(Frontend::connect(socket)?, config)
}

impl Port {
    /// A port with the VF's own MAC address.
    pub(crate) fn open(socket: &Path) -> Port {
        Port::open_with(socket, &NetConfig::default())
    }

    pub(crate) fn open_with(socket: &Path, config: &NetConfig) -> Port {
        let net = start(socket, config);
        let mac = net.config_space().mac;
        Port {
            net,
            mac,
            got: RxFrame::default(),
            serial: 0,
        }
    }

    /// A new frame of `len` bytes to `dst`, unlike any that this port has made before.
    pub(crate) fn frame(&mut self, dst: [u8; 6], len: usize) -> Vec<u8> {
        self.serial += 1;
        let serial = self.serial;
        let mut frame = [&dst[..], &self.mac, &ETHERTYPE, &serial.to_be_bytes()].concat();
        frame.extend((frame.len()..len).map(|i| (i as u32).wrapping_mul(serial + 7) as u8));
        frame
    }

    /// Sends a frame; waits while the ring is full.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        wait_for("room in the send ring", || {
            let sent = self.net.send(0, &NetHeader::default(), frame).unwrap();
            self.net.kick();
            sent.then_some(())
        });
    }

    /// Puts a frame on the ring, not yet visible; false when the ring is full.
    pub(crate) fn offer(&mut self, frame: &[u8]) -> bool {
        self.net.send(0, &NetHeader::default(), frame).unwrap()
    }

    /// The next received frame, if there is one now; buffers that come back with nothing in them are passed over, as one is that a back end
    /// had filled, and not returned, when it was killed.
    pub(crate) fn poll_past_empty(&mut self) -> Option<&[u8]> {
        loop {
            match self.net.recv(0, &mut self.got) {
                Err(DeviceFault::ShortHeader { len: 0 }) => {
                    self.net.kick();
                }
                received => {
                    let received = received.unwrap();
                    self.net.kick();
                    return received.then(|| self.got.bytes());
                }
            }
        }
    }

    /// The next received frame, if there is one now.
    pub(crate) fn poll(&mut self) -> Option<&[u8]> {
        if self.net.recv(0, &mut self.got).unwrap() {
            self.net.kick();
            Some(self.got.bytes())
        } else {
            None
        }
    }

    /// Whether `frame` arrives within `wait`; others are passed over.
    pub(crate) fn gets_within(&mut self, frame: &[u8], wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        loop {
            while let Some(got) = self.poll() {
                if got == frame {
                    return true;
                }
            }
            if Instant::now() > deadline {
                return false;
            }
            if !self.net.arm(false) {
                self.net.wait_rx_call(0, Duration::from_millis(2)).unwrap();
            }
        }
    }

    /// Asserts that `frame` arrives.
    #[track_caller]
    pub(crate) fn gets(&mut self, frame: &[u8]) {
        let arrived = self.gets_within(frame, DEADLINE);
        assert!(arrived, "{} bytes did not arrive", frame.len());
    }

    /// Asserts that `frame` does not arrive.
    #[track_caller]
    pub(crate) fn never_gets(&mut self, frame: &[u8]) {
        let arrived = self.gets_within(frame, QUIET);
        assert!(!arrived, "a frame arrived that must not");
    }
}

/// Asserts that new frames pass from `a` to `b` and back.
#[track_caller]
pub(crate) fn pass(a: &mut Port, b: &mut Port) {
    for len in [60, 1514] {
        let frame = a.frame(b.mac, len);
        a.send(&frame);
        b.gets(&frame);
        let frame = b.frame(a.mac, len);
        b.send(&frame);
        a.gets(&frame);
    }
}
