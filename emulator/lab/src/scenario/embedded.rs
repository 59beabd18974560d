//! A scenario's guests played in this process: jobs that send or ping. Deterministic: seeds, and nothing of the machine.

use std::collections::BTreeMap;

use vf_guest::net::{NetConfig, NetHeader, Notify};
use vf_guest::tcp::{GuestConfig, StreamId, TcpGuest};
use vf_model::{Command, CostModel, Nanos, VfIndex};
use vf_nic::config::Offloads;
use vf_nic::watch::Detail;

use super::guests::{Ended, Guests, JobEnd, RunError};
use super::plan::{Amount, FrontEnd, ScenarioPlan, Work};
use crate::embedded::EmbeddedGuest;
use crate::virtual_hosts::{Event, Notification, VirtualHosts, Watcher};

/// What a guest is to do at a time.
#[derive(Clone, Copy)]
enum Task {
    /// Open this many streams to the guest of this index and send so many bytes in each, or endlessly.
    Send {
        job: usize,
        to: usize,
        streams: u16,
        each: Option<u64>,
    },
    /// Send no more of what this job sends.
    Finish { job: usize },
    /// The frame of this index, as it stands.
    Frame(usize),
    /// One echo request of this job to the guest of this index.
    Ping { job: usize, to: usize, seq: u16 },
}

/// The hosts with the guests on them.
pub(super) struct Embedded<'a> {
    plan: &'a ScenarioPlan,
    world: VirtualHosts,
    guests: Vec<EmbeddedGuest>,
    guest_on: BTreeMap<(usize, VfIndex), usize>,
    /// What each guest is still to do, by time and by the order in which it was planned.
    tasks: Vec<BTreeMap<(Nanos, usize), Task>>,
    /// Streams of each job, once it has started.
    streams: Vec<Vec<StreamId>>,
    faults: Vec<String>,
}

impl<'a> Embedded<'a> {
    pub(super) fn new(plan: &'a ScenarioPlan) -> Result<Embedded<'a>, RunError> {
        let notification = Notification {
            kicks: false,
            moderation: plan.moderation,
        };
        let mut nics = plan.config.nics.clone();
        nics.iter_mut().for_each(|nic| nic.queue_pairs = 1);
        let cost = CostModel::default(); // a plan has no measured CPU
        let mut world = VirtualHosts::new(&nics, &plan.config.wires, Some(cost), notification)
            .map_err(|(_, vf, refusal)| RunError::Policy(vf, refusal))?;
        let mut guests = Vec::new();
        let mut guest_on = BTreeMap::new();
        for (g, guest) in plan.guests.iter().enumerate() {
            let Some(on) = guest.interfaces.first() else {
                continue; // a plan's guests have one
            };
            let net = NetConfig {
                // The device offers what of it the NIC does for guests.
                features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO,
                mtu: guest.mtu,
                notify: Notify::Polled,
                ..NetConfig::default()
            };
            let config = GuestConfig {
                mac: nics[on.nic].vf_mac(on.vf).0,
                ip: on.address,
                prefix_len: on.prefix_len,
                mtu: guest.mtu,
                tso: nics[on.nic].offloads == Offloads::Tso,
                csum: nics[on.nic].offloads != Offloads::None,
                seed: plan
                    .seed
                    .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                    .wrapping_add(g as u64),
                verify: false,
                ..GuestConfig::default()
            };
            let (player, ()) =
                EmbeddedGuest::start(&mut world, on.nic, on.vf, &net, Nanos(0), |net| {
                    (TcpGuest::new(config, net), ())
                })?;
            guest_on.insert((on.nic, on.vf), guests.len());
            guests.push(player);
        }
        let mut embedded = Embedded {
            plan,
            world,
            tasks: vec![BTreeMap::new(); guests.len()],
            guests,
            guest_on,
            streams: vec![Vec::new(); plan.jobs.len()],
            faults: Vec::new(),
        };
        for job in 0..plan.jobs.len() {
            embedded.assign(job);
        }
        for (index, frame) in plan.frames.iter().enumerate() {
            let tasks = &mut embedded.tasks[frame.guest];
            let place = plan.jobs.len() << 32 | tasks.len();
            tasks.insert((frame.at, place), Task::Frame(index));
        }
        Ok(embedded)
    }

    /// Tells guests what they have to do for a job.
    fn assign(&mut self, index: usize) {
        let job = &self.plan.jobs[index];
        let mut task = |at, task| {
            let tasks = &mut self.tasks[job.guest];
            tasks.insert((at, index << 32 | tasks.len()), task);
        };
        match job.work {
            Work::Run(_) => {} // a plan for embedded guests has none
            Work::Ping {
                to,
                count,
                interval,
            } => {
                for seq in 0..count {
                    let at = Nanos(job.at.0 + interval.0 * u64::from(seq));
                    let job = index;
                    task(at, Task::Ping { job, to, seq });
                }
            }
            Work::Send {
                to,
                amount,
                streams,
            } => {
                let each = match amount {
                    Amount::Bytes(bytes) => Some(bytes.div_ceil(u64::from(streams))),
                    Amount::For(_) | Amount::Endless => None,
                };
                let start = Task::Send {
                    job: index,
                    to,
                    streams,
                    each,
                };
                task(job.at, start);
                if let Amount::For(time) = amount {
                    task(job.at + time, Task::Finish { job: index });
                }
                for _ in 0..streams {
                    self.guests[to]
                        .guest
                        .receive_on(job.port.unwrap_or_default());
                }
            }
        }
    }

    fn run_guest(&mut self, g: usize) {
        let now = self.world.now();
        while let Some(next) = self.tasks[g].first_entry()
            && next.key().0 <= now
        {
            let task = next.remove();
            self.start(g, task);
        }
        let player = &mut self.guests[g];
        player.run(&mut self.world);
        if let Some(((at, _), _)) = self.tasks[g].first_key_value() {
            self.world.wake(player.id, *at);
        }
    }

    fn start(&mut self, g: usize, task: Task) {
        let address = |to: usize| self.plan.guests[to].address();
        let guest = &mut self.guests[g].guest;
        match task {
            Task::Send {
                job,
                to,
                streams,
                each,
            } => {
                let port = self.plan.jobs[job].port.unwrap_or_default();
                let open = |_| guest.send_to(address(to), port, each);
                self.streams[job] = (0..streams).map(open).collect();
            }
            Task::Frame(frame) => {
                let net = guest.net();
                // A ring that has broken is the guest's fault when it next runs.
                let _ = net.send(0, &NetHeader::default(), &self.plan.frames[frame].bytes);
                net.kick();
                let player = &self.guests[g];
                self.world.sent(player.host, player.vf);
            }
            Task::Finish { job } => self.streams[job]
                .iter()
                .for_each(|stream| guest.finish(*stream)),
            Task::Ping { job, to, seq } => {
                guest.ping(address(to), u16::try_from(job).unwrap_or(u16::MAX), seq);
            }
        }
    }
}

impl Guests for Embedded<'_> {
    fn world(&self) -> &VirtualHosts {
        &self.world
    }

