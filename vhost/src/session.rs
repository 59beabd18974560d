//! One session with a front end, from its first message to its last: everything of the protocol
//! but the socket.
//!
//! A request and its descriptors come in; out come a reply, calls of the [`Device`] that start and
//! stop rings, or a [`Refusal`]. No clock, no thread, no socket, no log. A request that is refused
//! changes nothing. The invariant: the device has a ring between [`Device::start_ring`] and
//! [`Device::stop_ring`] and at no other time, and whatever concerns a ring changes while the
//! device does not have it.
//!
//! A control queue is served here and the device never has it; see [`Session::serve_control`].
//!
//! With in-band notifications a kick is a request like any other, but it is answered only when the
//! ring has been looked at: see [`Handled::kick`].
//!
//! A ring runs once its kick message has come (with a descriptor or without) and its size, its
//! addresses and the virtio features are known; it need not have been kicked, and it need not be
//! enabled (vhost-user "Ring states").

mod control;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::Bytes;

use crate::backend::BackendRequests;
pub use crate::config::{DeviceConfig, MAX_QUEUE_PAIRS};
use crate::control::{Coalescing, Command, ControlQueue};
pub use crate::error::Refusal;
use crate::error::RingError;
use crate::eventfd::{EventFd, EventFdError};
use crate::features::{ProtocolFeatures, VirtioFeatures};
use crate::memory::{GuestMemory, MAX_REGIONS};
use crate::message::{self, ConfigRange, Header, Request, VringAddr};
use crate::packed;
use crate::ring::RingAddresses;
use crate::vring::{Vring, VringConfig};

/// Entries of the largest ring (virtio 2.7).
const MAX_RING: usize = 32768;

/// What happened to a session; for log lines and figures.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionEvent<'a> {
    /// A front end has connected.
    Connected,
    /// The driver has acknowledged these virtio features.
    Negotiated {
        /// The feature bits.
        features: VirtioFeatures,
    },
    /// The driver has a control queue from now on, and these virtio features. It has asked for
    /// nothing; what one before it asked for is past since [`SessionEvent::Negotiated`],
    /// [`SessionEvent::Reset`] or [`SessionEvent::Disconnected`].
    Controlled {
        /// The feature bits.
        features: VirtioFeatures,
    },
    /// The front end has reset the device; its rings have been stopped.
    Reset,
    /// A request was refused; the session goes on unless [`SessionEvent::Disconnected`] follows.
    Refused {
        /// Why.
        what: &'a Refusal,
    },
    /// The session is over, and all its rings have been stopped.
    Disconnected {
        /// `None`: the front end hung up.
        why: Option<&'a Refusal>,
    },
}

/// Who runs the rings of a device.
pub trait Device {
    /// `vring` may run from now on. Whether frames flow is in [`Vring::enabled`]: a disabled
    /// transmit ring is drained and its frames discarded, a disabled receive ring gets none.
    fn start_ring(&mut self, vring: Vring);

    /// Takes ring `index` back; nobody touches it when this returns. `None` if the ring is gone,
    /// because it was broken.
    fn stop_ring(&mut self, index: u32) -> Option<Vring>;

    /// Whether the driver may give one more command that has rings stopped for a moment: others' are held up by it, too.
    fn allows(&mut self) -> bool;

    /// Does what the driver asks for; `false` if it may not have it, and then nothing has changed.
    fn command(&mut self, command: &Command) -> bool;

    /// Hears what happens.
    fn session(&mut self, event: SessionEvent<'_>);
}

/// What comes of a message that does not end the session.
#[derive(Debug)]
pub struct Handled {
    /// Bytes to send back.
    pub reply: Option<Vec<u8>>,
    /// The request was refused for this reason.
    pub refused: Option<Refusal>,
    /// The driver kicked this ring, and waits for the reply: send it when all that the driver has
    /// made available is taken care of.
    pub kick: Option<u32>,
}

/// What the front end set about a ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct RingSetup {
    /// 0 until it is set.
    size: u16,
    addr: Option<VringAddr>,
    /// As SET_VRING_BASE and GET_VRING_BASE have it.
    base: u32,
    enabled: bool,
}

