//! MCDI as bytes: how a driver's request to the controller of an EF10 NIC (the MC) looks in the driver's memory, and how the answer does
//! that takes its place. Knows no command and reads no memory.

use super::command::Command;

/// Most bytes of a payload, of a request or an answer.
pub(crate) const MAX_PAYLOAD: usize = 1020;
/// Bytes of the longest message, header and payload.
pub(crate) const MAX_MESSAGE: usize = 8 + MAX_PAYLOAD;
/// A request lies at a multiple of this: the bits below are for something else than its address.
pub(crate) const ALIGNMENT: u64 = 256;

/// The code in the first word that says that the command is in the second: version 2, for longer payloads and more commands.
const V2: u32 = 0x7f;
/// First word: the message is whole.
const RESYNC: u32 = 1 << 7;
/// First word: the sequence number, which an answer repeats.
const SEQUENCE: u32 = 0xf << 16;
/// First word: the request failed.
const ERROR: u32 = 1 << 22;
/// First word: this is an answer.
const RESPONSE: u32 = 1 << 23;
/// First word: an event is wanted when the answer is there.
const WANTS_EVENT: u32 = 1 << 24;
/// Most bytes that a message of version 1 says it has.
const MAX_V1: usize = 0xff;

/// What the first two words of a request say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// What is asked for.
    pub(crate) command: Command,
    /// Bytes of its payload, whether so many are allowed or not.
    pub(crate) len: usize,
    first: u32,
}

/// Why a request fails, by the number that its driver reads: those of Linux's errno, and others from 0x1000 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct McError(u32);

impl McError {
    pub(crate) const EPERM: McError = McError(1);
    pub(crate) const ENOENT: McError = McError(2);
    pub(crate) const EEXIST: McError = McError(6);
    pub(crate) const EAGAIN: McError = McError(11);
    pub(crate) const EINVAL: McError = McError(22);
    pub(crate) const ENOSPC: McError = McError(28);
    pub(crate) const ENOSYS: McError = McError(38);
    pub(crate) const ENOTSUP: McError = McError(95);
    pub(crate) const EALREADY: McError = McError(114);
    /// The function has no port of this number.
    pub(crate) const NO_EVB_PORT: McError = McError(0x1002);
    /// The interfaces have queues.
    pub(crate) const VIS_PRESENT: McError = McError(0x101a);
    /// The address cannot be changed under filters that name it.
    pub(crate) const FILTERS_PRESENT: McError = McError(0x1014);

    /// The number.
    pub(crate) fn code(self) -> u32 {
        self.0
    }
}

impl Request {
    /// Reads the first two words.
    pub(crate) fn of_header(words: [u32; 2]) -> Request {
        let [first, second] = words;
        let (command, len) = match first & 0x7f {
            V2 => (second & 0x7fff, second >> 16 & 0x3ff),
            command => (command, first >> 8 & 0xff),
        };
        Request {
            // Of either version it has 15 bits at most.
            command: Command(u16::try_from(command).unwrap_or(u16::MAX)),
            len: len as usize,
            first,
        }
    }

    fn is_v2(&self) -> bool {
        self.first & 0x7f == V2
    }

    /// Bytes in front of the payload.
    pub(crate) fn header_len(&self) -> usize {
        if self.is_v2() { 8 } else { 4 }
    }

    /// Whether the driver wants an event when the answer is there.
    pub(crate) fn wants_event(&self) -> bool {
        self.first & WANTS_EVENT != 0
    }

    /// The sequence number, for the event.
    pub(crate) fn sequence(&self) -> u8 {
        (self.first >> 16 & 0xf) as u8
    }

    /// The answer, from its first word on. Who writes it to memory writes the first word last: then it is there.
    pub(crate) fn answer(&self, result: Result<&[u8], McError>) -> Vec<u8> {
        let error = result.map_or_else(McError::code, |_| 0).to_le_bytes();
        let failed = [error, [0; 4]];
        let (payload, flags) = match result {
            Ok(payload) => (payload, RESPONSE),
            Err(_) => (failed.as_flattened(), RESPONSE | ERROR),
        };
        let most = if self.is_v2() { MAX_PAYLOAD } else { MAX_V1 };
        let payload = payload.get(..most).unwrap_or(payload);
        let len = u32::try_from(payload.len()).unwrap_or(0);
        let first = self.first & SEQUENCE | RESYNC | flags;
        let command = u32::from(self.command.0);
        let mut message = Vec::with_capacity(MAX_MESSAGE);
        if self.is_v2() {
            message.extend_from_slice(&(first | V2).to_le_bytes());
            message.extend_from_slice(&(command | len << 16).to_le_bytes());
        } else {
            message.extend_from_slice(&(first | command | len << 8).to_le_bytes());
        }
        message.extend_from_slice(payload);
        message
    }
}

