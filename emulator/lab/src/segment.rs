//! The TCP segment in a frame that the laboratory is shown, from its first bytes. Never believes a length that the frame does
//! not bear out.

use smoltcp::wire::TcpPacket;
use vf_nic::watch::Seen;
use vf_packet::{FlowKey, Header, TcpLayout, be16};

/// A TCP segment, or a super-frame of them.
pub(crate) struct Segment<'a> {
    /// Whose it is; it has ports.
    pub(crate) flow: FlowKey,
    /// Its TCP header.
    pub(crate) tcp: TcpPacket<&'a [u8]>,
    /// Bytes of payload, without what pads a short frame.
    pub(crate) len: usize,
    /// Segments that a wire carries that payload in, of a super-frame as many as it is cut into.
    pub(crate) count: u64,
}

impl<'a> Segment<'a> {
    /// The segment in this frame. A frame that ends before its packet does has none, for its receiver drops it.
    pub(crate) fn of(seen: &Seen<'a>) -> Option<Segment<'a>> {
        let head = seen.frame;
        let flow = Header::parse(head).ok()?.flow(head)?;
        let layout = TcpLayout::parse(head).ok()?;
        let end = match layout.v6 {
            false => usize::from(be16(head, layout.ip + 2)?),
            true => 40 + usize::from(be16(head, layout.ip + 4)?),
        } + layout.ip;
        let len = end.checked_sub(layout.payload)?;
        let size = seen.gso.map_or(len, |gso| usize::from(gso.size)).max(1);
        (end <= seen.len).then_some(Segment {
            flow,
            tcp: TcpPacket::new_checked(head.get(layout.tcp..)?).ok()?,
            len,
            count: len.div_ceil(size) as u64,
        })
    }
}
