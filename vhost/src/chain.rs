//! What the formats of a queue share: where the parts of a ring are, and chains of descriptors as they are read, walked and returned. Never
//! looks at what is in the buffers.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring as vr;

use crate::error::RingError;
use crate::memory::{GuestMemory, GuestSlice, Pinned, Window};
use crate::raw::copy::CACHE_LINE;

/// One piece of a buffer: guest-physical bytes that were inside one region when the chain was walked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) gpa: u64,
    pub(crate) len: u32,
}

/// Proof that what was published before it is out before anything is read after it: a driver writes whether it wants to be
/// told and then reads what was published, the device does the opposite, and one of the two must see the other (virtio
/// 2.7.7.1). One is enough for all rings, if it is newer than what was published.
#[derive(Debug)]
pub struct Fence(());

impl Fence {
    /// Waits until what was published is out.
    #[inline]
    #[must_use]
    pub fn after_publishing() -> Fence {
        fence(Ordering::SeqCst);
        Fence(())
    }
}

/// Most descriptors in a chain, as many as QEMU allows.
pub(crate) const CHAIN_MAX: u16 = 1024;

/// Available chains read at a time.
pub(crate) const AHEAD: usize = 32;

pub(crate) const DESC_SIZE: u64 = 16;
pub(crate) const NEXT: u16 = vr::VRING_DESC_F_NEXT as u16;
pub(crate) const WRITE: u16 = vr::VRING_DESC_F_WRITE as u16;
pub(crate) const INDIRECT: u16 = vr::VRING_DESC_F_INDIRECT as u16;

/// Where the flags of a descriptor are in its second word, and the next entry.
const FLAGS: u32 = 32;
const NEXT_ENTRY: u32 = 48;

/// What a chain is returned by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Token {
    /// The first descriptor; in a packed ring the buffer identifier.
    pub(crate) id: u16,
    /// Descriptors in the ring, which matters in a packed one.
    pub(crate) descs: u16,
}

/// A chain that goes back and the bytes written to it, as one word: a core that has put a whole together of parts cannot read it
/// before all that it wrote earlier has reached memory, the payload of frames among it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UsedElem(u64);

impl UsedElem {
    #[inline]
    pub(crate) fn new(chain: Token, len: u32) -> UsedElem {
        UsedElem(u64::from(chain.id) | u64::from(chain.descs) << 16 | u64::from(len) << 32)
    }

    #[inline]
    pub(crate) fn id(self) -> u16 {
        self.0 as u16
    }

    #[inline]
    pub(crate) fn descs(self) -> u16 {
        (self.0 >> 16) as u16
    }

    #[inline]
    pub(crate) fn len(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// An available chain with its first descriptor, which is not read again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) token: Token,
    pub(crate) first: Descriptor,
    /// Whether the first descriptor's buffer is inside one region.
    inside: bool,
}

/// One entry of a descriptor table (virtio 2.7.5, 2.8.13), in two words as it is read: taken apart by who asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) gpa: u64,
    /// Length, flags and the next entry; in a packed ring that is the buffer identifier.
    rest: u64,
}

impl Descriptor {
    #[inline]
    pub(crate) fn new(gpa: u64, len: u32, flags: u16) -> Descriptor {
        let rest = u64::from(len) | u64::from(flags) << FLAGS;
        Descriptor { gpa, rest }
    }

    /// The entry at `offset` of a split ring's table, each of its two words read once.
    #[inline]
    pub(crate) fn read(table: &GuestSlice<'_>, offset: usize) -> Option<Descriptor> {
        let gpa = u64::from_le(table.read::<u64>(offset)?);
        let rest = u64::from_le(table.read::<u64>(offset + 8)?);
        Some(Descriptor { gpa, rest })
    }

    /// The same of a packed ring, whose last two fields are the other way around.
    #[inline]
    pub(crate) fn read_packed(table: &GuestSlice<'_>, offset: usize) -> Option<Descriptor> {
        let Descriptor { gpa, rest } = Descriptor::read(table, offset)?;
        Some(Descriptor::from_packed(gpa, rest))
    }

