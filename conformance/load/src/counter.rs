//! The back end's own counter of busy cycles, asked by a command of the user's: who is saturated is best told by oneself. What the command
//! prints is believed; nothing here counts.

use std::process::{Command, Stdio};

/// What a back end has counted so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Counted {
    cycles: f64,
    packets: f64,
}

impl Counted {
    /// Runs a shell command that prints two numbers: busy cycles and packets.
    pub(super) fn ask(command: &str) -> Result<Counted, String> {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).stdin(Stdio::null());
        let output = shell.stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| format!("sh: {error}"))?;
        if !output.status.success() {
            return Err(format!("{command}: {}", output.status));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        Counted::read(&text)
            .ok_or_else(|| format!("{command} printed {:?}, not two numbers", text.trim_end()))
    }

    fn read(text: &str) -> Option<Counted> {
        let mut words = text.split_whitespace().map(str::parse);
        match (words.next(), words.next(), words.next()) {
            (Some(Ok(cycles)), Some(Ok(packets)), None) => Some(Counted { cycles, packets }),
            _ => None,
        }
    }

    /// Cycles a packet from an earlier count to this one; `None` when no packet was counted.
    pub(super) fn each_since(self, before: Counted) -> Option<f64> {
        let packets = self.packets - before.packets;
        (packets > 0.0).then(|| (self.cycles - before.cycles) / packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_a_packet_are_of_what_was_counted_in_between() {
        let before = Counted::ask("echo 1000 10").unwrap();
        let after = Counted::ask("echo 2600 20").unwrap();
        assert_eq!(after.each_since(before), Some(160.0));
        assert_eq!(after.each_since(after), None);
    }

    #[test]
    fn a_command_that_is_no_counter_is_told() {
        for (command, says) in [
            ("echo 1", "printed \"1\", not two numbers"),
            ("echo 1 2 3", "not two numbers"),
            ("echo 1 x", "not two numbers"),
            ("exit 3", "exit status: 3"),
        ] {
            let error = Counted::ask(command).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
