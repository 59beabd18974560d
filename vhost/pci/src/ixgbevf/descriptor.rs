//! Advanced descriptors (82599 data sheet 7.1.6 and 7.2.3.2), 16 bytes each: what a driver writes, and what the NIC writes back. Moves no
//! frame, and knows no register.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vf_vhost::control::Coalescing;
use vf_vhost::hardware::{
    Checksum, Completion, Decoded, DescriptorFormat, DescriptorTable, Headers, Network, RxHash,
    RxNote, Transport, TxRequest, TxState,
};
use vf_vhost::interrupt_timer::InterruptTimer;
use vf_vhost::ring::RingError;

use super::interrupts::Interrupts;
use crate::flow_hash::RingHash;

const DESCRIPTOR: usize = 16;
/// Where the status is that a transmit descriptor gets back.
const TX_STATUS: usize = 12;
const DONE: u32 = 1;

/// Bits of the second word's first half of a transmit descriptor.
const TX_END: u32 = 1 << 24;
const TX_REPORT: u32 = 1 << 27;
const TX_ADVANCED: u32 = 1 << 29;
const TX_TAG: u32 = 1 << 30;
const TX_SEGMENT: u32 = 1 << 31;
const TX_CONTEXT: u32 = 2;
/// Of its second half.
const TX_IP_CHECKSUM: u32 = 1 << 8;
const TX_CHECKSUM: u32 = 1 << 9;

/// Bits of what a received frame is written back with.
const RX_END: u32 = 1 << 1;
const RX_TAG: u32 = 1 << 3;
const RX_CHECKED: u32 = 1 << 5;
const RX_IP_CHECKED: u32 = 1 << 6;
/// Of its errors: what was checked is wrong.
const RX_TRANSPORT_WRONG: u32 = 1 << 30;
const RX_IP_WRONG: u32 = 1 << 31;
const RX_IPV4: u64 = 1 << 4;
const RX_IPV4_OPTIONS: u64 = 1 << 5;
const RX_IPV6: u64 = 1 << 6;
const RX_IPV6_EXTENSIONS: u64 = 1 << 7;
const RX_TCP: u64 = 1 << 8;
const RX_UDP: u64 = 1 << 9;
const RX_SCTP: u64 = 1 << 10;
/// What the hash of a received frame is of; 0 if it has none.
const HASH_TCP_IPV4: u64 = 1;
const HASH_IPV4: u64 = 2;
const HASH_TCP_IPV6: u64 = 3;
const HASH_IPV6: u64 = 5;
const HASH_UDP_IPV4: u64 = 7;
const HASH_UDP_IPV6: u64 = 8;

/// The lower and the upper half of a word.
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
    let half = u32::from_le_bytes;
    (half([a, b, c, d]), half([e, f, g, h]))
}

/// The bits of a mask of at most 16 from bit `at` on.
fn bits(word: u32, at: u32, mask: u16) -> u16 {
    u16::try_from(word >> at & u32::from(mask)).unwrap_or_default()
}

/// Descriptors of a transmit queue.
#[derive(Debug)]
pub(super) struct TxFormat {
    pub(super) pair: u16,
    pub(super) interrupts: Arc<Interrupts>,
    /// Whether something was written back since the last interrupt.
    reported: bool,
}

impl TxFormat {
    pub(super) fn new(pair: u16, interrupts: Arc<Interrupts>) -> TxFormat {
        TxFormat {
            pair,
            interrupts,
            reported: false,
        }
    }
}

impl DescriptorFormat for TxFormat {
    fn descriptor_size(&self) -> usize {
        DESCRIPTOR
    }

    /// The queue has two contexts, each two words of the state.
    fn decode(&self, first: u64, second: u64, state: &mut TxState) -> Decoded {
        let (command, rest) = halves(second);
        let offloads = command & (TX_ADVANCED | TX_SEGMENT) == TX_ADVANCED | TX_SEGMENT
            || command & TX_ADVANCED != 0 && rest & (TX_IP_CHECKSUM | TX_CHECKSUM) != 0;
        if command & TX_ADVANCED != 0 && command >> 20 & 0xf == TX_CONTEXT {
            let [low, high] = context(state, rest);
            (*low, *high) = (first, second);
            return Decoded::Context;
        }
        Decoded::Buffer {
            gpa: first,
            len: command & 0xffff,
            last: command & TX_END != 0,
            report: command & TX_REPORT != 0,
            asks: offloads || command & TX_TAG != 0,
        }
    }