#[derive(Debug, Default)]
struct RingState {
    setup: RingSetup,
    /// The kick message has come since the ring was last stopped.
    started: bool,
    /// The device has it, or the session if it is the control queue.
    running: bool,
    kick: Option<EventFd>,
    call: Option<EventFd>,
    err: Option<EventFd>,
    /// What the driver has said about it.
    coalescing: Option<Coalescing>,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    rings: Vec<RingState>,
    /// Pairs of rings that the device has.
    pairs: u16,
    /// Pairs that the driver has asked to receive on. `None`: it has not started a control queue
    /// since SET_FEATURES, so that enabling rings is all that there is.
    pairs_used: Option<u16>,
    /// The station address that the driver has chosen.
    mac: Option<[u8; 6]>,
    /// The control queue while it runs.
    control: Option<ControlQueue>,
    memory: Arc<GuestMemory>,
    features: Option<VirtioFeatures>,
    protocol: ProtocolFeatures,
    backend: Option<BackendRequests>,
    /// One of the session's descriptors has made a thread wait.
    blocks: Arc<AtomicBool>,
}

/// What a request that was served asks to send: nothing but an acknowledgement, or a payload.
type Answer = Result<Option<Vec<u8>>, Refusal>;

impl Session {
    /// A session that has not heard anything yet.
    pub fn new(config: &DeviceConfig) -> Session {
        let rings = (0..config.rings_accepted()).map(|_| RingState::default());
        Session {
            rings: rings.collect(),
            pairs: config.pairs(),
            pairs_used: None,
            mac: None,
            control: None,
            memory: Arc::default(),
            features: None,
            protocol: ProtocolFeatures::empty(),
            backend: None,
            blocks: Arc::default(),
        }
    }

    /// The virtio features the driver acknowledged.
    pub fn features(&self) -> Option<VirtioFeatures> {
        self.features
    }

    /// The guest's memory, as far as it is known.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Whether the session can go on, as far as what the front end shares with us says: its memory, its descriptors.
    ///
    /// # Errors
    /// The session cannot go on; [`Session::end`] it.
    pub fn check_shared(&self) -> Result<(), Refusal> {
        if self.memory.faulted() {
            return Err(Refusal::MemoryVanished);
        }
        if self.blocks.load(Ordering::Relaxed) {
            return Err(Refusal::Blocks);
        }
        Ok(())
    }

    /// Tells the front end that the device configuration has changed; `false` if it does not want
    /// to hear it. In band, a reply is due then.
    pub fn announce(&mut self) -> bool {
        let in_band = self.in_band();
        let wanted = self
            .protocol
            .contains(ProtocolFeatures::CONFIG | ProtocolFeatures::BACKEND_REQ);
        self.backend
            .as_mut()
            .filter(|_| wanted)
            .is_some_and(|backend| backend.send(message::CONFIG_CHANGE_MSG, &[], in_band))
    }

    /// Calls the driver in band for a ring that runs; `false` if it is not called so. A reply is due
    /// then, and the next call should wait for it.
    pub fn call(&mut self, ring: u32) -> bool {
        let in_band = self.in_band();
        let state = self.rings.get(ring as usize);
        let callable = state.is_some_and(|state| state.running && state.call.is_none());
        let payload = [ring.to_ne_bytes(), [0; 4]];
        self.backend
            .as_mut()
            .filter(|_| in_band && callable)
            .is_some_and(|backend| backend.send(message::VRING_CALL, payload.as_flattened(), true))
    }

