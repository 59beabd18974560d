//! What an administrator can ask of a NIC, in the words of `ip link`, and why it may be refused. Never applies anything.

use std::fmt;

use crate::addr::{MacAddr, Vid};
use crate::filter::Filter;
use crate::vf::{VfIndex, VfSetting};

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
    FilterAdd {
        /// Who receives it.
        vf: VfIndex,
        /// What is received.
        filter: Filter,
    },
    /// `vf N mac del ADDR [vlan VID]`, `vf N vlan del VID`.
    FilterDel {
        /// Who received it.
        vf: VfIndex,
        /// What was received.
        filter: Filter,
    },
    /// `link set up|down`: the NIC's own port.
    SetLink {
        /// Whether there is a link.
        up: bool,
    },
}

/// Why a command is refused; nothing has changed. One line that says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A word that is not among the allowed ones.
    #[error("{what} '{got}': {allowed}")]
    Word {
        /// What it was meant to be.
        what: &'static str,
        /// The word.
        got: Box<str>,
        /// What is allowed there.
        allowed: &'static str,
    },
    /// The command ends too early.
    #[error("{after}: {allowed} must follow")]
    Missing {
        /// The last word.
        after: Box<str>,
        /// What is allowed there.
        allowed: &'static str,
    },
    /// There is no such VF.
    #[error("{vf}: the VFs of this NIC are 0 to {last}")]
    NoSuchVf {
        /// Which was named.
        vf: VfIndex,
        /// The last there is.
        last: VfIndex,
    },
    /// A group address, or zero.
    #[error(
        "mac {0}: a VF's address is a unicast address other than zero; group addresses are received without a filter"
    )]
    NotUnicast(MacAddr),
    /// A VLAN id out of range.
    #[error("vlan {0}: VLANs are 1 to 4094")]
    Vlan(u16),
    /// A priority out of range.
    #[error("qos {0}: priorities are 0 to 7")]
    Qos(u8),
    /// A property of the port VLAN of a VF that has none.
    #[error("qos and proto belong to a port VLAN: set vlan first")]
    NoPortVlan,
    /// A port VLAN for a VF with VLAN filters, or the reverse.
    #[error("a VF has a port VLAN or filters that name VLANs, not both: remove the other first")]
    PortVlanAndFilters,
    /// The filter is there already.
    #[error("{0}: this filter is there already")]
    FilterExists(Filter),
    /// There is no such filter.
    #[error("{0}: there is no such filter")]
    NoSuchFilter(Filter),
    /// No room for another filter.
    #[error(
        "a VF has at most {room} filters of a kind ({} without trust)",
        crate::MAX_UNTRUSTED_FILTERS
    )]
    FiltersFull {
        /// How many this VF may have.
        room: usize,
    },
}

impl Refusal {
    pub(crate) fn word(what: &'static str, got: &str, allowed: &'static str) -> Refusal {
        // A line is a line, whatever was typed.
        let got = got.escape_debug().take(64).collect::<String>().into();
        Refusal::Word { what, got, allowed }
    }
}

const SETTINGS: &str =
    "mac, vlan, qos, proto, spoofchk, trust, state, max_tx_rate or path, each with a value";

impl Command {
    /// Reads a command from its words, such as `vf 0 set mac 02:00:00:00:00:01 spoofchk on` or `link set down`.
    ///
    /// # Errors
    /// [`Refusal`] that names the word at fault and what is allowed in its place.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<Command, Refusal> {
        let mut words = Words {
            rest: words.iter(),
            last: "command".into(),
        };
        let command = match words.next("vf or link")? {
            "vf" => words.vf_command()?,
            "link" => words.link_command()?,
            other => return Err(Refusal::word("command", other, "vf or link")),
        };
        words.end()?;
        Ok(command)
    }
}

struct Words<'a, S> {
    rest: std::slice::Iter<'a, S>,
    last: Box<str>,
}

