//! FILTER_OP: the filters that a driver puts into its NIC one by one, as bytes, as the model's words, and by the handles that their driver
//! knows them by. Which of them a VF may have is for the model to say.

use std::collections::BTreeMap;
use std::net::IpAddr;

use vf_model::{
    DriverAction, FilterMatch, FilterOp, IpPrefix, MacAddr, MacMask, MatchFields, MatchFlags, Vid,
};
use vf_packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Vlan};

use super::mcdi::{McError, Payload};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A filter is put in.
    Insert {
        filter: Said,
        /// Whether it may be put in again, with another handle: SUBSCRIBE. Whether other VFs may have one with this match follows from the match.
        again: bool,
    },
    /// The filter with this handle is taken out.
    Remove(u64),
    /// What becomes of what the filter with this handle matches is another thing.
    Replace(u64, DriverAction),
}

/// A filter as its driver has said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) op: FilterOp,
    /// Of an address, and of what is unknown without a tag: in which VLANs.
    pub(crate) vlans: Vlans,
}

/// The VLANs of a filter that a driver has in each of its VLANs. Of addresses the NIC has none of the kind: by such a filter the VF receives its
/// address in all, more than it asks for, and the VLAN devices of the guest take what is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vlans {
    /// All of them, and frames without a tag.
    All,
    /// None: frames without a tag.
    Untagged,
    /// This one.
    One(Vid),
}

impl Said {
    /// Whether this one is on the same frames.
    pub(crate) fn is_like(&self, other: &Said) -> bool {
        let matches = |said: &Said| (said.op.matches, said.op.vlan, said.vlans);
        matches(self) == matches(other)
    }

    /// The one filter of the NIC that says what becomes of these frames, if they are of an address.
    ///
    /// # Errors
    /// ENOTSUP: the NIC has none that drops what has no tag, or that chooses a queue for one VLAN.
    pub(crate) fn of_address(&self, mac: MacAddr) -> Result<FilterOp, McError> {
        let matches = match (self.vlans, self.op.action) {
            // Drivers without RSS name the first queue in all of their filters.
            (Vlans::All, _) | (_, DriverAction::Queue(0)) => FilterMatch::Mac(mac),
            (Vlans::One(vid), DriverAction::Drop) => FilterMatch::MacVlan { mac, vid },
            _ => return Err(McError::ENOTSUP),
        };
        Ok(FilterOp { matches, ..self.op })
    }
}

/// Offsets in a request. Unlike all else in MCDI the values of a match are in the order of the wire.
mod at {
    pub(super) const OPERATION: usize = 0;
    pub(super) const HANDLE: usize = 4;
    pub(super) const PORT: usize = 12;
    pub(super) const FIELDS: usize = 16;
    pub(super) const DESTINATION: usize = 20;
    pub(super) const QUEUE: usize = 24;
    pub(super) const MODE: usize = 28;
    pub(super) const CONTEXT: usize = 32;
    pub(super) const SRC_MAC: usize = 44;
    pub(super) const SRC_PORT: usize = 50;
    pub(super) const DST_MAC: usize = 52;
    pub(super) const DST_PORT: usize = 58;
    pub(super) const ETHER_TYPE: usize = 60;
    pub(super) const INNER_VLAN: usize = 62;
    pub(super) const OUTER_VLAN: usize = 64;
    pub(super) const IP_PROTO: usize = 66;
    pub(super) const SRC_IP: usize = 76;
    pub(super) const DST_IP: usize = 92;
}

const UNKNOWN_MULTICAST: u32 = 1 << 30;
const UNKNOWN_UNICAST: u32 = 1 << 31;

