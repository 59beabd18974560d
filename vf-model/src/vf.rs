//! A virtual function's policy, and the keys that it is set with. Never judges a frame.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use vf_packet::{AddrError, MacAddr, Vid, VlanProto, VlanTag};

use crate::learned::AutoLimits;
use crate::mtu::{Mtu, MtuError};
use crate::privilege::{PRIVILEGE_VALUES, PrivilegeChange, Privileges};
pub use crate::vf_set::{MAX_VFS, VfIndex, VfRange, VfSet};
use crate::words::{ParseError, number};

/// Which way a VF's frames take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// The guest's rings are served by the NIC itself.
    #[default]
    Direct,
    /// The hypervisor copies every frame between the guest's rings and the PF.
    Mediated,
    /// The guest's rings are served by the NIC, flow by flow on the fast path: learned flows go straight through it, and all
    /// else by way of the hypervisor.
    Auto,
}

/// What a VF's link follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VfLinkState {
    /// Up while the NIC's own link is up.
    #[default]
    Auto,
    /// Always up: VFs reach each other without the NIC's link.
    Enable,
    /// Always down.
    Disable,
}

/// A rate in 10^6 bit/s of wire time, framing included; 0 is no limit where a limit is set.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Mbps(pub u32);

impl Mbps {
    /// In bit/s.
    #[must_use]
    pub fn bps(self) -> u64 {
        u64::from(self.0) * 1_000_000
    }
}

/// How many frames a second of a VF are flooded to others of its host, broadcasts and those to groups, but for groups that one of them
/// alone has listed; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FloodRate(pub u32);

impl FloodRate {
    /// Far more than guests have to say to everybody, and so few that one whose CPU is away for some milliseconds has buffers for them.
    pub const DEFAULT: FloodRate = FloodRate(10_000);

    /// The limit, if there is one.
    #[must_use]
    pub fn limit(self) -> Option<u32> {
        (self.0 > 0).then_some(self.0)
    }
}

/// What a limit of them is said in.
pub(crate) const FLOOD_RATES: &str = "frames a second, 0 for no limit";

/// The VLAN a VF is in without knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PortVlan {
    /// VLAN id.
    pub vid: Vid,
    /// Priority put into the tag, 0 to 7.
    pub qos: u8,
    /// Kind of tag.
    pub proto: VlanProto,
}

impl PortVlan {
    /// The tag that the VF's frames get.
    #[must_use]
    pub fn tag(&self) -> VlanTag {
        VlanTag {
            tpid: self.proto.tpid(),
            tci: u16::from(self.qos & 7) << 13 | self.vid.get(),
        }
    }
}

/// What the administrator has said about a VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VfPolicy {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Whether the administrator has set that; else the driver may take another.
    #[serde(skip)]
    pub mac_set: bool,
    /// The address that it has while the administrator has set none.
    #[serde(skip)]
    pub permanent_mac: MacAddr,
    /// The VLAN it is kept in, tags added and removed on its behalf.
    pub port_vlan: Option<PortVlan>,
    /// Whether frames with a source MAC other than its own are dropped.
    pub spoofchk: bool,
    /// Whether its driver may have more filters than [`crate::MAX_UNTRUSTED_FILTERS`], take any address, and receive what is
    /// not for it.
    pub trust: bool,
    /// What its driver may do, on a NIC that asks for that; [`Privileges::MAC_SPOOFING_TX`] is never in it, as that is `spoofchk`.
    #[serde(skip)]
    privileges: Privileges,
    /// What its link follows.
    pub state: VfLinkState,
    /// Limit on what it sends.
    pub max_tx_rate: Option<Mbps>,
    /// What of the port's rate it has at least while it has frames to send.
    pub min_tx_rate: Option<Mbps>,
    /// How many of its frames are flooded.
    pub storm_control: FloodRate,
    /// Whether its driver may read how its frames are spread over its queues, and the key of that.
    pub query_rss: bool,
    /// Its MTU, if that is not the NIC's.
    pub mtu: Option<Mtu>,
    /// Which way its frames take.
    pub path: Path,
    /// Whether it is no VF but a station on the hypervisor's bridge on the PF; its path is mediated then.
    pub bridge: bool,
    /// The VF to which all that it sends and receives is copied.
    pub mirror: Option<VfIndex>,
    /// What it may have of the NIC on path `auto`.
    #[serde(skip)]
    pub limits: AutoLimits,
}

