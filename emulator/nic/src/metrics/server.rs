//! Answers scrapes over HTTP, on threads of its own: it asks over the control socket as any other client does, so that no plane waits
//! for it, and the control thread no longer than for any `show`, five times a second at most. A scraper that does not read costs one of a
//! few threads, and not for long.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use serde::Deserialize;
use vf_vhost::closer::{Aside, Closer};
use vf_vhost::endpoint::BindError;
use vf_vhost::listener::Listener;

use super::page::{Format, page};
use crate::control::show::Show;
use crate::control::{Request, Response, ask};
use crate::sandbox::{Role, Sandbox};

/// Scrapes at a time; who comes then takes the place of the one that has been there for longest, when that has had its [time](TIME).
const SCRAPES: usize = 8;
/// Threads at a time: one that waits for an answer to be shown lives on for a while when its scraper has had to go.
const THREADS: usize = 2 * SCRAPES;
/// How long a scraper keeps its place whoever else comes: a scrape takes milliseconds.
const TIME: Duration = Duration::from_millis(100);
/// How long a scrape may take, from the connection to the last byte.
const LIMIT: Duration = Duration::from_secs(10);
/// How old what is said may be: the control thread is asked no more often, however many ask here.
const FRESH: Duration = Duration::from_millis(200);
/// The longest head of a request.
const HEAD: usize = 8 << 10;

/// Where scrapes are answered: `ADDRESS:PORT`, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum MetricsAddress {
    /// A TCP address, such as `127.0.0.1:9109` or `localhost:9109`.
    Tcp(String),
    /// A socket of this machine.
    Unix(PathBuf),
}

/// Text that is no address.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is neither ADDRESS:PORT, such as 127.0.0.1:9109, nor unix:PATH")]
pub struct MetricsAddressError(String);

/// Why scrapes cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The address cannot be listened on.
    #[error("metrics: cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be served.
    #[error("metrics: {0}")]
    Unix(#[from] BindError),
}

impl FromStr for MetricsAddress {
    type Err = MetricsAddressError;
    fn from_str(text: &str) -> Result<MetricsAddress, MetricsAddressError> {
        let port = |text: &str| {
            let (host, port) = text.rsplit_once(':')?;
            (!host.is_empty() && port.parse::<u16>().is_ok()).then_some(())
        };
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(MetricsAddress::Unix(path.into())),
            None if port(text).is_some() => Ok(MetricsAddress::Tcp(text.to_owned())),
            _ => Err(MetricsAddressError(text.escape_debug().take(64).collect())),
        }
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = MetricsAddressError;
    fn try_from(text: String) -> Result<MetricsAddress, MetricsAddressError> {
        text.parse()
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetricsAddress::Tcp(address) => f.write_str(address),
            MetricsAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A socket that scrapers connect to. If it has a file, that is removed with this.
#[derive(Debug)]
pub enum ScrapeSocket {
    /// At a TCP address.
    Tcp(TcpListener),
    /// At a path.
    Unix(Listener),
}

impl ScrapeSocket {
    /// Listens at `address`; nobody is answered yet.
    ///
    /// # Errors
    /// [`MetricsError`].
    pub fn bind(address: &MetricsAddress) -> Result<ScrapeSocket, MetricsError> {
        Ok(match address {
            MetricsAddress::Tcp(to) => {
                let listener = TcpListener::bind(to.as_str());
                let failed = |source| MetricsError::Listen {
                    address: address.to_string(),
                    source,
                };
                ScrapeSocket::Tcp(listener.map_err(failed)?)
            }
            MetricsAddress::Unix(path) => ScrapeSocket::Unix(Listener::bind(path)?),
        })
    }

    /// Goes on with a socket that another process listens on, whose file it is until it is [ours](Self::own).
    ///
    /// # Errors
    /// The kernel's.
    pub fn adopt(address: &MetricsAddress, socket: OwnedFd) -> io::Result<ScrapeSocket> {
        Ok(match address {
            MetricsAddress::Tcp(_) => ScrapeSocket::Tcp(socket.into()),
            MetricsAddress::Unix(path) => ScrapeSocket::Unix(Listener::adopt(socket, path)?),
        })
    }

    /// Its file is this process' from now on.
    pub fn own(&mut self) {
        if let ScrapeSocket::Unix(listener) = self {
            listener.own();
        }
    }

    /// Answers scrapes with what is said at the control socket, as long as the process lives.
    ///
    /// # Errors
    /// The system's, of a thread that it does not have.
    pub fn serve(&self, ctl: &Path, sandbox: Sandbox) -> io::Result<()> {
        let ctl = ctl.to_owned();
        let thread = std::thread::Builder::new().name("metrics".to_owned());
        // The same socket, without the care for its file.
        let socket = self.as_fd().try_clone_to_owned()?;
        match self {
            ScrapeSocket::Tcp(_) => {
                let listener = TcpListener::from(socket);
                thread.spawn(move || {
                    sandbox.confine(Role::Scrapes);
                    accept(&ctl, |_| {
                        listener.accept().map(|(stream, _)| Stream::Tcp(stream))
                    });
                })?;
            }
            ScrapeSocket::Unix(_) => {
                let listener = UnixListener::from(socket);
                thread.spawn(move || {
                    sandbox.confine(Role::Scrapes);
                    accept(&ctl, |closer| {
                        rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)?;
                        if closer.is_full() {
                            return Err(io::ErrorKind::QuotaExceeded.into());
                        }
                        let (stream, _) = listener.accept()?;
                        stream.set_nonblocking(false)?;
                        Ok(Stream::Unix(Aside::new(stream, closer), closer.clone()))
                    });
                })?;
            }
        }
        Ok(())
    }
}

impl AsFd for ScrapeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            ScrapeSocket::Tcp(listener) => listener.as_fd(),
            ScrapeSocket::Unix(listener) => listener.as_fd(),
        }
    }
}

