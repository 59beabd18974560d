//! A shell command of the user's that runs while something is measured: what it does to the figures is the question.
//!
//! Knows nothing of what is measured. The command's output is thrown away; its errors are the user's to see.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// From one start of the command to the next, if it has ended by then.
const EVERY: Duration = Duration::from_millis(100);
/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// The command, and the CPUs it may run on.
#[derive(Debug)]
pub(super) struct Beside {
    command: String,
    cpus: CpuSet,
}

impl Beside {
    /// A command that may run where the calling thread may: to be made before that is pinned.
    pub(super) fn new(command: &str) -> Result<Beside, String> {
        let cpus = sched_getaffinity(None).map_err(|error| error.to_string())?;
        Ok(Beside {
            command: command.to_owned(),
            cpus,
        })
    }

    /// Does `work` while the command runs: ten times a second, or once if it does not end, and then it is killed.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, String> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let runner = scope.spawn(|| self.again_and_again(&stop));
            let done = work();
            stop.store(true, Ordering::Relaxed);
            runner.thread().unpark();
            match runner.join() {
                Ok(result) => result.map(|()| done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    fn again_and_again(&self, stop: &AtomicBool) -> Result<(), String> {
        sched_setaffinity(None, &self.cpus).map_err(|error| error.to_string())?;
        while !stop.load(Ordering::Relaxed) {
            let next = Instant::now() + EVERY;
            let mut shell = self.start()?;
            let group = Pid::from_child(&shell);
            let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(group), ended), Ok(None))
                && !stop.load(Ordering::Relaxed)
            {
                thread::park_timeout(LOOK);
            }
            let in_time = !stop.load(Ordering::Relaxed);
            // The shell was not waited for yet, so that its number is nobody else's. Fails only when nobody is left.
            let _ = kill_process_group(group, Signal::KILL);
            let status = shell.wait().map_err(|error| error.to_string())?;
            if in_time && !status.success() {
                return Err(format!("{}: {status}", self.command));
            }
            while !stop.load(Ordering::Relaxed) && Instant::now() < next {
                thread::park_timeout(next.saturating_duration_since(Instant::now()));
            }
        }
        Ok(())
    }

    fn start(&self) -> Result<Child, String> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &self.command]).process_group(0);
        shell.stdin(Stdio::null()).stdout(Stdio::null());
        shell.spawn().map_err(|error| format!("sh: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a command until `done`, or for long enough.
    fn beside(command: &str, done: impl Fn() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        Beside::new(command)?.run(|| {
            while !done() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
        })
    }

    #[test]
    fn a_command_that_ends_runs_again_and_one_that_does_not_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        let lines =
            |name| std::fs::read_to_string(path(name)).map_or(0, |text| text.lines().count());
        let at = dir.path().display();
        let begin = Instant::now();
        beside(&format!("echo >>{at}/short"), || lines("short") == 3).unwrap();
        assert!(lines("short") >= 3 && begin.elapsed() >= 2 * EVERY);

        let long = format!("(sleep 0.4; echo >{at}/late) & echo >>{at}/long; wait");
        beside(&long, || lines("long") == 1).unwrap();
        thread::sleep(Duration::from_millis(600));
        assert_eq!((lines("long"), lines("late")), (1, 0));
    }

    #[test]
    fn a_command_that_fails_is_told() {
        let begin = Instant::now();
        let long_enough = || begin.elapsed() > Duration::from_millis(500);
        let error = beside("exit 3", long_enough).unwrap_err();
        assert_eq!(error, "exit 3: exit status: 3");
    }
}
