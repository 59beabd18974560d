//! A tap device of the host as the uplink, with its virtio-net header, so that super-frames and partial checksums pass
//! as they are. What leaves is paced like a wire; from the device any bridge of the host takes over. Needs
//! `CAP_NET_ADMIN` to open, nothing afterwards: its carrier is `far_end`'s. Never blocks. What else reads and writes frames with such headers
//! goes the same way.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::io::Errno;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};
use vf_model::{Counter, DropReason, Link, LinkConfig, Nanos};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::net_hdr::{MAX_FRAME, NetHdr};
use vf_vhost::packet_socket::Received;

use super::datagrams::{datagrams, is_super_frame};
use super::tap_queues::queues_in_use;
use super::transmitter::PacedLink;
use super::{
    ARRIVAL, Arrivals, FarEnd, HandOver, HostLink, Kind, Lost, OpenError, Statistic, TxFrame,
    TxRoom, Uplink,
};
use crate::queue::Pool;
use crate::tap_port::TapDevice;

/// The virtio-net header as a tap device uses it (no `num_buffers`).
pub(super) const HEADER: usize = 10;
/// Both addresses of a frame, behind which its tags are.
const ADDRESSES: usize = 12;
/// A VLAN tag.
const TAG: u16 = 4;
/// Every offload that is asked of the device, so every header it may hand over.
const FEATURES: VirtioFeatures = VirtioFeatures::all();

/// `tap NAME`.
pub(super) const KIND: Kind = Kind {
    word: "tap",
    operand: "NAME",
    of_this_machine: true,
    is_host_device: true,
    check: |name| {
        let (name, netns) = (name.to_owned(), None);
        TapDevice { name, netns }.check()
    },
    open: |name, config, slack| {
        let device = open_uplink(name);
        let tap = device.and_then(|device| linked(name, device, config, slack));
        tap.map_err(|source| OpenError {
            uplink: format!("tap {name}"),
            help: match source.kind() {
                io::ErrorKind::PermissionDenied => format!(
                    "a tap device needs CAP_NET_ADMIN: run as root, or make it with 'ip tuntap add dev {name} mode tap user $USER vnet_hdr'"
                ),
                _ => "say the name of a tap device that nobody else has open, or one that no device has".to_owned(),
            },
            source,
        })
    },
    hand_over: HandOver::Descriptor(|name, fd, config, slack| {
        linked(name, File::from(fd), config, slack).map_err(|source| OpenError {
            uplink: format!("tap {name}"),
            source,
            help: "the process that had it had it so".to_owned(),
        })
    }),
};

/// The uplink that an open tap device is.
fn linked<D: HeaderDevice + 'static>(
    name: &str,
    device: D,
    config: LinkConfig,
    slack: Nanos,
) -> io::Result<Box<dyn Uplink>> {
    let far_end = FarEnd::Host(HostLink::of_tap(device.as_fd())?);
    let tap = Tap::of(format!("tap {name}"), device, config, slack);
    Ok(Box::new(tap.with(far_end)))
}

/// What frames with a virtio-net header in front are read from and written to.
pub(super) trait HeaderDevice: AsFd + Send {
    /// Whether it is told which frames were lost on the way here. Those for which the queue of a tap or macvtap device has no room are the device's to
    /// count: it has them as its own `TX dropped` or `RX dropped`.
    const TELLS_LOSS: bool = false;

    /// Reads one, without waiting.
    fn receive(&self, header: &mut [u8; HEADER], frame: &mut [u8]) -> Result<Received, Errno> {
        let mut parts = [IoSliceMut::new(header), IoSliceMut::new(frame)];
        let len = rustix::io::readv(self, &mut parts)?;
        Ok(Received {
            // Nothing at all is what is left when the other end has gone.
            len: len.checked_sub(HEADER).ok_or(Errno::PIPE)?,
            tag: None,
            lost: 0,
        })
    }

    /// Writes one, without waiting.
    fn send(&self, header: &[u8; HEADER], frame: &[u8]) -> Result<(), Errno> {
        let parts = [IoSlice::new(header), IoSlice::new(frame)];
        rustix::io::writev(self, &parts).map(drop)
    }
}

impl HeaderDevice for SyncDevice {}

/// A macvtap device, or any that another process has opened.
impl HeaderDevice for File {}

