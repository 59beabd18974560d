//! What the model adds to each frame, in nanoseconds: the header, the verdict, the filters. `cargo bench -p vf-model`.

// Helpers of benchmarks, as those of tests, may unwrap.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use vf_model::{
    Command, FrameMeta, Header, MacAddr, Nanos, Nic, NicConfig, Policy, Profile, Source, VfIndex,
};

const BASE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);
const FLOWS: u32 = 20_000;

fn policy(vfs: u16) -> Policy {
    Policy::new(NicConfig {
        vfs,
        mac_base: BASE,
        profile: Profile::Generic,
    })
}

fn nic(vfs: u16) -> Nic {
    Nic::new(Arc::new(policy(vfs)))
}

fn command(words: &str) -> Command {
    let words: Vec<&str> = words.split(' ').collect();
    Command::parse(&words).unwrap()
}

/// All 8192 filters, of five kinds, that a NIC can have. Flows to ports below 4096 are meant by one on a port, those to
/// ports from 8192 by one on the flow.
fn filters() -> Vec<Command> {
    let mut commands = Vec::new();
    for i in 0..1638u32 {
        let (port, mac) = (i + 1, BASE.offset(0x1_0000 + i));
        for words in [
            format!("flow-type tcp4 dst-ip 10.0.0.1 dst-port {port} vf 1"),
            format!(
                "flow-type tcp4 src-ip 10.0.0.2 src-port {port} dst-ip 10.0.0.1 dst-port {} vf 1",
                8191 + port
            ),
            format!("flow-type ether dst {mac} vf 1"),
            format!("flow-type ether dst {mac} vlan {port} vf 1"),
            format!("flow-type ether proto {} vf 1", 0x9200 + port),
        ] {
            commands.push(command(&format!("filter add {words}")));
        }
    }
    for station in ["unicast", "multicast"] {
        let words = format!("filter add flow-type ether dst unknown-{station} vf 1");
        commands.push(command(&words));
    }
    commands
}

/// The first bytes of a frame from VF 0 to VF 1, of a TCP flow.
fn head(src_port: u16, dst_port: u16) -> [u8; 128] {
    let mut head = [0; 128];
    head[..6].copy_from_slice(&BASE.offset(1).0);
    head[6..12].copy_from_slice(&BASE.0);
    head[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
    head[23] = 6;
    head[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
    head[34..36].copy_from_slice(&src_port.to_be_bytes());
    head[36..38].copy_from_slice(&dst_port.to_be_bytes());
    head
}

/// One frame of each of many flows whose ports are given by `ports`.
fn heads(flows: u32, ports: impl Fn(u16) -> (u16, u16)) -> Vec<[u8; 128]> {
    let ports = (0..flows).map(|i| ports(i as u16));
    ports.map(|(src, dst)| head(src, dst)).collect()
}

fn judge(c: &mut Criterion, name: &str, mut nic: Nic, heads: &[[u8; 128]]) {
    let meta = FrameMeta { len: 60, gso: None };
    let mut heads = heads.iter().cycle();
    c.bench_function(name, |b| {
        b.iter(|| {
            let head = black_box(heads.next().unwrap());
            nic.ingress(Nanos(0), Source::Vf(VfIndex(0)), head, &meta)
        });
    });
}

fn full(vfs: u16) -> Nic {
    Nic::new(Arc::new(policy(vfs).with_all(&filters()).unwrap()))
}

/// All but so many of the filters, and as many on networks of which no frame comes.
fn with_fields(filters: usize) -> Nic {
    let mut commands = filters_but(filters);
    commands.extend((0..filters).map(|n| on_network(n + 1)));
    Nic::new(Arc::new(policy(2).with_all(&commands).unwrap()))
}

fn filters_but(fewer: usize) -> Vec<Command> {
    let mut commands = filters();
    commands.truncate(commands.len() - fewer);
    commands
}

/// So many filters on networks, of which frames come from the first.
fn met_by_fields(filters: usize) -> Nic {
    let commands: Vec<Command> = (0..filters).map(on_network).collect();
    Nic::new(Arc::new(policy(2).with_all(&commands).unwrap()))
}

fn on_network(n: usize) -> Command {
    let (a, b) = (10 + n / 256, n % 256);
    command(&format!(
        "filter add flow-type ip4 src-ip {a}.{b}.0.0/16 vf 1"
    ))
}

fn verdicts(c: &mut Criterion) {
    c.bench_function("header", |b| {
        let head = head(1, 1);
        b.iter(|| Header::parse(black_box(&head)));
    });
    let other = |i: u16| (i, 40_000);
    let port = |i: u16| (i, i % 1638 + 1);
    let flow = |i: u16| (i % 1638 + 1, i % 1638 + 8192);
    judge(c, "no filters", nic(2), &heads(1, other));
    judge(c, "no filters, 20000 flows", nic(2), &heads(FLOWS, other));
    judge(c, "8192 filters", full(2), &heads(1, other));
    judge(
        c,
        "8192 filters, 20000 flows",
        full(2),
        &heads(FLOWS, other),
    );
    judge(
        c,
        "8192 filters, 20000 flows, 64 VFs",
        full(64),
        &heads(FLOWS, other),
    );
    judge(
        c,
        "8192 filters, 20000 flows to filtered ports",
        full(2),
        &heads(FLOWS, port),
    );
    judge(
        c,
        "8192 filters, 1638 filtered flows",
        full(2),
        &heads(1638, flow),
    );
    judge(c, "8192 filters, 1 filtered flow", full(2), &heads(1, flow));
    judge(
        c,
        "8192 filters, 1 on other fields that is not met, 20000 flows",
        with_fields(1),
        &heads(FLOWS, other),
    );
    // The price of a look-up by fields, for few filters and for as many as there can be.
    for filters in [1, 4096] {
        judge(
            c,
            &format!("{filters} filters on other fields, one met, 20000 flows"),
            met_by_fields(filters),
            &heads(FLOWS, other),
        );
    }
}

/// Parse, Toeplitz hash and table.
fn queues(c: &mut Criterion) {
    let policy = policy(1);
    let rss = policy.rss(VfIndex(0));
    let tcp4 = head(1, 2);
    let mut tcp6 = head(1, 2);
    tcp6[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
    tcp6[20] = 6;
    for (name, head) in [
        ("queue of a flow, IPv4", tcp4),
        ("queue of a flow, IPv6", tcp6),
    ] {
        c.bench_function(name, |b| b.iter(|| rss.queue(black_box(&head), 4)));
    }
}

criterion_group!(benches, verdicts, queues);
criterion_main!(benches);
