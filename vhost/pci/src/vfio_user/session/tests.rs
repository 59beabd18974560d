//! Messages in, replies out: what a client may ask for, and what it may not. No socket.

use proptest::prelude::*;
use vf_vhost::eventfd::EventFd;

use super::super::message::{HEADER_LEN, MAX_PAYLOAD};
use super::*;
use crate::slot::tests::{NoNic, Register, memfd};

const EOPNOTSUPP: u32 = 95;
const EINVAL: u32 = 22;
const EEXIST: u32 = 17;
const ENOENT: u32 = 2;
const ENOSPC: u32 = 28;

/// A client and its server, without a socket.
struct Client {
    session: Session,
    slot: Slot,
    host: NoNic,
}

/// What comes back: a payload, or an error number.
type Reply = Result<Vec<u8>, u32>;

impl Client {
    fn new() -> Client {
        let mut client = Client {
            session: Session::default(),
            slot: Slot::new(Box::new(Register::default())),
            host: NoNic::default(),
        };
        client.slot.power_on(&mut client.host);
        client
    }

    /// One that has introduced itself.
    fn agreed() -> Client {
        let mut client = Client::new();
        client.send(1, &[0, 0, 1, 0], Vec::new()).unwrap();
        client
    }

    fn try_send(
        &mut self,
        command: u16,
        flags: u32,
        payload: &[u8],
        fds: Vec<OwnedFd>,
    ) -> Result<Outcome, SessionEnd> {
        let mut head = [0; HEADER_LEN];
        head[..2].copy_from_slice(&0x1234u16.to_ne_bytes());
        head[2..4].copy_from_slice(&command.to_ne_bytes());
        let size = (payload.len() + HEADER_LEN) as u32;
        head[4..8].copy_from_slice(&size.to_ne_bytes());
        head[8..12].copy_from_slice(&flags.to_ne_bytes());
        let header = Header::parse(head).unwrap();
        let (session, slot) = (&mut self.session, &mut self.slot);
        let mut outcome = session.receive(&header, payload, fds, slot, &mut self.host)?;
        while session.under_way().is_some() {
            assert!(outcome.reply.is_none() && outcome.refused.is_none());
            outcome = session.go_on(slot, &mut self.host)?;
        }
        Ok(outcome)
    }

    fn send(&mut self, command: u16, payload: &[u8], fds: Vec<OwnedFd>) -> Reply {
        let outcome = self.try_send(command, 0, payload, fds).unwrap();
        let reply = outcome.reply.unwrap();
        let word = |at: usize| u32::from_ne_bytes(reply[at..at + 4].try_into().unwrap());
        assert_eq!(reply[..2], 0x1234u16.to_ne_bytes());
        assert_eq!(reply[2..4], command.to_ne_bytes());
        assert_eq!(word(4) as usize, reply.len());
        assert_eq!(outcome.refused.is_some(), word(8) & 0x20 != 0);
        match word(8) {
            1 => Ok(reply[HEADER_LEN..].to_vec()),
            0x21 => {
                assert_eq!(reply.len(), HEADER_LEN);
                Err(word(12))
            }
            flags => panic!("flags {flags:#x}"),
        }
    }

    fn map(&mut self, address: u64, size: u64, flags: u32, fd: Option<OwnedFd>) -> Result<(), u32> {
        let mut payload = words([32, flags]);
        for number in [0, address, size] {
            payload.extend(number.to_ne_bytes());
        }
        let reply = self.send(2, &payload, fd.into_iter().collect());
        reply.map(|payload| assert!(payload.is_empty()))
    }

    fn unmap(&mut self, address: u64, size: u64, flags: u32) -> Result<(), u32> {
        let mut payload = words([24, flags]);
        payload.extend(address.to_ne_bytes());
        payload.extend(size.to_ne_bytes());
        let reply = self.send(3, &payload, Vec::new());
        reply.map(|answer| assert_eq!(answer, payload))
    }

    fn irqs(
        &mut self,
        flags: u32,
        index: u32,
        start: u32,
        count: u32,
        fds: Vec<OwnedFd>,
    ) -> Result<(), u32> {
        let reply = self.send(8, &words([20, flags, index, start, count]), fds);
        reply.map(|payload| assert!(payload.is_empty()))
    }

