//! `vfnic filter`: what is to be done with a NIC's filters as words of a command, and the filters there are as words that add them. Judges
//! nothing.

use std::path::Path;

use serde_json::Value;
use vfnic::cli;
use vfnic::control::{FilterLine, Request, Response, ask};

use crate::failure::{Failure, failed, unanswered, usage};
use crate::output::print;
use crate::running::command;
use crate::show::{named, rule};

/// Does or shows what was asked for.
pub(crate) fn filter(ctl: &Path, nic: Option<String>, filter: cli::Filter) -> Result<(), Failure> {
    let (verb, words) = match filter {
        cli::Filter::Add { words } => ("add", words),
        cli::Filter::Replace { words } => ("replace", words),
        cli::Filter::Del { words } => ("del", words),
        cli::Filter::Flush { words } => ("flush", words),
        cli::Filter::Show { words, show } => {
            let nic = match (words.as_slice(), nic) {
                ([], nic) => nic,
                ([dev, of], nic) if dev == "dev" && nic.as_ref().is_none_or(|nic| nic == of) => {
                    Some(of.clone())
                }
                ([dev, of], Some(nic)) if dev == "dev" => {
                    return Err(usage(format!("--nic {nic} and dev {of}: say one of them")));
                }
                ([word, ..], _) => {
                    let word = word.escape_debug();
                    return Err(usage(format!("filter show '{word}': dev NIC or nothing")));
                }
            };
            return show_all(ctl, nic.as_deref(), show.json);
        }
    };
    let words = std::iter::once(verb.to_owned()).chain(words);
    command(ctl, nic, "filter", words.collect())
}

/// Those of the NIC that is meant, or of each.
fn show_all(ctl: &Path, nic: Option<&str>, json: bool) -> Result<(), Failure> {
    let Response::Show(show) = ask(ctl, &Request::Show).map_err(failed)? else {
        return Err(unanswered());
    };
    let nics: Vec<&str> = match nic {
        Some(nic) => vec![&named(&show, nic)?.name],
        None => show.nics.iter().map(|nic| nic.name.as_str()).collect(),
    };
    let (mut all, mut text) = (Vec::new(), String::new());
    for nic in &nics {
        let asked = Request::FilterTable {
            nic: Some((*nic).to_owned()),
        };
        let filters = match ask(ctl, &asked).map_err(failed)? {
            Response::FilterTable(filters) => filters,
            Response::Refused(why) => return Err(usage(why)),
            _ => return Err(unanswered()),
        };
        if nics.len() > 1 && !filters.is_empty() {
            text += &format!("# {nic}\n");
        }
        text.extend(filters.iter().map(line));
        all.extend(filters.iter().map(|filter| {
            let mut rule = rule(nic, filter);
            if let (1, Value::Object(keys)) = (nics.len(), &mut rule) {
                keys.remove("nic");
            }
            rule
        }));
    }
    match json {
        true => {
            let json = serde_json::to_string_pretty(&all).map_err(failed)?;
            print(&format!("{json}\n"))
        }
        false => print(&text),
    }
}

/// The words that add it, and behind them what a shell and a batch take for a comment.
fn line(filter: &FilterLine) -> String {
    let words = &filter.words;
    match (filter.id, filter.driver) {
        (Some(id), None) => format!("{words}  # id {id}\n"),
        (Some(id), Some(vf)) => format!("{words}  # id {id}, of the driver of vf {vf}\n"),
        (None, Some(vf)) => {
            format!("# vf {vf}: its driver has {words} for what the VF receives\n")
        }
        (None, None) => format!("{words}  # waits for the one above to be deleted\n"),
    }
}
