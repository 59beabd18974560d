//! How EF10's descriptors look, 8 bytes each, and how its rings complete: with events. Options of a transmit ring stand for themselves
//! among the buffers, and hold for the frames behind them; segmentation holds for the next one. Moves no frame, and knows no register.

use std::sync::Arc;

use vf_vhost::control::Coalescing;
use vf_vhost::error::RingError;
use vf_vhost::hardware::{
    Checksum, Completion, Decoded, DescriptorFormat, DescriptorTable, Network, RX_PREFIX_MAX,
    RxHash, RxNote, Transport, TxRequest, TxState,
};
use vf_vhost::interrupt_timer::InterruptTimer;

use super::event::{Event, EventQueue, Received};
use crate::flow_hash::RingHash;

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR: usize = 8;
/// Bytes in front of a received frame.
pub(crate) const PREFIX: usize = 14;

/// The descriptor is an option, and which.
const IS_OPTION: u64 = 1 << 63;
const OPTION: u32 = 60;
const CHECKSUMS: u64 = 0;
const SEGMENTATION: u64 = 7;
/// Of an option of segmentation, which half of it: the one with the segment size.
const SEGMENT_KIND: u32 = 56;
const SEGMENT_SIZE: u64 = 3;
/// The frame goes on with the next descriptor.
const GOES_ON: u64 = 1 << 62;
const ADDRESS: u64 = (1 << 48) - 1;
/// Options of checksums, as the state of a ring has them, too.
const IP: u64 = 1;
const TCP_UDP: u64 = 2;

/// The descriptors of a receive ring.
#[derive(Debug)]
pub(crate) struct ReceiveFormat {
    pub(crate) events: Arc<EventQueue>,
    /// What the driver calls its queue.
    pub(crate) label: u32,
    /// Whether each frame has a prefix.
    pub(crate) prefix: bool,
    /// What is in the prefix.
    pub(crate) flow_hash: RingHash,
}

/// The descriptors of a transmit ring.
#[derive(Debug)]
pub(crate) struct TransmitFormat {
    pub(crate) events: Arc<EventQueue>,
    /// What the driver calls its queue.
    pub(crate) label: u32,
    /// Which checksums the NIC puts into frames before an option says it.
    pub(crate) checksums: Checksums,
    /// Whether the queue was made with segmentation.
    pub(crate) segments: bool,
}

/// Checksums that a NIC puts into frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checksums {
    pub(crate) ip: bool,
    pub(crate) tcp_udp: bool,
}

impl Checksums {
    /// A state that an option has set differs from that of a new ring.
    const SAID: u64 = 1 << 8;

    fn of_option(raw: u64) -> u64 {
        Checksums::SAID | raw & (IP | TCP_UDP)
    }

    fn of_state(self, state: u64) -> Checksums {
        match state & Checksums::SAID {
            0 => self,
            _ => Checksums {
                ip: state & IP != 0,
                tcp_udp: state & TCP_UDP != 0,
            },
        }
    }
}

impl DescriptorFormat for ReceiveFormat {
    fn descriptor_size(&self) -> usize {
        DESCRIPTOR
    }

    fn decode(&self, raw: u64, _: u64, _: &mut TxState) -> Decoded {
        Decoded::Buffer {
            gpa: raw & ADDRESS,
            len: (raw >> 48 & 0x3fff) as u32,
            last: true,
            report: true,
            asks: false,
        }
    }

    fn request(&self, _: [u64; 2], _: &mut TxState) -> TxRequest {
        TxRequest::default()
    }

    fn rx_prefix_len(&self) -> usize {
        if self.prefix { PREFIX } else { 0 }
    }

    /// The hash, two tags that were taken out, the length and a part of the time: of these the hash, 0 if there is none, and the length.
    fn rx_prefix(&self, len: u32, note: RxNote) -> [u8; RX_PREFIX_MAX] {
        let mut prefix = [0; RX_PREFIX_MAX];
        let hash = note.hash().map_or(0, |hash| hash.value).to_le_bytes();
        [prefix[0], prefix[1], prefix[2], prefix[3]] = hash;
        let len = u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes();
        [prefix[8], prefix[9]] = len;
        prefix
    }

