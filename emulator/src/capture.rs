//! `vfnic capture`: has a running NIC stream pcapng and puts it where it is wanted, whole blocks only. Understands of it no more than
//! where a block ends and how many frames were not captured.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vfnic::cli;
use vfnic::control::{CaptureRequest, Connection, Request, Response};
use vfnic::log::complain;

use crate::failure::{Failure, failed, unanswered, usage};
use crate::signals::signals;

/// Block types (draft-ietf-opsawg-pcapng 4).
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
/// The option of the former that counts frames that were not captured (4.6).
const ISB_IFDROP: u16 = 5;
/// Longest block: a super-frame and what is said of it.
const MAX_BLOCK: u32 = 1 << 20;

/// Captures until the user says stop or whoever reads it has enough.
pub(crate) fn capture(ctl: &Path, nic: Option<String>, args: &cli::Capture) -> Result<(), Failure> {
    if args.write.is_none() && io::stdout().is_terminal() {
        return Err(usage(
            "say where to: -w FILE, or to Wireshark: vfnic capture ... | wireshark -k -i -",
        ));
    }
    let request = CaptureRequest {
        nic,
        words: args.words.clone(),
        drops: args.drops,
        snaplen: args.snaplen,
    };
    let begun = begin(ctl, &Request::Capture(request))?;
    // Not before it begins: what is refused leaves a file as it was.
    let mut out = Out::open(args.write.as_deref())?;
    let counted = copy(begun.stream, &mut out)?;
    complain(&counted.to_string());
    match counted.missed {
        Some(_) => Ok(()),
        None => Err(gone(ctl, "the capture is whole up to there")),
    }
}

/// Has the NIC begin.
pub(crate) fn stream(ctl: &Path, request: &Request) -> Result<BufReader<UnixStream>, Failure> {
    let mut connection = Connection::open(ctl).map_err(failed)?;
    match connection.ask(request).map_err(failed)? {
        Response::Stream => {}
        Response::Refused(why) => return Err(usage(why)),
        _ => return Err(unanswered()),
    }
    connection.into_stream().map_err(failed)
}

/// Why a stream has ended that nobody here has ended, and what that means: a NIC that goes on in another process is asked anew.
pub(crate) fn gone(ctl: &Path, meaning: &str) -> Failure {
    match Connection::open(ctl) {
        Ok(_) => failed(format!(
            "another vfnic goes on (an upgrade, or a restart): start this again; {meaning}"
        )),
        Err(_) => failed(format!("vfnic has ended; {meaning}")),
    }
}

/// What a NIC streams until this process is told to end.
pub(crate) struct Begun {
    pub(crate) stream: BufReader<UnixStream>,
    /// Whether it has been told.
    pub(crate) told: Arc<AtomicBool>,
}

/// Has the NIC begin, and end when this process is told to.
pub(crate) fn begin(ctl: &Path, request: &Request) -> Result<Begun, Failure> {
    let stream = stream(ctl, request)?;
    let end = stream.get_ref().try_clone().map_err(failed)?;
    let mut signals = signals()?;
    let told = Arc::new(AtomicBool::new(false));
    let is_told = Arc::clone(&told);
    let wait = move || {
        let mut byte = [0];
        if signals.read_exact(&mut byte).is_ok() {
            is_told.store(true, Ordering::Relaxed);
            // What has been captured so far still comes.
            let _ = end.shutdown(Shutdown::Write);
        }
    };
    let thread = std::thread::Builder::new().name("end".to_owned());
    thread.spawn(wait).map_err(failed)?;
    Ok(Begun { stream, told })
}

/// Where a capture goes.
pub(crate) struct Out {
    to: Box<dyn Write + Send>,
    /// The file, if it is one that can be cut.
    file: Option<(PathBuf, File)>,
}

impl Out {
    /// The named file, or standard output for `-` or without a name.
    pub(crate) fn open(file: Option<&Path>) -> Result<Out, Failure> {
        let stdout = || Out {
            to: Box::new(io::stdout()),
            file: None,
        };
        match file {
            Some(path) if path == Path::new("-") => Ok(stdout()),
            Some(path) => {
                let said = |e: io::Error| failed(format!("{}: {e}", path.display()));
                let file = File::create(path).map_err(said)?;
                let is_file = file.metadata().map_err(said)?.is_file();
                let cut = file.try_clone().map_err(said)?;
                Ok(Out {
                    to: Box::new(file),
                    file: is_file.then(|| (path.to_owned(), cut)),
                })
            }
            None => Ok(stdout()),
        }
    }
}

/// What a capture has come to.
#[derive(Default)]
pub(crate) struct Counted {
    frames: u64,
    /// Frames that were not captured, if the NIC has said.
    missed: Option<u64>,
    bytes: u64,
}

impl std::fmt::Display for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} frames captured", self.frames)?;
        match self.missed {
            Some(missed) => write!(f, ", {missed} frames not captured"),
            None => Ok(()),
        }
    }
}

