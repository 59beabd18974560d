//! The state machine without a socket: orders of messages as front ends send them, and as none should.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use proptest::prelude::*;
use rustix::fs::MemfdFlags;

use super::*;
use crate::features::VirtioFeatures;
use crate::ring::driver::Driver;

const GUEST: u64 = 0x4000_0000;
const USER: u64 = 0x7f00_0000_0000;
const SIZE: u64 = 0x4000;

/// Holds rings, checks that they come and go in turn, and loses one now and then.
#[derive(Default)]
struct Rings {
    running: BTreeMap<u32, Vring>,
    stops: u32,
    lose_every: u32,
}

impl Rings {
    fn start(&mut self, vring: Vring) {
        assert!(
            self.running.insert(vring.index(), vring).is_none(),
            "started twice"
        );
    }

    fn stop(&mut self, index: u32) -> Option<Vring> {
        let vring = self
            .running
            .remove(&index)
            .expect("stopped without having been started");
        self.stops += 1;
        let lost = self.lose_every > 0 && self.stops.is_multiple_of(self.lose_every);
        (!lost).then_some(vring)
    }

    /// Does what the session says; what it has for the front end.
    fn act(&mut self, session: &mut Session, config: &DeviceConfig) -> Handled {
        let mut handled = Handled::default();
        while let Some(action) = session.poll(config) {
            match action {
                Action::Stop(rings) => {
                    session.stopped(rings.into_iter().map(|ring| self.stop(ring)).collect());
                }
                Action::Start(rings) => rings.into_iter().for_each(|ring| self.start(ring)),
                Action::CtrlCommand(_) | Action::Allow => session.decided(true),
                Action::Reply(reply)
                | Action::Kicked {
                    reply: Some(reply), ..
                } => {
                    assert_eq!(handled.reply.replace(reply), None, "answered twice");
                }
                Action::Refused(_, what) => handled.refused = Some(what),
                Action::Close(why) => handled.closed = Some(why),
                _ => {}
            }
        }
        handled
    }

    /// What comes of a message.
    fn hear(
        &mut self,
        session: &mut Session,
        config: &DeviceConfig,
        header: Header,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Handled {
        session.receive(config, header, payload, fds);
        self.act(session, config)
    }

    fn end(&mut self, session: &mut Session, config: &DeviceConfig) {
        session.end();
        self.act(session, config);
    }
}

/// What the front end hears, and what would be logged.
#[derive(Debug, Default)]
struct Handled {
    reply: Option<Vec<u8>>,
    refused: Option<SessionRefusal>,
    closed: Option<SessionRefusal>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Memory,
    ShortMemory,
    EventFd,
    Pipe,
}

/// The descriptors to send, made once.
struct Descriptors([OwnedFd; 4]);

impl Descriptors {
    fn new() -> Descriptors {
        let memory = |size| {
            let fd = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&fd, size).unwrap();
            fd
        };
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        let eventfd = rustix::event::eventfd(0, flags).unwrap();
        Descriptors([
            memory(SIZE),
            memory(0x1000),
            eventfd,
            rustix::pipe::pipe().unwrap().0,
        ])
    }

    fn get(&self, kind: Kind) -> OwnedFd {
        self.0[kind as usize].as_fd().try_clone_to_owned().unwrap()
    }
}

type Message = (u32, u32, Vec<u8>, Vec<Kind>);

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let kind = prop_oneof![
        Just(Kind::Memory),
        Just(Kind::ShortMemory),
        Just(Kind::EventFd),
        Just(Kind::Pipe)
    ];
    prop::collection::vec(kind, 0..3)
}

