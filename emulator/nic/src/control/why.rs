//! What `why` presents: the decisions about one frame and what comes of them. Read from the answer of the model; decides nothing.

use std::fmt;

use serde::{Deserialize, Serialize};
use vf_model::{Explanation, Path, Step};

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

impl From<&Explanation> for Why {
    fn from(explanation: &Explanation) -> Why {
        let Explanation { steps, verdict } = explanation;
        let gets = steps.iter().filter_map(|step| match step {
            Step::Gets { vf, path, .. } => Some(WhyVf {
                vf: vf.0,
                path: *path,
            }),
            _ => None,
        });
        Why {
            steps: steps.iter().map(ToString::to_string).collect(),
            vfs: gets.collect(),
            wire: verdict.wire,
            drop: verdict.drop.map(|reason| reason.to_string()),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}
