//! `vf-conformance bench`: the options, the runs they ask for, and where the results go. Moves no frame itself.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::beside::Beside;
use super::counter::Counted;
use super::distance::{pin, round_trip};
use super::frame::{HEAD, MAX_FLOWS};
use super::generator::Generator;
use super::intel::{Intel, LONGEST};
use super::packed::Packed;
use super::page;
use super::plan::{Layout, LoadPlan, Mode, Touch};
use super::plot;
use super::port::{Port, PortConfig, PortError};
use super::record::{Record, Run, made_by};
use super::search::Search;
use super::split::Split;
use super::table;
use super::vring::{Virtqueue, Vring};
use super::wire;
use vf_guest::frontend::Frontend;
use vf_guest::pci::PciFunction;

/// Longest frame in bytes.
const LONGEST_FRAME: usize = 16_384;
/// Most ports: a frame names its sender with a byte.
const MOST_PORTS: usize = 256;
/// How long a back end that is a client may take to come.
const COMING: Duration = Duration::from_secs(30);
/// How long a back end may take between the end of a session's set-up and its first frame.
const TAKING_UP: Duration = Duration::from_millis(200);

/// Why a bench did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The options do not go together.
    #[error("{0}")]
    Usage(String),
    /// No session.
    #[error("{}: {error}; {hint}", socket.display())]
    Unreachable {
        /// The port's socket.
        socket: PathBuf,
        /// What failed.
        error: io::Error,
        /// What to look at.
        hint: &'static str,
    },
    /// The back end refused the session, or broke it.
    #[error("{}: {error}", socket.display())]
    Broken {
        /// The port's socket; the first one for what concerns all.
        socket: PathBuf,
        /// What happened.
        error: String,
    },
    /// A result could not be written.
    #[error("{}: {error}", file.display())]
    Output {
        /// Where to.
        file: PathBuf,
        /// What failed.
        error: String,
    },
}

impl BenchError {
    /// Whether the back end is to blame, and not the one who asked.
    pub fn is_failure(&self) -> bool {
        matches!(self, BenchError::Broken { .. })
    }
}

