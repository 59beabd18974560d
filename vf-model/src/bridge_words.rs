//! What an administrator can ask of a NIC's switch, in the words of `bridge`(8). Never applies anything.

use crate::command::{Addressed, Command};
use crate::fdb::SelfEntry;
use crate::refusal::Refusal;
use crate::switch_mode::SwitchMode;
use crate::words::{Once, ParseError, Words};

const MODES: &str = "veb, vepa, floating or none";
const NIC: &str = "the name of a NIC";
/// What a question is told that stands where only changes may.
pub(crate) const ASKS: &str = "it asks, and stands alone on a command line: show [dev NIC]";

impl<S: AsRef<str>> Words<'_, S> {
    /// `bridge link set dev NIC hwmode MODE [self]`, and `bridge fdb` with what `fdb` has.
    pub(crate) fn bridge_command(&mut self) -> Result<Addressed, Refusal> {
        const OBJECTS: &str = "link or fdb";
        match self.next(OBJECTS)? {
            "link" => self.bridge_link_command(),
            "fdb" => self.fdb_command(),
            other => Err(Refusal::word("bridge", other, OBJECTS)),
        }
    }

    fn bridge_link_command(&mut self) -> Result<Addressed, Refusal> {
        const WORDS: &str = "dev, hwmode or self";
        match self.next("set")? {
            "set" => {}
            "show" => return Err(Refusal::word("bridge link", "show", ASKS)),
            other => return Err(Refusal::word("bridge link", other, "set or show")),
        }
        let (mut dev, mut mode, mut once) = (None, None, Once::default());
        loop {
            // In any order.
            match self.next(WORDS)? {
                "dev" => {
                    once.say("dev")?;
                    dev = Some(self.next(NIC)?.to_owned());
                }
                "hwmode" => {
                    once.say("hwmode")?;
                    mode = Some(self.switch_mode()?);
                }
                "self" => once.say("self")?,
                other => return Err(Refusal::word("bridge link set", other, WORDS)),
            }
            if let Some(mode) = mode
                && self.is_done()
            {
                let command = Command::SetSwitchMode(mode);
                return Ok(Addressed { dev, command });
            }
        }
    }

    /// The mode behind `hwmode`.
    pub(crate) fn switch_mode(&mut self) -> Result<SwitchMode, ParseError> {
        self.next(MODES)?.parse()
    }

    /// `fdb add|del MAC [dev NIC] [vlan VID] [self] [permanent]`: the last two are what bridge(8) takes for said.
    pub(crate) fn fdb_command(&mut self) -> Result<Addressed, Refusal> {
        const VERBS: &str = "add, del or show";
        const WORDS: &str = "dev, vlan, self or permanent";
        let new: fn(SelfEntry) -> Command = match self.next(VERBS)? {
            "add" => Command::FdbAdd,
            "del" | "delete" => Command::FdbDel,
            "show" => return Err(Refusal::word("fdb", "show", ASKS)),
            other => return Err(Refusal::word("fdb", other, VERBS)),
        };
        let mac = self.next("a MAC address")?.parse()?;
        let (mut dev, mut vlan, mut once) = (None, None, Once::default());
        while !self.is_done() {
            match self.next(WORDS)? {
                "dev" => {
                    once.say("dev")?;
                    dev = Some(self.next(NIC)?.to_owned());
                }
                "vlan" => {
                    once.say("vlan")?;
                    vlan = Some(self.vid()?);
                }
                "self" => once.say("self")?,
                "permanent" => once.say("permanent")?,
                "master" => {
                    return Err(Refusal::word(
                        "word",
                        "master",
                        "self, as the bridge on the PF learns its stations itself",
                    ));
                }
                other => return Err(Refusal::word("word", other, WORDS)),
            }
        }
        let command = new(SelfEntry { mac, vlan });
        Ok(Addressed { dev, command })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Addressed, String> {
        let words: Vec<_> = text.split_whitespace().collect();
        Command::parse_addressed(&words).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_words_of_bridge() {
        for (said, dev, means) in [
            (
                "bridge link set dev a hwmode vepa",
                Some("a"),
                "link set hwmode vepa",
            ),
            (
                "bridge link set hwmode veb dev a self",
                Some("a"),
                "link set hwmode veb",
            ),
            (
                "bridge link set hwmode floating",
                None,
                "link set hwmode floating",
            ),
            (
                "link set dev a hwmode vepa",
                Some("a"),
                "link set hwmode vepa",
            ),
            (
                "bridge fdb add 02:00:00:00:00:01 dev a self",
                Some("a"),
                "fdb add 02:00:00:00:00:01 self",
            ),
            (
                "bridge fdb add 02:00:00:00:00:01 dev a vlan 5 self permanent",
                Some("a"),
                "fdb add 02:00:00:00:00:01 vlan 5 self",
            ),
            (
                "bridge fdb delete 02:00:00:00:00:01 vlan 5 dev a",
                Some("a"),
                "fdb del 02:00:00:00:00:01 vlan 5 self",
            ),
            (
                "fdb del 02:00:00:00:00:01",
                None,
                "fdb del 02:00:00:00:00:01 self",
            ),
        ] {
            let addressed = parse(said).unwrap();
            assert_eq!(addressed.dev.as_deref(), dev, "{said}");
            assert_eq!(addressed.command.to_string(), means, "{said}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        for (text, says) in [
            ("bridge", "bridge: link or fdb must follow"),
            ("bridge vlan add vid 5", "bridge 'vlan': link or fdb"),
            ("bridge lnik set", "bridge 'lnik': did you mean 'link'?"),
            ("bridge link", "link: set must follow"),
            ("bridge link up", "bridge link 'up': set or show"),
            (
                "bridge link show b c",
                "bridge link 'show': it asks, and stands alone on a command line: show [dev NIC]",
            ),
            ("fdb show", "fdb 'show': it asks, and stands alone"),
            (
                "bridge link set hwmode veb hwmode vepa",
                "hwmode is said twice: say it once",
            ),
            (
                "fdb add 02:00:00:00:00:01 dev a dev b",
                "dev is said twice: say it once",
            ),
            (
                "fdb add 02:00:00:00:00:01 vlan 5 vlan 6",
                "vlan is said twice: say it once",
            ),
            ("bridge link set", "set: dev, hwmode or self must follow"),
            (
                "bridge link set dev a",
                "a: dev, hwmode or self must follow",
            ),
            (
                "bridge link set dev a learning off",
                "bridge link set 'learning': dev, hwmode or self",
            ),
            (
                "bridge link set dev a hwmode vpea",
                "hwmode 'vpea': did you mean 'vepa'?",
            ),
            ("fdb ad", "fdb 'ad': did you mean 'add'?"),
            (
                "bridge fdb add 02:00:00:00:00:01 dev",
                "dev: the name of a NIC must follow",
            ),
            (
                "bridge fdb add 02:00:00:00:00:01 dev a master",
                "word 'master': self, as the bridge on the PF learns",
            ),
            (
                "fdb add 02:00:00:00:00:01 dev a dst 10.0.0.1",
                "word 'dst': dev, vlan, self or permanent",
            ),
        ] {
            let refusal = parse(text).unwrap_err();
            assert!(refusal.contains(says), "{text:?}: {refusal}");
        }
    }
}
