//! The registers in the memory BAR of an EF10 VF: one window of 8 KiB for each virtual interface, and those of the function in the first.
//! Reads and writes none.

/// Virtual interfaces of a VF: an event queue, a receive and a transmit queue each. So many that whatever drivers make of the [`VECTORS`] finds room:
/// Linux's takes two transmit queues for each vector, or four for each that is for XDP.
pub(crate) const INTERFACES: u32 = 32;
/// MSI-X vectors of a VF: as many as the maker's boot utility gives each (`vf-msix-limit`) unless it is told otherwise.
pub(crate) const VECTORS: u16 = 8;
/// Bytes of the window of one.
pub(crate) const WINDOW: u64 = 8192;

/// A register of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// Which silicon this is.
    Revision,
    /// Whether the controller runs, and how often it has started.
    ControllerStatus,
    /// The upper half of the address of a request.
    DoorbellHigh,
    /// The lower half, which starts it.
    DoorbellLow,
    /// Of an interface: the first event that its driver has not read.
    EventRead(u32),
    /// Of an interface: how long its interrupts are held back.
    EventTimer(u32),
    /// Of an interface: the end of its receive descriptors.
    ReceiveTail(u32),
    /// Of an interface: the end of its transmit descriptors.
    TransmitTail(u32),
}

impl Register {
    /// The register at this offset.
    pub(crate) fn at(offset: u64) -> Option<Register> {
        let interface = u32::try_from(offset / WINDOW).ok();
        let interface = interface.filter(|interface| *interface < INTERFACES)?;
        match (interface, offset % WINDOW) {
            (0, 0x000) => Some(Register::Revision),
            (0, 0x010) => Some(Register::ControllerStatus),
            (0, 0x200) => Some(Register::DoorbellHigh),
            (0, 0x204) => Some(Register::DoorbellLow),
            (of, 0x400) => Some(Register::EventRead(of)),
            (of, 0x420) => Some(Register::EventTimer(of)),
            (of, 0x830) => Some(Register::ReceiveTail(of)),
            // A descriptor that is pushed stands in front of it, and in memory as well.
            (of, 0xa18) => Some(Register::TransmitTail(of)),
            _ => None,
        }
    }
}
