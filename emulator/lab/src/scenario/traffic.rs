//! What jobs got across, read off the frames that guests sent: payload acknowledged, segments sent again, echo times. Needs
//! no help from guests, so it is the same for all kinds of them. IPv4 only; a frame that it cannot read is nobody's.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use vf_model::{Header, Nanos, VfIndex};
use vf_nic::watch::{Direction, Port, Seen};

use super::plan::ScenarioPlan;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

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
}

/// Which connections are a job's: those that its guest opens while it is the last that has started there. A port sets jobs
/// apart that run at the same time.
struct Claim {
    job: usize,
    addresses: Vec<Ipv4Addr>,
    port: Option<u16>,
    at: Nanos,
}

/// One direction of a connection.
struct Flow {
    job: usize,
    /// Behind the last byte that was sent.
    next: u32,
    /// Up to where the receiver has acknowledged.
    acknowledged: u32,
    /// Behind the FIN, which is no payload.
    end: Option<u32>,
}

/// Source address and port, destination address and port.
type Key = (Ipv4Addr, u16, Ipv4Addr, u16);
/// Source, destination, identifier and sequence number of an echo request.
type Echo = (Ipv4Addr, Ipv4Addr, u16, u16);

/// The traffic of all jobs.
pub(super) struct Traffic {
    claims: Vec<Claim>,
    /// On which VF of which host each address is.
    owners: HashMap<Ipv4Addr, (usize, VfIndex)>,
    flows: HashMap<Key, Flow>,
    echoes: HashMap<Echo, (usize, Nanos)>,
    jobs: Vec<JobTraffic>,
}

impl Traffic {
    pub(super) fn new(plan: &ScenarioPlan) -> Traffic {
        let claim = |(job, of): (usize, &super::plan::Job)| Claim {
            job,
            addresses: plan.guests[of.guest]
                .interfaces
                .iter()
                .map(|i| i.address)
                .collect(),
            port: of.port,
            at: of.at,
        };
        let interfaces = plan.guests.iter().flat_map(|guest| &guest.interfaces);
        Traffic {
            claims: plan.jobs.iter().enumerate().map(claim).collect(),
            owners: interfaces.map(|i| (i.address, (i.nic, i.vf))).collect(),
            flows: HashMap::new(),
            echoes: HashMap::new(),
            jobs: vec![JobTraffic::default(); plan.jobs.len()],
        }
    }

    /// In the order of the plan.
    pub(super) fn jobs(&self) -> &[JobTraffic] {
        &self.jobs
    }

    pub(super) fn add(&mut self, seen: &Seen<'_>) {
        if let Port::Vf(vf) = seen.port
            && let Some(packet) = Packet::parse(seen.frame)
        {
            // Each is looked at where it begins or ends: it may be lost in between, or be passed on.
            let end = match seen.direction {
                Direction::Tx => packet.src,
                Direction::Rx => packet.dst,
            };
            if self.owners.get(&end) != Some(&(seen.host, vf)) {
                return;
            }
            match (packet.protocol, seen.direction) {
                (TCP, Direction::Tx) => self.segment(seen, &packet),
                (ICMP, _) => self.echo(seen, &packet),
                _ => None,
            };
        }
    }

