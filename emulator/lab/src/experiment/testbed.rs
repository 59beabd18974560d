//! The experiment on the virtual clock: two hosts, a wire and two guests a stream on one thread, stepped by the calendar.
//! The same NIC, hypervisor, rings and TCP as on the wall clock; only the time comes from elsewhere. Never reads a clock.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use vf_guest::net::{NetConfig, NetDevice, Notify};
use vf_guest::tcp::{GuestConfig, StreamId, TcpGuest};
use vf_model::{Impairments, MacAddr, Mtu, Nanos, Path, VfIndex, VfSetting};
use vf_nic::config::{NicSettings, Offloads, SocketRole, VfSettings, WireSettings};
use vf_nic::watch::Detail;

use super::error::ExperimentError;
use super::measure::{Meters, Reading};
use super::outcome::{AutoFrames, Timeline};
use super::plan::ExperimentPlan;
use super::slow_path::{self, SlowPathLog};
use super::timeline::{self, FrameLog};
use crate::digest::Digest;
use crate::embedded::EmbeddedGuest;
use crate::virtual_hosts::{Event, Notification};

/// The port every receiver listens on, netperf's.
const PORT: u16 = 12865;

/// A guest with its stream.
struct StreamEnd {
    guest: EmbeddedGuest,
    stream: StreamId,
}

/// The two hosts of an experiment, their settings all but the path.
pub(super) fn nic_settings(plan: &ExperimentPlan, host: usize, path: Path) -> NicSettings {
    let vf = VfSettings {
        policy: vec![VfSetting::Path(path)],
        device: plan.device,
        ..VfSettings::new(PathBuf::new(), SocketRole::Server)
    };
    NicSettings {
        name: ["a", "b"][host].to_owned(),
        vfs: plan.pairs(),
        workers: 1,
        mac_base: MacAddr([0x02, 0, 0, 0, [0x0a, 0x0b][host], 0]),
        queue_pairs: 1,
        mtu: Mtu::new(plan.mtu.into()).ok(),
        link_up: true,
        cable_out: false,
        offloads: plan.offloads,
        uplink: None,
        netem: Impairments {
            egress: plan
                .netem
                .clone()
                .map(|netem| Arc::new(netem.or_seed(plan.seed))),
            ingress: None,
        },
        profile: plan.profile,
        // Nobody sends from VF to VF but to groups, and that is to take what it has always taken: the digests depend on it.
        loopback: None,
        switch: Vec::new(),
        filters: Vec::new(),
        vf: vec![vf; usize::from(plan.pairs())],
    }
}

/// What the driver of a guest acknowledges.
pub(super) fn net_config(plan: &ExperimentPlan, notify: Notify) -> NetConfig {
    NetConfig {
        features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO,
        mtu: plan.mtu,
        notify,
        ..NetConfig::default()
    }
}

/// The address of the guest on `vf` of `host`.
fn address(host: usize, vf: u16) -> Ipv4Addr {
    let [high, low] = (vf + 1).to_be_bytes();
    Ipv4Addr::new(10, [1, 2][host], high, low)
}

/// The guest of pair `pair` on `host`: a sender or a receiver of one endless stream.
pub(super) fn guest(
    plan: &ExperimentPlan,
    host: usize,
    pair: u16,
    net: NetDevice,
) -> (TcpGuest, StreamId) {
    let mac = nic_settings(plan, host, Path::Direct)
        .mac_base
        .offset(pair.into());
    let config = GuestConfig {
        mac: mac.0,
        ip: address(host, pair),
        prefix_len: 8,
        mtu: plan.mtu,
        tso: plan.offloads == Offloads::Tso,
        csum: plan.offloads != Offloads::None,
        window: plan.window,
        seed: mix(plan.seed, host as u64 * 4096 + u64::from(pair)),
        verify: false,
        ..GuestConfig::default()
    };
    let mut guest = TcpGuest::new(config, net);
    let sends = (host == 0) == (pair < plan.a_to_b);
    let stream = if sends {
        guest.send_to(address(1 - host, pair), PORT, None)
    } else {
        guest.receive_on(PORT)
    };
    (guest, stream)
}

/// A well-spread number for each `n` (splitmix64).
pub(super) fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Two hosts back to back with their guests, at time zero.
pub(super) struct Testbed {
    digest: Digest,
    /// What takes the slow path, on path `auto`.
    slow_path: Option<SlowPathLog>,
    world: crate::virtual_hosts::VirtualHosts,
    stream_ends: Vec<StreamEnd>,
    /// Index into `stream_ends` by host and VF.
    talker_of: [Vec<usize>; 2],
}

