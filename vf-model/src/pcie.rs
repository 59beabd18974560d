//! The bus of a NIC, which bounds what passes from VF to VF: each such frame is read from the sender's memory and written to the
//! receiver's. Figures of time only, for the virtual clock.

use std::fmt;

use crate::link::LinkConfig;
use crate::time::Nanos;

/// From the read of a frame to its being in the receiver's memory. An order of magnitude, the same for all families: a DMA read of
/// a few hundred bytes takes half a microsecond to one on servers (Neugebauer and others, Understanding PCIe performance for end
/// host networking, SIGCOMM 2018), and a write is posted.
const DMA_LATENCY: Nanos = Nanos(1_000);

/// Generation and lanes, of the families' first chips; where a later one of a family has more, the first is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pcie {
    /// Of the 82576: "PCIe v2.0 (2.5 GT/s) x4" (Intel's 82576EB datasheet, revision 2.7, product features). Generation 1's rate
    /// in a link of generation 2; an I350's lanes are twice as fast.
    Gen1X4,
    /// Of the SFC4000. From memory: no data sheet of it was found.
    Gen1X8,
    /// Of Siena: "8 lanes of PCIe Gen2" (DPDK's common/sfc_efx/base/siena_nic.c). Of the 82599: "PCIe Base Specification 2.0 (2.5GT/s)
    /// or (5GT/s)", x8 at most (Intel's 82599 datasheet, 331520-001, product features).
    Gen2X8,
    /// Of Huntington: "a PCIe Gen3, 8 lane connector" (hunt_nic.c there), and of its successors. Linux's i40e warns of anything less
    /// than eight lanes of 8 GT/s (i40e_main.c). Of ConnectX-4 Lx: 8.0 GT/s, x8 (NVIDIA's manual of the card, "PCI Express Interface").
    Gen3X8,
}

impl Pcie {
    /// Bits a second one way after line coding: 8b/10b until generation 2, 128b/130b from 3 on. What transaction layer packets take
    /// of that is left out, so that it is an upper bound.
    fn rate_bps(self) -> u64 {
        match self {
            Pcie::Gen1X4 => 8_000_000_000,
            Pcie::Gen1X8 => 16_000_000_000,
            Pcie::Gen2X8 => 32_000_000_000,
            Pcie::Gen3X8 => 8 * 8_000_000_000 / 130 * 128,
        }
    }

    pub(crate) fn loopback(self) -> LinkConfig {
        LinkConfig {
            rate_bps: self.rate_bps(),
            propagation: DMA_LATENCY,
        }
    }
}

impl fmt::Display for Pcie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pcie::Gen1X4 => "1.1 x4",
            Pcie::Gen1X8 => "1.1 x8",
            Pcie::Gen2X8 => "2.0 x8",
            Pcie::Gen3X8 => "3.0 x8",
        })
    }
}
