//! `vfnic link show`, `vfnic bridge link show` and `vfnic bridge fdb show`: what `ip`(8) says of a NIC and its VFs, and `bridge`(8) of
//! its switch. Changes nothing.

use std::path::Path;

use serde_json::{Value, json};
use vfnic::control::show::{Show, ShowNic, ShowVf};
use vfnic::control::{Request, Response, ask};

use crate::failure::{Failure, failed, unanswered, usage};
use crate::output::print;
use crate::show::named;

/// What is asked, if these words behind `bridge` ask and change nothing.
pub(crate) fn question(words: &[String]) -> Option<Question<'_>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (say, rest) = match words.as_slice() {
        ["link", rest @ ..] => (LINK, rest),
        ["fdb", rest @ ..] => (FDB, rest),
        _ => return None,
    };
    Question::of(say, rest)
}

/// The same of these words behind `link`.
pub(crate) fn question_of_link(words: &[String]) -> Option<Question<'_>> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Question::of(IP_LINK, &words)
}

/// What is said of a NIC, as text and as the objects of a list.
#[derive(Clone, Copy)]
struct Say {
    text: fn(&ShowNic) -> String,
    json: fn(&ShowNic) -> Vec<Value>,
}

const LINK: Say = Say {
    text: link,
    json: |nic| {
        let (up, mtu) = (nic.link.up, nic.link.mtu);
        vec![json!({"nic": nic.name, "up": up, "mtu": mtu, "hwmode": nic.hwmode})]
    },
};

const IP_LINK: Say = Say {
    text: ip_link,
    json: |nic| {
        let vfs = nic.vfs.iter();
        let vfs = vfs.map(|vf| json!({"vf": vf.vf, "settings": vf.settings}));
        let (up, mtu, vfs) = (nic.link.up, nic.link.mtu, vfs.collect::<Vec<_>>());
        vec![json!({"nic": nic.name, "up": up, "mtu": mtu, "vfs": vfs})]
    },
};

const FDB: Say = Say {
    text: fdb,
    json: |nic| {
        let entries = nic.fdb.iter().map(|entry| {
            let words: Vec<_> = entry.split(' ').collect();
            let mut said = json!({"nic": nic.name, "mac": words.first()});
            if let ["vlan", vid, ..] = words.get(1..).unwrap_or_default() {
                said["vlan"] = vid.parse::<u16>().ok().into();
            }
            said
        });
        entries.collect()
    },
};

pub(crate) struct Question<'a> {
    say: Say,
    dev: Option<&'a str>,
}

