//! The device that the front end of a VF talks to, and the NIC that a PCI function is a part of: hands rings to the plane of the VF's path, takes
//! them back, and asks for what the driver asks for. Reads no message.

use std::fmt::Display;
use std::sync::Arc;

use vf_model::{
    Counters, DropReason, Granted, MacAddr, MailboxRequest, Mtu, Path, Policy, Refusal, RxFilter,
    VfIndex, VfRequest,
};
use vf_packet::rarp;
use vf_pci::function::{Host, NotGranted};
use vf_pci::pcidev;
use vf_pci::vfio_user::endpoint::{Attendant, EndReason, SessionEvent as FunctionEvent};
use vf_vhost::control::CtrlCommand;
use vf_vhost::endpoint::{Device, SessionEvent, SessionRefusal};
use vf_vhost::error::RingError;
use vf_vhost::features::VirtioFeatures;
use vf_vhost::vring::Vring;

use super::{publish, put_in_force};
use crate::capture::event::{Audience, Happening};
use crate::clock::Clock;
use crate::ctrl_queue::{self, CommandLimiter};
use crate::plane::{DirectPlane, MediatedPlane, PolicyCell, Rings, Statistics};
use crate::qmp::Monitor;
use crate::queue::worker_of;
use crate::thread::PlaneHandle;

/// The device that a VF's front end talks to: hands rings to the plane of the VF's path and takes them back.
pub(super) struct VfDevice<'a> {
    /// Whether the plane has been told that the rings change. What comes for the VF meanwhile waits.
    pub(super) changing: bool,
    pub(super) nic: &'a str,
    pub(super) vf: VfIndex,
    pub(super) workers: &'a [PlaneHandle<DirectPlane>],
    pub(super) hypervisor: &'a PlaneHandle<MediatedPlane>,
    pub(super) policies: &'a PolicyCell,
    pub(super) statistics: &'a Statistics,
    pub(super) path: Path,
    pub(super) rings: &'a mut u16,
    pub(super) fault: &'a mut Option<String>,
    pub(super) requests: &'a mut u64,
    pub(super) refused: &'a mut u64,
    pub(super) pace: &'a mut CommandLimiter,
    pub(super) monitor: &'a mut Option<Monitor>,
    pub(super) clock: &'a Clock,
    pub(super) audience: &'a Audience,
}

impl<'a> VfDevice<'a> {
    /// Which of the workers serves the VF.
    fn worker(&self) -> usize {
        worker_of(self.vf, self.workers.len())
    }

    /// Has the plane of the VF's path do this when it gets to it.
    fn post(&self, job: impl FnOnce(&mut dyn Rings) + Send + 'static) {
        match self.path {
            Path::Direct | Path::Auto => self.workers[self.worker()].post(|plane| job(plane)),
            Path::Mediated => self.hypervisor.post(|plane| job(plane)),
        }
    }

