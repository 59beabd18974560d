//! Hosts on the virtual clock with guests that move raw frames over the real protocol. No thread: guests are polled.

use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use proptest::prelude::*;
use vf_guest::frontend::Frontend;
use vf_guest::net::{NetConfig, NetDevice, NetHeader, Notify, RxFrame};
use vf_model::{Judge, LinkConfig, LinkSetting, MacAddr, Profile, VfLinkState, VfSetting};
use vf_nic::config::{Config, Offloads, Overrides, SocketRole, VfSettings};
use vf_nic::control::{Change, Dispatcher, NicCommand, Nics, Observer, Request, Response};
use vf_nic::instance::NicInstance;
use vf_nic::watch::{Direction, Port, Seen};
use vf_vhost::endpoint::Endpoint;

use super::*;

fn nic(name: &str, mac: u8, vfs: &[Vec<VfSetting>]) -> NicSettings {
    let vf = |policy: &Vec<VfSetting>| VfSettings {
        policy: policy.clone(),
        ..VfSettings::new(PathBuf::new(), SocketRole::Server)
    };
    NicSettings {
        name: name.to_owned(),
        vfs: vfs.len() as u16,
        workers: 1,
        mac_base: MacAddr([2, 0, 0, 0, mac, 0]),
        queue_pairs: 1,
        mtu: None,
        link_up: true,
        cable_out: false,
        offloads: Offloads::default(),
        loopback: None,
        uplink: None,
        netem: vf_model::Impairments::default(),
        profile: Profile::Generic,
        switch: Vec::new(),
        filters: Vec::new(),
        vf: vfs.iter().map(vf).collect(),
    }
}

fn on_path(path: Path) -> Vec<VfSetting> {
    vec![VfSetting::Path(path)]
}

/// Hosts back to back.
fn world(nics: &[NicSettings]) -> VirtualHosts {
    moderated(nics, Nanos(0))
}

fn moderated(nics: &[NicSettings], moderation: Nanos) -> VirtualHosts {
    let wire = WireSettings {
        between: [0, 1],
        link: LinkConfig::default(),
    };
    let notification = Notification {
        kicks: false,
        moderation,
    };
    let wires = if nics.len() > 1 { vec![wire] } else { vec![] };
    VirtualHosts::new(nics, &wires, None, notification).unwrap()
}

fn connect(world: &VirtualHosts, h: usize, vf: usize) -> NetDevice {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (host, vf) = (Rc::clone(world.host(h)), VfIndex::from(vf));
    let device = host.borrow().device_config(vf);
    host.borrow_mut().vfs[vf.index()].socket = Some(Endpoint::from_stream(ours, device).into());
    let mut frontend = Frontend::from_stream(theirs).unwrap();
    let now = Instant::now();
    frontend.on_wait = Some(Box::new(move || {
        let mut host = host.borrow_mut();
        host.serve(vf, |endpoint, device| endpoint.poll(now, device));
    }));
    let config = NetConfig {
        notify: Notify::Polled,
        features: NetConfig::PLAIN,
        ..NetConfig::default()
    };
    NetDevice::start(frontend, &config).unwrap()
}

fn send(world: &mut VirtualHosts, net: &mut NetDevice, h: usize, vf: usize, frame: &[u8]) {
    assert!(net.send(0, &NetHeader::default(), frame).unwrap());
    net.kick();
    world.sent(h, VfIndex::from(vf));
}

fn received(net: &mut NetDevice) -> Vec<Vec<u8>> {
    let mut frame = RxFrame::default();
    let mut frames = Vec::new();
    while net.recv(0, &mut frame).unwrap() {
        frames.push(frame.bytes().to_vec());
    }
    frames
}

fn run_until(world: &mut VirtualHosts, limit: Nanos) {
    while let Some(turn) = world.advance(limit) {
        if let Event::Command { host, command } = turn {
            world.apply(host, &command).unwrap();
        }
    }
    world.skip_to(limit);
}

/// Who saw what, and when.
type Log = Rc<RefCell<Vec<(u64, usize, Port, Direction, Vec<u8>)>>>;

