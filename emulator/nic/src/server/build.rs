//! Puts NICs together: their planes, on which threads those run, and what is plugged into their ports. Opens no socket.

use std::time::Instant;

use vf_model::{LinkConfig, Mtu, Nanos};

use super::Reporter;
use super::error::{RunError, system};
use crate::clock::Clock;
use crate::config::{Config, HypervisorCpu, NicSettings, WireSettings};
use crate::handover::Taken;
use crate::instance::{NicInstance, Planes};
use crate::queue::{Doorbell, Pool};
use crate::sandbox::Sandbox;
use crate::thread::{DataThread, Polling};
use crate::uplink::{FarEnd, Uplink, WireEnd};

/// How far the wall clock's transmitters may be filled ahead: the time between two rounds of a busy worker.
const WIRE_SLACK: Nanos = Nanos(30_000);
/// Empty buffers kept for reuse.
const POOL: usize = 16 * 1024;

/// The data-plane threads before they run, and which of them each worker of each NIC is on.
struct Threads {
    threads: Vec<DataThread>,
}

impl Threads {
    fn new(config: &Config, sandbox: Sandbox) -> Result<Threads, RunError> {
        let workers = config.nics.iter().map(|nic| nic.workers).max();
        let wanted = usize::from(config.threads.max(workers.unwrap_or(1)));
        // Two threads that look for frames on one CPU would only keep each other from it.
        let threads = wanted.min(config.cpus.count().unwrap_or_else(cpus_allowed));
        if threads < wanted {
            tracing::info!("{threads} data-plane threads and not {wanted}: there are no more CPUs");
        }
        let threads = (0..threads).map(|n| {
            let mut thread = DataThread::new(format!("dp{n}")).map_err(system("thread"))?;
            thread.confine(sandbox);
            if let Some(cpu) = config.cpus.nth(n) {
                thread.pin(cpu);
            }
            Ok(thread)
        });
        let threads = threads.collect::<Result<_, RunError>>()?;
        Ok(Threads { threads })
    }

    /// The thread of a NIC's worker: the workers of one NIC are on different threads, and so are NICs as far as there are
    /// enough.
    fn of(&self, nic: usize, worker: usize) -> usize {
        (nic + worker) % self.threads.len()
    }

    fn bell(&self, nic: usize, worker: usize) -> Doorbell {
        self.threads[self.of(nic, worker)].bell()
    }
}

