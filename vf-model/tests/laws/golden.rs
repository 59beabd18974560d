//! The golden rule, and what follows from it for any rules and any frames.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseResult;
use vf_model::{
    BothPaths, Command, DriverAction, DropReason, FrameMeta, Judge, MAX_FRAME, Nanos, Path,
    Profile, Source, Step, VfIndex,
};

use crate::any::{
    any_act, any_change, any_driver_action, any_fields, any_gap, any_paths, any_request,
    any_source, any_traffic, parse, sets_mirror,
};
use crate::host::{Act, Host, Outcome, meta};
use crate::promise::promised;
use crate::{CASES, FRAMES, RULE_SETS, VFS, cases};

/// Whether an explanation says what comes out, and says each of it.
pub(crate) fn explains(steps: &[Step], outcome: &Outcome) -> bool {
    let gets = steps.iter().filter_map(|step| match step {
        Step::Gets { vf, .. } => Some(vf.0),
        _ => None,
    });
    let dropped = steps.iter().filter_map(|step| match step {
        Step::Dropped(reason) => Some(*reason),
        _ => None,
    });
    let named = steps.iter().all(|step| match step {
        Step::Egress { action, rule }
        | Step::Copied { action, rule }
        | Step::Filter { action, rule }
        | Step::PassedOver { action, rule } => rule.is_some_and(|rule| rule.spec.action == *action),
        _ => true,
    });
    named
        && gets.eq(outcome.vfs.keys().copied())
        && dropped.eq(outcome.drops.iter().copied())
        && steps.iter().any(|step| matches!(step, Step::Wire(_))) == outcome.wire.is_some()
}

/// Both paths, the explanation and the promise say the same of all of this traffic, on the silicon of each of these.
fn all_agree(
    profiles: impl Iterator<Item = Profile>,
    acts: &[Act],
    filters: &[(u8, String, DriverAction)],
    paths: &[Path],
    traffic: &[(Source, Vec<u8>)],
) -> TestCaseResult {
    for profile in profiles {
        let mut host = Host::like(profile, acts, paths);
        let other_paths = paths.iter().map(|path| match path {
            Path::Direct => Path::Mediated,
            Path::Mediated => Path::Auto,
            Path::Auto => Path::Direct,
        });
        let mut other = Host::like(profile, acts, &other_paths.collect::<Vec<_>>());
        host.put_in(filters);
        other.put_in(filters);
        for (source, frame) in traffic {
            let outcome = host.send(*source, frame);
            prop_assert_eq!(&outcome, &other.send(*source, frame));
            let (vfs, wire) = promised(&host, *source, frame);
            prop_assert_eq!((&outcome.vfs, &outcome.wire), (&vfs, &wire));
            let steps = host.policy.why(*source, frame, &meta(frame, 0)).steps;
            prop_assert!(explains(&steps, &outcome), "{:#?} but {:?}", steps, outcome);
        }
    }
    Ok(())
}