    /// Has the plane of the VF's path do this, and waits for it.
    fn call<R: Send + 'static>(&self, job: impl FnOnce(&mut dyn Rings) -> R + Send + 'static) -> R {
        match self.path {
            Path::Direct | Path::Auto => self.workers[self.worker()].call(|plane| job(plane)),
            Path::Mediated => self.hypervisor.call(|plane| job(plane)),
        }
    }

    /// What has the plane take rings in.
    fn starting(&mut self, rings: Vec<Vring>) -> impl FnOnce(&mut dyn Rings) + Send + use<> {
        *self.rings += rings.len() as u16;
        self.changing = false;
        let vf = self.vf;
        move |plane| {
            for vring in rings {
                plane.attach(vf, vring);
            }
            plane.end_change(vf);
        }
    }

    /// Does what `request` makes of what the driver has asked for before, as far as it may have that. No plane stops for it.
    fn grant(
        &self,
        request: impl FnOnce(&RxFilter) -> Result<Option<VfRequest>, Refusal>,
    ) -> Result<(), Refusal> {
        let before = self.policies.load();
        if let Some(request) = request(before.asked(self.vf))? {
            let Granted { policy, denied } = before.with_request(self.vf, &request)?;
            if policy.version() != before.version() {
                publish(self.policies, policy, self.workers, self.hypervisor);
            }
            if let Some(why) = denied {
                return Err(why);
            }
        }
        Ok(())
    }

    /// A driver that asks again and again fills no log.
    fn log_refusal(&self, request: &dyn Display, why: &dyn Display) {
        let device = format!("{} {}", self.nic, self.vf);
        let device = device.as_str();
        match *self.refused {
            0 => tracing::warn!(device, %request, %why, "the driver is refused a request"),
            _ => tracing::debug!(device, %request, %why, "the driver is refused a request"),
        }
    }

    /// The session is over, for this reason if its front end has done something wrong.
    fn left(&mut self, fault: Option<String>) {
        let vf = self.vf;
        *self.fault = fault;
        self.note_migration(false);
        self.forget_driver(VirtioFeatures::empty());
        self.post(move |plane| plane.drop_backlog(vf, DropReason::RingDisabled));
    }

    /// The migration of the guest begins, or is over. Nothing waits for that: a flow goes back to the slow path at any time.
    fn note_migration(&self, migrating: bool) {
        if let Some(policy) = self.policies.load().with_migrating(self.vf, migrating) {
            publish(self.policies, policy, self.workers, self.hypervisor);
        }
    }

    /// Forgets what a driver asked for. The next one has these `features`, if it has a control queue.
    fn forget_driver(&mut self, features: VirtioFeatures) {
        let reset = VfRequest::Reset {
            lists_groups: features.contains(VirtioFeatures::CTRL_RX),
            lists_vlans: features.contains(VirtioFeatures::CTRL_VLAN),
        };
        // Never refused.
        let _ = self.grant(|_| Ok(Some(reset)));
    }
}

impl Device for VfDevice<'_> {
    fn start_rings(&mut self, rings: Vec<Vring>) {
        // A driver that reads that a queue is enabled may have frames in it at once; and one whose command has chosen how many it
        // uses is to have the next frame where all that follow are.
        let start = self.starting(rings);
        self.call(start);
    }

    fn stop_rings(&mut self, rings: &[u32]) -> Vec<Option<Vring>> {
        self.changing = true;
        let (vf, now, rings) = (self.vf, self.clock.now(), rings.to_vec());
        let vrings = self.call(move |plane| {
            plane.begin_change(vf);
            let stop = |&ring: &u32| plane.detach(now, vf, ring);
            rings.iter().map(stop).collect::<Vec<_>>()
        });
        *self.rings -= vrings.iter().flatten().count() as u16;
        vrings
    }

    fn allows(&mut self) -> bool {
        let allowed = self.pace.allows(self.clock.now());
        *self.refused += u64::from(!allowed);
        allowed
    }

    fn command(&mut self, command: &CtrlCommand) -> bool {
        if !self.allows() {
            return false;
        }
        let Err(why) = self.grant(|asked| ctrl_queue::request(command, asked)) else {
            return true;
        };
        self.log_refusal(command, &why);
        *self.refused += 1;
        false
    }

    fn session(&mut self, event: SessionEvent<'_>) {
        let vf = self.vf;
        if let Some(what) = happening(vf, &event) {
            self.audience.tell(self.clock.now(), || what);
        }
        match event {
            // The endpoint logs it.
            SessionEvent::Connected => *self.refused = 0,
            SessionEvent::Negotiated { features } => {
                self.forget_driver(VirtioFeatures::empty());
                let device = format!("{} {vf}", self.nic);
                let features = format_args!("{features:#x}");
                tracing::info!(device, %features, "driver acknowledged features");
                if let Some(monitor) = &mut self.monitor {
                    monitor.look_again();
                }
            }
            SessionEvent::Controlled { features } => self.forget_driver(features),
            SessionEvent::Mtu(mtu) => {
                if let Ok(mtu) = Mtu::new(mtu.into()) {
                    // Never refused.
                    let _ = self.grant(|_| Ok(Some(VfRequest::Mtu(mtu))));
                }
            }
            SessionEvent::Reset => self.forget_driver(VirtioFeatures::empty()),
            SessionEvent::Logging(on) => self.note_migration(on),
            SessionEvent::Announce(mac) => {
                let (now, frame) = (self.clock.now(), rarp::announcement(MacAddr(mac)));
                self.post(move |plane| plane.send(now, vf, &frame));
            }
            SessionEvent::Disconnected { why } => {
                use SessionRefusal as R;
                let fault = why.filter(|why| !matches!(why, R::Closed | R::Socket(_)));
                self.left(fault.map(ToString::to_string));
            }
            // The endpoint has logged what was refused.
            _ => {}
        }
    }
}

