//! The commands of the laboratory: NICs on the virtual clock, scenarios, experiments.

use std::path::Path;
use std::time::Duration;

use vf_model::{LinkConfig, Nanos, Profile};
use vfnic::cli::{self, ClockChoice, GuestsWord, ProfileWord, Which};
use vfnic::config::{Config, parse_rate};
use vfnic::experiment::{self, ClockMode, ExperimentPlan, Guests};
use vfnic::linux::Image;
use vfnic::scenario::{self, CompareError, GuestKind};
use vfnic::server::ready::Ready;
use vfnic::timetravel::{self, Simulation, SimulationError};

use super::{Failure, failed, print, refused, signals, usage};
use crate::progress::Progress;

/// The seed of an experiment that is not given another.
const SEED: u64 = 2009;

/// NICs on the virtual clock, until their guests have ended.
pub(crate) fn run_virtual(
    config: &Config,
    args: cli::VirtualClock,
    ready_fd: Option<u32>,
) -> Result<(), Failure> {
    let until = match args.until {
        Some(seconds) if !(0.0..=1e9).contains(&seconds) => {
            return Err(usage(format!("--until {seconds}: 0 to 1e9 seconds")));
        }
        until => until.map(|seconds| Nanos((seconds * 1e9) as u64)),
    };
    let settings = timetravel::Settings {
        calendar: args.calendar.unwrap_or_default(),
        guests: args.wait_for.unwrap_or(1),
        shared: !args.messages,
        until,
        watchdog: Duration::from_secs(args.watchdog),
        moderation: args.moderation,
        digest: args.digest,
    };
    let report = |e: SimulationError| if e.is_usage() { usage(e) } else { failed(e) };
    let signals = signals()?;
    let mut ready = Ready::claim(config, ready_fd).map_err(refused)?;
    let mut simulation = Simulation::start(config, settings).map_err(report)?;
    simulation.stop_on(signals);
    ready.announce().map_err(refused)?;
    let summary = simulation.run().map_err(report)?;
    print(&format!("{summary}\n"))?;
    if summary.faults.is_empty() {
        Ok(())
    } else {
        Err(failed(summary.faults.join("; ")))
    }
}

pub(crate) fn run_experiment(args: &cli::Experiment) -> Result<(), Failure> {
    let plan = plan(args)?;
    let clocks: &[ClockMode] = match args.clock {
        ClockChoice::Virtual => &[ClockMode::Virtual],
        ClockChoice::Wall => &[ClockMode::Wall],
        ClockChoice::Both => &[ClockMode::Virtual, ClockMode::Wall],
    };
    // Whoever has started guests ends them, too.
    let stop = (plan.guests != Guests::Embedded)
        .then(signals)
        .transpose()?;
    let mut progress = Progress::new();
    let outcome = experiment::run(&plan, clocks, stop.as_ref(), |clock, path, done| {
        progress.show(&format!("{clock} clock, {path}"), done);
    })
    .map_err(failed)?;
    drop(progress);
    print(&experiment::text(&outcome))?;
    if let Some(file) = &args.json {
        let mut json = serde_json::to_string_pretty(&outcome).map_err(failed)?;
        json.push('\n');
        write(file, &json)?;
    }
    if let Some(file) = &args.report {
        write(file, &experiment::html(&outcome))?;
        print(&format!("\nReport: {}\n", file.display()))?;
    }
    Ok(())
}

