//! A PCI function as its transport sees it, and the NIC as the function sees it. Knows no transport and no register.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use thiserror::Error;
use vf_model::{Counters, MailboxRequest, Policy, Refusal, VfIndex};
use vf_vhost::error::{MemoryError, RingError};
use vf_vhost::memory::GuestMemory;
use vf_vhost::vring::Vring;

use crate::msix::Vectors;

/// What a function says of itself in configuration space, for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Revision ID.
    pub revision: u8,
    /// Class code: base class, subclass and programming interface, from the highest byte to the lowest (0x020000: Ethernet).
    pub class: u32,
    /// Its base address registers.
    pub bars: &'static [Bar],
    /// Its MSI-X capability.
    pub msix: MsixLayout,
}

/// A base address register pair: 64-bit memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The first register of the pair, 0 to 4.
    pub index: u8,
    /// Bytes: a power of two, 4096 at least.
    pub size: u64,
    /// Whether reads have no side effects, so that a bridge may prefetch.
    pub prefetchable: bool,
}

/// Where the MSI-X table and the pending bits are (PCIe 7.7.2). The transport serves both; the function sees no access to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixLayout {
    /// Vectors, 1 to 2048.
    pub vectors: u16,
    /// The BAR with the table and the pending bits.
    pub bar: u8,
    /// Offset of the table, a multiple of 8.
    pub table: u32,
    /// Offset of the pending bits, a multiple of 8.
    pub pba: u32,
}

/// What a function has to work with.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The memory that it reaches by DMA, at the addresses that the driver gives it; `None` as long as it has none or is no bus master.
    pub memory: Option<Arc<GuestMemory>>,
    /// Its interrupts; the same for as long as the function is there.
    pub vectors: Arc<Vectors>,
}

/// Pages of a BAR that a hypervisor may map for its guest.
#[derive(Clone, Debug)]
pub struct SharedPages {
    /// The BAR.
    pub bar: u8,
    /// Where in it they begin.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// A file that is as long as the BAR.
    pub file: Arc<OwnedFd>,
}

/// The registers of a PCI function and what they do: the model of one family of virtual function.
///
/// A new one is as after power-on. All of it runs on one thread; what the data plane shares with it (rings, tail registers, vectors)
/// it gives away with its queues.
pub trait Function: Debug + Send {
    /// What it is.
    fn identity(&self) -> &'static Identity;

    /// Reads 1, 2, 4 or 8 bytes inside a BAR, at an offset that is a multiple of their number. All of `data` is to be written.
    fn read(&mut self, bar: u8, offset: u64, data: &mut [u8], host: &mut dyn Host);

    /// Writes 1, 2, 4 or 8 bytes inside a BAR, at an offset that is a multiple of their number.
    fn write(&mut self, bar: u8, offset: u64, data: &[u8], host: &mut dyn Host);

    /// Forgets what outlasts a [reset](Self::reset), which comes behind it: whoever was here has gone.
    fn forget(&mut self) {}

    /// Starts anew: after power-on, a function-level reset, a session's end. Stops its queues and forgets all that its driver made,
    /// here and in the NIC; keeps its [`Environment`].
    fn reset(&mut self, host: &mut dyn Host);

    /// Starts anew because the administrator of the NIC has it so, and tells the driver, who goes on with what it has set up of its interrupts.
    fn restart(&mut self, host: &mut dyn Host) {
        self.reset(host);
        self.changed(host);
    }

    /// Has this to work with from now on. Queues that use another memory are stopped and started again in this one, before the other is
    /// unmapped.
    fn set_environment(&mut self, environment: Environment, host: &mut dyn Host);

    /// How often the driver has spoken to its NIC so far, by whatever such functions have: a mailbox, a controller.
    fn messages(&self) -> u64;

    /// Makes the pages that a driver may write without a message, and in which the function [looks](Self::look) at what it has written: new ones
    /// for each guest. None, unless a family has registers that go together in pages.
    ///
    /// # Errors
    /// There is no memory for them, or no descriptor.
    fn share(&mut self) -> Result<Option<SharedPages>, MemoryError> {
        Ok(None)
    }

    /// Does what the driver has written into the pages that it shares.
    fn look(&mut self, _host: &mut dyn Host) {}

    /// The NIC is another one for its driver from now on: link, address, MTU, privileges, whatever [`Host::policy`] says. Tells the driver
    /// as the hardware does, if there is anything to tell.
    fn changed(&mut self, host: &mut dyn Host);
}

/// What a function asks of the NIC that it is a virtual function of.
pub trait Host {
    /// These queues run when this returns, over an even index a receive queue, over an odd one a transmit queue: queue pair q has 2q and 2q+1, as
    /// with vhost-user. None of them is running.
    fn start_queues(&mut self, queues: Vec<Vring>);

    /// Takes queues back, in this order; nobody touches them when this returns. `None` for one that is not running, because it was never
    /// started or is gone.
    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>>;

    /// Hears that the driver has enabled a queue that cannot be made of what it has said of it, and that stands still until it is set up anew. For
    /// functions whose driver does not hear it.
    fn cannot_run(&mut self, _queue: u32, _why: &RingError) {}

    /// Asks for something in the name of the driver. What a NIC of this family grants without its being in force is no error: what is in
    /// force, [`Host::policy`] says.
    ///
    /// # Errors
    /// What is not so now: all of the request, or a part of it (an address too many in a list).
    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted>;

    /// What has been said about the NIC: the truth about link, addresses, MTU, privileges and RSS.
    fn policy(&self) -> Arc<Policy>;

    /// Which VF of the NIC the function is.
    fn vf(&self) -> VfIndex;

    /// Rate of the NIC's port in Mb/s.
    fn speed_mbps(&self) -> u32;

    /// What has passed the VF's queues since the NIC started.
    fn counters(&self) -> Counters;
}

/// Why a request of a driver is not granted.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum NotGranted {
    /// The NIC refuses it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The driver asks more often than all NICs together can answer, and is not heard for a while.
    #[error("too many requests")]
    TooMany,
}