/// Load a vhost-user net back end and measure it
///
/// Plays one guest a socket on one thread: sends and receives UDP frames over the rings, keeps account of each by the number
/// in it, and says which side was the bottleneck. Give the back end a CPU of its own, and the generator another (--cpu).
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// Socket of a port; once for each port, in order (bash: --socket=/run/vfnic/nic0-vf{0..63}.sock)
    #[arg(long, required = true, value_name = "PATH")]
    socket: Vec<PathBuf>,
    /// Listen on the sockets: the back end is the client
    #[arg(long)]
    listen: bool,
    /// Who sends to whom; more than one with commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "oneway")]
    mode: Vec<Mode>,
    /// Bytes a frame in the ring, without FCS; more than one with commas
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "64,128,512,1518",
        value_name = "BYTES"
    )]
    size: Vec<usize>,
    /// Only the first N ports take part; the others are attached and silent
    #[arg(long, value_name = "N")]
    active: Option<usize>,

    /// Kind of virtqueue
    #[arg(long, value_enum, default_value = "split", help_heading = "Rings")]
    ring: Ring,
    /// What the ports are to their guests; ixgbevf: over vfio-user, from a back end that maps doorbells (vfnic: --poll always)
    #[arg(long, value_enum, default_value = "virtio", help_heading = "Rings")]
    device: Device,
    /// Features, as DPDK's virtio-user names them
    #[arg(long, value_enum, default_value = "vec", help_heading = "Rings")]
    layout: Layout,
    /// Descriptors a queue
    #[arg(long, default_value_t = 256, value_name = "N", help_heading = "Rings")]
    queue_size: u16,
    /// Queue pairs a port; flow F is sent on pair F modulo N
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Rings")]
    queues: u16,

    /// Flows a port: as many UDP source ports
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "Frames")]
    flows: u32,
    /// Tag the frames
    #[arg(long, value_name = "VID", help_heading = "Frames")]
    vlan: Option<u16>,
    /// Address of a port, once for each; otherwise what its configuration space tells, else 02:10:00:00:00:(i+1)
    #[arg(long, value_parser = vf_guest::net::parse_mac, value_name = "MAC", help_heading = "Frames")]
    mac: Vec<[u8; 6]>,
    /// Rate of the wire between even and odd ports, as 10G: tells how much of its line rate is reached
    #[arg(long, value_parser = wire::bits, value_name = "RATE", help_heading = "Frames")]
    wire: Option<f64>,
    /// What of each frame is written and read
    #[arg(long, value_enum, default_value = "head", help_heading = "Frames")]
    touch: Touch,

    /// Most frames sent at once
    #[arg(long, default_value_t = 32, value_name = "N", help_heading = "Load")]
    burst: u16,
    /// Frames a second in all, with k or M; otherwise as many as the rings take
    #[arg(long, value_parser = rate, value_name = "PPS", help_heading = "Load")]
    rate: Option<f64>,
    /// Seconds that are measured
    #[arg(long, default_value_t = 1.0, value_name = "S", help_heading = "Load")]
    seconds: f64,
    /// Seconds of load before that
    #[arg(long, default_value_t = 0.2, value_name = "S", help_heading = "Load")]
    warm_up: f64,
    /// Runs of each kind; their median is printed
    #[arg(long, default_value_t = 3, value_name = "N", help_heading = "Load")]
    rounds: u32,
    /// Search the highest rate without loss: RFC 2544's throughput, or no-drop rate
    #[arg(long, conflicts_with_all = ["pdr", "rate"], help_heading = "Load")]
    ndr: bool,
    /// Search the highest rate with at most this loss, in percent: the partial drop rate, often at 0.5
    #[arg(
        long,
        conflicts_with = "rate",
        value_parser = percent,
        value_name = "LOSS",
        help_heading = "Load"
    )]
    pdr: Option<f64>,
    /// Pin the generator to this CPU
    #[arg(long, value_name = "N", help_heading = "Load")]
    cpu: Option<usize>,
    /// CPU of the back end: tells how long a cache line takes there and back
    #[arg(long, value_name = "N", requires = "cpu", help_heading = "Load")]
    back_end_cpu: Option<usize>,

    /// Shell command that prints two numbers, busy cycles and packets of the back end so far: asked before and after each run
    #[arg(long, value_name = "COMMAND", help_heading = "Results")]
    counter: Option<String>,
    /// Shell command that runs beside every second run, ten times a second, or once if it does not end by itself: prints the
    /// figures without and with it, and what it does to them
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["plot", "ndr", "pdr"], help_heading = "Load")]
    beside: Option<String>,
    /// Name of the back end in files and comparisons
    #[arg(long, default_value = "back end", help_heading = "Results")]
    label: String,
    /// Part of a larger measurement that this is: comparisons keep parts apart
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME",
        help_heading = "Results"
    )]
    part: String,
    /// Keep the figures of every run
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    json: Option<PathBuf>,
    /// Draw them, as SVG
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    plot: Option<PathBuf>,
    /// Write a page with all that is printed and drawn, as HTML
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ring {
    /// Virtio 1.0 and older.
    Split,
    /// Virtio 1.1.
    Packed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Device {
    /// virtio-net, over vhost-user.
    Virtio,
    /// A VF of Intel's 82599, over vfio-user.
    Ixgbevf,
}

/// A rate, with one of `k` and `M` or none.
fn rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match (text.strip_suffix('k'), text.strip_suffix('M')) {
        (Some(number), _) => (number, 1e3),
        (_, Some(number)) => (number, 1e6),
        _ => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number * factor),
        _ => Err("not a number of frames a second, as 500k or 1.5M".into()),
    }
}

/// A number of percent, with or without the sign.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end().parse();
    number.map_err(|_| "not a number of percent, as 0.5".into())
}

impl Bench {
    /// Does all runs and writes all results.
    pub fn run(&self, out: &mut impl Write) -> Result<(), BenchError> {
        self.check().map_err(BenchError::Usage)?;
        // What cannot be kept is told before it is measured.
        for file in [&self.json, &self.plot, &self.report].into_iter().flatten() {
            let opened = OpenOptions::new().create(true).append(true).open(file);
            opened.map_err(|error| BenchError::Output {
                file: file.clone(),
                error: error.to_string(),
            })?;
        }
        match (self.device, self.ring) {
            (Device::Virtio, Ring::Split) => self.run_on::<Split>(out, Bench::virtio),
            (Device::Virtio, Ring::Packed) => self.run_on::<Packed>(out, Bench::virtio),
            (Device::Ixgbevf, _) => self.run_on::<Intel>(out, Bench::ixgbevf),
        }
    }

    fn virtio<R: Virtqueue>(&self, i: usize, config: &PortConfig) -> Result<Port<R>, BenchError> {
        let frontend = self.connect(&self.socket[i])?;
        Port::start(frontend, config).map_err(self.broken(i))
    }

