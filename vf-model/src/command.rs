//! What an administrator can ask of a NIC, in the words of `ip link`, as words. Never applies anything.

use std::fmt;

use crate::fdb::SelfEntry;
use crate::filter_spec::{FilterId, FilterMatch, FilterPriority, FilterSpec, MatchError};
use crate::refusal::Refusal;
use crate::rss::{RssKey, RssSpread};
use crate::switch_mode::SwitchMode;
use crate::vf::{SettingKey, VfIndex, VfSetting};
use crate::vf_filter::VfFilter;
use crate::words::Words;

/// A change to a NIC. Its `Display` is the words it is parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `vf N set KEY VALUE ...`: all of them or none.
    SetVf {
        /// Whose policy.
        vf: VfIndex,
        /// What to change, in this order.
        settings: Vec<VfSetting>,
    },
    /// `vf N mac add ADDR [vlan VID]`, `vf N vlan add VID`.
    VfFilterAdd {
        /// Who receives it.
        vf: VfIndex,
        /// What is received.
        filter: VfFilter,
    },
    /// `vf N mac del ADDR [vlan VID]`, `vf N vlan del VID`.
    VfFilterDel {
        /// Who received it.
        vf: VfIndex,
        /// What was received.
        filter: VfFilter,
    },
    /// `vf N rss [hkey KEY] [equal N|weight W0 W1 ...|default]`: what is given of both.
    SetRss {
        /// Whose queues.
        vf: VfIndex,
        /// Key of the hash.
        key: Option<RssKey>,
        /// How flows are spread.
        spread: Option<RssSpread>,
    },
    /// `link set up|down`: the NIC's own port.
    SetLink {
        /// Whether there is a link.
        up: bool,
    },
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

impl Command {
    /// Reads a command from its words, such as `vf 0 set mac 02:00:00:00:00:01 spoofchk on` or `link set down`.
    ///
    /// # Errors
    /// [`Refusal`] that names the word at fault and what is allowed in its place.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Command, Refusal> {
        const COMMANDS: &str = "vf, link, fdb or filter";
        let mut words = Words::new("command", words);
        let command = match words.next(COMMANDS)? {
            "vf" => words.vf_command()?,
            "link" => words.link_command()?,
            "fdb" => words.fdb_command()?,
            "filter" => words.filter_command()?,
            other => return Err(Refusal::word("command", other, COMMANDS)),
        };
        words.end()?;
        Ok(command)
    }
}

impl<S: AsRef<str>> Words<'_, S> {
    fn link_command(&mut self) -> Result<Command, Refusal> {
        match self.next("set")? {
            "set" => {}
            other => {
                let allowed = "set up, set down or set hwmode";
                return Err(Refusal::word("link", other, allowed));
            }
        }
        const KEYS: &str = "up, down or hwmode";
        match self.next(KEYS)? {
            "up" => Ok(Command::SetLink { up: true }),
            "down" => Ok(Command::SetLink { up: false }),
            "hwmode" => {
                let mode = self.next("veb, vepa, floating or none")?;
                Ok(Command::SetSwitchMode(mode.parse()?))
            }
            other => Err(Refusal::word("link set", other, KEYS)),
        }
    }

    fn fdb_command(&mut self) -> Result<Command, Refusal> {
        let add = self.add_or_del()?;
        let mac = self.next("a MAC address")?.parse()?;
        let mut vlan = None;
        // In any order, and `self` is what bridge(8) takes for said.
        while !self.is_done() {
            match self.next("vlan or self")? {
                "self" => {}
                "vlan" => vlan = Some(self.vid()?),
                other => return Err(Refusal::word("word", other, "vlan or self")),
            }
        }
        let entry = SelfEntry { mac, vlan };
        Ok(match add {
            true => Command::FdbAdd(entry),
            false => Command::FdbDel(entry),
        })
    }

    fn filter_command(&mut self) -> Result<Command, Refusal> {
        const VERBS: &str = "add, replace, del or flush";
        match self.next(VERBS)? {
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
            other => Err(Refusal::word("filter", other, VERBS)),
        }
    }

    fn vf_command(&mut self) -> Result<Command, Refusal> {
        const VERBS: &str = "set, mac, vlan or rss";
        let vf = self.vf()?;
        match self.next(VERBS)? {
            "set" => self.settings(vf),
            "mac" => {
                let add = self.add_or_del()?;
                let mac = self.next("a MAC address")?.parse()?;
                let vlan = match self.is_done() {
                    true => None,
                    false => match self.next("vlan")? {
                        "vlan" => Some(self.vid()?),
                        other => return Err(Refusal::word("word", other, "vlan or nothing")),
                    },
                };
                Ok(vf_filter(vf, add, VfFilter::Mac { mac, vlan }))
            }
            "vlan" => {
                let add = self.add_or_del()?;
                let vid = self.vid()?;
                Ok(vf_filter(vf, add, VfFilter::Vlan(vid)))
            }
            "rss" => {
                let (key, spread) = self.rss()?;
                Ok(Command::SetRss { vf, key, spread })
            }
            other => Err(Refusal::word("vf", other, VERBS)),
        }
    }

    fn add_or_del(&mut self) -> Result<bool, Refusal> {
        match self.next("add or del")? {
            "add" => Ok(true),
            "del" => Ok(false),
            other => Err(Refusal::word("word", other, "add or del")),
        }
    }

    fn settings(&mut self, vf: VfIndex) -> Result<Command, Refusal> {
        let mut settings = vec![self.setting()?];
        while !self.is_done() {
            settings.push(self.setting()?);
        }
        Ok(Command::SetVf { vf, settings })
    }

    fn setting(&mut self) -> Result<VfSetting, Refusal> {
        let key = SettingKey::named(self.next(SettingKey::names())?)?;
        Ok(key.parse(self.next(key.allowed)?)?)
    }
}

