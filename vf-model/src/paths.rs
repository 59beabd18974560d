//! Both paths asked about one frame: whom the NIC gives it to and whom the hypervisor, by one policy. The golden rule is that they say
//! the same, and `vfnic check paths` looks whether that holds of frames that pass. Has nothing of its own to judge with: it asks the
//! judges. Counts nothing.

use std::fmt;

use vf_packet::FrameMeta;

use crate::command::Command;
use crate::policy::Policy;
use crate::probe::edited;
use crate::refusal::Refusal;
use crate::source::Source;
use crate::stats::DropReason;
use crate::verdict::{TagEdit, Verdict};
use crate::vf::{Path, VfIndex, VfSetting};
use crate::why::Explanation;

/// Whom a frame is given to and how each copy differs from what was sent: all of a verdict that a path must not change. Stations on the
/// bridge on the PF are left out, as the bridge says which of them get a frame by what it has learned, which is no part of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receivers {
    /// VFs here.
    pub vfs: Vec<(VfIndex, TagEdit)>,
    /// Whoever is beyond the wire.
    pub wire: Option<TagEdit>,
    /// Why nobody gets it, if nobody does.
    pub drop: Option<DropReason>,
}

impl Receivers {
    /// What a verdict by this policy says of them, on whichever side of the PF they are.
    #[must_use]
    pub fn of(policy: &Policy, verdict: &Verdict) -> Receivers {
        let stations = policy.lookup().stations;
        let tagging = policy.tagging(verdict.insert);
        let vfs = verdict.vfs.union(verdict.beyond).difference(stations);
        let on_wire = verdict.insert.map_or(TagEdit::Keep, TagEdit::Insert);
        Receivers {
            vfs: vfs.iter().map(|vf| (vf, tagging.edit(vf))).collect(),
            wire: (verdict.wire || verdict.wire_beyond).then_some(on_wire),
            drop: verdict.drop.filter(|_| stations.is_empty()),
        }
    }
}

impl fmt::Display for Receivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vfs = self.vfs.iter();
        let vfs = vfs.map(|(vf, edit)| format!("{vf} {}", edited(*edit)));
        let wire = self.wire.map(|edit| format!("the wire {}", edited(edit)));
        let all: Vec<_> = vfs.chain(wire).collect();
        match (all.is_empty(), self.drop) {
            (false, _) => f.write_str(&all.join(", ")),
            (true, Some(reason)) => write!(f, "nobody ({reason})"),
            (true, None) => f.write_str("nobody"),
        }
    }
}

/// A policy as it would be if all VFs took one path, and all took the other. What else it says is the same.
#[derive(Clone, Debug)]
pub struct BothPaths {
    direct: Policy,
    mediated: Policy,
}

impl BothPaths {
    /// Of this policy. Stations on the bridge on the PF stay there: they have one path only.
    ///
    /// # Errors
    /// [`Refusal`] of a path, which is a bug of ours.
    pub fn of(policy: &Policy) -> Result<BothPaths, Refusal> {
        let on = |path| {
            let vfs = (0..policy.vf_count()).map(VfIndex::from);
            let commands: Vec<_> = vfs
                .filter(|vf| !policy.vf(*vf).bridge)
                .map(|vf| Command::SetVf {
                    vfs: vf.into(),
                    settings: vec![VfSetting::Path(path)],
                })
                .collect();
            policy.with_all(&commands).map_err(|refused| refused.why)
        };
        Ok(BothPaths {
            direct: on(Path::Direct)?,
            mediated: on(Path::Mediated)?,
        })
    }

    /// How they differ over a frame, if they do; `said` is what a plane has said of it, which has to be what both say. Arguments as for
    /// [`Policy::why`].
    #[must_use]
    pub fn difference(
        &self,
        source: Source,
        head: &[u8],
        meta: &FrameMeta,
        said: Option<&Verdict>,
    ) -> Option<PathDifference> {
        let by = |policy: &Policy| policy.verdict(source, head, meta, &mut ());
        let (direct, mediated) = (by(&self.direct), by(&self.mediated));
        // What storm control drops it drops for what came before, which is no part of a policy.
        let is_storm = |said: &&Verdict| {
            said.drop == Some(DropReason::StormControl)
                && self.direct.flooded(source, head, meta, &direct).is_some()
        };
        let said = said.filter(|said| !is_storm(said));
        let said = said.map(|said| Receivers::of(&self.direct, said));
        let direct = Receivers::of(&self.direct, &direct);
        let mediated = Receivers::of(&self.mediated, &mediated);
        let same = direct == mediated && said.as_ref().is_none_or(|said| *said == direct);
        (!same).then(|| PathDifference {
            said,
            direct: (direct, self.direct.why(source, head, meta)),
            mediated: (mediated, self.mediated.why(source, head, meta)),
        })
    }
}

