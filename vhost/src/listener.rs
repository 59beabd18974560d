//! Listening on a socket path with care: a socket that a dead process has left is taken over, nothing else is ever removed, and
//! from the moment that the socket is there it is for this user only. Never waits for whoever listens there already, however stuck that process is.

use std::fs::{self, File, FileType, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::closer::{Aside, Closer};
use crate::error::BindError;

/// How long another process may be at work in the same folder; a few system calls are all that it does there.
const LOCK_LIMIT: Duration = Duration::from_secs(2);
/// How long whoever makes a socket there has it.
const LOCK_MOMENT: Duration = Duration::from_millis(20);

/// A listening stream socket that never blocks. Its file is removed with it, unless the file there is another one by then.
#[derive(Debug)]
pub struct Listener {
    /// Those who have connected and were not accepted may have sent something.
    socket: Aside<UnixListener>,
    path: PathBuf,
    file: Option<FileId>,
}

/// Device and inode.
type FileId = (u64, u64);

impl Listener {
    /// Listens at `path`, for this user and nobody else whatever the umask ([`Listener::widen`]). A socket file that nobody listens on
    /// any more is replaced. Of two processes that do this at once for one path, one succeeds.
    ///
    /// # Errors
    /// [`BindError`]; what is at `path` is still there then.
    pub fn bind(path: &Path) -> Result<Listener, BindError> {
        let failed = |source| BindError::Bind {
            path: path.to_owned(),
            source,
        };
        // A socket that is bound and does not listen yet looks like one that a dead process has left.
        let _lock = lock_folder(path, LOCK_LIMIT).map_err(failed)?;
        let socket = match bind_for_this_user(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                remove_stale(path)?;
                bind_for_this_user(path)
            }
            bound => bound,
        }
        .map_err(failed)?;
        let file = file_id(path);
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Listener {
            socket: Aside::new(socket, &Closer::default()),
            path: path.to_owned(),
            file,
        })
    }

    /// Goes on with a socket that another process listens on at `path`, whose file it is until it is [ours](Listener::own).
    ///
    /// # Errors
    /// The kernel's.
    pub fn adopt(socket: OwnedFd, path: &Path) -> io::Result<Listener> {
        let socket = UnixListener::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Listener {
            socket: Aside::new(socket, &Closer::default()),
            path: path.to_owned(),
            file: None,
        })
    }

    /// The file is this process' from now on, and removed with this.
    pub fn own(&mut self) {
        self.file = file_id(&self.path);
    }

    /// The next connection, if one is waiting.
    ///
    /// # Errors
    /// The kernel's; such as too many open files, after which the connection is still waiting.
    pub fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets others connect, too: those whom this mode of the socket's file, and this group, if one is given, allow to write to it.
    ///
    /// # Errors
    /// The kernel's, such as a group that this user is not in; or another file is there by now.
    pub fn widen(&self, mode: u32, group: Option<u32>) -> io::Result<()> {
        // The file itself, and nothing that somebody has put in its place.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::PATH | OFlags::NOFOLLOW).bits().cast_signed())
            .open(&self.path)?;
        let meta = file.metadata()?;
        if self.file != Some((meta.dev(), meta.ino())) {
            return Err(io::Error::new(
                ErrorKind::NotFound,
                "another file is there by now",
            ));
        }
        if let Some(group) = group {
            let group = Some(Gid::from_raw(group));
            rustix::fs::chownat(&file, "", None, group, AtFlags::EMPTY_PATH)?;
        }
        let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::set_permissions(by_descriptor, Permissions::from_mode(mode))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Without the lock it is removed all the same: others who make sockets have it for a moment, and one who keeps it may not keep this thread.
        let _lock = lock_folder(&self.path, LOCK_MOMENT);
        if self.file.is_some() && self.file == file_id(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Listener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Binds with the mode 0600. The umask is the process', so threads that do this take turns.
fn bind_for_this_user(path: &Path) -> io::Result<UnixListener> {
    static UMASK: Mutex<()> = Mutex::new(());
    let _turn = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    bound
}

/// Connects to a socket without ever waiting for the one who listens there.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

fn file_id(path: &Path) -> Option<FileId> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Locks the folder of `path` against other processes that make or remove sockets there with care, until the result is
/// dropped. A folder that cannot be locked (unreadable, or on a file system without locks) is used without.
fn lock_folder(path: &Path, patience: Duration) -> io::Result<Option<File>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().as_bytes().is_empty() => folder,
        _ => Path::new("."),
    };
    let Ok(folder) = File::open(folder) else {
        return Ok(None);
    };
    let started = Instant::now();
    loop {
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(folder)),
            Err(Errno::WOULDBLOCK) if started.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(Errno::WOULDBLOCK) => {
                let why = "another process keeps its folder locked (see 'lslocks')";
                return Err(io::Error::new(ErrorKind::WouldBlock, why));
            }
            Err(Errno::INTR) => {}
            Err(_) => return Ok(None),
        }
    }
}

/// Removes the socket file at `path` if nobody listens there.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Bind {
        path: path.to_owned(),
        source,
    };
    let not_ours = |what| BindError::NotASocket {
        path: path.to_owned(),
        what,
    };
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !kind.is_socket() {
        return Err(not_ours(name(kind)));
    }
    let answer = connect(path);
    match answer.as_ref().map_err(Errno::from_io_error) {
        Err(Some(Errno::CONNREFUSED)) => match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        },
        Err(Some(Errno::NOENT)) => Ok(()),
        Err(Some(Errno::PROTOTYPE)) => Err(not_ours("a live socket of another type")),
        // A process that is stuck has its backlog full.
        Ok(_) | Err(Some(Errno::AGAIN)) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
        Err(_) => answer.map(drop).map_err(failed),
    }
}

fn name(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_file() {
        "a regular file"
    } else {
        "a device or pipe"
    }
}
