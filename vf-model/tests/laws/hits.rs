//! Frames that a filter has decided on are counted for it, whoever judges them and whether or not they are judged again.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use vf_model::{CounterId, Judge, NumberedFilter, Path, Profile, Source, Step, VfIndex};

use crate::any::{
    any_act, any_driver_action, any_fields, any_filter_command, any_paths, any_traffic, flow_frame,
    parse,
};
use crate::host::{Host, meta};
use crate::{BASE, CASES, VFS, cases};

/// What both planes have counted together.
fn hits(host: &Host, counter: CounterId) -> u64 {
    let planes = [host.nic.published().hits, host.hypervisor.published().hits];
    planes.iter().map(|plane| plane.read(counter)).sum()
}

/// Each filter that is in force, and its frames.
fn table_hits(host: &Host) -> Vec<(NumberedFilter, u64)> {
    let filters = host.policy.filter_table().numbered();
    let counted = filters.filter_map(|filter| {
        let counter = host.policy.filter_counter(&filter)?;
        Some((filter, hits(host, counter)))
    });
    counted.collect()
}

/// Frames of the filters of the driver of a VF that lie in no table.
fn own_hits(host: &Host, vf: VfIndex) -> u64 {
    let own = host.policy.driver_filters(vf).iter();
    let own = own.filter(|filter| !filter.is_in_table());
    let counters = own.filter_map(|filter| host.policy.driver_filter_counter(vf, filter));
    counters.map(|counter| hits(host, counter)).sum()
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn the_hits_of_all_filters_are_the_frames_that_why_says_they_decided(
        acts in vec(any_act(), 0..16),
        filters in vec(any_filter_command(), 1..12),
        own in vec((0..VFS, any_fields(), any_driver_action()), 0..6),
        paths in any_paths(),
        traffic in vec(any_traffic(), 1..6),
        turns in vec((any::<Index>(), 1..4, any::<bool>(), proptest::option::weighted(0.2, any_filter_command())), 1..24),
        profile in select(Profile::all().collect::<Vec<_>>()),
    ) {
        let mut host = Host::like(profile, &acts, &paths);
        for filter in filters {
            let _ = host.act(&filter.into());
        }
        host.put_in(&own);
        let mut in_table: Vec<(CounterId, u64)> = Vec::new();
        let mut of_drivers = [0; VFS as usize];
        for (pick, times, trains, change) in turns {
            let (source, frame) = pick.get(&traffic);
            let meta = meta(frame, 0);
            for _ in 0..times {
                for step in host.policy.why(*source, frame, &meta).steps {
                    match step {
                        Step::Egress { rule, .. } | Step::Filter { rule, .. } | Step::Copied { rule, .. } => {
                            let counter = host.policy.filter_counter(&rule.unwrap()).unwrap();
                            match in_table.iter_mut().find(|(other, _)| *other == counter) {
                                Some((_, frames)) => *frames += 1,
                                None => in_table.push((counter, 1)),
                            }
                        }
                        Step::DriverDrops(vf) | Step::DriverTakes(vf) => of_drivers[vf.index()] += 1,
                        _ => {}
                    }
                }
                let direct = match source {
                    Source::Vf(vf) => host.policy.vf(*vf).path == Path::Direct,
                    Source::Wire => true,
                };
                let known = trains && direct;
                if !known || host.nic.ingress_again(host.now, *source, frame, &meta).is_none() {
                    host.send(*source, frame);
                }
            }
            for (filter, hits) in table_hits(&host) {
                let counter = host.policy.filter_counter(&filter).unwrap();
                let said = in_table.iter().find(|(other, _)| *other == counter);
                prop_assert_eq!(hits, said.map_or(0, |(_, frames)| *frames), "{}", filter.spec);
            }
            for vf in (0..VFS).map(VfIndex) {
                prop_assert_eq!(own_hits(&host, vf), of_drivers[vf.index()]);
            }
            if let Some(change) = change {
                let _ = host.act(&change.into());
            }
        }
    }
}

/// Two filters that say the same have one verdict, and each its own frames.
#[test]
fn filters_that_say_the_same_are_counted_apart() {
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::new(&[], &[path; VFS as usize]);
        for port in [5000, 5001] {
            let flow = "flow-type tcp4 dst-ip 10.0.0.9 dst-port 80 src-ip 10.0.0.2 src-port";
            let add = parse(&format!("filter add {flow} {port} vf 1"));
            host.act(&add.into()).unwrap();
        }
        let mut frame = flow_frame(BASE.offset(2), BASE);
        let low = frame.iter().rposition(|byte| *byte == 0x88).unwrap();
        for port in [0x88, 0x88, 0x89, 0x88, 0x8a] {
            frame[low] = port;
            host.send(Source::Vf(VfIndex(0)), &frame);
        }
        let hits: Vec<_> = table_hits(&host).iter().map(|(_, hits)| *hits).collect();
        assert_eq!(hits, [3, 1], "{path}");
    }
}

/// One that takes the place of another begins anew, in whichever row; the others go on.
#[test]
fn a_filter_that_is_replaced_is_counted_anew() {
    let mut host = Host::new(&[], &[Path::Direct; VFS as usize]);
    let words = "flow-type ether dst 02:00:00:00:00:77 vf";
    let act = |host: &mut Host, words: &str| host.act(&parse(words).into()).unwrap();
    act(&mut host, &format!("filter add {words} 1"));
    act(&mut host, "filter add flow-type ether proto 0x800 vf 2");
    let mut to_77 = flow_frame(BASE, BASE.offset(9));
    to_77[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    let other = flow_frame(BASE.offset(66), BASE.offset(9));
    for frame in [&to_77, &to_77, &other] {
        host.send(Source::Wire, frame);
    }
    let counted = |host: &Host| -> Vec<_> { table_hits(host).iter().map(|(_, n)| *n).collect() };
    assert_eq!(counted(&host), [2, 1]);
    act(&mut host, &format!("filter replace {words} 3"));
    assert_eq!(counted(&host), [0, 1]);
    host.send(Source::Wire, &to_77);
    assert_eq!(counted(&host), [1, 1]);
    // Another filter in its place.
    act(
        &mut host,
        "filter del flow-type ether dst 02:00:00:00:00:77",
    );
    act(
        &mut host,
        "filter add flow-type ether dst 02:00:00:00:00:78 vf 3",
    );
    assert_eq!(counted(&host), [0, 1]);
    act(&mut host, "filter flush");
    act(&mut host, &format!("filter add {words} 1"));
    assert_eq!(counted(&host), [0]);
}
