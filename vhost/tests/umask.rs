//! Sockets and the umask, which belongs to a whole process: alone in one, since others bind sockets, too.

// Helpers of tests, as those, may unwrap.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use vf_vhost::listener::Listener;

#[test]
fn a_socket_is_this_users_alone_until_it_is_widened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vf0");
    let mode = || fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777;
    let before = rustix::process::umask(rustix::fs::Mode::empty());
    let listener = Listener::bind(&path).unwrap();
    assert_eq!(mode(), 0o600);
    assert_eq!(
        rustix::process::umask(before),
        rustix::fs::Mode::empty(),
        "the umask is as it was"
    );
    let group = rustix::process::getegid().as_raw();
    listener.widen(0o660, Some(group)).unwrap();
    assert_eq!(mode(), 0o660);
    // Never what somebody has put there.
    let precious = dir.path().join("precious");
    fs::write(&precious, "kept").unwrap();
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&precious, &path).unwrap();
    listener.widen(0o666, None).unwrap_err();
    let kept = fs::metadata(&precious).unwrap().permissions().mode();
    assert_eq!(kept & 0o777, 0o600);
}
