//! Who may connect to sockets beside this user. Only the words; no socket is touched here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The mode of a socket's file, in octal: `0660`. Its owner may always connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketMode(u32);

/// Text that is no mode of a socket.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is no mode of a socket: 0600 for its owner, 0660 for its group, too, 0666 for everybody"
)]
pub struct SocketModeError(String);

impl SocketMode {
    /// Its owner and its group.
    pub const GROUP: SocketMode = SocketMode(0o660);

    /// As a number.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for SocketMode {
    type Err = SocketModeError;
    fn from_str(text: &str) -> Result<SocketMode, SocketModeError> {
        let digits = text.len() <= 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = u32::from_str_radix(text, 8).ok().filter(|_| digits);
        match mode {
            // Who connects has to write; nobody executes a socket.
            Some(mode @ (0o600 | 0o606 | 0o660 | 0o666)) => Ok(SocketMode(mode)),
            _ => Err(SocketModeError(text.escape_debug().take(32).collect())),
        }
    }
}

impl TryFrom<String> for SocketMode {
    type Error = SocketModeError;
    fn try_from(text: String) -> Result<SocketMode, SocketModeError> {
        text.parse()
    }
}

impl From<SocketMode> for String {
    fn from(mode: SocketMode) -> String {
        mode.to_string()
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Who may connect to a kind of sockets beside this user: nobody, unless it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketAccess {
    /// The mode of their files.
    pub mode: Option<SocketMode>,
    /// The group of their files, by name or by number.
    pub group: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_that_mean_something() {
        for (text, mode) in [("0660", 0o660), ("600", 0o600), ("0666", 0o666)] {
            assert_eq!(text.parse::<SocketMode>().unwrap().bits(), mode);
        }
        for wrong in [
            "", "0", "0777", "0640", "0066", "+660", "00660", "1660", "rw",
        ] {
            let error = wrong.parse::<SocketMode>().unwrap_err().to_string();
            assert!(error.contains("0660 for its group"), "{error}");
        }
    }
}
