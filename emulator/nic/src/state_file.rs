//! What commands have changed, in a file for the next start: a configuration file that is written whole, beside the one that is
//! there, and takes its place when it is on the disk. Whoever is killed leaves the old or the new one. A thread of its own writes;
//! nobody waits for a disk but the clients whose commands are written down.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use mio::Waker;
use rustix::fs::{FlockOperation, OFlags};
use vf_model::Policy;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::initial_policy;
use crate::config::{Config, ConfigError};
use crate::handover::SavedState;
use crate::kept::Kept;

/// Its name in its folder.
const FILE: &str = "state.toml";
/// What is locked beside it.
const LOCK: &str = "state.lock";
/// What it begins with, before the hash of all that follows.
const MAGIC: &str = "# vfnic state 1 ";
/// What stands between the settings and the configuration that they were made from.
const STARTED_WITH: &str = "# Started with:\n";
/// What stands before each line of that.
const QUOTE: &str = "# | ";
/// No state of ours is longer.
const LONGEST: u64 = 64 << 20;
/// How long after it could not be written it is tried again, if no command has it tried before.
const AGAIN: Duration = Duration::from_secs(2);

/// Why a state cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read or written.
    #[error("{path}: {source} (--state names another folder, --no-state does without)")]
    Io {
        /// The file or its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a vfnic has left.
    #[error(
        "{path} is {what}: remove it to start from the configuration, or say --no-state to leave it as it is"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// This vfnic does not understand it.
    #[error("{0} (--no-state starts without it)")]
    Config(#[from] ConfigError),
    /// Another process keeps its state there.
    #[error("another vfnic keeps its state in {0}: choose another --state, or --no-state")]
    InUse(PathBuf),
}

/// The file, and what belongs in it.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// What the process was told to start with.
    started_with: Config,
    lock: Option<Lock>,
}

/// A locked file beside the state.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl StateFile {
    /// Looks into `folder`, or the socket directory, for what commands have made of this configuration before, and says what to start
    /// with. If the configuration is another one by now, that is what it says, and the state is put aside.
    ///
    /// # Errors
    /// [`StateError`]; nothing has changed then.
    pub fn open(folder: Option<&Path>, config: Config) -> Result<(StateFile, Config), StateError> {
        // Another process may have been told to keep its state in the folder of these sockets.
        let folder = folder.unwrap_or(&config.socket_dir);
        let lock = Some(lock(folder)?);
        let path = folder.join(FILE);
        let failed = |source| StateError::Io {
            path: path.clone(),
            source,
        };
        let file = StateFile {
            path: path.clone(),
            started_with: config.clone(),
            lock,
        };
        let Some(text) = read(&path).map_err(failed)? else {
            return Ok((file, config));
        };
        let foreign = |what| StateError::Foreign {
            path: path.clone(),
            what,
        };
        let whole = text.strip_prefix(MAGIC);
        let whole = whole.ok_or_else(|| foreign("no state of a vfnic"))?;
        let body = whole
            .split_once('\n')
            .filter(|(hash, body)| *hash == hash_of(body));
        let (_, body) = body.ok_or_else(|| foreign("cut off, or not as vfnic has left it"))?;
        let (settings, before) = body.split_once(STARTED_WITH).unwrap_or((body, ""));
        let before: String = before
            .lines()
            .filter_map(|line| line.strip_prefix(QUOTE))
            .flat_map(|line| [line, "\n"])
            .collect();
        // One that cannot be read any more, as a capture that it names is gone, is another one.
        let same = Config::of_text(&before, &path)
            .is_ok_and(|before| initial(&before) == initial(&config));
        let shown = path.display();
        if !same {
            let aside = path.with_extension("toml.old");
            fs::rename(&path, &aside).map_err(failed)?;
            tracing::warn!(
                "the configuration has changed since {shown} was written: the configuration holds, and what commands had made is in {}",
                aside.display()
            );
            return Ok((file, config));
        }
        tracing::info!(
            "going on with {shown}, which commands have made of the configuration (--no-state starts from that)"
        );
        Ok((file, Config::of_text(settings, &path)?))
    }

    /// The file of a process that hands it over, with all that is locked there.
    #[must_use]
    pub fn adopt(
        folder: Option<&Path>,
        socket_dir: &Path,
        started_with: Config,
        lock: Option<OwnedFd>,
    ) -> StateFile {
        let lock = folder.zip(lock).map(|(folder, file)| Lock {
            path: folder.join(LOCK),
            file: file.into(),
        });
        StateFile {
            path: folder.unwrap_or(socket_dir).join(FILE),
            started_with,
            lock,
        }
    }

    /// What another process has to know to go on with it, and the lock on its folder.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self) -> io::Result<(SavedState, Option<OwnedFd>)> {
        let lock = self.lock.as_ref();
        let fd = lock.map(|lock| lock.file.try_clone().map(OwnedFd::from));
        let state = SavedState {
            folder: lock.and_then(|lock| lock.path.parent().map(Path::to_owned)),
            started_with: initial(&self.started_with).unwrap_or_default(),
            unwritten: false,
        };
        Ok((state, fd.transpose()?))
    }

    /// Has a thread write what it is told to; `waker` wakes whoever waits for that.
    ///
    /// # Errors
    /// The system's.
    pub fn start(self, waker: Arc<Waker>) -> io::Result<StateWriter> {
        let (to, states) = unbounded();
        let kept = Kept::new(self.path.clone());
        let noted = kept.clone();
        let thread = std::thread::Builder::new().name("state".to_owned());
        let thread = thread.spawn(move || self.write_all(&states, &noted, &waker))?;
        Ok(StateWriter {
            asked: 0,
            to: Some(to),
            kept,
            thread: Some(thread),
        })
    }

    fn write_all(&self, states: &Receiver<Told>, noted: &Kept, waker: &Waker) {
        let mut last = String::new();
        // What could not be written, which is tried again, and for the last time when no more comes.
        let mut unwritten: Option<State> = None;
        let mut over = false;
        while !over {
            let come = match unwritten {
                None => states.recv().map_err(RecvTimeoutError::from),
                Some(_) => states.recv_timeout(AGAIN),
            };
            over = matches!(come, Err(RecvTimeoutError::Disconnected));
            let before = unwritten.take();
            let failing = before.is_some();
            // Of several that have come meanwhile, the last one.
            let come = states.try_iter().last().or(come.ok());
            let Some(state) = come.map_or(before, Told::state) else {
                continue;
            };
            let text = text_of(&self.started_with, &state.config, &state.policies);
            let kept = text.and_then(|text| {
                if text != last {
                    self.replace(&text)?;
                    last = text;
                }
                Ok(())
            });
            let path = self.path.display();
            let kept = kept.map_err(|error| {
                let help = match error.kind() {
                    ErrorKind::PermissionDenied => {
                        " (a folder that was removed and made again is closed to the sandbox: restart vfnic)"
                    }
                    _ => "",
                };
                format!("{path}: {error}{help}")
            });
            match (&kept, failing) {
                (Err(why), false) => tracing::error!(
                    "{why}: the NICs run on, and what commands change is lost with this process unless it can be written by then"
                ),
                (Ok(()), true) => tracing::info!("{path}: what commands change is kept again"),
                _ => {}
            }
            let asked = state.asked;
            if kept.is_err() {
                unwritten = Some(state);
            }
            noted.note(asked, kept);
            // It fails only when nobody waits.
            let _ = waker.wake();
        }
    }

    /// Puts a file with this text in the place of the one that is there.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.path.with_extension("toml.new");
        // What a process has left that was killed is nobody's.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let create = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .clone();
        let mut file = create.open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// What holds after so many changes.
