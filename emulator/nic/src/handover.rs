//! A process that goes on where another one is (`vfnic upgrade`), and what it is given for that: a document, the bytes of frames that wait,
//! and descriptors in the order in which the document names them. It asks for them over the control socket, and one end of a socket pair
//! comes along, on which all of it is sent:
//!
//! 1. the one that runs empties its planes, pauses its sessions, and sends;
//! 2. the other one makes everything of it, and says `ready`, or why it cannot;
//! 3. the first one says `go` and touches nothing of it any more, or goes on as if nothing had been asked;
//! 4. the other one has guests go on, tells the service manager, and closes the socket; then the first one ends.
//!
//! Whoever ends in between leaves guests as whoever is killed does. Never decides who may ask, nor what is refused.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use vf_vhost::closer::MOST_FDS;
use vf_vhost::endpoint::SavedEndpoint;

use crate::config::{Config, ConfigError};
use crate::control::{Connection, CtlError, Request, Response};
use crate::plane::{SavedFrame, SavedStatistics};
use crate::uplink::{Position, ReadAhead, UplinkSpec};

/// The format of what is handed over. Another number when a process that does not know a part of it would do something wrong without.
pub const FORMAT: u32 = 5;

/// How long either side waits for the other. Guests stand still meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nothing that is handed over is longer: 64 MiB may wait in a plane.
const LONGEST: u64 = 8 << 30;
/// What is answered to a process that knows another format.
pub(crate) const OTHER_FORMAT: &str = "it hands over in another format";

/// What there is of a process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Document {
    /// The configuration file that makes the NICs.
    pub config: String,
    /// Where what commands change is kept, if it is.
    pub state: Option<SavedState>,
    /// In the order of the configuration.
    pub nics: Vec<SavedNic>,
    /// Since when guests stand still, by the clock that all processes share (`CLOCK_MONOTONIC`).
    pub still_since: Duration,
}

/// Where what commands change is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedState {
    /// The folder, if it is locked: by one of the descriptors.
    pub folder: Option<PathBuf>,
    /// The configuration file that the process was started with.
    pub started_with: String,
    /// Whether what commands have changed could not be written: the process that goes on is to try.
    #[serde(default)]
    pub unwritten: bool,
}

/// What there is of a NIC beside its settings.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedNic {
    pub(crate) statistics: SavedStatistics,
    /// Frames that each of its filters has decided on, by the words of the filter.
    #[serde(default)]
    pub(crate) hits: BTreeMap<String, u64>,
    /// How far what is plugged into its port has come with what it plays.
    pub(crate) position: Option<Position>,
    pub(crate) vfs: Vec<SavedVf>,
    /// Frames that wait for guests' buffers, in order; their bytes are those of all NICs, one after the other.
    pub(crate) waiting: Vec<SavedFrame>,
}

/// What there is of a VF beside its settings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedVf {
    /// None of a VF without a socket.
    pub(crate) socket: Option<SavedEndpoint>,
    /// What its driver has asked for, in words.
    pub(crate) asked: Vec<String>,
    /// The addresses among that which another VF had when it asked.
    pub(crate) taken: Vec<String>,
    pub(crate) refused: u64,
    pub(crate) fault: Option<String>,
    /// Sessions and refusals of sockets that it had before.
    #[serde(default)]
    pub(crate) before: [u64; 2],
}

