//! Saying that everything listens: a file `ready` beside the sockets, the manager's socket (`sd_notify`) where there is one,
//! and a descriptor that whoever has started the process has left open for that. Never waits for a reader.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags};
use rustix::process::{Pid, getppid};

use super::RunError;
use crate::config::{Config, temporary_socket_dir};

/// Name of the file.
const FILE: &str = "ready";
/// How long `vfnic upgrade` may take to end when it has been told that all is ready.
const STARTER_ENDS: Duration = Duration::from_secs(1);

/// The folder of a run's sockets, and the claim of this process on the file there that says when everything listens. The
/// file is removed with it.
#[derive(Debug)]
pub struct Ready {
    path: PathBuf,
    fd: Option<File>,
    /// Whether the folder was not there before.
    made_dir: bool,
    /// Locked as long as this process lives.
    file: Option<File>,
}

impl Ready {
    /// Makes the folder of sockets and makes sure that nothing there says that all is ready. `fd` is an inherited pipe or file
    /// that [`Ready::announce`] is to write to.
    ///
    /// # Errors
    /// [`RunError`]: the folder cannot be made or is not to be trusted, or another process is using it.
    pub fn claim(config: &Config, fd: Option<u32>) -> Result<Ready, RunError> {
        let made_dir = !config.socket_dir.exists();
        make_socket_dir(&config.socket_dir)?;
        let ready = Ready {
            path: config.socket_dir.join(FILE),
            fd: fd.map(open_inherited).transpose()?,
            made_dir,
            file: None,
        };
        ready.remove_stale()?;
        Ok(ready)
    }

    /// The claim of another process, which hands it over with the file that it has locked.
    #[must_use]
    pub fn adopt(config: &Config, file: OwnedFd) -> Ready {
        Ready {
            path: config.socket_dir.join(FILE),
            fd: None,
            made_dir: false,
            file: Some(file.into()),
        }
    }

    /// The same for another process, once it has been announced.
    ///
    /// # Errors
    /// The system's.
    pub fn file(&self) -> io::Result<Option<OwnedFd>> {
        let file = self.file.as_ref().map(File::try_clone).transpose()?;
        Ok(file.map(OwnedFd::from))
    }

    /// Says that this process goes on where the one before it was, to whoever wants to know.
    ///
    /// # Errors
    /// [`RunError`], if that cannot be said.
    pub fn announce_successor(&mut self, fd: Option<u32>) -> Result<(), RunError> {
        let pid = std::process::id();
        let failed = |source| RunError::Ready {
            path: self.path.clone(),
            source,
        };
        if let Some(file) = &mut self.file {
            file.set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .and_then(|_| writeln!(file, "{pid}"))
                .map_err(failed)?;
        }
        let starter = getppid();
        if let Some(mut fd) = fd.map(open_inherited).transpose()? {
            tell(&mut fd);
        }
        if has_manager() {
            wait_for_end(starter);
        }
        // Before the other process ends, or the manager takes the service for ended.
        notify(&format!("MAINPID={pid}\nREADY=1\n"));
        Ok(())
    }

    /// Says that everything listens, to whoever wants to know.
    ///
    /// # Errors
    /// [`RunError`], if that cannot be said.
    pub fn announce(&mut self) -> Result<(), RunError> {
        let failed = |source| RunError::Ready {
            path: self.path.clone(),
            source,
        };
        let create = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .clone();
        let mut file = create.open(&self.path).map_err(failed)?;
        // Nobody else has it open, but for one that looks whether it is stale.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        self.file = Some(file);
        if let Some(mut fd) = self.fd.take() {
            tell(&mut fd);
        }
        notify("READY=1\n");
        Ok(())
    }

