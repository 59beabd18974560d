//! Whatever a front end does, its own session is all that it can lose.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::front_end::*;

/// After `attack` the session is over (or the request was refused, if it says so), no ring runs,
/// and the next front end is served.
fn closes(why: &str, attack: impl FnOnce(&mut World)) {
    let mut w = World::new(device(1));
    w.negotiate();
    w.place_ring(0, 0);
    w.kick_ring(0);
    assert_eq!(w.running(), [0]);
    attack(&mut w);
    assert!(!w.endpoint.is_connected(), "{why}: {:?}", w.rings.events);
    assert!(w.running().is_empty());
    let last = w.rings.events.last().unwrap();
    assert!(
        last.starts_with("closed: ") && last.contains(why),
        "{last} instead of {why}"
    );
}

/// `attack` is refused with an acknowledgement, and the ring that ran still does.
fn refused(why: &str, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut w = World::new(device(1));
    w.negotiate();
    w.place_ring(0, 0);
    w.kick_ring(0);
    assert_eq!(w.acked(request, payload, fds), 1, "{why}");
    let last = w.rings.events.last().unwrap();
    assert!(
        last.starts_with("refused: ") && last.contains(why),
        "{last} instead of {why}"
    );
    assert_eq!(w.running(), [0]);
    closes(why, |w| w.tell(request, payload, fds));
}

#[test]
fn lies_about_memory() {
    let short = memfd(0x1000);
    let long = memfd(SIZE);
    let (pipe, _write) = rustix::pipe::pipe().unwrap();
    let [guest, size, user, _] = region(1);
    let one = |r: [u64; 4]| table(&[r]);
    let bytes =
        |fd: &OwnedFd, why, payload: Vec<u8>| refused(why, SET_MEM_TABLE, &payload, &[fd.as_fd()]);
    bytes(
        &short,
        "the file has 4096 bytes",
        one([guest, 1 << 30, user, 0]),
    );
    bytes(&long, "the file has", one([guest, size, user, 1]));
    bytes(&long, "wraps", one([guest, size, user, u64::MAX]));
    bytes(&long, "wraps", one([u64::MAX - 1, size, user, 0]));
    bytes(&long, "wraps", one([guest, size, u64::MAX - 1, 0]));
    bytes(&long, "more memory", one([0, u64::MAX, 0, 0]));
    bytes(&long, "empty", one([guest, 0, user, 0]));
    bytes(&pipe, "not shared memory", one([guest, size, user, 0]));
    let on_disk = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    on_disk.set_len(SIZE).unwrap();
    bytes(
        &on_disk.into(),
        "neither a memfd nor a file on tmpfs",
        one([guest, size, user, 0]),
    );
    let two = [long.as_fd(), long.as_fd()];
    let overlap = [
        [guest, size, user, 0],
        [guest + size - 1, size, user + size, 0],
    ];
    refused("overlap in guest", SET_MEM_TABLE, &table(&overlap), &two);
    let overlap = [
        [guest, size, user, 0],
        [guest + size, size, user + size - 1, 0],
    ];
    refused("overlap in user", SET_MEM_TABLE, &table(&overlap), &two);
    refused(
        "2 descriptors instead of 1",
        SET_MEM_TABLE,
        &one(region(1)),
        &two,
    );
    refused(
        "0 descriptors instead of 1",
        SET_MEM_TABLE,
        &one(region(1)),
        &[],
    );
    refused(
        "table of 9 regions",
        SET_MEM_TABLE,
        &u32s(&[9, 0, 1, 2]),
        &[long.as_fd()],
    );
    refused(
        "table of 4294967295",
        SET_MEM_TABLE,
        &u32s(&[u32::MAX, 0]),
        &[],
    );
    let single = |r: [u64; 4]| [u64s(&[0]), u64s(&r)].concat();
    let mut elsewhere = region(0);
    elsewhere[2] += 1 << 40;
    refused("overlap", ADD_MEM_REG, &single(elsewhere), &[long.as_fd()]);
    refused(
        "the file has",
        ADD_MEM_REG,
        &single(region(1)),
        &[short.as_fd()],
    );
    refused("0 descriptors", ADD_MEM_REG, &single(region(1)), &[]);
    refused("no such region", REM_MEM_REG, &single(region(1)), &[]);
}

