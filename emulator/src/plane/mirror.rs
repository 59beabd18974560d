//! Copies of the frames that pass the ports of a plane, for those who watch it: never on the wall clock, and next to free
//! while nobody watches.

use vf_model::Gso;
use vf_vhost::frame::{FrameBuf, TagEdit};

use super::port::meta;
use crate::watch::{Direction, Port};

/// See the module.
#[derive(Default)]
pub struct Mirror {
    on: bool,
    passed: Vec<Passed>,
    /// Their frames, one behind the other.
    bytes: Vec<u8>,
    edited: FrameBuf,
}

struct Passed {
    port: Port,
    direction: Direction,
    gso: Option<Gso>,
    len: usize,
}

impl Mirror {
    /// Keeps copies from now on, until they are [taken](Mirror::take).
    pub fn start(&mut self) {
        self.on = true;
    }

    /// Whether anybody watches.
    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// A frame passes, with this change on its way.
    pub(super) fn add(
        &mut self,
        port: Port,
        direction: Direction,
        frame: &FrameBuf,
        edit: TagEdit,
    ) {
        if !self.on {
            return;
        }
        let frame = if edit == TagEdit::Keep {
            frame
        } else {
            self.edited.clone_from(frame);
            self.edited.edit(edit);
            &self.edited
        };
        self.bytes.extend_from_slice(&frame.data);
        self.passed.push(Passed {
            port,
            direction,
            gso: meta(frame.len(), &frame.hdr).gso,
            len: frame.data.len(),
        });
    }

    /// Hands over all that has passed since the last time, in order.
    pub fn take(&mut self, mut show: impl FnMut(Port, Direction, &[u8], Option<Gso>)) {
        let mut bytes = &self.bytes[..];
        for passed in self.passed.drain(..) {
            let (frame, rest) = bytes.split_at(passed.len);
            show(passed.port, passed.direction, frame, passed.gso);
            bytes = rest;
        }
        self.bytes.clear();
    }
}
