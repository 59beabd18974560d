//! Paths where `vfnic run` is to listen and something else is already: nothing that is not a dead process' socket is ever
//! removed, and nobody is waited for.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tempfile::TempDir;
use vfnic::control::{Request, ask};

use crate::emulator::{Emulator, wait_for};

/// A `vfnic run` that may be refused; killed when dropped.
struct Start(Child);

impl Start {
    fn new(dir: &Path, args: &[&str]) -> Start {
        let child = Command::new(env!("CARGO_BIN_EXE_vfnic"))
            .args(["run", "--quiet", "--socket-dir"])
            .arg(dir)
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Start(child)
    }

    /// Asserts that it ends by itself with exit code 2 and returns its only line.
    #[track_caller]
    fn refused(mut self, what: &str) -> String {
        let status = wait_for(&format!("refusal of {what}"), || self.0.try_wait().unwrap());
        let mut line = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut line).unwrap();
        assert_eq!(status.code(), Some(2), "{what}: {line}");
        assert_eq!(line.lines().count(), 1, "{what}: {line}");
        line
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last one is the virtual clock's.
const KINDS: usize = if cfg!(feature = "lab") { 3 } else { 2 };

/// The three kinds of sockets that a run makes, with the arguments that it takes to make them in a folder.
fn kinds(dir: &Path) -> [(PathBuf, Vec<String>); 3] {
    let calendar = dir.join("calendar");
    let clock = ["--clock", "virtual", "--wait-for", "1", "--calendar"].map(str::to_owned);
    let clock = [&clock[..], &[calendar.display().to_string()]].concat();
    [
        (dir.join("vf1.sock"), vec![]),
        (dir.join("ctl.sock"), vec![]),
        (calendar, clock),
    ]
}

fn start(dir: &TempDir, args: &[String]) -> Start {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Start::new(dir.path(), &args)
}

#[test]
fn what_is_no_dead_socket_is_left_alone_and_named() {
    for kind in 0..KINDS {
        let dir = tempfile::tempdir().unwrap();
        let (path, args) = kinds(dir.path())[kind].clone();
        let precious = dir.path().join("precious");
        fs::write(&precious, "kept").unwrap();
        let same = |what: &str, line: &str, inode: u64| {
            let now = fs::symlink_metadata(&path).map(|m| m.ino()).ok();
            assert_eq!(now, Some(inode), "{what} is gone: {line}");
            assert!(line.contains(path.to_str().unwrap()), "{what}: {line}");
            assert!(line.contains("choose another path"), "{what}: {line}");
        };
        let inode = || fs::symlink_metadata(&path).unwrap().ino();

        fs::copy(&precious, &path).unwrap();
        let before = inode();
        let line = start(&dir, &args).refused("a regular file");
        same("a regular file", &line, before);
        assert!(line.contains("is a regular file"), "{line}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
        fs::remove_file(&path).unwrap();

        for target in ["precious", "nowhere"] {
            symlink(target, &path).unwrap();
            let before = inode();
            let line = start(&dir, &args).refused("a symbolic link");
            same("a symbolic link", &line, before);
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");

        let datagrams = UnixDatagram::bind(&path).unwrap();
        let before = inode();
        let line = start(&dir, &args).refused("a datagram socket");
        same("a datagram socket", &line, before);
        drop(datagrams);
        fs::remove_file(&path).unwrap();

        let live = UnixListener::bind(&path).unwrap();
        let before = inode();
        let line = start(&dir, &args).refused("a live socket");
        same("a live socket", &line, before);
        assert!(line.contains("is in use"), "{line}");
        drop(live);
    }
}

#[test]
fn a_stuck_process_with_a_full_backlog_holds_no_start_up() {
    for kind in 0..KINDS {
        let dir = tempfile::tempdir().unwrap();
        let (path, args) = kinds(dir.path())[kind].clone();
        let _stuck = UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
            let socket = socket.unwrap();
            match rustix::net::connect(&socket, &SocketAddrUnix::new(&path).unwrap()) {
                Ok(()) => waiting.push(socket),
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => panic!("{error} after {}", waiting.len()),
            }
        }
        let line = start(&dir, &args).refused("a full backlog");
        assert!(line.contains("is in use"), "{line}");
    }
}

#[test]
fn refusals_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nic.toml");
    let long = "x".repeat(120);
    for (socket, says) in [
        (format!("{}/{long}", dir.path().display()), "107 at most"),
        ("/no/such/folder/vf0".to_owned(), "no such folder"),
    ] {
        let text = format!("[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\nsocket='{socket}'");
        fs::write(&file, text).unwrap();
        let args = ["--config", file.to_str().unwrap()];
        let line = Start::new(dir.path(), &args).refused(&socket);
        assert!(line.contains(&socket) && line.contains(says), "{line}");
    }
}

#[test]
fn only_the_files_that_a_run_has_made_go_with_it() {
    let mut emulator = Emulator::start(&[]);
    let names = ["ctl.sock", "vf0.sock"];
    // Somebody else has taken over the folder while this one still runs.
    let others = names.map(|name| {
        fs::remove_file(emulator.path(name)).unwrap();
        UnixListener::bind(emulator.path(name)).unwrap()
    });
    let pid = rustix::process::Pid::from_raw(emulator.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    wait_for("it has ended", || (!emulator.lives()).then_some(()));
    for name in names {
        assert!(emulator.path(name).exists(), "{name} was another's");
    }
    assert!(!emulator.path("vf1.sock").exists());
    drop(others);
    emulator.restart();
}

#[test]
fn of_two_starts_at_once_one_runs_and_can_be_reached() {
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        if round % 2 == 1 {
            // What a killed run has left makes both of them look twice.
            for name in ["ctl.sock", "vf0.sock", "vf1.sock"] {
                drop(UnixListener::bind(dir.path().join(name)).unwrap());
            }
        }
        let mut starts = [(); 2].map(|()| Start::new(dir.path(), &[]));
        let loser = wait_for("one of two has given up", || {
            starts
                .iter_mut()
                .position(|start| start.0.try_wait().unwrap().is_some())
        });
        let ctl = dir.path().join("ctl.sock");
        wait_for("the other answers", || {
            let survivor = &mut starts[1 - loser].0;
            assert_eq!(survivor.try_wait().unwrap(), None, "both have given up");
            ask(&ctl, &Request::Show).ok()
        });
        for name in ["vf0.sock", "vf1.sock"] {
            UnixStream::connect(dir.path().join(name)).unwrap();
        }
        let [a, b] = starts;
        let loser = if loser == 0 { a } else { b };
        loser.refused("the second of two starts");
    }
}

/// The mode of a socket's file.
fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// `vfnic run` with a umask of 0, by way of a shell.
fn start_without_umask(dir: &Path, args: &[&str]) -> Start {
    let child = Command::new("sh")
        .args(["-c", "umask 0; exec \"$@\"", "sh"])
        .args([
            env!("CARGO_BIN_EXE_vfnic"),
            "run",
            "--quiet",
            "--socket-dir",
        ])
        .arg(dir)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Start(child)
}

#[test]
fn sockets_are_this_users_alone_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let _run = start_without_umask(
        dir.path(),
        &["--observe", dir.path().join("eyes").to_str().unwrap()],
    );
    let sockets = ["vf0.sock", "vf1.sock", "eyes", "ctl.sock"].map(|name| dir.path().join(name));
    // From the moment that they are there.
    let mut seen = 0;
    wait_for("vfnic answers", || {
        for path in &sockets {
            if let Ok(meta) = fs::symlink_metadata(path) {
                assert_eq!(meta.mode() & 0o7777, 0o600, "{}", path.display());
                seen += 1;
            }
        }
        ask(&sockets[3], &Request::Show).ok()
    });
    assert!(seen >= sockets.len());
}

