//! Keeps the two ends of the link to a device of the host alike: what the host sees of it and what the NIC sees of its port.

use std::io;

use mio::{Registry, Token};

use crate::config::Config;
use crate::instance::NicInstance;
use crate::uplink::{HostLink, LinkWatch, UplinkSpec};

/// Devices of the host in the ports of NICs, by NIC.
#[derive(Default)]
pub(super) struct HostLinks {
    links: Vec<Option<HostLink>>,
    watch: Option<LinkWatch>,
}

impl HostLinks {
    pub(super) fn new(config: &Config, registry: &Registry, token: Token) -> io::Result<HostLinks> {
        let uplinks = config.nics.iter().map(|nic| nic.uplink.as_ref());
        let links: Vec<_> = uplinks
            .map(|uplink| uplink.and_then(UplinkSpec::host_link))
            .collect();
        let any = links.iter().any(Option::is_some);
        let watch = any.then(|| LinkWatch::new(registry, token)).transpose()?;
        Ok(HostLinks { links, watch })
    }

    pub(super) fn hear(&self) {
        if let Some(watch) = &self.watch {
            watch.drain();
        }
    }

    /// The host sees a carrier while a port is up, and a port has one while the host has the device up.
    pub(super) fn make_alike(&mut self, hosts: &mut [NicInstance]) {
        for (host, link) in hosts.iter_mut().zip(&mut self.links) {
            if let Some(link) = link {
                link.set_carrier(host.policy().shows_carrier());
                for note in host.set_carrier(link.is_up()) {
                    tracing::info!("{note}");
                }
            }
        }
    }
}
