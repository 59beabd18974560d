//! Linux guests on the virtual clock as children of this process: User-Mode Linux kernels that run as ordinary processes,
//! without KVM and without root. Everything that a guest could tell runs apart by is the same in each: its command line,
//! its environment, its memory's place and size, its random numbers. Knows nothing of NICs or of time.
//!
//! - [`image`](Image): where the kernel and the initramfs are
//! - [`launch`](Launcher): starting guests, and what their scripts have printed

mod image;
mod launch;

pub use image::{Image, ImageError};
pub(crate) use launch::{CALENDAR, WATCHDOG};
pub use launch::{GuestSpec, LaunchError, Launcher, Output, on_console};
