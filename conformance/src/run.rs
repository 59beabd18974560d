//! `vf-conformance run`: from the command line to findings, and to the files that they are written to. Judges nothing itself.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use vf_conformance::bench::Bench;
use vf_conformance::case::{Case, Finding, Level};
use vf_conformance::report::{self, Heading, Measure, Standing};
use vf_conformance::runner::{self, Plan};
use vf_conformance::{cases, junit, subject::Subject};
use vf_guest::{driver::Format, net};

const EXAMPLES: &str = "\
Examples:
  A back end that runs, both of whose ports are on one switch:
    vf-conformance run --socket a.sock --peer-socket b.sock
  One that is started, and again whenever it dies:
    vf-conformance run --socket /tmp/c/vf0.sock --peer-socket /tmp/c/vf1.sock \\
        --start 'vfnic run --vfs 2 --socket-dir /tmp/c'
  With a second pair of ports, which is to be served while the first is hostile, and an adapter for VFs, filters and links:
    vf-conformance run --socket vf0.sock --peer-socket vf1.sock --socket vf2.sock --peer-socket vf3.sock \\
        --control 'conformance/subjects/vfnic-control --ctl ctl.sock 0 1 2 3'
  All but one group, with the failures that are known, for a build server:
    vf-conformance run --socket a.sock --exclude robust/ --known known.txt --junit out.xml";

/// Run cases against a back end.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Run {
    /// Socket of the port that is judged: the back end listens on it. Said more than once, each with a peer: the others are served while
    /// the first is hostile, look on, or run cases at the same time (--jobs).
    #[arg(long, value_name = "PATH", required = true)]
    socket: Vec<PathBuf>,
    /// Second socket of the same switch; frames sent on the one must arrive on the other. As often as --socket.
    #[arg(long, value_name = "PATH")]
    peer_socket: Vec<PathBuf>,
    /// MAC address of the first port, if its configuration space does not tell.
    #[arg(long, value_parser = net::parse_mac, value_name = "MAC")]
    mac: Option<[u8; 6]>,
    /// MAC address of the second port, likewise.
    #[arg(long, value_parser = net::parse_mac, value_name = "MAC")]
    peer_mac: Option<[u8; 6]>,
    /// Command that starts the back end, quoted as in a shell; {socket} and {peer} in it are the two paths, and {sockets} all of
    /// them, each socket with its peer behind it. It is started again when a case has ended it. What it says is kept from the findings; its last line is told when it dies.
    #[arg(long, alias = "command", value_name = "CMD", value_parser = words)]
    start: Option<Words>,
    /// Process of a back end that runs: what it has in use is looked at.
    #[arg(long, conflicts_with = "start", value_name = "PID")]
    pid: Option<u32>,
    /// Command of a control adapter, quoted as in a shell: it gives the back end's VFs addresses, VLANs and rates, adds filters and
    /// takes links down, as the suite asks. conformance/README.md has its words.
    #[arg(long, value_name = "CMD", value_parser = words)]
    control: Option<Words>,
    /// Run so many cases at a time, each on a socket and peer of its own. Hostile ones, and those about the whole back end, run alone.
    #[arg(long, default_value_t = 1, value_name = "N")]
    jobs: usize,
    /// The back end is the client: the suite listens on the sockets.
    #[arg(long)]
    listen: bool,
    /// The process serves one session and ends with it: a clean exit is no failure then.
    #[arg(long, requires = "start")]
    single_session: bool,
    /// Wait at least this long after each set-up until frames are sent. How long the back end needs is measured in any case.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    settle: u64,
    /// Break a case off after this long, by ending the back end (--start), and wait no longer until it is there (--start, --listen)
    /// [default: 60].
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Only with rings of this format; else with both, where packed ones are offered.
    #[arg(long, value_parser = formats())]
    ring: Option<Format>,
    /// Only cases of these levels.
    #[arg(long, value_delimiter = ',', value_parser = levels(), value_name = "LEVEL")]
    level: Vec<Level>,
    /// Leave out cases with this id, or with this in their id.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// A SHOULD that is not kept fails the run, and so does what is not as drivers and networks have it.
    #[arg(long)]
    strict: bool,
    /// Failures that are known, a case a line; the run fails if one of them passes.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Run everything this often; a case that does not end alike each time fails the run.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Write the findings as JSON while they are made, an object a line; the first says what was judged.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What the subject is called in files; else its socket.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Write the findings as JUnit.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the last messages of every case, and not of failures alone.
    #[arg(long)]
    trace: bool,
    /// Only cases with this id, or with this in their id.
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
}

/// A command as it was said, and taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Words {
    said: String,
    pub(crate) words: Vec<String>,
}

