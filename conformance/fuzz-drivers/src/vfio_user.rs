//! A client of vfio-user that says anything, in any order, with any descriptors, to functions of both families, and a driver behind it that writes
//! anything into registers and into memory, while the data plane serves its queues.
//!
//! Rules: nobody panics and nothing is endless; each command that wants a reply gets one, and no other does; queues come and go in
//! turn; and when the client has gone, nobody has a queue.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vf_model::{Counters, MacAddr, MailboxRequest, NicConfig, Policy, Profile, VfIndex};
use vf_pci::ef10::Ef10;
use vf_pci::function::{Function, Host, NotGranted};
use vf_pci::ixgbevf::Ixgbevf;
use vf_pci::slot::Slot;
use vf_pci::vfio_user::message::{HEADER_LEN, Header};
use vf_pci::vfio_user::session::{Session, SessionEnd};
use vf_vhost::frame::TagEdit;
use vf_vhost::rx::RxQueue;
use vf_vhost::tx::TxQueue;
use vf_vhost::vring::Vring;

use crate::bytes::Bytes;
use crate::guest::{self, GUEST, Guest, SIZE};

/// Queue pairs of a function.
const PAIRS: u16 = 4;

enum Queue {
    Tx(TxQueue),
    Rx(RxQueue),
}

impl Queue {
    fn into_vring(self) -> Vring {
        match self {
            Queue::Tx(tx) => tx.into_vring(),
            Queue::Rx(rx) => rx.into_vring(),
        }
    }
}

/// The NIC: what of its queues runs, and what has been asked of it.
pub(crate) struct Nic {
    running: BTreeMap<u32, Queue>,
    policy: Policy,
}

impl Host for Nic {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        for vring in queues {
            let index = vring.index();
            let queue = match index % 2 {
                0 => Queue::Rx(RxQueue::new(vring)),
                _ => Queue::Tx(TxQueue::new(vring)),
            };
            let before = self.running.insert(index, queue);
            assert!(before.is_none(), "queue {index} was started twice");
        }
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        let stop = |queue| self.running.remove(queue).map(Queue::into_vring);
        queues.iter().map(stop).collect()
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        let granted = self.policy.with_message(self.vf(), request)?;
        self.policy = granted.policy;
        granted.denied.map_or(Ok(()), |why| Err(why.into()))
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::new(self.policy.clone())
    }

    fn vf(&self) -> VfIndex {
        VfIndex(0)
    }

    fn speed_mbps(&self) -> u32 {
        10_000
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// A function of either family.
pub(crate) fn function(bytes: &mut Bytes<'_>) -> Box<dyn Function> {
    match bytes.below(2) {
        0 => Box::new(Ixgbevf::new(PAIRS)),
        _ => Box::new(Ef10::new()),
    }
}

impl Nic {
    pub(crate) fn new() -> Nic {
        Nic {
            running: BTreeMap::new(),
            policy: Policy::new(NicConfig {
                vfs: 2,
                mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
                profile: Profile::Generic,
            }),
        }
    }

    pub(crate) fn has_no_queues(&self) -> bool {
        self.running.is_empty()
    }

    /// A turn of the data plane: what is sent is received again, as far as there is room.
    pub(crate) fn turn(&mut self) {
        let mut sent: Vec<(u32, TxQueue)> = Vec::new();
        let queues: Vec<u32> = self.running.keys().copied().collect();
        for index in queues.into_iter().filter(|index| index % 2 == 1) {
            if let Some(Queue::Tx(tx)) = self.running.remove(&index) {
                sent.push((index, tx));
            }
        }
        for (index, mut tx) in sent {
            if let Ok(n) = tx.fetch() {
                for queue in self.running.values_mut() {
                    let Queue::Rx(rx) = queue else { continue };
                    for frame in tx.fetched().iter().filter(|frame| frame.fault().is_none()) {
                        let frame = std::slice::from_ref(frame);
                        // A fault of the ring ends it, and nothing else.
                        let _ = rx.deliver_from(&tx, frame, TagEdit::Keep);
                    }
                    rx.flush();
                }
                tx.complete(n);
                tx.flush();
            }
            self.running.insert(index, Queue::Tx(tx));
        }
    }
}

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let mut slot = Slot::new(function(&mut bytes));
    let mut nic = Nic::new();
    let mut session = Session::default();
    slot.power_on(&mut nic);
    // The last byte, so that the others mean what they did in the inputs that are kept.
    if data.last().is_some_and(|last| last & 1 == 1) {
        slot.share().unwrap();
    }
    guest::with(|guest| {
        guest.write(0, &[0; SIZE]);
        let mut send = |slot: &mut Slot, nic: &mut Nic, command, posted, payload: &[u8], fds| {
            let header = header(command, posted, payload.len());
            let mut outcome = session.receive(&header, payload, fds, slot, nic)?;
            while session.under_way().is_some() {
                assert!(outcome.reply.is_none(), "a reply before the last write");
                outcome = session.go_on(slot, nic)?;
            }
            assert_eq!(outcome.reply.is_some(), !posted, "replies to {command}");
            Ok::<_, SessionEnd>(())
        };
        // Far enough for registers to answer; what comes then is the input's.
        let begin = [
            (1, vec![0, 0, 1, 0], Vec::new()),
            (2, map(0, GUEST, SIZE as u64), vec![guest.fd()]),
            (10, [access(4, 7, 2), vec![6, 0]].concat(), Vec::new()),
        ];
        for (command, payload, fds) in begin {
            assert!(send(&mut slot, &mut nic, command, false, &payload, fds).is_ok());
        }
        for _ in 0..96 {
            if bytes.is_empty() {
                break;
            }
            let (command, payload, fds) = match bytes.below(8) {
                0 => {
                    let at = usize::from(bytes.u16()) % SIZE;
                    let n = usize::from(bytes.below(64)).min(SIZE - at);
                    guest.write(at, bytes.take(n));
                    continue;
                }
                1 => {
                    nic.turn();
                    continue;
                }
                2 => {
                    match slot.shared() {
                        // Registers without a message, if the driver has them mapped.
                        Some(pages) => {
                            let at = pages.offset + (u64::from(bytes.u16()) & 0x10fc);
                            let value = number(&mut bytes).to_le_bytes();
                            rustix::io::pwrite(&pages.file, &value[..4], at).unwrap();
                        }
                        None => slot.changed(&mut nic),
                    }
                    continue;
                }
                3 => message(&mut bytes, guest),
                // Registers, most of all.
                _ => register(&mut bytes),
            };
            let posted = bytes.u8() & 3 == 3;
            if send(&mut slot, &mut nic, command, posted, &payload, fds).is_err() {
                break;
            }
        }
    });
    slot.power_on(&mut nic);
    assert!(nic.has_no_queues(), "a queue of nobody runs");
}

