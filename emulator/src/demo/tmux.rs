//! The demonstration in a tmux of its own: two guests beside each other and `vfnic top` below, with keys for the path. Starts no NIC, and
//! touches no other tmux of the user's.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Guest, Nic, end_group, stop_flag};
use crate::failure::{Failure, failed};
use crate::guest::word;

/// Keys and the paths that they choose.
const KEYS: [(&str, &str); 3] = [("F2", "direct"), ("F3", "mediated"), ("F4", "auto")];

pub(super) fn is_there() -> bool {
    let mut version = Command::new("tmux");
    version
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    version.status().is_ok_and(|status| status.success())
}

/// Until both guests have powered off, or F10.
pub(super) fn show(folder: &Path, nic: &Nic, guests: [Guest; 2]) -> Result<(), Failure> {
    let stop = stop_flag()?;
    let tmux = Tmux {
        socket: folder.join("tmux"),
    };
    let [a, b] = guests.map(|guest| words(&guest.command));
    let top = words(&nic.command(&["top"]));
    let set = |option: &str, value: &str| ["set", "-g", option, value].map(str::to_owned).to_vec();
    let mut commands = vec![
        vec!["new-session", "-d", "-s", "demo", "-x", "160", "-y", "48"],
        vec!["split-window", "-h", "-t", "demo:0.0"],
        vec!["split-window", "-v", "-f", "-l", "16", "-t", "demo:0.0"],
        vec!["select-pane", "-t", "demo:0.0"],
    ]
    .into_iter()
    .map(|words| words.into_iter().map(str::to_owned).collect::<Vec<_>>())
    .collect::<Vec<_>>();
    for (command, words) in commands.iter_mut().zip([a, b, top]) {
        command.push(words);
    }
    commands.push(set("status-left", ""));
    commands.push(set("status-right", ""));
    let keys = "F2 direct   F3 mediated   F4 auto   F6 other guest   F10 end";
    let typed = nic.typed();
    commands.push(set(
        "window-status-current-format",
        &format!(" {keys}   in another terminal: {typed} capture vf 0"),
    ));
    commands.push(set("mouse", "on"));
    for (key, path) in KEYS {
        let switch = words(&nic.command(&["vf", "0-1", "set", "path", path]));
        let bind = ["bind-key", "-n", key, "run-shell", &switch];
        commands.push(bind.map(str::to_owned).to_vec());
    }
    commands.push(
        // Not that of top, whose keys change VFs.
        [
            "bind-key",
            "-n",
            "F6",
            "if-shell",
            "-F",
            "#{==:#{pane_index},0}",
            "select-pane -t :.1",
            "select-pane -t :.0",
        ]
        .map(str::to_owned)
        .to_vec(),
    );
    commands.push(
        ["bind-key", "-n", "F10", "kill-session"]
            .map(str::to_owned)
            .to_vec(),
    );
    for command in commands {
        tmux.does(&command)?;
    }
    // The first two panes; that of top ends by itself when its terminal goes.
    let panes = tmux.said(&["list-panes", "-t", "demo", "-F", "#{pane_pid}"])?;
    let leaders: Vec<u32> = panes
        .lines()
        .filter_map(|pid| pid.trim().parse().ok())
        .collect();
    let mut attached = tmux.command();
    let mut attached = attached.arg("attach").spawn().map_err(failed)?;
    let outcome = loop {
        match attached.try_wait() {
            Ok(Some(_)) => break Ok(()),
            Ok(None) if stop.load(Ordering::Relaxed) => break Ok(()),
            // When both guests have gone there is nothing to look at.
            Ok(None) if leaders.iter().take(2).all(|pid| !is_alive(*pid)) => break Ok(()),
            Ok(None) => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => break Err(failed(error)),
        }
    };
    drop(tmux);
    let _ = attached.wait();
    leaders.into_iter().for_each(end_group);
    outcome
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// A tmux server of this run's own, which ends with this.
struct Tmux {
    socket: std::path::PathBuf,
}

impl Tmux {
    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command
            .arg("-f")
            .arg("/dev/null")
            .arg("-S")
            .arg(&self.socket);
        // A demonstration within somebody's tmux is one of its own.
        command.env_remove("TMUX");
        command
    }

    fn does(&self, words: &[String]) -> Result<(), Failure> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.said(&words).map(drop)
    }

    fn said(&self, words: &[&str]) -> Result<String, Failure> {
        let output = self.command().args(words).stdin(Stdio::null()).output();
        let output = output.map_err(failed)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => {
                let why = String::from_utf8_lossy(&output.stderr);
                Err(failed(format!("tmux {}: {}", words.join(" "), why.trim())))
            }
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let ended: io::Result<_> = self
            .command()
            .arg("kill-server")
            .stderr(Stdio::null())
            .status();
        // It may have ended with its last pane.
        let _ = ended;
    }
}

/// A command in the words of a shell, in its folder and with what is set for it.
fn words(command: &Command) -> String {
    let mut out = String::new();
    if let Some(dir) = command.get_current_dir() {
        out += &format!("cd {} && ", word(&dir.to_string_lossy()));
    }
    out += "exec env";
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let set = format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
            out += &format!(" {}", word(&set));
        }
    }
    let program = std::iter::once(command.get_program());
    for part in program.chain(command.get_args()) {
        out += &format!(" {}", word(&part.to_string_lossy()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_words_that_were_meant() {
        let mut command = Command::new("printf");
        command
            .args(["%s\\n", "a b", "it's", "$HOME", "*"])
            .env("TMPDIR", "/dev/shm")
            .current_dir("/");
        let said = words(&command);
        assert!(
            said.starts_with("cd / && exec env 'TMPDIR=/dev/shm' printf "),
            "{said}"
        );
        let output = Command::new("sh").args(["-c", &said]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "a b\nit's\n$HOME\n*\n"
        );
    }
}
