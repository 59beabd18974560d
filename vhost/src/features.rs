//! What the device offers: virtio feature bits and vhost-user protocol features.
//!
//! Nothing is offered that is not served (virtio 2.2.2). QEMU, cloud-hypervisor and DPDK serve the
//! guest's control queue themselves, whatever is offered here; User-Mode Linux and crosvm pass it on.

use bitflags::bitflags;
use virtio_bindings::virtio_config as config;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring as ring;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: there are protocol features, and rings start disabled.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;

/// `VIRTIO_NET_F_CTRL_VQ`: there is a control queue.
pub const CTRL_VQ: u64 = 1 << net::VIRTIO_NET_F_CTRL_VQ;

/// `VIRTIO_NET_F_MQ`: the driver says how many queue pairs it uses.
pub const MQ: u64 = 1 << net::VIRTIO_NET_F_MQ;

/// `VIRTIO_NET_F_CTRL_RX`: the driver lists the groups that it wants.
pub const CTRL_RX: u64 = 1 << net::VIRTIO_NET_F_CTRL_RX;

/// `VIRTIO_NET_F_CTRL_VLAN`: the driver lists its VLANs.
pub const CTRL_VLAN: u64 = 1 << net::VIRTIO_NET_F_CTRL_VLAN;

/// All that a device does about the checksum of a frame's TCP or UDP header.
pub const CHECKSUM: u64 = 1 << net::VIRTIO_NET_F_CSUM | 1 << net::VIRTIO_NET_F_GUEST_CSUM;

/// All that a device does about frames that are longer than the MTU; needs [`CHECKSUM`] (virtio 5.1.3.1).
pub const SEGMENTATION: u64 = 1 << net::VIRTIO_NET_F_HOST_TSO4
    | 1 << net::VIRTIO_NET_F_HOST_TSO6
    | 1 << net::VIRTIO_NET_F_HOST_ECN
    | 1 << net::VIRTIO_NET_F_GUEST_TSO4
    | 1 << net::VIRTIO_NET_F_GUEST_TSO6
    | 1 << net::VIRTIO_NET_F_GUEST_ECN;

/// Virtio bits every device offers; [`offered`] adds those that depend on its configuration.
const BASE: &[u32] = &[
    config::VIRTIO_F_VERSION_1,
    config::VIRTIO_F_ANY_LAYOUT,
    config::VIRTIO_F_IN_ORDER,
    config::VIRTIO_F_RING_PACKED,
    ring::VIRTIO_RING_F_INDIRECT_DESC,
    ring::VIRTIO_RING_F_EVENT_IDX,
    net::VIRTIO_NET_F_MRG_RXBUF,
    net::VIRTIO_NET_F_MAC,
    net::VIRTIO_NET_F_MTU,
    net::VIRTIO_NET_F_STATUS,
    net::VIRTIO_NET_F_SPEED_DUPLEX,
    net::VIRTIO_NET_F_CTRL_VQ,
    net::VIRTIO_NET_F_CTRL_RX,
    net::VIRTIO_NET_F_CTRL_RX_EXTRA,
    net::VIRTIO_NET_F_CTRL_VLAN,
    net::VIRTIO_NET_F_CTRL_MAC_ADDR,
    net::VIRTIO_NET_F_NOTF_COAL,
    net::VIRTIO_NET_F_VQ_NOTF_COAL,
];

/// The virtio feature bits of a device with `queue_pairs` pairs of rings.
pub fn offered(queue_pairs: u16) -> u64 {
    let base = BASE
        .iter()
        .fold(PROTOCOL_FEATURES | CHECKSUM | SEGMENTATION, |bits, bit| {
            bits | 1 << bit
        });
    if queue_pairs > 1 { base | MQ } else { base }
}

bitflags! {
    /// vhost-user protocol features that are served.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ProtocolFeatures: u64 {
        /// More than one queue pair over one socket.
        const MQ = 1 << 0;
        /// A request may ask whether it succeeded.
        const REPLY_ACK = 1 << 3;
        /// The front end says which MTU the guest has.
        const NET_MTU = 1 << 4;
        /// The back end may send requests over a socket of its own.
        const BACKEND_REQ = 1 << 5;
        /// The device configuration space is the back end's.
        const CONFIG = 1 << 9;
        /// RESET_DEVICE.
        const RESET_DEVICE = 1 << 13;
        /// Kicks and calls are messages that are answered, not descriptors that are written to.
        const INBAND_NOTIFICATIONS = 1 << 14;
        /// Memory regions come and go one by one.
        const CONFIGURE_MEM_SLOTS = 1 << 15;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_offered_that_is_not_served() {
        let bits = offered(4);
        for (name, bit) in [
            ("CTRL_GUEST_OFFLOADS", net::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
            ("GUEST_UFO", net::VIRTIO_NET_F_GUEST_UFO),
            ("HOST_UFO", net::VIRTIO_NET_F_HOST_UFO),
            ("RSS", net::VIRTIO_NET_F_RSS),
            ("GUEST_ANNOUNCE", net::VIRTIO_NET_F_GUEST_ANNOUNCE),
            ("LOG_ALL", 26),
            ("ACCESS_PLATFORM", config::VIRTIO_F_ACCESS_PLATFORM),
            ("SR_IOV", config::VIRTIO_F_SR_IOV),
        ] {
            assert_eq!(bits >> bit & 1, 0, "{name}");
        }
        assert_eq!((offered(1) | MQ, offered(1) & MQ), (bits, 0));
    }
}
