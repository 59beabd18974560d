//! Frames as a wire has them, for uplinks that leave nothing to others: super-frames are cut, and partial checksums are finished. Sends
//! nothing.

use vf_model::{FrameMeta, OnWire};
use vf_packet::checksum::complete;
use vf_packet::{Offload, PartialChecksum, Segmenter};

use crate::queue::{Frame, Pool};

/// The frames that a super-frame is on the wire, each with what it takes of it; any other frame is itself.
pub(crate) fn segments(frame: Frame, pool: &Pool, mut each: impl FnMut(Frame, Option<OnWire>)) {
    let gso = frame.offload.gso();
    let cutter = gso.and_then(|gso| Segmenter::new(&frame.data, gso.size));
    let Some(mut cutter) = cutter else {
        return each(frame, None);
    };
    while let Some((header, payload)) = cutter.next_segment() {
        let mut segment = pool.take(header.len() + payload.len());
        segment.offload = Offload::default();
        segment.data.clear();
        segment.data.extend_from_slice(header);
        segment.data.extend_from_slice(payload);
        let meta = FrameMeta {
            len: segment.len(),
            gso: None,
        };
        each(segment, Some(OnWire::of(&meta)));
    }
    pool.give(frame);
}

/// Leaves nothing of a frame that is no super-frame for others to do; whether that worked.
pub(crate) fn finish(frame: &mut Frame) -> bool {
    if frame.offload.gso().is_some() {
        return false;
    }
    if let Some(PartialChecksum { start, offset }) = frame.offload.checksum()
        && complete(&mut frame.data, start, offset).is_err()
    {
        return false;
    }
    frame.offload = Offload::default();
    true
}