    /// Removes what a process has left that could not clean up.
    fn remove_stale(&self) -> Result<(), RunError> {
        let failed = |source| RunError::Ready {
            path: self.path.clone(),
            source,
        };
        let options = OpenOptions::new()
            .read(true)
            .custom_flags(NONBLOCK | NOFOLLOW)
            .clone();
        let mut file = match options.open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if let Err(rustix::io::Errno::WOULDBLOCK) =
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        {
            let dir = self.path.parent().unwrap_or(Path::new("."));
            return Err(RunError::DirInUse(dir.to_owned()));
        }
        let mut start = [0; 16];
        let read = match file.metadata() {
            Ok(meta) if meta.is_file() => file.read(&mut start).map_err(failed)?,
            _ => start.len(),
        };
        let number = |b: &u8| b.is_ascii_digit() || *b == b'\n';
        if read == start.len() || !start.iter().take(read).all(number) {
            let not_ours = "it is no file of ours: remove it, or choose another --socket-dir";
            return Err(failed(io::Error::new(ErrorKind::AlreadyExists, not_ours)));
        }
        fs::remove_file(&self.path).map_err(failed)
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let Some(file) = &self.file else {
            // What was refused has changed nothing. Another process may have begun to use the folder.
            if let Some(dir) = self.path.parent().filter(|_| self.made_dir) {
                let _ = fs::remove_dir(dir);
            }
            return;
        };
        notify("STOPPING=1\n");
        let id = |meta: io::Result<fs::Metadata>| meta.map(|m| (m.dev(), m.ino())).ok();
        if id(file.metadata()) == id(fs::symlink_metadata(&self.path)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A descriptor of our own for an inherited file; it never waits for a reader.
fn open_inherited(fd: u32) -> Result<File, RunError> {
    let options = OpenOptions::new()
        .append(true)
        .custom_flags(NONBLOCK)
        .clone();
    let opened = options.open(format!("/proc/self/fd/{fd}"));
    opened.map_err(|source| RunError::ReadyFd { fd, source })
}

fn tell(fd: &mut File) {
    if let Err(error) = fd.write_all(b"ready\n") {
        tracing::warn!(%error, "nobody reads from the descriptor of --ready-fd");
    }
}

const NONBLOCK: i32 = OFlags::NONBLOCK.bits() as i32;
const NOFOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

/// Where the service manager listens (sd_notify(3)).
const MANAGER: &str = "NOTIFY_SOCKET";

fn has_manager() -> bool {
    std::env::var_os(MANAGER).is_some()
}

/// Waits until whoever has started this process has ended, so that it is a child of the manager's: of a process that is another one's systemd
/// would not wait for the end, and kill it at once instead. Whoever starts one by hand may not end.
fn wait_for_end(starter: Option<Pid>) {
    let end = Instant::now() + STARTER_ENDS;
    while getppid() == starter && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Tells the service manager, if there is one. It may be gone, which is its own affair.
fn notify(state: &str) {
    let Some(name) = std::env::var_os(MANAGER) else {
        return;
    };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&name),
    };
    let told = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell the service manager {}", state.trim_end());
    }
}

/// Makes the folder for a run's sockets. The one in the temporary directory, where others can make folders, too, has to be
/// this user's and closed to all others, or somebody else could be the NIC.
///
/// # Errors
/// [`RunError`]: it cannot be made, or is another user's.
pub fn make_socket_dir(dir: &Path) -> Result<(), RunError> {
    let failed = |source| RunError::SocketDir {
        path: dir.to_owned(),
        source,
    };
    if dir != temporary_socket_dir() {
        return fs::create_dir_all(dir).map_err(failed);
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    if !is_own_dir(dir) {
        return Err(RunError::ForeignDir(dir.to_owned()));
    }
    // An earlier version has made it for others to read.
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(failed)
}

/// Whether this is a folder, no link to one, that nobody but this user can make sockets in.
#[must_use]
pub fn is_own_dir(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|meta| {
        let own = meta.uid() == rustix::process::geteuid().as_raw();
        meta.is_dir() && own && meta.mode() & 0o022 == 0
    })
}
