//! What is written of captures, and in which form: a form is told of each item, whoever has it written. Starts no thread.

use std::io;
use std::sync::Arc;

use super::{Capture, Item};

/// A capture of a NIC, one of those that a thread writes.
pub struct Watched {
    /// Its place among them.
    pub number: usize,
    /// The NIC's name.
    pub nic: String,
    /// What is seen of it.
    pub capture: Arc<Capture>,
    /// Nanoseconds of UNIX time at which the NIC's clock began.
    pub began: u64,
}

impl Drop for Watched {
    /// Planes forget a capture that nobody writes, whatever ends the thread, and what it has seen is given back at once.
    fn drop(&mut self) {
        self.capture.close();
        self.capture.clear();
    }
}

/// What a thread writes.
pub(super) trait Form {
    /// Writes an item of a capture, whose first interface is the `first` of all.
    fn item(&mut self, first: usize, of: &Watched, item: &Item) -> io::Result<()>;
    /// Writes what is to be said at the end.
    fn end(&mut self, watched: &[Watched]) -> io::Result<()>;
    /// Shows the reader what has been written.
    fn flush(&mut self) -> io::Result<()>;
}
