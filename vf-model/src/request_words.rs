//! What a driver asks of its NIC, in words: those of the mailbox between VF and PF (ixgbe's, Intel's virtchnl), and of the control queue
//! where that says more. `vf N request`, scenarios and the log have them in common. Grants nothing.

use std::fmt;

use vf_packet::MacAddr;

use crate::mailbox::{GroupHash, MailboxRequest, RxMode, UnknownIn, VfRequest};
use crate::mtu::{MTU_VALUES, Mtu};
use crate::refusal::Refusal;
use crate::words::{ParseError, Words, number};

const CHANGES: &str =
    "reset, mac, macvlan, multicast, hashes, table, promisc, allmulti, mode, vlan, vlans or mtu";
const MESSAGES: &str = "reset, mac, macvlan, multicast, hashes, table, promisc, allmulti, mode, vlan, vlans, mtu, filter, link or rss";
const MODES: &str = "promisc, allmulti, alluni, nomulti, nouni or nobcast";
const ADDRESS: &str = "a MAC address, or the first of N that follow each other as MAC*N";
const HASH: &str = "a hash of groups, 0x000 to 0xfff";
/// Most addresses that a list can have: more than any NIC has room for.
const MAX_TABLE: u32 = 4096;

impl VfRequest {
    /// Reads what is asked for: `reset [groups] [vlans]` (it will list those), `mac MAC`, `macvlan [MAC ...]`, `multicast [MAC ...]`,
    /// `hashes [HEX ...]` (bits 36 to 47 of groups), `table [MAC ...]`, `promisc on|off`, `allmulti on|off`, `mode [promisc] [allmulti] ...`, `vlan add|del VID`, `vlans [VID ...]`
    /// or `mtu BYTES`; of addresses that follow each other `MAC*N` are as many.
    ///
    /// # Errors
    /// [`Refusal`] that names the word at fault and what is allowed in its place.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<VfRequest, Refusal> {
        let mut words = Words::new("request", words);
        let verb = words.next(CHANGES)?;
        let request = words.vf_request(verb)?;
        let request = request.ok_or_else(|| Refusal::word("request", verb, CHANGES))?;
        words.end()?;
        Ok(request)
    }
}

impl MailboxRequest {
    /// Reads a message: what [`VfRequest::parse`] reads, `link`, `rss`, `rss delete`, `rss [types TYPE ...] [hkey KEY] [SPREAD]`, or `filter
    /// add|del MATCH`.
    ///
    /// # Errors
    /// As of [`VfRequest::parse`].
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<MailboxRequest, Refusal> {
        let mut words = Words::new("request", words);
        let message = words.mailbox_request()?;
        words.end()?;
        Ok(message)
    }
}

