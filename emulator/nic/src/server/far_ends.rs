//! Keeps the two ends of the link alike between a NIC and what is at the other end of its port that is no NIC: what that sees of the
//! link, and what the NIC does. Moves no frame.

use std::io;

use mio::{Registry, Token};

use crate::instance::NicInstance;
use crate::uplink::{FarEnd, LinkWatch};

/// What is at the other ends of NICs' ports, by NIC.
#[derive(Default)]
pub(super) struct FarEnds {
    ends: Vec<Option<FarEnd>>,
    watch: Option<LinkWatch>,
}

impl FarEnds {
    /// Has `token` become ready when any of them changes.
    pub(super) fn new(
        ends: Vec<Option<FarEnd>>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<FarEnds> {
        let there = ends.iter().flatten();
        there
            .clone()
            .try_for_each(|end| end.register(registry, token))?;
        let mut hosts = there.filter(|end| matches!(end, FarEnd::Host(_)));
        let watch = hosts.next().map(|_| LinkWatch::new(registry, token));
        let watch = watch.transpose()?;
        Ok(FarEnds { ends, watch })
    }

    pub(super) fn hear(&self) {
        if let Some(watch) = &self.watch {
            watch.drain();
        }
        self.ends.iter().flatten().for_each(FarEnd::drain);
    }

    /// The other end sees a carrier while a port is up, and a port has one while that has.
    pub(super) fn make_alike(&mut self, hosts: &mut [NicInstance]) {
        for (host, end) in hosts.iter_mut().zip(&mut self.ends) {
            if let Some(end) = end {
                end.set_carrier(host.policy().shows_carrier());
                for note in host.set_carrier(end.is_up()) {
                    tracing::info!("{note}");
                }
            }
        }
    }
}
