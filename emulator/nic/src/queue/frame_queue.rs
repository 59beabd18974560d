//! A lock-free queue between threads that is bounded in frames and in bytes. Never waits and never drops: what does not fit is
//! given back.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use vf_vhost::frame::FrameBuf;

/// Bytes that a short frame counts as: what its buffer takes.
pub(super) const LEAST_BYTES: u64 = 2048;

/// Bytes that a frame counts as against the bound of a queue.
pub(crate) fn cost(frame: &FrameBuf) -> u64 {
    (frame.data.len() as u64).max(LEAST_BYTES)
}

/// See the module. `T` is what a frame travels in.
#[derive(Debug)]
pub(crate) struct FrameQueue<T> {
    items: ArrayQueue<(u64, T)>,
    bytes: AtomicU64,
    most: u64,
}

impl<T> FrameQueue<T> {
    /// A queue for so many frames of so many bytes in all. One frame more than that may be in it for each thread that fills
    /// it.
    pub(crate) fn new(frames: usize, bytes: u64) -> FrameQueue<T> {
        FrameQueue {
            items: ArrayQueue::new(frames),
            bytes: AtomicU64::new(0),
            most: bytes,
        }
    }

    /// Whether nothing more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= self.most || self.items.is_full()
    }

    /// Adds an item with a frame of this [cost], or gives it back.
    pub(crate) fn push(&self, bytes: u64, item: T) -> Result<(), T> {
        // What costs nothing is bound by the number of items only.
        if bytes > 0 && self.bytes.load(Ordering::Relaxed) >= self.most {
            return Err(item);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.items.push((bytes, item)).map_err(|(bytes, item)| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            item
        })
    }

    /// Bytes of what is in it.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Takes the first item; whether the queue was full before is said with it.
    pub(crate) fn pop(&self) -> Option<(T, bool)> {
        // To find nothing costs a fence in a pop, and none here.
        if self.items.is_empty() {
            return None;
        }
        let (bytes, item) = self.items.pop()?;
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let full = before >= self.most || self.items.len() + 1 >= self.items.capacity();
        Some((item, full))
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_bytes_are_bounds() {
        let queue = FrameQueue::new(4, 10_000);
        for n in 0..4 {
            assert_eq!(queue.push(1, n), Ok(()));
        }
        assert_eq!(queue.push(1, 4), Err(4), "four frames");
        assert_eq!(queue.pop(), Some((0, true)));
        assert_eq!(queue.push(9_999, 5), Ok(()));
        assert_eq!(queue.pop(), Some((1, true)));
        assert!(queue.is_full());
        assert_eq!(queue.push(1, 6), Err(6), "10,000 bytes");
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, [(2, true), (3, true), (5, false)]);
        assert!(queue.is_empty() && !queue.is_full());
    }
}
