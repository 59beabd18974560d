//! Notes of the frames that pass the ports of a plane, for those who watch it: never on the wall clock, and next to free
//! while nobody watches.

use vf_model::{Gso, Nanos};
use vf_vhost::frame::{FrameBuf, TagEdit};
use xxhash_rust::xxh3::xxh3_64;

use super::port::meta;
use crate::watch::{Detail, Direction, Port, Seen};

/// See the module.
#[derive(Default)]
pub struct Mirror {
    on: Option<Detail>,
    passed: Vec<Passed>,
    /// What is kept of their frames, one behind the other.
    bytes: Vec<u8>,
    edited: FrameBuf,
}

struct Passed {
    port: Port,
    direction: Direction,
    gso: Option<Gso>,
    len: usize,
    xxh3: u64,
    kept: usize,
}

impl Mirror {
    /// Keeps at least this much of each frame from now on, until it is [taken](Mirror::take).
    pub fn start(&mut self, detail: Detail) {
        self.on = self.on.max(Some(detail));
    }

    /// Whether anybody watches.
    pub(super) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// A frame passes, with this change on its way.
    pub(super) fn add(
        &mut self,
        port: Port,
        direction: Direction,
        frame: &FrameBuf,
        edit: TagEdit,
    ) {
        let Some(detail) = self.on else {
            return;
        };
        let frame = if edit == TagEdit::Keep {
            frame
        } else {
            self.edited.clone_from(frame);
            self.edited.edit(edit);
            &self.edited
        };
        let kept = match detail {
            Detail::Head => frame.head(),
            Detail::Whole => &frame.data,
        };
        self.bytes.extend_from_slice(kept);
        self.passed.push(Passed {
            port,
            direction,
            gso: meta(frame.len(), &frame.offload).gso,
            len: frame.data.len(),
            xxh3: xxh3_64(&frame.data),
            kept: kept.len(),
        });
    }

    /// Shows all that has passed `host` since the last time, in order; that was `at`.
    pub fn take(&mut self, at: Nanos, host: usize, mut show: impl FnMut(&Seen<'_>)) {
        let mut bytes = &self.bytes[..];
        for passed in self.passed.drain(..) {
            let (frame, rest) = bytes.split_at(passed.kept);
            show(&Seen {
                at,
                host,
                port: passed.port,
                direction: passed.direction,
                frame,
                len: passed.len,
                xxh3: passed.xxh3,
                gso: passed.gso,
            });
            bytes = rest;
        }
        self.bytes.clear();
    }
}