    fn read(&mut self, region: u32, offset: u64, count: u32) -> Reply {
        let access = Access {
            offset,
            region,
            count,
        };
        let mut reply = self.send(9, &head(&access), Vec::new())?;
        let data = reply.split_off(16);
        assert_eq!(reply, head(&access));
        assert_eq!(data.len(), count as usize);
        Ok(data)
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), u32> {
        let access = Access {
            offset,
            region,
            count: data.len() as u32,
        };
        let payload = [&head(&access), data].concat();
        let reply = self.send(10, &payload, Vec::new());
        reply.map(|answer| assert_eq!(answer, head(&access)))
    }

    fn dmas(&self) -> usize {
        self.slot.memory().regions()
    }
}

fn eventfd() -> (EventFd, OwnedFd) {
    let ours = EventFd::new().unwrap();
    let theirs = std::os::fd::AsFd::as_fd(&ours)
        .try_clone_to_owned()
        .unwrap();
    (ours, theirs)
}

#[test]
fn a_client_introduces_itself_once_and_first() {
    let mut client = Client::new();
    assert!(matches!(
        client.try_send(4, 0, &words([16, 0, 0, 0]), vec![]),
        Err(SessionEnd::NoVersion(4))
    ));
    assert!(matches!(
        client.try_send(1, 0, &[1], vec![]),
        Err(SessionEnd::NoVersion(1))
    ));
    assert!(matches!(
        client.try_send(1, 0, &[1, 0, 0, 0], vec![]),
        Err(SessionEnd::Version(1, 0))
    ));
    assert!(matches!(
        client.try_send(1, 0, b"\0\0\0\0{\0", vec![]),
        Err(SessionEnd::NoJson(_))
    ));
    let deep = [b"\0\0\0\0".as_slice(), &[b'['; 4000]].concat();
    assert!(matches!(
        client.try_send(1, 0, &deep, vec![]),
        Err(SessionEnd::NoJson(_))
    ));
    assert!(!client.session.agreed);
    // What QEMU says of itself, more or less.
    let said = br#"{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"pgsizes":4096,"write_multiple":true}}"#;
    let reply = client
        .send(1, &[&[0, 0, 9, 0], said.as_slice(), &[0]].concat(), vec![])
        .unwrap();
    assert_eq!(reply[..4], [0, 0, 1, 0]);
    let json: serde_json::Value =
        serde_json::from_slice(reply[4..].strip_suffix(&[0]).unwrap()).unwrap();
    assert_eq!(json["capabilities"]["max_data_xfer_size"], 4096);
    assert_eq!(json["capabilities"]["max_msg_fds"], 16);
    assert_eq!(json["capabilities"]["write_multiple"], true);
    assert!(client.session.agreed);
    assert_eq!(client.send(1, &[0, 0, 1, 0], vec![]), Err(EINVAL), "once");
    // A client that says nothing is told of nothing that it does not know.
    let reply = Client::new().send(1, &[0, 0, 0, 0], vec![]).unwrap();
    assert_eq!(reply[..4], [0, 0, 0, 0]);
    assert!(!String::from_utf8_lossy(&reply).contains("write_multiple"));
}

#[test]
fn a_client_is_told_what_the_device_is() {
    let mut client = Client::agreed();
    assert_eq!(
        client.send(4, &words([16, 0, 0, 0]), vec![]),
        Ok(words([16, 3, 9, 5]))
    );
    assert_eq!(
        client.send(4, &words([12, 0, 0, 0]), vec![]),
        Err(EINVAL),
        "no room"
    );
    let region =
        |client: &mut Client, index| client.send(5, &words([32, 0, index, 0, 0, 0, 0, 0]), vec![]);
    for (index, flags, size) in [
        (0, 3, 1 << 16),
        (1, 0, 0),
        (3, 3, 1 << 14),
        (4, 0, 0),
        (6, 0, 0),
        (7, 3, 4096),
        (8, 0, 0),
    ] {
        let info = words([32, flags, index, 0, size, 0, 0, 0]);
        assert_eq!(region(&mut client, index), Ok(info), "{index}");
    }
    assert_eq!(region(&mut client, 9), Err(EINVAL));
    let irq = |client: &mut Client, index| client.send(7, &words([16, 0, index, 0]), vec![]);
    assert_eq!(irq(&mut client, 2), Ok(words([16, 1, 2, 3])));
    for none in [0, 1, 3, 4] {
        assert_eq!(irq(&mut client, none), Ok(words([16, 0, none, 0])));
    }
    assert_eq!(irq(&mut client, 5), Err(EINVAL));
    // What is not served is said not to be: GET_REGION_IO_FDS, DMA_READ, DEVICE_FEATURE and what nobody knows.
    for unknown in [0, 6, 11, 14, 16, 17, 999] {
        assert_eq!(client.send(unknown, &[], vec![]), Err(EOPNOTSUPP));
    }
    for short in [2, 3, 4, 5, 7, 8, 9, 10, 15] {
        assert_eq!(client.send(short, &[0; 3], vec![]), Err(EINVAL), "{short}");
    }
}

