//! The frames of the load generator: UDP over IPv4 with a tag that tells sender, flow and number.
//!
//! Pure. The tag lies in the first 64 bytes, which are the only ones written and read for each
//! frame: a cache line that is written whole need not be read first.

use vf_guest::checksum;

/// Bytes of a frame that are written anew each time; also the shortest frame.
pub(crate) const HEAD: usize = 64;
/// Where the tag starts: behind Ethernet with a VLAN tag, IPv4 and UDP.
const TAG: usize = 48;
/// First word of the tag; its low byte differs from run to run.
const MAGIC: u32 = 0x7666_6c00;
/// UDP source port of flow 0; the others follow.
const FIRST_PORT: u16 = 10_000;
/// Most flows: each has a UDP source port of its own.
pub(crate) const MAX_FLOWS: u32 = 50_000;

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    /// Number within the flow.
    pub(crate) seq: u32,
    /// Flow, below [`MAX_FLOWS`].
    pub(crate) flow: u32,
    /// Port that sent it.
    pub(crate) port: u8,
    /// When it was sent: the low 32 bits of the sender's clock in nanoseconds.
    pub(crate) sent: u32,
}

/// Where the tag of a received frame is looked for, with the bytes a VLAN tag that came or went on
/// the way shifts it by.
pub(crate) const TAG_AT: [usize; 3] = [TAG, TAG + 4, TAG - 4];

impl Tag {
    /// Reads the two words at one of [`TAG_AT`]; `None` when it is no frame of this run.
    #[inline]
    pub(crate) fn decode(words: [u64; 2], run: u8) -> Option<Tag> {
        if words[0] as u32 != MAGIC | u32::from(run) {
            return None;
        }
        Some(Tag {
            seq: (words[0] >> 32) as u32,
            flow: words[1] as u32 & 0xff_ffff,
            port: (words[1] >> 24) as u8,
            sent: (words[1] >> 32) as u32,
        })
    }

    #[inline]
    fn encode(self, run: u8) -> [u64; 2] {
        [
            u64::from(MAGIC | u32::from(run)) | u64::from(self.seq) << 32,
            u64::from(self.flow) | u64::from(self.port) << 24 | u64::from(self.sent) << 32,
        ]
    }
}

/// What all frames from one port to another have in common.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    head: [u64; HEAD / 8],
    /// Bits by which the UDP source port is shifted in the fifth word.
    port_shift: u32,
    port: u8,
    run: u8,
}

/// Sender and receiver of frames: index and MAC address of the port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) index: u8,
    pub(crate) mac: [u8; 6],
}

impl Template {
    /// Frames of `len` bytes, with a tag of VLAN `vlan` if any. Addresses are those RFC 2544 C.2.2
    /// sets aside, 198.18.0.(port + 1).
    pub(crate) fn new(from: End, to: End, len: usize, vlan: Option<u16>, run: u8) -> Template {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend(to.mac);
        bytes.extend(from.mac);
        if let Some(vid) = vlan {
            bytes.extend([0x81, 0x00]);
            bytes.extend(vid.to_be_bytes());
        }
        bytes.extend([0x08, 0x00]);
        let ip = bytes.len();
        let total = (len - ip) as u16;
        bytes.extend([0x45, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        for end in [from, to] {
            bytes.extend([198, 18, 0, end.index.wrapping_add(1)]);
        }
        let checksum = !checksum::sum(&bytes[ip..]);
        bytes[ip + 10..ip + 12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend([0, 0]); // the source port is the flow's
        bytes.extend(20_000u16.to_be_bytes());
        bytes.extend((total - 20).to_be_bytes());
        bytes.resize(HEAD, 0); // no UDP checksum; the tag comes last
        let mut head = [0; HEAD / 8];
        for (word, bytes) in head.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(std::array::from_fn(|i| bytes[i]));
        }
        Template {
            head,
            port_shift: if vlan.is_some() { 48 } else { 16 },
            port: from.index,
            run,
        }
    }

    /// The first 64 bytes of one frame, as little-endian words in memory order.
    #[inline]
    pub(crate) fn head(&self, flow: u32, seq: u32, sent: u32) -> [u64; HEAD / 8] {
        let mut head = self.head;
        let source = (FIRST_PORT + flow as u16).swap_bytes();
        head[4] |= u64::from(source) << self.port_shift;
        let port = self.port;
        let tag = Tag {
            seq,
            flow,
            port,
            sent,
        }
        .encode(self.run);
        [head[6], head[7]] = tag;
        head
    }
}

/// What lies behind the first 64 bytes of a frame.
pub(crate) fn filling(len: usize) -> Vec<u8> {
    (HEAD..len).map(|i| (i * 7) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(index: u8) -> End {
        End {
            index,
            mac: [2, 0x10, 0, 0, 0, index + 1],
        }
    }

    proptest! {
        #[test]
        fn what_was_stamped_is_read(flow in 0..MAX_FLOWS, seq: u32, sent: u32, vlan in prop::option::of(1u16..4095), run: u8) {
            let template = Template::new(end(3), end(7), 128, vlan, run);
            let head = template.head(flow, seq, sent);
            let tag = Tag { seq, flow, port: 3, sent };
            prop_assert_eq!(Tag::decode([head[6], head[7]], run), Some(tag));
            prop_assert_eq!(Tag::decode([head[6], head[7]], run.wrapping_add(1)), None);

            let bytes: Vec<u8> = head.iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(&bytes[..6], &end(7).mac);
            let ip = if let Some(vid) = vlan {
                prop_assert_eq!(&bytes[12..16], &[0x81, 0, (vid >> 8) as u8, vid as u8]);
                18
            } else {
                14
            };
            prop_assert_eq!(&bytes[ip - 2..ip], &[8, 0]);
            prop_assert_eq!(checksum::sum(&bytes[ip..ip + 20]), 0xffff);
            prop_assert_eq!(&bytes[ip + 2..ip + 4], &(128 - ip as u16).to_be_bytes());
            let port = u16::from_be_bytes([bytes[ip + 20], bytes[ip + 21]]);
            prop_assert_eq!(u32::from(port), 10_000 + flow);
        }
    }
}
