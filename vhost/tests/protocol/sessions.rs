//! Sessions as the front ends in use hold them.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use vf_vhost::features::VirtioFeatures;

use crate::front_end::*;

#[test]
fn qemu_10() {
    let mut w = World::new(device(1));
    assert_ne!(w.ask_u64(GET_FEATURES) & 1 << 30, 0);
    let protocol = w.ask_u64(GET_PROTOCOL_FEATURES);
    // All but CONFIG; exchanged again for each queue pair.
    for _ in 0..2 {
        w.ask_u64(GET_PROTOCOL_FEATURES);
        w.tell(SET_PROTOCOL_FEATURES, &u64s(&[protocol & !(1 << 9)]), &[]);
    }
    assert_eq!(w.ask_u64(GET_QUEUE_NUM), 3);
    assert!(w.ask_u64(GET_MAX_MEM_SLOTS) >= 32);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(w.acked(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]), 0);
    w.tell(SET_OWNER, &[], &[]);
    let features = w.ask_u64(GET_FEATURES) & !(PACKED | LOG_ALL);
    for ring in 0..2 {
        let fds = [eventfd(), eventfd()];
        w.tell(SET_VRING_CALL, &u64s(&[ring]), &[fds[0].as_fd()]);
        w.tell(SET_VRING_ERR, &u64s(&[ring]), &[fds[1].as_fd()]);
    }
    for _ in 0..3 {
        for ring in 0..2 {
            assert_eq!(w.acked(SET_VRING_ENABLE, &u32s(&[ring, 1]), &[]), 0);
        }
    }
    assert_eq!(w.acked(SET_FEATURES, &u64s(&[features]), &[]), 0);
    let memory = memfd(SIZE);
    for n in 0..3 {
        let payload = [u64s(&[0]), u64s(&region(n))].concat();
        assert_eq!(w.acked(ADD_MEM_REG, &payload, &[memory.as_fd()]), 0);
    }
    for ring in 0..2 {
        w.place_ring(ring, 0);
        assert!(!w.running().contains(&ring));
        w.kick_ring(ring);
    }
    assert_eq!(w.running(), [0, 1]);
    assert!(
        w.rings
            .running
            .values()
            .all(|vring| vring.enabled() && vring.features().bits() == features)
    );
    // The guest stops and starts the device; the region without rings comes and goes.
    assert_eq!((w.get_base(0), w.get_base(1)), (0, 0));
    assert!(w.running().is_empty());
    assert_eq!(w.acked(SET_VRING_ENABLE, &u32s(&[0, 1]), &[]), 0);
    let payload = [u64s(&[0]), u64s(&region(2))].concat();
    assert_eq!(w.acked(REM_MEM_REG, &payload, &[memory.as_fd()]), 0);
    for ring in 0..2 {
        w.place_ring(ring, 0xfff0);
        w.kick_ring(ring);
    }
    assert_eq!(w.running(), [0, 1]);
    assert_eq!(w.get_base(1), 0xfff0);
    assert_eq!(w.running(), [0]);
    drop(w.stream.shutdown(std::net::Shutdown::Both));
    w.endpoint.poll(std::time::Instant::now(), &mut w.rings);
    assert!(w.rings.running.is_empty());
    assert_eq!(w.rings.events.last().unwrap(), "hung up");
}