#[test]
fn a_client_is_told_what_it_may_map() {
    let mut client = Client {
        slot: Slot::new(Box::new(crate::ixgbevf::Ixgbevf::new(1))),
        ..Client::new()
    };
    client.slot.power_on(&mut client.host);
    client.slot.share().unwrap();
    client.send(1, &[0, 0, 1, 0], Vec::new()).unwrap();
    let mut ask = |region, room| {
        let question = words([room, 0, region, 0, 0, 0, 0, 0]);
        let outcome = client.try_send(5, 0, &question, Vec::new()).unwrap();
        let reply = outcome.reply.unwrap().split_off(HEADER_LEN);
        (reply, outcome.file.is_some())
    };
    let info = words([64, 15, 0, 32, 0x4000, 0, 0, 0]);
    assert_eq!(ask(0, 32), (info.clone(), false), "no room for more");
    let area = words([0x1_0001, 0, 1, 0, 0x1000, 0, 0x2000, 0]);
    assert_eq!(ask(0, 64), ([info, area].concat(), true));
    let other = words([32, 3, 3, 0, 0x4000, 0, 0, 0]);
    assert_eq!(ask(3, 64), (other, false));
    client.slot.power_on(&mut client.host);
    assert!(client.slot.shared().is_none(), "they go with the client");
}

#[test]
fn memory_is_mapped_and_unmapped_as_it_was_mapped() {
    let mut client = Client::agreed();
    client.map(0, 0x10000, 3, Some(memfd(0x10000))).unwrap();
    assert_eq!(client.dmas(), 1);
    for (address, size) in [(0, 0x10000), (0xffff, 1), (0, 1), (0x8000, 0x10000)] {
        assert_eq!(
            client.map(address, size, 3, Some(memfd(0x20000))),
            Err(EEXIST)
        );
    }
    // ROM and what has no file is noted, and not reached.
    client.map(0x10000, 0x1000, 1, Some(memfd(0x1000))).unwrap();
    client.map(0x11000, 0x1000, 3, None).unwrap();
    assert_eq!((client.dmas(), client.session.maps.len()), (1, 3));
    assert_eq!(client.map(0x11fff, 0x1000, 3, None), Err(EEXIST));
    for (address, size, flags, why) in [
        (0x20000, 0, 3, EINVAL),
        (u64::MAX, 2, 3, EINVAL),
        (0x20000, 0x2000, 3, EINVAL), // a file that is shorter
        (0x20000, 0x1000, 7, EINVAL),
    ] {
        assert_eq!(
            client.map(address, size, flags, Some(memfd(0x1000))),
            Err(why)
        );
    }
    let no_memory = rustix::pipe::pipe().unwrap().0;
    assert_eq!(client.map(0x20000, 0x1000, 3, Some(no_memory)), Err(EINVAL));
    let two = vec![memfd(0x1000), memfd(0x1000)];
    let payload = [
        words([32, 3]),
        [0u64, 0x20000, 0x1000]
            .iter()
            .flat_map(|n| n.to_ne_bytes())
            .collect(),
    ]
    .concat();
    assert_eq!(client.send(2, &payload, two), Err(EINVAL));
    assert_eq!((client.dmas(), client.session.maps.len()), (1, 3));

    for (address, size) in [(0, 0x8000), (0x8000, 0x8000), (0x20000, 0x1000)] {
        assert_eq!(client.unmap(address, size, 0), Err(ENOENT));
    }
    assert_eq!(client.unmap(0, 0x10000, 1), Err(EOPNOTSUPP), "dirty pages");
    assert_eq!(client.unmap(0, 0x10000, 4), Err(EINVAL));
    assert_eq!(
        client.unmap(0, 0x10000, 2),
        Err(EINVAL),
        "all has no address"
    );
    assert_eq!(client.dmas(), 1);
    client.unmap(0x10000, 0x1000, 0).unwrap();
    client.unmap(0, 0x10000, 0).unwrap();
    assert_eq!((client.dmas(), client.session.maps.len()), (0, 1));
    assert!(client.session.shares_nothing());
    client.map(0, 0x1000, 3, Some(memfd(0x1000))).unwrap();
    client.unmap(0, 0, 2).unwrap();
    assert_eq!((client.dmas(), client.session.maps.len()), (0, 0));
}

