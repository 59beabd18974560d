//! One host: a NIC, its hypervisor, and the sockets of its VFs. Knows which plane has which rings and moves them; judges
//! no frame and waits on nothing.

use std::sync::Arc;
use std::time::Instant;

use vf_model::{
    Command, DropReason, FastEvent, Flap, Granted, LinkConfig, LinkSetting, MacAddr, Mtu, Nanos,
    NicConfig, NumberedFilter, Path, Policy, Refusal, RxFilter, VfIndex, VfRequest,
};
use vf_vhost::control::{self, Coalescing};
use vf_vhost::endpoint::{Device, DeviceConfig, Endpoint, SessionEvent, SessionRefusal};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::vring::Vring;

use crate::capture::event::{Audience, Happening};
use crate::capture::{Capture, Wanted};
use crate::clock::Clock;
use crate::config::NicSettings;
use crate::ctrl_queue::{self, CommandLimiter};
use crate::plane::{self, DirectPlane, MediatedPlane, PolicyCell, Rings, Statistics};
use crate::qmp::Monitor;
use crate::queue::{Doorbell, PfEnd, Pool, worker_of};
use crate::thread::PlaneHandle;
use crate::uplink::Uplink;
use crate::watch::Direction;

mod monitors;

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
    pool: Pool,
}

/// The control side of one VF.
#[derive(Default)]
pub struct Vf {
    /// Its socket, once it is served.
    pub endpoint: Option<Endpoint>,
    /// Which plane its rings are with.
    path: Path,
    /// Started rings.
    rings: u16,
    /// What the front end did wrong, if its last session has ended for that.
    pub fault: Option<String>,
    /// What its driver asked for and did not get, since the front end connected.
    refused: u64,
    /// How many commands it gives.
    pace: CommandLimiter,
    /// The monitor of its guest's QEMU, if that is known.
    pub monitor: Option<Monitor>,
}

/// The planes of a host, before anybody owns them.
pub struct Planes {
    /// The direct path, by worker.
    pub workers: Vec<DirectPlane>,
    /// The mediated path.
    pub hypervisor: MediatedPlane,
    /// What they judge by.
    pub policies: PolicyCell,
}

impl Planes {
    /// Planes for a NIC with its initial policies, without rings.
    ///
    /// # Errors
    /// The refusal of an initial setting, with its VF.
    pub fn new(
        settings: &NicSettings,
        workers: usize,
        uplink: Option<Box<dyn Uplink>>,
        pool: &Pool,
        cost: Option<vf_model::CostModel>,
    ) -> Result<Planes, (VfIndex, Refusal)> {
        let rate = uplink.as_ref().map(|uplink| uplink.link().rate_bps());
        let rate = rate.unwrap_or(LinkConfig::default().rate_bps);
        let refused = |refusal| (VfIndex::default(), refusal);
        let policy = initial_policy(settings)?.with_port_rate(rate);
        let policies = PolicyCell::new(Arc::new(policy.map_err(refused)?));
        let (nic_end, hypervisor_end) = PfEnd::pair();
        Ok(Planes {
            workers: DirectPlane::team(&policies, workers, nic_end, uplink, pool),
            hypervisor: MediatedPlane::new(&policies, hypervisor_end, pool.clone(), cost),
            policies,
        })
    }
}

impl Planes {
    /// Which NIC of its process it is, so that the same seed gives each other impairments; `slack` is how far ahead of now its
    /// transmitter may be filled.
    pub fn set_place(&mut self, nic: usize, slack: Nanos) {
        let workers = self.workers.iter_mut();
        workers.for_each(|worker| worker.set_place(nic, slack));
        self.hypervisor.set_place(nic);
    }
}

