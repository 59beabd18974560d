//! Memory that vanishes in a process that has as many mappings as it may: alone in its process, which this would disturb.
#![forbid(unsafe_code)]
// All of it is test code.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vm_memory::{FileOffset, MmapRegion};

#[test]
fn memory_that_vanishes_where_no_mapping_can_be_added() {
    const SIZE: u64 = 64 * 4096;
    let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, SIZE).unwrap();
    let file = Arc::new(File::from(fd.try_clone().unwrap()));
    let spec = RegionSpec {
        guest_addr: 0,
        size: SIZE,
        user_addr: 0,
        mmap_offset: 0,
    };
    let mem = [(); 2].map(|()| GuestMemory::map(vec![(spec, fd.try_clone().unwrap())]).unwrap());
    let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let most: usize = most.trim().parse().unwrap();
    // Room for all of them now, for later there is none.
    let mut mappings: Vec<MmapRegion<()>> = Vec::with_capacity(most + 1);
    let page = || MmapRegion::from_file(FileOffset::from_arc(Arc::clone(&file), 0), 4096);
    mappings.extend((0..=most).map_while(|_| page().ok()));
    let last = page();
    ftruncate(&fd, 0).unwrap();
    // More than once: what makes room is there again.
    for mem in &mem {
        for at in (0..SIZE).step_by(8192) {
            mem.slice_mut(at, 1).unwrap().copy_from(b"x");
        }
    }
    drop(mappings);
    assert!(last.is_err(), "no such limit was reached");
    assert!(mem.iter().all(|mem| mem.faulted()));
}
