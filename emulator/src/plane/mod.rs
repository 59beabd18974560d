//! The data path: the planes of a host, an adapter a worker and the hypervisor, each owned by exactly one thread (or by the
//! virtual clock). A ring belongs to one plane at a time; ownership moves, nothing is locked per packet. Planes take time as
//! an argument and never wait.

mod adapter;
mod attention;
mod backlog;
mod doorbell;
mod handover;
mod hypervisor;
mod kicks;
mod load;
mod mirror;
mod moderation;
mod owner;
mod pf;
mod pool;
mod port;
mod relay;
mod sinks;
mod spin;
mod switch;
mod tap;
mod traffic;
mod turns;
mod uplink;
mod wire;

pub use adapter::Adapter;
pub use doorbell::Doorbell;
pub use handover::worker_of;
pub use hypervisor::Hypervisor;
pub use load::Load;
pub use mirror::Mirror;
pub use moderation::{Gap, Moderation};
pub use owner::{Borrowed, Owner, Plane};
pub use pf::PfEnd;
pub use pool::Pool;
pub use port::{Notified, RingBroken};
pub use relay::Relay;
pub use switch::{apply, request};
pub use tap::Tap;
pub use traffic::{PairTraffic, Traffic};
pub use uplink::Uplink;
pub use wire::WireEnd;

#[cfg(test)]
mod tests;
