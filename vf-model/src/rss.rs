//! Receive side scaling: which of a VF's queues a frame goes to, by a Toeplitz hash of its flow and an indirection table
//! (virtio 5.1.6.5.7; Microsoft's RSS). Frames of a flow stay in order, for they go to one queue as long as neither the
//! settings nor the number of queues in use change. Never decides who receives a frame.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use bitflags::bitflags;
use vf_packet::{FlowKey, Header, PROTO_TCP, PROTO_UDP};

use crate::words::{ParseError, Words, number};

/// Most queues that an indirection table can name.
pub const MAX_RSS_QUEUES: u16 = 16;
/// Entries of an indirection table.
const ENTRIES: usize = 128;
/// Longest hashed input: two IPv6 addresses and two ports.
const INPUT: usize = 36;

/// The key of the hash; in text as `ethtool -x` shows it, `6d:5a:...`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RssKey(pub [u8; 40]);

/// How the entries of an indirection table are spread over queues. Where a guest uses fewer queues than are named, the
/// numbers wrap around.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RssSpread {
    /// Evenly over the queues that the guest uses.
    #[default]
    InUse,
    /// `equal N`: evenly over the first N queues.
    Equal(u16),
    /// `weight W0 W1 ...`: in these proportions over the first queues.
    Weight(Vec<u16>),
    /// `table Q0 Q1 ... Q127`: each entry by itself.
    Table(Box<[u8; ENTRIES]>),
}

bitflags! {
    /// What is hashed of a packet, by the names of virtio (5.1.6.4.3.1) and Microsoft's RSS: addresses and ports of TCP and UDP, or else the
    /// addresses of IP, or else nothing.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct HashTypes: u8 {
        /// Addresses of IPv4.
        const IPV4 = 1;
        /// Addresses and ports of TCP over IPv4.
        const TCPV4 = 1 << 1;
        /// Addresses and ports of UDP over IPv4.
        const UDPV4 = 1 << 2;
        /// Addresses of IPv6.
        const IPV6 = 1 << 3;
        /// Addresses and ports of TCP over IPv6.
        const TCPV6 = 1 << 4;
        /// Addresses and ports of UDP over IPv6.
        const UDPV6 = 1 << 5;
    }
}

/// Key, table and kinds of the hash that the driver of a VF has set for all that the VF receives, where its NIC lets it (EF10's exclusive RSS
/// context): in force instead of the administrator's until the driver takes it back or starts anew. Its `Display` is what follows `request rss`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverRss {
    /// Key of the hash.
    pub key: RssKey,
    /// How flows are spread.
    pub spread: RssSpread,
    /// What is hashed.
    pub types: HashTypes,
}

/// An indirection table that names no queue, or one beyond as many as NICs like this one spread flows over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rss: flows are spread over 1 to {0} queues")]
pub struct RssQueues(pub u16);

/// Key and indirection table of a VF.
#[derive(Clone, Debug)]
pub struct Rss {
    toeplitz: Arc<Toeplitz>,
    spread: RssSpread,
    table: [u8; ENTRIES],
    types: HashTypes,
    /// Most queues that flows are spread over, however many the guest uses.
    most: u16,
}

/// What each half byte of the input adds to the hash under one key.
#[derive(Clone, Debug)]
struct Toeplitz {
    key: RssKey,
    halves: [[u32; 16]; 2 * INPUT],
}

impl Default for RssKey {
    /// The key of Microsoft's verification suite, which many NICs come with.
    fn default() -> RssKey {
        RssKey([
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ])
    }
}

