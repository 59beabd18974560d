//! What about a session changes while the device does not have the rings that it concerns: they are asked for, they come
//! back, the change is made, and those that can run are given out again. Never judges a message: what comes here has
//! been checked.

#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

use std::sync::Arc;

use super::{Action, RingSetup, RingState, Session, Then};
use crate::chain::RingAddresses;
use crate::coalescing::Coalescing;
use crate::control::ControlQueue;
use crate::error::{RingError, SessionRefusal};
use crate::eventfd::EventFd;
use crate::features::{ProtocolFeatures, VirtioFeatures};
use crate::memory::{DirtyLog, GuestMemory};
use crate::message::{self, FrontendRequest, VringAddr};
use crate::vring::{Vring, VringConfig};

/// A change, checked.
#[derive(Debug)]
pub(super) enum Change {
    /// The driver acknowledged these virtio features; and whether the front end wants writes logged.
    Features(VirtioFeatures, bool),
    /// Whether it does, of a driver that goes on.
    Logging(bool),
    /// What they are logged in.
    Log(Arc<DirtyLog>),
    /// RESET_DEVICE: rings and virtio features as at the start; the front end stays the owner.
    Reset,
    /// The guest has this memory.
    Memory(Arc<GuestMemory>),
    /// Something about one ring.
    Ring(u32, RingChange),
    /// GET_VRING_BASE: the ring is stopped, and the answer says where it was.
    Stop(u32),
    /// The driver receives on so many pairs.
    Pairs(u16),
    /// Calls of these rings are held back for so long.
    Coalesce(Vec<u32>, Coalescing),
    /// Whether no ring runs until further notice.
    Paused(bool),
    /// Nothing of the session is left.
    End,
}

/// What about a ring.
#[derive(Debug)]
pub(super) enum RingChange {
    Size(u16),
    Addr(VringAddr),
    Base(u32),
    Enabled(bool),
    /// The kick message has come, with a descriptor or without.
    Kick(Option<EventFd>),
    /// It was kicked, in band or for the first time.
    Started,
    Call(Option<EventFd>),
    Err(Option<EventFd>),
}

/// A change that waits for the rings that it concerns, and what comes after it.
#[derive(Debug)]
pub(super) struct Pending {
    rings: Vec<u32>,
    change: Change,
    then: Then,
}

