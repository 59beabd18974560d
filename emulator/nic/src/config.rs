//! What a user can say about NICs, VFs, wires and the hypervisor: the TOML file, and the defaults without one.
//! Everything is checked here; later rooms get a [`Config`] that cannot be wrong. Opens nothing.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use vf_model::{
    Command, FilterSpec, LinkConfig, MacAddr, Mbps, Nanos, NicConfig, Path as VfPath, Policy,
    Profile, Refusal, VfLinkState, VlanProto,
};
use vf_vhost::features::VirtioFeatures;

use crate::thread::Polling;

/// Most VFs a NIC can have.
pub const MAX_VFS: u16 = 256;
/// Most workers a NIC can have.
pub const MAX_WORKERS: u16 = 16;
/// Most data-plane threads of the process.
pub const MAX_THREADS: u16 = 64;
/// CPUs that Linux can name in an affinity mask.
const MAX_CPUS: usize = 1024;
/// Most queue pairs a VF can have.
pub const MAX_QUEUE_PAIRS: u16 = 16;

/// A complete, checked description of what to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where sockets are made unless a VF names its own.
    pub socket_dir: PathBuf,
    /// The control socket, if it is not `ctl.sock` there.
    pub ctl: Option<PathBuf>,
    /// How the mediated path pays for its work.
    pub hypervisor: HypervisorCpu,
    /// How workers wait for work.
    pub poll: Polling,
    /// Threads that all NICs' direct paths share; a NIC with more workers has as many.
    pub threads: u16,
    /// CPUs that these threads run on, one each in turn; any if it is empty.
    pub cpus: CpuList,
    /// At least one.
    pub nics: Vec<NicSettings>,
    /// Wires between two of the NICs.
    pub wires: Vec<WireSettings>,
}

/// The word for how a thread waits for frames, a [`Polling`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PollMode {
    /// Look for work without end: the least latency, for a CPU of its own
    Always,
    /// Look for work while there is some and a little longer, then sleep
    #[default]
    Adaptive,
    /// Sleep as soon as there is no work
    Never,
}

impl From<PollMode> for Polling {
    fn from(mode: PollMode) -> Polling {
        match mode {
            PollMode::Always => Polling::Always,
            PollMode::Adaptive => Polling::Adaptive,
            PollMode::Never => Polling::Never,
        }
    }
}

/// CPUs in the notation of `taskset -c` and of sysfs: `1`, `0,2`, `4-7`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CpuList(Vec<usize>);

/// Text that is not a list of CPUs.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a list of CPUs, such as 1 or 0,2 or 4-7")]
pub struct CpuListError(String);

impl CpuList {
    /// How many CPUs it names, if it names any.
    #[must_use]
    pub fn count(&self) -> Option<usize> {
        Some(self.0.len()).filter(|n| *n > 0)
    }

