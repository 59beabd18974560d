//! What `vfnic show` says, for people: units, 80 columns, and nothing that nobody asks about. Asks nobody.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::ops::RangeInclusive;

use vf_model::{MacAddr, NicConfig, Policy, Profile, SETTING_KEYS, VfIndex};
use vfnic::control::FilterLine;
use vfnic::control::show::{
    Show, ShowAuto, ShowCounters, ShowCpu, ShowLog, ShowNic, ShowVf, WorkerCycles,
};
use vfnic::control::show_vf::ShowVfState;

use crate::units::{bytes, count, percent, uptime};

/// Columns of a terminal as everybody has one.
const COLUMNS: usize = 80;
/// Columns of the name of what a line is about.
const NAME: usize = 9;

/// How much is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Detail {
    /// Of every NIC, and of VFs that have or had a guest what is not as usual.
    Overview,
    /// Everything.
    All,
    /// Everything of these VFs.
    Vfs(RangeInclusive<u16>),
}

/// Whether nobody has used it so far.
pub(crate) fn never_had_a_guest(vf: &ShowVf) -> bool {
    vf.sessions == 0 && vf.total.rx_packets + vf.total.tx_packets == 0
}

/// The state of every NIC.
pub(crate) fn text(show: &Show, detail: &Detail) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_all(&mut out, show, detail);
    out
}

/// Memory of the process, and what guests share with it.
pub(super) fn memory(show: &Show) -> String {
    let vfs = || show.nics.iter().flat_map(|nic| &nic.vfs);
    let guests = vfs().filter(|vf| vf.guest_memory > 0).count() as u64;
    let mut out = String::new();
    if let Some(memory) = show.memory {
        out += &format!("of its own    {:>9}", bytes(memory.own));
        match memory.own.checked_div(guests) {
            Some(each) => out += &format!("  {} a guest\n", bytes(each)),
            None => out += "\n",
        }
        out += &format!("shared        {:>9}\n", bytes(memory.shared));
    }
    out += &format!(
        "guests have   {:>9}  of which {guests} share it\n",
        bytes(vfs().map(|vf| vf.guest_memory).sum())
    );
    for nic in &show.nics {
        for vf in nic.vfs.iter().filter(|vf| vf.guest_memory > 0) {
            out += &format!(
                "{} vf {:<3} {:>9}\n",
                nic.name,
                vf.vf,
                bytes(vf.guest_memory)
            );
        }
    }
    out
}

fn write_all(out: &mut String, show: &Show, detail: &Detail) -> fmt::Result {
    if let Detail::Vfs(vfs) = detail {
        for nic in &show.nics {
            for vf in nic.vfs.iter().filter(|vf| vfs.contains(&vf.vf)) {
                if show.nics.len() > 1 {
                    write!(out, "{} ", nic.name)?;
                }
                whole_vf(out, vf)?;
            }
        }
        return Ok(());
    }
    let (up, last) = (uptime(show.uptime_s), show.interval_s);
    writeln!(out, "up {up}; how busy: over the last {last:.1} s")?;
    let ShowLog { lost, left_out } = show.log;
    if lost + left_out > 0 {
        writeln!(
            out,
            "log: {lost} lines could not be written, {left_out} were one device's too many"
        )?;
    }
    let state = show.state.as_ref();
    if let Some(error) = state.and_then(|state| state.error.as_ref()) {
        writeln!(out, "what commands change is not kept: {error}")?;
    }
    for nic in &show.nics {
        writeln!(out)?;
        whole_nic(out, nic)?;
        let usual = usual_settings(&nic.profile);
        let mut unused = 0;
        for vf in &nic.vfs {
            match detail {
                Detail::Overview if never_had_a_guest(vf) => unused += 1,
                Detail::Overview => vf_in_short(out, vf, &usual)?,
                _ => {
                    write!(out, "  ")?;
                    whole_vf(out, vf)?;
                }
            }
        }
        match unused {
            0 => {}
            1 => writeln!(out, "  1 VF never had a guest: vfnic show all")?,
            n => writeln!(out, "  {n} VFs never had a guest: vfnic show all")?,
        }
    }
    Ok(())
}

