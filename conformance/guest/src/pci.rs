//! A PCI function over vfio-user as a hypervisor has it: the guest's memory, interrupts, and registers, by messages or in pages of a BAR that both
//! sides have mapped. The client is others' (the crate `vfio_user`, which cloud-hypervisor has). Knows no family's registers by name: drivers on
//! top of it do ([`crate::ixgbevf`], [`crate::sfc`]).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;
use vfio_user::Client;
use vm_memory::mmap::MmapRegion;
use vm_memory::{FileOffset, VolatileMemory};

use crate::eventfd::EventFd;
use crate::ixgbevf::Registers;
use crate::memory::GuestMemory;

/// The region that is configuration space (VFIO_PCI_CONFIG_REGION_INDEX).
pub const CONFIG: u32 = 7;
/// The kind of interrupts that is MSI-X (VFIO_PCI_MSIX_IRQ_INDEX).
pub const MSIX: u32 = 2;
/// VFIO_IRQ_SET_DATA_EVENTFD and VFIO_IRQ_SET_ACTION_TRIGGER.
const BY_EVENTFD: u32 = 1 << 2 | 1 << 5;
/// In the command register: memory space and bus master.
const ENABLE: [u8; 2] = [6, 0];

/// Why there is no function.
#[derive(Debug, Error)]
pub enum FunctionError {
    /// What the client says.
    #[error(transparent)]
    Client(#[from] vfio_user::Error),
    /// A part of a BAR cannot be mapped.
    #[error("cannot map a part of BAR 0: {0}")]
    Map(io::Error),
}

/// A part of a BAR in memory that the device looks at.
#[derive(Debug)]
pub struct Page {
    /// Where in the BAR it begins.
    offset: u64,
    map: MmapRegion<()>,
}

impl Page {
    /// A register in it.
    #[inline]
    pub fn register(&self, offset: u64) -> Option<&AtomicU32> {
        let at = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.map.get_atomic_ref(at).ok()
    }
}

/// See the module.
pub struct PciFunction {
    client: Client,
    page: Option<Arc<Page>>,
}

impl PciFunction {
    /// Connects, and maps what may be mapped of BAR 0.
    ///
    /// # Errors
    /// Nobody is there, or it is no such device.
    pub fn connect(path: &Path) -> Result<PciFunction, FunctionError> {
        let client = Client::new(path)?;
        let page = client.region(0).map(map).transpose()?.flatten();
        Ok(PciFunction { client, page })
    }

    /// Gives the function the memory of the guest, and has it answer and reach that.
    ///
    /// # Errors
    /// The client's.
    pub fn start(&mut self, memory: &GuestMemory) -> Result<(), FunctionError> {
        for region in memory.regions() {
            let at = region.layout();
            let fd = region.fd().as_raw_fd();
            self.client
                .dma_map(at.mmap_offset, at.guest_addr, at.size, fd)?;
        }
        Ok(self.client.region_write(CONFIG, 4, &ENABLE)?)
    }

    /// Has the vector of this number signalled there.
    ///
    /// # Errors
    /// The client's.
    pub fn interrupt(&mut self, vector: u32, to: &EventFd) -> Result<(), FunctionError> {
        let fds = [to.as_fd().as_raw_fd()];
        Ok(self.client.set_irqs(MSIX, BY_EVENTFD, vector, 1, &fds)?)
    }

    /// Whether it does not answer any more.
    pub fn is_gone(&mut self) -> bool {
        self.client.region_read(CONFIG, 0, &mut [0; 4]).is_err()
    }

    /// What both sides have mapped of BAR 0.
    pub fn page(&self) -> Option<&Arc<Page>> {
        self.page.as_ref()
    }

    /// The session, for everything else.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}

/// The first part of a region that may be mapped.
fn map(region: &vfio_user::Region) -> Result<Option<Arc<Page>>, FunctionError> {
    let (Some(file), Some(area)) = (&region.file_offset, region.sparse_areas.first()) else {
        return Ok(None);
    };
    let refused = |why: io::Error| FunctionError::Map(why);
    let start = file.start().checked_add(area.offset);
    let start = start.ok_or_else(|| refused(io::ErrorKind::InvalidInput.into()))?;
    let size = usize::try_from(area.size).map_err(|why| refused(io::Error::other(why)))?;
    let file = file.file().try_clone().map_err(refused)?;
    let map = MmapRegion::from_file(FileOffset::new(file, start), size);
    let map = map.map_err(|why| refused(io::Error::other(why)))?;
    let offset = area.offset;
    Ok(Some(Arc::new(Page { offset, map })))
}

/// As a driver reads and writes them. A function that is gone reads as ones.
impl Registers for PciFunction {
    fn read(&mut self, offset: u64) -> u32 {
        let page = self.page.as_ref();
        if let Some(register) = page.and_then(|page| page.register(offset)) {
            return u32::from_le(register.load(Ordering::Acquire));
        }
        let mut value = [0; 4];
        match self.client.region_read(0, offset, &mut value) {
            Ok(()) => u32::from_le_bytes(value),
            Err(_) => u32::MAX,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        let page = self.page.as_ref();
        if let Some(register) = page.and_then(|page| page.register(offset)) {
            register.store(value.to_le(), Ordering::Release);
            return;
        }
        let _ = self.client.region_write(0, offset, &value.to_le_bytes());
    }
}
