//! The loop that runs guests and hosts in turn: one thread, one participant at a time, all that it waits for is a socket.
//! A guest that breaks the rules is named and left out; the others go on. Knows nothing of what guests do.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::rc::Rc;
use std::time::{Duration, Instant};

use vf_model::{Command, Nanos, VfIndex};
use vf_nic::config::{Config, VfSettings};
use vf_nic::control::Change;
use vf_nic::instance::{NicInstance, VfSocket};
use vf_nic::server::ready::make_socket_dir;
use vf_nic::uplink::UplinkSpec;
use vf_nic::watch::{Detail, Direction};
use vf_vhost::listener::Listener;

use super::children::Children;
use super::control::Control;
use super::error::{SimulationError, system};
use super::guests::{LinuxGuest, State};
use super::message::clamp_to_i64;
use super::schedule::Schedule;
use crate::calendar::ParticipantId;
use crate::digest::Digest;
use crate::virtual_hosts::{Event, Notification, VirtualHosts, Watcher, cost_model};

/// What to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The socket that guests take their time from.
    pub calendar: PathBuf,
    /// How many guests there will be; none starts before all have come.
    pub guests: u16,
    /// Whether time is told through shared memory, or all of it by messages.
    pub shared: bool,
    /// When to end, if guests have not ended before.
    pub until: Option<Nanos>,
    /// Wall-clock time that a guest may run without a word.
    pub watchdog: Duration,
    /// Least time between two interrupts of a VF in one direction.
    pub moderation: Nanos,
    /// Whether to take a digest of all frames that pass a VF or arrive over a wire.
    pub digest: bool,
}

/// How a simulation went.
#[derive(Clone, Debug)]
pub struct Summary {
    /// When it ended.
    pub virtual_time: Nanos,
    /// How long it took from the moment that all guests had come.
    pub wall_time: Duration,
    /// How often a guest was run.
    pub runs: u64,
    /// Kicks of guests.
    pub kicks: u64,
    /// Interrupts of guests.
    pub interrupts: u64,
    /// A digest of time, port and bytes of every frame that passed a VF or arrived over a wire, if asked for.
    pub digest: Option<u64>,
    /// Guests that broke the rules and commands that were refused, a line each.
    pub faults: Vec<String>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wall = self.wall_time.as_secs_f64();
        write!(
            f,
            "{} of virtual time in {wall:.2} s; {} runs, {} kicks, {} interrupts",
            self.virtual_time, self.runs, self.kicks, self.interrupts
        )?;
        self.digest
            .map_or(Ok(()), |digest| write!(f, "; digest {digest:016x}"))
    }
}

/// Hosts with their sockets, and guests as they come.
pub struct Simulation {
    pub(super) settings: Settings,
    pub(super) world: VirtualHosts,
    /// The calendar's socket, where guests connect.
    pub(super) door: Listener,
    /// `None` only while it is in use.
    pub(super) control: Option<Control>,
    /// In the order of their IDs once all have come.
    pub(super) guests: Vec<LinuxGuest>,
    pub(super) children: Children,
    /// As many as there are guests, once all have come.
    pub(super) ids: Vec<ParticipantId>,
    /// The guest on each VF of each host, if it is known.
    pub(super) owners: Vec<Vec<Option<usize>>>,
    /// Hosts of which rings have been started or stopped.
    pub(super) touched: Vec<usize>,
    pub(super) schedule: Schedule,
    log: File,
    pub(super) stop: Option<UnixStream>,
    /// The guest that lets time pass.
    pub(super) running: Option<usize>,
    /// The guest that may say something: it runs, or is interrupted.
    pub(super) turn: Option<usize>,
    /// VFs whose kicks are answered once the guest that runs knows how far it may still go.
    pub(super) kicks_taken: Vec<(usize, VfIndex)>,
    /// The VF whose guest is to take an interrupt.
    pub(super) interrupted: Option<(usize, VfIndex)>,
    pub(super) heard: Instant,
    /// When all had come.
    pub(super) started: Option<Instant>,
    /// Before when all that happens is to happen now.
    pub(super) until: Nanos,
    /// When to give up on the others, some time after the first was lost.
    pub(super) cut_off: Option<Instant>,
    digest: Option<Digest>,
    runs: u64,
    pub(super) kicks: u64,
    interrupts: u64,
    pub(super) faults: Vec<String>,
}

