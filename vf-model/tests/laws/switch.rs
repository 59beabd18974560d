//! What the switch of the NIC does with tags, with its modes, and with copies.

use vf_model::{
    DropReason, Header, MAX_FRAME, MacAddr, Path, Profile, Source, SwitchMode, VfIndex,
};

use crate::any::{frame, parse};
use crate::host::{Act, Host, Outcome};

/// A guest in a port VLAN has a world of VLANs of its own inside it: 802.1ad on every NIC, and double 802.1Q where the family
/// does it. A tag that carries a priority only is in the port VLAN like no tag at all.
#[test]
fn the_guests_own_tags_pass_inside_its_port_vlan() {
    let tags_of = |bytes: &[u8]| {
        let header = Header::parse(bytes).unwrap();
        header
            .tags
            .as_slice()
            .iter()
            .map(|tag| (tag.tpid, tag.vid()))
            .collect::<Vec<_>>()
    };
    for (profile, proto) in
        Profile::all().flat_map(|p| ["802.1Q", "802.1ad"].map(|proto| (p, proto)))
    {
        let ports = (0..2).map(|vf| parse(&format!("vf {vf} set vlan 100 proto {proto}")).into());
        let acts: Vec<Act> = ports.collect();
        let Ok(()) = Host::like(profile, &[], &[]).act(&acts[0]) else {
            continue; // its drivers have no such port VLAN
        };
        let tpid = if proto == "802.1Q" { 0x8100 } else { 0x88a8 };
        let one_tag = matches!(profile, Profile::Igb | Profile::Ixgbe);
        let stacks = !one_tag || proto == "802.1ad";
        for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
            let mut host = Host::like(profile, &acts, &paths);
            for own in [
                None,
                Some((0u16, 5u16)),
                Some((30, 0)),
                Some((100, 0)),
                Some((200, 3)),
            ] {
                let mut sent = frame(0, 0);
                sent[..6].copy_from_slice(&MacAddr::BROADCAST.0);
                if let Some((vid, priority)) = own {
                    let [a, b] = (priority << 13 | vid).to_be_bytes();
                    sent.splice(12..12, [0x81, 0, a, b]);
                }
                let what = format!("{profile} {proto} {own:?}");
                let inside = tags_of(&sent);
                let passes = stacks || own.is_none_or(|(vid, _)| vid == 0);
                let outcome = host.send(Source::Vf(VfIndex(0)), &sent);
                if !passes {
                    assert_eq!(outcome.drops, [DropReason::TaggedOnPortVlan], "{what}");
                    continue;
                }
                // The sibling in the port VLAN gets what was sent, the wire and the trunks see the tag in front.
                let on_wire = outcome.wire.unwrap();
                assert_eq!(outcome.vfs[&1], sent, "{what}");
                assert_eq!(outcome.vfs[&2], on_wire, "{what}");
                assert_eq!(
                    tags_of(&on_wire),
                    [&[(tpid, 100)], &inside[..]].concat(),
                    "{what}"
                );
                // And back.
                let outcome = host.send(Source::Wire, &on_wire);
                assert_eq!(outcome.vfs[&0], sent, "{what}");
            }
        }
    }
}

#[test]
fn hwmode_decides_what_passes_the_port() {
    for (mode, link, from_vf, from_wire) in [
        ("veb", "up", (true, false), true),
        ("veb", "down", (false, false), false),
        ("vepa", "up", (false, true), true),
        ("vepa", "down", (false, false), false),
        ("floating", "up", (true, false), false),
        ("floating", "down", (true, false), false),
    ] {
        for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
            let words = [
                format!("link set hwmode {mode}"),
                format!("link set {link}"),
            ];
            let acts: Vec<Act> = words.iter().map(|words| parse(words).into()).collect();
            let mut host = Host::new(&acts, &paths);
            let sent = host.send(Source::Vf(VfIndex(0)), &frame(1, 0));
            let what = format!("{mode} {link} {paths:?}");
            assert_eq!(
                (!sent.vfs.is_empty(), sent.wire.is_some()),
                from_vf,
                "{what}"
            );
            let came = host.send(Source::Wire, &frame(1, 9));
            assert_eq!(!came.vfs.is_empty(), from_wire, "{what}");
        }
    }
    let host = |profile| Host::like(profile, &[], &[]);
    let refused = host(Profile::Ixgbe).act(&parse("link set hwmode floating").into());
    let says = refused.unwrap_err().to_string();
    assert!(
        says.starts_with("hwmode floating: ixgbe has veb, vepa"),
        "{says}"
    );
    assert!(
        host(Profile::Siena)
            .act(&parse("link set hwmode veb").into())
            .is_err()
    );
    assert_eq!(host(Profile::Siena).policy.switch_mode(), SwitchMode::None);
}

