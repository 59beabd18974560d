//! Sessions that another process goes on with, which is played by another endpoint of this one.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use vf_vhost::endpoint::{DeviceConfig, Endpoint, SavedEndpoint, SessionRefusal};
use vf_vhost::features::VirtioFeatures;

use crate::front_end::*;

const SET_LOG_BASE: u32 = 6;

/// Pauses the session, and makes it again for this device by what goes to another process.
fn restored(w: &mut World, config: DeviceConfig) -> Result<Endpoint, SessionRefusal> {
    w.endpoint.pause(Instant::now(), &mut w.rings);
    assert!(w.running().is_empty());
    let mut fds = Vec::new();
    let saved = serde_json::to_string(&w.endpoint.save(&mut fds)).unwrap();
    let fds = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap());
    let fds: Vec<OwnedFd> = fds.collect();
    let saved: SavedEndpoint = serde_json::from_str(&saved).unwrap();
    let mut fds = fds.into_iter();
    let endpoint = Endpoint::restore("/nobody/comes/here", config, saved, &mut fds)?;
    assert_eq!(fds.count(), 0, "each descriptor has its place");
    Ok(endpoint)
}

/// The same session with the other endpoint.
fn hand_over(w: &mut World) {
    let config = w.endpoint.config().clone();
    let endpoint = restored(w, config).unwrap();
    // The process before it ends without a word.
    std::mem::forget(std::mem::replace(&mut w.endpoint, endpoint));
    w.endpoint.go_on(Instant::now(), &mut w.rings);
}

#[test]
fn a_session_goes_on_where_it_was_in_either_format() {
    for (bits, bases) in [(0, [17, 5]), (PACKED, [0x8011_8011, 0x5_0005])] {
        let mut w = World::new(device(1));
        let offered = w.endpoint.config().features.bits();
        w.negotiate_with(offered & !(PACKED | LOG_ALL) | bits);
        let calls = [eventfd(), eventfd()];
        for (ring, call) in (0..).zip(&calls) {
            w.place_ring(ring, bases[ring as usize]);
            w.tell(SET_VRING_KICK, &u64s(&[ring.into()]), &[eventfd().as_fd()]);
            w.tell(SET_VRING_CALL, &u64s(&[ring.into()]), &[call.as_fd()]);
            w.tell(SET_VRING_ENABLE, &u32s(&[ring, 1]), &[]);
        }
        assert_eq!(w.running(), [0, 1]);
        let events = w.rings.events.clone();
        hand_over(&mut w);
        hand_over(&mut w);
        assert_eq!(w.running(), [0, 1]);
        assert_eq!(w.rings.events, events, "nobody has come or gone");
        for (ring, call) in (0..).zip(&calls) {
            let vring = &w.rings.running[&ring];
            assert!(vring.enabled());
            assert_eq!(vring.base(), bases[ring as usize]);
            vring.call_fd().unwrap().signal();
            let mut counter = [0; 8];
            rustix::io::read(call, &mut counter).unwrap();
            assert_eq!(u64::from_ne_bytes(counter), 1);
        }
        // It is served there.
        assert_eq!(w.ask_u64(GET_FEATURES), offered);
        assert_eq!(w.get_base(1), bases[1]);
        assert_eq!(w.running(), [0]);
        w.place_ring(1, bases[1]);
        w.kick_ring(1);
        assert_eq!(w.running(), [0, 1]);
        assert_eq!((w.endpoint.sessions(), w.endpoint.refusals()), (1, 0));
    }
}

#[test]
fn half_a_message_is_gone_on_with() {
    let request = message(SET_FEATURES, NEED_REPLY, &u64s(&[1 << 30]));
    for cut in 0..request.len() {
        let mut w = World::new(device(1));
        let protocol = w.ask_u64(GET_PROTOCOL_FEATURES);
        w.tell(SET_PROTOCOL_FEATURES, &u64s(&[protocol]), &[]);
        send_raw(&w.stream, &request[..cut], &[]);
        w.poll();
        hand_over(&mut w);
        send_raw(&w.stream, &request[cut..], &[]);
        w.poll();
        assert_eq!(w.reply(SET_FEATURES), u64s(&[0]), "cut at {cut}");
        let features = VirtioFeatures::from_bits_retain(1 << 30);
        assert_eq!(w.endpoint.features(), Some(features));
    }
}

#[test]
fn what_the_other_one_cannot_have_goes_on_here() {
    let mut w = World::new(device(2));
    w.negotiate();
    for ring in 0..2 {
        w.place_ring(ring, 7);
        w.kick_ring(ring);
    }
    // Another version offers less, or has fewer queues.
    let mut poorer = w.endpoint.config().clone();
    poorer.features -= VirtioFeatures::MRG_RXBUF;
    let refusal = restored(&mut w, poorer).unwrap_err();
    assert!(matches!(refusal, SessionRefusal::Features(_)), "{refusal}");
    let mut fewer = w.endpoint.config().clone();
    fewer.queue_pairs = 1;
    let refusal = restored(&mut w, fewer).unwrap_err();
    assert!(
        matches!(refusal, SessionRefusal::NoSuchRing(_)),
        "{refusal}"
    );
    let config = w.endpoint.config().clone();
    drop(restored(&mut w, config).unwrap());
    w.endpoint.go_on(Instant::now(), &mut w.rings);
    assert_eq!(w.running(), [0, 1]);
    assert_eq!(w.rings.running[&0].base(), 7);
    w.ask_u64(GET_FEATURES);
}

#[test]
fn a_migration_goes_on() {
    let mut w = World::new(device(1));
    w.negotiate();
    w.place_ring(0, 0);
    w.kick_ring(0);
    let log = memfd(0x10000);
    w.tell(SET_LOG_BASE, &u64s(&[0x1_0000, 0]), &[log.as_fd()]);
    w.reply(SET_LOG_BASE);
    let bits = w.endpoint.features().unwrap().bits();
    assert_eq!(w.acked(SET_FEATURES, &u64s(&[bits | LOG_ALL]), &[]), 0);
    hand_over(&mut w);
    assert!(w.endpoint.is_logging());
    let memory = w.rings.running[&0].memory().clone();
    memory.slice_mut(GUEST + 0x3000, 1).unwrap().copy_from(b"x");
    let mut byte = [0];
    rustix::io::pread(&log, &mut byte, (GUEST + 0x3000) >> 12 >> 3).unwrap();
    assert_eq!(byte, [1 << 3]);
}
