//! The captures that are attached to a plane: hands them copies of the frames that pass their ports, and of those that are dropped
//! there. What passes the wire is shown as a wire has it: in segments, with its checksums. Costs a look at an empty list while there are none, and never waits.

use std::sync::{Arc, Weak};

use vf_model::{DropReason, Nanos, Path, Policy, Verdict, VfIndex, VfSet};
use vf_vhost::frame::{FrameBuf, TagEdit};

use super::receivers::FrameSource;
use crate::capture::{Capture, Captured, Wanted};
use crate::queue::{Frame, Pool};
use crate::uplink::{finish, segments};
use crate::watch::{Direction, Port};

/// See the module.
pub struct Captures {
    attached: Vec<Weak<Capture>>,
    /// Ports of which all frames are wanted.
    ports: Ports,
    /// When the plane's round began.
    now: Nanos,
    path: Path,
}

/// Some ports of a NIC.
#[derive(Clone, Copy, Default)]
struct Ports {
    vfs: VfSet,
    wire: bool,
    pf: bool,
}

impl Ports {
    fn insert(&mut self, port: Port) {
        match port {
            Port::Vf(vf) => self.vfs.insert(vf),
            Port::Wire => self.wire = true,
            Port::Pf => self.pf = true,
        }
    }

    fn contains(&self, port: Port) -> bool {
        match port {
            Port::Vf(vf) => self.vfs.contains(vf),
            Port::Wire => self.wire,
            Port::Pf => self.pf,
        }
    }
}

/// A frame at a port, and what is known of it there.
pub(super) struct Passing<'a> {
    pub(super) port: Port,
    pub(super) direction: Direction,
    pub(super) queue: Option<u16>,
    pub(super) frame: FrameSource<'a>,
    /// How it is changed on its way through the port.
    pub(super) edit: TagEdit,
    /// What was said of it, if it enters here.
    pub(super) verdict: Option<&'a Verdict>,
    pub(super) drop: Option<DropReason>,
}

impl Captures {
    /// None, of a plane of this path.
    pub(super) fn new(path: Path) -> Captures {
        Captures {
            attached: Vec::new(),
            ports: Ports::default(),
            now: Nanos(0),
            path,
        }
    }

    /// Shows `capture` what passes from now on, until it is closed.
    pub fn attach(&mut self, capture: &Arc<Capture>) {
        self.attached.push(Arc::downgrade(capture));
        self.note_ports();
    }

    fn note_ports(&mut self) {
        self.ports = Ports::default();
        for capture in self.attached.iter().filter_map(Weak::upgrade) {
            let wanted = capture.wanted();
            if !wanted.drops_only {
                let ports = wanted.ports.iter();
                ports.for_each(|port| self.ports.insert(*port));
            }
        }
    }

    /// Whether there are any.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        !self.attached.is_empty()
    }

    /// Whether any wants to see all frames of a port.
    #[inline]
    pub(super) fn wants(&self, port: Port) -> bool {
        self.is_on() && self.ports.contains(port)
    }

    /// Begins a round of the plane; those that are closed are forgotten.
    #[inline]
    pub(super) fn begin_round(&mut self, now: Nanos) {
        if self.is_on() {
            self.now = now;
            let is_open = |capture: &Weak<Capture>| {
                let capture = capture.upgrade();
                capture.is_some_and(|capture| !capture.is_closed())
            };
            if !self.attached.iter().all(is_open) {
                self.attached.retain(is_open);
                self.note_ports();
            }
        }
    }

    /// Shows a frame to those that want it.
    #[inline]
    pub(super) fn see(&self, policy: &Arc<Policy>, pool: &Pool, passing: &Passing<'_>) {
        if self.is_on() {
            self.show(policy, pool, passing);
        }
    }

    /// Shows a frame that is dropped to those that want only such: the others have seen it before.
    pub(super) fn see_drop(&self, policy: &Arc<Policy>, pool: &Pool, passing: &Passing<'_>) {
        if self.is_on() {
            self.show_if(policy, pool, passing, |wanted| wanted.drops_only);
        }
    }

    #[cold]
    fn show(&self, policy: &Arc<Policy>, pool: &Pool, passing: &Passing<'_>) {
        self.show_if(policy, pool, passing, |_| true);
    }

    fn show_if(
        &self,
        policy: &Arc<Policy>,
        pool: &Pool,
        passing: &Passing<'_>,
        is_meant: impl Fn(&Wanted) -> bool,
    ) {
        let attached = self.attached.iter().filter_map(Weak::upgrade);
        for capture in attached.filter(|capture| is_meant(capture.wanted())) {
            let unwanted = passing.drop.is_none() && capture.wanted().drops_only;
            let Some(interface) = capture.interface(passing.port).filter(|_| !unwanted) else {
                continue;
            };
            let judged = passing.verdict.is_some();
            if !capture.wants_now(interface, judged, self.now) {
                continue;
            }
            let leave = |mut frame: Frame, len: u32| {
                frame.data.truncate(capture.kept());
                capture.push(Captured {
                    at: self.now,
                    port: passing.port,
                    direction: passing.direction,
                    path: self.path_of(passing.port, policy),
                    queue: passing.queue,
                    frame,
                    len,
                    missed: 0,
                    verdict: passing.verdict.copied(),
                    drop: passing.drop,
                    policy: match (passing.verdict, passing.drop, capture.wanted().judged) {
                        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Some(Arc::clone(policy)),
                        _ => None,
                    },
                });
            };
            let is_judged_anew = passing.drop.is_some() || capture.wanted().judged.is_some();
            if passing.port == Port::Wire && passing.frame.is_unfinished() && !is_judged_anew {
                segments(passing.frame.copy(pool), pool, |mut segment, _| {
                    // One that cannot be finished is shown as it is.
                    let _ = finish(&mut segment);
                    let len = segment.len();
                    leave(segment, len);
                });
                continue;
            }
            let mut frame = passing
                .frame
                .copy_first(pool, capture.kept().saturating_add(4));
            let before = frame.data.len();
            frame.edit(passing.edit);
            let len = passing
                .frame
                .len()
                .saturating_add_signed(frame.data.len() as i32 - before as i32);
            leave(frame, len);
        }
    }

    /// Frames of a VF that are dropped without anybody having looked at them.
    #[cold]
    pub(super) fn miss(&self, vf: VfIndex, frames: u64) {
        let port = Port::Vf(vf);
        let attached = self.attached.iter().filter_map(Weak::upgrade);
        attached.for_each(|capture| capture.miss(port, frames));
    }

    /// What a driver of a VF has sent that is no frame.
    #[cold]
    pub(super) fn no_frame(
        &self,
        policy: &Arc<Policy>,
        pool: &Pool,
        vf: VfIndex,
        queue: u16,
        drop: DropReason,
    ) {
        let empty = FrameBuf::default();
        self.see(
            policy,
            pool,
            &Passing {
                port: Port::Vf(vf),
                direction: Direction::Tx,
                queue: Some(queue),
                frame: FrameSource::Private(&empty),
                edit: TagEdit::Keep,
                verdict: None,
                drop: Some(drop),
            },
        );
    }

    fn path_of(&self, port: Port, policy: &Policy) -> Option<Path> {
        match port {
            Port::Vf(vf) if self.path == Path::Direct && policy.auto().contains(vf) => {
                Some(Path::Auto)
            }
            Port::Vf(_) => Some(self.path),
            Port::Wire | Port::Pf => None,
        }
    }
}
