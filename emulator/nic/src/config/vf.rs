//! `[[nic.vf]]`: the socket of a VF and its policy at the start. Opens nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::{self, DeserializeSeed, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use vf_model::{SETTING_KEYS, SettingKey, VfSetting, nearest};

use super::device::DeviceKind;
use crate::tap_port::TapDevice;

/// One VF.
#[derive(Clone, Debug)]
pub struct VfSettings {
    /// Its socket.
    pub socket: PathBuf,
    /// Who listens on it.
    pub role: SocketRole,
    /// What a guest finds there.
    pub device: DeviceKind,
    /// The monitor of the guest's QEMU, if it is known.
    pub qmp: Option<PathBuf>,
    /// How `state disable` keeps it from its network.
    pub link_method: LinkMethod,
    /// The network device of the host that is on it in place of a VM, if one is.
    pub tap: Option<TapDevice>,
    /// What is applied at the start, in the words of `vfnic vf N set`.
    pub policy: Vec<VfSetting>,
}

impl VfSettings {
    /// A VF of which nothing is said but its socket.
    #[must_use]
    pub fn new(socket: PathBuf, role: SocketRole) -> VfSettings {
        VfSettings {
            socket,
            role,
            device: DeviceKind::default(),
            qmp: None,
            link_method: LinkMethod::default(),
            tap: None,
            policy: Vec::new(),
        }
    }

    /// What keeps a tap from being on it.
    ///
    /// # Errors
    /// In one line.
    pub fn check_tap(&self) -> Result<(), String> {
        match (self.role, self.device) {
            (SocketRole::Client, _) => Err("socket_role = \"client\" is for a VMM that listens, and a tap is a guest that connects".to_owned()),
            (_, DeviceKind::Virtio) => Ok(()),
            (_, device) => Err(format!("device = \"{device}\" is for a VM, and a tap on a VF is a guest with virtio")),
        }
    }

    /// What of it is of a machine with a clock of its own, and not on the virtual clock: a VMM that listens, or one that is watched.
    #[must_use]
    pub fn of_this_machine(&self) -> Option<&'static str> {
        if self.role == SocketRole::Client {
            Some("a guest that listens")
        } else if self.qmp.is_some() {
            Some("qmp, a QEMU's monitor")
        } else if self.tap.is_some() {
            Some("a tap device")
        } else {
            (self.link_method == LinkMethod::Socket).then_some("a socket that goes")
        }
    }
}

/// Who listens on a VF's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketRole {
    /// We do; the VMM connects.
    #[default]
    Server,
    /// The VMM does (`server=on` on QEMU's chardev); we connect, for ever.
    Client,
    /// We do, for kernels of User-Mode Linux: to them a VF that is hardware is on a PCI bus of virtio, and not behind vfio-user.
    Uml,
}

/// `N=PATH`: the monitor of the QEMU on VF N, as `--qmp` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpOf {
    /// Which VF, of the first NIC.
    pub vf: u16,
    /// The monitor's socket.
    pub path: PathBuf,
}

impl FromStr for QmpOf {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<QmpOf, &'static str> {
        const FORM: &str = "the number of a VF and its QEMU's monitor, such as 0=/tmp/qmp0.sock";
        let (vf, path) = text.split_once('=').ok_or(FORM)?;
        let vf = vf.parse().map_err(|_| FORM)?;
        match path {
            "" => Err(FORM),
            path => Ok(QmpOf {
                vf,
                path: path.into(),
            }),
        }
    }
}

/// What is done to a VF with `state disable` besides dropping its frames both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkMethod {
    /// Nothing: its guest is told by a front end that takes its configuration from here, or by a QEMU whose monitor is known.
    #[default]
    Discard,
    /// Its socket goes, for as long as it is disabled: QEMU takes its guest's carrier then.
    Socket,
}

/// One `[[nic.vf]]` as a file has it: its socket, and the keys of `vfnic vf N set` with their values.
pub(super) struct VfSection {
    pub(super) index: u16,
    socket: Option<PathBuf>,
    socket_role: Option<SocketRole>,
    device: Option<DeviceKind>,
    qmp: Option<PathBuf>,
    link_method: Option<LinkMethod>,
    pub(super) tap: Option<String>,
    pub(super) netns: Option<String>,
    policy: Vec<VfSetting>,
    macs: Vec<String>,
    vlans: Vec<VlanWord>,
    rss: Option<String>,
    rss_contexts: Vec<String>,
    netem: Option<String>,
    netem_ingress: Option<String>,
}

/// A VLAN of a file: a number, or a range in quotes.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a VLAN such as 100, or VLANs such as \"100-119\""
)]
enum VlanWord {
    One(u16),
    Range(String),
}

impl fmt::Display for VlanWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VlanWord::One(vid) => vid.fmt(f),
            VlanWord::Range(vids) => f.write_str(vids),
        }
    }
}

impl VfSection {
    /// What it says beside settings, as words of commands, each with its key.
    pub(super) fn commands(&self) -> impl Iterator<Item = (&'static str, String)> {
        let vf = self.index;
        let macs = self
            .macs
            .iter()
            .map(move |mac| ("macs", format!("vf {vf} mac add {mac}")));
        let vlans = self.vlans.iter();
        let vlans = vlans.map(move |vids| ("vlans", format!("vf {vf} vlan add {vids}")));
        let rss = self
            .rss
            .iter()
            .map(move |rss| ("rss", format!("vf {vf} rss {rss}")));
        let contexts = self
            .rss_contexts
            .iter()
            .map(move |context| ("rss_contexts", format!("vf {vf} rss context new {context}")));
        let netem = |key, way, said: &Option<String>| {
            let said = said.as_ref();
            said.map(|said| (key, format!("vf {vf} set netem {way} {said}")))
        };
        let egress = netem("netem", "egress", &self.netem);
        let ingress = netem("netem_ingress", "ingress", &self.netem_ingress);
        let netem = egress.into_iter().chain(ingress);
        macs.chain(vlans).chain(rss).chain(contexts).chain(netem)
    }

