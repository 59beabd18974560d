//! The experiment with Linux guests: kernels of their own, TCP of their own, on the virtual clock. What they do is a script;
//! what they carry is read off the frames that arrive. The guests run for as long as it is measured and no longer. No
//! guest's own figure is believed: it is only reported beside that.

use std::os::unix::net::UnixStream;
use std::path::Path as FilePath;

use vf_model::{Nanos, Path};
use vf_nic::config::{
    Config, CpuList, DeviceKind, HypervisorCpu, NicSettings, Offloads, SocketAccess, WireSettings,
};
use vf_nic::thread::Polling;
use vf_nic::watch::Detail;

use super::error::ExperimentError;
use super::flow::FlowMeter;
use super::measure::{self, Meters, Reading};
use super::outcome::{AutoFrames, PathResult};
use super::plan::{ClockMode, ExperimentPlan, SAMPLES, Tool};
use super::settling::WarmUp;
use super::slow_path;
use super::testbed::{mix, nic_settings};

use crate::linux::{CALENDAR, GuestSpec, Image, Launcher, WATCHDOG};
use crate::timetravel::{Settings, Simulation};

/// When the streams start: guests have booted long before, and idle time costs nothing.
const START: Nanos = Nanos(500_000_000);
/// Memory of a guest. It takes a quarter of it.
const MEMORY_MIB: u32 = 256;

/// The end of a pair that is on a host.
#[derive(Clone, Copy, Debug)]
struct Seat {
    host: usize,
    pair: u16,
}

impl Seat {
    fn name(self) -> String {
        format!("{}{}", ["a", "b"][self.host], self.pair)
    }

    /// On the calendar, from 1.
    fn id(self) -> u64 {
        2 * u64::from(self.pair) + self.host as u64 + 1
    }

    fn address(self) -> String {
        format!("10.9.{}.{}", self.pair, self.host + 1)
    }

    fn peer(self) -> Seat {
        Seat {
            host: 1 - self.host,
            ..self
        }
    }
}

/// Both ends of all pairs.
fn seats(plan: &ExperimentPlan) -> impl Iterator<Item = Seat> {
    (0..plan.pairs()).flat_map(|pair| [0, 1].map(|host| Seat { host, pair }))
}

/// The host that pair `pair` receives on.
fn receiver(plan: &ExperimentPlan, pair: u16) -> usize {
    usize::from(pair < plan.a_to_b)
}

/// Boots the guests, measures, and ends them.
pub(super) fn run(
    plan: &ExperimentPlan,
    image: &Image,
    tool: Tool,
    path: Path,
    stop: Option<&UnixStream>,
    progress: &mut impl FnMut(f64),
) -> Result<PathResult, ExperimentError> {
    let folder = tempfile::Builder::new()
        .prefix("vfnic-")
        .tempdir()
        .map_err(ExperimentError::Folder)?;
    let run = folder.path();
    let config = Config {
        socket_dir: run.to_owned(),
        ctl: None,
        observe: None,
        metrics: None,
        access: SocketAccess::default(),
        ctl_group: None,
        hypervisor: Some(HypervisorCpu::Model),
        poll: Polling::default(),
        threads: 1,
        cpus: CpuList::default(),
        nics: [0, 1].map(|host| nic(plan, host, path, run)).to_vec(),
        wires: vec![WireSettings {
            between: [0, 1],
            link: plan.link,
        }],
    };
    let settings = Settings {
        calendar: run.join(CALENDAR),
        guests: 2 * plan.pairs(),
        shared: true,
        until: None,
        watchdog: WATCHDOG,
        moderation: plan.moderation,
        digest: true,
    };
    let mut simulation = Simulation::start(&config, settings)?;
    if let Some(stop) = stop {
        simulation.stop_on(stop.try_clone().map_err(ExperimentError::Socket)?);
    }
    let meter = FlowMeter::new((0..plan.pairs()).map(|pair| receiver(plan, pair)));
    simulation.watch(Detail::Head, meter.watcher());
    let memory = u64::from(MEMORY_MIB) * 2 * u64::from(plan.pairs());
    let launcher = Launcher::new(image, run, FilePath::new(CALENDAR), memory);
    for seat in seats(plan) {
        let child = launcher.start(&spec(plan, tool, seat))?;
        simulation.watch_child(seat.id(), seat.name(), child);
    }
    let run = Run {
        plan,
        tool,
        launcher,
        simulation,
        meter,
    };
    run.measure(path, progress)
}

/// A NIC of the experiment with a socket for each guest.
fn nic(plan: &ExperimentPlan, host: usize, path: Path, run: &FilePath) -> NicSettings {
    let mut nic = nic_settings(plan, host, path);
    for (pair, vf) in (0..).zip(&mut nic.vf) {
        vf.socket = run.join(socket(Seat { host, pair }));
    }
    nic
}

fn socket(seat: Seat) -> String {
    format!("{}.sock", seat.name())
}

