//! The guests that this process has started: whether they have ended, and how. What is left of them ends with it. Starts none.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a guest that has hung up may take to exit.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Children(Vec<Started>);

#[derive(Debug)]
struct Started {
    /// What it calls itself on the calendar's socket.
    id: u64,
    name: String,
    process: Child,
}

impl Children {
    /// From now on this one is among them.
    pub(super) fn add(&mut self, id: u64, name: String, process: Child) {
        self.0.push(Started { id, name, process });
    }

    /// What the user calls the guest, if it is one of them.
    pub(super) fn name(&self, id: u64) -> Option<&str> {
        let child = self.0.iter().find(|child| child.id == id);
        child.map(|child| child.name.as_str())
    }

    /// The names of those whose ID is chosen.
    pub(super) fn names(&self, chosen: impl Fn(u64) -> bool) -> impl Iterator<Item = &str> {
        let children = self.0.iter().filter(move |child| chosen(child.id));
        children.map(|child| child.name.as_str())
    }

    /// Kills a guest, if it is one of them.
    pub(super) fn kill(&mut self, id: u64) {
        if let Some(child) = self.0.iter_mut().find(|child| child.id == id) {
            child.kill();
        }
    }

    /// The first one that has exited, and how. Whatever helpers it had have ended then, too, for they keep its sockets
    /// open.
    pub(super) fn exited(&mut self) -> Option<(String, ExitStatus)> {
        let mut first = None;
        for child in &mut self.0 {
            if let Some(status) = child.exited() {
                child.kill();
                first.get_or_insert_with(|| (child.name.clone(), status));
            }
        }
        first
    }

    /// How a guest that has hung up has ended; `None` if it is none of them. One that has not exited in a while is killed.
    pub(super) fn bury(&mut self, id: u64) -> Option<ExitStatus> {
        let child = self.0.iter_mut().find(|child| child.id == id)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.exited() {
                child.kill();
                return Some(status);
            }
            if Instant::now() > deadline {
                child.kill();
                return child.process.wait().ok();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Started {
    fn exited(&mut self) -> Option<ExitStatus> {
        // Only somebody else's child cannot be waited for.
        self.process.try_wait().ok().flatten()
    }

    /// Kills its process group, or if it has none of its own itself.
    fn kill(&mut self) {
        let group = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw);
        // Fails if all of them have ended.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = self.process.kill();
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill();
        }
        for child in &mut self.0 {
            let _ = child.process.wait();
        }
    }
}