#[test]
fn a_client_maps_so_much_and_no_more() {
    let mut client = Client::agreed();
    let fd = memfd(0x1000);
    let mut mapped = 0;
    for at in 0..1000u64 {
        match client.map(at << 20, 0x1000, 3, Some(fd.try_clone().unwrap())) {
            Ok(()) => mapped += 1,
            Err(why) => assert_eq!(why, ENOSPC),
        }
    }
    assert_eq!(mapped, MAX_REGIONS);
    for at in 1000..2000u64 {
        mapped += usize::from(client.map(at << 20, 0x1000, 3, None).is_ok());
    }
    assert_eq!(mapped, MAX_MAPS);
    let mut client = Client::agreed();
    assert_eq!(
        client.map(0, u64::MAX, 3, None),
        Ok(()),
        "nobody reaches it"
    );
    assert_eq!(client.unmap(0, u64::MAX, 0), Ok(()));
    let huge = memfd(1 << 42);
    assert_eq!(client.map(0, 1 << 41, 3, Some(huge)), Err(ENOSPC));
}

#[test]
fn vectors_lead_where_the_client_says() {
    let mut client = Client::agreed();
    client.write(7, 4, &[6, 0]).unwrap();
    let (first, first_fd) = eventfd();
    let (third, third_fd) = eventfd();
    let again = third_fd.try_clone().unwrap();
    client.irqs(0x24, 2, 0, 1, vec![first_fd]).unwrap();
    client.irqs(0x24, 2, 2, 1, vec![third_fd]).unwrap();
    client.slot.vectors().raise(0);
    assert!(first.drain() && !third.drain());
    // The client raises them itself.
    client.irqs(0x21, 2, 0, 3, vec![]).unwrap();
    assert!(first.drain() && third.drain());
    let bools = [words([23, 0x22, 2, 0, 3]), vec![0, 0, 1]].concat();
    assert_eq!(client.send(8, &bools, vec![]), Ok(vec![]));
    assert!(!first.drain() && third.drain());
    assert_eq!(client.send(8, &bools[..22], vec![]), Err(EINVAL));
    // Of several, all or none.
    let pipe = rustix::pipe::pipe().unwrap().0;
    assert_eq!(
        client.irqs(0x24, 2, 0, 2, vec![again.try_clone().unwrap(), pipe]),
        Err(EINVAL)
    );
    client.slot.vectors().raise(0);
    assert!(first.drain() && !third.drain());
    for (flags, index, start, count, fds) in [
        (0x24, 2, 2, 2, 2),        // beyond the last
        (0x24, 2, 0, u32::MAX, 1), // 4 GiB of them
        (0x24, 2, u32::MAX, 1, 1), // far beyond
        (0x24, 2, 0, 2, 1),        // fewer descriptors
        (0x21, 2, 0, 0, 1),        // more
        (0x24, 0, 0, 1, 1),        // there is no INTx
        (0x24, 9, 0, 1, 1),        // nor whatever that is
        (0x09, 2, 0, 1, 0),        // masks are not served
        (0x25, 2, 0, 1, 1),        // nor both at once
        (0, 2, 0, 0, 0),
    ] {
        let fds = (0..fds).map(|_| again.try_clone().unwrap()).collect();
        assert_eq!(
            client.irqs(flags, index, start, count, fds),
            Err(EINVAL),
            "{flags:#x} {index} {start} {count}"
        );
    }
    // Without a descriptor, a vector leads nowhere; what is raised meanwhile is raised when it leads somewhere again.
    client.irqs(0x24, 2, 2, 1, vec![]).unwrap();
    client.slot.vectors().raise(2);
    assert!(!third.drain());
    client.irqs(0x24, 2, 2, 1, vec![again]).unwrap();
    assert!(third.drain());
    client.irqs(0x21, 2, 0, 0, vec![]).unwrap();
    client.slot.vectors().raise(0);
    assert!(!first.drain(), "all are off");
    client.irqs(0x21, 0, 0, 0, vec![]).unwrap();
}

