//! The experiment on this machine's clock: `vfnic run`'s own server with its threads and sockets, and a thread of guests
//! for each host. What comes out is this machine's figure, with the CPU time that each path took. Its figures are never
//! compared with those of the virtual clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vf_guest::eventfd::EventFd;
use vf_guest::frontend::Frontend;
use vf_guest::net::{NetDevice, Notify};
use vf_guest::tcp::{StreamId, TcpGuest};
use vf_model::{Nanos, Path};
use vf_nic::config::{Config, CpuList, HypervisorCpu, NicSettings, SocketAccess, WireSettings};
use vf_nic::sandbox::Sandbox;
use vf_nic::server::Server;
use vf_nic::thread::Polling;

use super::error::ExperimentError;
use super::measure::{self, Meters, Reading};
use super::outcome::{AutoFrames, PathResult};
use super::plan::{ClockMode, ExperimentPlan, SAMPLES};
use super::settling::WarmedUp;
use super::slow_path;
use super::testbed::{guest, net_config, nic_settings};

/// How long TCP settles. Rates of this clock are never so steady that one could tell.
const WARM_UP: Nanos = Nanos(500_000_000);
/// How long streams may take until each has moved a byte: a guest that speaks before its peer's rings are there waits for TCP to
/// try again, 1 s and then 2.
const FIRST_BYTES: Duration = Duration::from_secs(8);

/// What a guest's thread lets the others see of one guest.
#[derive(Default)]
struct Shared {
    received: AtomicU64,
    data_frames: AtomicU64,
    ack_frames: AtomicU64,
}

pub(super) fn run(
    plan: &ExperimentPlan,
    path: Path,
    progress: &mut impl FnMut(f64),
) -> Result<PathResult, ExperimentError> {
    let dir = tempfile::Builder::new()
        .prefix("vfnic-")
        .tempdir()
        .map_err(ExperimentError::Folder)?;
    let nics = [0, 1].map(|h| with_sockets(nic_settings(plan, h, path), dir.path()));
    let config = Config {
        socket_dir: dir.path().to_owned(),
        ctl: None,
        observe: None,
        metrics: None,
        access: SocketAccess::default(),
        ctl_group: None,
        hypervisor: Some(HypervisorCpu::Measured),
        poll: Polling::default(),
        threads: 1,
        cpus: CpuList::default(),
        nics: nics.to_vec(),
        wires: vec![WireSettings {
            between: [0, 1],
            link: plan.link,
        }],
    };
    // Its guests are in this process, too.
    let mut server = Server::start(config, Sandbox::Off)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let mut shared = Vec::new();
    for (h, nic) in nics.into_iter().enumerate() {
        let guests: Arc<Vec<Shared>> =
            Arc::new((0..plan.pairs()).map(|_| Shared::default()).collect());
        shared.push(Arc::clone(&guests));
        let (plan, stop) = (plan.clone(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(format!("guests-{}", nic.name))
            .spawn(move || play(&plan, h, &nic, &guests, &stop))
            .map_err(ExperimentError::Socket)?;
        threads.push(thread);
    }
    let outcome = observe(plan, path, &mut server, &shared, &threads, progress);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        while !thread.is_finished() {
            server.step(Some(Duration::from_millis(1)))?;
        }
        match thread.join() {
            Ok(played) => played?,
            Err(_) => return Err(ExperimentError::Fault("a guest's thread panicked".into())),
        }
    }
    outcome
}

fn with_sockets(mut nic: NicSettings, dir: &std::path::Path) -> NicSettings {
    for (i, vf) in nic.vf.iter_mut().enumerate() {
        vf.socket = dir.join(format!("{}-vf{i}.sock", nic.name));
    }
    nic
}

/// Serves the sockets for as long as the experiment takes, and reads the meters.
fn observe(
    plan: &ExperimentPlan,
    path: Path,
    server: &mut Server,
    guests: &[Arc<Vec<Shared>>],
    threads: &[std::thread::JoinHandle<Result<(), ExperimentError>>],
    progress: &mut impl FnMut(f64),
) -> Result<PathResult, ExperimentError> {
    let ended = || threads.iter().any(std::thread::JoinHandle::is_finished);
    let begin = Instant::now();
    let mut settled = false;
    while !settled && !ended() && begin.elapsed() < FIRST_BYTES {
        server.step(Some(Duration::from_millis(1)))?;
        settled = read(plan, server, guests).all_moved();
    }
    let start = Instant::now();
    let end = WARM_UP.0 + plan.measure.0;
    let mut readings = Vec::new();
    let mut cpu = BTreeMap::new();
    for n in 0..=SAMPLES {
        let at = WARM_UP.0 + plan.measure.0 * n / SAMPLES;
        let until = start + Duration::from_nanos(at);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            server.step(Some(left))?;
        }
        if ended() {
            break; // its error is reported by whoever joins it
        }
        if n == 0 {
            cpu = thread_seconds();
        }
        readings.push(read(plan, server, guests));
        progress(at as f64 / end as f64);
    }
    let warmed_up = WarmedUp {
        seconds: (start - begin).as_secs_f64() + WARM_UP.0 as f64 / 1e9,
        settled,
    };
    let clock = ClockMode::Wall.name();
    let mut result = measure::result(plan, clock, path, warmed_up, &readings);
    result.auto = (path == Path::Auto).then(|| {
        let mut frames = AutoFrames::default();
        for host in server.hosts() {
            slow_path::count(&mut frames, host);
        }
        frames
    });
    result.cpu_seconds = thread_seconds()
        .into_iter()
        .map(|(name, s)| {
            let before = cpu.get(&name).copied().unwrap_or(0.0);
            (name, s - before)
        })
        .collect();
    Ok(result)
}

