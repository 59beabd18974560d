//! VFs of any kind on one NIC: some have virtqueues, some are 82599 or EF10 VFs with descriptor rings. To the planes they are the same.

use vf_guest::ixgbevf::{Ask, Ixgbevf as IntelDriver, Received, Registers};
use vf_guest::memory::Allocator;
use vf_guest::net::feature;
use vf_guest::sfc::Sfc as SolarflareDriver;
use vf_model::MailboxRequest;
use vf_packet::testing::{super_frame as tcp_frame, verify};
use vf_packet::{TcpLayout, checksum};
use vf_pci::ef10::Ef10;
use vf_pci::function::{Environment, Function, Host, NotGranted};
use vf_pci::ixgbevf::Ixgbevf;
use vf_pci::msix::Vectors;

use super::*;

/// The NIC as a function sees it.
struct Seat {
    policies: PolicyCell,
    vf: VfIndex,
    started: Vec<Vring>,
}

impl Host for Seat {
    fn start_queues(&mut self, queues: Vec<Vring>) {
        self.started.extend(queues);
    }

    fn stop_queues(&mut self, queues: &[u32]) -> Vec<Option<Vring>> {
        queues.iter().map(|_| None).collect()
    }

    fn request(&mut self, request: &MailboxRequest) -> Result<(), NotGranted> {
        let granted = self.policy().with_message(self.vf, request)?;
        self.policies.publish(granted.policy);
        granted.denied.map_or(Ok(()), |why| Err(why.into()))
    }

    fn policy(&self) -> Arc<Policy> {
        self.policies.load()
    }

    fn vf(&self) -> VfIndex {
        self.vf
    }

    fn speed_mbps(&self) -> u32 {
        10_000
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

struct Bar {
    function: Box<dyn Function>,
    seat: Seat,
}

impl Registers for Bar {
    fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.function.read(0, offset, &mut data, &mut self.seat);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u32) {
        let data = value.to_le_bytes();
        self.function.write(0, offset, &data, &mut self.seat);
    }
}

/// The maker's driver.
enum Driver {
    Intel(Box<IntelDriver>),
    Solarflare(Box<SolarflareDriver>),
}

impl Driver {
    fn send(&mut self, frame: &[u8], ask: &Ask) -> bool {
        match self {
            Driver::Intel(driver) => driver.send(frame, ask),
            Driver::Solarflare(driver) => driver.send(frame, ask),
        }
    }

    fn kick(&mut self, bar: &mut Bar) {
        match self {
            Driver::Intel(driver) => driver.kick(bar),
            Driver::Solarflare(driver) => driver.kick(bar),
        }
    }

    fn recv(&mut self, bar: &mut Bar) -> Option<Received> {
        match self {
            Driver::Intel(driver) => driver.recv(bar),
            Driver::Solarflare(driver) => driver.recv(bar),
        }
    }
}

/// A guest with a VF of hardware.
struct Hardware {
    bar: Bar,
    driver: Driver,
    vectors: Arc<Vectors>,
}

impl Hardware {
    /// Starts its driver and attaches its rings.
    fn start(bench: &mut Bench, vf: usize) -> Hardware {
        let solarflare = vf == SOLARFLARE;
        let memory = Arc::new(vf_guest::memory::GuestMemory::new(2 << 20, true).unwrap());
        let region = &memory.regions()[0];
        let layout = region.layout();
        let spec = RegionSpec {
            guest_addr: layout.guest_addr,
            size: layout.size,
            user_addr: layout.user_addr,
            mmap_offset: layout.mmap_offset,
        };
        let dma = GuestMemory::map(vec![(spec, region.dup_fd().unwrap())]).unwrap();
        let mut bar = Bar {
            function: match solarflare {
                true => Box::new(Ef10::new()),
                false => Box::new(Ixgbevf::new(1)),
            },
            seat: Seat {
                policies: bench.policies.clone(),
                vf: VfIndex::from(vf),
                started: Vec::new(),
            },
        };
        let vectors = Arc::new(Vectors::new(bar.function.identity().msix.vectors));
        let environment = Environment {
            memory: Some(dma),
            vectors: Arc::clone(&vectors),
        };
        bar.function.set_environment(environment, &mut bar.seat);
        let mut alloc = Allocator::new(layout);
        let driver = if solarflare {
            let driver = SolarflareDriver::start(&mut bar, &memory, &mut alloc).unwrap();
            assert_eq!(driver.mac, mac(vf).0);
            Driver::Solarflare(Box::new(driver))
        } else {
            let mut driver = IntelDriver::start(&mut bar, &memory, &mut alloc).unwrap();
            assert_eq!(driver.mac, mac(vf).0);
            // Groups and broadcast, and VLAN 100.
            driver.ask(&mut bar, &[0xc, 1]).unwrap();
            driver.ask(&mut bar, &[4 | 1 << 16, 100]).unwrap();
            Driver::Intel(Box::new(driver))
        };
        for vring in bar.seat.started.drain(..) {
            bench.attach(vf, vring);
        }
        Hardware {
            bar,
            driver,
            vectors,
        }
    }

