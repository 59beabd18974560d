//! Descriptor chains and rings that lie: to be contained, as no text says what a device does with them. Honest chains are in `ring`.

use crate::bench::{Bench, Delivery, Link, QUIET};
use crate::case::{Case, Level};
use crate::cases::by_hand::{desc, finish, place, signal};
use crate::cases::ring::{INDIRECT, SPLIT};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, SplitQueue, Virtqueue};
use vf_guest::net::{NetConfig, feature};

pub(super) const CASES: &[Case] = &[
    Case {
        id: "ring/chain-loop",
        level: Level::Hard,
        needs: &[],
        source: "V 2.7.5.2; CVE-2019-9547",
        sent: "A descriptor chain that leads back to its start.",
        expected: "Contained, and the frame in it is not forwarded.",
        run: |bench| {
            nowhere(bench, |queue, at, len| {
                // A packed ring has no links: a chain that never ends is one that fills it.
                let descs = match queue {
                    Virtqueue::Split(_) => 2,
                    Virtqueue::Packed(_) => queue.room(),
                };
                let next = |i| (i + 1) % descs;
                let chain: Vec<_> = (0..descs)
                    .map(|i| desc(at, len, DESC_NEXT, next(i)))
                    .collect();
                queue.lie(&chain);
            })
        },
    },
    Case {
        id: "ring/next-out-of-range",
        level: Level::Hard,
        needs: &[SPLIT],
        source: "V 2.7.5.2",
        sent: "A descriptor whose next is the size of the ring, and one whose next is far behind the table, where something like a descriptor lies.",
        expected: "Contained, and the frame is not forwarded.",
        run: |bench| {
            nowhere(bench, |queue, at, len| {
                queue.lie(&[desc(at, len, DESC_NEXT, queue.layout().size)]);
            })?;
            nowhere(bench, |queue, at, len| {
                let behind = behind_table(queue, at, desc(at + 12, len - 12, 0, 0));
                queue.lie(&[desc(at, 12, DESC_NEXT, behind)]);
            })
        },
    },
    Case {
        id: "ring/head-out-of-range",
        level: Level::Hard,
        needs: &[SPLIT],
        source: "V 2.7.5.2",
        sent: "An available head that is the size of the ring, and one that is far behind the table, where something like a descriptor lies.",
        expected: "Contained, and the frame is not forwarded.",
        run: |bench| {
            for far in [false, true] {
                nowhere(bench, |queue, at, len| {
                    let frame = desc(at, len, 0, 0);
                    let behind = behind_table(queue, at, frame);
                    let head = if far { behind } else { queue.layout().size };
                    if let Some(queue) = queue.as_split() {
                        queue.set_desc(0, frame);
                        offer(queue, &[head]);
                    }
                })?;
            }
            Ok(Seen::Tolerated)
        },
    },
    Case {
        id: "ring/indirect-in-indirect",
        level: Level::Hard,
        needs: &[INDIRECT],
        source: "V 2.7.5.3.1",
        sent: "An indirect table whose descriptor is indirect.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, len| {
                let (inner, outer) = (at + 2048, at + 3072);
                queue.write_table(inner, &[desc(at, len, 0, 0)]);
                queue.write_table(outer, &[desc(inner, 16, DESC_INDIRECT, 0)]);
                queue.lie(&[desc(outer, 16, DESC_INDIRECT, 0)]);
            })
        },
    },
    Case {
        id: "ring/indirect-and-next",
        level: Level::Hard,
        needs: &[INDIRECT],
        source: "V 2.7.5.3.1",
        sent: "A descriptor with INDIRECT and NEXT.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, len| {
                queue.write_table(at + 2048, &[desc(at, len, 0, 0)]);
                let table = desc(at + 2048, 16, DESC_INDIRECT | DESC_NEXT, 1);
                queue.lie(&[table, desc(at, 1, 0, 0)]);
            })
        },
    },
    Case {
        id: "ring/indirect-len-odd",
        level: Level::Hard,
        needs: &[INDIRECT],
        source: "V 2.7.5.3",
        sent: "An indirect table of 17 bytes.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, len| {
                queue.write_table(at + 2048, &[desc(at, len, 0, 0)]);
                queue.lie(&[desc(at + 2048, 17, DESC_INDIRECT, 0)]);
            })
        },
    },
    Case {
        id: "ring/indirect-bomb",
        level: Level::Hard,
        needs: &[INDIRECT],
        source: "V 2.7.5.3.1",
        sent: "An indirect table with twice as many descriptors as the ring.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, _| {
                let table = at + 2048;
                let count = 2 * queue.layout().size;
                let next = |i| if i + 1 < count { DESC_NEXT } else { 0 };
                let entries: Vec<_> = (0..count).map(|i| desc(at, 1, next(i), i + 1)).collect();
                queue.write_table(table, &entries);
                queue.lie(&[desc(table, 16 * u32::from(count), DESC_INDIRECT, 0)]);
            })
        },
    },
    Case {
        id: "ring/zero-len-chain",
        level: Level::Hard,
        needs: &[],
        source: "CVE-2016-6490",
        sent: "A chain of two descriptors of no bytes.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, _| {
                queue.lie(&[desc(at, 0, DESC_NEXT, 1), desc(at, 0, 0, 0)]);
            })
        },
    },
    Case {
        id: "ring/zero-len-desc",
        level: Level::Hard,
        needs: &[],
        source: "CVE-2016-6490",
        sent: "A frame between whose header and bytes there is a descriptor of no bytes.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, len| {
                let (header, nothing) =
                    (desc(at, 12, DESC_NEXT, 1), desc(at + 12, 0, DESC_NEXT, 2));
                queue.lie(&[header, nothing, desc(at + 12, len - 12, 0, 0)]);
            })
        },
    },
    Case {
        id: "net/header-only",
        level: Level::Hard,
        needs: &[],
        source: "V 5.1.9.2 (a header, and then a packet)",
        sent: "A header and nothing behind it, and half a header.",
        expected: "Contained.",
        run: |bench| {
            for len in [12, 5] {
                hostile(bench, |queue, at, _| queue.lie(&[desc(at, len, 0, 0)]))?;
            }
            Ok(Seen::Tolerated)
        },
    },
    Case {
        id: "net/oversize-64k",
        level: Level::Hard,
        needs: &[],
        source: "V 5.1.9.2; IPv4 and IPv6 lengths have 16 bits",
        sent: "A frame of 72,000 bytes without any offload.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, _| {
                let next = |i| if i < 47 { DESC_NEXT } else { 0 };
                let chain: Vec<_> = (0..48).map(|i| desc(at, 1500, next(i), i + 1)).collect();
                queue.lie(&chain);
            })
        },
    },
    Case {
        id: "ring/len-sum-over-4g",
        level: Level::Hard,
        needs: &[],
        source: "V 2.7.5.2; QEMU large_tx",
        sent: "A chain of five descriptors of 4 GiB each.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, _| {
                let next = |i| if i < 4 { DESC_NEXT } else { 0 };
                queue.lie(&[0, 1, 2, 3, 4].map(|i| desc(at, u32::MAX, next(i), i + 1)));
            })
        },
    },
    Case {
        id: "ring/readable-after-writable",
        level: Level::Hard,
        needs: &[],
        source: "V 2.7.4.2",
        sent: "A chain whose first descriptor is to be written and whose second is to be read.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, len| {
                let header = desc(at, 12, DESC_WRITE | DESC_NEXT, 1);
                queue.lie(&[header, desc(at + 12, len - 12, 0, 0)]);
            })
        },
    },
    Case {
        id: "ring/desc-addr-unmapped",
        level: Level::Hard,
        needs: &[],
        source: "CVE-2020-10725",
        sent: "Descriptors at 0, 1 MiB and the end of the address space, where there is no memory.",
        expected: "Contained, and no frame comes of it.",
        run: |bench| {
            for addr in [0, 1 << 20, u64::MAX - 100] {
                nowhere(bench, |queue, at, len| {
                    queue.lie(&[desc(at, len, DESC_NEXT, 1), desc(addr, 100, 0, 0)]);
                })?;
            }
            Ok(Seen::Tolerated)
        },
    },
    Case {
        id: "ring/buffer-spans-hole",
        level: Level::Hard,
        needs: &[],
        source: "CVE-2018-1059",
        sent: "A descriptor that begins in memory and ends behind it.",
        expected: "Contained, and no frame comes of it.",
        run: |bench| {
            nowhere(bench, |queue, at, len| {
                let region = queue.memory().regions()[0].layout();
                let end = region.guest_addr + region.size;
                queue.lie(&[desc(at, len, DESC_NEXT, 1), desc(end - 50, 100, 0, 0)]);
            })
        },
    },
    Case {
        id: "ring/avail-jump",
        level: Level::Hard,
        needs: &[SPLIT],
        source: "Firecracker #3149",
        sent: "An available index 5000 ahead in a ring of 256.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, len| {
                if let Some(queue) = queue.as_split() {
                    queue.set_desc(0, desc(at, len, DESC_WRITE, 0));
                    queue.set_avail_idx(5000);
                }
            })
        },
    },
    Case {
        id: "ring/avail-backwards",
        level: Level::Hard,
        needs: &[SPLIT],
        source: "Firecracker #3149",
        sent: "An available index that goes back by one.",
        expected: "Contained.",
        run: |bench| {
            hostile(bench, |queue, at, len| {
                if let Some(queue) = queue.as_split() {
                    queue.set_desc(0, desc(at, len, DESC_WRITE, 0));
                    queue.set_avail_idx(0u16.wrapping_sub(1));
                }
            })
        },
    },
    Case {
        id: "ring/duplicate-head",
        level: Level::Hard,
        needs: &[],
        source: "OpenVMM duplicate_descriptor_index_is_fatal",
        sent: "The same head three times.",
        expected: "Contained.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(200);
            let (at, len) = place(&mut link, &frame)?;
            let queue = &mut link.tx.tx_ring(0).queue;
            for _ in 0..3 {
                queue.lie(&[desc(at, len, 0, 0)]);
            }
            signal(&mut link);
            std::thread::sleep(QUIET);
            finish(bench, link)
        },
    },
    Case {
        id: "ring/ring-tail-unmapped",
        level: Level::Hard,
        needs: &[],
        source: "V 2.7; VU SET_VRING_ADDR",
        sent: "SET_VRING_ADDR with a used ring whose end is behind the memory.",
        expected: "Contained.",
        run: |bench| {
            misplaced(bench, |region, user| {
                let end = user + region;
                (user, end - 64, user + 8192)
            })
        },
    },
    Case {
        id: "ring/ring-unaligned",
        level: Level::Hard,
        needs: &[],
        source: "V 2.7 (alignment)",
        sent: "SET_VRING_ADDR with addresses off by one.",
        expected: "Contained.",
        run: |bench| misplaced(bench, |_, user| (user + 1, user + 8193, user + 16_385)),
    },
    Case {
        id: "ring/rings-overlap",
        level: Level::Hard,
        needs: &[],
        source: "V 2.7",
        sent: "SET_VRING_ADDR with all three parts in one place.",
        expected: "Contained.",
        run: |bench| misplaced(bench, |_, user| (user, user, user)),
    },
];

