//! The transmitter of a port: when what is sent leaves, and how far ahead it may be filled. On the wall clock a thread looks at it
//! now and then only; that of a NIC would not have been late, so what is sent then begins where the link became free. Never
//! holds a frame.

use vf_model::{Departure, Link, LinkConfig, Nanos, OnWire};

use super::TxRoom;

/// A thread that looks again after more than this was late.
const LATE: Nanos = Nanos(10_000);
/// The longest time that a late thread makes up for: a process that stood for longer has lost it.
const MAKE_UP: Nanos = Nanos(100_000_000);

/// A link and the thread that fills it.
pub(super) struct Transmitter {
    link: Link,
    /// How far ahead of now it may be filled. Zero on the virtual clock.
    slack: Nanos,
    lateness: Lateness,
}

impl Transmitter {
    pub(super) fn new(config: LinkConfig, slack: Nanos) -> Transmitter {
        Transmitter {
            link: Link::new(config),
            slack,
            lateness: Lateness::default(),
        }
    }

    /// Looks at `now` whether so many frames may be sent.
    pub(super) fn room(&mut self, now: Nanos, frames: usize) -> TxRoom {
        self.lateness.look(now);
        TxRoom::of(&self.link, frames, self.start(now), now + self.slack)
    }

    /// When there is room again.
    pub(super) fn room_at(&self) -> Nanos {
        self.link.free_at().saturating_sub(self.slack)
    }

    /// When a frame that is sent now begins at the earliest.
    pub(super) fn start(&self, now: Nanos) -> Nanos {
        match self.slack {
            Nanos(0) => now,
            _ => now.min(self.lateness.since),
        }
    }

    /// Sends a frame, at [`Transmitter::start`] or when the link is free.
    #[inline]
    pub(super) fn put(&mut self, start: Nanos, on_wire: OnWire) -> Departure {
        self.link.put(start, on_wire)
    }

    /// A burst has been sent at `now`.
    pub(super) fn sent(&mut self, now: Nanos) {
        self.lateness.sent(now, self.link.free_at());
    }

    /// The thread has slept.
    pub(super) fn slept(&mut self) {
        self.lateness.slept();
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Goes on where this link is, which is another's from now on.
    pub(super) fn take_over(&mut self, link: &mut Link) {
        self.link.take_over(link);
    }
}

/// A link that a thread fills ahead of time where nobody makes up for a late one: what leaves is for others to take, and waits there.
pub(super) struct PacedLink {
    pub(super) link: Link,
    /// How far ahead of now it may be filled.
    slack: Nanos,
}

impl PacedLink {
    pub(super) fn new(config: LinkConfig, slack: Nanos) -> PacedLink {
        PacedLink {
            link: Link::new(config),
            slack,
        }
    }

    pub(super) fn room(&self, now: Nanos) -> TxRoom {
        TxRoom::of(&self.link, usize::MAX, now, now + self.slack)
    }

    /// When there is room again.
    pub(super) fn room_at(&self) -> Nanos {
        self.link.free_at().saturating_sub(self.slack)
    }
}

/// How late the thread of a transmitter has been while there were frames to send.
#[derive(Default)]
struct Lateness {
    /// When the thread last looked; `None` if it has slept since.
    looked: Option<Nanos>,
    /// Since when frames may have waited that this look finds.
    since: Nanos,
    /// When a frame was last sent.
    sent: Nanos,
    /// Time that was lost to late looks and has not been made up for.
    lost: Nanos,
}

impl Lateness {
    fn look(&mut self, now: Nanos) {
        let Some(looked) = self.looked.replace(now) else {
            self.since = now;
            return;
        };
        if now == looked {
            self.since = self.since.max(now.saturating_sub(LATE + self.lost));
            return;
        }
        let gap = now.saturating_sub(looked);
        if gap > LATE && looked.saturating_sub(self.sent) <= LATE {
            self.lost = (self.lost + gap).min(MAKE_UP);
        } else if now.saturating_sub(self.sent) > LATE + LATE {
            self.lost = Nanos(0);
        }
        self.since = now.saturating_sub(gap.min(LATE) + self.lost);
    }

    /// Frames were sent at `now`, after which the wire is free at `free`.
    fn sent(&mut self, now: Nanos, free: Nanos) {
        self.sent = now;
        self.lost = self.lost.min(now.saturating_sub(free));
    }

    fn slept(&mut self) {
        (self.looked, self.lost) = (None, Nanos(0));
    }
}
