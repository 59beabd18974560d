//! The words of the NIC's filters, those of `ethtool -N`, as keys with values in any order. Never applies anything.

use std::net::IpAddr;
use std::str::FromStr;

use vf_packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddr, PROTO_SCTP, PROTO_TCP, PROTO_UDP, Vid, Vlan, VlanTag,
};

use crate::command::Command;
use crate::driver_filter::{DriverAction, FilterOp};
use crate::filter_fields::{IpPrefix, MacMask, MatchFields};
use crate::filter_spec::{
    EGRESS, FilterAction, FilterId, FilterMatch, FilterPriority, FilterSpec, MatchError, PASS,
    PRIORITIES,
};
use crate::refusal::Refusal;
use crate::rss_context::RssContextId;
use crate::vf::VfIndex;
use crate::words::{ParseError, Words, hex_or_decimal, number};

const FLOW_TYPES: &str = "ether, ip4, tcp4, udp4, sctp4, ip6, tcp6, udp6 or sctp6";
const PORT_KEYS: &str = "src-ip, dst-ip, src-port, dst-port, dst-mac, src-mac, vlan, vlan-etype, inner-vlan, priority, loc, and vf N, mirror N, action drop or action mediated for a new filter";
const IP_KEYS: &str = "src-ip, dst-ip, l4proto, dst-mac, src-mac, vlan, vlan-etype, inner-vlan, priority, loc, and vf N, mirror N, action drop or action mediated for a new filter";
const ETHER_KEYS: &str = "dst, src, proto, vlan, vlan-etype, inner-vlan, priority, loc, and vf N, mirror N, action drop or action mediated for a new filter";
const DST: &str = "a MAC address, unknown-unicast or unknown-multicast";
const ETHER: &str =
    "a filter of flow-type ether has dst, src, proto, vlan or inner-vlan, or several of them";
const UNKNOWN: &str = "a filter on what is unknown has no other field";
const FAMILY: &str =
    "the addresses of ip4, tcp4, udp4 and sctp4 are IPv4, those of ip6, tcp6, udp6 and sctp6 IPv6";
const ETYPE: &str = "vlan-etype is the type of the tag of a vlan: say which vlan";
const ACTION: &str =
    "drop, mediated, or the number of a queue of the VF that vf names, or with egress drop or pass";
const BOTH: &str = "action drop gives the frame to nobody: leave out vf";
const SLOW: &str =
    "action mediated says which way a frame takes, not who gets it: leave out vf and context";
const CONTEXT: &str =
    "context N spreads over the queues of a VF: say vf N, too, and leave out action";
const WHOSE: &str = "action N is a queue of a VF: say vf N, too";
const FLOW_TYPE: &str = "flow-type, or egress in front of it";
const COPY: &str = "mirror N copies what is received and decides nothing else: leave out egress, vf, context and action";
const EGRESS_UNKNOWN: &str = "who is unknown is no question of what VFs send: name another dst";
const NEW: &str = "a new filter needs vf N, action drop or action mediated, or mirror N for a copy";
const OLD: &str = "a filter to delete is named by its id, or by what it matches and its priority, without vf, mirror, action, context or loc";
const WHICH: &str = "its id, as filter show has it, or flow-type ... as it was added";
const SEEN: &str = "what a capture is to see is a match alone, of one frame: leave out vf, mirror, action, context, loc and priority, and what is unknown";
const DRIVER: &str =
    "the filter of a driver has action drop, or action N for a queue of its VF, or none";
const NO_LOC: &str = "loc goes with the command filter add only";

/// The values that were given.
#[derive(Default)]
struct Given {
    fields: MatchFields,
    unknown: Option<FilterMatch>,
    vlan: Option<Vid>,
    vlan_etype: Option<u16>,
    /// Whether it is about what VFs send.
    egress: bool,
    /// Who gets what is received, or sends what is sent.
    vf: Option<VfIndex>,
    action: Option<Said>,
    /// By which RSS context the VF's queue is chosen.
    context: Option<RssContextId>,
    /// Who gets a copy.
    mirror: Option<VfIndex>,
    priority: Option<FilterPriority>,
    /// Which row; that inside is `None` for whichever.
    loc: Option<Option<FilterId>>,
}

/// What may follow `action`.
#[derive(Clone, Copy)]
enum Said {
    Drop,
    Pass,
    Mediated,
    /// One of the queues of the VF.
    Queue(u8),
}

/// What may follow `flow-type`, as far as it decides what a frame is looked at for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FlowType {
    Ether,
    /// IPv4, else IPv6, and the protocol if the type says it.
    Ip {
        v4: bool,
        protocol: Option<u8>,
    },
}

