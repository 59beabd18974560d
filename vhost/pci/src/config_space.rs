//! The configuration space of a PCI Express endpoint: what an operating system finds there, what it may change, and what of that
//! others act on. Numbers in, numbers out: resets nothing, maps nothing, interrupts nobody.
//!
//! A type 0 header with 64-bit BARs and no interrupt pin; the capabilities power management, MSI-X and PCI Express with
//! function-level reset; no extended ones. It is how a lone endpoint looks, as a virtual function that is passed through to a guest does
//! there: no SR-IOV capability, and IDs and memory enable of its own.

use crate::function::{Bar, Identity};

/// Bytes of the configuration space of a PCI Express function.
pub const CONFIG_SIZE: usize = 4096;

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const CACHE_LINE: usize = 0x0c;
const BARS: usize = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

/// Where capabilities are, as the one before points to them.
const POWER_AT: u8 = 0x40;
const MSIX_AT: u8 = 0x50;
const EXPRESS_AT: u8 = 0x70;
const POWER: usize = POWER_AT as usize;
const MSIX: usize = MSIX_AT as usize;
const EXPRESS: usize = EXPRESS_AT as usize;

const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const PARITY: u16 = 1 << 6;
const SERR: u16 = 1 << 8;
const NO_INTX: u16 = 1 << 10;
const HAS_CAPABILITIES: u16 = 1 << 4;

const CAP_POWER: u8 = 0x01;
const CAP_EXPRESS: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;

/// Power management control and status, in its capability.
const POWER_CONTROL: usize = POWER + 4;
const POWER_STATE: u16 = 3;
/// What is set up outlives D3hot.
const NO_SOFT_RESET: u16 = 1 << 3;

const MSIX_CONTROL: usize = MSIX + 2;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;

const DEVICE_CAPABILITIES: usize = EXPRESS + 4;
const DEVICE_CONTROL: usize = EXPRESS + 8;
const LINK_CAPABILITIES: usize = EXPRESS + 12;
const LINK_STATUS: usize = EXPRESS + 18;
const INITIATE_FLR: u16 = 1 << 15;

/// See the module.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    /// The bits that can be written.
    writable: Box<[u8; CONFIG_SIZE]>,
    identity: &'static Identity,
}

impl ConfigSpace {
    /// As after power-on.
    #[must_use]
    pub fn new(identity: &'static Identity) -> ConfigSpace {
        let mut space = ConfigSpace {
            bytes: Box::new([0; CONFIG_SIZE]),
            writable: Box::new([0; CONFIG_SIZE]),
            identity,
        };
        space.reset();
        space
    }