    fn ixgbevf(&self, i: usize, config: &PortConfig) -> Result<Port<Intel>, BenchError> {
        let function = PciFunction::connect(&self.socket[i]).map_err(PortError::from);
        let port = function.and_then(|function| Port::start_function(function, config));
        port.map_err(self.broken(i))
    }

    /// What is wrong with the options.
    fn check(&self) -> Result<(), String> {
        let ports = self.active.unwrap_or(self.socket.len());
        let least = |mode| {
            if matches!(mode, Mode::Drain | Mode::Sink) {
                1
            } else {
                2
            }
        };
        if self.socket.len() > MOST_PORTS {
            return Err(format!("at most {MOST_PORTS} sockets"));
        }
        if ports == 0 || ports > self.socket.len() {
            return Err(format!(
                "--active {ports}: there are {} sockets",
                self.socket.len()
            ));
        }
        if let Some(mode) = self.mode.iter().find(|&&mode| ports < least(mode)) {
            return Err(format!(
                "--mode {} takes two ports: give --socket twice",
                table::name(*mode)
            ));
        }
        if let Some(size) = self
            .size
            .iter()
            .find(|size| !(HEAD..=LONGEST_FRAME).contains(*size))
        {
            return Err(format!(
                "--size {size}: frames have {HEAD} to {LONGEST_FRAME} bytes"
            ));
        }
        if self.device == Device::Ixgbevf {
            let longest = self.size.iter().max().filter(|size| **size > LONGEST);
            if let Some(size) = longest {
                return Err(format!(
                    "--size {size}: with --device ixgbevf at most {LONGEST} bytes"
                ));
            }
            if self.queues > 1 || self.listen {
                return Err("--device ixgbevf: without --queues and --listen".into());
            }
            // The length of a ring has so many bits.
            if self.queue_size > 4096 {
                return Err("--queue-size: with --device ixgbevf at most 4096".into());
            }
        }
        if !self.queue_size.is_power_of_two() || !(8..=32768).contains(&self.queue_size) {
            return Err(format!(
                "--queue-size {}: a power of two from 8 to 32768",
                self.queue_size
            ));
        }
        if self.burst == 0 || self.burst > self.queue_size {
            return Err(format!("--burst {}: 1 to the queue size", self.burst));
        }
        if !(1..=MAX_FLOWS).contains(&self.flows) {
            return Err(format!("--flows {}: 1 to {MAX_FLOWS}", self.flows));
        }
        if !(1..=128).contains(&self.queues) {
            return Err(format!("--queues {}: 1 to 128", self.queues));
        }
        if self.vlan.is_some_and(|vid| !(1..=4094).contains(&vid)) {
            return Err("--vlan: 1 to 4094".into());
        }
        if !self.mac.is_empty() && self.mac.len() != self.socket.len() {
            return Err(format!(
                "--mac: {} addresses for {} sockets",
                self.mac.len(),
                self.socket.len()
            ));
        }
        if !(0.01..=3600.0).contains(&self.seconds) || !(0.0..=3600.0).contains(&self.warm_up) {
            return Err("--seconds: 0.01 to 3600, --warm-up: 0 to 3600".into());
        }
        if self.pdr.is_some_and(|loss| !(0.0..100.0).contains(&loss)) {
            return Err("--pdr: a loss from 0 to 100 percent".into());
        }
        let over_wire = |mode: &Mode| matches!(mode, Mode::Oneway | Mode::Bidir);
        if self.wire.is_some() && !self.mode.iter().all(over_wire) {
            return Err("--wire: with --mode oneway or bidir".into());
        }
        if self.touch == Touch::None && self.mode.contains(&Mode::Pingpong) {
            return Err("--touch none: a round trip cannot be told without reading".into());
        }
        Ok(())
    }

