//! The control socket on the virtual clock: the same words as on the wall clock. Clients are looked after now and then, in
//! wall time, between two turns; what they ask for happens at the virtual time that it is then. Decides nothing about
//! requests: the dispatcher of both clocks does.

use std::ops::Deref;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use vf_model::Nanos;
use vf_nic::config::Config;
use vf_nic::control::clients::{Answer, Bounds, Clients};
use vf_nic::control::{Change, Dispatcher, Nics, Response};
use vf_nic::instance::NicInstance;
use vf_nic::server::RunError;
use vf_vhost::listener::Listener;

use super::error::{SimulationError, system};
use super::simulation::Simulation;
use crate::virtual_hosts::{NUM_VFS, changes_vfs};

/// How long a client may wait, unless a guest does not stop.
const PERIOD: Duration = Duration::from_millis(5);

/// The socket and its clients.
pub(super) struct Control {
    poll: Poll,
    events: Events,
    clients: Clients,
    dispatcher: Dispatcher,
    due: Instant,
}

impl Control {
    /// Listens where the configuration says.
    pub(super) fn listen(config: &Config) -> Result<Control, SimulationError> {
        let poll = Poll::new().map_err(system("epoll"))?;
        let listener = Listener::bind(&config.ctl_socket()).map_err(RunError::Ctl)?;
        let clients = Clients::new(
            listener,
            poll.registry(),
            0..1 << 16,
            Bounds::ADMINISTRATORS,
        );
        Ok(Control {
            clients: clients.map_err(system("epoll"))?,
            poll,
            events: Events::with_capacity(64),
            dispatcher: Dispatcher::new(config.clone()),
            due: Instant::now(),
        })
    }
}

impl Simulation {
    /// Looks after the clients of the control socket, if it is time for that. No guest runs.
    pub(super) fn serve_clients(&mut self) -> Result<(), SimulationError> {
        let now = Instant::now();
        let Some(mut control) = self.control.take_if(|control| control.due <= now) else {
            return Ok(());
        };
        control.due = now + PERIOD;
        let mut outcome = Ok(());
        let Control {
            poll,
            events,
            clients,
            dispatcher,
            ..
        } = &mut control;
        // Whatever fails here fails the next time, too, and harms nobody but clients.
        let _ = poll.poll(events, Some(Duration::ZERO));
        clients.retry(poll.registry());
        for event in &*events {
            clients.serve(event.token(), poll.registry(), |request, _| {
                let response = dispatcher.answer(self, request).unwrap_or_else(|error| {
                    let why = error.to_string();
                    outcome = Err(error);
                    Response::Refused(why)
                });
                Answer {
                    takeover: dispatcher.take_takeover(),
                    ..response.into()
                }
            });
        }
        self.control = Some(control);
        outcome
    }

    /// Moves the clock to where somebody is to act next: guests may be anywhere before that, by their own clocks, and cannot go
    /// back when they are interrupted.
    fn meet(&mut self) {
        if let Some(next) = self.world.upcoming() {
            self.world.skip_to(next.min(self.until));
        }
    }
}

impl Nics for Simulation {
    type Error = SimulationError;

    fn now(&self) -> Nanos {
        self.world.now()
    }

    fn nics(&self) -> impl Iterator<Item = impl Deref<Target = NicInstance>> {
        self.world.hosts().map(|host| host.borrow())
    }

    fn change(
        &mut self,
        changes: Vec<Change>,
    ) -> Result<Result<Vec<String>, String>, SimulationError> {
        let other_vfs = |change: &Change| {
            changes_vfs(
                &self.world.host(change.nic).borrow().policy(),
                &change.policy,
            )
        };
        if changes.iter().any(other_vfs) {
            return Ok(Err(NUM_VFS.to_owned()));
        }
        self.meet();
        self.put_in_force(changes).map(Ok)
    }
}