impl VfPolicy {
    /// The policy of a VF nobody has configured: direct, spoof check on, no VLAN, no limit, link as the NIC's.
    #[must_use]
    pub fn new(mac: MacAddr) -> VfPolicy {
        VfPolicy {
            mac,
            mac_set: false,
            permanent_mac: mac,
            port_vlan: None,
            spoofchk: true,
            trust: false,
            privileges: Privileges::default(),
            state: VfLinkState::Auto,
            max_tx_rate: None,
            min_tx_rate: None,
            storm_control: FloodRate::DEFAULT,
            query_rss: false,
            mtu: None,
            path: Path::Direct,
            bridge: false,
            mirror: None,
            limits: AutoLimits::default(),
        }
    }
}

/// One change to a VF's policy, in the words of `ip link set DEV vf N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VfSetting {
    /// `mac ADDR`; zero takes back what was set before (libvirt and sriov-cni do that when they release a VF).
    Mac(MacAddr),
    /// `vlan VID`; 0 takes the VF out of its port VLAN. Priority 0 and 802.1Q unless `qos` and `proto` follow.
    Vlan(u16),
    /// `qos PRIO`: priority of the port VLAN's tag, 0 to 7.
    Qos(u8),
    /// `proto 802.1Q|802.1ad`: kind of the port VLAN's tag.
    Proto(VlanProto),
    /// `spoofchk on|off`.
    Spoofchk(bool),
    /// `trust on|off`.
    Trust(bool),
    /// `privilege +X,-Y`.
    Privilege(PrivilegeChange),
    /// `state auto|enable|disable`.
    State(VfLinkState),
    /// `max_tx_rate MBPS`; 0 is no limit.
    MaxTxRate(Mbps),
    /// `min_tx_rate MBPS`; 0 promises nothing.
    MinTxRate(Mbps),
    /// `storm_control PPS`; 0 is no limit.
    StormControl(FloodRate),
    /// `query_rss on|off`.
    QueryRss(bool),
    /// `mtu BYTES`; 0 is the NIC's.
    Mtu(u32),
    /// `path direct|mediated|auto`.
    Path(Path),
    /// `bridge on|off`.
    Bridge(bool),
    /// `mirror N|none`.
    Mirror(Option<u8>),
    /// `max_filters N`: learned filters on path `auto`.
    MaxFilters(u16),
    /// `max_mcasts N`: groups on the fast path.
    MaxMcasts(u16),
    /// `max_buf_pages N`: buffer pages of 4 KiB.
    MaxBufPages(u16),
}

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// A word that is no value of its key.
    #[error(transparent)]
    Words(Box<ParseError>),
    /// An address or a VLAN that no VF can have.
    #[error(transparent)]
    Addr(#[from] AddrError),
    /// A priority out of range.
    #[error("qos {0}: priorities are 0 to 7")]
    Qos(u8),
    /// A number of bytes that is no MTU.
    #[error(transparent)]
    Mtu(#[from] MtuError),
    /// A property of the port VLAN of a VF that has none.
    #[error("qos and proto belong to a port VLAN: set vlan first")]
    NoPortVlan,
    /// The direct path for a station on the hypervisor's bridge.
    #[error(
        "path: it is a station on the hypervisor's bridge, which is mediated: set bridge off first"
    )]
    OnBridge,
}

impl From<ParseError> for SettingError {
    /// In a box, as it is twice as long as the others, and they are in every refusal.
    fn from(error: ParseError) -> SettingError {
        SettingError::Words(Box::new(error))
    }
}

impl VfPolicy {
    /// What its driver may do.
    #[must_use]
    pub fn privileges(&self) -> Privileges {
        let mut privileges = self.privileges;
        privileges.set(Privileges::MAC_SPOOFING_TX, !self.spoofchk);
        privileges
    }

    /// Whether it may, by trust or by a privilege.
    pub(crate) fn may(&self, privilege: Privileges) -> bool {
        self.trust || self.privileges.contains(privilege)
    }