    fn send(&mut self, frame: &[u8], ask: &Ask) {
        assert!(self.driver.send(frame, ask));
        self.driver.kick(&mut self.bar);
    }

    /// Frames as they were before a tag was taken out of them.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let received = std::iter::from_fn(|| self.driver.recv(&mut self.bar));
        let whole = received.map(|mut got| {
            if let Some(vlan) = got.vlan {
                let [high, low] = vlan.to_be_bytes();
                got.bytes.splice(12..12, [0x81, 0, high, low]);
            }
            got.bytes
        });
        whole.collect()
    }
}

/// VFs 0 and 1 are Intel's, 2 is Solarflare's, 3 has all offloads of virtio, 4 none.
const SOLARFLARE: usize = 2;
const HARDWARE: usize = 3;
const OFFLOADS: usize = 3;
const PLAIN: usize = 4;
const VFS: usize = 5;
const TSO6: u64 = feature::HOST_TSO6 | feature::GUEST_TSO6;

/// Guests of every kind.
struct Mixed {
    bench: Bench,
    hardware: Vec<Hardware>,
}

impl Mixed {
    fn new(path: Path) -> Mixed {
        let mut bench = Bench::bare(&[path; VFS], ENDLESS, None);
        let start = |vf| Hardware::start(&mut bench, vf);
        let hardware = (0..HARDWARE).map(start).collect();
        // The first places are not used.
        for vf in 0..VFS {
            let features = match vf {
                // With super-frames whose TCP headers have CWR set (VIRTIO_NET_F_GUEST_ECN).
                OFFLOADS => NetConfig::PLAIN | NetConfig::CHECKSUM | NetConfig::TSO | TSO6 | 1 << 9,
                _ => NetConfig::PLAIN,
            };
            let config = NetConfig {
                features,
                ..queue_of(256)
            };
            let mut vm = Vm::new(vf, &config);
            if vf >= HARDWARE {
                for index in 0..vm.net.rings() {
                    bench.attach(vf, vm.vring(index, true));
                }
            }
            bench.vms.push(vm);
        }
        Mixed { bench, hardware }
    }

    /// What each has received since, and what has left on the wire.
    fn receive(&mut self) -> Vec<Vec<Vec<u8>>> {
        let mut all: Vec<_> = self.hardware.iter_mut().map(Hardware::receive).collect();
        for vm in &mut self.bench.vms[HARDWARE..] {
            vm.receive();
            all.push(std::mem::take(&mut vm.got));
        }
        all.push(std::mem::take(&mut self.bench.arrived));
        all
    }

