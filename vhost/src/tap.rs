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

/// Shows the host a carrier or none.
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
            set_carrier(&file, true),
            set_mac(&file, [2, 0, 0, 0, 0, 1]),
        ] {
            assert_eq!(done.unwrap_err().raw_os_error(), Some(libc::ENOTTY));
        }
    }
}
