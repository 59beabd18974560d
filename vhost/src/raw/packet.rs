//! Packet sockets (packet(7)): their options, and what they say of a frame beside its bytes. Neither rustix nor nix has them.

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

/// Sets an option of level `SOL_PACKET`.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    name: c_int,
    value: &impl Value,
) -> io::Result<()> {
    let len = size_of_val(value) as libc::socklen_t;
    // SAFETY: the kernel reads as many bytes as the value has, which has no padding, and keeps no pointer.
    let done = unsafe {
        let value = std::ptr::from_ref(value).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, name, value, len)
    };
    outcome(done.try_into()).map(drop)
}

/// How many frames have not found room since this was last asked (`PACKET_STATISTICS`).
pub(crate) fn drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    const STATISTICS: c_int = 6;
    let mut packets_and_drops = [0_u32; 2];
    let mut len = size_of_val(&packets_and_drops) as libc::socklen_t;
    // SAFETY: the kernel writes at most as many bytes as the array has, any of which are numbers.
    let done = unsafe {
        let value = (&raw mut packets_and_drops).cast();
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            STATISTICS,
            value,
            &raw mut len,
        )
    };
    let [_, drops] = packets_and_drops;
    outcome(done.try_into()).map(|_| drops)
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

/// Takes a frame with its header, without waiting: how many bytes, and what is said of it.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    header: &mut [u8],
    frame: &mut [u8],
) -> io::Result<(usize, Option<Aux>)> {
    const AUXDATA: c_int = 8;
    let mut parts = [header, frame].map(|part| libc::iovec {
        iov_base: part.as_mut_ptr().cast(),
        iov_len: part.len(),
    });
    // More than one message of that kind has, aligned as such messages are.
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
    // SAFETY: the kernel has left a well-formed list of messages in the control buffer, or none.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let aux = first.and_then(|first| {
        // SAFETY: it is arithmetic with a length.
        let whole = first.cmsg_len >= unsafe { libc::CMSG_LEN(size_of::<Aux>() as _) } as _;
        let is_aux = first.cmsg_level == libc::SOL_PACKET && first.cmsg_type == AUXDATA && whole;
        // SAFETY: the message has so many bytes behind its header, and any of them are an `Aux`.
        is_aux.then(|| unsafe { libc::CMSG_DATA(first).cast::<Aux>().read_unaligned() })
    });
    Ok((len, aux))
}

/// What was done, unless the number was negative.
fn outcome<E>(done: Result<usize, E>) -> io::Result<usize> {
    done.map_err(|_| io::Error::last_os_error())
}
