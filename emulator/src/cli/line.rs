//! A command line as it is being typed, or as it was misread: its words without options, and which NIC of which vfnic they are for. Judges
//! nothing.

use std::path::PathBuf;

use clap::{Arg, Command};

/// What is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// `--ctl`.
    pub ctl: Option<PathBuf>,
    /// `--nic`.
    pub nic: Option<String>,
    /// What is no option, nor the value of one: first the program.
    pub words: Vec<String>,
}

impl Line {
    /// Reads what is said to a program with these options, as far as it goes.
    #[must_use]
    pub fn of(said: &[String], program: &Command) -> Line {
        let mut line = Line::default();
        let mut said = said.iter();
        while let Some(word) = said.next() {
            let (option, value) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            if !option.starts_with('-') || option.len() < 2 {
                line.words.push(word.clone());
                continue;
            }
            let value = match value {
                None if takes_value(program, option) => said.next().cloned(),
                value => value,
            };
            match option {
                "--ctl" => line.ctl = value.map(PathBuf::from),
                "--nic" => line.nic = value,
                _ => {}
            }
        }
        line
    }

    /// The command that its words name, as far as they do, such as `vfnic profile show`; and the words behind it.
    #[must_use]
    pub fn command<'a>(&'a self, program: &Command) -> (String, &'a [String]) {
        let (mut path, mut command) = (program.get_name().to_owned(), program);
        let mut rest = self.words.get(1..).unwrap_or_default();
        while let [word, behind @ ..] = rest
            && let Some(sub) = command.find_subcommand(word)
        {
            path = format!("{path} {}", sub.get_name());
            (command, rest) = (sub, behind);
        }
        (path, rest)
    }
}

/// Whether an option of the program, or of any command of it, has a value behind it.
fn takes_value(command: &Command, option: &str) -> bool {
    let is_it = |arg: &&Arg| match option.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg
            .get_short()
            .is_some_and(|short| option == format!("-{short}")),
    };
    let mut known = command.get_arguments().filter(is_it);
    known.any(|arg| arg.get_action().takes_values())
        || command
            .get_subcommands()
            .any(|sub| takes_value(sub, option))
}

/// The same words where `--ctl=PATH` is one, if more follows: Bash makes three of it (`COMP_WORDBREAKS`). It is said three times then, so that each
/// word keeps its place.
#[must_use]
pub fn joined(said: Vec<String>) -> Vec<String> {
    let mut words = said;
    for at in 0..words.len().saturating_sub(3) {
        if let Some([option, equals, value]) = words.get_mut(at..at + 3)
            && option.starts_with("--")
            && equals == "="
        {
            let whole = format!("{option}={value}");
            (*option, *equals, *value) = (whole.clone(), whole.clone(), whole);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn line(said: &str) -> Line {
        let said = said.split(' ').map(str::to_owned);
        Line::of(&joined(said.collect()), &Cli::command())
    }

    #[test]
    fn options_are_no_words_wherever_they_are() {
        for said in [
            "vfnic --ctl /c --nic a vf 0 set",
            "vfnic --ctl=/c vf --nic=a 0 set",
            "vfnic vf 0 --nic a set --ctl /c",
            // As Bash hands it over.
            "vfnic --ctl = /c --nic = a vf 0 set",
        ] {
            let line = line(said);
            assert_eq!(line.ctl.as_deref(), Some("/c".as_ref()), "{said}");
            assert_eq!(line.nic.as_deref(), Some("a"), "{said}");
            assert_eq!(line.words, ["vfnic", "vf", "0", "set"], "{said}");
        }
        let words = line("vfnic capture -w show --drops vf 0 --snaplen 9 wire").words;
        assert_eq!(words, ["vfnic", "capture", "vf", "0", "wire"]);
        assert_eq!(line("vfnic batch -").words, ["vfnic", "batch", "-"]);
        let half = ["vfnic", "--ctl", "=", "/r"].map(str::to_owned).to_vec();
        assert_eq!(joined(half.clone()), half, "it is completed");
    }

    #[test]
    fn the_command_is_as_deep_as_it_is_said() {
        let program = Cli::command();
        for (said, command, behind) in [
            (
                "vfnic --nic show capture vf 0",
                "vfnic capture",
                &["vf", "0"][..],
            ),
            ("vfnic profile show x", "vfnic profile show", &["x"]),
            ("vfnic filter delete 5", "vfnic filter del", &["5"]),
            ("vfnic shw", "vfnic", &["shw"]),
            ("vfnic", "vfnic", &[]),
        ] {
            let line = line(said);
            let (named, rest) = line.command(&program);
            assert_eq!(named, command, "{said}");
            assert_eq!(rest, behind, "{said}");
        }
    }
}