impl Toeplitz {
    fn new(key: RssKey) -> Toeplitz {
        let mut padded = [0; 48];
        padded[..40].copy_from_slice(&key.0);
        // The 32 bits of the key from this bit on.
        let window = |bit: usize| {
            let bytes = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| padded[bit / 8 + i]);
            (u64::from_be_bytes(bytes) << (bit % 8) >> 32) as u32
        };
        let mut halves = [[0; 16]; 2 * INPUT];
        for (n, half) in halves.iter_mut().enumerate() {
            for (value, adds) in half.iter_mut().enumerate() {
                let set = (0..4).filter(|bit| value >> (3 - bit) & 1 == 1);
                *adds = set.fold(0, |hash, bit| hash ^ window(4 * n + bit));
            }
        }
        Toeplitz { key, halves }
    }

    /// The hash of at most [`INPUT`] bytes.
    #[inline]
    fn hash(&self, input: &[u8]) -> u32 {
        let (pairs, _) = self.halves.as_chunks::<2>();
        let halves = pairs.iter().zip(input);
        halves.fold(0, |hash, ([high, low], byte)| {
            hash ^ high[usize::from(byte >> 4)] ^ low[usize::from(byte & 15)]
        })
    }

    fn hash_flow(&self, flow: &FlowKey) -> u32 {
        let mut input = [0; INPUT];
        let mut len = 0;
        let mut push = |bytes: &[u8]| {
            input[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        for address in [flow.src, flow.dst] {
            match address {
                IpAddr::V4(v4) => push(&v4.octets()),
                IpAddr::V6(v6) => push(&v6.octets()),
            }
        }
        if let Some((src, dst)) = flow.ports {
            push(&src.to_be_bytes());
            push(&dst.to_be_bytes());
        }
        self.hash(&input[..len])
    }
}

impl Rss {
    /// The default key, evenly over the queues in use, `most` of them.
    pub(crate) fn new(most: u16) -> Rss {
        Rss {
            toeplitz: Arc::new(Toeplitz::new(RssKey::default())),
            spread: RssSpread::InUse,
            table: RssSpread::InUse.table(),
            types: HashTypes::all(),
            most,
        }
    }

    /// As a driver has it, on a NIC that spreads over so many queues at most.
    ///
    /// # Errors
    /// [`RssQueues`] if the table names no queue or too many.
    pub(crate) fn of_driver(driver: &DriverRss, most: u16) -> Result<Rss, RssQueues> {
        let mut rss = Rss::new(most);
        rss.set(Some(driver.key), Some(&driver.spread))?;
        rss.types = driver.types;
        Ok(rss)
    }

    /// The other way round.
    pub(crate) fn to_driver(&self) -> DriverRss {
        DriverRss {
            key: self.key(),
            spread: self.spread.clone(),
            types: self.types,
        }
    }

    /// The hash's key.
    #[must_use]
    pub fn key(&self) -> RssKey {
        self.toeplitz.key
    }

    /// How the table is filled.
    #[must_use]
    pub fn spread(&self) -> &RssSpread {
        &self.spread
    }

    /// Which of so many queues a frame goes to that begins with `head`; what is not hashed goes to the first.
    #[must_use]
    pub fn queue(&self, head: &[u8], in_use: u16) -> u16 {
        let hash = self.hash(head);
        hash.map_or(0, |(hash, _)| self.entry(hash as u16, in_use))
    }

    /// The hash of a frame that begins with `head`, and what of its flow is hashed; none of what is not IP.
    #[must_use]
    pub fn hash(&self, head: &[u8]) -> Option<(u32, FlowKey)> {
        let flow = Header::parse(head).ok().and_then(|h| h.flow(head))?;
        let flow = self.types.of(flow)?;
        Some((self.toeplitz.hash_flow(&flow), flow))
    }

    /// Which of so many queues an entry of the table names, of 128 that go round.
    #[must_use]
    pub fn entry(&self, entry: u16, in_use: u16) -> u16 {
        let entry = entry % ENTRIES as u16;
        let queue = match &self.spread {
            RssSpread::InUse => entry,
            _ => u16::from(self.table[usize::from(entry)]),
        };
        queue % in_use.min(self.most).max(1)
    }

    /// # Errors
    /// [`RssQueues`] if the table would name no queue or too many.
    pub(crate) fn set(
        &mut self,
        key: Option<RssKey>,
        spread: Option<&RssSpread>,
    ) -> Result<(), RssQueues> {
        if let Some(spread) = spread {
            spread.check(self.most)?;
            self.table = spread.table();
            self.spread = spread.clone();
        }
        if let Some(key) = key {
            self.toeplitz = Arc::new(Toeplitz::new(key));
        }
        Ok(())
    }
}

impl HashTypes {
    /// What is hashed of a flow.
    #[inline]
    fn of(self, flow: FlowKey) -> Option<FlowKey> {
        if self.is_all() {
            return Some(flow);
        }
        let [ip, tcp, udp] = match flow.src {
            IpAddr::V4(_) => [HashTypes::IPV4, HashTypes::TCPV4, HashTypes::UDPV4],
            IpAddr::V6(_) => [HashTypes::IPV6, HashTypes::TCPV6, HashTypes::UDPV6],
        };
        let with_ports = match flow.protocol {
            PROTO_TCP => self.contains(tcp),
            PROTO_UDP => self.contains(udp),
            _ => false,
        };
        match with_ports && flow.ports.is_some() {
            true => Some(flow),
            false => self.contains(ip).then_some(FlowKey {
                ports: None,
                ..flow
            }),
        }
    }

    /// Its names, in lower case.
    fn names(self) -> impl Iterator<Item = String> {
        self.iter_names().map(|(name, _)| name.to_ascii_lowercase())
    }
}

impl RssSpread {
    /// What these entries are: `equal N`, if they are that.
    #[must_use]
    pub fn of_table(table: &[u8; ENTRIES]) -> RssSpread {
        let queues = table.iter().max().map_or(1, |most| u16::from(*most) + 1);
        let equal = RssSpread::Equal(queues);
        match equal.table() == *table {
            true => equal,
            false => RssSpread::Table(Box::new(*table)),
        }
    }

    fn check(&self, most: u16) -> Result<(), RssQueues> {
        let good = match self {
            RssSpread::InUse => true,
            RssSpread::Equal(queues) => (1..=most).contains(queues),
            RssSpread::Weight(weights) => {
                weights.len() <= usize::from(most) && weights.iter().any(|w| *w > 0)
            }
            RssSpread::Table(table) => table.iter().all(|queue| u16::from(*queue) < most),
        };
        good.then_some(()).ok_or(RssQueues(most))
    }

    fn table(&self) -> [u8; ENTRIES] {
        if let RssSpread::Table(table) = self {
            return **table;
        }
        let mut table = [0; ENTRIES];
        let sum = match self {
            RssSpread::Weight(weights) => weights.iter().map(|w| usize::from(*w)).sum(),
            _ => 0,
        };
        for (entry, queue) in table.iter_mut().enumerate() {
            *queue = match self {
                RssSpread::InUse | RssSpread::Table(_) => 0,
                RssSpread::Equal(queues) => (entry % usize::from((*queues).max(1))) as u8,
                // A run of entries for each queue, as ethtool fills it.
                RssSpread::Weight(weights) => {
                    let mut upto = 0;
                    let mut ends = weights.iter().map(|w| {
                        upto += usize::from(*w);
                        ENTRIES * upto / sum.max(1)
                    });
                    ends.position(|end| entry < end).unwrap_or(0) as u8
                }
            };
        }
        table
    }
}

impl fmt::Display for RssKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        self.0.iter().try_for_each(|byte| {
            write!(f, "{separator}{byte:02x}")?;
            separator = ":";
            Ok(())
        })
    }
}

