//! Which VFs have a MAC address: a hash table that is built once for each change of policy and then only read.
//! Open addressing, half empty at most, and a seeded hash, for guests choose addresses. Never allocates while looking up.

use std::hash::Hasher;

use vf_packet::{MacAddr, Vlan};

use crate::cow_map::{Fold, seed};
use crate::vf::VfIndex;

/// No MAC address has these bits: it is 48 bits long.
const EMPTY: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct Slot {
    mac: u64,
    vf: VfIndex,
    vlan: Option<Vlan>,
}

/// A multimap from MAC address (and VLAN) to VF.
#[derive(Clone, Debug)]
pub(crate) struct MacIndex {
    seed: u64,
    slots: Vec<Slot>,
    mask: usize,
}

impl MacIndex {
    /// Entries without a VLAN match in all of them.
    pub(crate) fn new(
        entries: impl Iterator<Item = (MacAddr, Option<Vlan>, VfIndex)> + Clone,
    ) -> MacIndex {
        let size = (entries.clone().count() * 2 + 1).next_power_of_two();
        let empty = Slot {
            mac: EMPTY,
            vf: VfIndex(0),
            vlan: None,
        };
        let mut index = MacIndex {
            seed: seed(),
            slots: vec![empty; size],
            mask: size - 1,
        };
        for (mac, vlan, vf) in entries {
            let mac = mac.to_u64();
            let mut at = index.start(mac);
            while index.slots[at].mac != EMPTY {
                at = (at + 1) & index.mask;
            }
            index.slots[at] = Slot { mac, vf, vlan };
        }
        index
    }

    fn start(&self, mac: u64) -> usize {
        let mut hash = Fold::new(self.seed);
        hash.write_u64(mac);
        hash.finish() as usize & self.mask
    }

    /// Whether a VF has this address, in whichever VLAN.
    pub(crate) fn has(&self, mac: MacAddr) -> bool {
        let mac = mac.to_u64();
        let mut at = self.start(mac);
        while self.slots[at].mac != EMPTY {
            if self.slots[at].mac == mac {
                return true;
            }
            at = (at + 1) & self.mask;
        }
        false
    }

    /// The VFs that have this address in this VLAN; one that has it twice may come twice.
    #[inline]
    pub(crate) fn get(&self, mac: MacAddr, vlan: Vlan) -> impl Iterator<Item = VfIndex> + '_ {
        let mac = mac.to_u64();
        let mut at = self.start(mac);
        std::iter::from_fn(move || {
            loop {
                let slot = &self.slots[at];
                if slot.mac == EMPTY {
                    return None;
                }
                at = (at + 1) & self.mask;
                if slot.mac == mac && slot.vlan.is_none_or(|v| v == vlan) {
                    return Some(slot.vf);
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vf_packet::Vid;

    proptest! {
        #[test]
        fn finds_what_a_list_finds(
            entries in proptest::collection::vec((0u8..12, proptest::option::of(1u16..4), any::<u8>()), 0..40),
            mac in 0u8..12,
            vid in 1u16..4,
        ) {
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(mac, vlan, vf)| {
                    let vlan = vlan.map(|v| Vlan::of_vid(Vid::new(v).unwrap()));
                    (MacAddr([2, 0, 0, 0, 0, mac]), vlan, VfIndex(vf))
                })
                .collect();
            let mac = MacAddr([2, 0, 0, 0, 0, mac]);
            let vlan = Vlan::of_vid(Vid::new(vid).unwrap());
            let mut expected: Vec<_> = entries
                .iter()
                .filter(|e| e.0 == mac && e.1.is_none_or(|v| v == vlan))
                .map(|e| e.2)
                .collect();
            let mut found: Vec<_> = MacIndex::new(entries.iter().copied()).get(mac, vlan).collect();
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
        }
    }
}
