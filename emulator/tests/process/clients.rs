//! The clients of docs/control.md, as they stand there.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::emulator::Emulator;

/// The first block of the page in this language.
fn block(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// Whether a program that a test needs is there; why nothing is tested is said where it is not.
fn is_there(program: &str, args: &[&str], language: &str) -> bool {
    let mut look = Command::new(program);
    let look = look.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    let found = look.status().is_ok_and(|status| status.success());
    if !found {
        println!("skipped: the client in {language}, because {program} is not installed");
    }
    found
}

fn client(emulator: &Emulator, program: &str, text: &str) -> Output {
    let mut client = Command::new(program);
    let client = client.args(["-c", text]).env("CTL", emulator.ctl());
    client.output().unwrap()
}

#[test]
fn the_client_in_python_works() {
    if !is_there("python3", &["--version"], "Python") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let output = client(&emulator, "python3", &block("python"));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, "nic0 0 on 0\nnic0 1 on 0\n");
    let settings = emulator.vf(0, 0).settings;
    assert_eq!((&*settings["vlan"], &*settings["qos"]), ("100", "3"));
}

#[test]
fn the_client_in_shell_works() {
    if !is_there("socat", &["-V"], "shell") {
        return;
    }
    let emulator = Emulator::start(&[]);
    let output = client(&emulator, "sh", &block("sh"));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    assert!(
        lines[0].starts_with("{\"hello\":{\"protocol\":1,"),
        "{said}"
    );
    assert_eq!(lines[1], "{\"done\":[]}");
    // As the page says.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains(&format!("`{}`", lines[2])), "{said}");
    assert_eq!(emulator.vf(0, 1).path, "mediated");
}