    fn watch(&mut self, detail: Detail, watcher: Watcher) {
        self.world.watch(detail, watcher);
    }

    fn at(&mut self, when: Nanos, nic: usize, command: Command) {
        self.world.at(when, nic, command);
    }

    fn front_end(&mut self, guest: usize, does: FrontEnd) -> Result<(), RunError> {
        let player = &mut self.guests[guest];
        match does {
            FrontEnd::Disconnect => player.disconnect(&mut self.world),
            FrontEnd::Connect => player.connect_again(&mut self.world)?,
        }
        self.world.wake(player.id, self.world.now());
        Ok(())
    }

    fn run_until(&mut self, until: Nanos) -> Result<(), RunError> {
        let first = self.guests.first().map_or(0, |player| player.id.index());
        while let Some(turn) = self.world.advance(until) {
            match turn {
                Event::Guest(id) => self.run_guest(id.index() - first),
                Event::Interrupt { host, vf, .. } => {
                    if let Some(on) = self.guest_on.get(&(host, vf)) {
                        self.world.wake(self.guests[*on].id, self.world.now());
                    }
                }
                Event::Command { host, command } => {
                    // These guests do not look at their carrier, so what they cannot be shown is no news.
                    if let Err(refusal) = self.world.apply(host, &command) {
                        self.faults.push(format!("{command}: {refusal}"));
                    }
                }
            }
        }
        self.world.skip_to(until);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Ended {
        let mut ended = Ended {
            faults: self.faults,
            ..Ended::default()
        };
        for (g, player) in self.guests.iter().enumerate() {
            if let Some(fault) = player.guest.fault() {
                ended.faults.push(format!(
                    "guest {} gave up: {fault}",
                    self.plan.guests[g].name
                ));
            }
        }
        for (job, streams) in self.plan.jobs.iter().zip(&self.streams) {
            let guest = &self.guests[job.guest].guest;
            let done = match job.work {
                Work::Send { .. } => {
                    !streams.is_empty() && streams.iter().all(|stream| guest.stream(*stream).done)
                }
                Work::Ping { .. } => self.tasks[job.guest].is_empty(),
                Work::Run(_) => false,
            };
            ended.jobs.push(JobEnd {
                exit: done.then_some(0),
                output: String::new(),
            });
        }
        ended
    }
}
