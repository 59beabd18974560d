//! A data-plane thread: it runs any number of planes, looks for work while there is some and for a while thereafter, then
//! sleeps until a kick, the doorbell or the next due time. Planes of one thread reach each other without an atomic. Never
//! moves a frame itself.

mod busy_poll;
mod handle;
mod load;

pub use busy_poll::Polling;
pub use handle::{News, Plane, PlaneGuard, PlaneHandle, RingBroken};
pub use load::{LiveLoad, Load};

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use vf_model::Nanos;

use crate::panics::EndsProcess;
use crate::queue::Doorbell;
use crate::sandbox::{Role, Sandbox};
use busy_poll::BusyPoll;
use handle::{Job, Lent, Request, ThreadHandle};

/// Rounds, at most, between two looks at the clock and everything else that a thread has to do.
const ROUNDS: u32 = 8;
/// So many frames moved end them early.
const FEW: usize = 4;
/// The age at which the time is read again: with many VFs one round takes as long as some rounds with one.
const FRESH: Duration = Duration::from_micros(1);
/// The token of the doorbell and of the timer: whatever wakes a thread, it looks at everything.
const WAKE: Token = Token(0);

/// What a thread is made of before it runs, so that others can be told how to wake it.
pub struct DataThread {
    name: String,
    poll: Poll,
    timer: OwnedFd,
    bell: Doorbell,
    cpu: Option<usize>,
    sandbox: Sandbox,
}

impl DataThread {
    /// A thread of this name that does not run yet.
    ///
    /// # Errors
    /// When the system gives no epoll, timer or eventfd.
    pub fn new(name: String) -> std::io::Result<DataThread> {
        let poll = Poll::new()?;
        // A poll's own timeout is in whole milliseconds; a slow wire or a rate limit needs better.
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        let fd = timer.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&fd), WAKE, Interest::READABLE)?;
        let bell = Doorbell::new(Waker::new(poll.registry(), WAKE)?);
        Ok(DataThread {
            name,
            poll,
            timer,
            bell,
            cpu: None,
            sandbox: Sandbox::Off,
        })
    }

    /// Has the thread run on this CPU only.
    pub fn pin(&mut self, cpu: usize) {
        self.cpu = Some(cpu);
    }

    /// Has the thread go into the jail of those that move frames, before it polls anything.
    pub fn confine(&mut self, sandbox: Sandbox) {
        self.sandbox = sandbox;
    }

    /// What wakes the thread.
    #[must_use]
    pub fn bell(&self) -> Doorbell {
        self.bell.clone()
    }

    /// Starts the thread, which polls `planes` from now on, and gives a handle on each of them. `on_news` runs on the
    /// thread for what a plane of this index has to say.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn<P: Plane>(
        self,
        planes: Vec<P>,
        epoch: Instant,
        polling: Polling,
        on_news: impl Fn(usize, News) + Send + 'static,
    ) -> std::io::Result<Vec<PlaneHandle<P>>> {
        let DataThread {
            name,
            poll,
            timer,
            bell,
            cpu,
            sandbox,
        } = self;
        let (requests, inbox) = unbounded();
        let mut slots = Vec::new();
        for mut plane in planes {
            plane.connect(poll.registry().try_clone()?);
            slots.push(Slot {
                plane: Some(Box::new(plane)),
                wanted: None,
                jobs: Vec::new(),
                round: Round::default(),
            });
        }
        let planes = slots.len();
        let run = Run {
            slots,
            inbox,
            poll,
            timer,
            bell: bell.clone(),
            busy_poll: BusyPoll::new(polling),
            epoch,
            idle_round: Duration::ZERO,
        };
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let _ends_process = EndsProcess;
            if let Some(cpu) = cpu {
                pin_to(cpu);
            }
            sandbox.confine(Role::Data);
            run.run(&on_news);
        })?;
        let thread = ThreadHandle::new(requests, bell, thread);
        Ok((0..planes).map(|plane| thread.owner(plane)).collect())
    }
}

fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    if cpu < CpuSet::MAX_CPU {
        set.set(cpu);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(%error, "cannot run on CPU {cpu}; this thread runs on any");
    }
}

