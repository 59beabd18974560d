//! A filter of the NIC's table: which frames it matches, what becomes of them, and how it ranks. The kinds that real NICs have
//! tables for are kinds here; whatever else a filter looks at are fields. Never looks at a frame; that is [`crate::FilterTable`].

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vf_packet::{ETHERTYPE_IPV4, MacAddr, PROTO_SCTP, PROTO_TCP, PROTO_UDP, Vid, Vlan};

use crate::filter_fields::{MatchFields, MatchFlags};
use crate::rss::MAX_RSS_QUEUES;
use crate::rss_context::RssContextId;
use crate::vf::VfIndex;
use crate::words::ParseError;

/// Smallest value of the type field that is a type and not a length (IEEE 802.3 3.2.6).
const MIN_ETHERTYPE: u16 = 0x600;
/// MAC control frames, PAUSE among them (IEEE 802.3 31).
pub(crate) const MAC_CONTROL: u16 = 0x8808;
/// Why no filter can be on such an address.
pub(crate) const RESERVED: &str =
    "dst 01:80:c2:00:00:00 to 0f never passes a switch, so no filter sees it";

/// Why none can be on a port that there is not.
pub(crate) const PORTS: &str = "ports are 1 to 65535";
/// Nor on ends of two families.
pub(crate) const FAMILIES: &str = "src-ip and dst-ip are both IPv4 or both IPv6";
/// Nor on an address that nobody has.
pub(crate) const NOT_ZERO: &str = "dst is an address other than zero";

/// Why a filter on what VFs send says neither.
pub(crate) const EGRESS: &str =
    "a filter on what VFs send has action drop or action pass, and vf N in it says whose frames";
/// Why one on what is received does not say so.
pub(crate) const PASS: &str = "action pass is for egress filters: a received frame that no filter matches goes where its address says";

/// A transport protocol that filters know ports of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its number in an IP header.
    #[must_use]
    pub fn protocol(self) -> u8 {
        match self {
            Transport::Tcp => PROTO_TCP,
            Transport::Udp => PROTO_UDP,
        }
    }
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowEnd {
    /// Address.
    pub ip: IpAddr,
    /// Port, not 0.
    pub port: u16,
}

/// What a filter matches. If filters of several kinds match a frame, the first kind in this order wins; where fields come in
/// between is the order of [`MatchFlags`](crate::MatchFlags), as it is of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterMatch {
    /// One flow. Fragments have no ports and match no flow.
    Full {
        /// Protocol.
        transport: Transport,
        /// Destination of the frame.
        local: FlowEnd,
        /// Source of the frame, of the same family.
        remote: FlowEnd,
    },
    /// Every flow to one port of one address.
    Local {
        /// Protocol.
        transport: Transport,
        /// Destination of the frame.
        local: FlowEnd,
    },
    /// A destination address in one 802.1Q VLAN, a port VLAN included.
    MacVlan {
        /// Destination address, of a station or a group.
        mac: MacAddr,
        /// The VLAN.
        vid: Vid,
    },
    /// A destination address in whatever VLAN.
    Mac(MacAddr),
    /// A type of payload, behind the VLAN tags.
    EtherType(u16),
    /// A group address other than broadcast that no other filter matches.
    UnknownMulticast,
    /// A station that no other filter and no VF has, in frames from the wire.
    UnknownUnicast,
    /// These fields, and none of the kinds above: made by [`FilterMatch::of`].
    Fields(MatchFields),
    /// What VFs send, wherever it goes, instead of what is received: a kind of its own, which no other wins against. The frame is
    /// looked at as it leaves its VF, in the VLAN that it is in then.
    Egress {
        /// Whose frames; those of all VFs if there is none.
        sender: Option<VfIndex>,
        /// These fields.
        fields: MatchFields,
    },
}

