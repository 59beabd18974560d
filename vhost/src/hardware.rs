//! The descriptor ring of a hardware NIC as the device sees it: an array of descriptors of which those from head to tail are the
//! device's. The driver writes its tail to a register; what it is told of completions by, and how a descriptor looks, is its
//! family's business, a [`DescriptorFormat`].
//!
//! Written once here: head and tail, descriptors read once each and in batches, frames of several descriptors, what comes back when
//! a ring is stopped. A frame's offloads are not in its buffer, as a virtio-net header is: descriptors ask for them, and a
//! [`TxRequest`] says what they ask for. Never looks at what is in the buffers, and knows no register but head and tail.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

mod decode;
mod doorbell;
mod format;
mod request;
pub(crate) mod rx_note;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

pub use self::doorbell::{Doorbell, DoorbellPage};
pub use self::format::{
    Completion, Decoded, DescriptorFormat, DescriptorTable, PLAIN_REPORT, RX_PREFIX_MAX, TxState,
};
pub use self::request::{Checksum, Headers, TxRequest};
pub(crate) use self::request::{Left, SumUp};
pub use self::rx_note::{Network, RxHash, RxNote, Transport};
use crate::chain::{
    AHEAD, Chain, Descriptor, Fence, Gather, Mark, Prefetch, Segment, Token, UsedElem,
    check_memory, part,
};
use crate::device_queue::DeviceQueue;
use crate::error::RingError;
use crate::memory::{GuestMemory, Pinned};

/// The most bytes of a descriptor.
const ENTRY_MAX: usize = 16;

/// In [`Token::descs`]: the driver asks to be told that this chain is done. There are never so many descriptors.
const REPORT: u16 = 1 << 15;

/// Where a ring is, and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HardwareConfig {
    /// Number of the ring in its device: even receive, odd transmit.
    pub index: u32,
    /// Descriptors, at most 32768. One less can be in use: a full ring would look like an empty one.
    pub size: u16,
    /// Guest addresses of the descriptors: of all of them, or of several parts of the same size.
    pub tables: Vec<u64>,
    /// The first descriptor that the device has not completed.
    pub base: u16,
}

/// The ring proper; see the module.
#[derive(Debug)]
pub(crate) struct HardwareRing {
    mem: Arc<GuestMemory>,
    parts: Vec<Pinned>,
    /// Bytes of a descriptor.
    entry: usize,
    size: u16,
    /// Whether the device writes the buffers: a ring is for one direction.
    writable: bool,
    format: Box<dyn DescriptorFormat>,
    doorbell: Arc<Doorbell>,
    /// The region a data buffer was last found in.
    hint: usize,
    /// Descriptors walked.
    walked: u64,
    /// What will be done with buffers as soon as they are taken.
    buffers: Prefetch,
    /// The tail as last read.
    seen: u16,
    /// The first descriptor that was not decoded, and what those before it have left for it.
    scan: u16,
    state: TxState,
    /// By the descriptor that a chain begins with: what the state was before it. Empty as long as no descriptor has left anything.
    states: Vec<TxState>,
    /// The next descriptor to take.
    next: u16,
    /// Those before this one have been returned, if not yet published.
    done: u16,
    /// The same, when it was last published.
    published: u16,
    /// Chains taken and returned, counted.
    taken: u16,
    returned: u16,
    pending: Vec<Completion>,
    /// Chains that were decoded; those before `ahead_at` have been taken.
    ahead: [Chain; AHEAD],
    /// Whether there is more to the chain than its first buffer; what, is in the next.
    ahead_more: [bool; AHEAD],
    ahead_rest: [Rest; AHEAD],
    ahead_at: usize,
    ahead_len: usize,
    /// What chains have behind their first buffer, those that were decoded and the one that has not ended.
    rest: Vec<Descriptor>,
    /// The chain that has not ended.
    partial: Option<Partial>,
}

/// Where it is said what has been written to chains.
pub(crate) struct Received<'a>(&'a mut Vec<Completion>);

impl Received<'_> {
    /// The next chain has a frame of so many bytes, of which this is said.
    #[inline]
    pub(crate) fn push(&mut self, token: Token, len: u32, note: RxNote) {
        if token.descs & REPORT != 0 {
            self.0.push(Completion {
                first: token.id,
                descriptors: token.descs & !REPORT,
                len,
                last: true,
                note,
            });
        }
    }
}

