//! A packet socket on a network device of the host (packet(7)) whose frames have virtio-net headers, so that super-frames and partial checksums
//! pass as they are. It sees all that the device receives, whoever it is for, and nothing that the host sends. Judges nothing.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::c_int;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::raw::packet::{self, Membership};

/// Bytes of the virtio-net header as such a socket has it (no `num_buffers`).
const HEADER: usize = 10;
/// Room for frames that nobody has taken yet, as far as the system allows it.
const BUFFER: usize = 4 << 20;

const ADD_MEMBERSHIP: c_int = 1;
const VNET_HDR: c_int = 15;
const IGNORE_OUTGOING: c_int = 23;
const PROMISCUOUS: u16 = 1;
/// Bits of `tp_status`.
const VLAN_VALID: u32 = 1 << 4;
const VLAN_TPID_VALID: u32 = 1 << 6;

/// See the module.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    /// How many frames had found no room when the last one came; `None` where another process has counted them.
    dropped: Cell<Option<u32>>,
}

/// What a frame is that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its bytes, without the header.
    pub len: usize,
    /// The outermost VLAN tag, TPID and TCI, which the kernel has taken out.
    pub tag: Option<[u16; 2]>,
    /// Frames that found no room before it.
    pub lost: u32,
}

impl PacketSocket {
    /// Opens one on the device with this number, which takes all addresses from then on.
    ///
    /// # Errors
    /// The kernel's: it takes `CAP_NET_RAW`.
    pub fn open(interface: u32) -> io::Result<PacketSocket> {
        let interface = c_int::try_from(interface).map_err(io::Error::other)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol nothing comes before it is bound.
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let fd = socket.as_fd();
        for option in [VNET_HDR, packet::AUXDATA, IGNORE_OUTGOING] {
            packet::set_option(fd, libc::SOL_PACKET, option, &c_int::from(true))?;
        }
        let tells_loss = c_int::from(true);
        packet::set_option(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &tells_loss)?;
        let promiscuous = Membership {
            interface,
            kind: PROMISCUOUS,
            address_len: 0,
            address: [0; 8],
        };
        packet::set_option(fd, libc::SOL_PACKET, ADD_MEMBERSHIP, &promiscuous)?;
        // The first takes a privilege.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(fd, BUFFER)
            .or_else(|_| rustix::net::sockopt::set_socket_recv_buffer_size(fd, BUFFER));
        packet::bind(fd, interface)?;
        Ok(PacketSocket {
            fd: socket,
            dropped: Cell::new(Some(0)),
        })
    }

    /// Takes the next frame, without waiting.
    ///
    /// # Errors
    /// The kernel's: there is none, or what is left to others to do to it has no virtio-net header.
    pub fn receive(&self, header: &mut [u8; HEADER], frame: &mut [u8]) -> io::Result<Received> {
        let (len, packet::Said { aux, dropped }) = packet::receive(self.as_fd(), header, frame)?;
        let said = |bit| aux.status & bit != 0;
        let tpid = match said(VLAN_TPID_VALID) {
            true => aux.vlan_tpid,
            false => 0x8100,
        };
        Ok(Received {
            len: len.saturating_sub(HEADER).min(frame.len()),
            tag: said(VLAN_VALID).then_some([tpid, aux.vlan_tci]),
            lost: dropped.map_or(0, |now| match self.dropped.replace(Some(now)) {
                Some(before) => now.wrapping_sub(before),
                None => 0,
            }),
        })
    }
}

impl From<OwnedFd> for PacketSocket {
    /// One that another process has opened.
    fn from(socket: OwnedFd) -> PacketSocket {
        PacketSocket {
            fd: socket,
            dropped: Cell::new(None),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
