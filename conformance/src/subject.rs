//! The back end under test: where its sockets are, and its process if we start it.
//!
//! Never looks inside: a subject is known by its sockets, its exit status and what it last said.

use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::group::Group;

/// How long a subject may take until it is there, unless told otherwise.
const STARTING: Duration = Duration::from_secs(60);
/// How much of what a process said at last is kept, in bytes.
const LAST_WORDS: i64 = 400;

/// What to test.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    /// Socket of the first port: the subject listens there, or with `listen` connects to it.
    pub socket: PathBuf,
    /// Socket of a second port of the same switch: what is sent on one arrives on the other.
    pub peer: Option<PathBuf>,
    /// Sockets of further ports of the same switch, with `peer` two and two as the first ones are: what else is there to be served
    /// meanwhile, and what [`jobs`](crate::runner::Plan::jobs) run on.
    pub others: Vec<PathBuf>,
    /// MAC address of the first port; else what its configuration space says, else a made-up one.
    pub mac: Option<[u8; 6]>,
    /// MAC address of the second port, likewise.
    pub peer_mac: Option<[u8; 6]>,
    /// Program and arguments that start the subject; empty: it runs already.
    pub command: Vec<String>,
    /// Its process, if it runs already: what that has in use is looked at.
    pub pid: Option<u32>,
    /// Program and arguments of the control adapter, which administers the subject; empty: there is none.
    pub control: Vec<String>,
    /// Whether the subject is the client of its sockets, and the suite listens.
    pub listen: bool,
    /// Whether the process serves one session and ends with it: then a clean exit is the end of a session and nothing worse.
    pub single_session: bool,
    /// How long the subject takes at least until frames pass, after the last message of a set-up.
    pub settle: Duration,
    /// How long it may take until its sockets are there, or until it has connected to ours; a minute, unless that is said.
    pub starting: Option<Duration>,
}

/// How a process of a subject's ended, and what it said at last.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// The last line that it wrote to its standard output or error.
    pub last_words: String,
}

impl Ended {
    /// Whether it ended by itself, and not by a signal.
    pub fn by_itself(&self) -> bool {
        self.status.signal().is_none()
    }
}

impl Subject {
    /// How long it may take until it is there.
    pub(crate) fn patience(&self) -> Duration {
        self.starting.unwrap_or(STARTING)
    }

    /// All its sockets, in the order in which a control adapter numbers their ports.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &PathBuf> {
        let first = [Some(&self.socket), self.peer.as_ref()];
        first.into_iter().flatten().chain(&self.others)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.status)?;
        match &self.last_words[..] {
            "" => Ok(()),
            words => write!(f, "; it said at last: {words}"),
        }
    }
}

/// What a process has in use, as far as it tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    descriptors: u64,
    mappings: u64,
    threads: u64,
    /// Memory of its own, in KiB: not what guests share with it.
    memory: u64,
}

/// Mappings that an allocator may make at any time.
const MAPPINGS: u64 = 8;
/// Memory of its own that a process may take for good at any time, in KiB: caches, pools.
const MEMORY: u64 = 64 << 10;

impl Resources {
    /// Reads them.
    pub(crate) fn of(pid: u32) -> io::Result<Resources> {
        let entries = |what: &str| -> io::Result<u64> {
            Ok(std::fs::read_dir(format!("/proc/{pid}/{what}"))?.count() as u64)
        };
        let text = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}"));
        let status = text("status")?;
        let memory = status.lines().find_map(|line| {
            let rest = line.strip_prefix("RssAnon:")?;
            rest.trim().trim_end_matches(" kB").parse().ok()
        });
        Ok(Resources {
            descriptors: entries("fd")?,
            mappings: text("maps")?.lines().count() as u64,
            threads: entries("task")?,
            memory: memory.unwrap_or_default(),
        })
    }

    /// Whether there is as much of everything but memory.
    pub(crate) fn is_like(&self, other: &Resources) -> bool {
        Resources {
            memory: other.memory,
            ..*self
        } == *other
    }

    /// Whether there is no more of anything than there was, but for what an allocator takes.
    pub(crate) fn fits(&self, before: &Resources) -> bool {
        self.descriptors <= before.descriptors
            && self.mappings <= before.mappings + MAPPINGS
            && self.threads <= before.threads
            && self.memory <= before.memory + MEMORY
    }

    /// What there may be after so many sessions more, each of which leaves behind as much as an ordinary one.
    pub(crate) fn after(&self, sessions: u64, leaves: &Leaves) -> Resources {
        Resources {
            descriptors: self.descriptors + sessions * leaves.descriptors,
            mappings: self.mappings + sessions * leaves.mappings,
            threads: self.threads + sessions * leaves.threads,
            memory: self.memory,
        }
    }
}

/// What an ordinary session leaves behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Leaves {
    descriptors: u64,
    mappings: u64,
    threads: u64,
}

