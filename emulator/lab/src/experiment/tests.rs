//! The experiment's promises, on a shorter run: the figures of the default plan are steady from the first tenth of a
//! second on.

use super::*;

fn short(change: impl FnOnce(&mut ExperimentPlan)) -> ExperimentOutcome {
    let mut plan = ExperimentPlan {
        measure: Nanos(60_000_000),
        warm_up: Nanos(60_000_000),
        ..ExperimentPlan::default()
    };
    change(&mut plan);
    run(&plan, &[ClockMode::Virtual], None, |_, _, _| {}).unwrap()
}

fn within(value: f64, from: f64, to: f64) {
    assert!(
        (from..=to).contains(&value),
        "{value} is not in {from}..={to}"
    );
}

#[test]
fn the_default_plan_reproduces_2009() {
    let outcome = short(|_| {});
    let [mediated, direct] = &outcome.results[..] else {
        panic!("two paths");
    };
    within(mediated.total_mbps, 0.98 * 8454.0, 1.02 * 8454.0);
    within(mediated.hypervisor_cpu, 0.99, 1.001);
    assert_eq!(mediated.bottleneck, "Hypervisor CPU");
    for direction in [direct.a_to_b_mbps, direct.b_to_a_mbps] {
        within(direction, 9200.0, 9300.0);
    }
    within(direct.a_to_b_mbps / direct.b_to_a_mbps, 0.99, 1.01);
    // Times are in whole nanoseconds, and what is measured is not made to fit.
    within(direct.link_utilisation, 0.99, 1.001);
    assert_eq!(direct.bottleneck, "Link (both directions)");
    within(direct.total_mbps / mediated.total_mbps, 2.14, 2.24);
    for result in &outcome.results {
        within(result.spread.unwrap(), 1.0, 1.15);
        assert!(result.drops.is_empty(), "{:?}", result.drops);
    }
    let again = short(|_| {});
    let json = |o: &ExperimentOutcome| serde_json::to_string(o).unwrap();
    assert_eq!(
        json(&outcome),
        json(&again),
        "the same seed, the same bytes"
    );
}

#[test]
fn figures_move_as_theory_says() {
    for change in [
        |p: &mut ExperimentPlan| p.mtu = 9000,
        |p: &mut ExperimentPlan| (p.a_to_b, p.b_to_a) = (2, 0),
        |p: &mut ExperimentPlan| p.link.rate_bps = 25_000_000_000,
        |p: &mut ExperimentPlan| (p.a_to_b, p.b_to_a) = (3, 3),
    ] {
        let outcome = short(change);
        let direct = &outcome.results[1];
        let theory = &outcome.theory;
        within(direct.total_mbps / theory.total_mbps, 0.995, 1.001);
        within(direct.link_utilisation, 0.99, 1.001);
    }
}

#[test]
fn a_slow_hypervisor_is_the_bottleneck_in_proportion() {
    let total = |scale: u64| {
        let outcome = short(|p| p.cost.scale_per_mille *= scale);
        assert_eq!(outcome.results[0].bottleneck, "Hypervisor CPU");
        outcome.results[0].total_mbps
    };
    within(total(1) / total(2), 1.9, 2.5);
}

#[test]
fn super_frames_are_measured_when_rates_have_settled_and_count_as_their_segments() {
    let of = |measure: u64| {
        short(|p| {
            p.offloads = vf_nic::config::Offloads::Tso;
            p.measure = Nanos(measure);
        })
    };
    let (brief, long) = (of(20_000_000), of(200_000_000));
    for outcome in [&brief, &long] {
        let direct = &outcome.results[1];
        assert_eq!(direct.bottleneck, "Link (both directions)");
        assert!(direct.segments_per_ack > 2.0, "{}", direct.segments_per_ack);
        within(direct.total_mbps / outcome.theory.total_mbps, 0.995, 1.001);
    }
    for (brief, long) in brief.results.iter().zip(&long.results) {
        assert!(brief.settled && long.settled, "{}", long.path);
        within(brief.total_mbps / long.total_mbps, 0.99, 1.01);
    }
}

