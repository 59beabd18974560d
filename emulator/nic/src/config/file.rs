//! The file as a whole: its sections, what the command line says over it, and where in it a mistake is. Opens nothing but the file.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use vf_model::{MacAddr, Profile, nearest};

use super::access::{SocketAccess, SocketMode};
use super::cpu::{CpuList, HypervisorCpu, MAX_THREADS, PollMode};
use super::device::DeviceKind;
use super::error::ConfigError;
use super::nic::{self, NicSection};
use super::place::{line_of, line_of_mistake};
use super::socket_dir::default_socket_dir;
use super::vf::QmpOf;
use super::wire::{self, WireSection};
use super::{Config, check_tap_is_free};
use crate::metrics::MetricsAddress;
use crate::thread::Polling;
use crate::uplink::UplinkSpec;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    socket_dir: Option<PathBuf>,
    ctl: Option<PathBuf>,
    observe: Option<PathBuf>,
    metrics: Option<MetricsAddress>,
    mode: Option<SocketMode>,
    group: Option<String>,
    ctl_group: Option<String>,
    #[serde(default)]
    hypervisor: HypervisorSection,
    #[serde(default)]
    poll: PollMode,
    threads: Option<u16>,
    #[serde(default)]
    cpus: CpuList,
    #[serde(default)]
    nic: Vec<Spanned<NicSection>>,
    #[serde(default)]
    wire: Vec<Spanned<WireSection>>,
}

/// The sections that say what there is, as a file has them.
pub struct Sections<'a> {
    /// The file.
    pub text: &'a str,
    /// `[hypervisor]`.
    pub hypervisor: HypervisorSection,
    /// `[[nic]]`.
    pub nic: Vec<Spanned<NicSection>>,
    /// `[[wire]]`.
    pub wire: Vec<Spanned<WireSection>>,
}

/// `[hypervisor]` as a file has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HypervisorSection {
    cpu: Option<HypervisorCpu>,
}

/// What the command line of `vfnic run` may say over the file or in its place.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Where sockets are made.
    pub socket_dir: Option<PathBuf>,
    /// The control socket.
    pub ctl: Option<PathBuf>,
    /// The socket of observers.
    pub observe: Option<PathBuf>,
    /// Where scrapes of metrics are answered.
    pub metrics: Option<MetricsAddress>,
    /// Who may connect to the sockets of VFs, of observers and of scrapers.
    pub access: SocketAccess,
    /// Who may connect to the control socket.
    pub ctl_group: Option<String>,
    /// Number of VFs of the first NIC.
    pub vfs: Option<u16>,
    /// Monitors of the first NIC's guests.
    pub qmp: Vec<QmpOf>,
    /// Workers of every NIC.
    pub workers: Option<u16>,
    /// MAC address of VF 0 of the first NIC.
    pub mac_base: Option<MacAddr>,
    /// This machine's id: addresses of VFs that nobody has chosen are made of it and the socket directory, so that no two NICs on a
    /// network have the same. Without one they are the same on every machine.
    pub machine: Option<String>,
    /// Queue pairs of every NIC.
    pub queue_pairs: Option<u16>,
    /// What a guest finds on each VF of which nothing else is said.
    pub device: Option<DeviceKind>,
    /// Which NIC every NIC is like.
    pub profile: Option<Profile>,
    /// How workers wait for work.
    pub poll: Option<PollMode>,
    /// Threads that all NICs' direct paths share.
    pub threads: Option<u16>,
    /// CPUs that these threads run on.
    pub cpus: Option<CpuList>,
}

