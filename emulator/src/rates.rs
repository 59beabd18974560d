//! What has passed in a second, from two readings of the counters that a NIC publishes. Reads no clock: a reading says how long
//! the NIC has run.

use std::collections::BTreeMap;

#[cfg(feature = "top")]
use vfnic::control::show::ShowQueue;
use vfnic::control::show::{Show, ShowCounters, ShowCpu, ShowNic, ShowVf};

/// What has passed a port in a second, on average between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    /// Bits received.
    pub(crate) rx_bits: f64,
    /// Bits sent.
    pub(crate) tx_bits: f64,
    /// Frames received.
    pub(crate) rx_packets: f64,
    /// Frames sent.
    pub(crate) tx_packets: f64,
    /// Frames dropped, by direction and reason, where there were any.
    pub(crate) drops: BTreeMap<(&'static str, String), f64>,
}

impl Rates {
    /// Frames dropped, both ways and for all reasons.
    pub(crate) fn dropped(&self) -> f64 {
        self.drops.values().sum()
    }

    fn between(before: &ShowCounters, after: &ShowCounters, seconds: f64) -> Rates {
        // What was counted from the beginning again has nothing to be compared with.
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        let drops = [
            ("rx", &before.rx_drops, &after.rx_drops),
            ("tx", &before.tx_drops, &after.tx_drops),
        ];
        let drops = drops.into_iter().flat_map(|(way, before, after)| {
            after.iter().filter_map(move |(reason, n)| {
                let rate = rate(before.get(reason).copied().unwrap_or(0), *n);
                (rate > 0.0).then(|| ((way, reason.clone()), rate))
            })
        });
        Rates {
            rx_bits: 8.0 * rate(before.rx_bytes, after.rx_bytes),
            tx_bits: 8.0 * rate(before.tx_bytes, after.tx_bytes),
            rx_packets: rate(before.rx_packets, after.rx_packets),
            tx_packets: rate(before.tx_packets, after.tx_packets),
            drops: drops.collect(),
        }
    }
}

/// Two readings of the same run, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Between<'a> {
    before: &'a Show,
    after: &'a Show,
    seconds: f64,
}

impl<'a> Between<'a> {
    /// Nothing if they are not of one run, or the clock stood still: then there is no rate.
    pub(crate) fn new(before: &'a Show, after: &'a Show) -> Option<Between<'a>> {
        let seconds = after.uptime_s - before.uptime_s;
        (seconds > 0.0).then_some(Between {
            before,
            after,
            seconds,
        })
    }

    /// NICs of the later reading with what they were before, if they were there.
    pub(crate) fn nics(self) -> impl Iterator<Item = NicBetween<'a>> {
        self.after.nics.iter().map(move |after| NicBetween {
            before: self.before.nics.iter().find(|nic| nic.name == after.name),
            after,
            seconds: self.seconds,
        })
    }
}

/// A NIC in both readings.
#[derive(Clone, Copy)]
pub(crate) struct NicBetween<'a> {
    before: Option<&'a ShowNic>,
    /// As it is in the later one.
    pub(crate) after: &'a ShowNic,
    seconds: f64,
}

impl<'a> NicBetween<'a> {
    /// What passed its port.
    pub(crate) fn wire(&self) -> Rates {
        self.rates(|nic| Some(&nic.link.counters), &self.after.link.counters)
    }

    /// What passed between the NIC and the hypervisor.
    pub(crate) fn pf(&self) -> Rates {
        self.rates(|nic| Some(&nic.pf), &self.after.pf)
    }

    /// Its VFs, each with what it was before.
    pub(crate) fn vfs(self) -> impl Iterator<Item = (&'a ShowVf, Rates)> {
        self.after
            .vfs
            .iter()
            .map(move |vf| (vf, self.rates(|nic| total(nic, vf.vf), &vf.total)))
    }

    /// What passed each queue pair of one of its VFs.
    #[cfg(feature = "top")]
    pub(crate) fn queues(&self, vf: &ShowVf) -> Vec<Rates> {
        let before = self
            .before
            .and_then(|nic| nic.vfs.iter().find(|shown| shown.vf == vf.vf));
        let before = before.map_or(&[][..], |vf| &vf.queues);
        let queues = vf.queues.iter().enumerate();
        let rates = queues.map(|(n, queue)| {
            let before = before.get(n).copied().unwrap_or_default();
            Rates::between(&of_queue(before), &of_queue(*queue), self.seconds)
        });
        rates.collect()
    }

