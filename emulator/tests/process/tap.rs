//! A tap device of the host in a NIC's port: the two ends see one link.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vfnic::control::{Request, ask};

use crate::emulator::{Emulator, wait_for};
use crate::port::{BROADCAST, Port};

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
    let mut emulator =
        Emulator::with_config(&format!("[[nic]]\nname = 'a'\nuplink = 'tap {name}'\n"));
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
    let seen_here = |emulator: &Emulator, up: bool| {
        wait_for("the NIC sees the host's end", || {
            let nic = emulator.show().nics.remove(0);
            let link = nic.vfs[0].state.link.clone();
            (nic.link.carrier == up && link == if up { "up" } else { "down" }).then_some(())
        });
    };
    seen_here(&emulator, true);
    assert_eq!(carrier().trim(), "1");
    emulator.does("link set down");
    assert_eq!(carrier().trim(), "0");
    emulator.does("link set up");
    assert_eq!(carrier().trim(), "1");
    set_up(false);
    seen_here(&emulator, false);
    // What the device cannot be told now it is told when it is up.
    emulator.does("link set down");
    set_up(true);
    wait_for("the host sees the NIC's end", || {
        (carrier().trim() == "0").then_some(())
    });
    emulator.does("link set up");
    assert_eq!(carrier().trim(), "1");
    seen_here(&emulator, true);
    // It is the same device to another process that goes on.
    let index = || fs::read_to_string(device.join("ifindex")).unwrap();
    let before = index();
    emulator.upgrade();
    assert_eq!(index(), before);
    emulator.does("link set down");
    assert_eq!(carrier().trim(), "0");
    emulator.does("link set up");
    assert_eq!(carrier().trim(), "1");
    seen_here(&emulator, true);
}

#[test]
fn a_tap_that_is_gone_is_a_link_that_is_down() {
    let ip = || Command::new("ip").arg("-V").output();
    let missing = missing().or_else(|| ip().is_err().then_some("there is no ip"));
    if let Some(missing) = missing {
        println!("skipped: a tap device that is deleted, because {missing}");
        return;
    }
    let name = format!("vfgone{}", std::process::id() % 100_000);
    let emulator = Emulator::with_config(&format!("[[nic]]\nname = 'a'\nuplink = 'tap {name}'\n"));
    let sees = |up: bool| {
        wait_for("the NIC sees its end", || {
            (emulator.show().nics.remove(0).link.carrier == up).then_some(())
        });
    };
    let ip = |args: &str| {
        let output = Command::new("ip").args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {args}: {output:?}");
    };
    sees(true);
    ip(&format!("link del {name}"));
    sees(false);
    // Another one of the same name is another one.
    ip(&format!("tuntap add dev {name} mode tap"));
    ip(&format!("link set {name} up"));
    std::thread::sleep(std::time::Duration::from_millis(100));
    sees(false);
    ip(&format!("link del {name}"));
}

