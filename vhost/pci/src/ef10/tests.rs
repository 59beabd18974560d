//! A driver of an EF10 VF in plain Rust, which does what Linux's sfc does, and a NIC whose rings the tests have in hand. No transport: the
//! function is called as its slot calls it.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vf_model::{
    Command as Administer, Counters, FrameMeta, Judge, MailboxRequest, Nanos, Nic, NicConfig,
    Policy, Profile, Source, VfIndex, VfRequest,
};
use vf_vhost::frame::{FrameBuf, TagEdit};
use vf_vhost::memory::{GuestMemory, RegionSpec};
use vf_vhost::rx::{RxOutcome, RxQueue};
use vf_vhost::tx::TxQueue;

use super::command::Command;
use super::regs::{INTERFACES, VECTORS, WINDOW};
use super::*;
use crate::function::NotGranted;
use crate::msix::Vectors;

const PORT: u32 = 0x0100_0000;
const MEMORY: u64 = 1 << 22;
/// Where the driver has things.
const REQUEST: u64 = 0x1000;
const STATS: u64 = 0x3000;
const EVENTS: u64 = 0x1_0000;
const RECEIVE: u64 = 0x2_0000;
const TRANSMIT: u64 = 0x3_0000;
const RECEIVE_BUFFERS: u64 = 0x10_0000;
const TRANSMIT_BUFFERS: u64 = 0x20_0000;
const SIZE: u32 = 512;
const RECEIVE_BUFFER: u64 = 2048;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];
const OPTION: u64 = 1 << 63;
const GOES_ON: u64 = 1 << 62;

/// A NIC of four VFs; the function is the first.
struct Bench {
    policy: Arc<Policy>,
    receive: BTreeMap<u32, RxQueue>,
    transmit: BTreeMap<u32, TxQueue>,
    /// What the driver asked for, in words.
    asked: Vec<String>,
    /// Whether it is not heard.
    is_deaf: bool,
    counters: Counters,
}

impl Bench {
    fn new(profile: Profile) -> Bench {
        let mac_base = vf_model::MacAddr(MAC);
        let config = NicConfig {
            vfs: 4,
            mac_base,
            profile,
        };
        Bench {
            policy: Arc::new(Policy::new(config)),
            receive: BTreeMap::new(),
            transmit: BTreeMap::new(),
            asked: Vec::new(),
            is_deaf: false,
            counters: Counters::default(),
        }
    }

    fn admin(&mut self, words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        let command = Administer::parse(&words).unwrap();
        self.policy = Arc::new(self.policy.with(&command).unwrap());
    }

    /// Who receives this frame from the wire.
    fn receivers(&self, frame: &[u8]) -> Vec<u8> {
        let mut nic = Nic::new(Arc::clone(&self.policy));
        let meta = FrameMeta {
            len: frame.len() as u32,
            gso: None,
        };
        let verdict = nic.ingress(Nanos(0), Source::Wire, frame, &meta);
        verdict.vfs.iter().map(|vf| vf.0).collect()
    }
}

impl Host for Bench {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        for vring in queues {
            let index = vring.index();
            let old = match index % 2 {
                0 => self.receive.insert(index, RxQueue::new(vring)).is_some(),
                _ => self.transmit.insert(index, TxQueue::new(vring)).is_some(),
            };
            assert!(!old, "ring {index} runs already");
        }
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        let stop = |index: &u32| match index % 2 {
            0 => self.receive.remove(index).map(RxQueue::into_vring),
            _ => self.transmit.remove(index).map(TxQueue::into_vring),
        };
        queues.iter().map(stop).collect()
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        // That a driver is gone is always heard.
        let reset = matches!(request, MailboxRequest::Change(VfRequest::Reset { .. }));
        if self.is_deaf && !reset {
            return Err(NotGranted::TooMany);
        }
        self.asked.push(request.to_string());
        let granted = self.policy.with_message(self.vf(), request)?;
        self.policy = Arc::new(granted.policy);
        granted.denied.map_or(Ok(()), |why| Err(why.into()))
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    fn vf(&self) -> VfIndex {
        VfIndex(0)
    }

    fn speed_mbps(&self) -> u32 {
        10_000
    }

    fn counters(&self) -> Counters {
        self.counters.clone()
    }
}