#[test]
fn path_auto_gives_the_direct_figures_after_the_first_packets_of_each_flow() {
    let profile = |p: &mut ExperimentPlan| p.profile = vf_model::Profile::Falcon;
    let two = short(profile);
    let three = short(|p| {
        profile(p);
        p.auto = true;
    });
    assert_eq!(
        three.results[..2],
        two.results,
        "the others are as without it"
    );
    let (direct, auto) = (&three.results[1], &three.results[2]);
    within(auto.total_mbps / direct.total_mbps, 0.99, 1.01);
    for direction in [auto.a_to_b_mbps, auto.b_to_a_mbps] {
        within(direction, 9200.0, 9300.0);
    }
    assert_eq!(auto.bottleneck, "Link (both directions)");
    assert!(auto.drops.is_empty(), "{:?}", auto.drops);
    let frames = auto.auto.as_ref().unwrap();
    let tcp = frames
        .first
        .iter()
        .filter(|flow| !flow.from.ends_with(":0"));
    assert_eq!(
        tcp.clone().count(),
        2 * 8,
        "segments of each stream, and acknowledgements"
    );
    for flow in tcp {
        assert!((1..20).contains(&flow.sent), "{flow:?}");
        assert!((1..20).contains(&flow.received), "{flow:?}");
        assert!(flow.last_us - flow.first_us < 10_000.0, "{flow:?}");
    }
    assert!(
        frames.fastpath_packets > 500 * frames.slowpath_packets,
        "{frames:?}"
    );
    let page = html(&three);
    assert!(page.contains("The first packets of each flow, on the slow path"));
    assert!(text(&three).contains("frames straight through a NIC"));
}

/// The figures that README says, at the moderations that it says them for.
#[test]
fn what_was_fitted_is_shown_by_what_comes_out_with_other_values() {
    let with = short(|p| p.sensitivity = true);
    let sensitivity = with.sensitivity.as_ref().unwrap();
    let moderation = &sensitivity.moderation_us;
    for (us, mbps) in [(20.0, 7008.0), (40.0, 8459.0), (200.0, 10_043.0)] {
        let point = moderation.iter().find(|point| point.value == us).unwrap();
        within(point.total_mbps, mbps * 0.97, mbps * 1.03);
        assert_eq!(point.chosen, us == 40.0);
    }
    for points in [moderation, &sensitivity.cost_scale] {
        assert_eq!(points.iter().filter(|point| point.chosen).count(), 1);
        assert!(points.iter().map(|point| point.value).is_sorted());
    }
    assert!(moderation.iter().map(|point| point.total_mbps).is_sorted());
    let by_cost = sensitivity.cost_scale.iter().rev();
    assert!(by_cost.map(|point| point.total_mbps).is_sorted());
    let without = short(|_| {});
    assert_eq!(with.results, without.results, "they change nothing else");
    assert_eq!(without.sensitivity, None);
}

#[test]
fn a_rate_on_the_wire_is_named_as_what_binds() {
    let outcome = short(|plan| {
        plan.netem = Some("rate 1gbit".parse().unwrap());
        (plan.a_to_b, plan.b_to_a) = (2, 0);
    });
    within(outcome.theory.total_mbps, 964.0, 965.0);
    let direct = &outcome.results[1];
    assert_eq!(
        direct.bottleneck, "Impairment (rate)",
        "{}",
        direct.total_mbps
    );
}

#[test]
fn a_row_of_a_single_run_says_who_has_made_it() {
    let mut outcome = short(|plan| plan.measure = Nanos(1_000_000));
    outcome.made_by = Some(crate::provenance::Provenance {
        version: "vfnic 0".to_owned(),
        commit: None,
        machine: "none".to_owned(),
        load: None,
    });
    let made_by = outcome.made_by.as_ref().map(ToString::to_string);
    let series = series::Series {
        made_by: None,
        runs: vec![outcome],
    };
    let row = &series.rows()[0];
    assert_eq!(row.made_by, made_by);
}
