//! The virtual function of Solarflare's EF10 family (SFC9120, PCI ID 1924:1903). Linux's `sfc` and DPDK's `net_sfc` drive it.
//!
//! Registers are few (`regs`): doorbells of rings and event queues, and one through which the driver asks the NIC's controller for
//! everything else (`mcdi`, `command`, `controller`): its queues (`queues`) with their `descriptor`s and `event`s, filters
//! (`filter`), what has been counted (`stats`). Numbers are those of DPDK's headers (`drivers/common/sfc_efx/base`).
//!
//! Never judges a frame, and never says what a VF may have: the NIC's policy does both.

mod command;
mod controller;
mod descriptor;
mod event;
mod filter;
mod mcdi;
mod queues;
mod regs;
mod rss;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vf_model::DriverRss;
use vf_vhost::vring::Vring;

use self::controller::link_of;
use self::event::{Event, EventQueue, LinkState};
use self::filter::Filters;
use self::mcdi::{ALIGNMENT, MAX_PAYLOAD, McError, Payload, Request};
use self::queues::FrameQueue;
use self::regs::{INTERFACES, Register, VECTORS, WINDOW};
use crate::flow_hash::FlowHash;
use crate::function::{Bar, Environment, Function, Host, Identity, MsixLayout};

/// The BAR with the registers.
const REGISTERS: u8 = 0;
const IDENTITY: Identity = Identity {
    vendor: 0x1924,
    device: 0x1903,
    subsystem_vendor: 0x1924,
    subsystem: 0x8003,
    revision: 0,
    class: 0x02_0000,
    bars: &[
        Bar {
            index: REGISTERS,
            size: WINDOW * INTERFACES as u64,
            prefetchable: false,
        },
        Bar {
            index: 2,
            size: 0x4000,
            prefetchable: false,
        },
    ],
    msix: MsixLayout {
        vectors: VECTORS,
        bar: 2,
        table: 0,
        pba: 0x2000,
    },
};
/// What silicon says it is.
const REVISION: u32 = 0xeb14_face;
/// The controller runs; how often it has started is below.
const RUNS: u32 = 0xb007_0000;

/// An EF10 virtual function; see the module.
#[derive(Debug, Default)]
pub struct Ef10 {
    environment: Environment,
    /// The upper half of a request's address, until the lower half starts it.
    doorbell: u32,
    /// How often the controller has started anew under its driver.
    reboots: u16,
    /// How often the administrator had reset the VF.
    resets: u64,
    link: LinkState,
    /// Whether a driver has said that it is there, as it said it.
    attached: u32,
    /// Whether it reads link events of version 2.
    link_v2: bool,
    /// Virtual interfaces that it has.
    interfaces: u32,
    /// The adaptor that the driver has made; there is one without.
    adaptor: Option<Adaptor>,
    filters: Filters,
    rss: rss::Contexts,
    /// How flows are spread, as the NIC was last told.
    told_spread: Option<DriverRss>,
    /// Told while the driver has a context: without one, flows are not spread.
    flow_hash: Arc<FlowHash>,
    readings: stats::Readings,
    /// Whether the NIC knows that this driver is a new one.
    is_new_told: bool,
    events: BTreeMap<u32, Arc<EventQueue>>,
    receive: BTreeMap<u32, FrameQueue>,
    /// One more than the highest number of a receive ring since there was one.
    receive_numbers: usize,
    transmit: BTreeMap<u32, FrameQueue>,
    /// Rings that have no memory now.
    waiting: Vec<Vring>,
    /// Requests so far.
    messages: u64,
}

/// The adaptor on a function's port, which has filters and queues. The firmware makes one itself as long as the driver has not: after a reset,
/// Linux's sfc frees that one and goes on.
#[derive(Clone, Copy, Debug, Default)]
struct Adaptor {
    /// Whether its address may change while there are filters.
    sets_mac_under_filters: bool,
}

impl Ef10 {
    /// One after power-on.
    #[must_use]
    pub fn new() -> Ef10 {
        Ef10::default()
    }

