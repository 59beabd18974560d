//! A frame that somebody asks about, in words: `from vf0 dst 52:54:00:00:00:01 vlan 5 tcp dport 80`. Puts the frame together;
//! never judges it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vf_packet::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, FrameMeta, Gso, Header, MAX_FRAME, MIN_FRAME, MacAddr,
    PROTO_TCP, PROTO_UDP, TcpLayout, VlanProto, VlanTag,
};

use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::source::Source;
use crate::vf::VfIndex;
use crate::words::{Once, ParseError, Words, allowed_words, hex_or_decimal, number};

const FROM: &str = "vfN or wire";
const STATION: &str = "a MAC address, vfN or broadcast";
const KEYS: &str =
    "hex, dst, src, vlan, prio, proto, type, tcp, udp, src-ip, dst-ip, sport, dport, len or gso";
const IP: &str = "an IPv4 or IPv6 address";
const PORT: &str = "a port, 0 to 65535";
const BYTES: &str = "the bytes of a frame in hexadecimal";
const BEHIND_BYTES: &str = "len or gso";
const LEN: &str = "bytes without FCS, 14 to 65557";
const SIZE: &str = "payload bytes of a segment, 1 to 65535";
const TYPE: &str = "an EtherType such as 0x0806 (or 2054)";
/// As many as there may be tags: the judge reads two of them, and the third is payload.
const MAX_TAGS: usize = 3;

/// A frame and where it would come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where it comes from.
    pub source: Source,
    /// Its bytes, or the first of them.
    pub frame: Vec<u8>,
    /// Its length, and whether it is a super-frame.
    pub meta: FrameMeta,
}

/// What has been said of the frame.
#[derive(Default)]
struct Said {
    dst: Option<MacAddr>,
    src: Option<MacAddr>,
    tags: Vec<VlanTag>,
    ethertype: Option<u16>,
    protocol: Option<u8>,
    src_ip: Option<IpAddr>,
    dst_ip: Option<IpAddr>,
    src_port: Option<u16>,
    dst_port: Option<u16>,
    len: Option<u32>,
    gso: Option<u16>,
}

impl Question {
    /// Reads `from vfN|wire` and then the frame: its bytes behind `hex`, or what it is. What is not said is as plain as can be:
    /// the sender's own address, no tag, 60 bytes, and an EtherType for experiments (0x88b5) unless it is to be IP.
    ///
    /// # Errors
    /// [`Refusal`] that names the word at fault and what is allowed in its place.
    pub fn parse<S: AsRef<str>>(words: &[S], policy: &Policy) -> Result<Question, Refusal> {
        let mut words = Words::new("why", words);
        match words.next("from")? {
            "from" => {}
            other => return Err(Refusal::word("word", other, "from vfN or from wire")),
        }
        let source = match words.next(FROM)? {
            "wire" => Source::Wire,
            word => Source::Vf(vf_named("from", word, FROM)?),
        };
        if let Source::Vf(vf) = source {
            policy.existing(vf)?;
        }
        let mut said = Said::default();
        let bytes = said.read(&mut words, policy)?;
        let src = said.src.unwrap_or(match source {
            Source::Vf(vf) => policy.mac(vf),
            // Of those that documentation may use (RFC 7042 2.1.2).
            Source::Wire => MacAddr([0, 0, 0x5e, 0, 0x53, 1]),
        });
        let frame = match bytes {
            Some(bytes) => bytes,
            None => said.frame(src)?,
        };
        said.about(source, frame, policy)
    }
}

/// The VF that a word such as `vf3` names.
fn vf_named(what: &'static str, word: &str, allowed: &'static str) -> Result<VfIndex, ParseError> {
    let index = word.strip_prefix("vf").and_then(|n| n.parse().ok());
    index
        .map(VfIndex)
        .ok_or_else(|| ParseError::word(what, word, allowed))
}

/// What is said of a frame with this word, if it can be said only once; there may be several tags.
fn once_key(word: &str) -> Option<&'static str> {
    Some(match word {
        "tcp" | "udp" => "tcp or udp",
        "src-port" => "sport",
        "dst-port" => "dport",
        "vlan" => return None,
        word => return allowed_words(KEYS).find(|key| *key == word),
    })
}

