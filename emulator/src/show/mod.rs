//! `vfnic show`: asks a running NIC for its state and presents it, as text for people, as JSON or as metrics. Changes nothing.

#[cfg(test)]
pub(crate) mod sample;
mod text;
mod watch;

use std::ops::RangeInclusive;
use std::path::Path;

use serde_json::Value;
use vfnic::cli::{self, ShowWhat};
use vfnic::control::show::{self, Show, ShowNic, WorkerCycles};
use vfnic::control::{FilterLine, Request, Response, ask};
use vfnic::metrics::{Format, page};

use crate::failure::{Failure, failed, unanswered, usage};
use crate::output::print;

use text::Detail;
pub(crate) use text::never_had_a_guest;

/// Shows what was asked for, once or again and again.
pub(crate) fn show_all(ctl: &Path, nic: Option<&str>, args: &cli::ShowAll) -> Result<(), Failure> {
    let wanted = Wanted::of(nic, args)?;
    if let Some(seconds) = args.watch {
        return watch::watch(ctl, &wanted, seconds, args.show.json);
    }
    let show = wanted.ask(ctl)?;
    let json = args.show.json;
    match args.what {
        Some(ShowWhat::Workers) => workers(&show, json),
        Some(ShowWhat::Memory) if !json => print(&text::memory(&show)),
        Some(ShowWhat::Drops) => print(&text::drops(&show)),
        Some(ShowWhat::Rules) => rules(ctl, &show, json),
        _ if json => print_json(&show),
        _ if args.openmetrics => print(&page(show, Format::OpenMetrics)),
        _ => print(&text::text(&show, &wanted.detail)),
    }
}

/// Of which NIC and VFs something is wanted, and how much.
pub(crate) struct Wanted<'a> {
    nic: Option<&'a str>,
    detail: Detail,
}

impl<'a> Wanted<'a> {
    /// What the words ask for, if they can be had together.
    fn of(nic: Option<&'a str>, args: &cli::ShowAll) -> Result<Wanted<'a>, Failure> {
        let detail = match (args.what, args.vfs.as_deref()) {
            (Some(ShowWhat::Vf), Some(vfs)) => Detail::Vfs(vf_range(vfs)?),
            (Some(ShowWhat::Vf), None) => {
                return Err(usage(
                    "show vf: the number of a VF is missing, such as show vf 0",
                ));
            }
            (_, Some(word)) => {
                return Err(usage(format!(
                    "show: '{word}' is too much: a number is for show vf N"
                )));
            }
            (Some(ShowWhat::All), None) => Detail::All,
            _ => Detail::Overview,
        };
        let part = matches!(
            args.what,
            Some(ShowWhat::Drops | ShowWhat::Rules | ShowWhat::Workers | ShowWhat::Memory)
        );
        if part && args.watch.is_some() {
            return Err(usage(
                "show --watch is of NICs and VFs: show [vf N] --watch 1",
            ));
        }
        if args.what == Some(ShowWhat::Drops) && args.show.json {
            return Err(usage(
                "show drops is for people: in show --json they are rx_drops and tx_drops of each port",
            ));
        }
        Ok(Wanted { nic, detail })
    }

    /// The state of that.
    fn ask(&self, ctl: &Path) -> Result<Show, Failure> {
        match ask(ctl, &Request::Show).map_err(failed)? {
            Response::Show(show) => self.of_all(*show),
            Response::Refused(why) => Err(usage(why)),
            _ => Err(unanswered()),
        }
    }

    /// What is wanted of the state of everything.
    fn of_all(&self, mut show: Show) -> Result<Show, Failure> {
        if let Some(nic) = self.nic {
            named(&show, nic)?;
            show.nics.retain(|shown| shown.name == nic);
        }
        if let Detail::Vfs(vfs) = &self.detail {
            for nic in &mut show.nics {
                nic.vfs.retain(|vf| vfs.contains(&vf.vf));
            }
            if show.nics.iter().all(|nic| nic.vfs.is_empty()) {
                let there = show.nics.iter().map(|nic| match nic.numvfs {
                    0 => format!("{} has none now", nic.name),
                    n => format!("{} has 0 to {}", nic.name, n - 1),
                });
                let there: Vec<_> = there.collect();
                return Err(usage(format!("show: no such VF: {}", there.join(", "))));
            }
        }
        Ok(show)
    }
}

/// The NIC of this name.
pub(crate) fn named<'a>(show: &'a Show, nic: &str) -> Result<&'a ShowNic, Failure> {
    let found = show.nics.iter().find(|shown| shown.name == nic);
    found.ok_or_else(|| {
        let names: Vec<_> = show.nics.iter().map(|nic| nic.name.as_str()).collect();
        usage(format!("no NIC '{nic}': there is {}", names.join(", ")))
    })
}

