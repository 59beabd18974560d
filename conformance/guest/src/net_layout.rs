//! The bytes virtio-net defines: feature bits, the header in front of a frame, configuration space.
//!
//! Pure: bytes in, bytes out. Judges no value: any bytes are a header.

/// Feature bits, as masks (virtio 5.1.3, 6).
pub mod feature {
    /// The device completes partial checksums.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames with partial or vouched checksums.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device tells the largest MTU.
    pub const MTU: u64 = 1 << 3;
    /// The device has a MAC address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes TCP/IPv4 super-frames.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The driver takes TCP/IPv6 super-frames.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The device takes TCP/IPv4 super-frames.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The device takes TCP/IPv6 super-frames.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The device takes UDP super-frames.
    pub const HOST_USO: u64 = 1 << 56;
    /// A received frame may span several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The device tells its link state.
    pub const STATUS: u64 = 1 << 16;
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// The driver chooses kinds of frames and lists addresses.
    pub const CTRL_RX: u64 = 1 << 18;
    /// The driver lists VLANs.
    pub const CTRL_VLAN: u64 = 1 << 19;
    /// The driver chooses more kinds of frames.
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    /// The driver chooses its address.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    /// The driver says how long notifications of a ring may be held back.
    pub const VQ_NOTF_COAL: u64 = 1 << 52;
    /// The driver says how long notifications may be held back.
    pub const NOTF_COAL: u64 = 1 << 53;
    /// There is more than one queue pair.
    pub const MQ: u64 = 1 << 22;
    /// vhost: what the device writes is marked in the dirty log.
    pub const LOG_ALL: u64 = 1 << 26;
    /// Chains may be laid out in any way (legacy).
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// vhost-user: protocol features can be negotiated; rings start disabled.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// Not a legacy device.
    pub const VERSION_1: u64 = 1 << 32;
    /// Packed rings.
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in order.
    pub const IN_ORDER: u64 = 1 << 35;
    /// The device has virtual functions of its own.
    pub const SR_IOV: u64 = 1 << 37;
}

/// Header flag: the checksum is partial, complete it from `csum_start`.
pub const HDR_NEEDS_CSUM: u8 = 1;
/// Header flag: the checksum was checked and is right.
pub const HDR_DATA_VALID: u8 = 2;
/// `gso_type`: not a super-frame.
pub const GSO_NONE: u8 = 0;
/// `gso_type`: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;

/// `gso_type`: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// `gso_type`: UDP, cut into datagrams.
pub const GSO_UDP_L4: u8 = 5;

/// A virtio-net header (virtio 5.1.9), in host byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetHeader {
    /// `HDR_*` flags.
    pub flags: u8,
    /// `GSO_*` type.
    pub gso_type: u8,
    /// Length of all headers of a super-frame, a hint.
    pub hdr_len: u16,
    /// Payload bytes a segment.
    pub gso_size: u16,
    /// Where checksumming starts.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
    /// Receive only: buffers the frame spans.
    pub num_buffers: u16,
}

impl NetHeader {
    /// The header's bytes; a legacy driver without merged buffers sends only the first ten.
    pub fn encode(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let fields = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        ];
        for (i, field) in fields.into_iter().enumerate() {
            bytes[2 + 2 * i..4 + 2 * i].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Reads a header; any bytes are one.
    pub fn decode(bytes: &[u8; 12]) -> NetHeader {
        let field = |i: usize| u16::from_le_bytes([bytes[i], bytes[i + 1]]);
        NetHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
            num_buffers: field(10),
        }
    }
}

/// Configuration space of a net device (virtio 5.1.4), as far as it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConfigSpace {
    /// MAC address.
    pub mac: [u8; 6],
    /// Bit 0: link up.
    pub status: u16,
    /// Most queue pairs.
    pub max_virtqueue_pairs: u16,
    /// Largest IP MTU.
    pub mtu: u16,
}

impl ConfigSpace {
    /// Bytes that [`ConfigSpace::decode`] needs.
    pub const LEN: usize = 12;

    /// Reads the first twelve bytes.
    pub fn decode(bytes: &[u8]) -> Option<ConfigSpace> {
        let field = |i: usize| Some(u16::from_le_bytes([*bytes.get(i)?, *bytes.get(i + 1)?]));
        Some(ConfigSpace {
            mac: bytes.get(..6)?.try_into().ok()?,
            status: field(6)?,
            max_virtqueue_pairs: field(8)?,
            mtu: field(10)?,
        })
    }
}

/// Reads a MAC address: six hexadecimal bytes with colons.
pub fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    let bytes = bytes.ok().and_then(|b| <[u8; 6]>::try_from(b).ok());
    bytes.ok_or_else(|| format!("`{text}` is no MAC address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_twelve_bytes_are_a_header(bytes: [u8; 12]) {
            prop_assert_eq!(NetHeader::decode(&bytes).encode(), bytes);
        }
    }

    #[test]
    fn configuration_space_in_the_order_of_the_document() {
        let bytes = [2, 0, 0, 0, 0, 9, 1, 0, 4, 0, 0xdc, 5];
        let space = ConfigSpace::decode(&bytes).unwrap();
        assert_eq!(space.mac, [2, 0, 0, 0, 0, 9]);
        assert_eq!(
            (space.status, space.max_virtqueue_pairs, space.mtu),
            (1, 4, 1500)
        );
        assert_eq!(ConfigSpace::decode(&bytes[..11]), None);
    }
}
