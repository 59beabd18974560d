//! Makes what the planes count into what `vfnic show` says. Asks no plane for anything, and changes nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::Deref;

use vf_model::{
    Counters, DropReason, FastCounters, FastKey, Impairments, Nanos, NetemWay, Policy, RxFilter,
    SETTING_KEYS, SearchDepth, TableUse, VfIndex, VfPolicy,
};

use super::show::{
    SHOW_VERSION, Show, ShowAuto, ShowBridge, ShowCounters, ShowCpu, ShowFilterTable, ShowFunction,
    ShowLink, ShowLog, ShowMemory, ShowNetem, ShowNic, ShowQueue, ShowRss, ShowRssContext,
    ShowState, ShowVf, ShowWorker,
};
use super::show_vf::ShowVfState;
use crate::config::SocketRole;
use crate::instance::{NicInstance, VfSocket};
use crate::kept::Kept;
use crate::plane::{NetemCounts, PairTraffic};
use crate::thread::{Load, PlaneHandle};
use crate::uplink::Statistic;

/// Remembers the reading before, to say what happened since.
pub struct Observer {
    last: Nanos,
    busy: Vec<Busy>,
    /// What the kernel says of the process's memory (proc_pid_statm(5)), open since before the sandbox.
    statm: Option<File>,
    /// How far what commands change has been written down, if it is.
    kept: Option<Kept>,
}

impl Default for Observer {
    fn default() -> Observer {
        Observer {
            last: Nanos(0),
            busy: Vec::new(),
            statm: File::open("/proc/self/statm").ok(),
            kept: None,
        }
    }
}

/// Nanoseconds of work so far.
#[derive(Clone, Copy, Default)]
struct Busy {
    link: u64,
    worker: u64,
    hypervisor: u64,
}

impl Observer {
    /// Tells of this from now on.
    pub(super) fn keep(&mut self, kept: Kept) {
        self.kept = Some(kept);
    }

    /// What all hosts have counted up to `at`, by whichever clock they are on.
    pub fn show<H: Deref<Target = NicInstance>>(
        &mut self,
        at: Nanos,
        hosts: impl Iterator<Item = H>,
    ) -> Show {
        let interval_s = at.saturating_sub(self.last).0 as f64 / 1e9;
        self.last = at;
        let mut nics = Vec::new();
        let mut threads = false;
        for (h, host) in hosts.enumerate() {
            if self.busy.len() <= h {
                self.busy.push(Busy::default());
            }
            threads |= matches!(host.worker(), PlaneHandle::Thread(_));
            nics.push(nic(&host, at, interval_s, &mut self.busy[h]));
        }
        Show {
            version: SHOW_VERSION,
            uptime_s: at.0 as f64 / 1e9,
            interval_s,
            log: ShowLog {
                lost: crate::log::lost(),
                left_out: crate::log::left_out(),
            },
            memory: threads.then(|| self.memory()).flatten(),
            state: self.kept.as_ref().map(state),
            nics,
        }
    }

    fn memory(&mut self) -> Option<ShowMemory> {
        let file = self.statm.as_mut()?;
        let mut text = String::new();
        file.rewind().ok()?;
        file.read_to_string(&mut text).ok()?;
        let mut pages = text.split(' ').skip(1).map(str::parse::<u64>);
        let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
        let page = rustix::param::page_size() as u64;
        Some(ShowMemory {
            own: resident.saturating_sub(shared) * page,
            shared: shared * page,
        })
    }
}

fn state(kept: &Kept) -> ShowState {
    let why_not = kept.progress().why_not;
    ShowState {
        file: kept.file().display().to_string(),
        kept: why_not.is_none(),
        error: why_not.map(|why| why.to_string()),
    }
}

fn rss_contexts(policy: &Policy, vf: VfIndex) -> Vec<ShowRssContext> {
    let contexts = policy.rss_contexts(vf).iter();
    let shown = contexts.map(|(id, rss)| ShowRssContext {
        context: id.into(),
        hkey: rss.key().to_string(),
        spread: rss.spread().to_string(),
    });
    shown.collect()
}

