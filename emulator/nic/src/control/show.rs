//! What `vfnic show` says: settings, counters and utilisation of every NIC. `docs/json.md` says the same to whoever reads it as JSON.
//! Only data; it is filled in by whoever owns the planes, and made into text by the program.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::show_vf::ShowVfState;
use vf_model::FastCounters;

/// The version of what follows: within one, keys are only added, and none changes its meaning.
pub const SHOW_VERSION: u32 = 1;

/// Everything there is to see of a running emulator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Show {
    /// [`SHOW_VERSION`].
    #[serde(default)]
    pub version: u32,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Seconds that the utilisations below are averaged over: since the `show` before, or since the start.
    pub interval_s: f64,
    /// What is missing in the log.
    #[serde(default)]
    pub log: ShowLog,
    /// What memory the process has, on the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ShowMemory>,
    /// Whether what commands change is there again after a restart, where that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<ShowState>,
    /// Every NIC.
    pub nics: Vec<ShowNic>,
}

/// Memory of the process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowMemory {
    /// Resident, and shared with nobody: buffers, tables, stacks.
    pub own: u64,
    /// Resident, and shared with guests, or a file.
    pub shared: u64,
}

/// What commands change, on the disk for the next start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowState {
    /// The file.
    pub file: String,
    /// Whether all of it is there.
    pub kept: bool,
    /// Why it is not: the file, and what the system says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Lines that are not in the log, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowLog {
    /// Lines that could not be written.
    pub lost: u64,
    /// Lines of VFs and NICs that had logged too many.
    pub left_out: u64,
}

/// One NIC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowNic {
    /// Its name.
    pub name: String,
    /// What is plugged into its port: `none`, `wire` or the name of a tap device, and behind it `netem` with the impairments
    /// in front of it, if there are any.
    pub uplink: String,
    /// Impairments of what leaves (`egress`) and of what comes (`ingress`), in the words that set them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub netem: BTreeMap<String, String>,
    /// How its cable comes out of the port and goes in again, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flap: Option<String>,
    /// Its port.
    pub link: ShowLink,
    /// The direct path's workers: their time in all, and how busy they are on average.
    pub worker: ShowCpu,
    /// The mediated path's hypervisor thread.
    pub hypervisor: ShowCpu,
    /// The threads of both; none on the virtual clock.
    pub workers: Vec<ShowWorker>,
    /// The hypervisor's bridge.
    pub bridge: ShowBridge,
    /// Which NIC it is like.
    pub profile: String,
    /// How its switch forwards: `veb`, `vepa`, `floating` or `none`.
    #[serde(default)]
    pub hwmode: String,
    /// Stations behind the PF that the switch has been told of, in the words that add them.
    #[serde(default)]
    pub fdb: Vec<String>,
    /// How many VFs there are (`sriov_numvfs`).
    #[serde(default)]
    pub numvfs: u64,
    /// How many there can be (`sriov_totalvfs`).
    #[serde(default)]
    pub totalvfs: u64,
    /// How many filters the NIC has.
    pub filters: u64,
    /// How full its filter tables are.
    pub filter_tables: Vec<ShowFilterTable>,
    /// Frames between the NIC and the hypervisor.
    pub pf: ShowCounters,
    /// Every VF.
    pub vfs: Vec<ShowVf>,
}

/// A filter table of a NIC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShowFilterTable {
    /// Which.
    pub name: String,
    /// Rows there are.
    pub rows: u64,
    /// Rows in use.
    pub used: u64,
    /// How deep the NIC looks for a filter, by its kind, where a hash says in which rows it may lie: what is deeper is refused.
    pub search_limits: BTreeMap<String, u16>,
    /// How deep the deepest of them lies, likewise.
    pub search_depths: BTreeMap<String, u16>,
}