impl Host for VfDevice<'_> {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        self.start_rings(queues);
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        self.stop_rings(queues)
    }

    fn cannot_run(&mut self, queue: u32, why: &RingError) {
        let device = format!("{} {}", self.nic, self.vf);
        tracing::warn!(device, ring = queue, %why, "ring is broken until its driver restarts it");
        self.audience
            .tell(self.clock.now(), || Happening::RingBroken {
                vf: self.vf.0,
                ring: queue,
                why: why.to_string(),
            });
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        *self.requests += 1;
        // That a driver is gone is always heard, and costs nothing if it had asked for nothing.
        let reset = matches!(request, MailboxRequest::Change(VfRequest::Reset { .. }));
        if !reset && !self.allows() {
            return Err(NotGranted::TooMany);
        }
        let before = self.policies.load();
        let done = before.with_message(self.vf, request).and_then(|granted| {
            let Granted { policy, denied } = granted;
            if policy.version() != before.version() {
                put_in_force(
                    self.policies,
                    policy,
                    self.workers,
                    self.hypervisor,
                    self.clock.now(),
                );
            }
            denied.map_or(Ok(()), Err)
        });
        done.map_err(|why| {
            self.log_refusal(request, &why);
            *self.refused += 1;
            why.into()
        })
    }

    fn policy(&self) -> Arc<Policy> {
        self.policies.load()
    }

    fn vf(&self) -> VfIndex {
        self.vf
    }

    fn speed_mbps(&self) -> u32 {
        u32::try_from(self.statistics.port_rate() / 1_000_000).unwrap_or(u32::MAX)
    }

    fn counters(&self) -> Counters {
        let mut both = self.statistics.direct(self.vf);
        both += &self.statistics.mediated(self.vf);
        both
    }
}

impl Attendant for VfDevice<'_> {
    fn session(&mut self, event: FunctionEvent<'_>) {
        let vf = self.vf.0;
        let what = match &event {
            FunctionEvent::Connected => Happening::Attached { vf },
            FunctionEvent::Refused { what } => Happening::Refused {
                vf,
                why: what.to_string(),
            },
            FunctionEvent::Disconnected { why } => Happening::Left {
                vf,
                why: why.map(ToString::to_string),
            },
        };
        self.audience.tell(self.clock.now(), || what);
        match event {
            FunctionEvent::Connected => (*self.requests, *self.refused) = (0, 0),
            FunctionEvent::Refused { .. } => {}
            FunctionEvent::Disconnected { why } => {
                use SessionRefusal as R;
                let ours =
                    |why: &&EndReason| !matches!(why, EndReason::Socket(R::Closed | R::Socket(_)));
                self.left(why.filter(ours).map(ToString::to_string));
            }
        }
    }
}

/// What of a session others are told.
fn happening(vf: VfIndex, event: &SessionEvent<'_>) -> Option<Happening> {
    let vf = vf.0;
    Some(match event {
        SessionEvent::Connected => Happening::Attached { vf },
        SessionEvent::Negotiated { features } => Happening::Driver {
            vf,
            features: format!("{features:#x}"),
        },
        SessionEvent::Refused { what } => Happening::Refused {
            vf,
            why: what.to_string(),
        },
        SessionEvent::Disconnected { why } => Happening::Left {
            vf,
            why: why.map(ToString::to_string),
        },
        _ => return None,
    })
}

impl Drop for VfDevice<'_> {
    fn drop(&mut self) {
        if self.changing {
            let vf = self.vf;
            self.post(move |plane| plane.end_change(vf));
        }
    }
}

impl pcidev::endpoint::Attendant for VfDevice<'_> {
    fn session(&mut self, event: SessionEvent<'_>) {
        Device::session(self, event);
    }
}