    fn register(&self, offset: u64) -> u32 {
        match Register::at(offset) {
            Some(Register::Revision) => REVISION,
            Some(Register::ControllerStatus) => RUNS | u32::from(self.reboots),
            _ => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32, host: &mut dyn Host) {
        match register {
            Register::Revision | Register::ControllerStatus => {}
            Register::DoorbellHigh => self.doorbell = value,
            Register::DoorbellLow => {
                let address = u64::from(self.doorbell) << 32 | u64::from(value);
                self.messages = self.messages.saturating_add(1);
                self.request(address, host);
            }
            Register::EventRead(of) => self.event_read(of, value & 0x7fff),
            Register::EventTimer(of) => self.event_timer(of, value),
            Register::ReceiveTail(of) => self.receive_tail(of, value),
            Register::TransmitTail(of) => self.transmit_tail(of, value),
        }
    }

    /// Answers the request at this address. One that cannot be read, or that is no address but the word that ends a request, has
    /// no answer.
    fn request(&mut self, address: u64, host: &mut dyn Host) -> Option<()> {
        if !address.is_multiple_of(ALIGNMENT) {
            return None;
        }
        let memory = self.environment.memory.clone()?;
        let header = memory.slice(address, 8)?;
        let words = [header.read::<u32>(0)?, header.read(4)?].map(u32::from_le);
        let request = Request::of_header(words);
        let mut bytes = [0; MAX_PAYLOAD];
        let result = match bytes.get_mut(..request.len) {
            None => Err(McError::EINVAL),
            Some(payload) => {
                let at = address.checked_add(request.header_len() as u64)?;
                memory.slice(at, payload.len())?.copy_to(payload);
                self.command(request.command, &Payload(payload), host)
            }
        };
        let result = result
            .as_ref()
            .map(|reply| reply.as_bytes())
            .map_err(|error| *error);
        let answer = request.answer(result);
        let place = memory.slice_mut(address, answer.len())?;
        let first = answer.first_chunk().copied().map(u32::from_le_bytes)?;
        place
            .subslice(4, answer.len().checked_sub(4)?)?
            .copy_from(answer.get(4..)?);
        // Who sees the first word sees the rest.
        place.store(0, first.to_le(), Ordering::Release)?;
        if request.wants_event() {
            let (len, error) = match result {
                Ok(payload) => (payload.len(), 0),
                Err(error) => (8, error.code()),
            };
            self.tell(0, Event::answered(request.sequence(), len, error));
        }
        Some(())
    }

    /// If the administrator has reset the VF, the controller has started anew: its driver sees that by the number, and by an event on a queue
    /// that is gone thereafter. Whether it is so.
    fn notice_reset(&mut self, host: &dyn Host) -> bool {
        let resets = host.policy().resets(host.vf());
        if self.resets == resets {
            return false;
        }
        self.resets = resets;
        self.reboots = self.reboots.wrapping_add(1);
        self.tell(0, Event::rebooted(self.reboots));
        true
    }

    /// Has rings tell the hash that the NIC spreads flows by, or none.
    fn tell_hash(&self, host: &dyn Host) {
        self.flow_hash.set(!self.rss.is_empty(), host);
    }

    /// Stops everything and forgets what the driver has made, here and in the NIC.
    fn forget(&mut self, host: &mut dyn Host) {
        self.forget_queues(host);
        self.adaptor = None;
        self.filters.clear();
        self.rss = rss::Contexts::default();
        // The NIC forgets it with the rest.
        self.told_spread = None;
        self.tell_hash(host);
        self.is_new_told = false;
        // If the NIC does not hear it now, it does before the next request.
        let _ = self.settle(host);
    }
}

impl Function for Ef10 {
    fn identity(&self) -> &'static Identity {
        &IDENTITY
    }

    fn read(&mut self, _: u8, offset: u64, data: &mut [u8], _: &mut dyn Host) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            let word = self.register(at & !3).to_le_bytes();
            *byte = word.get((at & 3) as usize).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, bar: u8, offset: u64, data: &[u8], host: &mut dyn Host) {
        let words = data.chunks_exact(4).filter_map(<[u8]>::first_chunk);
        for (word, at) in words.zip((offset..).step_by(4)) {
            if let Some(register) = Register::at(at).filter(|_| bar == REGISTERS) {
                self.write_register(register, u32::from_le_bytes(*word), host);
            }
        }
    }

    fn reset(&mut self, host: &mut dyn Host) {
        self.notice_reset(host);
        self.forget(host);
        self.doorbell = 0;
        self.attached = 0;
        self.link_v2 = false;
        self.link = link_of(host);
    }

    fn set_environment(&mut self, environment: Environment, host: &mut dyn Host) {
        let same = match (&self.environment.memory, &environment.memory) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        self.environment = environment;
        if !same {
            self.move_queues(host);
        }
    }

    fn messages(&self) -> u64 {
        self.messages
    }

    fn changed(&mut self, host: &mut dyn Host) {
        if self.notice_reset(host) {
            self.forget(host);
        }
        self.tell_hash(host);
        let link = link_of(host);
        if self.link != link {
            self.link = link;
            self.tell(0, Event::link(link, self.link_v2));
        }
    }
}