#[test]
fn lies_about_rings() {
    refused(
        "ring 0",
        SET_VRING_ADDR,
        &ring_addr_at(0, USER + SIZE - 0x1000),
        &[],
    );
    refused(
        "ring 0",
        SET_VRING_ADDR,
        &ring_addr_at(0, u64::MAX - 0x2000),
        &[],
    );
    refused(
        "misaligned",
        SET_VRING_ADDR,
        &ring_addr_at(0, USER + 1),
        &[],
    );
    refused("ring 0", SET_VRING_NUM, &u32s(&[0, 32768]), &[]);
    for size in [0, 3, 65536, u32::MAX] {
        refused(
            &format!("ring size {size}"),
            SET_VRING_NUM,
            &u32s(&[0, size]),
            &[],
        );
    }
    refused("base 0x10000", SET_VRING_BASE, &u32s(&[0, 0x1_0000]), &[]);
    for ring in [6, 255, 256, 65536, u32::MAX] {
        let why = format!("no ring {ring}");
        refused(&why, SET_VRING_NUM, &u32s(&[ring, 256]), &[]);
        refused(&why, SET_VRING_ENABLE, &u32s(&[ring, 1]), &[]);
        closes(&why, |w| w.tell(GET_VRING_BASE, &u32s(&[ring, 0]), &[]));
    }
    refused("no ring 255", SET_VRING_KICK, &u64s(&[255 | NO_FD]), &[]);
    refused("reserved bits", SET_VRING_KICK, &u64s(&[1 << 9]), &[]);
}

#[test]
fn wrong_descriptors() {
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        let (read, write) = rustix::pipe::pipe().unwrap();
        for end in [&read, &write] {
            refused("not an eventfd", request, &u64s(&[0]), &[end.as_fd()]);
        }
        refused("not an eventfd", request, &u64s(&[0]), &[memfd(8).as_fd()]);
        refused("0 descriptors", request, &u64s(&[0]), &[]);
        let fd = eventfd();
        refused(
            "2 descriptors",
            request,
            &u64s(&[0]),
            &[fd.as_fd(), fd.as_fd()],
        );
        refused("1 descriptors", request, &u64s(&[NO_FD]), &[fd.as_fd()]);
    }
    let (socket, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    refused(
        "not an eventfd",
        SET_VRING_KICK,
        &u64s(&[0]),
        &[socket.as_fd()],
    );
    refused("0 descriptors", SET_BACKEND_REQ_FD, &[], &[]);
}

#[test]
fn features_that_were_not_offered() {
    for bit in [2, 21, 25, 33, 37, 57] {
        refused("not offered", SET_FEATURES, &u64s(&[1 << bit]), &[]);
    }
    for bit in [8, 12, 14, 40] {
        refused(
            "not offered",
            SET_PROTOCOL_FEATURES,
            &u64s(&[1 << bit]),
            &[],
        );
    }
}

#[test]
fn bytes_that_are_no_message() {
    let raw = |bytes: &[u32]| {
        let bytes = u32s(bytes);
        move |w: &mut World| {
            send_raw(&w.stream, &bytes, &[]);
            w.poll();
        }
    };
    closes("version 2", raw(&[1, 2, 0]));
    closes("version 0", raw(&[1, 0, 0]));
    closes("a reply", raw(&[1, 5, 0]));
    closes("payload of 4097", raw(&[5, 1, 4097]));
    closes("payload of 4294967295", raw(&[5, 1, u32::MAX]));
    for (request, payload) in [
        (SET_FEATURES, 0),
        (SET_FEATURES, 12),
        (SET_VRING_ADDR, 36),
        (GET_CONFIG, 8),
    ] {
        closes("with a payload of", |w| {
            w.tell(request, &vec![0; payload], &[])
        });
    }
}

#[test]
fn descriptors_nobody_asked_for_are_closed() {
    let fd = rustix::fs::memfd_create("stray", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let eight = [fd.as_fd(); 8];
    let mut w = World::new(device(1));
    w.negotiate();
    for _ in 0..100 {
        w.tell(GET_FEATURES, &[], &eight);
        w.reply(GET_FEATURES);
        w.tell(SET_OWNER, &[], &eight);
        w.tell(12345, &[], &eight);
        assert_eq!(w.acked(SET_VRING_CALL, &u64s(&[0]), &eight[..1]), 1);
        assert_eq!(
            w.acked(SET_VRING_CALL, &u64s(&[0]), &[eventfd().as_fd()]),
            0
        );
        are_closed();
    }
    closes("too many descriptors", |w| {
        w.tell(SET_OWNER, &[], &[fd.as_fd(); 40])
    });
    are_closed();
}

/// All strays but our own are closed after a while, by a thread that may take its time.
fn are_closed() {
    let began = std::time::Instant::now();
    while strays() > 1 {
        assert!(
            began.elapsed() < std::time::Duration::from_secs(10),
            "{}",
            strays()
        );
        std::thread::yield_now();
    }
}

fn strays() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = links.flat_map(|file| std::fs::read_link(file.path()));
    links
        .filter(|link| link.to_string_lossy().contains("memfd:stray"))
        .count()
}

