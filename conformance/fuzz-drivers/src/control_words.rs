//! What comes over the control socket: requests as JSON, and commands in words.
//!
//! Rules: a refusal is one line; a command that is read and written in words is read again as the same; a command that is refused has
//! changed nothing; and each filter of a table is written in words that add it.

use vf_model::{Command, MacAddr, NicConfig, Policy, Profile, SETTING_KEYS};
use vf_nic::control::Request;

use crate::bytes::Bytes;

/// Words that commands are made of, besides the keys of VFs and what they may be set to.
const WORDS: &[&str] = &[
    "vf",
    "0",
    "1",
    "2",
    "3",
    "0-2",
    "all",
    "set",
    "mac",
    "add",
    "del",
    "vlan",
    "5",
    "100",
    "4095",
    "100-119",
    "proto",
    "802.1ad",
    "qos",
    "3",
    "rss",
    "equal",
    "weight",
    "default",
    "hkey",
    "reset",
    "request",
    "promisc",
    "on",
    "off",
    "auto",
    "link",
    "up",
    "down",
    "dev",
    "nic0",
    "mtu",
    "1500",
    "9000",
    "hwmode",
    "veb",
    "vepa",
    "numvfs",
    "fdb",
    "self",
    "bridge",
    "show",
    "replace",
    "02:00:00:00:00:01",
    "02:00:00:00:00:11",
    "01:00:5e:00:00:01",
    "ff:ff:ff:ff:ff:ff",
    "filter",
    "delete",
    "flow-type",
    "ether",
    "proto",
    "0x88b5",
    "dst",
    "src",
    "m",
    "unknown-unicast",
    "unknown-multicast",
    "tcp4",
    "udp4",
    "ip4",
    "tcp6",
    "udp6",
    "ip6",
    "dst-ip",
    "src-ip",
    "10.0.0.1",
    "10.0.0.0/8",
    "2001:db8::1",
    "dst-port",
    "src-port",
    "80",
    "0xffff",
    "action",
    "drop",
    "pass",
    "mirror",
    "-1",
    "priority",
    "hint",
    "auto",
    "manual",
    "required",
    "loc",
    "egress",
    "queue",
    "context",
    "state",
    "enable",
    "disable",
    "rate",
    "100",
    "max_tx_rate",
];

const PROFILES: [Profile; 8] = [
    Profile::Generic,
    Profile::Falcon,
    Profile::Siena,
    Profile::Ef10,
    Profile::Igb,
    Profile::Ixgbe,
    Profile::I40e,
    Profile::Generic,
];

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    match bytes.u8() {
        0..=0x3f => request(bytes.rest()),
        0x40..=0x5f => {
            let text = String::from_utf8_lossy(bytes.rest());
            let words: Vec<&str> = text.split_whitespace().collect();
            command(&words);
        }
        profile => policy(PROFILES[usize::from(profile) % PROFILES.len()], &mut bytes),
    }
}

fn request(line: &[u8]) {
    match Request::parse(line) {
        Ok(request) => {
            let text = serde_json::to_vec(&request).unwrap();
            assert_eq!(Request::parse(&text), Ok(request));
        }
        Err(why) => one_line(&why),
    }
}

fn command(words: &[&str]) -> Option<Command> {
    match Command::parse_addressed(words) {
        Ok(addressed) => {
            let text = addressed.command.to_string();
            let again: Vec<&str> = text.split(' ').collect();
            let again = Command::parse(&again);
            assert_eq!(again.as_ref(), Ok(&addressed.command), "{text}");
            Some(addressed.command)
        }
        Err(why) => {
            one_line(&why.to_string());
            None
        }
    }
}

fn policy(profile: Profile, bytes: &mut Bytes<'_>) {
    let keys = SETTING_KEYS.iter().flat_map(|key| {
        let values = [key.values, key.allowed].map(|words| words.split(['|', ' ', ',']));
        std::iter::once(key.name).chain(values.into_iter().flatten())
    });
    let known: Vec<&str> = WORDS.iter().copied().chain(keys).collect();
    let mut policy = Policy::new(NicConfig {
        vfs: 3,
        mac_base: MacAddr([2, 0, 0, 0, 0, 0x10]),
        profile,
    });
    for _ in 0..32 {
        if bytes.is_empty() {
            break;
        }
        let count = 1 + bytes.below(14);
        let said = bytes.u8();
        let mut words: Vec<&str> = match said % 6 {
            0 => vec!["vf", "0", "set"],
            1 => vec!["filter", "add", "flow-type"],
            2 => vec!["link", "set"],
            3 => vec!["filter", "del", "flow-type"],
            4 => vec!["vf", "1"],
            _ => vec![],
        };
        words.extend((0..count).map(|_| known[usize::from(bytes.u16()) % known.len()]));
        let Some(command) = command(&words) else {
            continue;
        };
        let before = policy.saved();
        match policy.with(&command) {
            Ok(changed) => policy = changed,
            Err(why) => {
                one_line(&why.to_string());
                assert_eq!(policy.saved(), before);
            }
        }
    }
    for filter in policy.filter_table().numbered() {
        let text = filter.spec.to_string();
        match Command::filter_add(&text) {
            Ok(Command::FilterInsert(again)) => assert_eq!(again, filter.spec, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

pub(crate) fn one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}