    /// The CPU of the `n`th thread.
    #[must_use]
    pub fn nth(&self, n: usize) -> Option<usize> {
        self.0.get(n % self.0.len().max(1)).copied()
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;
    fn from_str(text: &str) -> Result<CpuList, CpuListError> {
        let wrong = || CpuListError(text.to_owned());
        let number = |text: &str| {
            text.trim()
                .parse()
                .ok()
                .filter(|cpu: &usize| *cpu < MAX_CPUS)
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
            if first > last {
                return Err(wrong());
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        cpus.dedup();
        Ok(CpuList(cpus))
    }
}

impl TryFrom<String> for CpuList {
    type Error = CpuListError;
    fn try_from(text: String) -> Result<CpuList, CpuListError> {
        text.parse()
    }
}

/// Whether the hypervisor's CPU is this machine's or the model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HypervisorCpu {
    /// Real copies on this machine, as fast as they go.
    #[default]
    Measured,
    /// The same copies, and besides the CPU time of the calibrated cost model is charged.
    Model,
}

/// One NIC.
#[derive(Clone, Debug)]
pub struct NicSettings {
    /// Its name on the command line and in file names.
    pub name: String,
    /// How many VFs it has.
    pub vfs: u16,
    /// Threads that the VFs' direct path is shared out to, on this machine's clock; the virtual clock has one.
    pub workers: u16,
    /// The MAC address of VF 0; VF i has this plus i.
    pub mac_base: MacAddr,
    /// Queue pairs offered to each guest.
    pub queue_pairs: u16,
    /// The MTU told to guests.
    pub mtu: u16,
    /// What the NIC does for guests.
    pub offloads: Offloads,
    /// A tap device of the host as the uplink.
    pub tap: Option<String>,
    /// Which NIC it is like.
    pub profile: Profile,
    /// The NIC's filters at the start.
    pub filters: Vec<FilterSpec>,
    /// One entry a VF, in order.
    pub vf: Vec<VfSettings>,
}

impl NicSettings {
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

/// What guests may leave to the NIC, each more than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Offloads {
    /// Nothing
    None,
    /// TCP and UDP checksums
    Csum,
    /// Checksums, and cutting TCP streams into segments
    #[default]
    Tso,
}

impl Offloads {
    /// The virtio features that are not offered.
    #[must_use]
    pub fn withheld(self) -> VirtioFeatures {
        match self {
            Offloads::None => VirtioFeatures::CHECKSUM | VirtioFeatures::SEGMENTATION,
            Offloads::Csum => VirtioFeatures::SEGMENTATION,
            Offloads::Tso => VirtioFeatures::empty(),
        }
    }
}

/// One VF.
#[derive(Clone, Debug)]
pub struct VfSettings {
    /// Its socket.
    pub socket: PathBuf,
    /// Who listens on it.
    pub role: SocketRole,
    /// What is applied at the start, in the words of `vfnic vf N set`.
    pub policy: PolicySettings,
}

/// Who listens on a VF's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketRole {
    /// We do; the VMM connects.
    #[default]
    Server,
    /// The VMM does (`server=on` on QEMU's chardev); we connect, for ever.
    Client,
}

/// Settings of a VF that are applied before it first runs.
#[derive(Clone, Debug, Default)]
pub struct PolicySettings {
    /// The administrator's MAC address.
    pub mac: Option<MacAddr>,
    /// Port VLAN, 1 to 4094.
    pub vlan: Option<u16>,
    /// Priority bits of the port VLAN's tag.
    pub qos: Option<u8>,
    /// Kind of the port VLAN's tag.
    pub proto: Option<VlanProto>,
    /// Whether frames with a foreign source MAC are dropped.
    pub spoofchk: Option<bool>,
    /// Whether the guest is trusted.
    pub trust: Option<bool>,
    /// Link state.
    pub state: Option<VfLinkState>,
    /// Limit on what the guest sends.
    pub max_tx_rate: Option<Mbps>,
    /// Which path its traffic takes.
    pub path: Option<VfPath>,
}

/// A wire between two NICs.
#[derive(Clone, Debug)]
pub struct WireSettings {
    /// Indices into [`Config::nics`].
    pub between: [usize; 2],
    /// Rate and propagation delay.
    pub link: LinkConfig,
}

/// Why a configuration cannot be used. Each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or says something unknown.
    #[error("{path}: {what}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// One line: where and what.
        what: String,
    },
    /// A number of VFs out of range.
    #[error("{nic}: vfs = {vfs}: a NIC has 1 to {MAX_VFS} VFs")]
    VfCount {
        /// The NIC.
        nic: String,
        /// What was asked for.
        vfs: u16,
    },
    /// A number of threads out of range.
    #[error("threads = {0}: there are 1 to {MAX_THREADS}")]
    Threads(u16),
    /// A number of workers out of range.
    #[error(
        "{nic}: workers = {workers}: a NIC has 1 to {MAX_WORKERS} workers, and no more than VFs, of which it has {vfs}"
    )]
    Workers {
        /// The NIC.
        nic: String,
        /// What was asked for.
        workers: u16,
        /// How many VFs it has.
        vfs: u16,
    },
    /// A number of queue pairs out of range.
    #[error("{nic}: queue_pairs = {pairs}: a VF has 1 to {MAX_QUEUE_PAIRS} queue pairs")]
    QueuePairs {
        /// The NIC.
        nic: String,
        /// What was asked for.
        pairs: u16,
    },
    /// An MTU out of range.
    #[error("{nic}: mtu = {mtu}: the MTU is 68 to 9216 bytes")]
    Mtu {
        /// The NIC.
        nic: String,
        /// What was asked for.
        mtu: u16,
    },
    /// A multicast or zero base address, or one that runs over for the last VF.
    #[error(
        "{nic}: mac_base = {mac}: needs to be a unicast address with room for {vfs} VFs in its last three bytes"
    )]
    MacBase {
        /// The NIC.
        nic: String,
        /// What was asked for.
        mac: MacAddr,
        /// How many VFs.
        vfs: u16,
    },
    /// A name that cannot be part of a file name or is used twice.
    #[error("nic name '{0}': names are letters, digits, '-' and '_', and differ from each other")]
    Name(String),
    /// No NIC at all.
    #[error("the file names no [[nic]]")]
    NoNic,
    /// A `[[nic.vf]]` without such a VF.
    #[error("{nic}: [[nic.vf]] index = {index}: the VFs are 0 to {last}, each at most once")]
    VfIndex {
        /// The NIC.
        nic: String,
        /// What was named.
        index: u16,
        /// The last one there is.
        last: u16,
    },
    /// A filter that is none, or that the NIC does not take.
    #[error("{nic}: filters, '{words}': {refusal}")]
    Filter {
        /// The NIC.
        nic: String,
        /// What was said.
        words: String,
        /// What is wrong with it.
        refusal: Refusal,
    },
    /// A wire to nowhere.
    #[error("[[wire]] between = [\"{a}\", \"{b}\"]: {why}")]
    Wire {
        /// One end.
        a: String,
        /// The other.
        b: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A rate that cannot be read.
    #[error("rate '{0}': a number of bits a second with K, M or G, such as 10G, 1M to 10000G")]
    Rate(String),
    /// Two VFs on one socket.
    #[error("socket {0} is used twice")]
    Socket(PathBuf),
    /// What is wrong with a section of the file.
    #[error("line {line}: {source}")]
    Section {
        /// Where the section begins.
        line: usize,
        /// What is wrong.
        source: Box<ConfigError>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    socket_dir: Option<PathBuf>,
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
    #[serde(default)]
    cpu: HypervisorCpu,
}

/// One `[[nic]]` as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicSection {
    name: String,
    #[serde(default = "default_vfs")]
    vfs: u16,
    #[serde(default = "default_workers")]
    workers: u16,
    mac_base: Option<MacAddr>,
    #[serde(default = "default_queue_pairs")]
    queue_pairs: u16,
    #[serde(default = "default_mtu")]
    mtu: u16,
    #[serde(default)]
    offloads: Offloads,
    #[serde(default)]
    socket_role: SocketRole,
    tap: Option<String>,
    #[serde(default)]
    profile: Profile,
    #[serde(default)]
    filters: Vec<String>,
    #[serde(default)]
    vf: Vec<VfSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VfSection {
    index: u16,
    socket: Option<PathBuf>,
    socket_role: Option<SocketRole>,
    mac: Option<MacAddr>,
    vlan: Option<u16>,
    qos: Option<u8>,
    proto: Option<VlanProto>,
    spoofchk: Option<bool>,
    trust: Option<bool>,
    state: Option<VfLinkState>,
    max_tx_rate: Option<Mbps>,
    path: Option<VfPath>,
}

/// One `[[wire]]` as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireSection {
    between: [String; 2],
    rate: Option<String>,
    propagation_ns: Option<u64>,
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

fn default_mtu() -> u16 {
    1500
}

/// The MAC address of VF 0 of the `n`th NIC, unless given: locally administered, one block of 256 a NIC.
fn default_mac_base(n: usize) -> MacAddr {
    let n = u8::try_from(n).unwrap_or(u8::MAX);
    MacAddr([0x02, 0x76, 0x66, 0, n, 0])
}

/// `$XDG_RUNTIME_DIR/vfnic`, else `/run/vfnic` for root and `/tmp/vfnic-UID` for others.
#[must_use]
pub fn default_socket_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => Path::new(&dir).join("vfnic"),
        _ if rustix::process::geteuid().is_root() => PathBuf::from("/run/vfnic"),
        _ => temporary_socket_dir(),
    }
}

