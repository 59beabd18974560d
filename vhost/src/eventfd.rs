//! Kick, call and error notifications: eventfds which nobody can make us wait on.
//!
//! vhost-user allows pipes where a system has no eventfd; Linux has, so they are refused. A write to
//! a full pipe would block, a read from a closed one spin. But User-Mode Linux, whose interrupts
//! come from SIGIO, wants to be called through a socket, so one end of a socket pair is good enough to
//! signal on, though not to wait on. The counter itself is never used: a notification carries no number.
//!
//! An eventfd is read with `RWF_NOWAIT`, and written under the eyes of a watchdog.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::net::{SendFlags, Shutdown};
use thiserror::Error;

use crate::descriptor;
use crate::watchdog;

/// What calls of a session may take of threads' time at once, if they are dear ones.
const COST_AT_ONCE: Duration = Duration::from_millis(30);
/// They may take one part in so many of the time in the long run.
const COST_SHARE: u32 = 10;
/// What one of them counts at most: the host of a virtual machine takes some milliseconds of it now and then.
const COST_OF_ONE: Duration = Duration::from_millis(10);

/// What it costs to signal on the descriptors of one session: whether it is too much, after which nobody uses them any more. One that has made a thread
/// wait has cost too much; so have many that took the thread's time, as a front end that has thousands wait for an eventfd makes each write to it.
#[derive(Debug, Default)]
pub struct SignalCost {
    is_too_high: AtomicBool,
    dear: Mutex<DearTime>,
}

impl SignalCost {
    /// Whether none of them is to be used any more.
    #[inline]
    pub fn is_too_high(&self) -> bool {
        self.is_too_high.load(Ordering::Relaxed)
    }

    /// Makes a call that may wake somebody, and counts what that took.
    #[inline]
    pub(crate) fn timed<T>(&self, call: impl FnOnce() -> T) -> T {
        let (answer, took) = watchdog::timed(call);
        if let Some(took) = took {
            self.count(took);
        }
        answer
    }

    pub(crate) fn is_over(&self) {
        self.is_too_high.store(true, Ordering::Relaxed);
    }

    /// Counts what a dear call took.
    #[cold]
    fn count(&self, took: Duration) {
        let mut dear = self.dear.lock().unwrap_or_else(PoisonError::into_inner);
        if !dear.allows(Instant::now(), took) {
            self.is_over();
        }
    }
}

/// The time that dear calls took, of which a part is forgiven as time goes by.
#[derive(Debug, Default)]
struct DearTime {
    took: Duration,
    counted: Option<Instant>,
}

impl DearTime {
    fn allows(&mut self, now: Instant, took: Duration) -> bool {
        let since = self.counted.replace(now).unwrap_or(now);
        let forgiven = now.saturating_duration_since(since).checked_div(COST_SHARE);
        self.took = self.took.saturating_sub(forgiven.unwrap_or_default());
        self.took = self.took.saturating_add(took.min(COST_OF_ONE));
        self.took <= COST_AT_ONCE
    }
}

/// A descriptor that cannot serve as a notification.
#[derive(Debug, Error)]
pub enum EventFdError {
    /// The front end sent a pipe, a file, a socket to wait on...
    #[error("the descriptor is not an eventfd")]
    NotAnEventFd,
    /// A socket that has a name, such as the front end's own connection, or one that something can be read from.
    #[error("the socket is not one end of a socket pair")]
    NotAPair,
    /// The kernel refused to look at the descriptor or to make it non-blocking.
    #[error("cannot use the eventfd")]
    Io(#[from] io::Error),
}

/// An eventfd in non-blocking mode, or one end of a socket pair. Clones are the same descriptor.
///
/// The mode belongs to the open file, which the front end shares: it can change it back, and then
/// fill the counter, to make [`EventFd::signal`] wait for it. That wait is short, and it is the last.
#[derive(Debug, Clone)]
pub struct EventFd {
    fd: Arc<OwnedFd>,
    is_socket: bool,
    /// Shared with the others of its session.
    cost: Arc<SignalCost>,
}

impl EventFd {
    /// A new eventfd with a counter of zero.
    ///
    /// # Errors
    /// The process or the system has too many open files.
    pub fn new() -> io::Result<EventFd> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(EventFd::of(fd, false))
    }

    fn of(fd: OwnedFd, is_socket: bool) -> EventFd {
        EventFd {
            fd: Arc::new(fd),
            is_socket,
            cost: Arc::default(),
        }
    }

    /// Makes it one of several of which none is used any more once they have cost too much.
    #[must_use]
    pub fn with(self, cost: &Arc<SignalCost>) -> EventFd {
        EventFd {
            cost: Arc::clone(cost),
            ..self
        }
    }

