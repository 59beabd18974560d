//! How far a run is, on standard error: a line that is written over on a terminal, else one for each quarter. Never fails:
//! nothing is lost if it cannot be shown.

use std::io::Write;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Steps of a bar, far finer than it is drawn.
const STEPS: f64 = 10_000.0;

/// See the module. What comes after it on a terminal begins on a line of its own.
pub(crate) struct Progress {
    bar: ProgressBar,
    what: String,
    quarter: u32,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        // Ten times a second, however often it is told.
        let target = ProgressDrawTarget::stderr_with_hz(10);
        let bar = ProgressBar::with_draw_target(Some(STEPS as u64), target);
        let template = "{msg:28} [{bar:40}] {percent:>3} % {eta:>4}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("## "));
        }
        Progress {
            bar,
            what: String::new(),
            quarter: 0,
        }
    }

    /// `done` is 0 to 1.
    pub(crate) fn show(&mut self, what: &str, done: f64) {
        if self.what != what {
            self.what = what.to_owned();
            self.quarter = 0;
            self.bar.set_message(self.what.clone());
            self.bar.reset_eta();
        }
        let quarter = (done * 4.0) as u32;
        if !self.bar.is_hidden() {
            self.bar.set_position((done * STEPS) as u64);
        } else if quarter > self.quarter {
            self.quarter = quarter;
            let _ = writeln!(std::io::stderr(), "{what}: {:.0} %", 100.0 * done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // What it says last stays.
        self.bar.abandon();
    }
}
