//! vhost-user messages: the header, the requests a network back end serves, and their payloads.
//!
//! Bytes in, values out; no state, no I/O. Numbers are in the byte order of the host, as the
//! document says. What a payload means is [`session`](crate::session)'s business.

#![expect(
    clippy::arithmetic_side_effects,
    reason = "bounded by the longest message"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "cut to the width that the format has, or bounded before"
)]

use crate::error::Malformed;
use crate::memory::RegionSpec;

/// Bytes of a header.
pub const HEADER_LEN: usize = 12;

/// Bytes of the longest payload that is read. The longest request served, SET_MEM_TABLE, needs
/// 8 + 32 x [`MAX_FDS`].
pub const MAX_PAYLOAD: usize = 4096;

/// Descriptors a message may carry. The document says 8; more memory regions are tolerated.
pub const MAX_FDS: usize = 32;

/// Bytes of a reply that says only whether a request succeeded.
pub(crate) const ACK_LEN: usize = HEADER_LEN + 8;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
const RING_MASK: u64 = 0xff;
const NO_FD: u64 = 1 << 8;

/// Back-end request CONFIG_CHANGE_MSG.
pub(crate) const CONFIG_CHANGE_MSG: u32 = 2;

/// Back-end request VRING_CALL.
pub(crate) const VRING_CALL: u32 = 4;

/// Request numbers of the document, as far as they are served.
mod code {
    pub(super) const GET_FEATURES: u32 = 1;
    pub(super) const SET_FEATURES: u32 = 2;
    pub(super) const SET_OWNER: u32 = 3;
    pub(super) const RESET_OWNER: u32 = 4;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    pub(super) const SET_LOG_BASE: u32 = 6;
    pub(super) const SET_LOG_FD: u32 = 7;
    pub(super) const SET_VRING_NUM: u32 = 8;
    pub(super) const SET_VRING_ADDR: u32 = 9;
    pub(super) const SET_VRING_BASE: u32 = 10;
    pub(super) const GET_VRING_BASE: u32 = 11;
    pub(super) const SET_VRING_KICK: u32 = 12;
    pub(super) const SET_VRING_CALL: u32 = 13;
    pub(super) const SET_VRING_ERR: u32 = 14;
    pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(super) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(super) const GET_QUEUE_NUM: u32 = 17;
    pub(super) const SET_VRING_ENABLE: u32 = 18;
    pub(super) const SEND_RARP: u32 = 19;
    pub(super) const NET_SET_MTU: u32 = 20;
    pub(super) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(super) const GET_CONFIG: u32 = 24;
    pub(super) const SET_CONFIG: u32 = 25;
    pub(super) const RESET_DEVICE: u32 = 34;
    pub(super) const VRING_KICK: u32 = 35;
    pub(super) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(super) const ADD_MEM_REG: u32 = 37;
    pub(super) const REM_MEM_REG: u32 = 38;
}

/// The head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Number of the request.
    pub request: u32,
    /// Version, reply and need-reply bits.
    pub flags: u32,
    /// Bytes of payload that follow.
    pub size: u32,
}

impl Header {
    /// The header of a request.
    ///
    /// # Errors
    /// Another version, a reply, or a payload too long to be read.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Result<Header, Malformed> {
        let [r0, r1, r2, r3, f0, f1, f2, f3, s0, s1, s2, s3] = bytes;
        let header = Header {
            request: u32::from_ne_bytes([r0, r1, r2, r3]),
            flags: u32::from_ne_bytes([f0, f1, f2, f3]),
            size: u32::from_ne_bytes([s0, s1, s2, s3]),
        };
        if header.flags & VERSION_MASK != VERSION {
            return Err(Malformed::Version(header.flags & VERSION_MASK));
        }
        if header.flags & REPLY != 0 {
            return Err(Malformed::Reply);
        }
        if header.size as usize > MAX_PAYLOAD {
            return Err(Malformed::TooLong(header.size));
        }
        Ok(header)
    }

    /// Whether the sender wants to know if the request succeeded.
    pub fn need_reply(&self) -> bool {
        self.flags & NEED_REPLY != 0
    }
}

/// A reply to request number `request`, ready to be sent.
pub fn reply(request: u32, payload: &[u8]) -> Vec<u8> {
    message(request, VERSION | REPLY, payload)
}

/// A request of the back end, ready to be sent.
pub(crate) fn backend_request(request: u32, payload: &[u8], need_reply: bool) -> Vec<u8> {
    let flags = if need_reply { NEED_REPLY } else { 0 };
    message(request, VERSION | flags, payload)
}

