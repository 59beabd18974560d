//! What a front end, a driver or the system does that cannot be served, in one place below everything that finds it out.
//!
//! Three kinds that are never mixed: a [`SessionRefusal`] of a request or a session, a [`RingError`] by which a ring is broken, a
//! [`FrameFault`] for which a frame is dropped and counted.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

use crate::eventfd::EventFdError;
use crate::features::VirtioFeatures;

/// Why a request was refused, or a session ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SessionRefusal {
    /// The bytes are no message.
    #[error("malformed message: {0}")]
    Malformed(#[from] Malformed),
    /// A request that is not served.
    #[error("request {0} is not served")]
    Unknown(u32),
    /// The driver may not write the device configuration.
    #[error("the device configuration is read-only")]
    ReadOnly,
    /// Virtio feature bits that were not offered.
    #[error("virtio features {0:#x} were not offered")]
    Features(VirtioFeatures),
    /// Protocol features that were not offered.
    #[error("protocol features {0:#x} were not offered")]
    ProtocolFeatures(u64),
    /// The device has no such ring.
    #[error("no ring {0}")]
    NoSuchRing(u32),
    /// A ring size that is not from 1 to 32768, or of a split ring not a power of two.
    #[error("ring size {0}")]
    RingSize(u32),
    /// A base of a split ring beyond 16 bits.
    #[error("ring base {0:#x}")]
    RingBase(u32),
    /// The ring is not in guest memory, or cannot be used.
    #[error("ring {0}: {1}")]
    Ring(u32, #[source] RingError),
    /// A descriptor that is no usable notification.
    #[error("notification: {0}")]
    EventFd(#[from] EventFdError),
    /// More or fewer descriptors than the request needs.
    #[error("{have} descriptors instead of {need}")]
    Descriptors {
        /// How many came.
        have: usize,
        /// How many the request needs.
        need: usize,
    },
    /// The memory cannot be used.
    #[error("guest memory: {0}")]
    Memory(#[from] MemoryError),
    /// The guest's MTU is beyond the device's.
    #[error("MTU {0}")]
    Mtu(u64),
    /// The memory behind a ring vanished (its file was truncated).
    #[error("guest memory vanished")]
    MemoryVanished,
    /// The device itself gave the session up, because of this fault of a ring.
    #[error("broken ring: {0}")]
    Broken(RingError),
    /// The front end does not read what it asked for.
    #[error("the front end does not read its replies")]
    Unread,
    /// Something else where the reply to this back-end request should be.
    #[error("no reply to back-end request {0}")]
    NoReply(u32),
    /// Something on the socket for back-end requests while none is to be answered.
    #[error("an answer to no back-end request")]
    NotAsked,
    /// A descriptor that is notified was made to block: it has held up whoever notified it, and everybody else.
    #[error("a call or error descriptor blocks")]
    Blocks,
    /// Part of a message, with a descriptor that is not kept until the rest comes.
    #[error("half a message with a descriptor that may hold others")]
    HalfMessage,
    /// More descriptors than a message may carry.
    #[error("too many descriptors")]
    TooManyDescriptors,
    /// The device was told to end the session, or is being removed.
    #[error("closed by the device")]
    Closed,
    /// The socket failed.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
}

impl SessionRefusal {
    /// A front end that did not ask for an acknowledgement cannot learn that a request failed, so
    /// the session ends, unless nothing depends on the request.
    pub(crate) fn harmless(&self) -> bool {
        matches!(
            self,
            SessionRefusal::Unknown(_) | SessionRefusal::ReadOnly | SessionRefusal::Mtu(_)
        )
    }
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A protocol version other than 1.
    #[error("protocol version {0}")]
    Version(u32),
    /// A reply where a request should be.
    #[error("a reply, not a request")]
    Reply,
    /// A payload longer than [`MAX_PAYLOAD`](crate::message::MAX_PAYLOAD).
    #[error("a payload of {0} bytes")]
    TooLong(u32),
    /// A message that does not hold its header, or that is longer than any that is read.
    #[error("a message of {0} bytes")]
    Size(u32),
    /// A payload that is too short or too long for its request.
    #[error("request {request} with a payload of {len} bytes")]
    PayloadLen {
        /// Number of the request.
        request: u32,
        /// Bytes of the payload.
        len: usize,
    },
    /// A memory table with more regions than [`MAX_FDS`](crate::message::MAX_FDS) or than its payload holds.
    #[error("a memory table of {0} regions")]
    Regions(u32),
    /// Reserved bits in the payload of SET_VRING_KICK, CALL or ERR.
    #[error("reserved bits in a ring number ({0:#x})")]
    RingBits(u64),
}

/// Why a region or a set of regions was refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// A region of zero bytes.
    #[error("a region is empty")]
    Empty,
    /// An address or file range that does not fit in 64 bits (or in `usize`).
    #[error("a region wraps around the end of its address space")]
    Wraps,
    /// Two regions share guest addresses.
    #[error("two regions overlap in guest addresses")]
    GuestOverlap,
    /// Two regions share front-end addresses.
    #[error("two regions overlap in user addresses")]
    UserOverlap,
    /// More than [`MAX_REGIONS`](crate::memory::MAX_REGIONS) regions.
    #[error("too many regions")]
    TooManyRegions,
    /// More than [`MAX_TOTAL`](crate::memory::MAX_TOTAL) bytes.
    #[error("more memory than a guest may have")]
    TooBig,
    /// No file of which the kernel itself has all pages: those of a file on a disk have to be read first, and those of FUSE a user
    /// process may withhold, while everybody whose rings the same thread has waits.
    #[error(
        "the descriptor is not shared memory: neither a memfd nor a file on tmpfs (/dev/shm) or hugetlbfs"
    )]
    NotMemory,
    /// The file ends before the region does.
    #[error("the file has {have} bytes, the region needs {need}")]
    FileTooSmall {
        /// Length of the file.
        have: u64,
        /// End of the region in the file.
        need: u64,
    },
    /// No such region to remove.
    #[error("no such region")]
    NoSuchRegion,
    /// So much is mapped for this device, or for all, that the address space has no room for more.
    #[error("no room to map it until memory of before has been given back")]
    NoRoom,
    /// The process cannot have a handler of SIGBUS, without which a file that shrinks would end it.
    #[error("cannot guard the mapping against SIGBUS")]
    Unguarded,
    /// The kernel could not look at the file.
    #[error("cannot look at the file")]
    Stat(#[from] rustix::io::Errno),
    /// The kernel could not map the file.
    #[error("cannot map the file")]
    Map(#[from] vm_memory::mmap::MmapRegionError),
}

/// Bytes of a socket's path, at most: `sun_path` without its zero.
const LONGEST_PATH: usize = 107;

/// Why nobody can listen on a path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process listens there.
    #[error(
        "{path} is in use: another process listens on it; stop that one, or choose another path"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file of another kind is in the way.
    #[error("{path} exists and is {what}, not a stream socket: remove it, or choose another path")]
    NotASocket {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The kernel refused.
    #[error("cannot listen on {path}: {}", reason(.path, .source))]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn reason(path: &Path, error: &io::Error) -> String {
    let length = path.as_os_str().len();
    match error.kind() {
        _ if length > LONGEST_PATH => {
            format!(
                "its path is {length} bytes long, and a socket's can have {LONGEST_PATH} at most"
            )
        }
        ErrorKind::NotFound => "there is no such folder".to_owned(),
        _ if Errno::from_io_error(error) == Some(Errno::MFILE) => {
            format!("{error}: raise the limit (LimitNOFILE= of the unit, or 'ulimit -Hn')")
        }
        _ => error.to_string(),
    }
}

/// What a driver did that its ring cannot go on from; the ring is broken until it is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RingError {
    /// A size that is 0, beyond 32768, or in a split ring not a power of two (virtio 2.7, 2.8.10.1).
    #[error(
        "ring size {0} is not one of 1 to 32768, or not the power of two that a split ring needs"
    )]
    Size(u16),
    /// A ring part on an address that virtio 2.7 or 2.8.10.1 does not allow.
    #[error("ring part is misaligned")]
    Misaligned,
    /// A ring part that is not wholly inside one memory region.
    #[error("ring part is outside guest memory")]
    RingOutside,
    /// The available index is further ahead than the ring has entries, or went back.
    #[error("available index jumped from {from} to {to}")]
    AvailJump {
        /// Entries up to here had been returned.
        from: u16,
        /// The index that was read.
        to: u16,
    },
    /// An available entry, a `next` field or a ring base that is no descriptor of its table.
    #[error("descriptor index {0} out of range")]
    DescOutOfRange(u16),
    /// More descriptors in a chain than the ring has (a loop, or a chain virtio 2.7.5.3.1 or 2.8.17 forbids) or than 1024.
    #[error("descriptor chain longer than the ring or 1024")]
    ChainTooLong,
    /// A receive buffer without room for the virtio-net header, or for anything (virtio 5.1.9.3.1).
    #[error("receive buffer too small for any frame")]
    BufferTooSmall,
    /// An indirect descriptor without `RING_INDIRECT_DESC`, inside an indirect table, with `NEXT`, or in a packed ring in
    /// a chain of several.
    #[error("indirect descriptor where none may be")]
    BadIndirect,
    /// An indirect table that is empty, not a multiple of 16 bytes, or not inside one region.
    #[error("malformed indirect table")]
    BadIndirectTable,
    /// A device-readable buffer after a device-writable one (virtio 2.7.4.2, 2.8.17).
    #[error("readable descriptor after a writable one")]
    ReadableAfterWritable,
    /// A buffer that is not in guest memory.
    #[error("buffer outside guest memory")]
    BufferOutside,
    /// The file behind the memory shrank while it was in use.
    #[error("guest memory vanished")]
    MemoryFault,
    /// A packed ring that was used before, with the base of a new one: so QEMU says it when a back end was killed.
    #[error(
        "the packed ring was used before, and its front end does not say how far: restart the driver in the guest"
    )]
    Lost,
    /// The descriptor by which the driver is called was made to block, and was full.
    #[error("the call descriptor blocks")]
    CallBlocks,
}

