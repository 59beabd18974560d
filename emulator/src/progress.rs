//! How far a run is, on standard error: a line that is written over on a terminal, else one for each quarter. Never fails:
//! nothing is lost if it cannot be shown.

use std::io::{IsTerminal, Write};

use rustix::termios::tcgetwinsize;

/// Columns of what a run is called.
const NAME: usize = 28;
/// Columns of the longest bar.
const LONGEST: usize = 40;
/// Columns of the shortest bar that says something.
const SHORTEST: usize = 10;

/// See the module. What comes after it on a terminal begins on a line of its own.
#[derive(Default)]
pub(crate) struct Progress {
    what: String,
    quarter: u32,
    /// Whether the cursor is behind a line.
    open: bool,
}

impl Progress {
    /// `done` is 0 to 1.
    pub(crate) fn show(&mut self, what: &str, done: f64) {
        let mut err = std::io::stderr().lock();
        if self.what != what {
            self.what = what.to_owned();
            self.quarter = 0;
        }
        let _ = if err.is_terminal() {
            self.open = true;
            // A terminal that does not know has none.
            let columns = tcgetwinsize(&err).map_or(0, |size| usize::from(size.ws_col));
            let columns = if columns == 0 { 80 } else { columns };
            // What is left of a longer line goes.
            write!(err, "\r{}\x1b[K", line(what, done, columns))
        } else if (done * 4.0) as u32 > self.quarter {
            self.quarter = (done * 4.0) as u32;
            writeln!(err, "{what}: {:.0} %", 100.0 * done)
        } else {
            Ok(())
        };
        let _ = err.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.open {
            let _ = writeln!(std::io::stderr());
        }
    }
}

/// A line that leaves the last column free: behind that, a terminal would go on to the next line.
fn line(what: &str, done: f64, columns: usize) -> String {
    let percent = format!("{:3.0} %", 100.0 * done);
    let room = columns.saturating_sub(1 + NAME + " [] ".len() + percent.len());
    if room < SHORTEST {
        return format!("{percent} {what}")
            .chars()
            .take(columns - 1)
            .collect();
    }
    let len = room.min(LONGEST);
    let bar = "#".repeat((done * len as f64) as usize);
    format!("{what:<NAME$} [{bar:<len$}] {percent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shorter_than_the_terminal_is_wide() {
        for columns in 1..200 {
            for done in [0.0, 0.5, 1.0] {
                let line = line("virtual clock, mediated", done, columns);
                assert!(line.len() < columns, "{columns}: {line}");
            }
        }
        let wide = line("scenario", 0.5, 200);
        assert_eq!(wide.matches('#').count(), 20);
        assert!(wide.ends_with("]  50 %"), "{wide}");
    }
}