impl Config {
    /// Reads and checks a file; with no file, one NIC with two VFs.
    ///
    /// # Errors
    /// [`ConfigError`], one line that says what to change.
    pub fn load(file: Option<&Path>, over: &Overrides) -> Result<Config, ConfigError> {
        let Some(path) = file else {
            return Config::from_toml(
                "[[nic]]\nname = \"nic0\"\n",
                Path::new("defaults"),
                over,
                true,
            );
        };
        let text = read_text(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Config::from_toml(&text, path, over, false)
    }

    /// Reads and checks the text of a file at `path`, with nothing said over it.
    ///
    /// # Errors
    /// [`ConfigError`], one line that says what to change.
    pub fn of_text(text: &str, path: &Path) -> Result<Config, ConfigError> {
        Config::from_toml(text, path, &Overrides::default(), false)
    }

    pub(super) fn from_toml(
        text: &str,
        path: &Path,
        over: &Overrides,
        plain_names: bool,
    ) -> Result<Config, ConfigError> {
        let mut file: File = toml::from_str(text).map_err(|e| ConfigError::Parse {
            path: path.to_owned(),
            what: one_line(text, &e),
        })?;
        if let Some(first) = file.nic.first_mut().map(Spanned::get_mut) {
            first.vfs = over.vfs.unwrap_or(first.vfs);
            first.mac_base = over.mac_base.or(first.mac_base);
        }
        for nic in file.nic.iter_mut().map(Spanned::get_mut) {
            nic.workers = over.workers.unwrap_or(nic.workers);
            nic.queue_pairs = over.queue_pairs.unwrap_or(nic.queue_pairs);
            nic.device = over.device.unwrap_or(nic.device);
            nic.profile = over.profile.unwrap_or(nic.profile);
        }
        let socket_dir = over
            .socket_dir
            .clone()
            .or(file.socket_dir)
            .unwrap_or_else(default_socket_dir);
        let socket_dir = absolute(socket_dir);
        if let Some(machine) = &over.machine {
            for (n, nic) in file.nic.iter_mut().enumerate() {
                let nic = nic.get_mut();
                nic.mac_base
                    .get_or_insert_with(|| nic::own_mac_base(machine, &socket_dir, n));
            }
        }
        let sections = Sections {
            text,
            hypervisor: file.hypervisor,
            nic: file.nic,
            wire: file.wire,
        };
        let threads = over.threads.or(file.threads).unwrap_or(1);
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(ConfigError::Threads(threads));
        }
        let mut config =
            Config::from_sections(sections, socket_dir, plain_names).map_err(|source| {
                match plain_names {
                    // There is no file.
                    true => source,
                    false => ConfigError::InFile {
                        path: path.to_owned(),
                        source: Box::new(source),
                    },
                }
            })?;
        for QmpOf { vf, path } in &over.qmp {
            if let Some(first) = config.nics.first_mut() {
                let (nic, last) = (first.name.clone(), first.vfs - 1);
                let (index, found) = (*vf, first.vf.get_mut(usize::from(*vf)));
                let vf = found.ok_or_else(|| ConfigError::Qmp {
                    nic,
                    vf: index,
                    path: path.clone(),
                    last,
                })?;
                vf.qmp = Some(absolute(path.clone()));
                let checked = vf.check_device(first.profile, first.offloads);
                checked.map_err(|why| ConfigError::Device {
                    nic: first.name.clone(),
                    index: index.into(),
                    why,
                })?;
            }
        }
        for nic in &mut config.nics {
            nic.uplink = nic.uplink.take().map(UplinkSpec::absolute);
        }
        let metrics = over.metrics.clone().or(file.metrics);
        let config = Config {
            ctl: over.ctl.clone().or(file.ctl).map(absolute),
            observe: over.observe.clone().or(file.observe).map(absolute),
            metrics: metrics.map(|address| match address {
                MetricsAddress::Unix(path) => MetricsAddress::Unix(absolute(path)),
                tcp => tcp,
            }),
            access: SocketAccess {
                mode: over.access.mode.or(file.mode),
                group: over.access.group.clone().or(file.group),
            },
            ctl_group: over.ctl_group.clone().or(file.ctl_group),
            poll: over.poll.unwrap_or(file.poll).into(),
            threads,
            cpus: over.cpus.clone().unwrap_or(file.cpus),
            ..config
        };
        let vfs = config.nics.iter().flat_map(|nic| &nic.vf);
        let mut of_vfs = vfs.map(|vf| &vf.socket);
        let ctl = config.ctl_socket();
        match of_vfs.any(|socket| *socket == ctl) {
            true => Err(ConfigError::Socket(ctl)),
            false => Ok(config),
        }
    }