/// Where sockets are made if there is no runtime directory. Others can make folders there, too.
#[must_use]
pub fn temporary_socket_dir() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    PathBuf::from(format!("/tmp/vfnic-{user}"))
}

/// What the command line of `vfnic run` may say over the file or in its place.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// Where sockets are made.
    pub socket_dir: Option<PathBuf>,
    /// The control socket.
    pub ctl: Option<PathBuf>,
    /// Number of VFs of the first NIC.
    pub vfs: Option<u16>,
    /// Workers of every NIC.
    pub workers: Option<u16>,
    /// MAC address of VF 0 of the first NIC.
    pub mac_base: Option<MacAddr>,
    /// Queue pairs of every NIC.
    pub queue_pairs: Option<u16>,
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

    fn from_toml(
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
            nic.profile = over.profile.unwrap_or(nic.profile);
        }
        let socket_dir = over
            .socket_dir
            .clone()
            .or(file.socket_dir)
            .unwrap_or_else(default_socket_dir);
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
        Ok(Config {
            ctl: over.ctl.clone(),
            poll: over.poll.unwrap_or(file.poll).into(),
            threads,
            cpus: over.cpus.clone().unwrap_or(file.cpus),
            ..Config::from_sections(sections, socket_dir, plain_names)?
        })
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
            let line = line_of(file.text, span.start);
            move |source| match plain_names {
                // There is no file.
                true => source,
                false => ConfigError::Section {
                    line,
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
            if section.name.is_empty()
                || !section.name.chars().all(good)
                || !names.insert(section.name.clone())
            {
                return Err(at(ConfigError::Name(section.name)));
            }
            let nic = check_nic(n, section, &socket_dir, plain_names).map_err(&at)?;
            for vf in &nic.vf {
                if !sockets.insert(vf.socket.clone()) {
                    return Err(at(ConfigError::Socket(vf.socket.clone())));
                }
            }
            nics.push(nic);
        }
        let mut used = BTreeSet::new();
        let wires = file.wire.into_iter().map(|section| {
            let at = locate(section.span());
            check_wire(section.into_inner(), &nics, &mut used).map_err(at)
        });
        let wires = wires.collect::<Result<_, _>>()?;
        Ok(Config {
            socket_dir,
            ctl: None,
            hypervisor: file.hypervisor.cpu,
            poll: Polling::default(),
            threads: 1,
            cpus: CpuList::default(),
            nics,
            wires,
        })
    }

    /// The control socket.
    #[must_use]
    pub fn ctl_socket(&self) -> PathBuf {
        let default = || self.socket_dir.join("ctl.sock");
        self.ctl.clone().unwrap_or_else(default)
    }
}

