//! What a case comes upon on its way and goes on: a frame that nobody saw arrive, something less binding than what it is about that is wrong.
//! Looked at when it has ended, and of no weight where it failed by itself.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::level::Level;
use crate::verdict::{Failure, Seen};

/// Of the case that runs.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    unseen: bool,
    lesser: Option<(Level, String)>,
}

impl Notes {
    /// A case begins.
    pub(crate) fn clear(&self) {
        *self.noted() = Noted::default();
    }

    /// A frame was to arrive where none is seen to.
    pub(crate) fn unseen(&self) {
        self.noted().unseen = true;
    }

    /// Notes what is wrong unless it is `right`: the first such thing is told, if nothing is found that is more binding.
    pub(crate) fn ought(&self, level: Level, right: bool, what: impl fmt::Display) {
        if !right {
            let lesser = (level, what.to_string());
            self.noted().lesser.get_or_insert(lesser);
        }
    }

    /// How a case ended that was passed but for what is noted.
    pub(crate) fn ended(&self, seen: Seen) -> Result<Seen, Failure> {
        let mut noted = self.noted();
        match (noted.lesser.take(), seen) {
            (Some((level, what)), _) => Err(Failure::Lesser { level, what }),
            (None, Seen::Conforms) if noted.unseen => Ok(Seen::Unseen),
            (None, seen) => Ok(seen),
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lesser_thing_is_told_and_a_frame_that_nobody_saw_is_no_conformance() {
        let notes = Notes::default();
        assert_eq!(notes.ended(Seen::Conforms).unwrap(), Seen::Conforms);
        notes.unseen();
        assert_eq!(notes.ended(Seen::Conforms).unwrap(), Seen::Unseen);
        assert_eq!(notes.ended(Seen::Refused).unwrap(), Seen::Refused);
        notes.ought(Level::Should, true, "this is right");
        notes.ought(Level::Should, false, "this is not");
        notes.ought(Level::Model, false, "nor is that");
        let told = notes.ended(Seen::Conforms);
        assert!(
            matches!(&told, Err(Failure::Lesser { level: Level::Should, what }) if what == "this is not"),
            "{told:?}"
        );
        notes.clear();
        assert_eq!(notes.ended(Seen::Conforms).unwrap(), Seen::Conforms);
    }
}
