//! The virtual clock: who runs next, and when. Pure; it never reads a clock and knows nothing of what it schedules.
//!
//! Every participant (a NIC, a hypervisor, a guest; in this process or outside of it) says when it next wants to run.
//! The calendar hands out the earliest wish. Ties are broken by class, devices before guests, then by number, so that a
//! run is the same on every machine. At most one participant runs at a time.

use vf_model::Nanos;

/// What a participant is; the order is the order in which equal times are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Part of the emulated hardware or the hypervisor.
    Device,
    /// A guest.
    Guest,
}

/// A participant's place in the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParticipantId(usize);

impl ParticipantId {
    /// Its number, in the order of joining.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug)]
struct Entry {
    class: Class,
    wish: Option<Nanos>,
}

/// The calendar: the current virtual time and every participant's wish.
#[derive(Debug, Default)]
pub struct Calendar {
    now: Nanos,
    entries: Vec<Entry>,
}

impl Calendar {
    /// A calendar at time zero without participants.
    #[must_use]
    pub fn new() -> Calendar {
        Calendar::default()
    }

    /// Adds a participant that does not want to run yet.
    pub fn join(&mut self, class: Class) -> ParticipantId {
        self.entries.push(Entry { class, wish: None });
        ParticipantId(self.entries.len() - 1)
    }

    /// The current virtual time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Replaces the participant's wish: run me at `at` (never before now), or not at all.
    pub fn set(&mut self, who: ParticipantId, at: Option<Nanos>) {
        self.entries[who.0].wish = at.map(|at| at.max(self.now));
    }

    /// Lowers the participant's wish to `at` if that is earlier than what it asked for.
    pub fn wake(&mut self, who: ParticipantId, at: Nanos) {
        let at = at.max(self.now);
        let wish = &mut self.entries[who.0].wish;
        *wish = Some(wish.map_or(at, |w| w.min(at)));
    }

    /// Who runs next, if anybody wants to before `limit` or at it; the clock moves there and the wish is gone.
    pub fn advance(&mut self, limit: Nanos) -> Option<ParticipantId> {
        let (at, _, who) = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(i, e)| e.wish.map(|at| (at, e.class, i)))
            .min()?;
        if at > limit {
            return None;
        }
        self.now = at;
        self.entries[who].wish = None;
        Some(ParticipantId(who))
    }

    /// When somebody other than `who` next wants to run.
    #[must_use]
    pub fn next_but(&self, who: ParticipantId) -> Option<Nanos> {
        let others = self.entries.iter().enumerate().filter(|(i, _)| *i != who.0);
        others.filter_map(|(_, e)| e.wish).min()
    }

    /// Moves the clock to `at` when nobody wants to run before it.
    pub fn skip_to(&mut self, at: Nanos) {
        self.now = self.now.max(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_first_then_devices_then_number() {
        let mut c = Calendar::new();
        let guest = c.join(Class::Guest);
        let late = c.join(Class::Device);
        let first = c.join(Class::Device);
        let second = c.join(Class::Device);
        c.set(guest, Some(Nanos(5)));
        c.set(second, Some(Nanos(5)));
        c.set(first, Some(Nanos(5)));
        c.set(late, Some(Nanos(9)));
        let order: Vec<_> = std::iter::from_fn(|| c.advance(Nanos(100))).collect();
        assert_eq!(order, [first, second, guest, late]);
        assert_eq!(c.now(), Nanos(9));
    }

    #[test]
    fn a_wish_is_never_in_the_past_and_wake_only_lowers() {
        let mut c = Calendar::new();
        let a = c.join(Class::Guest);
        let b = c.join(Class::Guest);
        c.set(a, Some(Nanos(10)));
        assert_eq!(c.advance(Nanos(10)), Some(a));
        c.wake(b, Nanos(3));
        c.wake(b, Nanos(30));
        assert_eq!(c.advance(Nanos(100)), Some(b));
        assert_eq!(c.now(), Nanos(10));
    }

    #[test]
    fn nobody_runs_after_the_limit() {
        let mut c = Calendar::new();
        let a = c.join(Class::Device);
        c.set(a, Some(Nanos(11)));
        assert_eq!(c.advance(Nanos(10)), None);
        assert_eq!(c.now(), Nanos(0));
        let b = c.join(Class::Guest);
        c.set(b, Some(Nanos(12)));
        assert_eq!(c.next_but(a), Some(Nanos(12)));
        assert_eq!(c.next_but(b), Some(Nanos(11)));
        c.skip_to(Nanos(10));
        assert_eq!(c.now(), Nanos(10));
        assert_eq!(c.advance(Nanos(11)), Some(a));
    }
}
