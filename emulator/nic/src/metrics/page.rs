//! What `vfnic show` says, in the words of Prometheus and OpenMetrics: names and units by their conventions, and labels of which
//! there are as many as NICs, VFs, paths, threads and reasons. Only presents.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
    prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::control::show::{Show, ShowCounters, ShowNic, ShowVf};

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' own text format, for those who do not ask for the other.
    Prometheus,
}

impl Format {
    /// What HTTP calls it.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The page.
#[must_use]
pub fn page(show: Show, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(show)));
    let mut page = String::new();
    let written = match format {
        Format::OpenMetrics => text::encode(&mut page, &registry),
        Format::Prometheus => prometheus_text::encode(&mut page, &registry),
    };
    // A string takes all that is written to it.
    debug_assert!(written.is_ok());
    page
}

/// The labels of a value.
type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
struct Page(Show);

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = To(encoder);
        let Page(show) = self;
        to.process(show)?;
        to.ports(&show.nics)?;
        to.threads(&show.nics)?;
        to.filters(&show.nics)?;
        to.vfs(&show.nics)
    }
}

/// Where metrics are written to.
struct To<'a>(DescriptorEncoder<'a>);

impl To<'_> {
    fn process(&mut self, show: &Show) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        self.gauges(
            "vfnic_build_info",
            "Version of vfnic",
            None,
            [(vec![("version", version)], 1)],
        )?;
        let up = (Labels::new(), show.uptime_s);
        self.gauges(
            "vfnic_uptime",
            "Time since the start",
            Some(Unit::Seconds),
            [up],
        )?;
        let kept = show.state.iter();
        let kept = kept.map(|state| (Labels::new(), u32::from(state.kept)));
        self.gauges(
            "vfnic_state_kept",
            "Whether all that commands have changed is on the disk for the next start",
            None,
            kept,
        )?;
        let lost = [
            ("written", show.log.lost),
            ("rate_limited", show.log.left_out),
        ];
        let lost = lost.map(|(why, n)| (vec![("reason", why.to_owned())], n));
        self.counters(
            "vfnic_log_lines_lost",
            "Lines that are not in the log",
            None,
            lost,
        )
    }

    fn ports(&mut self, nics: &[ShowNic]) -> fmt::Result {
        let each = || nics.iter().map(|nic| (of_nic(nic), nic));
        let up = each().map(|(labels, nic)| (labels, u32::from(nic.link.up)));
        self.gauges("vfnic_port_up", "Whether frames pass the port", None, up)?;
        let carrier = each().map(|(labels, nic)| (labels, u32::from(nic.link.carrier)));
        self.gauges(
            "vfnic_port_carrier",
            "Whether the cable carries",
            None,
            carrier,
        )?;
        let speed = each().map(|(labels, nic)| (labels, nic.link.rate_mbps * 125_000));
        let unit = Some(Unit::Bytes);
        self.gauges(
            "vfnic_port_speed",
            "Bytes a second that the port can send",
            unit,
            speed,
        )?;
        let busy = each().map(|(labels, nic)| (labels, seconds(nic.link.tx_busy_ns)));
        self.counters(
            "vfnic_port_transmit_busy",
            "Time spent sending, preamble and gap included",
            Some(Unit::Seconds),
            busy,
        )?;
        let ports: Vec<_> = each()
            .map(|(labels, nic)| (labels, &nic.link.counters))
            .collect();
        self.traffic("vfnic_port", "port", &ports)?;
        let pfs: Vec<_> = each().map(|(labels, nic)| (labels, &nic.pf)).collect();
        self.traffic("vfnic_pf", "PF, between NIC and hypervisor", &pfs)?;
        let events = each().flat_map(|(labels, nic)| {
            let events = nic.link.xstats.iter();
            events.map(move |(event, n)| (with(&labels, "event", event), *n))
        });
        self.counters(
            "vfnic_uplink_events",
            "What the uplink counts beside frames",
            None,
            events,
        )
    }

    fn threads(&mut self, nics: &[ShowNic]) -> fmt::Result {
        let each = || {
            nics.iter().flat_map(|nic| {
                let workers = nic.workers.iter();
                workers.map(move |worker| (with(&of_nic(nic), "thread", &worker.name), worker))
            })
        };
        let busy = each().map(|(labels, worker)| (labels, seconds(worker.busy_ns)));
        let unit = Some(Unit::Seconds);
        self.counters(
            "vfnic_thread_busy",
            "Time in polls that found work",
            unit,
            busy,
        )?;
        let rounds = each().flat_map(|(labels, worker)| {
            let rounds = [("work", worker.rounds), ("idle", worker.idle_rounds)];
            rounds.map(|(found, n)| (with(&labels, "found", found), n))
        });
        self.counters("vfnic_thread_polls", "Polls of all queues", None, rounds)?;
        let frames = each().map(|(labels, worker)| (labels, worker.frames));
        self.counters("vfnic_thread_packets", "Frames handled", None, frames)?;
        let wakeups = each().map(|(labels, worker)| (labels, worker.wakeups));
        self.counters(
            "vfnic_thread_wakeups",
            "Times woken from sleep",
            None,
            wakeups,
        )?;
        let notified = each().map(|(labels, worker)| (labels, worker.notified));
        self.counters(
            "vfnic_thread_notifications",
            "Notifications to drivers",
            None,
            notified,
        )?;
        let charged = nics.iter().filter(|nic| nic.hypervisor.clock != "none");
        let charged = charged.map(|nic| (of_nic(nic), seconds(nic.hypervisor.busy_ns)));
        self.counters(
            "vfnic_hypervisor_busy",
            "CPU time of the mediated path, measured or charged by the cost model",
            Some(Unit::Seconds),
            charged,
        )
    }

    fn filters(&mut self, nics: &[ShowNic]) -> fmt::Result {
        let filters = nics.iter().map(|nic| (of_nic(nic), nic.filters));
        self.gauges("vfnic_filters", "Filters of the NIC", None, filters)?;
        let tables = || {
            nics.iter().flat_map(|nic| {
                let tables = nic.filter_tables.iter();
                tables.map(move |table| (with(&of_nic(nic), "table", &table.name), table))
            })
        };
        let rows = tables().map(|(labels, table)| (labels, table.rows));
        self.gauges(
            "vfnic_filter_table_rows",
            "Rows of a filter table",
            None,
            rows,
        )?;
        let used = tables().map(|(labels, table)| (labels, table.used));
        self.gauges("vfnic_filter_table_used_rows", "Rows in use", None, used)?;
        let entries = nics.iter().map(|nic| (of_nic(nic), nic.bridge.entries));
        let help = "Addresses that the hypervisor's bridge knows";
        self.gauges("vfnic_bridge_entries", help, None, entries)?;
        let floods = nics.iter().map(|nic| (of_nic(nic), nic.bridge.floods));
        self.counters(
            "vfnic_bridge_floods",
            "Frames that it flooded",
            None,
            floods,
        )
    }

    fn vfs(&mut self, nics: &[ShowNic]) -> fmt::Result {
        let each = || {
            nics.iter()
                .flat_map(|nic| nic.vfs.iter().map(move |vf| (of_vf(nic, vf), vf)))
        };
        // Not the address that it has now: a driver may choose as many as it likes, and each would be a series for good.
        let info = each().map(|(labels, vf)| {
            let labels = with(&labels, "path", &vf.path);
            (with(&labels, "mac", &vf.state.permanent_mac), 1)
        });
        self.gauges(
            "vfnic_vf_info",
            "Path and permanent address of a VF",
            None,
            info,
        )?;
        let up = each().map(|(labels, vf)| (labels, u32::from(vf.state.link == "up")));
        self.gauges("vfnic_vf_up", "Whether the link of a VF is up", None, up)?;
        let connected = each().map(|(labels, vf)| (labels, u32::from(vf.connected)));
        self.gauges(
            "vfnic_vf_connected",
            "Whether a front end is connected",
            None,
            connected,
        )?;
        let sessions = each().map(|(labels, vf)| (labels, vf.sessions));
        self.counters(
            "vfnic_vf_sessions",
            "Front ends that have connected",
            None,
            sessions,
        )?;
        let refusals = each().map(|(labels, vf)| (labels, vf.refusals));
        self.counters(
            "vfnic_vf_refusals",
            "What a front end was refused",
            None,
            refusals,
        )?;
        let groups = each().flat_map(|(labels, vf)| {
            let stats = vf.state.stats;
            let kinds = [
                ("broadcast", stats.broadcast),
                ("multicast", stats.multicast),
            ];
            kinds.map(|(kind, n)| (with(&labels, "kind", kind), n))
        });
        self.counters(
            "vfnic_vf_receive_group_packets",
            "Frames received to groups",
            None,
            groups,
        )?;
        let netem = each().flat_map(|(labels, vf)| {
            let ways = vf.netem_counters.iter();
            ways.flat_map(move |(way, counts)| {
                let labels = with(&labels, "direction", way);
                let events = [
                    ("duplicated", counts.duplicated),
                    ("corrupted", counts.corrupted),
                    ("reordered", counts.reordered),
                    ("lost", counts.lost),
                ];
                events.map(|(event, n)| (with(&labels, "event", event), n))
            })
        });
        self.counters(
            "vfnic_vf_netem_packets",
            "What impairments of a VF have done to frames",
            None,
            netem,
        )?;
        let by_path = each().flat_map(|(labels, vf)| {
            let paths = [("direct", &vf.direct), ("mediated", &vf.mediated)];
            paths.map(|(path, counters)| (with(&labels, "path", path), counters))
        });
        self.traffic("vfnic_vf", "VF", &by_path.collect::<Vec<_>>())
    }

    /// Frames and bytes both ways, and drops by reason.
    fn traffic(&mut self, name: &str, of: &str, all: &[(Labels, &ShowCounters)]) -> fmt::Result {
        type Kind = (&'static str, &'static str, [fn(&ShowCounters) -> u64; 2]);
        let kinds: [Kind; 2] = [
            ("receive", "received", [|c| c.rx_packets, |c| c.rx_bytes]),
            ("transmit", "sent", [|c| c.tx_packets, |c| c.tx_bytes]),
        ];
        for (way, done, [packets, bytes]) in kinds {
            let each = |count: fn(&ShowCounters) -> u64| {
                all.iter()
                    .map(move |(labels, counters)| (labels.clone(), count(counters)))
            };
            let help = format!("Frames {done}: {of}");
            self.counters(&format!("{name}_{way}_packets"), &help, None, each(packets))?;
            let help = format!("Bytes {done} without FCS: {of}");
            self.counters(
                &format!("{name}_{way}"),
                &help,
                Some(Unit::Bytes),
                each(bytes),
            )?;
            let drops = all.iter().flat_map(|(labels, counters)| {
                let drops = match way {
                    "receive" => &counters.rx_drops,
                    _ => &counters.tx_drops,
                };
                drops
                    .iter()
                    .map(move |(reason, n)| (with(labels, "reason", reason), *n))
            });
            let help = format!("Frames that were to be {done} and did not arrive, by reason: {of}");
            self.counters(&format!("{name}_{way}_drops"), &help, None, drops)?;
        }
        Ok(())
    }

    fn counters<N: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        all: impl IntoIterator<Item = (Labels, N)>,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Counter, all, |mut to, n| {
            to.encode_counter::<NoLabelSet, _, u64>(n, None)
        })
    }

    fn gauges<N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        all: impl IntoIterator<Item = (Labels, N)>,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge, all, |mut to, n| {
            to.encode_gauge(n)
        })
    }

    fn family<N>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        all: impl IntoIterator<Item = (Labels, N)>,
        write: fn(MetricEncoder<'_>, &N) -> fmt::Result,
    ) -> fmt::Result {
        let help = format!("{help}.");
        let mut family = self.0.encode_descriptor(name, &help, unit.as_ref(), kind)?;
        let mut all = all.into_iter().peekable();
        // A value without labels is the only one.
        if let Some((_, n)) = all.next_if(|(labels, _)| labels.is_empty()) {
            return write(family, &n);
        }
        for (labels, n) in all {
            write(family.encode_family(&labels)?, &n)?;
        }
        Ok(())
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn of_nic(nic: &ShowNic) -> Labels {
    vec![("nic", nic.name.clone())]
}

fn of_vf(nic: &ShowNic, vf: &ShowVf) -> Labels {
    with(&of_nic(nic), "vf", &vf.vf.to_string())
}

fn with(labels: &Labels, key: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((key, value.to_owned()));
    labels
}
