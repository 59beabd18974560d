//! The transmit ring of a hardware NIC: what is asked for a frame is in its descriptors, and not in front of it. Never decides where a
//! frame goes.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

use crc::{CRC_32_ISCSI, Crc};
use vf_packet::checksum::PieceSum;
use vf_packet::{Offload, PartialChecksum};

use super::{BURST, TxFrame, TxQueue};
use crate::chain::Segment;
use crate::device_queue::DeviceQueue;
use crate::error::{FrameFault, RingError};
use crate::frame::TAG_AT;
use crate::hardware::rx_note::TransportSum;
use crate::hardware::{Left, SumUp, TxRequest};
use crate::limits::{HEAD_MAX, MIN_FRAME};
use crate::memory::{GuestMemory, GuestSlice, Window};

static CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Where the checksum is in an SCTP header.
const SCTP_CHECKSUM: usize = 8;

impl TxQueue {
    /// Takes chains off a hardware ring, until `enough` descriptors have been walked.
    pub(super) fn fetch_requested(&mut self, enough: u64) -> Result<(), RingError> {
        let Some(ring) = self.vring.ring.hardware() else {
            return Ok(());
        };
        loop {
            // Those that are one buffer and ask for nothing, up to the first that is not.
            let (memory, chains, more) = ring.upcoming_requests()?;
            if chains.is_empty() {
                return Ok(());
            }
            let mut window = memory.window(self.hint);
            let mut n = 0;
            let frames = self.frames[self.end..].iter_mut();
            for ((frame, chain), more) in frames.zip(chains).zip(more) {
                let plain = chain.plain(false, MIN_FRAME as usize);
                let Some((piece, token)) = plain.filter(|_| !more) else {
                    break;
                };
                let Some(buffer) = window.slice(piece.gpa, piece.len as usize) else {
                    break;
                };
                frame.chain = token;
                frame.fill_as_it_is(&buffer, piece.gpa)?;
                n += 1;
            }
            self.hint = window.region();
            self.end += n;
            ring.advance(n);
            // What has come since the ring was looked at can wait: to look is to wait for a cache line.
            if self.end == BURST || self.end > 0 && !ring.has_seen() {
                return ring.prepare();
            }
            let Some(chain) = ring.take()? else {
                return Ok(());
            };
            self.pieces.clear();
            let total = ring.walk(chain, false, &mut self.pieces)?;
            if let Some(frame) = self.frames.get_mut(self.end) {
                frame.chain = chain.token;
                frame.fill_requested(ring.memory(), &self.pieces, total, &ring.request())?;
                self.end += 1;
            }
            if ring.walked() >= enough {
                return ring.prepare();
            }
        }
    }
}

impl TxFrame {
    /// Takes over the buffer of a frame for which nothing is asked.
    #[inline]
    fn fill_as_it_is(&mut self, buffer: &GuestSlice<'_>, gpa: u64) -> Result<(), RingError> {
        if !self.measure(buffer.len() as u64) {
            return Ok(());
        }
        let n = usize::from(self.head_len);
        self.rest_gpa = gpa + n as u64;
        self.rest_len = (buffer.len() - n) as u32;
        self.more.clear();
        let head = buffer.subslice(0, n).ok_or(RingError::BufferOutside)?;
        head.copy_to_head(&mut self.head);
        self.offload = Offload::default();
        Ok(())
    }

    /// Takes over the pieces of a frame without a header, `total` bytes in all: what is asked for it, descriptors have said.
    fn fill_requested(
        &mut self,
        memory: &GuestMemory,
        pieces: &[Segment],
        total: u64,
        request: &TxRequest,
    ) -> Result<(), RingError> {
        let tag = request.tag();
        let tag_len = tag.map_or(0, |tag| tag.len());
        // A tag makes no frame of what is too short for one.
        if !self.measure(total) || !self.measure(total + tag_len as u64) {
            return Ok(());
        }
        let mut head = [0; HEAD_MAX];
        let n = usize::from(self.head_len) - tag_len;
        self.take_pieces(memory, pieces, &mut head[..n])?;
        self.head = head;
        self.offload = Offload::default();
        if let Some(tag) = tag {
            self.head.copy_within(TAG_AT..n, TAG_AT + tag.len());
            self.head[TAG_AT..TAG_AT + tag.len()].copy_from_slice(&tag);
        }
        if request.is_none() {
            return Ok(());
        }
        let head_len = usize::from(self.head_len);
        match request.apply(&mut self.head[..head_len], self.len) {
            Ok(Left { offload, sum_up }) => {
                self.offload = offload;
                match sum_up {
                    None => Ok(()),
                    Some(SumUp::Sctp(start)) => self.sum_up_sctp(start, memory),
                    Some(SumUp::Packet(checksum, end)) => self.sum_up(checksum, end, memory),
                }
            }
            Err(FrameFault::HeadersTooLong) => self.apply_long(request, memory),
            Err(fault) => {
                self.fault = Some(fault);
                Ok(())
            }
        }
    }

