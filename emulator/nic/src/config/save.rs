//! The other way round: the file that makes NICs as they are now. Every part of a [`Config`] and of what is said about a NIC is
//! named here, so that a new one that is left out does not compile. Reads and writes no file.

use std::borrow::Cow;
use std::path::Path;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use vf_model::duration::Duration;
use vf_model::{Impairments, LinkConfig, MacAddr, Nanos, SavedPolicy, SavedVf, Vid};

use super::device::{DeviceKind, Offloads};
use super::nic::{LoopbackSettings, NicSettings};
use super::vf::{LinkMethod, SocketRole, VfSettings};
use super::wire::WireSettings;
use super::{Config, HypervisorCpu, PollMode, SocketAccess, SocketMode};
use crate::tap_port::TapDevice;

/// The whole file.
#[derive(Serialize)]
struct SavedFile<'a> {
    socket_dir: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctl: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctl_group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observe: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<SocketMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    poll: PollMode,
    threads: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hypervisor: Option<SavedHypervisor>,
    nic: Vec<SavedNic<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wire: Vec<SavedWire<'a>>,
}

#[derive(Serialize)]
struct SavedHypervisor {
    cpu: HypervisorCpu,
}

#[derive(Serialize)]
struct SavedNic<'a> {
    name: &'a str,
    vfs: u16,
    workers: u16,
    mac_base: MacAddr,
    queue_pairs: u16,
    profile: String,
    offloads: Offloads,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storm_control: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loopback_rate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dma_latency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    numvfs: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hwmode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uplink: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netem_ingress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flap: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    carrier: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fdb: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filters: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vf: Vec<SavedVfSection<'a>>,
}

struct SavedVfSection<'a> {
    index: usize,
    socket: Option<Cow<'a, Path>>,
    socket_role: SocketRole,
    device: DeviceKind,
    qmp: Option<&'a Path>,
    link_method: LinkMethod,
    tap: Option<&'a TapDevice>,
    saved: SavedVf,
}

#[derive(Serialize)]
struct SavedWire<'a> {
    between: [&'a str; 2],
    rate: String,
    propagation_ns: u64,
}

/// A value as a file has it.
#[derive(Serialize)]
#[serde(untagged)]
enum Value {
    Number(i64),
    Switch(bool),
    Word(String),
}

impl Config {
    /// The file that makes all of this again, with what has been said about the NICs since, each in its place.
    ///
    /// # Errors
    /// What cannot be written in a file, in one line: a path that is no UTF-8.
    pub fn saved(&self, policies: &[SavedPolicy]) -> Result<String, String> {
        let Config {
            socket_dir,
            ctl,
            ctl_group,
            observe,
            metrics,
            access: SocketAccess { mode, group },
            hypervisor,
            poll,
            threads,
            cpus,
            nics,
            wires,
        } = self;
        let nic = nics.iter().zip(policies);
        let file = SavedFile {
            socket_dir,
            ctl: ctl.as_deref(),
            ctl_group: ctl_group.as_deref(),
            observe: observe.as_deref(),
            metrics: metrics.as_ref().map(ToString::to_string),
            mode: *mode,
            group: group.as_deref(),
            poll: (*poll).into(),
            threads: *threads,
            cpus: cpus.count().map(|_| cpus.to_string()),
            hypervisor: hypervisor.map(|cpu| SavedHypervisor { cpu }),
            nic: nic
                .map(|(nic, policy)| nic.saved(socket_dir, policy))
                .collect(),
            wire: wires.iter().map(|wire| wire.saved(nics)).collect(),
        };
        toml::to_string_pretty(&file).map_err(|error| error.to_string().replace('\n', "; "))
    }
}

