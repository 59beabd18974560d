//! What a frame costs on the direct path from one guest's ring to another's, policy and filters included: taken, judged,
//! delivered and returned, a ring of 256 frames at a time, and alone. `cargo bench -p vfnic`.
//!
//! Only the NIC's side is timed. The guests share its core, so that no cache line changes sides: between two cores all of
//! this costs more.

// Helpers of benchmarks, as those of tests, may unwrap.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vf_model::{
    Command, FilterAction, FilterMatch, FilterPriority, FilterSpec, FlowEnd, Judge, MacAddr, Nanos,
    NicConfig, Policy, Profile, Transport, VfIndex, VfSetting,
};
use vfnic::plane::{DirectPlane, PolicyCell, Rings};
use vfnic::queue::{PfEnd, Pool};
use vfnic::thread::Plane;

mod guest;

use guest::{Guest, RING_PACKED, SIZE, VERSION_1};

const MAC_BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A UDP frame from VF 0 to VF 1.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = [&MAC_BASE.offset(1).0[..], &MAC_BASE.0, &[8, 0]].concat();
    frame.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2, 4, 0, 4, 0, 0, 26, 0, 0]);
    frame.resize(len, 0);
    frame
}

/// A NIC with two VFs in a port VLAN and 8192 filters that do not match.
fn policies() -> PolicyCell {
    let policy = Policy::new(NicConfig {
        vfs: 2,
        mac_base: MAC_BASE,
        profile: Profile::default(),
    });
    let vlans = [0, 1].map(VfIndex).map(|vf| {
        let settings = vec![VfSetting::Vlan(100)];
        Command::SetVf {
            vfs: vf.into(),
            settings,
        }
    });
    let filters = (0..8192).map(|n| {
        let spec = FilterSpec {
            matches: FilterMatch::Local {
                transport: Transport::Udp,
                local: FlowEnd {
                    ip: IpAddr::V4(Ipv4Addr::from_bits(0x0a07_0000 + n)),
                    port: 80,
                },
            },
            action: FilterAction::Drop,
            priority: FilterPriority::default(),
        };
        Command::FilterInsert(spec)
    });
    let commands: Vec<Command> = vlans.into_iter().chain(filters).collect();
    PolicyCell::new(Arc::new(policy.with_all(&commands).unwrap()))
}

/// `burst` frames at a time.
fn forward(c: &mut Criterion, group: &str, burst: u32, sizes: &[usize]) {
    let formats = [("split", VERSION_1), ("packed", VERSION_1 | RING_PACKED)];
    for (name, features) in formats {
        let mut group = c.benchmark_group(group);
        group.throughput(Throughput::Elements(burst.into()));
        for len in sizes.iter().copied() {
            group.bench_function(BenchmarkId::new(name, len), |b| {
                let guests = [Guest::new(features, len), Guest::new(features, len)];
                guests[0].fill(&frame(len));
                let mut worker =
                    DirectPlane::new(&policies(), PfEnd::pair().0, None, Pool::new(1024));
                // As on a thread: idle VFs are spared.
                let poll = mio::Poll::new().unwrap();
                worker.connect(poll.registry().try_clone().unwrap());
                for (vf, guest) in guests.iter().enumerate() {
                    worker.attach(VfIndex::from(vf), guest.vring(0));
                    worker.attach(VfIndex::from(vf), guest.vring(1));
                }
                let (mut offered, mut sent) = (0, 0);
                b.iter_custom(|rounds| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..rounds {
                        guests[0].offer(1, offered, burst);
                        guests[1].offer(0, offered, burst);
                        offered = (offered + burst) % (1 << 16);
                        sent += u64::from(burst);
                        let start = Instant::now();
                        let mut moved = 0;
                        while moved < burst as usize {
                            moved += worker.poll(Nanos(0));
                        }
                        spent += start.elapsed();
                    }
                    spent
                });
                let received = worker.nic.counters(VfIndex(1)).rx_packets;
                assert_eq!(received, sent, "none was dropped");
            });
        }
        group.finish();
    }
}

fn bursts(c: &mut Criterion) {
    forward(c, "forward", SIZE.into(), &[64, 128, 512, 1514]);
}

/// The clock that times it takes 25 to 35 ns of this.
fn alone(c: &mut Criterion) {
    forward(c, "alone", 1, &[64]);
}

/// A round that finds nothing, beside two VFs that had work lately: the next frame waits for half of it.
fn idle(c: &mut Criterion) {
    let mut group = c.benchmark_group("idle");
    for (name, features) in [("split", VERSION_1), ("packed", VERSION_1 | RING_PACKED)] {
        group.bench_function(name, |b| {
            let guests = [Guest::new(features, 64), Guest::new(features, 64)];
            let mut worker = DirectPlane::new(&policies(), PfEnd::pair().0, None, Pool::new(1024));
            for (vf, guest) in guests.iter().enumerate() {
                worker.attach(VfIndex::from(vf), guest.vring(0));
                worker.attach(VfIndex::from(vf), guest.vring(1));
            }
            b.iter(|| worker.poll(Nanos(0)));
        });
    }
    group.finish();
}

criterion_group!(benches, bursts, alone, idle);
criterion_main!(benches);
