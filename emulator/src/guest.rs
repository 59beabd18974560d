//! `vfnic guest`: what to paste to have a guest on a VF. [`recipe`] is a function of the VF, of who runs the guest and of what this machine
//! has; the rest asks a running NIC and this machine for those. Starts nothing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use vfnic::cli::{self, Functions, GuestOf};
use vfnic::control::{Request, Response, ask};

use crate::failure::{Failure, failed, unanswered, usage};
use crate::output::print;

mod hardware;

/// Prints it.
pub(crate) fn guest(ctl: &Path, nic: Option<&str>, args: &cli::Guest) -> Result<(), Failure> {
    let answer = ask(ctl, &Request::Show).map_err(failed)?;
    let Response::Show(show) = answer else {
        return Err(unanswered());
    };
    let names: Vec<_> = show.nics.iter().map(|nic| nic.name.as_str()).collect();
    let names = names.join(", ");
    let found = match (nic, show.nics.as_slice()) {
        (None, [one]) => one,
        (None, _) => return Err(usage(format!("which NIC? say --nic with one of: {names}"))),
        (Some(nic), all) => {
            let found = all.iter().find(|shown| shown.name == nic);
            found.ok_or_else(|| usage(format!("no NIC '{nic}': there is {names}")))?
        }
    };
    let port = |n: u16| {
        let Some(vf) = found.vfs.iter().find(|vf| vf.vf == n) else {
            let name = &found.name;
            return Err(usage(match found.numvfs {
                0 => format!("vf{n}: {name} has no VFs now"),
                vfs => format!("vf{n}: the VFs of {name} are 0 to {}", vfs - 1),
            }));
        };
        if args.queues > vf.queue_pairs {
            return Err(usage(format!(
                "--queues {}: {} offers {} queue pairs to each guest (run --queue-pairs)",
                args.queues, found.name, vf.queue_pairs
            )));
        }
        Ok(Port {
            is_alone: is_alone(Path::new(&vf.socket)),
            socket: vf.socket.clone(),
            device: vf.device.clone(),
            listens: vf.socket_role != "client",
            uml: vf.socket_role == "uml",
            mac: vf.state.mac.clone(),
            mtu: vf.told_mtu,
            mbps: found.link.rate_mbps,
            queue_pairs: args.queues,
            qmp: vf.qmp.clone(),
        })
    };
    let machine = Machine::this();
    match (args.functions, args.of, args.sriov) {
        (Functions::Vf(_), _, true) => Err(usage(
            "--sriov: a guest that makes VFs has a PF: say pf+N for the number of the VF",
        )),
        (Functions::Vf(n), ..) => print(&recipe(args.of, &port(n)?, &machine)),
        (Functions::PfAndVfs(vfs), GuestOf::Qemu, true) => {
            let pf = port(0)?;
            let vfs = (1..=vfs).map(port).collect::<Result<Vec<_>, _>>()?;
            if let Some(other) = std::iter::once(&pf)
                .chain(&vfs)
                .find(|port| port.is_hardware())
            {
                return Err(usage(format!(
                    "--sriov: only virtio has a PF and VFs in QEMU, and {} is device {}",
                    other.socket, other.device
                )));
            }
            print(&sriov(&pf, &vfs, &machine))
        }
        (Functions::PfAndVfs(_), GuestOf::Qemu, false) => Err(usage(
            "pf+N: a PF and its VFs in one guest are a NIC with SR-IOV: add --sriov",
        )),
        (Functions::PfAndVfs(_), ..) => Err(usage(
            "pf+N: of these, only QEMU has virtual NICs with SR-IOV: say --for qemu",
        )),
    }
}

/// What a guest has to know of its VF.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    socket: String,
    /// Whether it has its folder to itself.
    is_alone: bool,
    /// What its guest finds there.
    device: String,
    /// Whether the NIC listens there; if not, the guest's VMM is to.
    listens: bool,
    /// Whether it speaks to kernels of User-Mode Linux only, if the VF is hardware.
    uml: bool,
    mac: String,
    /// What its driver is to be told.
    mtu: u16,
    /// The rate of the NIC's port.
    mbps: u64,
    /// How many the guest is to use.
    queue_pairs: u16,
    /// Where its QEMU's monitor is to listen.
    qmp: Option<String>,
}

