//! What a process has in use, as its host sees it. Asks nothing of the process itself.

use std::fs;

/// What there is to be no more of in the end than in the beginning.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InUse {
    descriptors: usize,
    threads: usize,
    /// Guests' memory; what the allocator maps is in the memory that is counted.
    mappings: usize,
}

impl InUse {
    pub(crate) fn of(pid: u32) -> InUse {
        let proc = |what: &str| format!("/proc/{pid}/{what}");
        let count = |what| fs::read_dir(proc(what)).unwrap().count();
        let maps = fs::read_to_string(proc("maps")).unwrap();
        InUse {
            descriptors: count("fd"),
            threads: count("task"),
            mappings: maps.lines().filter(|line| line.contains("memfd:")).count(),
        }
    }
}

/// Resident memory, in kB.
pub(crate) fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    rss.trim().trim_end_matches(" kB").parse().unwrap()
}
