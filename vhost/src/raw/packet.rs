//! Packet sockets (packet(7)): their options (which is how any socket's are set), and what they say of a frame beside its bytes. Neither rustix
//! nor nix has them. Opens no socket.

#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of the few structs here, and numbers that the kernel has defined for narrower fields"
)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_ushort};

/// `struct packet_mreq` (packet(7)).
#[repr(C)]
pub(crate) struct Membership {
    pub(crate) interface: c_int,
    pub(crate) kind: c_ushort,
    pub(crate) address_len: c_ushort,
    pub(crate) address: [u8; 8],
}

/// `struct tpacket_auxdata` (packet(7)).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Aux {
    pub(crate) status: u32,
    pub(crate) len: u32,
    pub(crate) snaplen: u32,
    pub(crate) mac: u16,
    pub(crate) net: u16,
    pub(crate) vlan_tci: u16,
    pub(crate) vlan_tpid: u16,
}

/// What an option of a packet socket may be set to.
pub(crate) trait Value: Sized {}
impl Value for c_int {}
impl Value for Membership {}

/// Sets an option of this level, such as `SOL_PACKET` or `SOL_SOCKET`.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &impl Value,
) -> io::Result<()> {
    let len = size_of_val(value) as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as the value has, which has no padding, and keeps no pointer.
    let done = unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, len)
    };
    outcome(done.try_into()).map(drop)
}

/// Binds it to an interface: all that passes there comes from now on.
pub(crate) fn bind(socket: BorrowedFd<'_>, interface: c_int) -> io::Result<()> {
    // SAFETY: all of its fields are numbers, for which zero is one.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as c_ushort;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = interface;
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel reads the address, which is as long as is said.
    let done = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    outcome(done.try_into()).map(drop)
}

/// What is said of a frame beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) aux: Aux,
    /// How many frames had found no room when it came, since the socket is there (`SO_RXQ_OVFL`), if there were any.
    pub(crate) dropped: Option<u32>,
}

/// The option and the message of `PACKET_AUXDATA`.
pub(crate) const AUXDATA: c_int = 8;

/// Takes a frame with its header, without waiting: how many bytes, and what is said of it.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    header: &mut [u8],
    frame: &mut [u8],
) -> io::Result<(usize, Said)> {
    let mut parts = [header, frame].map(|part| libc::iovec {
        iov_base: part.as_mut_ptr().cast(),
        iov_len: part.len(),
    });
    // More than both messages take, aligned as such messages are.
    let mut control = [0_u64; 8];
    // SAFETY: all of its fields are numbers and pointers, for which zero is one.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the parts and the control buffer are as long as is said, are borrowed for the call, and the kernel keeps no pointer.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = outcome(got.try_into())?;
    let mut said = Said::default();
    // SAFETY: the kernel has left a well-formed list of messages in the control buffer, or none.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: each of them is in the control buffer, which lives until the end.
    while let Some(control) = unsafe { next.as_ref() } {
        match (control.cmsg_level, control.cmsg_type) {
            (libc::SOL_PACKET, AUXDATA) => said.aux = data(control).unwrap_or_default(),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => said.dropped = data(control),
            _ => {}
        }
        // SAFETY: as above; the last one is followed by none.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, control) };
    }
    Ok((len, said))
}

/// What any bytes of a control message may be.
trait Data: Copy {}
impl Data for Aux {}
impl Data for u32 {}

/// What a control message of the kernel's holds, if it is as long.
fn data<T: Data>(control: &libc::cmsghdr) -> Option<T> {
    // SAFETY: it is arithmetic with a length.
    let whole = control.cmsg_len >= unsafe { libc::CMSG_LEN(size_of::<T>() as _) } as _;
    // SAFETY: the message has so many bytes behind its header, and any of them are a `T`.
    whole.then(|| unsafe { libc::CMSG_DATA(control).cast::<T>().read_unaligned() })
}

/// What was done, unless the number was negative.
fn outcome<E>(done: Result<usize, E>) -> io::Result<usize> {
    done.map_err(|_| io::Error::last_os_error())
}
