//! A NIC of 64 VFs in a storm of everything: guests come, send, and go in the middle of it, commands and lies come in between, on all
//! paths. Each time that all guests have gone the books are closed: every frame that any of them sent has been received, or dropped
//! for a reason that is counted, and the process has no more descriptors, threads, mappings and memory than before.
//!
//! A few seconds, or `VFNIC_SOAK_SECONDS`; the same choices for the same `VFNIC_SOAK_SEED`, which is printed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vf_guest::frontend::Frontend;
use vf_guest::net::{NetConfig, NetHeader, RxFrame, feature};
use vfnic::control::{NicCommand, Request, Response, ask};

use crate::emulator::{Emulator, wait_for};
use crate::in_use::{InUse, resident};
use crate::port::{ETHERTYPE, try_start};
use crate::random::Random;

const VFS: usize = 64;
/// How much more memory the process may have than at the first rest, in kB.
const SLACK: u64 = 24 << 10;
/// Choices between two rests.
const CHOICES: usize = 4000;

/// A guest, and how many frames it has put on its ring.
struct Guest {
    net: vf_guest::net::NetDevice,
    offered: u64,
}

struct Soak {
    emulator: Emulator,
    random: Random,
    guests: BTreeMap<usize, Guest>,
    got: RxFrame,
    /// Frames that devices have taken from guests, and given to them.
    sent: u64,
    received: u64,
}

impl Soak {
    fn new(seed: u64) -> Soak {
        let file = format!(
            "[[nic]]\nname = 'a'\nvfs = {VFS}\nmac_base = '02:00:00:00:00:00'\nworkers = 2\n"
        );
        Soak {
            emulator: Emulator::with_config(&file),
            random: Random(seed),
            guests: BTreeMap::new(),
            got: RxFrame::default(),
            sent: 0,
            received: 0,
        }
    }

    fn socket(&self, vf: usize) -> std::path::PathBuf {
        self.emulator.path(&format!("a-vf{vf}.sock"))
    }

    fn choose(&mut self) {
        let vf = self.random.below(VFS);
        match self.random.below(100) {
            0..=4 if !self.guests.contains_key(&vf) => self.come(vf),
            5..=7 => self.go(vf),
            8..=10 => self.command(vf),
            11..=12 => self.lie(vf),
            _ => self.traffic(vf),
        }
    }

    fn come(&mut self, vf: usize) {
        let mut features = NetConfig::PLAIN;
        for optional in [feature::RING_PACKED, NetConfig::CHECKSUM] {
            features |= self.random.of(&[0, optional]);
        }
        for optional in [
            feature::EVENT_IDX,
            feature::IN_ORDER,
            feature::MRG_RXBUF,
            feature::INDIRECT_DESC,
        ] {
            features &= !self.random.of(&[0, 0, optional]);
        }
        let config = NetConfig {
            features,
            queue_size: self.random.of(&[8, 64, 256]),
            ..NetConfig::default()
        };
        // The VF may be at the end of its last session.
        if let Ok(net) = try_start(&self.socket(vf), &config) {
            self.guests.insert(vf, Guest { net, offered: 0 });
        }
    }

    /// A guest ends as it should, or is gone from one moment to the next.
    fn go(&mut self, vf: usize) {
        let Some(mut guest) = self.guests.remove(&vf) else {
            return;
        };
        if self.random.below(2) == 0 {
            // A front end that has been told off already has no session.
            let _ = guest.net.stop();
        }
        drop(guest.net.take_frontend());
        wait_for("the end of a session", || {
            (!self.emulator.vf(0, vf).connected).then_some(())
        });
        self.take(&mut guest);
        guest.net.tx_room(0).unwrap();
        self.sent += guest.offered - u64::from(guest.net.tx_ring(0).queue.outstanding());
    }

    fn take(&mut self, guest: &mut Guest) {
        while guest.net.recv(0, &mut self.got).unwrap() {
            self.received += 1;
        }
    }

    fn traffic(&mut self, vf: usize) {
        let Some(mut guest) = self.guests.remove(&vf) else {
            return;
        };
        self.take(&mut guest);
        for _ in 0..self.random.below(40) {
            // To somebody, who may not be there; one in some has another's address.
            let (to, from) = (
                self.random.below(VFS),
                self.random.of(&[vf, vf, vf, vf, (vf + 1) % VFS]),
            );
            let mac = |vf: usize| [2, 0, 0, 0, 0, vf as u8];
            let mut frame = [mac(to), mac(from)].concat();
            frame.extend(ETHERTYPE);
            frame.resize(self.random.of(&[60, 200, 1514]), to as u8);
            guest.offered += u64::from(guest.net.send(0, &NetHeader::default(), &frame).unwrap());
        }
        guest.net.kick();
        self.guests.insert(vf, guest);
    }

