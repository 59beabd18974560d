//! The words of the NIC's filters, those of `ethtool -N`, as keys with values in any order. Never applies anything.

use std::net::IpAddr;
use std::str::FromStr;

use vf_packet::{MacAddr, Vid};

use crate::command::Command;
use crate::filter_spec::{
    FilterAction, FilterId, FilterMatch, FilterPriority, FilterSpec, FlowEnd, MatchError,
    PRIORITIES, Transport,
};
use crate::refusal::Refusal;
use crate::vf::VfIndex;
use crate::words::{ParseError, Words, number};

const FLOW_TYPES: &str = "tcp4, udp4, tcp6, udp6 or ether";
const FLOW_KEYS: &str =
    "src-ip, dst-ip, src-port, dst-port, priority, loc, and vf N or action drop for a new filter";
const ETHER_KEYS: &str =
    "dst, vlan, proto, priority, loc, and vf N or action drop for a new filter";
const DST: &str = "a MAC address, unknown-unicast or unknown-multicast";
const ETHER: &str = "a filter of flow-type ether has dst MAC, dst MAC vlan VID, proto TYPE, dst unknown-unicast or dst unknown-multicast";
const FLOW: &str =
    "a filter of this flow-type has dst-ip and dst-port, or src-ip, dst-ip, src-port and dst-port";
const NEW: &str = "a new filter needs vf N or action drop";
const OLD: &str = "a filter to delete is named by its id, or by what it matches and its priority, without vf, action or loc";
const NO_LOC: &str = "loc goes with the command filter add only";

/// The values that were given.
#[derive(Default)]
struct Given {
    src_ip: Option<IpAddr>,
    dst_ip: Option<IpAddr>,
    src_port: Option<u16>,
    dst_port: Option<u16>,
    dst: Option<Dst>,
    vlan: Option<Vid>,
    proto: Option<u16>,
    action: Option<FilterAction>,
    priority: Option<FilterPriority>,
    /// Which row; that inside is `None` for whichever.
    loc: Option<Option<FilterId>>,
}

