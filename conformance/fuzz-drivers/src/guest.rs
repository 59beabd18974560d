//! A guest's memory of one region, mapped once a thread and written anew for each input. Judges nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use vf_vhost::memory::{GuestMemory, RegionSpec};

/// Guest address of its first byte.
pub(crate) const GUEST: u64 = 0x4000_0000;
/// The front end's address of it.
pub(crate) const USER: u64 = 0x7f00_0000_0000;
/// Bytes.
pub(crate) const SIZE: usize = 0x1_0000;

/// See the module.
pub(crate) struct Guest {
    fd: OwnedFd,
    pub(crate) memory: Arc<GuestMemory>,
}

thread_local! {
    static GUEST_MEMORY: Guest = Guest::new();
}

/// Lends out this thread's guest.
pub(crate) fn with<T>(run: impl FnOnce(&Guest) -> T) -> T {
    GUEST_MEMORY.with(run)
}

impl Guest {
    fn new() -> Guest {
        let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, SIZE as u64).unwrap();
        let whole = RegionSpec {
            guest_addr: GUEST,
            size: SIZE as u64,
            user_addr: USER,
            mmap_offset: 0,
        };
        let memory = GuestMemory::map(vec![(whole, fd.try_clone().unwrap())]).unwrap();
        Guest { fd, memory }
    }

    /// A descriptor of the file that it is.
    pub(crate) fn fd(&self) -> OwnedFd {
        self.fd.as_fd().try_clone_to_owned().unwrap()
    }

    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        rustix::io::pwrite(&self.fd, bytes, at as u64).unwrap();
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        assert_eq!(rustix::io::pread(&self.fd, &mut bytes, 0), Ok(SIZE));
        bytes
    }
}
