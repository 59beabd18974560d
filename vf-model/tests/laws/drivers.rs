//! Filters of drivers: what they may take and what they may not.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use vf_model::{
    BothPaths, Command, DriverAction, DropReason, FilterAction, FilterOp, FilterSpec, Judge,
    MacAddr, MailboxRequest, Path, Profile, Source, Step, VfIndex, VfRequest, VfSetting, Vid,
};

use crate::any::{
    any_act, any_driver_action, any_fields, any_group, any_mac, any_paths, any_traffic, flow_frame,
    group, parse,
};
use crate::host::{Act, Host, meta};
use crate::{BASE, CASES, VFS, cases};

/// EF10: what is unknown is unknown in each VLAN for itself, and a filter of a driver on packets takes frames from others with the
/// privilege INSECURE_FILTERS only.
#[test]
fn a_drivers_filter_on_packets_or_on_what_is_unknown_takes_what_its_privileges_allow() {
    let mut host = Host::like(Profile::Ef10, &[], &[Path::Direct; VFS as usize]);
    let vf0 = VfIndex(0);
    let act = |host: &mut Host, words: &str| host.act(&parse(words).into());
    act(&mut host, "vf 0 request reset groups").unwrap();
    let tagged = |vid: u8| {
        let mut frame = flow_frame(BASE.offset(77), BASE.offset(9));
        frame[15] = vid;
        frame
    };
    let gets = |host: &mut Host, frame: &[u8]| host.send(Source::Wire, frame).vfs.contains_key(&0);
    let unknown = "vf 0 request filter add flow-type ether dst unknown-unicast vlan 10";
    assert!(
        act(&mut host, unknown)
            .unwrap_err()
            .to_string()
            .contains("EPERM")
    );
    act(&mut host, "vf 0 privilege +PROMISCUOUS,+ALL_MULTICAST").unwrap();
    act(&mut host, unknown).unwrap();
    assert!(gets(&mut host, &tagged(10)) && !gets(&mut host, &tagged(11)));
    assert!(
        act(&mut host, unknown)
            .unwrap_err()
            .to_string()
            .contains("there already")
    );
    let group = |vid: u8| {
        let mut frame = tagged(vid);
        frame[..6].copy_from_slice(&group(2).0);
        frame
    };
    assert!(!gets(&mut host, &group(10)));
    act(
        &mut host,
        "vf 0 request filter add flow-type ether dst unknown-multicast vlan 10",
    )
    .unwrap();
    assert!(gets(&mut host, &group(10)) && !gets(&mut host, &group(11)));
    // The privilege goes, and what it allowed with it.
    act(&mut host, "vf 0 privilege -PROMISCUOUS,-ALL_MULTICAST").unwrap();
    assert!(!gets(&mut host, &tagged(10)) && !gets(&mut host, &group(10)));
    act(
        &mut host,
        "vf 0 request filter del flow-type ether dst unknown-unicast vlan 10",
    )
    .unwrap();

    let theirs = flow_frame(BASE.offset(1), BASE.offset(9));
    let mine = flow_frame(BASE, BASE.offset(9));
    let packets = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80";
    act(&mut host, &format!("vf 0 request filter add {packets}")).unwrap();
    assert!(
        !gets(&mut host, &theirs) && gets(&mut host, &mine),
        "auto-qualified"
    );
    assert_eq!(host.policy.filter_table().len(), 0);
    act(&mut host, "vf 0 privilege +INSECURE_FILTERS").unwrap();
    assert!(gets(&mut host, &theirs), "whoever has the address");
    assert_eq!(
        host.policy.saved().filters,
        Vec::<String>::new(),
        "it is the driver's"
    );
    // The administrator's goes before it, and it comes back.
    act(&mut host, &format!("filter add {packets} vf 2")).unwrap();
    assert!(!gets(&mut host, &theirs));
    act(&mut host, &format!("filter del {packets}")).unwrap();
    assert!(gets(&mut host, &theirs));
    // Another's driver has no second one, and nobody else's takes it out.
    act(&mut host, "vf 2 privilege +INSECURE_FILTERS").unwrap();
    let second = act(&mut host, &format!("vf 2 request filter add {packets}"));
    assert!(second.unwrap_err().to_string().contains("is there already"));
    assert!(act(&mut host, &format!("vf 2 request filter del {packets}")).is_err());
    assert!(gets(&mut host, &theirs));
    // It goes with its driver.
    host.act(&Act::Driver(
        vf0,
        VfRequest::Reset {
            lists_groups: true,
            lists_vlans: false,
        },
    ))
    .unwrap();
    assert!(!gets(&mut host, &theirs));
    assert_eq!(host.policy.filter_table().len(), 0);
    act(&mut host, &format!("vf 0 request filter add {packets}")).unwrap();
    act(&mut host, "vf 0 privilege -INSECURE_FILTERS").unwrap();
    assert!(!gets(&mut host, &theirs) && gets(&mut host, &mine));
}

