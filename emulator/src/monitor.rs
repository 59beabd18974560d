//! `vfnic monitor`: prints what a running NIC tells of. Judges nothing.

use std::io::{BufRead, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use vfnic::capture::lines::Line;
use vfnic::cli;
use vfnic::control::Request;

use crate::capture;
use crate::failure::{Failure, failed};

/// Prints events, a line each, until the user says stop or the NIC ends.
pub(crate) fn monitor(ctl: &Path, nic: Option<String>, args: &cli::Monitor) -> Result<(), Failure> {
    let drops = args.drops;
    let begun = capture::begin(ctl, &Request::Monitor { nic, drops })?;
    let mut out = std::io::stdout().lock();
    for line in begun.stream.lines() {
        let Ok(line) = line else { break };
        let shown = match args.show.json {
            true => line,
            false => match serde_json::from_str(&line) {
                Ok(line) => text(&line),
                // Of a newer vfnic: shown as it is.
                Err(_) => line,
            },
        };
        match writeln!(out, "{shown}").and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
    }
    match begun.told.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err(capture::gone(ctl, "it has told all up to there")),
    }
}

/// A line as people read it, with the time of day in UTC.
fn text(line: &Line) -> String {
    let micros = (line.time * 1e6) as u64;
    let second = micros / 1_000_000;
    let (hours, minutes) = (second / 3600 % 24, second / 60 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}.{:06} {}: {}",
        second % 60,
        micros % 1_000_000,
        line.nic,
        line.what
    )
}
