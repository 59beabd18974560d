//! Words of a command, read one after the other, and why a word is not what it was meant to be. Knows no command.

use std::str::FromStr;

use vf_packet::on_a_line;

/// Why text is not what it was meant to be. One line that says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// A word that is not among the allowed ones.
    #[error("{what} '{got}': {}{allowed}", did_you_mean(got, allowed))]
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
    /// A word that came before, or that contradicts one.
    #[error("{0} is said twice: say it once")]
    Twice(&'static str),
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

fn did_you_mean(got: &str, allowed: &'static str) -> String {
    let meant = nearest(got, allowed_words(allowed));
    // What is allowed may name a word that is for another place.
    let meant = meant.filter(|word| *word != got);
    meant.map_or_else(String::new, |word| format!("did you mean '{word}'? "))
}

/// The words in what is allowed, as a refusal has it: `add, del or equal N`, where values are in capitals. What has several words otherwise
/// describes one.
pub(crate) fn allowed_words(allowed: &'static str) -> impl Iterator<Item = &'static str> {
    let all = allowed.split(", ").flat_map(|part| part.split(" or "));
    all.filter_map(|part| {
        let (word, values) = part.split_once(' ').unwrap_or((part, ""));
        let is_word = !word.is_empty() && !values.contains(|c: char| c.is_ascii_lowercase());
        is_word.then_some(word)
    })
}

/// The word that was probably meant, if one is likelier than all others: one with a few letters wrong, one whose beginning was
/// said, or one that others are around in the words of other tools (`link_state`).
pub fn nearest<'a>(got: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    /// Of two words as long, as many letters as this may say nothing of the other.
    const ALIKE: f64 = 0.6;
    let got: String = got.chars().take(64).flat_map(char::to_lowercase).collect();
    let likeness = |word: &str| {
        let word = word.to_lowercase();
        let around = got.split('_').any(|part| part == word);
        let behind = word.len() > 3 && got.ends_with(&word);
        if around || behind || got.len() > 2 && word.starts_with(&got) {
            return 1.0;
        }
        strsim::normalized_damerau_levenshtein(&got, &word)
    };
    let alike = words.map(|word| (likeness(word), word));
    let mut alike: Vec<_> = alike.filter(|(likeness, _)| *likeness >= ALIKE).collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0));
    match alike.as_slice() {
        [(most, _), (next, _), ..] if most == next => None,
        [(_, word), ..] => Some(word),
        [] => None,
    }
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

    /// The word behind the next.
    pub(crate) fn peek_second(&self) -> Option<&'a str> {
        self.rest.as_slice().get(1).map(S::as_ref)
    }

    /// All that are left.
    pub(crate) fn rest(&mut self) -> Vec<&'a str> {
        self.rest.by_ref().map(S::as_ref).collect()
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

/// The words that have been said of those that may be said once.
#[derive(Default)]
pub(crate) struct Once(Vec<&'static str>);

impl Once {
    /// # Errors
    /// [`ParseError::Twice`] if it has been said before.
    pub(crate) fn say(&mut self, word: &'static str) -> Result<(), ParseError> {
        if self.0.contains(&word) {
            return Err(ParseError::Twice(word));
        }
        self.0.push(word);
        Ok(())
    }

    /// Has these words be new again.
    pub(crate) fn forget(&mut self, words: &[&str]) {
        self.0.retain(|said| !words.contains(said));
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

/// A number of two bytes, as decimal or, behind `0x`, hexadecimal digits.
pub(crate) fn hex_or_decimal(word: &str) -> Option<u16> {
    match word.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_nearly_right_gets_the_right_one() {
        const KEYS: &str = "mac, vlan, spoofchk, state, max_tx_rate or path, each with a value";
        for (got, meant) in [
            ("link_state", Some("state")),
            ("linkstate", Some("state")),
            ("max-tx-rate", Some("max_tx_rate")),
            ("vlna", Some("vlan")),
            ("VLAN", Some("vlan")),
            ("vlan_id", Some("vlan")),
            ("spoof", Some("spoofchk")),
            ("spoofcheck", Some("spoofchk")),
            ("max_rate", Some("max_tx_rate")),
            ("mtu", None),
            // Either.
            ("spoofchk_state", None),
            ("each", None),
            ("", None),
        ] {
            assert_eq!(nearest(got, allowed_words(KEYS)), meant, "{got}");
        }
        let said = ParseError::word("setting", "vlna", KEYS).to_string();
        assert_eq!(said, format!("setting 'vlna': did you mean 'vlan'? {KEYS}"));
        let all: Vec<_> = allowed_words("hkey KEY, weight W0 W1 ... or a MAC address").collect();
        assert_eq!(all, ["hkey", "weight"]);
        let said = ParseError::word("setting", "vlan", KEYS).to_string();
        assert_eq!(said, format!("setting 'vlan': {KEYS}"), "what was said");
        // A number is no word, nor is what only describes one.
        let said = ParseError::word("vlan", "4095", "1 to 4094, or 0 for none").to_string();
        assert_eq!(said, "vlan '4095': 1 to 4094, or 0 for none");
    }
}