impl FlowType {
    fn keys(self) -> &'static str {
        match self {
            FlowType::Ether => ETHER_KEYS,
            FlowType::Ip { protocol: None, .. } => IP_KEYS,
            FlowType::Ip { .. } => PORT_KEYS,
        }
    }
}

impl FromStr for FilterSpec {
    type Err = Refusal;

    /// Reads a new filter from its words, which blanks separate; what follows a # is a comment.
    fn from_str(text: &str) -> Result<FilterSpec, Refusal> {
        let text = text.split('#').next().unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        match Words::new("filter", &words).new_filter()? {
            (spec, None) => Ok(spec),
            (_, Some(_)) => Err(MatchError(NO_LOC).into()),
        }
    }
}

impl Command {
    /// `filter add` with these words, which blanks separate; what follows a # is a comment.
    ///
    /// # Errors
    /// [`Refusal`] that names the word at fault.
    pub fn filter_add(text: &str) -> Result<Command, Refusal> {
        let text = text.split('#').next().unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok(match Words::new("filter", &words).new_filter()? {
            (spec, None) => Command::FilterInsert(spec),
            (spec, Some(loc)) => Command::FilterInsertAt { loc, spec },
        })
    }
}

impl<S: AsRef<str>> Words<'_, S> {
    /// A filter to put in, and into which row.
    pub(crate) fn new_filter(&mut self) -> Result<(FilterSpec, Option<FilterId>), Refusal> {
        let (matches, given) = self.match_and_rest()?;
        let spec = FilterSpec {
            matches,
            action: given.action()?,
            priority: given.priority.unwrap_or_default(),
        };
        Ok((spec, given.loc.flatten()))
    }

    /// What names a filter that is there, to take it out.
    pub(crate) fn old_filter(&mut self) -> Result<Command, Refusal> {
        if let Some(Ok(id)) = self.peek().map(str::parse) {
            self.next(OLD)?;
            let priority = match self.is_done() {
                true => FilterPriority::default(),
                false => match self.next("priority")? {
                    "priority" => self.next(PRIORITIES)?.parse()?,
                    other => return Err(Refusal::word("word", other, "priority or nothing")),
                },
            };
            let id = FilterId(id);
            return Ok(Command::FilterDelete { id, priority });
        }
        if let Some(word) = self.peek()
            && !["flow-type", "egress", "ingress"].contains(&word)
        {
            return Err(Refusal::word("filter", word, WHICH));
        }
        let (matches, priority) = self.old_match()?;
        Ok(Command::FilterRemove { matches, priority })
    }

    /// The filter of a driver, to be put in or taken out; what is unknown may be so in one VLAN.
    pub(crate) fn driver_filter(&mut self, add: bool) -> Result<FilterOp, Refusal> {
        let (of, mut given) = self.type_and_given()?;
        let vlan = match given.unknown {
            Some(_) if given.vlan_etype.is_none() => given.vlan.take(),
            _ => None,
        };
        let matches = given.matches(of)?;
        let action = match given.action.take_if(|_| add) {
            None => DriverAction::Receive,
            Some(Said::Drop) => DriverAction::Drop,
            Some(Said::Queue(queue)) => DriverAction::Queue(queue),
            Some(Said::Pass | Said::Mediated) => return Err(MatchError(DRIVER).into()),
        };
        given.check_old()?;
        Ok(FilterOp {
            add,
            matches,
            vlan,
            action,
        })
    }

    fn old_match(&mut self) -> Result<(FilterMatch, FilterPriority), Refusal> {
        let (matches, given) = self.match_and_rest()?;
        given.check_old()?;
        Ok((matches, given.priority.unwrap_or_default()))
    }

    /// What a frame is to be like that is only looked at: a match without anything that is said of a filter.
    pub(crate) fn match_alone(&mut self) -> Result<MatchFields, Refusal> {
        let (of, given) = self.type_and_given()?;
        if given.vf.is_some()
            || given.action.is_some()
            || given.context.is_some()
            || given.loc.is_some()
            || given.priority.is_some()
            || given.unknown.is_some()
            || given.egress
            || given.mirror.is_some()
        {
            return Err(MatchError(SEEN).into());
        }
        given.matches(of)?;
        Ok(given.fields(of)?)
    }

    pub(crate) fn vf(&mut self) -> Result<VfIndex, ParseError> {
        let index = self.next("the number of a VF")?;
        number("vf", index, "the number of a VF, 0 to 255").map(VfIndex)
    }

    pub(crate) fn vid(&mut self) -> Result<Vid, Refusal> {
        const ALLOWED: &str = "1 to 4094";
        Ok(Vid::new(number("vlan", self.next(ALLOWED)?, ALLOWED)?)?)
    }

    fn match_and_rest(&mut self) -> Result<(FilterMatch, Given), Refusal> {
        let (of, given) = self.type_and_given()?;
        Ok((given.matches(of)?, given))
    }

    fn type_and_given(&mut self) -> Result<(FlowType, Given), Refusal> {
        let mut given = Given::default();
        // As tc and rte_flow call the two directions.
        if let Some(direction @ ("ingress" | "egress")) = self.peek() {
            given.egress = direction == "egress";
            self.next(FLOW_TYPE)?;
            if given.egress && self.peek() == Some("vf") {
                self.next("vf")?;
                given.vf = Some(self.vf()?);
            }
        }
        match self.next("flow-type")? {
            "flow-type" => {}
            other => return Err(Refusal::word("word", other, FLOW_TYPE)),
        }
        let word = self.next(FLOW_TYPES)?;
        let of = match word {
            "ether" => FlowType::Ether,
            word => {
                let (kind, v4) = match (word.strip_suffix('4'), word.strip_suffix('6')) {
                    (Some(kind), _) => (kind, true),
                    (_, Some(kind)) => (kind, false),
                    _ => return Err(Refusal::word("flow-type", word, FLOW_TYPES)),
                };
                let protocol = match kind {
                    "ip" => None,
                    "tcp" => Some(PROTO_TCP),
                    "udp" => Some(PROTO_UDP),
                    "sctp" => Some(PROTO_SCTP),
                    _ => return Err(Refusal::word("flow-type", word, FLOW_TYPES)),
                };
                FlowType::Ip { v4, protocol }
            }
        };
        let given = self.given(given, of)?;
        Ok((of, given))
    }

    fn given(&mut self, mut given: Given, of: FlowType) -> Result<Given, Refusal> {
        let (ether, keys) = (of == FlowType::Ether, of.keys());
        let ports = keys == PORT_KEYS;
        while !self.is_done() {
            let key = self.next(keys)?;
            let fields = &mut given.fields;
            let new = match key {
                "src-ip" if !ether => set(&mut fields.src_ip, self.prefix()?),
                "dst-ip" if !ether => set(&mut fields.dst_ip, self.prefix()?),
                "l4proto" if !ether && !ports => set(&mut fields.protocol, self.protocol()?),
                "src-port" if ports => set(&mut fields.src_port, self.port()?),
                "dst-port" if ports => set(&mut fields.dst_port, self.port()?),
                "src" if ether => set(&mut fields.src, self.mac("src")?),
                "dst" if ether => match self.peek() {
                    Some("unknown-unicast" | "unknown-multicast") => {
                        let unknown = match self.next(DST)? {
                            "unknown-unicast" => FilterMatch::UnknownUnicast,
                            _ => FilterMatch::UnknownMulticast,
                        };
                        set(&mut given.unknown, unknown) && given.fields.dst.is_none()
                    }
                    _ => set(&mut fields.dst, self.mac("dst")?),
                },
                "src-mac" if !ether => set(&mut fields.src, self.mac("src-mac")?),
                "dst-mac" if !ether => set(&mut fields.dst, self.mac("dst-mac")?),
                "vlan" => set(&mut given.vlan, self.vid()?),
                "vlan-etype" => set(&mut given.vlan_etype, self.tag_type()?),
                "inner-vlan" => set(&mut fields.inner_vlan, self.vid()?),
                "proto" if ether => set(&mut fields.ethertype, self.ethertype()?),
                "vf" => set(&mut given.vf, self.vf()?),
                "action" => match self.next(ACTION)? {
                    // What ethtool calls it.
                    "drop" | "-1" => set(&mut given.action, Said::Drop),
                    "pass" => set(&mut given.action, Said::Pass),
                    "mediated" => set(&mut given.action, Said::Mediated),
                    queue => {
                        let queue = number("action", queue, ACTION)?;
                        set(&mut given.action, Said::Queue(queue))
                    }
                },
                "context" => set(&mut given.context, self.context_id()?),
                "mirror" => set(&mut given.mirror, self.vf()?),
                "priority" => set(&mut given.priority, self.next(PRIORITIES)?.parse()?),
                "loc" => set(&mut given.loc, self.loc()?),
                "m" => {
                    return Err(Refusal::word(
                        "key",
                        key,
                        "a mask follows a MAC or IP address",
                    ));
                }
                other => return Err(Refusal::word("key", other, keys)),
            };
            if !new {
                return Err(Refusal::word("key", key, "each may be given once"));
            }
        }
        Ok(given)
    }

    /// `any`, or the number of a row.
    fn loc(&mut self) -> Result<Option<FilterId>, ParseError> {
        const ALLOWED: &str = "any, or the number of a row";
        match self.next(ALLOWED)? {
            "any" => Ok(None),
            row => Ok(Some(FilterId(number("loc", row, ALLOWED)?))),
        }
    }

    /// The mask that may follow an address: as ethtool has it, bits that are set do not matter.
    fn mask<T: FromStr>(&mut self, allowed: &'static str) -> Result<Option<T>, ParseError> {
        if self.peek() != Some("m") {
            return Ok(None);
        }
        self.next("m")?;
        number("m", self.next(allowed)?, allowed).map(Some)
    }

    /// An address, one with the length of a prefix, or one with a mask.
    fn prefix(&mut self) -> Result<IpPrefix, Refusal> {
        const ALLOWED: &str =
            "an IP address, or one with the length of a prefix such as 10.0.0.0/24";
        const MASK: &str = "a mask whose set bits are the last ones, such as 0.0.0.255 for a /24: ethtool's masks name what does not matter";
        let word = self.next(ALLOWED)?;
        let wrong = || ParseError::word("address", word, ALLOWED);
        let Some((ip, len)) = word.split_once('/') else {
            let ip: IpAddr = number("address", word, ALLOWED)?;
            let all = IpPrefix::exact(ip).len();
            return match self.mask::<IpAddr>(MASK)? {
                None => Ok(IpPrefix::exact(ip)),
                Some(mask) => {
                    let (free, width) = match mask {
                        IpAddr::V4(mask) => (u128::from(mask.to_bits()), 32),
                        IpAddr::V6(mask) => (mask.to_bits(), 128),
                    };
                    let ones = free.trailing_ones() as u8;
                    let last_ones = free.count_ones() == free.trailing_ones() && width == all;
                    let prefix = IpPrefix::new(ip, all.saturating_sub(ones));
                    let refused = || Refusal::word("m", &mask.to_string(), MASK);
                    prefix.filter(|_| last_ones).ok_or_else(refused)
                }
            };
        };
        let ip = ip.parse().map_err(|_| wrong())?;
        let prefix = IpPrefix::new(ip, len.parse().map_err(|_| wrong())?);
        prefix.ok_or_else(|| wrong().into())
    }

    fn port(&mut self) -> Result<u16, ParseError> {
        const ALLOWED: &str = "1 to 65535";
        number("port", self.next(ALLOWED)?, ALLOWED)
    }

    fn protocol(&mut self) -> Result<u8, ParseError> {
        const ALLOWED: &str = "the number of a protocol, 0 to 255, such as 1 for ICMP";
        number("l4proto", self.next(ALLOWED)?, ALLOWED)
    }

    /// An address, with a mask perhaps.
    fn mac(&mut self, what: &'static str) -> Result<MacMask, ParseError> {
        const MASK: &str =
            "six bytes such as 00:00:00:ff:ff:ff: ethtool's masks name what does not matter";
        let allowed = if what == "dst" { DST } else { "a MAC address" };
        let mac = number(what, self.next(allowed)?, allowed)?;
        Ok(match self.mask::<MacAddr>(MASK)? {
            None => MacMask::exact(mac),
            Some(free) => MacMask::new(mac, MacAddr(free.0.map(|byte| !byte))),
        })
    }

    fn tag_type(&mut self) -> Result<u16, ParseError> {
        const ALLOWED: &str = "0x8100, 0x88a8 or 0x9100";
        let word = self.next(ALLOWED)?;
        hex_or_decimal(word)
            .filter(|tpid| vf_packet::is_vlan_tpid(*tpid))
            .ok_or_else(|| ParseError::word("vlan-etype", word, ALLOWED))
    }

    fn ethertype(&mut self) -> Result<u16, ParseError> {
        const ALLOWED: &str = "a type such as 0x88b5";
        let word = self.next(ALLOWED)?;
        hex_or_decimal(word).ok_or_else(|| ParseError::word("proto", word, ALLOWED))
    }
}

