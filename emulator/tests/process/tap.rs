//! A tap device of the host in a NIC's port: the two ends see one link.

use std::fs;
use std::path::{Path, PathBuf};

use crate::emulator::{Emulator, wait_for};

/// Why no tap device can be made here, if none can.
fn missing() -> Option<&'static str> {
    const CAP_NET_ADMIN: u32 = 12;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let caps = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let caps = u64::from_str_radix(caps.unwrap().trim(), 16).unwrap();
    if caps >> CAP_NET_ADMIN & 1 == 0 {
        Some("this process lacks CAP_NET_ADMIN")
    } else if fs::File::open("/dev/net/tun").is_err() {
        Some("there is no /dev/net/tun")
    } else if fs::metadata("/sys/class/net/lo/flags").is_ok_and(|m| !m.permissions().readonly()) {
        None
    } else {
        Some("sysfs cannot be written")
    }
}

#[test]
fn a_tap_and_its_nic_have_one_link() {
    if let Some(missing) = missing() {
        println!("skipped: a tap device's carrier, because {missing}");
        return;
    }
    let name = format!("vfnic{}", std::process::id() % 100_000);
    let emulator = Emulator::with_config(&format!("[[nic]]\nname = 'a'\nuplink = 'tap {name}'\n"));
    let device: PathBuf = Path::new("/sys/class/net").join(&name);
    // A device that is down has no carrier to read.
    let carrier = || fs::read_to_string(device.join("carrier")).unwrap_or_default();
    let flags = || {
        let flags = fs::read_to_string(device.join("flags")).unwrap();
        u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap()
    };
    let set_up = |up: bool| {
        let flags = flags() & !1 | u32::from(up);
        fs::write(device.join("flags"), format!("{flags:#x}")).unwrap();
    };
    let seen_here = |up: bool| {
        wait_for("the NIC sees the host's end", || {
            let nic = emulator.show().nics.remove(0);
            let link = nic.vfs[0].state.link.clone();
            (nic.link.carrier == up && link == if up { "up" } else { "down" }).then_some(())
        });
    };
    seen_here(true);
    assert_eq!(carrier().trim(), "1");
    emulator.does("link set down");
    assert_eq!(carrier().trim(), "0");
    emulator.does("link set up");
    assert_eq!(carrier().trim(), "1");
    set_up(false);
    seen_here(false);
    // What the device cannot be told now it is told when it is up.
    emulator.does("link set down");
    set_up(true);
    wait_for("the host sees the NIC's end", || {
        (carrier().trim() == "0").then_some(())
    });
    emulator.does("link set up");
    assert_eq!(carrier().trim(), "1");
    seen_here(true);
}
