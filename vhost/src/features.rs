//! What the device offers: virtio feature bits and vhost-user protocol features.
//!
//! Nothing is offered that is not served (virtio 2.2.2). QEMU, cloud-hypervisor and DPDK serve the
//! guest's control queue themselves, whatever is offered here; User-Mode Linux and crosvm pass it on.

use bitflags::bitflags;
use virtio_bindings::virtio_config as config;
use virtio_bindings::virtio_net as net;
use virtio_bindings::virtio_ring as ring;

bitflags! {
    /// Virtio feature bits (virtio 2.2, 5.1.3, 6), and the two that vhost-user adds. Bits without a name here stay what they
    /// are.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct VirtioFeatures: u64 {
        /// The device completes checksums.
        const CSUM = 1 << net::VIRTIO_NET_F_CSUM;
        /// The driver takes frames with partial checksums.
        const GUEST_CSUM = 1 << net::VIRTIO_NET_F_GUEST_CSUM;
        /// The device says its greatest MTU.
        const MTU = 1 << net::VIRTIO_NET_F_MTU;
        /// The device has a station address.
        const MAC = 1 << net::VIRTIO_NET_F_MAC;
        /// The driver takes super-frames of TCP over IPv4.
        const GUEST_TSO4 = 1 << net::VIRTIO_NET_F_GUEST_TSO4;
        /// The driver takes super-frames of TCP over IPv6.
        const GUEST_TSO6 = 1 << net::VIRTIO_NET_F_GUEST_TSO6;
        /// The driver takes super-frames with ECN.
        const GUEST_ECN = 1 << net::VIRTIO_NET_F_GUEST_ECN;
        /// The device cuts super-frames of TCP over IPv4.
        const HOST_TSO4 = 1 << net::VIRTIO_NET_F_HOST_TSO4;
        /// The device cuts super-frames of TCP over IPv6.
        const HOST_TSO6 = 1 << net::VIRTIO_NET_F_HOST_TSO6;
        /// The device cuts super-frames with ECN.
        const HOST_ECN = 1 << net::VIRTIO_NET_F_HOST_ECN;
        /// The driver merges receive buffers.
        const MRG_RXBUF = 1 << net::VIRTIO_NET_F_MRG_RXBUF;
        /// The device shows a carrier or none.
        const STATUS = 1 << net::VIRTIO_NET_F_STATUS;
        /// There is a control queue.
        const CTRL_VQ = 1 << net::VIRTIO_NET_F_CTRL_VQ;
        /// The driver lists the groups that it wants.
        const CTRL_RX = 1 << net::VIRTIO_NET_F_CTRL_RX;
        /// The driver lists its VLANs.
        const CTRL_VLAN = 1 << net::VIRTIO_NET_F_CTRL_VLAN;
        /// The driver says which kinds of frames it does not want.
        const CTRL_RX_EXTRA = 1 << net::VIRTIO_NET_F_CTRL_RX_EXTRA;
        /// The driver says how many queue pairs it uses.
        const MQ = 1 << net::VIRTIO_NET_F_MQ;
        /// The driver chooses its station address.
        const CTRL_MAC_ADDR = 1 << net::VIRTIO_NET_F_CTRL_MAC_ADDR;
        /// Headers and frames may share descriptors as they like (legacy).
        const ANY_LAYOUT = 1 << config::VIRTIO_F_ANY_LAYOUT;
        /// A chain may be a table of its own.
        const INDIRECT_DESC = 1 << ring::VIRTIO_RING_F_INDIRECT_DESC;
        /// Either side says at which entry it wants to be notified.
        const EVENT_IDX = 1 << ring::VIRTIO_RING_F_EVENT_IDX;
        /// `VHOST_F_LOG_ALL`: the device marks what it writes in a dirty log. A front end's word, not a driver's.
        const LOG_ALL = 1 << 26;
        /// `VHOST_USER_F_PROTOCOL_FEATURES`: there are protocol features, and rings start disabled.
        const PROTOCOL_FEATURES = 1 << 30;
        /// Not legacy.
        const VERSION_1 = 1 << config::VIRTIO_F_VERSION_1;
        /// Rings are packed.
        const RING_PACKED = 1 << config::VIRTIO_F_RING_PACKED;
        /// Buffers are used in the order in which they were made available.
        const IN_ORDER = 1 << config::VIRTIO_F_IN_ORDER;
        /// The driver says how long notifications of one ring are held back.
        const VQ_NOTF_COAL = 1 << net::VIRTIO_NET_F_VQ_NOTF_COAL;
        /// The driver says how long notifications are held back.
        const NOTF_COAL = 1 << net::VIRTIO_NET_F_NOTF_COAL;
        /// The device says how fast its link is.
        const SPEED_DUPLEX = 1 << net::VIRTIO_NET_F_SPEED_DUPLEX;
        const _ = !0;
    }
}