impl<'a, S: AsRef<str>> Words<'a, S> {
    fn next(&mut self, allowed: &'static str) -> Result<&'a str, Refusal> {
        let Some(word) = self.rest.next().map(S::as_ref) else {
            return Err(Refusal::Missing {
                after: self.last.clone(),
                allowed,
            });
        };
        self.last = word.escape_debug().take(64).collect::<String>().into();
        Ok(word)
    }

    fn end(&mut self) -> Result<(), Refusal> {
        match self.rest.next() {
            None => Ok(()),
            Some(extra) => Err(Refusal::word(
                "word",
                extra.as_ref(),
                "nothing more may follow",
            )),
        }
    }

    fn link_command(&mut self) -> Result<Command, Refusal> {
        match self.next("set")? {
            "set" => {}
            other => return Err(Refusal::word("link", other, "set up or set down")),
        }
        match self.next("up or down")? {
            "up" => Ok(Command::SetLink { up: true }),
            "down" => Ok(Command::SetLink { up: false }),
            other => Err(Refusal::word("link set", other, "up or down")),
        }
    }

    fn vf_command(&mut self) -> Result<Command, Refusal> {
        const VERBS: &str = "set, mac or vlan";
        let index = self.next("the number of a VF")?;
        let vf = index
            .parse()
            .map(VfIndex)
            .map_err(|_| Refusal::word("vf", index, "the number of a VF, 0 to 255"))?;
        match self.next(VERBS)? {
            "set" => self.settings(vf),
            "mac" => {
                let add = self.add_or_del()?;
                let mac = self.next("a MAC address")?.parse()?;
                let vlan = match self.rest.len() {
                    0 => None,
                    _ => match self.next("vlan")? {
                        "vlan" => Some(self.vid()?),
                        other => return Err(Refusal::word("word", other, "vlan or nothing")),
                    },
                };
                Ok(filter_command(vf, add, Filter::Mac { mac, vlan }))
            }
            "vlan" => {
                let add = self.add_or_del()?;
                let vid = self.vid()?;
                Ok(filter_command(vf, add, Filter::Vlan(vid)))
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

    fn vid(&mut self) -> Result<Vid, Refusal> {
        const ALLOWED: &str = "1 to 4094";
        Vid::new(number("vlan", self.next(ALLOWED)?, ALLOWED)?)
    }

    fn settings(&mut self, vf: VfIndex) -> Result<Command, Refusal> {
        let mut settings = vec![self.setting()?];
        while self.rest.len() > 0 {
            settings.push(self.setting()?);
        }
        Ok(Command::SetVf { vf, settings })
    }

    fn setting(&mut self) -> Result<VfSetting, Refusal> {
        Ok(match self.next(SETTINGS)? {
            "mac" => VfSetting::Mac(self.next("a MAC address")?.parse()?),
            "vlan" => {
                const ALLOWED: &str = "1 to 4094, or 0 for none";
                VfSetting::Vlan(number("vlan", self.next(ALLOWED)?, ALLOWED)?)
            }
            "qos" => VfSetting::Qos(number("qos", self.next("0 to 7")?, "0 to 7")?),
            "proto" => VfSetting::Proto(self.next("802.1Q or 802.1ad")?.parse()?),
            "spoofchk" => VfSetting::Spoofchk(self.on_off("spoofchk")?),
            "trust" => VfSetting::Trust(self.on_off("trust")?),
            "state" => VfSetting::State(self.next("auto, enable or disable")?.parse()?),
            "max_tx_rate" => VfSetting::MaxTxRate(self.next("Mb/s, 0 for no limit")?.parse()?),
            "path" => VfSetting::Path(self.next("direct or mediated")?.parse()?),
            other => return Err(Refusal::word("setting", other, SETTINGS)),
        })
    }

    fn on_off(&mut self, what: &'static str) -> Result<bool, Refusal> {
        match self.next("on or off")? {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(Refusal::word(what, other, "on or off")),
        }
    }
}

fn filter_command(vf: VfIndex, add: bool, filter: Filter) -> Command {
    if add {
        Command::FilterAdd { vf, filter }
    } else {
        Command::FilterDel { vf, filter }
    }
}

fn number<T: std::str::FromStr>(
    what: &'static str,
    text: &str,
    allowed: &'static str,
) -> Result<T, Refusal> {
    text.parse().map_err(|_| Refusal::word(what, text, allowed))
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filter = |f: &mut fmt::Formatter<'_>, vf: &VfIndex, verb, filter: &Filter| {
            let words = filter.to_string();
            let (kind, rest) = words.split_once(' ').unwrap_or((&words, ""));
            write!(f, "vf {} {kind} {verb} {rest}", vf.0)
        };
        match self {
            Command::SetVf { vf, settings } => {
                write!(f, "vf {} set", vf.0)?;
                settings.iter().try_for_each(|s| write!(f, " {s}"))
            }
            Command::FilterAdd { vf, filter: which } => filter(f, vf, "add", which),
            Command::FilterDel { vf, filter: which } => filter(f, vf, "del", which),
            Command::SetLink { up } => {
                write!(f, "link set {}", if *up { "up" } else { "down" })
            }
        }
    }
}