/// What scrapes are answered with.
struct Source {
    ctl: PathBuf,
    /// What was said last, and when.
    last: Mutex<Option<(Instant, Box<Show>)>>,
}

impl Source {
    fn new(ctl: &Path) -> Source {
        Source {
            ctl: ctl.to_owned(),
            last: Mutex::default(),
        }
    }

    /// The state of all NICs, a moment ago at most. Whoever asks while another does has the same answer.
    fn show(&self) -> Option<Show> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|(at, _)| at.elapsed() > FRESH) {
            let Ok(Response::Show(show)) = ask(&self.ctl, &Request::Show) else {
                return None;
            };
            *last = Some((Instant::now(), show));
        }
        last.as_ref().map(|(_, show)| Show::clone(show))
    }
}

/// The threads that answer.
#[derive(Default)]
struct Threads {
    running: Mutex<usize>,
    ended: Condvar,
}

/// One of them, until it ends.
struct Thread(Arc<Threads>);

impl Thread {
    fn begin(threads: &Arc<Threads>) -> Thread {
        *threads.running() += 1;
        Thread(Arc::clone(threads))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        *self.0.running() -= 1;
        self.0.ended.notify_one();
    }
}

impl Threads {
    fn running(&self) -> std::sync::MutexGuard<'_, usize> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for another one: too few run, or the scraper that has been there for longest has had its time.
    fn await_room(&self, scrapes: &mut VecDeque<(Instant, Weak<Stream>)>) {
        let mut running = self.running();
        loop {
            scrapes.retain(|(_, stream)| stream.strong_count() > 0);
            let wait = match scrapes.front() {
                Some((since, oldest)) if scrapes.len() >= SCRAPES => {
                    let left = TIME.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        if let Some(oldest) = oldest.upgrade() {
                            let _ = oldest.shutdown();
                        }
                        scrapes.pop_front();
                        continue;
                    }
                    left
                }
                _ if *running >= THREADS => LIMIT,
                _ => return,
            };
            let woken = self.ended.wait_timeout(running, wait);
            running = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn accept(ctl: &Path, mut next: impl FnMut(&Closer) -> io::Result<Stream>) {
    let source = Arc::new(Source::new(ctl));
    let (threads, mut scrapes) = (Arc::new(Threads::default()), VecDeque::new());
    let closer = Closer::default();
    loop {
        let Ok(stream) = next(&closer) else {
            // Too many open files, which others may close, or too many that nobody can close.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        threads.await_room(&mut scrapes);
        let (source, stream) = (Arc::clone(&source), Arc::new(stream));
        scrapes.push_back((Instant::now(), Arc::downgrade(&stream)));
        let this = Thread::begin(&threads);
        let answer = move || {
            // Whoever has gone needs no answer.
            let _ = scrape(&stream, &source);
            // Its place is free before its thread is seen to end.
            drop(stream);
            drop(this);
        };
        let thread = std::thread::Builder::new().name("scrape".to_owned());
        let _ = thread.spawn(answer);
    }
}

/// A connection of a scraper, which has so long to end.
enum Stream {
    Tcp(TcpStream),
    /// Descriptors that come on it are closed where nobody waits for that.
    Unix(Aside<UnixStream>, Closer),
}

impl Stream {
    fn set_timeout(&self, left: Duration) -> io::Result<()> {
        let left = Some(left);
        match self {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(left)?;
                stream.set_write_timeout(left)
            }
            Stream::Unix(stream, _) => stream.set_write_timeout(left),
        }
    }

    /// Ends it: nobody waits on it any more.
    fn shutdown(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream, _) => stream.shutdown(Shutdown::Both),
        }
    }

