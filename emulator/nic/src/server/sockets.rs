//! The sockets of VFs, and the monitors of their guests' QEMUs: opened, and handed to whoever serves them. Reads no message.

use std::time::Instant;

use mio::Token;
use vf_model::{Policy, VfIndex};
use vf_pci::{pcidev, vfio_user};
use vf_vhost::endpoint::Endpoint;

use super::access::Access;
use super::error::{RunError, system};
use super::tokens::{QMP, VF, VFS};
use crate::config::SocketRole;
use crate::instance::{NicInstance, VfSocket};
use crate::qmp::Monitor;
use crate::thread::Polling;

/// How sockets of VFs are opened.
#[derive(Clone, Copy)]
pub(super) struct Sockets<'a> {
    /// Wakes the server when something comes to one.
    pub(super) registry: &'a mio::Registry,
    pub(super) access: Access,
    /// How the threads wait that will have the rings.
    pub(super) polling: Polling,
}

/// Opens the sockets of a host's VFs.
pub(super) fn listen(
    h: usize,
    host: &mut NicInstance,
    sockets: Sockets<'_>,
) -> Result<(), RunError> {
    let policy = host.policy();
    for i in 0..host.vfs.len() {
        let vf = VfIndex::from(i);
        if let Some(path) = host.settings.vf[i].qmp.clone() {
            let device = format!("{} {vf}", host.settings.name);
            let mut monitor = Monitor::new(device, path, policy.link_up_for(vf));
            monitor
                .register(sockets.registry, Token(QMP + h * VFS + i), Instant::now())
                .map_err(system("epoll"))?;
            host.vfs[i].monitor = Some(monitor);
        }
    }
    for (vf, socket) in new_sockets(h, host, &policy, sockets)? {
        serve_socket(host, vf, socket);
    }
    Ok(())
}

/// Sockets for the VFs that there are by a policy and that have none yet.
pub(super) fn new_sockets(
    h: usize,
    host: &NicInstance,
    policy: &Policy,
    sockets: Sockets<'_>,
) -> Result<Vec<(VfIndex, VfSocket)>, RunError> {
    let vfs = host.vfs.iter().zip(&host.settings.vf).enumerate();
    let new = vfs
        .take(policy.num_vfs())
        .filter(|(_, (vf, _))| vf.socket.is_none())
        .filter(|(i, _)| !host.is_without_socket(policy, VfIndex::from(*i)));
    new.map(|(i, (_, settings))| {
        let vf = VfIndex::from(i);
        let device = host.device_config_by(policy, vf);
        let path = &settings.socket;
        let mut socket: VfSocket = match (
            settings.role,
            settings.device.function(host.settings.queue_pairs),
        ) {
            (SocketRole::Client, _) => Endpoint::connect(path, device).into(),
            (SocketRole::Server | SocketRole::Uml, None) => {
                let endpoint = Endpoint::listen(path, device)?;
                let widen = |mode, group| endpoint.widen(mode, group);
                sockets.access.widen(path, widen)?;
                endpoint.into()
            }
            (SocketRole::Server, Some(function)) => {
                let mut endpoint =
                    vfio_user::endpoint::Endpoint::listen(path, device.name, function)?;
                if sockets.polling == Polling::Always {
                    endpoint.share_registers();
                }
                let widen = |mode, group| endpoint.widen(mode, group);
                sockets.access.widen(path, widen)?;
                endpoint.into()
            }
            (SocketRole::Uml, Some(function)) => {
                let endpoint =
                    pcidev::endpoint::Endpoint::listen(path, device.name, function, false)?;
                let widen = |mode, group| endpoint.widen(mode, group);
                sockets.access.widen(path, widen)?;
                VfSocket::Pcidev(Box::new(endpoint))
            }
        };
        socket
            .register(sockets.registry, Token(VF + h * VFS + i))
            .map_err(system("epoll"))?;
        Ok((vf, socket))
    })
    .collect()
}

pub(super) fn serve_socket(host: &mut NicInstance, vf: VfIndex, socket: VfSocket) {
    if let Some(place) = host.vfs.get_mut(vf.index()) {
        place.socket = Some(socket);
    }
    host.poll(vf, Instant::now());
}
