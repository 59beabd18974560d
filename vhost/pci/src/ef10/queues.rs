//! Virtual interfaces and what they are made of: INIT and FINI of event, receive and transmit queues, and the doorbells of those that run.
//! Never moves a frame.

use std::sync::Arc;

use vf_vhost::hardware::{DescriptorFormat, Doorbell, HardwareConfig};
use vf_vhost::vring::Vring;

use super::Ef10;
use super::controller::{TIMER_HOLDS_OFF, TIMER_MAX};
use super::descriptor::{Checksums, DESCRIPTOR, ReceiveFormat, TransmitFormat};
use super::event::{Direction, Event, EventQueue, EventQueueConfig, MAX_EVENTS, PAGE};
use super::mcdi::{McError, Payload, Reply};
use super::regs::INTERFACES;
use crate::function::Host;

/// Descriptors of a ring at most, as many as its tail register can name.
const MAX_DESCRIPTORS: u32 = 4096;
/// Descriptors of a ring at least, and events of a queue.
const MIN_ENTRIES: u32 = 16;
/// Receive descriptors are made available by so many.
const RECEIVE_BATCH: u32 = 8;

/// A ring that runs, or waits for memory.
#[derive(Debug)]
pub(super) struct FrameQueue {
    doorbell: Arc<Doorbell>,
    /// Descriptors less one.
    mask: u32,
    /// Where it completes.
    events: Arc<EventQueue>,
}

/// What INIT_RXQ and INIT_TXQ have in common.
struct Init {
    instance: u32,
    size: u16,
    label: u32,
    flags: u32,
    events: Arc<EventQueue>,
    pages: Vec<u64>,
}

/// The number that a ring has for the NIC.
fn index(direction: Direction, instance: u32) -> u32 {
    let odd = u32::from(direction == Direction::Transmit);
    instance.wrapping_mul(2) | odd
}

/// The pages of a queue of so many entries of 8 bytes, as a request lists them from there on.
fn pages(payload: &Payload<'_>, at: usize, entries: u32) -> Result<Vec<u64>, McError> {
    let wanted = (entries as usize).saturating_mul(DESCRIPTOR).div_ceil(PAGE);
    let pages: Vec<_> = payload.u64s(at).take(wanted).collect();
    let aligned = |page: &u64| page.is_multiple_of(PAGE as u64);
    match pages.len() == wanted && pages.iter().all(aligned) {
        true => Ok(pages),
        false => Err(McError::EINVAL),
    }
}

fn entries(payload: &Payload<'_>, most: u32) -> Result<u32, McError> {
    let size = payload.u32(0)?;
    match size.is_power_of_two() && (MIN_ENTRIES..=most).contains(&size) {
        true => Ok(size),
        false => Err(McError::EINVAL),
    }
}

impl Ef10 {
    pub(super) fn alloc_interfaces(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let (least, most) = (payload.u32(0)?, payload.u32(4)?);
        if self.interfaces > 0 {
            return Err(McError::EALREADY);
        }
        if least > INTERFACES || least > most || most == 0 {
            return Err(McError::ENOSPC);
        }
        self.interfaces = most.min(INTERFACES);
        Ok(Reply::zeros(12).u32(0, self.interfaces))
    }

    pub(super) fn free_interfaces(&mut self) -> Result<Reply, McError> {
        let in_use =
            !self.events.is_empty() || !self.receive.is_empty() || !self.transmit.is_empty();
        match (self.interfaces, in_use) {
            (0, _) => Err(McError::EALREADY),
            (_, true) => Err(McError::VIS_PRESENT),
            (_, false) => {
                self.interfaces = 0;
                Ok(Reply::default())
            }
        }
    }

    fn interface(&self, instance: u32) -> Result<u32, McError> {
        let known = Some(instance).filter(|instance| *instance < self.interfaces);
        known.ok_or(McError::EINVAL)
    }

    fn events_of(&self, instance: u32) -> Result<Arc<EventQueue>, McError> {
        self.events.get(&instance).cloned().ok_or(McError::ENOENT)
    }

    /// Says something on an event queue, if it is there.
    pub(super) fn tell(&self, instance: u32, event: Event) {
        if let Some(events) = self.events.get(&instance) {
            events.tell(event);
        }
    }