struct State {
    asked: u64,
    config: Arc<Config>,
    policies: Vec<Arc<Policy>>,
}

/// What the thread that writes is told.
enum Told {
    Write(State),
    /// Another process goes on with the file, and writes what could not be written.
    Leave,
}

impl Told {
    fn state(self) -> Option<State> {
        match self {
            Told::Write(state) => Some(state),
            Told::Leave => None,
        }
    }
}

/// The thread that writes. Dropping it waits until all is written.
#[derive(Debug)]
pub struct StateWriter {
    asked: u64,
    to: Option<Sender<Told>>,
    kept: Kept,
    thread: Option<JoinHandle<()>>,
}

impl StateWriter {
    /// Has this be written, and says which change [`Kept::progress`] will tell of then.
    pub fn write(&mut self, config: Arc<Config>, policies: Vec<Arc<Policy>>) -> u64 {
        self.asked += 1;
        let state = State {
            asked: self.asked,
            config,
            policies,
        };
        match self.to.as_ref().map(|to| to.send(Told::Write(state))) {
            Some(Ok(())) => self.asked,
            // Nobody is there who would.
            _ => 0,
        }
    }

    /// Writes nothing more: another process has the file.
    pub fn leave(&self) {
        // It fails only when the thread has gone.
        let _ = self.to.as_ref().map(|to| to.send(Told::Leave));
    }