    /// The policy with one setting changed.
    ///
    /// # Errors
    /// [`SettingError`] if the setting's value is out of range or needs a port VLAN that is not there.
    pub fn with(mut self, setting: VfSetting) -> Result<VfPolicy, SettingError> {
        match setting {
            VfSetting::Mac(mac) if mac == MacAddr::default() => {
                (self.mac, self.mac_set) = (self.permanent_mac, false);
            }
            VfSetting::Mac(mac) if !mac.is_unicast() => {
                return Err(AddrError::NotUnicast(mac).into());
            }
            VfSetting::Mac(mac) => (self.mac, self.mac_set) = (mac, true),
            VfSetting::Vlan(0) => self.port_vlan = None,
            VfSetting::Vlan(vid) => {
                let reserved = vid == Vid::RESERVED.get();
                self.port_vlan = Some(PortVlan {
                    vid: if reserved {
                        Vid::RESERVED
                    } else {
                        Vid::new(vid)?
                    },
                    qos: 0,
                    proto: VlanProto::Dot1Q,
                });
            }
            VfSetting::Qos(qos) if qos > 7 => return Err(SettingError::Qos(qos)),
            VfSetting::Qos(qos) => match &mut self.port_vlan {
                Some(vlan) => vlan.qos = qos,
                None if qos == 0 => {}
                None => return Err(SettingError::NoPortVlan),
            },
            VfSetting::Proto(proto) => {
                self.port_vlan
                    .as_mut()
                    .ok_or(SettingError::NoPortVlan)?
                    .proto = proto;
            }
            VfSetting::Spoofchk(on) => self.spoofchk = on,
            VfSetting::Trust(on) => self.trust = on,
            VfSetting::Privilege(change) => {
                let privileges = change.of(self.privileges());
                self.spoofchk = !privileges.contains(Privileges::MAC_SPOOFING_TX);
                self.privileges = privileges.difference(Privileges::MAC_SPOOFING_TX);
            }
            VfSetting::State(state) => self.state = state,
            VfSetting::MaxTxRate(Mbps(0)) => self.max_tx_rate = None,
            VfSetting::MaxTxRate(rate) => self.max_tx_rate = Some(rate),
            VfSetting::MinTxRate(Mbps(0)) => self.min_tx_rate = None,
            VfSetting::MinTxRate(rate) => self.min_tx_rate = Some(rate),
            VfSetting::StormControl(rate) => self.storm_control = rate,
            VfSetting::QueryRss(on) => self.query_rss = on,
            VfSetting::Mtu(0) => self.mtu = None,
            VfSetting::Mtu(mtu) => self.mtu = Some(Mtu::new(mtu)?),
            VfSetting::Path(path) if self.bridge && path != Path::Mediated => {
                return Err(SettingError::OnBridge);
            }
            VfSetting::Path(path) => self.path = path,
            VfSetting::Bridge(on) => {
                self.bridge = on;
                if on {
                    self.path = Path::Mediated;
                }
            }
            VfSetting::Mirror(to) => self.mirror = to.map(VfIndex),
            VfSetting::MaxFilters(n) => self.limits.max_filters = n,
            VfSetting::MaxMcasts(n) => self.limits.max_mcasts = n,
            VfSetting::MaxBufPages(n) => self.limits.max_buf_pages = n,
        }
        Ok(self)
    }
}

/// A key of `vf N set`. Commands, the configuration file, `show` and help all take what they know of it from here.
#[derive(Debug)]
pub struct SettingKey {
    /// The word.
    pub name: &'static str,
    /// Its values, as help has them.
    pub values: &'static str,
    /// What it is for, as help says it.
    pub help: &'static str,
    /// Its values, as a refusal names them.
    pub allowed: &'static str,
    parse: fn(&str) -> Result<VfSetting, SettingError>,
    of: fn(&VfPolicy) -> Option<VfSetting>,
}