impl Simulation {
    /// Makes the hosts and their sockets.
    ///
    /// # Errors
    /// [`SimulationError`]; what had been made is removed again.
    pub fn start(config: &Config, settings: Settings) -> Result<Simulation, SimulationError> {
        let cost = cost_model(config.hypervisor)?;
        make_socket_dir(&config.socket_dir)?;
        let mut nics = config.nics.clone();
        for nic in &mut nics {
            let real = |what| SimulationError::RealTime {
                nic: nic.name.clone(),
                what,
            };
            let uplink = nic.uplink.as_ref();
            if uplink.is_some_and(UplinkSpec::is_of_this_machine) {
                return Err(real("an uplink of this machine"));
            }
            if let Some(what) = nic.vf.iter().find_map(VfSettings::of_this_machine) {
                return Err(real(what));
            }
            // A guest on this clock has one CPU.
            nic.queue_pairs = 1;
        }
        let notification = Notification {
            kicks: true,
            moderation: settings.moderation,
        };
        let mut world = VirtualHosts::new(&nics, &config.wires, Some(cost), notification).map_err(
            |(h, vf, refusal)| SimulationError::Policy {
                nic: nics[h].name.clone(),
                vf,
                refusal,
            },
        )?;
        for host in world.hosts() {
            let mut host = host.borrow_mut();
            for i in 0..host.policy().num_vfs() {
                let mut device = host.device_config(VfIndex::from(i));
                device.coalescing.max_usecs =
                    u32::try_from(settings.moderation.0 / 1000).unwrap_or(u32::MAX);
                let socket = VfSocket::in_band(&host.settings.vf[i], device)?;
                host.vfs[i].socket = Some(socket);
            }
        }
        let digest = settings.digest.then(Digest::default);
        if let Some(digest) = &digest {
            world.watch(Detail::Head, digest.watcher());
        }
        let vfs = |host: &Rc<RefCell<NicInstance>>| host.borrow().vfs.len();
        let owners = world.hosts().map(|host| vec![None; vfs(host)]).collect();
        let door = Listener::bind(&settings.calendar).map_err(SimulationError::Calendar)?;
        Ok(Simulation {
            control: Some(Control::listen(config)?),
            schedule: Schedule::new(settings.guests, settings.shared)
                .map_err(system("shared memory"))?,
            log: File::options()
                .write(true)
                .open("/dev/null")
                .map_err(system("/dev/null"))?,
            settings,
            world,
            door,
            guests: Vec::new(),
            children: Children::default(),
            ids: Vec::new(),
            owners,
            touched: Vec::new(),
            stop: None,
            running: None,
            turn: None,
            kicks_taken: Vec::new(),
            interrupted: None,
            heard: Instant::now(),
            started: None,
            until: Nanos(u64::MAX),
            cut_off: None,
            digest,
            runs: 0,
            kicks: 0,
            interrupts: 0,
            faults: Vec::new(),
        })
    }

    /// Ends [`Simulation::run`] when something arrives on `stop`.
    pub fn stop_on(&mut self, stop: UnixStream) {
        self.stop = Some(stop);
    }

    /// This process has started this guest, which calls itself `id` on the calendar's socket: its exit status says whether
    /// it has ended or died, and its process group is killed with the simulation.
    pub fn watch_child(&mut self, id: u64, name: String, child: Child) {
        self.children.add(id, name, child);
    }

    /// Shows `watcher` every frame from now on, see [`VirtualHosts::watch`].
    pub fn watch(&mut self, detail: Detail, watcher: Watcher) {
        self.world.watch(detail, watcher);
    }

    /// Applies a command to a NIC at exactly `when`, before anything else that happens then. A refusal is a fault in the
    /// [`Summary`].
    pub fn at(&mut self, when: Nanos, nic: usize, command: Command) {
        self.world.at(when, nic, command);
    }

    /// The hosts, for their counters.
    #[must_use]
    pub fn world(&self) -> &VirtualHosts {
        &self.world
    }

