//! The filter tables of Falcon and Siena, Solarflare's SFC4000 and SFC9000, row by row as Linux's sfc driver fills them
//! (siena/farch.c): which row a filter may lie in is decided by a hash of what it matches, and a table refuses one long
//! before its last row is taken if that filter's rows are. Decides what is admitted; never looks at a frame.

use std::net::IpAddr;

use vf_packet::Vlan;

use crate::filter_fields::MatchFlags;
use crate::filter_spec::{FilterMatch, FilterPriority, Transport};
use crate::filter_store::{Found, Held, Place, Row, SearchDepth, TableUse};
use crate::hash_rows::{HashRows, Probe, Spot};
use crate::vf::VfIndex;

/// Rows of a table, or of a bank of it, of filters on IPv4 flows.
pub(crate) const IP_ROWS: usize = 8192;
/// Rows of the table of filters on addresses.
pub(crate) const MAC_ROWS: usize = 512;
/// How deep the driver looks for a free row: the hardware times out somewhat beyond that.
const DEEPEST: u16 = 200;
/// How deep it looks for one for a hint, which is not worth more.
const DEEPEST_HINT: u16 = 5;
/// Where the two rows without a hash are among a [`Place`]'s tables.
const DEFAULTS: u8 = 4;
const MAC_TABLE: u8 = 3;
const TX_MAC_TABLE: u8 = 5;

/// What a filter is to the hardware, each with a search limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FarchType {
    TcpFull,
    TcpWild,
    UdpFull,
    UdpWild,
    MacFull,
    MacWild,
    TxMacFull,
    TxMacWild,
    UnicastDefault,
    MulticastDefault,
}

/// How many have a search limit.
const HASHED: usize = 8;
const NAMES: [&str; HASHED] = [
    "tcp-full", "tcp-wild", "udp-full", "udp-wild", "mac-full", "mac-wild", "mac-full", "mac-wild",
];
/// What filters on what VFs send look at.
pub(crate) const TX_COMBINATIONS: &[MatchFlags] = &[
    MatchFlags::SENDER
        .union(MatchFlags::SRC_MAC)
        .union(MatchFlags::OUTER_VID),
    MatchFlags::SENDER.union(MatchFlags::SRC_MAC),
];
/// Where the transmit queues of VFs begin, and how many each has (siena_sriov.c: EFX_VI_BASE, and vf_max_tx_channels unless it
/// is told). A filter names the first of them, and is a VF's here: it has no other queue in this table.
const VF_QUEUES: u32 = 128;
const QUEUES_A_VF: u32 = 2;

/// The fold of what a filter matches that the hardware hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FarchKey(u32);

impl FarchType {
    /// Which filters win: those of the lowest number.
    pub(crate) fn precedence(self) -> u32 {
        match self {
            FarchType::TcpFull | FarchType::UdpFull => 0,
            FarchType::TcpWild | FarchType::UdpWild => 1,
            FarchType::MacFull => 2,
            FarchType::MacWild => 3,
            FarchType::UnicastDefault | FarchType::MulticastDefault => 4,
            // Behind all that look at what is received, as the driver's ids have it.
            FarchType::TxMacFull => 5 + FarchType::MacFull.precedence(),
            FarchType::TxMacWild => 5 + FarchType::MacWild.precedence(),
        }
    }

    /// How much deeper than asked the hardware is told to look, for its pipeline is still at work on what comes before.
    fn pipeline(self) -> u16 {
        match self {
            FarchType::TcpWild | FarchType::UdpWild | FarchType::MacWild | FarchType::TxMacWild => {
                3
            }
            _ => 1,
        }
    }
}

impl FarchKey {
    /// The key of a filter on a flow, or on its local end if there is no remote one.
    fn of_flow(is_udp: bool, local: (u32, u16), remote: Option<(u32, u16)>) -> FarchKey {
        let (remote_ip, remote_port) = remote.unwrap_or_default();
        // The local port of a UDP filter without a remote end lies where others have the remote one.
        let (a, b) = match (is_udp, remote) {
            (true, None) => (local.1, 0),
            _ => (remote_port, local.1),
        };
        let [w0, w1] = [
            remote_ip << 16 | u32::from(a),
            u32::from(b) << 16 | remote_ip >> 16,
        ];
        FarchKey(w0 ^ w1 ^ local.0 ^ u32::from(is_udp))
    }

