//! The commands of the laboratory: NICs on the virtual clock, scenarios, experiments. Implements nothing of them: `vf-lab` does.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use vf_model::{LinkConfig, Nanos, Profile};
use vfnic::cli::{self, ClockChoice, GuestsWord, ProfileWord, Which};
use vfnic::config::{Config, DeviceKind, parse_rate};
use vfnic::experiment::series::Series;
use vfnic::experiment::{self, ClockMode, ExperimentPlan, Guests};
use vfnic::linux::Image;
use vfnic::provenance::Provenance;
use vfnic::scenario::{self, CompareError, GuestKind, LoadError, Shipped};
use vfnic::server::ready::Ready;
use vfnic::timetravel::{self, Simulation, SimulationError};

use crate::failure::{Failure, failed, refused, usage};
use crate::output::print;
use crate::progress::Progress;
use crate::signals::signals;

/// The seed of an experiment that is not given another.
const SEED: u64 = 2009;

/// NICs on the virtual clock, until their guests have ended.
pub(crate) fn run_virtual(
    config: &Config,
    args: cli::VirtualClock,
    ready_fd: Option<u32>,
) -> Result<(), Failure> {
    let until = args.until.map(|seconds| Nanos((seconds * 1e9) as u64));
    let settings = timetravel::Settings {
        calendar: args.calendar.unwrap_or_default(),
        guests: args.wait_for.unwrap_or(1),
        shared: !args.messages,
        until,
        watchdog: Duration::from_secs(args.watchdog.unwrap_or(60)),
        moderation: args.moderation.unwrap_or(Nanos(20_000)),
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
    let plans = plans(args)?;
    let clocks: &[ClockMode] = match args.clock {
        ClockChoice::Virtual => &[ClockMode::Virtual],
        ClockChoice::Wall => &[ClockMode::Wall],
        ClockChoice::Both => &[ClockMode::Virtual, ClockMode::Wall],
    };
    // Whoever has started guests ends them, too.
    if args.sensitivity && plans.len() > 1 {
        return Err(usage(
            "--sensitivity is of one setting: say one of each of --guests and --mtu, and leave out --repeat",
        ));
    }
    let stop = plans.iter().any(|plan| plan.guests != Guests::Embedded);
    let stop = stop.then(signals).transpose()?;
    let made_by = made_by(clocks.contains(&ClockMode::Wall));
    let mut series = match plans.as_slice() {
        [plan] => {
            let mut progress = Progress::new();
            let outcome = experiment::run(plan, clocks, stop.as_ref(), |clock, path, done| {
                progress.show(&format!("{clock} clock, {path}"), done);
            });
            Series {
                made_by: None,
                runs: vec![outcome.map_err(failed)?],
            }
        }
        plans => {
            let progress = Mutex::new(Progress::new());
            let shown = |done: usize| {
                let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.show("runs", done as f64 / plans.len() as f64);
            };
            experiment::series::run_all(plans, clocks, stop.as_ref(), shown).map_err(failed)?
        }
    };
    if let [outcome] = series.runs.as_mut_slice() {
        outcome.made_by = Some(made_by);
        let outcome = &*outcome;
        if !on_standard_output(args) {
            print(&experiment::text(outcome))?;
        }
        write_all(args, outcome, &experiment::html(outcome))?;
    } else {
        series.made_by = Some(made_by);
        if !on_standard_output(args) {
            print(&experiment::series_text(&series))?;
        }
        write_all(args, &series, &experiment::series_html(&series))?;
    }
    if let Some(file) = &args.csv {
        let failed = |e: csv::Error| failed(format!("{}: {e}", file.display()));
        let mut csv = csv::Writer::from_writer(Vec::new());
        let rows = series.rows();
        let written = rows.iter().try_for_each(|row| csv.serialize(row));
        written.map_err(failed)?;
        let text = csv
            .into_inner()
            .map_err(|e| crate::failure::failed(e.error()))?;
        write(file, &String::from_utf8_lossy(&text))?;
    }
    Ok(())
}

/// Whether one of the files is standard output, which then has nothing else.
fn on_standard_output(args: &cli::Experiment) -> bool {
    files(args).any(|file| is_standard(file))
}

/// The files that were asked for.
fn files(args: &cli::Experiment) -> impl Iterator<Item = &PathBuf> {
    args.json.iter().chain(&args.report).chain(&args.csv)
}

/// This build on this machine, and how busy that is if what it makes takes the time of the wall clock.
fn made_by(wall_clock: bool) -> Provenance {
    Provenance::here(
        env!("CARGO_PKG_VERSION"),
        option_env!("VFNIC_COMMIT"),
        wall_clock,
    )
}

/// What came out on the virtual clock, and what it was made by.
#[derive(Serialize)]
struct Made<'a, T> {
    made_by: Provenance,
    #[serde(flatten)]
    outcome: &'a T,
}

