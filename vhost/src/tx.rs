//! The transmit queue: frames from a driver.
//!
//! The virtio-net header and the first bytes of a frame are copied out once and judged as that
//! copy; the payload stays in guest memory until it is copied to where it goes. Chains are returned
//! strictly in the order they came. Never decides where a frame goes.

use crate::frame::FrameBuf;
use crate::net_hdr::{FrameFault, HEAD_MAX, MAX_FRAME, MIN_FRAME, NetHdr, header_len};
use crate::split::{RingError, Segments};
use crate::vring::Vring;

/// What [`TxQueue::next`] took off the ring.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "frames are the rule and must not be allocated"
)]
pub enum TxItem {
    /// A frame; give it back to [`TxQueue::complete`], whatever becomes of it.
    Frame(TxFrame),
    /// Something that is not a frame; its chain has been returned, count it.
    Bad(FrameFault),
}

/// Virtio-net header and head of a frame, as they were copied out.
const COPY_MAX: usize = 12 + HEAD_MAX;

/// A frame in a driver's memory, with its head in ours. Not completing it leaves its chain, and
/// all that follow, with the device: a restarted ring sends them again.
#[derive(Debug)]
pub struct TxFrame {
    hdr: NetHdr,
    len: u32,
    /// Descriptor chain to return.
    chain: u16,
    /// Available index it came with.
    seq: u16,
    head_at: u8,
    head_len: u8,
    copied: [u8; COPY_MAX],
    segments: Segments,
    /// The first byte that is not in `copied`: a segment and an offset in it.
    rest: (u32, u32),
}

impl TxFrame {
    /// What is still to be done to the frame; checked against the driver's features and the frame.
    pub fn hdr(&self) -> &NetHdr {
        &self.hdr
    }

    /// The first bytes of the frame, all of them or [`HEAD_MAX`]: what to decide on, and what will
    /// be written to receivers whatever the driver does meanwhile.
    pub fn head(&self) -> &[u8] {
        let at = usize::from(self.head_at);
        self.copied
            .get(at..at + usize::from(self.head_len))
            .unwrap_or_default()
    }

    /// Bytes of the L2 frame, without FCS.
    #[expect(clippy::len_without_is_empty, reason = "at least 14")]
    pub fn len(&self) -> u32 {
        self.len
    }
}

/// The device's end of a transmit virtqueue.
#[derive(Debug)]
pub struct TxQueue {
    vring: Vring,
    header_len: usize,
    /// The region a payload was last found in.
    hint: usize,
    /// Chains completed before their predecessors, by available index; `NOT_YET` for the others.
    early: Vec<u32>,
    early_count: u16,
}

const NOT_YET: u32 = u32::MAX;

impl TxQueue {
    /// The transmit queue on `vring`.
    pub fn new(vring: Vring) -> TxQueue {
        TxQueue {
            header_len: header_len(vring.features()),
            hint: 0,
            early: vec![NOT_YET; usize::from(vring.size())],
            early_count: 0,
            vring,
        }
    }

    /// Gives the ring back, everything completed published. Frames not completed are forgotten:
    /// [`Vring::base`] is the oldest of them, and they are taken again if the ring goes on.
    pub fn into_vring(mut self) -> Vring {
        self.vring.flush();
        self.vring.ring.rewind();
        self.vring
    }

    /// The ring below.
    pub fn vring(&self) -> &Vring {
        &self.vring
    }

