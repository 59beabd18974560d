//! What a shell is offered, as it asks: with the words of the command line, and which of them is completed.

use std::process::Command;

use crate::emulator::Emulator;

/// Two NICs, of two and of three VFs.
const NICS: &str = "[[nic]]\nname = 'a'\n[[nic]]\nname = 'b'\nvfs = 3\n";

/// What is offered behind these words, but for options. `CTL` stands for the control socket.
fn offered(emulator: &Emulator, said: &str) -> Vec<String> {
    let ctl = emulator.ctl();
    let said = said.replace("CTL", ctl.to_str().unwrap());
    let words: Vec<_> = said.split(' ').chain([""]).collect();
    let asked = Command::new(env!("CARGO_BIN_EXE_vfnic"))
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .env("_CLAP_IFS", "\n")
        .arg("--")
        .args(words)
        .output()
        .unwrap();
    let answer = String::from_utf8(asked.stdout).unwrap();
    let words = answer.lines().filter(|word| !word.starts_with('-'));
    words.map(str::to_owned).collect()
}

#[test]
fn vfs_are_those_of_the_nic_that_is_meant_wherever_that_is_said() {
    let emulator = Emulator::with_config(NICS);
    for (said, vfs) in [
        ("vfnic --ctl CTL vf", &["0", "1", "2"][..]),
        ("vfnic --ctl=CTL --nic=a vf", &["0", "1"]),
        // As Bash hands '=' over.
        ("vfnic --ctl = CTL --nic = b vf", &["0", "1", "2"]),
        ("vfnic vf --nic a --ctl CTL", &["0", "1"]),
        ("vfnic guest --ctl CTL --nic a", &["0", "1"]),
        ("vfnic show vf --ctl CTL --nic a", &["0", "1"]),
        ("vfnic capture --ctl CTL --snaplen 64 a vf", &["0", "1"]),
        ("vfnic netns add blue --nic a --ctl CTL vf", &["0", "1"]),
        (
            "vfnic filter --ctl CTL add flow-type tcp4 dst-port 80 --nic a vf",
            &["0", "1"],
        ),
        ("vfnic link set dev --ctl CTL", &["a", "b"]),
        ("vfnic --ctl CTL --nic", &["a", "b"]),
    ] {
        assert_eq!(offered(&emulator, said), vfs, "{said}");
    }
    let scenarios = offered(&emulator, "vfnic scenario run");
    let has_one = scenarios.iter().any(|name| name == "path-switch");
    assert_eq!(has_one, cfg!(feature = "lab"), "{scenarios:?}");
    for said in [
        "vfnic run --profile",
        "vfnic profile show",
        "vfnic profile diff igb",
    ] {
        let profiles = offered(&emulator, said);
        assert!(
            profiles.iter().any(|name| name == "ixgbe"),
            "{said}: {profiles:?}"
        );
    }
}
