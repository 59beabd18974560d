//! What a session does for a driver that has a control queue: obeys what concerns the session, hands
//! the rest to the [`Device`], remembers what was asked until the driver is gone.

use super::{Device, DeviceConfig, Session};
use crate::control::{Asked, Coalescing, Command, Rings};
use crate::error::RingError;
use crate::eventfd::EventFd;
use crate::features::VirtioFeatures;

/// Commands of a driver served at a time: other devices share the thread.
pub(super) const COMMANDS: usize = 128;

impl Session {
    /// What tells that the driver has put commands on the control queue, if that runs.
    pub fn control_kick(&self) -> Option<&EventFd> {
        self.control.as_ref()?.vring().kick_fd()
    }

    /// Obeys what the driver put on the control queue; `true` if there may be yet more. A driver
    /// on whose behalf the front end (QEMU, cloud-hypervisor, DPDK) obeys puts nothing there.
    ///
    /// # Errors
    /// The driver broke the queue; the session goes on without it.
    pub fn serve_control(
        &mut self,
        config: &DeviceConfig,
        dev: &mut dyn Device,
    ) -> Result<bool, RingError> {
        if let Some(kick) = self.control_kick() {
            kick.drain();
        }
        for _ in 0..COMMANDS {
            let Some(control) = &mut self.control else {
                return Ok(false);
            };
            let Some(command) = control.next()? else {
                return Ok(false);
            };
            let (obeyed, result) = match command {
                Asked::CoalescingOf(ring) => match self.frame_ring(ring) {
                    Some(ring) => {
                        let said = self.coalescing(ring).unwrap_or(config.coalescing);
                        (true, said.to_bytes().to_vec())
                    }
                    None => (false, Vec::new()),
                },
                command => (self.obey(command, dev), Vec::new()),
            };
            if let Some(control) = &mut self.control {
                control.answer(obeyed, &result)?;
            }
        }
        Ok(true)
    }

    fn obey(&mut self, asked: Asked, dev: &mut dyn Device) -> bool {
        match asked {
            Asked::OfDevice(command) => {
                let obeyed = dev.command(&command);
                if let (true, Command::MacAddr(mac)) = (obeyed, command) {
                    self.mac = Some(mac);
                }
                obeyed
            }
            Asked::QueuePairs(pairs) => {
                let possible = (1..=self.pairs).contains(&pairs) && dev.allows();
                if possible {
                    self.use_pairs(pairs, dev);
                }
                possible
            }
            Asked::Coalesce(..) if !dev.allows() => false,
            Asked::Coalesce(rings, coalescing) => {
                let control = self.control_ring();
                let chosen = |ring: u32| match rings {
                    Rings::Receive => ring.is_multiple_of(2),
                    Rings::Transmit => !ring.is_multiple_of(2),
                    Rings::One(one) => ring == u32::from(one),
                };
                let mut obeyed = false;
                for ring in (0..control.unwrap_or(0)).filter(|ring| chosen(*ring)) {
                    let Some(state) = self.rings.get_mut(ring as usize) else {
                        break;
                    };
                    obeyed = true;
                    if state.coalescing.replace(coalescing) != Some(coalescing) {
                        self.pause(ring, dev);
                        self.resume(ring, dev);
                    }
                }
                obeyed
            }
            Asked::CoalescingOf(_) | Asked::Nothing => false,
        }
    }

    /// How long notifications of a ring are to be held back, if the driver has said.
    pub fn coalescing(&self, ring: u32) -> Option<Coalescing> {
        self.rings.get(ring as usize)?.coalescing
    }

    /// The ring that a driver means by a number, if frames go over that.
    fn frame_ring(&self, ring: u16) -> Option<u32> {
        let ring = u32::from(ring);
        (Some(ring) < self.control_ring()).then_some(ring)
    }

    /// Forgets the station address that the driver has chosen: its device was given another.
    pub fn forget_mac(&mut self) {
        self.mac = None;
    }

    /// Forgets what a driver has asked for.
    pub(super) fn forget_driver(&mut self) {
        self.pairs_used = None;
        self.mac = None;
        for state in &mut self.rings {
            state.coalescing = None;
        }
    }

    /// The control queue is behind the rings for frames (virtio 5.1.2).
    pub(super) fn control_ring(&self) -> Option<u32> {
        let features = self.features?;
        if !features.contains(VirtioFeatures::CTRL_VQ) {
            return None;
        }
        let pairs = if features.contains(VirtioFeatures::MQ) {
            self.pairs
        } else {
            1
        };
        Some(2 * u32::from(pairs))
    }

    /// Whether the driver wants a ring used: the device must not receive on others (virtio
    /// 5.1.6.5.6), but what the driver has already put on a transmit ring goes out.
    pub(super) fn is_used(&self, ring: u32, pairs: Option<u16>) -> bool {
        let is_receive = ring.is_multiple_of(2) && Some(ring) != self.control_ring();
        !is_receive || pairs.is_none_or(|pairs| ring / 2 < u32::from(pairs))
    }

    /// From now on frames are received on the first `pairs` pairs only.
    pub(super) fn use_pairs(&mut self, pairs: u16, dev: &mut dyn Device) {
        let before = self.pairs_used.replace(pairs);
        for ring in 0..self.rings.len() as u32 {
            if self.is_used(ring, before) != self.is_used(ring, Some(pairs)) {
                self.pause(ring, dev);
                self.resume(ring, dev);
            }
        }
    }
}