#[test]
fn user_mode_linux() {
    let mut w = World::new(device(1));
    w.tell(SET_OWNER, &[], &[]);
    let features = w.ask_u64(GET_FEATURES) & !(PACKED | LOG_ALL);
    let protocol = w.ask_u64(GET_PROTOCOL_FEATURES) & 0x4228;
    assert_eq!(protocol, 0x228);
    w.tell(SET_PROTOCOL_FEATURES, &u64s(&[protocol]), &[]);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    assert_eq!(w.acked(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]), 0);
    assert_eq!(w.acked(SET_FEATURES, &u64s(&[features]), &[]), 0);
    let mut config = Vec::new();
    for offset in 0..17 {
        let request = [u32s(&[offset, 1, 0]), vec![0]].concat();
        let reply = w.ask(GET_CONFIG, &request);
        assert_eq!(reply[..12], request[..12]);
        config.extend_from_slice(&reply[12..]);
    }
    assert_eq!(
        config,
        [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xdc, 5, 0x10, 0x27, 0, 0, 1]
    );
    // One region and room for another; what the guest and the front end call an address is one.
    let memory = memfd(SIZE);
    let mut payload = table(&[[USER, SIZE, USER, 0], [0; 4]]);
    payload[0] = 1;
    assert_eq!(payload.len(), 72);
    assert_eq!(w.acked(SET_MEM_TABLE, &payload, &[memory.as_fd()]), 0);
    for ring in 0..2 {
        // Its interrupts are sockets.
        let (_ours, call) = UnixStream::pair().unwrap();
        let index = u64s(&[ring.into()]);
        assert_eq!(w.acked(SET_VRING_CALL, &index, &[call.as_fd()]), 0);
        w.place_ring(ring, 0);
        assert_eq!(w.acked(SET_VRING_KICK, &index, &[eventfd().as_fd()]), 0);
        assert_eq!(w.acked(SET_VRING_ENABLE, &u32s(&[ring, 1]), &[]), 0);
    }
    assert_eq!(w.running(), [0, 1]);

    assert!(w.endpoint.set_link_up(false));
    let mut change = [0; 12];
    std::io::Read::read_exact(&mut ours, &mut change).unwrap();
    assert_eq!(change[..], u32s(&[2, 1, 0]));
    let reply = w.ask(GET_CONFIG, &u32s(&[6, 2, 0]));
    assert_eq!(reply[12..], [0, 0]);
}

#[test]
fn dpdk_virtio_user() {
    let mut w = World::new(device(2));
    w.tell(SET_OWNER, &[], &[]);
    let features = w.ask_u64(GET_FEATURES) & !(PACKED | LOG_ALL);
    let protocol = w.ask_u64(GET_PROTOCOL_FEATURES) & 0x9;
    w.tell(SET_PROTOCOL_FEATURES, &u64s(&[protocol]), &[]);
    assert_eq!(w.ask_u64(GET_QUEUE_NUM), 5);
    for ring in 0..4 {
        let call = eventfd();
        w.tell(SET_VRING_CALL, &u64s(&[ring]), &[call.as_fd()]);
    }
    // It serves the control queue itself.
    let features = features & !VirtioFeatures::CTRL_VQ.bits();
    w.tell(SET_FEATURES, &u64s(&[features]), &[]);
    let memory = memfd(SIZE);
    let regions: Vec<[u64; 4]> = (0..8).map(region).collect();
    let fds: Vec<BorrowedFd<'_>> = regions.iter().map(|_| memory.as_fd()).collect();
    assert_eq!(w.acked(SET_MEM_TABLE, &table(&regions), &fds), 0);
    for ring in 0..4 {
        w.place_ring(ring, 0);
        let kick = eventfd();
        w.tell(SET_VRING_KICK, &u64s(&[ring.into()]), &[kick.as_fd()]);
    }
    assert_eq!(w.running(), [0, 1, 2, 3]);
    assert!(!w.rings.running[&2].enabled());
    for ring in 0..2 {
        w.tell(SET_VRING_ENABLE, &u32s(&[ring, 1]), &[]);
    }
    let enabled: Vec<bool> = w
        .rings
        .running
        .values()
        .map(|vring| vring.enabled())
        .collect();
    assert_eq!(enabled, [true, true, false, false]);
}

#[test]
fn polled_rings_have_no_descriptors() {
    let mut w = World::new(device(1));
    w.negotiate();
    w.place_ring(1, 7);
    w.tell(SET_VRING_CALL, &u64s(&[1 | NO_FD]), &[]);
    w.tell(SET_VRING_KICK, &u64s(&[1 | NO_FD]), &[]);
    assert!(w.rings.running[&1].kick_fd().is_none());
    assert_eq!(w.rings.running[&1].base(), 7);
}

#[test]
fn without_protocol_features_rings_are_enabled_at_once() {
    let mut w = World::new(device(1));
    let bits = w.endpoint.config().features.bits() & !(PACKED | LOG_ALL) & !(1 << 30);
    w.negotiate_with(bits);
    w.place_ring(0, 0);
    w.kick_ring(0);
    assert!(w.rings.running[&0].enabled());
}

