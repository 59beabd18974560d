//! What a frame costs on the direct path from one guest's ring to another's, policy and filters included: taken, judged,
//! delivered and returned, a ring of 256 frames at a time, and alone. `cargo bench -p vfnic`.
//!
//! Only the NIC's side is timed. The guests share its core, so that no cache line changes sides: between two cores all of
//! this costs more.

// Helpers of benchmarks, as those of tests, may unwrap.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::fs::MemfdFlags;
use vf_model::{
    Command, FilterAction, FilterMatch, FilterPriority, FilterSpec, FlowEnd, Judge, MacAddr, Nanos,
    NicConfig, Policy, Profile, Transport, VfIndex, VfSetting,
};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vf_vhost::vring::{Vring, VringConfig};
use vfnic::plane::{Adapter, PfEnd, Plane, PolicyCell, Pool};
use vm_memory::Bytes;

const SIZE: u16 = 256;
/// An odd number of cache lines, so that equal places of many buffers do not meet in the same sets of a cache.
const STRIDE: u64 = 33 * 64;
const RING: u64 = 0x4000;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000 + 52;

const VERSION_1: u64 = 1 << 32;
const RING_PACKED: u64 = 1 << 34;
const MAC_BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// A guest that sends and receives and wants no interrupts.
struct Guest {
    mem: Arc<GuestMemory>,
    features: u64,
    /// Bytes of its send buffers.
    len: u32,
}

impl Guest {
    fn new(features: u64, len: usize) -> Guest {
        let size = BUFFERS + 2 * STRIDE * u64::from(SIZE);
        let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        let spec = RegionSpec {
            guest_addr: 0,
            size,
            user_addr: 0,
            mmap_offset: 0,
        };
        let guest = Guest {
            mem: GuestMemory::map(vec![(spec, fd)]).unwrap(),
            features,
            len: 12 + len as u32,
        };
        for ring in 0..2 {
            for i in 0..SIZE {
                guest.store(ring * RING + 16 * u64::from(i), Guest::buffer(ring, i));
                if guest.is_packed() {
                    continue;
                }
                guest.store(ring * RING + 16 * u64::from(i) + 8, guest.word(ring, 0, 0));
                let at = ring * RING + AVAIL + 4 + 2 * u64::from(i);
                let entry = guest.mem.slice(at, 2).unwrap();
                entry.store(i, 0, Ordering::Relaxed).unwrap();
            }
            let no_interrupts = if guest.is_packed() { 1 << 16 } else { 1u32 };
            let area = guest.mem.slice(ring * RING + AVAIL, 4).unwrap();
            area.store(no_interrupts, 0, Ordering::Relaxed).unwrap();
        }
        guest
    }

    fn buffer(ring: u64, i: u16) -> u64 {
        BUFFERS + STRIDE * (u64::from(i) + ring * u64::from(SIZE))
    }

    fn is_packed(&self) -> bool {
        self.features & RING_PACKED != 0
    }

    fn store(&self, at: u64, word: u64) {
        let slice = self.mem.slice(at, 8).unwrap();
        slice.store(word, 0, Ordering::Release).unwrap();
    }

    /// The second half of a descriptor.
    fn word(&self, ring: u64, id: u16, lap: u64) -> u64 {
        let (len, write) = if ring == 0 { (2048, 2) } else { (self.len, 0) };
        if self.is_packed() {
            u64::from(len) | u64::from(id) << 32 | (lap | write) << 48
        } else {
            u64::from(len) | write << 32
        }
    }

    /// Writes this frame into every send buffer.
    fn fill(&self, head: &[u8]) {
        for i in 0..SIZE {
            let buffer = self.mem.slice(Guest::buffer(1, i) + 12, head.len());
            buffer.unwrap().copy_from(head);
        }
    }

    /// Makes the next `n` buffers of a ring available, after `before` of them; all of those have been returned.
    fn offer(&self, ring: u64, before: u32, n: u32) {
        if self.is_packed() {
            for nth in before..before + n {
                let (lap, i) = (nth / u32::from(SIZE), (nth % u32::from(SIZE)) as u16);
                let flag = if lap.is_multiple_of(2) {
                    1 << 7
                } else {
                    1 << 15
                };
                self.store(
                    ring * RING + 16 * u64::from(i) + 8,
                    self.word(ring, i, flag),
                );
            }
        } else {
            let index = self.mem.slice(ring * RING + AVAIL + 2, 2).unwrap();
            index
                .store((before + n) as u16, 0, Ordering::Release)
                .unwrap();
        }
    }

    fn vring(&self, index: u32) -> Vring {
        let at = u64::from(index) * RING;
        let config = VringConfig {
            index,
            size: SIZE,
            desc: at,
            avail: at + AVAIL,
            used: at + USED,
            base: if self.is_packed() { 0x8000_8000 } else { 0 },
            features: VirtioFeatures::from_bits_retain(self.features),
            enabled: true,
            coalescing: Default::default(),
        };
        Vring::new(config, self.mem.clone(), None, None, None).unwrap()
    }
}

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
        Command::SetVf { vf, settings }
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
        Command::InsertFilter(spec)
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
                let mut adapter = Adapter::new(&policies(), PfEnd::pair().0, None, Pool::new(1024));
                // As on a thread: idle VFs are spared.
                let poll = mio::Poll::new().unwrap();
                adapter.connect(poll.registry().try_clone().unwrap());
                for (vf, guest) in guests.iter().enumerate() {
                    adapter.attach(VfIndex::from(vf), guest.vring(0));
                    adapter.attach(VfIndex::from(vf), guest.vring(1));
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
                            moved += adapter.poll(Nanos(0));
                        }
                        spent += start.elapsed();
                    }
                    spent
                });
                let received = adapter.nic.counters(VfIndex(1)).rx_packets;
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

criterion_group!(benches, bursts, alone);
criterion_main!(benches);
