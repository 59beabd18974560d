//! How binding a case is, and with it each thing that it finds wrong. Judges nothing.

use std::fmt;

/// How binding a case is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A MUST of a document.
    Must,
    /// What a document says without MUST or SHOULD.
    Text,
    /// A SHOULD of a document.
    Should,
    /// Hostile or impossible input: has to be contained.
    Hard,
    /// What the administration of virtual functions, filters and switches promises, by the documentation of drivers and by IEEE
    /// standards, and what is usual beyond that; no document of virtio's binds a back end to it.
    Model,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Must => "must",
            Level::Text => "text",
            Level::Should => "should",
            Level::Hard => "hard",
            Level::Model => "model",
        })
    }
}
