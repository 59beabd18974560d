//! The hypervisor's bridges: what they learn decides nothing that a VF's filters say, and who stations on the PF's bridge reach.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use vf_model::{BridgePort, DropReason, MacAddr, Path, Profile, Source, VfIndex};

use crate::any::{any_act, any_paths, any_traffic, flow_frame, frame, parse, sets_mirror};
use crate::host::{Act, Host, Outcome, meta};
use crate::{BASE, CASES, VFS, cases};

/// VF 2 may spoof and says that it has the addresses of VF 1 and of a station on the wire.
#[test]
fn a_learned_address_takes_nothing_from_its_owner() {
    let free = parse("vf 2 set spoofchk off");
    let mut host = Host::new(&[free.into()], &[Path::Mediated; VFS as usize]);
    let bridge = |host: &Host| host.hypervisor.bridge().stats(host.now);
    host.send(Source::Vf(VfIndex(1)), &frame(0, 1));
    host.send(Source::Wire, &frame(0, 9));
    assert_eq!((bridge(&host).learned, bridge(&host).overruled), (2, 0));
    for stolen in [1, 9] {
        host.send(Source::Vf(VfIndex(2)), &frame(0, stolen));
        let learned = host.hypervisor.bridge().entries(host.now);
        let at: Vec<_> = learned.filter(|e| e.mac == BASE.offset(stolen)).collect();
        assert_eq!(at[0].port, BridgePort::Vif(VfIndex(2)), "for all to see");
    }
    assert_eq!(bridge(&host).moved, 2);
    assert_eq!(
        bridge(&host).floods,
        0,
        "VF 0 has not been heard yet, and is the only one that takes them"
    );
    let outcome = host.send(Source::Vf(VfIndex(0)), &frame(1, 0));
    assert_eq!(outcome.vfs.into_keys().collect::<Vec<_>>(), [1]);
    let outcome = host.send(Source::Vf(VfIndex(0)), &frame(9, 0));
    assert!(outcome.vfs.is_empty() && outcome.wire.is_some());
    assert_eq!(bridge(&host).overruled, 2);
    host.send(Source::Vf(VfIndex(1)), &frame(0, 1));
    host.send(Source::Vf(VfIndex(0)), &frame(1, 0));
    assert_eq!(bridge(&host).overruled, 2, "heard where it belongs again");
    assert_eq!(bridge(&host).floods, 0);
    host.send(
        Source::Vf(VfIndex(0)),
        &[&MacAddr::BROADCAST.0[..], &frame(1, 0)[6..]].concat(),
    );
    assert_eq!(bridge(&host).floods, 1, "to all others and the wire");
}

/// A bridge in a guest, whose stations speak through its VF. The hypervisor's bridge hears where they are; what they get is what the
/// VF's filters say, on either path.
#[test]
fn a_station_behind_a_vf_gets_what_the_vfs_filters_say_on_either_path() {
    for paths in [[Path::Direct; 4], [Path::Mediated; 4]] {
        let acts = ["vf 1 set spoofchk off", "vf 1 set trust on"].map(|words| parse(words).into());
        let mut host = Host::new(&acts, &paths);
        let station = BASE.offset(77);
        host.send(Source::Vf(VfIndex(1)), &frame(0, 77));
        let heard = host
            .hypervisor
            .bridge()
            .entries(host.now)
            .find(|entry| entry.mac == station);
        assert_eq!(heard.is_some(), paths[1] == Path::Mediated);
        let outcome = host.send(Source::Vf(VfIndex(0)), &frame(77, 0));
        assert!(
            outcome.vfs.is_empty() && outcome.wire.is_some(),
            "as the NIC's switch has it"
        );
        host.act(&parse(&format!("vf 1 mac add {station}")).into())
            .unwrap();
        let outcome = host.send(Source::Vf(VfIndex(0)), &frame(77, 0));
        assert_eq!(outcome.vfs.into_keys().collect::<Vec<_>>(), [1]);
        assert!(outcome.wire.is_none());
        let stats = host.hypervisor.bridge().stats(host.now);
        assert_eq!(
            stats.overruled,
            u64::from(paths[1] == Path::Mediated),
            "before it was named"
        );
        assert_eq!(stats.floods, 0);
    }
}

