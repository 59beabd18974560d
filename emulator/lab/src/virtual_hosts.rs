//! Hosts on the virtual clock: steps NICs, hypervisors, wires and interrupt lines in the order of the calendar, and says
//! which guest is next. The same planes as on the wall clock; only the time comes from elsewhere. Never reads a clock and
//! does not know what a guest is.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use vf_model::{Command, CostModel, FastEvent, LinkConfig, Nanos, Path, Policy, Refusal, VfIndex};
use vf_nic::clock::Clock;
use vf_nic::config::{DeviceKind, HypervisorCpu, NicSettings, WireSettings};
use vf_nic::instance::{NicInstance, Planes};
use vf_nic::plane::{Gap, Mirror, Moderation, Notified};
use vf_nic::queue::Pool;
use vf_nic::thread::{News, Plane, PlaneHandle, RingBroken};
use vf_nic::uplink::{Uplink, WireEnd};
use vf_nic::watch::{Detail, Direction, Seen};

use crate::calendar::{Calendar, Class, ParticipantId};

/// Empty buffers kept for reuse.
const POOL: usize = 1 << 16;

/// Is shown every frame, in the order in which they pass.
pub type Watcher = Box<dyn FnMut(&Seen<'_>)>;

/// A hypervisor whose CPU is this machine's, on a clock that does not know this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "[hypervisor] cpu = \"measured\": the virtual clock has no machine to measure; leave it out, or say cpu = \"model\""
)]
pub struct MeasuredCpu;

/// Why VFs do not come and go on the virtual clock.
pub const NUM_VFS: &str = "numvfs: on the virtual clock VFs have their guests from the start; say vfs or numvfs in the file, or use --clock wall";

/// Whether a NIC has other VFs by one policy than by the one before.
pub(crate) fn changes_vfs(before: &Policy, after: &Policy) -> bool {
    let vfs = |policy: &Policy| (policy.num_vfs(), policy.times_enabled());
    vfs(before) != vfs(after)
}

/// What the mediated path costs on the virtual clock.
///
/// # Errors
/// [`MeasuredCpu`]: it would cost nothing, as if its CPU were of infinite speed.
pub fn cost_model(cpu: Option<HypervisorCpu>) -> Result<CostModel, MeasuredCpu> {
    match cpu {
        None | Some(HypervisorCpu::Model) => Ok(CostModel::default()),
        Some(HypervisorCpu::Measured) => Err(MeasuredCpu),
    }
}

/// How guests and NICs tell each other of work.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Whether guests kick, so that the NIC must say when it wants to be; else whoever runs them tells of each frame.
    pub kicks: bool,
    /// Least time between two interrupts of a VF for what it has received, and for what it has sent.
    pub moderation: Nanos,
}

/// Who is to act now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This guest.
    Guest(ParticipantId),
    /// Whoever is on this VF is interrupted.
    Interrupt {
        /// Index of the host.
        host: usize,
        /// The VF.
        vf: VfIndex,
        /// For what it has received, or sent.
        direction: Direction,
    },
    /// The time that [`VirtualHosts::at`] was given has come: [`VirtualHosts::apply`] this.
    Command {
        /// Index of the host.
        host: usize,
        /// The command.
        command: Command,
    },
}

/// What a participant of the calendar is.
#[derive(Clone, Copy)]
enum Who {
    Administrator,
    Nic(usize),
    Hypervisor(usize),
    Interrupt(usize, VfIndex, Direction),
    Guest,
}

/// A VF's interrupt in one direction.
struct Interrupt {
    id: ParticipantId,
    line: Moderation,
}

/// A host and its places in the calendar.
struct Seat {
    host: Rc<RefCell<NicInstance>>,
    worker: ParticipantId,
    hypervisor: ParticipantId,
    /// By VF: for what it has received, and for what it has sent.
    interrupts: Vec<[Interrupt; 2]>,
}

/// All hosts of a virtual time.
pub struct VirtualHosts {
    calendar: Calendar,
    now: Rc<Cell<Nanos>>,
    who: Vec<Who>,
    seats: Vec<Seat>,
    notification: Notification,
    administrator: ParticipantId,
    /// By time, and by the order in which they were given.
    commands: BTreeMap<(Nanos, usize), (usize, Command)>,
    given: usize,
    watchers: Vec<Watcher>,
}

