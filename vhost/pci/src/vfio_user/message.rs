//! vfio-user messages: the header, the commands that a server of a PCI function answers, and their payloads.
//!
//! Bytes in, values out; no state, no I/O. Numbers are in the byte order of the host, as the document says ("Protocol
//! Specification"). What a payload means is [`session`](super::session)'s business.

use thiserror::Error;
use vf_vhost::channel::Head;
use vf_vhost::error::Malformed;

/// Bytes of a header.
pub const HEADER_LEN: usize = 16;

/// Bytes that may be read or written by one message (`max_data_xfer_size`): a whole configuration space.
pub const MAX_DATA: usize = 4096;

/// Bytes of the longest payload that is read: a REGION_WRITE with all the data that it may have.
pub const MAX_PAYLOAD: usize = 16 + MAX_DATA;

/// Descriptors that a message may carry (`max_msg_fds`). QEMU 11.1 hangs up on whoever takes more than these.
pub const MAX_FDS: usize = 16;

/// Kinds of interrupts that VFIO knows of a PCI function; MSI-X is one of them.
pub const IRQ_INDEXES: u32 = 5;
/// The index of MSI-X.
pub const MSIX_IRQ: u32 = 2;

/// Regions that VFIO knows of a PCI function.
pub const REGIONS: u32 = 9;
/// The region that is configuration space; 0 to 5 are BARs.
pub const CONFIG_REGION: u32 = 7;

const TYPE: u32 = 0xf;
const COMMAND: u32 = 0;
const REPLY: u32 = 1;
const NO_REPLY: u32 = 1 << 4;
const ERROR: u32 = 1 << 5;

/// Command numbers of the document, as far as they are served.
mod code {
    pub(super) const VERSION: u16 = 1;
    pub(super) const DMA_MAP: u16 = 2;
    pub(super) const DMA_UNMAP: u16 = 3;
    pub(super) const DEVICE_GET_INFO: u16 = 4;
    pub(super) const DEVICE_GET_REGION_INFO: u16 = 5;
    pub(super) const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub(super) const DEVICE_SET_IRQS: u16 = 8;
    pub(super) const REGION_READ: u16 = 9;
    pub(super) const REGION_WRITE: u16 = 10;
    pub(super) const DEVICE_RESET: u16 = 13;
    pub(super) const REGION_WRITE_MULTI: u16 = 15;
}

/// The head of a message to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the sender calls the message; the reply has the same.
    pub id: u16,
    /// Command number.
    pub command: u16,
    /// Bytes that follow.
    pub payload: usize,
    /// Whether it is answered: posted writes are not.
    pub wants_reply: bool,
}

impl Header {
    /// The header of a command.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Header, Malformed> {
        let [i0, i1, c0, c1, s0, s1, s2, s3, f0, f1, f2, f3, ..] = bytes;
        let size = u32::from_ne_bytes([s0, s1, s2, s3]);
        let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
        if flags & TYPE != COMMAND {
            return Err(Malformed::Reply);
        }
        let payload = usize::try_from(size).ok();
        let payload = payload.and_then(|size| size.checked_sub(HEADER_LEN));
        match payload {
            Some(payload) if payload <= MAX_PAYLOAD => Ok(Header {
                id: u16::from_ne_bytes([i0, i1]),
                command: u16::from_ne_bytes([c0, c1]),
                payload,
                wants_reply: flags & NO_REPLY == 0,
            }),
            _ => Err(Malformed::Size(size)),
        }
    }

    /// The reply to it, ready to be sent.
    #[must_use]
    pub fn reply(&self, payload: &[u8]) -> Vec<u8> {
        self.message(payload, REPLY, 0)
    }

    /// The reply to it that says that it failed.
    #[must_use]
    pub fn error(&self, errno: Errno) -> Vec<u8> {
        self.message(&[], REPLY | ERROR, errno.0)
    }

    fn message(&self, payload: &[u8], flags: u32, error: u32) -> Vec<u8> {
        // Replies are no longer than what may be read at once, and a little.
        let size = u32::try_from(payload.len().saturating_add(HEADER_LEN)).unwrap_or(u32::MAX);
        let mut message = Vec::with_capacity(payload.len().saturating_add(HEADER_LEN));
        message.extend(self.id.to_ne_bytes());
        message.extend(self.command.to_ne_bytes());
        for word in [size, flags, error] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(payload);
        message
    }
}