pub(crate) fn words(text: &str) -> Result<Words, String> {
    match shlex::split(text) {
        Some(words) if !words.is_empty() => Ok(Words {
            said: text.to_owned(),
            words,
        }),
        Some(_) => Err("it is empty".into()),
        None => Err("a quote is not closed".into()),
    }
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

/// The words for levels.
fn levels() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(["must", "text", "should", "hard", "model"]).map(|word| {
        match &word[..] {
            "must" => Level::Must,
            "text" => Level::Text,
            "should" => Level::Should,
            "model" => Level::Model,
            _ => Level::Hard,
        }
    })
}

/// The cases that are named, of which each pattern must name some.
pub(crate) fn chosen(patterns: &[String]) -> Result<Vec<&'static Case>, String> {
    let nothing = patterns
        .iter()
        .find(|pattern| !cases::all().any(|case| cases::names(pattern, case)));
    match nothing {
        Some(pattern) => Err(format!(
            "no case has {pattern} in its id; vf-conformance list has them all"
        )),
        None => Ok(cases::matching(patterns)),
    }
}

impl Run {
    /// Whether no case failed that counts.
    pub(crate) fn run(&self, out: &mut impl Write) -> Result<bool, Box<dyn Error>> {
        chosen(&self.exclude)?;
        let mut chosen = chosen(&self.patterns)?;
        chosen.retain(|case| {
            (self.level.is_empty() || self.level.contains(&case.level))
                && !self.exclude.iter().any(|p| cases::names(p, case))
        });
        if chosen.is_empty() {
            return Err("no case is left".into());
        }
        let mut measure = Measure {
            strict: self.strict,
            known: Vec::new(),
        };
        if let Some(path) = &self.known {
            let text = std::fs::read_to_string(path).map_err(|e| at(path, &e))?;
            measure.know(&text).map_err(|e| at(path, &e))?;
        }
        if self.timeout.is_some() && self.start.is_none() && !self.listen {
            return Err(
                "--timeout is for --start, whose back end it ends, and for --listen".into(),
            );
        }
        for file in self.json.iter().chain(&self.junit) {
            can_be_written(file)?;
        }

        let subject = self.subject()?;
        let name = self.name.clone();
        let name = name.unwrap_or_else(|| subject.socket.display().to_string());
        let mut bench = Bench::new(subject)?;
        let plan = Plan {
            format: self.ring,
            limit: self.timeout.map_or(runner::LIMIT, Duration::from_secs),
            jobs: self.jobs,
        };
        if self.jobs == 0 || self.jobs > bench.pairs() {
            let (jobs, pairs) = (self.jobs, bench.pairs());
            return Err(format!(
                "--jobs {jobs}, and there are ports for {pairs}: give --socket (and --peer-socket) once a job"
            )
            .into());
        }
        let heading = Heading {
            subject: name,
            suite: env!("CARGO_PKG_VERSION").to_owned(),
            found: bench.describe(),
        };
        writeln!(out, "{}: {}", heading.subject, heading.found)?;
        // Not before there is something to write: what cannot begin leaves them as they were.
        let mut json = self.json.as_deref().map(created).transpose()?;
        if let Some(file) = &mut json {
            heading.json_line(file)?;
        }
        let again = self.again();
        let mut all = Vec::new();
        for _ in 0..self.repeat {
            let mut written = Ok(());
            let findings = runner::run(&mut bench, &chosen, &plan, |finding| {
                let told = written.is_ok();
                if told {
                    written = self.tell(finding, &measure, &again, out, json.as_mut());
                }
            })?;
            written?;
            all.extend(findings);
        }
        report::summary(&all, &measure, out)?;
        let steady = flips(&all, &measure, out)?;
        if let Some(path) = &self.junit {
            junit::write(&all, &measure, &heading.subject, created(path)?)?;
        }
        Ok(nothing_failed(&all, &measure)? && steady)
    }

    /// A finding for whoever looks on, and for the file.
    fn tell(
        &self,
        finding: &Finding,
        measure: &Measure,
        again: &str,
        out: &mut impl Write,
        json: Option<&mut File>,
    ) -> io::Result<()> {
        report::line(finding, measure, Some(again), out)?;
        if self.trace && !report::is_failure(finding) {
            report::messages(finding, out)?;
        }
        out.flush()?;
        match json {
            Some(file) => report::json_line(finding, measure, file),
            None => Ok(()),
        }
    }

    /// All sockets in the order of the ports: each with its peer, if there are any.
    fn sockets(&self) -> Vec<PathBuf> {
        let mut peers = self.peer_socket.iter();
        let both = self
            .socket
            .iter()
            .flat_map(|socket| [Some(socket), peers.next()]);
        both.flatten().cloned().collect()
    }

