//! The commands of a control queue (virtio 5.1.6.5): bytes in, what they mean out.
//!
//! Knows no queue and obeys nothing. Whatever is malformed, not negotiated or not served is no command.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the longest command"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

use std::fmt;

use virtio_bindings::virtio_net as net;

use crate::coalescing::Coalescing;
use crate::features::VirtioFeatures;

/// Most addresses in one of the tables of [`CtrlCommand::MacTable`]; a longer one is no command.
pub const MAX_MACS: usize = 1024;

/// Bytes of the longest command.
pub(crate) const MAX_LEN: usize = 2 + 2 * (4 + 6 * MAX_MACS);

/// A kind of frames that a driver wants or does not want (virtio 5.1.6.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxMode {
    /// All.
    Promisc,
    /// All multicast.
    AllMulti,
    /// All unicast.
    AllUni,
    /// No multicast.
    NoMulti,
    /// No unicast.
    NoUni,
    /// No broadcast.
    NoBcast,
}

/// What a driver asks of its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CtrlCommand {
    /// `VIRTIO_NET_CTRL_RX`.
    RxMode {
        /// Which kind of frames.
        mode: RxMode,
        /// From now on, or no longer.
        on: bool,
    },
    /// `VIRTIO_NET_CTRL_MAC_TABLE_SET`: these addresses are all that it wants frames for besides its own.
    MacTable {
        /// Unicast addresses, as the driver says.
        unicast: Vec<[u8; 6]>,
        /// Multicast addresses, as the driver says.
        multicast: Vec<[u8; 6]>,
    },
    /// `VIRTIO_NET_CTRL_MAC_ADDR_SET`: its station address.
    MacAddr([u8; 6]),
    /// `VIRTIO_NET_CTRL_VLAN_ADD` and `_DEL`.
    Vlan {
        /// The VLAN, any number.
        vid: u16,
        /// Whether it wants its frames.
        on: bool,
    },
}

impl fmt::Display for CtrlCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CtrlCommand::RxMode { mode, on } => write!(f, "{mode:?} {on}"),
            CtrlCommand::MacTable { unicast, multicast } => {
                let (unicast, multicast) = (unicast.len(), multicast.len());
                write!(f, "{unicast} unicast and {multicast} multicast addresses")
            }
            CtrlCommand::MacAddr([a, b, c, d, e, g]) => {
                write!(f, "address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
            }
            CtrlCommand::Vlan { vid, on: true } => write!(f, "VLAN {vid}"),
            CtrlCommand::Vlan { vid, on: false } => write!(f, "no VLAN {vid}"),
        }
    }
}

/// Rings whose notifications are coalesced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rings {
    Transmit,
    Receive,
    One(u16),
}

/// A command, and who is to obey it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The device.
    OfDevice(CtrlCommand),
    /// The session: use so many pairs of rings from now on.
    QueuePairs(u16),
    /// The session: hold back notifications of these rings for so long.
    Coalesce(Rings, Coalescing),
    /// The session: say how long those of this ring are held back.
    CoalescingOf(u16),
    /// Nobody.
    Nothing,
}

const RX: u8 = net::VIRTIO_NET_CTRL_RX as u8;
const MAC: u8 = net::VIRTIO_NET_CTRL_MAC as u8;
const MAC_TABLE_SET: u8 = net::VIRTIO_NET_CTRL_MAC_TABLE_SET as u8;
const MAC_ADDR_SET: u8 = net::VIRTIO_NET_CTRL_MAC_ADDR_SET as u8;
const VLAN: u8 = net::VIRTIO_NET_CTRL_VLAN as u8;
const VLAN_ADD: u8 = net::VIRTIO_NET_CTRL_VLAN_ADD as u8;
const VLAN_DEL: u8 = net::VIRTIO_NET_CTRL_VLAN_DEL as u8;
const MQ: u8 = net::VIRTIO_NET_CTRL_MQ as u8;
const VQ_PAIRS_SET: u8 = net::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET as u8;
const COAL: u8 = net::VIRTIO_NET_CTRL_NOTF_COAL as u8;
const COAL_TX_SET: u8 = net::VIRTIO_NET_CTRL_NOTF_COAL_TX_SET as u8;
const COAL_RX_SET: u8 = net::VIRTIO_NET_CTRL_NOTF_COAL_RX_SET as u8;
const COAL_VQ_SET: u8 = net::VIRTIO_NET_CTRL_NOTF_COAL_VQ_SET as u8;
const COAL_VQ_GET: u8 = net::VIRTIO_NET_CTRL_NOTF_COAL_VQ_GET as u8;

