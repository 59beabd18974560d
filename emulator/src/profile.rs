//! `vfnic profile`: what profiles say, as text and as JSON. Asks no running NIC.

use std::collections::BTreeMap;

use serde::Serialize;
use vf_model::{Fact, Profile};
use vfnic::cli::ProfileCommand;

use crate::failure::{Failure, failed};
use crate::output::print;

/// A profile in a list.
#[derive(Serialize)]
struct Listed {
    profile: Profile,
    about: &'static str,
}

/// What two profiles say differently, by the name of it: the first one's word, then the second's.
type Difference = BTreeMap<&'static str, [String; 2]>;

/// Says it.
pub(crate) fn say(command: &ProfileCommand) -> Result<(), Failure> {
    match command {
        ProfileCommand::List(show) => {
            let all = Profile::all().map(|profile| Listed {
                profile,
                about: profile.about(),
            });
            let all: Vec<_> = all.collect();
            if show.json {
                return print(&json(&all)?);
            }
            let line = |Listed { profile, about }: &Listed| {
                format!("{:<12} {about}\n", profile.to_string())
            };
            print(&all.iter().map(line).collect::<String>())
        }
        ProfileCommand::Show {
            profile,
            json: as_json,
        } => {
            let facts = profile.facts();
            if *as_json {
                return print(&json(&facts)?);
            }
            let line =
                |fact: &Fact| format!("{:<25} {:<40} # {}\n", fact.name, fact.value, fact.help);
            let lines: String = facts.iter().map(line).collect();
            print(&format!("{profile}: {}\n{lines}", profile.about()))
        }
        ProfileCommand::Diff {
            a,
            b,
            json: as_json,
        } => {
            let pairs = a.facts().into_iter().zip(b.facts());
            let differ = pairs.filter(|(a, b)| a.value != b.value);
            let differ: Vec<_> = differ.collect();
            if *as_json {
                let differ = differ.into_iter();
                let by_name = differ.map(|(a, b)| (a.name, [a.value, b.value]));
                return print(&json(&by_name.collect::<Difference>())?);
            }
            if differ.is_empty() {
                return print(&format!("{a} and {b} do not differ\n"));
            }
            let lines = differ.iter().map(|(said, other)| {
                format!(
                    "{}: {}\n  {a}: {}\n  {b}: {}\n",
                    said.name, said.help, said.value, other.value
                )
            });
            print(&lines.collect::<String>())
        }
    }
}

fn json(what: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(what).map_err(failed)? + "\n")
}
