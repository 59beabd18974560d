//! A tap device of the host as the uplink, with its virtio-net header, so that super-frames and partial checksums pass
//! as they are. What leaves is paced like a wire; from the device any bridge of the host takes over. Needs
//! `CAP_NET_ADMIN` to open, nothing afterwards. Never blocks.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};
use vf_model::{DropReason, FrameMeta, Link, LinkConfig, Nanos};
use vf_vhost::features::VirtioFeatures;
use vf_vhost::frame::FrameBuf;
use vf_vhost::net_hdr::{MAX_FRAME, NetHdr};

use super::kicks::KICK;
use super::pool::Pool;

/// The virtio-net header as a tap device uses it (no `num_buffers`).
const HEADER: usize = 10;
/// Every offload that is asked of the device, so every header it may hand over.
const FEATURES: VirtioFeatures = VirtioFeatures::all();

/// An open tap device.
pub struct Tap {
    name: String,
    device: SyncDevice,
    link: Link,
    rate_bps: u64,
    slack: Nanos,
    /// One frame of the largest size.
    scratch: Vec<u8>,
}

impl Tap {
    /// Opens (and if need be creates) the tap device `name` and sets it up.
    ///
    /// # Errors
    /// What the kernel says, usually a lack of permission.
    pub fn open(name: &str, config: LinkConfig, slack: Nanos) -> std::io::Result<Tap> {
        let device = DeviceBuilder::new()
            .name(name)
            .layer(Layer::L2)
            .offload(true)
            .build_sync()?;
        device.set_nonblocking(true)?;
        Ok(Tap {
            name: name.to_owned(),
            device,
            link: Link::new(config),
            rate_bps: config.rate_bps,
            slack,
            scratch: vec![0; MAX_FRAME as usize],
        })
    }

    /// Its name on the host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Wakes the poller of `registry` when the host has sent something.
    pub fn register(&self, registry: &Registry) {
        let fd = self.device.as_raw_fd();
        if let Err(error) = registry.register(&mut SourceFd(&fd), KICK, Interest::READABLE) {
            tracing::warn!(%error, "cannot wait for the tap device");
        }
    }

    /// Whether a frame handed over now would be taken.
    #[must_use]
    pub fn can_send(&self, now: Nanos) -> bool {
        self.can_send_at().is_some_and(|at| at <= now)
    }

    /// When the transmitter will take another frame.
    #[must_use]
    pub fn can_send_at(&self) -> Option<Nanos> {
        Some(Nanos(self.link.free_at().0.saturating_sub(self.slack.0)))
    }

    /// Hands a frame to the host, or says why that was not possible.
    pub fn send(
        &mut self,
        now: Nanos,
        frame: FrameBuf,
        meta: &FrameMeta,
        pool: &Pool,
    ) -> Result<(), DropReason> {
        let header = frame.hdr.to_bytes(0);
        let (header, _) = header.split_at(HEADER);
        match rustix::io::writev(
            &self.device,
            &[IoSlice::new(header), IoSlice::new(&frame.data)],
        ) {
            Ok(_) => {
                self.link.transmit(now, meta);
                pool.give(frame);
                Ok(())
            }
            Err(error) => {
                pool.give(frame);
                Err(if error == rustix::io::Errno::AGAIN {
                    DropReason::WireQueueFull
                } else {
                    DropReason::NoUplink // the device is down, or gone
                })
            }
        }
    }

    /// The next frame from the host, or why it cannot be taken.
    pub fn receive(&mut self, pool: &Pool) -> Option<Result<FrameBuf, DropReason>> {
        let mut header = [0; HEADER];
        let mut parts = [
            IoSliceMut::new(&mut header),
            IoSliceMut::new(&mut self.scratch),
        ];
        let len = rustix::io::readv(&self.device, &mut parts).ok()?;
        let mut frame = pool.take();
        let data = self.scratch.get(..len.checked_sub(HEADER)?)?;
        frame.data.extend_from_slice(data);
        let hdr = NetHdr::from_bytes(&header);
        match hdr.check(FEATURES, frame.head(), frame.len()) {
            Ok(checked) => {
                frame.hdr = checked;
                Some(Ok(frame))
            }
            // UDP segmentation, which kernels since 6.2 hand over once TCP's has been asked for: we cannot do it.
            Err(_) => {
                pool.give(frame);
                Some(Err(DropReason::BadHeader))
            }
        }
    }

    /// Bits a second at which it is paced.
    #[must_use]
    pub fn rate_bps(&self) -> u64 {
        self.rate_bps
    }

    /// The transmitter, for its counters.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }
}
