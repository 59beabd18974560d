//! The SIGBUS guard: a front end that shrinks a file we have mapped breaks its own device only.
//!
//! A load or store behind the end of a mapped file raises SIGBUS. The handler here looks the
//! faulting address up in a fixed table of registered mappings, puts a private zero page there,
//! marks the mapping as faulted and lets the access go on. Any other SIGBUS goes where it would
//! have gone without us. The handler takes no lock, allocates nothing and calls only
//! async-signal-safe functions.
//!
//! A signal handler, its installation and the fixed-address `mmap` cannot be had without `unsafe`. Never reads or writes
//! guest memory.

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

/// Mappings that can be guarded at a time, in the whole process.
pub(crate) const CAPACITY: usize = 8192;

/// One guarded mapping. `version` is odd while the slot is being written: a reader that saw an
/// odd or a changed number takes nothing from the slot. The slot that covers a faulting address
/// cannot change meanwhile, as whoever touches the mapping keeps it registered.
struct Slot {
    taken: AtomicBool,
    version: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    faulted: AtomicBool,
}

static SLOTS: [Slot; CAPACITY] = [const {
    Slot {
        taken: AtomicBool::new(false),
        version: AtomicU32::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page: AtomicUsize::new(0),
        faulted: AtomicBool::new(false),
    }
}; CAPACITY];

/// Some slot's mapping has faulted, ever.
static FAULTED: AtomicBool = AtomicBool::new(false);

/// What SIGBUS did before the guard was installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<bool> = OnceLock::new();

impl Slot {
    fn write(&self, start: usize, end: usize, page: usize) {
        self.version.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.faulted.store(false, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// The page size of the mapping if it covers `address`.
    fn covers(&self, address: usize) -> Option<usize> {
        let before = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = before & 1 == 0 && before == self.version.load(Ordering::Relaxed);
        (stable && start <= address && address < end).then_some(page)
    }
}

/// Keeps one mapping in the table. It must be dropped before the mapping is unmapped.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: usize,
}

impl Guard {
    /// Guards `[start, start + len)`, mapped with pages of `page` bytes (a power of two).
    ///
    /// `None` when the table is full or the handler could not be installed.
    pub(crate) fn register(start: usize, len: usize, page: usize) -> Option<Guard> {
        let end = start.checked_add(len)?;
        if !*INSTALLED.get_or_init(install) {
            return None;
        }
        let slot = SLOTS.iter().position(|slot| {
            slot.taken
                .compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })?;
        SLOTS.get(slot)?.write(start, end, page);
        Some(Guard { slot })
    }

    /// A page of the mapping was replaced because the file behind it had gone.
    pub(crate) fn faulted(&self) -> bool {
        SLOTS
            .get(self.slot)
            .is_some_and(|slot| slot.faulted.load(Ordering::Relaxed))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(slot) = SLOTS.get(self.slot) {
            slot.write(0, 0, 0);
            slot.taken.store(false, Ordering::Release);
        }
    }
}

/// Whether any mapping has faulted since the process began: as long as none has, nobody need ask about its own.
#[inline]
pub(crate) fn any_faulted() -> bool {
    FAULTED.load(Ordering::Acquire)
}

/// Puts a zero page under `address` if it lies in a guarded mapping.
fn patch(address: usize) -> bool {
    for slot in &SLOTS {
        let Some(page) = slot.covers(address) else {
            continue;
        };
        let base = address & !(page.wrapping_sub(1));
        // The flag first: another thread may run on as soon as the page is there.
        slot.faulted.store(true, Ordering::Release);
        FAULTED.store(true, Ordering::Release);
        // SAFETY: the page lies in a mapping which `Guard::register`'s caller owns and keeps
        // mapped (mappings start and end on multiples of their page size), and which is only ever
        // accessed through volatile slices; replacing its pages invalidates no Rust reference.
        let mapped = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(base),
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        return mapped != libc::MAP_FAILED;
    }
    false
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler; `si_addr` is
    // meaningful for BUS_ADRERR, which only the kernel sends.
    let handled = unsafe { (*info).si_code == libc::BUS_ADRERR && patch((*info).si_addr().addr()) };
    if !handled {
        pass_on(signal, info, context);
    }
}

/// Does what would have happened without the guard.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().filter(|action| {
        action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN
    });
    let Some(previous) = previous else {
        // SAFETY: an all-zero sigaction is the default action with an empty mask; sigaction and
        // raise are async-signal-safe. The signal is blocked until this handler returns.
        unsafe {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, &default, ptr::null_mut());
            libc::raise(signal);
        }
        return;
    };
    if previous.sa_flags & libc::SA_SIGINFO != 0 {
        // SAFETY: with SA_SIGINFO the stored address is a handler with this signature.
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal, info, context);
    } else {
        // SAFETY: without SA_SIGINFO the stored address is a handler of one argument.
        let handler: extern "C" fn(libc::c_int) =
            unsafe { std::mem::transmute(previous.sa_sigaction) };
        handler(signal);
    }
}

/// Installs the handler, once in the life of the process.
fn install() -> bool {
    // SAFETY: plain sigaction calls with valid pointers; the handler is async-signal-safe and runs
    // on the alternate stack where a thread has one. The old action is stored before ours is in
    // force, so that the handler always finds it.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &mut old) != 0 {
            return false;
        }
        let _ = PREVIOUS.set(old);
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = on_sigbus as *const () as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &new, ptr::null_mut()) == 0
    }
}