fn whole_nic(out: &mut String, nic: &ShowNic) -> fmt::Result {
    let link = &nic.link;
    let state = match (link.up, link.carrier) {
        (true, _) => "up",
        (false, true) => "down",
        (false, false) => "down (no carrier)",
    };
    let storm = (link.storm_control > 0).then(|| format!("storm_control {}", link.storm_control));
    let facts = [
        format!("link {state}"),
        crate::units::bit_rate(link.rate_mbps as f64 * 1e6),
        format!("mtu {}", link.mtu),
        format!("uplink {}", nic.uplink),
        format!("like {}", nic.profile),
        format!("switch {}", nic.hwmode),
    ];
    let facts = facts.into_iter().chain(storm);
    wrapped(out, 0, &format!("{}:", nic.name), facts)?;
    counters(out, 2, "wire", &link.counters)?;
    if !link.xstats.is_empty() {
        wrapped(out, 2, "uplink", link.xstats.iter().map(named))?;
    }
    // What impairs frames that leave is said behind the uplink.
    let netem = nic.netem.iter().filter(|(way, _)| *way != "egress");
    wrapped(out, 2, "netem", netem.map(named))?;
    wrapped(out, 2, "flap", nic.flap.clone())?;
    counters(out, 2, "pf", &nic.pf)?;
    let busy = [
        format!("wire {}", percent(link.tx_utilisation)),
        format!("direct path {}", cpu(&nic.worker)),
        format!("hypervisor {}", cpu(&nic.hypervisor)),
    ];
    wrapped(out, 2, "busy", busy)?;
    let bridge = &nic.bridge;
    let facts = [
        format!("{} addresses", bridge.entries),
        format!("{} moved", bridge.moved),
        format!("{} frames flooded", count(bridge.floods)),
    ];
    wrapped(out, 2, "bridge", facts)?;
    for entry in &nic.fdb {
        wrapped(out, 2, "fdb", [entry.clone()])?;
    }
    if nic.numvfs != nic.totalvfs {
        wrapped(
            out,
            2,
            "numvfs",
            [format!("{} of {}", nic.numvfs, nic.totalvfs)],
        )?;
    }
    if nic.filters > 0 {
        let tables = nic.filter_tables.iter().filter(|table| table.used > 0);
        let tables = tables.flat_map(|table| {
            let full = percent(table.used as f64 / table.rows.max(1) as f64);
            let used = format!(
                "{} of {} rows of table {} ({full})",
                table.used, table.rows, table.name
            );
            let depths = table.search_depths.iter();
            let depths = depths.map(|(kind, depth)| format!("{kind} {depth} deep"));
            std::iter::once(used).chain(depths)
        });
        let rules = std::iter::once(format!("{}: vfnic show rules", nic.filters));
        wrapped(out, 2, "filters", rules.chain(tables))?;
    }
    Ok(())
}

fn cpu(cpu: &ShowCpu) -> String {
    match cpu.clock.as_str() {
        "none" => "takes no time".to_owned(),
        clock => format!("{} ({clock})", percent(cpu.utilisation)),
    }
}

/// A VF's line, and others for what is worth one.
fn vf_in_short(out: &mut String, vf: &ShowVf, usual: &BTreeMap<String, String>) -> fmt::Result {
    write!(out, "  ")?;
    heading(out, vf)?;
    let unusual = vf.settings.iter().filter(|(key, value)| {
        !["path", "mac"].contains(&key.as_str()) && usual.get(*key) != Some(value)
    });
    wrapped(out, 6, "settings", unusual.map(named))?;
    device(out, vf)?;
    netem(out, vf)?;
    if vf.asked != vf.in_force {
        wrapped(out, 6, "asked", words(&vf.asked))?;
        wrapped(out, 6, "in force", words(&vf.in_force))?;
    }
    counters(out, 6, "", &vf.total)
}

/// Impairments of a VF, and what they have done: frames lost are told among those that were dropped.
fn netem(out: &mut String, vf: &ShowVf) -> fmt::Result {
    let done = vf.netem_counters.iter().flat_map(|(way, counts)| {
        let counts = [
            ("duplicated", counts.duplicated),
            ("corrupted", counts.corrupted),
            ("reordered", counts.reordered),
        ];
        let counts = counts.into_iter().filter(|(_, n)| *n > 0);
        counts.map(move |(what, n)| format!("{way} {what} {n}"))
    });
    wrapped(out, 6, "netem", vf.netem.iter().map(named).chain(done))
}