fn watch(world: &mut VirtualHosts) -> Log {
    let log = Log::default();
    let to = Rc::clone(&log);
    let watcher = Box::new(move |seen: &Seen<'_>| {
        let frame = seen.frame.to_vec();
        let mut to = to.borrow_mut();
        to.push((seen.at.0, seen.host, seen.port, seen.direction, frame));
    });
    world.watch(Detail::Whole, watcher);
    log
}

fn broadcast(src: MacAddr) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &src.0, &[0x88, 0xb5]].concat();
    frame.resize(60, 7);
    frame
}

#[test]
fn every_frame_is_seen_wherever_it_passes() {
    for paths in [
        [Path::Direct, Path::Direct],
        [Path::Direct, Path::Mediated],
        [Path::Mediated, Path::Direct],
        [Path::Mediated, Path::Mediated],
    ] {
        let tagged = paths.map(|path| vec![VfSetting::Vlan(5), VfSetting::Path(path)]);
        let far = nic("b", 0xb, &[on_path(paths[1])]);
        let mut world = world(&[nic("a", 0xa, &tagged), far]);
        let log = watch(&mut world);
        let mut guests = [(0, 0), (0, 1), (1, 0)].map(|(h, vf)| connect(&world, h, vf));
        let frame = broadcast(MacAddr([2, 0, 0, 0, 0xa, 0]));
        send(&mut world, &mut guests[0], 0, 0, &frame);
        run_until(&mut world, Nanos(1_000_000));
        let mut log = log.borrow().clone();
        // 88 bytes on the wire take 70.4 ns.
        let arrival = 71 + LinkConfig::default().propagation.0;
        let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        let vf = |vf| Port::Vf(VfIndex(vf));
        let mut expected = [
            (0, 0, vf(0), Direction::Tx, frame.clone()),
            (0, 0, vf(1), Direction::Rx, frame.clone()),
            (arrival, 1, Port::Wire, Direction::Rx, tagged.clone()),
            (arrival, 1, vf(0), Direction::Rx, tagged.clone()),
        ];
        log.sort();
        expected.sort();
        assert_eq!(log, expected, "{paths:?}");
        assert_eq!(received(&mut guests[1]), [frame]);
        assert_eq!(received(&mut guests[2]), [tagged]);
    }
}

#[test]
fn a_command_is_applied_at_its_time_and_before_all_else() {
    let path = |path| Command::SetVf {
        vfs: VfIndex(0).into(),
        settings: vec![VfSetting::Path(path)],
    };
    let direct = on_path(Path::Direct);
    let mut world = world(&[nic("a", 0xa, &[direct.clone(), direct])]);
    let mut guests = [connect(&world, 0, 0), connect(&world, 0, 1)];
    world.at(Nanos(500), 0, path(Path::Direct));
    world.at(Nanos(300), 0, path(Path::Mediated));
    world.at(Nanos(500), 0, path(Path::Mediated));
    let guest = world.join(Nanos(300));
    let command = |command| Event::Command { host: 0, command };
    assert_eq!(world.advance(Nanos(299)), None);
    let turn = world.advance(Nanos(300)).unwrap();
    assert_eq!(
        (turn, world.now()),
        (command(path(Path::Mediated)), Nanos(300))
    );
    world.apply(0, &path(Path::Mediated)).unwrap();
    assert_eq!(world.advance(Nanos(300)), Some(Event::Guest(guest)));
    let frame = broadcast(MacAddr([2, 0, 0, 0, 0xa, 0]));
    send(&mut world, &mut guests[0], 0, 0, &frame);
    // In the order in which they were given.
    for expected in [Path::Direct, Path::Mediated] {
        let turn = loop {
            match world.advance(Nanos(500)).unwrap() {
                Event::Interrupt { .. } => {}
                turn => break turn,
            }
        };
        assert_eq!((turn, world.now()), (command(path(expected)), Nanos(500)));
    }
    assert_eq!(world.advance(Nanos(u64::MAX)), None);
    assert_eq!(received(&mut guests[1]), [frame]);
    let counted = |h: &NicInstance| h.hypervisor.borrow().model.counters(VfIndex(0)).tx_packets;
    assert_eq!(counted(&world.host(0).borrow()), 1);
}