/// Why a process cannot go on where another one is. That one goes on itself.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// Nobody is there, or does not answer.
    #[error("{0}")]
    Ctl(#[from] CtlError),
    /// The other one does not know how.
    #[error("the vfnic that runs cannot hand over to this version")]
    OtherVersion,
    /// It does not want to.
    #[error("{0}")]
    Refused(String),
    /// The connection broke.
    #[error("the vfnic that runs does not hand over: {0}")]
    Broken(#[from] io::Error),
    /// What it has sent is not understood.
    #[error("what the vfnic that runs hands over is not understood: {0}")]
    Foreign(#[from] serde_json::Error),
    /// Nor is its configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
}

/// What has been handed over.
#[derive(Debug)]
pub struct Taken {
    /// What there is.
    pub document: Document,
    /// What it runs.
    pub config: Config,
    pub(crate) frames: Vec<u8>,
    descriptors: std::vec::IntoIter<OwnedFd>,
    /// What has been read before anybody stood still.
    _ahead: Vec<ReadAhead>,
    from: BufReader<UnixStream>,
}

impl Taken {
    /// Has the process at this control socket hand over, and stand still until it [knows](Taken::commit) what becomes of that.
    ///
    /// # Errors
    /// [`TakeOverError`].
    pub fn ask(ctl: &Path) -> Result<Taken, TakeOverError> {
        let (ours, theirs) = UnixStream::pair()?;
        limit(&ours)?;
        let connection = Connection::open(ctl);
        let mut connection = connection.map_err(|error| match error {
            CtlError::Version { .. } | CtlError::Protocol { .. } => TakeOverError::OtherVersion,
            other => other.into(),
        })?;
        let ahead = read_ahead(&mut connection, ctl)?;
        let request = Request::HandOver { format: FORMAT };
        match connection.ask_with(&request, &[theirs.as_fd()])? {
            Response::Done(_) => {}
            Response::Refused(why) if why == OTHER_FORMAT || is_unknown(&why) => {
                return Err(TakeOverError::OtherVersion);
            }
            Response::Refused(why) => return Err(TakeOverError::Refused(why)),
            _ => return Err(TakeOverError::OtherVersion),
        }
        // Whoever does not send now has ended.
        drop(theirs);
        let (text, frames, descriptors) = receive(&ours)?;
        let document: Document = serde_json::from_slice(&text)?;
        Ok(Taken {
            config: Config::of_text(&document.config, ctl)?,
            document,
            frames,
            descriptors: descriptors.into_iter(),
            _ahead: ahead,
            from: BufReader::new(ours),
        })
    }

    /// The next descriptor.
    ///
    /// # Errors
    /// There is none.
    pub fn descriptor(&mut self) -> io::Result<OwnedFd> {
        let none = || io::Error::new(io::ErrorKind::UnexpectedEof, "a descriptor is missing");
        self.descriptors.next().ok_or_else(none)
    }

    pub(crate) fn descriptors(&mut self) -> &mut std::vec::IntoIter<OwnedFd> {
        &mut self.descriptors
    }

    /// Says that all has been made of it, and hears whether it is this process' from now on.
    ///
    /// # Errors
    /// It is not.
    pub fn commit(&mut self) -> Result<(), TakeOverError> {
        self.from.get_ref().write_all(b"ready\n")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        match line.as_str() {
            "go\n" => Ok(()),
            _ => Err(TakeOverError::Refused(
                "the vfnic that runs has not waited, and goes on itself".to_owned(),
            )),
        }
    }

    /// Says why nothing can be made of it.
    pub fn refuse(&mut self, why: &str) {
        // Whoever does not hear it hears nothing else either.
        let _ = writeln!(self.from.get_ref(), "{why}");
    }
}

/// Reads the files that NICs play. Guests would stand still for as long as that takes, once the other process has been asked.
fn read_ahead(connection: &mut Connection, ctl: &Path) -> Result<Vec<ReadAhead>, CtlError> {
    let Response::Save(text) = connection.ask(&Request::Save)? else {
        return Ok(Vec::new()); // it says why when it is asked for everything
    };
    let Ok(config) = Config::of_text(&text, ctl) else {
        return Ok(Vec::new()); // as does what it hands over
    };
    let uplinks = config.nics.iter().filter_map(|nic| nic.uplink.as_ref());
    Ok(uplinks.filter_map(UplinkSpec::read_ahead).collect())
}

/// The clock that all processes of this machine share.
pub(crate) fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.try_into().unwrap_or_default()
}

/// Whether a process says that it does not know the request.
fn is_unknown(why: &str) -> bool {
    why.starts_with("not a request of version")
}

fn limit(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Sends everything, and waits for the word that all has been made of it.
///
/// # Errors
/// Why it has not, on one line.
pub(crate) fn send(
    to: &UnixStream,
    document: &Document,
    frames: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), String> {
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => format!("nothing has been heard of it for {PATIENCE:?}"),
        _ => error.to_string(),
    };
    let said = || {
        limit(to)?;
        let text = serde_json::to_vec(document)?;
        let mut stream = to;
        for len in [text.len(), frames.len(), fds.len()] {
            stream.write_all(&(len as u64).to_le_bytes())?;
        }
        stream.write_all(&text)?;
        stream.write_all(frames)?;
        for fds in fds.chunks(MOST_FDS) {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(fds));
            sendmsg(to, &[IoSlice::new(b"f")], &mut control, SendFlags::NOSIGNAL)?;
        }
        let mut line = String::new();
        BufReader::new(to.take(4096)).read_line(&mut line)?;
        Ok(line)
    };
    match said().map_err(lost)?.trim_end() {
        "ready" => Ok(()),
        "" => Err("the other process has ended".to_owned()),
        why => Err(why.escape_debug().to_string()),
    }
}

/// Says that it is the other one's.
///
/// # Errors
/// It is not there any more.
pub(crate) fn go(mut to: &UnixStream) -> io::Result<()> {
    to.write_all(b"go\n")
}

/// Waits until the other one needs nothing any more.
pub(crate) fn wait_for_end(mut of: &UnixStream) {
    // What is read, and whether anything can be, does not matter.
    let _ = of.read(&mut [0]);
}

type Parts = (Vec<u8>, Vec<u8>, Vec<OwnedFd>);

