//! A number that tells two sequences of frames apart: for "the same run twice", not for security.

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// The digest of what has been added.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Digest(u64);

impl Digest {
    /// Adds some bytes, and where they end.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.mix(u64::from_le_bytes(last));
    }

    /// The digest.
    pub(super) fn value(&self) -> u64 {
        self.0
    }

    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(MULTIPLIER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(frames: &[&[u8]]) -> u64 {
        let mut digest = Digest::default();
        for frame in frames {
            digest.add(frame);
        }
        digest.value()
    }

    #[test]
    fn every_byte_and_every_boundary_counts() {
        let whole = digest(&[&[1; 20], &[2; 5]]);
        assert_eq!(whole, digest(&[&[1; 20], &[2; 5]]));
        for other in [
            digest(&[&[2; 5], &[1; 20]]),
            digest(&[&[1; 20], &[2; 4], &[2]]),
            digest(&[&[1; 20], &[2; 6]]),
            digest(&[&[1; 20], &[2, 2, 2, 2, 3]]),
            digest(&[&[1; 20]]),
        ] {
            assert_ne!(whole, other);
        }
    }
}