    /// The same of an entry that may be about to become available: with the flags that it is read with, everything is visible that the
    /// driver wrote before them. `None` also where it is not aligned.
    #[inline]
    pub(crate) fn load_packed(table: &GuestSlice<'_>, offset: usize) -> Option<Descriptor> {
        let rest = u64::from_le(table.load::<u64>(offset + 8, Ordering::Acquire)?);
        let gpa = u64::from_le(table.read::<u64>(offset)?);
        Some(Descriptor::from_packed(gpa, rest))
    }

    #[inline]
    fn from_packed(gpa: u64, rest: u64) -> Descriptor {
        let (len, last) = (rest & u64::from(u32::MAX), (rest >> FLAGS) as u32);
        let rest = len | u64::from(last.rotate_left(16)) << FLAGS;
        Descriptor { gpa, rest }
    }

    #[inline]
    pub(crate) fn len(self) -> u32 {
        self.rest as u32
    }

    #[inline]
    pub(crate) fn flags(self) -> u16 {
        (self.rest >> FLAGS) as u16
    }

    #[inline]
    pub(crate) fn next(self) -> u16 {
        (self.rest >> NEXT_ENTRY) as u16
    }

    /// The same that goes on with another one.
    #[inline]
    pub(crate) fn and_next(self) -> Descriptor {
        let rest = self.rest | u64::from(NEXT) << FLAGS;
        Descriptor { rest, ..self }
    }
}

impl Chain {
    pub(crate) fn new(token: Token, first: Descriptor) -> Chain {
        Chain {
            token,
            first,
            inside: false,
        }
    }

    /// The chain's buffer and token, if it is a single piece of the wanted kind and length inside one region: what most
    /// chains are. Returned in parts, since a core waits for a whole that it has just put together.
    #[inline]
    pub(crate) fn plain(&self, writable: bool, least: usize) -> Option<(Segment, Token)> {
        let (gpa, len, flags) = (self.first.gpa, self.first.len(), self.first.flags());
        let kind = if writable { WRITE } else { 0 };
        let plain = self.inside
            && flags & (NEXT | INDIRECT | WRITE) == kind
            && len > 0
            && len as usize >= least;
        plain.then_some((Segment { gpa, len }, self.token))
    }
}

/// What is going to be done with the buffers of a ring, so that their first bytes can be asked for early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Prefetch {
    #[default]
    Nothing,
    /// The first so many bytes are read.
    Read(usize),
    /// They are written, a virtio-net header of so many bytes and more.
    Write(usize),
}

/// Finds the first buffers of chains that were just read, and asks for their first bytes: what a burst waits for then
/// comes at the same time, where the waits of one frame after the other would add up.
#[inline]
pub(crate) fn look_ahead(window: &mut Window<'_>, chains: &mut [Chain], ahead: Prefetch) {
    for chain in chains {
        let Some(buffer) = window.slice(chain.first.gpa, chain.first.len() as usize) else {
            continue;
        };
        chain.inside = true;
        match ahead {
            Prefetch::Nothing => {}
            Prefetch::Read(bytes) => buffer.will_read(bytes),
            Prefetch::Write(header) => {
                if chain.first.gpa as usize % CACHE_LINE + header < CACHE_LINE {
                    buffer.will_write(0);
                } else {
                    // Nothing but header, which is often there already.
                    buffer.will_read(1);
                }
                buffer.will_write(CACHE_LINE);
            }
        }
    }
}

/// Asks for the first bytes of a buffer that is likely to come next, to be read.
#[inline]
pub(crate) fn expect(window: &mut Window<'_>, buffer: Segment, ahead: Prefetch) {
    if let Prefetch::Read(bytes) = ahead
        && let Some(buffer) = window.slice(buffer.gpa, buffer.len as usize)
    {
        buffer.will_read(bytes);
    }
}

/// A place to go back to: nothing taken or returned since has been seen by the driver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    /// Chains taken and returned by then.
    pub(crate) taken: u16,
    pub(crate) returned: u16,
    /// Where that was in a packed ring.
    pub(crate) next: u32,
    pub(crate) done: u32,
    pub(crate) pending: usize,
}

/// Collects the buffers of one chain: those of one direction, checked.
pub(crate) struct Gather<'a> {
    mem: &'a GuestMemory,
    /// The region a buffer was last found in.
    hint: &'a mut usize,
    /// Counts the descriptors of the chain.
    walked: &'a mut u64,
    writable: bool,
    out: &'a mut Vec<Segment>,
    /// How many descriptors the chain may still have.
    left: u16,
    seen_writable: bool,
    /// Bytes collected.
    pub(crate) total: u64,
}

