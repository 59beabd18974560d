//! Tells the program which commit it is built from, where that is known: in a checkout of its own.

use std::path::Path;
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The folder of a package may be in somebody else's checkout.
    let ours = git(&["ls-files", "--error-unmatch", "build.rs"]).is_some();
    let Some(commit) = ours
        .then(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .flatten()
    else {
        return;
    };
    println!("cargo::rustc-env=VFNIC_COMMIT={commit}");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
}