// In two tests, which two CPUs have at the same time: no other law takes as long.
proptest! {
    #![proptest_config(cases(RULE_SETS))]

    #[test]
    fn why_says_what_both_paths_do_and_what_is_promised(
        acts in vec(any_act(), 1..40),
        filters in vec((0..VFS, any_fields(), any_driver_action()), 0..6),
        paths in any_paths(),
        traffic in vec(any_traffic(), FRAMES),
    ) {
        all_agree(Profile::all().step_by(2), &acts, &filters, &paths, &traffic)?;
    }

    #[test]
    fn why_says_so_on_the_other_half_of_the_profiles(
        acts in vec(any_act(), 1..40),
        filters in vec((0..VFS, any_fields(), any_driver_action()), 0..6),
        paths in any_paths(),
        traffic in vec(any_traffic(), FRAMES),
    ) {
        all_agree(Profile::all().skip(1).step_by(2), &acts, &filters, &paths, &traffic)?;
    }
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn golden_rule_paths_do_not_change_who_gets_what(
        acts in vec(any_act(), 0..16),
        paths in any_paths(),
        other_paths in any_paths(),
        traffic in vec((any_gap(), proptest::option::weighted(0.2, any_paths()), any_traffic()), 1..16),
        beyond in select(vec![0, 0, 20, 24, 28, 32, MAX_FRAME - 64, MAX_FRAME - 60, MAX_FRAME - 59, MAX_FRAME - 56, MAX_FRAME - 55]),
        cut in proptest::option::weighted(0.3, select(vec![18, 22, 26])),
        profile in select(Profile::all().collect::<Vec<_>>()),
    ) {
        let mut host = Host::like(profile, &acts, &paths);
        let mut other = Host::like(profile, &acts, &other_paths);
        (host.beyond, other.beyond) = (beyond, beyond);
        (host.cut, other.cut) = (cut, cut);
        for (gap, switched, (source, frame)) in traffic {
            host.now += gap;
            other.now = host.now;
            other.set_paths(&switched.unwrap_or_default());
            // Path `auto` learns from the first and takes another path with the next.
            host.send(source, &frame);
            other.send(source, &frame);
            let outcome = host.send(source, &frame);
            prop_assert_eq!(&outcome, &other.send(source, &frame));
            // What `vfnic check paths` asks of frames that pass says so, too.
            let both = BothPaths::of(&host.policy).unwrap();
            let meta = host.meta(&frame);
            let said = host.policy.why(source, &frame, &meta).verdict;
            let differ = both.difference(source, &frame, &meta, Some(&said));
            prop_assert_eq!(differ, None);
            // No super-frame of many segments comes in for a group, nor is any promised.
            let segments = vf_model::OnWire::of(&meta).segments;
            if source == Source::Wire && segments > 128 && vf_model::MacAddr::of_frame(&frame).is_multicast() {
                continue;
            }
            // As it was sent elsewhere, it may have had a tag less.
            let grown = if source == Source::Wire { 4 } else { 0 };
            let (vfs, wire) = if meta.longest() > MAX_FRAME + grown {
                Default::default()
            } else {
                promised(&host, source, &frame)
            };
            prop_assert_eq!(&outcome.vfs, &vfs);
            prop_assert_eq!(&outcome.wire, &wire);
        }
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(host.counters(vf), other.counters(vf));
        }
        // What the port's MTU does not let through is counted where that is found out.
        let port = |host: &Host| {
            let (wire, pf) = (host.nic.wire_counters(), host.hypervisor.pf_counters());
            let mtu = DropReason::MtuExceeded;
            let unfit = wire.tx_drops.get(mtu) + pf.tx_drops.get(mtu);
            let tx = [wire.tx_packets, wire.tx_bytes, wire.tx_multicast, wire.tx_broadcast];
            (tx, unfit, wire.rx_packets, wire.rx_bytes, wire.rx_drops)
        };
        prop_assert_eq!(port(&host), port(&other));
    }

    #[test]
    fn conservation_every_frame_arrives_or_is_counted_once(
        acts in vec(any_act(), 0..16),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..8),
        beyond in select(vec![0, 24, 28]),
    ) {
        let mut host = Host::new(&acts, &paths);
        host.beyond = beyond;
        for (source, frame) in &traffic {
            let (before, copies) = (host.drops(), host.drops_for(DropReason::MtuExceeded));
            let outcome = host.send(*source, frame);
            let arrived = !outcome.vfs.is_empty() || outcome.wire.is_some();
            // Of copies each that is too long for its receiver, and no other.
            let copies = host.drops_for(DropReason::MtuExceeded) - copies;
            let counted = if copies > 0 { copies } else { u64::from(!arrived) };
            prop_assert_eq!(host.drops() - before, counted);
            prop_assert_eq!(outcome.drops.len(), usize::from(!arrived));
        }
        for vf in (0..VFS).map(VfIndex) {
            let sent = traffic.iter().filter(|(s, _)| *s == Source::Vf(vf)).count() as u64;
            let counters = host.counters(vf);
            prop_assert_eq!(counters.tx_packets + counters.tx_drops.total(), sent);
        }
        let arrived = traffic.iter().filter(|(s, _)| *s == Source::Wire).count() as u64;
        let wire = host.nic.wire_counters();
        prop_assert_eq!(wire.rx_packets + wire.rx_drops.total(), arrived);
    }

    #[test]
    fn isolation_and_no_self_delivery(
        mut acts in vec(any_act(), 0..8),
        asked in vec((0..VFS, any_request()), 0..8),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..8),
    ) {
        acts.retain(|act| {
            // A mirror shows one VF what another sees: that is what it is for.
            let filter = |c: &Command| match c {
                Command::VfFilterAdd { .. } | Command::VfFilterDel { .. } => true,
                command => sets_mirror(command),
            };
            !matches!(act, Act::Admin(command) if filter(command))
        });
        let vlans = [100, 100, 200];
        for (vf, vlan) in vlans.iter().enumerate() {
            acts.push(parse(&format!("vf {vf} set vlan {vlan}")).into());
        }
        acts.extend(asked.into_iter().map(|(vf, request)| Act::Driver(VfIndex(vf), request)));
        let mut host = Host::new(&acts, &paths);
        for (source, frame) in traffic {
            let outcome = host.send(source, &frame);
            let Source::Vf(from) = source else { continue };
            prop_assert!(!outcome.vfs.contains_key(&from.0), "its own frame");
            for to in outcome.vfs.keys() {
                let vlan = |vf: u8| vlans.get(usize::from(vf));
                prop_assert!(from.0 == 3 || *to == 3 || vlan(from.0) == vlan(*to), "{from} to {to}");
            }
        }
    }

    /// Whatever is changed while a frame is on its way over the PF, on either side of which the planes take the change at
    /// times of their own: it goes where the policy said by which it was judged, and the next one where the new policy says.
    #[test]
    fn a_frame_between_the_planes_is_not_judged_again(
        acts in vec(any_act(), 0..16),
        change in any_change(),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..8),
    ) {
        for (source, frame) in traffic {
            let mut host = Host::new(&acts, &paths);
            let before = promised(&host, source, &frame);
            let (mut outcome, crossing) = host.enter(source, &frame);
            let _ = host.act(&change);
            if let Some(crossing) = crossing {
                host.cross(crossing, &mut outcome);
            }
            prop_assert_eq!((outcome.vfs, outcome.wire), before);
            let after = host.send(source, &frame);
            prop_assert_eq!((after.vfs, after.wire), promised(&host, source, &frame));
        }
    }

    #[test]
    fn no_bytes_panic(
        head in vec(any::<u8>(), 0..40),
        len: u32,
        gso in proptest::option::of((any::<u16>(), any::<u16>())),
        source in any_source(),
        paths in any_paths(),
    ) {
        let mut host = Host::new(&[], &paths);
        let gso = gso.map(|(header_len, size)| vf_model::Gso { header_len, size });
        let meta = FrameMeta { len, gso };
        let verdict = host.nic.ingress(Nanos(0), source, &head, &meta);
        if len > 65_557 {
            prop_assert!(verdict.drop.is_some());
        }
    }
}