#[test]
fn half_a_message_holds_nobody_up() {
    let mut w = World::new(device(1));
    let whole = message(SET_FEATURES, 0, &u64s(&[0]));
    for cut in [1, 11, 12, 13, 19] {
        w.stream.write_all(&whole[..cut]).unwrap();
        for _ in 0..10 {
            w.poll();
        }
        assert!(w.endpoint.is_connected() && w.endpoint.features().is_none());
        w.stream.write_all(&whole[cut..]).unwrap();
        w.poll();
        assert_eq!(w.endpoint.features().map(|bits| bits.bits()), Some(0));
        w.tell(RESET_DEVICE, &[], &[]);
    }
    w.stream.write_all(&whole[..13]).unwrap();
    w.stream.shutdown(std::net::Shutdown::Both).unwrap();
    w.poll();
    assert_eq!(w.rings.events.last().unwrap(), "hung up");
}

#[test]
fn replies_that_are_not_read() {
    let mut w = World::new(device(1));
    let ask = message(GET_FEATURES, 0, &[]);
    for _ in 0..100_000 {
        if w.stream.write_all(&ask).is_err() {
            break;
        }
        w.poll();
    }
    let last = w.rings.events.last().unwrap();
    assert_eq!(last, "closed: the front end does not read its replies");
}

#[test]
fn memory_that_shrinks() {
    closes("guest memory vanished", |w| {
        let memory = memfd(SIZE);
        w.tell(SET_MEM_TABLE, &table(&[region(0)]), &[memory.as_fd()]);
        w.tell(SET_VRING_ENABLE, &u32s(&[0, 1]), &[]);
        let vring_memory = w.rings.running.remove(&0).unwrap();
        rustix::fs::ftruncate(&memory, 0).unwrap();
        // Whoever looks at the ring survives it.
        let mut queue = vf_vhost::tx::TxQueue::new(vring_memory);
        let _ = queue.fetch();
        w.rings.running.insert(0, queue.into_vring());
        w.poll();
    });
}

#[test]
fn a_shrunken_file_under_the_addresses() {
    let mut w = World::new(device(1));
    let memory = w.negotiate();
    rustix::fs::ftruncate(&memory, 0).unwrap();
    w.place_ring(0, 0);
    w.tell(SET_VRING_KICK, &u64s(&[NO_FD]), &[]);
    w.poll();
    assert!(!w.endpoint.is_connected() && w.running().is_empty());
}

/// The guard takes only the faults of guest memory: another one ends the process, as ever.
#[test]
fn a_sigbus_of_our_own_still_kills() {
    use std::os::unix::process::ExitStatusExt;
    use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

    const CHILD: &str = "VF_VHOST_TEST_SIGBUS";
    if std::env::var_os(CHILD).is_some() {
        World::new(device(1)).negotiate();
        let file = std::fs::File::from(memfd(0x1000));
        let region = FileOffset::new(file.try_clone().unwrap(), 0);
        let mapped = MmapRegion::<()>::from_file(region, 0x1000).unwrap();
        file.set_len(0).unwrap();
        let slice = mapped.get_slice(0, 8).unwrap();
        let _ = slice.write_slice(&[0; 8], 0);
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::a_sigbus_of_our_own_still_kills"])
        .env(CHILD, "1")
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(child.signal(), Some(7));
}

/// Each of these has threads work that serve others, and no answer is waited for.
#[test]
fn what_others_work_for_is_held_back_when_it_is_much() {
    let mac = u64s(&[0x0100_0000_0002]);
    let [small, great] = [u64s(&[1400]), u64s(&[1500])];
    for (request, payloads, event) in [
        (SEND_RARP, [&mac, &mac], "announced"),
        (NET_SET_MTU, [&small, &great], "mtu"),
    ] {
        let mut w = World::new(device(1));
        w.negotiate();
        let now = std::time::Instant::now();
        let heard = |w: &World| {
            let events = w.rings.events.iter();
            events.filter(|said| said.starts_with(event)).count()
        };
        for n in 0..2200 {
            send_raw(&w.stream, &message(request, 0, payloads[n % 2]), &[]);
            w.endpoint.poll(now, &mut w.rings);
        }
        assert!((2000..2100).contains(&heard(&w)), "{event} {}", heard(&w));
        // The rest is heard in time.
        let later = now + std::time::Duration::from_secs(1);
        for _ in 0..10 {
            w.endpoint.poll(later, &mut w.rings);
        }
        assert!(heard(&w) >= 2200, "{event} {}", heard(&w));
    }
}
