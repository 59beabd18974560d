//! What a shell is offered for words that the command line has no list of: VFs of the NIC that runs, settings and their values. Where nobody
//! answers there is nothing to offer.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;

use clap::{Command, CommandFactory};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
#[cfg(feature = "lab")]
use clap_complete::engine::{PathCompleter, ValueCompleter};
use vf_model::{Profile, SETTING_KEYS};
use vf_nic::config::default_socket_dir;
use vf_nic::control::{Request, Response, ask};

use super::{Cli, Line, joined};

/// Words, each with what it is, if that is worth saying.
type Offer = Vec<(String, String)>;

/// A NIC that runs.
#[derive(Clone)]
struct Nic {
    name: String,
    /// Its VFs, each with its address.
    vfs: Vec<(u16, String)>,
    /// The namespaces that are on them.
    netns: Vec<String>,
}

/// Asks for those that are meant.
type Running<'a> = &'a dyn Fn() -> Vec<Nic>;

/// What is offered for a word.
type Offered = fn(&OsStr) -> Vec<CompletionCandidate>;

/// The command line, and what shells are offered for its words.
#[must_use]
pub fn program() -> Command {
    with_offers(Cli::command(), &[])
}

fn with_offers(command: Command, path: &[&str]) -> Command {
    let command = command.mut_args(|arg| match offer_for(path, arg.get_id().as_str()) {
        Some(offered) => arg.add(ArgValueCompleter::new(offered)),
        None => arg,
    });
    command.mut_subcommands(|sub| {
        let name = sub.get_name().to_owned();
        with_offers(sub, &[path, &[name.as_str()]].concat())
    })
}

/// What is offered for an argument of a command, by the names that both have in [`Cli`].
fn offer_for(command: &[&str], arg: &str) -> Option<Offered> {
    Some(match (command, arg) {
        (_, "nic") => nics,
        (["guest"], "functions") | (["show"], "vfs") => vfs,
        (["vf"], "words") => vf_words,
        (["link"], "words") => link_words,
        (["filter", "add" | "replace" | "del"], "words") => filter_words,
        (["capture"], "words") => capture_words,
        (["bridge"], "words") => bridge_words,
        (["fdb"], "words") => fdb_words,
        (["why"], "words") => why_words,
        (["netns", "add"], "words") => netns_words,
        (["netns", "delete"], "words") => netns_gone_words,
        (["run"] | ["experiment"] | ["scenario", "run"] | ["profile", "show"], "profile")
        | (["profile", "diff"], "a" | "b") => profiles,
        #[cfg(feature = "lab")]
        (["scenario", "run" | "check"], "files") | (["scenario", "new"], "from") => scenarios,
        _ => return None,
    })
}

/// For the words of `vf`.
fn vf_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_vf)
}

/// For the words of `link`.
fn link_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_link)
}

/// For the words of `filter add`, `replace` and `del`.
fn filter_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_filter)
}

/// For the words of `capture`.
fn capture_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_capture)
}

/// For the words of `bridge`.
fn bridge_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_bridge)
}

/// For the words of `fdb`.
fn fdb_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_fdb)
}

/// For the words of `why`.
fn why_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_why)
}

/// For the words of `netns add`.
fn netns_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_netns)
}

/// For the words of `netns delete`.
fn netns_gone_words(current: &OsStr) -> Vec<CompletionCandidate> {
    behind_the_command(current, of_netns_gone)
}

/// The number of a VF.
fn vfs(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(vfs_of(&|| running(&line())), current)
}

/// The name of a NIC.
fn nics(current: &OsStr) -> Vec<CompletionCandidate> {
    let asked = Line {
        nic: None,
        ..line()
    };
    offer(nics_of(&|| running(&asked)), current)
}

/// The name of a profile.
fn profiles(current: &OsStr) -> Vec<CompletionCandidate> {
    let names = Profile::all().map(|profile| profile.to_string());
    offer(names.map(plain).collect(), current)
}

/// The name of a scenario that comes with the program, or a file.
#[cfg(feature = "lab")]
fn scenarios(current: &OsStr) -> Vec<CompletionCandidate> {
    let all = vf_lab::scenario::Shipped::all().into_iter();
    let names = all.map(|shipped| (shipped.name.to_owned(), shipped.about()));
    let mut offered = offer(names.collect(), current);
    offered.extend(PathCompleter::file().complete(current));
    offered
}

