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
    assert!(compared.rows.len() >= 21);
    for row in &compared.rows {
        assert_eq!(row.failed, [""; 0], "{}", row.scenario.display());
        assert!(!row.about.is_empty(), "{}", row.scenario.display());
    }
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/surprises.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let (_, said) = docs.split_once("```text\n").unwrap();
    let (said, _) = said.split_once("```").unwrap();
    assert_eq!(
        said,
        compared.to_string(),
        "the command on that page makes it anew"
    );
}

/// Tests that the page names are where it says: functions in a file, and cases of the conformance suite.
#[test]
fn the_tests_that_the_page_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let docs = read("docs/surprises.md");
    let cases: Vec<String> = std::fs::read_dir(root.join("conformance/src/cases"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let words = docs.split('`').skip(1).step_by(2);
    let (mut tests, mut suite) = (0, 0);
    for word in words {
        if let Some((file, name)) = word.split_once("::") {
            let text = read(&format!("emulator/tests/process/{file}.rs"));
            assert!(text.contains(&format!("\nfn {name}(")), "{word}");
            tests += 1;
        } else if ["control/", "net/", "proto/", "robust/"]
            .iter()
            .any(|group| word.starts_with(group))
        {
            let id = format!("id: \"{word}\"");
            assert!(cases.iter().any(|text| text.contains(&id)), "{word}");
            suite += 1;
        }
    }
    assert!(tests >= 4 && suite >= 8, "{tests} {suite}");
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
        let file = link.split('#').next().unwrap();
        assert!(dir.join(file).exists(), "{link}");
    }
}
