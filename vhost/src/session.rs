//! One session with a front end, from its first message to its last: everything of the protocol
//! but the socket.
//!
//! Messages come in ([`Session::receive`]), and what is to be done about them comes out
//! ([`Session::poll`]): each [`Action`] is carried out before the next one is asked for. Those that
//! ask something are answered: [`Session::stopped`], [`Session::decided`]. No clock, no thread, no
//! socket, no log, and nobody is called: whoever has a session can as well be a fuzzer. A request that is
//! refused changes nothing. The invariant: the device has a ring between [`Action::Start`] and
//! [`Action::Stop`] and at no other time, and whatever concerns a ring changes while the device does
//! not have it.
//!
//! A control queue is served here and the device never has it; see [`Session::serve_control`].
//!
//! With in-band notifications a kick is a request like any other, but it is answered only when the
//! ring has been looked at: see [`Action::Kicked`].
//!
//! A ring runs once it was kicked and its size, its addresses and the virtio features are known; it need not be
//! enabled (vhost-user "Ring states"). One that comes without a descriptor is polled and runs at once. So does one that goes on
//! where it was: it has been kicked already, and whoever served it then may have taken the kick along.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "numbers of rings, which are few"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

mod change;
mod control;
mod handover;

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::backend::BackendRequests;
pub use crate::config::{DeviceConfig, MAX_QUEUE_PAIRS};
use crate::control::{Asked, Coalescing, ControlQueue, CtrlCommand};
use crate::error::RingError;
pub use crate::error::SessionRefusal;
use crate::eventfd::{EventFd, EventFdError, SignalCost};
use crate::features::{ProtocolFeatures, VirtioFeatures};
use crate::memory::{AddressSpace, DirtyLog, GuestMemory, MAX_REGIONS};
use crate::message::{self, ConfigRange, FrontendRequest, Header, VringAddr};
use crate::packed;
use crate::vring::Vring;

use self::change::{Change, Pending, RingChange};
pub(crate) use self::handover::next;
pub use self::handover::{Descriptors, SavedSession};

/// Entries of the largest ring (virtio 2.7).
const MAX_RING: usize = 32768;

/// What is to be done, before the next is asked for.
#[derive(Debug)]
pub enum Action {
    /// Take these rings from whoever runs them, so that nobody touches them any more, and give them to
    /// [`Session::stopped`].
    Stop(Vec<u32>),
    /// These rings may run from now on. Whether frames flow is in [`Vring::enabled`]: a disabled
    /// transmit ring is drained and its frames discarded, a disabled receive ring gets none.
    Start(Vec<Vring>),
    /// The driver has acknowledged these virtio features. What one before it asked for is past.
    Negotiated(VirtioFeatures),
    /// The driver has a control queue from now on, and these virtio features. It has asked for
    /// nothing; what one before it asked for is past since [`Action::Negotiated`] or [`Action::Reset`].
    Controlled(VirtioFeatures),
    /// The front end has said which MTU the guest has; see [`Session::agreed_mtu`].
    Mtu,
    /// The front end has reset the device; its rings have been stopped.
    Reset,
    /// Whether what the device writes is logged from now on: the guest is being migrated.
    Logging(bool),
    /// Have others know that the guest with this station address is here now, as it does not tell them itself.
    Announce([u8; 6]),
    /// Do what the driver asks for, and say to [`Session::decided`] whether it has it; if not, nothing has changed.
    CtrlCommand(CtrlCommand),
    /// Say to [`Session::decided`] whether the driver may give one more command that has rings stopped for a moment: others'
    /// are held up by it, too.
    Allow,
    /// The driver broke its control queue; the session goes on without it.
    ControlBroken(RingError),
    /// Send these bytes to the front end.
    Reply(Vec<u8>),
    /// The driver kicked this ring, and waits for the reply, if there is one: send it when all that the driver has made
    /// available is taken care of.
    Kicked {
        /// Which ring.
        ring: u32,
        /// Bytes to send then.
        reply: Option<Vec<u8>>,
    },
    /// The request of this number was refused for this reason; the session goes on.
    Refused(u32, SessionRefusal),
    /// The session cannot go on; [`Session::end`] it.
    Close(SessionRefusal),
}

/// What comes after a change.
#[derive(Debug)]
enum Then {
    Nothing,
    /// The driver is told whether its command was obeyed.
    Obeyed(bool),
    /// It is known that the control queue runs, and after that this.
    Controlled(Box<Then>),
    /// The request is answered; one that kicked a ring in band, when that was looked at.
    Reply {
        request: u32,
        need_reply: bool,
        kicked: Option<u32>,
    },
}