#[test]
fn what_the_adjacent_bridge_reflects_is_kept_from_its_sender() {
    let mut broadcast = frame(0, 0);
    broadcast[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    for (mode, heard) in [("vepa", vec![1, 2, 3]), ("veb", vec![0, 1, 2, 3])] {
        let mode = parse(&format!("link set hwmode {mode}"));
        let mut host = Host::new(&[mode.into()], &[]);
        let reflected = host.send(Source::Wire, &broadcast);
        assert_eq!(reflected.vfs.into_keys().collect::<Vec<_>>(), heard);
        // It floods what is for a station that it does not know as well.
        for vf in 0..2 {
            for words in ["set trust on", "request promisc on"] {
                host.act(&parse(&format!("vf {vf} {words}")).into())
                    .unwrap();
            }
        }
        let flooded = host.send(Source::Wire, &frame(77, 0));
        let promiscuous: Vec<_> = heard.iter().copied().filter(|vf| *vf < 2).collect();
        assert_eq!(flooded.vfs.into_keys().collect::<Vec<_>>(), promiscuous);
    }
}

/// Header and tags do not count, and the path to its receiver does not decide whether a frame is too long: where it comes from a wire, a
/// port VLAN's tag is one more than what is looked at.
#[test]
fn a_frame_as_long_as_any_passes_in_a_port_vlan_here_and_at_the_other_end_of_a_wire() {
    let port_vlan = ["vf 0 set vlan 100", "vf 1 set vlan 100"];
    let two = [[0x88, 0xa8, 0, 6], [0x81, 0, 0, 5]];
    for (mtu, own, most) in [
        (Some(1500), &two[..], 1500 + 14 + 8),
        (Some(1500), &two[..1], 1500 + 14 + 4),
        (Some(1500), &[], 1500 + 14),
        (None, &two[..], MAX_FRAME),
        (None, &[], MAX_FRAME),
    ] {
        let mtu = mtu.map(|mtu| format!("link set mtu {mtu}"));
        let words = port_vlan.iter().copied().chain(mtu.as_deref());
        let acts: Vec<Act> = words.map(|words| parse(words).into()).collect();
        for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
            for (len, passes) in [(most, true), (most + 1, false)] {
                let mut near = Host::new(&acts, &paths);
                let mut far = Host::new(&acts, &paths);
                let mut sent = frame(1, 0);
                sent[..6].copy_from_slice(&MacAddr::BROADCAST.0);
                sent.splice(12..12, own.concat());
                near.beyond = len - sent.len() as u32;
                far.beyond = near.beyond;
                let outcome = near.send(Source::Vf(VfIndex(0)), &sent);
                let what = format!("{len} B behind {} tags, {paths:?}", own.len());
                // VFs 2 and 3 are in no VLAN, and see its tag.
                assert_eq!(outcome.vfs.len(), if passes { 3 } else { 0 }, "{what}");
                let Some(on_wire) = outcome.wire else {
                    assert!(!passes, "{what}");
                    continue;
                };
                let outcome = far.send(Source::Wire, &on_wire);
                assert_eq!(outcome.vfs.len(), 4, "{what}: {:?}", outcome.drops);
                assert_eq!(outcome.vfs[&1], sent, "{what}");
            }
        }
    }
}

/// As a MAC does: octets are counted from the destination address to the FCS (RFC 2819).
#[test]
fn the_port_counts_short_frames_as_it_fills_them_up() {
    for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
        let mut host = Host::new(&[], &paths);
        for len in [20, 59, 60, 61] {
            let mut out = frame(77, 0);
            let mut back = frame(0, 77);
            out.resize(len, 0);
            back.resize(len, 0);
            // The second of a kind is known by the first.
            for _ in 0..2 {
                host.send(Source::Vf(VfIndex(0)), &out);
                host.send(Source::Wire, &back);
            }
            let meta = host.meta(&out);
            for (source, frame) in [(Source::Vf(VfIndex(0)), &out), (Source::Wire, &back)] {
                if paths[0] == Path::Direct {
                    let now = host.now;
                    assert!(host.nic.ingress_again(now, source, frame, &meta).is_some());
                }
            }
        }
        let each = if paths[0] == Path::Direct { 3 } else { 2 };
        let wire = host.nic.wire_counters();
        assert_eq!((wire.tx_packets, wire.rx_packets), (4 * each, 4 * each));
        assert_eq!((wire.tx_bytes, wire.rx_bytes), (241 * each, 241 * each));
        let vf = host.counters(VfIndex(0));
        assert_eq!((vf.tx_bytes, vf.rx_bytes), (200 * each, 200 * 2));
    }
}

/// C.2 #14: what is dropped where it is sent, or reaches nobody, is not mirrored.
#[test]
fn a_mirror_shows_what_passes_and_nothing_else() {
    for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
        let mut host = Host::new(&[parse("vf 0 set mirror 3").into()], &paths);
        let seen = |outcome: &Outcome| outcome.vfs.contains_key(&3);
        assert!(seen(&host.send(Source::Vf(VfIndex(0)), &frame(1, 0))));
        assert!(seen(&host.send(Source::Vf(VfIndex(1)), &frame(0, 1))));
        assert!(seen(&host.send(Source::Wire, &frame(0, 9))));
        assert!(!seen(&host.send(Source::Vf(VfIndex(1)), &frame(2, 1))));
        assert!(
            !seen(&host.send(Source::Vf(VfIndex(0)), &frame(1, 9))),
            "spoofed"
        );
        host.act(&parse("link set down").into()).unwrap();
        host.act(&parse("vf 0 set state enable").into()).unwrap();
        host.act(&parse("vf 3 set state enable").into()).unwrap();
        assert!(
            !seen(&host.send(Source::Vf(VfIndex(0)), &frame(77, 0))),
            "nowhere"
        );
        for wrong in [
            "vf 0 set mirror 0",
            "vf 0 set mirror 9",
            "vf 3 set vlan 10",
            "vf 3 set bridge on",
        ] {
            assert!(host.act(&parse(wrong).into()).is_err(), "{wrong}");
        }
    }
}