#[test]
fn what_is_sent_and_what_is_received_is_interrupted_for_apart() {
    let vfs = [on_path(Path::Direct), on_path(Path::Direct)];
    let mut world = moderated(&[nic("a", 0xa, &vfs)], Nanos(1000));
    let mut guests = [connect(&world, 0, 0), connect(&world, 0, 1)];
    let frames = [0, 1].map(|vf| broadcast(MacAddr([2, 0, 0, 0, 0xa, vf])));
    // Each has sent, and is told; the answer is not held up by that, but what is sent next is.
    let mut interrupts = Vec::new();
    for (at, vf) in [(0, 0), (10, 1), (20, 0)] {
        while let Some(turn) = world.advance(Nanos(at)) {
            interrupts.push((world.now().0, turn));
        }
        world.skip_to(Nanos(at));
        for net in &mut guests {
            received(net);
            net.tx_room(0).unwrap();
            net.arm(true);
        }
        send(&mut world, &mut guests[vf], 0, vf, &frames[vf]);
    }
    while let Some(turn) = world.advance(Nanos(u64::MAX)) {
        interrupts.push((world.now().0, turn));
    }
    let (rx, tx) = (Direction::Rx, Direction::Tx);
    let expected = [
        (0, 0, tx),
        (0, 1, rx),
        (10, 0, rx),
        (10, 1, tx),
        (1000, 0, tx),
        (1000, 1, rx),
    ]
    .map(|(at, vf, direction)| {
        let vf = VfIndex(vf);
        let host = 0;
        (
            at,
            Event::Interrupt {
                host,
                vf,
                direction,
            },
        )
    });
    assert_eq!(interrupts, expected);
}

#[test]
fn figures_are_read_while_planes_are_on_loan() {
    let vfs = [on_path(Path::Direct), on_path(Path::Mediated)];
    let mut world = world(&[nic("a", 0xa, &vfs)]);
    let mut guests = [connect(&world, 0, 0), connect(&world, 0, 1)];
    let frame = broadcast(MacAddr([2, 0, 0, 0, 0xa, 0]));
    send(&mut world, &mut guests[0], 0, 0, &frame);
    run_until(&mut world, Nanos(1000));
    assert_eq!(received(&mut guests[1]), [frame]);

    let host = world.host(0).borrow();
    // Whoever borrowed this once more would panic here, and wait for ever on a thread.
    let (_direct, _mediated) = (host.worker().borrow(), host.hypervisor.borrow());
    let show = Observer::default().show(world.now(), std::iter::once(&*host));
    let nic = &show.nics[0];
    let (sent, received) = (&nic.vfs[0], &nic.vfs[1]);
    assert_eq!((sent.total.tx_packets, sent.direct.tx_packets), (1, 1));
    assert_eq!(
        (received.total.rx_packets, received.mediated.rx_packets),
        (1, 1)
    );
    assert_eq!(received.queues[0].rx_packets, 1);
    assert_eq!((nic.bridge.learned, nic.bridge.entries), (1, 1));
    assert_eq!(nic.pf.rx_packets, 1);
    assert_eq!(host.packets(VfIndex(1), Direction::Rx), 1);
    assert_eq!(host.device_config(VfIndex(1)).speed_mbps, 10_000);
    assert!(host.filters().is_empty());
}

