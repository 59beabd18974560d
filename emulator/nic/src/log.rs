//! The log on standard error. Whoever logs never waits for it, never fails and never panics, whatever standard error is: a
//! thread of its own writes the lines, and a line that finds the queue full, or cannot be written, is dropped and counted.
//! What one VF or NIC may log is limited, so that a hostile front end fills no disk.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer};

use crate::sandbox::{Role, Sandbox};

/// Lines that may wait to be written.
const QUEUE: usize = 1024;
/// Bytes of a line that are kept.
const LONGEST_LINE: usize = 2048;
/// How long whoever ends the process waits for lines to be written.
const PATIENCE: Duration = Duration::from_millis(300);
/// Lines that a VF or NIC may log at once, of warnings and of all else.
const BURST: u32 = 100;
/// One more after each such time.
const REFILL: Duration = Duration::from_secs(10);

static LOST: AtomicU64 = AtomicU64::new(0);
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Lines that this process could not write.
#[must_use]
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Lines of VFs and NICs that this process did not write because they had logged too many.
#[must_use]
pub fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// Standard error, whatever that is when a line is written; a line waits for no lock that somebody else has who says something there.
#[derive(Debug)]
pub struct StandardError(io::Stderr);

impl StandardError {
    /// This process'.
    #[must_use]
    pub fn of_process() -> StandardError {
        StandardError(io::stderr())
    }