    /// Waits for so long at most.
    fn read(&self, into: &mut [u8], left: Duration) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).read(into),
            Stream::Unix(stream, closer) => {
                let left = left.try_into().map_err(io::Error::other)?;
                rustix::event::poll(&mut [PollFd::new(&**stream, PollFlags::IN)], Some(&left))?;
                Ok(closer.read(&**stream, into)?)
            }
        }
    }

    fn write(&self, from: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).write(from),
            Stream::Unix(stream, _) => (&**stream).write(from),
        }
    }
}

/// Answers one request, and no other on the same connection.
fn scrape(stream: &Stream, source: &Source) -> io::Result<()> {
    let until = Instant::now() + LIMIT;
    let left = || match until.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => stream.set_timeout(left).map(|()| left),
        _ => Err(io::ErrorKind::TimedOut.into()),
    };
    let mut head = Vec::new();
    let answer = loop {
        if let Some(answer) = answer(&head, source) {
            break answer;
        }
        let left = left()?;
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk, left)? {
            0 => return Ok(()),
            n => head.extend_from_slice(&chunk[..n]),
        }
    };
    let mut rest = answer.as_bytes();
    while !rest.is_empty() {
        left()?;
        let written = stream.write(rest)?;
        rest = &rest[written..];
    }
    Ok(())
}

/// The answer to a request with this head, if that has come to its end.
fn answer(head: &[u8], source: &Source) -> Option<String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let whole = request.parse(head).map(|status| status.is_complete());
    Some(match whole {
        Ok(false) if head.len() < HEAD => return None,
        // A query is for others: `params` of a scrape_config, federation.
        Ok(true) => match (
            request.method,
            request.path.and_then(|path| path.split('?').next()),
        ) {
            (Some(method @ ("GET" | "HEAD")), Some("/metrics")) => {
                let mut accept = request.headers.iter();
                let accept = accept.find(|header| header.name.eq_ignore_ascii_case("accept"));
                let accept = accept.map_or(&b""[..], |header| header.value);
                let format = match String::from_utf8_lossy(accept).contains("openmetrics-text") {
                    true => Format::OpenMetrics,
                    false => Format::Prometheus,
                };
                match source.show() {
                    Some(show) => {
                        let body = page(show, format);
                        let whole = http("200 OK", format.content_type(), &body);
                        match method {
                            "HEAD" => whole[..whole.len() - body.len()].to_owned(),
                            _ => whole,
                        }
                    }
                    _ => http("503 Service Unavailable", TEXT, "vfnic does not answer\n"),
                }
            }
            (Some("GET" | "HEAD"), _) => http("404 Not Found", TEXT, "metrics are at /metrics\n"),
            _ => http("405 Method Not Allowed", TEXT, "GET /metrics\n"),
        },
        _ => http("400 Bad Request", TEXT, "GET /metrics\n"),
    })
}

const TEXT: &str = "text/plain; charset=utf-8";