fn bytes32(fields: &[u32]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

fn bytes64(fields: &[u64]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect()
}

/// Requests that make sense, or nearly.
fn sensible() -> impl Strategy<Value = Message> {
    let ring = prop_oneof![8 => 0u32..2, 4 => 2u32..7, 1 => any::<u32>()];
    let region =
        (0u64..3, 0u64..3).prop_map(|(at, user)| [GUEST + at * SIZE, SIZE, USER + user * SIZE, 0]);
    let fd = prop_oneof![4 => Just(vec![Kind::EventFd]), 1 => kinds()];
    let memory = prop_oneof![4 => Just(vec![Kind::Memory]), 1 => kinds()];
    let offered = VirtioFeatures::offered(2).bits();
    let bits = prop_oneof![
        Just(offered),
        Just(offered & !VirtioFeatures::LOG_ALL.bits()),
        Just(offered & !(1 << 30)),
        Just(offered & !VirtioFeatures::MQ.bits()),
        Just(offered & !VirtioFeatures::CTRL_VQ.bits()),
        any::<u64>()
    ];
    let protocol = prop_oneof![4 => Just(ProtocolFeatures::all().bits()), 1 => any::<u64>()];
    let size = prop_oneof![Just(64u32), Just(256), any::<u32>()];
    let addr =
        (ring.clone(), prop_oneof![4 => 0u64..4, 1 => any::<u64>()]).prop_map(|(ring, page)| {
            let at = USER.wrapping_add(page.wrapping_mul(0x1000));
            let parts = [
                at,
                at.wrapping_add(0x1800),
                at.wrapping_add(0x1000),
                u64::MAX,
            ];
            (
                9,
                0,
                [bytes32(&[ring, 0]), bytes64(&parts)].concat(),
                vec![],
            )
        });
    let notification =
        (12u32..15, ring.clone(), any::<bool>(), fd).prop_map(|(code, ring, nofd, fd)| {
            let bits = u64::from(ring) | u64::from(nofd) << 8;
            (code, 0, bytes64(&[bits]), if nofd { vec![] } else { fd })
        });
    let table =
        (prop::collection::vec(region.clone(), 0..3), kinds()).prop_map(|(regions, kinds)| {
            let head = bytes32(&[regions.len() as u32, 0]);
            (
                5,
                0,
                [head, bytes64(regions.as_flattened())].concat(),
                kinds,
            )
        });
    let log = (
        prop_oneof![Just(0x1000u64), any::<u64>()],
        0u64..3,
        memory.clone(),
    );
    let log = log.prop_map(|(size, at, memory)| (6, 0, bytes64(&[size, at << 10]), memory));
    let codes = vec![1u32, 3, 4, 7, 15, 17, 21, 34, 36, 99];
    prop_oneof![
        1 => bits.prop_map(|bits| (2, 0, bytes64(&[bits]), vec![])),
        1 => protocol.prop_map(|bits| (16, 0, bytes64(&[bits]), vec![])),
        1 => (ring.clone(), size).prop_map(|(ring, size)| (8, 0, bytes32(&[ring, size]), vec![])),
        1 => (ring.clone(), any::<u32>())
            .prop_map(|(ring, base)| (10, 0, bytes32(&[ring, base >> 15]), vec![])),
        1 => ring.clone().prop_map(|ring| (11, 0, bytes32(&[ring, 0]), vec![])),
        1 => (ring, 0u32..2).prop_map(|(ring, on)| (18, 0, bytes32(&[ring, on]), vec![])),
        2 => addr,
        3 => notification,
        1 => table,
        1 => log,
        2 => (37u32..39, region, memory).prop_map(|(code, region, memory)| {
            (code, 0, [vec![0; 8], bytes64(&region)].concat(), memory)
        }),
        1 => prop::sample::select(codes).prop_map(|code| (code, 0, vec![], vec![])),
    ]
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let noise = (
        0u32..48,
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 0..80),
        kinds(),
    );
    let one = (prop_oneof![9 => sensible(), 1 => noise], any::<bool>()).prop_map(
        |((code, flags, payload, kinds), ack)| (code, flags | u32::from(ack) << 3, payload, kinds),
    );
    prop::collection::vec(one, 0..60)
}

/// What a refused request must not change.
fn snapshot(session: &Session) -> impl PartialEq + std::fmt::Debug + use<> {
    let rings = session
        .rings
        .iter()
        .map(|ring| (ring.setup, ring.started, ring.running));
    let memory = Arc::as_ptr(&session.memory).addr();
    let log = session.log.as_ref().map(|log| Arc::as_ptr(log).addr());
    (
        rings.collect::<Vec<_>>(),
        session.features,
        session.protocol.bits(),
        memory,
        (log, session.logging),
    )
}

