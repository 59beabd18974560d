//! What a guest is shown of its link by other means than its front end: QEMU's monitor (played by a thread here), and a socket that
//! goes; and what QEMU says that a guest's driver asks for.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::emulator::{DEADLINE, Emulator, wait_for};
use crate::port::Port;

/// A monitor that says what QEMU 7.2 says. Dropped, it hangs up.
struct Qemu {
    say: UnixStream,
    /// Commands that it was given.
    heard: Receiver<Value>,
    /// What it answers to `query-rx-filter`.
    filter: Sender<Value>,
}

impl Qemu {
    /// Waits for the client of a monitor.
    fn accept(listener: &UnixListener, filter: Value) -> Qemu {
        let (stream, _) = listener.accept().unwrap();
        let mut say = stream.try_clone().unwrap();
        let mut answer = stream.try_clone().unwrap();
        let (tell, heard) = channel();
        let (set_filter, filters) = channel();
        let version = json!({"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""});
        writeln!(
            say,
            "{}",
            json!({"QMP": {"version": version, "capabilities": ["oob"]}})
        )
        .unwrap();
        std::thread::spawn(move || {
            let mut filter = filter;
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let command: Value = serde_json::from_str(&line).unwrap();
                filter = filters.try_iter().last().unwrap_or(filter);
                let is_query = command["execute"] == "query-rx-filter";
                let result = if is_query { &filter } else { &json!({}) };
                let _ = writeln!(answer, "{}", json!({ "return": result }));
                if tell.send(command).is_err() {
                    return;
                }
            }
        });
        Qemu {
            say,
            heard,
            filter: set_filter,
        }
    }

    /// The driver asks for something else.
    fn asks(&mut self, filter: Value) {
        self.filter.send(filter).unwrap();
        let data = json!({"path": "/machine/peripheral-anon/device[0]/virtio-backend"});
        let event = json!({"event": "NIC_RX_FILTER_CHANGED", "data": data,
            "timestamp": {"seconds": 1, "microseconds": 2}});
        writeln!(self.say, "{event}").unwrap();
    }

    /// Waits for a carrier that is shown.
    #[track_caller]
    fn shows(&self, up: bool) {
        loop {
            let command = self.heard.recv_timeout(DEADLINE).expect("a command");
            if command["execute"] == "set_link" {
                let arguments = json!({"name": "virtio-net-pci.0", "up": up});
                assert_eq!(command["arguments"], arguments);
                return;
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.say.shutdown(std::net::Shutdown::Both);
    }
}

fn rx_filter(promiscuous: bool, mac: &str, unicast: &[&str], vlans: &[u16]) -> Value {
    json!([{
        "name": "virtio-net-pci.0", "main-mac": mac, "promiscuous": promiscuous,
        "multicast": "normal", "unicast": "normal", "vlan": "normal",
        "multicast-overflow": false, "unicast-overflow": false, "broadcast-allowed": false,
        "unicast-table": unicast, "multicast-table": ["01:00:5e:00:00:01"], "vlan-table": vlans,
    }])
}

fn monitor(path: &Path) -> UnixListener {
    UnixListener::bind(path).unwrap()
}

fn link(emulator: &Emulator, vf: usize) -> (String, Option<String>) {
    let vf = emulator.vf(0, vf);
    (vf.state.link, vf.state.link_method)
}

fn down(method: &str) -> (String, Option<String>) {
    ("down".to_owned(), Some(method.to_owned()))
}

const MAC: &str = "02:76:66:00:00:00";

#[test]
fn qemu_shows_its_guest_the_link_and_says_what_its_driver_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = monitor(&path);
    let qmp = format!("0={}", path.display());
    let emulator = Emulator::start(&["--mac-base", MAC, "--qmp", &qmp]);
    let mut a = Port::open(&emulator.path("vf0.sock"));
    let mut b = Port::open(&emulator.path("vf1.sock"));
    let mut qemu = Qemu::accept(&listener, rx_filter(false, MAC, &[], &[0]));
    emulator.does("vf 0 set state disable");
    qemu.shows(false);
    wait_for("qmp is in force", || {
        (link(&emulator, 0) == down("qmp")).then_some(())
    });
    let text = String::from_utf8(emulator.vfnic(&["show"]).stdout).unwrap();
    assert!(text.contains("link down (qmp)"), "{text}");
    emulator.does("vf 0 set state auto");
    qemu.shows(true);
    // It follows the port as well.
    emulator.does("link set down");
    qemu.shows(false);
    emulator.does("link set up");
    qemu.shows(true);

    // What the driver asks for, which this NIC's control queue never sees.
    let further = [0x02, 0, 0, 0, 0, 0x99];
    let frame = b.frame(further, 100);
    b.send(&frame);
    a.never_gets(&frame);
    qemu.asks(rx_filter(false, MAC, &["02:00:00:00:00:99"], &[0, 5]));
    wait_for("the driver's wishes", || {
        let asked = emulator.vf(0, 0).asked;
        let said = |key, what: &str| asked.get(key).is_some_and(|is| is == what);
        (said("unicast", "02:00:00:00:00:99") && said("vlans", "5")).then_some(())
    });
    assert_eq!(emulator.vf(0, 0).asked["multicast"], "01:00:5e:00:00:01");
    let frame = b.frame(further, 100);
    b.send(&frame);
    a.gets(&frame);
    // It may not have everything that it asks for.
    emulator.does(&format!("vf 0 set mac {MAC}"));
    qemu.asks(rx_filter(true, "02:00:00:00:00:55", &[], &[0]));
    wait_for("the driver's wishes", || {
        let asked = emulator.vf(0, 0).asked;
        (asked.get("rx_mode").is_some_and(|mode| mode == "promisc")).then_some(())
    });
    let vf = emulator.vf(0, 0);
    assert_eq!((vf.state.mac.as_str(), vf.refused > 0), (MAC, true));
    assert!(!vf.in_force.contains_key("rx_mode"));

    // A front end that comes anew has been shown a carrier by QEMU itself.
    emulator.does("vf 0 set state disable");
    qemu.shows(false);
    drop(a);
    let a = Port::open(&emulator.path("vf0.sock"));
    qemu.shows(false);

    // A monitor that goes is no method any more, and one that comes back is told at once.
    drop(qemu);
    wait_for("the monitor is gone", || {
        (link(&emulator, 0) == down("discard")).then_some(())
    });
    let qemu = Qemu::accept(&listener, rx_filter(false, MAC, &[], &[0]));
    qemu.shows(false);
    wait_for("qmp is in force", || {
        (link(&emulator, 0) == down("qmp")).then_some(())
    });
    drop(a);
}

#[test]
fn a_monitor_that_does_not_answer_or_says_nonsense_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = monitor(&path);
    let qmp = format!("0={}", path.display());
    let emulator = Emulator::start(&["--mac-base", MAC, "--qmp", &qmp]);
    let mut a = Port::open(&emulator.path("vf0.sock"));
    let mut b = Port::open(&emulator.path("vf1.sock"));
    let silent = listener.accept().unwrap();
    for state in ["disable", "auto"] {
        emulator.does(&format!("vf 0 set state {state}"));
    }
    let frame = a.frame(b.mac, 100);
    a.send(&frame);
    b.gets(&frame);
    drop(silent);
    for nonsense in ["{\"return\":{}}\n", "no JSON\n", "{\"QMP\":", "\n\n"] {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(nonsense.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(stream);
        let frame = a.frame(b.mac, 100);
        a.send(&frame);
        b.gets(&frame);
    }
    // One that never stops talking has its turns, as everybody else.
    let (mut stream, _) = listener.accept().unwrap();
    let talks = std::thread::spawn(move || {
        let events = "{\"event\":\"NIC_RX_FILTER_CHANGED\",\"data\":{}}\n".repeat(1000);
        while stream.write_all(events.as_bytes()).is_ok() {}
    });
    for trust in ["on", "off"] {
        emulator.does(&format!("vf 1 set trust {trust}"));
        let frame = b.frame(a.mac, 100);
        b.send(&frame);
        a.gets(&frame);
    }
    assert_eq!(link(&emulator, 0), ("up".to_owned(), None));
    drop((emulator, a, b));
    talks.join().unwrap();
}

#[test]
fn a_socket_goes_for_as_long_as_its_vf_is_disabled() {
    let emulator = Emulator::with_config(
        "[[nic]]\nname = 'a'\n[[nic.vf]]\nindex = 0\nlink_method = 'socket'\n",
    );
    let socket = emulator.path("a-vf0.sock");
    let a = Port::open(&socket);
    emulator.does("vf 0 set state disable");
    assert!(!socket.exists());
    assert_eq!(link(&emulator, 0), down("socket"));
    let vf = emulator.vf(0, 0);
    assert!(!vf.connected && vf.rings == 0);
    drop(a);
    emulator.does("vf 0 set trust on");
    assert!(!socket.exists());
    emulator.does("vf 0 set state auto");
    let (mut a, mut b) = (
        Port::open(&socket),
        Port::open(&emulator.path("a-vf1.sock")),
    );
    let frame = a.frame(b.mac, 100);
    a.send(&frame);
    b.gets(&frame);
    assert_eq!(link(&emulator, 0), ("up".to_owned(), None));
    // The others only discard.
    emulator.does("vf 1 set state disable");
    assert_eq!(link(&emulator, 1), down("discard"));
    assert!(emulator.path("a-vf1.sock").exists());
}