impl NicSettings {
    fn saved(&self, socket_dir: &Path, policy: &SavedPolicy) -> SavedNic<'_> {
        let NicSettings {
            name,
            vfs,
            workers,
            mac_base,
            queue_pairs,
            offloads,
            uplink,
            profile,
            loopback,
            vf,
            // What they have come to is in the policy.
            mtu: _,
            link_up: _,
            cable_out: _,
            netem: _,
            switch: _,
            filters: _,
        } = self;
        let SavedPolicy {
            num_vfs,
            port_up,
            mtu,
            storm_control,
            netem,
            cable_out,
            flap,
            switch_mode,
            fdb,
            filters,
            vfs: of_vfs,
        } = policy.clone();
        let LoopbackSettings { rate_bps, latency } = loopback.unwrap_or_default();
        let sections = vf.iter().zip(of_vfs).enumerate();
        let sections = sections.map(|(i, (vf, saved))| vf.saved(name, i, socket_dir, saved));
        SavedNic {
            name,
            vfs: *vfs,
            workers: *workers,
            mac_base: *mac_base,
            queue_pairs: *queue_pairs,
            profile: profile.to_string(),
            offloads: *offloads,
            mtu: mtu.map(|mtu| mtu.get()),
            storm_control,
            loopback_rate: rate_bps.map(|rate| rate.to_string()),
            dma_latency: latency.map(|latency| Duration(latency).to_string()),
            numvfs: num_vfs,
            link: (!port_up).then_some("down"),
            hwmode: switch_mode.map(|mode| mode.to_string()),
            uplink: uplink.as_ref().map(ToString::to_string),
            netem: netem.egress.map(|spec| spec.to_string()),
            netem_ingress: netem.ingress.map(|spec| spec.to_string()),
            flap: flap.map(|flap| flap.to_string()),
            carrier: cable_out.then_some(false),
            // The key says `self`.
            fdb: fdb
                .iter()
                .map(|entry| entry.to_string().trim_end_matches(" self").to_owned())
                .collect(),
            filters,
            vf: sections.filter(|vf| !vf.is_default()).collect(),
        }
    }
}

impl VfSettings {
    fn saved(
        &self,
        nic: &str,
        index: usize,
        socket_dir: &Path,
        saved: SavedVf,
    ) -> SavedVfSection<'_> {
        let VfSettings {
            socket,
            role,
            device,
            qmp,
            link_method,
            tap,
            policy: _,
        } = self;
        let usual = socket_dir.join(format!("{nic}-vf{index}.sock"));
        let within = socket.strip_prefix(socket_dir).unwrap_or(socket);
        SavedVfSection {
            index,
            socket: (*socket != usual).then_some(within.into()),
            socket_role: *role,
            device: *device,
            qmp: qmp.as_deref(),
            link_method: *link_method,
            tap: tap.as_ref().filter(|tap| tap.is_lasting()),
            saved,
        }
    }
}

impl SavedVfSection<'_> {
    /// Whether it says nothing.
    fn is_default(&self) -> bool {
        let SavedVf {
            settings,
            netem,
            macs,
            vlans,
            rss_key,
            rss_spread,
            rss_contexts,
        } = &self.saved;
        let as_usual = self.socket.is_none()
            && self.socket_role == SocketRole::default()
            && self.device == DeviceKind::default()
            && self.qmp.is_none()
            && self.link_method == LinkMethod::default()
            && self.tap.is_none();
        let nothing = settings.is_empty() && netem.is_none() && macs.is_empty() && vlans.is_empty();
        let no_rss = rss_key.is_none() && rss_spread.is_none() && rss_contexts.is_empty();
        as_usual && nothing && no_rss
    }
}

