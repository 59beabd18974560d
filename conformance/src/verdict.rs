//! How a case is passed, and why one fails. Decides nothing: cases do.

use std::fmt;
use std::io;

use vf_guest::driver::DeviceFault;
use vf_guest::frontend::FrontendError;

use crate::level::Level;
use crate::subject::Ended;

/// How a case was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// As the document says.
    Conforms,
    /// The request was answered with an error.
    Refused,
    /// The connection was closed.
    Closed,
    /// The ring was stopped.
    RingStopped,
    /// The input was taken, or ignored, without harm.
    Tolerated,
    /// All was given back that was sent, and nobody sees whether it arrives.
    Unseen,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Seen::Conforms => "conforms",
            Seen::Refused => "refused",
            Seen::Closed => "closed the connection",
            Seen::RingStopped => "stopped the ring",
            Seen::Tolerated => "tolerated",
            Seen::Unseen => "given back; nobody sees frames arrive",
        })
    }
}

/// Why a case failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The back end did something else than it must.
    #[error("{0}")]
    Wrong(String),
    /// A case came upon something that is less binding than what it is about.
    #[error("{what}")]
    Lesser {
        /// How binding that is.
        level: Level,
        /// What is wrong.
        what: String,
    },
    /// Something is not there that the case turned out to need.
    #[error("needs {0}")]
    Unmet(String),
    /// The session broke where it had to go on.
    #[error("session: {0}")]
    Session(#[from] FrontendError),
    /// The device broke a rule of the rings.
    #[error("ring: {0}")]
    Ring(#[from] DeviceFault),
    /// The suite's own machinery failed, which says nothing about the subject.
    #[error("the suite itself: {0}")]
    System(#[from] io::Error),
    /// After the case the subject did not serve a fresh session.
    #[error("no traffic in a fresh session afterwards: {0}")]
    Dead(#[source] Box<Failure>),
    /// The subject's process ended.
    #[error("its process ended: {0}")]
    Ended(Ended),
    /// The control adapter has no such order.
    #[error("the control adapter does not support: {0}")]
    Unsupported(String),
    /// What was to be seen cannot be seen: frames of this subject arrive nowhere.
    #[error("frames that are sent arrive nowhere that the suite sees")]
    Unseen,
    /// The case ran out of time and was broken off.
    #[error("broken off after {0:?}")]
    OutOfTime(std::time::Duration),
}

impl Failure {
    /// The same where what is wrong is less binding than what the case is about.
    pub(crate) fn at(self, level: Level) -> Failure {
        match self {
            Failure::Wrong(what) => Failure::Lesser { level, what },
            other => other,
        }
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Failure {
        Failure::System(errno.into())
    }
}

/// `Ok` if `right`, else what is wrong.
pub(crate) fn ensure(right: bool, what: impl fmt::Display) -> Result<(), Failure> {
    if right {
        Ok(())
    } else {
        Err(Failure::Wrong(what.to_string()))
    }
}

/// The same of something that a document says without MUST or SHOULD, in a case about one of those.
pub(crate) fn ensure_text(right: bool, what: impl fmt::Display) -> Result<(), Failure> {
    ensure(right, what).map_err(|failure| failure.at(Level::Text))
}
