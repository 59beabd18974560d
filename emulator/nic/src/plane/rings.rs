//! How the rings of a VF come to a plane and leave it again. Never called while the plane is in a round.

use vf_model::{DropReason, Nanos, VfIndex};
use vf_vhost::vring::Vring;

/// What whoever moves rings needs of a plane.
pub trait Rings {
    /// Takes over a ring.
    fn attach(&mut self, vf: VfIndex, vring: Vring);
    /// Gives a ring up; afterwards nobody here touches it. `None` if the plane does not have it.
    fn detach(&mut self, now: Nanos, vf: VfIndex, ring: u32) -> Option<Vring>;
    /// Has what comes for `vf` wait from now on, within bounds, while its front end changes its rings: the plane goes on
    /// meanwhile, and the VF loses nothing by the change.
    fn begin_change(&mut self, vf: VfIndex);
    /// The rings of `vf` are as they are to be. What has waited is delivered, or dropped if there are none.
    fn end_change(&mut self, vf: VfIndex);
    /// Gives up the frames that wait for buffers of `vf`; they are counted as its drops.
    fn drop_backlog(&mut self, vf: VfIndex, reason: DropReason);
    /// Sends a frame on behalf of the guest of `vf`: it is judged as if that had sent it, and waits for nothing.
    fn send(&mut self, now: Nanos, vf: VfIndex, frame: &[u8]);
}