    /// Whether something is not written yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.kept.progress().tried < self.asked
    }

    /// How far it is.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.kept
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        self.to = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Locks a folder for one process, and makes it if it is not there.
fn lock(folder: &Path) -> Result<Lock, StateError> {
    let path = folder.join(LOCK);
    let failed = |source| StateError::Io {
        path: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(failed)?;
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .clone();
    let file = open.open(&path).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { path, file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::InUse(folder.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes)?;
    // Other bytes are those of another file, which has no hash that would be right.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn hash_of(text: &str) -> String {
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// What a configuration says, in the one way in which this vfnic writes it.
fn initial(config: &Config) -> Option<String> {
    let policies = config.nics.iter().map(|nic| initial_policy(nic).ok());
    let policies: Option<Vec<_>> = policies.map(|policy| Some(policy?.saved())).collect();
    config.saved(&policies?).ok()
}

fn text_of(started_with: &Config, config: &Config, policies: &[Arc<Policy>]) -> io::Result<String> {
    let saved: Vec<_> = policies.iter().map(|policy| policy.saved()).collect();
    let settings = config.saved(&saved).map_err(io::Error::other)?;
    let before = initial(started_with).unwrap_or_default();
    let before: String = before
        .lines()
        .flat_map(|line| [QUOTE, line, "\n"])
        .collect();
    let body = format!(
        "# What commands have made of the configuration at the end. vfnic reads it when it is started with that again.\n\
         {settings}\n{STARTED_WITH}{before}"
    );
    Ok(format!("{MAGIC}{}\n{body}", hash_of(&body)))
}

#[cfg(test)]
mod tests {
    use vf_model::Command;

    use super::*;
    use crate::config::Overrides;

    fn config(dir: &Path, vfs: u16) -> Config {
        let over = Overrides {
            socket_dir: Some(dir.to_owned()),
            vfs: Some(vfs),
            ..Overrides::default()
        };
        Config::load(None, &over).unwrap()
    }

    fn after(config: &Config, words: &[&str]) -> Vec<Arc<Policy>> {
        let commands: Vec<_> = words
            .iter()
            .map(|words| Command::parse(&words.split(' ').collect::<Vec<_>>()).unwrap())
            .collect();
        let policy = initial_policy(&config.nics[0]).unwrap();
        vec![Arc::new(policy.with_all(&commands).unwrap())]
    }

    fn keep(dir: &Path, config: &Config, words: &[&str]) {
        let (file, _) = StateFile::open(None, config.clone()).unwrap();
        let text = text_of(&file.started_with, config, &after(config, words)).unwrap();
        file.replace(&text).unwrap();
        assert!(dir.join(FILE).exists());
    }

    #[test]
    fn what_is_kept_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), 2);
        let words = [
            "vf 1 set vlan 7",
            "filter add flow-type ether proto 5000 action drop",
        ];
        keep(dir.path(), &config, &words);
        let (_, found) = StateFile::open(None, config.clone()).unwrap();
        let policies = after(&config, &words);
        let saved: Vec<_> = policies.iter().map(|policy| policy.saved()).collect();
        assert_eq!(initial(&found), config.saved(&saved).ok());
    }

    #[test]
    fn a_configuration_that_has_changed_holds_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path(), &config(dir.path(), 2), &["vf 1 set vlan 7"]);
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        let other = config(dir.path(), 3);
        let (_, found) = StateFile::open(None, other.clone()).unwrap();
        assert_eq!(initial(&found), initial(&other));
        assert!(!dir.path().join(FILE).exists());
        let aside = fs::read_to_string(dir.path().join("state.toml.old")).unwrap();
        assert_eq!(aside, text);
        // It is a configuration by itself.
        let aside = Config::of_text(&aside, dir.path()).unwrap();
        assert!(initial(&aside).unwrap().contains("vlan = 7"));
    }

    #[test]
    fn every_torn_state_is_refused_in_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), 1);
        keep(dir.path(), &config, &["vf 0 set vlan 7"]);
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let error = StateFile::open(None, config.clone()).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("state.toml is ") && !error.contains('\n'),
                "{error}"
            );
            assert!(error.contains("--no-state"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
        };
        for end in 0..whole.len() {
            refused(&whole[..end]);
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            refused(&other);
        }
        refused(&[&whole[..], b"\n"].concat());
        refused(b"\xff\xfe");
        refused(b"[[nic]]\nname = 'a'\n");
    }

    #[test]
    fn a_folder_is_for_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let first = StateFile::open(Some(&state), config(dir.path(), 1)).unwrap();
        let second = StateFile::open(Some(&state), config(dir.path(), 1));
        assert!(matches!(second, Err(StateError::InUse(_))));
        drop(first);
        StateFile::open(Some(&state), config(dir.path(), 1)).unwrap();
        // The folder of another's sockets, too.
        let sockets = StateFile::open(None, config(&state, 1)).unwrap();
        let second = StateFile::open(Some(&state), config(dir.path(), 1));
        assert!(matches!(second, Err(StateError::InUse(_))));
        drop(sockets);
        let _first = StateFile::open(Some(&state), config(dir.path(), 1)).unwrap();
        let second = StateFile::open(None, config(&state, 1));
        assert!(matches!(second, Err(StateError::InUse(_))));
    }
}
