//! What a frame costs on the direct path from the descriptor ring of one guest's hardware VF to another's, beside what `forward` says of
//! virtqueues. `cargo bench -p vfnic --bench hardware`.
//!
//! Only the NIC's side is timed. The drivers share its core, so that no cache line changes sides.

// Helpers of benchmarks, as those of tests, may unwrap.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vf_guest::ixgbevf::{Ask, Ixgbevf as Driver, Registers};
use vf_guest::memory::Allocator;
use vf_model::{
    Counters, Judge, MacAddr, MailboxRequest, Nanos, NicConfig, Policy, Profile, VfIndex,
};
use vf_pci::function::{Environment, Function, Host, NotGranted};
use vf_pci::ixgbevf::Ixgbevf;
use vf_pci::msix::Vectors;
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vf_vhost::vring::Vring;
use vfnic::plane::{DirectPlane, PolicyCell, Rings};
use vfnic::queue::{PfEnd, Pool};
use vfnic::thread::Plane;

const MAC_BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Frames at a time: half a ring of the driver's.
const FRAMES: usize = 128;

/// The NIC as the function of a VF sees it.
struct Port {
    policies: PolicyCell,
    vf: VfIndex,
    started: Vec<Vring>,
}

impl Host for Port {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        self.started.extend(queues);
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        queues.iter().map(|_| None).collect()
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        let granted = self.policy().with_message(self.vf, request)?;
        self.policies.publish(granted.policy);
        granted.denied.map_or(Ok(()), |why| Err(why.into()))
    }

    fn policy(&self) -> Arc<Policy> {
        self.policies.load()
    }

    fn vf(&self) -> VfIndex {
        self.vf
    }

    fn speed_mbps(&self) -> u32 {
        10_000
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// The registers of a function, as a driver reaches them.
struct Bar {
    function: Ixgbevf,
    port: Port,
}

impl Registers for Bar {
    fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.function.read(0, offset, &mut data, &mut self.port);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u32) {
        let data = value.to_le_bytes();
        self.function.write(0, offset, &data, &mut self.port);
    }
}

/// A guest with an 82599 VF, its rings attached to the plane.
fn guest(worker: &mut DirectPlane, policies: &PolicyCell, vf: usize) -> (Bar, Driver) {
    let memory = Arc::new(vf_guest::memory::GuestMemory::new(4 << 20, true).unwrap());
    let region = &memory.regions()[0];
    let layout = region.layout();
    let spec = RegionSpec {
        guest_addr: layout.guest_addr,
        size: layout.size,
        user_addr: layout.user_addr,
        mmap_offset: layout.mmap_offset,
    };
    let mut bar = Bar {
        function: Ixgbevf::new(1),
        port: Port {
            policies: policies.clone(),
            vf: VfIndex::from(vf),
            started: Vec::new(),
        },
    };
    let environment = Environment {
        memory: Some(GuestMemory::map(vec![(spec, region.dup_fd().unwrap())]).unwrap()),
        vectors: Arc::new(Vectors::new(3)),
    };
    bar.function.set_environment(environment, &mut bar.port);
    let mut alloc = Allocator::new(layout);
    let driver = Driver::start(&mut bar, &memory, &mut alloc).unwrap();
    for vring in bar.port.started.drain(..) {
        worker.attach(VfIndex::from(vf), vring);
    }
    (bar, driver)
}

fn ixgbevf(c: &mut Criterion) {
    let mut group = c.benchmark_group("hardware");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for len in [64, 512, 1514] {
        group.bench_function(BenchmarkId::new("ixgbevf", len), |b| {
            let policies = PolicyCell::new(Arc::new(Policy::new(NicConfig {
                vfs: 2,
                mac_base: MAC_BASE,
                profile: Profile::default(),
            })));
            let mut worker = DirectPlane::new(&policies, PfEnd::pair().0, None, Pool::new(1024));
            let poll = mio::Poll::new().unwrap();
            worker.connect(poll.registry().try_clone().unwrap());
            let [(mut bar, mut sender), (mut to_bar, mut receiver)] =
                [0, 1].map(|vf| guest(&mut worker, &policies, vf));
            let mut frame = [&MAC_BASE.offset(1).0[..], &MAC_BASE.0, &[0x88, 0xb5]].concat();
            frame.resize(len, 0);
            let mut sent = 0;
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    for _ in 0..FRAMES {
                        assert!(sender.send(&frame, &Ask::default()));
                    }
                    sender.kick(&mut bar);
                    sent += FRAMES as u64;
                    let start = Instant::now();
                    let mut moved = 0;
                    while moved < FRAMES {
                        moved += worker.poll(Nanos(0));
                    }
                    spent += start.elapsed();
                    while receiver.recv(&mut to_bar).is_some() {}
                }
                spent
            });
            let received = worker.nic.counters(VfIndex(1)).rx_packets;
            assert_eq!(received, sent, "none was dropped");
        });
    }
    group.finish();
}

criterion_group!(benches, ixgbevf);
criterion_main!(benches);
