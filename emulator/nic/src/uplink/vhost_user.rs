//! A vhost-user back end as the uplink: a port of Open vSwitch or VPP, another vfnic's VF, or a passt of the NIC's own. The NIC's port is its front
//! end, by a thread that has the virtqueues, as one of a tap on a VF has them (`tap_port`), and begins sessions, over and over with one that listens:
//! while there is none the port has no carrier. Frames go between the two as to a tap. Never starts a program.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use vf_model::{LinkConfig, Nanos};

use super::tap::{HEADER, HeaderDevice, Tap};
use super::{BackEndLink, FarEnd, HandOver, Kind, OpenError, Opened, Presence};
use crate::sandbox::Sandbox;
use crate::tap_port::{BackEnd, Device, Port};

/// Frames that may be on their way in one direction, in bytes.
const BUFFER: usize = 4 << 20;

/// `vhost-user SOCKET`.
pub(super) const KIND: Kind = Kind {
    word: "vhost-user",
    operand: "SOCKET",
    of_this_machine: true,
    is_host_device: false,
    check: |_| Ok(()),
    open: |path, config, slack| {
        let name = format!("vhost-user {path}");
        open(name, BackEnd::Listens(path.into()), config, slack)
    },
    // Its virtqueues are this process' memory, and frames are in them.
    hand_over: HandOver::Refused,
};

/// Makes the port the front end of this back end.
pub(super) fn open(name: String, back_end: BackEnd, config: LinkConfig, slack: Nanos) -> Opened {
    let opened = FrontEnd::open(back_end, name.clone());
    let (port, link) = opened.map_err(|source| OpenError {
        uplink: name.clone(),
        source,
        help: "the process has no room for another thread or descriptor".to_owned(),
    })?;
    let tap = Tap::of(name, port, config, slack);
    Ok(Box::new(tap.with(FarEnd::BackEnd(link))))
}

/// The way to the thread, and whether there is a back end behind it.
struct FrontEnd {
    frames: OwnedFd,
    is_there: Arc<AtomicBool>,
    /// The thread ends with this.
    _alive: UnixStream,
}

impl FrontEnd {
    fn open(back_end: BackEnd, name: String) -> io::Result<(FrontEnd, BackEndLink)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        for end in [&ours, &theirs] {
            // As much as the system allows.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, BUFFER);
        }
        let (presence, link) = Presence::pair()?;
        let is_there = presence.flag();
        let device = Device::Port(presence);
        // It needs nothing else, whatever others may.
        let (alive, _) = Port::start(vec![theirs], device, back_end, name, Sandbox::On)?;
        let front_end = FrontEnd {
            frames: ours,
            is_there,
            _alive: alive,
        };
        Ok((front_end, link))
    }
}

impl AsFd for FrontEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.frames.as_fd()
    }
}

impl HeaderDevice for FrontEnd {
    // What is too much waits with the thread, and behind that with the back end.
    fn send(&self, header: &[u8; HEADER], frame: &[u8]) -> Result<(), Errno> {
        if !self.is_there.load(Ordering::Acquire) {
            return Err(Errno::NETDOWN);
        }
        let parts = [IoSlice::new(header), IoSlice::new(frame)];
        rustix::io::writev(self, &parts).map(drop)
    }
}