/// All keys, those first that others depend on.
pub static SETTING_KEYS: &[SettingKey] = &[
    SettingKey {
        name: "mac",
        values: "MAC",
        help: "the VF's address; zero takes back what was set",
        allowed: "a MAC address",
        parse: |word| Ok(VfSetting::Mac(word.parse()?)),
        of: |policy| Some(VfSetting::Mac(policy.mac)),
    },
    SettingKey {
        name: "vlan",
        values: "VID",
        help: "port VLAN, tagged and untagged by the NIC in front of the guest's own tags; 0 removes it",
        allowed: "1 to 4094, or 0 for none",
        parse: |word| {
            let vid = number("vlan", word, "1 to 4094, or 0 for none")?;
            Ok(VfSetting::Vlan(vid))
        },
        of: |policy| Some(VfSetting::Vlan(policy.port_vlan?.vid.get())),
    },
    SettingKey {
        name: "qos",
        values: "PRIO",
        help: "priority of the port VLAN's tag, 0 to 7",
        allowed: "0 to 7",
        parse: |word| Ok(VfSetting::Qos(number("qos", word, "0 to 7")?)),
        of: |policy| Some(VfSetting::Qos(policy.port_vlan?.qos)),
    },
    SettingKey {
        name: "proto",
        values: "802.1Q|802.1ad",
        help: "kind of the port VLAN's tag",
        allowed: "802.1Q or 802.1ad",
        parse: |word| Ok(VfSetting::Proto(word.parse()?)),
        of: |policy| Some(VfSetting::Proto(policy.port_vlan?.proto)),
    },
    SettingKey {
        name: "spoofchk",
        values: "on|off",
        help: "drop what the guest sends from a foreign address",
        allowed: "on or off",
        parse: |word| Ok(VfSetting::Spoofchk(on_off("spoofchk", word)?)),
        of: |policy| Some(VfSetting::Spoofchk(policy.spoofchk)),
    },
    SettingKey {
        name: "trust",
        values: "on|off",
        help: "whether the guest is trusted",
        allowed: "on or off",
        parse: |word| Ok(VfSetting::Trust(on_off("trust", word)?)),
        of: |policy| Some(VfSetting::Trust(policy.trust)),
    },
    SettingKey {
        name: "privilege",
        values: "+X,-Y",
        help: "ef10: what the guest's driver may do, such as PROMISCUOUS; MAC_SPOOFING_TX is spoofchk off",
        allowed: PRIVILEGE_VALUES,
        parse: |word| Ok(VfSetting::Privilege(word.parse()?)),
        of: |policy| {
            let set = policy.privileges != Privileges::default();
            set.then(|| VfSetting::Privilege(PrivilegeChange::Only(policy.privileges())))
        },
    },
    SettingKey {
        name: "state",
        values: "auto|enable|disable",
        help: "link state: like the NIC's port, always up, always down",
        allowed: "auto, enable or disable",
        parse: |word| Ok(VfSetting::State(word.parse()?)),
        of: |policy| Some(VfSetting::State(policy.state)),
    },
    SettingKey {
        name: "max_tx_rate",
        values: "MBPS",
        help: "limit on what the guest sends; 0 removes it",
        allowed: "Mb/s, 0 for no limit",
        parse: |word| Ok(VfSetting::MaxTxRate(word.parse()?)),
        of: |policy| Some(VfSetting::MaxTxRate(policy.max_tx_rate?)),
    },
    SettingKey {
        name: "rate",
        values: "MBPS",
        help: "the older word for max_tx_rate",
        allowed: "Mb/s, 0 for no limit",
        parse: |word| Ok(VfSetting::MaxTxRate(word.parse()?)),
        of: |_| None,
    },
    SettingKey {
        name: "min_tx_rate",
        values: "MBPS",
        help: "what of the port's rate the guest has at least while it sends; 0 promises nothing",
        allowed: "Mb/s, 0 for no promise",
        parse: |word| {
            let rate = number(
                "min_tx_rate",
                word,
                "a whole number of Mb/s, 0 for no promise",
            )?;
            Ok(VfSetting::MinTxRate(Mbps(rate)))
        },
        of: |policy| Some(VfSetting::MinTxRate(policy.min_tx_rate?)),
    },
    SettingKey {
        name: "storm_control",
        values: "PPS",
        help: "broadcasts, and frames to groups but those that one VF alone has listed, that others get of it in a second; 10000 unless set, 0: no limit",
        allowed: FLOOD_RATES,
        parse: |word| {
            let rate = number("storm_control", word, FLOOD_RATES)?;
            Ok(VfSetting::StormControl(FloodRate(rate)))
        },
        of: |policy| Some(VfSetting::StormControl(policy.storm_control)),
    },
    SettingKey {
        name: "query_rss",
        values: "on|off",
        help: "whether the guest may read its hash key and indirection table",
        allowed: "on or off",
        parse: |word| Ok(VfSetting::QueryRss(on_off("query_rss", word)?)),
        of: |policy| Some(VfSetting::QueryRss(policy.query_rss)),
    },
    SettingKey {
        name: "mtu",
        values: "BYTES",
        help: "most bytes behind the header and tags of a frame that it sends or gets; 0: the NIC's",
        allowed: "68 to 9216 bytes, 0 for the NIC's",
        parse: |word| {
            let mtu = number("mtu", word, "68 to 9216 bytes, 0 for the NIC's")?;
            Ok(VfSetting::Mtu(mtu))
        },
        of: |policy| Some(VfSetting::Mtu(policy.mtu?.get().into())),
    },
    SettingKey {
        name: "path",
        values: "direct|mediated|auto",
        help: "which path the VF's traffic takes, switched while it runs; auto: each flow its own",
        allowed: "direct, mediated or auto",
        parse: |word| Ok(VfSetting::Path(word.parse()?)),
        of: |policy| Some(VfSetting::Path(policy.path)),
    },
    SettingKey {
        name: "bridge",
        values: "on|off",
        help: "no VF, but a station on the hypervisor's bridge on the PF: the NIC does not know its address (see fdb)",
        allowed: "on or off",
        parse: |word| Ok(VfSetting::Bridge(on_off("bridge", word)?)),
        of: |policy| policy.bridge.then_some(VfSetting::Bridge(true)),
    },
    SettingKey {
        name: "mirror",
        values: "N|none",
        help: "copy what it sends and receives to VF N; what is dropped is not copied",
        allowed: "the number of a VF, or none",
        parse: |word| match word {
            "none" => Ok(VfSetting::Mirror(None)),
            to => {
                let to = number("mirror", to, "the number of a VF, or none")?;
                Ok(VfSetting::Mirror(Some(to)))
            }
        },
        of: |policy| Some(VfSetting::Mirror(Some(policy.mirror?.0))),
    },
    SettingKey {
        name: "max_filters",
        values: "N",
        help: "path auto: flows that may be learned, 8 unless set",
        allowed: QUOTA,
        parse: |word| Ok(VfSetting::MaxFilters(number("max_filters", word, QUOTA)?)),
        of: |policy| quota(policy, |limits| limits.max_filters).map(VfSetting::MaxFilters),
    },
    SettingKey {
        name: "max_mcasts",
        values: "N",
        help: "path auto: groups on the fast path, 8 unless set",
        allowed: QUOTA,
        parse: |word| Ok(VfSetting::MaxMcasts(number("max_mcasts", word, QUOTA)?)),
        of: |policy| quota(policy, |limits| limits.max_mcasts).map(VfSetting::MaxMcasts),
    },
    SettingKey {
        name: "max_buf_pages",
        values: "N",
        help: "path auto: pages for frames whose flow is changing paths, 384 unless set",
        allowed: QUOTA,
        parse: |word| {
            Ok(VfSetting::MaxBufPages(number(
                "max_buf_pages",
                word,
                QUOTA,
            )?))
        },
        of: |policy| quota(policy, |limits| limits.max_buf_pages).map(VfSetting::MaxBufPages),
    },
];

