//! What is heard of who says stop. Ends the process where nobody else does in time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vfnic::sandbox::{Role, Sandbox};

use crate::failure::{Failure, failed};

/// How long the process may take to end in good order when it is told to.
const GRACE: Duration = Duration::from_secs(10);

/// Something arrives here when the user says stop, or closes the terminal. If that is not heard in time, or the user says it
/// again, the process ends all the same.
pub(crate) fn signals() -> Result<UnixStream, Failure> {
    signals_in(Sandbox::Off)
}

/// The same, where the thread that waits for them is in the sandbox.
pub(crate) fn signals_in(sandbox: Sandbox) -> Result<UnixStream, Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let (mut caught, on_signal) = UnixStream::pair().map_err(failed)?;
    // Under nohup(1) a closed terminal is to change nothing.
    let hang_up = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    for signal in [SIGTERM, SIGINT].into_iter().chain(hang_up) {
        let on_signal = on_signal.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, on_signal).map_err(failed)?;
    }
    let (signals, mut forward) = UnixStream::pair().map_err(failed)?;
    let wait = move || {
        sandbox.confine(Role::Quiet);
        let mut byte = [0];
        if caught.read_exact(&mut byte).is_err() {
            return;
        }
        // It fails only when whoever would hear it is about to end.
        let _ = forward.write_all(&byte);
        let _ = caught.set_read_timeout(Some(GRACE));
        let _ = caught.read(&mut byte);
        // Nothing is said: what holds the others up may be the log.
        signal_hook::low_level::exit(1);
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(wait).map_err(failed)?;
    Ok(signals)
}

/// Whether this process was started with that signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 != 0)
}
