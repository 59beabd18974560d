//! `cargo run -p vf-conformance --example mutants`: does the suite bite? Puts all errors of `conformance/mutants` into a copy of
//! this tree, builds that once, and has `vfnic` play one after the other while the cases judge it that should fail; or runs the test
//! that should, where no case reaches the code or can judge it. What nothing catches is a case that is missing.
//!
//! Exit status: 0 all were caught, 1 some were not, 2 one could not be tried, or the tree fails as it is.
//!
//! Never changes this tree.

#![forbid(unsafe_code)]

mod schemata;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use table::Mutant;
use vf_conformance::group::{self, Group};

/// How long a mutant may keep those busy that are to catch it; one that has everybody wait is caught.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a build may keep this machine busy, which may have others to serve.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);
/// How long the suite may take to end its subject, when this is stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// Try whether the suite and the tests catch errors that are put into the tree on purpose
#[derive(Parser)]
struct Args {
    /// Only mutants with this in their name.
    patterns: Vec<String>,
    /// Say which there are, and what has to catch them.
    #[arg(long)]
    list: bool,
    /// Leave out those that a run before this one, which was stopped or is to be mended, has seen caught.
    #[arg(long)]
    go_on: bool,
    /// Where the copy of the tree and what is built of it are [default: target/mutants].
    #[arg(long)]
    work: Option<PathBuf>,
}

/// What has become of a mutant.
enum Outcome {
    /// By whom.
    Caught(String),
    Survived,
    /// Why it could not be tried.
    Broken(String),
}

