//! What the page and the summary say of made-up outcomes. Runs no experiment.

use std::collections::BTreeMap;

use super::*;
use crate::experiment::outcome::{Calibration, Directions, Hosts, Original, Sample};
use crate::experiment::plan::ExperimentPlan;
use crate::experiment::theory;

fn plan() -> PlanView {
    PlanView {
        a_to_b_streams: 4,
        b_to_a_streams: 4,
        mtu: 1500,
        rate_mbps: 10_000.0,
        propagation_ns: 500,
        netem: None,
        seconds: 2.0,
        warm_up_seconds: 0.2,
        tool: None,
        window: Some(256 * 1024),
        profile: vf_model::Profile::Generic,
        offloads: Offloads::Csum,
        device: vf_nic::config::DeviceKind::Virtio,
        interrupt_moderation_ns: 20_000,
    }
}

/// A made-up path, `each` Mb/s a stream, more or less.
fn path(plan: &PlanView, path: &str, clock: &str, each: f64, link: f64, cpu: f64) -> PathResult {
    let a = usize::from(plan.a_to_b_streams);
    let streams: Vec<f64> = (0..a + usize::from(plan.b_to_a_streams))
        .map(|i| each * (1.0 + 0.011 * (i % 3) as f64 - 0.01 * (i % 2) as f64))
        .collect();
    let (a_to_b_mbps, b_to_a_mbps) = (streams[..a].iter().sum(), streams[a..].iter().sum());
    let link = Directions {
        a_to_b: link,
        b_to_a: link * 0.999,
    };
    let hypervisor = Hosts {
        a: cpu,
        b: cpu * 0.998,
    };
    let wobble =
        |i: u32, share: f64| (share + 0.012 * f64::from(i * 7 % 5) - 0.024).clamp(0.0, 1.0);
    PathResult {
        path: path.into(),
        clock: clock.into(),
        warm_up_seconds: 0.2,
        settled: true,
        a_to_b_mbps,
        b_to_a_mbps,
        total_mbps: a_to_b_mbps + b_to_a_mbps,
        spread: Some(1.022),
        starved: 0,
        link_utilisation: link.a_to_b,
        link,
        hypervisor_cpu: cpu,
        hypervisor,
        bottleneck: theory::bottleneck(
            link,
            hypervisor,
            (plan.a_to_b_streams > 0, plan.b_to_a_streams > 0),
        ),
        segments_per_ack: 2.004,
        timestamps: false,
        digest: None,
        reported: Vec::new(),
        drops: BTreeMap::new(),
        cpu_seconds: BTreeMap::new(),
        auto: None,
        samples: (1..=20)
            .map(|i| Sample {
                at_s: f64::from(i) * plan.seconds / 20.0,
                a_to_b_mbps,
                b_to_a_mbps,
                link_utilisation: wobble(i, link.a_to_b),
                hypervisor_cpu: wobble(i + 2, cpu),
            })
            .collect(),
        streams,
        timeline: None,
    }
}

fn outcome(plan: PlanView, clock: &str, results: Vec<PathResult>) -> ExperimentOutcome {
    ExperimentOutcome {
        made_by: None,
        guests: "embedded".into(),
        clock: clock.into(),
        seed: 7,
        theory: theory::theory(&plan, 2.004, false),
        plan,
        results,
        original: Original::PUBLISHED,
        sensitivity: None,
        calibration: Calibration {
            constant: "hypervisor_cost_scale",
            value: 1.0625,
            note: "Fitted so that 8 pairs at MTU 1500 come to 8454 Mb/s through the hypervisor, the total published in 2009. \
                   It is not a measurement of any CPU; every other figure follows from the model.",
        },
    }
}

/// As `vfnic experiment` without options.
fn usual() -> ExperimentOutcome {
    let plan = plan();
    let results = vec![
        path(&plan, "mediated", "virtual", 1052.0, 0.461, 0.999),
        path(&plan, "direct", "virtual", 2299.0, 0.998, 0.004),
    ];
    outcome(plan, "virtual", results)
}

