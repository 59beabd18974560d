//! A network device of the host as the uplink by a packet socket (AF_PACKET): the host keeps the device, and the NIC sees all that comes there and
//! sends there. Super-frames and partial checksums pass as they are. Reads and writes as a tap does, a frame a call. A ring of TPACKET_V3 would save
//! calls, but hands frames over a block at a time: a lone one waits for a timer of a millisecond. AF_XDP knows no virtio-net header, so
//! what a kernel leaves to others to do (all that comes from a veth or a tap) does not pass it; a socket sees one queue of the device, by a BPF
//! program that somebody has to load.

use rustix::io::Errno;
use vf_vhost::packet_socket::{PacketSocket, Received};

use super::tap::{HeaderDevice, Tap};
use super::{HandOver, HostLink, Kind, OpenError};

/// `packet NAME`.
pub(super) const KIND: Kind = Kind {
    word: "packet",
    operand: "NAME",
    of_this_machine: true,
    host_link: Some(HostLink::of_cable),
    check: |_| Ok(()),
    open: |name, config, slack| {
        let socket = open(name).map_err(|source| OpenError {
            uplink: format!("packet {name}"),
            source,
            help: "it is the name of a network device of this host, and takes CAP_NET_RAW: run as root".to_owned(),
        })?;
        let name = format!("packet {name}");
        Ok(Box::new(Tap::of(name, socket, config, slack)))
    },
    hand_over: HandOver::Descriptor(|name, fd, config, slack| {
        let name = format!("packet {name}");
        Ok(Box::new(Tap::of(
            name,
            PacketSocket::from(fd),
            config,
            slack,
        )))
    }),
};

fn open(name: &str) -> std::io::Result<PacketSocket> {
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
    fn receive(&self, header: &mut [u8; 10], frame: &mut [u8]) -> Result<Received, Errno> {
        let received = PacketSocket::receive(self, header, frame);
        received.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))
    }
}
