//! The control socket on the virtual clock: the same words as on the wall clock. Clients are looked after now and then, in
//! wall time, between two turns; what they ask for happens at the virtual time that it is then.

use std::path::Path;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use vf_model::Command;
use vf_nic::ctl::{Request, Response};
use vf_nic::server::clients::Clients;
use vf_nic::server::nic_named;
use vf_nic::server::observe::Observer;

use super::error::{SimulationError, system};
use super::simulation::Simulation;

/// How long a client may wait, unless a guest does not stop.
const PERIOD: Duration = Duration::from_millis(5);

/// The socket and its clients.
pub(super) struct Control {
    poll: Poll,
    events: Events,
    clients: Clients,
    observer: Observer,
    due: Instant,
}

impl Control {
    /// Listens at `path`.
    pub(super) fn listen(path: &Path) -> Result<Control, SimulationError> {
        let poll = Poll::new().map_err(system("epoll"))?;
        Ok(Control {
            clients: Clients::listen(path, poll.registry(), 0..1 << 16)?,
            poll,
            events: Events::with_capacity(64),
            observer: Observer::default(),
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
            observer,
            ..
        } = &mut control;
        // Whatever fails here fails the next time, too, and harms nobody but clients.
        let _ = poll.poll(events, Some(Duration::ZERO));
        clients.retry(poll.registry());
        for event in &*events {
            clients.serve(event.token(), poll.registry(), |request| {
                self.answer(observer, request).unwrap_or_else(|error| {
                    let why = error.to_string();
                    outcome = Err(error);
                    Response::Refused(why)
                })
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

    fn answer(
        &mut self,
        observer: &mut Observer,
        request: Request,
    ) -> Result<Response, SimulationError> {
        let hosts = || self.world.hosts().map(|host| host.borrow());
        let named = |nic: Option<&str>| nic_named(hosts().map(|h| h.settings.name.clone()), nic);
        Ok(match request {
            Request::Show => {
                let show = observer.show(self.world.now(), hosts());
                Response::Show(Box::new(show))
            }
            Request::Filters { nic } => match named(nic.as_deref()) {
                Ok(h) => Response::Filters(self.world.host(h).borrow().filters()),
                Err(why) => Response::Refused(why),
            },
            Request::Command { nic, words } => {
                let command = Command::parse(&words).map_err(|refusal| refusal.to_string());
                let command = named(nic.as_deref()).and_then(|h| Ok((h, command?)));
                self.meet();
                match command {
                    Ok((h, command)) => match self.apply(h, &command)? {
                        Ok(notes) => Response::Done(notes),
                        Err(refusal) => Response::Refused(refusal.to_string()),
                    },
                    Err(why) => Response::Refused(why),
                }
            }
        })
    }
}