    /// Checks sections and makes them complete; `plain_names` leaves the NIC's name out of its sockets' names.
    ///
    /// # Errors
    /// [`ConfigError`], one line that says what to change.
    pub fn from_sections(
        file: Sections<'_>,
        socket_dir: PathBuf,
        plain_names: bool,
    ) -> Result<Config, ConfigError> {
        if file.nic.is_empty() {
            return Err(ConfigError::NoNic);
        }
        let locate = |span: Range<usize>| {
            move |source: ConfigError| match plain_names {
                // There is no file.
                true => source,
                false => ConfigError::Section {
                    line: line_of_mistake(file.text, span.start, source.vf(), source.key()),
                    source: Box::new(source),
                },
            }
        };
        let mut names = BTreeSet::new();
        let mut sockets = BTreeSet::new();
        let mut nics = Vec::new();
        for (n, section) in file.nic.into_iter().enumerate() {
            let at = locate(section.span());
            let section = section.into_inner();
            let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            // What stands where a name may has to be one.
            let is_a_word = ["vf", "wire", "pf", "flow-type"].contains(&section.name.as_str());
            if section.name.is_empty()
                || section.name.starts_with('-')
                || is_a_word
                || !section.name.chars().all(good)
                || !names.insert(section.name.clone())
            {
                return Err(at(ConfigError::Name(section.name)));
            }
            let nic = nic::check(n, section, &socket_dir, plain_names).map_err(&at)?;
            for vf in &nic.vf {
                if !sockets.insert(vf.socket.clone()) {
                    return Err(at(ConfigError::Socket(vf.socket.clone())));
                }
            }
            nics.push(nic);
            // The last first, so that it is the second of two that is refused.
            let taps = nics[n].vf.iter().enumerate().rev();
            let taps = taps.filter_map(|(i, vf)| Some((i, vf.tap.as_ref()?)));
            for (index, tap) in taps {
                check_tap_is_free(&nics, tap, (n, index)).map_err(|why| {
                    at(ConfigError::Device {
                        nic: nics[n].name.clone(),
                        index,
                        why,
                    })
                })?;
            }
        }
        let mut used = BTreeSet::new();
        let wires = file.wire.into_iter().map(|section| {
            let at = locate(section.span());
            wire::check(section.into_inner(), &mut nics, &mut used).map_err(at)
        });
        let wires = wires.collect::<Result<_, _>>()?;
        Ok(Config {
            socket_dir,
            ctl: None,
            observe: None,
            metrics: None,
            access: SocketAccess::default(),
            ctl_group: None,
            hypervisor: file.hypervisor.cpu,
            poll: Polling::default(),
            threads: 1,
            cpus: CpuList::default(),
            nics,
            wires,
        })
    }
}

/// What a path means in the folder in which it is said: what is printed of it is pasted in others, and a process that goes on where this one is
/// may have been started in another.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// The text of a file, or of standard input if that is `-`, unless it is far longer than any configuration or scenario.
///
/// # Errors
/// Why it cannot be read.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    const LIMIT: u64 = 16 << 20;
    let mut text = String::new();
    let input: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(path)?),
    };
    let read = input.take(LIMIT).read_to_string(&mut text)?;
    if read as u64 == LIMIT {
        let what = "more than 16 MiB, which is far too much";
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

/// TOML's error without the source excerpt: its place and its reason on one line.
#[must_use]
pub fn one_line(text: &str, error: &toml::de::Error) -> String {
    let what = error.message().replace('\n', "; ");
    // TOML's name for one of several words.
    let what = what.replace("wanted string or table", "wanted a word in quotes");
    let meant = did_you_mean(&what).unwrap_or_default();
    match error.span() {
        Some(span) => {
            format!("line {}: {what}{meant}", line_of(text, span.start))
        }
        None => what + &meant,
    }
}

/// `did you mean`, where TOML says which keys there are and one of them is near to the one that it does not know.
fn did_you_mean(what: &str) -> Option<String> {
    let (word, known) = what.strip_prefix("unknown field `")?.split_once('`')?;
    // The words in ticks.
    let known = known.split('`').skip(1).step_by(2);
    nearest(word, known).map(|meant| format!(" (did you mean `{meant}`?)"))
}