    fn command(&mut self, vf: usize) {
        let words = match self.random.below(8) {
            0..=2 => format!(
                "vf {vf} set path {}",
                self.random.of(&["direct", "mediated", "auto"])
            ),
            3 => format!("vf {vf} set vlan {}", self.random.of(&["0", "0", "7"])),
            4 => format!("vf {vf} set spoofchk {}", self.random.of(&["on", "off"])),
            5 => format!("vf {vf} set rate {}", self.random.of(&["0", "0", "50"])),
            6 => format!(
                "vf {vf} set state {}",
                self.random.of(&["auto", "auto", "disable"])
            ),
            _ => format!("link set {}", self.random.of(&["up", "down"])),
        };
        let request = Request::Command(NicCommand {
            nic: None,
            words: words.split(' ').map(str::to_owned).collect(),
        });
        let answer = ask(&self.emulator.ctl(), &request).unwrap();
        assert!(matches!(answer, Response::Done(_)), "{words}: {answer:?}");
    }

    /// Bytes that may be a message, of a second front end or of one that is served.
    fn lie(&mut self, vf: usize) {
        let payload: Vec<u8> = (0..self.random.below(64))
            .map(|_| self.random.of(&[0, 1, 2, 0xff]))
            .collect();
        let request = self.random.below(45) as u32;
        if let Some(guest) = self.guests.get_mut(&vf) {
            // SET_MEM_TABLE while rings run, with what the guest has.
            let memory = guest.net.memory().clone();
            if let Some(front) = guest.net.frontend() {
                let _ = front.set_mem_table(memory.regions());
            }
        } else if let Ok(mut front) = Frontend::connect(self.socket(vf)) {
            let _ = front.send(request, 0, &payload, &[]);
        }
    }

    /// All guests go, and the books are closed.
    fn rest(&mut self) -> InUse {
        while let Some((&vf, _)) = self.guests.first_key_value() {
            self.go(vf);
        }
        let mut drops = BTreeMap::<String, u64>::new();
        let settled = |drops: &mut BTreeMap<String, u64>| {
            let Ok(Response::Show(show)) = ask(&self.emulator.ctl(), &Request::Show) else {
                return None;
            };
            let nic = &show.nics[0];
            assert!(nic.vfs.iter().all(|vf| vf.rings == 0));
            let vfs = nic.vfs.iter().map(|vf| &vf.total);
            drops.clear();
            for counters in vfs.chain([&nic.pf, &nic.link.counters]) {
                for (reason, n) in counters.rx_drops.iter().chain(&counters.tx_drops) {
                    *drops.entry(reason.clone()).or_default() += n;
                }
            }
            let dropped: u64 = drops.values().sum();
            let rx: u64 = nic.vfs.iter().map(|vf| vf.total.rx_packets).sum();
            (rx == self.received && self.sent == rx + dropped).then_some(())
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while settled(&mut drops).is_none() {
            assert!(
                Instant::now() < deadline,
                "guests sent {} and received {}; {drops:?}",
                self.sent,
                self.received
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        println!(
            "sent {}, received {}, dropped {drops:?}",
            self.sent, self.received
        );
        // A thread that closes what a front end has sent stays a fifth of a second for more.
        std::thread::sleep(Duration::from_secs(1));
        InUse::of(self.emulator.pid())
    }
}

#[test]
fn a_storm_of_everything_leaves_the_books_closed_and_nothing_behind() {
    let number = |name, or| std::env::var(name).map_or(or, |n| n.parse().unwrap());
    let (seconds, seed) = (
        number("VFNIC_SOAK_SECONDS", 3),
        number("VFNIC_SOAK_SEED", 2009),
    );
    println!("seed {seed}, {seconds} s");
    let mut soak = Soak::new(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut first = None;
    while first.is_none() || Instant::now() < end {
        for _ in 0..CHOICES {
            soak.choose();
        }
        let now = soak.rest();
        let (in_use, memory) =
            first.get_or_insert_with(|| (now.clone(), resident(soak.emulator.pid())));
        if now != *in_use {
            wait_for("as much in use as at the first rest", || {
                (InUse::of(soak.emulator.pid()) == *in_use).then_some(())
            });
        }
        let grown = resident(soak.emulator.pid()).saturating_sub(*memory);
        assert!(grown < SLACK, "{grown} kB more than at the first rest");
    }
}
