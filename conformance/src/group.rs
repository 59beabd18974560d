//! Programs that this process has started, each with what it starts itself in a process group, and ended with it: when the [`Group`] is
//! dropped, and when somebody ends this process by a signal. Never waits for one that does not want to end.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group};

/// Leaders of all groups that there are.
static LEADERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A program that runs. Dropped, it is killed with all that it has started.
#[derive(Debug)]
pub struct Group(Child);

impl Group {
    /// Starts a program in a group of its own.
    ///
    /// # Errors
    /// As [`Command::spawn`], with the program's name.
    pub fn spawn(command: &mut Command) -> io::Result<Group> {
        let child = command.process_group(0).spawn().map_err(|error| {
            let program = command.get_program().display();
            io::Error::new(error.kind(), format!("{program}: {error}"))
        })?;
        leaders().insert(child.id());
        Ok(Group(child))
    }

    /// The id of the program's process, which is its group's, too.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The process itself, for its pipes and its end.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// How the program ended, if it has.
    ///
    /// # Errors
    /// As [`Child::try_wait`].
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        signal(self.id(), Signal::KILL);
        // Fails only when somebody else has waited for it.
        let _ = self.0.wait();
        leaders().remove(&self.id());
    }
}

/// Sends a signal to the group that a process leads.
pub(crate) fn signal(leader: u32, signal: Signal) {
    if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        // Fails only when nobody of it is left.
        let _ = kill_process_group(group, signal);
    }
}

fn leaders() -> MutexGuard<'static, BTreeSet<u32>> {
    LEADERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has SIGINT, SIGTERM and SIGHUP end all groups before they end this process: a terminal does not, as it knows only this one's group.
/// Groups have `patience` to end in order.
///
/// # Errors
/// The system's, if signals cannot be had.
#[cfg(feature = "cli")]
pub fn end_with_this_process(patience: std::time::Duration) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if let Some(number) = signals.forever().next() {
            // Kept: nobody starts another one.
            let leaders = leaders();
            leaders.iter().for_each(|id| signal(*id, Signal::TERM));
            std::thread::sleep(patience);
            leaders.iter().for_each(|id| signal(*id, Signal::KILL));
            std::process::exit(128 + number);
        }
    });
    Ok(())
}
