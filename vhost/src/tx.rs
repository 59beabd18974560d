//! The transmit queue: frames from a driver.
//!
//! Frames are taken in bursts. The virtio-net header and the first bytes of a frame are copied out
//! once and judged as that copy; the payload stays in guest memory until it is copied to where it
//! goes. Chains are returned strictly in the order they came. Never decides where a frame goes.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

mod requested;

use vf_packet::Offload;

use crate::chain::{AHEAD, Chain, Fence, Prefetch, Segment, Token, UsedElem};
use crate::device_queue::DeviceQueue;
use crate::error::{FrameFault, RingError};
use crate::features::VirtioFeatures;
use crate::frame::FrameBuf;
use crate::limits::{FETCH_DESCRIPTORS, HEAD_MAX, HEADERS_MAX, MAX_FRAME, MIN_FRAME};
use crate::memory::{GuestMemory, GuestSlice, UnmarkedSlice, Window};
use crate::net_hdr::NetHdr;
use crate::vring::Vring;

/// Frames of one queue that are out of their ring at a time.
const BURST: usize = AHEAD;

/// A frame in a driver's memory, with its head in ours.
#[derive(Debug)]
#[repr(align(64))]
pub struct TxFrame {
    head: [u8; HEAD_MAX],
    offload: Offload,
    len: u32,
    head_len: u8,
    fault: Option<FrameFault>,
    /// What to return.
    chain: Token,
    /// The part of the frame that is not in our memory: so many bytes at a guest address, and what follows.
    rest_gpa: u64,
    rest_len: u32,
    more: Vec<Segment>,
    /// The headers of a super-frame that go on behind `head`, as many bytes as its [`Offload`] says; else of no meaning.
    long: Option<Box<LongHeaders>>,
}

type LongHeaders = [u8; HEADERS_MAX - HEAD_MAX];

// Three cache lines: a burst of frames stays in the first-level cache.
const _: () = assert!(size_of::<TxFrame>() == 192);

impl Default for TxFrame {
    fn default() -> TxFrame {
        TxFrame {
            head: [0; HEAD_MAX],
            offload: Offload::default(),
            len: 0,
            head_len: 0,
            fault: None,
            chain: Token::default(),
            rest_gpa: 0,
            rest_len: 0,
            more: Vec::new(),
            long: None,
        }
    }
}

impl TxFrame {
    /// What is wrong with it, if it is not a frame at all: then nothing else of it means anything; count and complete it.
    #[inline]
    pub fn fault(&self) -> Option<FrameFault> {
        self.fault
    }

    /// What is still to be done to the frame; checked against the driver's features and the frame.
    #[inline]
    pub fn offload(&self) -> &Offload {
        &self.offload
    }

