//! The link between a NIC and a network device of the host that is plugged into its port, seen from the control side: the device shows
//! its host a carrier while the NIC's port is up, and is one to the NIC while the host has it up. One that is not the NIC's own shows nothing,
//! and is a carrier while it has one. Moves no frame.
//!
//! The carrier is set in sysfs, which does for a tap what TUNSETCARRIER does and needs no `unsafe`. It wants `CAP_NET_ADMIN`, which
//! opening a device that is its user's own does not.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

/// Whoever listens to this group hears of every change of a device's link (`RTMGRP_LINK`, rtnetlink(7)).
const LINKS: u32 = 1;
/// Whether the host has a device up (`IFF_UP`, netdevice(7)).
const IFF_UP: u32 = 1;

/// A device of the host in a NIC's port.
#[derive(Debug)]
pub struct HostLink {
    name: String,
    /// Its number, if the host says that: another device of the same name is another one.
    index: Option<String>,
    /// The carrier that it shows, if it has taken it.
    carrier: Option<bool>,
    complained: bool,
    /// Whether what it is plugged into is somebody else's cable.
    is_cable: bool,
    is_gone: bool,
}

impl HostLink {
    /// The link to the device of this name, which is open.
    pub(super) fn new(name: &str) -> HostLink {
        HostLink {
            name: name.to_owned(),
            index: index_of(name),
            carrier: None,
            complained: false,
            is_cable: false,
            is_gone: false,
        }
    }

    /// The link of a device that the host has for itself, or of what stands on one.
    pub(super) fn of_cable(name: &str) -> HostLink {
        HostLink {
            is_cable: true,
            ..HostLink::new(name)
        }
    }

    /// Shows the host a carrier or none. A device that is down takes it when it is up, and this is called again.
    pub fn set_carrier(&mut self, carrier: bool) {
        if self.is_cable || self.carrier == Some(carrier) {
            return;
        }
        let file = format!("/sys/class/net/{}/carrier", self.name);
        match fs::write(file, if carrier { "1" } else { "0" }) {
            Ok(()) => self.carrier = Some(carrier),
            Err(why) => {
                self.carrier = None;
                if self.is_up() && !std::mem::replace(&mut self.complained, true) {
                    let uplink = self.name.as_str();
                    tracing::warn!(uplink, %why, "the host is not shown the link of the NIC");
                }
            }
        }
    }

    /// Whether the host has the device, and has it up. One that could never be asked is, as far as anybody knows. Another one of its name is none:
    /// what is open is the one that was there.
    #[must_use]
    pub fn is_up(&mut self) -> bool {
        if self.index.is_some() && index_of(&self.name) != self.index {
            if !std::mem::replace(&mut self.is_gone, true) {
                let uplink = self.name.as_str();
                tracing::warn!(
                    uplink,
                    "its device is gone: the port has no carrier until vfnic is started again"
                );
            }
            return false;
        }
        let carrier = fs::read_to_string(format!("/sys/class/net/{}/carrier", self.name));
        if self.is_cable && carrier.is_ok_and(|carrier| carrier.trim() == "0") {
            return false;
        }
        let flags = fs::read_to_string(format!("/sys/class/net/{}/flags", self.name));
        let flags = flags.ok().and_then(|flags| {
            let hex = flags.trim().strip_prefix("0x")?;
            u32::from_str_radix(hex, 16).ok()
        });
        flags.is_none_or(|flags| flags & IFF_UP != 0)
    }
}

fn index_of(name: &str) -> Option<String> {
    fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()
}

/// Hears that something about a link of the host has changed, not what.
#[derive(Debug)]
pub struct LinkWatch(OwnedFd);

impl LinkWatch {
    /// Has `token` become ready at each change.
    ///
    /// # Errors
    /// The system's.
    pub fn new(registry: &Registry, token: Token) -> io::Result<LinkWatch> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = AddressFamily::NETLINK;
        // NETLINK_ROUTE is number 0, which is no protocol's.
        let socket = rustix::net::socket_with(family, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, LINKS))?;
        registry.register(
            &mut SourceFd(&socket.as_raw_fd()),
            token,
            Interest::READABLE,
        )?;
        Ok(LinkWatch(socket))
    }

    /// Takes what has come. More than fits is lost, which is news as well.
    pub fn drain(&self) {
        let mut bytes = [0; 8192];
        loop {
            match rustix::net::recv(&self.0, &mut bytes, RecvFlags::DONTWAIT) {
                Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}
