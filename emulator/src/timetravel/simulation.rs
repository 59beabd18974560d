//! The loop that runs guests and hosts in turn: one thread, one participant at a time, all that it waits for is a socket.
//! A guest that breaks the rules is named and left out; the others go on.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vf_model::{Nanos, Refusal, VfIndex};
use vf_vhost::endpoint::{Endpoint, EndpointError};
use vf_vhost::features::ProtocolFeatures;

use super::guests::{Door, Guest, Heard, State};
use super::message::{Message, Op, bearable};
use super::schedule::Schedule;
use crate::calendar::ParticipantId;
use crate::config::{Config, HypervisorCpu, SocketRole};
use crate::world::{Notification, Turn, World};

/// The time of day at virtual time zero, in seconds since 1970: the same in every run.
const TIME_OF_DAY: u64 = 1_262_304_000;

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
    /// Whether to take a digest of all frames on wires.
    pub digest: bool,
}

/// Why a simulation cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    /// The calendar's socket cannot be made.
    #[error("calendar {path}: {source}")]
    Calendar {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A VF's socket cannot be made.
    #[error("{0}")]
    Socket(#[from] EndpointError),
    /// Something that lives in real time.
    #[error("{nic}: {what} cannot be on the virtual clock")]
    RealTime {
        /// The NIC.
        nic: String,
        /// What.
        what: &'static str,
    },
    /// An initial setting is refused.
    #[error("{nic} {vf}: {refusal}")]
    Policy {
        /// The NIC.
        nic: String,
        /// The VF.
        vf: VfIndex,
        /// Why.
        refusal: Refusal,
    },
    /// Guests are missing.
    #[error("{have} of {want} guests have come in {seconds} s")]
    Missing {
        /// Those who have come.
        have: usize,
        /// Those who should have.
        want: u16,
        /// How long they had.
        seconds: u64,
    },
    /// Two guests have the same ID.
    #[error("two guests have the ID {0}: say time-travel=ext:ID:SOCKET with another for each")]
    SameId(u64),
    /// A guest that never gives the clock back.
    #[error(
        "guest {guest} spins: it has run for {seconds} s without a word, at {now} of virtual time"
    )]
    Spins {
        /// Its ID.
        guest: u64,
        /// How long, of wall time.
        seconds: u64,
        /// Since when.
        now: Nanos,
    },
    /// A guest that does not take an interrupt.
    #[error(
        "the guest on {nic} {vf} has not taken an interrupt in {seconds} s, at {now} of virtual time"
    )]
    Deaf {
        /// The NIC.
        nic: String,
        /// The VF.
        vf: VfIndex,
        /// How long, of wall time.
        seconds: u64,
        /// Since when.
        now: Nanos,
    },
    /// Nothing will ever happen again.
    #[error("guest {guest} sleeps for ever: nothing is left to happen at {now} of virtual time")]
    Asleep {
        /// Its ID.
        guest: u64,
        /// Since when.
        now: Nanos,
    },
    /// The user has had enough.
    #[error("stopped")]
    Stopped,
    /// The system refuses something basic.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl SimulationError {
    /// Whether the user's words are at fault rather than a guest or the machine.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        use SimulationError as E;
        matches!(
            self,
            E::Calendar { .. } | E::Socket(_) | E::RealTime { .. } | E::Policy { .. }
        )
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> SimulationError {
    move |source| SimulationError::System { what, source }
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
    /// A digest of time, port and bytes of every frame that arrived over a wire, if asked for.
    pub digest: Option<u64>,
    /// Guests that broke the rules, a line each.
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
    /// As many as there are guests, once all have come.
    ids: Vec<ParticipantId>,
    schedule: Schedule,
    log: File,
    stop: Option<UnixStream>,
    running: Option<usize>,
    /// The VF whose guest is to take an interrupt.
    interrupted: Option<(usize, VfIndex)>,
    heard: Instant,
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
        let world =
            World::new(&nics, &config.wires, cost, notification).map_err(|(h, vf, refusal)| {
                SimulationError::Policy {
                    nic: nics[h].name.clone(),
                    vf,
                    refusal,
                }
            })?;
        for host in world.hosts() {
            let mut host = host.borrow_mut();
            if settings.digest {
                host.adapter.borrow().uplink_mut().watch();
            }
            for i in 0..host.vfs.len() {
                let mut device = host.device_config(VfIndex::from(i));
                device.protocol_features |= ProtocolFeatures::INBAND_NOTIFICATIONS;
                let endpoint = Endpoint::listen(&host.settings.vf[i].socket, device)?;
                host.vfs[i].endpoint = Some(endpoint);
            }
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
            ids: Vec::new(),
            stop: None,
            running: None,
            interrupted: None,
            heard: Instant::now(),
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

    /// Runs until all guests have ended, or the time is up.
    ///
    /// # Errors
    /// [`SimulationError`], with all guests cut off.
    pub fn run(mut self) -> Result<Summary, SimulationError> {
        self.gather()?;
        let started = Instant::now();
        let mut cut_off = None;
        while self.guests.iter().any(|guest| guest.state != State::Gone) {
            let end = self.settings.until.unwrap_or(Nanos(u64::MAX));
            match self.world.advance(end) {
                Some(Turn::Guest(id)) => {
                    if let Some(g) = self.ids.iter().position(|known| *known == id) {
                        self.run_guest(g)?;
                    }
                }
                Some(Turn::Interrupt { host, vf }) => self.interrupt(host, vf)?,
                None if self.settings.until.is_some() => {
                    self.world.skip_to(end);
                    break;
                }
                None => return Err(self.asleep()),
            }
            // Whoever waits for one that is gone may do so for ever.
            if !self.faults.is_empty() {
                let at = *cut_off.get_or_insert_with(|| Instant::now() + self.settings.watchdog);
                if at < Instant::now() {
                    break;
                }
            }
        }
        Ok(Summary {
            virtual_time: self.world.now(),
            wall_time: started.elapsed(),
            runs: self.runs,
            kicks: self.kicks,
            interrupts: self.interrupts,
            digest: self.settings.digest.then(|| self.digest()),
            faults: self.faults,
        })
    }

    /// Waits until all guests have come, and puts them in order.
    fn gather(&mut self) -> Result<(), SimulationError> {
        let started = |guest: &Guest| matches!(guest.state, State::Starting { .. });
        let want = usize::from(self.settings.guests);
        while self.guests.iter().filter(|guest| started(guest)).count() < want {
            self.guests.retain(|guest| guest.state != State::Gone);
            self.pump()?;
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

    fn endpoint(&self, h: usize, vf: VfIndex, ask: impl FnOnce(&mut Endpoint) -> bool) -> bool {
        let mut host = self.world.host(h).borrow_mut();
        host.vfs[vf.index()].endpoint.as_mut().is_some_and(ask)
    }

    /// When guest `g` has to stop by itself.
    fn limit(&self, g: usize) -> Option<Nanos> {
        let others = self.world.limit(self.ids[g]);
        others.into_iter().chain(self.settings.until).min()
    }

    /// Waits until somebody has something to say, and hears one of them.
    fn pump(&mut self) -> Result<(), SimulationError> {
        let Some(voice) = self.listen()? else {
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
                guest: guest.name,
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
            guest: sleeper.map_or(0, |guest| guest.name),
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

    /// A guest has hung up. One that stands still cannot have meant to.
    fn lose(&mut self, g: usize) {
        match self.guests[g].state {
            State::Waiting => self.expel(g, "has died"),
            State::Starting { .. } | State::Silent => self.expel(g, "has died before it started"),
            State::Running | State::Gone => self.forget(g),
        }
    }

    /// Goes on without a guest that breaks the rules.
    fn expel(&mut self, g: usize, why: &str) {
        let name = self.guests[g].name;
        let fault = format!(
            "guest {name} {why}, at {} of virtual time",
            self.world.now()
        );
        tracing::warn!("{fault}");
        self.faults.push(fault);
        self.forget(g);
    }

    fn forget(&mut self, g: usize) {
        tracing::info!("guest {} has ended", self.guests[g].name);
        self.guests[g].state = State::Gone;
        if self.running == Some(g) {
            self.running = None;
        }
        if let Some(id) = self.ids.get(g) {
            self.world.set(*id, None);
        }
    }

    fn digest(&self) -> u64 {
        let hosts = self.world.hosts();
        hosts.fold(0, |digest: u64, host| {
            let of_port = host.borrow().adapter.borrow().uplink().digest();
            digest.rotate_left(7) ^ of_port
        })
    }
}

/// The number of the `g`th guest in shared memory.
fn id(g: usize) -> u16 {
    u16::try_from(g + 1).unwrap_or(u16::MAX)
}