/// The text of a file, unless it is far longer than any configuration.
fn read_text(path: &Path) -> std::io::Result<String> {
    const LIMIT: u64 = 16 << 20;
    let mut text = String::new();
    let read = std::fs::File::open(path)?
        .take(LIMIT)
        .read_to_string(&mut text)?;
    if read as u64 == LIMIT {
        let what = "more than 16 MiB, which is no configuration";
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
    match error.span() {
        Some(span) => {
            format!("line {}: {what}", line_of(text, span.start))
        }
        None => what,
    }
}

/// The line of the byte at `at`, counted from 1.
#[must_use]
pub fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

fn check_nic(
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
        mtu,
        ..
    } = section;
    if !(1..=MAX_VFS).contains(&vfs) {
        return Err(ConfigError::VfCount { nic: name, vfs });
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
    if !(68..=9216).contains(&mtu) {
        return Err(ConfigError::Mtu { nic: name, mtu });
    }
    let mac_base = section.mac_base.unwrap_or_else(|| default_mac_base(n));
    let low = u32::from_be_bytes([0, mac_base.0[3], mac_base.0[4], mac_base.0[5]]);
    if mac_base.is_multicast() || mac_base.0 == [0; 6] || low + u32::from(vfs) > 1 << 24 {
        return Err(ConfigError::MacBase {
            nic: name,
            mac: mac_base,
            vfs,
        });
    }
    let nic_config = NicConfig {
        vfs,
        mac_base,
        profile: section.profile,
    };
    let filters = check_filters(&name, nic_config, section.filters)?;
    let mut vf: Vec<VfSettings> = (0..vfs)
        .map(|i| VfSettings {
            socket: socket_dir.join(if plain_names {
                format!("vf{i}.sock")
            } else {
                format!("{name}-vf{i}.sock")
            }),
            role: section.socket_role,
            policy: PolicySettings::default(),
        })
        .collect();
    let mut seen = BTreeSet::new();
    for s in section.vf {
        let Some(settings) = vf.get_mut(usize::from(s.index)) else {
            return Err(ConfigError::VfIndex {
                nic: name,
                index: s.index,
                last: vfs - 1,
            });
        };
        if !seen.insert(s.index) {
            return Err(ConfigError::VfIndex {
                nic: name,
                index: s.index,
                last: vfs - 1,
            });
        }
        if let Some(socket) = s.socket {
            settings.socket = socket_dir.join(socket);
        }
        settings.role = s.socket_role.unwrap_or(settings.role);
        settings.policy = PolicySettings {
            mac: s.mac,
            vlan: s.vlan,
            qos: s.qos,
            proto: s.proto,
            spoofchk: s.spoofchk,
            trust: s.trust,
            state: s.state,
            max_tx_rate: s.max_tx_rate,
            path: s.path,
        };
    }
    Ok(NicSettings {
        name,
        vfs,
        workers,
        mac_base,
        queue_pairs,
        mtu,
        offloads: section.offloads,
        tap: section.tap,
        profile: section.profile,
        filters,
        vf,
    })
}

/// Filters that a NIC takes one after the other.
fn check_filters(
    name: &str,
    config: NicConfig,
    filters: Vec<String>,
) -> Result<Vec<FilterSpec>, ConfigError> {
    let mut policy = Policy::new(config);
    let mut specs = Vec::new();
    for words in filters {
        let taken = words.parse().and_then(|spec| {
            policy = policy.with(&Command::FilterInsert(spec))?;
            Ok(spec)
        });
        specs.push(taken.map_err(|refusal| ConfigError::Filter {
            nic: name.to_owned(),
            words,
            refusal,
        })?);
    }
    Ok(specs)
}

/// `used` are the NICs that have a wire already.
fn check_wire(
    section: WireSection,
    nics: &[NicSettings],
    used: &mut BTreeSet<usize>,
) -> Result<WireSettings, ConfigError> {
    let [a, b] = section.between;
    let wrong = |why| ConfigError::Wire {
        a: a.clone(),
        b: b.clone(),
        why,
    };
    let find = |name: &str| nics.iter().position(|n| n.name == name);
    let (Some(i), Some(j)) = (find(&a), find(&b)) else {
        return Err(wrong("there is no NIC of that name"));
    };
    if i == j {
        return Err(wrong("a wire has two different ends"));
    }
    if !used.insert(i) || !used.insert(j) {
        return Err(wrong("a NIC has one port, so one wire"));
    }
    if nics[i].tap.is_some() || nics[j].tap.is_some() {
        return Err(wrong("a NIC has one port: a wire or a tap, not both"));
    }
    let mut link = LinkConfig::default();
    if let Some(rate) = &section.rate {
        link.rate_bps = parse_rate(rate)?;
    }
    if let Some(ns) = section.propagation_ns {
        link.propagation = Nanos(ns);
    }
    Ok(WireSettings {
        between: [i, j],
        link,
    })
}

/// Bits a second from `10G`, `2.5G`, `100M`, `1000000000`.
///
/// # Errors
/// [`ConfigError::Rate`] for anything else, and for rates under 1 Mb/s or over 10 Tb/s.
pub fn parse_rate(text: &str) -> Result<u64, ConfigError> {
    let wrong = || ConfigError::Rate(text.to_owned());
    let trimmed = text
        .trim()
        .trim_end_matches("bit/s")
        .trim_end_matches("bit");
    let (digits, unit) = match trimmed.char_indices().last() {
        Some((at, 'k' | 'K')) => (&trimmed[..at], 1e3),
        Some((at, 'm' | 'M')) => (&trimmed[..at], 1e6),
        Some((at, 'g' | 'G')) => (&trimmed[..at], 1e9),
        _ => (trimmed, 1.0),
    };
    let value: f64 = digits.trim().parse().map_err(|_| wrong())?;
    let bps = value * unit;
    if !(1e6..=1e13).contains(&bps) {
        return Err(wrong());
    }
    // In range, so the conversion is exact enough and cannot overflow.
    Ok(bps.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        Config::from_toml(text, Path::new("test.toml"), &Overrides::default(), false)
    }

    #[test]
    fn cpus_are_lists_as_taskset_takes_them() {
        let nth = |text: &str| {
            let list: CpuList = text.parse().unwrap();
            (0..4).map(|n| list.nth(n).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(nth("1"), [1, 1, 1, 1]);
        assert_eq!(nth("4-6,0"), [0, 4, 5, 6]);
        assert_eq!(nth("2,2,3"), [2, 3, 2, 3]);
        assert_eq!(CpuList::default().nth(0), None);
        assert_eq!(CpuList::default().count(), None);
        for wrong in ["", "a", "1-", "3-1", "1,,2", "-1", "99999"] {
            let error = wrong.parse::<CpuList>().unwrap_err().to_string();
            assert!(error.contains("such as 1 or 0,2 or 4-7"), "{error}");
        }
    }

    #[test]
    fn without_a_file_there_is_one_nic_with_two_vfs() {
        let over = Overrides {
            socket_dir: Some("/s".into()),
            ..Overrides::default()
        };
        let config = Config::load(None, &over).unwrap();
        assert_eq!(config.nics.len(), 1);
        let sockets: Vec<_> = config.nics[0].vf.iter().map(|v| v.socket.clone()).collect();
        assert_eq!(
            sockets,
            [Path::new("/s/vf0.sock"), Path::new("/s/vf1.sock")]
        );
        assert_eq!(config.ctl_socket(), Path::new("/s/ctl.sock"));
    }

    #[test]
    fn two_nics_back_to_back() {
        let config = load(
            "[[nic]]\nname='a'\nvfs=3\nmac_base='02:00:00:00:0a:00'\n[[nic.vf]]\nindex=1\npath='mediated'\nvlan=7\n\
             [[nic]]\nname='b'\n[[wire]]\nbetween=['a','b']\nrate='2.5G'\npropagation_ns=100\n",
        )
        .unwrap();
        assert_eq!(config.nics[0].vf[1].policy.vlan, Some(7));
        assert_eq!(config.nics[0].vf[1].policy.path, Some(VfPath::Mediated));
        assert_eq!(config.wires[0].link.rate_bps, 2_500_000_000);
        assert!(config.nics[1].vf[0].socket.ends_with("b-vf0.sock"));
    }

    #[test]
    fn mistakes_are_refused_in_one_line() {
        for (text, says) in [
            ("", "no [[nic]]"),
            ("[[nic]]\nname='a'\nvfs=0", "1 to 256"),
            ("[[nic]]\nname='a'\nvfss=1", "vfss"),
            ("[[nic]]\nname='a/b'", "letters"),
            ("[[nic]]\nname='a'\n[[nic]]\nname='a'", "differ"),
            ("[[nic]]\nname='a'\nmac_base='01:00:00:00:00:00'", "unicast"),
            ("[[nic]]\nname='a'\n[[nic.vf]]\nindex=2", "0 to 1"),
            ("[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\nvlna=3", "vlna"),
            ("[[nic]]\nname='a'\n[[wire]]\nbetween=['a','x']", "no NIC"),
            (
                "[[nic]]\nname='a'\n[[nic]]\nname='b'\n[[wire]]\nbetween=['a','b']\nrate='fast'",
                "10G",
            ),
            ("[[nic]]\nname='a'\nmtu=20", "68"),
            ("[[nic]]\nname='a'\nworkers=0", "1 to 16 workers"),
            ("[[nic]]\nname='a'\nvfs=64\nworkers=17", "1 to 16 workers"),
            ("[[nic]]\nname='a'\nworkers=3", "of which it has 2"),
            (
                "[[nic]]\nname='a'\nfilters=['flow-type ether']",
                "a: filters, 'flow-type ether': filter:",
            ),
            ("[[nic]]\nname='a'\nprofile='82599'", "ixgbe"),
            (
                "[[nic]]\nname='a'\nprofile='falcon'\nfilters=['flow-type ether proto 2048 vf 1']",
                "profile falcon holds 0",
            ),
            (
                "[[nic]]\nname='a'\nfilters=['flow-type ether proto 2048 vf 2']",
                "0 to 1",
            ),
            ("[[nic]\nname='a'", "line 1"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?} gave {error:?}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!(parse_rate("10G").unwrap(), 10_000_000_000);
        assert_eq!(parse_rate("100Mbit").unwrap(), 100_000_000);
        assert_eq!(parse_rate("1000000").unwrap(), 1_000_000);
        for bad in ["", "G", "-1G", "10", "1T", "nan", "inf"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