fn http(status: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    use super::*;

    #[test]
    fn addresses_are_those_of_tcp_and_of_this_machine() {
        for (text, address) in [
            (
                "127.0.0.1:9109",
                MetricsAddress::Tcp("127.0.0.1:9109".into()),
            ),
            ("[::1]:9109", MetricsAddress::Tcp("[::1]:9109".into())),
            ("unix:/run/x", MetricsAddress::Unix("/run/x".into())),
        ] {
            assert_eq!(text.parse::<MetricsAddress>().unwrap(), address);
            assert_eq!(address.to_string(), text);
        }
        for wrong in ["", "9109", ":9109", "localhost", "unix:", "localhost:http"] {
            let error = wrong.parse::<MetricsAddress>().unwrap_err().to_string();
            assert!(error.contains("such as 127.0.0.1:9109"), "{error}");
        }
    }

    #[test]
    fn what_is_no_scrape_is_answered_without_asking_anybody() {
        let nobody = Source::new(Path::new("/nowhere"));
        let said = |head: &str| answer(head.as_bytes(), &nobody);
        assert_eq!(said("GET /metrics HTTP/1.1\r\nHost: x\r\n"), None);
        for (head, status) in [
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("\0\0\r\n\r\n", "400"),
            ("GET /metrics HTTP/1.1\r\n\r\n", "503"),
            ("GET /metrics?module=x HTTP/1.1\r\n\r\n", "503"),
            ("GET /metricsx?/metrics HTTP/1.1\r\n\r\n", "404"),
        ] {
            let answer = said(head).unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
        }
        assert!(said(&"x".repeat(HEAD)).unwrap().starts_with("HTTP/1.1 400"));
    }

    #[test]
    fn what_was_said_a_moment_ago_is_said_again_without_asking() {
        let source = Source::new(Path::new("/nowhere"));
        let said = |ago: Duration| {
            let at = Instant::now().checked_sub(ago).unwrap();
            *source.last.lock().unwrap() = Some((at, Box::default()));
            answer(b"GET /metrics HTTP/1.1\r\n\r\n", &source).unwrap()
        };
        assert!(said(Duration::ZERO).starts_with("HTTP/1.1 200 "));
        assert!(
            said(FRESH * 2).starts_with("HTTP/1.1 503 "),
            "it is asked anew"
        );
    }

    /// Threads of this process with this name.
    fn threads(name: &str) -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let comms = tasks.map(|task| task.unwrap().path().join("comm"));
        // One may have ended meanwhile.
        let comms = comms.filter_map(|comm| std::fs::read_to_string(comm).ok());
        comms.filter(|comm| comm.trim_end() == name).count()
    }

    #[test]
    fn while_nobody_is_answered_no_more_threads_wait_than_there_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let [ctl, path] = ["ctl", "metrics"].map(|name| dir.path().join(name));
        // A control socket at which nobody says anything.
        let _ctl_listener = UnixListener::bind(&ctl).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            accept(&ctl, |closer| {
                let (stream, _) = listener.accept()?;
                Ok(Stream::Unix(Aside::new(stream, closer), closer.clone()))
            });
        });
        let clients = (0..60).map(|_| {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
            client
        });
        let clients: Vec<_> = clients.collect();
        // Each that comes takes the place of another that has had its time.
        std::thread::sleep(TIME * 10);
        assert_eq!(threads("scrape"), THREADS);
        drop(clients);
    }

    /// A socket whose last close waits for an hour, and who keeps its peer from reading.
    fn lingering() -> (OwnedFd, (TcpListener, TcpStream)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        let hour = Some(Duration::from_secs(3600));
        rustix::net::sockopt::set_socket_linger(&socket, hour).unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.write(&[0; 1 << 16]).is_ok() {}
        (socket.into(), (listener, peer))
    }

    #[test]
    fn what_scrapers_send_along_keeps_no_thread_that_answers() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (fd, _peer) = lingering();
        let fds = [fd.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let head = [IoSlice::new(b"GET / HTTP/1.1\r\n\r\n")];
        sendmsg(&theirs, &head, &mut control, SendFlags::empty()).unwrap();
        drop(fd);
        let closer = Closer::default();
        let stream = Stream::Unix(Aside::new(ours, &closer), closer);
        let (done, answered) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            done.send(scrape(&stream, &Source::new(Path::new("/nowhere"))).is_ok())
        });
        // Not in an hour.
        assert_eq!(answered.recv_timeout(Duration::from_secs(30)), Ok(true));
        let mut answer = String::new();
        (&theirs).read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
}
