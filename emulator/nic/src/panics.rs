//! A thread that panics ends the process, and loudly: a NIC without one of its threads would look alive and move no frame,
//! while guests go on by themselves when the process is started again. Never catches one.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::PanicHookInfo;

use crate::log::complain;

/// From now on a panic of any thread is one line on standard error and the end of the process.
pub fn end_the_process() {
    std::panic::set_hook(Box::new(|info| {
        complain(&last_words(info));
        std::process::abort();
    }));
}

fn last_words(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let why = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
        .replace('\n', " ");
    let place = info.location().map(|at| format!(" at {at}"));
    let backtrace = Backtrace::capture();
    let backtrace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    format!(
        "thread '{}' panicked{}: {why}; this is a bug, and the process ends: start it again and guests go on{backtrace}",
        std::thread::current().name().unwrap_or("without a name"),
        place.unwrap_or_default(),
    )
}

/// Ends the process if the thread that holds it panics, where nobody has called [`end_the_process`]: in tests and where this
/// crate is used as a library.
pub(crate) struct EndsProcess;

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("without a name");
            complain(&format!(
                "thread '{name}' has panicked, and the process ends"
            ));
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use vf_model::Nanos;

    use crate::thread::{DataThread, LiveLoad, News, Plane, Polling};

    /// A plane with a bug.
    struct Broken;

    impl Plane for Broken {
        fn poll(&mut self, _: Nanos) -> usize {
            panic!("a bug of ours\nin two lines")
        }

        fn next(&mut self, _: Nanos) -> Option<Nanos> {
            None
        }

        fn arm(&mut self, _: Nanos) -> bool {
            false
        }

        fn disarm(&mut self) {}

        fn connect(&mut self, _: mio::Registry) {}

        fn take_news(&mut self) -> Vec<News> {
            Vec::new()
        }

        fn load(&self) -> &LiveLoad {
            unreachable!("no round has ended")
        }
    }

    const MODE: &str = "VFNIC_TEST_PANIC";

    /// Is run by the test below in a process of its own, and does nothing otherwise.
    #[test]
    fn a_broken_plane() {
        let Ok(mode) = std::env::var(MODE) else {
            return;
        };
        if mode == "hook" {
            super::end_the_process();
        }
        let thread = DataThread::new("worker-x".to_owned()).unwrap();
        let planes = vec![Broken];
        let _owners = thread.spawn(planes, Instant::now(), Polling::Adaptive, |_, _| {});
        // Far longer than it has to live.
        std::thread::sleep(Duration::from_secs(20));
        println!("the process goes on");
    }

    #[test]
    fn a_plane_that_panics_ends_the_process_and_says_which_thread_it_was() {
        for mode in ["hook", "guard"] {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "panics::tests::a_broken_plane", "--nocapture"])
                .env(MODE, mode)
                .env_remove("RUST_BACKTRACE")
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let output = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            let abort = rustix::process::Signal::ABORT.as_raw();
            assert_eq!(output.status.signal(), Some(abort), "{mode}: {output:?}");
            let lines = said.lines().filter(|line| line.starts_with("vfnic: "));
            let lines: Vec<_> = lines.collect();
            assert_eq!(lines.len(), 1, "{mode}: {said}");
            assert!(lines[0].contains("worker-x"), "{mode}: {said}");
            assert!(mode == "guard" || lines[0].contains("a bug of ours in two lines"));
        }
    }
}