#[test]
fn regions_are_read_and_written() {
    let mut client = Client::agreed();
    assert_eq!(client.read(7, 0, 4), Ok(vec![0x34, 0x12, 0x78, 0x56]));
    assert_eq!(client.read(7, 0, 4096).unwrap().len(), 4096);
    client.write(7, 4, &[6, 0]).unwrap();
    client.write(0, 0x20, &[1, 2, 3, 4]).unwrap();
    assert_eq!(client.read(0, 0x20, 4), Ok(vec![1, 2, 3, 4]));
    for (region, offset, count) in [
        (0, 0, 0),
        (0, 0, u32::MAX), // 4 GiB
        (0, 0, 4097),
        (0, 0, 16),
        (0, 1, 4),
        (0, 1 << 16, 4),
        (0, u64::MAX - 3, 4),
        (7, 0, u32::MAX),
        (7, 4095, 2),
        (7, u64::MAX, 1),
        (1, 0, 4),
        (6, 0, 4),
        (8, 0, 4),
        (9, 0, 4),
        (256, 0, 4),
        (u32::MAX, 0, 4),
    ] {
        assert_eq!(
            client.read(region, offset, count),
            Err(EINVAL),
            "{region} {offset} {count}"
        );
        if count <= 16 {
            let data = vec![0; count as usize];
            assert_eq!(client.write(region, offset, &data), Err(EINVAL));
        }
    }
    // Said before there is room for it.
    for count in [0, 4097, u32::MAX] {
        let (offset, region) = (0, 7);
        let access = head(&Access {
            offset,
            region,
            count,
        });
        let refused = client.try_send(9, 0, &access, vec![]).unwrap().refused;
        assert!(matches!(refused, Some(CommandRefusal::Count(n)) if n == count));
    }
    // A count that is not what has come.
    for count in [0, 3, 5, u32::MAX] {
        let access = Access {
            offset: 0,
            region: 0,
            count,
        };
        let payload = [head(&access), vec![0; 4]].concat();
        assert_eq!(client.send(10, &payload, vec![]), Err(EINVAL));
    }
    let reads = [
        head(&Access {
            offset: 0,
            region: 0,
            count: 4,
        }),
        vec![0],
    ]
    .concat();
    assert_eq!(
        client.send(9, &reads, vec![]),
        Err(EINVAL),
        "more than was asked"
    );
    // Posted: no reply, whatever becomes of it.
    let access = Access {
        offset: 0x20,
        region: 0,
        count: 1,
    };
    let outcome = client
        .try_send(10, 0x10, &[head(&access), vec![9]].concat(), vec![])
        .unwrap();
    assert!(outcome.reply.is_none() && outcome.refused.is_none());
    assert_eq!(client.read(0, 0x20, 1), Ok(vec![9]));
    let outcome = client.try_send(10, 0x10, &[], vec![]).unwrap();
    assert!(outcome.reply.is_none() && outcome.refused.is_some());
    // Reset: registers and configuration space, not what the client has set up.
    let (call, fd) = eventfd();
    client.irqs(0x24, 2, 1, 1, vec![fd]).unwrap();
    client.map(0, 0x1000, 3, Some(memfd(0x1000))).unwrap();
    assert_eq!(client.send(13, &[], vec![]), Ok(vec![]));
    assert_eq!(client.read(7, 4, 2), Ok(vec![0, 0]));
    client.write(7, 4, &[6, 0]).unwrap();
    assert_eq!(client.read(0, 0x20, 1), Ok(vec![0]));
    client.write(0, 0, &[1]).unwrap();
    assert!(call.drain() && client.dmas() == 1);
}

