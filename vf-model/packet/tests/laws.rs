//! One kind of frame means the same to all that read it: frames are put together from their parts, and every reading must
//! find those parts again.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use proptest::prelude::*;
use vf_packet::{
    FlowKey, FrameMeta, Gso, Header, OnWire, PROTO_TCP, PROTO_UDP, PlainIpv4, Segmenter, TcpLayout,
    wire_bytes,
};

const SRC: [u8; 16] = [0xfd, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const DST: [u8; 16] = [0xfc, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// What a frame is made of.
#[derive(Clone, Debug)]
struct Parts {
    /// TPIDs, the outermost first.
    tags: Vec<u16>,
    v6: bool,
    /// Of IPv4, in words of 4 bytes.
    options: u8,
    /// Of IPv6, in their order.
    extensions: Vec<u8>,
    /// Offset in units of 8 bytes, and whether more follow.
    fragment: (u16, bool),
    protocol: u8,
    ports: (u16, u16),
    payload: usize,
}

impl Parts {
    fn is_fragment(&self) -> bool {
        let named = !self.v6 || self.extensions.contains(&FRAGMENT);
        named && self.fragment != (0, false)
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (n, tpid) in self.tags.iter().enumerate() {
            frame.extend(tpid.to_be_bytes());
            frame.extend([0x20, n as u8]);
        }
        let (offset, more) = self.fragment;
        if self.v6 {
            let protocols: Vec<u8> = self
                .extensions
                .iter()
                .copied()
                .chain([self.protocol])
                .collect();
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocols[0], 64]);
            frame.extend(SRC);
            frame.extend(DST);
            for two in protocols.windows(2) {
                frame.push(two[1]);
                match two[0] {
                    FRAGMENT => {
                        frame.push(0);
                        frame.extend((offset << 3 | u16::from(more)).to_be_bytes());
                        frame.extend([0, 0, 0, 9]);
                    }
                    // 12 bytes: a check value of 4 bytes.
                    AUTHENTICATION => frame.extend([1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
                    _ => frame.extend([0; 7]),
                }
            }
        } else {
            frame.extend([8, 0, 0x45 + self.options, 0, 0, 0, 0, 0]);
            frame.extend((offset | u16::from(more) << 13).to_be_bytes());
            frame.extend([64, self.protocol, 0, 0]);
            frame.extend(&SRC[..4]);
            frame.extend(&DST[..4]);
            frame.extend(vec![1; usize::from(self.options) * 4]);
        }
        frame.extend(self.ports.0.to_be_bytes());
        frame.extend(self.ports.1.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        frame.resize(frame.len() + self.payload, 7);
        frame
    }

    fn flow(&self) -> FlowKey {
        let address = |ip: [u8; 16]| match self.v6 {
            true => IpAddr::from(ip),
            false => IpAddr::from([ip[0], ip[1], ip[2], ip[3]]),
        };
        let has_ports = matches!(self.protocol, PROTO_TCP | PROTO_UDP) && !self.is_fragment();
        FlowKey {
            src: address(SRC),
            dst: address(DST),
            protocol: self.protocol,
            ports: has_ports.then_some(self.ports),
        }
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let tpid = prop_oneof![Just(0x8100u16), Just(0x88a8), Just(0x9100)];
    let extension = prop_oneof![
        3 => prop_oneof![Just(HOP_BY_HOP), Just(ROUTING), Just(DESTINATION)],
        1 => Just(FRAGMENT),
        1 => Just(AUTHENTICATION),
    ];
    let fragment = prop_oneof![3 => Just((0, false)), 1 => (0u16..0x2000, any::<bool>())];
    let protocol =
        prop_oneof![4 => Just(PROTO_TCP), 2 => Just(PROTO_UDP), 1 => Just(1), 1 => Just(132)];
    (
        prop::collection::vec(tpid, 0..4),
        any::<bool>(),
        prop_oneof![3 => Just(0u8), 1 => 0u8..11],
        prop::collection::vec(extension, 0..4),
        fragment,
        protocol,
        any::<(u16, u16)>(),
        0usize..4000,
    )
        .prop_map(
            |(tags, v6, options, extensions, fragment, protocol, ports, payload)| Parts {
                tags,
                v6,
                options,
                extensions,
                fragment,
                protocol,
                ports,
                payload,
            },
        )
}

proptest! {
    #[test]
    fn every_reading_finds_the_parts(parts in parts(), size in 100u16..2000) {
        let frame = parts.frame();
        let header = Header::parse(&frame).unwrap();
        let seen: Vec<u16> = header.tags.as_slice().iter().map(|tag| tag.tpid).collect();
        prop_assert_eq!(&seen, &parts.tags[..parts.tags.len().min(2)]);
        let flow = header.flow(&frame);
        let layout = TcpLayout::parse(&frame).ok();
        let own = (parts.tags.len() <= 2).then(|| parts.flow());
        prop_assert_eq!(flow, own, "a third tag is payload");

        let plain = PlainIpv4::of_frame(&frame);
        let is_plain = !parts.v6 && parts.options == 0 && parts.tags.len() < 2;
        prop_assert_eq!(plain.is_some(), is_plain);
        if let Some(plain) = plain {
            let ports = plain.has_ports().then_some((plain.src_port(), plain.dst_port()));
            let read = FlowKey {
                src: IpAddr::from(plain.src().to_be_bytes()),
                dst: IpAddr::from(plain.dst().to_be_bytes()),
                protocol: plain.protocol(),
                ports,
            };
            prop_assert_eq!(Some(read), flow);
        }

        let authenticated = parts.v6 && parts.extensions.contains(&AUTHENTICATION);
        let cuttable = parts.protocol == PROTO_TCP && !parts.is_fragment() && !authenticated;
        prop_assert_eq!(layout.is_some(), cuttable);
        let Some(layout) = layout else {
            return Ok(());
        };
        prop_assert_eq!(layout.v6, parts.v6);
        prop_assert_eq!(layout.ip, 14 + 4 * parts.tags.len(), "and is stepped over");
        prop_assert_eq!(layout.payload, frame.len() - parts.payload);
        let mut segmenter = Segmenter::new(&frame, size).unwrap();
        let (mut segments, mut bytes) = (0, 0);
        while let Some((head, payload)) = segmenter.next_segment() {
            let segment = [head, payload].concat();
            prop_assert_eq!(Header::parse(&segment), Ok(header));
            prop_assert_eq!(header.flow(&segment), flow);
            prop_assert_eq!(TcpLayout::parse(&segment), Ok(layout));
            bytes += wire_bytes(&FrameMeta { len: segment.len() as u32, gso: None });
            segments += 1;
        }
        let gso = Some(Gso { header_len: layout.payload as u16, size });
        let on_wire = OnWire::of(&FrameMeta { len: frame.len() as u32, gso });
        prop_assert_eq!(on_wire, OnWire { bytes, segments }, "charged as what is cut");
    }

    #[test]
    fn a_cut_head_is_read_the_same_or_not_at_all(parts in parts(), len in 0usize..140) {
        let frame = parts.frame();
        let head = &frame[..len.min(frame.len())];
        if let Ok(header) = Header::parse(head) {
            prop_assert_eq!(Ok(header), Header::parse(&frame));
            let (few, all) = (header.flow(head), header.flow(&frame));
            if let (Some(few), Some(all)) = (few, all) {
                prop_assert_eq!((few.src, few.dst), (all.src, all.dst));
                prop_assert!(few.ports.is_none() || few == all);
            }
        }
        if let Ok(layout) = TcpLayout::parse(head) {
            prop_assert_eq!(Ok(layout), TcpLayout::parse(&frame));
        }
    }
}
