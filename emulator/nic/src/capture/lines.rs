//! Events and drops as JSON, a line each: what `vfnic monitor` reads. Writes no frame's bytes.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};
use vf_model::Header;

use super::event::Happening;
use super::form::{Form, Watched};
use super::pcapng::port_name;
use super::rule::Rules;
use super::{Captured, Item};
use crate::watch::Direction;

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Seconds of UNIX time; on the virtual clock since its beginning.
    pub time: f64,
    /// The NIC.
    pub nic: String,
    /// What has happened.
    #[serde(flatten)]
    pub what: Happening,
}

/// See the module.
pub(super) struct Lines<W: Write> {
    out: W,
    rules: Rules,
    /// By NIC: dropped frames and events of which the reader has been told that it missed them.
    missed: Vec<[u64; 2]>,
}

impl<W: Write> Lines<W> {
    pub(super) fn begin(out: W, watched: &[Watched]) -> Lines<W> {
        Lines {
            out,
            rules: Rules::default(),
            missed: vec![[0; 2]; watched.len()],
        }
    }

    fn line(&mut self, of: &Watched, at: u64, what: Happening) -> io::Result<()> {
        let line = Line {
            time: of.began.saturating_add(at) as f64 / 1e9,
            nic: of.nic.clone(),
            what,
        };
        serde_json::to_writer(&mut self.out, &line)?;
        self.out.write_all(b"\n")
    }

    fn say_missed(&mut self, of: &Watched, at: u64) -> io::Result<()> {
        let ports = of.capture.wanted().ports.len();
        let drops = of.capture.missed().take(ports).sum();
        let now = [drops, of.capture.missed().skip(ports).sum()];
        let Some(before) = self.missed.get_mut(of.number) else {
            return Ok(());
        };
        let [drops, events] = [0, 1].map(|i| now[i] - before[i]);
        *before = now;
        match drops + events {
            0 => Ok(()),
            _ => self.line(of, at, Happening::Missed { drops, events }),
        }
    }

    fn dropped(&mut self, frame: &Captured) -> Option<Happening> {
        let reason = frame.drop?;
        let header = Header::parse(frame.frame.head()).ok();
        let header = header.as_ref();
        Some(Happening::Drop {
            port: port_name(frame.port),
            direction: match frame.direction {
                Direction::Rx => "rx".to_owned(),
                Direction::Tx => "tx".to_owned(),
            },
            reason: reason.to_string(),
            why: self.rules.why(frame, reason),
            src: header.map(|header| header.src.to_string()),
            dst: header.map(|header| header.dst.to_string()),
            ethertype: header.map(|header| format!("{:#06x}", header.ethertype)),
            len: frame.len,
        })
    }
}

impl<W: Write> Form for Lines<W> {
    fn item(&mut self, _: usize, of: &Watched, item: &Item) -> io::Result<()> {
        match item {
            Item::Event(event) => {
                self.say_missed(of, event.at.0)?;
                self.line(of, event.at.0, event.what.clone())
            }
            Item::Frame(frame) => {
                self.say_missed(of, frame.at.0)?;
                match self.dropped(frame) {
                    Some(what) => self.line(of, frame.at.0, what),
                    None => Ok(()),
                }
            }
        }
    }

    fn end(&mut self, _: &[Watched]) -> io::Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