    /// Runs until all guests have ended, the time is up, or the user says stop.
    ///
    /// # Errors
    /// [`SimulationError`], with all guests cut off.
    pub fn run(mut self) -> Result<Summary, SimulationError> {
        match self.run_until(Nanos(u64::MAX)) {
            Ok(_) | Err(SimulationError::Stopped) => Ok(self.finish()),
            Err(error) => Err(error),
        }
    }

    /// Runs until it is `until`, or until the time of the settings is up if that is sooner; the first time, waits for all
    /// guests to come. `false` if no guest is left, or none that is not held up by one that was lost.
    ///
    /// # Errors
    /// [`SimulationError`]; the simulation cannot go on then.
    pub fn run_until(&mut self, until: Nanos) -> Result<bool, SimulationError> {
        if self.started.is_none() {
            self.gather()?;
            self.started = Some(Instant::now());
        }
        self.until = until.min(self.settings.until.unwrap_or(Nanos(u64::MAX)));
        while self.guests.iter().any(|guest| guest.state != State::Gone) {
            self.serve_clients()?;
            self.tidy();
            match self.world.advance(self.until) {
                Some(Event::Guest(id)) => {
                    if let Some(g) = self.ids.iter().position(|known| *known == id) {
                        self.run_guest(g)?;
                    }
                }
                Some(Event::Interrupt {
                    host,
                    vf,
                    direction,
                }) => self.interrupt(host, vf, direction)?,
                Some(Event::Command { host, command }) => self.command(host, &command)?,
                None if self.until < Nanos(u64::MAX) => {
                    self.world.skip_to(self.until);
                    return Ok(true);
                }
                None if self.cut_off.is_some() => break,
                None => return Err(self.asleep()),
            }
            if self.cut_off.is_some_and(|at| at < Instant::now()) {
                break;
            }
        }
        Ok(false)
    }

    /// Guests that have broken the rules so far and commands that were refused, a line each.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Ends what is left of the guests, and says how it went.
    #[must_use]
    pub fn finish(self) -> Summary {
        Summary {
            virtual_time: self.world.now(),
            wall_time: self.started.map_or(Duration::ZERO, |at| at.elapsed()),
            runs: self.runs,
            kicks: self.kicks,
            interrupts: self.interrupts,
            digest: self.digest.map(|digest| digest.value()),
            faults: self.faults,
        }
    }

    /// Waits until all guests have come, and puts them in order.
    fn gather(&mut self) -> Result<(), SimulationError> {
        let started = |guest: &LinuxGuest| matches!(guest.state, State::Starting { .. });
        let want = usize::from(self.settings.guests);
        while self.guests.iter().filter(|guest| started(guest)).count() < want {
            self.guests.retain(|guest| guest.state != State::Gone);
            self.pump()?;
            self.serve_clients()?;
            if let Some((guest, status)) = self.children.exited() {
                return Err(SimulationError::Early { guest, status });
            }
            if self.cut_off.is_some()
                && let Some(fault) = self.faults.pop()
            {
                return Err(SimulationError::Fault(fault));
            }
        }
        self.guests.sort_by_key(|guest| guest.name);
        for pair in self.guests.windows(2) {
            if let [one, other] = pair
                && one.name == other.name
            {
                return Err(SimulationError::SameId(one.name));
            }
        }
        self.ids = (0..want).map(|_| self.world.join(Nanos(0))).collect();
        Ok(())
    }