fn header(command: u16, posted: bool, payload: usize) -> Header {
    let mut head = [0; HEADER_LEN];
    head[2..4].copy_from_slice(&command.to_ne_bytes());
    head[4..8].copy_from_slice(&((payload + HEADER_LEN) as u32).to_ne_bytes());
    head[8..12].copy_from_slice(&(u32::from(posted) << 4).to_ne_bytes());
    Header::parse(head).unwrap()
}

fn access(offset: u64, region: u32, count: u32) -> Vec<u8> {
    let words = [region, count].into_iter().flat_map(u32::to_ne_bytes);
    offset.to_ne_bytes().into_iter().chain(words).collect()
}

fn map(offset: u64, address: u64, size: u64) -> Vec<u8> {
    let words = [32u32, 3].into_iter().flat_map(u32::to_ne_bytes);
    let numbers = [offset, address, size]
        .into_iter()
        .flat_map(u64::to_ne_bytes);
    words.chain(numbers).collect()
}

/// A number as registers and messages have them: small, or an address of the guest, or any.
fn number(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.below(5) {
        0 => bytes.u8().into(),
        1 => 1 << bytes.below(64),
        2 => GUEST + u64::from(bytes.u16()),
        3 => bytes.u32().into(),
        _ => bytes.u64(),
    }
}

/// An access to a register of BAR 0.
fn register(bytes: &mut Bytes<'_>) -> (u16, Vec<u8>, Vec<OwnedFd>) {
    let offset = u64::from(bytes.u16()) & !3;
    let len = if bytes.u8() & 7 == 7 { 8 } else { 4 };
    match bytes.below(4) {
        0 => (9, access(offset, 0, len), Vec::new()),
        _ => {
            let value = number(bytes).to_le_bytes();
            let value = &value[..len as usize];
            (10, [&access(offset, 0, len), value].concat(), Vec::new())
        }
    }
}

/// Any command.
fn message(bytes: &mut Bytes<'_>, guest: &Guest) -> (u16, Vec<u8>, Vec<OwnedFd>) {
    let command = u16::from(bytes.below(18));
    let payload = match bytes.below(4) {
        0 => {
            let n = bytes.below(64);
            bytes.take(n.into()).to_vec()
        }
        1 => {
            let words = bytes.below(8);
            let word = |_| number(bytes) as u32;
            (0..words).map(word).flat_map(u32::to_ne_bytes).collect()
        }
        2 => map(0, number(bytes), number(bytes)),
        _ => {
            let numbers = bytes.below(8);
            let number = |_| number(bytes);
            (0..numbers)
                .map(number)
                .flat_map(u64::to_ne_bytes)
                .collect()
        }
    };
    let fds = bytes.below(3);
    let fd = |_| match bytes.u8() & 1 {
        0 => guest.fd(),
        _ => rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap(),
    };
    (command, payload, (0..fds).map(fd).collect())
}
