//! What guests say, on the calendar's socket and on those of their VFs: waits for it, and does what it asks for. Never says who runs next:
//! that is the calendar's.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vf_model::{Nanos, VfIndex};
use vf_nic::instance::VfSocket;

use super::error::{SimulationError, system};
use super::guests::{FromGuest, LinuxGuest, State};
use super::message::{Message, Op, clamp_to_i64};
use super::simulation::{Simulation, id};

/// The time of day at virtual time zero, in seconds since 1970: the same in every run.
const TIME_OF_DAY: u64 = 1_262_304_000;
/// How often children and clients are looked after while nobody says anything, in wall time.
const TICK: Duration = Duration::from_millis(100);

/// Who has something to say.
#[derive(Clone, Copy)]
enum EventSource {
    Stop,
    Guest(usize),
    Vf(usize, VfIndex),
    Reply(usize, VfIndex),
    Listener,
}

impl Simulation {
    /// Waits until somebody has something to say, and hears one of them.
    pub(super) fn pump(&mut self) -> Result<(), SimulationError> {
        let Some(voice) = self.listen()? else {
            // Its helpers keep the sockets of a guest open.
            self.children.exited();
            return if self.heard.elapsed() < self.settings.watchdog {
                Ok(())
            } else {
                self.heard = Instant::now();
                self.give_up()
            };
        };
        self.heard = Instant::now();
        match voice {
            EventSource::Stop => return Err(SimulationError::Stopped),
            EventSource::Guest(g) => {
                let heard = self.guests[g].hear();
                self.take(g, heard);
            }
            EventSource::Vf(h, vf) => self.serve(h, vf),
            EventSource::Reply(h, vf) => self.hear_reply(h, vf),
            EventSource::Listener => {
                let guest = self.door.accept().map_err(system("calendar"))?;
                self.guests.extend(guest.map(LinuxGuest::new));
            }
        }
        Ok(())
    }

    /// Who is to be heard first; `None` if nobody says anything for a while. While a guest has its turn the others stand
    /// still, and need not be listened to.
    fn listen(&self) -> Result<Option<EventSource>, SimulationError> {
        let hosts: Vec<_> = self.world.hosts().map(|host| host.borrow()).collect();
        let mut voices: Vec<(EventSource, BorrowedFd<'_>)> = Vec::new();
        voices.extend(
            self.stop
                .iter()
                .map(|stop| (EventSource::Stop, stop.as_fd())),
        );
        for (g, guest) in self.guests.iter().enumerate() {
            if guest.state != State::Gone && self.turn.is_none_or(|turn| turn == g) {
                voices.push((EventSource::Guest(g), guest.as_fd()));
            }
        }
        for (h, (host, owners)) in hosts.iter().zip(&self.owners).enumerate() {
            for (i, (vf, owner)) in host.vfs.iter().zip(owners).enumerate() {
                if self.turn.is_some() && owner.is_some() && *owner != self.turn {
                    continue;
                }
                if let Some(socket) = &vf.socket {
                    let vf = VfIndex::from(i);
                    let reply = socket.awaited_reply();
                    voices.extend(reply.map(|fd| (EventSource::Reply(h, vf), fd)));
                    voices.extend(socket.socket().map(|fd| (EventSource::Vf(h, vf), fd)));
                }
            }
        }
        if self.ids.is_empty() {
            voices.push((EventSource::Listener, self.door.as_fd()));
        }
        let mut fds: Vec<_> = voices
            .iter()
            .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        let patience = self.settings.watchdog.min(TICK);
        let timeout = Timespec::try_from(patience).ok();
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(system("poll")(errno.into())),
        }
        let ready = fds.iter().position(|fd| !fd.revents().is_empty());
        Ok(ready.and_then(|at| voices.get(at)).map(|(voice, _)| *voice))
    }

