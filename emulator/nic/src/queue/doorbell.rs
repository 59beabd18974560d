//! Wakes a plane's thread when another thread has left work for it. Never carries the work itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use mio::Waker;

/// A handle on one thread's sleep; cloned to everybody who may hand it work.
#[derive(Clone)]
pub struct Doorbell(Arc<Inner>);

struct Inner {
    asleep: AtomicBool,
    waker: Waker,
}

impl Doorbell {
    /// A doorbell that wakes the `mio::Poll` behind `waker`.
    #[must_use]
    pub fn new(waker: Waker) -> Doorbell {
        Doorbell(Arc::new(Inner {
            asleep: AtomicBool::new(false),
            waker,
        }))
    }

    /// Wakes the thread if it sleeps; costs one fence and one load if it does not.
    pub fn ring(&self) {
        // Pairs with the fence in `going_to_sleep`: either we see the flag, or the sleeper sees our work.
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) && self.0.asleep.swap(false, Ordering::AcqRel) {
            // The only failure is a full eventfd counter, and then it is awake.
            let _ = self.0.waker.wake();
        }
    }

    /// Says that the thread will sleep unless it finds work in one more look.
    pub fn going_to_sleep(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Says that the thread is awake.
    pub fn awake(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
    }
}