    fn send(&mut self, sending: &Sending) {
        let frame = sending.frame();
        match sending.from {
            vf @ ..HARDWARE => self.hardware[vf].send(&frame, &sending.ask(&frame)),
            vf @ ..VFS => {
                let net = &mut self.bench.vms[vf].net;
                assert!(net.send(0, &sending.header(&frame), &frame).unwrap());
                net.kick();
            }
            _ => self.bench.send_from_far(private(frame)),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Nothing is left to the NIC.
    Whole,
    /// The checksum is, if whoever sends can leave it.
    Checksum,
    /// The frame is cut into segments of so many bytes.
    Cut(u16),
}

#[derive(Clone, Debug)]
struct Sending {
    /// A VF, or the far end of the wire.
    from: usize,
    /// A VF, everybody, or somebody on the wire.
    to: usize,
    kind: Kind,
    payload: usize,
    tagged: bool,
    v6: bool,
}

impl Sending {
    /// What the sender has no offload for is whole.
    fn kind(&self) -> Kind {
        match self.from {
            ..=OFFLOADS => self.kind,
            _ => Kind::Whole,
        }
    }

    fn frame(&self) -> Vec<u8> {
        let payload = match self.kind() {
            Kind::Cut(_) => self.payload * 10,
            _ => self.payload,
        };
        let mut frame = tcp_frame(self.v6, usize::from(self.tagged), payload);
        if !self.v6 {
            // Who leaves a virtio device its checksum has made that of the IP header.
            let ip = 14 + 4 * usize::from(self.tagged);
            frame[ip + 10..ip + 12].fill(0);
            let sum = checksum::Sum::default().with(&frame[ip..ip + 20]).folded();
            frame[ip + 10..ip + 12].copy_from_slice(&(!sum).to_be_bytes());
        }
        let to = match self.to {
            vf @ ..VFS => mac(vf),
            VFS => BROADCAST,
            _ => BEYOND,
        };
        let from = if self.from < VFS {
            mac(self.from)
        } else {
            BEYOND
        };
        frame[..6].copy_from_slice(&to.0);
        frame[6..12].copy_from_slice(&from.0);
        frame
    }

    fn ask(&self, frame: &[u8]) -> Ask {
        let layout = TcpLayout::parse(frame).unwrap();
        let checksum = Some((layout.ip as u8, (layout.tcp - layout.ip) as u8, 6));
        let cut = |mss| (mss, (layout.payload - layout.tcp) as u8);
        match self.kind() {
            Kind::Whole => Ask::default(),
            Kind::Checksum => Ask {
                checksum,
                v4: !self.v6,
                ..Ask::default()
            },
            Kind::Cut(mss) => Ask {
                checksum,
                cut: Some(cut(mss)),
                v4: !self.v6,
                ..Ask::default()
            },
        }
    }

    fn header(&self, frame: &[u8]) -> NetHeader {
        let layout = TcpLayout::parse(frame).unwrap();
        let checksum = NetHeader {
            flags: 1,
            csum_start: layout.tcp as u16,
            csum_offset: 16,
            ..NetHeader::default()
        };
        match self.kind() {
            Kind::Whole => NetHeader::default(),
            Kind::Checksum => checksum,
            Kind::Cut(mss) => NetHeader {
                // No ECN was negotiated; the device does not look at the flag in the frame.
                gso_type: if self.v6 { 4 } else { 1 },
                gso_size: mss,
                hdr_len: layout.payload as u16,
                ..checksum
            },
        }
    }
}

fn sending() -> impl Strategy<Value = Sending> {
    let kind = prop_oneof![
        Just(Kind::Whole),
        Just(Kind::Checksum),
        (500u16..1400).prop_map(Kind::Cut),
    ];
    (
        0..VFS + 1,
        0..VFS + 2,
        kind,
        0usize..1400,
        any::<[bool; 2]>(),
    )
        .prop_map(|(from, to, kind, payload, [tagged, v6])| Sending {
            from,
            to,
            kind,
            payload,
            tagged,
            v6,
        })
}

/// What becomes another thing between two frames.
fn administered() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "vf 0 set vlan 100",
        "vf 0 set vlan 0",
        "vf 2 set vlan 100",
        "vf 2 set vlan 0",
        "vf 3 set vlan 7",
        "vf 3 set vlan 0",
        "vf 1 set spoofchk off",
        "vf 2 set spoofchk off",
        "vf 4 set mac 02:00:00:00:00:14",
        "vf 4 set mac 02:00:00:00:00:04",
        "vf 1 set state disable",
        "vf 1 set state auto",
        "link set mtu 600",
        "link set mtu 1500",
        "link set mtu 9000",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The golden rule, whatever rings the VFs have.
    #[test]
    fn both_paths_give_the_same_bytes_to_the_same_receivers(
        sendings in prop::collection::vec((prop::option::weighted(0.2, administered()), sending()), 1..30),
    ) {
        let mut paths = [Path::Direct, Path::Mediated].map(Mixed::new);
        let mut received = 0;
        for (n, (words, sending)) in sendings.iter().enumerate() {
            let [direct, mediated] = paths.each_mut().map(|mixed| {
                if let Some(words) = words {
                    mixed.bench.command(words);
                }
                mixed.send(sending);
                mixed.bench.run_until(Nanos((n as u64 + 1) * MS.0));
                mixed.receive()
            });
            received += direct.iter().flatten().count();
            prop_assert_eq!(&direct, &mediated, "{:?}", sending);
            // What a VF of hardware gets is whole, whatever was sent.
            let cut = matches!(sending.kind(), Kind::Cut(_));
            for frame in direct[..HARDWARE].iter().flatten().filter(|_| cut) {
                let _ = verify(frame);
            }
        }
        let drops = paths.each_ref().map(|mixed| mixed.bench.drops().iter().map(|d| d.1).sum::<u64>());
        let may_be_nowhere = |s: &Sending| s.from == s.to || s.from == VFS;
        prop_assert!(received > 0 || drops[0] > 0 || sendings.iter().all(|(_, s)| may_be_nowhere(s)));
    }

    /// Whatever a VF is to its guest, its frames and those to it are what they would be with virtqueues: of everybody who takes no
    /// super-frames, each gets the same bytes as the others, and it makes no difference who has sent them.
    #[test]
    fn no_kind_of_vf_gets_or_sends_other_bytes(
        sending in sending(),
        mediated in any::<bool>(),
    ) {
        let mut mixed = Mixed::new(if mediated { Path::Mediated } else { Path::Direct });
        let mut now = Nanos(0);
        // Without addresses, which are those of each.
        let mut arrives = |from, to| {
            // Several segments, if it is cut at all.
            let payload = sending.payload.max(150);
            mixed.send(&Sending { from, to, payload, ..sending.clone() });
            now = Nanos(now.0 + MS.0);
            mixed.bench.run_until(now);
            let mut got = mixed.receive().swap_remove(to);
            got.iter_mut().for_each(|frame| drop(frame.drain(..12)));
            got
        };
        let as_virtio = arrives(OFFLOADS, PLAIN);
        prop_assert!(!as_virtio.is_empty());
        for from in 0..=OFFLOADS {
            for to in (0..HARDWARE).chain([PLAIN]).filter(|to| *to != from) {
                prop_assert_eq!(&arrives(from, to), &as_virtio, "{} to {}", from, to);
            }
        }
        // Who takes what is left to do gets it all alike, too.
        let whole = arrives(0, OFFLOADS);
        for from in 1..HARDWARE {
            prop_assert_eq!(&arrives(from, OFFLOADS), &whole, "from {}", from);
        }
    }
}

#[test]
fn a_super_frame_goes_whole_to_whoever_takes_it_and_in_segments_to_the_others() {
    for path in [Path::Direct, Path::Mediated] {
        let mut mixed = Mixed::new(path);
        let ways = [
            (0, OFFLOADS),
            (SOLARFLARE, OFFLOADS),
            (0, 1),
            (0, SOLARFLARE),
            (SOLARFLARE, 0),
            (OFFLOADS, 0),
            (OFFLOADS, SOLARFLARE),
            (0, PLAIN),
            (SOLARFLARE, PLAIN),
        ];
        for (n, (from, to)) in ways.into_iter().enumerate() {
            let sending = Sending {
                from,
                to,
                kind: Kind::Cut(1000),
                payload: 1200,
                tagged: false,
                v6: false,
            };
            mixed.send(&sending);
            mixed.bench.run_until(Nanos((n as u64 + 1) * MS.0));
            let mut got = mixed.receive().swap_remove(to);
            let pieces = if to == OFFLOADS { 1 } else { 12 };
            assert_eq!(got.len(), pieces, "{from} to {to}");
            let frame = sending.frame();
            let payload = TcpLayout::parse(&frame).unwrap().payload;
            if to == OFFLOADS {
                // Its IP header is that of one long packet; its checksum is the receiver's business.
                let whole = got.remove(0);
                assert_eq!(whole[16..18], ((frame.len() - 14) as u16).to_be_bytes());
                assert_eq!(whole[payload..], frame[payload..]);
                continue;
            }
            let parts = got.iter().flat_map(|segment| {
                let layout = verify(segment);
                segment[layout.payload..].to_vec()
            });
            assert_eq!(parts.collect::<Vec<_>>(), frame[payload..]);
        }
    }
}

#[test]
fn a_switch_of_paths_under_load_loses_nothing_and_keeps_what_descriptors_have_said() {
    let mut mixed = Mixed::new(Path::Direct);
    let plain = Ask::default();
    let tagged = Ask {
        vlan: Some(100),
        ..plain
    };
    let mut number = 0u32;
    for round in 1..40u64 {
        for _ in 0..20 {
            let data = frame(mac(1), mac(0), number, 60 + (number % 900) as usize);
            let ask = if number.is_multiple_of(3) {
                &tagged
            } else {
                &plain
            };
            mixed.hardware[0].send(&data, ask);
            number += 1;
        }
        // In the middle of what waits.
        if round % 2 == 0 {
            mixed.bench.worker.poll(mixed.bench.now);
        }
        let path = if round % 2 == 0 { "direct" } else { "mediated" };
        mixed.bench.command(&format!("vf 0 set path {path}"));
        mixed.bench.command(&format!("vf 1 set path {path}"));
        mixed.bench.run_until(Nanos(round * MS.0));
        let got = mixed.receive().swap_remove(1);
        let numbers = got.iter().map(|frame| {
            let tag = if frame[12..14] == [0x81, 0] { 4 } else { 0 };
            let number = u32::from_be_bytes(frame[14 + tag..18 + tag].try_into().unwrap());
            assert_eq!(tag > 0, number % 3 == 0);
            assert_eq!(frame.len(), 60 + tag + (number % 900) as usize);
            number
        });
        assert_eq!(
            numbers.collect::<Vec<_>>(),
            (number - 20..number).collect::<Vec<_>>()
        );
    }
    assert_eq!(mixed.bench.drops(), []);
}

/// It would be cut behind headers that nobody has made right.
#[test]
fn a_super_frame_in_a_tunnel_is_counted_and_the_next_frame_passes() {
    for (vf, to) in [(0, 1), (SOLARFLARE, 0)] {
        let mut mixed = Mixed::new(Path::Direct);
        let mut tunnelled = tcp_frame(false, 0, 4000);
        let outer = [
            0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 4, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2,
        ];
        tunnelled.splice(14..14, outer);
        tunnelled[..6].copy_from_slice(&mac(to).0);
        tunnelled[6..12].copy_from_slice(&mac(vf).0);
        // As Linux leaves it to Intel's NIC: the IP header is all that is in front of TCP's.
        let ask = Ask {
            checksum: Some((14, 40, 6)),
            cut: Some((1000, 32)),
            v4: true,
            ..Ask::default()
        };
        mixed.hardware[vf].send(&tunnelled, &ask);
        let plain = frame(mac(to), mac(vf), 7, 60);
        mixed.hardware[vf].send(&plain, &Ask::default());
        mixed.bench.run_until(MS);
        assert_eq!(mixed.receive().swap_remove(to), [plain], "VF {vf}");
        assert_eq!(mixed.bench.drops(), [(DropReason::BadHeader, 1)], "VF {vf}");
    }
}

/// Has a guest's driver want 50 us between two interrupts.
fn moderate(guest: &mut Hardware) {
    match guest.driver {
        Driver::Intel(_) => guest.bar.write(vf_guest::ixgbevf::reg::VTEITR, 200),
        Driver::Solarflare(_) => guest
            .bar
            .write(vf_guest::sfc::reg::EVENT_TIMER, 3 << 14 | 50),
    }
}

/// Has it want the next interrupt, at once if something is there that it has not read.
fn unmask(guest: &mut Hardware) {
    match &mut guest.driver {
        Driver::Intel(_) => guest.bar.write(vf_guest::ixgbevf::reg::VTEIMS, 3),
        Driver::Solarflare(driver) => driver.arm(&mut guest.bar),
    }
}

/// Frames from VF 0, one a microsecond: the microseconds in which the driver of another VF is interrupted, which then reads what there is and wants
/// the next interrupt so many microseconds later, `busy` the first time and at once thereafter, before it has read what has come meanwhile. It sends a frame each microsecond, too, if it `sends`.
fn interrupted(vf: usize, busy: u64, sends: bool) -> Vec<u64> {
    let mut mixed = Mixed::new(Path::Direct);
    mixed.bench.now = MS;
    let guest = &mut mixed.hardware[vf];
    moderate(guest);
    // What has been said while it started is behind it.
    guest.receive();
    guest.vectors.take_pending(0);
    unmask(guest);
    let (mut raised, mut masked_until) = (Vec::new(), None);
    for step in 0..170u64 {
        mixed.bench.now = MS + Nanos(step * 1000);
        let data = frame(mac(vf), mac(0), step as u32, 60);
        mixed.hardware[0].send(&data, &Ask::default());
        if sends {
            let data = frame(mac(0), mac(vf), step as u32, 60);
            mixed.hardware[vf].send(&data, &Ask::default());
        }
        mixed.bench.settle();
        let guest = &mut mixed.hardware[vf];
        if masked_until == Some(step) {
            unmask(guest);
            masked_until = None;
        }
        if guest.vectors.take_pending(0) {
            raised.push(step);
            guest.receive();
            match (busy, raised.len()) {
                (1.., 1) => masked_until = Some(step + busy),
                _ => unmask(guest),
            }
        }
    }
    raised
}

#[test]
fn interrupts_are_held_back_as_long_as_the_driver_wants() {
    for vf in [1, SOLARFLARE] {
        assert_eq!(interrupted(vf, 0, false), [0, 50, 100, 150], "VF {vf}");
    }
}

#[test]
fn rings_that_share_an_interrupt_hold_it_back_together() {
    for vf in [1, SOLARFLARE] {
        assert_eq!(interrupted(vf, 0, true), [0, 50, 100, 150], "VF {vf}");
    }
}

#[test]
fn the_time_between_interrupts_runs_on_while_the_driver_masks_them() {
    for vf in [1, SOLARFLARE] {
        // What is due while the driver is busy comes when it unmasks it.
        assert_eq!(interrupted(vf, 20, false), [0, 50, 100, 150], "VF {vf}");
        assert_eq!(interrupted(vf, 60, false), [0, 60, 110, 160], "VF {vf}");
    }
}
