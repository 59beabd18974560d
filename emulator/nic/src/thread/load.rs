//! What a thread has done for its plane: counted once a round and once a burst, never frame by frame.

use std::time::Duration;

use vf_model::Counter;

/// Counters of one thread that moves frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load<N = u64> {
    /// Nanoseconds spent in rounds that found work; those of idle rounds since the clock was last read are taken off as they
    /// took lately. What a thread spent on several planes is shared out by the frames that they moved.
    pub busy_ns: N,
    /// Rounds that found work.
    pub rounds: N,
    /// Rounds that found none.
    pub idle_rounds: N,
    /// Times it was woken.
    pub wakeups: N,
    /// Frames handled.
    pub frames: N,
    /// Visits of a transmit ring, of the wire or of the PF that found frames.
    pub bursts: N,
    /// Copies made of frames: into a guest, or into our own memory on the way to the wire or between the planes.
    pub copies: N,
    /// Frames left for other workers of the NIC to deliver, each once for all of them.
    pub handed_over: N,
    /// Times that used buffers were published and the driver was notified.
    pub notified: N,
    /// Times that it had asked not to be.
    pub suppressed: N,
}

/// The same while it is counted.
pub type LiveLoad = Load<Counter>;

impl LiveLoad {
    /// Counts rounds that found nothing, and those that moved so many frames in so long.
    pub(crate) fn count_rounds(&self, idle: u32, busy: u32, frames: usize, time: Duration) {
        self.idle_rounds.add(idle.into());
        self.rounds.add(busy.into());
        self.frames.add(frames as u64);
        self.busy_ns
            .add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Counts a visit that found so many frames, and answers how many that were.
    #[inline]
    pub(crate) fn count_burst(&self, frames: usize) -> usize {
        if frames > 0 {
            self.bursts.add(1);
        }
        frames
    }

    /// Counts what [`flush`](vf_vhost::rx::RxQueue::flush) of a queue has answered, and says whether its driver wants to
    /// be told.
    pub(crate) fn count_flush(&self, published: Option<bool>) -> bool {
        match published {
            Some(true) => self.notified.add(1),
            Some(false) => self.suppressed.add(1),
            None => {}
        }
        published == Some(true)
    }

    /// What has been counted so far.
    pub(crate) fn read(&self) -> Load {
        Load {
            busy_ns: self.busy_ns.get(),
            rounds: self.rounds.get(),
            idle_rounds: self.idle_rounds.get(),
            wakeups: self.wakeups.get(),
            frames: self.frames.get(),
            bursts: self.bursts.get(),
            copies: self.copies.get(),
            handed_over: self.handed_over.get(),
            notified: self.notified.get(),
            suppressed: self.suppressed.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_published_is_neither_notified_nor_suppressed() {
        let load = LiveLoad::default();
        let told = [None, Some(true), Some(false)].map(|flush| load.count_flush(flush));
        assert_eq!(told, [false, true, false]);
        let load = load.read();
        assert_eq!((load.notified, load.suppressed), (1, 1));
    }
}
