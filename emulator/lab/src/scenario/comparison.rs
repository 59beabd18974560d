//! Several scenarios side by side, and what NICs of each family make of them. Runs them one after the other; judges only by what
//! each file expects of the NIC that it names.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use vf_model::Profile;

use super::{LoadError, Options, RunError, ScenarioOutcome, ScenarioPlan, run};

/// What came out of several scenarios. Its `Display` is a few lines for each: what came out of the NIC that the file names, and of NICs
/// like the others what is different to that, those that are alike together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The columns; none if each scenario ran with the NIC that it names.
    pub profiles: Vec<Profile>,
    /// A scenario each.
    pub rows: Vec<Row>,
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its file.
    pub scenario: PathBuf,
    /// What it shows.
    pub about: String,
    /// Which NIC the file names.
    pub profile: Profile,
    /// What NICs like each of the columns make of it.
    pub cells: Vec<Cell>,
    /// What the file expects of the NIC that it names and what did not come out, a line each.
    pub failed: Vec<String>,
}

/// What one NIC makes of one scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Which NIC.
    pub profile: Profile,
    /// What was measured, by the names that the file gives.
    pub said: Vec<Said>,
    /// Why it cannot run with such a NIC, if it cannot.
    pub refused: Option<String>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Said {
    /// What it is.
    pub figure: String,
    /// What came out.
    pub got: String,
}

/// Why scenarios cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A file is wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A run did not come to its end.
    #[error("{}: {source}", file.display())]
    Run {
        /// The scenario.
        file: PathBuf,
        /// Why.
        source: RunError,
    },
}

/// Runs each file with a first NIC like each of `profiles`, or with the one that it names if there are none.
///
/// # Errors
/// [`CompareError`]. What a NIC refuses is none, unless it is the NIC that the file names.
pub fn compare(files: &[PathBuf], profiles: &[Profile]) -> Result<Comparison, CompareError> {
    let rows = files.iter().map(|file| row(file, profiles));
    Ok(Comparison {
        profiles: profiles.to_vec(),
        rows: rows.collect::<Result<_, _>>()?,
    })
}

fn row(file: &Path, profiles: &[Profile]) -> Result<Row, CompareError> {
    // Once: standard input is there once.
    let (path, text) = ScenarioPlan::read(file)?;
    let named = ScenarioPlan::parse(&path, &text, None, None)?;
    let outcome = run_plan(&named)?;
    let mut failed: Vec<_> = outcome.failed().map(ToString::to_string).collect();
    failed.extend(outcome.faults.iter().cloned());
    let mut cells = Vec::new();
    for profile in profiles {
        cells.push(
            match ScenarioPlan::parse(&path, &text, None, Some(*profile)) {
                Ok(plan) => cell(*profile, &run_plan(&plan)?),
                Err(LoadError::Whole { mistake, .. } | LoadError::Section { mistake, .. }) => {
                    Cell {
                        profile: *profile,
                        said: Vec::new(),
                        refused: Some(mistake.to_string()),
                    }
                }
                Err(error) => return Err(error.into()),
            },
        );
    }
    if profiles.is_empty() {
        cells.push(cell(named.profile, &outcome));
    }
    Ok(Row {
        scenario: file.to_owned(),
        about: named.about,
        profile: named.profile,
        cells,
        failed,
    })
}

fn run_plan(plan: &ScenarioPlan) -> Result<ScenarioOutcome, CompareError> {
    run(plan, Options::default(), |_| {}).map_err(|source| CompareError::Run {
        file: plan.file.clone(),
        source,
    })
}

fn cell(profile: Profile, outcome: &ScenarioOutcome) -> Cell {
    let said = outcome.expectations.iter().map(|judged| Said {
        figure: judged.figure.clone(),
        got: judged.got.clone(),
    });
    Cell {
        profile,
        said: said.collect(),
        refused: None,
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, row) in self.rows.iter().enumerate() {
            let name = row.scenario.file_stem().unwrap_or_default();
            let gap = if i == 0 { "" } else { "\n" };
            writeln!(f, "{gap}{}: {}", name.display(), row.about)?;
            for (profiles, items) in row.alike() {
                paragraph(f, &profiles.join(", "), &items)?;
            }
        }
        Ok(())
    }
}

impl Row {
    /// What came out of which NICs, that of the NIC that the file names first, and then only what is different to it.
    fn alike(&self) -> Vec<(Vec<String>, Vec<String>)> {
        let own = self.cells.iter().find(|cell| cell.profile == self.profile);
        let others = self
            .cells
            .iter()
            .filter(|cell| cell.profile != self.profile);
        let mut alike: Vec<(Vec<String>, Vec<String>)> = Vec::new();
        for cell in own.into_iter().chain(others) {
            let than = own.filter(|own| own.profile != cell.profile);
            let (profile, items) = (cell.profile.to_string(), cell.items(than));
            match alike.iter_mut().find(|(_, known)| *known == items) {
                Some((profiles, _)) => profiles.push(profile),
                None => alike.push((vec![profile], items)),
            }
        }
        alike
    }
}

impl Cell {
    /// What was measured, as far as it is another than `than`.
    fn items(&self, than: Option<&Cell>) -> Vec<String> {
        if let Some(why) = &self.refused {
            return vec![format!("cannot be: {}", short(why))];
        }
        let known = |said: &Said| than.is_some_and(|than| than.said.contains(said));
        let said = self.said.iter().filter(|said| !known(said));
        let items: Vec<_> = said
            .map(|Said { figure, got }| format!("{figure}: {}", short(got)))
            .collect();
        match items.is_empty() {
            true => vec!["the same".to_owned()],
            false => items,
        }
    }
}

/// Columns of a terminal that are written.
const WIDTH: usize = 96;
/// Those for names.
const NAMES: usize = 22;

/// Names, and beside them items, as many on a line as it has room for.
fn paragraph(f: &mut fmt::Formatter<'_>, names: &str, items: &[String]) -> fmt::Result {
    let beside = " ".repeat(NAMES);
    let mut line = format!("  {names:<0$}", NAMES - 2);
    if !line.ends_with(' ') {
        writeln!(f, "{line}")?;
        line.clone_from(&beside);
    }
    let text = items.join("; ");
    for word in text.split(' ') {
        if line.len() > NAMES && line.len() + word.len() > WIDTH {
            writeln!(f, "{}", line.trim_end())?;
            line.clone_from(&beside);
        }
        line.push_str(word);
        line.push(' ');
    }
    writeln!(f, "{}", line.trim_end())
}

/// Without what says where to read more, and of a driver's refusal the error.
fn short(text: &str) -> String {
    let text = text.split(" (see ").next().unwrap_or(text);
    match text.split_once(" answer ") {
        Some((_, errno)) => format!("refused ({errno})"),
        None => text.to_owned(),
    }
}