/// A NIC without a switch sends to the wire only. What guests of its host send each other is the hypervisor's to deliver,
/// whichever path they are on, and no filter of the NIC sees it.
#[test]
fn guests_of_a_host_talk_over_the_hypervisor_where_the_nic_has_no_switch() {
    let both = || [Path::Direct, Path::Mediated].into_iter();
    let paths = both().flat_map(|a| both().map(move |b| [a, b]));
    for (profile, paths) in [Profile::Falcon, Profile::Siena]
        .into_iter()
        .flat_map(|p| paths.clone().map(move |b| (p, b)))
    {
        let mut host = Host::like(profile, &[], &paths);
        let (vf0, vf1) = (VfIndex(0), VfIndex(1));
        let drop = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 action drop";
        host.act(&parse(drop).into()).unwrap();
        for (dst, here) in [
            (BASE.offset(1), true),
            (BASE.offset(77), false),
            (MacAddr::BROADCAST, true),
        ] {
            let frame = flow_frame(dst, BASE);
            let verdict =
                host.nic
                    .clone()
                    .ingress(host.now, Source::Vf(vf0), &frame, &meta(&frame, 0));
            if paths[0] == Path::Direct {
                assert!(verdict.vfs.is_empty(), "the NIC switches nothing");
                assert_eq!((verdict.pf, verdict.beyond.contains(vf1)), (here, here));
            }
            let outcome = host.send(Source::Vf(vf0), &frame);
            assert_eq!(
                outcome.vfs.contains_key(&1),
                here,
                "{profile} {paths:?} {dst}"
            );
            assert!(!outcome.vfs.contains_key(&0));
            assert_eq!(outcome.wire.is_some(), dst != BASE.offset(1));
        }
        let outcome = host.send(Source::Wire, &flow_frame(BASE.offset(1), BASE.offset(9)));
        assert_eq!(outcome.drops, [DropReason::Filtered], "this the NIC sees");
    }
}

#[test]
fn a_vf_that_leaves_the_bridge_is_forgotten() {
    let mut host = Host::new(&[], &[Path::Mediated; VFS as usize]);
    host.send(Source::Vf(VfIndex(1)), &frame(0, 1));
    host.set_paths(&[Path::Mediated, Path::Direct]);
    assert_eq!(host.hypervisor.bridge().entries(host.now).count(), 0);
    assert_eq!(host.hypervisor.bridge().stats(host.now).flushed, 1);
    host.send(Source::Vf(VfIndex(1)), &frame(0, 1));
    let learned: Vec<_> = host.hypervisor.bridge().entries(host.now).collect();
    assert_eq!((learned.len(), learned[0].port), (1, BridgePort::Pf));
}

/// C.3 #1 of what users report: a guest on a Linux bridge over the PF and a guest on a VF of the same port cannot talk.
#[test]
fn a_station_behind_the_pf_hears_a_vf_once_the_switch_is_told_of_it() {
    let (vf, station) = (VfIndex(0), VfIndex(1));
    let from = |source: VfIndex| Source::Vf(source);
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::new(&[parse("vf 1 set bridge on").into()], &[path]);
        let reached = |outcome: &Outcome| {
            let vfs = outcome.vfs.keys().copied().collect::<Vec<_>>();
            (vfs, outcome.wire.is_some())
        };
        let mut broadcast = frame(0, 0);
        broadcast[..6].copy_from_slice(&MacAddr::BROADCAST.0);
        // Its ARP request is heard everywhere, and the answer finds the VF, whose address the NIC knows.
        assert_eq!(
            reached(&host.send(from(vf), &broadcast)),
            (vec![1, 2, 3], true)
        );
        assert_eq!(
            reached(&host.send(from(station), &frame(0, 1))),
            (vec![0], false)
        );
        // What it sends then goes to the wire, and a station beyond it is heard by both.
        let to_station = frame(1, 0);
        assert_eq!(reached(&host.send(from(vf), &to_station)), (vec![], true));
        assert_eq!(
            reached(&host.send(Source::Wire, &frame(1, 9))),
            (vec![1], false)
        );
        host.act(&parse(&format!("fdb add {} self", BASE.offset(1))).into())
            .unwrap();
        assert_eq!(reached(&host.send(from(vf), &to_station)), (vec![1], false));
        // Or the adjacent bridge gives it back.
        host.act(&parse(&format!("fdb del {} self", BASE.offset(1))).into())
            .unwrap();
        host.act(&parse("link set hwmode vepa").into()).unwrap();
        assert_eq!(reached(&host.send(from(vf), &to_station)), (vec![], true));
        assert_eq!(
            reached(&host.send(Source::Wire, &to_station)),
            (vec![1], false)
        );
    }
}

