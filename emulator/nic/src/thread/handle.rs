//! Who owns a plane: a thread that polls it, or the virtual clock. Whoever else needs it borrows it whole; ownership
//! moves to the borrower and back, so that nothing is ever shared or locked on the data path.

use std::cell::{RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use vf_model::{FastEvent, Nanos, VfIndex};
use vf_vhost::error::RingError;

use super::load::LiveLoad;
use crate::queue::Doorbell;

/// What a thread or the virtual clock needs of a plane.
pub trait Plane: Send + 'static {
    /// One round of work; the number of frames moved.
    fn poll(&mut self, now: Nanos) -> usize;
    /// When there is work again if nobody hands over any.
    fn next(&mut self, now: Nanos) -> Option<Nanos>;
    /// Asks for kicks before a sleep; true if there is work after all.
    fn arm(&mut self, now: Nanos) -> bool;
    /// Says that kicks are not needed.
    fn disarm(&mut self);
    /// Waits for kicks through `registry` from now on.
    fn connect(&mut self, registry: mio::Registry);
    /// What the control thread is to hear since the last call.
    fn take_news(&mut self) -> Vec<News>;
    /// What its thread has done, for the thread to count.
    fn load(&self) -> &LiveLoad;
}

/// Something a plane tells the control thread.
#[derive(Debug)]
pub enum News {
    /// A ring is of no more use.
    Broken(RingBroken),
    /// Path `auto` could learn from this. If it is lost on the way, a later frame will do as well.
    Fast(FastEvent),
}

impl News {
    pub(crate) fn of(broken: Vec<RingBroken>, events: Vec<FastEvent>) -> Vec<News> {
        let broken = broken.into_iter().map(News::Broken);
        broken.chain(events.into_iter().map(News::Fast)).collect()
    }
}

/// A ring that its driver has broken.
#[derive(Debug)]
pub struct RingBroken {
    /// Whose ring.
    pub vf: VfIndex,
    /// Which ring of the VF.
    pub ring: u32,
    /// What its driver did.
    pub why: RingError,
}

/// A plane, wherever it lives.
pub enum PlaneHandle<P> {
    /// Polled by a [thread](super::DataThread), perhaps with others.
    Thread(ThreadOwner<P>),
    /// Stepped by the virtual clock, on the thread that also controls it.
    Local(RefCell<P>),
}

/// A handle on a plane of a thread. The thread ends with the last of them.
pub struct ThreadOwner<P> {
    thread: Arc<ThreadHandle<P>>,
    /// Which of the thread's planes it is.
    plane: usize,
}

/// A handle on a thread that polls planes.
pub(super) struct ThreadHandle<P> {
    requests: Sender<Request<P>>,
    bell: Doorbell,
    thread: Option<JoinHandle<()>>,
}

/// What a thread is asked for.
pub(super) enum Request<P> {
    /// Lend the plane of this index.
    Lend(usize, Lent<P>),
    /// Here it is again.
    Return(usize, Box<P>),
    /// Do this to the plane of this index.
    Do(usize, Job<P>),
    /// End; the owners are gone.
    Stop,
}

/// What is done to a plane between two of its rounds, by its own thread.
pub(super) type Job<P> = Box<dyn FnOnce(&mut P) + Send>;

/// Where a plane goes that is lent.
pub(super) struct Lent<P>(Sender<Box<P>>);

impl<P> Lent<P> {
    /// Lends the plane, or gives it back if the borrower has gone.
    pub(super) fn lend(self, plane: Box<P>) -> Result<(), Box<P>> {
        self.0.send(plane).map_err(|unwanted| unwanted.0)
    }
}

/// A borrowed plane; it goes back to its owner when this is dropped.
pub enum PlaneGuard<'a, P> {
    /// From a thread, which polls its other planes meanwhile.
    Thread {
        /// The plane, until it goes back.
        plane: Option<Box<P>>,
        /// Where it goes back.
        owner: &'a ThreadOwner<P>,
    },
    /// From the virtual clock.
    Local(RefMut<'a, P>),
}

