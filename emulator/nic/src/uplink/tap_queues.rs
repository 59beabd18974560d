//! How many queues of a tap device others have, as rtnetlink(7) says it of the network namespace that the thread is in. Takes no privileges and
//! opens no device: opening one more queue of a device with several succeeds, whoever has the others, and takes a part of its frames away from them.

use std::io;

use netlink_packet_core::{Nla, parse_u32};
use netlink_packet_route::link::{InfoData, InfoTun, LinkAttribute, LinkInfo, LinkMessage};

use super::rtnetlink::Links;

/// Queues that are open (`IFLA_TUN_NUM_QUEUES`, linux/if_link.h).
const NUM_QUEUES: u16 = 8;
/// Queues that are open, and which their user has put aside (`IFLA_TUN_NUM_DISABLED_QUEUES`).
const NUM_DISABLED_QUEUES: u16 = 9;

/// How many queues of the device with this name are open. 0 where there is no such device, and of one with a single queue, which the kernel opens
/// once.
pub(super) fn queues_in_use(name: &str) -> io::Result<u32> {
    let link = Links::open()?.named(name)?;
    Ok(link.as_ref().map_or(0, in_use))
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
