//! `vfnic check paths`: has a running NIC judge frames that pass again, on both paths, and says where they do not agree. Judges nothing
//! itself.

use std::io::BufRead;
use std::net::Shutdown;
use std::path::Path;
use std::time::Duration;

use vfnic::capture::paths::{Checked, Difference, Line, Said};
use vfnic::cli;
use vfnic::control::Request;

use crate::capture;
use crate::failure::{Failure, failed};
use crate::output::print;

/// Checks for as long as was asked, or until the user says stop or the NIC ends.
pub(crate) fn paths(
    ctl: &Path,
    nic: Option<String>,
    args: &cli::CheckPaths,
) -> Result<(), Failure> {
    let rate = args.rate;
    let stream = capture::begin(ctl, &Request::CheckPaths { nic, rate })?.stream;
    if let Some(seconds) = args.seconds {
        let end = stream.get_ref().try_clone().map_err(failed)?;
        let wait = move || {
            std::thread::sleep(Duration::from_secs_f64(seconds));
            // What waits to be judged still is.
            let _ = end.shutdown(Shutdown::Write);
        };
        let thread = std::thread::Builder::new().name("end".to_owned());
        thread.spawn(wait).map_err(failed)?;
    }
    let mut checked = None;
    for line in stream.lines() {
        let Ok(line) = line else { break };
        if args.show.json {
            print(&format!("{line}\n"))?;
        }
        match serde_json::from_str(&line).map_err(failed)? {
            Line::Difference(difference) if !args.show.json => print(&text(&difference))?,
            Line::Difference(_) => {}
            Line::Checked(all) => checked = Some(all),
        }
    }
    let Some(Checked {
        frames,
        differences,
        missed,
    }) = checked
    else {
        return Err(capture::gone(ctl, "it has not said what came out"));
    };
    let missed = match missed {
        0 => String::new(),
        missed => format!("; {missed} more passed too fast to be judged again"),
    };
    match (frames, differences) {
        (_, 1..) => Err(failed(format!(
            "{differences} of {frames} frames: the paths do not agree{missed}"
        ))),
        _ if args.show.json => Ok(()),
        (0, 0) => print(&format!("no frame has passed{missed}\n")),
        _ => print(&format!("{frames} frames: both paths agree{missed}\n")),
    }
}

fn text(found: &Difference) -> String {
    let Difference {
        nic,
        from,
        frame,
        len,
        plane,
        direct,
        mediated,
        ..
    } = found;
    let path = |name: &str, said: &Said| {
        let steps: String = said
            .steps
            .iter()
            .map(|step| format!("    {step}\n"))
            .collect();
        format!("  {name}: {}\n{steps}", said.receivers)
    };
    format!(
        "{nic}: {len} bytes from {from}: {frame}\n  it was given to: {plane}\n{}{}",
        path("direct path", direct),
        path("mediated path", mediated),
    )
}
