//! Guests that end, and those that break the rules: each is named in one line and left out; the others go on for a while. Moves no clock.

use std::time::Instant;

use vf_model::VfIndex;

use super::error::SimulationError;
use super::guests::{LinuxGuest, State};
use super::simulation::Simulation;

impl Simulation {
    /// Nobody has said anything for as long as the watchdog bears.
    pub(super) fn give_up(&mut self) -> Result<(), SimulationError> {
        let seconds = self.settings.watchdog.as_secs();
        if self.started.is_none() {
            return Err(self.missing());
        }
        if let Some((h, vf)) = self.interrupted {
            let socket = self.port_name(h, vf);
            let what = format!("has not taken an interrupt of {socket} in {seconds} s");
            match self.owners[h][vf.index()] {
                Some(g) => self.expel(g, &what),
                None => {
                    self.blame(format!("the guest on {socket} {what}"));
                    self.close(h, vf);
                }
            }
        } else if let Some(g) = self.turn {
            self.expel(
                g,
                &format!("spins: it has run for {seconds} s without a word"),
            );
        }
        Ok(())
    }

    fn missing(&self) -> SimulationError {
        let come = |id: u64| self.guests.iter().any(|guest| guest.has_started(id));
        let missing: Vec<_> = self.children.names(|id| !come(id)).collect();
        let started = |guest: &&LinuxGuest| matches!(guest.state, State::Starting { .. });
        SimulationError::Missing {
            have: self.guests.iter().filter(started).count(),
            want: self.settings.guests,
            seconds: self.settings.watchdog.as_secs(),
            missing: if missing.is_empty() {
                String::new()
            } else {
                format!(", but not {}", missing.join(", "))
            },
        }
    }

    pub(super) fn asleep(&self) -> SimulationError {
        let sleeper = self.guests.iter().find(|guest| guest.state != State::Gone);
        SimulationError::Asleep {
            guest: sleeper.map_or(String::new(), |guest| self.title(guest)),
            now: self.world.now(),
        }
    }

    /// A guest has hung up. One that this process has not started and that stands still cannot have meant to.
    pub(super) fn lose(&mut self, g: usize) {
        if self.running == Some(g) {
            self.hear_time(g);
        }
        match self.children.bury(self.guests[g].name) {
            Some(status) if status.success() => return self.forget(g),
            Some(status) => return self.expel(g, &format!("has died: {status}")),
            None => {}
        }
        match self.guests[g].state {
            State::Waiting => self.expel(g, "has died"),
            State::Starting { .. } => self.expel(g, "has died before it started"),
            // Somebody who looked whether there is a calendar.
            State::Silent => self.forget(g),
            State::Running | State::Gone => self.forget(g),
        }
    }

    /// Goes on without a guest that breaks the rules; for a while, for whoever waits for it may do so for ever.
    pub(super) fn expel(&mut self, g: usize, why: &str) {
        if self.guests[g].state == State::Gone {
            return;
        }
        let name = self.title(&self.guests[g]);
        self.blame(format!("guest {name} {why}"));
        self.children.kill(self.guests[g].name);
        self.guests[g].hang_up();
        self.forget(g);
        let patience = self.settings.watchdog;
        self.cut_off
            .get_or_insert_with(|| Instant::now() + patience);
    }

    /// Notes a fault.
    pub(super) fn blame(&mut self, what: String) {
        let fault = format!("{what}, at {} of virtual time", self.world.now());
        tracing::warn!("{fault}");
        self.faults.push(fault);
    }

    /// A guest has ended. So have its sessions, now, whenever the news of that arrives.
    fn forget(&mut self, g: usize) {
        tracing::info!("guest {} has ended", self.title(&self.guests[g]));
        self.guests[g].state = State::Gone;
        if self.running == Some(g) {
            self.running = None;
            self.kicks_taken.clear();
        }
        if let Some(id) = self.ids.get(g) {
            self.world.set(*id, None);
        }
        for h in 0..self.owners.len() {
            for i in 0..self.owners[h].len() {
                if self.owners[h][i] == Some(g) {
                    self.close(h, VfIndex::from(i));
                }
            }
        }
    }

    /// Ends the session on a VF.
    fn close(&mut self, h: usize, vf: VfIndex) {
        self.owners[h][vf.index()] = None;
        let mut host = self.world.host(h).borrow_mut();
        host.close_session(vf);
        self.touched.push(h);
    }

    /// What the user knows a VF by.
    pub(super) fn port_name(&self, h: usize, vf: VfIndex) -> String {
        format!("{} {vf}", self.world.host(h).borrow().settings.name)
    }

    /// What the user knows a guest by.
    fn title(&self, guest: &LinuxGuest) -> String {
        if guest.state == State::Silent {
            return "without an ID".to_owned();
        }
        let name = self.children.name(guest.name);
        name.map_or_else(|| guest.name.to_string(), str::to_owned)
    }
}