impl<T: Serialize> Made<'_, T> {
    fn here(outcome: &T) -> Made<'_, T> {
        let made_by = made_by(false);
        Made { made_by, outcome }
    }

    fn json(&self) -> Result<String, Failure> {
        let json = serde_json::to_string_pretty(self).map_err(failed)?;
        Ok(json + "\n")
    }
}

/// Writes the figures and the page, if they were asked for.
fn write_all(args: &cli::Experiment, outcome: &impl Serialize, page: &str) -> Result<(), Failure> {
    if let Some(file) = &args.json {
        let mut json = serde_json::to_string_pretty(outcome).map_err(failed)?;
        json.push('\n');
        write(file, &json)?;
    }
    if let Some(file) = &args.report {
        write(file, page)?;
        if !on_standard_output(args) {
            print(&format!("\nReport: {}\n", file.display()))?;
        }
    }
    Ok(())
}

/// Each setting with each seed.
fn plans(args: &cli::Experiment) -> Result<Vec<ExperimentPlan>, Failure> {
    let (plan, streams) = plan(args)?;
    let mut plans = Vec::new();
    for (a_to_b, b_to_a) in streams {
        let (vfs, there) = (
            u32::from(a_to_b) + u32::from(b_to_a),
            args.profile.max_vfs(),
        );
        if vfs > u32::from(there) {
            return Err(usage(format!(
                "--guests {a_to_b}x{b_to_a} takes {vfs} VFs of each NIC, and one of profile {} has {there}: say fewer",
                args.profile
            )));
        }
        for mtu in args.mtu.iter().copied() {
            for n in 0..u64::from(args.repeat) {
                plans.push(ExperimentPlan {
                    a_to_b,
                    b_to_a,
                    mtu,
                    seed: plan.seed.wrapping_add(n),
                    ..plan.clone()
                });
            }
        }
    }
    Ok(plans)
}

