//! `vfnic demo`: a NIC and two Linux guests on it, each with a prompt. Builds the guests if there are none and the user agrees. What it
//! starts, it ends; it keeps nothing but the guests' kernel and initramfs.

mod consoles;
mod tmux;

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use include_dir::{Dir, include_dir};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use vfnic::cli;
use vfnic::config::{DeviceKind, default_socket_dir};
use vfnic::control::{Request, ask};
use vfnic::linux::{GuestSpec, Image, on_console};

use crate::failure::{Failure, failed, usage};

/// The control socket among a NIC's.
const CTL: &str = "ctl.sock";
/// How long a NIC may take to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Shows two guests until they have powered off or the user has enough.
pub(crate) fn demo(args: &cli::Demo) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(usage(
            "demo is for a terminal, where its guests' prompts are",
        ));
    }
    let image = match Image::find(args.image.as_deref()) {
        Ok(image) => image,
        Err(why) if args.image.is_some() => return Err(usage(why)),
        Err(_) => build_image(args.yes)?,
    };
    let folder = Folder::make()?;
    let nic = Nic::start(&folder.0)?;
    let guests = ["a", "b"].map(|name| guest(&image, &folder.0, &nic, name));
    let [a, b] = guests;
    let guests = [a?, b?];
    match !args.no_tmux && tmux::is_there() {
        true => tmux::show(&folder.0, &nic, guests),
        false => consoles::show(&nic, guests),
    }
}

/// What the image of the guests is built with: a link to `examples/linux-guests`, so that the package has it, too.
static BUILDER: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/linux-guests");

fn build_image(yes: bool) -> Result<Image, Failure> {
    println!(
        "There are no Linux guests yet. What builds them, examples/linux-guests/build.sh of vfnic's repository, comes with this program. It\n\
         - downloads Debian's packages linux-source-6.12, busybox-static, iperf3, ethtool, iproute2 and tcpdump, and unpacks them\n\
         - installs flex, bison, bc, patch, xz-utils, gcc and make, if they are missing and it is root who asks\n\
         - builds a User-Mode Linux kernel, which takes some minutes and, meanwhile, 2.5 GB\n\
         - and leaves kernel and initramfs, 20 MB, in ~/.cache/vfnic."
    );
    if !yes && !agrees("Go on? [y/N] ")? {
        return Err(usage(
            "nothing was built, downloaded or installed; --image names a folder that has linux and initramfs.gz",
        ));
    }
    let folder = Folder::make()?;
    unpack(&BUILDER, &folder.0).map_err(failed)?;
    let builder = folder.0.join("build.sh");
    match Command::new(builder).status().map_err(failed)?.success() {
        true => Image::find(None).map_err(failed),
        false => Err(failed("building them has failed, as it says above")),
    }
}

/// Writes the files of a folder, each of which may be run.
fn unpack(from: &Dir<'_>, to: &Path) -> io::Result<()> {
    for file in from.files() {
        let name = file.path().file_name().unwrap_or_default();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(to.join(name))?
            .write_all(file.contents())?;
    }
    for folder in from.dirs() {
        let to = to.join(folder.path().file_name().unwrap_or_default());
        DirBuilder::new().mode(0o700).create(&to)?;
        unpack(folder, &to)?;
    }
    Ok(())
}

fn agrees(question: &str) -> Result<bool, Failure> {
    print!("{question}");
    io::stdout().flush().map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The folder of everything, which goes with this.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Folder, Failure> {
        let path = std::env::temp_dir().join(format!("vfnic-demo-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| failed(format!("{}: {e}", path.display())))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in a folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The NIC, a process of this program.
struct Nic {
    child: Child,
    program: PathBuf,
    sockets: PathBuf,
    ctl: PathBuf,
    /// Whether commands find it by themselves.
    is_usual: bool,
}

impl Nic {
    fn start(folder: &Path) -> Result<Nic, Failure> {
        let program = std::env::current_exe().map_err(failed)?;
        // Where commands in other terminals look, unless somebody else's NIC is there.
        let usual = default_socket_dir();
        let is_usual = !usual.join(CTL).exists();
        let sockets = if is_usual { usual } else { folder.join("nic") };
        let log = std::fs::File::create(folder.join("log")).map_err(failed)?;
        let mut run = Command::new(&program);
        run.args(["run", "--quiet", "--no-state"]);
        if !is_usual {
            run.arg("--socket-dir").arg(&sockets);
        }
        let child = run
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let mut nic = Nic {
            child,
            program,
            ctl: sockets.join(CTL),
            sockets,
            is_usual,
        };
        let until = Instant::now() + PATIENCE;
        while ask(&nic.ctl, &Request::Show).is_err() {
            if nic.child.try_wait().map_err(failed)?.is_some() || Instant::now() > until {
                let said = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
                return Err(failed(format!("the NIC does not start: {}", said.trim())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(nic)
    }

    /// A command of this program for it.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--ctl").arg(&self.ctl).args(words);
        command
    }

    /// How a command for it begins that is typed in another terminal.
    fn typed(&self) -> String {
        match self.is_usual {
            true => "vfnic".to_owned(),
            false => format!("vfnic --ctl {}", self.ctl.display()),
        }
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// A guest, not yet started.
struct Guest {
    name: &'static str,
    command: Command,
}

fn guest(image: &Image, folder: &Path, nic: &Nic, name: &'static str) -> Result<Guest, Failure> {
    let (n, other) = match name {
        "a" => (0, "b"),
        _ => (1, "a"),
    };
    let (own, peer) = (n + 1, 2 - n);
    // Its init runs this with its output elsewhere; a prompt needs a terminal that its shell has to itself.
    let script = format!(
        "hostname {name}\n\
         echo '10.9.0.{own} {name}' >>/etc/hosts; echo '10.9.0.{peer} {other}' >>/etc/hosts\n\
         iperf3 -s -D\n\
         cat >/tmp/hello <<'END'\n\
         \n\
         Guest {name}: its eth0 is VF {n}. Try:  ping {other}   iperf3 -c {other}   ethtool eth0   exit\n\
         \n\
         END\n\
         export PS1='{name}# ' TERM=${{TERM:-vt100}}\n\
         setsid sh -c 'exec sh -c \"cat /tmp/hello; exec sh\" </dev/tty0 >/dev/tty0 2>&1'\n"
    );
    let spec = GuestSpec {
        name: name.to_owned(),
        id: 0,
        nics: vec![(DeviceKind::Virtio, nic.sockets.join(format!("vf{n}.sock")))],
        mtu: 1500,
        address: format!("10.9.0.{own}/24"),
        script,
        memory_mib: 256,
        seed: 0,
    };
    let command = on_console(image, folder, &spec).map_err(failed)?;
    Ok(Guest { name, command })
}

/// Ends a guest at once, with all its helpers.
fn end_group(leader: u32) {
    if let Some(pid) = Pid::from_raw(leader.cast_signed()) {
        // It may have ended.
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Is set when the user says stop, or closes the terminal. Nothing else comes of that.
fn stop_flag() -> Result<Arc<AtomicBool>, Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(failed)?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_builds_the_guests_comes_along_and_runs() {
        let folder = tempfile::tempdir().unwrap();
        unpack(&BUILDER, folder.path()).unwrap();
        let builder = std::fs::metadata(folder.path().join("build.sh")).unwrap();
        assert_eq!(builder.permissions().mode() & 0o777, 0o700);
        for file in [
            "image.sh",
            "guest/init",
            "kernel/config",
            "kernel/seed.patch",
        ] {
            assert!(folder.path().join(file).exists(), "{file}");
        }
    }
}
