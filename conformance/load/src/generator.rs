//! One thread that loads any number of ports: it sends, receives and keeps the account.
//!
//! Everything is polled. A run ends when its time is over and nothing has arrived for a while.
//! Never sleeps, and keeps no account itself.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use super::account::{Account, Clock, Measured};
use super::frame::{End, HEAD, Template, filling};
use super::plan::{LoadPlan, Mode, Touch};
use super::port::{Port, PortError, Touched};
use super::vring::Vring;
use vf_guest::driver::DeviceFault;

/// How long nothing must arrive before what is missing counts as lost.
const SILENCE: Duration = Duration::from_millis(20);
/// How long frames may go on arriving after the last was sent.
const LONGEST_DRAIN: Duration = Duration::from_secs(1);
/// How long a frame may take there, or back, before it counts as lost.
const LOST: Duration = Duration::from_millis(50);

/// What one queue sends.
struct Sender {
    port: usize,
    pair: usize,
    template: Template,
    flow: u32,
    seq: u32,
    /// Queue pair `i` of `n` sends flows `i`, `i + n`, ...
    first: u32,
    step: u32,
    flows: u32,
    sent: u64,
}

impl Sender {
    #[inline]
    fn head(&mut self, now: u64) -> [u64; HEAD / 8] {
        let head = self.template.head(self.flow, self.seq, now as u32);
        self.flow += self.step;
        if self.flow >= self.flows {
            self.flow = self.first;
            self.seq = self.seq.wrapping_add(1);
        }
        head
    }

    /// Sends up to `want` frames.
    #[inline]
    fn send<R: Vring>(
        &mut self,
        port: &mut Port<R>,
        want: u16,
        now: u64,
        plan: &LoadPlan,
        filling: &[u8],
    ) -> Result<u16, DeviceFault> {
        let (pair, len) = (self.pair, plan.size);
        let n = match plan.touch {
            Touch::None => port.send(pair, want, len, || None, None),
            Touch::Head => port.send(pair, want, len, || Some(self.head(now)), None),
            Touch::All => port.send(pair, want, len, || Some(self.head(now)), Some(filling)),
        }?;
        self.sent += u64::from(n);
        Ok(n)
    }
}

/// The generator and its ports.
pub(crate) struct Generator<'a, R> {
    ports: Vec<Port<R>>,
    /// Destination addresses of frames to each port.
    macs: Vec<[u8; 6]>,
    clock: Clock<'a>,
    run: u8,
}

