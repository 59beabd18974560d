//! `cargo run -p vf-conformance --example mutants`: does the suite bite? Puts each error of `conformance/mutants` into a copy of
//! this tree, one at a time, builds `vfnic` there and has the cases judge it that should fail; or runs the test that should, where
//! no case reaches the code or can judge it. What nothing catches is a case that is missing.
//!
//! Exit status: 0 all were caught, 1 some were not, 2 one could not be tried, or the tree fails as it is.

#![forbid(unsafe_code)]

mod table;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process_group};
use table::Mutant;

/// How long a mutant may keep those busy that are to catch it; one that has everybody wait is caught.
const LIMIT: Duration = Duration::from_secs(600);

/// Try whether the suite and the tests catch errors that are put into the tree on purpose
#[derive(Parser)]
struct Args {
    /// Only mutants with this in their name.
    patterns: Vec<String>,
    /// Say which there are, and what has to catch them.
    #[arg(long)]
    list: bool,
    /// Where the cases that should have failed have not, run the whole suite.
    #[arg(long)]
    whole: bool,
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

/// A copy of the tree with what is built of it.
struct Copy {
    tree: PathBuf,
    target: PathBuf,
    /// The suite of the tree as it is.
    suite: PathBuf,
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
    let mut mutants = table::all()?;
    let meant = |mutant: &Mutant| args.patterns.iter().any(|p| mutant.id().contains(p));
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
    let work = args.work.clone();
    let copy = Copy::new(&work.unwrap_or_else(|| table::top().join("target/mutants")))?;
    copy.passes_as_it_is(&mutants)?;
    let (mut survived, mut broken) = (0, 0);
    for mutant in &mutants {
        let began = Instant::now();
        let outcome = copy
            .try_out(mutant, args.whole)
            .unwrap_or_else(Outcome::Broken);
        let (word, by) = match &outcome {
            Outcome::Caught(by) => ("caught", by.as_str()),
            Outcome::Survived => ("SURVIVED", mutant.about.as_str()),
            Outcome::Broken(why) => ("BROKEN", why.as_str()),
        };
        survived += usize::from(matches!(outcome, Outcome::Survived));
        broken += usize::from(matches!(outcome, Outcome::Broken(_)));
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
    /// Copies what git knows of the tree, leaves alone what is the same as last time, and builds it.
    fn new(work: &Path) -> Result<Copy, String> {
        let copy = Copy {
            tree: work.join("tree"),
            target: work.join("build"),
            suite: work.join("vf-conformance"),
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
        for name in listed.split('\0').filter(|name| !name.is_empty()) {
            let (from, to) = (top.join(name), copy.tree.join(name));
            let Ok(bytes) = fs::read(&from) else {
                continue; // deleted, and git has not been told
            };
            if fs::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            let folder = to.parent().unwrap_or(&copy.tree);
            fs::create_dir_all(folder)
                .and_then(|()| fs::copy(&from, &to).map(drop))
                .map_err(|e| format!("{}: {e}", to.display()))?;
        }
        copy.build(&["-p", "vf-conformance", "--bin", "vf-conformance"])?;
        copy.build(&["-p", "vfnic", "--bin", "vfnic", "--no-default-features"])?;
        let built = copy.target.join("debug/vf-conformance");
        fs::copy(built, &copy.suite).map_err(|e| format!("the suite: {e}"))?;
        Ok(copy)
    }

    /// Nothing is caught by what fails anyway.
    fn passes_as_it_is(&self, mutants: &[Mutant]) -> Result<(), String> {
        let mut cases: Vec<String> = mutants.iter().flat_map(|m| m.cases.clone()).collect();
        cases.sort_unstable();
        cases.dedup();
        if cases.is_empty() {
            return Ok(());
        }
        match self.judge(&cases)? {
            None => Ok(()),
            Some(by) => Err(format!("the tree as it is does not pass: {by}")),
        }
    }

    fn build(&self, what: &[&str]) -> Result<(), String> {
        let mut cargo = self.cargo("build");
        cargo.arg("--quiet").args(what);
        let built = cargo.output().map_err(|e| format!("cargo: {e}"))?;
        match built.status.success() {
            true => Ok(()),
            false => Err(format!("does not build: {}", first_error(&built.stderr))),
        }
    }

    fn cargo(&self, verb: &str) -> Command {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .args([verb, "--locked"])
            .stdin(Stdio::null());
        cargo
    }

    /// Puts the error in, has it looked for, and takes it out again.
    fn try_out(&self, mutant: &Mutant, whole: bool) -> Result<Outcome, String> {
        let file = self.tree.join(&mutant.file);
        let said = |e: std::io::Error| format!("{}: {e}", file.display());
        let text = fs::read_to_string(&file).map_err(said)?;
        fs::write(&file, mutant.apply(&text)?).map_err(said)?;
        let outcome = self.look_for(mutant, whole);
        fs::write(&file, text).map_err(said)?;
        outcome
    }

    fn look_for(&self, mutant: &Mutant, whole: bool) -> Result<Outcome, String> {
        let mut caught = None;
        if !mutant.cases.is_empty() || whole {
            self.build(&["-p", "vfnic", "--bin", "vfnic", "--no-default-features"])?;
        }
        if !mutant.cases.is_empty() {
            caught = self.judge(&mutant.cases)?;
        }
        if caught.is_none() && !mutant.test.is_empty() {
            caught = self.test(&mutant.test)?;
        }
        if caught.is_none() && whole {
            let by = self.judge(&[])?;
            caught = by.map(|by| format!("{by}, which was not expected to"));
        }
        Ok(caught.map_or(Outcome::Survived, Outcome::Caught))
    }

    /// The tests that fail, if any does.
    fn test(&self, args: &[String]) -> Result<Option<String>, String> {
        let mut cargo = self.cargo("test");
        // What proptest finds is no new case of this tree.
        cargo.env("PROPTEST_FAILURE_PERSISTENCE", "off").args(args);
        let Some((succeeded, text)) = limited(&mut cargo)? else {
            return Ok(Some("a test that does not end".to_owned()));
        };
        if text.contains("error: could not compile") {
            return Err(format!("does not build: {}", first_error(text.as_bytes())));
        }
        let failed = text.lines().filter(|line| line.ends_with("... FAILED"));
        let failed: Vec<_> = failed.filter_map(|line| line.split(' ').nth(1)).collect();
        match (succeeded, failed.split_first()) {
            (true, _) => Ok(None),
            (false, Some((first, more))) => Ok(Some(and_more(first, more.len()))),
            (false, None) => Ok(Some("a test that is broken off".to_owned())),
        }
    }

    /// The cases that fail, if any does.
    fn judge(&self, cases: &[String]) -> Result<Option<String>, String> {
        let run = tempfile::tempdir().map_err(|e| e.to_string())?;
        let folder = run.path().display();
        let vfnic = self.target.join("debug/vfnic");
        let adapter = self.tree.join("conformance/subjects/vfnic-control");
        let mut suite = Command::new(&self.suite);
        suite
            .env("VFNIC", &vfnic)
            .args(["run", "--strict", "--timeout", "20"])
            .arg("--start")
            .arg(format!(
                "'{}' run --vfs 4 --no-state --socket-dir '{folder}'",
                vfnic.display()
            ))
            .arg("--control")
            .arg(format!(
                "'{}' --ctl '{folder}/ctl.sock' 0 1 2 3",
                adapter.display()
            ));
        for (socket, vf) in ["--socket", "--peer-socket"].iter().cycle().zip(0..4) {
            suite.arg(socket).arg(format!("{folder}/vf{vf}.sock"));
        }
        suite.args(cases);
        let Some((succeeded, text)) = limited(&mut suite)? else {
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

/// Removes files of last time that are not known any more.
fn tidy(folder: &Path, known: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            tidy(&path, known)?;
        } else if !known.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether a command succeeded and what it said; `None` if it does not end in time.
fn limited(command: &mut Command) -> Result<Option<(bool, String)>, String> {
    let output = tempfile::tempfile().map_err(|e| e.to_string())?;
    let both = || output.try_clone().map_err(|e| e.to_string());
    let mut child = command
        .stdout(both()?)
        .stderr(both()?)
        .process_group(0)
        .spawn()
        .map_err(|e| e.to_string())?;
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            use std::io::{Read, Seek};
            let mut output = output;
            let mut text = Vec::new();
            output.rewind().map_err(|e| e.to_string())?;
            output.read_to_end(&mut text).map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&text).into_owned();
            return Ok(Some((status.success(), text)));
        }
        if began.elapsed() > LIMIT {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn and_more(first: &str, more: usize) -> String {
    match more {
        0 => first.to_owned(),
        more => format!("{first} and {more} more"),
    }
}

fn first_error(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let error = text.lines().find(|line| line.starts_with("error"));
    error.unwrap_or("cargo says no more").to_owned()
}
