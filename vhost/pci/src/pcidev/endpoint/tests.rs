//! A kernel as User-Mode Linux is one, played in the same thread: its session, its accesses, its interrupts.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;
use vf_guest::driver::{Buffer, QueueLayout, RingFeatures, Virtqueue};
use vf_guest::frontend::Frontend;
use vf_guest::memory::{Allocator, GuestMemory};
use vf_model::{Counters, MailboxRequest, Policy, VfIndex};

use super::*;
use crate::config_space::tests::IDENTITY;
use crate::function::{Environment, Identity, NotGranted};
use crate::slot::tests::NoNic;

const MEMORY: u64 = 1 << 20;
const CFG_READ: u8 = 1;
const CFG_WRITE: u8 = 2;
const MMIO_READ: u8 = 3;
const MMIO_WRITE: u8 = 4;
const MMIO_MEMSET: u8 = 5;
/// Where a write interrupts.
const BELL: u64 = 0x40;

/// Where a write stops a queue.
const STOP: u64 = 0x48;

/// From where on each write takes a millisecond.
const SLOW: u64 = 0x1000;

/// What has happened to the function behind the socket.
#[derive(Debug, Default)]
struct Seen {
    slow: usize,
    resets: usize,
    has_memory: bool,
}

/// A function with sixteen bytes of registers and a bell.
#[derive(Debug)]
struct Bell {
    value: [u8; 16],
    environment: Environment,
    seen: Arc<Mutex<Seen>>,
}

impl Function for Bell {
    fn identity(&self) -> &'static Identity {
        &IDENTITY
    }

    fn read(&mut self, _: u8, offset: u64, data: &mut [u8], _: &mut dyn Host) {
        let at = usize::try_from(offset).unwrap();
        data.copy_from_slice(&self.value[at..at + data.len()]);
    }

    fn write(&mut self, _: u8, offset: u64, data: &[u8], host: &mut dyn Host) {
        if offset == STOP {
            host.stop_queues(&[0]);
            return;
        }
        if offset >= SLOW {
            std::thread::sleep(Duration::from_millis(1));
            self.seen.lock().unwrap().slow += 1;
            return;
        }
        if offset == BELL {
            self.environment.vectors.raise(data[0].into());
            return;
        }
        let at = usize::try_from(offset).unwrap();
        self.value[at..at + data.len()].copy_from_slice(data);
    }

    fn reset(&mut self, _: &mut dyn Host) {
        self.seen.lock().unwrap().resets += 1;
    }

    fn set_environment(&mut self, environment: Environment, _: &mut dyn Host) {
        self.seen.lock().unwrap().has_memory = environment.memory.is_some();
        self.environment = environment;
    }

    fn messages(&self) -> u64 {
        0
    }

    fn changed(&mut self, _: &mut dyn Host) {}
}

/// A NIC that hears nothing.
#[derive(Default)]
struct Witness(NoNic);

impl Host for Witness {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        self.0.start_queues(queues);
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        self.0.stop_queues(queues)
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        self.0.request(request)
    }

    fn policy(&self) -> Arc<Policy> {
        self.0.policy()
    }

    fn vf(&self) -> VfIndex {
        self.0.vf()
    }

    fn speed_mbps(&self) -> u32 {
        self.0.speed_mbps()
    }

    fn counters(&self) -> Counters {
        self.0.counters()
    }
}

impl Attendant for Witness {
    fn session(&mut self, _: SessionEvent<'_>) {}
}

struct Kernel {
    endpoint: Rc<RefCell<Endpoint>>,
    seen: Arc<Mutex<Seen>>,
    frontend: Frontend,
    memory: Arc<GuestMemory>,
    commands: Virtqueue,
    interrupts: Virtqueue,
    message: u64,
    answer: u64,
    interrupt: u64,
    fds: [EventFd; 4],
    _folder: TempDir,
}

impl Kernel {
    fn start() -> Kernel {
        Kernel::start_with(false)
    }