/// What is wrong with one frame; the frame is dropped and counted, its ring goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameFault {
    /// The chain is shorter than the virtio-net header.
    #[error("no complete virtio-net header")]
    NoHeader,
    /// The frame is shorter than [`MIN_FRAME`](crate::net_hdr::MIN_FRAME).
    #[error("frame shorter than an Ethernet header")]
    Runt,
    /// The frame is longer than [`MAX_FRAME`](crate::net_hdr::MAX_FRAME).
    #[error("frame longer than any super-frame")]
    Oversize,
    /// A checksum was asked for at a place outside the frame, or in what the frame is judged by.
    #[error("checksum field outside the frame, or in its addresses, tags or ports")]
    ChecksumOutside,
    /// An offload was asked for that was not negotiated.
    #[error("offload not negotiated")]
    NotNegotiated,
    /// A super-frame whose segment size is zero, or that does not ask for its checksum, or whose
    /// checksum is not where its TCP header says.
    #[error("malformed segmentation request")]
    BadGso,
    /// A super-frame that is not TCP over the IP version it claims, or that ends within its headers by the length that it states.
    #[error("super-frame headers cannot be parsed")]
    BadGsoHeaders,
    /// A super-frame that would be more segments than any stack makes of one, or shorter ones.
    #[error("too many segments, or too short ones")]
    TooManySegments,
    /// A super-frame whose headers do not lie in its first [`HEADERS_MAX`](crate::net_hdr::HEADERS_MAX) bytes.
    #[error("super-frame headers are too long")]
    HeadersTooLong,
}