    /// Share of the time in which its port was sending.
    pub(crate) fn tx_utilisation(&self) -> f64 {
        self.share(|nic| nic.link.tx_busy_ns)
    }

    /// Share of the time in which a part of it worked, by its clock; none where it takes no time.
    pub(crate) fn cpu(&self, of: fn(&ShowNic) -> &ShowCpu, threads: usize) -> Option<f64> {
        let timed = of(self.after).clock != "none";
        timed.then(|| self.share(|nic| of(nic).busy_ns) / threads.max(1) as f64)
    }

    /// Share of the time in which a thread worked, and the packets that it handled in a second.
    #[cfg(feature = "top")]
    pub(crate) fn thread(&self, name: &str) -> (f64, f64) {
        let named = |nic: &'a ShowNic| nic.workers.iter().find(|worker| worker.name == name);
        let of = |nic: Option<&'a ShowNic>| {
            let worker = nic.and_then(named);
            worker.map_or((0, 0), |worker| (worker.busy_ns, worker.frames))
        };
        let (before, after) = (of(self.before), of(Some(self.after)));
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / self.seconds;
        (rate(before.0, after.0) / 1e9, rate(before.1, after.1))
    }

    fn rates(
        &self,
        of: impl FnOnce(&'a ShowNic) -> Option<&'a ShowCounters>,
        after: &ShowCounters,
    ) -> Rates {
        let before = self.before.and_then(of);
        // One that was not there has counted nothing.
        Rates::between(&before.cloned().unwrap_or_default(), after, self.seconds)
    }

    fn share(&self, of: impl Fn(&ShowNic) -> u64) -> f64 {
        let before = self.before.map_or(0, &of);
        of(self.after).saturating_sub(before) as f64 / 1e9 / self.seconds
    }
}

#[cfg(feature = "top")]
fn of_queue(queue: ShowQueue) -> ShowCounters {
    let ShowQueue {
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
    } = queue;
    ShowCounters {
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
        ..ShowCounters::default()
    }
}

fn total(nic: &ShowNic, vf: u16) -> Option<&ShowCounters> {
    let vf = nic.vfs.iter().find(|shown| shown.vf == vf);
    vf.map(|vf| &vf.total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::sample::{counters, show};

    #[test]
    fn rates_are_what_came_between_two_readings_by_the_nics_clock() {
        let mut before = show(2);
        let mut after = before.clone();
        after.uptime_s += 2.0;
        before.nics[0].vfs[0].total = counters(100, 1000, 7, 70);
        after.nics[0].vfs[0].total = counters(300, 5000, 7, 70);
        for (show, n) in [(&mut before, 5), (&mut after, 11)] {
            let drops = &mut show.nics[0].vfs[0].total.rx_drops;
            drops.insert("no_rx_buffer".to_owned(), n);
            drops.insert("rx_filtered".to_owned(), 3);
        }
        after.nics[0].link.tx_busy_ns += 1_000_000_000;
        let between = Between::new(&before, &after).unwrap();
        let nic = between.nics().next().unwrap();
        let (_, rates) = nic.vfs().next().unwrap();
        assert_eq!((rates.rx_packets, rates.rx_bits), (100.0, 16000.0));
        assert_eq!((rates.tx_packets, rates.tx_bits), (0.0, 0.0));
        // What went on before is not news.
        let drops: Vec<_> = rates.drops.into_iter().collect();
        assert_eq!(drops, [(("rx", "no_rx_buffer".to_owned()), 3.0)]);
        assert_eq!(nic.tx_utilisation(), 0.5);
    }

    #[test]
    fn a_vfnic_that_was_restarted_has_no_rates_and_a_vf_that_is_new_begins_at_nothing() {
        let (mut before, after) = (show(2), show(2));
        assert!(
            Between::new(&before, &after).is_none(),
            "no time has passed"
        );
        before.uptime_s = after.uptime_s + 5.0;
        assert!(Between::new(&before, &after).is_none(), "another run");

        before.uptime_s = after.uptime_s - 1.0;
        let mut after = after;
        before.nics[0].vfs.pop();
        after.nics[0].vfs[1].total = counters(5, 500, 0, 0);
        // Counted anew.
        before.nics[0].vfs[0].total = counters(50, 500, 0, 0);
        after.nics[0].vfs[0].total = counters(3, 30, 0, 0);
        let nic = Between::new(&before, &after).unwrap().nics().next();
        let rates: Vec<_> = nic.unwrap().vfs().map(|(_, r)| r.rx_packets).collect();
        assert_eq!(rates, [0.0, 5.0]);
    }
}
