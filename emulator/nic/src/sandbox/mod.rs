//! The jail that `vfnic run` puts itself into once everything is open: each thread can do what its work takes and nothing else,
//! so that whoever takes it over, by a bug that nobody knows, has the guests' memory but neither this user's files nor other
//! processes, networks or privileges. Each thread goes in by itself, before it sees anything of a guest; those that it starts
//! later are in there with it. Never ends the process: a call that is not allowed fails, and nobody else's frames stop for it.

mod calls;
mod files;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Whether threads go into the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// They do, as far as the kernel has one.
    On,
    /// They do not.
    Off,
}

/// What a thread is for, which says what it may do.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    /// It moves frames: descriptors that it has been given are read, written and waited for.
    Data,
    /// It waits for something to write down or to hand on: the log, signals.
    Quiet,
    /// It answers scrapes, and asks over the control socket.
    Scrapes,
    /// It is a guest on a VF with a tap: it connects to the VF's socket, shares memory of its own, and shows its host a carrier.
    Tap,
    /// It serves sockets, and starts threads that write what others want to have written.
    Control(&'a Needs),
}

/// What the control thread needs of the system when everything is open.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Folders in which sockets are made and removed, and files of ours written.
    folders: Vec<PathBuf>,
    privileges: CapabilitySet,
}

impl Needs {
    /// What it takes to make and remove sockets and files of ours in `folders`, to connect to sockets in the folders `met`, and to have
    /// sockets be a group's if some are.
    #[must_use]
    pub fn new(
        mut folders: Vec<PathBuf>,
        met: impl IntoIterator<Item = PathBuf>,
        gives_groups: bool,
    ) -> Needs {
        folders.sort_unstable();
        folders.dedup();
        let mut privileges = CapabilitySet::empty();
        if geteuid().is_root() {
            // Of a folder that is another user's, root is not the owner, nor of a socket there that somebody else listens on.
            let all = folders.iter().cloned().chain(met);
            if !all.into_iter().all(|folder| files::is_own(&folder)) {
                privileges |= CapabilitySet::DAC_OVERRIDE;
            }
            // Nor need root be in the group that sockets are given.
            if gives_groups {
                privileges |= CapabilitySet::CHOWN;
            }
        }
        Needs {
            folders,
            privileges,
        }
    }
}

impl Sandbox {
    /// Puts the calling thread in, for good. Where the kernel has a part of the jail only, that is what it is, and the log says
    /// so once.
    pub fn confine(self, role: Role<'_>) {
        if self == Sandbox::Off {
            return;
        }
        // rustix reads what the kernel has told the process at its start (getauxval(3)) when it is first asked, which it cannot in there.
        let _ = rustix::param::page_size();
        let privileges = match role {
            Role::Control(needs) => needs.privileges,
            _ => CapabilitySet::empty(),
        };
        static COMPLAINED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];
        let [drop, landlock, seccomp] = &COMPLAINED;
        complain(drop, "privileges are kept", keep_only(privileges));
        let files = match role {
            Role::Control(needs) => files::confine(needs),
            // They open nothing.
            _ => Ok(()),
        };
        complain(landlock, "files are those of this user", files);
        complain(
            seccomp,
            "system calls are all allowed",
            calls::confine(role),
        );
    }
}

fn complain(once: &AtomicBool, what: &str, done: Result<(), String>) {
    if let Err(why) = done
        && !once.swap(true, Ordering::Relaxed)
    {
        tracing::warn!("the sandbox is not complete, {what}: {why}");
    }
}

/// Gives all privileges up but these, as far as there are any, and those that a program which is started would have.
fn keep_only(privileges: CapabilitySet) -> Result<(), String> {
    let lower = |error: rustix::io::Errno| io::Error::from(error).to_string();
    rustix::thread::set_no_new_privs(true).map_err(lower)?;
    let sets = rustix::thread::capabilities(None).map_err(lower)?;
    let kept = sets.permitted & privileges;
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
    .map_err(lower)
}

#[cfg(test)]
mod tests;
