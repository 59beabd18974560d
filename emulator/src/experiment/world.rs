//! The experiment on the virtual clock: two hosts, a wire and two guests a stream on one thread, stepped by the calendar.
//! The same NIC, hypervisor, rings and TCP as on the wall clock; only the time comes from elsewhere. Never reads a clock.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use vf_conformance::frontend::Frontend;
use vf_conformance::guest::{Guest, GuestConfig, StreamId};
use vf_conformance::net::{NetConfig, NetDevice, Notify};
use vf_model::{MacAddr, Nanos, Path, VfIndex, VfSet};
use vf_vhost::endpoint::Endpoint;

use super::ExperimentError;
use super::measure::{Meters, Reading};
use super::plan::Plan;
use crate::calendar::{Calendar, Class, ParticipantId};
use crate::clock::Clock;
use crate::config::{NicSettings, PolicySettings, SocketRole, VfSettings};
use crate::host::{Host, Planes};
use crate::plane::{Owner, Plane, Pool, Uplink, WireEnd};

/// The port every receiver listens on, netperf's.
const PORT: u16 = 12865;

/// Who a participant of the calendar is.
#[derive(Clone, Copy)]
enum Who {
    Adapter(usize),
    Hypervisor(usize),
    Guest(usize),
}

/// A guest on its VF.
struct Seat {
    guest: Guest,
    host: usize,
    vf: VfIndex,
    stream: StreamId,
    id: ParticipantId,
    /// The earliest time of its next interrupt.
    interrupt_at: Nanos,
}

/// The two hosts of an experiment, their settings all but the path.
pub(super) fn nic_settings(plan: &Plan, host: usize, path: Path) -> NicSettings {
    let vf = VfSettings {
        socket: PathBuf::new(),
        role: SocketRole::Server,
        policy: PolicySettings {
            path: Some(path),
            ..PolicySettings::default()
        },
    };
    NicSettings {
        name: ["a", "b"][host].to_owned(),
        vfs: plan.pairs(),
        mac_base: MacAddr([0x02, 0, 0, 0, [0x0a, 0x0b][host], 0]),
        queue_pairs: 1,
        mtu: plan.mtu,
        tap: None,
        vf: vec![vf; usize::from(plan.pairs())],
    }
}

/// What the driver of a guest acknowledges.
pub(super) fn net_config(plan: &Plan, notify: Notify) -> NetConfig {
    let offloads = if plan.tso { NetConfig::TSO } else { 0 };
    NetConfig {
        features: NetConfig::PLAIN | NetConfig::CHECKSUM | offloads,
        mtu: plan.mtu,
        notify,
        ..NetConfig::default()
    }
}

/// The address of the guest on `vf` of `host`.
fn address(host: usize, vf: u16) -> Ipv4Addr {
    let [high, low] = (vf + 1).to_be_bytes();
    Ipv4Addr::new(10, [1, 2][host], high, low)
}

/// The guest of pair `pair` on `host`: a sender or a receiver of one endless stream.
pub(super) fn guest(plan: &Plan, host: usize, pair: u16, net: NetDevice) -> (Guest, StreamId) {
    let mac = nic_settings(plan, host, Path::Direct)
        .mac_base
        .offset(pair.into());
    let config = GuestConfig {
        mac: mac.0,
        ip: address(host, pair),
        prefix_len: 8,
        mtu: plan.mtu,
        tso: plan.tso,
        csum: true,
        window: plan.window,
        seed: mix(plan.seed, host as u64 * 4096 + u64::from(pair)),
        verify: false,
        ..GuestConfig::default()
    };
    let mut guest = Guest::new(config, net);
    let sends = (host == 0) == (pair < plan.a_to_b);
    let stream = if sends {
        guest.send_to(address(1 - host, pair), PORT, None)
    } else {
        guest.receive_on(PORT)
    };
    (guest, stream)
}

