//! A tap device as its user tells it what it is: by its descriptor, which takes no privileges, and from any network namespace,
//! whichever the device is in. Opens none and moves no frame.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::FileType;

use crate::descriptor::file_type;
use crate::raw::tap;

/// Whether a descriptor that somebody has sent is one of a device, as a tap's is: what is asked of another file, a server of the sender's may
/// answer when it likes, or never.
pub fn is_device(fd: impl AsFd) -> bool {
    file_type(fd) == Some(FileType::CharacterDevice)
}

/// Has the kernel leave to the device's user what a virtio device can do about checksums and TCP segments, and nothing else: it
/// cuts super-frames of UDP itself.
///
/// # Errors
/// The kernel's: it is no tap device, or has no virtio-net header.
pub fn set_offloads(device: impl AsFd) -> io::Result<()> {
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    tap::set_offloads(device.as_fd(), offloads)
}

/// Has each frame begin with a virtio-net header of so many bytes, whose numbers are little-endian. A device that was there before has it as its last user
/// has said, and QEMU says 12.
///
/// # Errors
/// The kernel's: it is no tap device, or takes no header so short.
pub fn set_header_len(device: impl AsFd, len: usize) -> io::Result<()> {
    let len = i32::try_from(len).map_err(io::Error::other)?;
    tap::set_header_len(device.as_fd(), len)?;
    tap::set_little_endian(device.as_fd())
}

/// What the device is called, in whichever network namespace it is: a tap or a macvtap device.
///
/// # Errors
/// The kernel's: it is none of those, or is gone.
pub fn name(device: impl AsFd) -> io::Result<String> {
    tap::name(device.as_fd())
}

/// Shows the host a carrier or none, whether it has the device up or not.
///
/// # Errors
/// The kernel's: it is no tap device, or is gone.
pub fn set_carrier(device: impl AsFd, up: bool) -> io::Result<()> {
    tap::set_carrier(device.as_fd(), up)
}

/// Gives it the address that its host has by it.
///
/// # Errors
/// The kernel's: it is no tap device, or is gone.
pub fn set_mac(device: impl AsFd, mac: [u8; 6]) -> io::Result<()> {
    tap::set_mac(device.as_fd(), mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tap_device_is_told_apart() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(is_device(&file));
        assert!(!is_device(std::fs::File::open("/proc/self/exe").unwrap()));
        for done in [
            set_offloads(&file),
            set_header_len(&file, 10),
            name(&file).map(drop),
            set_carrier(&file, true),
            set_mac(&file, [2, 0, 0, 0, 0, 1]),
        ] {
            assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        }
    }
}