impl<'a> Question<'a> {
    fn of(say: Say, words: &[&'a str]) -> Option<Question<'a>> {
        let dev = match words {
            [] | ["show"] => None,
            ["show", "dev", nic] | ["show", nic] => Some(*nic),
            _ => return None,
        };
        Some(Question { say, dev })
    }

    /// Asks the vfnic that runs.
    pub(crate) fn ask(&self, ctl: &Path, nic: Option<&str>, json: bool) -> Result<(), Failure> {
        match ask(ctl, &Request::Show).map_err(failed)? {
            Response::Show(show) => print(&self.answer(&show, nic, json)?),
            Response::Refused(why) => Err(usage(why)),
            _ => Err(unanswered()),
        }
    }

    fn answer(&self, show: &Show, nic: Option<&str>, json: bool) -> Result<String, Failure> {
        let nics: Vec<&ShowNic> = match self.dev.or(nic) {
            Some(nic) => vec![named(show, nic)?],
            None => show.nics.iter().collect(),
        };
        match json {
            true => {
                let all: Vec<_> = nics.into_iter().flat_map(self.say.json).collect();
                Ok(serde_json::to_string_pretty(&all).map_err(failed)? + "\n")
            }
            false => Ok(nics.into_iter().map(self.say.text).collect()),
        }
    }
}

fn link(nic: &ShowNic) -> String {
    let state = if nic.link.up { "up" } else { "down" };
    let (name, mtu, mode) = (&nic.name, nic.link.mtu, &nic.hwmode);
    format!("{name}: {state} mtu {mtu} hwmode {mode}\n")
}

fn ip_link(nic: &ShowNic) -> String {
    let (state, mtu) = (if nic.link.up { "UP" } else { "DOWN" }, nic.link.mtu);
    let port = format!("{}: mtu {mtu} state {state}\n", nic.name);
    let lines = nic.vfs.iter().map(ip_link_vf);
    std::iter::once(port).chain(lines).collect()
}

/// A VF's settings as `ip link` words them: what is not set is not said, but for what is on or off.
fn ip_link_vf(vf: &ShowVf) -> String {
    let said = |key: &str| vf.settings.get(key).map_or("", String::as_str);
    let set = |key: &str| Some(said(key)).filter(|value| !matches!(*value, "" | "0"));
    let mut line = format!("    vf {:<5} link/ether {}", vf.vf, said("mac"));
    if let Some(vid) = set("vlan") {
        line += &format!(", vlan {vid}");
        let qos = set("qos").map(|qos| format!(", qos {qos}"));
        line += &qos.unwrap_or_default();
        let proto = set("proto").filter(|proto| *proto != "802.1Q");
        line += &proto.map_or(String::new(), |proto| format!(", vlan protocol {proto}"));
    }
    for rate in ["max_tx_rate", "min_tx_rate"] {
        line += &set(rate).map_or(String::new(), |mbps| format!(", {rate} {mbps}Mbps"));
    }
    let rest = [
        ("spoof checking", "spoofchk"),
        ("link-state", "state"),
        ("trust", "trust"),
        ("query_rss", "query_rss"),
    ];
    for (name, key) in rest {
        line += &format!(", {name} {}", said(key));
    }
    line + "\n"
}

/// A line an entry, which can be put behind `bridge fdb add` and `bridge fdb del`.
fn fdb(nic: &ShowNic) -> String {
    let lines = nic.fdb.iter().map(|entry| {
        let (mac, rest) = entry.split_once(' ').unwrap_or((entry, ""));
        format!("{mac} dev {} {rest} permanent\n", nic.name)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vf_is_said_as_ip_says_it() {
        let mut show = crate::show::sample::show(2);
        let nic = &mut show.nics[0];
        for (key, value) in [
            ("mac", "02:00:00:00:00:01"),
            ("vlan", "100"),
            ("qos", "3"),
            ("proto", "802.1ad"),
            ("max_tx_rate", "50"),
            ("min_tx_rate", "0"),
            ("spoofchk", "on"),
            ("state", "auto"),
            ("trust", "off"),
            ("query_rss", "off"),
        ] {
            nic.vfs[0].settings.insert(key.to_owned(), value.to_owned());
        }
        let words = ["show".to_owned(), "a".to_owned()];
        let said = question_of_link(&words).unwrap().answer(&show, None, false);
        let said = said.unwrap_or_default();
        let mut lines = said.lines();
        assert_eq!(lines.next(), Some("a: mtu 9216 state UP"));
        assert_eq!(
            lines.next(),
            Some(
                "    vf 0     link/ether 02:00:00:00:00:01, vlan 100, qos 3, vlan protocol 802.1ad, max_tx_rate 50Mbps, \
                 spoof checking on, link-state auto, trust off, query_rss off"
            )
        );
        assert_eq!(lines.count(), 1);
        show.nics[0].fdb = vec!["02:00:00:00:00:99 vlan 5 self".to_owned()];
        let fdb = ["fdb".to_owned()];
        let said = question(&fdb).unwrap().answer(&show, Some("a"), true);
        let said: Value = serde_json::from_str(&said.unwrap_or_default()).unwrap();
        let entry = json!({"nic": "a", "mac": "02:00:00:00:00:99", "vlan": 5});
        assert_eq!(said, json!([entry]));
        assert!(question_of_link(&["set".to_owned(), "up".to_owned()]).is_none());
    }
}
