//! The control socket and clients that misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use vfnic::control::{NicCommand, Request, Response, ask};

use crate::emulator::{Emulator, wait_for};
use crate::port::{Port, pass};

/// Carries out a command over the control socket, as its words behind the name of the NIC: `a vf 0 set path direct`.
#[track_caller]
pub(crate) fn command(emulator: &Emulator, text: &str) {
    let mut words = text.split_whitespace().map(str::to_owned);
    let request = Request::Command(NicCommand {
        nic: words.next(),
        words: words.collect(),
    });
    match ask(&emulator.ctl(), &request) {
        Ok(Response::Done(_)) => {}
        other => panic!("{text}: {other:?}"),
    }
}

/// A connection that says nothing of itself.
pub(crate) fn client(emulator: &Emulator) -> UnixStream {
    let stream = UnixStream::connect(emulator.ctl()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

#[test]
fn garbage_is_refused_a_line_at_a_time() {
    let emulator = Emulator::start(&[]);
    let mut stream = client(&emulator);
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let before = emulator.show().nics[0].vfs.clone();
    for line in [
        &b"hello"[..],
        b"",
        b"{",
        b"\"shown\"",
        b"{\"command\":{\"nic\":null,\"words\":[]}}",
        b"{\"command\":{\"nic\":null,\"words\":[\"vf\",\"0\",\"set\",\"path\",\"neither\"]}}",
        b"{\"command\":{\"nic\":\"no such\",\"words\":[\"link\",\"set\",\"down\"]}}",
        b"{\"command\":{\"nic\":null,\"words\":[\"vf\",\"7\",\"set\",\"trust\",\"on\"]}}",
        b"\xff\xfe\x00",
        &[b'['; 100_000],
    ] {
        stream.write_all(line).unwrap();
        stream.write_all(b"\n").unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        let answer: Response = serde_json::from_str(&answer).unwrap();
        let Response::Refused(why) = answer else {
            panic!("{answer:?}");
        };
        assert!(!why.is_empty() && !why.contains('\n'), "{why:?}");
    }
    // The same client is still served.
    stream.write_all(b"\"show\"\n").unwrap();
    let mut answer = String::new();
    answers.read_line(&mut answer).unwrap();
    assert!(answer.starts_with("{\"show\""), "{answer}");
    assert_eq!(emulator.show().nics[0].vfs, before);
}

#[test]
fn a_line_without_an_end_is_cut_off() {
    let emulator = Emulator::start(&[]);
    let mut stream = client(&emulator);
    // Until the emulator has had enough, which is a broken pipe here.
    let chunk = [b'x'; 1 << 16];
    wait_for("the client is cut off", || stream.write_all(&chunk).err());
    // With a line that says why.
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert_eq!(
        answer,
        "{\"refused\":\"a request has 4194304 bytes at most\"}\n"
    );
    emulator.show();
}

#[test]
fn clients_that_never_read_hold_nobody_up() {
    let emulator = Emulator::start(&[]);
    let mut deaf: Vec<UnixStream> = (0..8).map(|_| client(&emulator)).collect();
    for stream in &mut deaf {
        stream.set_nonblocking(true).unwrap();
        // As much as the socket takes at present; the answers are far longer.
        while stream.write_all(b"\"show\"\n").is_ok() {}
    }
    let mut half = client(&emulator);
    half.write_all(b"\"sh").unwrap();
    emulator.does("vf 1 set path mediated");
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    pass(&mut a, &mut b);
    half.write_all(b"ow\"\n").unwrap();
    let mut answer = String::new();
    BufReader::new(half).read_line(&mut answer).unwrap();
    assert!(answer.starts_with("{\"show\""), "{answer}");
    // A deaf client that starts to read gets what it is owed.
    deaf[0].set_nonblocking(false).unwrap();
    let mut start = [0; 8];
    deaf[0].read_exact(&mut start).unwrap();
    assert_eq!(&start, b"{\"show\":");
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    let emulator = Emulator::start(&[]);
    for n in 0..300 {
        let mut stream = client(&emulator);
        if n % 2 == 0 {
            // Fails for one that has been turned away already.
            let _ = stream.write_all(b"\"show\"\n\"sho");
        }
    }
    // More than are served at once have come, and the rest were turned away. Now there is room again, and no descriptor
    // is left over.
    let fds = || {
        let dir = std::fs::read_dir(format!("/proc/{}/fd", emulator.pid())).unwrap();
        dir.count()
    };
    wait_for("the last of them is gone", || {
        let answer = ask(&emulator.ctl(), &Request::Show);
        (answer.is_ok() && fds() < 40).then_some(())
    });
}

#[test]
fn clients_that_only_sit_there_lock_nobody_out() {
    let emulator = Emulator::start(&[]);
    let sitting: Vec<UnixStream> = (0..200).map(|_| client(&emulator)).collect();
    for _ in 0..3 {
        emulator.does("vf 0 set trust on");
        emulator.show();
    }
    // The last ones are still there, too.
    let mut stream = sitting.last().unwrap();
    stream.write_all(b"\"show\"\n").unwrap();
    let mut start = [0; 8];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"{\"show\":");
}

#[test]
fn a_client_that_sends_without_end_has_its_turn_and_no_more() {
    let emulator = Emulator::start(&["--vfs", "64"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut asking = client(&emulator);
                let mut reading = asking.try_clone().unwrap();
                scope.spawn(move || while reading.read(&mut [0; 1 << 16]).is_ok_and(|n| n > 0) {});
                while !stop.load(Ordering::Relaxed) {
                    asking.write_all(&b"\"show\"\n".repeat(500)).unwrap();
                }
                asking.shutdown(Shutdown::Both).unwrap();
            });
        }
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..5 {
                let asked = Instant::now();
                emulator.show();
                let [mut a, mut b] =
                    ["vf0.sock", "vf63.sock"].map(|s| Port::open(&emulator.path(s)));
                pass(&mut a, &mut b);
                // Thousands of requests wait all the time, of which each takes some 100 us.
                assert!(
                    asked.elapsed() < Duration::from_secs(5),
                    "{:?}",
                    asked.elapsed()
                );
            }
        }));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap();
    });
}

#[test]
fn a_client_that_comes_when_there_are_no_descriptors_is_served_when_there_are() {
    let emulator = Emulator::start(&[]);
    let limit = |current| {
        let pid = Pid::from_raw(emulator.pid() as i32);
        let limit = Rlimit {
            current: Some(current),
            maximum: Some(4096),
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    };
    limit(4);
    let mut stream = client(&emulator);
    stream.write_all(b"\"show\"\n").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    assert!(
        stream.read(&mut [0; 8]).is_err(),
        "served without a descriptor"
    );
    limit(256);
    // Nobody else comes.
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut start = [0; 8];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"{\"show\":");
}
