//! How long notifications of used buffers are held back, and the bytes that say so. Knows neither who says it nor who heeds it.

/// How long the next notification of used buffers may be held back (virtio 5.1.6.5.7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Coalescing {
    /// Microseconds since the last one; 0: not at all.
    pub max_usecs: u32,
    /// Packets since the last one; 0: however many.
    pub max_packets: u32,
}

impl Coalescing {
    /// As VQ_GET answers it.
    pub(crate) fn to_bytes(self) -> [u8; 8] {
        let fields = [self.max_packets, self.max_usecs].map(u32::to_le_bytes);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(fields.as_flattened());
        bytes
    }

    /// As TX_SET, RX_SET and VQ_SET say it.
    pub(crate) fn from_bytes(data: &[u8]) -> Option<Coalescing> {
        let (packets, usecs) = data.split_first_chunk()?;
        Some(Coalescing {
            max_packets: u32::from_le_bytes(*packets),
            max_usecs: u32::from_le_bytes(usecs.try_into().ok()?),
        })
    }
}
