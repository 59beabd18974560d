//! What a descriptor is that a front end has sent, found out without asking anybody who could keep us waiting, and whether
//! it could keep the front end's own connection open.
//!
//! A connection is seen to end when nobody has its other end any more. A front end that gives that other end to us, and
//! exits, would be there for ever. So a socket is taken only if it is one end of a pair, which no connection to a socket with
//! a name is, ours or another device's; and only while nothing is in it, for a message may carry descriptors in its turn.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Whether it is an eventfd.
pub(crate) fn is_eventfd(fd: impl AsFd) -> io::Result<bool> {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))?;
    Ok(link.as_os_str() == "anon_inode:[eventfd]")
}

/// Whether it is a file in memory, which alone have seals.
pub(crate) fn is_memfd(fd: impl AsFd) -> bool {
    rustix::fs::fcntl_get_seals(fd).is_ok()
}

/// Whether it is a Unix socket, of whatever kind.
pub(crate) fn is_unix_socket(fd: impl AsFd) -> bool {
    sockopt::socket_domain(fd) == Ok(AddressFamily::UNIX)
}

/// Whether it is one end of a pair of stream sockets, with nothing in it to be read.
pub(crate) fn is_empty_pair_end(fd: impl AsFd) -> bool {
    is_pair_end(&fd).unwrap_or(false) && is_empty(fd)
}

fn is_pair_end(fd: impl AsFd) -> io::Result<bool> {
    let fd = fd.as_fd();
    if !is_unix_socket(fd) || sockopt::socket_type(fd)? != SocketType::STREAM {
        return Ok(false);
    }
    // One that listens has no peer.
    let stream = UnixStream::from(fd.try_clone_to_owned()?);
    Ok(stream.local_addr()?.is_unnamed() && stream.peer_addr()?.is_unnamed())
}

/// Whether there is nothing to be read from a stream socket. To look into it would be to wait for whoever else reads it.
pub(crate) fn is_empty(fd: impl AsFd) -> bool {
    rustix::io::ioctl_fionread(fd) == Ok(0)
}

/// Whether it can be held however long the front end takes for the rest of a message: it holds nothing else in its turn.
pub(crate) fn holds_nothing(fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let is_file = || file_type(fd) == Some(FileType::RegularFile);
    is_eventfd(fd).unwrap_or(false) || is_empty_pair_end(fd) || is_file()
}

/// What kind of file it is. One whose server is a process of whoever sent it is not asked.
pub(crate) fn file_type(fd: impl AsFd) -> Option<FileType> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd, "", flags, StatxFlags::TYPE).ok()?;
    Some(FileType::from_raw_mode(stat.stx_mode.into()))
}