impl<'a, R: Vring> Generator<'a, R> {
    /// Frames to port `i` go to `macs[i]`.
    pub(crate) fn new(
        ports: Vec<Port<R>>,
        macs: Vec<[u8; 6]>,
        clock: Clock<'a>,
    ) -> Generator<'a, R> {
        Generator {
            ports,
            macs,
            clock,
            run: 0,
        }
    }

    fn end(&self, index: usize) -> End {
        End {
            index: index as u8,
            mac: self.macs[index],
        }
    }

    fn template(&self, from: usize, to: usize, plan: &LoadPlan) -> Template {
        Template::new(self.end(from), self.end(to), plan.size, plan.vlan, self.run)
    }

    fn senders(&self, plan: &LoadPlan) -> Vec<Sender> {
        let mut senders = Vec::new();
        for port in 0..plan.ports {
            let Some(to) = plan.mode.destination(port, plan.ports) else {
                continue;
            };
            let pairs = self.ports[port].pairs();
            for pair in 0..pairs.min(plan.flows as usize) {
                senders.push(Sender {
                    port,
                    pair,
                    template: self.template(port, to, plan),
                    flow: pair as u32,
                    seq: 0,
                    first: pair as u32,
                    step: pairs as u32,
                    flows: plan.flows,
                    sent: 0,
                });
            }
        }
        senders
    }

    /// Each port says a few frames, so that switches learn where it is; then all is quiet.
    pub(crate) fn introduce(&mut self, plan: &LoadPlan) -> Result<(), PortError> {
        let filling = filling(plan.size);
        self.run = self.run.wrapping_add(1);
        for round in 0..3 {
            for index in 0..plan.ports {
                let to = plan.mode.destination(index, plan.ports);
                let head = self
                    .template(index, to.unwrap_or((index + 1) % plan.ports), plan)
                    .head(0, 0, 0);
                let port = &mut self.ports[index];
                if round == 0 {
                    port.fill(head, &filling);
                }
                port.send(0, 1, plan.size, || Some(head), None)?;
            }
            self.kick(plan);
            let mut unread = Account::new(plan, self.clock);
            self.settle(plan, None, &mut unread)?;
        }
        Ok(())
    }

    /// Receives on all queues once; how many buffers came.
    #[inline]
    fn receive(
        &mut self,
        plan: &LoadPlan,
        touched: Option<Touched<'_>>,
        account: &mut Account<'_>,
    ) -> Result<u64, DeviceFault> {
        let mut moved = 0;
        for (index, port) in self.ports[..plan.ports].iter_mut().enumerate() {
            for pair in 0..port.pairs() {
                account.next_burst();
                let n = port.receive(pair, touched, |arrival| account.see(index, arrival))?;
                moved += u64::from(n);
            }
        }
        Ok(moved)
    }

    /// Receives until nothing more comes of what was sent, whatever comes from others.
    fn settle(
        &mut self,
        plan: &LoadPlan,
        touched: Option<Touched<'_>>,
        account: &mut Account<'_>,
    ) -> Result<(), DeviceFault> {
        let start = (self.clock)();
        let mut last = start;
        loop {
            let now = (self.clock)();
            let before = account.received();
            if self.receive(plan, touched, account)? > 0 {
                self.kick(plan);
            }
            if account.received() > before {
                last = now;
            }
            let (quiet, all) = (now - last, now - start);
            if quiet > SILENCE.as_nanos() as u64 || all > LONGEST_DRAIN.as_nanos() as u64 {
                return Ok(());
            }
        }
    }

    /// Loads the ports as `plan` says.
    pub(crate) fn load(&mut self, plan: &LoadPlan) -> Result<Measured, PortError> {
        self.run = self.run.wrapping_add(1);
        let mut senders = self.senders(plan);
        let filling = filling(plan.size);
        let touched = (plan.touch != Touch::None).then_some(Touched {
            run: self.run,
            filling: (plan.touch == Touch::All).then_some(&filling[..]),
        });
        let mut account = Account::new(plan, self.clock);
        let receives = plan.mode != Mode::Drain;
        let each = plan.rate.map(|rate| rate / senders.len() as f64 / 1e9);

        let start = (self.clock)();
        let mut now = start;
        loop {
            let mut moved = 0;
            for sender in &mut senders {
                let mut want = plan.burst;
                if let Some(each) = each {
                    let due = (now - start) as f64 * each - sender.sent as f64;
                    want = want.min(due as u16);
                    if want == 0 {
                        continue;
                    }
                }
                let port = &mut self.ports[sender.port];
                let n = sender.send(port, want, now, plan, &filling)?;
                account.sent(want, n);
                moved += u64::from(n);
            }
            if receives {
                moved += self.receive(plan, touched, &mut account)?;
            }
            if moved > 0 {
                self.kick(plan);
            }
            let last = std::mem::replace(&mut now, (self.clock)());
            if !account.passed(last, now, moved > 0) {
                break;
            }
        }
        if receives {
            self.settle(plan, touched, &mut account)?;
        }
        self.still_there()?;
        Ok(account.measured())
    }

    /// Round trips of one frame between ports 0 and 1, in `Measured::latency`.
    pub(crate) fn ping_pong(&mut self, plan: &LoadPlan) -> Result<Measured, PortError> {
        self.run = self.run.wrapping_add(1);
        let touched = Some(Touched {
            run: self.run,
            filling: None,
        });
        let mut senders = self.senders(plan);
        let mut account = Account::new(plan, self.clock);
        let mut last = (self.clock)();
        loop {
            let begin = (self.clock)();
            let mut back = true;
            for (leg, sender) in senders.iter_mut().take(2).enumerate() {
                let sent = sender.send(&mut self.ports[leg], 1, begin, plan, &[])?;
                account.sent(1, sent);
                self.kick(plan);
                back &= self.await_frame(1 - leg, begin, touched, &mut account)?;
                if !back {
                    break;
                }
            }
            let now = (self.clock)();
            if back {
                account.round_trip(begin, now);
            } else {
                self.settle(plan, touched, &mut account)?;
                self.still_there()?;
            }
            let since = std::mem::replace(&mut last, now);
            if !account.passed(since, now, true) {
                return Ok(account.measured());
            }
        }
    }

    /// Polls a port until its frame has come; false when it does not.
    fn await_frame(
        &mut self,
        port: usize,
        since: u64,
        touched: Option<Touched<'_>>,
        account: &mut Account<'_>,
    ) -> Result<bool, DeviceFault> {
        let before = account.received();
        for polls in 1u32.. {
            self.ports[port].receive(0, touched, |arrival| account.see(port, arrival))?;
            if account.received() > before {
                return Ok(true);
            }
            if polls.is_multiple_of(256) && (self.clock)() - since > LOST.as_nanos() as u64 {
                break;
            }
        }
        Ok(false)
    }

    /// Kicks the ports that take part. Those that do not have nothing to tell, and to look at each would be a cost of the
    /// generator that grows with them.
    fn kick(&mut self, plan: &LoadPlan) {
        fence(Ordering::SeqCst);
        self.ports[..plan.ports].iter_mut().for_each(Port::kick);
    }

    fn still_there(&mut self) -> Result<(), PortError> {
        if self.ports.iter_mut().any(Port::closed) {
            return Err(vf_guest::frontend::FrontendError::Closed.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Layout;
    use crate::port::PortConfig;
    use crate::port::tests::Device;
    use crate::record::Run;
    use crate::split::Split;
    use std::cell::RefCell;
    use std::collections::VecDeque;

    /// What a back end does with the `n`-th frame of a port: to whom it delivers which frames.
    type Switch = fn(from: usize, n: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)>;

    /// Runs `plan` against a back end that works whenever the clock is read.
    fn run(plan: &LoadPlan, layout: Layout, pairs: u16, switch: Switch) -> Measured {
        run_beside(plan, layout, pairs, 0, switch)
    }

    /// The same while a stranger sends so many frames to each port whenever the clock is read.
    fn run_beside(
        plan: &LoadPlan,
        layout: Layout,
        pairs: u16,
        foreign: usize,
        switch: Switch,
    ) -> Measured {
        let config = PortConfig {
            in_order: layout.in_order(),
            mergeable: layout.mergeable(),
            pairs,
            queue_size: 64,
            frame: 1522,
        };
        let ports: Vec<Port<Split>> = (0..plan.ports)
            .map(|_| Port::detached(&config).unwrap())
            .collect();
        let pairs = usize::from(pairs);
        let mut devices = Vec::new();
        for port in &ports {
            devices.extend((0..pairs).map(|pair| Device::new(port, pair)));
        }
        // What is on its way to a queue pair that had no buffer, frames taken, and the time.
        let waiting = vec![VecDeque::new(); devices.len()];
        let state = RefCell::new((devices, waiting, vec![0; plan.ports], 0));
        let clock = || {
            let (devices, waiting, count, now) = &mut *state.borrow_mut();
            for (at, device) in devices.iter_mut().enumerate() {
                let (from, pair) = (at / pairs, at % pairs);
                while let Some(frame) = device.take() {
                    for (to, frame) in switch(from, count[from], frame) {
                        waiting[to * pairs + pair].push_back(frame);
                    }
                    count[from] += 1;
                }
            }
            for (device, waiting) in devices.iter_mut().zip(waiting) {
                while waiting.front().is_some_and(|frame| device.give(frame)) {
                    waiting.pop_front();
                }
                (0..foreign).for_each(|_| _ = device.give(&[0xff; 64]));
            }
            *now += 10_000;
            *now
        };
        let macs = (0..plan.ports).map(|i| [2, 0, 0, 0, 0, i as u8]).collect();
        let mut generator = Generator::new(ports, macs, &clock);
        let found = match plan.mode {
            Mode::Pingpong => generator.ping_pong(plan),
            _ => generator.load(plan),
        };
        found.unwrap()
    }

    fn plan(mode: Mode, ports: usize) -> LoadPlan {
        LoadPlan {
            mode,
            ports,
            size: 128,
            flows: 3,
            vlan: None,
            burst: 32,
            rate: None,
            touch: Touch::All,
            wire: None,
            warm_up: Duration::ZERO,
            seconds: Duration::from_millis(20),
        }
    }

    #[test]
    fn what_a_wire_delivers_is_all_there() {
        for (layout, pairs, mode, ports) in [
            (Layout::Vec, 1, Mode::Oneway, 2),
            (Layout::Mrg, 1, Mode::Bidir, 4),
            (Layout::Nomrg, 2, Mode::Oneway, 2),
            (Layout::Inorder, 3, Mode::Bidir, 2),
        ] {
            let found = run(&plan(mode, ports), layout, pairs, |from, _, frame| {
                vec![(from ^ 1, frame)]
            });
            let counts = [
                found.lost,
                found.reordered,
                found.duplicates,
                found.foreign,
                found.bad,
            ];
            assert_eq!(counts, [0; 5], "{layout:?} {mode:?}");
            assert!(found.all_sent > 0);
        }
    }

    #[test]
    fn frames_that_are_lost_doubled_late_or_changed_are_counted() {
        let mut plan = plan(Mode::Oneway, 2);
        plan.rate = Some(100_000.0);
        let found = run(&plan, Layout::Vec, 1, |from, n, frame| {
            let to = from ^ 1;
            match n {
                5 => vec![],
                7 | 8 => vec![(to, frame.clone()), (to, frame)],
                20 => vec![(to, frame[..127].to_vec())],
                21 => vec![(to, [&frame[..127], &[!frame[127]]].concat())],
                22 => vec![(from, frame)],
                23 => vec![(to, vec![0; 128])],
                _ => vec![(to, frame)],
            }
        });
        // 20 ms at 100,000 a second, but for what is due at the very end.
        assert!((1995..=2000).contains(&found.all_sent));
        assert_eq!(found.duplicates, 2);
        assert_eq!(found.bad, 2);
        assert_eq!(found.foreign, 2);
        assert_eq!(found.lost, 3, "dropped, sent back, and overwritten");
        assert!(!found.latency.is_empty());
    }

    #[test]
    fn a_tag_that_comes_or_goes_on_the_way_changes_the_length_only() {
        let found = run(&plan(Mode::Oneway, 2), Layout::Vec, 1, |from, _, frame| {
            let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
            vec![(from ^ 1, tagged)]
        });
        assert_eq!((found.lost, found.foreign), (0, 0));
        assert_eq!(found.bad, found.all_sent);
    }

    #[test]
    fn a_direction_that_starves_is_seen() {
        let plan = LoadPlan {
            wire: Some(10e9),
            ..plan(Mode::Bidir, 2)
        };
        let found = run(&plan, Layout::Vec, 1, |from, n, frame| {
            if from == 1 && n % 4 > 0 {
                return vec![];
            }
            vec![(from ^ 1, frame)]
        });
        assert!((0.2..0.3).contains(&found.fairness), "{}", found.fairness);
        // A wire is as full as its emptier way: one frame of five goes that way.
        let run = Run::new(&plan, 0, &found);
        let share = run.wire.unwrap().share;
        let expected = run.rx_pps / 5.0 / (10e9 / (8.0 * (128.0 + 24.0)));
        assert!(
            (0.9..1.1).contains(&(share / expected)),
            "{share}: {expected}"
        );
    }

    #[test]
    fn round_trips_are_timed_and_lost_ones_counted() {
        let mut plan = plan(Mode::Pingpong, 2);
        plan.flows = 1;
        plan.seconds = Duration::from_millis(100);
        let found = run(&plan, Layout::Mrg, 1, |from, n, frame| match (from, n) {
            (0, 3) => vec![],
            _ => vec![(from ^ 1, frame)],
        });
        assert_eq!(found.lost, 1);
        assert!(found.latency.len() > 2);
    }

    #[test]
    fn a_lost_round_trip_is_over_soon_though_others_frames_never_end() {
        let mut plan = plan(Mode::Pingpong, 2);
        plan.flows = 1;
        plan.seconds = Duration::from_millis(200);
        let found = run_beside(&plan, Layout::Mrg, 1, 1, |from, n, frame| match (from, n) {
            (0, 20) => vec![],
            _ => vec![(from ^ 1, frame)],
        });
        assert_eq!(found.lost, 1);
        assert!(found.latency.len() > 200, "{}", found.latency.len());
    }
}