/// A plane of the thread, unless it is lent.
struct Slot<P> {
    plane: Option<Box<P>>,
    /// Who wants it next.
    wanted: Option<Lent<P>>,
    /// What is to be done to it when it is back.
    jobs: Vec<Job<P>>,
    round: Round,
}

/// What the rounds of a plane have come to since the clock was last read.
#[derive(Clone, Copy, Default)]
struct Round {
    idle: u32,
    busy: u32,
    frames: usize,
}

struct Run<P> {
    slots: Vec<Slot<P>>,
    inbox: Receiver<Request<P>>,
    poll: Poll,
    timer: OwnedFd,
    bell: Doorbell,
    busy_poll: BusyPoll,
    epoch: Instant,
    /// How long a round without work took lately.
    idle_round: Duration,
}

/// Whether a thread goes on.
enum Next {
    /// A plane has gone or come back, or something was done to it.
    Changed,
    Nothing,
    Stop,
}

impl<P: Plane> Run<P> {
    fn run(mut self, on_news: &impl Fn(usize, News)) {
        let mut events = Events::with_capacity(64);
        let mut idle_since: Option<Instant> = None;
        // Whether a due time ended the last sleep, if there has been one since work was found.
        let mut slept: Option<bool> = None;
        let mut rounds = 1;
        let mut last = Instant::now();
        loop {
            match self.hear() {
                Next::Stop => return,
                Next::Changed => {
                    (idle_since, slept) = (None, None);
                    last = Instant::now();
                }
                Next::Nothing => {}
            }
            // While little comes, only frames are looked for, without so much as a look at the clock: it is what the next
            // frame's latency is made of.
            let started = last;
            let now = since(self.epoch, started);
            let (mut idle, mut busy, mut moved) = (0, 0, 0);
            while idle + busy < rounds && moved < FEW {
                let frames = self.round(now);
                if frames == 0 {
                    idle += 1;
                } else {
                    busy += 1;
                }
                moved += frames;
            }
            last = Instant::now();
            self.count(idle, busy, moved, last - started);
            rounds = rounds_after(rounds, last - started);
            for (index, slot) in self.slots.iter_mut().enumerate() {
                for news in slot.plane.iter_mut().flat_map(|plane| plane.take_news()) {
                    on_news(index, news);
                }
            }
            if moved > 0 {
                if let (Some(idle), Some(timed)) = (idle_since, slept.take()) {
                    self.busy_poll.slept(started - idle, timed);
                }
                idle_since = None;
                continue;
            }
            let idle = *idle_since.get_or_insert(last);
            if last - idle < self.busy_poll.window()
                || self
                    .due(now, last)
                    .is_some_and(|wait| wait < self.busy_poll.least())
            {
                std::hint::spin_loop();
                continue;
            }
            self.bell.going_to_sleep();
            let mut work = !self.inbox.is_empty();
            for plane in self.planes() {
                work |= plane.arm(now);
            }
            if !work {
                // Looked at once more: a frame may have been put on a wire before the doorbell was told of our sleep.
                let wait = self.due(now, last);
                set_timer(&self.timer, wait);
                if let Err(error) = self.poll.poll(&mut events, None)
                    && error.kind() != std::io::ErrorKind::Interrupted
                {
                    tracing::error!(%error, "a data-plane thread cannot sleep");
                }
                for plane in self.planes() {
                    plane.load().wakeups.add(1);
                }
                slept = Some(wait.is_some_and(|wait| last.elapsed() >= wait));
            }
            self.bell.awake();
            self.planes().for_each(|plane| plane.disarm());
            last = Instant::now();
        }
    }

    fn planes(&mut self) -> impl Iterator<Item = &mut P> {
        self.slots
            .iter_mut()
            .filter_map(|slot| slot.plane.as_deref_mut())
    }