    fn broken(&self, port: usize) -> impl Fn(PortError) -> BenchError + '_ {
        move |error| BenchError::Broken {
            socket: self.socket[port].clone(),
            error: error.to_string(),
        }
    }

    fn run_on<R: Vring>(
        &self,
        out: &mut impl Write,
        start: impl Fn(&Bench, usize, &PortConfig) -> Result<Port<R>, BenchError>,
    ) -> Result<(), BenchError> {
        let beside = self.beside.as_deref().map(Beside::new).transpose();
        let beside = beside.map_err(not_beside)?;
        if let Some(cpu) = self.cpu {
            pin(cpu).map_err(|error| no_cpu("--cpu", cpu, &error))?;
        }
        let mut before = self.line_ns()?;
        let config = PortConfig {
            in_order: self.layout.in_order(),
            mergeable: self.device == Device::Virtio && self.layout.mergeable(),
            pairs: self.queues,
            queue_size: self.queue_size,
            frame: self.size.iter().copied().max().unwrap_or(HEAD) + 4,
        };
        let ports = (0..self.socket.len()).map(|i| start(self, i, &config));
        let ports = ports.collect::<Result<Vec<_>, _>>()?;
        let macs = ports.iter().enumerate().map(|(i, port)| {
            let told = self.mac.get(i).copied().or(port.told_mac());
            told.unwrap_or([2, 0x10, 0, 0, 0, (i + 1) as u8])
        });
        let macs = macs.collect();
        let mut record = Record {
            line_ns: before.clone(),
            ..self.record(ports.iter().all(Port::huge))
        };
        writeln!(out, "{}", headline(&record)).map_err(self.unprinted())?;
        let tsc = quanta::Clock::new();
        let start = tsc.raw();
        let clock = || tsc.delta_as_nanos(start, tsc.raw());
        // A polling back end takes up its ports a moment after they are set up.
        std::thread::sleep(TAKING_UP);
        let mut generator = Generator::new(ports, macs, &clock);
        let mut last = None;
        for &mode in &self.mode {
            for &size in &self.size {
                let plan = self.plan(mode, size);
                let mut runs = self.runs(&mut generator, &plan, beside.as_ref(), out)?;
                let after = self.line_ns()?;
                for run in &mut runs {
                    run.line_ns = [&before[..], &after].concat();
                }
                record.line_ns.extend(&after);
                before = after;
                let (with, without): (Vec<_>, _) = runs.iter().cloned().partition(|r| r.beside);
                table::line(out, &without, last).map_err(self.unprinted())?;
                last = Some(mode);
                if let Some(command) = &self.beside {
                    table::line(out, &with, last).map_err(self.unprinted())?;
                    table::beside(out, command, &without, &with).map_err(self.unprinted())?;
                }
                record.runs.extend(runs);
            }
        }
        self.keep(&record)
    }

    /// How far the back end's CPU is, if it is known and gave us a turn.
    fn line_ns(&self) -> Result<Vec<u64>, BenchError> {
        let Some(cpu) = self.back_end_cpu else {
            return Ok(Vec::new());
        };
        let far = round_trip(cpu).map_err(|error| no_cpu("--back-end-cpu", cpu, &error))?;
        Ok(far.into_iter().collect())
    }

    fn connect(&self, socket: &Path) -> Result<Frontend, BenchError> {
        let (session, hint) = if self.listen && UnixStream::connect(socket).is_ok() {
            // To listen there would take the address away from it.
            let taken = io::ErrorKind::AddrInUse.into();
            (Err(taken), "the back end listens there: without --listen")
        } else if self.listen {
            (
                Frontend::listen(socket, COMING),
                "no back end has connected",
            )
        } else {
            (
                Frontend::connect(socket),
                "is the back end running? --listen if it is the client",
            )
        };
        session.map_err(|error| BenchError::Unreachable {
            socket: socket.to_owned(),
            error,
            hint,
        })
    }

    fn plan(&self, mode: Mode, size: usize) -> LoadPlan {
        LoadPlan {
            mode,
            ports: self.active.unwrap_or(self.socket.len()),
            size,
            flows: self.flows,
            vlan: self.vlan,
            burst: self.burst,
            rate: self.rate,
            touch: self.touch,
            wire: self.wire,
            warm_up: Duration::from_secs_f64(self.warm_up),
            seconds: Duration::from_secs_f64(self.seconds),
        }
    }

    /// The back end's own counter, if there is one.
    fn counted(&self) -> Result<Option<Counted>, BenchError> {
        let ask = self.counter.as_deref().map(Counted::ask);
        ask.transpose()
            .map_err(|error| BenchError::Usage(format!("--counter: {error}")))
    }

    fn runs<R: Vring>(
        &self,
        generator: &mut Generator<'_, R>,
        plan: &LoadPlan,
        beside: Option<&Beside>,
        out: &mut impl Write,
    ) -> Result<Vec<Run>, BenchError> {
        let allowed = if self.ndr { Some(0.0) } else { self.pdr };
        let mut runs = Vec::new();
        for round in 0..self.rounds.max(1) {
            let before = self.counted()?;
            let mut run = match (plan.mode, allowed) {
                (Mode::Pingpong | Mode::Drain | Mode::Sink, _) | (_, None) => {
                    one(generator, plan, round).map_err(self.broken(0))?
                }
                (_, Some(percent)) => self.search(generator, plan, round, percent / 100.0, out)?,
            };
            run.cycles = before
                .zip(self.counted()?)
                .and_then(|(before, after)| after.each_since(before));
            runs.push(run);
            if let Some(beside) = beside {
                let run = beside
                    .run(|| one(generator, plan, round))
                    .map_err(not_beside)?;
                let run = run.map_err(self.broken(0))?;
                runs.push(Run {
                    beside: true,
                    ..run
                });
            }
        }
        Ok(runs)
    }

    /// The trial at the highest rate that loses no more than allowed; its rates are 0 when there
    /// is none.
    fn search<R: Vring>(
        &self,
        generator: &mut Generator<'_, R>,
        plan: &LoadPlan,
        round: u32,
        allowed: f64,
        out: &mut impl Write,
    ) -> Result<Run, BenchError> {
        let mut trial = |rate| {
            let plan = LoadPlan {
                rate,
                ..plan.clone()
            };
            one(generator, &plan, round).map_err(self.broken(0))
        };
        let flat_out = trial(None)?;
        let mut search = Search::new(flat_out.rx_pps, allowed);
        let mut best = flat_out;
        while let Some(rate) = search.next() {
            let run = trial(Some(rate))?;
            writeln!(
                out,
                "  trial {:.3} Mpps: {:.4} % lost",
                rate / 1e6,
                100.0 * run.loss()
            )
            .map_err(self.unprinted())?;
            search.record(rate, run.loss());
            best = run;
        }
        let what = self.searched().unwrap_or_default();
        if search.found() == 0.0 {
            (best.tx_pps, best.rx_pps, best.gbps) = (0.0, 0.0, 0.0);
            writeln!(out, "  {what}: none, each rate loses more").map_err(self.unprinted())?;
        } else {
            let (mpps, gbps) = (best.rx_pps / 1e6, best.gbps);
            writeln!(out, "  {what}: {mpps:.3} Mpps, {gbps:.2} Gb/s").map_err(self.unprinted())?;
        }
        Ok(best)
    }

    /// The name of the rate that is searched.
    fn searched(&self) -> Option<String> {
        let pdr = self.pdr.map(|percent| format!("PDR {percent} %"));
        if self.ndr { Some("NDR".into()) } else { pdr }
    }

    fn record(&self, huge: bool) -> Record {
        Record {
            part: self.part.clone(),
            made_by: made_by(),
            label: self.label.clone(),
            search: self.searched(),
            ports: self.socket.len(),
            active: self.active.unwrap_or(self.socket.len()),
            ring: match self.device {
                Device::Virtio => format!("{}-{}", value(&self.ring), value(&self.layout)),
                Device::Ixgbevf => value(&self.device),
            },
            queue_size: self.queue_size,
            queues: self.queues,
            burst: self.burst,
            flows: self.flows,
            vlan: self.vlan,
            touch: value(&self.touch),
            memory: if huge { "2 MiB pages" } else { "4 KiB pages" }.into(),
            cpu: self.cpu,
            line_ns: Vec::new(),
            runs: Vec::new(),
        }
    }

    fn keep(&self, record: &Record) -> Result<(), BenchError> {
        if let Some(file) = &self.json {
            let output = |error: String| BenchError::Output {
                file: file.clone(),
                error,
            };
            let written = File::create(file).map(BufWriter::new);
            let mut written = written.map_err(|e| output(e.to_string()))?;
            serde_json::to_writer_pretty(&mut written, record)
                .map_err(|e| output(e.to_string()))?;
            written.flush().map_err(|e| output(e.to_string()))?;
        }
        if let Some(file) = &self.plot {
            plot::draw(record, file).map_err(|error| BenchError::Output {
                file: file.clone(),
                error,
            })?;
        }
        if let Some(file) = &self.report {
            let page = page::html(record, &headline(record));
            let written = page.and_then(|page| std::fs::write(file, page));
            written.map_err(|error| BenchError::Output {
                file: file.clone(),
                error: error.to_string(),
            })?;
        }
        Ok(())
    }

    fn unprinted(&self) -> impl Fn(io::Error) -> BenchError {
        |error| BenchError::Output {
            file: "standard output".into(),
            error: error.to_string(),
        }
    }
}

