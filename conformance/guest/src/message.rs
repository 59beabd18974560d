//! The wire format of vhost-user, as a front end writes and reads it.
//!
//! Pure: bytes in, bytes out. Says nothing about order or state. The constants are the vhost-user
//! document's ("Front-end message types", "Header").

/// Requests a front end sends, by id (vhost-user "Front-end message types").
pub mod request {
    /// Reads the device's feature bits.
    pub const GET_FEATURES: u32 = 1;
    /// Acknowledges feature bits.
    pub const SET_FEATURES: u32 = 2;
    /// Claims the session.
    pub const SET_OWNER: u32 = 3;
    /// Deprecated; disables nothing.
    pub const RESET_OWNER: u32 = 4;
    /// Replaces the memory table; one descriptor a region.
    pub const SET_MEM_TABLE: u32 = 5;
    /// Gives the dirty-log's shared memory.
    pub const SET_LOG_BASE: u32 = 6;
    /// Sets a ring's size.
    pub const SET_VRING_NUM: u32 = 8;
    /// Sets a ring's addresses (user addresses).
    pub const SET_VRING_ADDR: u32 = 9;
    /// Sets the next available index.
    pub const SET_VRING_BASE: u32 = 10;
    /// Stops a ring and reads the next available index.
    pub const GET_VRING_BASE: u32 = 11;
    /// Gives the eventfd the driver kicks; starts the ring.
    pub const SET_VRING_KICK: u32 = 12;
    /// Gives the eventfd the device signals.
    pub const SET_VRING_CALL: u32 = 13;
    /// Gives the eventfd the device signals errors on.
    pub const SET_VRING_ERR: u32 = 14;
    /// Reads the protocol feature bits.
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    /// Acknowledges protocol feature bits.
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    /// Reads how many queues the back end has.
    pub const GET_QUEUE_NUM: u32 = 17;
    /// Enables or disables a ring.
    pub const SET_VRING_ENABLE: u32 = 18;
    /// Tells the guest's MTU.
    pub const NET_SET_MTU: u32 = 20;
    /// Gives the socket for requests of the back end.
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    /// Reads configuration space.
    pub const GET_CONFIG: u32 = 24;
    /// Writes configuration space.
    pub const SET_CONFIG: u32 = 25;
    /// Resets the device, keeps the session.
    pub const RESET_DEVICE: u32 = 34;
    /// Reads how many memory slots there are.
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    /// Adds one memory region.
    pub const ADD_MEM_REG: u32 = 37;
    /// Removes one memory region.
    pub const REM_MEM_REG: u32 = 38;

    /// The document's name of request `id`, without its prefix; `None` of one that it does not have, or that nothing here sends.
    pub fn name(id: u32) -> Option<&'static str> {
        Some(match id {
            GET_FEATURES => "GET_FEATURES",
            SET_FEATURES => "SET_FEATURES",
            SET_OWNER => "SET_OWNER",
            RESET_OWNER => "RESET_OWNER",
            SET_MEM_TABLE => "SET_MEM_TABLE",
            SET_LOG_BASE => "SET_LOG_BASE",
            SET_VRING_NUM => "SET_VRING_NUM",
            SET_VRING_ADDR => "SET_VRING_ADDR",
            SET_VRING_BASE => "SET_VRING_BASE",
            GET_VRING_BASE => "GET_VRING_BASE",
            SET_VRING_KICK => "SET_VRING_KICK",
            SET_VRING_CALL => "SET_VRING_CALL",
            SET_VRING_ERR => "SET_VRING_ERR",
            GET_PROTOCOL_FEATURES => "GET_PROTOCOL_FEATURES",
            SET_PROTOCOL_FEATURES => "SET_PROTOCOL_FEATURES",
            GET_QUEUE_NUM => "GET_QUEUE_NUM",
            SET_VRING_ENABLE => "SET_VRING_ENABLE",
            NET_SET_MTU => "NET_SET_MTU",
            SET_BACKEND_REQ_FD => "SET_BACKEND_REQ_FD",
            GET_CONFIG => "GET_CONFIG",
            SET_CONFIG => "SET_CONFIG",
            RESET_DEVICE => "RESET_DEVICE",
            GET_MAX_MEM_SLOTS => "GET_MAX_MEM_SLOTS",
            ADD_MEM_REG => "ADD_MEM_REG",
            REM_MEM_REG => "REM_MEM_REG",
            _ => return None,
        })
    }
}