impl VirtioFeatures {
    /// All that a device does about the checksum of a frame's TCP or UDP header.
    pub const CHECKSUM: VirtioFeatures = Self::CSUM.union(Self::GUEST_CSUM);

    /// All that a device does about frames that are longer than the MTU; needs [`VirtioFeatures::CHECKSUM`] (virtio 5.1.3.1).
    pub const SEGMENTATION: VirtioFeatures = Self::HOST_TSO4
        .union(Self::HOST_TSO6)
        .union(Self::HOST_ECN)
        .union(Self::GUEST_TSO4)
        .union(Self::GUEST_TSO6)
        .union(Self::GUEST_ECN);

    /// What every device offers; [`VirtioFeatures::offered`] adds what depends on its configuration.
    const BASE: VirtioFeatures = Self::CHECKSUM
        .union(Self::SEGMENTATION)
        .union(Self::LOG_ALL)
        .union(Self::PROTOCOL_FEATURES)
        .union(Self::VERSION_1)
        .union(Self::ANY_LAYOUT)
        .union(Self::IN_ORDER)
        .union(Self::RING_PACKED)
        .union(Self::INDIRECT_DESC)
        .union(Self::EVENT_IDX)
        .union(Self::MRG_RXBUF)
        .union(Self::MAC)
        .union(Self::MTU)
        .union(Self::STATUS)
        .union(Self::SPEED_DUPLEX)
        .union(Self::CTRL_VQ)
        .union(Self::CTRL_RX)
        .union(Self::CTRL_RX_EXTRA)
        .union(Self::CTRL_VLAN)
        .union(Self::CTRL_MAC_ADDR)
        .union(Self::NOTF_COAL)
        .union(Self::VQ_NOTF_COAL);

    /// What a device with `queue_pairs` pairs of rings offers.
    #[must_use]
    pub fn offered(queue_pairs: u16) -> VirtioFeatures {
        match queue_pairs {
            0 | 1 => Self::BASE,
            _ => Self::BASE | Self::MQ,
        }
    }
}

bitflags! {
    /// vhost-user protocol features that are served.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ProtocolFeatures: u64 {
        /// More than one queue pair over one socket.
        const MQ = 1 << 0;
        /// The dirty log of a migration is shared memory.
        const LOG_SHMFD = 1 << 1;
        /// The back end announces a guest that has migrated and does not do it itself.
        const RARP = 1 << 2;
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
        let bits = VirtioFeatures::offered(4).bits();
        for (name, bit) in [
            ("CTRL_GUEST_OFFLOADS", net::VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
            ("GUEST_UFO", net::VIRTIO_NET_F_GUEST_UFO),
            ("HOST_UFO", net::VIRTIO_NET_F_HOST_UFO),
            ("RSS", net::VIRTIO_NET_F_RSS),
            ("GUEST_ANNOUNCE", net::VIRTIO_NET_F_GUEST_ANNOUNCE),
            ("ACCESS_PLATFORM", config::VIRTIO_F_ACCESS_PLATFORM),
            ("SR_IOV", config::VIRTIO_F_SR_IOV),
        ] {
            assert_eq!(bits >> bit & 1, 0, "{name}");
        }
        let one = VirtioFeatures::offered(1);
        assert!(!one.contains(VirtioFeatures::MQ));
        assert_eq!((one | VirtioFeatures::MQ).bits(), bits);
    }
}
