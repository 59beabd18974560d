//! Standard error that is closed, full or not read, and front ends that want much written there: nobody waits, nothing ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vfnic::control::show::ShowLog;
use vfnic::control::{Request, Response, ask};

use crate::emulator::{Emulator, wait_for};
use crate::port::{Port, pass};

/// A `vfnic run` with a standard error of the test's choice.
struct Run {
    dir: TempDir,
    child: Child,
}

impl Run {
    fn start(stderr: Stdio, stdout: Stdio, args: &[&str]) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_vfnic"))
            .args(["run", "--socket-dir"])
            .arg(dir.path())
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        let run = Run { dir, child };
        wait_for("vfnic answers", || {
            ask(&run.path("ctl.sock"), &Request::Show).ok()
        });
        run
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> ShowLog {
        // While hundreds of front ends come and go on a busy machine, one answer may take long.
        wait_for("an answer", || {
            match ask(&self.path("ctl.sock"), &Request::Show).ok()? {
                Response::Show(show) => Some(show.log),
                other => panic!("{other:?}"),
            }
        })
    }

    /// It serves VFs and commands, and ends when it is told to.
    #[track_caller]
    fn ends_well(mut self) {
        let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|name| Port::open(&self.path(name)));
        pass(&mut a, &mut b);
        self.log();
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let asked = Instant::now();
        let status = wait_for("it has ended", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}");
        assert!(asked.elapsed() < Duration::from_secs(5));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Front ends that send rubbish, each of which is worth some lines.
fn rubbish(socket: &Path, count: usize) {
    for _ in 0..count {
        // It may be turned away before it has sent all.
        let _ = UnixStream::connect(socket).map(|mut stream| stream.write_all(&[0xff; 12]));
    }
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let mut run = Run::start(Stdio::piped(), Stdio::null(), &["--quiet", "--vfs", "4"]);
    let stderr = run.child.stderr.take().unwrap();
    // More than fits into the pipe.
    for vf in 0..4 {
        rubbish(&run.path(&format!("vf{vf}.sock")), 120);
    }
    wait_for("some was left out", || {
        (run.log().left_out > 50).then_some(())
    });
    // Somebody reads it at last; nothing is missing that is not said to be.
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        lines.collect::<Vec<_>>()
    });
    run.ends_well();
    let lines = reading.join().unwrap();
    assert!(lines.iter().any(|l| l.contains("vf3")), "{}", lines.len());
}

#[test]
fn a_log_whose_reader_never_reads_keeps_nobody_from_ending() {
    let mut run = Run::start(Stdio::piped(), Stdio::null(), &["--quiet", "--vfs", "4"]);
    let _unread = run.child.stderr.take();
    for vf in 0..4 {
        rubbish(&run.path(&format!("vf{vf}.sock")), 120);
    }
    run.ends_well();
}

#[test]
fn a_log_whose_reader_has_gone_is_missed_by_nobody() {
    let mut run = Run::start(Stdio::piped(), Stdio::null(), &["--quiet"]);
    drop(run.child.stderr.take());
    rubbish(&run.path("vf0.sock"), 10);
    wait_for("lines are lost", || (run.log().lost > 0).then_some(()));
    run.ends_well();
}

#[test]
fn a_full_disk_costs_lines_and_no_more() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let run = Run::start(full.into(), Stdio::null(), &["--quiet"]);
    rubbish(&run.path("vf0.sock"), 10);
    wait_for("lines are lost", || (run.log().lost > 0).then_some(()));
    run.ends_well();
}

#[test]
fn arguments_that_nobody_reads_hold_no_start_up() {
    let run = Run::start(Stdio::null(), Stdio::piped(), &["--vfs", "256"]);
    run.ends_well();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let run = Run::start(Stdio::null(), full.into(), &[]);
    run.ends_well();
}

#[test]
fn a_hostile_front_end_fills_no_disk() {
    let emulator = Emulator::start(&["--vfs", "4"]);
    let socket = emulator.path("vf1.sock");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(2) {
        rubbish(&socket, 100);
    }
    let size = fs::metadata(emulator.path("log")).unwrap().len();
    assert!(size < 64 << 10, "{size} bytes in {:?}", started.elapsed());
    let left_out = emulator.show().log.left_out;
    assert!(left_out > 100, "{left_out}");
    // What others do is logged as ever.
    let _port = Port::open(&emulator.path("vf2.sock"));
    assert!(emulator.log().contains("vf2"));
}