/// Protocol feature bits, as masks (vhost-user "Protocol features").
pub mod protocol {
    /// Several queues over one socket.
    pub const MQ: u64 = 1 << 0;
    /// Dirty log in shared memory.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// Any request may ask for an acknowledgement.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// `NET_SET_MTU` is served.
    pub const NET_MTU: u64 = 1 << 4;
    /// The back end may send requests.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// `GET_CONFIG` and `SET_CONFIG` are served.
    pub const CONFIG: u64 = 1 << 9;
    /// Descriptors in requests of the back end.
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    /// In-flight tracking in shared memory.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// `RESET_DEVICE` is served.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// Kicks and calls as messages.
    pub const INBAND_NOTIFICATIONS: u64 = 1 << 14;
    /// `ADD_MEM_REG` and `REM_MEM_REG` are served.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
}

/// Bit in the payload of a kick, call or err request: no descriptor comes, poll instead.
pub const VRING_NO_FD: u64 = 0x100;

/// Length of a message header in bytes.
pub const HEADER_LEN: usize = 12;
/// Header flags: the version in its two low bits.
pub const FLAG_VERSION: u32 = 0x1;
/// Header flag: this is a reply.
pub const FLAG_REPLY: u32 = 0x4;
/// Header flag: acknowledge this request with a `u64`, 0 for success.
pub const FLAG_NEED_REPLY: u32 = 0x8;

/// A message header; every field little-endian on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message id, see [`request`].
    pub request: u32,
    /// Version and flags.
    pub flags: u32,
    /// Length of what follows, in bytes.
    pub size: u32,
}

impl Header {
    /// The twelve bytes on the wire.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&self.request.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_le_bytes());
        bytes
    }

    /// Reads the twelve bytes; any bytes are a header.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Header {
        let word =
            |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        Header {
            request: word(0),
            flags: word(4),
            size: word(8),
        }
    }
}

/// Payload of a request that carries one ring's index and a value (`NUM`, `BASE`, `ENABLE`).
pub fn vring_state(index: u32, value: u32) -> Vec<u8> {
    words(&[index, value])
}

/// Payload of `SET_VRING_ADDR` without log; addresses are user addresses.
pub fn vring_addr(index: u32, desc: u64, used: u64, avail: u64) -> Vec<u8> {
    vring_addr_logged(index, [desc, used, avail], None)
}

/// Payload of `SET_VRING_ADDR` for a ring in descriptor table, used ring and available ring; with a guest address at which changes of
/// the used ring are to be marked in the log (`VHOST_VRING_F_LOG`), or without.
pub fn vring_addr_logged(index: u32, user_addrs: [u64; 3], log: Option<u64>) -> Vec<u8> {
    let mut bytes = words(&[index, log.is_some().into()]);
    for addr in user_addrs.into_iter().chain([log.unwrap_or_default()]) {
        bytes.extend_from_slice(&addr.to_le_bytes());
    }
    bytes
}

/// Payload of `SET_LOG_BASE`: size of the log and its offset in the file.
pub fn log(size: u64, offset: u64) -> Vec<u8> {
    [size.to_le_bytes(), offset.to_le_bytes()].concat()
}

/// One region as memory messages carry it: guest address, size, user address, offset in the file.
pub fn region(guest_addr: u64, size: u64, user_addr: u64, mmap_offset: u64) -> Vec<u8> {
    [guest_addr, size, user_addr, mmap_offset]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect()
}

/// Payload of `SET_MEM_TABLE`: a count, padding, then the regions.
pub fn mem_table(regions: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = words(&[regions.len() as u32, 0]);
    bytes.extend(regions.iter().flatten());
    bytes
}

/// Payload of `ADD_MEM_REG` and `REM_MEM_REG`: padding, then one region.
pub fn single_region(region: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(region);
    bytes
}

/// Payload of `GET_CONFIG`: offset, size, flags, and room for `size` bytes.
pub fn config(offset: u32, size: u32) -> Vec<u8> {
    let mut bytes = words(&[offset, size, 0]);
    bytes.resize(12 + size as usize, 0);
    bytes
}

