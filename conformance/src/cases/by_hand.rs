//! The send ring as a case plays it by hand: a frame that is placed, chains that are cut, a kick and a call by themselves. Judges nothing but
//! whether a driver was called and what became of a broken ring.

use std::time::Duration;

use vm_memory::Bytes;

use crate::bench::{Bench, DEADLINE, Link};
use crate::verdict::{Failure, Seen, ensure};
use vf_guest::driver::{Buffer, Desc};
use vf_guest::net::NetHeader;

/// Writes header and frame into the first send buffer: its guest address and length.
pub(super) fn place(link: &mut Link, frame: &[u8]) -> Result<(u64, u32), Failure> {
    place_with(link, &NetHeader::default(), frame)
}

fn place_with(link: &mut Link, hdr: &NetHeader, frame: &[u8]) -> Result<(u64, u32), Failure> {
    link.may_send(hdr, frame)?;
    let header = link.tx.header_len();
    let bytes = [&hdr.encode()[..header], frame].concat();
    let at = link.tx.tx_ring(0).buffer_addr(0);
    let slice = link.tx.memory().slice(at, bytes.len());
    let written = slice.is_some_and(|s| s.write_slice(&bytes, 0).is_ok());
    ensure(written, "memory of our own cannot be written")?;
    Ok((at, bytes.len() as u32))
}

/// Sends a frame as a chain that is cut at these offsets from the start of its header.
pub(super) fn send_cut(
    link: &mut Link,
    frame: &[u8],
    cuts: &[usize],
    indirect: bool,
) -> Result<(), Failure> {
    send_cut_with(link, &NetHeader::default(), frame, cuts, indirect)
}

/// The same with a header of the case's own.
pub(super) fn send_cut_with(
    link: &mut Link,
    hdr: &NetHeader,
    frame: &[u8],
    cuts: &[usize],
    indirect: bool,
) -> Result<(), Failure> {
    let (at, len) = place_with(link, hdr, frame)?;
    let table = link.tx.tx_ring(0).buffer_addr(4);
    let mut ends = cuts.to_vec();
    ends.push(len as usize);
    let mut start = 0;
    let mut chain = Vec::new();
    for end in ends {
        chain.push(Buffer {
            addr: at + start as u64,
            len: (end - start) as u32,
            writable: false,
        });
        start = end;
    }
    let queue = &mut link.tx.tx_ring(0).queue;
    let added = if indirect {
        queue.add_indirect(table, &chain)
    } else {
        queue.add(&chain)
    };
    ensure(added.is_some(), "the chain does not fit the ring")?;
    link.tx.kick();
    Ok(())
}

pub(super) fn signal(link: &mut Link) {
    if let Some(kick) = &link.tx.tx_ring(0).kick {
        kick.signal();
    }
}

/// Whether the send ring's call was signalled since this was last asked: one that is due may be late.
pub(super) fn called(link: &mut Link, due: bool) -> Result<bool, Failure> {
    let wait = if due {
        DEADLINE
    } else {
        Duration::from_millis(20)
    };
    called_within(link, wait)
}

pub(super) fn called_within(link: &mut Link, wait: Duration) -> Result<bool, Failure> {
    match &link.tx.tx_ring(0).call {
        Some(call) => {
            let called = call.wait(wait)?;
            call.drain();
            Ok(called)
        }
        None => Ok(false),
    }
}

/// A descriptor of these parts.
pub(super) fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc {
        addr,
        len,
        flags,
        next,
    }
}

/// Whether a driver that wanted to be called with the fifth frame was called with no other. With the first one is forgiven: vhost in Linux
/// and DPDK, which do not know what a driver was told before, call once to be sure.
pub(super) fn quiet(calls: [bool; 8]) -> Result<Seen, Failure> {
    let [first, rest @ ..] = calls;
    let (before, after) = rest.split_at(3);
    let others = before.contains(&true) || after.iter().filter(|called| **called).count() > 1;
    ensure(
        !others,
        format_args!("called after frame 1 to 8: {calls:?}"),
    )?;
    Ok(if first {
        Seen::Tolerated
    } else {
        Seen::Conforms
    })
}

/// Ends a session with a broken send ring: was the chain given back, or the ring stopped?
pub(super) fn finish(bench: &Bench, mut link: Link) -> Result<Seen, Failure> {
    let used = link.tx.tx_ring(0).queue.given_back();
    drop(link);
    bench.alive()?;
    Ok(if used == 0 {
        Seen::RingStopped
    } else {
        Seen::Tolerated
    })
}