/// What a guest finds there, if that is hardware, and what is known of its driver.
fn device(out: &mut String, vf: &ShowVf) -> fmt::Result {
    let Some(function) = &vf.function else {
        return Ok(());
    };
    let driver = match function.driver {
        true => "a driver has it",
        false => "no driver has it",
    };
    let said = [
        vf.device.clone(),
        driver.to_owned(),
        format!("{} messages", function.messages),
        format!("{} requests", function.requests),
        format!("{} interrupts", function.interrupts),
    ];
    wrapped(out, 6, "device", said)
}

fn whole_vf(out: &mut String, vf: &ShowVf) -> fmt::Result {
    heading(out, vf)?;
    // Those are in the heading.
    let settings = vf.settings.iter();
    let settings = settings.filter(|(key, _)| !["path", "mac"].contains(&key.as_str()));
    wrapped(out, 6, "settings", settings.map(named))?;
    device(out, vf)?;
    netem(out, vf)?;
    state(out, &vf.state)?;
    wrapped(out, 6, "mtu", [vf.mtu.to_string()])?;
    if let Some(tap) = &vf.tap {
        let netns = vf.netns.as_ref().map(|netns| format!("in netns {netns}"));
        let gone = (!vf.connected).then(|| "gone".to_owned());
        let tap = [tap.clone()].into_iter().chain(netns).chain(gone);
        wrapped(out, 6, "tap", tap)?;
    }
    let socket = match vf.connected {
        true => format!("{} rings started", vf.rings),
        false => "nobody is connected".to_owned(),
    };
    let refused = (vf.refusals > 0).then(|| format!("{} refusals", vf.refusals));
    let sessions = match vf.sessions {
        1 => "1 session so far".to_owned(),
        n => format!("{n} sessions so far"),
    };
    let socket = [vf.socket.clone(), socket, sessions];
    wrapped(out, 6, "socket", socket.into_iter().chain(refused))?;
    let contexts = vf.rss.contexts.iter();
    let contexts = contexts.map(|c| format!("context {} {}", c.context, c.spread));
    let rss = std::iter::once(vf.rss.spread.clone()).chain(contexts);
    wrapped(out, 6, "rss", rss)?;
    if !vf.asked.is_empty() {
        wrapped(out, 6, "asked", words(&vf.asked))?;
    }
    if vf.asked != vf.in_force {
        wrapped(out, 6, "in force", words(&vf.in_force))?;
    }
    if vf.refused > 0 {
        wrapped(out, 6, "refused", [format!("{} times", vf.refused)])?;
    }
    for (name, path) in [("direct", &vf.direct), ("mediated", &vf.mediated)] {
        if *path != ShowCounters::default() {
            counters(out, 6, name, path)?;
        }
    }
    if let Some(of_auto) = &vf.auto {
        auto(out, of_auto)?;
    }
    if vf.queues.len() > 1 {
        for (n, queue) in vf.queues.iter().enumerate() {
            passed(
                out,
                6,
                &format!("queue {n}"),
                (queue.rx_packets, queue.rx_bytes),
                (queue.tx_packets, queue.tx_bytes),
            )?;
        }
    }
    Ok(())
}

/// The first line of a VF, from its number on.
fn heading(out: &mut String, vf: &ShowVf) -> fmt::Result {
    let method = vf.state.link_method.as_ref();
    let method = method.map_or_else(String::new, |method| format!(" ({method})"));
    let guest = if vf.connected { "connected" } else { "waiting" };
    writeln!(
        out,
        "vf {}  {}  {guest}  link {}{method}  {}",
        vf.vf, vf.path, vf.state.link, vf.state.mac
    )
}

