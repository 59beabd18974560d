//! The files that guests boot from, made by examples/linux-guests/build.sh. Only looked for, never built: that takes a
//! compiler and a download.

use std::path::{Path, PathBuf};

use vf_nic::config::DeviceKind;

/// What builds an image.
const BUILDER: &str = "examples/linux-guests/build.sh";

/// A kernel and the root file system of its guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The User-Mode Linux kernel, a program.
    pub kernel: PathBuf,
    /// One with a PCI bus and drivers of real NICs besides, if there is one.
    pub pci_kernel: Option<PathBuf>,
    /// A compressed cpio archive.
    pub initramfs: PathBuf,
}

/// There is no such image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// None at all.
    #[error(
        "no Linux guests in {0}: build them with {BUILDER}, or name the folder of linux and initramfs.gz with --image"
    )]
    None(PathBuf),
    /// None with a driver of this device.
    #[error("no kernel with a driver for device {0} (linux-pci) in {1}: build it with {BUILDER}")]
    NoDrivers(DeviceKind, PathBuf),
}

impl Image {
    /// The image in `dir`, else the one that was built last.
    ///
    /// # Errors
    /// [`ImageError`] with the folder that has none.
    pub fn find(dir: Option<&Path>) -> Result<Image, ImageError> {
        let dir = dir.map_or_else(built, Path::to_owned);
        // Guests run in a folder of their own.
        let file = |name| {
            let file = dir.join(name);
            file.is_file().then(|| file.canonicalize().ok()).flatten()
        };
        match (file("linux"), file("initramfs.gz")) {
            (Some(kernel), Some(initramfs)) => Ok(Image {
                kernel,
                pci_kernel: file("linux-pci"),
                initramfs,
            }),
            _ => Err(ImageError::None(dir)),
        }
    }

    /// The kernel of a guest that finds such a device.
    ///
    /// # Errors
    /// There is none, as the image is an old one.
    pub fn kernel_for(&self, device: DeviceKind) -> Result<&Path, ImageError> {
        match device {
            DeviceKind::Virtio => Ok(&self.kernel),
            DeviceKind::Ixgbevf | DeviceKind::Sfc => {
                let folder = || self.kernel.parent().unwrap_or(&self.kernel).to_owned();
                let found = self.pci_kernel.as_deref();
                found.ok_or_else(|| ImageError::NoDrivers(device, folder()))
            }
        }
    }
}

/// Where the builder leaves a link to what it has built.
fn built() -> PathBuf {
    let of = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")));
    cache
        .unwrap_or_else(|| "/tmp/.cache".into())
        .join("vfnic/linux-guests-built")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Image::find(Some(dir.path())).unwrap_err();
        assert!(missing.to_string().contains(BUILDER), "{missing}");
        std::fs::write(dir.path().join("linux"), "").unwrap();
        assert_eq!(Image::find(Some(dir.path())), Err(missing));
        std::fs::write(dir.path().join("initramfs.gz"), "").unwrap();
        let image = Image::find(Some(dir.path())).unwrap();
        assert!(image.kernel.is_absolute() && image.kernel.ends_with("linux"));
        assert_eq!(image.kernel_for(DeviceKind::Virtio), Ok(&*image.kernel));
        let missing = image.kernel_for(DeviceKind::Sfc).unwrap_err().to_string();
        assert!(missing.contains("device sfc") && missing.contains(BUILDER));
        std::fs::write(dir.path().join("linux-pci"), "").unwrap();
        let image = Image::find(Some(dir.path())).unwrap();
        let kernel = image.kernel_for(DeviceKind::Ixgbevf).unwrap();
        assert!(kernel.is_absolute() && kernel.ends_with("linux-pci"));
    }
}
