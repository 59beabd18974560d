//! Captures as pcapng (draft-ietf-opsawg-pcapng): an interface a port, each frame with its direction, path, queue and receivers, each
//! dropped one with the reason and the rule, and what has happened in between as comments of the frame that follows. Decides nothing
//! about what is captured.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError};
use vf_model::Verdict;

use super::form::{Form, Watched};
use super::read::DROPPED;
use super::rule::Rules;
use super::{Captured, Item};
use crate::watch::{Direction, Port};

/// Timestamps count 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Direction bits of the flags word of a packet (4.3.1).
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// Events that wait for a frame to stand at; of more the first are forgotten.
const MOST_NOTES: usize = 64;

/// A port's frames in the file.
#[derive(Default)]
struct Interface {
    written: u64,
    /// Of those that were not captured, how many have been said.
    missed: u64,
}

/// See the module.
pub(super) struct Pcapng<W: Write> {
    out: PcapNgWriter<W>,
    interfaces: Vec<Interface>,
    notes: Vec<String>,
    rules: Rules,
    last: u64,
    /// Whether it is of several NICs, so that an event has to say of which.
    of_several: bool,
}

/// The system's own words, where there are any.
fn reason(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// How a port is called.
pub(super) fn port_name(port: Port) -> String {
    match port {
        Port::Vf(vf) => vf.to_string(),
        Port::Wire => "wire".to_owned(),
        Port::Pf => "pf".to_owned(),
    }
}

impl<W: Write> Pcapng<W> {
    /// Begins a capture of all that is watched.
    pub(super) fn begin(out: W, watched: &[Watched]) -> io::Result<Pcapng<W>> {
        let program = concat!("vfnic ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![SectionHeaderOption::UserApplication(program.into())],
            ..SectionHeaderBlock::default()
        };
        let mut out = PcapNgWriter::with_section_header(out, section).map_err(reason)?;
        let mut interfaces = Vec::new();
        for Watched { nic, capture, .. } in watched {
            let wanted = capture.wanted();
            for port in &wanted.ports {
                let port = port_name(*port);
                let options = vec![
                    InterfaceDescriptionOption::IfName(format!("{nic}-{port}").into()),
                    InterfaceDescriptionOption::IfDescription(format!("NIC {nic}, {port}").into()),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ];
                let block = InterfaceDescriptionBlock {
                    linktype: DataLink::ETHERNET,
                    snaplen: wanted.snaplen,
                    options,
                };
                out.write_pcapng_block(block).map_err(reason)?;
                interfaces.push(Interface::default());
            }
        }
        Ok(Pcapng {
            out,
            interfaces,
            notes: Vec::new(),
            rules: Rules::default(),
            last: 0,
            of_several: watched.len() > 1,
        })
    }

    fn frame(&mut self, first: usize, of: &Watched, frame: &Captured) -> io::Result<()> {
        let Some(n) = of.capture.interface(frame.port) else {
            return Ok(());
        };
        let interface_id = u32::try_from(first + n).unwrap_or(u32::MAX);
        let Some(interface) = self.interfaces.get_mut(first + n) else {
            return Ok(());
        };
        let mut options = vec![EnhancedPacketOption::Flags(match frame.direction {
            Direction::Rx => INBOUND,
            Direction::Tx => OUTBOUND,
        })];
        // Between this one and the one before it (4.3.1).
        if frame.missed > interface.missed {
            let missed = frame.missed - interface.missed;
            options.push(EnhancedPacketOption::DropCount(missed));
            interface.missed = frame.missed;
        }
        let comment = |text: String| EnhancedPacketOption::Comment(Cow::Owned(text));
        options.extend(self.notes.drain(..).map(comment));
        options.extend(described(frame).map(comment));
        if let Some(reason) = frame.drop {
            let why = self.rules.why(frame, reason);
            options.push(comment(format!("{DROPPED}{reason}. {why}")));
        }
        let at = of.began.saturating_add(frame.at.0);
        self.last = self.last.max(at);
        let most = match of.capture.wanted().snaplen {
            0 => usize::MAX,
            most => most as usize,
        };
        let data = &frame.frame.data;
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(at),
            original_len: frame.len,
            data: Cow::Borrowed(data.get(..most).unwrap_or(data)),
            options,
        };
        self.out.write_pcapng_block(block).map_err(reason)?;
        interface.written += 1;
        Ok(())
    }
}

impl<W: Write> Form for Pcapng<W> {
    fn item(&mut self, first: usize, of: &Watched, item: &Item) -> io::Result<()> {
        match item {
            Item::Frame(frame) => self.frame(first, of, frame),
            Item::Event(event) => {
                if self.notes.len() >= MOST_NOTES {
                    self.notes.remove(0);
                }
                self.notes.push(match self.of_several {
                    true => format!("{}: {}", of.nic, event.what),
                    false => event.what.to_string(),
                });
                Ok(())
            }
        }
    }