/// A field of a payload.
fn put(payload: &mut [u8], at: usize, value: u32) {
    payload[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn words(len: usize, fields: &[(usize, u32)]) -> Vec<u8> {
    let mut payload = vec![0; len];
    fields
        .iter()
        .for_each(|(at, value)| put(&mut payload, *at, *value));
    payload
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn memory() -> Arc<GuestMemory> {
    memory_of(MEMORY)
}

fn memory_of(size: u64) -> Arc<GuestMemory> {
    let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    let spec = RegionSpec {
        guest_addr: 0,
        size,
        user_addr: 0,
        mmap_offset: 0,
    };
    GuestMemory::map(vec![(spec, fd)]).unwrap()
}

/// A driver and its VF.
struct Driver {
    function: Ef10,
    bench: Bench,
    memory: Arc<GuestMemory>,
    /// Where its requests are.
    request: u64,
    sequence: u32,
    event: u64,
    sent: u64,
    posted: u64,
    taken: u64,
}

impl Driver {
    fn new(bench: Bench) -> Driver {
        Driver::of(bench, memory())
    }

    fn of(bench: Bench, memory: Arc<GuestMemory>) -> Driver {
        let mut driver = Driver {
            function: Ef10::new(),
            bench,
            memory: Arc::clone(&memory),
            request: REQUEST,
            sequence: 0,
            event: 0,
            sent: 0,
            posted: 0,
            taken: 0,
        };
        driver.set_memory(Some(memory));
        driver.function.reset(&mut driver.bench);
        driver
    }

    /// A driver whose interface is up: what Linux does from probe to open.
    fn up(bench: Bench) -> Driver {
        let mut driver = Driver::new(bench);
        driver.probe();
        driver.open();
        driver
    }

    fn set_memory(&mut self, memory: Option<Arc<GuestMemory>>) {
        let vectors = match self.function.environment.vectors.len() {
            0 => Arc::new(Vectors::new(IDENTITY.msix.vectors)),
            _ => Arc::clone(&self.function.environment.vectors),
        };
        let environment = Environment { memory, vectors };
        self.function.set_environment(environment, &mut self.bench);
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.function
            .write(0, offset, &value.to_le_bytes(), &mut self.bench);
    }

    fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.function.read(0, offset, &mut data, &mut self.bench);
        u32::from_le_bytes(data)
    }

    fn poke(&self, at: u64, bytes: &[u8]) {
        self.memory
            .slice_mut(at, bytes.len())
            .unwrap()
            .copy_from(bytes);
    }

    fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.slice(at, len).unwrap().copy_to(&mut bytes);
        bytes
    }

    /// Asks the controller in a message of version 2.
    fn ask(&mut self, command: Command, payload: &[u8]) -> Result<Vec<u8>, u32> {
        self.sequence = (self.sequence + 1) & 0xf;
        let first = 0x7f | 1 << 7 | self.sequence << 16;
        let second = u32::from(command.0) | (payload.len() as u32) << 16;
        self.poke(self.request, &first.to_le_bytes());
        self.poke(self.request + 4, &second.to_le_bytes());
        self.poke(self.request + 8, payload);
        self.write(0x200, 0);
        self.write(0x204, self.request as u32);
        let header = self.peek(self.request, 8);
        let (first, second) = (word(&header, 0), word(&header, 4));
        assert!(first & 1 << 23 != 0, "no answer to {command}");
        assert_eq!(first >> 16 & 0xf, self.sequence);
        assert_eq!(second & 0x7fff, u32::from(command.0));
        let answer = self.peek(self.request + 8, (second >> 16) as usize);
        match first & 1 << 22 {
            0 => Ok(answer),
            _ => Err(word(&answer, 0)),
        }
    }

    fn probe(&mut self) {
        assert_eq!(self.read(0x10), 0xb007_0000);
        self.write(0x204, 1);
        let no_fails = self
            .ask(Command::GET_ASSERTS, &words(4, &[(0, 1)]))
            .unwrap();
        assert_eq!((no_fails.len(), word(&no_fails, 0)), (140, 1));
        let attach = words(12, &[(0, 1), (4, 1), (8, u32::MAX)]);
        assert_eq!(self.ask(Command::DRV_ATTACH, &attach).unwrap(), [0; 8]);
        self.ask(Command::ENTITY_RESET, &words(4, &[(0, 1)]))
            .unwrap();
        self.ask(Command::LOG_CTRL, &words(8, &[(0, 2)])).unwrap();
        assert_eq!(self.ask(Command::GET_FUNCTION_INFO, &[]).unwrap(), [0; 8]);
        let capabilities = self.ask(Command::GET_CAPABILITIES, &[]).unwrap();
        assert!(capabilities.len() == 72 && word(&capabilities, 0) & 1 << 23 != 0);
        self.ask(Command::GET_PORT_ASSIGNMENT, &[]).unwrap();
        let port = PORT.to_le_bytes();
        let macs = self.ask(Command::VPORT_GET_MAC_ADDRESSES, &port).unwrap();
        assert_eq!((word(&macs, 0), &macs[4..]), (1, &MAC[..]));
        self.ask(Command::GET_WORKAROUNDS, &[]).unwrap();
        assert_eq!(
            self.ask(Command::GET_EVQ_TMR_PROPERTIES, &[])
                .unwrap()
                .len(),
            36
        );
        assert_eq!(self.ask(Command::SENSOR_INFO, &[]), Err(1));
        assert_eq!(self.ask(Command::PTP, &words(4, &[(0, 1)])), Err(1));
        let interfaces = self
            .ask(Command::ALLOC_VIS, &words(8, &[(0, 4), (4, 64)]))
            .unwrap();
        let all = (INTERFACES, 0);
        assert_eq!((word(&interfaces, 0), word(&interfaces, 4)), all);
        self.ask(Command::GET_PHY_CFG, &[]).unwrap();
        assert_eq!(
            self.ask(Command::GET_LOOPBACK_MODES, &[]).unwrap().len(),
            40
        );
        let link = self.ask(Command::GET_LINK, &[]).unwrap();
        assert_eq!((word(&link, 8), word(&link, 16) & 1), (10_000, 1));
        let adaptor = words(30, &[(0, PORT)]);
        self.ask(Command::VADAPTOR_ALLOC, &adaptor).unwrap();
        let matches = self
            .ask(Command::GET_PARSER_DISP_INFO, &words(4, &[(0, 1)]))
            .unwrap();
        assert_eq!(matches.len(), 8 + 4 * word(&matches, 4) as usize);
        self.ask(Command::SET_LINK, &words(16, &[(0, 0x80)]))
            .unwrap();
        self.ask(Command::SET_MAC, &words(28, &[(0, 1544), (4, 0)]))
            .unwrap();
    }

    fn open(&mut self) {
        self.poke(EVENTS, &[0xff; 4096]);
        let events = words(
            44,
            &[(0, SIZE), (4, 0), (16, 1), (24, 0), (36, EVENTS as u32)],
        );
        self.ask(Command::INIT_EVQ, &events).unwrap();
        assert_eq!(self.events(), [5 << 60 | 2 << 56]);
        let transmit = words(
            36,
            &[
                (0, SIZE),
                (8, 1),
                (12, 0),
                (16, 1 << 12),
                (24, PORT),
                (28, TRANSMIT as u32),
            ],
        );
        self.ask(Command::INIT_TXQ, &transmit).unwrap();
        // No-op that clears what a former user has pushed: both checksums are wanted.
        self.push_transmit(&[OPTION | 3]);
        let receive = words(
            36,
            &[
                (0, SIZE),
                (8, 0),
                (12, 0),
                (16, 1 << 8),
                (24, PORT),
                (28, RECEIVE as u32),
            ],
        );
        self.ask(Command::INIT_RXQ, &receive).unwrap();
        self.post(64);
        self.filter(0x10, 0, &[(52, &MAC)]).unwrap();
        self.filter(0x10, 2, &[(52, &[0xff; 6])]).unwrap();
    }

    /// Inserts or subscribes to what has these fields, for the host.
    fn filter(
        &mut self,
        fields: u32,
        operation: u32,
        values: &[(usize, &[u8])],
    ) -> Result<u64, u32> {
        self.filter_to(1, fields, operation, values)
    }

    fn filter_to(
        &mut self,
        destination: u32,
        fields: u32,
        operation: u32,
        values: &[(usize, &[u8])],
    ) -> Result<u64, u32> {
        let mut payload = words(
            108,
            &[
                (0, operation),
                (12, PORT),
                (16, fields),
                (20, destination),
                (40, u32::MAX),
            ],
        );
        for (at, value) in values {
            payload[*at..][..value.len()].copy_from_slice(value);
        }
        let answer = self.ask(Command::FILTER_OP, &payload)?;
        Ok(u64::from_le_bytes(answer[4..12].try_into().unwrap()))
    }

    /// An RSS context over so many queues that is not its own.
    fn shared_context(&mut self, queues: u32) -> u32 {
        let alloc = words(12, &[(0, PORT), (4, 1), (8, queues)]);
        word(&self.ask(Command::RSS_CONTEXT_ALLOC, &alloc).unwrap(), 0)
    }

    /// A receive ring beside the first.
    fn open_another(&mut self, instance: u32) {
        let ring = RECEIVE as u32 + 0x2000 * instance;
        let receive = words(
            36,
            &[
                (0, SIZE),
                (8, instance),
                (12, instance),
                (16, 1 << 8),
                (24, PORT),
                (28, ring),
            ],
        );
        self.ask(Command::INIT_RXQ, &receive).unwrap();
    }

    fn remove(&mut self, handle: u64) -> Result<Vec<u8>, u32> {
        let mut payload = words(108, &[(0, 1), (12, PORT)]);
        payload[4..12].copy_from_slice(&handle.to_le_bytes());
        self.ask(Command::FILTER_OP, &payload)
    }

    /// Takes all events that there are, as a driver does: each becomes ones again.
    fn events(&mut self) -> Vec<u64> {
        let mut events = Vec::new();
        loop {
            let at = EVENTS + 8 * self.event;
            let event = u64::from_le_bytes(self.peek(at, 8).try_into().unwrap());
            if event == u64::MAX {
                return events;
            }
            self.poke(at, &[0xff; 8]);
            self.event = (self.event + 1) % u64::from(SIZE);
            events.push(event);
        }
    }

    fn arm(&mut self) {
        self.write(0x400, self.event as u32);
    }

    fn interrupted(&self) -> bool {
        self.function.environment.vectors.take_pending(0)
    }

    /// Puts descriptors into the transmit ring and rings the doorbell.
    fn push_transmit(&mut self, descriptors: &[u64]) {
        for descriptor in descriptors {
            let at = TRANSMIT + 8 * (self.sent % u64::from(SIZE));
            self.poke(at, &descriptor.to_le_bytes());
            self.sent += 1;
        }
        // A descriptor and the tail behind it, 8 bytes each.
        let tail = (self.sent % u64::from(SIZE)).to_le_bytes();
        self.function.write(0, 0xa10, &[0; 8], &mut self.bench);
        self.function.write(0, 0xa18, &tail, &mut self.bench);
    }

    /// Sends a frame in so many pieces, with these options in front.
    fn send(&mut self, options: &[u64], frame: &[u8], pieces: usize) {
        let mut descriptors = options.to_vec();
        let mut at = TRANSMIT_BUFFERS;
        let piece = frame.len().div_ceil(pieces);
        let last = frame.chunks(piece).count() - 1;
        for (i, bytes) in frame.chunks(piece).enumerate() {
            self.poke(at, bytes);
            let more = if i == last { 0 } else { GOES_ON };
            descriptors.push(more | (bytes.len() as u64) << 48 | at);
            at += bytes.len() as u64;
        }
        self.push_transmit(&descriptors);
    }

    /// Makes so many more receive buffers available.
    fn post(&mut self, n: u64) {
        for _ in 0..n {
            let slot = self.posted % u64::from(SIZE);
            let descriptor = RECEIVE_BUFFER << 48 | (RECEIVE_BUFFERS + slot * RECEIVE_BUFFER);
            self.poke(RECEIVE + 8 * slot, &descriptor.to_le_bytes());
            self.posted += 1;
        }
        self.write(0x830, (self.posted % u64::from(SIZE)) as u32);
    }

    /// The frame that these events tell of, its prefix first.
    fn received(&mut self, events: &[u64]) -> Vec<u8> {
        let mut frame = Vec::new();
        for event in events {
            assert_eq!(event >> 60, 0, "{event:#x} is of a received frame");
            let slot = self.taken % u64::from(SIZE);
            self.taken += 1;
            assert_eq!(event >> 48 & 0xf, self.taken & 0xf);
            let bytes = (event & 0x3fff) as usize;
            frame.extend(self.peek(RECEIVE_BUFFERS + slot * RECEIVE_BUFFER, bytes));
            let goes_on = event >> 14 & 1 == 1;
            assert_eq!(goes_on, Some(event) != events.last());
        }
        frame
    }

    /// The frames that the VF has sent, with what is left to be done to them.
    fn on_its_way(&mut self) -> Vec<FrameBuf> {
        let ring = self.bench.transmit.get_mut(&1).unwrap();
        let n = ring.fetch().unwrap();
        let mut frames = Vec::new();
        for frame in ring.fetched() {
            assert_eq!(frame.fault(), None);
            let mut out = FrameBuf::default();
            ring.copy_to(frame, &mut out);
            frames.push(out);
        }
        ring.complete(n);
        ring.flush();
        frames
    }

    /// Gives the VF a frame.
    fn deliver(&mut self, frame: &[u8]) -> RxOutcome {
        let frame = FrameBuf {
            data: frame.to_vec(),
            ..FrameBuf::default()
        };
        let ring = self.bench.receive.get_mut(&0).unwrap();
        let outcome = ring.deliver(&frame, TagEdit::Keep).unwrap();
        ring.flush();
        outcome
    }
}

/// A frame of a TCP packet, whose checksums are as they may be.
fn tcp(dst: [u8; 6], to: [u8; 4], port: u8, payload: usize) -> Vec<u8> {
    let mut frame = [&dst[..], &[2, 0, 0, 0, 0, 9], &[8, 0]].concat();
    let len = (40 + payload) as u16;
    frame.extend([0x45, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1]);
    frame.extend(to);
    frame.extend([
        0x12, 0x34, 0, port, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend((0..payload).map(|i| i as u8));
    frame
}

/// The same frame from another port.
fn with_port(frame: &[u8], port: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[35] = port;
    frame
}

#[test]
fn a_driver_probes_opens_and_closes_as_linux_does() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    assert_eq!(
        driver.bench.asked,
        [
            // Power-on, and the reset that a probe begins with.
            "reset groups",
            "mode nouni nobcast",
            "reset groups",
            "mode nouni nobcast",
            "mtu 1522",
            "mode nobcast",
            "filter add flow-type ether dst ff:ff:ff:ff:ff:ff",
        ]
    );
    let mode = driver.bench.policy.in_force(VfIndex(0)).mode;
    assert!(!mode.nouni && !mode.nobcast);
    // What a user asks for that a VF does not have.
    for privileged in [
        Command::NVRAM_TYPES,
        Command::SET_ID_LED,
        Command::GET_BOOT_STATUS,
    ] {
        assert_eq!(driver.ask(privileged, &[0; 8]), Err(1), "{privileged}");
    }
    assert_eq!(driver.ask(Command(0x7ff), &[]), Err(38));
    let version = driver.ask(Command::GET_VERSION, &[]).unwrap();
    assert_eq!(version[24..], [6, 0, 2, 0, 7, 0, 0xe8, 3]);
    // Down and up again.
    for (fini, events) in [(Command::FINI_RXQ, 0x10), (Command::FINI_TXQ, 0xc)] {
        driver.ask(fini, &[0; 4]).unwrap();
        let flushed = 12 << 60 | events << 44;
        assert_eq!(driver.events(), [flushed, flushed | 1 << 12], "{fini}");
        assert_eq!(driver.ask(fini, &[0; 4]), Err(114), "twice");
    }
    assert!(driver.bench.receive.is_empty() && driver.bench.transmit.is_empty());
    assert_eq!(driver.ask(Command::FREE_VIS, &[]), Err(0x101a));
    driver.ask(Command::FINI_EVQ, &[0; 4]).unwrap();
    driver.ask(Command::FREE_VIS, &[]).unwrap();
    driver
        .ask(Command::VADAPTOR_FREE, &PORT.to_le_bytes())
        .unwrap();
    let detach = words(12, &[(0, 0), (4, 1)]);
    assert_eq!(
        word(&driver.ask(Command::DRV_ATTACH, &detach).unwrap(), 0),
        1
    );
}

/// Channels and transmit queues of Linux's driver (6.1 and 6.12), so many CPUs being possible and so many channels wanted: a channel takes a vector and two
/// transmit queues, one for XDP four, of which there is one for each CPU if there are vectors and interfaces enough.
fn linux_takes(possible: u32, wanted: u32) -> (u32, u32) {
    let (vectors, interfaces) = (u32::from(VECTORS), INTERFACES);
    let most = vectors.min(interfaces / 2);
    let xdp = if wanted >= most || wanted + possible > interfaces {
        0
    } else {
        possible.div_ceil(4).min(most - wanted)
    };
    let channels = (wanted + xdp).min(most);
    (channels, 2 * (channels - xdp) + 4 * xdp)
}

#[test]
fn whatever_linux_makes_of_its_cpus_there_are_interfaces_for() {
    let identity = Ef10::new().identity();
    let bar = identity.bars[0].size;
    assert_eq!(bar, u64::from(INTERFACES) * WINDOW);
    for possible in 1..=64 {
        for wanted in 1..=possible {
            let (channels, queues) = linux_takes(possible, wanted);
            assert!(channels <= u32::from(identity.msix.vectors));
            assert!(queues <= INTERFACES, "{wanted} of {possible} CPUs");
        }
    }
    assert_eq!(linux_takes(3, 3), (4, 10));
    // All of them are there.
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let queue = |instance| words(36, &[(0, SIZE), (12, instance), (28, TRANSMIT as u32)]);
    for instance in 1..INTERFACES {
        driver.ask(Command::INIT_TXQ, &queue(instance)).unwrap();
    }
    let beyond = driver.ask(Command::INIT_TXQ, &queue(INTERFACES));
    assert_eq!(beyond, Err(22), "EINVAL");
    assert_eq!(driver.bench.transmit.len(), INTERFACES as usize);
    // Of each, the doorbell is where its driver looks for it.
    let last = INTERFACES - 1;
    driver.poke(TRANSMIT, &(60_u64 << 48 | TRANSMIT_BUFFERS).to_le_bytes());
    driver.write(u64::from(last) * WINDOW + 0xa18, 1);
    let ring = driver.bench.transmit.get_mut(&(2 * last + 1)).unwrap();
    assert_eq!(ring.fetch(), Ok(1));
}

#[test]
fn what_dpdk_asks_beyond_linux_is_answered_so_that_it_goes_on() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    assert_eq!(driver.ask(Command::GET_PF_COUNT, &[]), Ok(vec![1]));
    for privileged in [
        Command::GET_BOOT_STATUS,
        Command::SET_TLP_PROCESSING_GLOBALS,
    ] {
        assert_eq!(driver.ask(privileged, &[0; 8]), Err(1), "{privileged}");
    }
    let get_desc_addr_info = Command(0x1b7);
    assert_eq!(driver.ask(get_desc_addr_info, &[]), Err(38), "ENOSYS");
    // Of 2 (BUG35388) it would take EPERM for "on", and prime event queues by the doorbell of transmit queues.
    for (kind, answer) in (1..8).map(|kind| (kind, if kind == 6 { Ok(vec![0; 4]) } else { Err(2) }))
    {
        let on = words(8, &[(0, kind), (4, 1)]);
        assert_eq!(driver.ask(Command::WORKAROUND, &on), answer, "{kind}");
    }
    // It advertises flow control, and starts no port that has none of that.
    let phy = driver.ask(Command::GET_PHY_CFG, &[]).unwrap();
    let link = driver.ask(Command::GET_LINK, &[]).unwrap();
    assert_eq!((word(&phy, 8), word(&link, 0)), (0x380, 0x380));
    let (partner, flow_control) = (word(&link, 4), word(&link, 20));
    assert_eq!(
        (partner, flow_control),
        (0x80, 0),
        "there is none all the same"
    );
}

#[test]
fn a_mac_that_is_to_pass_no_frame_is_not_for_a_vf_to_have() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let agreed = |driver: &Driver| driver.bench.policy.agreed_mtu(VfIndex(0));
    let before = agreed(&driver);
    assert!(before.is_some());
    // As net_sfc starts a port: it goes on with EPERM, and gives up with anything else.
    assert_eq!(driver.ask(Command::SET_MAC, &[0; 28]), Err(1));
    assert_eq!(agreed(&driver), before);
    assert_eq!(driver.ask(Command::SET_MAC, &[0; 20]), Err(22), "too short");
}

