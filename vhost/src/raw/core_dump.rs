//! What a core dump does not have: one file would have the memory of all guests.
//!
//! The advice of `madvise(2)` cannot be given without `unsafe`. Never changes what is in memory.

use std::ptr;

/// Leaves `[start, start + len)`, a mapping of a guest's memory, out of core dumps. Where the kernel does not know how, it is in
/// them.
pub(crate) fn exclude(start: usize, len: usize) {
    // SAFETY: `MADV_DONTDUMP` marks mappings and touches no memory, whatever is mapped there.
    unsafe { libc::madvise(ptr::without_provenance_mut(start), len, libc::MADV_DONTDUMP) };
}
