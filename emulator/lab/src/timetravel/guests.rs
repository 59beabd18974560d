//! The guests on the calendar's socket: bytes and states. Decides nothing about time.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg,
};

use super::message::{LEN, Message, Op};

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has connected and said nothing.
    Silent,
    /// It waits for the answer to this START.
    Starting {
        /// Its sequence number.
        seq: u32,
    },
    /// It runs, alone.
    Running,
    /// It has stopped until it is told to run.
    Waiting,
    /// It has ended.
    Gone,
}

/// A guest.
#[derive(Debug)]
pub(super) struct LinuxGuest {
    stream: UnixStream,
    /// The message so far.
    bytes: Vec<u8>,
    /// The ID it has given.
    pub(super) name: u64,
    /// What it does.
    pub(super) state: State,
    seq: u32,
    /// Messages of ours that it has not acknowledged.
    pub(super) unanswered: u32,
    /// How far it was told by message that it may go. It forgets that when it stops.
    pub(super) free_until: Option<u64>,
}

/// What came from a guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromGuest {
    /// Half a message, or nothing.
    Nothing,
    /// A message.
    Message(Message),
    /// It has hung up.
    End,
    /// What is no message.
    Garbage,
}

impl LinuxGuest {
    /// The guest that has connected.
    pub(super) fn new(stream: UnixStream) -> LinuxGuest {
        LinuxGuest {
            stream,
            bytes: Vec::new(),
            name: 0,
            state: State::Silent,
            seq: 0,
            unanswered: 0,
            free_until: None,
        }
    }

    /// What has come, at most one message.
    pub(super) fn hear(&mut self) -> FromGuest {
        let mut bytes = [0; LEN];
        let (room, _) = bytes.split_at_mut(LEN - self.bytes.len());
        match recv(&self.stream, &mut *room, RecvFlags::DONTWAIT) {
            Ok((_, got)) if got > 0 => self.bytes.extend(room.iter().take(got)),
            Err(Errno::AGAIN | Errno::INTR) => return FromGuest::Nothing,
            Ok(_) | Err(_) if self.bytes.is_empty() => return FromGuest::End,
            Ok(_) | Err(_) => return FromGuest::Garbage,
        }
        let Some(whole) = self.bytes.first_chunk() else {
            return FromGuest::Nothing;
        };
        let message = Message::parse(*whole);
        self.bytes.clear();
        message.map_or(FromGuest::Garbage, FromGuest::Message)
    }

    /// Answers a message. A guest that is gone is found out when it is heard.
    pub(super) fn answer(&self, seq: u32, time: u64) {
        let answer = Message {
            op: Op::Ack,
            seq,
            time,
        };
        self.send(answer);
    }

    /// Answers START: the guest runs from now on. Both descriptors are always sent, for it looks at them unseen.
    pub(super) fn admit(&self, seq: u32, id: u16, schedule: BorrowedFd<'_>, log: BorrowedFd<'_>) {
        let answer = Message {
            op: Op::Ack,
            seq,
            time: id.into(),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [schedule, log];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let bytes = answer.to_bytes();
        let bytes = [IoSlice::new(&bytes)];
        // As for `answer`.
        let _ = sendmsg(&self.stream, &bytes, &mut control, SendFlags::NOSIGNAL);
    }

    /// Whether it has come and given this ID.
    pub(super) fn has_started(&self, id: u64) -> bool {
        self.state != State::Silent && self.name == id
    }

    /// Ends the connection; the guest can do nothing but end, too.
    pub(super) fn hang_up(&self) {
        // Fails if the guest has hung up first.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Tells the guest that it runs from `time` on; `false` if it has died.
    pub(super) fn run(&mut self, time: u64) -> bool {
        self.tell(Op::Run, time)
    }

    /// Tells the guest, to be acknowledged, that it may go on by itself until just before `limit`, if it does not know of
    /// one as early; whether it was told.
    pub(super) fn limit(&mut self, limit: u64) -> bool {
        let news = self.free_until.is_none_or(|known| limit < known);
        if news {
            self.free_until = Some(limit);
            self.unanswered += 1;
            // As for `answer`.
            let _ = self.tell(Op::FreeUntil, limit);
        }
        news
    }

    fn tell(&mut self, op: Op, time: u64) -> bool {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        self.send(Message { op, seq, time })
    }

    fn send(&self, message: Message) -> bool {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(&self.stream, &message.to_bytes(), flags).is_ok()
    }
}

impl AsFd for LinuxGuest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
