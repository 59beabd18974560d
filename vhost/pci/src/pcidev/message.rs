//! What User-Mode Linux and a PCI device say to each other (`include/uapi/linux/virtio_pcidev.h`): accesses of the kernel, and interrupts
//! of the device. Reads and writes bytes; obeys nothing.

/// Bytes in front of the data of a message.
pub(super) const HEAD: usize = 16;
/// Longest message that is read: the kernel writes no more than a page at a time.
pub(super) const MAX_LEN: usize = HEAD + 4096;

const CFG_READ: u8 = 1;
const CFG_WRITE: u8 = 2;
const MMIO_READ: u8 = 3;
const MMIO_WRITE: u8 = 4;
const MMIO_MEMSET: u8 = 5;
const MSI: u8 = 7;

/// What is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// Configuration space.
    Config,
    /// A base address register.
    Bar(u8),
}

/// What the kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access<'a> {
    /// Reads so many bytes, and waits for them.
    Read(usize),
    /// Writes these.
    Write(&'a [u8]),
    /// Writes the same byte so often.
    Fill(u8, usize),
}

/// An access of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Command<'a> {
    pub(super) space: Space,
    pub(super) offset: u64,
    pub(super) access: Access<'a>,
}

impl Command<'_> {
    /// What a message says; `None` if it is none that the kernel sends.
    pub(super) fn parse(message: &[u8]) -> Option<Command<'_>> {
        let (head, data) = message.split_first_chunk::<HEAD>()?;
        let &[op, bar, _, _, s0, s1, s2, s3, offset @ ..] = head;
        let size = usize::try_from(u32::from_le_bytes([s0, s1, s2, s3])).ok()?;
        let within = size <= MAX_LEN - HEAD;
        let written = || data.get(..size).map(Access::Write);
        let (space, access) = match op {
            CFG_READ if within => (Space::Config, Access::Read(size)),
            CFG_WRITE => (Space::Config, written()?),
            MMIO_READ if within => (Space::Bar(bar), Access::Read(size)),
            MMIO_WRITE => (Space::Bar(bar), written()?),
            MMIO_MEMSET if within => (Space::Bar(bar), Access::Fill(*data.first()?, size)),
            _ => return None,
        };
        Some(Command {
            space,
            offset: u64::from_le_bytes(offset),
            access,
        })
    }
}

/// An interrupt by message: what the driver has put into the MSI-X table, as if the device wrote it there.
pub(super) fn msi(address: u64, data: u32) -> [u8; HEAD + 4] {
    let mut message = [0; HEAD + 4];
    message[0] = MSI;
    message[4..8].copy_from_slice(&4_u32.to_le_bytes());
    message[8..16].copy_from_slice(&address.to_le_bytes());
    message[16..].copy_from_slice(&data.to_le_bytes());
    message
}

/// An access as registers take it: pieces of 1, 2, 4 or 8 bytes, each at a multiple of its length. Answers the length of the first.
pub(super) fn piece(offset: u64, len: usize) -> usize {
    [8, 4, 2]
        .into_iter()
        .find(|&n| len >= n && offset.is_multiple_of(n as u64))
        .unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_kernel_sends_is_read() {
        let message = |op, bar, size: u32, at: u64, data: &[u8]| {
            let head = [&[op, bar, 0, 0][..], &size.to_le_bytes(), &at.to_le_bytes()].concat();
            [&head, data].concat()
        };
        let parse = |message: &[u8]| Command::parse(message).map(|c| format!("{c:?}"));
        let is = |space, offset, access| {
            Some(format!(
                "{:?}",
                Command {
                    space,
                    offset,
                    access
                }
            ))
        };
        let read = message(CFG_READ, 0, 4, 0x10, &[]);
        assert_eq!(parse(&read), is(Space::Config, 0x10, Access::Read(4)));
        let write = message(MMIO_WRITE, 2, 4, 0xa18, &[1, 2, 3, 4]);
        let data = Access::Write(&[1, 2, 3, 4]);
        assert_eq!(parse(&write), is(Space::Bar(2), 0xa18, data));
        let fill = message(MMIO_MEMSET, 0, 4096, 0, &[7]);
        assert_eq!(parse(&fill), is(Space::Bar(0), 0, Access::Fill(7, 4096)));
        // Less data than it says, more than is asked for at a time, and what the kernel does not send.
        assert_eq!(parse(&message(MMIO_WRITE, 0, 5, 0, &[1, 2, 3, 4])), None);
        assert_eq!(parse(&message(MMIO_READ, 0, 4097, 0, &[])), None);
        assert_eq!(parse(&message(MMIO_MEMSET, 0, 4, 0, &[])), None);
        assert_eq!(parse(&message(MSI, 0, 4, 0, &[1, 2, 3, 4])), None);
        assert_eq!(parse(&read[..15]), None);
    }

    proptest! {
        #[test]
        fn pieces_are_aligned_and_no_longer_than_what_is_left(offset in any::<u64>(), len in 1..5000_usize) {
            let n = piece(offset, len);
            prop_assert!(n <= len && offset.is_multiple_of(n as u64) && [1, 2, 4, 8].contains(&n));
        }

        #[test]
        fn any_bytes_are_a_command_or_none(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(Command { access: Access::Read(n) | Access::Fill(_, n), .. }) = Command::parse(&bytes) {
                prop_assert!(n <= MAX_LEN - HEAD);
            }
        }
    }
}
