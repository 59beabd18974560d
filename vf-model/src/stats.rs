//! Counters of a VF, of the PF and of the wire, and the reasons why frames are dropped. A model counts where others can read
//! it at any time. Never decides anything.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde::{Deserialize, Deserializer};
use vf_packet::MacAddr;

use crate::counter::Counter;

macro_rules! drop_reasons {
    ($(#[doc = $says:literal] $name:ident = $text:literal,)*) => {
        /// Why a frame is not delivered. Each frame, and each receiver's copy of one, is dropped for one reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $(#[doc = $says] $name,)* }

        const ALL: &[DropReason] = &[$(DropReason::$name),*];

        impl DropReason {
            /// The name under which it is shown and counted.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub fn says(self) -> &'static str {
                match self { $(DropReason::$name => $says.trim_ascii(),)* }
            }
        }
    };
}

drop_reasons! {
    /// The frame ends within its Ethernet header.
    Runt = "runt",
    /// Longer than a frame can be.
    Oversize = "oversize",
    /// Longer than an MTU: the sender's, the receiver's or the port's, each counted where it is exceeded.
    MtuExceeded = "mtu_exceeded",
    /// The sender may not use this source address.
    SpoofedMac = "spoofed_mac",
    /// The sender has a port VLAN and put a tag on, and this NIC puts none in front of another.
    TaggedOnPortVlan = "tagged_on_port_vlan",
    /// The sender takes no part in the frame's VLAN.
    VlanFiltered = "vlan_filtered",
    /// Link-local control frames, which a switch does not forward.
    ReservedMulticast = "reserved_multicast",
    /// A filter of the NIC's table says so.
    Filtered = "filtered",
    /// A filter on what VFs send says so, or none of those by which its VF may send lets it out.
    EgressFiltered = "egress_filtered",
    /// The link is down, the sender's or the only receiver's.
    LinkDown = "link_down",
    /// The cable carries nothing: the port at its other end is down.
    NoCarrier = "no_carrier",
    /// The sender or the only receiver is disabled by the administrator.
    VfDisabled = "vf_disabled",
    /// One broadcast, or frame to a group that several here get, more than its VF or the port may have flooded in a second, or a super-frame of too many segments for that.
    StormControl = "storm_control",
    /// Nobody to give it to.
    NoReceiver = "no_receiver",
    /// The driver's virtio header makes no sense.
    BadHeader = "bad_header",
    /// The headers of a super-frame are longer than any that are read.
    HeadersTooLong = "headers_too_long",
    /// The receiver has posted no buffers.
    NoRxBuffer = "no_rx_buffer",
    /// A super-frame would be more segments than are made of one, or shorter ones than any stack makes.
    TooManySegments = "too_many_segments",
    /// The receiver's buffers are too small, or in so many pieces that to look for room takes too long.
    RxTooSmall = "rx_too_small",
    /// No driver is attached to the VF: none of its rings is started.
    NotAttached = "not_attached",
    /// The ring is not enabled.
    RingDisabled = "ring_disabled",
    /// The driver has broken its ring.
    RingBroken = "ring_broken",
    /// Nothing is plugged into the NIC's port, or its switch has no uplink (hwmode floating).
    NoUplink = "no_uplink",
    /// The wire holds no more.
    WireQueueFull = "wire_queue_full",
    /// What has come through a tunnel is not of it: another host's, another network's, or no frame.
    NotOfTunnel = "not_of_tunnel",
    /// Lost, as the impairments of the port or of the VF want it.
    NetemLoss = "netem_loss",
    /// More is held back by the impairments of the port or of the VF than they may hold.
    NetemLimit = "netem_limit",
    /// The receiver's worker takes no more from another worker of the NIC.
    WorkerQueueFull = "worker_queue_full",
    /// The hypervisor takes no more from the NIC.
    HypervisorQueueFull = "hypervisor_queue_full",
    /// Its flow is changing to the fast path, and no more of it may wait for that.
    FastPathBusy = "fast_path_busy",
    /// The NIC takes no more from the hypervisor.
    PfQueueFull = "pf_queue_full",
}

