//! What frames somebody wants to see, in the words in which `filter add` says what a filter matches. Decides nothing about a frame
//! but whether it is one of those.

use vf_packet::Header;

use crate::filter_fields::{FieldWords, MatchFields, MatchFlags};
use crate::refusal::Refusal;
use crate::words::{ParseError, Words};

/// Frames that are alike in some fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMatch {
    mask: FieldWords,
    value: FieldWords,
    /// Whether it looks behind the Ethernet header.
    packet: bool,
}

impl FrameMatch {
    /// Reads words such as `flow-type tcp4 dst-ip 10.0.0.0/8 dst-port 80`.
    ///
    /// # Errors
    /// [`Refusal`] that names the word at fault and what is allowed in its place.
    pub fn parse<S: AsRef<str>>(words: &[S]) -> Result<FrameMatch, Refusal> {
        let read = Words::new("capture", words).match_alone();
        let fields = read.map_err(|refusal| match refusal {
            // Of the keys of a filter, those that say what a frame is like.
            Refusal::Words(ParseError::Word { what, got, allowed }) => {
                let (allowed, _) = allowed.split_once(", priority, ").unwrap_or((allowed, ""));
                Refusal::Words(ParseError::Word { what, got, allowed })
            }
            other => other,
        })?;
        Ok(FrameMatch::of(&fields))
    }

    fn of(fields: &MatchFields) -> FrameMatch {
        let (combination, value) = fields.combination();
        FrameMatch {
            mask: *combination.mask(),
            value,
            packet: fields.flags().intersects(MatchFlags::FLOW),
        }
    }

    /// Whether a frame that begins with `head` is one of them, by the tags that are in it.
    #[must_use]
    pub fn has(&self, head: &[u8]) -> bool {
        let Ok(header) = Header::parse(head) else {
            return false;
        };
        let words = FieldWords::of_header(&header, header.vlan());
        let words = match self.packet {
            true => words.with_packet(head),
            false => Some(words),
        };
        words.is_some_and(|words| words.masked(&self.mask) == self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NicConfig;
    use crate::policy::Policy;
    use crate::profile::Profile;
    use crate::question::Question;
    use vf_packet::MacAddr;

    /// Whether a frame in the words of `why` is one of those in the words of `filter add`.
    fn has(wanted: &str, frame: &str) -> bool {
        let policy = Policy::new(NicConfig {
            vfs: 2,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0x10]),
            profile: Profile::Generic,
        });
        let frame: Vec<_> = frame.split(' ').collect();
        let frame = Question::parse(&frame, &policy).unwrap().frame;
        let wanted: Vec<_> = wanted.split(' ').collect();
        FrameMatch::parse(&wanted).unwrap().has(&frame)
    }

    #[test]
    fn a_frame_is_wanted_if_all_that_is_said_is_true_of_it() {
        const WEB: &str = "from vf0 dst vf1 tcp src-ip 10.0.0.2 dst-ip 10.0.0.1 dport 80";
        for (wanted, frame, is) in [
            ("flow-type tcp4 dst-ip 10.0.0.1 dst-port 80", WEB, true),
            ("flow-type tcp4 dst-ip 10.0.0.0/8", WEB, true),
            ("flow-type tcp4 dst-port 81", WEB, false),
            ("flow-type udp4 dst-port 80", WEB, false),
            ("flow-type ip4 src-ip 10.0.0.2", WEB, true),
            ("flow-type ether dst 02:00:00:00:00:11", WEB, true),
            ("flow-type ether src 02:00:00:00:00:11", WEB, false),
            ("flow-type ether proto 0x0800", WEB, true),
            ("flow-type ether vlan 5", WEB, false),
            ("flow-type ether vlan 5", "from vf0 dst vf1 vlan 5", true),
            // Neither IP nor anything in it.
            ("flow-type ip4 l4proto 0", "from vf0 dst vf1", false),
        ] {
            assert_eq!(has(wanted, frame), is, "{wanted}: {frame}");
        }
        assert!(
            !FrameMatch::parse(&["flow-type", "ip6", "src-ip", "::1"])
                .unwrap()
                .has(&[1, 2])
        );
    }

    #[test]
    fn words_that_say_nothing_of_one_frame_are_refused() {
        for (words, says) in [
            ("dst-ip 10.0.0.1", "flow-type"),
            ("flow-type ether dst unknown-unicast", "capture"),
            ("flow-type ether proto 0x0800 action drop", "capture"),
            ("flow-type ether proto 0x0800 vf 1", "capture"),
            ("flow-type tcp4 dts-port 80", "did you mean 'dst-port'"),
        ] {
            let words: Vec<_> = words.split(' ').collect();
            let refusal = FrameMatch::parse(&words).unwrap_err().to_string();
            assert!(refusal.contains(says), "{words:?}: {refusal}");
            assert!(!refusal.contains("for a new filter"), "{refusal}");
        }
    }
}