#[test]
fn features_and_kicks_leave_enabling_alone() {
    let mut w = World::new(device(1));
    w.negotiate();
    w.tell(SET_VRING_ENABLE, &u32s(&[0, 1]), &[]);
    w.place_ring(0, 0);
    w.kick_ring(0);
    let features = w.endpoint.config().features.bits() & !(PACKED | LOG_ALL);
    assert_eq!(
        w.acked(SET_FEATURES, &u64s(&[features & !(1 << 29)]), &[]),
        0
    );
    w.kick_ring(0);
    let vring = &w.rings.running[&0];
    assert!(vring.enabled() && !vring.features().contains(VirtioFeatures::EVENT_IDX));
    let without = VirtioFeatures::from_bits_retain(features) - VirtioFeatures::EVENT_IDX;
    assert_eq!(w.endpoint.features(), Some(without));
}

#[test]
fn any_order_starts_the_ring_with_the_last_piece() {
    let mut w = World::new(device(1));
    w.tell(SET_VRING_KICK, &u64s(&[NO_FD]), &[]);
    w.tell(SET_VRING_ADDR, &ring_addr(0), &[]);
    w.tell(SET_VRING_NUM, &u32s(&[0, 256]), &[]);
    let memory = memfd(SIZE);
    w.tell(SET_MEM_TABLE, &table(&[region(0)]), &[memory.as_fd()]);
    assert!(w.running().is_empty());
    w.tell(
        SET_FEATURES,
        &u64s(&[w.endpoint.config().features.bits() & !(PACKED | LOG_ALL)]),
        &[],
    );
    assert_eq!(w.running(), [0]);
}

#[test]
fn memory_is_replaced_under_a_running_ring() {
    let mut w = World::new(device(1));
    w.negotiate();
    w.place_ring(0, 5);
    w.kick_ring(0);
    let memory = memfd(SIZE);
    assert_eq!(
        w.acked(SET_MEM_TABLE, &table(&[region(0)]), &[memory.as_fd()]),
        0
    );
    assert_eq!((w.running(), w.rings.running[&0].base()), (vec![0], 5));
    // Without its memory the ring waits, and goes on when the memory is back.
    let payload = [u64s(&[0]), u64s(&region(0))].concat();
    assert_eq!(w.acked(REM_MEM_REG, &payload, &[]), 0);
    assert!(w.running().is_empty());
    let call = eventfd();
    assert_eq!(w.acked(SET_VRING_CALL, &u64s(&[0]), &[call.as_fd()]), 0);
    assert_eq!(w.acked(ADD_MEM_REG, &payload, &[memory.as_fd()]), 0);
    assert_eq!((w.running(), w.rings.running[&0].base()), (vec![0], 5));
}

#[test]
fn resets() {
    let mut w = World::new(device(1));
    w.negotiate();
    w.tell(SET_VRING_ENABLE, &u32s(&[0, 1]), &[]);
    w.place_ring(0, 5);
    w.kick_ring(0);
    assert_eq!(w.acked(RESET_OWNER, &[], &[]), 0);
    assert_eq!(w.running(), [0]);
    assert_eq!(w.acked(RESET_DEVICE, &[], &[]), 0);
    assert!(w.running().is_empty() && w.endpoint.features().is_none());
    assert_eq!(w.get_base(0), 0);
    w.tell(
        SET_FEATURES,
        &u64s(&[w.endpoint.config().features.bits() & !(PACKED | LOG_ALL)]),
        &[],
    );
    w.place_ring(0, 9);
    w.kick_ring(0);
    assert!(!w.rings.running[&0].enabled());
    assert_eq!(w.get_base(0), 9);
}