    pub(super) fn init_events(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        const INTERRUPTS: u32 = 1;
        const ARMED: u32 = 1 << 2;
        let size = entries(payload, MAX_EVENTS)?;
        let instance = self.interface(payload.u32(4)?)?;
        let (load, flags, mode) = (payload.u32(8)?, payload.u32(16)?, payload.u32(20)?);
        let vector = payload.u32(24)?;
        if self.events.contains_key(&instance) {
            return Err(McError::EEXIST);
        }
        let vector = match flags & INTERRUPTS {
            0 => None,
            _ => {
                let vectors = self.environment.vectors.len();
                let vector = u16::try_from(vector).ok();
                let there = vector.filter(|vector| usize::from(*vector) < vectors);
                Some(there.ok_or(McError::EINVAL)?)
            }
        };
        let config = EventQueueConfig {
            size,
            pages: pages(payload, 36, size)?,
            vector,
            armed: flags & ARMED != 0,
            hold_off_us: if mode == TIMER_HOLDS_OFF {
                load.min(TIMER_MAX)
            } else {
                0
            },
        };
        let memory = self.environment.memory.clone();
        let events = EventQueue::new(config, memory, Arc::clone(&self.environment.vectors));
        let started = events.push(std::iter::once(Event::started(instance)));
        started.map_err(|_| McError::EINVAL)?;
        events.raise();
        self.events.insert(instance, Arc::new(events));
        Ok(Reply::zeros(4).u32(0, vector.unwrap_or(0).into()))
    }

    pub(super) fn fini_events(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let events = self.events.remove(&payload.u32(0)?);
        events.ok_or(McError::EALREADY)?.close();
        Ok(Reply::default())
    }

    pub(super) fn set_timer(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let events = self.events_of(payload.u32(0)?)?;
        let (load, mode) = (payload.u32(4)?, payload.u32(12)?);
        let us = (load / 1000).min(TIMER_MAX);
        let us = if mode == TIMER_HOLDS_OFF { us } else { 0 };
        events.set_hold_off_us(us);
        let ns = us.saturating_mul(1000);
        Ok(Reply::zeros(8).u32(0, ns).u32(4, ns))
    }

    pub(super) fn driver_event(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        let events = self.events_of(payload.u32(0)?)?;
        events.tell(Event(payload.u64(4)?));
        Ok(Reply::default())
    }

    fn init(&self, payload: &Payload<'_>, direction: Direction) -> Result<Init, McError> {
        let size = entries(payload, MAX_DESCRIPTORS)?;
        let instance = self.interface(payload.u32(12)?)?;
        let there = match direction {
            Direction::Receive => &self.receive,
            Direction::Transmit => &self.transmit,
        };
        if there.contains_key(&instance) {
            return Err(McError::EEXIST);
        }
        Ok(Init {
            instance,
            size: u16::try_from(size).map_err(|_| McError::EINVAL)?,
            label: payload.u32(8)?,
            flags: payload.u32(16)?,
            events: self.events_of(payload.u32(4)?)?,
            pages: pages(payload, 28, size)?,
        })
    }

    fn start(
        &self,
        direction: Direction,
        init: Init,
        format: Box<dyn DescriptorFormat>,
        host: &mut dyn Host,
    ) -> Result<FrameQueue, McError> {
        let memory = self.environment.memory.clone().ok_or(McError::EINVAL)?;
        let doorbell = Arc::new(Doorbell::new().map_err(|_| McError::ENOSPC)?);
        let config = HardwareConfig {
            index: index(direction, init.instance),
            size: init.size,
            tables: init.pages,
            base: 0,
        };
        let vring = Vring::hardware(&config, memory, format, Arc::clone(&doorbell));
        host.start_queues(vec![vring.map_err(|_| McError::EINVAL)?]);
        Ok(FrameQueue {
            doorbell,
            mask: u32::from(init.size).saturating_sub(1),
            events: init.events,
        })
    }

    pub(super) fn init_receive(
        &mut self,
        payload: &Payload<'_>,
        host: &mut dyn Host,
    ) -> Result<Reply, McError> {
        const PREFIX: u32 = 1 << 8;
        /// One frame in several buffers of the kind that there is, no more than one frame in a buffer.
        const DMA_MODE: u32 = 0xf << 10;
        let init = self.init(payload, Direction::Receive)?;
        if init.flags & DMA_MODE != 0 {
            return Err(McError::ENOTSUP);
        }
        let instance = init.instance;
        let format = Box::new(ReceiveFormat {
            events: Arc::clone(&init.events),
            label: init.label,
            prefix: init.flags & PREFIX != 0,
            flow_hash: self.flow_hash.of_ring(),
        });
        let queue = self.start(Direction::Receive, init, format, host)?;
        self.receive.insert(instance, queue);
        let number = (instance as usize).saturating_add(1);
        self.receive_numbers = self.receive_numbers.max(number);
        // What is asked for in vain now is asked for again with the next filter.
        let _ = self.settle(host);
        Ok(Reply::default())
    }

    pub(super) fn init_transmit(
        &mut self,
        payload: &Payload<'_>,
        host: &mut dyn Host,
    ) -> Result<Reply, McError> {
        const NO_IP_CHECKSUM: u32 = 1 << 1;
        const NO_TCP_UDP_CHECKSUM: u32 = 1 << 2;
        const SEGMENTS: u32 = 1 << 12;
        let init = self.init(payload, Direction::Transmit)?;
        let instance = init.instance;
        let format = Box::new(TransmitFormat {
            events: Arc::clone(&init.events),
            label: init.label,
            checksums: Checksums {
                ip: init.flags & NO_IP_CHECKSUM == 0,
                tcp_udp: init.flags & NO_TCP_UDP_CHECKSUM == 0,
            },
            segments: init.flags & SEGMENTS != 0,
        });
        let queue = self.start(Direction::Transmit, init, format, host)?;
        self.transmit.insert(instance, queue);
        Ok(Reply::default())
    }

