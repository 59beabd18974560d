//! Tells the program which commit it is built from, and whether it was changed since, where that is known: in a checkout of its own. Never
//! fails a build for that.

use std::path::Path;
use std::process::Command;

/// What the program is made of.
const SOURCES: [&str; 7] = [
    "src",
    "nic/src",
    "lab/src",
    "../vf-model",
    "../vhost",
    "../conformance/guest/src",
    "../Cargo.lock",
];

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
        .then(|| {
            // Its hash, and whether anything is not as it has it.
            git(&[
                "describe",
                "--always",
                "--exclude=*",
                "--dirty",
                "--abbrev=12",
            ])
        })
        .flatten()
    else {
        return;
    };
    println!("cargo::rustc-env=VFNIC_COMMIT={commit}");
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    let names = ["logs/HEAD", "HEAD", "packed-refs"].into_iter();
    let git_files = names
        .chain(branch.as_deref())
        .filter_map(|name| git(&["rev-parse", "--git-path", name]));
    let sources = SOURCES.map(str::to_owned);
    for path in git_files.chain(sources) {
        // One that is not there would have this run each time.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}
