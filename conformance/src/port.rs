//! A port of a subject: where it is, and what it tells of itself before anything is acknowledged. Opens no session.

use std::path::PathBuf;
use std::sync::Arc;

use crate::listener::Listener;
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::message::protocol;
use vf_guest::net::{NetConfig, feature, negotiate};

/// A port of the subject.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    pub(crate) path: PathBuf,
    pub(crate) told: Told,
    /// Where the suite listens, if the subject is the client.
    pub(crate) listener: Option<Arc<Listener>>,
}

/// What a port tells before anything is acknowledged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// Its address, or the one that the suite was given.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: Option<u16>,
    /// Pairs of rings for frames.
    pub(crate) queue_pairs: u16,
}

impl Told {
    /// What a port tells in a fresh session. `GET_QUEUE_NUM` is read as DPDK and QEMU do, as pairs; those who count rings tell the pairs in
    /// configuration space, too.
    pub(crate) fn of(mut frontend: Frontend) -> Result<Told, FrontendError> {
        let (features, space) = negotiate(&mut frontend, &NetConfig::default())?;
        let has = |feature: u64| features & feature != 0;
        let mut queue_pairs = 1;
        if has(feature::MQ) && frontend.protocol_features() & protocol::MQ != 0 {
            let most = u16::try_from(frontend.get_queue_num()?).unwrap_or(u16::MAX);
            queue_pairs = match frontend.protocol_features() & protocol::CONFIG {
                0 => most,
                _ => most.min(space.max_virtqueue_pairs),
            };
        }
        Ok(Told {
            mac: (has(feature::MAC) && space.mac != [0; 6]).then_some(space.mac),
            mtu: (has(feature::MTU) && space.mtu > 0).then_some(space.mtu),
            queue_pairs,
        })
    }
}