/// The NICs, and what is at the other ends of their ports that is no NIC.
pub(super) fn build_hosts(
    config: &Config,
    epoch: Instant,
    reporter: &Reporter,
    sandbox: Sandbox,
    mut taken: Option<&mut Taken>,
) -> Result<(Vec<NicInstance>, Vec<Option<FarEnd>>), RunError> {
    let pool = Pool::new(POOL);
    let threads = Threads::new(config, sandbox)?;
    let mut ends: Vec<Option<WireEnd>> = config.nics.iter().map(|_| None).collect();
    for wire in &config.wires {
        let (mut a, mut b) = WireEnd::pair(wire.link, WIRE_SLACK);
        let between = wire.between;
        if threads.of(between[0], 0) != threads.of(between[1], 0) {
            a.set_peer(threads.bell(between[1], 0));
            b.set_peer(threads.bell(between[0], 0));
        }
        ends[between[0]] = Some(a);
        ends[between[1]] = Some(b);
    }
    let cost = match config.hypervisor {
        None | Some(HypervisorCpu::Measured) => None,
        Some(HypervisorCpu::Model) => Some(vf_model::CostModel::default()),
    };
    // By thread: the planes, and the NIC and the worker of each.
    let mut planes: Vec<Vec<_>> = threads.threads.iter().map(|_| Vec::new()).collect();
    let (mut hypervisors, mut policies) = (Vec::new(), Vec::new());
    let mut far_ends = Vec::new();
    for (h, (nic, end)) in config.nics.iter().zip(ends).enumerate() {
        if nic.loopback.is_some_and(|said| said.is_said()) {
            tracing::warn!(
                "nic {}: loopback_rate and dma_latency are for the virtual clock; on this machine's, frames from VF to VF take its own time",
                nic.name
            );
        }
        let mut uplink = uplink(h, nic, end, taken.as_deref_mut())?;
        if let Some(uplink) = &uplink
            && let Some(mtu) = uplink.mtu()
            && nic.mtu.unwrap_or(Mtu::ETHERNET).get() > mtu
        {
            tracing::warn!(
                "nic {}: packets over {mtu} bytes do not pass {uplink}, and are dropped as mtu_exceeded: say mtu = {mtu}",
                nic.name
            );
        }
        far_ends.push(uplink.as_mut().and_then(|uplink| uplink.far_end()));
        let made = Planes::new(nic, nic.workers.into(), uplink, &pool, cost);
        let mut made = made.map_err(|(vf, refusal)| RunError::Policy {
            nic: nic.name.clone(),
            vf,
            refusal,
        })?;
        made.set_place(h, WIRE_SLACK);
        // What comes from outside the process waits there until guests have their rings, or stays the other process'.
        if taken.is_some() {
            for worker in &mut made.workers {
                worker.set_deaf(Nanos(0), true);
            }
        }
        let thread = DataThread::new(format!("hyp-{}", nic.name));
        let mut thread = thread.map_err(system("thread"))?;
        thread.confine(sandbox);
        policies.push(made.policies);
        let bells: Vec<_> = (0..made.workers.len())
            .map(|w| threads.bell(h, w))
            .collect();
        for (w, mut worker) in made.workers.into_iter().enumerate() {
            worker.pf_mut().set_peer(thread.bell());
            worker.set_peers(&bells);
            planes[threads.of(h, w)].push(((h, w), worker));
        }
        let mut hypervisor = made.hypervisor;
        hypervisor.pf_mut().set_peer(bells[0].clone());
        // A CPU that software shares is not kept for good by a thread that waits.
        let polling = match config.poll {
            Polling::Always => Polling::Adaptive,
            other => other,
        };
        let hosts = vec![h];
        let owners = thread
            .spawn(vec![hypervisor], epoch, polling, reporter.of(hosts))
            .map_err(system("thread"))?;
        hypervisors.extend(owners);
    }
    let mut workers: Vec<Vec<_>> = config.nics.iter().map(|_| Vec::new()).collect();
    for (thread, planes) in threads.threads.into_iter().zip(planes) {
        let (places, planes): (Vec<(usize, usize)>, Vec<_>) = planes.into_iter().unzip();
        let hosts = places.iter().map(|(h, _)| *h).collect();
        let owners = thread
            .spawn(planes, epoch, config.poll, reporter.of(hosts))
            .map_err(system("thread"))?;
        for ((h, w), owner) in places.into_iter().zip(owners) {
            workers[h].push((w, owner));
        }
    }
    let owners = workers.into_iter().zip(hypervisors).zip(policies);
    let hosts = config.nics.iter().zip(owners);
    let mut hosts: Vec<_> = hosts
        .map(|(nic, ((mut workers, hypervisor), policies))| {
            workers.sort_by_key(|(worker, _)| *worker);
            let workers = workers.into_iter().map(|(_, owner)| owner).collect();
            NicInstance::new(
                nic.clone(),
                workers,
                hypervisor,
                policies,
                Clock::Wall(epoch),
            )
        })
        .collect();
    for WireSettings { between, .. } in &config.wires {
        let [a, b] = *between;
        (hosts[a].peer, hosts[b].peer) = (Some(b), Some(a));
        if let Ok([near, far]) = hosts.get_disjoint_mut([a, b]) {
            // No guest is there yet to be told.
            near.share_carrier(far);
        }
    }
    Ok((hosts, far_ends))
}

/// How many CPUs this process may run on.
fn cpus_allowed() -> usize {
    let allowed = rustix::thread::sched_getaffinity(None);
    allowed.map_or(1, |cpus| cpus.count().max(1) as usize)
}

/// What the configuration plugs into a NIC's port, or another process has had there.
fn uplink(
    h: usize,
    nic: &NicSettings,
    end: Option<WireEnd>,
    taken: Option<&mut Taken>,
) -> Result<Option<Box<dyn Uplink>>, RunError> {
    let spec = match (end, &nic.uplink) {
        (Some(end), _) => return Ok(Some(Box::new(end))),
        (None, Some(spec)) => spec,
        (None, None) => return Ok(None),
    };
    let config = LinkConfig::default();
    let opened = match taken {
        Some(taken) => {
            let position = taken.document.nics.get(h).and_then(|nic| nic.position);
            spec.go_on(|| taken.descriptor(), position, config, WIRE_SLACK)
        }
        None => spec.open(config, WIRE_SLACK),
    };
    Ok(Some(opened?))
}
