//! What the guest side costs: nanoseconds in [`TcpGuest::poll`] for each frame sent or received, with four TCP streams each way
//! between two guests on a cable.
//!
//! `cargo bench -p vf-guest`

use std::net::Ipv4Addr;

use criterion::{Criterion, criterion_group, criterion_main};
use vf_guest::cable::Cable;
use vf_guest::net::{NetConfig, NetDevice, Notify};
use vf_guest::tcp::{GuestConfig, TcpGuest};

/// Nanoseconds a byte of a 10 Gb/s link.
const TEN_GIGABIT: f64 = 0.8;

fn ip(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

fn guest(number: u8) -> TcpGuest {
    let net = NetConfig {
        notify: Notify::Polled,
        ..NetConfig::default()
    };
    let config = GuestConfig {
        mac: [2, 0, 0, 0, 0, number],
        ip: ip(number),
        seed: number.into(),
        ..GuestConfig::default()
    };
    let device = NetDevice::detached(u64::MAX, &net).expect("there is memory");
    TcpGuest::new(config, device)
}

fn frames(cable: &Cable) -> u64 {
    let stats = cable.guests.each_ref().map(TcpGuest::stats);
    stats.iter().map(|s| s.tx_frames + s.rx_frames).sum()
}

fn tcp(c: &mut Criterion) {
    let mut cable = Cable::new([1, 2].map(guest), TEN_GIGABIT);
    for port in 5001..5005 {
        cable.guests[0].send_to(ip(2), port, None);
        cable.guests[1].send_to(ip(1), port, None);
        cable.guests.iter_mut().for_each(|guest| {
            guest.receive_on(port);
        });
    }
    let mut run_for = |ns| {
        let (before, spent, end) = (frames(&cable), cable.spent, cable.now + ns);
        cable.run(end, &mut |_, _| true);
        (frames(&cable) - before, cable.spent - spent)
    };
    run_for(20_000_000); // slow start is over
    c.bench_function("tcp, both ways: guest's time a frame", |b| {
        b.iter_custom(|iterations| {
            let (mut seen, mut spent) = (0, std::time::Duration::ZERO);
            while seen < iterations {
                let (frames, time) = run_for(1_000_000);
                (seen, spent) = (seen + frames, spent + time);
            }
            spent.mul_f64(iterations as f64 / seen as f64)
        });
    });
}

criterion_group!(benches, tcp);
criterion_main!(benches);
