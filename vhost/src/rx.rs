//! The receive queue: frames to a driver.
//!
//! A frame is written once, straight from where it is, over as many chains as it needs, or not at
//! all; what the driver cannot take (partial checksums, super-frames) is finished in software
//! first. Never decides who receives.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

use vf_packet::checksum;
use vf_packet::{Offload, PartialChecksum, Segmenter};

use crate::chain::{AHEAD, Fence, Prefetch, Segment, Token, UsedElem};
use crate::device_queue::DeviceQueue;
use crate::error::RingError;
use crate::features::VirtioFeatures;
use crate::frame::{FrameBuf, TagEdit};
use crate::hardware::rx_note::{self, TransportSum};
use crate::hardware::{RX_PREFIX_MAX, RxNote};
pub use crate::limits::{BURST_EFFORT, EFFORTLESS};
use crate::limits::{FRAME_DESCRIPTORS, HEAD_MAX, SEGMENTS_MAX};
use crate::memory::{GuestMemory, GuestSlice, GuestSliceMut, UnmarkedSlice, Window};
use crate::net_hdr::{NetHdr, acceptable};
use crate::tx::{TxFrame, TxQueue};
use crate::vring::Vring;

mod noted;

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxOutcome {
    /// It is in the driver's buffers, to be seen after the next [`RxQueue::flush`].
    Delivered,
    /// The driver has not enough buffers, or the ring is disabled; nothing changed.
    NoBuffer,
    /// Without `MRG_RXBUF` the next chain cannot hold the frame; with it, no 1024 descriptors can. Nothing changed.
    TooBig,
    /// A super-frame for a driver that takes none, of more than 2048 segments; nothing changed.
    TooManySegments,
    /// A super-frame for a driver that takes none: so many of its segments, from the first, are in the driver's buffers or
    /// were before, and there is none for the next, or a too small one. See [`RxQueue::deliver_from_segment`].
    Partial(u32),
    /// The frame's [`Offload`] does not describe it, so it cannot be finished for this driver;
    /// nothing changed. Does not happen to a [`TxFrame`].
    BadFrame,
}

/// The device's end of a receive virtqueue.
#[derive(Debug)]
pub struct RxQueue {
    vring: Vring,
    header_len: usize,
    mergeable: bool,
    /// The chains of the frame being written, and the bytes that go into each.
    chains: Vec<(Token, u32)>,
    segments: Vec<Segment>,
    /// Where a frame is finished for a driver without offloads.
    scratch: FrameBuf,
    /// The region a buffer was last found in.
    hint: usize,
    effort: u64,
    /// Whether the checksums of what is written now have been made here.
    checked: bool,
}

