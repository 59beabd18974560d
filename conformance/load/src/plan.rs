//! What one run of the load generator does. Runs nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Who sends to whom.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mode {
    /// Ports 0, 2, ... send to 1, 3, ...
    Oneway,
    /// Both ports of each pair send to the other.
    Bidir,
    /// Port i sends to port i + 1, the last to the first.
    Ring,
    /// All ports send to port 0.
    #[value(alias = "fan-in")]
    Fanin,
    /// One frame is in flight between ports 0 and 1: the time of the round trip.
    Pingpong,
    /// All ports send, none receives.
    Drain,
    /// All ports receive whatever comes, none sends.
    Sink,
}

impl Mode {
    /// The port that frames of `port` go to, of `ports` ports (at least 2, unless it drains or is
    /// a sink).
    pub(crate) fn destination(self, port: usize, ports: usize) -> Option<usize> {
        let peer = if port ^ 1 < ports { port ^ 1 } else { port };
        match self {
            Mode::Sink => None,
            Mode::Oneway => (port.is_multiple_of(2) && peer != port).then_some(peer),
            Mode::Ring => Some((port + 1) % ports),
            Mode::Fanin => (port > 0).then_some(0),
            Mode::Bidir | Mode::Pingpong => (peer != port).then_some(peer),
            Mode::Drain => Some(peer),
        }
    }
}

/// Which part of a frame the generator writes when it sends and reads when it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Touch {
    /// Nothing: frames go out as they lie in memory, what comes is only counted.
    None,
    /// The first 64 bytes, as a guest's stack would at least.
    Head,
    /// Every byte, checked on arrival.
    All,
}

/// Which features a driver negotiates, as DPDK's virtio-user names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Layout {
    /// In order, one buffer a frame (`in_order=1,mrg_rxbuf=0`): the fastest.
    Vec,
    /// Mergeable receive buffers (`mrg_rxbuf=1,in_order=0`): what Linux negotiates.
    Mrg,
    /// Neither (`mrg_rxbuf=0,in_order=0`).
    Nomrg,
    /// Both (`mrg_rxbuf=1,in_order=1`).
    Inorder,
}

impl Layout {
    /// Whether `VIRTIO_F_IN_ORDER` is part of it.
    pub(crate) fn in_order(self) -> bool {
        matches!(self, Layout::Vec | Layout::Inorder)
    }

    /// Whether `VIRTIO_NET_F_MRG_RXBUF` is part of it.
    pub(crate) fn mergeable(self) -> bool {
        matches!(self, Layout::Mrg | Layout::Inorder)
    }
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct LoadPlan {
    pub(crate) mode: Mode,
    /// Ports that take part, the first of all.
    pub(crate) ports: usize,
    /// Bytes a frame, without FCS.
    pub(crate) size: usize,
    /// Flows a port.
    pub(crate) flows: u32,
    pub(crate) vlan: Option<u16>,
    /// Most frames that are sent at once.
    pub(crate) burst: u16,
    /// Frames a second in all; `None`: as fast as it goes.
    pub(crate) rate: Option<f64>,
    pub(crate) touch: Touch,
    /// Bits a second of the wire between even and odd ports, if there is one.
    pub(crate) wire: Option<f64>,
    pub(crate) warm_up: Duration,
    pub(crate) seconds: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_to_whom() {
        let all = |mode: Mode, ports| {
            (0..ports)
                .map(|port| mode.destination(port, ports))
                .collect::<Vec<_>>()
        };
        assert_eq!(all(Mode::Oneway, 4), [Some(1), None, Some(3), None]);
        assert_eq!(all(Mode::Oneway, 3), [Some(1), None, None]);
        assert_eq!(all(Mode::Bidir, 3), [Some(1), Some(0), None]);
        assert_eq!(all(Mode::Ring, 3), [Some(1), Some(2), Some(0)]);
        assert_eq!(all(Mode::Fanin, 3), [None, Some(0), Some(0)]);
        assert_eq!(all(Mode::Drain, 3), [Some(1), Some(0), Some(2)]);
        assert_eq!(all(Mode::Sink, 2), [None, None]);
    }
}
