//! The surprises that are shipped: each comes out as its source says, and docs/surprises.md says what comes out.

// All of it is test code.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use vf_lab::scenario::compare;
use vf_model::Profile;

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/scenarios/surprises");
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn each_comes_out_as_its_source_says_and_as_the_docs_say() {
    let profiles: Vec<_> = Profile::all().collect();
    let compared = compare(&files(), &profiles).unwrap();
    assert!(compared.rows.len() >= 16);
    for row in &compared.rows {
        assert_eq!(row.failed, [""; 0], "{}", row.scenario.display());
        assert!(!row.about.is_empty(), "{}", row.scenario.display());
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/surprises.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let table = docs.lines().filter(|line| line.starts_with('|'));
    let table: Vec<_> = table.collect();
    let made = compared.to_string();
    assert_eq!(
        table,
        made.lines().collect::<Vec<_>>(),
        "the command on that page makes it anew"
    );
}

/// The list says which of the 25 are here, and names no file that is not.
#[test]
fn the_list_names_every_file() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/scenarios/surprises");
    let list = std::fs::read_to_string(dir.join("README.md")).unwrap();
    for file in files() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(list.contains(&format!("({name})")), "{name}");
    }
    for n in 1..=25 {
        assert!(list.contains(&format!("\n| {n} |")), "{n}");
    }
    let named = list
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    for link in named {
        assert!(dir.join(link).exists(), "{link}");
    }
}