/// A frame that may be written as it is.
trait PlainFrame {
    /// Where it is written from.
    type From<'a>;
    fn offload(&self) -> &Offload;
    fn len(&self) -> u32;
    fn head(&self) -> &[u8];
    /// Writes it to what is behind the virtio-net header, exactly as long as the frame.
    fn write(&self, from: &mut Self::From<'_>, to: &UnmarkedSlice<'_>) -> Result<(), RingError>;
    /// Adds what is behind the head to a sum that was begun with that.
    fn sum_up(&self, from: &mut Self::From<'_>, sum: &mut TransportSum);
}

impl PlainFrame for TxFrame {
    type From<'a> = Window<'a>;
    #[inline]
    fn offload(&self) -> &Offload {
        TxFrame::offload(self)
    }
    #[inline]
    fn len(&self) -> u32 {
        TxFrame::len(self)
    }
    #[inline]
    fn head(&self) -> &[u8] {
        TxFrame::head(self)
    }
    #[inline(always)]
    fn write(&self, from: &mut Window<'_>, to: &UnmarkedSlice<'_>) -> Result<(), RingError> {
        self.write_plain(from, to)
    }
    fn sum_up(&self, from: &mut Window<'_>, sum: &mut TransportSum) {
        self.sum_up_received(from, sum);
    }
}

impl PlainFrame for Box<FrameBuf> {
    type From<'a> = ();
    #[inline]
    fn offload(&self) -> &Offload {
        &self.offload
    }
    #[inline]
    fn len(&self) -> u32 {
        FrameBuf::len(self)
    }
    #[inline]
    fn head(&self) -> &[u8] {
        FrameBuf::head(self)
    }
    #[inline(always)]
    fn write(&self, (): &mut (), to: &UnmarkedSlice<'_>) -> Result<(), RingError> {
        to.copy_from(&self.data);
        Ok(())
    }
    fn sum_up(&self, (): &mut (), sum: &mut TransportSum) {
        sum.add(self.data.get(self.head().len()..).unwrap_or_default());
    }
}

/// The part of a frame that is not in its head.
enum Rest<'a> {
    Guest(&'a TxQueue, &'a TxFrame),
    Private(&'a [u8]),
}

impl RxQueue {
    /// The receive queue on `vring`.
    pub fn new(mut vring: Vring) -> RxQueue {
        let features = vring.features();
        let header_len = vring.header_len();
        vring.ring.set_ahead(Prefetch::Write(header_len));
        RxQueue {
            vring,
            header_len,
            mergeable: features.contains(VirtioFeatures::MRG_RXBUF),
            chains: Vec::new(),
            segments: Vec::new(),
            scratch: FrameBuf::default(),
            hint: 0,
            effort: 0,
            checked: false,
        }
    }

    /// Gives the ring back, everything delivered published.
    pub fn into_vring(mut self) -> Vring {
        self.flush();
        self.vring.ring.set_ahead(Prefetch::Nothing);
        self.vring
    }

    /// The ring below.
    pub fn vring(&self) -> &Vring {
        &self.vring
    }

    /// What frames have cost beyond what any frame may: descriptors, of which an honest driver needs few, and segments of
    /// super-frames. A burst ends when it has been [`BURST_EFFORT`], and so should whatever makes several of them.
    pub fn effort(&self) -> u64 {
        self.effort
    }

    /// Writes frames from `tx`'s memory, which must be of its [fetched](TxQueue::fetched) ones: one copy, except for their
    /// heads, which are what [`TxFrame::head`] says. Says how many were delivered, and what became of the one behind them,
    /// if there is one and the burst has not been enough [effort](Self::effort).
    ///
    /// An error is the receiving driver's; its ring is broken and says the same from then on.
    pub fn deliver_from(
        &mut self,
        tx: &TxQueue,
        frames: &[TxFrame],
        edit: TagEdit,
    ) -> Result<(usize, Option<RxOutcome>), RingError> {
        let mut from = tx.window();
        self.deliver_burst(
            frames.len(),
            edit,
            |ring, done| {
                let frames = frames.get(done..).unwrap_or_default();
                ring.put_plain(frames, &mut from)
            },
            |ring, n| match frames.get(n) {
                Some(frame) => ring.deliver_one(tx, frame, edit),
                None => Ok(RxOutcome::NoBuffer),
            },
        )
    }

    /// The same of frames in private memory.
    ///
    /// An error is the receiving driver's; its ring is broken and says the same from then on.
    pub fn deliver_all(
        &mut self,
        frames: &[Box<FrameBuf>],
        edit: TagEdit,
    ) -> Result<(usize, Option<RxOutcome>), RingError> {
        self.deliver_burst(
            frames.len(),
            edit,
            |ring, done| {
                let frames = frames.get(done..).unwrap_or_default();
                ring.put_plain(frames, &mut ())
            },
            |ring, n| match frames.get(n) {
                Some(frame) => ring.deliver_private(frame, edit, 0),
                None => Ok(RxOutcome::NoBuffer),
            },
        )
    }

