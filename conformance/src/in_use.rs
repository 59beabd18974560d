//! What a subject's process has in use, and that it gives back what a hostile session took. Ends none. Which process that is: the one that serves, also
//! where a script has started it.

use std::io;
use std::time::{Duration, Instant};

use crate::bench::{Bench, DEADLINE, QUIET};
use crate::subject::{Leaves, Resources};
use crate::verdict::{Failure, ensure};
use vf_guest::frontend::Frontend;
use vf_guest::net::NetConfig;

/// Sessions by which it is learned what an ordinary one leaves behind.
const ORDINARY: u64 = 4;

impl Bench {
    /// The process that can be looked at: the one that serves, if a script has started it.
    pub(crate) fn watched_id(&self) -> Option<u32> {
        let started = self.process_id();
        started
            .map(|leader| self.server.get().unwrap_or(leader))
            .or(self.subject.pid)
    }

    /// The process at the other end of a session, if it was started by the one that the suite has started: by a script, say.
    pub(crate) fn server_of(&self, frontend: &Frontend) -> Option<u32> {
        let leader = self.process_id()?;
        let peer = rustix::net::sockopt::socket_peercred(frontend.stream())
            .ok()?
            .pid;
        let group = rustix::process::getpgid(Some(peer)).ok()?;
        let [peer, group] = [peer, group].map(|id| id.as_raw_nonzero().get().cast_unsigned());
        (group == leader).then_some(peer)
    }

    /// What an ordinary session leaves behind, if the process can be looked at.
    pub(crate) fn ordinary(&self) -> Option<Leaves> {
        let sessions = |count: u64| {
            for _ in 0..count {
                let mut link = self.link(&NetConfig::default())?;
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            Ok::<_, Failure>(())
        };
        self.watched_id().filter(|_| !self.subject.single_session)?;
        sessions(2).ok()?;
        let before = self.at_rest().ok()?;
        sessions(ORDINARY).ok()?;
        let after = self.at_rest().ok()?;
        // A link has a session at each end.
        Some(Leaves::of(&before, &after, ORDINARY * self.width() as u64))
    }

    /// What the process has in use.
    pub(crate) fn resources(&self) -> Result<Resources, Failure> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        Ok(Resources::of(self.watched_id().ok_or_else(gone)?)?)
    }

    /// The same as soon as it stands still: sessions that have been closed end a little later.
    pub(crate) fn at_rest(&self) -> Result<Resources, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let mut last = self.resources()?;
        let mut alike = 0;
        while alike < 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.resources()?;
            alike = if now.is_like(&last) { alike + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }

    /// Checks that the process gets back to what it had in use when there had been so many sessions.
    pub(crate) fn gives_back(&self, before: &Resources, sessions: u64) -> Result<(), Failure> {
        let more = self.sessions().saturating_sub(sessions);
        let Some(leaves) = &self.leaves else {
            return Ok(());
        };
        let before = before.after(more, leaves);
        let deadline = Instant::now() + DEADLINE;
        loop {
            let after = self.resources()?;
            if after.fits(&before) {
                return Ok(());
            }
            ensure(
                Instant::now() < deadline,
                format_args!("in use afterwards: {after}; before: {before}"),
            )?;
            std::thread::sleep(QUIET);
        }
    }
}