#[test]
fn a_cable_pulled_at_one_end_takes_the_carrier_at_both() {
    let link = |up| Command::SetLink(vec![LinkSetting::Up(up)]);
    let drops = |world: &VirtualHosts, h: usize| -> Vec<(Option<VfIndex>, String)> {
        let drops = world.host(h).borrow().statistics.clone();
        let drops = drops.drops().map(|(vf, why, _)| (vf, why.to_string()));
        drops.collect()
    };
    for path in [Path::Direct, Path::Mediated] {
        let state = VfSetting::State(VfLinkState::Enable);
        let enabled = vec![VfSetting::Path(path), state];
        let vfs = [on_path(path), enabled.clone(), enabled];
        let mut world = world(&[nic("a", 0xa, &vfs), nic("b", 0xb, &[on_path(path)])]);
        let mut a = [0, 1, 2].map(|vf| connect(&world, 0, vf));
        let mut b = connect(&world, 1, 0);
        let carrier = |world: &VirtualHosts, h: usize, vf: usize| {
            let host = world.host(h).borrow();
            host.device_config(VfIndex::from(vf)).link_up
        };
        world.apply(1, &link(false)).unwrap();
        assert!(!carrier(&world, 0, 0) && !carrier(&world, 1, 0), "{path}");
        assert!(
            carrier(&world, 0, 1),
            "state enable is without regard to the cable"
        );
        let [beyond, here] = [MacAddr([2, 0, 0, 0, 0xb, 0]), MacAddr([2, 0, 0, 0, 0xa, 2])];
        let frame = |vf: u8, to: MacAddr| {
            let src = MacAddr([2, 0, 0, 0, 0xa, vf]);
            let mut frame = broadcast(src);
            frame[..6].copy_from_slice(&to.0);
            frame
        };
        send(&mut world, &mut a[0], 0, 0, &frame(0, beyond));
        send(&mut world, &mut a[1], 0, 1, &frame(1, beyond));
        send(&mut world, &mut a[1], 0, 1, &frame(1, here));
        run_until(&mut world, Nanos(1_000_000));
        assert_eq!(received(&mut b), [[0; 0]; 0]);
        assert_eq!(received(&mut a[2]), [frame(1, here)]);
        let lost = |vf| (Some(VfIndex(vf)), "no_carrier".to_owned());
        assert_eq!(
            drops(&world, 0),
            [lost(0), lost(1)],
            "{path}: where it was sent"
        );
        assert_eq!(drops(&world, 1), [], "{path}: nothing has arrived");
        // Whose own port is down knows more than that.
        world.apply(0, &link(false)).unwrap();
        world.apply(1, &link(true)).unwrap();
        assert!(!carrier(&world, 0, 0) && !carrier(&world, 1, 0));
        send(&mut world, &mut a[0], 0, 0, &frame(0, beyond));
        run_until(&mut world, Nanos(2_000_000));
        assert!(drops(&world, 0).contains(&(Some(VfIndex(0)), "link_down".to_owned())));
        world.apply(0, &link(true)).unwrap();
        assert!(carrier(&world, 0, 0) && carrier(&world, 1, 0));
        send(&mut world, &mut a[0], 0, 0, &frame(0, beyond));
        run_until(&mut world, Nanos(3_000_000));
        assert_eq!(received(&mut b), [frame(0, beyond)]);
    }
}

/// NICs whose commands come into force at once.
struct Bench(VirtualHosts);

impl Nics for Bench {
    type Error = std::convert::Infallible;

    fn now(&self) -> Nanos {
        self.0.now()
    }

    fn nics(&self) -> impl Iterator<Item = impl Deref<Target = NicInstance>> {
        self.0.hosts().map(|host| host.borrow())
    }

    fn change(&mut self, changes: Vec<Change>) -> Result<Result<Vec<String>, String>, Self::Error> {
        let change = |change: Change| {
            let mut host = self.0.host(change.nic).borrow_mut();
            host.set_policy(change.policy)
        };
        Ok(Ok(changes.into_iter().flat_map(change).collect()))
    }
}

