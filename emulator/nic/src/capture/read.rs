//! Captures that others have made, read whole: pcap and pcapng. Writes none.
//!
//! Blocks of pcapng are read here and not by the crate: it refuses what a reader has to take (options without an end, text in another encoding),
//! and we want nothing of options but four.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use pcap_file::pcap::PcapReader;
use pcap_file::{PcapError, TsResolution};

/// Types of blocks of pcapng (draft-ietf-opsawg-pcapng 4); the second packet's is obsolete.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Options of an interface (4.2).
const TSRESOL: u16 = 9;
const TSOFFSET: u16 = 14;
/// Options of a packet (3.5, 4.3.1).
const COMMENT: u16 = 1;
const FLAGS: u16 = 2;
/// The direction in a packet's flags.
const DIRECTION: u32 = 3;
const OUTBOUND: u32 = 2;
/// How a comment of `vfnic capture` begins on a frame that went no further.
pub(super) const DROPPED: &str = "dropped: ";
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
const NOT_ETHERNET: &str = "its frames are not Ethernet's";

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When it was seen, in nanoseconds from wherever its capture counts from.
    pub at: u64,
    /// What there is of its bytes.
    pub bytes: Vec<u8>,
    /// How many bytes it had.
    pub len: u32,
    /// Whether it came in by its interface: it is not said of one that was sent there, and `vfnic capture` has not seen it dropped.
    pub came_in: bool,
}

/// The Ethernet frames of the capture in a file.
///
/// # Errors
/// In one line: it cannot be read, is no capture, or has frames of another kind.
pub fn read(file: &Path) -> Result<Vec<Captured>, String> {
    read_from(File::open(file), file)
}

/// The same of what has been opened, which the file is the name of.
///
/// # Errors
/// As of [`read`].
pub fn read_from(from: io::Result<impl Read>, file: &Path) -> Result<Vec<Captured>, String> {
    let mut bytes = Vec::new();
    let read = from.and_then(|mut from| from.read_to_end(&mut bytes));
    let frames = read.map_err(|error| error.to_string()).and_then(|_| {
        let frames = match bytes.starts_with(&SECTION.to_be_bytes()) {
            true => pcapng(&bytes).map_err(str::to_owned),
            false => pcap(&bytes).map_err(|error| error.to_string()),
        };
        frames.map_err(|error| format!("no whole capture: {error}"))
    });
    frames.map_err(|why| format!("{}: {why}", file.display()))
}

fn pcap(bytes: &[u8]) -> Result<Vec<Captured>, PcapError> {
    let mut packets = PcapReader::new(bytes)?;
    let header = packets.header();
    // Above the link type is how many bytes of FCS frames have, in twos, if that is said.
    let network = u32::from(header.datalink);
    if network & 0xffff != ETHERNET {
        return Err(PcapError::InvalidField(NOT_ETHERNET));
    }
    let fcs = match network & 1 << 26 {
        0 => 0,
        _ => 2 * (network >> 28),
    };
    let unit = match header.ts_resolution {
        TsResolution::MicroSecond => 1_000,
        TsResolution::NanoSecond => 1,
    };
    let mut frames = Vec::new();
    // As it is written: frames may be longer than the header's snapshot length, which is of what was kept of them, and 0 is none.
    while let Some(packet) = packets.next_raw_packet() {
        let packet = packet?;
        let len = packet.orig_len.max(packet.incl_len).saturating_sub(fcs);
        let mut bytes = packet.data.into_owned();
        bytes.truncate(len as usize);
        frames.push(Captured {
            at: u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac) * unit,
            len,
            bytes,
            came_in: true,
        });
    }
    Ok(frames)
}

