//! The words of the laboratory: `run --clock virtual`, `scenario` and `experiment`. Does nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use vf_lab::experiment::{MAX_PAIRS, Tool};
use vf_lab::scenario::GuestKind;
use vf_model::NetemSpec;
use vf_model::duration::Duration;
use vf_model::{Nanos, Profile};
use vf_nic::config::{DeviceKind, Offloads};

use super::number::{number, whole};

/// Which clock NICs run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RunClock {
    /// This machine's
    #[default]
    Wall,
    /// One that guests take their time from: User-Mode Linux with time-travel=ext:ID:SOCKET
    Virtual,
}

/// Options of `vfnic run --clock virtual`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Virtual clock")]
pub struct VirtualClock {
    /// Socket that guests take their time from
    #[arg(long, value_name = "SOCKET", required_if_eq("clock", "virtual"))]
    pub calendar: Option<PathBuf>,
    /// Number of guests to wait for: none starts before all have come
    #[arg(long, value_name = "N", required_if_eq("clock", "virtual"), value_parser = whole::<u16>(1..=256))]
    pub wait_for: Option<u16>,
    /// End after so many seconds of virtual time, if guests have not ended before
    #[arg(long, value_name = "SECONDS", value_parser = number(0.0..=1e9, "seconds"))]
    pub until: Option<f64>,
    /// Seconds of wall time that a guest may run without a word [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = whole::<u64>(1..=u64::MAX))]
    pub watchdog: Option<u64>,
    /// Least time between two interrupts of a VF in one direction, such as 40us [default: 20us]
    #[arg(long, value_name = "TIME", value_parser = moderation)]
    pub moderation: Option<Nanos>,
    /// Tell time by messages only, not through shared memory: slower, for comparison
    #[arg(long)]
    pub messages: bool,
    /// Print a digest of time, port and bytes of every frame that passes a VF or arrives over a wire
    #[arg(long)]
    pub digest: bool,
}

impl VirtualClock {
    /// Whether anything has been said of it.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        let VirtualClock {
            calendar,
            wait_for,
            until,
            watchdog,
            moderation,
            messages,
            digest,
        } = self;
        calendar.is_some()
            || wait_for.is_some()
            || until.is_some()
            || watchdog.is_some()
            || moderation.is_some()
            || *messages
            || *digest
    }
}

/// Options of `vfnic demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Build the guests without asking, if there are none yet
    #[arg(long, short)]
    pub yes: bool,
    /// One guest's console at a time, even if there is tmux
    #[arg(long)]
    pub no_tmux: bool,
    /// Folder of the Linux guests' kernel and initramfs [default: what examples/linux-guests/build.sh has built]
    #[arg(long, value_name = "DIR")]
    pub image: Option<PathBuf>,
}

/// What to do with a scenario.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Run it: exit code 0 if all that it expects came out, 1 if not
    Run(ScenarioRun),
    /// Say what is wrong with it, and run nothing
    Check {
        /// The scenarios: files, - for standard input, or names that 'scenario list' shows
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show the scenarios that come with vfnic: run takes their names, too
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Begin a scenario of your own, as a copy of one that comes with vfnic
    New {
        /// The file to write, which is not there yet, or - for standard output
        file: PathBuf,
        /// The scenario to start from
        #[arg(long, value_name = "NAME", default_value = "path-switch")]
        from: String,
    },
}

/// Which NICs a scenario is run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileWord {
    /// One like each profile, one after the other.
    All,
    /// One like this.
    One(Profile),
}

impl std::str::FromStr for ProfileWord {
    type Err = String;

    fn from_str(word: &str) -> Result<ProfileWord, String> {
        match word {
            "all" => Ok(ProfileWord::All),
            word => {
                let profile = word.parse::<Profile>();
                profile
                    .map(ProfileWord::One)
                    .map_err(|e| format!("{e}, or all"))
            }
        }
    }
}

/// Options of `vfnic scenario run`.
#[derive(Debug, Args)]
pub struct ScenarioRun {
    /// The scenarios, files, - for standard input, or names that 'scenario list' shows: of several, a few lines each say what came out
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// NIC that the first NIC of each is to be like, or all: what each makes of it [default: what the file says]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<ProfileWord>,
    /// Write a pcapng file for each VF there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Write a page with charts, the commands marked
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Bytes of each frame that a capture keeps, 0 for all [default: the file's snaplen, or 128]
    #[arg(long, value_name = "BYTES")]
    pub snaplen: Option<u32>,
    /// The outcome as JSON
    #[arg(long)]
    pub json: bool,
    /// What plays the guests [default: what the file says, or embedded]
    #[arg(long, value_enum)]
    pub guests: Option<GuestKind>,
    /// Folder of the Linux guests' kernel and initramfs [default: what examples/linux-guests/build.sh has built]
    #[arg(long, value_name = "DIR")]
    pub image: Option<PathBuf>,
}

/// Which clock an experiment runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ClockChoice {
    /// Simulated time: exact, the same on every machine
    #[default]
    Virtual,
    /// This machine's clock, threads and sockets: what this machine can do
    Wall,
    /// One after the other, side by side
    Both,
}

/// What an experiment can run beside the two paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ThirdPath {
    /// Each flow on its own path, learned as the accelerated NICs of 2009 did it
    Auto,
}

