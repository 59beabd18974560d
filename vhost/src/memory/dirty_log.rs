//! The dirty log of a migration (vhost-user "Migration"): one bit for each page of guest memory that the device has written.
//!
//! The front end shares it (`SET_LOG_BASE`) and takes bits out of it while the device puts bits in. Never read here.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};
use vm_memory::VolatileMemory;

use super::{AddressSpace, Mapping};
use crate::error::MemoryError;

/// Bytes of guest memory that one bit stands for, whatever size the pages of this machine have (`VHOST_LOG_PAGE`).
pub const LOG_PAGE: u64 = 4096;

/// Bytes of the longest log, which has a bit for each page of 48-bit guest addresses.
const LONGEST: u64 = 1 << 33;

/// A shared bitmap of written pages: page `n` is bit `n % 8` of byte `n / 8`.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: Mapping,
    /// Pages that there are bits for.
    pages: u64,
}

/// Where a log is in its file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedLog {
    size: u64,
    offset: u64,
}

impl DirtyLog {
    /// Maps the `size` bytes of a log at `offset` of a file, as `SET_LOG_BASE` describes it, for a device for which `space` is mapped.
    ///
    /// # Errors
    /// As for a region of memory: the log is empty, or longer than its file, or not shared memory.
    pub fn map(
        space: &Arc<AddressSpace>,
        fd: OwnedFd,
        size: u64,
        offset: u64,
    ) -> Result<DirtyLog, MemoryError> {
        if size == 0 {
            return Err(MemoryError::Empty);
        }
        if size > LONGEST {
            return Err(MemoryError::TooBig);
        }
        let mapping = Mapping::map(space, fd, offset, size)?;
        let pages = size.saturating_mul(8);
        Ok(DirtyLog { mapping, pages })
    }

    /// Where it is, and its file in `files`.
    pub(crate) fn save<'a>(&'a self, files: &mut Vec<BorrowedFd<'a>>) -> Option<SavedLog> {
        let (file, offset) = self.mapping.file()?;
        files.push(file);
        let size = self.pages / 8;
        Some(SavedLog { size, offset })
    }

    /// Maps it again.
    pub(crate) fn restore(
        space: &Arc<AddressSpace>,
        saved: &SavedLog,
        file: OwnedFd,
    ) -> Result<Arc<DirtyLog>, MemoryError> {
        DirtyLog::map(space, file, saved.size, saved.offset).map(Arc::new)
    }

    /// Whether bits are lost, since the log's file has shrunk.
    pub(super) fn faulted(&self) -> bool {
        self.mapping.guard.faulted()
    }

    /// Marks the pages of the `len` bytes at `gpa`, which have been written. Of a page that the log has no bit for the
    /// front end does not want to know.
    #[cold]
    pub(super) fn mark(&self, gpa: u64, len: usize) {
        let Some(last) = (len as u64).checked_sub(1) else {
            return;
        };
        let last = (gpa.saturating_add(last) / LOG_PAGE).min(self.pages.saturating_sub(1));
        for page in gpa / LOG_PAGE..=last {
            // Below the number of pages, which fit into the address space eight to a byte.
            let at = self.mapping.lead.saturating_add((page / 8) as usize);
            if let Ok(byte) = self.mapping.mmap.get_atomic_ref::<AtomicU8>(at) {
                // Release: whoever takes the bit out finds what was written. Always a read-modify-write: the bit may be
                // taken out just now, and the page copied without what was written.
                byte.fetch_or(1 << (page % 8), Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A log of 4 bytes behind 8 others of its file.
    fn log() -> (DirtyLog, File) {
        let fd = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 16).unwrap();
        let file = File::from(fd.try_clone().unwrap());
        (DirtyLog::map(&Arc::default(), fd, 4, 8).unwrap(), file)
    }

    #[test]
    fn a_write_marks_its_pages_and_none_beside_them() {
        for (gpa, len, bytes) in [
            (0, 1, [1, 0, 0, 0]),
            (0xfff, 1, [1, 0, 0, 0]),
            (0xfff, 2, [3, 0, 0, 0]),
            (0x1000, 0x1000, [2, 0, 0, 0]),
            (0x7000, 0x1001, [0x80, 1, 0, 0]),
            (0x1_ffff, 100, [0, 0, 0, 0x80]),
            (0x5000, 0, [0; 4]),
            (0x2_0000, 1, [0; 4]),
            (0x1_f000, usize::MAX, [0, 0, 0, 0x80]),
            (u64::MAX, 1, [0; 4]),
        ] {
            let (log, file) = log();
            log.mark(gpa, len);
            let mut all = [0; 16];
            file.read_exact_at(&mut all, 0).unwrap();
            assert_eq!(all[8..12], bytes, "{gpa:#x}+{len}");
            assert_eq!([&all[..8], &all[12..]].concat(), [0; 12]);
        }
    }

    #[test]
    fn a_log_that_is_not_in_its_file_is_refused() {
        for (size, offset) in [(0, 0), (17, 0), (9, 8), (1, u64::MAX), (u64::MAX, 1)] {
            let fd = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&fd, 16).unwrap();
            assert!(
                DirtyLog::map(&Arc::default(), fd, size, offset).is_err(),
                "{size} at {offset}"
            );
        }
    }
}
