//! Who owns a plane: a thread that polls it, or the virtual clock. Whoever else needs it borrows it whole; ownership
//! moves to the borrower and back, so that nothing is ever shared or locked on the data path.

use std::cell::{RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use vf_model::Nanos;

use super::doorbell::Doorbell;
use super::load::Load;
use super::port::RingBroken;
use super::spin::Spin;
use crate::config::Polling;

/// Rounds, at most, between two looks at the clock and everything else that a plane's thread has to do.
const LOOKS: u32 = 8;
/// So many frames moved end them early.
const FEW: usize = 4;
/// How old the time is to become meanwhile: with many VFs a round takes as long as some with one.
const FRESH: Duration = Duration::from_micros(1);
/// Of the doorbell, and of the timer: whatever wakes a plane, it looks at everything.
const WAKE: Token = Token(0);

/// What a thread or the virtual clock needs of a plane.
pub trait Plane: Send + 'static {
    /// One round of work; the number of frames moved.
    fn poll(&mut self, now: Nanos) -> usize;
    /// When there is work again if nobody hands over any.
    fn next(&mut self, now: Nanos) -> Option<Nanos>;
    /// Asks for kicks before a sleep; true if there is work after all.
    fn arm(&mut self, now: Nanos) -> bool;
    /// Says that kicks are not needed.
    fn disarm(&mut self);
    /// Waits for kicks through `registry` from now on.
    fn connect(&mut self, registry: mio::Registry);
    /// Rings found broken since the last call.
    fn take_broken(&mut self) -> Vec<RingBroken>;
    /// What its thread has done, for the thread to count.
    fn load_mut(&mut self) -> &mut Load;
}

/// A plane, wherever it lives.
pub enum Owner<P> {
    /// Polled by a thread of its own.
    Thread(ThreadOwner<P>),
    /// Stepped by the virtual clock, on the thread that also controls it.
    Local(RefCell<P>),
}

/// A handle on the thread that polls a plane.
pub struct ThreadOwner<P> {
    requests: Sender<Request<P>>,
    bell: Doorbell,
    thread: Option<std::thread::JoinHandle<()>>,
}

enum Request<P> {
    /// Let the plane be borrowed.
    Lend(Loan<P>),
    /// End; the owner is gone.
    Stop,
}

struct Loan<P> {
    to: Sender<Box<P>>,
    back: Receiver<Box<P>>,
}

/// A borrowed plane; it goes back to its owner when this is dropped.
pub enum Borrowed<'a, P> {
    /// From a thread, which waits for it.
    Thread {
        /// The plane, until it goes back.
        plane: Option<Box<P>>,
        /// The way back.
        back: Sender<Box<P>>,
    },
    /// From the virtual clock.
    Local(RefMut<'a, P>),
}

impl<P: Plane> Owner<P> {
    /// Starts a thread that polls `plane`. `on_broken` runs on that thread for each ring found broken.
    ///
    /// # Errors
    /// When the system gives no thread or no epoll.
    pub fn spawn(
        name: &str,
        plane: P,
        epoch: Instant,
        polling: Polling,
        on_broken: impl Fn(RingBroken) + Send + 'static,
    ) -> std::io::Result<(Owner<P>, Doorbell)> {
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
        let (requests, inbox) = unbounded();
        let mut plane = Box::new(plane);
        plane.connect(poll.registry().try_clone()?);
        let sleeper = Sleeper {
            poll,
            timer,
            bell: bell.clone(),
            spin: Spin::new(polling),
        };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(plane, &inbox, sleeper, epoch, &on_broken))?;
        let owner = Owner::Thread(ThreadOwner {
            requests,
            bell: bell.clone(),
            thread: Some(thread),
        });
        Ok((owner, bell))
    }

    /// Borrows the plane. Its thread, if it has one, finishes the round it is in and waits.
    ///
    /// # Panics
    /// If the plane's thread has died, which is a bug of ours, or if the plane is borrowed already by the caller.
    #[must_use]
    pub fn borrow(&self) -> Borrowed<'_, P> {
        match self {
            Owner::Local(cell) => Borrowed::Local(cell.borrow_mut()),
            Owner::Thread(thread) => {
                let (to, plane) = bounded(1);
                let (back, returned) = bounded(1);
                let asked = thread
                    .requests
                    .send(Request::Lend(Loan { to, back: returned }));
                thread.bell.ring();
                let plane = asked.ok().and_then(|()| plane.recv().ok());
                Borrowed::Thread {
                    plane: Some(plane.expect("a plane's thread ends only with its owner")),
                    back,
                }
            }
        }
    }
}

impl<P> Drop for ThreadOwner<P> {
    fn drop(&mut self) {
        // A thread that has ended already, of a panic, hears nothing.
        let _ = self.requests.send(Request::Stop);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<P> Deref for Borrowed<'_, P> {
    type Target = P;
    fn deref(&self) -> &P {
        match self {
            Borrowed::Thread { plane, .. } => plane.as_ref().expect("taken only in drop"),
            Borrowed::Local(plane) => plane,
        }
    }
}

impl<P> DerefMut for Borrowed<'_, P> {
    fn deref_mut(&mut self) -> &mut P {
        match self {
            Borrowed::Thread { plane, .. } => plane.as_mut().expect("taken only in drop"),
            Borrowed::Local(plane) => plane,
        }
    }
}

