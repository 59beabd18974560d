//! What jobs got across, read off the frames that guests sent: payload acknowledged, segments sent again, echo times. Needs
//! no help from guests, so it is the same for all kinds of them. A frame that it cannot read is nobody's.

use std::collections::HashMap;
use std::net::IpAddr;

use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, TcpSeqNumber};
use vf_model::{Header, Nanos, VfIndex};
use vf_nic::watch::{Direction, Port, Seen};
use vf_packet::{FlowKey, IpHeader, PROTO_TCP};

use super::plan::{GuestKind, ScenarioPlan, Work};
use crate::segment::Segment;

const PROTO_ICMP: u8 = 1;

/// What one job got across so far.
#[derive(Clone, Debug, Default)]
pub(super) struct JobTraffic {
    /// TCP payload that its receivers have acknowledged, both directions of its connections together.
    pub(super) bytes: u64,
    /// Segments with payload, or connection requests, that were sent again.
    pub(super) retransmits: u64,
    /// When the last of `bytes` was acknowledged.
    pub(super) last: Nanos,
    /// When each echo reply came, and how long after its request.
    pub(super) echoes: Vec<(Nanos, Nanos)>,
    /// Echo requests that its guest has sent past the NIC.
    pub(super) echo_requests: u64,
}

/// Which connections are a job's: those that its guest opens while it is the last that has started there. A port sets jobs
/// apart that run at the same time.
struct Claim {
    job: usize,
    addresses: Vec<IpAddr>,
    port: Option<u16>,
    at: Nanos,
}

/// One direction of a connection.
struct Flow {
    job: usize,
    /// Behind the last byte that was sent.
    next: TcpSeqNumber,
    /// Up to where the receiver has acknowledged.
    acknowledged: TcpSeqNumber,
    /// Behind the FIN, which is no payload.
    end: Option<TcpSeqNumber>,
}

/// Source address and port, destination address and port.
type Key = (IpAddr, u16, IpAddr, u16);
/// Source, destination, identifier and sequence number of an echo request.
type Echo = (IpAddr, IpAddr, u16, u16);

/// The traffic of all jobs.
pub(super) struct Traffic {
    claims: Vec<Claim>,
    /// On which VF of which host each address is.
    owners: HashMap<IpAddr, (usize, VfIndex)>,
    flows: HashMap<Key, Flow>,
    echoes: HashMap<Echo, (usize, Nanos)>,
    /// When guests in this process are to ask for each echo: the first, and from one to the next. What keeps a request from the NIC then, a rate or an
    /// impairment, is a part of its time. When the kernel of a Linux guest asks is not known.
    asks: Vec<Option<(Nanos, Nanos)>>,
    jobs: Vec<JobTraffic>,
}

impl Traffic {
    pub(super) fn new(plan: &ScenarioPlan) -> Traffic {
        let claim = |(job, of): (usize, &super::plan::Job)| Claim {
            job,
            addresses: plan.guests[of.guest]
                .interfaces
                .iter()
                .map(|i| i.address.into())
                .collect(),
            port: of.port,
            at: of.at,
        };
        let asks = |job: &super::plan::Job| match (plan.kind, &job.work) {
            (GuestKind::Embedded, Work::Ping { interval, .. }) => Some((job.at, *interval)),
            _ => None,
        };
        let interfaces = plan.guests.iter().flat_map(|guest| &guest.interfaces);
        Traffic {
            claims: plan.jobs.iter().enumerate().map(claim).collect(),
            owners: interfaces
                .map(|i| (i.address.into(), (i.nic, i.vf)))
                .collect(),
            flows: HashMap::new(),
            echoes: HashMap::new(),
            asks: plan.jobs.iter().map(asks).collect(),
            jobs: vec![JobTraffic::default(); plan.jobs.len()],
        }
    }

    /// In the order of the plan.
    pub(super) fn jobs(&self) -> &[JobTraffic] {
        &self.jobs
    }