fn spec(plan: &ExperimentPlan, tool: Tool, seat: Seat) -> GuestSpec {
    GuestSpec {
        name: seat.name(),
        id: seat.id(),
        nics: vec![(plan.device, socket(seat).into())],
        mtu: plan.mtu,
        address: format!("{}/24", seat.address()),
        script: script(plan, tool, seat),
        memory_mib: MEMORY_MIB,
        seed: mix(plan.seed, seat.id()),
    }
}

/// What a guest does: one end of an endless stream.
fn script(plan: &ExperimentPlan, tool: Tool, seat: Seat) -> String {
    let peer = seat.peer().address();
    let job = match (tool, receiver(plan, seat.pair) == seat.host) {
        (Tool::Iperf3, true) => "iperf3 -s -i 0.1 -f k --forceflush".to_owned(),
        (Tool::Iperf3, false) => format!("iperf3 -c {peer} -t 86400 -i 0"),
        (Tool::Netperf, true) => "netserver -D".to_owned(),
        (Tool::Netperf, false) => format!("netperf -H {peer} -t TCP_STREAM -l 86400 -D 0.1 -f k"),
    };
    let program = job.split(' ').next().unwrap_or_default();
    let start = if receiver(plan, seat.pair) == seat.host {
        String::new()
    } else {
        // Nobody starts at the very same moment: up to a millisecond apart, by the seed.
        let at = START.0 + mix(plan.seed, 1 << 32 | seat.id()) % 1_000_000;
        format!("sleep {}.{:09}\n", at / 1_000_000_000, at % 1_000_000_000)
    };
    format!(
        "{}type {program} >/dev/null 2>&1 || {{ echo 'the image has no {program}'; exit 127; }}\n{start}exec {job}\n",
        driver_settings(plan)
    )
}

/// What a guest tells a driver of real hardware, which is told nothing by the NIC: what it is to leave to that, and how far apart
/// interrupts are to be.
fn driver_settings(plan: &ExperimentPlan) -> String {
    let usecs = plan.moderation.0 / 1000;
    let moderation = match plan.device {
        DeviceKind::Virtio => return String::new(),
        // One vector is for both directions.
        DeviceKind::Ixgbevf => format!("rx-usecs {usecs}"),
        DeviceKind::Sfc => format!("adaptive-rx off rx-usecs {usecs} tx-usecs {usecs}"),
    };
    let offloads = match plan.offloads {
        Offloads::Tso => "tso on",
        Offloads::Csum => "tso off",
        Offloads::None => "tso off tx off rx off",
    };
    format!("ethtool -K eth0 {offloads}\nethtool -C eth0 {moderation}\n")
}

/// A simulation that is measured.
struct Run<'a> {
    plan: &'a ExperimentPlan,
    tool: Tool,
    launcher: Launcher<'a>,
    simulation: Simulation,
    meter: FlowMeter,
}

impl Run<'_> {
    fn measure(
        mut self,
        path: Path,
        progress: &mut impl FnMut(f64),
    ) -> Result<PathResult, ExperimentError> {
        let plan = self.plan;
        let mut begin = START + plan.warm_up;
        let mut step = |run: &mut Self, at: Nanos, begin: Nanos| {
            run.run_until(at)?;
            progress(at.0 as f64 / (begin + plan.measure).0 as f64);
            Ok::<_, ExperimentError>(run.read())
        };
        let mut warm_up = WarmUp::new(plan, step(&mut self, START, begin)?);
        let warmed_up = loop {
            match warm_up.next() {
                Ok(at) => {
                    begin = begin.max(at);
                    warm_up.look(step(&mut self, at, begin)?);
                }
                Err(over) => break over,
            }
        };
        let mut readings = vec![self.read()];
        for n in 1..=SAMPLES {
            let at = Nanos(begin.0 + plan.measure.0 * n / SAMPLES);
            readings.push(step(&mut self, at, begin)?);
        }
        let clock = ClockMode::Virtual.name();
        let mut result = measure::result(plan, clock, path, warmed_up, &readings);
        let carried = self.meter.carried();
        result.timestamps = carried.iter().any(|stream| stream.timestamps);
        result.reported = self.reported(begin.saturating_sub(START));
        result.auto = (path == Path::Auto).then(|| {
            let mut frames = AutoFrames::default();
            for host in self.simulation.world().hosts() {
                slow_path::count(&mut frames, &host.borrow());
            }
            frames
        });
        let summary = self.simulation.finish();
        result.digest = summary.digest.map(|digest| format!("{digest:016x}"));
        Ok(result)
    }

    /// Runs until it is `at`, with all guests at work.
    fn run_until(&mut self, at: Nanos) -> Result<(), ExperimentError> {
        self.simulation.run_until(at)?;
        for guest in seats(self.plan).map(Seat::name) {
            let output = self.launcher.output(&guest);
            if let Some(code) = output.code {
                let last = output.text.lines().next_back().unwrap_or_default();
                return Err(ExperimentError::Script {
                    guest,
                    code,
                    last: last.to_owned(),
                });
            }
        }
        match self.simulation.faults().first() {
            Some(fault) => Err(ExperimentError::Fault(fault.clone())),
            None => Ok(()),
        }
    }

    fn read(&self) -> Reading {
        let world = self.simulation.world();
        let mut meters = Meters::new(world.now());
        for host in world.hosts() {
            meters.host(&host.borrow());
        }
        for stream in self.meter.carried() {
            meters.pair(stream.received, stream.data_frames, stream.ack_frames);
        }
        meters.reading()
    }

    /// What the tools say; empty if not all of them have said anything yet.
    /// `begin` is when the measurement began, from the start of the streams.
    fn reported(&self, begin: Nanos) -> Vec<f64> {
        let window = [begin, begin + self.plan.measure];
        let of = |pair| {
            let receiver = Seat {
                host: receiver(self.plan, pair),
                pair,
            };
            let speaker = match self.tool {
                Tool::Iperf3 => receiver,
                // Its server says nothing.
                Tool::Netperf => receiver.peer(),
            };
            let output = self.launcher.output(&speaker.name());
            reported(&output.text, window.map(|at| at.0 as f64 / 1e9))
        };
        let all: Option<Vec<f64>> = (0..self.plan.pairs()).map(of).collect();
        all.unwrap_or_default()
    }
}

