//! Why `vfnic run` cannot start or go on: one line each. Says nothing of what a guest or a client does wrong.

use std::io;
use std::path::PathBuf;

use vf_model::{Refusal, VfIndex};
use vf_vhost::endpoint::BindError;

use crate::metrics::MetricsError;
use crate::uplink::OpenError;

/// Why `vfnic run` cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The socket directory cannot be made.
    #[error("cannot make the socket directory {path}: {source}")]
    SocketDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could make sockets in the directory.
    #[error("{0} is another user's, or open to others: remove it, or choose another --socket-dir")]
    ForeignDir(PathBuf),
    /// Another process has its sockets there.
    #[error("another vfnic serves {0}; stop that one or choose another --socket-dir")]
    DirInUse(PathBuf),
    /// The file that says that all is ready cannot be made.
    #[error("{path}: {source}")]
    Ready {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing can be written to the descriptor of `--ready-fd`.
    #[error("--ready-fd {fd}: {source} (it is to be a pipe or a file that vfnic inherits)")]
    ReadyFd {
        /// Its number.
        fd: u32,
        /// Why.
        source: io::Error,
    },
    /// A VF's socket cannot be served.
    #[error("{0}")]
    Socket(#[from] BindError),
    /// The control socket cannot be served.
    #[error("control socket: {0}")]
    Ctl(BindError),
    /// A group that sockets cannot be given.
    #[error("group '{name}': {why}")]
    Group {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A socket that cannot be opened to others.
    #[error("cannot open {path} to others: {source} (--group is to be one that this user is in)")]
    Access {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Scrapes cannot be answered.
    #[error("{0}")]
    Metrics(#[from] MetricsError),
    /// An uplink cannot be opened.
    #[error("{0}")]
    Uplink(#[from] OpenError),
    /// A tap for a VF cannot be opened, or not be put there.
    #[error("{nic} {vf}: {why}")]
    Tap {
        /// The NIC.
        nic: String,
        /// The VF.
        vf: VfIndex,
        /// Why.
        why: String,
    },
    /// An initial setting is refused.
    #[error("{nic} {vf}: {refusal}")]
    Policy {
        /// The NIC.
        nic: String,
        /// The VF.
        vf: VfIndex,
        /// Why.
        refusal: Refusal,
    },
    /// Something that another process has handed over cannot be gone on with.
    #[error("{what}: {why}")]
    TakeOver {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The system refuses something basic.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl RunError {
    /// Whether the user's words are at fault rather than the machine.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        !matches!(self, RunError::System { .. } | RunError::TakeOver { .. })
    }
}

pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}
