//! The administrator's filters: on what is received, on what is sent, copies, ways and queues.

use std::collections::BTreeSet;
use std::sync::Arc;

use vf_model::{
    DropReason, Judge, MacAddr, MailboxRequest, Nanos, Nic, Path, Policy, Profile, Source, Step,
    VfIndex,
};

use crate::any::{flow_frame, frame, parse};
use crate::golden::explains;
use crate::host::{Host, meta};
use crate::{BASE, VFS};

/// Filters of every kind that match a frame to `dst` of [`flow_frame`].
pub(crate) fn filters_on(dst: MacAddr) -> Vec<String> {
    let local = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80";
    let mut matches = vec![
        local.to_owned(),
        format!("{local} src-ip 10.0.0.2 src-port 5000"),
        format!("flow-type ether dst {dst}"),
        format!("flow-type ether dst {dst} vlan 10"),
        "flow-type ether proto 0x800".to_owned(),
    ];
    if dst.is_multicast() && !dst.is_broadcast() {
        matches.push("flow-type ether dst unknown-multicast".to_owned());
    }
    matches
}

/// A filter judges what is received. A VF that talks to somebody beyond the wire does not notice it, whatever the filter
/// matches and says; between VFs of the NIC, the receiver's side is filtered; of a frame to a group both happen.
#[test]
fn a_receive_filter_says_nothing_about_what_a_vf_sends() {
    let paths = [[Path::Direct; 4], [Path::Mediated; 4]];
    let profiles = Profile::all().filter(|p| !matches!(p, Profile::Falcon | Profile::Siena));
    for (profile, paths) in profiles.flat_map(|p| paths.map(|paths| (p, paths))) {
        for dst in [
            BASE.offset(77),
            BASE.offset(2),
            MacAddr::BROADCAST,
            MacAddr([1, 0, 0x5e, 0, 0, 1]),
        ] {
            for (matches, action) in filters_on(dst)
                .into_iter()
                .flat_map(|m| ["action drop", "vf 1", "vf 0"].map(|a| (m.clone(), a)))
            {
                let mut host = Host::like(profile, &[], &paths);
                let add = parse(&format!("filter add {matches} {action}"));
                if host.act(&add.into()).is_err() {
                    continue; // not a filter of this family
                }
                let outcome = host.send(Source::Vf(VfIndex(0)), &flow_frame(dst, BASE));
                let (known, group) = (dst == BASE.offset(2), dst.is_multicast());
                let expected: &[u8] = match action {
                    _ if !known && !group => &[],
                    "vf 1" => &[1],
                    "action drop" => &[],
                    _ if group => &[1, 2, 3],
                    _ => &[2],
                };
                let what = format!("{profile} {matches} {action}");
                assert_eq!(
                    outcome.vfs.keys().copied().collect::<Vec<_>>(),
                    expected,
                    "{what}"
                );
                assert_eq!(outcome.wire.is_some(), !known, "{what}");
                // From the wire it is received by nobody else.
                let outcome = host.send(Source::Wire, &flow_frame(dst, BASE.offset(9)));
                let expected: &[u8] = match action {
                    "action drop" => &[],
                    "vf 1" => &[1],
                    _ => &[0],
                };
                assert_eq!(
                    outcome.vfs.keys().copied().collect::<Vec<_>>(),
                    expected,
                    "{what}"
                );
            }
        }
    }
}

/// A filter on what a VF sends stops it wherever it goes, to a sibling as to the wire, and says nothing about what it receives.
#[test]
fn an_egress_filter_judges_what_a_vf_sends_on_either_path() {
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        let mut host = Host::new(&[], &[path; VFS as usize]);
        for words in [
            "filter add egress flow-type ip4 l4proto 6 action drop",
            "filter add egress vf 2 flow-type ether vlan 10 action pass",
        ] {
            host.act(&parse(words).into()).unwrap();
        }
        for dst in [BASE.offset(1), BASE.offset(77), MacAddr::BROADCAST] {
            let outcome = host.send(Source::Vf(VfIndex(0)), &flow_frame(dst, BASE));
            assert_eq!(outcome.drops, [DropReason::EgressFiltered], "{path} {dst}");
            assert!(outcome.vfs.is_empty() && outcome.wire.is_none());
            // The filter that names the sender goes first, though it looks at less.
            let outcome = host.send(Source::Vf(VfIndex(2)), &flow_frame(dst, BASE.offset(2)));
            assert!(outcome.drops.is_empty(), "{path} {dst}");
        }
        let dropped = host.counters(VfIndex(0)).tx_drops;
        assert_eq!(dropped.get(DropReason::EgressFiltered), 3);
        let back = flow_frame(BASE, BASE.offset(77));
        assert!(host.send(Source::Wire, &back).vfs.contains_key(&0));
    }
}

