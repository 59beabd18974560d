//! Ends a system call in which a thread of ours waits for a front end.
//!
//! The mode of an eventfd belongs to the open file, which the front end shares: it can have it block again, fill it, and
//! exit. Whoever writes to it then, a thread that serves everybody else, would wait for ever, as nobody but us has the
//! counter any more. The kernel has no write to an eventfd that is told not to wait (`pwritev2(RWF_NOWAIT)` is refused), a
//! mode that was just set or a `poll` before it lose the race, and a call that cannot wait (the completion of an
//! asynchronous read with `IOCB_FLAG_RESFD`) takes 900 ns where a write takes 250. So the call is made as ever, and says
//! before and after, with a store each, that the thread is in it. A thread of its own looks at that every 10 ms and
//! interrupts whoever is still in the same call: an eventfd that did not block would have answered, so the one who is
//! interrupted knows what it has to do with. The watchdog waits for no descriptor and for none of the threads that it
//! watches, and it sleeps while none of them calls anybody.
//!
//! A call that sleeps is one way to take a thread's time; the other one is a call that works. A write to an eventfd wakes all that wait for it, in the
//! writer's time, and a front end may have thousands of them wait. Whoever is found in calls at three looks in a row is to take the time of each for
//! a while (`timed` says which was dear), since an honest one takes some microseconds.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "a count of idle looks, which starts again"
)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::raw::interrupt;

/// How long a call may take, at least, before it is interrupted.
const PERIOD: Duration = Duration::from_millis(10);
/// What a call may take of its thread's time; a write to an eventfd that some thousands wait for takes more.
const DEAR: Duration = Duration::from_micros(200);
/// So many looks find a thread in a call before it takes the time of its calls.
const IN_A_ROW: u32 = 3;
/// Looks without anything to see before the watchdog sleeps.
const LOOKS: u32 = 100;
/// A call that was begun in the very moment in which the watchdog fell asleep is seen after this.
const NAP: Duration = Duration::from_secs(1);

/// A thread that makes calls which may have to be interrupted.
#[derive(Debug)]
struct Watched {
    thread: i32,
    /// Calls begun and calls ended, counted together: odd in a call.
    calls: AtomicU32,
    /// What they were when the watchdog last looked.
    seen: AtomicU32,
    /// Looks in a row that have found it in a call.
    found: AtomicU32,
    /// Looks for which it takes the time of its calls.
    suspect: AtomicU32,
}

static THREADS: Mutex<Vec<Arc<Watched>>> = Mutex::new(Vec::new());
static WATCHDOG: OnceLock<Thread> = OnceLock::new();
static ASLEEP: AtomicBool = AtomicBool::new(false);

/// This thread in the list, as long as it lives.
struct Listed(Arc<Watched>);

thread_local! {
    static LISTED: Listed = Listed::new();
}

impl Listed {
    fn new() -> Listed {
        interrupt::accept();
        let watched = Arc::new(Watched {
            thread: rustix::thread::gettid().as_raw_nonzero().get(),
            calls: AtomicU32::new(0),
            seen: AtomicU32::new(0),
            found: AtomicU32::new(0),
            suspect: AtomicU32::new(0),
        });
        lock(&THREADS).push(Arc::clone(&watched));
        Listed(watched)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&THREADS).retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

/// Starts the watchdog on a thread that does this first, unless it runs: what gives up what the thread does not need, say. Otherwise it begins with
/// the first descriptor that may make a thread wait, with all that the thread has which takes it.
///
/// # Errors
/// The system gives no thread, or the process uses the signal for something else.
pub fn start_with(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    begin(first)
}

/// Starts the watchdog, unless it runs. Until then nobody is interrupted.
///
/// # Errors
/// The system gives no thread, or the process uses the signal for something else.
pub(crate) fn start() -> io::Result<()> {
    begin(|| {})
}

fn begin(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    static STARTING: Mutex<()> = Mutex::new(());
    if WATCHDOG.get().is_some() {
        return Ok(());
    }
    let _one = lock(&STARTING);
    if WATCHDOG.get().is_none() {
        if !interrupt::prepare() {
            return Err(io::Error::other("this process has a use for SIGURG"));
        }
        let watchdog = thread::Builder::new().name("watchdog".to_owned());
        let thread = watchdog.spawn(move || {
            first();
            watch();
        });
        let _ = WATCHDOG.set(thread?.thread().clone());
    }
    Ok(())
}

/// Makes a system call that is interrupted when it waits for longer than it may; what it answers then is `EINTR`.
#[inline]
pub(crate) fn watched<T>(call: impl FnOnce() -> T) -> T {
    timed(call).0
}

/// The same, and what it took of the thread's time if that was looked at and is more than an honest one takes. The host takes some of it now and
/// then: one such call says nothing.
#[inline]
pub(crate) fn timed<T>(call: impl FnOnce() -> T) -> (T, Option<Duration>) {
    // A thread that is about to end has left the list already; it calls nobody any more.
    let step = || {
        let suspect = LISTED.try_with(|Listed(this)| {
            let calls = this.calls.load(Ordering::Relaxed);
            this.calls.store(calls.wrapping_add(1), Ordering::Relaxed);
            this.suspect.load(Ordering::Relaxed) > 0
        });
        suspect.unwrap_or_default()
    };
    let began = step().then(thread_time);
    if ASLEEP.load(Ordering::Relaxed) {
        wake();
    }
    let answer = call();
    let took = began.map(|began| thread_time().saturating_sub(began));
    step();
    (answer, took.filter(|took| *took > DEAR))
}

/// For how long this thread has run: what others have of its CPU meanwhile is nobody's fault.
#[cold]
#[must_use]
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().unwrap_or_default()
}

#[cold]
fn wake() {
    if ASLEEP.swap(false, Ordering::Relaxed)
        && let Some(watchdog) = WATCHDOG.get()
    {
        watchdog.unpark();
    }
}

/// What the watchdog does.
fn watch() {
    let mut idle = 0;
    loop {
        thread::sleep(PERIOD);
        idle = if look() { 0 } else { idle + 1 };
        if idle >= LOOKS {
            ASLEEP.store(true, Ordering::Relaxed);
            thread::park_timeout(NAP);
            ASLEEP.store(false, Ordering::Relaxed);
        }
    }
}

/// Interrupts those that are in the same call as at the last look; whether any call has been made since, or is being made.
fn look() -> bool {
    let mut any = false;
    // The lock keeps them from ending meanwhile, and their numbers from becoming somebody else's.
    for watched in lock(&THREADS).iter() {
        let calls = watched.calls.load(Ordering::Relaxed);
        let same = watched.seen.swap(calls, Ordering::Relaxed) == calls;
        let waits = !calls.is_multiple_of(2);
        if same && waits {
            interrupt::interrupt(watched.thread);
        }
        let found = if waits {
            watched.found.load(Ordering::Relaxed) + 1
        } else {
            0
        };
        watched.found.store(found, Ordering::Relaxed);
        let suspect = match found {
            IN_A_ROW.. => LOOKS,
            _ => watched.suspect.load(Ordering::Relaxed).saturating_sub(1),
        };
        watched.suspect.store(suspect, Ordering::Relaxed);
        any |= !same || waits;
    }
    any
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
