//! Filters on any combination of fields, beside the kinds that have an index of their own: a hash table for each combination in
//! use (tuple space search), asked in the order in which they win. What a frame costs grows with the combinations, of which
//! there are few, and not with the filters.

use crate::cow_map::CowMap;
use crate::filter_fields::{Combination, FieldWords, MatchFlags};
use crate::filter_spec::FilterMatch;
use crate::rule::Rule;

/// Most combinations of fields that filters look at, besides the kinds: each costs every frame a probe.
pub(crate) const MAX_COMBINATIONS: usize = 16;

/// The filters of one combination.
#[derive(Clone, Debug)]
struct Space {
    combination: Combination,
    filters: CowMap<FieldWords, Rule>,
}

/// Which filters are asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Those of this combination.
    Space(usize),
    /// On one flow.
    Flow,
    /// On the local end of flows.
    Local,
    /// On an address in a VLAN.
    MacVlan,
    /// On an address.
    Mac,
    /// On a type.
    EtherType,
    /// On groups that no other names.
    UnknownMulticast,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spaces {
    /// Those that win first.
    spaces: Vec<Space>,
    /// All kinds of filters, those with an index of their own included.
    turns: Vec<Turn>,
    looks_at_packets: bool,
}

impl Spaces {
    pub(crate) fn is_empty(&self) -> bool {
        self.spaces.is_empty()
    }

    /// Whether a filter looks behind the Ethernet header.
    pub(crate) fn looks_at_packets(&self) -> bool {
        self.looks_at_packets
    }

    /// How many combinations are in use.
    pub(crate) fn len(&self) -> usize {
        self.spaces.len()
    }

    pub(crate) fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// Whether a filter with this match looks at what others look at already.
    pub(crate) fn has_combination(&self, matches: &FilterMatch) -> bool {
        self.position(&matches.combination().0).is_ok()
    }

    fn position(&self, combination: &Combination) -> Result<usize, usize> {
        let spaces = &self.spaces;
        spaces.binary_search_by(|space| space.combination.cmp(combination))
    }

    /// Puts in what is said of frames with this match, or takes it out; whether there was something.
    pub(crate) fn set(&mut self, seed: u64, matches: &FilterMatch, rule: Option<Rule>) -> bool {
        let (combination, words) = matches.combination();
        let at = match self.position(&combination) {
            Ok(at) => at,
            Err(_) if rule.is_none() => return false,
            Err(at) => {
                let filters = CowMap::new(seed);
                let space = Space {
                    combination,
                    filters,
                };
                self.spaces.insert(at, space);
                self.order();
                at
            }
        };
        let Some(space) = self.spaces.get_mut(at) else {
            return false;
        };
        let was = space.filters.put(words, rule);
        if space.filters.is_empty() {
            self.spaces.remove(at);
            self.order();
        }
        was
    }

    fn order(&mut self) {
        let own = [
            (MatchFlags::FULL, Turn::Flow),
            (MatchFlags::LOCAL, Turn::Local),
            (MatchFlags::MAC_VLAN, Turn::MacVlan),
            (MatchFlags::DST_MAC, Turn::Mac),
            (MatchFlags::ETHER_TYPE, Turn::EtherType),
            (MatchFlags::UNKNOWN_MULTICAST, Turn::UnknownMulticast),
        ];
        let own = own.map(|(flags, turn)| (Combination::of_flags(flags), turn));
        let spaces = self.spaces.iter().enumerate();
        let spaces = spaces.map(|(at, space)| (space.combination, Turn::Space(at)));
        let mut all: Vec<_> = own.into_iter().chain(spaces).collect();
        all.sort_by_key(|(combination, _)| *combination);
        self.turns = all.into_iter().map(|(_, turn)| turn).collect();
        let mut spaces = self.spaces.iter();
        self.looks_at_packets = spaces.any(Space::looks_at_packets);
    }

    /// What the filter of one combination says of a frame with these words, which holds an IP packet or does not.
    pub(crate) fn get(&self, at: usize, words: &FieldWords, is_packet: bool) -> Option<Rule> {
        let space = self.spaces.get(at)?;
        if space.looks_at_packets() && !is_packet {
            return None;
        }
        space.filters.get(&words.masked(space.combination.mask()))
    }

    /// What the first filter of them all says.
    pub(crate) fn find(&self, words: &FieldWords, is_packet: bool) -> Option<Rule> {
        let mut all = 0..self.spaces.len();
        all.find_map(|at| self.get(at, words, is_packet))
    }

    /// Whether a filter that looks behind the Ethernet header matches a frame with these words.
    pub(crate) fn meets_packet(&self, words: &FieldWords) -> bool {
        let mut spaces = self.spaces.iter().filter(|space| space.looks_at_packets());
        spaces.any(|space| {
            let words = words.masked(space.combination.mask());
            space.filters.get(&words).is_some()
        })
    }
}

impl Space {
    fn looks_at_packets(&self) -> bool {
        self.combination.flags().intersects(MatchFlags::FLOW)
    }
}
