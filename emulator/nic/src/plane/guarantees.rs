//! What is guaranteed to VFs, kept by the hypervisor: a vif that has had less than that lately goes before the others, whatever
//! its CPU has time for. Never holds a frame back.

use vf_model::{Mbps, Nanos, Policy, TokenBucket, VfIndex, VfSet};

/// See the module.
#[derive(Default)]
pub(super) struct Guarantees {
    /// By VF: its guaranteed rate, and what of it has been made use of.
    of: Vec<Option<(Mbps, TokenBucket)>>,
    /// VFs that have one.
    vfs: VfSet,
}

impl Guarantees {
    /// Keeps what this policy guarantees to VFs on the mediated path from now on.
    pub(super) fn adopt(&mut self, policy: &Policy) {
        let vfs = (0..policy.vf_count()).map(VfIndex::from);
        self.of.resize_with(policy.vf_count(), || None);
        for (vf, of) in vfs.zip(&mut self.of) {
            let rate = policy.vf(vf).min_tx_rate;
            let rate = rate.filter(|_| policy.mediated().contains(vf));
            if of.as_ref().map(|(rate, _)| *rate) != rate {
                *of = rate.map(|rate| (rate, TokenBucket::new(rate)));
            }
            match of {
                Some(_) => self.vfs.insert(vf),
                None => self.vfs.remove(vf),
            }
        }
    }

    /// VFs that have had less than is guaranteed to them.
    #[inline]
    pub(super) fn due(&self, now: Nanos) -> VfSet {
        if self.vfs.is_empty() {
            return VfSet::default();
        }
        let due = |vf: &VfIndex| self.bucket(*vf).is_some_and(|b| b.ready_at() <= now);
        self.vfs.iter().filter(due).collect()
    }

    fn bucket(&self, vf: VfIndex) -> Option<&TokenBucket> {
        let of = self.of.get(vf.index())?.as_ref();
        of.map(|(_, bucket)| bucket)
    }

    /// A frame of a VF was taken since it was due: it has had so many byte times of what is guaranteed. What it gets beside that is
    /// not held against it.
    pub(super) fn take(&mut self, now: Nanos, vf: VfIndex, wire_bytes: u64) {
        if let Some(Some((_, bucket))) = self.of.get_mut(vf.index()) {
            bucket.take(now, wire_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use vf_model::{Command, MacAddr, NicConfig, Profile};

    use super::*;

    #[test]
    fn a_vf_is_due_until_it_has_had_its_rate_and_only_on_the_mediated_path() {
        let mut policy = Policy::new(NicConfig {
            vfs: 3,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: Profile::Generic,
        });
        for words in [
            "vf 1 set min_tx_rate 1000 path mediated",
            "vf 2 set min_tx_rate 1000",
        ] {
            let words: Vec<_> = words.split(' ').collect();
            policy = policy.with(&Command::parse(&words).unwrap()).unwrap();
        }
        let mut guarantees = Guarantees::default();
        assert!(guarantees.due(Nanos(0)).is_empty());
        guarantees.adopt(&policy);
        let mut taken = 0;
        for now in (0..100_000_000).step_by(1000).map(Nanos) {
            let due = guarantees.due(now);
            assert_eq!(due.difference([VfIndex(1)].into_iter().collect()).len(), 0);
            if due.contains(VfIndex(1)) {
                guarantees.take(now, VfIndex(1), 1538);
                taken += 1538;
            }
        }
        // 100 ms at 1000 Mb/s, and the bucket of a millisecond.
        let guaranteed = 12_500_000 + 125_000;
        assert!(
            (guaranteed..guaranteed + 2 * 1538).contains(&taken),
            "{taken}"
        );
        // The same policy again is no new guarantee.
        guarantees.adopt(&policy);
        assert!(guarantees.due(Nanos(100_000_000)).is_empty());
    }
}
