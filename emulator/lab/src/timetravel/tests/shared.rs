//! Guests that share memory with the calendar.

use std::fs::File;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use vf_guest::frontend::Frontend;

use super::*;

const FREE_UNTIL: u64 = 8;
const CURRENT_TIME: u64 = 16;
const RUNNING: u64 = 24;
const CAPABILITIES: u64 = 0;
const FLAGS: u64 = 4;
const REQUEST_TIME: u64 = 8;

struct SharedGuest {
    guest: LinuxGuest,
    memory: File,
    /// Where its own entry is.
    entry: u64,
}

impl SharedGuest {
    /// Waits until all have come.
    fn start(mut guest: LinuxGuest) -> SharedGuest {
        guest.say(Op::Start, guest.id);
        let mut bytes = [0; LEN];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&guest.stream, &mut iov, &mut control, RecvFlags::empty()).unwrap();
        assert_eq!(got.bytes, LEN);
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        assert_eq!(fds.len(), 2, "memory and log");
        let id = Message::parse(bytes).unwrap().time;
        let it = SharedGuest {
            guest,
            memory: File::from(fds.remove(0)),
            entry: 4096 + 128 * id,
        };
        assert_eq!((it.u32(0), it.u16(RUNNING)), (2, id as u16));
        it.memory
            .write_all_at(&1u32.to_ne_bytes(), it.entry + CAPABILITIES)
            .unwrap();
        it
    }

    fn u16(&self, at: u64) -> u16 {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u16::from_ne_bytes(bytes)
    }

    fn u32(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u32::from_ne_bytes(bytes)
    }

    fn u64(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, at).unwrap();
        u64::from_ne_bytes(bytes)
    }

    fn want(&self, time: u64) {
        let put = |bytes: &[u8], at| self.memory.write_all_at(bytes, self.entry + at).unwrap();
        put(&time.to_ne_bytes(), REQUEST_TIME);
        put(&1u32.to_ne_bytes(), FLAGS);
    }

    /// Waits until it is told to run, and when that is.
    fn run(&mut self) -> u64 {
        let run = self.guest.hear();
        assert_eq!((run.op, run.time), (Op::Run, self.u64(CURRENT_TIME)));
        assert_eq!(4096 + 128 * u64::from(self.u16(RUNNING)), self.entry);
        self.memory
            .write_all_at(&0u32.to_ne_bytes(), self.entry + FLAGS)
            .unwrap();
        run.time
    }

    /// Nothing of this is answered.
    fn sleep_until(&mut self, time: u64) -> u64 {
        self.want(time);
        self.guest.say(Op::Wait, 0);
        self.run()
    }
}

#[test]
fn they_run_in_the_same_order_and_know_how_far_they_may_go() {
    let limits = Arc::new(Mutex::new(Vec::new()));
    let said = Arc::clone(&limits);
    let sleep =
        |dir: &Path, id, times: &'static [u64], order: &Order, limits: Arc<Mutex<Vec<u64>>>| {
            let guest = LinuxGuest::connect(dir, id);
            let order = Arc::clone(order);
            std::thread::spawn(move || {
                let mut guest = SharedGuest::start(guest);
                let note = |guest: &SharedGuest, now| {
                    order.lock().unwrap().push((id, now));
                    limits.lock().unwrap().push(guest.u64(FREE_UNTIL));
                };
                note(&guest, 0);
                for time in times {
                    let now = guest.sleep_until(*time);
                    note(&guest, now);
                }
            })
        };
    let (outcome, order) = simulate(
        3,
        |settings| {
            settings.shared = true;
            settings.until = Some(Nanos(40));
        },
        |dir, order| {
            vec![
                sleep(dir, 9, &[5, 30], order, Arc::clone(&said)),
                // This one knows of messages only.
                sleeper(dir, 2, &[5, 7, 7], order),
                sleep(dir, 4, &[6], order, Arc::clone(&said)),
            ]
        },
    );
    let summary = outcome.unwrap();
    assert!(summary.faults.is_empty(), "{:?}", summary.faults);
    let expected = [
        (2, 0),
        (4, 0),
        (9, 0),
        (2, 5),
        (9, 5),
        (4, 6),
        (2, 7),
        (2, 7),
        (9, 30),
    ];
    assert_eq!(order, expected);
    // Of 4 and 9 in turn: the least that anybody else wants, or the end.
    assert_eq!(*limits.lock().unwrap(), [0, 5, 6, 7, 40]);
}

