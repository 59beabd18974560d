//! What a change of the NIC's filter table costs while it holds 8192 filters, alone and in batches of 100, published to a
//! worker that judges frames meanwhile; what a verdict costs that worker; and what changes cost that come over the control
//! socket. `cargo bench -p vfnic --bench filters`.

// Helpers of benchmarks, as those of tests, may unwrap.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vf_model::{
    Command, FilterAction, FilterMatch, FilterPriority, FilterSpec, FlowEnd, FrameMeta, MacAddr,
    Nanos, Nic, NicConfig, Policy, Profile, Source, Transport, VfIndex,
};
use vfnic::config::{Config, Overrides};
use vfnic::control::{Connection, NicCommand, Request, Response};
use vfnic::plane::PolicyCell;
use vfnic::sandbox::Sandbox;
use vfnic::server::Server;

const MAC_BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);
const FILTERS: u32 = 8192;
const BATCH: u32 = 100;

/// The `n`th filter on a flow.
fn matches(n: u32) -> FilterMatch {
    let end = |net: u32| FlowEnd {
        ip: IpAddr::V4(Ipv4Addr::from_bits(net + n)),
        port: 80,
    };
    FilterMatch::Full {
        transport: Transport::Tcp,
        local: end(0x0a07_0000),
        remote: end(0x0a08_0000),
    }
}

fn add(n: u32) -> Command {
    Command::FilterInsert(FilterSpec {
        matches: matches(n),
        action: FilterAction::Vf(VfIndex(1)),
        priority: FilterPriority::Auto,
    })
}

fn delete(n: u32) -> Command {
    Command::FilterRemove {
        matches: matches(n),
        priority: FilterPriority::Auto,
    }
}

/// A table as full as it can be while each filter that comes in the place of another is added before that goes.
fn full() -> PolicyCell {
    let policy = Policy::new(NicConfig {
        vfs: 2,
        mac_base: MAC_BASE,
        profile: Profile::default(),
    });
    let filters: Vec<Command> = (0..FILTERS - BATCH).map(add).collect();
    PolicyCell::new(Arc::new(policy.with_all(&filters).unwrap()))
}

