//! The back end under test: where its sockets are, and its process if we start it.
//!
//! Never looks inside: a subject is known by its sockets and its exit status alone.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// What to test.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// Socket the subject listens on.
    pub socket: PathBuf,
    /// Second socket of the same switch: what is sent on one arrives on the other.
    pub peer: Option<PathBuf>,
    /// MAC address of the first port; else what its configuration space says, else a made-up one.
    pub mac: Option<[u8; 6]>,
    /// MAC address of the second port, likewise.
    pub peer_mac: Option<[u8; 6]>,
    /// Command that starts the subject; empty: it runs already.
    pub command: Vec<String>,
}

/// A subject's process, killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts the subject's command, if it has one, and waits until its socket is there.
    pub fn start(subject: &Subject) -> io::Result<Option<Process>> {
        let Some((program, args)) = subject.command.split_first() else {
            return Ok(None);
        };
        remove(&subject.socket)?;
        let mut process = Process {
            child: Command::new(program).args(args).spawn()?,
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !subject.socket.exists() {
            if process.exited()?.is_some() || Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "the subject did not make its socket",
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(process))
    }

    /// The exit status, if the process is gone.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