fn check(session: &Session, dev: &Rings) -> Result<(), TestCaseError> {
    for (index, ring) in session.rings.iter().enumerate() {
        let index = index as u32;
        let is_control = session.control_ring() == Some(index);
        let control = session.control.as_ref().map(ControlQueue::vring);
        let held = dev.running.get(&index).filter(|_| !is_control);
        let held = held.or_else(|| control.filter(|vring| vring.index() == index));
        prop_assert_eq!(ring.running, held.is_some());
        if let Some(vring) = held {
            prop_assert!(ring.started && ring.setup.size.is_power_of_two());
            let used = session
                .pairs_used
                .is_none_or(|pairs| index < 2 * u32::from(pairs));
            let receives = index.is_multiple_of(2) && !is_control;
            prop_assert_eq!(vring.enabled(), ring.setup.enabled && (used || !receives));
            prop_assert_eq!(Some(vring.features()), session.features);
            prop_assert!(Arc::ptr_eq(vring.memory(), &session.memory));
            prop_assert_eq!(vring.size(), ring.setup.size);
            prop_assert_eq!(vring.kick_fd().is_some(), ring.kick.is_some());
        }
    }
    prop_assert!(
        dev.running
            .keys()
            .all(|&ring| (ring as usize) < session.rings.len()
                && Some(ring) != session.control_ring())
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_messages_keep_the_session_whole(messages in messages(), lose_every in 0u32..4) {
        let config = DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], 2);
        let fds = Descriptors::new();
        let mut dev = Rings { lose_every, ..Rings::default() };
        let mut session = Session::new(&config);
        for (request, flags, payload, kinds) in messages {
            let before = snapshot(&session);
            let header = Header { request, flags, size: payload.len() as u32 };
            let sent = kinds.into_iter().map(|kind| fds.get(kind)).collect();
            let handled = dev.hear(&mut session, &config, header, &payload, sent);
            check(&session, &dev)?;
            let after = snapshot(&session);
            session.serve_control();
            dev.act(&mut session, &config);
            check(&session, &dev)?;
            prop_assert_eq!(snapshot(&session), after);
            let Handled { reply, refused, closed } = handled;
            if refused.is_some() || closed.is_some() {
                prop_assert_eq!(snapshot(&session), before);
            }
            if closed.is_some() {
                // An endpoint would end the session here; the law holds all the same.
                continue;
            }
            let ack = header.need_reply() && session.protocol.contains(ProtocolFeatures::REPLY_ACK);
            let unknown = matches!(refused, Some(SessionRefusal::Unknown(_)));
            prop_assert_eq!(reply.is_some(), ack || !unknown && FrontendRequest::has_reply(request));
            if let Some(reply) = reply {
                prop_assert_eq!(&reply[..8], &bytes32(&[request, 5])[..]);
                let size = reply.len() as u32 - 12;
                prop_assert_eq!(&reply[8..12], &size.to_ne_bytes()[..]);
            }
        }
        dev.end(&mut session, &config);
        prop_assert!(dev.running.is_empty());
    }

    /// Sensible messages do get rings to run: the law above is not about nothing.
    #[test]
    fn a_ring_that_is_set_up_runs(mut order in Just((0usize..6).collect::<Vec<_>>()).prop_shuffle(), base in prop_oneof![Just(0), any::<u16>()]) {
        let config = DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], 1);
        let fds = Descriptors::new();
        let mut dev = Rings::default();
        let mut session = Session::new(&config);
        let addr = [USER, USER + 0x1800, USER + 0x1000, u64::MAX];
        let steps: [Message; 6] = [
            (2, 0, bytes64(&[(config.features - VirtioFeatures::RING_PACKED).bits()]), vec![]),
            (5, 0, [bytes32(&[1, 0]), bytes64(&[GUEST, SIZE, USER, 0])].concat(), vec![Kind::Memory]),
            (8, 0, bytes32(&[1, 64]), vec![]),
            (10, 0, bytes32(&[1, base.into()]), vec![]),
            (9, 0, [bytes32(&[1, 0]), bytes64(&addr)].concat(), vec![]),
            (12, 0, bytes64(&[1]), vec![Kind::EventFd]),
        ];
        let last = order.pop().unwrap();
        for step in order.into_iter().chain([last]) {
            let (request, flags, payload, kinds) = &steps[step];
            prop_assert!(dev.running.is_empty() || (step == 3 && step == last));
            let header = Header { request: *request, flags: *flags, size: payload.len() as u32 };
            let sent = kinds.iter().map(|kind| fds.get(*kind)).collect();
            let handled = dev.hear(&mut session, &config, header, payload, sent);
            prop_assert!(handled.refused.is_none() && handled.closed.is_none());
        }
        let waiting: Vec<u32> = session.unkicked().map(|(ring, _)| ring).collect();
        if base == 0 {
            prop_assert_eq!((dev.running.len(), &waiting[..]), (0, &[1][..]));
            session.kicked(1);
            dev.act(&mut session, &config);
        } else {
            prop_assert!(waiting.is_empty());
        }
        prop_assert_eq!(session.unkicked().count(), 0);
        prop_assert_eq!(dev.running.get(&1).map(Vring::base), Some(base.into()));
        dev.end(&mut session, &config);
    }
}