/// What there is of a chain besides its first buffer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rest {
    from: u32,
    to: u32,
    pub(crate) request: TxRequest,
}

/// A chain whose end has not been made available yet.
#[derive(Debug, Clone, Copy)]
struct Partial {
    first: u16,
    descs: u16,
    buffer: Option<Descriptor>,
    request: TxRequest,
    /// Where in [`HardwareRing::rest`] its further buffers begin.
    from: usize,
}

impl HardwareRing {
    pub(crate) fn new(
        config: &HardwareConfig,
        mem: Arc<GuestMemory>,
        format: Box<dyn DescriptorFormat>,
        doorbell: Arc<Doorbell>,
    ) -> Result<HardwareRing, RingError> {
        let HardwareConfig {
            index,
            size,
            ref tables,
            base,
        } = *config;
        let entry = format.descriptor_size();
        let whole = !tables.is_empty() && usize::from(size).is_multiple_of(tables.len());
        if size == 0 || size > 1 << 15 || !whole || entry > ENTRY_MAX {
            return Err(RingError::Size(size));
        }
        if base >= size {
            return Err(RingError::DescOutOfRange(base));
        }
        let parts = pin(
            &mem,
            tables,
            usize::from(size) / tables.len() * entry,
            entry,
        )?;
        let writable = index.is_multiple_of(2);
        Ok(HardwareRing {
            mem,
            parts,
            entry,
            size,
            writable,
            format,
            doorbell,
            hint: 0,
            walked: 0,
            buffers: Prefetch::Nothing,
            seen: base,
            scan: base,
            state: TxState::default(),
            states: Vec::new(),
            next: base,
            done: base,
            published: base,
            taken: 0,
            returned: 0,
            pending: Vec::with_capacity(usize::from(size).min(1024)),
            ahead: [Chain::default(); AHEAD],
            ahead_more: [false; AHEAD],
            ahead_rest: [Rest::default(); AHEAD],
            ahead_at: 0,
            ahead_len: 0,
            rest: Vec::new(),
            partial: None,
        })
    }

    /// Whether the ring's descriptors are in this memory.
    pub(crate) fn is_in(&self, mem: &GuestMemory) -> bool {
        self.pin_in(mem).is_ok()
    }

    fn pin_in(&self, mem: &GuestMemory) -> Result<Vec<Pinned>, RingError> {
        let tables: Vec<u64> = self.parts.iter().map(Pinned::gpa).collect();
        let bytes = usize::from(self.size) / tables.len() * self.entry;
        pin(mem, &tables, bytes, self.entry)
    }

    /// The same ring where its driver's memory is now. Nothing is taken from it at the moment.
    pub(crate) fn remapped(mut self, mem: Arc<GuestMemory>) -> Result<HardwareRing, RingError> {
        self.parts = self.pin_in(&mem)?;
        (self.mem, self.hint) = (mem, 0);
        Ok(self)
    }

    /// What is asked for the frame whose chain was taken last.
    pub(crate) fn request(&self) -> TxRequest {
        self.last_taken().request
    }

    /// As [`upcoming`](DeviceQueue::upcoming), the format of the ring, and where to say of the first chains what has been written to them;
    /// how many those were is to be [said](Self::received) then.
    #[inline]
    pub(crate) fn upcoming_of(
        &mut self,
    ) -> Result<(&GuestMemory, &[Chain], &dyn DescriptorFormat, Received<'_>), RingError> {
        let ready = self.ready()?;
        let chains = self.ahead.get(ready).unwrap_or_default();
        let received = Received(&mut self.pending);
        Ok((&self.mem, chains, &*self.format, received))
    }

    /// Takes and returns the first `n` chains, each a frame.
    #[inline]
    pub(crate) fn received(&mut self, n: usize) {
        debug_assert_eq!(self.taken, self.returned, "nothing else is taken");
        self.advance(n);
        (self.done, self.returned) = (self.next, self.taken);
    }