/// The bit that says that a field is looked at.
const BITS: [(MatchFlags, u32); 12] = [
    (MatchFlags::SRC_IP, 1),
    (MatchFlags::DST_IP, 1 << 1),
    (MatchFlags::SRC_MAC, 1 << 2),
    (MatchFlags::SRC_PORT, 1 << 3),
    (MatchFlags::DST_MAC, 1 << 4),
    (MatchFlags::DST_PORT, 1 << 5),
    (MatchFlags::ETHER_TYPE, 1 << 6),
    (MatchFlags::INNER_VID, 1 << 7),
    (MatchFlags::OUTER_VID, 1 << 8),
    (MatchFlags::IP_PROTO, 1 << 9),
    (MatchFlags::UNKNOWN_MULTICAST, UNKNOWN_MULTICAST),
    (MatchFlags::UNKNOWN_UNICAST, UNKNOWN_UNICAST),
];

/// These fields as a request has them.
pub(crate) fn field_bits(flags: MatchFlags) -> u32 {
    let bits = BITS.iter().filter(|(flag, _)| flags.contains(*flag));
    bits.fold(0, |all, (_, bit)| all | bit)
}

/// Reads a request of the port with this number.
///
/// # Errors
/// EINVAL, or ENOTSUP of what no filter of a VF can be: a copy to the controller, fields that nobody looks at.
pub(crate) fn parse(payload: &Payload<'_>, port: u32) -> Result<Operation, McError> {
    let handle = || payload.u64(at::HANDLE);
    match payload.u32(at::OPERATION)? {
        operation @ (0 | 2) => {
            if payload.u32(at::PORT)? != port {
                return Err(McError::NO_EVB_PORT);
            }
            let (matches, vlan, vlans) = matches(payload)?;
            let op = FilterOp {
                add: true,
                matches,
                vlan,
                action: action(payload)?,
            };
            Ok(Operation::Insert {
                filter: Said { op, vlans },
                again: operation == 2,
            })
        }
        1 | 3 => Ok(Operation::Remove(handle()?)),
        4 => Ok(Operation::Replace(handle()?, action(payload)?)),
        _ => Err(McError::EINVAL),
    }
}

/// The RSS context that a filter which is put in or changed spreads flows by, if it does.
pub(crate) fn context(payload: &Payload<'_>) -> Option<u32> {
    let is_put = matches!(payload.u32(at::OPERATION), Ok(0 | 2 | 4));
    let is_spread = payload.u32(at::DESTINATION) == Ok(HOST) && payload.u32(at::MODE) == Ok(SPREAD);
    payload
        .u32(at::CONTEXT)
        .ok()
        .filter(|_| is_put && is_spread)
}

/// Where frames go.
const DROP: u32 = 0;
const HOST: u32 = 1;
/// They are spread over queues.
const SPREAD: u32 = 1;

fn action(payload: &Payload<'_>) -> Result<DriverAction, McError> {
    match payload.u32(at::DESTINATION)? {
        DROP => Ok(DriverAction::Drop),
        HOST if payload.u32(at::MODE)? == SPREAD => Ok(DriverAction::Receive),
        HOST => {
            let queue = u8::try_from(payload.u32(at::QUEUE)?);
            queue.map(DriverAction::Queue).map_err(|_| McError::EINVAL)
        }
        _ => Err(McError::ENOTSUP),
    }
}

