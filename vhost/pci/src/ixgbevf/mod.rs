//! The virtual function of Intel's 82599 (8086:10ed) as its drivers know it: registers, the mailbox to the PF, advanced descriptors.
//! Linux's `ixgbevf` and DPDK's `net_ixgbe_vf` drive it.
//!
//! Numbers are those of DPDK's `base/ixgbe_vf.h`, `ixgbe_mbx.h` and `ixgbe_type.h` and of the 82599's data sheet (331520), behaviour
//! that of the data sheet and, at the PF's end of the mailbox, of Linux's `ixgbe`. Never judges a frame and decides nothing about the
//! VF: that is the [`Host`]'s.

mod descriptor;
mod interrupts;
mod mailbox;
mod queue;
mod regs;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vf_model::Counters;
use vf_vhost::error::{MemoryError, RingError};
use vf_vhost::memory::GuestMemory;
use vf_vhost::vring::Vring;

use self::interrupts::{Interrupts, VECTORS};
use self::mailbox::{Mailbox, Raised};
use self::queue::{Direction, Queue};
use crate::flow_hash::FlowHash;
use crate::function::{Bar, Environment, Function, Host, Identity, MsixLayout, SharedPages};

/// Queue pairs that there are registers for at most.
const QUEUE_PAIRS: u16 = 8;

/// Bytes of the first BAR.
const BAR_SIZE: u64 = 0x4000;
/// Bytes of its pages with the registers of queues, from [`regs::RX_QUEUES`] on; in those before and behind them are no such registers.
const SHARED: u64 = 0x2000;
/// What is counted, in these pages.
const STATISTICS: [u64; 7] = [
    regs::VFGPRC,
    regs::VFGORC_LSB,
    regs::VFGORC_MSB,
    regs::VFMPRC,
    regs::VFGPTC,
    regs::VFGOTC_LSB,
    regs::VFGOTC_MSB,
];

static IDENTITY: Identity = Identity {
    vendor: 0x8086,
    device: 0x10ed,
    subsystem_vendor: 0x8086,
    subsystem: 0x000c,
    revision: 1,
    class: 0x02_0000,
    bars: &[
        Bar {
            index: 0,
            size: BAR_SIZE,
            prefetchable: false,
        },
        Bar {
            index: 3,
            size: 0x4000,
            prefetchable: false,
        },
    ],
    msix: MsixLayout {
        vectors: VECTORS as u16,
        bar: 3,
        table: 0,
        pba: 0x2000,
    },
};

/// The virtual function; see the module.
#[derive(Debug)]
pub struct Ixgbevf {
    environment: Environment,
    interrupts: Arc<Interrupts>,
    mailbox: Mailbox,
    /// Receive and transmit queue of each pair.
    queues: Vec<[Queue; 2]>,
    /// Told if there are queues to spread flows over and the driver has turned RSS on.
    flow_hash: Arc<FlowHash>,
    /// Header split and RSS of the VF, which has neither: a driver finds what it wrote.
    psrtype: u32,
    /// How often its driver has asked the PF.
    messages: u64,
    /// The upper halves of the counters of bytes, received and sent, whose lower half was read last.
    octets: [Option<u32>; 2],
    /// The first BAR, if the driver writes registers of queues there without a message.
    bar: Option<Arc<GuestMemory>>,
    /// Whether the NIC has heard, since the last reset of the function, of a queue that was enabled and cannot run.
    said_broken: bool,
}

impl Ixgbevf {
    /// A VF with at least so many queue pairs, as after power-on: the silicon gives one 2, 4 or 8, and Linux's driver takes two on a machine with two
    /// CPUs without asking how many there are.
    #[must_use]
    pub fn new(queue_pairs: u16) -> Ixgbevf {
        let queue_pairs = queue_pairs.clamp(2, QUEUE_PAIRS).next_power_of_two();
        let flow_hash = Arc::new(FlowHash::default());
        let queue = |pair, way| Queue::new(pair, way, Arc::clone(&flow_hash));
        let queues = (0..queue_pairs).map(|pair| Direction::BOTH.map(|way| queue(pair, way)));
        Ixgbevf {
            environment: Environment::default(),
            interrupts: Arc::new(Interrupts::new()),
            mailbox: Mailbox::new(queue_pairs),
            queues: queues.collect(),
            flow_hash,
            psrtype: 0,
            messages: 0,
            octets: [None; 2],
            bar: None,
            said_broken: false,
        }
    }