impl VirtualHosts {
    /// Hosts at time zero, without guests. With a cost model the hypervisors' CPUs are charged.
    ///
    /// # Errors
    /// The refusal of an initial setting, with the index of its NIC and its VF.
    pub fn new(
        nics: &[NicSettings],
        wires: &[WireSettings],
        cost: Option<CostModel>,
        notification: Notification,
    ) -> Result<VirtualHosts, (usize, VfIndex, Refusal)> {
        let now = Rc::new(Cell::new(Nanos(0)));
        let pool = Pool::new(POOL);
        let mut ends: Vec<_> = nics.iter().map(|_| None).collect();
        for wire in wires {
            let [a, b] = wire.between;
            let (end_a, end_b) = WireEnd::pair(wire.link, Nanos(0));
            ends[a] = Some((end_a, b));
            ends[b] = Some((end_b, a));
        }
        let mut hosts = Vec::new();
        for (h, (nic, end)) in nics.iter().zip(ends).enumerate() {
            let peer = end.as_ref().map(|(_, peer)| *peer);
            let uplink = match (end, &nic.uplink) {
                (Some((end, _)), _) => Some(Box::new(end) as Box<dyn Uplink>),
                // Whoever has read the file has refused devices of this machine, and nothing else can fail.
                (None, Some(spec)) => spec.open(LinkConfig::default(), Nanos(0)).ok(),
                (None, None) => None,
            };
            let mut planes = Planes::new(nic, 1, uplink, &pool, cost)
                .map_err(|(vf, refusal)| (h, vf, refusal))?;
            planes.set_place(h, Nanos(0));
            if let Some(loopback) = nic.loopback() {
                let workers = planes.workers.iter_mut();
                workers.for_each(|worker| worker.set_loopback(loopback));
            }
            let mut host = NicInstance::new(
                nic.clone(),
                planes
                    .workers
                    .into_iter()
                    .map(RefCell::new)
                    .map(PlaneHandle::Local)
                    .collect(),
                PlaneHandle::Local(RefCell::new(planes.hypervisor)),
                planes.policies,
                Clock::Virtual(Rc::clone(&now)),
            );
            host.peer = peer;
            hosts.push(host);
        }
        for wire in wires {
            if let Ok([near, far]) = hosts.get_disjoint_mut(wire.between) {
                // No guest is there yet to be told.
                near.share_carrier(far);
            }
        }
        let mut calendar = Calendar::new();
        let mut who = Vec::new();
        let mut join = |device| {
            who.push(device);
            calendar.join(Class::Device)
        };
        // First of all, so that a command holds for all that happens at its time.
        let administrator = join(Who::Administrator);
        let workers: Vec<_> = (0..nics.len()).map(|h| join(Who::Nic(h))).collect();
        let hypervisors: Vec<_> = (0..nics.len()).map(|h| join(Who::Hypervisor(h))).collect();
        let flaps = hosts.iter().filter_map(NicInstance::flap_at).min();
        let mut seats = Vec::new();
        for (h, host) in hosts.into_iter().enumerate() {
            let interrupts = (0..host.vfs.len()).map(|i| {
                [Direction::Rx, Direction::Tx].map(|direction| Interrupt {
                    id: join(Who::Interrupt(h, VfIndex::from(i), direction)),
                    line: Moderation::default(),
                })
            });
            seats.push(Seat {
                worker: workers[h],
                hypervisor: hypervisors[h],
                interrupts: interrupts.collect(),
                host: Rc::new(RefCell::new(host)),
            });
        }
        calendar.set(administrator, flaps);
        // What is played into a port begins by itself; of anything else nothing comes before somebody sends.
        for (seat, nic) in seats.iter().zip(nics) {
            if nic.uplink.is_some() {
                let host = seat.host.borrow();
                let next = host.worker().borrow().next(Nanos(0));
                calendar.set(seat.worker, next);
            }
        }
        Ok(VirtualHosts {
            calendar,
            now,
            who,
            seats,
            notification,
            administrator,
            commands: BTreeMap::new(),
            given: 0,
            watchers: Vec::new(),
        })
    }

