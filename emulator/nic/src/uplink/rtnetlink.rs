//! What rtnetlink(7) says of a network device, in the network namespace that the thread is in when the socket is opened. Changes nothing, and needs
//! neither `/sys`, which may be another namespace's, nor privileges.

use std::io;
use std::os::fd::OwnedFd;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// More than the kernel says of a device.
const ANSWER: usize = 32 << 10;

/// A socket of NETLINK_ROUTE.
///
/// # Errors
/// The system's.
pub(super) fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    // NETLINK_ROUTE is number 0, which is no protocol's.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    Ok(socket)
}

/// A socket to ask by.
#[derive(Debug)]
pub(super) struct Links(OwnedFd);

impl Links {
    /// # Errors
    /// The system's.
    pub(super) fn open() -> io::Result<Links> {
        Ok(Links(socket(SocketFlags::empty())?))
    }

    /// The device with this name, if there is one.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn named(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut question = LinkMessage::default();
        let name = LinkAttribute::IfName(name.to_owned());
        question.attributes.push(name);
        self.ask(question)
    }

    /// The device with this number, if there is one.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn numbered(&self, index: u32) -> io::Result<Option<LinkMessage>> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        self.ask(question)
    }

    fn ask(&self, question: LinkMessage) -> io::Result<Option<LinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let question = RouteNetlinkMessage::GetLink(question);
        let mut question = NetlinkMessage::new(header, NetlinkPayload::from(question));
        question.finalize();
        let mut bytes = vec![0; question.buffer_len()];
        question.serialize(&mut bytes);
        // To a socket that is not bound elsewhere, it is for the kernel, which has answered when this returns.
        rustix::net::send(&self.0, &bytes, SendFlags::empty())?;
        let mut bytes = vec![0; ANSWER];
        let (len, _) = rustix::net::recv(&self.0, &mut bytes, RecvFlags::DONTWAIT)?;
        let answer = bytes.get(..len).unwrap_or_default();
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer);
        match answer.map_err(io::Error::other)?.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
            NetlinkPayload::Error(error) => match error.to_io() {
                why if why.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
                why => Err(why),
            },
            _ => Err(io::Error::other("rtnetlink's answer is another one's")),
        }
    }
}
