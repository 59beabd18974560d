//! Which device a guest finds on a VF, what it does for the guest, and for which NICs there is such a one. Makes the register model; opens nothing.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use vf_model::Profile;
use vf_pci::ef10::Ef10;
use vf_pci::function::Function;
use vf_pci::ixgbevf::Ixgbevf;
use vf_vhost::features::VirtioFeatures;

use super::vf::{LinkMethod, SocketRole, VfSettings};

/// What a guest finds on a VF, under the name of the driver that it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// virtio-net
    #[default]
    Virtio,
    /// A VF of Intel's 82599 (8086:10ed), on PCI
    Ixgbevf,
    /// A VF of Solarflare's SFC9120 (1924:1903), on PCI
    Sfc,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Virtio => "virtio",
            DeviceKind::Ixgbevf => "ixgbevf",
            DeviceKind::Sfc => "sfc",
        })
    }
}

impl DeviceKind {
    /// Its registers, as after power-on, with so many queue pairs if it may have fewer than there are registers for; a virtio device has none here.
    #[must_use]
    pub fn function(self, queue_pairs: u16) -> Option<Box<dyn Function>> {
        match self {
            DeviceKind::Virtio => None,
            DeviceKind::Ixgbevf => Some(Box::new(Ixgbevf::new(queue_pairs))),
            DeviceKind::Sfc => Some(Box::new(Ef10::new())),
        }
    }

    /// The profile of NICs whose VFs take this driver, if it is not for all.
    fn profile(self) -> Option<Profile> {
        match self {
            DeviceKind::Virtio => None,
            DeviceKind::Ixgbevf => Some(Profile::Ixgbe),
            DeviceKind::Sfc => Some(Profile::Ef10),
        }
    }

    /// Whether a NIC of a profile has such VFs.
    ///
    /// # Errors
    /// Why not, in one line that says what to change.
    pub fn fits(self, profile: Profile) -> Result<(), String> {
        match self.profile() {
            Some(own) if profile != own && profile != Profile::Generic => Err(format!(
                "VFs of a NIC of profile {profile} take another driver: say profile {own} or generic, or device virtio"
            )),
            _ => Ok(()),
        }
    }
}

/// What guests may leave to the NIC, each more than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Offloads {
    /// Nothing
    None,
    /// TCP and UDP checksums
    Csum,
    /// Checksums, and cutting TCP streams into segments
    #[default]
    Tso,
}

impl Offloads {
    /// The virtio features that are not offered.
    #[must_use]
    pub fn withheld(self) -> VirtioFeatures {
        match self {
            Offloads::None => VirtioFeatures::CHECKSUM | VirtioFeatures::SEGMENTATION,
            Offloads::Csum => VirtioFeatures::SEGMENTATION,
            Offloads::Tso => VirtioFeatures::empty(),
        }
    }
}

impl VfSettings {
    /// Whether such a NIC has such a VF.
    ///
    /// # Errors
    /// Why not, in one line that says what to change.
    pub(super) fn check_device(&self, profile: Profile, offloads: Offloads) -> Result<(), String> {
        let device = self.device;
        if device == DeviceKind::Virtio {
            return Ok(());
        }
        let why = if let Err(why) = device.fits(profile) {
            why
        } else if self.role == SocketRole::Client {
            "QEMU connects to it, and does not listen: leave out socket_role = \"client\""
                .to_owned()
        } else if self.qmp.is_some() {
            "its driver says itself what it wants, and is told of its link: leave out qmp"
                .to_owned()
        } else if self.link_method == LinkMethod::Socket {
            "its driver is told of its link, and QEMU does not connect a second time: leave out link_method".to_owned()
        } else if offloads != Offloads::default() {
            "such hardware does all offloads: leave out offloads".to_owned()
        } else {
            return Ok(());
        };
        Err(format!("device {device}: {why}"))
    }
}