impl Leaves {
    /// Of so many sessions; a part of anything counts as one.
    pub(crate) fn of(before: &Resources, after: &Resources, sessions: u64) -> Leaves {
        let each = |before: u64, after: u64| after.saturating_sub(before).div_ceil(sessions.max(1));
        Leaves {
            descriptors: each(before.descriptors, after.descriptors),
            mappings: each(before.mappings, after.mappings),
            threads: each(before.threads, after.threads),
        }
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} descriptors, {} mappings, {} threads, {} KiB",
            self.descriptors, self.mappings, self.threads, self.memory
        )
    }
}

/// A subject's process, killed with all that it has started when dropped.
#[derive(Debug)]
pub struct Process {
    group: Group,
    output: std::fs::File,
}

impl Process {
    /// Starts the subject's command, if it has one, and waits until its sockets are there.
    pub fn start(subject: &Subject) -> io::Result<Option<Process>> {
        let Some((program, args)) = subject.command.split_first() else {
            return Ok(None);
        };
        let sockets: Vec<&Path> = subject.sockets().map(PathBuf::as_path).collect();
        if !subject.listen {
            for socket in &sockets {
                remove(socket)?;
            }
        }
        let output = tempfile::tempfile()?;
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?);
        let group = Group::spawn(&mut command)?;
        let mut process = Process { group, output };
        let patience = subject.patience();
        let deadline = Instant::now() + patience;
        while let Some(missing) = sockets.iter().find(|path| !path.exists())
            && !subject.listen
        {
            let why = match process.exited()? {
                Some(ended) => format!(
                    "{program} ended before it made {}: {ended}",
                    missing.display()
                ),
                None if Instant::now() > deadline => {
                    format!(
                        "{program} did not make {} within {patience:?}",
                        missing.display()
                    )
                }
                None => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        Ok(Some(process))
    }

    /// How the process ended, if it is gone.
    pub fn exited(&mut self) -> io::Result<Option<Ended>> {
        let Some(status) = self.group.exited()? else {
            return Ok(None);
        };
        let last_words = self.last_words().unwrap_or_default();
        Ok(Some(Ended { status, last_words }))
    }

    /// The id of the process, which is its group's, too.
    pub fn id(&self) -> u32 {
        self.group.id()
    }

    /// The last line that is there and is not empty.
    fn last_words(&mut self) -> io::Result<String> {
        let end = self.output.seek(SeekFrom::End(0))?;
        let back = i64::try_from(end).unwrap_or(LAST_WORDS).min(LAST_WORDS);
        self.output.seek(SeekFrom::End(-back))?;
        let mut bytes = Vec::new();
        self.output.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let line = text
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty());
        Ok(line.unwrap_or_default().to_owned())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            let path = path.display();
            Err(io::Error::new(e.kind(), format!("{path}: {e}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &tempfile::TempDir, script: &str) -> Subject {
        Subject {
            socket: dir.path().join("a.sock"),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            ..Subject::default()
        }
    }

    #[test]
    fn a_process_that_ends_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            Process::start(&shell(&dir, "echo one; echo no memory >&2; exit 3")).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("a.sock: exit status: 3; it said at last: no memory"),
            "{said}"
        );
        let mut absent = shell(&dir, "");
        absent.command = vec!["/nonexistent/backend".into()];
        let said = Process::start(&absent).unwrap_err().to_string();
        assert!(said.starts_with("/nonexistent/backend: "), "{said}");
    }

    #[test]
    fn what_an_ordinary_session_leaves_is_no_news() {
        let before = Resources {
            descriptors: 10,
            mappings: 100,
            threads: 3,
            memory: 5000,
        };
        let after = Resources {
            descriptors: 14,
            ..before
        };
        let leaves = Leaves::of(&before, &after, 4);
        assert!(after.after(3, &leaves).descriptors == 17);
        assert!(!after.fits(&before));
        assert!(after.fits(&before.after(4, &leaves)));
        assert!(!after.fits(&before.after(3, &leaves)));
        let grown = Resources {
            memory: before.memory + MEMORY + 1,
            ..before
        };
        assert!(!grown.fits(&before));
    }

    #[test]
    fn what_a_wrapper_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "sleep 1000 & echo $! > {0}/pid; mv {0}/pid {0}/a.sock; wait",
            dir.path().display()
        );
        let process = Process::start(&shell(&dir, &script)).unwrap().unwrap();
        let pid = std::fs::read_to_string(dir.path().join("a.sock")).unwrap();
        drop(process);
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let deadline = Instant::now() + Duration::from_secs(10);
        // An orphan is gone, or waits for somebody to ask how it ended.
        while state().is_ok_and(|stat| !stat.contains(" Z ")) {
            assert!(Instant::now() < deadline, "{:?}", state());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
