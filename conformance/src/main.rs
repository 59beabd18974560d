//! `vf-conformance`: judges a vhost-user net back end at its socket, and measures it.
//!
//! Exit status: 0 when every case that ran passed, the bench ended, or every bar is met; 1 when a case failed, the back end
//! broke off the bench, or a bar is missed; 2 for wrong usage or a subject that cannot be reached at all.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use vf_conformance::{case, cases, report, subject::Subject};
use vf_guest::{driver::Format, net};

const EXAMPLES: &str = "\
Examples:
  The whole suite, frames go from a to b; and two groups of it:
    vf-conformance run --socket a.sock --peer-socket b.sock
    vf-conformance run --socket a.sock ring/ robust/
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
        /// Only cases whose id contains one of these.
        filters: Vec<String>,
    },
    /// Run cases against a back end.
    Run {
        /// Socket the back end listens on.
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// Second socket of the same switch; frames sent on the one must arrive on the other.
        #[arg(long, value_name = "PATH")]
        peer_socket: Option<PathBuf>,
        /// MAC address of the first port, if its configuration space does not tell.
        #[arg(long, value_parser = net::parse_mac, value_name = "MAC")]
        mac: Option<[u8; 6]>,
        /// MAC address of the second port, likewise.
        #[arg(long, value_parser = net::parse_mac, value_name = "MAC")]
        peer_mac: Option<[u8; 6]>,
        /// Write the findings as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Command that starts the back end, split at blanks; it is started again when a case
        /// kills it.
        #[arg(long, default_value = "", hide_default_value = true)]
        command: String,
        /// Only with rings of this format; else with both, where packed ones are offered.
        #[arg(long, value_parser = formats())]
        ring: Option<Format>,
        /// Only cases whose id contains one of these.
        filters: Vec<String>,
    },
    Bench(Box<vf_load::Bench>),
    Compare(vf_load::Compare),
}

/// The words for ring formats.
fn formats() -> impl TypedValueParser<Value = Format> {
    let words = [
        PossibleValue::new("split").help("In three parts (virtio 2.7)"),
        PossibleValue::new("packed").help("In one (virtio 2.8)"),
    ];
    PossibleValuesParser::new(words).map(|word| match &word[..] {
        "packed" => Format::Packed,
        _ => Format::Split,
    })
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("vf-conformance: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether no case failed.
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
        Command::List { filters } => {
            for case in cases::matching(&filters) {
                writeln!(
                    out,
                    "{:<36} {:<6} {}",
                    case.id,
                    case.level.to_string(),
                    case.source
                )?;
            }
            Ok(true)
        }
        Command::Run {
            socket,
            peer_socket,
            mac,
            peer_mac,
            json,
            command,
            ring,
            filters,
        } => {
            let chosen = cases::matching(&filters);
            if chosen.is_empty() {
                return Err("no case matches".into());
            }
            let subject = Subject {
                socket,
                peer: peer_socket,
                mac,
                peer_mac,
                command: command.split_whitespace().map(str::to_owned).collect(),
            };
            let mut written = Ok(());
            let findings = case::run(&subject, &chosen, ring, |finding| {
                if written.is_ok() {
                    written = report::line(finding, &mut out).and_then(|()| out.flush());
                }
            })?;
            written?;
            report::summary(&findings, &mut out)?;
            if let Some(path) = json {
                report::json(&findings, io::BufWriter::new(File::create(path)?))?;
            }
            Ok(!findings.iter().any(report::is_failure))
        }
    }
}