/// What a NIC's configuration says of its VFs and filters.
///
/// # Errors
/// The refusal of an initial setting, with its VF.
pub fn initial_policy(settings: &NicSettings) -> Result<Policy, (VfIndex, Refusal)> {
    let config = NicConfig {
        vfs: settings.vfs,
        mac_base: settings.mac_base,
        profile: settings.profile,
    };
    let mut policy = Policy::new(config);
    let mtu = settings.mtu.map(|mtu| LinkSetting::Mtu(mtu.get().into()));
    let mtu = mtu.map(|mtu| Command::SetLink(vec![mtu]));
    let netem = settings.netem.iter().map(|(way, spec)| {
        let spec = Some(Arc::clone(spec));
        Command::SetLinkNetem { way, spec }
    });
    let netem: Vec<_> = netem.collect();
    for command in mtu.iter().chain(&netem).chain(&settings.switch) {
        let refused = |refusal| (VfIndex::default(), refusal);
        policy = policy.with(command).map_err(refused)?;
    }
    // Those of which nothing is said need not be there.
    let said = settings.vf.iter().enumerate();
    for (i, vf) in said.filter(|(_, vf)| !vf.policy.is_empty()) {
        let command = Command::SetVf {
            vfs: VfIndex::from(i).into(),
            settings: vf.policy.clone(),
        };
        let refused = |refusal| (VfIndex::from(i), refusal);
        policy = policy.with(&command).map_err(refused)?;
    }
    // Last, as some drivers take no rate while there is no link.
    let down = (!settings.link_up).then_some(LinkSetting::Up(false));
    let out = settings.cable_out.then_some(LinkSetting::Carrier(false));
    let link: Vec<_> = down.into_iter().chain(out).collect();
    let link = (!link.is_empty()).then_some(Command::SetLink(link));
    for command in settings.filters.iter().chain(&link) {
        let refused = |refusal| (VfIndex::default(), refusal);
        policy = policy.with(command).map_err(refused)?;
    }
    Ok(policy)
}

