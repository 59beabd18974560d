//! Where a device goes on in a packed ring that another back end has left without a word, read from the ring itself.
//!
//! QEMU hands back the base that a ring began with, since a packed ring has no index in memory. But a driver goes round the
//! ring descriptor by descriptor, and so does a device that works in order; both leave their wrap counter in the flags of what
//! they have written. Never guesses: what more than one story could have left is not certain.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by twice the size of a ring"
)]

use super::{AVAIL_FLAG, NEXT, USED_FLAG, WRITE};

/// The last two fields of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) id: u16,
    pub(super) flags: u16,
}

impl Marks {
    /// The wrap counter of whoever made it available last.
    fn lap(self) -> bool {
        self.flags & AVAIL_FLAG != 0
    }

    /// Whether it has been returned since: the first descriptor of a chain is, and of a batch in order.
    fn is_used(self) -> bool {
        self.lap() == (self.flags & USED_FLAG != 0)
    }
}

/// How driver and device of a ring go about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Habits {
    /// `IN_ORDER`: one used descriptor may stand for several chains.
    pub(super) in_order: bool,
    /// `INDIRECT_DESC`: a driver whose ring shows no chain of several descriptors has none.
    pub(super) indirect: bool,
}

/// Where a device goes on in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// The place, as [`PackedRing`](super::PackedRing) counts them.
    pub(super) place: u32,
    /// A descriptor before it that was not returned although those behind it were: the back end was killed while it returned a
    /// burst, whose first descriptor comes last. Its driver waits for it before it looks any further.
    pub(super) missed: Option<u32>,
}

/// What a front end says of the place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    /// What it says of a new ring, and of one of which it knows nothing.
    New(u32),
    /// Where the ring is, or where it was when the front end last asked, and that may be long ago.
    Place(u32),
}

/// Where the device goes on; `None` if the ring does not tell.
///
/// `ring` has been used before, and its driver does not write to it just now. Of several places that it may be, the one that is told is
/// taken if it is one. A place is believed beyond that where the ring leaves room for doubt, unless it has been returned since.
pub(super) fn find(ring: &[Marks], habits: Habits, told: Told) -> Option<Found> {
    let size = ring.len();
    let first = ring.first()?.lap();
    // The driver's next descriptor is the first of a lap before; none is where it has just gone round.
    let next = ring.iter().position(|marks| marks.lap() != first);
    let next = next.unwrap_or(size);
    if ring.get(next..)?.iter().any(|marks| marks.lap() == first) {
        return None;
    }
    // Places: the first lap of two has the wrap counter 1.
    let place = if first { next } else { size + next };
    let back = |n: usize| (place + 2 * size - n) % (2 * size);
    let at = |place: usize| ring.get(place % size).copied();
    let open_at = |place: usize| at(place).is_some_and(|marks| !marks.is_used());
    // A device writes back the first descriptor of a chain only: the others look available for good. Here each descriptor is a chain by
    // itself, so that there are none of those.
    let alone = habits.indirect && ring.iter().all(|marks| marks.flags & NEXT == 0);
    // With IN_ORDER a batch may have one used descriptor for all its chains (virtio 2.8.8), but not for those that were written to. Here each
    // chain has one of its own.
    let to_write = |marks: &Marks| marks.flags & WRITE != 0 || marks.flags == 0; // or nobody has written it yet
    let certain = alone && (!habits.in_order || ring.iter().all(to_write));
    let (Told::New(given) | Told::Place(given)) = told;
    let is_given = |place: usize| place == given as usize;
    let ago = (0..=size).find(|&n| is_given(back(n)));
    let ago = ago.filter(|&ago| matches!(told, Told::Place(_)) && (ago == 0 || open_at(back(ago))));
    // What is behind it has been returned, and was no part of it: a burst whose first descriptor comes last.
    let torn = |ago: &usize| alone && !(1..*ago).all(|n| open_at(back(n)));
    if let Some(ago) = ago.filter(|ago| !certain && !torn(ago)) {
        return at_place(back(ago));
    }
    // Behind the last that was returned: the rest of its chain, and what is available.
    let behind = (0..size).find(|&n| at(back(n + 1)).is_some_and(Marks::is_used));
    let Some(behind) = behind else {
        // None was: all of them are available, or the rest of a chain whose first descriptor the driver has used again.
        return at_place(back(size)).filter(|_| certain);
    };
    let used = at(back(behind + 1))?;
    let before = (behind + 1..=size).map(back);
    let mut open = before.filter(|&place| open_at(place));
    let (missed, more) = (open.next(), open.next());
    if certain || ago.is_some() {
        let missed = missed.and_then(|place| u32::try_from(place).ok());
        return at_place(back(behind))
            .filter(|_| more.is_none())
            .map(|found| Found { missed, ..found });
    }
    // The rest of its chain bears its identifier where that ends, and so does the last chain of its batch.
    let batch = habits.in_order && used.flags & WRITE == 0;
    let mut ends = (0..behind)
        .rev()
        .filter_map(|n| Some((back(n), at(back(n + 1))?)))
        .filter(|(_, marks)| marks.flags & NEXT == 0)
        .take(if batch { behind } else { 1 })
        .filter(|(_, marks)| marks.id == used.id)
        .peekable();
    if ends.peek().is_some() {
        if is_given(back(behind)) || ends.any(|(place, _)| is_given(place)) {
            return at_place(given as usize);
        }
        // Or its driver has used the identifier again, which is so if no chain has a rest.
        if batch || !alone || missed.is_some() {
            return None;
        }
    }
    at_place(back(behind))
}

