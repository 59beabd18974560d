//! Guest memory as it is read ([`GuestSlice`]) and as it is written ([`GuestSliceMut`]): checked addresses of one region.
//!
//! Two types, so that no write can miss the dirty log: what is read offers no write, and every write that the device makes goes
//! through [`GuestSliceMut`], which marks the pages that it has written. Never makes a Rust reference to guest memory,
//! and never finds an address: [`GuestMemory`](super::GuestMemory) does.

use std::ops::Range;
use std::sync::atomic::Ordering;

use vm_memory::{AtomicAccess, ByteValued, Bytes, VolatileMemory, VolatileSlice};

use super::DirtyLog;
use crate::limits::HEAD_MAX;
use crate::raw::copy;

/// Bytes of guest memory to be read. What is behind a bound is `None`, whoever asks for it.
#[derive(Debug, Clone, Copy)]
pub struct GuestSlice<'a>(pub(super) VolatileSlice<'a, ()>);

impl<'a> GuestSlice<'a> {
    /// Bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The `len` bytes at `at`.
    #[inline]
    #[must_use]
    pub fn subslice(&self, at: usize, len: usize) -> Option<GuestSlice<'a>> {
        self.0.subslice(at, len).ok().map(GuestSlice)
    }

    /// The bytes from `at` on.
    #[inline]
    #[must_use]
    pub fn offset(&self, at: usize) -> Option<GuestSlice<'a>> {
        self.0.offset(at).ok().map(GuestSlice)
    }

    /// The number at `at`, in one atomic access; also `None` if it is not aligned.
    #[inline]
    #[must_use]
    pub fn load<T: AtomicAccess>(&self, at: usize, order: Ordering) -> Option<T> {
        self.0.load(at, order).ok()
    }

    /// The number at `at`, aligned or not, read once.
    #[inline]
    #[must_use]
    pub fn read<T: ByteValued>(&self, at: usize) -> Option<T> {
        Some(self.0.get_ref::<T>(at).ok()?.load())
    }

    /// Copies the first bytes to `to`, as many as there are and as fit.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) {
        self.0.copy_to(to);
    }

    /// The same for the head of a frame, which is copied in a handful of instructions.
    #[inline]
    pub(crate) fn copy_to_head(&self, to: &mut [u8; HEAD_MAX]) {
        copy::read(&self.0, to);
    }

    /// Says that the first `bytes` are going to be read, or as many as there are.
    #[inline]
    pub(crate) fn will_read(&self, bytes: usize) {
        copy::will_read(&self.0, bytes);
    }

    /// Says that the cache line `at` bytes behind the first is going to be written, by whoever gets it as a [`GuestSliceMut`].
    #[inline]
    pub(crate) fn will_write(&self, at: usize) {
        copy::will_write(&self.0, at);
    }
}

/// Bytes of guest memory to be written: the only way to write there. Marks what it has written in the memory's
/// [`DirtyLog`], if there is one.
#[derive(Debug, Clone, Copy)]
pub struct GuestSliceMut<'a> {
    pub(super) slice: VolatileSlice<'a, ()>,
    /// The guest address of the first byte.
    pub(super) gpa: u64,
    pub(super) log: Option<&'a DirtyLog>,
}

impl<'a> GuestSliceMut<'a> {
    /// Bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.slice.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// The `len` bytes at `at`.
    #[inline]
    #[must_use]
    pub fn subslice(&self, at: usize, len: usize) -> Option<GuestSliceMut<'a>> {
        Some(GuestSliceMut {
            slice: self.slice.subslice(at, len).ok()?,
            gpa: self.gpa.wrapping_add(at as u64),
            log: self.log,
        })
    }

    /// Writes a number to `at` in one atomic access; `None` if it is not inside or not aligned, and nothing is written.
    #[inline]
    #[must_use]
    pub fn store<T: AtomicAccess>(&self, at: usize, value: T, order: Ordering) -> Option<()> {
        let field = self.subslice(at, size_of::<T>())?;
        field.write(|to| to.store(0, value, order))
    }

    /// Copies `from` to the beginning, as much as fits.
    #[inline]
    pub fn copy_from(&self, from: &[u8]) {
        let n = from.len().min(self.len());
        if let Some(part) = self.subslice(0, n) {
            part.write(|to| to.copy_from(from));
        }
    }

    /// Lets `write` write to any of the bytes, and marks them all, whatever comes of it: a frame is looked up in the log
    /// once, not with each of its pieces.
    #[inline]
    pub(crate) fn write<R>(&self, write: impl FnOnce(&UnmarkedSlice<'_>) -> R) -> R {
        self.write_some(write, || 0..self.slice.len())
    }

    /// The same where `write` writes to no more than the range that `written` says, which is asked only if there is a log.
    #[inline]
    pub(crate) fn write_some<R>(
        &self,
        write: impl FnOnce(&UnmarkedSlice<'_>) -> R,
        written: impl FnOnce() -> Range<usize>,
    ) -> R {
        let result = write(&UnmarkedSlice(self.slice));
        if let Some(log) = self.log {
            let Range { start, end } = written();
            let len = end.min(self.slice.len()).saturating_sub(start);
            log.mark(self.gpa.wrapping_add(start as u64), len);
        }
        result
    }
}

/// Bytes of guest memory that are written now and marked thereafter: only a [`GuestSliceMut`] lends them.
#[derive(Debug)]
pub(crate) struct UnmarkedSlice<'a>(VolatileSlice<'a, ()>);

impl<'a> UnmarkedSlice<'a> {
    /// The `len` bytes at `at`.
    #[inline]
    pub(crate) fn subslice(&self, at: usize, len: usize) -> Option<UnmarkedSlice<'a>> {
        self.0.subslice(at, len).ok().map(UnmarkedSlice)
    }

    /// The bytes from `at` on.
    #[inline]
    pub(crate) fn offset(&self, at: usize) -> Option<UnmarkedSlice<'a>> {
        self.0.offset(at).ok().map(UnmarkedSlice)
    }

    /// Writes a number to `at` in one atomic access; `None` if it is not inside or not aligned, and nothing is written.
    #[inline]
    pub(crate) fn store<T: AtomicAccess>(
        &self,
        at: usize,
        value: T,
        order: Ordering,
    ) -> Option<()> {
        self.0.store(value, at, order).ok()
    }

    /// Writes a number to `at`, aligned or not, unless it is there already: then its cache line stays with both CPUs.
    #[inline]
    pub(crate) fn update<T: ByteValued + PartialEq>(&self, at: usize, value: T) -> Option<()> {
        let there = self.0.get_ref::<T>(at).ok()?;
        if there.load() != value {
            there.store(value);
        }
        Some(())
    }

    /// Copies `from` to the beginning, as much as fits.
    #[inline]
    pub(crate) fn copy_from(&self, from: &[u8]) {
        copy::write_slice(from, &self.0);
    }

    /// The same of the first `n` bytes of the head of a frame.
    #[inline]
    pub(crate) fn copy_from_head(&self, from: &[u8; HEAD_MAX], n: usize) {
        copy::write(from, n, &self.0);
    }

    /// The same of other guest memory, a sender's.
    #[inline]
    pub(crate) fn copy_from_guest(&self, from: &GuestSlice<'_>) {
        from.0.copy_to_volatile_slice(self.0);
    }
}
