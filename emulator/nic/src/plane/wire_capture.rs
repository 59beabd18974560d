//! Shows what leaves by a port to those who capture all of it: each frame once, when it is handed over to the uplink, with the reason if that cannot send it. Is there
//! only while somebody does. Holds no frame and changes none.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vf_model::{DropReason, Link, Nanos, Policy};
use vf_vhost::frame::FrameBuf;

use super::captures::Captures;
use super::egress::at_wire;
use crate::queue::Pool;
use crate::uplink::{Arrivals, Lost, TxFrame, TxRoom, Uplink};

/// See the module. In front of an [`Uplink`], behind all that impairs frames.
pub(super) struct Captured<'a> {
    pub(super) uplink: &'a mut dyn Uplink,
    pub(super) policy: &'a Arc<Policy>,
    pub(super) captures: &'a Captures,
    /// Says to whoever hears of lost frames that this one has been shown as sent.
    pub(super) is_shown: &'a AtomicBool,
}

impl Captured<'_> {
    /// Has `lost` called for frames that have been shown before.
    fn shown<T>(&mut self, mut done: impl FnMut(&mut dyn Uplink) -> T) -> T {
        self.is_shown.store(true, Ordering::Relaxed);
        let done = done(self.uplink);
        self.is_shown.store(false, Ordering::Relaxed);
        done
    }
}

impl Uplink for Captured<'_> {
    fn tx_room(&mut self, now: Nanos, pool: &Pool, lost: &mut Lost<'_>) -> TxRoom {
        self.shown(|uplink| uplink.tx_room(now, pool, lost))
    }

    fn tx_room_at(&mut self) -> Option<Nanos> {
        self.uplink.tx_room_at()
    }

    fn tx_burst(
        &mut self,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        lost: &mut Lost<'_>,
    ) {
        let mut alone = Vec::with_capacity(1);
        for frame in frames.drain(..) {
            let copy = pool.copy(&frame.frame);
            let this: *const FrameBuf = &raw const *frame.frame;
            alone.push(frame);
            let (mut is_lost, is_shown) = (false, self.is_shown);
            let mut lose = |why: DropReason, frame: &FrameBuf| {
                let is_this = std::ptr::eq(frame, this);
                is_lost |= is_this;
                is_shown.store(!is_this, Ordering::Relaxed);
                lost(why, frame);
                is_shown.store(false, Ordering::Relaxed);
            };
            self.uplink.tx_burst(now, &mut alone, pool, &mut lose);
            if !is_lost {
                self.captures.see(self.policy, pool, &at_wire(&copy, None));
            }
            pool.give(copy);
        }
    }

    fn cuts(&self) -> bool {
        self.uplink.cuts()
    }

    fn is_sending(&self) -> bool {
        self.uplink.is_sending()
    }

    fn rx_burst(&mut self, now: Nanos, limit: usize, pool: &Pool, arrivals: &mut Arrivals) {
        self.uplink.rx_burst(now, limit, pool, arrivals);
    }

    fn next(&mut self) -> Option<Nanos> {
        self.uplink.next()
    }

    fn link(&self) -> &Link {
        self.uplink.link()
    }

    fn link_mut(&mut self) -> &mut Link {
        self.uplink.link_mut()
    }
}

impl fmt::Display for Captured<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uplink.fmt(f)
    }
}