    /// As [`upcoming`](DeviceQueue::upcoming), and of each chain whether there is more to it than one buffer.
    #[inline]
    pub(crate) fn upcoming_requests(
        &mut self,
    ) -> Result<(&GuestMemory, &[Chain], &[bool]), RingError> {
        let ready = self.ready()?;
        let chains = self.ahead.get(ready.clone()).unwrap_or_default();
        let more = self.ahead_more.get(ready).unwrap_or_default();
        Ok((&self.mem, chains, more))
    }

    /// Which of the chains ahead may be taken now.
    #[inline]
    fn ready(&mut self) -> Result<Range<usize>, RingError> {
        check_memory(&self.mem)?;
        if !self.doorbell.is_open() {
            return Ok(0..0);
        }
        if self.has_seen() || self.reload()? {
            self.prepare()?;
        }
        Ok(self.ahead_at..self.ahead_len)
    }

    pub(crate) fn format(&self) -> &dyn DescriptorFormat {
        &*self.format
    }

    pub(crate) fn format_mut(&mut self) -> &mut dyn DescriptorFormat {
        &mut *self.format
    }

    /// Returns the oldest chains, over which one received frame has been written.
    #[inline]
    pub(crate) fn push_received(&mut self, chains: &[(Token, u32)], note: RxNote) {
        let last = chains.len();
        self.push_each(chains.iter().zip(1..).map(|(&(token, len), n)| {
            let chain = UsedElem::new(token, len);
            (chain, n == last, note)
        }));
    }

    /// Returns the oldest chains: each with whether a received frame ends there, and what is said of it. Those of which their driver does not
    /// want to be told are done with those behind them.
    #[inline]
    pub(crate) fn push_each(&mut self, chains: impl Iterator<Item = (UsedElem, bool, RxNote)>) {
        let (mut all, mut count) = (0, 0);
        for (chain, last, note) in chains {
            let descriptors = chain.descs() & !REPORT;
            all += descriptors;
            count += 1;
            if chain.descs() & REPORT != 0 {
                self.pending.push(Completion {
                    first: chain.id(),
                    descriptors,
                    len: chain.len(),
                    last,
                    note,
                });
            }
        }
        self.done = self.after(self.done, all);
        self.returned = self.returned.wrapping_add(count);
    }

    fn last_taken(&self) -> Rest {
        let at = self.ahead_at.checked_sub(1);
        let at = at.filter(|at| self.ahead_more.get(*at) == Some(&true));
        let rest = at.and_then(|at| self.ahead_rest.get(at));
        rest.copied().unwrap_or_default()
    }

    fn distance(&self, from: u16, to: u16) -> u16 {
        if to >= from {
            to - from
        } else {
            to + self.size - from
        }
    }

    fn after(&self, at: u16, n: u16) -> u16 {
        after(self.size, at, n)
    }

    /// Untakes the last `n` chains, of which the first begins at `next`.
    fn untake(&mut self, n: u16, next: u16) {
        self.taken = self.taken.wrapping_sub(n);
        self.next = next;
        if let Some(at) = self.ahead_at.checked_sub(n.into()) {
            self.ahead_at = at;
            return;
        }
        (self.ahead_at, self.ahead_len) = (0, 0);
        self.partial = None;
        self.rest.clear();
        self.scan = next;
        let state = self.states.get(usize::from(next));
        self.state = state.copied().unwrap_or_default();
    }
}

/// The descriptor `n` behind `at` in a ring that has so many at least. Nothing is divided: this is asked several times a frame.
fn after(size: u16, at: u16, n: u16) -> u16 {
    // All are at most 32768.
    let (to, size) = (u32::from(at) + u32::from(n), u32::from(size));
    (if to < size { to } else { to - size }) as u16
}

/// The parts of a ring, each of so many bytes.
fn pin(
    mem: &GuestMemory,
    tables: &[u64],
    bytes: usize,
    entry: usize,
) -> Result<Vec<Pinned>, RingError> {
    let pin = |&gpa: &u64| {
        let pinned = part(mem, gpa, bytes)?;
        let aligned = pinned.slice()?.load::<u64>(0, Ordering::Relaxed).is_some();
        if !aligned || !gpa.is_multiple_of(entry as u64) {
            return Err(RingError::Misaligned);
        }
        Ok(pinned)
    };
    tables.iter().map(pin).collect()
}

impl DeviceQueue for HardwareRing {
    fn set_ahead(&mut self, what: Prefetch) {
        self.buffers = what;
    }

