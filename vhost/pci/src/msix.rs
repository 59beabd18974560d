//! MSI-X vectors as a data-plane thread may raise them, whatever carries them to the guest. Knows no table of addresses: that is
//! the transport's, or the hypervisor's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vf_vhost::eventfd::EventFd;

/// The vectors of a function. Threads raise them; one, the transport's, says where they lead.
#[derive(Debug, Default)]
pub struct Vectors(Box<[Vector]>);

#[derive(Debug, Default)]
struct Vector {
    /// Where it leads, unless it is masked. Held for a moment by whoever raises it.
    to: Mutex<Option<EventFd>>,
    /// It was raised, and led nowhere.
    pending: AtomicBool,
    raised: AtomicU64,
}

impl Vector {
    fn lock(&self) -> MutexGuard<'_, Option<EventFd>> {
        self.to.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Vectors {
    /// So many vectors, all of them masked.
    #[must_use]
    pub fn new(vectors: u16) -> Vectors {
        let all = std::iter::repeat_with(Vector::default);
        Vectors(all.take(vectors.into()).collect())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Interrupts the guest; a masked vector is pending from now on. Nothing if there is no such vector.
    pub fn raise(&self, vector: u16) {
        let Some(vector) = self.0.get(usize::from(vector)) else {
            return;
        };
        vector.raised.fetch_add(1, Ordering::Relaxed);
        match &*vector.lock() {
            Some(to) => to.signal(),
            // Under the lock, so that whoever unmasks it sees it.
            None => vector.pending.store(true, Ordering::Relaxed),
        }
    }

    /// Has a vector lead there from now on, or masks it. One that is pending is raised when it is unmasked (PCIe 6.1.4.5).
    pub fn set(&self, vector: u16, to: Option<EventFd>) {
        let Some(vector) = self.0.get(usize::from(vector)) else {
            return;
        };
        let mut place = vector.lock();
        if let Some(to) = &to
            && vector.pending.swap(false, Ordering::Relaxed)
        {
            to.signal();
        }
        *place = to;
    }

    /// Masks all of them and forgets what is pending: MSI-X is off.
    pub fn clear(&self) {
        for vector in &self.0 {
            let mut place = vector.lock();
            *place = None;
            vector.pending.store(false, Ordering::Relaxed);
        }
    }

    /// Forgets what is pending: the function was reset.
    pub fn forget_pending(&self) {
        for vector in &self.0 {
            vector.pending.store(false, Ordering::Relaxed);
        }
    }

    /// Whether a vector was raised while it was masked: its bit in the pending bit array.
    #[must_use]
    pub fn is_pending(&self, vector: u16) -> bool {
        let vector = self.0.get(usize::from(vector));
        vector.is_some_and(|vector| vector.pending.load(Ordering::Relaxed))
    }

    /// The same, and it is no longer: for a transport that carries interrupts itself.
    pub fn take_pending(&self, vector: u16) -> bool {
        let vector = self.0.get(usize::from(vector));
        vector.is_some_and(|vector| vector.pending.swap(false, Ordering::Relaxed))
    }

    /// How often vectors were raised, all together.
    #[must_use]
    pub fn raised(&self) -> u64 {
        let raised = self.0.iter().map(|v| v.raised.load(Ordering::Relaxed));
        raised.fold(0, u64::wrapping_add)
    }

    /// Whether one was made to block whoever raised it: the session is to end.
    #[must_use]
    pub fn blocks(&self) -> bool {
        let blocks = |vector: &Vector| vector.lock().as_ref().is_some_and(EventFd::blocks);
        self.0.iter().any(blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_of_a_masked_vector_comes_when_it_is_unmasked() {
        let vectors = Vectors::new(2);
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
