//! The data path: the planes of a NIC, one a worker for its direct path and the hypervisor, each owned by exactly one thread (or by the
//! virtual clock). A ring belongs to one plane at a time; ownership moves, nothing is locked per packet. Planes take time as
//! an argument and never wait.

mod active_set;
mod backlog;
mod busy_poll;
mod cross_queue;
mod direct;
mod doorbell;
mod egress;
mod fair_queue;
mod frame_queue;
mod handle;
mod kicks;
mod load;
mod mediated;
mod mirror;
mod moderation;
mod outside;
mod pf;
mod policy_cell;
mod pool;
mod port;
mod port_queue;
mod ports;
mod receivers;
mod statistics;
mod switch;
mod thread;
mod traffic;

pub use busy_poll::Polling;
pub use cross_queue::worker_of;
pub use direct::DirectPlane;
pub use doorbell::Doorbell;
pub(crate) use frame_queue::cost;
pub use handle::{Plane, PlaneGuard, PlaneHandle};
pub use load::{LiveLoad, Load};
pub use mediated::MediatedPlane;
pub use mirror::Mirror;
pub use moderation::{Gap, Moderation};
pub use pf::PfEnd;
pub use policy_cell::{PolicyCell, PolicySubscriber};
pub use pool::{Frame, Pool};
pub use port::{Notified, RingBroken};
pub use statistics::{
    AdapterStatistics, HypervisorStatistics, PlaneStatistics, Statistics, UplinkStatistics,
};
pub use switch::switch_paths;
pub use thread::DataThread;
pub use traffic::{PairTraffic, Traffic};

#[cfg(test)]
mod tests;
