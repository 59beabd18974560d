//! Guest memory: the regions a front end shared, mapped and checked.
//!
//! A [`GuestMemory`] never changes: adding or removing a region makes a new one that shares the
//! mappings of the old. Whoever uses memory holds an `Arc` of it, so nothing is unmapped under a
//! reader. Every access is bounds-checked and inside one region: to read, a [`GuestSlice`], to write, a [`GuestSliceMut`],
//! which is the one writer and marks the [`DirtyLog`]. No Rust reference into guest memory exists anywhere. Files are
//! measured before they are mapped, and a file that shrinks later is caught by the SIGBUS guard ([`GuestMemory::faulted`]).

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the sizes of rings, regions and frames"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]
#![expect(clippy::indexing_slicing, reason = "bounds are checked just before")]

mod address_space;
mod dirty_log;
mod handover;
mod slice;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use self::address_space::Part;
pub use self::address_space::{AddressSpace, MAX_REGIONS, MAX_TOTAL};
pub(crate) use self::dirty_log::SavedLog;
pub use self::dirty_log::{DirtyLog, LOG_PAGE};
pub(crate) use self::handover::SavedRegion;
pub(crate) use self::slice::UnmarkedSlice;
pub use self::slice::{GuestSlice, GuestSliceMut};
use crate::error::{MemoryError, RingError};
use crate::raw::core_dump;
use crate::raw::sigbus::{Guard, any_faulted};

const HUGETLBFS: u64 = 0x9584_58f6;

/// One region as a front end describes it (vhost-user "Memory region description").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionSpec {
    /// First guest physical address.
    pub guest_addr: u64,
    /// Bytes.
    pub size: u64,
    /// First address in the front end's own address space; ring addresses are given in it.
    pub user_addr: u64,
    /// Where the region starts in the file.
    pub mmap_offset: u64,
}

/// A mapped file range. The guard comes first: it must go before the mapping does.
#[derive(Debug)]
struct Mapping {
    guard: Guard,
    mmap: MmapRegion<()>,
    /// Where the region starts in `mmap`, which starts on a page boundary.
    lead: usize,
    shrinkable: bool,
    _part: Part,
}

#[derive(Debug, Clone)]
struct Region {
    guest_addr: u64,
    size: u64,
    user_addr: u64,
    mapping: Arc<Mapping>,
    /// How often it was added: QEMU before 8.0 adds and removes each region once for every queue pair.
    claims: u32,
}

/// An immutable set of mapped regions, sorted by guest address.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: Vec<Region>,
    log: Option<Arc<DirtyLog>>,
    /// What it and those that are made of it take is counted there.
    space: Arc<AddressSpace>,
}

impl GuestMemory {
    /// Maps `regions`, all or none. An empty set is a memory without any address.
    ///
    /// # Errors
    /// A region that is empty, wraps, overlaps another or is longer than its file; too many of
    /// them; or the kernel refuses.
    pub fn map(regions: Vec<(RegionSpec, OwnedFd)>) -> Result<Arc<GuestMemory>, MemoryError> {
        GuestMemory::map_in(&Arc::default(), regions)
    }

    /// The same for a device for which this is mapped already.
    ///
    /// # Errors
    /// As of [`GuestMemory::map`]; or that is too much.
    pub(crate) fn map_in(
        space: &Arc<AddressSpace>,
        regions: Vec<(RegionSpec, OwnedFd)>,
    ) -> Result<Arc<GuestMemory>, MemoryError> {
        check_layout(
            regions
                .iter()
                .map(|(spec, _)| (spec.guest_addr, spec.user_addr, spec.size)),
        )?;
        let mut mapped = Vec::with_capacity(regions.len());
        for (spec, fd) in regions {
            mapped.push(Region::map(space, spec, fd)?);
        }
        mapped.sort_by_key(|region| region.guest_addr);
        Ok(Arc::new(GuestMemory {
            regions: mapped,
            log: None,
            space: Arc::clone(space),
        }))
    }