impl<'a> Gather<'a> {
    /// Appends the device-writable (or else the device-readable) pieces of a chain to `out`.
    ///
    /// At most as many descriptors as the ring has are looked at, whatever the chain claims, and never more than
    /// [`CHAIN_MAX`]: the time for one chain is bounded.
    #[inline]
    pub(crate) fn new(
        mem: &'a GuestMemory,
        hint: &'a mut usize,
        walked: &'a mut u64,
        ring_size: u16,
        writable: bool,
        out: &'a mut Vec<Segment>,
    ) -> Gather<'a> {
        Gather {
            mem,
            hint,
            walked,
            writable,
            out,
            left: ring_size.min(CHAIN_MAX),
            seen_writable: false,
            total: 0,
        }
    }

    /// The next buffer of the chain.
    #[inline]
    pub(crate) fn push(&mut self, desc: Descriptor) -> Result<(), RingError> {
        let (gpa, len, flags) = (desc.gpa, desc.len(), desc.flags());
        self.left = self.left.checked_sub(1).ok_or(RingError::ChainTooLong)?;
        *self.walked += 1;
        let is_writable = flags & WRITE != 0;
        if self.seen_writable && !is_writable {
            return Err(RingError::ReadableAfterWritable);
        }
        self.seen_writable = is_writable;
        if is_writable == self.writable && len > 0 {
            if self.mem.slice_hint(gpa, len as usize, self.hint).is_some() {
                self.out.push(Segment { gpa, len });
            } else {
                self.push_spanning(gpa, len)?;
            }
            self.total += u64::from(len);
        }
        Ok(())
    }

    /// Appends a buffer that is not inside one region: region by region, if they adjoin.
    #[cold]
    fn push_spanning(&mut self, mut gpa: u64, mut len: u32) -> Result<(), RingError> {
        while len > 0 {
            let here = self.mem.bytes_from(gpa).ok_or(RingError::BufferOutside)?;
            let n = here.min(u64::from(len)) as u32;
            self.out.push(Segment { gpa, len: n });
            gpa = gpa.wrapping_add(u64::from(n));
            len -= n;
        }
        Ok(())
    }

    /// How many entries the table has that an indirect descriptor refers to. `hint` becomes the region it is in.
    pub(crate) fn table(&self, desc: Descriptor, hint: &mut usize) -> Result<u32, RingError> {
        *hint = *self.hint;
        let inside = self
            .mem
            .slice_hint(desc.gpa, desc.len() as usize, hint)
            .is_some();
        if desc.len() == 0 || !u64::from(desc.len()).is_multiple_of(DESC_SIZE) || !inside {
            return Err(RingError::BadIndirectTable);
        }
        Ok(desc.len() / DESC_SIZE as u32)
    }
}

/// `Err` if some of the memory has vanished: then nothing more is taken from it. Before each burst, for a ring may hold
/// thousands of chains that were seen at once.
#[inline]
pub(crate) fn check_memory(mem: &GuestMemory) -> Result<(), RingError> {
    if mem.faulted() {
        return Err(RingError::MemoryFault);
    }
    Ok(())
}

/// One of the three parts of a ring.
pub(crate) fn part(mem: &GuestMemory, gpa: u64, len: usize) -> Result<Pinned, RingError> {
    mem.pin(gpa, len).ok_or(RingError::RingOutside)
}

/// Guest addresses of a ring's three parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RingAddresses {
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

impl RingAddresses {
    /// Bytes of descriptors, driver area and device area, and what their addresses are multiples of.
    pub(crate) fn layout(packed: bool, size: u16) -> [(u64, u64); 3] {
        let size = u64::from(size);
        if packed {
            [(16 * size, 16), (4, 4), (4, 4)]
        } else {
            [(16 * size, 16), (6 + 2 * size, 2), (6 + 8 * size, 4)]
        }
    }

    /// Whether all three are where their format allows.
    pub(crate) fn aligned(&self, packed: bool) -> bool {
        let layout = RingAddresses::layout(packed, 0);
        let addresses = [self.desc, self.avail, self.used];
        let mut each = addresses.iter().zip(layout);
        each.all(|(address, (_, align))| address.is_multiple_of(align))
    }
}
