//! Front ends that would have vfnic wait for them for ever: descriptors that block, or whose closing does, and descriptors by
//! which a session would never be seen to end. Everybody else goes on, the VF is free again, and SIGTERM ends the process.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vf_guest::driver::{Buffer, DESC_NEXT, Desc};
use vf_guest::eventfd::EventFd;
use vf_guest::frontend::Frontend;
use vf_guest::message::{FLAG_VERSION, Header, protocol, request};
use vf_guest::net::feature;
use vf_guest::net::{NetConfig, NetDevice};

use crate::control::command;
use crate::emulator::{Emulator, wait_for};
use crate::exhaustion::descriptors;
use crate::hostile::Neighbours;
use crate::port::{Port, pass, start};

/// What a front end at this socket does, with a neighbour's frames at hand. It has exited when this returns.
type Attack = fn(&Path, &mut Port);

/// After which what an attack is about has happened.
const IT_HAPPENS: Duration = Duration::from_millis(50);

/// Makes whoever reads the counter wait from now on, if it is empty: it is the front end's as much as vfnic's.
fn make_blocking(event: &EventFd) {
    let flags = fcntl_getfl(event.as_fd()).unwrap();
    fcntl_setfl(event.as_fd(), flags - OFlags::NONBLOCK).unwrap();
}

/// Makes whoever writes to the counter wait.
fn fill(event: &EventFd) {
    event.drain();
    let most = (u64::MAX - 1).to_ne_bytes();
    // It may have been signalled in between; then it takes a little less.
    while rustix::io::write(event.as_fd(), &most).is_err() && event.drain() > 0 {}
    make_blocking(event);
}

/// A device with a control queue.
fn controlled(socket: &Path) -> NetDevice {
    let config = NetConfig {
        features: NetConfig::default().features | feature::CTRL_VQ | feature::CTRL_RX,
        ..NetConfig::default()
    };
    start(socket, &config)
}

/// Has frames sent to the device; each of them is one more reason to call it.
fn send_to(net: &NetDevice, witness: &mut Port) {
    let mac = net.config_space().mac;
    for _ in 0..20 {
        let frame = witness.frame(mac, 100);
        witness.send(&frame);
    }
}

/// Puts a chain on the control queue that is a loop.
fn break_control_queue(net: &mut NetDevice) {
    let ring = net.control_ring().unwrap();
    let looped = Desc {
        addr: ring.buffer_addr(0),
        len: 2,
        flags: DESC_NEXT,
        next: 0,
    };
    ring.queue.lie(&[looped]);
    ring.kick.as_ref().unwrap().signal();
}

fn full_call(socket: &Path, witness: &mut Port) {
    let mut net = start(socket, &NetConfig::default());
    fill(net.rx_ring(0).call.as_ref().unwrap());
    send_to(&net, witness);
    std::thread::sleep(IT_HAPPENS);
}

fn full_err(socket: &Path, _: &mut Port) {
    let mut net = start(socket, &NetConfig::default());
    let err = EventFd::new().unwrap();
    fill(&err);
    let frontend = net.frontend().unwrap();
    frontend.set_vring_err(1, Some(err.as_fd())).unwrap();
    let ring = net.tx_ring(0);
    let looped = Desc {
        addr: ring.buffer_addr(0),
        len: 64,
        flags: DESC_NEXT,
        next: 0,
    };
    ring.queue.lie(&[looped]);
    ring.kick.as_ref().unwrap().signal();
    std::thread::sleep(IT_HAPPENS);
}

fn empty_kick_of_a_disabled_ring(socket: &Path, _: &mut Port) {
    let mut net = start(socket, &NetConfig::default());
    let frontend = net.frontend().unwrap();
    frontend.set_vring_enable(1, false).unwrap();
    let ring = net.tx_ring(0);
    let buffer = Buffer {
        addr: ring.buffer_addr(0),
        len: 100,
        writable: false,
    };
    let kick = ring.kick.as_ref().unwrap();
    kick.drain();
    make_blocking(kick);
    ring.queue.add(&[buffer]).unwrap();
    ring.queue.publish();
    // Frames of a disabled ring are thrown away when it has been disabled for a while.
    std::thread::sleep(Duration::from_millis(200));
}

fn empty_kick_of_the_control_queue(socket: &Path, _: &mut Port) {
    let mut net = controlled(socket);
    let kick = net.control_ring().unwrap().kick.as_ref().unwrap();
    kick.drain();
    make_blocking(kick);
    let frontend = net.frontend().unwrap();
    // Whatever is said to the control thread, it looks at the queue, too.
    frontend.send(request::GET_FEATURES, 0, &[], &[]).unwrap();
    std::thread::sleep(IT_HAPPENS);
}