    /// The key of a filter on an address, in one VLAN or in all.
    fn of_mac(mac: [u8; 6], vid: Option<u16>) -> FarchKey {
        let [a, b, c, d, e, f] = mac;
        let low = u32::from_be_bytes([c, d, e, f]);
        let high = u32::from_be_bytes([0, 0, a, b]);
        FarchKey(u32::from(vid.unwrap_or_default()) ^ low ^ high ^ u32::from(vid.is_none()))
    }

    /// The key of a filter on the source address of what a VF sends: the same address may be allowed on several queues.
    fn of_source(vf: VfIndex, mac: [u8; 6], vid: Option<u16>) -> FarchKey {
        let FarchKey(key) = FarchKey::of_mac(mac, vid);
        let queue = VF_QUEUES + QUEUES_A_VF * u32::from(vf.0);
        FarchKey(key ^ queue << 1)
    }

    /// A shift register of x^16 + x^3 + 1, all ones at first, that is fed the key's bits, the highest first.
    fn hash(self) -> u16 {
        (0..32).rev().fold(0xffff_u16, |register, bit| {
            let fed = (self.0 >> bit) as u16 ^ register >> 15 ^ register >> 2;
            register << 1 | fed & 1
        })
    }

    fn step(self) -> u16 {
        (self.0 as u16).wrapping_mul(2).wrapping_sub(1)
    }

    fn probe(self, of: FarchType) -> Probe {
        Probe {
            start: self.hash().into(),
            step: self.step().into(),
            kind: of as usize,
        }
    }
}

/// What a filter is to the hardware, with its key; `None` if it is none.
pub(crate) fn farch_filter(matches: &FilterMatch) -> Option<(FarchType, FarchKey)> {
    let v4 = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => Some(ip.to_bits()),
        IpAddr::V6(_) => None,
    };
    Some(match matches {
        FilterMatch::Full {
            transport,
            local,
            remote,
        } => {
            let remote = (v4(remote.ip)?, remote.port);
            let is_udp = *transport == Transport::Udp;
            let of = [FarchType::TcpFull, FarchType::UdpFull][usize::from(is_udp)];
            let local = (v4(local.ip)?, local.port);
            (of, FarchKey::of_flow(is_udp, local, Some(remote)))
        }
        FilterMatch::Local { transport, local } => {
            let is_udp = *transport == Transport::Udp;
            let of = [FarchType::TcpWild, FarchType::UdpWild][usize::from(is_udp)];
            let local = (v4(local.ip)?, local.port);
            (of, FarchKey::of_flow(is_udp, local, None))
        }
        FilterMatch::MacVlan { mac, vid } => {
            (FarchType::MacFull, FarchKey::of_mac(mac.0, Some(vid.get())))
        }
        FilterMatch::Mac(mac) => (FarchType::MacWild, FarchKey::of_mac(mac.0, None)),
        FilterMatch::UnknownUnicast => (FarchType::UnicastDefault, FarchKey(0)),
        FilterMatch::UnknownMulticast => (FarchType::MulticastDefault, FarchKey(0)),
        FilterMatch::Egress {
            sender: Some(vf),
            fields,
        } if fields.is_plain() && TX_COMBINATIONS.contains(&matches.flags()) => {
            let vid = fields.vlan.map(Vlan::to_u16);
            let of = [FarchType::TxMacWild, FarchType::TxMacFull][usize::from(vid.is_some())];
            (of, FarchKey::of_source(*vf, fields.src?.address().0, vid))
        }
        FilterMatch::EtherType(_) | FilterMatch::Fields(_) | FilterMatch::Egress { .. } => {
            return None;
        }
    })
}

/// The tables of a NIC.
#[derive(Clone, Debug)]
pub(crate) struct FarchTables {
    /// Filters on IPv4 flows: Falcon's second bank takes what the first has no room for.
    ip: Vec<HashRows<Row, HASHED>>,
    mac: Option<HashRows<Row, HASHED>>,
    /// Filters on what VFs send, where there are such on what they receive.
    tx_mac: Option<HashRows<Row, HASHED>>,
    /// What has no filter of its own: the unicast and the multicast row.
    defaults: [Option<Held>; 2],
}