#[test]
fn acknowledgements() {
    let mut w = World::new(device(1));
    // Not before they are negotiated.
    send_raw(&w.stream, &message(SET_OWNER, NEED_REPLY, &[]), &[]);
    w.poll();
    assert!(w.silent());
    w.negotiate();
    // A request with a reply has one reply.
    send_raw(&w.stream, &message(GET_FEATURES, NEED_REPLY, &[]), &[]);
    w.poll();
    assert_eq!(
        w.reply(GET_FEATURES),
        u64s(&[w.endpoint.config().features.bits()])
    );
    assert!(w.silent());
    assert_eq!(w.acked(NET_SET_MTU, &u64s(&[1400]), &[]), 0);
    let agreed = w
        .rings
        .events
        .iter()
        .filter(|event| event.starts_with("mtu"));
    let agreed: Vec<_> = agreed.cloned().collect();
    assert_eq!(agreed, ["mtu 1500", "mtu 1400"]);
    assert_eq!(w.acked(NET_SET_MTU, &u64s(&[1500]), &[]), 0);
    assert_eq!(w.acked(NET_SET_MTU, &u64s(&[9000]), &[]), 1);
    assert_eq!(w.acked(99, &[1, 2, 3], &[]), 1);
    assert_eq!(
        w.acked(SET_CONFIG, &[u32s(&[0, 6, 0]), vec![0; 6]].concat(), &[]),
        1
    );
    assert_eq!(w.acked(SET_VRING_NUM, &u32s(&[0, 3]), &[]), 1);
    // Nothing depends on these: a front end that does not ask need not know.
    w.tell(99, &[], &[eventfd().as_fd()]);
    w.tell(SET_CONFIG, &[u32s(&[0, 6, 0]), vec![0; 6]].concat(), &[]);
    assert!(w.silent() && w.endpoint.is_connected());
    assert_eq!((w.endpoint.sessions(), w.endpoint.refusals()), (1, 6));
}

#[test]
fn configuration_out_of_range_is_an_empty_reply() {
    let mut w = World::new(device(1));
    for (offset, size) in [(0, 257), (60, 8), (u32::MAX, 1), (0, u32::MAX)] {
        assert!(w.ask(GET_CONFIG, &u32s(&[offset, size, 0])).is_empty());
    }
    assert_eq!(w.ask(GET_CONFIG, &u32s(&[0, 24, 0])).len(), 36);
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let mut w = World::new(device(1));
    for byte in message(GET_CONFIG, 0, &u32s(&[0, 6, 0])) {
        w.poll();
        assert!(w.silent());
        w.stream.write_all(&[byte]).unwrap();
    }
    w.poll();
    assert_eq!(w.reply(GET_CONFIG)[12..], [2, 0, 0, 0, 0, 1]);
}

#[test]
fn packed_rings_have_two_sides_and_any_size() {
    let mut w = World::new(device(1));
    let memory = w.negotiate_with(w.endpoint.config().features.bits());
    // QEMU says both sides, DPDK one, User-Mode Linux that the ring is new.
    for (base, from) in [
        (0x8000_8000, 0x8000_8000),
        (0x8002, 0x8002_8002),
        (0, 0x8000_8000),
        (0x0003_0003, 0x0003_0003),
    ] {
        w.tell(SET_VRING_NUM, &u32s(&[0, 5]), &[]);
        w.tell(SET_VRING_BASE, &u32s(&[0, base]), &[]);
        w.tell(SET_VRING_ADDR, &ring_addr(0), &[]);
        w.kick_ring(0);
        assert_eq!(w.running(), [0]);
        // Whatever stops it meanwhile, it goes on where it was.
        w.tell(SET_MEM_TABLE, &table(&[region(0)]), &[memory.as_fd()]);
        assert_eq!(w.running(), [0]);
        assert_eq!(w.get_base(0), from, "{base:#x}");
    }
    for (request, payload) in [
        (SET_VRING_NUM, u32s(&[0, 0])),
        (SET_VRING_NUM, u32s(&[0, 32769])),
        (SET_VRING_BASE, u32s(&[0, 0x8005])),
        (SET_VRING_BASE, u32s(&[0, 0x8005_8000])),
        (SET_VRING_ADDR, ring_addr_at(0, USER + 2)),
    ] {
        assert_eq!(w.acked(request, &payload, &[]), 1, "{payload:?}");
    }
    // A smaller ring, whose base is still to come.
    assert_eq!(w.acked(SET_VRING_NUM, &u32s(&[0, 3]), &[]), 0);
    let kick = eventfd();
    let kicked = |w: &mut World| w.acked(SET_VRING_KICK, &u64s(&[0]), &[kick.as_fd()]);
    assert_eq!(kicked(&mut w), 1);
    w.tell(SET_VRING_BASE, &u32s(&[0, 0x8000]), &[]);
    assert_eq!(kicked(&mut w), 0);
    assert_eq!(w.running(), [0]);
}