/// Its descriptor is the device, wherever that goes: what a container is given as its end of the cable.
#[test]
fn a_tap_that_is_renamed_or_moved_into_a_namespace_is_the_same_cable() {
    let ip = |args: &str| Command::new("ip").args(args.split(' ')).output();
    let id = std::process::id() % 100_000;
    let (name, other, netns) = (format!("vfm{id}"), format!("vfn{id}"), format!("vfns{id}"));
    let made = missing().is_none()
        && ip(&format!("netns add {netns}")).is_ok_and(|out| out.status.success());
    if !made {
        println!(
            "skipped: a tap device that is moved, because 'ip netns add' or /dev/net/tun is not to be had here"
        );
        return;
    }
    let does = |args: String| {
        let output = ip(&args).unwrap();
        assert!(output.status.success(), "ip {args}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut emulator =
        Emulator::with_config(&format!("[[nic]]\nname = 'a'\nuplink = 'tap {name}'\n"));
    let mut guest = Port::open(&emulator.path("a-vf0.sock"));
    let mut passes = |emulator: &Emulator, netns: &str, device: &str| {
        let count = || {
            let said = does(format!("{netns}-s -j link show dev {device}"));
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            said[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
        };
        let before = count();
        let frame = guest.frame(BROADCAST, 100);
        guest.send(&frame);
        wait_for("the host gets it", || (count() > before).then_some(()));
        assert!(emulator.show().nics[0].link.carrier, "{}", emulator.log());
    };
    passes(&emulator, "", &name);
    does(format!("link set {name} name {other}"));
    // News of it has come by now.
    std::thread::sleep(std::time::Duration::from_millis(100));
    passes(&emulator, "", &other);
    // It is still followed.
    does(format!("link set {other} down"));
    wait_for("the port has no carrier", || {
        (!emulator.show().nics[0].link.carrier).then_some(())
    });
    does(format!("link set {other} up"));
    does(format!("link set {other} netns {netns}"));
    does(format!("-n {netns} link set {other} up"));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let there = format!("-n {netns} ");
    passes(&emulator, &there, &other);
    let carrier = || does(format!("-n {netns} link show dev {other}")).contains("LOWER_UP");
    emulator.does("link set down");
    assert!(!carrier());
    emulator.does("link set up");
    assert!(carrier());
    drop(guest);
    emulator.upgrade();
    assert!(emulator.show().nics[0].link.carrier, "{}", emulator.log());
    emulator.does("link set down");
    assert!(!carrier());
    assert!(!emulator.log().contains("is gone"), "{}", emulator.log());
    drop(emulator);
    does(format!("netns del {netns}"));
}

/// As the guide makes one, and as `ip tuntap` makes one for several queues.
#[test]
fn a_tap_of_several_queues_is_opened_with_one() {
    let ip = |args: &str| Command::new("ip").args(args.split(' ')).output();
    let missing = missing().or_else(|| ip("-V").is_err().then_some("there is no ip"));
    if let Some(missing) = missing {
        println!("skipped: a tap device of several queues, because {missing}");
        return;
    }
    let name = |letter: char| format!("vf{letter}q{}", std::process::id() % 100_000);
    let (uplink, port, veth, peer) = (name('u'), name('p'), name('v'), name('w'));
    let does = |args: String| {
        let output = ip(&args).unwrap();
        assert!(output.status.success(), "ip {args}: {output:?}");
    };
    for device in [&uplink, &port] {
        does(format!("tuntap add dev {device} mode tap multi_queue"));
    }
    does(format!("link add {veth} type veth peer name {peer}"));
    let emulator = Emulator::with_config(&format!(
        "[[nic]]\nname = 'a'\nqueue_pairs = 1\nuplink = 'tap {uplink}'\n"
    ));
    let here = "netns add /proc/self/ns/net";
    emulator.does(&format!("{here} vf 0 name {port}"));
    let refused = |words: &str, says: &str| {
        let args: Vec<_> = words.split(' ').collect();
        let output = emulator.vfnic(&args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains(says),
            "{words}: {said}"
        );
        assert!(!said.contains("CAP_"), "{words}: {said}");
    };
    refused(
        &format!("{here} vf 1 name {veth}"),
        "which is no tap device: say another name",
    );
    refused(
        &format!("{here} vf 1 name {uplink}"),
        "another program has it open: say another name",
    );
    let other = Command::new(env!("CARGO_BIN_EXE_vfnic"))
        .args(["run", "--quiet", "--no-state", "--socket-dir"])
        .arg(emulator.path("other"))
        .arg("--config")
        .arg({
            let file = emulator.path("other.toml");
            let text = format!("[[nic]]\nname = 'b'\nuplink = 'tap {port}'\n");
            fs::write(&file, text).unwrap();
            file
        })
        .output()
        .unwrap();
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(
        !other.status.success() && said.contains("that nobody else has open"),
        "{said}"
    );
    drop(emulator);
    for device in [&uplink, &port, &veth] {
        does(format!("link del {device}"));
    }
}

#[test]
fn the_link_of_a_packet_uplink_is_that_of_its_device() {
    let ip = |args: &str| Command::new("ip").args(args.split(' ')).output();
    let missing = missing().or_else(|| ip("-V").is_err().then_some("there is no ip"));
    if let Some(missing) = missing {
        println!("skipped: the link of a packet socket's device, because {missing}");
        return;
    }
    let (near, far) = (
        format!("vfnear{}", std::process::id() % 100_000),
        format!("vffar{}", std::process::id() % 100_000),
    );
    let does = |args: String| {
        let output = ip(&args).unwrap();
        assert!(output.status.success(), "ip {args}: {output:?}");
    };
    does(format!("link add {near} type veth peer name {far}"));
    does(format!("link set {near} up"));
    does(format!("link set {far} up"));
    let emulator =
        Emulator::with_config(&format!("[[nic]]\nname = 'a'\nuplink = 'packet {near}'\n"));
    let sees = |up: bool| {
        wait_for("the NIC sees its end", || {
            (emulator.show().nics.remove(0).link.carrier == up).then_some(())
        });
    };
    sees(true);
    // The cable's other end, and then this one.
    for end in [&far, &near] {
        does(format!("link set {end} down"));
        sees(false);
        does(format!("link set {end} up"));
        sees(true);
    }
    // By another name it is the same device.
    let other = format!("vfother{}", std::process::id() % 100_000);
    does(format!("link set {near} name {other}"));
    std::thread::sleep(std::time::Duration::from_millis(100));
    sees(true);
    does(format!("link set {other} down"));
    sees(false);
    does(format!("link set {other} up"));
    sees(true);
    assert!(!emulator.log().contains("is gone"));
    does(format!("link del {other}"));
    sees(false);
    wait_for("a line of the log", || {
        emulator.log().contains("its device is gone").then_some(())
    });
}

/// As the error line says: a device that the administrator has made for a user. Nobody but the administrator may bring it up.
#[test]
fn a_tap_that_is_there_is_opened_without_privileges_and_left_as_it_is() {
    let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
    let tools = has("ip") && has("setpriv");
    let missing = missing().or((!tools).then_some("there is no ip or setpriv"));
    if let Some(missing) = missing {
        println!("skipped: a tap device of a user, because {missing}");
        return;
    }
    let name = format!("vfuser{}", std::process::id() % 100_000);
    let ip = |args: &str| {
        let output = Command::new("ip").args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {args}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    ip(&format!("tuntap add dev {name} mode tap vnet_hdr"));
    let dir = tempfile::tempdir().unwrap();
    let (config, ctl) = (dir.path().join("nic.toml"), dir.path().join("ctl.sock"));
    fs::write(
        &config,
        format!("[[nic]]\nname = 'a'\nuplink = 'tap {name}'\n"),
    )
    .unwrap();
    let mut child = Command::new("setpriv")
        .args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"])
        .arg(env!("CARGO_BIN_EXE_vfnic"))
        .args(["run", "--quiet", "--no-state", "--config"])
        .arg(&config)
        .arg("--socket-dir")
        .arg(dir.path())
        .spawn()
        .unwrap();
    wait_for("vfnic answers", || {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?}");
        ask(&ctl, &Request::Show).ok()
    });
    let device = ip(&format!("link show dev {name}"));
    child.kill().unwrap();
    child.wait().unwrap();
    ip(&format!("link del {name}"));
    assert!(device.contains("<BROADCAST,MULTICAST>"), "{device}");
}
