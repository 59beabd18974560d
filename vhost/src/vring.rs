//! A vring: the device's end of one virtqueue, or of a hardware NIC's descriptor ring, with its memory and its notifications, as the
//! protocol half or a register model hands it over. Whoever holds it is the only one who touches the ring.
//!
//! Never reads a kick by itself and never looks into buffers; [`TxQueue`](crate::tx::TxQueue) and
//! [`RxQueue`](crate::rx::RxQueue) do the work.

use std::sync::Arc;

use crate::chain::{Fence, RingAddresses};
use crate::coalescing::Coalescing;
use crate::device_queue::DeviceQueue;
use crate::error::RingError;
use crate::eventfd::EventFd;
use crate::features::VirtioFeatures;
use crate::hardware::{DescriptorFormat, Doorbell, HardwareConfig, HardwareRing};
use crate::interrupt_timer::InterruptTimer;
use crate::memory::GuestMemory;
use crate::net_hdr::header_len;
use crate::ring::Ring;

/// What the front end said about one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VringConfig {
    /// Number of the ring in its device: even receive, odd transmit.
    pub index: u32,
    /// Descriptors; up to 32768, and a power of two unless `features` has `RING_PACKED`.
    pub size: u16,
    /// Guest address of the descriptor table.
    pub desc: u64,
    /// Guest address of the available ring; of a packed ring, of the driver event suppression area.
    pub avail: u64,
    /// Guest address of the used ring; of a packed ring, of the device event suppression area.
    pub used: u64,
    /// Where to go on, as SET_VRING_BASE says it: the first available entry to process; of a packed ring (vhost-user
    /// "Virtio vring state"), offset in bits 0 to 14 and wrap counter in bit 15 of the available side, the same of the
    /// used side in bits 16 to 31.
    pub base: u32,
    /// Whether that is the word of a front end, and not where the ring was just now: QEMU's of a packed ring may be wrong.
    pub told: bool,
    /// Virtio feature bits that the driver acknowledged. `RING_PACKED` says which format the ring has.
    pub features: VirtioFeatures,
    /// Whether frames may flow (vhost-user "Ring states").
    pub enabled: bool,
    /// How long its driver lets calls be held back.
    pub coalescing: Coalescing,
}

/// One ring, ready to run or stopped; see the module.
#[derive(Debug)]
pub struct Vring {
    pub(crate) ring: Ring,
    index: u32,
    features: VirtioFeatures,
    enabled: bool,
    coalescing: Coalescing,
    kick: Option<EventFd>,
    call: Option<EventFd>,
    err: Option<EventFd>,
    fault: Option<RingError>,
    /// Whether somebody has been told of the fault.
    told: bool,
    /// Something has been published, and the driver has not been asked whether it wants to be told.
    needs_call: bool,
    /// Its driver has kicked it while it was disabled, and what is in it goes nowhere.
    pub(crate) discards: bool,
}

impl Vring {
    /// A ring at the addresses of `config` in `mem`. The used entries of a
    /// split ring go on from the used index that is in memory. A ring that was used before [needs a call](Vring::needs_call) at
    /// once, since nobody knows what its driver has been told. Without `kick` the ring must be polled, without `call` the driver polls.
    ///
    /// A packed ring that was used before, and of which nobody says how far, [is broken](Vring::is_broken).
    ///
    /// Fails if the size or the base is not one of the format, or a part of the ring is misaligned or not
    /// inside one region.
    pub fn new(
        config: VringConfig,
        mem: Arc<GuestMemory>,
        kick: Option<EventFd>,
        call: Option<EventFd>,
        err: Option<EventFd>,
    ) -> Result<Vring, RingError> {
        let at = RingAddresses {
            desc: config.desc,
            avail: config.avail,
            used: config.used,
        };
        let mut ring = Ring::new(mem, config.size, at, config.base, config.features)?;
        if config.told {
            ring.look_for_place(config.base)?;
        }
        Ok(Vring {
            // A back end that was killed may have published and not called.
            needs_call: ring.is_resumed(),
            fault: ring.is_lost().then_some(RingError::Lost),
            told: false,
            discards: false,
            ring,
            index: config.index,
            features: config.features,
            enabled: config.enabled,
            coalescing: config.coalescing,
            kick,
            call,
            err,
        })
    }

