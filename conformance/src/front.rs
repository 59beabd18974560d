//! `vf-conformance front-end`: front ends judged, from the command line to findings. Judges nothing itself.

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use vf_conformance::case::Case;
use vf_conformance::front_end::{self, CASES, Stage};
use vf_conformance::report::{self, Heading, Measure};

use crate::run::{Words, can_be_written, created, nothing_failed, words};

const EXAMPLES: &str = "\
Examples:
  QEMU, whose network boot sends frames; it goes on without a back end that has gone:
    vf-conformance front-end --listen /tmp/f.sock --start 'qemu-system-x86_64 -display none -m 256 \\
        -object memory-backend-memfd,id=m,size=256M,share=on -numa node,memdev=m \\
        -chardev socket,id=c,path={socket},reconnect=1 -netdev vhost-user,id=n,chardev=c \\
        -device virtio-net-pci,netdev=n'
  What one case is about:
    vf-conformance front-end --explain front/late-answers";

/// Judge a front end: a VMM or driver that comes to a back end of ours.
///
/// The cases are few, and their ids begin with front/. Without --start somebody else has to start a front end for each case.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct FrontEnd {
    /// Socket to listen at.
    #[arg(long, value_name = "PATH", required_unless_present = "explain")]
    listen: Option<PathBuf>,
    /// Command that starts the front end, quoted as in a shell; {socket} in it is the path. It is started again for each case.
    #[arg(long, value_name = "CMD", value_parser = words)]
    start: Option<Words>,
    /// How long a front end may take until it comes, and then until its rings run.
    #[arg(long, default_value_t = 30, value_name = "S")]
    patience: u64,
    /// A SHOULD that is not kept fails the run.
    #[arg(long)]
    strict: bool,
    /// Write the findings as JSON while they are made, an object a line; the first says what was judged.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What the front end is called in files; else its socket.
    #[arg(long, value_name = "TEXT")]
    name: Option<String>,
    /// Say what the cases are, and run none.
    #[arg(long)]
    explain: bool,
    /// Only cases with this in their id.
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
}

impl FrontEnd {
    /// Whether no case failed that counts.
    pub(crate) fn run(&self, out: &mut impl Write) -> Result<bool, Box<dyn Error>> {
        let named = |case: &&Case<Stage>| {
            let mut patterns = self.patterns.iter();
            self.patterns.is_empty() || patterns.any(|pattern| case.id.contains(&pattern[..]))
        };
        let chosen: Vec<&'static Case<Stage>> = CASES.iter().filter(named).collect();
        if chosen.is_empty() {
            let all: Vec<&str> = CASES.iter().map(|case| case.id).collect();
            return Err(format!("no case has that in its id; there are {}", all.join(", ")).into());
        }
        let (false, Some(path)) = (self.explain, &self.listen) else {
            for case in chosen {
                writeln!(out, "{} ({})", case.id, case.level)?;
                writeln!(out, "  sent:     {}", case.sent)?;
                writeln!(out, "  expected: {}", case.expected)?;
                writeln!(out, "  source:   {}", case.source)?;
            }
            return Ok(true);
        };
        let socket = path.display().to_string();
        let command = self.start.iter().flat_map(|start| &start.words);
        let command = command.map(|word| word.replace("{socket}", &socket));
        let patience = Duration::from_secs(self.patience);
        self.json.as_deref().map(can_be_written).transpose()?;
        let stage = Stage::new(path.clone(), command.collect(), patience)?;
        let mut json = self.json.as_deref().map(created).transpose()?;
        let heading = Heading {
            subject: self.name.clone().unwrap_or(socket),
            suite: env!("CARGO_PKG_VERSION").to_owned(),
            found: "a front end".to_owned(),
        };
        if let Some(file) = &mut json {
            heading.json_line(file)?;
        }
        let measure = Measure {
            strict: self.strict,
            ..Measure::default()
        };
        let mut written = Ok(());
        let findings = front_end::run(&stage, &chosen, |finding| {
            let mut tell = || {
                report::line(finding, &measure, None, out)?;
                out.flush()?;
                match &mut json {
                    Some(file) => report::json_line(finding, &measure, file),
                    None => Ok(()),
                }
            };
            if written.is_ok() {
                written = tell();
            }
        });
        // Nobody is to come to it any more.
        drop(stage);
        written?;
        report::summary(&findings, &measure, out)?;
        Ok(nothing_failed(&findings, &measure)?)
    }
}
