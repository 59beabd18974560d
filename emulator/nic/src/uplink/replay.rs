//! A capture played into the port, each frame as long after the first as it was seen then: of interfaces that tell directions those that came in. What is
//! sent goes nowhere, at the rate of the link. The file is read when the uplink is opened, and whole; once while somebody holds what was read,
//! as whoever goes on where another process is does, whose guests stand still meanwhile.

use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use vf_model::duration::Duration;
use vf_model::{Counter, Link, LinkConfig, Nanos};
use vf_vhost::net_hdr::MAX_FRAME;

use super::transmitter::PacedLink;
use super::{
    Arrivals, HandOver, Kind, Lost, OpenError, Position, Statistic, TxFrame, TxRoom, Uplink,
};
use crate::capture::read::{Captured, read};
use crate::queue::Pool;

/// How long after its last frame a capture begins anew that is repeated.
const PAUSE: Nanos = Nanos(1_000);

/// What may stand behind the file, in any order.
const OPTIONS: &str = "'delay TIME' and 'repeat'";

/// `pcap FILE`.
pub(super) const KIND: Kind = Kind {
    word: "pcap",
    operand: "FILE [delay TIME] [repeat]",
    of_this_machine: false,
    is_host_device: false,
    check: |words| Recording::of(Settings::parse(words)?.file).map(drop),
    open: |words, config, slack| Ok(Box::new(open(words, config, slack)?)),
    hand_over: HandOver::Position {
        ahead: |words| Recording::of(Settings::parse(words).ok()?.file).ok(),
        go_on: |words, position, config, slack| {
            let mut replay = open(words, config, slack)?;
            replay.go_on(position);
            Ok(Box::new(replay))
        },
    },
};

fn open(words: &str, config: LinkConfig, slack: Nanos) -> Result<Replay, OpenError> {
    Replay::open(words, config, slack).map_err(|why| OpenError {
        uplink: format!("pcap {words}"),
        source: std::io::Error::other(why),
        help: "it is a file that 'vfnic capture', tcpdump or Wireshark has written".to_owned(),
    })
}

/// What the words say.
#[derive(Debug, PartialEq, Eq)]
struct Settings<'a> {
    file: &'a str,
    delay: Nanos,
    repeat: bool,
}

impl Settings<'_> {
    /// What stands behind the file is read from the end, in any order, as the file may have spaces in its name.
    fn parse(words: &str) -> Result<Settings<'_>, String> {
        let (mut file, mut delay, mut repeat) = (words.trim_end(), None, false);
        loop {
            if let Some(rest) = file.strip_suffix(" repeat").filter(|_| !repeat) {
                (file, repeat) = (rest.trim_end(), true);
                continue;
            }
            match file.rsplit_once(" delay ") {
                Some((rest, time)) if delay.is_none() => {
                    let wrong = || {
                        format!(
                            "delay '{}': a time such as 2s or 100ms",
                            time.escape_debug()
                        )
                    };
                    delay = Some(Duration::parse(time.trim()).ok_or_else(wrong)?.0);
                    file = rest.trim_end();
                }
                _ => break,
            }
        }
        Ok(Settings {
            file,
            delay: delay.unwrap_or(Nanos(0)),
            repeat,
        })
    }
}

/// What came in by the interfaces of a capture: a frame that was sent there did not come from outside, and one that was dropped went no further.
#[derive(Debug)]
pub(crate) struct Recording {
    /// How many of those there are.
    others: usize,
    came: Vec<Captured>,
}

/// The state of a file, by which one that has been written anew is known.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
}

/// What has been read and is held by somebody.
static HELD: Mutex<Vec<(Stamp, Weak<Recording>)>> = Mutex::new(Vec::new());

impl Recording {
    /// What is in a file; read again only if nobody holds it as the file is now.
    fn of(file: &str) -> Result<Arc<Recording>, String> {
        let path = Path::new(file);
        let stamp = |found: Metadata| Stamp {
            path: path.to_owned(),
            len: found.len(),
            modified: found.modified().ok(),
        };
        let stamp = path.metadata().ok().filter(Metadata::is_file).map(stamp);
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|(_, recording)| recording.strong_count() > 0);
        let known = held.iter().find(|(of, _)| Some(of) == stamp.as_ref());
        if let Some(known) = known.and_then(|(_, recording)| recording.upgrade()) {
            return Ok(known);
        }
        let recording = Arc::new(Recording::read(file)?);
        held.extend(stamp.map(|stamp| (stamp, Arc::downgrade(&recording))));
        Ok(recording)
    }

    fn read(file: &str) -> Result<Recording, String> {
        let all = read(Path::new(file)).map_err(|why| match file.contains(' ') {
            true => format!("{why} (behind FILE it is {OPTIONS})"),
            false => why,
        })?;
        let total = all.len();
        let came: Vec<_> = all.into_iter().filter(|frame| frame.came_in).collect();
        match came.is_empty() && total > 0 {
            true => Err(format!(
                "{file}: its interfaces have sent or dropped all of its frames: to play them all the same, 'editcap -F pcap {file} NEW.pcap' forgets that"
            )),
            false => Ok(Recording {
                others: total - came.len(),
                came,
            }),
        }
    }
}