    fn checks_sums(&self) -> bool {
        true
    }

    fn hashes(&mut self) -> bool {
        self.prefix && self.flow_hash.update()
    }

    fn hash(&self, head: &[u8]) -> Option<RxHash> {
        self.flow_hash.of(head)
    }

    fn complete(
        &mut self,
        table: &DescriptorTable<'_>,
        done: &[Completion],
    ) -> Result<(), RingError> {
        let events = done.iter().map(|chain| {
            Event::received(&Received {
                label: self.label,
                next: table.after(chain.first, chain.descriptors),
                bytes: chain.len,
                goes_on: !chain.last,
                tags: chain.note.tags(),
                bad_ip_checksum: chain.note.has_bad_ip_checksum(),
                bad_transport_checksum: chain.note.transport_is_right() == Some(false),
                network: match (chain.note.network(), chain.note.is_fragment()) {
                    (Network::Other, _) if chain.note.is_arp() => 5,
                    (Network::Other, _) => 0,
                    (Network::Ipv4, false) => 1,
                    (Network::Ipv6, false) => 2,
                    (Network::Ipv4, true) => 4,
                    (Network::Ipv6, true) => 6,
                },
                // A driver takes the checksums of these for verified, unless they are said to be wrong.
                transport: match (chain.note.transport(), chain.note.transport_is_right()) {
                    (_, None) => 0,
                    (Transport::Tcp, _) => 1,
                    (Transport::Udp, _) => 2,
                    _ => 0,
                },
            })
        });
        self.events.push(events)
    }

    fn raise(&mut self) -> bool {
        self.events.raise()
    }

    fn coalescing(&self) -> Coalescing {
        coalescing(&self.events)
    }

    fn timer(&self) -> Option<&InterruptTimer> {
        Some(self.events.timer())
    }
}

impl DescriptorFormat for TransmitFormat {
    fn descriptor_size(&self) -> usize {
        DESCRIPTOR
    }

    fn decode(&self, raw: u64, _: u64, state: &mut TxState) -> Decoded {
        let [checksums, segment, ..] = state;
        if raw & IS_OPTION == 0 {
            let of_state = self.checksums.of_state(*checksums);
            return Decoded::Buffer {
                gpa: raw & ADDRESS,
                len: (raw >> 48 & 0x3fff) as u32,
                last: raw & GOES_ON == 0,
                report: true,
                asks: *segment > 0 || of_state != Checksums::default(),
            };
        }
        match raw >> OPTION & 7 {
            CHECKSUMS => *checksums = Checksums::of_option(raw),
            // The other half repeats what is in the headers.
            SEGMENTATION if raw >> SEGMENT_KIND & 0xf == SEGMENT_SIZE && self.segments => {
                *segment = raw >> 32 & 0xffff;
            }
            _ => {}
        }
        Decoded::Context
    }

    fn request(&self, _: [u64; 2], state: &mut TxState) -> TxRequest {
        let [checksums, segment, ..] = state;
        let Checksums { ip, tcp_udp } = self.checksums.of_state(*checksums);
        let segment = u16::try_from(std::mem::take(segment)).ok();
        TxRequest {
            ip_checksum: ip,
            checksum: if tcp_udp {
                Checksum::Any
            } else {
                Checksum::None
            },
            segment: segment.filter(|size| *size > 0),
            ..TxRequest::default()
        }
    }

    /// One event for all: it names the last descriptor.
    fn complete(
        &mut self,
        table: &DescriptorTable<'_>,
        done: &[Completion],
    ) -> Result<(), RingError> {
        let last = done.last().map(|chain| {
            let last = table.after(chain.first, chain.descriptors.saturating_sub(1));
            Event::sent(self.label, last)
        });
        self.events.push(last.into_iter())
    }

    fn raise(&mut self) -> bool {
        self.events.raise()
    }

    fn coalescing(&self) -> Coalescing {
        coalescing(&self.events)
    }

    fn timer(&self) -> Option<&InterruptTimer> {
        Some(self.events.timer())
    }
}

fn coalescing(events: &EventQueue) -> Coalescing {
    Coalescing {
        max_usecs: events.hold_off_us(),
        max_packets: 0,
    }
}
