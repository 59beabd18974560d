//! The jail that `vfnic run` puts itself into once everything is open: each thread can do what its work takes and nothing else,
//! so that whoever takes it over, by a bug that nobody knows, has the guests' memory but neither this user's files nor other
//! processes, networks or privileges. Each thread goes in by itself, before it sees anything of a guest; those that it starts
//! later are in there with it. Never ends the process: a call that is not allowed fails, and nobody else's frames stop for it.

mod calls;
mod files;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::config::{Config, SocketRole};
use crate::metrics::MetricsAddress;
use crate::uplink::UplinkSpec;

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
    /// Devices of the host whose carrier is set. They may be made by opening them.
    devices: Vec<String>,
    privileges: CapabilitySet,
}

impl Needs {
    /// What NICs of this configuration need whose state is kept in the folder `state`, or nowhere.
    #[must_use]
    pub fn of(config: &Config, state: Option<&Path>) -> Needs {
        let vfs = config.nics.iter().flat_map(|nic| &nic.vf);
        let served = vfs.filter(|vf| vf.role != SocketRole::Client);
        let metrics = match &config.metrics {
            Some(MetricsAddress::Unix(path)) => Some(path),
            _ => None,
        };
        let ctl = config.ctl_socket();
        let sockets = served.map(|vf| &vf.socket).chain(&config.observe);
        let sockets = sockets.chain(metrics).chain([&ctl]);
        let mut folders: Vec<PathBuf> = sockets.map(|socket| folder_of(socket)).collect();
        folders.push(config.socket_dir.clone());
        folders.extend(state.map(Path::to_owned));
        folders.sort_unstable();
        folders.dedup();
        let uplinks = config.nics.iter().filter_map(|nic| nic.uplink.as_ref());
        let devices = uplinks.filter_map(UplinkSpec::host_device);
        let devices: Vec<_> = devices.map(str::to_owned).collect();

        let mut privileges = CapabilitySet::empty();
        if !devices.is_empty() {
            privileges |= CapabilitySet::NET_ADMIN; // a carrier is its alone to set
        }
        if geteuid().is_root() {
            // Of a folder that is another user's, root is not the owner, nor of a socket there that somebody else listens on.
            let vfs = config.nics.iter().flat_map(|nic| &nic.vf);
            let met = vfs.flat_map(|vf| {
                let client = (vf.role == SocketRole::Client).then_some(&vf.socket);
                client.into_iter().chain(&vf.qmp)
            });
            let met = met.map(|socket| folder_of(socket));
            if !folders
                .iter()
                .cloned()
                .chain(met)
                .all(|folder| files::is_own(&folder))
            {
                privileges |= CapabilitySet::DAC_OVERRIDE;
            }
            // Nor need root be in the group that sockets are given.
            if config.access.group.is_some() || config.ctl_group.is_some() {
                privileges |= CapabilitySet::CHOWN;
            }
        }
        Needs {
            folders,
            devices,
            privileges,
        }
    }
}

fn folder_of(socket: &Path) -> PathBuf {
    match socket.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
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