    fn request(&self, [_, second]: [u64; 2], state: &mut TxState) -> TxRequest {
        let (command, options) = halves(second);
        let none = TxRequest::default();
        if command & TX_ADVANCED == 0 {
            let vlan = (command & TX_TAG != 0).then_some(bits(options, 16, u16::MAX));
            return TxRequest { vlan, ..none };
        }
        let wanted = options & (TX_IP_CHECKSUM | TX_CHECKSUM);
        if wanted == 0 && command & (TX_TAG | TX_SEGMENT) == 0 {
            return none;
        }
        let [low, high] = context(state, options);
        let ((lengths, _), (kind, sizes)) = (halves(*low), halves(*high));
        let segment = (command & TX_SEGMENT != 0).then_some(bits(sizes, 16, u16::MAX));
        let of = match kind >> 11 & 3 {
            0 => Transport::Udp,
            1 => Transport::Tcp,
            2 => Transport::Sctp,
            _ => Transport::Other,
        };
        let checksum = match options & TX_CHECKSUM {
            0 => Checksum::None,
            _ => Checksum::Of(of),
        };
        let headers = Headers {
            link: bits(lengths, 9, 0x7f),
            network: bits(lengths, 0, 0x1ff),
            transport: bits(sizes, 8, 0xff),
        };
        TxRequest {
            vlan: (command & TX_TAG != 0).then_some(bits(lengths, 16, u16::MAX)),
            ip_checksum: options & TX_IP_CHECKSUM != 0,
            checksum,
            segment,
            headers: (wanted != 0 || segment.is_some()).then_some(headers),
        }
    }

    fn complete(
        &mut self,
        table: &DescriptorTable<'_>,
        done: &[Completion],
    ) -> Result<(), RingError> {
        for chain in done {
            let last = table.after(chain.first, chain.descriptors.saturating_sub(1));
            table.store(last, TX_STATUS, DONE.to_le(), Ordering::Release)?;
            self.reported = true;
        }
        Ok(())
    }

    fn raise(&mut self) -> bool {
        std::mem::take(&mut self.reported) && self.interrupts.raise(self.pair, true)
    }

    fn coalescing(&self) -> Coalescing {
        self.interrupts.coalescing(self.pair, true)
    }

    fn timer(&self) -> Option<&InterruptTimer> {
        self.interrupts.timer(self.pair, true)
    }
}

/// The context that a descriptor refers to by its index.
fn context(state: &mut TxState, options: u32) -> [&mut u64; 2] {
    let [first_low, first_high, second_low, second_high] = state;
    match options >> 4 & 1 {
        0 => [first_low, first_high],
        _ => [second_low, second_high],
    }
}

/// Descriptors of a receive queue.
#[derive(Debug)]
pub(super) struct RxFormat {
    pub(super) pair: u16,
    pub(super) interrupts: Arc<Interrupts>,
    /// Bytes of each buffer.
    pub(super) buffer: u32,
    /// Whether tags are taken out.
    pub(super) strips: Arc<AtomicBool>,
    pub(super) flow_hash: RingHash,
}

impl DescriptorFormat for RxFormat {
    fn descriptor_size(&self) -> usize {
        DESCRIPTOR
    }

    fn decode(&self, gpa: u64, _: u64, _: &mut TxState) -> Decoded {
        Decoded::Buffer {
            gpa,
            len: self.buffer,
            last: true,
            report: true,
            asks: false,
        }
    }

    fn request(&self, _: [u64; 2], _: &mut TxState) -> TxRequest {
        TxRequest::default()
    }

    fn strips_tags(&self) -> bool {
        self.strips.load(Ordering::Relaxed)
    }

    /// A driver that looks at errors alone (DPDK's) takes what has none for right.
    fn checks_sums(&self) -> bool {
        true
    }

    fn hashes(&mut self) -> bool {
        self.flow_hash.update()
    }

    fn hash(&self, head: &[u8]) -> Option<RxHash> {
        self.flow_hash.of(head)
    }