/// The answer to being told of another configuration.
const CONFIG_CHANGED: [[u8; 4]; 5] = [
    2u32.to_ne_bytes(),
    5u32.to_ne_bytes(),
    8u32.to_ne_bytes(),
    [0; 4],
    [0; 4],
];

/// A driver on a VF, and where it is told of things.
fn driver(socket: &Path) -> (Frontend, UnixStream) {
    let mut front = Frontend::connect(socket).unwrap();
    front.set_owner().unwrap();
    let offered = front.get_protocol_features().unwrap();
    front.set_protocol_features(offered & 0x4228).unwrap();
    let (requests, theirs) = UnixStream::pair().unwrap();
    front.set(21, &[], &[theirs.as_fd()]).unwrap();
    (front, requests)
}

#[test]
fn a_command_interrupts_one_that_waits_at_exactly_its_time() {
    let (dir, mut simulation) = simulation(1, |settings| settings.shared = true);
    let down = Command::parse(&["link", "set", "down"]).unwrap();
    simulation.at(Nanos(60), 0, down);
    let socket = dir.path().join("vf0.sock");
    let guest = LinuxGuest::connect(dir.path(), 1);
    let guest = std::thread::spawn(move || {
        let mut guest = SharedGuest::start(guest);
        assert_eq!(guest.u64(FREE_UNTIL), 60);
        let (mut front, mut requests) = driver(&socket);
        let link_is_up = |front: &mut Frontend| front.get_config(6, 2).unwrap()[0] & 1 == 1;
        assert!(link_is_up(&mut front));
        guest.want(100);
        guest.guest.say(Op::Wait, 0);
        // As an interrupt handler would: nobody runs, and it is as late as the memory says.
        let mut request = [0; 12];
        requests.read_exact(&mut request).unwrap();
        assert_eq!(request, [2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((guest.u16(RUNNING), guest.u64(CURRENT_TIME)), (0, 60));
        guest.want(60);
        requests.write_all(CONFIG_CHANGED.as_flattened()).unwrap();
        assert_eq!(guest.run(), 60);
        assert!(!link_is_up(&mut front));
        assert_eq!(guest.sleep_until(100), 100);
    });
    let summary = simulation.run().unwrap();
    guest.join().unwrap();
    assert_eq!((summary.virtual_time, summary.faults), (Nanos(100), vec![]));
}

#[test]
fn a_client_is_served_at_a_time_that_no_guest_has_passed() {
    let (dir, simulation) = simulation(1, |settings| settings.shared = true);
    let socket = dir.path().join("vf0.sock");
    let ctl = dir.path().join("ctl.sock");
    let guest = LinuxGuest::connect(dir.path(), 1);
    let guest = std::thread::spawn(move || {
        let mut guest = SharedGuest::start(guest);
        let (_front, mut requests) = driver(&socket);
        // How late it is for the guest, which goes on by itself for a while before it waits.
        let clock = Arc::new(AtomicU64::new(0));
        let (its, memory) = (Arc::clone(&clock), guest.memory.try_clone().unwrap());
        let interrupt = std::thread::spawn(move || {
            requests.read_exact(&mut [0; 12]).unwrap();
            let mut now = [0; 8];
            memory.read_exact_at(&mut now, CURRENT_TIME).unwrap();
            let (now, its) = (u64::from_ne_bytes(now), its.load(Ordering::SeqCst));
            requests.write_all(CONFIG_CHANGED.as_flattened()).unwrap();
            (now, its)
        });
        let client = std::thread::spawn(move || {
            let words = ["link", "set", "down"].map(str::to_owned).to_vec();
            ask(&ctl, &Request::Command(NicCommand { nic: None, words }))
        });
        let mut now = 0;
        while !interrupt.is_finished() {
            clock.store(now + 500, Ordering::SeqCst);
            now = guest.sleep_until(now + 1000);
        }
        let (now, its) = interrupt.join().unwrap();
        assert!(now >= its, "back from {its} to {now}");
        assert!(matches!(client.join().unwrap(), Ok(Response::Done(_))));
    });
    let summary = simulation.run().unwrap();
    guest.join().unwrap();
    assert!(summary.faults.is_empty(), "{:?}", summary.faults);
}
