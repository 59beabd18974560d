//! A driver that lies, and one that does anything.

use proptest::prelude::*;
use vf_guest::ixgbevf::Ask;

use super::*;

/// Makes the next descriptor of the transmit ring anything, and rings.
fn lie(guest: &mut Guest, driver: &mut Driver, words: [u64; 2], tail: u32) {
    driver.tx.write(0, words);
    guest.write(reg::TX + reg::TAIL, tail);
}

const DATA: u64 = 3 << 20 | 1 << 29;
const END: u64 = 1 << 24;
const CONTEXT: u64 = 2 << 20 | 1 << 29;

#[test]
fn a_liar_breaks_its_own_ring_and_a_reset_mends_it() {
    let inside = vf_guest::memory::GUEST_BASE;
    for (words, tail) in [
        // Beyond the ring, outside its memory, over its end.
        ([inside, DATA | END | 60], 256),
        ([inside, DATA | END | 60], 0xffff),
        ([0, DATA | END | 60], 1),
        ([inside + (4 << 20) - 59, DATA | END | 60], 1),
        ([u64::MAX, DATA | END | 0xffff], 1),
    ] {
        let (mut guest, mut peer) = (Guest::new(0), Guest::new(1));
        let (mut driver, mut other) = (guest.start(), peer.start());
        lie(&mut guest, &mut driver, words, tail);
        assert_eq!(carry(&mut guest, &mut peer), 0);
        assert!(guest.nic.tx.values().all(|tx| tx.vring().is_broken()));
        assert!(driver.send(&[1; 60], &Ask::default()));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 0, "it is broken");
        driver.reset(&mut guest).unwrap();
        driver.open(&mut guest).unwrap();
        assert!(driver.send(&[1; 60], &Ask::default()));
        driver.kick(&mut guest);
        assert_eq!(carry(&mut guest, &mut peer), 1);
        assert_eq!(other.recv(&mut peer).unwrap().bytes, [1; 60]);
    }
}

#[test]
fn contexts_and_buffers_without_an_end_are_no_frames_and_no_work() {
    for kind in [CONTEXT, DATA | 60] {
        let (mut guest, mut peer) = (Guest::new(0), Guest::new(1));
        let (driver, _other) = (guest.start(), peer.start());
        for at in 0..256 {
            driver.tx.write(at, [vf_guest::memory::GUEST_BASE, kind]);
        }
        for tail in (0..256).chain(0..255) {
            guest.write(reg::TX + reg::TAIL, tail);
            assert_eq!(carry(&mut guest, &mut peer), 0);
            let tx = guest.nic.tx.values_mut().next().unwrap();
            assert!(!tx.has_work());
        }
    }
}

#[test]
fn a_ring_that_cannot_run_does_not_and_only_the_nic_is_told() {
    let mut guest = Guest::new(0);
    let enable = |guest: &mut Guest, base: u64, length, head| {
        for (register, value) in [
            (reg::CONTROL, 0),
            (reg::BASE_LOW, base as u32),
            (reg::BASE_HIGH, (base >> 32) as u32),
            (reg::LENGTH, length),
            (reg::HEAD, head),
            (reg::CONTROL, 1 << 25),
        ] {
            guest.write(reg::TX + register, value);
        }
        let running = guest.running() == [1];
        guest.write(reg::TX + reg::CONTROL, 0);
        running
    };
    let base = vf_guest::memory::GUEST_BASE;
    assert!(enable(&mut guest, base, 4096, 0));
    assert!(enable(&mut guest, base, 4096, 255));
    assert!(!enable(&mut guest, base, 0, 0), "no ring at all");
    assert_eq!(guest.nic.broken, []);
    let far = RingError::DescOutOfRange(256);
    let outside = RingError::RingOutside;
    for (base, length, head, why) in [
        (base, 4096, 256, far),
        (base, 0xf_ff80, 0, RingError::Size(0xfff8)),
        (0, 4096, 0, outside),
        (base + (4 << 20) - 2048, 4096, 0, outside),
        (u64::MAX, 4096, 0, outside),
    ] {
        guest.function.reset(&mut guest.nic);
        for _ in 0..2 {
            assert!(!enable(&mut guest, base, length, head), "{base:#x}");
        }
        let told = std::mem::take(&mut guest.nic.broken);
        assert_eq!(told, [(1, why)], "once, and not by what is no order to run");
    }
    // There are registers for queues that the VF does not have.
    for at in [0x80, 0x1c0] {
        guest.write(reg::TX + at + reg::LENGTH, 4096);
        guest.write(reg::TX + at + reg::CONTROL, 1 << 25);
        assert_eq!(guest.read(reg::TX + at + reg::CONTROL), 0);
    }
}

