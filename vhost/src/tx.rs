//! The transmit queue: frames from a driver.
//!
//! The virtio-net header and the first bytes of a frame are copied out once and judged as that
//! copy; the payload stays in guest memory until it is copied to where it goes. Chains are returned
//! strictly in the order they came. Never decides where a frame goes.

use vm_memory::{VolatileMemory, VolatileSlice};

use crate::frame::FrameBuf;
use crate::net_hdr::{FrameFault, HEAD_MAX, MAX_FRAME, MIN_FRAME, NetHdr, header_len};
use crate::ring::{RingError, Segment, Token};
use crate::vring::Vring;

/// What [`TxQueue::next`] took off the ring.
#[derive(Debug)]
pub enum TxItem {
    /// A frame; give it back to [`TxQueue::complete`], whatever becomes of it.
    Frame(TxFrame),
    /// Something that is not a frame; its chain has been returned, count it.
    Bad(FrameFault),
}

/// A frame in a driver's memory, with its head in ours. Not completing it leaves its chain, and
/// all that follow, with the device: a restarted ring sends them again.
#[derive(Debug)]
pub struct TxFrame(Box<Taken>);

/// What a [`TxFrame`] points to; the queue reuses it, so that nothing is allocated a frame and
/// nothing is moved.
#[derive(Debug)]
struct Taken {
    hdr: NetHdr,
    len: u32,
    /// What to return.
    chain: Token,
    /// Its number among the chains of the ring.
    seq: u16,
    head_len: u8,
    head: [u8; HEAD_MAX],
    segments: Vec<Segment>,
    /// The first byte that is not in `head`: a segment and an offset in it.
    rest: (u32, u32),
}

impl TxFrame {
    /// What is still to be done to the frame; checked against the driver's features and the frame.
    pub fn hdr(&self) -> &NetHdr {
        &self.0.hdr
    }

    /// The first bytes of the frame, all of them or [`HEAD_MAX`]: what to decide on, and what will
    /// be written to receivers whatever the driver does meanwhile.
    pub fn head(&self) -> &[u8] {
        self.0.head()
    }

    /// Bytes of the L2 frame, without FCS.
    #[expect(clippy::len_without_is_empty, reason = "at least 14")]
    pub fn len(&self) -> u32 {
        self.0.len
    }
}

impl Taken {
    fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len).min(HEAD_MAX)]
    }
}

impl Default for Taken {
    fn default() -> Taken {
        Taken {
            hdr: NetHdr::default(),
            len: 0,
            chain: Token::default(),
            seq: 0,
            head_len: 0,
            head: [0; HEAD_MAX],
            segments: Vec::new(),
            rest: (0, 0),
        }
    }
}

/// The device's end of a transmit virtqueue.
#[derive(Debug)]
pub struct TxQueue {
    vring: Vring,
    header_len: usize,
    /// The region a payload was last found in.
    hint: usize,
    /// Chains completed before their predecessors, by number; a power of two of them.
    early: Vec<Option<Token>>,
    early_count: u16,
    /// Frames that came back.
    spare: Vec<TxFrame>,
}

impl TxQueue {
    /// The transmit queue on `vring`.
    pub fn new(mut vring: Vring) -> TxQueue {
        let header_len = header_len(vring.features());
        vring.ring.set_looked_at(header_len + HEAD_MAX);
        TxQueue {
            header_len,
            hint: 0,
            early: vec![None; usize::from(vring.size()).next_power_of_two()],
            early_count: 0,
            spare: Vec::new(),
            vring,
        }
    }

    /// Gives the ring back, everything completed published. Frames not completed are forgotten:
    /// [`Vring::base`] is the oldest of them, and they are taken again if the ring goes on.
    pub fn into_vring(mut self) -> Vring {
        self.vring.flush();
        self.vring.ring.set_looked_at(0);
        self.vring.ring.rewind();
        self.vring
    }

    /// The ring below.
    pub fn vring(&self) -> &Vring {
        &self.vring
    }