/// A copy of the tree with all mutants in it, and what is built of it.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("mutants: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, String> {
    let all = table::all()?;
    let meant = |mutant: &Mutant| args.patterns.iter().any(|p| mutant.id().contains(p));
    let mut mutants: Vec<&Mutant> = all.iter().collect();
    mutants.retain(|mutant| args.patterns.is_empty() || meant(mutant));
    if args.list {
        for mutant in &mutants {
            let by = [&mutant.cases[..], &mutant.test[..]].concat().join(" ");
            println!(
                "{:<32} {} [{}] ({by})",
                mutant.id(),
                mutant.about,
                mutant.clause
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    group::end_with_this_process(PATIENCE).map_err(|e| format!("signals: {e}"))?;
    let work = args.work.clone();
    let work = work.unwrap_or_else(|| table::top().join("target/mutants"));
    fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let caught = work.join("caught");
    if args.go_on {
        let before = fs::read_to_string(&caught).unwrap_or_default();
        mutants.retain(|mutant| !before.lines().any(|id| id == mutant.id()));
    }
    let mut caught = File::options()
        .create(true)
        .write(true)
        .append(args.go_on)
        .truncate(!args.go_on)
        .open(&caught)
        .map_err(|e| format!("{}: {e}", caught.display()))?;
    let copy = Copy::new(&work, &all)?;
    copy.passes_as_it_is(&mutants)?;
    let (mut survived, mut broken) = (0, 0);
    for mutant in &mutants {
        let began = Instant::now();
        let outcome = copy.try_out(mutant).unwrap_or_else(Outcome::Broken);
        let (word, by) = match &outcome {
            Outcome::Caught(by) => ("caught", by.as_str()),
            Outcome::Survived => ("SURVIVED", mutant.about.as_str()),
            Outcome::Broken(why) => ("BROKEN", why.as_str()),
        };
        match outcome {
            Outcome::Caught(_) => {
                let kept = writeln!(caught, "{}", mutant.id());
                kept.map_err(|e| format!("what was caught: {e}"))?;
            }
            Outcome::Survived => survived += 1,
            Outcome::Broken(_) => broken += 1,
        }
        let seconds = began.elapsed().as_secs();
        println!("{word:<9} {:<32} {seconds:>4} s  {by}", mutant.id());
    }
    let tried = mutants.len();
    println!(
        "{tried} mutants: {} caught, {survived} survived, {broken} broken",
        tried - survived - broken
    );
    Ok(match (survived, broken) {
        (0, 0) => ExitCode::SUCCESS,
        (_, 0) => ExitCode::from(1),
        _ => ExitCode::from(2),
    })
}

impl Copy {
    /// Copies what git knows of the tree, with the mutants in it, leaves alone what is the same as last time, and builds it.
    fn new(work: &Path, mutants: &[Mutant]) -> Result<Copy, String> {
        let copy = Copy {
            tree: work.join("tree"),
            target: work.join("build"),
        };
        let top = table::top();
        let mut git = Command::new("git");
        git.current_dir(&top).args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]);
        let listed = git.output().map_err(|e| format!("git: {e}"))?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let known: BTreeSet<PathBuf> = listed
            .split('\0')
            .map(|name| copy.tree.join(name))
            .collect();
        tidy(&copy.tree, &known).map_err(|e| format!("{}: {e}", copy.tree.display()))?;
        let mut in_file: BTreeMap<&Path, Vec<&Mutant>> = BTreeMap::new();
        for mutant in mutants {
            in_file.entry(&mutant.file).or_default().push(mutant);
        }
        let roots: BTreeSet<PathBuf> = in_file.keys().filter_map(|file| root_of(file)).collect();
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (top.join(name), copy.tree.join(name));
            if let Ok(target) = fs::read_link(&from) {
                link(&target, &to).map_err(|e| format!("{}: {e}", to.display()))?;
                continue;
            }
            let Ok(mut bytes) = fs::read(&from) else {
                continue; // deleted, and git has not been told
            };
            if let Some(mutants) = in_file.get(Path::new(name)) {
                let text = String::from_utf8_lossy(&bytes);
                for mutant in mutants {
                    mutant.apply(&text)?;
                }
                bytes = schemata::weave(&text, mutants).into_bytes();
            }
            if roots.contains(Path::new(name)) {
                bytes.extend(schemata::ROOT.as_bytes());
            }
            if fs::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            let folder = to.parent().unwrap_or(&copy.tree);
            fs::create_dir_all(folder)
                .and_then(|()| fs::copy(&from, &to))
                .and_then(|_| fs::write(&to, bytes))
                .map_err(|e| format!("{}: {e}", to.display()))?;
        }
        copy.build(&["-p", "vf-conformance", "--bin", "vf-conformance"])?;
        copy.build(VFNIC)?;
        Ok(copy)
    }

    /// Nothing is caught by what fails anyway.
    fn passes_as_it_is(&self, mutants: &[&Mutant]) -> Result<(), String> {
        let mut cases: Vec<String> = mutants.iter().flat_map(|m| m.cases.clone()).collect();
        cases.sort_unstable();
        cases.dedup();
        if cases.is_empty() {
            return Ok(());
        }
        match self.judge(&cases, "none")? {
            None => Ok(()),
            Some(by) => Err(format!("the tree as it is does not pass: {by}")),
        }
    }

    fn build(&self, what: &[&str]) -> Result<(), String> {
        let mut cargo = self.cargo("build");
        match limited(cargo.args(what), BUILD_LIMIT)? {
            Some((true, _)) => Ok(()),
            Some((false, text)) => Err(self.does_not_build(&text)),
            None => Err("the build does not end".to_owned()),
        }
    }

    /// Cargo without what would only take time: nobody looks at these programs with a debugger.
    fn cargo(&self, verb: &str) -> Command {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .args([verb, "--quiet", "--locked"])
            .stdin(Stdio::null());
        cargo
    }

    /// What the compiler has to say, and of which mutant.
    fn does_not_build(&self, said: &str) -> String {
        let mut lines = said.lines();
        let error = lines.find(|line| line.starts_with("error"));
        let place = lines.find_map(|line| line.trim_start().strip_prefix("--> "));
        let mut parts = place.unwrap_or_default().split(':');
        let file = self.tree.join(parts.next().unwrap_or_default());
        let line = parts.next().and_then(|line| line.parse().ok());
        let woven = fs::read_to_string(file).unwrap_or_default();
        let mutant = schemata::at_line(&woven, line.unwrap_or_default());
        format!(
            "does not build, perhaps for {}: {} ({})",
            mutant.unwrap_or("no mutant"),
            error.unwrap_or("cargo says no more"),
            place.unwrap_or("nowhere")
        )
    }

    /// Has the mutant looked for. One that is in no function that could be doubled is put in, and taken out again.
    fn try_out(&self, mutant: &Mutant) -> Result<Outcome, String> {
        let file = self.tree.join(&mutant.file);
        let said = |e: std::io::Error| format!("{}: {e}", file.display());
        let text = fs::read_to_string(&file).map_err(said)?;
        let mark = format!("\"{}\"", mutant.id());
        if text.contains(&mark) {
            return self.look_for(mutant);
        }
        fs::write(&file, mutant.apply(&text)?).map_err(said)?;
        let outcome = match mutant.cases.is_empty() {
            true => Ok(()),
            false => self.build(VFNIC),
        }
        .and_then(|()| self.look_for(mutant));
        fs::write(&file, text).map_err(said)?;
        if !mutant.cases.is_empty() {
            self.build(VFNIC)?;
        }
        outcome
    }

    fn look_for(&self, mutant: &Mutant) -> Result<Outcome, String> {
        let mut caught = None;
        if !mutant.cases.is_empty() {
            caught = self.judge(&mutant.cases, &mutant.id())?;
        }
        if caught.is_none() && !mutant.test.is_empty() {
            caught = self.test(&mutant.test, &mutant.id())?;
        }
        Ok(caught.map_or(Outcome::Survived, Outcome::Caught))
    }

    /// The tests that fail, if any does.
    fn test(&self, args: &[String], mutant: &str) -> Result<Option<String>, String> {
        let mut cargo = self.cargo("test");
        // What is built is no part of the time that a mutant has.
        match limited(cargo.arg("--no-run").args(args), BUILD_LIMIT)? {
            Some((true, _)) => {}
            Some((false, text)) => return Err(self.does_not_build(&text)),
            None => return Err("the tests' build does not end".to_owned()),
        }
        let mut cargo = self.cargo("test");
        // What proptest finds is no new case of this tree.
        cargo
            .env("PROPTEST_FAILURE_PERSISTENCE", "off")
            .env(schemata::CHOICE, mutant)
            .args(args);
        let Some((succeeded, text)) = limited(&mut cargo, LIMIT)? else {
            return Ok(Some("a test that does not end".to_owned()));
        };
        if !text
            .lines()
            .any(|line| line.starts_with("running ") && line != "running 0 tests")
        {
            return Err(format!("no test is called so: {}", args.join(" ")));
        }
        let mut names = text.lines().skip_while(|line| *line != "failures:");
        let failed: Vec<_> = names
            .by_ref()
            .filter_map(|line| line.strip_prefix("---- ")?.split(' ').next())
            .collect();
        match (succeeded, failed.split_first()) {
            (true, _) => Ok(None),
            (false, Some((first, more))) => Ok(Some(and_more(first, more.len()))),
            (false, None) => Ok(Some("a test that is broken off".to_owned())),
        }
    }

    /// The cases that fail, if any does.
    fn judge(&self, cases: &[String], mutant: &str) -> Result<Option<String>, String> {
        let run = tempfile::tempdir().map_err(|e| e.to_string())?;
        let folder = run.path().display();
        let vfnic = self.target.join("debug/vfnic");
        let adapter = self.tree.join("conformance/subjects/vfnic-control");
        let choice = format!("env '{}={mutant}'", schemata::CHOICE);
        let mut suite = Command::new(self.target.join("debug/vf-conformance"));
        suite
            .env("VFNIC", &vfnic)
            .args(["run", "--strict", "--timeout", "20"])
            .arg("--start")
            .arg(format!(
                "{choice} '{}' run --vfs 4 --no-state --socket-dir '{folder}'",
                vfnic.display()
            ))
            .arg("--control")
            .arg(format!(
                "{choice} '{}' --ctl '{folder}/ctl.sock' 0 1 2 3",
                adapter.display()
            ));
        for (socket, vf) in ["--socket", "--peer-socket"].iter().cycle().zip(0..4) {
            suite.arg(socket).arg(format!("{folder}/vf{vf}.sock"));
        }
        suite.args(cases);
        let Some((succeeded, text)) = limited(&mut suite, LIMIT)? else {
            return Ok(Some("a suite that does not end".to_owned()));
        };
        let failed = text.lines().filter_map(|line| {
            let fails = line.strip_prefix("FAIL ");
            fails.or_else(|| line.strip_prefix("warn "))
        });
        let failed: Vec<_> = failed
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        match (succeeded, failed.split_first()) {
            (true, _) => Ok(None),
            (false, Some((first, more))) => Ok(Some(and_more(first, more.len()))),
            // It does not come up, or nothing passes.
            (false, None) => {
                let last = text
                    .lines()
                    .rfind(|line| !line.is_empty())
                    .unwrap_or_default();
                Ok(Some(format!("the suite: {last}")))
            }
        }
    }
}

