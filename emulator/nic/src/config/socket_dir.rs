//! Where sockets are made when nobody says so. Makes nothing.

use std::path::{Path, PathBuf};

/// `$XDG_RUNTIME_DIR/vfnic`, else `/run/vfnic` for root and `/tmp/vfnic-UID` for others.
#[must_use]
pub fn default_socket_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => Path::new(&dir).join("vfnic"),
        _ if rustix::process::geteuid().is_root() => PathBuf::from("/run/vfnic"),
        _ => temporary_socket_dir(),
    }
}

/// Where sockets are made if there is no runtime directory. Others can make folders there, too.
#[must_use]
pub fn temporary_socket_dir() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    PathBuf::from(format!("/tmp/vfnic-{user}"))
}
