//! `[[nic]]`: one NIC with its VFs, as it is written and as it is once it has been checked. Opens nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use vf_model::duration::Duration;
use vf_model::{
    Command, Impairments, LinkConfig, LinkSetting, MacAddr, Mtu, Nanos, NetemSpec, NicConfig,
    Policy, Profile, Refusal, VfIndex, VfSetting,
};
use xxhash_rust::xxh3::xxh3_64;

use super::cpu::MAX_WORKERS;
use super::device::{DeviceKind, Offloads};
use super::error::ConfigError;
use super::policy::initial_policy;
use super::vf::{SocketRole, VfSection, VfSettings};
use super::wire::parse_rate;
use crate::plane::MAX_QUEUE_PAIRS;
use crate::uplink::{UplinkError, UplinkSpec};

/// One NIC.
#[derive(Clone, Debug)]
pub struct NicSettings {
    /// Its name on the command line and in file names.
    pub name: String,
    /// How many VFs it can have, and has at the start unless `switch` says otherwise.
    pub vfs: u16,
    /// Threads that the VFs' direct path is shared out to, on this machine's clock; the virtual clock has one.
    pub workers: u16,
    /// The MAC address of VF 0; VF i has this plus i.
    pub mac_base: MacAddr,
    /// Queue pairs offered to each guest.
    pub queue_pairs: u16,
    /// The MTU of the port and of VFs without one of their own. Without one, guests are told 1500, and frames are as long as the NIC
    /// can have them.
    pub mtu: Option<Mtu>,
    /// Whether its port is up at the start.
    pub link_up: bool,
    /// Whether its cable is out of it at the start.
    pub cable_out: bool,
    /// What the NIC does for guests.
    pub offloads: Offloads,
    /// What is plugged into its port, if that is no wire to another NIC.
    pub uplink: Option<UplinkSpec>,
    /// What becomes of the frames that pass its port.
    pub netem: Impairments,
    /// Which NIC it is like.
    pub profile: Profile,
    /// What frames from VF to VF take on the virtual clock. Without, they take no time.
    pub loopback: Option<LoopbackSettings>,
    /// How many VFs there are at the start, how its switch forwards, the stations behind the PF that it has been
    /// told of, and what is said of VFs beside their settings: commands that it takes.
    pub switch: Vec<Command>,
    /// The NIC's filters at the start.
    pub filters: Vec<Command>,
    /// One entry a VF, in order.
    pub vf: Vec<VfSettings>,
}

impl NicSettings {
    /// How many VFs it has at the start.
    #[must_use]
    pub fn num_vfs(&self) -> u16 {
        let set = self.switch.iter().rev().find_map(|command| match command {
            Command::SetLink(settings) => settings.iter().rev().find_map(|s| match s {
                LinkSetting::NumVfs(n) => Some(*n),
                _ => None,
            }),
            _ => None,
        });
        set.unwrap_or(self.vfs)
    }

    /// What frames from VF to VF take on the virtual clock, if they take time: what is not said is as the profile has it.
    #[must_use]
    pub fn loopback(&self) -> Option<LinkConfig> {
        let usual = self.profile.loopback();
        self.loopback.map(|said| LinkConfig {
            rate_bps: said.rate_bps.unwrap_or(usual.rate_bps),
            propagation: said.latency.unwrap_or(usual.propagation),
        })
    }

    /// The MTU that the driver of a VF is told at the start.
    #[must_use]
    pub fn told_mtu(&self, vf: VfIndex) -> Mtu {
        let settings = self.vf.get(vf.index()).map(|vf| &vf.policy[..]);
        let mut last = settings.unwrap_or_default().iter().rev();
        let own = last.find_map(|setting| match setting {
            VfSetting::Mtu(mtu) => Some(Mtu::new(*mtu).ok()),
            _ => None,
        });
        own.flatten().or(self.mtu).unwrap_or(Mtu::ETHERNET)
    }

    /// The MAC address that a VF starts with.
    #[must_use]
    pub fn vf_mac(&self, vf: VfIndex) -> MacAddr {
        let settings = self.vf.get(vf.index()).map(|vf| &vf.policy[..]);
        let mut last = settings.unwrap_or_default().iter().rev();
        let own = last.find_map(|setting| match setting {
            VfSetting::Mac(mac) => Some(*mac),
            _ => None,
        });
        let own = own.filter(|mac| *mac != MacAddr::default());
        own.unwrap_or_else(|| self.mac_base.offset(u32::from(vf.0)))
    }