fn station(what: &'static str, word: &str, policy: &Policy) -> Result<MacAddr, Refusal> {
    if word == "broadcast" {
        return Ok(MacAddr::BROADCAST);
    }
    if word.starts_with("vf") {
        let vf = vf_named(what, word, STATION)?;
        policy.existing(vf)?;
        return Ok(policy.mac(vf));
    }
    word.parse().map_err(|_| Refusal::word(what, word, STATION))
}

impl Said {
    /// Reads all that is said; the frame's bytes, if they are given.
    fn read<S: AsRef<str>>(
        &mut self,
        words: &mut Words<'_, S>,
        policy: &Policy,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let mut bytes = None;
        let mut once = Once::default();
        let mut described = None;
        while !words.is_done() {
            let keys = if bytes.is_some() { BEHIND_BYTES } else { KEYS };
            let key = words.next(keys)?;
            if let Some(key) = once_key(key) {
                once.say(key)?;
            }
            if !matches!(key, "len" | "gso" | "hex") {
                described = described.or(Some(key));
            }
            match key {
                "len" => self.len = Some(number("len", words.next(LEN)?, LEN)?),
                "gso" => self.gso = Some(number("gso", words.next(SIZE)?, SIZE)?),
                _ if bytes.is_some() => return Err(Refusal::word("word", key, keys)),
                "hex" => {
                    if let Some(key) = described {
                        return Err(Refusal::word(
                            "word",
                            key,
                            "hex, the bytes of a frame, says all of it but len and gso: leave this word out",
                        ));
                    }
                    bytes = Some(from_hex(words.next(BYTES)?)?);
                }
                "dst" => self.dst = Some(station("dst", words.next(STATION)?, policy)?),
                "src" => self.src = Some(station("src", words.next(STATION)?, policy)?),
                "vlan" => {
                    const VLAN: &str = "0 to 4095; at most three tags, the outermost first";
                    let word = words.next(VLAN)?;
                    let vid: u16 = number("vlan", word, VLAN)?;
                    if vid > 0xfff || self.tags.len() == MAX_TAGS {
                        return Err(Refusal::word("vlan", word, VLAN));
                    }
                    // They say more of the tag that comes now.
                    once.forget(&["prio", "proto"]);
                    let tpid = VlanProto::Dot1Q.tpid();
                    self.tags.push(VlanTag { tpid, tci: vid });
                }
                "prio" | "proto" => {
                    const VALUE: &str = "0 to 7 for prio, 802.1Q or 802.1ad for proto";
                    let word = words.next(VALUE)?;
                    let Some(tag) = self.tags.last_mut() else {
                        return Err(Refusal::word(
                            "word",
                            key,
                            "vlan VID, of which it says more, first",
                        ));
                    };
                    match key {
                        "proto" => tag.tpid = word.parse::<VlanProto>()?.tpid(),
                        _ => match number::<u16>("prio", word, "0 to 7")? {
                            prio @ 0..8 => tag.tci = prio << 13 | tag.vid(),
                            _ => return Err(Refusal::word("prio", word, "0 to 7")),
                        },
                    }
                }
                "type" => {
                    let word = words.next(TYPE)?;
                    // In 0806 the 0x is missing: it is no decimal.
                    let ethertype = hex_or_decimal(word).filter(|_| !is_octal(word));
                    self.ethertype =
                        Some(ethertype.ok_or_else(|| ParseError::word("type", word, TYPE))?);
                }
                "tcp" => self.protocol = Some(PROTO_TCP),
                "udp" => self.protocol = Some(PROTO_UDP),
                "src-ip" => self.src_ip = Some(number("src-ip", words.next(IP)?, IP)?),
                "dst-ip" => self.dst_ip = Some(number("dst-ip", words.next(IP)?, IP)?),
                "sport" | "src-port" => {
                    self.src_port = Some(number("sport", words.next(PORT)?, PORT)?)
                }
                "dport" | "dst-port" => {
                    self.dst_port = Some(number("dport", words.next(PORT)?, PORT)?)
                }
                other => return Err(Refusal::word("word", other, KEYS)),
            }
        }
        Ok(bytes)
    }