/// What may come behind the words that follow the command.
fn behind_the_command(
    current: &OsStr,
    of: fn(&[&str], Running<'_>) -> Offer,
) -> Vec<CompletionCandidate> {
    let line = line();
    let program = Cli::command();
    let (_, behind) = line.command(&program);
    let behind: Vec<_> = behind.iter().map(String::as_str).collect();
    offer(of(&behind, &|| running(&line)), current)
}

fn plain(word: impl Into<String>) -> (String, String) {
    (word.into(), String::new())
}

fn words(all: &[&str]) -> Offer {
    all.iter().copied().map(plain).collect()
}

fn vfs_of(running: Running<'_>) -> Offer {
    let mut vfs = BTreeMap::new();
    for (vf, mac) in running().into_iter().flat_map(|nic| nic.vfs) {
        // One of several NICs has no address to go by.
        let address = vfs.entry(vf).or_insert_with(|| mac.clone());
        if *address != mac {
            address.clear();
        }
    }
    vfs.into_iter()
        .map(|(vf, mac)| (vf.to_string(), mac))
        .collect()
}

fn nics_of(running: Running<'_>) -> Offer {
    let nics = running().into_iter();
    nics.map(|nic| plain(nic.name)).collect()
}

fn of_vf(before: &[&str], running: Running<'_>) -> Offer {
    match before {
        [] => vfs_of(running),
        [_] => words(&["set", "mac", "vlan", "rss", "reset", "request"]),
        [_, "mac" | "vlan"] => words(&["add", "del"]),
        [_, "set", "netem", said @ ..] => netem(said),
        [_, "set", .., "mirror"] => [vfs_of(running), words(&["none"])].concat(),
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
    }
}

fn of_link(before: &[&str], running: Running<'_>) -> Offer {
    const SETTINGS: [&str; 15] = [
        "up",
        "down",
        "carrier",
        "mtu",
        "storm_control",
        "numvfs",
        "hwmode",
        "flap",
        "vf",
        "netem",
        "delay",
        "loss",
        "duplicate",
        "corrupt",
        "rate",
    ];
    match before {
        [] => words(&["set", "show"]),
        [.., "dev"] => nics_of(running),
        ["show"] => words(&["dev"]),
        ["set"] => [words(&["dev"]), words(&SETTINGS)].concat(),
        ["set", "dev", _] => words(&SETTINGS),
        ["set", "dev", _, "vf", of_vf @ ..] | ["set", "vf", of_vf @ ..] => {
            self::of_vf(of_vf, running)
        }
        [.., "carrier"] => words(&["on", "off"]),
        [.., "hwmode"] => words(&["veb", "vepa", "floating", "none"]),
        ["set", "netem", said @ ..] | ["set", "dev", _, "netem", said @ ..] => netem(said),
        _ => Vec::new(),
    }
}

/// What may follow `netem`, where no value does.
fn netem(said: &[&str]) -> Offer {
    const WAYS: [&str; 3] = ["egress", "ingress", "both"];
    const SPEC: [&str; 6] = ["delay", "loss", "duplicate", "corrupt", "reorder", "rate"];
    match said {
        [] => words(&[&WAYS[..], &["none"], &SPEC].concat()),
        [way] if WAYS.contains(way) => words(&[&["none"], &SPEC[..]].concat()),
        [.., last] if last.starts_with(|c: char| c.is_ascii_digit()) => {
            let unsaid = SPEC.iter().filter(|word| !said.contains(word));
            unsaid.map(|word| plain(*word)).collect()
        }
        _ => Vec::new(),
    }
}

fn of_bridge(before: &[&str], running: Running<'_>) -> Offer {
    match before {
        [] => words(&["link", "fdb"]),
        ["fdb", of_fdb @ ..] => self::of_fdb(of_fdb, running),
        [.., "dev"] => nics_of(running),
        [.., "hwmode"] => words(&["veb", "vepa", "floating", "none"]),
        ["link"] => words(&["set", "show"]),
        ["link", "show"] => words(&["dev"]),
        ["link", "set", said @ ..] => {
            let all = ["dev", "hwmode"].into_iter();
            all.filter(|word| !said.contains(word)).map(plain).collect()
        }
        _ => Vec::new(),
    }
}

fn of_fdb(before: &[&str], running: Running<'_>) -> Offer {
    match before {
        [] => words(&["add", "del", "show"]),
        [.., "dev"] => nics_of(running),
        ["show"] => words(&["dev"]),
        ["add" | "del" | "delete", _, said @ ..] if said.last() != Some(&"vlan") => {
            let all = ["dev", "vlan", "self"].into_iter();
            all.filter(|word| !said.contains(word)).map(plain).collect()
        }
        _ => Vec::new(),
    }
}

fn of_why(before: &[&str], running: Running<'_>) -> Offer {
    let ports = || vfs_of(running).into_iter();
    let ports = || ports().map(|(vf, mac)| (format!("vf{vf}"), mac));
    match before {
        [] => words(&["from"]),
        ["from"] => ports().chain([plain("wire")]).collect(),
        [.., "dst" | "src"] => ports().chain([plain("broadcast")]).collect(),
        [.., "proto"] => words(&["802.1Q", "802.1ad"]),
        // A number or an address follows.
        [
            ..,
            "vlan" | "prio" | "type" | "src-ip" | "dst-ip" | "sport" | "dport" | "len" | "gso"
            | "hex",
        ] => Vec::new(),
        [_, _, said @ ..] => {
            let all = [
                "dst", "src", "vlan", "type", "tcp", "udp", "src-ip", "dst-ip", "sport", "dport",
                "len", "gso", "hex",
            ];
            let unsaid = |word: &&str| *word == "vlan" || !said.contains(word);
            all.into_iter().filter(unsaid).map(plain).collect()
        }
        _ => Vec::new(),
    }
}

fn of_filter(before: &[&str], running: Running<'_>) -> Offer {
    match before {
        [] => words(&["flow-type", "egress"]),
        [.., "vf" | "mirror"] => vfs_of(running),
        [.., "flow-type"] => words(&[
            "ether", "ip4", "tcp4", "udp4", "sctp4", "ip6", "tcp6", "udp6", "sctp6",
        ]),
        [.., "action"] => words(&["drop", "pass", "mediated"]),
        [.., "priority"] => words(&["hint", "auto", "manual", "required"]),
        [.., "dst"] => words(&["unknown-multicast", "unknown-unicast"]),
        ["egress"] => words(&["vf", "flow-type"]),
        ["egress", "vf", _] => words(&["flow-type"]),
        // Only where a word and not the value of another may come: those of a flow type are in pairs.
        _ => match before.iter().position(|word| *word == "flow-type") {
            Some(at) if (before.len() - at).is_multiple_of(2) => {
                let fields: &[&str] = match before.get(at + 1) {
                    Some(&"ether") => &["dst", "src", "proto"],
                    Some(&("ip4" | "ip6")) => &["src-ip", "dst-ip", "l4proto"],
                    _ => &["src-ip", "dst-ip", "src-port", "dst-port"],
                };
                let rest = ["vlan", "vf", "action", "mirror", "priority", "loc"];
                words(&[fields, &rest].concat())
            }
            _ => Vec::new(),
        },
    }
}

fn of_capture(before: &[&str], running: Running<'_>) -> Offer {
    if let Some(at) = before.iter().position(|word| *word == "flow-type") {
        return of_filter(before.get(at..).unwrap_or_default(), running);
    }
    match before {
        // Of the NIC that is named in front of it, if one is.
        [.., "vf"] => {
            let all = running();
            let named = |word: &&str| all.iter().find(|nic| nic.name == **word);
            match before.iter().rev().find_map(named) {
                Some(nic) => vfs_of(&|| vec![nic.clone()]),
                None => vfs_of(&|| all.clone()),
            }
        }
        _ => {
            let mut all = words(&["vf", "wire", "pf"]);
            all.extend(nics_of(running));
            if !before.is_empty() {
                all.push(plain("flow-type"));
            }
            all
        }
    }
}

fn of_netns(before: &[&str], running: Running<'_>) -> Offer {
    match before {
        [] => {
            let all = fs::read_dir("/run/netns").into_iter().flatten().flatten();
            all.map(|entry| plain(entry.file_name().to_string_lossy()))
                .collect()
        }
        [_, .., "vf"] => vfs_of(running),
        [_] => words(&["vf"]),
        [_, "vf", _] => words(&["name"]),
        _ => Vec::new(),
    }
}

/// Those that are on VFs.
fn of_netns_gone(before: &[&str], running: Running<'_>) -> Offer {
    match before {
        [] => {
            let mut on_vfs: Vec<_> = running().into_iter().flat_map(|nic| nic.netns).collect();
            on_vfs.sort_unstable();
            on_vfs.dedup();
            on_vfs.into_iter().map(plain).collect()
        }
        [_, "vf"] => vfs_of(running),
        [_] => words(&["vf"]),
        _ => Vec::new(),
    }
}

/// Values of a setting, where they are words and not of a kind.
fn values(key: &str) -> Offer {
    let key = SETTING_KEYS.iter().find(|known| known.name == key);
    let values = key.map_or("", |key| key.values).split('|');
    let words = values.filter(|value| {
        !value.contains(|c: char| c.is_ascii_uppercase()) || value.starts_with("802")
    });
    words.map(plain).collect()
}

fn offer(words: Offer, current: &OsStr) -> Vec<CompletionCandidate> {
    let begun = current.to_string_lossy();
    let words = words
        .into_iter()
        .filter(|(word, _)| !word.is_empty() && word.starts_with(&*begun));
    words
        .map(|(word, help)| {
            let help = (!help.is_empty()).then(|| help.into());
            CompletionCandidate::new(word).help(help)
        })
        .collect()
}

/// What the NIC that is meant says, or all that run; nothing if there is none.
fn running(line: &Line) -> Vec<Nic> {
    let ctl = line.ctl.clone();
    let ctl = ctl.unwrap_or_else(|| default_socket_dir().join("ctl.sock"));
    let Ok(Response::Show(show)) = ask(&ctl, &Request::Show) else {
        return Vec::new();
    };
    let is_meant = |name: &str| line.nic.as_deref().is_none_or(|meant| meant == name);
    let nics = show.nics.into_iter().filter(|nic| is_meant(&nic.name));
    let nics = nics.map(|nic| Nic {
        name: nic.name,
        netns: nic.vfs.iter().filter_map(|vf| vf.netns.clone()).collect(),
        vfs: nic
            .vfs
            .into_iter()
            .map(|vf| (vf.vf, vf.state.mac))
            .collect(),
    });
    nics.collect()
}

/// What stands in front of the word that is completed, of the command line that a shell hands over behind `--`.
fn line() -> Line {
    let said = std::env::args_os().skip_while(|arg| arg != "--").skip(1);
    let said = said.map(|word| word.to_string_lossy().into_owned());
    let said = joined(said.collect());
    let index = std::env::var("_CLAP_COMPLETE_INDEX").ok();
    let index = index.and_then(|index| index.parse().ok());
    let end = index
        .unwrap_or(said.len().saturating_sub(1))
        .min(said.len());
    Line::of(said.get(..end).unwrap_or_default(), &Cli::command())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` with VFs 0 and 1, `b` with VF 0.
    fn two_nics() -> Vec<Nic> {
        let nic = |name: &str, vfs: u16| Nic {
            name: name.to_owned(),
            vfs: (0..vfs).map(|vf| (vf, String::new())).collect(),
            netns: vec!["blue".to_owned()],
        };
        vec![nic("a", 2), nic("b", 1)]
    }

    #[test]
    #[cfg(all(feature = "lab", feature = "top"))]
    fn what_there_is_an_offer_for_is_on_the_command_line() {
        fn all(command: &Command, path: &[&str], offers: &mut Vec<String>) {
            for arg in command.get_arguments().map(|arg| arg.get_id().as_str()) {
                if offer_for(path, arg).is_some() {
                    offers.push(format!("{} {arg}", path.join(" ")));
                }
            }
            for sub in command.get_subcommands() {
                all(sub, &[path, &[sub.get_name()]].concat(), offers);
            }
        }
        let mut offers = Vec::new();
        all(&Cli::command(), &[], &mut offers);
        assert!(
            ["vf nic", "filter nic", "top nic"]
                .iter()
                .all(|nic| offers.iter().any(|offer| offer == nic))
        );
        offers.retain(|offer| !offer.ends_with(" nic"));
        offers.sort_unstable();
        let expected = [
            "bridge words",
            "capture words",
            "experiment profile",
            "fdb words",
            "filter add words",
            "filter del words",
            "filter replace words",
            "guest functions",
            "link words",
            "netns add words",
            "netns delete words",
            "profile diff a",
            "profile diff b",
            "profile show profile",
            "run profile",
            "scenario check files",
            "scenario new from",
            "scenario run files",
            "scenario run profile",
            "show vfs",
            "vf words",
            "why words",
        ];
        assert_eq!(offers, expected);
    }

    fn offered(
        of: fn(&[&str], Running<'_>) -> Offer,
        nics: fn() -> Vec<Nic>,
        before: &str,
        current: &str,
    ) -> Vec<String> {
        let before: Vec<_> = before.split_whitespace().collect();
        let all = offer(of(&before, &nics), OsStr::new(current));
        let words = all
            .iter()
            .map(|c| c.get_value().to_string_lossy().into_owned());
        words.collect()
    }

    #[test]
    fn what_may_follow_in_a_command_for_a_vf() {
        let nobody = |before, current| offered(of_vf, Vec::new, before, current);
        assert_eq!(nobody("", ""), [""; 0], "nobody answers");
        assert_eq!(nobody("0", "re"), ["reset", "request"]);
        assert_eq!(nobody("0 set", "tr"), ["trust"]);
        assert_eq!(nobody("0-7 set trust on", "tr"), [""; 0], "said already");
        assert_eq!(nobody("0 set trust on", "spo"), ["spoofchk"]);
        assert_eq!(nobody("0 set path", ""), ["direct", "mediated", "auto"]);
        assert_eq!(nobody("0 set trust on proto", "802.1Q"), ["802.1Q"]);
        assert_eq!(nobody("0 set vlan", ""), [""; 0], "a number");
        assert_eq!(nobody("0 vlan", ""), ["add", "del"]);
        assert_eq!(nobody("0 reset", ""), [""; 0]);
        assert_eq!(nobody("0 set netem", "e"), ["egress"]);
        assert_eq!(nobody("0 set netem ingress", "d"), ["delay", "duplicate"]);
        assert_eq!(nobody("0 set netem delay", ""), [""; 0], "a time");
        assert_eq!(nobody("0 set netem delay 1ms", "l"), ["loss"]);
        let mirror = offered(of_vf, two_nics, "0 set mirror", "");
        assert_eq!(mirror, ["0", "1", "none"]);
    }

    #[test]
    fn what_may_follow_in_other_commands() {
        let link = |before, current| offered(of_link, two_nics, before, current);
        assert_eq!(link("", ""), ["set", "show"]);
        assert_eq!(link("set", "de"), ["dev", "delay"]);
        assert_eq!(link("set dev", ""), ["a", "b"]);
        assert_eq!(link("set dev a", "fl"), ["flap"]);
        assert_eq!(link("set vf 0 set", "tr"), ["trust"]);
        assert_eq!(link("set hwmode", "ve"), ["veb", "vepa"]);

        let capture = |before, current| offered(of_capture, two_nics, before, current);
        assert_eq!(capture("", ""), ["vf", "wire", "pf", "a", "b"]);
        assert_eq!(capture("a vf", ""), ["0", "1"]);
        assert_eq!(capture("a vf 0 wire b vf", ""), ["0"]);
        assert_eq!(capture("wire", "flow"), ["flow-type"]);
        assert_eq!(
            capture("wire flow-type tcp4", "dst"),
            ["dst-ip", "dst-port"]
        );

        let filter = |before, current| offered(of_filter, two_nics, before, current);
        assert_eq!(filter("", ""), ["flow-type", "egress"]);
        assert_eq!(filter("flow-type", "t"), ["tcp4", "tcp6"]);
        assert_eq!(
            filter("flow-type ether dst", "unknown-u"),
            ["unknown-unicast"]
        );
        assert_eq!(filter("flow-type ether proto", ""), [""; 0], "a number");
        assert_eq!(filter("flow-type ether proto 0x88b5", "v"), ["vlan", "vf"]);
        assert_eq!(filter("flow-type tcp4 action", "d"), ["drop"]);

        let bridge = |before, current| offered(of_bridge, two_nics, before, current);
        assert_eq!(bridge("", ""), ["link", "fdb"]);
        assert_eq!(bridge("link set dev", ""), ["a", "b"]);
        assert_eq!(bridge("link set dev a", ""), ["hwmode"]);
        assert_eq!(bridge("fdb add 02:00:00:00:00:01", "v"), ["vlan"]);
        let fdb = |before, current| offered(of_fdb, two_nics, before, current);
        assert_eq!(fdb("", ""), ["add", "del", "show"]);
        assert_eq!(fdb("show dev", "b"), ["b"]);
        assert_eq!(fdb("add 02:00:00:00:00:01 vlan", ""), [""; 0], "a number");
        let why = |before, current| offered(of_why, two_nics, before, current);
        assert_eq!(why("from", ""), ["vf0", "vf1", "wire"]);
        assert_eq!(why("from vf0 dst", "v"), ["vf0", "vf1"]);
        assert_eq!(why("from vf0 dst vf1 tcp", "dp"), ["dport"]);
        assert_eq!(why("from vf0 dst vf1 vlan", ""), [""; 0], "a number");

        let netns = |before, current| offered(of_netns, two_nics, before, current);
        assert_eq!(netns("blue", ""), ["vf"]);
        assert_eq!(netns("blue vf", "1"), ["1"]);
        assert_eq!(netns("blue vf 0", ""), ["name"]);
        let gone = |before, current| offered(of_netns_gone, two_nics, before, current);
        assert_eq!(gone("", ""), ["blue"]);
        assert_eq!(gone("blue vf", "1"), ["1"]);
        assert_eq!(gone("blue vf 0", ""), [""; 0]);
    }
}
