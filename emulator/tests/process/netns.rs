//! Network namespaces on VFs, by taps: TCP between two of them, with the segmentation offload of their kernel, as between VMs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use vfnic::control::{AttachTap, Connection, Request, Response};

use crate::emulator::{Emulator, vfnic, wait_for};

/// A namespace, until this is dropped.
struct Netns(String);

impl Netns {
    /// `None`, said, where none can be made.
    fn new(letter: char) -> Option<Netns> {
        let name = format!("vfnic{}{letter}", std::process::id());
        let ip = Command::new("ip").args(["netns", "add", &name]).output();
        if ip.is_ok_and(|out| out.status.success()) && File::open("/dev/net/tun").is_ok() {
            return Some(Netns(name));
        }
        println!(
            "skipped: namespaces on VFs, because 'ip netns add' or /dev/net/tun is not to be had here"
        );
        None
    }

    /// `ip -n NAME` with these words; what it prints if it succeeds.
    fn ip(&self, words: &str) -> Option<String> {
        let ip = Command::new("ip")
            .args(["-n", &self.0])
            .args(words.split(' '))
            .output()
            .unwrap();
        let said = String::from_utf8(ip.stdout).unwrap();
        ip.status.success().then_some(said)
    }

    fn device(&self) -> String {
        self.ip("link show dev eth0").unwrap_or_default()
    }

    /// Gives its device an address and has it up with a carrier.
    fn up(&self, address: &str) {
        self.ip(&format!("address add {address}/24 dev eth0"))
            .unwrap();
        self.ip("link set eth0 up").unwrap();
        self.has_carrier(true);
    }

    fn has_carrier(&self, carrier: bool) {
        wait_for("the carrier", || {
            (self.device().contains("LOWER_UP") == carrier).then_some(())
        });
    }