/// `3` or `0-7`.
pub(crate) fn vf_range(word: &str) -> Result<RangeInclusive<u16>, Failure> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(usage(format!(
            "vf '{word}': the number of a VF, 0 to 255, or a range such as 0-7"
        ))),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value).map_err(failed)?;
    print(&format!("{json}\n"))
}

fn workers(show: &Show, json: bool) -> Result<(), Failure> {
    let hz = show::tsc_hz();
    let workers: Vec<_> = show.workers().map(|w| WorkerCycles::new(w, hz)).collect();
    if json {
        return print_json(&workers);
    }
    if workers.is_empty() {
        return print("no threads: on the virtual clock, planes take turns and no time\n");
    }
    print(&text::workers(&workers))
}

/// The filters of each NIC, those that win first, with the frames that each has decided on.
fn rules(ctl: &Path, show: &Show, json: bool) -> Result<(), Failure> {
    let mut out = String::new();
    let mut all = Vec::new();
    for nic in &show.nics {
        let name = Some(nic.name.clone());
        let answer = ask(ctl, &Request::FilterTable { nic: name }).map_err(failed)?;
        let Response::FilterTable(filters) = answer else {
            return Err(unanswered());
        };
        out += &text::rules(&nic.name, &filters);
        all.extend(filters.iter().map(|filter| rule(&nic.name, filter)));
    }
    match (json, out.is_empty()) {
        (true, _) => print_json(&all),
        (false, true) => print("no filters: vfnic filter add ...\n"),
        (false, false) => print(&out),
    }
}

