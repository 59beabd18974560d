//! What an administrator can ask of a NIC, in the words of `ip link`, as words. Never applies anything.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, LazyLock};

use vf_packet::Vid;

use crate::bridge_words::ASKS;
use crate::fdb::SelfEntry;
use crate::filter_spec::{FilterId, FilterMatch, FilterPriority, FilterSpec, MatchError};
use crate::mailbox::MailboxRequest;
use crate::mtu::MTU_VALUES;
use crate::netem::{Flap, NetemSpec, NetemWay};
use crate::netem_words::{begins_netem, netem_command};
use crate::refusal::Refusal;
use crate::rss::{RssKey, RssSpread};
use crate::rss_context::RssContextOp;
use crate::switch_mode::SwitchMode;
use crate::vf::{FLOOD_RATES, FloodRate, SETTING_KEYS, SettingKey, VfIndex, VfRange, VfSetting};
use crate::vf_filter::{VfFilter, VfFilterRange};
use crate::words::{Once, Words, allowed_words, nearest, number};

/// A change to a NIC. Its `Display` is the words it is parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `vf N set KEY VALUE ...`: all of them or none.
    SetVf {
        /// Whose policy.
        vfs: VfRange,
        /// What to change, in this order.
        settings: Vec<VfSetting>,
    },
    /// `vf N mac add ADDR [vlan VID]`, `vf N vlan add VID`.
    VfFilterAdd {
        /// Who receives it.
        vfs: VfRange,
        /// What is received.
        filters: VfFilterRange,
    },
    /// `vf N mac del ADDR [vlan VID]`, `vf N vlan del VID`.
    VfFilterDel {
        /// Who received it.
        vfs: VfRange,
        /// What was received.
        filters: VfFilterRange,
    },
    /// `vf N rss [hkey KEY] [equal N|weight W0 W1 ...|default]`: what is given of both.
    SetRss {
        /// Whose queues.
        vfs: VfRange,
        /// Key of the hash.
        key: Option<RssKey>,
        /// How flows are spread.
        spread: Option<RssSpread>,
    },
    /// `vf N rss context new|M ...`: further tables, for filters that name them.
    RssContext {
        /// Whose.
        vfs: VfRange,
        /// What is done with one.
        op: RssContextOp,
    },
    /// `vf N request VERB ...`: what its driver asks over the mailbox.
    Request {
        /// Whose driver.
        vfs: VfRange,
        /// What it asks.
        request: MailboxRequest,
    },
    /// `vf N reset` (FLR): the driver starts anew; what the administrator has said stays.
    Reset {
        /// Who is reset.
        vfs: VfRange,
    },
    /// `link set up|down|mtu N|storm_control N|numvfs N ...`: the NIC's own port.
    SetLink(Vec<LinkSetting>),
    /// `link set [netem] [egress|ingress|both] delay TIME ...|none`: impairments of what passes the port.
    SetLinkNetem {
        /// Of which frames.
        way: NetemWay,
        /// What becomes of them; nothing, if there is none.
        spec: Option<Arc<NetemSpec>>,
    },
    /// `vf N set [netem] [egress|ingress|both] delay TIME ...|none`: impairments of what a VF sends and receives.
    SetVfNetem {
        /// Of which VFs.
        vfs: VfRange,
        /// Of which of their frames.
        way: NetemWay,
        /// What becomes of them; nothing, if there is none.
        spec: Option<Arc<NetemSpec>>,
    },
    /// `link set flap up TIME down TIME|none`: the cable comes out of the port and goes in again.
    SetLinkFlap(Option<Flap>),
    /// `link set hwmode MODE`: how the NIC's switch forwards.
    SetSwitchMode(SwitchMode),
    /// `fdb add MAC [vlan VID] self`: a station behind the PF.
    FdbAdd(SelfEntry),
    /// `fdb del MAC [vlan VID] self`.
    FdbDel(SelfEntry),
    /// `filter add FILTER`: into the NIC's table.
    FilterInsert(FilterSpec),
    /// `filter add FILTER loc N`: into a row of it, where software numbers the rows.
    FilterInsertAt {
        /// The row.
        loc: FilterId,
        /// The filter.
        spec: FilterSpec,
    },
    /// `filter replace FILTER`: likewise, in place of one with the same match and priority if there is one.
    FilterReplace(FilterSpec),
    /// `filter del MATCH`: out of the NIC's table.
    FilterRemove {
        /// What it matches.
        matches: FilterMatch,
        /// The priority that it has.
        priority: FilterPriority,
    },
    /// `filter delete ID`: out of the NIC's table.
    FilterDelete {
        /// What `filter show` calls it.
        id: FilterId,
        /// The priority that it has.
        priority: FilterPriority,
    },
    /// `filter flush`: all filters out of the NIC's table.
    FlushFilters,
}

/// A setting of the NIC's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkSetting {
    /// `up`, `down`: whether there is a link.
    Up(bool),
    /// `carrier on|off`: whether the cable is in the port. It comes and goes by itself no longer.
    Carrier(bool),
    /// The same of a cable that does, and goes on to. Nobody says that.
    Flapped(bool),
    /// `mtu BYTES`.
    Mtu(u32),
    /// `storm_control PPS`: how many frames that come from outside are flooded; 0 is no limit.
    StormControl(FloodRate),
    /// `numvfs N`: how many VFs there are (`sriov_numvfs`).
    NumVfs(u16),
}