/// siena's table of source addresses says what a VF may send, for those that have a row in it.
#[test]
fn a_vf_of_siena_with_egress_filters_sends_nothing_else() {
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::like(Profile::Siena, &[], &[path; VFS as usize]);
        let drop = "filter add egress vf 0 flow-type ether src 02:00:00:00:00:00 action drop";
        let refused = host.act(&parse(drop).into()).unwrap_err().to_string();
        assert!(refused.contains("say action pass"), "{refused}");
        for words in [
            "vf 0 set spoofchk off",
            "filter add egress vf 0 flow-type ether src 02:00:00:00:00:05 action pass",
        ] {
            host.act(&parse(words).into()).unwrap();
        }
        let mut sent = |vf: u8, src| {
            let source = Source::Vf(VfIndex(vf));
            let outcome = host.send(source, &frame(77, src));
            let why = host
                .policy
                .why(source, &frame(77, src), &meta(&frame(77, src), 0));
            (
                outcome.drops,
                why.steps.contains(&Step::NotListed(VfIndex(0))),
            )
        };
        assert_eq!(sent(0, 5), (vec![], false));
        assert_eq!(sent(0, 0), (vec![DropReason::EgressFiltered], true));
        assert_eq!(sent(1, 1), (vec![], false), "it has no row");
        let del = "filter del egress vf 0 flow-type ether src 02:00:00:00:00:05";
        host.act(&parse(del).into()).unwrap();
        assert!(
            host.send(Source::Vf(VfIndex(0)), &frame(77, 0))
                .drops
                .is_empty()
        );
    }
}

/// A filter that mirrors gives a VF a copy of what it matches and decides nothing: the next one does. What that drops is not copied.
#[test]
fn a_filter_that_mirrors_decides_nothing_and_copies_nothing_that_is_dropped() {
    let mirror = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 mirror 3";
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        let mut host = Host::new(&[parse(mirror).into()], &[path; VFS as usize]);
        let gets = |host: &mut Host, source, dst, src| {
            let sent = flow_frame(dst, src);
            let steps = host.policy.why(source, &sent, &meta(&sent, 0)).steps;
            let asked = steps.iter().any(|step| matches!(step, Step::Copied { .. }));
            let outcome = host.send(source, &sent);
            assert!(explains(&steps, &outcome), "{steps:#?}");
            (outcome.vfs.into_keys().collect::<Vec<_>>(), asked)
        };
        let (wire, sibling) = (Source::Wire, Source::Vf(VfIndex(0)));
        let [far, to] = [BASE.offset(77), BASE.offset(1)];
        assert_eq!(gets(&mut host, wire, to, far), (vec![1, 3], true), "{path}");
        assert_eq!(gets(&mut host, sibling, to, BASE), (vec![1, 3], true));
        // Nobody here receives what leaves on the wire, and what nobody receives is not copied.
        assert_eq!(gets(&mut host, sibling, far, BASE), (vec![], false));
        assert_eq!(gets(&mut host, wire, far, BASE.offset(78)), (vec![], true));
        // The next filter that matches is asked.
        host.act(&parse("filter add flow-type ether proto 0x0800 vf 2").into())
            .unwrap();
        assert_eq!(gets(&mut host, wire, to, far), (vec![2, 3], true));
        host.act(&parse("filter replace flow-type ether proto 0x0800 action drop").into())
            .unwrap();
        assert_eq!(gets(&mut host, wire, to, far), (vec![], true));
        // Passed over where its VF is not in the VLAN.
        host.act(&parse("vf 3 vlan add 20").into()).unwrap();
        assert_eq!(gets(&mut host, wire, to, far), (vec![], false));
    }
    let ef10 = Host::like(Profile::Ef10, &[], &[]).act(&parse(mirror).into());
    assert!(
        ef10.unwrap_err()
            .to_string()
            .contains("no filter of a NIC of profile ef10 does that")
    );
}

