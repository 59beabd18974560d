//! What `why` presents: the decisions about one frame and what comes of them. Read from the answer of the model, and from what is at the NIC's
//! ports; decides nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use vf_model::{DropReason, Explanation, NetemSpec, Path, Policy, Source, Step, VfIndex};

use crate::instance::NicInstance;

/// What becomes of a frame, and every decision in the order in which they are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The decisions, a sentence each.
    pub steps: Vec<String>,
    /// The VFs that get it.
    pub vfs: Vec<WhyVf>,
    /// Whether it leaves on the wire.
    pub wire: bool,
    /// Why nobody gets it, if nobody does.
    pub drop: Option<String>,
}

/// A VF that gets a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyVf {
    /// Which.
    pub vf: u8,
    /// On which path.
    pub path: Path,
}

impl Why {
    /// What the rules say of a frame from there, and what else it meets at this NIC: a port that nothing is plugged into, VFs that no driver is
    /// attached to, and impairments, whose chances are not taken.
    #[must_use]
    pub fn new(explanation: &Explanation, source: Source, nic: &NicInstance) -> Why {
        let Explanation { steps, verdict } = explanation;
        let gets = steps.iter().filter_map(|step| match step {
            Step::Gets { vf, path, .. } => Some(WhyVf {
                vf: vf.0,
                path: *path,
            }),
            _ => None,
        });
        let mut why = Why {
            steps: steps.iter().map(ToString::to_string).collect(),
            vfs: gets.collect(),
            wire: verdict.wire,
            drop: verdict.drop.map(|reason| reason.to_string()),
        };
        let policy = nic.policy();
        why.steps.extend(impaired(&policy, source, &why));
        for vf in why.vfs.iter().map(|gets| VfIndex(gets.vf)) {
            if nic.rings(vf) == 0 {
                let reason = DropReason::NotAttached;
                why.steps.push(format!(
                    "no driver is attached to {vf} now: dropped there: {reason}"
                ));
            }
        }
        if why.wire && nic.statistics.uplink().is_none() {
            let reason = DropReason::NoUplink;
            why.steps.push(format!(
                "nothing is plugged into the port: dropped there: {reason}"
            ));
            why.wire = false;
            if verdict.vfs.union(verdict.beyond).is_empty() {
                why.drop = Some(reason.to_string());
            }
        }
        why
    }
}

/// The impairments on its way, a sentence each.
fn impaired(policy: &Policy, source: Source, why: &Why) -> Vec<String> {
    let said = |what: &str, way: &str, spec: &NetemSpec| {
        format!("{what} is impaired, and may be late, lost or another one: netem {way} {spec}")
    };
    let mut steps = Vec::new();
    let wire = policy.netem();
    match (source, &wire.ingress) {
        (Source::Vf(vf), _) => {
            let spec = policy.vf_netem(vf).egress.as_deref();
            steps.extend(spec.map(|spec| said(&format!("what {vf} sends"), "egress", spec)));
        }
        (Source::Wire, Some(spec)) => {
            steps.push(said("what comes from the wire", "ingress", spec));
        }
        (Source::Wire, None) => {}
    }
    for vf in why.vfs.iter().map(|gets| VfIndex(gets.vf)) {
        let spec = policy.vf_netem(vf).ingress.as_deref();
        let what = format!("what {vf} receives");
        steps.extend(spec.map(|spec| said(&what, "ingress", spec)));
    }
    if why.wire
        && let Some(spec) = &wire.egress
    {
        steps.push(said("what leaves on the wire", "egress", spec));
    }
    if (why.wire || source == Source::Wire)
        && let Some(flap) = policy.flap()
    {
        steps.push(format!(
            "the cable comes out of the port and goes in again: flap {flap}"
        ));
    }
    steps
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}