impl Serialize for SavedVfSection<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let SavedVf {
            settings,
            netem: Impairments { egress, ingress },
            macs,
            vlans,
            rss_key,
            rss_spread,
            rss_contexts,
        } = &self.saved;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("index", &self.index)?;
        if let Some(socket) = &self.socket {
            map.serialize_entry("socket", socket)?;
        }
        if self.socket_role != SocketRole::default() {
            map.serialize_entry("socket_role", &self.socket_role)?;
        }
        if self.device != DeviceKind::default() {
            map.serialize_entry("device", &self.device)?;
        }
        if let Some(qmp) = self.qmp {
            map.serialize_entry("qmp", qmp)?;
        }
        if self.link_method != LinkMethod::default() {
            map.serialize_entry("link_method", &self.link_method)?;
        }
        if let Some(TapDevice { name, netns }) = self.tap {
            map.serialize_entry("tap", name)?;
            if let Some(netns) = netns {
                map.serialize_entry("netns", netns)?;
            }
        }
        for setting in settings {
            let (key, word) = setting.words();
            map.serialize_entry(key, &Value::of(word))?;
        }
        if !macs.is_empty() {
            let macs = macs.iter().map(|(mac, vlan)| match vlan {
                Some(vid) => format!("{mac} vlan {vid}"),
                None => mac.to_string(),
            });
            map.serialize_entry("macs", &macs.collect::<Vec<_>>())?;
        }
        if !vlans.is_empty() {
            map.serialize_entry("vlans", &ranges(vlans))?;
        }
        let key = rss_key.iter().map(|key| format!("hkey {key}"));
        let rss = key.chain(rss_spread.iter().map(ToString::to_string));
        let rss: Vec<_> = rss.collect();
        if !rss.is_empty() {
            map.serialize_entry("rss", &rss.join(" "))?;
        }
        if !rss_contexts.is_empty() {
            map.serialize_entry("rss_contexts", rss_contexts)?;
        }
        for (key, spec) in [("netem", egress), ("netem_ingress", ingress)] {
            if let Some(spec) = spec {
                map.serialize_entry(key, &spec.to_string())?;
            }
        }
        map.end()
    }
}

impl Value {
    fn of(word: String) -> Value {
        match (word.as_str(), word.parse()) {
            (_, Ok(number)) => Value::Number(number),
            ("on", _) => Value::Switch(true),
            ("off", _) => Value::Switch(false),
            _ => Value::Word(word),
        }
    }
}

/// VLANs in order, those that follow each other as a range.
fn ranges(vlans: &[Vid]) -> Vec<Value> {
    let words = Vid::runs(vlans).map(|(first, last)| match first == last {
        true => Value::Number(first.get().into()),
        false => Value::Word(format!("{first}-{last}")),
    });
    words.collect()
}