fn read(plan: &ExperimentPlan, server: &Server, guests: &[Arc<Vec<Shared>>]) -> Reading {
    let now = server.now();
    let mut meters = Meters::new(now);
    for host in server.hosts() {
        meters.host(host);
    }
    for pair in 0..usize::from(plan.pairs()) {
        let of = |f: fn(&Shared) -> &AtomicU64| -> u64 {
            guests
                .iter()
                .map(|host| f(&host[pair]).load(Ordering::Relaxed))
                .sum()
        };
        meters.pair(
            of(|s| &s.received),
            of(|s| &s.data_frames),
            of(|s| &s.ack_frames),
        );
    }
    meters.reading()
}

/// One host's guests, polled in turn until told to stop.
fn play(
    plan: &ExperimentPlan,
    h: usize,
    nic: &NicSettings,
    shared: &[Shared],
    stop: &AtomicBool,
) -> Result<(), ExperimentError> {
    let epoch = Instant::now();
    let mut guests = Vec::new();
    for (pair, vf) in (0..).zip(&nic.vf) {
        let frontend = Frontend::connect(&vf.socket).map_err(ExperimentError::Socket)?;
        let net = NetDevice::start(frontend, &net_config(plan, Notify::EventFd))
            .map_err(ExperimentError::Guest)?;
        guests.push(guest(plan, h, pair, net));
    }
    while !stop.load(Ordering::Relaxed) {
        let mut moved = 0;
        let mut next = None;
        let now = u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        for ((guest, stream), shared) in guests.iter_mut().zip(shared) {
            let before = guest.stats();
            let step = guest.poll(now);
            if let Some(fault) = guest.fault() {
                return Err(ExperimentError::Fault(fault.to_string()));
            }
            next = [next, step.next].into_iter().flatten().min();
            let stats = guest.stats();
            moved += stats.rx_frames - before.rx_frames + stats.tx_frames - before.tx_frames;
            let stream = guest.stream(*stream);
            shared.received.store(stream.received, Ordering::Relaxed);
            if stream.sender {
                shared
                    .data_frames
                    .store(stats.tx_segments, Ordering::Relaxed);
            } else {
                shared.ack_frames.store(stats.tx_bare, Ordering::Relaxed);
            }
        }
        if moved == 0 {
            let left = next.map_or(u64::MAX, |at| at.saturating_sub(now));
            wait_for_call(&mut guests, Duration::from_nanos(left).min(IDLE))?;
        }
    }
    Ok(())
}

/// Longest sleep of a thread of guests: how late it hears that the experiment is over.
const IDLE: Duration = Duration::from_millis(10);

/// Sleeps until a guest's device calls. The guests have asked for calls when they were last polled.
fn wait_for_call(
    guests: &mut [(TcpGuest, StreamId)],
    timeout: Duration,
) -> Result<(), ExperimentError> {
    let timeout = Timespec::try_from(timeout).unwrap_or_default();
    let calls: Vec<&EventFd> = guests
        .iter_mut()
        .flat_map(|(g, _)| g.net().calls())
        .collect();
    let mut polled: Vec<PollFd<'_>> = calls
        .iter()
        .map(|call| PollFd::new(*call, PollFlags::IN))
        .collect();
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(ExperimentError::Socket(e.into())),
    }
    for (call, polled) in calls.iter().zip(&polled) {
        if !polled.revents().is_empty() {
            call.drain();
        }
    }
    Ok(())
}

/// CPU seconds of each of this process' threads by name; threads of the same kind of both hosts together.
fn thread_seconds() -> BTreeMap<String, f64> {
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return seconds;
    };
    for task in tasks.flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else {
            continue; // it has just ended
        };
        // "pid (name) state ppid ... utime stime": fields 14 and 15, counted from behind the name.
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else {
            continue;
        };
        let name = &stat[open + 1..close];
        let fields: Vec<&str> = stat[close + 1..].split_whitespace().collect();
        let ticks: f64 = [11, 12]
            .iter()
            .filter_map(|i| fields.get(*i)?.parse::<f64>().ok())
            .sum();
        let kind = match name.split('-').next() {
            Some("worker") => "nic workers",
            Some("hyp") => "hypervisors",
            Some("guests") => "guests",
            _ => "control",
        };
        // The kernel's clock tick for user space is 100 Hz on every architecture we run on.
        *seconds.entry(kind.to_owned()).or_default() += ticks / 100.0;
    }
    seconds
}
