//! A network device of the host as the uplink by a packet socket (AF_PACKET): the host keeps the device, and the NIC sees all that comes there and
//! sends there. Super-frames and partial checksums pass as they are. Reads and writes as a tap does, a frame a call. A ring of TPACKET_V3 would save
//! calls, but hands frames over a block at a time: a lone one waits for a timer of a millisecond. AF_XDP knows no virtio-net header, so
//! what a kernel leaves to others to do (all that comes from a veth or a tap) does not pass it; a socket sees one queue of the device, by a BPF
//! program that somebody has to load.

use std::io;

use rustix::io::Errno;
use vf_model::{LinkConfig, Nanos};
use vf_vhost::packet_socket::{PacketSocket, Received};

use super::tap::{HeaderDevice, Tap};
use super::{FarEnd, HandOver, HostLink, Kind, OpenError, Uplink};

/// `packet NAME`.
pub(super) const KIND: Kind = Kind {
    word: "packet",
    operand: "NAME",
    of_this_machine: true,
    is_host_device: true,
    check: |_| Ok(()),
    open: |name, config, slack| {
        let socket = open(name).and_then(|socket| linked(name, socket, config, slack));
        socket.map_err(|source| OpenError {
            uplink: format!("packet {name}"),
            source,
            help: "it is the name of a network device of this host, and takes CAP_NET_RAW: run as root".to_owned(),
        })
    },
    hand_over: HandOver::Descriptor(|name, fd, config, slack| {
        linked(name, fd.into(), config, slack).map_err(|source| OpenError {
            uplink: format!("packet {name}"),
            source,
            help: "the process that had it had it so".to_owned(),
        })
    }),
};

/// The uplink that a packet socket on this device is.
fn linked(
    name: &str,
    socket: PacketSocket,
    config: LinkConfig,
    slack: Nanos,
) -> io::Result<Box<dyn Uplink>> {
    let far_end = FarEnd::Host(HostLink::of_device(name)?);
    let tap = Tap::of(format!("packet {name}"), socket, config, slack);
    Ok(Box::new(tap.with(far_end)))
}

fn open(name: &str) -> io::Result<PacketSocket> {
    let index = rustix::net::netdevice::name_to_index(
        rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )?,
        name,
    )?;
    PacketSocket::open(index)
}

impl HeaderDevice for PacketSocket {
    const TELLS_LOSS: bool = true;

    fn receive(&self, header: &mut [u8; 10], frame: &mut [u8]) -> Result<Received, Errno> {
        let received = PacketSocket::receive(self, header, frame);
        received.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    }
}
