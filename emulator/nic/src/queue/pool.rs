//! Frame buffers in private memory, recycled: for what crosses a wire or waits in the hypervisor. Each thread keeps some of
//! its own, as the per-lcore caches of DPDK's mempools do, so that taking one costs no atomic. Never touches guest memory.

use std::cell::RefCell;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use vf_packet::Offload;
use vf_vhost::frame::FrameBuf;

/// A frame in private memory, where it stays while it moves between queues.
pub type Frame = Box<FrameBuf>;

/// Buffers that a thread keeps for itself.
const CACHE: usize = 512;
/// Buffers that move between a thread and the others at a time.
const BULK: usize = 64;
/// Capacity in bytes from which a buffer is large: it holds more than one frame of an ordinary MTU.
const LARGE: usize = 4096;
/// Large buffers that are kept; the others go back to the system, so that the pool is bounded in bytes.
const LARGE_KEPT: usize = 512;

thread_local! {
    /// The thread's own buffers, none of them large.
    static LOCAL: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// A bounded stock of frame buffers that all planes of the process share. Clones are handles on the same stock.
#[derive(Clone)]
pub struct Pool(Arc<Stock>);

struct Stock {
    small: ArrayQueue<Frame>,
    large: ArrayQueue<Frame>,
}

impl Pool {
    /// A pool that keeps at most `capacity` buffers beside those that the threads keep; more are allocated when they are
    /// needed and freed when they come back.
    #[must_use]
    pub fn new(capacity: usize) -> Pool {
        Pool(Arc::new(Stock {
            small: ArrayQueue::new(capacity.max(1)),
            large: ArrayQueue::new(LARGE_KEPT),
        }))
    }

    /// A buffer for a frame of `len` bytes. Its content is whatever it held before: the caller writes all of it.
    #[must_use]
    #[inline]
    pub fn take(&self, len: usize) -> Frame {
        if len > LARGE {
            return self.0.large.pop().unwrap_or_default();
        }
        let local = LOCAL.try_with(|local| {
            let mut local = local.try_borrow_mut().ok()?;
            local.pop().or_else(|| self.refill(&mut local))
        });
        local.ok().flatten().unwrap_or_default()
    }

    /// A frame with these bytes, of which nothing is left to do.
    #[must_use]
    pub fn frame(&self, bytes: &[u8]) -> Frame {
        let mut frame = self.take(bytes.len());
        frame.offload = Offload::default();
        frame.data.clear();
        frame.data.extend_from_slice(bytes);
        frame
    }

    #[cold]
    fn refill(&self, local: &mut Vec<Frame>) -> Option<Frame> {
        local.extend(std::iter::from_fn(|| self.0.small.pop()).take(BULK));
        local.pop()
    }

    /// Takes back a buffer that is not needed any more.
    pub fn give(&self, frame: Frame) {
        self.give_all(std::iter::once(frame));
    }

    /// Takes back several.
    #[inline]
    pub fn give_all(&self, frames: impl Iterator<Item = Frame>) {
        // While its thread ends there is no cache any more, and the buffers are freed.
        let _ = LOCAL.try_with(|local| {
            let Ok(mut local) = local.try_borrow_mut() else {
                return;
            };
            for frame in frames {
                if frame.data.capacity() > LARGE {
                    // A full stock frees the buffer; that is what bounds it.
                    let _ = self.0.large.push(frame);
                    continue;
                }
                if local.len() >= CACHE {
                    self.spill(&mut local);
                }
                local.push(frame);
            }
        });
    }

    #[cold]
    fn spill(&self, local: &mut Vec<Frame>) {
        for spare in local.drain(CACHE - BULK..) {
            // A full stock frees the buffer, here too.
            let _ = self.0.small.push(spare);
        }
    }

    /// A private copy of `frame`.
    #[must_use]
    pub fn copy(&self, frame: &FrameBuf) -> Frame {
        let mut copy = self.take(frame.data.len());
        copy.offload = frame.offload;
        copy.data.clear();
        copy.data.extend_from_slice(&frame.data);
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(capacity: usize) -> Frame {
        Box::new(FrameBuf {
            data: Vec::with_capacity(capacity),
            ..FrameBuf::default()
        })
    }

    #[test]
    fn what_one_thread_gives_back_another_takes() {
        let pool = Pool::new(CACHE);
        for _ in 0..CACHE + BULK {
            pool.give(buffer(2048));
        }
        let there = pool.clone();
        let taken = std::thread::spawn(move || there.take(60).data.capacity());
        assert_eq!(taken.join().unwrap(), 2048);
    }

    #[test]
    fn large_buffers_are_few_and_only_for_long_frames() {
        let pool = Pool::new(CACHE);
        for _ in 0..2 * LARGE_KEPT {
            pool.give(buffer(65_536));
        }
        assert_eq!(pool.0.large.len(), LARGE_KEPT);
        assert!(pool.take(1514).data.capacity() <= LARGE);
        assert_eq!(pool.take(9014).data.capacity(), 65_536);
    }
}