    fn read_register(&mut self, offset: u64, host: &mut dyn Host) -> u32 {
        if let Some((queue, register)) = self.queue_register(offset) {
            return queue.read(register);
        }
        match offset {
            regs::VFSTATUS => regs::STATUS_GIO_MASTER_ENABLE,
            regs::VFLINKS => links(host),
            regs::VTEICR => self.interrupts.take_causes(),
            regs::VTEIMS => self.interrupts.mask(),
            regs::VTEIAC => self.interrupts.auto_clear(),
            regs::VTEIAM => self.interrupts.auto_mask(),
            regs::VTIVAR..regs::VTIVAR_END | regs::VTIVAR_MISC => {
                self.interrupts.allocation(ivar_at(offset))
            }
            regs::VTEITR..regs::VTEITR_END => self.interrupts.interval(nth(offset, regs::VTEITR)),
            regs::VFMBMEM..regs::VFMBMEM_END => self.mailbox.word(nth(offset, regs::VFMBMEM)),
            regs::VFMAILBOX => self.mailbox.take_status(),
            regs::VFPSRTYPE => self.psrtype,
            regs::VFGPRC..=regs::VFMPRC | regs::VFGPTC..=regs::VFGOTC_MSB => {
                self.statistic(offset, host)
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u32, host: &mut dyn Host) {
        if self.queue_register(offset).is_some() {
            self.write_queue(offset, value, host);
            return;
        }
        match offset {
            regs::VFCTRL if value & regs::CTRL_RST != 0 => {
                self.reset_registers(host);
                self.mailbox.reset(host);
            }
            regs::VTEICR => self.interrupts.clear(value),
            regs::VTEICS => self.interrupts.set(value),
            regs::VTEIMS => self.interrupts.enable(value),
            regs::VTEIMC => self.interrupts.disable(value),
            regs::VTEIAC => self.interrupts.set_auto_clear(value),
            regs::VTEIAM => self.interrupts.set_auto_mask(value),
            regs::VTIVAR..regs::VTIVAR_END | regs::VTIVAR_MISC => {
                self.interrupts.allocate(ivar_at(offset), value);
            }
            regs::VTEITR..regs::VTEITR_END => {
                self.interrupts
                    .set_interval(nth(offset, regs::VTEITR), value);
            }
            regs::VFMBMEM..regs::VFMBMEM_END => {
                self.mailbox.set_word(nth(offset, regs::VFMBMEM), value);
            }
            regs::VFMAILBOX => {
                self.messages = self
                    .messages
                    .saturating_add((value & mailbox::REQUEST).into());
                let raised = self.mailbox.control(value, host);
                self.tell(raised);
            }
            regs::VFPSRTYPE => {
                self.psrtype = value & regs::PSRTYPE_WRITABLE;
                self.tell_hash(host);
            }
            _ => {}
        }
    }

    /// A statistics register as the driver reads it: the upper half of what has two is of the moment at which the lower one was read, or
    /// now if that was not before.
    fn statistic(&mut self, offset: u64, host: &dyn Host) -> u32 {
        let counters = host.counters();
        for (upper, (low, high)) in self.octets.iter_mut().zip(OCTETS) {
            if offset == low {
                *upper = Some(statistic(high, &counters));
            } else if offset == high
                && let Some(upper) = upper.take()
            {
                return upper;
            }
        }
        statistic(offset, &counters)
    }

    /// Interrupts the driver for what is new in the mailbox.
    fn tell(&self, raised: Raised) {
        if raised == Raised::Yes {
            self.interrupts.raise_misc();
        }
    }

    /// The queue that a register belongs to, and which of its registers it is.
    fn queue_register(&mut self, offset: u64) -> Option<(&mut Queue, u64)> {
        let (first, way) = match offset {
            regs::RX_QUEUES..regs::RX_QUEUES_END => (regs::RX_QUEUES, Direction::Receive),
            regs::TX_QUEUES..regs::TX_QUEUES_END => (regs::TX_QUEUES, Direction::Transmit),
            _ => return None,
        };
        let offset = offset.checked_sub(first)?;
        let register = offset % regs::QUEUE_STRIDE;
        // The statistics are between the registers of the first queue.
        if !Queue::has(way, register) {
            return None;
        }
        let pair = usize::try_from(offset / regs::QUEUE_STRIDE).ok()?;
        let queue = self.queues.get_mut(pair)?.get_mut(way.index())?;
        Some((queue, register))
    }

    fn write_queue(&mut self, offset: u64, value: u32, host: &mut dyn Host) {
        let interrupts = Arc::clone(&self.interrupts);
        let memory = self.environment.memory.clone();
        let Some((queue, register)) = self.queue_register(offset) else {
            return;
        };
        queue.show(register, value);
        queue.write(register, value);
        let index = queue.index();
        let settled = settle(queue, memory, &interrupts, host);
        // What is written before and behind that is of a queue that is not whole yet, or of a test of registers.
        if let (Err(why), regs::CONTROL) = (settled, register) {
            self.say_broken(index, &why, host);
        }
    }

    /// Tells the NIC of a queue that its driver believes to run.
    fn say_broken(&mut self, queue: u32, why: &RingError, host: &mut dyn Host) {
        if !std::mem::replace(&mut self.said_broken, true) {
            host.cannot_run(queue, why);
        }
    }

    /// Everything but the mailbox.
    fn reset_registers(&mut self, host: &mut dyn Host) {
        self.reset_queues(host);
        self.interrupts.reset();
    }

    fn reset_queues(&mut self, host: &mut dyn Host) {
        drop(self.stop_all(host));
        for queue in self.queues.iter_mut().flatten() {
            queue.reset();
        }
        self.psrtype = 0;
        self.tell_hash(host);
    }

    /// Has rings tell the hash that spreads flows, if the driver has turned that on (8.2.3.8.11, RQPL: 0 is no RSS).
    fn tell_hash(&self, host: &dyn Host) {
        let spread = self.psrtype & regs::PSRTYPE_QUEUES != 0;
        self.flow_hash.set(spread && self.queues.len() > 1, host);
    }

    fn stop_all(&mut self, host: &mut dyn Host) -> Vec<(u32, Option<Vring>)> {
        let running = self.queues.iter_mut().flatten().filter(|q| q.is_running());
        let running: Vec<u32> = running.map(|queue| queue.index()).collect();
        if running.is_empty() {
            return Vec::new();
        }
        let stopped = host.stop_queues(&running);
        running.into_iter().zip(stopped).collect()
    }
}

impl Function for Ixgbevf {
    fn identity(&self) -> &'static Identity {
        &IDENTITY
    }

    fn read(&mut self, bar: u8, offset: u64, data: &mut [u8], host: &mut dyn Host) {
        data.fill(0);
        if bar != 0 {
            return;
        }
        // A part of a register reads as that part of it, and two registers as both.
        let mut done: usize = 0;
        while done < data.len() {
            let at = offset.saturating_add(done as u64);
            let bytes = self.read_register(at & !3, host).to_le_bytes();
            let skip = usize::try_from(at & 3).unwrap_or_default();
            let part = bytes.get(skip..).unwrap_or_default();
            let to = data.get_mut(done..).unwrap_or_default();
            let n = part.len().min(to.len());
            to.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            done = done.saturating_add(n);
        }
    }

    fn write(&mut self, bar: u8, offset: u64, data: &[u8], host: &mut dyn Host) {
        if bar != 0 {
            return;
        }
        // The hardware takes whole registers only.
        let (words, _) = data.as_chunks::<4>();
        for (word, at) in words.iter().zip((offset..).step_by(4)) {
            self.write_register(at, u32::from_le_bytes(*word), host);
        }
    }

    /// The PF keeps the address that a driver has chosen for its VF.
    fn forget(&mut self) {
        self.mailbox.forget_address();
    }

    fn reset(&mut self, host: &mut dyn Host) {
        self.reset_registers(host);
        self.mailbox.reset(host);
        self.said_broken = false;
    }

    /// The driver finds out by the mailbox, and by an interrupt: both are as it has left them. When it has, it resets the rest itself.
    fn restart(&mut self, host: &mut dyn Host) {
        self.reset_queues(host);
        self.changed(host);
    }

    fn set_environment(&mut self, environment: Environment, host: &mut dyn Host) {
        self.interrupts.connect(Arc::clone(&environment.vectors));
        let stopped = self.stop_all(host);
        self.environment = environment;
        let memory = &self.environment.memory;
        let mut running = Vec::new();
        for (index, vring) in stopped {
            let mut queues = self.queues.iter_mut().flatten();
            let Some(queue) = queues.find(|queue| queue.index() == index) else {
                continue;
            };
            queue.stopped();
            queue.show_head();
            let moved = vring.zip(memory.clone());
            if let Some((vring, memory)) = moved
                && let Ok(vring) = vring.remapped(memory)
            {
                queue.started();
                running.push(vring);
            }
        }
        // Those that could not run before.
        for queue in self.queues.iter_mut().flatten() {
            // It may be in memory that is still to be mapped.
            running.extend(queue.start(memory.clone(), &self.interrupts).ok().flatten());
        }
        if !running.is_empty() {
            host.start_queues(running);
        }
    }

    fn messages(&self) -> u64 {
        self.messages
    }

    fn share(&mut self) -> Result<Option<SharedPages>, MemoryError> {
        // Whatever comes of this: whoever was here before may have the other ones mapped still.
        self.bar = None;
        for queue in self.queues.iter_mut().flatten() {
            queue.share(None);
        }
        let (bar, file) = GuestMemory::of_our_own(BAR_SIZE)?;
        for queue in self.queues.iter_mut().flatten() {
            queue.share(Some(&bar));
        }
        self.bar = Some(bar);
        Ok(Some(SharedPages {
            bar: 0,
            offset: regs::RX_QUEUES,
            size: SHARED,
            file: Arc::new(file),
        }))
    }

    fn look(&mut self, host: &mut dyn Host) {
        let memory = &self.environment.memory;
        let mut broken = None;
        for queue in self.queues.iter_mut().flatten() {
            queue.look();
            if let Err(why) = settle(queue, memory.clone(), &self.interrupts, host) {
                broken.get_or_insert((queue.index(), why));
            }
        }
        if let Some((queue, why)) = broken {
            self.say_broken(queue, &why, host);
        }
        // The statistics are between the registers of the first queues.
        let Some(bar) = &self.bar else { return };
        let counters = host.counters();
        for at in STATISTICS {
            if let Some(register) = bar.slice_mut(at, 4) {
                // There is room for it.
                let _ = register.store(0, statistic(at, &counters).to_le(), Ordering::Relaxed);
            }
        }
    }

    fn changed(&mut self, host: &mut dyn Host) {
        self.tell_hash(host);
        let raised = self.mailbox.changed(host);
        self.tell(raised);
    }
}

/// Stops or starts a queue, as its registers say.
///
/// # Errors
/// It is to run and cannot.
fn settle(
    queue: &mut Queue,
    memory: Option<Arc<GuestMemory>>,
    interrupts: &Arc<Interrupts>,
    host: &mut dyn Host,
) -> Result<(), RingError> {
    if queue.wants_to_stop() {
        let stopped = host.stop_queues(&[queue.index()]);
        queue.stopped();
        drop(stopped);
        // What its driver has written meanwhile.
        queue.look();
    }
    if let Some(vring) = queue.start(memory, interrupts)? {
        host.start_queues(vec![vring]);
    }
    Ok(())
}

/// The link as its register shows it.
fn links(host: &dyn Host) -> u32 {
    let up = host.policy().link_up_for(host.vf());
    let speed = match host.speed_mbps() {
        10_000.. => regs::LINKS_SPEED_10G,
        1000.. => regs::LINKS_SPEED_1G,
        _ => regs::LINKS_SPEED_100M,
    };
    if up { regs::LINKS_UP | speed } else { speed }
}

/// The lower 32 of the 36 bits that bytes are counted in, and the register with the others.
const OCTETS: [(u64, u64); 2] = [
    (regs::VFGORC_LSB, regs::VFGORC_MSB),
    (regs::VFGOTC_LSB, regs::VFGOTC_MSB),
];

/// A statistics register. They count on over resets, 32 bits of frames and 36 bits of bytes, and go round.
fn statistic(offset: u64, counters: &Counters) -> u32 {
    let count = match offset {
        regs::VFGPRC => counters.rx_packets,
        regs::VFGORC_LSB => counters.rx_bytes,
        regs::VFGORC_MSB => counters.rx_bytes >> 32 & 0xf,
        regs::VFMPRC => counters.rx_multicast,
        regs::VFGPTC => counters.tx_packets,
        regs::VFGOTC_LSB => counters.tx_bytes,
        regs::VFGOTC_MSB => counters.tx_bytes >> 32 & 0xf,
        _ => 0,
    };
    u32::try_from(count & u64::from(u32::MAX)).unwrap_or_default()
}

/// Which of the registers from `first` on it is.
fn nth(offset: u64, first: u64) -> usize {
    usize::try_from(offset.saturating_sub(first) / 4).unwrap_or(usize::MAX)
}

/// Which of the registers of interrupt allocation it is.
fn ivar_at(offset: u64) -> usize {
    match offset {
        regs::VTIVAR_MISC => interrupts::MISC,
        _ => nth(offset, regs::VTIVAR),
    }
}

#[cfg(test)]
mod tests;
