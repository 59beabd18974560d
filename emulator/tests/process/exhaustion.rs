//! A process that may have no more of something: whoever comes is refused, in a line or two, and the others notice nothing. When
//! there is room again, the next one is served.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use vf_guest::net::NetConfig;

use crate::emulator::{Emulator, wait_for};
use crate::port::{Port, pass, start, try_start};

/// Limits what the process may have of something; what it could have before.
fn limit(emulator: &Emulator, of: Resource, current: Option<u64>) -> Option<u64> {
    let pid = Pid::from_raw(emulator.pid().cast_signed());
    let maximum = rustix::process::getrlimit(of).maximum;
    let was = prlimit(pid, of, Rlimit { current, maximum });
    was.unwrap().current
}

pub(crate) fn descriptors(emulator: &Emulator) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{}/fd", emulator.pid())).unwrap();
    open.count() as u64
}

/// Lines that have been logged since there were `before`.
fn since(emulator: &Emulator, before: usize) -> usize {
    emulator.log().lines().count() - before
}

#[test]
fn where_there_are_no_descriptors_the_newcomer_is_refused_and_nobody_else() {
    let emulator = Emulator::start(&["--vfs", "4"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    pass(&mut a, &mut b);
    let (socket, lines) = (emulator.path("vf2.sock"), emulator.log().lines().count());
    // Enough for the connection, not for what is sent there; and not for that.
    for spare in [2, 0] {
        let was = limit(
            &emulator,
            Resource::Nofile,
            Some(descriptors(&emulator) + spare),
        );
        for _ in 0..20 {
            assert!(UnixStream::connect(&socket).is_ok(), "it waits");
            pass(&mut a, &mut b);
        }
        limit(&emulator, Resource::Nofile, was);
    }
    assert!(since(&emulator, lines) < 100, "{}", emulator.log());
    let mut c = Port::open(&socket);
    pass(&mut a, &mut c);
    emulator.show();
}

#[test]
fn where_there_is_no_memory_the_newcomer_is_refused_and_nobody_else() {
    let emulator = Emulator::start(&["--vfs", "4"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    pass(&mut a, &mut b);
    let lines = emulator.log().lines().count();
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", emulator.pid())).unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    let was = limit(&emulator, Resource::As, Some((pages << 12) + (8 << 20)));
    let large = NetConfig {
        queue_size: 8192,
        mtu: 9000,
        ..NetConfig::default()
    };
    for _ in 0..5 {
        let refused = try_start(&emulator.path("vf2.sock"), &large);
        assert!(refused.is_err(), "its memory is far longer than that");
        pass(&mut a, &mut b);
    }
    limit(&emulator, Resource::As, was);
    assert!(since(&emulator, lines) < 30, "{}", emulator.log());
    drop(start(&emulator.path("vf2.sock"), &large));
    pass(&mut a, &mut b);
}

#[test]
fn a_thousand_connections_that_say_half_a_word_keep_nobody_out() {
    let emulator = Emulator::start(&["--vfs", "4", "--metrics", "127.0.0.1:0"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    pass(&mut a, &mut b);
    let before = descriptors(&emulator);
    let mut open = Vec::new();
    for n in 0..1000 {
        let name = ["vf0.sock", "vf2.sock", "ctl.sock"][n % 3];
        // One of them may have its queue full for a moment.
        let stream = wait_for("a connection", || {
            UnixStream::connect(emulator.path(name)).ok()
        });
        // It fails for one that has been turned away already.
        let _ = (&stream).write(b"\x01\0\0");
        open.push(stream);
        if n % 100 == 0 {
            pass(&mut a, &mut b);
        }
    }
    emulator.show();
    emulator.does("vf 0 set trust on");
    pass(&mut a, &mut b);
    assert!(
        descriptors(&emulator) < before + 100,
        "most are turned away"
    );
    drop(open);
    let mut c = Port::open(&emulator.path("vf2.sock"));
    pass(&mut a, &mut c);
    drop(c);
    wait_for("nothing is left of them", || {
        std::thread::sleep(Duration::from_millis(10));
        (descriptors(&emulator) <= before + 2).then_some(())
    });
}