/// A frame on which the paths, or what a plane has said and what the paths say, do not agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathDifference {
    /// What the plane has said that had the frame.
    pub said: Option<Receivers>,
    /// What the NIC says, and why.
    pub direct: (Receivers, Explanation),
    /// What the hypervisor says, and why.
    pub mediated: (Receivers, Explanation),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NicConfig;
    use crate::profile::Profile;
    use crate::vf::VfSet;
    use vf_packet::MacAddr;

    const BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x10]);

    fn policy(commands: &[&str]) -> Policy {
        let policy = Policy::new(NicConfig {
            vfs: 4,
            mac_base: BASE,
            profile: Profile::Generic,
        });
        let commands = commands.iter().map(|words| {
            let words: Vec<_> = words.split(' ').collect();
            Command::parse(&words).unwrap()
        });
        policy.with_all(&commands.collect::<Vec<_>>()).unwrap()
    }

    fn frame(to: u32, from: u32) -> Vec<u8> {
        let mut frame = [BASE.offset(to).0, BASE.offset(from).0].concat();
        frame.extend([0x88, 0xb5]);
        frame.resize(60, 0);
        frame
    }

    const META: FrameMeta = FrameMeta { len: 60, gso: None };

    #[test]
    fn both_paths_of_a_policy_agree_and_a_plane_that_says_otherwise_is_found_out() {
        let policy = policy(&[
            "vf 1 set vlan 7",
            "vf 3 set bridge on",
            "vf 2 set path mediated",
        ]);
        let both = BothPaths::of(&policy).unwrap();
        let tag = [0x81, 0, 0, 7];
        let sent = frame(1, 0);
        let in_vlan = [&sent[..12], &tag, &sent[12..]].concat();
        for (source, head) in [
            (Source::Vf(VfIndex(0)), &sent),
            (Source::Vf(VfIndex(0)), &in_vlan),
            (Source::Vf(VfIndex(1)), &frame(0, 1)),
            (Source::Vf(VfIndex(2)), &frame(99, 1)),
            (Source::Wire, &in_vlan),
            (Source::Wire, &frame(99, 99)),
        ] {
            let said = policy.why(source, head, &META).verdict;
            assert_eq!(both.difference(source, head, &META, Some(&said)), None);
        }
        // What a plane that had not heard of the VLAN would say, one that forgot the tag, and one that sent it everywhere.
        let said = policy.why(Source::Wire, &in_vlan, &META).verdict;
        assert_eq!(
            Receivers::of(&policy, &said).to_string(),
            "vf1 without its outer tag"
        );
        let wrong = [
            Verdict {
                vfs: VfSet::default(),
                beyond: VfSet::default(),
                drop: Some(DropReason::NoReceiver),
                ..said
            },
            Verdict { wire: true, ..said },
            Verdict {
                vfs: [VfIndex(2)].into_iter().collect(),
                ..said
            },
        ];
        for wrong in wrong {
            let found = both.difference(Source::Wire, &in_vlan, &META, Some(&wrong));
            let found = found.unwrap();
            assert_eq!(found.said, Some(Receivers::of(&policy, &wrong)));
            assert_eq!(found.direct.0, found.mediated.0);
            assert_eq!(found.direct.0, Receivers::of(&policy, &said));
            assert!(!found.direct.1.steps.is_empty() && !found.mediated.1.steps.is_empty());
        }
    }

    /// It depends on how many there were before, so a frame that it drops is no difference where it looks at such frames.
    #[test]
    fn what_storm_control_has_dropped_is_no_difference() {
        let policy = policy(&["vf 0 set storm_control 1000"]);
        let both = BothPaths::of(&policy).unwrap();
        let dropped = Verdict {
            drop: Some(DropReason::StormControl),
            ..Verdict::default()
        };
        let broadcast = [&[0xff; 6], &frame(1, 0)[6..]].concat();
        for (vf, head, differs) in [
            (VfIndex(0), &broadcast, false),
            (VfIndex(0), &frame(1, 0), true),
        ] {
            let found = both.difference(Source::Vf(vf), head, &META, Some(&dropped));
            assert_eq!(found.is_some(), differs);
        }
    }

    #[test]
    fn receivers_are_said_in_words() {
        let policy = policy(&["vf 0 set vlan 7 qos 3"]);
        let said = |source, head: &[u8]| {
            let verdict = policy.why(source, head, &META).verdict;
            Receivers::of(&policy, &verdict).to_string()
        };
        assert_eq!(
            said(Source::Vf(VfIndex(0)), &frame(99, 0)),
            "the wire with the tag 0x8100 vlan 7 prio 3 in front"
        );
        assert_eq!(
            said(Source::Vf(VfIndex(1)), &frame(2, 1)),
            "vf2 as it was sent"
        );
        assert_eq!(
            said(Source::Vf(VfIndex(1)), &frame(2, 99)),
            "nobody (spoofed_mac)"
        );
    }
}
