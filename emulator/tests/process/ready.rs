//! Who waits for a run is told when everything listens, and not before.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use vfnic::control::{Request, ask};

use crate::emulator::{DEADLINE, Emulator, vfnic, wait_for};

/// A `vfnic run` in a folder; killed when dropped.
struct Run(Child);

impl Run {
    fn start(dir: &Path, change: impl FnOnce(&mut Command)) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfnic"));
        command
            .args(["run", "--quiet", "--vfs", "20", "--socket-dir"])
            .arg(dir)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        change(&mut command);
        Run(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id() as i32).unwrap(), signal).unwrap();
    }

    #[track_caller]
    fn ends_well(&mut self) {
        let status = wait_for("it has ended", || self.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[track_caller]
fn everything_listens(dir: &Path) {
    for vf in 0..20 {
        UnixStream::connect(dir.join(format!("vf{vf}.sock"))).unwrap();
    }
    ask(&dir.join("ctl.sock"), &Request::Show).unwrap();
}

#[test]
fn the_file_ready_is_there_when_everything_listens_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    // The first is killed and leaves its file; the second is not taken in by it.
    for end in [Signal::KILL, Signal::TERM, Signal::HUP, Signal::INT] {
        let mut run = Run::start(dir.path(), |_| {});
        let pid = format!("{}\n", run.0.id());
        wait_for("it is ready", || {
            (fs::read_to_string(&ready).ok()? == pid).then_some(())
        });
        everything_listens(dir.path());
        // Another one is refused, and takes nothing away.
        let args = ["run", "--socket-dir", dir.path().to_str().unwrap()];
        let second = vfnic(&args);
        let line = String::from_utf8(second.stderr).unwrap();
        assert_eq!(second.status.code(), Some(2), "{line}");
        assert!(line.contains("another vfnic serves"), "{line}");
        assert_eq!(fs::read_to_string(&ready).unwrap(), pid);
        run.signal(end);
        if end == Signal::KILL {
            wait_for("it has ended", || run.0.try_wait().unwrap());
            assert!(ready.exists());
        } else {
            run.ends_well();
            let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
            assert!(left.is_empty(), "{end:?}: {left:?}");
        }
    }
}

#[test]
fn a_file_ready_that_is_another_s_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready");
    for text in ["steady, go\n", "12345678901234567890\n"] {
        fs::write(&ready, text).unwrap();
        let output = vfnic(&["run", "--socket-dir", dir.path().to_str().unwrap()]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(line.contains(ready.to_str().unwrap()), "{line}");
        assert_eq!(fs::read_to_string(&ready).unwrap(), text);
    }
}

#[test]
fn an_inherited_descriptor_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::start(dir.path(), |command| {
        command.args(["--ready-fd", "1"]).stdout(Stdio::piped());
    });
    let mut line = String::new();
    let mut told = BufReader::new(run.0.stdout.take().unwrap());
    told.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    everything_listens(dir.path());
    run.signal(Signal::TERM);
    run.ends_well();

    let output = vfnic(&[
        "run",
        "--socket-dir",
        dir.path().to_str().unwrap(),
        "--ready-fd",
        "77",
    ]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(line.contains("--ready-fd 77"), "{line}");
}

#[test]
fn a_service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let manager = dir.path().join("notify");
    let socket = UnixDatagram::bind(&manager).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut run = Run::start(dir.path(), |command| {
        command.env("NOTIFY_SOCKET", &manager);
    });
    let hear = || {
        let mut message = [0; 64];
        let len = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..len].to_vec()).unwrap()
    };
    assert_eq!(hear(), "READY=1\n");
    everything_listens(dir.path());
    run.signal(Signal::TERM);
    assert_eq!(hear(), "STOPPING=1\n");
    run.ends_well();
    // One that has gone does no harm.
    drop(socket);
    let run = Run::start(dir.path(), |command| {
        command.env("NOTIFY_SOCKET", &manager);
    });
    wait_for("it is ready", || {
        dir.path().join("ready").exists().then_some(())
    });
    everything_listens(dir.path());
    drop(run);
}

#[test]
fn the_control_socket_is_where_it_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let ctl = dir.path().join("elsewhere");
    let emulator = dir.path().join("sockets");
    let run = Run::start(&emulator, |command| {
        command.arg("--ctl").arg(&ctl);
    });
    wait_for("it answers there", || ask(&ctl, &Request::Show).ok());
    assert!(!emulator.join("ctl.sock").exists());
    drop(run);
}

#[test]
fn a_closed_terminal_is_the_end_but_not_under_nohup() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::start(dir.path(), |_| {});
    let ready = dir.path().join("ready");
    wait_for("it is ready", || ready.exists().then_some(()));
    run.signal(Signal::HUP);
    run.ends_well();
    assert!(!dir.path().join("vf0.sock").exists());

    let script = format!(
        "trap '' HUP; exec '{}' run --quiet --socket-dir '{}'",
        env!("CARGO_BIN_EXE_vfnic"),
        dir.path().display()
    );
    let child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let mut run = Run(child);
    wait_for("it is ready", || ready.exists().then_some(()));
    run.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(run.0.try_wait().unwrap(), None);
    ask(&dir.path().join("ctl.sock"), &Request::Show).unwrap();
    run.signal(Signal::TERM);
    run.ends_well();
}

#[test]
fn words_about_a_nic_that_nobody_looks_at_are_refused() {
    let emulator = Emulator::start(&[]);
    for (args, says) in [
        (&["--nic", "foo", "show"][..], "no NIC 'foo'"),
        (&["--nic", "foo", "show", "workers"], "no NIC 'foo'"),
        (&["--nic", "foo", "run"], "--nic is for"),
        #[cfg(feature = "lab")]
        (&["scenario", "check", "x"], "--ctl is for show"),
    ] {
        let output = emulator.vfnic(args);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
        assert!(line.contains(says), "{args:?}: {line}");
    }
    emulator.does("--nic nic0 show");
}