#[test]
fn who_asks_for_the_longest_frame_is_told_it_and_changes_nothing() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let longest = |driver: &mut Driver, fields: &[(usize, u32)]| {
        let answer = driver.ask(Command::SET_MAC, &words(32, fields)).unwrap();
        assert_eq!(answer.len(), 4);
        word(&answer, 0)
    };
    // It has asked for that before.
    assert_eq!(longest(&mut driver, &[]), 1544);
    assert_eq!(longest(&mut driver, &[(0, 1022), (28, 1)]), 1022);
    assert_eq!(longest(&mut driver, &[(0, 9000), (28, 2)]), 1022);
    driver.bench.admin("vf 0 mtu 900");
    assert_eq!(longest(&mut driver, &[]), 922, "what is in force");
    let shorter = words(28, &[(0, 822), (4, 0)]);
    assert_eq!(driver.ask(Command::SET_MAC, &shorter), Ok(vec![]));
    assert_eq!(longest(&mut driver, &[]), 822);
}

#[test]
fn a_frame_leaves_with_its_checksums_and_its_completion_interrupts() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.events();
    driver.arm();
    let frame = tcp([2, 0, 0, 0, 0, 1], [10, 0, 0, 2], 80, 400);
    driver.send(&[], &frame, 3);
    let sent = driver.on_its_way();
    assert_eq!(sent.len(), 1);
    let FrameBuf { mut data, offload } = sent[0].clone();
    let checksum = offload.checksum().unwrap();
    vf_packet::checksum::complete(&mut data, checksum.start, checksum.offset).unwrap();
    assert_eq!(vf_packet::testing::verify(&data).payload, 54);
    assert_eq!(data.len(), frame.len());
    assert_eq!(data[54..], frame[54..]);
    // Up to the last of option and three pieces, of the queue that its driver calls 1.
    assert_eq!(driver.events(), [2 << 60 | 1 << 16 | 3]);
    assert!(driver.interrupted());
    // Without options for checksums the frame is as it is.
    driver.send(&[OPTION], &frame, 1);
    let sent = driver.on_its_way();
    assert_eq!((&sent[0].data, sent[0].offload.is_none()), (&frame, true));
    assert!(!driver.interrupted(), "not armed");
    driver.arm();
    assert!(
        driver.interrupted(),
        "there is something that it has not read"
    );
}