    /// The first bytes of the frame, all of them or [`HEAD_MAX`]: what to decide on, and what will
    /// be written to receivers whatever the driver does meanwhile.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[..usize::from(self.head_len).min(HEAD_MAX)]
    }

    /// The headers of a super-frame that go on behind [`head`](Self::head), which were judged, too, and are written likewise.
    #[inline]
    pub(crate) fn more_headers(&self) -> &[u8] {
        if self.offload.is_none() {
            return &[];
        }
        let len = self.offload.gso().map_or(0, |gso| {
            usize::from(gso.header_len).saturating_sub(HEAD_MAX)
        });
        let long = self.long.as_ref().and_then(|long| long.get(..len));
        long.unwrap_or_default()
    }

    /// Bytes of the L2 frame, without FCS.
    #[expect(clippy::len_without_is_empty, reason = "at least 14")]
    #[inline]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Writes the frame to `body`, which is exactly as long: its head from here, the rest from the sender's memory. Always
    /// inline: there is one for each kind of ring, and a call costs as much as a short frame's copy.
    #[inline(always)]
    pub(crate) fn write_plain(
        &self,
        from: &mut Window<'_>,
        body: &UnmarkedSlice<'_>,
    ) -> Result<(), RingError> {
        let outside = RingError::BufferOutside;
        body.copy_from_head(&self.head, usize::from(self.head_len));
        let mut rest = body.offset(self.head().len()).ok_or(outside)?;
        let headers = self.more_headers();
        if !headers.is_empty() {
            let to = rest.subslice(0, headers.len()).ok_or(outside)?;
            to.copy_from(headers);
            rest = rest.offset(headers.len()).ok_or(outside)?;
        }
        self.for_rest(from, |piece| {
            let to = rest.subslice(0, piece.len()).ok_or(outside)?;
            to.copy_from_guest(&piece);
            rest = rest.offset(piece.len()).ok_or(outside)?;
            Ok(())
        })
    }

    /// Takes over the buffer of a chain that is nothing else: header and frame in one piece.
    #[inline]
    fn fill_plain(
        &mut self,
        memory: &GuestMemory,
        buffer: &GuestSlice<'_>,
        gpa: u64,
        header_len: usize,
        features: VirtioFeatures,
    ) -> Result<(), RingError> {
        let outside = RingError::BufferOutside;
        let len = buffer.len() - header_len;
        if !self.measure(len as u64) {
            return Ok(());
        }
        let n = usize::from(self.head_len);
        let at = header_len + n;
        self.rest_gpa = gpa + at as u64;
        self.rest_len = (len - n) as u32;
        self.more.clear();
        let low = u64::from_le(buffer.read(0).ok_or(outside)?);
        let high = buffer.read(8).ok_or(outside)?;
        let head = buffer.subslice(header_len, n).ok_or(outside)?;
        head.copy_to_head(&mut self.head);
        // Written where it stays: a result would be put together elsewhere first.
        self.offload = Offload::default();
        if NetHdr::word_asks_nothing(low) {
            return Ok(());
        }
        self.judge(
            &NetHdr::from_words(low, u16::from_le(high)),
            features,
            memory,
        )
    }

    /// Takes over a chain of pieces with `total` bytes in all.
    fn fill(
        &mut self,
        memory: &GuestMemory,
        pieces: &[Segment],
        total: u64,
        header_len: usize,
        features: VirtioFeatures,
    ) -> Result<(), RingError> {
        let Some(len) = total.checked_sub(header_len as u64) else {
            self.fault = Some(FrameFault::NoHeader);
            return Ok(());
        };
        if !self.measure(len) {
            return Ok(());
        }
        let head_len = usize::from(self.head_len);
        let mut copied = [0; 12 + HEAD_MAX];
        let n = header_len + head_len;
        self.take_pieces(memory, pieces, &mut copied[..n])?;
        self.head[..head_len].copy_from_slice(&copied[header_len..n]);
        let mut hdr = [0; 10];
        hdr.copy_from_slice(&copied[..10]);
        self.judge(&NetHdr::from_bytes(&hdr), features, memory)
    }

    /// Copies the first bytes of a frame's pieces to `to`, which is not longer than they are, and notes where the others are.
    fn take_pieces(
        &mut self,
        memory: &GuestMemory,
        pieces: &[Segment],
        mut to: &mut [u8],
    ) -> Result<(), RingError> {
        self.more.clear();
        for piece in pieces {
            let take = (piece.len as usize).min(to.len());
            let (now, later) = to.split_at_mut(take);
            if take > 0 {
                let piece = memory.slice(piece.gpa, take);
                piece.ok_or(RingError::BufferOutside)?.copy_to(now);
            }
            to = later;
            self.more.push(Segment {
                gpa: piece.gpa + take as u64,
                len: piece.len - take as u32,
            });
        }
        self.rest_len = 0;
        Ok(())
    }

    /// Notes the length of a frame, and whether there can be one of that length.
    #[inline]
    fn measure(&mut self, len: u64) -> bool {
        self.fault = if len < u64::from(MIN_FRAME) {
            Some(FrameFault::Runt)
        } else if len > u64::from(MAX_FRAME) {
            Some(FrameFault::Oversize)
        } else {
            None
        };
        self.len = len as u32;
        self.head_len = len.min(HEAD_MAX as u64) as u8;
        self.fault.is_none()
    }

    /// Judges what a header asks for.
    fn judge(
        &mut self,
        hdr: &NetHdr,
        features: VirtioFeatures,
        memory: &GuestMemory,
    ) -> Result<(), RingError> {
        self.offload = Offload::default();
        match hdr.check(features, self.head(), self.len) {
            Ok(offload) => self.offload = offload,
            Err(FrameFault::HeadersTooLong) => return self.judge_long(hdr, features, memory),
            Err(fault) => self.fault = Some(fault),
        }
        Ok(())
    }

    /// Judges a super-frame whose headers go on behind its head, on a private copy of all of them: as long as they may be, or
    /// as the frame is.
    #[cold]
    fn judge_long(
        &mut self,
        hdr: &NetHdr,
        features: VirtioFeatures,
        memory: &GuestMemory,
    ) -> Result<(), RingError> {
        let (headers, filled) = self.copy_headers(memory)?;
        match hdr.check(features, &headers[..filled], self.len) {
            Ok(offload) => self.keep_headers(&headers, offload),
            Err(fault) => self.fault = Some(fault),
        }
        Ok(())
    }

    /// The first bytes of the frame, more of them than its head has, and how many there are.
    fn copy_headers(&self, memory: &GuestMemory) -> Result<([u8; HEADERS_MAX], usize), RingError> {
        let mut headers = [0; HEADERS_MAX];
        headers[..HEAD_MAX].copy_from_slice(&self.head);
        let mut filled = HEAD_MAX;
        self.for_rest(&mut memory.window(0), |piece| {
            let n = piece.len().min(HEADERS_MAX - filled);
            piece.copy_to(&mut headers[filled..filled + n]);
            filled += n;
            Ok(())
        })?;
        Ok((headers, filled))
    }

    /// Keeps the headers of a super-frame that go on behind its head.
    fn keep_headers(&mut self, headers: &[u8; HEADERS_MAX], offload: Offload) {
        let long = self.long.get_or_insert_with(|| Box::new([0; _]));
        long.copy_from_slice(&headers[HEAD_MAX..]);
        self.offload = offload;
        self.skip(self.more_headers().len() as u32);
    }

    /// Leaves out the first bytes of what is in guest memory.
    fn skip(&mut self, mut bytes: u32) {
        let first = (&mut self.rest_gpa, &mut self.rest_len);
        let more = self
            .more
            .iter_mut()
            .map(|more| (&mut more.gpa, &mut more.len));
        for (gpa, len) in std::iter::once(first).chain(more) {
            let n = bytes.min(*len);
            *gpa += u64::from(n);
            *len -= n;
            bytes -= n;
        }
    }

    /// Calls `f` with each piece of the frame that is in guest memory only.
    #[inline]
    pub(crate) fn for_rest(
        &self,
        memory: &mut Window<'_>,
        mut f: impl FnMut(GuestSlice<'_>) -> Result<(), RingError>,
    ) -> Result<(), RingError> {
        if self.rest_len == 0 && self.more.is_empty() {
            return Ok(());
        }
        let first = Segment {
            gpa: self.rest_gpa,
            len: self.rest_len,
        };
        for piece in std::iter::once(&first).chain(&self.more) {
            if piece.len > 0 {
                let piece = memory.slice(piece.gpa, piece.len as usize);
                f(piece.ok_or(RingError::BufferOutside)?)?;
            }
        }
        Ok(())
    }
}

