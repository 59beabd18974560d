//! A file of commands, a line each, as `ip -batch` has it. Carries none of them out.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use vfnic::control::{MAX_LINE, NicCommand};

/// Commands with the lines of the file that they are on.
pub(crate) struct Batch {
    pub(crate) commands: Vec<NicCommand>,
    /// Counted from 1, one for each command.
    pub(crate) lines: Vec<usize>,
}

/// The text of `file`, or of standard input if that is `-`.
pub(crate) fn read(file: &Path) -> io::Result<String> {
    let input: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file)?),
    };
    let mut text = String::new();
    let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    let read = input.take(most).read_to_string(&mut text)?;
    if read == MAX_LINE {
        let what =
            format!("more than {MAX_LINE} bytes, which are the most of one request: split it");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

impl Batch {
    /// Takes a text apart. What follows a `#` is a comment; a line that ends in `\` goes on in the next, which a mistake is then told of; a line may
    /// begin with `--nic NAME`, and those that do not are for `nic`.
    ///
    /// # Errors
    /// The line that is no command, and what is wrong with it.
    pub(crate) fn parse(text: &str, nic: Option<&str>) -> Result<Batch, (usize, String)> {
        let mut batch = Batch {
            commands: Vec::new(),
            lines: Vec::new(),
        };
        let mut begun = Vec::new();
        let mut texts = (1..).zip(text.lines()).peekable();
        while let Some((line, text)) = texts.next() {
            let text = text.split_once('#').map_or(text, |(text, _)| text);
            // As ip has it: the next line goes on with this one.
            let goes_on = text.trim_end().strip_suffix('\\');
            let more = goes_on.unwrap_or(text).split_whitespace();
            begun.extend(more.map(str::to_owned));
            if begun.is_empty() || goes_on.is_some() && texts.peek().is_some() {
                continue;
            }
            let mut words = std::mem::take(&mut begun);
            let mut nic = nic.map(str::to_owned);
            if words[0] == "--nic" {
                let named = words.drain(..2.min(words.len())).nth(1);
                nic = Some(named.ok_or((line, "--nic: the name of a NIC must follow".to_owned()))?);
            }
            vf_model::Command::parse_addressed(&words)
                .map_err(|refusal| (line, refusal.to_string()))?;
            batch.commands.push(NicCommand { nic, words });
            batch.lines.push(line);
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_as_ip_has_them() {
        let text = "# all of it\n\n  vf 0 set trust on # why\n--nic b link set down\r\n\t\n";
        let batch =
            Batch::parse(text, Some("a")).unwrap_or_else(|(line, why)| panic!("{line}: {why}"));
        assert_eq!(batch.lines, [3, 4]);
        let said = batch
            .commands
            .iter()
            .map(|c| (c.nic.as_deref().unwrap(), c.words.join(" ")));
        assert_eq!(
            said.collect::<Vec<_>>(),
            [
                ("a", "vf 0 set trust on".to_owned()),
                ("b", "link set down".to_owned())
            ]
        );
        let text = "vf 0 \\\n  set trust on \\ # why\nvlan 5\nlink set up \\";
        let batch = Batch::parse(text, None).unwrap_or_else(|(line, why)| panic!("{line}: {why}"));
        let said: Vec<_> = batch.commands.iter().map(|c| c.words.join(" ")).collect();
        assert_eq!(said, ["vf 0 set trust on vlan 5", "link set up"]);
        assert_eq!(batch.lines, [3, 4]);
        for (text, line, says) in [
            (
                "link set up\n\nvf 0 frob",
                3,
                "vf 'frob': set, netem, rss, request, reset, mac",
            ),
            ("--nic", 1, "--nic: the name of a NIC must follow"),
            (
                "--nic a # up",
                1,
                "vf, link, bridge, fdb or filter must follow",
            ),
            ("show", 1, "command 'show': vf, link, bridge, fdb or filter"),
        ] {
            let (at, why) = Batch::parse(text, None).err().unwrap();
            assert_eq!(at, line, "{text}");
            assert!(why.contains(says), "{text}: {why}");
        }
    }
}