/// `ethtool -N ... action -1` and `action N` in a guest: of what its VF receives, and of nobody else's.
#[test]
fn a_driver_without_privileges_drops_and_steers_what_is_for_its_vf() {
    let mut host = Host::like(Profile::Ef10, &[], &[Path::Direct; VFS as usize]);
    let act = |host: &mut Host, words: &str| host.act(&parse(words).into());
    let (mine, theirs) = (
        flow_frame(BASE, BASE.offset(9)),
        flow_frame(BASE.offset(1), BASE.offset(9)),
    );
    let packets = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80";
    assert!(host.send(Source::Wire, &mine).vfs.contains_key(&0));
    act(
        &mut host,
        &format!("vf 0 request filter add {packets} action -1"),
    )
    .unwrap();
    let outcome = host.send(Source::Wire, &mine);
    assert!(outcome.vfs.is_empty());
    assert_eq!(outcome.drops, [DropReason::Filtered]);
    assert_eq!(
        host.counters(VfIndex(0)).rx_drops.get(DropReason::Filtered),
        1
    );
    assert!(host.send(Source::Wire, &theirs).vfs.contains_key(&1));
    // What has no port 80 passes, however often the other kind was asked for.
    let mut other = mine.clone();
    let at = other.len() - 1;
    let port = other.windows(2).rposition(|w| w == [0, 80]).unwrap_or(at);
    other[port + 1] = 81;
    assert!(host.send(Source::Wire, &other).vfs.contains_key(&0));
    assert!(host.send(Source::Wire, &mine).vfs.is_empty());
    // By address and by type, too.
    act(
        &mut host,
        "vf 0 request filter add flow-type ether dst 02:00:00:00:00:00 action drop",
    )
    .unwrap();
    assert!(host.send(Source::Wire, &other).vfs.is_empty());
    act(
        &mut host,
        "vf 0 request filter del flow-type ether dst 02:00:00:00:00:00",
    )
    .unwrap();
    assert!(host.send(Source::Wire, &other).vfs.contains_key(&0));
    act(&mut host, &format!("vf 0 request filter del {packets}")).unwrap();
    assert!(host.send(Source::Wire, &mine).vfs.contains_key(&0));

    let queue = |host: &Host, frame: &[u8]| host.nic.queue(VfIndex(0), frame, 4);
    for wanted in 0..4 {
        act(
            &mut host,
            &format!("vf 0 request filter add {packets} action {wanted}"),
        )
        .unwrap();
        assert_eq!(queue(&host, &mine), wanted);
        // The administrator's word goes first.
        act(&mut host, &format!("filter add {packets} vf 0 action 3")).unwrap();
        assert_eq!(queue(&host, &mine), 3);
        act(&mut host, &format!("filter del {packets}")).unwrap();
        act(&mut host, &format!("vf 0 request filter del {packets}")).unwrap();
    }
    let refused = |host: &mut Host, words: &str| act(host, words).unwrap_err().to_string();
    let unknown = "vf 0 request filter add flow-type ether dst unknown-unicast action drop";
    assert!(refused(&mut host, unknown).contains("leave out action"));
    let many = "vf 0 request filter add flow-type ip4 dst-ip 10.0.0.0/8 action drop";
    assert!(refused(&mut host, many).contains("without masks"));
    // It goes with its driver.
    act(
        &mut host,
        &format!("vf 0 request filter add {packets} action drop"),
    )
    .unwrap();
    act(&mut host, "vf 0 request reset").unwrap();
    assert!(host.send(Source::Wire, &mine).vfs.contains_key(&0));
    assert!(host.policy.driver_filters(VfIndex(0)).is_empty());
}