    /// The frame that is described.
    fn frame(&self, src: MacAddr) -> Result<Vec<u8>, Refusal> {
        let missing = |allowed| ParseError::Missing {
            after: "why".into(),
            allowed,
        };
        let dst = self.dst.ok_or_else(|| missing("dst MAC, or hex BYTES,"))?;
        let mut frame = [dst.0, src.0].concat();
        for tag in &self.tags {
            frame.extend(tag.to_bytes());
        }
        let ports = self.src_port.is_some() || self.dst_port.is_some();
        let is_ip =
            self.protocol.is_some() || ports || self.src_ip.is_some() || self.dst_ip.is_some();
        if !is_ip {
            frame.extend(self.ethertype.unwrap_or(0x88b5).to_be_bytes());
        } else if self.ethertype.is_some() {
            return Err(Refusal::word(
                "word",
                "type",
                "either type or what makes it an IP packet",
            ));
        } else {
            if ports && self.protocol.is_none() {
                return Err(missing("tcp or udp, whose ports these are,").into());
            }
            self.packet(&mut frame)?;
        }
        frame.resize(frame.len().max(MIN_FRAME as usize), 0);
        Ok(frame)
    }

    /// An IP packet with what is said of it; addresses that are left out are of those that documentation may use.
    fn packet(&self, frame: &mut Vec<u8>) -> Result<(), Refusal> {
        let named = self.src_ip.or(self.dst_ip);
        let v6 = named.is_some_and(|ip| ip.is_ipv6());
        let given = |ip: Option<IpAddr>, last: u8| match v6 {
            true => ip.unwrap_or(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into()),
            false => ip.unwrap_or(Ipv4Addr::new(192, 0, 2, last).into()),
        };
        let protocol = self.protocol.unwrap_or(59); // IPv6: nothing follows; IPv4 knows no such number
        let transport = match protocol {
            PROTO_TCP => 20,
            PROTO_UDP => 8,
            _ => 0,
        };
        let (src, dst) = (given(self.src_ip, 1), given(self.dst_ip, 2));
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend([0x45, 0, 0, 20 + transport, 0, 0, 0, 0, 64, protocol, 0, 0]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend([0x60, 0, 0, 0, 0, transport, protocol, 64]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
            }
            _ => {
                let word = dst.to_string();
                return Err(Refusal::word(
                    "dst-ip",
                    &word,
                    "an address of the same kind as src-ip",
                ));
            }
        }
        if transport > 0 {
            frame.extend(self.src_port.unwrap_or_default().to_be_bytes());
            frame.extend(self.dst_port.unwrap_or_default().to_be_bytes());
            frame.extend(match protocol {
                PROTO_TCP => &[0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0][..],
                _ => &[0, 8, 0, 0],
            });
        }
        Ok(())
    }

    /// The frame with these bytes, as long as is said. What is TCP and longer than a frame can be is a super-frame, whether that is said or not.
    fn about(&self, source: Source, frame: Vec<u8>, policy: &Policy) -> Result<Question, Refusal> {
        let len = self.len.unwrap_or(frame.len() as u32);
        if !(14..=65_557).contains(&len) || (frame.len() as u32) > len.max(MIN_FRAME) {
            let word = len.to_string();
            return Err(Refusal::word(
                "len",
                &word,
                "bytes without FCS, 14 to 65557, and no fewer than are given",
            ));
        }
        let header_len = || {
            // What a sender of TCP without options says.
            let l3 = Header::parse(&frame).map_or(14, |header| header.l3_offset);
            let v6 = frame
                .get(usize::from(l3))
                .is_some_and(|byte| byte >> 4 == 6);
            u16::from(l3) + if v6 { 40 } else { 20 } + 20
        };
        let gso = self.gso.filter(|size| *size > 0).map(|size| Gso {
            header_len: header_len(),
            size,
        });
        // Nothing else is as long.
        let guessed = || (len > MAX_FRAME).then(|| super_frame(source, &frame, policy));
        let gso = match self.gso {
            Some(_) => gso,
            None => guessed().flatten(),
        };
        Ok(Question {
            source,
            meta: FrameMeta { len, gso },
            frame,
        })
    }
}

