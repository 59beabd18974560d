//! How a back end lives on: storms of notifications, memory that changes while it is read, sessions that stand still, the process's own
//! end. Asks for no speed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use vm_memory::Bytes;

use crate::bench::{Bench, QUIET, without};
use crate::case::{Case, Level, Need};
use crate::cases::robust::{call_with, kick_with};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{Desc, Format};
use vf_guest::frontend::FrontendError;
use vf_guest::message::{FLAG_VERSION, Header, request};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, feature};

/// How long a storm lasts.
const STORM: Duration = Duration::from_millis(400);

pub(super) const CASES: &[Case] = &[
    Case {
        id: "robust/call-fd-readonly",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_CALL; write(2) EBADF",
        sent: "The reading end of a pipe as call descriptor, and frames that want a call.",
        expected: "Contained.",
        run: |bench| {
            let (reader, _writer) = pipe_with(PipeFlags::CLOEXEC)?;
            call_with(bench, &reader)
        },
    },
    Case {
        id: "robust/call-fd-closed-pipe",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_CALL; write(2) EPIPE and SIGPIPE",
        sent: "A pipe without a reader as call descriptor, and frames that want a call.",
        expected: "Contained: neither EPIPE nor SIGPIPE ends the process.",
        run: |bench| {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            drop(reader);
            call_with(bench, &writer)
        },
    },
    Case {
        id: "robust/kick-fd-socket",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_KICK",
        sent: "A socket whose other end is closed as kick descriptor.",
        expected: "Contained.",
        run: |bench| {
            let (ours, theirs) = socketpair(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            drop(theirs);
            kick_with(bench, &ours)
        },
    },
    Case {
        id: "robust/kick-fd-epoll",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_KICK; epoll(7)",
        sent: "An epoll instance as kick descriptor.",
        expected: "Contained.",
        run: |bench| {
            let epoll: OwnedFd =
                rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC)?;
            kick_with(bench, &epoll)
        },
    },
    Case {
        id: "robust/kick-storm",
        level: Level::Hard,
        needs: &[],
        source: "V 2.7.10.2 Available Buffer Notification Suppression",
        sent: "Kicks without an end for 0.4 s on rings in which there is nothing, and frames among them.",
        expected: "The frames pass.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let end = Instant::now() + STORM;
            while Instant::now() < end {
                if let Some(kick) = &link.tx.tx_ring(0).kick {
                    (0..500).for_each(|_| kick.signal());
                }
                let frame = link.frame(100);
                link.pass(&frame)?;
            }
            drop(link);
            bench.contained(Ok(()))
        },
    },
    Case {
        id: "robust/tx-never-ends",
        level: Level::Hard,
        needs: &[],
        source: "CVE-2019-3900",
        sent: "A send ring that is filled again as fast as it is emptied, for 0.4 s.",
        expected: "Contained: the back end goes on to serve others, and messages of this session.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(60);
            let end = Instant::now() + STORM;
            let mut asked = Instant::now();
            while Instant::now() < end {
                while link.tx.send(0, &NetHeader::default(), &frame)? {}
                link.tx.kick();
                while link.receive(Duration::ZERO)?.is_some() {}
                if asked.elapsed() > STORM / 4 {
                    asked = Instant::now();
                    if let Some(front) = link.tx.frontend() {
                        front.get_features()?;
                    }
                }
            }
            drop(link);
            bench.contained(Ok(()))
        },
    },
    Case {
        id: "robust/mutate-while-read",
        level: Level::Hard,
        needs: &[],
        source: "CVE-2020-14375 (time of check to time of use)",
        sent: "Frames whose descriptor, header and first bytes another thread rewrites all the time, for 0.4 s.",
        expected: "Contained.",
        run: mutate,
    },
    Case {
        id: "ring/index-tearing",
        level: Level::Hard,
        needs: &[crate::cases::ring::SPLIT],
        source: "V 2.7.6; CVE-2020-13759",
        sent: "Available indices that jump to and fro for 0.4 s while the back end reads them.",
        expected: "Contained.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(200);
            let (at, len) = crate::cases::by_hand::place(&mut link, &frame)?;
            let end = Instant::now() + STORM;
            let mut n = 0u16;
            while Instant::now() < end {
                let ring = link.tx.tx_ring(0);
                if let Some(queue) = ring.queue.as_split() {
                    for head in 0..4 {
                        queue.set_desc(
                            head,
                            Desc {
                                addr: at,
                                len,
                                flags: 0,
                                next: 0,
                            },
                        );
                        queue.set_avail_entry(head, head);
                    }
                    for _ in 0..200 {
                        n = n.wrapping_add(257);
                        queue.set_avail_idx(n);
                    }
                }
                if let Some(kick) = &ring.kick {
                    kick.signal();
                }
            }
            drop(link);
            bench.contained(Ok(()))
        },
    },
    Case {
        id: "robust/memfd-hole-punch",
        level: Level::Hard,
        needs: &[],
        source: "memory that goes while it is mapped: fallocate(2) FALLOC_FL_PUNCH_HOLE",
        sent: "A hole in the memory file where rings and buffers are, while they run.",
        expected: "Contained: all of it reads as zeroes.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            let frame = link.frame(500);
            link.pass(&frame)?;
            let region = link.tx.memory().regions()[0].layout();
            let file = link.tx.memory().regions()[0].dup_fd()?;
            let kick = link.tx.tx_ring(0).kick.take();
            let flags =
                rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, flags, region.mmap_offset, region.size)?;
            if let Some(kick) = &kick {
                kick.signal();
            }
            std::thread::sleep(QUIET);
            let answer = match link.tx.frontend() {
                Some(front) => front.get_features(),
                None => Ok(0),
            };
            drop(link);
            bench.contained(answer)
        },
    },
    Case {
        id: "robust/backend-kill9",
        level: Level::Hard,
        needs: &[
            Need::Process,
            Need::Peer,
            Need::Feature(feature::IN_ORDER, "IN_ORDER"),
        ],
        source: "VU SET_VRING_BASE; QEMU reconnect",
        sent: "SIGKILL for the back end's process, and new sessions with the same memory and rings when it has been started again.",
        expected: "Frames pass, and none of before comes again: where a ring goes on is in its memory.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&config)?;
            for _ in 0..5 {
                let frame = link.frame(300);
                link.pass(&frame)?;
            }
            if let Some(id) = bench.process_id() {
                crate::group::signal(id, Signal::KILL);
            }
            drop(link.tx.take_frontend());
            drop(link.receiver().take_frontend());
            bench.restart()?;
            if let Some(peer) = &mut link.rx {
                peer.resume(bench.connect_peer()?, &config)?;
            }
            link.tx.resume(bench.connect()?, &config)?;
            bench.settle();
            for _ in 0..5 {
                let frame = link.frame(300);
                link.send(&frame)?;
                link.sent()?;
                link.expect_next(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/backend-kill9-lap",
        level: Level::Model,
        needs: &[
            Need::Process,
            Need::Peer,
            Need::Feature(feature::INDIRECT_DESC, "INDIRECT_DESC"),
            Need::Format(Format::Packed),
        ],
        source: "QEMU reconnect (the base of a packed ring is that of a new one then); V 2.8.1 (wrap counters)",
        sent: "SIGKILL for the back end's process when packed rings of 16 descriptors without IN_ORDER are in their first, second and third lap, and new sessions with the same memory and the base of new rings.",
        expected: "Frames pass, and none of before comes again: where a ring goes on is in its descriptors.",
        run: |bench| {
            let config = NetConfig {
                queue_size: 16,
                forgets: true,
                // Batches leave no trace of each chain.
                ..without(feature::IN_ORDER)
            };
            let mut link = bench.link(&config)?;
            for _ in 0..3 {
                for _ in 0..13 {
                    let frame = link.frame(300);
                    link.send(&frame)?;
                    link.sent()?;
                    link.expect_next(&frame)?;
                }
                if let Some(id) = bench.process_id() {
                    crate::group::signal(id, Signal::KILL);
                }
                drop(link.tx.take_frontend());
                drop(link.receiver().take_frontend());
                bench.restart()?;
                if let Some(peer) = &mut link.rx {
                    peer.resume(bench.connect_peer()?, &config)?;
                }
                link.tx.resume(bench.connect()?, &config)?;
                bench.settle();
            }
            let frame = link.frame(300);
            link.send(&frame)?;
            link.expect_next(&frame)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/fd-exhaustion",
        level: Level::Hard,
        needs: &[Need::Process],
        source: "accept(2), recvmsg(2) EMFILE",
        sent: "Sessions while the process may open no more than 0 to 3 descriptors (RLIMIT_NOFILE), and then again as many as ever.",
        expected: "Contained: they fail, the process lives, and a fresh session passes traffic.",
        run: |bench| {
            if bench.serves_one_session() || bench.waits_for_clients() {
                let needs = "a back end that listens and serves one session after another";
                return Err(Failure::Unmet(needs.into()));
            }
            let id = bench.watched_id().and_then(|id| i32::try_from(id).ok());
            let Some(pid) = id.and_then(Pid::from_raw) else {
                return Ok(Seen::Tolerated);
            };
            let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))?.count();
            for more in [0, 1, 3] {
                let few = Rlimit {
                    current: Some((open + more) as u64),
                    ..getrlimit(Resource::Nofile)
                };
                let as_ever = match prlimit(Some(pid), Resource::Nofile, few) {
                    Err(Errno::PERM) => {
                        let needs = "the right to limit the back end's process";
                        return Err(Failure::Unmet(needs.into()));
                    }
                    limited => limited?,
                };
                let answered = bench.try_connect().map_err(FrontendError::from);
                let config = NetConfig::default();
                let session = answered.and_then(|mut front| {
                    front.timeout = QUIET;
                    NetDevice::start(front, &config)
                });
                prlimit(Some(pid), Resource::Nofile, as_ever)?;
                // Whether it had enough of them is its own business.
                drop(session);
            }
            bench.contained(Ok(()))
        },
    },
    Case {
        id: "robust/inflight-absurd-queues",
        level: Level::Hard,
        needs: &[],
        source: "VU Inflight I/O tracking; CVE-2021-3839",
        sent: "GET_INFLIGHT_FD for 65,535 queues of 65,535 entries, and SET_INFLIGHT_FD with an area that ends behind 2^64 and a file of one page.",
        expected: "Contained.",
        run: |bench| {
            const GET_INFLIGHT_FD: u32 = 31;
            const SET_INFLIGHT_FD: u32 = 32;
            let inflight = |size: u64, offset: u64| {
                let counts = [0xff; 4];
                [
                    &size.to_le_bytes()[..],
                    &offset.to_le_bytes(),
                    &counts,
                    &[0; 4],
                ]
                .concat()
            };
            let mut last = Seen::Tolerated;
            for (id, payload) in [
                (GET_INFLIGHT_FD, inflight(0, 0)),
                (SET_INFLIGHT_FD, inflight(u64::MAX - 4095, 8192)),
                (SET_INFLIGHT_FD, inflight(1 << 40, 0)),
            ] {
                let (mut front, net) = bench.negotiated(&NetConfig::default())?;
                let file = net.memory().regions()[0].dup_fd()?;
                let fds = [file.as_fd()];
                let fds = if id == GET_INFLIGHT_FD { &[][..] } else { &fds };
                front.send(id, 0, &payload, fds)?;
                let answer = match front.readable(QUIET)? {
                    true => front.receive().map(drop),
                    false => front.get_features().map(drop),
                };
                drop(front);
                last = bench.contained(answer)?;
            }
            Ok(last)
        },
    },
    Case {
        id: "robust/slow-loris",
        level: Level::Hard,
        needs: &[Need::Peer],
        source: "VU Header (stream semantics)",
        sent: "A message whose bytes come one at a time with pauses in between, on the peer's socket, while a session on the first one is set up.",
        expected: "The first session is served meanwhile; a fresh one on the peer's is, afterwards.",
        run: |bench| {
            let mut slow = bench.connect_peer()?;
            let header = Header {
                request: request::GET_FEATURES,
                flags: FLAG_VERSION,
                size: 0,
            }
            .encode();
            // A machine holds a session up now and then; one that waits for the slow one's message does so for good.
            for byte in &header[..header.len() - 1] {
                slow.send_raw(&[*byte], &[])?;
                let answered = bench
                    .connect()
                    .and_then(|mut front| Ok(front.get_features()?));
                match answered {
                    Err(Failure::Session(FrontendError::Timeout)) => {
                        return Err(Failure::Wrong(
                            "a session waits for another one's message".into(),
                        ));
                    }
                    answered => drop(answered?),
                }
            }
            drop(slow);
            bench.alive()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/half-open",
        level: Level::Hard,
        needs: &[Need::Peer],
        source: "VU Communication",
        sent: "A connection to the peer's socket that says nothing for 0.4 s.",
        expected: "Sessions on the first socket are served meanwhile.",
        run: |bench| {
            let silent = bench.connect_peer()?;
            let end = Instant::now() + STORM;
            while Instant::now() < end {
                bench.connect()?.get_features()?;
                std::thread::sleep(QUIET);
            }
            drop(silent);
            bench.alive()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/reconnect-under-load",
        level: Level::Hard,
        needs: &[Need::Peer],
        source: "VU Communication; DPDK DTS pvp_vhost_user_reconnect",
        sent: "15 sessions that break off in the middle of 200 frames, and a receiver that stays.",
        expected: "No frame arrives twice or changed, and each new session passes frames.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..15 {
                let frames: Vec<_> = (0..200).map(|_| link.frame(200)).collect();
                for frame in &frames {
                    link.tx.send(0, &NetHeader::default(), frame)?;
                }
                link.tx.kick();
                bench.reconnect(&mut link)?;
                let mut last = None;
                while let Some(got) = link.receive(Duration::from_millis(5))? {
                    let n = frames.iter().position(|frame| frame == got.bytes());
                    ensure(
                        n.is_some() && n > last,
                        format_args!("frame {n:?} came after {last:?}"),
                    )?;
                    last = n;
                }
                let frame = link.frame(300);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
];

fn mutate(bench: &Bench) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let memory = link.tx.memory().clone();
    let ring = link.tx.tx_ring(0);
    let (at, len, table) = (
        ring.buffer_addr(0),
        ring.buffer_len(),
        ring.queue.layout().desc,
    );
    let done = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0u64;
            while !done.load(Ordering::Relaxed) {
                n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let value = n >> 24;
                // Length and flags of the first descriptors, the header and the frame's first bytes.
                let places = [
                    (table + 16 * (value & 3) + 8, value & 0x7_ffff_ffff),
                    (at + (value & 15), value),
                    (at + 12 + (value & 63), !value),
                ];
                for (place, value) in places {
                    if let Some(slice) = memory.slice(place, 8) {
                        // A slice of eight bytes takes eight.
                        let _ = slice.write_slice(&value.to_ne_bytes(), 0);
                    }
                }
            }
        });
        let end = Instant::now() + STORM;
        let mut send = || {
            while Instant::now() < end {
                for _ in 0..8 {
                    let frame = link.frame(200.min(len as usize - 12));
                    // Whatever the device gives back, it is the suite that lies here.
                    if link.tx.send(0, &NetHeader::default(), &frame).is_err() {
                        return;
                    }
                }
                let ring = link.tx.tx_ring(0);
                ring.queue.publish();
                if let Some(kick) = &ring.kick {
                    kick.signal();
                }
                std::thread::sleep(Duration::from_micros(50));
            }
        };
        send();
        done.store(true, Ordering::Relaxed);
        match link.tx.frontend() {
            Some(front) => front.get_features().map(drop),
            None => Ok(()),
        }
    });
    drop(link);
    bench.contained(result)
}
