//! The memory that calendar and guests share (linux/um_timetravel.h, version 2): a page that says who runs, since when
//! and until when, and an entry for each client with the time it wants to run at. Whatever a guest writes there is a
//! number to be judged by the reader. Decides nothing about time.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{MemfdFlags, SealFlags};
use vf_model::Nanos;
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vm_memory::AtomicAccess;

use super::message::clamp_to_i64;

const VERSION: u32 = 2;
/// A version that no guest knows, so that it goes on with messages.
const NO_VERSION: u32 = 0;
/// Client capability: its time may be taken from this memory.
const TIME_SHARE: u32 = 1;
/// Client flag: the time it wants to run at is valid.
const REQUEST: u32 = 1;

const VERSION_AT: u64 = 0;
const LEN_AT: u64 = 4;
const FREE_UNTIL_AT: u64 = 8;
const CURRENT_TIME_AT: u64 = 16;
const RUNNING_AT: u64 = 24;
const MAX_CLIENTS_AT: u64 = 26;
const CLIENTS_AT: u64 = 4096;
const CLIENT_LEN: u64 = 128;
const CAPABILITIES: u64 = 0;
const FLAGS: u64 = 4;
const REQUEST_TIME: u64 = 8;
const NAME: u64 = 16;

/// The calendar's own number among the clients; guests have 1 and up.
const CALENDAR: u16 = 0;

/// See the module.
pub(super) struct Schedule {
    memory: Arc<GuestMemory>,
    fd: OwnedFd,
}

impl Schedule {
    /// Memory for so many guests, or with `shared` unset memory that says that it is not to be used.
    pub(super) fn new(guests: u16, shared: bool) -> io::Result<Schedule> {
        let clients = guests.saturating_add(1);
        let len = CLIENTS_AT + CLIENT_LEN * u64::from(clients);
        let fd = rustix::fs::memfd_create(
            "vfnic-calendar",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&fd, len)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let whole = RegionSpec {
            guest_addr: 0,
            size: len,
            user_addr: 0,
            mmap_offset: 0,
        };
        let memory = GuestMemory::map(vec![(whole, fd.try_clone()?)]).map_err(io::Error::other)?;
        let schedule = Schedule { memory, fd };
        schedule.store(LEN_AT, u32::try_from(len).unwrap_or(0));
        schedule.store(MAX_CLIENTS_AT, clients);
        schedule.store(client(CALENDAR) + CAPABILITIES, TIME_SHARE);
        schedule.store(VERSION_AT, if shared { VERSION } else { NO_VERSION });
        Ok(schedule)
    }

    /// Guest `id` runs from `now` on and may go on by itself until just before `limit`.
    pub(super) fn run(&self, id: u16, now: Nanos, limit: Option<Nanos>) {
        self.store(CURRENT_TIME_AT, clamp_to_i64(now));
        self.store(
            FREE_UNTIL_AT,
            clamp_to_i64(limit.unwrap_or(Nanos(u64::MAX))),
        );
        self.store(RUNNING_AT, id);
    }

    /// No guest runs; it is `now`.
    pub(super) fn stop(&self, now: Nanos) {
        self.store(RUNNING_AT, CALENDAR);
        self.store(CURRENT_TIME_AT, clamp_to_i64(now));
    }

    /// Somebody else wants to run at `limit`, perhaps before the guest's time is up.
    pub(super) fn limit(&self, limit: Option<Nanos>) {
        let limit = clamp_to_i64(limit.unwrap_or(Nanos(u64::MAX)));
        if limit < self.load::<u64>(FREE_UNTIL_AT) {
            self.store(FREE_UNTIL_AT, limit);
        }
    }

    /// The time, which the guest that runs lets pass.
    pub(super) fn now(&self) -> Nanos {
        Nanos(self.load(CURRENT_TIME_AT))
    }

    /// Whether guest `id` uses this memory.
    pub(super) fn is_used_by(&self, id: u16) -> bool {
        self.load::<u32>(client(id) + CAPABILITIES) & TIME_SHARE != 0
    }