/// The control queue is being looked at: for so many commands more, and then this.
#[derive(Debug)]
struct Serving {
    left: usize,
    then: Then,
}

/// What a request comes to that is not refused.
enum Served {
    /// Nothing but an acknowledgement.
    Done,
    /// A reply of its own.
    Payload(Vec<u8>),
    Change(Change),
    /// A kick in band of this ring, which was started before or is now.
    Kicked {
        ring: u32,
        started: bool,
    },
}

/// What the front end set about a ring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct RingSetup {
    /// 0 until it is set.
    size: u16,
    addr: Option<VringAddr>,
    /// As SET_VRING_BASE and GET_VRING_BASE have it.
    base: u32,
    /// Whether the front end has said that, and the ring has not run since.
    told: bool,
    enabled: bool,
}

#[derive(Debug, Default)]
struct RingState {
    setup: RingSetup,
    /// The kick message has come since the ring was last stopped.
    started: bool,
    /// It came with a descriptor, and the ring has not run since.
    unkicked: bool,
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
    /// The MTU that the front end has told the driver.
    mtu: Option<u16>,
    /// The control queue while it runs.
    control: Option<ControlQueue>,
    /// With the log, if what is written there is logged.
    memory: Arc<GuestMemory>,
    /// What is mapped for the device.
    space: Arc<AddressSpace>,
    /// What is the guest's no more.
    gone: Vec<Box<dyn Any + Send>>,
    log: Option<Arc<DirtyLog>>,
    /// Whether the front end wants it used.
    logging: bool,
    /// Without [`VirtioFeatures::LOG_ALL`].
    features: Option<VirtioFeatures>,
    protocol: ProtocolFeatures,
    backend: Option<BackendRequests>,
    /// What the session's descriptors may cost those who signal on them.
    cost: Arc<SignalCost>,
    /// What is to be done next.
    actions: VecDeque<Action>,
    /// What waits for rings to be stopped.
    pending: Option<Pending>,
    /// The driver's command that is being decided.
    asked: Option<Asked>,
    /// Whether the driver's command was obeyed, which it is told when all that comes of the command is done.
    obeyed: Option<bool>,
    /// The control queue is being looked at.
    serving: Option<Serving>,
    /// No ring runs: another process is to go on with the session.
    paused: bool,
}

impl Session {
    /// A session that has not heard anything yet.
    pub fn new(config: &DeviceConfig) -> Session {
        Session::of(config, &Arc::default())
    }

    /// The same of a device for which this is mapped already: what a session of before has had may not be given back yet.
    pub(crate) fn of(config: &DeviceConfig, space: &Arc<AddressSpace>) -> Session {
        let rings = (0..config.rings_accepted()).map(|_| RingState::default());
        Session {
            rings: rings.collect(),
            pairs: config.pairs(),
            pairs_used: None,
            mac: None,
            mtu: None,
            control: None,
            memory: GuestMemory::none(space),
            space: Arc::clone(space),
            gone: Vec::new(),
            log: None,
            logging: false,
            features: None,
            protocol: ProtocolFeatures::empty(),
            backend: None,
            cost: Arc::default(),
            actions: VecDeque::new(),
            pending: None,
            asked: None,
            obeyed: None,
            serving: None,
            paused: false,
        }
    }

    /// The virtio features the driver acknowledged.
    pub fn features(&self) -> Option<VirtioFeatures> {
        self.features
    }

    /// The MTU to which the driver has agreed (VIRTIO_NET_F_MTU), if it has: that of the device, or what the front end says.
    pub fn agreed_mtu(&self, config: &DeviceConfig) -> Option<u16> {
        let agreed = self.features?.contains(VirtioFeatures::MTU);
        agreed.then(|| self.mtu.unwrap_or(config.mtu))
    }

