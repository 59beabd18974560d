//! The socket under a client that others have made (the crate `vfio_user`), and under some that say what none would.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use mio::{Events, Poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tempfile::TempDir;
use vf_model::{Counters, MailboxRequest, Policy, VfIndex};
use vf_vhost::eventfd::EventFd;
use vf_vhost::vring::Vring;
use vfio_user::Client;

use super::*;
use crate::config_space::tests::IDENTITY;
use crate::function::{Environment, Identity, NotGranted};
use crate::slot::tests::{NoNic, Register, memfd};

/// What happened, in a word.
struct Witness {
    nic: NoNic,
    said: Sender<String>,
}

impl Host for Witness {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        self.nic.start_queues(queues);
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        self.nic.stop_queues(queues)
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        self.nic.request(request)
    }

    fn policy(&self) -> Arc<Policy> {
        self.nic.policy()
    }

    fn vf(&self) -> VfIndex {
        self.nic.vf()
    }

    fn speed_mbps(&self) -> u32 {
        self.nic.speed_mbps()
    }

    fn counters(&self) -> Counters {
        self.nic.counters()
    }
}

impl Attendant for Witness {
    fn session(&mut self, event: SessionEvent<'_>) {
        let word = match event {
            SessionEvent::Connected => "connected".to_owned(),
            SessionEvent::Refused { what } => format!("refused: {what}"),
            SessionEvent::Disconnected { why: None } => "hung up".to_owned(),
            SessionEvent::Disconnected { why: Some(why) } => format!("ended: {why}"),
        };
        let _ = self.said.send(word);
    }
}

/// A function that is served on a thread, as a server does it.
struct Served {
    path: PathBuf,
    said: Receiver<String>,
    stop: mio::Waker,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

const STOP: Token = Token(0);
const SOCKET: Token = Token(1);

impl Served {
    fn start() -> Served {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vf0.sock");
        let function = Box::new(Register::default());
        let mut endpoint = Endpoint::listen(&path, "nic0 vf0".to_owned(), function).unwrap();
        let (to, said) = channel();
        let mut poll = Poll::new().unwrap();
        let stop = mio::Waker::new(poll.registry(), STOP).unwrap();
        endpoint.register(poll.registry(), SOCKET).unwrap();
        let thread = std::thread::spawn(move || {
            let nic = NoNic::default();
            let mut host = Witness { nic, said: to };
            let mut events = Events::with_capacity(8);
            loop {
                endpoint.poll(Instant::now(), &mut host);
                let until = endpoint.next_timer();
                let wait = until.map(|at| at.saturating_duration_since(Instant::now()));
                poll.poll(&mut events, wait).unwrap();
                if events.iter().any(|event| event.token() == STOP) {
                    endpoint.close_session(Instant::now(), &mut host);
                    return;
                }
            }
        });
        Served {
            path,
            said,
            stop,
            thread: Some(thread),
            _folder: folder,
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).unwrap();
        stream
    }

    /// A client that has introduced itself.
    fn agreed(&self) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(&message(1, 0, &[0, 0, 1, 0])).unwrap();
        reply(&mut stream).unwrap();
        stream
    }

