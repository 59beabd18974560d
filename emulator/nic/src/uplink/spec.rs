//! An uplink by its words: the name of its kind, and what follows that. Opens one; moves no frame.

use std::fmt;
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;
use vf_model::{LinkConfig, Nanos};

use super::{
    HandOver, Kind, OpenError, Opened, Position, Recording, macvtap, packet, passt, replay, tap,
    vhost_user, vxlan, wire,
};

/// The kinds of uplink that can be opened by name.
const KINDS: &[Kind] = &[
    tap::KIND,
    macvtap::KIND,
    packet::KIND,
    vxlan::KIND,
    vhost_user::KIND,
    passt::KIND,
    replay::KIND,
    wire::HAIRPIN,
];

/// An uplink by the name of its kind: `tap tap0`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct UplinkSpec {
    kind: &'static Kind,
    operand: String,
}

/// What an uplink is to play that will be opened, and needs not be read then while this is there.
#[derive(Debug)]
pub struct ReadAhead(#[expect(dead_code, reason = "it is held")] Arc<Recording>);

/// Words that name no uplink.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UplinkError {
    /// No kind of uplink is called so, or something is missing behind its name.
    #[error("uplink '{text}': an uplink is {kinds}")]
    Kind {
        /// The words.
        text: String,
        /// All kinds.
        kinds: String,
    },
    /// What follows the name of a kind.
    #[error("uplink {kind}: {why}")]
    Operand {
        /// Which kind.
        kind: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl UplinkSpec {
    /// Whether it is a device of this machine, which cannot be on the virtual clock.
    #[must_use]
    pub fn is_of_this_machine(&self) -> bool {
        self.kind.of_this_machine
    }

    /// The network device of the host that it is, if it is one.
    #[must_use]
    pub fn host_device(&self) -> Option<&str> {
        let name = self.operand.as_str();
        self.kind.is_host_device.then_some(name)
    }

    /// The same wherever the process is, if it names a file.
    #[must_use]
    pub fn absolute(mut self) -> UplinkSpec {
        let is_path = ["FILE", "SOCKET"];
        let is_path = is_path
            .iter()
            .any(|path| self.kind.operand.starts_with(path));
        // What follows the path has no `/` in it.
        let path = std::path::absolute(&self.operand).ok();
        let path = path.and_then(|path| path.into_os_string().into_string().ok());
        if let (true, Some(path)) = (is_path, path) {
            self.operand = path;
        }
        self
    }

    /// Opens it. `slack` is how far ahead of now its transmitter may be filled.
    ///
    /// # Errors
    /// [`OpenError`], in one line.
    pub fn open(&self, config: LinkConfig, slack: Nanos) -> Opened {
        (self.kind.open)(&self.operand, config, slack)
    }

    /// Reads what it plays, if it plays something.
    #[must_use]
    pub fn read_ahead(&self) -> Option<ReadAhead> {
        match self.kind.hand_over {
            HandOver::Position { ahead, .. } => ahead(&self.operand).map(ReadAhead),
            HandOver::Refused | HandOver::Anew | HandOver::Descriptor(_) => None,
        }
    }

    /// Whether another process can go on with it.
    #[must_use]
    pub fn can_be_handed_over(&self) -> bool {
        !matches!(self.kind.hand_over, HandOver::Refused)
    }

    /// Goes on with one that another process has had: `descriptor` is asked for the one that has been handed over if it
    /// takes one, and `position` is how far it has come, if it comes far.
    ///
    /// # Errors
    /// [`OpenError`], in one line.
    pub fn go_on(
        &self,
        descriptor: impl FnOnce() -> std::io::Result<OwnedFd>,
        position: Option<Position>,
        config: LinkConfig,
        slack: Nanos,
    ) -> Opened {
        match (self.kind.hand_over, position) {
            (HandOver::Descriptor(adopt), _) => {
                let fd = descriptor().map_err(|source| OpenError {
                    uplink: self.to_string(),
                    source,
                    help: "the process that had it has not handed it over".to_owned(),
                })?;
                adopt(&self.operand, fd, config, slack)
            }
            (HandOver::Position { go_on, .. }, Some(position)) => {
                go_on(&self.operand, position, config, slack)
            }
            _ => self.open(config, slack),
        }
    }
}

impl FromStr for UplinkSpec {
    type Err = UplinkError;
    fn from_str(text: &str) -> Result<UplinkSpec, UplinkError> {
        let (word, operand) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let kind = KINDS.iter().find(|kind| kind.word == word);
        match kind.filter(|kind| kind.takes(operand.trim())) {
            Some(kind) => {
                let operand = operand.trim().to_owned();
                (kind.check)(&operand).map_err(|why| UplinkError::Operand {
                    kind: kind.word,
                    why,
                })?;
                Ok(UplinkSpec { kind, operand })
            }
            None => {
                let kinds = KINDS
                    .iter()
                    .map(|kind| format!("'{}'", named(kind, kind.operand)));
                let kinds: Vec<_> = kinds.collect();
                Err(UplinkError::Kind {
                    text: text.escape_debug().to_string(),
                    kinds: kinds.join(" or "),
                })
            }
        }
    }
}

impl TryFrom<String> for UplinkSpec {
    type Error = UplinkError;
    fn try_from(text: String) -> Result<UplinkSpec, UplinkError> {
        text.parse()
    }
}

impl fmt::Display for UplinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&named(self.kind, &self.operand))
    }
}

impl Kind {
    /// Whether this may follow its word.
    fn takes(&self, operand: &str) -> bool {
        self.operand.starts_with('[') || self.operand.is_empty() == operand.is_empty()
    }
}

fn named(kind: &Kind, operand: &str) -> String {
    format!("{} {operand}", kind.word).trim_end().to_owned()
}