/// The first bytes of a TCP frame from VF 0 to VF 1.
fn head() -> [u8; 128] {
    let mut head = [0; 128];
    head[..6].copy_from_slice(&MAC_BASE.offset(1).0);
    head[6..12].copy_from_slice(&MAC_BASE.0);
    head[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    head[23] = 6;
    head[26..38].copy_from_slice(&[10, 0, 0, 2, 10, 7, 0, 1, 0, 80, 0, 80]);
    head
}

/// Replaces the oldest filters by new ones, `batch` at a time, each batch a policy of its own.
struct Churn {
    policies: PolicyCell,
    next: u32,
}

impl Churn {
    fn replace(&mut self, batch: u32) {
        let oldest = self.next - (FILTERS - BATCH);
        let added = (self.next..self.next + batch).map(add);
        let deleted = (oldest..oldest + batch).map(delete);
        let commands: Vec<Command> = added.chain(deleted).collect();
        let policy = self.policies.load().with_all(&commands).unwrap();
        self.policies.publish(policy);
        self.next += batch;
    }

    /// Each of them a policy of its own.
    fn replace_one(&mut self) {
        let commands = [add(self.next), delete(self.next - (FILTERS - BATCH))];
        for command in commands {
            let policy = self.policies.load().with(&command).unwrap();
            self.policies.publish(policy);
        }
        self.next += 1;
    }
}

/// Judges frames until told to stop, a burst a round; the nanoseconds that one took in the mean.
fn judge(policies: &PolicyCell, stop: &AtomicBool) -> f64 {
    let mut nic = Nic::new(policies.load());
    let mut subscriber = policies.subscribe();
    let meta = FrameMeta { len: 60, gso: None };
    let (head, start, mut frames) = (head(), Instant::now(), 0u64);
    while !stop.load(Ordering::Relaxed) {
        subscriber.update(&mut nic);
        for _ in 0..32 {
            black_box(nic.ingress(Nanos(0), Source::Vf(VfIndex(0)), black_box(&head), &meta));
        }
        frames += 32;
    }
    start.elapsed().as_nanos() as f64 / frames.max(1) as f64
}

fn changes(c: &mut Criterion) {
    for watched in [false, true] {
        let name = match watched {
            false => "8192 filters",
            true => "8192 filters, a worker judges",
        };
        let mut group = c.benchmark_group(name);
        let mut churn = Churn {
            policies: full(),
            next: FILTERS - BATCH,
        };
        let stop = Arc::new(AtomicBool::new(false));
        let worker = watched.then(|| {
            let (policies, stop) = (churn.policies.clone(), Arc::clone(&stop));
            std::thread::spawn(move || judge(&policies, &stop))
        });
        group.throughput(Throughput::Elements(2));
        group.bench_function("changes one by one", |b| b.iter(|| churn.replace_one()));
        group.throughput(Throughput::Elements(BATCH.into()));
        group.bench_function("changes in batches of 100", |b| {
            b.iter(|| churn.replace(BATCH / 2));
        });
        group.finish();
        stop.store(true, Ordering::Relaxed);
        if let Some(worker) = worker {
            println!("a verdict meanwhile: {:.1} ns", worker.join().unwrap());
        }
    }
}

/// Changes as a controller makes them: batches over the control socket of a running NIC, each answered before the next. The
/// table is not quite full, as a batch adds before it deletes.
fn socket(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::load(
        None,
        &Overrides {
            socket_dir: Some(dir.path().to_owned()),
            ..Overrides::default()
        },
    );
    let (config, stop) = (config.unwrap(), Arc::new(AtomicBool::new(false)));
    let (ctl, stopped) = (config.ctl_socket(), Arc::clone(&stop));
    let (ready, started) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let mut server = Server::start(config, Sandbox::Off).unwrap();
        ready.send(()).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            server.step(Some(Duration::from_millis(10))).unwrap();
        }
    });
    started.recv().unwrap();
    let mut connection = Connection::open(&ctl).unwrap();
    let mut carry_out = |commands: &mut dyn Iterator<Item = Command>| {
        let words = commands.map(|command| command.to_string());
        let commands = words.map(|words| NicCommand {
            nic: None,
            words: words.split(' ').map(str::to_owned).collect(),
        });
        let batch = Request::Batch {
            commands: commands.collect(),
        };
        match connection.ask(&batch).unwrap() {
            Response::Done(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let held = FILTERS - 1000;
    carry_out(&mut (0..held).map(add));
    let mut next = held;
    let mut group = c.benchmark_group("8192 filters, over the control socket");
    for batch in [1, BATCH, 1000] {
        group.throughput(Throughput::Elements((2 * batch).into()));
        group.bench_function(format!("changes in batches of {}", 2 * batch), |b| {
            b.iter(|| {
                let oldest = next - held;
                let added = (next..next + batch).map(add);
                carry_out(&mut added.chain((oldest..oldest + batch).map(delete)));
                next += batch;
            });
        });
    }
    group.finish();
    stop.store(true, Ordering::Relaxed);
    server.join().unwrap();
}

/// What a round of a plane costs more for looking whether there is a new policy.
fn looks(c: &mut Criterion) {
    let policies = full();
    let mut nic = Nic::new(policies.load());
    let mut subscriber = policies.subscribe();
    c.bench_function("a look for a new policy", |b| {
        b.iter(|| subscriber.update(black_box(&mut nic)));
    });
    c.bench_function("a verdict, a new policy every 1000", |b| {
        let meta = FrameMeta { len: 60, gso: None };
        let head = head();
        let mut churn = Churn {
            policies: policies.clone(),
            next: FILTERS - BATCH,
        };
        b.iter_custom(|frames| {
            let mut spent = Duration::ZERO;
            for _ in 0..frames.div_ceil(1000) {
                churn.replace_one();
                let start = Instant::now();
                subscriber.update(&mut nic);
                for _ in 0..1000 {
                    let source = Source::Vf(VfIndex(0));
                    black_box(nic.ingress(Nanos(0), source, black_box(&head), &meta));
                }
                spent += start.elapsed();
            }
            spent.mul_f64(frames as f64 / (frames.div_ceil(1000) * 1000) as f64)
        });
    });
}

criterion_group!(benches, changes, socket, looks);
criterion_main!(benches);
