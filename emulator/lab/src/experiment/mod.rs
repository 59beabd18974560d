//! `vfnic experiment`: the 2009 measurement, repeated. Two hosts back to back on one 10 GbE link, a guest for each end of
//! each stream, once through the hypervisor and once directly. Figures come out of the run; what is theory, what was
//! published and what was calibrated is marked as such.

mod error;
mod flow;
mod linux;
mod measure;
mod outcome;
mod plan;
mod report;
mod sensitivity;
pub mod series;
mod settling;
mod slow_path;
mod testbed;
#[cfg(test)]
mod tests;
pub mod theory;
mod timeline;
mod wall;

use std::os::unix::net::UnixStream;

use vf_model::{Nanos, Path};

pub use error::ExperimentError;
pub use outcome::{
    AutoFrames, Calibration, Depth, ExperimentOutcome, FirstPackets, Lane, Original, PathResult,
    Sensitivity, SensitivityPoint, Timeline,
};
pub use plan::{ClockMode, ExperimentPlan, Guests, MAX_PAIRS, Tool};
pub use report::series::{html as series_html, text as series_text};
pub use report::{html, text};

use self::plan::SAMPLES;
use self::settling::WarmUp;

/// Runs both paths on each of `clocks`, mediated first, and behind them path `auto` if the plan has it. `progress` hears what runs and how far it is, 0 to 1. Linux guests
/// are on the virtual clock whatever `clocks` says, and end with [`Stopped`](crate::timetravel::SimulationError::Stopped) when something arrives on
/// `stop`.
///
/// # Errors
/// [`ExperimentError`].
pub fn run(
    plan: &ExperimentPlan,
    clocks: &[ClockMode],
    stop: Option<&UnixStream>,
    mut progress: impl FnMut(ClockMode, Path, f64),
) -> Result<ExperimentOutcome, ExperimentError> {
    let mut results = Vec::new();
    for &clock in clocks {
        let third = plan.auto.then_some(Path::Auto);
        for path in [Path::Mediated, Path::Direct].into_iter().chain(third) {
            let mut progress = |done| progress(clock, path, done);
            results.push(match (&plan.guests, clock) {
                (Guests::Linux { image, tool }, _) => {
                    linux::run(plan, image, *tool, path, stop, &mut progress)?
                }
                (Guests::Embedded, ClockMode::Virtual) => run_virtual(plan, path, &mut progress)?,
                (Guests::Embedded, ClockMode::Wall) => wall::run(plan, path, &mut progress)?,
            });
        }
    }
    let view = plan.view();
    let direct = results.iter().find(|r| r.path == Path::Direct.to_string());
    let segments_per_ack = direct.map_or(2.0, |r| r.segments_per_ack);
    let timestamps = direct.is_some_and(|r| r.timestamps);
    let theory = theory::theory(&view, segments_per_ack, timestamps);
    for result in &mut results {
        theory::name_impairment(result, &view, &theory);
    }
    let clock = match clocks {
        [one] => one.name(),
        _ => "both",
    };
    Ok(ExperimentOutcome {
        made_by: None,
        guests: plan.guests.name().to_owned(),
        clock: clock.to_owned(),
        seed: plan.seed,
        theory,
        plan: view,
        results,
        original: Original::PUBLISHED,
        sensitivity: plan
            .sensitivity
            .then(|| sensitivity::run(plan))
            .transpose()?,
        calibration: Calibration {
            constant: "hypervisor cost scale",
            value: plan.cost.scale_per_mille as f64 / 1000.0,
            note: "one of two numbers that were chosen so that the mediated run of the default experiment gives the 8454 Mb/s of \
                   2009. The other is the interrupt moderation it was fitted at, 40 us, where embedded and Linux guests agree: \
                   the mediated figure moves with it, to 7.0 Gb/s at 20 us and 10.0 at 200. Both are properties of that \
                   measurement, not of this machine. --sensitivity shows how far it depends on either.",
        },
    })
}

fn run_virtual(
    plan: &ExperimentPlan,
    path: Path,
    progress: &mut impl FnMut(f64),
) -> Result<PathResult, ExperimentError> {
    let mut world = testbed::Testbed::new(plan, path)?;
    let share = |at: Nanos, begin: Nanos| at.0 as f64 / (begin.0 + plan.measure.0) as f64;
    let mut warm_up = WarmUp::new(plan, world.read());
    let warmed_up = loop {
        match warm_up.next() {
            Ok(at) => world.run_until(at),
            Err(over) => break over,
        }
        let now = world.read();
        progress(share(now.at(), now.at().max(plan.warm_up)));
        warm_up.look(now);
    };
    let mut readings = vec![world.read()];
    let begin = readings[0].at();
    for n in 1..=SAMPLES {
        let at = Nanos(begin.0 + plan.measure.0 * n / SAMPLES);
        world.run_until(at);
        readings.push(world.read());
        progress(share(at, begin));
    }
    world.check()?;
    let clock = ClockMode::Virtual.name();
    Ok(PathResult {
        auto: world.auto_frames(),
        digest: Some(world.digest()),
        timeline: Some(world.timeline(plan)),
        ..measure::result(plan, clock, path, warmed_up, &readings)
    })
}
