//! A session that another process goes on with: what is to be known of it as a value, and its descriptors beside that, in the order in
//! which the value names them. The front end notices nothing, and so does its driver but for a call that it need not have had.
//!
//! A session is [paused](Session::pause), [saved](Session::save), [restored](Session::restore) elsewhere and
//! [goes on](Session::go_on) there, or here if nobody wants it. Sends nothing to that process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::change::Change;
use super::{DeviceConfig, RingSetup, RingState, Session, SessionRefusal, Then};
use crate::backend::BackendRequests;
use crate::control::Coalescing;
use crate::eventfd::{EventFd, EventFdError};
use crate::features::{ProtocolFeatures, VirtioFeatures};
use crate::memory::{AddressSpace, DirtyLog, GuestMemory, SavedLog, SavedRegion};
use crate::message::VringAddr;

/// What is to be known of a session whose rings do not run.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedSession {
    features: Option<u64>,
    protocol: u64,
    pairs_used: Option<u16>,
    mac: Option<[u8; 6]>,
    mtu: Option<u16>,
    regions: Vec<SavedRegion>,
    log: Option<SavedLog>,
    logging: bool,
    backend: bool,
    rings: Vec<SavedRing>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRing {
    size: u16,
    addr: Option<VringAddr>,
    base: u32,
    told: bool,
    enabled: bool,
    started: bool,
    unkicked: bool,
    coalescing: Option<Coalescing>,
    kick: bool,
    call: bool,
    err: bool,
}

/// The descriptors of what is restored, in their order.
pub type Descriptors<'a> = &'a mut dyn Iterator<Item = OwnedFd>;

/// The next of them.
///
/// # Errors
/// There is none.
pub(crate) fn next(fds: Descriptors<'_>) -> Result<OwnedFd, SessionRefusal> {
    let none = SessionRefusal::Descriptors { have: 0, need: 1 };
    fds.next().ok_or(none)
}

impl Session {
    /// Takes all rings from the device, and gives it none until the session [goes on](Session::go_on). To be
    /// [polled](Session::poll) for.
    pub fn pause(&mut self) {
        self.begin(Change::Paused(true), Then::Nothing);
    }

    /// Gives the device the rings that can run. To be [polled](Session::poll) for.
    pub fn go_on(&mut self) {
        self.begin(Change::Paused(false), Then::Nothing);
    }

    /// What there is of a session that is paused; its descriptors are added to `fds`.
    pub fn save<'a>(&'a self, fds: &mut Vec<BorrowedFd<'a>>) -> SavedSession {
        let regions = self.memory.save(fds);
        let log = self.log.as_ref().and_then(|log| log.save(fds));
        fds.extend(self.backend.as_ref().map(AsFd::as_fd));
        let rings = self.rings.iter().map(|ring| {
            let all = [&ring.kick, &ring.call, &ring.err];
            fds.extend(all.into_iter().flatten().map(AsFd::as_fd));
            SavedRing {
                size: ring.setup.size,
                addr: ring.setup.addr,
                base: ring.setup.base,
                told: ring.setup.told,
                enabled: ring.setup.enabled,
                started: ring.started,
                unkicked: ring.unkicked,
                coalescing: ring.coalescing,
                kick: ring.kick.is_some(),
                call: ring.call.is_some(),
                err: ring.err.is_some(),
            }
        });
        SavedSession {
            rings: rings.collect(),
            features: self.features.map(|features| features.bits()),
            protocol: self.protocol.bits(),
            pairs_used: self.pairs_used,
            mac: self.mac,
            mtu: self.mtu,
            regions,
            log,
            logging: self.logging,
            backend: self.backend.is_some(),
        }
    }

    /// The same session, paused, with the descriptors that were saved with it: each is looked at as when a front end brings it.
    ///
    /// # Errors
    /// It has features that this device has not, or something of it cannot be had any more.
    pub fn restore(
        config: &DeviceConfig,
        space: &Arc<AddressSpace>,
        saved: SavedSession,
        fds: Descriptors<'_>,
    ) -> Result<Session, SessionRefusal> {
        let mut session = Session::of(config, space);
        let features = saved.features.map(VirtioFeatures::from_bits_retain);
        let unknown = features.unwrap_or_default() - config.features;
        if !unknown.is_empty() {
            return Err(SessionRefusal::Features(unknown));
        }
        let protocol = ProtocolFeatures::from_bits_retain(saved.protocol);
        let unknown = protocol - config.protocol_features;
        if !unknown.is_empty() {
            return Err(SessionRefusal::ProtocolFeatures(unknown.bits()));
        }
        if saved.rings.len() > session.rings.len() {
            let none = u32::try_from(session.rings.len()).unwrap_or(u32::MAX);
            return Err(SessionRefusal::NoSuchRing(none));
        }
        let regions = saved.regions.into_iter();
        let regions = regions.map(|region| Ok((region, next(fds)?)));
        let regions = regions.collect::<Result<_, SessionRefusal>>()?;
        session.memory = GuestMemory::restore(space, regions)?;
        if let Some(log) = &saved.log {
            session.log = Some(DirtyLog::restore(space, log, next(fds)?)?);
        }
        if saved.backend {
            session.backend = Some(BackendRequests::new(next(fds)?)?);
        }
        let cost = Arc::clone(&session.cost);
        let mut notification = |there: bool, take: fn(OwnedFd) -> Result<EventFd, EventFdError>| {
            let taken = |fd| Ok::<_, SessionRefusal>(take(fd)?.with(&cost));
            there.then(|| next(fds).and_then(taken)).transpose()
        };
        for (ring, saved) in session.rings.iter_mut().zip(saved.rings) {
            *ring = RingState {
                setup: RingSetup {
                    size: saved.size,
                    addr: saved.addr,
                    base: saved.base,
                    told: saved.told,
                    enabled: saved.enabled,
                },
                started: saved.started,
                unkicked: saved.unkicked,
                running: false,
                kick: notification(saved.kick, EventFd::from_fd)?,
                call: notification(saved.call, EventFd::to_signal)?,
                err: notification(saved.err, EventFd::to_signal)?,
                coalescing: saved.coalescing,
            };
        }
        session.pairs_used = saved.pairs_used;
        (session.mac, session.mtu) = (saved.mac, saved.mtu);
        (session.features, session.protocol) = (features, protocol);
        if saved.logging {
            session.memory = session.memory.with_log(session.log.clone());
            session.logging = true;
        }
        session.paused = true;
        Ok(session)
    }

    /// Whether what the device writes is logged.
    pub(crate) fn is_logging(&self) -> bool {
        self.logging
    }
}