/// A filter that says which way a frame takes says nothing of who gets it, on any path, and path `auto` learns nothing from what
/// it has go that way; nor does it count on what it had learned before.
#[test]
fn a_filter_that_hands_frames_up_changes_their_way_and_not_their_receivers() {
    let (vf0, vf1) = (VfIndex(0), VfIndex(1));
    let words = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80";
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        for (source, from) in [(Source::Wire, BASE.offset(9)), (Source::Vf(vf0), BASE)] {
            let frame = flow_frame(BASE.offset(1), from);
            let mut host = Host::new(&[], &[path; VFS as usize]);
            let plain = host.send(source, &frame);
            host.send(source, &frame);
            let learned = host.policy.learned_by(vf1).count();
            let fast = path == Path::Auto && source == Source::Wire;
            assert_eq!(learned, usize::from(fast), "{path} {source:?}");
            let before = Arc::clone(&host.policy);
            let hand_up = parse(&format!("filter add {words} action mediated"));
            host.act(&hand_up.into()).unwrap();
            assert!(!host.policy.moves_frames(&before), "nothing gets faster");
            let ingress = |nic: &Nic| {
                let mut nic = nic.clone();
                nic.ingress(Nanos(0), source, &frame, &meta(&frame, 0))
            };
            if path != Path::Mediated {
                let verdict = ingress(&host.nic);
                assert!(verdict.vfs.is_empty() && verdict.pf && !verdict.waits);
                assert!(verdict.beyond.contains(vf1));
            }
            for _ in 0..3 {
                assert_eq!(host.send(source, &frame), plain, "{path} {source:?}");
            }
            // Of this flow nothing is learned while the filter is there.
            assert_eq!(host.policy.learned_by(vf1).count(), 0);
            let steps = host.policy.why(source, &frame, &meta(&frame, 0)).steps;
            let said = |step: &Step| step.to_string().contains("action mediated");
            if path != Path::Mediated || source == Source::Wire {
                assert!(steps.iter().any(said), "{steps:#?}");
            }
            assert!(
                !steps
                    .iter()
                    .any(|step| matches!(step, Step::AutoReceiver { fast: true, .. }))
            );
            // Taken out, it puts the flow on the direct path, behind what is on the other.
            let before = Arc::clone(&host.policy);
            host.act(&parse(&format!("filter del {words}")).into())
                .unwrap();
            assert!(host.policy.moves_frames(&before));
            assert_eq!(host.send(source, &frame), plain);
            if path == Path::Direct {
                assert!(!ingress(&host.nic).pf);
            }
        }
    }
    // What is said of a VF can take frames off that way, too.
    for (filter, said) in [
        ("flow-type ether vlan 10", "vf 0 set vlan 20"),
        ("flow-type ether vlan 10", "vf 0 set vlan 0"),
        ("flow-type ether proto 0x800", "link set hwmode vepa"),
    ] {
        let hand_up = format!("filter add {filter} action mediated");
        let acts = [parse("vf 0 set vlan 10").into(), parse(&hand_up).into()];
        let mut host = Host::new(&acts, &[]);
        let before = Arc::clone(&host.policy);
        host.act(&parse(said).into()).unwrap();
        assert!(host.policy.moves_frames(&before), "{filter}: {said}");
        let mut host = Host::new(&acts[..1], &[]);
        let before = Arc::clone(&host.policy);
        host.act(&parse(said).into()).unwrap();
        assert!(!host.policy.moves_frames(&before), "nothing is handed up");
    }
    // A driver may say it as often as it likes, and stops nobody by that.
    let hand_up = parse("filter add flow-type ether dst 02:00:00:00:00:09 action mediated");
    let host = Host::new(&[hand_up.into()], &[]);
    let mut policy = Policy::clone(&host.policy);
    for words in ["mac 02:00:00:00:00:09", "table 02:00:00:00:00:19", "reset"] {
        let words: Vec<_> = words.split(' ').collect();
        let message = MailboxRequest::parse(&words).unwrap();
        let asked = policy.with_message(vf1, &message).unwrap().policy;
        assert!(asked.version() > policy.version() && !asked.moves_frames(&policy));
        policy = asked;
    }
    // A flow that has not been seen before the filter came is not learned, although a filter on it would have a row.
    let mut host = Host::new(&[], &[Path::Auto; VFS as usize]);
    let hand_up = parse("filter add flow-type ether proto 0x800 action mediated");
    host.act(&hand_up.into()).unwrap();
    for _ in 0..3 {
        host.send(Source::Wire, &flow_frame(BASE.offset(1), BASE.offset(9)));
    }
    assert_eq!(host.policy.learned_by(vf1).count(), 0);
}