/// Which experiment, or the seed of the only one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The 2009 measurement that all of this grew from.
    Seed,
    /// The same, with this seed.
    Numbered(u64),
}

impl std::str::FromStr for Which {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Which, &'static str> {
        match word {
            "seed" => Ok(Which::Seed),
            number => number.parse().map(Which::Numbered).map_err(
                |_| "the experiment is called 'seed'; a number is the seed of its random numbers",
            ),
        }
    }
}

/// One word about guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestsWord {
    /// Whose TCP it is.
    Kind(GuestKind),
    /// Streams from A to B and from B to A; of several each is run.
    Streams(Vec<(u16, u16)>),
}

impl std::str::FromStr for GuestsWord {
    type Err = String;

    fn from_str(word: &str) -> Result<GuestsWord, String> {
        if let Ok(kind) = GuestKind::from_str(word, false) {
            return Ok(GuestsWord::Kind(kind));
        }
        let streams = word.split(',').map(|word| {
            let (a, b) = word.split_once('x').unwrap_or((word, word));
            match (a.parse::<u16>(), b.parse::<u16>()) {
                (Ok(a), Ok(b)) if (1..=MAX_PAIRS).contains(&a.saturating_add(b)) => Ok((a, b)),
                _ => Err(format!(
                    "'linux', 'embedded', or streams each way as AxB, such as 4x4, with at most {MAX_PAIRS} in all and at least one"
                )),
            }
        });
        streams.collect::<Result<_, _>>().map(GuestsWord::Streams)
    }
}

/// Options of `vfnic experiment`.
#[derive(Debug, Args)]
pub struct Experiment {
    /// 'seed', the name of the experiment; or a number, for --seed
    #[arg(
        value_name = "EXPERIMENT",
        default_value = "seed",
        hide_default_value = true
    )]
    pub which: Which,
    /// Seed of random numbers and start times [default: 2009]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Clock to run on
    #[arg(long, value_enum, default_value_t)]
    pub clock: ClockChoice,
    /// 'embedded' guests or 'linux', and streams as AxB: A from host A to B, B back; N is NxN; of several, such as 1x1,4x4, each is run [default: embedded:4x4]
    #[arg(long, value_name = "WHO:AxB", value_delimiter = ':')]
    pub guests: Vec<GuestsWord>,
    /// Folder of the Linux guests' kernel and initramfs [default: what examples/linux-guests/build.sh has built]
    #[arg(long, value_name = "DIR")]
    pub image: Option<PathBuf>,
    /// What Linux guests run [default: iperf3]
    #[arg(long, value_enum)]
    pub tool: Option<Tool>,
    /// The guests' MTU; of several, such as 1500,4000,9000, each is run
    #[arg(long, value_name = "BYTES", default_value = "1500", value_delimiter = ',', value_parser = whole::<u16>(576..=9216))]
    pub mtu: Vec<u16>,
    /// Run each setting so many times, with this seed, the next one, and so on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u16>(1..=1000))]
    pub repeat: u16,
    /// The link's rate
    #[arg(long, value_name = "RATE", default_value = "10G")]
    pub rate: String,
    /// What becomes of frames on the link, both ways, in tc-netem's words: 'delay 100us 20us loss 0.1%'
    #[arg(long, value_name = "WORDS")]
    pub netem: Option<NetemSpec>,
    /// NICs to be like: generic, falcon, siena, ef10, igb, ixgbe, i40e or mlx5-legacy
    #[arg(long, value_name = "NAME", default_value_t)]
    pub profile: Profile,
    /// A third path to run beside mediated and direct
    #[arg(long, value_enum, value_name = "PATH")]
    pub path: Option<ThirdPath>,
    /// What guests leave to the NIC
    #[arg(long, value_enum, default_value = "csum")]
    pub offloads: Offloads,
    /// What Linux guests find on their VF, by the name of its driver
    #[arg(long, value_enum, value_name = "DRIVER", default_value_t)]
    pub device: DeviceKind,
    /// Least time between two interrupts of a VF in one direction, such as 100us [default: 40us]
    #[arg(long, value_name = "TIME", value_parser = moderation)]
    pub moderation: Option<Nanos>,
    /// Seconds to measure once rates have settled, of virtual or wall time [default: 2; for Linux guests 1]
    #[arg(long, value_name = "S", value_parser = number(0.01..=3600.0, "seconds"))]
    pub seconds: Option<f64>,
    /// Receive window of a stream of embedded guests in KiB [default: 256]
    #[arg(long, value_name = "KIB", value_parser = whole::<u32>(4..=16384))]
    pub window: Option<u32>,
    /// Show how far the mediated figure depends on the two numbers that were fitted: ten more short runs
    #[arg(long)]
    pub sensitivity: bool,
    /// Write the figures as JSON; this file, or that of one of the next two, may be - for standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    /// Write a row for each path of each run
    #[arg(long, value_name = "FILE.csv")]
    pub csv: Option<PathBuf>,
}

/// A time between interrupts, with its unit.
fn moderation(text: &str) -> Result<Nanos, String> {
    let Duration(time) = Duration::parse(text).ok_or("a number and ns, us or ms, such as 40us")?;
    match time <= Nanos(1_000_000_000) {
        true => Ok(time),
        false => Err("at most 1s".to_owned()),
    }
}