/// Whether these are the bytes of the front end's reply to back-end request number `request`.
pub(crate) fn is_reply_to(request: u32, bytes: &[u8; ACK_LEN]) -> bool {
    bytes.starts_with(
        message(request, VERSION | REPLY, &[0; 8])
            .split_at(HEADER_LEN)
            .0,
    )
}

fn message(request: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let size = payload.len() as u32;
    let mut out = Vec::with_capacity(HEADER_LEN + payload.len());
    for field in [request, flags, size] {
        out.extend_from_slice(&field.to_ne_bytes());
    }
    out.extend_from_slice(payload);
    out
}

/// Where a ring is, in the front end's own addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VringAddr {
    /// The descriptor table.
    pub desc: u64,
    /// The available ring.
    pub avail: u64,
    /// The used ring.
    pub used: u64,
}

/// Which part of the device configuration a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigRange {
    /// First byte.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// 0, or 1 while migrating; returned as it came.
    pub flags: u32,
}

/// A request of a front end. Each is the request of that name in the document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the document's
pub enum FrontendRequest {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<RegionSpec>),
    SetLogBase {
        size: u64,
        offset: u64,
    },
    SetLogFd,
    SetVringNum {
        ring: u32,
        num: u32,
    },
    SetVringAddr {
        ring: u32,
        addr: VringAddr,
    },
    SetVringBase {
        ring: u32,
        base: u32,
    },
    GetVringBase {
        ring: u32,
    },
    SetVringKick {
        ring: u32,
        has_fd: bool,
    },
    SetVringCall {
        ring: u32,
        has_fd: bool,
    },
    SetVringErr {
        ring: u32,
        has_fd: bool,
    },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable {
        ring: u32,
        enable: bool,
    },
    SendRarp([u8; 6]),
    NetSetMtu(u64),
    SetBackendReqFd,
    GetConfig(ConfigRange),
    SetConfig,
    ResetDevice,
    VringKick {
        ring: u32,
    },
    GetMaxMemSlots,
    AddMemReg(RegionSpec),
    RemMemReg(RegionSpec),
    /// A request that is not served.
    Unknown(u32),
}

impl FrontendRequest {
    /// Number of [`FrontendRequest::SetLogBase`].
    pub(crate) const SET_LOG_BASE: u32 = code::SET_LOG_BASE;

    /// Number of [`FrontendRequest::SendRarp`].
    pub(crate) const SEND_RARP: u32 = code::SEND_RARP;

    /// Number of [`FrontendRequest::VringKick`].
    pub(crate) const VRING_KICK: u32 = code::VRING_KICK;

    /// Whether request number `request` has a reply of its own, which is then its only one.
    pub fn has_reply(request: u32) -> bool {
        matches!(
            request,
            code::GET_FEATURES
                | code::SET_LOG_BASE
                | code::GET_VRING_BASE
                | code::GET_PROTOCOL_FEATURES
                | code::GET_QUEUE_NUM
                | code::GET_CONFIG
                | code::GET_MAX_MEM_SLOTS
        )
    }