    fn memory(&self) -> &Arc<GuestMemory> {
        &self.mem
    }

    fn size(&self) -> u16 {
        self.size
    }

    fn base(&self) -> u32 {
        self.done.into()
    }

    /// What a chain that has not ended has come to is not among it: nobody can take that.
    fn has_seen(&self) -> bool {
        self.ahead_at < self.ahead_len || self.scan != self.seen
    }

    fn reload(&mut self) -> Result<bool, RingError> {
        check_memory(&self.mem)?;
        let (from, tail) = (self.seen, self.doorbell.tail());
        let to = u16::try_from(tail).unwrap_or(u16::MAX);
        let ahead = self.distance(self.done, to.min(self.size));
        if to >= self.size || ahead < self.distance(self.done, from) {
            return Err(RingError::AvailJump { from, to });
        }
        self.seen = to;
        Ok(to != from)
    }

    #[inline]
    fn upcoming(&mut self) -> Result<(&GuestMemory, &[Chain]), RingError> {
        let (memory, chains, ..) = self.upcoming_of()?;
        Ok((memory, chains))
    }

    #[inline]
    fn prepare(&mut self) -> Result<(), RingError> {
        if self.ahead_at < self.ahead_len || self.scan == self.seen {
            return Ok(());
        }
        self.decode_ahead()
    }

    #[inline]
    fn advance(&mut self, n: usize) {
        let to = (self.ahead_at + n).min(self.ahead_len);
        let chains = self.ahead[self.ahead_at..to].iter();
        let all = chains.map(|chain| chain.token.descs & !REPORT).sum();
        self.next = self.after(self.next, all);
        self.ahead_at = to;
        self.taken = self.taken.wrapping_add(n as u16);
    }

    fn walk(
        &mut self,
        chain: Chain,
        writable: bool,
        out: &mut Vec<Segment>,
    ) -> Result<u64, RingError> {
        let Rest { from, to, .. } = self.last_taken();
        let rest = self.rest.get(from as usize..to as usize);
        let mut gather = Gather::new(
            &self.mem,
            &mut self.hint,
            &mut self.walked,
            self.size,
            writable,
            out,
        );
        for desc in std::iter::once(&chain.first).chain(rest.unwrap_or_default()) {
            gather.push(*desc)?;
        }
        Ok(gather.total)
    }

    fn walked(&self) -> u64 {
        self.walked
    }

    #[inline]
    fn push_all_used(&mut self, chains: impl Iterator<Item = UsedElem>) {
        self.push_each(chains.map(|chain| (chain, true, RxNote::default())));
    }

    fn mark(&self) -> Mark {
        Mark {
            taken: self.taken,
            returned: self.returned,
            next: self.next.into(),
            done: self.done.into(),
            pending: self.pending.len(),
        }
    }

    fn rollback(&mut self, mark: Mark) {
        self.untake(self.taken.wrapping_sub(mark.taken), mark.next as u16);
        (self.returned, self.done) = (mark.returned, mark.done as u16);
        self.pending.truncate(mark.pending);
    }

    fn rewind(&mut self) {
        self.untake(self.taken.wrapping_sub(self.returned), self.done);
    }

    fn has_pending(&self) -> bool {
        self.done != self.published
    }

    fn publish(&mut self) -> Result<(), RingError> {
        let first = self.parts.first().ok_or(RingError::RingOutside)?;
        let table = DescriptorTable {
            mem: &self.mem,
            parts: &self.parts,
            first: first.slice_mut(&self.mem)?,
            size: self.size,
            entry: self.entry,
        };
        self.format.complete(&table, &self.pending)?;
        self.pending.clear();
        self.published = self.done;
        self.doorbell.set_head(self.done);
        Ok(())
    }

    fn is_resumed(&self) -> bool {
        false
    }

    fn wants_call(&mut self, _: &Fence) -> Result<bool, RingError> {
        Ok(self.format.raise())
    }

    fn set_notify(&mut self, on: bool) -> Result<bool, RingError> {
        self.doorbell.want(on);
        if !on {
            return Ok(false);
        }
        // The wish must be out before the tail is read again; who rings does the opposite.
        fence(Ordering::SeqCst);
        self.reload()
    }
}

#[cfg(test)]
pub(crate) mod plain;
#[cfg(test)]
mod tests;