#[test]
fn a_flood_of_messages_costs_the_sender_no_more_than_answers() {
    let mut guest = Guest::new(0);
    let mut driver = guest.start();
    for n in 0..100_000u32 {
        let word = n.wrapping_mul(2_654_435_761);
        let message = [(n % 20) | word & 0xff_0000, word, n];
        let answer = driver.message(&mut guest, &message).unwrap()[0];
        assert_ne!(answer & 0xe000_0000, 0);
    }
    let in_force = guest.nic.policy.in_force(guest.nic.vf);
    assert!(in_force.unicast.len() <= 16 && in_force.group_hashes.len() <= 30);
}

#[derive(Debug, Clone)]
enum Do {
    Write(u64, u32),
    Read(u64),
    /// Writes bytes somewhere in the first pages of memory.
    Poke(u64, u64),
    Poll,
    Map(bool),
    Reset,
    Changed(bool),
}

fn any_do() -> impl Strategy<Value = Do> {
    let offset = prop_oneof![
        4 => prop::sample::select(vec![
            reg::VFCTRL, reg::VTEICR, reg::VTEIMS, reg::VTEIMC, reg::VTEIAC, reg::VTEIAM, reg::VTIVAR,
            reg::VTIVAR_MISC, reg::VTEITR, reg::VFMBMEM, reg::VFMBMEM + 4, reg::VFMAILBOX,
        ]),
        8 => (0u64..2, 0u64..3, 0u64..16).prop_map(|(way, pair, at)| reg::RX + 0x1000 * way + 0x40 * pair + 4 * at),
        1 => (0u64..0x1000).prop_map(|at| 4 * at),
    ];
    let base = vf_guest::memory::GUEST_BASE;
    let value = prop_oneof![
        any::<u32>(),
        0u32..20,
        Just(1 << 25),
        Just(base as u32),
        Just((base >> 32) as u32),
        prop::sample::select(vec![128, 256, 4096]),
    ];
    let word = prop_oneof![
        any::<u64>(),
        (0u64..0x8000).prop_map(move |at| base + at),
        (0u64..3000, any::<u32>()).prop_map(|(len, options)| DATA
            | END
            | 1 << 27
            | len
            | u64::from(options) << 32),
        (0u64..3000).prop_map(|len| DATA | len),
        any::<u32>().prop_map(|sizes| CONTEXT | 1 << 11 | u64::from(sizes) << 32),
    ];
    prop_oneof![
        12 => (offset.clone(), value).prop_map(|(offset, value)| Do::Write(offset, value)),
        2 => offset.prop_map(Do::Read),
        8 => (0u64..64, word).prop_map(|(at, word)| Do::Poke(at * 8, word)),
        4 => Just(Do::Poll),
        1 => any::<bool>().prop_map(Do::Map),
        1 => Just(Do::Reset),
        1 => any::<bool>().prop_map(Do::Changed),
    ]
}

proptest! {
    #[test]
    fn whatever_a_driver_does_its_neighbour_goes_on(steps in prop::collection::vec(any_do(), 1..200)) {
        let (mut liar, mut peer) = (Guest::new(0), Guest::new(1));
        let mut victim = Guest::new(2);
        let (mut other, mut driver) = (peer.start(), victim.start());
        for step in steps {
            match step {
                Do::Write(offset, value) => liar.write(offset, value),
                Do::Read(offset) => drop(liar.read(offset)),
                Do::Poke(at, word) => {
                    let region = liar.memory.regions()[0].mapping();
                    let word = word.to_le_bytes();
                    vm_memory::Bytes::write_slice(&region, &word, at as usize).unwrap();
                }
                Do::Poll => {
                    carry(&mut liar, &mut peer);
                    while other.recv(&mut peer).is_some() {}
                }
                Do::Map(on) => liar.map(on.then(|| liar.dma())),
                Do::Reset => liar.function.reset(&mut liar.nic),
                Do::Changed(up) => liar.administer(if up { "link set up" } else { "link set down" }),
            }
        }
        assert!(driver.send(&[7; 60], &Ask::default()));
        driver.kick(&mut victim);
        prop_assert_eq!(carry(&mut victim, &mut peer), 1);
        prop_assert_eq!(other.recv(&mut peer).unwrap().bytes, [7; 60]);
    }
}
