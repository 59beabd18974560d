//! What a thread has done for its plane: counted once a round and once a burst, never frame by frame.

use std::time::Duration;

/// Counters of one thread that moves frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Time spent in rounds that found work; that of idle rounds since the clock was last read is taken off as they took
    /// lately. What a thread spent on several planes is shared out by the frames that they moved.
    pub busy: Duration,
    /// Rounds that found work.
    pub rounds: u64,
    /// Rounds that found none.
    pub idle_rounds: u64,
    /// Times it was woken.
    pub wakeups: u64,
    /// Frames handled.
    pub frames: u64,
    /// Visits of a transmit ring, of the wire or of the PF that found frames.
    pub bursts: u64,
    /// Copies made of frames: into a guest, or into our own memory on the way to the wire or between the planes.
    pub copies: u64,
    /// Frames left for other workers of the NIC to deliver, each once for all of them.
    pub handed_over: u64,
    /// Times that used buffers were published and the driver was notified.
    pub notified: u64,
    /// Times that it had asked not to be.
    pub suppressed: u64,
}

impl Load {
    /// Counts rounds that found nothing, and those that moved so many frames in so long.
    pub(super) fn count_rounds(&mut self, idle: u32, busy: u32, frames: usize, time: Duration) {
        self.idle_rounds += u64::from(idle);
        self.rounds += u64::from(busy);
        self.frames += frames as u64;
        self.busy += time;
    }

    /// Counts a visit that found so many frames, and answers how many that were.
    pub(super) fn count_burst(&mut self, frames: usize) -> usize {
        self.bursts += u64::from(frames > 0);
        frames
    }

    /// Counts what [`flush`](vf_vhost::rx::RxQueue::flush) of a queue has answered, and says whether its driver wants to
    /// be told.
    pub(super) fn count_flush(&mut self, published: Option<bool>) -> bool {
        self.notified += u64::from(published == Some(true));
        self.suppressed += u64::from(published == Some(false));
        published == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_published_is_neither_notified_nor_suppressed() {
        let mut load = Load::default();
        let told = [None, Some(true), Some(false)].map(|flush| load.count_flush(flush));
        assert_eq!(told, [false, true, false]);
        assert_eq!((load.notified, load.suppressed), (1, 1));
    }
}
