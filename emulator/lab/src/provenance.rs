//! Where figures come from: which build, on what machine, how busy. Read once, for whoever reads the figures later; nothing is
//! measured here.

use serde::Serialize;

/// What made an outcome.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Provenance {
    /// `vfnic` and its version.
    pub version: String,
    /// The commit that it was built from, if that was known then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The CPU, how many, and the kernel.
    pub machine: String,
    /// How many threads wanted a CPU, on average over the last minute, when this was read; left out where time is virtual, so that two equal runs
    /// have equal outcomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
}

impl Provenance {
    /// This machine, how busy it is now if that tells in the outcome, and this build.
    #[must_use]
    pub fn here(version: &str, commit: Option<&str>, wall_clock: bool) -> Provenance {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let load = wall_clock.then(|| std::fs::read_to_string("/proc/loadavg"));
        let load = load.and_then(Result::ok).unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let uname = rustix::system::uname();
        Provenance {
            version: format!("vfnic {version}"),
            commit: commit.map(str::to_owned),
            machine: format!(
                "{}, {cpus} CPU{}, Linux {} {}",
                cpu(&cpuinfo),
                if cpus == 1 { "" } else { "s" },
                uname.release().to_string_lossy(),
                uname.machine().to_string_lossy(),
            ),
            load: load.split(' ').next().and_then(|load| load.parse().ok()),
        }
    }
}

/// The CPU's name.
fn cpu(cpuinfo: &str) -> &str {
    let names = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut names = names.filter(|(key, _)| ["model name", "Model"].contains(&key.trim()));
    names.next().map_or("unknown CPU", |(_, name)| name.trim())
}

impl std::fmt::Display for Provenance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.version)?;
        if let Some(commit) = &self.commit {
            write!(f, " ({commit})")?;
        }
        write!(f, " on {}", self.machine)?;
        self.load.map_or(Ok(()), |load| write!(f, ", load {load}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_which_build_on_what() {
        assert_eq!(
            cpu("processor\t: 0\nmodel name\t: A CPU: fast\nmodel name: B\n"),
            "A CPU: fast"
        );
        assert_eq!(cpu(""), "unknown CPU");
        let here = Provenance::here("1.2.3", Some("abc"), false);
        assert_eq!(here.load, None);
        let text = here.to_string();
        assert!(text.starts_with("vfnic 1.2.3 (abc) on "), "{text}");
        assert!(text.contains("Linux"), "{text}");
    }
}