    /// The current virtual time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.calendar.now()
    }

    /// A host, in the order given to [`VirtualHosts::new`].
    #[must_use]
    pub fn host(&self, h: usize) -> &Rc<RefCell<NicInstance>> {
        &self.seats[h].host
    }

    /// The host at the other end of its wire.
    #[must_use]
    pub fn peer(&self, h: usize) -> Option<usize> {
        self.seats[h].host.borrow().peer
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Rc<RefCell<NicInstance>>> {
        self.seats.iter().map(|seat| &seat.host)
    }

    /// Shows `watcher` every frame that passes a VF or arrives over a wire from now on, at least in this detail. It must not
    /// touch the hosts.
    pub fn watch(&mut self, detail: Detail, watcher: Watcher) {
        for seat in &self.seats {
            let host = seat.host.borrow();
            host.worker().borrow().mirror_mut().start(detail);
            host.hypervisor.borrow().mirror_mut().start(detail);
        }
        self.watchers.push(watcher);
    }

    /// Shows `watcher` what takes the slow path of VFs on path `auto`, and nothing else unless others watch. It must not touch the
    /// hosts.
    pub fn watch_slow_path(&mut self, watcher: Watcher) {
        for seat in &self.seats {
            let host = seat.host.borrow();
            let mut hypervisor = host.hypervisor.borrow();
            hypervisor.mirror_mut().start(Detail::Head);
        }
        self.watchers.push(watcher);
    }

    /// Has [`VirtualHosts::advance`] say [`Event::Command`] at exactly `when`, before anything else happens at that time; now if
    /// that is past.
    pub fn at(&mut self, when: Nanos, h: usize, command: Command) {
        self.given += 1;
        self.commands.insert((when, self.given), (h, command));
        self.calendar.wake(self.administrator, when);
    }

    /// Applies an administrator's command while no guest runs, and says in a line each what guests cannot be shown of it.
    /// Endpoints may await replies then.
    ///
    /// # Errors
    /// The model's refusal; nothing has changed then.
    pub fn apply(&mut self, h: usize, command: &Command) -> Result<Vec<String>, Refusal> {
        let policy = self.seats[h].host.borrow().policy().with(command)?;
        Ok(self.set_policy(h, policy))
    }

    /// Puts a policy in force that has been made of the one that is, as [`VirtualHosts::apply`] does.
    pub fn set_policy(&mut self, h: usize, policy: Policy) -> Vec<String> {
        let mut notes = self.seats[h].host.borrow_mut().set_policy(policy);
        self.wake_host(h);
        if let Some(peer) = self.peer(h) {
            let [near, far] = [h, peer].map(|h| Rc::clone(&self.seats[h].host));
            notes.extend(near.borrow_mut().share_carrier(&mut far.borrow_mut()));
            self.wake_host(peer);
        }
        let flap = self.host(h).borrow().flap_at();
        flap.into_iter()
            .for_each(|at| self.calendar.wake(self.administrator, at));
        notes
    }

    /// Something about a host has changed otherwise than by itself: it looks at everything as soon as it is its turn.
    pub fn wake_host(&mut self, h: usize) {
        let now = self.now();
        self.interrupt_by_functions(now, h);
        self.calendar.wake(self.seats[h].worker, now);
        self.calendar.wake(self.seats[h].hypervisor, now);
    }

    /// A new guest, who first runs at `start`.
    pub fn join(&mut self, start: Nanos) -> ParticipantId {
        self.who.push(Who::Guest);
        let id = self.calendar.join(Class::Guest);
        self.calendar.set(id, Some(start));
        id
    }

    /// When the guest next wants to run, if it does.
    pub fn set(&mut self, guest: ParticipantId, at: Option<Nanos>) {
        self.calendar.set(guest, at);
    }

    /// The guest wants to run no later than at `at`.
    pub fn wake(&mut self, guest: ParticipantId, at: Nanos) {
        self.calendar.wake(guest, at);
    }

    /// Before when the guest that runs now may go on without asking. `None`: nobody else wants anything.
    #[must_use]
    pub fn limit(&self, running: ParticipantId) -> Option<Nanos> {
        self.calendar.next_but(running)
    }

    /// When somebody next wants to act, guest or not.
    #[must_use]
    pub fn upcoming(&self) -> Option<Nanos> {
        self.calendar.next()
    }

    /// The guest that runs has let time pass, up to `at`; `false`, and nothing has changed, if somebody else should have
    /// run before.
    pub fn pass(&mut self, running: ParticipantId, at: Nanos) -> bool {
        let in_order = self.limit(running).is_none_or(|limit| at <= limit);
        if in_order {
            self.skip_to(at);
        }
        in_order
    }

    /// Lets the hosts run until it is somebody else's turn; `None` if nobody wants to act before `limit` or at it.
    pub fn advance(&mut self, limit: Nanos) -> Option<Event> {
        while let Some(id) = self.calendar.advance(limit) {
            let now = self.calendar.now();
            self.now.set(now);
            match self.who[id.index()] {
                Who::Administrator => {
                    let due = self.due_command(now);
                    let next = self.commands.keys().next().map(|(next, _)| *next);
                    let flaps = self.hosts().filter_map(|host| host.borrow().flap_at());
                    let next = flaps.chain(next).min();
                    // If a command was due, look again at this very time: there may be another one.
                    let next = due.as_ref().map(|_| now).or(next);
                    self.calendar.set(id, next);
                    if let Some((host, command)) = due {
                        return Some(Event::Command { host, command });
                    }
                }
                Who::Nic(h) => self.run_nic(now, h),
                Who::Hypervisor(h) => self.run_hypervisor(now, h),
                Who::Interrupt(host, vf, direction) => {
                    let (_, packets) = self.moderation(host, vf, direction);
                    let interrupts = &mut self.seats[host].interrupts[vf.index()];
                    interrupts[direction as usize].line.raise(now, packets);
                    return Some(Event::Interrupt {
                        host,
                        vf,
                        direction,
                    });
                }
                Who::Guest => return Some(Event::Guest(id)),
            }
        }
        None
    }

    /// What there is between two interrupts: what the driver says of its first ring, if it does. And the packets so far, if they
    /// count.
    fn moderation(&self, host: usize, vf: VfIndex, direction: Direction) -> (Gap, u64) {
        let host = self.seats[host].host.borrow();
        let gap = host.coalescing(vf, direction as u32).map(Gap::from);
        let gap = gap.unwrap_or(Gap {
            time: self.notification.moderation,
            packets: 0,
        });
        let packets = match gap.packets {
            0 => 0,
            _ => host.packets(vf, direction),
        };
        (gap, packets)
    }

    /// The next command for this time, and of which host: what has been given, and then what has a cable come and go.
    fn due_command(&mut self, now: Nanos) -> Option<(usize, Command)> {
        if let Some(first) = self.commands.first_entry()
            && first.key().0 <= now
        {
            return Some(first.remove());
        }
        let mut hosts = self.hosts().enumerate();
        hosts.find_map(|(h, host)| Some((h, host.borrow().flap_due()?)))
    }

    /// Moves the clock to `at` when nobody wants to run before it.
    pub fn skip_to(&mut self, at: Nanos) {
        self.calendar.skip_to(at);
        self.now.set(self.calendar.now());
    }

    /// The guest on `vf` has frames to send; they are looked at when it is the hosts' turn.
    pub fn sent(&mut self, h: usize, vf: VfIndex) {
        let now = self.calendar.now();
        let seat = &self.seats[h];
        let host = seat.host.borrow();
        match host.path(vf) {
            Path::Direct | Path::Auto if host.worker().borrow().is_blocked(vf) => {}
            Path::Direct | Path::Auto => self.calendar.wake(seat.worker, now),
            Path::Mediated if !host.hypervisor.borrow().is_idle() => {}
            Path::Mediated => self.calendar.wake(seat.hypervisor, now),
        }
    }

    /// The guest on `vf` has kicked and waits: takes care of all that it made available, as far as time allows.
    pub fn kicked(&mut self, h: usize, vf: VfIndex) {
        let now = self.calendar.now();
        let path = self.seats[h].host.borrow().path(vf);
        match path {
            Path::Direct | Path::Auto => self.run_nic(now, h),
            Path::Mediated => self.run_hypervisor(now, h),
        }
    }

    fn run_nic(&mut self, now: Nanos, h: usize) {
        let (next, notified, events) = {
            let host = self.seats[h].host.borrow();
            let mut worker = host.worker().borrow();
            let events = self.step(now, &mut *worker);
            show(&mut self.watchers, now, h, worker.mirror_mut());
            (worker.next(now), worker.take_notified(), events)
        };
        self.calendar.set(self.seats[h].worker, next);
        self.learn(now, h, &events);
        if let Some(peer) = self.peer(h) {
            let peer = &self.seats[peer];
            let arrival = peer.host.borrow().worker().borrow().next(now);
            if let Some(at) = arrival {
                self.calendar.wake(peer.worker, at);
            }
        }
        if self.seats[h].host.borrow().hypervisor.borrow().has_input() {
            self.calendar.wake(self.seats[h].hypervisor, now);
        }
        self.interrupt(now, h, notified);
    }

    fn run_hypervisor(&mut self, now: Nanos, h: usize) {
        let (next, notified, events) = {
            let host = self.seats[h].host.borrow();
            let mut hypervisor = host.hypervisor.borrow();
            let events = self.step(now, &mut *hypervisor);
            show(&mut self.watchers, now, h, hypervisor.mirror_mut());
            (hypervisor.next(now), hypervisor.take_notified(), events)
        };
        self.calendar.set(self.seats[h].hypervisor, next);
        self.learn(now, h, &events);
        if self.seats[h].host.borrow().worker().borrow().has_pf_input() {
            self.calendar.wake(self.seats[h].worker, now);
        }
        self.interrupt(now, h, notified);
    }

    /// Has a plane do all that can be done now, and ask for kicks if there are any; what path `auto` could learn from it.
    fn step(&self, now: Nanos, plane: &mut impl Plane) -> Vec<FastEvent> {
        let mut events = Vec::new();
        loop {
            while plane.poll(now) > 0 {}
            for news in plane.take_news() {
                match news {
                    News::Broken(RingBroken { vf, ring, why }) => tracing::warn!(
                        "{vf}: ring {ring} is broken until its driver restarts it: {why}"
                    ),
                    News::Fast(event) => events.push(event),
                }
            }
            if !self.notification.kicks || !plane.arm(now) || plane.poll(now) == 0 {
                return events;
            }
        }
    }

    /// Lets path `auto` of a host learn; the NIC takes note at once.
    fn learn(&mut self, now: Nanos, h: usize, events: &[FastEvent]) {
        if !events.is_empty() && self.seats[h].host.borrow_mut().learn(events) {
            self.calendar.wake(self.seats[h].worker, now);
        }
    }

    /// Interrupts guests, each no sooner than its moderation allows.
    fn interrupt(&mut self, now: Nanos, h: usize, notified: Notified) {
        self.interrupt_by_functions(now, h);
        let Notified { rx, tx } = notified;
        for (direction, vfs) in [(Direction::Rx, rx), (Direction::Tx, tx)] {
            for vf in vfs.iter() {
                if self.has_function(h, vf) {
                    continue;
                }
                let (gap, packets) = self.moderation(h, vf, direction);
                let interrupt = &self.seats[h].interrupts[vf.index()][direction as usize];
                let due = interrupt.line.due(now, gap, packets);
                self.calendar.wake(interrupt.id, due);
            }
        }
    }
}

impl VirtualHosts {
    /// Whether a guest has a PCI function on the VF: its registers say when it is interrupted.
    fn has_function(&self, h: usize, vf: VfIndex) -> bool {
        let host = self.seats[h].host.borrow();
        let settings = host.settings.vf.get(vf.index());
        settings.is_some_and(|vf| vf.device != DeviceKind::Virtio)
    }

    /// Interrupts guests as functions say.
    fn interrupt_by_functions(&mut self, now: Nanos, h: usize) {
        let seat = &self.seats[h];
        let host = seat.host.borrow();
        for (i, [interrupt, _]) in seat.interrupts.iter().enumerate() {
            if host.wants_call(VfIndex::from(i)) {
                self.calendar.wake(interrupt.id, now);
            }
        }
    }
}

/// Shows watchers what has passed a plane of a host.
fn show(watchers: &mut [Watcher], at: Nanos, host: usize, mirror: &mut Mirror) {
    if watchers.is_empty() {
        return;
    }
    mirror.take(at, host, |seen| {
        for watcher in &mut *watchers {
            watcher(seen);
        }
    });
}

#[cfg(test)]
mod tests;