    fn complete(
        &mut self,
        table: &DescriptorTable<'_>,
        done: &[Completion],
    ) -> Result<(), RingError> {
        // In their order, whatever it costs: DPDK's driver reads several from the last on, and counts those that are done.
        // Frames of a burst are often alike.
        let mut note = RxNote::default();
        let (mut kind, mut status) = said(note);
        for chain in done {
            if chain.note != note {
                note = chain.note;
                (kind, status) = said(note);
            }
            let end = if chain.last { RX_END } else { 0 };
            let status = u64::from(status | end | DONE);
            let vlan = u64::from(note.vlan().unwrap_or_default());
            // The buffers are not longer than 31 KiB.
            let rest = status | u64::from(chain.len & 0xffff) << 32 | vlan << 48;
            table.store(chain.first, 0, kind.to_le(), Ordering::Relaxed)?;
            table.store(chain.first, 8, rest.to_le(), Ordering::Release)?;
        }
        Ok(())
    }

    fn raise(&mut self) -> bool {
        self.interrupts.raise(self.pair, false)
    }

    fn coalescing(&self) -> Coalescing {
        self.interrupts.coalescing(self.pair, false)
    }

    fn timer(&self) -> Option<&InterruptTimer> {
        self.interrupts.timer(self.pair, false)
    }
}

/// The kind of a packet with its hash in the upper half, and the status with the errors, as far as it is about the packet.
fn said(note: RxNote) -> (u64, u32) {
    let network = match note.network() {
        Network::Other => 0,
        Network::Ipv4 if note.has_extensions() => RX_IPV4 | RX_IPV4_OPTIONS,
        Network::Ipv4 => RX_IPV4,
        Network::Ipv6 if note.has_extensions() => RX_IPV6 | RX_IPV6_EXTENSIONS,
        Network::Ipv6 => RX_IPV6,
    };
    let transport = match note.transport() {
        Transport::Other => 0,
        Transport::Tcp => RX_TCP,
        Transport::Udp => RX_UDP,
        Transport::Sctp => RX_SCTP,
    };
    let mut status = if note.vlan().is_some() { RX_TAG } else { 0 };
    if note.network() == Network::Ipv4 {
        status |= RX_IP_CHECKED;
    }
    if note.has_bad_ip_checksum() {
        status |= RX_IP_WRONG;
    }
    status |= match note.transport_is_right() {
        None => 0,
        Some(true) => RX_CHECKED,
        Some(false) => RX_CHECKED | RX_TRANSPORT_WRONG,
    };
    (network | transport | hash(note), status)
}