#[derive(Clone, Copy)]
enum Dst {
    Mac(MacAddr),
    UnknownUnicast,
    UnknownMulticast,
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

impl<S: AsRef<str>> Words<'_, S> {
    /// A filter to put in, and into which row.
    pub(crate) fn new_filter(&mut self) -> Result<(FilterSpec, Option<FilterId>), Refusal> {
        let (matches, given) = self.match_and_rest()?;
        let spec = FilterSpec {
            matches,
            action: given.action.ok_or(MatchError(NEW))?,
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
        let (matches, given) = self.match_and_rest()?;
        if given.action.is_some() || given.loc.is_some() {
            return Err(MatchError(OLD).into());
        }
        let priority = given.priority.unwrap_or_default();
        Ok(Command::FilterRemove { matches, priority })
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
        match self.next("flow-type")? {
            "flow-type" => {}
            other => return Err(Refusal::word("word", other, "flow-type")),
        }
        let (transport, v4) = match self.next(FLOW_TYPES)? {
            "tcp4" => (Transport::Tcp, true),
            "udp4" => (Transport::Udp, true),
            "tcp6" => (Transport::Tcp, false),
            "udp6" => (Transport::Udp, false),
            "ether" => {
                let given = self.given(ETHER_KEYS)?;
                return Ok((given.ether()?, given));
            }
            other => return Err(Refusal::word("flow-type", other, FLOW_TYPES)),
        };
        let given = self.given(FLOW_KEYS)?;
        Ok((given.flow(transport, v4)?, given))
    }

    fn given(&mut self, keys: &'static str) -> Result<Given, Refusal> {
        let mut given = Given::default();
        let ether = keys == ETHER_KEYS;
        while !self.is_done() {
            let key = self.next(keys)?;
            let new = match key {
                "src-ip" if !ether => set(&mut given.src_ip, self.address()?),
                "dst-ip" if !ether => set(&mut given.dst_ip, self.address()?),
                "src-port" if !ether => set(&mut given.src_port, self.port()?),
                "dst-port" if !ether => set(&mut given.dst_port, self.port()?),
                "dst" if ether => set(&mut given.dst, self.dst()?),
                "vlan" if ether => set(&mut given.vlan, self.vid()?),
                "proto" if ether => set(&mut given.proto, self.ethertype()?),
                "vf" => set(&mut given.action, FilterAction::Vf(self.vf()?)),
                "action" => match self.next("drop")? {
                    // What ethtool calls it.
                    "drop" | "-1" => set(&mut given.action, FilterAction::Drop),
                    other => {
                        return Err(Refusal::word("action", other, "drop, or vf N instead"));
                    }
                },
                "priority" => set(&mut given.priority, self.next(PRIORITIES)?.parse()?),
                "loc" => set(&mut given.loc, self.loc()?),
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

    fn address(&mut self) -> Result<IpAddr, ParseError> {
        const ALLOWED: &str = "an IP address";
        number("address", self.next(ALLOWED)?, ALLOWED)
    }

    fn port(&mut self) -> Result<u16, ParseError> {
        const ALLOWED: &str = "1 to 65535";
        number("port", self.next(ALLOWED)?, ALLOWED)
    }

    fn dst(&mut self) -> Result<Dst, ParseError> {
        Ok(match self.next(DST)? {
            "unknown-unicast" => Dst::UnknownUnicast,
            "unknown-multicast" => Dst::UnknownMulticast,
            mac => Dst::Mac(mac.parse().map_err(|_| ParseError::word("dst", mac, DST))?),
        })
    }

    fn ethertype(&mut self) -> Result<u16, ParseError> {
        const ALLOWED: &str = "a type such as 0x88b5";
        let word = self.next(ALLOWED)?;
        let parsed = match word.strip_prefix("0x") {
            Some(hex) => u16::from_str_radix(hex, 16).ok(),
            None => word.parse().ok(),
        };
        parsed.ok_or_else(|| ParseError::word("proto", word, ALLOWED))
    }
}

/// Whether there was no value before.
fn set<T>(slot: &mut Option<T>, value: T) -> bool {
    slot.replace(value).is_none()
}

impl Given {
    fn ether(&self) -> Result<FilterMatch, MatchError> {
        match (self.dst, self.vlan, self.proto) {
            (Some(Dst::Mac(mac)), Some(vid), None) => Ok(FilterMatch::MacVlan { mac, vid }),
            (Some(Dst::Mac(mac)), None, None) => Ok(FilterMatch::Mac(mac)),
            (None, None, Some(proto)) => Ok(FilterMatch::EtherType(proto)),
            (Some(Dst::UnknownUnicast), None, None) => Ok(FilterMatch::UnknownUnicast),
            (Some(Dst::UnknownMulticast), None, None) => Ok(FilterMatch::UnknownMulticast),
            _ => Err(MatchError(ETHER)),
        }
    }

    fn flow(&self, transport: Transport, v4: bool) -> Result<FilterMatch, MatchError> {
        let end = |ip: Option<IpAddr>, port| match (ip, port) {
            (Some(ip), Some(port)) if ip.is_ipv4() == v4 => Ok(Some(FlowEnd { ip, port })),
            (Some(_), Some(_)) => Err(MatchError(
                "the addresses of tcp4 and udp4 are IPv4, those of tcp6 and udp6 IPv6",
            )),
            (None, None) => Ok(None),
            _ => Err(MatchError(FLOW)),
        };
        let remote = end(self.src_ip, self.src_port)?;
        let local = end(self.dst_ip, self.dst_port)?.ok_or(MatchError(FLOW))?;
        Ok(match remote {
            None => FilterMatch::Local { transport, local },
            Some(remote) => FilterMatch::Full {
                transport,
                local,
                remote,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                "filter add flow-type sctp4",
                "flow-type 'sctp4': did you mean 'tcp4'? tcp4, udp4, tcp6, udp6 or ether",
            ),
            (
                "filter add flow-type tcp4 dst 02:00:00:00:00:01",
                "key 'dst': src-ip, dst-ip,",
            ),
            (
                "filter add flow-type ether dst-ip 10.0.0.1",
                "key 'dst-ip': dst, vlan, proto,",
            ),
            (
                "filter add flow-type tcp4 dst-ip 10.0.0.1 vf 1",
                "has dst-ip and dst-port, or src-ip",
            ),
            (
                "filter add flow-type tcp4 dst-ip fd00::1 dst-port 1 vf 1",
                "are IPv4",
            ),
            (
                "filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 1",
                "needs vf N or action drop",
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
                "filter add flow-type ether vlan 3 vf 1",
                "a filter of flow-type ether has dst MAC",
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
                "action '3': drop, or vf N instead",
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
            ("filter delete 3 vf 1", "word 'vf': priority or nothing"),
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
            Just(FilterMatch::UnknownMulticast),
            Just(FilterMatch::UnknownUnicast),
        ]
    }

    proptest! {
        #[test]
        fn words_round_trip(matches in any_match(), vf in proptest::option::of(any::<u8>()), rank in 0usize..4) {
            let priority = [FilterPriority::Hint, FilterPriority::Auto, FilterPriority::Manual, FilterPriority::Required][rank];
            let action = vf.map_or(FilterAction::Drop, |vf| FilterAction::Vf(VfIndex(vf)));
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