fn one<R: Vring>(
    generator: &mut Generator<'_, R>,
    plan: &LoadPlan,
    round: u32,
) -> Result<Run, PortError> {
    if !matches!(plan.mode, Mode::Drain | Mode::Sink) {
        generator.introduce(plan)?;
    }
    let found = match plan.mode {
        Mode::Pingpong => generator.ping_pong(plan)?,
        _ => generator.load(plan)?,
    };
    Ok(Run::new(plan, round, &found))
}

fn not_beside(error: String) -> BenchError {
    BenchError::Usage(format!("--beside: {error}"))
}

fn no_cpu(option: &str, cpu: usize, error: &io::Error) -> BenchError {
    BenchError::Usage(format!("{option} {cpu}: no CPU to run on ({error})"))
}

fn headline(record: &Record) -> String {
    let ports = match record.active {
        active if active < record.ports => format!("{active} of {} ports", record.ports),
        active => format!("{active} ports"),
    };
    let distance = record.line_ns.first().map_or(String::new(), |ns| {
        format!(", a cache line to the back end's and back {ns} ns")
    });
    format!(
        "{}: {ports}, {}, queue pairs {}, flows {}, burst {}, touch {}, memory of {}, CPU {}{distance}",
        record.label,
        record.ring,
        record.queues,
        record.flows,
        record.burst,
        record.touch,
        record.memory,
        record.cpu.map_or("any".into(), |cpu| cpu.to_string()),
    )
}