    fn subject(&self) -> Result<Subject, String> {
        let [sockets, peers] = [&self.socket, &self.peer_socket].map(Vec::len);
        if peers != 0 && peers != sockets {
            return Err(format!(
                "--socket is given {sockets} times and --peer-socket {peers}: either each has a peer, or none"
            ));
        }
        let all = self.sockets();
        let paths: Vec<String> = all.iter().map(|path| path.display().to_string()).collect();
        let first = |from: &[PathBuf]| from.first().map(|path| path.display().to_string());
        let [socket, peer] =
            [first(&self.socket), first(&self.peer_socket)].map(Option::unwrap_or_default);
        let said = self.start.iter().flat_map(|start| &start.words);
        let command = said.flat_map(|word| match &word[..] {
            "{sockets}" => paths.clone(),
            word => vec![
                word.replace("{sockets}", &paths.join(" "))
                    .replace("{socket}", &socket)
                    .replace("{peer}", &peer),
            ],
        });
        let control = self.control.iter().flat_map(|control| &control.words);
        Ok(Subject {
            command: command.collect(),
            pid: self.pid,
            control: control.cloned().collect(),
            socket: self.socket.first().cloned().unwrap_or_default(),
            peer: self.peer_socket.first().cloned(),
            others: all.into_iter().skip(1 + peers.min(1)).collect(),
            mac: self.mac,
            peer_mac: self.peer_mac,
            listen: self.listen,
            single_session: self.single_session,
            settle: Duration::from_millis(self.settle),
            starting: self.timeout.map(Duration::from_secs),
        })
    }

    /// The command that runs a case alone, but for its ring format and its id.
    fn again(&self) -> String {
        let mut words = vec!["vf-conformance".to_owned(), "run".to_owned()];
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                words.extend([name.to_owned(), value]);
            }
        };
        for (name, paths) in [
            ("--socket", &self.socket),
            ("--peer-socket", &self.peer_socket),
        ] {
            for path in paths {
                option(name, Some(path.display().to_string()));
            }
        }
        for (name, words) in [("--start", &self.start), ("--control", &self.control)] {
            option(name, words.as_ref().map(|words| words.said.clone()));
        }
        for (name, mac) in [("--mac", self.mac), ("--peer-mac", self.peer_mac)] {
            let mac = mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
            option(name, mac);
        }
        option("--pid", self.pid.map(|pid| pid.to_string()));
        option("--timeout", self.timeout.map(|limit| limit.to_string()));
        let settle = Some(self.settle).filter(|ms| *ms > 0);
        option("--settle", settle.map(|ms| ms.to_string()));
        for (flag, given) in [
            ("--listen", self.listen),
            ("--single-session", self.single_session),
        ] {
            if given {
                words.push(flag.to_owned());
            }
        }
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default()
    }
}

/// Whether no case failed that counts.
///
/// # Errors
/// None did, and of some nothing can be said.
pub(crate) fn nothing_failed<B>(
    findings: &[Finding<B>],
    measure: &Measure,
) -> Result<bool, String> {
    let standings = || findings.iter().map(|finding| measure.standing(finding));
    if standings().any(Standing::fails) {
        return Ok(false);
    }
    match standings()
        .filter(|end| *end == Standing::NotJudged)
        .count()
    {
        0 => Ok(true),
        n => Err(format!(
            "of {n} cases nothing can be said; each tells why above"
        )),
    }
}

/// Tells cases that did not end alike each time; whether there are none.
fn flips(findings: &[Finding], measure: &Measure, out: &mut impl Write) -> io::Result<bool> {
    let mut ends: BTreeMap<(&str, String), BTreeMap<Standing, usize>> = BTreeMap::new();
    for finding in findings {
        let key = (finding.case.id, finding.format.to_string());
        let standing = measure.standing(finding);
        *ends.entry(key).or_default().entry(standing).or_default() += 1;
    }
    ends.retain(|_, ends| ends.len() > 1);
    for ((id, ring), ends) in &ends {
        let ends: Vec<String> = ends
            .iter()
            .map(|(standing, n)| format!("{n} {standing:?}"))
            .collect();
        writeln!(out, "not alike: {id} {ring}: {}", ends.join(", "))?;
    }
    Ok(ends.is_empty())
}

/// Whether a file can be made or written, which is left as it is.
pub(crate) fn can_be_written(path: &Path) -> Result<(), String> {
    let tried = if path.is_file() {
        File::options().write(true).open(path).map(drop)
    } else if path.exists() && !path.is_dir() {
        // A pipe or a terminal, whose other end would hear of it.
        Ok(())
    } else {
        let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        match path.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => tempfile::tempfile_in(folder.unwrap_or(Path::new("."))).map(drop),
        }
    };
    tried.map_err(|error| at(path, &error))
}

pub(crate) fn created(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| at(path, &error))
}

fn at(path: &Path, error: &impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        run: Run,
    }

    #[test]
    fn the_line_that_runs_a_case_alone_has_all_that_bears_on_it() {
        let words = "vf-conformance --socket a --peer-socket b --mac 02:00:00:00:00:0a \
            --peer-mac 02:00:00:00:00:0b --listen --settle 5 --timeout 7";
        let run = Args::parse_from(words.split_whitespace()).run;
        assert_eq!(
            run.again(),
            "vf-conformance run --socket a --peer-socket b --mac 02:00:00:00:00:0a \
             --peer-mac 02:00:00:00:00:0b --timeout 7 --settle 5 --listen"
        );
    }
}