impl DropReason {
    /// Every reason there is.
    pub fn all() -> impl Iterator<Item = DropReason> {
        ALL.iter().copied()
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Dropped frames by reason; serialised as a map of those that are not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops<N = u64>([N; ALL.len()]);

impl Drops {
    /// How many for this reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// How many in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that have occurred and how often.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        let counted = DropReason::all().zip(self.0.iter().copied());
        counted.filter(|(_, n)| *n > 0)
    }
}

impl Drops<Counter> {
    #[inline]
    pub(crate) fn count(&self, reason: DropReason) {
        self.0[reason as usize].add(1);
    }

    fn read(&self) -> Drops {
        Drops(std::array::from_fn(|reason| self.0[reason].get()))
    }

    fn go_on_from(&self, counted: &Drops) {
        let both = self.0.iter().zip(counted.0);
        both.for_each(|(counter, n)| counter.set(n));
    }
}

impl Serialize for Drops {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (reason, n) in self.iter() {
            map.serialize_entry(reason.name(), &n)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Drops {
    /// A reason that there is not, of another version, is left out.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Drops, D::Error> {
        let map = BTreeMap::<String, u64>::deserialize(deserializer)?;
        let of = |reason: DropReason| map.get(reason.name()).copied().unwrap_or_default();
        Ok(Drops(std::array::from_fn(|at| of(ALL[at]))))
    }
}

/// What has passed one port, in the view of whoever is attached to it: tx is what the guest sends, or the hypervisor over
/// the PF, or the NIC onto the wire. A super-frame is one packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
#[serde(bound(
    serialize = "N: Serialize, Drops<N>: Serialize",
    deserialize = "N: Deserialize<'de>, Drops<N>: Deserialize<'de>"
))]
pub struct Counters<N = u64> {
    /// Frames received.
    pub rx_packets: N,
    /// Bytes received, as handed over (no FCS).
    pub rx_bytes: N,
    /// Frames received to a group address other than broadcast.
    pub rx_multicast: N,
    /// Broadcast frames received.
    pub rx_broadcast: N,
    /// Frames sent that passed the checks of the sender and had somewhere to go.
    pub tx_packets: N,
    /// Bytes of those.
    pub tx_bytes: N,
    /// Those to a group address other than broadcast.
    pub tx_multicast: N,
    /// Those to the broadcast address.
    pub tx_broadcast: N,
    /// Frames meant for it that it did not get.
    pub rx_drops: Drops<N>,
    /// Frames it sent that went nowhere; on the wire and the PF, frames that found the queue full, and copies that the port's MTU
    /// let nobody send.
    pub tx_drops: Drops<N>,
}

/// The same while they are counted: their owner writes them, and anybody may read them.
pub(crate) type LiveCounters = Counters<Counter>;

impl LiveCounters {
    pub(crate) fn count_rx(&self, dst: MacAddr, len: u32) {
        self.count_rx_run(1, len.into());
        if dst.is_broadcast() {
            self.rx_broadcast.add(1);
        } else if dst.is_multicast() {
            self.rx_multicast.add(1);
        }
    }

    /// Frames to stations.
    #[inline]
    pub(crate) fn count_rx_run(&self, frames: u64, bytes: u64) {
        self.rx_packets.add(frames);
        self.rx_bytes.add(bytes);
    }

    /// A frame to a station.
    #[inline]
    pub(crate) fn count_tx_station(&self, len: u32) {
        self.tx_packets.add(1);
        self.tx_bytes.add(len.into());
    }

    pub(crate) fn count_tx(&self, dst: MacAddr, len: u32) {
        self.count_tx_station(len);
        if dst.is_broadcast() {
            self.tx_broadcast.add(1);
        } else if dst.is_multicast() {
            self.tx_multicast.add(1);
        }
    }

    /// Each counter as it is at some time during the call.
    pub(crate) fn read(&self) -> Counters {
        Counters {
            rx_packets: self.rx_packets.get(),
            rx_bytes: self.rx_bytes.get(),
            rx_multicast: self.rx_multicast.get(),
            rx_broadcast: self.rx_broadcast.get(),
            tx_packets: self.tx_packets.get(),
            tx_bytes: self.tx_bytes.get(),
            tx_multicast: self.tx_multicast.get(),
            tx_broadcast: self.tx_broadcast.get(),
            rx_drops: self.rx_drops.read(),
            tx_drops: self.tx_drops.read(),
        }
    }