const QUOTA: &str = "a whole number, 0 to 65535";

/// A quota of path `auto`, if it matters or has been set.
fn quota(policy: &VfPolicy, of: fn(&AutoLimits) -> u16) -> Option<u16> {
    let quota = of(&policy.limits);
    let matters = policy.path == Path::Auto || quota != of(&AutoLimits::default());
    matters.then_some(quota)
}

impl SettingKey {
    /// The key of that name.
    ///
    /// # Errors
    /// [`SettingError::Words`] that names all there are.
    pub fn named(name: &str) -> Result<&'static SettingKey, SettingError> {
        let key = SETTING_KEYS.iter().find(|key| key.name == name);
        key.ok_or_else(|| ParseError::word("setting", name, SettingKey::names()).into())
    }

    /// What may stand where a key is to follow.
    pub(crate) fn names() -> &'static str {
        static NAMES: LazyLock<String> = LazyLock::new(|| {
            let names: Vec<_> = SETTING_KEYS.iter().map(|key| key.name).collect();
            let mut names = names.join(", ");
            if let Some(last) = names.rfind(", ") {
                names.replace_range(last..last + 2, " or ");
            }
            names + ", each with a value, or netem and its words alone"
        });
        &NAMES
    }

    /// The setting that gives it the value that a word stands for.
    ///
    /// # Errors
    /// [`SettingError`] that says which values there are.
    pub fn parse(&self, word: &str) -> Result<VfSetting, SettingError> {
        (self.parse)(word)
    }

    /// The setting that is in force in a policy, if any.
    #[must_use]
    pub fn of(&self, policy: &VfPolicy) -> Option<VfSetting> {
        (self.of)(policy)
    }
}

