//! VFs that come and go while the process runs (`link set numvfs`), as front ends and administrators see it.

use crate::emulator::{Emulator, wait_for};
use crate::port::Port;

/// What a refused command says.
#[track_caller]
fn refused(emulator: &Emulator, words: &str) -> String {
    let before = emulator.settled();
    let args: Vec<&str> = words.split_whitespace().collect();
    let output = emulator.vfnic(&args);
    assert_eq!(output.status.code(), Some(2), "{words}: {output:?}");
    assert_eq!(emulator.settled(), before, "{words}");
    String::from_utf8(output.stderr).unwrap()
}

/// What is worth knowing of a command that is carried out.
#[track_caller]
fn says(emulator: &Emulator, words: &str) -> String {
    let args: Vec<&str> = words.split_whitespace().collect();
    let output = emulator.vfnic(&args);
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn vfs_go_with_their_sessions_and_sockets_and_come_back_new() {
    let emulator = Emulator::with_config("[[nic]]\nname = 'a'\nvfs = 4\nnumvfs = 3\n");
    let socket = |vf| emulator.path(&format!("a-vf{vf}.sock"));
    let there = || (0..4).filter(|vf| socket(*vf).exists()).collect::<Vec<_>>();
    assert_eq!(there(), [0, 1, 2]);
    let (mut a, mut b) = (Port::open(&socket(0)), Port::open(&socket(1)));
    emulator.does("vf 0 set trust on path mediated vlan 7");
    emulator.does("vf 1 set path auto vlan 7");
    emulator.does("filter add flow-type ether proto 0x88b5 vf 1");
    let frame = a.frame(b.mac, 100);
    a.send(&frame);
    b.gets(&frame);

    let busy = refused(&emulator, "link set numvfs 2");
    assert!(busy.contains("EBUSY, there are 3 VFs already: set numvfs 0 first"));
    let range = refused(&emulator, "link set numvfs 5");
    assert!(range.contains("ERANGE, this NIC can have 0 to 4 VFs"));
    let said = says(&emulator, "link set numvfs 0");
    assert!(
        said.contains("filter flow-type ether proto 0x88b5 vf 1"),
        "{said}"
    );
    assert!(said.contains("a vf0: taken from its guest"), "{said}");
    assert!(!said.contains("vf2"), "nobody was there: {said}");
    assert!(there().is_empty());
    let none = emulator.show().nics.remove(0);
    assert_eq!((none.numvfs, none.totalvfs, none.filters), (0, 4, 0));
    assert!(none.vfs.is_empty());
    assert!(refused(&emulator, "vf 0 set trust on").contains("this NIC has no VFs now"));
    // Their front ends have noticed.
    drop((a, b));

    says(&emulator, "link set numvfs 4");
    assert_eq!(there(), [0, 1, 2, 3]);
    let fresh = emulator.vf(0, 0);
    assert_eq!(fresh.sessions, 1, "a counter never falls");
    assert_eq!(
        (fresh.settings["trust"].as_str(), fresh.path.as_str()),
        ("off", "direct")
    );
    assert!(!fresh.settings.contains_key("vlan"));
    let (mut a, mut d) = (Port::open(&socket(0)), Port::open(&socket(3)));
    let frame = a.frame(d.mac, 100);
    a.send(&frame);
    d.gets(&frame);
    let frame = d.frame(a.mac, 100);
    d.send(&frame);
    a.gets(&frame);

    // Through none in one step: the sockets stay, the VFs are others.
    emulator.does("vf 3 set trust on");
    let batch = "link set numvfs 0\nlink set numvfs 4\n";
    std::fs::write(emulator.path("batch"), batch).unwrap();
    says(
        &emulator,
        &format!("batch {}", emulator.path("batch").display()),
    );
    wait_for("the end of the session", || {
        (!emulator.vf(0, 3).connected).then_some(())
    });
    drop((a, d));
    assert_eq!(emulator.vf(0, 3).settings["trust"], "off");
    let (mut a, mut d) = (Port::open(&socket(0)), Port::open(&socket(3)));
    let frame = a.frame(d.mac, 100);
    a.send(&frame);
    d.gets(&frame);
}

#[test]
fn vfs_that_cannot_have_their_sockets_are_refused() {
    let emulator = Emulator::with_config("[[nic]]\nname = 'a'\nvfs = 4\nnumvfs = 0\n");
    std::fs::write(emulator.path("a-vf2.sock"), "mine").unwrap();
    let why = refused(&emulator, "link set numvfs 4");
    assert!(why.contains("a-vf2.sock"), "{why}");
    assert!(
        !emulator.path("a-vf0.sock").exists(),
        "none of them is left"
    );
    emulator.does("link set numvfs 2");
    assert!(emulator.path("a-vf1.sock").exists());
}

#[cfg(feature = "lab")]
#[test]
fn on_the_virtual_clock_vfs_stay() {
    let emulator = Emulator::on_virtual_clock("[[nic]]\nname = 'a'\nvfs = 3\nnumvfs = 2\n");
    let why = refused(&emulator, "link set numvfs 0");
    assert!(why.contains("on the virtual clock"), "{why}");
    assert_eq!(emulator.show().nics[0].vfs.len(), 2);
}