    pub(super) fn add(&mut self, seen: &Seen<'_>) {
        if let Port::Vf(vf) = seen.port
            && let Ok(header) = Header::parse(seen.frame)
            && let Some(flow) = header.flow(seen.frame)
        {
            // Each is looked at where it begins or ends: it may be lost in between, or be passed on.
            let end = match seen.direction {
                Direction::Tx => flow.src,
                Direction::Rx => flow.dst,
            };
            if self.owners.get(&end) != Some(&(seen.host, vf)) {
                return;
            }
            match (flow.protocol, seen.direction) {
                (PROTO_TCP, Direction::Tx) => self.segment(seen),
                (PROTO_ICMP, _) => self.echo(seen, &header, &flow),
                _ => None,
            };
        }
    }

    fn segment(&mut self, seen: &Seen<'_>) -> Option<()> {
        let Segment {
            flow,
            tcp,
            len,
            count,
        } = Segment::of(seen)?;
        let (from, to) = flow.ports?;
        let key = (flow.src, from, flow.dst, to);
        let reverse = (flow.dst, to, flow.src, from);
        let (seq, ack) = (tcp.seq_number(), tcp.ack_number());
        if tcp.syn() {
            let job = match self.flows.get(&reverse) {
                Some(flow) if tcp.ack() => flow.job,
                _ => self.job(flow.src, Some(to), seen.at)?,
            };
            let next = seq + 1;
            let flow = Flow {
                job,
                next,
                acknowledged: next,
                end: None,
            };
            let known = self.flows.insert(key, flow);
            let again = known.is_some_and(|flow| flow.next == next);
            self.jobs[job].retransmits += u64::from(again);
        }
        let flow = self.flows.get_mut(&key)?;
        if len > 0 {
            if seq < flow.next {
                self.jobs[flow.job].retransmits += count;
            }
            flow.next = flow.next.max(seq + len);
        }
        if tcp.fin() {
            flow.end = Some(seq + len + 1);
        }
        if tcp.ack()
            && let Some(flow) = self.flows.get_mut(&reverse)
        {
            // Of numbers that are half of their space apart, none is ahead of the other.
            let ahead = ack.0.wrapping_sub(flow.acknowledged.0);
            if ahead > 0 {
                let bytes = ahead - i32::from(flow.end == Some(ack));
                flow.acknowledged = ack;
                let job = &mut self.jobs[flow.job];
                job.bytes += u64::from(bytes.unsigned_abs());
                if bytes > 0 {
                    job.last = seen.at;
                }
            }
        }
        Some(())
    }

    fn echo(&mut self, seen: &Seen<'_>, header: &Header, flow: &FlowKey) -> Option<()> {
        let packet = seen.frame.get(usize::from(header.l3_offset)..)?;
        let ip = IpHeader::parse(header.ethertype, packet)?;
        let icmp = Icmpv4Packet::new_checked(packet.get(ip.transport..)?).ok()?;
        let (src, dst) = (flow.src, flow.dst);
        let (id, seq) = (icmp.echo_ident(), icmp.echo_seq_no());
        match (icmp.msg_type(), seen.direction) {
            (Icmpv4Message::EchoRequest, Direction::Tx) => {
                let job = self.job(src, None, seen.at)?;
                let asked = self.asks.get(job).copied().flatten();
                let asked = asked.map(|(first, interval)| {
                    let after = interval.0.saturating_mul(u64::from(seq));
                    Nanos(first.0.saturating_add(after))
                });
                let asked = asked.map_or(seen.at, |asked| asked.min(seen.at));
                self.echoes.insert((src, dst, id, seq), (job, asked));
                self.jobs[job].echo_requests += 1;
            }
            (Icmpv4Message::EchoReply, Direction::Rx) => {
                let (job, sent) = self.echoes.remove(&(dst, src, id, seq))?;
                let time = seen.at.saturating_sub(sent);
                self.jobs[job].echoes.push((seen.at, time));
            }
            _ => {}
        }
        Some(())
    }