    /// What happens next.
    #[track_caller]
    fn hears(&self, word: &str) {
        let said = self.said.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(said.contains(word), "{said}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.wake().unwrap();
        self.thread.take().unwrap().join().unwrap();
        assert!(!self.path.exists());
    }
}

fn message(command: u16, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![7, 0];
    message.extend(command.to_ne_bytes());
    message.extend((payload.len() as u32 + 16).to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(payload);
    message
}

/// The payload of the next reply; `None` at the end of the stream.
fn reply(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).ok()?;
    let size = u32::from_ne_bytes(head[4..8].try_into().unwrap()) as usize;
    let mut payload = vec![0; size - 16];
    stream.read_exact(&mut payload).ok()?;
    Some(payload)
}

fn access(offset: u64, region: u32, count: u32) -> Vec<u8> {
    let words = [region, count].into_iter().flat_map(u32::to_ne_bytes);
    offset.to_ne_bytes().into_iter().chain(words).collect()
}

const COMMAND: u64 = 4;

/// What a virtual machine monitor does with a function, with others' client.
#[test]
fn a_client_of_another_project_finds_the_function_and_drives_it() {
    let served = Served::start();
    let mut client = Client::new(&served.path).unwrap();
    served.hears("connected");
    let sizes = [0, 3, 7].map(|index| client.region(index).unwrap().size);
    assert_eq!(sizes, [1 << 16, 1 << 14, 4096]);
    assert_eq!(client.region(2).unwrap().size, 0);
    let irqs = client.get_irq_info(2).unwrap();
    assert_eq!((irqs.count, irqs.flags & 1), (3, 1));
    let mut id = [0; 4];
    client.region_read(7, 0, &mut id).unwrap();
    assert_eq!(id, 0x5678_1234u32.to_le_bytes());
    let mut all = [0; 4096];
    client.region_read(7, 0, &mut all).unwrap();
    assert_eq!(all[..4], id);
    client.region_write(7, COMMAND, &[6, 0]).unwrap();
    let memory = memfd(1 << 20);
    client.dma_map(0, 0, 1 << 20, memory.as_raw_fd()).unwrap();
    let call = EventFd::new().unwrap();
    client.set_irqs(2, 0x24, 1, 1, &[call.as_raw_fd()]).unwrap();
    client.region_write(0, 0x40, &9u32.to_le_bytes()).unwrap();
    assert!(call.drain());
    client.region_read(0, 0x40, &mut id).unwrap();
    assert_eq!(id, 9u32.to_le_bytes());
    client.dma_unmap(0, 1 << 20).unwrap();
    client.reset().unwrap();
    client.region_read(7, COMMAND, &mut id).unwrap();
    assert_eq!(id[..2], [0, 0]);
    drop(client);
    served.hears("hung up");
    // Nothing is left of it for the next one.
    let mut next = Client::new(&served.path).unwrap();
    served.hears("connected");
    next.region_write(7, COMMAND, &[6, 0]).unwrap();
    next.region_write(0, 0x40, &7u32.to_le_bytes()).unwrap();
    assert!(!call.drain());
}

#[test]
fn a_message_may_come_in_pieces_and_many_at_once() {
    let served = Served::start();
    let mut stream = served.agreed();
    served.hears("connected");
    for byte in message(10, 0, &[access(COMMAND, 7, 2), vec![6, 0]].concat()) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(reply(&mut stream), Some(access(COMMAND, 7, 2)));
    // Posted writes, more of them than are served at a time, and a read behind them.
    let mut many = Vec::new();
    for n in 0..1000u32 {
        let data = n.to_le_bytes();
        many.extend(message(
            10,
            0x10,
            &[&access(0, 0, 4), data.as_slice()].concat(),
        ));
    }
    many.extend(message(9, 0, &access(0, 0, 4)));
    stream.write_all(&many).unwrap();
    let read = reply(&mut stream).unwrap();
    assert_eq!(read[16..], 999u32.to_le_bytes());
    // What is refused ends nothing.
    stream
        .write_all(&message(9, 0, &access(0, 0, u32::MAX)))
        .unwrap();
    assert_eq!(reply(&mut stream), Some(vec![]));
    served.hears("4294967295 bytes at a time");
    stream.write_all(&message(9, 0, &access(0, 7, 4))).unwrap();
    assert_eq!(reply(&mut stream).unwrap().len(), 20);
}

#[test]
fn what_is_no_message_ends_a_session_and_not_the_next() {
    let served = Served::start();
    let huge = [7, 0, 9, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    let short = [7, 0, 9, 0, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (bytes, why) in [
        (
            huge.to_vec(),
            "ended: malformed message: a message of 4294967295 bytes",
        ),
        (
            short.to_vec(),
            "ended: malformed message: a message of 15 bytes",
        ),
        (message(9, 1, &[]), "a reply, not a request"),
        (message(1, 0, b"\0\0\0\0{{{\0"), "ended: version data"),
        (message(1, 0, &[1, 0, 0, 0]), "ended: protocol version 1.0"),
        (message(13, 0, &[]), "ended: command 13 before VERSION"),
    ] {
        let mut stream = served.connect();
        stream.write_all(&bytes).unwrap();
        assert_eq!(reply(&mut stream), None);
        served.hears("connected");
        served.hears(why);
    }
    // Half a message, and nothing more.
    let mut stream = served.connect();
    stream.write_all(&huge[..9]).unwrap();
    drop(stream);
    served.hears("connected");
    served.hears("hung up");
    served.agreed();
    served.hears("connected");
}

#[test]
fn one_client_is_served_and_another_turned_away() {
    let served = Served::start();
    let mut first = served.agreed();
    served.hears("connected");
    let mut second = served.connect();
    let mut byte = [0];
    assert_eq!(second.read(&mut byte).unwrap(), 0, "it is told at once");
    first.write_all(&message(9, 0, &access(0, 7, 4))).unwrap();
    assert_eq!(reply(&mut first).unwrap().len(), 20);
    drop(first);
    served.hears("hung up");
    served.agreed();
    served.hears("connected");
}

#[test]
fn whoever_does_not_read_its_replies_is_not_waited_for() {
    let served = Served::start();
    let mut stream = served.agreed();
    served.hears("connected");
    stream.set_nonblocking(true).unwrap();
    let read = message(9, 0, &access(0, 7, 4096));
    while stream.write_all(&read).is_ok() {}
    served.hears("ended: the front end does not read its replies");
    served.agreed();
    served.hears("connected");
}

/// Descriptors come with the message that they belong to, also when the next one is there already.
#[test]
fn descriptors_stay_with_their_message() {
    let served = Served::start();
    let mut stream = served.agreed();
    served.hears("connected");
    let map = |address: u64, size: u64| {
        let numbers = [0, address, size].into_iter().flat_map(u64::to_ne_bytes);
        let words = [32u32, 3].into_iter().flat_map(u32::to_ne_bytes);
        message(2, 0, &words.chain(numbers).collect::<Vec<_>>())
    };
    let file = memfd(0x1000);
    for at in 0..4 {
        let fds = [file.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = map(at << 12, 0x1000);
        let iov = [std::io::IoSlice::new(&bytes)];
        let sent = rustix::net::sendmsg(&stream, &iov, &mut control, SendFlags::empty());
        assert_eq!(sent, Ok(bytes.len()));
    }
    for _ in 0..4 {
        assert_eq!(reply(&mut stream), Some(vec![]));
    }
    // A file that is too short is refused, and of no error is more said than its number.
    stream.write_all(&map(1 << 20, 0)).unwrap();
    assert_eq!(reply(&mut stream), Some(vec![]));
    served.hears("a region is empty");
}

/// A function that takes a millisecond for each write, and remembers them.
#[derive(Debug, Default)]
struct Slow(Arc<Mutex<Vec<u8>>>);

impl Function for Slow {
    fn identity(&self) -> &'static Identity {
        &IDENTITY
    }

    fn read(&mut self, _: u8, _: u64, data: &mut [u8], _: &mut dyn Host) {
        data.fill(0);
    }

    fn write(&mut self, _: u8, _: u64, data: &[u8], _: &mut dyn Host) {
        std::thread::sleep(Duration::from_millis(1));
        self.0.lock().unwrap().push(data[0]);
    }

    fn reset(&mut self, _: &mut dyn Host) {}

    fn set_environment(&mut self, _: Environment, _: &mut dyn Host) {}

    fn messages(&self) -> u64 {
        0
    }

    fn changed(&mut self, _: &mut dyn Host) {}
}

/// Else the thread that serves all VFs would be one client's for as long as 171 requests to its NIC take.
#[test]
fn a_message_of_many_writes_ends_a_turn_when_its_time_is_over_and_is_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vf0.sock");
    let written = Arc::default();
    let function = Box::new(Slow(Arc::clone(&written)));
    let mut endpoint = Endpoint::listen(&path, "nic0 vf0".to_owned(), function).unwrap();
    let (said, _hears) = channel();
    let nic = NoNic::default();
    let mut host = Witness { nic, said };
    let mut client = UnixStream::connect(&path).unwrap();
    let mut many = 100_u64.to_ne_bytes().to_vec();
    for n in 0..100 {
        many.extend([access(0x40, 0, 1), vec![n, 0, 0, 0, 0, 0, 0, 0]].concat());
    }
    for message in [
        message(1, 0, &[0, 0, 1, 0]),
        message(10, 0x10, &[access(COMMAND, 7, 2), vec![6, 0]].concat()),
        message(15, 0, &many),
        message(9, 0, &access(0, 7, 4)),
    ] {
        client.write_all(&message).unwrap();
    }
    let mut before = 0;
    while before < 100 {
        endpoint.poll(Instant::now(), &mut host);
        let now = written.lock().unwrap().len();
        assert!(now - before <= 4, "{before} to {now} in a turn of {TURN:?}");
        assert!(now > before || now == 0, "{now} after a turn");
        before = now;
        // Nothing comes on the socket that would wake anybody.
        assert!(now == 100 || endpoint.next_timer().is_some());
    }
    endpoint.poll(Instant::now(), &mut host);
    assert!(written.lock().unwrap().iter().copied().eq(0..100));
    reply(&mut client).unwrap();
    let all = reply(&mut client).unwrap();
    assert_eq!(all, 100_u64.to_ne_bytes(), "in the order of the messages");
    assert_eq!(reply(&mut client).unwrap().len(), 20);
    endpoint.close_session(Instant::now(), &mut host);
}