fn nic(host: &NicInstance, at: Nanos, seconds: f64, before: &mut Busy) -> ShowNic {
    let policy = host.policy();
    let statistics = &host.statistics;
    let loads = statistics.workers.iter().map(|a| a.plane.load());
    let loads: Vec<_> = loads.collect();
    let now = Busy {
        link: statistics.port_busy(at).0,
        worker: loads.iter().map(|load| load.busy_ns).sum(),
        hypervisor: statistics.hypervisor.busy_ns(at),
    };
    let share = |now: u64, then: u64| now.saturating_sub(then) as f64 / 1e9 / seconds.max(1e-9);
    // On the virtual clock planes have no threads, and what is not charged takes no time.
    let threads = matches!(host.worker(), PlaneHandle::Thread(_));
    let measured = if threads { "measured" } else { "none" }.to_owned();
    let workers = loads.len() as u64;
    let vfs = (0..policy.num_vfs()).map(|i| vf(host, &policy, i));
    let bridge = statistics.hypervisor.bridge(at);
    let uplink = statistics.uplink();
    let xstats = uplink.map_or(&[][..], |uplink| &uplink.others);
    // What impairments count is of interest while there are some, or have been.
    let counts = |(name, n): &&Statistic| {
        !crate::netem::Counters::NAMES.contains(name) || n.get() > 0 || !policy.netem().is_none()
    };
    let xstats = xstats.iter().filter(counts);
    let xstats = xstats.map(|(name, n)| ((*name).to_owned(), n.get()));
    let uplink = uplink.map(|uplink| match &policy.netem().egress {
        Some(spec) => format!("{} netem {spec}", uplink.name),
        None => uplink.name.clone(),
    });
    let show = ShowNic {
        name: host.settings.name.clone(),
        uplink: uplink.unwrap_or_else(|| "none".to_owned()),
        netem: netem(policy.netem()),
        flap: policy.flap().map(|flap| flap.to_string()),
        link: ShowLink {
            up: policy.link_up(),
            carrier: policy.carrier(),
            rate_mbps: statistics.port_rate() / 1_000_000,
            mtu: policy.mtu().get(),
            storm_control: policy.storm_control().0,
            tx_utilisation: share(now.link, before.link),
            tx_busy_ns: now.link,
            counters: counters(&statistics.wire()),
            xstats: xstats.collect(),
        },
        worker: ShowCpu {
            clock: measured.clone(),
            utilisation: share(now.worker / workers, before.worker / workers),
            busy_ns: now.worker,
        },
        hypervisor: ShowCpu {
            clock: match statistics.hypervisor.charged {
                Some(_) => "model".to_owned(),
                None => measured,
            },
            utilisation: share(now.hypervisor, before.hypervisor),
            busy_ns: now.hypervisor,
        },
        workers: loads
            .iter()
            .enumerate()
            .map(|(w, load)| worker(host.settings.worker_name(w), load))
            .chain([worker(
                format!("hyp-{}", host.settings.name),
                &statistics.hypervisor.plane.load(),
            )])
            .filter(|_| threads)
            .collect(),
        bridge: ShowBridge {
            entries: bridge.entries,
            learned: bridge.learned,
            moved: bridge.moved,
            floods: bridge.floods,
        },
        profile: policy.profile().to_string(),
        hwmode: policy.switch_mode().to_string(),
        fdb: policy
            .stations_behind_pf()
            .iter()
            .map(ToString::to_string)
            .collect(),
        numvfs: policy.num_vfs() as u64,
        totalvfs: policy.vf_count() as u64,
        filters: policy.all_filters().len() as u64,
        filter_tables: policy
            .all_filters()
            .uses()
            .iter()
            .map(filter_table)
            .collect(),
        pf: pf_counters(&statistics.pf(), &statistics.hypervisor.plane.pf()),
        vfs: vfs.collect(),
    };
    *before = now;
    show
}

