//! What time it is for a host: this machine's clock, or the calendar's. Sockets, clients and sleeping threads read this machine's clock
//! themselves; planes and the model read none and are told.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use vf_model::Nanos;

/// Where a host gets its time from.
#[derive(Clone)]
pub enum Clock {
    /// Nanoseconds since the start of the process' data path.
    Wall(Instant),
    /// The virtual clock's time, set by whoever runs the calendar.
    Virtual(Rc<Cell<Nanos>>),
}

impl Clock {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Nanos {
        match self {
            Clock::Wall(epoch) => {
                Nanos(u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
            }
            Clock::Virtual(now) => now.get(),
        }
    }

    /// Nanoseconds of UNIX time at which this clock began; those of the virtual clock are counted from 0.
    #[must_use]
    pub fn began(&self) -> u64 {
        match self {
            Clock::Wall(epoch) => {
                let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let began = unix.unwrap_or_default().saturating_sub(epoch.elapsed());
                u64::try_from(began.as_nanos()).unwrap_or(u64::MAX)
            }
            Clock::Virtual(_) => 0,
        }
    }
}