    /// The request with number `request` and this payload.
    ///
    /// A request without a payload may come with one, and a memory table with room for more
    /// regions than it has (User-Mode Linux sends such).
    ///
    /// # Errors
    /// The payload is not one of that request.
    pub fn parse(request: u32, payload: &[u8]) -> Result<FrontendRequest, Malformed> {
        let len = payload.len();
        let mut fields = Fields(payload);
        let malformed = Malformed::PayloadLen { request, len };
        let parsed = match request {
            code::SET_MEM_TABLE => return fields.mem_table().ok_or(malformed)?,
            code::GET_CONFIG => {
                return fields
                    .config_range()
                    .map(FrontendRequest::GetConfig)
                    .ok_or(malformed);
            }
            code::SET_CONFIG => return Ok(FrontendRequest::SetConfig),
            code::GET_FEATURES => return Ok(FrontendRequest::GetFeatures),
            code::SET_OWNER => return Ok(FrontendRequest::SetOwner),
            code::RESET_OWNER => return Ok(FrontendRequest::ResetOwner),
            code::SET_LOG_FD => return Ok(FrontendRequest::SetLogFd),
            code::GET_PROTOCOL_FEATURES => return Ok(FrontendRequest::GetProtocolFeatures),
            code::GET_QUEUE_NUM => return Ok(FrontendRequest::GetQueueNum),
            code::SET_BACKEND_REQ_FD => return Ok(FrontendRequest::SetBackendReqFd),
            code::RESET_DEVICE => return Ok(FrontendRequest::ResetDevice),
            code::GET_MAX_MEM_SLOTS => return Ok(FrontendRequest::GetMaxMemSlots),
            code::SET_FEATURES => fields.u64().map(FrontendRequest::SetFeatures),
            code::SET_PROTOCOL_FEATURES => fields.u64().map(FrontendRequest::SetProtocolFeatures),
            code::SET_LOG_BASE => fields.log_base(),
            code::SEND_RARP => fields.mac().map(FrontendRequest::SendRarp),
            code::NET_SET_MTU => fields.u64().map(FrontendRequest::NetSetMtu),
            code::SET_VRING_NUM => fields
                .state()
                .map(|(ring, num)| FrontendRequest::SetVringNum { ring, num }),
            code::SET_VRING_BASE => fields
                .state()
                .map(|(ring, base)| FrontendRequest::SetVringBase { ring, base }),
            code::GET_VRING_BASE => fields
                .state()
                .map(|(ring, _)| FrontendRequest::GetVringBase { ring }),
            code::VRING_KICK => fields
                .state()
                .map(|(ring, _)| FrontendRequest::VringKick { ring }),
            code::SET_VRING_ENABLE => {
                fields
                    .state()
                    .map(|(ring, on)| FrontendRequest::SetVringEnable {
                        ring,
                        enable: on != 0,
                    })
            }
            code::SET_VRING_ADDR => fields.addr(),
            code::SET_VRING_KICK | code::SET_VRING_CALL | code::SET_VRING_ERR => {
                let bits = fields.u64().filter(|_| len == 8).ok_or(malformed)?;
                if bits & !(RING_MASK | NO_FD) != 0 {
                    return Err(Malformed::RingBits(bits));
                }
                let (ring, has_fd) = ((bits & RING_MASK) as u32, bits & NO_FD == 0);
                Some(match request {
                    code::SET_VRING_KICK => FrontendRequest::SetVringKick { ring, has_fd },
                    code::SET_VRING_CALL => FrontendRequest::SetVringCall { ring, has_fd },
                    _ => FrontendRequest::SetVringErr { ring, has_fd },
                })
            }
            code::ADD_MEM_REG => fields.single_region().map(FrontendRequest::AddMemReg),
            code::REM_MEM_REG => fields.single_region().map(FrontendRequest::RemMemReg),
            other => return Ok(FrontendRequest::Unknown(other)),
        };
        match parsed {
            Some(parsed) if fields.0.is_empty() => Ok(parsed),
            _ => Err(malformed),
        }
    }
}

