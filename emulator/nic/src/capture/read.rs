//! Captures that others have made, read whole: pcap and pcapng. Writes none.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

/// What a file of pcapng begins with.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When it was seen, in nanoseconds from wherever its capture counts from.
    pub at: u64,
    /// What there is of its bytes.
    pub bytes: Vec<u8>,
    /// How many bytes it had.
    pub len: u32,
}

/// The Ethernet frames of the capture in a file.
///
/// # Errors
/// In one line: it cannot be read, is no capture, or has frames of another kind.
pub fn read(file: &Path) -> Result<Vec<Captured>, String> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|mut file| file.read_to_end(&mut bytes));
    let frames = read.map_err(|error| error.to_string()).and_then(|_| {
        let frames = match bytes.starts_with(&PCAPNG) {
            true => pcapng(&bytes),
            false => pcap(&bytes),
        };
        frames.map_err(|error| format!("no whole capture: {error}"))
    });
    frames.map_err(|why| format!("{}: {why}", file.display()))
}

fn pcap(bytes: &[u8]) -> Result<Vec<Captured>, PcapError> {
    let mut packets = PcapReader::new(bytes)?;
    ethernet(packets.header().datalink)?;
    let mut frames = Vec::new();
    while let Some(packet) = packets.next_packet() {
        let packet = packet?;
        frames.push(Captured {
            at: packet.timestamp.as_nanos() as u64,
            len: packet.orig_len,
            bytes: packet.data.into_owned(),
        });
    }
    Ok(frames)
}

fn pcapng(bytes: &[u8]) -> Result<Vec<Captured>, PcapError> {
    let mut blocks = PcapNgReader::new(bytes)?;
    let mut frames = Vec::new();
    while let Some(block) = blocks.next_block() {
        let (data, len, interface, units) = match block? {
            Block::EnhancedPacket(packet) => {
                // The reader takes the number for nanoseconds, whatever it is.
                let units = packet.timestamp.as_nanos();
                let id = packet.interface_id as usize;
                (packet.data.into_owned(), packet.original_len, id, units)
            }
            // It has no time.
            Block::SimplePacket(packet) => (packet.data.into_owned(), packet.original_len, 0, 0),
            _ => continue,
        };
        let interface = blocks.interfaces().get(interface);
        let interface = interface.ok_or(PcapError::InvalidField("a packet of no interface"))?;
        ethernet(interface.linktype)?;
        frames.push(Captured {
            at: nanoseconds(units, interface),
            bytes: data,
            len,
        });
    }
    Ok(frames)
}

fn ethernet(link: DataLink) -> Result<(), PcapError> {
    match link {
        DataLink::ETHERNET => Ok(()),
        _ => Err(PcapError::InvalidField("its frames are not Ethernet's")),
    }
}

/// A time in the units of its interface (`if_tsresol`: microseconds unless it says something else).
fn nanoseconds(units: u128, interface: &InterfaceDescriptionBlock<'_>) -> u64 {
    let said = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    let resolution = said.unwrap_or(6);
    let power = u32::from(resolution & 0x7f);
    let a_second = match resolution & 0x80 {
        0 => 10_u128.checked_pow(power),
        _ => 2_u128.checked_pow(power),
    };
    // The number has 64 bits, so that the product fits.
    let ns = a_second.map_or(0, |a_second| units * 1_000_000_000 / a_second);
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;

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
}
