//! The command line tool: runs what was asked for and turns its outcome into text and an exit code. 0: done. 1: failed.
//! 2: the command or the configuration is wrong, and nothing has changed.
#![forbid(unsafe_code)]

mod batch;
mod bridge;
mod capture;
mod check;
#[cfg(feature = "lab")]
mod demo;
mod extcap;
mod failure;
mod filter;
mod guest;
#[cfg(feature = "lab")]
mod lab;
mod monitor;
mod netns;
mod output;
mod pages;
mod profile;
#[cfg(feature = "lab")]
mod progress;
mod rates;
mod run;
mod running;
mod show;
mod signals;
#[cfg(feature = "top")]
mod top;
mod units;
mod upgrade;
mod why;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use batch::Batch;
use clap::{CommandFactory, Parser};
use failure::{Failure, failed, unanswered, usage};
use output::print;
use running::{done, running};
use vfnic::cli::{self, Cli};
use vfnic::control::{Request, Response, ask};
use vfnic::log::complain;

fn main() -> ExitCode {
    vfnic::panics::end_the_process();
    // A shell asks what may follow, and is answered.
    match complete() {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => {}
        Err(error) => error.exit(),
    }
    let cli = match Cli::try_parse_from(arguments()) {
        Ok(cli) => cli,
        Err(error) => match misread(&error, arguments()) {
            Some(line) => {
                complain(&line);
                return ExitCode::from(2);
            }
            None => error.exit(),
        },
    };
    match carry_out(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(line)) => {
            complain(&line);
            ExitCode::from(2)
        }
        Err(Failure::Failed(line)) => {
            complain(&line);
            ExitCode::FAILURE
        }
    }
}

/// Answers a shell, if it is one that asks.
fn complete() -> clap::error::Result<bool> {
    let said = std::env::args_os();
    let completer = clap_complete::CompleteEnv::with_factory(cli::complete::program);
    let said: Vec<_> = said
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    completer.try_complete(cli::joined(said), std::env::current_dir().ok().as_deref())
}

fn carry_out(cli: Cli) -> Result<(), Failure> {
    let Cli { ctl, nic, command } = cli;
    let (ctl, nic) = match (&command, command.target()) {
        (_, Some(behind)) => (behind.ctl.clone().or(ctl), behind.nic.clone().or(nic)),
        (
            cli::Command::Run(cli::Run { ctl: behind, .. })
            | cli::Command::Save { ctl: behind }
            | cli::Command::Upgrade(cli::Upgrade { ctl: behind, .. })
            | cli::Command::Extcap(cli::Extcap { ctl: behind, .. }),
            _,
        ) if nic.is_none() => (behind.clone().or(ctl), None),
        (_, None) if nic.is_none() && ctl.is_none() => (None, None),
        _ => {
            const NICS: &str = "show, top, guest, netns, vf, filter, link, bridge, fdb, why, capture, monitor, check and batch";
            return Err(usage(match nic {
                Some(_) => format!("--nic is for {NICS}"),
                None => format!("--ctl is for {NICS}, save, upgrade, extcap and run"),
            }));
        }
    };
    match command {
        cli::Command::Run(args) => run::run(args, ctl),
        #[cfg(feature = "lab")]
        cli::Command::Demo(args) => demo::demo(&args),
        #[cfg(feature = "lab")]
        cli::Command::Experiment(args) => lab::run_experiment(&args),
        #[cfg(feature = "lab")]
        cli::Command::Scenario { command } => lab::run_scenario(command),
        cli::Command::Guest(args) => guest::guest(&running(ctl)?, nic.as_deref(), &args),
        cli::Command::Show(args) => show::show_all(&running(ctl)?, nic.as_deref(), &args),
        #[cfg(feature = "top")]
        cli::Command::Top(args) => top::top(&running(ctl)?, nic, &args),
        cli::Command::Netns { command, .. } => {
            netns::netns(&running(ctl)?, nic.as_deref(), &command)
        }
        cli::Command::Save { .. } => save(&running(ctl)?),
        cli::Command::Upgrade(args) => upgrade::upgrade(&running(ctl)?, &args),
        cli::Command::Vf { words, .. } => running::command(&running(ctl)?, nic, "vf", words),
        cli::Command::Filter { command, .. } => filter::filter(&running(ctl)?, nic, command),
        cli::Command::Link { words, show, .. } => match bridge::question_of_link(&words) {
            Some(question) => question.ask(&running(ctl)?, nic.as_deref(), show.json),
            None if show.json => Err(usage(NO_JSON)),
            None => running::command(&running(ctl)?, nic, "link", words),
        },
        cli::Command::Capture(args) => capture::capture(&running(ctl)?, nic, &args),
        cli::Command::Check {
            command: cli::Check::Paths(args),
            ..
        } => check::paths(&running(ctl)?, nic, &args),
        cli::Command::Monitor(args) => monitor::monitor(&running(ctl)?, nic, &args),
        cli::Command::Extcap(args) => extcap::extcap(&running(ctl)?, &args),
        cli::Command::Why(args) => why::ask_why(&running(ctl)?, nic, &args),
        cli::Command::Bridge { words, show, .. } => match bridge::question(&words) {
            Some(question) => question.ask(&running(ctl)?, nic.as_deref(), show.json),
            None if show.json => Err(usage(NO_JSON)),
            None => running::command(&running(ctl)?, nic, "bridge", words),
        },
        cli::Command::Fdb {
            mut words, show, ..
        } => {
            words.insert(0, "fdb".to_owned());
            carry_out(Cli {
                ctl,
                nic,
                command: cli::Command::Bridge {
                    at: cli::Target::default(),
                    words,
                    show,
                },
            })
        }
        cli::Command::Profile { command } => profile::say(&command),
        cli::Command::Man { dir } => pages::man(&dir),
        cli::Command::Completions { shell } => pages::completions(shell),
        cli::Command::Batch { file, .. } => carry_out_batch(ctl, nic.as_deref(), &file),
    }
}