/// As a forwarder sends what it has received with a trailer.
#[test]
fn what_is_behind_a_packet_does_not_count_in_its_checksum() {
    let verify = vf_packet::testing::verify;
    for payload in [6, 7, 200, 201] {
        let packet = tcp([2, 0, 0, 0, 0, 1], [10, 0, 0, 2], 80, payload);
        for trailer in [0, 1, 20, 61, 62, 63, 100, 1000, 5000] {
            let frame = [&packet[..], &vec![0xaa; trailer]].concat();
            for pieces in [1, 2, 3, 7] {
                let mut driver = Driver::up(Bench::new(Profile::Ef10));
                driver.send(&[], &frame, pieces);
                let FrameBuf { mut data, offload } = driver.on_its_way().remove(0);
                if let Some(checksum) = offload.checksum() {
                    let (start, offset) = (checksum.start, checksum.offset);
                    vf_packet::checksum::complete(&mut data, start, offset).unwrap();
                }
                assert_eq!(data.len(), frame.len());
                assert_eq!(verify(&data[..packet.len()]).payload, 54);
                if frame.len() > 128 {
                    assert_eq!(data[packet.len()..], frame[packet.len()..], "as it was");
                }
            }
        }
    }
}

#[test]
fn tso_v2_makes_the_next_frame_a_super_frame_and_no_other() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let mut frame = tcp([2, 0, 0, 0, 0, 1], [10, 0, 0, 2], 80, 4000);
    // As Linux leaves it: no length, no checksum.
    frame[16..18].fill(0);
    let tso = [
        OPTION | 7 << 60 | 2 << 56 | 1,
        OPTION | 7 << 60 | 3 << 56 | 1448 << 32,
    ];
    driver.send(&tso, &frame, 2);
    driver.send(&[], &tcp([2, 0, 0, 0, 0, 1], [10, 0, 0, 2], 80, 10), 1);
    let sent = driver.on_its_way();
    let segmentation = sent[0].offload.segmentation().unwrap();
    assert_eq!(
        (segmentation.gso.size, segmentation.gso.header_len),
        (1448, 54)
    );
    assert_eq!(sent[0].data[16..18], (4040u16).to_be_bytes());
    assert_eq!(sent[1].offload.segmentation(), None);
}

#[test]
fn a_received_frame_has_a_prefix_and_goes_over_as_many_buffers_as_it_takes() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.events();
    driver.arm();
    for len in [60, 2034, 2035, 5000] {
        let frame: Vec<u8> = (0..len).map(|i| i as u8).collect();
        assert_eq!(driver.deliver(&frame), RxOutcome::Delivered);
        let events = driver.events();
        assert_eq!(events.len(), (14 + frame.len()).div_ceil(2048));
        let received = driver.received(&events);
        assert_eq!(received[..8], [0; 8], "no hash, no tags");
        assert_eq!(received[8..10], (len as u16).to_le_bytes());
        assert_eq!(received[14..], frame);
    }
    assert!(driver.interrupted());
    let frame = tcp(MAC, [10, 0, 0, 2], 80, 10);
    driver.deliver(&frame);
    let events = driver.events();
    assert_eq!(events[0] >> 42 & 0x3f, 1 | 1 << 3, "IPv4 and TCP");
    driver.received(&events);
    // So many buffers as there were, less what has been used.
    let mut delivered = 0;
    while driver.deliver(&frame) == RxOutcome::Delivered {
        delivered += 1;
    }
    assert_eq!(delivered, 64 - (1 + 1 + 2 + 3 + 1));
    // The hardware takes eight at a time.
    driver.post(7);
    assert_eq!(driver.deliver(&frame), RxOutcome::NoBuffer);
    driver.post(1);
    assert_eq!(driver.deliver(&frame), RxOutcome::Delivered);
}

#[test]
fn the_hash_of_a_flow_is_in_the_prefix_while_there_is_a_context() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.events();
    // Of Microsoft's verification suite.
    let mut frame = tcp(MAC, [161, 142, 100, 80], 0, 10);
    frame[26..30].copy_from_slice(&[66, 9, 149, 187]);
    frame[34..38].copy_from_slice(&[0x0a, 0xea, 0x06, 0xe6]);
    let hash = |driver: &mut Driver, frame: &[u8]| {
        assert_eq!(driver.deliver(frame), RxOutcome::Delivered);
        let events = driver.events();
        word(&driver.received(&events), 0)
    };
    assert_eq!(hash(&mut driver, &frame), 0);
    let shared = words(12, &[(0, PORT), (4, 1), (8, 4)]);
    let context = driver.ask(Command::RSS_CONTEXT_ALLOC, &shared).unwrap();
    assert_eq!(hash(&mut driver, &frame), 0x51cc_c178);
    assert_eq!(hash(&mut driver, &[0; 60]), 0, "no IP");
    driver
        .bench
        .admin(&format!("vf 0 rss hkey {}", ["01"; 40].join(":")));
    driver.function.changed(&mut driver.bench);
    let another = hash(&mut driver, &frame);
    assert!(![0, 0x51cc_c178].contains(&another), "{another:#x}");
    driver.ask(Command::RSS_CONTEXT_FREE, &context).unwrap();
    assert_eq!(hash(&mut driver, &frame), 0);
    driver.ask(Command::RSS_CONTEXT_ALLOC, &shared).unwrap();
    assert_eq!(hash(&mut driver, &frame), another);
    driver
        .ask(Command::ENTITY_RESET, &words(4, &[(0, 1)]))
        .unwrap();
    assert!(
        !driver.function.flow_hash.of_ring().update(),
        "the next driver"
    );
}

#[test]
fn a_context_of_its_own_spreads_a_vfs_flows_as_its_driver_writes_it() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let exclusive = words(12, &[(0, PORT), (4, 0), (8, 4)]);
    let context = driver.ask(Command::RSS_CONTEXT_ALLOC, &exclusive).unwrap();
    let spread = |driver: &Driver| {
        let rss = driver.bench.policy.rss(VfIndex(0));
        (rss.key(), rss.spread().to_string())
    };
    assert_eq!(
        spread(&driver).1,
        "equal 1",
        "its table is still to be written"
    );
    let with = |rest: &[u8]| [&context[..], rest].concat();
    driver
        .ask(Command::RSS_CONTEXT_SET_KEY, &with(&[7; 40]))
        .unwrap();
    let table: [u8; 128] = std::array::from_fn(|entry| (entry % 3) as u8);
    driver
        .ask(Command::RSS_CONTEXT_SET_TABLE, &with(&table))
        .unwrap();
    assert_eq!(
        spread(&driver),
        (vf_model::RssKey([7; 40]), "equal 3".to_owned())
    );
    // Addresses only, of any kind of packet.
    let addresses = 0x3333_3300_u32.to_le_bytes();
    driver
        .ask(Command::RSS_CONTEXT_SET_FLAGS, &with(&addresses))
        .unwrap();
    let tcp = tcp(MAC, [10, 0, 0, 2], 80, 10);
    let (_, flow) = driver.bench.policy.rss(VfIndex(0)).hash(&tcp).unwrap();
    assert_eq!(flow.ports, None);
    for (command, said) in [
        (Command::RSS_CONTEXT_GET_KEY, &[7; 40][..]),
        (Command::RSS_CONTEXT_GET_TABLE, &table),
        (
            Command::RSS_CONTEXT_GET_FLAGS,
            &0x3333_3305_u32.to_le_bytes(),
        ),
    ] {
        assert_eq!(
            driver.ask(command, &context).unwrap()[4..],
            *said,
            "{command}"
        );
    }
    // What makes no sense changes nothing.
    let beyond = with(&[4; 128]);
    assert_eq!(driver.ask(Command::RSS_CONTEXT_SET_TABLE, &beyond), Err(22));
    assert_eq!(
        driver.ask(Command::RSS_CONTEXT_SET_TABLE, &context),
        Err(22)
    );
    assert_eq!(
        driver.ask(Command::RSS_CONTEXT_SET_KEY, &[0xff; 44]),
        Err(2)
    );
    // There is one way in which a VF spreads its flows.
    let shared = words(12, &[(0, PORT), (4, 1), (8, 4)]);
    for another in [&exclusive, &shared] {
        assert_eq!(driver.ask(Command::RSS_CONTEXT_ALLOC, another), Err(28));
    }
    driver.bench.is_deaf = true;
    assert_eq!(driver.ask(Command::RSS_CONTEXT_FREE, &context), Err(11));
    driver.bench.is_deaf = false;
    assert_eq!(spread(&driver).1, "equal 3");
    driver.ask(Command::RSS_CONTEXT_FREE, &context).unwrap();
    assert_eq!(
        spread(&driver),
        (vf_model::RssKey::default(), "default".to_owned())
    );
    // A shared one is not the driver's to write, but may be told what it is.
    let context = driver.ask(Command::RSS_CONTEXT_ALLOC, &shared).unwrap();
    let flags = driver
        .ask(Command::RSS_CONTEXT_GET_FLAGS, &context)
        .unwrap();
    let same = [&context[..], &flags[4..]].concat();
    assert_eq!(
        driver.ask(Command::RSS_CONTEXT_SET_FLAGS, &same),
        Ok(vec![])
    );
    let other = [&context[..], &addresses].concat();
    assert_eq!(driver.ask(Command::RSS_CONTEXT_SET_FLAGS, &other), Err(1));
    assert_eq!(driver.ask(Command::RSS_CONTEXT_ALLOC, &exclusive), Err(28));
    driver.ask(Command::RSS_CONTEXT_FREE, &context).unwrap();
    // A new driver has none.
    driver.ask(Command::RSS_CONTEXT_ALLOC, &exclusive).unwrap();
    driver
        .ask(Command::ENTITY_RESET, &words(4, &[(0, 1)]))
        .unwrap();
    assert_eq!(spread(&driver).1, "default");
}