    /// Names guest `id`.
    pub(super) fn set_name(&self, id: u16, name: u64) {
        self.store(client(id) + NAME, name);
    }

    /// When guest `id` wants to run, if it does.
    pub(super) fn wish(&self, id: u16) -> Option<Nanos> {
        let wants = self.load::<u32>(client(id) + FLAGS) & REQUEST != 0;
        wants.then(|| Nanos(self.load(client(id) + REQUEST_TIME)))
    }

    /// Guest `id` said by message when it wants to run.
    pub(super) fn set_wish(&self, id: u16, at: Nanos) {
        self.store(client(id) + REQUEST_TIME, at.0);
        self.store(client(id) + FLAGS, REQUEST);
    }

    fn load<T: AtomicAccess + Default>(&self, at: u64) -> T {
        let field = self.memory.slice(at, size_of::<T>());
        // All fields are inside of the memory, which is sealed.
        field
            .and_then(|field| field.load(0, Ordering::SeqCst))
            .unwrap_or_default()
    }

    fn store<T: AtomicAccess>(&self, at: u64, value: T) {
        if let Some(field) = self.memory.slice_mut(at, size_of::<T>()) {
            // As for `load`.
            let _ = field.store(0, value, Ordering::SeqCst);
        }
    }
}

fn client(id: u16) -> u64 {
    CLIENTS_AT + CLIENT_LEN * u64::from(id)
}

impl AsFd for Schedule {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule").field("fd", &self.fd).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(schedule: &Schedule, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        rustix::io::pread(schedule.as_fd(), &mut bytes, at).unwrap();
        bytes
    }

    #[test]
    fn is_laid_out_as_guests_expect() {
        let schedule = Schedule::new(2, true).unwrap();
        schedule.run(2, Nanos(7), Some(Nanos(9)));
        schedule.set_name(2, 42);
        schedule.limit(Some(Nanos(10)));
        assert_eq!(bytes(&schedule, 0), 2u32.to_ne_bytes());
        assert_eq!(bytes(&schedule, 4), (4096u32 + 3 * 128).to_ne_bytes());
        assert_eq!(bytes(&schedule, 8), 9u64.to_ne_bytes());
        assert_eq!(bytes(&schedule, 16), 7u64.to_ne_bytes());
        assert_eq!(bytes(&schedule, 24), 2u16.to_ne_bytes());
        assert_eq!(bytes(&schedule, 26), 3u16.to_ne_bytes());
        assert_eq!(bytes(&schedule, 4096), 1u32.to_ne_bytes());
        assert_eq!(bytes(&schedule, 4096 + 256 + 16), 42u64.to_ne_bytes());
        schedule.limit(Some(Nanos(8)));
        schedule.stop(Nanos(8));
        assert_eq!(bytes(&schedule, 8), 8u64.to_ne_bytes());
        assert_eq!(bytes(&schedule, 24), 0u16.to_ne_bytes());
        schedule.run(1, Nanos(8), None);
        assert_eq!(bytes(&schedule, 8), i64::MAX.to_ne_bytes());
        let messages = Schedule::new(2, false).unwrap();
        assert_eq!(bytes(&messages, 0), 0u32.to_ne_bytes());
    }

    #[test]
    fn a_guest_says_when_it_wants_to_run() {
        let schedule = Schedule::new(2, true).unwrap();
        assert!(!schedule.is_used_by(2));
        rustix::io::pwrite(&schedule.fd, &1u32.to_ne_bytes(), 4096 + 256).unwrap();
        assert!(schedule.is_used_by(2) && !schedule.is_used_by(1));
        assert_eq!(schedule.wish(2), None);
        schedule.set_wish(2, Nanos(5));
        assert_eq!((schedule.wish(2), schedule.wish(1)), (Some(Nanos(5)), None));
        rustix::io::pwrite(&schedule.fd, &0u32.to_ne_bytes(), 4096 + 256 + 4).unwrap();
        assert_eq!(schedule.wish(2), None);
    }
}
