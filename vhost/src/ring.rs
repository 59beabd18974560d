//! A queue as the device sees it: a virtqueue, split (virtio 2.7) or packed (virtio 2.8), or the descriptor ring of a hardware NIC.
//! Chains are taken, walked and returned, and whoever does that need not know which of them it is.
//!
//! Here is the choice between the formats. What they share is in `chain`; how each lies in memory is in `split`, `packed` and
//! [`hardware`](crate::hardware). Never looks at what is in the buffers.

#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

use std::sync::Arc;

pub use crate::chain::Fence;
use crate::chain::{Chain, Mark, Prefetch, RingAddresses, Segment, UsedElem};
use crate::device_queue::DeviceQueue;
pub use crate::error::RingError;
use crate::features::VirtioFeatures;
use crate::hardware::HardwareRing;
use crate::memory::GuestMemory;
use crate::packed::PackedRing;
use crate::split::SplitRing;

/// A ring of the format that its driver negotiated, or that its NIC has.
#[derive(Debug)]
pub(crate) enum Ring {
    Split(SplitRing),
    Packed(PackedRing),
    Hardware(Box<HardwareRing>),
}

/// The same call of any of them.
macro_rules! either {
    ($ring:expr, $inner:ident => $call:expr) => {
        match $ring {
            Ring::Split($inner) => $call,
            Ring::Packed($inner) => $call,
            Ring::Hardware($inner) => $call,
        }
    };
}

impl Ring {
    /// A ring that goes on at `base`, as SET_VRING_BASE says it for the format.
    pub(crate) fn new(
        mem: Arc<GuestMemory>,
        size: u16,
        at: RingAddresses,
        base: u32,
        features: VirtioFeatures,
    ) -> Result<Ring, RingError> {
        if features.contains(VirtioFeatures::RING_PACKED) {
            PackedRing::new(mem, size, at, base, features).map(Ring::Packed)
        } else {
            SplitRing::new(mem, size, at, base as u16, features).map(Ring::Split)
        }
    }

    /// The descriptor ring of a hardware NIC, if it is one.
    #[inline]
    pub(crate) fn hardware(&mut self) -> Option<&mut HardwareRing> {
        match self {
            Ring::Hardware(ring) => Some(ring),
            Ring::Split(_) | Ring::Packed(_) => None,
        }
    }

    /// Has a packed ring look for itself where it goes on if `base` may be no more than what a front end says of a new one.
    pub(crate) fn look_for_place(&mut self, base: u32) -> Result<(), RingError> {
        match self {
            Ring::Split(_) | Ring::Hardware(_) => Ok(()),
            Ring::Packed(ring) => ring.look_for_place(base),
        }
    }
}

impl DeviceQueue for Ring {
    fn set_ahead(&mut self, what: Prefetch) {
        either!(self, ring => ring.set_ahead(what));
    }

    #[inline]
    fn memory(&self) -> &Arc<GuestMemory> {
        either!(self, ring => ring.memory())
    }

    fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }

    fn base(&self) -> u32 {
        either!(self, ring => ring.base())
    }

    #[inline]
    fn has_seen(&self) -> bool {
        either!(self, ring => ring.has_seen())
    }

    #[inline]
    fn reload(&mut self) -> Result<bool, RingError> {
        either!(self, ring => ring.reload())
    }

    #[inline]
    fn upcoming(&mut self) -> Result<(&GuestMemory, &[Chain]), RingError> {
        either!(self, ring => ring.upcoming())
    }

    #[inline]
    fn prepare(&mut self) -> Result<(), RingError> {
        either!(self, ring => ring.prepare())
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        either!(self, ring => ring.advance(n));
    }

    #[inline]
    fn take(&mut self) -> Result<Option<Chain>, RingError> {
        either!(self, ring => ring.take())
    }

    #[inline]
    fn walk(
        &mut self,
        chain: Chain,
        writable: bool,
        out: &mut Vec<Segment>,
    ) -> Result<u64, RingError> {
        either!(self, ring => ring.walk(chain, writable, out))
    }

    #[inline]
    fn walked(&self) -> u64 {
        either!(self, ring => ring.walked())
    }

    #[inline]
    fn push_all_used(&mut self, chains: impl Iterator<Item = UsedElem>) {
        either!(self, ring => ring.push_all_used(chains));
    }

    #[inline]
    fn mark(&self) -> Mark {
        either!(self, ring => ring.mark())
    }

    fn rollback(&mut self, mark: Mark) {
        either!(self, ring => ring.rollback(mark));
    }

    fn rewind(&mut self) {
        either!(self, ring => ring.rewind());
    }

    #[inline]
    fn has_pending(&self) -> bool {
        either!(self, ring => ring.has_pending())
    }

    #[inline]
    fn publish(&mut self) -> Result<(), RingError> {
        either!(self, ring => ring.publish())
    }

    fn is_resumed(&self) -> bool {
        either!(self, ring => ring.is_resumed())
    }

    fn is_lost(&self) -> bool {
        either!(self, ring => ring.is_lost())
    }

    #[inline]
    fn wants_call(&mut self, fence: &Fence) -> Result<bool, RingError> {
        either!(self, ring => ring.wants_call(fence))
    }

    fn set_notify(&mut self, on: bool) -> Result<bool, RingError> {
        either!(self, ring => ring.set_notify(on))
    }
}

#[cfg(test)]
pub(crate) mod driver;
#[cfg(test)]
pub(crate) mod tests;