impl NicInstance {
    /// A host whose planes are owned as given. Its sockets are served by whoever sets [`Vf::endpoint`].
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
        let capture = Capture::new(wanted, self.vfs.len(), bell, self.pool.clone());
        for worker in &self.workers {
            let capture = Arc::clone(&capture);
            worker.call(move |plane| plane.captures_mut().attach(capture));
        }
        let there = Arc::clone(&capture);
        self.hypervisor
            .call(move |plane| plane.captures_mut().attach(there));
        self.audience.add(Arc::clone(&capture));
        capture
    }

    /// How many captures there are.
    #[must_use]
    pub fn captures(&self) -> usize {
        self.audience.len()
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

    /// Lets `serve` run a VF's socket with the device behind it.
    pub fn serve<R>(
        &mut self,
        vf: VfIndex,
        serve: impl FnOnce(&mut Endpoint, &mut dyn Device) -> R,
    ) -> Option<R> {
        let NicInstance {
            settings,
            workers,
            hypervisor,
            policies,
            vfs,
            clock,
            audience,
            ..
        } = self;
        let Vf {
            endpoint,
            path,
            rings,
            fault,
            refused,
            pace,
            monitor,
        } = vfs.get_mut(vf.index())?;
        let mut device = VfDevice {
            changing: false,
            nic: &settings.name,
            vf,
            workers,
            hypervisor,
            policies,
            path: *path,
            rings,
            fault,
            refused,
            pace,
            monitor,
            clock,
            audience,
        };
        Some(serve(endpoint.as_mut()?, &mut device))
    }

    /// Puts a policy in force that has been made of the one that is, while traffic runs, and says in a line each what guests
    /// cannot be shown of it. No plane stops for it unless frames could be overtaken otherwise: a VF's path
    /// changes, or a filter puts frames of one on path `auto` on the fast path.
    pub fn set_policy(&mut self, policy: Policy) -> Vec<String> {
        let before = self.policies.load();
        if !policy.moves_frames(&before) {
            publish(&self.policies, policy, &self.workers, &self.hypervisor);
        } else {
            let mut workers: Vec<_> = self.workers.iter().map(PlaneHandle::borrow).collect();
            let mut hypervisor = self.hypervisor.borrow();
            let now = self.clock.now();
            plane::switch_paths(now, &mut workers, &mut hypervisor, &self.policies, policy);
            // Before a frame goes the new way.
            self.tell_paths();
        }
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
        due.then(|| Command::SetLink(vec![LinkSetting::Carrier(!out)]))
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

    /// Shows guests what has changed since `before` of what they can read of their VFs; a line for each that cannot be shown.
    fn show_guests(&mut self, before: &Policy) -> Vec<String> {
        let policy = self.policies.load();
        if before.has_same_vfs(&policy) {
            return Vec::new();
        }
        self.set_links(&policy);
        let (before, after) = (seen_by_guests(before), seen_by_guests(&policy));
        let mut notes = Vec::new();
        for (i, (was, is)) in before.into_iter().zip(after).enumerate() {
            let vf = VfIndex::from(i);
            let (was, is) = match (was, is) {
                (Some(was), Some(is)) if was.enabled == is.enabled => (was, is),
                (Some(_), is) => {
                    notes.extend(self.take_away(vf, is));
                    continue;
                }
                // Its socket is served by whoever serves the others.
                (None, _) => continue,
            };
            if was.mac != is.mac {
                // A guest that takes its address from us reads it when its driver starts.
                self.serve(vf, |endpoint, _| endpoint.set_mac(is.mac.0));
            }
            if was.mtu != is.mtu {
                let told = self.serve(vf, |endpoint, _| endpoint.set_mtu(is.mtu.get()));
                if told == Some(false) {
                    notes.push(format!(
                        "{} {vf}: its driver was told an MTU when its front end connected, and another takes effect there when that connects \
                         again; what is longer than {} is dropped and counted",
                        self.settings.name,
                        policy.tx_mtu(vf),
                    ));
                }
            }
            if was.resets != is.resets {
                // A front end that connects again sets everything up anew, as a driver does after a reset of its function.
                let closed = self.serve(vf, |endpoint, device| {
                    let connected = endpoint.is_connected();
                    endpoint.close_session(SessionRefusal::Closed, Instant::now(), device);
                    connected
                });
                if closed == Some(true) {
                    notes.push(format!(
                        "{} {vf}: reset by closing its session: its front end has to connect again",
                        self.settings.name
                    ));
                }
            }
            if was.link_up == is.link_up {
                continue;
            }
            let told = self.serve(vf, |endpoint, _| {
                endpoint.set_link_up(is.link_up) || !endpoint.is_connected()
            });
            if told == Some(false) && !self.tells_by_monitor(vf) {
                let frames = if is.link_up {
                    ""
                } else {
                    "; its frames are dropped and counted"
                };
                notes.push(format!(
                    "{} {vf}: the front end takes no configuration from a back end, so the guest's carrier stays as it is{frames}",
                    self.settings.name
                ));
            }
        }
        self.take_sockets();
        notes
    }

    /// Ends the session of a VF that is no more. If another is made in its place, that has its socket.
    fn take_away(&mut self, vf: VfIndex, another: Option<GuestView>) -> Option<String> {
        let connected = self.serve(vf, |endpoint, device| {
            let connected = endpoint.is_connected();
            endpoint.close_session(SessionRefusal::Closed, Instant::now(), device);
            if let Some(is) = &another {
                endpoint.set_mac(is.mac.0);
                endpoint.set_mtu(is.mtu.get());
                endpoint.set_link_up(is.link_up);
            }
            connected
        });
        if another.is_none()
            && let Some(vf) = self.vfs.get_mut(vf.index())
        {
            vf.endpoint = None;
        }
        let name = &self.settings.name;
        (connected == Some(true)).then(|| format!("{name} {vf}: taken from its guest"))
    }

    /// The NIC's filters, those that win first.
    #[must_use]
    pub fn filters(&self) -> Vec<NumberedFilter> {
        self.policies.load().all_filters().numbered().collect()
    }

    /// How long the driver of a VF wants calls of a ring to be held back, if it has said.
    #[must_use]
    pub fn coalescing(&self, vf: VfIndex, ring: u32) -> Option<Coalescing> {
        let endpoint = self.vfs.get(vf.index())?.endpoint.as_ref();
        endpoint?.coalescing(ring)
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

/// What a guest can read of its VF in configuration space.
struct GuestView {
    link_up: bool,
    mac: MacAddr,
    mtu: Mtu,
    resets: u64,
    /// How often VFs had been made when it was.
    enabled: u64,
}

/// By VF; `None` if there is none of this number now.
fn seen_by_guests(policy: &Policy) -> Vec<Option<GuestView>> {
    let vfs = (0..policy.vf_count()).map(VfIndex::from);
    vfs.map(|vf| {
        (vf.index() < policy.num_vfs()).then(|| GuestView {
            link_up: policy.link_up_for(vf),
            mac: policy.vf(vf).mac,
            mtu: policy.told_mtu(vf),
            resets: policy.resets(vf),
            enabled: policy.times_enabled(),
        })
    })
    .collect()
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

/// The device that a VF's front end talks to: hands rings to the plane of the VF's path and takes them back.
struct VfDevice<'a> {
    /// Whether the plane has been told that the rings change. What comes for the VF meanwhile waits.
    changing: bool,
    nic: &'a str,
    vf: VfIndex,
    workers: &'a [PlaneHandle<DirectPlane>],
    hypervisor: &'a PlaneHandle<MediatedPlane>,
    policies: &'a PolicyCell,
    path: Path,
    rings: &'a mut u16,
    fault: &'a mut Option<String>,
    refused: &'a mut u64,
    pace: &'a mut CommandLimiter,
    monitor: &'a mut Option<Monitor>,
    clock: &'a Clock,
    audience: &'a Audience,
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

    /// Does what `request` makes of what the driver has asked for before, as far as it may have that. No plane stops for it.
    fn request(
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

    /// Forgets what a driver asked for. The next one has these `features`, if it has a control queue.
    fn forget_driver(&mut self, features: VirtioFeatures) {
        let reset = VfRequest::Reset {
            lists_groups: features.contains(VirtioFeatures::CTRL_RX),
            lists_vlans: features.contains(VirtioFeatures::CTRL_VLAN),
        };
        // Never refused.
        let _ = self.request(|_| Ok(Some(reset)));
    }
}

impl Device for VfDevice<'_> {
    fn start_rings(&mut self, rings: Vec<Vring>) {
        *self.rings += rings.len() as u16;
        self.changing = false;
        let vf = self.vf;
        self.post(move |plane| {
            for vring in rings {
                plane.attach(vf, vring);
            }
            plane.end_change(vf);
        });
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

    fn command(&mut self, command: &control::CtrlCommand) -> bool {
        if !self.allows() {
            return false;
        }
        let Err(why) = self.request(|asked| ctrl_queue::request(command, asked)) else {
            return true;
        };
        let device = format!("{} {}", self.nic, self.vf);
        let device = device.as_str();
        // A driver that asks again and again fills no log.
        match *self.refused {
            0 => tracing::warn!(device, %command, %why, "the driver is refused a command"),
            _ => tracing::debug!(device, %command, %why, "the driver is refused a command"),
        }
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
                    let _ = self.request(|_| Ok(Some(VfRequest::Mtu(mtu))));
                }
            }
            SessionEvent::Reset => self.forget_driver(VirtioFeatures::empty()),
            SessionEvent::Disconnected { why } => {
                use vf_vhost::endpoint::SessionRefusal as R;
                let fault = why.filter(|why| !matches!(why, R::Closed | R::Socket(_)));
                *self.fault = fault.map(ToString::to_string);
                self.forget_driver(VirtioFeatures::empty());
                self.post(move |plane| plane.drop_backlog(vf, DropReason::RingDisabled));
            }
            // The endpoint has logged what was refused.
            _ => {}
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
