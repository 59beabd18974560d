//! Mutant schemata: all mutants of a file in one text, of which each process plays the one that an environment variable names. One
//! build does for all of them. Works on text as rustfmt leaves it, and never on what it cannot place in one function.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::table::Mutant;

/// The variable that names the mutant.
pub(crate) const CHOICE: &str = "VF_MUTANT";

/// What a crate's root has to have for its woven files.
pub(crate) const ROOT: &str = r#"
#[doc(hidden)]
#[inline]
pub fn vf_mutant() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("VF_MUTANT").unwrap_or_default())
}
"#;

/// What stands in a woven file in front of a mutant's body.
const ASKED: &str = "if crate::vf_mutant() == \"";

/// The body of each function that has mutants, with all of them beside it; what is in no function that can be doubled is left out.
pub(crate) fn weave(text: &str, mutants: &[&Mutant]) -> String {
    let mut bodies: BTreeMap<usize, (Range<usize>, Vec<&Mutant>)> = BTreeMap::new();
    for mutant in mutants {
        if let Some(body) = body_of(text, mutant) {
            let entry = bodies.entry(body.start).or_insert((body, Vec::new()));
            entry.1.push(mutant);
        }
    }
    let mut woven = text.to_owned();
    for (body, mutants) in bodies.into_values().rev() {
        let original = &text[body.clone()];
        let mut all = String::new();
        for mutant in mutants {
            let wrong = original.replacen(&mutant.from, &mutant.to, 1);
            all += &format!("{ASKED}{}\" {{\n{wrong}}} else ", mutant.id());
        }
        woven.replace_range(body, &format!("{all}{{\n{original}}}\n"));
    }
    woven
}

/// The mutant whose body a line of a woven file, counted from 1, is in or behind.
pub(crate) fn at_line(woven: &str, line: usize) -> Option<&str> {
    let before = woven.lines().take(line).collect::<Vec<_>>();
    let asked = before.iter().rev().find_map(|l| l.split_once(ASKED))?;
    asked.1.split('"').next()
}

/// The lines between the braces of the function around what a mutant replaces. None if that is in no function, or in one whose body
/// cannot ask which it is to be (`const`), or that has one type of its own (`impl`).
pub(crate) fn body_of(text: &str, mutant: &Mutant) -> Option<Range<usize>> {
    let at = text.find(&mutant.from)?;
    let mut lines = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        lines.push((start, line.trim_end()));
        start += line.len();
    }
    let here = lines.partition_point(|(start, _)| *start <= at);
    for (first, (from, head)) in lines[..here].iter().enumerate().rev() {
        let words = head.trim_start();
        let Some((before, _)) = words.split_once("fn ") else {
            continue;
        };
        let modifier = |word: &str| word.starts_with("pub") || word == "const";
        if !before.split_whitespace().all(modifier) {
            continue;
        }
        let indent = &head[..head.len() - words.len()];
        let outermost = |line: &str| {
            let rest = line.strip_prefix(indent);
            rest.is_some_and(|rest| !rest.starts_with(' '))
        };
        let ends = |line: &str| line.ends_with(['{', '}', ';']);
        let open = first
            + lines[first..]
                .iter()
                .position(|(_, line)| outermost(line) && ends(line))?;
        let (Some((body, _)), true) = (lines.get(open + 1), lines[open].1.ends_with('{')) else {
            continue;
        };
        let close = format!("{indent}}}");
        let end = lines[open..].iter().find(|(_, line)| *line == close)?.0;
        if *body <= at && at + mutant.from.len() <= end {
            let doubles = !before.contains("const") && !text[*from..*body].contains("-> impl ");
            return doubles.then_some(*body..end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
const A: u8 = 1;

impl X {
    pub(crate) fn one(&self) -> u8 {
        let two = |a| a;
        two(2)
    }

    const fn three() -> u8 {
        3
    }

    fn four<T>(
        self,
    ) -> u8
    where
        T: Copy,
    {
        if true {
            4
        } else {
            5
        }
    }
}
";

    fn mutant(from: &str, to: &str) -> Mutant {
        let text = format!(
            "name = 'm{}'\nabout = ''\nclause = ''\nfile = ''\nfrom = '{from}'\nto = '{to}'",
            from.len()
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn a_body_stands_beside_itself_with_its_errors() {
        assert!(ROOT.contains(CHOICE));
        let all = [
            mutant("two(2)", "two(9)"),
            mutant("a| a", "a| a + 1"),
            mutant("            5", "            6"),
        ];
        let woven = weave(TEXT, &all.iter().collect::<Vec<_>>());
        assert_eq!(woven.matches("two(2)").count(), 2, "{woven}");
        assert_eq!(woven.matches("two(9)").count(), 1);
        assert_eq!(woven.matches("a| a + 1").count(), 1);
        assert!(
            woven.contains("            6\n        }\n} else {\n        if true {\n            4"),
            "{woven}"
        );
        let line = woven
            .lines()
            .position(|line| line.contains("two(9)"))
            .unwrap();
        assert_eq!(at_line(&woven, line + 1), Some("/m6"));
        assert_eq!(at_line(&woven, 1), None);
    }

    #[test]
    fn what_is_in_no_body_that_can_be_doubled_is_left_alone() {
        for from in ["u8 = 1", "        3", "one(&self)", "four<T>"] {
            let mutant = mutant(from, "");
            assert_eq!(body_of(TEXT, &mutant), None, "{from}");
            assert_eq!(weave(TEXT, &[&mutant]), TEXT);
        }
    }
}