fn vf_filter(vf: VfIndex, add: bool, filter: VfFilter) -> Command {
    if add {
        Command::VfFilterAdd { vf, filter }
    } else {
        Command::VfFilterDel { vf, filter }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = |f: &mut fmt::Formatter<'_>, vf: &VfIndex, verb, filter: &VfFilter| {
            let words = filter.to_string();
            let (kind, rest) = words.split_once(' ').unwrap_or((&words, ""));
            write!(f, "vf {} {kind} {verb} {rest}", vf.0)
        };
        match self {
            Command::SetVf { vf, settings } => {
                write!(f, "vf {} set", vf.0)?;
                settings.iter().try_for_each(|s| write!(f, " {s}"))
            }
            Command::VfFilterAdd { vf, filter: which } => filter(f, vf, "add", which),
            Command::VfFilterDel { vf, filter: which } => filter(f, vf, "del", which),
            Command::SetRss { vf, key, spread } => {
                write!(f, "vf {} rss", vf.0)?;
                if let Some(key) = key {
                    write!(f, " hkey {key}")?;
                }
                spread.iter().try_for_each(|s| write!(f, " {s}"))
            }
            Command::SetLink { up } => {
                write!(f, "link set {}", if *up { "up" } else { "down" })
            }
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
                vf: VfIndex(3),
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
                vf: VfIndex(0),
                filter: VfFilter::Vlan(Vid::new(10).unwrap()),
            })
        );
        // iproute2 has an older word for it, too.
        let limit = parse("vf 0 set rate 100").unwrap();
        assert_eq!(limit.to_string(), "vf 0 set max_tx_rate 100");
        assert_eq!(parse("link set down"), Ok(Command::SetLink { up: false }));
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        for (text, says) in [
            ("", "command: vf, link, fdb or filter must follow"),
            ("vf", "vf: the number of a VF must follow"),
            ("eth0", "command 'eth0': vf, link, fdb or filter"),
            (
                "vf 256 set trust on",
                "vf '256': the number of a VF, 0 to 255",
            ),
            ("vf 0 frob", "vf 'frob': set, mac, vlan or rss"),
            ("vf 0 set", "each with a value must follow"),
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
                "rss: hkey KEY, equal N, weight W0 W1 ... or default must",
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
            ("link up", "link 'up': set up, set down or set hwmode"),
            (
                "link set sideways\n",
                "link set 'sideways\\n': up, down or hwmode",
            ),
            (
                "link set hwmode hub",
                "hwmode 'hub': veb, vepa, floating or none",
            ),
            (
                "fdb add 02:00:00:00:00:01 master",
                "word 'master': vlan or self",
            ),
        ] {
            let refusal = parse(text).unwrap_err().to_string();
            assert!(refusal.contains(says), "{text:?}: {refusal}");
        }
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
            select(vec![Path::Direct, Path::Mediated, Path::Auto]).prop_map(VfSetting::Path),
            any::<u16>().prop_map(VfSetting::MaxFilters),
            any::<u16>().prop_map(VfSetting::MaxMcasts),
            any::<u16>().prop_map(VfSetting::MaxBufPages),
            any::<bool>().prop_map(VfSetting::Bridge),
            proptest::option::of(any::<u8>()).prop_map(VfSetting::Mirror),
        ];
        let filter = prop_oneof![
            (mac(), proptest::option::of(vid()))
                .prop_map(|(mac, vlan)| VfFilter::Mac { mac, vlan }),
            vid().prop_map(VfFilter::Vlan),
        ];
        let spread = proptest::option::of(prop_oneof![
            Just(RssSpread::InUse),
            any::<u16>().prop_map(RssSpread::Equal),
            proptest::collection::vec(any::<u16>(), 1..5).prop_map(RssSpread::Weight),
        ]);
        prop_oneof![
            (any::<u8>(), proptest::collection::vec(setting, 1..5)).prop_map(|(vf, settings)| {
                let vf = VfIndex(vf);
                Command::SetVf { vf, settings }
            }),
            (any::<u8>(), any::<bool>(), filter).prop_map(|(vf, add, filter)| vf_filter(
                VfIndex(vf),
                add,
                filter
            )),
            any::<bool>().prop_map(|up| Command::SetLink { up }),
            select(SwitchMode::ALL.to_vec()).prop_map(Command::SetSwitchMode),
            (mac(), proptest::option::of(vid()), any::<bool>()).prop_map(|(mac, vlan, add)| {
                let entry = SelfEntry { mac, vlan };
                if add {
                    Command::FdbAdd(entry)
                } else {
                    Command::FdbDel(entry)
                }
            }),
            (any::<u8>(), any::<bool>(), spread).prop_filter_map(
                "nothing to set",
                |(vf, key, spread)| {
                    let vf = VfIndex(vf);
                    let key = key.then(RssKey::default);
                    (key.is_some() || spread.is_some()).then_some(Command::SetRss {
                        vf,
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
                    3 => select(vec!["vf", "link", "filter", "flow-type", "0", "set", "mac", "vlan", "add", "del", "up", "path", "direct"])
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
