//! `vf-conformance`: judges a vhost-user net back end at its socket, and measures it.
//!
//! Exit status: 0 when no case failed that counts, the bench ended, or every bar is met; 1 when one failed, the back end
//! broke off the bench, or a bar is missed; 2 for wrong usage or a subject that cannot be reached at all.
//!
//! Nothing is judged here: the cases do that.

#![forbid(unsafe_code)]

mod abuse;
mod front;
mod run;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use vf_conformance::ledger::{self, Ledger};
use vf_conformance::report;
use vf_conformance::table::{self, Judged};

const EXAMPLES: &str = "\
Examples:
  The whole suite, frames go from a to b; and two groups of it:
    vf-conformance run --socket a.sock --peer-socket b.sock
    vf-conformance run --socket a.sock ring/ robust/
  What one case is about:
    vf-conformance explain ring/order
  A front end that is started for each case:
    vf-conformance front-end --listen /tmp/f.sock --start 'qemu-system-x86_64 ... path={socket} ...'
  Rates of four frame sizes, and round trips:
    vf-conformance bench --socket a.sock --socket b.sock --cpu 0
    vf-conformance bench --socket a.sock --socket b.sock --cpu 0 --mode pingpong

Exit status: 0 all is well; 1 a case failed, the back end broke off, or a bar is missed;
2 wrong usage, or nobody is there.";

/// Judge a vhost-user net back end at its socket, or measure it
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the cases: id, level and source.
    List {
        /// As JSON, an object a line, with what each sends, expects and needs.
        #[arg(long)]
        json: bool,
        /// Only cases with this id, or with this in their id.
        patterns: Vec<String>,
    },
    /// Say what cases send, what they expect, what they need and where that comes from.
    Explain {
        /// Cases with this id, or with this in their id.
        #[arg(required = true)]
        patterns: Vec<String>,
    },
    Run(Box<run::Run>),
    FrontEnd(front::FrontEnd),
    Abuse(abuse::Abuse),
    /// Print what virtio and the vhost-user document ask of a net back end, with the cases that judge it, or why none does.
    Ledger {
        /// As JSON, an object a line.
        #[arg(long)]
        json: bool,
    },
    /// Print a Markdown table of the cases that not all of several subjects pass, from the files of run --json.
    Table {
        /// Files of findings, one a subject.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    Bench(Box<vf_load::Bench>),
    Compare(vf_load::Compare),
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => match misread(&error) {
            Some(line) => {
                eprintln!("vf-conformance: {line}");
                return ExitCode::from(2);
            }
            None => error.exit(),
        },
    };
    let stopped = vf_conformance::group::end_with_this_process(Duration::ZERO);
    match stopped.map_err(Box::from).and_then(|()| run(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // Whoever reads on has seen enough.
            let broken = error.downcast_ref::<io::Error>();
            if broken.is_none_or(|error| error.kind() != io::ErrorKind::BrokenPipe) {
                eprintln!("vf-conformance: {error}");
            }
            ExitCode::from(2)
        }
    }
}

/// What is wrong with the command line, on one line; `None` where help was asked for or is all there is to say.
fn misread(error: &clap::Error) -> Option<String> {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || error.kind() == DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = error.to_string();
    let lines = || text.lines().map(str::trim);
    // Hints and usage follow behind an empty line.
    let what: Vec<&str> = lines().take_while(|line| !line.is_empty()).collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    // What the standard library says of it.
    let number = [
        "invalid digit found in string",
        "cannot parse integer from empty string",
    ];
    let what = number.into_iter().fold(what.to_owned(), |what, std| {
        what.replace(std, "a whole number is wanted")
    });
    let tip = lines().find_map(|line| line.strip_prefix("tip: "));
    let tip = tip.map_or_else(String::new, |tip| format!(": {tip}"));
    let program = Args::command();
    let named = std::env::args().skip(1);
    let mut named = named.filter_map(|word| program.find_subcommand(&word).map(|_| word));
    let command = named
        .next()
        .map_or_else(String::new, |word| format!(" {word}"));
    Some(format!(
        "{what}{tip} (see 'vf-conformance{command} --help')"
    ))
}

/// Whether nothing failed.
fn run(args: Args) -> Result<bool, Box<dyn std::error::Error>> {
    let mut out = io::stdout().lock();
    match args.command {
        Command::Bench(bench) => match bench.run(&mut out) {
            Err(error) if error.is_failure() => {
                eprintln!("vf-conformance: {error}");
                Ok(false)
            }
            ended => Ok(ended.map(|()| true)?),
        },
        Command::Compare(compare) => Ok(compare.run(&mut out)?),
        Command::List { json, patterns } => {
            for case in run::chosen(&patterns)? {
                if json {
                    report::json_case(case, &mut out)?;
                } else {
                    let level = case.level.to_string();
                    writeln!(out, "{:<36} {level:<6} {}", case.id, case.source)?;
                }
            }
            Ok(true)
        }
        Command::Explain { patterns } => {
            for case in run::chosen(&patterns)? {
                writeln!(out, "{} ({})", case.id, case.level)?;
                writeln!(out, "  sent:     {}", case.sent)?;
                writeln!(out, "  expected: {}", case.expected)?;
                for need in case.needs {
                    writeln!(out, "  needs:    {need}")?;
                }
                writeln!(out, "  source:   {}", case.source)?;
            }
            writeln!(
                out,
                "\nV: virtio 1.4 (committee specification 01), by section; VU: the vhost-user document, by heading. must, should: what they\n\
                 say with that word; text: without it; hard: input that no text answers, which has to be contained; model: what drivers'\n\
                 documentation and IEEE standards say of VFs, filters and switches, and what is usual though no text of virtio's has it."
            )?;
            Ok(true)
        }
        Command::FrontEnd(front) => front.run(&mut out),
        Command::Abuse(abuse) => Ok(abuse.run(&mut out)?),
        Command::Ledger { json } => {
            let ledger = Ledger::read()?;
            if json {
                ledger::json_lines(&ledger, &mut out)?;
            } else {
                ledger::print(&ledger, &mut out)?;
            }
            Ok(true)
        }
        Command::Table { files } => {
            let subjects: Result<Vec<_>, _> = files.iter().map(|file| Judged::read(file)).collect();
            table::write(&subjects?, &mut out)?;
            Ok(true)
        }
        Command::Run(run) => run.run(&mut out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vf_conformance::cases;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
        assert!(cases::all().count() > 100);
    }
}