/// What is still to be read, in the byte order of its section.
struct Fields<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: u32) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(usize::try_from(len).ok()?)?;
        self.bytes = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let bytes = *self.take(2)?.first_chunk()?;
        Some(match self.is_big_endian {
            true => u16::from_be_bytes(bytes),
            false => u16::from_le_bytes(bytes),
        })
    }

    fn u32(&mut self) -> Option<u32> {
        let bytes = *self.take(4)?.first_chunk()?;
        Some(match self.is_big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }

    /// The next block: its type and what is in it.
    fn block(&mut self) -> Option<(u32, Fields<'a>)> {
        // A section's type is the same in both orders.
        let kind = self.u32()?;
        if kind == SECTION {
            self.is_big_endian = match self.bytes.get(4..8)? {
                [0x1a, 0x2b, 0x3c, 0x4d] => true,
                [0x4d, 0x3c, 0x2b, 0x1a] => false,
                _ => return None,
            };
        }
        let len = self.u32()?;
        let block = Fields {
            bytes: self.take(len.checked_sub(12)?)?,
            is_big_endian: self.is_big_endian,
        };
        (len % 4 == 0 && self.u32()? == len).then_some((kind, block))
    }

    /// The next option and its value.
    fn option(&mut self) -> Option<(u16, Fields<'a>)> {
        let (code, len) = (self.u16()?, self.u16()?);
        let value = Fields {
            bytes: self.take(len.into())?,
            is_big_endian: self.is_big_endian,
        };
        let _ = self.take(u32::from(len).wrapping_neg() % 4);
        (code != 0).then_some((code, value))
    }

    /// A number of 64 bits, the upper half first.
    fn time(&mut self) -> Option<u64> {
        Some(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }
}

/// What is said of an interface.
struct Interface {
    link: u32,
    snaplen: u32,
    /// Units of time a second, if there is a number for it.
    a_second: Option<u128>,
    /// Seconds that are to be added to a time.
    offset: i64,
}

impl Interface {
    fn read(mut block: Fields<'_>) -> Option<Interface> {
        let (link, _reserved) = (block.u16()?, block.u16()?);
        let mut interface = Interface {
            link: link.into(),
            snaplen: block.u32()?,
            a_second: Some(1_000_000),
            offset: 0,
        };
        // The last one need not be said to be it (3.5).
        while let Some((code, value)) = block.option() {
            match (code, value.bytes) {
                (TSRESOL, [resolution]) => {
                    let power = u32::from(resolution & 0x7f);
                    interface.a_second = match resolution & 0x80 {
                        0 => 10_u128.checked_pow(power),
                        _ => 2_u128.checked_pow(power),
                    };
                }
                (TSOFFSET, bytes) => {
                    let Some(bytes) = bytes.first_chunk() else {
                        continue;
                    };
                    interface.offset = match value.is_big_endian {
                        true => i64::from_be_bytes(*bytes),
                        false => i64::from_le_bytes(*bytes),
                    };
                }
                _ => {}
            }
        }
        Some(interface)
    }

    fn nanoseconds(&self, units: u64) -> u64 {
        // The number has 64 bits, so that the products fit.
        let units = u128::from(units) * 1_000_000_000;
        let ns = self.a_second.map_or(0, |a_second| units / a_second);
        let ns = ns.cast_signed() + i128::from(self.offset) * 1_000_000_000;
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

fn pcapng(bytes: &[u8]) -> Result<Vec<Captured>, &'static str> {
    let mut blocks = Fields {
        bytes,
        is_big_endian: true,
    };
    let mut interfaces = Vec::new();
    let mut frames: Vec<Captured> = Vec::new();
    // Frames before the first that has a time.
    let mut untimed = 0;
    while !blocks.bytes.is_empty() {
        let (kind, mut block) = blocks.block().ok_or("a block that is none, or cut off")?;
        let packet = match kind {
            SECTION => {
                interfaces.clear();
                continue;
            }
            INTERFACE => {
                let interface = Interface::read(block).ok_or("an interface that is cut off")?;
                interfaces.push(interface);
                continue;
            }
            ENHANCED_PACKET | OBSOLETE_PACKET | SIMPLE_PACKET => packet(kind, &mut block),
            _ => continue,
        };
        let packet = packet.ok_or("a packet that is cut off")?;
        let interface: Option<&Interface> = interfaces.get(packet.interface);
        let interface = interface.ok_or("a packet of no interface")?;
        if interface.link != ETHERNET {
            return Err(NOT_ETHERNET);
        }
        let most = packet.captured.unwrap_or(match interface.snaplen {
            0 => packet.len,
            snaplen => snaplen.min(packet.len),
        });
        let bytes = block.take(most).ok_or("a packet that is cut off")?;
        let came_in = match kind {
            ENHANCED_PACKET => came_in(block, most),
            _ => true,
        };
        let at = match (packet.units, frames.last()) {
            (Some(units), _) => interface.nanoseconds(units),
            // It has no time: that of the one before it.
            (None, Some(before)) => before.at,
            (None, None) => 0,
        };
        if packet.units.is_some() && untimed == frames.len() {
            frames.iter_mut().for_each(|frame| frame.at = at);
        } else if untimed == frames.len() {
            untimed += 1;
        }
        frames.push(Captured {
            at,
            bytes: bytes.to_vec(),
            len: packet.len.max(most),
            came_in,
        });
    }
    Ok(frames)
}

/// What options behind so many bytes of a packet say of how it went.
fn came_in(mut block: Fields<'_>, bytes: u32) -> bool {
    let _ = block.take(bytes.wrapping_neg() % 4);
    while let Some((code, mut value)) = block.option() {
        let gone = match code {
            COMMENT => value.bytes.starts_with(DROPPED.as_bytes()),
            FLAGS => value
                .u32()
                .is_some_and(|flags| flags & DIRECTION == OUTBOUND),
            _ => false,
        };
        if gone {
            return false;
        }
    }
    true
}

/// What stands in front of a packet's bytes.
struct Packet {
    interface: usize,
    /// When, in its interface's units, if it has a time.
    units: Option<u64>,
    /// How many bytes there are, if it is said.
    captured: Option<u32>,
    len: u32,
}

fn packet(kind: u32, block: &mut Fields<'_>) -> Option<Packet> {
    if kind == SIMPLE_PACKET {
        return Some(Packet {
            interface: 0,
            units: None,
            captured: None,
            len: block.u32()?,
        });
    }
    let interface = match kind {
        OBSOLETE_PACKET => {
            let (interface, _drops) = (block.u16()?, block.u16()?);
            interface.into()
        }
        _ => usize::try_from(block.u32()?).ok()?,
    };
    Some(Packet {
        interface,
        units: Some(block.time()?),
        captured: Some(block.u32()?),
        len: block.u32()?,
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use pcap_file::DataLink;
    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter, RawPcapPacket};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::{
        InterfaceDescriptionBlock, InterfaceDescriptionOption,
    };

    use super::*;

    #[test]
    fn both_formats_are_read_in_the_units_that_they_have() {
        let dir = tempfile::tempdir().unwrap();
        let frame = [7; 60];
        let expected = |at| {
            vec![Captured {
                at,
                bytes: frame.to_vec(),
                len: 1514,
                came_in: true,
            }]
        };
        for (resolution, units, ns) in [
            (None, 1_500_000, 1_500_000_000),
            (Some(9), 1_500_000, 1_500_000),
            (Some(0x80 | 1), 3, 1_500_000_000),
        ] {
            let path = dir.path().join("x.pcapng");
            let mut writer = PcapNgWriter::new(File::create(&path).unwrap()).unwrap();
            let options = resolution.map(InterfaceDescriptionOption::IfTsResol);
            let interface = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: 0,
                options: options.into_iter().collect(),
            };
            writer.write_pcapng_block(interface).unwrap();
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_nanos(units),
                original_len: 1514,
                data: Cow::Borrowed(&frame),
                options: Vec::new(),
            };
            writer.write_pcapng_block(packet).unwrap();
            assert_eq!(read(&path).unwrap(), expected(ns), "{resolution:?}");
        }
        let path = dir.path().join("x.pcap");
        let mut writer = PcapWriter::new(File::create(&path).unwrap()).unwrap();
        let packet = PcapPacket::new(Duration::from_micros(5), 1514, &frame);
        writer.write_packet(&packet).unwrap();
        assert_eq!(read(&path).unwrap(), expected(5000));

        // `tcpdump -s 60`, no limit, and a second that is over.
        for (snaplen, ts_resolution, ts_frac) in [
            (60, TsResolution::MicroSecond, 1_500_000),
            (0, TsResolution::NanoSecond, 1_500_000_000),
        ] {
            let header = PcapHeader {
                snaplen,
                ts_resolution,
                ..PcapHeader::default()
            };
            let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
            let packet = RawPcapPacket {
                ts_sec: 1,
                ts_frac,
                incl_len: 60,
                orig_len: 1514,
                data: Cow::Borrowed(&frame),
            };
            writer.write_raw_packet(&packet).unwrap();
            assert_eq!(read(&path).unwrap(), expected(2_500_000_000), "{snaplen}");
        }

        let header = PcapHeader {
            datalink: DataLink::RAW,
            ..PcapHeader::default()
        };
        PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
        let why = read(&path).unwrap_err();
        assert!(why.contains("not Ethernet"), "{why}");
        std::fs::write(&path, b"no capture").unwrap();
        let why = read(&path).unwrap_err();
        assert!(why.contains("x.pcap: no whole capture"), "{why}");
    }

    fn block(kind: u32, body: &[&[u8]]) -> Vec<u8> {
        let mut body = body.concat();
        body.resize(body.len().next_multiple_of(4), 0);
        let len = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &len, &body, &len].concat()
    }

    fn option(code: u16, value: &[u8]) -> Vec<u8> {
        let len = (value.len() as u16).to_le_bytes();
        let mut option = [&code.to_le_bytes()[..], &len, value].concat();
        option.resize(option.len().next_multiple_of(4), 0);
        option
    }

    fn interface(link: u16, options: &[u8]) -> Vec<u8> {
        block(INTERFACE, &[&link.to_le_bytes(), &[0; 6], options])
    }

    /// A packet of so many bytes on interface `id`.
    fn enhanced(id: u32, units: u64, len: u32, options: &[u8]) -> Vec<u8> {
        let time = [(units >> 32) as u32, units as u32];
        let numbers = [id, time[0], time[1], len, len].map(u32::to_le_bytes);
        let mut data = vec![7; len as usize];
        data.resize(data.len().next_multiple_of(4), 0);
        block(ENHANCED_PACKET, &[numbers.as_flattened(), &data, options])
    }

    fn simple(len: u32) -> Vec<u8> {
        block(SIMPLE_PACKET, &[&len.to_le_bytes(), &vec![7; len as usize]])
    }

    /// When each frame came and how long it is.
    fn frames(blocks: &[Vec<u8>]) -> Result<Vec<(u64, u32)>, &'static str> {
        let magic = 0x1a2b_3c4d_u32.to_le_bytes();
        let section = block(SECTION, &[&magic, &[1, 0, 0, 0], &[0xff; 8]]);
        let frames = pcapng(&[section, blocks.concat()].concat())?.into_iter();
        let frames = frames.map(|frame| {
            assert_eq!(frame.bytes, vec![7; frame.len as usize]);
            (frame.at, frame.len)
        });
        Ok(frames.collect())
    }

    #[test]
    fn what_a_reader_of_pcapng_has_to_take_is_taken() {
        let plain = || interface(1, &[]);
        let packet = || enhanced(0, 1000, 60, &[]);
        // Packets without a time come with the one before them, or with the first.
        let date = 1_700_000_000 * 1_000_000;
        assert_eq!(
            frames(&[plain(), simple(61), enhanced(0, date, 60, &[]), simple(62)]).unwrap(),
            [(date * 1000, 61), (date * 1000, 60), (date * 1000, 62)]
        );
        // Options without an end, text in another encoding, a time zone of four bytes.
        for options in [
            option(2, b"eth0"),
            option(10, &[0; 4]),
            option(1, b"caf\xe9"),
        ] {
            assert_eq!(
                frames(&[interface(1, &options), packet()]),
                Ok(vec![(1_000_000, 60)])
            );
            assert_eq!(
                frames(&[plain(), enhanced(0, 1000, 60, &options)]),
                Ok(vec![(1_000_000, 60)])
            );
        }
        // An interface whose times count from elsewhere.
        let offset = option(TSOFFSET, &1_700_000_000_i64.to_le_bytes());
        let from_elsewhere = interface(1, &offset);
        assert_eq!(
            frames(&[
                from_elsewhere,
                plain(),
                enhanced(0, 5, 60, &[]),
                enhanced(1, date, 60, &[])
            ])
            .unwrap(),
            [(date * 1000 + 5000, 60), (date * 1000, 60)]
        );
        let numbers = [0, 0, 1000, 60, 60].map(u32::to_le_bytes);
        let obsolete = block(OBSOLETE_PACKET, &[numbers.as_flattened(), &[7; 60]]);
        assert_eq!(frames(&[plain(), obsolete]), Ok(vec![(1_000_000, 60)]));
        // Of an interface of another kind there may be no frame.
        let radio = || interface(127, &[]);
        let at_plain = enhanced(1, 1000, 60, &[]);
        assert_eq!(
            frames(&[radio(), plain(), at_plain]),
            Ok(vec![(1_000_000, 60)])
        );
        assert_eq!(frames(&[radio(), packet()]), Err(NOT_ETHERNET));
        assert_eq!(frames(&[packet()]), Err("a packet of no interface"));
        let whole = packet();
        for end in 1..whole.len() {
            assert!(frames(&[plain(), whole[..end].to_vec()]).is_err(), "{end}");
        }
    }

    #[test]
    fn frames_of_a_pcap_that_has_their_fcs_are_without_it() {
        let header = PcapHeader {
            datalink: DataLink::from(ETHERNET | 1 << 26 | 2 << 28),
            ..PcapHeader::default()
        };
        let mut file = Vec::new();
        let mut writer = PcapWriter::with_header(&mut file, header).unwrap();
        let packet = PcapPacket::new(Duration::from_micros(5), 64, &[7; 64]);
        writer.write_packet(&packet).unwrap();
        let expected = Captured {
            at: 5000,
            bytes: vec![7; 60],
            len: 60,
            came_in: true,
        };
        assert_eq!(pcap(&file).unwrap(), [expected]);
    }
}