    /// Another descriptor for it.
    ///
    /// # Errors
    /// The system's.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// Everything that this process says on standard error goes there from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn redirect(&self, to: &OwnedFd) -> io::Result<()> {
        Ok(rustix::stdio::dup2_stderr(to)?)
    }
}

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for StandardError {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A way to the log: lines written to it are queued. All clones are ways to the same one.
#[derive(Clone, Debug)]
pub struct Log {
    queue: SyncSender<Vec<u8>>,
    /// Lines queued, and lines of those that have been dealt with.
    queued: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
}

impl Log {
    /// Starts the thread that writes lines to `out`, in the sandbox if it is on.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(out: impl Write + AsFd + Send + 'static, sandbox: Sandbox) -> io::Result<Log> {
        let (queue, lines) = sync_channel(QUEUE);
        let log = Log {
            queue,
            queued: Arc::default(),
            done: Arc::default(),
        };
        let (done, told) = (Arc::clone(&log.done), lost());
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                sandbox.confine(Role::Quiet);
                write_lines(out, &lines, &done, told);
            })?;
        Ok(log)
    }

    /// Waits a moment until all that was logged so far is written.
    pub fn flush(&self) {
        let goal = self.queued.load(Ordering::SeqCst);
        let started = Instant::now();
        while self.done.load(Ordering::SeqCst) < goal && started.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Write for Log {
    /// Takes a whole line; never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut kept = line.to_vec();
        if kept.len() > LONGEST_LINE {
            kept.truncate(LONGEST_LINE);
            kept.extend_from_slice(b"...\n");
        }
        self.queued.fetch_add(1, Ordering::SeqCst);
        if self.queue.try_send(kept).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
            self.done.fetch_add(1, Ordering::SeqCst);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

/// `told` is how many lost lines are not worth a note.
fn write_lines(
    mut out: impl Write + AsFd,
    lines: &Receiver<Vec<u8>>,
    done: &AtomicU64,
    mut told: u64,
) {
    // Whether a part of a line has been written, and the rest could not be.
    let mut torn = false;
    for line in lines {
        let lost_now = lost();
        if lost_now > told {
            let note = format!("vfnic: {} lines of log were lost here\n", lost_now - told);
            if write_line(&mut out, note.as_bytes(), &mut torn) {
                told = lost_now;
            }
        }
        if !write_line(&mut out, &line, &mut torn) {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Writes a line to its end; false if that fails, for instance because the disk is full.
fn write_line(out: &mut (impl Write + AsFd), line: &[u8], torn: &mut bool) -> bool {
    let line = if *torn {
        [b"\n", line].concat()
    } else {
        line.to_vec()
    };
    let mut rest = &line[..];
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => break,
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process has made the open file that we share non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let _ = writable(out, Duration::from_secs(1));
            }
            Err(_) => break,
        }
    }
    if rest.len() < line.len() {
        *torn = !rest.is_empty();
    }
    rest.is_empty()
}

/// Waits at most so long until something can be written.
fn writable(out: &impl AsFd, limit: Duration) -> bool {
    let mut out = [PollFd::new(out, PollFlags::OUT)];
    let limit = Timespec::try_from(limit).unwrap_or_default();
    rustix::event::poll(&mut out, Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// Writes a last line to standard error, unless nobody takes it.
pub fn complain(line: &str) {
    let stderr = io::stderr();
    if writable(&stderr, PATIENCE) {
        let line: String = line.chars().flat_map(printable).collect();
        // There is nobody else to tell.
        let _ = writeln!(stderr.lock(), "vfnic: {line}");
    }
}

/// What may be a part of a name that somebody else has given, as a terminal may see it.
fn printable(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control() && c != '\n';
    let own = (!escaped).then_some(c);
    let escape = escaped.then(|| c.escape_default());
    own.into_iter().chain(escape.into_iter().flatten())
}

/// A layer that leaves out lines of a `device` that has logged too many. It belongs in front of the layer that writes.
pub struct RateLimit {
    log: Log,
    buckets: Mutex<HashMap<(String, bool), Bucket>>,
}

impl RateLimit {
    /// Says in `log` how much was left out.
    #[must_use]
    pub fn new(log: Log) -> RateLimit {
        RateLimit {
            log,
            buckets: Mutex::default(),
        }
    }
}

impl<S: Subscriber> Layer<S> for RateLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let mut device = Device::default();
        event.record(&mut device);
        let Device(Some(device)) = device else {
            return true;
        };
        let warning = *event.metadata().level() <= Level::WARN;
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets
            .entry((device.clone(), warning))
            .or_insert_with(|| Bucket::new(now));
        match bucket.take(now) {
            Some(0) => true,
            Some(left_out) => {
                let note = format!("vfnic: {left_out} lines of {device} were left out here\n");
                let _ = self.log.clone().write(note.as_bytes());
                true
            }
            None => {
                LEFT_OUT.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }
}

/// Finds the field of that name.
#[derive(Default)]
struct Device(Option<String>);

impl Visit for Device {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "device" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "device" {
            let mut name = String::new();
            // A `String` takes everything.
            let _ = write!(name, "{value:?}");
            self.0 = Some(name);
        }
    }
}

/// A token bucket.
struct Bucket {
    tokens: u32,
    filled: Instant,
    left_out: u64,
}

impl Bucket {
    fn new(now: Instant) -> Bucket {
        Bucket {
            tokens: BURST,
            filled: now,
            left_out: 0,
        }
    }

    /// Whether a line may be written, and how many could not be since the last that could.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let periods = now.saturating_duration_since(self.filled).as_nanos() / REFILL.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(periods).min(BURST);
        self.filled += REFILL.saturating_mul(periods);
        match self.tokens.checked_sub(1) {
            Some(tokens) => {
                self.tokens = tokens;
                Some(std::mem::take(&mut self.left_out))
            }
            None => {
                self.left_out += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_bucket_gives_a_burst_and_then_a_line_now_and_then() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let taken = (0..1000).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!(taken as u32, BURST);
        let later = start + REFILL;
        assert_eq!(bucket.take(later), Some(1000 - u64::from(BURST)));
        assert_eq!(bucket.take(later), None);
        // A quiet day fills it, and no further.
        let tomorrow = start + Duration::from_secs(86_400);
        let taken = (0..1000)
            .filter(|_| bucket.take(tomorrow).is_some())
            .count();
        assert_eq!(taken as u32, BURST);
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up_and_says_later_what_was_lost() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut log = Log::start(writer, Sandbox::Off).unwrap();
        let before = lost();
        let started = Instant::now();
        for n in 0..10_000 {
            log.write_all(
                format!("line {n} of many that are as long as lines of a log\n").as_bytes(),
            )
            .unwrap();
        }
        Log::flush(&log);
        assert!(started.elapsed() < Duration::from_secs(10));
        let lost_now = lost() - before;
        assert!((1000..10_000).contains(&lost_now), "{lost_now}");
        // Somebody reads at last.
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        while log.done.load(Ordering::SeqCst) < log.queued.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        log.write_all(b"the last line\n").unwrap();
        drop(log);
        let text = reading.join().unwrap().unwrap();
        let written = text.lines().filter(|l| l.starts_with("line ")).count() as u64;
        assert_eq!(written + lost_now, 10_000);
        let notes = text.lines().filter_map(|line| {
            let note = line.strip_prefix("vfnic: ")?;
            let count = note.strip_suffix(" lines of log were lost here")?;
            count.parse::<u64>().ok()
        });
        assert_eq!(notes.sum::<u64>(), lost_now);
        assert!(text.ends_with("the last line\n"));
    }

    #[test]
    fn lines_are_cut_where_they_become_too_long() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut log = Log::start(writer, Sandbox::Off).unwrap();
        log.write_all(&[b'x'; 1 << 20]).unwrap();
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        // Lines that another test loses meanwhile are told of here, too.
        let line = text
            .lines()
            .find(|line| !line.starts_with("vfnic: "))
            .unwrap();
        assert_eq!(line.len(), LONGEST_LINE + 3);
        assert!(line.ends_with("x..."));
    }
}
