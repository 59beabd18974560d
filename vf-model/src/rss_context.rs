//! RSS contexts of a VF: further keys and indirection tables, beside the one by which all its frames are spread, for filters to
//! name (`ethtool -X DEV context new`, `ethtool -N DEV ... context N`). Never says who receives a frame.

use std::fmt;
use std::str::FromStr;

use crate::rss::{Rss, RssKey, RssQueues, RssSpread};
use crate::words::{ParseError, Words, number};

/// Most contexts of a VF. How many a NIC's firmware has is not published; each is an indirection table.
pub const MAX_RSS_CONTEXTS: u8 = 8;

const ID: &str = "the number of a context, 1 to 8";
const OPS: &str = "new, or the number of a context, 1 to 8";

/// What a context of a VF is called, from 1 on: 0 is, as with ethtool, what all its frames are spread by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RssContextId(u8);

/// The contexts of a VF, in order.
#[derive(Clone, Debug, Default)]
pub struct RssContexts(Vec<(RssContextId, Rss)>);

/// What is done with a context. Its `Display` is what follows `vf N rss context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RssContextOp {
    /// `new [N] [hkey KEY] [SPREAD]`: as the VF's own is at the start, but for what is said.
    New {
        /// What it is called; the lowest number that is free, if that is not said.
        id: Option<RssContextId>,
        /// Key of its hash.
        key: Option<RssKey>,
        /// How it spreads flows.
        spread: Option<RssSpread>,
    },
    /// `N [hkey KEY] [SPREAD]`: what is given of both.
    Set {
        /// Which.
        id: RssContextId,
        /// Key of its hash.
        key: Option<RssKey>,
        /// How it spreads flows.
        spread: Option<RssSpread>,
    },
    /// `N delete`.
    Delete(RssContextId),
}

/// Why a context cannot be had, changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RssContextError {
    /// The VF has no context of this number (ENOENT).
    #[error("rss context {0}: there is none of this number; vfnic vf N rss context new makes one")]
    NotFound(RssContextId),
    /// The VF has one of this number (EEXIST).
    #[error("rss context {0}: is there already; leave out new to change it")]
    Exists(RssContextId),
    /// The VF has as many as it can (ENOSPC).
    #[error(
        "rss context new: the VF has {MAX_RSS_CONTEXTS}, as many as there can be; delete one first"
    )]
    Full,
    /// A filter names it (EBUSY).
    #[error("rss context {id}: in use by filter {filter}: delete that first")]
    InUse {
        /// Which.
        id: RssContextId,
        /// The words of the filter.
        filter: Box<str>,
    },
    /// An indirection table that names no queue or too many.
    #[error(transparent)]
    Queues(#[from] RssQueues),
}

impl RssContexts {
    /// The context of this number.
    #[must_use]
    pub fn get(&self, id: RssContextId) -> Option<&Rss> {
        let at = self.0.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        self.0.get(at).map(|(_, rss)| rss)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (RssContextId, &Rss)> {
        self.0.iter().map(|(id, rss)| (*id, rss))
    }

    /// Makes one, changes it or takes it away, on a NIC that spreads over so many queues at most. Whether a filter names it is not
    /// asked.
    ///
    /// # Errors
    /// [`RssContextError`]; nothing has changed then.
    pub(crate) fn apply(&mut self, op: &RssContextOp, queues: u16) -> Result<(), RssContextError> {
        match op {
            RssContextOp::New { id, key, spread } => {
                let mut rss = Rss::new(queues);
                rss.set(*key, spread.as_ref())?;
                let free = |id: &RssContextId| self.get(*id).is_none();
                let id = match *id {
                    Some(id) if free(&id) => id,
                    Some(id) => return Err(RssContextError::Exists(id)),
                    None => {
                        let mut all = (1..=MAX_RSS_CONTEXTS).map(RssContextId);
                        all.find(free).ok_or(RssContextError::Full)?
                    }
                };
                let at = self.0.partition_point(|(other, _)| *other < id);
                self.0.insert(at, (id, rss));
            }
            RssContextOp::Set { id, key, spread } => {
                let found = self.0.iter_mut().find(|(other, _)| other == id);
                let (_, rss) = found.ok_or(RssContextError::NotFound(*id))?;
                rss.set(*key, spread.as_ref())?;
            }
            RssContextOp::Delete(id) => {
                self.get(*id).ok_or(RssContextError::NotFound(*id))?;
                self.0.retain(|(other, _)| other != id);
            }
        }
        Ok(())
    }

    /// The words after `rss context new` that make each of them again.
    pub(crate) fn saved(&self) -> Vec<String> {
        let words = self.iter().map(|(id, rss)| {
            let key = Some(rss.key()).filter(|key| *key != RssKey::default());
            let spread = Some(rss.spread().clone());
            let id = Some(id);
            let words = RssContextOp::New { id, key, spread }.to_string();
            words.trim_start_matches("new ").to_owned()
        });
        words.collect()
    }
}

impl fmt::Display for RssContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<RssContextId> for u64 {
    fn from(id: RssContextId) -> u64 {
        id.0.into()
    }
}

impl FromStr for RssContextId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<RssContextId, ParseError> {
        let id = number("context", text, ID)?;
        match (1..=MAX_RSS_CONTEXTS).contains(&id) {
            true => Ok(RssContextId(id)),
            false => Err(ParseError::word("context", text, ID)),
        }
    }
}

