//! Two ports beside those that are judged, with frames going between them all the time: whatever one guest does, the others are to be
//! served. Never judges; says for how long none arrived at most, and how late this thread itself was.

use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, Link};
use crate::verdict::Failure;
use vf_guest::net::NetConfig;

/// Between two frames.
const PACE: Duration = Duration::from_millis(1);
/// After so long another frame follows one that has not arrived: it may be lost.
const AGAIN: Duration = Duration::from_millis(20);
/// How long no frame may arrive while somebody else is hostile, beyond what this thread was late itself.
const STALL: Duration = Duration::from_millis(500);

/// The thread, for as long as this is kept.
#[derive(Debug)]
pub(crate) struct Victim {
    /// Goes before the thread is waited for, which ends with it.
    orders: Option<Sender<Order>>,
    said: Receiver<Said>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Begin,
    End,
    Leave,
}

#[derive(Debug)]
enum Said {
    /// Its sessions are open, as far as they can be, or with `Leave` closed.
    Ready,
    Over(Report),
}

/// What the victim has seen.
#[derive(Debug)]
pub(crate) struct Report {
    /// The longest time from a frame's being sent to its arrival, or that of one behind it.
    longest: Duration,
    /// How late this thread was at most when it wanted to go on.
    late: Duration,
    failure: Option<Failure>,
}

impl Report {
    /// Why the victim was not served, if it was not.
    pub(crate) fn complaint(&self) -> Option<String> {
        match &self.failure {
            Some(failure) => Some(format!("two other ports, meanwhile: {failure}")),
            None if self.longest > STALL + self.late => Some(format!(
                "nothing passed between two other ports for {} ms meanwhile",
                self.longest.as_millis()
            )),
            None => None,
        }
    }
}

impl Victim {
    /// Starts the thread on the ports of `bench`; frames go when it is told to begin.
    pub(crate) fn start(bench: Bench) -> Victim {
        let (orders, inbox) = mpsc::channel();
        let (tell, said) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut link = None;
            // Ends with whoever gives the orders.
            while let Ok(order) = inbox.recv() {
                let told = match order {
                    Order::Begin => {
                        let opened = open(&bench, &mut link);
                        if tell.send(Said::Ready).is_err() {
                            return;
                        }
                        let report = suffer(opened, &mut link, &inbox);
                        tell.send(Said::Over(report))
                    }
                    Order::End => Ok(()),
                    Order::Leave => {
                        link = None;
                        tell.send(Said::Ready)
                    }
                };
                if told.is_err() {
                    return;
                }
            }
        });
        Victim {
            orders: Some(orders),
            said,
            thread: Some(thread),
        }
    }

    /// Whether the thread is there to hear it.
    fn order(&self, order: Order) -> bool {
        let orders = self.orders.as_ref();
        orders.is_some_and(|orders| orders.send(order).is_ok())
    }

    /// Does something while frames go between the victim's ports; no report if the thread is gone.
    pub(crate) fn during<R>(&self, act: impl FnOnce() -> R) -> (R, Option<Report>) {
        // A thread that is gone says nothing.
        self.order(Order::Begin);
        let _ = self.said.recv();
        let result = act();
        self.order(Order::End);
        let report = match self.said.recv() {
            Ok(Said::Over(report)) => Some(report),
            _ => None,
        };
        (result, report)
    }

    /// Closes its sessions: somebody else wants the ports, or the subject has been started anew.
    pub(crate) fn leave(&self) {
        if self.order(Order::Leave) {
            let _ = self.said.recv();
        }
    }
}

/// Its thread has a part in the subject's process, which ends with whoever has that last: not with the suite's own process.
impl Drop for Victim {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // One that has panicked is gone as well.
            let _ = thread.join();
        }
    }
}

/// Opens the sessions, unless they are.
fn open(bench: &Bench, link: &mut Option<Link>) -> Result<(), Failure> {
    if link.is_none() {
        *link = Some(bench.link(&NetConfig::default())?);
    }
    Ok(())
}

/// Sends frames until told to end.
fn suffer(opened: Result<(), Failure>, link: &mut Option<Link>, inbox: &Receiver<Order>) -> Report {
    let mut report = Report {
        longest: Duration::ZERO,
        late: Duration::ZERO,
        failure: opened.err(),
    };
    while let Some(open) = link
        && report.failure.is_none()
    {
        match served(open, DEADLINE) {
            Ok(Some(took)) => report.longest = report.longest.max(took),
            Ok(None) => {
                let what = format!("no frame arrived for {DEADLINE:?}");
                report.failure = Some(Failure::Wrong(what));
            }
            Err(failure) => report.failure = Some(failure),
        }
        if inbox.try_recv() != Err(TryRecvError::Empty) {
            if report.failure.is_some() {
                *link = None;
            }
            return report;
        }
        let before = Instant::now();
        std::thread::sleep(PACE);
        report.late = report.late.max(before.elapsed().saturating_sub(PACE));
    }
    *link = None;
    // The end is still to be told.
    let _ = inbox.recv();
    report
}

/// How long it takes until a frame arrives, if one does: whoever is overloaded may lose some, so others follow.
fn served(link: &mut Link, wait: Duration) -> Result<Option<Duration>, Failure> {
    let start = Instant::now();
    while start.elapsed() < wait {
        let frame = link.frame(100);
        link.send(&frame)?;
        if link.arrives(&frame, AGAIN)? {
            return Ok(Some(start.elapsed()));
        }
    }
    Ok(None)
}
