//! The messages of User-Mode Linux's external time travel (linux/um_timetravel.h): 16 bytes each, in the byte order of
//! the host. Bytes in, values out; no state, no I/O.

use vf_model::Nanos;

/// Bytes of a message.
pub(super) const LEN: usize = 16;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// The answer to the message with the same sequence number.
    Ack,
    /// A guest has come; the time is its ID.
    Start,
    /// "Run me at".
    Request,
    /// The guest has stopped.
    Wait,
    /// "What time is it?"
    Get,
    /// "My time is".
    Update,
    /// The calendar's: run, it is.
    Run,
    /// The calendar's: until just before then the guest need not ask.
    FreeUntil,
    /// "What is the time of day?"
    GetTimeOfDay,
    /// A word from a guest to all.
    Broadcast,
}

impl Op {
    const ALL: [(u32, Op); 10] = [
        (0, Op::Ack),
        (1, Op::Start),
        (2, Op::Request),
        (3, Op::Wait),
        (4, Op::Get),
        (5, Op::Update),
        (6, Op::Run),
        (7, Op::FreeUntil),
        (8, Op::GetTimeOfDay),
        (9, Op::Broadcast),
    ];
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// What it is about.
    pub(super) op: Op,
    /// Chosen by the sender, returned in the answer.
    pub(super) seq: u32,
    /// Mostly a time.
    pub(super) time: u64,
}

impl Message {
    /// `None` if it is about nothing that is known.
    pub(super) fn parse(bytes: [u8; LEN]) -> Option<Message> {
        let [o0, o1, o2, o3, s0, s1, s2, s3, time @ ..] = bytes;
        let code = u32::from_ne_bytes([o0, o1, o2, o3]);
        let (_, op) = Op::ALL.into_iter().find(|(known, _)| *known == code)?;
        Some(Message {
            op,
            seq: u32::from_ne_bytes([s0, s1, s2, s3]),
            time: u64::from_ne_bytes(time),
        })
    }

    pub(super) fn to_bytes(self) -> [u8; LEN] {
        let code = Op::ALL.into_iter().find(|(_, op)| *op == self.op);
        let mut bytes = [0; LEN];
        let (head, time) = bytes.split_at_mut(8);
        let (op, seq) = head.split_at_mut(4);
        op.copy_from_slice(&code.map_or(0, |(code, _)| code).to_ne_bytes());
        seq.copy_from_slice(&self.seq.to_ne_bytes());
        time.copy_from_slice(&self.time.to_ne_bytes());
        bytes
    }
}

/// A time as guests can bear it: Linux' is signed.
pub(super) fn clamp_to_i64(time: Nanos) -> u64 {
    time.0.min(i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_they_were() {
        for (code, op) in Op::ALL {
            let message = Message {
                op,
                seq: 0x0102_0304,
                time: 0x0506_0708_090a_0b0c,
            };
            let bytes = message.to_bytes();
            assert_eq!(bytes[..4], code.to_ne_bytes());
            assert_eq!(bytes[8..], message.time.to_ne_bytes());
            assert_eq!(Message::parse(bytes), Some(message));
        }
        assert_eq!(Message::parse([7; LEN]), None);
    }
}