fn on_off(key: &'static str, word: &str) -> Result<bool, ParseError> {
    match word {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(ParseError::word(key, word, "on or off")),
    }
}

impl VfSetting {
    /// Its key and its value, as words.
    #[must_use]
    pub fn words(&self) -> (&'static str, String) {
        let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        match *self {
            VfSetting::Mac(mac) => ("mac", mac.to_string()),
            VfSetting::Vlan(vid) => ("vlan", vid.to_string()),
            VfSetting::Qos(qos) => ("qos", qos.to_string()),
            VfSetting::Proto(proto) => ("proto", proto.to_string()),
            VfSetting::Spoofchk(on) => ("spoofchk", on_off(on)),
            VfSetting::Trust(on) => ("trust", on_off(on)),
            VfSetting::Privilege(change) => ("privilege", change.to_string()),
            VfSetting::State(state) => ("state", state.to_string()),
            VfSetting::MaxTxRate(rate) => ("max_tx_rate", rate.to_string()),
            VfSetting::MinTxRate(rate) => ("min_tx_rate", rate.to_string()),
            VfSetting::StormControl(FloodRate(pps)) => ("storm_control", pps.to_string()),
            VfSetting::QueryRss(on) => ("query_rss", on_off(on)),
            VfSetting::Mtu(mtu) => ("mtu", mtu.to_string()),
            VfSetting::Path(path) => ("path", path.to_string()),
            VfSetting::Bridge(on) => ("bridge", on_off(on)),
            VfSetting::Mirror(to) => ("mirror", to.map_or("none".to_owned(), |vf| vf.to_string())),
            VfSetting::MaxFilters(n) => ("max_filters", n.to_string()),
            VfSetting::MaxMcasts(n) => ("max_mcasts", n.to_string()),
            VfSetting::MaxBufPages(n) => ("max_buf_pages", n.to_string()),
        }
    }
}

impl fmt::Display for VfSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, value) = self.words();
        write!(f, "{key} {value}")
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Path::Direct => "direct",
            Path::Mediated => "mediated",
            Path::Auto => "auto",
        })
    }
}

impl FromStr for Path {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Path, ParseError> {
        match text {
            "direct" => Ok(Path::Direct),
            "mediated" => Ok(Path::Mediated),
            "auto" => Ok(Path::Auto),
            _ => Err(ParseError::word("path", text, "direct, mediated or auto")),
        }
    }
}

impl fmt::Display for VfLinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VfLinkState::Auto => "auto",
            VfLinkState::Enable => "enable",
            VfLinkState::Disable => "disable",
        })
    }
}

impl FromStr for VfLinkState {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<VfLinkState, ParseError> {
        match text {
            "auto" => Ok(VfLinkState::Auto),
            "enable" => Ok(VfLinkState::Enable),
            "disable" => Ok(VfLinkState::Disable),
            _ => Err(ParseError::word("state", text, "auto, enable or disable")),
        }
    }
}

