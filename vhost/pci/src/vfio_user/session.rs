//! The state of one vfio-user client: a message goes in, its reply comes out, and what it does to the function in the
//! [`Slot`] is done. Reads no socket and no clock, so a test or a fuzzer drives it without one. A message of several writes is obeyed by one
//! write at a time, so that whoever serves it can end its turn in between.
//!
//! A command that cannot be obeyed is answered with an error, and the session goes on; what cannot be a client at all ends it
//! ([`SessionEnd`]). Memory that a client shares is mapped with the checks of [`GuestMemory`]: nothing but files that the kernel has all
//! pages of, and as much as one guest may have. What it lets the function only read, or has no file for, is noted and not reached:
//! nothing that a NIC sends is in ROM, and asking the client for each byte (VFIO_USER_DMA_READ) would have the function wait for it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use vf_vhost::error::MemoryError;
use vf_vhost::eventfd::{EventFd, EventFdError, SignalCost};
use vf_vhost::memory::{GuestMemory, MAX_REGIONS, RegionSpec};

use super::message::{
    Access, CONFIG_REGION, Command, DmaMap, DmaUnmap, Errno, Header, IRQ_INDEXES, MAX_DATA,
    MAX_FDS, MSIX_IRQ, NotUnderstood, REGIONS, SetIrqs, ShortWrite,
};
use crate::config_space::CONFIG_SIZE;
use crate::function::{Host, SharedPages};
use crate::slot::{BadAccess, Slot};

/// Ranges of memory that a client may have mapped at a time (`max_dma_maps`), those included that are only noted.
pub const MAX_MAPS: usize = 2 * MAX_REGIONS;

/// The version of the protocol: 0.1.
const VERSION: (u16, u16) = (0, 1);

/// VFIO_DEVICE_FLAGS_RESET and VFIO_DEVICE_FLAGS_PCI.
const DEVICE_FLAGS: u32 = 3;
/// VFIO_REGION_INFO_FLAG_READ and VFIO_REGION_INFO_FLAG_WRITE.
const REGION_FLAGS: u32 = 3;
/// VFIO_REGION_INFO_FLAG_MMAP and VFIO_REGION_INFO_FLAG_CAPS.
const MAPPABLE: u32 = 4 | 8;
/// VFIO_REGION_INFO_CAP_SPARSE_MMAP: only these parts of the region are to be mapped.
const SPARSE_MMAP: u16 = 1;
/// Bytes of what is said of a region with one such part.
const MAPPABLE_INFO: u32 = 64;
/// VFIO_IRQ_INFO_EVENTFD; vectors come and go one by one.
const IRQ_FLAGS: u32 = 1;