#[test]
fn what_a_filter_hands_up_is_no_mismatch() {
    let unknown = "filter add flow-type ether dst unknown-unicast vf 0";
    let handed_up = "filter add flow-type udp4 dst-ip 10.0.0.1 dst-port 80 action mediated";
    let frame = |port: u8| {
        let udp = [
            8, 0, 69, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 3, 10, 0, 0, 1, 0, 81, 0, port,
        ];
        let mut frame = [&[2, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 4][..], &udp].concat();
        frame.resize(60, 0);
        frame
    };
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::new(
            &[parse(unknown).into(), parse(handed_up).into()],
            &[path; VFS as usize],
        );
        assert!(host.send(Source::Wire, &frame(80)).vfs.is_empty(), "{path}");
        assert!(
            host.send(Source::Wire, &frame(81)).vfs.contains_key(&0),
            "{path}"
        );
    }
}

/// A filter gives a VF frames by a table of queues of its own, and other frames of the VF's go by the VF's own table.
#[test]
fn a_filter_spreads_what_it_matches_by_the_context_that_it_names() {
    let mut host = Host::new(&[], &[Path::Direct; VFS as usize]);
    let vf1 = VfIndex(1);
    for words in [
        "vf 1 rss weight 1",
        "vf 1 rss context new weight 0 0 1 1",
        "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 vf 1 context 1",
    ] {
        host.act(&parse(words).into()).unwrap();
    }
    let flow = |port: u16, to: u8| {
        let mut frame = flow_frame(BASE.offset(1), BASE.offset(9));
        frame[38..40].copy_from_slice(&port.to_be_bytes());
        frame[41] = to;
        frame
    };
    let queues = |host: &Host, to: u8| -> BTreeSet<u16> {
        (1000..1100)
            .map(|port| host.nic.queue(vf1, &flow(port, to), 4))
            .collect()
    };
    assert_eq!(queues(&host, 80), BTreeSet::from([2, 3]));
    assert_eq!(queues(&host, 81), BTreeSet::from([0]));
    assert_eq!(
        host.hypervisor.queue(vf1, &flow(1000, 80), 4),
        host.nic.queue(vf1, &flow(1000, 80), 4)
    );
    // A filter that names a queue has that one, whatever the tables say.
    let one = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 82 vf 1 action 3";
    host.act(&parse(one).into()).unwrap();
    assert_eq!(queues(&host, 82), BTreeSet::from([3]));
    // A guest that uses fewer has numbers that wrap around.
    assert_eq!(host.nic.queue(vf1, &flow(1000, 80), 1), 0);
    host.act(&parse("vf 1 rss context 1 weight 0 1").into())
        .unwrap();
    assert_eq!(queues(&host, 80), BTreeSet::from([1]));
    let refused =
        |host: &mut Host, words: &str| host.act(&parse(words).into()).unwrap_err().to_string();
    assert!(
        refused(&mut host, "vf 1 rss context 1 delete").contains("in use by filter flow-type tcp4")
    );
    host.act(&parse("filter flush").into()).unwrap();
    host.act(&parse("vf 1 rss context 1 delete").into())
        .unwrap();
    let again = "filter add flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 vf 1 context 1";
    assert!(refused(&mut host, again).contains("context 1: there is none"));
}
