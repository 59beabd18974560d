//! `vfnic guest`: whom it prints words for, and for which functions of a NIC. Does nothing.

use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::number::whole;
use super::target::Target;
use vf_nic::plane::MAX_QUEUE_PAIRS;

/// Who runs a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GuestOf {
    /// QEMU, of the version that is installed here
    #[default]
    Qemu,
    /// libvirt, whose XML it is
    Libvirt,
    /// cloud-hypervisor
    CloudHypervisor,
    /// crosvm
    Crosvm,
    /// User-Mode Linux
    Uml,
    /// DPDK's testpmd, with virtio-user
    Testpmd,
    /// DPDK in a container
    Podman,
}

/// What of a NIC a guest is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Functions {
    /// This VF.
    Vf(u16),
    /// VF 0 as a PF, and so many VFs after it as its VFs.
    PfAndVfs(u16),
}

impl FromStr for Functions {
    type Err = String;

    fn from_str(word: &str) -> Result<Functions, String> {
        let number = |word: &str| {
            word.parse()
                .map_err(|_| "say the number of a VF, or pf+N".to_owned())
        };
        match word.strip_prefix("pf+") {
            None => number(word).map(Functions::Vf),
            Some(vfs) => match number(vfs)? {
                0 => Err("a PF without VFs is VF 0: say 0".to_owned()),
                vfs => Ok(Functions::PfAndVfs(vfs)),
            },
        }
    }
}

/// Options of `vfnic guest`.
#[derive(Debug, Args)]
pub struct Guest {
    /// Which NIC.
    #[command(flatten)]
    pub at: Target,
    /// Number of the VF, or pf+N: a PF with N VFs, all in one guest
    #[arg(value_name = "N")]
    pub functions: Functions,
    /// Who is to run the guest
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value_t)]
    pub of: GuestOf,
    /// Of pf+N: as one NIC with SR-IOV, whose guest makes VFs (QEMU 10.1)
    #[arg(long)]
    pub sriov: bool,
    /// Queue pairs, and CPUs, of the guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = whole::<u16>(1..=MAX_QUEUE_PAIRS.into()))]
    pub queues: u16,
}

pub(super) const GUEST_HELP: &str = "\
It asks the NIC that runs for the VF's socket, address, MTU and rate, and 'qemu-system-... --version' which words that QEMU takes.

Examples:
  vfnic guest 0
  vfnic guest 1 --for libvirt
  vfnic guest 0 --for qemu --queues 4
  vfnic guest pf+2 --for qemu --sriov";