    /// Has a thread of its own do this in there.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let netns = File::open(format!("/run/netns/{}", self.0)).unwrap();
        thread::spawn(move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            job()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// Four megabytes that are not all alike.
fn payload() -> Vec<u8> {
    (0..4_000_000_u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect()
}

/// A stream from one namespace to the other arrives as it was sent.
fn tcp_passes(from: &Netns, to: &Netns, address: &'static str) {
    let listener = to.run(move || TcpListener::bind((address, 5001)).unwrap());
    let listener = listener.join().unwrap();
    let receive = thread::spawn(move || {
        let mut got = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        got
    });
    let send = from.run(move || {
        let mut stream = TcpStream::connect((address, 5001)).unwrap();
        stream.write_all(&payload()).unwrap();
    });
    send.join().unwrap();
    assert!(receive.join().unwrap() == payload());
}

#[test]
fn it_is_said_that_a_device_keeps_its_mtu() {
    let Some(a) = Netns::new('m') else {
        return;
    };
    let emulator = Emulator::start(&[]);
    emulator.does(&format!("netns add {} vf 0", a.0));
    let output = emulator.vfnic(&["vf", "0", "set", "mtu", "9000"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let note = "keeps its MTU: 'ip link set dev eth0 mtu 9000' there";
    assert!(said.contains(note) && !said.contains("connects"), "{said}");
    assert!(a.device().contains("mtu 1500"), "{}", a.device());
}

#[test]
fn namespaces_on_vfs_are_guests_as_any_others() {
    let (Some(a), Some(b)) = (Netns::new('a'), Netns::new('b')) else {
        return;
    };
    let mut emulator = Emulator::start(&[]);
    emulator.does(&format!("netns add {} vf 0", a.0));
    emulator.does(&format!("netns add {} vf 1", b.0));
    let mac = emulator.vf(0, 0).state.mac;
    assert!(a.device().contains(&mac), "{}", a.device());
    // Down, so that its kernel has sent nothing and given it no address of its own by another one.
    assert!(
        a.device().contains("<BROADCAST,MULTICAST>"),
        "{}",
        a.device()
    );
    let addresses = a.ip("address show dev eth0").unwrap();
    assert!(!addresses.contains("inet"), "{addresses}");
    assert_eq!(emulator.vf(0, 0).total.tx_packets, 0);
    a.up("10.9.0.1");
    b.up("10.9.0.2");
    for path in ["direct", "mediated"] {
        for vf in 0..2 {
            emulator.does(&format!("vf {vf} set path {path}"));
        }
        let before = emulator.vf(0, 0);
        tcp_passes(&a, &b, "10.9.0.2");
        let after = emulator.vf(0, 0);
        let counted = |vf: &vfnic::control::show::ShowVf| match path {
            "direct" => vf.direct.tx_bytes,
            _ => vf.mediated.tx_bytes,
        };
        assert!(counted(&after) - counted(&before) >= 4_000_000, "{path}");
        // Their kernels leave segmentation to the NIC.
        let frames = after.total.tx_packets - before.total.tx_packets;
        assert!(frames < 2000, "{frames}");
    }

    // A queue of the device is a queue pair of the VF: four streams find more than one of the eight.
    let queues = "-d link show dev eth0";
    assert!(
        a.ip(queues).unwrap().contains("numqueues 8"),
        "{:?}",
        a.ip(queues)
    );
    for _ in 0..4 {
        tcp_passes(&a, &b, "10.9.0.2");
    }
    let used = emulator.vf(0, 0).queues;
    assert!(
        used.iter().filter(|pair| pair.tx_packets > 0).count() > 1,
        "{used:?}"
    );
    let used = emulator.vf(0, 1).queues;
    assert!(
        used.iter().filter(|pair| pair.rx_packets > 0).count() > 1,
        "{used:?}"
    );

    // Policy is a VF's.
    emulator.does("vf 0 set state disable");
    a.has_carrier(false);
    emulator.does("vf 0 set state auto");
    a.has_carrier(true);
    let refused = emulator.vfnic(&["netns", "add", &b.0, "vf", "0", "name", "eth1"]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("is to be taken away first"), "{why}");
    assert!(b.ip("link show dev eth1").is_none());

    // What is kept is made again, by a vfnic that may.
    let listed = emulator.vfnic(&["netns", "list"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains(&format!("{}  nic0 vf 0  eth0\n", a.0)),
        "{listed}"
    );
    emulator.kill();
    assert_eq!((a.device(), b.device()), (String::new(), String::new()));
    emulator.restart();
    let saved = emulator.vfnic(&["save"]);
    let saved = String::from_utf8(saved.stdout).unwrap();
    assert!(
        saved.contains(&format!("tap = \"eth0\"\nnetns = \"{}\"\n", a.0)),
        "{saved}"
    );
    a.up("10.9.0.1");
    b.up("10.9.0.2");
    tcp_passes(&b, &a, "10.9.0.1");

    emulator.does(&format!("netns delete {}", a.0));
    wait_for("the device goes", || a.device().is_empty().then_some(()));
    assert!(!emulator.vf(0, 0).connected);
    // A device keeps its namespace in being when that has no name any more.
    let gone = b.0.clone();
    drop(b);
    assert!(emulator.vf(0, 1).connected);
    emulator.does(&format!("netns delete {gone} vf 1"));
    assert!(!emulator.vf(0, 1).connected);
    emulator.does(&format!("netns add {} vf 1", a.0));
    wait_for("another one is on it", || {
        emulator.vf(0, 1).connected.then_some(())
    });
}

/// A device with several queues opens for anybody who may, as often as they like, and gives each opener a part of its frames.
#[test]
fn a_tap_is_on_one_vf() {
    let Some(a) = Netns::new('s') else {
        return;
    };
    let (emulator, another) = (Emulator::start(&[]), Emulator::start(&[]));
    let refused = |emulator: &Emulator, words: &str, says: &str| {
        let words: Vec<_> = words.split(' ').collect();
        let out = emulator.vfnic(&words);
        let why = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success(), "{words:?}");
        assert!(why.contains(says), "{words:?}: {why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    };
    emulator.does(&format!("netns add {} vf 0", a.0));
    let device = a.ip("-d link show dev eth0").unwrap();
    assert!(device.contains("numqueues 8"), "{device}");

    refused(
        &emulator,
        &format!("netns add {} vf 1", a.0),
        &format!("tap eth0 in netns {} is on nic0 vf 0 already", a.0),
    );
    // The same namespace by another name, and another process.
    let taken = "it is on a VF already, or another program has it open";
    refused(
        &emulator,
        &format!("netns add /run/netns/../netns/{} vf 1", a.0),
        taken,
    );
    refused(&another, &format!("netns add {} vf 1", a.0), taken);
    // Who has it open and asks the server.
    let null = File::open("/dev/null").unwrap();
    let asked = Request::AttachTap(AttachTap {
        nic: None,
        vf: 1,
        tap: "eth0".to_owned(),
        netns: Some(a.0.clone()),
    });
    let mut connection = Connection::open(&emulator.ctl()).unwrap();
    let answer = connection.ask_with(&asked, &[null.as_fd()]).unwrap();
    let Response::Refused(why) = answer else {
        panic!("{answer:?}");
    };
    assert!(why.contains("is on nic0 vf 0 already"), "{why}");

    let unchanged = a.ip("-d link show dev eth0").unwrap();
    assert_eq!(unchanged, device);
    emulator.does(&format!("netns add {} vf 1 name eth1", a.0));

    // One that is there and that nobody has open is taken as it is.
    emulator.does(&format!("netns delete {}", a.0));
    wait_for("the device goes", || a.device().is_empty().then_some(()));
    a.ip("tuntap add dev eth0 mode tap vnet_hdr multi_queue")
        .unwrap();
    a.ip("link set eth0 up").unwrap();
    emulator.does(&format!("netns add {} vf 1", a.0));
    a.has_carrier(true);
}

#[test]
fn what_is_refused_leaves_the_device_as_it_was() {
    let (Some(a), Some(b)) = (Netns::new('q'), Netns::new('p')) else {
        return;
    };
    let emulator = Emulator::start(&[]);
    a.ip("tuntap add dev eth0 mode tap vnet_hdr multi_queue")
        .unwrap();
    a.ip("link set eth0 address 02:aa:aa:aa:aa:aa mtu 1400")
        .unwrap();
    emulator.does(&format!("netns add {} vf 0", b.0));
    wait_for("the session", || emulator.vf(0, 0).connected.then_some(()));
    for (words, says) in [
        ("vf 0", "is to be taken away first"),
        ("vf 0 vf 1", "vf is said twice"),
        ("vf 1 name eth1 name eth2", "name is said twice"),
    ] {
        let words = format!("netns add {} {words}", a.0);
        let out = emulator.vfnic(&words.split(' ').collect::<Vec<_>>());
        let why = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{words}: {why}");
        assert!(why.contains(says), "{words}: {why}");
    }
    let device = a.device();
    assert!(
        device.contains("02:aa:aa:aa:aa:aa") && device.contains("mtu 1400"),
        "{device}"
    );
    // The path of a namespace is its name.
    emulator.does(&format!("netns delete /run/netns/{} vf 0", b.0));
    wait_for("the device goes", || b.device().is_empty().then_some(()));
}

/// A process' number is another's one day.
#[test]
fn a_namespace_of_a_process_is_not_kept() {
    let Some(a) = Netns::new('k') else {
        return;
    };
    let mut emulator = Emulator::start(&[]);
    let mut container = Command::new("ip")
        .args(["netns", "exec", &a.0, "sleep", "60"])
        .spawn()
        .unwrap();
    let pid = container.id();
    // It has changed over by the time that this is another program.
    wait_for("the container", || {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        (name.trim() == "sleep").then_some(())
    });
    let path = format!("/proc/{pid}/ns/net");
    let added = emulator.vfnic(&["netns", "add", &path, "vf", "0"]);
    let said = String::from_utf8(added.stderr).unwrap();
    assert!(added.status.success(), "{said}");
    assert!(
        said.contains("not kept for the next start") && said.contains("ip netns attach"),
        "{said}"
    );
    assert!(!a.device().is_empty());
    let saved = String::from_utf8(emulator.vfnic(&["save"]).stdout).unwrap();
    assert!(!saved.contains("eth0"), "{saved}");
    // Something else is kept, so there is a state to go on with.
    emulator.does("vf 0 set trust on");
    emulator.kill();
    emulator.restart();
    container.kill().unwrap();
    container.wait().unwrap();
    let vf = emulator.vf(0, 0);
    assert_eq!((vf.settings["trust"].as_str(), vf.tap), ("on", None));
}

#[test]
fn a_tap_of_a_vf_that_is_not_there_yet_is_not_made() {
    let Some(a) = Netns::new('v') else {
        return;
    };
    let emulator = Emulator::with_config(&format!(
        "[[nic]]\nname = 'a'\nvfs = 4\nnumvfs = 2\n[[nic.vf]]\nindex = 3\ntap = 'eth0'\nnetns = '{}'\n",
        a.0
    ));
    assert_eq!(a.device(), "");
    let said = emulator.vfnic(&["link", "set", "numvfs", "0"]).stderr;
    assert!(!String::from_utf8(said).unwrap().contains("eth0"));
    let said = emulator.vfnic(&["link", "set", "numvfs", "4"]).stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("is made at the next start"), "{said}");
}

#[test]
fn a_tap_goes_with_its_vf() {
    let Some(a) = Netns::new('g') else {
        return;
    };
    let mut emulator = Emulator::start(&["--vfs", "4"]);
    emulator.does(&format!("netns add {} vf 3", a.0));
    let saved = |emulator: &Emulator| String::from_utf8(emulator.vfnic(&["save"]).stdout).unwrap();
    assert!(saved(&emulator).contains("tap = \"eth0\""));
    let said = emulator.vfnic(&["link", "set", "numvfs", "0"]).stderr;
    let said = String::from_utf8(said).unwrap();
    let tap = format!("tap eth0 in netns {}", a.0);
    assert!(
        said.contains(&format!("nic0 vf3: {tap} has gone with it")),
        "{said}"
    );
    wait_for("the device goes", || a.device().is_empty().then_some(()));
    assert!(!saved(&emulator).contains("eth0"), "{}", saved(&emulator));
    // Another VF may have it, and the next start puts it on no other.
    emulator.does("link set numvfs 1");
    emulator.does(&format!("netns add {} vf 0", a.0));
    emulator.kill();
    emulator.restart();
    let taps = emulator.show().nics[0]
        .vfs
        .iter()
        .filter(|vf| vf.tap.is_some())
        .count();
    assert_eq!(taps, 1);
    emulator.does(&format!("netns delete {}", a.0));
}

#[test]
fn a_file_puts_a_tap_on_one_vf() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nic.toml");
    let text = "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\ntap='t'\n[[nic.vf]]\nindex=1\ntap='t'\n";
    fs::write(&file, text).unwrap();
    let out = vfnic(&["run", "--config", file.to_str().unwrap()]);
    let why = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2), "{why}");
    assert!(why.contains("a vf1: tap t is on a vf 0 already"), "{why}");
}
