//! A macvtap device on a network device of the host as the uplink, which hands the whole of that to the NIC: `ip link add link eth1 name
//! uplink0 type macvtap mode passthru`. The kernel cuts what comes and finishes its checksums, unless told otherwise, and does for what is
//! sent what its virtio-net header says. In mode passthru the device below takes all addresses, and what is sent does not come back.
//! Reads and writes as a tap does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::tap::Tap;
use super::{HandOver, HostLink, Kind, OpenError};

/// `macvtap NAME`.
pub(super) const KIND: Kind = Kind {
    word: "macvtap",
    operand: "NAME",
    of_this_machine: true,
    host_link: Some(HostLink::of_cable),
    check: |_| Ok(()),
    open: |name, config, slack| {
        let file = open(name);
        let file = file.map_err(|source| OpenError {
            uplink: format!("macvtap {name}"),
            source,
            help: format!(
                "make it with 'ip link add link DEV name {name} type macvtap mode passthru' and 'ip link set {name} up', and run as root or own its /dev/tapN"
            ),
        });
        Ok(Box::new(Tap::of(
            format!("macvtap {name}"),
            file?,
            config,
            slack,
        )))
    },
    hand_over: HandOver::Descriptor(|name, fd, config, slack| {
        let name = format!("macvtap {name}");
        Ok(Box::new(Tap::of(name, File::from(fd), config, slack)))
    }),
};

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