/// A command, and the NIC that its words name: `link set dev NIC ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressed {
    /// Which NIC, if they do.
    pub dev: Option<String>,
    /// The command.
    pub command: Command,
}

impl Command {
    /// Reads a command from its words, such as `vf 0 set mac 02:00:00:00:00:01 spoofchk on` or `link set down`.
    ///
    /// # Errors
    /// [`Refusal`] that names the word at fault and what is allowed in its place.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Command, Refusal> {
        let Addressed { dev, command } = Command::parse_addressed(words)?;
        match dev {
            None => Ok(command),
            Some(dev) => Err(Refusal::word("dev", &dev, "no NIC can be named here")),
        }
    }

    /// The same, where its words may name the NIC, in the manner of `ip link set dev NIC vf 0 mac ADDR`.
    ///
    /// # Errors
    /// As above.
    pub fn parse_addressed<S: AsRef<str>>(words: &[S]) -> Result<Addressed, Refusal> {
        const COMMANDS: &str = "vf, link, bridge, fdb or filter";
        let mut words = Words::new("command", words);
        let here = |command| Addressed { dev: None, command };
        let addressed = match words.next(COMMANDS)? {
            "vf" => here(words.vf_command()?),
            "link" => {
                let mut dev = words.link_device()?;
                let command = words.link_command(&mut dev)?;
                Addressed { dev, command }
            }
            "bridge" => words.bridge_command()?,
            "fdb" => words.fdb_command()?,
            "filter" => words.filter_command()?,
            other => return Err(Refusal::word("command", other, COMMANDS)),
        };
        words.end()?;
        Ok(addressed)
    }
}

/// What `link set` can set.
const LINK_SETTINGS: &str = "up, down, carrier, mtu, storm_control, numvfs, hwmode, flap, vf, netem, delay, loss, duplicate, corrupt, reorder or rate";

