//! Hostile sessions: descriptors of the wrong kind, memory that shrinks, sessions cut anywhere. Nothing but containment is asked of those.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::bench::{Bench, DEADLINE, QUIET};
use crate::case::{Case, Level, Need};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::frontend::FrontendError;
use vf_guest::memory::{Region, RegionLayout};
use vf_guest::message::{self, FLAG_VERSION, Header, request};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, feature};

/// How long sessions may take that are to show what each leaves behind.
const LEAKING: Duration = Duration::from_secs(15);
/// The request that gives an eventfd for the log.
const SET_LOG_FD: u32 = 7;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "robust/reconnect",
        level: Level::Hard,
        needs: &[],
        source: "VU; QEMU vhost-user-test reconnect",
        sent: "20 sessions, each with a frame.",
        expected: "Each passes.",
        run: |bench| {
            for _ in 0..20 {
                let mut link = bench.link(&NetConfig::default())?;
                let frame = link.frame(500);
                link.pass(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/back-at-once",
        level: Level::Model,
        needs: &[],
        source: "VU Communication; QEMU reconnect",
        sent: "Five times a session that ends, and another one on the same socket.",
        expected: "One of them at least is answered within 300 ms: a guest that starts again is not kept waiting.",
        run: |bench| {
            const SOON: Duration = Duration::from_millis(300);
            if bench.serves_one_session() || bench.waits_for_clients() {
                let needs = "a back end that listens and serves one session after another";
                return Err(Failure::Unmet(needs.into()));
            }
            let mut least = Duration::MAX;
            for _ in 0..5 {
                let mut link = bench.link(&NetConfig::default())?;
                let frame = link.frame(100);
                link.pass(&frame)?;
                drop(link);
                let start = Instant::now();
                bench.connect()?;
                least = least.min(start.elapsed());
            }
            ensure(
                least < SOON,
                format_args!("the soonest was answered after {} ms", least.as_millis()),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/resume",
        level: Level::Text,
        needs: &[Need::Feature(feature::IN_ORDER, "IN_ORDER")],
        source: "VU SET_VRING_BASE; QEMU reconnect",
        sent: "A session that breaks while a frame is in the send ring, and a new one with the same memory and rings.",
        expected: "The frame arrives, once.",
        run: |bench| {
            let config = NetConfig::default();
            let mut link = bench.link(&config)?;
            for _ in 0..5 {
                let frame = link.frame(500);
                link.pass(&frame)?;
                // The session breaks; memory and rings stay as they are.
                drop(link.tx.take_frontend());
                let frame = link.frame(500);
                link.tx.send(0, &NetHeader::default(), &frame)?;
                // Enabled before it is kicked: what is in a ring that runs and is disabled is to be discarded.
                link.tx.tx_ring(0).queue.publish();
                if let Some(kick) = &link.tx.tx_ring(0).kick {
                    kick.drain();
                }
                let mut front = bench.connect()?;
                let same = NetConfig {
                    features: link.tx.features(),
                    ..config.clone()
                };
                vf_guest::net::negotiate(&mut front, &same)?;
                front.set_features(same.features)?;
                front.set_memory(link.tx.memory().regions())?;
                for index in 0..link.tx.rings() {
                    link.tx.place_ring(&mut front, index)?;
                    if link.tx.has(feature::PROTOCOL_FEATURES) {
                        front.set_vring_enable(index, true)?;
                    }
                    link.tx.start_ring(&mut front, index)?;
                }
                link.tx.adopt(front);
                link.sent()?;
                link.expect_next(&frame)?;
                let frame = link.frame(500);
                link.send(&frame)?;
                link.expect_next(&frame)?;
            }
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/disconnect-anywhere",
        level: Level::Hard,
        needs: &[],
        source: "QEMU vhost-user-test reconnect",
        sent: "Sessions that end after each step of a set-up.",
        expected: "A fresh session passes traffic.",
        run: |bench| {
            for cut in 0..12 {
                let front = bench.connect()?;
                // Cut off by whatever step comes first; the error is our own doing.
                let _ = partial_setup(front, cut);
            }
            bench.alive()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/half-message",
        level: Level::Hard,
        needs: &[],
        source: "VU Header (stream semantics)",
        sent: "Half a header, and half a payload, and then the end.",
        expected: "A fresh session passes traffic.",
        run: |bench| {
            // Half a header and half a payload, then the end; and one that stays open meanwhile.
            let mut open = bench.connect()?;
            let head = Header {
                request: request::SET_FEATURES,
                flags: FLAG_VERSION,
                size: 8,
            }
            .encode();
            open.send_raw(&head[..5], &[])?;
            drop(open);
            let mut open = bench.connect()?;
            open.send_raw(&[&head[..], &[0; 3]].concat(), &[])?;
            drop(open);
            bench.alive()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/extra-fds",
        level: Level::Hard,
        needs: &[],
        source: "CVE-2022-0669",
        sent: "GET_FEATURES with 32 descriptors.",
        expected: "Contained.",
        run: |bench| {
            let mut front = bench.connect()?;
            let null = std::fs::File::open("/dev/null")?;
            let fds = vec![null.as_fd(); 32];
            let answer = front
                .send(request::GET_FEATURES, 0, &[], &fds)
                .and_then(|()| front.await_reply(request::GET_FEATURES));
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "robust/pipe-as-call-fd",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_CALL; a full pipe blocks the stock back end",
        sent: "A full pipe as call descriptor, and frames that want a call.",
        expected: "Nobody waits for it: the session answers, or is closed.",
        run: |bench| {
            let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            fill(&writer)?;
            call_with(bench, &writer)
        },
    },
    Case {
        id: "robust/file-as-call-fd",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_CALL",
        sent: "/dev/null as call descriptor.",
        expected: "Contained.",
        run: |bench| {
            let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
            call_with(bench, &null)
        },
    },
    Case {
        id: "robust/saturated-call-fd",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_CALL; eventfd(2)",
        sent: "A blocking eventfd at its highest value as call descriptor, and frames that want a call.",
        expected: "Nobody waits for it: the session answers, or is closed.",
        run: |bench| {
            let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
            rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes())?;
            call_with(bench, &event)
        },
    },
    Case {
        id: "robust/kick-fd-closed-pipe",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_KICK; a closed pipe ends the stock back end's worker",
        sent: "A pipe without a writer as kick descriptor.",
        expected: "Contained.",
        run: |bench| {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            drop(writer);
            kick_with(bench, &reader)
        },
    },
    Case {
        id: "robust/kick-fd-devnull",
        level: Level::Hard,
        needs: &[],
        source: "VU SET_VRING_KICK",
        sent: "/dev/null as kick descriptor.",
        expected: "Contained.",
        run: |bench| {
            let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
            kick_with(bench, &null)
        },
    },
    Case {
        id: "robust/memfd-short",
        level: Level::Hard,
        needs: &[],
        source: "the stock back end dies of SIGBUS",
        sent: "A region of 1 GiB in a file of one page, with rings behind its end.",
        expected: "Contained: a fault on vanished memory must not end the process.",
        run: |bench| {
            // A region of 1 GiB in a file of one page, and rings beyond its end.
            let file = Region::new(region(4096), false)?;
            let (mut front, net) = bench.negotiated(&NetConfig::default())?;
            front.set_features(net.features())?;
            let size = 1 << 30;
            let answer = front
                .set(
                    request::SET_MEM_TABLE,
                    &message::mem_table(&[message::region(0, size, 1 << 40, 0)]),
                    &[file.fd()],
                )
                .and_then(|()| {
                    let at = (1 << 40) + (1 << 29);
                    front.set_vring_num(1, 256)?;
                    front.set_vring_base(1, 0)?;
                    front.set_vring_addr(1, at, at + 8192, at + 16_384)?;
                    net.start_ring(&mut front, 1)?;
                    if net.has(feature::PROTOCOL_FEATURES) {
                        front.set_vring_enable(1, true)?;
                    }
                    front.get_features().map(drop)
                });
            bench.settle();
            std::thread::sleep(QUIET);
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "robust/memfd-truncate",
        level: Level::Hard,
        needs: &[],
        source: "the stock back end dies of SIGBUS",
        sent: "A memory file that is cut to nothing while rings run.",
        expected: "Contained, likewise.",
        run: |bench| {
            let config = NetConfig {
                seals: false,
                ..NetConfig::default()
            };
            let mut link = bench.link(&config)?;
            let frame = link.frame(500);
            link.pass(&frame)?;
            let file = link.tx.memory().regions()[0].dup_fd()?;
            let kick = link.tx.tx_ring(0).kick.take();
            if let Some(kick) = &kick {
                // From here on nothing of ours may touch that memory.
                rustix::fs::ftruncate(&file, 0)?;
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
        id: "robust/memfd-readonly",
        level: Level::Hard,
        needs: &[],
        source: "VU Memory region description",
        sent: "A memory file that cannot be written.",
        expected: "Contained.",
        run: |bench| {
            let file = Region::new(region(1 << 20), true)?;
            let path = format!("/proc/self/fd/{}", raw(file.fd()));
            let readonly = std::fs::File::open(path)?;
            let (mut front, _) = bench.negotiated(&NetConfig::default())?;
            let answer = front.set(
                request::SET_MEM_TABLE,
                &message::mem_table(&[message::region(0, 1 << 20, 1 << 40, 0)]),
                &[readonly.as_fd()],
            );
            drop(front);
            bench.contained(answer)
        },
    },
    Case {
        id: "robust/second-connection",
        level: Level::Hard,
        needs: &[],
        source: "VU Communication",
        sent: "A second connection beside one that passes frames.",
        expected: "The first goes on.",
        run: |bench| {
            if bench.waits_for_clients() {
                return Err(Failure::Unmet("a back end that listens".into()));
            }
            let mut link = bench.link(&NetConfig::default())?;
            let second = bench.try_connect();
            let frame = link.frame(500);
            link.pass(&frame)?;
            drop(second);
            let frame = link.frame(500);
            link.pass(&frame)?;
            drop(link);
            bench.alive()?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "robust/leaks",
        level: Level::Hard,
        needs: &[Need::Resources],
        source: "CVE-2019-14818",
        sent: "Up to 40 sessions, as many as there is time for, each with a frame, kick, call and error descriptors that are replaced, one for the log, and a memory table sent twice, whether that is taken or refused.",
        expected: "The process has as many descriptors, mappings and threads as before, within 2 s.",
        run: |bench| {
            if bench.serves_one_session() {
                let needs = "a back end that serves one session after another";
                return Err(Failure::Unmet(needs.into()));
            }
            for _ in 0..5 {
                session(bench)?;
            }
            std::thread::sleep(5 * QUIET);
            let before = bench.resources()?;
            let began = Instant::now();
            let mut sessions = 0;
            // Of what each leaves behind fewer tell as well: on a loaded machine a set-up takes a second.
            while sessions < 16 || sessions < 40 && began.elapsed() < LEAKING {
                session(bench)?;
                sessions += 1;
            }
            let deadline = Instant::now() + DEADLINE;
            loop {
                let after = bench.resources()?;
                if after.fits(&before) {
                    return Ok(Seen::Conforms);
                }
                ensure(
                    Instant::now() < deadline,
                    format_args!("after {sessions} sessions: {after}; before: {before}"),
                )?;
                std::thread::sleep(QUIET);
            }
        },
    },
    Case {
        id: "robust/setup-churn",
        level: Level::Hard,
        needs: &[],
        source: "CVE-2019-14818",
        sent: "300 call descriptors, one after the other.",
        expected: "A frame passes.",
        run: |bench| {
            let mut link = bench.link(&NetConfig::default())?;
            for _ in 0..300 {
                let event = vf_guest::eventfd::EventFd::new()?;
                if let Some(front) = link.tx.frontend() {
                    front.set_vring_call(1, Some(event.as_fd()))?;
                }
            }
            let frame = link.frame(500);
            link.pass(&frame)?;
            Ok(Seen::Conforms)
        },
    },
];

fn region(size: u64) -> RegionLayout {
    RegionLayout {
        guest_addr: 0,
        user_addr: 1 << 40,
        size,
        mmap_offset: 0,
    }
}

/// A session that uses what could be forgotten.
fn session(bench: &Bench) -> Result<(), Failure> {
    let mut config = NetConfig::default();
    config.protocol_features &= !message::protocol::CONFIGURE_MEM_SLOTS;
    let logs = bench.features() & feature::LOG_ALL != 0;
    let mut link = bench.link(&config)?;
    let memory = link.tx.memory().clone();
    let event = vf_guest::eventfd::EventFd::new()?;
    let kick = link.tx.tx_ring(0).kick.as_ref();
    let kick = kick.map(|kick| kick.as_fd().try_clone_to_owned());
    let kick = kick.transpose()?;
    if let Some(front) = link.tx.frontend() {
        // What is refused is to leave nothing behind either, and so is a session that is closed for it.
        let answered = |answer| match answer {
            Err(FrontendError::Nack { .. }) => Ok(()),
            answer => answer,
        };
        let mut replace = || {
            answered(front.set_vring_kick(1, kick.as_ref().map(AsFd::as_fd)))?;
            answered(front.set_vring_call(1, Some(event.as_fd())))?;
            // The first has none before it that could be kept.
            for _ in 0..2 {
                answered(front.set_vring_err(1, Some(event.as_fd())))?;
            }
            if logs {
                answered(front.set(SET_LOG_FD, &[], &[event.as_fd()]))?;
            }
            answered(front.set_mem_table(memory.regions()))
        };
        match replace() {
            Err(FrontendError::Closed) => return Ok(()),
            replaced => replaced?,
        }
    }
    let frame = link.frame(500);
    link.pass(&frame)
}

fn raw(fd: std::os::fd::BorrowedFd<'_>) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(&fd)
}

/// Writes into a pipe until it is full, and leaves it blocking.
fn fill(writer: &OwnedFd) -> Result<(), Failure> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(writer)?;
    fcntl_setfl(writer, flags | OFlags::NONBLOCK)?;
    while rustix::io::write(writer, &[0; 4096]).is_ok() {}
    fcntl_setfl(writer, flags)?;
    Ok(())
}

/// Gives `fd` as call of the send ring and sends frames that want to be called for.
pub(super) fn call_with(bench: &Bench, fd: &OwnedFd) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let answer = match link.tx.frontend() {
        Some(front) => front.set_vring_call(1, Some(fd.as_fd())),
        None => Ok(()),
    };
    if answer.is_ok() {
        for n in 0..10 {
            link.tx.tx_ring(0).queue.set_interrupt_after(n);
            let frame = link.frame(100);
            link.send(&frame)?;
        }
        std::thread::sleep(QUIET);
    }
    // A back end that blocks in its data path answers nothing here.
    let answer = answer.and_then(|()| match link.tx.frontend() {
        Some(front) => front.get_features().map(drop),
        None => Ok(()),
    });
    drop(link);
    bench.contained(answer)
}

/// Gives `fd` as kick of the send ring.
pub(super) fn kick_with(bench: &Bench, fd: &OwnedFd) -> Result<Seen, Failure> {
    let mut link = bench.link(&NetConfig::default())?;
    let answer = match link.tx.frontend() {
        Some(front) => front
            .set_vring_kick(1, Some(fd.as_fd()))
            .and_then(|()| front.get_features().map(drop)),
        None => Ok(()),
    };
    std::thread::sleep(QUIET);
    drop(link);
    bench.contained(answer)
}

/// Does the first `steps` requests of a set-up, then hangs up.
fn partial_setup(
    mut front: vf_guest::frontend::Frontend,
    steps: usize,
) -> Result<(), FrontendError> {
    let config = NetConfig::default();
    let (features, _) = vf_guest::net::negotiate(&mut front, &config)?;
    let net = NetDevice::detached(features, &config)?;
    type Step<'a> = &'a dyn Fn(&mut vf_guest::frontend::Frontend) -> Result<(), FrontendError>;
    let all: [Step; 8] = [
        &|f| f.set_features(features),
        &|f| f.set_memory(net.memory().regions()),
        &|f| net.place_ring(f, 0),
        &|f| net.start_ring(f, 0),
        &|f| f.set_vring_enable(0, true),
        &|f| net.place_ring(f, 1),
        &|f| net.start_ring(f, 1),
        &|f| f.set_vring_enable(1, true),
    ];
    all.iter().take(steps).try_for_each(|step| step(&mut front))
}