    /// No memory yet, of a device for which this is mapped.
    #[must_use]
    pub fn none(space: &Arc<AddressSpace>) -> Arc<GuestMemory> {
        Arc::new(GuestMemory {
            regions: Vec::new(),
            log: None,
            space: Arc::clone(space),
        })
    }

    /// Memory of our own, at guest address 0, and the file by which others may map it, which can neither shrink nor grow.
    ///
    /// # Errors
    /// As for [`GuestMemory::map`].
    pub fn of_our_own(size: u64) -> Result<(Arc<GuestMemory>, OwnedFd), MemoryError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("doorbells", flags)?;
        rustix::fs::ftruncate(&file, size)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        let spec = RegionSpec {
            guest_addr: 0,
            size,
            user_addr: 0,
            mmap_offset: 0,
        };
        let mapped = rustix::io::fcntl_dupfd_cloexec(&file, 3)?;
        Ok((GuestMemory::map(vec![(spec, mapped)])?, file))
    }

    /// The same memory and one region more (vhost-user ADD_MEM_REG). A region that is there already, addresses and size
    /// alike, stays what it is and has to be removed once more.
    ///
    /// # Errors
    /// As for [`GuestMemory::map`].
    pub fn with_region(
        &self,
        spec: RegionSpec,
        fd: OwnedFd,
    ) -> Result<Arc<GuestMemory>, MemoryError> {
        let mut regions = self.regions.clone();
        if let Some(known) = self.find(&spec) {
            regions[known].claims = regions[known].claims.saturating_add(1);
            return Ok(self.with(regions));
        }
        let present = regions.iter().map(|r| (r.guest_addr, r.user_addr, r.size));
        check_layout(present.chain([(spec.guest_addr, spec.user_addr, spec.size)]))?;
        regions.push(Region::map(&self.space, spec, fd)?);
        regions.sort_by_key(|region| region.guest_addr);
        Ok(self.with(regions))
    }

    /// The same memory without the region of these addresses and size (vhost-user REM_MEM_REG), once it was removed as
    /// often as it was added.
    ///
    /// # Errors
    /// There is no such region.
    pub fn without_region(&self, spec: &RegionSpec) -> Result<Arc<GuestMemory>, MemoryError> {
        let known = self.find(spec).ok_or(MemoryError::NoSuchRegion)?;
        let mut regions = self.regions.clone();
        if regions[known].claims > 1 {
            regions[known].claims -= 1;
        } else {
            regions.remove(known);
        }
        Ok(self.with(regions))
    }

    fn with(&self, regions: Vec<Region>) -> Arc<GuestMemory> {
        Arc::new(GuestMemory {
            regions,
            log: self.log.clone(),
            space: Arc::clone(&self.space),
        })
    }

    /// The same memory, in which every write of the device is marked in `log` from now on, or in none.
    pub fn with_log(&self, log: Option<Arc<DirtyLog>>) -> Arc<GuestMemory> {
        Arc::new(GuestMemory {
            regions: self.regions.clone(),
            log,
            space: Arc::clone(&self.space),
        })
    }

    fn find(&self, spec: &RegionSpec) -> Option<usize> {
        self.regions.iter().position(|r| {
            (r.guest_addr, r.user_addr, r.size) == (spec.guest_addr, spec.user_addr, spec.size)
        })
    }

    /// The `len` bytes at guest address `gpa`, if one region holds them all.
    pub fn slice(&self, gpa: u64, len: usize) -> Option<GuestSlice<'_>> {
        self.slice_hint(gpa, len, &mut 0)
    }

    /// As [`GuestMemory::slice`], trying the region `hint` first and leaving there the one found.
    #[inline]
    pub fn slice_hint(&self, gpa: u64, len: usize, hint: &mut usize) -> Option<GuestSlice<'_>> {
        self.find_slice(gpa, len, hint).map(GuestSlice)
    }

    /// As [`GuestMemory::slice`], to be written.
    pub fn slice_mut(&self, gpa: u64, len: usize) -> Option<GuestSliceMut<'_>> {
        self.slice_mut_hint(gpa, len, &mut 0)
    }

    /// As [`GuestMemory::slice_hint`], to be written.
    #[inline]
    pub fn slice_mut_hint(
        &self,
        gpa: u64,
        len: usize,
        hint: &mut usize,
    ) -> Option<GuestSliceMut<'_>> {
        let slice = self.find_slice(gpa, len, hint)?;
        let log = self.log.as_deref();
        Some(GuestSliceMut { slice, gpa, log })
    }

    #[inline]
    fn find_slice(&self, gpa: u64, len: usize, hint: &mut usize) -> Option<VolatileSlice<'_, ()>> {
        let hinted = self.regions.get(*hint);
        if let Some(slice) = hinted.and_then(|region| region.slice(gpa, len)) {
            return Some(slice);
        }
        *hint = self.region_of(gpa, *hint)?;
        self.regions.get(*hint)?.slice(gpa, len)
    }

    /// A look into region `hint`, and from there into others.
    #[inline]
    pub(crate) fn window(&self, hint: usize) -> Window<'_> {
        let mut window = Window {
            memory: self,
            log: self.log.as_deref(),
            region: hint,
            base: 0,
            slice: None,
        };
        window.open(hint);
        window
    }

    /// The index of the region that holds guest address `gpa`, trying `hint` first.
    #[inline]
    pub fn region_of(&self, gpa: u64, hint: usize) -> Option<usize> {
        if self
            .regions
            .get(hint)
            .is_some_and(|region| region.holds(gpa))
        {
            return Some(hint);
        }
        let after = self
            .regions
            .partition_point(|region| region.guest_addr <= gpa);
        let at = after.checked_sub(1)?;
        self.regions.get(at)?.holds(gpa).then_some(at)
    }

    /// Finds the `len` bytes at `gpa` once and for all, if one region holds them.
    pub(crate) fn pin(&self, gpa: u64, len: usize) -> Option<Pinned> {
        let region = self.regions.get(self.region_of(gpa, 0)?)?;
        region.slice(gpa, len)?;
        Some(Pinned {
            mapping: Arc::clone(&region.mapping),
            offset: region.mapping.lead + (gpa - region.guest_addr) as usize,
            len,
            gpa,
        })
    }

    /// How many bytes there are from guest address `gpa` to the end of its region.
    pub fn bytes_from(&self, gpa: u64) -> Option<u64> {
        let region = self.regions.get(self.region_of(gpa, 0)?)?;
        Some(region.size - (gpa - region.guest_addr))
    }

    /// The guest address of the `len` bytes at a front-end address, if one region holds them all.
    pub fn user_to_guest(&self, user_addr: u64, len: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = user_addr.checked_sub(region.user_addr)?;
            let fits = offset < region.size && len <= region.size - offset;
            fits.then(|| region.guest_addr + offset)
        })
    }

    /// Bytes of all regions.
    pub fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.size).sum()
    }

    /// How many regions there are.
    pub fn regions(&self) -> usize {
        self.regions.len()
    }

    /// A page of a region has vanished, and the whole region reads as zeros since: what the rings say is no
    /// longer what the guest wrote, so they must stop; or one of the log, so that what is written is not known to all who
    /// have to know. To be asked once a burst, before anything is taken.
    #[inline]
    pub fn faulted(&self) -> bool {
        any_faulted() && self.has_faulted()
    }

    #[cold]
    fn has_faulted(&self) -> bool {
        let mut regions = self.regions.iter();
        regions.any(|region| region.mapping.guard.faulted())
            || self.log.as_ref().is_some_and(|log| log.faulted())
    }

    /// Some file behind a region is not sealed against shrinking (`F_SEAL_SHRINK`).
    pub fn may_shrink(&self) -> bool {
        self.regions.iter().any(|region| region.mapping.shrinkable)
    }
}

