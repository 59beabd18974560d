//! The slot that a function is plugged into: its configuration space, the part of its BARs that is alike in all functions (MSI-X table
//! and pending bits), and the memory that it reaches. Every transport brings accesses here. Knows no message and no register.

#![expect(
    clippy::indexing_slicing,
    reason = "ranges are checked just before, or of arrays as long as they are"
)]

use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;
use vf_vhost::error::MemoryError;
use vf_vhost::memory::{AddressSpace, GuestMemory};

use crate::config_space::ConfigSpace;
use crate::function::{Environment, Function, Host, Identity, SharedPages};
use crate::msix::Vectors;

/// An access that there is no answer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadAccess {
    /// Outside of the BAR, or of one that there is not.
    #[error("outside of the region")]
    Outside,
    /// Neither 1, 2, 4 nor 8 bytes, or not at a multiple of their number.
    #[error(
        "{len} bytes at {offset:#x}, where registers are 1, 2, 4 or 8 bytes at multiples of that"
    )]
    Width {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Slot {
    function: Box<dyn Function>,
    config: ConfigSpace,
    /// The MSI-X table, as it is written.
    table: Vec<u8>,
    vectors: Arc<Vectors>,
    memory: Arc<GuestMemory>,
    /// What is mapped for its guests.
    space: Arc<AddressSpace>,
    /// The memory that the function has been given: none, unless it is a bus master.
    given: Option<Arc<GuestMemory>>,
    /// Pages that the driver writes without a message.
    shared: Option<SharedPages>,
}

impl Slot {
    /// A slot with this function in it, without power: [`Slot::power_on`] comes before everything else.
    #[must_use]
    pub fn new(function: Box<dyn Function>) -> Slot {
        let identity = function.identity();
        Slot {
            config: ConfigSpace::new(identity),
            table: masked(identity),
            vectors: Arc::new(Vectors::new(identity.msix.vectors)),
            memory: Arc::default(),
            space: Arc::default(),
            given: None,
            shared: None,
            function,
        }
    }

    /// Puts the function into the state that it has without a guest: it has no memory, and its vectors lead nowhere. Both when a hypervisor
    /// comes and when it has gone. The memory that it had is for whoever may take the time to give it back.
    pub fn power_on(&mut self, host: &mut dyn Host) -> Arc<GuestMemory> {
        self.vectors.clear();
        let none = self.no_memory();
        let before = std::mem::replace(&mut self.memory, none);
        self.shared = None;
        self.function.forget();
        self.reset(host);
        before
    }

    /// Lets the driver write registers without a message, as far as the function has such; nobody else has the pages of this guest. Somebody
    /// has to [look](Self::look) at them.
    ///
    /// # Errors
    /// There is no memory for the pages, or no descriptor.
    pub fn share(&mut self) -> Result<(), MemoryError> {
        self.shared = None;
        self.shared = self.function.share()?;
        Ok(())
    }

    /// What the driver may map.
    #[must_use]
    pub fn shared(&self) -> Option<&SharedPages> {
        self.shared.as_ref()
    }

    /// Does what the driver has written without a message.
    pub fn look(&mut self, host: &mut dyn Host) {
        if self.shared.is_some() {
            self.function.look(host);
        }
    }

    /// What the function is.
    #[must_use]
    pub fn identity(&self) -> &'static Identity {
        self.function.identity()
    }

    /// How often its driver has spoken to its NIC so far.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.function.messages()
    }

    /// Its interrupts.
    #[must_use]
    pub fn vectors(&self) -> &Arc<Vectors> {
        &self.vectors
    }

    /// The memory of the guest, as it was given by [`Slot::set_memory`].
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Whether the driver lets the function reach memory.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.config.is_bus_master()
    }

    /// None of a guest's memory, to be [set](Slot::set_memory).
    #[must_use]
    pub fn no_memory(&self) -> Arc<GuestMemory> {
        GuestMemory::none(&self.space)
    }

    /// Has the function reach this memory from now on and no other: nobody touches the one before when this returns, which is for whoever may take
    /// the time to give it back.
    pub fn set_memory(
        &mut self,
        memory: Arc<GuestMemory>,
        host: &mut dyn Host,
    ) -> Arc<GuestMemory> {
        let before = std::mem::replace(&mut self.memory, memory);
        self.give(host);
        before
    }

    /// Tells the function that its NIC is another one for its driver.
    pub fn changed(&mut self, host: &mut dyn Host) {
        self.function.changed(host);
    }

    /// Resets the function, as its driver or the hypervisor wants (PCIe 6.6.2).
    pub fn reset(&mut self, host: &mut dyn Host) {
        self.config.reset();
        self.vectors.set_may_write(false);
        self.table = masked(self.identity());
        self.function.reset(host);
        self.vectors.forget_pending();
        self.environment(host);
    }

    /// Resets what is behind the registers, as an administrator of the NIC does, and leaves configuration space to the guest.
    pub fn restart(&mut self, host: &mut dyn Host) {
        // What it is told of this is for the driver, even if it has masked it.
        self.vectors.forget_pending();
        self.function.restart(host);
    }

    /// Where an interrupt of this vector goes, address and data as the driver has written them into the table; `None` while it goes
    /// nowhere: MSI-X is off, the vector is masked, or all are, or the function is no bus master.
    #[must_use]
    pub fn msix_message(&self, vector: u16) -> Option<(u64, u32)> {
        let at = usize::from(vector).checked_mul(16)?;
        let entry: &[u8; 16] = self.table.get(at..)?.first_chunk()?;
        let (address, rest) = entry.split_first_chunk::<8>()?;
        let (data, control) = rest.split_first_chunk::<4>()?;
        let on = self.config.interrupts() && self.config.is_bus_master();
        let leads = on && control.first()? & 1 == 0;
        leads.then(|| (u64::from_le_bytes(*address), u32::from_le_bytes(*data)))
    }

    /// Reads configuration space.
    pub fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    /// Writes configuration space, and does what follows from that.
    pub fn write_config(&mut self, offset: usize, data: &[u8], host: &mut dyn Host) {
        if self.config.write(offset, data) {
            self.reset(host);
        } else {
            self.vectors.set_may_write(self.config.is_bus_master());
            self.give(host);
        }
    }

    /// Gives the function the memory that it may reach, if that is another one than before.
    fn give(&mut self, host: &mut dyn Host) {
        let may = self.reachable();
        let same = match (&may, &self.given) {
            (Some(may), Some(given)) => Arc::ptr_eq(may, given),
            (may, given) => may.is_none() && given.is_none(),
        };
        if !same {
            self.environment(host);
        }
    }

    fn reachable(&self) -> Option<Arc<GuestMemory>> {
        let reaches = self.config.is_bus_master() && self.memory.regions() > 0;
        reaches.then(|| Arc::clone(&self.memory))
    }

    fn environment(&mut self, host: &mut dyn Host) {
        self.given = self.reachable();
        let environment = Environment {
            memory: self.given.clone(),
            vectors: Arc::clone(&self.vectors),
        };
        self.function.set_environment(environment, host);
    }

    /// Reads from a BAR; ones, as long as memory space is off.
    ///
    /// # Errors
    /// [`BadAccess`]; nothing has been read then.
    pub fn read_bar(
        &mut self,
        bar: u8,
        offset: u64,
        data: &mut [u8],
        host: &mut dyn Host,
    ) -> Result<(), BadAccess> {
        self.check(bar, offset, data.len())?;
        if !self.config.answers() {
            data.fill(0xff);
        } else if let Some(range) = self.in_table(bar, offset, data.len()) {
            data.copy_from_slice(&self.table[range]);
        } else if let Some(range) = self.in_pending(bar, offset, data.len()) {
            for (byte, to) in range.zip(data) {
                *to = self.pending_byte(byte);
            }
        } else {
            self.function.read(bar, offset, data, host);
        }
        Ok(())
    }

    /// Writes to a BAR; nothing happens as long as memory space is off.
    ///
    /// # Errors
    /// [`BadAccess`]; nothing has been written then.
    pub fn write_bar(
        &mut self,
        bar: u8,
        offset: u64,
        data: &[u8],
        host: &mut dyn Host,
    ) -> Result<(), BadAccess> {
        self.check(bar, offset, data.len())?;
        if !self.config.answers() {
            return Ok(());
        }
        if let Some(range) = self.in_table(bar, offset, data.len()) {
            self.table[range].copy_from_slice(data);
        } else if self.in_pending(bar, offset, data.len()).is_none() {
            self.function.write(bar, offset, data, host);
        }
        Ok(())
    }

    fn check(&self, bar: u8, offset: u64, len: usize) -> Result<(), BadAccess> {
        let bars = self.identity().bars.iter();
        let size = bars.filter(|b| b.index == bar).map(|b| b.size).next();
        let room = size.and_then(|size| size.checked_sub(offset));
        if room.is_none_or(|room| room < len as u64) {
            return Err(BadAccess::Outside);
        }
        match len {
            1 | 2 | 4 | 8 if offset & (len as u64).wrapping_sub(1) == 0 => Ok(()),
            _ => Err(BadAccess::Width { offset, len }),
        }
    }

    /// The bytes of the table that an access is to, if it is to it.
    fn in_table(&self, bar: u8, offset: u64, len: usize) -> Option<Range<usize>> {
        let layout = self.identity().msix;
        (bar == layout.bar).then_some(())?;
        inside(offset, len, layout.table, self.table.len())
    }

    /// The bytes of the pending bits that an access is to, if it is to them: 64 vectors in each eight bytes.
    fn in_pending(&self, bar: u8, offset: u64, len: usize) -> Option<Range<usize>> {
        let layout = self.identity().msix;
        (bar == layout.bar).then_some(())?;
        let bytes = usize::from(layout.vectors).div_ceil(64).saturating_mul(8);
        inside(offset, len, layout.pba, bytes)
    }

    fn pending_byte(&self, byte: usize) -> u8 {
        let bit = |bit: usize| {
            let vector = byte.saturating_mul(8).saturating_add(bit);
            let vector = u16::try_from(vector).unwrap_or(u16::MAX);
            u8::from(self.vectors.is_pending(vector)) << bit
        };
        (0..8).map(bit).fold(0, |byte, bit| byte | bit)
    }
}

/// The table after a reset: of each vector address and data, which are nothing, and the bit by which it is masked.
fn masked(identity: &Identity) -> Vec<u8> {
    let entry = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    entry.repeat(identity.msix.vectors.into())
}

/// Which of the `size` bytes at `start` an access is to, if it is to any.
fn inside(offset: u64, len: usize, start: u32, size: usize) -> Option<Range<usize>> {
    let from = usize::try_from(offset.checked_sub(start.into())?).ok()?;
    let to = from.checked_add(len)?;
    (to <= size).then_some(from..to)
}

#[cfg(test)]
pub(crate) mod tests;