#[test]
fn a_lost_ring_waits_for_a_new_start() {
    let config = DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], 1);
    let fds = Descriptors::new();
    let mut dev = Rings {
        lose_every: 1,
        ..Rings::default()
    };
    let mut session = Session::new(&config);
    let tell =
        |session: &mut Session, dev: &mut Rings, request, payload: &[u8], kind: Option<Kind>| {
            let header = Header {
                request,
                flags: 1,
                size: payload.len() as u32,
            };
            let sent = kind.into_iter().map(|kind| fds.get(kind)).collect();
            let handled = dev.hear(session, &config, header, payload, sent);
            handled.closed.map_or(Ok(handled.reply), Err)
        };
    let table = [bytes32(&[1, 0]), bytes64(&[GUEST, SIZE, USER, 0])].concat();
    let addr = bytes64(&[USER, USER + 0x1800, USER + 0x1000, 0]);
    tell(
        &mut session,
        &mut dev,
        2,
        &bytes64(&[(config.features - VirtioFeatures::RING_PACKED).bits()]),
        None,
    )
    .unwrap();
    tell(&mut session, &mut dev, 8, &bytes32(&[0, 64]), None).unwrap();
    tell(
        &mut session,
        &mut dev,
        9,
        &[vec![0; 8], addr].concat(),
        None,
    )
    .unwrap();
    tell(&mut session, &mut dev, 10, &bytes32(&[0, 3]), None).unwrap();
    // The ring is not in this memory, so it cannot be started.
    let elsewhere = [bytes32(&[1, 0]), bytes64(&[GUEST, SIZE, 0, 0])].concat();
    tell(&mut session, &mut dev, 5, &elsewhere, Some(Kind::Memory)).unwrap();
    let refused = tell(
        &mut session,
        &mut dev,
        12,
        &bytes64(&[0]),
        Some(Kind::EventFd),
    );
    assert!(matches!(
        refused,
        Err(SessionRefusal::Ring(0, RingError::RingOutside))
    ));

    tell(&mut session, &mut dev, 5, &table, Some(Kind::Memory)).unwrap();
    tell(
        &mut session,
        &mut dev,
        12,
        &bytes64(&[0]),
        Some(Kind::EventFd),
    )
    .unwrap();
    assert_eq!(dev.running.len(), 1);
    rustix::io::pwrite(&fds.0[0], &9u16.to_le_bytes(), 0x1802).unwrap();
    tell(
        &mut session,
        &mut dev,
        13,
        &bytes64(&[0]),
        Some(Kind::EventFd),
    )
    .unwrap();
    assert!(dev.running.is_empty());
    tell(&mut session, &mut dev, 18, &bytes32(&[0, 1]), None).unwrap();
    assert!(dev.running.is_empty());
    let base = tell(&mut session, &mut dev, 11, &bytes32(&[0, 0]), None).unwrap();
    assert_eq!(base, Some(message::reply(11, &bytes32(&[0, 9]))));
    tell(
        &mut session,
        &mut dev,
        12,
        &bytes64(&[0]),
        Some(Kind::EventFd),
    )
    .unwrap();
    assert_eq!(dev.running[&0].base(), 9);
    dev.end(&mut session, &config);
}