#[test]
fn several_writes_come_in_one_message() {
    let mut client = Client::agreed();
    client.write(7, 4, &[6, 0]).unwrap();
    let one = |offset: u64, count: u32, byte: u8| {
        [
            head(&Access {
                offset,
                region: 0,
                count,
            }),
            vec![byte; 8],
        ]
        .concat()
    };
    let many =
        |count: u64, writes: &[Vec<u8>]| [count.to_ne_bytes().to_vec(), writes.concat()].concat();
    let two = [one(0, 4, 1), one(8, 8, 2)];
    assert_eq!(
        client.send(15, &many(2, &two), vec![]),
        Ok(2u64.to_ne_bytes().to_vec())
    );
    assert_eq!(client.read(0, 0, 8), Ok(vec![2; 8]));
    for count in [0, 1, 3, u64::MAX] {
        assert_eq!(client.send(15, &many(count, &two), vec![]), Err(EINVAL));
    }
    assert_eq!(
        client.send(15, &many(1, &[one(0, 9, 7)]), vec![]),
        Err(EINVAL)
    );
    assert_eq!(client.send(15, &many(0, &[]), vec![]), Ok(vec![0; 8]));
    let most = vec![one(0, 4, 5); (MAX_PAYLOAD - 8) / 24];
    assert!(
        client
            .send(15, &many(most.len() as u64, &most), vec![])
            .is_ok()
    );
}

#[test]
fn memory_that_vanishes_and_descriptors_that_block_end_the_session() {
    let mut client = Client::agreed();
    let file = memfd(0x10000);
    client
        .map(0, 0x10000, 3, Some(file.try_clone().unwrap()))
        .unwrap();
    rustix::fs::ftruncate(&file, 0).unwrap();
    let mut byte = [0];
    let slice = client.slot.memory().slice(0x8000, 1).unwrap();
    slice.copy_to(&mut byte);
    assert!(matches!(
        client.try_send(4, 0, &[], vec![]),
        Err(SessionEnd::MemoryVanished)
    ));

    let mut client = Client::agreed();
    client.write(7, 4, &[6, 0]).unwrap();
    let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    client
        .irqs(0x24, 2, 0, 1, vec![fd.try_clone().unwrap()])
        .unwrap();
    let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
    rustix::fs::fcntl_setfl(&fd, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    client.slot.vectors().raise(0);
    assert!(matches!(
        client.try_send(4, 0, &[], vec![]),
        Err(SessionEnd::Blocks)
    ));
}

/// A message as a hostile client may make it: a command with fields that mean something, or any bytes.
fn message() -> impl Strategy<Value = (u16, u32, Vec<u8>, u8)> {
    let number = prop_oneof![
        0..8u64,
        (0..16u64).prop_map(|n| n << 12),
        Just(u64::MAX),
        Just(u64::from(u32::MAX)),
        any::<u64>(),
    ];
    let fields = prop::collection::vec(number, 0..12).prop_map(|numbers| {
        numbers
            .into_iter()
            .flat_map(u64::to_ne_bytes)
            .collect::<Vec<u8>>()
    });
    let short = prop::collection::vec(0..6u32, 0..12).prop_map(|numbers| {
        numbers
            .into_iter()
            .flat_map(u32::to_ne_bytes)
            .collect::<Vec<u8>>()
    });
    let payload = prop_oneof![fields, short, prop::collection::vec(any::<u8>(), 0..200)];
    (
        0..18u16,
        prop_oneof![Just(0), Just(0x10u32)],
        payload,
        0..4u8,
    )
}

proptest! {
    /// Any messages: no panic, each command that wants a reply has one, and what is held is bounded.
    #[test]
    fn whatever_a_client_sends_it_is_answered(messages in prop::collection::vec(message(), 0..60)) {
        let mut client = Client::agreed();
        for (command, flags, payload, fds) in messages {
            let fds = (0..fds).map(|n| if n % 2 == 0 { memfd(0x8000) } else { eventfd().1 }).collect();
            match client.try_send(command, flags, &payload, fds) {
                Ok(outcome) => {
                    prop_assert_eq!(outcome.reply.is_some(), flags == 0);
                    if let Some(reply) = outcome.reply {
                        prop_assert!(reply.len() <= HEADER_LEN + MAX_PAYLOAD);
                    }
                }
                Err(end) => prop_assert!(false, "{end}"),
            }
            prop_assert!(client.session.maps.len() <= MAX_MAPS);
            let reached = client.session.maps.iter().filter(|map| map.reached).count();
            prop_assert_eq!(reached, client.dmas());
        }
    }

    /// Any header: what is taken fits into what is read.
    #[test]
    fn any_header_is_a_message_or_none(bytes: [u8; HEADER_LEN]) {
        if let Ok(header) = Header::parse(bytes) {
            prop_assert!(header.payload <= MAX_PAYLOAD);
        }
    }
}