    fn start_with(in_band: bool) -> Kernel {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vf0.sock");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let function = Box::new(Bell {
            value: [0; 16],
            environment: Environment::default(),
            seen: Arc::clone(&seen),
        });
        let endpoint = Endpoint::listen(&path, "vf0".into(), function, in_band).unwrap();
        let endpoint = Rc::new(RefCell::new(endpoint));
        let mut frontend = Frontend::connect(&path).unwrap();
        let served = Rc::clone(&endpoint);
        let mut nic = Witness::default();
        frontend.on_wait = Some(Box::new(move || {
            served.borrow_mut().poll(Instant::now(), &mut nic);
        }));
        let memory = Arc::new(GuestMemory::new(MEMORY, true).unwrap());
        let mut allocator = Allocator::new(memory.regions()[0].layout());
        let mut queue = || {
            let layout = QueueLayout::alloc(256, &mut allocator).unwrap();
            let features = RingFeatures::default();
            Virtqueue::new(Arc::clone(&memory), layout, features, 0).unwrap()
        };
        let (commands, interrupts) = (queue(), queue());
        let mut buffer = |len| allocator.alloc(len, 64).unwrap();
        let (message, answer, interrupt) = (buffer(8192), buffer(8192), buffer(64));
        let fds = [(); 4].map(|()| EventFd::new().unwrap());

        let features = frontend.get_features().unwrap();
        assert_eq!(
            features >> 28 & 0b1_0111,
            0b1_0101,
            "no bits of a network device's rings"
        );
        frontend.set_owner().unwrap();
        frontend.set_protocol_features(1 << 3).unwrap();
        frontend.set_features(1 << 32 | 1 << 30).unwrap();
        frontend.set_memory(memory.regions()).unwrap();
        for (index, queue) in (0..).zip([&commands, &interrupts]) {
            let layout = queue.layout();
            let user = |addr| memory.user_addr(addr).unwrap();
            frontend.set_vring_num(index, 256).unwrap();
            frontend.set_vring_base(index, 0).unwrap();
            let (desc, used, avail) = (user(layout.desc), user(layout.used), user(layout.avail));
            frontend.set_vring_addr(index, desc, used, avail).unwrap();
            let [kick, call] = [0, 1].map(|n| &fds[2 * index as usize + n]);
            frontend.set_vring_kick(index, Some(kick.as_fd())).unwrap();
            frontend.set_vring_call(index, Some(call.as_fd())).unwrap();
            kick.signal();
            frontend.set_vring_enable(index, true).unwrap();
        }
        frontend.get_features().unwrap();
        let mut kernel = Kernel {
            endpoint,
            seen,
            frontend,
            memory,
            commands,
            interrupts,
            message,
            answer,
            interrupt,
            fds,
            _folder: folder,
        };
        // Memory space and bus master, and MSI-X with a vector that leads somewhere.
        kernel.write(CFG_WRITE, 0, 4, &[6, 0]);
        assert!(kernel.seen.lock().unwrap().has_memory);
        kernel
    }

    fn serve(&mut self) {
        let mut nic = Witness::default();
        let mut endpoint = self.endpoint.borrow_mut();
        endpoint.obey(&mut nic);
        endpoint.call();
    }

    fn send(&mut self, bytes: &[u8], room: u32) -> u32 {
        let to = self.memory.slice(self.message, bytes.len()).unwrap();
        to.copy_from(bytes);
        let whole = |addr, len, writable| Buffer {
            addr,
            len,
            writable,
        };
        let mut chain = vec![whole(self.message, bytes.len() as u32, false)];
        if room > 0 {
            chain.push(whole(self.answer, room, true));
        }
        self.commands.add(&chain).unwrap();
        self.commands.publish();
        self.serve();
        self.commands.pop_used().unwrap().expect("returned").len
    }

    fn message(op: u8, bar: u8, offset: u64, size: u32, data: &[u8]) -> Vec<u8> {
        let head = [
            &[op, bar, 0, 0][..],
            &size.to_le_bytes(),
            &offset.to_le_bytes(),
        ]
        .concat();
        [&head, data].concat()
    }

    fn write(&mut self, op: u8, bar: u8, offset: u64, data: &[u8]) {
        let message = Kernel::message(op, bar, offset, data.len() as u32, data);
        assert_eq!(self.send(&message, 0), 0);
    }

    fn read(&mut self, op: u8, bar: u8, offset: u64, len: u32) -> Vec<u8> {
        let message = Kernel::message(op, bar, offset, len, &[]);
        assert_eq!(self.send(&message, len), len);
        let mut read = vec![0; len as usize];
        self.memory
            .slice(self.answer, read.len())
            .unwrap()
            .copy_to(&mut read);
        read
    }

    /// Makes room for an interrupt.
    fn listen(&mut self) {
        let buffer = Buffer {
            addr: self.interrupt,
            len: 20,
            writable: true,
        };
        self.interrupts.add(&[buffer]).unwrap();
        self.interrupts.publish();
        self.serve();
    }

    fn interrupt(&mut self) -> Option<Vec<u8>> {
        let used = self.interrupts.pop_used().unwrap()?;
        let mut message = vec![0; used.len as usize];
        let from = self.memory.slice(self.interrupt, message.len()).unwrap();
        from.copy_to(&mut message);
        Some(message)
    }

    /// Writes an entry of the MSI-X table.
    fn vector(&mut self, n: u64, address: u64, data: u32, masked: bool) {
        let layout = IDENTITY.msix;
        let at = u64::from(layout.table) + 16 * n;
        self.write(MMIO_WRITE, layout.bar, at, &address.to_le_bytes());
        self.write(MMIO_WRITE, layout.bar, at + 8, &data.to_le_bytes());
        self.write(MMIO_WRITE, layout.bar, at + 12, &[masked.into(), 0, 0, 0]);
    }

    /// Turns MSI-X on, wherever the capability is.
    fn msix_on(&mut self) {
        let mut at = self.read(CFG_READ, 0, 0x34, 1)[0];
        while self.read(CFG_READ, 0, at.into(), 1)[0] != 0x11 {
            at = self.read(CFG_READ, 0, u64::from(at) + 1, 1)[0];
            assert_ne!(at, 0, "there is the capability");
        }
        self.write(CFG_WRITE, 0, u64::from(at) + 2, &0x8000_u16.to_le_bytes());
    }
}

