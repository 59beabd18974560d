//! `vfnic upgrade`: starts the program that is to go on where the one that runs is, and says what comes of it; and that program's part, as
//! `vfnic run --take-over`. What is handed over, and how, is the library's.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vfnic::cli;
use vfnic::config::Config;
use vfnic::handover::{TakeOverError, Taken};
use vfnic::log::StandardError;
use vfnic::sandbox::{Role, Sandbox};
use vfnic::server::ready::Ready;
use vfnic::server::{Server, raise_descriptor_limit};
use vfnic::state_file::StateFile;

use crate::failure::{Failure, failed, refused, usage};
use crate::output::print;
use crate::run::{keep, serve};
use crate::running::running;
use crate::signals::signals_in;

/// What a process answers in place of `ready` that does not go on: it has said why on standard error, which is this one's until it goes on.
const SAID_WHY: [u8; 6] = *b"refuse";

/// Has a program go on where the process at this control socket is.
pub(crate) fn upgrade(ctl: &Path, args: &cli::Upgrade) -> Result<(), Failure> {
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(failed)?,
    };
    let mut command = Command::new(&program);
    command
        .args(["run", "--take-over", "--quiet", "--ready-fd", "1", "--ctl"])
        .arg(ctl)
        .args(args.no_sandbox.then_some("--no-sandbox"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // What this terminal is told to end is another program.
        .process_group(0);
    let started = command.spawn();
    let mut child = started.map_err(|error| failed(format!("{}: {error}", program.display())))?;
    let mut said = [0; 6];
    let told = child.stdout.take().map(|mut out| out.read_exact(&mut said));
    if let Some(Ok(())) = told
        && said == *b"ready\n"
    {
        return print(&format!(
            "process {} goes on where the one before it was\n",
            child.id()
        ));
    }
    let status = child.wait().map_err(failed)?;
    if said == SAID_WHY {
        std::process::exit(status.code().unwrap_or(1));
    }
    let program = program.display();
    Err(failed(format!(
        "{program} does not go on ({status}), but the vfnic that runs does"
    )))
}

/// Goes on where the process at the control socket is.
pub(crate) fn take_over(
    args: &cli::Run,
    ctl: Option<PathBuf>,
    sandbox: Sandbox,
) -> Result<(), Failure> {
    let mut goes_on = false;
    let outcome = go_on(args, ctl, sandbox, &mut goes_on);
    if outcome.is_err() && !goes_on && args.ready_fd == Some(1) {
        // Nobody need hear it.
        let _ = std::io::stdout().write_all(&SAID_WHY);
        let _ = std::io::stdout().flush();
    }
    outcome
}

/// The same; it goes on from when it says so, and then ends as any other does.
fn go_on(
    args: &cli::Run,
    ctl: Option<PathBuf>,
    sandbox: Sandbox,
    goes_on: &mut bool,
) -> Result<(), Failure> {
    let signals = signals_in(sandbox)?;
    // What the other process has open comes here at once.
    raise_descriptor_limit();
    let mut taken = Taken::ask(&running(ctl)?).map_err(|error| match error {
        TakeOverError::OtherVersion => failed(format!(
            "{error}: restart it, and front ends that connect again go on"
        )),
        // Nothing has been stopped.
        TakeOverError::Refused(why) => usage(format!("{why}; the vfnic that runs goes on")),
        other => failed(other),
    })?;
    let ready = taken.descriptor().map_err(failed)?;
    let log = taken.descriptor().map_err(failed)?;
    let state = taken.document.state.take();
    let is_locked = state.as_ref().is_some_and(|state| state.folder.is_some());
    let lock = is_locked.then(|| taken.descriptor()).transpose();
    let lock = lock.map_err(failed)?;
    let started_with = state.as_ref().map(|state| {
        let text = &state.started_with;
        Config::of_text(text, &taken.config.socket_dir)
    });
    let started_with = started_with.transpose().map_err(failed)?;
    let mut server = match Server::take_over(&mut taken, sandbox) {
        Ok(server) => server,
        Err(error) => {
            taken.refuse(&error.to_string());
            return Err(refused(error));
        }
    };
    taken.commit().map_err(failed)?;
    *goes_on = true;
    // Until here whoever has asked for the upgrade was told what is wrong.
    StandardError::of_process().redirect(&log).map_err(failed)?;
    // The guests are this process' from here on: nothing that can be done without ends it.
    server.go_on(&taken);
    let mut ready = Ready::adopt(&taken.config, ready);
    if let Err(error) = ready.announce_successor(args.ready_fd) {
        tracing::warn!("{error}");
    }
    let unwritten = state.as_ref().is_some_and(|state| state.unwritten);
    let folder = state.as_ref().and_then(|state| state.folder.as_deref());
    let needs = taken.config.needs(folder);
    let state =
        started_with.map(|config| StateFile::adopt(folder, &taken.config.socket_dir, config, lock));
    // The other process ends when it is told that nothing of it is needed any more.
    drop((taken, log));
    server.settle_in(sandbox);
    sandbox.confine(Role::Control(&needs));
    keep(&mut server, &ready, state)?;
    if unwritten {
        server.write_state();
    }
    server.stop_on(signals).map_err(failed)?;
    serve(server, ready)
}