impl Testbed {
    /// Builds the hosts and connects the guests over the real protocol.
    pub(super) fn new(plan: &ExperimentPlan, path: Path) -> Result<Testbed, ExperimentError> {
        let nics = [0, 1].map(|h| nic_settings(plan, h, path));
        let wire = WireSettings {
            between: [0, 1],
            link: plan.link,
        };
        let notification = Notification {
            kicks: false,
            moderation: plan.moderation,
        };
        let mut world =
            crate::virtual_hosts::VirtualHosts::new(&nics, &[wire], Some(plan.cost), notification)
                .map_err(|(_, vf, refusal)| ExperimentError::Policy(vf, refusal))?;
        let digest = Digest::default();
        world.watch(Detail::Head, digest.watcher());
        let slow_path = (path == Path::Auto).then(SlowPathLog::default);
        if let Some(log) = &slow_path {
            world.watch_slow_path(log.watcher());
        }
        let mut stream_ends = Vec::new();
        let mut talker_of = [Vec::new(), Vec::new()];
        for pair in 0..plan.pairs() {
            for h in [0, 1] {
                let vf = VfIndex::from(usize::from(pair));
                // Nobody starts at the very same moment: up to a millisecond apart, by the seed.
                let start = Nanos(mix(plan.seed, 1 << 32 | stream_ends.len() as u64) % 1_000_000);
                let net = net_config(plan, Notify::Polled);
                let make = |net| guest(plan, h, pair, net);
                let (guest, stream) = EmbeddedGuest::start(&mut world, h, vf, &net, start, make)
                    .map_err(ExperimentError::Guest)?;
                talker_of[h].push(stream_ends.len());
                stream_ends.push(StreamEnd { guest, stream });
            }
        }
        Ok(Testbed {
            digest,
            slow_path,
            world,
            stream_ends,
            talker_of,
        })
    }

    /// Runs until `limit`.
    pub(super) fn run_until(&mut self, limit: Nanos) {
        let first = self.stream_ends.first().map_or(0, |t| t.guest.id.index());
        while let Some(turn) = self.world.advance(limit) {
            match turn {
                Event::Guest(id) => self.stream_ends[id.index() - first]
                    .guest
                    .run(&mut self.world),
                Event::Interrupt { host, vf, .. } => {
                    let talker = &self.stream_ends[self.talker_of[host][vf.index()]];
                    self.world.wake(talker.guest.id, self.world.now());
                }
                // An experiment gives no commands.
                Event::Command { .. } => {}
            }
        }
        self.world.skip_to(limit);
    }

    /// Everything that is measured, as it stands now.
    pub(super) fn read(&self) -> Reading {
        let mut meters = Meters::new(self.world.now());
        for host in self.world.hosts() {
            meters.host(&host.borrow());
        }
        for StreamEnd { guest, stream } in &self.stream_ends {
            meters.guest(&guest.guest, *stream);
        }
        meters.reading()
    }

    /// What took which path so far, on path `auto`.
    pub(super) fn auto_frames(&self) -> Option<AutoFrames> {
        let mut frames = AutoFrames {
            first: self.slow_path.as_ref()?.flows(),
            ..AutoFrames::default()
        };
        for host in self.world.hosts() {
            slow_path::count(&mut frames, &host.borrow());
        }
        Some(frames)
    }

    /// The digest of all frames so far.
    pub(super) fn digest(&self) -> String {
        format!("{:016x}", self.digest.value())
    }

    /// A short look at single frames from now on.
    pub(super) fn timeline(&mut self, plan: &ExperimentPlan) -> Timeline {
        let log = FrameLog::default();
        self.world.watch(Detail::Head, log.watcher());
        let (begin, steps) = timeline::steps(self.world.now());
        let counts = plan.offloads != Offloads::Tso;
        let mut rings = Vec::new();
        for at in steps {
            self.run_until(at);
            rings.push((at, counts.then(|| self.on_rings())));
        }
        log.timeline(begin, &rings)
    }

    /// Frames that guests of host A have put on their rings and nobody has taken.
    fn on_rings(&self) -> u64 {
        let put = self.talker_of[0].iter().map(|at| {
            let guest = &self.stream_ends[*at].guest.guest;
            guest.stats().tx_frames
        });
        let put: u64 = put.sum();
        let taken = self.world.hosts().next().map_or(0, |host| {
            let host = host.borrow();
            let vfs = (0..self.talker_of[0].len()).map(VfIndex::from);
            let of = |vf| [host.statistics.direct(vf), host.statistics.mediated(vf)];
            let counters = vfs.flat_map(of);
            counters
                .map(|c| c.tx_packets + c.tx_drops.iter().map(|(_, n)| n).sum::<u64>())
                .sum()
        });
        put.saturating_sub(taken)
    }

    /// Whether every guest is still content with its device.
    pub(super) fn check(&self) -> Result<(), ExperimentError> {
        for StreamEnd { guest, .. } in &self.stream_ends {
            if let Some(fault) = guest.guest.fault() {
                return Err(ExperimentError::Fault(fault.to_string()));
            }
        }
        Ok(())
    }
}
