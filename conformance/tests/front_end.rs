//! The half that judges front ends, with our own guest as the front end: one that behaves, and one that lies. Starts no VMM.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use vf_conformance::case::{Case, Outcome};
use vf_conformance::front_end::{self, CASES, Stage};
use vf_guest::frontend::{Frontend, FrontendError};
use vf_guest::net::{NetConfig, NetDevice, NetHeader, negotiate};

/// A guest that comes again and again, until it is dropped.
struct Guest {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    fn new(path: &Path, serve: fn(Frontend, &AtomicBool) -> Result<(), FrontendError>) -> Guest {
        let done = Arc::new(AtomicBool::new(false));
        let (path, until) = (path.to_owned(), done.clone());
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                if let Ok(front) = Frontend::connect(&path) {
                    // A back end that closes and refuses is what it is here for.
                    let _ = serve(front, &until);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Guest {
            done,
            thread: Some(thread),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Sets up a device, sends frames and stays until it is hung up on.
fn behaves(front: Frontend, done: &AtomicBool) -> Result<(), FrontendError> {
    let mut device = NetDevice::start(front, &NetConfig::default())?;
    while !done.load(Ordering::Relaxed) {
        let sent = device.send(0, &NetHeader::default(), &[0xff; 60]);
        sent.map_err(|_| FrontendError::Closed)?;
        device.kick();
        if let Some(front) = device.frontend()
            && front.readable(Duration::from_millis(20))?
        {
            front.receive()?;
        }
    }
    Ok(())
}

/// Accepts a feature that nobody offered, and stays for a while.
fn lies(mut front: Frontend, _: &AtomicBool) -> Result<(), FrontendError> {
    let (features, _) = negotiate(&mut front, &NetConfig::default())?;
    front.set_features(features | 1 << 50)?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

fn stage(patience: Duration) -> (tempfile::TempDir, PathBuf, Stage) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.sock");
    let stage = Stage::new(path.clone(), Vec::new(), patience).unwrap();
    (dir, path, stage)
}

#[test]
fn a_front_end_that_behaves_passes() {
    let (_dir, path, stage) = stage(Duration::from_secs(60));
    let guest = Guest::new(&path, behaves);
    let all: Vec<&'static Case<Stage>> = CASES.iter().collect();
    let findings = front_end::run(&stage, &all, |_| {});
    drop(guest);
    assert_eq!(findings.len(), CASES.len());
    for finding in &findings {
        assert!(
            matches!(finding.outcome, Outcome::Passed(_)),
            "{finding:#?}"
        );
    }
}

#[test]
fn one_that_accepts_what_was_not_offered_fails() {
    let (_dir, path, stage) = stage(Duration::from_millis(800));
    let guest = Guest::new(&path, lies);
    let named = CASES.iter().find(|case| case.id == "front/offered-only");
    let findings = front_end::run(&stage, &[named.unwrap()], |_| {});
    drop(guest);
    let Outcome::Failed(why) = &findings[0].outcome else {
        panic!("{findings:#?}");
    };
    assert_eq!(why.to_string(), "bits 0x4000000000000 were not offered");
    assert!(!findings[0].said.is_empty(), "nothing is told");
}

#[test]
fn each_case_has_an_id_of_its_own_and_says_what_it_is_about() {
    let mut ids: Vec<&str> = CASES.iter().map(|case| case.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CASES.len());
    for case in CASES {
        assert!(case.id.starts_with("front/"), "{}", case.id);
        for text in [case.sent, case.expected] {
            assert!(text.ends_with(['.', ')']), "{}: {text}", case.id);
        }
    }
}
