//! Guest memory: a memfd, mapped here and shared with the back end.
//!
//! Never trusts the back end with more than it was given: what a region covers is fixed at
//! creation. Guest addresses and user addresses are made to differ on purpose, so that a back end
//! that mixes up the two kinds (vhost-user "Memory access") is found out.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileMemory, VolatileSlice};

/// Guest address of the first region of [`GuestMemory::new`].
pub const GUEST_BASE: u64 = 0x1_0000_0000;
/// Distance between a region's user address and its guest address in [`GuestMemory::new`].
pub const USER_OFFSET: u64 = 0x7e00_0000_0000;

const HUGE_PAGE: u64 = 2 << 20;

/// Where one region lies and how long it is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionLayout {
    /// Guest-physical address of the first byte.
    pub guest_addr: u64,
    /// The front end's own address of the first byte; what ring addresses are given in.
    pub user_addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// Offset of the first byte in the region's file.
    pub mmap_offset: u64,
}

/// One mapped region.
#[derive(Debug)]
pub struct Region {
    layout: RegionLayout,
    file: File,
    map: MmapRegion<()>,
}

impl Region {
    /// Creates a memfd that ends with the region, and maps it. With `seals` the file can neither
    /// shrink nor grow afterwards.
    pub fn new(layout: RegionLayout, seals: bool) -> io::Result<Region> {
        let end = layout
            .mmap_offset
            .checked_add(layout.size)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let fd = rustix::fs::memfd_create(
            "guest-memory",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?;
        rustix::fs::ftruncate(&fd, end)?;
        if seals {
            rustix::fs::fcntl_add_seals(
                &fd,
                SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
            )?;
        }
        Region::map(layout, fd)
    }

    /// A region of huge pages, from the start of its file. An error when not enough are free.
    fn huge(layout: RegionLayout) -> io::Result<Region> {
        let fd = rustix::fs::memfd_create(
            "guest-memory",
            MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        )?;
        rustix::fs::ftruncate(&fd, layout.size)?;
        // A page that is missing later would be a SIGBUS; now it is an error.
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, layout.size)?;
        Region::map(layout, fd)
    }

    fn map(layout: RegionLayout, fd: OwnedFd) -> io::Result<Region> {
        let file = File::from(fd);
        let size = usize::try_from(layout.size).map_err(|_| io::ErrorKind::InvalidInput)?;
        let map =
            MmapRegion::from_file(FileOffset::new(file.try_clone()?, layout.mmap_offset), size)
                .map_err(io::Error::other)?;
        Ok(Region { layout, file, map })
    }

    /// Addresses and length.
    pub fn layout(&self) -> RegionLayout {
        self.layout
    }

    /// The memfd, for a memory-table message.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// A second descriptor of the memfd: for cases that shrink the file later.
    pub fn dup_fd(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// The whole mapping.
    #[inline]
    pub fn mapping(&self) -> VolatileSlice<'_> {
        self.map.as_volatile_slice()
    }

    /// `len` bytes at `offset` from the start of the region, if inside.
    #[inline]
    pub fn at(&self, offset: usize, len: usize) -> Option<VolatileSlice<'_>> {
        self.map.get_slice(offset, len).ok()
    }
}

/// The regions of one guest.
#[derive(Debug)]
pub struct GuestMemory {
    regions: Vec<Region>,
}

impl GuestMemory {
    /// One region of `size` bytes (rounded up to pages) at [`GUEST_BASE`].
    pub fn new(size: u64, seals: bool) -> io::Result<GuestMemory> {
        let size = size.next_multiple_of(4096);
        GuestMemory::with_regions(
            &[RegionLayout {
                guest_addr: GUEST_BASE,
                user_addr: GUEST_BASE + USER_OFFSET,
                size,
                mmap_offset: 0,
            }],
            seals,
        )
    }

    /// One region of huge pages of 2 MiB, of `size` bytes rounded up to them, at [`GUEST_BASE`]. An
    /// error when not enough of them are free.
    pub fn huge(size: u64) -> io::Result<GuestMemory> {
        let region = Region::huge(RegionLayout {
            guest_addr: GUEST_BASE,
            user_addr: GUEST_BASE + USER_OFFSET,
            size: size.next_multiple_of(HUGE_PAGE),
            mmap_offset: 0,
        })?;
        Ok(GuestMemory {
            regions: vec![region],
        })
    }