#[test]
fn filters_are_obeyed_and_take_nothing_without_privilege() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let (mine, dns) = (
        tcp(MAC, [10, 0, 0, 2], 80, 0),
        tcp(MAC, [10, 0, 0, 2], 53, 0),
    );
    let theirs = tcp([2, 0, 0, 0, 0, 1], [10, 0, 0, 2], 53, 0);
    let group = tcp([1, 0, 0x5e, 0, 0, 9], [10, 0, 0, 2], 53, 0);
    let gets = |driver: &Driver, frame: &[u8]| driver.bench.receivers(frame).contains(&0);
    assert!(gets(&driver, &mine) && gets(&driver, &dns) && !gets(&driver, &group));
    // ethtool -N ... action -1
    let flow: [(usize, &[u8]); 4] = [
        (92, &[10, 0, 0, 2]),
        (58, &[0, 53]),
        (60, &[8, 0]),
        (66, &[6]),
    ];
    let handle = driver.filter_to(0, 0x262, 0, &flow).unwrap();
    assert!(gets(&driver, &mine) && !gets(&driver, &dns));
    assert_eq!(driver.bench.receivers(&theirs), [1]);
    assert_eq!(driver.filter_to(0, 0x262, 0, &flow), Err(6), "EEXIST");
    driver.remove(handle).unwrap();
    assert_eq!(driver.remove(handle), Err(2), "ENOENT");
    assert!(gets(&driver, &dns));
    // To a queue, and then to another: REPLACE.
    let to_queue: [(usize, &[u8]); 5] = [flow[0], flow[1], flow[2], flow[3], (24, &[2])];
    let handle = driver.filter_to(1, 0x262, 0, &to_queue).unwrap();
    let queue =
        |driver: &Driver| Nic::new(Arc::clone(&driver.bench.policy)).queue(VfIndex(0), &dns, 4);
    assert_eq!(queue(&driver), 2);
    let mut replace = words(108, &[(0, 4), (12, PORT), (20, 1), (24, 1)]);
    replace[4..12].copy_from_slice(&handle.to_le_bytes());
    driver.ask(Command::FILTER_OP, &replace).unwrap();
    assert_eq!(queue(&driver), 1);

    // A group that it subscribes to, and all groups, which is a privilege.
    driver
        .filter(0x10, 2, &[(52, &[1, 0, 0x5e, 0, 0, 9])])
        .unwrap();
    assert!(gets(&driver, &group));
    // As one of several recipients; of an address there is one.
    let nine: [(usize, &[u8]); 1] = [(52, &[1, 0, 0x5e, 0, 0, 9])];
    assert_eq!(driver.filter(0x10, 0, &nine), Err(6), "INSERT");
    let again = driver.filter(0x10, 2, &nine).unwrap();
    driver.remove(again).unwrap();
    assert!(gets(&driver, &group), "there is the first still");
    let mine_again = driver.filter(0x10, 2, &[(52, &MAC)]);
    assert_eq!(mine_again, Err(6), "EEXIST");
    assert_eq!(driver.filter(1 << 30, 2, &[]), Err(1), "UNKNOWN_MCAST_DST");
    assert_eq!(driver.filter(1 << 31, 0, &[]), Err(1), "UNKNOWN_UCAST_DST");
    assert_eq!(
        driver.filter(0x10, 0, &[(52, &[2, 0, 0, 0, 0, 1])]),
        Err(1),
        "another's address"
    );
    assert_eq!(driver.bench.receivers(&theirs), [1]);
    driver
        .bench
        .admin("vf 0 privilege +ALL_MULTICAST,+PROMISCUOUS");
    let mask = driver.ask(Command::PRIVILEGE_MASK, &[0; 8]).unwrap();
    assert_eq!(word(&mask, 0), 0x40 | 0x80 | 0x100 | 0x200 | 0x400);
    let promiscuous = driver.filter(1 << 31, 0, &[]).unwrap();
    let stranger = tcp([2, 0, 0, 0, 7, 7], [10, 0, 0, 2], 53, 0);
    assert!(gets(&driver, &stranger));
    driver.remove(promiscuous).unwrap();
    assert!(!gets(&driver, &stranger));
    // Not its own, and not to be given.
    assert_eq!(
        driver.ask(Command::PRIVILEGE_MASK, &words(8, &[(0, 1 << 16)])),
        Err(1)
    );
    assert_eq!(
        driver.ask(Command::PRIVILEGE_MASK, &words(8, &[(4, 1 << 31)])),
        Err(1)
    );
    // With a driver's reset all of them go, and what is for its address with them.
    driver.ask(Command::ENTITY_RESET, &[0; 4]).unwrap();
    assert!(!gets(&driver, &mine) && !gets(&driver, &group));
    assert!(driver.bench.policy.driver_filters(VfIndex(0)).is_empty());
}

/// As Linux' driver does when it is to filter by VLAN (`ethtool -K DEV rx-vlan-filter on`): all that it has, once for frames without a tag and once for each
/// VLAN.
#[test]
fn a_driver_that_filters_by_vlan_receives_what_is_its_own() {
    let mine = tcp(MAC, [10, 0, 0, 2], 80, 0);
    let mut driver = Driver::new(Bench::new(Profile::Ef10));
    driver.probe();
    driver.open();
    let group = [0x33, 0x33, 0, 0, 0, 1];
    let received = |driver: &Driver, to: [u8; 6]| {
        let frame = [&to[..], &mine[6..]].concat();
        driver.bench.receivers(&frame).contains(&0)
    };
    let mut handles = Vec::new();
    for vid in [[0, 0], [0, 7]] {
        for (operation, to) in [(0, MAC), (2, [0xff; 6]), (2, group)] {
            let values = [(52, &to[..]), (64, &vid)];
            handles.push(driver.filter(0x110, operation, &values).unwrap());
        }
    }
    assert!(received(&driver, MAC) && received(&driver, group));
    // The last one of them takes what the NIC has by it.
    for handle in handles.drain(..3) {
        driver.remove(handle).unwrap();
    }
    assert!(received(&driver, group));
    for handle in handles {
        driver.remove(handle).unwrap();
    }
    assert!(!received(&driver, group));
}

#[test]
fn what_is_for_a_vfs_own_address_goes_to_the_queue_that_its_filter_names() {
    let mine = tcp(MAC, [10, 0, 0, 2], 80, 0);
    let queue = |driver: &Driver, port| {
        let mut frame = mine.clone();
        frame[37] = port;
        Nic::new(Arc::clone(&driver.bench.policy)).queue(VfIndex(0), &frame, 2)
    };
    let mut driver = Driver::new(Bench::new(Profile::Ef10));
    driver.probe();
    driver.open();
    // Another receive ring.
    let receive = words(
        36,
        &[
            (0, SIZE),
            (8, 1),
            (12, 1),
            (16, 1 << 8),
            (24, PORT),
            (28, RECEIVE as u32 + 0x8000),
        ],
    );
    driver.ask(Command::INIT_RXQ, &receive).unwrap();
    // By the first filter, which was there before.
    assert!((0..50).all(|port| queue(&driver, port) == 0));
    let names = |driver: &Driver| driver.bench.policy.driver_filters(VfIndex(0)).len();
    assert_eq!(names(&driver), 2, "and that on broadcasts");
    driver.bench.asked.clear();
    // REPLACE, and a filter that is put in anew.
    let mut replace = words(108, &[(0, 4), (12, PORT), (20, 1), (24, 1)]);
    replace[4] = 1;
    driver.ask(Command::FILTER_OP, &replace).unwrap();
    assert!((0..50).all(|port| queue(&driver, port) == 1));
    assert_eq!(driver.remove(1).err(), None);
    assert!(driver.bench.receivers(&mine).is_empty());
    let first = [(52, &MAC[..]), (24, &[1])];
    let handle = driver.filter(0x10, 0, &first).unwrap();
    assert!((0..50).all(|port| queue(&driver, port) == 1));
    assert_eq!(driver.bench.receivers(&mine), [0]);
    assert_eq!(driver.filter(0x10, 0, &first), Err(6), "EEXIST");
    // Spread again.
    replace[4..12].copy_from_slice(&handle.to_le_bytes());
    put(&mut replace, 28, 1);
    put(&mut replace, 32, driver.shared_context(2));
    driver.ask(Command::FILTER_OP, &replace).unwrap();
    assert_eq!(names(&driver), 1);
    assert!((0..50).any(|port| queue(&driver, port) == 0));
    assert!((0..50).any(|port| queue(&driver, port) == 1));
    assert_eq!(driver.bench.receivers(&mine), [0]);
    // And dropped (ethtool -N ... action -1), whatever the driver had of it, and given back.
    for (destination, receivers) in [(0, &[][..]), (1, &[0])] {
        put(&mut replace, 20, destination);
        driver.ask(Command::FILTER_OP, &replace).unwrap();
        assert_eq!(driver.bench.receivers(&mine), receivers);
    }
    driver.remove(handle).unwrap();
    assert_eq!(names(&driver), 1);
}

