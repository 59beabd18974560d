//! The ledger: each thing that virtio and the vhost-user document ask of a net back end, with the cases that judge it, or the reason
//! why none does. It is written down in `ledger.toml`; its tests hold it and the cases to each other.
//!
//! Judges nothing itself.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::case::Level;

/// All of it.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Why a clause has no case, by the word that clauses say.
    reasons: BTreeMap<String, String>,
    /// Sections and headings, in the order of the documents.
    section: Vec<Section>,
}

/// A section of virtio (`V 2.7.5.1`), or a heading of the vhost-user document (`VU Ring states`).
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    name: String,
    title: String,
    clauses: Vec<Clause>,
}

/// One thing that is asked.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Clause {
    level: Level,
    says: String,
    #[serde(default)]
    cases: Vec<String>,
    /// A word of `reasons`.
    because: Option<String>,
}

/// A clause with its place.
#[derive(Debug, serde::Serialize)]
struct Row<'a> {
    clause: String,
    title: &'a str,
    level: Level,
    says: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    cases: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl Ledger {
    /// The ledger of this suite.
    ///
    /// # Errors
    /// Never, as a test has read it: what toml says of a file that is none.
    pub fn read() -> Result<Ledger, toml::de::Error> {
        toml::from_str(include_str!("../ledger.toml"))
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.section.iter().flat_map(|section| {
            (1..).zip(&section.clauses).map(|(place, clause)| Row {
                clause: format!("{} #{place}", section.name),
                title: &section.title,
                level: clause.level,
                says: &clause.says,
                cases: &clause.cases,
                reason: clause.because.as_ref().map(|word| self.reason(word)),
            })
        })
    }

    fn reason<'a>(&'a self, word: &'a str) -> &'a str {
        self.reasons.get(word).map_or(word, String::as_str)
    }
}

/// Writes it for people, section by section, and how many clauses there are of each kind.
pub fn print(ledger: &Ledger, out: &mut impl Write) -> io::Result<()> {
    for section in &ledger.section {
        writeln!(out, "{}  {}", section.name, section.title)?;
        for (place, clause) in (1..).zip(&section.clauses) {
            let level = clause.level.to_string();
            writeln!(out, "  #{place:<3} {level:<6} {}", clause.says)?;
            for case in &clause.cases {
                writeln!(out, "              {case}")?;
            }
            if let Some(word) = &clause.because {
                let part = if clause.cases.is_empty() {
                    "no case"
                } else {
                    "in part"
                };
                writeln!(out, "              {part}: {}", ledger.reason(word))?;
            }
        }
    }
    writeln!(out)?;
    for level in [Level::Must, Level::Should, Level::Text] {
        let of_level = || ledger.rows().filter(move |row| row.level == level);
        let judged = of_level().filter(|row| !row.cases.is_empty()).count();
        let all = of_level().count();
        writeln!(out, "{level}: {all} clauses, {judged} judged by cases")?;
    }
    for (word, reason) in &ledger.reasons {
        let clauses = ledger.section.iter().flat_map(|section| &section.clauses);
        let count = clauses
            .filter(|clause| clause.because.as_ref() == Some(word))
            .count();
        writeln!(out, "  {count:>3} {reason}")?;
    }
    Ok(())
}

/// Writes it as JSON, a clause a line.
pub fn json_lines(ledger: &Ledger, out: &mut impl Write) -> io::Result<()> {
    for row in ledger.rows() {
        serde_json::to_writer(&mut *out, &row)?;
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::cases;

    #[test]
    fn each_clause_has_cases_that_there_are_or_a_reason() {
        let ledger = Ledger::read().unwrap();
        for row in ledger.rows() {
            assert!(row.reason.is_some() || !row.cases.is_empty(), "{row:?}");
            assert!(row.says.ends_with('.'), "{row:?}");
            for id in row.cases {
                let case = cases::all().find(|case| case.id == id);
                assert!(case.is_some(), "{}: there is no case {id}", row.clause);
            }
        }
        let words = ledger.section.iter().flat_map(|section| &section.clauses);
        let words: Vec<&String> = words.filter_map(|clause| clause.because.as_ref()).collect();
        for word in &words {
            assert!(ledger.reasons.contains_key(*word), "no reason {word}");
        }
        for word in ledger.reasons.keys() {
            assert!(words.contains(&word), "no clause says {word}");
        }
    }

    #[test]
    fn no_section_stands_there_twice() {
        let ledger = Ledger::read().unwrap();
        let mut names: Vec<&str> = ledger.section.iter().map(|s| &s.name[..]).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None);
    }

    /// Whether the case's source names the section, or one above or below it.
    fn names(case: &Case, section: &str) -> bool {
        match section.split_once(' ') {
            Some(("V", number)) => case
                .source
                .split([' ', ',', ';'])
                .any(|word| within(word, number) || within(number, word)),
            Some((_, heading)) => case.source.contains(heading),
            None => false,
        }
    }

    fn within(inner: &str, outer: &str) -> bool {
        let rest = inner.strip_prefix(outer);
        !outer.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    #[test]
    fn a_case_says_must_should_or_text_only_as_a_clause_does_that_it_names() {
        let ledger = Ledger::read().unwrap();
        for case in cases::all() {
            let judges = |clause: &Clause| clause.cases.iter().any(|id| id == case.id);
            if matches!(case.level, Level::Hard | Level::Model) {
                let said = ledger.section.iter().flat_map(|s| &s.clauses).any(judges);
                assert!(!said, "{}: no text says it, and the ledger does", case.id);
                continue;
            }
            let said = ledger.section.iter().any(|section| {
                let clauses = section.clauses.iter();
                names(case, &section.name)
                    && clauses
                        .filter(|clause| clause.level == case.level)
                        .any(judges)
            });
            assert!(
                said,
                "{}: no clause of level {} in {}",
                case.id, case.level, case.source
            );
        }
    }

    #[test]
    fn both_forms_have_every_clause_and_the_counts() {
        let ledger = Ledger::read().unwrap();
        let (mut text, mut json) = (Vec::new(), Vec::new());
        print(&ledger, &mut text).unwrap();
        json_lines(&ledger, &mut json).unwrap();
        let text = String::from_utf8(text).unwrap();
        let clauses = text.lines().filter(|line| line.starts_with("  #")).count();
        assert_eq!(clauses, ledger.rows().count());
        assert_eq!(json.iter().filter(|byte| **byte == b'\n').count(), clauses);
        assert!(text.contains("V 2.7.5.1  The Virtqueue Descriptor Table\n"));
        // What CI shows of it.
        let counts = text.split("\n\n").last().unwrap();
        println!("{counts}");
        assert!(counts.starts_with("must: "));
    }
}
