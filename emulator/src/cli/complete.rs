//! What a shell is offered for words that the command line has no list of: VFs of the NIC that runs, settings and their values. Where nobody
//! answers there is nothing to offer.

use std::ffi::{OsStr, OsString};

use clap_complete::engine::CompletionCandidate;
use vf_model::SETTING_KEYS;
use vf_nic::config::default_socket_dir;
use vf_nic::control::show::Show;
use vf_nic::control::{Request, Response, ask};

/// For the words of `vf`.
pub(crate) fn vf_words(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(&after("vf"), current, running)
}

/// The number of a VF.
pub(crate) fn vfs(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(&[], current, running)
}

/// The name of a NIC.
pub(crate) fn nics(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = running().nics.into_iter().map(|nic| nic.name);
    offer(names.map(|name| (name, String::new())), current)
}

/// What may come behind words that follow `vf`.
fn candidates(
    before: &[String],
    current: &OsStr,
    running: impl Fn() -> Show,
) -> Vec<CompletionCandidate> {
    let before: Vec<_> = before.iter().map(String::as_str).collect();
    let words: Vec<(String, String)> = match before.as_slice() {
        [] => {
            let vfs = running().nics.into_iter().flat_map(|nic| nic.vfs);
            let vfs = vfs.map(|vf| (vf.vf.to_string(), vf.state.mac));
            vfs.collect()
        }
        [_] => ["set", "mac", "vlan", "rss", "reset", "request"]
            .map(|word| (word.to_owned(), String::new()))
            .into(),
        [_, "mac" | "vlan"] => ["add", "del"]
            .map(|word| (word.to_owned(), String::new()))
            .into(),
        [_, "set", said @ ..] => match said.chunks(2).next_back() {
            Some([key]) => values(key),
            _ => {
                let unsaid = |name: &str| said.iter().step_by(2).all(|key| *key != name);
                let keys = SETTING_KEYS.iter().filter(|key| unsaid(key.name));
                keys.map(|key| (key.name.to_owned(), key.help.to_owned()))
                    .collect()
            }
        },
        _ => Vec::new(),
    };
    offer(words.into_iter(), current)
}

/// Values of a setting, where they are words and not of a kind.
fn values(key: &str) -> Vec<(String, String)> {
    let key = SETTING_KEYS.iter().find(|known| known.name == key);
    let values = key.map_or("", |key| key.values).split('|');
    let words = values.filter(|value| {
        !value.contains(|c: char| c.is_ascii_uppercase()) || value.starts_with("802")
    });
    words.map(|word| (word.to_owned(), String::new())).collect()
}

fn offer(
    words: impl Iterator<Item = (String, String)>,
    current: &OsStr,
) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let words = words.filter(|(word, _)| !word.is_empty() && word.starts_with(&*begun));
    words
        .map(|(word, help)| {
            let help = (!help.is_empty()).then(|| help.into());
            CompletionCandidate::new(word).help(help)
        })
        .collect()
}

/// What a running NIC says; nothing if there is none.
fn running() -> Show {
    let args: Vec<OsString> = std::env::args_os().collect();
    let said = args.iter().position(|arg| arg == "--ctl");
    let said = said.and_then(|at| args.get(at + 1));
    let ctl = said.map_or_else(|| default_socket_dir().join("ctl.sock"), Into::into);
    match ask(&ctl, &Request::Show) {
        Ok(Response::Show(show)) => *show,
        _ => Show::default(),
    }
}

/// The words between `first` and the one that is completed, of the command line that a shell hands over behind `--`.
fn after(first: &str) -> Vec<String> {
    let line = std::env::args_os().skip_while(|arg| arg != "--").skip(1);
    let line: Vec<_> = line
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok();
    let index = index.and_then(|index| index.parse().ok());
    let end = index
        .unwrap_or(line.len().saturating_sub(1))
        .min(line.len());
    let before = line.get(..end).unwrap_or_default();
    let begin = before.iter().position(|word| word == first);
    let begin = begin.map_or(end, |at| at + 1);
    before.get(begin..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(before: &str, current: &str) -> Vec<String> {
        let before: Vec<_> = before.split_whitespace().map(str::to_owned).collect();
        let all = candidates(&before, OsStr::new(current), Show::default);
        let words = all
            .iter()
            .map(|c| c.get_value().to_string_lossy().into_owned());
        words.collect()
    }

    #[test]
    fn what_may_follow_in_a_command_for_a_vf() {
        assert_eq!(offered("", ""), [""; 0], "nobody answers");
        assert_eq!(offered("0", "re"), ["reset", "request"]);
        assert_eq!(offered("0 set", "tr"), ["trust"]);
        assert_eq!(offered("0-7 set trust on", "tr"), [""; 0], "said already");
        assert_eq!(offered("0 set trust on", "spo"), ["spoofchk"]);
        assert_eq!(offered("0 set path", ""), ["direct", "mediated", "auto"]);
        assert_eq!(offered("0 set trust on proto", "802.1Q"), ["802.1Q"]);
        assert_eq!(offered("0 set vlan", ""), [""; 0], "a number");
        assert_eq!(offered("0 vlan", ""), ["add", "del"]);
        assert_eq!(offered("0 reset", ""), [""; 0]);
    }
}
