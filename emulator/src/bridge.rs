//! `vfnic bridge link show` and `vfnic bridge fdb show`: what `bridge`(8) says of a NIC's switch. Changes nothing.

use std::path::Path;

use vfnic::control::show::{Show, ShowNic};
use vfnic::control::{Request, Response, ask};

use crate::{Failure, failed, print, usage};

/// What is asked, if these words behind `bridge` ask and change nothing.
pub(crate) fn question(words: &[String]) -> Option<Question<'_>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (say, rest): (fn(&ShowNic) -> String, _) = match words.as_slice() {
        ["link", rest @ ..] => (link, rest),
        ["fdb", rest @ ..] => (fdb, rest),
        _ => return None,
    };
    let dev = match rest {
        [] | ["show"] => None,
        ["show", "dev", nic] | ["show", nic] => Some(*nic),
        _ => return None,
    };
    Some(Question { say, dev })
}

pub(crate) struct Question<'a> {
    say: fn(&ShowNic) -> String,
    dev: Option<&'a str>,
}

impl Question<'_> {
    /// Asks the vfnic that runs.
    pub(crate) fn ask(&self, ctl: &Path, nic: Option<&str>) -> Result<(), Failure> {
        match ask(ctl, &Request::Show).map_err(failed)? {
            Response::Show(show) => print(&self.answer(&show, nic)?),
            Response::Refused(why) => Err(usage(why)),
            _ => Err(failed("the answer is not to this question")),
        }
    }

    fn answer(&self, show: &Show, nic: Option<&str>) -> Result<String, Failure> {
        let of = self.dev.or(nic);
        let nics = show.nics.iter();
        let said: Vec<_> = nics
            .filter(|nic| of.is_none_or(|of| nic.name == of))
            .map(self.say)
            .collect();
        match (of, said.is_empty()) {
            (Some(of), true) => {
                let names: Vec<_> = show.nics.iter().map(|nic| nic.name.as_str()).collect();
                Err(usage(format!(
                    "no NIC '{of}': there is {}",
                    names.join(", ")
                )))
            }
            _ => Ok(said.concat()),
        }
    }
}

fn link(nic: &ShowNic) -> String {
    let state = if nic.link.up { "up" } else { "down" };
    let (name, mtu, mode) = (&nic.name, nic.link.mtu, &nic.hwmode);
    format!("{name}: {state} mtu {mtu} hwmode {mode}\n")
}

/// A line an entry, which can be put behind `bridge fdb add` and `bridge fdb del`.
fn fdb(nic: &ShowNic) -> String {
    let lines = nic.fdb.iter().map(|entry| {
        let (mac, rest) = entry.split_once(' ').unwrap_or((entry, ""));
        format!("{mac} dev {} {rest} permanent\n", nic.name)
    });
    lines.collect()
}