#[test]
fn the_kernel_reaches_configuration_space_and_registers() {
    let mut kernel = Kernel::start();
    let ids = [IDENTITY.vendor.to_le_bytes(), IDENTITY.device.to_le_bytes()].concat();
    assert_eq!(kernel.read(CFG_READ, 0, 0, 4), ids);
    kernel.write(MMIO_WRITE, 0, 4, &[1, 2, 3, 4]);
    assert_eq!(kernel.read(MMIO_READ, 0, 4, 4), [1, 2, 3, 4]);
    // More than a register at a time, and not at a multiple of anything.
    kernel.write(MMIO_WRITE, 0, 1, &[9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(
        kernel.read(MMIO_READ, 0, 0, 10),
        [0, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    );
    let fill = Kernel::message(MMIO_MEMSET, 0, 2, 5, &[0xaa]);
    kernel.send(&fill, 0);
    assert_eq!(
        kernel.read(MMIO_READ, 0, 0, 8),
        [0, 9, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 3]
    );
    // There is no such BAR, and nothing so far in it.
    assert_eq!(kernel.read(MMIO_READ, 5, 0, 4), [0xff; 4]);
    assert_eq!(kernel.read(MMIO_READ, 0, u64::MAX - 3, 4), [0xff; 4]);
    kernel.write(MMIO_WRITE, 0, u64::MAX - 1, &[1, 2, 3, 4]);
}

#[test]
fn what_is_no_message_is_returned_and_does_nothing() {
    let mut kernel = Kernel::start();
    for bytes in [
        &[][..],
        &[1],
        &[0; 16],
        &[7; 40],
        &Kernel::message(MMIO_READ, 0, 0, u32::MAX, &[]),
        &Kernel::message(MMIO_WRITE, 0, 0, u32::MAX, &[1]),
        &vec![4; 8000],
    ] {
        let bytes = if bytes.is_empty() { &[2][..] } else { bytes };
        assert_eq!(kernel.send(bytes, 8), 0, "{} bytes", bytes.len());
    }
    assert_eq!(kernel.read(MMIO_READ, 0, 0, 8), [0; 8]);
}

#[test]
fn interrupts_are_messages_as_the_table_has_them() {
    let mut kernel = Kernel::start();
    kernel.vector(1, 0xfee0_0000_1000, 0x4021, false);
    kernel.write(MMIO_WRITE, 0, BELL, &[1]);
    kernel.listen();
    assert_eq!(kernel.interrupt(), None, "MSI-X is off");
    kernel.msix_on();
    let msi = |data: u32| {
        let (address, data) = (0xfee0_0000_1000_u64.to_le_bytes(), data.to_le_bytes());
        Some([&[7, 0, 0, 0, 4, 0, 0, 0][..], &address, &data].concat())
    };
    assert_eq!(kernel.interrupt(), msi(0x4021), "it was pending");
    kernel.write(MMIO_WRITE, 0, BELL, &[1]);
    assert_eq!(kernel.interrupt(), None, "there is no buffer");
    kernel.listen();
    assert_eq!(kernel.interrupt(), msi(0x4021));
    kernel.vector(1, 0xfee0_0000_1000, 0x4022, true);
    kernel.listen();
    kernel.write(MMIO_WRITE, 0, BELL, &[1]);
    assert_eq!(kernel.interrupt(), None, "it is masked");
    let layout = IDENTITY.msix;
    let pending = |kernel: &mut Kernel| kernel.read(MMIO_READ, layout.bar, layout.pba.into(), 1);
    assert_eq!(pending(&mut kernel), [2]);
    kernel.vector(1, 0xfee0_0000_1000, 0x4022, false);
    assert_eq!(kernel.interrupt(), msi(0x4022));
    assert_eq!(pending(&mut kernel), [0]);
    // No such vector.
    kernel.listen();
    kernel.write(MMIO_WRITE, 0, BELL, &[200]);
    assert_eq!(kernel.interrupt(), None);
}

#[test]
fn what_a_thread_was_woken_for_before_a_reset_is_nobodys_interrupt() {
    let mut kernel = Kernel::start();
    let events = mio::Poll::new().unwrap();
    let registered = kernel
        .endpoint
        .borrow_mut()
        .register(events.registry(), Token(0));
    registered.unwrap();
    kernel.vector(1, 0xfee0_0000_1000, 0x4021, true);
    kernel.msix_on();
    kernel.listen();
    // Noted by a thread, and masked still.
    kernel.write(MMIO_WRITE, 0, BELL, &[1]);
    // A function-level reset, after which all is set up as before.
    kernel.write(CFG_WRITE, 0, 0x79, &[0x80]);
    kernel.write(CFG_WRITE, 0, 4, &[6, 0]);
    kernel.vector(1, 0xfee0_0000_1000, 0x4021, false);
    kernel.msix_on();
    assert_eq!(kernel.interrupt(), None);
    kernel.write(MMIO_WRITE, 0, BELL, &[1]);
    assert!(kernel.interrupt().is_some());
}

#[test]
fn a_function_is_as_after_power_on_when_its_guest_has_gone() {
    let kernel = Kernel::start();
    let resets = kernel.seen.lock().unwrap().resets;
    let Kernel {
        endpoint,
        seen,
        frontend,
        ..
    } = kernel;
    drop(frontend);
    let mut nic = Witness::default();
    endpoint.borrow_mut().poll(Instant::now(), &mut nic);
    assert!(!endpoint.borrow().is_connected());
    let seen = seen.lock().unwrap();
    assert!(seen.resets > resets && !seen.has_memory);
}

/// Each stop takes the thread of the data plane, and others' queues with it.
#[test]
fn a_kernel_that_stops_queues_again_and_again_is_obeyed_less_and_less_often() {
    let mut kernel = Kernel::start();
    let events = mio::Poll::new().unwrap();
    let mut endpoint = kernel.endpoint.borrow_mut();
    endpoint.register(events.registry(), Token(0)).unwrap();
    let message = Kernel::message(MMIO_WRITE, 0, STOP, 1, &[1]);
    let to = kernel.memory.slice(kernel.message, message.len()).unwrap();
    to.copy_from(&message);
    let stop = Buffer {
        addr: kernel.message,
        len: message.len() as u32,
        writable: false,
    };
    let mut nic = Witness::default();
    let mut obeyed_at = |now: Instant| {
        let mut obeyed = 0;
        loop {
            let before = obeyed;
            while kernel.commands.add(&[stop]).is_some() {}
            kernel.commands.publish();
            endpoint.poll(now, &mut nic);
            while kernel.commands.pop_used().unwrap().is_some() {
                obeyed += 1;
            }
            if obeyed == before {
                return (obeyed, endpoint.next_timer());
            }
        }
    };
    let start = Instant::now();
    let (obeyed, again) = obeyed_at(start);
    // As many as a guest needs that comes up some times, at once, and then one a millisecond.
    assert!((2000..2100).contains(&obeyed), "{obeyed}");
    let again = again.unwrap();
    assert!(start < again && again <= start + Duration::from_millis(1));
    let (obeyed, _) = obeyed_at(start + Duration::from_millis(500));
    assert!((490..510).contains(&obeyed), "{obeyed}");
}

/// Else the thread that serves all VFs would be one guest's for as long as 512 accesses to registers take.
#[test]
fn a_message_of_many_accesses_ends_a_turn_when_its_time_is_over_and_is_gone_on_with() {
    let mut kernel = Kernel::start();
    let events = mio::Poll::new().unwrap();
    let mut endpoint = kernel.endpoint.borrow_mut();
    endpoint.register(events.registry(), Token(0)).unwrap();
    // Eight bytes at a time, and behind it a message that is none.
    let messages = [Kernel::message(MMIO_MEMSET, 0, SLOW, 800, &[1]), vec![0]];
    for (n, message) in (0..).zip(&messages) {
        let addr = kernel.message + 64 * n;
        let to = kernel.memory.slice(addr, message.len()).unwrap();
        to.copy_from(message);
        let buffer = Buffer {
            addr,
            len: message.len() as u32,
            writable: false,
        };
        kernel.commands.add(&[buffer]).unwrap();
    }
    kernel.commands.publish();
    let mut nic = Witness::default();
    let mut before = 0;
    while before < 100 {
        assert!(kernel.commands.pop_used().unwrap().is_none());
        endpoint.poll(Instant::now(), &mut nic);
        let now = kernel.seen.lock().unwrap().slow;
        assert!((1..=4).contains(&(now - before)), "{before} to {now}");
        before = now;
        // The kernel does not kick again.
        assert!(now == 100 || endpoint.next_timer().is_some());
    }
    endpoint.poll(Instant::now(), &mut nic);
    assert_eq!(kernel.seen.lock().unwrap().slow, 100);
    for _ in &messages {
        assert!(kernel.commands.pop_used().unwrap().is_some());
    }
}

/// Linux 6.12 says "Adapter removed" otherwise: its 256 buffers were all under way.
#[test]
fn a_kernel_that_only_writes_is_to_be_called_until_it_is() {
    let mut kernel = Kernel::start_with(true);
    assert_eq!(kernel.read(CFG_READ, 0, 0, 2).len(), 2);
    for _ in 0..UNCALLED {
        assert!(!kernel.endpoint.borrow().wants_call());
        kernel.write(MMIO_WRITE, 0, 0, &[1]);
    }
    assert!(kernel.endpoint.borrow().wants_call());
    // It has not agreed to calls in band, so it has not been called.
    kernel.endpoint.borrow_mut().call();
    assert!(kernel.endpoint.borrow().wants_call());
    // It looks for what it reads by itself.
    kernel.read(CFG_READ, 0, 0, 2);
    assert!(!kernel.endpoint.borrow().wants_call());
}

/// One that came while an interrupt's handler reads would take that answer away (Linux's um_pci_cmd_vq_cb).
#[test]
fn a_kernel_that_reads_is_not_called_for_that() {
    let mut kernel = Kernel::start();
    let calls = |kernel: &Kernel| kernel.fds[1].drain();
    calls(&kernel);
    for _ in 0..10 {
        kernel.read(CFG_READ, 0, 0, 2);
        kernel.write(MMIO_WRITE, 0, 0, &[1]);
    }
    assert!(!calls(&kernel));
    for _ in 0..UNCALLED {
        kernel.write(MMIO_WRITE, 0, 0, &[1]);
    }
    assert!(calls(&kernel));
}