/// A capture that is played.
struct Replay {
    words: String,
    recording: Arc<Recording>,
    /// When each of its frames comes, counted from the beginning, and which it is.
    frames: Vec<(Nanos, usize)>,
    /// The next one.
    next: usize,
    delay: Nanos,
    repeat: bool,
    /// When that one comes, once it has begun.
    due: Option<Nanos>,
    /// How far another process has come with it, if one has played it before.
    taken: Option<Position>,
    paced: PacedLink,
    /// Frames that have come.
    replayed: Arc<Counter>,
}

impl Replay {
    fn open(words: &str, config: LinkConfig, slack: Nanos) -> Result<Replay, String> {
        let Settings {
            file,
            delay,
            repeat,
        } = Settings::parse(words)?;
        let recording = Recording::of(file)?;
        let Recording { others, came } = &*recording;
        if *others > 0 {
            tracing::info!(
                "pcap {file}: {others} frames were sent or dropped by its interfaces, and do not come"
            );
        }
        let first = came.iter().map(|frame| frame.at).min().unwrap_or(0);
        let mut frames = Vec::with_capacity(came.len());
        for (n, frame) in came.iter().enumerate() {
            if u64::from(frame.len) > u64::from(MAX_FRAME) {
                return Err(format!("its frame {} has {} bytes", n + 1, frame.len));
            }
            frames.push((Nanos(frame.at - first), n));
        }
        // Those of several interfaces may be out of order.
        frames.sort_by_key(|(at, _)| *at);
        Ok(Replay {
            words: words.to_owned(),
            recording,
            frames,
            next: 0,
            delay,
            repeat,
            due: None,
            taken: None,
            paced: PacedLink::new(config, slack),
            replayed: Arc::default(),
        })
    }

    /// Goes on where another process has been, if the file is as long as it was: else from its beginning, or not at all.
    fn go_on(&mut self, position: Position) {
        let is_there = position.next < self.frames.len() || !self.repeat;
        self.taken = Some(position).filter(|_| is_there);
    }

    /// When the next frame comes: it has begun by now.
    fn begin(&mut self, now: Nanos) -> Nanos {
        if let Some(Position { next, comes_in }) = self.taken.take() {
            self.next = next;
            self.due = Some(now + comes_in);
        }
        *self.due.get_or_insert(now + self.delay)
    }

    /// One has come at `due`, and there is another one.
    fn step(&mut self, due: Nanos) {
        let at = |n: usize| self.frames.get(n).map(|(at, _)| *at);
        let (was, is) = (at(self.next), at(self.next + 1));
        self.next += 1;
        self.due = match (was, is) {
            (Some(was), Some(is)) => Some(due + is.saturating_sub(was)),
            _ if self.repeat => {
                self.next = 0;
                Some(due + PAUSE)
            }
            _ => Some(due),
        };
    }
}

impl Uplink for Replay {
    fn tx_room(&mut self, now: Nanos, _pool: &Pool, _lost: &mut Lost<'_>) -> TxRoom {
        self.paced.room(now)
    }

    fn tx_room_at(&mut self) -> Option<Nanos> {
        Some(self.paced.room_at())
    }

    fn tx_burst(
        &mut self,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        _lost: &mut Lost<'_>,
    ) {
        for TxFrame { frame, on_wire } in frames.drain(..) {
            self.paced.link.put(now, on_wire);
            pool.give(frame);
        }
    }

    fn rx_burst(&mut self, now: Nanos, limit: usize, pool: &Pool, arrivals: &mut Arrivals) {
        for _ in 0..limit {
            let due = self.begin(now);
            let next = self.frames.get(self.next).filter(|_| due <= now);
            let Some(seen) = next.and_then(|(_, n)| self.recording.came.get(*n)) else {
                return;
            };
            // What the capture has cut off is zeros.
            let len = seen.bytes.len().max(seen.len as usize);
            let mut frame = pool.take(len);
            frame.offload = Default::default();
            frame.data.clear();
            frame.data.extend_from_slice(&seen.bytes);
            frame.data.resize(len, 0);
            arrivals.frames.push(frame);
            self.step(due);
            if self.next == self.frames.len() {
                tracing::info!("{self}: all {} frames have come", self.next);
            }
            self.replayed.add(1);
        }
    }