fn receive(mut from: &UnixStream) -> io::Result<Parts> {
    let mut len = || {
        let mut len = [0; 8];
        from.read_exact(&mut len)?;
        match u64::from_le_bytes(len) {
            len @ 0..LONGEST => Ok(len),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    };
    let (document, frames, fds) = (len()?, len()?, len()?);
    let part = |len: u64| {
        let mut part = Vec::new();
        match from.take(len).read_to_end(&mut part)? as u64 == len {
            true => Ok(part),
            false => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    };
    let (document, frames) = (part(document)?, part(frames)?);
    let mut all = Vec::new();
    while (all.len() as u64) < fds {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut bytes = [IoSliceMut::new(&mut byte)];
        let got = recvmsg(from, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                all.extend(more);
            }
        }
        if got.bytes == 0 || got.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
            return Err(io::Error::other("descriptors are missing (RLIMIT_NOFILE?)"));
        }
    }
    Ok((document, frames, all))
}

#[cfg(test)]
mod tests {
    use vf_vhost::closer::Closer;

    use super::*;

    #[test]
    fn everything_arrives_in_order_whatever_its_length() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let document = Document {
            config: "x".repeat(1 << 20),
            state: None,
            nics: Vec::new(),
            still_since: Duration::ZERO,
        };
        let frames = vec![7; 300_000];
        let pipes: Vec<_> = (0..300).map(|_| rustix::pipe::pipe().unwrap()).collect();
        let receiver = std::thread::spawn(move || {
            let received = receive(&ours).unwrap();
            (&ours).write_all(b"ready\n").unwrap();
            received
        });
        let fds: Vec<_> = pipes.iter().map(|(_, write)| write.as_fd()).collect();
        send(&theirs, &document, &frames, &fds).unwrap();
        let (text, bytes, fds) = receiver.join().unwrap();
        let read: Document = serde_json::from_slice(&text).unwrap();
        assert_eq!((read.config, bytes), (document.config, frames));
        assert_eq!(fds.len(), pipes.len());
        for (n, (fd, (read, _))) in fds.iter().zip(&pipes).enumerate() {
            rustix::io::write(fd, &[n as u8]).unwrap();
            let mut byte = [0];
            rustix::io::read(read, &mut byte).unwrap();
            assert_eq!(byte, [n as u8]);
        }
    }

    /// A capture of 100 MB had guests stand still for half a second, and a longer one had the upgrade refused.
    #[test]
    fn what_is_played_is_read_before_anybody_stands_still() {
        let dir = tempfile::tempdir().unwrap();
        let (ctl, file) = (dir.path().join("ctl.sock"), dir.path().join("x.pcap"));
        let pcap = std::fs::File::create(&file).unwrap();
        pcap_file::pcap::PcapWriter::new(pcap).unwrap();
        let found = file.metadata().unwrap();
        let config = format!("[[nic]]\nname='a'\nuplink='pcap {}'\n", file.display());
        let listener = std::os::unix::net::UnixListener::bind(&ctl).unwrap();
        let other = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut answer = |response: Response| {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                let answer = serde_json::to_string(&response).unwrap();
                (&stream)
                    .write_all(format!("{answer}\n").as_bytes())
                    .unwrap();
            };
            let program = "vfnic".to_owned();
            answer(Response::Hello {
                protocol: crate::control::PROTOCOL,
                program,
            });
            answer(Response::Save(config.clone()));
            let mut line = String::new();
            let (mut bytes, mut fds) = (vec![0; 4096], Vec::new());
            while !line.ends_with('\n') {
                // It does not wait.
                if let Ok(got) = Closer::receive(&stream, &mut bytes, &mut fds) {
                    line.push_str(std::str::from_utf8(&bytes[..got]).unwrap());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // Whoever reads it from here on finds no capture, in a file that looks as it did.
            std::fs::write(&file, vec![0; found.len() as usize]).unwrap();
            let now = std::fs::File::options().write(true).open(&file).unwrap();
            now.set_modified(found.modified().unwrap()).unwrap();
            let answer = serde_json::to_string(&Response::Done(Vec::new())).unwrap();
            (&stream)
                .write_all(format!("{answer}\n").as_bytes())
                .unwrap();
            let to = UnixStream::from(fds.pop().unwrap());
            let document = Document {
                config,
                state: None,
                nics: Vec::new(),
                still_since: Duration::ZERO,
            };
            send(&to, &document, &[], &[])
        });
        let mut taken = Taken::ask(&ctl).unwrap();
        let nic = &taken.config.nics[0];
        let position = Position {
            next: 0,
            comes_in: vf_model::Nanos(0),
        };
        let uplink = nic.uplink.as_ref().unwrap().go_on(
            || Err(io::ErrorKind::NotFound.into()),
            Some(position),
            vf_model::LinkConfig::default(),
            vf_model::Nanos(0),
        );
        assert!(uplink.is_ok());
        taken.refuse("that is all");
        assert_eq!(other.join().unwrap(), Err("that is all".to_owned()));
    }

    #[test]
    fn what_the_other_one_says_is_the_reason() {
        let document = Document {
            config: String::new(),
            state: None,
            nics: Vec::new(),
            still_since: Duration::ZERO,
        };
        for (says, why) in [
            (&b"no\x1b room\n"[..], "no\\u{1b} room"),
            (b"", "the other process has ended"),
        ] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (&ours).write_all(says).unwrap();
            ours.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(send(&theirs, &document, &[], &[]), Err(why.to_owned()));
        }
    }
}