    /// The guest's memory, as far as it is known.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Whether the session can go on, as far as what the front end shares with us says: its memory, its descriptors.
    ///
    /// # Errors
    /// The session cannot go on; [`Session::end`] it.
    pub fn check_shared(&self) -> Result<(), SessionRefusal> {
        if self.memory.faulted() {
            return Err(SessionRefusal::MemoryVanished);
        }
        if self.cost.is_too_high() {
            return Err(SessionRefusal::Blocks);
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

    /// Another socket for requests of ours, or none.
    fn replace_backend(&mut self, backend: Option<BackendRequests>) {
        let before = std::mem::replace(&mut self.backend, backend);
        let before = before.map(|backend| Box::new(backend.into_fd()) as _);
        self.gone.extend(before);
    }

    /// Takes the replies that have come.
    ///
    /// # Errors
    /// The session cannot go on; [`Session::end`] it.
    pub fn hear_replies(&mut self) -> Result<(), SessionRefusal> {
        let backend = self.backend.as_mut();
        backend.map_or(Ok(()), |backend| backend.hear(&mut self.gone))
    }

    /// The rings that wait for their first kick, and what their driver kicks.
    pub fn unkicked(&self) -> impl Iterator<Item = (u32, &EventFd)> {
        let rings = (0..).zip(&self.rings);
        let packed = self.is_packed();
        let waiting = rings.filter(move |(_, state)| state.awaits_first_kick(packed));
        waiting.filter_map(|(ring, state)| Some((ring, state.kick.as_ref()?)))
    }

    /// Notes that a ring was kicked that has waited for that: it starts.
    pub fn kicked(&mut self, ring: u32) {
        self.begin(Change::Ring(ring, RingChange::Started), Then::Nothing);
    }

    fn in_band(&self) -> bool {
        let needed = ProtocolFeatures::INBAND_NOTIFICATIONS
            | ProtocolFeatures::BACKEND_REQ
            | ProtocolFeatures::REPLY_ACK;
        self.protocol.contains(needed)
    }

    /// Serves one message, of which descriptors that it does not need are closed. What comes of it is to be
    /// [polled](Self::poll) for.
    pub fn receive(
        &mut self,
        config: &DeviceConfig,
        header: Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) {
        let then = |kicked| Then::Reply {
            request: header.request,
            need_reply: header.need_reply(),
            kicked,
        };
        let request = FrontendRequest::parse(header.request, payload).map_err(SessionRefusal::from);
        match request.and_then(|request| self.serve(config, request, fds)) {
            Ok(Served::Done) => self.carry_on(then(None), Ok(None)),
            Ok(Served::Payload(payload)) => self.carry_on(then(None), Ok(Some(payload))),
            Ok(Served::Change(change)) => self.begin(change, then(None)),
            Ok(Served::Kicked {
                ring,
                started: false,
            }) => self.begin(Change::Ring(ring, RingChange::Started), then(Some(ring))),
            Ok(Served::Kicked { ring, .. }) => self.carry_on(then(Some(ring)), Ok(None)),
            Err(refusal) => self.carry_on(then(None), Err(refusal)),
        }
    }

    /// What is to be done next; `None` if there is nothing, or an answer is still due.
    pub fn poll(&mut self, config: &DeviceConfig) -> Option<Action> {
        loop {
            let action = self.actions.pop_front();
            if action.is_some() || self.pending.is_some() || self.asked.is_some() {
                return action;
            }
            if let Some(obeyed) = self.obeyed.take() {
                self.answer_command(obeyed, &[]);
            } else if !self.serve_next(config) {
                return None;
            }
        }
    }

    /// Memories and logs that were the guest's, and sockets: to drop the last reference to one takes as long as it is large, or as who is behind it
    /// likes.
    pub fn take_gone(&mut self) -> Vec<Box<dyn Any + Send>> {
        std::mem::take(&mut self.gone)
    }

    /// Takes all rings back and forgets the guest, once what comes of that has been [polled](Self::poll) for. Nothing of the
    /// session is left then.
    pub fn end(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            // Nobody has got these.
            if let Action::Start(vrings) = action {
                for vring in vrings {
                    if let Some(state) = self.rings.get_mut(vring.index() as usize) {
                        state.running = false;
                    }
                }
            }
        }
        (self.pending, self.asked, self.obeyed, self.serving) = (None, None, None, None);
        self.begin(Change::End, Then::Nothing);
    }

    /// Checks what a request asks for.
    fn serve(
        &mut self,
        config: &DeviceConfig,
        request: FrontendRequest,
        fds: Vec<OwnedFd>,
    ) -> Result<Served, SessionRefusal> {
        let number = |value: u64| Ok(Served::Payload(value.to_ne_bytes().to_vec()));
        let change = match request {
            FrontendRequest::GetFeatures => return number(config.features.bits()),
            FrontendRequest::GetProtocolFeatures => return number(config.protocol_features.bits()),
            FrontendRequest::GetQueueNum => return number(config.rings().into()),
            FrontendRequest::GetMaxMemSlots => return number(MAX_REGIONS as u64),
            FrontendRequest::GetConfig(range) => {
                return Ok(Served::Payload(read_config(config, self.mac, range)));
            }
            FrontendRequest::GetVringBase { ring } => {
                self.ring(ring)?;
                Change::Stop(ring)
            }
            FrontendRequest::SetFeatures(bits) => {
                let bits = VirtioFeatures::from_bits_retain(bits);
                let unknown = bits - config.features;
                if !unknown.is_empty() {
                    return Err(SessionRefusal::Features(unknown));
                }
                let logging = bits.contains(VirtioFeatures::LOG_ALL);
                let bits = bits - VirtioFeatures::LOG_ALL;
                // The driver has nothing to do with a migration that begins or ends.
                match self.features == Some(bits) && (logging || self.logging) {
                    true => Change::Logging(logging),
                    false => Change::Features(bits, logging),
                }
            }
            FrontendRequest::SetProtocolFeatures(bits) => {
                let unknown = bits & !config.protocol_features.bits();
                if unknown != 0 {
                    return Err(SessionRefusal::ProtocolFeatures(unknown));
                }
                self.protocol = ProtocolFeatures::from_bits_truncate(bits);
                return Ok(Served::Done);
            }
            // The document wants RESET_OWNER ignored: front ends disagree on what it means.
            FrontendRequest::SetOwner | FrontendRequest::ResetOwner => return Ok(Served::Done),
            FrontendRequest::ResetDevice => Change::Reset,
            FrontendRequest::SetMemTable(specs) => {
                let fds = exactly(fds, specs.len())?;
                let regions = specs.into_iter().zip(fds).collect();
                Change::Memory(GuestMemory::map_in(&self.space, regions)?)
            }
            FrontendRequest::AddMemReg(spec) => {
                Change::Memory(self.memory.with_region(spec, one(fds)?)?)
            }
            FrontendRequest::SetLogBase { size, offset }
                if self.protocol.contains(ProtocolFeatures::LOG_SHMFD) =>
            {
                Change::Log(Arc::new(DirtyLog::map(
                    &self.space,
                    one(fds)?,
                    size,
                    offset,
                )?))
            }
            // An address of the front end's own.
            FrontendRequest::SetLogBase { .. } => {
                return Err(SessionRefusal::Unknown(FrontendRequest::SET_LOG_BASE));
            }
            FrontendRequest::SetLogFd => {
                // It may be signalled when something is logged. No front end waits for that, as it looks at the log when it sends
                // pages; a signal for each write is dear.
                EventFd::to_signal(one(fds)?)?;
                return Ok(Served::Done);
            }
            FrontendRequest::SendRarp(mac) if self.protocol.contains(ProtocolFeatures::RARP) => {
                self.actions.push_back(Action::Announce(mac));
                return Ok(Served::Done);
            }
            FrontendRequest::SendRarp(_) => {
                return Err(SessionRefusal::Unknown(FrontendRequest::SEND_RARP));
            }
            FrontendRequest::RemMemReg(spec) => Change::Memory(self.memory.without_region(&spec)?),
            FrontendRequest::SetVringNum { ring, num } => {
                let packed = self.is_packed();
                let size = u16::try_from(num).ok().filter(|&size| {
                    size.is_power_of_two() || packed && (1..=MAX_RING as u16).contains(&size)
                });
                let size = size.ok_or(SessionRefusal::RingSize(num))?;
                let setup = self.ring(ring)?.setup;
                self.check(ring, &RingSetup { size, ..setup })?;
                Change::Ring(ring, RingChange::Size(size))
            }
            FrontendRequest::SetVringAddr { ring, addr } => {
                let setup = self.ring(ring)?.setup;
                let placed = RingSetup {
                    addr: Some(addr),
                    ..setup
                };
                self.check(ring, &placed)?;
                Change::Ring(ring, RingChange::Addr(addr))
            }
            FrontendRequest::SetVringBase { ring, base } => {
                if base > u16::MAX.into() && !self.is_packed() {
                    return Err(SessionRefusal::RingBase(base));
                }
                let size = self.ring(ring)?.setup.size;
                self.check_base(ring, base, size)?;
                Change::Ring(ring, RingChange::Base(base))
            }
            FrontendRequest::SetVringEnable { ring, enable } => {
                if self.ring(ring)?.setup.enabled == enable {
                    return Ok(Served::Done);
                }
                Change::Ring(ring, RingChange::Enabled(enable))
            }
            FrontendRequest::SetVringKick { ring, has_fd } => {
                let kick = self.notification(ring, has_fd, fds, EventFd::from_fd)?;
                let setup = self.ring(ring)?.setup;
                self.check(ring, &setup)?;
                self.check_base(ring, setup.base, setup.size)?;
                Change::Ring(ring, RingChange::Kick(kick))
            }
            FrontendRequest::SetVringCall { ring, has_fd } => {
                let call = self.notification(ring, has_fd, fds, EventFd::to_signal)?;
                Change::Ring(ring, RingChange::Call(call))
            }
            FrontendRequest::SetVringErr { ring, has_fd } => {
                let err = self.notification(ring, has_fd, fds, EventFd::to_signal)?;
                Change::Ring(ring, RingChange::Err(err))
            }
            FrontendRequest::NetSetMtu(mtu) => {
                let told = u16::try_from(mtu).ok().filter(|mtu| *mtu <= config.mtu);
                self.mtu = Some(told.ok_or(SessionRefusal::Mtu(mtu))?);
                self.actions.push_back(Action::Mtu);
                return Ok(Served::Done);
            }
            FrontendRequest::SetBackendReqFd => {
                let backend = BackendRequests::new(one(fds)?)?;
                self.replace_backend(Some(backend));
                return Ok(Served::Done);
            }
            FrontendRequest::SetConfig => return Err(SessionRefusal::ReadOnly),
            FrontendRequest::VringKick { .. } if !self.in_band() => {
                return Err(SessionRefusal::Unknown(FrontendRequest::VRING_KICK));
            }
            FrontendRequest::VringKick { ring } => {
                let started = self.ring(ring)?.started;
                return Ok(Served::Kicked { ring, started });
            }
            FrontendRequest::Unknown(code) => return Err(SessionRefusal::Unknown(code)),
        };
        Ok(Served::Change(change))
    }

    /// Whether the driver makes its rings packed.
    fn is_packed(&self) -> bool {
        self.features
            .is_some_and(|bits| bits.contains(VirtioFeatures::RING_PACKED))
    }

    fn ring(&mut self, ring: u32) -> Result<&mut RingState, SessionRefusal> {
        self.rings
            .get_mut(ring as usize)
            .ok_or(SessionRefusal::NoSuchRing(ring))
    }

    /// The descriptor of a SET_VRING_KICK, CALL or ERR for a ring that exists.
    fn notification(
        &mut self,
        ring: u32,
        has_fd: bool,
        fds: Vec<OwnedFd>,
        take: fn(OwnedFd) -> Result<EventFd, EventFdError>,
    ) -> Result<Option<EventFd>, SessionRefusal> {
        self.ring(ring)?;
        if has_fd {
            Ok(Some(take(one(fds)?)?.with(&self.cost)))
        } else {
            exactly(fds, 0)?;
            Ok(None)
        }
    }

    /// A ring whose size and addresses are known is in guest memory. Without any memory yet, the
    /// addresses may still become good.
    fn check(&self, ring: u32, setup: &RingSetup) -> Result<(), SessionRefusal> {
        if self.memory.regions() > 0 && setup.addr.is_some() && setup.size > 0 {
            self.locate(ring, setup)?;
        }
        Ok(())
    }

    /// A ring whose size is known can go on at its base. The size may still change, to one that an old base does not fit.
    fn check_base(&self, ring: u32, base: u32, size: u16) -> Result<(), SessionRefusal> {
        if self.is_packed() && size > 0 {
            packed::side_of(base, size).map_err(|error| SessionRefusal::Ring(ring, error))?;
        }
        Ok(())
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

fn exactly(fds: Vec<OwnedFd>, need: usize) -> Result<Vec<OwnedFd>, SessionRefusal> {
    let have = fds.len();
    if have == need {
        Ok(fds)
    } else {
        Err(SessionRefusal::Descriptors { have, need })
    }
}

fn one(fds: Vec<OwnedFd>) -> Result<OwnedFd, SessionRefusal> {
    let have = fds.len();
    match <[OwnedFd; 1]>::try_from(fds) {
        Ok([fd]) => Ok(fd),
        Err(_) => Err(SessionRefusal::Descriptors { have, need: 1 }),
    }
}

#[cfg(test)]
mod tests;