impl<S: AsRef<str>> Words<'_, S> {
    /// `set`, and which NIC is meant: with `dev` in front, or without if more follows, as in ip-link(8).
    fn link_device(&mut self) -> Result<Option<String>, Refusal> {
        match self.next("set")? {
            "set" => {}
            "show" => return Err(Refusal::word("link", "show", ASKS)),
            other => return Err(Refusal::word("link", other, "set or show")),
        }
        let is_setting = |word: &str| {
            matches!(
                word,
                "up" | "down"
                    | "carrier"
                    | "mtu"
                    | "storm_control"
                    | "numvfs"
                    | "sriov_numvfs"
                    | "hwmode"
                    | "vf"
                    | "flap"
                    | "rate"
            ) || begins_netem(word)
        };
        let is_nearly_setting = |word| nearest(word, allowed_words(LINK_SETTINGS)).is_some();
        let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit() || c == '-');
        match (self.peek(), self.peek_second()) {
            (Some("dev"), _) => {
                self.next("dev")?;
            }
            // What is nearly a setting, or has a number behind it, is meant for one, unless one follows.
            (Some(word), Some(next))
                if !is_setting(word)
                    && (is_setting(next) || !is_nearly_setting(word) && !is_number(next)) => {}
            _ => return Ok(None),
        }
        Ok(Some(self.next("the name of a NIC")?.to_owned()))
    }

    /// What is set; the device may be named between settings, too.
    fn link_command(&mut self, dev: &mut Option<String>) -> Result<Command, Refusal> {
        const COUNT: &str = "how many VFs there are to be, or 0 for none";
        match self.peek() {
            Some(word) if begins_netem(word) || word == "rate" => {
                let (way, spec) = netem_command(&self.rest())?;
                return Ok(Command::SetLinkNetem { way, spec });
            }
            Some("flap") => {
                self.next("flap")?;
                return Ok(Command::SetLinkFlap(match self.rest().as_slice() {
                    ["none" | "off"] => None,
                    words => Some(words.join(" ").parse()?),
                }));
            }
            _ => {}
        }
        let mut settings = Vec::new();
        let mut once = Once::default();
        if dev.is_some() {
            once.say("dev")?;
        }
        while settings.is_empty() || !self.is_done() {
            settings.push(match self.next(LINK_SETTINGS)? {
                "dev" if !settings.is_empty() => {
                    once.say("dev")?;
                    *dev = Some(self.next("the name of a NIC")?.to_owned());
                    continue;
                }
                state @ ("up" | "down") => {
                    once.say("up or down")?;
                    LinkSetting::Up(state == "up")
                }
                "carrier" => {
                    once.say("carrier")?;
                    match self.next("on or off")? {
                        "on" => LinkSetting::Carrier(true),
                        "off" => LinkSetting::Carrier(false),
                        other => return Err(Refusal::word("carrier", other, "on or off")),
                    }
                }
                "mtu" => {
                    once.say("mtu")?;
                    let mtu = self.next(MTU_VALUES)?;
                    LinkSetting::Mtu(number("mtu", mtu, MTU_VALUES)?)
                }
                "storm_control" => {
                    once.say("storm_control")?;
                    let rate = self.next(FLOOD_RATES)?;
                    let rate = number("storm_control", rate, FLOOD_RATES)?;
                    LinkSetting::StormControl(FloodRate(rate))
                }
                "numvfs" => {
                    once.say("numvfs")?;
                    let n = self.next(COUNT)?;
                    LinkSetting::NumVfs(number("numvfs", n, COUNT)?)
                }
                "vf" if settings.is_empty() => return self.vf_command(),
                "hwmode" if settings.is_empty() => {
                    return Ok(Command::SetSwitchMode(self.switch_mode()?));
                }
                other => return Err(Refusal::word("link set", other, LINK_SETTINGS)),
            });
        }
        Ok(Command::SetLink(settings))
    }

    /// A verb, `dev NIC` if more than one is there, and the filter.
    fn filter_command(&mut self) -> Result<Addressed, Refusal> {
        const VERBS: &str = "add, replace, del or flush";
        let verb = self.next(VERBS)?;
        let mut dev = None;
        if self.peek() == Some("dev") {
            self.next("dev")?;
            dev = Some(self.next("the name of a NIC")?.to_owned());
        }
        let command = self.change_of_filters(verb, VERBS)?;
        Ok(Addressed { dev, command })
    }

    fn change_of_filters(&mut self, verb: &str, verbs: &'static str) -> Result<Command, Refusal> {
        match verb {
            "add" => Ok(match self.new_filter()? {
                (spec, None) => Command::FilterInsert(spec),
                (spec, Some(loc)) => Command::FilterInsertAt { loc, spec },
            }),
            "replace" => match self.new_filter()? {
                (spec, None) => Ok(Command::FilterReplace(spec)),
                (_, Some(_)) => {
                    Err(MatchError("a filter that is replaced stays in its row: no loc").into())
                }
            },
            // The words of ip(8) and of ethtool(8).
            "del" | "delete" => self.old_filter(),
            "flush" => Ok(Command::FlushFilters),
            "show" => Err(Refusal::word("filter", "show", ASKS)),
            other => Err(Refusal::word("filter", other, verbs)),
        }
    }

    fn vf_command(&mut self) -> Result<Command, Refusal> {
        let vfs = self.vfs()?;
        if self.peek().is_some_and(begins_netem) {
            return self.vf_netem(vfs);
        }
        let verb = self.next(vf_verbs())?;
        match (verb, self.peek()) {
            ("set", Some(word)) if begins_netem(word) => self.vf_netem(vfs),
            ("set", _) => {
                let key = self.next(SettingKey::names())?;
                self.settings(vfs, SettingKey::named(key)?)
            }
            ("mac", Some("add" | "del" | "delete")) => {
                let add = self.add_or_del()?;
                let mac = self.next("a MAC address")?.parse()?;
                let vlan = match self.is_done() {
                    true => None,
                    false => match self.next("vlan")? {
                        "vlan" => Some(self.vid()?),
                        other => return Err(Refusal::word("word", other, "vlan or nothing")),
                    },
                };
                Ok(vf_filters(vfs, add, VfFilter::Mac { mac, vlan }.into()))
            }
            ("vlan", Some("add" | "del" | "delete")) => {
                let add = self.add_or_del()?;
                let vlans = self.vlans()?;
                Ok(vf_filters(vfs, add, vlans))
            }
            // What is nearly one of these, with more behind it, is none of the setting's values.
            ("mac", Some(word)) if self.is_nearly_add_or_del(word) => Err(Refusal::word(
                "mac",
                word,
                "add, del or the VF's MAC address",
            )),
            ("vlan", Some(word)) if self.is_nearly_add_or_del(word) => Err(Refusal::word(
                "vlan",
                word,
                "add, del or the number of the VF's port VLAN",
            )),
            ("request", _) => {
                let request = self.mailbox_request()?;
                Ok(Command::Request { vfs, request })
            }
            ("reset", _) => Ok(Command::Reset { vfs }),
            ("rss", Some("context")) => {
                self.next("context")?;
                let op = self.rss_context()?;
                Ok(Command::RssContext { vfs, op })
            }
            ("rss", _) => {
                let (key, spread) = self.rss()?;
                Ok(Command::SetRss { vfs, key, spread })
            }
            // As in ip-link(8), which has no `set` here.
            (key, _) => match SettingKey::named(key) {
                Ok(key) => self.settings(vfs, key),
                Err(_) => Err(Refusal::word("vf", key, vf_verbs())),
            },
        }
    }

    fn vf_netem(&mut self, vfs: VfRange) -> Result<Command, Refusal> {
        let (way, spec) = netem_command(&self.rest())?;
        Ok(Command::SetVfNetem { vfs, way, spec })
    }

    /// `3`, `0-7`.
    fn vfs(&mut self) -> Result<VfRange, Refusal> {
        const ALLOWED: &str = "the number of a VF, 0 to 255, or a range such as 0-7";
        let word = self.next("the number of a VF")?;
        let vf = |text| number("vf", text, ALLOWED).map(VfIndex);
        let (first, last) = match word.split_once('-') {
            None => (vf(word)?, vf(word)?),
            Some((first, last)) => (vf(first)?, vf(last)?),
        };
        match first <= last {
            true => Ok(VfRange { first, last }),
            false => Err(Refusal::word("vf", word, ALLOWED)),
        }
    }

    /// `100`, `100-119`.
    fn vlans(&mut self) -> Result<VfFilterRange, Refusal> {
        const ALLOWED: &str = "1 to 4094, or a range such as 100-119";
        let word = self.next(ALLOWED)?;
        let vid = |text| Ok::<Vid, Refusal>(Vid::new(number("vlan", text, ALLOWED)?)?);
        let Some((first, last)) = word.split_once('-') else {
            return Ok(VfFilter::Vlan(vid(word)?).into());
        };
        let (first, last) = (vid(first)?, vid(last)?);
        match first.cmp(&last) {
            Ordering::Less => Ok(VfFilterRange::Vlans { first, last }),
            Ordering::Equal => Ok(VfFilter::Vlan(first).into()),
            Ordering::Greater => Err(Refusal::word("vlan", word, ALLOWED)),
        }
    }

    pub(crate) fn add_or_del(&mut self) -> Result<bool, Refusal> {
        match self.next("add or del")? {
            "add" => Ok(true),
            // The words of ip(8) and of bridge(8).
            "del" | "delete" => Ok(false),
            other => Err(Refusal::word("word", other, "add or del")),
        }
    }

    fn is_nearly_add_or_del(&self, word: &str) -> bool {
        self.peek_second().is_some() && nearest(word, ["add", "del"].into_iter()).is_some()
    }

    /// The value of this key, and more keys with theirs.
    fn settings(&mut self, vfs: VfRange, key: &SettingKey) -> Result<Command, Refusal> {
        let mut settings = vec![key.parse(self.next(key.allowed)?)?];
        while !self.is_done() {
            let key = SettingKey::named(self.next(SettingKey::names())?)?;
            settings.push(key.parse(self.next(key.allowed)?)?);
        }
        // Some have two keys: they are told by what they set.
        let mut once = Once::default();
        for setting in &settings {
            once.say(setting.words().0)?;
        }
        Ok(Command::SetVf { vfs, settings })
    }
}