/// A NIC's port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowLink {
    /// Whether it is up: the administrator has it up, and the cable carries.
    pub up: bool,
    /// Whether the cable carries: the port at its other end is up.
    pub carrier: bool,
    /// Megabits a second.
    pub rate_mbps: u64,
    /// Most bytes behind the header and tags of a frame that passes it.
    #[serde(default)]
    pub mtu: u16,
    /// How many frames a second that come in are flooded at most (broadcasts, groups); 0 is no limit.
    #[serde(default)]
    pub storm_control: u32,
    /// Share of the interval in which a frame was being sent, preamble and gap included. More than 1 is an error of measurement.
    pub tx_utilisation: f64,
    /// Nanoseconds spent sending, in all.
    pub tx_busy_ns: u64,
    /// Frames to and from the wire, without FCS; a super-frame counts as one.
    pub counters: ShowCounters,
    /// What the uplink counts beside that, by name.
    pub xstats: BTreeMap<String, u64>,
}

/// A thread that moves frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowCpu {
    /// `measured`: this machine's time; `model`: time charged by the cost model; `none`: it takes no time on the virtual clock.
    pub clock: String,
    /// Share of the interval in which it worked. More than 1 is an error of measurement.
    pub utilisation: f64,
    /// Nanoseconds it has worked, in all.
    pub busy_ns: u64,
}

/// What a thread has done that moves frames, since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShowWorker {
    /// Its name, as tools for threads show it: `worker-NIC` of the direct path, or `workerN-NIC` where it has several, `hyp-NIC` of
    /// the mediated one.
    pub name: String,
    /// Nanoseconds spent in polls that found work.
    pub busy_ns: u64,
    /// Polls of all queues that found work.
    pub rounds: u64,
    /// Polls that found none.
    pub idle_rounds: u64,
    /// Times it was woken from sleep.
    pub wakeups: u64,
    /// Frames handled.
    pub frames: u64,
    /// Visits of a queue that found frames.
    pub bursts: u64,
    /// Copies made of frames.
    pub copies: u64,
    /// Frames left for other workers of the NIC to deliver, each once for all of them.
    #[serde(default)]
    pub handed_over: u64,
    /// Notifications sent to drivers.
    pub notified: u64,
    /// Notifications that drivers had asked not to get.
    pub suppressed: u64,
}

/// The hypervisor's learning bridge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShowBridge {
    /// Addresses it knows now.
    pub entries: u64,
    /// Addresses learned so far.
    pub learned: u64,
    /// Addresses that changed their port.
    pub moved: u64,
    /// Frames flooded.
    pub floods: u64,
}

/// One VF.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowVf {
    /// Its number.
    pub vf: u16,
    /// Its settings in the words of `vfnic vf N set`.
    pub settings: BTreeMap<String, String>,
    /// `direct` or `mediated`.
    pub path: String,
    /// The MTU in force for what it receives: its own, the port's, or the one that its driver was told.
    #[serde(default)]
    pub mtu: u16,
    /// The MTU that its driver is told.
    #[serde(default)]
    pub told_mtu: u16,
    /// Addresses, VLANs, link, limits and counters.
    #[serde(flatten)]
    pub state: ShowVfState,
    /// Its socket.
    pub socket: String,
    /// Who listens there: `server`, the NIC does, `uml`, it does for User-Mode Linux, or `client`, its guest's VMM does.
    #[serde(default)]
    pub socket_role: String,
    /// What a guest finds there: `virtio`, `ixgbevf` or `sfc`.
    #[serde(default)]
    pub device: String,
    /// What is known of its driver by the registers of such hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<ShowFunction>,
    /// The monitor of its guest's QEMU, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qmp: Option<String>,
    /// The network device of the host that is on it in place of a VM, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// The network namespace that this is in, if it is another than vfnic's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Queue pairs offered to its guest.
    #[serde(default)]
    pub queue_pairs: u16,
    /// Whether a front end is connected.
    pub connected: bool,
    /// How many front ends have connected so far.
    pub sessions: u64,
    /// How often a front end was refused something.
    pub refusals: u64,
    /// Started rings.
    pub rings: u16,
    /// Bytes of its guest's memory that a front end of vhost-user has shared.
    #[serde(default)]
    pub guest_memory: u64,
    /// Impairments of what the guest sends (`egress`) and of what it is given (`ingress`), in the words that set them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub netem: BTreeMap<String, String>,
    /// What those have done so far, by direction, once there were any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub netem_counters: BTreeMap<String, ShowNetem>,
    /// How received flows are spread over queues.
    pub rss: ShowRss,
    /// Each queue pair that has been used.
    pub queues: Vec<ShowQueue>,
    /// What its driver asked for on the control queue: `mac`, `rx_mode`, `unicast`, `multicast`, `vlans`, where it did.
    pub asked: BTreeMap<String, String>,
    /// What of that is in force.
    pub in_force: BTreeMap<String, String>,
    /// How often its driver asked for what it may not have.
    pub refused: u64,
    /// Both paths together, as the guest sees it: tx is what the guest sent.
    pub total: ShowCounters,
    /// What took the direct path.
    pub direct: ShowCounters,
    /// What took the mediated path.
    pub mediated: ShowCounters,
    /// What took which path flow by flow, if the VF is or has been on path `auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto: Option<ShowAuto>,
}