/// The bridge learns which of its stations has an address; the NIC has been told of neither.
#[test]
fn stations_on_a_bridge_reach_each_other_without_the_nic() {
    let on = ["vf 2 set bridge on", "vf 3 set bridge on"].map(|words| parse(words).into());
    let mut host = Host::new(&on, &[]);
    let station = |n: u8| Source::Vf(VfIndex(n));
    let mut broadcast = frame(0, 3);
    broadcast[..6].copy_from_slice(&MacAddr::BROADCAST.0);
    assert_eq!(host.send(station(3), &broadcast).vfs.len(), 3);
    let learned = host.send(station(2), &frame(3, 2));
    assert_eq!(
        (learned.vfs.keys().collect::<Vec<_>>(), learned.wire),
        (vec![&3], None)
    );
    // Once it is heard from beyond the port, it is not given back there, nor to those it is not at.
    assert_eq!(host.send(Source::Wire, &frame(77, 3)).vfs.len(), 2);
    let gone = host.send(Source::Wire, &frame(3, 9));
    assert_eq!(
        (gone.vfs.len(), gone.drops),
        (0, vec![DropReason::NoReceiver])
    );
}

/// A station on the PF's bridge is asked for its MTU of the frame as it was sent, whichever path the sender is on: the port VLAN's
/// tag is none of the frame's length, even where it is a third.
#[test]
fn a_station_behind_the_pf_gets_what_fits_it_on_either_path() {
    let acts = ["link set mtu 68", "vf 0 set vlan 10", "vf 3 set bridge on"];
    let acts = acts.map(|words| parse(words).into());
    let mut sent = [MacAddr::BROADCAST.0, BASE.0].concat();
    sent.extend([0x81, 0, 0, 0, 0x81, 0, 0, 0, 8, 0]);
    for (len, fits) in [(22 + 68, true), (22 + 69, false)] {
        sent.resize(len, 0x5a);
        for path in [Path::Direct, Path::Mediated] {
            let mut host = Host::new(&acts, &[path]);
            let outcome = host.send(Source::Vf(VfIndex(0)), &sent);
            assert_eq!(outcome.vfs.contains_key(&3), fits, "{len} {path:?}");
        }
    }
}

proptest! {
    #![proptest_config(cases(CASES))]

    /// A station on the PF's bridge sees and is seen the same, whichever paths the VFs take.
    #[test]
    fn golden_rule_holds_beside_stations_behind_the_pf(
        mut acts in vec(any_act(), 0..12),
        known in any::<bool>(),
        paths in any_paths(),
        other_paths in any_paths(),
        traffic in vec(any_traffic(), 1..16),
        beyond in select(vec![0, 24]),
        profile in select(Profile::all().collect::<Vec<_>>()),
    ) {
        acts.retain(|act| !matches!(act, Act::Admin(command) if sets_mirror(command)));
        let station = VfIndex(VFS - 1);
        let stations = |paths: Vec<Path>| {
            let mut host = Host::like(profile, &acts, &[]);
            host.set_paths(&paths[..usize::from(VFS - 2)]);
            for vf in [VFS - 2, station.0] {
                host.act(&parse(&format!("vf {vf} set bridge on")).into()).unwrap();
            }
            if known {
                let _ = host.act(&parse(&format!("fdb add {} self", BASE.offset(station.0.into()))).into());
            }
            host
        };
        let (mut host, mut other) = (stations(paths), stations(other_paths));
        (host.beyond, other.beyond) = (beyond, beyond);
        for (source, frame) in traffic {
            let (outcome, others) = (host.send(source, &frame), other.send(source, &frame));
            prop_assert_eq!(&outcome.vfs, &others.vfs);
            prop_assert_eq!(&outcome.wire, &others.wire);
            let Source::Vf(from) = source else { continue };
            prop_assert!(!outcome.vfs.contains_key(&from.0));
        }
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(host.counters(vf), other.counters(vf));
        }
    }
}