/// What comes of a message is a list, in the order in which it is to be done: nothing of it calls anybody.
#[test]
fn a_ring_that_runs_is_stopped_changed_and_started_in_that_order() {
    let config = DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], 1);
    let fds = Descriptors::new();
    let mut dev = Rings::default();
    let mut session = Session::new(&config);
    let packed = VirtioFeatures::RING_PACKED;
    let addr = bytes64(&[USER, USER + 0x1800, USER + 0x1000, 0]);
    let table = [bytes32(&[1, 0]), bytes64(&[GUEST, SIZE, USER, 0])].concat();
    let header = |request, payload: &[u8]| Header {
        request,
        flags: 1,
        size: payload.len() as u32,
    };
    for (request, payload, kind) in [
        (2, bytes64(&[(config.features - packed).bits()]), None),
        (5, table, Some(Kind::Memory)),
        (8, bytes32(&[0, 64]), None),
        (9, [vec![0; 8], addr].concat(), None),
        (12, bytes64(&[0]), Some(Kind::EventFd)),
    ] {
        let sent = kind.into_iter().map(|kind| fds.get(kind)).collect();
        dev.hear(
            &mut session,
            &config,
            header(request, &payload),
            &payload,
            sent,
        );
    }
    assert_eq!(dev.running.len(), 0);
    session.kicked(0);
    dev.act(&mut session, &config);
    assert_eq!(dev.running.len(), 1);
    // SET_VRING_ENABLE, then GET_VRING_BASE.
    let payload = bytes32(&[0, 1]);
    session.receive(&config, header(18, &payload), &payload, vec![]);
    assert!(matches!(session.poll(&config), Some(Action::Stop(rings)) if rings == [0]));
    session.stopped(vec![dev.running.remove(&0)]);
    let Some(Action::Start(rings)) = session.poll(&config) else {
        panic!("it is not given back");
    };
    assert!(rings[0].enabled() && session.poll(&config).is_none());
    dev.running
        .extend(rings.into_iter().map(|vring| (0, vring)));
    let payload = bytes32(&[0, 0]);
    session.receive(&config, header(11, &payload), &payload, vec![]);
    let Some(Action::Stop(rings)) = session.poll(&config) else {
        panic!("nothing to stop");
    };
    assert_eq!(rings, [0]);
    assert!(session.poll(&config).is_none(), "an answer is due");
    session.stopped(vec![dev.running.remove(&0)]);
    let Some(Action::Reply(reply)) = session.poll(&config) else {
        panic!("no reply");
    };
    assert_eq!(reply, message::reply(11, &bytes32(&[0, 0])));
    assert!(session.poll(&config).is_none());
    dev.end(&mut session, &config);
}

/// A driver that is told that it has two pairs gets frames in both, so both run by then.
#[test]
fn a_command_is_answered_when_what_comes_of_it_is_done() {
    let config = DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], 2);
    let mut session = Session::new(&config);
    let mut driver = Driver::new(16, VirtioFeatures::MQ | VirtioFeatures::VERSION_1, 0);
    session.control = Some(ControlQueue::new(driver.vring(4)));
    session.rings[2].running = true;
    driver.send(&[4, 0, 2, 0], &[2], 9);
    session.pairs_used = Some(1);
    session.serve_control();
    assert!(matches!(session.poll(&config), Some(Action::Allow)));
    session.decided(true);
    assert!(matches!(session.poll(&config), Some(Action::Stop(rings)) if rings == [2]));
    session.stopped(vec![Some(driver.vring(2))]);
    session
        .actions
        .push_back(Action::Start(vec![driver.vring(2)]));
    assert!(matches!(session.poll(&config), Some(Action::Start(_))));
    assert!(driver.used().is_empty(), "answered before the ring runs");
    assert!(session.poll(&config).is_none());
    assert_eq!(driver.used().len(), 1);
}

/// A session with a ring that runs, and a way to tell it more.
struct Running {
    config: DeviceConfig,
    dev: Rings,
    session: Session,
}

impl Running {
    const RING: u32 = 1;

