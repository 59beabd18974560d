//! A socket that others connect to: made in the place of one that nobody listens at any more, and taken away in the end. Never takes the
//! place of one in use.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// It never makes anybody wait: where nobody comes, that is what is said.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// # Errors
    /// Somebody listens there, or nobody can.
    pub(crate) fn bind(path: &Path) -> io::Result<Listener> {
        let bound = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let bound = bound.and_then(|bound| {
            bound.set_nonblocking(true)?;
            Ok(bound)
        });
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        Ok(Listener {
            listener: bound.map_err(named)?,
            path: path.to_owned(),
        })
    }

    /// Who has come, or [`io::ErrorKind::WouldBlock`].
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().map(|(stream, _)| stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may have done it.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether a socket is there that nobody listens at any more, as a program leaves it that is killed.
fn is_left(path: &Path) -> bool {
    let answer = UnixStream::connect(path);
    answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_taken_over_where_nobody_listens_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&path).unwrap();
        assert_eq!(
            first.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let second = Listener::bind(&path).unwrap_err().to_string();
        assert!(second.contains("s: Address already in use"), "{second}");
        assert!(UnixStream::connect(&path).is_ok() && first.accept().is_ok());
        drop(first);
        assert!(!path.exists());
    }
}
