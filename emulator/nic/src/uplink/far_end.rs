//! What is at the other end of a NIC's port where that is no NIC, seen from the control side: a network device of the host, or the back end that the port
//! is the front end of. Says whether there is a carrier, and shows the host one if it can be shown. Moves no frame.
//!
//! A device of the host shows its host a carrier while the NIC's port is up, and is one to the NIC while the host has it up. One that is not the NIC's own
//! shows nothing, and is a carrier while it has one. A device is followed by its number, whatever it is called, and by its descriptor into another network
//! namespace, of which nothing is heard here. None of that takes privileges.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SocketFlags};

use super::rtnetlink::Links;

/// Whoever listens to this group hears of every change of a device's link (`RTMGRP_LINK`, rtnetlink(7)).
const LINKS: u32 = 1;

/// See the module.
#[derive(Debug)]
pub enum FarEnd {
    /// A network device of the host.
    Host(HostLink),
    /// A vhost-user back end.
    BackEnd(BackEndLink),
}

impl FarEnd {
    /// Shows it a carrier or none, if it can be shown one.
    pub fn set_carrier(&mut self, carrier: bool) {
        if let FarEnd::Host(link) = self {
            link.set_carrier(carrier);
        }
    }

    /// Whether the port has a carrier by it.
    #[must_use]
    pub fn is_up(&mut self) -> bool {
        match self {
            FarEnd::Host(link) => link.is_up(),
            FarEnd::BackEnd(link) => link.is_there.load(Ordering::Acquire),
        }
    }

    /// Has `token` become ready when that changes, as far as it says so by itself: a [`LinkWatch`] hears of devices.
    ///
    /// # Errors
    /// The system's.
    pub fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            FarEnd::Host(_) => Ok(()),
            FarEnd::BackEnd(link) => {
                let fd = link.news.as_raw_fd();
                registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
            }
        }
    }

    /// Takes what it has said.
    pub fn drain(&self) {
        if let FarEnd::BackEnd(link) = self {
            let mut bytes = [0; 64];
            while rustix::io::read(&link.news, &mut bytes).is_ok_and(|len| len > 0) {}
        }
    }
}

/// The back end of a port that is a front end.
#[derive(Debug)]
pub struct BackEndLink {
    is_there: Arc<AtomicBool>,
    /// Something comes when that changes.
    news: UnixStream,
}

/// The thread's end of that.
#[derive(Debug)]
pub(crate) struct Presence {
    is_there: Arc<AtomicBool>,
    news: UnixStream,
}

impl Presence {
    /// Of a back end that is not there yet, and what is seen of it.
    pub(crate) fn pair() -> io::Result<(Presence, BackEndLink)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let is_there = Arc::new(AtomicBool::new(false));
        let presence = Presence {
            is_there: Arc::clone(&is_there),
            news: ours,
        };
        let news = theirs;
        Ok((presence, BackEndLink { is_there, news }))
    }

    /// Whoever sends looks here.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_there)
    }

    /// Says whether there is a back end that takes and brings frames.
    pub(crate) fn set(&self, there: bool) {
        if self.is_there.swap(there, Ordering::AcqRel) != there {
            // Where it is full, the other end has not heard of the last change yet.
            let _ = rustix::io::write(&self.news, &[1]);
        }
    }
}

/// A device of the host in a NIC's port.
#[derive(Debug)]
pub struct HostLink {
    /// What it was called when it was last seen.
    name: String,
    /// Where it was asked for.
    links: Links,
    /// Its number, if it was there.
    index: Option<u32>,
    /// Its own descriptor, if it has one.
    device: Option<OwnedFd>,
    /// The carrier that it shows.
    carrier: Option<bool>,
    /// Whether what it is plugged into is somebody else's cable.
    is_cable: bool,
    complained: bool,
    is_gone: bool,
}

impl HostLink {
    /// The link to a tap device.
    pub(super) fn of_tap(device: BorrowedFd<'_>) -> io::Result<HostLink> {
        HostLink::of_open(device, false)
    }

    /// The link of the device that a macvtap device stands on.
    pub(super) fn of_macvtap(device: BorrowedFd<'_>) -> io::Result<HostLink> {
        HostLink::of_open(device, true)
    }

    /// The link of a device that the host has for itself.
    pub(super) fn of_device(name: &str) -> io::Result<HostLink> {
        HostLink::new(name, None, true)
    }

    fn of_open(device: BorrowedFd<'_>, is_cable: bool) -> io::Result<HostLink> {
        let name = vf_vhost::tap::name(device)?;
        HostLink::new(&name, Some(device.try_clone_to_owned()?), is_cable)
    }

    fn new(name: &str, device: Option<OwnedFd>, is_cable: bool) -> io::Result<HostLink> {
        let links = Links::open()?;
        let link = links.named(name)?;
        Ok(HostLink {
            name: name.to_owned(),
            links,
            index: link.map(|link| link.header.index),
            device,
            carrier: None,
            is_cable,
            complained: false,
            is_gone: false,
        })
    }

    fn set_carrier(&mut self, carrier: bool) {
        let Some(device) = self.device.as_ref().filter(|_| !self.is_cable) else {
            return;
        };
        if self.is_gone || self.carrier == Some(carrier) {
            return;
        }
        match vf_vhost::tap::set_carrier(device, carrier) {
            Ok(()) => self.carrier = Some(carrier),
            Err(why) => {
                self.carrier = None;
                if !self.has_gone() && !std::mem::replace(&mut self.complained, true) {
                    let uplink = self.name.as_str();
                    tracing::warn!(uplink, %why, "the host is not shown the link of the NIC");
                }
            }
        }
    }

    /// Whether the host has the device, and has it up. One that could never be asked is, as far as anybody knows, and so is one that is in another
    /// network namespace now. Another one of its name is none: what is open is the one that was there.
    fn is_up(&mut self) -> bool {
        let link = self.index.map(|index| self.links.numbered(index));
        match link {
            Some(Ok(Some(link))) => {
                let name = link.attributes.iter().find_map(|said| match said {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                });
                if let Some(name) = name.filter(|name| **name != self.name) {
                    self.name.clone_from(name);
                }
                is_up(&link) && (!self.is_cable || has_carrier(&link))
            }
            Some(Ok(None)) => {
                let gone = self.has_gone();
                if gone && !std::mem::replace(&mut self.is_gone, true) {
                    let uplink = self.name.as_str();
                    tracing::warn!(
                        uplink,
                        "its device is gone: the port has no carrier until vfnic is started again"
                    );
                }
                !gone
            }
            Some(Err(_)) | None => true,
        }
    }

    /// Whether the device, which is not here, is nowhere. A packet socket loses one that goes to another namespace.
    fn has_gone(&self) -> bool {
        let name = self.device.as_ref().map(vf_vhost::tap::name);
        name.is_none_or(|name| name.is_err())
    }
}

fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

fn has_carrier(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::LowerUp)
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
        let socket = super::rtnetlink::socket(SocketFlags::NONBLOCK)?;
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