/// What becomes of a frame that matches. One that is received comes from the wire, or the switch gives it to a VF here: a
/// filter on such frames says nothing about what a VF sends to the wire, nor about the wire's copy of a frame to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterAction {
    /// No VF gets it; of what a VF sends, nobody.
    Drop,
    /// The VF may send it, whatever filters say that are behind this one in the order in which they win.
    Pass,
    /// Given to this VF and to no other. The filter is passed over where the VF takes no part in the frame's VLAN, or has
    /// sent the frame itself.
    Vf(VfIndex),
    /// This VF gets a copy, besides where the frame goes anyway: the filter decides nothing, and the next that matches is asked.
    /// Passed over likewise; what is dropped is not copied.
    Mirror(VfIndex),
    /// Given to a VF likewise, and to this of the queues that its guest uses, counted from 0; where it uses fewer, the numbers
    /// wrap around.
    Queue(VfIndex, u8),
    /// Given to a VF likewise, and to one of its queues by an RSS context of its own (`FILTER_FLAG_RX_RSS` with a context, in
    /// Linux's sfc).
    Context(VfIndex, RssContextId),
    /// Given to whom it would be without filters, but by way of the PF and the hypervisor, as what no filter of a Falcon knows:
    /// the rule says which way a frame takes, never who gets it.
    Mediated,
}

/// What a filter says of the queue at the VF that it gives a frame to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueChoice {
    /// This one.
    Queue(u8),
    /// One by this RSS context.
    Context(RssContextId),
}

impl FilterAction {
    /// The VF that a frame goes to by it, if it says one.
    #[must_use]
    #[inline]
    pub fn vf(&self) -> Option<VfIndex> {
        match self {
            FilterAction::Drop
            | FilterAction::Pass
            | FilterAction::Mirror(_)
            | FilterAction::Mediated => None,
            FilterAction::Vf(vf) | FilterAction::Queue(vf, _) | FilterAction::Context(vf, _) => {
                Some(*vf)
            }
        }
    }

    /// What it says of the queue there, if it does.
    pub(crate) fn queue_choice(&self) -> Option<QueueChoice> {
        match self {
            FilterAction::Queue(_, queue) => Some(QueueChoice::Queue(*queue)),
            FilterAction::Context(_, context) => Some(QueueChoice::Context(*context)),
            _ => None,
        }
    }
}

/// Which of two filters with the same match stays: the one of the higher priority. Who takes one out has to name its priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FilterPriority {
    /// A guess that saves work, such as a learned flow.
    Hint,
    /// Derived from other settings. It gives way to a higher one and comes back when that has gone.
    Auto,
    /// Said by the administrator.
    #[default]
    Manual,
    /// Something does not work without it.
    Required,
}

/// What a filter is called where it lies: a number that `filter show` says and `filter delete` takes, as ethtool's location.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FilterId(pub u32);

/// A filter of the NIC's table; in text the words of `ethtool -N`, such as
/// `flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FilterSpec {
    /// What it matches.
    pub matches: FilterMatch,
    /// What it does.
    pub action: FilterAction,
    /// What it is worth, beside another one with the same match.
    pub priority: FilterPriority,
}

impl FilterSpec {
    /// The VFs that it names: where it leads, whom it copies to, and whose frames it looks at.
    pub(crate) fn vfs(&self) -> impl Iterator<Item = VfIndex> {
        let copied = match self.action {
            FilterAction::Mirror(vf) => Some(vf),
            _ => None,
        };
        let sender = match self.matches {
            FilterMatch::Egress { sender, .. } => sender,
            _ => None,
        };
        self.action.vf().into_iter().chain(copied).chain(sender)
    }

