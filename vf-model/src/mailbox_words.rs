//! What a driver asks over the mailbox between VF and PF, in words, for guests whose front end answers their control queue itself: the
//! messages of ixgbe's mailbox and Intel's virtchnl that have a meaning here. Grants nothing.

use std::fmt;

use vf_packet::{MacAddr, Vid};

use crate::mailbox::{RxFilter, RxMode, VfRequest};
use crate::mtu::{MTU_VALUES, Mtu};
use crate::refusal::Refusal;
use crate::words::{Words, number};

/// A message from a VF to its PF. Its `Display` is the words it is parsed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailboxRequest {
    /// `reset`: the driver starts anew, and has asked for nothing.
    Reset,
    /// `mac ADDR`: its address (ixgbe's SET_MAC_ADDR).
    Mac(MacAddr),
    /// `macvlan [ADDR ...]`: all its further addresses (SET_MACVLAN).
    MacVlan(Vec<MacAddr>),
    /// `multicast [ADDR ...]`: all groups that it wants (SET_MULTICAST).
    Multicast(Vec<MacAddr>),
    /// `promisc on|off` (UPDATE_XCAST_MODE).
    Promisc(bool),
    /// `allmulti on|off` (UPDATE_XCAST_MODE).
    AllMulti(bool),
    /// `vlan add|del VID` (SET_VLAN).
    Vlan {
        /// Which.
        vid: Vid,
        /// Whether it wants it.
        add: bool,
    },
    /// `mtu BYTES`: the longest that it takes (SET_LPE).
    Mtu(Mtu),
    /// `link`: whether it is up (GET_LINK_STATE).
    Link,
    /// `rss`: the key and the table (GET_RSS_KEY, GET_RETA), which the administrator shows with `query_rss on`.
    Rss,
}

const VERBS: &str = "reset, mac, macvlan, multicast, promisc, allmulti, vlan, mtu, link or rss";

impl MailboxRequest {
    /// What it changes of what the driver has asked for before; `None` if it only asks for an answer.
    pub(crate) fn change(&self, asked: &RxFilter) -> Option<VfRequest> {
        let mode = |change: fn(&mut RxMode, bool), on: bool| {
            let mut mode = asked.mode;
            change(&mut mode, on);
            VfRequest::RxMode(mode)
        };
        Some(match self {
            // Until it lists groups and VLANs it has them all, as a driver without a control queue.
            MailboxRequest::Reset => VfRequest::Reset {
                lists_groups: false,
                lists_vlans: false,
            },
            MailboxRequest::Mac(mac) => VfRequest::Mac(*mac),
            MailboxRequest::MacVlan(macs) => VfRequest::Unicast(macs.clone()),
            MailboxRequest::Multicast(groups) => VfRequest::Multicast(groups.clone()),
            MailboxRequest::Promisc(on) => mode(|mode, on| mode.promisc = on, *on),
            MailboxRequest::AllMulti(on) => mode(|mode, on| mode.allmulti = on, *on),
            MailboxRequest::Vlan { vid, add: true } => VfRequest::VlanAdd(*vid),
            MailboxRequest::Vlan { vid, add: false } => VfRequest::VlanDel(*vid),
            MailboxRequest::Mtu(mtu) => VfRequest::Mtu(*mtu),
            MailboxRequest::Link | MailboxRequest::Rss => return None,
        })
    }
}

impl<S: AsRef<str>> Words<'_, S> {
    /// All words that follow.
    pub(crate) fn mailbox_request(&mut self) -> Result<MailboxRequest, Refusal> {
        Ok(match self.next(VERBS)? {
            "reset" => MailboxRequest::Reset,
            "mac" => MailboxRequest::Mac(self.next("a MAC address")?.parse()?),
            "macvlan" => MailboxRequest::MacVlan(self.macs()?),
            "multicast" => MailboxRequest::Multicast(self.macs()?),
            "promisc" => MailboxRequest::Promisc(self.on_or_off("promisc")?),
            "allmulti" => MailboxRequest::AllMulti(self.on_or_off("allmulti")?),
            "vlan" => {
                let add = self.add_or_del()?;
                let vid = self.vid()?;
                MailboxRequest::Vlan { vid, add }
            }
            "mtu" => {
                let mtu = self.next(MTU_VALUES)?;
                MailboxRequest::Mtu(Mtu::new(number("mtu", mtu, MTU_VALUES)?)?)
            }
            "link" => MailboxRequest::Link,
            "rss" => MailboxRequest::Rss,
            other => return Err(Refusal::word("request", other, VERBS)),
        })
    }

    fn macs(&mut self) -> Result<Vec<MacAddr>, Refusal> {
        let mut macs = Vec::new();
        while !self.is_done() {
            macs.push(self.next("a MAC address")?.parse()?);
        }
        Ok(macs)
    }

    fn on_or_off(&mut self, what: &'static str) -> Result<bool, Refusal> {
        match self.next("on or off")? {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(Refusal::word(what, other, "on or off")),
        }
    }
}

impl fmt::Display for MailboxRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: &bool| if *on { "on" } else { "off" };
        let list = |f: &mut fmt::Formatter<'_>, verb, macs: &Vec<MacAddr>| {
            f.write_str(verb)?;
            macs.iter().try_for_each(|mac| write!(f, " {mac}"))
        };
        match self {
            MailboxRequest::Reset => f.write_str("reset"),
            MailboxRequest::Mac(mac) => write!(f, "mac {mac}"),
            MailboxRequest::MacVlan(macs) => list(f, "macvlan", macs),
            MailboxRequest::Multicast(groups) => list(f, "multicast", groups),
            MailboxRequest::Promisc(is) => write!(f, "promisc {}", on(is)),
            MailboxRequest::AllMulti(is) => write!(f, "allmulti {}", on(is)),
            MailboxRequest::Vlan { vid, add } => {
                write!(f, "vlan {} {vid}", if *add { "add" } else { "del" })
            }
            MailboxRequest::Mtu(mtu) => write!(f, "mtu {mtu}"),
            MailboxRequest::Link => f.write_str("link"),
            MailboxRequest::Rss => f.write_str("rss"),
        }
    }
}
