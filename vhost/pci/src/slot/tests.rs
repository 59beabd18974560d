//! A slot with a function that remembers what happened to it, and a NIC without a data plane, which other tests here use, too.

use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use vf_model::{Counters, MacAddr, MailboxRequest, NicConfig, Policy, Profile, VfIndex};
use vf_vhost::eventfd::EventFd;
use vf_vhost::memory::RegionSpec;
use vf_vhost::vring::Vring;

use super::*;
use crate::config_space::tests::IDENTITY;
use crate::function::NotGranted;
use crate::ixgbevf::Ixgbevf;

/// A NIC that grants what it grants and has no data plane.
pub(crate) struct NoNic(Policy);

impl Default for NoNic {
    fn default() -> NoNic {
        NoNic(Policy::new(NicConfig {
            vfs: 1,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: Profile::Generic,
        }))
    }
}

impl Host for NoNic {
    fn start_queues(&mut self, _: Vec<Vring>) {}

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        queues.iter().map(|_| None).collect()
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        if let MailboxRequest::Change(request) = request {
            self.0 = self.0.with_request(self.vf(), request)?.policy;
        }
        Ok(())
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::new(self.0.clone())
    }

    fn vf(&self) -> VfIndex {
        VfIndex::default()
    }

    fn speed_mbps(&self) -> u32 {
        10_000
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// A function that keeps what is written into one register and remembers what happened to it.
#[derive(Debug, Default)]
pub(crate) struct Register {
    pub(crate) value: u64,
    pub(crate) resets: usize,
    pub(crate) environments: Vec<Environment>,
}

impl Function for Register {
    fn identity(&self) -> &'static Identity {
        &IDENTITY
    }

    fn read(&mut self, bar: u8, offset: u64, data: &mut [u8], _: &mut dyn Host) {
        assert_ne!((bar, offset), (3, 0), "the MSI-X table is not ours");
        let value = (self.value | offset << 32).to_le_bytes();
        data.copy_from_slice(&value[..data.len()]);
    }

    fn write(&mut self, bar: u8, offset: u64, data: &[u8], _: &mut dyn Host) {
        assert_ne!((bar, offset), (3, 0), "the MSI-X table is not ours");
        let mut value = [0; 8];
        value[..data.len()].copy_from_slice(data);
        self.value = u64::from_le_bytes(value);
        // Its one doorbell.
        if let Some(environment) = self.environments.last() {
            environment.vectors.raise(1);
        }
    }

    fn reset(&mut self, _: &mut dyn Host) {
        self.value = 0;
        self.resets += 1;
        // It tells its driver, as far as it has one.
        if let Some(environment) = self.environments.last() {
            environment.vectors.raise(2);
        }
    }

    fn set_environment(&mut self, environment: Environment, _: &mut dyn Host) {
        self.environments.push(environment);
    }

    fn messages(&self) -> u64 {
        0
    }

    fn changed(&mut self, _: &mut dyn Host) {}
}

