//! Standard output, which may have a reader that does not read. Decides nothing of what is said.

use std::io::Write;

use crate::failure::{Failure, failed};

/// Standard output may be a pipe that somebody has read enough of.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(drop)
}

/// The same, for whoever has more to say: whether anybody still reads.
pub(crate) fn print_on(text: &str) -> Result<bool, Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(failed(e)),
    }
}

/// Prints while the caller goes on: nobody may be reading.
pub(crate) fn print_beside(text: String) -> std::io::Result<()> {
    let print = move || match print(&text) {
        Ok(()) => {}
        Err(Failure::Usage(why) | Failure::Failed(why)) => {
            tracing::warn!("cannot print what there is: {why}");
        }
    };
    let thread = std::thread::Builder::new().name("print".into());
    thread.spawn(print).map(drop)
}
