//! A signal that ends a system call in which a thread waits.
//!
//! `SIGURG`: whoever has no handler for it ignores it, and the Go runtime interrupts its threads with it for the same reason.
//! The handler does nothing, and is installed without `SA_RESTART`: a call that waits returns `EINTR`.
//! Handlers, masks and signals to one thread cannot be had without `unsafe`. Never decides whom to interrupt.

use std::ptr;
use std::sync::OnceLock;

const SIGNAL: libc::c_int = libc::SIGURG;

extern "C" fn ignore(_: libc::c_int) {}

/// Sees to it that [`interrupt`] interrupts; `false` if the process uses the signal for something else.
pub(crate) fn prepare() -> bool {
    static PREPARED: OnceLock<bool> = OnceLock::new();
    *PREPARED.get_or_init(|| {
        // SAFETY: plain sigaction calls with valid pointers; a handler that does nothing is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let known = libc::sigaction(SIGNAL, ptr::null(), &mut action) == 0;
            if !known || ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction) {
                return false;
            }
            action = std::mem::zeroed();
            action.sa_sigaction = ignore as *const () as usize;
            libc::sigaction(SIGNAL, &action, ptr::null_mut()) == 0
        }
    })
}

/// Lets this thread be interrupted, whatever whoever started the process has blocked.
pub(crate) fn accept() {
    // SAFETY: a signal set of our own, initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut());
    }
}

/// Interrupts a thread of this process, which has not ended.
pub(crate) fn interrupt(thread: i32) {
    // SAFETY: it only sends a signal, whose handler does nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, SIGNAL) };
}