    /// Lets a guest run until it stops.
    fn run_guest(&mut self, g: usize) -> Result<(), SimulationError> {
        let now = self.world.now();
        let shared = self.schedule.is_used_by(id(g));
        let limit = self.limit(g);
        let guest = &mut self.guests[g];
        match guest.state {
            State::Starting { seq } => {
                self.schedule.set_name(id(g), guest.name);
                self.schedule.run(id(g), now, limit);
                guest.state = State::Running;
                guest.admit(seq, id(g), self.schedule.as_fd(), self.log.as_fd());
            }
            State::Waiting => {
                self.schedule.run(id(g), now, limit);
                if !shared {
                    guest.limit(clamp_to_i64(limit.unwrap_or(Nanos(u64::MAX))));
                }
                if !guest.run(clamp_to_i64(now)) {
                    self.lose(g);
                    return Ok(());
                }
                guest.state = State::Running;
                guest.unanswered += u32::from(!shared);
            }
            _ => return Ok(()),
        }
        self.runs += 1;
        self.running = Some(g);
        self.turn = Some(g);
        while self.running == Some(g)
            || (self.guests[g].unanswered > 0 && self.guests[g].state != State::Gone)
        {
            self.pump()?;
        }
        self.turn = None;
        self.hear_time(g);
        self.schedule.stop(self.world.now());
        self.hear_wishes();
        Ok(())
    }

    /// Has the guest on a VF take its interrupts: it asks for time to handle them before it answers.
    fn interrupt(
        &mut self,
        h: usize,
        vf: VfIndex,
        direction: Direction,
    ) -> Result<(), SimulationError> {
        self.schedule.stop(self.world.now());
        // A guest on this clock has one pair of queues.
        let ring = direction as u32;
        let called = self.world.host(h).borrow_mut().call(vf, ring);
        if called {
            self.interrupts += 1;
            self.await_reply(h, vf)?;
        }
        self.hear_wishes();
        Ok(())
    }

    /// Waits until the guest on a VF has answered what it was told.
    fn await_reply(&mut self, h: usize, vf: VfIndex) -> Result<(), SimulationError> {
        self.interrupted = Some((h, vf));
        self.turn = self.owners[h][vf.index()];
        while self.awaits_reply(h, vf) {
            self.pump()?;
        }
        self.turn = None;
        self.interrupted = None;
        Ok(())
    }

    /// Carries out a command whose time has come.
    fn command(&mut self, h: usize, command: &Command) -> Result<(), SimulationError> {
        let policy = self.world.host(h).borrow().policy().with(command);
        match policy {
            Ok(policy) => {
                let change = Change {
                    nic: h,
                    policy,
                    said: command.to_string(),
                    notes: Vec::new(),
                };
                self.put_in_force(vec![change])?;
            }
            Err(refusal) => {
                let nic = self.world.host(h).borrow().settings.name.clone();
                self.blame(format!("{nic}: {command}: {refusal}"));
            }
        }
        Ok(())
    }

    /// Puts policies in force now, and waits until all guests that they concern have taken note.
    pub(super) fn put_in_force(
        &mut self,
        changes: Vec<Change>,
    ) -> Result<Vec<String>, SimulationError> {
        let now = self.world.now();
        self.schedule.stop(now);
        let nics: Vec<usize> = changes.iter().map(|change| change.nic).collect();
        let mut notes = Vec::new();
        for Change {
            nic, policy, said, ..
        } in changes
        {
            notes.extend(self.world.set_policy(nic, policy));
            let name = &self.world.host(nic).borrow().settings.name;
            tracing::info!("{name}: {said}, at {now} of virtual time");
        }
        for note in &notes {
            tracing::info!("{note}");
        }
        let peers: Vec<usize> = nics.iter().filter_map(|&h| self.world.peer(h)).collect();
        for h in nics.into_iter().chain(peers) {
            let vfs = self.world.host(h).borrow().vfs.len();
            for vf in (0..vfs).map(VfIndex::from) {
                self.await_reply(h, vf)?;
            }
        }
        self.hear_wishes();
        Ok(notes)
    }

    fn awaits_reply(&self, h: usize, vf: VfIndex) -> bool {
        let host = self.world.host(h).borrow();
        let socket = host.vfs[vf.index()].socket.as_ref();
        socket.is_some_and(VfSocket::awaits_reply)
    }

    /// When guest `g` has to stop by itself.
    pub(super) fn limit(&self, g: usize) -> Option<Nanos> {
        let others = self.world.limit(self.ids[g]);
        let until = (self.until < Nanos(u64::MAX)).then_some(self.until);
        others.into_iter().chain(until).min()
    }
}

/// The number of the `g`th guest in shared memory.
pub(super) fn id(g: usize) -> u16 {
    u16::try_from(g + 1).unwrap_or(u16::MAX)
}
