//! Verdicts that were given before, by where a frame comes from, its whole Ethernet header, and what filters on flows say of
//! it: all that a verdict depends on while the policy is the same but for filters on flows, up to the length that an MTU sets. Direct-mapped and of a fixed size:
//! what collides is judged again. Holds the verdicts on frames that somebody gets, never drops.

use crate::hits::KeptHits;
use crate::source::Source;
use crate::verdict::{Again, Hop, Verdict};

/// A power of two.
const SLOTS: usize = 4096;
/// Where the epoch begins in a key's last word; sources and actions lie below.
const EPOCH_SHIFT: u32 = 36;
const MAX_EPOCH: u64 = 1 << (64 - EPOCH_SHIFT - 1);

/// A frame's source and Ethernet header, as far as two tags, and what filters on its flow say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkKey {
    addresses: [u64; 2],
    tags: u64,
    source: u64,
}

/// Verdicts are kept as they are given: to put one together costs more than to copy it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Slot {
    key: LinkKey,
    hop: Option<Hop>,
    /// Length of the longest frame of which it is said.
    longest: u32,
    verdict: Verdict,
    /// The filters that have decided so.
    hits: KeptHits,
}

/// The last way that was asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    key: LinkKey,
    hop: Option<Hop>,
    longest: u32,
    hits: KeptHits,
}

/// The cache; empty slots have the key of a frame from nowhere.
#[derive(Clone, Debug)]
pub(crate) struct VerdictCache {
    slots: Vec<Slot>,
    /// Part of every key: what was kept in an earlier one is not found.
    epoch: u64,
    /// The last that was asked for its hop: frames come in trains.
    last: Last,
}

impl LinkKey {
    #[inline]
    fn new(source: Source, flow: u64, lane: u16, head: &[u8]) -> Option<LinkKey> {
        let word = |at: usize| {
            let bytes = head.get(at..)?.first_chunk()?;
            Some(u64::from_le_bytes(*bytes))
        };
        let [dst, src] = [word(0)?, word(8)?];
        let tags = match is_tag(src >> 32) {
            false => 0,
            // The type behind one tag ends at byte 18, behind two at byte 22.
            true => word(14).map(|tags| match is_tag(tags >> 16) {
                true => tags,
                false => tags & 0xffff_ffff,
            })?,
        };
        Some(LinkKey {
            addresses: [dst, src & 0xffff_ffff_ffff | u64::from(lane) << 48],
            tags,
            source: match source {
                Source::Vf(vf) => 1 << 8 | u64::from(vf.0),
                Source::Wire => 2 << 8,
            } | flow << 16,
        })
    }

    #[inline]
    fn slot(&self) -> usize {
        let [a, b] = self.addresses;
        let mixed = (a ^ self.source.rotate_left(48)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ (b ^ self.tags << 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed >> 32) as usize % SLOTS
    }
}

/// Whether the low 16 bits are a tag's TPID as it lies in memory.
#[inline]
fn is_tag(tpid: u64) -> bool {
    vf_packet::is_vlan_tpid((tpid as u16).swap_bytes())
}

impl VerdictCache {
    pub(crate) fn new() -> VerdictCache {
        VerdictCache {
            slots: vec![Slot::default(); SLOTS],
            epoch: 0,
            last: Last::default(),
        }
    }

    /// Forgets everything. Takes no time, and is done whenever a filter is set.
    pub(crate) fn clear(&mut self) {
        self.epoch += 1 << EPOCH_SHIFT;
        if self.epoch >> EPOCH_SHIFT >= MAX_EPOCH {
            *self = VerdictCache::new();
        }
    }

    /// The key of a frame with these first bytes; `None` if they are too few to tell. `flow` is the code of what filters say of it,
    /// `lane` what path `auto` knows of its way.
    #[inline]
    pub(crate) fn key(&self, source: Source, flow: u64, lane: u16, head: &[u8]) -> Option<LinkKey> {
        LinkKey::new(source, flow, lane, head).map(|key| LinkKey {
            source: key.source | self.epoch,
            ..key
        })
    }

    /// Where a frame of this length goes that has one receiver.
    #[inline]
    pub(crate) fn hop(&mut self, key: &LinkKey, len: u32) -> Option<Again> {
        let repeated = self.last.key == *key;
        if !repeated {
            let slot = self.slots.get(key.slot()).filter(|slot| slot.key == *key)?;
            self.last = Last {
                key: *key,
                hop: slot.hop,
                longest: slot.longest,
                hits: slot.hits,
            };
        }
        let Last { hop, longest, .. } = self.last;
        let hop = hop.filter(|_| len <= longest)?;
        Some(Again { hop, repeated })
    }

    /// The filters that have decided on the way that was found last.
    #[inline]
    pub(crate) fn hits(&self) -> &KeptHits {
        &self.last.hits
    }

    #[inline]
    pub(crate) fn get(&self, key: &LinkKey, len: u32) -> Option<(&Verdict, &KeptHits)> {
        let slot = self.slots.get(key.slot()).filter(|slot| slot.key == *key)?;
        (len <= slot.longest).then_some((&slot.verdict, &slot.hits))
    }

    /// Keeps a verdict on frames up to this length, if it is of the kind that is kept. Those to groups have no hop, by which a storm
    /// would get past its limit.
    pub(crate) fn put(&mut self, key: LinkKey, verdict: &Verdict, longest: u32, hits: KeptHits) {
        if verdict.drop.is_some() {
            return;
        }
        let to_group = key.addresses[0] & 1 == 1;
        if let Some(slot) = self.slots.get_mut(key.slot()) {
            *slot = Slot {
                key,
                hop: verdict.hop().filter(|_| !to_group),
                longest,
                verdict: *verdict,
                hits,
            };
        }
    }
}