    /// Delivers so many frames, as many at a time as `plain` can write as they are, and the others one by one.
    #[inline]
    fn deliver_burst(
        &mut self,
        frames: usize,
        edit: TagEdit,
        mut plain: impl FnMut(&mut RxQueue, usize) -> Result<usize, RingError>,
        mut one: impl FnMut(&mut RxQueue, usize) -> Result<RxOutcome, RingError>,
    ) -> Result<(usize, Option<RxOutcome>), RingError> {
        if !self.ready()? {
            return Ok((0, Some(RxOutcome::NoBuffer)));
        }
        let mut done = 0;
        let enough = self.effort + BURST_EFFORT;
        while done < frames && self.effort < enough {
            let written = match edit {
                TagEdit::Keep => plain(self, done),
                TagEdit::Insert(_) | TagEdit::Strip => Ok(0),
            };
            let outcome = match written {
                Ok(0) => one(self, done),
                Ok(n) => {
                    done += n;
                    continue;
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(RxOutcome::Delivered) => done += 1,
                Ok(other) => return Ok((done, Some(other))),
                Err(error) => return Err(self.vring.fail(error)),
            }
        }
        Ok((done, None))
    }

    /// Writes frames as they are into chains that are one buffer, as long as there are such chains; how many.
    #[inline]
    fn put_plain<F: PlainFrame>(
        &mut self,
        frames: &[F],
        from: &mut F::From<'_>,
    ) -> Result<usize, RingError> {
        if self.vring.ring.hardware().is_some() {
            return self.put_plain_noted(frames, from);
        }
        let features = self.vring.features();
        let (memory, chains) = self.vring.ring.upcoming()?;
        let mut to = memory.window(self.hint);
        let mut used = [UsedElem::default(); AHEAD];
        let mut n = 0;
        for ((frame, chain), used) in frames.iter().zip(chains).zip(&mut used) {
            let total = self.header_len + frame.len() as usize;
            let Some((buffer, token)) = chain.plain(true, total) else {
                break;
            };
            if !acceptable(frame.offload(), features) {
                break;
            }
            let buffer = to
                .slice_mut(buffer.gpa, total)
                .ok_or(RingError::BufferOutside)?;
            buffer.write(|to| {
                write_hdr(to, frame.offload(), self.header_len)?;
                let body = to.offset(self.header_len);
                frame.write(from, &body.ok_or(RingError::BufferOutside)?)
            })?;
            *used = UsedElem::new(token, total as u32);
            n += 1;
        }
        self.hint = to.region();
        self.vring.ring.advance(n);
        self.vring.ring.push_all_used(used[..n].iter().copied());
        self.vring.ring.prepare()?;
        Ok(n)
    }

    /// Writes a frame from `tx`'s memory, whatever that takes.
    #[inline(never)]
    fn deliver_one(
        &mut self,
        tx: &TxQueue,
        frame: &TxFrame,
        edit: TagEdit,
    ) -> Result<RxOutcome, RingError> {
        match acceptable(frame.offload(), self.vring.features()) {
            true => self.put(
                *frame.offload(),
                frame.head(),
                Rest::Guest(tx, frame),
                frame.len() as usize,
                edit,
            ),
            false => {
                let mut scratch = std::mem::take(&mut self.scratch);
                tx.copy_to(frame, &mut scratch);
                let outcome = self.put_finished(&mut scratch, edit, 0);
                self.scratch = scratch;
                outcome
            }
        }
    }

    /// Writes a frame from private memory.
    ///
    /// An error is the receiving driver's; its ring is broken and says the same from then on.
    pub fn deliver(&mut self, frame: &FrameBuf, edit: TagEdit) -> Result<RxOutcome, RingError> {
        self.deliver_from_segment(frame, edit, 0)
    }

    /// The same of a super-frame whose first `done` segments the driver has.
    pub fn deliver_from_segment(
        &mut self,
        frame: &FrameBuf,
        edit: TagEdit,
        done: u32,
    ) -> Result<RxOutcome, RingError> {
        if !self.ready()? {
            return Ok(RxOutcome::NoBuffer);
        }
        let outcome = self.deliver_private(frame, edit, done);
        outcome.map_err(|error| self.vring.fail(error))
    }

    fn deliver_private(
        &mut self,
        frame: &FrameBuf,
        edit: TagEdit,
        done: u32,
    ) -> Result<RxOutcome, RingError> {
        match acceptable(&frame.offload, self.vring.features()) {
            true => self.put_private(frame.offload, &frame.data, edit),
            false if !self.vring.has_available() => Ok(RxOutcome::NoBuffer),
            false => {
                let mut scratch = std::mem::take(&mut self.scratch);
                scratch.clone_from(frame);
                let outcome = self.put_finished(&mut scratch, edit, done);
                self.scratch = scratch;
                outcome
            }
        }
    }

    fn ready(&self) -> Result<bool, RingError> {
        self.vring.check()?;
        Ok(self.vring.enabled())
    }

    /// Does in software what the driver cannot, and writes the result. Each segment of a super-frame stands for itself, as if
    /// it had come over a wire: those for which there are buffers are delivered. `done` of them the driver has.
    fn put_finished(
        &mut self,
        frame: &mut FrameBuf,
        edit: TagEdit,
        done: u32,
    ) -> Result<RxOutcome, RingError> {
        self.checked = match (frame.offload.gso(), frame.offload.checksum()) {
            (None, Some(made)) => rx_note::vouches(&frame.data, made),
            _ => true,
        };
        let outcome = self.finish(frame, edit, done);
        self.checked = false;
        outcome
    }

    fn finish(
        &mut self,
        frame: &mut FrameBuf,
        edit: TagEdit,
        done: u32,
    ) -> Result<RxOutcome, RingError> {
        let Some(gso) = frame.offload.gso() else {
            if let Some(PartialChecksum { start, offset }) = frame.offload.checksum()
                && checksum::complete(&mut frame.data, start, offset).is_err()
            {
                return Ok(RxOutcome::BadFrame);
            }
            return self.put_private(Offload::default(), &frame.data, edit);
        };
        let Some(mut segmenter) = Segmenter::new(&frame.data, gso.size) else {
            return Ok(RxOutcome::BadFrame);
        };
        if segmenter.segments() > SEGMENTS_MAX {
            return Ok(RxOutcome::TooManySegments);
        }
        segmenter.skip(done);
        let mut segment = done;
        let mut outcome = RxOutcome::Delivered;
        while let Some((header, payload)) = segmenter.next_segment() {
            let (rest, len) = (Rest::Private(payload), header.len() + payload.len());
            outcome = self.put(Offload::default(), header, rest, len, edit)?;
            if outcome != RxOutcome::Delivered {
                break;
            }
            segment += 1;
        }
        self.effort += u64::from(segment - done).saturating_sub(EFFORTLESS);
        let partial = outcome != RxOutcome::Delivered && segment > done;
        Ok(if partial {
            RxOutcome::Partial(segment)
        } else {
            outcome
        })
    }

    fn put_private(
        &mut self,
        offload: Offload,
        data: &[u8],
        edit: TagEdit,
    ) -> Result<RxOutcome, RingError> {
        let (head, rest) = data.split_at(data.len().min(HEAD_MAX));
        self.put(offload, head, Rest::Private(rest), data.len(), edit)
    }

    /// Writes one frame of `len` bytes with the header for `offload`, as it is but for `edit`.
    #[inline]
    fn put(
        &mut self,
        offload: Offload,
        head: &[u8],
        rest: Rest<'_>,
        len: usize,
        edit: TagEdit,
    ) -> Result<RxOutcome, RingError> {
        if let Some(ring) = self.vring.ring.hardware() {
            let (edit, note) = noted::note(ring.format_mut(), head, edit, self.checked);
            return self.put_noted(head, rest, len, edit, note);
        }
        let delta = edit.delta(head);
        let total = (self.header_len + len).saturating_add_signed(isize::from(delta));
        let offload = offload.moved(delta);
        let (memory, chains) = self.vring.ring.upcoming()?;
        let Some((buffer, token)) = chains.first().and_then(|chain| chain.plain(true, total))
        else {
            return self.put_over_chains(offload, head, rest, total, edit, RxNote::default());
        };
        let to = memory
            .slice_mut_hint(buffer.gpa, total, &mut self.hint)
            .ok_or(RingError::BufferOutside)?;
        to.write(|to| {
            write_hdr(to, &offload, self.header_len)?;
            let body = to.offset(self.header_len);
            write_one(
                &body.ok_or(RingError::BufferOutside)?,
                edit.pieces(head),
                rest,
            )
        })?;
        self.vring.ring.advance(1);
        self.vring.ring.push_used(token, total as u32);
        Ok(RxOutcome::Delivered)
    }

    /// As [`put`](Self::put) over as many chains and buffers as it takes.
    #[inline(never)]
    fn put_over_chains(
        &mut self,
        offload: Offload,
        head: &[u8],
        rest: Rest<'_>,
        total: usize,
        edit: TagEdit,
        note: RxNote,
    ) -> Result<RxOutcome, RingError> {
        let before = self.vring.ring.walked();
        let outcome = self.reserve(total)?;
        let walked = self.vring.ring.walked() - before;
        self.effort += walked.saturating_sub(EFFORTLESS);
        if outcome != RxOutcome::Delivered {
            return Ok(outcome);
        }
        let mut hdr = [0; RX_PREFIX_MAX];
        match self.vring.ring.hardware() {
            Some(ring) => {
                hdr = ring
                    .format()
                    .rx_prefix((total - self.header_len) as u32, note)
            }
            None => {
                let net = NetHdr::from(&offload).to_bytes(self.chains.len() as u16);
                hdr[..net.len()].copy_from_slice(&net);
            }
        }
        let mut writer = Writer {
            memory: self.vring.ring.memory(),
            segments: &self.segments,
            offset: 0,
            hint: &mut self.hint,
        };
        writer.write(&hdr[..self.header_len])?;
        for piece in edit.pieces(head) {
            writer.write(piece)?;
        }
        match rest {
            Rest::Private(bytes) => writer.write(bytes)?,
            Rest::Guest(tx, frame) => {
                writer.write(frame.more_headers())?;
                frame.for_rest(&mut tx.window(), |piece| writer.copy(piece))?;
            }
        }
        if let Some(ring) = self.vring.ring.hardware() {
            ring.push_received(&self.chains, note);
            return Ok(RxOutcome::Delivered);
        }
        for &(chain, written) in &self.chains {
            self.vring.ring.push_used(chain, written);
        }
        Ok(RxOutcome::Delivered)
    }

    /// Takes chains for `total` bytes into `chains` and `segments`, or leaves the ring as it was.
    fn reserve(&mut self, total: usize) -> Result<RxOutcome, RingError> {
        let ring = &mut self.vring.ring;
        let mark = ring.mark();
        let most = ring.walked() + FRAME_DESCRIPTORS;
        let mut left = total as u64;
        self.chains.clear();
        self.segments.clear();
        while left > 0 {
            let Some(chain) = ring.take()? else {
                ring.rollback(mark);
                return Ok(RxOutcome::NoBuffer);
            };
            let room = ring.walk(chain, true, &mut self.segments)?;
            let least = if self.chains.is_empty() {
                self.header_len as u64
            } else {
                1
            };
            if room < least {
                // To look for a better one behind it would let a driver make every frame walk its whole ring.
                return Err(RingError::BufferTooSmall);
            }
            // Nor may a driver have every frame walk its whole ring because there is next to nothing in each buffer.
            if room < left && !self.mergeable || ring.walked() > most {
                ring.rollback(mark);
                return Ok(RxOutcome::TooBig);
            }
            let filled = room.min(left);
            self.chains.push((chain.token, filled as u32));
            left -= filled;
        }
        Ok(RxOutcome::Delivered)
    }

    /// Makes what was delivered visible to the driver. [`call`](Self::call) must follow.
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

    /// Asks the driver for kicks when it adds buffers, or for none. When asked for: `true` means
    /// that it added some meanwhile, for which no kick may come, so try again.
    pub fn set_notify(&mut self, on: bool) -> bool {
        self.vring.set_notify(on)
    }

    /// Whether there is any buffer; a large frame may need more than there is.
    pub fn has_room(&mut self) -> bool {
        self.vring.enabled() && self.vring.has_available()
    }
}

/// Writes the virtio-net header of a frame in one buffer. In words: no call for so few bytes. Most of a header is there from
/// the last time that the driver used the buffer: a cache line of nothing but header then stays with both CPUs.
#[inline]
fn write_hdr(
    to: &UnmarkedSlice<'_>,
    offload: &Offload,
    header_len: usize,
) -> Result<(), RingError> {
    let (low, high) = if offload.is_none() {
        NetHdr::default().to_words(1)
    } else {
        NetHdr::from(offload).to_words(1)
    };
    let first = to.update(0, low.to_le());
    let second = if header_len == 12 {
        to.update(8, high.to_le())
    } else {
        to.update(8, (high as u16).to_le())
    };
    first.and(second).ok_or(RingError::BufferOutside)
}

/// Writes a frame into one piece of memory of exactly its length.
#[inline]
fn write_one(to: &UnmarkedSlice<'_>, head: [&[u8]; 3], rest: Rest<'_>) -> Result<(), RingError> {
    let outside = RingError::BufferOutside;
    let mut at = 0;
    for piece in head {
        if !piece.is_empty() {
            let to = to.subslice(at, piece.len()).ok_or(outside)?;
            to.copy_from(piece);
            at += piece.len();
        }
    }
    match rest {
        Rest::Private([]) => Ok(()),
        Rest::Private(bytes) => {
            to.offset(at).ok_or(outside)?.copy_from(bytes);
            Ok(())
        }
        Rest::Guest(tx, frame) => {
            let headers = frame.more_headers();
            if !headers.is_empty() {
                let to = to.subslice(at, headers.len()).ok_or(outside)?;
                to.copy_from(headers);
                at += headers.len();
            }
            frame.for_rest(&mut tx.window(), |piece| {
                let to = to.subslice(at, piece.len()).ok_or(outside)?;
                to.copy_from_guest(&piece);
                at += piece.len();
                Ok(())
            })
        }
    }
}

/// Fills segments one after the other.
struct Writer<'a> {
    memory: &'a GuestMemory,
    segments: &'a [Segment],
    /// Bytes of the first segment that are filled.
    offset: u32,
    hint: &'a mut usize,
}

impl<'a> Writer<'a> {
    /// The next 1 to `max` bytes to fill; `max` is not 0.
    fn room(&mut self, max: usize) -> Result<GuestSliceMut<'a>, RingError> {
        let (first, later) = self
            .segments
            .split_first()
            .ok_or(RingError::BufferOutside)?;
        let n = max.min((first.len - self.offset) as usize);
        let gpa = first.gpa + u64::from(self.offset);
        self.offset += n as u32;
        if self.offset == first.len {
            self.segments = later;
            self.offset = 0;
        }
        self.memory
            .slice_mut_hint(gpa, n, self.hint)
            .ok_or(RingError::BufferOutside)
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), RingError> {
        while !bytes.is_empty() {
            let to = self.room(bytes.len())?;
            to.copy_from(bytes);
            bytes = bytes.get(to.len()..).unwrap_or_default();
        }
        Ok(())
    }

    fn copy(&mut self, mut from: GuestSlice<'_>) -> Result<(), RingError> {
        while !from.is_empty() {
            let to = self.room(from.len())?;
            to.write(|to| to.copy_from_guest(&from));
            from = from.offset(to.len()).ok_or(RingError::BufferOutside)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
