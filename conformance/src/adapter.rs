//! The control adapter: a program that administers the subject in whatever way the subject has, and takes its orders from the suite.
//!
//! A line of words in, a line out: `ok` with what was asked for behind it, `unsupported`, or `error` and why. The suite knows no
//! back end's control socket, and the adapter no case.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::group::Group;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an adapter says of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done; what was asked for, if anything was.
    Done(String),
    /// This subject, or this adapter, has no such thing.
    Unsupported,
    /// The subject refuses, and says why.
    Refused(String),
}

impl Answer {
    fn parse(line: &str) -> Option<Answer> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Some(match word {
            "ok" => Answer::Done(rest.trim().to_owned()),
            "unsupported" => Answer::Unsupported,
            "error" => Answer::Refused(rest.trim().to_owned()),
            _ => return None,
        })
    }
}

/// A running adapter, ended with all that it has started when dropped.
#[derive(Debug)]
pub struct Adapter {
    _group: Group,
    orders: ChildStdin,
    answers: Receiver<io::Result<String>>,
}

impl Adapter {
    /// Starts one.
    ///
    /// # Errors
    /// A program that cannot be started, or no program.
    pub fn start(command: &[String]) -> io::Result<Adapter> {
        let (program, args) = command
            .split_first()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped());
        let mut group = Group::spawn(command.stdout(Stdio::piped()))?;
        let child = group.child();
        let missing = || io::Error::from(io::ErrorKind::BrokenPipe);
        let orders = child.stdin.take().ok_or_else(missing)?;
        let said = child.stdout.take().ok_or_else(missing)?;
        let (tell, answers) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines() {
                // Nobody listens any more when the adapter has been given up.
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Adapter {
            _group: group,
            orders,
            answers,
        })
    }

    /// Gives an order, a line of words, and waits for the answer.
    ///
    /// # Errors
    /// An adapter that has ended, says something else than an answer, or nothing at all ([`io::ErrorKind::TimedOut`]): what it says later would
    /// be taken for another answer.
    pub fn ask(&mut self, words: &str) -> io::Result<Answer> {
        let failed = |what: &str| io::Error::other(format!("the control adapter {what}: {words}"));
        writeln!(self.orders, "{words}").map_err(|_| failed("has ended"))?;
        let line = match self.answers.recv_timeout(PATIENCE) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Timeout) => {
                let kind = io::ErrorKind::TimedOut;
                return Err(io::Error::new(kind, failed("does not answer")));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(failed("has ended")),
        };
        Answer::parse(line.trim())
            .ok_or_else(|| failed(&format!("says '{line}', which is no answer")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Adapter {
        Adapter::start(&["sh", "-c", script].map(str::to_owned)).unwrap()
    }

    #[test]
    fn three_answers_and_nothing_else() {
        let mut adapter = shell(
            "while read -r verb rest; do case $verb in \
             link) echo ok;; vf) echo ok rx=$rest;; filter) echo unsupported;; reset) echo error it is busy;; \
             die) exit;; *) echo what;; esac; done",
        );
        let mut says = |words: &str| adapter.ask(words);
        assert_eq!(says("link up").unwrap(), Answer::Done(String::new()));
        assert_eq!(says("vf 3").unwrap(), Answer::Done("rx=3".into()));
        assert_eq!(says("filter flush").unwrap(), Answer::Unsupported);
        assert_eq!(says("reset").unwrap(), Answer::Refused("it is busy".into()));
        let error = says("nonsense").unwrap_err().to_string();
        assert_eq!(
            error,
            "the control adapter says 'what', which is no answer: nonsense"
        );
        let error = says("die").unwrap_err().to_string();
        assert_eq!(error, "the control adapter has ended: die");
    }

    #[test]
    fn one_that_cannot_be_started_is_named() {
        let error = Adapter::start(&["/nonexistent/adapter".to_owned()]).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/adapter: "));
    }
}
