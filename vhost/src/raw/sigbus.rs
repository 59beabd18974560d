//! The SIGBUS guard: a front end that shrinks a file we have mapped breaks its own device only.
//!
//! A load or store behind the end of a mapped file raises SIGBUS. The handler here looks the
//! faulting address up in a table of registered mappings, puts private zero pages under the whole
//! mapping, marks it as faulted and lets the access go on. The whole of it, for two reasons: the
//! number of mappings of the process stays what it was, where one page at a time would split
//! mappings until `vm.max_map_count` forbids it, and a batch of frames on thousands of vanished
//! pages costs one fault. Whoever works on the memory looks at the mark once a burst, so the session
//! ends long before anything else of the guest's is believed.
//!
//! Any other SIGBUS goes where it would have gone without us. The handler takes no lock, allocates
//! nothing and calls only async-signal-safe functions. The table grows as long as mappings are
//! registered, so that one device's regions never take the room of another's.
//!
//! A signal handler, its installation and the fixed-address `mmap` cannot be had without `unsafe`. Never reads or writes
//! guest memory.

#![expect(clippy::arithmetic_side_effects, reason = "addresses inside a mapping")]

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

/// Slots that the table grows by.
const CHUNK: usize = 256;

/// One guarded mapping. `version` is odd while the slot is being written: a reader that saw an
/// odd or a changed number takes nothing from the slot. The slot that covers a faulting address
/// cannot change meanwhile, as whoever touches the mapping keeps it registered.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    version: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    page: AtomicUsize,
    faulted: AtomicBool,
}

/// A part of the table. The handler walks through all of them.
#[derive(Debug)]
struct Chunk {
    slots: [Slot; CHUNK],
    next: OnceLock<Box<Chunk>>,
}

static TABLE: Chunk = Chunk::new();

/// Registered mappings that have faulted.
static FAULTED: AtomicUsize = AtomicUsize::new(0);

/// A mapping that exists in order to be given up: the room for one more where the process has as many as it may.
static SPARE: AtomicUsize = AtomicUsize::new(0);
/// Its length, any number of pages of any size.
const SPARE_LEN: usize = 1 << 16;

/// What SIGBUS did before the guard was installed.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static INSTALLED: OnceLock<bool> = OnceLock::new();

impl Chunk {
    const fn new() -> Chunk {
        Chunk {
            slots: [const {
                Slot {
                    taken: AtomicBool::new(false),
                    version: AtomicU32::new(0),
                    start: AtomicUsize::new(0),
                    end: AtomicUsize::new(0),
                    page: AtomicUsize::new(0),
                    faulted: AtomicBool::new(false),
                }
            }; CHUNK],
            next: OnceLock::new(),
        }
    }

    /// A free slot of this part or those behind it, taken.
    fn take(&self) -> &Slot {
        let mut chunk = self;
        loop {
            let free = |slot: &&Slot| {
                !slot.taken.load(Ordering::Relaxed) && !slot.taken.swap(true, Ordering::Acquire)
            };
            if let Some(slot) = chunk.slots.iter().find(free) {
                return slot;
            }
            chunk = chunk.next.get_or_init(|| Box::new(Chunk::new()));
        }
    }
}

impl Slot {
    fn write(&self, start: usize, end: usize, page: usize) {
        self.version.fetch_add(1, Ordering::AcqRel);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.end.store(end, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Start, end and page size of the mapping if it covers `address`.
    fn covers(&self, address: usize) -> Option<(usize, usize, usize)> {
        let before = self.version.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let end = self.end.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = before & 1 == 0 && before == self.version.load(Ordering::Relaxed);
        (stable && start <= address && address < end).then_some((start, end, page))
    }
}

/// Keeps one mapping in the table. It must be dropped before the mapping is unmapped.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: &'static Slot,
}

impl Guard {
    /// Guards `[start, start + len)`, mapped with pages of `page` bytes (a power of two).
    ///
    /// `None` when the handler could not be installed.
    pub(crate) fn register(start: usize, len: usize, page: usize) -> Option<Guard> {
        let end = start.checked_add(len)?;
        if !*INSTALLED.get_or_init(install) {
            return None;
        }
        let slot = TABLE.take();
        slot.write(start, end, page);
        Some(Guard { slot })
    }

    /// The mapping was replaced because the file behind it had gone.
    pub(crate) fn faulted(&self) -> bool {
        self.slot.faulted.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.write(0, 0, 0);
        if self.slot.faulted.swap(false, Ordering::Relaxed) {
            FAULTED.fetch_sub(1, Ordering::Relaxed);
        }
        self.slot.taken.store(false, Ordering::Release);
    }
}

/// Whether any registered mapping has faulted: as long as none has, nobody need ask about its own.
#[inline]
pub(crate) fn any_faulted() -> bool {
    FAULTED.load(Ordering::Acquire) > 0
}

/// Puts zero pages under the guarded mapping that `address` lies in, if it does.
fn patch(address: usize) -> bool {
    let mut chunk = Some(&TABLE);
    while let Some(Chunk { slots, next }) = chunk {
        for slot in slots {
            let Some((start, end, page)) = slot.covers(address) else {
                continue;
            };
            // The mark first: another thread may run on as soon as the pages are there.
            if !slot.faulted.swap(true, Ordering::AcqRel) {
                FAULTED.fetch_add(1, Ordering::AcqRel);
            }
            let base = address & !(page.wrapping_sub(1));
            return map_zeros(start, end - start)
                || with_the_spare(|| map_zeros(start, end - start))
                // So much may be more than the system promises (`vm.overcommit_memory=2`).
                || map_zeros(base, page);
        }
        chunk = next.get().map(Box::as_ref);
    }
    false
}

/// Puts private zero pages in the place of what is mapped.
fn map_zeros(at: usize, len: usize) -> bool {
    // SAFETY: the pages are all or some of a mapping which `Guard::register`'s caller owns and keeps
    // mapped (mappings start and end on multiples of their page size), and which is only ever
    // accessed through volatile slices; replacing its pages invalidates no Rust reference.
    let mapped = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(at),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

/// Does something while the spare mapping is away, which is whole and nobody's.
fn with_the_spare(work: impl Fn() -> bool) -> bool {
    let spare = SPARE.swap(0, Ordering::AcqRel);
    if spare != 0 {
        // SAFETY: `reserve_spare` has mapped it, nobody knows its address but this static, from which it has just been
        // taken, and nothing is ever accessed there.
        unsafe { libc::munmap(ptr::without_provenance_mut(spare), SPARE_LEN) };
    }
    let done = work();
    if spare != 0 {
        reserve_spare();
    }
    done
}

/// Maps the spare, if there is room.
fn reserve_spare() {
    // SAFETY: a new mapping wherever the kernel likes, which touches no other.
    let spare = unsafe {
        libc::mmap(
            ptr::null_mut(),
            SPARE_LEN,
            libc::PROT_NONE,
            // A file's page, so that it never becomes one with an anonymous neighbour.
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if spare != libc::MAP_FAILED {
        SPARE.store(spare.addr(), Ordering::Release);
    }
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler; `si_addr` is
    // meaningful for BUS_ADRERR, which only the kernel sends. `errno` is the interrupted thread's own.
    let handled = unsafe {
        let errno = *libc::__errno_location();
        let handled = (*info).si_code == libc::BUS_ADRERR && patch((*info).si_addr().addr());
        *libc::__errno_location() = errno;
        handled
    };
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
        reserve_spare();
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = on_sigbus as *const () as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &new, ptr::null_mut()) == 0
    }
}
