//! Rings of which nobody says when there is something in them.

use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::*;

#[test]
fn a_ring_whose_kicks_cannot_be_waited_for_is_looked_at_now_and_then() {
    let mut bench = Bench::bare(&[Path::Direct], ENDLESS, None);
    let poll = mio::Poll::new().unwrap();
    bench.worker.connect(poll.registry().try_clone().unwrap());
    let config = NetConfig {
        queue_size: 64,
        features: NetConfig::PLAIN,
        ..NetConfig::default()
    };
    let mut vm = Vm::new(0, &config);
    let vring = vm.vring(1, true);
    // It fails as it does when this user has no watches left.
    let fd = vring.kick_fd().unwrap().as_fd().as_raw_fd();
    let registry = poll.registry();
    let source = &mut SourceFd(&fd);
    registry
        .register(source, Token(9), Interest::READABLE)
        .unwrap();
    bench.attach(0, vring);
    assert_eq!(bench.worker.next(bench.now), Some(Nanos(200_000)));
    let vring = bench.worker.detach(bench.now, VfIndex(0), 1).unwrap();
    assert_eq!(bench.worker.next(bench.now), None);
    // The other was not taken away, and now there is room.
    registry.deregister(source).unwrap();
    bench.attach(0, vring);
    assert_eq!(bench.worker.next(bench.now), None);
}