    pub(super) fn fini_receive(
        &mut self,
        payload: &Payload<'_>,
        host: &mut dyn Host,
    ) -> Result<Reply, McError> {
        let instance = payload.u32(0)?;
        let queue = self.receive.remove(&instance);
        if self.receive.is_empty() {
            self.receive_numbers = 0;
        }
        let reply = self.fini(Direction::Receive, instance, queue, host)?;
        // What is asked for in vain now is asked for again with the next request.
        let _ = self.settle(host);
        Ok(reply)
    }

    pub(super) fn fini_transmit(
        &mut self,
        payload: &Payload<'_>,
        host: &mut dyn Host,
    ) -> Result<Reply, McError> {
        let instance = payload.u32(0)?;
        let queue = self.transmit.remove(&instance);
        self.fini(Direction::Transmit, instance, queue, host)
    }

    /// Stops a ring; its driver is told on the ring's own event queue and on the first.
    fn fini(
        &mut self,
        direction: Direction,
        instance: u32,
        queue: Option<FrameQueue>,
        host: &mut dyn Host,
    ) -> Result<Reply, McError> {
        let queue = queue.ok_or(McError::EALREADY)?;
        let ring = index(direction, instance);
        self.waiting.retain(|waiting| waiting.index() != ring);
        drop(host.stop_queues(&[ring]));
        let flushed = Event::flushed(direction, instance);
        queue.events.tell(flushed);
        self.tell(0, flushed.to_driver());
        Ok(Reply::default())
    }

    /// The numbers of the rings that there are.
    fn rings(&self) -> Vec<u32> {
        let of = |direction| move |instance: &u32| index(direction, *instance);
        let receive = self.receive.keys().map(of(Direction::Receive));
        let transmit = self.transmit.keys().map(of(Direction::Transmit));
        receive.chain(transmit).collect()
    }

    /// Stops all rings and forgets them, and all event queues.
    pub(super) fn forget_queues(&mut self, host: &mut dyn Host) {
        let rings = self.rings();
        if !rings.is_empty() {
            drop(host.stop_queues(&rings));
        }
        self.waiting.clear();
        self.receive.clear();
        self.receive_numbers = 0;
        self.transmit.clear();
        for events in self.events.values() {
            events.close();
        }
        self.events.clear();
        self.interfaces = 0;
    }

    /// Takes rings and event queues to the memory that there is now. Rings wait that are not in it: a hypervisor maps one region after the
    /// other.
    pub(super) fn move_queues(&mut self, host: &mut dyn Host) {
        let rings = self.rings();
        if !rings.is_empty() {
            let stopped = host.stop_queues(&rings);
            self.waiting.extend(stopped.into_iter().flatten());
        }
        for events in self.events.values() {
            events.set_memory(self.environment.memory.clone());
        }
        let Some(memory) = &self.environment.memory else {
            return;
        };
        let (there, waiting): (Vec<_>, _) =
            self.waiting.drain(..).partition(|ring| ring.is_in(memory));
        self.waiting = waiting;
        let moved = there.into_iter();
        let moved = moved.filter_map(|ring| ring.remapped(Arc::clone(memory)).ok());
        let moved: Vec<Vring> = moved.collect();
        if !moved.is_empty() {
            host.start_queues(moved);
        }
    }

    /// The driver has made receive descriptors available up to this one.
    pub(super) fn receive_tail(&self, instance: u32, tail: u32) {
        if let Some(queue) = self.receive.get(&instance) {
            queue
                .doorbell
                .ring(tail & queue.mask & !RECEIVE_BATCH.wrapping_sub(1));
        }
    }

    /// The driver has made transmit descriptors available up to this one.
    pub(super) fn transmit_tail(&self, instance: u32, tail: u32) {
        if let Some(queue) = self.transmit.get(&instance) {
            queue.doorbell.ring(tail & queue.mask);
        }
    }

    /// The driver has read events up to this one.
    pub(super) fn event_read(&self, instance: u32, read: u32) {
        if let Some(events) = self.events.get(&instance) {
            events.set_read(read);
        }
    }

    /// The register of an event queue's timer: its mode, and counts of a microsecond.
    pub(super) fn event_timer(&self, instance: u32, value: u32) {
        if let Some(events) = self.events.get(&instance) {
            let holds_off = value >> 14 & 3 == TIMER_HOLDS_OFF;
            let us = if holds_off { value & TIMER_MAX } else { 0 };
            events.set_hold_off_us(us);
        }
    }
}
