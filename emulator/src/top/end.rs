//! What ends `vfnic top` besides its keys: a signal, or a terminal that goes. Reads nothing of the terminal and draws nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::failure::{Failure, failed};
use crate::signals::signals;

/// How long the loop may take to end in good order. Where the terminal has gone it never does: crossterm reads nothing there, again and again.
const GRACE: Duration = Duration::from_secs(1);

/// Sets `stop` when it is time to end, and ends the process unless what this returns is dropped soon after.
pub(super) fn watch(stop: &Arc<AtomicBool>) -> Result<Sender<()>, Failure> {
    let signals = signals()?;
    let (has_ended, ended) = channel();
    let stop = Arc::clone(stop);
    let wait = move || {
        let stdin = io::stdin();
        // Of the terminal only that it has gone, which poll(2) tells unasked.
        let mut ends = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&stdin, PollFlags::empty()),
        ];
        while poll(&mut ends, None) == Err(Errno::INTR) {}
        stop.store(true, Ordering::Relaxed);
        if ended.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
            // It may be there still.
            let _ = ratatui::try_restore();
            std::process::exit(0);
        }
    };
    let thread = std::thread::Builder::new().name("end".to_owned());
    thread.spawn(wait).map_err(failed)?;
    Ok(has_ended)
}
