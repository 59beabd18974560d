//! How much of the machine's CPUs the data path may have: which ones, how it waits for frames, and whose CPU the mediated
//! path pays with. Only the words; threads are made elsewhere.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::thread::Polling;

/// Most workers a NIC can have.
pub(super) const MAX_WORKERS: u16 = 16;
/// Most data-plane threads of the process.
pub(super) const MAX_THREADS: u16 = 64;
/// CPUs that Linux can name in an affinity mask.
const MAX_CPUS: usize = 1024;

/// The word for how a thread waits for frames, a [`Polling`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum PollMode {
    /// Look for work without end: the least latency, for a CPU of its own
    Always,
    /// Look for work while there is some and a little longer, then sleep
    #[default]
    Adaptive,
    /// Sleep as soon as there is no work
    Never,
}

impl From<PollMode> for Polling {
    fn from(mode: PollMode) -> Polling {
        match mode {
            PollMode::Always => Polling::Always,
            PollMode::Adaptive => Polling::Adaptive,
            PollMode::Never => Polling::Never,
        }
    }
}

impl From<Polling> for PollMode {
    fn from(polling: Polling) -> PollMode {
        match polling {
            Polling::Always => PollMode::Always,
            Polling::Adaptive => PollMode::Adaptive,
            Polling::Never => PollMode::Never,
        }
    }
}

/// CPUs in the notation of `taskset -c` and of sysfs: `1`, `0,2`, `4-7`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CpuList(Vec<usize>);

/// Text that is not a list of CPUs.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a list of CPUs, such as 1 or 0,2 or 4-7")]
pub struct CpuListError(String);

impl CpuList {
    /// How many CPUs it names, if it names any.
    #[must_use]
    pub fn count(&self) -> Option<usize> {
        Some(self.0.len()).filter(|n| *n > 0)
    }

    /// The CPU of the `n`th thread.
    #[must_use]
    pub fn nth(&self, n: usize) -> Option<usize> {
        self.0.get(n % self.0.len().max(1)).copied()
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        self.0.iter().try_for_each(|cpu| {
            write!(f, "{separator}{cpu}")?;
            separator = ",";
            Ok(())
        })
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;
    fn from_str(text: &str) -> Result<CpuList, CpuListError> {
        let wrong = || CpuListError(text.to_owned());
        let number = |text: &str| {
            text.trim()
                .parse()
                .ok()
                .filter(|cpu: &usize| *cpu < MAX_CPUS)
        };
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
            if first > last {
                return Err(wrong());
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        cpus.dedup();
        Ok(CpuList(cpus))
    }
}

impl TryFrom<String> for CpuList {
    type Error = CpuListError;
    fn try_from(text: String) -> Result<CpuList, CpuListError> {
        text.parse()
    }
}

/// Whether the hypervisor's CPU is this machine's or the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HypervisorCpu {
    /// Real copies on this machine, as fast as they go: the wall clock's default. The virtual clock knows no machine.
    Measured,
    /// The same copies, and besides the CPU time of the calibrated cost model is charged: the virtual clock's default.
    Model,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_lists_as_taskset_takes_them() {
        let nth = |text: &str| {
            let list: CpuList = text.parse().unwrap();
            (0..4).map(|n| list.nth(n).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(nth("1"), [1, 1, 1, 1]);
        assert_eq!(nth("4-6,0"), [0, 4, 5, 6]);
        assert_eq!(nth("2,2,3"), [2, 3, 2, 3]);
        assert_eq!(CpuList::default().nth(0), None);
        assert_eq!(CpuList::default().count(), None);
        for wrong in ["", "a", "1-", "3-1", "1,,2", "-1", "99999"] {
            let error = wrong.parse::<CpuList>().unwrap_err().to_string();
            assert!(error.contains("such as 1 or 0,2 or 4-7"), "{error}");
        }
    }
}
