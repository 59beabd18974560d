//! The plainest format that there can be, for tests: an address, a length and flags, as Intel's legacy descriptors are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::coalescing::Coalescing;
use crate::interrupt_timer::InterruptTimer;

/// The frame ends with this descriptor.
pub(crate) const END: u32 = 1;
/// The device is done with it.
pub(crate) const DONE: u32 = 2;
/// No buffer but a tag for all frames behind it, its first word: 0 for none.
pub(crate) const TAG: u32 = 4;
/// Its frame is to be cut; the size of a segment is in the upper half of the flags.
pub(crate) const CUT: u32 = 8;
/// Its driver does not want to be told of it.
pub(crate) const UNREPORTED: u32 = 16;

/// What goes into the memory of a descriptor.
pub(crate) fn descriptor(gpa: u64, len: u32, flags: u32) -> [u8; 16] {
    let rest = u64::from(len) | u64::from(flags) << 32;
    let mut bytes = [0; 16];
    bytes.copy_from_slice([gpa.to_le_bytes(), rest.to_le_bytes()].as_flattened());
    bytes
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PlainFormat {
    pub(crate) interrupts: Arc<AtomicBool>,
    pub(crate) prefix: usize,
    pub(crate) strips: bool,
    /// What was said of frames.
    pub(crate) notes: Arc<std::sync::Mutex<Vec<Completion>>>,
}

impl DescriptorFormat for PlainFormat {
    fn descriptor_size(&self) -> usize {
        16
    }

    fn decode(&self, gpa: u64, rest: u64, state: &mut TxState) -> Decoded {
        let flags = (rest >> 32) as u32;
        if flags & TAG != 0 {
            state[0] = gpa;
            return Decoded::Context;
        }
        Decoded::Buffer {
            gpa,
            len: rest as u32,
            last: flags & END != 0,
            report: flags & UNREPORTED == 0,
            asks: state[0] as u16 > 0 || flags & CUT != 0,
        }
    }

    fn request(&self, [_, rest]: [u64; 2], state: &mut TxState) -> TxRequest {
        let flags = (rest >> 32) as u32;
        TxRequest {
            vlan: Some(state[0] as u16).filter(|&vlan| vlan > 0),
            segment: (flags & CUT != 0).then_some((flags >> 16) as u16),
            ..TxRequest::default()
        }
    }

    fn rx_prefix_len(&self) -> usize {
        self.prefix
    }

    fn rx_prefix(&self, len: u32, _: RxNote) -> [u8; RX_PREFIX_MAX] {
        let mut prefix = [0xee; RX_PREFIX_MAX];
        prefix[..4].copy_from_slice(&len.to_le_bytes());
        prefix
    }

    fn strips_tags(&self) -> bool {
        self.strips
    }

    fn complete(
        &mut self,
        table: &DescriptorTable<'_>,
        done: &[Completion],
    ) -> Result<(), RingError> {
        for chain in done {
            let last = table.after(chain.first, chain.descriptors - 1);
            let end = if chain.last { END } else { 0 };
            let word = u64::from(chain.len) | u64::from(end | DONE) << 32;
            table.store(last, 8, word.to_le(), Ordering::Release)?;
        }
        self.notes.lock().unwrap().extend(done);
        Ok(())
    }

    fn raise(&mut self) -> bool {
        self.interrupts.load(Ordering::Relaxed)
    }

    fn coalescing(&self) -> Coalescing {
        Coalescing::default()
    }

    fn timer(&self) -> Option<&InterruptTimer> {
        None
    }
}