impl<S: AsRef<str>> Words<'_, S> {
    /// All words that follow.
    pub(crate) fn mailbox_request(&mut self) -> Result<MailboxRequest, Refusal> {
        Ok(match self.next(MESSAGES)? {
            "link" => MailboxRequest::Link,
            "rss" => match self.peek() {
                None => MailboxRequest::Rss,
                Some("delete") => {
                    self.next("delete")?;
                    MailboxRequest::SetRss(None)
                }
                Some(_) => MailboxRequest::SetRss(Some(Box::new(self.driver_rss()?))),
            },
            "filter" => {
                let add = self.add_or_del()?;
                MailboxRequest::Filter(self.driver_filter(add)?)
            }
            verb => match self.vf_request(verb)? {
                Some(request) => MailboxRequest::Change(request),
                None => return Err(Refusal::word("request", verb, MESSAGES)),
            },
        })
    }

    /// What is asked for with this verb; `None` if it is none.
    fn vf_request(&mut self, verb: &str) -> Result<Option<VfRequest>, Refusal> {
        Ok(Some(match verb {
            "reset" => self.reset()?,
            "mac" => VfRequest::Mac(self.next("a MAC address")?.parse()?),
            "macvlan" => VfRequest::Unicast(self.macs()?),
            "multicast" => VfRequest::Multicast(self.macs()?),
            "hashes" => VfRequest::GroupHashes(self.hashes()?),
            "table" => {
                let all = self.macs()?.into_iter();
                let (multicast, unicast) = all.partition(|mac: &MacAddr| mac.is_multicast());
                VfRequest::MacTable { unicast, multicast }
            }
            "promisc" => VfRequest::Promisc(self.on_or_off("promisc")?),
            "allmulti" => VfRequest::AllMulti(self.on_or_off("allmulti")?),
            "mode" => VfRequest::RxMode(self.rx_mode()?),
            "vlan" => match self.add_or_del()? {
                true => VfRequest::VlanAdd(self.vid()?),
                false => VfRequest::VlanDel(self.vid()?),
            },
            "vlans" => {
                let mut vlans = Vec::new();
                while !self.is_done() {
                    vlans.push(self.vid()?);
                }
                VfRequest::Vlans(vlans)
            }
            "mtu" => {
                let mtu = self.next(MTU_VALUES)?;
                VfRequest::Mtu(Mtu::new(number("mtu", mtu, MTU_VALUES)?)?)
            }
            _ => return Ok(None),
        }))
    }

    fn reset(&mut self) -> Result<VfRequest, ParseError> {
        let (mut lists_groups, mut lists_vlans) = (false, false);
        while !self.is_done() {
            match self.next("groups or vlans")? {
                "groups" => lists_groups = true,
                "vlans" => lists_vlans = true,
                other => return Err(ParseError::word("reset", other, "groups or vlans")),
            }
        }
        Ok(VfRequest::Reset {
            lists_groups,
            lists_vlans,
        })
    }

    fn rx_mode(&mut self) -> Result<RxMode, ParseError> {
        let mut mode = RxMode::default();
        while !self.is_done() {
            let word = self.next(MODES)?;
            match mode.named().into_iter().find(|(name, _)| *name == word) {
                Some((_, on)) => *on = true,
                None => return Err(ParseError::word("mode", word, MODES)),
            }
        }
        Ok(mode)
    }

    fn hashes(&mut self) -> Result<Vec<GroupHash>, Refusal> {
        let mut all = Vec::new();
        while !self.is_done() {
            let word = self.next(HASH)?;
            let hex = word.strip_prefix("0x").unwrap_or(word);
            match u16::from_str_radix(hex, 16) {
                Ok(bits) if bits <= 0xfff => all.push(GroupHash::new(bits)),
                _ => return Err(Refusal::word("hashes", word, HASH)),
            }
        }
        Ok(all)
    }

    fn macs(&mut self) -> Result<Vec<MacAddr>, Refusal> {
        let mut all = Vec::new();
        while !self.is_done() {
            let word = self.next(ADDRESS)?;
            let (first, n) = word.split_once('*').unwrap_or((word, "1"));
            let first: MacAddr = first.parse()?;
            let n: u32 = number("table", n, ADDRESS)?;
            if n > MAX_TABLE {
                return Err(Refusal::word("table", word, "at most 4096 addresses"));
            }
            all.extend((0..n).map(|i| first.offset(i)));
        }
        Ok(all)
    }

    fn on_or_off(&mut self, what: &'static str) -> Result<bool, Refusal> {
        match self.next("on or off")? {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(Refusal::word(what, other, "on or off")),
        }
    }
}

impl RxMode {
    /// Its modes by name.
    fn named(&mut self) -> [(&'static str, &mut bool); 6] {
        [
            ("promisc", &mut self.promisc),
            ("allmulti", &mut self.allmulti),
            ("alluni", &mut self.alluni),
            ("nomulti", &mut self.nomulti),
            ("nouni", &mut self.nouni),
            ("nobcast", &mut self.nobcast),
        ]
    }
}

/// The names of those that are on, each behind a space.
impl fmt::Display for RxMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut mode = *self;
        let on = mode.named().into_iter().filter(|(_, on)| **on);
        on.into_iter()
            .try_for_each(|(name, _)| write!(f, " {name}"))
    }
}

