//! The laws of the NIC and the hypervisor's bridge together, on one host, with random VFs, policies, filters and frames. No thread, no
//! clock and no I/O, as in the model.

// Helpers of tests, too, may unwrap.
#![allow(clippy::unwrap_used)]

use proptest::prelude::ProptestConfig;
use proptest::test_runner::FileFailurePersistence;
use vf_model::MacAddr;

mod any;
mod bridge;
mod drivers;
mod filters;
mod golden;
mod hits;
mod host;
mod known;
mod policy;
mod promise;
mod spoof;
mod switch;

const VFS: u8 = 4;
const BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);
/// How many cases a law is tried with.
const CASES: u32 = 2000;
/// How many rule sets of each profile `why` and both paths are compared with, and how many frames each of them is tried with.
const RULE_SETS: u32 = 100;
const FRAMES: usize = 10_000;

/// So many cases; those that failed once are kept beside those of the unit tests.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "proptest-regressions/laws.txt",
        ))),
        max_shrink_iters: 4000,
        ..ProptestConfig::default()
    }
}