impl<P> Drop for Borrowed<'_, P> {
    fn drop(&mut self) {
        if let Borrowed::Thread { plane, back } = self
            && let Some(plane) = plane.take()
        {
            // The thread waits for it; if it is gone the plane goes with us.
            let _ = back.send(plane);
        }
    }
}

/// How a plane's thread sleeps.
struct Sleeper {
    poll: Poll,
    timer: OwnedFd,
    bell: Doorbell,
    spin: Spin,
}

/// A plane's thread: polls while there is work and for a while thereafter, then sleeps until a kick, the doorbell or the next
/// due time.
fn run<P: Plane>(
    mut plane: Box<P>,
    inbox: &Receiver<Request<P>>,
    mut sleeper: Sleeper,
    epoch: Instant,
    on_broken: &impl Fn(RingBroken),
) {
    let mut events = Events::with_capacity(64);
    let mut idle_since: Option<Instant> = None;
    // Whether it was a due time that ended the last sleep, if there has been one since work was found.
    let mut slept: Option<bool> = None;
    let mut looks = 1;
    let mut last = Instant::now();
    loop {
        // An empty inbox is looked at without a fence.
        let request = if inbox.is_empty() {
            Err(crossbeam_channel::TryRecvError::Empty)
        } else {
            inbox.try_recv()
        };
        match request {
            Ok(Request::Lend(loan)) => {
                if let Err(unwanted) = loan.to.send(plane) {
                    plane = unwanted.0;
                } else {
                    match loan.back.recv() {
                        Ok(returned) => plane = returned,
                        Err(_) => return,
                    }
                }
                (idle_since, slept) = (None, None);
                last = Instant::now();
                continue;
            }
            Ok(Request::Stop) | Err(crossbeam_channel::TryRecvError::Disconnected) => return,
            Err(crossbeam_channel::TryRecvError::Empty) => {}
        }
        // While little comes, only frames are looked for, without so much as a look at the clock: it is what the next frame's
        // latency is made of.
        let started = last;
        let now = since(epoch, started);
        let (mut idle_rounds, mut busy_rounds, mut moved) = (0, 0, 0);
        while idle_rounds + busy_rounds < looks && moved < FEW {
            let frames = plane.poll(now);
            if frames == 0 {
                idle_rounds += 1;
            } else {
                busy_rounds += 1;
            }
            moved += frames;
        }
        last = Instant::now();
        let load = plane.load_mut();
        load.count_rounds(idle_rounds, busy_rounds, moved, last - started);
        looks = looks_after(looks, last - started);
        for broken in plane.take_broken() {
            on_broken(broken);
        }
        if moved > 0 {
            if let (Some(idle), Some(timed)) = (idle_since, slept.take()) {
                sleeper.spin.slept(started - idle, timed);
            }
            idle_since = None;
            continue;
        }
        let idle = *idle_since.get_or_insert(last);
        // What has become due since the plane looked has not been tried, and is no wait at all.
        let due = |plane: &mut P| {
            let at = plane.next(now)?;
            Some(Duration::from_nanos(
                at.0.saturating_sub(since(epoch, last).0),
            ))
        };
        let Sleeper { spin, .. } = &sleeper;
        if last - idle < spin.window() || due(&mut plane).is_some_and(|wait| wait < spin.least()) {
            std::hint::spin_loop();
            continue;
        }
        sleeper.bell.going_to_sleep();
        if !plane.arm(now) && inbox.is_empty() {
            // Looked at once more: a frame may have been put on the wire before the doorbell was told of our sleep.
            let wait = due(&mut plane);
            set_timer(&sleeper.timer, wait);
            if let Err(error) = sleeper.poll.poll(&mut events, None)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "a plane cannot sleep");
            }
            plane.load_mut().wakeups += 1;
            slept = Some(wait.is_some_and(|wait| last.elapsed() >= wait));
        }
        sleeper.bell.awake();
        plane.disarm();
        last = Instant::now();
    }
}

/// How many rounds the time may stay as it is, after `looks` of them, or fewer, took so long.
fn looks_after(looks: u32, took: Duration) -> u32 {
    if took > FRESH {
        (looks / 2).max(1)
    } else if took < FRESH / 2 {
        (looks * 2).min(LOOKS)
    } else {
        looks
    }
}

/// Wakes the plane after so long, or not.
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
        tracing::error!(%error, "a plane cannot set its timer");
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
            for first in [1, LOOKS] {
                let mut looks = first;
                for _ in 0..8 {
                    looks = looks_after(looks, round * looks);
                }
                assert!(looks == 1 || round * looks <= FRESH, "{round:?} {looks}");
                assert!(
                    looks == LOOKS || round * looks >= FRESH / 2,
                    "{round:?} {looks}"
                );
            }
        }
    }
}
