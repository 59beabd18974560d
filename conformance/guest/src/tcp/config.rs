//! How a guest is set up, and what its interface counts. Sets nothing up and counts nothing itself.

use std::net::Ipv4Addr;

/// How a guest's host part is set up.
#[derive(Debug, Clone)]
pub struct GuestConfig {
    /// Ethernet address; unicast.
    pub mac: [u8; 6],
    /// IPv4 address.
    pub ip: Ipv4Addr,
    /// Prefix length of the network that is reached directly.
    pub prefix_len: u8,
    /// IP MTU.
    pub mtu: u16,
    /// Send super-frames, if the device negotiated `HOST_TSO4`.
    pub tso: bool,
    /// Leave checksums to the device, if it negotiated `CSUM` and `GUEST_CSUM`.
    pub csum: bool,
    /// Bytes of receive window, and of send buffer, a stream.
    pub window: usize,
    /// Seed of sequence numbers.
    pub seed: u64,
    /// Cubic congestion control; off: the peer's window alone limits a sender.
    pub cubic: bool,
    /// Nagle's algorithm. For a bulk sender it costs nothing and keeps a congestion window that
    /// is no multiple of the segment size from being filled up with tiny segments.
    pub nagle: bool,
    /// How long a lone segment waits for its ACK, in microseconds. Every second full segment is
    /// acknowledged at once whatever this says, and with `tso` so is every frame.
    pub ack_delay_us: u64,
    /// Check every received byte against the stream's pattern.
    pub verify: bool,
}

impl Default for GuestConfig {
    fn default() -> GuestConfig {
        GuestConfig {
            mac: [0x02, 0, 0, 0, 0, 1],
            ip: Ipv4Addr::new(10, 0, 0, 1),
            prefix_len: 24,
            mtu: 1500,
            tso: false,
            csum: true,
            window: 256 * 1024,
            seed: 1,
            cubic: true,
            nagle: true,
            ack_delay_us: 10_000,
            verify: true,
        }
    }
}

/// Counters of a guest's network interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestStats {
    /// Frames put on send rings.
    pub tx_frames: u64,
    /// Bytes of those, without virtio headers.
    pub tx_bytes: u64,
    /// Frames of those without TCP payload, or not TCP.
    pub tx_bare: u64,
    /// Segments with TCP payload in those: a super-frame is as many as it is cut into.
    pub tx_segments: u64,
    /// Frames taken from receive rings.
    pub rx_frames: u64,
    /// Bytes of those, without virtio headers.
    pub rx_bytes: u64,
    /// Frames of those without TCP payload, or not TCP.
    pub rx_bare: u64,
    /// Received frames dropped for a wrong TCP checksum nobody had vouched for.
    pub rx_bad_checksum: u64,
}
