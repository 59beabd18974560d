//! What a frame costs between a ring and the switch: a ring of 256 descriptors emptied or filled at a time, split and packed;
//! the header judged; a checksum; a super-frame cut. `cargo bench -p vf-vhost`.
//!
//! Of the rings only the device's end is timed. Driver and device share a core, so that no cache line changes sides: between
//! two cores all of this costs more.

// Helpers of benchmarks, as those of tests, may unwrap.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::fs::MemfdFlags;
use vf_packet::checksum::Sum;
use vf_packet::{Gso, Offload, PartialChecksum, Segmentation, Segmenter};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::frame::{FrameBuf, TagEdit};
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vf_vhost::net_hdr::NetHdr;
use vf_vhost::rx::{RxOutcome, RxQueue};
use vf_vhost::tx::TxQueue;
use vf_vhost::vring::{Vring, VringConfig};

const SIZE: u16 = 256;
const STRIDE: u64 = 2048;
const DESC: u64 = 0;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;

const VERSION_1: u64 = 1 << 32;
const RING_PACKED: u64 = 1 << 34;
const IN_ORDER: u64 = 1 << 35;
const FORMATS: [(&str, u64); 3] = [
    ("split", VERSION_1),
    ("packed", VERSION_1 | RING_PACKED),
    ("packed-in-order", VERSION_1 | RING_PACKED | IN_ORDER),
];

/// A driver that offers its whole ring at a time, one descriptor a buffer, and wants no interrupts.
struct Driver {
    mem: Arc<GuestMemory>,
    features: u64,
    /// Bytes of each buffer, and whether the device writes it.
    buffer: (u32, bool),
    laps: u16,
}

impl Driver {
    fn new(features: u64, buffer: (u32, bool)) -> Driver {
        let size = BUFFERS + STRIDE * u64::from(SIZE);
        let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        let spec = RegionSpec {
            guest_addr: 0,
            size,
            user_addr: 0,
            mmap_offset: 0,
        };
        let driver = Driver {
            mem: GuestMemory::map(vec![(spec, fd)]).unwrap(),
            features,
            buffer,
            laps: 0,
        };
        for i in 0..SIZE {
            driver.store(DESC + 16 * u64::from(i), BUFFERS + STRIDE * u64::from(i));
            if driver.is_packed() {
                continue;
            }
            driver.store(DESC + 16 * u64::from(i) + 8, driver.word(0, 0));
            let entry = AVAIL + 4 + 2 * u64::from(i);
            let entry = driver.mem.slice_mut(entry, 2).unwrap();
            entry.store(0, i, Ordering::Relaxed).unwrap();
        }
        let no_interrupts = if driver.is_packed() { 1 << 16 } else { 1u32 };
        let area = driver.mem.slice_mut(AVAIL, 4).unwrap();
        area.store(0, no_interrupts, Ordering::Relaxed).unwrap();
        driver
    }

    fn is_packed(&self) -> bool {
        self.features & RING_PACKED != 0
    }

    fn store(&self, at: u64, word: u64) {
        let slice = self.mem.slice_mut(at, 8).unwrap();
        slice.store(0, word, Ordering::Release).unwrap();
    }

    /// The second half of a descriptor.
    fn word(&self, id: u16, lap: u64) -> u64 {
        let (len, writable) = self.buffer;
        let write = if writable { 2 } else { 0 };
        if self.is_packed() {
            u64::from(len) | u64::from(id) << 32 | (lap | write) << 48
        } else {
            u64::from(len) | write << 32
        }
    }

    /// Makes all buffers available again; all of them have been returned.
    fn offer(&mut self) {
        if self.is_packed() {
            let lap = if self.laps.is_multiple_of(2) {
                1 << 7
            } else {
                1 << 15
            };
            for i in 0..SIZE {
                self.store(DESC + 16 * u64::from(i) + 8, self.word(i, lap));
            }
        }
        self.laps = self.laps.wrapping_add(1);
        if !self.is_packed() {
            let index = self.mem.slice_mut(AVAIL + 2, 2).unwrap();
            index
                .store(0, self.laps.wrapping_mul(SIZE), Ordering::Release)
                .unwrap();
        }
    }

