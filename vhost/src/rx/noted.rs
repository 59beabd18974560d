//! The receive ring of a hardware NIC: frames as they go behind its prefix, and what is said of each of them. Never decides who receives.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

use vf_packet::Offload;

use super::{PlainFrame, Rest, RxOutcome, RxQueue};
use crate::device_queue::DeviceQueue;
use crate::error::RingError;
use crate::frame::TagEdit;
use crate::hardware::rx_note::{self, TransportSum};
use crate::hardware::{DescriptorFormat, RxNote};

impl RxQueue {
    /// The same into a hardware ring, of frames that are not changed on the way.
    pub(super) fn put_plain_noted<F: PlainFrame>(
        &mut self,
        frames: &[F],
        from: &mut F::From<'_>,
    ) -> Result<usize, RingError> {
        let Some(ring) = self.vring.ring.hardware() else {
            return Ok(0);
        };
        let hashes = ring.format_mut().hashes();
        let (memory, chains, format, mut received) = ring.upcoming_of()?;
        let (strips, checks) = (format.strips_tags(), format.checks_sums());
        let header_len = self.header_len;
        let mut to = memory.window(self.hint);
        let (mut n, mut failed) = (0, None);
        for (frame, chain) in frames.iter().zip(chains) {
            let total = header_len + frame.len() as usize;
            let Some((buffer, token)) = chain.plain(true, total) else {
                break;
            };
            let head = frame.head();
            let stripped = strips && rx_note::strip(TagEdit::Keep, head).1.is_some();
            if stripped || !frame.offload().is_none() {
                break;
            }
            let mut note = RxNote::of(head, false, None);
            if hashes {
                note = note.with_hash(format.hash(head));
            }
            if checks {
                note = note.with_headers(head, TagEdit::Keep);
                if let Some(mut sum) = TransportSum::of(head, frame.len() as usize) {
                    frame.sum_up(from, &mut sum);
                    note = sum.is_right().map_or(note, |is| note.with_transport(is));
                }
            }
            let Some(buffer) = to.slice_mut(buffer.gpa, total) else {
                break; // the long way says what is wrong
            };
            let written = buffer.write(|to| {
                if header_len > 0 {
                    to.copy_from(&format.rx_prefix(frame.len(), note)[..header_len]);
                }
                let body = to.offset(header_len);
                frame.write(from, &body.ok_or(RingError::BufferOutside)?)
            });
            if let Err(why) = written {
                failed = Some(why);
                break;
            }
            received.push(token, total as u32, note);
            n += 1;
        }
        self.hint = to.region();
        ring.received(n);
        if let Some(why) = failed {
            return Err(why);
        }
        ring.prepare()?;
        Ok(n)
    }

    /// Writes one frame into a hardware ring, and what is said of it.
    pub(super) fn put_noted(
        &mut self,
        head: &[u8],
        rest: Rest<'_>,
        len: usize,
        edit: TagEdit,
        note: RxNote,
    ) -> Result<RxOutcome, RingError> {
        let delta = isize::from(edit.delta(head));
        let total = (self.header_len + len).saturating_add_signed(delta);
        let note = self.with_sum(note, head, &rest, len);
        // What it does not take has been done before.
        self.put_over_chains(Offload::default(), head, rest, total, edit, note)
    }
}

impl RxQueue {
    /// The same note, and whether the checksum of what the frame of `len` bytes carries is right, if the ring's driver is told that and nobody vouches.
    fn with_sum(&mut self, note: RxNote, head: &[u8], rest: &Rest<'_>, len: usize) -> RxNote {
        let Some(ring) = self.vring.ring.hardware() else {
            return note;
        };
        if note.checked() || !ring.format().checks_sums() {
            return note;
        }
        let Some(mut sum) = TransportSum::of(head, len) else {
            return note;
        };
        match rest {
            Rest::Private(bytes) => sum.add(bytes),
            Rest::Guest(tx, frame) => frame.sum_up_received(&mut tx.window(), &mut sum),
        }
        sum.is_right().map_or(note, |is| note.with_transport(is))
    }
}

/// What is said of a frame that a hardware ring gets, and how it is changed for that.
pub(super) fn note(
    format: &mut dyn DescriptorFormat,
    head: &[u8],
    edit: TagEdit,
    checked: bool,
) -> (TagEdit, RxNote) {
    let (edit, vlan) = match format.strips_tags() {
        true => rx_note::strip(edit, head),
        false => (edit, None),
    };
    let hash = format.hashes().then(|| format.hash(head)).flatten();
    let note = RxNote::of(head, checked, vlan).with_hash(hash);
    let note = match format.checks_sums() {
        true => note.with_headers(head, edit),
        false => note,
    };
    (edit, note)
}