/// Writes what looks like a descriptor into the buffer at `at`; which one it would be if the table went on until there.
fn behind_table(queue: &Virtqueue, at: u64, desc: Desc) -> u16 {
    let place = at + 1024;
    queue.write_table(place, &[desc]);
    ((place - queue.layout().desc) / 16) as u16
}

/// Makes `heads` available from slot 0 on.
fn offer(queue: &SplitQueue, heads: &[u16]) {
    for (slot, head) in (0..).zip(heads) {
        queue.set_avail_entry(slot, *head);
    }
    queue.set_avail_idx(heads.len() as u16);
}

/// Lets `lie` describe a frame at a guest address wrongly, kicks, and checks that the subject is alive afterwards. What it made
/// of the frame is its own business: no text binds a device to anything then.
fn hostile(bench: &Bench, lie: impl FnOnce(&mut Virtqueue, u64, u32)) -> Result<Seen, Failure> {
    let link = told(bench, lie)?;
    std::thread::sleep(QUIET);
    finish(bench, link)
}

/// The same of a lie about where the frame is: what comes of it would be made of something else.
fn nowhere(bench: &Bench, lie: impl FnOnce(&mut Virtqueue, u64, u32)) -> Result<Seen, Failure> {
    let mut link = told(bench, lie)?;
    let came = match bench.delivery() {
        Delivery::None => None,
        Delivery::Peer | Delivery::Echo => link.receive(QUIET)?.map(|frame| frame.bytes().len()),
    };
    ensure(
        came.is_none(),
        format_args!("{} bytes were forwarded", came.unwrap_or_default()),
    )?;
    finish(bench, link)
}

