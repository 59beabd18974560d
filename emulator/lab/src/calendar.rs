//! The virtual clock: who runs next, and when. Pure; it never reads a clock and knows nothing of what it schedules.
//!
//! Every participant (a NIC, a hypervisor, a guest; in this process or outside of it) says when it next wants to run.
//! The calendar hands out the earliest wish. Ties are broken by class, devices before guests, then by number, so that a
//! run is the same on every machine. At most one participant runs at a time.

use vf_model::Nanos;
use vf_nic::tournament::Tournament;

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

/// What a participant wants: time, class and number in one number, so that the lesser one runs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Deadline(u128);

/// Of one who wants nothing.
const NEVER: Deadline = Deadline(u128::MAX);

impl Deadline {
    fn new(at: Nanos, class: Class, who: usize) -> Deadline {
        Deadline(u128::from(at.0) << 64 | (class as u128) << 63 | who as u128)
    }

    fn at(self) -> Nanos {
        Nanos((self.0 >> 64) as u64)
    }

    fn who(self) -> usize {
        (self.0 as u64 & (u64::MAX >> 1)) as usize
    }
}

/// The calendar: the current virtual time and every participant's wish.
#[derive(Debug)]
pub struct Calendar {
    now: Nanos,
    classes: Vec<Class>,
    wishes: Tournament<Deadline>,
}

impl Default for Calendar {
    fn default() -> Calendar {
        Calendar {
            now: Nanos(0),
            classes: Vec::new(),
            wishes: Tournament::new(NEVER, 1),
        }
    }
}

impl Calendar {
    /// A calendar at time zero without participants.
    #[must_use]
    pub fn new() -> Calendar {
        Calendar::default()
    }

    /// Adds a participant that does not want to run yet.
    pub fn join(&mut self, class: Class) -> ParticipantId {
        let who = self.classes.len();
        self.classes.push(class);
        self.wishes.grow(self.classes.len());
        ParticipantId(who)
    }

    /// The current virtual time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Replaces the participant's wish: run me at `at` (never before now), or not at all.
    pub fn set(&mut self, who: ParticipantId, at: Option<Nanos>) {
        let class = self.classes[who.0];
        let wish = at.map(|at| Deadline::new(at.max(self.now), class, who.0));
        self.wishes.set(who.0, wish.unwrap_or(NEVER));
    }

    /// Lowers the participant's wish to `at` if that is earlier than what it asked for.
    pub fn wake(&mut self, who: ParticipantId, at: Nanos) {
        if at < self.wishes.get(who.0).at() {
            self.set(who, Some(at));
        }
    }

    /// Who runs next, if anybody wants to before `limit` or at it; the clock moves there and the wish is gone.
    pub fn advance(&mut self, limit: Nanos) -> Option<ParticipantId> {
        let first = self.wishes.least()?;
        if first.at() > limit {
            return None;
        }
        self.now = first.at();
        self.wishes.remove(first.who());
        Some(ParticipantId(first.who()))
    }

    /// When somebody next wants to run.
    #[must_use]
    pub fn next(&self) -> Option<Nanos> {
        Some(self.wishes.least()?.at())
    }

    /// When somebody other than `who` next wants to run.
    #[must_use]
    pub fn next_but(&self, who: ParticipantId) -> Option<Nanos> {
        Some(self.wishes.least_but(who.0)?.at())
    }

    /// Moves the clock to `at` when nobody wants to run before it.
    pub fn skip_to(&mut self, at: Nanos) {
        self.now = self.now.max(at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The tree says what a look at every wish would say.
        #[test]
        fn is_a_list_of_wishes(
            guests in prop::collection::vec(any::<bool>(), 1..40),
            asks in prop::collection::vec((0..40usize, prop::option::of(0..20u64), any::<bool>()), 1..200),
        ) {
            let mut calendar = Calendar::new();
            let mut wishes = Vec::new();
            for (i, guest) in guests.iter().enumerate() {
                let class = if *guest { Class::Guest } else { Class::Device };
                let who = calendar.join(class);
                // Wishes outlive that others join.
                calendar.set(who, Some(Nanos(i as u64 % 7)));
                wishes.push(Some(Nanos(i as u64 % 7)));
            }
            for (who, at, advance) in asks {
                let who = who % guests.len();
                let at = at.map(Nanos);
                calendar.set(ParticipantId(who), at);
                wishes[who] = at.map(|at| at.max(calendar.now()));
                let others = wishes.iter().enumerate().filter(|(i, _)| *i != who);
                prop_assert_eq!(calendar.next_but(ParticipantId(who)), others.filter_map(|(_, wish)| *wish).min());
                if advance {
                    let all = wishes.iter().enumerate();
                    let first = all.filter_map(|(i, wish)| wish.map(|at| (at, guests[i], i))).min();
                    prop_assert_eq!(calendar.advance(Nanos(u64::MAX)).map(|id| id.index()), first.map(|first| first.2));
                    if let Some((at, _, i)) = first {
                        prop_assert_eq!(calendar.now(), at);
                        wishes[i] = None;
                    }
                }
            }
        }
    }

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