fn full_call_of_the_control_queue(socket: &Path, _: &mut Port) {
    let mut net = controlled(socket);
    let ring = net.control_ring().unwrap();
    fill(ring.call.as_ref().unwrap());
    let at = ring.buffer_addr(0);
    let chain = [(at, 3, false), (at + 64, 1, true)].map(|(addr, len, writable)| Buffer {
        addr,
        len,
        writable,
    });
    ring.queue.add(&chain).unwrap();
    ring.queue.publish();
    ring.kick.as_ref().unwrap().signal();
    std::thread::sleep(IT_HAPPENS);
}

fn full_err_of_the_control_queue(socket: &Path, _: &mut Port) {
    let mut net = controlled(socket);
    let err = EventFd::new().unwrap();
    fill(&err);
    let index = net.control_index();
    let frontend = net.frontend().unwrap();
    frontend.set_vring_err(index, Some(err.as_fd())).unwrap();
    break_control_queue(&mut net);
    std::thread::sleep(IT_HAPPENS);
}

/// What is written to, so that a session ends and says so, and what is read, which nobody need notice.
const WRITTEN: [(&str, Attack); 4] = [
    ("a full call", full_call),
    ("a full err", full_err),
    (
        "a full call of the control queue",
        full_call_of_the_control_queue,
    ),
    (
        "a full err of the control queue",
        full_err_of_the_control_queue,
    ),
];
const READ: [(&str, Attack); 2] = [
    (
        "an empty kick of a disabled ring",
        empty_kick_of_a_disabled_ring,
    ),
    (
        "an empty kick of the control queue",
        empty_kick_of_the_control_queue,
    ),
];

#[test]
fn eventfds_that_block_hold_nobody_up() {
    let mut neighbours = Neighbours::new();
    for (what, attack) in WRITTEN {
        neighbours.suffer(what, |n| {
            let socket = n.socket();
            attack(&socket, &mut n.witness);
            // A user's own view of it.
            assert_eq!(n.emulator.show().nics.len(), 1, "{what}");
        });
    }
    for (what, attack) in READ {
        for path in ["direct", "mediated"] {
            command(&neighbours.emulator, &format!("nic0 vf 1 set path {path}"));
            let socket = neighbours.socket();
            attack(&socket, &mut neighbours.witness);
            assert_eq!(neighbours.emulator.show().nics.len(), 1, "{what}");
            neighbours.unharmed(what);
        }
    }
}

#[test]
fn eventfds_that_block_do_not_keep_the_process_from_ending() {
    for (what, attack) in WRITTEN.into_iter().chain(READ) {
        let mut emulator = Emulator::start(&[]);
        let mut witness = Port::open(&emulator.path("vf0.sock"));
        attack(&emulator.path("vf1.sock"), &mut witness);
        emulator.terminate(what);
        emulator.restart();
    }
}

/// A front end that has negotiated and not started anything.
pub(crate) fn negotiated(socket: &Path) -> Frontend {
    wait_for("a session", || {
        let mut frontend = Frontend::connect(socket).ok()?;
        let features = frontend.get_features().ok()?;
        frontend.get_protocol_features().ok()?;
        let all = protocol::REPLY_ACK | protocol::BACKEND_REQ | protocol::CONFIG;
        frontend.set_protocol_features(all).ok()?;
        frontend.set_features(features).ok()?;
        Some(frontend)
    })
}

#[test]
fn a_front_end_cannot_keep_its_own_connection_open() {
    let mut emulator = Emulator::start(&["--vfs", "3"]);
    let mut witness = Port::open(&emulator.path("vf0.sock"));
    let [socket, other] = ["vf1.sock", "vf2.sock"].map(|name| emulator.path(name));
    let requests = [
        ("call", request::SET_VRING_CALL, &[0; 8][..]),
        ("err", request::SET_VRING_ERR, &[0; 8]),
        ("back-end request", request::SET_BACKEND_REQ_FD, &[]),
    ];
    for (what, request, payload) in requests {
        // Its own end.
        let mut frontend = negotiated(&socket);
        let own = frontend.stream().try_clone().unwrap();
        frontend.send(request, 0, payload, &[own.as_fd()]).unwrap();
        drop((frontend, own));
        pass(&mut Port::open(&socket), &mut witness);
        // Those of two sessions, each held by the other.
        let mut two = [&socket, &other].map(|socket| negotiated(socket));
        let ends = two.each_ref().map(|f| f.stream().try_clone().unwrap());
        for (frontend, end) in two.iter_mut().zip(ends.iter().rev()) {
            frontend.send(request, 0, payload, &[end.as_fd()]).unwrap();
        }
        drop((two, ends));
        for socket in [&socket, &other] {
            pass(&mut Port::open(socket), &mut witness);
        }
        // In a message on a socket that vfnic holds and does not read.
        let mut frontend = negotiated(&socket);
        let (held, own) = UnixStream::pair().unwrap();
        let mut parcel = Frontend::from_stream(own).unwrap();
        let end = frontend.stream().try_clone().unwrap();
        frontend.send(request, 0, payload, &[held.as_fd()]).unwrap();
        // It is refused, or the session ends, or what was put into it is found: all the same.
        let _ = parcel.send_raw(&[0], &[end.as_fd()]);
        drop((frontend, end, held, parcel));
        pass(&mut Port::open(&socket), &mut witness);
        assert!(emulator.lives(), "{what}");
    }
    // With a message that never ends.
    let head = Header {
        request: request::SET_VRING_CALL,
        flags: FLAG_VERSION,
        size: 8,
    };
    let mut frontend = negotiated(&socket);
    let end = frontend.stream().try_clone().unwrap();
    frontend.send_raw(&head.encode(), &[end.as_fd()]).unwrap();
    drop((frontend, end));
    pass(&mut Port::open(&socket), &mut witness);
}