    /// What a function-level reset leaves (PCIe 6.6.2): all as after power-on.
    pub fn reset(&mut self) {
        let identity = self.identity;
        self.bytes.fill(0);
        self.writable.fill(0);
        self.put(VENDOR, &identity.vendor.to_le_bytes());
        self.put(DEVICE, &identity.device.to_le_bytes());
        let command = MEMORY_SPACE | BUS_MASTER | PARITY | SERR | NO_INTX;
        self.allow(COMMAND, &command.to_le_bytes());
        self.put(STATUS, &HAS_CAPABILITIES.to_le_bytes());
        self.put(REVISION, &[identity.revision]);
        self.put(CLASS, &identity.class.to_le_bytes()[..3]);
        self.allow(CACHE_LINE, &[0xff]);
        identity.bars.iter().for_each(|bar| self.put_bar(bar));
        self.put(SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        self.put(SUBSYSTEM, &identity.subsystem.to_le_bytes());
        self.put(CAPABILITIES, &[POWER_AT]);
        self.allow(INTERRUPT_LINE, &[0xff]);
        self.put_power();
        self.put_msix();
        self.put_express();
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        for (to, from) in self.writable.iter_mut().skip(at).zip(bits) {
            *to = *from;
        }
    }

    fn put_bar(&mut self, bar: &Bar) {
        // Two registers: 64-bit memory (PCI 3.0, 6.2.5.1). Whoever writes all ones reads the size in the bits that stayed zero.
        let at = BARS.saturating_add(usize::from(bar.index).saturating_mul(4));
        let kind = if bar.prefetchable { 0b1100 } else { 0b0100 };
        self.put(at, &[kind]);
        let address = bar.size.max(4096).wrapping_neg();
        self.allow(at, &address.to_le_bytes());
    }

    fn put_power(&mut self) {
        // Version 3, no events (PCI PM 1.2, 3.2.3).
        self.put(POWER, &[CAP_POWER, MSIX_AT, 3, 0]);
        self.put(POWER_CONTROL, &NO_SOFT_RESET.to_le_bytes());
        self.allow(POWER_CONTROL, &POWER_STATE.to_le_bytes());
    }

    fn put_msix(&mut self) {
        let layout = self.identity.msix;
        self.put(MSIX, &[CAP_MSIX, EXPRESS_AT]);
        let last = layout.vectors.saturating_sub(1) & 0x7ff;
        self.put(MSIX_CONTROL, &last.to_le_bytes());
        self.allow(MSIX_CONTROL, &(MSIX_ENABLE | MSIX_MASK_ALL).to_le_bytes());
        let bar = u32::from(layout.bar);
        self.put(MSIX + 4, &(layout.table | bar).to_le_bytes());
        self.put(MSIX + 8, &(layout.pba | bar).to_le_bytes());
    }

    fn put_express(&mut self) {
        // Version 2, an endpoint.
        self.put(EXPRESS, &[CAP_EXPRESS, 0, 2, 0]);
        // Function-level reset, role-based error reporting, payloads of 128 bytes.
        let capabilities = 1 << 28 | 1 << 15;
        self.put(DEVICE_CAPABILITIES, &u32::to_le_bytes(capabilities));
        // The reset bit reads as zero; all else is only kept.
        self.allow(DEVICE_CONTROL, &(!INITIATE_FLR).to_le_bytes());
        // Eight lanes of 5 GT/s, as NICs of 10 Gb/s have.
        let link = u16::to_le_bytes(8 << 4 | 2);
        self.put(LINK_CAPABILITIES, &link);
        self.put(LINK_STATUS, &link);
    }

    /// Reads from `offset` on; what lies behind the end reads as ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        let from = self
            .bytes
            .iter()
            .skip(offset)
            .chain(std::iter::repeat(&0xff));
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    /// Writes what can be written; whether a function-level reset was asked for, which is the caller's to do.
    #[must_use]
    pub fn write(&mut self, offset: usize, data: &[u8]) -> bool {
        let power = self.word(POWER_CONTROL);
        let places = self.bytes.iter_mut().zip(self.writable.iter());
        for ((to, writable), from) in places.skip(offset).zip(data) {
            *to = *to & !writable | from & writable;
        }
        // There is no D1 and no D2: such a write changes nothing (PCI PM 1.2, 3.2.4).
        if matches!(self.word(POWER_CONTROL) & POWER_STATE, 1 | 2) {
            self.put(POWER_CONTROL, &power.to_le_bytes());
        }
        let high = (DEVICE_CONTROL + 1).checked_sub(offset);
        let high = high.and_then(|at| data.get(at));
        high.is_some_and(|high| u16::from(*high) << 8 & INITIATE_FLR != 0)
    }

    fn word(&self, at: usize) -> u16 {
        let mut word = [0; 2];
        self.read(at, &mut word);
        u16::from_le_bytes(word)
    }

    /// Whether it is in D0; in any other power state it reaches no memory and answers to nothing but configuration.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.word(POWER_CONTROL) & POWER_STATE == 0
    }