/// Guest memory that is looked at in every round, a part of a ring: nothing but its mapping is looked at on the way.
#[derive(Debug)]
pub(crate) struct Pinned {
    mapping: Arc<Mapping>,
    offset: usize,
    len: usize,
    gpa: u64,
}

impl Pinned {
    /// The guest address.
    pub(crate) fn gpa(&self) -> u64 {
        self.gpa
    }

    /// What was pinned; it is there as long as this is.
    #[inline]
    pub(crate) fn slice(&self) -> Result<GuestSlice<'_>, RingError> {
        self.get().map(GuestSlice)
    }

    /// The same, to be written, in the memory that it was found in: a part of a ring is smaller without a log of its own.
    #[inline]
    pub(crate) fn slice_mut<'a>(
        &'a self,
        memory: &'a GuestMemory,
    ) -> Result<GuestSliceMut<'a>, RingError> {
        let (slice, gpa) = (self.get()?, self.gpa);
        let log = memory.log.as_deref();
        Ok(GuestSliceMut { slice, gpa, log })
    }

    #[inline]
    fn get(&self) -> Result<VolatileSlice<'_, ()>, RingError> {
        let slice = self.mapping.mmap.get_slice(self.offset, self.len);
        slice.map_err(|_| RingError::RingOutside)
    }
}