fn state(out: &mut String, state: &ShowVfState) -> fmt::Result {
    let by = match &state.admin_mac {
        Some(mac) if *mac != state.mac => Some(format!("its driver's choice; {mac} was set")),
        Some(_) => Some("was set".to_owned()),
        None if state.mac != state.permanent_mac => Some(format!(
            "its driver's choice; permanent {}",
            state.permanent_mac
        )),
        None => None,
    };
    wrapped(out, 6, "mac", by)?;
    wrapped(out, 6, "macs", state.macs.iter().cloned())?;
    wrapped(out, 6, "vlans", state.vlans.iter().cloned())?;
    let stats = &state.stats;
    let stats = [
        ("broadcast", stats.broadcast),
        ("multicast", stats.multicast),
        ("rx_dropped", stats.rx_dropped),
        ("tx_dropped", stats.tx_dropped),
    ];
    let stats = stats.into_iter().filter(|(_, n)| *n > 0);
    wrapped(
        out,
        6,
        "stats",
        stats.map(|(name, n)| format!("{name} {n}")),
    )
}

fn auto(out: &mut String, auto: &ShowAuto) -> fmt::Result {
    let c = &auto.counters;
    passed(
        out,
        6,
        "fast",
        (c.fastpath_rx_packets, c.fastpath_rx_bytes),
        (c.fastpath_tx_packets, c.fastpath_tx_bytes),
    )?;
    let slow = [
        format!("rx {} packets", count(c.slowpath_rx_packets)),
        format!("tx {} packets", count(c.slowpath_tx_packets)),
        format!("{} frames waited", c.waited),
        format!("{} busy", c.busy),
    ];
    wrapped(out, 6, "slow", slow)?;
    let learned = [
        format!("{} of {} filters", auto.filters, auto.max_filters),
        format!("{} of {} groups", auto.mcasts, auto.max_mcasts),
        format!("{} MACs", c.forwarded_macs),
        format!("{} filters evicted", auto.evicted),
        format!("{} stale", auto.stale),
    ];
    wrapped(out, 6, "learned", learned)
}

/// What was dropped at each port, by reason, and how to learn more.
pub(crate) fn drops(show: &Show) -> String {
    let mut out = String::new();
    for nic in &show.nics {
        let ports = [("wire", &nic.link.counters), ("pf", &nic.pf)];
        let ports = ports.map(|(name, counters)| (name.to_owned(), counters));
        let used = nic.vfs.iter().filter(|vf| !never_had_a_guest(vf));
        let vfs = used.map(|vf| (format!("vf {}", vf.vf), &vf.total));
        for (port, counters) in ports.into_iter().chain(vfs) {
            for (way, drops) in [("rx", &counters.rx_drops), ("tx", &counters.tx_drops)] {
                for (reason, n) in drops.iter().filter(|(_, n)| **n > 0) {
                    let _ = writeln!(out, "{:<8} {port:<7} {way}  {reason:<24} {n:>12}", nic.name);
                }
            }
        }
    }
    match out.is_empty() {
        true => "nothing was dropped\n".to_owned(),
        false => out + "for each frame with the rule that made it: vfnic monitor --drops\n",
    }
}

/// Frames and bytes both ways, and below them the frames that were dropped.
fn counters(out: &mut String, indent: usize, name: &str, c: &ShowCounters) -> fmt::Result {
    passed(
        out,
        indent,
        name,
        (c.rx_packets, c.rx_bytes),
        (c.tx_packets, c.tx_bytes),
    )?;
    let ways = [("rx", &c.rx_drops), ("tx", &c.tx_drops)];
    let drops = ways.into_iter().flat_map(|(way, drops)| {
        let drops = drops.iter().filter(|(_, n)| **n > 0);
        drops.map(move |(reason, n)| format!("{way} {reason} {n}"))
    });
    wrapped(out, indent, "dropped", drops)
}

fn passed(
    out: &mut String,
    indent: usize,
    name: &str,
    rx: (u64, u64),
    tx: (u64, u64),
) -> fmt::Result {
    let way = |(packets, of): (u64, u64)| format!("{:>8} packets {:>9}", count(packets), bytes(of));
    let (rx, tx) = (way(rx), way(tx));
    writeln!(out, "{:indent$}{name:<NAME$} rx {rx}  tx {tx}", "")
}