fn vf(host: &NicInstance, policy: &Policy, i: usize) -> ShowVf {
    let statistics = &host.statistics;
    let vf = VfIndex::from(i);
    let [direct, mediated] = [statistics.direct(vf), statistics.mediated(vf)];
    let mut both = direct.clone();
    both += &mediated;
    let (direct, mediated) = (counters(&direct), counters(&mediated));
    let socket = host.vfs[i].socket.as_ref();
    let tap = host.settings.vf[i].tap.as_ref();
    ShowVf {
        vf: u16::try_from(i).unwrap_or(u16::MAX),
        settings: settings(policy.vf(vf)),
        path: host.path(vf).to_string(),
        mtu: policy.rx_mtu(vf).get(),
        told_mtu: policy.told_mtu(vf).get(),
        state: ShowVfState::new(policy, vf, &both, host.link_method(vf)),
        socket: host.settings.vf[i].socket.display().to_string(),
        socket_role: match host.settings.vf[i].role {
            SocketRole::Server => "server",
            SocketRole::Client => "client",
            SocketRole::Uml => "uml",
        }
        .to_owned(),
        device: host.settings.vf[i].device.to_string(),
        function: socket.and_then(VfSocket::slot).map(|slot| ShowFunction {
            driver: slot.is_bus_master(),
            messages: slot.messages(),
            requests: host.requests(vf),
            interrupts: slot.vectors().raised(),
        }),
        qmp: host.settings.vf[i]
            .qmp
            .as_ref()
            .map(|qmp| qmp.display().to_string()),
        tap: tap.map(|tap| tap.name.clone()),
        netns: tap.and_then(|tap| tap.netns.clone()),
        queue_pairs: host.settings.queue_pairs,
        connected: socket.is_some_and(VfSocket::is_connected),
        sessions: host.vfs[i].sessions(),
        refusals: host.vfs[i].refusals(),
        rings: host.rings(vf),
        guest_memory: host.vfs[i]
            .endpoint()
            .map_or(0, |endpoint| endpoint.guest_memory()),
        netem: netem(policy.vf_netem(vf)),
        netem_counters: netem_counters(policy.vf_netem(vf), statistics.netem(vf), &both),
        rss: ShowRss {
            hkey: policy.rss(vf).key().to_string(),
            spread: policy.rss(vf).spread().to_string(),
            contexts: rss_contexts(policy, vf),
        },
        queues: queues(&statistics.traffic(vf)),
        asked: rx_filter(policy.asked(vf)),
        in_force: rx_filter(policy.in_force(vf)),
        refused: host.refused(vf),
        total: direct.plus(&mediated),
        direct,
        mediated,
        auto: auto(host, policy, vf),
    }
}

/// In the words that set them, by direction.
fn netem(impairments: &Impairments) -> BTreeMap<String, String> {
    let each = impairments.iter();
    each.map(|(way, spec)| (way.to_string(), spec.to_string()))
        .collect()
}

/// What impairments of a VF have done by direction, if there are any, or were.
fn netem_counters(
    impairments: &Impairments,
    counts: [NetemCounts; 2],
    of_vf: &Counters,
) -> BTreeMap<String, ShowNetem> {
    let lost = [&of_vf.tx_drops, &of_vf.rx_drops].map(|drops| drops.get(DropReason::NetemLoss));
    let counts = [0, 1].map(|way: usize| ShowNetem {
        duplicated: counts[way].duplicated,
        corrupted: counts[way].corrupted,
        reordered: counts[way].reordered,
        lost: lost[way],
    });
    if impairments.is_none() && counts == [ShowNetem::default(); 2] {
        return BTreeMap::new();
    }
    let [sent, received] = counts;
    let by_way = [(NetemWay::Egress, sent), (NetemWay::Ingress, received)];
    by_way.map(|(way, counts)| (way.to_string(), counts)).into()
}

/// What of a VF took which path flow by flow, if any did.
fn auto(host: &NicInstance, policy: &Policy, vf: VfIndex) -> Option<ShowAuto> {
    let counters = host.statistics.fast_path(vf);
    let stats = policy.learned_stats(vf);
    if !policy.auto().contains(vf) && counters == FastCounters::default() {
        return None;
    }
    let (groups, flows): (Vec<_>, Vec<_>) = policy
        .learned_by(vf)
        .partition(|key| matches!(key, FastKey::Group(_)));
    let limits = policy.vf(vf).limits;
    Some(ShowAuto {
        counters,
        filters: flows.len() as u64,
        max_filters: limits.max_filters.into(),
        mcasts: groups.len() as u64,
        max_mcasts: limits.max_mcasts.into(),
        learned: stats.learned,
        evicted: stats.evicted,
        stale: stats.stale,
    })
}