    /// Whether it answers in its BARs.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.is_on() && self.word(COMMAND) & MEMORY_SPACE != 0
    }

    /// Whether it may reach memory and interrupt.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.is_on() && self.word(COMMAND) & BUS_MASTER != 0
    }

    /// Whether its vectors lead anywhere: MSI-X is on, and they are not all masked.
    #[must_use]
    pub fn interrupts(&self) -> bool {
        self.word(MSIX_CONTROL) & (MSIX_ENABLE | MSIX_MASK_ALL) == MSIX_ENABLE
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::function::MsixLayout;
    use proptest::prelude::*;

    pub(crate) static IDENTITY: Identity = Identity {
        vendor: 0x1234,
        device: 0x5678,
        subsystem_vendor: 0x9abc,
        subsystem: 0xdef0,
        revision: 3,
        class: 0x02_0000,
        bars: &[
            Bar {
                index: 0,
                size: 1 << 16,
                prefetchable: true,
            },
            Bar {
                index: 3,
                size: 1 << 14,
                prefetchable: false,
            },
        ],
        msix: MsixLayout {
            vectors: 3,
            bar: 3,
            table: 0,
            pba: 0x2000,
        },
    };

    fn read<const N: usize>(space: &ConfigSpace, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        space.read(at, &mut bytes);
        bytes
    }

    fn word(space: &ConfigSpace, at: usize) -> u16 {
        u16::from_le_bytes(read(space, at))
    }

    fn dword(space: &ConfigSpace, at: usize) -> u32 {
        u32::from_le_bytes(read(space, at))
    }

    fn write(space: &mut ConfigSpace, at: usize, value: u32) -> bool {
        space.write(at, &value.to_le_bytes())
    }

    /// As Linux walks it: `pci_find_capability`.
    fn capability(space: &ConfigSpace, id: u8) -> Option<usize> {
        let mut at = usize::from(read::<1>(space, CAPABILITIES)[0]);
        for _ in 0..48 {
            let [found, next] = read(space, at);
            match found {
                _ if at < 0x40 => return None,
                found if found == id => return Some(at),
                _ => at = usize::from(next),
            }
        }
        None
    }

    #[test]
    fn an_operating_system_finds_what_the_function_is() {
        let space = ConfigSpace::new(&IDENTITY);
        assert_eq!(dword(&space, 0), 0x5678_1234);
        assert_eq!(dword(&space, 8), 0x0200_0003, "class and revision");
        assert_eq!(dword(&space, 0x2c), 0xdef0_9abc);
        assert_eq!(read(&space, 0x0e), [0], "type 0, one function");
        assert_eq!(read(&space, 0x3d), [0], "no interrupt pin");
        assert_eq!(dword(&space, 0x30), 0, "no ROM");
        let msix = capability(&space, CAP_MSIX).unwrap();
        assert_eq!(word(&space, msix + 2), 2, "three vectors");
        assert_eq!(dword(&space, msix + 4), 3);
        assert_eq!(dword(&space, msix + 8), 0x2003);
        let express = capability(&space, CAP_EXPRESS).unwrap();
        assert_eq!(dword(&space, express + 4) >> 28 & 1, 1, "resets");
        assert!(capability(&space, CAP_POWER).is_some());
        assert_eq!(capability(&space, 5), None, "no MSI");
        assert_eq!(dword(&space, 0x100), 0, "no extended capability");
        let (mut last, end) = ([0; 8], CONFIG_SIZE - 4);
        space.read(end, &mut last);
        assert_eq!(last, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn a_bar_says_how_large_it_is_and_keeps_an_address() {
        let mut space = ConfigSpace::new(&IDENTITY);
        for (at, size, kind) in [(0x10, 1u64 << 16, 0xc), (0x1c, 1 << 14, 4)] {
            assert_eq!(dword(&space, at), kind);
            assert!(!write(&mut space, at, u32::MAX) && !write(&mut space, at + 4, u32::MAX));
            let both = u64::from_le_bytes(read(&space, at));
            assert_eq!(both & !0xf, size.wrapping_neg());
            assert_eq!(both as u32 & 0xf, kind);
            write(&mut space, at, 0xfebc_1234);
            write(&mut space, at + 4, 7);
            let both = u64::from_le_bytes(read(&space, at));
            assert_eq!(both & !0xf, 0x7_febc_1234 & size.wrapping_neg());
        }
        for at in [0x18, 0x24] {
            write(&mut space, at, u32::MAX);
            assert_eq!(dword(&space, at), 0, "there is no such BAR");
        }
    }

    #[test]
    fn what_others_act_on_is_what_was_written() {
        let mut space = ConfigSpace::new(&IDENTITY);
        assert!(!space.answers() && !space.is_bus_master() && !space.interrupts());
        write(&mut space, COMMAND, 0xffff);
        assert_eq!(word(&space, COMMAND), 0x0546);
        assert_eq!(word(&space, STATUS), 0x10, "of which nothing is written");
        assert!(space.answers() && space.is_bus_master());
        let msix = capability(&space, CAP_MSIX).unwrap();
        assert!(!space.write(msix + 3, &[0xc0]));
        assert!(!space.interrupts(), "all are masked");
        assert!(!space.write(msix + 3, &[0x80]) && space.interrupts());
        assert_eq!(word(&space, msix + 2), 0x8002);
        let power = capability(&space, CAP_POWER).unwrap();
        write(&mut space, power + 4, 3);
        assert!(!space.answers() && !space.is_bus_master() && space.interrupts());
        write(&mut space, power + 4, 0);
        assert!(space.answers(), "what is set up outlives D3hot");
        for (write, then) in [(1, 0), (2, 0), (3, 3), (1, 3), (2, 3), (0, 0)] {
            assert!(!space.write(POWER_CONTROL, &[write]));
            let state = word(&space, POWER_CONTROL) & POWER_STATE;
            assert_eq!(state, then, "there is neither D1 nor D2");
        }
        space.reset();
        assert!(!space.answers() && !space.is_bus_master() && !space.interrupts());
    }

    #[test]
    fn a_reset_is_asked_for_by_its_bit_and_no_other() {
        let mut space = ConfigSpace::new(&IDENTITY);
        let control = capability(&space, CAP_EXPRESS).unwrap() + 8;
        assert!(!write(&mut space, control, 0x2810));
        assert_eq!(word(&space, control), 0x2810);
        assert!(!space.write(control, &[0x80]), "another byte's bit 7");
        assert!(!space.write(control + 2, &[0x80; 4]));
        assert!(space.write(control + 1, &[0xa8]));
        assert!(space.write(control, &[0x10, 0xa8]));
        assert!(space.write(control - 4, &[0, 0, 0, 0, 0, 0x80]));
        assert_eq!(word(&space, control) & INITIATE_FLR, 0);
    }

    proptest! {
        /// Whatever is written where: what is not to be written stays, and what was asked for is one reset at most.
        #[test]
        fn nothing_but_what_may_be_written_changes(
            writes in prop::collection::vec((0..2 * CONFIG_SIZE, prop::collection::vec(any::<u8>(), 0..300)), 0..20),
        ) {
            let fresh = ConfigSpace::new(&IDENTITY);
            let mut space = fresh.clone();
            for (at, bytes) in writes {
                let _ = space.write(at, &bytes);
            }
            let all = space.bytes.iter().zip(fresh.bytes.iter()).zip(space.writable.iter());
            for ((now, before), writable) in all {
                prop_assert_eq!(now & !writable, before & !writable);
            }
            space.reset();
            prop_assert_eq!(space.bytes, fresh.bytes);
        }
    }
}