impl fmt::Debug for RssKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RssKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<RssKey, ParseError> {
        let wrong = || ParseError::word("hkey", text, KEY);
        let mut key = [0; 40];
        let mut parts = text.split(':');
        for byte in &mut key {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        match parts.next() {
            None => Ok(RssKey(key)),
            Some(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for RssSpread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RssSpread::InUse => f.write_str("default"),
            RssSpread::Equal(queues) => write!(f, "equal {queues}"),
            RssSpread::Weight(weights) => {
                f.write_str("weight")?;
                weights.iter().try_for_each(|w| write!(f, " {w}"))
            }
            RssSpread::Table(table) => {
                f.write_str("table")?;
                table.iter().try_for_each(|queue| write!(f, " {queue}"))
            }
        }
    }
}

impl fmt::Display for DriverRss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("types")?;
        let names: Vec<_> = self.types.names().collect();
        match names.is_empty() {
            true => f.write_str(" none")?,
            false => names.iter().try_for_each(|name| write!(f, " {name}"))?,
        }
        write!(f, " hkey {} {}", self.key, self.spread)
    }
}

const KEY: &str = "40 bytes in hexadecimal, separated by colons";

impl<S: AsRef<str>> Words<'_, S> {
    /// `[types TYPE ...] [hkey KEY] [SPREAD]`: of what is not said all types, and what a NIC comes with.
    pub(crate) fn driver_rss(&mut self) -> Result<DriverRss, ParseError> {
        const TYPES: &str = "none, or some of ipv4, tcpv4, udpv4, ipv6, tcpv6 and udpv6";
        let mut types = HashTypes::all();
        if self.peek() == Some("types") {
            self.next(TYPES)?;
            types = HashTypes::empty();
            let named = |word: &str| HashTypes::from_name(&word.to_ascii_uppercase());
            while let Some(kind) = self.peek().and_then(named) {
                self.next(TYPES)?;
                types |= kind;
            }
            if types.is_empty() {
                match self.next(TYPES)? {
                    "none" => {}
                    other => return Err(ParseError::word("types", other, TYPES)),
                }
            }
        }
        let (key, spread) = match self.is_done() {
            true => (None, None),
            false => self.rss()?,
        };
        Ok(DriverRss {
            key: key.unwrap_or_default(),
            spread: spread.unwrap_or_default(),
            types,
        })
    }

    /// `[hkey KEY] [equal N|weight W0 W1 ...|table Q0 ... Q127|default]`, in either order, as after `ethtool -X DEV`, which has no tables.
    pub(crate) fn rss(&mut self) -> Result<(Option<RssKey>, Option<RssSpread>), ParseError> {
        const ALL: &str =
            "hkey KEY, equal N, weight W0 W1 ..., table Q0 ... Q127, default or context";
        const SPREADS: &str = "equal N, weight W0 W1 ..., table Q0 ... Q127 or default";
        const QUEUES: &str = "1 to 16";
        const WEIGHT: &str = "a whole number for each queue";
        const ENTRY: &str = "a queue for each of 128 entries";
        let mut word = self.next(ALL)?;
        let mut key = None;
        if word == "hkey" {
            key = Some(self.next(KEY)?.parse()?);
            if self.is_done() {
                return Ok((key, None));
            }
            word = self.next(SPREADS)?;
        }
        let spread = match word {
            "default" => RssSpread::InUse,
            "equal" => RssSpread::Equal(number("equal", self.next(QUEUES)?, QUEUES)?),
            "weight" => {
                let mut weights = vec![number("weight", self.next(WEIGHT)?, WEIGHT)?];
                while self.peek().is_some_and(|word| word != "hkey") {
                    weights.push(number("weight", self.next(WEIGHT)?, WEIGHT)?);
                }
                RssSpread::Weight(weights)
            }
            "table" => {
                let mut table = Box::new([0; ENTRIES]);
                for queue in table.iter_mut() {
                    *queue = number("table", self.next(ENTRY)?, ENTRY)?;
                }
                RssSpread::Table(table)
            }
            other => return Err(ParseError::word("rss", other, ALL)),
        };
        if key.is_none() && self.peek() == Some("hkey") {
            self.next(KEY)?;
            key = Some(self.next(KEY)?.parse()?);
        }
        Ok((key, Some(spread)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Microsoft's verification suite: source and destination with ports, hash without and with ports.
    const KNOWN: [(&str, u16, &str, u16, u32, u32); 8] = [
        (
            "66.9.149.187",
            2794,
            "161.142.100.80",
            1766,
            0x323e_8fc2,
            0x51cc_c178,
        ),
        (
            "199.92.111.2",
            14230,
            "65.69.140.83",
            4739,
            0xd718_262a,
            0xc626_b0ea,
        ),
        (
            "24.19.198.95",
            12898,
            "12.22.207.184",
            38024,
            0xd2d0_a5de,
            0x5c2b_394a,
        ),
        (
            "38.27.205.30",
            48228,
            "209.142.163.6",
            2217,
            0x8298_9176,
            0xafc7_327f,
        ),
        (
            "153.39.163.191",
            44251,
            "202.188.127.2",
            1303,
            0x5d18_09c5,
            0x10e8_28a2,
        ),
        (
            "3ffe:2501:200:1fff::7",
            2794,
            "3ffe:2501:200:3::1",
            1766,
            0x2cc1_8cd5,
            0x4020_7d3d,
        ),
        (
            "3ffe:501:8::260:97ff:fe40:efab",
            14230,
            "ff02::1",
            4739,
            0x0f0c_461c,
            0xdde5_1bbf,
        ),
        (
            "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
            44251,
            "fe80::200:f8ff:fe21:67cf",
            38024,
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];

    #[test]
    fn known_answers() {
        let toeplitz = Toeplitz::new(RssKey::default());
        for (src, from, dst, to, without, with) in KNOWN {
            let mut flow = FlowKey {
                src: src.parse().unwrap(),
                dst: dst.parse().unwrap(),
                protocol: 6,
                ports: None,
            };
            assert_eq!(toeplitz.hash_flow(&flow), without, "{src}");
            flow.ports = Some((from, to));
            assert_eq!(toeplitz.hash_flow(&flow), with, "{src}");
        }
    }

    fn any_key() -> impl Strategy<Value = RssKey> {
        (any::<[u8; 32]>(), any::<[u8; 8]>()).prop_map(|(a, b)| {
            let mut key = [0; 40];
            key[..32].copy_from_slice(&a);
            key[32..].copy_from_slice(&b);
            RssKey(key)
        })
    }

    proptest! {
        /// The definition: for each bit that is set, the 32 bits of the key that begin there.
        #[test]
        fn tables_give_what_bits_give(
            key in any_key(),
            input in proptest::collection::vec(any::<u8>(), 0..=INPUT),
        ) {
            let bit = |bytes: &[u8], at: usize| u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
            let mut hash = 0;
            for at in (0..8 * input.len()).filter(|at| bit(&input, *at) == 1) {
                hash ^= (0..32).fold(0, |window, i| window << 1 | bit(&key.0, at + i));
            }
            prop_assert_eq!(Toeplitz::new(key).hash(&input), hash);
        }

        #[test]
        fn key_text_round_trips(key in any_key()) {
            prop_assert_eq!(key.to_string().parse(), Ok(key));
        }
    }

    #[test]
    fn tables_are_filled_as_ethtool_fills_them() {
        let shares = |spread: RssSpread| {
            let mut hits = [0; 4];
            spread
                .table()
                .iter()
                .for_each(|q| hits[usize::from(*q)] += 1);
            hits
        };
        assert_eq!(shares(RssSpread::Equal(3)), [43, 43, 42, 0]);
        assert_eq!(shares(RssSpread::Weight(vec![6, 0, 2])), [96, 0, 32, 0]);
        let runs = RssSpread::Weight(vec![1, 1]).table();
        assert_eq!((runs[63], runs[64]), (0, 1));
        for bad in [
            RssSpread::Equal(0),
            RssSpread::Equal(17),
            RssSpread::Weight(vec![0, 0]),
            RssSpread::Weight(vec![1; 17]),
        ] {
            let refused = bad.check(MAX_RSS_QUEUES);
            assert_eq!(refused, Err(RssQueues(MAX_RSS_QUEUES)), "{bad}");
        }
    }

    fn udp4(port: u16) -> Vec<u8> {
        let mut head = vec![0; 14];
        head[12..].copy_from_slice(&[8, 0]);
        head.extend([
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        head.extend(port.to_be_bytes());
        head.extend([0, 80, 0, 8, 0, 0]);
        head
    }

    #[test]
    fn what_is_hashed_is_what_its_types_say() {
        let with = |types| {
            let driver = DriverRss {
                key: RssKey::default(),
                spread: RssSpread::Equal(4),
                types,
            };
            Rss::of_driver(&driver, 4).unwrap()
        };
        let hashes = |types| {
            let rss = with(types);
            let ports = [1, 2].map(|port| rss.hash(&udp4(port)));
            ports.map(|hash| hash.map(|(hash, flow)| (hash, flow.ports.is_some())))
        };
        let all = Rss::new(4);
        let [one, two] = [1, 2].map(|port| all.hash(&udp4(port)).unwrap().0);
        let both = [Some((one, true)), Some((two, true))];
        assert_eq!(hashes(HashTypes::all()), both);
        assert_eq!(hashes(HashTypes::UDPV4), both);
        let [first, second] = hashes(HashTypes::IPV4 | HashTypes::TCPV4);
        assert!(first == second && first.is_some_and(|(hash, ports)| hash != one && !ports));
        assert_eq!(hashes(HashTypes::TCPV4 | HashTypes::IPV6), [None, None]);
        assert_eq!(with(HashTypes::IPV6).queue(&udp4(1), 4), 0, "not hashed");
    }

    #[test]
    fn a_table_that_goes_round_has_the_words_of_ethtool() {
        let of = |entry: &dyn Fn(usize) -> u8| {
            RssSpread::of_table(&std::array::from_fn(entry)).to_string()
        };
        assert_eq!(of(&|i| (i % 3) as u8), "equal 3");
        assert_eq!(of(&|_| 0), "equal 1");
        assert!(of(&|i| (i / 64) as u8).starts_with("table 0 0"));
    }

    #[test]
    fn flows_spread_over_the_queues_in_use() {
        let mut rss = Rss::new(MAX_RSS_QUEUES);
        let hits = |rss: &Rss, in_use| {
            let mut hits = [0; 4];
            for port in 0..1000 {
                hits[usize::from(rss.queue(&udp4(port), in_use))] += 1;
            }
            hits
        };
        assert!(hits(&rss, 4).iter().all(|h| (180..320).contains(h)));
        assert_eq!(hits(&rss, 1), [1000, 0, 0, 0]);
        rss.set(None, Some(&RssSpread::Equal(2))).unwrap();
        let [a, b, rest @ ..] = hits(&rss, 4);
        assert!(a > 300 && b > 300 && rest == [0, 0]);
        rss.set(None, Some(&RssSpread::Weight(vec![0, 0, 0, 1])))
            .unwrap();
        assert_eq!(hits(&rss, 4), [0, 0, 0, 1000]);
        assert_eq!(
            hits(&rss, 2),
            [0, 1000, 0, 0],
            "the guest uses fewer than the table names"
        );
        let before = rss.queue(&udp4(1), 16);
        rss.set(Some(RssKey([0x5a; 40])), Some(&RssSpread::InUse))
            .unwrap();
        assert_ne!(rss.queue(&udp4(1), 16), before);
        assert_eq!(rss.queue(&[0xff; 60], 16), 0, "not IP");
        // A NIC that spreads over two leaves the guest's others alone.
        let two = Rss::new(2);
        let [a, b, rest @ ..] = hits(&two, 4);
        assert!(a > 300 && b > 300 && rest == [0, 0]);
    }
}