impl Port {
    /// Whether its guest needs a driver of hardware.
    fn is_hardware(&self) -> bool {
        !["", "virtio"].contains(&self.device.as_str())
    }
}

/// Whether nothing is in a socket's folder but the socket itself: not the control socket, whatever its name, and no state. What cannot be looked
/// into has more in it, for all that is known.
fn is_alone(socket: &Path) -> bool {
    let entries = socket.parent().map(std::fs::read_dir);
    let Some(Ok(mut entries)) = entries else {
        return false;
    };
    entries.all(|entry| entry.is_ok_and(|entry| entry.path() == socket))
}

/// What this machine has.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The QEMU's program.
    qemu: String,
    /// Its version, if it is installed.
    version: Option<(u32, u32)>,
    /// Whether this user may use KVM.
    kvm: bool,
}

impl Machine {
    fn this() -> Machine {
        // QEMU's names, where they are others.
        let arch = match std::env::consts::ARCH {
            "x86" => "i386",
            "powerpc64" => "ppc64",
            arch => arch,
        };
        let qemu = format!("qemu-system-{arch}");
        let said = Command::new(&qemu).arg("--version").output();
        let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        Machine {
            version: said.ok().as_deref().and_then(version),
            qemu,
            kvm: std::fs::File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .is_ok(),
        }
    }
}

impl Machine {
    /// What QEMU is to put the guest on.
    fn board(&self) -> &'static str {
        match self.qemu.ends_with("86") || self.qemu.ends_with("x86_64") {
            true => "q35",
            false => "virt",
        }
    }

    /// That it is to have the newest CPU that is emulated: the usual one of a `virt` board boots no kernel of 64 bits.
    fn cpu(&self) -> &'static str {
        match self.board() {
            "virt" => " -cpu max",
            _ => "",
        }
    }
}

/// The numbers of `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let (_, numbers) = said.split_once("version ")?;
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The first QEMU that takes milliseconds between two tries to connect.
const RECONNECT_MS: (u32, u32) = (9, 2);
/// The first QEMU that starts this device without KVM: those before end with SIGSEGV when they hand its interrupts to a back end.
const MSIX_WITHOUT_KVM: (u32, u32) = (8, 0);

/// What to paste, and above it as comments what to know.
pub(crate) fn recipe(of: GuestOf, port: &Port, machine: &Machine) -> String {
    let mut out = String::new();
    if port.is_hardware() {
        let _ = hardware::recipe(&mut out, of, port, machine);
        return out;
    }
    // Writing to a String does not fail.
    let _ = match of {
        GuestOf::Qemu => qemu(&mut out, port, machine),
        GuestOf::Libvirt => libvirt(&mut out, port),
        GuestOf::CloudHypervisor => cloud_hypervisor(&mut out, port),
        GuestOf::Crosvm => crosvm(&mut out, port),
        GuestOf::Uml => uml(&mut out, port),
        GuestOf::Testpmd => testpmd(&mut out, &port.socket, port, "dpdk-testpmd"),
        GuestOf::Podman => podman(&mut out, port),
    };
    out
}

/// A path, or what a command is given, as a word for a shell, or a part of one.
pub(crate) fn word(path: &str) -> Cow<'_, str> {
    // Neither has a NUL in it.
    shlex::try_quote(path).unwrap_or(Cow::Borrowed(path))
}

/// The same as the value of an option of QEMU's, in which a comma is said twice.
fn option(path: &str) -> String {
    word(&path.replace(',', ",,")).into_owned()
}

/// A path in an attribute of XML between single quotes.
fn attribute(path: &str) -> String {
    path.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('\'', "&apos;")
}

