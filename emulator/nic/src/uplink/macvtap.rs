//! A macvtap device on a network device of the host as the uplink, which hands the whole of that to the NIC: `ip link add link eth1 name
//! uplink0 type macvtap mode passthru`. The kernel cuts what comes and finishes its checksums, unless told otherwise, and does for what is
//! sent what its virtio-net header says. In mode passthru the device below takes all addresses, and what is sent does not come back.
//! Reads and writes as a tap does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use vf_model::{LinkConfig, Nanos};

use super::tap::Tap;
use super::{FarEnd, HandOver, HostLink, Kind, OpenError, Uplink};

/// `macvtap NAME`.
pub(super) const KIND: Kind = Kind {
    word: "macvtap",
    operand: "NAME",
    of_this_machine: true,
    is_host_device: true,
    check: |_| Ok(()),
    open: |name, config, slack| {
        let macvtap = open(name).and_then(|file| linked(name, file, config, slack));
        macvtap.map_err(|source| OpenError {
            uplink: format!("macvtap {name}"),
            source,
            help: format!(
                "make it with 'ip link add link DEV name {name} type macvtap mode passthru' and 'ip link set {name} up', and run as root or own its /dev/tapN"
            ),
        })
    },
    hand_over: HandOver::Descriptor(|name, fd, config, slack| {
        linked(name, File::from(fd), config, slack).map_err(|source| OpenError {
            uplink: format!("macvtap {name}"),
            source,
            help: "the process that had it had it so".to_owned(),
        })
    }),
};

/// The uplink that an open macvtap device is.
fn linked(name: &str, file: File, config: LinkConfig, slack: Nanos) -> io::Result<Box<dyn Uplink>> {
    let far_end = FarEnd::Host(HostLink::of_macvtap(file.as_fd())?);
    let tap = Tap::of(format!("macvtap {name}"), file, config, slack);
    Ok(Box::new(tap.with(far_end)))
}

/// Its character device, which has the number of its interface in its name.
fn open(name: &str) -> io::Result<File> {
    let device = Path::new("/sys/class/net").join(name);
    // No other kind of interface has this.
    if !device.join("macvtap").exists() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "there is no macvtap device of this name",
        ));
    }
    let number = std::fs::read_to_string(device.join("ifindex"))?;
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let path = format!("/dev/tap{}", number.trim());
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(&path);
    open.map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}