impl fmt::Display for RssContextOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, spread) = match self {
            RssContextOp::New { id, key, spread } => {
                f.write_str("new")?;
                id.iter().try_for_each(|id| write!(f, " {id}"))?;
                (key, spread)
            }
            RssContextOp::Set { id, key, spread } => {
                write!(f, "{id}")?;
                (key, spread)
            }
            RssContextOp::Delete(id) => return write!(f, "{id} delete"),
        };
        key.iter().try_for_each(|key| write!(f, " hkey {key}"))?;
        spread.iter().try_for_each(|s| write!(f, " {s}"))
    }
}

impl<S: AsRef<str>> Words<'_, S> {
    /// What follows `rss context`, in the words of `ethtool -X`.
    pub(crate) fn rss_context(&mut self) -> Result<RssContextOp, ParseError> {
        let word = self.next(OPS)?;
        if word == "new" {
            let number = self.peek().is_some_and(|word| word.parse::<u64>().is_ok());
            let id = match number {
                true => Some(self.context_id()?),
                false => None,
            };
            let (key, spread) = match self.is_done() {
                true => (None, None),
                false => self.rss()?,
            };
            return Ok(RssContextOp::New { id, key, spread });
        }
        let id = word
            .parse()
            .map_err(|_| ParseError::word("rss context", word, OPS))?;
        if let Some("delete" | "del") = self.peek() {
            self.next("delete")?;
            return Ok(RssContextOp::Delete(id));
        }
        let (key, spread) = self.rss()?;
        Ok(RssContextOp::Set { id, key, spread })
    }

    /// The number of a context.
    pub(crate) fn context_id(&mut self) -> Result<RssContextId, ParseError> {
        self.next(ID)?.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(words: &str) -> RssContextOp {
        let words: Vec<_> = words.split_whitespace().collect();
        let mut words = Words::new("context", &words);
        words.rss_context().unwrap()
    }

    fn apply(contexts: &mut RssContexts, words: &str) -> Result<(), String> {
        contexts
            .apply(&op(words), 16)
            .map_err(|why| why.to_string())
    }

    #[test]
    fn contexts_are_made_changed_and_taken_away_in_the_words_of_ethtool() {
        let mut contexts = RssContexts::default();
        for words in [
            "new equal 2",
            "new 3",
            "new weight 3 1",
            "3 equal 4",
            "1 del",
        ] {
            apply(&mut contexts, words).unwrap();
        }
        let shown = |contexts: &RssContexts| contexts.saved();
        assert_eq!(shown(&contexts), ["2 weight 3 1", "3 equal 4"]);
        apply(&mut contexts, "new").unwrap();
        assert_eq!(shown(&contexts), ["1 default", "2 weight 3 1", "3 equal 4"]);
        for (words, says) in [
            ("new 3", "3: is there already"),
            ("4 equal 2", "4: there is none"),
            ("4 delete", "4: there is none"),
            ("2 equal 17", "1 to 16 queues"),
            ("new equal 0", "1 to 16 queues"),
        ] {
            let was = shown(&contexts);
            let refused = apply(&mut contexts, words).unwrap_err();
            assert!(refused.contains(says), "{words}: {refused}");
            assert_eq!(shown(&contexts), was);
        }
        while apply(&mut contexts, "new").is_ok() {}
        assert_eq!(contexts.iter().count(), usize::from(MAX_RSS_CONTEXTS));
        assert!(
            apply(&mut contexts, "new")
                .unwrap_err()
                .contains("delete one first")
        );
        // What is saved makes the same again.
        let mut again = RssContexts::default();
        for words in shown(&contexts) {
            apply(&mut again, &format!("new {words}")).unwrap();
        }
        assert_eq!(shown(&again), shown(&contexts));
    }

    #[test]
    fn words_that_are_none_name_what_is_allowed() {
        for (words, says) in [
            ("", "new, or the number of a context"),
            ("0 delete", "rss context '0': new, or the number"),
            ("9 equal 2", "rss context '9': new, or the number"),
            ("new 0", "context '0': the number of a context, 1 to 8"),
            ("new 300", "context '300': the number"),
            ("1", "hkey KEY, equal N"),
            ("new even", "rss 'even':"),
        ] {
            let words: Vec<_> = words.split_whitespace().collect();
            let refused = Words::new("context", &words).rss_context().unwrap_err();
            assert!(refused.to_string().contains(says), "{words:?}: {refused}");
        }
    }
}