impl Asked {
    /// What a driver with these `features` means by `bytes`.
    pub(crate) fn parse(bytes: &[u8], features: VirtioFeatures) -> Asked {
        Asked::read(bytes, features).unwrap_or(Asked::Nothing)
    }

    fn read(bytes: &[u8], features: VirtioFeatures) -> Option<Asked> {
        let (&[class, command], data) = bytes.split_first_chunk()?;
        let feature = match (class, command) {
            (RX, 0..=1) | (MAC, MAC_TABLE_SET) => VirtioFeatures::CTRL_RX,
            (RX, _) => VirtioFeatures::CTRL_RX_EXTRA,
            (MAC, _) => VirtioFeatures::CTRL_MAC_ADDR,
            (VLAN, _) => VirtioFeatures::CTRL_VLAN,
            (MQ, _) => VirtioFeatures::MQ,
            (COAL, COAL_TX_SET | COAL_RX_SET) => VirtioFeatures::NOTF_COAL,
            (COAL, _) => VirtioFeatures::VQ_NOTF_COAL,
            _ => return None,
        };
        if !features.contains(feature) {
            return None;
        }
        Some(match (class, command, data) {
            (RX, mode, &[on]) => Asked::OfDevice(CtrlCommand::RxMode {
                mode: rx_mode(mode)?,
                on: on != 0,
            }),
            (MAC, MAC_TABLE_SET, tables) => {
                let (unicast, rest) = macs(tables)?;
                let (multicast, []) = macs(rest)? else {
                    return None;
                };
                Asked::OfDevice(CtrlCommand::MacTable { unicast, multicast })
            }
            (MAC, MAC_ADDR_SET, mac) => Asked::OfDevice(CtrlCommand::MacAddr(mac.try_into().ok()?)),
            (VLAN, VLAN_ADD | VLAN_DEL, &[low, high]) => Asked::OfDevice(CtrlCommand::Vlan {
                vid: u16::from_le_bytes([low, high]),
                on: command == VLAN_ADD,
            }),
            (MQ, VQ_PAIRS_SET, &[low, high]) => Asked::QueuePairs(u16::from_le_bytes([low, high])),
            (COAL, COAL_TX_SET, data) => {
                Asked::Coalesce(Rings::Transmit, Coalescing::from_bytes(data)?)
            }
            (COAL, COAL_RX_SET, data) => {
                Asked::Coalesce(Rings::Receive, Coalescing::from_bytes(data)?)
            }
            // Behind the number of the ring there are two reserved bytes.
            (COAL, COAL_VQ_SET, &[low, high, _, _, ref rest @ ..]) => {
                let ring = u16::from_le_bytes([low, high]);
                Asked::Coalesce(Rings::One(ring), Coalescing::from_bytes(rest)?)
            }
            (COAL, COAL_VQ_GET, &[low, high, ..]) => {
                Asked::CoalescingOf(u16::from_le_bytes([low, high]))
            }
            _ => return None,
        })
    }
}

fn rx_mode(command: u8) -> Option<RxMode> {
    Some(match u32::from(command) {
        net::VIRTIO_NET_CTRL_RX_PROMISC => RxMode::Promisc,
        net::VIRTIO_NET_CTRL_RX_ALLMULTI => RxMode::AllMulti,
        net::VIRTIO_NET_CTRL_RX_ALLUNI => RxMode::AllUni,
        net::VIRTIO_NET_CTRL_RX_NOMULTI => RxMode::NoMulti,
        net::VIRTIO_NET_CTRL_RX_NOUNI => RxMode::NoUni,
        net::VIRTIO_NET_CTRL_RX_NOBCAST => RxMode::NoBcast,
        _ => return None,
    })
}

