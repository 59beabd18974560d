//! `vf-conformance run`: from the command line to findings, and to the files that they are written to.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use vf_conformance::bench::Bench;
use vf_conformance::case::{self, Case, Finding, Level};
use vf_conformance::report::{self, Heading, Measure, Standing};
use vf_conformance::{cases, junit, subject::Subject};
use vf_guest::{driver::Format, net};

const EXAMPLES: &str = "\
Examples:
  A back end that runs, both of whose ports are on one switch:
    vf-conformance run --socket a.sock --peer-socket b.sock
  One that is started, and again whenever it dies:
    vf-conformance run --socket /tmp/c/vf0.sock --peer-socket /tmp/c/vf1.sock \\
        --start 'vfnic run --vfs 2 --socket-dir /tmp/c'
  All but one group, with the failures that are known, for a build server:
    vf-conformance run --socket a.sock --exclude robust/ --known known.txt --junit out.xml";

/// Run cases against a back end.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Run {
    /// Socket of the port that is judged: the back end listens on it.
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
    /// Command that starts the back end, quoted as in a shell; {socket} and {peer} in it are the two paths. It is
    /// started again when a case has ended it. What it says is kept from the findings; its last line is told when it dies.
    #[arg(long, alias = "command", value_name = "CMD", value_parser = words)]
    start: Option<Words>,
    /// The back end is the client: the suite listens on the sockets.
    #[arg(long)]
    listen: bool,
    /// The process serves one session and ends with it: a clean exit is no failure then.
    #[arg(long, requires = "start")]
    single_session: bool,
    /// Wait at least this long after each set-up until frames are sent. How long the back end needs is measured in any case.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    settle: u64,
    /// Break a case off after this long, by ending the back end; only with --start.
    #[arg(long, default_value_t = case::LIMIT.as_secs(), value_name = "S")]
    timeout: u64,
    /// Only with rings of this format; else with both, where packed ones are offered.
    #[arg(long, value_parser = formats())]
    ring: Option<Format>,
    /// Only cases of these levels.
    #[arg(long, value_delimiter = ',', value_parser = levels(), value_name = "LEVEL")]
    level: Vec<Level>,
    /// Leave out cases with this id, or with this in their id.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// A SHOULD that is not kept fails the run.
    #[arg(long)]
    strict: bool,
    /// Failures that are known, a case a line; the run fails if one of them passes.
    #[arg(long, value_name = "FILE")]
    known: Option<PathBuf>,
    /// Run everything this often; a case that does not end alike each time fails the run.
    #[arg(long, default_value_t = 1, value_name = "N")]
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
    words: Vec<String>,
}

fn words(text: &str) -> Result<Words, String> {
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
    PossibleValuesParser::new(["must", "text", "should", "hard"]).map(|word| match &word[..] {
        "must" => Level::Must,
        "text" => Level::Text,
        "should" => Level::Should,
        _ => Level::Hard,
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
        let mut json = self.json.as_deref().map(created).transpose()?;
        let junit = self.junit.as_deref().map(created).transpose()?;

        let mut bench = Bench::new(self.subject())?;
        let heading = Heading {
            subject: (self.name.clone()).unwrap_or_else(|| self.socket.display().to_string()),
            suite: env!("CARGO_PKG_VERSION").to_owned(),
            found: bench.describe(),
        };
        writeln!(out, "{}: {}", heading.subject, heading.found)?;
        if let Some(file) = &mut json {
            heading.json_line(file)?;
        }
        let again = self.again();
        let mut all = Vec::new();
        for _ in 0..self.repeat {
            let mut written = Ok(());
            let limit = Duration::from_secs(self.timeout);
            let findings = case::run(&mut bench, &chosen, self.ring, limit, |finding| {
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
        if let Some(file) = junit {
            junit::write(&all, &measure, &heading.subject, file)?;
        }
        let failed = all.iter().any(|finding| measure.standing(finding).fails());
        Ok(steady && !failed)
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

    fn subject(&self) -> Subject {
        let path = |path: &Path| path.display().to_string();
        let peer = self.peer_socket.as_deref().map(path).unwrap_or_default();
        let command = self.start.iter().flat_map(|start| &start.words);
        Subject {
            command: command
                .map(|word| {
                    word.replace("{socket}", &path(&self.socket))
                        .replace("{peer}", &peer)
                })
                .collect(),
            socket: self.socket.clone(),
            peer: self.peer_socket.clone(),
            mac: self.mac,
            peer_mac: self.peer_mac,
            listen: self.listen,
            single_session: self.single_session,
            settle: Duration::from_millis(self.settle),
        }
    }

    /// The command that runs a case alone, but for its ring format and its id.
    fn again(&self) -> String {
        let mut words = vec!["vf-conformance".to_owned(), "run".to_owned()];
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                words.extend([name.to_owned(), value]);
            }
        };
        let path = |path: &Path| path.display().to_string();
        option("--socket", Some(path(&self.socket)));
        option("--peer-socket", self.peer_socket.as_deref().map(path));
        option(
            "--start",
            self.start.as_ref().map(|start| start.said.clone()),
        );
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

fn created(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| at(path, &error))
}

fn at(path: &Path, error: &impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
