//! The header of VXLAN (RFC 7348 5): which network a frame is of. Sends and receives nothing.

/// Bytes of it.
pub(super) const HEADER: usize = 8;
/// The flag that says that there is a VNI.
const HAS_VNI: u8 = 0x08;

/// The number of a network, 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vni(u32);

impl Vni {
    pub(super) fn new(number: u32) -> Option<Vni> {
        (number < 1 << 24).then_some(Vni(number))
    }
}

/// What is put in front of a frame.
pub(super) fn wrap(vni: Vni) -> [u8; HEADER] {
    let [_, a, b, c] = vni.0.to_be_bytes();
    [HAS_VNI, 0, 0, 0, a, b, c, 0]
}

/// The network that a datagram's payload is of, and its frame; none if it has no such header. What is reserved is ignored.
pub(super) fn unwrap(data: &[u8]) -> Option<(Vni, &[u8])> {
    let (header, frame) = data.split_first_chunk::<HEADER>()?;
    let [flags, _, _, _, a, b, c, _] = *header;
    let vni = Vni(u32::from_be_bytes([0, a, b, c]));
    (flags & HAS_VNI != 0 && !frame.is_empty()).then_some((vni, frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(number in 0..1u32 << 24, frame in prop::collection::vec(any::<u8>(), 1..100)) {
            let vni = Vni::new(number).unwrap();
            let data = [&wrap(vni)[..], &frame].concat();
            prop_assert_eq!(unwrap(&data), Some((vni, &frame[..])));
        }

        #[test]
        fn anything_else_is_refused_or_read_as_it_is(data in prop::collection::vec(any::<u8>(), 0..40)) {
            match unwrap(&data) {
                Some((vni, frame)) => {
                    prop_assert!(data[0] & 8 != 0 && data.len() > 8);
                    prop_assert_eq!(frame, &data[8..]);
                    prop_assert_eq!(&wrap(vni)[4..7], &data[4..7]);
                }
                None => prop_assert!(data.len() <= 8 || data[0] & 8 == 0),
            }
        }
    }

    #[test]
    fn as_the_rfc_draws_it() {
        assert_eq!(
            wrap(Vni::new(0x12_3456).unwrap()),
            [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]
        );
        assert_eq!(Vni::new(1 << 24), None);
    }
}