proptest! {
    #![proptest_config(cases(CASES))]

    /// Whatever filters the driver of a VF puts in that nobody has given a privilege, no other VF gets less or more than before,
    /// and it gets nothing that is for another: an address is one VF's, a group any number's, and what is unknown a privilege.
    #[test]
    fn a_drivers_filter_takes_nothing_that_is_not_addressed_to_its_vf(
        mut acts in vec(any_act(), 0..12),
        ops in vec((any::<bool>(), any_driver_action(), select(vec![None, Some(10), Some(20)]), prop_oneof![
            any_mac(), any_mac(), any_group().prop_map(|g| g.to_string()), Just(MacAddr::BROADCAST.to_string()),
            Just("unknown-unicast".to_owned()), Just("unknown-multicast".to_owned()), Just("packets".to_owned()),
        ]), 1..6),
        vf in 0..VFS,
        traffic in vec(any_traffic(), 1..8),
        profile in select(vec![Profile::Ef10, Profile::Generic]),
    ) {
        // What it may have is for the administrator to say, and so is what a mirror shows.
        let says_more = |command: &Command| match command {
            Command::SetVf { settings, .. } => settings.iter().any(|s| {
                matches!(s, VfSetting::Trust(_) | VfSetting::Privilege(_) | VfSetting::Mirror(_))
            }),
            Command::FilterInsert(spec) => matches!(spec.action, FilterAction::Mirror(_)),
            _ => false,
        };
        acts.retain(|act| !matches!(act, Act::Admin(command) if says_more(command)));
        let driver = VfIndex(vf);
        // One that lists its groups, as those do that put in filters.
        let (lists_groups, lists_vlans) = (true, false);
        acts.push(Act::Driver(driver, VfRequest::Reset { lists_groups, lists_vlans }));
        let mut host = Host::like(profile, &acts, &[]);
        for (add, action, vlan, dst) in ops {
            let unknown = dst.starts_with("unknown");
            let vlan = vlan.filter(|_| unknown).map(|vid| Vid::new(vid).unwrap());
            let matches = match dst.as_str() {
                "packets" => "flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 action drop".to_owned(),
                dst => format!("flow-type ether dst {dst} action drop"),
            };
            let matches = matches.parse::<FilterSpec>().unwrap().matches;
            let mut before = Host::like(profile, &acts, &[]);
            before.adopt(Arc::clone(&host.policy));
            let message = MailboxRequest::Filter(FilterOp { add, matches, vlan, action });
            match host.policy.with_message(driver, &message) {
                Ok(granted) => host.adopt(Arc::new(granted.policy)),
                Err(_) => continue,
            }
            prop_assert!(!add || !unknown, "EPERM");
            for (source, frame) in traffic.iter().filter(|(source, _)| *source != Source::Vf(driver)) {
                let (mut was, mut is) = (before.send(*source, frame), host.send(*source, frame));
                let [had, has] = [was.vfs.remove(&vf), is.vfs.remove(&vf)];
                let to = MacAddr(frame[..6].try_into().unwrap());
                let named = to.to_string() == dst;
                // In VEPA mode what comes back from the adjacent bridge is its own.
                let own = MacAddr(frame[6..12].try_into().unwrap()).to_string() == dst;
                // What it drops, or dropped until now, is the only difference that a filter makes to frames that are for it anyway.
                let dropped = if add { has.is_none() } else { had.is_none() };
                let drops = dropped && (!add || action == DriverAction::Drop);
                // A filter that goes before one that drops gives the VF its own frames back.
                let why = before.policy.why(*source, frame, &meta(frame, 0));
                let gives_back = why.steps.iter().any(|step| matches!(step, Step::DriverDrops(vf) if *vf == driver));
                let drops = drops || had.is_none() && gives_back;
                prop_assert!(named || own || drops || had == has, "it has asked for {dst}");
                let others = (0..VFS).map(VfIndex).filter(|w| *w != driver);
                let mut others = others.filter(|w| host.policy.mac(*w) == to || host.policy.in_force(*w).unicast.contains(&to)
                    || host.policy.filters(*w).macs().iter().any(|(m, _)| *m == to));
                // Two may have the same address, by the administrator's word: then either may drop what it gets.
                prop_assert!(to.is_multicast() || own || others.next().is_none() || had == has || drops, "it is another's");
                // A station that nobody had is the VF's now, so others that receive what is unknown do not get it, nor the wire.
                if to.is_multicast() || !named {
                    prop_assert_eq!((was.vfs, was.wire), (is.vfs, is.wire));
                }
            }
        }
    }

    /// What drivers drop or have in one of their queues they do on either path, and it is counted there; nobody else notices.
    #[test]
    fn golden_rule_holds_for_filters_of_drivers(
        acts in vec(any_act(), 0..8),
        ops in vec((0..VFS, any_fields(), any_driver_action()), 1..8),
        paths in any_paths(),
        other_paths in any_paths(),
        traffic in vec(any_traffic(), 1..12),
        profile in select(vec![Profile::Ef10, Profile::Generic]),
    ) {
        let mut host = Host::like(profile, &acts, &paths);
        let mut other = Host::like(profile, &acts, &other_paths);
        host.put_in(&ops);
        other.put_in(&ops);
        let mut without = Host::like(profile, &acts, &paths);
        for (source, frame) in traffic {
            for host in [&mut host, &mut other, &mut without] {
                host.send(source, &frame);
            }
            let outcome = host.send(source, &frame);
            prop_assert_eq!(&outcome, &other.send(source, &frame));
            let both = BothPaths::of(&host.policy).unwrap();
            let why = host.policy.why(source, &frame, &meta(&frame, 0));
            prop_assert_eq!(both.difference(source, &frame, &meta(&frame, 0), Some(&why.verdict)), None);
            let dropped = why.steps.iter().filter_map(|step| match step {
                Step::DriverDrops(vf) => Some(vf.0),
                _ => None,
            });
            let dropped: BTreeSet<u8> = dropped.collect();
            // In the table they are as those of the administrator are.
            let in_table = (0..VFS).any(|vf| host.policy.driver_filters(VfIndex(vf)).iter().any(|f| f.is_in_table()));
            if !in_table {
                let mut expected = without.send(source, &frame);
                expected.vfs.retain(|vf, _| !dropped.contains(vf));
                prop_assert_eq!((outcome.vfs, outcome.wire), (expected.vfs, expected.wire));
            }
        }
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(host.counters(vf), other.counters(vf));
        }
    }
}

/// A driver that drops what is for its address and wants one flow of it nevertheless has that.
#[test]
fn a_drivers_filter_on_packets_goes_before_its_drop_of_an_address() {
    let mut host = Host::like(Profile::Ef10, &[], &[Path::Direct; VFS as usize]);
    let mine = flow_frame(BASE, BASE.offset(9));
    for (words, gets) in [
        ("ether dst 02:00:00:00:00:00 action drop", false),
        ("tcp4 dst-ip 10.0.0.9 dst-port 80 action 1", true),
    ] {
        let words = format!("vf 0 request filter add flow-type {words}");
        host.act(&parse(&words).into()).unwrap();
        assert_eq!(
            host.send(Source::Wire, &mine).vfs.contains_key(&0),
            gets,
            "{words}"
        );
    }
}