/// With all that a page can show.
fn everything() -> ExperimentOutcome {
    let plan = plan();
    let mut wall = path(&plan, "mediated", "wall", 640.0, 0.28, 0.42);
    wall.drops = BTreeMap::from([("no_rx_buffer".into(), 12_345), ("<i>".into(), 1)]);
    wall.cpu_seconds = BTreeMap::from([("worker-0".into(), 1.5), ("hypervisor".into(), 2.25)]);
    let mut results = usual().results;
    results.extend([wall, path(&plan, "direct", "wall", 1320.0, 0.57, 0.0)]);
    let point = |value, total_mbps, chosen| SensitivityPoint {
        value,
        total_mbps,
        chosen,
    };
    ExperimentOutcome {
        sensitivity: Some(Sensitivity {
            seconds: 0.1,
            moderation_us: vec![point(20.0, 7008.0, false), point(40.0, 8461.0, true)],
            cost_scale: vec![point(0.375, 8461.0, true), point(0.5, 6400.4, false)],
        }),
        ..outcome(plan, "both", results)
    }
}

/// One way, more streams than 2009 had, one path.
fn odd() -> ExperimentOutcome {
    let plan = PlanView {
        a_to_b_streams: 19,
        b_to_a_streams: 0,
        mtu: 9000,
        ..plan()
    };
    let results = vec![path(&plan, "direct", "virtual", 519.0, 0.999, 0.0)];
    outcome(plan, "virtual", results)
}