pub(crate) fn memfd(size: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("guest", flags).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

fn memory() -> Arc<GuestMemory> {
    let spec = RegionSpec {
        guest_addr: 0,
        size: 0x1000,
        user_addr: 0,
        mmap_offset: 0,
    };
    GuestMemory::map(vec![(spec, memfd(0x1000))]).unwrap()
}

const COMMAND: usize = 4;
const MSIX_CONTROL: usize = 0x52;
/// Device control of the PCI Express capability; its reset bit is in the byte behind.
const DEVICE_CONTROL: usize = 0x78;

fn read<const N: usize>(slot: &mut Slot, bar: u8, at: u64) -> Result<[u8; N], BadAccess> {
    let mut data = [0; N];
    slot.read_bar(bar, at, &mut data, &mut NoNic::default())?;
    Ok(data)
}

fn write(slot: &mut Slot, bar: u8, at: u64, data: &[u8]) -> Result<(), BadAccess> {
    slot.write_bar(bar, at, data, &mut NoNic::default())
}

/// Powered on, memory space on.
fn slot() -> Slot {
    let mut slot = Slot::new(Box::new(Register::default()));
    slot.power_on(&mut NoNic::default());
    slot.write_config(COMMAND, &[2, 0], &mut NoNic::default());
    slot
}

#[test]
fn accesses_are_of_registers_in_a_bar() {
    let mut slot = slot();
    write(&mut slot, 0, 0x10, &7u32.to_le_bytes()).unwrap();
    assert_eq!(
        read(&mut slot, 0, 0xfff8),
        Ok([7, 0, 0, 0, 0xf8, 0xff, 0, 0])
    );
    assert_eq!(read(&mut slot, 3, 0x3fff), Ok([7]));
    for (bar, at) in [(0, 0x1_0000), (0, u64::MAX), (3, 0x4000), (1, 0), (9, 0)] {
        assert_eq!(read::<1>(&mut slot, bar, at), Err(BadAccess::Outside));
        assert_eq!(write(&mut slot, bar, at, &[1]), Err(BadAccess::Outside));
    }
    assert_eq!(read::<8>(&mut slot, 3, 0x3ffc), Err(BadAccess::Outside));
    for width in [
        read::<3>(&mut slot, 0, 0).map(drop),
        read::<0>(&mut slot, 0, 0).map(drop),
        read::<16>(&mut slot, 0, 0).map(drop),
        read::<4>(&mut slot, 0, 2).map(drop),
        read::<4096>(&mut slot, 0, 0).map(drop),
        write(&mut slot, 0, 4, &[0; 8]),
    ] {
        assert!(matches!(width, Err(BadAccess::Width { .. })), "{width:?}");
    }
    // Nothing answers in a BAR as long as memory space is off, or the function sleeps.
    slot.write_config(COMMAND, &[0, 0], &mut NoNic::default());
    write(&mut slot, 0, 0, &[9]).unwrap();
    assert_eq!(read(&mut slot, 0, 0), Ok([0xff; 4]));
    assert_eq!(read(&mut slot, 3, 0), Ok([0xff; 4]));
    slot.write_config(COMMAND, &[2, 0], &mut NoNic::default());
    assert_eq!(read(&mut slot, 0, 0), Ok([7, 0, 0, 0]));
}

#[test]
fn the_msix_table_and_the_pending_bits_are_not_the_functions() {
    let mut slot = slot();
    assert_eq!(read(&mut slot, 3, 12), Ok(1u32.to_le_bytes()), "masked");
    write(&mut slot, 3, 16, &0xfee0_0000u64.to_le_bytes()).unwrap();
    write(&mut slot, 3, 24, &0x41u32.to_le_bytes()).unwrap();
    assert_eq!(read(&mut slot, 3, 16), Ok(0xfee0_0000u64.to_le_bytes()));
    assert_eq!(read(&mut slot, 3, 24), Ok([0x41, 0, 0, 0, 1, 0, 0, 0]));
    // Vector 1, which leads nowhere.
    write(&mut slot, 0, 0, &[1]).unwrap();
    assert_eq!(read(&mut slot, 3, 0x2000), Ok(2u64.to_le_bytes()));
    write(&mut slot, 3, 0x2000, &[0; 8]).unwrap();
    assert_eq!(read(&mut slot, 3, 0x2000), Ok([2]));
    let call = EventFd::new().unwrap();
    slot.vectors().set(1, Some(call.clone()));
    assert!(!call.drain(), "it is no bus master");
    assert_eq!(read(&mut slot, 3, 0x2000), Ok([2]));
    slot.write_config(COMMAND, &[6, 0], &mut NoNic::default());
    assert!(call.drain());
    assert_eq!(read(&mut slot, 3, 0x2000), Ok([0; 8]));
}

#[test]
fn an_interrupt_is_a_write_of_a_bus_master() {
    let host = &mut NoNic::default();
    let mut slot = slot();
    write(&mut slot, 3, 16, &0xfee0_0000u64.to_le_bytes()).unwrap();
    write(&mut slot, 3, 24, &0x41u64.to_le_bytes()).unwrap();
    slot.write_config(MSIX_CONTROL + 1, &[0x80], host);
    assert_eq!(slot.msix_message(1), None);
    slot.write_config(COMMAND, &[6, 0], host);
    assert_eq!(slot.msix_message(1), Some((0xfee0_0000, 0x41)));
    assert_eq!(slot.msix_message(0), None, "masked");
}

#[test]
fn what_a_driver_is_told_of_a_restart_is_pending_and_what_was_before_is_not() {
    let mut slot = slot();
    // Vector 1, by its doorbell.
    write(&mut slot, 0, 0, &[1]).unwrap();
    slot.restart(&mut NoNic::default());
    assert_eq!(read(&mut slot, 3, 0x2000), Ok([4]));
    // Of a function-level reset it is told nothing: it is the one who wants it.
    slot.reset(&mut NoNic::default());
    assert!(!slot.vectors().is_pending(2));
}

#[test]
fn the_driver_of_an_ixgbevf_is_interrupted_when_its_vf_is_reset() {
    use vf_guest::ixgbevf::reg;
    let host = &mut NoNic::default();
    let mut slot = Slot::new(Box::new(Ixgbevf::new(1)));
    slot.power_on(host);
    slot.write_config(COMMAND, &[6, 0], host);
    let put = |slot: &mut Slot, host: &mut NoNic, at, value: u32| {
        slot.write_bar(0, at, &value.to_le_bytes(), host).unwrap();
    };
    let get = |slot: &mut Slot, host: &mut NoNic, at| {
        let mut data = [0; 4];
        slot.read_bar(0, at, &mut data, host).unwrap();
        u32::from_le_bytes(data)
    };
    // All that is no queue goes to vector 1; a greeting, and its answer read.
    let set_up = [
        (reg::VTIVAR_MISC, 0x81),
        (reg::VTEIMS, 7),
        (reg::VFMBMEM, 1),
        (reg::VFMAILBOX, 1),
        (reg::VFMAILBOX, 2),
    ];
    for (at, value) in set_up {
        put(&mut slot, host, at, value);
    }
    assert_eq!(get(&mut slot, host, reg::VFMBMEM), 1 | 1 << 31);
    assert!(slot.vectors().take_pending(1));
    let reset = vf_model::Command::parse(&["vf", "0", "reset"]).unwrap();
    host.0 = host.0.with(&reset).unwrap();
    slot.restart(host);
    // As DPDK's driver wants it, which compares the whole word.
    assert_eq!(get(&mut slot, host, reg::VFMBMEM), 0x100);
    assert!(slot.vectors().take_pending(1));
    let kept = [reg::VTIVAR_MISC, reg::VTEIMS].map(|at| get(&mut slot, host, at));
    assert_eq!(kept, [0x81, 7]);
}

/// As Linux's PF driver has it: peers know the VF by that address.
#[test]
fn the_address_that_the_driver_of_an_ixgbevf_has_chosen_outlasts_resets_and_no_session() {
    use vf_guest::ixgbevf::reg;
    let host = &mut NoNic::default();
    let mut slot = Slot::new(Box::new(Ixgbevf::new(2)));
    slot.power_on(host);
    slot.write_config(COMMAND, &[6, 0], host);
    let own = host.policy().mac(host.vf());
    let chosen = MacAddr([2, 0, 0, 0, 0x55, 1]);
    let set_up = [
        (reg::VFMBMEM, 1),
        (reg::VFMAILBOX, 1),
        (reg::VFMAILBOX, 2),
        (reg::VFMBMEM, 2),
        (reg::VFMBMEM + 4, 2),
        (reg::VFMBMEM + 8, 0x0155),
        (reg::VFMAILBOX, 1),
    ];
    for (at, value) in set_up {
        let value: u32 = value;
        slot.write_bar(0, at, &value.to_le_bytes(), host).unwrap();
    }
    assert_eq!(host.policy().mac(host.vf()), chosen);
    slot.write_config(DEVICE_CONTROL + 1, &[0x80], host);
    assert_eq!(host.policy().mac(host.vf()), chosen, "function-level reset");
    slot.power_on(host);
    assert_eq!(host.policy().mac(host.vf()), own);
}

#[test]
fn a_function_reaches_memory_as_long_as_it_is_bus_master() {
    let host = &mut NoNic::default();
    let mut slot = slot();
    let given = |slot: &Slot| slot.given.clone();
    let memory = memory();
    slot.set_memory(Arc::clone(&memory), host);
    assert!(given(&slot).is_none());
    slot.write_config(COMMAND, &[6], host);
    assert!(Arc::ptr_eq(&given(&slot).unwrap(), &memory));
    slot.write_config(COMMAND + 8, &[0xff; 4], host);
    slot.write_config(COMMAND, &[6], host);
    for off in [(COMMAND, 2), (0x44, 3)] {
        slot.write_config(off.0, &[off.1], host);
        assert!(given(&slot).is_none());
        slot.write_config(COMMAND, &[6], host);
        slot.write_config(0x44, &[0], host);
        assert!(given(&slot).is_some());
    }
    slot.set_memory(Arc::default(), host);
    assert!(given(&slot).is_none(), "there is none");
    slot.set_memory(Arc::clone(&memory), host);
    // A function-level reset, by one byte.
    slot.write_config(DEVICE_CONTROL + 1, &[0x80], host);
    assert!(given(&slot).is_none() && !slot.is_bus_master());
    slot.write_config(COMMAND, &[6], host);
    assert!(
        given(&slot).is_some(),
        "it is its guest's memory all the same"
    );
    slot.power_on(host);
    slot.write_config(COMMAND, &[6], host);
    assert!(given(&slot).is_none());
    // The function hears of what has changed, and of nothing else.
    let seen = format!("{:?}", slot.function);
    assert_eq!(seen.matches("Environment {").count(), 11, "{seen}");
    assert_eq!(seen.matches("memory: None").count(), 6, "{seen}");
    assert!(seen.contains("resets: 3"), "{seen}");
}