/// What is judged: the product without its laboratory.
const VFNIC: &[&str] = &["-p", "vfnic", "--bin", "vfnic", "--no-default-features"];

/// The root of the library that a file is a part of.
fn root_of(file: &Path) -> Option<PathBuf> {
    let inside = |folder: &&Path| table::top().join(folder).join("Cargo.toml").exists();
    Some(file.ancestors().skip(1).find(inside)?.join("src/lib.rs"))
}

/// Makes a symbolic link unless it is there.
fn link(target: &Path, at: &Path) -> std::io::Result<()> {
    if fs::read_link(at).is_ok_and(|there| there == target) {
        return Ok(());
    }
    fs::create_dir_all(at.parent().unwrap_or(at))?;
    std::os::unix::fs::symlink(target, at)
}

/// Removes files of last time that are not known any more.
fn tidy(folder: &Path, known: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            tidy(&path, known)?;
        } else if !known.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether a command succeeded and what it said; `None` if it does not end in time.
fn limited(command: &mut Command, limit: Duration) -> Result<Option<(bool, String)>, String> {
    let said = |e: std::io::Error| e.to_string();
    let mut output = tempfile::tempfile().map_err(said)?;
    command.stdout(output.try_clone().map_err(said)?);
    command.stderr(output.try_clone().map_err(said)?);
    let mut group = Group::spawn(command).map_err(said)?;
    let began = Instant::now();
    let status = loop {
        match group.exited().map_err(said)? {
            Some(status) => break status,
            None if began.elapsed() > limit => return Ok(None),
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let mut text = Vec::new();
    output.rewind().map_err(said)?;
    output.read_to_end(&mut text).map_err(said)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(Some((status.success(), text)))
}

fn and_more(first: &str, more: usize) -> String {
    match more {
        0 => first.to_owned(),
        more => format!("{first} and {more} more"),
    }
}