    fn segment(&mut self, seen: &Seen<'_>, packet: &Packet<'_>) -> Option<()> {
        let tcp = Segment::parse(packet.payload)?;
        let key = (
            packet.src,
            tcp.source_port,
            packet.dst,
            tcp.destination_port,
        );
        let reverse = (key.2, key.3, key.0, key.1);
        if tcp.flags & SYN != 0 {
            let job = match self.flows.get(&reverse) {
                Some(flow) if tcp.flags & ACK != 0 => flow.job,
                _ => self.job(key.0, Some(key.3), seen.at)?,
            };
            let next = tcp.seq.wrapping_add(1);
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
        if tcp.len > 0 {
            if is_before(tcp.seq, flow.next) {
                let size = seen.gso.map_or(tcp.len, |gso| u32::from(gso.size).max(1));
                self.jobs[flow.job].retransmits += u64::from(tcp.len.div_ceil(size));
            }
            let end = tcp.seq.wrapping_add(tcp.len);
            if is_before(flow.next, end) {
                flow.next = end;
            }
        }
        if tcp.flags & FIN != 0 {
            flow.end = Some(tcp.seq.wrapping_add(tcp.len).wrapping_add(1));
        }
        if tcp.flags & ACK != 0
            && let Some(flow) = self.flows.get_mut(&reverse)
            && is_before(flow.acknowledged, tcp.ack)
        {
            let all = flow.end == Some(tcp.ack);
            let bytes = tcp.ack.wrapping_sub(flow.acknowledged) - u32::from(all);
            flow.acknowledged = tcp.ack;
            let job = &mut self.jobs[flow.job];
            job.bytes += u64::from(bytes);
            if bytes > 0 {
                job.last = seen.at;
            }
        }
        Some(())
    }

    fn echo(&mut self, seen: &Seen<'_>, packet: &Packet<'_>) -> Option<()> {
        let &[kind, _, _, _, id_high, id_low, seq_high, seq_low, ..] = packet.payload else {
            return None;
        };
        let id = u16::from_be_bytes([id_high, id_low]);
        let seq = u16::from_be_bytes([seq_high, seq_low]);
        match (kind, seen.direction) {
            (ECHO_REQUEST, Direction::Tx) => {
                let job = self.job(packet.src, None, seen.at)?;
                let request = (packet.src, packet.dst, id, seq);
                self.echoes.insert(request, (job, seen.at));
            }
            (ECHO_REPLY, Direction::Rx) => {
                let request = (packet.dst, packet.src, id, seq);
                let (job, sent) = self.echoes.remove(&request)?;
                let time = seen.at.saturating_sub(sent);
                self.jobs[job].echoes.push((seen.at, time));
            }
            _ => {}
        }
        Some(())
    }

    /// Whose a connection to `port`, or an echo request, is that `address` begins at `at`.
    fn job(&self, address: Ipv4Addr, port: Option<u16>, at: Nanos) -> Option<usize> {
        let fits = |c: &&Claim| {
            c.addresses.contains(&address) && c.at <= at && (c.port.is_none() || c.port == port)
        };
        let claims = self.claims.iter().filter(fits);
        claims
            .max_by_key(|c| (c.port.is_some(), c.at))
            .map(|c| c.job)
    }
}

/// Whether `a` comes before `b` among sequence numbers (RFC 9293 3.4).
fn is_before(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) > 0
}

/// An IPv4 packet.
struct Packet<'a> {
    protocol: u8,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    /// Without the padding of a short frame.
    payload: &'a [u8],
}

impl Packet<'_> {
    fn parse(frame: &[u8]) -> Option<Packet<'_>> {
        let header = Header::parse(frame).ok()?;
        if header.ethertype != ETHERTYPE_IPV4 {
            return None;
        }
        let ip = frame.get(usize::from(header.l3_offset)..)?;
        let (fixed, _) = ip.split_first_chunk::<20>()?;
        let header_len = usize::from(fixed[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        Some(Packet {
            protocol: fixed[9],
            src: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
            dst: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
            payload: ip.get(header_len..total.min(ip.len()))?,
        })
    }
}

/// A TCP header.
struct Segment {
    source_port: u16,
    destination_port: u16,
    seq: u32,
    ack: u32,
    flags: u8,
    /// Bytes of payload.
    len: u32,
}

impl Segment {
    fn parse(bytes: &[u8]) -> Option<Segment> {
        let (b, _) = bytes.split_first_chunk::<20>()?;
        let header_len = usize::from(b[12] >> 4) * 4;
        Some(Segment {
            source_port: u16::from_be_bytes([b[0], b[1]]),
            destination_port: u16::from_be_bytes([b[2], b[3]]),
            seq: u32::from_be_bytes([b[4], b[5], b[6], b[7]]),
            ack: u32::from_be_bytes([b[8], b[9], b[10], b[11]]),
            flags: b[13],
            len: u32::try_from(bytes.len().checked_sub(header_len)?).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vf_model::Gso;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

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
            jobs: vec![JobTraffic::default(); claims.len()],
        }
    }

    fn ip(protocol: u8, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(src.octets());
        frame.extend(dst.octets());
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
                frame,
                len: frame.len(),
                sum: 0,
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
            self.see(at, Direction::Tx, &ip(TCP, src, dst, &bytes), gso);
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
        let request = ip(ICMP, CLIENT, SERVER, &[ECHO_REQUEST, 0, 0, 0, 0, 9, 0, 1]);
        let reply = ip(ICMP, SERVER, CLIENT, &[ECHO_REPLY, 0, 0, 0, 0, 9, 0, 1]);
        wire.see(100, Direction::Tx, &request, None);
        wire.see(150, Direction::Rx, &request, None);
        wire.see(160, Direction::Tx, &reply, None);
        wire.see(300, Direction::Rx, &reply, None);
        wire.see(400, Direction::Rx, &reply, None);
        assert_eq!(wire.0.jobs()[0].echoes, [(Nanos(300), Nanos(200))]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(
            start in proptest::sample::select(vec![ip(TCP, CLIENT, SERVER, &[0x50; 40]), ip(ICMP, CLIENT, SERVER, &[])]),
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
