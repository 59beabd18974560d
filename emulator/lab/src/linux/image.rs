//! The files that guests boot from, made by examples/linux-guests/build.sh. Only looked for, never built: that takes a
//! compiler and a download.

use std::path::{Path, PathBuf};

/// What builds an image.
const BUILDER: &str = "examples/linux-guests/build.sh";

/// A kernel and the root file system of its guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The User-Mode Linux kernel, a program.
    pub kernel: PathBuf,
    /// A compressed cpio archive.
    pub initramfs: PathBuf,
}

/// There is no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no Linux guests in {0}: build them with {BUILDER}, or name the folder of linux and initramfs.gz with --image"
)]
pub struct ImageError(PathBuf);

impl Image {
    /// The image in `dir`, else the one that was built last.
    ///
    /// # Errors
    /// [`ImageError`] with the folder that has none.
    pub fn find(dir: Option<&Path>) -> Result<Image, ImageError> {
        let dir = dir.map_or_else(built, Path::to_owned);
        let image = Image {
            kernel: dir.join("linux"),
            initramfs: dir.join("initramfs.gz"),
        };
        // Guests run in a folder of their own.
        let absolute = |file: PathBuf| file.is_file().then(|| file.canonicalize().ok()).flatten();
        match (absolute(image.kernel), absolute(image.initramfs)) {
            (Some(kernel), Some(initramfs)) => Ok(Image { kernel, initramfs }),
            _ => Err(ImageError(dir)),
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
    }
}