    /// Regions as given, each in a memfd of its own.
    pub fn with_regions(layouts: &[RegionLayout], seals: bool) -> io::Result<GuestMemory> {
        let regions = layouts
            .iter()
            .map(|&layout| Region::new(layout, seals))
            .collect::<io::Result<_>>()?;
        Ok(GuestMemory { regions })
    }

    /// All regions, in the order they were given.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region that holds `len` bytes at guest address `addr`, and the offset in it.
    pub fn locate(&self, addr: u64, len: u64) -> Option<(usize, usize)> {
        self.regions.iter().enumerate().find_map(|(i, region)| {
            let offset = addr.checked_sub(region.layout.guest_addr)?;
            let end = offset.checked_add(len)?;
            (end <= region.layout.size).then_some((i, usize::try_from(offset).ok()?))
        })
    }

    /// `len` bytes at guest address `addr`, if inside one region.
    pub fn slice(&self, addr: u64, len: usize) -> Option<VolatileSlice<'_>> {
        let (region, offset) = self.locate(addr, len as u64)?;
        self.regions[region].at(offset, len)
    }

    /// The front end's own address of guest address `addr`.
    pub fn user_addr(&self, addr: u64) -> Option<u64> {
        let (region, offset) = self.locate(addr, 1)?;
        self.regions[region]
            .layout
            .user_addr
            .checked_add(offset as u64)
    }
}

/// Hands out guest memory of one region, front to back; nothing is ever given back.
#[derive(Debug, Clone)]
pub struct Allocator {
    next: u64,
    end: u64,
}

impl Allocator {
    /// An allocator over a whole region.
    pub fn new(layout: RegionLayout) -> Allocator {
        Allocator::behind(layout, 0)
    }

    /// An allocator over what is behind the first `lead` bytes of a region.
    pub fn behind(layout: RegionLayout, lead: u64) -> Allocator {
        Allocator {
            next: layout.guest_addr.saturating_add(lead),
            end: layout.guest_addr.saturating_add(layout.size),
        }
    }

    /// The guest address of `len` free bytes aligned to `align` (a power of two), or `None` when
    /// the region is used up.
    pub fn alloc(&mut self, len: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_next_multiple_of(align)?;
        let end = start.checked_add(len)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        Some(start)
    }

    /// Bytes that are left, before alignment.
    pub fn left(&self) -> u64 {
        self.end - self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn translation_keeps_the_two_address_kinds_apart() {
        let mem = GuestMemory::new(8192, true).unwrap();
        assert_eq!(mem.locate(GUEST_BASE + 8191, 1), Some((0, 8191)));
        assert_eq!(mem.locate(GUEST_BASE + 8191, 2), None);
        assert_eq!(mem.locate(u64::MAX, 2), None);
        assert_eq!(
            mem.user_addr(GUEST_BASE + 5),
            Some(GUEST_BASE + USER_OFFSET + 5)
        );
        assert!(mem.slice(GUEST_BASE + USER_OFFSET, 1).is_none());
    }

    #[test]
    fn file_and_mapping_are_the_same_bytes_at_an_offset() {
        let layout = RegionLayout {
            guest_addr: 0,
            user_addr: 1 << 40,
            size: 4096,
            mmap_offset: 8192,
        };
        let region = Region::new(layout, true).unwrap();
        region.mapping().write_slice(b"here", 7).unwrap();
        let mut bytes = [0; 4];
        rustix::io::pread(region.fd(), &mut bytes, 8192 + 7).unwrap();
        assert_eq!(&bytes, b"here");
        // Sealed: nobody can pull the pages from under the back end.
        assert!(rustix::fs::ftruncate(region.fd(), 0).is_err());
    }

    #[test]
    fn allocator_aligns_and_ends() {
        let mut alloc = Allocator::new(RegionLayout {
            guest_addr: 0x1001,
            user_addr: 0,
            size: 0x100,
            mmap_offset: 0,
        });
        assert_eq!(alloc.alloc(16, 64), Some(0x1040));
        assert_eq!(alloc.alloc(0xb1, 1), Some(0x1050));
        assert_eq!(alloc.alloc(1, 1), None);
        assert_eq!(alloc.left(), 0);
    }
}