impl Head for Header {
    type Bytes = [u8; HEADER_LEN];

    fn parse(bytes: [u8; HEADER_LEN]) -> Result<Header, Malformed> {
        Header::parse(bytes)
    }

    fn payload_len(&self) -> usize {
        self.payload
    }
}

/// An error number of Linux, as a reply carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub u32);

impl Errno {
    /// No such entry.
    pub const ENOENT: Errno = Errno(2);
    /// It exists already.
    pub const EEXIST: Errno = Errno(17);
    /// Invalid argument.
    pub const EINVAL: Errno = Errno(22);
    /// No space left.
    pub const ENOSPC: Errno = Errno(28);
    /// Operation not supported.
    pub const EOPNOTSUPP: Errno = Errno(95);
}

/// Memory of the guest that the function may reach (VFIO_USER_DMA_MAP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaMap {
    /// What is allowed.
    pub flags: u32,
    /// Where it starts in its file.
    pub offset: u64,
    /// Its first address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl DmaMap {
    /// It may be read.
    pub const READABLE: u32 = 1;
    /// It may be written.
    pub const WRITEABLE: u32 = 2;
}

/// Memory that it may reach no longer (VFIO_USER_DMA_UNMAP).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DmaUnmap {
    /// Whether more is wanted than that.
    pub flags: u32,
    /// Its first address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

impl DmaUnmap {
    /// All there is, whatever address and size (VFIO_DMA_UNMAP_FLAG_ALL).
    pub const ALL: u32 = 2;
}

/// What is to become of interrupts (VFIO_USER_DEVICE_SET_IRQS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetIrqs<'a> {
    /// What the data is, and what is to be done.
    pub flags: u32,
    /// Which kind of interrupt.
    pub index: u32,
    /// The first of that kind.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// What follows.
    pub data: &'a [u8],
}

impl SetIrqs<'_> {
    /// There is no data.
    pub const DATA_NONE: u32 = 1;
    /// A byte for each, which says whether it is meant.
    pub const DATA_BOOL: u32 = 1 << 1;
    /// A descriptor for each, or none at all.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// It is about what is triggered.
    pub const TRIGGER: u32 = 1 << 5;
}

/// Bytes of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Where in the region.
    pub offset: u64,
    /// Which region.
    pub region: u32,
    /// How many.
    pub count: u32,
}

/// One of the writes of a VFIO_USER_REGION_WRITE_MULTI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShortWrite {
    /// Where, and how many bytes.
    pub access: Access,
    /// The first of these.
    pub data: [u8; 8],
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command<'a> {
    /// VFIO_USER_VERSION: the version that it proposes, and what it can do, in JSON.
    Version {
        /// Nothing is understood of any but 0.
        major: u16,
        /// Older ones of the same major version are.
        minor: u16,
        /// The JSON, with the zero behind it.
        data: &'a [u8],
    },
    /// VFIO_USER_DMA_MAP.
    DmaMap(DmaMap),
    /// VFIO_USER_DMA_UNMAP.
    DmaUnmap(DmaUnmap),
    /// VFIO_USER_DEVICE_GET_INFO.
    GetInfo,
    /// VFIO_USER_DEVICE_GET_REGION_INFO.
    GetRegionInfo {
        /// Of this region.
        region: u32,
        /// Bytes that the answer may have.
        room: u32,
    },
    /// VFIO_USER_DEVICE_GET_IRQ_INFO, of this kind.
    GetIrqInfo(u32),
    /// VFIO_USER_DEVICE_SET_IRQS.
    SetIrqs(SetIrqs<'a>),
    /// VFIO_USER_REGION_READ.
    Read(Access),
    /// VFIO_USER_REGION_WRITE, and the bytes.
    Write(Access, &'a [u8]),
    /// VFIO_USER_REGION_WRITE_MULTI.
    WriteMulti(Vec<ShortWrite>),
    /// VFIO_USER_DEVICE_RESET.
    Reset,
}

/// A command that is not understood; the next one may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotUnderstood {
    /// One that nobody here serves.
    #[error("command {0} is not served")]
    Unknown(u16),
    /// A payload that its command does not have.
    #[error("command {command} with a payload of {len} bytes")]
    Payload {
        /// Its number.
        command: u16,
        /// Bytes that came.
        len: usize,
    },
}