    /// The next frame, or `None` if there is none now. On a disabled ring all frames are taken and
    /// thrown away (vhost-user "Ring states").
    ///
    /// An error is the driver's; the ring is broken and says the same from then on.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not be used between steps"
    )]
    pub fn next(&mut self) -> Result<Option<TxItem>, RingError> {
        self.vring.check()?;
        self.try_next().map_err(|error| self.vring.fail(error))
    }

    fn try_next(&mut self) -> Result<Option<TxItem>, RingError> {
        let seq = self.vring.ring.next();
        let Some(chain) = self.vring.ring.take()? else {
            return Ok(None);
        };
        if !self.vring.enabled() {
            self.discard(seq, chain)?;
            return Ok(None);
        }
        let mut frame = TxFrame {
            hdr: NetHdr::default(),
            len: 0,
            chain,
            seq,
            head_at: self.header_len as u8,
            head_len: 0,
            copied: [0; COPY_MAX],
            segments: Segments::new(),
            rest: (0, 0),
        };
        let total = self.vring.ring.walk(chain, false, &mut frame.segments)?;
        match self.fill(&mut frame, total)? {
            Ok(()) => Ok(Some(TxItem::Frame(frame))),
            Err(fault) => {
                self.complete_chain(seq, chain);
                Ok(Some(TxItem::Bad(fault)))
            }
        }
    }

    /// Copies header and head out of the chain of `total` bytes and judges them.
    fn fill(
        &mut self,
        frame: &mut TxFrame,
        total: u64,
    ) -> Result<Result<(), FrameFault>, RingError> {
        let Some(len) = total.checked_sub(self.header_len as u64) else {
            return Ok(Err(FrameFault::NoHeader));
        };
        if len < u64::from(MIN_FRAME) {
            return Ok(Err(FrameFault::Runt));
        }
        if len > u64::from(MAX_FRAME) {
            return Ok(Err(FrameFault::Oversize));
        }
        frame.len = len as u32;
        let head_len = (len as usize).min(HEAD_MAX);
        frame.head_len = head_len as u8;
        self.copy_out(frame, self.header_len + head_len)?;
        let mut hdr = [0; 10];
        hdr.copy_from_slice(&frame.copied[..10]);
        let hdr = NetHdr::from_bytes(&hdr).check(self.vring.features(), frame.head(), frame.len);
        Ok(hdr.map(|hdr| frame.hdr = hdr))
    }

    /// Copies the first `n` bytes of the chain and notes where the rest is.
    fn copy_out(&mut self, frame: &mut TxFrame, n: usize) -> Result<(), RingError> {
        let mem = self.vring.ring.memory();
        let mut to = frame.copied.get_mut(..n).unwrap_or_default();
        for (i, segment) in frame.segments.iter().enumerate() {
            let take = (segment.len as usize).min(to.len());
            let (now, later) = to.split_at_mut(take);
            mem.slice_hint(segment.gpa, take, &mut self.hint)
                .ok_or(RingError::BufferOutside)?
                .copy_to(now);
            to = later;
            if to.is_empty() {
                frame.rest = (i as u32, take as u32);
                break;
            }
        }
        Ok(())
    }

    /// Returns a chain of a disabled ring, and all that wait behind it.
    fn discard(&mut self, seq: u16, chain: u16) -> Result<(), RingError> {
        self.complete_chain(seq, chain);
        while self.vring.ring.has_seen() {
            let seq = self.vring.ring.next();
            if let Some(chain) = self.vring.ring.take()? {
                self.complete_chain(seq, chain);
            }
        }
        Ok(())
    }

    /// Gives a frame's chain back to the driver, at the next [`flush`](Self::flush) after all
    /// frames that came before it are complete.
    pub fn complete(&mut self, frame: TxFrame) {
        self.complete_chain(frame.seq, frame.chain);
    }

    fn complete_chain(&mut self, seq: u16, chain: u16) {
        let mask = usize::from(self.vring.size() - 1);
        let ring = &mut self.vring.ring;
        if seq != ring.done() {
            let waiting = ring.next().wrapping_sub(ring.done());
            if seq.wrapping_sub(ring.done()) >= waiting {
                return; // not one of this queue's
            }
            if let Some(slot) = self.early.get_mut(usize::from(seq) & mask) {
                *slot = u32::from(chain);
                self.early_count += 1;
            }
            return;
        }
        ring.push_used(chain, 0);
        while self.early_count > 0
            && let Some(slot) = self.early.get_mut(usize::from(ring.done()) & mask)
            && *slot != NOT_YET
        {
            ring.push_used(*slot as u16, 0);
            *slot = NOT_YET;
            self.early_count -= 1;
        }
    }

    /// Copies the whole frame to `out`; its first bytes are exactly [`TxFrame::head`].
    pub fn copy_to(&self, frame: &TxFrame, out: &mut FrameBuf) {
        out.hdr = frame.hdr;
        out.data.resize(frame.len as usize, 0);
        let head = frame.head();
        let (to, mut rest) = out.data.split_at_mut(head.len().min(frame.len as usize));
        to.copy_from_slice(head);
        self.for_rest(frame, |slice| {
            let n = slice.len().min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n);
            slice.copy_to(now);
            rest = later;
            Ok(())
        })
        .unwrap_or_default();
    }

    /// Calls `f` with each piece of the frame in guest memory that is not in its head.
    pub(crate) fn for_rest(
        &self,
        frame: &TxFrame,
        mut f: impl FnMut(vm_memory::VolatileSlice<'_, ()>) -> Result<(), RingError>,
    ) -> Result<(), RingError> {
        let mut left = frame.len as usize - frame.head().len();
        if left == 0 {
            return Ok(());
        }
        let mem = self.vring.ring.memory();
        let mut hint = self.hint;
        let (first, mut skip) = frame.rest;
        for segment in frame.segments.iter().skip(first as usize) {
            let n = ((segment.len - skip) as usize).min(left);
            let slice = mem
                .slice_hint(segment.gpa + u64::from(skip), n, &mut hint)
                .ok_or(RingError::BufferOutside)?;
            f(slice)?;
            left -= n;
            skip = 0;
        }
        Ok(())
    }

    /// Publishes what was completed and signals the call fd if the driver wants it; answers
    /// whether the driver wants it, also if there is no call fd.
    pub fn flush(&mut self) -> bool {
        self.vring.flush()
    }

    /// Whether [`next`](Self::next) has something to say.
    pub fn has_work(&mut self) -> bool {
        self.vring.has_available()
    }

    /// Asks the driver for kicks, or for none. When asked for: `true` means that work arrived
    /// meanwhile, for which no kick may come, so poll again.
    pub fn set_notify(&mut self, on: bool) -> bool {
        self.vring.set_notify(on) || on && self.vring.ring.has_seen()
    }
}

#[cfg(test)]
mod tests;