/// What is matched, in which VLAN if what is unknown is to be in one only, and in which VLANs an address.
fn matches(payload: &Payload<'_>) -> Result<(FilterMatch, Option<Vid>, Vlans), McError> {
    let wanted = payload.u32(at::FIELDS)?;
    if BITS.iter().fold(wanted, |left, (_, bit)| left & !bit) != 0 {
        return Err(McError::ENOTSUP);
    }
    let has = |flag: MatchFlags| wanted & field_bits(flag) != 0;
    let be16 = |flag, at| match has(flag) {
        true => Ok(Some(u16::from_be_bytes(payload.bytes(at)?))),
        false => Ok(None),
    };
    let mac = |flag, at| match has(flag) {
        true => Ok(Some(MacMask::exact(MacAddr(payload.bytes(at)?)))),
        false => Ok(None),
    };
    let vid = |flag, at| {
        let vid = be16(flag, at)?.map(Vid::new);
        vid.transpose().map_err(|_| McError::EINVAL)
    };
    let address = field_bits(MatchFlags::DST_MAC.union(MatchFlags::OUTER_VID));
    let is_address = wanted == address;
    let untagged = be16(MatchFlags::OUTER_VID, at::OUTER_VLAN)? == Some(0);
    let outer = match untagged {
        true => None,
        false => vid(MatchFlags::OUTER_VID, at::OUTER_VLAN)?,
    };
    let without_tag = match untagged {
        true => Vlans::Untagged,
        false => Vlans::All,
    };
    for (bit, unknown) in [
        (UNKNOWN_MULTICAST, FilterMatch::UnknownMulticast),
        (UNKNOWN_UNICAST, FilterMatch::UnknownUnicast),
    ] {
        if wanted & bit != 0 {
            let others = wanted & !bit & !field_bits(MatchFlags::OUTER_VID);
            return match others {
                0 => Ok((unknown, outer, without_tag)),
                _ => Err(McError::ENOTSUP),
            };
        }
    }
    if is_address {
        let mac = FilterMatch::Mac(MacAddr(payload.bytes(at::DST_MAC)?));
        return Ok((mac, None, outer.map_or(without_tag, Vlans::One)));
    }
    if untagged {
        // Of such frames there are no other filters.
        return Err(McError::ENOTSUP);
    }
    let ethertype = be16(MatchFlags::ETHER_TYPE, at::ETHER_TYPE)?;
    let ip = |flag, at| {
        if !has(flag) {
            return Ok(None);
        }
        let bytes: [u8; 16] = payload.bytes(at)?;
        let ip = match (ethertype, bytes) {
            (Some(ETHERTYPE_IPV4), [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
            (Some(ETHERTYPE_IPV6), bytes) => IpAddr::from(bytes),
            _ => return Err(McError::EINVAL),
        };
        Ok(Some(IpPrefix::exact(ip)))
    };
    let protocol = match has(MatchFlags::IP_PROTO) {
        true => payload.bytes::<1>(at::IP_PROTO)?.first().copied(),
        false => None,
    };
    let fields = MatchFields {
        dst: mac(MatchFlags::DST_MAC, at::DST_MAC)?,
        src: mac(MatchFlags::SRC_MAC, at::SRC_MAC)?,
        vlan: outer.map(Vlan::of_vid),
        inner_vlan: vid(MatchFlags::INNER_VID, at::INNER_VLAN)?,
        ethertype,
        protocol,
        src_ip: ip(MatchFlags::SRC_IP, at::SRC_IP)?,
        dst_ip: ip(MatchFlags::DST_IP, at::DST_IP)?,
        src_port: be16(MatchFlags::SRC_PORT, at::SRC_PORT)?,
        dst_port: be16(MatchFlags::DST_PORT, at::DST_PORT)?,
    };
    match wanted {
        0 => Err(McError::EINVAL),
        _ => Ok((FilterMatch::of(fields), None, Vlans::All)),
    }
}

/// A filter that a driver has put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) said: Said,
    /// What the NIC was asked for: that the VF receives what is for an address, what else becomes of that, or what the driver has said. Of what is for the
    /// VF's own address the first goes without saying.
    pub(crate) asked: Vec<FilterOp>,
}

/// Filters of one driver. The NIC bounds those that it is asked for; those on addresses that the VF has had, one after the other, are here
/// only.
pub(super) const MOST: usize = 2048;

/// The filters of a driver by their handles.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    all: BTreeMap<u64, Installed>,
    made: u64,
}

impl Filters {
    /// Names a filter that has been put in.
    pub(crate) fn add(&mut self, filter: Installed) -> u64 {
        // A handle is none of those before.
        self.made = self.made.wrapping_add(1);
        self.all.insert(self.made, filter);
        self.made
    }

    /// The filter with this handle.
    pub(crate) fn get(&self, handle: u64) -> Option<&Installed> {
        self.all.get(&handle)
    }

    /// One on the frames of this one, if there is one.
    pub(crate) fn alike(&self, said: &Said) -> Option<&Installed> {
        self.all.values().find(|filter| filter.said.is_like(said))
    }

