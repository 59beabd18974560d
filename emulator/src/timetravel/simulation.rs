//! The loop that runs guests and hosts in turn: one thread, one participant at a time, all that it waits for is a socket.
//! A guest that breaks the rules is named and left out; the others go on.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vf_model::{Command, Nanos, VfIndex};
use vf_vhost::endpoint::Endpoint;
use vf_vhost::features::ProtocolFeatures;

use super::children::Children;
use super::error::{SimulationError, system};
use super::guests::{Door, Guest, Heard, State};
use super::message::{Message, Op, bearable};
use super::schedule::Schedule;
use crate::calendar::ParticipantId;
use crate::config::{Config, HypervisorCpu, SocketRole};
use crate::watch::{Digest, Watcher};
use crate::world::{Notification, Turn, World};

/// The time of day at virtual time zero, in seconds since 1970: the same in every run.
const TIME_OF_DAY: u64 = 1_262_304_000;
/// How soon the death of a child is noticed, in wall time.
const TICK: Duration = Duration::from_millis(100);

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
    /// Least time between two interrupts of a VF.
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

/// Who has something to say.
#[derive(Clone, Copy)]
enum Voice {
    Stop,
    Guest(usize),
    Vf(usize, VfIndex),
    Door,
}

/// Hosts with their sockets, and guests as they come.
pub struct Simulation {
    settings: Settings,
    world: World,
    door: Door,
    /// In the order of their IDs once all have come.
    guests: Vec<Guest>,
    children: Children,
    /// As many as there are guests, once all have come.
    ids: Vec<ParticipantId>,
    schedule: Schedule,
    log: File,
    stop: Option<UnixStream>,
    running: Option<usize>,
    /// The VF whose guest is to take an interrupt.
    interrupted: Option<(usize, VfIndex)>,
    heard: Instant,
    /// When all had come.
    started: Option<Instant>,
    /// Before when all that happens is to happen now.
    until: Nanos,
    /// When to give up on the others, some time after the first fault.
    cut_off: Option<Instant>,
    digest: Option<Digest>,
    runs: u64,
    kicks: u64,
    interrupts: u64,
    faults: Vec<String>,
}

