//! What a session does for a driver that has a control queue: obeys what concerns the session, hands
//! the rest out as actions, remembers what was asked until the driver is gone. Never decides what a
//! driver may have.

#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

use super::change::Change;
use super::{Action, DeviceConfig, MAX_RING, Serving, Session, Then};
use crate::control::{Asked, Coalescing, CtrlCommand, Rings};
use crate::error::{RingError, SessionRefusal};
use crate::eventfd::EventFd;
use crate::features::VirtioFeatures;

/// Commands of a driver served at a time, if they are cheap: other devices share the thread.
const COMMANDS: usize = 8;

impl Session {
    /// What tells that the driver has put commands on the control queue, if that runs.
    pub fn control_kick(&self) -> Option<&EventFd> {
        self.control.as_ref()?.vring().kick_fd()
    }

    /// Obeys what the driver put on the control queue, as far as there is time for it now; what is to be done for that is to be
    /// [polled](Session::poll) for. A driver on whose behalf the front end (QEMU, cloud-hypervisor, DPDK) obeys puts nothing
    /// there.
    pub fn serve_control(&mut self) {
        self.serve_queue(COMMANDS, Then::Nothing);
    }

    /// The same after a kick in band, all of it.
    pub(super) fn serve_kicked(&mut self, then: Then) {
        self.serve_queue(MAX_RING, then);
    }

    fn serve_queue(&mut self, left: usize, then: Then) {
        if let Some(kick) = self.control_kick() {
            kick.drain();
        }
        self.serving = Some(Serving { left, then });
    }

    /// Takes the next command off the control queue, if that is being served.
    pub(super) fn serve_next(&mut self, config: &DeviceConfig) -> bool {
        let Some(serving) = &mut self.serving else {
            return false;
        };
        let Some(control) = &mut self.control else {
            self.served(Ok(()));
            return true;
        };
        let Some(left) = serving.left.checked_sub(1) else {
            // Others share the thread: the rest comes when they have had their turn.
            if let (Then::Nothing, Some(kick)) = (&serving.then, control.vring().kick_fd()) {
                kick.signal();
            }
            self.served(Ok(()));
            return true;
        };
        serving.left = left;
        match control.next() {
            Ok(Some(asked)) => self.ask(config, asked),
            Ok(None) => self.served(Ok(())),
            Err(error) => self.served(Err(error)),
        }
        true
    }

    /// Leaves the rest of what is served of the control queue for later, unless the driver waits for all of it.
    pub fn end_turn(&mut self) {
        if let Some(Serving {
            left,
            then: Then::Nothing,
        }) = &mut self.serving
        {
            *left = 0;
        }
    }

    fn served(&mut self, result: Result<(), RingError>) {
        let Some(Serving { then, .. }) = self.serving.take() else {
            return;
        };
        match (then, result) {
            (Then::Nothing, Ok(())) => {}
            (Then::Nothing, Err(error)) => self.actions.push_back(Action::ControlBroken(error)),
            (then, result) => {
                let ring = self.control_ring().unwrap_or_default();
                let refused = |error| SessionRefusal::Ring(ring, error);
                self.carry_on(then, result.map(|()| None).map_err(refused));
            }
        }
    }

    /// Answers a command, or has somebody decide it.
    fn ask(&mut self, config: &DeviceConfig, asked: Asked) {
        let action = match &asked {
            Asked::OfDevice(command) => Action::CtrlCommand(command.clone()),
            Asked::QueuePairs(pairs) if (1..=self.pairs).contains(pairs) => Action::Allow,
            Asked::Coalesce(..) => Action::Allow,
            Asked::CoalescingOf(ring) => {
                let ring = self.frame_ring(*ring);
                let said = ring.map(|ring| self.coalescing(ring).unwrap_or(config.coalescing));
                let bytes = said.map_or(Vec::new(), |said| said.to_bytes().to_vec());
                return self.answer_command(said.is_some(), &bytes);
            }
            Asked::QueuePairs(_) | Asked::Nothing => return self.answer_command(false, &[]),
        };
        self.asked = Some(asked);
        self.actions.push_back(action);
    }

    /// Says what was decided about the last [`Action::CtrlCommand`] or [`Action::Allow`].
    pub fn decided(&mut self, yes: bool) {
        match self.asked.take() {
            Some(Asked::OfDevice(command)) => {
                if let (true, CtrlCommand::MacAddr(mac)) = (yes, command) {
                    self.mac = Some(mac);
                }
                self.answer_command(yes, &[]);
            }
            Some(Asked::QueuePairs(pairs)) if yes => {
                self.begin(Change::Pairs(pairs), Then::Obeyed(true));
            }
            Some(Asked::Coalesce(rings, coalescing)) if yes => {
                let chosen = |ring: &u32| match rings {
                    Rings::Receive => ring.is_multiple_of(2),
                    Rings::Transmit => !ring.is_multiple_of(2),
                    Rings::One(one) => *ring == u32::from(one),
                };
                let frames = 0..self
                    .control_ring()
                    .unwrap_or(0)
                    .min(self.rings.len() as u32);
                let chosen: Vec<u32> = frames.filter(chosen).collect();
                let obeyed = !chosen.is_empty();
                self.begin(Change::Coalesce(chosen, coalescing), Then::Obeyed(obeyed));
            }
            Some(_) => self.answer_command(false, &[]),
            None => {}
        }
    }

    pub(super) fn answer_command(&mut self, obeyed: bool, result: &[u8]) {
        if let Some(control) = &mut self.control
            && let Err(error) = control.answer(obeyed, result)
        {
            self.served(Err(error));
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

    /// The driver has chosen this station address, or has none of its own: its device was given another, or it may not have it any more.
    pub fn set_chosen_mac(&mut self, mac: Option<[u8; 6]>) {
        self.mac = mac;
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
}
