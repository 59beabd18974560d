//! `vfnic run`: builds the hosts, serves every VF's socket and the control socket from one thread, and stops cleanly.
//! Moves no frame itself.

pub(crate) mod clients;
pub(crate) mod observe;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::process::{Resource, Rlimit};
use vf_model::{Command, LinkConfig, Nanos, Refusal, VfIndex};
use vf_vhost::endpoint::{Endpoint, EndpointError};

use crate::clock::Clock;
use crate::config::{Config, HypervisorCpu, NicSettings, Polling, SocketRole};
use crate::ctl::{Request, Response};
use crate::host::{Host, Planes};
use crate::plane::{Owner, Pool, RingBroken, Tap, Uplink, WireEnd};

use clients::Clients;
use observe::Observer;

const WAKE: Token = Token(0);
const SIGNAL: Token = Token(1);
/// Tokens of the control socket and its clients.
const CTL: std::ops::Range<usize> = 2..1 << 16;
/// Tokens of VFs: host times [`VFS`] plus VF, from here.
const VF: usize = 1 << 16;
const VFS: usize = 256;

/// How far the wall clock's transmitters may be filled ahead: the time between two rounds of a busy worker.
const WIRE_SLACK: Nanos = Nanos(30_000);
/// Empty buffers kept for reuse.
const POOL: usize = 16 * 1024;

/// Why `vfnic run` cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The socket directory cannot be made.
    #[error("cannot make the socket directory {path}: {source}")]
    SocketDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A VF's socket cannot be served.
    #[error("{0}")]
    Socket(#[from] EndpointError),
    /// The control socket cannot be served.
    #[error("control socket {path}: {source}")]
    Ctl {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A tap device cannot be opened.
    #[error(
        "tap {name}: {source} (a tap device needs CAP_NET_ADMIN: run as root, or make it with 'ip tuntap add dev {name} mode tap user $USER vnet_hdr')"
    )]
    Tap {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// An initial setting is refused.
    #[error("{nic} {vf}: {refusal}")]
    Policy {
        /// The NIC.
        nic: String,
        /// The VF.
        vf: VfIndex,
        /// Why.
        refusal: Refusal,
    },
    /// The system refuses something basic.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl RunError {
    /// Whether the user's words are at fault rather than the machine.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        !matches!(self, RunError::System { .. })
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// A running set of NICs.
pub struct Server {
    poll: Poll,
    hosts: Vec<Host>,
    clients: Clients,
    observer: Observer,
    broken: Receiver<(usize, RingBroken)>,
    signals: Option<UnixStream>,
    epoch: Instant,
}

impl Server {
    /// Builds everything the configuration asks for and listens.
    ///
    /// # Errors
    /// [`RunError`]; what had been made is removed again.
    pub fn start(config: Config) -> Result<Server, RunError> {
        raise_descriptor_limit();
        std::fs::create_dir_all(&config.socket_dir).map_err(|source| RunError::SocketDir {
            path: config.socket_dir.clone(),
            source,
        })?;
        let poll = Poll::new().map_err(system("epoll"))?;
        let waker = Waker::new(poll.registry(), WAKE).map_err(system("eventfd"))?;
        let (report, broken) = unbounded();
        let clients = Clients::listen(&config.ctl_socket(), poll.registry(), CTL)?;
        let epoch = Instant::now();
        let mut hosts = build_hosts(&config, epoch, &Reporter::new(report, waker))?;
        for (h, host) in hosts.iter_mut().enumerate() {
            listen(h, host, poll.registry())?;
        }
        Ok(Server {
            poll,
            hosts,
            clients,
            observer: Observer::default(),
            broken,
            signals: None,
            epoch,
        })
    }

    /// Ends [`Server::run`] when something arrives on `signals`.
    ///
    /// # Errors
    /// The system's.
    pub fn stop_on(&mut self, signals: UnixStream) -> Result<(), RunError> {
        signals.set_nonblocking(true).map_err(system("signals"))?;
        let fd = signals.as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), SIGNAL, Interest::READABLE)
            .map_err(system("signals"))?;
        self.signals = Some(signals);
        Ok(())
    }

    /// The NICs.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Time since the data path started.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Clock::Wall(self.epoch).now()
    }

    /// Serves until a signal says stop.
    ///
    /// # Errors
    /// The system's.
    pub fn run(&mut self) -> Result<(), RunError> {
        while self.step(None)? {}
        Ok(())
    }

    /// Waits for at most `limit` and serves what came; false when it is time to stop.
    ///
    /// # Errors
    /// The system's.
    pub fn step(&mut self, limit: Option<Duration>) -> Result<bool, RunError> {
        let now = Instant::now();
        let due = self
            .hosts
            .iter()
            .flat_map(|h| &h.vfs)
            .filter_map(|vf| vf.endpoint.as_ref()?.next_timer())
            .min()
            .map(|at| at.saturating_duration_since(now));
        let timeout = match (due, limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let mut events = Events::with_capacity(256);
        match self.poll.poll(&mut events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            other => other.map_err(system("epoll"))?,
        }
        for event in &events {
            match event.token() {
                SIGNAL => return Ok(false),
                WAKE => self.hear_of_broken_rings(),
                Token(t) if CTL.contains(&t) => {
                    let now = self.now();
                    let Server {
                        clients,
                        hosts,
                        observer,
                        poll,
                        ..
                    } = self;
                    clients.serve(Token(t), poll.registry(), |request| {
                        answer(now, hosts, observer, request)
                    });
                }
                Token(t) => {
                    let vf = VfIndex::from((t - VF) % VFS);
                    self.serve((t - VF) / VFS, vf);
                }
            }
        }
        if due.is_some() {
            self.retry();
        }
        Ok(true)
    }

    fn serve(&mut self, h: usize, vf: VfIndex) {
        if let Some(host) = self.hosts.get_mut(h) {
            host.serve(vf, |endpoint, device| {
                endpoint.poll(Instant::now(), device);
            });
        }
    }

    /// Serves the sockets that are due for another attempt to connect.
    fn retry(&mut self) {
        let now = Instant::now();
        for h in 0..self.hosts.len() {
            for i in 0..self.hosts[h].vfs.len() {
                let endpoint = self.hosts[h].vfs[i].endpoint.as_ref();
                if endpoint
                    .and_then(Endpoint::next_timer)
                    .is_some_and(|at| at <= now)
                {
                    self.serve(h, VfIndex::from(i));
                }
            }
        }
    }

    fn hear_of_broken_rings(&mut self) {
        while let Ok((h, broken)) = self.broken.try_recv() {
            let RingBroken { vf, ring, why } = broken;
            if let Some(host) = self.hosts.get(h) {
                let nic = &host.settings.name;
                tracing::warn!(
                    "{nic} {vf}: ring {ring} is broken until its driver restarts it: {why}"
                );
            }
            // A session whose memory has vanished ends here.
            self.serve(h, vf);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let now = Instant::now();
        for host in &mut self.hosts {
            for i in 0..host.vfs.len() {
                host.serve(VfIndex::from(i), |endpoint, device| {
                    endpoint.close_session(vf_vhost::endpoint::Refusal::Closed, now, device);
                });
            }
        }
    }
}

/// Carries news of broken rings from the planes' threads to the control thread.
struct Reporter {
    to: Sender<(usize, RingBroken)>,
    waker: std::sync::Arc<Waker>,
}

impl Reporter {
    fn new(to: Sender<(usize, RingBroken)>, waker: Waker) -> Reporter {
        Reporter {
            to,
            waker: std::sync::Arc::new(waker),
        }
    }

    fn of(&self, host: usize) -> impl Fn(RingBroken) + Send + 'static {
        let (to, waker) = (self.to.clone(), std::sync::Arc::clone(&self.waker));
        move |broken| {
            // Both fail only when the control thread has gone.
            let _ = to.send((host, broken));
            let _ = waker.wake();
        }
    }
}