/// A region that is looked into again and again: found once, then a check of bounds is all that is left of a look.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    memory: &'a GuestMemory,
    log: Option<&'a DirtyLog>,
    region: usize,
    base: u64,
    slice: Option<VolatileSlice<'a, ()>>,
}

impl<'a> Window<'a> {
    /// As [`GuestMemory::slice`].
    #[inline]
    pub(crate) fn slice(&mut self, gpa: u64, len: usize) -> Option<GuestSlice<'a>> {
        self.get(gpa, len).map(GuestSlice)
    }

    /// As [`GuestMemory::slice_mut`].
    #[inline]
    pub(crate) fn slice_mut(&mut self, gpa: u64, len: usize) -> Option<GuestSliceMut<'a>> {
        let (slice, log) = (self.get(gpa, len)?, self.log);
        Some(GuestSliceMut { slice, gpa, log })
    }

    #[inline]
    fn get(&mut self, gpa: u64, len: usize) -> Option<VolatileSlice<'a, ()>> {
        let offset = gpa.wrapping_sub(self.base) as usize;
        match self.slice.map(|slice| slice.subslice(offset, len)) {
            Some(Ok(slice)) => Some(slice),
            _ => self.slice_elsewhere(gpa, len),
        }
    }

    #[cold]
    fn slice_elsewhere(&mut self, gpa: u64, len: usize) -> Option<VolatileSlice<'a, ()>> {
        let at = self.memory.region_of(gpa, self.region)?;
        self.open(at);
        self.slice?
            .subslice(gpa.checked_sub(self.base)? as usize, len)
            .ok()
    }

    #[inline]
    fn open(&mut self, at: usize) {
        let region = self.memory.regions.get(at);
        self.region = at;
        self.base = region.map_or(0, |region| region.guest_addr);
        self.slice =
            region.and_then(|region| region.slice(region.guest_addr, region.size as usize));
    }

    /// The region last looked into, as a hint.
    pub(crate) fn region(&self) -> usize {
        self.region
    }
}