fn filter_table(table: &TableUse) -> ShowFilterTable {
    let depths = |of: fn(&SearchDepth) -> u16| {
        let depths = table.depths.iter();
        depths
            .map(|depth| (depth.kind.to_owned(), of(depth)))
            .collect()
    };
    ShowFilterTable {
        name: table.name.to_owned(),
        rows: table.rows as u64,
        used: table.used as u64,
        search_limits: depths(|depth| depth.limit),
        search_depths: depths(|depth| depth.deepest),
    }
}

fn worker(name: String, load: &Load) -> ShowWorker {
    ShowWorker {
        name,
        busy_ns: load.busy_ns,
        rounds: load.rounds,
        idle_rounds: load.idle_rounds,
        wakeups: load.wakeups,
        frames: load.frames,
        bursts: load.bursts,
        copies: load.copies,
        handed_over: load.handed_over,
        notified: load.notified,
        suppressed: load.suppressed,
    }
}

/// Both sides count the same frames, each its own drops.
fn pf_counters(of_nic: &Counters, of_hypervisor: &Counters) -> ShowCounters {
    let of_hypervisor = counters(of_hypervisor);
    let dropped = ShowCounters {
        rx_drops: of_hypervisor.rx_drops,
        tx_drops: of_hypervisor.tx_drops,
        ..ShowCounters::default()
    };
    counters(of_nic).plus(&dropped)
}

fn counters(c: &Counters) -> ShowCounters {
    ShowCounters {
        rx_packets: c.rx_packets,
        rx_bytes: c.rx_bytes,
        tx_packets: c.tx_packets,
        tx_bytes: c.tx_bytes,
        rx_drops: c.rx_drops.iter().map(|(r, n)| (r.to_string(), n)).collect(),
        tx_drops: c.tx_drops.iter().map(|(r, n)| (r.to_string(), n)).collect(),
    }
}

/// In the words of the control queue, without what a driver has not touched.
fn rx_filter(filter: &RxFilter) -> BTreeMap<String, String> {
    fn list<T: ToString + Ord>(all: &[T]) -> Option<String> {
        let mut all: Vec<_> = all.iter().collect();
        all.sort_unstable();
        let all: Vec<_> = all.into_iter().map(T::to_string).collect();
        Some(if all.is_empty() {
            "none".to_owned()
        } else {
            all.join(" ")
        })
    }
    let mode = &filter.mode;
    let modes = [
        (mode.promisc, "promisc"),
        (mode.allmulti, "allmulti"),
        (mode.alluni, "alluni"),
        (mode.nomulti, "nomulti"),
        (mode.nouni, "nouni"),
        (mode.nobcast, "nobcast"),
    ];
    let on: Vec<_> = modes
        .iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| *name)
        .collect();
    [
        ("mac", filter.mac.map(|mac| mac.to_string())),
        ("rx_mode", (!on.is_empty()).then(|| on.join(" "))),
        (
            "unicast",
            (!filter.unicast.is_empty())
                .then(|| list(&filter.unicast))
                .flatten(),
        ),
        ("multicast", filter.multicast.as_deref().and_then(list)),
        (
            "group_hashes",
            (!filter.group_hashes.is_empty())
                .then(|| list(&filter.group_hashes))
                .flatten(),
        ),
        ("vlans", filter.vlans.as_deref().and_then(list)),
        (
            "unknown_in",
            (!filter.unknown_in.is_empty())
                .then(|| list(&filter.unknown_in))
                .flatten(),
        ),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect()
}

/// The sum of what passed each queue pair on either path.
fn queues(paths: &[Vec<PairTraffic>]) -> Vec<ShowQueue> {
    let pairs = paths.iter().map(Vec::len).max().unwrap_or_default();
    let mut queues = vec![ShowQueue::default(); pairs];
    for path in paths {
        for (queue, PairTraffic { rx, tx }) in queues.iter_mut().zip(path) {
            queue.rx_packets += rx.packets;
            queue.rx_bytes += rx.bytes;
            queue.tx_packets += tx.packets;
            queue.tx_bytes += tx.bytes;
        }
    }
    queues
}

/// What is set, in the words that set it.
fn settings(policy: &VfPolicy) -> BTreeMap<String, String> {
    let set = SETTING_KEYS.iter().filter_map(|key| key.of(policy));
    let words = set.map(|setting| setting.words());
    words.map(|(key, value)| (key.to_owned(), value)).collect()
}