impl Simulation {
    /// Makes the hosts and their sockets.
    ///
    /// # Errors
    /// [`SimulationError`]; what had been made is removed again.
    pub fn start(config: &Config, settings: Settings) -> Result<Simulation, SimulationError> {
        std::fs::create_dir_all(&config.socket_dir).map_err(system("socket directory"))?;
        let mut nics = config.nics.clone();
        for nic in &mut nics {
            let real = |what| SimulationError::RealTime {
                nic: nic.name.clone(),
                what,
            };
            if nic.tap.is_some() {
                return Err(real("a tap device"));
            }
            if nic.vf.iter().any(|vf| vf.role == SocketRole::Client) {
                return Err(real("a guest that listens"));
            }
            // A guest on this clock has one CPU.
            nic.queue_pairs = 1;
        }
        let cost = match config.hypervisor {
            HypervisorCpu::Measured => None,
            HypervisorCpu::Model => Some(vf_model::CostModel::default()),
        };
        let notification = Notification {
            kicks: true,
            moderation: settings.moderation,
        };
        let mut world =
            World::new(&nics, &config.wires, cost, notification).map_err(|(h, vf, refusal)| {
                SimulationError::Policy {
                    nic: nics[h].name.clone(),
                    vf,
                    refusal,
                }
            })?;
        for host in world.hosts() {
            let mut host = host.borrow_mut();
            for i in 0..host.vfs.len() {
                let mut device = host.device_config(VfIndex::from(i));
                device.protocol_features |= ProtocolFeatures::INBAND_NOTIFICATIONS;
                let endpoint = Endpoint::listen(&host.settings.vf[i].socket, device)?;
                host.vfs[i].endpoint = Some(endpoint);
            }
        }
        let digest = settings.digest.then(Digest::default);
        if let Some(digest) = &digest {
            world.watch(digest.watcher());
        }
        let door = Door::open(&settings.calendar).map_err(|source| SimulationError::Calendar {
            path: settings.calendar.clone(),
            source,
        })?;
        Ok(Simulation {
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
            stop: None,
            running: None,
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

    /// Shows `watcher` every frame from now on, see [`World::watch`].
    pub fn watch(&mut self, watcher: Watcher) {
        self.world.watch(watcher);
    }

    /// Applies a command to a NIC at exactly `when`, before anything else that happens then. A refusal is a fault in the
    /// [`Summary`].
    pub fn at(&mut self, when: Nanos, nic: usize, command: Command) {
        self.world.at(when, nic, command);
    }

    /// The hosts, for their counters.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Runs until all guests have ended, or the time is up.
    ///
    /// # Errors
    /// [`SimulationError`], with all guests cut off.
    pub fn run(mut self) -> Result<Summary, SimulationError> {
        self.run_until(Nanos(u64::MAX))?;
        Ok(self.finish())
    }

    /// Runs until it is `until`, or until the time of the settings is up if that is sooner; the first time, waits for all
    /// guests to come. `false` if no guest is left.
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
            match self.world.advance(self.until) {
                Some(Turn::Guest(id)) => {
                    if let Some(g) = self.ids.iter().position(|known| *known == id) {
                        self.run_guest(g)?;
                    }
                }
                Some(Turn::Interrupt { host, vf }) => self.interrupt(host, vf)?,
                Some(Turn::Command { host, command }) => self.command(host, &command)?,
                None if self.until < Nanos(u64::MAX) => {
                    self.world.skip_to(self.until);
                    return Ok(true);
                }
                None => return Err(self.asleep()),
            }
            // Whoever waits for one that is gone may do so for ever.
            if !self.faults.is_empty() {
                let patience = self.settings.watchdog;
                let at = *self
                    .cut_off
                    .get_or_insert_with(|| Instant::now() + patience);
                if at < Instant::now() {
                    break;
                }
            }
        }
        Ok(false)
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
        let started = |guest: &Guest| matches!(guest.state, State::Starting { .. });
        let want = usize::from(self.settings.guests);
        while self.guests.iter().filter(|guest| started(guest)).count() < want {
            self.guests.retain(|guest| guest.state != State::Gone);
            self.pump()?;
            if let Some((guest, status)) = self.children.exited() {
                return Err(SimulationError::Early { guest, status });
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
        if self.guests[g].state == State::Waiting {
            // It may have died in the meantime.
            let heard = self.guests[g].hear();
            self.take(g, heard);
        }
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
                guest.state = State::Running;
                guest.unanswered += u32::from(!shared);
                guest.run(bearable(now));
            }
            _ => return Ok(()),
        }
        self.runs += 1;
        self.running = Some(g);
        while self.running == Some(g)
            || (self.guests[g].unanswered > 0 && self.guests[g].state != State::Gone)
        {
            self.pump()?;
        }
        self.hear_time(g);
        self.schedule.stop(self.world.now());
        self.hear_wishes();
        Ok(())
    }

    /// Has the guest on a VF take its interrupts: it asks for time to handle them before it answers.
    fn interrupt(&mut self, h: usize, vf: VfIndex) -> Result<(), SimulationError> {
        self.schedule.stop(self.world.now());
        self.interrupted = Some((h, vf));
        while self.endpoint(h, vf, Endpoint::call) {
            self.interrupts += 1;
            while self.endpoint(h, vf, |endpoint| endpoint.awaits_reply()) {
                self.pump()?;
            }
        }
        self.interrupted = None;
        self.hear_wishes();
        Ok(())
    }

    /// Applies a command, and waits until all guests that it concerns have taken note.
    fn command(&mut self, h: usize, command: &Command) -> Result<(), SimulationError> {
        let now = self.world.now();
        self.schedule.stop(now);
        let outcome = self.world.apply(h, command);
        let vfs = {
            let host = self.world.host(h).borrow();
            let nic = &host.settings.name;
            match outcome {
                Ok(notes) => {
                    tracing::info!("{nic}: {command}, at {now} of virtual time");
                    for note in notes {
                        tracing::info!("{nic}: {note}");
                    }
                }
                Err(refusal) => {
                    let fault = format!("{nic}: {command}: {refusal}, at {now} of virtual time");
                    tracing::warn!("{fault}");
                    self.faults.push(fault);
                }
            }
            host.vfs.len()
        };
        for vf in (0..vfs).map(VfIndex::from) {
            self.interrupted = Some((h, vf));
            while self.endpoint(h, vf, |endpoint| endpoint.awaits_reply()) {
                self.pump()?;
            }
        }
        self.interrupted = None;
        self.hear_wishes();
        Ok(())
    }

    fn endpoint(&self, h: usize, vf: VfIndex, ask: impl FnOnce(&mut Endpoint) -> bool) -> bool {
        let mut host = self.world.host(h).borrow_mut();
        host.vfs[vf.index()].endpoint.as_mut().is_some_and(ask)
    }

    /// When guest `g` has to stop by itself.
    fn limit(&self, g: usize) -> Option<Nanos> {
        let others = self.world.limit(self.ids[g]);
        let until = (self.until < Nanos(u64::MAX)).then_some(self.until);
        others.into_iter().chain(until).min()
    }

    /// Waits until somebody has something to say, and hears one of them.
    fn pump(&mut self) -> Result<(), SimulationError> {
        let Some(voice) = self.listen()? else {
            // Its helpers keep the sockets of a guest open.
            self.children.exited();
            return if self.heard.elapsed() < self.settings.watchdog {
                Ok(())
            } else {
                Err(self.silence())
            };
        };
        self.heard = Instant::now();
        match voice {
            Voice::Stop => return Err(SimulationError::Stopped),
            Voice::Guest(g) => {
                let heard = self.guests[g].hear();
                self.take(g, heard);
            }
            Voice::Vf(h, vf) => self.serve(h, vf),
            Voice::Door => self
                .guests
                .push(self.door.admit().map_err(system("calendar"))?),
        }
        Ok(())
    }

    /// Who is to be heard first; `None` if nobody says anything while the watchdog sleeps.
    fn listen(&self) -> Result<Option<Voice>, SimulationError> {
        let hosts: Vec<_> = self.world.hosts().map(|host| host.borrow()).collect();
        let mut voices: Vec<(Voice, BorrowedFd<'_>)> = Vec::new();
        for (g, guest) in self.guests.iter().enumerate() {
            if guest.state != State::Gone {
                voices.push((Voice::Guest(g), guest.as_fd()));
            }
        }
        for (h, host) in hosts.iter().enumerate() {
            for (i, vf) in host.vfs.iter().enumerate() {
                for fd in vf.endpoint.iter().flat_map(Endpoint::sockets) {
                    voices.push((Voice::Vf(h, VfIndex::from(i)), fd));
                }
            }
        }
        voices.extend(self.stop.iter().map(|stop| (Voice::Stop, stop.as_fd())));
        if self.ids.is_empty() {
            voices.push((Voice::Door, self.door.as_fd()));
        }
        let mut fds: Vec<_> = voices
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let left = self.settings.watchdog.saturating_sub(self.heard.elapsed());
        let left = if self.children.is_empty() {
            left
        } else {
            left.min(TICK)
        };
        let timeout = Timespec::try_from(left).ok();
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(system("poll")(errno.into())),
        }
        let ready = fds.iter().position(|fd| !fd.revents().is_empty());
        Ok(ready.and_then(|at| voices.get(at)).map(|(voice, _)| *voice))
    }

    fn silence(&self) -> SimulationError {
        let seconds = self.settings.watchdog.as_secs();
        let now = self.world.now();
        if let Some((h, vf)) = self.interrupted {
            return SimulationError::Deaf {
                nic: self.world.host(h).borrow().settings.name.clone(),
                vf,
                seconds,
                now,
            };
        }
        match self.running.and_then(|g| self.guests.get(g)) {
            Some(guest) => SimulationError::Spins {
                guest: self.title(guest),
                seconds,
                now,
            },
            None => SimulationError::Missing {
                have: self.guests.len(),
                want: self.settings.guests,
                seconds,
            },
        }
    }

    fn asleep(&self) -> SimulationError {
        let sleeper = self.guests.iter().find(|guest| guest.state != State::Gone);
        SimulationError::Asleep {
            guest: sleeper.map_or(String::new(), |guest| self.title(guest)),
            now: self.world.now(),
        }
    }

    fn take(&mut self, g: usize, heard: Heard) {
        match heard {
            Heard::Nothing => {}
            Heard::Message(message) => self.obey(g, message),
            Heard::Garbage => self.expel(g, "says what is no message"),
            Heard::End => self.lose(g),
        }
    }

    fn obey(&mut self, g: usize, message: Message) {
        let Message { op, seq, time } = message;
        if self.ids.is_empty() && op != Op::Start {
            return self.expel(g, "says something before it is told to start");
        }
        let now = self.world.now();
        let mut answer = 0;
        match op {
            Op::Ack if self.guests[g].unanswered > 0 => {
                self.guests[g].unanswered -= 1;
                return;
            }
            Op::Start if self.guests[g].state == State::Silent => {
                self.guests[g].name = time;
                self.guests[g].state = State::Starting { seq };
                return; // answered when it is its turn
            }
            Op::Request => self.request(g, Nanos(time)),
            Op::Wait if self.running == Some(g) => {
                self.running = None;
                self.guests[g].state = State::Waiting;
                if self.schedule.is_used_by(id(g)) {
                    return; // not to be answered
                }
            }
            Op::Get => answer = bearable(now),
            Op::Update if self.running == Some(g) => {
                if !self.let_pass(g, Nanos(time)) {
                    return;
                }
            }
            Op::GetTimeOfDay => answer = TIME_OF_DAY * 1_000_000_000 + now.0,
            Op::Broadcast => {}
            _ => return self.expel(g, "says what it may not say now"),
        }
        self.guests[g].answer(seq, answer);
    }

    /// A guest wants to run at `at`; even one that is stopped, when it is interrupted.
    fn request(&mut self, g: usize, at: Nanos) {
        if self.schedule.is_used_by(id(g)) {
            self.schedule.set_wish(id(g), at);
        }
        self.world.set(self.ids[g], Some(at));
        if self.running != Some(g) {
            self.schedule.limit(Some(at));
        }
    }

    /// It is `at` for the guest that runs; `false`, and it does not run any more, if that cannot be.
    fn let_pass(&mut self, g: usize, at: Nanos) -> bool {
        let possible = at >= self.world.now() && self.world.pass(self.ids[g], at);
        if !possible {
            self.expel(g, &format!("has a time of its own, {at}"));
        }
        possible
    }

    /// Takes the time from the memory that is shared with the guest that runs.
    fn hear_time(&mut self, g: usize) {
        if self.guests[g].state != State::Gone && self.schedule.is_used_by(id(g)) {
            let at = self.schedule.now();
            self.let_pass(g, at);
        }
    }

    /// Takes wishes from the memory that is shared with guests.
    fn hear_wishes(&mut self) {
        for (g, guest) in self.guests.iter().enumerate() {
            if guest.state == State::Waiting && self.schedule.is_used_by(id(g)) {
                self.world.set(self.ids[g], self.schedule.wish(id(g)));
            }
        }
    }

    /// Serves a VF's socket. A kick is taken care of before it is answered.
    fn serve(&mut self, h: usize, vf: VfIndex) {
        // Only sockets that are connected to again need the time.
        let now = Instant::now();
        loop {
            let kicked = self
                .world
                .host(h)
                .borrow_mut()
                .serve(vf, |endpoint, device| {
                    endpoint.poll(now, device);
                    endpoint.kick().is_some()
                });
            if kicked != Some(true) {
                return;
            }
            self.kicks += 1;
            if let Some(g) = self.running {
                self.hear_time(g);
            }
            self.world.kicked(h, vf);
            if let Some(g) = self.running {
                self.schedule.limit(self.limit(g));
            }
            let mut host = self.world.host(h).borrow_mut();
            host.serve(vf, |endpoint, device| {
                endpoint.acknowledge_kick(now, device)
            });
        }
    }

    /// A guest has hung up. One that this process has not started and that stands still cannot have meant to.
    fn lose(&mut self, g: usize) {
        match self.children.bury(self.guests[g].name) {
            Some(status) if status.success() => return self.forget(g),
            Some(status) => return self.expel(g, &format!("has died: {status}")),
            None => {}
        }
        match self.guests[g].state {
            State::Waiting => self.expel(g, "has died"),
            State::Starting { .. } | State::Silent => self.expel(g, "has died before it started"),
            State::Running | State::Gone => self.forget(g),
        }
    }

    /// Goes on without a guest that breaks the rules.
    fn expel(&mut self, g: usize, why: &str) {
        let name = self.title(&self.guests[g]);
        let fault = format!(
            "guest {name} {why}, at {} of virtual time",
            self.world.now()
        );
        tracing::warn!("{fault}");
        self.faults.push(fault);
        self.forget(g);
    }

    fn forget(&mut self, g: usize) {
        tracing::info!("guest {} has ended", self.title(&self.guests[g]));
        self.guests[g].state = State::Gone;
        if self.running == Some(g) {
            self.running = None;
        }
        if let Some(id) = self.ids.get(g) {
            self.world.set(*id, None);
        }
    }

    /// What the user knows a guest by.
    fn title(&self, guest: &Guest) -> String {
        let name = self.children.name(guest.name);
        name.map_or_else(|| guest.name.to_string(), str::to_owned)
    }
}

/// The number of the `g`th guest in shared memory.
fn id(g: usize) -> u16 {
    u16::try_from(g + 1).unwrap_or(u16::MAX)
}
