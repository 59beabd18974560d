//! Numbers from 0 on that are taken or free, and the lowest that is free: rows of tables. A copy shares them until one of both changes.
//! Knows nothing of what has them.

use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct NumberSet {
    room: usize,
    /// A bit for each that is taken.
    taken: Arc<[u64]>,
    /// No number before it is free.
    lowest: usize,
}

impl NumberSet {
    /// With room for so many, all of them free.
    pub(crate) fn new(room: usize) -> NumberSet {
        NumberSet {
            room,
            taken: vec![0; room.div_ceil(64)].into(),
            lowest: 0,
        }
    }

    pub(crate) fn is_taken(&self, number: u32) -> bool {
        let word = self.taken.get(number as usize / 64);
        word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// The lowest number that is free.
    pub(crate) fn free(&self) -> Option<u32> {
        let words = self.taken.get(self.lowest / 64..)?.iter();
        let mut words = words.zip(self.lowest / 64..);
        let (word, at) = words.find(|(word, _)| **word != u64::MAX)?;
        let free = 64 * at + word.trailing_ones() as usize;
        (free < self.room).then_some(free as u32)
    }

    /// Has a number taken, or free.
    pub(crate) fn set(&mut self, number: u32, taken: bool) {
        if let Some(word) = Arc::make_mut(&mut self.taken).get_mut(number as usize / 64) {
            *word = *word & !(1 << (number % 64)) | u64::from(taken) << (number % 64);
        }
        match taken {
            false => self.lowest = self.lowest.min(number as usize),
            true => self.lowest = self.free().map_or(self.room, |free| free as usize),
        }
    }
}