impl<P> ThreadHandle<P> {
    pub(super) fn new(
        requests: Sender<Request<P>>,
        bell: Doorbell,
        thread: JoinHandle<()>,
    ) -> Arc<ThreadHandle<P>> {
        Arc::new(ThreadHandle {
            requests,
            bell,
            thread: Some(thread),
        })
    }

    /// A handle on its plane of this index.
    pub(super) fn owner(self: &Arc<Self>, plane: usize) -> PlaneHandle<P> {
        PlaneHandle::Thread(ThreadOwner {
            thread: Arc::clone(self),
            plane,
        })
    }

    fn ask(&self, request: Request<P>) {
        // A thread that has ended, of a panic, hears nothing.
        let _ = self.requests.send(request);
        self.bell.ring();
    }
}

impl<P> PlaneHandle<P> {
    /// Borrows the plane. Its thread, if it has one, finishes the round it is in and goes on with its other planes.
    ///
    /// # Panics
    /// If the plane's thread has died, which is a bug of ours, or if the plane is borrowed already by the caller.
    #[must_use]
    pub fn borrow(&self) -> PlaneGuard<'_, P> {
        match self {
            PlaneHandle::Local(cell) => PlaneGuard::Local(cell.borrow_mut()),
            PlaneHandle::Thread(owner) => {
                let (to, plane) = bounded(1);
                owner.thread.ask(Request::Lend(owner.plane, Lent(to)));
                let plane = plane.recv().ok();
                PlaneGuard::Thread {
                    plane: Some(plane.expect("a plane's thread ends only with its owner")),
                    owner,
                }
            }
        }
    }
}

impl<P: 'static> PlaneHandle<P> {
    /// Has the plane's thread do this to it between two rounds, and waits for what comes of it. The plane itself waits for
    /// nobody, however late the caller gets to run.
    ///
    /// # Panics
    /// As [`PlaneHandle::borrow`].
    pub fn call<R: Send + 'static>(&self, job: impl FnOnce(&mut P) -> R + Send + 'static) -> R {
        match self {
            PlaneHandle::Local(cell) => job(&mut cell.borrow_mut()),
            PlaneHandle::Thread(owner) => {
                let (to, result) = bounded(1);
                // Whoever asked waits for it.
                let job = move |plane: &mut P| drop(to.send(job(plane)));
                owner.thread.ask(Request::Do(owner.plane, Box::new(job)));
                let result = result.recv();
                result.expect("a plane's thread ends only with its owner")
            }
        }
    }

    /// The same without waiting. It is done before anything that is asked for later.
    pub fn post(&self, job: impl FnOnce(&mut P) + Send + 'static) {
        match self {
            PlaneHandle::Local(cell) => job(&mut cell.borrow_mut()),
            PlaneHandle::Thread(owner) => {
                owner.thread.ask(Request::Do(owner.plane, Box::new(job)));
            }
        }
    }
}

impl<P> PlaneHandle<P> {
    /// Has the plane look at everything soon, should it sleep.
    pub fn wake(&self) {
        if let PlaneHandle::Thread(owner) = self {
            owner.thread.bell.ring();
        }
    }
}

impl<P> Drop for ThreadHandle<P> {
    fn drop(&mut self) {
        self.ask(Request::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<P> Deref for PlaneGuard<'_, P> {
    type Target = P;
    fn deref(&self) -> &P {
        match self {
            PlaneGuard::Thread { plane, .. } => plane.as_ref().expect("taken only in drop"),
            PlaneGuard::Local(plane) => plane,
        }
    }
}

impl<P> DerefMut for PlaneGuard<'_, P> {
    fn deref_mut(&mut self) -> &mut P {
        match self {
            PlaneGuard::Thread { plane, .. } => plane.as_mut().expect("taken only in drop"),
            PlaneGuard::Local(plane) => plane,
        }
    }
}

impl<P> Drop for PlaneGuard<'_, P> {
    fn drop(&mut self) {
        if let PlaneGuard::Thread { plane, owner } = self
            && let Some(plane) = plane.take()
        {
            owner.thread.ask(Request::Return(owner.plane, plane));
        }
    }
}
