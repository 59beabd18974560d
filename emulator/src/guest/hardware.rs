//! What to paste to have a guest on a VF that is hardware to it, with a driver of its own: who runs the guest connects by vfio-user. Starts
//! nothing.

use std::fmt::{Result, Write as _};

use vfnic::cli::GuestOf;

use super::{Machine, Port, word};

/// The first QEMU with a client of vfio-user.
const VFIO_USER: (u32, u32) = (10, 1);

pub(super) fn recipe(out: &mut String, of: GuestOf, port: &Port, machine: &Machine) -> Result {
    let (socket, device) = (word(&port.socket), &port.device);
    match of {
        GuestOf::Uml if port.uml => writeln!(
            out,
            "# A kernel with CONFIG_UML_PCI_OVER_VIRTIO and the driver {device}: examples/linux-guests/build.sh makes one, linux-pci. Its memory is a\n\
             # file, which is to be on a tmpfs that may be executed. Add ubd0=DISK or initrd=FILE. Unbind the driver before it powers off.\n\
             TMPDIR=/dev/shm linux-pci mem=256M virtio_uml.device={socket}:4660",
        ),
        GuestOf::Uml => writeln!(
            out,
            "# The VF's socket speaks vfio-user: say socket_role = \"uml\" of it in a file for vfnic run --config."
        ),
        _ if port.uml => writeln!(
            out,
            "# The VF's socket is for User-Mode Linux: leave out socket_role = \"uml\"."
        ),
        GuestOf::Qemu => qemu(out, port, machine),
        GuestOf::CloudHypervisor => writeln!(
            out,
            "# Its guest needs the driver {device}. Add a disk.\n\
             cloud-hypervisor --cpus boot={} --memory size=512M,shared=on --kernel vmlinux \\\n\
             \x20 --user-device socket={socket}",
            port.queue_pairs.max(1),
        ),
        GuestOf::Libvirt => writeln!(
            out,
            "<!-- libvirt has no word for vfio-user: use what 'vfnic guest N' prints for QEMU, or start vfnic with device virtio. -->"
        ),
        GuestOf::Crosvm | GuestOf::Testpmd | GuestOf::Podman => writeln!(
            out,
            "# It takes virtio, and this VF is a device for the driver {device}: start vfnic with device virtio."
        ),
    }
}

fn qemu(out: &mut String, port: &Port, machine: &Machine) -> Result {
    let Port {
        socket,
        device,
        queue_pairs,
        ..
    } = port;
    match machine.version {
        None => writeln!(
            out,
            "# {} is not installed here. It takes QEMU 10.1 or newer.",
            machine.qemu
        )?,
        Some(version) if version < VFIO_USER => {
            let (major, minor) = version;
            writeln!(
                out,
                "# {} is version {major}.{minor} here, and this takes 10.1 or newer (Debian 13 has one in trixie-backports).",
                machine.qemu
            )?;
        }
        Some(_) => {}
    }
    if machine.kvm {
        writeln!(
            out,
            "# Faster with -accel kvm -cpu host, if the guest is of this machine's kind."
        )?;
    }
    writeln!(
        out,
        "# Its guest needs the driver {device}. The size of the memory is to be that of -m. Add a disk or a kernel. QEMU does not connect\n\
         # again when vfnic is started again, and ends itself on device_del (11.1)."
    )?;
    let cpus = match queue_pairs {
        0 | 1 => String::new(),
        n => format!(" -smp {n}"),
    };
    let board = machine.board();
    // QEMU takes it as JSON only; a quote in a path is none of the shell's.
    let connects = serde_json::json!({
        "driver": "vfio-user-pci",
        "bus": "vf",
        "socket": { "type": "unix", "path": socket },
    });
    let connects = connects.to_string().replace('\'', r"'\''");
    writeln!(
        out,
        "{} -machine {board},memory-backend=mem{} -m 512M{cpus} \\\n\
         \x20 -object memory-backend-memfd,id=mem,size=512M,share=on \\\n\
         \x20 -device pcie-root-port,id=vf,chassis=1 \\\n\
         \x20 -device '{connects}'",
        machine.qemu,
        machine.cpu(),
    )
}