/// What impairments have done to frames of a VF in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ShowNetem {
    /// Copies that went on beside their frame: of what the guest sends they are among `tx_packets`.
    pub duplicated: u64,
    /// Frames with a bit turned over.
    pub corrupted: u64,
    /// Frames that have overtaken others.
    pub reordered: u64,
    /// Frames that were lost: `netem_loss` among the drops of that direction.
    pub lost: u64,
}

/// A VF with registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowFunction {
    /// Whether a driver has it: it may reach memory.
    pub driver: bool,
    /// How often its driver has spoken to its NIC since vfnic started: by the mailbox of an `ixgbevf`, by MCDI of an `sfc`.
    #[serde(default)]
    pub messages: u64,
    /// What of that was for the NIC's policy, since its client connected.
    pub requests: u64,
    /// Interrupts, since vfnic started.
    pub interrupts: u64,
}

/// A VF on path `auto`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShowAuto {
    /// Frames by path, under the names of the plug-in's statistics.
    #[serde(flatten)]
    pub counters: FastCounters,
    /// Learned filters in use.
    pub filters: u64,
    /// How many it may have.
    pub max_filters: u64,
    /// Groups on the fast path.
    pub mcasts: u64,
    /// How many it may have.
    pub max_mcasts: u64,
    /// Filters learned so far.
    pub learned: u64,
    /// Those that gave way to others.
    pub evicted: u64,
    /// Those that matched frames for somebody else.
    pub stale: u64,
}

/// How flows are spread over queues, in the words of `vfnic vf N rss`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowRss {
    /// Key of the hash.
    pub hkey: String,
    /// `default`, `equal N` or `weight W0 W1 ...`.
    pub spread: String,
    /// Its contexts, which filters name.
    #[serde(default)]
    pub contexts: Vec<ShowRssContext>,
}

/// An RSS context, in the words of `vfnic vf N rss context`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShowRssContext {
    /// Its number.
    pub context: u64,
    /// Key of its hash.
    pub hkey: String,
    /// As for all frames of the VF.
    pub spread: String,
}

/// One queue pair, on both paths together; tx is what was taken from the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShowQueue {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// Frames and bytes, and the frames that did not arrive, by reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ShowCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames to this receiver that were dropped, by reason; reasons that did not occur are left out.
    pub rx_drops: BTreeMap<String, u64>,
    /// Frames from this sender that were dropped.
    pub tx_drops: BTreeMap<String, u64>,
}

impl ShowCounters {
    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &ShowCounters) -> ShowCounters {
        let mut sum = self.clone();
        sum.rx_packets += other.rx_packets;
        sum.rx_bytes += other.rx_bytes;
        sum.tx_packets += other.tx_packets;
        sum.tx_bytes += other.tx_bytes;
        for (into, from) in [
            (&mut sum.rx_drops, &other.rx_drops),
            (&mut sum.tx_drops, &other.tx_drops),
        ] {
            for (reason, n) in from {
                *into.entry(reason.clone()).or_default() += n;
            }
        }
        sum
    }
}

impl Show {
    /// The threads of all NICs.
    pub fn workers(&self) -> impl Iterator<Item = &ShowWorker> {
        self.nics.iter().flat_map(|nic| &nic.workers)
    }
}

