//! What a queue of buffers is to a device, whatever its format: chains are taken, walked, returned and published.
//!
//! The split and the packed virtqueue are two; the descriptor ring of a hardware NIC, with its head and its tail, is a third. All
//! of them pass one test body (`tests`). Who uses a queue knows one type, so nothing is
//! dispatched for each frame but by [`Ring`](crate::ring::Ring), which knows all three.

use std::sync::Arc;

use crate::chain::{Chain, Fence, Mark, Prefetch, Segment, Token, UsedElem};
use crate::error::RingError;
use crate::memory::GuestMemory;

/// The device's end of a queue of buffers; see the module.
pub(crate) trait DeviceQueue {
    /// Says what will be done with buffers when they are taken.
    fn set_ahead(&mut self, what: Prefetch);

    /// The memory that its buffers are in.
    fn memory(&self) -> &Arc<GuestMemory>;

    /// Descriptors.
    fn size(&self) -> u16;

    /// Where a queue goes on that is stopped now: what makes it again.
    fn base(&self) -> u32;

    /// Whether entries that were already seen wait to be taken.
    fn has_seen(&self) -> bool;

    /// Looks for more available entries; answers whether there are any.
    fn reload(&mut self) -> Result<bool, RingError>;

    /// Available chains that come next, each a single descriptor or the first of several, and the memory they are in. There
    /// may be more behind them; if there are none here, there are none at all.
    fn upcoming(&mut self) -> Result<(&GuestMemory, &[Chain]), RingError>;

    /// Reads chains ahead that were seen already, unless there are some: what their buffers are asked for early is there when
    /// they are taken, if something else is done meanwhile.
    fn prepare(&mut self) -> Result<(), RingError>;

    /// Takes the first `n` of the [upcoming](Self::upcoming) chains, all of them single descriptors.
    fn advance(&mut self, n: usize);

    /// The next available chain, or `None` if the driver offers no more.
    #[inline]
    fn take(&mut self) -> Result<Option<Chain>, RingError> {
        let next = self.upcoming()?.1.first().copied();
        self.advance(usize::from(next.is_some()));
        Ok(next)
    }

    /// Walks the chain that was taken last, appends its device-writable (or else its device-readable) pieces to `out` and
    /// answers how many bytes they have.
    fn walk(
        &mut self,
        chain: Chain,
        writable: bool,
        out: &mut Vec<Segment>,
    ) -> Result<u64, RingError>;

    /// Descriptors that have been walked since the queue was made.
    fn walked(&self) -> u64;

    /// Returns the oldest chain that is not returned yet, `len` bytes of it written.
    #[inline]
    fn push_used(&mut self, chain: Token, len: u32) {
        self.push_all_used(std::iter::once(UsedElem::new(chain, len)));
    }

    /// The same of several chains, in order.
    fn push_all_used(&mut self, chains: impl Iterator<Item = UsedElem>);

    /// Where it is now, to go [back](Self::rollback) to.
    fn mark(&self) -> Mark;

    /// Untakes and unreturns everything since `mark`; there was no [`publish`](Self::publish) between.
    fn rollback(&mut self, mark: Mark);

    /// Untakes every chain that has not been returned.
    fn rewind(&mut self);

    /// Whether chains were returned that are not published.
    fn has_pending(&self) -> bool;

    /// Makes what was returned visible to the driver with one store.
    fn publish(&mut self) -> Result<(), RingError>;

    /// Whether somebody else has published something, of which the driver may not have been told.
    fn is_resumed(&self) -> bool;

    /// Whether it was used before, and neither its front end nor itself says how far.
    fn is_lost(&self) -> bool {
        false
    }

    /// Whether the driver wants to be told of what was published since this was last asked.
    fn wants_call(&mut self, fence: &Fence) -> Result<bool, RingError>;

    /// Asks the driver to notify (or not to) when it makes more available than was seen. Answers whether it already has:
    /// then there will be no notification for that.
    fn set_notify(&mut self, on: bool) -> Result<bool, RingError>;
}

#[cfg(test)]
mod tests;
