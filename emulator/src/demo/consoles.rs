//! The demonstration without tmux: one guest's console at a time, with a key for the other and one for the path. Starts no NIC.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::{Guest, Nic, end_group, stop_flag};
use crate::failure::{Failure, failed};

/// Bytes of a guest's console that are kept while the other's is shown.
const KEPT: usize = 64 << 10;
/// How often it is looked whether the process is to end.
const TICK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// What a byte from the keyboard means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// Ctrl-]: the other guest's console.
    Other,
    /// Ctrl-\: the other path.
    Path,
    /// Ctrl-^: the end.
    End,
    /// It is the guest's.
    Guest(u8),
}

fn key(byte: u8) -> Key {
    match byte {
        0x1d => Key::Other,
        0x1c => Key::Path,
        0x1e => Key::End,
        byte => Key::Guest(byte),
    }
}

/// A guest that runs, and its console.
struct Console {
    name: &'static str,
    child: Child,
    line: UnixStream,
    /// What it has said that was not shown.
    kept: Vec<u8>,
    open: bool,
}

impl Console {
    fn start(guest: Guest) -> Result<Console, Failure> {
        let (line, end) = UnixStream::pair().map_err(failed)?;
        let end = OwnedFd::from(end);
        let output = end.try_clone().map_err(failed)?;
        let Guest { name, mut command } = guest;
        command
            .stdin(Stdio::from(end))
            .stdout(Stdio::from(output))
            .stderr(Stdio::null());
        let child = command.process_group(0).spawn().map_err(failed)?;
        Ok(Console {
            name,
            child,
            line,
            kept: Vec::new(),
            open: true,
        })
    }

    /// Reads what it says; shows it or keeps the last of it.
    fn read(&mut self, shown: bool) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let n = match self.line.read(&mut bytes) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(_) => 0,
        };
        self.open = n > 0;
        let said = bytes.get(..n).unwrap_or_default();
        if shown {
            return say(said);
        }
        self.kept.extend_from_slice(said);
        let excess = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..excess);
        Ok(())
    }

    /// Shows what was kept.
    fn show(&mut self) -> io::Result<()> {
        say(format!("\r\n--- guest {} ---\r\n", self.name).as_bytes())?;
        say(&std::mem::take(&mut self.kept))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        end_group(self.child.id());
        let _ = self.child.wait();
    }
}

fn say(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// A terminal whose keys all go to this program, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> io::Result<Raw> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may have gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Until both guests have powered off, or Ctrl-^.
pub(super) fn show(nic: &Nic, guests: [Guest; 2]) -> Result<(), Failure> {
    let stop = stop_flag()?;
    println!("ctrl-] the other guest   ctrl-\\ the other path   ctrl-^ the end");
    let [a, b] = guests.map(Console::start);
    let mut consoles = [a?, b?];
    let raw = Raw::set().map_err(failed)?;
    let shown = run(nic, &mut consoles, &stop).map_err(failed);
    drop(raw);
    println!();
    shown
}

fn run(nic: &Nic, consoles: &mut [Console; 2], stop: &AtomicBool) -> io::Result<()> {
    let (mut at, mut direct) = (0, true);
    consoles[at].show()?;
    while consoles.iter().any(|console| console.open) && !stop.load(Ordering::Relaxed) {
        let stdin = io::stdin();
        let ready = {
            let fds = [
                stdin.as_fd(),
                consoles[0].line.as_fd(),
                consoles[1].line.as_fd(),
            ];
            let open = [true, consoles[0].open, consoles[1].open];
            let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, Some(&TICK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut open = open.into_iter();
            fds.map(|fd| !fd.revents().is_empty() && open.next().unwrap_or(false))
        };
        for n in [0, 1] {
            if ready[n + 1] {
                consoles[n].read(n == at)?;
                if n == at && !consoles[n].open && consoles[1 - n].open {
                    at = 1 - n;
                    consoles[at].show()?;
                }
            }
        }
        if !ready[0] {
            continue;
        }
        let mut bytes = [0; 256];
        let n = rustix::io::read(&stdin, &mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        for byte in bytes.iter().take(n) {
            match key(*byte) {
                Key::End => return Ok(()),
                Key::Other => {
                    at = 1 - at;
                    consoles[at].show()?;
                }
                Key::Path => {
                    direct = !direct;
                    let path = if direct { "direct" } else { "mediated" };
                    let said = nic.command(&["vf", "0-1", "set", "path", path]).output()?;
                    let outcome = match said.status.success() {
                        true => format!("path {path}"),
                        false => String::from_utf8_lossy(&said.stderr).trim().to_owned(),
                    };
                    say(format!("\r\n--- {outcome} ---\r\n").as_bytes())?;
                }
                // One that has gone hears nothing.
                Key::Guest(byte) => drop(consoles[at].line.write_all(&[byte])),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_keys_are_not_the_guests() {
        let ours = (0..=u8::MAX).filter(|byte| !matches!(key(*byte), Key::Guest(_)));
        assert_eq!(ours.collect::<Vec<_>>(), [0x1c, 0x1d, 0x1e]);
        // A shell's: the end of its input, and interrupt.
        assert_eq!((key(4), key(3)), (Key::Guest(4), Key::Guest(3)));
    }
}