    /// What a worker's thread is called, and its row in `vfnic show workers`.
    #[must_use]
    pub fn worker_name(&self, worker: usize) -> String {
        match self.workers {
            1 => format!("worker-{}", self.name),
            // In front, since names of threads are cut off.
            _ => format!("worker{worker}-{}", self.name),
        }
    }
}

/// What is said of the time that frames from VF to VF take, where the profile says something else.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopbackSettings {
    /// Bits a second.
    pub rate_bps: Option<u64>,
    /// From the read of a frame to its being in the receiver's memory.
    pub latency: Option<Nanos>,
}

impl LoopbackSettings {
    /// Whether anything is said.
    pub(crate) fn is_said(&self) -> bool {
        self.rate_bps.is_some() || self.latency.is_some()
    }
}

/// One `[[nic]]` as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicSection {
    pub(super) name: String,
    #[serde(default = "default_vfs")]
    pub(super) vfs: u16,
    #[serde(default = "default_workers")]
    pub(super) workers: u16,
    pub(super) mac_base: Option<MacAddr>,
    #[serde(default = "default_queue_pairs")]
    pub(super) queue_pairs: u16,
    pub(super) mtu: Option<u32>,
    storm_control: Option<u32>,
    #[serde(default)]
    link: PortLink,
    #[serde(default)]
    offloads: Offloads,
    #[serde(default)]
    socket_role: SocketRole,
    #[serde(default)]
    pub(super) device: DeviceKind,
    uplink: Option<UplinkSpec>,
    tap: Option<String>,
    netem: Option<NetemSpec>,
    netem_ingress: Option<NetemSpec>,
    flap: Option<String>,
    carrier: Option<bool>,
    #[serde(default)]
    pub(super) profile: Profile,
    numvfs: Option<u16>,
    loopback_rate: Option<String>,
    dma_latency: Option<Duration>,
    hwmode: Option<String>,
    #[serde(default)]
    fdb: Vec<String>,
    #[serde(default)]
    filters: Vec<String>,
    #[serde(default)]
    vf: Vec<VfSection>,
}

/// Whether a NIC's port is up at the start.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PortLink {
    #[default]
    Up,
    Down,
}

fn default_vfs() -> u16 {
    2
}

fn default_workers() -> u16 {
    1
}

/// Queue pairs offered unless told otherwise: what guests of a usual size ask for; a guest may use fewer.
#[must_use]
pub fn default_queue_pairs() -> u16 {
    8
}

/// The MAC address of VF 0 of the `n`th NIC, unless given: locally administered, one block of 256 a NIC.
fn default_mac_base(n: usize) -> MacAddr {
    let n = u8::try_from(n).unwrap_or(u8::MAX);
    MacAddr([0x02, 0x76, 0x66, 0, n, 0])
}

/// The same for a NIC of this machine with its sockets in this folder: others have others, and it has the same when it is started again.
pub(super) fn own_mac_base(machine: &str, socket_dir: &Path, n: usize) -> MacAddr {
    let folder = std::path::absolute(socket_dir).unwrap_or_else(|_| socket_dir.to_owned());
    let mut said = machine.trim().as_bytes().to_vec();
    // A NUL between the two: neither a machine's id nor a path has one.
    said.push(0);
    said.extend(folder.as_os_str().as_encoded_bytes());
    let [a, b, c, ..] = xxh3_64(&said).to_be_bytes();
    let n = u8::try_from(n).unwrap_or(u8::MAX);
    MacAddr([0x02, a, b, c, n, 0])
}