/// Where there is no room for a filter that names one, or the NIC does not hear it, the driver has its second queue all the same.
#[test]
fn a_queue_that_a_filter_names_in_vain_is_asked_for_again() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let named = |driver: &Driver| driver.bench.policy.driver_filters(VfIndex(0)).len();
    let second = words(
        36,
        &[(0, SIZE), (8, 1), (12, 1), (28, RECEIVE as u32 + 0x8000)],
    );
    driver.bench.is_deaf = true;
    driver.ask(Command::INIT_RXQ, &second).unwrap();
    assert_eq!(named(&driver), 0);
    assert_eq!(driver.remove(99), Err(11), "EAGAIN");
    driver.bench.is_deaf = false;
    assert_eq!(driver.remove(99), Err(2), "ENOENT");
    assert_eq!(named(&driver), 2, "the own address and broadcasts");
    assert_eq!(driver.bench.receive.len(), 2);
    driver.remove(1).unwrap();
    assert_eq!(named(&driver), 1);
}

#[test]
fn what_is_for_a_group_goes_to_the_queue_that_its_filter_names() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let group = [1, 0, 0x5e, 0, 0, 5];
    let frame = tcp(group, [10, 0, 0, 2], 80, 0);
    let queues = |driver: &Driver| -> Vec<u16> {
        let nic = Nic::new(Arc::clone(&driver.bench.policy));
        let queue = |port| nic.queue(VfIndex(0), &with_port(&frame, port), 2);
        let mut queues: Vec<_> = (0..50).map(queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    };
    driver.open_another(1);
    let values: [(usize, &[u8]); 2] = [(52, &group), (24, &[1])];
    let handle = driver.filter(0x10, 2, &values).unwrap();
    let comes = |driver: &Driver| driver.bench.receivers(&frame).contains(&0);
    assert!(comes(&driver));
    assert_eq!(queues(&driver), [1]);
    let mut replace = words(108, &[(0, 4), (12, PORT), (20, 1), (24, 0)]);
    replace[4..12].copy_from_slice(&handle.to_le_bytes());
    driver.ask(Command::FILTER_OP, &replace).unwrap();
    assert_eq!(queues(&driver), [0]);
    put(&mut replace, 28, 1);
    put(&mut replace, 32, driver.shared_context(2));
    driver.ask(Command::FILTER_OP, &replace).unwrap();
    assert_eq!(queues(&driver), [0, 1]);
    for destination in [0, 1] {
        put(&mut replace, 20, destination);
        driver.ask(Command::FILTER_OP, &replace).unwrap();
        assert_eq!(comes(&driver), destination == 1);
    }
    driver.remove(handle).unwrap();
    assert!(!comes(&driver));
    // Those on the own address and on broadcasts name the first queue since there is another.
    assert_eq!(driver.bench.policy.driver_filters(VfIndex(0)).len(), 2);
    // Of what is unknown a VF receives all, in whichever queue.
    driver.bench.admin("vf 0 privilege +ALL_MULTICAST");
    assert_eq!(driver.filter(1 << 30, 2, &[(24, &[1])]), Err(95), "ENOTSUP");
    assert_eq!(driver.filter_to(0, 1 << 30, 2, &[]), Err(95), "ENOTSUP");
    driver.filter(1 << 30, 2, &[]).unwrap();
    assert!(comes(&driver));
}

/// `ethtool -N DEV flow-type ether dst MAC vlan 5 m 0xf000 action -1`, of a driver that has filters in each VLAN and of one that has not.
#[test]
fn what_is_dropped_in_one_vlan_comes_in_the_others() {
    let mine = tcp(MAC, [10, 0, 0, 2], 80, 0);
    let came = |driver: &Driver, frame: &[u8]| -> Vec<bool> {
        let tagged = |vid| [&frame[..12], &[0x81, 0, 0, vid], &frame[12..]].concat();
        let frames = [frame.to_vec(), tagged(5), tagged(6)];
        let came = frames.map(|frame| driver.bench.receivers(&frame).contains(&0));
        came.to_vec()
    };
    fn values<'a>(to: &'a [u8; 6], vid: &'a [u8; 2]) -> [(usize, &'a [u8]); 2] {
        [(52, to), (64, vid)]
    }
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let dropped = driver.filter_to(0, 0x110, 0, &values(&MAC, &[0, 5]));
    assert_eq!(came(&driver, &mine), [true, false, true]);
    let again = driver.filter_to(0, 0x110, 0, &values(&MAC, &[0, 5]));
    assert_eq!(again, Err(6), "EEXIST");
    driver.remove(dropped.unwrap()).unwrap();
    assert_eq!(came(&driver, &mine), [true; 3]);
    assert_eq!(
        driver.filter_to(0, 0x110, 0, &values(&MAC, &[0, 0])),
        Err(95),
        "ENOTSUP of frames without a tag"
    );
    // Those in each VLAN, of which one is replaced.
    driver.remove(1).unwrap();
    driver.filter(0x110, 0, &values(&MAC, &[0, 0])).unwrap();
    let five = driver.filter(0x110, 0, &values(&MAC, &[0, 5])).unwrap();
    let mut replace = words(108, &[(0, 4), (12, PORT), (20, 0)]);
    replace[4..12].copy_from_slice(&five.to_le_bytes());
    driver.ask(Command::FILTER_OP, &replace).unwrap();
    assert_eq!(came(&driver, &mine), [true, false, true]);
    // Another queue there is more than the NIC can: what was stays.
    put(&mut replace, 20, 1);
    put(&mut replace, 24, 2);
    assert_eq!(driver.ask(Command::FILTER_OP, &replace), Err(95), "ENOTSUP");
    assert_eq!(came(&driver, &mine), [true, false, true]);
    put(&mut replace, 24, 0);
    driver.ask(Command::FILTER_OP, &replace).unwrap();
    assert_eq!(came(&driver, &mine), [true; 3]);

    // A group that is dropped in one VLAN can be subscribed to.
    let group = [1, 0, 0x5e, 0, 0, 5];
    let frame = tcp(group, [10, 0, 0, 2], 80, 0);
    driver
        .filter_to(0, 0x110, 0, &values(&group, &[0, 5]))
        .unwrap();
    assert_eq!(came(&driver, &frame), [false; 3]);
    driver.filter(0x10, 2, &[(52, &group)]).unwrap();
    assert_eq!(came(&driver, &frame), [true, false, true]);
}

#[test]
fn a_filter_names_a_queue_and_a_context_that_are_there() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let flow: [(usize, &[u8]); 4] = [
        (92, &[10, 0, 0, 2]),
        (58, &[0, 53]),
        (60, &[8, 0]),
        (66, &[6]),
    ];
    let to = |queue: u8, mode: u8, context: u32| {
        let (queue, mode, context) = ([queue], [mode], context.to_le_bytes());
        let mut payload = words(108, &[(12, PORT), (16, 0x262), (20, 1)]);
        let more = [(24, &queue[..]), (28, &mode), (32, &context)];
        for (at, value) in flow.iter().copied().chain(more) {
            payload[at..][..value.len()].copy_from_slice(value);
        }
        payload
    };
    let beyond = u8::try_from(INTERFACES).unwrap();
    let spread = to(0, 1, 1);
    for wrong in [&to(beyond, 0, 0), &to(0, 1, 0), &spread] {
        assert_eq!(driver.ask(Command::FILTER_OP, wrong), Err(22), "EINVAL");
    }
    assert_eq!(driver.shared_context(2), 1);
    driver.ask(Command::FILTER_OP, &spread).unwrap();
}

#[test]
fn a_shared_context_spreads_over_its_queues_though_more_run() {
    let mine = tcp(MAC, [10, 0, 0, 2], 80, 0);
    let queues = |driver: &Driver| -> Vec<u16> {
        let nic = Nic::new(Arc::clone(&driver.bench.policy));
        let running = driver.bench.receive.len() as u16;
        let queue = |port| nic.queue(VfIndex(0), &with_port(&mine, port), running);
        let mut queues: Vec<_> = (0..200).map(queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    };
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.remove(1).unwrap();
    let context = driver.shared_context(2);
    let values: [(usize, &[u8]); 3] = [(52, &MAC), (28, &[1]), (32, &[context as u8])];
    driver.filter(0x10, 0, &values).unwrap();
    driver.open_another(1);
    assert_eq!(queues(&driver), [0, 1]);
    assert!(
        driver
            .bench
            .asked
            .iter()
            .all(|asked| !asked.contains("rss"))
    );
    driver.open_another(2);
    assert_eq!(queues(&driver), [0, 1], "of three");
    driver.ask(Command::FINI_RXQ, &words(4, &[(0, 1)])).unwrap();
    driver.open_another(1);
    driver
        .ask(Command::RSS_CONTEXT_FREE, &words(4, &[(0, context)]))
        .unwrap();
    assert_eq!(queues(&driver), [0, 1, 2], "as the NIC does");
}

#[test]
fn an_event_of_a_received_frame_has_its_tags_and_a_wrong_ip_checksum() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.events();
    // (event >> 39 & 7, event >> 25 & 1) of a frame of the tests, whose checksum is 0.
    let mut wrong = tcp(MAC, [10, 0, 0, 2], 80, 10);
    let mut right = wrong.clone();
    let sum = vf_packet::checksum::Sum::default().with(&right[14..34]);
    right[24..26].copy_from_slice(&sum.checksum().to_be_bytes());
    for tags in 0..3 {
        for (frame, bad) in [(&wrong, 1), (&right, 0)] {
            driver.deliver(frame);
            let events = driver.events();
            assert_eq!(events.len(), 1);
            let said = (events[0] >> 39 & 7, events[0] >> 25 & 1);
            assert_eq!(said, (tags, bad));
            assert_eq!(events[0] >> 42 & 7, 1, "IPv4");
            driver.received(&events);
        }
        for frame in [&mut wrong, &mut right] {
            frame.splice(12..12, [0x81, 0, 0, 5]);
        }
    }
}