fn qemu(out: &mut String, port: &Port, machine: &Machine) -> std::fmt::Result {
    let mac = &port.mac;
    let socket = option(&port.socket);
    let known = machine.version.is_some();
    let version = machine.version.unwrap_or((u32::MAX, 0));
    if !known {
        writeln!(
            out,
            "# {} is not installed here. Before QEMU 9.2 write reconnect=1 for reconnect-ms=1000, and before 8.0,\n\
             # unless with -accel kvm, add vectors=0 to -device.",
            machine.qemu
        )?;
    }
    let no_msix = version < MSIX_WITHOUT_KVM;
    if no_msix {
        let (major, minor) = version;
        writeln!(
            out,
            "# Without -accel kvm, QEMU {major}.{minor} ends with SIGSEGV unless it has vectors=0; with it, that word may go."
        )?;
    } else if machine.kvm {
        writeln!(
            out,
            "# Faster with -accel kvm -cpu host, if the guest is of this machine's kind."
        )?;
    }
    writeln!(
        out,
        "# The size of the memory is to be that of -m. Add a disk or a kernel."
    )?;
    let role = match (port.listens, version < RECONNECT_MS) {
        (true, true) => "reconnect=1",
        (true, false) => "reconnect-ms=1000",
        (false, _) => "server=on,wait=off",
    };
    let (queues, many) = match port.queue_pairs {
        0 | 1 => (String::new(), String::new()),
        n if no_msix => (format!(",queues={n}"), ",mq=on".to_owned()),
        n => (
            format!(",queues={n}"),
            format!(",mq=on,vectors={}", 2 * n + 2),
        ),
    };
    let vectors = if no_msix { ",vectors=0" } else { "" };
    let cpus = match port.queue_pairs {
        0 | 1 => String::new(),
        n => format!(" -smp {n}"),
    };
    let board = machine.board();
    writeln!(
        out,
        "{} -machine {board},memory-backend=mem{} -m 512M{cpus} \\\n\
         \x20 -object memory-backend-memfd,id=mem,size=512M,share=on \\\n\
         \x20 -chardev socket,id=vf,path={socket},{role} \\\n\
         \x20 -netdev vhost-user,id=net,chardev=vf{queues} \\\n\
         \x20 -device virtio-net-pci,netdev=net,mac={mac},rx_queue_size=1024,speed={},duplex=full,host_mtu={}{many}{vectors}{}",
        machine.qemu,
        machine.cpu(),
        port.mbps,
        port.mtu,
        if port.qmp.is_some() { " \\" } else { "" },
    )?;
    match &port.qmp {
        Some(qmp) => writeln!(out, "  -qmp unix:{},server=on,wait=off", option(qmp)),
        None => Ok(()),
    }
}

/// The first QEMU whose virtio-net devices can be a PF and its VFs.
const SRIOV: (u32, u32) = (10, 1);

/// What to paste for a guest that has a PF and its VFs, each a VF of the NIC.
fn sriov(pf: &Port, vfs: &[Port], machine: &Machine) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = sriov_into(&mut out, pf, vfs, machine);
    out
}

fn sriov_into(out: &mut String, pf: &Port, vfs: &[Port], machine: &Machine) -> std::fmt::Result {
    match machine.version {
        Some((major, minor)) if (major, minor) < SRIOV => writeln!(
            out,
            "# Takes QEMU 10.1 or newer; {} here is {major}.{minor}. examples/sriov-in-guest fetches one beside the system.",
            machine.qemu
        )?,
        Some(_) => {}
        None => writeln!(out, "# Takes QEMU 10.1 or newer.")?,
    }
    writeln!(
        out,
        "# One NIC in one guest: echo {} > /sys/bus/pci/devices/0000:01:00.0/sriov_numvfs there makes its VFs. They are administered\n\
         # here: 'vfnic vf N set' is for VF N, and VF 0 is the guest's PF. Add a disk or a kernel.",
        vfs.len()
    )?;
    writeln!(
        out,
        "{} -machine q35,memory-backend=mem -m 512M \\\n\
         \x20 -object memory-backend-memfd,id=mem,size=512M,share=on \\",
        machine.qemu
    )?;
    for (n, port) in std::iter::once(pf).chain(vfs).enumerate() {
        let role = match port.listens {
            true => "reconnect-ms=1000",
            false => "server=on,wait=off",
        };
        let (socket, queues) = (option(&port.socket), port.queue_pairs.max(1));
        writeln!(
            out,
            "  -chardev socket,id=c{n},path={socket},{role} -netdev vhost-user,id=n{n},chardev=c{n},queues={queues} \\"
        )?;
    }
    writeln!(
        out,
        "  -device pcie-root-port,id=rp0,bus=pcie.0,chassis=1,slot=1 \\"
    )?;
    // QEMU takes the VFs before their PF.
    for (n, port) in vfs.iter().enumerate().map(|(n, port)| (n + 1, port)).rev() {
        let function = sriov_function(n, port);
        writeln!(out, "  -device {function},sriov-pf=pf0 \\")?;
    }
    writeln!(out, "  -device {},id=pf0", sriov_function(0, pf))
}