/// Checks the `n`th NIC of a file; `plain_names` leaves its name out of its sockets' names.
pub(super) fn check(
    n: usize,
    section: NicSection,
    socket_dir: &Path,
    plain_names: bool,
) -> Result<NicSettings, ConfigError> {
    let NicSection {
        name,
        vfs,
        workers,
        queue_pairs,
        profile,
        ..
    } = section;
    if !(1..=profile.max_vfs()).contains(&vfs) {
        let nic = name;
        return Err(ConfigError::VfCount { nic, vfs, profile });
    }
    if !(1..=MAX_WORKERS.min(vfs)).contains(&workers) {
        let nic = name;
        return Err(ConfigError::Workers { nic, workers, vfs });
    }
    if !(1..=MAX_QUEUE_PAIRS).contains(&queue_pairs) {
        return Err(ConfigError::QueuePairs {
            nic: name,
            pairs: queue_pairs,
        });
    }
    let mtu = match section.mtu.map(Mtu::new).transpose() {
        Ok(mtu) => mtu,
        Err(why) => return Err(ConfigError::Mtu { nic: name, why }),
    };
    let mac_base = section.mac_base.unwrap_or_else(|| default_mac_base(n));
    let low = u32::from_be_bytes([0, mac_base.0[3], mac_base.0[4], mac_base.0[5]]);
    if mac_base.is_multicast() || mac_base.0 == [0; 6] || low + u32::from(vfs) > 1 << 24 {
        return Err(ConfigError::MacBase {
            nic: name,
            mac: mac_base,
            vfs,
        });
    }
    let wrong = |why| ConfigError::Uplink {
        nic: name.clone(),
        why,
    };
    let uplink = match (section.uplink, section.tap) {
        (Some(_), Some(tap)) => {
            return Err(wrong(format!(
                "tap = \"{tap}\" is an uplink, too: a NIC has one"
            )));
        }
        (uplink, None) => uplink,
        (None, Some(tap)) => {
            let spec = format!("tap {tap}").parse();
            Some(spec.map_err(|e: UplinkError| wrong(e.to_string()))?)
        }
    };
    let rate = section.loopback_rate.as_deref().map(parse_rate);
    let loopback = LoopbackSettings {
        rate_bps: rate.transpose().map_err(|source| ConfigError::Value {
            nic: name.clone(),
            key: "loopback_rate",
            source: Box::new(source),
        })?,
        latency: section.dma_latency.map(|latency| latency.0),
    };
    let nic_config = NicConfig {
        vfs,
        mac_base,
        profile: section.profile,
    };
    // First of all, as it takes with it what has been said of VFs.
    let numvfs = section.numvfs.filter(|n| *n != vfs);
    let numvfs = numvfs.into_iter().flat_map(|n| [0, n]);
    let numvfs = numvfs.map(|n| ("numvfs", format!("link set numvfs {n}")));
    let hwmode = section.hwmode.iter();
    let hwmode = hwmode.map(|mode| ("hwmode", format!("link set hwmode {mode}")));
    let fdb = section.fdb.iter();
    let fdb = fdb.map(|entry| ("fdb", format!("fdb add {entry} self")));
    let flap = section.flap.iter();
    let flap = flap.map(|flap| ("flap", format!("link set flap {flap}")));
    let storm = section.storm_control.iter();
    let storm = storm.map(|pps| ("storm_control", format!("link set storm_control {pps}")));
    let of_nic = numvfs.chain(storm).chain(hwmode).chain(flap).chain(fdb);
    let of_nic = of_nic.map(|(key, words)| (None, key, words));
    let of_vfs = section.vf.iter().flat_map(|vf| {
        let commands = vf.commands();
        commands.map(|(key, words)| (Some(vf.index), key, words))
    });
    let said = of_nic.chain(of_vfs);
    let (switch, policy) = check_commands(&name, Policy::new(nic_config), said)?;
    let filters = check_filters(&name, policy, section.filters)?;
    let mut vf: Vec<VfSettings> = (0..vfs)
        .map(|i| {
            let socket = if plain_names {
                format!("vf{i}.sock")
            } else {
                format!("{name}-vf{i}.sock")
            };
            VfSettings {
                device: section.device,
                ..VfSettings::new(socket_dir.join(socket), section.socket_role)
            }
        })
        .collect();
    check_vfs(&name, section.vf, &mut vf, socket_dir)?;
    for (index, vf) in vf.iter().enumerate() {
        let checked = vf.check_device(profile, section.offloads);
        checked.map_err(|why| ConfigError::Device {
            nic: name.clone(),
            index,
            why,
        })?;
    }
    let settings = NicSettings {
        name,
        vfs,
        workers,
        mac_base,
        queue_pairs,
        mtu,
        link_up: section.link == PortLink::Up,
        cable_out: section.carrier == Some(false),
        offloads: section.offloads,
        uplink,
        netem: Impairments {
            egress: section.netem.map(Arc::new),
            ingress: section.netem_ingress.map(Arc::new),
        },
        profile: section.profile,
        loopback: Some(loopback),
        switch,
        filters,
        vf,
    };
    check_settings(&settings)?;
    Ok(settings)
}