impl Mapping {
    /// Maps the `size` bytes at `offset` of a file.
    fn map(
        space: &Arc<AddressSpace>,
        fd: OwnedFd,
        offset: u64,
        size: u64,
    ) -> Result<Mapping, MemoryError> {
        // Files in memory have seals, and no others; nor does this question wait for a file system, as the next ones may.
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| MemoryError::NotMemory)?;
        let stat = rustix::fs::fstat(&fd)?;
        let filesystem = u64::try_from(rustix::fs::fstatfs(&fd)?.f_type).unwrap_or(0);
        let have = u64::try_from(stat.st_size).unwrap_or(0);
        let need = offset.checked_add(size).ok_or(MemoryError::Wraps)?;
        if have < need {
            return Err(MemoryError::FileTooSmall { have, need });
        }
        let shrinkable = !seals.contains(SealFlags::SHRINK);

        let page = if filesystem == HUGETLBFS {
            u64::try_from(stat.st_blksize).unwrap_or(0)
        } else {
            rustix::param::page_size() as u64
        };
        if !page.is_power_of_two() {
            return Err(MemoryError::NotMemory);
        }
        let lead = offset & (page - 1);
        let len = (lead + size)
            .checked_next_multiple_of(page)
            .ok_or(MemoryError::Wraps)?;
        let part = space.part(len)?;
        let len = usize::try_from(len).map_err(|_| MemoryError::Wraps)?;
        let file = FileOffset::new(File::from(fd), offset - lead);
        let mmap = MmapRegion::<()>::from_file(file, len)?;
        core_dump::exclude(mmap.as_ptr().addr(), len);
        let guard = Guard::register(mmap.as_ptr().addr(), len, page as usize)
            .ok_or(MemoryError::Unguarded)?;
        Ok(Mapping {
            guard,
            mmap,
            lead: lead as usize,
            shrinkable,
            _part: part,
        })
    }
}

impl Region {
    fn map(
        space: &Arc<AddressSpace>,
        spec: RegionSpec,
        fd: OwnedFd,
    ) -> Result<Region, MemoryError> {
        let mapping = Mapping::map(space, fd, spec.mmap_offset, spec.size)?;
        Ok(Region {
            guest_addr: spec.guest_addr,
            size: spec.size,
            user_addr: spec.user_addr,
            mapping: Arc::new(mapping),
            claims: 1,
        })
    }

    #[inline]
    fn holds(&self, gpa: u64) -> bool {
        gpa.wrapping_sub(self.guest_addr) < self.size
    }

    #[inline]
    fn slice(&self, gpa: u64, len: usize) -> Option<VolatileSlice<'_, ()>> {
        let offset = gpa.wrapping_sub(self.guest_addr);
        if offset >= self.size || len as u64 > self.size - offset {
            return None;
        }
        self.mapping
            .mmap
            .get_slice(self.mapping.lead + offset as usize, len)
            .ok()
    }
}

/// Checks everything about a set of `(guest, user, size)` that needs no file.
fn check_layout(regions: impl Iterator<Item = (u64, u64, u64)>) -> Result<(), MemoryError> {
    let mut guest = Vec::new();
    let mut user = Vec::new();
    let mut total = 0u64;
    for (guest_addr, user_addr, size) in regions {
        if size == 0 {
            return Err(MemoryError::Empty);
        }
        guest.push((
            guest_addr,
            guest_addr.checked_add(size).ok_or(MemoryError::Wraps)?,
        ));
        user.push((
            user_addr,
            user_addr.checked_add(size).ok_or(MemoryError::Wraps)?,
        ));
        total = total.saturating_add(size);
    }
    if guest.len() > MAX_REGIONS {
        return Err(MemoryError::TooManyRegions);
    }
    if total > MAX_TOTAL {
        return Err(MemoryError::TooBig);
    }
    if overlaps(&mut guest) {
        return Err(MemoryError::GuestOverlap);
    }
    if overlaps(&mut user) {
        return Err(MemoryError::UserOverlap);
    }
    Ok(())
}