/// Function `n` of the NIC; those behind the seventh have a device number of their own (PCIe "ARI").
fn sriov_function(n: usize, port: &Port) -> String {
    let many = match port.queue_pairs {
        0 | 1 => String::new(),
        pairs => format!(",mq=on,vectors={}", 2 * pairs + 2),
    };
    format!(
        "virtio-net-pci,bus=rp0,addr={:#x}.{:#x},netdev=n{n},mac={},rx_queue_size=1024,romfile=,host_mtu={}{many}",
        n / 8,
        n % 8,
        port.mac,
        port.mtu
    )
}

fn libvirt(out: &mut String, port: &Port) -> std::fmt::Result {
    let Port { mac, mtu, .. } = port;
    let socket = attribute(&port.socket);
    let (mode, reconnect) = match port.listens {
        true => (
            "client",
            "\n    <reconnect enabled='yes' timeout='1'/>\n  </source>",
        ),
        false => ("server", "</source>"),
    };
    let queues = match port.queue_pairs {
        0 | 1 => String::new(),
        n => format!(" queues='{n}'"),
    };
    // libvirt 9.0 sets an MTU on a device of the host, of which there is none here, and then refuses to start the guest.
    let more = match *mtu {
        1500 => String::new(),
        mtu => format!(
            "  <!-- libvirt does not tell the guest the MTU of {mtu}: 'ip link set mtu {mtu}' there. -->\n"
        ),
    };
    write!(
        out,
        "<!-- In <domain>: memory that vfnic can map. -->\n\
         <memoryBacking>\n\
         \x20 <source type='memfd'/>\n\
         \x20 <access mode='shared'/>\n\
         </memoryBacking>\n\
         \n\
         <!-- In <devices>. -->\n\
         <interface type='vhostuser'>\n\
         \x20 <mac address='{mac}'/>\n\
         \x20 <source type='unix' path='{socket}' mode='{mode}'>{reconnect}\n\
         \x20 <model type='virtio'/>\n\
         \x20 <driver{queues} rx_queue_size='1024'/>\n\
         {more}</interface>\n\
         \n\
         <!-- qemu:///session needs no more. qemu:///system runs QEMU as another user: let its group in, with the key\n\
         \x20    group = \"libvirt-qemu\" (Debian; elsewhere \"qemu\") in the file of vfnic run. AppArmor lets a guest connect to the\n\
         \x20    socket that its XML names; SELinux does not, unless its folder has the label: semanage fcontext -a -t svirt_image_t\n\
         \x20    'FOLDER(/.*)?' and restorecon -R FOLDER. Without KVM (type='qemu') it takes QEMU 8.0 or newer. -->\n"
    )
}

fn cloud_hypervisor(out: &mut String, port: &Port) -> std::fmt::Result {
    let mac = &port.mac;
    let socket = word(&port.socket);
    let role = if port.listens {
        ""
    } else {
        ",vhost_mode=server"
    };
    writeln!(
        out,
        "# It tries to connect for a minute, and does not connect again later. Add a disk.\n\
         cloud-hypervisor --cpus boot={} --memory size=512M,shared=on --kernel vmlinux \\\n\
         \x20 --net vhost_user=true,socket={socket},mac={mac},num_queues={},queue_size=1024{role}",
        port.queue_pairs.max(1),
        2 * port.queue_pairs.max(1),
    )
}

