//! Runs a plan: guests do their jobs, commands are given at their times, readings are taken, frames are captured and
//! digested. The same for all kinds of guests. Judges nothing: what was promised is `expect`'s.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use vf_model::Nanos;
use vf_nic::watch::{Detail, Seen};

use super::capture::{CapturePoint, Captures};
use super::embedded::Embedded;
use super::guests::{Guests, RunError};
use super::linux::Linux;
use super::outcome::{ScenarioOutcome, outcome};
use super::plan::{GuestKind, Request, ScenarioPlan, Work};
use super::reading::Reading;
use super::receivers::Receivers;
use super::record::{Record, SAMPLES, sample_time};
use super::traffic::Traffic;
use crate::digest::Digest;

/// What the command line says beside the file.
#[derive(Debug, Default)]
pub struct Options {
    /// Where captures go; `None`: there are none.
    pub out: Option<PathBuf>,
    /// Where the image of Linux guests is; `None`: the one that was built last.
    pub image: Option<PathBuf>,
    /// Linux guests are ended when something arrives here.
    pub stop: Option<UnixStream>,
}

/// Who looks at every frame.
struct Observer {
    traffic: Traffic,
    receivers: Receivers,
    captures: Option<Captures>,
}

impl Observer {
    fn add(&mut self, seen: &Seen<'_>) {
        self.traffic.add(seen);
        self.receivers.add(seen);
        if let Some(captures) = &mut self.captures {
            captures.add(seen);
        }
    }
}

/// Runs a scenario. `progress` hears how far it is, 0 to 1.
///
/// # Errors
/// [`RunError`]. A promise that is not kept is no error, but in the [`ScenarioOutcome`].
pub fn run(
    plan: &ScenarioPlan,
    options: Options,
    mut progress: impl FnMut(f64),
) -> Result<ScenarioOutcome, RunError> {
    let mut guests: Box<dyn Guests> = match plan.kind {
        GuestKind::Embedded => Box::new(Embedded::new(plan)?),
        GuestKind::Linux => Box::new(Linux::new(plan, options.image.as_deref(), options.stop)?),
    };
    let captures = options
        .out
        .as_deref()
        .map(|dir: &Path| Captures::create(dir, capture_points(plan), plan.snaplen));
    let observer = Rc::new(RefCell::new(Observer {
        traffic: Traffic::new(plan),
        receivers: Receivers::new(plan),
        captures: captures.transpose()?,
    }));
    let digest = Digest::default();
    guests.watch(Detail::Head, digest.watcher());
    let detail = match observer.borrow().captures {
        Some(_) => Detail::Whole,
        None => Detail::Head,
    };
    let watching = Rc::clone(&observer);
    let watcher = Box::new(move |seen: &Seen<'_>| watching.borrow_mut().add(seen));
    guests.watch(detail, watcher);
    let mut asks = Vec::new();
    for event in plan.events.iter().filter(|event| !event.refused) {
        match &event.asked {
            Request::Command(command) => guests.at(event.at, event.nic, command.clone()),
            Request::Driver(..) | Request::FrontEnd { .. } => asks.push(event),
        }
    }
    let mut asks = asks.into_iter().peekable();
    let mut readings = Vec::new();
    for at in reading_times(plan) {
        guests.run_until(at)?;
        while let Some(ask) = asks.next_if(|ask| ask.at <= at) {
            match &ask.asked {
                Request::Command(_) => {} // has been given above
                Request::Driver(vf, request, _) => {
                    let hosts: Vec<_> = guests.world().hosts().collect();
                    let mut host = hosts[ask.nic].borrow_mut();
                    // The plan has tried it.
                    if let Ok(granted) = host.policy().with_request(*vf, request) {
                        host.set_policy(granted.policy);
                    }
                }
                Request::FrontEnd { guest, does, .. } => guests.front_end(*guest, *does)?,
            }
        }
        let mut reading = Reading::take(guests.world(), observer.borrow().traffic.jobs());
        reading.at = at;
        readings.push(reading);
        progress(at.0 as f64 / plan.until.0 as f64);
    }
    let mut ended = guests.finish();
    let (traffic, receivers, captures) = {
        let mut observer = observer.borrow_mut();
        let receivers = observer.receivers.names();
        let traffic = observer.traffic.jobs().to_vec();
        (traffic, receivers, observer.captures.take())
    };
    let captures = captures.map(|c| c.finish(&digest)).transpose()?;
    for ((job, traffic), end) in plan.jobs.iter().zip(&traffic).zip(&mut ended.jobs) {
        // As ping(8) has it: guests in this process do not look at replies themselves.
        if matches!(job.work, Work::Ping { .. }) && traffic.echoes.is_empty() {
            end.exit = end.exit.map(|_| 1);
        }
    }
    let record = Record {
        readings,
        traffic,
        exits: ended.jobs.iter().map(|job| job.exit).collect(),
        receivers,
    };
    Ok(outcome(
        plan,
        &record,
        ended,
        digest.value(),
        captures.unwrap_or_default(),
    ))
}

/// Each VF that a guest is on.
fn capture_points(plan: &ScenarioPlan) -> impl Iterator<Item = CapturePoint<'_>> {
    plan.guests.iter().flat_map(|guest| {
        guest.interfaces.iter().map(|on| CapturePoint {
            nic: on.nic,
            vf: on.vf,
            nic_name: &plan.config.nics[on.nic].name,
            guest_name: &guest.name,
        })
    })
}

/// When readings are taken: in equal steps for the eye, and where expectations begin and end.
fn reading_times(plan: &ScenarioPlan) -> BTreeSet<Nanos> {
    let bounds = plan.expectations.iter().flat_map(|e| [e.from, e.to]);
    let steps = (0..=SAMPLES).map(|n| sample_time(plan, n));
    let events = plan.events.iter().map(|event| event.at);
    steps.chain(bounds).chain(events).collect()
}
