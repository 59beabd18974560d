//! One host: a NIC, its hypervisor, and the sockets of its VFs. Knows which plane has which rings and moves them; judges
//! no frame and waits on nothing.

use std::collections::HashMap;
use std::sync::Arc;

use vf_model::{
    Command, DriverFilter, FastEvent, Flap, LinkSetting, Nanos, NumberedFilter, Path, Policy,
    VfIndex,
};
use vf_vhost::control::Coalescing;
use vf_vhost::endpoint::{Device, DeviceConfig, Endpoint};

pub use self::planes::Planes;
pub use self::socket::VfSocket;
use self::vf_device::VfDevice;
use crate::capture::event::{Audience, Happening};
use crate::capture::{Budget, Capture, Wanted};
use crate::clock::Clock;
use crate::config::NicSettings;
use crate::ctrl_queue::CommandLimiter;
use crate::plane::{self, DirectPlane, MediatedPlane, PolicyCell, Statistics};
use crate::qmp::Monitor;
use crate::queue::{Doorbell, Pool};
use crate::tap_port::TapPort;
use crate::thread::PlaneHandle;
use crate::watch::Direction;

mod guests;
mod handover;
mod monitors;
mod planes;
mod socket;
mod taps;
mod vf_device;

/// A NIC with everything around it.
pub struct NicInstance {
    /// Its configuration.
    pub settings: NicSettings,
    /// The direct path, by worker: one at least, and the first has the port.
    pub workers: Vec<PlaneHandle<DirectPlane>>,
    /// The mediated path.
    pub hypervisor: PlaneHandle<MediatedPlane>,
    /// What both judge by.
    policies: PolicyCell,
    /// What both count, to be read while they do.
    pub statistics: Statistics,
    /// One for each VF.
    pub vfs: Vec<Vf>,
    /// Index of the NIC at the other end of its wire.
    pub peer: Option<usize>,
    /// Since when the cable comes and goes, and how, if it does.
    flapping: Option<(Nanos, Flap)>,
    clock: Clock,
    audience: Audience,
    captured: Budget,
    pool: Pool,
}

/// The control side of one VF.
#[derive(Default)]
pub struct Vf {
    /// Its socket, once it is served.
    pub socket: Option<VfSocket>,
    /// Sessions and refusals of sockets that it had before this one.
    before: [u64; 2],
    /// The tap that is on it in place of a VM, if one is.
    tap: Option<TapPort>,
    /// Which plane its rings are with.
    path: Path,
    /// Started rings.
    rings: u16,
    /// What the front end did wrong, if its last session has ended for that.
    pub fault: Option<String>,
    /// What its driver asked for over registers, since the client connected.
    requests: u64,
    /// What its driver asked for and did not get, since the front end connected.
    refused: u64,
    /// How many commands it gives.
    pace: CommandLimiter,
    /// The monitor of its guest's QEMU, if that is known.
    pub monitor: Option<Monitor>,
}

impl NicInstance {
    /// A host whose planes are owned as given. Its sockets are served by whoever sets [`Vf::socket`].
    #[must_use]
    pub fn new(
        settings: NicSettings,
        workers: Vec<PlaneHandle<DirectPlane>>,
        hypervisor: PlaneHandle<MediatedPlane>,
        policies: PolicyCell,
        clock: Clock,
    ) -> NicInstance {
        let vfs = usize::from(settings.vfs);
        let pool = hypervisor.borrow().pool().clone();
        let statistics = Statistics {
            workers: workers.iter().map(|a| a.borrow().statistics()).collect(),
            hypervisor: hypervisor.borrow().statistics(),
        };
        let mut host = NicInstance {
            settings,
            workers,
            hypervisor,
            policies,
            statistics,
            vfs: std::iter::repeat_with(Vf::default).take(vfs).collect(),
            peer: None,
            flapping: None,
            clock,
            audience: Audience::default(),
            captured: Budget::default(),
            pool,
        };
        host.note_paths();
        host.note_flap();
        host
    }