/// What all runs have in common, and the streams of each.
fn plan(args: &cli::Experiment) -> Result<(ExperimentPlan, Vec<(u16, u16)>), Failure> {
    let defaults = ExperimentPlan::default();
    let (mut kind, mut streams) = (None, None);
    for word in &args.guests {
        let first = match word {
            GuestsWord::Kind(which) => kind.replace(*which).is_none(),
            GuestsWord::Streams(all) => streams.replace(all.clone()).is_none(),
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
    match &guests {
        Guests::Embedded if args.device != DeviceKind::Virtio => {
            return Err(usage(format!(
                "--device {}: embedded guests have a driver of virtio-net only: add --guests linux",
                args.device
            )));
        }
        Guests::Embedded => {}
        Guests::Linux { image, .. } => {
            args.device.fits(args.profile).map_err(usage)?;
            image.kernel_for(args.device).map_err(usage)?;
        }
    }
    let linux = guests != Guests::Embedded;
    let seconds = args.seconds.unwrap_or(if linux { 1.0 } else { 2.0 });
    if files(args).filter(|file| is_standard(file)).count() > 1 {
        return Err(usage(
            "--json, --report, --csv: one of them may be -, standard output",
        ));
    }
    let mut named: Vec<_> = files(args).collect();
    named.sort();
    if let Some([one, _]) = named.windows(2).find(|two| two[0] == two[1]) {
        return Err(usage(format!(
            "{}: --json, --report and --csv are files of their own",
            one.display()
        )));
    }
    files(args).try_for_each(|file| check_folder(file))?;
    let streams = streams.unwrap_or_else(|| vec![(defaults.a_to_b, defaults.b_to_a)]);
    let plan = ExperimentPlan {
        guests,
        auto: args.path.is_some(),
        seed,
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
        device: args.device,
        sensitivity: args.sensitivity,
        moderation: args.moderation.unwrap_or(defaults.moderation),
        ..defaults
    };
    Ok((plan, streams))
}

/// That a file can be where it is to be, before it takes minutes to come to it.
fn check_folder(file: &Path) -> Result<(), Failure> {
    let dir = file.parent().filter(|d| !d.as_os_str().is_empty());
    match dir.is_some_and(|d| !d.is_dir()) {
        true => Err(usage(format!(
            "{}: there is no such folder",
            file.display()
        ))),
        false => Ok(()),
    }
}

pub(crate) fn run_scenario(command: cli::Scenario) -> Result<(), Failure> {
    let args = match command {
        cli::Scenario::Check { files } => {
            let checked = files
                .iter()
                .map(|file| scenario::ScenarioPlan::load(file, None, None));
            let wrong: Vec<_> = checked.filter_map(Result::err).collect();
            return match wrong.is_empty() {
                true => Ok(()),
                // A line each.
                false => Err(usage(lines(wrong))),
            };
        }
        cli::Scenario::List { json } => return list_scenarios(json),
        cli::Scenario::New { file, from } => return new_scenario(&file, &from),
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
    args.report.as_deref().map_or(Ok(()), check_folder)?;
    let on_standard_output = args.report.as_deref().is_some_and(is_standard);
    if args.json && on_standard_output {
        return Err(usage(
            "--json and --report -: one of them is standard output",
        ));
    }
    if args.snaplen.is_some() && args.out.is_none() {
        return Err(usage(
            "--snaplen: it is about captures, which --out DIR writes",
        ));
    }
    let mut plan = scenario::ScenarioPlan::load(file, args.guests, profile).map_err(usage)?;
    if args.image.is_some() && plan.kind == GuestKind::Embedded {
        return Err(usage(
            "--image: it is of Linux guests, and these are embedded: say --guests linux, too",
        ));
    }
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
        print(&Made::here(&outcome).json()?)?;
    } else if !on_standard_output {
        print(&scenario::text(&outcome))?;
    }
    if let Some(file) = &args.report {
        write(file, &scenario::html(&outcome, &made_by(false)))?;
    }
    let wrong = outcome.failed().map(ToString::to_string);
    let wrong = wrong.chain(outcome.faults.iter().cloned());
    let wrong = wrong.map(|line| format!("{}: {line}", file.display()));
    let wrong: Vec<_> = wrong.collect();
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(failed(lines(wrong))),
    }
}

/// Several mistakes, a line each.
fn lines(wrong: Vec<impl ToString>) -> String {
    let wrong: Vec<_> = wrong.iter().map(ToString::to_string).collect();
    wrong.join("\nvfnic: ")
}

/// Those that come with the program.
fn list_scenarios(json: bool) -> Result<(), Failure> {
    let all = Shipped::all();
    if json {
        let all = all
            .iter()
            .map(|s| serde_json::json!({"name": s.name, "about": s.about()}));
        let json = serde_json::Value::Array(all.collect());
        return print(&format!("{json:#}\n"));
    }
    let widest = all.iter().map(|s| s.name.len()).max().unwrap_or(0);
    let lines = all
        .iter()
        .map(|s| format!("{:<widest$}  {}\n", s.name, s.about()));
    print(&lines.collect::<String>())
}

/// A file of the user's own to begin with.
fn new_scenario(file: &Path, from: &str) -> Result<(), Failure> {
    let shipped = Shipped::named(from).ok_or_else(|| {
        let meant = Shipped::nearest(from);
        let meant = meant.map_or_else(String::new, |name| format!(": did you mean '{name}'?"));
        usage(format!(
            "--from {from}: there is no such scenario{meant}; 'vfnic scenario list' shows them"
        ))
    })?;
    if is_standard(file) {
        return print(shipped.text);
    }
    let said = |e| failed(format!("{}: {e}", file.display()));
    let mut new = std::fs::File::create_new(file).map_err(said)?;
    new.write_all(shipped.text.as_bytes()).map_err(said)?;
    print(&format!(
        "{0}: a copy of {1}; run it with 'vfnic scenario run {0}'\n",
        file.display(),
        shipped.name
    ))
}

/// Several scenarios, or NICs of all families.
fn compare_scenarios(args: &cli::ScenarioRun) -> Result<(), Failure> {
    let single = [
        (args.out.is_some(), "--out"),
        (args.report.is_some(), "--report"),
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
        CompareError::Load(LoadError::Read { path, source, .. })
            if args.json && path.extension().is_some_and(|of| of == "json") =>
        {
            usage(format!(
                "cannot read {0}: {source}; --json prints, and {0} was taken for a scenario: say --json > {0}",
                path.display()
            ))
        }
        CompareError::Load(e) => usage(e),
        e => failed(e),
    })?;
    match args.json {
        true => {
            print(&Made::here(&compared).json()?)?;
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
        false => Err(failed(lines(wrong))),
    }
}

/// Whether a file is the standard stream.
fn is_standard(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Writes a file, or standard output if that is `-`.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    if is_standard(file) {
        return print(text);
    }
    std::fs::write(file, text).map_err(|e| failed(format!("{}: {e}", file.display())))
}