    /// Puts the CRC32c of the SCTP packet that begins there into its header. It is of what the driver's memory holds now, as a NIC reads it.
    #[cold]
    fn sum_up_sctp(&mut self, start: usize, memory: &GuestMemory) -> Result<(), RingError> {
        let head_len = usize::from(self.head_len);
        let field = start + SCTP_CHECKSUM..start + SCTP_CHECKSUM + 4;
        if field.end > head_len {
            self.fault = Some(FrameFault::ChecksumOutside);
            return Ok(());
        }
        self.head[field.clone()].fill(0);
        let mut digest = CRC32C.digest();
        digest.update(&self.head[start..head_len]);
        let all = self.len as usize;
        let copied = &mut memory.window(0);
        self.for_copies(all, copied, |part| digest.update(part))?;
        self.head[field].copy_from_slice(&digest.finalize().to_le_bytes());
        Ok(())
    }

    /// Puts the checksum of a packet that ends there into its header, where the sum of its pseudo-header is. It is of what the driver's memory
    /// holds now.
    #[cold]
    fn sum_up(
        &mut self,
        checksum: PartialChecksum,
        end: usize,
        memory: &GuestMemory,
    ) -> Result<(), RingError> {
        let start = usize::from(checksum.start);
        let field = start + usize::from(checksum.offset);
        let in_head = end.min(usize::from(self.head_len));
        if field + 2 > in_head {
            self.fault = Some(FrameFault::ChecksumOutside);
            return Ok(());
        }
        let mut sum = PieceSum::default();
        sum.add(&self.head[start..in_head]);
        self.for_copies(end, &mut memory.window(0), |part| sum.add(part))?;
        self.head[field..field + 2].copy_from_slice(&sum.checksum().to_be_bytes());
        Ok(())
    }

    /// Adds what is in guest memory only to a sum that was begun with the head. One that cannot be read stays without its end.
    pub(crate) fn sum_up_received(&self, memory: &mut Window<'_>, sum: &mut TransportSum) {
        if sum.goes_on() {
            let _ = self.for_copies(self.len as usize, memory, |part| sum.add(part));
        }
    }

    /// Calls `f` with copies of what is in guest memory only of the frame's first `end` bytes, one behind the other.
    fn for_copies(
        &self,
        end: usize,
        memory: &mut Window<'_>,
        mut f: impl FnMut(&[u8]),
    ) -> Result<(), RingError> {
        let mut left = end.saturating_sub(usize::from(self.head_len));
        let mut copy = [0; 2048];
        self.for_rest(memory, |piece| {
            let mut at = 0;
            while at < piece.len() && left > 0 {
                let n = (piece.len() - at).min(copy.len()).min(left);
                let part = piece.subslice(at, n).ok_or(RingError::BufferOutside)?;
                part.copy_to(&mut copy[..n]);
                f(&copy[..n]);
                at += n;
                left -= n;
            }
            Ok(())
        })
    }

    /// Does what is asked for a super-frame whose headers go on behind its head, on a private copy of all of them.
    #[cold]
    fn apply_long(&mut self, request: &TxRequest, memory: &GuestMemory) -> Result<(), RingError> {
        let (mut headers, filled) = self.copy_headers(memory)?;
        match request.apply(&mut headers[..filled], self.len) {
            Ok(Left { offload, .. }) => {
                self.head.copy_from_slice(&headers[..HEAD_MAX]);
                self.keep_headers(&headers, offload);
            }
            Err(fault) => self.fault = Some(fault),
        }
        Ok(())
    }
}