impl<'a> Command<'a> {
    /// What a message wants.
    ///
    /// # Errors
    /// [`NotUnderstood`].
    pub fn parse(header: &Header, payload: &'a [u8]) -> Result<Command<'a>, NotUnderstood> {
        let mut fields = Fields(payload);
        let parsed = match header.command {
            code::VERSION => fields.version(),
            code::DMA_MAP => fields.dma_map(),
            code::DMA_UNMAP => fields.dma_unmap(),
            code::DEVICE_GET_INFO => fields.info(4).map(|_| Command::GetInfo),
            code::DEVICE_GET_REGION_INFO => fields
                .info(8)
                .map(|(region, room)| Command::GetRegionInfo { region, room }),
            code::DEVICE_GET_IRQ_INFO => {
                fields.info(4).map(|(index, _)| Command::GetIrqInfo(index))
            }
            code::DEVICE_SET_IRQS => fields.set_irqs(),
            code::REGION_READ => fields.access().map(Command::Read),
            code::REGION_WRITE => fields.write(),
            code::DEVICE_RESET => Some(Command::Reset),
            code::REGION_WRITE_MULTI => fields.write_multi(),
            unknown => return Err(NotUnderstood::Unknown(unknown)),
        };
        let left = fields.0.len();
        parsed.filter(|_| left == 0).ok_or(NotUnderstood::Payload {
            command: header.command,
            len: payload.len(),
        })
    }
}

/// A payload that is read from front to back.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn version(&mut self) -> Option<Command<'a>> {
        Some(Command::Version {
            major: self.u16()?,
            minor: self.u16()?,
            data: self.rest(),
        })
    }

    fn dma_map(&mut self) -> Option<Command<'a>> {
        let _argsz = self.u32()?;
        Some(Command::DmaMap(DmaMap {
            flags: self.u32()?,
            offset: self.u64()?,
            address: self.u64()?,
            size: self.u64()?,
        }))
    }

    fn dma_unmap(&mut self) -> Option<Command<'a>> {
        let _argsz = self.u32()?;
        let unmap = DmaUnmap {
            flags: self.u32()?,
            address: self.u64()?,
            size: self.u64()?,
        };
        // Room for a bitmap, which nobody gets, may follow.
        self.rest();
        Some(Command::DmaUnmap(unmap))
    }

    /// A question about the device, a region or a kind of interrupt, of as many words as the answer has at least; the index of the latter, and for how
    /// many bytes of an answer there is room.
    fn info(&mut self, words: u32) -> Option<(u32, u32)> {
        let room = self.u32()?;
        let _flags = self.u32()?;
        let index = self.u32()?;
        for _ in 3..words {
            self.u32()?;
        }
        // Some clients send more, or nothing, behind what is asked.
        self.rest();
        (room >= words.saturating_mul(4)).then_some((index, room))
    }

    fn set_irqs(&mut self) -> Option<Command<'a>> {
        let _argsz = self.u32()?;
        Some(Command::SetIrqs(SetIrqs {
            flags: self.u32()?,
            index: self.u32()?,
            start: self.u32()?,
            count: self.u32()?,
            data: self.rest(),
        }))
    }

    fn access(&mut self) -> Option<Access> {
        Some(Access {
            offset: self.u64()?,
            region: self.u32()?,
            count: self.u32()?,
        })
    }

    fn write(&mut self) -> Option<Command<'a>> {
        let access = self.access()?;
        let data = self.rest();
        let whole = usize::try_from(access.count).is_ok_and(|count| count == data.len());
        whole.then_some(Command::Write(access, data))
    }

    fn write_multi(&mut self) -> Option<Command<'a>> {
        let count = self.u64()?;
        let mut writes = Vec::new();
        // What has come is the bound, whatever the count says.
        while !self.0.is_empty() {
            let access = self.access()?;
            let data = self.take()?;
            writes.push(ShortWrite { access, data });
        }
        let whole = usize::try_from(count).is_ok_and(|count| count == writes.len());
        whole.then_some(Command::WriteMulti(writes))
    }
}