fn overlaps(ranges: &mut [(u64, u64)]) -> bool {
    ranges.sort_unstable();
    ranges
        .windows(2)
        .any(|pair| matches!(pair, [a, b] if a.1 > b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(size: u64) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("guest", flags).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        fd
    }

    fn spec(guest_addr: u64, size: u64, user_addr: u64, mmap_offset: u64) -> RegionSpec {
        RegionSpec {
            guest_addr,
            size,
            user_addr,
            mmap_offset,
        }
    }

    #[test]
    fn a_region_added_for_each_queue_pair_goes_with_the_last_removal() {
        let region = spec(0, 0x1000, 0x6000_0000, 0);
        let once = GuestMemory::default()
            .with_region(region, memfd(0x1000))
            .unwrap();
        let twice = once.with_region(region, memfd(0x1000)).unwrap();
        assert_eq!(twice.regions(), 1);
        let overlapping = spec(0, 0x1000, 0x7000_0000, 0);
        assert!(twice.with_region(overlapping, memfd(0x1000)).is_err());
        let left = twice.without_region(&region).unwrap();
        assert!(left.slice(0, 1).is_some());
        let none = left.without_region(&region).unwrap();
        assert!(none.slice(0, 1).is_none());
        assert!(none.without_region(&region).is_err());
    }

    #[test]
    fn regions_are_found_by_both_addresses_and_holes_are_not_memory() {
        let mem = GuestMemory::map(vec![
            (spec(0x10_0000, 0x2000, 0x7000_0000, 0x1000), memfd(0x3000)),
            (spec(0, 0x1000, 0x6000_0000, 0), memfd(0x1000)),
        ])
        .unwrap();
        let mut hint = 0;
        mem.slice_mut_hint(0x10_0ffe, 4, &mut hint)
            .unwrap()
            .copy_from(b"abcd");
        assert_eq!(hint, 1);
        let mut out = [0; 2];
        mem.slice(0x10_1000, 2).unwrap().copy_to(&mut out);
        assert_eq!(&out, b"cd");
        assert_eq!(mem.slice(0x10_1fff, 1).unwrap().len(), 1);
        for (gpa, len) in [
            (0x1000, 1),
            (0xfff, 2),
            (0x10_1fff, 2),
            (0x10_2000, 1),
            (0xf_ffff, 1),
            (u64::MAX, 1),
            (0, usize::MAX),
        ] {
            assert!(mem.slice(gpa, len).is_none(), "{gpa:#x}+{len}");
        }
        assert_eq!(mem.user_to_guest(0x7000_0010, 0x1ff0), Some(0x10_0010));
        assert_eq!(mem.user_to_guest(0x7000_0010, 0x1ff1), None);
        assert_eq!(mem.user_to_guest(0x6000_0000, u64::MAX), None);
        assert_eq!(mem.user_to_guest(0x6000_1000, 0), None);
    }

    #[test]
    fn no_core_dump_has_guest_memory() {
        const SIZE: u64 = 0x12_3000;
        let _mem = GuestMemory::map(vec![(spec(0, SIZE, 0, 0), memfd(SIZE))]).unwrap();
        // "dd": MADV_DONTDUMP (proc_pid_smaps(5)).
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let ours = smaps.split("VmFlags:").zip(smaps.split("VmFlags:").skip(1));
        let size = format!("Size: {:>18} kB", SIZE / 1024);
        let ours = ours.filter(|(mapping, _)| mapping.contains(&format!("\n{size}\n")));
        let ours: Vec<_> = ours.filter_map(|(_, flags)| flags.lines().next()).collect();
        assert!(!ours.is_empty(), "{smaps}");
        assert!(ours.iter().all(|flags| flags.contains(" dd")), "{ours:?}");
    }

    #[test]
    fn an_unaligned_offset_is_honoured() {
        let fd = memfd(0x3000);
        rustix::io::pwrite(&fd, b"here", 0x1804).unwrap();
        let mem = GuestMemory::map(vec![(spec(0, 0x1000, 0, 0x1800), fd)]).unwrap();
        let mut out = [0; 4];
        mem.slice(4, 4).unwrap().copy_to(&mut out);
        assert_eq!(&out, b"here");
    }

    #[test]
    fn a_lie_about_a_region_is_refused() {
        use MemoryError as E;
        let map = |specs: &[RegionSpec]| {
            GuestMemory::map(specs.iter().map(|s| (*s, memfd(0x2000))).collect()).unwrap_err()
        };
        assert!(matches!(map(&[spec(0, 0, 0, 0)]), E::Empty));
        assert!(matches!(
            map(&[spec(0, 1 << 30, 0, 0)]),
            E::FileTooSmall { have: 0x2000, .. }
        ));
        assert!(matches!(
            map(&[spec(0, 0x2000, 0, 1)]),
            E::FileTooSmall { .. }
        ));
        assert!(matches!(map(&[spec(u64::MAX, 0x1000, 0, 0)]), E::Wraps));
        assert!(matches!(map(&[spec(0, 0x1000, u64::MAX, 0)]), E::Wraps));
        assert!(matches!(map(&[spec(0, 0x1000, 0, u64::MAX)]), E::Wraps));
        assert!(matches!(map(&[spec(0, u64::MAX, 0, 0)]), E::TooBig));
        assert!(matches!(
            map(&[spec(0, 0x1001, 0, 0), spec(0x1000, 0x1000, 0x10_0000, 0)]),
            E::GuestOverlap
        ));
        assert!(matches!(
            map(&[spec(0, 0x1001, 0, 0), spec(0x10_0000, 0x1000, 0x1000, 0)]),
            E::UserOverlap
        ));
        let (pipe, _write) = rustix::pipe::pipe().unwrap();
        assert!(matches!(
            GuestMemory::map(vec![(spec(0, 0x1000, 0, 0), pipe)]),
            Err(E::NotMemory)
        ));
    }

    #[test]
    fn memory_is_a_memfd_or_a_file_on_tmpfs_and_nothing_on_a_disk() {
        let map = |fd| GuestMemory::map(vec![(spec(0, 0x1000, 0, 0), fd)]);
        let file = |dir: &str| {
            let file = tempfile::tempfile_in(dir).unwrap();
            file.set_len(0x1000).unwrap();
            OwnedFd::from(file)
        };
        assert!(map(memfd(0x1000)).is_ok());
        let tmpfs = |dir: &str| rustix::fs::statfs(dir).is_ok_and(|fs| fs.f_type == 0x0102_1994);
        if tmpfs("/dev/shm") {
            assert!(map(file("/dev/shm")).is_ok());
        }
        // Where the sources are is seldom in memory.
        let here = env!("CARGO_MANIFEST_DIR");
        if !tmpfs(here) {
            assert!(matches!(map(file(here)), Err(MemoryError::NotMemory)));
        }
        let device = File::options().read(true).write(true).open("/dev/zero");
        assert!(matches!(
            map(device.unwrap().into()),
            Err(MemoryError::NotMemory)
        ));
    }

    #[test]
    fn regions_come_and_go_while_the_old_memory_lives() {
        let one = spec(0, 0x1000, 0, 0);
        let two = spec(0x1000, 0x1000, 0x1000, 0);
        let first = GuestMemory::map(vec![(two, memfd(0x1000))]).unwrap();
        let both = first.with_region(one, memfd(0x1000)).unwrap();
        assert!(matches!(
            both.with_region(spec(0, 0x1000, 0x9000, 0), memfd(0x1000)),
            Err(MemoryError::GuestOverlap)
        ));
        first.slice_mut(0x1000, 1).unwrap().copy_from(&[7]);
        let less = both.without_region(&one).unwrap();
        assert!(matches!(
            less.without_region(&one),
            Err(MemoryError::NoSuchRegion)
        ));
        drop(first);
        let mut out = [0];
        less.slice(0x1000, 1).unwrap().copy_to(&mut out);
        assert_eq!(
            (out, less.slice(0, 1).is_none(), less.regions()),
            ([7], true, 1)
        );
    }

    #[test]
    fn a_file_that_shrinks_costs_its_own_memory_only() {
        let fd = memfd(0x4000);
        let hostile =
            GuestMemory::map(vec![(spec(0, 0x4000, 0, 0), fd.try_clone().unwrap())]).unwrap();
        let other = GuestMemory::map(vec![(spec(0, 0x1000, 0, 0), memfd(0x1000))]).unwrap();
        hostile.slice_mut(0, 4).unwrap().copy_from(b"kept");
        rustix::fs::ftruncate(&fd, 0x1000).unwrap();
        assert!(hostile.may_shrink() && !hostile.faulted());

        let mut out = [1; 4];
        hostile.slice(0x3ffc, 4).unwrap().copy_to(&mut out);
        assert_eq!(out, [0; 4]);
        assert!(hostile.faulted() && !other.faulted());
        hostile.slice_mut(0x2000, 4).unwrap().copy_from(b"lost");
        other.slice_mut(0, 4).unwrap().copy_from(b"fine");
        assert!(!other.faulted());
    }

    #[test]
    fn a_log_that_shrinks_is_not_trusted_any_more() {
        let fd = memfd(0x1000);
        let log = DirtyLog::map(&Arc::default(), fd.try_clone().unwrap(), 0x1000, 0).unwrap();
        let mem = GuestMemory::map(vec![(spec(0, 0x1000, 0, 0), memfd(0x1000))]).unwrap();
        let mem = mem.with_log(Some(Arc::new(log)));
        rustix::fs::ftruncate(&fd, 0).unwrap();
        assert!(!mem.faulted());
        mem.slice_mut(0, 1).unwrap().copy_from(b"x");
        assert!(mem.faulted());
    }

    /// Mappings of this process that lie in `[start, start + len)`.
    fn mappings(start: usize, len: usize) -> usize {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let inside = maps.lines().filter(|line| {
            let at = line.split('-').next().unwrap();
            let at = usize::from_str_radix(at, 16).unwrap();
            (start..start + len).contains(&at)
        });
        inside.count()
    }

    #[test]
    fn however_many_pages_have_vanished_they_are_one_mapping() {
        const PAGES: u64 = 4096;
        for stride in [1, 2] {
            let fd = memfd(PAGES * 4096);
            let keep = fd.try_clone().unwrap();
            let mem = GuestMemory::map(vec![(spec(0, PAGES * 4096, 0, 0), fd)]).unwrap();
            let start = mem.slice(0, 1).unwrap().0.ptr_guard().as_ptr().addr();
            rustix::fs::ftruncate(&keep, 0).unwrap();
            for page in (0..PAGES).step_by(stride) {
                mem.slice_mut(page * 4096, 1).unwrap().copy_from(b"x");
            }
            assert!(mem.faulted());
            assert_eq!(mappings(start, PAGES as usize * 4096), 1, "{stride}");
        }
    }

    #[test]
    fn no_device_takes_the_room_of_another_in_the_guard() {
        // As many as 256 devices may have, each with the most regions there can be.
        let fd = memfd(0x1000);
        let many = (0..256).map(|_| {
            let regions = (0..MAX_REGIONS as u64).map(|i| {
                let at = i * 0x1000;
                (spec(at, 0x1000, at, 0), fd.try_clone().unwrap())
            });
            GuestMemory::map(regions.collect()).unwrap()
        });
        let many: Vec<_> = many.collect();
        assert!(many.iter().all(|mem| !mem.faulted()));
    }

    #[test]
    fn a_sealed_file_cannot_shrink() {
        let fd = memfd(0x1000);
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        assert!(
            !GuestMemory::map(vec![(spec(0, 0x1000, 0, 0), fd)])
                .unwrap()
                .may_shrink()
        );
    }
}