fn crosvm(out: &mut String, port: &Port) -> std::fmt::Result {
    if !port.listens {
        return writeln!(
            out,
            "# crosvm connects and does not listen: leave out socket_role = \"client\"."
        );
    }
    writeln!(
        out,
        "# Its guest has the VF's address by itself. Add a disk.\n\
         crosvm run --mem 512 --cpus {} --vhost-user net,socket={} vmlinux",
        port.queue_pairs.max(1),
        word(&port.socket)
    )
}

fn uml(out: &mut String, port: &Port) -> std::fmt::Result {
    if !port.listens {
        return writeln!(
            out,
            "# User-Mode Linux connects and does not listen: leave out socket_role = \"client\"."
        );
    }
    writeln!(
        out,
        "# A kernel with CONFIG_VIRTIO_UML: Debian's package user-mode-linux has linux.uml, examples/linux-guests/build.sh makes one. Its\n\
         # guest has the VF's address by itself. Its memory is a file, which is to be on a tmpfs that may be executed. Add ubd0=DISK or initrd=FILE.\n\
         TMPDIR=/dev/shm linux.uml mem=256M virtio_uml.device={}:1",
        word(&port.socket)
    )
}

fn testpmd(out: &mut String, socket: &str, port: &Port, program: &str) -> std::fmt::Result {
    let role = if port.listens { "" } else { ",server=1" };
    let queues = port.queue_pairs.max(1);
    let socket = word(socket);
    writeln!(
        out,
        "{program} -l 0,1 --no-huge -m 256 --no-pci --no-shconf --no-telemetry \\\n\
         \x20 --vdev=net_virtio_user0,path={socket},mac={},queues={queues},queue_size=1024{role} \\\n\
         \x20 -- -i --total-num-mbufs=16384 --rxq={queues} --txq={queues}",
        port.mac,
    )
}

