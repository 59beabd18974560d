//! What a case is, and how one can end.
//!
//! A case passes only when it ran: an unmet need is a skip with its reason. For hostile input
//! there is one criterion, *contained*: the back end lives and a fresh session passes traffic.
//! Which way it contained the input is recorded and not judged. A case that was not run because an earlier one left nobody there
//! is *not judged*.

use std::fmt;
use std::time::Duration;

use crate::bench::{Bench, Delivery};
pub use crate::level::Level;
use crate::verdict::{Failure, Seen};
use vf_guest::driver::Format;

/// What a case needs of the subject.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// These virtio features are offered.
    Feature(u64, &'static str),
    /// These protocol features are offered.
    Protocol(u64, &'static str),
    /// Frames that are sent arrive where the suite can see them: at a peer, or back again.
    Delivery,
    /// Frames that are sent arrive at another port.
    Peer,
    /// Commands on the control queue are answered by the back end, where most leave them to the front end.
    Control,
    /// We have started the subject, and so may end it.
    Process,
    /// The subject's process is known, so that we can look what it has in use.
    Resources,
    /// There is a control adapter.
    Administration,
    /// There is a third port.
    Onlooker,
    /// The rings have this format.
    Format(Format),
    /// There are so many pairs of rings for frames, by what `GET_QUEUE_NUM` and configuration space tell.
    Pairs(u16),
}

impl Need {
    /// Whether `bench` can meet it.
    pub(crate) fn met(self, bench: &Bench) -> bool {
        match self {
            Need::Feature(mask, _) => bench.features() & mask == mask,
            Need::Protocol(mask, _) => bench.protocol_features() & mask == mask,
            Need::Delivery => bench.delivery() != Delivery::None,
            Need::Peer => bench.delivery() == Delivery::Peer,
            Need::Control => bench.serves_control(),
            Need::Process => bench.process_id().is_some(),
            Need::Resources => bench.watched_id().is_some(),
            Need::Administration => bench.is_administered(),
            Need::Onlooker => bench.has_onlooker(),
            Need::Format(format) => bench.format() == format,
            Need::Pairs(pairs) => bench.queue_pairs() >= pairs,
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Need::Feature(_, name) => write!(f, "the feature {name}"),
            Need::Protocol(_, name) => write!(f, "the protocol feature {name}"),
            Need::Delivery => f.write_str("a port where frames arrive: --peer-socket PATH"),
            Need::Peer => f.write_str("a second port: --peer-socket PATH"),
            Need::Control => f.write_str("a control queue that the back end serves itself"),
            Need::Process => f.write_str("a process that the suite has started: --start CMD"),
            Need::Resources => f.write_str("a process to look at: --start CMD or --pid PID"),
            Need::Administration => f.write_str("a control adapter: --control CMD"),
            Need::Onlooker => {
                f.write_str("a third port: --socket PATH and --peer-socket PATH once more")
            }
            Need::Format(format) => write!(f, "{format} rings"),
            Need::Pairs(pairs) => write!(
                f,
                "{pairs} pairs of rings, and fewer are told (GET_QUEUE_NUM, max_virtqueue_pairs)"
            ),
        }
    }
}

/// One case, for back ends on a [`Bench`], or for front ends on a stage of theirs.
#[derive(Debug)]
pub struct Case<B: 'static = Bench> {
    /// Group and name, for ever.
    pub id: &'static str,
    /// How binding it is.
    pub level: Level,
    /// What it needs; unmet: skipped.
    pub needs: &'static [Need],
    /// Where the requirement comes from: V is virtio, VU the vhost-user document.
    pub source: &'static str,
    /// What the subject is given.
    pub sent: &'static str,
    /// What it has to make of that.
    pub expected: &'static str,
    /// Runs it.
    pub run: fn(&B) -> Result<Seen, Failure>,
}

impl Case {
    /// Whether it needs this.
    pub(crate) fn needs(&self, wanted: impl Fn(&Need) -> bool) -> bool {
        self.needs.iter().any(wanted)
    }

    /// Whether others may run meanwhile: not if it is about what the whole subject does, or may end it.
    pub(crate) fn may_share(&self) -> bool {
        let whole = |need: &Need| {
            matches!(
                need,
                Need::Process | Need::Resources | Need::Administration | Need::Onlooker
            )
        };
        matches!(self.level, Level::Must | Level::Text | Level::Should) && !self.needs(whole)
    }

    /// Whether the case is to be run with rings of this format: once, or if it is about rings and what goes through them,
    /// with each.
    pub(crate) fn suits(&self, format: Format) -> bool {
        let wanted = self.needs.iter().find_map(|need| match need {
            Need::Format(wanted) => Some(*wanted),
            _ => None,
        });
        match wanted {
            Some(wanted) => wanted == format,
            None => {
                let mut rings = ["ring/", "net/", "robust/"].iter();
                format == Format::Split || rings.any(|group| self.id.starts_with(group))
            }
        }
    }
}

/// How a case ended.
#[derive(Debug)]
pub enum Outcome {
    /// It passed.
    Passed(Seen),
    /// It failed.
    Failed(Failure),
    /// It was not run, because of something that it needs.
    Skipped(String),
    /// It was run or was to be, and nothing can be said, for this reason.
    NotJudged(String),
}

/// A case and how it ended.
#[derive(Debug)]
pub struct Finding<B: 'static = Bench> {
    /// The case.
    pub case: &'static Case<B>,
    /// Which format the rings had.
    pub format: Format,
    /// Its end.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// The last messages of its sessions, the first port's called `a` and the second's `b`.
    pub said: Vec<String>,
    /// How it failed while others ran beside it, before it was run alone: a race, or a machine that had too much to do.
    pub beside: Option<String>,
}

impl<B> Finding<B> {
    /// How binding what it has found is: as the case is, unless it came upon something that is less.
    pub fn level(&self) -> Level {
        match &self.outcome {
            // The first levels are the most binding ones.
            Outcome::Failed(Failure::Lesser { level, .. }) => self.case.level.max(*level),
            _ => self.case.level,
        }
    }
}
