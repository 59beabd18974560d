//! `vfnic show` and `vfnic top`: what of a running NIC is read, and how often. Does nothing.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::target::Target;

/// How something is shown.
#[derive(Debug, Args)]
#[group(skip)] // commands have its name, and clap would have both for a group of options
pub struct Show {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What `vfnic show` shows in place of an overview.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShowWhat {
    /// Everything of one VF, or of several: vf N, vf 0-3
    Vf,
    /// Everything, also of VFs that nobody uses
    All,
    /// What was dropped, by port and reason
    Drops,
    /// The filters of every NIC, those that win first
    Rules,
    /// What each thread that moves frames has done
    Workers,
    /// The memory of the process, and that of guests
    Memory,
}

/// Options of `vfnic show`.
#[derive(Debug, Args)]
pub struct ShowAll {
    /// Which NIC.
    #[command(flatten)]
    pub at: Target,
    /// A part of it only
    #[arg(value_enum)]
    pub what: Option<ShowWhat>,
    /// Which VF, or which range of them
    #[arg(value_name = "N")]
    pub vfs: Option<String>,
    /// Say what passes in a second instead, every so many seconds
    #[arg(long, short, value_name = "SECONDS", value_parser = interval, conflicts_with = "openmetrics")]
    pub watch: Option<Duration>,
    /// As metrics in the OpenMetrics format, as 'run --metrics' serves them
    #[arg(long, conflicts_with_all = ["json", "what"])]
    pub openmetrics: bool,
    /// How it is shown.
    #[command(flatten)]
    pub show: Show,
}

/// Options of `vfnic top`.
#[cfg(feature = "top")]
#[derive(Debug, Args)]
pub struct Top {
    /// Which NIC; all of them if none is said.
    #[command(flatten)]
    pub at: Target,
    /// Read the counters every so many seconds
    #[arg(long, short, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
}

pub(super) const SHOW_HELP: &str = "\
Rates count the frames that guests see, without preamble, gap and checksum. With --json the figures are raw; docs/json.md says what each is. \
How many frames each filter has decided on, 'show rules' says.

Examples:
  vfnic show
  vfnic show vf 0
  vfnic show drops
  vfnic show --watch 1
  vfnic show --json | jq '.nics[].vfs[].total.rx_packets'";

/// A time between two readings.
fn interval(word: &str) -> Result<Duration, &'static str> {
    let seconds = word.parse().ok().filter(|s| (0.1..=86_400.0).contains(s));
    let seconds = seconds.ok_or("0.1 to 86400 seconds, such as 1 or 0.5")?;
    Ok(Duration::from_secs_f64(seconds))
}
