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
    config: NetConfig,
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
        let net = NetDevice::start(connect(world.host(host), vf)?, config)?;
        let (guest, made) = make(net);
        let guest = EmbeddedGuest {
            guest,
            host,
            vf,
            id: world.join(at),
            config: config.clone(),
        };
        Ok((guest, made))
    }

    /// Loses the connection, as when a back end ends; its rings and what is in them stay as they are.
    pub fn disconnect(&mut self, world: &mut VirtualHosts) {
        drop(self.guest.net().take_frontend());
        // Only a socket that is connected to again needs the time.
        let now = Instant::now();
        let mut host = world.host(self.host).borrow_mut();
        host.serve(self.vf, |endpoint, device| endpoint.poll(now, device));
        drop(host);
        world.wake_host(self.host);
    }

    /// Connects again, and goes on with its rings where they are.
    ///
    /// # Errors
    /// [`FrontendError`]: the device does not do what it should, or what it did before.
    pub fn connect_again(&mut self, world: &mut VirtualHosts) -> Result<(), FrontendError> {
        self.disconnect(world);
        let frontend = connect(world.host(self.host), self.vf)?;
        self.guest.net().resume(frontend, &self.config)?;
        world.wake_host(self.host);
        Ok(())
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

/// Connects a front end to a VF: a socket pair, both ends on this thread.
fn connect(host: &Rc<RefCell<NicInstance>>, vf: VfIndex) -> Result<Frontend, FrontendError> {
    let (ours, theirs) = UnixStream::pair()?;
    let device = host.borrow().device_config(vf);
    let endpoint = Endpoint::from_stream(ours, device);
    // Only a socket that is connected to again needs the time.
    let started = Instant::now();
    host.borrow_mut().vfs[vf.index()].socket = Some(endpoint.into());
    let mut frontend = Frontend::from_stream(theirs)?;
    let pumped = Rc::clone(host);
    frontend.on_wait = Some(Box::new(move || {
        pumped
            .borrow_mut()
            .serve(vf, |endpoint, device| endpoint.poll(started, device));
    }));
    Ok(frontend)
}
