//! A configuration file.
//!
//! Rules: what is wrong with one is said in a line; one that is accepted makes NICs, is written again, and what is written is accepted
//! and written the same.
//!
//! Never opens what a file names.

use std::path::Path;

use vf_model::Policy;
use vf_nic::config::{Config, initial_policy};

use crate::bytes::Bytes;
use crate::control_words::one_line;

/// Lines of files, good and bad.
const LINES: &[&str] = &[
    "socket_dir = '/s'",
    "ctl = '/c/ctl'",
    "observe = '/c/eyes'",
    "metrics = '127.0.0.1:9109'",
    "mode = '0660'",
    "group = 'kvm'",
    "poll = 'never'",
    "poll = 'auto'",
    "threads = 2",
    "threads = 0",
    "cpus = '0,2-4'",
    "cpus = '4-2'",
    "[hypervisor]",
    "cpu = 'model'",
    "cpu = 'measured'",
    "[[nic]]",
    "name = 'a'",
    "name = 'b'",
    "name = 'c d'",
    "vfs = 3",
    "vfs = 0",
    "vfs = 257",
    "workers = 2",
    "mac_base = '02:00:00:00:0a:00'",
    "mac_base = '03:00:00:00:0a:00'",
    "queue_pairs = 4",
    "queue_pairs = 99",
    "offloads = 'csum'",
    "offloads = 'none'",
    "loopback_rate = '20G'",
    "dma_latency = '800ns'",
    "mtu = 9000",
    "mtu = 12",
    "numvfs = 2",
    "link = 'down'",
    "hwmode = 'vepa'",
    "hwmode = 'x'",
    "profile = 'siena'",
    "profile = 'i40e'",
    "profile = 'falcon'",
    "profile = 'igb'",
    "uplink = 'tap t'",
    "uplink = 'x'",
    "netem = 'loss 1%'",
    "netem = 'delay 1ms 2ms'",
    "fdb = ['02:00:00:00:00:77']",
    "filters = ['flow-type ether proto 0x88b5 vf 1']",
    "filters = ['flow-type ip4 dst-ip 10.0.0.0/8 action drop', 'flow-type ether dst unknown-unicast vf 0']",
    "filters = ['egress vf 0 flow-type ether proto 0x88b6 action drop']",
    "[[nic.vf]]",
    "index = 0",
    "index = 1",
    "index = 9",
    "socket = 'other'",
    "socket = '/far/away'",
    "socket_role = 'client'",
    "qmp = 'monitor'",
    "link_method = 'socket'",
    "mac = '02:00:00:00:00:55'",
    "vlan = 100",
    "vlan = '100 qos 3'",
    "spoofchk = 'on'",
    "trust = 'on'",
    "path = 'mediated'",
    "path = 'auto'",
    "rate = 100",
    "max_tx_rate = 100",
    "min_tx_rate = 10",
    "state = 'disable'",
    "macs = ['02:00:00:00:00:66']",
    "vlans = ['5', '100-119']",
    "rss = 'equal 2'",
    "privilege = '-all'",
    "[[wire]]",
    "between = ['a', 'b']",
    "between = ['a', 'a']",
    "rate = '2.5G'",
    "propagation_ns = 7",
    "socket_role = 'server'",
    "= 3",
    "\"",
    "[nic]",
    "# nothing",
];

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let text = match bytes.u8() & 1 {
        0 => String::from_utf8_lossy(bytes.rest()).into_owned(),
        _ => {
            let mut text = String::new();
            while !bytes.is_empty() {
                text.push_str(LINES[usize::from(bytes.u8()) % LINES.len()]);
                text.push('\n');
            }
            text
        }
    };
    let Some((config, policies)) = load(&text) else {
        return;
    };
    let saved = save(&config, &policies);
    let Some((config, policies)) = load(&saved) else {
        panic!("what was saved is refused:\n{saved}");
    };
    assert_eq!(save(&config, &policies), saved, "saved twice");
}

fn load(text: &str) -> Option<(Config, Vec<Policy>)> {
    let config = match Config::of_text(text, Path::new("fuzz.toml")) {
        Ok(config) => config,
        Err(why) => {
            one_line(&why.to_string());
            return None;
        }
    };
    let policies = config.nics.iter().map(initial_policy);
    match policies.collect::<Result<Vec<_>, _>>() {
        Ok(policies) => Some((config, policies)),
        Err((_, why)) => {
            one_line(&why.to_string());
            None
        }
    }
}

fn save(config: &Config, policies: &[Policy]) -> String {
    let saved: Vec<_> = policies.iter().map(Policy::saved).collect();
    config.saved(&saved).unwrap()
}