    pub(crate) fn go_on_from(&self, counted: &Counters) {
        for (counter, n) in [
            (&self.rx_packets, counted.rx_packets),
            (&self.rx_bytes, counted.rx_bytes),
            (&self.rx_multicast, counted.rx_multicast),
            (&self.rx_broadcast, counted.rx_broadcast),
            (&self.tx_packets, counted.tx_packets),
            (&self.tx_bytes, counted.tx_bytes),
            (&self.tx_multicast, counted.tx_multicast),
            (&self.tx_broadcast, counted.tx_broadcast),
        ] {
            counter.set(n);
        }
        self.rx_drops.go_on_from(&counted.rx_drops);
        self.tx_drops.go_on_from(&counted.tx_drops);
    }
}

/// The counters of one port, for any thread to read while they are counted. Each is exact; between two of them the owner
/// may have counted more, so that packets and bytes of a reading may be a frame apart while traffic runs.
#[derive(Clone, Debug)]
pub struct PublishedPort(pub(crate) Arc<LiveCounters>);

impl PublishedPort {
    /// What has been counted so far.
    #[must_use]
    pub fn read(&self) -> Counters {
        self.0.read()
    }

    /// Goes on from what another process has counted. Only before its owner counts anything.
    pub fn go_on_from(&self, counted: &Counters) {
        self.0.go_on_from(counted);
    }
}

impl AddAssign<&Counters> for Counters {
    /// A VF that has used both paths has counters in both the NIC and the hypervisor; this is their sum.
    fn add_assign(&mut self, other: &Counters) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.rx_multicast += other.rx_multicast;
        self.rx_broadcast += other.rx_broadcast;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.tx_multicast += other.tx_multicast;
        self.tx_broadcast += other.tx_broadcast;
        for (n, o) in self.rx_drops.0.iter_mut().zip(other.rx_drops.0) {
            *n += o;
        }
        for (n, o) in self.tx_drops.0.iter_mut().zip(other.tx_drops.0) {
            *n += o;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_distinct_and_each_reason_has_its_own_count() {
        let names: BTreeSet<_> = DropReason::all().map(|r| r.to_string()).collect();
        assert_eq!(names.len(), DropReason::all().count());
        let drops = Drops::<Counter>::default();
        for (n, reason) in DropReason::all().enumerate() {
            (0..n).for_each(|_| drops.count(reason));
        }
        let drops = drops.read();
        for (n, reason) in DropReason::all().enumerate() {
            assert_eq!(drops.get(reason), n as u64);
        }
        assert_eq!(drops.iter().count(), names.len() - 1);
    }

    #[test]
    fn shown_by_name_and_only_if_not_zero() {
        let counters = LiveCounters::default();
        counters.count_rx(MacAddr::BROADCAST, 60);
        counters.count_rx(MacAddr([1, 0, 0x5e, 0, 0, 1]), 60);
        counters.count_rx(MacAddr([2, 0, 0, 0, 0, 1]), 60);
        counters.rx_drops.count(DropReason::NoRxBuffer);
        let mut sum = counters.read();
        sum += &counters.read();
        let json = serde_json::to_value(&sum).unwrap();
        assert_eq!(json["rx_packets"], 6);
        assert_eq!(json["rx_bytes"], 360);
        assert_eq!(
            (&json["rx_broadcast"], &json["rx_multicast"]),
            (&2.into(), &2.into())
        );
        assert_eq!(json["rx_drops"], serde_json::json!({ "no_rx_buffer": 2 }));
        assert_eq!(json["tx_drops"], serde_json::json!({}));
        // Another process goes on from there.
        let read: Counters = serde_json::from_value(json).unwrap();
        let others = LiveCounters::default();
        others.go_on_from(&read);
        others.rx_drops.count(DropReason::NoRxBuffer);
        sum.rx_drops.0[DropReason::NoRxBuffer as usize] += 1;
        assert_eq!((others.read(), read.rx_packets), (sum, 6));
    }
}