/// A message in words: what it is, the numbers in it as far as a few lines of text hold them, and how many descriptors came along.
/// Any bytes are described.
pub fn describe(bytes: &[u8], fds: usize) -> String {
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
        return format!("{} bytes: {bytes:02x?}", bytes.len());
    };
    let header = Header::decode(*head);
    let mut text = match request::name(header.request) {
        Some(name) => name.to_owned(),
        None => format!("request {}", header.request),
    };
    let word = |at: usize| {
        let bytes = payload.get(at..at + 4)?.first_chunk().copied()?;
        Some(u32::from_le_bytes(bytes))
    };
    let long = |at: usize| {
        let bytes = payload.get(at..at + 8)?.first_chunk().copied()?;
        Some(u64::from_le_bytes(bytes))
    };
    let said = match (
        header.request,
        header.flags & FLAG_REPLY != 0,
        payload.len(),
    ) {
        (_, _, 0) => String::new(),
        (request::SET_VRING_ADDR, _, 40) => {
            let at = |i| long(i).unwrap_or_default();
            format!(
                " ring {} desc {:#x} used {:#x} avail {:#x}",
                word(0).unwrap_or_default(),
                at(8),
                at(16),
                at(24)
            )
        }
        (request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR, false, 8) => {
            let value = long(0).unwrap_or_default();
            let polled = if value & VRING_NO_FD != 0 {
                ", no descriptor"
            } else {
                ""
            };
            format!(" ring {}{polled}", value & 0xff)
        }
        (
            request::SET_VRING_NUM
            | request::SET_VRING_BASE
            | request::GET_VRING_BASE
            | request::SET_VRING_ENABLE,
            _,
            8,
        ) if header.flags & FLAG_REPLY == 0 || header.request == request::GET_VRING_BASE => {
            let (ring, value) = (word(0).unwrap_or_default(), word(4).unwrap_or_default());
            format!(" ring {ring} value {value:#x}")
        }
        (_, _, 8) => format!(" {:#x}", long(0).unwrap_or_default()),
        (_, _, len) => {
            let first = payload.get(..len.min(40)).unwrap_or_default();
            let more = if len > 40 { ", ..." } else { "" };
            format!(" {first:02x?}{more}")
        }
    };
    text += &said;
    let mut notes = Vec::new();
    if header.size as usize != payload.len() {
        notes.push(format!("size {} with {} bytes", header.size, payload.len()));
    }
    if header.flags & !(FLAG_REPLY | FLAG_NEED_REPLY) != FLAG_VERSION {
        notes.push(format!("flags {:#x}", header.flags));
    }
    if header.flags & FLAG_NEED_REPLY != 0 {
        notes.push("need_reply".to_owned());
    }
    match fds {
        0 => {}
        1 => notes.push("1 descriptor".to_owned()),
        n => notes.push(format!("{n} descriptors")),
    }
    if !notes.is_empty() {
        text += &format!(" ({})", notes.join(", "));
    }
    text
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trip() {
        let header = Header {
            request: request::GET_CONFIG,
            flags: FLAG_VERSION | FLAG_NEED_REPLY,
            size: 0x1234,
        };
        let bytes = header.encode();
        assert_eq!(bytes, [24, 0, 0, 0, 9, 0, 0, 0, 0x34, 0x12, 0, 0]);
        assert_eq!(Header::decode(bytes), header);
    }

    #[test]
    fn payloads_have_the_documents_sizes() {
        assert_eq!(vring_state(1, 256).len(), 8);
        assert_eq!(vring_addr(0, 1, 2, 3).len(), 40);
        assert_eq!(
            mem_table(&[region(0, 1, 2, 3), region(4, 5, 6, 7)]).len(),
            8 + 64
        );
        assert_eq!(single_region(&region(0, 1, 2, 3)).len(), 40);
        assert_eq!(config(0, 12).len(), 24);
    }

    #[test]
    fn messages_are_told_in_words() {
        let message = |request, flags, payload: &[u8]| {
            let size = payload.len() as u32;
            let flags = FLAG_VERSION | flags;
            let head = Header {
                request,
                flags,
                size,
            };
            [&head.encode()[..], payload].concat()
        };
        let num = message(
            request::SET_VRING_NUM,
            FLAG_NEED_REPLY,
            &vring_state(2, 256),
        );
        assert_eq!(
            describe(&num, 0),
            "SET_VRING_NUM ring 2 value 0x100 (need_reply)"
        );
        let refused = message(request::SET_VRING_NUM, FLAG_REPLY, &1u64.to_le_bytes());
        assert_eq!(describe(&refused, 0), "SET_VRING_NUM 0x1");
        let kick = message(request::SET_VRING_KICK, 0, &0x101u64.to_le_bytes());
        assert_eq!(describe(&kick, 0), "SET_VRING_KICK ring 1, no descriptor");
        let mut lie = message(99, 0, &[7]);
        lie[8] = 200;
        assert_eq!(
            describe(&lie, 2),
            "request 99 [07] (size 200 with 1 bytes, 2 descriptors)"
        );
        assert_eq!(describe(&[1, 2], 0), "2 bytes: [01, 02]");
    }

    #[test]
    fn ring_addresses_come_in_the_order_desc_used_avail() {
        let bytes = vring_addr(3, 0xd, 0xe, 0xa);
        assert_eq!(bytes[0], 3);
        assert_eq!((bytes[8], bytes[16], bytes[24]), (0xd, 0xe, 0xa));
    }
}