    /// The descriptor ring of a hardware NIC, running and enabled: it is stopped by taking it away. Its `doorbell` is where its
    /// driver's tail comes from, and what is signalled when there is a new one.
    ///
    /// # Errors
    /// The size or the base makes no sense, or the descriptors are misaligned or not where memory is.
    pub fn hardware(
        config: &HardwareConfig,
        mem: Arc<GuestMemory>,
        format: Box<dyn DescriptorFormat>,
        doorbell: Arc<Doorbell>,
    ) -> Result<Vring, RingError> {
        let kick = Some(doorbell.kick().clone());
        let ring = HardwareRing::new(config, mem, format, doorbell)?;
        Ok(Vring {
            ring: Ring::Hardware(Box::new(ring)),
            index: config.index,
            // A hardware ring takes a frame in several descriptors, as mergeable buffers do; all other offloads are asked for by its descriptors.
            features: VirtioFeatures::MRG_RXBUF,
            enabled: true,
            coalescing: Coalescing::default(),
            kick,
            call: None,
            err: None,
            fault: None,
            told: false,
            needs_call: false,
            discards: false,
        })
    }

    /// A stopped hardware ring after its driver's memory has changed, with all that its descriptors have said; a virtqueue stays
    /// where it is. What has broken a ring is forgotten.
    ///
    /// # Errors
    /// The descriptors are not there any more.
    pub fn remapped(self, mem: Arc<GuestMemory>) -> Result<Vring, RingError> {
        let Ring::Hardware(ring) = self.ring else {
            return Ok(self);
        };
        let ring = Ring::Hardware(Box::new(ring.remapped(mem)?));
        Ok(Vring {
            ring,
            fault: None,
            told: false,
            ..self
        })
    }