fn podman(out: &mut String, port: &Port) -> std::fmt::Result {
    writeln!(
        out,
        "# A container with DPDK in it (IMAGE) on the VF, without huge pages and privileges. Rootless podman reaches the socket if vfnic\n\
         # is the same user's."
    )?;
    let (folder, name) = port.socket.rsplit_once('/').unwrap_or((".", &port.socket));
    // Who may connect to the control socket can change everything, so what the container has is this socket.
    let (outside, inside) = match port.is_alone {
        true => (folder, "/vfnic".to_owned()),
        false => {
            writeln!(
                out,
                "# It has this one socket of what is in the folder, so start it again when vfnic was. It need not be if the socket has a folder of its own,\n\
                 # which is there, and empty, before vfnic starts: [[nic.vf]] index = N, socket = \"/FOLDER/vf.sock\"."
            )?;
            (port.socket.as_str(), format!("/vfnic/{name}"))
        }
    };
    let program = format!(
        "podman run --rm -it -v {}:{}:z IMAGE \\\n  dpdk-testpmd",
        word(outside),
        word(&inside)
    );
    testpmd(out, &format!("/vfnic/{name}"), port, &program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_with_anything_beside_it_is_not_alone() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vf.sock");
        std::fs::write(&socket, "").unwrap();
        assert!(is_alone(&socket));
        // A control socket by another name, or the folder of one.
        std::os::unix::fs::symlink("/run/vfnic/ctl.sock", dir.path().join("c")).unwrap();
        assert!(!is_alone(&socket));
        std::fs::remove_file(dir.path().join("c")).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        assert!(!is_alone(&socket));
        assert!(!is_alone(Path::new("/nowhere/vf.sock")));
    }

    fn port() -> Port {
        Port {
            socket: "/run/vfnic/vf0.sock".to_owned(),
            is_alone: false,
            device: "virtio".to_owned(),
            listens: true,
            uml: false,
            mac: "02:00:00:00:00:07".to_owned(),
            mtu: 9000,
            mbps: 10_000,
            queue_pairs: 1,
            qmp: None,
        }
    }

    fn machine(version: Option<(u32, u32)>) -> Machine {
        Machine {
            qemu: "qemu-system-x86_64".to_owned(),
            version,
            kvm: false,
        }
    }

    #[test]
    fn what_is_pasted_is_one_path_to_a_shell_and_to_who_reads_its_words() {
        let port = Port {
            socket: "/tmp/a b,c/it's <vf0>.sock".to_owned(),
            qmp: Some("/tmp/q,1 .sock".to_owned()),
            ..port()
        };
        let shell = |of: GuestOf| {
            let text = recipe(of, &port, &machine(Some((10, 0))));
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            let line: String = lines.map(|line| line.to_owned() + "\n").collect();
            shlex::split(&line.replace("\\\n", " ")).unwrap()
        };
        let has = |words: Vec<String>, word: &str| {
            assert!(
                words.iter().any(|said| said.contains(word)),
                "{word}: {words:?}"
            );
        };
        has(
            shell(GuestOf::Qemu),
            "socket,id=vf,path=/tmp/a b,,c/it's <vf0>.sock,reconnect-ms=1000",
        );
        has(
            shell(GuestOf::Qemu),
            "unix:/tmp/q,,1 .sock,server=on,wait=off",
        );
        has(shell(GuestOf::Uml), "device=/tmp/a b,c/it's <vf0>.sock:1");
        has(
            shell(GuestOf::Crosvm),
            "net,socket=/tmp/a b,c/it's <vf0>.sock",
        );
        has(
            shell(GuestOf::CloudHypervisor),
            "socket=/tmp/a b,c/it's <vf0>.sock,mac=",
        );
        has(
            shell(GuestOf::Testpmd),
            "path=/tmp/a b,c/it's <vf0>.sock,mac=",
        );
        has(
            shell(GuestOf::Podman),
            "/tmp/a b,c/it's <vf0>.sock:/vfnic/it's <vf0>.sock:z",
        );
        let xml = recipe(GuestOf::Libvirt, &port, &machine(None));
        assert!(
            xml.contains("path='/tmp/a b,c/it&apos;s &lt;vf0>.sock'"),
            "{xml}"
        );
    }

    #[test]
    fn the_version_is_read_from_what_qemu_says_of_itself() {
        for (said, is) in [
            (
                "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright",
                Some((7, 2)),
            ),
            ("QEMU emulator version 10.0.2", Some((10, 0))),
            ("QEMU emulator version 9.2-rc1", Some((9, 2))),
            ("QEMU emulator version x", None),
            ("", None),
        ] {
            assert_eq!(version(said), is, "{said}");
        }
    }

    #[test]
    fn qemu_is_told_what_its_version_understands() {
        let has = |version, words: &[&str], not: &[&str]| {
            let said = recipe(GuestOf::Qemu, &port(), &machine(version));
            for word in words {
                assert!(said.contains(word), "{version:?}: {word}\n{said}");
            }
            for word in not {
                assert!(!said.contains(word), "{version:?}: {word}\n{said}");
            }
        };
        has(
            Some((7, 2)),
            &[",reconnect=1 ", ",vectors=0\n", "SIGSEGV"],
            &["reconnect-ms"],
        );
        has(
            Some((8, 0)),
            &[",reconnect=1 "],
            &["reconnect-ms", "vectors"],
        );
        has(Some((9, 1)), &[",reconnect=1 "], &["reconnect-ms"]);
        has(
            Some((9, 2)),
            &[",reconnect-ms=1000 "],
            &["reconnect=1", "#  "],
        );
        has(Some((10, 0)), &[",reconnect-ms=1000 "], &["vectors"]);
        has(
            None,
            &[
                ",reconnect-ms=1000 ",
                "not installed",
                "reconnect=1",
                "vectors=0",
            ],
            &[],
        );
        has(
            Some((10, 0)),
            &[
                "size=512M,share=on",
                "memory-backend=mem",
                "path=/run/vfnic/vf0.sock,",
                "mac=02:00:00:00:00:07",
                "speed=10000,duplex=full",
                "host_mtu=9000",
            ],
            &["mq=on", "-qmp"],
        );
    }

    #[test]
    fn a_guest_of_arm_has_a_cpu_that_boots_it() {
        let mut arm = machine(Some((10, 0)));
        arm.qemu = "qemu-system-aarch64".to_owned();
        let said = recipe(GuestOf::Qemu, &port(), &arm);
        assert!(
            said.contains("-machine virt,memory-backend=mem -cpu max -m "),
            "{said}"
        );
        let said = recipe(GuestOf::Qemu, &port(), &machine(Some((10, 0))));
        assert!(
            said.contains("-machine q35,memory-backend=mem -m "),
            "{said}"
        );
    }

    #[test]
    fn qemu_with_several_queues_or_a_monitor_or_one_that_listens() {
        let mut many = port();
        many.queue_pairs = 4;
        many.listens = false;
        many.qmp = Some("/run/qmp0".to_owned());
        let said = recipe(GuestOf::Qemu, &many, &machine(Some((10, 0))));
        assert!(said.contains("chardev=vf,queues=4 "), "{said}");
        assert!(
            said.contains("mq=on,vectors=10 \\\n  -qmp unix:/run/qmp0,"),
            "{said}"
        );
        assert!(
            said.contains("server=on,wait=off") && !said.contains("reconnect"),
            "{said}"
        );
        let said = recipe(GuestOf::Qemu, &many, &machine(Some((7, 2))));
        assert!(
            said.contains("mq=on,vectors=0 ") && !said.contains("vectors=10"),
            "{said}"
        );
    }

    #[test]
    fn a_pf_comes_behind_its_vfs_and_each_function_has_its_socket() {
        let vfs: Vec<_> = (1..=9)
            .map(|n| {
                let mut vf = port();
                vf.socket = format!("/run/vfnic/vf{n}.sock");
                vf.mac = format!("02:00:00:00:00:{n:02x}");
                vf
            })
            .collect();
        let said = sriov(&port(), &vfs, &machine(Some((11, 1))));
        let at = |word: &str| said.find(word).unwrap_or_else(|| panic!("{word}\n{said}"));
        assert!(at("addr=0x1.0x1,netdev=n9,mac=02:00:00:00:00:09") < at("addr=0x0.0x1,netdev=n1,"));
        assert!(at("addr=0x0.0x1,netdev=n1,") < at("addr=0x0.0x0,netdev=n0,"));
        at("id=c9,path=/run/vfnic/vf9.sock,reconnect-ms=1000 ");
        assert_eq!(said.matches("sriov-pf=pf0").count(), 9);
        assert!(
            said.ends_with(",id=pf0\n") && !said.contains("10.1"),
            "{said}"
        );
        let said = sriov(&port(), &vfs, &machine(Some((7, 2))));
        assert!(said.contains("QEMU 10.1 or newer; qemu-system-x86_64 here is 7.2"));
    }

    #[test]
    fn a_vf_that_is_hardware_is_connected_by_vfio_user() {
        let mut hardware = port();
        hardware.device = "sfc".to_owned();
        hardware.socket = "/run/it's/vf0.sock".to_owned();
        let said = |of, version| recipe(of, &hardware, &machine(version));
        let qemu = said(GuestOf::Qemu, Some((10, 1)));
        let device = r#"'{"bus":"vf","driver":"vfio-user-pci","socket":{"path":"/run/it'\''s/vf0.sock","type":"unix"}}'"#;
        assert!(qemu.contains(device), "{qemu}");
        assert!(
            qemu.contains("share=on") && qemu.contains("pcie-root-port,id=vf"),
            "{qemu}"
        );
        assert!(!qemu.contains("10.1") && !qemu.contains("mac="), "{qemu}");
        for old in [Some((10, 0)), Some((7, 2)), None] {
            assert!(said(GuestOf::Qemu, old).contains("10.1 or newer"));
        }
        let ch = said(GuestOf::CloudHypervisor, None);
        assert!(ch.contains("--user-device socket="), "{ch}");
        for of in [
            GuestOf::Testpmd,
            GuestOf::Podman,
            GuestOf::Crosvm,
            GuestOf::Libvirt,
        ] {
            assert!(said(of, None).contains("device virtio"), "{of:?}");
        }
        let uml = said(GuestOf::Uml, None);
        assert!(uml.contains("socket_role = \"uml\""), "{uml}");
        let (ours, version) = (
            Port {
                uml: true,
                ..hardware.clone()
            },
            None,
        );
        let uml = recipe(GuestOf::Uml, &ours, &machine(version));
        assert!(
            uml.contains("virtio_uml.device=\"/run/it's/vf0.sock\":4660\n"),
            "{uml}"
        );
        let qemu = recipe(GuestOf::Qemu, &ours, &machine(Some((10, 1))));
        assert!(qemu.contains("leave out socket_role"), "{qemu}");
    }

    #[test]
    fn libvirts_xml_is_whole_and_its_comments_are_comments() {
        let mut port = port();
        let said = recipe(GuestOf::Libvirt, &port, &machine(None));
        for word in [
            "<interface type='vhostuser'>",
            "path='/run/vfnic/vf0.sock' mode='client'>",
            "<reconnect enabled='yes'",
            "</source>",
            "<access mode='shared'/>",
            "'ip link set mtu 9000' there",
            "<driver rx_queue_size",
            "svirt_image_t",
            "AppArmor",
        ] {
            assert!(said.contains(word), "{word}\n{said}");
        }
        // Two hyphens are none of XML's comments'.
        for comment in said.split("<!--").skip(1) {
            let (inside, _) = comment.split_once("-->").unwrap();
            assert!(!inside.contains("--"), "{inside}");
        }
        (port.listens, port.queue_pairs) = (false, 2);
        let said = recipe(GuestOf::Libvirt, &port, &machine(None));
        assert!(
            said.contains("mode='server'></source>") && said.contains("<driver queues='2' "),
            "{said}"
        );
    }

    #[test]
    fn the_others_are_told_where_the_socket_is_and_what_their_guest_shares() {
        let said = |of| recipe(of, &port(), &machine(None));
        let ch = said(GuestOf::CloudHypervisor);
        assert!(
            ch.contains("shared=on") && ch.contains("num_queues=2,"),
            "{ch}"
        );
        assert!(ch.contains("vhost_user=true,socket=/run/vfnic/vf0.sock,mac=02:00:00:00:00:07"));
        assert!(said(GuestOf::Crosvm).contains("--vhost-user net,socket=/run/vfnic/vf0.sock "));
        assert!(said(GuestOf::Uml).contains("TMPDIR=/dev/shm linux.uml"));
        assert!(said(GuestOf::Uml).contains("virtio_uml.device=/run/vfnic/vf0.sock:1\n"));
        let testpmd = said(GuestOf::Testpmd);
        assert!(
            testpmd.contains("path=/run/vfnic/vf0.sock,mac=02:00:00:00:00:07,queues=1,"),
            "{testpmd}"
        );
        let podman = said(GuestOf::Podman);
        assert!(
            podman.contains("path=/vfnic/vf0.sock,")
                && podman.contains("-v /run/vfnic/vf0.sock:/vfnic/vf0.sock:z "),
            "a container has no other VF's socket, and not the control socket: {podman}"
        );
        let mut alone = port();
        alone.is_alone = true;
        let podman = recipe(GuestOf::Podman, &alone, &machine(None));
        assert!(
            podman.contains("-v /run/vfnic:/vfnic:z") && podman.contains("path=/vfnic/vf0.sock,"),
            "{podman}"
        );
        let mut listens = port();
        listens.listens = false;
        for (of, word) in [
            (GuestOf::CloudHypervisor, "vhost_mode=server"),
            (GuestOf::Testpmd, "server=1"),
            (GuestOf::Crosvm, "socket_role"),
            (GuestOf::Uml, "socket_role"),
        ] {
            let said = recipe(of, &listens, &machine(None));
            assert!(said.contains(word), "{said}");
        }
    }
}