/// A well-spread number for each `n` (splitmix64).
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Two hosts back to back with their guests, at time zero.
pub(super) struct World {
    calendar: Calendar,
    now: Rc<Cell<Nanos>>,
    who: Vec<Who>,
    hosts: [Rc<RefCell<Host>>; 2],
    adapters: [ParticipantId; 2],
    hypervisors: [ParticipantId; 2],
    seats: Vec<Seat>,
    /// Index into `seats` by host and VF.
    seat_of: [Vec<usize>; 2],
    path: Path,
    moderation: Nanos,
}

impl World {
    /// Builds the hosts and connects the guests over the real protocol.
    pub(super) fn new(plan: &Plan, path: Path) -> Result<World, ExperimentError> {
        let now = Rc::new(Cell::new(Nanos(0)));
        let pool = Pool::new(1 << 16);
        let (end_a, end_b) = WireEnd::pair(plan.link, Nanos(0));
        let mut ends = [Some(end_a), Some(end_b)];
        let mut host = |h: usize| -> Result<Rc<RefCell<Host>>, ExperimentError> {
            let settings = nic_settings(plan, h, path);
            let uplink = ends[h].take().map_or(Uplink::None, Uplink::Wire);
            let planes = Planes::new(&settings, uplink, &pool, Some(plan.cost))
                .map_err(|(vf, refusal)| ExperimentError::Policy(vf, refusal))?;
            Ok(Rc::new(RefCell::new(Host::new(
                settings,
                Owner::Local(RefCell::new(planes.adapter)),
                Owner::Local(RefCell::new(planes.hypervisor)),
                Clock::Virtual(Rc::clone(&now)),
            ))))
        };
        let hosts = [host(0)?, host(1)?];
        let mut calendar = Calendar::new();
        let mut who = Vec::new();
        let mut join = |calendar: &mut Calendar, class, w| {
            who.push(w);
            calendar.join(class)
        };
        let adapters = [0, 1].map(|h| join(&mut calendar, Class::Device, Who::Adapter(h)));
        let hypervisors = [0, 1].map(|h| join(&mut calendar, Class::Device, Who::Hypervisor(h)));
        let mut seats = Vec::new();
        let mut seat_of = [Vec::new(), Vec::new()];
        for pair in 0..plan.pairs() {
            for h in [0, 1] {
                let vf = VfIndex::from(usize::from(pair));
                let net = connect(&hosts[h], vf, &net_config(plan, Notify::Polled))?;
                let (guest, stream) = guest(plan, h, pair, net);
                let id = join(&mut calendar, Class::Guest, Who::Guest(seats.len()));
                // Nobody starts at the very same moment: up to a millisecond apart, by the seed.
                let start = mix(plan.seed, 1 << 32 | seats.len() as u64) % 1_000_000;
                calendar.set(id, Some(Nanos(start)));
                seat_of[h].push(seats.len());
                seats.push(Seat {
                    guest,
                    host: h,
                    vf,
                    stream,
                    id,
                    interrupt_at: Nanos(0),
                });
            }
        }
        Ok(World {
            calendar,
            now,
            who,
            hosts,
            adapters,
            hypervisors,
            seats,
            seat_of,
            path,
            moderation: plan.moderation,
        })
    }

    /// Runs until `limit`.
    pub(super) fn run_until(&mut self, limit: Nanos) {
        while let Some(id) = self.calendar.advance(limit) {
            let now = self.calendar.now();
            self.now.set(now);
            match self.who[id.index()] {
                Who::Adapter(h) => self.run_adapter(now, h),
                Who::Hypervisor(h) => self.run_hypervisor(now, h),
                Who::Guest(g) => self.run_guest(now, g),
            }
        }
        self.calendar.skip_to(limit);
        self.now.set(limit);
    }