impl Session {
    /// Says what became of the rings of the last [`Action::Stop`], in their order: `None` if one is gone, because it was
    /// broken.
    pub fn stopped(&mut self, rings: Vec<Option<Vring>>) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        let mut rings = rings.into_iter();
        for ring in pending.rings {
            self.take_back(ring, rings.next().flatten());
        }
        self.finish(pending.change, pending.then);
    }

    /// Asks for the rings that a change concerns, or makes it at once if the device has none of them.
    pub(super) fn begin(&mut self, change: Change, then: Then) {
        let mut rings = self.concerned(&change);
        rings.retain(|&ring| self.running(ring));
        let control = self
            .control
            .take_if(|control| rings.contains(&control.vring().index()));
        if let Some(control) = control {
            let vring = control.into_vring();
            rings.retain(|&ring| ring != vring.index());
            self.take_back(vring.index(), Some(vring));
        }
        if rings.is_empty() {
            self.finish(change, then);
        } else {
            self.actions.push_back(Action::Stop(rings.clone()));
            self.pending = Some(Pending {
                rings,
                change,
                then,
            });
        }
    }

    fn running(&self, ring: u32) -> bool {
        let state = self.rings.get(ring as usize);
        state.is_some_and(|state| state.running)
    }

    fn concerned(&self, change: &Change) -> Vec<u32> {
        let all = 0..self.rings.len() as u32;
        match change {
            Change::Ring(ring, _) | Change::Stop(ring) => vec![*ring],
            Change::Pairs(pairs) => {
                let changes = |ring: &u32| {
                    self.is_used(*ring, self.pairs_used) != self.is_used(*ring, Some(*pairs))
                };
                all.filter(changes).collect()
            }
            Change::Coalesce(rings, coalescing) => {
                let changes = |ring: &u32| self.coalescing(*ring) != Some(*coalescing);
                rings.iter().copied().filter(changes).collect()
            }
            Change::Log(_) if !self.logging => Vec::new(),
            Change::Features(..)
            | Change::Logging(_)
            | Change::Log(_)
            | Change::Reset
            | Change::Memory(_)
            | Change::Paused(_)
            | Change::End => all.collect(),
        }
    }

    /// Makes a change, whose rings the device does not have, and gives out what can run then.
    fn finish(&mut self, change: Change, then: Then) {
        let rings = self.concerned(&change);
        let mut payload = None;
        match change {
            Change::Features(bits, logging) => {
                self.features = Some(bits);
                self.forget_driver();
                if !bits.contains(VirtioFeatures::PROTOCOL_FEATURES) {
                    for ring in &mut self.rings {
                        ring.setup.enabled = true;
                    }
                }
                self.actions.push_back(Action::Negotiated(bits));
                self.log_writes(logging);
            }
            Change::Logging(logging) => self.log_writes(logging),
            Change::Log(log) => {
                self.gone
                    .extend(self.log.replace(log).map(|log| Box::new(log) as _));
                self.log_writes(self.logging);
                payload = Some(0u64.to_ne_bytes().to_vec());
            }
            Change::Reset => {
                self.rings.fill_with(RingState::default);
                self.features = None;
                self.forget_driver();
                self.actions.push_back(Action::Reset);
            }
            Change::Memory(memory) => {
                let before = std::mem::replace(&mut self.memory, memory);
                self.gone.push(Box::new(before));
                self.log_writes(self.logging);
            }
            Change::Ring(ring, change) => {
                if let Some(state) = self.rings.get_mut(ring as usize) {
                    state.change(change);
                }
            }
            Change::Stop(ring) => {
                if let Some(state) = self.rings.get_mut(ring as usize) {
                    (state.started, state.unkicked) = (false, false);
                    state.kick = None;
                    payload = Some([ring.to_ne_bytes(), state.setup.base.to_ne_bytes()].concat());
                }
            }
            Change::Pairs(pairs) => self.pairs_used = Some(pairs),
            Change::Coalesce(chosen, coalescing) => {
                for ring in chosen {
                    if let Some(state) = self.rings.get_mut(ring as usize) {
                        state.coalescing = Some(coalescing);
                    }
                }
            }
            Change::Paused(paused) => self.paused = paused,
            Change::End => {
                self.rings.clear();
                self.gone.push(Box::new(std::mem::take(&mut self.memory)));
                self.gone
                    .extend(self.log.take().map(|log| Box::new(log) as _));
                self.logging = false;
                self.features = None;
                self.replace_backend(None);
            }
        }
        if self.resume(&rings) && self.pairs_used.is_none() {
            // Its driver asks for more when it wants to receive on more.
            self.begin(Change::Pairs(1), Then::Controlled(Box::new(then)));
        } else {
            self.carry_on(then, Ok(payload));
        }
    }

    /// Has what is written to guest memory logged from now on, if there is a log, or not.
    fn log_writes(&mut self, logging: bool) {
        if logging || self.logging {
            let memory = self.memory.with_log(self.log.clone().filter(|_| logging));
            // With the log that it had.
            let before = std::mem::replace(&mut self.memory, memory);
            self.gone.push(Box::new(before));
        }
        if std::mem::replace(&mut self.logging, logging) != logging {
            self.actions.push_back(Action::Logging(logging));
        }
    }

    /// Gives out those of the rings that can run; whether the control queue runs from now on.
    fn resume(&mut self, rings: &[u32]) -> bool {
        let mut controlled = false;
        let mut started = Vec::new();
        for &ring in rings {
            let Some(vring) = self.make(ring) else {
                continue;
            };
            if Some(ring) == self.control_ring() {
                let mut control = ControlQueue::new(vring);
                if let Err(why) = control.call() {
                    self.actions.push_back(Action::ControlBroken(why));
                }
                self.control = Some(control);
                controlled = true;
            } else {
                started.push(vring);
            }
        }
        if !started.is_empty() {
            self.actions.push_back(Action::Start(started));
        }
        controlled
    }

    /// Goes on with what was to come after something that went like this.
    pub(super) fn carry_on(&mut self, then: Then, result: Result<Option<Vec<u8>>, SessionRefusal>) {
        let (request, need_reply, kicked) = match then {
            Then::Nothing => return,
            Then::Controlled(then) => {
                let features = self.features.unwrap_or_default();
                self.actions.push_back(Action::Controlled(features));
                return self.carry_on(*then, result);
            }
            Then::Obeyed(obeyed) => {
                self.obeyed = Some(obeyed);
                return;
            }
            Then::Reply {
                request,
                need_reply,
                kicked,
            } => (request, need_reply, kicked),
        };
        if let (Ok(_), Some(ring)) = (&result, kicked)
            && Some(ring) == self.control_ring()
        {
            // A driver may wait for it in a busy loop.
            let kicked = None;
            return self.serve_kicked(Then::Reply {
                request,
                need_reply,
                kicked,
            });
        }
        // Tested after the request: the acknowledgement may just have been negotiated.
        let ack = need_reply && self.protocol.contains(ProtocolFeatures::REPLY_ACK);
        let reply = |payload: &[u8]| message::reply(request, payload);
        match result {
            Ok(payload) => {
                let reply = match payload {
                    Some(payload) => Some(reply(&payload)),
                    None => ack.then(|| reply(&0u64.to_ne_bytes())),
                };
                match kicked.filter(|&ring| self.running(ring)) {
                    Some(ring) => self.actions.push_back(Action::Kicked { ring, reply }),
                    None => self.actions.extend(reply.map(Action::Reply)),
                }
            }
            Err(refusal)
                if ack
                    && (matches!(refusal, SessionRefusal::Unknown(_))
                        || !FrontendRequest::has_reply(request)) =>
            {
                let reply = reply(&1u64.to_ne_bytes());
                self.actions.push_back(Action::Reply(reply));
                self.actions.push_back(Action::Refused(request, refusal));
            }
            Err(refusal) if refusal.harmless() => {
                self.actions.push_back(Action::Refused(request, refusal));
            }
            Err(refusal) => self.actions.push_back(Action::Close(refusal)),
        }
    }

    /// Notes that the device no longer has a ring. One that broke stays stopped until the front end starts it again.
    fn take_back(&mut self, ring: u32, vring: Option<Vring>) {
        let Some(state) = self.rings.get_mut(ring as usize) else {
            return;
        };
        state.running = false;
        match vring {
            Some(vring) => {
                state.setup.base = vring.base();
                state.setup.told = false;
                state.started &= !vring.is_broken();
            }
            None => {
                (state.started, state.unkicked) = (false, false);
                // Chains are returned in order, so the used index says what has been done. A packed ring says nothing.
                if let Some(index) = self.used_index(ring)
                    && let Some(state) = self.rings.get_mut(ring as usize)
                {
                    state.setup.base = index.into();
                }
            }
        }
    }

    fn used_index(&self, ring: u32) -> Option<u16> {
        if self.is_packed() {
            return None;
        }
        let at = self
            .locate(ring, &self.rings.get(ring as usize)?.setup)
            .ok()?;
        let at = at.used.checked_add(2)?;
        self.memory.slice(at, 2)?.read(0).map(u16::from_le)
    }

    /// A ring that runs from now on, if all that it needs is there. Otherwise it waits: memory, say, comes region by region.
    fn make(&mut self, ring: u32) -> Option<Vring> {
        // What the driver has a control queue for is known from its start on, and a command comes with a kick.
        let waits = Some(ring) != self.control_ring();
        let packed = self.is_packed();
        let ready = |state: &&RingState| {
            state.started && !state.running && !(waits && state.awaits_first_kick(packed))
        };
        let state = self.rings.get(ring as usize).filter(ready)?;
        if self.features.is_none() || state.setup.size == 0 || self.paused {
            return None;
        }
        let config = self.locate(ring, &state.setup).ok()?;
        let (kick, call, err) = (state.kick.clone(), state.call.clone(), state.err.clone());
        // It fails only if the memory vanishes meanwhile, which ends the session anyway.
        let vring = Vring::new(config, self.memory.clone(), kick, call, err).ok()?;
        let state = self.rings.get_mut(ring as usize)?;
        (state.running, state.unkicked) = (true, false);
        Some(vring)
    }

    /// Where a ring with this setup is in guest memory.
    pub(super) fn locate(
        &self,
        ring: u32,
        setup: &super::RingSetup,
    ) -> Result<VringConfig, SessionRefusal> {
        let outside = SessionRefusal::Ring(ring, RingError::RingOutside);
        let Some(addr) = setup.addr else {
            return Err(outside);
        };
        let packed = self.is_packed();
        let layout = RingAddresses::layout(packed, setup.size);
        let find = |user_addr, (len, _)| self.memory.user_to_guest(user_addr, len);
        let parts = (
            find(addr.desc, layout[0]),
            find(addr.avail, layout[1]),
            find(addr.used, layout[2]),
        );
        let (Some(desc), Some(avail), Some(used)) = parts else {
            return Err(outside);
        };
        let at = RingAddresses { desc, avail, used };
        if !at.aligned(packed) {
            return Err(SessionRefusal::Ring(ring, RingError::Misaligned));
        }
        Ok(VringConfig {
            index: ring,
            size: setup.size,
            desc,
            avail,
            used,
            base: setup.base,
            told: setup.told,
            features: self.features.unwrap_or_default(),
            enabled: setup.enabled && self.is_used(ring, self.pairs_used),
            coalescing: self.coalescing(ring).unwrap_or_default(),
        })
    }
}

impl RingSetup {
    /// Whether the ring begins at its first entry; of a packed one, in any lap.
    fn is_new(&self, packed: bool) -> bool {
        const WRAP_COUNTERS: u32 = 0x8000_8000;
        let lap = if packed { WRAP_COUNTERS } else { 0 };
        self.base & !lap == 0
    }
}

impl RingState {
    /// Whether the kick message has come and the kick has not.
    pub(super) fn awaits_first_kick(&self, packed: bool) -> bool {
        self.started && self.unkicked && self.setup.is_new(packed)
    }

    fn change(&mut self, change: RingChange) {
        match change {
            RingChange::Size(size) => self.setup.size = size,
            RingChange::Addr(addr) => self.setup.addr = Some(addr),
            RingChange::Base(base) => (self.setup.base, self.setup.told) = (base, true),
            RingChange::Enabled(enabled) => self.setup.enabled = enabled,
            RingChange::Kick(kick) => {
                self.unkicked = kick.is_some() && !self.started;
                self.started = true;
                self.kick = kick;
            }
            RingChange::Started => (self.started, self.unkicked) = (true, false),
            RingChange::Call(call) => self.call = call,
            RingChange::Err(err) => self.err = err,
        }
    }
}