    pub(super) fn take(&mut self, g: usize, heard: FromGuest) {
        match heard {
            FromGuest::Nothing => {}
            FromGuest::Message(message) => self.obey(g, message),
            FromGuest::Garbage => self.expel(g, "says what is no message"),
            FromGuest::End => self.lose(g),
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
                if self.guests[g].unanswered == 0 {
                    self.acknowledge_kicks();
                }
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
                self.guests[g].free_until = None;
                if self.schedule.is_used_by(id(g)) {
                    return; // not to be answered
                }
            }
            Op::Get => answer = clamp_to_i64(now),
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
    pub(super) fn hear_time(&mut self, g: usize) {
        if self.guests[g].state != State::Gone && self.schedule.is_used_by(id(g)) {
            let at = self.schedule.now();
            self.let_pass(g, at);
        }
    }

    /// Takes wishes from the memory that is shared with guests.
    pub(super) fn hear_wishes(&mut self) {
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
        let (kicked, changed) = {
            let mut host = self.world.host(h).borrow_mut();
            let rings = host.rings(vf);
            host.poll(vf, now);
            let socket = host.vfs[vf.index()].socket.as_ref();
            let kicked = socket.is_some_and(VfSocket::is_kicked);
            (kicked, host.rings(vf) != rings)
        };
        if changed {
            self.touched.push(h);
        }
        if !kicked {
            return self.note_session(h, vf);
        }
        // The time is read behind the kick and not before it: while its socket was served the guest may have run on, and its kick is of that
        // later time.
        if let Some(g) = self.running {
            self.hear_time(g);
        }
        self.kicks += 1;
        self.world.host(h).borrow_mut().obey_kick(vf);
        self.world.kicked(h, vf);
        self.kicks_taken.push((h, vf));
        if !self.lower_limit() {
            self.acknowledge_kicks();
        }
    }

    /// Tells the guest that runs of what has come up since it was told how far it may go; whether it is to acknowledge that.
    fn lower_limit(&mut self) -> bool {
        let Some(g) = self.running else {
            return false;
        };
        let limit = self.limit(g);
        self.schedule.limit(limit);
        let shared = self.schedule.is_used_by(id(g));
        let guest = &mut self.guests[g];
        // A guest that has just started was told of no limit, and asks.
        !shared
            && guest.free_until.is_some()
            && guest.limit(clamp_to_i64(limit.unwrap_or(Nanos(u64::MAX))))
    }

    /// Has guests go on behind their kicks.
    fn acknowledge_kicks(&mut self) {
        for (h, vf) in self.kicks_taken.drain(..) {
            let mut host = self.world.host(h).borrow_mut();
            host.acknowledge_kick(vf, Instant::now());
        }
    }

    fn hear_reply(&mut self, h: usize, vf: VfIndex) {
        let mut host = self.world.host(h).borrow_mut();
        host.hear_replies(vf, Instant::now());
        drop(host);
        self.note_session(h, vf);
    }

    /// Has the hosts whose rings have been started or stopped look at what is left, now that no guest runs. Before that the time is
    /// not known: a guest tells it when it kicks, and otherwise goes on as far as it may.
    pub(super) fn tidy(&mut self) {
        for h in self.touched.drain(..) {
            self.world.wake_host(h);
        }
    }

    /// Whoever runs when a VF's session begins has the VF. If the session has ended, it may not have done so.
    fn note_session(&mut self, h: usize, vf: VfIndex) {
        let owner = &mut self.owners[h][vf.index()];
        let (connected, fault) = {
            let mut host = self.world.host(h).borrow_mut();
            let vf = &mut host.vfs[vf.index()];
            let socket = vf.socket.as_ref();
            let connected = socket.is_some_and(VfSocket::is_connected);
            (connected, vf.fault.take())
        };
        let who = *owner;
        *owner = connected.then(|| who.or(self.running)).flatten();
        if let Some(why) = fault {
            let socket = self.port_name(h, vf);
            match who.or(self.running) {
                Some(g) => self.expel(g, &format!("breaks the protocol of {socket}: {why}")),
                None => self.blame(format!("{socket}: {why}")),
            }
        }
    }
}