/// An open tap device, or what reads and writes as one.
pub(super) struct Tap<D> {
    /// What it is, and which.
    name: String,
    device: D,
    paced: PacedLink,
    /// One frame of the largest size.
    scratch: Vec<u8>,
    /// Frames for which the host had no room.
    missed: Arc<Counter>,
    /// Until somebody asks for it.
    far_end: Option<FarEnd>,
}

/// Opens (and if need be creates) the tap device `name`, with one queue and a virtio-net header. One that was made with `multi_queue` has
/// to be opened as such.
fn open(name: &str) -> io::Result<SyncDevice> {
    match open_with(name, false) {
        Err(error) if is_invalid(&error) => {
            if queues_in_use(name)? > 0 {
                return Err(Errno::BUSY.into());
            }
            open_with(name, true).map_err(no_tap)
        }
        opened => opened,
    }
}

/// Whether a device is of another kind than it is opened as.
fn is_invalid(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::INVAL.raw_os_error())
}

/// Of a device that is neither of the kinds of tap.
fn no_tap(error: io::Error) -> io::Error {
    match is_invalid(&error) {
        true => io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a device of this name, which is no tap device",
        ),
        false => error,
    }
}

/// The same; up or down as it was, and down if it is made.
fn open_with(name: &str, multi_queue: bool) -> io::Result<SyncDevice> {
    let device = DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .offload(true)
        .multi_queue(multi_queue)
        .inherit_enable_state()
        .build_sync()?;
    prepare(&device)?;
    Ok(device)
}

/// Opens it for the port of a NIC, and has it up, as a cable's other end is: the administrator of the bridge that it is put on need not. A user
/// whose own device it is may open it and not do that, and has it as it is.
fn open_uplink(name: &str) -> io::Result<SyncDevice> {
    let device = open(name)?;
    match device.enabled(true) {
        Err(why) if why.kind() != io::ErrorKind::PermissionDenied => Err(why),
        _ => Ok(device),
    }
}

fn prepare(queue: &SyncDevice) -> io::Result<()> {
    // Not super-frames of UDP, which it has asked for.
    vf_vhost::tap::set_offloads(queue)?;
    vf_vhost::tap::set_header_len(queue, HEADER)?;
    queue.set_nonblocking(true)
}

/// Opens it with so many queues (`IFF_MULTI_QUEUE`). A device that is there already and was made without `multi_queue` has one. One that
/// somebody else has open is refused as busy, as the kernel refuses one without several queues.
pub(crate) fn open_queues(name: &str, queues: u16) -> io::Result<Vec<SyncDevice>> {
    if queues <= 1 {
        return Ok(vec![open(name)?]);
    }
    if queues_in_use(name)? > 0 {
        return Err(Errno::BUSY.into());
    }
    let first = match open_with(name, true) {
        Err(error) if is_invalid(&error) => {
            return Ok(vec![open_with(name, false).map_err(no_tap)?]);
        }
        first => first?,
    };
    let mut all = vec![first];
    while all.len() < queues.into() {
        let another = all[0].try_clone()?;
        prepare(&another)?;
        all.push(another);
    }
    Ok(all)
}

impl<D: HeaderDevice> Tap<D> {
    /// A device that is open, does not block, and has virtio-net headers.
    pub(super) fn of(name: String, device: D, config: LinkConfig, slack: Nanos) -> Tap<D> {
        Tap {
            name,
            device,
            paced: PacedLink::new(config, slack),
            scratch: vec![0; MAX_FRAME as usize],
            missed: Arc::default(),
            far_end: None,
        }
    }

    /// The same, and there is this at the other end.
    pub(super) fn with(self, far_end: FarEnd) -> Tap<D> {
        Tap {
            far_end: Some(far_end),
            ..self
        }
    }