impl fmt::Display for Mbps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Mbps {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Mbps, ParseError> {
        text.parse().map(Mbps).map_err(|_| {
            ParseError::word(
                "max_tx_rate",
                text,
                "a whole number of Mb/s, 0 for no limit",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_what_it_shows() {
        let policy = VfPolicy::new(MacAddr([2, 0, 0, 0, 0, 1]));
        let all = [
            VfSetting::Vlan(10),
            VfSetting::Qos(5),
            VfSetting::Proto(VlanProto::Dot1ad),
            VfSetting::MaxTxRate(Mbps(7)),
            VfSetting::MinTxRate(Mbps(3)),
            VfSetting::StormControl(FloodRate(500)),
            VfSetting::QueryRss(true),
            VfSetting::Privilege("+PROMISCUOUS,-UNICAST,+MAC_SPOOFING_TX".parse().unwrap()),
            VfSetting::Mtu(9000),
            VfSetting::Bridge(true),
            VfSetting::Mirror(Some(3)),
            VfSetting::MaxFilters(9),
            VfSetting::MaxMcasts(7),
            VfSetting::MaxBufPages(100),
        ];
        let with = |policy: VfPolicy, setting: VfSetting| policy.with(setting).unwrap();
        let policy = all.into_iter().fold(policy, with);
        let mut again = VfPolicy::new(MacAddr([2, 0, 0, 0, 0, 2]));
        for key in SETTING_KEYS {
            let Some(setting) = key.of(&policy) else {
                assert_eq!(key.name, "rate", "it is shown as max_tx_rate");
                continue;
            };
            let (name, value) = setting.words();
            assert_eq!((name, key.parse(&value)), (key.name, Ok(setting)));
            again = again.with(setting).unwrap();
            let wrong = key.parse("neither").unwrap_err().to_string();
            assert!(wrong.contains("'neither'"), "{wrong}");
        }
        // What is shown is all there is to set; the address that a VF is made with is not.
        let want = VfPolicy {
            mac_set: true,
            permanent_mac: again.permanent_mac,
            ..policy
        };
        assert_eq!(again, want);
    }

    #[test]
    fn settings_are_checked() {
        let policy = VfPolicy::new(MacAddr([2, 0, 0, 0, 0, 1]));
        let refused = |setting| policy.with(setting).unwrap_err();
        assert_eq!(refused(VfSetting::Vlan(4096)), AddrError::Vlan(4096).into());
        assert_eq!(refused(VfSetting::Qos(3)), SettingError::NoPortVlan);
        assert_eq!(refused(VfSetting::Qos(8)), SettingError::Qos(8));
        assert_eq!(
            refused(VfSetting::Proto(VlanProto::Dot1ad)),
            SettingError::NoPortVlan
        );
        let group = MacAddr([1, 0, 0, 0, 0, 1]);
        assert_eq!(
            refused(VfSetting::Mac(group)),
            AddrError::NotUnicast(group).into()
        );
        let other = policy.with(VfSetting::Mac(MacAddr([2, 0, 0, 0, 0, 9])));
        let unset = other.unwrap().with(VfSetting::Mac(MacAddr::default()));
        assert_eq!(unset, Ok(policy));
        let vlan = policy.with(VfSetting::Vlan(10)).unwrap();
        let vlan = vlan.with(VfSetting::Qos(5)).unwrap();
        assert_eq!(
            vlan.port_vlan.unwrap().tag().to_bytes(),
            [0x81, 0, 0xa0, 10]
        );
        assert_eq!(vlan.with(VfSetting::Vlan(0)), Ok(policy));
        for wrong in [1, 67, 9217] {
            let said = refused(VfSetting::Mtu(wrong)).to_string();
            assert_eq!(said, format!("mtu {wrong}: an MTU is 68 to 9216 bytes"));
        }
        let jumbo = policy.with(VfSetting::Mtu(9000)).unwrap();
        assert_eq!(jumbo.mtu.map(Mtu::get), Some(9000));
        assert_eq!(jumbo.with(VfSetting::Mtu(0)), Ok(policy));
        let limited = policy.with(VfSetting::MaxTxRate(Mbps(5))).unwrap();
        assert_eq!(limited.max_tx_rate.map(Mbps::bps), Some(5_000_000));
        assert_eq!(limited.with(VfSetting::MaxTxRate(Mbps(0))), Ok(policy));
    }
}