    fn run_adapter(&mut self, now: Nanos, h: usize) {
        let (next, notified) = {
            let host = self.hosts[h].borrow();
            let mut adapter = host.adapter.borrow();
            while adapter.poll(now) > 0 {}
            (adapter.next(now), adapter.take_notified())
        };
        self.calendar.set(self.adapters[h], next);
        let peer = self.hosts[1 - h].borrow().adapter.borrow().next(now);
        if let Some(at) = peer {
            self.calendar.wake(self.adapters[1 - h], at);
        }
        if self.hosts[h].borrow().hypervisor.borrow().has_input() {
            self.calendar.wake(self.hypervisors[h], now);
        }
        self.interrupt(now, h, notified);
    }

    fn run_hypervisor(&mut self, now: Nanos, h: usize) {
        let (next, notified) = {
            let host = self.hosts[h].borrow();
            let mut hypervisor = host.hypervisor.borrow();
            while hypervisor.poll(now) > 0 {}
            (hypervisor.next(now), hypervisor.take_notified())
        };
        self.calendar.set(self.hypervisors[h], next);
        if self.hosts[h].borrow().adapter.borrow().has_pf_input() {
            self.calendar.wake(self.adapters[h], now);
        }
        self.interrupt(now, h, notified);
    }

    fn run_guest(&mut self, now: Nanos, g: usize) {
        let seat = &mut self.seats[g];
        let before = seat.guest.stats().tx_frames;
        let step = seat.guest.poll(now.0);
        let sent = seat.guest.stats().tx_frames != before;
        self.calendar.set(seat.id, step.next.map(Nanos));
        let host = self.hosts[seat.host].borrow();
        match self.path {
            Path::Direct if sent => {
                if !host.adapter.borrow().is_parked(seat.vf) {
                    self.calendar.wake(self.adapters[seat.host], now);
                }
            }
            Path::Direct => {}
            Path::Mediated => {
                if host.hypervisor.borrow().is_idle() {
                    self.calendar.wake(self.hypervisors[seat.host], now);
                }
            }
        }
    }

    /// Interrupts the guests, each no sooner than its moderation allows.
    fn interrupt(&mut self, now: Nanos, h: usize, notified: VfSet) {
        for vf in notified.iter() {
            let seat = &mut self.seats[self.seat_of[h][vf.index()]];
            let at = now.max(seat.interrupt_at);
            seat.interrupt_at = Nanos(at.0.saturating_add(self.moderation.0));
            self.calendar.wake(seat.id, at);
        }
    }

    /// Everything that is measured, as it stands now.
    pub(super) fn read(&self) -> Reading {
        let mut meters = Meters::new(self.calendar.now());
        for host in &self.hosts {
            meters.host(&host.borrow());
        }
        for seat in &self.seats {
            meters.guest(&seat.guest, seat.stream);
        }
        meters.reading()
    }

    /// Whether every guest is still content with its device.
    pub(super) fn check(&self) -> Result<(), ExperimentError> {
        for seat in &self.seats {
            if let Some(fault) = seat.guest.fault() {
                return Err(ExperimentError::Fault(fault.to_string()));
            }
        }
        Ok(())
    }
}

/// Connects a driver to a VF: the real protocol over a socket pair, both ends on this thread.
fn connect(
    host: &Rc<RefCell<Host>>,
    vf: VfIndex,
    config: &NetConfig,
) -> Result<NetDevice, ExperimentError> {
    let (ours, theirs) = UnixStream::pair().map_err(ExperimentError::Socket)?;
    let device = host.borrow().device_config(vf);
    let endpoint = Endpoint::from_stream(ours, device);
    // Only a socket that is connected to again needs the time.
    let started = Instant::now();
    host.borrow_mut().vfs[vf.index()].endpoint = Some(endpoint);
    let mut frontend = Frontend::from_stream(theirs).map_err(ExperimentError::Socket)?;
    let pumped = Rc::clone(host);
    frontend.on_wait = Some(Box::new(move || {
        pumped
            .borrow_mut()
            .serve(vf, |endpoint, device| endpoint.poll(started, device));
    }));
    NetDevice::start(frontend, config).map_err(ExperimentError::Guest)
}
