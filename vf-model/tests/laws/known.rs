//! What is remembered of frames is said again only while it holds.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use vf_model::{
    Command, Hop, Judge, LinkSetting, Nanos, Nic, Path, Source, To, Verdict, VfIndex, VfSetting,
};

use crate::any::{any_act, any_change, any_packet, any_paths, any_traffic, frame, parse};
use crate::host::{Host, meta};
use crate::{CASES, VFS, cases};

#[test]
fn a_train_of_frames_is_known_by_its_first() {
    let mut host = Host::new(&[], &[Path::Direct; 4]);
    let (vf, to) = (VfIndex(0), VfIndex(1));
    let (frame, beyond) = (frame(1, 0), frame(77, 0));
    let meta = meta(&frame, 0);
    let again = |host: &mut Host, frame: &[u8]| {
        host.nic
            .ingress_again(host.now, Source::Vf(vf), frame, &meta)
            .map(|again| again.hop)
    };
    let hop = |to| Some(Hop { to, insert: None });
    assert_eq!(again(&mut host, &frame), None, "not before it was judged");
    for frame in [&frame, &beyond] {
        host.nic.ingress(host.now, Source::Vf(vf), frame, &meta);
    }
    assert_eq!(again(&mut host, &frame), hop(To::Vf(to)));
    assert_eq!(again(&mut host, &beyond), hop(To::Wire));
    assert_eq!(host.nic.wire_counters().tx_packets, 2);
    assert_eq!(again(&mut host, &frame), hop(To::Vf(to)));
    assert_eq!(host.nic.counters(vf).tx_packets, 5);
    let settings = vec![VfSetting::Path(Path::Mediated)];
    host.act(
        &Command::SetVf {
            vfs: to.into(),
            settings,
        }
        .into(),
    )
    .unwrap();
    assert_eq!(again(&mut host, &frame), None, "it no longer holds");
}

/// The hypervisor, too, forgets what it has said of frames when the policy changes.
#[test]
fn the_mediated_path_forgets_its_verdicts_with_the_policy() {
    let mut host = Host::new(&[], &[Path::Mediated; VFS as usize]);
    let (from, sent) = (Source::Vf(VfIndex(0)), frame(1, 0));
    for _ in 0..2 {
        assert_eq!(host.send(from, &sent).vfs.len(), 1);
    }
    host.act(&parse("vf 1 set vlan 10").into()).unwrap();
    assert!(host.send(from, &sent).vfs.is_empty());
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn what_was_said_before_is_said_again_only_while_it_holds(
        traffic in any_traffic(),
        packets in vec(any_packet(), 1..4),
        paths in any_paths(),
        turns in vec((proptest::option::weighted(0.3, any_change()), any::<prop::sample::Index>(), select(vec![0, 0, 24, 28])), 1..40),
    ) {
        let (source, frame) = traffic;
        let with = |packet: Vec<u8>| [&frame[..12], &packet].concat();
        let frames: Vec<_> = packets.into_iter().map(with).chain([frame.clone()]).collect();
        let mut host = Host::new(&[], &paths);
        for (act, pick, beyond) in turns {
            if let Some(act) = act {
                // Refused or not: what counts is what is said afterwards.
                let _ = host.act(&act);
            }
            let frame = pick.get(&frames);
            let mut forgetful = host.nic.clone();
            let link = Command::SetLink(vec![LinkSetting::Up(host.policy.link_up())]);
            forgetful.adopt(Arc::new(host.policy.with(&link).unwrap()));
            let meta = meta(frame, beyond);
            let from = match source {
                Source::Vf(vf) => Some(vf),
                Source::Wire => None,
            };
            let again = host.nic.ingress_again(host.now, source, frame, &meta);
            let verdict = match again.map(|again| again.hop) {
                Some(Hop { to: To::Vf(to), insert }) => Verdict {
                    vfs: [to].into_iter().collect(),
                    insert,
                    from,
                    ..Verdict::default()
                },
                Some(Hop { to: To::Wire, insert }) => Verdict {
                    wire: true,
                    insert,
                    from,
                    ..Verdict::default()
                },
                None => host.nic.ingress(host.now, source, frame, &meta),
            };
            prop_assert_eq!(verdict, forgetful.ingress(host.now, source, frame, &meta));
            prop_assert_eq!(host.nic.wire_counters(), forgetful.wire_counters());
            prop_assert_eq!(host.nic.pf_counters(), forgetful.pf_counters());
            let hits = |nic: &Nic| -> Vec<_> {
                let counted = host.policy.filter_table().numbered();
                let counted = counted.filter_map(|filter| host.policy.filter_counter(&filter));
                counted.map(|counter| nic.published().hits.read(counter)).collect()
            };
            prop_assert_eq!(hits(&host.nic), hits(&forgetful));
            for vf in (0..VFS).map(VfIndex) {
                prop_assert_eq!(host.nic.counters(vf), forgetful.counters(vf));
            }
        }
    }

    #[test]
    fn replicas_that_adopt_at_other_times_say_the_same_of_the_same_policy(
        acts in vec(any_act(), 1..24),
        missed in vec(any::<bool>(), 24),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..8),
    ) {
        let mut host = Host::new(&[], &paths);
        let mut replica = host.nic.clone();
        for (act, missed) in acts.iter().zip(missed) {
            let _ = host.act(act);
            // Busy elsewhere: it sees only the next one.
            if !missed {
                replica.adopt(Arc::clone(&host.policy));
            }
            for (source, frame) in &traffic {
                let meta = meta(frame, 0);
                host.nic.ingress(Nanos(0), *source, frame, &meta);
                replica.ingress(Nanos(0), *source, frame, &meta);
            }
        }
        replica.adopt(Arc::clone(&host.policy));
        let mut fresh = Nic::new(Arc::clone(&host.policy));
        for (source, frame) in &traffic {
            let judge = |nic: &mut Nic| nic.ingress(Nanos(0), *source, frame, &meta(frame, 0));
            let verdict = judge(&mut host.nic);
            prop_assert_eq!(judge(&mut replica), verdict);
            prop_assert_eq!(judge(&mut fresh), verdict);
        }
    }
}
