//! How far two CPUs are from each other: the time a cache line takes there and back.
//!
//! What a poller can do depends on it more than on anything else, and a hypervisor changes it by
//! moving virtual CPUs about: figures of different distances say nothing about each other. Knows
//! nothing of back ends: it moves a line between two threads of this process.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Round trips in a row; the shortest of many rows counts, since others may share the CPUs.
const ROW: u32 = 200;
/// How long it is measured.
const LONG: Duration = Duration::from_millis(50);
/// What the other side answers when it cannot be where it should.
const FAILED: u32 = u32::MAX;

/// A line of its own, and that of the prefetcher beside it.
#[repr(align(128))]
struct Line(AtomicU32);

/// Pins the calling thread to a CPU.
pub(super) fn pin(cpu: usize) -> io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    if cpu >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Nanoseconds that a cache line takes from this thread's CPU to `cpu` and back; `None` when the
/// other side got no turn.
pub(super) fn round_trip(cpu: usize) -> io::Result<Option<u64>> {
    let line = Line(AtomicU32::new(0));
    let line = &line.0;
    // Not a value of the line: an answer that is on its way when time is up would overwrite it, and nobody would ever end.
    let stop = Line(AtomicU32::new(0));
    let stop = &stop.0;
    thread::scope(|scope| {
        let other = scope.spawn(move || {
            if let Err(error) = pin(cpu) {
                line.store(FAILED, Ordering::Release);
                return Err(error);
            }
            loop {
                match line.load(Ordering::Acquire) {
                    _ if stop.load(Ordering::Relaxed) != 0 => return Ok(()),
                    n if n % 2 == 1 => line.store(n + 1, Ordering::Release),
                    _ => std::hint::spin_loop(),
                }
            }
        });
        let end = Instant::now() + LONG;
        let mut shortest = None;
        let mut n = 0;
        'rows: while line.load(Ordering::Acquire) != FAILED {
            let begin = Instant::now();
            for _ in 0..ROW {
                line.store(n + 1, Ordering::Release);
                n += 2;
                let mut spins = 0u32;
                while line.load(Ordering::Acquire) != n {
                    spins += 1;
                    if spins.is_multiple_of(1024) && Instant::now() > end {
                        break 'rows;
                    }
                }
            }
            let row = begin.elapsed().as_nanos() as u64 / u64::from(ROW);
            shortest = Some(shortest.map_or(row, |best: u64| best.min(row)));
            if Instant::now() > end {
                break;
            }
        }
        stop.store(1, Ordering::Relaxed);
        match other.join() {
            Ok(ended) => ended.map(|()| shortest),
            Err(_) => Err(io::Error::other("the other side panicked")),
        }
    })
}

/// Whether figures of these distances, each taken before and after, may be set against each other.
pub(super) fn comparable(a: &[u64], b: &[u64]) -> bool {
    let all = || a.iter().chain(b);
    match (all().min(), all().max()) {
        (Some(&least), Some(&most)) => most as f64 <= least as f64 * 1.4,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_and_far_are_not_compared() {
        assert!(comparable(&[100, 110], &[120]));
        assert!(!comparable(&[100, 400], &[100, 100]));
        assert!(comparable(&[], &[100]));
    }

    #[test]
    fn a_cpu_that_is_not_there_is_an_error() {
        assert!(round_trip(usize::MAX).is_err());
    }
}