    /// Says of each interface how many frames it has had and how many were not captured; and what has happened since the last frame.
    fn end(&mut self, watched: &[Watched]) -> io::Result<()> {
        let missed = watched.iter().flat_map(|of| {
            let ports = of.capture.wanted().ports.len();
            of.capture.missed().take(ports)
        });
        for (n, (missed, interface)) in (0..).zip(missed.zip(&self.interfaces)) {
            let notes = self.notes.drain(..);
            let mut options: Vec<_> = notes
                .map(|note| InterfaceStatisticsOption::Comment(note.into()))
                .collect();
            options.push(InterfaceStatisticsOption::IsbIfRecv(
                interface.written + missed,
            ));
            options.push(InterfaceStatisticsOption::IsbIfDrop(missed));
            let block = InterfaceStatisticsBlock {
                interface_id: n,
                // The upper half goes first (4.6); the crate writes a number as it is.
                timestamp: self.last.rotate_left(32),
                options,
            };
            self.out.write_pcapng_block(block).map_err(reason)?;
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.get_mut().flush()
    }
}

/// A frame's path, queue and receivers, as far as it has any.
fn described(frame: &Captured) -> Option<String> {
    let mut said = Vec::new();
    said.extend(frame.path.map(|path| format!("path {path}")));
    said.extend(frame.queue.map(|queue| format!("queue {queue}")));
    let to = frame.verdict.as_ref().filter(|_| frame.drop.is_none());
    said.extend(to.map(receivers));
    (!said.is_empty()).then(|| said.join(", "))
}

fn receivers(verdict: &Verdict) -> String {
    let vfs = verdict.vfs.union(verdict.beyond);
    let mut to: Vec<_> = vfs.iter().map(|vf| vf.to_string()).collect();
    if verdict.wire || verdict.wire_beyond {
        to.push("the wire".to_owned());
    }
    let mut said = format!("to {}", to.join(", "));
    if verdict.pf {
        // What is not said of it cannot fail to be written into a string.
        let _ = write!(said, ", over the PF");
    }
    said
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mio::{Poll, Token, Waker};
    use pcap_file::pcapng::{Block, PcapNgReader};
    use vf_model::{Nanos, VfIndex};

    use super::super::event::{Event, Happening};
    use super::super::{Budget, Capture, QUEUE, Wanted};
    use super::*;
    use crate::queue::{Doorbell, Frame, Pool};

    fn watched(nic: &str) -> Watched {
        let wanted = Wanted {
            ports: vec![Port::Vf(VfIndex(0))],
            events: true,
            ..Wanted::default()
        };
        let waker = Waker::new(Poll::new().unwrap().registry(), Token(0)).unwrap();
        Watched {
            number: 0,
            nic: nic.to_owned(),
            capture: Capture::new(
                wanted,
                1,
                Doorbell::new(waker),
                Pool::new(4),
                Budget::default(),
            ),
            began: 0,
        }
    }

    fn push(capture: &Arc<Capture>) {
        capture.push(Captured {
            at: Nanos(1),
            port: Port::Vf(VfIndex(0)),
            direction: Direction::Rx,
            path: None,
            queue: None,
            frame: Frame::default(),
            len: 60,
            missed: 0,
            verdict: None,
            drop: None,
            policy: None,
        });
    }

    /// Writes what there is of each.
    fn write(watched: &[Watched], out: &mut Pcapng<&mut Vec<u8>>) {
        for (first, of) in watched.iter().enumerate() {
            while let Some(item) = of.capture.take() {
                out.item(first, of, &item).unwrap();
            }
        }
    }

    /// The options of each frame in a file.
    fn options(file: &[u8]) -> Vec<Vec<EnhancedPacketOption<'static>>> {
        let mut blocks = PcapNgReader::new(file).unwrap();
        let mut all = Vec::new();
        while let Some(block) = blocks.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap().into_owned() {
                all.push(packet.options);
            }
        }
        all
    }

    #[test]
    fn frames_that_were_lost_are_told_at_the_first_one_behind_them() {
        let watched = [watched("a")];
        let mut file = Vec::new();
        let mut out = Pcapng::begin(&mut file, &watched).unwrap();
        for _ in 0..QUEUE + 5 {
            push(&watched[0].capture);
        }
        write(&watched, &mut out);
        push(&watched[0].capture);
        write(&watched, &mut out);
        out.end(&watched).unwrap();
        let told = options(&file).into_iter().map(|options| {
            let mut counts = options.into_iter().filter_map(|option| match option {
                EnhancedPacketOption::DropCount(n) => Some(n),
                _ => None,
            });
            counts.next()
        });
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), QUEUE + 1);
        assert!(told[..QUEUE].iter().all(Option::is_none));
        assert_eq!(told[QUEUE], Some(5));
    }

    #[test]
    fn an_event_says_of_which_nic_it_is_if_there_are_several() {
        let told = |names: &[&str]| {
            let watched: Vec<_> = names.iter().map(|name| watched(name)).collect();
            let mut file = Vec::new();
            let mut out = Pcapng::begin(&mut file, &watched).unwrap();
            let last = &watched[watched.len() - 1].capture;
            last.tell(Event {
                at: Nanos(0),
                what: Happening::Carrier { up: true },
            });
            push(last);
            write(&watched, &mut out);
            out.end(&watched).unwrap();
            let comments = options(&file).concat().into_iter();
            let mut comments = comments.filter_map(|option| match option {
                EnhancedPacketOption::Comment(text) => Some(text.into_owned()),
                _ => None,
            });
            comments.next().unwrap()
        };
        let what = Happening::Carrier { up: true };
        assert_eq!(told(&["a"]), what.to_string());
        assert_eq!(told(&["a", "b"]), format!("b: {what}"));
    }
}