fn value(of: &impl ValueEnum) -> String {
    let value = of.to_possible_value();
    value.map(|v| v.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: Bench,
    }

    fn bench(words: &str) -> Bench {
        let words = std::iter::once("bench").chain(words.split_whitespace());
        Cli::try_parse_from(words).unwrap().bench
    }

    #[test]
    fn rates_have_units() {
        assert_eq!(rate("1.5M"), Ok(1.5e6));
        assert_eq!(rate("20k"), Ok(2e4));
        assert_eq!(rate("7"), Ok(7.0));
        for wrong in ["", "k", "-1", "inf", "1G"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_that_do_not_go_together_are_named() {
        assert_eq!(bench("--socket a --socket b").check(), Ok(()));
        assert_eq!(bench("--socket a --mode drain").check(), Ok(()));
        for (words, says) in [
            ("--socket a", "takes two ports"),
            ("--socket a --socket b --active 3", "--active 3"),
            ("--socket a --socket b --size 60", "64 to"),
            ("--socket a --socket b --queue-size 100", "power of two"),
            ("--socket a --socket b --burst 257", "--burst"),
            ("--socket a --socket b --flows 0", "--flows"),
            (
                "--socket a --socket b --mac 02:00:00:00:00:01",
                "1 addresses for 2",
            ),
            (
                "--socket a --socket b --mode oneway,ring --wire 10G",
                "--wire: with",
            ),
            (
                "--socket a --socket b --mode pingpong --touch none",
                "--touch none",
            ),
        ] {
            let error = bench(words).check().unwrap_err();
            assert!(error.contains(says), "{words}: {error}");
        }
    }

    #[test]
    fn a_loss_has_a_sign_or_none() {
        assert_eq!(percent("0.5%"), Ok(0.5));
        assert_eq!(percent("1 %"), Ok(1.0));
        assert_eq!(bench("--socket a --socket b --pdr 0.5").pdr, Some(0.5));
        assert!(percent("some").is_err());
    }

    #[test]
    fn a_back_end_that_listens_keeps_its_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let _back_end = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let path = socket.display();
        let words = format!("--socket {path} --mode drain --size 64 --listen");
        let error = bench(&words).run(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("without --listen"), "{error}");
        assert!(socket.exists());
    }

    #[test]
    fn what_cannot_be_kept_is_told_first() {
        let words = "--socket /nowhere/a --socket /nowhere/b --json /nowhere/c";
        let error = bench(words).run(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/c"), "{error}");
    }

    #[test]
    fn nobody_there_is_one_line() {
        let error = bench("--socket /nowhere/a --socket /nowhere/b")
            .run(&mut Vec::new())
            .unwrap_err();
        assert!(!error.is_failure());
        let line = error.to_string();
        assert!(
            line.contains("/nowhere/a") && line.contains("--listen"),
            "{line}"
        );
        assert!(!line.contains('\n'));
    }
}