impl WireSettings {
    fn saved<'a>(&self, nics: &'a [NicSettings]) -> SavedWire<'a> {
        let WireSettings {
            between,
            link:
                LinkConfig {
                    rate_bps,
                    propagation: Nanos(propagation_ns),
                },
        } = self;
        let rate = match rate_bps {
            bps if bps % 1_000_000_000 == 0 => format!("{}G", bps / 1_000_000_000),
            bps if bps % 1_000_000 == 0 => format!("{}M", bps / 1_000_000),
            bps => bps.to_string(),
        };
        SavedWire {
            between: between.map(|end| nics[end].name.as_str()),
            rate,
            propagation_ns: *propagation_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;
    use vf_model::{Command, Policy, Profile, SETTING_KEYS, VfIndex};

    use super::super::Overrides;
    use super::*;
    use crate::config::initial_policy;

    fn load(text: &str) -> (Config, Vec<Policy>) {
        let file = Path::new("saved.toml");
        let config = Config::from_toml(text, file, &Overrides::default(), false);
        let config = config.unwrap_or_else(|error| panic!("{error}\n{text}"));
        let policies = config.nics.iter().map(|nic| {
            initial_policy(nic).unwrap_or_else(|(vf, why)| panic!("{vf}: {why}\n{text}"))
        });
        let policies = policies.collect();
        (config, policies)
    }

    fn save(config: &Config, policies: &[Policy]) -> String {
        let saved: Vec<_> = policies.iter().map(Policy::saved).collect();
        config.saved(&saved).unwrap()
    }

    /// All that a policy says which the administrator may have said, read from the policy itself: what is left out of what is saved is
    /// missing here. Where a NIC chooses the rows of its filters it chooses anew.
    fn facts(policy: &Policy) -> String {
        let numbered = matches!(
            policy.profile(),
            Profile::Generic | Profile::Igb | Profile::Ixgbe | Profile::I40e
        );
        let filters = policy.filter_table().numbered();
        let filters: Vec<_> = filters
            .map(|filter| (filter.id.filter(|_| numbered), filter.spec))
            .collect();
        let vfs = (0..policy.vf_count()).map(VfIndex::from).map(|vf| {
            let (filters, rss) = (policy.filters(vf), policy.rss(vf));
            let added = (filters.macs().to_vec(), filters.vlans().to_vec());
            let contexts = policy.rss_contexts(vf).iter();
            let contexts = contexts.map(|(id, rss)| (id, rss.key(), rss.spread().clone()));
            let contexts: Vec<_> = contexts.collect();
            let netem = policy.vf_netem(vf).clone();
            (
                *policy.vf(vf),
                added,
                rss.key(),
                rss.spread().clone(),
                contexts,
                netem,
            )
        });
        let vfs: Vec<_> = vfs.collect();
        // Where in its time a flapping link is, is nothing that anybody has said.
        let cable_out = policy.is_cable_out() && policy.flap().is_none();
        let passes = (policy.netem(), policy.flap(), cable_out);
        let of_port = (policy.mtu(), policy.storm_control());
        let port = (policy.port_up(), of_port, policy.switch_mode(), passes);
        let stations = policy.stations_behind_pf();
        format!(
            "{port:?} {} {stations:?} {filters:?} {vfs:?}",
            policy.num_vfs()
        )
    }

    /// Everything that can be written in a file and is not said of a NIC.
    const WHOLE: &str = "socket_dir = '/s'\nctl = '/c/ctl'\nctl_group = 'adm'\nobserve = '/c/eyes'\nmetrics = '127.0.0.1:9109'\nmode = '0666'\ngroup = 'kvm'\npoll = 'never'\nthreads = 2\ncpus = '0,2-4'\n\
        [hypervisor]\ncpu = 'model'\n\
        [[nic]]\nname = 'a'\nvfs = 3\nworkers = 2\nmac_base = '02:00:00:00:0a:00'\nqueue_pairs = 4\noffloads = 'csum'\nloopback_rate = '20G'\ndma_latency = '800ns'\n\
        [[nic.vf]]\nindex = 0\nsocket = 'other'\nsocket_role = 'client'\n[[nic.vf]]\nindex = 1\nsocket = '/far/away'\nqmp = 'monitor'\nlink_method = 'socket'\n\
        [[nic]]\nname = 'b'\nsocket_role = 'client'\nprofile = 'i40e'\n[[nic]]\nname = 'c'\nuplink = 'tap t'\nnetem = 'loss 1%'\nnetem_ingress = 'delay 2ms'\nflap = 'up 1s down 2s'\n\
        [[wire]]\nbetween = ['a', 'b']\nrate = '2.5G'\npropagation_ns = 7\nnetem = 'delay 1ms'\n";

    #[test]
    fn what_is_no_policy_is_saved() {
        let (config, policies) = load(WHOLE);
        let text = save(&config, &policies);
        let (again, policies) = load(&text);
        assert_eq!(format!("{again:?}"), format!("{config:?}"), "{text}");
        assert_eq!(save(&again, &policies), text);
    }

    #[test]
    fn without_a_file_names_of_sockets_stay_plain() {
        let over = Overrides {
            socket_dir: Some("/s".into()),
            ..Overrides::default()
        };
        let config = Config::load(None, &over).unwrap();
        let policy = initial_policy(&config.nics[0]).unwrap();
        let (again, _) = load(&save(&config, &[policy]));
        assert_eq!(format!("{again:?}"), format!("{config:?}"));
    }

    #[test]
    fn it_reads_as_one_would_write_it() {
        let (config, mut policies) = load("socket_dir = '/s'\n[[nic]]\nname = 'a'\n");
        for words in [
            "link set down mtu 9000",
            "link set hwmode vepa",
            "vf 1 set vlan 7 qos 3 spoofchk off path mediated",
            "vf 0 vlan add 100-119",
            "vf 0 vlan add 5",
            "vf 0 mac add 02:00:00:00:00:99 vlan 5",
            "vf 0 rss weight 3 1",
            "vf 0 rss context new equal 2",
            "filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 0 context 1 loc 9",
            "vf 1 set ingress delay 10ms 1ms loss 0.1% seed 7",
            "fdb add 02:00:00:00:00:77 self",
            "filter add flow-type ether proto 0x88b5 action drop loc 7",
            "filter add flow-type ether proto 0x88b6 vf 1 priority auto",
            "filter add flow-type ether proto 0x88b6 action drop",
        ] {
            let words: Vec<_> = words.split(' ').collect();
            let command = Command::parse(&words).unwrap();
            policies[0] = policies[0].with(&command).unwrap();
        }
        let text = save(&config, &policies);
        assert_eq!(text, include_str!("saved.toml"));
        let (again, policies) = load(&text);
        assert_eq!(save(&again, &policies), text);
    }

    /// What a command may say, in words; some of it is refused.
    fn words() -> impl Strategy<Value = String> {
        let mac = || {
            select(
                &[
                    "02:00:00:00:00:01",
                    "02:00:00:00:00:02",
                    "03:00:00:00:00:03",
                    "0:0:0:0:0:0",
                ][..],
            )
        };
        let vf = || select(&["0", "1", "2", "3", "0-2", "1-2"][..]);
        let vid = || select(&["1", "5", "6", "7", "100", "100-119", "4094", "4095"][..]);
        let spec = || {
            let matches = select(
                &[
                    "ether proto 0x88b5",
                    "ether proto 0x88b6",
                    "ether dst 02:00:00:00:00:01",
                    "ether dst 02:00:00:00:00:01 vlan 5",
                    "ether dst unknown-multicast",
                    "ether dst unknown-unicast",
                    "tcp4 dst-ip 10.0.0.1 dst-port 80",
                    "udp4 dst-ip 10.0.0.1 dst-port 80 src-ip 10.0.0.2 src-port 9",
                    "ip4 dst-ip 10.0.0.0/8",
                    "tcp6 dst-ip 2001:db8::1 dst-port 443",
                ][..],
            );
            let priority =
                select(&["", " priority hint", " priority auto", " priority required"][..]);
            (matches, priority)
        };
        let netem = || {
            select(
                &[
                    "delay 10ms 1ms 25% distribution normal",
                    "loss 0%",
                    "loss gemodel 1% 10% 70%",
                    "loss state 1% 2% seed 7",
                    "netem none",
                    "duplicate 1% corrupt 0.0000001% limit 10",
                    "delay 1ms reorder 0% gap 5 memory_limit 1mb",
                    "netem rate 1.5mbit",
                    "delay 0ms",
                ][..],
            )
        };
        let action = || {
            select(
                &[
                    "vf 0",
                    "vf 1",
                    "vf 3",
                    "vf 1 action 2",
                    "vf 1 context 1",
                    "action drop",
                    "action mediated",
                ][..],
            )
        };
        let loc = || select(&["", "", " loc 0", " loc 5", " loc 9000"][..]);
        let values = SETTING_KEYS.iter().flat_map(|key| {
            let words = [key.values, key.allowed].map(|words| words.split(['|', ' ', ',']));
            words.into_iter().flatten()
        });
        let values: Vec<_> = values
            .chain(["0", "1", "2", "5", "1500", "02:00:00:00:00:07"])
            .collect();
        prop_oneof![
            6 => (vf(), 0..SETTING_KEYS.len(), select(values))
                .prop_map(|(vf, key, value)| format!("vf {vf} set {} {value}", SETTING_KEYS[key].name)),
            2 => (vf(), select(&["add", "del"][..]), mac(), select(&["", " vlan 5", " vlan 6"][..]))
                .prop_map(|(vf, verb, mac, vlan)| format!("vf {vf} mac {verb} {mac}{vlan}")),
            2 => (vf(), select(&["add", "del"][..]), vid())
                .prop_map(|(vf, verb, vid)| format!("vf {vf} vlan {verb} {vid}")),
            1 => (vf(), select(&["equal 2", "equal 17", "weight 3 1", "default"][..]), any::<Option<u8>>())
                .prop_map(|(vf, spread, key)| {
                    let key = key.map(|byte| format!("hkey {} ", vec![format!("{byte:02x}"); 40].join(":")));
                    format!("vf {vf} rss {}{spread}", key.unwrap_or_default())
                }),
            1 => (vf(), select(&["new equal 2", "new", "new 3 weight 1 2", "1 equal 4", "1 delete", "9 equal 2"][..]))
                .prop_map(|(vf, words)| format!("vf {vf} rss context {words}")),
            1 => (vf(), select(&["reset", "request promisc on", "request vlan add 5", "request mac 02:00:00:00:00:55"][..]))
                .prop_map(|(vf, words)| format!("vf {vf} {words}")),
            1 => select(&["up", "down", "mtu 9000", "mtu 20", "storm_control 7", "storm_control 0", "hwmode vepa", "hwmode veb", "hwmode floating", "hwmode none", "numvfs 0", "numvfs 2", "numvfs 3"][..])
                .prop_map(|words| format!("link set {words}")),
            1 => (select(&["link set", "vf 0 set", "vf 1-2 set"][..]), select(&["", " ingress", " both", " netem egress"][..]), netem())
                .prop_map(|(what, way, words)| format!("{what}{way} {words}")),
            1 => select(&["carrier on", "carrier off"][..]).prop_map(|words| format!("link set {words}")),
            1 => select(&["up 5s down 200ms", "up 1ms down 1h", "up 1s", "none"][..])
                .prop_map(|words| format!("link set flap {words}")),
            1 => (select(&["add", "del"][..]), mac(), select(&["", " vlan 5"][..]))
                .prop_map(|(verb, mac, vlan)| format!("fdb {verb} {mac}{vlan} self")),
            4 => (select(&["add", "replace"][..]), spec(), action(), loc())
                .prop_map(|(verb, (matches, priority), action, loc)| format!("filter {verb} flow-type {matches} {action}{priority}{loc}")),
            1 => (vf(), spec(), action(), loc())
                .prop_map(|(vf, (matches, priority), action, loc)| format!("filter add egress vf {vf} flow-type {matches} {action}{priority}{loc}")),
            2 => spec().prop_map(|(matches, priority)| format!("filter del flow-type {matches}{priority}")),
            1 => (0..9u32).prop_map(|id| format!("filter delete {id}")),
        ]
    }

    const PROFILES: [&str; 8] = [
        "generic",
        "falcon",
        "siena",
        "ef10",
        "igb",
        "ixgbe",
        "i40e",
        "mlx5-legacy",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn what_is_saved_after_any_commands_makes_the_same_again(
            said in prop::collection::vec(words(), 0..200),
            profile in select(&PROFILES[..]),
        ) {
            let (config, mut policies) = load(&format!("socket_dir = '/s'\n[[nic]]\nname = 'a'\nvfs = 3\nprofile = '{profile}'\n"));
            let mut refused = 0;
            for words in &said {
                let before = policies[0].saved();
                let words: Vec<_> = words.split(' ').collect();
                let done = Command::parse(&words).and_then(|command| policies[0].with(&command));
                match done {
                    Ok(policy) => policies[0] = policy,
                    Err(_) => {
                        refused += 1;
                        prop_assert_eq!(before, policies[0].saved());
                    }
                }
            }
            prop_assume!(said.len() < 20 || refused < said.len());
            let text = save(&config, &policies);
            let before = facts(&policies[0]);
            let (config, policies) = load(&text);
            prop_assert_eq!(facts(&policies[0]), before, "{}", text);
            prop_assert_eq!(save(&config, &policies), text);
        }
    }
}
