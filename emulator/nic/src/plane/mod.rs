//! The data path: the planes of a NIC, one a worker for its direct path and the hypervisor, each owned by exactly one thread (or by the
//! virtual clock). A ring belongs to one plane at a time; ownership moves, nothing is locked per packet. Planes take time as
//! an argument and never wait.

mod active_set;
mod backlog;
mod captures;
mod direct;
mod egress;
mod fair_queue;
mod guarantees;
mod hold;
mod impaired;
mod kicks;
mod mediated;
mod mirror;
mod moderation;
mod outside;
mod policy_cell;
mod port;
mod ports;
mod receivers;
mod rings;
mod statistics;
mod switch;
mod traffic;
mod wire_capture;

pub use captures::Captures;
pub use direct::DirectPlane;
pub use hold::{HeldPlanes, SavedFrame, WaitingFrame};
pub use mediated::MediatedPlane;
pub use mirror::Mirror;
pub use moderation::{Gap, Moderation};
pub use policy_cell::{PolicyCell, PolicySubscriber};
pub use port::Notified;
pub use rings::Rings;
pub use statistics::{
    DirectStatistics, MediatedStatistics, NetemCounts, PlaneStatistics, SavedStatistics,
    Statistics, UplinkStatistics,
};
pub use switch::switch_paths;
pub use traffic::{MAX_QUEUE_PAIRS, PairTraffic, Traffic};

#[cfg(test)]
mod tests;
