//! The Internet checksum (RFC 1071) over private bytes: partial sums, and the completion of a
//! checksum that a sender left to the device (virtio 5.1.9.2.2, `VIRTIO_NET_HDR_F_NEEDS_CSUM`).
//!
//! Never touches guest memory and never looks at what protocol the bytes are.

/// The two bytes of a checksum do not lie inside the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("checksum field outside the frame")]
pub struct FieldOutside;

/// A ones'-complement sum in progress; 16-bit words in the byte order of the machine, so that
/// summing needs no swaps. Any number of even-length pieces may be added, then one of odd length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds the bytes; an odd last byte counts as the high half of a word, as RFC 1071 has it.
    #[inline]
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Sum {
        // 32-bit words into a u64: the compiler makes vector adds of it, and only after 2^32 words
        // could it overflow.
        let mut words = bytes.chunks_exact(4);
        let mut acc = 0u64;
        for w in &mut words {
            acc += u64::from(u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
        }
        let mut tail = [0u8; 4];
        let rest = words.remainder();
        tail[..rest.len()].copy_from_slice(rest);
        acc += u64::from(u32::from_ne_bytes(tail));
        self.0 = fold_u64(self.0) + fold_u64(acc);
        self
    }

    /// Adds one 16-bit number in host order.
    #[inline]
    #[must_use]
    pub fn with_u16(mut self, word: u16) -> Sum {
        self.0 = fold_u64(self.0) + u64::from(word.to_be());
        self
    }

    /// The sum folded to 16 bits, in network byte order; not complemented.
    #[inline]
    #[must_use]
    pub fn folded(self) -> u16 {
        u16::from_be(fold_u64(self.0) as u16)
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// A sum of pieces of any lengths, one behind the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PieceSum {
    sum: Sum,
    /// Whether the next piece begins with the low half of a word.
    odd: bool,
}

impl PieceSum {
    /// Adds the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        let of_piece = Sum::default().with(piece).folded();
        let of_piece = match self.odd {
            // RFC 1071 2 (B): the sum of swapped bytes is the sum with its bytes swapped.
            true => of_piece.swap_bytes(),
            false => of_piece,
        };
        self.sum = self.sum.with_u16(of_piece);
        self.odd ^= !piece.len().is_multiple_of(2);
    }

    /// The checksum of all pieces, as [`complete`] puts it into a frame.
    #[must_use]
    pub fn checksum(self) -> u16 {
        not_zero(self.sum.checksum())
    }
}

/// A checksum of zero as ones, which verify the same and which UDP demands.
fn not_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Folds to 16 bits with end-around carry.
#[inline]
fn fold_u64(mut sum: u64) -> u64 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// Completes a partial checksum in place: the two bytes at `start + offset` hold the sum of the
/// pseudo header; they become the checksum of everything from `start` to the end of the frame.
///
/// A result of zero is written as 0xffff, which verifies the same and which UDP demands.
///
/// # Errors
/// [`FieldOutside`], and nothing is changed, if the two bytes are not inside the frame.
pub fn complete(frame: &mut [u8], start: u16, offset: u16) -> Result<(), FieldOutside> {
    let start = usize::from(start);
    let field = start + usize::from(offset);
    let sum = frame
        .get(start..)
        .filter(|_| field + 2 <= frame.len())
        .map(|bytes| Sum::default().with(bytes).checksum())
        .ok_or(FieldOutside)?;
    frame[field..field + 2].copy_from_slice(&not_zero(sum).to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook definition, one big-endian word at a time.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            sum += u32::from(word);
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        sum as u16
    }

    #[test]
    fn rfc_1071_example() {
        let sum = Sum::default().with(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
    }

    #[test]
    fn complete_refuses_a_field_outside_and_changes_nothing() {
        let frame = [7u8; 40];
        for (start, offset) in [(40, 0), (30, 9), (0, 39), (0xffff, 0xffff), (39, 0)] {
            let mut copy = frame;
            assert_eq!(complete(&mut copy, start, offset), Err(FieldOutside));
            assert_eq!(copy, frame);
        }
        let mut copy = frame;
        assert_eq!(complete(&mut copy, 38, 0), Ok(()));
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_ones() {
        let mut frame = [0xff, 0xff, 0, 0];
        assert_eq!(complete(&mut frame, 0, 2), Ok(()));
        assert_eq!(frame, [0xff, 0xff, 0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn sum_is_the_naive_sum(bytes in proptest::collection::vec(any::<u8>(), 0..3000), cut in 0usize..1500) {
            let cut = (cut * 2).min(bytes.len() & !1);
            let whole = Sum::default().with(&bytes).folded();
            let pieces = Sum::default().with(&bytes[..cut]).with(&bytes[cut..]).folded();
            let mut in_pieces = PieceSum::default();
            for piece in bytes.chunks(cut / 3 + 1) {
                in_pieces.add(piece);
            }
            prop_assert_eq!(in_pieces.checksum() % 0xffff, !naive(&bytes) % 0xffff);
            // 0 and 0xffff are the same number in ones' complement.
            prop_assert_eq!(whole % 0xffff, naive(&bytes) % 0xffff);
            prop_assert_eq!(pieces % 0xffff, whole % 0xffff);
        }

        #[test]
        fn a_completed_checksum_verifies(
            mut bytes in proptest::collection::vec(any::<u8>(), 2..2000),
            start in 0u16..2000,
            half in 0u16..1000,
            pseudo in any::<u16>(),
        ) {
            // The field lies on an even offset from the start, as in every protocol.
            let field = usize::from(start) + usize::from(half) * 2;
            let fits = field + 2 <= bytes.len();
            if fits {
                bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
            }
            let done = complete(&mut bytes, start, half * 2);
            prop_assert_eq!(done.is_ok(), fits);
            if fits {
                let all = Sum::default().with_u16(pseudo).with(&bytes[usize::from(start)..]);
                prop_assert_eq!(all.folded() % 0xffff, 0);
            }
        }
    }
}
