//! Numbers that one thread writes and any thread reads without asking. Nothing here waits, and a writer does not notice
//! whether it is read: what it writes are plain stores.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number with one writer, whoever owns what it counts; a second one would lose counts. Readers see each value that it
/// has had, in order, none of them later than what the writer has told them of otherwise: who has been given a frame finds
/// it counted if it was counted before it was given.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts so many more.
    #[inline]
    pub fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    /// Sets it.
    #[inline]
    pub fn set(&self, to: u64) {
        self.0.store(to, Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clone for Counter {
    /// Another that goes on from the same number.
    fn clone(&self) -> Counter {
        Counter(AtomicU64::new(self.get()))
    }
}

/// Counters of one owner, who alone writes them; readers have [`Shared::reader`]. A copy counts on its own.
#[derive(Debug, Default)]
pub(crate) struct Shared<T: ?Sized>(Arc<T>);

impl<T> Shared<T> {
    pub(crate) fn new(counters: T) -> Shared<T> {
        Shared(Arc::new(counters))
    }
}

impl<T: ?Sized> Shared<T> {
    /// The same, for somebody who only reads.
    pub(crate) fn reader(&self) -> Arc<T> {
        Arc::clone(&self.0)
    }
}

impl<T> FromIterator<T> for Shared<[T]> {
    fn from_iter<I: IntoIterator<Item = T>>(counters: I) -> Shared<[T]> {
        Shared(counters.into_iter().collect())
    }
}

impl<T: ?Sized> Deref for Shared<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared::new(T::clone(&self.0))
    }
}

impl<T: Clone> Clone for Shared<[T]> {
    fn clone(&self) -> Shared<[T]> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_is_counted_and_a_copy_counts_on_its_own() {
        let ours: Shared<[Counter]> = [Counter::default()].into_iter().collect();
        let reader = ours.reader();
        ours[0].add(2);
        let copy = ours.clone();
        ours[0].add(1);
        copy[0].add(10);
        assert_eq!((reader[0].get(), copy[0].get()), (3, 12));
    }
}
