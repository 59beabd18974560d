//! Why a captured frame was dropped, in words: the decision that made it so is asked for again, of the policy by which the frame was
//! judged, in the thread that writes; planes note only the reason. Changes no verdict and counts nothing.

use std::collections::HashMap;
use std::sync::Arc;

use vf_model::{DropReason, Header, Policy, Step};

use super::Captured;

/// Answers that are remembered: a flood of drops is mostly of few flows, and to name a filter takes a look at all of them.
const REMEMBERED: usize = 4096;

/// Rules by the flows that they drop.
#[derive(Default)]
pub(super) struct Rules {
    /// What the answers hold for.
    policy: Option<Arc<Policy>>,
    known: HashMap<String, String>,
}

impl Rules {
    /// What made the drop of a frame, in a sentence.
    pub(super) fn why(&mut self, frame: &Captured, reason: DropReason) -> String {
        let Some(policy) = &frame.policy else {
            return reason.says().to_owned();
        };
        if !self
            .policy
            .as_ref()
            .is_some_and(|last| Arc::ptr_eq(last, policy))
        {
            self.policy = Some(Arc::clone(policy));
            self.known.clear();
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let key = key(frame);
        let why = self.known.entry(key).or_insert_with(|| {
            rule(policy, frame, reason).unwrap_or_else(|| reason.says().to_owned())
        });
        why.clone()
    }
}

/// What frames that are judged alike have in common.
fn key(frame: &Captured) -> String {
    let head = frame.frame.head();
    let header = Header::parse(head).ok();
    let flow = header.as_ref().and_then(|header| header.flow(head));
    format!(
        "{:?} {header:?} {flow:?} {:?}",
        frame.source(),
        frame.meta()
    )
}

/// The last decision before the drop.
fn rule(policy: &Policy, frame: &Captured, reason: DropReason) -> Option<String> {
    let why = policy.why(frame.source()?, frame.frame.head(), &frame.meta());
    let mut steps = why.steps.iter().rev();
    steps.find(|step| matches!(step, Step::Dropped(why) if *why == reason))?;
    let step = steps.next()?;
    let decides = !matches!(
        step,
        Step::Judge { .. } | Step::InVlan(_) | Step::PortVlan { .. }
    );
    decides.then(|| step.to_string())
}