/// A socket whose last `close` waits for an hour, as its peer reads nothing of what is in it. That has to be kept.
pub(crate) fn lingering() -> (OwnedFd, (TcpListener, TcpStream)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let hour = Some(Duration::from_secs(3600));
    rustix::net::sockopt::set_socket_linger(&socket, hour).unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 1 << 16]).is_ok() {}
    (socket.into(), (listener, peer))
}

/// Puts descriptors into a socket while vfnic stands still, so that it is the last one to have them.
pub(crate) fn put(emulator: &Emulator, socket: &UnixStream, bytes: &[u8], fds: Vec<OwnedFd>) {
    let pid = rustix::process::Pid::from_raw(emulator.pid().cast_signed()).unwrap();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    let mut parcel = Frontend::from_stream(socket.try_clone().unwrap()).unwrap();
    signal(rustix::process::Signal::STOP);
    wait_for("vfnic stands still", || {
        let mut tasks = std::fs::read_dir(format!("/proc/{}/task", emulator.pid())).ok()?;
        let stands = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat"));
            // A thread that has ended meanwhile stands still, too.
            stat.is_ok_and(|stat| stat.contains(") T ")).then_some(())
        };
        tasks.all(|task| stands(task).is_some()).then_some(())
    });
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    if parcel.send_raw(bytes, &borrowed).is_err() {
        // The session has ended already, and these are the last ones.
        for fd in &fds {
            let _ = rustix::net::sockopt::set_socket_linger(fd, None);
        }
    }
    drop(fds);
    signal(rustix::process::Signal::CONT);
}

#[test]
fn descriptors_that_take_an_hour_to_close_do_not_fill_the_table() {
    let emulator = Emulator::start(&["--vfs", "3"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|name| Port::open(&emulator.path(name)));
    let mut frontend = negotiated(&emulator.path("vf2.sock"));
    let before = descriptors(&emulator);
    let mut peers = Vec::new();
    let get_features = Header {
        request: request::GET_FEATURES,
        flags: FLAG_VERSION,
        size: 0,
    };
    // What is sent is heard no faster than it is closed.
    let mut most = before;
    for _ in 0..60 {
        let (slow, theirs): (Vec<_>, Vec<_>) = (0..8).map(|_| lingering()).unzip();
        peers.extend(theirs);
        put(&emulator, frontend.stream(), &get_features.encode(), slow);
        most = descriptors(&emulator).max(most);
    }
    assert!((before..before + 300).contains(&most), "{before}: {most}");
    for _ in 0..60 {
        frontend.receive().unwrap();
    }
    pass(&mut a, &mut b);
    // It comes again when they have been closed.
    drop((frontend, peers));
    pass(&mut Port::open(&emulator.path("vf2.sock")), &mut a);
}

#[test]
fn descriptors_that_take_an_hour_to_close_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let observers = dir.path().join("observers");
    let observe = observers.to_str().unwrap();
    let mut emulator = Emulator::start(&["--vfs", "3", "--observe", observe]);
    let mut peers = Vec::new();
    let mut lingering = || {
        let (fd, peer) = lingering();
        peers.push(peer);
        fd
    };
    let head = |request, size| {
        let flags = FLAG_VERSION;
        Header {
            request,
            flags,
            size,
        }
        .encode()
    };
    let socket = emulator.path("vf1.sock");
    let call = [&head(request::SET_VRING_CALL, 8)[..], &[0; 8]].concat();
    let memory = [
        &head(request::SET_MEM_TABLE, 40)[..],
        &1u64.to_le_bytes(),
        &[0; 32],
    ]
    .concat();
    for (what, message) in [("a call", &call), ("memory", &memory)] {
        put(
            &emulator,
            negotiated(&socket).stream(),
            message,
            vec![lingering()],
        );
        emulator.show();
        // Where it is the socket that is sent in which that waits.
        let (sent, own) = UnixStream::pair().unwrap();
        put(&emulator, &own, b"x", vec![lingering()]);
        put(
            &emulator,
            negotiated(&socket).stream(),
            message,
            vec![sent.into()],
        );
        emulator.show();
        assert!(emulator.lives(), "{what}");
    }
    // As an answer to nothing, on the socket for answers.
    let (sent, own) = UnixStream::pair().unwrap();
    let mut frontend = negotiated(&socket);
    let backend = head(request::SET_BACKEND_REQ_FD, 0);
    frontend.send_raw(&backend, &[sent.as_fd()]).unwrap();
    drop(sent);
    frontend.get_features().unwrap();
    put(&emulator, &own, b"x", vec![lingering()]);
    drop((frontend, own));
    emulator.show();
    // Behind what ends the session, so that nobody reads it.
    let mut frontend = negotiated(&socket);
    let endless = head(request::SET_VRING_CALL, u32::MAX);
    frontend.send_raw(&endless, &[]).unwrap();
    put(&emulator, frontend.stream(), b"x", vec![lingering()]);
    drop(frontend);
    emulator.show();
    // More of them than a message may have.
    let frontend = negotiated(&socket);
    for bytes in [&call[..4], &call[4..]] {
        let many = (0..20).map(|_| lingering()).collect();
        put(&emulator, frontend.stream(), bytes, many);
    }
    drop(frontend);
    emulator.show();
    // From one who is turned away, and from clients.
    let held = negotiated(&socket);
    for path in [&socket, &emulator.ctl(), &observers] {
        let stream = UnixStream::connect(path).unwrap();
        put(&emulator, &stream, b"x", vec![lingering()]);
        emulator.show();
        drop(stream);
        emulator.show();
    }
    drop(held);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|name| Port::open(&emulator.path(name)));
    pass(&mut a, &mut b);
    emulator.terminate("descriptors that take an hour to close");
    emulator.restart();
}