    /// Takes one frame, if there is one, or leaves it out.
    fn receive(&mut self, pool: &Pool, arrivals: &mut Arrivals) -> Option<()> {
        let mut header = [0; HEADER];
        let received = self.device.receive(&mut header, &mut self.scratch);
        let Received { len, tag, lost } = match received {
            Ok(received) => received,
            // One that no header is for: of a tunnel that is still to be cut.
            Err(Errno::INVAL) => {
                self.missed.add(1);
                return Some(());
            }
            Err(_) => return None,
        };
        self.missed.add(lost.into());
        let (addresses, rest) = self.scratch.get(..len)?.split_at(len.min(ADDRESSES));
        let mut frame = pool.take(len);
        frame.data.clear();
        frame.data.extend_from_slice(addresses);
        let mut hdr = NetHdr::from_bytes(&header);
        if let Some(tag) = tag {
            let tag = tag.map(u16::to_be_bytes);
            frame.data.extend_from_slice(tag.as_flattened());
            hdr.csum_start = hdr.csum_start.saturating_add(TAG);
        }
        frame.data.extend_from_slice(rest);
        if is_super_frame(&hdr) {
            let given = datagrams(&frame.data, &hdr, pool, |datagram| {
                arrivals.frames.push(datagram);
            });
            match given {
                Some(()) => pool.give(frame),
                None => arrivals.dropped.push((DropReason::BadHeader, frame)),
            }
            return Some(());
        }
        match hdr.check(FEATURES, frame.headers(), frame.len()) {
            Ok(checked) => {
                frame.offload = checked;
                arrivals.frames.push(frame);
            }
            Err(_) => {
                arrivals.dropped.push((DropReason::BadHeader, frame));
            }
        }
        Some(())
    }
}

impl<D: HeaderDevice> Uplink for Tap<D> {
    fn tx_room(&mut self, now: Nanos, _pool: &Pool, _lost: &mut Lost<'_>) -> TxRoom {
        self.paced.room(now)
    }

    fn tx_room_at(&mut self) -> Option<Nanos> {
        Some(self.paced.room_at())
    }

    fn tx_burst(
        &mut self,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        lost: &mut Lost<'_>,
    ) {
        for TxFrame { frame, on_wire } in frames.drain(..) {
            let header = NetHdr::from(&frame.offload).to_bytes(0);
            let header = header.first_chunk().copied().unwrap_or_default();
            match self.device.send(&header, &frame.data) {
                Ok(()) => {
                    self.paced.link.put(now, on_wire);
                }
                Err(Errno::AGAIN | Errno::NOBUFS) => lost(DropReason::WireQueueFull, &frame),
                // The device is down.
                Err(Errno::IO | Errno::NETDOWN) => lost(DropReason::NoCarrier, &frame),
                Err(Errno::MSGSIZE) => lost(DropReason::MtuExceeded, &frame),
                // It is gone.
                Err(_) => lost(DropReason::NoUplink, &frame),
            }
            pool.give(frame);
        }
    }

    fn rx_burst(&mut self, _now: Nanos, limit: usize, pool: &Pool, arrivals: &mut Arrivals) {
        for _ in 0..limit {
            // One may be many datagrams.
            if arrivals.frames.len() >= limit || self.receive(pool, arrivals).is_none() {
                return;
            }
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }

    fn next(&mut self) -> Option<Nanos> {
        None
    }

    fn register(&self, registry: &Registry) {
        let fd = self.device.as_fd().as_raw_fd();
        if let Err(error) = registry.register(&mut SourceFd(&fd), ARRIVAL, Interest::READABLE) {
            tracing::warn!(%error, "cannot wait for the device");
        }
    }

    fn far_end(&mut self) -> Option<FarEnd> {
        self.far_end.take()
    }

    fn link(&self) -> &Link {
        &self.paced.link
    }

    fn link_mut(&mut self) -> &mut Link {
        &mut self.paced.link
    }

    fn statistics(&self) -> Vec<Statistic> {
        match D::TELLS_LOSS {
            true => vec![("rx_missed", Arc::clone(&self.missed))],
            false => Vec::new(),
        }
    }
}

impl<D> fmt::Display for Tap<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use vf_model::{FrameMeta, OnWire};
    use vf_packet::TcpLayout;
    use vf_packet::testing::routed_super_frame;
    use vf_vhost::packet_socket::PacketSocket;

    use super::*;