    /// Takes one request, so that the planes are polled between any two; waits for one while all planes are lent.
    fn hear(&mut self) -> Next {
        let lent = self.slots.iter().all(|slot| slot.plane.is_none());
        let request = if lent {
            self.inbox.recv().map_err(|_| TryRecvError::Disconnected)
        } else if self.inbox.is_empty() {
            // An empty inbox is looked at without a fence.
            return Next::Nothing;
        } else {
            self.inbox.try_recv()
        };
        match request {
            Ok(Request::Lend(index, to)) => {
                if let Some(slot) = self.slots.get_mut(index) {
                    match slot.plane.take() {
                        Some(plane) => slot.plane = to.lend(plane).err(),
                        None => slot.wanted = Some(to),
                    }
                }
                Next::Changed
            }
            Ok(Request::Return(index, mut plane)) => {
                if let Some(slot) = self.slots.get_mut(index) {
                    slot.jobs.drain(..).for_each(|job| job(&mut plane));
                    slot.plane = match slot.wanted.take() {
                        Some(to) => to.lend(plane).err(),
                        None => Some(plane),
                    };
                }
                Next::Changed
            }
            Ok(Request::Do(index, job)) => {
                if let Some(slot) = self.slots.get_mut(index) {
                    match &mut slot.plane {
                        Some(plane) => job(plane),
                        None => slot.jobs.push(job),
                    }
                }
                Next::Changed
            }
            Ok(Request::Stop) | Err(TryRecvError::Disconnected) => Next::Stop,
            Err(TryRecvError::Empty) => Next::Nothing,
        }
    }

    /// One round of all planes; the number of frames moved.
    #[inline]
    fn round(&mut self, now: Nanos) -> usize {
        let mut moved = 0;
        for slot in &mut self.slots {
            let Some(plane) = &mut slot.plane else {
                continue;
            };
            let frames = plane.poll(now);
            if frames == 0 {
                slot.round.idle += 1;
            } else {
                slot.round.busy += 1;
            }
            slot.round.frames += frames;
            moved += frames;
        }
        moved
    }

    /// Counts rounds between two looks at the clock. The time of those that found work is shared out by the frames that the
    /// planes moved.
    fn count(&mut self, idle: u32, busy: u32, frames: usize, took: Duration) {
        let time = if busy == 0 {
            self.idle_round = took.checked_div(idle).unwrap_or_default();
            Duration::ZERO
        } else {
            took.saturating_sub(idle * self.idle_round)
        };
        for slot in &mut self.slots {
            let round = std::mem::take(&mut slot.round);
            if let Some(plane) = &mut slot.plane {
                let time = match round.frames == frames {
                    true => time,
                    false => time.mul_f64(round.frames as f64 / frames.max(1) as f64),
                };
                plane
                    .load()
                    .count_rounds(round.idle, round.busy, round.frames, time);
            }
        }
    }

    /// How long there is nothing to do. What has become due since the planes looked has not been tried: that is no wait at
    /// all.
    fn due(&mut self, now: Nanos, last: Instant) -> Option<Duration> {
        let at = self.planes().filter_map(|plane| plane.next(now)).min()?;
        let wait = at.0.saturating_sub(since(self.epoch, last).0);
        Some(Duration::from_nanos(wait))
    }
}

/// How many rounds the time may stay as it is, after `rounds` of them, or fewer, took so long.
fn rounds_after(rounds: u32, took: Duration) -> u32 {
    if took > FRESH {
        (rounds / 2).max(1)
    } else if took < FRESH / 2 {
        (rounds * 2).min(ROUNDS)
    } else {
        rounds
    }
}

/// Wakes the thread after so long, or not.
fn set_timer(timer: &OwnedFd, after: Option<Duration>) {
    // Zero would disarm it.
    let after = after.map_or(Duration::ZERO, |wait| wait.max(Duration::from_nanos(1)));
    let time = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(after.subsec_nanos()),
        },
    };
    if let Err(error) = timerfd_settime(timer, TimerfdTimerFlags::empty(), &time) {
        tracing::error!(%error, "a data-plane thread cannot set its timer");
    }
}

fn since(epoch: Instant, at: Instant) -> Nanos {
    Nanos(u64::try_from((at - epoch).as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_stays_fresh_however_long_a_round_without_work_takes() {
        for round in [1, 60, 130, 400, 5_000].map(Duration::from_nanos) {
            for first in [1, ROUNDS] {
                let mut rounds = first;
                for _ in 0..8 {
                    rounds = rounds_after(rounds, round * rounds);
                }
                assert!(rounds == 1 || round * rounds <= FRESH, "{round:?} {rounds}");
                assert!(
                    rounds == ROUNDS || round * rounds >= FRESH / 2,
                    "{round:?} {rounds}"
                );
            }
        }
    }
}