/// What a change is told that is to be shown as JSON.
const NO_JSON: &str = "--json is for what shows: show [dev NIC] --json";

/// The command line, in which `-batch` is one word, as it is to ip(8).
fn arguments() -> impl Iterator<Item = OsString> {
    let mut args: Vec<_> = std::env::args_os().collect();
    for arg in args.iter_mut().filter(|arg| *arg == "-batch") {
        *arg = "--batch".into();
    }
    // From its extcap folder, Wireshark runs it without a command.
    if args.get(1).is_some_and(is_of_extcap) {
        args.insert(1, "extcap".into());
    }
    args.into_iter()
}

/// Whether Wireshark has said it.
fn is_of_extcap(arg: &OsString) -> bool {
    let arg = arg.to_string_lossy();
    arg.starts_with("--extcap-") || arg == "--capture"
}

/// What is behind where to read what the command line has: what this program was built without.
const WITHOUT: &str = match (cfg!(feature = "lab"), cfg!(feature = "top")) {
    (true, true) => "",
    (true, false) => "; top needs a vfnic built with the feature 'top'",
    (false, _) => {
        "; experiment, scenario and run --clock need a vfnic built with the feature 'lab', and top one with 'top'"
    }
};

/// What is wrong with the command line, on one line; `None` where help was asked for or is all there is to say.
fn misread(error: &clap::Error, args: impl Iterator<Item = OsString>) -> Option<String> {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || error.kind() == DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = error.to_string();
    // Usage and hints follow behind an empty line.
    let what: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|l| !l.is_empty())
        .collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let meant = meant(error).map_or_else(String::new, |word| format!(": did you mean '{word}'?"));
    if let Some(number) = negative(error) {
        return Some(format!("{number}: nothing is less than zero here"));
    }
    let number = STD_NUMBERS.into_iter().find(|(std, _)| what.ends_with(std));
    let what = match number {
        Some((std, ours)) => what.replace(std, ours),
        None => what.to_owned(),
    };
    let args: Vec<_> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let program = Cli::command();
    let line = cli::Line::of(&args, &program);
    let (command, _) = line.command(&program);
    Some(format!("{what}{meant} (see '{command} --help'{WITHOUT})"))
}

/// The word that was taken for an option, if it is a number or begins with one, such as `-1ms`.
fn negative(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_number = word
        .strip_prefix('-')?
        .starts_with(|c: char| c.is_ascii_digit());
    // Of `-1ms` clap tells the first letter.
    let said = std::env::args().find(|said| said.starts_with(word.as_str()));
    said.filter(|_| is_number && error.kind() == ErrorKind::UnknownArgument)
}

/// What the standard library says of text that is no number, and what a user is told.
const STD_NUMBERS: [(&str, &str); 4] = [
    ("invalid digit found in string", "a whole number is wanted"),
    (
        "cannot parse integer from empty string",
        "a whole number is wanted",
    ),
    ("invalid float literal", "a number is wanted"),
    ("cannot parse float from empty string", "a number is wanted"),
];

/// The word that was probably meant.
fn meant(error: &clap::Error) -> Option<&str> {
    use clap::error::{ContextKind, ContextValue};
    let suggested = [
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedArg,
        ContextKind::SuggestedValue,
    ];
    suggested
        .into_iter()
        .find_map(|kind| match error.get(kind)? {
            ContextValue::String(word) => Some(word.as_str()),
            // Those that are most alike come last.
            ContextValue::Strings(words) => words.last().map(String::as_str),
            _ => None,
        })
}

fn save(ctl: &Path) -> Result<(), Failure> {
    match ask(ctl, &Request::Save).map_err(failed)? {
        Response::Save(text) => print(&text),
        Response::Refused(why) => Err(usage(why)),
        _ => Err(unanswered()),
    }
}

fn carry_out_batch(ctl: Option<PathBuf>, nic: Option<&str>, file: &Path) -> Result<(), Failure> {
    let name = file.display();
    let text = batch::read(file).map_err(|error| usage(format!("{name}: {error}")))?;
    let batch = Batch::parse(&text, nic);
    let Batch { commands, lines } =
        batch.map_err(|(line, why)| usage(format!("{name}:{line}: {why}")))?;
    if commands.is_empty() {
        return Ok(());
    }
    match ask(&running(ctl)?, &Request::Batch { commands }).map_err(failed)? {
        Response::RefusedAt { at, words, why } => {
            let (line, words) = (lines.get(at).copied().unwrap_or_default(), words.join(" "));
            Err(usage(format!(
                "{name}:{line}: {words}: {why} (no line of it is in force)"
            )))
        }
        answer => done(answer),
    }
}