fn told(bench: &Bench, lie: impl FnOnce(&mut Virtqueue, u64, u32)) -> Result<Link, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let frame = link.frame(200);
    let (at, len) = place(&mut link, &frame)?;
    lie(&mut link.tx.tx_ring(0).queue, at, len);
    signal(&mut link);
    Ok(link)
}

/// Starts ring 1 at impossible addresses: `place` gets the region's length and user address, and
/// answers descriptor table, used ring and available ring.
fn misplaced(
    bench: &Bench,
    place: impl FnOnce(u64, u64) -> (u64, u64, u64),
) -> Result<Seen, Failure> {
    let (mut front, net) = bench.negotiated(&NetConfig::default())?;
    front.set_features(net.features())?;
    front.set_memory(net.memory().regions())?;
    let region = net.memory().regions()[0].layout();
    let (desc, used, avail) = place(region.size, region.user_addr);
    let answer = front
        .set_vring_num(1, 256)
        .and_then(|()| front.set_vring_base(1, 0))
        .and_then(|()| front.set_vring_addr(1, desc, used, avail))
        .and_then(|()| net.start_ring(&mut front, 1))
        .and_then(|()| match net.has(feature::PROTOCOL_FEATURES) {
            true => front.set_vring_enable(1, true),
            false => Ok(()),
        });
    std::thread::sleep(QUIET);
    drop(front);
    bench.contained(answer)
}