/// A thread with its busy time in cycles, as DPDK's `--record-core-cycles` counts them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WorkerCycles<'a> {
    /// What the thread has done.
    #[serde(flatten)]
    pub worker: &'a ShowWorker,
    /// Ticks of the time-stamp counter a second; none where the machine has no such counter that runs at one rate.
    pub tsc_hz: Option<u64>,
    /// Ticks in rounds that found work.
    pub busy_cycles: Option<u64>,
    /// Of those, ticks a frame.
    pub cycles_per_packet: Option<f64>,
}

impl<'a> WorkerCycles<'a> {
    /// Converts its busy time at a known rate of the counter.
    #[must_use]
    pub fn new(worker: &'a ShowWorker, tsc_hz: Option<u64>) -> WorkerCycles<'a> {
        let busy = tsc_hz.map(|hz| worker.busy_ns as f64 * hz as f64 / 1e9);
        WorkerCycles {
            worker,
            tsc_hz,
            busy_cycles: busy.map(|ticks| ticks as u64),
            cycles_per_packet: busy
                .filter(|_| worker.frames > 0)
                .map(|ticks| ticks / worker.frames as f64),
        }
    }
}

/// Ticks of the time-stamp counter a second, measured; none where it does not run at one rate.
#[must_use]
pub fn tsc_hz() -> Option<u64> {
    const TICKS: u64 = 1 << 40;
    let ns = quanta::Clock::new().delta_as_nanos(0, TICKS);
    // Without such a counter the crate counts nanoseconds.
    (ns != TICKS).then(|| (TICKS as f64 * 1e9 / ns.max(1) as f64) as u64)
}

/// Words that are keys and values in turn, as a JSON object.
#[must_use]
pub fn words_to_json(words: &str) -> serde_json::Value {
    let mut map = serde_json::Map::new();
    // The one word without a value.
    let words = match words.strip_prefix("egress ") {
        Some(rest) => {
            map.insert("direction".to_owned(), "egress".into());
            rest
        }
        None => words,
    };
    let mut words = words.split_whitespace();
    let mut masked = "";
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        let number = value.parse::<u64>().map(serde_json::Value::from);
        // A mask is that of the address before it, of which there may be two.
        let name = match key {
            "m" => format!("{masked}-mask"),
            key => key.to_owned(),
        };
        map.insert(name, number.unwrap_or_else(|_| value.into()));
        masked = key;
    }
    map.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_on_what_vfs_send_says_so_in_json() {
        let words = "egress vf 1 flow-type ether proto 0x0800 action drop priority manual";
        let json = words_to_json(words);
        assert_eq!(json["direction"], "egress");
        assert_eq!((&json["vf"], &json["action"]), (&1.into(), &"drop".into()));
        assert_eq!(words_to_json("flow-type ether vf 2")["vf"], 2);
    }

    #[test]
    fn each_mask_of_a_filter_is_in_its_json() {
        let words = "flow-type ether src 02:00:00:00:00:00 m 00:00:00:00:00:ff dst 06:00:00:00:00:00 m 00:00:00:00:ff:ff vf 2";
        let json = words_to_json(words);
        assert_eq!(json["src-mask"], "00:00:00:00:00:ff");
        assert_eq!(json["dst-mask"], "00:00:00:00:ff:ff");
        assert_eq!(
            (&json["dst"], &json["vf"]),
            (&"06:00:00:00:00:00".into(), &2.into())
        );
        assert!(json.get("m").is_none());
    }

    #[test]
    fn busy_time_is_told_in_cycles_a_packet_where_the_counter_is_known() {
        let worker = ShowWorker {
            name: "worker-a".into(),
            busy_ns: 1000,
            frames: 20,
            ..ShowWorker::default()
        };
        let known = WorkerCycles::new(&worker, Some(2_600_000_000));
        assert_eq!(known.busy_cycles, Some(2600));
        assert_eq!(known.cycles_per_packet, Some(130.0));
        let json = serde_json::to_value(known).unwrap();
        assert_eq!(
            (&json["frames"], &json["busy_cycles"]),
            (&20.into(), &2600.into())
        );

        let unknown = WorkerCycles::new(&worker, None);
        assert_eq!(unknown.busy_cycles, None);
        assert_eq!(unknown.cycles_per_packet, None);
        let idle = ShowWorker::default();
        assert_eq!(WorkerCycles::new(&idle, Some(1)).cycles_per_packet, None);
    }
}