/// What is said of the hash of a packet's flow (7.1.2.8): its kind, and in the upper half the hash.
fn hash(note: RxNote) -> u64 {
    let Some(RxHash { value, ports }) = note.hash() else {
        return 0;
    };
    let kind = match (note.network(), note.transport()) {
        (Network::Ipv6, Transport::Tcp) if ports => HASH_TCP_IPV6,
        (Network::Ipv6, Transport::Udp) if ports => HASH_UDP_IPV6,
        (Network::Ipv6, _) => HASH_IPV6,
        (_, Transport::Tcp) if ports => HASH_TCP_IPV4,
        (_, Transport::Udp) if ports => HASH_UDP_IPV4,
        (_, _) => HASH_IPV4,
    };
    kind | u64::from(value) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tx() -> TxFormat {
        TxFormat::new(0, Arc::new(Interrupts::new()))
    }

    fn data(command: u32, options: u32) -> [u64; 2] {
        [0x1000, u64::from(command) | u64::from(options) << 32]
    }

    /// A context with VLAN 0x2005, MACLEN 14, IPLEN 20, IPv4, an MSS and L4LEN.
    fn context(kind: u32, mss: u32, l4: u32, index: u32) -> [u64; 2] {
        let lengths = 0x2005 << 16 | 14 << 9 | 20;
        let kind = kind | TX_CONTEXT << 20 | TX_ADVANCED;
        let sizes = mss << 16 | l4 << 8 | index << 4;
        [lengths, u64::from(kind) | u64::from(sizes) << 32]
    }

    const IPV4: u32 = 1 << 10;
    const TCP: u32 = 1 << 11;
    const SCTP: u32 = 1 << 12;
    const DATA: u32 = 3 << 20 | TX_ADVANCED;

    #[test]
    fn a_buffer_says_where_it_is_and_whether_its_frame_ends() {
        let mut state = TxState::default();
        let mut decode = |command| {
            let [first, second] = data(command, 0);
            tx().decode(first, second, &mut state)
        };
        let buffer = |len, last, report| Decoded::Buffer {
            gpa: 0x1000,
            len,
            last,
            report,
            asks: false,
        };
        assert_eq!(decode(DATA | 0x1_2345), buffer(0x2345, false, false));
        assert_eq!(decode(DATA | TX_END | 60), buffer(60, true, false));
        let both = TX_END | TX_REPORT;
        assert_eq!(decode(DATA | both | 60), buffer(60, true, true));
        assert_eq!(decode(both | 60), buffer(60, true, true), "legacy");
        assert_eq!(state, TxState::default());
    }

    #[test]
    fn what_is_asked_is_in_the_context_that_a_frame_names() {
        let mut state = TxState::default();
        for [first, second] in [context(IPV4 | TCP, 1448, 32, 0), context(0, 0, 8, 1)] {
            assert_eq!(tx().decode(first, second, &mut state), Decoded::Context);
        }
        let mut ask = |command, options| tx().request(data(command, options), &mut state);
        assert_eq!(ask(DATA | 60, 0), TxRequest::default());
        let headers = Some(Headers {
            link: 14,
            network: 20,
            transport: 32,
        });
        let tso = TxRequest {
            vlan: None,
            ip_checksum: true,
            checksum: Checksum::Of(Transport::Tcp),
            segment: Some(1448),
            headers,
        };
        let both = TX_IP_CHECKSUM | TX_CHECKSUM;
        assert_eq!(ask(DATA | TX_SEGMENT, both), tso);
        let tag = ask(DATA | TX_TAG, 0);
        assert_eq!((tag.vlan, tag.headers), (Some(0x2005), None));
        let udp = ask(DATA, TX_CHECKSUM | 1 << 4);
        assert_eq!(udp.checksum, Checksum::Of(Transport::Udp));
        assert_eq!(udp.headers.unwrap().transport, 8);
        let legacy = ask(TX_TAG, 7 << 16);
        assert_eq!(legacy.vlan, Some(7));

        let [first, second] = context(SCTP, 0, 0, 0);
        tx().decode(first, second, &mut state);
        let sctp = tx().request(data(DATA, TX_CHECKSUM), &mut state);
        assert_eq!(sctp.checksum, Checksum::Of(Transport::Sctp));
    }

    #[test]
    fn what_is_said_of_a_frame() {
        let said = |network, transport, checked, vlan| {
            said(RxNote::new(network, transport, checked, vlan))
        };
        let (v4, v6) = (Network::Ipv4, Network::Ipv6);
        let hashed = |network, transport, ports| {
            let note = RxNote::new(network, transport, false, None);
            let value = 0x51cc_c178;
            self::said(note.with_hash(Some(RxHash { value, ports }))).0
        };
        assert_eq!(hashed(v4, Transport::Tcp, true), 0x51cc_c178_0000_0111);
        assert_eq!(hashed(v4, Transport::Tcp, false), 0x51cc_c178_0000_0112);
        assert_eq!(hashed(v4, Transport::Udp, true), 0x51cc_c178_0000_0217);
        assert_eq!(hashed(v4, Transport::Other, false), 0x51cc_c178_0000_0012);
        assert_eq!(hashed(v6, Transport::Tcp, true), 0x51cc_c178_0000_0143);
        assert_eq!(hashed(v6, Transport::Udp, true), 0x51cc_c178_0000_0248);
        assert_eq!(hashed(v6, Transport::Other, false), 0x51cc_c178_0000_0045);
        assert_eq!(said(v4, Transport::Tcp, true, None), (0x110, 0x60));
        assert_eq!(said(v6, Transport::Udp, true, Some(0)), (0x240, 0x28));
        assert_eq!(said(v6, Transport::Udp, false, None), (0x240, 0));
        assert_eq!(said(v4, Transport::Sctp, false, None), (0x410, 0x40));
        assert_eq!(said(Network::Other, Transport::Other, false, None), (0, 0));
    }
}
