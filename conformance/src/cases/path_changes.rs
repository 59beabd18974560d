//! What a change of a VF's path leaves as it was, and what a hypervisor between the ports owes to all of them: frames that wait, limits,
//! copies. Never looks at how a path is made.

use std::time::{Duration, Instant};

use crate::bench::{Bench, QUIET};
use crate::case::{Case, Level, Need};
use crate::cases::flooding::both_get;
use crate::cases::vf::ADMIN;
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::net::{NetConfig, NetHeader};

/// How often what a machine that has others to serve may spoil is tried.
const TRIES: usize = 5;

pub(super) const CASES: &[Case] = &[
    Case {
        id: "path/waiting-changes-path",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "the data path of a switch is no part of what it promises",
        sent: "Twelve frames to a receiver with four buffers on the mediated path, which changes to the direct path and back before it looks; five times at most.",
        expected: "All that wait for its buffers change the path with it: in one of the tries all twelve come, in their order.",
        run: |bench| {
            let mut most = 0;
            for _ in 0..TRIES {
                let came = waiting(bench, &["direct"])?;
                let both = waiting(bench, &["direct", "mediated"])?;
                most = most.max(came.min(both));
                if most == WAITING {
                    return Ok(Seen::Conforms);
                }
            }
            Err(Failure::Wrong(format!(
                "only {most} of {WAITING} frames came in the best of {TRIES} tries"
            )))
        },
    },
    Case {
        id: "path/limit-changes-path",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer],
        source: "the data path of a switch is no part of what it promises; ip-link(8) vf max_tx_rate",
        sent: "Frames of 1514 bytes without a pause by a VF that may send 1 Mb/s and changes its path up to 60 times.",
        expected: "Not more than that arrives in the time, within 5 % and four frames: what it has sent counts on the other path, too.",
        run: limit_changes_path,
    },
    Case {
        id: "path/copies-for-all",
        level: Level::Model,
        needs: &[ADMIN, Need::Peer, Need::Onlooker],
        source: "the data path of a switch is no part of what it promises; IEEE 802.1Q-2018 8.8",
        sent: "Broadcasts and frames to a group by a VF on the direct path to two on the mediated one, and by one on the mediated path to two on the direct one.",
        expected: "Both get each, once.",
        run: |bench| {
            for (first, others) in [("direct", "mediated"), ("mediated", "direct")] {
                for (vf, path) in [first, others, others].into_iter().enumerate() {
                    bench.administer(&format!("vf {vf} path {path}"))?;
                }
                let mut link = bench.link(&NetConfig::default())?;
                let mut onlooker = bench.onlooker(&NetConfig::default())?;
                for dst in [[0xff; 6], [1, 0, 0x5e, 0, 0, 0x17]] {
                    for _ in 0..4 {
                        let mut frame = link.frame(100);
                        frame[..6].copy_from_slice(&dst);
                        link.send(&frame)?;
                        both_get(&mut link, &mut onlooker, &frame)?;
                    }
                }
            }
            Ok(Seen::Conforms)
        },
    },
];

/// Frames that are sent at once, to four buffers.
const WAITING: usize = 12;

/// How many of the frames that wait for a receiver on the mediated path come in order when it has changed to these.
fn waiting(bench: &Bench, paths: &[&str]) -> Result<usize, Failure> {
    for vf in 0..2 {
        bench.administer(&format!("vf {vf} path mediated"))?;
    }
    let receiver = NetConfig {
        queue_size: 4,
        ..NetConfig::default()
    };
    let mut link = bench.link_of(&NetConfig::default(), &receiver)?;
    let frames: Vec<_> = (0..WAITING).map(|_| link.frame(200)).collect();
    for frame in &frames {
        link.send(frame)?;
    }
    link.sent()?;
    for path in paths {
        bench.administer(&format!("vf 1 path {path}"))?;
    }
    let mut came = 0;
    while let Some(got) = link.receive(2 * QUIET)? {
        if frames.get(came).is_none_or(|frame| frame != got.bytes()) {
            break;
        }
        came += 1;
    }
    Ok(came)
}

fn limit_changes_path(bench: &Bench) -> Result<Seen, Failure> {
    const RATE: f64 = 1e6;
    /// An order takes as long as the machine has others to serve.
    const LONG: Duration = Duration::from_secs(4);
    bench.administer("vf 0 rate 1")?;
    let mut link = bench.link(&NetConfig::default())?;
    let frame = link.frame(1514);
    // On the wire, with checksum, preamble and gap.
    let wire = (frame.len() + 24) as f64 * 8.0;
    let mut arrived = 0u32;
    let start = Instant::now();
    for turn in 0..60 {
        if start.elapsed() > LONG {
            break;
        }
        while link.tx.send(0, &NetHeader::default(), &frame)? {}
        link.tx.kick();
        while link.receive(Duration::ZERO)?.is_some() {
            arrived += 1;
        }
        let path = ["mediated", "direct"][turn % 2];
        bench.administer(&format!("vf 0 path {path}"))?;
    }
    while link.receive(Duration::ZERO)?.is_some() {
        arrived += 1;
    }
    let took = start.elapsed();
    let allowed = RATE * took.as_secs_f64() * 1.05 / wire + 4.0;
    ensure(
        f64::from(arrived) <= allowed,
        format_args!("{arrived} frames arrived in {took:?}, where {allowed:.0} may"),
    )?;
    Ok(Seen::Conforms)
}