/// Carries out a request; nothing has changed if it is refused.
fn answer(now: Nanos, hosts: &mut [Host], observer: &mut Observer, request: Request) -> Response {
    match request {
        Request::Show => Response::Show(Box::new(observer.show(now, hosts.iter()))),
        Request::Filters { nic } => match host_named(hosts, nic.as_deref()) {
            Ok(host) => Response::Filters(host.filters()),
            Err(why) => Response::Refused(why),
        },
        Request::Command { nic, words } => match command(hosts, nic.as_deref(), &words) {
            Ok(notes) => Response::Done(notes),
            Err(why) => Response::Refused(why),
        },
    }
}

fn host_named<'a>(hosts: &'a mut [Host], nic: Option<&str>) -> Result<&'a mut Host, String> {
    let h = nic_named(hosts.iter().map(|h| h.settings.name.clone()), nic)?;
    Ok(&mut hosts[h])
}

/// The index of the NIC that is meant, or what is wrong with the name.
pub(crate) fn nic_named(
    names: impl Iterator<Item = String>,
    nic: Option<&str>,
) -> Result<usize, String> {
    let names: Vec<String> = names.collect();
    match nic {
        None if names.len() == 1 => Ok(0),
        None => Err(format!(
            "which NIC? say --nic with one of: {}",
            names.join(", ")
        )),
        Some(nic) => names
            .iter()
            .position(|name| name == nic)
            .ok_or_else(|| format!("no NIC '{nic}': there is {}", names.join(", "))),
    }
}

fn command(hosts: &mut [Host], nic: Option<&str>, words: &[String]) -> Result<Vec<String>, String> {
    let host = host_named(hosts, nic)?;
    let command = Command::parse(words).map_err(|e| e.to_string())?;
    let notes = host.apply(&command).map_err(|e| e.to_string())?;
    tracing::info!("{}: {command}", host.settings.name);
    Ok(notes)
}

