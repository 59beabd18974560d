//! Frames in private memory, recycled: what crosses a wire or waits in the hypervisor. Never touches guest memory.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use vf_vhost::frame::FrameBuf;

/// Bytes of a buffer that is worth giving back to the system, for all but this many.
const LARGE: usize = 16 * 1024;
const LARGE_KEPT: usize = 512;

/// A bounded stock of empty frame buffers shared by every plane of the process.
#[derive(Clone)]
pub struct Pool(Arc<ArrayQueue<FrameBuf>>);

impl Pool {
    /// A pool that keeps at most `capacity` empty buffers; more are allocated when needed and freed when returned.
    #[must_use]
    pub fn new(capacity: usize) -> Pool {
        Pool(Arc::new(ArrayQueue::new(capacity.max(1))))
    }

    /// An empty buffer.
    #[must_use]
    pub fn take(&self) -> FrameBuf {
        self.0.pop().unwrap_or_default()
    }

    /// Takes back a buffer that is not needed any more.
    pub fn give(&self, mut frame: FrameBuf) {
        if frame.data.capacity() > LARGE && self.0.len() > LARGE_KEPT {
            return; // memory is bounded in bytes, too
        }
        frame.data.clear();
        // A full stock lets the buffer go; that is what bounds it.
        let _ = self.0.push(frame);
    }

    /// A private copy of `frame`.
    #[must_use]
    pub fn copy(&self, frame: &FrameBuf) -> FrameBuf {
        let mut copy = self.take();
        copy.hdr = frame.hdr;
        copy.data.clear();
        copy.data.extend_from_slice(&frame.data);
        copy
    }
}