    /// Whether the NIC was asked for this by another one than the one with this handle.
    pub(crate) fn has_asked(&self, op: &FilterOp, but_for: Option<u64>) -> bool {
        let others = self
            .all
            .iter()
            .filter(|(handle, _)| Some(**handle) != but_for);
        others
            .flat_map(|(_, filter)| &filter.asked)
            .any(|asked| asked == op)
    }

    /// Those on addresses that name a queue of which the NIC was not asked, with their handles.
    pub(crate) fn naming_in_vain(&self) -> Vec<(u64, Said)> {
        let is_named = |op: &FilterOp| matches!(op.action, DriverAction::Queue(_));
        let in_vain = self.all.iter().filter(|(_, filter)| {
            let of_address = matches!(filter.said.op.matches, FilterMatch::Mac(_));
            of_address && is_named(&filter.said.op) && !filter.asked.iter().any(is_named)
        });
        in_vain
            .map(|(handle, filter)| (*handle, filter.said))
            .collect()
    }

    /// The NIC was asked for this by it, too.
    pub(crate) fn add_asked(&mut self, handle: u64, op: FilterOp) {
        if let Some(filter) = self.all.get_mut(&handle) {
            filter.asked.push(op);
        }
    }

    /// It is this one from now on.
    pub(crate) fn set(&mut self, handle: u64, filter: Installed) {
        if let Some(place) = self.all.get_mut(&handle) {
            *place = filter;
        }
    }

    /// All of them are gone. Their handles are not used again.
    pub(crate) fn clear(&mut self) {
        self.all.clear();
    }

    /// It is gone.
    pub(crate) fn remove(&mut self, handle: u64) {
        self.all.remove(&handle);
    }