    /// # Errors
    /// [`MatchError`] if no frame could match, or if it chooses a queue by what is not to be seen any more where the queue is
    /// chosen.
    pub(crate) fn check(&self) -> Result<(), MatchError> {
        match (self.matches, self.action) {
            (FilterMatch::Egress { .. }, FilterAction::Drop | FilterAction::Pass) => {
                return self.matches.check();
            }
            (FilterMatch::Egress { .. }, _) => return Err(MatchError(EGRESS)),
            (_, FilterAction::Pass) => return Err(MatchError(PASS)),
            _ => {}
        }
        let gone = MatchFlags::OUTER_VID
            .union(MatchFlags::INNER_VID)
            .union(MatchFlags::UNKNOWN_UNICAST);
        let chooses = self.action.queue_choice().is_some();
        match self.action {
            _ if chooses && self.matches.flags().intersects(gone) => Err(MatchError(
                "a filter on a VLAN or on what nobody has chooses no queue: leave out action and context",
            )),
            FilterAction::Queue(_, queue) if u16::from(queue) >= MAX_RSS_QUEUES => {
                Err(MatchError("action N is a queue, 0 to 15"))
            }
            _ => self.matches.check(),
        }
    }
}

/// A filter that no frame can match, or words that are no filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter: {0}")]
pub struct MatchError(pub(crate) &'static str);

impl FilterMatch {
    /// # Errors
    /// [`MatchError`] if no frame could match.
    pub(crate) fn check(&self) -> Result<(), MatchError> {
        let ends = |ends: &[&FlowEnd]| {
            if ends.iter().any(|end| end.port == 0) {
                Err(MatchError(PORTS))
            } else if ends
                .windows(2)
                .any(|w| w[0].ip.is_ipv4() != w[1].ip.is_ipv4())
            {
                Err(MatchError(FAMILIES))
            } else {
                Ok(())
            }
        };
        match self {
            FilterMatch::Full { local, remote, .. } => ends(&[local, remote]),
            FilterMatch::Local { local, .. } => ends(&[local]),
            FilterMatch::MacVlan { mac, .. } | FilterMatch::Mac(mac) if mac.0 == [0; 6] => {
                Err(MatchError(NOT_ZERO))
            }
            FilterMatch::MacVlan { mac, .. } | FilterMatch::Mac(mac) if mac.is_reserved() => {
                Err(MatchError(RESERVED))
            }
            FilterMatch::EtherType(MAC_CONTROL) => Err(MatchError(
                "proto 0x8808, PAUSE, never passes a switch, so no filter sees it",
            )),
            FilterMatch::EtherType(proto) if *proto < MIN_ETHERTYPE => {
                Err(MatchError("proto is 0x600 or more; less is a length"))
            }
            FilterMatch::Fields(fields) | FilterMatch::Egress { fields, .. } => fields.check(),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for FilterMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flow_type = |transport: &Transport, end: &FlowEnd| match (transport, end.ip) {
            (Transport::Tcp, IpAddr::V4(_)) => "tcp4",
            (Transport::Tcp, IpAddr::V6(_)) => "tcp6",
            (Transport::Udp, IpAddr::V4(_)) => "udp4",
            (Transport::Udp, IpAddr::V6(_)) => "udp6",
        };
        match self {
            FilterMatch::Full {
                transport,
                local,
                remote,
            } => write!(
                f,
                "flow-type {} src-ip {} dst-ip {} src-port {} dst-port {}",
                flow_type(transport, local),
                remote.ip,
                local.ip,
                remote.port,
                local.port
            ),
            FilterMatch::Local { transport, local } => write!(
                f,
                "flow-type {} dst-ip {} dst-port {}",
                flow_type(transport, local),
                local.ip,
                local.port
            ),
            FilterMatch::MacVlan { mac, vid } => write!(f, "flow-type ether dst {mac} vlan {vid}"),
            FilterMatch::Mac(mac) => write!(f, "flow-type ether dst {mac}"),
            FilterMatch::EtherType(proto) => write!(f, "flow-type ether proto {proto:#06x}"),
            FilterMatch::UnknownMulticast => f.write_str("flow-type ether dst unknown-multicast"),
            FilterMatch::UnknownUnicast => f.write_str("flow-type ether dst unknown-unicast"),
            FilterMatch::Fields(fields) => write_fields(fields, f),
            FilterMatch::Egress { sender, fields } => {
                f.write_str("egress ")?;
                sender.iter().try_for_each(|vf| write!(f, "vf {} ", vf.0))?;
                write_fields(fields, f)
            }
        }
    }
}

fn write_fields(fields: &MatchFields, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let ip = fields.flags().intersects(MatchFlags::FLOW);
    if ip {
        let version = if fields.ethertype == Some(ETHERTYPE_IPV4) {
            4
        } else {
            6
        };
        match fields.protocol {
            Some(PROTO_TCP) => write!(f, "flow-type tcp{version}"),
            Some(PROTO_UDP) => write!(f, "flow-type udp{version}"),
            Some(PROTO_SCTP) => write!(f, "flow-type sctp{version}"),
            Some(other) => write!(f, "flow-type ip{version} l4proto {other}"),
            None => write!(f, "flow-type ip{version}"),
        }?;
    } else {
        f.write_str("flow-type ether")?;
    }
    let [dst, src] = match ip {
        true => ["dst-mac", "src-mac"],
        false => ["dst", "src"],
    };
    let key = |key: &'static str| move |value: &dyn fmt::Display| format!(" {key} {value}");
    let words = [
        fields.src_ip.as_ref().map(|ip| key("src-ip")(ip)),
        fields.dst_ip.as_ref().map(|ip| key("dst-ip")(ip)),
        fields.src_port.as_ref().map(|port| key("src-port")(port)),
        fields.dst_port.as_ref().map(|port| key("dst-port")(port)),
        fields.src.as_ref().map(|mac| key(src)(mac)),
        fields.dst.as_ref().map(|mac| key(dst)(mac)),
        fields
            .ethertype
            .filter(|_| !ip)
            .map(|proto| format!(" proto {proto:#06x}")),
        fields.vlan.and_then(Vlan::tag).map(|tag| match tag.tpid {
            0x8100 => format!(" vlan {}", tag.vid()),
            tpid => format!(" vlan {} vlan-etype {tpid:#06x}", tag.vid()),
        }),
        fields.inner_vlan.as_ref().map(|vid| key("inner-vlan")(vid)),
    ];
    words
        .iter()
        .flatten()
        .try_for_each(|words| f.write_str(words))
}

impl fmt::Display for FilterAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterAction::Drop => f.write_str("action drop"),
            FilterAction::Pass => f.write_str("action pass"),
            FilterAction::Vf(vf) => write!(f, "vf {}", vf.0),
            FilterAction::Mirror(vf) => write!(f, "mirror {}", vf.0),
            // As ethtool calls a queue, and a context.
            FilterAction::Queue(vf, queue) => write!(f, "vf {} action {queue}", vf.0),
            FilterAction::Context(vf, context) => write!(f, "vf {} context {context}", vf.0),
            FilterAction::Mediated => f.write_str("action mediated"),
        }
    }
}

/// A filter of the table, and what it is called there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberedFilter {
    /// Its id; `None` for one of priority auto whose place another has taken: it waits for that to be deleted.
    pub id: Option<FilterId>,
    /// The filter.
    pub spec: FilterSpec,
}

impl fmt::Display for FilterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FilterSpec {
            matches,
            action,
            priority,
        } = self;
        write!(f, "{matches} {action} priority {priority}")
    }
}

impl fmt::Display for FilterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for FilterPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FilterPriority::Hint => "hint",
            FilterPriority::Auto => "auto",
            FilterPriority::Manual => "manual",
            FilterPriority::Required => "required",
        })
    }
}

impl FromStr for FilterPriority {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<FilterPriority, ParseError> {
        match text {
            "hint" => Ok(FilterPriority::Hint),
            "auto" => Ok(FilterPriority::Auto),
            "manual" => Ok(FilterPriority::Manual),
            "required" => Ok(FilterPriority::Required),
            _ => Err(ParseError::word("priority", text, PRIORITIES)),
        }
    }
}

pub(crate) const PRIORITIES: &str = "hint, auto, manual or required";
