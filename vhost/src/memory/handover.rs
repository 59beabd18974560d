//! Guest memory as another process can map it again: where its regions are, and the files behind them. Maps nothing itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AddressSpace, GuestMemory, Mapping, RegionSpec};
use crate::error::MemoryError;

/// A region, and how often it was added.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedRegion {
    spec: RegionSpec,
    claims: u32,
}

impl GuestMemory {
    /// The regions, whose files are added to `files` in their order.
    pub(crate) fn save<'a>(&'a self, files: &mut Vec<BorrowedFd<'a>>) -> Vec<SavedRegion> {
        let regions = self.regions.iter().filter_map(|region| {
            let (file, mmap_offset) = region.mapping.file()?;
            files.push(file);
            let spec = RegionSpec {
                guest_addr: region.guest_addr,
                size: region.size,
                user_addr: region.user_addr,
                mmap_offset,
            };
            let claims = region.claims;
            Some(SavedRegion { spec, claims })
        });
        regions.collect()
    }

    /// Maps them again, with the same checks as what a front end shares.
    pub(crate) fn restore(
        space: &Arc<AddressSpace>,
        saved: Vec<(SavedRegion, OwnedFd)>,
    ) -> Result<Arc<GuestMemory>, MemoryError> {
        // By guest address, which `map` keeps them in.
        let claims: Vec<u32> = saved.iter().map(|(region, _)| region.claims).collect();
        let specs = saved.into_iter().map(|(region, file)| (region.spec, file));
        let mapped = GuestMemory::map_in(space, specs.collect())?;
        let mut regions = mapped.regions.clone();
        for (region, claims) in regions.iter_mut().zip(claims) {
            region.claims = claims;
        }
        Ok(mapped.with(regions))
    }
}

impl Mapping {
    /// Its file, and where it starts there.
    pub(super) fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        let file = self.mmap.file_offset()?;
        Some((
            file.file().as_fd(),
            file.start().saturating_add(self.lead as u64),
        ))
    }
}
