//! A guest with a TCP stack, polled by a thread of its own, which sleeps when nothing happens.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vf_guest::net::NetConfig;
use vf_guest::tcp::{GuestConfig, StreamId, StreamStats, TcpGuest};

use crate::emulator::wait_for;
use crate::port;

type Call = Box<dyn FnOnce(&mut TcpGuest) + Send>;

/// A guest; dropped, its session breaks off without a word, as when the guest is killed.
pub(crate) struct Host {
    calls: Option<Sender<Call>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) ip: Ipv4Addr,
}

impl Host {
    /// A guest at 10.0.0.`number` on the VF with this socket.
    pub(crate) fn start(socket: PathBuf, number: u8) -> Host {
        Host::start_with(socket, number, GuestConfig::default(), NetConfig::default())
    }

    pub(crate) fn start_with(
        socket: PathBuf,
        number: u8,
        config: GuestConfig,
        net: NetConfig,
    ) -> Host {
        let ip = Ipv4Addr::new(10, 0, 0, number);
        let (calls, inbox) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let net = port::start(&socket, &net);
            let config = GuestConfig {
                mac: net.config_space().mac,
                ip,
                seed: number.into(),
                ..config
            };
            run(&mut TcpGuest::new(config, net), &inbox);
        });
        let host = Host {
            calls: Some(calls),
            thread: Some(thread),
            ip,
        };
        host.with(|_| ()); // it is connected
        host
    }

    /// Does something with the guest on its thread.
    pub(crate) fn with<R: Send + 'static>(
        &self,
        call: impl FnOnce(&mut TcpGuest) -> R + Send + 'static,
    ) -> R {
        let (answer, answered) = mpsc::channel();
        let call: Call = Box::new(move |guest| {
            // Nobody waits any more only if the test has failed.
            let _ = answer.send(call(guest));
        });
        let calls = self.calls.as_ref().expect("taken only in drop");
        calls.send(call).expect("the guest's thread runs");
        answered.recv().expect("the guest's thread answers")
    }

    /// The stream's counters; panics if the device has done wrong or a byte has come wrong.
    #[track_caller]
    pub(crate) fn stream(&self, id: StreamId) -> StreamStats {
        let (fault, stats) = self.with(move |guest| (guest.fault(), guest.stream(id)));
        assert_eq!(fault, None);
        assert_eq!(stats.mismatches, 0, "{stats:?}");
        stats
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.calls.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            assert!(!matches!(ended, Some(Err(_))), "a guest has panicked");
        }
    }
}

fn run(guest: &mut TcpGuest, inbox: &Receiver<Call>) {
    let epoch = Instant::now();
    loop {
        match inbox.try_recv() {
            Ok(call) => call(guest),
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {}
        }
        let now = epoch.elapsed().as_nanos() as u64;
        if guest.poll(now).next.is_none_or(|at| at > now) {
            let nap = Duration::from_micros(300);
            guest.net().wait_rx_call(0, nap).unwrap();
        }
    }
}

/// Starts a stream of `limit` bytes from one host to another, or an endless one; the receiver's end is returned.
pub(crate) fn stream(from: &Host, to: &Host, port: u16, limit: Option<u64>) -> StreamId {
    let ip = to.ip;
    let end = to.with(move |guest| guest.receive_on(port));
    from.with(move |guest| guest.send_to(ip, port, limit));
    end
}

/// Waits until `to` has received `bytes` of the stream, all as they were sent.
#[track_caller]
pub(crate) fn await_bytes(to: &Host, stream: StreamId, bytes: u64) {
    wait_for(&format!("{bytes} bytes of a stream"), || {
        (to.stream(stream).received >= bytes).then_some(())
    });
}

/// Waits until a stream goes on from wherever it is now.
#[track_caller]
pub(crate) fn await_progress(to: &Host, stream: StreamId) {
    let now = to.stream(stream).received;
    await_bytes(to, stream, now + 100_000);
}
