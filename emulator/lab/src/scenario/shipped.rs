//! The scenarios that come with the program, by the name of their file. Never looks at a file of the user's.

use std::path::Path;

use include_dir::{Dir, include_dir};
use vf_model::nearest;

use super::plan::ScenarioPlan;

/// A link to `examples/scenarios`, so that the package has them, too.
static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/scenarios");

/// A scenario that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipped {
    /// Its name, such as `path-switch` or `surprises/03-ipv6-untrusted`.
    pub name: &'static str,
    /// What its file says.
    pub text: &'static str,
}

impl Shipped {
    /// All of them, in the order of their names.
    #[must_use]
    pub fn all() -> Vec<Shipped> {
        let folders = FILES.dirs().flat_map(Dir::files);
        let files = FILES.files().chain(folders);
        let shipped = files.filter_map(|file| {
            let name = file.path().to_str()?.strip_suffix(".toml")?;
            let text = file.contents_utf8()?;
            Some(Shipped { name, text })
        });
        let mut all: Vec<_> = shipped.collect();
        all.sort_by_key(|shipped| (shipped.name.contains('/'), shipped.name));
        all
    }

    /// That of this name, of which the folder may be left out.
    #[must_use]
    pub fn named(name: &str) -> Option<Shipped> {
        let short = |shipped: &Shipped| shipped.name.rsplit('/').next() == Some(name);
        let mut all = Shipped::all().into_iter();
        all.find(|shipped| shipped.name == name || short(shipped))
    }

    /// The name that was probably meant.
    #[must_use]
    pub fn nearest(name: &str) -> Option<&'static str> {
        let all = Shipped::all();
        let short = all.iter().filter_map(|shipped| {
            let (_, short) = shipped.name.split_once('/')?;
            Some((short, shipped.name))
        });
        let names = all.iter().map(|shipped| (shipped.name, shipped.name));
        let names: Vec<_> = names.chain(short).collect();
        let meant = nearest(name, names.iter().map(|(said, _)| *said))?;
        let meant = names.into_iter().find(|(said, _)| *said == meant);
        meant.map(|(_, name)| name)
    }

    /// What it shows, in a line.
    #[must_use]
    pub fn about(&self) -> String {
        let plan = ScenarioPlan::parse(Path::new(self.name), self.text, None, None);
        plan.map(|plan| plan.about).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_scenario_and_says_what_it_shows() {
        let all = Shipped::all();
        assert!(all.len() > 20, "{}", all.len());
        for shipped in all {
            ScenarioPlan::parse(Path::new(shipped.name), shipped.text, None, None).unwrap();
            assert!(!shipped.about().is_empty(), "{}", shipped.name);
            assert_eq!(Shipped::named(shipped.name), Some(shipped));
        }
        let short = Shipped::named("03-ipv6-untrusted").unwrap();
        assert_eq!(short.name, "surprises/03-ipv6-untrusted");
        assert_eq!(Shipped::named("no-such"), None);
        for (said, meant) in [
            ("path-swich", Some("path-switch")),
            ("03-ipv6-untrustd", Some("surprises/03-ipv6-untrusted")),
            ("x.toml", None),
        ] {
            assert_eq!(Shipped::nearest(said), meant, "{said}");
        }
    }
}