/// Threads of the process.
fn threads(emulator: &Emulator) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", emulator.pid()));
    tasks.unwrap().count()
}

#[test]
fn a_socket_for_requests_that_comes_anew_all_the_time_leaves_no_threads() {
    let emulator = Emulator::start(&["--vfs", "3"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|name| Port::open(&emulator.path(name)));
    let mut frontend = negotiated(&emulator.path("vf2.sock"));
    let before = threads(&emulator);
    for _ in 0..20 {
        for _ in 0..100 {
            let (theirs, _) = UnixStream::pair().unwrap();
            let backend = request::SET_BACKEND_REQ_FD;
            frontend.send(backend, 0, &[], &[theirs.as_fd()]).unwrap();
        }
        frontend.get_features().unwrap();
        let now = threads(&emulator);
        assert!(now < before + 10, "{before} threads became {now}");
    }
    pass(&mut a, &mut b);
}

#[test]
fn memory_that_waits_to_be_given_back_leaves_room_for_others() {
    const TIB: u64 = 1 << 40;
    let emulator = Emulator::start(&["--vfs", "3"]);
    let mut a = Port::open(&emulator.path("vf0.sock"));
    let mut frontend = negotiated(&emulator.path("vf2.sock"));
    // Before it is given back these are closed, which takes a hundredth of a second each.
    let get_features = Header {
        request: request::GET_FEATURES,
        flags: FLAG_VERSION,
        size: 0,
    };
    let mut peers = Vec::new();
    for _ in 0..12 {
        let (slow, theirs): (Vec<_>, Vec<_>) = (0..8).map(|_| lingering()).unzip();
        peers.extend(theirs);
        put(&emulator, frontend.stream(), &get_features.encode(), slow);
        frontend.receive().unwrap();
    }
    let sparse = rustix::fs::memfd_create("sparse", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&sparse, TIB).unwrap();
    let table = [1, 0, TIB, 0, 0].map(u64::to_ne_bytes);
    for _ in 0..10 {
        let table = table.as_flattened();
        // The third one ends the session.
        let _ = frontend.send(request::SET_MEM_TABLE, 0, table, &[sparse.as_fd()]);
    }
    let _ = frontend.get_features();
    let status = std::fs::read_to_string(format!("/proc/{}/status", emulator.pid())).unwrap();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let size = size.unwrap().trim().trim_end_matches(" kB");
    let size = size.parse::<u64>().unwrap() << 10;
    assert!(size < 3 * TIB, "{size}");
    pass(&mut Port::open(&emulator.path("vf1.sock")), &mut a);
    pass(&mut Port::open(&emulator.path("vf2.sock")), &mut a);
}
