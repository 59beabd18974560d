//! Two TCP guests back to back in one process, on a virtual clock: no back end, no socket, no thread.
//!
//! What they send is the same in every run. Panics, as [`loopback`](crate::loopback) does, when a guest breaks its rings.

#![allow(
    clippy::unwrap_used,
    reason = "a guest that breaks its own ring has to end the test"
)]

use std::collections::VecDeque;

use crate::loopback::DevicePair;
use crate::tcp::TcpGuest;

/// Sees each frame that is sent, virtio-net header in front, and the side it comes from; drops it by answering false.
pub type Tap<'a> = &'a mut dyn FnMut(usize, &mut Vec<u8>) -> bool;

/// Two guests, back to back, with `ns_per_byte` of serialisation and 1 us of propagation.
#[derive(Debug)]
pub struct Cable {
    /// The guest at each end.
    pub guests: [TcpGuest; 2],
    /// The device's end of each guest's rings.
    pub ports: [DevicePair; 2],
    /// The time in nanoseconds.
    pub now: u64,
    ns_per_byte: f64,
    free_at: [u64; 2],
    flight: [VecDeque<(u64, Vec<u8>)>; 2],
    next: [Option<u64>; 2],
    /// Wall time spent in [`TcpGuest::poll`].
    pub spent: std::time::Duration,
}

impl Cable {
    /// Joins two guests whose devices have no back end ([`NetDevice::detached`](crate::net::NetDevice::detached)).
    pub fn new(mut guests: [TcpGuest; 2], ns_per_byte: f64) -> Cable {
        let ports = [0, 1].map(|i: usize| DevicePair::new(guests[i].net()));
        Cable {
            guests,
            ports,
            now: 0,
            ns_per_byte,
            free_at: [0; 2],
            flight: [VecDeque::new(), VecDeque::new()],
            next: [Some(0); 2],
            spent: std::time::Duration::ZERO,
        }
    }

    /// Runs until `end`, in nanoseconds, or until nothing can happen any more.
    pub fn run(&mut self, end: u64, tap: Tap) {
        while self.now < end {
            for side in 0..2 {
                let other = 1 - side;
                while self.flight[side].front().is_some_and(|f| f.0 <= self.now) {
                    let (_, frame) = self.flight[side].pop_front().unwrap();
                    assert!(self.ports[other].give(&frame), "no receive buffer");
                    if self.ports[other].rx.wants_call() {
                        self.next[other] = Some(self.now);
                    }
                }
                if self.next[side].is_some_and(|next| next <= self.now) {
                    let start = std::time::Instant::now();
                    self.next[side] = self.guests[side].poll(self.now).next;
                    self.spent += start.elapsed();
                    assert_eq!(self.guests[side].fault(), None);
                }
                if self.free_at[side] <= self.now
                    && let Some(mut frame) = self.ports[side].take()
                {
                    let time = ((frame.len() + 12) as f64 * self.ns_per_byte) as u64;
                    self.free_at[side] = self.now + time;
                    if tap(side, &mut frame) {
                        self.flight[side].push_back((self.free_at[side] + 1000, frame));
                    }
                    if self.ports[side].tx.wants_call() {
                        self.next[side] = Some(self.now);
                    }
                }
            }
            let pending = [0, 1].map(|i: usize| {
                (self.ports[i].tx.waiting() > 0).then_some(self.free_at[i].max(self.now))
            });
            let arrivals = [0, 1].map(|i: usize| self.flight[i].front().map(|f| f.0));
            let events = [self.next, pending, arrivals].concat();
            match events.into_iter().flatten().min() {
                Some(next) => self.now = next.max(self.now),
                None => return,
            }
        }
    }
}
