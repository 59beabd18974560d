//! Why a frame goes where it goes: the judge itself, asked to note each of its decisions. Never decides anything and never counts
//! anything, so a question changes nothing.

use vf_packet::FrameMeta;

use crate::filter_spec::FilterAction;
use crate::learned::FastKey;
use crate::policy::Policy;
use crate::probe::{Met, Probe, Step};
use crate::rule::Rule;
use crate::source::Source;
use crate::stats::DropReason;
use crate::verdict::{TagEdit, Verdict};
use crate::vf::Path;
use crate::{hypervisor, nic};

/// Who wants to know all of it.
struct Notes<'a> {
    policy: &'a Policy,
    steps: Vec<Step>,
}

impl Probe for Notes<'_> {
    fn note(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }

    fn filter(&mut self, rule: &Rule, met: Met) {
        let action = rule.action;
        let rule = self.policy.filter_table().counted(rule.counter);
        self.steps.push(match met {
            Met::Egress => Step::Egress { action, rule },
            Met::Filter => Step::Filter { action, rule },
            Met::Copied => Step::Copied { action, rule },
            Met::PassedOver => Step::PassedOver { action, rule },
            Met::Driver(vf) if action == FilterAction::Drop => Step::DriverDrops(vf),
            Met::Driver(vf) => Step::DriverTakes(vf),
        });
    }
}

/// What becomes of a frame, and every decision that made it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decisions.
    pub steps: Vec<Step>,
    /// What the judge says.
    pub verdict: Verdict,
}

impl Policy {
    /// What becomes of a frame that begins with `head`, as [`crate::Nic::ingress`] and [`crate::HypervisorModel::ingress`] say it
    /// of frames that pass, and why. Limits on a sender's rate make frames wait and are left out; of those on what is flooded it says which they are,
    /// as if nothing had been flooded of late.
    #[must_use]
    pub fn why(&self, source: Source, head: &[u8], meta: &FrameMeta) -> Explanation {
        let path = match source {
            Source::Vf(vf) => self.vf(vf).path,
            Source::Wire => Path::Direct,
        };
        let mut notes = Notes {
            policy: self,
            steps: vec![Step::Judge { path, source }],
        };
        let mut verdict = self.verdict(source, head, meta, &mut notes);
        let mut steps = notes.steps;
        if let Some(flooded) = self.flooded(source, head, meta, &verdict) {
            let too_much = flooded.is_too_much();
            steps.push(Step::StormControl {
                source,
                limit: flooded.limit,
                frames: flooded.frames,
                too_much,
            });
            if too_much {
                verdict = Verdict {
                    drop: Some(DropReason::StormControl),
                    ..Verdict::default()
                };
            }
        }
        steps.extend(verdict.drop.map(Step::Dropped));
        let tagging = self.tagging(verdict.insert);
        let vfs = verdict.vfs.union(verdict.beyond);
        // Which of the stations, depends on what the bridge has learned.
        let vfs = vfs.difference(self.lookup().stations).iter();
        steps.extend(vfs.map(|vf| Step::Gets {
            vf,
            path: self.vf(vf).path,
            edit: tagging.edit(vf),
        }));
        let vfs = verdict.vfs.union(verdict.beyond).intersection(self.auto());
        let key = FastKey::of_frame(head);
        for vf in vfs.iter() {
            let steered = |step: &Step| matches!(step, Step::Filter { action, .. } if action.vf() == Some(vf));
            let fast = key.is_some_and(|key| self.learned().has(key, vf));
            let fast = source == Source::Wire && (fast || steps.iter().any(steered));
            let fast = fast && !verdict.held;
            steps.push(Step::AutoReceiver { vf, fast });
        }
        if let Source::Vf(vf) = source
            && self.auto().contains(vf)
            && verdict.drop.is_none()
        {
            steps.push(Step::AutoSender(vf));
        }
        if verdict.wire {
            steps.push(Step::Wire(
                verdict.insert.map_or(TagEdit::Keep, TagEdit::Insert),
            ));
        }
        Explanation { steps, verdict }
    }

    /// What the judge of the path says that the frame takes.
    pub(crate) fn verdict(
        &self,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
        probe: &mut impl Probe,
    ) -> Verdict {
        let judged = self.judge_noting(source, head, meta, probe);
        judged.unwrap_or_else(|reason| Verdict {
            drop: Some(reason),
            ..Verdict::default()
        })
    }

    fn judge_noting(
        &self,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
        probe: &mut impl Probe,
    ) -> Result<Verdict, DropReason> {
        let flow = self.flow_actions(source, head).of(head);
        let header = Policy::parse(head)?;
        match source {
            Source::Vf(vf) if self.vf(vf).bridge => {
                let reach = self.reach_from_station(vf, &header, flow, meta, probe)?;
                hypervisor::split(&reach, vf)
            }
            Source::Vf(vf) if self.vf(vf).path == Path::Mediated => {
                let reach = self.reach_from_vf(vf, &header, flow, meta, probe)?;
                hypervisor::split(&reach, vf)
            }
            _ => nic::judge(self, source, &header, flow, meta, probe),
        }
    }
}