    /// The next frame, or `None` if there is none now or the ring is disabled.
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
        if !self.vring.enabled() {
            return Ok(None);
        }
        let seq = self.vring.ring.taken();
        let TxFrame(mut frame) = self.spare.pop().unwrap_or_else(|| TxFrame(Box::default()));
        frame.seq = seq;
        frame.segments.clear();
        let total;
        if let Some((segment, token)) = self.vring.ring.take_plain(false, 0) {
            frame.chain = token;
            frame.segments.push(segment);
            total = u64::from(segment.len);
        } else if let Some(chain) = self.vring.ring.take()? {
            frame.chain = chain.token;
            total = self.vring.ring.walk(chain, false, &mut frame.segments)?;
        } else {
            self.spare.push(TxFrame(frame));
            return Ok(None);
        }
        match self.fill(&mut frame, total)? {
            Ok(()) => Ok(Some(TxItem::Frame(TxFrame(frame)))),
            Err(fault) => {
                self.complete(TxFrame(frame));
                Ok(Some(TxItem::Bad(fault)))
            }
        }
    }

    /// Copies header and head out of the chain of `total` bytes and judges them.
    fn fill(&mut self, frame: &mut Taken, total: u64) -> Result<Result<(), FrameFault>, RingError> {
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
        let hdr = match frame.segments.first() {
            Some(first) if first.len as usize >= self.header_len + head_len => {
                self.copy_from_one(frame, head_len)?
            }
            _ => self.copy_from_many(frame, head_len)?,
        };
        let checked = hdr.check(self.vring.features(), frame.head(), frame.len);
        Ok(checked.map(|hdr| frame.hdr = hdr))
    }

    /// Copies header and head out of the first segment, which holds them.
    fn copy_from_one(&mut self, frame: &mut Taken, head_len: usize) -> Result<NetHdr, RingError> {
        let n = self.header_len + head_len;
        let first = frame.segments.first().ok_or(RingError::BufferOutside)?;
        let memory = self.vring.ring.memory();
        let from = memory
            .slice_hint(first.gpa, n, &mut self.hint)
            .ok_or(RingError::BufferOutside)?;
        let outside = |_| RingError::BufferOutside;
        let low = from.get_ref::<u64>(0).map_err(outside)?.load();
        let high = from.get_ref::<u16>(8).map_err(outside)?.load();
        from.subslice(self.header_len, head_len)
            .map_err(outside)?
            .copy_to(&mut frame.head[..]);
        frame.rest = (0, n as u32);
        Ok(NetHdr::from_words(u64::from_le(low), u16::from_le(high)))
    }

    /// Copies header and head out of however many segments hold them.
    fn copy_from_many(&mut self, frame: &mut Taken, head_len: usize) -> Result<NetHdr, RingError> {
        let memory = self.vring.ring.memory();
        let mut copied = [0; 12 + HEAD_MAX];
        let n = self.header_len + head_len;
        let mut to = &mut copied[..n];
        for (i, segment) in frame.segments.iter().enumerate() {
            let take = (segment.len as usize).min(to.len());
            let (now, later) = to.split_at_mut(take);
            memory
                .slice_hint(segment.gpa, take, &mut self.hint)
                .ok_or(RingError::BufferOutside)?
                .copy_to(now);
            to = later;
            frame.rest = (i as u32, take as u32);
            if to.is_empty() {
                break;
            }
        }
        frame.head[..head_len].copy_from_slice(&copied[self.header_len..n]);
        let mut hdr = [0; 10];
        hdr.copy_from_slice(&copied[..10]);
        Ok(NetHdr::from_bytes(&hdr))
    }

    /// Throws away what a disabled ring holds once its driver has kicked it, and says how many frames that were
    /// (vhost-user "Ring states": a ring is started by a kick; started but disabled, it is processed and its frames
    /// discarded). Does nothing to an enabled ring. [`flush`](Self::flush) afterwards.
    ///
    /// Between SET_VRING_KICK and SET_VRING_ENABLE of a front end that comes back, frames of the session before may wait
    /// here that nobody has kicked for yet: those are kept.
    ///
    /// # Errors
    /// As of [`next`](Self::next).
    pub fn discard(&mut self) -> Result<u32, RingError> {
        self.vring.check()?;
        if self.vring.enabled() || !self.has_work() {
            return Ok(0);
        }
        if self.vring.kick_fd().is_some_and(|kick| !kick.drain()) {
            return Ok(0);
        }
        self.throw_away().map_err(|error| self.vring.fail(error))
    }

    fn throw_away(&mut self) -> Result<u32, RingError> {
        let mut frames = 0;
        // A driver that goes on adding meanwhile waits for the next round.
        while frames < u32::from(self.vring.size()) {
            let seq = self.vring.ring.taken();
            let Some(chain) = self.vring.ring.take()? else {
                break;
            };
            self.complete_chain(seq, chain.token);
            frames += 1;
        }
        Ok(frames)
    }

    /// Gives a frame's chain back to the driver, at the next [`flush`](Self::flush) after all
    /// frames that came before it are complete.
    pub fn complete(&mut self, frame: TxFrame) {
        self.complete_chain(frame.0.seq, frame.0.chain);
        if self.spare.len() < self.early.len() {
            self.spare.push(frame);
        }
    }

    fn complete_chain(&mut self, seq: u16, chain: Token) {
        let mask = self.early.len() - 1;
        let ring = &mut self.vring.ring;
        if seq != ring.returned() {
            let waiting = ring.taken().wrapping_sub(ring.returned());
            if seq.wrapping_sub(ring.returned()) >= waiting {
                return; // not one of this queue's
            }
            if let Some(slot) = self.early.get_mut(usize::from(seq) & mask) {
                *slot = Some(chain);
                self.early_count += 1;
            }
            return;
        }
        ring.push_used(chain, 0);
        while self.early_count > 0
            && let Some(slot) = self.early.get_mut(usize::from(ring.returned()) & mask)
            && let Some(chain) = slot.take()
        {
            ring.push_used(chain, 0);
            self.early_count -= 1;
        }
    }

    /// Copies the whole frame to `out`; its first bytes are exactly [`TxFrame::head`].
    pub fn copy_to(&self, frame: &TxFrame, out: &mut FrameBuf) {
        out.hdr = *frame.hdr();
        out.data.resize(frame.len() as usize, 0);
        let head = frame.head();
        let (to, mut rest) = out.data.split_at_mut(head.len().min(frame.len() as usize));
        to.copy_from_slice(head);
        self.for_rest(frame, |piece| {
            let n = piece.len().min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n);
            piece.copy_to(now);
            rest = later;
            Ok(())
        })
        .unwrap_or_default();
    }

    /// Calls `f` with each piece of the frame in guest memory that is not in its head.
    #[inline]
    pub(crate) fn for_rest(
        &self,
        frame: &TxFrame,
        mut f: impl FnMut(VolatileSlice<'_, ()>) -> Result<(), RingError>,
    ) -> Result<(), RingError> {
        let frame = &*frame.0;
        let mut left = frame.len as usize - frame.head().len();
        if left == 0 {
            return Ok(());
        }
        let memory = self.vring.ring.memory();
        let mut hint = self.hint;
        let (first, mut skip) = frame.rest;
        for segment in frame.segments.iter().skip(first as usize) {
            let n = ((segment.len - skip) as usize).min(left);
            let piece = memory
                .slice_hint(segment.gpa + u64::from(skip), n, &mut hint)
                .ok_or(RingError::BufferOutside)?;
            f(piece)?;
            left -= n;
            skip = 0;
        }
        Ok(())
    }

    /// Publishes what was completed and signals the call fd if the driver wants it. Answers
    /// whether the driver wants it, also if there is no call fd; `None` if there was nothing to publish.
    pub fn flush(&mut self) -> Option<bool> {
        self.vring.flush()
    }

    /// Whether [`next`](Self::next) has something to say.
    pub fn has_work(&mut self) -> bool {
        self.vring.has_available()
    }

    /// Asks the driver for kicks, or for none. When asked for: `true` means that work arrived
    /// meanwhile, for which no kick may come, so poll again.
    pub fn set_notify(&mut self, on: bool) -> bool {
        self.vring.set_notify(on) || on && self.vring.enabled() && self.vring.ring.has_seen()
    }
}

#[cfg(test)]
mod tests;