fn plan(args: &cli::Experiment) -> Result<ExperimentPlan, Failure> {
    let defaults = ExperimentPlan::default();
    let (mut kind, mut streams) = (None, None);
    for word in &args.guests {
        let first = match word {
            GuestsWord::Kind(which) => kind.replace(*which).is_none(),
            GuestsWord::Streams(a, b) => streams.replace((*a, *b)).is_none(),
        };
        if !first {
            return Err(usage("--guests: said twice"));
        }
    }
    let seed = match (args.which, args.seed) {
        (Which::Numbered(_), Some(_)) => return Err(usage("two seeds: say one of them")),
        (Which::Numbered(seed), None) => seed,
        (Which::Seed, seed) => seed.unwrap_or(SEED),
    };
    let guests = match kind.unwrap_or(GuestKind::Embedded) {
        GuestKind::Embedded if args.image.is_some() || args.tool.is_some() => {
            return Err(usage("--image and --tool are for --guests linux"));
        }
        GuestKind::Embedded => Guests::Embedded,
        GuestKind::Linux if args.clock != ClockChoice::Virtual => {
            return Err(usage("Linux guests are on the virtual clock only"));
        }
        GuestKind::Linux if args.window.is_some() => {
            return Err(usage(
                "--window is for embedded guests: Linux sizes its windows itself",
            ));
        }
        GuestKind::Linux => Guests::Linux {
            image: Image::find(args.image.as_deref()).map_err(usage)?,
            tool: args.tool.unwrap_or_default(),
        },
    };
    let linux = guests != Guests::Embedded;
    let seconds = args.seconds.unwrap_or(if linux { 1.0 } else { 2.0 });
    if !(0.01..=3600.0).contains(&seconds) {
        return Err(usage(format!(
            "--seconds {seconds}: 0.01 to 3600 seconds can be measured"
        )));
    }
    for file in args.json.iter().chain(&args.report) {
        let dir = file.parent().filter(|d| !d.as_os_str().is_empty());
        if dir.is_some_and(|d| !d.is_dir()) {
            return Err(usage(format!(
                "{}: there is no such folder",
                file.display()
            )));
        }
    }
    let (a_to_b, b_to_a) = streams.unwrap_or((defaults.a_to_b, defaults.b_to_a));
    Ok(ExperimentPlan {
        guests,
        auto: args.path.is_some(),
        seed,
        a_to_b,
        b_to_a,
        mtu: args.mtu,
        link: LinkConfig {
            rate_bps: parse_rate(&args.rate).map_err(usage)?,
            ..defaults.link
        },
        netem: args.netem.clone(),
        measure: Nanos((seconds * 1e9) as u64),
        window: args
            .window
            .map_or(defaults.window, |kib| kib as usize * 1024),
        profile: args.profile,
        offloads: args.offloads,
        sensitivity: args.sensitivity,
        moderation: args.moderation.unwrap_or(defaults.moderation),
        ..defaults
    })
}

pub(crate) fn run_scenario(command: cli::Scenario) -> Result<(), Failure> {
    let args = match command {
        cli::Scenario::Check { file } => {
            let checked = scenario::ScenarioPlan::load(&file, None, None);
            return checked.map(drop).map_err(usage);
        }
        cli::Scenario::Run(args) => args,
    };
    let profile = match (args.profile, args.files.as_slice()) {
        (None, [_]) => None,
        (Some(ProfileWord::One(profile)), [_]) => Some(profile),
        _ => return compare_scenarios(&args),
    };
    let [file] = args.files.as_slice() else {
        return Ok(()); // there is one
    };
    let mut plan = scenario::ScenarioPlan::load(file, args.guests, profile).map_err(usage)?;
    plan.snaplen = args.snaplen.unwrap_or(plan.snaplen);
    let stop = match plan.kind {
        // Guests that are processes of their own do not end by themselves.
        GuestKind::Linux => Some(signals()?),
        GuestKind::Embedded => None,
    };
    let options = scenario::Options {
        out: args.out,
        image: args.image,
        stop,
    };
    let mut progress = Progress::new();
    let outcome = scenario::run(&plan, options, |done| progress.show("scenario", done))
        .map_err(|e| if e.is_usage() { usage(e) } else { failed(e) })?;
    drop(progress);
    if args.json {
        let json = serde_json::to_string_pretty(&outcome).map_err(failed)?;
        print(&format!("{json}\n"))?;
    } else {
        print(&scenario::text(&outcome))?;
    }
    let mut wrong: Vec<String> = outcome.failed().map(ToString::to_string).collect();
    wrong.extend(outcome.faults);
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(wrong.join("\nvfnic: "))),
    }
}

/// Several scenarios, or NICs of all families.
fn compare_scenarios(args: &cli::ScenarioRun) -> Result<(), Failure> {
    let single = [
        (args.out.is_some(), "--out"),
        (args.snaplen.is_some(), "--snaplen"),
        (args.guests.is_some(), "--guests"),
        (args.image.is_some(), "--image"),
    ];
    if let Some((_, option)) = single.iter().find(|(said, _)| *said) {
        return Err(usage(format!(
            "{option} is for one scenario with one profile"
        )));
    }
    let profiles: Vec<_> = match args.profile {
        None => Vec::new(),
        Some(ProfileWord::One(profile)) => vec![profile],
        Some(ProfileWord::All) => Profile::all().collect(),
    };
    let compared = scenario::compare(&args.files, &profiles).map_err(|e| match e {
        CompareError::Load(e) => usage(e),
        e => failed(e),
    })?;
    match args.json {
        true => {
            let json = serde_json::to_string_pretty(&compared).map_err(failed)?;
            print(&format!("{json}\n"))?;
        }
        false => print(&compared.to_string())?,
    }
    let wrong = compared.rows.iter().flat_map(|row| {
        let file = row.scenario.display();
        row.failed.iter().map(move |line| format!("{file}: {line}"))
    });
    let wrong: Vec<_> = wrong.collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Failure::Failed(wrong.join("\nvfnic: "))),
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| failed(format!("{}: {e}", file.display())))
}