fn at_place(place: usize) -> Option<Found> {
    let place = u32::try_from(place).ok()?;
    Some(Found {
        place,
        missed: None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const NOWHERE: Told = Told::New(u32::MAX);

    /// A driver that takes identifiers as Linux does, the one returned last first, and a device that returns in order.
    struct World {
        ring: Vec<Marks>,
        free: Vec<u16>,
        /// Chains that the device has not returned: identifier and descriptors.
        open: VecDeque<(u16, usize)>,
        /// Whether buffers are to be written.
        write: u16,
        /// Where the driver goes on, and the device.
        driver: usize,
        device: usize,
    }

    impl World {
        fn new(size: usize, write: u16) -> World {
            World {
                ring: vec![Marks { id: 0, flags: 0 }; size],
                free: (0..size as u16).rev().collect(),
                open: VecDeque::new(),
                write,
                driver: 0,
                device: 0,
            }
        }

        fn lap(&self, place: usize) -> bool {
            (place / self.ring.len()).is_multiple_of(2)
        }

        fn room(&self) -> usize {
            self.ring.len() - (self.driver - self.device)
        }

        fn add(&mut self, descs: usize) {
            if descs > self.room() {
                return;
            }
            let id = self.free.pop().unwrap();
            for n in 0..descs {
                let lap = self.lap(self.driver);
                let mark = if lap { AVAIL_FLAG } else { USED_FLAG };
                let next = if n + 1 < descs { NEXT } else { 0 };
                let at = self.driver % self.ring.len();
                let flags = mark | next | self.write;
                self.ring[at] = Marks { id, flags };
                self.driver += 1;
            }
            self.open.push_back((id, descs));
        }

        /// Returns so many chains, in order with one used descriptor.
        fn give_back(&mut self, chains: usize, batch: bool) {
            let chains: Vec<_> = self.open.drain(..chains.min(self.open.len())).collect();
            let Some(&(last, _)) = chains.last() else {
                return;
            };
            for (n, &(id, descs)) in chains.iter().enumerate() {
                if n == 0 || !batch {
                    let lap = self.lap(self.device);
                    let mark = if lap { AVAIL_FLAG | USED_FLAG } else { 0 };
                    let at = self.device % self.ring.len();
                    let id = if batch { last } else { id };
                    let flags = mark | self.write;
                    self.ring[at] = Marks { id, flags };
                }
                self.device += descs;
                self.free.push(id);
            }
        }
    }

    fn run(size: usize, habits: Habits, write: u16, steps: &[(bool, usize)]) -> World {
        let mut world = World::new(size, write);
        for &(add, n) in steps {
            match add {
                true if habits.indirect => (0..n).for_each(|_| world.add(1)),
                true => world.add(n),
                false => world.give_back(n, habits.in_order && write == 0),
            }
        }
        world
    }

    proptest! {
        /// Whatever has gone on before: what is found is where the device was.
        #[test]
        fn what_a_ring_tells_is_so(
            size in 1usize..20,
            in_order: bool,
            indirect: bool,
            write in prop_oneof![Just(0), Just(WRITE)],
            steps in prop::collection::vec((any::<bool>(), 1usize..6), 1..100),
        ) {
            let habits = Habits { in_order, indirect };
            let world = run(size, habits, write, &steps);
            if world.ring.iter().all(|marks| marks.flags & USED_FLAG == 0) {
                return Ok(()); // never used
            }
            let place = (world.device % (2 * size)) as u32;
            let found = find(&world.ring, habits, NOWHERE).map(|found| found.place);
            prop_assert!(found.is_none_or(|found| found == place), "{found:?} {place} {:?}", world.ring);
            // A driver with indirect tables, as Linux is, on a ring whose buffers are returned one by one.
            let certain = indirect && (!in_order || write == WRITE);
            // A front end that knows is believed.
            let told = find(&world.ring, habits, Told::Place(place));
            prop_assert_eq!(told, at_place(place as usize), "{:?}", world.ring);
            // One that knows where it was is not, if the ring says so.
            for stale in (0..2 * size as u32).filter(|_| certain) {
                let told = find(&world.ring, habits, Told::Place(stale));
                prop_assert_eq!(told, at_place(place as usize), "{} {:?}", stale, world.ring);
            }
            if certain {
                prop_assert_eq!(found, Some(place), "{:?}", world.ring);
            }
        }
    }

    /// A back end that was killed when all of a burst were returned but the first.
    #[test]
    fn the_first_of_a_burst_is_missed() {
        let habits = Habits {
            in_order: false,
            indirect: true,
        };
        for (size, returned) in [(4, 0), (4, 3), (4, 6), (7, 9)] {
            let mut world = World::new(size, WRITE);
            for _ in 0..returned {
                world.add(1);
                world.give_back(1, false);
            }
            (0..size).for_each(|_| world.add(1));
            let first = world.device;
            let as_it_was = world.ring.clone();
            world.give_back(3, false);
            world.ring[first % size] = as_it_was[first % size];
            let place = |at: usize| (at % (2 * size)) as u32;
            let found = Found {
                place: place(first + 3),
                missed: Some(place(first)),
            };
            assert_eq!(
                find(&world.ring, habits, NOWHERE),
                Some(found),
                "{:?}",
                world.ring
            );
            // A front end that has looked says where it began, and is told the rest by the ring.
            for in_order in [false, true] {
                let habits = Habits { in_order, ..habits };
                let told = find(&world.ring, habits, Told::Place(place(first)));
                assert_eq!(told, Some(found), "{:?}", world.ring);
            }
            // Two such stories are none.
            let second = (first + 1) % size;
            world.ring[second] = as_it_was[second];
            assert_eq!(find(&world.ring, habits, NOWHERE), None, "{:?}", world.ring);
        }
    }

    #[test]
    fn a_ring_that_is_written_to_tells_nothing() {
        let mark = |flags| Marks { id: 0, flags };
        let ring = [AVAIL_FLAG, 0, AVAIL_FLAG, 0].map(mark);
        let habits = Habits {
            in_order: false,
            indirect: true,
        };
        assert_eq!(find(&ring, habits, Told::Place(0)), None);
        assert_eq!(find(&[], habits, NOWHERE), None);
    }
}