/// What a driver says of a super-frame that begins like this, if it is TCP: its segments are as long as the MTU that it has been told lets them be.
fn super_frame(source: Source, head: &[u8], policy: &Policy) -> Option<Gso> {
    let TcpLayout { ip, payload, .. } = TcpLayout::parse(head).ok()?;
    let mtu = match source {
        Source::Vf(vf) => policy.told_mtu(vf),
        Source::Wire => policy.mtu(),
    };
    let headers = u16::try_from(payload - ip).ok()?;
    Some(Gso {
        header_len: u16::try_from(payload).ok()?,
        size: mtu.get().checked_sub(headers).filter(|size| *size > 0)?,
    })
}

/// Whether a word is of digits with a zero in front.
fn is_octal(word: &str) -> bool {
    word.len() > 1 && word.starts_with('0') && word.bytes().all(|c| c.is_ascii_digit())
}

fn from_hex(word: &str) -> Result<Vec<u8>, ParseError> {
    let wrong = || ParseError::word("hex", word, BYTES);
    let digits: Vec<char> = word.chars().filter(|c| !matches!(c, ':' | '-')).collect();
    if digits.is_empty() || digits.len() % 2 == 1 {
        return Err(wrong());
    }
    let byte = |pair: &[char]| {
        let value = pair
            .iter()
            .try_fold(0, |sum, c| Some(sum << 4 | c.to_digit(16)?));
        value
            .and_then(|value| u8::try_from(value).ok())
            .ok_or_else(wrong)
    };
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NicConfig;
    use crate::profile::Profile;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn ask(text: &str) -> Result<Question, String> {
        let policy = Policy::new(NicConfig {
            vfs: 2,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0x10]),
            profile: Profile::Generic,
        });
        let words: Vec<&str> = text.split_whitespace().collect();
        Question::parse(&words, &policy).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn words_become_the_frame_they_describe() {
        let asked = ask("from vf0 dst vf1 vlan 5 prio 3 tcp dst-ip 10.0.0.1 dport 80").unwrap();
        assert_eq!(asked.source, Source::Vf(VfIndex(0)));
        assert_eq!(asked.meta, FrameMeta { len: 60, gso: None });
        let header = Header::parse(&asked.frame).unwrap();
        assert_eq!(header.dst, MacAddr([2, 0, 0, 0, 0, 0x11]));
        assert_eq!(header.src, MacAddr([2, 0, 0, 0, 0, 0x10]));
        assert_eq!(
            header.tags.as_slice(),
            [VlanTag {
                tpid: 0x8100,
                tci: 0x6005
            }]
        );
        let flow = header.flow(&asked.frame).unwrap();
        assert_eq!((flow.protocol, flow.ports), (6, Some((0, 80))));
        assert_eq!(
            (flow.src, flow.dst),
            ([192, 0, 2, 1].into(), [10, 0, 0, 1].into())
        );

        assert!(
            ask("from wire dst vf0 vlan 7 prio 1 proto 802.1ad vlan 9 proto 802.1Q prio 2").is_ok()
        );
        let asked = ask("from wire dst broadcast vlan 7 proto 802.1ad vlan 9 type 0x0806 len 1514")
            .unwrap();
        assert_eq!((asked.source, asked.meta.len), (Source::Wire, 1514));
        let header = Header::parse(&asked.frame).unwrap();
        assert_eq!((header.dst, header.ethertype), (MacAddr::BROADCAST, 0x806));
        assert_eq!(
            header
                .tags
                .as_slice()
                .iter()
                .map(|t| t.tpid)
                .collect::<Vec<_>>(),
            [0x88a8, 0x8100]
        );

        let asked = ask("from vf1 dst 02:00:00:00:00:99 udp src-ip 2001:db8::7 sport 53").unwrap();
        let flow = Header::parse(&asked.frame)
            .unwrap()
            .flow(&asked.frame)
            .unwrap();
        assert_eq!((flow.protocol, flow.ports), (17, Some((53, 0))));
        assert!(flow.dst.is_ipv6());

        let asked =
            ask("from vf0 hex 020000000011020000000010:0800:4500 len 9000 gso 1460").unwrap();
        assert_eq!((asked.frame.len(), asked.meta.len), (16, 9000));
        assert_eq!(
            asked.meta.gso,
            Some(Gso {
                header_len: 54,
                size: 1460
            })
        );
    }

    #[test]
    fn an_ethertype_is_read_as_filters_read_it() {
        let ethertype = |word: &str| {
            let asked = ask(&format!("from wire dst vf0 type {word}"));
            asked.map(|asked| Header::parse(&asked.frame).unwrap().ethertype)
        };
        assert_eq!(ethertype("0x0806"), Ok(0x0806));
        assert_eq!(ethertype("2054"), Ok(0x0806));
        for word in ["0806", "88cc", "0x10000", "-1"] {
            let refused = ethertype(word).unwrap_err();
            assert!(refused.contains("such as 0x0806"), "{refused}");
        }
    }

    #[test]
    fn tcp_that_is_longer_than_a_frame_is_a_super_frame() {
        // Ethernet, IPv4 and TCP with timestamps.
        let mut head = vec![0; 66];
        head[12..15].copy_from_slice(&[8, 0, 0x45]);
        (head[23], head[46]) = (6, 0x80);
        let hex: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
        let gso = |more: &str| ask(&format!("from vf0 hex {hex} {more}")).unwrap().meta.gso;
        let (header_len, size) = (66, 1448);
        assert_eq!(gso("len 11650"), Some(Gso { header_len, size }));
        assert_eq!(gso("len 9000"), None);
        assert_eq!(gso("len 11650 gso 0"), None);
        head[23] = 17;
        let hex: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
        let udp = ask(&format!("from vf0 hex {hex} len 11650")).unwrap();
        assert_eq!(udp.meta.gso, None);
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        for (text, says) in [
            ("", "why: from must follow"),
            ("vf0", "word 'vf0': from vfN or from wire"),
            ("from eth0", "from 'eth0': vfN or wire"),
            ("from vf7 dst vf0", "vf7: the VFs of this NIC are 0 to 1"),
            ("from vf0", "dst MAC, or hex BYTES, must follow"),
            ("from vf0 dst vf2", "vf2: the VFs of this NIC"),
            (
                "from vf0 dst 1:2",
                "dst '1:2': a MAC address, vfN or broadcast",
            ),
            (
                "from vf0 dst vf1 prio 3",
                "word 'prio': vlan VID, of which it says more, first",
            ),
            ("from vf0 dst vf1 vlan 4096", "vlan '4096': 0 to 4095"),
            (
                "from vf0 dst vf1 dport 80",
                "tcp or udp, whose ports these are, must follow",
            ),
            (
                "from vf0 dst vf1 tcp src-ip 10.0.0.1 dst-ip ::1",
                "dst-ip '::1': an address of the same kind",
            ),
            (
                "from vf0 dst vf1 tcp type 0x800",
                "either type or what makes it an IP packet",
            ),
            (
                "from vf0 hex 0g",
                "hex '0g': the bytes of a frame in hexadecimal",
            ),
            ("from vf0 hex 0011 dst vf1", "word 'dst': len or gso"),
            (
                "from vf0 gso 9 dst vf1 hex 0011",
                "word 'dst': hex, the bytes of a frame, says all of it but len and gso",
            ),
            ("from vf0 dst vf1 dst vf0", "dst is said twice: say it once"),
            ("from vf0 dst vf1 tcp udp", "tcp or udp is said twice"),
            (
                "from vf0 dst vf1 tcp dport 80 dst-port 81",
                "dport is said twice",
            ),
            (
                "from vf0 dst vf1 vlan 5 prio 1 prio 2",
                "prio is said twice",
            ),
            ("from vf0 hex 0011 len 60 len 61", "len is said twice"),
            (
                "from vf0 dst vf1 len 70000",
                "len '70000': bytes without FCS",
            ),
            ("from vf0 dst vf1 port 80", "word 'port': hex, dst, src,"),
        ] {
            let refusal = ask(text).unwrap_err();
            assert!(refusal.contains(says), "{text:?}: {refusal}");
        }
    }

    proptest! {
        #[test]
        fn any_words_are_a_question_or_one_line(
            words in proptest::collection::vec(
                prop_oneof![
                    4 => select(vec!["from", "vf0", "wire", "dst", "vf1", "vlan", "5", "tcp", "dport", "hex", "0011", "len", "gso", "src-ip", "::1"])
                        .prop_map(str::to_owned),
                    1 => any::<String>(),
                ],
                0..10,
            )
        ) {
            if let Err(refusal) = ask(&["from vf0 dst vf1 ", &words.join(" ")].concat()) {
                prop_assert!(!refusal.contains('\n'));
            }
        }
    }
}
