//! Super-frames, and what arrives of them: on every path the same, however short they are and whatever tags they have.

use vf_packet::TcpLayout;
use vf_packet::testing::{super_frame, verify};

use super::*;

/// A super-frame to all stations from VF 0.
pub(super) struct Sent {
    pub(super) data: Vec<u8>,
    v6: bool,
    size: u16,
    layout: TcpLayout,
}

impl Sent {
    pub(super) fn new(v6: bool, tags: usize, payload: usize, size: u16) -> Sent {
        let mut data = super_frame(v6, tags, payload);
        // Without options: as short as any of TCP.
        let tcp = TcpLayout::parse(&data).unwrap().tcp;
        data.drain(tcp + 20..tcp + 32);
        data[tcp + 12] = 0x50;
        let at = if v6 { tcp - 36 } else { tcp - 18 };
        let length = u16::from_be_bytes([data[at], data[at + 1]]) - 12;
        data[at..at + 2].copy_from_slice(&length.to_be_bytes());
        data[..6].copy_from_slice(&BROADCAST.0);
        data[6..12].copy_from_slice(&mac(0).0);
        let layout = TcpLayout::parse(&data).unwrap();
        Sent {
            data,
            v6,
            size,
            layout,
        }
    }

    pub(super) fn header(&self) -> NetHeader {
        NetHeader {
            flags: 1,
            gso_type: if self.v6 { 4 } else { 1 },
            hdr_len: self.layout.payload as u16,
            gso_size: self.size,
            csum_start: self.layout.tcp as u16,
            csum_offset: 16,
            num_buffers: 0,
        }
    }

    /// That these are its segments, behind `tag`.
    fn is_in(&self, tag: &[u8], got: &[Vec<u8>], what: &str) {
        let link = [tag, &self.data[12..self.layout.ip]].concat();
        let mut payload = Vec::new();
        for segment in got {
            assert_eq!(&segment[12..12 + link.len()], link, "{what}");
            let layout = verify(segment);
            assert!(segment.len() - layout.payload <= self.size.into(), "{what}");
            payload.extend_from_slice(&segment[layout.payload..]);
        }
        assert!(!got.is_empty(), "{what}: nothing");
        assert_eq!(payload, self.data[self.layout.payload..], "{what}");
    }
}

/// Bytes that nobody has sent would get into a TCP stream, and a stream would stand still whose super-frames arrive on one path only.
#[test]
fn the_bytes_of_a_super_frame_arrive_and_no_others_whatever_its_path_length_and_tags() {
    let paths = [Path::Direct, Path::Direct, Path::Mediated];
    const HOST_TSO6: u64 = 1 << 12;
    let tso = NetConfig {
        features: NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO | HOST_TSO6,
        ..queue_of(256)
    };
    for (port_vlan, from, own, v6) in [false, true]
        .into_iter()
        .flat_map(|vlan| [Path::Direct, Path::Mediated].map(|from| (vlan, from)))
        .flat_map(|(vlan, from)| [0, 1, 2].map(|own| (vlan, from, own)))
        .flat_map(|(vlan, from, own)| [false, true].map(|v6| (vlan, from, own, v6)))
    {
        let mut paths = paths.to_vec();
        paths.extend([Path::Direct, Path::Mediated]);
        paths[0] = from;
        let mut bench = Bench::bare(&paths, Nanos(0), None);
        for vf in 0..5 {
            let config = if vf == 0 { tso.clone() } else { queue_of(256) };
            bench.start(vf, &config);
        }
        let tag: &[u8] = match port_vlan {
            true => {
                (0..3).for_each(|vf| bench.command(&format!("vf {vf} set vlan 7")));
                &[0x81, 0, 0, 7]
            }
            false => &[],
        };
        for (payload, size) in [
            (0, 1000),
            (1, 1000),
            (5, 1000),
            (6, 1000),
            (20, 8),
            (3500, 1000),
        ] {
            let sent = Sent::new(v6, own, payload, size);
            let what = format!(
                "{payload} B in {size} from {from} behind {own} tags, port VLAN {port_vlan}, IPv6 {v6}"
            );
            let header = sent.header();
            assert!(bench.vms[0].net.send(0, &header, &sent.data).unwrap());
            bench.vms[0].net.kick();
            let mut on_wire = Vec::new();
            for _ in 0..100 {
                bench.now += Nanos(1000);
                bench.worker.poll(bench.now);
                bench.hypervisor.poll(bench.now);
                on_wire.extend(receive(&mut bench.far, bench.now));
            }
            assert_eq!(on_wire.len(), 1, "{what}");
            let arrive = |bench: &mut Bench, whence: &str| {
                for vf in 1..5 {
                    bench.vms[vf].receive();
                    let got = std::mem::take(&mut bench.vms[vf].got);
                    let tag = if vf < 3 { &[] } else { tag };
                    sent.is_in(tag, &got, &format!("{what}, {whence} VF {vf}"));
                }
            };
            arrive(&mut bench, "here");
            on_wire
                .into_iter()
                .for_each(|frame| bench.send_from_far(frame));
            bench.run_until(bench.now + MS);
            arrive(&mut bench, "over the wire");
            bench.vms[0].receive();
        }
        assert_eq!(bench.drops(), []);
    }
}