/// A filter as JSON: its words, and what is not among them.
pub(crate) fn rule(nic: &str, filter: &FilterLine) -> Value {
    let mut rule = show::words_to_json(&filter.words);
    rule["nic"] = nic.into();
    rule["id"] = filter.id.into();
    rule["hits"] = filter.hits.into();
    if let Some(vf) = filter.driver {
        rule["driver"] = vf.into();
    }
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use vfnic::capture::event::Happening;
    use vfnic::capture::lines::Line;
    use vfnic::control::why::{Why, WhyVf};

    use crate::why::Packet;

    fn wanted(words: &str) -> Result<Detail, String> {
        let words = ["vfnic", "show"].into_iter().chain(words.split(' '));
        let cli = cli::Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        let cli::Command::Show(args) = cli.command else {
            return Err("no show".to_owned());
        };
        match Wanted::of(None, &args) {
            Ok(wanted) => Ok(wanted.detail),
            Err(Failure::Usage(why) | Failure::Failed(why)) => Err(why),
        }
    }

    #[test]
    fn words_say_what_is_wanted_or_what_is_wrong_with_them() {
        assert_eq!(wanted("all"), Ok(Detail::All));
        assert_eq!(wanted("--json"), Ok(Detail::Overview));
        assert_eq!(wanted("vf 3"), Ok(Detail::Vfs(3..=3)));
        assert_eq!(wanted("vf 0-7 --watch 0.5"), Ok(Detail::Vfs(0..=7)));
        for (words, says) in [
            ("vf", "show vf 0"),
            ("vf 7-0", "'7-0'"),
            ("vf x", "'x'"),
            ("all 3", "'3' is too much"),
            ("drops --watch 1", "of NICs and VFs"),
            ("drops --json", "rx_drops"),
            ("--watch 0", "0.1"),
            ("--watch 1 --openmetrics", "--openmetrics"),
        ] {
            let why = wanted(words).unwrap_err();
            assert!(why.contains(says), "{words}: {why}");
        }
    }

    #[test]
    fn a_vf_or_nic_that_is_not_there_is_said_with_those_that_are() {
        let nic = Wanted {
            nic: Some("b"),
            detail: Detail::Overview,
        };
        let vf = Wanted {
            nic: None,
            detail: Detail::Vfs(2..=3),
        };
        for (wanted, says) in [(nic, "no NIC 'b': there is a"), (vf, "a has 0 to 1")] {
            match wanted.of_all(sample::show(2)) {
                Err(Failure::Usage(why)) => assert!(why.contains(says), "{why}"),
                _ => panic!("{says}"),
            }
        }
    }

    /// The place of every value, such as `nics[].name`. What has the counters of a port says so; maps whose keys are words have one.
    fn places(value: &Value, at: &str, into: &mut std::collections::BTreeSet<String>) {
        const WORDS: [&str; 8] = [
            "settings",
            "asked",
            "in_force",
            "rx_drops",
            "tx_drops",
            "xstats",
            "search_limits",
            "search_depths",
        ];
        match value {
            Value::Object(map) => {
                let prefix = match map.contains_key("rx_drops") {
                    true => "counters".to_owned(),
                    false => at.to_owned(),
                };
                for (key, value) in map {
                    let place = if prefix.is_empty() {
                        key.clone()
                    } else {
                        format!("{prefix}.{key}")
                    };
                    into.insert(place.clone());
                    if !WORDS.contains(&key.as_str()) {
                        places(value, &place, into);
                    }
                }
            }
            Value::Array(all) => all
                .iter()
                .for_each(|value| places(value, &format!("{at}[]"), into)),
            _ => {}
        }
    }

    /// One of each kind of event, after the other.
    fn after(what: Option<&Happening>) -> Option<Happening> {
        let (vf, why) = (0, String::new());
        Some(match what {
            None => Happening::Command { words: why },
            Some(Happening::Command { .. }) => Happening::Path {
                vf,
                path: vf_model::Path::Direct,
            },
            Some(Happening::Path { .. }) => Happening::Carrier { up: true },
            Some(Happening::Carrier { .. }) => Happening::Attached { vf },
            Some(Happening::Attached { .. }) => Happening::Driver { vf, features: why },
            Some(Happening::Driver { .. }) => Happening::Left { vf, why: None },
            Some(Happening::Left { .. }) => Happening::Refused { vf, why },
            Some(Happening::Refused { .. }) => Happening::Drop {
                port: String::new(),
                direction: String::new(),
                reason: String::new(),
                why,
                src: None,
                dst: None,
                ethertype: None,
                len: 0,
            },
            Some(Happening::Drop { .. }) => Happening::Missed {
                drops: 0,
                events: 0,
            },
            Some(Happening::Missed { .. }) => Happening::RingBroken { vf, ring: 0, why },
            Some(Happening::RingBroken { .. }) => return None,
        })
    }

    #[test]
    fn every_key_of_the_json_is_in_its_document_and_no_other() {
        use vfnic::control::show::{
            SHOW_VERSION, ShowAuto, ShowFilterTable, ShowFunction, ShowMemory, ShowNetem,
            ShowQueue, ShowRssContext, ShowState,
        };
        let mut show = sample::show(1);
        show.memory = Some(ShowMemory::default());
        show.state = Some(ShowState {
            error: Some(String::new()),
            ..ShowState::default()
        });
        let nic = &mut show.nics[0];
        nic.filter_tables = vec![ShowFilterTable::default()];
        let impaired = ["egress", "ingress"].map(|way| (way.to_owned(), String::new()));
        nic.netem = impaired.clone().into();
        nic.flap = Some(String::new());
        let vf = &mut nic.vfs[0];
        vf.netem = impaired.clone().into();
        vf.netem_counters = impaired.map(|(way, _)| (way, ShowNetem::default())).into();
        vf.queues = vec![ShowQueue::default()];
        vf.rss.contexts = vec![ShowRssContext {
            context: 1,
            hkey: String::new(),
            spread: "default".to_owned(),
        }];
        vf.auto = Some(ShowAuto::default());
        vf.function = Some(ShowFunction::default());
        for word in [
            &mut vf.qmp,
            &mut vf.tap,
            &mut vf.netns,
            &mut vf.state.link_method,
            &mut vf.state.admin_mac,
        ] {
            *word = Some(String::new());
        }
        let mut said = std::collections::BTreeSet::new();
        places(&serde_json::to_value(&show).unwrap(), "", &mut said);

        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/json.md");
        let document = std::fs::read_to_string(document).unwrap();
        // A filter is no part of it, and has a list of its own.
        let line = FilterLine {
            id: None,
            words: String::new(),
            driver: Some(0),
            hits: None,
        };
        places(&rule("a", &line), "rules[]", &mut said);
        // Nor are what `why` and `show workers` say.
        let why = Packet {
            packet: 1,
            why: Why {
                steps: Vec::new(),
                vfs: vec![WhyVf {
                    vf: 0,
                    path: vf_model::Path::Direct,
                }],
                wire: false,
                drop: None,
            },
        };
        places(&serde_json::to_value(why).unwrap(), "why", &mut said);
        let worker = show::ShowWorker::default();
        let cycles = WorkerCycles::new(&worker, Some(1));
        let cycles = serde_json::to_value(cycles).unwrap();
        let mut of_workers = std::collections::BTreeSet::new();
        places(&cycles, "workers[]", &mut of_workers);
        // Those that `show --json` has, too, are in the document once.
        of_workers.retain(|key| !said.contains(&format!("nics[].{key}")));
        said.extend(of_workers);
        // Nor is an event, of which there are several kinds.
        let mut last = None;
        while let Some(what) = after(last.as_ref()) {
            let line = Line {
                time: 0.0,
                nic: String::new(),
                what: what.clone(),
            };
            let line = serde_json::to_value(line).unwrap();
            let name = line["event"].as_str().unwrap();
            assert!(document.contains(&format!("`{name}`")), "{name}");
            places(&line, "events", &mut said);
            last = Some(what);
        }
        let rows = document
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let documented: std::collections::BTreeSet<_> = rows.map(str::to_owned).collect();
        let one_sided: Vec<_> = said.symmetric_difference(&documented).collect();
        assert!(one_sided.is_empty(), "in one of them only: {one_sided:?}");
        assert!(document.contains(&format!("version {SHOW_VERSION}")));
    }
}