    /// Puts what the file says in the place of what holds otherwise.
    pub(super) fn apply(self, settings: &mut VfSettings, socket_dir: &Path) {
        if let Some(socket) = self.socket {
            settings.socket = socket_dir.join(socket);
        }
        settings.role = self.socket_role.unwrap_or(settings.role);
        settings.device = self.device.unwrap_or(settings.device);
        settings.qmp = self.qmp.map(|qmp| socket_dir.join(qmp));
        settings.link_method = self.link_method.unwrap_or_default();
        let netns = self.netns;
        settings.tap = self.tap.map(|name| TapDevice { name, netns });
        settings.policy = self.policy;
    }
}

impl<'de> Deserialize<'de> for VfSection {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<VfSection, D::Error> {
        struct Section;

        impl<'de> Visitor<'de> for Section {
            type Value = VfSection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a [[nic.vf]]")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VfSection, A::Error> {
                let (mut index, mut socket, mut socket_role) = (None, None, None);
                let (mut device, mut qmp, mut link_method) = (None, None, None);
                let (mut tap, mut netns) = (None, None);
                let (mut macs, mut vlans, mut rss) = (Vec::new(), Vec::new(), None);
                let mut rss_contexts = Vec::new();
                let (mut netem, mut netem_ingress) = (None, None);
                let mut policy = vec![None; SETTING_KEYS.len()];
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Index => index = Some(map.next_value()?),
                        Key::Socket => socket = Some(map.next_value()?),
                        Key::SocketRole => socket_role = Some(map.next_value()?),
                        Key::Device => device = Some(map.next_value()?),
                        Key::Qmp => qmp = Some(map.next_value()?),
                        Key::LinkMethod => link_method = Some(map.next_value()?),
                        Key::Tap => tap = Some(map.next_value()?),
                        Key::Netns => netns = Some(map.next_value()?),
                        Key::Macs => macs = map.next_value()?,
                        Key::Vlans => vlans = map.next_value()?,
                        Key::Rss => rss = Some(map.next_value()?),
                        Key::RssContexts => rss_contexts = map.next_value()?,
                        Key::Netem => netem = Some(map.next_value()?),
                        Key::NetemIngress => netem_ingress = Some(map.next_value()?),
                        Key::Policy(n) => {
                            policy[n] = Some(map.next_value_seed(Value(&SETTING_KEYS[n]))?);
                        }
                    }
                }
                Ok(VfSection {
                    index: index.ok_or_else(|| A::Error::missing_field("index"))?,
                    socket,
                    socket_role,
                    device,
                    qmp,
                    link_method,
                    tap,
                    netns,
                    macs,
                    vlans,
                    rss,
                    rss_contexts,
                    netem,
                    netem_ingress,
                    // In the order in which they depend on each other, whatever that of the file.
                    policy: policy.into_iter().flatten().collect(),
                })
            }
        }

        from.deserialize_map(Section)
    }
}

/// A key of a `[[nic.vf]]`.
enum Key {
    Index,
    Socket,
    SocketRole,
    Device,
    Qmp,
    LinkMethod,
    Tap,
    Netns,
    Macs,
    Vlans,
    Rss,
    RssContexts,
    Netem,
    NetemIngress,
    /// Its place in [`SETTING_KEYS`].
    Policy(usize),
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Key, D::Error> {
        let word = String::deserialize(from)?;
        Ok(match word.as_str() {
            "index" => Key::Index,
            "socket" => Key::Socket,
            "socket_role" => Key::SocketRole,
            "device" => Key::Device,
            "qmp" => Key::Qmp,
            "link_method" => Key::LinkMethod,
            "tap" => Key::Tap,
            "netns" => Key::Netns,
            "macs" => Key::Macs,
            "vlans" => Key::Vlans,
            "rss" => Key::Rss,
            "rss_contexts" => Key::RssContexts,
            "netem" => Key::Netem,
            "netem_ingress" => Key::NetemIngress,
            _ => {
                let place = SETTING_KEYS.iter().position(|key| key.name == word);
                Key::Policy(place.ok_or_else(|| {
                    let known: Vec<_> = SETTING_KEYS.iter().map(|key| key.name).collect();
                    let meant = nearest(&word, known.iter().copied());
                    let meant = meant.map_or_else(String::new, |key| format!(" (did you mean `{key}`?)"));
                    let known = known.join(", ");
                    D::Error::custom(format!(
                        "unknown field `{word}`, expected one of index, socket, socket_role, device, qmp, link_method, tap, netns, macs, vlans, rss, rss_contexts, netem, netem_ingress, {known}{meant}"
                    ))
                })?)
            }
        })
    }
}

/// The value of a key, as TOML has it: numbers and booleans are not words there.
struct Value(&'static SettingKey);

impl<'de> DeserializeSeed<'de> for Value {
    type Value = VfSetting;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<VfSetting, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for Value {
    type Value = VfSetting;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.allowed)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<VfSetting, E> {
        self.0.parse(word).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<VfSetting, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<VfSetting, E> {
        self.visit_str(if on { "on" } else { "off" })
    }
}
