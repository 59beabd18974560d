//! The tables of mutants: one-line errors in this workspace, each as a substitution in one file, with what has to catch it. None is
//! in the code: a mutant lives in a copy of the tree, so that it cannot reach a build of anything else.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One error.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    /// Its table, which is its file's name.
    #[serde(skip)]
    pub(crate) area: String,
    /// What it is called there.
    pub(crate) name: String,
    /// What the program does wrong with it.
    pub(crate) about: String,
    /// The clause or the rule that this is against: `V` is virtio, `VU` the vhost-user document.
    pub(crate) clause: String,
    /// The file, from the top of the tree.
    pub(crate) file: PathBuf,
    /// What stands there, once.
    pub(crate) from: String,
    /// What stands there instead.
    pub(crate) to: String,
    /// Cases of the suite of which one has to fail: ids, or a part of them.
    #[serde(default)]
    pub(crate) cases: Vec<String>,
    /// Arguments of a `cargo test` that has to fail, where no case of the suite reaches it.
    #[serde(default)]
    pub(crate) test: Vec<String>,
}

#[derive(Deserialize)]
struct Table {
    mutant: Vec<Mutant>,
}

impl Mutant {
    /// Area and name.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.area, self.name)
    }

    /// The file's text with the error in it.
    pub(crate) fn apply(&self, text: &str) -> Result<String, String> {
        match text.matches(&self.from).count() {
            1 => Ok(text.replacen(&self.from, &self.to, 1)),
            n => Err(format!(
                "{}: what it replaces is {n} times in {}: say it anew",
                self.id(),
                self.file.display()
            )),
        }
    }
}

/// The top of the tree.
pub(crate) fn top() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// All mutants, by area.
pub(crate) fn all() -> Result<Vec<Mutant>, String> {
    let folder = top().join("conformance/mutants");
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ext| ext == "toml"));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let said = |why: String| format!("{}: {why}", file.display());
        let text = std::fs::read_to_string(&file).map_err(|e| said(e.to_string()))?;
        let table: Table = toml::from_str(&text).map_err(|e| said(e.to_string()))?;
        let area = file.file_stem().unwrap_or_default().to_string_lossy();
        all.extend(table.mutant.into_iter().map(|mutant| Mutant {
            area: area.to_string(),
            ..mutant
        }));
    }
    Ok(all)
}