    fn new() -> Running {
        let config = DeviceConfig::new("vf0", [2, 0, 0, 0, 0, 1], 1);
        let mut running = Running {
            session: Session::new(&config),
            dev: Rings::default(),
            config,
        };
        let fds = Descriptors::new();
        let addr = [USER, USER + 0x1800, USER + 0x1000, u64::MAX];
        let protocol = running.config.protocol_features.bits();
        running.tell(16, &bytes64(&[protocol]), None);
        running.tell(2, &bytes64(&[running.features()]), None);
        running.give_memory();
        running.tell(8, &bytes32(&[1, 64]), None);
        running.tell(9, &[bytes32(&[1, 0]), bytes64(&addr)].concat(), None);
        running.tell(12, &bytes64(&[1]), Some(fds.get(Kind::EventFd)));
        running.session.kicked(Running::RING);
        running.dev.act(&mut running.session, &running.config);
        assert!(running.dev.running.contains_key(&Running::RING));
        running
    }

    fn features(&self) -> u64 {
        let offered = self.config.features;
        (offered - VirtioFeatures::RING_PACKED - VirtioFeatures::LOG_ALL).bits()
    }

    fn tell(&mut self, request: u32, payload: &[u8], fd: Option<OwnedFd>) -> Handled {
        let (flags, size) = (9, payload.len() as u32);
        let header = Header {
            request,
            flags,
            size,
        };
        let fds = fd.into_iter().collect();
        let (session, config) = (&mut self.session, &self.config);
        self.dev.hear(session, config, header, payload, fds)
    }

    fn give_memory(&mut self) {
        let fd = Descriptors::new().get(Kind::Memory);
        let table = [bytes32(&[1, 0]), bytes64(&[GUEST, SIZE, USER, 0])].concat();
        assert!(self.tell(5, &table, Some(fd)).closed.is_none());
    }

    /// Whether a write to the memory of the ring shows in this log.
    fn logs_in(&self, log: &OwnedFd) -> bool {
        const AT: u64 = GUEST / crate::memory::LOG_PAGE / 8;
        rustix::io::pwrite(log, &[0], AT).unwrap();
        let memory = self.dev.running[&Running::RING].memory();
        memory.slice_mut(GUEST, 1).unwrap().copy_from(&[1]);
        let mut byte = [0];
        rustix::io::pread(log, &mut byte, AT).unwrap();
        byte == [1]
    }
}

#[test]
fn what_is_written_is_logged_while_the_front_end_wants_that() {
    const LEN: u64 = (GUEST + SIZE) / crate::memory::LOG_PAGE / 8 + 1;
    let make = || {
        let log = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&log, LEN).unwrap();
        log
    };
    let (first, second) = (make(), make());
    let mut it = Running::new();
    it.session.mac = Some([2, 0, 0, 0, 0, 9]);
    let with_log = it.features() | VirtioFeatures::LOG_ALL.bits();
    let base = |it: &mut Running, log: &OwnedFd| {
        let fd = log.try_clone().unwrap();
        let answer = it.tell(6, &bytes64(&[LEN, 0]), Some(fd)).reply;
        assert_eq!(answer.unwrap()[12..], [0; 8], "its own reply, and no other");
    };

    base(&mut it, &first);
    assert!(!it.logs_in(&first) && it.dev.stops == 0);
    it.tell(2, &bytes64(&[with_log]), None);
    assert!(it.logs_in(&first) && it.dev.stops == 1);
    // Once more for another queue pair; what a driver has asked for has nothing to do with it.
    it.tell(2, &bytes64(&[with_log]), None);
    assert!(it.logs_in(&first) && it.session.mac.is_some());
    it.give_memory();
    assert!(it.logs_in(&first));
    base(&mut it, &second);
    assert!(it.logs_in(&second) && !it.logs_in(&first));
    it.tell(2, &bytes64(&[it.features()]), None);
    assert!(!it.logs_in(&second) && it.session.mac.is_some());
    assert_eq!(it.session.features().unwrap().bits(), it.features());
}

#[test]
fn a_log_of_a_front_end_that_cannot_share_it_is_not_served() {
    let mut it = Running::new();
    it.tell(16, &bytes64(&[1 << 3]), None);
    for (request, payload) in [(6, bytes64(&[8, 0])), (19, bytes64(&[2]))] {
        let handled = it.tell(request, &payload, None);
        assert_eq!(handled.reply.unwrap()[12..], 1u64.to_ne_bytes());
        assert!(matches!(handled.refused, Some(SessionRefusal::Unknown(_))));
    }
}