#[test]
fn an_event_says_what_a_frame_is_and_whether_its_checksum_is_right() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.events();
    let mut said = |frame: &[u8]| {
        driver.deliver(frame);
        let events = driver.events();
        driver.received(&events);
        let event = events[0];
        (event >> 42 & 7, event >> 45 & 7, event >> 26 & 1)
    };
    // Beyond the head of a frame, too.
    for payload in [10, 1000] {
        let wrong = tcp(MAC, [10, 0, 0, 2], 80, payload);
        let mut right = wrong.clone();
        let len = right.len() as u32;
        let found = vf_packet::partial_checksum(&mut right, len).unwrap();
        let made = found.unwrap().partial;
        vf_packet::checksum::complete(&mut right, made.start, made.offset).unwrap();
        assert_eq!(said(&right), (1, 1, 0));
        assert_eq!(said(&wrong), (1, 1, 1));
        let mut part = right.clone();
        part[20] = 0x20;
        assert_eq!(said(&part), (4, 0, 0));
        part[23] = 17;
        part[20] = 0x40;
        assert_eq!(said(&part), (1, 0, 0), "UDP of another length");
    }
    let arp = [&[0xff; 6][..], &MAC, &[8, 6], &[0; 46]].concat();
    assert_eq!(said(&arp), (5, 0, 0));
}

#[test]
fn an_address_changes_without_filters_and_as_far_as_the_administrator_lets_it() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let mut set = words(10, &[(0, PORT)]);
    set[4..].copy_from_slice(&[2, 0, 0, 0, 5, 5]);
    let mut without = Driver::new(Bench::new(Profile::Ef10));
    without.probe();
    without.ask(Command::VADAPTOR_SET_MAC, &set).unwrap();
    assert_eq!(driver.ask(Command::VADAPTOR_SET_MAC, &set), Err(0x1014));
    driver
        .ask(Command::VADAPTOR_FREE, &PORT.to_le_bytes())
        .unwrap();
    let frees = words(30, &[(0, PORT), (8, 2)]);
    assert_eq!(
        driver.ask(Command::VADAPTOR_SET_MAC, &set),
        Err(0x1014),
        "of that which is there by itself"
    );
    driver.ask(Command::VADAPTOR_ALLOC, &frees).unwrap();
    driver.ask(Command::VADAPTOR_SET_MAC, &set).unwrap();
    let mac = driver
        .ask(Command::VADAPTOR_GET_MAC, &PORT.to_le_bytes())
        .unwrap();
    assert_eq!(mac, [2, 0, 0, 0, 5, 5]);
    driver.bench.admin("vf 0 mac 02:00:00:00:06:06");
    assert_eq!(driver.ask(Command::VADAPTOR_SET_MAC, &set), Err(1), "EPERM");
    let macs = driver
        .ask(Command::VPORT_GET_MAC_ADDRESSES, &PORT.to_le_bytes())
        .unwrap();
    assert_eq!(macs[4..], [2, 0, 0, 0, 6, 6]);
}

#[test]
fn filters_on_addresses_that_a_vf_has_had_do_not_pile_up() {
    let mut driver = Driver::new(Bench::new(Profile::Ef10));
    driver.probe();
    let port = PORT.to_le_bytes();
    driver.ask(Command::VADAPTOR_FREE, &port).unwrap();
    let under_filters = words(30, &[(0, PORT), (8, 2)]);
    driver.ask(Command::VADAPTOR_ALLOC, &under_filters).unwrap();
    let inserted = (0..u16::MAX).find_map(|n| {
        let [high, low] = n.to_be_bytes();
        let mac = [2, 0, 0, 5, high, low];
        let mut set = words(10, &[(0, PORT)]);
        set[4..].copy_from_slice(&mac);
        driver.ask(Command::VADAPTOR_SET_MAC, &set).unwrap();
        let refused = driver.filter(0x10, 0, &[(52, &mac)]).err()?;
        Some((usize::from(n), refused))
    });
    assert_eq!(inserted, Some((super::filter::MOST, 28)), "ENOSPC");
}

#[test]
fn the_link_and_a_reset_by_the_administrator_are_told() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.events();
    driver.arm();
    driver.bench.admin("vf 0 state disable");
    driver.function.changed(&mut driver.bench);
    let down = driver.events();
    assert_eq!(down, [12 << 60 | 4 << 44 | 2 << 24 | 3 << 16]);
    assert!(driver.interrupted());
    driver.function.changed(&mut driver.bench);
    assert!(driver.events().is_empty(), "nothing new");
    driver.bench.admin("vf 0 state auto");
    driver.function.changed(&mut driver.bench);
    assert_eq!(driver.events(), [12 << 60 | 4 << 44 | 3 << 24 | 3 << 16]);

    driver.bench.admin("vf 0 reset");
    driver.function.changed(&mut driver.bench);
    assert_eq!(driver.events(), [12 << 60 | 0x15 << 44 | 1]);
    assert_eq!(driver.read(0x10), 0xb007_0001);
    assert!(driver.bench.receive.is_empty() && driver.bench.transmit.is_empty());
    // The driver comes back by itself.
    (driver.event, driver.sent, driver.posted, driver.taken) = (0, 0, 0, 0);
    driver
        .ask(Command::ALLOC_VIS, &words(8, &[(0, 1), (4, 8)]))
        .unwrap();
    driver
        .ask(Command::VADAPTOR_FREE, &PORT.to_le_bytes())
        .unwrap();
    driver.open();
    driver.deliver(&[0; 60]);
    let events = driver.events();
    assert_eq!(driver.received(&events).len(), 74);
    // The same as its slot does it; a driver that resets its function itself is told nothing.
    driver.bench.admin("vf 0 reset");
    driver.function.reset(&mut driver.bench);
    driver.function.changed(&mut driver.bench);
    assert_eq!(driver.events(), [12 << 60 | 0x15 << 44 | 2]);
    driver.function.reset(&mut driver.bench);
    assert_eq!(driver.read(0x10), 0xb007_0002);
}

#[test]
fn what_could_not_be_written_holds_up_no_interrupt() {
    let vectors = Arc::new(Vectors::new(1));
    let config = super::event::EventQueueConfig {
        size: 16,
        pages: vec![EVENTS],
        vector: Some(0),
        armed: false,
        hold_off_us: 0,
    };
    let queue = EventQueue::new(config, None, Arc::clone(&vectors));
    assert!(queue.push(std::iter::once(Event::sent(0, 1))).is_err());
    queue.set_memory(Some(memory()));
    queue.tell(Event::rebooted(1));
    assert!(!vectors.is_pending(0), "not armed");
    queue.set_read(0);
    assert!(vectors.take_pending(0));
}

#[test]
fn rings_go_on_in_another_memory_and_wait_while_there_is_none() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.deliver(&[1; 60]);
    let before = driver.events();
    driver.received(&before);
    // No bus master: nothing runs.
    driver.set_memory(None);
    assert!(driver.bench.receive.is_empty() && driver.bench.transmit.is_empty());
    // What a hypervisor that maps its memory anew does: the same bytes at the same place.
    let old = std::mem::replace(&mut driver.memory, memory());
    let mut bytes = vec![0; MEMORY as usize];
    old.slice(0, bytes.len()).unwrap().copy_to(&mut bytes);
    driver.poke(0, &bytes);
    driver.set_memory(Some(Arc::clone(&driver.memory)));
    driver.deliver(&[2; 60]);
    let events = driver.events();
    assert_eq!(driver.received(&events)[14..], [2; 60]);
    driver.send(&[], &[3; 60], 1);
    assert_eq!(driver.on_its_way()[0].data, [3; 60]);
    driver.events();
    // Where regions are mapped one by one, another may come first.
    driver.set_memory(Some(memory_of(RECEIVE)));
    assert!(driver.bench.receive.is_empty() && driver.bench.transmit.is_empty());
    driver.set_memory(Some(Arc::clone(&driver.memory)));
    driver.deliver(&[4; 60]);
    let events = driver.events();
    assert_eq!(driver.received(&events)[14..], [4; 60]);
    driver.send(&[], &[5; 60], 1);
    assert_eq!(driver.on_its_way()[0].data, [5; 60]);
    // They can be made anew.
    driver.function.reset(&mut driver.bench);
    assert!(driver.bench.receive.is_empty());
}

#[test]
fn counters_are_written_where_the_driver_wants_them() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    driver.bench.counters.rx_packets = 7;
    let mut request = words(20, &[(0, STATS as u32), (8, 1), (12, 97 * 8)]);
    driver.ask(Command::MAC_STATS, &request).unwrap();
    let reading = driver.peek(STATS, 97 * 8);
    assert_eq!((word(&reading, 0), word(&reading, 8 * 0x60)), (1, 1));
    assert_eq!(word(&reading, 8 * 0x4c), 7);
    // DPDK's driver says each time that there is to be no event for what is periodic, which nothing is.
    let quiet = words(20, &[(0, STATS as u32), (8, 0x21), (12, 97 * 8)]);
    driver.bench.counters.rx_packets = 9;
    driver.ask(Command::MAC_STATS, &quiet).unwrap();
    assert_eq!(word(&driver.peek(STATS, 97 * 8), 8 * 0x4c), 9);
    let cleared = driver.ask(Command::MAC_STATS, &words(20, &[(8, 0x22)]));
    assert_eq!(cleared, Ok(Vec::new()));
    driver.ask(Command::MAC_STATS, &quiet).unwrap();
    assert_eq!(word(&driver.peek(STATS, 97 * 8), 8 * 0x4c), 0);
    // Outside, periodically, and in the answer.
    request[4] = 1;
    assert_eq!(driver.ask(Command::MAC_STATS, &request), Err(22));
    assert_eq!(
        driver.ask(Command::MAC_STATS, &words(20, &[(8, 0xc)])),
        Err(95)
    );
    assert_eq!(
        driver.ask(Command::MAC_STATS, &[0; 20]).unwrap().len(),
        97 * 8
    );
}

