//! The command that makes runs again: each option that is not its default. Never says which files were written.

use std::collections::BTreeSet;

use vf_nic::config::{DeviceKind, Offloads};

use crate::experiment::outcome::ExperimentOutcome;
use crate::experiment::plan::{ExperimentPlan, Tool};

/// The command of these runs, which have all in common but streams, MTUs and seeds; without the files to write.
pub(super) fn command(runs: &[ExperimentOutcome]) -> String {
    let Some(first) = runs.first() else {
        return String::new();
    };
    let (plan, defaults) = (&first.plan, ExperimentPlan::default());
    let mut words = format!("vfnic experiment {}", first.seed);
    let mut say = |option: &str, value: String| words += &format!(" --{option} {value}");
    let streams = in_order(runs.iter().map(|run| {
        let plan = &run.plan;
        format!("{}x{}", plan.a_to_b_streams, plan.b_to_a_streams)
    }));
    let usual = format!("{}x{}", defaults.a_to_b, defaults.b_to_a);
    match (first.guests.as_str(), streams == [usual]) {
        ("embedded", true) => {}
        ("embedded", false) => say("guests", streams.join(",")),
        (who, true) => say("guests", who.to_owned()),
        (who, false) => say("guests", format!("{who}:{}", streams.join(","))),
    }
    if first.clock != "virtual" {
        say("clock", first.clock.clone());
    }
    let mtus = in_order(runs.iter().map(|run| run.plan.mtu.to_string()));
    if mtus != ["1500"] {
        say("mtu", mtus.join(","));
    }
    let seeds: BTreeSet<u64> = runs.iter().map(|run| run.seed).collect();
    if seeds.len() > 1 {
        say("repeat", seeds.len().to_string());
    }
    let usual = if plan.tool.is_some() { 1.0 } else { 2.0 };
    if plan.seconds != usual {
        say("seconds", plan.seconds.to_string());
    }
    if plan.rate_mbps != 10_000.0 {
        say("rate", format!("{}M", plan.rate_mbps));
    }
    if let Some(netem) = &plan.netem {
        say("netem", format!("'{netem}'"));
    }
    if let Some(window) = plan.window.filter(|window| *window != defaults.window) {
        say("window", (window / 1024).to_string());
    }
    if plan.profile != defaults.profile {
        say("profile", plan.profile.to_string());
    }
    match plan.offloads {
        Offloads::None => say("offloads", "none".to_owned()),
        Offloads::Csum => {}
        Offloads::Tso => say("offloads", "tso".to_owned()),
    }
    if plan.device != DeviceKind::Virtio {
        say("device", plan.device.to_string());
    }
    if plan.tool == Some(Tool::Netperf) {
        say("tool", "netperf".to_owned());
    }
    if plan.interrupt_moderation_ns != defaults.moderation.0 {
        say("moderation", format!("{}ns", plan.interrupt_moderation_ns));
    }
    if first.results.iter().any(|result| result.path == "auto") {
        say("path", "auto".to_owned());
    }
    if first.sensitivity.is_some() {
        words += " --sensitivity";
    }
    words
}

/// Each of them once, in the order in which they come.
fn in_order(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut once: Vec<String> = Vec::new();
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}
