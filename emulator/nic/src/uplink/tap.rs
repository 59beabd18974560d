//! A tap device of the host as the uplink, with its virtio-net header, so that super-frames and partial checksums pass
//! as they are. What leaves is paced like a wire; from the device any bridge of the host takes over. Needs
//! `CAP_NET_ADMIN` to open, nothing afterwards: its carrier is `host_link`'s. Never blocks.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};
use vf_model::{DropReason, Link, LinkConfig, Nanos};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::net_hdr::{MAX_FRAME, NetHdr};

use super::{ARRIVAL, Arrivals, Kind, Lost, OpenError, TxFrame, TxRoom, Uplink};
use crate::queue::Pool;

/// The virtio-net header as a tap device uses it (no `num_buffers`).
const HEADER: usize = 10;
/// Every offload that is asked of the device, so every header it may hand over.
const FEATURES: VirtioFeatures = VirtioFeatures::all();

/// `tap NAME`.
pub(super) const KIND: Kind = Kind {
    word: "tap",
    operand: "NAME",
    of_this_machine: true,
    is_device: true,
    check: |_| Ok(()),
    open: |name, config, slack| match open(name) {
        Ok(device) => Ok(Box::new(Tap::of(
            format!("tap {name}"),
            device,
            config,
            slack,
        ))),
        Err(source) => Err(OpenError {
            uplink: format!("tap {name}"),
            source,
            help: format!(
                "a tap device needs CAP_NET_ADMIN: run as root, or make it with 'ip tuntap add dev {name} mode tap user $USER vnet_hdr'"
            ),
        }),
    },
};

/// An open tap device, or what reads and writes as one.
pub(super) struct Tap<D> {
    /// What it is, and which.
    name: String,
    device: D,
    link: Link,
    slack: Nanos,
    /// One frame of the largest size.
    scratch: Vec<u8>,
}

/// Opens (and if need be creates) the tap device `name` and sets it up.
fn open(name: &str) -> std::io::Result<SyncDevice> {
    let device = DeviceBuilder::new()
        .name(name)
        .layer(Layer::L2)
        .offload(true)
        .build_sync()?;
    device.set_nonblocking(true)?;
    Ok(device)
}

impl<D: AsFd> Tap<D> {
    /// A device that is open, does not block, and has virtio-net headers.
    pub(super) fn of(name: String, device: D, config: LinkConfig, slack: Nanos) -> Tap<D> {
        Tap {
            name,
            device,
            link: Link::new(config),
            slack,
            scratch: vec![0; MAX_FRAME as usize],
        }
    }

    /// Reads one frame.
    fn receive(&mut self, pool: &Pool, arrivals: &mut Arrivals) -> Option<()> {
        let mut header = [0; HEADER];
        let mut parts = [
            IoSliceMut::new(&mut header),
            IoSliceMut::new(&mut self.scratch),
        ];
        let len = rustix::io::readv(&self.device, &mut parts).ok()?;
        let data = self.scratch.get(..len.checked_sub(HEADER)?)?;
        let mut frame = pool.take(data.len());
        frame.data.clear();
        frame.data.extend_from_slice(data);
        let hdr = NetHdr::from_bytes(&header);
        match hdr.check(FEATURES, frame.head(), frame.len()) {
            Ok(checked) => {
                frame.offload = checked;
                arrivals.frames.push(frame);
            }
            // UDP segmentation, which kernels since 6.2 hand over once TCP's has been asked for: we cannot do it.
            Err(_) => {
                arrivals.dropped.push((DropReason::BadHeader, frame));
            }
        }
        Some(())
    }
}

impl<D: AsFd + Send> Uplink for Tap<D> {
    fn tx_room(&mut self, now: Nanos, _pool: &Pool, _lost: &mut Lost<'_>) -> TxRoom {
        TxRoom::of(&self.link, usize::MAX, now, now + self.slack)
    }

    fn tx_room_at(&mut self) -> Option<Nanos> {
        Some(self.link.free_at().saturating_sub(self.slack))
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
            let (header, _) = header.split_at(HEADER);
            let parts = [IoSlice::new(header), IoSlice::new(&frame.data)];
            match rustix::io::writev(&self.device, &parts) {
                Ok(_) => {
                    self.link.put(now, on_wire);
                }
                Err(rustix::io::Errno::AGAIN) => lost(DropReason::WireQueueFull, &frame),
                // The device is down.
                Err(rustix::io::Errno::IO) => lost(DropReason::NoCarrier, &frame),
                // It is gone.
                Err(_) => lost(DropReason::NoUplink, &frame),
            }
            pool.give(frame);
        }
    }

    fn rx_burst(&mut self, _now: Nanos, limit: usize, pool: &Pool, arrivals: &mut Arrivals) {
        for _ in 0..limit {
            if self.receive(pool, arrivals).is_none() {
                return;
            }
        }
    }

    fn next(&mut self) -> Option<Nanos> {
        None
    }

    fn register(&self, registry: &Registry) {
        let fd = self.device.as_fd().as_raw_fd();
        if let Err(error) = registry.register(&mut SourceFd(&fd), ARRIVAL, Interest::READABLE) {
            tracing::warn!(%error, "cannot wait for the tap device");
        }
    }

    fn link(&self) -> &Link {
        &self.link
    }

    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl<D> fmt::Display for Tap<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