/// Sets what has not been set yet.
fn set<T>(slot: &mut Option<T>, value: T) -> bool {
    slot.replace(value).is_none()
}

impl Given {
    /// Nothing is said that only a new filter has.
    fn check_old(&self) -> Result<(), MatchError> {
        let gives = self.vf.is_some() && !self.egress;
        let acts = self.action.is_some() || self.context.is_some() || self.mirror.is_some();
        match gives || acts || self.loc.is_some() {
            true => Err(MatchError(OLD)),
            false => Ok(()),
        }
    }

    fn action(&self) -> Result<FilterAction, MatchError> {
        if let Some(vf) = self.mirror {
            let more = self.vf.is_some() || self.action.is_some() || self.context.is_some();
            return match self.egress || more {
                true => Err(MatchError(COPY)),
                false => Ok(FilterAction::Mirror(vf)),
            };
        }
        if let Some(context) = self.context {
            return match (self.egress, self.vf, self.action) {
                (true, ..) => Err(MatchError(EGRESS)),
                (false, Some(vf), None) => Ok(FilterAction::Context(vf, context)),
                (false, ..) => Err(MatchError(CONTEXT)),
            };
        }
        match (self.vf, self.action) {
            (_, Some(Said::Pass)) if self.egress => Ok(FilterAction::Pass),
            (_, Some(Said::Pass)) => Err(MatchError(PASS)),
            (_, Some(Said::Drop)) if self.egress => Ok(FilterAction::Drop),
            _ if self.egress => Err(MatchError(EGRESS)),
            (None, Some(Said::Drop)) => Ok(FilterAction::Drop),
            (Some(vf), None) => Ok(FilterAction::Vf(vf)),
            (Some(vf), Some(Said::Queue(queue))) => Ok(FilterAction::Queue(vf, queue)),
            (Some(_), Some(Said::Drop)) => Err(MatchError(BOTH)),
            (None, Some(Said::Mediated)) => Ok(FilterAction::Mediated),
            (Some(_), Some(Said::Mediated)) => Err(MatchError(SLOW)),
            (None, Some(Said::Queue(_))) => Err(MatchError(WHOSE)),
            (None, None) => Err(MatchError(NEW)),
        }
    }

