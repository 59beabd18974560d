//! Every frame that passes a VF or arrives over a wire, as it is shown to whoever watches a host on the
//! virtual clock. Changes nothing that it sees.

use vf_model::{Gso, Nanos, VfIndex};

/// Where a frame was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Port {
    /// Between a guest and its VF.
    Vf(VfIndex),
    /// Where the NIC's cable is plugged in.
    Wire,
    /// Between the NIC and the hypervisor, and only what takes the slow path of a VF on path `auto`: from a guest, or towards
    /// one.
    Pf,
}

/// Which way a frame went, as the guest sees it, or as the NIC sees its wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the guest; in from the wire.
    Rx,
    /// From the guest. Nobody is shown what goes out to a wire: it is seen where it arrives.
    Tx,
}

/// A frame that was seen.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// When.
    pub at: Nanos,
    /// Index of the host.
    pub host: usize,
    /// Where.
    pub port: Port,
    /// Which way it went.
    pub direction: Direction,
    /// Its bytes, as many as the watcher has asked for: an L2 frame without FCS, as it was handed over. A frame that is still to
    /// be segmented is whole, and a checksum that is still to be completed is not there.
    pub frame: &'a [u8],
    /// How many bytes it has.
    pub len: usize,
    /// XXH3 of all of them (64 bits, no seed).
    pub xxh3: u64,
    /// How it is to be segmented, if it is.
    pub gso: Option<Gso>,
}

/// How much of each frame a watcher wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Its first bytes, as many as the NIC looks at.
    #[default]
    Head,
    /// All of it, which costs a copy.
    Whole,
}
