//! MSI-X vectors as a data-plane thread may raise them, whatever carries them to the guest. Knows no table of addresses: that is
//! the transport's, or the hypervisor's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vf_vhost::eventfd::EventFd;

/// The vectors of a function. Threads raise them; one, the transport's, says where they lead.
#[derive(Debug, Default)]
pub struct Vectors {
    all: Box<[Vector]>,
    /// Whether they may write to memory, which is what an MSI-X interrupt is: the function is bus master.
    may_write: AtomicBool,
}

/// Where a vector leads.
#[derive(Debug, Default)]
enum Lead {
    /// It is masked.
    #[default]
    Nowhere,
    /// To the guest.
    Guest(EventFd),
    /// To a transport that waits there, finds it pending, and carries it on.
    Transport(EventFd),
}

#[derive(Debug, Default)]
struct Vector {
    /// Held for a moment by whoever raises it.
    to: Mutex<Lead>,
    /// It was raised, and has not got to the guest.
    pending: AtomicBool,
    raised: AtomicU64,
}

impl Vector {
    fn lock(&self) -> MutexGuard<'_, Lead> {
        self.to.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vectors {
    /// So many vectors, all of them masked.
    #[must_use]
    pub fn new(vectors: u16) -> Vectors {
        let all = std::iter::repeat_with(Vector::default);
        Vectors {
            all: all.take(vectors.into()).collect(),
            may_write: AtomicBool::new(false),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Interrupts the guest; a masked vector is pending from now on, and so is each while the function is no bus master. Nothing if there is no
    /// such vector.
    pub fn raise(&self, vector: u16) {
        let Some(vector) = self.all.get(usize::from(vector)) else {
            return;
        };
        vector.raised.fetch_add(1, Ordering::Relaxed);
        // Under the lock, so that whoever unmasks it sees it.
        let to = vector.lock();
        match &*to {
            Lead::Guest(to) if self.may_write.load(Ordering::Relaxed) => to.signal(),
            Lead::Transport(to) => {
                vector.pending.store(true, Ordering::Relaxed);
                to.signal();
            }
            Lead::Guest(_) | Lead::Nowhere => vector.pending.store(true, Ordering::Relaxed),
        }
    }

    /// Has a vector lead there from now on, or masks it. One that is pending is raised when it is unmasked (PCIe 6.1.4.5).
    pub fn set(&self, vector: u16, to: Option<EventFd>) {
        let Some(vector) = self.all.get(usize::from(vector)) else {
            return;
        };
        let mut place = vector.lock();
        *place = to.map_or(Lead::Nowhere, Lead::Guest);
        self.tell_pending(vector, &place);
    }

    /// Has the transport be woken there when a vector has become [pending](Self::is_pending), which it carries to the guest itself.
    pub(crate) fn wake(&self, vector: u16, transport: EventFd) {
        let Some(vector) = self.all.get(usize::from(vector)) else {
            return;
        };
        let mut place = vector.lock();
        if vector.pending.load(Ordering::Relaxed) {
            transport.signal();
        }
        *place = Lead::Transport(transport);
    }

    /// Whether the function is bus master from now on. What was raised while it was not is raised then.
    pub(crate) fn set_may_write(&self, may_write: bool) {
        // Whoever raises one has seen it, or its vector is found pending below: both have its lock.
        let could = self.may_write.swap(may_write, Ordering::Relaxed);
        if may_write && !could {
            for vector in &self.all {
                self.tell_pending(vector, &vector.lock());
            }
        }
    }

    fn tell_pending(&self, vector: &Vector, to: &Lead) {
        if let Lead::Guest(to) = to
            && self.may_write.load(Ordering::Relaxed)
            && vector.pending.swap(false, Ordering::Relaxed)
        {
            to.signal();
        }
    }

    /// Masks all of them and forgets what is pending: MSI-X is off.
    pub fn clear(&self) {
        for vector in &self.all {
            let mut place = vector.lock();
            *place = Lead::Nowhere;
            vector.pending.store(false, Ordering::Relaxed);
        }
    }

    /// Forgets what is pending: the function was reset.
    pub fn forget_pending(&self) {
        for vector in &self.all {
            vector.pending.store(false, Ordering::Relaxed);
        }
    }

    /// Whether a vector was raised while it was masked: its bit in the pending bit array.
    #[must_use]
    pub fn is_pending(&self, vector: u16) -> bool {
        let vector = self.all.get(usize::from(vector));
        vector.is_some_and(|vector| vector.pending.load(Ordering::Relaxed))
    }

    /// The same, and it is no longer: for a transport that carries interrupts itself.
    pub fn take_pending(&self, vector: u16) -> bool {
        let vector = self.all.get(usize::from(vector));
        vector.is_some_and(|vector| vector.pending.swap(false, Ordering::Relaxed))
    }

    /// How often vectors were raised, all together.
    #[must_use]
    pub fn raised(&self) -> u64 {
        let raised = self.all.iter().map(|v| v.raised.load(Ordering::Relaxed));
        raised.fold(0, u64::wrapping_add)
    }

    /// Whether one was made to block whoever raised it: the session is to end.
    #[must_use]
    pub fn blocks(&self) -> bool {
        let blocks = |vector: &Vector| match &*vector.lock() {
            Lead::Guest(to) | Lead::Transport(to) => to.blocks(),
            Lead::Nowhere => false,
        };
        self.all.iter().any(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_to_a_guest_by_what_is_no_bus_master() {
        let vectors = Vectors::new(2);
        let (first, second) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        vectors.set(0, Some(first.clone()));
        vectors.set(1, Some(second.clone()));
        vectors.raise(0);
        assert!(!first.drain() && vectors.is_pending(0));
        vectors.set_may_write(true);
        assert!(first.drain() && !second.drain() && !vectors.is_pending(0));
        vectors.raise(0);
        assert!(first.drain());
        vectors.set_may_write(false);
        vectors.raise(1);
        vectors.set(1, Some(second.clone()));
        assert!(!second.drain() && vectors.is_pending(1));
    }

    #[test]
    fn a_transport_is_woken_for_what_is_pending_and_a_reset_forgets_it() {
        let vectors = Vectors::new(1);
        let bell = EventFd::new().unwrap();
        vectors.raise(0);
        vectors.wake(0, bell.clone());
        assert!(bell.drain() && vectors.is_pending(0));
        assert!(vectors.take_pending(0));
        vectors.raise(0);
        assert!(bell.drain());
        vectors.forget_pending();
        assert!(!vectors.take_pending(0));
    }

    #[test]
    fn an_interrupt_of_a_masked_vector_comes_when_it_is_unmasked() {
        let vectors = Vectors::new(2);
        vectors.set_may_write(true);
        let (first, second) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        vectors.set(0, Some(first.clone()));
        vectors.raise(0);
        assert!(first.drain() && !vectors.is_pending(0));
        vectors.raise(1);
        assert!(vectors.is_pending(1));
        vectors.set(1, Some(second.clone()));
        assert!(second.drain() && !vectors.is_pending(1));
        vectors.set(1, None);
        vectors.raise(1);
        assert!(vectors.take_pending(1) && !vectors.take_pending(1));
        vectors.set(1, Some(second.clone()));
        assert!(!second.drain(), "it was taken");
        vectors.set(0, None);
        vectors.raise(0);
        vectors.clear();
        vectors.set(0, Some(first.clone()));
        assert!(!first.drain(), "MSI-X was off in between");
        assert_eq!(vectors.raised(), 4);
        // There is no such vector.
        vectors.raise(2);
        vectors.set(2, Some(first));
        assert!(!vectors.is_pending(2));
    }
}
