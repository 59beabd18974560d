//! The stock reference subject: the smallest net back end one can build on `vhost-user-backend`
//! 0.24, without any care of its own. What is sent comes back on the same port.
//!
//! ```text
//! cargo build -p vf-conformance --example stock-backend
//! cargo run -p vf-conformance -- run --socket /tmp/stock.sock \
//!     --start "target/debug/examples/stock-backend /tmp/stock.sock"
//! ```
//!
//! It exists so that the suite is known to bite, and to keep it honest on the happy path. Which cases it fails, and why, is in
//! `conformance/tests/stock.rs`. Never mended: what it fails is what it is for.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

type Memory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

/// VERSION_1, PROTOCOL_FEATURES, EVENT_IDX, INDIRECT_DESC.
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28;
/// Bytes of a virtio-net header.
const HEADER: usize = 12;

struct Loopback {
    mem: Memory,
    event_idx: bool,
}

impl Loopback {
    /// Sends everything back; frames without a receive buffer are dropped.
    fn run(&mut self, vrings: &[VringMutex]) -> io::Result<()> {
        let (rx, tx) = (&vrings[0], &vrings[1]);
        let mem = self.mem.memory();
        loop {
            let next = tx
                .get_mut()
                .get_queue_mut()
                .pop_descriptor_chain(mem.clone());
            let Some(chain) = next else { return Ok(()) };
            let head = chain.head_index();
            let mut frame = Vec::new();
            chain
                .reader(&mem)
                .map_err(io::Error::other)?
                .read_to_end(&mut frame)?;
            tx.add_used(head, 0).map_err(io::Error::other)?;
            if tx.needs_notification().map_err(io::Error::other)? {
                tx.signal_used_queue()?;
            }
            if frame.len() < HEADER {
                continue;
            }
            frame[..HEADER].fill(0);
            frame[10] = 1;
            let next = rx
                .get_mut()
                .get_queue_mut()
                .pop_descriptor_chain(mem.clone());
            let Some(chain) = next else { continue };
            let head = chain.head_index();
            let mut writer = chain.writer(&mem).map_err(io::Error::other)?;
            if writer.available_bytes() < frame.len() {
                // Dropped; the buffer is kept for the next frame.
                rx.get_mut().get_queue_mut().go_to_previous_position();
                continue;
            }
            let len = writer.write(&frame)? as u32;
            rx.add_used(head, len).map_err(io::Error::other)?;
            if rx.needs_notification().map_err(io::Error::other)? {
                rx.signal_used_queue()?;
            }
        }
    }
}

impl VhostUserBackendMut for Loopback {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        2
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&mut self, enabled: bool) {
        self.event_idx = enabled;
    }

    fn update_memory(&mut self, mem: Memory) -> io::Result<()> {
        self.mem = mem;
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }

    fn handle_event(
        &mut self,
        _event: u16,
        _set: EventSet,
        vrings: &[VringMutex],
        _thread: usize,
    ) -> io::Result<()> {
        if vrings
            .iter()
            .any(|vring| !vring.get_ref().get_queue().ready())
        {
            return Ok(());
        }
        if !self.event_idx {
            return self.run(vrings);
        }
        loop {
            vrings[1].disable_notification().map_err(io::Error::other)?;
            self.run(vrings)?;
            if !vrings[1].enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .ok_or("usage: stock-backend SOCKET")?;
    let mut listener = Listener::new(path, true)?;
    loop {
        // A daemon is good for one connection: a second one finds the session claimed.
        let mem = Memory::new(GuestMemoryMmap::new());
        let backend = Arc::new(Mutex::new(Loopback {
            mem: mem.clone(),
            event_idx: false,
        }));
        let mut daemon = VhostUserDaemon::new("stock".into(), backend, mem)
            .map_err(|error| format!("{error:?}"))?;
        daemon
            .start(&mut listener)
            .map_err(|error| format!("{error:?}"))?;
        if let Err(error) = daemon.wait() {
            eprintln!("session ended: {error:?}");
        }
    }
}