    /// Whether there are as many as there may be.
    pub(crate) fn is_full(&self) -> bool {
        self.all.len() >= MOST
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether one of them has its VF receive unicast frames by their address.
    pub(crate) fn wants_unicast(&self) -> bool {
        let mut said = self.all.values().map(|filter| filter.said.op);
        said.any(|op| match op.matches {
            FilterMatch::Mac(mac) => mac.is_unicast() && op.action != DriverAction::Drop,
            FilterMatch::UnknownUnicast => true,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORT: u32 = 0x0100_0000;

    fn insert(fields: u32, values: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 108];
        bytes[at::PORT..][..4].copy_from_slice(&PORT.to_le_bytes());
        bytes[at::FIELDS..][..4].copy_from_slice(&fields.to_le_bytes());
        for (at, value) in values {
            bytes[*at..][..value.len()].copy_from_slice(value);
        }
        bytes
    }

    fn shown(bytes: &[u8]) -> String {
        match parse(&Payload(bytes), PORT) {
            Ok(Operation::Insert { filter, .. }) => filter.op.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_what_ethtool_said() {
        let flow = [
            (at::SRC_IP, &[10, 9, 3, 1][..]),
            (at::DST_IP, &[10, 9, 3, 9]),
            (at::SRC_PORT, &[0, 53]),
            (at::DST_PORT, &[0x14, 0xe9]),
            (at::ETHER_TYPE, &[8, 0]),
            (at::IP_PROTO, &[17]),
        ];
        assert_eq!(
            shown(&insert(0x26b, &flow)),
            "add flow-type udp4 src-ip 10.9.3.1 dst-ip 10.9.3.9 src-port 53 dst-port 5353 action drop"
        );
        let to_queue = [(at::DESTINATION, &[1][..]), (at::QUEUE, &[3])];
        let local = [&flow[1..2], &flow[3..], &to_queue].concat();
        assert_eq!(
            shown(&insert(0x262, &local)),
            "add flow-type udp4 dst-ip 10.9.3.9 dst-port 5353 action 3"
        );
        let mac = [(at::DST_MAC, &[2, 0, 0, 0, 0, 7][..])];
        let own = [&mac[..], &to_queue].concat();
        assert_eq!(
            shown(&insert(0x10, &own)),
            "add flow-type ether dst 02:00:00:00:00:07 action 3"
        );
        let spread = [(at::DESTINATION, &[1][..]), (at::MODE, &[1])];
        let vlan = [&spread[..], &[(at::OUTER_VLAN, &[0, 5])]].concat();
        assert_eq!(
            shown(&insert(1 << 31 | 0x100, &vlan)),
            "add flow-type ether dst unknown-unicast vlan 5"
        );
    }

    #[test]
    fn an_address_in_a_vlan_keeps_it() {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        for (vid, host, vlans, becomes) in [
            ([0, 0], 1, Vlans::Untagged, Ok(FilterMatch::Mac(mac))),
            ([0, 0], 0, Vlans::Untagged, Err(McError::ENOTSUP)),
            (
                [0, 7],
                0,
                Vlans::One(Vid::new(7).unwrap()),
                Ok(FilterMatch::MacVlan {
                    mac,
                    vid: Vid::new(7).unwrap(),
                }),
            ),
        ] {
            let values = [
                (at::DST_MAC, &mac.0[..]),
                (at::OUTER_VLAN, &vid),
                (at::DESTINATION, &[host]),
            ];
            let read = parse(&Payload(&insert(0x110, &values)), PORT);
            let Ok(Operation::Insert { filter, .. }) = read else {
                panic!("{read:?}");
            };
            assert_eq!(filter.op.matches, FilterMatch::Mac(mac));
            assert_eq!(filter.vlans, vlans);
            assert_eq!(filter.of_address(mac).map(|op| op.matches), becomes);
        }
        // What is for nobody else has its VLAN, unless that is none.
        let host = [(at::DESTINATION, &[1][..])];
        assert_eq!(
            shown(&insert(1 << 30 | 0x100, &host)),
            "add flow-type ether dst unknown-multicast action 0"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let of = |fields, values: &[(usize, &[u8])]| shown(&insert(fields, values));
        assert_eq!(of(0, &[]), "Err(McError(22))", "matches everything");
        assert_eq!(of(1 << 20, &[]), "Err(McError(95))");
        assert_eq!(of(1 << 30 | 2, &[]), "Err(McError(95))");
        assert_eq!(of(0x2, &[]), "Err(McError(22))", "which IP?");
        assert_eq!(of(0x100, &[]), "Err(McError(95))", "VLAN 0");
        assert_eq!(of(0x80, &[]), "Err(McError(22))", "inner VLAN 0");
        assert_eq!(of(0x10, &[(at::DESTINATION, &[2])]), "Err(McError(95))");
        assert_eq!(of(0x10, &[(at::PORT, &[1])]), "Err(McError(4098))");
        let queue = [(at::DESTINATION, &[1][..]), (at::QUEUE, &[0, 1])];
        assert_eq!(of(0x10, &queue), "Err(McError(22))");
        assert_eq!(shown(&insert(0x10, &[])[..50]), "Err(McError(22))");
        assert_eq!(shown(&[9, 0, 0, 0]), "Err(McError(22))");
        assert_eq!(shown(&[1, 0, 0, 0, 9]), "Err(McError(22))");
    }

    #[test]
    fn handles_are_not_used_again() {
        let mut filters = Filters::default();
        let Ok(Operation::Insert { filter: said, .. }) = parse(&Payload(&insert(0x10, &[])), PORT)
        else {
            panic!()
        };
        let filter = Installed {
            said,
            asked: vec![said.op],
        };
        let first = filters.add(filter.clone());
        assert_eq!(filters.alike(&said), Some(&filter));
        assert!(filters.has_asked(&said.op, None) && !filters.has_asked(&said.op, Some(first)));
        let mut received = filter.clone();
        received.said.op.action = DriverAction::Receive;
        filters.set(first, received);
        assert!(!filters.wants_unicast(), "00:00:00:00:00:00 is no station");
        filters.remove(first);
        assert!(filters.is_empty() && filters.get(first).is_none());
        assert_ne!(filters.add(filter.clone()), first);
        filters.clear();
        assert!(filters.is_empty() && filters.add(filter) > first + 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&Payload(&bytes), PORT);
        }
    }
}