/// A table of addresses and what is behind it.
fn macs(bytes: &[u8]) -> Option<(Vec<[u8; 6]>, &[u8])> {
    let (entries, rest) = bytes.split_first_chunk()?;
    let entries = u32::from_le_bytes(*entries) as usize;
    if entries > MAX_MACS {
        return None;
    }
    let (table, rest) = rest.split_at_checked(6 * entries)?;
    let (macs, _) = table.as_chunks();
    Some((macs.to_vec(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: VirtioFeatures = VirtioFeatures::all();
    const A: [u8; 6] = [2, 0, 0, 0, 0, 10];
    const G: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];

    fn table(unicast: u32, macs: &[[u8; 6]], multicast: u32, more: &[[u8; 6]]) -> Vec<u8> {
        let entries = |n: u32| n.to_le_bytes().to_vec();
        let (macs, more) = (macs.as_flattened(), more.as_flattened());
        [
            &[1, 0],
            &entries(unicast)[..],
            macs,
            &entries(multicast),
            more,
        ]
        .concat()
    }

    #[test]
    fn bytes_mean_what_the_document_says() {
        let device = Asked::OfDevice;
        let mode = |mode, on| device(CtrlCommand::RxMode { mode, on });
        let macs = |unicast: &[[u8; 6]], multicast: &[[u8; 6]]| {
            device(CtrlCommand::MacTable {
                unicast: unicast.to_vec(),
                multicast: multicast.to_vec(),
            })
        };
        let held = Coalescing {
            max_packets: 0x0403_0201,
            max_usecs: 100,
        };
        for (bytes, asked) in [
            (vec![0, 0, 1], mode(RxMode::Promisc, true)),
            (vec![0, 1, 0], mode(RxMode::AllMulti, false)),
            (vec![0, 2, 1], mode(RxMode::AllUni, true)),
            (vec![0, 3, 1], mode(RxMode::NoMulti, true)),
            (vec![0, 4, 1], mode(RxMode::NoUni, true)),
            (vec![0, 5, 1], mode(RxMode::NoBcast, true)),
            (table(0, &[], 0, &[]), macs(&[], &[])),
            (table(2, &[A, A], 1, &[G]), macs(&[A, A], &[G])),
            (
                vec![1, 1, 2, 0, 0, 0, 0, 10],
                device(CtrlCommand::MacAddr(A)),
            ),
            (
                vec![2, 0, 5, 1],
                device(CtrlCommand::Vlan {
                    vid: 0x105,
                    on: true,
                }),
            ),
            (
                vec![2, 1, 5, 0],
                device(CtrlCommand::Vlan { vid: 5, on: false }),
            ),
            (vec![4, 0, 3, 1], Asked::QueuePairs(0x103)),
            (
                vec![6, 0, 1, 2, 3, 4, 100, 0, 0, 0],
                Asked::Coalesce(Rings::Transmit, held),
            ),
            (
                vec![6, 1, 1, 2, 3, 4, 100, 0, 0, 0],
                Asked::Coalesce(Rings::Receive, held),
            ),
            (
                vec![6, 2, 3, 0, 9, 9, 1, 2, 3, 4, 100, 0, 0, 0],
                Asked::Coalesce(Rings::One(3), held),
            ),
            (vec![6, 3, 3, 0], Asked::CoalescingOf(3)),
            (vec![6, 3, 3, 0, 0, 0], Asked::CoalescingOf(3)),
        ] {
            assert_eq!(Asked::parse(&bytes, ALL), asked, "{bytes:?}");
            assert_eq!(
                Asked::parse(&bytes, VirtioFeatures::empty()),
                Asked::Nothing,
                "{bytes:?}"
            );
            if bytes[..2] != [6, 3] {
                let longer = [&bytes[..], &[0]].concat();
                assert_eq!(Asked::parse(&longer, ALL), Asked::Nothing, "{longer:?}");
            }
            let shorter = &bytes[..bytes.len() - 1];
            if bytes.len() != 6 || bytes[..2] != [6, 3] {
                assert_eq!(Asked::parse(shorter, ALL), Asked::Nothing, "{shorter:?}");
            }
        }
        assert_eq!(held.to_bytes(), [1, 2, 3, 4, 100, 0, 0, 0]);
    }

    #[test]
    fn what_is_malformed_or_unknown_is_nothing() {
        for bytes in [
            vec![],
            vec![0],
            vec![0, 6, 1],
            vec![1, 2, 0],
            vec![2, 2, 5, 0],
            vec![3, 0],
            vec![4, 1, 1, 0],
            vec![5, 0],
            vec![6, 4, 0, 0],
            vec![255; 64],
            table(1, &[], 0, &[]),
            table(u32::MAX, &[A], 0, &[]),
            table(0, &[], 0x2aaa_aaab, &[G]),
            table(0, &[], 0, &[G]),
            table(1025, &vec![A; 1025], 0, &[]),
        ] {
            assert_eq!(Asked::parse(&bytes, ALL), Asked::Nothing, "{bytes:?}");
        }
        let largest = table(1024, &vec![A; 1024], 1024, &vec![G; 1024]);
        assert_eq!(largest.len(), MAX_LEN);
        assert_ne!(Asked::parse(&largest, ALL), Asked::Nothing);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_command_or_nothing(
            class in 0u8..8,
            command in 0u8..8,
            data in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..40),
            features: u64,
        ) {
            let _ = Asked::parse(&[&[class, command], &data[..]].concat(), VirtioFeatures::from_bits_retain(features));
        }
    }
}
