//! The bytes of a bulk stream: a cheap function of the offset, so that a receiver can check each
//! of them without a second copy of the stream.
//!
//! The pattern repeats after a prime number of bytes, so that a segment that is lost, doubled or
//! moved by any power of two shows. Knows no stream: at the same offset all have the same byte.

use std::sync::OnceLock;

const PERIOD: usize = 65521;
/// Longest run that is taken from the table at once.
const RUN: usize = 1 << 16;

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut state = 0x9e37_79b9_u32;
        let mut period: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        period.extend_from_within(..);
        period.truncate(PERIOD + RUN);
        period
    })
}

/// The slice of the table that the stream has at `offset`, at most `len` bytes long.
fn run(offset: u64, len: usize) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    let table = table();
    &table[start..(start + len.min(RUN)).min(table.len())]
}

/// Writes the stream's bytes at `offset` into all of `out`.
pub(crate) fn fill(mut offset: u64, mut out: &mut [u8]) {
    while !out.is_empty() {
        let bytes = run(offset, out.len());
        let (head, rest) = out.split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        offset += bytes.len() as u64;
        out = rest;
    }
}

/// Whether `data` is what the stream has at `offset`.
pub(crate) fn matches(mut offset: u64, mut data: &[u8]) -> bool {
    while !data.is_empty() {
        let bytes = run(offset, data.len());
        let (head, rest) = data.split_at(bytes.len());
        if head != bytes {
            return false;
        }
        offset += bytes.len() as u64;
        data = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_make_the_whole(offset in 0..1u64 << 40, cut in 0usize..150_000) {
            let mut whole = vec![0; 150_000];
            fill(offset, &mut whole);
            let mut pieces = vec![0; 150_000];
            fill(offset, &mut pieces[..cut]);
            fill(offset + cut as u64, &mut pieces[cut..]);
            prop_assert_eq!(&whole, &pieces);
            prop_assert!(matches(offset, &whole));
        }

        #[test]
        fn a_wrong_byte_or_a_shift_shows(offset in 0..1u64 << 40, at in 0usize..1460, shift in 1u64..65521) {
            let mut data = vec![0; 1460];
            fill(offset, &mut data);
            prop_assert!(!matches(offset + shift, &data));
            data[at] ^= 1;
            prop_assert!(!matches(offset, &data));
        }
    }
}