/// What may follow the number of a VF.
fn vf_verbs() -> &'static str {
    static VERBS: LazyLock<String> = LazyLock::new(|| {
        let keys: Vec<_> = SETTING_KEYS.iter().map(|key| key.name).collect();
        format!("set, netem, rss, request, reset, {}", keys.join(", "))
    });
    &VERBS
}

fn vf_filters(vfs: VfRange, add: bool, filters: VfFilterRange) -> Command {
    if add {
        Command::VfFilterAdd { vfs, filters }
    } else {
        Command::VfFilterDel { vfs, filters }
    }
}

impl Command {
    /// The same, with impairments whose random numbers begin with `seed` unless it says with what.
    #[must_use]
    pub fn or_seed(mut self, seed: u64) -> Command {
        if let Command::SetLinkNetem { spec, .. } | Command::SetVfNetem { spec, .. } = &mut self {
            *spec = spec
                .take()
                .map(|spec| Arc::new((*spec).clone().or_seed(seed)));
        }
        self
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = |f: &mut fmt::Formatter<'_>, vfs: &VfRange, verb, filters: &VfFilterRange| {
            let words = filters.to_string();
            let (kind, rest) = words.split_once(' ').unwrap_or((&words, ""));
            write!(f, "vf {vfs} {kind} {verb} {rest}")
        };
        let netem = |f: &mut fmt::Formatter<'_>, way: &NetemWay, spec: &Option<Arc<NetemSpec>>| {
            match spec {
                Some(spec) => write!(f, "set netem {way} {spec}"),
                None => write!(f, "set netem {way} none"),
            }
        };
        match self {
            Command::SetVf { vfs, settings } => {
                write!(f, "vf {vfs} set")?;
                settings.iter().try_for_each(|s| write!(f, " {s}"))
            }
            Command::VfFilterAdd { vfs, filters } => filter(f, vfs, "add", filters),
            Command::VfFilterDel { vfs, filters } => filter(f, vfs, "del", filters),
            Command::SetRss { vfs, key, spread } => {
                write!(f, "vf {vfs} rss")?;
                if let Some(key) = key {
                    write!(f, " hkey {key}")?;
                }
                spread.iter().try_for_each(|s| write!(f, " {s}"))
            }
            Command::RssContext { vfs, op } => write!(f, "vf {vfs} rss context {op}"),
            Command::Request { vfs, request } => write!(f, "vf {vfs} request {request}"),
            Command::Reset { vfs } => write!(f, "vf {vfs} reset"),
            Command::SetLink(settings) => {
                f.write_str("link set")?;
                settings.iter().try_for_each(|setting| match setting {
                    LinkSetting::Up(true) => f.write_str(" up"),
                    LinkSetting::Up(false) => f.write_str(" down"),
                    LinkSetting::Carrier(true) | LinkSetting::Flapped(true) => {
                        f.write_str(" carrier on")
                    }
                    LinkSetting::Carrier(false) | LinkSetting::Flapped(false) => {
                        f.write_str(" carrier off")
                    }
                    LinkSetting::Mtu(mtu) => write!(f, " mtu {mtu}"),
                    LinkSetting::StormControl(FloodRate(pps)) => {
                        write!(f, " storm_control {pps}")
                    }
                    LinkSetting::NumVfs(n) => write!(f, " numvfs {n}"),
                })
            }
            Command::SetLinkNetem { way, spec } => {
                f.write_str("link ")?;
                netem(f, way, spec)
            }
            Command::SetVfNetem { vfs, way, spec } => {
                write!(f, "vf {vfs} ")?;
                netem(f, way, spec)
            }
            Command::SetLinkFlap(Some(flap)) => write!(f, "link set flap {flap}"),
            Command::SetLinkFlap(None) => f.write_str("link set flap none"),
            Command::SetSwitchMode(mode) => write!(f, "link set hwmode {mode}"),
            Command::FdbAdd(entry) => write!(f, "fdb add {entry}"),
            Command::FdbDel(entry) => write!(f, "fdb del {entry}"),
            Command::FilterInsert(spec) => write!(f, "filter add {spec}"),
            Command::FilterInsertAt { loc, spec } => write!(f, "filter add {spec} loc {loc}"),
            Command::FilterReplace(spec) => write!(f, "filter replace {spec}"),
            Command::FilterRemove { matches, priority } => {
                write!(f, "filter del {matches} priority {priority}")
            }
            Command::FilterDelete { id, priority } => {
                write!(f, "filter delete {id} priority {priority}")
            }
            Command::FlushFilters => f.write_str("filter flush"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver_filter::{DriverAction, FilterOp};
    use crate::mailbox::VfRequest;
    use crate::vf::{Mbps, Path, VfLinkState};
    use proptest::prelude::*;
    use proptest::sample::select;
    use vf_packet::{MacAddr, Vid, VlanProto};

    fn parse(text: &str) -> Result<Command, Refusal> {
        Command::parse(
            &text
                .split(' ')
                .filter(|w| !w.is_empty())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_words_of_ip_link() {
        assert_eq!(
            parse("vf 3 set mac 02:00:00:00:00:01 spoofchk off path mediated"),
            Ok(Command::SetVf {
                vfs: VfIndex(3).into(),
                settings: vec![
                    VfSetting::Mac(MacAddr([2, 0, 0, 0, 0, 1])),
                    VfSetting::Spoofchk(false),
                    VfSetting::Path(Path::Mediated),
                ],
            })
        );
        assert_eq!(
            parse("vf 0 vlan add 10"),
            Ok(Command::VfFilterAdd {
                vfs: VfIndex(0).into(),
                filters: VfFilter::Vlan(Vid::new(10).unwrap()).into(),
            })
        );
        // iproute2 has an older word for it, too.
        let limit = parse("vf 0 set rate 100").unwrap();
        assert_eq!(limit.to_string(), "vf 0 set max_tx_rate 100");
        let down = LinkSetting::Up(false);
        assert_eq!(parse("link set down"), Ok(Command::SetLink(vec![down])));
        // Without `set`, as ip-link(8) has it, beside the filters of which it knows nothing.
        for (said, means) in [
            (
                "vf 0 mac 02:00:00:00:00:01",
                "vf 0 set mac 02:00:00:00:00:01",
            ),
            (
                "vf 0 vlan 100 qos 3 proto 802.1ad",
                "vf 0 set vlan 100 qos 3 proto 802.1ad",
            ),
            (
                "vf 0 rate 5 spoofchk off",
                "vf 0 set max_tx_rate 5 spoofchk off",
            ),
            ("vf 0 query_rss on", "vf 0 set query_rss on"),
            ("vf 0-7 trust on", "vf 0-7 set trust on"),
            ("vf 0-0 state auto", "vf 0 set state auto"),
            ("vf 1-2 vlan add 100-119", "vf 1-2 vlan add 100-119"),
            ("vf 1 vlan del 7-7", "vf 1 vlan del 7"),
            ("vf 1 vlan delete 7", "vf 1 vlan del 7"),
            ("link set mtu 9000 up", "link set mtu 9000 up"),
            ("link set carrier off", "link set carrier off"),
            ("link set vf 3 mtu 1400", "vf 3 set mtu 1400"),
            // tc-netem(8)'s words.
            (
                "link set delay 10ms 1ms distribution normal loss 0.1%",
                "link set netem egress delay 10ms 1ms distribution normal loss 0.1%",
            ),
            (
                "link set netem ingress loss gemodel 1% seed 7",
                "link set netem ingress loss gemodel 1% 99% 100% 0% seed 7",
            ),
            (
                "link set rate 100mbit",
                "link set netem egress rate 100mbit",
            ),
            (
                "link set delay 10ms jitter 1ms 25% loss gilbert 1% 20%",
                "link set netem egress delay 10ms 1ms 25% loss gemodel 1% 20% 100% 0%",
            ),
            (
                "link set seed 7 loss 1%",
                "link set netem egress loss 1% seed 7",
            ),
            (
                "link set limit 1000 delay 10ms",
                "link set netem egress delay 10ms limit 1000",
            ),
            ("link set netem none", "link set netem both none"),
            ("link set both none", "link set netem both none"),
            (
                "vf 0-3 set delay 1ms loss 1%",
                "vf 0-3 set netem egress delay 1ms loss 1%",
            ),
            (
                "vf 0 netem ingress rate 10mbit",
                "vf 0 set netem ingress rate 10mbit",
            ),
            (
                "link set vf 1 both duplicate 2%",
                "vf 1 set netem both duplicate 2%",
            ),
            (
                "link set flap up 5s down 200ms",
                "link set flap up 5s down 200ms",
            ),
            ("link set flap none", "link set flap none"),
        ] {
            assert_eq!(parse(said).unwrap().to_string(), means, "{said}");
        }
        let filters = VfFilterRange::Vlans {
            first: Vid::new(100).unwrap(),
            last: Vid::new(119).unwrap(),
        };
        assert_eq!(filters.iter().count(), 20);
    }

    #[test]
    fn a_key_may_stand_behind_the_spread_as_for_ethtool() {
        let key = ["6d"; 40].join(":");
        for spread in ["equal 2", "weight 3 1", "default"] {
            let in_front = parse(&format!("vf 0 rss hkey {key} {spread}"));
            assert!(in_front.is_ok(), "{in_front:?}");
            let behind = parse(&format!("vf 0 rss {spread} hkey {key}"));
            assert_eq!(behind, in_front, "{spread}");
        }
        let twice = parse(&format!("vf 0 rss hkey {key} equal 2 hkey {key}"));
        let said = twice.unwrap_err().to_string();
        assert!(said.contains("nothing more may follow"), "{said}");
    }

    #[test]
    fn a_nic_may_be_named_as_a_device() {
        for (said, dev, means) in [
            ("link set dev a vf 0 vlan 5", Some("a"), "vf 0 set vlan 5"),
            ("link set a down", Some("a"), "link set down"),
            ("link set dev up up", Some("up"), "link set up"),
            ("link set down", None, "link set down"),
            // Wherever it stands.
            ("link set up dev a", Some("a"), "link set up"),
            (
                "link set mtu 9000 dev a up",
                Some("a"),
                "link set mtu 9000 up",
            ),
            (
                "filter add dev b flow-type ether proto 0x88b5 action drop",
                Some("b"),
                "filter add flow-type ether proto 0x88b5 action drop priority manual",
            ),
            ("filter flush dev b", Some("b"), "filter flush"),
            (
                "filter del dev b 5",
                Some("b"),
                "filter delete 5 priority manual",
            ),
            (
                "link set a delay 1ms",
                Some("a"),
                "link set netem egress delay 1ms",
            ),
            (
                "link set dev delay loss 1%",
                Some("delay"),
                "link set netem egress loss 1%",
            ),
        ] {
            let words: Vec<_> = said.split(' ').collect();
            let addressed = Command::parse_addressed(&words).unwrap();
            assert_eq!(addressed.dev.as_deref(), dev, "{said}");
            assert_eq!(addressed.command.to_string(), means, "{said}");
            let here = Command::parse(&words).map_err(|why| why.to_string());
            match dev {
                None => assert_eq!(here, Ok(addressed.command)),
                Some(dev) => {
                    assert_eq!(here, Err(format!("dev '{dev}': no NIC can be named here")))
                }
            }
        }
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        for (text, says) in [
            ("", "command: vf, link, bridge, fdb or filter must follow"),
            ("vf", "vf: the number of a VF must follow"),
            ("eth0", "command 'eth0': vf, link, bridge, fdb or filter"),
            (
                "vf 256 set trust on",
                "vf '256': the number of a VF, 0 to 255",
            ),
            (
                "vf 0 frob",
                "vf 'frob': set, netem, rss, request, reset, mac, vlan,",
            ),
            (
                "vf 0 link_state auto",
                "did you mean 'state'? set, netem, rss, request,",
            ),
            ("vf 0 set lnk_state auto", "did you mean 'state'?"),
            ("fliter add", "command 'fliter': did you mean 'filter'?"),
            ("vf 0 state enabled", "did you mean 'enable'?"),
            (
                "vf 7-0 trust on",
                "vf '7-0': the number of a VF, 0 to 255, or a range",
            ),
            ("vf 0- trust on", "vf '': the number"),
            ("vf 0 vlan add 20-10", "vlan '20-10': 1 to 4094, or a range"),
            ("vf 0 vlan add 1-4095", "vlan 4095: VLANs are 1 to 4094"),
            (
                "vf 0 mtu 70000000000",
                "mtu '70000000000': 68 to 9216 bytes, 0",
            ),
            ("link set sriov_numvfs 4", "did you mean 'numvfs'?"),
            ("link set mtuu 1500", "link set 'mtuu': did you mean 'mtu'?"),
            ("link set dev a up dev b", "dev is said twice: say it once"),
            ("link set donw", "link set 'donw': did you mean 'down'?"),
            ("link set numvfs -1", "numvfs '-1': how many VFs"),
            ("link set mtu", "mtu: 68 to 9216 bytes must follow"),
            ("link set dev", "dev: the name of a NIC must follow"),
            (
                "link set a",
                "link set 'a': up, down, carrier, mtu, storm_control, numvfs, hwmode, flap,",
            ),
            (
                "link set a sideways",
                "link set 'sideways': up, down, carrier, mtu, storm_control, numvfs, hwmode, flap,",
            ),
            (
                "vf 0 set",
                "each with a value, or netem and its words alone must follow",
            ),
            (
                "vf 0 set vlan 5 netem delay 10ms",
                "setting 'netem': mac, vlan, qos,",
            ),
            (
                "vf 0 set vlan 5 netem delay 10ms",
                "or netem and its words alone",
            ),
            ("vf 0 set speed 3", "setting 'speed': mac, vlan, qos,"),
            ("vf 0 set trust maybe", "trust 'maybe': on or off"),
            ("vf 0 set state up", "state 'up': auto, enable or disable"),
            (
                "vf 0 set path fast",
                "path 'fast': direct, mediated or auto",
            ),
            ("vf 0 set mac 1:2", "mac '1:2': six bytes such as"),
            (
                "vf 0 set max_tx_rate -1",
                "max_tx_rate '-1': a whole number of Mb/s",
            ),
            ("vf 0 set vlan ten", "vlan 'ten': 1 to 4094, or 0 for none"),
            ("vf 0 vlan add 4095", "vlan 4095: VLANs are 1 to 4094"),
            (
                "vf 0 mac add 02:00:00:00:00:01 vid 3",
                "word 'vid': vlan or nothing",
            ),
            ("vf 0 vlan add 10 20", "word '20': nothing more may follow"),
            (
                "vf 0 rss",
                "rss: hkey KEY, equal N, weight W0 W1 ..., table Q0 ... Q127, default or context must",
            ),
            (
                "vf 0 rss hkey 6d:5a",
                "hkey '6d:5a': 40 bytes in hexadecimal",
            ),
            (
                "vf 0 rss weight 1 x",
                "weight 'x': a whole number for each queue",
            ),
            ("vf 0 rss equal 2 3", "word '3': nothing more may follow"),
            ("link up", "link 'up': set or show"),
            (
                "link show",
                "link 'show': it asks, and stands alone on a command line: show [dev NIC]",
            ),
            (
                "link set jitter 1ms",
                "link set 'jitter': up, down, carrier,",
            ),
            ("link set dev a speed 10000", "link set 'speed': up, down,"),
            ("link set mtu -1", "mtu '-1': 68 to 9216 bytes"),
            ("link set up down", "up or down is said twice: say it once"),
            ("link set mtu 1500 mtu 9000", "mtu is said twice"),
            ("link set carrier on carrier off", "carrier is said twice"),
            ("link set numvfs 0 numvfs 4", "numvfs is said twice"),
            ("vf 0 set vlan 5 vlan 6", "vlan is said twice: say it once"),
            (
                "vf 0 trust on spoofchk on trust off",
                "trust is said twice: say it once",
            ),
            (
                "vf 0 set rate 5 max_tx_rate 6",
                "max_tx_rate is said twice: say it once",
            ),
            ("link shw", "link 'shw': did you mean 'show'? set or show"),
            (
                "link set dellay 10ms",
                "link set 'dellay': did you mean 'delay'? up, down,",
            ),
            (
                "link set dev nic0 dellay 10ms",
                "link set 'dellay': did you mean 'delay'?",
            ),
            (
                "link set dev a los 1%",
                "link set 'los': did you mean 'loss'?",
            ),
            (
                "vf 0 mac ad 02:00:00:00:00:99",
                "mac 'ad': did you mean 'add'? add, del or the VF's MAC address",
            ),
            (
                "vf 0 vlan dle 5",
                "vlan 'dle': did you mean 'del'? add, del or the number",
            ),
            (
                "vf 0 rss eqal 4",
                "rss 'eqal': did you mean 'equal'? hkey KEY,",
            ),
            (
                "link set sideways\n",
                "link set 'sideways\\n': up, down, carrier, mtu, storm_control, numvfs, hwmode, flap,",
            ),
            (
                "link set hwmode hub",
                "hwmode 'hub': veb, vepa, floating or none",
            ),
        ] {
            let refusal = parse(text).unwrap_err().to_string();
            assert!(refusal.contains(says), "{text:?}: {refusal}");
        }
    }

    /// The first of each kind.
    fn each_once<T>(settings: Vec<T>) -> Vec<T> {
        let mut kinds = std::collections::HashSet::new();
        let is_first = |setting: &T| kinds.insert(std::mem::discriminant(setting));
        settings.into_iter().filter(is_first).collect()
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let mac = || any::<[u8; 6]>().prop_map(MacAddr);
        let vid = || (1u16..4095).prop_map(|v| Vid::new(v).unwrap());
        let setting = prop_oneof![
            mac().prop_map(VfSetting::Mac),
            any::<u16>().prop_map(VfSetting::Vlan),
            any::<u8>().prop_map(VfSetting::Qos),
            select(vec![VlanProto::Dot1Q, VlanProto::Dot1ad]).prop_map(VfSetting::Proto),
            any::<bool>().prop_map(VfSetting::Spoofchk),
            any::<bool>().prop_map(VfSetting::Trust),
            select(vec![
                VfLinkState::Auto,
                VfLinkState::Enable,
                VfLinkState::Disable
            ])
            .prop_map(VfSetting::State),
            any::<u32>().prop_map(|r| VfSetting::MaxTxRate(Mbps(r))),
            any::<u32>().prop_map(|r| VfSetting::MinTxRate(Mbps(r))),
            any::<u32>().prop_map(|r| VfSetting::StormControl(FloodRate(r))),
            any::<bool>().prop_map(VfSetting::QueryRss),
            any::<u32>().prop_map(VfSetting::Mtu),
            select(vec![Path::Direct, Path::Mediated, Path::Auto]).prop_map(VfSetting::Path),
            any::<u16>().prop_map(VfSetting::MaxFilters),
            any::<u16>().prop_map(VfSetting::MaxMcasts),
            any::<u16>().prop_map(VfSetting::MaxBufPages),
            any::<bool>().prop_map(VfSetting::Bridge),
            proptest::option::of(any::<u8>()).prop_map(VfSetting::Mirror),
        ];
        let filters = prop_oneof![
            (mac(), proptest::option::of(vid())).prop_map(|(mac, vlan)| VfFilter::Mac {
                mac,
                vlan
            }
            .into()),
            vid().prop_map(|vid| VfFilter::Vlan(vid).into()),
            (vid(), vid()).prop_filter_map("no range", |(first, last)| {
                (first < last).then_some(VfFilterRange::Vlans { first, last })
            }),
        ];
        let vfs = || {
            any::<(u8, u8)>().prop_map(|(a, b)| VfRange {
                first: VfIndex(a.min(b)),
                last: VfIndex(a.max(b)),
            })
        };
        let macs = || proptest::collection::vec(mac(), 0..3);
        let request = prop_oneof![
            select(vec![
                MailboxRequest::Change(VfRequest::Reset {
                    lists_groups: false,
                    lists_vlans: true,
                }),
                MailboxRequest::Link,
                MailboxRequest::Rss,
                MailboxRequest::Filter(FilterOp {
                    add: true,
                    matches: crate::FilterMatch::UnknownMulticast,
                    vlan: Some(Vid::new(5).unwrap()),
                    action: DriverAction::Receive,
                }),
                MailboxRequest::Filter(FilterOp {
                    add: true,
                    matches: crate::FilterMatch::EtherType(0x88b5),
                    vlan: None,
                    action: DriverAction::Queue(3),
                }),
                MailboxRequest::Filter(FilterOp {
                    add: true,
                    matches: crate::FilterMatch::EtherType(0x88b5),
                    vlan: None,
                    action: DriverAction::Drop,
                })
            ]),
            prop_oneof![
                mac().prop_map(VfRequest::Mac),
                macs().prop_map(VfRequest::Unicast),
                macs().prop_map(VfRequest::Multicast),
                proptest::collection::vec(any::<u16>().prop_map(crate::GroupHash::new), 0..4)
                    .prop_map(VfRequest::GroupHashes),
                any::<bool>().prop_map(VfRequest::Promisc),
                any::<bool>().prop_map(VfRequest::AllMulti),
                vid().prop_map(VfRequest::VlanAdd),
                vid().prop_map(VfRequest::VlanDel),
                proptest::collection::vec(vid(), 0..3).prop_map(VfRequest::Vlans),
                (68u32..9217).prop_map(|mtu| VfRequest::Mtu(crate::mtu::Mtu::new(mtu).unwrap())),
            ]
            .prop_map(MailboxRequest::Change),
        ];
        let link = prop_oneof![
            any::<bool>().prop_map(LinkSetting::Up),
            any::<u32>().prop_map(LinkSetting::Mtu),
            any::<u32>().prop_map(|pps| LinkSetting::StormControl(FloodRate(pps))),
            any::<u16>().prop_map(LinkSetting::NumVfs),
        ];
        let spread = proptest::option::of(prop_oneof![
            Just(RssSpread::InUse),
            any::<u16>().prop_map(RssSpread::Equal),
            proptest::collection::vec(any::<u16>(), 1..5).prop_map(RssSpread::Weight),
        ]);
        prop_oneof![
            (vfs(), proptest::collection::vec(setting, 1..5)).prop_map(|(vfs, settings)| {
                Command::SetVf {
                    vfs,
                    settings: each_once(settings),
                }
            }),
            (vfs(), any::<bool>(), filters)
                .prop_map(|(vfs, add, filters)| vf_filters(vfs, add, filters)),
            proptest::collection::vec(link, 1..3)
                .prop_map(|settings| Command::SetLink(each_once(settings))),
            (vfs(), request).prop_map(|(vfs, request)| Command::Request { vfs, request }),
            vfs().prop_map(|vfs| Command::Reset { vfs }),
            select(SwitchMode::ALL.to_vec()).prop_map(Command::SetSwitchMode),
            (mac(), proptest::option::of(vid()), any::<bool>()).prop_map(|(mac, vlan, add)| {
                let entry = SelfEntry { mac, vlan };
                if add {
                    Command::FdbAdd(entry)
                } else {
                    Command::FdbDel(entry)
                }
            }),
            (vfs(), any::<bool>(), spread).prop_filter_map(
                "nothing to set",
                |(vfs, key, spread)| {
                    let key = key.then(RssKey::default);
                    (key.is_some() || spread.is_some()).then_some(Command::SetRss {
                        vfs,
                        key,
                        spread,
                    })
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn words_round_trip(command in any_command()) {
            prop_assert_eq!(parse(&command.to_string()), Ok(command));
        }

        #[test]
        fn any_words_are_a_command_or_one_line(
            words in proptest::collection::vec(
                prop_oneof![
                    3 => select(vec!["vf", "link", "bridge", "fdb", "dev", "filter", "flow-type", "0", "set", "mac", "vlan", "add", "del", "up", "path", "direct"])
                        .prop_map(str::to_owned),
                    1 => any::<String>(),
                ],
                0..8,
            )
        ) {
            if let Err(refusal) = Command::parse(&words) {
                prop_assert!(!refusal.to_string().contains('\n'));
            }
        }
    }
}