    /// As from a guest, of whose super-frames all headers are looked at.
    #[test]
    fn a_super_frame_arrives_however_long_its_headers_are() {
        for addresses in [1, 2, 3, 5, 8, 20, 26] {
            for tagged in [false, true] {
                let mut data = routed_super_frame(addresses, 2500);
                if tagged {
                    data.splice(12..12, [0x81, 0, 0, 7]);
                }
                let layout = TcpLayout::parse(&data).unwrap();
                let header = NetHdr {
                    flags: NetHdr::NEEDS_CSUM,
                    gso_type: NetHdr::GSO_TCPV6,
                    hdr_len: 0,
                    gso_size: 1000,
                    csum_start: layout.tcp as u16,
                    csum_offset: 16,
                };
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&header.to_bytes(0)[..HEADER]).unwrap();
                file.write_all(&data).unwrap();
                file.rewind().unwrap();
                let mut tap = Tap::of("a".to_owned(), file, LinkConfig::default(), Nanos(0));
                let mut arrivals = Arrivals::default();
                tap.rx_burst(Nanos(0), 9, &Pool::new(1), &mut arrivals);
                assert!(arrivals.dropped.is_empty(), "{addresses} addresses");
                let cut = arrivals.frames[0].offload.gso().unwrap();
                assert_eq!(usize::from(cut.header_len), layout.payload);
            }
        }
    }

    /// How much comes in a round is counted in what is made of it.
    #[test]
    fn datagrams_of_one_super_frame_are_as_many_arrivals() {
        let (host, device) = std::os::unix::net::UnixDatagram::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        let udp = [
            &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45][..],
            &[0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2],
            &[0; 8 + 100],
        ];
        let header = NetHdr {
            flags: NetHdr::NEEDS_CSUM,
            gso_type: 5,
            gso_size: 1,
            csum_start: 34,
            csum_offset: 6,
            ..NetHdr::default()
        };
        let packet = [&header.to_bytes(0)[..HEADER], &udp.concat()].concat();
        for _ in 0..4 {
            host.send(&packet).unwrap();
        }
        let device = File::from(std::os::fd::OwnedFd::from(device));
        let mut tap = Tap::of("a".to_owned(), device, LinkConfig::default(), Nanos(0));
        let mut arrivals = Arrivals::default();
        let mut come = Vec::new();
        for _ in 0..2 {
            tap.rx_burst(Nanos(0), 150, &Pool::new(1), &mut arrivals);
            come.push(arrivals.frames.drain(..).len());
        }
        assert_eq!(come, [200, 200]);
        assert!(arrivals.dropped.is_empty());
    }

    /// QEMU has headers of 12 bytes, and a device that outlives it keeps that.
    #[test]
    fn a_tap_whose_last_user_had_longer_headers_is_read_and_written_aright() {
        let name = format!("vfhdr{}", std::process::id() % 100_000);
        let before = match open(&name) {
            Ok(device) => device,
            Err(why) => {
                println!("skipped: a tap device that another program has had, because {why}");
                return;
            }
        };
        before.persist().unwrap();
        vf_vhost::tap::set_header_len(&before, 12).unwrap();
        drop(before);
        let device = open_uplink(&name).unwrap();
        let host = PacketSocket::open(device.if_index().unwrap()).unwrap();
        let mut frame = vec![7; 100];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
        // What the host says of its own accord is another frame.
        let is_it = |data: &[u8]| data.len() == frame.len();
        let mut tap = Tap::of(name.clone(), device, LinkConfig::default(), Nanos(0));
        let pool = Pool::new(4);

        HeaderDevice::send(&host, &[0; HEADER], &frame).unwrap();
        let mut arrivals = Arrivals::default();
        for _ in 0..1000 {
            tap.rx_burst(Nanos(0), 9, &pool, &mut arrivals);
            if arrivals.frames.iter().any(|frame| is_it(&frame.data)) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let came = arrivals.frames.iter().find(|frame| is_it(&frame.data));
        assert_eq!(came.map(|came| &came.data), Some(&frame));

        let mut sent = pool.take(frame.len());
        sent.data.clone_from(&frame);
        sent.offload = Default::default();
        let meta = FrameMeta {
            len: sent.len(),
            gso: None,
        };
        let on_wire = OnWire::of(&meta);
        let mut sent = vec![TxFrame {
            frame: sent,
            on_wire,
        }];
        tap.tx_burst(Nanos(0), &mut sent, &pool, &mut |why, _| panic!("{why}"));
        let (mut header, mut data) = ([0; HEADER], [0; 2000]);
        let got = std::iter::repeat_with(|| {
            let received = HeaderDevice::receive(&host, &mut header, &mut data).ok();
            received.map(|received| data[..received.len].to_vec())
        });
        let got = got.take_while(Option::is_some).flatten();
        assert!(got.into_iter().any(|data| data == frame));
        drop(tap);
        let mut gone = std::process::Command::new("ip");
        assert!(
            gone.args(["link", "del", &name])
                .status()
                .unwrap()
                .success()
        );
    }
}