/// Why there is no more of a capture.
enum Ended {
    /// The NIC has said all, or has gone.
    There,
    /// Whoever reads it has gone.
    Here(io::Error),
}

/// Copies blocks until there are no more.
pub(crate) fn copy(mut from: BufReader<UnixStream>, out: &mut Out) -> Result<Counted, Failure> {
    let mut counted = Counted::default();
    let mut block = Vec::new();
    let error = loop {
        match copy_block(&mut from, &mut out.to, &mut block, &mut counted) {
            Ok(()) => {}
            Err(Ended::There) => return Ok(counted),
            Err(Ended::Here(error)) => break error,
        }
    };
    if error.kind() == io::ErrorKind::BrokenPipe {
        let lost = u64::from(word(&block, 0) == ENHANCED_PACKET);
        counted.missed = rest(from, &mut block).map(|missed| missed + lost);
        return Ok(counted);
    }
    let Some((path, file)) = &out.file else {
        return Err(failed(format!(
            "cannot write the capture: {error}; {counted}"
        )));
    };
    // A part of a block would make the whole file unreadable to some.
    let cut = file.set_len(counted.bytes);
    let name = path.display();
    Err(failed(match cut {
        Ok(()) => format!("{name}: {error}; {counted}, which are in it"),
        Err(_) => format!("{name}: {error}; {counted}"),
    }))
}

/// Has the NIC end a capture that nobody reads any more, and says how many frames of it are nowhere, if the NIC has said how many it left out.
fn rest(mut from: BufReader<UnixStream>, block: &mut Vec<u8>) -> Option<u64> {
    // It has ended if that fails.
    let _ = from.get_ref().shutdown(Shutdown::Write);
    let mut unread = Counted::default();
    while copy_block(&mut from, &mut io::sink(), block, &mut unread).is_ok() {}
    unread.missed.map(|missed| missed + unread.frames)
}

/// A number of a block.
fn word(block: &[u8], at: usize) -> u32 {
    let bytes = block.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn copy_block(
    from: &mut BufReader<UnixStream>,
    to: &mut impl Write,
    block: &mut Vec<u8>,
    counted: &mut Counted,
) -> Result<(), Ended> {
    let gone = |_: io::Error| Ended::There;
    block.resize(8, 0);
    from.read_exact(block).map_err(gone)?;
    let (kind, len) = (word(block, 0), word(block, 4));
    if !(12..=MAX_BLOCK).contains(&len) {
        return Err(Ended::There);
    }
    block.resize(len as usize, 0);
    from.read_exact(block.get_mut(8..).unwrap_or_default())
        .map_err(gone)?;
    to.write_all(block).map_err(Ended::Here)?;
    counted.bytes += u64::from(len);
    match kind {
        ENHANCED_PACKET => counted.frames += 1,
        INTERFACE_STATISTICS => *counted.missed.get_or_insert(0) += dropped(block).unwrap_or(0),
        _ => {}
    }
    if from.buffer().is_empty() {
        to.flush().map_err(Ended::Here)?;
    }
    Ok(())
}

/// The frames of an interface that were not captured, as its statistics say.
fn dropped(block: &[u8]) -> Option<u64> {
    let mut options = block.get(20..)?;
    loop {
        let (head, rest) = options.split_first_chunk::<4>()?;
        let [code, len] = [[head[0], head[1]], [head[2], head[3]]].map(u16::from_le_bytes);
        if code == ISB_IFDROP {
            return rest.first_chunk().map(|value| u64::from_le_bytes(*value));
        }
        options = rest.get(usize::from(len).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let len = 12 + body.len() as u32;
        let [kind, len] = [kind, len].map(u32::to_le_bytes);
        [&kind, &len, body, &len].concat()
    }

    /// Takes so many blocks and has gone then, as a reader behind a pipe.
    struct Leaves(usize);

    impl Write for Leaves {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let left = self.0.checked_sub(1);
            self.0 = left.ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn when_the_reader_goes_each_frame_is_in_the_capture_or_counted_as_not_captured() {
        let (ours, mut nic) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            let packet = block(ENHANCED_PACKET, &[0; 20]);
            for _ in 0..30 {
                nic.write_all(&packet).unwrap();
            }
            // It ends when it is told to, and says what it has left out.
            assert_eq!(nic.read(&mut [0]).unwrap(), 0);
            for _ in 0..5 {
                nic.write_all(&packet).unwrap();
            }
            let if_drop = [&[0; 12][..], &[5, 0, 8, 0], &7u64.to_le_bytes(), &[0; 4]].concat();
            nic.write_all(&block(INTERFACE_STATISTICS, &if_drop))
                .unwrap();
        });
        let mut out = Out {
            to: Box::new(Leaves(10)),
            file: None,
        };
        let counted = copy(BufReader::new(ours), &mut out).ok().unwrap();
        thread.join().unwrap();
        assert_eq!(
            counted.to_string(),
            "10 frames captured, 32 frames not captured"
        );
    }
}
