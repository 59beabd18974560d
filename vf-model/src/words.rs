//! Words of a command, read one after the other, and why a word is not what it was meant to be. Knows no command.

use std::str::FromStr;

/// Why text is not what it was meant to be. One line that says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// A word that is not among the allowed ones.
    #[error("{what} '{got}': {allowed}")]
    Word {
        /// What it was meant to be.
        what: &'static str,
        /// The word.
        got: Box<str>,
        /// What is allowed there.
        allowed: &'static str,
    },
    /// The command ends too early.
    #[error("{after}: {allowed} must follow")]
    Missing {
        /// The last word.
        after: Box<str>,
        /// What is allowed there.
        allowed: &'static str,
    },
}

impl ParseError {
    pub(crate) fn word(what: &'static str, got: &str, allowed: &'static str) -> ParseError {
        ParseError::Word {
            what,
            got: on_a_line(got),
            allowed,
        }
    }
}

/// A line is a line, whatever was typed.
fn on_a_line(word: &str) -> Box<str> {
    word.escape_debug().take(64).collect::<String>().into()
}

/// Words that are still to be read.
pub(crate) struct Words<'a, S> {
    rest: std::slice::Iter<'a, S>,
    last: Box<str>,
}

impl<'a, S: AsRef<str>> Words<'a, S> {
    /// Words that follow `first`.
    pub(crate) fn new(first: &str, words: &'a [S]) -> Words<'a, S> {
        Words {
            rest: words.iter(),
            last: first.into(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.rest.len() == 0
    }

    /// The next word, which is left where it is.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        self.rest.as_slice().first().map(S::as_ref)
    }

    pub(crate) fn next(&mut self, allowed: &'static str) -> Result<&'a str, ParseError> {
        let Some(word) = self.rest.next().map(S::as_ref) else {
            return Err(ParseError::Missing {
                after: self.last.clone(),
                allowed,
            });
        };
        self.last = on_a_line(word);
        Ok(word)
    }

    /// # Errors
    /// [`ParseError`] unless all words have been read.
    pub(crate) fn end(&mut self) -> Result<(), ParseError> {
        match self.rest.next() {
            None => Ok(()),
            Some(extra) => Err(ParseError::word(
                "word",
                extra.as_ref(),
                "nothing more may follow",
            )),
        }
    }
}

/// A number that a word stands for.
pub(crate) fn number<T: FromStr>(
    what: &'static str,
    text: &str,
    allowed: &'static str,
) -> Result<T, ParseError> {
    text.parse()
        .map_err(|_| ParseError::word(what, text, allowed))
}
