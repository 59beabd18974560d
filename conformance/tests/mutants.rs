//! The tables of mutants are about the tree as it is. Tries none of them: `cargo run -p vf-conformance --example mutants` does.

#![allow(clippy::unwrap_used)]

#[path = "../examples/mutants/schemata.rs"]
mod schemata;
#[path = "../examples/mutants/table.rs"]
mod table;

use std::collections::BTreeSet;
use std::fs;

use vf_conformance::cases;

#[test]
fn every_mutant_is_one_substitution_in_the_tree_as_it_is_and_something_has_to_catch_it() {
    let mutants = table::all().unwrap();
    assert!(mutants.len() >= 120, "{}", mutants.len());
    let ids: BTreeSet<_> = mutants.iter().map(table::Mutant::id).collect();
    assert_eq!(ids.len(), mutants.len(), "two have one name");
    let mut wrong = Vec::new();
    for mutant in &mutants {
        let text = fs::read_to_string(table::top().join(&mutant.file)).unwrap_or_default();
        wrong.extend(mutant.apply(&text).err());
        if mutant.from == mutant.to || mutant.about.is_empty() || mutant.clause.is_empty() {
            wrong.push(format!("{}: says nothing", mutant.id()));
        }
        if mutant.cases.is_empty() && mutant.test.is_empty() {
            wrong.push(format!("{}: nothing has to catch it", mutant.id()));
        }
        for pattern in &mutant.cases {
            if !cases::all().any(|case| cases::names(pattern, case)) {
                wrong.push(format!("{}: no case is called {pattern}", mutant.id()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