#[test]
fn sockets_are_opened_to_whom_one_says() {
    let dir = tempfile::tempdir().unwrap();
    let group = rustix::process::getegid().as_raw().to_string();
    let eyes = dir.path().join("eyes");
    let args = [
        "--group",
        &group,
        "--ctl-group",
        &group,
        "--observe",
        eyes.to_str().unwrap(),
    ];
    let _run = start_without_umask(dir.path(), &args);
    let ctl = dir.path().join("ctl.sock");
    wait_for("vfnic answers", || ask(&ctl, &Request::Show).ok());
    for name in ["vf0.sock", "eyes", "ctl.sock"] {
        assert_eq!(mode(&dir.path().join(name)), 0o660, "{name}");
    }
    for (args, says) in [
        (
            ["--group", "no-such-group"],
            "group 'no-such-group': there is no such group",
        ),
        (
            ["--mode", "0640"],
            "'0640' is no mode of a socket: 0600 for its owner",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let line = Start::new(dir.path(), &args).refused(says);
        assert!(line.contains(says), "{line}");
    }
}

#[test]
fn observers_see_everything_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let eyes = dir.path().join("eyes");
    let emulator = Emulator::start(&["--observe", eyes.to_str().unwrap(), "--mode", "0666"]);
    assert_eq!(mode(&eyes), 0o666);
    assert_eq!(mode(&emulator.ctl()), 0o600);
    let look = |args: &[&str]| {
        crate::emulator::vfnic(&[&["--ctl", eyes.to_str().unwrap()], args].concat())
    };
    for asked in [
        &["show"][..],
        &["filter", "show"],
        &["save"],
        &["why", "from", "vf0", "dst", "vf1"],
    ] {
        assert!(look(asked).status.success(), "{asked:?}");
    }
    let before = emulator.vfnic(&["save"]).stdout;
    for said in [
        &["vf", "0", "set", "trust", "on"][..],
        &["link", "set", "down"],
        &["filter", "flush"],
    ] {
        let output = look(said);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said:?}: {line}");
        assert!(
            line.contains("for observers") && line.lines().count() == 1,
            "{line}"
        );
    }
    assert_eq!(emulator.vfnic(&["save"]).stdout, before);
}

/// Nobody but they can end their monitors, however many they have and whether or not they read.
#[test]
fn monitors_of_observers_take_no_capture_from_an_administrator() {
    let dir = tempfile::tempdir().unwrap();
    let eyes = dir.path().join("eyes");
    let emulator = Emulator::start(&["--observe", eyes.to_str().unwrap()]);
    let watch = || {
        let mut stream = UnixStream::connect(&eyes).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream.write_all(b"{\"monitor\":{}}\n").unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.contains("stream"), "{line}");
        stream
    };
    let mut all: Vec<_> = (0..20).map(|_| watch()).collect();
    // The last ones go on, and those before have ended.
    for (n, stream) in all.iter_mut().enumerate() {
        let wait = if n < 12 { 10_000 } else { 50 };
        stream
            .set_read_timeout(Some(Duration::from_millis(wait)))
            .unwrap();
        let ended = matches!(stream.read(&mut [0; 1]), Ok(0));
        assert_eq!(ended, n < 12, "{n}");
    }
    let capture = |n: usize| {
        let mut stream = UnixStream::connect(emulator.ctl()).unwrap();
        stream.write_all(b"{\"monitor\":{}}\n").unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line.contains("stream"), n < 16, "{n}: {line}");
        stream
    };
    let _captures: Vec<_> = (0..17).map(capture).collect();
}