impl FarchTables {
    pub(crate) fn new(ip_banks: usize, mac: bool) -> FarchTables {
        FarchTables {
            ip: vec![HashRows::new(IP_ROWS); ip_banks],
            mac: mac.then(|| HashRows::new(MAC_ROWS)),
            tx_mac: mac.then(|| HashRows::new(MAC_ROWS)),
            defaults: [None; 2],
        }
    }

    /// As the driver's one pass: what is there already, and the first free row, whichever comes first.
    pub(crate) fn search(&self, matches: &FilterMatch, priority: FilterPriority) -> Found {
        let Some((of, key)) = farch_filter(matches) else {
            return Found::default();
        };
        let deepest = match priority {
            FilterPriority::Hint => DEEPEST_HINT,
            _ => DEEPEST,
        };
        let search = |table: &HashRows<Row, HASHED>| {
            table.search(key.probe(of), deepest, |row| row.matches == *matches)
        };
        match of {
            FarchType::UnicastDefault | FarchType::MulticastDefault => {
                let row = u32::from(of == FarchType::MulticastDefault);
                let spot = Spot { row, depth: 1 };
                let place = Place::new(DEFAULTS, spot);
                match self.defaults[row as usize] {
                    Some(held) => Found::held(place, held),
                    None => Found::free(place),
                }
            }
            FarchType::MacFull | FarchType::MacWild => self
                .mac
                .as_ref()
                .map_or_else(Found::default, |table| Found::of(MAC_TABLE, search(table))),
            FarchType::TxMacFull | FarchType::TxMacWild => {
                let found = |table| Found::of(TX_MAC_TABLE, search(table));
                self.tx_mac.as_ref().map_or_else(Found::default, found)
            }
            _ => {
                let banks = self.ip.iter().enumerate();
                let banks = banks.map(|(bank, table)| Found::of(bank as u8, search(table)));
                banks.fold(Found::default(), Found::or)
            }
        }
    }

    pub(crate) fn put(&mut self, place: Place, matches: &FilterMatch, held: Option<Held>) {
        let Some((of, _)) = farch_filter(matches) else {
            return; // was not found a place
        };
        let row = held.map(|held| Row {
            matches: *matches,
            held,
        });
        match place.table {
            DEFAULTS => {
                if let Some(default) = self.defaults.get_mut(place.spot.row as usize) {
                    *default = held;
                }
            }
            table => {
                let table = match table {
                    MAC_TABLE => self.mac.as_mut(),
                    TX_MAC_TABLE => self.tx_mac.as_mut(),
                    bank => self.ip.get_mut(usize::from(bank)),
                };
                if let Some(table) = table {
                    table.put(place.spot, of as usize, row);
                }
            }
        }
    }

    /// The row's number within the table of its kind, the banks one behind the other.
    pub(crate) fn index(&self, place: Place) -> u32 {
        let bank = match place.table {
            DEFAULTS | MAC_TABLE | TX_MAC_TABLE => 0,
            bank => u32::from(bank),
        };
        bank * IP_ROWS as u32 + place.spot.row
    }

    /// Bits of a number within the largest table.
    pub(crate) fn index_bits(&self) -> u32 {
        (IP_ROWS * self.ip.len()).trailing_zeros()
    }

    /// What lies in a row of a table of filters with this precedence.
    pub(crate) fn at(&self, precedence: u32, index: u32) -> Option<FilterMatch> {
        let row = match precedence {
            0 | 1 => {
                let bank = self.ip.get(index as usize / IP_ROWS)?;
                bank.get(index % IP_ROWS as u32)?.matches
            }
            2 | 3 => self.mac.as_ref()?.get(index)?.matches,
            7 | 8 => self.tx_mac.as_ref()?.get(index)?.matches,
            4 => {
                self.defaults.get(index as usize)?.as_ref()?;
                [FilterMatch::UnknownUnicast, FilterMatch::UnknownMulticast][index as usize]
            }
            _ => return None,
        };
        let (of, _) = farch_filter(&row)?;
        (of.precedence() == precedence).then_some(row)
    }

