//! What whoever holds the descriptor of a tap device asks the kernel for by it (`drivers/net/tun.c`). Neither rustix nor nix has these
//! requests. Opens none and moves no frame.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, c_uint, c_ulong};

/// Which offloads its user can take of frames that the kernel sends, `TUN_F_*`.
pub(crate) fn set_offloads(tap: BorrowedFd<'_>, offloads: c_uint) -> io::Result<()> {
    // SAFETY: the argument is a number, and the descriptor is open.
    let done = unsafe {
        let offloads = c_ulong::from(offloads);
        libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD as _, offloads)
    };
    outcome(done)
}

/// Whether its host sees a carrier.
pub(crate) fn set_carrier(tap: BorrowedFd<'_>, up: bool) -> io::Result<()> {
    let up = c_int::from(up);
    // SAFETY: the kernel reads an `int` where the pointer says, and keeps no pointer.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETCARRIER as _, &raw const up) };
    outcome(done)
}

/// How many bytes the virtio-net header in front of each frame has. All of the device's descriptors have the same, and a device that outlives
/// them keeps it.
pub(crate) fn set_header_len(tap: BorrowedFd<'_>, len: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an `int` where the pointer says, and keeps no pointer.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const len) };
    outcome(done)
}

/// Has the numbers of that header begin with their lowest byte, as virtio 1 has them, on any machine.
pub(crate) fn set_little_endian(tap: BorrowedFd<'_>) -> io::Result<()> {
    let yes = c_int::from(true);
    // SAFETY: as above.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETLE as _, &raw const yes) };
    outcome(done)
}

/// What the device is called, in whichever network namespace it is. Of a macvtap device, too.
pub(crate) fn name(tap: BorrowedFd<'_>) -> io::Result<String> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    // SAFETY: the kernel writes name and flags of a `struct ifreq`, and keeps no pointer.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF as _, &raw mut request) };
    outcome(done)?;
    let bytes = request.ifr_name.iter().map(|byte| byte.cast_unsigned());
    let name = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).map_err(io::Error::other)
}

/// The address that it has for its host.
pub(crate) fn set_mac(tap: BorrowedFd<'_>, mac: [u8; 6]) -> io::Result<()> {
    let mut address = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: [0; 14],
    };
    for (byte, of_mac) in address.sa_data.iter_mut().zip(mac) {
        *byte = of_mac.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_hwaddr: address,
        },
    };
    // SAFETY: the kernel reads a `struct ifreq`, whose hardware address is set, and keeps no pointer.
    let done = unsafe { libc::ioctl(tap.as_raw_fd(), libc::SIOCSIFHWADDR as _, &raw mut request) };
    outcome(done)
}

fn outcome(done: c_int) -> io::Result<()> {
    match done {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
