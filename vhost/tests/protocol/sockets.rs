//! Both socket roles: who connects, who may, and what comes after.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use vf_vhost::endpoint::{BindError, Endpoint, SessionRefusal};
use vf_vhost::listener::Listener;

use crate::front_end::*;

fn poll(endpoint: &mut Endpoint, rings: &mut Rings) {
    endpoint.poll(Instant::now(), rings);
}

#[test]
fn a_server_serves_one_front_end_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vf0");
    let mut endpoint = Endpoint::listen(&path, device(1)).unwrap();
    let mut rings = Rings::default();
    for session in 1..=3 {
        can_be_served(
            &mut endpoint,
            &mut rings,
            UnixStream::connect(&path).unwrap(),
        );
        assert_eq!(endpoint.sessions(), session);
        assert!(endpoint.is_connected());
        poll(&mut endpoint, &mut rings);
        assert!(!endpoint.is_connected());
    }
    // The second is there before the end of the first has been seen.
    let first = UnixStream::connect(&path).unwrap();
    poll(&mut endpoint, &mut rings);
    drop(first);
    can_be_served(
        &mut endpoint,
        &mut rings,
        UnixStream::connect(&path).unwrap(),
    );
    drop(endpoint);
    assert!(!path.exists());
}

#[test]
fn misbehaviour_costs_one_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vf0");
    let mut endpoint = Endpoint::listen(&path, device(1)).unwrap();
    let mut rings = Rings::default();
    for _ in 0..3 {
        let mut bad = UnixStream::connect(&path).unwrap();
        bad.write_all(&[0xff; 12]).unwrap();
        poll(&mut endpoint, &mut rings);
        can_be_served(
            &mut endpoint,
            &mut rings,
            UnixStream::connect(&path).unwrap(),
        );
        poll(&mut endpoint, &mut rings);
    }
    assert_eq!((endpoint.sessions(), endpoint.refusals()), (6, 3));
}

#[test]
fn a_second_front_end_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vf0");
    let mut endpoint = Endpoint::listen(&path, device(1)).unwrap();
    let mut rings = Rings::default();
    let mut first = UnixStream::connect(&path).unwrap();
    poll(&mut endpoint, &mut rings);
    for _ in 0..3 {
        let mut second = UnixStream::connect(&path).unwrap();
        poll(&mut endpoint, &mut rings);
        assert_eq!(second.read(&mut [0]).unwrap(), 0);
    }
    first.write_all(&message(GET_FEATURES, 0, &[])).unwrap();
    poll(&mut endpoint, &mut rings);
    first.read_exact(&mut [0; 20]).unwrap();
    assert_eq!(endpoint.sessions(), 1);
}

#[test]
fn a_socket_file_is_taken_over_from_the_dead_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vf0");
    let listen = |path: &Path| Endpoint::listen(path, device(1));
    drop(UnixListener::bind(&path).unwrap());
    let live = listen(&path).unwrap();
    let error = listen(&path).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }));
    assert!(error.to_string().contains(path.to_str().unwrap()));
    assert!(path.exists());
    // A file that somebody else put there is not removed with the endpoint.
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    drop(live);
    assert!(path.exists());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "not a socket").unwrap();
    assert!(matches!(listen(&path), Err(BindError::NotASocket { .. })));
    assert!(matches!(
        listen(&path.join("deeper")),
        Err(BindError::Bind { .. })
    ));
    assert!(matches!(
        listen(Path::new(&"x".repeat(200))),
        Err(BindError::Bind { .. })
    ));
}

#[test]
fn of_many_that_want_a_path_at_once_one_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vf0");
    for _ in 0..200 {
        // What a dead process has left: all of them will want to remove it.
        drop(UnixListener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(4);
        let bind = || {
            start.wait();
            Listener::bind(&path)
        };
        let bound: Vec<_> = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(bind));
            threads
                .map(|t| t.join().unwrap())
                .into_iter()
                .flatten()
                .collect()
        });
        assert_eq!(bound.len(), 1);
        let _client = UnixStream::connect(&path).unwrap();
        assert!(bound[0].accept().unwrap().is_some());
    }
    assert!(!path.exists());
}

#[test]
fn a_client_goes_back_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmm");
    let mut endpoint = Endpoint::connect(&path, device(1));
    let mut rings = Rings::default();
    let mut now = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..6 {
        endpoint.poll(now, &mut rings);
        let at = endpoint.next_timer().expect("a timer while nobody listens");
        waits.push((at - now).as_millis());
        now = at;
    }
    assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
    let listener = UnixListener::bind(&path).unwrap();
    endpoint.poll(now - Duration::from_millis(1), &mut rings);
    assert!(!endpoint.is_connected());
    for session in 1..=3 {
        endpoint.poll(now, &mut rings);
        assert_eq!(
            (endpoint.is_connected(), endpoint.next_timer()),
            (true, None)
        );
        let (stream, _) = listener.accept().unwrap();
        let features = u64s(&[endpoint.config().features.bits() & !(PACKED | LOG_ALL)]);
        (&stream)
            .write_all(&message(SET_FEATURES, 0, &features))
            .unwrap();
        can_be_served(&mut endpoint, &mut rings, stream);
        endpoint.poll(now, &mut rings);
        assert!(!endpoint.is_connected());
        assert_eq!(endpoint.sessions(), session);
        let at = endpoint.next_timer().unwrap();
        assert_eq!(at - now, Duration::from_millis(100));
        now = at;
    }
}

#[test]
fn the_device_may_end_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vf0");
    let mut endpoint = Endpoint::listen(&path, device(1)).unwrap();
    let mut rings = Rings::default();
    let mut stream = UnixStream::connect(&path).unwrap();
    poll(&mut endpoint, &mut rings);
    endpoint.close_session(SessionRefusal::Closed, Instant::now(), &mut rings);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    assert_eq!(endpoint.refusals(), 0);
    can_be_served(
        &mut endpoint,
        &mut rings,
        UnixStream::connect(&path).unwrap(),
    );
}

#[test]
fn mio_tells_when_to_poll() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vf0");
    let mut endpoint = Endpoint::listen(&path, device(1)).unwrap();
    let mut poll = mio::Poll::new().unwrap();
    endpoint.register(poll.registry(), mio::Token(7)).unwrap();
    let guest = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut stream = UnixStream::connect(&path).unwrap();
            // More than is served in one go.
            let asks = message(GET_FEATURES, 0, &[]).repeat(200);
            stream.write_all(&asks).unwrap();
            stream.read_exact(&mut vec![0; 200 * 20]).unwrap();
        }
    });
    let mut rings = Rings::default();
    let mut events = mio::Events::with_capacity(8);
    while !guest.is_finished() {
        poll.poll(&mut events, Some(Duration::from_secs(5)))
            .unwrap();
        assert!(!events.is_empty() || guest.is_finished(), "nothing for 5 s");
        endpoint.poll(Instant::now(), &mut rings);
    }
    guest.join().unwrap();
    assert_eq!(endpoint.sessions(), 2);
}
