//! What differs by family of hardware NIC: how a descriptor looks, and how a driver is told of completions. Has the format of no family
//! itself.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]

use std::fmt::Debug;
use std::sync::atomic::Ordering;

use vm_memory::AtomicAccess;

use super::{RxHash, RxNote, TxRequest, after};
use crate::coalescing::Coalescing;
use crate::error::RingError;
use crate::interrupt_timer::InterruptTimer;
use crate::memory::{GuestMemory, GuestSliceMut, Pinned};

/// What descriptors have left for those behind them, in words of the format's own; zero in a new ring.
pub type TxState = [u64; 4];

/// Of a descriptor that was [decoded](DescriptorFormat::decode_plain): its driver wants to be told that it is done.
pub const PLAIN_REPORT: u64 = 1 << 32;

/// The longest prefix that a NIC writes in front of a received frame.
pub const RX_PREFIX_MAX: usize = 16;

/// How the descriptors of a family look, and how its drivers are told of completions. An object belongs to one ring.
pub trait DescriptorFormat: Debug + Send {
    /// Bytes of a descriptor: 8 or 16.
    fn descriptor_size(&self) -> usize;

    /// What a descriptor says, its second word 0 if it has only 8 bytes. In two words: a core would wait for an array that was just put
    /// together. Only what it leaves for those behind it goes to `state`,
    /// which a ring takes back when it goes back. Of a receive ring, each descriptor is the [last](Decoded::Buffer).
    fn decode(&self, first: u64, second: u64, state: &mut TxState) -> Decoded;

    /// [Decodes](Self::decode) descriptors as long as each is a frame in one buffer, asks for nothing and leaves nothing to those behind it:
    /// puts the address in place of the first word, and length and [`PLAIN_REPORT`] in place of the second. How many those are.
    fn decode_plain(&self, descriptors: &mut [[u64; 2]], state: &TxState) -> usize {
        let mut n = 0;
        for words in descriptors {
            let mut then = *state;
            let Decoded::Buffer {
                gpa,
                len,
                last: true,
                report,
                asks: false,
            } = self.decode(words[0], words[1], &mut then)
            else {
                break;
            };
            if then != *state {
                break;
            }
            let report = if report { PLAIN_REPORT } else { 0 };
            *words = [gpa, u64::from(len) | report];
            n += 1;
        }
        n
    }

    /// What is asked for the frame that begins with this buffer of a transmit ring, if it [asks](Decoded::Buffer) for anything.
    fn request(&self, raw: [u64; 2], state: &mut TxState) -> TxRequest;

    /// Bytes that are written in front of each received frame, at most [`RX_PREFIX_MAX`]; none unless a format says so.
    fn rx_prefix_len(&self) -> usize {
        0
    }

    /// Those bytes for a frame of `len` bytes.
    fn rx_prefix(&self, _len: u32, _note: RxNote) -> [u8; RX_PREFIX_MAX] {
        [0; RX_PREFIX_MAX]
    }

    /// Whether the 802.1Q tag of a received frame is taken out and told in its [`RxNote`].
    fn strips_tags(&self) -> bool {
        false
    }

    /// Whether it is told of a received frame how many tags it has, and which of its checksums are wrong for which nobody vouches: of an IPv4 header, and
    /// of TCP or UDP behind it.
    fn checks_sums(&self) -> bool {
        false
    }

    /// Whether the hash of its flow is told of the next received frames.
    fn hashes(&mut self) -> bool {
        false
    }

    /// That hash of a frame that begins with these bytes; none of a frame that is not IP. Asked only if it [is told](Self::hashes).
    fn hash(&self, _head: &[u8]) -> Option<RxHash> {
        None
    }

    /// Tells the driver what is done, in order, but for the interrupt. The buffers have been written.
    ///
    /// # Errors
    /// Where it is to be written is no memory.
    fn complete(
        &mut self,
        table: &DescriptorTable<'_>,
        done: &[Completion],
    ) -> Result<(), RingError>;

    /// Interrupts the driver for what was [completed](Self::complete), unless it does not want that now; whether it did.
    fn raise(&mut self) -> bool;

    /// How long interrupts are held back, as the driver has it now.
    fn coalescing(&self) -> Coalescing;

    /// What measures that: it is of the vector, and [`raise`](Self::raise) starts it. None if the ring interrupts nobody.
    fn timer(&self) -> Option<&InterruptTimer>;
}

/// One descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// A buffer.
    Buffer {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes; 0: the descriptor stands for nothing, and is completed all the same.
        len: u32,
        /// Whether the frame ends with it.
        last: bool,
        /// Whether its driver wants to be told that it is done: of a frame, what its last descriptor says.
        report: bool,
        /// Whether something is [asked](DescriptorFormat::request) for a frame that begins with it.
        asks: bool,
    },
    /// Something about the frames behind it.
    Context,
}

/// A chain of descriptors that the device is done with, and of which its driver wants to be [told](Decoded::Buffer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Its first descriptor.
    pub first: u16,
    /// How many there are, those without a buffer among them.
    pub descriptors: u16,
    /// Bytes written, the prefix among them; 0 on a transmit ring.
    pub len: u32,
    /// Whether a received frame ends here.
    pub last: bool,
    /// What is to be said of the received frame; the same of all its descriptors.
    pub note: RxNote,
}

/// Where the descriptors are, for a format that completes them there.
#[derive(Debug)]
pub struct DescriptorTable<'a> {
    pub(super) mem: &'a GuestMemory,
    pub(super) parts: &'a [Pinned],
    pub(super) first: GuestSliceMut<'a>,
    pub(super) size: u16,
    pub(super) entry: usize,
}

impl DescriptorTable<'_> {
    /// Writes a number into descriptor `index` at `offset` of it, in one atomic access.
    ///
    /// # Errors
    /// There is no such place, or it is not aligned.
    #[inline(always)]
    pub fn store<T: AtomicAccess>(
        &self,
        index: u16,
        offset: usize,
        value: T,
        order: Ordering,
    ) -> Result<(), RingError> {
        let index = usize::from(index);
        // Most rings are in one piece, and nothing is divided there.
        let stored = if let [_] = self.parts {
            self.first.store(index * self.entry + offset, value, order)
        } else {
            let per_part = usize::from(self.size) / self.parts.len();
            let part = self.parts.get(index / per_part);
            let part = part.ok_or(RingError::RingOutside)?;
            let place = index % per_part * self.entry + offset;
            part.slice_mut(self.mem)?.store(place, value, order)
        };
        stored.ok_or(RingError::RingOutside)
    }

    /// The descriptor `n` behind `index`.
    #[must_use]
    pub fn after(&self, index: u16, n: u16) -> u16 {
        after(self.size, index, n)
    }
}