/// Items with commas between them behind a name, on as many lines as they need; none if there are none. One that is longer than a line is broken at
/// its blanks.
pub(super) fn wrapped(
    out: &mut String,
    indent: usize,
    name: &str,
    items: impl IntoIterator<Item = String>,
) -> fmt::Result {
    let mut items = items.into_iter().peekable();
    if items.peek().is_none() {
        return Ok(());
    }
    let name = match indent {
        0 => name.to_owned(),
        _ => format!("{name:<NAME$}"),
    };
    let more = if indent == 0 { 2 } else { indent + NAME };
    let mut line = format!("{:indent$}{name}", "");
    let mut is_first = true;
    while let Some(item) = items.next() {
        // A blank in front and a comma behind.
        let fits = |line: usize, part: &str| line + 2 + part.chars().count() <= COLUMNS;
        let parts: Vec<_> = match fits(more, &item) {
            true => vec![item.as_str()],
            false => item.split(' ').collect(),
        };
        for part in parts {
            if !is_first && !fits(line.chars().count(), part) {
                writeln!(out, "{line}")?;
                line = " ".repeat(more);
            }
            is_first = false;
            line.push(' ');
            line += part;
        }
        if items.peek().is_some() {
            line.push(',');
        }
    }
    writeln!(out, "{line}")
}

fn named<T: fmt::Display>((name, value): (&String, T)) -> String {
    format!("{name} {value}")
}

fn words(settings: &BTreeMap<String, String>) -> Vec<String> {
    match settings.is_empty() {
        true => vec!["nothing".to_owned()],
        false => settings.iter().map(named).collect(),
    }
}

