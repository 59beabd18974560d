//! How many queues of a tap device others have, as rtnetlink(7) says it of the network namespace that the thread is in. Takes no privileges and
//! opens no device: opening one more queue of a device with several succeeds, whoever has the others, and takes a part of its frames away from them.

use std::io;

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla, parse_u32,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoTun, LinkAttribute, LinkInfo, LinkMessage};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Queues that are open (`IFLA_TUN_NUM_QUEUES`, linux/if_link.h).
const NUM_QUEUES: u16 = 8;
/// Queues that are open, and which their user has put aside (`IFLA_TUN_NUM_DISABLED_QUEUES`).
const NUM_DISABLED_QUEUES: u16 = 9;
/// More than the kernel says of a tap device.
const ANSWER: usize = 32 << 10;

/// How many queues of the device with this name are open. 0 where there is no such device, and of one with a single queue, which the kernel opens
/// once.
pub(super) fn queues_in_use(name: &str) -> io::Result<u32> {
    let mut question = LinkMessage::default();
    question
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let question = RouteNetlinkMessage::GetLink(question);
    let mut question = NetlinkMessage::new(header, NetlinkPayload::from(question));
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    // NETLINK_ROUTE is number 0, which is no protocol's.
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // To a socket that is not bound elsewhere, it is for the kernel.
    rustix::net::send(&socket, &bytes, SendFlags::empty())?;
    let mut bytes = vec![0; ANSWER];
    let (len, _) = rustix::net::recv(&socket, &mut bytes, RecvFlags::empty())?;
    let answer = bytes.get(..len).unwrap_or_default();
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(in_use(&link)),
        NetlinkPayload::Error(error) => match error.to_io() {
            why if why.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(0),
            why => Err(why),
        },
        _ => Err(io::Error::other("rtnetlink's answer is another one's")),
    }
}

fn in_use(link: &LinkMessage) -> u32 {
    let infos = link
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.as_slice(),
            _ => &[],
        });
    let tun = infos.flat_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(said)) => said.as_slice(),
        _ => &[],
    });
    let counts = tun.filter(|said| [NUM_QUEUES, NUM_DISABLED_QUEUES].contains(&said.kind()));
    counts.map(number).sum()
}

/// What an attribute says, as the number that it is.
fn number(attribute: &InfoTun) -> u32 {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    parse_u32(&value).unwrap_or_default()
}