#[test]
fn a_page_needs_nothing_else() {
    for outcome in [
        usual(),
        everything(),
        odd(),
        outcome(plan(), "virtual", Vec::new()),
    ] {
        let page = html(&outcome);
        for outside in [
            "http:", "https:", "src=", "href=", "url(", "@import", "<script",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
        for broken in ["NaN", "inf", "<i>"] {
            assert!(!page.contains(broken), "{broken}");
        }
        for tag in [
            "section", "svg", "div", "figure", "text", "p", "table", "tr", "article", "ul", "main",
        ] {
            let opened = page.matches(&format!("<{tag} ")).count()
                + page.matches(&format!("<{tag}>")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert_eq!(page, html(&outcome.clone()));
    }
}

#[test]
fn the_headline_is_the_runs_own() {
    let page = html(&usual());
    assert!(page.contains("<h1>Direct carries 2.19 times what the hypervisor does</h1>"));
    assert!(
        page.contains("Hypervisor CPU, 99.9 % busy")
            && page.contains("Link (both directions), 99.7 % busy")
    );
    assert!(page.contains("vfnic experiment 7"));
    assert!(html(&odd()).contains("<h1>The direct path carries 9.92 Gb/s</h1>"));
    assert!(html(&outcome(plan(), "wall", Vec::new())).contains("<h1>Nothing was run</h1>"));
}

#[test]
fn streams_of_2009_stand_beside_their_like_only() {
    let usual = html(&usual());
    let (a_to_b, b_to_a) = usual.split_once("Host B to host A").unwrap();
    assert!(a_to_b.contains("direct in 2009: 2\u{202f}318 Mb/s"));
    assert!(b_to_a.contains("mediated in 2009: 1\u{202f}021 Mb/s"));
    let odd = html(&odd());
    assert!(!odd.contains("direct in 2009:") && odd.contains("a landmark only"));
    assert!(odd.contains("Host A to host B") && !odd.contains("Host B to host A"));
}

#[test]
fn clocks_have_sections_of_their_own() {
    let page = html(&everything());
    let (virtual_part, wall) = page.split_once("On this machine's clock").unwrap();
    assert!(virtual_part.contains("On the virtual clock") && !virtual_part.contains("worker-0"));
    assert!(
        wall.contains("no_rx_buffer 12\u{202f}345")
            && wall.contains("worker-0 1.50")
            && wall.contains("3.75 in all")
    );
    assert!(
        wall.contains("<strong>Guests</strong>")
            && !virtual_part.contains("<strong>Guests</strong>")
    );
}

#[test]
fn the_console_summary() {
    for outcome in [
        usual(),
        everything(),
        odd(),
        outcome(plan(), "virtual", Vec::new()),
    ] {
        let text = text(&outcome);
        for line in text.lines() {
            assert!(
                line.chars().count() <= 100 && line.trim_end() == line,
                "{line:?}"
            );
        }
        assert!(text.ends_with('\n') && !text.contains("NaN"));
    }
    let text = text(&usual());
    let want = "\
Mediated path, virtual clock             Mb/s     link    hypervisor
  A to B   1052   1053   1075   1041     4222   46.1 %      99.9 % A
  B to A   1064   1065   1052   1053     4233   46.1 %      99.7 % B
  total                                  8455
  Bound by  Hypervisor CPU, 99.9 % busy; fastest / slowest 1.022, 2.00 segments an ACK, measured
            from 0.2 s on
";
    assert!(text.contains(want), "{text}");
    assert!(
        text.contains("direct / mediated = 2.19 on the virtual clock (2009: 2.19)"),
        "{text}"
    );
    assert!(
        text.contains("Calibrated  hypervisor_cost_scale = 1.0625: Fitted"),
        "{text}"
    );
}

#[test]
fn thousands_are_set_apart() {
    assert_eq!(thousands(999.4), "999");
    assert_eq!(thousands(1000.0), "1\u{202f}000");
    assert_eq!(thousands(1_234_567.0), "1\u{202f}234\u{202f}567");
}

#[test]
fn a_run_that_has_not_settled_says_so() {
    let mut outcome = usual();
    assert!(!text(&outcome).contains("not settled"));
    outcome.results[1].settled = false;
    outcome.results[1].warm_up_seconds = 5.0;
    let said = "rates had not settled after 5 s";
    assert!(text(&outcome).contains(said) && html(&outcome).contains(said));
}

#[test]
fn how_far_the_result_depends_on_what_was_fitted_is_shown_if_it_was_asked() {
    let page = html(&everything());
    for said in [
        "20 \u{b5}s</span>",
        "<b>7\u{202f}008</b>",
        "40 \u{b5}s, as here</span>",
        "<rect class=\"mediated-bar\" width=\"100.0\"",
        "0.375, as here</span>",
        "<b>6\u{202f}400</b>",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert!(!html(&usual()).contains("How far the mediated figure"));
    let text = text(&everything());
    let said: Vec<_> = text.split_whitespace().collect();
    let said = said.join(" ");
    assert!(
        said.contains("by moderation, 7008 at 20 us, 8461 at 40 us; by cost scale, 8461 at 0.375, 6400 at 0.5 (Mb/s, 0.1 s each)"),
        "{text}"
    );
}

#[test]
fn a_page_says_how_to_make_it_again() {
    let said = |outcome: &ExperimentOutcome| again::command(std::slice::from_ref(outcome));
    let default = |mut outcome: ExperimentOutcome| {
        outcome.plan.interrupt_moderation_ns = ExperimentPlan::default().moderation.0;
        outcome
    };
    assert_eq!(said(&default(usual())), "vfnic experiment 7");
    assert_eq!(
        said(&default(everything())),
        "vfnic experiment 7 --clock both --sensitivity"
    );
    let odd = default(odd());
    assert_eq!(said(&odd), "vfnic experiment 7 --guests 19x0 --mtu 9000");
    let mut other = odd;
    other.seed = 8;
    assert_eq!(
        again::command(&[default(usual()), other.clone()]),
        "vfnic experiment 7 --guests 4x4,19x0 --mtu 1500,9000 --repeat 2"
    );
    other.plan.seconds = 0.05;
    other.plan.rate_mbps = 1000.0;
    other.plan.netem = Some("delay 1ms".to_owned());
    other.plan.offloads = Offloads::Tso;
    other.plan.profile = vf_model::Profile::Falcon;
    other.plan.interrupt_moderation_ns = 1000;
    assert_eq!(
        said(&other),
        "vfnic experiment 8 --guests 19x0 --mtu 9000 --seconds 0.05 --rate 1000M --netem 'delay 1ms' \
         --profile falcon --offloads tso --moderation 1000ns"
    );
    assert!(html(&other).contains("vfnic experiment 8 --guests 19x0"));
}

#[test]
fn every_colour_of_a_legend_is_in_the_style_sheet() {
    let style = include_str!("../../page/style.css");
    for n in 0..4 {
        for part in ["bar", "line"] {
            let class = format!(".{}-{part} {{", crate::page::chart::hue(n));
            assert!(style.contains(&class), "{class}");
        }
    }
}