/// The device's end of a transmit virtqueue.
#[derive(Debug)]
pub struct TxQueue {
    vring: Vring,
    header_len: usize,
    /// The region a payload was last found in.
    hint: usize,
    /// Frames taken from the ring; those from `first` to `end` are not completed yet.
    frames: Vec<TxFrame>,
    first: usize,
    end: usize,
    /// What broke the ring behind the frames that have been taken.
    late: Option<RingError>,
    pieces: Vec<Segment>,
}

impl TxQueue {
    /// The transmit queue on `vring`.
    pub fn new(mut vring: Vring) -> TxQueue {
        let header_len = vring.header_len();
        vring.ring.set_ahead(Prefetch::Read(header_len + HEAD_MAX));
        TxQueue {
            header_len,
            hint: 0,
            frames: std::iter::repeat_with(TxFrame::default)
                .take(BURST)
                .collect(),
            first: 0,
            end: 0,
            late: None,
            pieces: Vec::new(),
            vring,
        }
    }

    /// Gives the ring back, everything completed published. Frames not completed are forgotten:
    /// [`Vring::base`] is the oldest of them, and they are taken again if the ring goes on.
    pub fn into_vring(mut self) -> Vring {
        self.vring.flush();
        self.vring.ring.set_ahead(Prefetch::Nothing);
        self.vring.ring.rewind();
        self.vring
    }

    /// The ring below.
    #[inline]
    pub fn vring(&self) -> &Vring {
        &self.vring
    }

