//! Copies of a few bytes between guest memory and ours, and announcements of what is going to be copied.
//!
//! The first bytes of every frame are copied twice. For the lengths of most frames that is a handful of instructions here,
//! where it was a call of a function for any length, or a detour over the stack for each word (`cargo bench -p vfnic`).
//! Never makes a reference to guest memory.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the length that is copied"
)]

use std::sync::atomic::{Ordering, compiler_fence};

use vm_memory::VolatileSlice;

use crate::limits::HEAD_MAX;

/// Bytes that come from memory, or from another core, at a time.
pub(crate) const CACHE_LINE: usize = 64;

/// Copies guest memory, as much as fits, to the beginning of `to`. A byte in the middle may be read twice while it is copied;
/// afterwards there is only the copy, and nothing is read again.
#[inline]
pub(crate) fn read(from: &VolatileSlice<'_, ()>, to: &mut [u8; HEAD_MAX]) {
    let n = from.len().min(HEAD_MAX);
    // SAFETY: the slice's memory is mapped for its length while it lives, `to` has `HEAD_MAX` bytes, and guest memory
    // and ours do not overlap. Who else writes to guest memory meanwhile can change what is copied and nothing else.
    unsafe { copy(from.ptr_guard().as_ptr(), to.as_mut_ptr(), n) };
    // What is decided on is the copy: nothing may be read again where it came from.
    compiler_fence(Ordering::SeqCst);
}

/// Copies the first `n` bytes of `from` to the beginning of guest memory; as much as there is and as fits.
#[inline]
pub(crate) fn write(from: &[u8; HEAD_MAX], n: usize, to: &VolatileSlice<'_, ()>) {
    let n = n.min(HEAD_MAX).min(to.len());
    // SAFETY: as in `read`, with the sides changed.
    unsafe { copy(from.as_ptr(), to.ptr_guard_mut().as_ptr(), n) };
}

/// Copies `from` to the beginning of guest memory; as much as fits.
#[inline]
pub(crate) fn write_slice(from: &[u8], to: &VolatileSlice<'_, ()>) {
    let n = from.len().min(to.len());
    if n > HEAD_MAX {
        to.copy_from(from);
        return;
    }
    // SAFETY: as in `write`; `from` has `n` bytes.
    unsafe { copy(from.as_ptr(), to.ptr_guard_mut().as_ptr(), n) };
}

/// Copies up to 128 bytes in two pieces of the same length, which overlap.
///
/// # Safety
/// `from` is readable and `to` writable for `n` bytes, and they do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, n: usize) {
    debug_assert!(n <= 128);
    // SAFETY: `n` is at least the length of a piece, so both pieces are inside; with less than 8 bytes it is the caller's
    // promise as it stands.
    unsafe {
        match n {
            64 => piece::<64>(from, to, 0),
            65.. => {
                piece::<64>(from, to, 0);
                piece::<64>(from, to, n - 64);
            }
            32.. => {
                piece::<32>(from, to, 0);
                piece::<32>(from, to, n - 32);
            }
            16.. => {
                piece::<16>(from, to, 0);
                piece::<16>(from, to, n - 16);
            }
            8.. => {
                piece::<8>(from, to, 0);
                piece::<8>(from, to, n - 8);
            }
            _ => from.copy_to_nonoverlapping(to, n),
        }
    }
}

/// # Safety
/// As [`copy`], for the `N` bytes at `at`.
#[inline(always)]
unsafe fn piece<const N: usize>(from: *const u8, to: *mut u8, at: usize) {
    // SAFETY: the caller's; an array of bytes has no alignment.
    unsafe {
        let from = from.add(at).cast::<[u8; N]>();
        from.copy_to_nonoverlapping(to.add(at).cast::<[u8; N]>(), 1);
    }
}

/// Says that the first `bytes` of guest memory are going to be read, or as many as there are: those of a burst's buffers then come
/// from the other CPU at the same time and not one after the other.
#[inline]
pub(crate) fn will_read(from: &VolatileSlice<'_, ()>, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let bytes = bytes.min(from.len());
        let mut at = 0;
        while at < bytes {
            let line = from.ptr_guard().as_ptr().wrapping_add(at);
            // SAFETY: a prefetch reads nothing and faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
            at += CACHE_LINE;
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (from, bytes);
}

/// Says that the cache line `at` bytes behind the first of guest memory is going to be written, if it is there.
#[inline]
pub(crate) fn will_write(to: &VolatileSlice<'_, ()>, at: usize) {
    #[cfg(target_arch = "x86_64")]
    if at < to.len() {
        let line = to.ptr_guard_mut().as_ptr().wrapping_add(at);
        // SAFETY: a prefetch writes nothing and faults nowhere; processors without this one take it for no operation.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) line, options(nostack, preserves_flags));
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (to, at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn copies_what_there_is_and_no_more(n in 0usize..200, room in 0usize..200) {
            let bytes: Vec<u8> = (1..=200).collect();
            let mut memory = bytes.clone();
            let mut to = [0; HEAD_MAX];
            read(&VolatileSlice::from(&mut memory[..n]), &mut to);
            let copied = n.min(HEAD_MAX);
            prop_assert_eq!(&to[..copied], &bytes[..copied]);
            prop_assert!(to[copied..].iter().all(|byte| *byte == 0));
            let mut memory = [0; 200];
            let from = *bytes.first_chunk().unwrap();
            write(&from, n, &VolatileSlice::from(&mut memory[..room]));
            let copied = copied.min(room);
            prop_assert_eq!(&memory[..copied], &bytes[..copied]);
            prop_assert!(memory[copied..].iter().all(|byte| *byte == 0));
            let mut memory = [0; 200];
            write_slice(&bytes[..n], &VolatileSlice::from(&mut memory[..room]));
            let copied = n.min(room);
            prop_assert_eq!(&memory[..copied], &bytes[..copied]);
            prop_assert!(memory[copied..].iter().all(|byte| *byte == 0));
        }
    }
}