    /// Whether it is the descriptor ring of a hardware NIC.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        matches!(self.ring, Ring::Hardware(_))
    }

    /// Whether a stopped hardware ring can be [taken](Self::remapped) to this memory: its descriptors are there.
    pub fn is_in(&self, mem: &GuestMemory) -> bool {
        match &self.ring {
            Ring::Hardware(ring) => ring.is_in(mem),
            Ring::Split(_) | Ring::Packed(_) => true,
        }
    }

    /// Number of the ring in its device.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Descriptors of the ring.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// The first available entry that has not been returned: what GET_VRING_BASE answers. See [`VringConfig::base`].
    pub fn base(&self) -> u32 {
        self.ring.base()
    }

    /// Whether frames may flow.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// How long the driver lets calls be held back: for whoever calls to heed.
    pub fn coalescing(&self) -> Coalescing {
        match &self.ring {
            Ring::Hardware(ring) => ring.format().coalescing(),
            Ring::Split(_) | Ring::Packed(_) => self.coalescing,
        }
    }

    /// What measures the time between two calls where it is not the ring's own but that of an interrupt which it shares with others.
    pub fn timer(&self) -> Option<&InterruptTimer> {
        match &self.ring {
            Ring::Hardware(ring) => ring.format().timer(),
            Ring::Split(_) | Ring::Packed(_) => None,
        }
    }

    /// Whether its driver is told from here of what was used, and not by whoever asks.
    pub fn calls(&self) -> bool {
        self.call.is_some() || matches!(self.ring, Ring::Hardware(_))
    }

    /// Bytes in front of each frame in its buffers: the virtio-net header, or the prefix of a hardware NIC.
    pub(crate) fn header_len(&self) -> usize {
        match &self.ring {
            Ring::Hardware(_) if !self.index.is_multiple_of(2) => 0,
            Ring::Hardware(ring) => ring.format().rx_prefix_len(),
            Ring::Split(_) | Ring::Packed(_) => header_len(self.features),
        }
    }

    /// Whether something has been published that the driver has not been asked about.
    pub fn needs_call(&self) -> bool {
        self.needs_call
    }

    /// The memory of whoever made it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.ring.memory()
    }

    /// Virtio feature bits that the driver acknowledged.
    pub fn features(&self) -> VirtioFeatures {
        self.features
    }

    /// What the driver signals when it made buffers available.
    pub fn kick_fd(&self) -> Option<&EventFd> {
        self.kick.as_ref()
    }

    /// What is signalled when the driver wants to know of what was used.
    pub fn call_fd(&self) -> Option<&EventFd> {
        self.call.as_ref()
    }

    #[cfg(test)]
    pub(crate) fn set_kick(&mut self, kick: Option<EventFd>) {
        self.kick = kick;
    }

    #[cfg(test)]
    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
        self.discards = false;
    }

    /// Why the ring is broken, if it is.
    pub fn fault(&self) -> Option<RingError> {
        self.fault
    }

    /// Why the ring is broken, the first time that it is asked.
    pub fn news(&mut self) -> Option<RingError> {
        self.fault
            .filter(|_| !std::mem::replace(&mut self.told, true))
    }

    /// Whether the driver broke the ring: it does nothing any more.
    pub fn is_broken(&self) -> bool {
        self.fault.is_some()
    }

    /// Breaks the ring and tells the front end.
    pub(crate) fn fail(&mut self, error: RingError) -> RingError {
        self.fault = Some(error);
        if let Some(err) = &self.err {
            err.signal();
        }
        error
    }

    /// `Err` if the ring is broken.
    pub(crate) fn check(&self) -> Result<(), RingError> {
        self.fault.map_or(Ok(()), Err)
    }

    /// Publishes the returned chains, if there are any; [`call`](Self::call) is still to follow.
    pub(crate) fn publish(&mut self) {
        if self.is_broken() || !self.ring.has_pending() {
            return;
        }
        match self.ring.publish() {
            Ok(()) => self.needs_call = true,
            Err(error) => {
                self.fail(error);
            }
        }
    }

    /// Signals the call fd if anything has been published that the driver has not been told of, and the driver wants it;
    /// answers whether it does. The fence was made after the last [`publish`](Self::publish).
    pub(crate) fn call(&mut self, fence: &Fence) -> Option<bool> {
        if !std::mem::take(&mut self.needs_call) || self.is_broken() {
            return None;
        }
        match self.ring.wants_call(fence) {
            Ok(wanted) => {
                if wanted && let Some(call) = &self.call {
                    call.signal();
                    if call.blocks() {
                        self.fail(RingError::CallBlocks);
                        return None;
                    }
                }
                Some(wanted)
            }
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// Both.
    pub(crate) fn flush(&mut self) -> Option<bool> {
        self.publish();
        self.needs_call
            .then(Fence::after_publishing)
            .and_then(|fence| self.call(&fence))
    }

    /// See [`DeviceQueue::set_notify`]; an error shows when the ring is used next.
    pub(crate) fn set_notify(&mut self, on: bool) -> bool {
        if self.is_broken() {
            return false;
        }
        self.ring.set_notify(on).unwrap_or_else(|error| {
            self.fail(error);
            true
        })
    }

    /// Whether there are available entries to take; also `true` when the look broke the ring, so
    /// that the caller goes on and meets the error.
    #[inline]
    pub(crate) fn has_available(&mut self) -> bool {
        if self.is_broken() {
            return false;
        }
        self.ring.has_seen()
            || self.ring.reload().unwrap_or_else(|error| {
                self.fail(error);
                true
            })
    }
}