    /// The socket on which a reply of the front end is due, if one is.
    pub fn awaited_reply(&self) -> Option<BorrowedFd<'_>> {
        let backend = self.backend.as_ref()?;
        backend.awaits_reply().then(|| backend.as_fd())
    }

    /// Takes the replies that have come.
    ///
    /// # Errors
    /// The session cannot go on; [`Session::end`] it.
    pub fn hear_replies(&mut self) -> Result<(), Refusal> {
        self.backend.as_mut().map_or(Ok(()), BackendRequests::hear)
    }

    fn in_band(&self) -> bool {
        let needed = ProtocolFeatures::INBAND_NOTIFICATIONS
            | ProtocolFeatures::BACKEND_REQ
            | ProtocolFeatures::REPLY_ACK;
        self.protocol.contains(needed)
    }

    /// Serves one message. Descriptors that it does not need are closed.
    ///
    /// # Errors
    /// The session cannot go on; [`Session::end`] it.
    pub fn handle(
        &mut self,
        config: &DeviceConfig,
        header: Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        dev: &mut dyn Device,
    ) -> Result<Handled, Refusal> {
        let mut kick = None;
        let answer = match Request::parse(header.request, payload) {
            Ok(Request::VringKick { ring }) => self.kicked(config, ring, dev).map(|wakes| {
                kick = wakes.then_some(ring);
                None
            }),
            Ok(request) => self.serve(config, request, fds, dev),
            Err(malformed) => Err(malformed.into()),
        };
        // Tested after the request: the acknowledgement may just have been negotiated.
        let ack = header.need_reply() && self.protocol.contains(ProtocolFeatures::REPLY_ACK);
        let reply = |payload: &[u8]| Some(message::reply(header.request, payload));
        match answer {
            Ok(Some(payload)) => Ok(Handled {
                reply: reply(&payload),
                refused: None,
                kick,
            }),
            Ok(None) => {
                let reply = ack.then(|| reply(&0u64.to_ne_bytes())).flatten();
                Ok(Handled {
                    reply,
                    refused: None,
                    kick,
                })
            }
            Err(refusal) if ack && !Request::has_reply(header.request) => Ok(Handled {
                reply: reply(&1u64.to_ne_bytes()),
                refused: Some(refusal),
                kick,
            }),
            Err(refusal) if refusal.harmless() => Ok(Handled {
                reply: None,
                refused: Some(refusal),
                kick,
            }),
            Err(refusal) => Err(refusal),
        }
    }

    /// Stops all rings and forgets the guest. Nothing of the session is left.
    pub fn end(&mut self, dev: &mut dyn Device) {
        for ring in 0..self.rings.len() as u32 {
            self.pause(ring, dev);
        }
        self.rings.clear();
        self.memory = Arc::default();
        self.features = None;
        self.backend = None;
    }

    fn serve(
        &mut self,
        config: &DeviceConfig,
        request: Request,
        fds: Vec<OwnedFd>,
        dev: &mut dyn Device,
    ) -> Answer {
        let u64_answer = |value: u64| Ok(Some(value.to_ne_bytes().to_vec()));
        match request {
            Request::GetFeatures => return u64_answer(config.features.bits()),
            Request::GetProtocolFeatures => return u64_answer(config.protocol_features.bits()),
            Request::GetQueueNum => return u64_answer(config.rings().into()),
            Request::GetMaxMemSlots => return u64_answer(MAX_REGIONS as u64),
            Request::GetConfig(range) => return Ok(Some(read_config(config, self.mac, range))),
            Request::GetVringBase { ring } => return self.get_vring_base(ring, dev).map(Some),
            Request::SetFeatures(bits) => {
                self.set_features(config, VirtioFeatures::from_bits_retain(bits), dev)?;
            }
            Request::SetProtocolFeatures(bits) => {
                let unknown = bits & !config.protocol_features.bits();
                if unknown != 0 {
                    return Err(Refusal::ProtocolFeatures(unknown));
                }
                self.protocol = ProtocolFeatures::from_bits_truncate(bits);
            }
            // The document wants RESET_OWNER ignored: front ends disagree on what it means.
            Request::SetOwner | Request::ResetOwner => {}
            Request::ResetDevice => self.reset(dev),
            Request::SetMemTable(specs) => {
                let fds = exactly(fds, specs.len())?;
                let memory = GuestMemory::map(specs.into_iter().zip(fds).collect())?;
                self.replace_memory(memory, dev);
            }
            Request::AddMemReg(spec) => {
                let memory = self.memory.with_region(spec, one(fds)?)?;
                self.replace_memory(memory, dev);
            }
            Request::RemMemReg(spec) => {
                let memory = self.memory.without_region(&spec)?;
                self.replace_memory(memory, dev);
            }
            Request::SetVringNum { ring, num } => {
                let packed = self.is_packed();
                let size = u16::try_from(num).ok().filter(|&size| {
                    size.is_power_of_two() || packed && (1..=MAX_RING as u16).contains(&size)
                });
                let size = size.ok_or(Refusal::RingSize(num))?;
                self.place(ring, |setup| setup.size = size, dev)?;
            }
            Request::SetVringAddr { ring, addr } => {
                self.place(ring, |setup| setup.addr = Some(addr), dev)?;
            }
            Request::SetVringBase { ring, base } => {
                if base > u16::MAX.into() && !self.is_packed() {
                    return Err(Refusal::RingBase(base));
                }
                let size = self.ring(ring)?.setup.size;
                self.check_base(ring, base, size)?;
                self.change(ring, |state| state.setup.base = base, dev)?;
            }
            Request::SetVringEnable { ring, enable } => {
                if self.ring(ring)?.setup.enabled != enable {
                    self.change(ring, |state| state.setup.enabled = enable, dev)?;
                }
            }
            Request::SetVringKick { ring, has_fd } => {
                let kick = self.notification(ring, has_fd, fds, EventFd::from_fd)?;
                let setup = self.ring(ring)?.setup;
                self.check(ring, &setup)?;
                self.check_base(ring, setup.base, setup.size)?;
                let started = |state: &mut RingState| {
                    state.kick = kick;
                    state.started = true;
                };
                self.change(ring, started, dev)?;
            }
            Request::SetVringCall { ring, has_fd } => {
                let call = self.notification(ring, has_fd, fds, EventFd::to_signal)?;
                self.change(ring, |state| state.call = call, dev)?;
            }
            Request::SetVringErr { ring, has_fd } => {
                let err = self.notification(ring, has_fd, fds, EventFd::to_signal)?;
                self.change(ring, |state| state.err = err, dev)?;
            }
            Request::NetSetMtu(mtu) => {
                if mtu > config.mtu.into() {
                    return Err(Refusal::Mtu(mtu));
                }
            }
            Request::SetBackendReqFd => self.backend = Some(BackendRequests::new(one(fds)?)?),
            Request::SetConfig => return Err(Refusal::ReadOnly),
            // Served where its reply can wait.
            Request::VringKick { .. } => {}
            Request::Unknown(code) => return Err(Refusal::Unknown(code)),
        }
        Ok(None)
    }

    /// Whether the driver makes its rings packed.
    fn is_packed(&self) -> bool {
        self.features
            .is_some_and(|bits| bits.contains(VirtioFeatures::RING_PACKED))
    }

    fn ring(&mut self, ring: u32) -> Result<&mut RingState, Refusal> {
        self.rings
            .get_mut(ring as usize)
            .ok_or(Refusal::NoSuchRing(ring))
    }

    /// VRING_KICK: starts the ring if that is still to be done. `true` if the device has it; the
    /// control queue is served here and now, for a driver may wait for it in a busy loop.
    fn kicked(
        &mut self,
        config: &DeviceConfig,
        ring: u32,
        dev: &mut dyn Device,
    ) -> Result<bool, Refusal> {
        if !self.in_band() {
            return Err(Refusal::Unknown(Request::VRING_KICK));
        }
        if !self.ring(ring)?.started {
            self.change(ring, |state| state.started = true, dev)?;
        }
        if Some(ring) != self.control_ring() {
            return Ok(self.ring(ring)?.running);
        }
        for _ in 0..MAX_RING / control::COMMANDS {
            match self.serve_control(config, dev) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(Refusal::Ring(ring, error)),
            }
        }
        Ok(false)
    }

    /// The descriptor of a SET_VRING_KICK, CALL or ERR for a ring that exists.
    fn notification(
        &mut self,
        ring: u32,
        has_fd: bool,
        fds: Vec<OwnedFd>,
        take: fn(OwnedFd) -> Result<EventFd, EventFdError>,
    ) -> Result<Option<EventFd>, Refusal> {
        self.ring(ring)?;
        if has_fd {
            Ok(Some(take(one(fds)?)?.with(&self.blocks)))
        } else {
            exactly(fds, 0)?;
            Ok(None)
        }
    }

    fn set_features(
        &mut self,
        config: &DeviceConfig,
        bits: VirtioFeatures,
        dev: &mut dyn Device,
    ) -> Result<(), Refusal> {
        let unknown = bits - config.features;
        if !unknown.is_empty() {
            return Err(Refusal::Features(unknown));
        }
        for ring in 0..self.rings.len() as u32 {
            self.pause(ring, dev);
        }
        self.features = Some(bits);
        self.forget_driver();
        if !bits.contains(VirtioFeatures::PROTOCOL_FEATURES) {
            for ring in &mut self.rings {
                ring.setup.enabled = true;
            }
        }
        dev.session(SessionEvent::Negotiated { features: bits });
        self.resume_all(dev);
        Ok(())
    }

    /// RESET_DEVICE: rings and virtio features as at the start; the front end stays the owner.
    fn reset(&mut self, dev: &mut dyn Device) {
        for ring in 0..self.rings.len() as u32 {
            self.pause(ring, dev);
        }
        self.rings.fill_with(RingState::default);
        self.features = None;
        self.forget_driver();
        dev.session(SessionEvent::Reset);
    }

    fn replace_memory(&mut self, memory: Arc<GuestMemory>, dev: &mut dyn Device) {
        for ring in 0..self.rings.len() as u32 {
            self.pause(ring, dev);
        }
        self.memory = memory;
        self.resume_all(dev);
    }

    /// Stops the ring and says where it was (vhost-user GET_VRING_BASE).
    fn get_vring_base(&mut self, ring: u32, dev: &mut dyn Device) -> Result<Vec<u8>, Refusal> {
        self.ring(ring)?;
        self.pause(ring, dev);
        let state = self.ring(ring)?;
        state.started = false;
        state.kick = None;
        Ok([ring.to_ne_bytes(), state.setup.base.to_ne_bytes()].concat())
    }

    /// Changes the size or the addresses of a ring, if it is in guest memory then.
    fn place(
        &mut self,
        ring: u32,
        change: impl Fn(&mut RingSetup),
        dev: &mut dyn Device,
    ) -> Result<(), Refusal> {
        let mut next = self.ring(ring)?.setup;
        change(&mut next);
        self.check(ring, &next)?;
        self.change(ring, |state| change(&mut state.setup), dev)
    }

    /// A ring whose size and addresses are known is in guest memory. Without any memory yet, the
    /// addresses may still become good.
    fn check(&self, ring: u32, setup: &RingSetup) -> Result<(), Refusal> {
        if self.memory.regions() > 0 && setup.addr.is_some() && setup.size > 0 {
            self.locate(ring, setup)?;
        }
        Ok(())
    }

    /// A ring whose size is known can go on at its base. The size may still change, to one that an old base does not fit.
    fn check_base(&self, ring: u32, base: u32, size: u16) -> Result<(), Refusal> {
        if self.is_packed() && size > 0 {
            packed::side_of(base, size).map_err(|error| Refusal::Ring(ring, error))?;
        }
        Ok(())
    }

    /// Changes a ring, taking it from the device meanwhile. If its memory is away just now, it
    /// waits for it.
    fn change(
        &mut self,
        ring: u32,
        change: impl FnOnce(&mut RingState),
        dev: &mut dyn Device,
    ) -> Result<(), Refusal> {
        self.pause(ring, dev);
        change(self.ring(ring)?);
        self.resume(ring, dev);
        Ok(())
    }

    /// Where a ring with this setup is in guest memory.
    fn locate(&self, ring: u32, setup: &RingSetup) -> Result<VringConfig, Refusal> {
        let outside = Refusal::Ring(ring, RingError::RingOutside);
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
            return Err(Refusal::Ring(ring, RingError::Misaligned));
        }
        Ok(VringConfig {
            index: ring,
            size: setup.size,
            desc,
            avail,
            used,
            base: setup.base,
            features: self.features.unwrap_or_default(),
            enabled: setup.enabled && self.is_used(ring, self.pairs_used),
            coalescing: self.coalescing(ring).unwrap_or_default(),
        })
    }

    /// Takes a ring from the device, if it has it. A ring that broke stays stopped until the front
    /// end starts it again.
    fn pause(&mut self, ring: u32, dev: &mut dyn Device) {
        let Some(state) = self
            .rings
            .get_mut(ring as usize)
            .filter(|state| state.running)
        else {
            return;
        };
        state.running = false;
        let control = self
            .control
            .take_if(|control| control.vring().index() == ring);
        let stopped = match control {
            Some(control) => Some(control.into_vring()),
            None => dev.stop_ring(ring),
        };
        match stopped {
            Some(vring) => {
                state.setup.base = vring.base();
                state.started &= !vring.is_broken();
            }
            None => {
                state.started = false;
                let setup = state.setup;
                // Chains are returned in order, so the used index says what has been done. A packed ring says nothing.
                if let Some(index) = self.used_index(ring, &setup)
                    && let Some(state) = self.rings.get_mut(ring as usize)
                {
                    state.setup.base = index.into();
                }
            }
        }
    }

    fn used_index(&self, ring: u32, setup: &RingSetup) -> Option<u16> {
        if self.is_packed() {
            return None;
        }
        let at = self.locate(ring, setup).ok()?.used.checked_add(2)?;
        let mut index = [0; 2];
        self.memory.slice(at, 2)?.read_slice(&mut index, 0).ok()?;
        Some(u16::from_le_bytes(index))
    }

    /// Gives a ring to the device if all that it needs is there. Otherwise it waits: memory, say,
    /// comes region by region.
    fn resume(&mut self, ring: u32, dev: &mut dyn Device) {
        let ready = |state: &&mut RingState| state.started && !state.running;
        let Some(state) = self.rings.get_mut(ring as usize).filter(ready) else {
            return;
        };
        let setup = state.setup;
        let (kick, call, err) = (state.kick.clone(), state.call.clone(), state.err.clone());
        if self.features.is_none() || setup.size == 0 {
            return;
        }
        let Ok(config) = self.locate(ring, &setup) else {
            return;
        };
        // It fails only if the memory vanishes meanwhile, which ends the session anyway.
        if let Ok(vring) = Vring::new(config, self.memory.clone(), kick, call, err)
            && let Some(state) = self.rings.get_mut(ring as usize)
        {
            state.running = true;
            if Some(ring) != self.control_ring() {
                dev.start_ring(vring);
                return;
            }
            self.control = Some(ControlQueue::new(vring));
            if self.pairs_used.is_none() {
                self.use_pairs(1, dev);
                let features = self.features.unwrap_or_default();
                dev.session(SessionEvent::Controlled { features });
            }
        }
    }

    /// Gives the device what can run.
    fn resume_all(&mut self, dev: &mut dyn Device) {
        for ring in 0..self.rings.len() as u32 {
            self.resume(ring, dev);
        }
    }
}

/// A GET_CONFIG reply: the range and its bytes, or nothing if it is not in the space.
fn read_config(config: &DeviceConfig, mac: Option<[u8; 6]>, range: ConfigRange) -> Vec<u8> {
    let start = range.offset as usize;
    let size = range.size as usize;
    let space = config.space(mac.unwrap_or(config.mac));
    let Some(bytes) = start
        .checked_add(size)
        .and_then(|end| space.get(start..end))
    else {
        return Vec::new();
    };
    let head = [range.offset, range.size, range.flags].map(u32::to_ne_bytes);
    [head.as_flattened(), bytes].concat()
}

fn exactly(fds: Vec<OwnedFd>, need: usize) -> Result<Vec<OwnedFd>, Refusal> {
    let have = fds.len();
    if have == need {
        Ok(fds)
    } else {
        Err(Refusal::Descriptors { have, need })
    }
}

fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd, Refusal> {
    let have = fds.len();
    match <[OwnedFd; 1]>::try_from(fds) {
        Ok([fd]) => Ok(fd),
        Err(_) => Err(Refusal::Descriptors { have, need: 1 }),
    }
}

#[cfg(test)]
mod tests;
