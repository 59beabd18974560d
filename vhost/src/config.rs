//! What a device is, as a front end and its driver see it. Knows no rings and no session.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "numbers of queues, which are few"
)]

use crate::coalescing::Coalescing;
use crate::features::{ProtocolFeatures, VirtioFeatures};

/// Pairs of rings a device can have.
pub const MAX_QUEUE_PAIRS: u16 = 32;

/// Bytes of configuration space that can be read; those behind the fields that exist are zero.
const CONFIG_SPACE: usize = 64;

/// What a device is, as a front end sees it.
#[derive(Debug, Clone)]
pub struct DeviceConfig {
    /// What log lines call it, such as `vf0`.
    pub name: String,
    /// Virtio feature bits to offer.
    pub features: VirtioFeatures,
    /// Protocol features to offer.
    pub protocol_features: ProtocolFeatures,
    /// Pairs of a receive and a transmit ring, 1 to 32.
    pub queue_pairs: u16,
    /// Station address.
    pub mac: [u8; 6],
    /// Greatest payload of a frame, in bytes.
    pub mtu: u16,
    /// Whether the guest sees a carrier.
    pub link_up: bool,
    /// Speed of the link that the guest sees.
    pub speed_mbps: u32,
    /// What a driver that has not said how long notifications are held back is told if it asks.
    pub coalescing: Coalescing,
}

impl DeviceConfig {
    /// A 10 GbE device that offers all that is served, but for
    /// [`ProtocolFeatures::INBAND_NOTIFICATIONS`]: whoever offers those also
    /// [acknowledges](crate::endpoint::Endpoint::acknowledge_kick) each kick.
    pub fn new(name: impl Into<String>, mac: [u8; 6], queue_pairs: u16) -> DeviceConfig {
        let queue_pairs = queue_pairs.clamp(1, MAX_QUEUE_PAIRS);
        DeviceConfig {
            name: name.into(),
            features: VirtioFeatures::offered(queue_pairs),
            protocol_features: ProtocolFeatures::all() - ProtocolFeatures::INBAND_NOTIFICATIONS,
            queue_pairs,
            mac,
            mtu: 1500,
            link_up: true,
            speed_mbps: 10_000,
            coalescing: Coalescing::default(),
        }
    }

    /// Rings reported to the front end: a receive and a transmit ring for each pair, and the
    /// control queue if it is offered.
    ///
    /// The document says that GET_QUEUE_NUM answers queues. cloud-hypervisor refuses to start if
    /// that is less than its receive and transmit rings; crosvm gives the guest so many queues, the
    /// control queue among them. QEMU takes it for pairs, and DPDK's virtio-user does not ask.
    pub fn rings(&self) -> u16 {
        2 * self.pairs() + u16::from(self.features.contains(VirtioFeatures::CTRL_VQ))
    }

    /// Rings a front end may set up: as many as QEMU thinks that there are.
    pub fn rings_accepted(&self) -> u16 {
        2 * self.rings()
    }

    pub(crate) fn pairs(&self) -> u16 {
        self.queue_pairs.clamp(1, MAX_QUEUE_PAIRS)
    }

    /// The device configuration space (virtio 5.1.4) of a device with this station address.
    pub(crate) fn space(&self, mac: [u8; 6]) -> [u8; CONFIG_SPACE] {
        let mut space = [0; CONFIG_SPACE];
        let fields = mac
            .into_iter()
            .chain(u16::from(self.link_up).to_le_bytes())
            .chain(self.pairs().to_le_bytes())
            .chain(self.mtu.to_le_bytes())
            .chain(self.speed_mbps.to_le_bytes())
            .chain([1]); // full duplex
        for (byte, field) in space.iter_mut().zip(fields) {
            *byte = field;
        }
        space
    }
}