    fn matches(&self, of: FlowType) -> Result<FilterMatch, MatchError> {
        let fields = self.fields(of)?;
        match self.unknown {
            Some(_) if !fields.flags().is_empty() => Err(MatchError(UNKNOWN)),
            Some(_) if self.egress => Err(MatchError(EGRESS_UNKNOWN)),
            Some(unknown) => Ok(unknown),
            None if fields.flags().is_empty() => Err(MatchError(ETHER)),
            None if self.egress => {
                let sender = self.vf;
                Ok(FilterMatch::Egress { sender, fields })
            }
            None => Ok(FilterMatch::of(fields)),
        }
    }

    fn fields(&self, of: FlowType) -> Result<MatchFields, MatchError> {
        let mut fields = self.fields;
        fields.vlan = match (self.vlan, self.vlan_etype) {
            (Some(vid), None) => Some(Vlan::of_vid(vid)),
            (Some(vid), Some(tpid)) => Some(Vlan::of_tag(VlanTag {
                tpid,
                tci: vid.get(),
            })),
            (None, None) => None,
            (None, Some(_)) => return Err(MatchError(ETYPE)),
        };
        if let FlowType::Ip { v4, protocol } = of {
            let ips = [fields.src_ip, fields.dst_ip];
            if ips.iter().flatten().any(|ip| ip.is_ipv4() != v4) {
                return Err(MatchError(FAMILY));
            }
            fields.ethertype = Some([ETHERTYPE_IPV6, ETHERTYPE_IPV4][usize::from(v4)]);
            fields.protocol = protocol.or(fields.protocol);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter_spec::{FlowEnd, Transport};
    use proptest::prelude::*;
    use proptest::sample::select;

    fn parse(text: &str) -> Result<Command, Refusal> {
        Command::parse(&text.split_whitespace().collect::<Vec<_>>())
    }

    #[test]
    fn the_words_of_ethtool() {
        let end = |ip: &str, port| FlowEnd {
            ip: ip.parse().unwrap(),
            port,
        };
        let matches = FilterMatch::Full {
            transport: Transport::Tcp,
            local: end("10.0.0.1", 5001),
            remote: end("10.0.0.2", 40000),
        };
        let words = "flow-type tcp4 src-ip 10.0.0.2 dst-ip 10.0.0.1 dst-port 5001 src-port 40000";
        assert_eq!(
            parse(&format!("filter add {words} vf 3")),
            Ok(Command::FilterInsert(FilterSpec {
                matches,
                action: FilterAction::Vf(VfIndex(3)),
                priority: FilterPriority::Manual,
            }))
        );
        assert_eq!(
            parse(&format!("filter del {words} priority hint")),
            Ok(Command::FilterRemove {
                matches,
                priority: FilterPriority::Hint,
            })
        );
        let context = "flow-type tcp4 dst-ip 10.0.0.1 dst-port 1 vf 3 context 2";
        for shown in [context, "flow-type ether proto 0x0800 action mediated"] {
            let spec: FilterSpec = shown.parse().unwrap();
            assert_eq!(spec.to_string(), format!("{shown} priority manual"));
        }
        let discard = "flow-type ether proto 0x88b5 action -1"
            .parse::<FilterSpec>()
            .unwrap();
        assert_eq!(discard.matches, FilterMatch::EtherType(0x88b5));
        assert_eq!(discard.action, FilterAction::Drop);
        assert_eq!(parse("filter flush"), Ok(Command::FlushFilters));
        assert_eq!(
            parse("filter add flow-type ether proto 0x88b5 action -1 loc 7"),
            Ok(Command::FilterInsertAt {
                loc: FilterId(7),
                spec: discard
            })
        );
        for any in ["", " loc any"] {
            let words = format!("filter add flow-type ether proto 0x88b5 action -1{any}");
            assert_eq!(parse(&words), Ok(Command::FilterInsert(discard)));
        }
        for verb in ["del", "delete"] {
            assert_eq!(
                parse(&format!("filter {verb} 12106")),
                Ok(Command::FilterDelete {
                    id: FilterId(12106),
                    priority: FilterPriority::Manual
                })
            );
        }
        // Where the direction and the VF stand does not matter, and what is received is what is meant without one.
        for (said, shown) in [
            (
                "egress flow-type tcp4 dst-port 25 action drop",
                "egress flow-type tcp4 dst-port 25 action drop",
            ),
            (
                "egress flow-type ether src 02:00:00:00:00:01 action pass vf 1",
                "egress vf 1 flow-type ether src 02:00:00:00:00:01 action pass",
            ),
            (
                "ingress flow-type ether proto 0x88b5 vf 1",
                "flow-type ether proto 0x88b5 vf 1",
            ),
        ] {
            let spec: FilterSpec = said.parse().unwrap();
            assert_eq!(spec.to_string(), format!("{shown} priority manual"));
        }
        // A line of filter show.
        let shown = format!("{discard}  # id 12106").parse::<FilterSpec>();
        assert_eq!(shown, Ok(discard));
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        for (text, says) in [
            ("filter", "filter: add, replace, del or flush must follow"),
            ("filter add tcp4", "word 'tcp4': flow-type"),
            (
                "filter add flow-type ether proto 2048 vf 1 mirror 2",
                "mirror N copies what is received and decides nothing else",
            ),
            (
                "filter add egress vf 1 flow-type ether proto 2048",
                "what VFs send has action drop or action pass",
            ),
            (
                "filter add egress flow-type ether proto 2048 action 3",
                "what VFs send has action drop or action pass",
            ),
            (
                "filter add flow-type ether proto 2048 vf 1 action mediated",
                "which way a frame takes, not who gets it",
            ),
            (
                "filter add flow-type ether proto 2048 context 1",
                "say vf N, too, and leave out action",
            ),
            (
                "filter add flow-type ether proto 2048 vf 1 context 1 action 0",
                "say vf N, too, and leave out action",
            ),
            (
                "filter add egress vf 1 flow-type ether proto 2048 context 1",
                "what VFs send has action drop or action pass",
            ),
            (
                "filter add ingress flow-type ether proto 2048 action pass",
                "action pass is for egress filters",
            ),
            (
                "filter add egress flow-type ether dst unknown-unicast action drop",
                "name another dst",
            ),
            (
                "filter add egress vf 1 flow-type ether proto 2048 vf 2 action drop",
                "key 'vf': each may be given once",
            ),
            (
                "filter add outgoing flow-type ether proto 2048 action drop",
                "word 'outgoing': flow-type, or egress in front of it",
            ),
            (
                "filter add flow-type ah4",
                "flow-type 'ah4': ether, ip4, tcp4,",
            ),
            (
                "filter add flow-type tcp4 dst 02:00:00:00:00:01",
                "key 'dst': src-ip, dst-ip,",
            ),
            (
                "filter add flow-type ether dst-ip 10.0.0.1",
                "key 'dst-ip': dst, src, proto,",
            ),
            (
                "filter add flow-type ip4 dst-ip 10.0.0.0/33 vf 1",
                "address '10.0.0.0/33': an IP address, or one with the length",
            ),
            (
                "filter add flow-type ip4 dst-ip 10.0.0.0 m 255.255.255.0 vf 1",
                "name what does not matter",
            ),
            (
                "filter add flow-type tcp4 dst-port 80 m 0 vf 1",
                "a mask follows a MAC or IP address",
            ),
            (
                "filter add flow-type ip4 dst-port 80",
                "key 'dst-port': src-ip, dst-ip, l4proto,",
            ),
            (
                "filter add flow-type ether proto 2048 vlan-etype 0x88a8 vf 1",
                "say which vlan",
            ),
            (
                "filter add flow-type ether dst unknown-unicast vlan 3 vf 1",
                "on what is unknown has no other field",
            ),
            (
                "filter add flow-type tcp4 dst-ip fd00::1 dst-port 1 vf 1",
                "are IPv4",
            ),
            (
                "filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 1",
                "needs vf N, action drop or action mediated",
            ),
            (
                "filter add flow-type tcp4 dst-port 70000",
                "port '70000': 1 to 65535",
            ),
            (
                "filter add flow-type ether dst unknown-broadcast",
                "dst 'unknown-broadcast': a MAC address, unknown-unicast",
            ),
            (
                "filter add flow-type ether vf 1",
                "a filter of flow-type ether has dst, src,",
            ),
            (
                "filter add flow-type ether proto 0xfffff",
                "proto '0xfffff': a type such as 0x88b5",
            ),
            (
                "filter add flow-type ether proto 2048 vf 1 vf 2",
                "key 'vf': each may be given once",
            ),
            (
                "filter add flow-type ether proto 2048 action 3",
                "is a queue of a VF: say vf N, too",
            ),
            (
                "filter add flow-type ether proto 2048 vf 1 priority high",
                "priority 'high': hint, auto, manual or required",
            ),
            (
                "filter del flow-type ether proto 2048 vf 1",
                "named by its id, or by what it matches and its priority",
            ),
            ("filter flush all", "word 'all': nothing more may follow"),
            (
                "filter add flow-type ether proto 2048 vf 1 action drop",
                "leave out vf",
            ),
            (
                "filter add flow-type ether proto 2048 vf 1 action last",
                "action 'last': drop, mediated, or the number of a queue",
            ),
            ("filter delete 3 vf 1", "word 'vf': priority or nothing"),
            (
                "filter delete abc",
                "filter 'abc': its id, as filter show has it, or flow-type",
            ),
            (
                "filter add flow-type ether proto 2048 vf 1 loc first",
                "loc 'first': any, or the number of a row",
            ),
            (
                "filter replace flow-type ether proto 2048 vf 1 loc 3",
                "stays in its row: no loc",
            ),
        ] {
            let refusal = parse(text).unwrap_err().to_string();
            assert!(refusal.contains(says), "{text:?}: {refusal}");
        }
    }

    /// Any combination of fields that words can say.
    fn any_fields() -> impl Strategy<Value = MatchFields> {
        use proptest::option::of;
        let mac = || {
            let address = || any::<[u8; 6]>().prop_map(MacAddr);
            (address(), of(address())).prop_map(|(mac, mask)| match mask {
                Some(mask) => MacMask::new(mac, mask),
                None => MacMask::exact(mac),
            })
        };
        let vid = || (1u16..4095).prop_map(|vid| Vid::new(vid).unwrap());
        let vlan = (vid(), select(vec![0x8100, 0x88a8, 0x9100])).prop_map(|(vid, tpid)| {
            Vlan::of_tag(VlanTag {
                tpid,
                tci: vid.get(),
            })
        });
        let link = (of(mac()), of(mac()), of(vlan), of(vid()));
        let ether = any::<u16>().prop_map(|ethertype| MatchFields {
            ethertype: Some(ethertype),
            ..MatchFields::default()
        });
        let prefix = |v4| {
            any::<(u128, u8)>().prop_filter_map("no prefix", move |(bits, len)| match v4 {
                true => IpPrefix::new(IpAddr::V4((bits as u32).into()), len % 33),
                false => IpPrefix::new(IpAddr::V6(bits.into()), len),
            })
        };
        let packet = any::<bool>().prop_flat_map(move |v4| {
            let protocol = of(select(vec![6u8, 17, 132, 1, 0, 255]));
            let ports = (of(any::<u16>()), of(any::<u16>()));
            (of(prefix(v4)), of(prefix(v4)), protocol, ports).prop_map(
                move |(src_ip, dst_ip, protocol, (src_port, dst_port))| {
                    let has_ports = matches!(protocol, Some(6 | 17 | 132));
                    MatchFields {
                        ethertype: Some(if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }),
                        src_ip,
                        dst_ip,
                        protocol,
                        src_port: src_port.filter(|_| has_ports),
                        dst_port: dst_port.filter(|_| has_ports),
                        ..MatchFields::default()
                    }
                },
            )
        });
        let behind = prop_oneof![Just(MatchFields::default()), ether, packet];
        let fields =
            (link, behind).prop_map(|((dst, src, vlan, inner_vlan), fields)| MatchFields {
                dst,
                src,
                vlan,
                inner_vlan,
                ..fields
            });
        fields.prop_filter("no field", |fields| !fields.flags().is_empty())
    }

    #[test]
    fn fields_and_masks_in_the_words_of_ethtool() {
        for (words, shown) in [
            (
                "ip4 src-ip 10.0.0.0/8 l4proto 1",
                "ip4 l4proto 1 src-ip 10.0.0.0/8",
            ),
            ("ip4 dst-ip 10.1.2.3 m 0.0.0.255", "ip4 dst-ip 10.1.2.0/24"),
            ("tcp4 dst-port 80", "tcp4 dst-port 80"),
            (
                "sctp6 dst-ip fd00::1 src-port 7",
                "sctp6 dst-ip fd00::1 src-port 7",
            ),
            (
                "ether src 02:00:00:00:00:01 m 00:00:00:ff:ff:ff vlan 5",
                "ether src 02:00:00:00:00:00 m 00:00:00:ff:ff:ff vlan 5",
            ),
            (
                "udp4 dst-port 53 dst-mac 02:00:00:00:00:01 vlan 7 vlan-etype 0x88a8 inner-vlan 9",
                "udp4 dst-port 53 dst-mac 02:00:00:00:00:01 vlan 7 vlan-etype 0x88a8 inner-vlan 9",
            ),
            // The kinds that NICs have tables for are what they were, however they are said.
            (
                "ether dst 02:00:00:00:00:01 vlan 7 vlan-etype 0x8100",
                "ether dst 02:00:00:00:00:01 vlan 7",
            ),
            ("ip4 l4proto 6 vlan 3", "tcp4 vlan 3"),
            ("ip6", "ether proto 0x86dd"),
            (
                "tcp4 dst-ip 10.0.0.1/32 dst-port 80",
                "tcp4 dst-ip 10.0.0.1 dst-port 80",
            ),
        ] {
            let spec: FilterSpec = format!("flow-type {words} vf 1").parse().unwrap();
            assert_eq!(
                spec.to_string(),
                format!("flow-type {shown} vf 1 priority manual")
            );
        }
        let kind = |words: &str| words.parse::<FilterSpec>().unwrap().matches;
        let local = kind("flow-type tcp4 dst-ip 10.0.0.1/32 dst-port 80 vf 1");
        assert!(matches!(local, FilterMatch::Local { .. }));
        assert_eq!(kind("flow-type ip4 vf 1"), FilterMatch::EtherType(0x800));
    }

    fn any_match() -> impl Strategy<Value = FilterMatch> {
        let flow = |ip: BoxedStrategy<IpAddr>| {
            let end = || (ip.clone(), any::<u16>()).prop_map(|(ip, port)| FlowEnd { ip, port });
            (
                select(vec![Transport::Tcp, Transport::Udp]),
                end(),
                proptest::option::of(end()),
            )
                .prop_map(|(transport, local, remote)| match remote {
                    None => FilterMatch::Local { transport, local },
                    Some(remote) => FilterMatch::Full {
                        transport,
                        local,
                        remote,
                    },
                })
        };
        let mac = || any::<[u8; 6]>().prop_map(MacAddr);
        prop_oneof![
            flow(any::<[u8; 4]>().prop_map(IpAddr::from).boxed()),
            flow(any::<[u8; 16]>().prop_map(IpAddr::from).boxed()),
            (mac(), 1u16..4095).prop_map(|(mac, vid)| FilterMatch::MacVlan {
                mac,
                vid: Vid::new(vid).unwrap()
            }),
            mac().prop_map(FilterMatch::Mac),
            any::<u16>().prop_map(FilterMatch::EtherType),
            any_fields().prop_map(FilterMatch::of),
            (proptest::option::of(any::<u8>()), any_fields()).prop_map(|(vf, fields)| {
                FilterMatch::Egress {
                    sender: vf.map(VfIndex),
                    fields,
                }
            }),
            Just(FilterMatch::UnknownMulticast),
            Just(FilterMatch::UnknownUnicast),
        ]
    }

    proptest! {
        #[test]
        fn words_round_trip(matches in any_match(), vf in proptest::option::of(any::<u8>()), rank in 0usize..4) {
            let priority = [FilterPriority::Hint, FilterPriority::Auto, FilterPriority::Manual, FilterPriority::Required][rank];
            let action = match vf.map(VfIndex) {
                Some(vf) if matches.is_egress() && vf.0 % 2 == 0 => FilterAction::Pass,
                _ if matches.is_egress() => FilterAction::Drop,
                None => FilterAction::Drop,
                Some(vf) if vf.0 % 3 == 0 => FilterAction::Mirror(vf),
                Some(vf) if vf.0 % 2 == 0 => FilterAction::Vf(vf),
                Some(vf) => FilterAction::Queue(vf, vf.0),
            };
            let spec = FilterSpec { matches, action, priority };
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
            let remove = Command::FilterRemove { matches, priority };
            prop_assert_eq!(parse(&remove.to_string()), Ok(remove));
            let loc = FilterId(vf.map_or(3, u32::from));
            for command in [
                Command::FilterReplace(spec),
                Command::FilterInsertAt { loc, spec },
                Command::FilterDelete { id: loc, priority },
            ] {
                prop_assert_eq!(parse(&command.to_string()), Ok(command));
            }
        }

        #[test]
        fn any_words_are_a_filter_or_one_line(
            words in proptest::collection::vec(
                select(vec!["flow-type", "tcp4", "ether", "dst", "dst-ip", "10.0.0.1", "dst-port", "80", "vf", "1", "proto", "\n"]),
                0..10,
            )
        ) {
            if let Err(refusal) = words.join(" ").parse::<FilterSpec>() {
                prop_assert!(!refusal.to_string().contains('\n'));
            }
        }
    }
}