    fn next(&mut self) -> Option<Nanos> {
        self.frames.get(self.next)?;
        // It begins as soon as it can.
        Some(self.due.unwrap_or(Nanos(0)))
    }

    fn position(&self, now: Nanos) -> Option<Position> {
        let due = self.due.unwrap_or(now + self.delay);
        let here = Position {
            next: self.next,
            comes_in: due.saturating_sub(now),
        };
        Some(self.taken.unwrap_or(here))
    }

    fn statistics(&self) -> Vec<Statistic> {
        vec![("rx_replayed", Arc::clone(&self.replayed))]
    }

    fn link(&self) -> &Link {
        &self.paced.link
    }

    fn link_mut(&mut self) -> &mut Link {
        &mut self.paced.link
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pcap {}", self.words)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use pcap_file::pcap::{PcapPacket, PcapWriter};

    use super::*;

    #[test]
    fn a_file_is_read_once_while_somebody_holds_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let write = |frames: u8, at: u64| {
            let file = File::create(&path).unwrap();
            let mut writer = PcapWriter::new(file.try_clone().unwrap()).unwrap();
            for n in 0..frames {
                let time = std::time::Duration::from_micros(5);
                let bytes = [n; 60];
                let packet = PcapPacket::new(time, 60, &bytes);
                writer.write_packet(&packet).unwrap();
            }
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(at);
            file.set_modified(at).unwrap();
        };
        let name = path.display().to_string();
        write(3, 1);
        let first = Recording::of(&name).unwrap();
        assert!(Arc::ptr_eq(&first, &Recording::of(&name).unwrap()));
        // Another file of that name, as long or not.
        write(3, 2);
        let second = Recording::of(&name).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        write(2, 2);
        let third = Recording::of(&name).unwrap();
        assert_eq!((second.came.len(), third.came.len()), (3, 2));
        // Nothing is kept that nobody holds.
        let weak = Arc::downgrade(&third);
        drop((first, second, third));
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn each_frame_comes_as_long_after_the_first_as_it_was_seen_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a capture.pcap");
        let mut writer = PcapWriter::new(File::create(&path).unwrap()).unwrap();
        for (at, len, byte) in [(5_000_000, 60, 1), (5_000_010, 1514, 2), (5_000_025, 60, 3)] {
            let bytes = [byte; 60];
            let at = std::time::Duration::from_micros(at);
            writer
                .write_packet(&PcapPacket::new(at, len, &bytes))
                .unwrap();
        }
        drop(writer);
        let words = format!("{} delay 1us repeat", path.display());
        let open = |words: &str| Replay::open(words, LinkConfig::default(), Nanos(0)).unwrap();
        let mut replay = open(&words);
        let pool = Pool::new(16);
        let mut came = Vec::new();
        let mut now = Nanos(100);
        while came.len() < 7 {
            let mut arrivals = Arrivals::default();
            replay.rx_burst(now, 1, &pool, &mut arrivals);
            came.extend(
                arrivals
                    .frames
                    .iter()
                    .map(|frame| (now.0, frame.data.len(), frame.data[0])),
            );
            now = replay.next().unwrap().max(now);
        }
        assert_eq!(
            came,
            [
                (1_100, 60, 1),
                (11_100, 1514, 2),
                (26_100, 60, 3),
                (27_100, 60, 1),
                (37_100, 1514, 2),
                (52_100, 60, 3),
                (53_100, 60, 1)
            ]
        );
        // Once, it ends.
        let mut once = open(&path.display().to_string());
        let mut arrivals = Arrivals::default();
        once.rx_burst(Nanos(0), 8, &pool, &mut arrivals);
        once.rx_burst(Nanos(1_000_000), 8, &pool, &mut arrivals);
        assert_eq!((arrivals.frames.len(), once.next()), (3, None));
        assert_eq!(once.replayed.get(), 3);
        assert!(Settings::parse("x delay soon").is_err());
    }

    #[test]
    fn what_stands_behind_the_file_may_stand_in_any_order() {
        for words in [
            "a capture.pcap delay 1s repeat",
            "a capture.pcap repeat delay 1s",
            " a capture.pcap  repeat  delay  1s ".trim_start(),
        ] {
            let said = Settings::parse(words).unwrap();
            let want = Settings {
                file: "a capture.pcap",
                delay: Nanos(1_000_000_000),
                repeat: true,
            };
            assert_eq!(said, want, "{words}");
        }
        // What is said twice is of the file's name.
        let twice = Settings::parse("x repeat repeat").unwrap();
        assert_eq!((twice.file, twice.repeat), ("x repeat", true));
        let why = Recording::of("/nowhere/x.pcap speed 2").unwrap_err();
        assert!(
            why.contains("behind FILE it is 'delay TIME' and 'repeat'"),
            "{why}"
        );
    }
}