    /// Whose a connection to `port`, or an echo request, is that `address` begins at `at`.
    fn job(&self, address: IpAddr, port: Option<u16>, at: Nanos) -> Option<usize> {
        let fits = |c: &&Claim| {
            c.addresses.contains(&address) && c.at <= at && (c.port.is_none() || c.port == port)
        };
        let claims = self.claims.iter().filter(fits);
        claims
            .max_by_key(|c| (c.port.is_some(), c.at))
            .map(|c| c.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use vf_model::{Gso, HEAD_LEN};

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const FIN: u8 = 0x01;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    const ECHO_REPLY: u8 = 0;
    const ECHO_REQUEST: u8 = 8;

    fn traffic(claims: &[(Option<u16>, u64)]) -> Traffic {
        let claim = |(job, (port, at)): (usize, &(Option<u16>, u64))| Claim {
            job,
            addresses: vec![CLIENT],
            port: *port,
            at: Nanos(*at),
        };
        Traffic {
            claims: claims.iter().enumerate().map(claim).collect(),
            owners: [CLIENT, SERVER].map(|ip| (ip, (0, VfIndex(0)))).into(),
            flows: HashMap::new(),
            echoes: HashMap::new(),
            asks: Vec::new(),
            jobs: vec![JobTraffic::default(); claims.len()],
        }
    }

    fn ip(protocol: u8, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        for address in [src, dst] {
            let IpAddr::V4(address) = address else {
                unreachable!()
            };
            frame.extend(address.octets());
        }
        frame.extend(payload);
        frame.resize(frame.len().max(60), 0);
        frame
    }

    /// Traffic between two ports.
    struct Wire(Traffic, (u16, u16));

    impl Wire {
        fn see(&mut self, at: u64, direction: Direction, frame: &[u8], gso: Option<Gso>) {
            self.0.add(&Seen {
                at: Nanos(at),
                host: 0,
                port: Port::Vf(VfIndex(0)),
                direction,
                frame: &frame[..frame.len().min(HEAD_LEN)],
                len: frame.len(),
                xxh3: 0,
                gso,
            });
        }

        /// A segment from the client, or from the server.
        fn tcp(&mut self, at: u64, client: bool, flags: u8, seq: u32, ack: u32, len: usize) {
            let (src, dst) = if client {
                (CLIENT, SERVER)
            } else {
                (SERVER, CLIENT)
            };
            let (here, there) = self.1;
            let ports = if client { (here, there) } else { (there, here) };
            let mut bytes = Vec::new();
            bytes.extend(ports.0.to_be_bytes());
            bytes.extend(ports.1.to_be_bytes());
            bytes.extend(seq.to_be_bytes());
            bytes.extend(ack.to_be_bytes());
            bytes.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
            bytes.resize(20 + len, 0);
            let gso = (len > 1460).then_some(Gso {
                header_len: 54,
                size: 1460,
            });
            self.see(at, Direction::Tx, &ip(PROTO_TCP, src, dst, &bytes), gso);
        }
    }

    const PORTS: (u16, u16) = (40000, 5201);

    fn connected(isn: u32) -> Wire {
        let mut wire = Wire(traffic(&[(None, 0)]), PORTS);
        wire.tcp(1, true, SYN, isn, 0, 0);
        wire.tcp(2, false, SYN | ACK, 7, isn.wrapping_add(1), 0);
        wire
    }

    #[test]
    fn payload_counts_when_it_is_acknowledged() {
        for isn in [0, u32::MAX - 1000] {
            let mut wire = connected(isn);
            let at = |n: u32| isn.wrapping_add(1).wrapping_add(n);
            wire.tcp(3, true, ACK, at(0), 8, 1460);
            wire.tcp(4, true, ACK, at(1460), 8, 1460);
            assert_eq!(wire.0.jobs()[0].bytes, 0);
            wire.tcp(5, false, ACK, 8, at(2920), 0);
            wire.tcp(6, false, ACK, 8, at(1460), 0);
            assert_eq!(wire.0.jobs()[0].bytes, 2920);
            wire.tcp(7, true, ACK | FIN, at(2920), 8, 10);
            wire.tcp(8, false, ACK, 8, at(2931), 100);
            wire.tcp(9, true, ACK, at(2931), 108, 0);
            let job = &wire.0.jobs()[0];
            assert_eq!(
                (job.bytes, job.retransmits),
                (2930 + 100, 0),
                "a FIN is no payload"
            );
            assert_eq!(job.last, Nanos(9));
        }
    }

    #[test]
    fn what_acknowledges_half_of_all_numbers_acknowledges_nothing() {
        let mut wire = connected(0);
        wire.tcp(3, false, ACK, 8, 1 + (1 << 31), 0);
        assert_eq!(wire.0.jobs()[0].bytes, 0);
    }

    #[test]
    fn what_was_sent_before_is_sent_again() {
        let mut wire = connected(0);
        wire.tcp(3, true, ACK, 1, 8, 14600);
        wire.tcp(4, true, ACK, 1, 8, 1460);
        assert_eq!(wire.0.jobs()[0].retransmits, 1);
        wire.tcp(5, true, ACK, 1461, 8, 2921);
        assert_eq!(
            wire.0.jobs()[0].retransmits,
            4,
            "a super-frame is as many as it is cut into"
        );
        wire.tcp(6, true, ACK, 14601, 8, 10);
        assert_eq!(wire.0.jobs()[0].retransmits, 4);
        wire.0.owners.clear();
        wire.tcp(6, true, ACK, 1, 8, 1460);
        assert_eq!(
            wire.0.jobs()[0].retransmits,
            4,
            "somebody else passes it on"
        );
        wire.0.owners.insert(CLIENT, (0, VfIndex(0)));
        wire.1 = (1, 5201);
        wire.tcp(7, true, SYN, 5, 0, 0);
        wire.tcp(8, true, SYN, 5, 0, 0);
        assert_eq!(wire.0.jobs()[0].retransmits, 5);
    }

    #[test]
    fn whose_a_connection_is() {
        let mut wire = Wire(traffic(&[(None, 0), (None, 100), (Some(80), 50)]), PORTS);
        for (at, port, job) in [
            (10, 80, Some(0)),
            (60, 80, Some(2)),
            (60, 81, Some(0)),
            (100, 81, Some(1)),
        ] {
            assert_eq!(
                wire.0.job(CLIENT, Some(port), Nanos(at)),
                job,
                "{at} {port}"
            );
        }
        assert_eq!(wire.0.job(SERVER, Some(80), Nanos(500)), None);
        wire.tcp(200, false, SYN, 1, 0, 0);
        wire.tcp(201, true, SYN | ACK, 1, 2, 0);
        wire.tcp(202, false, ACK, 2, 2, 10);
        wire.tcp(203, true, ACK, 2, 12, 0);
        // The answer to a stranger is taken for a connection of its own, which carries nothing.
        assert!(wire.0.jobs().iter().all(|job| job.bytes == 0));
    }

    #[test]
    fn echoes_are_timed() {
        let mut wire = Wire(traffic(&[(None, 0)]), PORTS);
        let request = ip(
            PROTO_ICMP,
            CLIENT,
            SERVER,
            &[ECHO_REQUEST, 0, 0, 0, 0, 9, 0, 1],
        );
        let reply = ip(
            PROTO_ICMP,
            SERVER,
            CLIENT,
            &[ECHO_REPLY, 0, 0, 0, 0, 9, 0, 1],
        );
        wire.see(100, Direction::Tx, &request, None);
        wire.see(150, Direction::Rx, &request, None);
        wire.see(160, Direction::Tx, &reply, None);
        wire.see(300, Direction::Rx, &reply, None);
        wire.see(400, Direction::Rx, &reply, None);
        assert_eq!(wire.0.jobs()[0].echoes, [(Nanos(300), Nanos(200))]);
        assert_eq!(wire.0.jobs()[0].echo_requests, 1, "it was sent once");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(
            start in proptest::sample::select(vec![ip(PROTO_TCP, CLIENT, SERVER, &[0x50; 40]), ip(PROTO_ICMP, CLIENT, SERVER, &[])]),
            at in 0usize..60,
            byte: u8,
            len in 0usize..80,
        ) {
            let mut frame = start;
            frame[at] = byte;
            frame.truncate(len);
            let mut wire = connected(0);
            wire.see(5, Direction::Tx, &frame, None);
        }
    }
}