/// What settings of a VF are if nobody says anything, in the words of `vf N set`.
fn usual_settings(profile: &str) -> BTreeMap<String, String> {
    let Ok(profile) = profile.parse::<Profile>() else {
        return BTreeMap::new();
    };
    let policy = Policy::new(NicConfig {
        vfs: 1,
        mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
        profile,
    });
    let vf = policy.vf(VfIndex(0));
    let set = SETTING_KEYS.iter().filter_map(|key| key.of(vf));
    let words = set.map(|setting| setting.words());
    words.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What each thread has done.
pub(super) fn workers(workers: &[WorkerCycles<'_>]) -> String {
    let mut out = String::new();
    for cycles in workers {
        let worker = cycles.worker;
        let each = |of: u64, n: u64| of as f64 / n.max(1) as f64;
        let mut time = format!("{:.1} ns", each(worker.busy_ns, worker.frames));
        if let (Some(ticks), Some(hz)) = (cycles.cycles_per_packet, cycles.tsc_hz) {
            time += &format!(" = {ticks:.0} cycles at {} MHz", hz / 1_000_000);
        }
        let facts = [
            format!("{} packets", worker.frames),
            format!("{time} each"),
            format!("{:.2} copies each", each(worker.copies, worker.frames)),
            format!(
                "{} busy polls of {:.1} packets in {:.1} bursts of {:.1}",
                worker.rounds,
                each(worker.frames, worker.rounds),
                each(worker.bursts, worker.rounds),
                each(worker.frames, worker.bursts),
            ),
            format!("{} idle polls", worker.idle_rounds),
            format!("{} handed over", worker.handed_over),
            format!("{} wake-ups", worker.wakeups),
            format!("{} notifications sent", worker.notified),
            format!("{} suppressed", worker.suppressed),
        ];
        // Writing to a String does not fail.
        let _ = wrapped(&mut out, 0, &format!("{}:", worker.name), facts);
    }
    out
}

/// The filters of a NIC, those that win first; nothing if it has none.
pub(crate) fn rules(nic: &str, filters: &[FilterLine]) -> String {
    if filters.is_empty() {
        return String::new();
    }
    let mut out = format!("{nic}:\n{:>8} {:>12}  filter\n", "id", "hits");
    for FilterLine {
        id,
        words,
        driver,
        hits,
    } in filters
    {
        let (id, note) = match (id, driver) {
            (Some(id), None) => (id.to_string(), String::new()),
            (Some(id), Some(vf)) => (id.to_string(), format!("  # of the driver of vf {vf}")),
            (None, Some(vf)) => (
                format!("vf {vf}"),
                "  # its driver's, for what the VF receives".to_owned(),
            ),
            (None, None) => (
                "-".to_owned(),
                "  # waits for the one above to be deleted".to_owned(),
            ),
        };
        let hits = hits.map_or_else(|| "-".to_owned(), |hits| hits.to_string());
        out += &format!("{id:>8} {hits:>12}  {words}{note}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::sample::{counters, show};
    use vfnic::control::show::ShowWorker;

    fn narrow(text: &str) -> bool {
        text.lines().all(|line| line.chars().count() <= COLUMNS)
    }

    #[test]
    fn of_many_vfs_those_are_told_of_that_have_a_guest() {
        let mut show = show(256);
        show.nics[0].vfs[3].sessions = 1;
        show.nics[0].vfs[3].connected = true;
        show.nics[0].vfs[3].total = counters(12_345_678, 1_709_866_938, 7, 420);
        let said = text(&show, &Detail::Overview);
        assert_eq!(
            said,
            "\
up 83 s; how busy: over the last 83.4 s

a: link up, 10.0 Gb/s, mtu 9216, uplink none, like generic, switch veb
  wire      rx        0 packets       0 B  tx        0 packets       0 B
  pf        rx        0 packets       0 B  tx        0 packets       0 B
  busy      wire 0.0 %, direct path 12.5 % (measured), hypervisor 0.0 % (model)
  bridge    0 addresses, 0 moved, 0 frames flooded
  vf 3  direct  connected  link up  02:00:00:00:00:03
                rx  12.35 M packets  1.59 GiB  tx        7 packets     420 B
  255 VFs never had a guest: vfnic show all
"
        );
        assert!(text(&show, &Detail::All).contains("vf 255  direct  waiting"));
    }

    #[test]
    fn one_vf_is_told_of_in_full_and_nothing_else() {
        let mut show = show(3);
        let vf = &mut show.nics[0].vfs[1];
        for (key, value) in [("trust", "on"), ("vlan", "7"), ("spoofchk", "off")] {
            vf.settings.insert(key.to_owned(), value.to_owned());
        }
        vf.state.link = "down".to_owned();
        vf.state.link_method = Some("qmp".to_owned());
        vf.state.macs = (0..20).map(|n| format!("02:00:00:00:01:{n:02x}")).collect();
        vf.direct = counters(1, 60, 2, 120);
        vf.direct.rx_drops.insert("no_rx_buffer".to_owned(), 12);
        vf.direct.tx_drops.insert("spoofchk".to_owned(), 3);
        let said = text(&show, &Detail::Vfs(1..=1));
        assert!(narrow(&said), "{said}");
        assert!(said.starts_with("vf 1  direct  waiting  link down (qmp)  02:00:00:00:00:01\n"));
        assert!(
            said.contains("dropped   rx no_rx_buffer 12, tx spoofchk 3\n"),
            "{said}"
        );
        assert!(said.contains("vlan 7") && !said.contains("vf 2"), "{said}");
        let all: String = said.split_whitespace().collect();
        assert!(all.contains("02:00:00:00:01:13"), "{said}");
    }

    #[test]
    fn nothing_is_wider_than_a_terminal() {
        // Items of every length, so that some line would be one column too long.
        for length in 1..60 {
            let mut out = String::new();
            let items = (0..40).map(|_| "x".repeat(length));
            wrapped(&mut out, 6, "items", items).unwrap();
            assert!(narrow(&out), "{out}");
        }
        let mut show = show(2);
        let nic = &mut show.nics[0];
        nic.uplink = "tap tap0 netem delay 100ms 10ms loss 0.1% duplicate 1%".to_owned();
        nic.link.counters = counters(u64::MAX / 1_000_000, u64::MAX, 12_345_678_901, u64::MAX);
        for vf in &mut nic.vfs {
            vf.sessions = 1;
            vf.total = nic.link.counters.clone();
            for reason in [
                "no_rx_buffer",
                "rx_filtered",
                "ring_disabled",
                "worker_queue_full",
            ] {
                vf.total.rx_drops.insert(reason.to_owned(), 123_456_789);
            }
        }
        for detail in [Detail::Overview, Detail::All, Detail::Vfs(0..=1)] {
            let said = text(&show, &detail);
            assert!(narrow(&said), "{said}");
        }
        assert!(narrow(&drops(&show)));
        let worker = ShowWorker {
            name: "worker15-a-nic-with-a-long-name".to_owned(),
            busy_ns: 12_345_678_901_234_567,
            frames: 12_345_678_901_234,
            bursts: 2_345_678_901_234,
            rounds: 1_345_678_901_234,
            idle_rounds: 12_345_678_901_234,
            copies: 24_345_678_901_234,
            handed_over: 12_345_678_901_234,
            wakeups: 12_345_678_901_234,
            notified: 12_345_678_901_234,
            suppressed: 12_345_678_901_234,
        };
        let said = workers(&[WorkerCycles::new(&worker, Some(2_600_000_000))]);
        assert!(narrow(&said), "{said}");
    }

    #[test]
    fn a_worker_is_told_of_in_ratios_and_in_cycles_where_the_counter_is_known() {
        let worker = ShowWorker {
            name: "worker-a".to_owned(),
            busy_ns: 1000,
            frames: 20,
            bursts: 10,
            rounds: 5,
            copies: 20,
            ..ShowWorker::default()
        };
        let said = workers(&[
            WorkerCycles::new(&worker, Some(2_600_000_000)),
            WorkerCycles::new(&worker, None),
        ]);
        assert_eq!(
            said,
            "\
worker-a: 20 packets, 50.0 ns = 130 cycles at 2600 MHz each, 1.00 copies each,
   5 busy polls of 4.0 packets in 2.0 bursts of 2.0, 0 idle polls,
   0 handed over, 0 wake-ups, 0 notifications sent, 0 suppressed
worker-a: 20 packets, 50.0 ns each, 1.00 copies each,
   5 busy polls of 4.0 packets in 2.0 bursts of 2.0, 0 idle polls,
   0 handed over, 0 wake-ups, 0 notifications sent, 0 suppressed
"
        );
    }

    #[test]
    fn what_is_longer_than_a_line_is_broken_at_its_blanks() {
        let mut show = show(1);
        let remotes = ["remote 2001:db8::1"; 4].join(" ");
        show.nics[0].uplink = format!("vxlan id 7 local 2001:db8::9 {remotes} netem delay 10ms");
        show.nics[0].name = "n".repeat(40);
        let said = text(&show, &Detail::All);
        assert!(narrow(&said), "{said}");
        let words: Vec<_> = said.split_whitespace().collect();
        assert!(words.join(" ").contains(&show.nics[0].uplink), "{said}");
    }

    #[test]
    fn the_tap_that_is_gone_is_told_as_such() {
        let mut show = show(1);
        let vf = &mut show.nics[0].vfs[0];
        (vf.tap, vf.netns) = (Some("eth0".to_owned()), Some("blue".to_owned()));
        let said = text(&show, &Detail::All);
        assert!(
            said.contains("tap       eth0, in netns blue, gone\n"),
            "{said}"
        );
        show.nics[0].vfs[0].connected = true;
        let said = text(&show, &Detail::All);
        assert!(said.contains("tap       eth0, in netns blue\n"), "{said}");
    }

    #[test]
    fn drops_are_told_by_port_and_reason_but_not_those_of_vfs_without_a_guest() {
        let mut show = show(2);
        assert_eq!(drops(&show), "nothing was dropped\n");
        for vf in &mut show.nics[0].vfs {
            vf.total.rx_drops.insert("ring_disabled".to_owned(), 24);
        }
        assert_eq!(drops(&show), "nothing was dropped\n");
        show.nics[0].vfs[1].sessions = 1;
        let said = drops(&show);
        let line = said.lines().next().unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["a", "vf", "1", "rx", "ring_disabled", "24"]);
    }

    #[test]
    fn settings_are_told_where_they_are_not_as_usual() {
        let usual = usual_settings("generic");
        assert_eq!(usual["trust"], "off");
        let mut show = show(1);
        let vf = &mut show.nics[0].vfs[0];
        vf.sessions = 1;
        vf.settings = usual;
        assert!(!text(&show, &Detail::Overview).contains("settings"));
        let settings = &mut show.nics[0].vfs[0].settings;
        settings.insert("trust".to_owned(), "on".to_owned());
        let said = text(&show, &Detail::Overview);
        assert!(said.contains("      settings  trust on\n"), "{said}");
    }
}
