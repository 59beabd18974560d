//! Frames that pass, judged again by both paths: what `vfnic check paths` reads. A JSON object a line for each frame on which the paths, or
//! they and the plane that had it, do not agree, and at the end how many there were. Judges with the judges of the planes.

use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vf_model::{BothPaths, Explanation, Policy, Receivers, Source};

use super::form::{Form, Watched};
use super::{Captured, Item};

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A frame on which they do not agree.
    Difference(Difference),
    /// The end.
    Checked(Checked),
}

/// See [`Line::Difference`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Seconds of UNIX time; on the virtual clock since its beginning.
    pub time: f64,
    /// The NIC.
    pub nic: String,
    /// Where it entered: `vfN` or `wire`.
    pub from: String,
    /// Its first bytes in hexadecimal, all that a judge looks at. `vfnic why from FROM hex FRAME len LEN` asks about it again.
    pub frame: String,
    /// Its length.
    pub len: u32,
    /// Whom the plane that had it has given it to.
    pub plane: String,
    /// What the direct path says.
    pub direct: Said,
    /// What the mediated path says.
    pub mediated: Said,
}

/// What a path says of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Whom it gives it to.
    pub receivers: String,
    /// Its decisions, in order.
    pub steps: Vec<String>,
}

/// See [`Line::Checked`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Frames that were judged again.
    pub frames: u64,
    /// Those among them on which there was no agreement.
    pub differences: u64,
    /// Frames that were to be, and were not, as too many waited.
    pub missed: u64,
}

/// See the module.
pub(super) struct Paths<W: Write> {
    out: W,
    /// The policy that a frame was judged by last, and what both paths make of it.
    both: Option<(Arc<Policy>, BothPaths)>,
    checked: Checked,
}

impl<W: Write> Paths<W> {
    pub(super) fn begin(out: W) -> Paths<W> {
        Paths {
            out,
            both: None,
            checked: Checked::default(),
        }
    }

    /// Judges a frame again, if it was judged where it was seen.
    fn difference(&mut self, of: &Watched, frame: &Captured) -> Option<Difference> {
        let (source, said) = (frame.source()?, frame.verdict.as_ref()?);
        let policy = frame.policy.as_ref()?;
        if !matches!(&self.both, Some((of, _)) if Arc::ptr_eq(of, policy)) {
            self.both = Some((Arc::clone(policy), BothPaths::of(policy).ok()?));
        }
        let (_, both) = self.both.as_ref()?;
        self.checked.frames += 1;
        let (head, meta) = (frame.frame.head(), frame.meta());
        let found = both.difference(source, head, &meta, Some(said))?;
        self.checked.differences += 1;
        Some(Difference {
            time: of.began.saturating_add(frame.at.0) as f64 / 1e9,
            nic: of.nic.clone(),
            from: match source {
                Source::Vf(vf) => vf.to_string(),
                Source::Wire => "wire".to_owned(),
            },
            frame: head.iter().map(|byte| format!("{byte:02x}")).collect(),
            len: meta.len,
            plane: found.said.map(|said| said.to_string()).unwrap_or_default(),
            direct: path_says(&found.direct),
            mediated: path_says(&found.mediated),
        })
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

fn path_says((receivers, why): &(Receivers, Explanation)) -> Said {
    Said {
        receivers: receivers.to_string(),
        steps: why.steps.iter().map(ToString::to_string).collect(),
    }
}

impl<W: Write> Form for Paths<W> {
    fn item(&mut self, _: usize, of: &Watched, item: &Item) -> io::Result<()> {
        match item {
            Item::Frame(frame) => match self.difference(of, frame) {
                Some(difference) => self.line(&Line::Difference(difference)),
                None => Ok(()),
            },
            Item::Event(_) => Ok(()),
        }
    }

    fn end(&mut self, watched: &[Watched]) -> io::Result<()> {
        let missed = watched.iter().map(|of| of.capture.missed().sum::<u64>());
        self.checked.missed = missed.sum();
        self.line(&Line::Checked(self.checked))?;
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Budget, Capture, Wanted, all_ports};
    use crate::queue::{Doorbell, Frame, Pool};
    use crate::watch::{Direction, Port};
    use mio::{Poll, Token, Waker};
    use vf_model::{
        Command, FrameMeta, MacAddr, Nanos, NicConfig, Profile, Verdict, VfIndex, VfSet,
    };

    fn policy(words: &str) -> Arc<Policy> {
        let policy = Policy::new(NicConfig {
            vfs: 2,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: Profile::Generic,
        });
        let words: Vec<_> = words.split(' ').collect();
        Arc::new(policy.with(&Command::parse(&words).unwrap()).unwrap())
    }

    /// What a plane that judged by this policy, and said this of the frame, leaves in a capture.
    fn captured(policy: &Arc<Policy>, frame: &[u8], said: Verdict) -> Item {
        let mut kept = Frame::default();
        kept.data.extend_from_slice(frame);
        Item::Frame(Captured {
            at: Nanos(1_500_000_000),
            port: Port::Vf(VfIndex(0)),
            direction: Direction::Tx,
            path: None,
            queue: Some(0),
            len: frame.len() as u32,
            missed: 0,
            frame: kept,
            verdict: Some(said),
            drop: said.drop,
            policy: Some(Arc::clone(policy)),
        })
    }

    #[test]
    fn a_plane_that_does_not_say_what_both_paths_say_is_told_of() {
        let of = Watched {
            number: 0,
            nic: "a".to_owned(),
            capture: Capture::new(
                Wanted {
                    ports: all_ports(2),
                    ..Wanted::default()
                },
                2,
                Doorbell::new(Waker::new(Poll::new().unwrap().registry(), Token(0)).unwrap()),
                Pool::new(4),
                Budget::default(),
            ),
            began: 0,
        };
        let mut out = Vec::new();
        let mut paths = Paths::begin(&mut out);
        let mut frame = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0x88, 0xb5].to_vec();
        frame.resize(60, 0);
        let meta = FrameMeta { len: 60, gso: None };
        let source = Source::Vf(VfIndex(0));
        // Each frame is set against the policy that it was judged by, whatever is in force by now.
        for words in [
            "vf 1 set trust on",
            "vf 1 set vlan 7",
            "vf 0 set path mediated",
        ] {
            let policy = policy(words);
            let said = policy.why(source, &frame, &meta).verdict;
            paths
                .item(0, &of, &captured(&policy, &frame, said))
                .unwrap();
        }
        let policy = policy("vf 1 set vlan 7");
        let wrong = Verdict {
            vfs: [VfIndex(1)].into_iter().collect::<VfSet>(),
            ..Verdict::default()
        };
        paths
            .item(0, &of, &captured(&policy, &frame, wrong))
            .unwrap();
        paths.end(&[of]).unwrap();
        let lines: Vec<Line> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let [Line::Difference(found), Line::Checked(checked)] = &lines[..] else {
            panic!("{lines:?}");
        };
        assert_eq!(
            (
                found.nic.as_str(),
                found.from.as_str(),
                found.len,
                found.time
            ),
            ("a", "vf0", 60, 1.5)
        );
        assert_eq!(found.plane, "vf1 without its outer tag");
        assert_eq!(found.direct.receivers, "the wire as it was sent");
        assert_eq!(found.direct.receivers, found.mediated.receivers);
        assert!(
            found
                .mediated
                .steps
                .iter()
                .any(|step| step.contains("not in this VLAN"))
        );
        assert!(found.frame.starts_with("020000000001"), "{}", found.frame);
        let expected = Checked {
            frames: 4,
            differences: 1,
            missed: 0,
        };
        assert_eq!(*checked, expected);
    }
}