fn build_hosts(
    config: &Config,
    epoch: Instant,
    reporter: &Reporter,
) -> Result<Vec<Host>, RunError> {
    let pool = Pool::new(POOL);
    let mut ends: Vec<Option<WireEnd>> = config.nics.iter().map(|_| None).collect();
    for wire in &config.wires {
        let (a, b) = WireEnd::pair(wire.link, WIRE_SLACK);
        ends[wire.between[0]] = Some(a);
        ends[wire.between[1]] = Some(b);
    }
    let cost = match config.hypervisor {
        HypervisorCpu::Measured => None,
        HypervisorCpu::Model => Some(vf_model::CostModel::default()),
    };
    let mut hosts = Vec::new();
    let mut bells = Vec::new();
    for (h, (nic, end)) in config.nics.iter().zip(ends).enumerate() {
        let uplink = match (end, &nic.tap) {
            (Some(end), _) => Uplink::Wire(end),
            (None, Some(name)) => {
                Uplink::Tap(Tap::open(name, LinkConfig::default(), WIRE_SLACK).map_err(
                    |source| RunError::Tap {
                        name: name.clone(),
                        source,
                    },
                )?)
            }
            (None, None) => Uplink::None,
        };
        let planes = Planes::new(nic, nic.workers.into(), uplink, &pool, cost).map_err(
            |(vf, refusal)| RunError::Policy {
                nic: nic.name.clone(),
                vf,
                refusal,
            },
        )?;
        let name = &nic.name;
        let mut adapters = Vec::new();
        let mut worker_bells = Vec::new();
        for (w, adapter) in planes.adapters.into_iter().enumerate() {
            let name = nic.worker_name(w);
            let (owner, bell) = Owner::spawn(&name, adapter, epoch, config.poll, reporter.of(h))
                .map_err(system("thread"))?;
            adapters.push(owner);
            worker_bells.push(bell);
        }
        let (hypervisor, hypervisor_bell) = Owner::spawn(
            &format!("hyp-{name}"),
            planes.hypervisor,
            epoch,
            // A CPU that software shares is not kept for good by who waits.
            match config.poll {
                Polling::Always => Polling::Adaptive,
                other => other,
            },
            reporter.of(h),
        )
        .map_err(system("thread"))?;
        for adapter in &adapters {
            let mut adapter = adapter.borrow();
            adapter.pf_mut().set_peer(hypervisor_bell.clone());
            adapter.set_peers(&worker_bells);
        }
        let port_bell = worker_bells.swap_remove(0);
        hypervisor.borrow().pf_mut().set_peer(port_bell.clone());
        bells.push(port_bell);
        hosts.push(Host::new(
            nic.clone(),
            adapters,
            hypervisor,
            Clock::Wall(epoch),
        ));
    }
    for wire in &config.wires {
        let [a, b] = wire.between;
        for (this, other) in [(a, b), (b, a)] {
            if let Uplink::Wire(end) = hosts[this].adapter().borrow().uplink_mut() {
                end.set_peer(bells[other].clone());
            }
        }
    }
    Ok(hosts)
}

/// Opens the sockets of a host's VFs.
fn listen(h: usize, host: &mut Host, registry: &mio::Registry) -> Result<(), RunError> {
    let now = Instant::now();
    for i in 0..host.vfs.len() {
        let vf = VfIndex::from(i);
        let device = host.device_config(vf);
        let settings = &host.settings.vf[i];
        let mut endpoint = match settings.role {
            SocketRole::Server => Endpoint::listen(&settings.socket, device)?,
            SocketRole::Client => Endpoint::connect(&settings.socket, device),
        };
        endpoint
            .register(registry, Token(VF + h * VFS + i))
            .map_err(system("epoll"))?;
        host.vfs[i].endpoint = Some(endpoint);
        host.serve(vf, |endpoint, device| endpoint.poll(now, device));
    }
    Ok(())
}

/// Every guest brings half a dozen descriptors and more; the usual soft limit is too low for many VFs.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // If it is refused, a front end's descriptors will be, one session at a time.
    let _ = rustix::process::setrlimit(Resource::Nofile, wanted);
}

/// QEMU's arguments for a guest on `vf` with one queue pair, ready to paste.
#[must_use]
pub fn qemu_arguments(nic: &NicSettings, vf: VfIndex, mac: vf_model::MacAddr) -> String {
    let settings = &nic.vf[vf.index()];
    let socket = settings.socket.display();
    let role = match settings.role {
        SocketRole::Server => "reconnect-ms=1000",
        SocketRole::Client => "server=on,wait=off",
    };
    format!(
        "-m 512M -object memory-backend-memfd,id=mem,size=512M,share=on -machine memory-backend=mem \
         -chardev socket,id=vf,path={socket},{role} -netdev vhost-user,id=net,chardev=vf \
         -device virtio-net-pci,netdev=net,mac={mac},rx_queue_size=1024"
    )
}
