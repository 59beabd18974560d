//! What is found of a filter that matches: what becomes of the frame, and where the frames are counted that the filter decides on. Never
//! counts itself.

use crate::filter_spec::FilterAction;
use crate::vf::MAX_VFS;

/// Places of the filters of NICs' tables; behind them are those of drivers' own.
pub(crate) const TABLE_PLACES: u16 = 1 << 15;
/// Places of the filters of one driver that lie in no table.
pub(crate) const PLACES_A_DRIVER: u16 = 64;
/// Places of all filters of a NIC.
pub(crate) const PLACES: usize =
    TABLE_PLACES as usize + MAX_VFS as usize * PLACES_A_DRIVER as usize;

/// What frames find of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) action: FilterAction,
    /// Where the frames are counted that it decides on.
    pub(crate) counter: CounterId,
}

/// Where the frames are counted that a filter decides on, and that it is this one: no other filter of the NIC, there now or gone, has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CounterId {
    /// Among the places of all filters of a NIC.
    pub(crate) at: u16,
    /// 0 is nobody's.
    pub(crate) generation: u32,
}

impl CounterId {
    /// That of a filter which is not counted.
    pub(crate) const NONE: CounterId = CounterId {
        at: 0,
        generation: 0,
    };

    /// Of a filter in a table, in a place that no other filter of the table has.
    pub(crate) fn of_table(place: u32, generation: u32) -> CounterId {
        match u16::try_from(place) {
            Ok(place) if place < TABLE_PLACES => CounterId {
                at: place,
                generation,
            },
            _ => CounterId::NONE,
        }
    }

    /// Of a filter of a driver, the VF's `nth`.
    pub(crate) fn of_driver(vf: u8, nth: u16, generation: u32) -> CounterId {
        match nth < PLACES_A_DRIVER {
            true => CounterId {
                at: TABLE_PLACES + u16::from(vf) * PLACES_A_DRIVER + nth,
                generation,
            },
            false => CounterId::NONE,
        }
    }

    /// In which of the places of a table or of a driver it is.
    pub(crate) fn place(self) -> u16 {
        match self.at.checked_sub(TABLE_PLACES) {
            Some(of_drivers) => of_drivers % PLACES_A_DRIVER,
            None => self.at,
        }
    }
}

/// A generation for the next filter that comes into a place.
pub(crate) fn next_generation(last: &mut u32) -> u32 {
    *last = last.wrapping_add(1).max(1);
    *last
}
