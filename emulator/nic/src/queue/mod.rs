//! What carries frames from one plane to another, and their buffers: between the workers of a NIC (`cross_queue`), from them to
//! the one with the port (`port_queue`), and between a NIC and its hypervisor (`pf`). All are lock-free and bounded in frames
//! and bytes. Never judges a frame, and never waits.

mod cross_queue;
mod doorbell;
mod frame_queue;
mod pf;
mod pool;
mod port_queue;

pub(crate) use cross_queue::CrossQueues;
#[cfg(test)]
pub(crate) use cross_queue::QUEUE;
pub use cross_queue::worker_of;
pub use doorbell::Doorbell;
pub(crate) use frame_queue::{FrameQueue, cost};
#[cfg(test)]
pub(crate) use pf::PF_RING;
pub use pf::PfEnd;
pub(crate) use pf::{PF_RING_BYTES, PfFrame, PfItem};
pub use pool::{Frame, Pool};
pub(crate) use port_queue::{
    ForPort, PortQueueRx, PortQueueTx, VF_QUEUE, VF_QUEUE_BYTES, port_queues,
};