    /// Each filter with its place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Place, Row)> {
        let place = |table, row| Place::new(table, Spot { row, depth: 0 });
        let ip = self.ip.iter().enumerate().flat_map(move |(bank, table)| {
            table
                .iter()
                .map(move |(at, row)| (place(bank as u8, at), row))
        });
        let mac = self.mac.iter().flat_map(HashRows::iter);
        let mac = mac.map(move |(at, row)| (place(MAC_TABLE, at), row));
        let tx_mac = self.tx_mac.iter().flat_map(HashRows::iter);
        let tx_mac = tx_mac.map(move |(at, row)| (place(TX_MAC_TABLE, at), row));
        let both = [FilterMatch::UnknownUnicast, FilterMatch::UnknownMulticast];
        let defaults = self.defaults.iter().zip(both).zip(0..);
        let defaults = defaults.filter_map(move |((held, matches), at)| {
            let row = Row {
                matches,
                held: (*held)?,
            };
            Some((place(DEFAULTS, at), row))
        });
        ip.chain(mac).chain(defaults).chain(tx_mac)
    }

    /// Why there is no room for a filter of this kind: how deep it was looked for.
    pub(crate) fn depth_for(priority: FilterPriority) -> u16 {
        match priority {
            FilterPriority::Hint => DEEPEST_HINT,
            _ => DEEPEST,
        }
    }

    pub(crate) fn uses(&self) -> Vec<TableUse> {
        let depths = |table: &HashRows<Row, HASHED>, types: &[FarchType]| {
            let types = types.iter().map(|of| (*of, table.limit(*of as usize)));
            types
                .filter(|(_, deepest)| *deepest > 0)
                .map(|(of, deepest)| SearchDepth {
                    kind: NAMES[of as usize],
                    deepest,
                    limit: deepest + of.pipeline(),
                })
                .collect()
        };
        let ip = self.ip.iter().zip(["rx-ip", "rx-ip-bank1"]);
        let ip = ip.map(|(table, name)| TableUse {
            name,
            rows: table.rows(),
            used: table.used(),
            depths: depths(
                table,
                &[
                    FarchType::TcpFull,
                    FarchType::TcpWild,
                    FarchType::UdpFull,
                    FarchType::UdpWild,
                ],
            ),
        });
        let mac = self.mac.iter().flat_map(|table| {
            let mac = TableUse {
                name: "rx-mac",
                rows: table.rows(),
                used: table.used(),
                depths: depths(table, &[FarchType::MacFull, FarchType::MacWild]),
            };
            let defaults = TableUse {
                name: "rx-default",
                rows: self.defaults.len(),
                used: self.defaults.iter().flatten().count(),
                depths: Vec::new(),
            };
            [mac, defaults]
        });
        let tx_mac = self.tx_mac.iter().map(|table| TableUse {
            name: "tx-mac",
            rows: table.rows(),
            used: table.used(),
            depths: depths(table, &[FarchType::TxMacFull, FarchType::TxMacWild]),
        });
        ip.chain(mac).chain(tx_mac).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter_spec::FilterSpec;

    /// Words, key, hash and step of filters, and where they lie first in a table of so many rows and how far apart then.
    /// Computed by hand from the description of the hash in Linux's farch.c, none of them by this code.
    #[rustfmt::skip]
    const KNOWN: [(&str, u32, u16, u16, u32, u32, u32); 12] = [
        ("tcp4 dst-ip 10.0.0.1 dst-port 5001 src-ip 10.0.0.2 src-port 40000", 0x198b_9641, 0x80fe, 0x2c81, 8192, 254, 3201),
        ("tcp4 dst-ip 10.0.0.1 dst-port 5001", 0x1989_0001, 0x4f4a, 0x0001, 8192, 3914, 1),
        ("udp4 dst-ip 10.0.0.1 dst-port 5001 src-ip 10.0.0.2 src-port 40000", 0x198b_9640, 0x80ff, 0x2c7f, 8192, 255, 3199),
        ("udp4 dst-ip 10.0.0.1 dst-port 5001", 0x0a00_1389, 0x965e, 0x2711, 8192, 5726, 1809),
        ("tcp4 dst-ip 192.168.1.10 dst-port 12865", 0xf2e9_010a, 0xcb11, 0x0213, 8192, 2833, 531),
        ("ether dst 00:0f:53:01:02:03", 0x5301_020d, 0x4f8c, 0x0419, 512, 396, 25),
        ("ether dst 00:0f:53:01:02:03 vlan 100", 0x5301_0268, 0x4fe4, 0x04cf, 512, 484, 207),
        ("ether dst 52:54:00:12:34:56", 0x0012_6603, 0x506f, 0xcc05, 512, 111, 5),
        ("egress vf 0 ether src 00:0f:53:01:02:03", 0x5301_030d, 0x4ea8, 0x0619, 512, 168, 25),
        ("egress vf 0 ether src 00:0f:53:01:02:03 vlan 100", 0x5301_0368, 0x4ec0, 0x06cf, 512, 192, 207),
        ("egress vf 3 ether src 52:54:00:12:34:56", 0x0012_670f, 0x5146, 0xce1d, 512, 326, 29),
        ("egress vf 3 ether src 52:54:00:12:34:56 vlan 4094", 0x0012_68f0, 0x5f7e, 0xd1df, 512, 382, 479),
    ];

    fn spec(words: &str) -> FilterSpec {
        match words.rsplit_once("ether src") {
            Some((egress, src)) => format!("{egress}flow-type ether src{src} action pass"),
            None => format!("flow-type {words} vf 0"),
        }
        .parse()
        .unwrap()
    }

    #[test]
    fn keys_hashes_and_rows_are_those_of_the_hardware() {
        for (words, key, hash, step, rows, first, apart) in KNOWN {
            let (of, found) = farch_filter(&spec(words).matches).unwrap();
            assert_eq!(
                (found.0, found.hash(), found.step()),
                (key, hash, step),
                "{words}"
            );
            let table: HashRows<(), 1> = HashRows::new(rows as usize);
            assert_eq!(table.rows(), rows as usize);
            let probe = found.probe(of);
            assert_eq!((probe.start % rows, probe.step % rows), (first, apart));
            assert_eq!(probe.step % 2, 1);
        }
    }

    #[test]
    fn each_of_the_known_filters_lies_where_the_hardware_looks_first() {
        let mut tables = FarchTables::new(1, true);
        for (words, .., first, _) in KNOWN {
            let matches = spec(words).matches;
            let found = tables.search(&matches, FilterPriority::Hint);
            let place = found.free.unwrap();
            assert_eq!((place.spot.row, place.spot.depth), (first, 1), "{words}");
            let held = Held {
                action: spec(words).action,
                priority: FilterPriority::Hint,
                over_auto: None,
                counter: crate::rule::CounterId::NONE,
            };
            tables.put(place, &matches, Some(held));
            let found = tables.search(&matches, FilterPriority::Hint);
            assert_eq!(found.held, Some((place, held)));
        }
        // Told to look one row deeper for a whole flow, three for the rest.
        let limits: Vec<_> = tables.uses().into_iter().flat_map(|t| t.depths).collect();
        assert_eq!(limits.len(), HASHED);
        for depth in limits {
            assert_eq!(depth.deepest, 1);
            assert_eq!(
                depth.limit,
                if depth.kind.ends_with("full") { 2 } else { 4 }
            );
        }
    }

    #[test]
    fn what_the_hardware_cannot_match_has_no_key() {
        for words in ["tcp6 dst-ip fd00::1 dst-port 1", "ether proto 0x88b5"] {
            assert_eq!(farch_filter(&spec(words).matches), None);
        }
        // Flows of both families at once.
        let both = FilterMatch::Full {
            transport: Transport::Tcp,
            local: crate::FlowEnd {
                ip: "10.0.0.1".parse().unwrap(),
                port: 1,
            },
            remote: crate::FlowEnd {
                ip: "fd00::1".parse().unwrap(),
                port: 1,
            },
        };
        assert_eq!(farch_filter(&both), None);
    }
}