#[test]
fn a_nic_that_does_not_hear_now_is_asked_again() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let mine = tcp(MAC, [10, 0, 0, 2], 80, 0);
    assert_eq!(driver.bench.receivers(&mine), [0]);
    driver.bench.is_deaf = true;
    driver.function.reset(&mut driver.bench);
    assert_eq!(
        driver.ask(Command::VADAPTOR_ALLOC, &words(30, &[(0, PORT)])),
        Ok(Vec::new())
    );
    let interfaces = words(8, &[(0, 1), (4, 1)]);
    driver.ask(Command::ALLOC_VIS, &interfaces).unwrap();
    assert_eq!(driver.filter(0x10, 0, &[(52, &MAC)]), Err(11), "EAGAIN");
    driver.bench.is_deaf = false;
    let broadcast = tcp([0xff; 6], [10, 0, 0, 2], 80, 0);
    driver.bench.asked.clear();
    driver.filter(0x10, 0, &[(52, &MAC)]).unwrap();
    assert_eq!(
        driver.bench.asked,
        ["reset groups", "mode nouni nobcast", "mode nobcast"]
    );
    assert!(
        !driver.bench.receivers(&broadcast).contains(&0),
        "it has no filter on that"
    );
    // Whatever it begins with.
    driver.bench.is_deaf = true;
    driver.function.reset(&mut driver.bench);
    driver.bench.is_deaf = false;
    driver.bench.asked.clear();
    let longer = words(28, &[(0, 1022), (4, 0)]);
    driver.ask(Command::SET_MAC, &longer).unwrap();
    assert_eq!(
        driver.bench.asked,
        ["reset groups", "mode nouni nobcast", "mtu 1000"]
    );
}

#[test]
fn moderation_is_told_to_the_plane_that_heeds_it() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    let held = |driver: &Driver| driver.bench.receive[&0].vring().coalescing().max_usecs;
    assert_eq!(held(&driver), 0);
    driver.write(0x420, 3 << 14 | 60);
    assert_eq!(held(&driver), 60);
    let answer = driver
        .ask(Command::SET_EVQ_TMR, &words(16, &[(4, 20_999), (12, 3)]))
        .unwrap();
    assert_eq!((held(&driver), word(&answer, 0)), (20, 20_000));
    driver.write(0x420, 60);
    assert_eq!(held(&driver), 0, "another mode");
}

#[test]
fn counts_of_a_timer_are_as_long_as_the_clock_says_and_as_the_controller_does() {
    let mut driver = Driver::up(Bench::new(Profile::Ef10));
    // As drivers without GET_EVQ_TMR_PROPERTIES do it.
    let clock = driver.ask(Command::GET_CLOCK, &[]).unwrap();
    let ns = 1_536_000 / word(&clock, 0);
    let timers = driver.ask(Command::GET_EVQ_TMR_PROPERTIES, &[]).unwrap();
    assert_eq!(word(&timers, 4), ns);
    let counts = 30_000 / ns;
    driver.write(0x420, 3 << 14 | counts);
    let held = driver.bench.receive[&0].vring().coalescing().max_usecs;
    assert_eq!(held, 30);
}

/// All that the driver of Debian 12's Linux 6.1.192 has asked under QEMU 11.1, from probe to unbind, with what it was answered: name, number and
/// bytes of the request, the error or 0, and the request's bytes without the zeros at their end. In between a user set filters, read statistics, ran
/// `ethtool -t`, and changed moderation, promiscuity, MTU and address.
const LINUX: &str = include_str!("linux-6.1.txt");

#[test]
fn what_linux_asks_is_answered_as_it_was() {
    let mut bench = Bench::new(Profile::Ef10);
    bench.policy = Arc::new(Policy::new(NicConfig {
        vfs: 4,
        mac_base: vf_model::MacAddr([2, 0x76, 0x66, 0, 0, 1]),
        profile: Profile::Ef10,
    }));
    let mut driver = Driver::of(bench, memory_of(256 << 20));
    // Where that guest had nothing.
    driver.request = (256 << 20) - 0x1000;
    for (line, asked) in LINUX.lines().enumerate() {
        let words: Vec<&str> = asked.split(' ').collect();
        let number =
            |word: &str, radix| u32::from_str_radix(word.trim_start_matches("0x"), radix).unwrap();
        let mut payload: Vec<u8> = words.get(4).map_or(Vec::new(), |hex| {
            let byte = |at| number(&hex[at..at + 2], 16) as u8;
            (0..hex.len()).step_by(2).map(byte).collect()
        });
        payload.resize(number(words[2], 10) as usize, 0);
        let answer = driver.ask(Command(number(words[1], 16) as u16), &payload);
        let expected = number(words[3], 10);
        assert_eq!(
            answer.err().unwrap_or(0),
            expected,
            "line {}: {}",
            line + 1,
            words[0]
        );
    }
    assert!(driver.bench.receive.is_empty() && driver.bench.transmit.is_empty());
    assert!(driver.bench.policy.driver_filters(VfIndex(0)).is_empty());
}

/// What a driver does that lies.
#[derive(Clone, Debug)]
enum Lie {
    Ask(u16, Vec<u8>),
    Header(u32, u32),
    Write(u64, u32),
    Descriptors(bool, Vec<u64>),
    Move,
    Reset,
    Frame(u16),
}

fn any_lie() -> impl Strategy<Value = Lie> {
    let known = (0u16..0x130).prop_flat_map(|command| {
        let small = prop_oneof![
            0u32..10,
            Just(PORT),
            Just(512),
            Just(EVENTS as u32),
            any::<u32>()
        ];
        proptest::collection::vec(small, 0..140).prop_map(move |words| {
            let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            Lie::Ask(command, bytes)
        })
    });
    let interface = 0..=u64::from(INTERFACES);
    let register = proptest::sample::select(vec![
        0, 0x10, 0x200, 0x204, 0x400, 0x420, 0x830, 0xa10, 0xa18,
    ]);
    prop_oneof![
        6 => known,
        1 => any::<(u32, u32)>().prop_map(|(first, second)| Lie::Header(first, second)),
        3 => (interface, register, any::<u32>()).prop_map(|(of, at, value)| Lie::Write(of * 8192 + at, value)),
        3 => (any::<bool>(), proptest::collection::vec(any::<u64>(), 1..40)).prop_map(|(rx, all)| Lie::Descriptors(rx, all)),
        1 => Just(Lie::Move),
        1 => Just(Lie::Reset),
        2 => (0u16..9000).prop_map(Lie::Frame),
    ]
}

proptest! {
    /// Whatever a driver asks for, writes into registers and leaves in its rings, nothing panics, all of it ends, and requests have an answer
    /// or are none.
    #[test]
    fn a_driver_that_lies_hurts_nobody(lies in proptest::collection::vec(any_lie(), 0..40), up in any::<bool>()) {
        let bench = Bench::new(Profile::Ef10);
        let mut driver = if up { Driver::up(bench) } else { Driver::new(bench) };
        for lie in lies {
            match lie {
                Lie::Ask(command, payload) => {
                    let payload = payload.get(..560).unwrap_or(&payload);
                    let _ = driver.ask(Command(command), payload);
                }
                Lie::Header(first, second) => {
                    driver.poke(REQUEST, &first.to_le_bytes());
                    driver.poke(REQUEST + 4, &second.to_le_bytes());
                    driver.write(0x200, 0);
                    driver.write(0x204, REQUEST as u32);
                }
                Lie::Write(offset, value) => driver.write(offset, value),
                Lie::Descriptors(receive, all) => {
                    for (i, descriptor) in all.iter().enumerate() {
                        let at = if receive { RECEIVE } else { TRANSMIT };
                        driver.poke(at + 8 * i as u64, &descriptor.to_le_bytes());
                    }
                    driver.write(if receive { 0x830 } else { 0xa18 }, all.len() as u32);
                }
                Lie::Move => {
                    driver.set_memory(None);
                    driver.set_memory(Some(Arc::clone(&driver.memory)));
                }
                Lie::Reset => driver.function.reset(&mut driver.bench),
                Lie::Frame(len) => {
                    let frame = FrameBuf { data: vec![0; usize::from(len).max(14)], ..FrameBuf::default() };
                    for ring in driver.bench.receive.values_mut() {
                        let _ = ring.deliver(&frame, TagEdit::Keep);
                        ring.flush();
                    }
                    for ring in driver.bench.transmit.values_mut() {
                        let n = ring.fetch().unwrap_or(0);
                        ring.complete(n);
                        ring.flush();
                    }
                }
            }
        }
        let most = INTERFACES as usize;
        prop_assert!(driver.bench.receive.len() <= most && driver.bench.transmit.len() <= most);
    }
}
