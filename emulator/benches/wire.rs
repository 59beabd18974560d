//! What a frame costs over the wire from a guest of one NIC to one of another, both on one core, and how that and the
//! mediated path depend on how many VFs there are. `cargo bench -p vfnic --bench wire`.
//!
//! Only the NICs' side is timed.

// Helpers of benchmarks, as those of tests, may unwrap.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vf_model::{
    Command, Judge, LinkConfig, MacAddr, Nanos, NicConfig, Path, Policy, Profile, VfIndex,
    VfSetting,
};
use vfnic::plane::{DirectPlane, MediatedPlane, PolicyCell, Rings};
use vfnic::queue::{PfEnd, Pool};
use vfnic::thread::Plane;
use vfnic::uplink::WireEnd;

mod guest;

use guest::{Guest, SIZE, VERSION_1};

const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 9, 1]);
/// As on the wall clock.
const SLACK: Nanos = Nanos(30_000);

fn policy(vfs: u16, mac_base: MacAddr) -> Policy {
    Policy::new(NicConfig {
        vfs,
        mac_base,
        profile: Profile::default(),
    })
}

fn frame(dst: MacAddr, src: MacAddr, len: usize) -> Vec<u8> {
    let mut frame = [&dst.0[..], &src.0, &[0x88, 0xb5]].concat();
    frame.resize(len, 0);
    frame
}

/// As on a thread: idle VFs are spared.
fn connect(plane: &mut impl Plane) {
    let poll = mio::Poll::new().unwrap();
    plane.connect(poll.registry().try_clone().unwrap());
}

/// A ring of frames from one guest to another over a wire that is never the limit, but is where they wait.
fn over_the_wire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(SIZE.into()));
    for len in [64, 512, 1514] {
        group.bench_function(BenchmarkId::new("one", len), |b| {
            let guests = [Guest::new(VERSION_1, len), Guest::new(VERSION_1, len)];
            guests[0].fill(&frame(MAC_B, MAC_A, len));
            let (a, b_end) = WireEnd::pair(LinkConfig::default(), SLACK);
            let ends = [(MAC_A, a), (MAC_B, b_end)];
            let pool = Pool::new(1024);
            let mut nics = ends.map(|(mac, end)| {
                let policies = PolicyCell::new(policy(1, mac).into());
                let uplink = Some(Box::new(end) as _);
                let mut nic = DirectPlane::new(&policies, PfEnd::pair().0, uplink, pool.clone());
                connect(&mut nic);
                nic
            });
            for (nic, guest) in nics.iter_mut().zip(&guests) {
                nic.attach(VfIndex(0), guest.vring(0));
                nic.attach(VfIndex(0), guest.vring(1));
            }
            let (mut offered, mut sent, mut now) = (0, 0, 0);
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    guests[0].offer(1, offered, SIZE.into());
                    guests[1].offer(0, offered, SIZE.into());
                    offered = (offered + u32::from(SIZE)) % (1 << 16);
                    sent += u64::from(SIZE);
                    let start = Instant::now();
                    while nics[1].nic.counters(VfIndex(0)).rx_packets < sent {
                        now += 1000;
                        for nic in &mut nics {
                            nic.poll(Nanos(now));
                        }
                    }
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

/// A frame while so many VFs wait for the wire, each with a full ring.
fn waiting(c: &mut Criterion) {
    let mut group = c.benchmark_group("waiting");
    for vfs in [2, 64, 256] {
        for len in [64, 1514] {
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(format!("{len}"), vfs), |b| {
                let policy = policy(vfs, MAC_A);
                let (near, far) = WireEnd::pair(LinkConfig::default(), SLACK);
                let mut far = Box::new(far) as Box<dyn vfnic::uplink::Uplink>;
                let pool = Pool::new(1024);
                let policies = PolicyCell::new(policy.into());
                let mut nic = DirectPlane::new(
                    &policies,
                    PfEnd::pair().0,
                    Some(Box::new(near)),
                    pool.clone(),
                );
                connect(&mut nic);
                let guests: Vec<_> = (0..vfs).map(|_| Guest::small(VERSION_1, len)).collect();
                for (vf, guest) in guests.iter().enumerate() {
                    guest.fill(&frame(MAC_B, MAC_A.offset(vf as u32), len));
                    nic.attach(VfIndex::from(vf), guest.vring(1));
                    guest.offer(1, 0, SIZE.into());
                }
                let mut offered = vec![u32::from(SIZE); vfs.into()];
                let mut arrivals = vfnic::uplink::Arrivals::default();
                let mut now = 0;
                let mut round = |frames: u64| {
                    let mut spent = Duration::ZERO;
                    let mut arrived = 0;
                    while arrived < frames {
                        // The wire is busy all the time: it carries some 25 long or 370 short frames in that time.
                        now += 30_000;
                        let start = Instant::now();
                        while nic.poll(Nanos(now)) > 0 {}
                        spent += start.elapsed();
                        far.rx_burst(Nanos(now), usize::MAX, &pool, &mut arrivals);
                        for frame in arrivals.frames.drain(..) {
                            let low = u16::from_be_bytes([frame.data[10], frame.data[11]]);
                            let vf = usize::from(low - 1);
                            // What was sent is returned, and offered again.
                            offered[vf] = (offered[vf] + 1) % (1 << 16);
                            guests[vf].offer(1, offered[vf].wrapping_sub(1) % (1 << 16), 1);
                            pool.give(frame);
                            arrived += 1;
                        }
                    }
                    // More may have come than were asked for.
                    spent.mul_f64(frames as f64 / arrived as f64)
                };
                round(4096);
                b.iter_custom(&mut round);
            });
        }
    }
    group.finish();
}

/// A ring of frames between two mediated guests, beside others that are attached and idle.
fn mediated(c: &mut Criterion) {
    let mut group = c.benchmark_group("mediated");
    group.throughput(Throughput::Elements(SIZE.into()));
    for vfs in [2, 64, 256] {
        group.bench_function(BenchmarkId::from_parameter(vfs), |b| {
            let mut policy = policy(vfs, MAC_A);
            for vf in (0..usize::from(vfs)).map(VfIndex::from) {
                let settings = vec![VfSetting::Path(Path::Mediated)];
                policy = policy
                    .with(&Command::SetVf {
                        vfs: vf.into(),
                        settings,
                    })
                    .unwrap();
            }
            let policies = PolicyCell::new(policy.into());
            let pool = Pool::new(1024);
            let mut plane = MediatedPlane::new(&policies, PfEnd::pair().1, pool, None);
            connect(&mut plane);
            let guests: Vec<_> = (0..vfs).map(|_| Guest::small(VERSION_1, 64)).collect();
            for (vf, guest) in guests.iter().enumerate() {
                plane.attach(VfIndex::from(vf), guest.vring(0));
                plane.attach(VfIndex::from(vf), guest.vring(1));
            }
            guests[0].fill(&frame(MAC_A.offset(1), MAC_A, 64));
            let (mut offered, mut sent) = (0, 0);
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    guests[0].offer(1, offered, SIZE.into());
                    guests[1].offer(0, offered, SIZE.into());
                    offered = (offered + u32::from(SIZE)) % (1 << 16);
                    sent += u64::from(SIZE);
                    let start = Instant::now();
                    while plane.model.counters(VfIndex(1)).rx_packets < sent {
                        plane.poll(Nanos(0));
                    }
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, over_the_wire, waiting, mediated);
criterion_main!(benches);