/// The mean rate in 10^6 bit/s over those intervals of a tool's that are within a window, in seconds from the start of the
/// stream.
fn reported(text: &str, [from, to]: [f64; 2]) -> Option<f64> {
    let (mut seconds, mut megabits) = (0.0, 0.0);
    let mut start = None;
    for interval in text.lines().filter_map(Interval::parse) {
        // netperf says the time of day.
        let start = *start.get_or_insert(interval.begin);
        if interval.begin - start >= from && interval.end - start <= to {
            let length = interval.end - interval.begin;
            seconds += length;
            megabits += length * interval.kbps / 1e3;
        }
    }
    (seconds > 0.0).then(|| megabits / seconds)
}

/// What a tool says of a part of its stream: times in seconds, and 10^3 bit/s.
struct Interval {
    begin: f64,
    end: f64,
    kbps: f64,
}

impl Interval {
    fn parse(line: &str) -> Option<Interval> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| word.parse::<f64>().ok();
        // Interim result: 9405511.63 10^3bits/s over 0.100 seconds ending at 1262304001.004
        if let [
            "Interim",
            "result:",
            rate,
            "10^3bits/s",
            "over",
            length,
            "seconds",
            "ending",
            "at",
            end,
        ] = words[..]
        {
            let (length, end) = (number(length)?, number(end)?);
            return Some(Interval {
                begin: end - length,
                end,
                kbps: number(rate)?,
            });
        }
        // [  5]   0.00-0.10   sec   112 MBytes  9415000 Kbits/sec
        let at = words.iter().position(|word| *word == "sec")?;
        let (begin, end) = words.get(at.wrapping_sub(1))?.split_once('-')?;
        Some(Interval {
            begin: number(begin)?,
            end: number(end)?,
            kbps: number(words.get(at + 3)?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_one_sender() {
        let plan = ExperimentPlan {
            a_to_b: 1,
            b_to_a: 1,
            ..ExperimentPlan::default()
        };
        let jobs: Vec<String> = seats(&plan)
            .map(|seat| script(&plan, Tool::Iperf3, seat))
            .collect();
        let sends: Vec<bool> = jobs.iter().map(|job| job.contains("iperf3 -c")).collect();
        assert_eq!(sends, [true, false, false, true]);
        assert!(jobs[0].contains("-c 10.9.0.2 ") && jobs[3].contains("-c 10.9.1.1 "));
        assert!(jobs[0].contains("sleep 0.500"));
        let ids: Vec<u64> = seats(&plan).map(Seat::id).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
    }

    #[test]
    fn what_the_tool_says_within_the_window() {
        let text = "\
Accepted connection from 10.9.0.1, port 34012
[ ID] Interval           Transfer     Bitrate
[  5]   0.00-0.10   sec  50 MBytes  4000000 Kbits/sec
[  5]   0.10-0.20   sec  110 MBytes  9000000 Kbits/sec
[  5]   0.20-0.30   sec  112 MBytes  9400000 Kbits/sec
[  5]   0.30-0.40   sec  112 MBytes";
        assert_eq!(reported(text, [0.1, 0.3]), Some(9200.0));
        assert_eq!(reported(text, [0.3, 0.4]), None);
        let text = "\
MIGRATED TCP STREAM TEST from 0.0.0.0 (0.0.0.0) port 0 AF_INET to 10.9.0.2 () port 0 AF_INET : demo
Interim result: 4000000.00 10^3bits/s over 0.100 seconds ending at 1262304000.600
Interim result: 9431000.11 10^3bits/s over 0.101 seconds ending at 1262304000.701
Interim result: 9404000.36 10^3bits/s over 0.101 seconds ending at 1262304000.802
Interim result: 9404298";
        let of = |window| reported(text, window).map(f64::round);
        assert_eq!(of([0.09, 0.35]), Some(9418.0));
        assert_eq!(of([0.15, 0.35]), Some(9404.0));
    }
}