    /// Takes a descriptor to [`EventFd::drain`], or to signal, that came from a front end.
    ///
    /// # Errors
    /// It is not an eventfd; it is closed then.
    pub fn from_fd(fd: OwnedFd) -> Result<EventFd, EventFdError> {
        if !descriptor::is_eventfd(&fd)? {
            return Err(EventFdError::NotAnEventFd);
        }
        watchdog::start()?;
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(io::Error::from)?;
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK).map_err(io::Error::from)?;
        }
        Ok(EventFd::of(fd, false))
    }

    /// Takes a descriptor to [`EventFd::signal`], and nothing else, that came from a front end. Nothing is read from a socket,
    /// so nothing can be put into it any more.
    ///
    /// # Errors
    /// It is neither an eventfd nor one end of a pair of stream sockets; it is closed then.
    pub fn to_signal(fd: OwnedFd) -> Result<EventFd, EventFdError> {
        if !descriptor::is_unix_socket(&fd) {
            return EventFd::from_fd(fd);
        }
        if !descriptor::is_empty_pair_end(&fd) {
            return Err(EventFdError::NotAPair);
        }
        rustix::net::shutdown(&fd, Shutdown::Read).map_err(io::Error::from)?;
        // Something may have come in between.
        if !descriptor::is_empty(&fd) {
            return Err(EventFdError::NotAPair);
        }
        Ok(EventFd::of(fd, true))
    }

    /// Notifies the other side. A full counter or socket is a notification already pending.
    #[inline]
    pub fn signal(&self) {
        if self.blocks() {
            return;
        }
        let one = 1u64.to_ne_bytes();
        let said = self.cost.timed(|| match self.is_socket {
            true => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                rustix::net::send(&self.fd, &one, flags)
            }
            false => rustix::io::write(&self.fd, &one),
        });
        // One that does not block is not interrupted.
        if !self.is_socket && said == Err(Errno::INTR) {
            self.cost.is_over();
        }
    }

    /// Whether something was notified that nobody has taken.
    pub fn is_pending(&self) -> bool {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::IN)];
        let none = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&none)).is_ok_and(|ready| ready > 0)
    }

    /// Takes what was notified; `true` if there was anything.
    pub fn drain(&self) -> bool {
        let mut counter = [0; 8];
        // Not at an offset, as an eventfd has none.
        let to = &mut [IoSliceMut::new(&mut counter)];
        let flags = ReadWriteFlags::NOWAIT;
        // It wakes all that wait for room in the counter.
        let read = self
            .cost
            .timed(|| rustix::io::preadv2(&self.fd, to, u64::MAX, flags));
        match read {
            Ok(_) => true,
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::SPIPE) => {
                self.drain_watched()
            }
            Err(_) => false,
        }
    }

    /// The same where the kernel cannot read an eventfd without waiting (Linux before 5.12, gVisor).
    #[cold]
    fn drain_watched(&self) -> bool {
        if self.blocks() {
            return false;
        }
        let mut counter = [0; 8];
        let read = watchdog::watched(|| rustix::io::read(&self.fd, &mut counter));
        if read == Err(Errno::INTR) {
            self.cost.is_over();
        }
        read.is_ok()
    }

    /// Whether it, or another one of its session, has made a thread wait or cost it too much time: it is not used any more.
    #[inline]
    pub fn blocks(&self) -> bool {
        self.cost.is_too_high()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Whether `costly` costs too much within a while, done again and again while thousands wait for whatever happens to the file; `None` where this process
/// may not have as many descriptors.
#[cfg(test)]
pub(crate) fn ends_with_watchers(
    file: &OwnedFd,
    mut costly: impl FnMut(&Arc<SignalCost>),
) -> Option<bool> {
    use rustix::event::epoll;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    const WATCHERS: usize = 7500;
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, all).unwrap();
    // Two tests have as many at a time.
    let few = 5 * WATCHERS as u64 / 2;
    if limit.maximum.is_some_and(|most| most < few) {
        println!("skipped: a file with many watchers, because RLIMIT_NOFILE is too low");
        return None;
    }
    let watcher = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let watched: Vec<OwnedFd> = (0..WATCHERS)
        .map(|_| {
            let fd = file.try_clone().unwrap();
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&watcher, &fd, epoll::EventData::new_u64(0), flags).unwrap();
            fd
        })
        .collect();
    watchdog::start().unwrap();
    let cost = Arc::default();
    let began = Instant::now();
    while !SignalCost::is_too_high(&cost) && began.elapsed() < Duration::from_secs(20) {
        costly(&cost);
    }
    drop(watched);
    Some(cost.is_too_high())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_drained_once() {
        let ours = EventFd::new().unwrap();
        let theirs = EventFd::from_fd(ours.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(!ours.drain());
        theirs.signal();
        theirs.signal();
        assert!(ours.drain());
        assert!(!ours.drain());
    }

    #[test]
    fn a_blocking_full_eventfd_does_not_block() {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        EventFd::from_fd(fd).unwrap().signal();
    }

    /// An eventfd on which a thread waits, as its owner can have it at any time.
    fn made_blocking(fd: &OwnedFd) {
        let flags = rustix::fs::fcntl_getfl(fd).unwrap();
        rustix::fs::fcntl_setfl(fd, flags - OFlags::NONBLOCK).unwrap();
    }

    #[test]
    fn one_that_was_made_to_block_is_waited_for_once() {
        let full = || {
            let theirs = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            rustix::io::write(&theirs, &(u64::MAX - 1).to_ne_bytes()).unwrap();
            let ours = EventFd::from_fd(theirs.try_clone().unwrap()).unwrap();
            made_blocking(&theirs);
            ours
        };
        // Any thread, and however long there was nothing to watch.
        for _ in 0..2 {
            std::thread::spawn(move || {
                let session = Arc::default();
                let many: Vec<EventFd> = (0..200).map(|_| full().with(&session)).collect();
                let began = std::time::Instant::now();
                many.iter().for_each(EventFd::signal);
                assert!(many.iter().all(EventFd::blocks));
                // The first of them took a hundredth of a second, or a whole one if the watchdog slept.
                assert!(began.elapsed() < std::time::Duration::from_secs(5));
            })
            .join()
            .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
    }

    #[test]
    fn dear_calls_may_take_a_share_of_the_time_and_no_more() {
        let ms = Duration::from_millis;
        // How many of them are allowed, one in each `every`.
        let allowed = |took, every: Duration| {
            let (start, mut dear) = (Instant::now(), DearTime::default());
            (0..1000)
                .take_while(|&n| dear.allows(start + every * n, took))
                .count()
        };
        assert_eq!(allowed(ms(3), ms(3)), 11);
        assert_eq!(allowed(ms(3), ms(30)), 1000);
        assert!(
            (80..100).contains(&allowed(ms(1), ms(7))),
            "two in three are forgiven"
        );
        // Whatever the host has done to one, it takes some more.
        assert_eq!(allowed(ms(1000), ms(50)), 5);
        assert_eq!(allowed(ms(1000), ms(100)), 1000);
    }

    /// Each write wakes all that wait for the counter, of which a front end may have many, and each read all that wait for room.
    #[test]
    fn a_session_whose_calls_take_much_of_a_thread_is_over() {
        let theirs = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let of = |cost: &Arc<SignalCost>| {
            let fd = theirs.try_clone().unwrap();
            EventFd::from_fd(fd).unwrap().with(cost)
        };
        let [mut calls, mut kicks] = [0, 0];
        let called = ends_with_watchers(&theirs, |cost| {
            // The descriptor comes anew with each third call, and a cheap one is called in between.
            calls += 1;
            let ours = of(cost);
            for _ in 0..3 {
                ours.signal();
                ours.drain();
            }
            EventFd::new().unwrap().with(cost).signal();
        });
        let Some(called) = called else { return };
        assert!(called, "after {calls} times three calls");
        let kicked = ends_with_watchers(&theirs, |cost| {
            kicks += 1;
            rustix::io::write(&theirs, &1u64.to_ne_bytes()).unwrap();
            of(cost).drain();
        });
        assert_eq!(kicked, Some(true), "after {kicks} kicks");
        // One that nobody waits for is none, however often it is signalled.
        let honest = EventFd::new().unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            honest.signal();
        }
        assert!(!honest.blocks());
    }

    #[test]
    fn one_that_was_made_to_block_is_read_all_the_same() {
        let theirs = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let ours = EventFd::from_fd(theirs.try_clone().unwrap()).unwrap();
        made_blocking(&theirs);
        assert!(!ours.drain());
        ours.signal();
        assert!(ours.drain() && !ours.drain() && !ours.blocks());
        // The way of a kernel that knows no other.
        ours.signal();
        assert!(ours.drain_watched() && !ours.blocks());
        assert!(!ours.drain_watched() && ours.blocks());
    }

    #[test]
    fn a_socket_that_could_hold_a_connection_open_is_refused() {
        use std::os::unix::net::{UnixListener, UnixStream};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut theirs, b"x").unwrap();
        let fds: [OwnedFd; 4] = [client.into(), accepted.into(), ours.into(), listener.into()];
        for fd in fds {
            assert!(matches!(
                EventFd::to_signal(fd),
                Err(EventFdError::NotAPair)
            ));
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let _call = EventFd::to_signal(ours.into()).unwrap();
        let put = std::io::Write::write_all(&mut theirs, b"x");
        assert!(put.is_err(), "nothing can be put into it later");
    }

    #[test]
    fn a_pipe_is_refused() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        for fd in [read, write] {
            let again = fd.try_clone().unwrap();
            for refused in [EventFd::from_fd(fd), EventFd::to_signal(again)] {
                assert!(matches!(refused, Err(EventFdError::NotAnEventFd)));
            }
        }
    }

    #[test]
    fn a_socket_is_only_good_to_signal_on() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(EventFd::from_fd(ours.try_clone().unwrap().into()).is_err());
        let call = EventFd::to_signal(ours.into()).unwrap();
        call.signal();
        let mut one = [0; 8];
        std::io::Read::read_exact(&mut theirs, &mut one).unwrap();
        assert_eq!(one, 1u64.to_ne_bytes());
        // Neither a full one nor one that is closed stops us.
        for _ in 0..100_000 {
            call.signal();
        }
        drop(theirs);
        call.signal();
    }
}