    /// Takes a burst of frames off the ring if none are left of the last one, and says how many there are now: none if the
    /// driver has sent none, or the ring is disabled.
    ///
    /// # Errors
    /// The driver's; the ring is broken and says the same from then on.
    #[inline]
    pub fn fetch(&mut self) -> Result<usize, RingError> {
        self.vring.check()?;
        if !self.vring.enabled() {
            return Ok(0);
        }
        if self.first == self.end {
            if self.late.is_none() && !self.vring.has_available() {
                return Ok(0);
            }
            self.vring.check()?;
            (self.first, self.end) = (0, 0);
            self.fetch_burst().map_err(|error| self.vring.fail(error))?;
        }
        Ok(self.end - self.first)
    }

    /// The frames that were taken and are not completed, in order.
    #[inline]
    pub fn fetched(&self) -> &[TxFrame] {
        &self.frames[self.first..self.end]
    }

    fn fetch_burst(&mut self) -> Result<(), RingError> {
        if let Some(error) = self.late.take() {
            return Err(error);
        }
        match self.try_fetch() {
            // First those that came before.
            Err(error) if self.end > 0 => self.late = Some(error),
            result => return result,
        }
        Ok(())
    }

    fn try_fetch(&mut self) -> Result<(), RingError> {
        let enough = self.vring.ring.walked() + FETCH_DESCRIPTORS;
        if self.vring.ring.hardware().is_some() {
            return self.fetch_requested(enough);
        }
        loop {
            if !self.fetch_plain()? {
                return Ok(());
            }
            // What has come since the ring was looked at can wait: to look is to wait for a cache line.
            if self.end == BURST || self.end > 0 && !self.vring.ring.has_seen() {
                // The next burst comes nearer while this one is worked on.
                return self.vring.ring.prepare();
            }
            let Some(chain) = self.vring.ring.take()? else {
                return Ok(());
            };
            self.fetch_chain(chain)?;
            if self.vring.ring.walked() >= enough {
                return Ok(());
            }
        }
    }

    /// Takes chains that are one buffer, up to the first that is not; false if there are none of either kind.
    fn fetch_plain(&mut self) -> Result<bool, RingError> {
        let least = self.header_len + MIN_FRAME as usize;
        let features = self.vring.features();
        let (memory, chains) = self.vring.ring.upcoming()?;
        if chains.is_empty() {
            return Ok(false);
        }
        let mut window = memory.window(self.hint);
        let mut n = 0;
        for (frame, chain) in self.frames[self.end..].iter_mut().zip(chains) {
            let Some((piece, token)) = chain.plain(false, least) else {
                break;
            };
            let Some(buffer) = window.slice(piece.gpa, piece.len as usize) else {
                break;
            };
            frame.chain = token;
            frame.fill_plain(memory, &buffer, piece.gpa, self.header_len, features)?;
            n += 1;
        }
        self.hint = window.region();
        self.end += n;
        self.vring.ring.advance(n);
        Ok(true)
    }

    /// Takes any chain.
    fn fetch_chain(&mut self, chain: Chain) -> Result<(), RingError> {
        let features = self.vring.features();
        self.pieces.clear();
        let total = self.vring.ring.walk(chain, false, &mut self.pieces)?;
        if let Some(frame) = self.frames.get_mut(self.end) {
            frame.chain = chain.token;
            let memory = self.vring.ring.memory();
            frame.fill(memory, &self.pieces, total, self.header_len, features)?;
            self.end += 1;
        }
        Ok(())
    }

    /// Throws away what a disabled ring holds once its driver has kicked it, and says how many frames that were
    /// (vhost-user "Ring states": a ring is started by a kick; started but disabled, it is processed and its frames
    /// discarded). Does nothing to an enabled ring. [`flush`](Self::flush) afterwards.
    ///
    /// Between SET_VRING_KICK and SET_VRING_ENABLE of a front end that comes back, frames of the session before may wait
    /// here that nobody has kicked for yet: those are kept.
    ///
    /// # Errors
    /// As of [`fetch`](Self::fetch).
    pub fn discard(&mut self) -> Result<u32, RingError> {
        self.vring.check()?;
        if self.vring.enabled() || !self.has_work() {
            return Ok(0);
        }
        if !self.vring.discards && self.vring.kick_fd().is_some_and(|kick| !kick.drain()) {
            return Ok(0);
        }
        // It is started: what comes later may come while its driver is asked for no kicks.
        self.vring.discards = true;
        self.throw_away().map_err(|error| self.vring.fail(error))
    }