impl fmt::Display for VfRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, verb, macs: [&[MacAddr]; 2]| {
            f.write_str(verb)?;
            let mut macs = macs.into_iter().flatten();
            macs.try_for_each(|mac| write!(f, " {mac}"))
        };
        let on = |on: &bool| if *on { "on" } else { "off" };
        match self {
            VfRequest::Reset {
                lists_groups,
                lists_vlans,
            } => {
                let groups = if *lists_groups { " groups" } else { "" };
                let vlans = if *lists_vlans { " vlans" } else { "" };
                write!(f, "reset{groups}{vlans}")
            }
            VfRequest::Mtu(mtu) => write!(f, "mtu {mtu}"),
            VfRequest::Mac(mac) => write!(f, "mac {mac}"),
            VfRequest::RxMode(mode) => write!(f, "mode{mode}"),
            VfRequest::Promisc(is) => write!(f, "promisc {}", on(is)),
            VfRequest::AllMulti(is) => write!(f, "allmulti {}", on(is)),
            VfRequest::MacTable { unicast, multicast } => list(f, "table", [unicast, multicast]),
            VfRequest::Unicast(macs) => list(f, "macvlan", [macs, &[]]),
            VfRequest::Multicast(groups) => list(f, "multicast", [groups, &[]]),
            VfRequest::GroupHashes(hashes) => {
                f.write_str("hashes")?;
                hashes.iter().try_for_each(|hash| write!(f, " {hash}"))
            }
            VfRequest::VlanAdd(vid) => write!(f, "vlan add {vid}"),
            VfRequest::VlanDel(vid) => write!(f, "vlan del {vid}"),
            VfRequest::Vlans(vlans) => {
                f.write_str("vlans")?;
                vlans.iter().try_for_each(|vid| write!(f, " {vid}"))
            }
            // It has no word of its own: it is what filters of the driver have come to.
            VfRequest::UnknownIn(unknown) => {
                f.write_str("unknown")?;
                unknown.iter().try_for_each(|u| write!(f, " {u}"))
            }
        }
    }
}

impl fmt::Display for GroupHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#05x}", self.get())
    }
}

impl fmt::Display for UnknownIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.multicast {
            true => "unknown-multicast",
            false => "unknown-unicast",
        };
        write!(f, "{kind} vlan {}", self.vid)
    }
}

impl fmt::Display for MailboxRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MailboxRequest::Change(request) => request.fmt(f),
            MailboxRequest::Link => f.write_str("link"),
            MailboxRequest::Rss => f.write_str("rss"),
            MailboxRequest::SetRss(None) => f.write_str("rss delete"),
            MailboxRequest::SetRss(Some(rss)) => write!(f, "rss {rss}"),
            MailboxRequest::Filter(op) => write!(f, "filter {op}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_or_refused_in_a_line() {
        let parse = |text: &str| VfRequest::parse(&text.split(' ').collect::<Vec<_>>());
        let mode = RxMode {
            promisc: true,
            nobcast: true,
            ..RxMode::default()
        };
        assert_eq!(parse("mode promisc nobcast"), Ok(VfRequest::RxMode(mode)));
        assert_eq!(parse("mode"), Ok(VfRequest::RxMode(RxMode::default())));
        let mac = |last| MacAddr([2, 0, 0, 0, 0, last]);
        let group = MacAddr([1, 0, 0x5e, 0, 0, 1]);
        assert_eq!(
            parse("table 02:00:00:00:00:01*2 01:00:5e:00:00:01"),
            Ok(VfRequest::MacTable {
                unicast: vec![mac(1), mac(2)],
                multicast: vec![group],
            })
        );
        for same in [
            "reset",
            "reset groups vlans",
            "mode promisc allmulti alluni nomulti nouni nobcast",
            "table 02:00:00:00:00:01 01:00:5e:00:00:01",
            "vlans",
            "vlans 5 4094",
            "promisc off",
            "hashes 0x001 0xfff",
        ] {
            assert_eq!(parse(same).unwrap().to_string(), same);
        }
        for (text, says) in [
            ("prmisc on", "request 'prmisc': did you mean 'promisc'?"),
            ("promisc", "promisc: on or off must follow"),
            // Questions change nothing.
            ("link", "request 'link': "),
            ("mode up", "mode 'up': promisc, allmulti"),
            ("hashes 0x1000", "hashes '0x1000': "),
            ("mac", "mac: a MAC address must follow"),
            ("vlan add 4095", "vlan 4095: VLANs are 1 to 4094"),
            ("table 02:00:00:00:00:01*5000", "at most 4096"),
            ("reset all", "reset 'all': groups or vlans"),
            (
                "mac 02:00:00:00:00:01 x",
                "word 'x': nothing more may follow",
            ),
        ] {
            let refusal = parse(text).unwrap_err().to_string();
            assert!(refusal.contains(says), "{text}: {refusal}");
        }
    }
}
