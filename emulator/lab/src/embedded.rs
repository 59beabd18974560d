//! Guests in this process, on the virtual clock: a driver and a TCP stack of `vf-guest` on a VF, over the real
//! protocol. Knows nothing of what they do there.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Instant;

use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::net::{NetConfig, NetDevice};
use vf_guest::tcp::TcpGuest;
use vf_model::{Nanos, Path, VfIndex};
use vf_nic::instance::NicInstance;
use vf_vhost::endpoint::Endpoint;

use crate::calendar::ParticipantId;
use crate::virtual_hosts::VirtualHosts;

/// A guest on its VF.
pub struct EmbeddedGuest {
    /// Its network stack and applications.
    pub guest: TcpGuest,
    /// Index of the host.
    pub host: usize,
    /// The VF.
    pub vf: VfIndex,
    /// Its place in the calendar.
    pub id: ParticipantId,
}

impl EmbeddedGuest {
    /// Connects a driver to a VF and has `make` make the guest that owns it, and whatever else; it first runs at
    /// `at`.
    ///
    /// # Errors
    /// [`FrontendError`]: the device does not do what it should.
    pub fn start<T>(
        world: &mut VirtualHosts,
        host: usize,
        vf: VfIndex,
        config: &NetConfig,
        at: Nanos,
        make: impl FnOnce(NetDevice) -> (TcpGuest, T),
    ) -> Result<(EmbeddedGuest, T), FrontendError> {
        let net = connect(world.host(host), vf, config)?;
        let (guest, made) = make(net);
        let guest = EmbeddedGuest {
            guest,
            host,
            vf,
            id: world.join(at),
        };
        Ok((guest, made))
    }

    /// Lets the guest run now.
    pub fn run(&mut self, world: &mut VirtualHosts) {
        let before = self.guest.stats().tx_frames;
        let step = self.guest.poll(world.now().0);
        let sent = self.guest.stats().tx_frames != before;
        world.set(self.id, step.next.map(Nanos));
        // Buffers that it has posted may be what the hypervisor waits for.
        if sent || world.host(self.host).borrow().path(self.vf) == Path::Mediated {
            world.sent(self.host, self.vf);
        }
    }
}

/// Connects a driver to a VF: a socket pair, both ends on this thread.
fn connect(
    host: &Rc<RefCell<NicInstance>>,
    vf: VfIndex,
    config: &NetConfig,
) -> Result<NetDevice, FrontendError> {
    let (ours, theirs) = UnixStream::pair()?;
    let device = host.borrow().device_config(vf);
    let endpoint = Endpoint::from_stream(ours, device);
    // Only a socket that is connected to again needs the time.
    let started = Instant::now();
    host.borrow_mut().vfs[vf.index()].endpoint = Some(endpoint);
    let mut frontend = Frontend::from_stream(theirs)?;
    let pumped = Rc::clone(host);
    frontend.on_wait = Some(Box::new(move || {
        pumped
            .borrow_mut()
            .serve(vf, |endpoint, device| endpoint.poll(started, device));
    }));
    NetDevice::start(frontend, config)
}