    fn throw_away(&mut self) -> Result<u32, RingError> {
        let mut frames = self.fetched().len() as u32;
        self.complete(frames as usize);
        // As with those that are sent, others have their turn.
        while frames < BURST as u32 {
            let Some(chain) = self.vring.ring.take()? else {
                break;
            };
            self.vring.ring.push_used(chain.token, 0);
            frames += 1;
        }
        Ok(frames)
    }

    /// Gives the chains of the first `n` [fetched](Self::fetched) frames back to the driver, at the next
    /// [`flush`](Self::flush).
    pub fn complete(&mut self, n: usize) {
        let n = n.min(self.end - self.first);
        let frames = &self.frames[self.first..self.first + n];
        let chains = frames.iter().map(|frame| UsedElem::new(frame.chain, 0));
        self.vring.ring.push_all_used(chains);
        self.first += n;
    }

    /// A look into the driver's memory, where its frames are.
    #[inline]
    pub(crate) fn window(&self) -> Window<'_> {
        self.vring.ring.memory().window(self.hint)
    }

    /// Copies the whole frame to `out`, whatever that holds; its first bytes are exactly [`TxFrame::head`]. `frame` must be
    /// one of this queue.
    pub fn copy_to(&self, frame: &TxFrame, out: &mut FrameBuf) {
        self.copy_first_to(frame, usize::MAX, out);
    }

    /// The same of so many bytes of it at most: of no others is room made in `out`.
    pub fn copy_first_to(&self, frame: &TxFrame, most: usize, out: &mut FrameBuf) {
        out.offload = *frame.offload();
        out.data.resize(most.min(frame.len() as usize), 0);
        let head = frame.head();
        let len = out.data.len();
        let (to, rest) = out.data.split_at_mut(head.len().min(len));
        let (head, _) = head.split_at(to.len());
        to.copy_from_slice(head);
        if rest.is_empty() {
            return;
        }
        let headers = frame.more_headers();
        let (to, mut rest) = rest.split_at_mut(headers.len().min(rest.len()));
        let (headers, _) = headers.split_at(to.len());
        to.copy_from_slice(headers);
        let copied = frame.for_rest(&mut self.window(), |piece| {
            let n = piece.len().min(rest.len());
            let (now, later) = std::mem::take(&mut rest).split_at_mut(n);
            piece.copy_to(now);
            rest = later;
            Ok(())
        });
        if copied.is_err() || !rest.is_empty() {
            // A buffer is used again and again: what could not be copied must not show what it held before.
            rest.fill(0);
        }
    }

    /// Makes what was completed visible to the driver. [`call`](Self::call) must follow.
    pub fn publish(&mut self) {
        self.vring.publish();
    }

    /// Signals the call fd if something has been published and the driver wants to know. Answers
    /// whether it does, also if there is no call fd; `None` if there was nothing to publish. The fence is to be newer than
    /// the last [`publish`](Self::publish), of whatever queue.
    pub fn call(&mut self, fence: &Fence) -> Option<bool> {
        self.vring.call(fence)
    }

    /// [`publish`](Self::publish) and [`call`](Self::call).
    pub fn flush(&mut self) -> Option<bool> {
        self.vring.flush()
    }

    /// Whether frames wait here or in the ring.
    pub fn has_work(&mut self) -> bool {
        let fetched = self.first < self.end || self.late.is_some();
        fetched && !self.vring.is_broken() || self.vring.has_available()
    }

    /// Asks the driver for kicks, or for none. When asked for: `true` means that work arrived
    /// meanwhile, for which no kick may come, so poll again. The driver of a disabled ring is always asked: nothing is
    /// [thrown away](Self::discard) before it kicks.
    pub fn set_notify(&mut self, on: bool) -> bool {
        let enabled = self.vring.enabled();
        let waits = self.first < self.end || self.late.is_some() || self.vring.ring.has_seen();
        let found = self.vring.set_notify(on || !enabled);
        let broken = self.vring.is_broken();
        let goes_on = (enabled || self.vring.discards) && !broken;
        // A caller that turns notifications off does not want to know whether something has come: to it only a broken ring matters.
        found && (on || broken) || on && goes_on && waits
    }
}

#[cfg(test)]
mod tests;