    /// What has been said about the NIC.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.policies.load()
    }

    /// Captures frames and events of the NIC from now on: what passes after this is seen. `bell` wakes whoever writes them.
    #[must_use]
    pub fn capture(&self, wanted: Wanted, bell: Doorbell) -> Arc<Capture> {
        let (pool, budget) = (self.pool.clone(), self.captured.clone());
        let capture = Capture::new(wanted, self.vfs.len(), bell, pool, budget);
        for worker in &self.workers {
            let capture = Arc::clone(&capture);
            worker.call(move |plane| plane.captures_mut().attach(&capture));
        }
        let there = Arc::clone(&capture);
        self.hypervisor
            .call(move |plane| plane.captures_mut().attach(&there));
        self.audience.add(&capture);
        capture
    }

    /// How many captures administrators have.
    #[must_use]
    pub fn captures(&self) -> usize {
        self.audience.of_administrators()
    }

    /// Tells those who capture what has happened.
    pub fn tell(&self, what: impl FnOnce() -> Happening) {
        self.audience.tell(self.clock.now(), what);
    }

    /// Nanoseconds of UNIX time at which the NIC's clock began.
    #[must_use]
    pub fn began(&self) -> u64 {
        self.clock.began()
    }

    fn note_paths(&mut self) {
        let policy = self.policies.load();
        for (i, vf) in self.vfs.iter_mut().enumerate() {
            vf.path = policy.vf(VfIndex::from(i)).path;
        }
    }

    /// Tells those who capture which VFs have changed paths.
    fn tell_paths(&self) {
        let policy = self.policies.load();
        for (i, vf) in self.vfs.iter().enumerate() {
            let path = policy.vf(VfIndex::from(i)).path;
            if path != vf.path {
                self.tell(|| Happening::Path { vf: i as u8, path });
            }
        }
    }

    /// The first worker's plane, which has the port. On the virtual clock there is no other.
    #[must_use]
    pub fn worker(&self) -> &PlaneHandle<DirectPlane> {
        &self.workers[0]
    }

    /// What the front end of a VF is told about the device.
    #[must_use]
    pub fn device_config(&self, vf: VfIndex) -> DeviceConfig {
        self.device_config_by(&self.policy(), vf)
    }

    /// What it is told by this policy, which is to be in force.
    #[must_use]
    pub fn device_config_by(&self, policy: &Policy, vf: VfIndex) -> DeviceConfig {
        let name = format!("{} {vf}", self.settings.name);
        let mac = policy.vf(vf).mac.0;
        let mut config = DeviceConfig::new(name, mac, self.settings.queue_pairs);
        config.features -= self.settings.offloads.withheld();
        config.mtu = policy.told_mtu(vf).get();
        config.link_up = policy.link_up_for(vf);
        let rate = self.statistics.port_rate();
        config.speed_mbps = u32::try_from(rate / 1_000_000).unwrap_or(u32::MAX);
        config
    }

    /// Lets `serve` run the socket of a VF that is a virtio device, with the device behind it.
    pub fn serve<R>(
        &mut self,
        vf: VfIndex,
        serve: impl FnOnce(&mut Endpoint, &mut dyn Device) -> R,
    ) -> Option<R> {
        let (socket, mut device) = self.attended(vf)?;
        match socket {
            VfSocket::VhostUser(endpoint) => Some(serve(endpoint, &mut device)),
            VfSocket::VfioUser(_) | VfSocket::Pcidev(_) => None,
        }
    }

    /// A VF's socket, and who is behind it.
    fn attended(&mut self, vf: VfIndex) -> Option<(&mut VfSocket, VfDevice<'_>)> {
        let NicInstance {
            settings,
            workers,
            hypervisor,
            policies,
            statistics,
            vfs,
            clock,
            audience,
            ..
        } = self;
        let Vf {
            socket,
            before: _,
            tap: _,
            path,
            rings,
            fault,
            requests,
            refused,
            pace,
            monitor,
        } = vfs.get_mut(vf.index())?;
        let device = VfDevice {
            changing: false,
            nic: &settings.name,
            vf,
            workers,
            hypervisor,
            policies,
            statistics,
            path: *path,
            rings,
            fault,
            requests,
            refused,
            pace,
            monitor,
            clock,
            audience,
        };
        Some((socket.as_mut()?, device))
    }

    /// Puts a policy in force that has been made of the one that is, while traffic runs, and says in a line each what guests
    /// cannot be shown of it. No plane stops for it unless frames could be overtaken otherwise: a VF's path
    /// changes, or a filter puts frames of one on path `auto` on the fast path.
    pub fn set_policy(&mut self, policy: Policy) -> Vec<String> {
        let before = self.policies.load();
        let now = self.clock.now();
        put_in_force(&self.policies, policy, &self.workers, &self.hypervisor, now);
        self.tell_paths();
        self.note_paths();
        self.note_flap();
        self.show_guests(&before)
    }

    /// Begins with how the cable is to come and go, if that has changed.
    fn note_flap(&mut self) {
        let flap = self.policies.load().flap();
        if flap != self.flapping.map(|(_, flap)| flap) {
            self.flapping = flap.map(|flap| (self.clock.now(), flap));
        }
    }

    /// When the cable next comes out of the port or goes in again.
    #[must_use]
    pub fn flap_at(&self) -> Option<Nanos> {
        let (began, flap) = self.flapping?;
        let (_, change) = flap.at(self.clock.now().saturating_sub(began));
        Some(began + change)
    }

    /// What makes the cable be in the port or out of it as it is to be now, if it is not.
    #[must_use]
    pub fn flap_due(&self) -> Option<Command> {
        let (began, flap) = self.flapping?;
        let (out, _) = flap.at(self.clock.now().saturating_sub(began));
        let due = out != self.policies.load().is_cable_out();
        due.then(|| Command::SetLink(vec![LinkSetting::Flapped(!out)]))
    }

    /// Lets path `auto` learn from what planes have seen; whether it has.
    pub fn learn(&mut self, events: &[FastEvent]) -> bool {
        let Some(policy) = self.policies.load().with_events(events) else {
            return false;
        };
        publish(&self.policies, policy, &self.workers, &self.hypervisor);
        // The flow waits for a marker that the plane is to send.
        self.worker().wake();
        true
    }

    /// Says to a NIC and its peer at the other end of the wire whether the cable between them carries: whether the port at
    /// the other end is up. No plane stops for it. A line for each guest that cannot be shown.
    pub fn share_carrier(&mut self, peer: &mut NicInstance) -> Vec<String> {
        let mut notes = peer.set_carrier(self.policy().shows_carrier());
        notes.extend(self.set_carrier(peer.policy().shows_carrier()));
        notes
    }

    /// Says to a NIC whether the cable in its port carries. No plane stops for it. A line for each guest that cannot be shown.
    pub fn set_carrier(&mut self, carrier: bool) -> Vec<String> {
        let before = self.policies.load();
        let Some(policy) = before.with_carrier(carrier) else {
            return Vec::new();
        };
        publish(&self.policies, policy, &self.workers, &self.hypervisor);
        let device = self.settings.name.as_str();
        tracing::info!(device, "{}", if carrier { "carrier" } else { "no carrier" });
        self.tell(|| Happening::Carrier { up: carrier });
        let notes = self.show_guests(&before);
        let name = &self.settings.name;
        notes.iter().map(|note| format!("{name}: {note}")).collect()
    }

    /// The NIC's filters, those that win first, with the VF whose driver has put it in, if one has, and the frames that each has decided on.
    #[must_use]
    pub fn filters(&self) -> Vec<(NumberedFilter, Option<VfIndex>, Option<u64>)> {
        let policy = self.policies.load();
        let mut of_drivers = HashMap::new();
        for vf in (0..policy.num_vfs()).map(VfIndex::from) {
            let own = policy.driver_filters(vf).iter();
            let own = own.filter(|filter| filter.is_in_table());
            let counters = own.filter_map(|filter| policy.driver_filter_counter(vf, filter));
            of_drivers.extend(counters.map(|counter| (counter, vf)));
        }
        let filters = policy.all_filters().numbered();
        filters
            .map(|filter| {
                let counter = policy.filter_counter(&filter);
                let driver = counter.and_then(|counter| of_drivers.get(&counter).copied());
                let hits = counter.map(|counter| self.statistics.hits(counter));
                (filter, driver, hits)
            })
            .collect()
    }

    /// Filters that drivers have for frames which their VFs receive, and that lie in no table of the NIC, likewise.
    #[must_use]
    pub fn driver_filters(&self) -> Vec<(VfIndex, DriverFilter, Option<u64>)> {
        let policy = self.policies.load();
        let mut all = Vec::new();
        for vf in (0..policy.num_vfs()).map(VfIndex::from) {
            let own = policy.driver_filters(vf).iter();
            for filter in own.filter(|filter| !filter.is_in_table()) {
                let counter = policy.driver_filter_counter(vf, filter);
                let hits = counter.map(|counter| self.statistics.hits(counter));
                all.push((vf, *filter, hits));
            }
        }
        all
    }

    /// How long the driver of a VF wants calls of a ring to be held back, if it has said.
    #[must_use]
    pub fn coalescing(&self, vf: VfIndex, ring: u32) -> Option<Coalescing> {
        self.vfs.get(vf.index())?.endpoint()?.coalescing(ring)
    }

    /// Frames that have passed a VF's rings in one direction.
    #[must_use]
    pub fn packets(&self, vf: VfIndex, direction: Direction) -> u64 {
        let queues = self.statistics.traffic(vf).into_iter().flatten();
        queues
            .map(|queue| match direction {
                Direction::Rx => queue.rx.packets,
                Direction::Tx => queue.tx.packets,
            })
            .sum()
    }

    /// What the driver of a VF asked for and did not get, since its front end connected.
    #[must_use]
    pub fn refused(&self, vf: VfIndex) -> u64 {
        self.vfs.get(vf.index()).map_or(0, |v| v.refused)
    }

    /// What the driver of a VF asked for over its registers, since its client connected.
    #[must_use]
    pub fn requests(&self, vf: VfIndex) -> u64 {
        self.vfs.get(vf.index()).map_or(0, |v| v.requests)
    }

    /// Which plane a VF's rings are with.
    #[must_use]
    pub fn path(&self, vf: VfIndex) -> Path {
        self.vfs.get(vf.index()).map_or(Path::Direct, |v| v.path)
    }

    /// Started rings of a VF.
    #[must_use]
    pub fn rings(&self, vf: VfIndex) -> u16 {
        self.vfs.get(vf.index()).map_or(0, |v| v.rings)
    }
}

/// Puts a policy in force that leaves all rings where they are: each plane takes it at the start of its next round. One that
/// sleeps is woken only if it may have something to do now that a limit or a link has changed.
fn publish(
    policies: &PolicyCell,
    policy: Policy,
    workers: &[PlaneHandle<DirectPlane>],
    hypervisor: &PlaneHandle<MediatedPlane>,
) {
    let before = policies.load();
    let after = policies.publish(policy);
    if !before.has_same_vfs(&after) {
        workers.iter().for_each(PlaneHandle::wake);
        hypervisor.wake();
    }
}

/// Puts a policy in force that may move frames from one plane to another; planes stop for it only if it does.
fn put_in_force(
    policies: &PolicyCell,
    policy: Policy,
    workers: &[PlaneHandle<DirectPlane>],
    hypervisor: &PlaneHandle<MediatedPlane>,
    now: Nanos,
) {
    if policy.moves_frames(&policies.load()) {
        let mut workers: Vec<_> = workers.iter().map(PlaneHandle::borrow).collect();
        plane::switch_paths(
            now,
            &mut workers,
            &mut hypervisor.borrow(),
            policies,
            policy,
        );
    } else {
        publish(policies, policy, workers, hypervisor);
    }
}