    fn vring(&self, index: u32) -> Vring {
        let config = VringConfig {
            index,
            size: SIZE,
            desc: DESC,
            avail: AVAIL,
            used: USED,
            base: 0,
            told: false,
            features: VirtioFeatures::from_bits_retain(self.features),
            enabled: true,
            coalescing: Default::default(),
        };
        Vring::new(config, self.mem.clone(), None, None, None).unwrap()
    }
}

/// Times `device` alone, after the driver has offered its ring.
fn device_time(driver: &mut Driver, rounds: u64, mut device: impl FnMut()) -> Duration {
    let mut spent = Duration::ZERO;
    for _ in 0..rounds {
        driver.offer();
        let start = Instant::now();
        device();
        spent += start.elapsed();
    }
    spent
}

fn rings(c: &mut Criterion) {
    for (name, features) in FORMATS {
        for len in [64u32, 1514] {
            let mut group = c.benchmark_group(format!("ring/{len}"));
            group.throughput(Throughput::Elements(SIZE.into()));
            group.bench_function(BenchmarkId::new("take", name), |b| {
                let mut driver = Driver::new(features, (12 + len, false));
                let mut queue = TxQueue::new(driver.vring(1));
                b.iter_custom(|rounds| {
                    device_time(&mut driver, rounds, || {
                        let mut left = usize::from(SIZE);
                        while left > 0 {
                            let fetched = queue.fetch().unwrap();
                            for frame in queue.fetched() {
                                black_box(frame.head());
                            }
                            queue.complete(fetched);
                            left -= fetched;
                        }
                        queue.flush();
                    })
                });
            });
            group.bench_function(BenchmarkId::new("deliver", name), |b| {
                let mut driver = Driver::new(features, (STRIDE as u32, true));
                let mut queue = RxQueue::new(driver.vring(0));
                let frame = FrameBuf {
                    offload: Offload::default(),
                    data: vec![7; len as usize],
                };
                b.iter_custom(|rounds| {
                    device_time(&mut driver, rounds, || {
                        for _ in 0..SIZE {
                            let outcome = queue.deliver(&frame, TagEdit::Keep);
                            assert_eq!(outcome, Ok(RxOutcome::Delivered));
                        }
                        queue.flush();
                    })
                });
            });
            group.finish();
        }
    }
}

/// A TCP/IPv4 super-frame of 32 KiB, to be cut into segments of 1448 bytes.
fn super_frame() -> FrameBuf {
    let mut data = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    data.extend([
        0x45, 0, 0x80, 0x34, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    data.extend([
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x80, 0x18, 2, 0, 0, 0, 0, 0,
    ]);
    data.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    data.resize(data.len() + 32_768, 7);
    let gso = Gso {
        header_len: 66,
        size: 1448,
    };
    let checksum = PartialChecksum {
        start: 34,
        offset: 16,
    };
    let segmentation = Segmentation {
        v6: false,
        ecn: false,
        gso,
    };
    let offload = Offload::new(Some(checksum), Some(segmentation));
    FrameBuf { offload, data }
}

fn offloads(c: &mut Criterion) {
    let frame = super_frame();
    // CSUM, HOST_TSO4 and VERSION_1.
    let features = VirtioFeatures::from_bits_retain(1 | 1 << 11 | VERSION_1);
    let bytes = NetHdr::from(&frame.offload).to_bytes(0);
    let hdr: &[u8; 10] = bytes.first_chunk().unwrap();
    c.bench_function("header", |b| {
        b.iter(|| {
            let hdr = NetHdr::from_bytes(black_box(hdr));
            hdr.check(features, frame.head(), frame.len()).unwrap()
        });
    });
    for len in [64, 1514] {
        let mut group = c.benchmark_group("checksum");
        group.throughput(Throughput::Bytes(len));
        group.bench_function(len.to_string(), |b| {
            let bytes = &frame.data[..len as usize];
            b.iter(|| Sum::default().with(black_box(bytes)).checksum());
        });
        group.finish();
    }
    let mut group = c.benchmark_group("segment");
    group.throughput(Throughput::Bytes(u64::from(frame.len())));
    group.bench_function("32KiB", |b| {
        b.iter(|| {
            let mut segments =
                Segmenter::new(black_box(&frame.data), frame.offload.gso().unwrap().size).unwrap();
            while let Some(segment) = segments.next_segment() {
                black_box(segment);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, rings, offloads);
criterion_main!(benches);
