//! Kicks and calls as messages, for guests whose time stands still meanwhile.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use vf_vhost::features::ProtocolFeatures;

use crate::front_end::*;

const VRING_KICK: u32 = 35;
const CONFIG_CHANGE: u32 = 2;
const VRING_CALL: u32 = 4;

/// A front end with one receive ring placed and enabled, and its end of the socket for our requests.
fn world() -> (World, UnixStream) {
    let mut config = device(1);
    config.protocol_features |= ProtocolFeatures::INBAND_NOTIFICATIONS;
    let mut w = World::new(config);
    w.negotiate();
    let (theirs, ours) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    w.tell(SET_BACKEND_REQ_FD, &[], &[ours.as_fd()]);
    w.place_ring(0, 0);
    w.tell(SET_VRING_CALL, &u64s(&[NO_FD]), &[]);
    w.tell(SET_VRING_ENABLE, &u32s(&[0, 1]), &[]);
    (w, theirs)
}

fn kick(w: &mut World, ring: u32) {
    let kick = message(VRING_KICK, NEED_REPLY, &u32s(&[ring, 0]));
    send_raw(&w.stream, &kick, &[]);
    w.poll();
}

fn acknowledge(w: &mut World) {
    w.endpoint.acknowledge_kick(Instant::now(), &mut w.rings);
}

/// The number and flags of the request that has come, and its payload.
fn request(stream: &mut UnixStream, payload: usize) -> ([u32; 2], Vec<u8>) {
    let mut bytes = vec![0; 12 + payload];
    stream.read_exact(&mut bytes).expect("a request");
    let field = |n: usize| u32::from_ne_bytes(bytes[4 * n..][..4].try_into().unwrap());
    assert_eq!(field(2) as usize, payload);
    ([field(0), field(1)], bytes.split_off(12))
}

fn reply(stream: &mut UnixStream, request: u32) {
    let bytes = [u32s(&[request, 5, 8]), u64s(&[0])].concat();
    stream.write_all(&bytes).unwrap();
}

#[test]
fn is_offered_only_on_demand() {
    let in_band = ProtocolFeatures::INBAND_NOTIFICATIONS.bits();
    let mut w = World::new(device(1));
    assert_eq!(w.ask_u64(GET_PROTOCOL_FEATURES) & in_band, 0);
    w.negotiate();
    w.place_ring(0, 0);
    assert_eq!(w.acked(VRING_KICK, &u32s(&[0, 0]), &[]), 1);
    assert!(w.running().is_empty());
}

#[test]
fn a_kick_starts_the_ring_and_is_answered_when_it_has_been_taken_care_of() {
    let (mut w, _requests) = world();
    assert!(w.running().is_empty());
    kick(&mut w, 0);
    assert_eq!((w.endpoint.kick(), w.running()), (Some(0), vec![0]));
    // What comes behind it waits with it.
    send_raw(&w.stream, &message(GET_FEATURES, 0, &[]), &[]);
    w.poll();
    assert!(w.silent());
    acknowledge(&mut w);
    assert_eq!(w.endpoint.kick(), None);
    assert_eq!(w.reply(VRING_KICK), u64s(&[0]));
    assert!(w.silent());
    w.poll();
    w.reply(GET_FEATURES);
    // No ring, no wait.
    assert_eq!(w.acked(VRING_KICK, &u32s(&[77, 0]), &[]), 1);
    assert_eq!(w.acked(VRING_KICK, &u32s(&[1, 0]), &[]), 0);
}

#[test]
fn a_call_is_a_request_with_a_reply() {
    let (mut w, mut requests) = world();
    kick(&mut w, 0);
    acknowledge(&mut w);
    assert!(!w.endpoint.call(1), "it does not run");
    assert!(!w.endpoint.call(77));
    assert!(w.endpoint.call(0));
    assert_eq!(
        request(&mut requests, 8),
        ([VRING_CALL, 1 | NEED_REPLY], u32s(&[0, 0]))
    );
    assert!(w.endpoint.awaits_reply());
    assert!(w.endpoint.awaited_reply().is_some());
    w.poll();
    assert!(w.endpoint.awaits_reply());
    reply(&mut requests, VRING_CALL);
    w.endpoint.hear_replies(Instant::now(), &mut w.rings);
    assert!(!w.endpoint.awaits_reply() && w.endpoint.awaited_reply().is_none());
}

#[test]
fn a_change_of_configuration_is_answered_too() {
    let (mut w, mut requests) = world();
    assert!(w.endpoint.set_link_up(false));
    assert_eq!(request(&mut requests, 0).0, [CONFIG_CHANGE, 1 | NEED_REPLY]);
    assert!(w.endpoint.awaits_reply());
    reply(&mut requests, CONFIG_CHANGE);
    w.poll();
    assert!(!w.endpoint.awaits_reply() && w.endpoint.is_connected());
}

#[test]
fn a_wrong_reply_ends_the_session_and_a_closed_socket_is_no_reply_to_wait_for() {
    let (mut w, mut requests) = world();
    w.endpoint.set_link_up(false);
    reply(&mut requests, VRING_CALL);
    w.poll();
    assert!(!w.endpoint.is_connected());

    let (mut w, requests) = world();
    w.endpoint.set_link_up(false);
    drop(requests);
    w.poll();
    assert!(!w.endpoint.awaits_reply() && w.endpoint.is_connected());
}

#[test]
fn a_front_end_may_go_while_its_kick_is_looked_at() {
    let (mut w, _requests) = world();
    kick(&mut w, 0);
    let (stream, _) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut w.stream, stream));
    acknowledge(&mut w);
    w.poll();
    assert!(!w.endpoint.is_connected() && w.running().is_empty());
}
