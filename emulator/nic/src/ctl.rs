//! The control socket's protocol, one JSON object a line each way, and its client. The words are those of the command
//! line; what they do is not known here.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::show::Show;

/// Longest line either side accepts, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Counters and settings of everything.
    Show,
    /// The filters of one NIC.
    Filters {
        /// Which NIC; may be left out when there is one.
        nic: Option<String>,
    },
    /// An administrator's command for one NIC, in words such as `vf 0 set path mediated`.
    Command {
        /// Which NIC; may be left out when there is one.
        nic: Option<String>,
        /// The command.
        words: Vec<String>,
    },
}

/// What the emulator answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done; what is worth knowing about it, a line each.
    Done(Vec<String>),
    /// The answer to [`Request::Show`].
    Show(Box<Show>),
    /// The answer to [`Request::Filters`]: each in the words that add it, those that win first.
    Filters(Vec<String>),
    /// Not done, nothing has changed; one line that says why.
    Refused(String),
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// Nobody serves the socket.
    #[error(
        "no vfnic at {socket}: {source} (start one with 'vfnic run', or name its socket with --ctl)"
    )]
    Connect {
        /// The control socket.
        socket: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("vfnic at {socket} does not answer: {source}")]
    Io {
        /// The control socket.
        socket: String,
        /// Why.
        source: std::io::Error,
    },
    /// The answer is not of this version's protocol.
    #[error("vfnic at {socket} answers in another version's words")]
    Protocol {
        /// The control socket.
        socket: String,
    },
}

/// Asks the emulator at `socket` and waits for the answer.
///
/// # Errors
/// [`CtlError`]; a refusal is an answer, not an error.
pub fn ask(socket: &Path, request: &Request) -> Result<Response, CtlError> {
    let name = || socket.display().to_string();
    let io = |source| CtlError::Io {
        socket: name(),
        source,
    };
    let mut stream = UnixStream::connect(socket).map_err(|source| CtlError::Connect {
        socket: name(),
        source,
    })?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .map_err(io)?;
    let mut line = serde_json::to_string(request).map_err(|e| io(e.into()))?;
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(io)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(io)?;
    serde_json::from_str(&answer).map_err(|_| CtlError::Protocol { socket: name() })
}
