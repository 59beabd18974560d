//! What the mappings of a device's guests take of the address space that all devices of the process share: of those that are used, and of those that
//! have not been given back yet, for which others may have to wait. Counts, and never maps anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::error::MemoryError;

/// Regions one guest memory may have.
pub const MAX_REGIONS: usize = 64;

/// Bytes one guest memory may have: a hostile front end shall not use up our address space.
pub const MAX_TOTAL: u64 = 1 << 40;

/// Bytes that are mapped for a device at most: of one memory, and of one that takes its place.
const MOST: u64 = 2 * MAX_TOTAL;
/// Mappings of one device, likewise, and logs. A process has some 65,000 (`vm.max_map_count`).
const MOST_MAPPINGS: usize = 3 * MAX_REGIONS;
/// When all devices together have so many bytes, which is half of what a process has, each new mapping has to be of one that has little.
const PLENTY: u64 = 64 << 40;
/// What is little: 256 devices with as much find room in half of the rest.
const LITTLE: u64 = 128 << 30;

/// Of all devices.
static ALL: AtomicU64 = AtomicU64::new(0);

/// What is mapped for one device.
#[derive(Debug, Default)]
pub struct AddressSpace {
    bytes: AtomicU64,
    mappings: AtomicUsize,
}

/// A mapping's part of it, as long as it is there.
#[derive(Debug)]
pub(super) struct Part {
    of: Arc<AddressSpace>,
    bytes: u64,
}

impl AddressSpace {
    /// Room for a mapping of so many bytes.
    ///
    /// # Errors
    /// There is none until others have been given back.
    pub(super) fn part(self: &Arc<AddressSpace>, bytes: u64) -> Result<Part, MemoryError> {
        let part = Part {
            of: Arc::clone(self),
            bytes,
        };
        let own = self
            .bytes
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        let mappings = self.mappings.fetch_add(1, Ordering::Relaxed);
        let all = ALL
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        match fits(own, all) && mappings < MOST_MAPPINGS {
            true => Ok(part),
            false => Err(MemoryError::NoRoom),
        }
    }
}

/// Whether a device may have so many bytes, and all of them together so many.
fn fits(own: u64, all: u64) -> bool {
    own <= MOST && (all <= PLENTY || own <= LITTLE)
}

impl Drop for Part {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.of.mappings.fetch_sub(1, Ordering::Relaxed);
        ALL.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_room_for_two_memories_and_for_more_when_one_is_given_back() {
        let device = Arc::default();
        let first = AddressSpace::part(&device, MAX_TOTAL).unwrap();
        let _second = AddressSpace::part(&device, MAX_TOTAL).unwrap();
        let refused = AddressSpace::part(&device, 1);
        assert!(matches!(refused, Err(MemoryError::NoRoom)));
        drop(first);
        let _third = AddressSpace::part(&device, MAX_TOTAL).unwrap();
        // Another one does not feel it.
        AddressSpace::part(&Arc::default(), MAX_TOTAL).unwrap();
        let many = Arc::default();
        let parts: Vec<Part> = (0..MOST_MAPPINGS)
            .map(|_| AddressSpace::part(&many, 4096).unwrap())
            .collect();
        assert!(AddressSpace::part(&many, 4096).is_err());
        drop(parts);
        AddressSpace::part(&many, 4096).unwrap();
    }

    #[test]
    fn who_needs_little_finds_room_whatever_others_have() {
        // The address space of a process, as 256 devices can fill it.
        let room = 1 << 47;
        let (mut all, mut owns) = (0, [0; 256]);
        for bytes in [MAX_TOTAL, LITTLE] {
            for n in 0..4 * owns.len() {
                let own = &mut owns[n % 256];
                if fits(*own + bytes, all + bytes) {
                    (*own, all) = (*own + bytes, all + bytes);
                }
            }
        }
        assert!(owns.iter().all(|own| *own >= LITTLE), "{owns:?}");
        assert!(all < room, "{all}");
    }
}