/// Why a command is not obeyed. The client gets an error number, if it wants a reply.
#[derive(Debug, Error)]
pub enum CommandRefusal {
    /// It is not understood.
    #[error(transparent)]
    NotUnderstood(#[from] NotUnderstood),
    /// The version has been agreed on already.
    #[error("a second VERSION")]
    AgreedAlready,
    /// Flags that nobody here knows, or that do not go together.
    #[error("flags {0:#x}")]
    Flags(u32),
    /// More or fewer descriptors than the command needs.
    #[error("{have} descriptors instead of {need}")]
    Descriptors {
        /// How many came.
        have: usize,
        /// How many it needs.
        need: usize,
    },
    /// Memory is mapped there.
    #[error("memory is mapped at {0:#x} already")]
    Overlaps(u64),
    /// More than [`MAX_MAPS`] ranges.
    #[error("more than {MAX_MAPS} maps")]
    TooManyMaps,
    /// Nothing is mapped with this address and size.
    #[error("nothing of {size:#x} bytes is mapped at {address:#x}")]
    NoSuchMap {
        /// The address.
        address: u64,
        /// The size.
        size: u64,
    },
    /// Nobody keeps track of what is written.
    #[error("dirty pages are not tracked")]
    NoDirtyPages,
    /// The memory cannot be used.
    #[error("guest memory: {0}")]
    Memory(#[from] MemoryError),
    /// A PCI function has no such region.
    #[error("no region {0}")]
    NoSuchRegion(u32),
    /// An access that there is no answer to.
    #[error("region {region}: {why}")]
    Access {
        /// The region.
        region: u32,
        /// What is wrong with it.
        why: BadAccess,
    },
    /// More than [`MAX_DATA`] bytes at a time, or none.
    #[error("{0} bytes at a time")]
    Count(u32),
    /// The function has no such interrupts.
    #[error("no interrupts {start} to {start}+{count} of kind {index}")]
    NoSuchIrqs {
        /// Which kind.
        index: u32,
        /// The first.
        start: u32,
        /// How many.
        count: u32,
    },
    /// A descriptor that is no usable notification.
    #[error("interrupt: {0}")]
    EventFd(#[from] EventFdError),
}

impl CommandRefusal {
    /// The error number of its reply.
    fn errno(&self) -> Errno {
        match self {
            CommandRefusal::NotUnderstood(NotUnderstood::Unknown(_))
            | CommandRefusal::NoDirtyPages => Errno::EOPNOTSUPP,
            CommandRefusal::Overlaps(_) => Errno::EEXIST,
            CommandRefusal::TooManyMaps
            | CommandRefusal::Memory(MemoryError::TooManyRegions | MemoryError::TooBig) => {
                Errno::ENOSPC
            }
            CommandRefusal::NoSuchMap { .. } => Errno::ENOENT,
            _ => Errno::EINVAL,
        }
    }
}

/// Why a session cannot go on.
#[derive(Debug, Error)]
pub enum SessionEnd {
    /// Something else comes before the version.
    #[error("command {0} before VERSION")]
    NoVersion(u16),
    /// A version of the protocol that we do not speak.
    #[error("protocol version {0}.{1}, and not 0.x")]
    Version(u16, u16),
    /// What a client says of itself is no such JSON.
    #[error("version data: {0}")]
    NoJson(#[from] serde_json::Error),
    /// The memory behind a map vanished (its file was truncated).
    #[error("guest memory vanished")]
    MemoryVanished,
    /// A descriptor that interrupts was made to block.
    #[error("an interrupt's descriptor blocks")]
    Blocks,
}

/// What a message came to, so far.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is to be sent.
    pub reply: Option<Vec<u8>>,
    /// The file that goes with it.
    pub file: Option<Arc<OwnedFd>>,
    /// Why it was not obeyed, if it was not.
    pub refused: Option<CommandRefusal>,
}

impl Outcome {
    /// That of a message with this head: the payload of its reply, or why it is not obeyed.
    fn of(
        header: &Header,
        done: Result<Vec<u8>, CommandRefusal>,
        file: Option<Arc<OwnedFd>>,
    ) -> Outcome {
        let (reply, refused) = match done {
            Ok(payload) => (header.reply(&payload), None),
            Err(why) => (header.error(why.errno()), Some(why)),
        };
        Outcome {
            reply: header.wants_reply.then_some(reply),
            file,
            refused,
        }
    }
}

/// A message of several writes of which not all have been done.
#[derive(Debug)]
struct UnderWay {
    header: Header,
    /// How many it says.
    all: usize,
    rest: std::vec::IntoIter<ShortWrite>,
}

/// A range of addresses that the client has mapped.
#[derive(Debug)]
struct Map {
    address: u64,
    size: u64,
    /// Whether the function can reach it.
    reached: bool,
}

impl Map {
    fn spec(&self) -> RegionSpec {
        RegionSpec {
            guest_addr: self.address,
            size: self.size,
            // There are no other addresses.
            user_addr: self.address,
            mmap_offset: 0,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Session {
    agreed: bool,
    maps: Vec<Map>,
    /// Memory that is the guest's no more.
    gone: Vec<Arc<GuestMemory>>,
    under_way: Option<UnderWay>,
    /// What its descriptors may cost those who signal on them.
    cost: Arc<SignalCost>,
}

/// What one side of a connection says of itself: `capabilities` of VFIO_USER_VERSION.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Proposal {
    capabilities: Proposed,
}

/// As far as it makes a difference here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Proposed {
    write_multiple: bool,
}

#[derive(Debug, Serialize)]
struct Capabilities {
    max_msg_fds: usize,
    max_data_xfer_size: usize,
    max_dma_maps: usize,
    /// Left out if the client does not know it: what is agreed on is a part of what it proposes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    write_multiple: bool,
}

impl Session {
    /// Whether the client has said which memory there is and shared nothing of it: its guest will see no frame.
    #[must_use]
    pub fn shares_nothing(&self) -> bool {
        !self.maps.is_empty() && !self.maps.iter().any(|map| map.reached)
    }

    /// Memory that was the guest's: to drop the last reference to some takes as long as it is large.
    pub fn take_gone(&mut self) -> Vec<Arc<GuestMemory>> {
        std::mem::take(&mut self.gone)
    }

    /// Whether what the client shares can still be used.
    ///
    /// # Errors
    /// [`SessionEnd`]: not any more.
    pub fn check_shared(&self, slot: &Slot) -> Result<(), SessionEnd> {
        if self.cost.is_too_high() {
            Err(SessionEnd::Blocks)
        } else if slot.memory().faulted() {
            Err(SessionEnd::MemoryVanished)
        } else {
            Ok(())
        }
    }

    /// The head of a message that has been obeyed in part: [`go_on`](Self::go_on) comes before the next message.
    #[must_use]
    pub fn under_way(&self) -> Option<Header> {
        self.under_way.as_ref().map(|message| message.header)
    }

    /// Does the next write of the message that is [under way](Self::under_way); the reply comes with the last one.
    ///
    /// # Errors
    /// As of [`receive`](Self::receive).
    pub fn go_on(&mut self, slot: &mut Slot, host: &mut dyn Host) -> Result<Outcome, SessionEnd> {
        self.check_shared(slot)?;
        let Some(message) = &mut self.under_way else {
            return Ok(Outcome::default());
        };
        let next = message.rest.next();
        let done = next.map_or(Ok(()), |next| write_short(&next, slot, host));
        if done.is_ok() && message.rest.len() > 0 {
            return Ok(Outcome::default());
        }
        let header = message.header;
        let done = done.map(|()| (message.all as u64).to_ne_bytes().to_vec());
        self.under_way = None;
        Ok(Outcome::of(&header, done, None))
    }

    /// Takes a message with its descriptors and obeys it, one of several writes [in part](Self::under_way).
    ///
    /// # Errors
    /// [`SessionEnd`]: there is no going on with this client.
    pub fn receive(
        &mut self,
        header: &Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
        slot: &mut Slot,
        host: &mut dyn Host,
    ) -> Result<Outcome, SessionEnd> {
        self.check_shared(slot)?;
        slot.look(host);
        let command = Command::parse(header, payload);
        let mut file = None;
        let done = match command {
            Ok(Command::Version { major, minor, data }) if !self.agreed => {
                Ok(self.version(major, minor, data)?)
            }
            _ if !self.agreed => return Err(SessionEnd::NoVersion(header.command)),
            Ok(command) => self.obey(header, command, fds, &mut file, slot, host),
            Err(why) => Err(why.into()),
        };
        match self.under_way {
            Some(_) => self.go_on(slot, host),
            None => Ok(Outcome::of(header, done, file)),
        }
    }

    fn version(&mut self, major: u16, minor: u16, data: &[u8]) -> Result<Vec<u8>, SessionEnd> {
        if major != VERSION.0 {
            return Err(SessionEnd::Version(major, minor));
        }
        let text = data.strip_suffix(&[0]).unwrap_or(data);
        let Proposal { capabilities } = match text {
            [] => Proposal::default(),
            text => serde_json::from_slice(text)?,
        };
        self.agreed = true;
        let capabilities = Capabilities {
            max_msg_fds: MAX_FDS,
            max_data_xfer_size: MAX_DATA,
            max_dma_maps: MAX_MAPS,
            write_multiple: capabilities.write_multiple,
        };
        let mut reply = Vec::new();
        reply.extend(major.to_ne_bytes());
        reply.extend(minor.min(VERSION.1).to_ne_bytes());
        let said = serde_json::json!({ "capabilities": capabilities });
        reply.extend(said.to_string().into_bytes());
        reply.push(0);
        Ok(reply)
    }

    /// Does what a command says; the payload of its reply, and the `file` that goes with that. One of several writes is only begun.
    fn obey(
        &mut self,
        header: &Header,
        command: Command<'_>,
        fds: Vec<OwnedFd>,
        file: &mut Option<Arc<OwnedFd>>,
        slot: &mut Slot,
        host: &mut dyn Host,
    ) -> Result<Vec<u8>, CommandRefusal> {
        match command {
            Command::Version { .. } => Err(CommandRefusal::AgreedAlready),
            Command::DmaMap(map) => self.map(map, fds, slot, host).map(|()| Vec::new()),
            Command::DmaUnmap(unmap) => self.unmap(unmap, slot, host),
            Command::GetInfo => Ok(words([16, DEVICE_FLAGS, REGIONS, IRQ_INDEXES])),
            Command::GetRegionInfo { region, room } => {
                let (info, pages) = region_info(region, room, slot)?;
                *file = pages.map(|pages| Arc::clone(&pages.file));
                Ok(info)
            }
            Command::GetIrqInfo(index) => irq_info(index, slot),
            Command::SetIrqs(irqs) => self.set_irqs(irqs, fds, slot).map(|()| Vec::new()),
            Command::Read(access) => read(access, slot, host),
            Command::Write(access, data) => {
                write(access, data, slot, host)?;
                Ok(head(&access))
            }
            Command::WriteMulti(writes) => {
                self.under_way = Some(UnderWay {
                    header: *header,
                    all: writes.len(),
                    rest: writes.into_iter(),
                });
                Ok(Vec::new())
            }
            Command::Reset => {
                slot.reset(host);
                Ok(Vec::new())
            }
        }
    }

    fn map(
        &mut self,
        map: DmaMap,
        mut fds: Vec<OwnedFd>,
        slot: &mut Slot,
        host: &mut dyn Host,
    ) -> Result<(), CommandRefusal> {
        let DmaMap {
            flags,
            offset,
            address,
            size,
        } = map;
        if flags & !(DmaMap::READABLE | DmaMap::WRITEABLE) != 0 {
            return Err(CommandRefusal::Flags(flags));
        }
        let fd = fds.pop();
        if !fds.is_empty() {
            let have = fds.len().saturating_add(1);
            return Err(CommandRefusal::Descriptors { have, need: 1 });
        }
        if size == 0 {
            return Err(MemoryError::Empty.into());
        }
        let last = size
            .checked_sub(1)
            .and_then(|more| address.checked_add(more));
        let last = last.ok_or(MemoryError::Wraps)?;
        // Of maps that are in, none wraps.
        let overlaps = |map: &Map| {
            address <= map.address.saturating_add(map.size.saturating_sub(1)) && map.address <= last
        };
        if self.maps.iter().any(overlaps) {
            return Err(CommandRefusal::Overlaps(address));
        }
        if self.maps.len() >= MAX_MAPS {
            return Err(CommandRefusal::TooManyMaps);
        }
        let fd = fd.filter(|_| flags & DmaMap::WRITEABLE != 0);
        let map = Map {
            address,
            size,
            reached: fd.is_some(),
        };
        if let Some(fd) = fd {
            let spec = RegionSpec {
                mmap_offset: offset,
                ..map.spec()
            };
            let memory = slot.memory().with_region(spec, fd)?;
            self.gone.push(slot.set_memory(memory, host));
        }
        self.maps.push(map);
        Ok(())
    }

    fn unmap(
        &mut self,
        unmap: DmaUnmap,
        slot: &mut Slot,
        host: &mut dyn Host,
    ) -> Result<Vec<u8>, CommandRefusal> {
        let DmaUnmap {
            flags,
            address,
            size,
        } = unmap;
        match flags {
            0 => {
                let found = |map: &Map| (map.address, map.size) == (address, size);
                let at = self.maps.iter().position(found);
                let at = at.ok_or(CommandRefusal::NoSuchMap { address, size })?;
                let map = self.maps.swap_remove(at);
                if map.reached {
                    let memory = slot.memory().without_region(&map.spec())?;
                    self.gone.push(slot.set_memory(memory, host));
                }
            }
            DmaUnmap::ALL if (address, size) == (0, 0) => {
                self.maps.clear();
                let none = slot.no_memory();
                self.gone.push(slot.set_memory(none, host));
            }
            _ if flags & 1 != 0 => return Err(CommandRefusal::NoDirtyPages),
            _ => return Err(CommandRefusal::Flags(flags)),
        }
        let mut reply = words([24, flags]);
        reply.extend(address.to_ne_bytes());
        reply.extend(size.to_ne_bytes());
        Ok(reply)
    }

    fn set_irqs(
        &self,
        irqs: SetIrqs<'_>,
        fds: Vec<OwnedFd>,
        slot: &Slot,
    ) -> Result<(), CommandRefusal> {
        let SetIrqs {
            flags,
            index,
            start,
            count,
            data,
        } = irqs;
        let vectors = slot.vectors();
        let all = vectors.len();
        let none = CommandRefusal::NoSuchIrqs {
            index,
            start,
            count,
        };
        let first = usize::try_from(start).unwrap_or(usize::MAX);
        let number = usize::try_from(count).unwrap_or(usize::MAX);
        let end = first.checked_add(number);
        let Some(end) = end.filter(|end| *end <= if index == MSIX_IRQ { all } else { 0 }) else {
            return Err(none);
        };
        let range = (first..end).filter_map(|vector| u16::try_from(vector).ok());
        if flags & !SetIrqs::DATA_EVENTFD == SetIrqs::TRIGGER {
            let have = fds.len();
            if have != number && have != 0 {
                return Err(CommandRefusal::Descriptors { have, need: number });
            }
            // All of them or none.
            let to = fds.into_iter().map(EventFd::to_signal);
            let to = to.collect::<Result<Vec<_>, _>>()?;
            let to = to.into_iter().map(|to| Some(to.with(&self.cost)));
            // Without descriptors they lead nowhere.
            for (vector, to) in range.zip(to.chain(std::iter::repeat_n(None, number))) {
                vectors.set(vector, to);
            }
            return Ok(());
        }
        if !fds.is_empty() {
            return Err(CommandRefusal::Descriptors {
                have: fds.len(),
                need: 0,
            });
        }
        const NONE: u32 = SetIrqs::DATA_NONE | SetIrqs::TRIGGER;
        const BOOL: u32 = SetIrqs::DATA_BOOL | SetIrqs::TRIGGER;
        match flags {
            NONE if (first, number) == (0, 0) => {
                if index == MSIX_IRQ {
                    vectors.clear();
                }
            }
            NONE => range.for_each(|vector| vectors.raise(vector)),
            BOOL if data.len() == number => {
                let meant = range.zip(data).filter(|(_, meant)| **meant != 0);
                meant.for_each(|(vector, _)| vectors.raise(vector));
            }
            _ => return Err(CommandRefusal::Flags(flags)),
        }
        Ok(())
    }
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// An access as replies repeat it.
fn head(access: &Access) -> Vec<u8> {
    let mut head = access.offset.to_ne_bytes().to_vec();
    head.extend(words([access.region, access.count]));
    head
}

/// What there is to say of a region, and the pages of it that the client may map, if there is room to say which those are.
fn region_info(
    region: u32,
    room: u32,
    slot: &Slot,
) -> Result<(Vec<u8>, Option<&SharedPages>), CommandRefusal> {
    if region >= REGIONS {
        return Err(CommandRefusal::NoSuchRegion(region));
    }
    let mut bars = slot.identity().bars.iter();
    let bar = bars.find(|bar| u32::from(bar.index) == region);
    let size = match region {
        CONFIG_REGION => CONFIG_SIZE as u64,
        _ => bar.map_or(0, |bar| bar.size),
    };
    let shared = slot.shared().filter(|pages| u32::from(pages.bar) == region);
    let (len, flags, capabilities) = match (size, shared) {
        (0, _) => (32, 0, 0),
        (_, None) => (32, REGION_FLAGS, 0),
        (_, Some(_)) => (MAPPABLE_INFO, REGION_FLAGS | MAPPABLE, 32),
    };
    let mut reply = words([len, flags, region, capabilities]);
    reply.extend(size.to_ne_bytes());
    reply.extend(0u64.to_ne_bytes());
    let told = shared.filter(|_| room >= len);
    if let Some(pages) = told {
        // The capability and its version, no other behind it, one area.
        reply.extend([SPARSE_MMAP, 1].into_iter().flat_map(u16::to_ne_bytes));
        reply.extend(words([0, 1, 0]));
        reply.extend(pages.offset.to_ne_bytes());
        reply.extend(pages.size.to_ne_bytes());
    }
    Ok((reply, told))
}

fn irq_info(index: u32, slot: &Slot) -> Result<Vec<u8>, CommandRefusal> {
    if index >= IRQ_INDEXES {
        let (start, count) = (0, 0);
        return Err(CommandRefusal::NoSuchIrqs {
            index,
            start,
            count,
        });
    }
    let vectors = u32::from(slot.identity().msix.vectors);
    let (flags, count) = if index == MSIX_IRQ {
        (IRQ_FLAGS, vectors)
    } else {
        (0, 0)
    };
    Ok(words([16, flags, index, count]))
}

/// Where in configuration space an access is, if it is inside.
fn in_config(access: &Access) -> Option<usize> {
    let offset = usize::try_from(access.offset).ok()?;
    let end = offset.checked_add(usize::try_from(access.count).ok()?)?;
    (end <= CONFIG_SIZE).then_some(offset)
}

/// The BAR that a region is.
fn bar(region: u32) -> Result<u8, CommandRefusal> {
    match u8::try_from(region) {
        Ok(bar) if region < REGIONS => Ok(bar),
        _ => Err(CommandRefusal::NoSuchRegion(region)),
    }
}

fn read(access: Access, slot: &mut Slot, host: &mut dyn Host) -> Result<Vec<u8>, CommandRefusal> {
    let Access {
        offset,
        region,
        count,
    } = access;
    let refused = |why| CommandRefusal::Access { region, why };
    // Before there is room for it: it may be 4 GiB.
    let len = usize::try_from(count)
        .ok()
        .filter(|count| (1..=MAX_DATA).contains(count));
    let mut data = vec![0; len.ok_or(CommandRefusal::Count(count))?];
    if region == CONFIG_REGION {
        let offset = in_config(&access).ok_or(refused(BadAccess::Outside))?;
        slot.read_config(offset, &mut data);
    } else {
        let bar = bar(region)?;
        slot.read_bar(bar, offset, &mut data, host)
            .map_err(refused)?;
    }
    let mut reply = head(&access);
    reply.append(&mut data);
    Ok(reply)
}

fn write(
    access: Access,
    data: &[u8],
    slot: &mut Slot,
    host: &mut dyn Host,
) -> Result<(), CommandRefusal> {
    let Access { offset, region, .. } = access;
    let refused = |why| CommandRefusal::Access { region, why };
    if region == CONFIG_REGION {
        let offset = in_config(&access).ok_or(refused(BadAccess::Outside))?;
        slot.write_config(offset, data, host);
        return Ok(());
    }
    slot.write_bar(bar(region)?, offset, data, host)
        .map_err(refused)
}

fn write_short(
    short: &ShortWrite,
    slot: &mut Slot,
    host: &mut dyn Host,
) -> Result<(), CommandRefusal> {
    let ShortWrite { access, data } = short;
    let len = usize::try_from(access.count).unwrap_or(usize::MAX);
    let data = data.get(..len).ok_or(CommandRefusal::Count(access.count))?;
    write(*access, data, slot, host)
}

#[cfg(test)]
mod tests;
