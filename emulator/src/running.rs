//! The vfnic that runs: where it is asked, and what a command to it comes to. Knows nothing of what the commands mean.

use std::path::{Path, PathBuf};

use vfnic::config::{default_socket_dir, temporary_socket_dir};
use vfnic::control::{NOT_KEPT, NicCommand, Request, Response, ask};
use vfnic::log::complain;
use vfnic::server::RunError;
use vfnic::server::ready::is_own_dir;

use crate::failure::{Failure, failed, unanswered, usage};
use crate::output::print;

/// The control socket of the vfnic that runs.
pub(crate) fn running(ctl: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(ctl) = ctl {
        return Ok(ctl);
    }
    let dir = default_socket_dir();
    // Somebody else's NIC would take this user's commands.
    if dir == temporary_socket_dir() && dir.exists() && !is_own_dir(&dir) {
        return Err(failed(RunError::ForeignDir(dir)));
    }
    Ok(dir.join("ctl.sock"))
}

/// Gives it a command, whose first word is `first`.
pub(crate) fn command(
    ctl: &Path,
    nic: Option<String>,
    first: &str,
    rest: Vec<String>,
) -> Result<(), Failure> {
    let mut words = vec![first.to_owned()];
    words.extend(rest);
    // What can be known to be wrong without asking is said without a running emulator.
    let asked = vf_model::Command::parse_addressed(&words).map_err(usage)?;
    let answer = ask(ctl, &Request::Command(NicCommand { nic, words }));
    match (asked.command, answer.map_err(failed)?) {
        (
            vf_model::Command::Request { .. } | vf_model::Command::RssContext { .. },
            Response::Done(answers),
        ) => {
            let notes = answers.iter().partition(|line| line.starts_with(NOT_KEPT));
            let (notes, answers): (Vec<_>, Vec<_>) = notes;
            notes.into_iter().for_each(|note| complain(note));
            let answers = answers.into_iter().map(|line| format!("{line}\n"));
            print(&answers.collect::<String>())
        }
        (_, answer) => done(answer),
    }
}

/// Says what is worth knowing of what has been done, or why it has not been.
pub(crate) fn done(answer: Response) -> Result<(), Failure> {
    match answer {
        Response::Refused(why) => Err(usage(why)),
        Response::Done(notes) => {
            for note in notes {
                complain(&note);
            }
            Ok(())
        }
        _ => Err(unanswered()),
    }
}
