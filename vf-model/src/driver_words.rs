//! What a driver asks of its NIC, in words such as `mode promisc` or `table 02:00:00:00:00:09`. Grants nothing.

use vf_packet::MacAddr;

use crate::mailbox::{RxMode, VfRequest};
use crate::refusal::Refusal;
use crate::words::{ParseError, Words, number};

const VERBS: &str = "reset, mac, mode, table or vlan";
const MODES: &str = "promisc, allmulti, alluni, nomulti, nouni or nobcast";
const ADDRESS: &str = "a MAC address, or the first of N that follow each other as MAC*N";
const VLAN: &str = "1 to 4094";
/// Most addresses that a table can have: more than any NIC has room for.
const MAX_TABLE: u32 = 4096;

impl VfRequest {
    /// Reads `reset [groups] [vlans]` (it will list those), `mac MAC`, `mode [promisc] [allmulti] ...`, `table [MAC|MAC*N] ...` or
    /// `vlan add|del VID`.
    ///
    /// # Errors
    /// [`Refusal`] that names the word at fault and what is allowed in its place.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<VfRequest, Refusal> {
        let mut words = Words::new("request", words);
        let request = match words.next(VERBS)? {
            "reset" => words.reset()?,
            "mac" => VfRequest::Mac(words.next("a MAC address")?.parse()?),
            "mode" => VfRequest::RxMode(words.rx_mode()?),
            "table" => words.table()?,
            "vlan" => {
                let add = words.next("add or del")?;
                let vid = number::<u16>("vlan", words.next(VLAN)?, VLAN)?;
                let vid = vf_packet::Vid::new(vid)?;
                match add {
                    "add" => VfRequest::VlanAdd(vid),
                    "del" => VfRequest::VlanDel(vid),
                    other => return Err(Refusal::word("vlan", other, "add or del")),
                }
            }
            other => return Err(Refusal::word("request", other, VERBS)),
        };
        words.end()?;
        Ok(request)
    }
}

impl<S: AsRef<str>> Words<'_, S> {
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
            match self.next(MODES)? {
                "promisc" => mode.promisc = true,
                "allmulti" => mode.allmulti = true,
                "alluni" => mode.alluni = true,
                "nomulti" => mode.nomulti = true,
                "nouni" => mode.nouni = true,
                "nobcast" => mode.nobcast = true,
                other => return Err(ParseError::word("mode", other, MODES)),
            }
        }
        Ok(mode)
    }

    fn table(&mut self) -> Result<VfRequest, Refusal> {
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
        let (multicast, unicast) = all
            .into_iter()
            .partition(|mac: &MacAddr| mac.is_multicast());
        Ok(VfRequest::MacTable { unicast, multicast })
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
        for (text, says) in [
            (
                "promisc",
                "request 'promisc': reset, mac, mode, table or vlan",
            ),
            ("mode up", "mode 'up': promisc, allmulti"),
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
