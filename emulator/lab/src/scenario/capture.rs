//! One pcapng file a VF: every frame that its guest sent or received, at its virtual time. Two equal runs write equal
//! files: nothing of the machine or of the day is in them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, Endianness, PcapError};
use serde::Serialize;
use vf_model::VfIndex;
use vf_nic::watch::{Direction, Port, Seen};

use crate::digest::Digest;

/// Timestamps count 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Direction bits of the flags word of a packet (draft-ietf-opsawg-pcapng 4.3.1): in and out, as the guest sees it.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A capture cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct CaptureError {
    /// The file or folder.
    path: PathBuf,
    /// Why.
    source: io::Error,
}

/// The system's own words, where there are any.
fn reason(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capture {
    /// The file.
    pub file: PathBuf,
    /// Frames in it.
    pub frames: u64,
    /// Its size.
    pub bytes: u64,
    /// The [digest](crate::digest) of the VF's frames, all of their bytes, whatever is kept of them: 16 hexadecimal digits.
    pub digest: String,
}

/// Where frames are captured: a VF with a guest on it.
pub(super) struct CapturePoint<'a> {
    /// Index of the NIC.
    pub(super) nic: usize,
    pub(super) vf: VfIndex,
    pub(super) nic_name: &'a str,
    pub(super) guest_name: &'a str,
}

struct Open {
    writer: PcapNgWriter<BufWriter<File>>,
    capture: Capture,
}

/// The files of a run.
pub(super) struct Captures {
    open: BTreeMap<(usize, VfIndex), Open>,
    snaplen: u32,
    /// The first that could not be written; nothing is written after that.
    failed: Option<CaptureError>,
}

impl Captures {
    /// A file for each of `points` in `dir`, which is made; files of a run before are replaced.
    pub(super) fn create<'a>(
        dir: &Path,
        points: impl Iterator<Item = CapturePoint<'a>>,
        snaplen: u32,
    ) -> Result<Captures, CaptureError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| CaptureError { path, source }
        };
        std::fs::create_dir_all(dir).map_err(failed(dir))?;
        let mut open = BTreeMap::new();
        for point in points {
            let CapturePoint { nic_name, vf, .. } = point;
            let name = format!("{nic_name}-{vf}");
            let path = dir.join(format!("{name}.pcapng"));
            let out = BufWriter::new(File::create(&path).map_err(failed(&path))?);
            let guest = point.guest_name;
            let description = format!("NIC {nic_name}, VF {}, guest {guest}", vf.0);
            let writer =
                begin(out, &name, &description, snaplen).map_err(|error| CaptureError {
                    path: path.clone(),
                    source: reason(error),
                })?;
            let capture = Capture {
                file: path,
                frames: 0,
                bytes: 0,
                digest: String::new(),
            };
            open.insert((point.nic, vf), Open { writer, capture });
        }
        Ok(Captures {
            open,
            snaplen,
            failed: None,
        })
    }

    pub(super) fn add(&mut self, seen: &Seen<'_>) {
        let Port::Vf(vf) = seen.port else { return };
        let Some(open) = self.open.get_mut(&(seen.host, vf)) else {
            return;
        };
        if self.failed.is_some() {
            return;
        }
        let kept = match self.snaplen {
            0 => seen.frame.len(),
            most => seen.frame.len().min(most as usize),
        };
        let direction = match seen.direction {
            Direction::Rx => INBOUND,
            Direction::Tx => OUTBOUND,
        };
        let written = open.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(seen.at.0),
            original_len: u32::try_from(seen.frame.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(&seen.frame[..kept]),
            options: vec![EnhancedPacketOption::Flags(direction)],
        });
        match written {
            Ok(_) => open.capture.frames += 1,
            Err(error) => {
                self.failed = Some(CaptureError {
                    path: open.capture.file.clone(),
                    source: reason(error),
                });
            }
        }
    }

    /// Completes the files. `digest` has seen what they have.
    pub(super) fn finish(self, digest: &Digest) -> Result<Vec<Capture>, CaptureError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let finish = |((nic, vf), open): ((usize, VfIndex), Open)| {
            let mut capture = open.capture;
            capture.digest = format!("{:016x}", digest.of_port(nic, Port::Vf(vf)));
            let mut out = open.writer.into_inner();
            let size = out.flush().and_then(|()| out.get_ref().metadata());
            match size {
                Ok(metadata) => {
                    capture.bytes = metadata.len();
                    Ok(capture)
                }
                Err(source) => Err(CaptureError {
                    path: capture.file,
                    source,
                }),
            }
        };
        self.open.into_iter().map(finish).collect()
    }
}

/// The file's header and its only interface.
fn begin(
    out: BufWriter<File>,
    name: &str,
    description: &str,
    snaplen: u32,
) -> Result<PcapNgWriter<BufWriter<File>>, PcapError> {
    let mut writer = PcapNgWriter::with_endianness(out, Endianness::Little)?;
    writer.write_pcapng_block(InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen, // 0 is no limit here, too
        options: vec![
            InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
            InterfaceDescriptionOption::IfDescription(Cow::Borrowed(description)),
            InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
        ],
    })?;
    Ok(writer)
}
