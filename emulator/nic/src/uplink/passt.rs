//! passt as the uplink: guests have DHCP, DNS and the way out of the host, without root. The program is started with the NIC, is the vhost-user back
//! end of its port over a connection of its own, and ends with it, whatever that ends of. Never starts it again: what has the network of the
//! host is not to be started by a process that guests can reach.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use super::vhost_user;
use super::{HandOver, Kind, OpenError};
use crate::tap_port::BackEnd;

/// `passt [OPTION ...]`.
pub(super) const KIND: Kind = Kind {
    word: "passt",
    operand: "[OPTION ...]",
    of_this_machine: true,
    is_host_device: false,
    check: |_| Ok(()),
    open: |options, config, slack| {
        let name = format!("passt {options}").trim_end().to_owned();
        let (connection, child) = start("passt", options).map_err(|source| OpenError {
            uplink: name.clone(),
            source,
            help: "it takes a passt of 2024_11 or newer in PATH".to_owned(),
        })?;
        let connection = Some(connection);
        let back_end = BackEnd::Program { connection, child };
        vhost_user::open(name, back_end, config, slack)
    },
    // Its virtqueues are this process' memory, and frames are in them.
    hand_over: HandOver::Refused,
};

/// Starts this program with these options; the connection to it, and the process.
fn start(program: &str, options: &str) -> io::Result<(UnixStream, Child)> {
    let mut asked = Command::new(program);
    asked.args(["--vhost-user", "--print-capabilities"]);
    asked
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !asked.status()?.success() {
        return Err(io::Error::other("it knows nothing of vhost-user"));
    }
    let (ours, theirs) = UnixStream::pair()?;
    let child = Command::new(program)
        .args(["--foreground", "--quiet", "--vhost-user", "--fd", "0"])
        // Guests keep the MTU that the NIC tells them.
        .args(["--mtu", "0"])
        .args(options.split_whitespace())
        .stdin(OwnedFd::from(theirs))
        .spawn()?;
    Ok((ours, child))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn script(folder: &Path, text: &str) -> String {
        let path = folder.join("passt");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    #[test]
    fn it_is_started_with_the_connection_as_its_input_and_the_users_options_last() {
        let folder = tempfile::tempdir().unwrap();
        let says = "#!/bin/sh\n[ \"$2\" = --print-capabilities ] || echo \"$@\" >&0\n";
        let program = script(folder.path(), says);
        let (mut connection, mut child) = start(&program, " -t 2222:22  -u none").unwrap();
        let mut said = String::new();
        connection.read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert_eq!(
            said,
            "--foreground --quiet --vhost-user --fd 0 --mtu 0 -t 2222:22 -u none\n"
        );
    }

    #[test]
    fn one_that_is_too_old_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = script(folder.path(), "#!/bin/sh\nexit 1\n");
        let why = start(&program, "").unwrap_err();
        assert!(why.to_string().contains("vhost-user"), "{why}");
    }

    #[test]
    fn one_that_has_ended_is_no_zombie() {
        let folder = tempfile::tempdir().unwrap();
        let says = "#!/bin/sh\n[ \"$2\" = --print-capabilities ] || exit 3\n";
        let program = script(folder.path(), says);
        let (connection, child) = start(&program, "").unwrap();
        let process = format!("/proc/{}", child.id());
        let back_end = BackEnd::Program {
            connection: Some(connection),
            child,
        };
        let name = "passt".to_owned();
        let port = vhost_user::open(name, back_end, Default::default(), Default::default());
        let began = std::time::Instant::now();
        while Path::new(&process).exists() {
            assert!(began.elapsed().as_secs() < 30, "{process} is a zombie");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        drop(port);
    }
}