/// The payload of a request. What it is too short for is not there: EINVAL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload<'a>(pub(crate) &'a [u8]);

impl<'a> Payload<'a> {
    /// So many bytes, in the order of the wire or of nobody.
    pub(crate) fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], McError> {
        let bytes = self.0.get(at..).and_then(<[u8]>::first_chunk);
        bytes.copied().ok_or(McError::EINVAL)
    }

    /// A word.
    pub(crate) fn u32(&self, at: usize) -> Result<u32, McError> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    /// Two words.
    pub(crate) fn u64(&self, at: usize) -> Result<u64, McError> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// The words in pairs, from there on.
    pub(crate) fn u64s(&self, at: usize) -> impl Iterator<Item = u64> + use<'a> {
        let rest = self.0.get(at..).unwrap_or_default();
        rest.chunks_exact(8)
            .filter_map(|pair| Some(u64::from_le_bytes(*pair.first_chunk()?)))
    }
}

/// The payload of an answer: zeros, and what has been put in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply(Vec<u8>);

impl Reply {
    /// So many bytes, all zero.
    pub(crate) fn zeros(len: usize) -> Reply {
        Reply(vec![0; len])
    }

    /// Puts in bytes, as far as there is room.
    pub(crate) fn bytes(mut self, at: usize, bytes: &[u8]) -> Reply {
        let room = self.0.get_mut(at..).unwrap_or_default();
        room.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        self
    }

    /// Puts in a word.
    pub(crate) fn u32(self, at: usize, value: u32) -> Reply {
        self.bytes(at, &value.to_le_bytes())
    }

    /// Puts in half a word.
    pub(crate) fn u16(self, at: usize, value: u16) -> Reply {
        self.bytes(at, &value.to_le_bytes())
    }

    /// What it is.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_repeats_the_sequence_and_says_whether_it_failed() {
        let v2 = Request::of_header([0x2d_00_7f | 5 << 16 | 1 << 24, 0x8a | 108 << 16]);
        assert_eq!((v2.command, v2.len), (Command(0x8a), 108));
        assert!(v2.wants_event() && v2.header_len() == 8);
        let answer = v2.answer(Ok(&[1, 2, 3]));
        assert_eq!(answer[4..8], (0x8a | 3u32 << 16).to_le_bytes());
        assert_eq!(answer[8..], [1, 2, 3]);
        let first = u32::from_le_bytes(answer[..4].try_into().unwrap());
        assert_eq!(
            first,
            0x7f | RESYNC | RESPONSE | u32::from(v2.sequence()) << 16
        );

        let v1 = Request::of_header([0x08 | 4 << 8 | 3 << 16, 0xffff_ffff]);
        assert_eq!((v1.command, v1.len), (Command(8), 4));
        assert!(!v1.wants_event() && v1.header_len() == 4);
        let answer = v1.answer(Err(McError::ENOSYS));
        let first = u32::from_le_bytes(answer[..4].try_into().unwrap());
        assert_eq!(first, 8 | RESYNC | 8 << 8 | 3 << 16 | ERROR | RESPONSE);
        assert_eq!(answer[4..], [38, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn fields_end_with_the_payload() {
        let payload = Payload(&[1, 0, 0, 0, 2]);
        assert_eq!(payload.u32(0), Ok(1));
        assert_eq!(payload.u32(4), Err(McError::EINVAL));
        assert_eq!(payload.u64(0), Err(McError::EINVAL));
        assert_eq!(payload.u32(usize::MAX), Err(McError::EINVAL));
        assert_eq!(payload.u64s(3).count() + payload.u64s(9).count(), 0);
        let reply = Reply::zeros(6).u32(4, u32::MAX).u16(9, 1).u16(0, 0x0102);
        assert_eq!(reply.as_bytes(), [2, 1, 0, 0, 0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn no_header_makes_an_answer_longer_than_its_place(words: [u32; 2], len in 0..2000usize) {
            let request = Request::of_header(words);
            let payload = vec![0; len];
            for result in [Ok(&payload[..]), Err(McError::EPERM)] {
                prop_assert!(request.answer(result).len() <= MAX_MESSAGE);
            }
        }
    }
}
