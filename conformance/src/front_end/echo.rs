//! A device that sends every frame of its first pair of rings back to its guest. Looks into no frame, and leaves the rings of other pairs
//! alone.

use std::collections::BTreeMap;

use vf_vhost::control::CtrlCommand;
use vf_vhost::endpoint::{Device, SessionEvent};
use vf_vhost::frame::TagEdit;
use vf_vhost::ring::RingError;
use vf_vhost::rx::RxQueue;
use vf_vhost::tx::TxQueue;
use vf_vhost::vring::Vring;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Echo {
    rx: Option<RxQueue>,
    tx: Option<TxQueue>,
    /// Rings of other pairs, which are left alone.
    others: BTreeMap<u32, Vring>,
    /// Frames that the guest has sent.
    pub(super) frames: usize,
    /// What the driver did to its rings.
    pub(super) fault: Option<RingError>,
}

impl Echo {
    /// Moves frames; whether there were any.
    pub(super) fn poll(&mut self) -> bool {
        match self.try_poll() {
            Ok(frames) => frames > 0,
            Err(error) => {
                self.fault = Some(error);
                false
            }
        }
    }

    fn try_poll(&mut self) -> Result<usize, RingError> {
        let (Some(rx), Some(tx)) = (&mut self.rx, &mut self.tx) else {
            return Ok(0);
        };
        let fetched = tx.fetch()?;
        let whole = tx.fetched().iter().filter(|frame| frame.fault().is_none());
        for frame in whole {
            rx.deliver_from(tx, std::slice::from_ref(frame), TagEdit::Keep)?;
            self.frames += 1;
        }
        tx.complete(fetched);
        tx.flush();
        rx.flush();
        Ok(fetched)
    }

    /// Whether the first pair runs and is enabled.
    pub(super) fn runs(&self) -> bool {
        let rx = self.rx.as_ref().map(RxQueue::vring);
        let tx = self.tx.as_ref().map(TxQueue::vring);
        [rx, tx].iter().all(|ring| ring.is_some_and(Vring::enabled))
    }

    /// The rings that run.
    pub(super) fn started(&self) -> Vec<u32> {
        let first = [self.rx.as_ref().map(|_| 0), self.tx.as_ref().map(|_| 1)];
        let first = first.into_iter().flatten();
        first.chain(self.others.keys().copied()).collect()
    }
}

impl Device for Echo {
    fn start_rings(&mut self, rings: Vec<Vring>) {
        for ring in rings {
            match ring.index() {
                0 => self.rx = Some(RxQueue::new(ring)),
                1 => self.tx = Some(TxQueue::new(ring)),
                other => {
                    self.others.insert(other, ring);
                }
            }
        }
    }

    fn stop_rings(&mut self, rings: &[u32]) -> Vec<Option<Vring>> {
        let stop = |ring: &u32| match ring {
            0 => self.rx.take().map(RxQueue::into_vring),
            1 => self.tx.take().map(TxQueue::into_vring),
            other => self.others.remove(other),
        };
        rings.iter().map(stop).collect()
    }

    fn allows(&mut self) -> bool {
        true
    }

    fn command(&mut self, _: &CtrlCommand) -> bool {
        false
    }

    fn session(&mut self, _: SessionEvent<'_>) {}
}
