//! Guests that speak in messages and know how far they may go by themselves.

use vf_guest::frontend::Frontend;
use vf_guest::net::{NetConfig, NetDevice, NetHeader, Notify};

use super::*;

/// REPLY_ACK, BACKEND_REQ, CONFIG and INBAND_NOTIFICATIONS.
const INBAND: u64 = 0x4228;
const VRING_KICK: u32 = 35;
const NEED_REPLY: u32 = 1 << 3;
/// Of the first pair of queues.
const TX: u64 = 1;

#[test]
fn they_go_as_far_as_nobody_else_wants_to_run() {
    let (dir, simulation) = simulation(2, |settings| settings.until = Some(Nanos(400)));
    let other = sleeper(dir.path(), 2, &[100, 300], &Order::default());
    let mut guest = LinuxGuest::connect(dir.path(), 1);
    let guest = std::thread::spawn(move || {
        guest.start();
        let told = [10, 200, 350].map(|at| (guest.sleep_until(at), guest.free_until));
        assert_eq!(told, [(10, 100), (200, 300), (350, 400)]);
    });
    let summary = simulation.run().unwrap();
    guest.join().unwrap();
    other.join().unwrap();
    assert!(summary.faults.is_empty(), "{:?}", summary.faults);
}

#[test]
fn a_kick_that_makes_work_for_the_nic_is_answered_behind_the_news() {
    let (dir, mut simulation) = simulation(2, |_| {});
    // Of two frames the second is held up, and that is when the NIC wants to run.
    let slow = Command::parse(&["vf", "0", "set", "max_tx_rate", "1000"]).unwrap();
    simulation.at(Nanos(5), 0, slow);
    let socket = dir.path().join("vf0.sock");
    let other = sleeper(dir.path(), 2, &[1_000_000_000], &Order::default());
    let mut guest = LinuxGuest::connect(dir.path(), 1);
    let guest = std::thread::spawn(move || {
        guest.start();
        assert_eq!(guest.sleep_until(10), 10);
        assert_eq!(guest.free_until, 1_000_000_000);
        let config = NetConfig {
            protocol_features: INBAND,
            notify: Notify::Polled,
            ..NetConfig::default()
        };
        let mut net = NetDevice::start(Frontend::connect(socket).unwrap(), &config).unwrap();
        for _ in 0..64 {
            net.send(0, &NetHeader::default(), &[0xff; 1514]).unwrap();
        }
        assert!(net.kick());
        // By its own clock, which nobody else knows yet.
        guest.ask(Op::Update, 20);
        let front = net.frontend().unwrap();
        front
            .send(VRING_KICK, NEED_REPLY, &TX.to_ne_bytes(), &[])
            .unwrap();
        let limit = guest.hear();
        assert_eq!(limit.op, Op::FreeUntil);
        assert!((20..1_000_000_000).contains(&limit.time), "{limit:?}");
        assert!(!front.readable(Duration::from_millis(20)).unwrap());
        let answer = Message {
            op: Op::Ack,
            ..limit
        };
        guest.stream.write_all(&answer.to_bytes()).unwrap();
        front.await_ack(VRING_KICK).unwrap();
        assert!(guest.sleep_until(limit.time) >= limit.time);
    });
    let summary = simulation.run().unwrap();
    guest.join().unwrap();
    other.join().unwrap();
    assert!(summary.faults.is_empty(), "{:?}", summary.faults);
}