/// Commands, some right and some wrong, some only sometimes.
const SAID: &[&str] = &[
    "vf 0 mac 02:00:00:00:00:77",
    "vf 0-1 mac 00:00:00:00:00:00",
    "vf 0 mac 01:00:5e:00:00:01",
    "vf 0 vlan 100 qos 3 proto 802.1ad",
    "vf 0-2 vlan 5",
    "vf 1 vlan 0",
    "vf 0 qos 3",
    "vf 0 set trust on spoofchk off state disable",
    "vf 0 set trust off path nowhere",
    "vf 0-1 state auto",
    "vf 1 path mediated",
    "vf 0-1 path direct",
    "vf 0 path auto",
    "vf 1 mirror 0",
    "vf 0 mirror none",
    "vf 1 bridge on",
    "vf 1 bridge off",
    "vf 0 max_tx_rate 100",
    "vf 0 rate 0",
    "vf 0 min_tx_rate 6000",
    "vf 0-1 min_tx_rate 6000",
    "vf 0-1 min_tx_rate 0",
    "vf 0 query_rss on",
    "vf 0 mtu 1400",
    "vf 0-1 mtu 67",
    "vf 1 mtu 0",
    "link set dev a mtu 9000 up",
    "link set mtu 10000",
    "link set down mtu 20",
    "link set down",
    "link set numvfs 0",
    "link set numvfs 2",
    "link set numvfs 9",
    "link set hwmode vepa",
    "link set hwmode hub",
    "vf 0 vlan add 100-119",
    "vf 0-1 vlan add 110",
    "vf 0 vlan del 100-119",
    "vf 0 mac add 02:00:00:00:00:07 vlan 5",
    "vf 0-1 mac del 02:00:00:00:00:07 vlan 5",
    "vf 0 rss equal 2",
    "vf 0-9 rss equal 2",
    "vf 1 rss weight 0 0",
    "vf 0 request promisc on",
    "vf 0-1 request mac 02:00:00:00:00:55",
    "vf 0 request rss",
    "vf 1 request mtu 9000",
    "vf 0 request vlan add 7",
    "vf 0 reset",
    "vf 7 reset",
    "fdb add 02:00:00:00:00:44 self",
    "fdb del 02:00:00:00:00:44 self",
    "filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 1",
    "filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 9",
    "filter flush",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// What is refused, a command or a batch of them, has changed nothing that anybody can see.
    #[test]
    fn a_refused_command_leaves_what_is_shown_as_it_was(
        batches in prop::collection::vec(prop::collection::vec(prop::sample::select(SAID), 1..4), 1..30),
    ) {
        let mut bench = Bench(world(&[nic("a", 0xa, &[Vec::new(), Vec::new()])]));
        let mut dispatcher = Dispatcher::new(Config::load(None, &Overrides::default()).unwrap());
        let mut ask = |bench: &mut Bench, request| dispatcher.answer(bench, request).unwrap();
        for batch in batches {
            let commands = batch.iter().map(|words| NicCommand {
                nic: None,
                words: words.split(' ').map(str::to_owned).collect(),
            });
            let commands = commands.collect();
            let seen = [Request::Show, Request::Save];
            let before = seen.clone().map(|request| ask(&mut bench, request));
            let answer = ask(&mut bench, Request::Batch { commands });
            let after = seen.map(|request| ask(&mut bench, request));
            let [before, after] = [before, after].map(|seen| serde_json::to_string(&seen).unwrap());
            if !matches!(answer, Response::Done(_)) {
                prop_assert_eq!(before, after, "{:?}", batch);
            }
        }
    }
}

/// However little else there is: a capture has its own times.
#[test]
fn a_capture_that_is_played_begins_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("two.pcap");
    let mut bytes = Vec::new();
    // In nanoseconds, of Ethernet.
    for word in [0xa1b2_3c4d_u32, 4 << 16 | 2, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 9, 9, 0x88, 0xb5], &[7; 46]].concat();
    for at in [1_000_u32, 11_000] {
        for word in [5, at, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(&frame);
    }
    std::fs::write(&file, bytes).unwrap();
    for (delay, first) in [("", 0), (" delay 5ms", 5_000_000)] {
        let uplink = format!("pcap {}{delay}", file.display());
        let nic = NicSettings {
            uplink: Some(uplink.parse().unwrap()),
            ..nic("a", 1, &[on_path(Path::Direct)])
        };
        let mut world = world(&[nic]);
        let came = |world: &VirtualHosts| {
            let host = world.host(0).borrow();
            let uplink = host.statistics.uplink().unwrap();
            uplink.others.iter().map(|(_, n)| n.get()).sum::<u64>()
        };
        run_until(&mut world, Nanos(first + 9_999));
        assert_eq!(came(&world), 1, "{delay}");
        run_until(&mut world, Nanos(first + 10_000));
        assert_eq!(came(&world), 2, "{delay}");
    }
}