/// What is left of a payload.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*bytes))
    }

    fn state(&mut self) -> Option<(u32, u32)> {
        Some((self.u32()?, self.u32()?))
    }

    fn log_base(&mut self) -> Option<FrontendRequest> {
        let (size, offset) = (self.u64()?, self.u64()?);
        Some(FrontendRequest::SetLogBase { size, offset })
    }

    /// A station address, in a number's first bytes as they are in memory.
    fn mac(&mut self) -> Option<[u8; 6]> {
        let bytes = self.u64()?.to_ne_bytes();
        bytes.first_chunk().copied()
    }

    fn region(&mut self) -> Option<RegionSpec> {
        Some(RegionSpec {
            guest_addr: self.u64()?,
            size: self.u64()?,
            user_addr: self.u64()?,
            mmap_offset: self.u64()?,
        })
    }

    fn single_region(&mut self) -> Option<RegionSpec> {
        let _padding = self.u64()?;
        self.region()
    }

    fn addr(&mut self) -> Option<FrontendRequest> {
        // The used ring is logged where the memory map has it: without an IOMMU that is the address for the log.
        let (ring, _flags) = self.state()?;
        let (desc, used, avail) = (self.u64()?, self.u64()?, self.u64()?);
        let _log = self.u64()?;
        Some(FrontendRequest::SetVringAddr {
            ring,
            addr: VringAddr { desc, avail, used },
        })
    }

    fn config_range(&mut self) -> Option<ConfigRange> {
        Some(ConfigRange {
            offset: self.u32()?,
            size: self.u32()?,
            flags: self.u32()?,
        })
    }

    /// `None` if the payload is too short for its head.
    fn mem_table(&mut self) -> Option<Result<FrontendRequest, Malformed>> {
        let (count, _padding) = self.state()?;
        if count as usize > MAX_FDS {
            return Some(Err(Malformed::Regions(count)));
        }
        let regions: Option<Vec<RegionSpec>> = (0..count).map(|_| self.region()).collect();
        Some(
            regions
                .map(FrontendRequest::SetMemTable)
                .ok_or(Malformed::Regions(count)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(request: u32, flags: u32, size: u32) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        for (chunk, field) in bytes.chunks_exact_mut(4).zip([request, flags, size]) {
            chunk.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn headers() {
        assert!(Header::parse(header(1, 9, 0)).unwrap().need_reply());
        assert!(!Header::parse(header(1, 1, 4096)).unwrap().need_reply());
        assert_eq!(Header::parse(header(1, 2, 0)), Err(Malformed::Version(2)));
        assert_eq!(Header::parse(header(1, 5, 0)), Err(Malformed::Reply));
        assert_eq!(
            Header::parse(header(1, 1, u32::MAX)),
            Err(Malformed::TooLong(u32::MAX))
        );
    }

    #[test]
    fn a_memory_table_may_have_room_for_more() {
        let mut payload = vec![0; 72];
        payload[0] = 1;
        payload[8..16].copy_from_slice(&0x1000u64.to_ne_bytes());
        payload[16..24].copy_from_slice(&0x2000u64.to_ne_bytes());
        payload[24..32].copy_from_slice(&0x3000u64.to_ne_bytes());
        payload[32..40].copy_from_slice(&0x4000u64.to_ne_bytes());
        let spec = RegionSpec {
            guest_addr: 0x1000,
            size: 0x2000,
            user_addr: 0x3000,
            mmap_offset: 0x4000,
        };
        assert_eq!(
            FrontendRequest::parse(5, &payload),
            Ok(FrontendRequest::SetMemTable(vec![spec]))
        );
        payload[0] = 3;
        assert_eq!(
            FrontendRequest::parse(5, &payload),
            Err(Malformed::Regions(3))
        );
        payload[0] = 33;
        assert_eq!(
            FrontendRequest::parse(5, &payload),
            Err(Malformed::Regions(33))
        );
        assert!(matches!(
            FrontendRequest::parse(5, &payload[..7]),
            Err(Malformed::PayloadLen { .. })
        ));
    }

    #[test]
    fn a_ring_address_has_used_before_avail() {
        let mut payload = Vec::new();
        for field in [3u32, 0] {
            payload.extend_from_slice(&field.to_ne_bytes());
        }
        for field in [0x10u64, 0x20, 0x30, u64::MAX] {
            payload.extend_from_slice(&field.to_ne_bytes());
        }
        let addr = VringAddr {
            desc: 0x10,
            used: 0x20,
            avail: 0x30,
        };
        assert_eq!(
            FrontendRequest::parse(9, &payload),
            Ok(FrontendRequest::SetVringAddr { ring: 3, addr })
        );
    }

    #[test]
    fn a_station_address_is_in_the_first_bytes_of_a_number() {
        assert_eq!(
            FrontendRequest::parse(19, &[2, 0, 0, 0, 0, 7, 0, 0]),
            Ok(FrontendRequest::SendRarp([2, 0, 0, 0, 0, 7]))
        );
    }

    #[test]
    fn the_ring_number_is_one_byte() {
        let parse = |bits: u64| FrontendRequest::parse(12, &bits.to_ne_bytes());
        assert_eq!(
            parse(0x1ff),
            Ok(FrontendRequest::SetVringKick {
                ring: 255,
                has_fd: false
            })
        );
        assert_eq!(
            parse(1),
            Ok(FrontendRequest::SetVringKick {
                ring: 1,
                has_fd: true
            })
        );
        assert_eq!(parse(0x200), Err(Malformed::RingBits(0x200)));
    }

    proptest! {
        /// A request of fixed size is parsed at that size and at no other.
        #[test]
        fn sizes_are_exact(request in 1u32..41, payload in prop::collection::vec(any::<u8>(), 0..100)) {
            let size = match request {
                2 | 8 | 10..=14 | 16 | 18..=20 => 8,
                6 => 16,
                9 | 37 | 38 => 40,
                _ => return Ok(()),
            };
            let wrong = Malformed::PayloadLen { request, len: payload.len() };
            let refused = FrontendRequest::parse(request, &payload) == Err(wrong);
            prop_assert_eq!(refused, payload.len() != size);
        }
    }
}
