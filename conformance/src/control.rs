//! The driver's end of a control queue (virtio 5.1.6.5): one command at a time, and the wait for its answer.
//!
//! Builds the commands of the document, and sends any bytes as well. Judges nothing but the answer.

use std::time::{Duration, Instant};

use vm_memory::Bytes;

use crate::verdict::{Failure, ensure};
use vf_guest::driver::Buffer;
use vf_guest::net::NetDevice;

/// `VIRTIO_NET_OK`.
pub(crate) const OK: u8 = 0;
/// `VIRTIO_NET_ERR`.
pub(crate) const ERR: u8 = 1;
/// What is where the answer belongs before there is one.
const NONE: u8 = 0xaa;
/// How long an answer may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// Sends a command and waits; its answer, and as many bytes behind that as `room` says.
pub(crate) fn command(
    device: &mut NetDevice,
    command: &[u8],
    room: usize,
) -> Result<(u8, Vec<u8>), Failure> {
    // Class and command have a buffer of their own, as with Linux.
    command_cut(device, command, room, &[2], false)
}

/// The same with a command that is cut at these offsets, and its descriptors in an indirect table or not.
pub(crate) fn command_cut(
    device: &mut NetDevice,
    command: &[u8],
    room: usize,
    cuts: &[usize],
    indirect: bool,
) -> Result<(u8, Vec<u8>), Failure> {
    let memory = device.memory().clone();
    let missing = || Failure::Wrong("there is no control queue".into());
    let ring = device.control_ring().ok_or_else(missing)?;
    let head = ring.queue.next_head().ok_or_else(missing)?;
    let at = ring.buffer_addr(head);
    let len = ring.buffer_len() as usize;
    let answer = at + (len - 64) as u64;
    let put = |at: u64, bytes: &[u8]| {
        let slice = memory.slice(at, bytes.len());
        let put = slice.map(|slice| slice.write_slice(bytes, 0));
        ensure(matches!(put, Some(Ok(()))), "the command does not fit")
    };
    ensure(command.len() <= len - 64, "the command does not fit")?;
    put(at, command)?;
    put(answer, &[NONE; 64])?;
    let mut start = 0;
    let ends = cuts.iter().copied().chain([command.len()]);
    let pieces = ends.map(|end| {
        let from = start;
        start = end.clamp(from, command.len());
        (at + from as u64, start - from)
    });
    let readable: Vec<(u64, usize)> = pieces.collect();
    let writable = [(answer, 1), (answer + 1, room)];
    let buffer = |writable: bool| {
        move |(addr, len): (u64, usize)| Buffer {
            addr,
            len: len as u32,
            writable,
        }
    };
    let chain: Vec<Buffer> = (readable.into_iter().map(buffer(false)))
        .chain(writable.map(buffer(true)))
        .filter(|buffer| buffer.len > 0)
        .collect();
    // The table lies in the midst of the buffer, behind any command that is sent so.
    let added = match indirect {
        true => ring.queue.add_indirect(at + (len / 2) as u64, &chain),
        false => ring.queue.add(&chain),
    };
    added.ok_or_else(missing)?;
    ring.notify();
    let deadline = Instant::now() + DEADLINE;
    while ring.queue.pop_used()?.is_none() {
        ensure(Instant::now() < deadline, "a command was not answered")?;
        std::thread::sleep(Duration::from_micros(50));
    }
    let mut bytes = vec![0; 1 + room];
    let read = memory.slice(answer, bytes.len());
    let read = read.map(|slice| slice.read_slice(&mut bytes, 0));
    ensure(matches!(read, Some(Ok(()))), "the answer cannot be read")?;
    let result = bytes.split_off(1);
    let said = bytes.first().copied().unwrap_or(NONE);
    ensure(
        said == OK || said == ERR,
        format_args!("a command was answered with {said:#x}"),
    )?;
    Ok((said, result))
}

/// Sends a command so many times with one kick behind all of them, and waits until each is answered.
pub(crate) fn at_once(device: &mut NetDevice, command: &[u8], times: u16) -> Result<(), Failure> {
    let memory = device.memory().clone();
    let missing = || Failure::Wrong("there is no control queue".into());
    let ring = device.control_ring().ok_or_else(missing)?;
    for _ in 0..times {
        let head = ring.queue.next_head().ok_or_else(missing)?;
        let at = ring.buffer_addr(head);
        let slice = memory.slice(at, command.len());
        let put = slice.is_some_and(|slice| slice.write_slice(command, 0).is_ok());
        ensure(put, "the command does not fit")?;
        let (len, answer) = (command.len() as u32, at + 64);
        let readable = Buffer {
            addr: at,
            len,
            writable: false,
        };
        let writable = Buffer {
            addr: answer,
            len: 1,
            writable: true,
        };
        let added = ring.queue.add(&[readable, writable]);
        added.ok_or_else(missing)?;
    }
    ring.notify();
    let deadline = Instant::now() + DEADLINE;
    let mut answered = 0;
    while answered < times {
        match ring.queue.pop_used()? {
            Some(_) => answered += 1,
            None => {
                let said = format_args!("{answered} of {times} commands were answered");
                ensure(Instant::now() < deadline, said)?;
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }
    Ok(())
}

/// Sends a command that the device has to obey.
pub(crate) fn obeyed(device: &mut NetDevice, bytes: &[u8]) -> Result<(), Failure> {
    let (said, _) = command(device, bytes, 0)?;
    ensure(said == OK, format_args!("{} was refused", name(bytes)))
}

/// Sends a command that the device has to refuse.
pub(crate) fn refused(device: &mut NetDevice, bytes: &[u8]) -> Result<(), Failure> {
    let (said, _) = command(device, bytes, 0)?;
    ensure(said == ERR, format_args!("{} was not refused", name(bytes)))
}

fn name(bytes: &[u8]) -> String {
    let head = bytes.get(..bytes.len().min(8)).unwrap_or_default();
    format!("command {head:02x?} of {} bytes", bytes.len())
}

/// `VIRTIO_NET_CTRL_MAC_TABLE_SET`.
pub(crate) fn mac_table(unicast: &[[u8; 6]], multicast: &[[u8; 6]]) -> Vec<u8> {
    let entries = |macs: &[[u8; 6]]| {
        let count = (macs.len() as u32).to_le_bytes();
        [&count[..], macs.as_flattened()].concat()
    };
    [&[1, 0][..], &entries(unicast), &entries(multicast)].concat()
}

/// `VIRTIO_NET_CTRL_VLAN_ADD` or `_DEL`.
pub(crate) fn vlan(add: bool, vid: u16) -> Vec<u8> {
    [&[2, u8::from(!add)][..], &vid.to_le_bytes()].concat()
}

/// `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`.
pub(crate) fn queue_pairs(pairs: u16) -> Vec<u8> {
    [&[4, 0][..], &pairs.to_le_bytes()].concat()
}

/// `VIRTIO_NET_CTRL_NOTF_COAL_TX_SET`, `_RX_SET`, or of one ring `_VQ_SET`.
pub(crate) fn coalesce(command: u8, ring: Option<u16>, packets: u32, usecs: u32) -> Vec<u8> {
    let ring = ring.map(|ring| u32::from(ring).to_le_bytes().to_vec());
    let held = [packets.to_le_bytes(), usecs.to_le_bytes()];
    let ring = ring.unwrap_or_default();
    [&[6, command][..], &ring, held.as_flattened()].concat()
}