/// Applies the sections of VFs to what holds for VFs of which nothing is said.
fn check_vfs(
    nic: &str,
    sections: Vec<VfSection>,
    vfs: &mut [VfSettings],
    socket_dir: &Path,
) -> Result<(), ConfigError> {
    let last = u16::try_from(vfs.len().saturating_sub(1)).unwrap_or(u16::MAX);
    let mut seen = BTreeSet::new();
    for section in sections {
        let index = section.index;
        let settings = vfs.get_mut(usize::from(index));
        let Some(settings) = settings.filter(|_| seen.insert(index)) else {
            let nic = nic.to_owned();
            return Err(ConfigError::VfIndex { nic, index, last });
        };
        let lonely = section.netns.as_ref().filter(|_| section.tap.is_none());
        let lonely = lonely
            .map(|netns| format!("netns = \"{netns}\" is where a tap is: say tap = \"eth0\", too"));
        section.apply(settings, socket_dir);
        let checked = match (lonely, &settings.tap) {
            (Some(why), _) => Err(why),
            (None, Some(tap)) => tap.check().and_then(|()| settings.check_tap()),
            (None, None) => Ok(()),
        };
        checked.map_err(|why| ConfigError::Device {
            nic: nic.to_owned(),
            index: index.into(),
            why,
        })?;
    }
    Ok(())
}

/// Whether the NIC takes what is said of its VFs at the start.
fn check_settings(nic: &NicSettings) -> Result<(), ConfigError> {
    let Err((vf, refusal)) = initial_policy(nic) else {
        return Ok(());
    };
    // The first setting that is too many; without any it is something else, of which others say what it is.
    let mut fewer = nic.clone();
    let said = nic.vf.get(vf.index()).map_or(&[][..], |vf| &vf.policy);
    let mut takes = |n: usize| {
        if let Some(vf) = fewer.vf.get_mut(vf.index()) {
            vf.policy = said.iter().take(n).copied().collect();
        }
        initial_policy(&fewer).is_ok()
    };
    if !takes(0) {
        return Ok(());
    }
    let mut wrong = said.iter().enumerate();
    let wrong = wrong.find(|(n, _)| !takes(n + 1));
    let key = wrong.map_or("", |(_, setting)| setting.words().0);
    Err(ConfigError::Setting {
        nic: nic.name.clone(),
        vf,
        key,
        refusal,
    })
}

/// What a NIC takes that is said of it in words of commands, each with the VF that it is about and the key of the file that says it, and what
/// that makes of it.
fn check_commands(
    name: &str,
    mut policy: Policy,
    said: impl Iterator<Item = (Option<u16>, &'static str, String)>,
) -> Result<(Vec<Command>, Policy), ConfigError> {
    let mut commands = Vec::new();
    for (vf, key, words) in said {
        let words: Vec<_> = words.split_whitespace().collect();
        let taken = Command::parse(&words).and_then(|command| {
            policy = policy.with(&command)?;
            commands.push(command);
            Ok(())
        });
        taken.map_err(|refusal: Refusal| ConfigError::Switch {
            nic: name.to_owned(),
            vf,
            key,
            refusal,
        })?;
    }
    Ok((commands, policy))
}

/// Filters that a NIC takes one after the other.
fn check_filters(
    name: &str,
    mut policy: Policy,
    filters: Vec<String>,
) -> Result<Vec<Command>, ConfigError> {
    let mut commands = Vec::new();
    for words in filters {
        let taken = Command::filter_add(&words).and_then(|command| {
            policy = policy.with(&command)?;
            Ok(command)
        });
        commands.push(taken.map_err(|refusal| ConfigError::Filter {
            nic: name.to_owned(),
            words,
            refusal,
        })?);
    }
    Ok(commands)
}
