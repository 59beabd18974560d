//! Impairments in front of a wire, and of an uplink that takes little. No device of the host, and time is an argument.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vf_vhost::frame::FrameBuf;

use super::super::{Arrivals, WireEnd};
use super::*;
use vf_model::{DropReason, FrameMeta};
use vf_packet::checksum::complete;
use vf_packet::{Offload, PartialChecksum};

/// One that takes so many frames at a time and refuses every tenth, as a tap device does whose host is slow.
struct Slow {
    link: Link,
    arrived: Vec<Frame>,
    handed: u64,
}

impl Uplink for Slow {
    fn tx_room(&mut self, now: Nanos, _: &Pool, _: &mut Lost<'_>) -> TxRoom {
        TxRoom::of(&self.link, usize::MAX, now, now)
    }
    fn tx_room_at(&mut self) -> Option<Nanos> {
        Some(self.link.free_at())
    }
    fn tx_burst(&mut self, now: Nanos, frames: &mut Vec<TxFrame>, _: &Pool, lost: &mut Lost<'_>) {
        for TxFrame { frame, on_wire } in frames.drain(..) {
            self.handed += 1;
            if self.handed.is_multiple_of(10) {
                lost(DropReason::WireQueueFull, &frame);
                continue;
            }
            self.link.put(now, on_wire);
            self.arrived.push(frame);
        }
    }
    fn rx_burst(&mut self, _: Nanos, _: usize, _: &Pool, arrivals: &mut Arrivals) {
        // What was sent, so that it can be looked at.
        arrivals.frames.append(&mut self.arrived);
    }
    fn next(&mut self) -> Option<Nanos> {
        None
    }
    fn link(&self) -> &Link {
        &self.link
    }
    fn link_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

/// An uplink and what impairs it, if anything does.
struct Impaired {
    netem: Option<Netem>,
    uplink: Box<dyn Uplink>,
    counters: Counters,
}

impl Impaired {
    fn tx_room(&mut self, now: Nanos, pool: &Pool, lost: &mut Lost<'_>) -> TxRoom {
        match &mut self.netem {
            Some(netem) => netem.tx_room(&mut *self.uplink, now, pool, lost),
            None => self.uplink.tx_room(now, pool, lost),
        }
    }
    fn tx_room_at(&mut self) -> Option<Nanos> {
        match &mut self.netem {
            Some(netem) => netem.tx_room_at(&mut *self.uplink),
            None => self.uplink.tx_room_at(),
        }
    }
    fn tx_burst(
        &mut self,
        now: Nanos,
        frames: &mut Vec<TxFrame>,
        pool: &Pool,
        lost: &mut Lost<'_>,
    ) {
        match &mut self.netem {
            Some(netem) => netem.tx_burst(&mut *self.uplink, now, frames, pool, lost),
            None => self.uplink.tx_burst(now, frames, pool, lost),
        }
    }
    fn next(&mut self) -> Option<Nanos> {
        let held = match &mut self.netem {
            Some(netem) => netem.next(&mut *self.uplink),
            None => None,
        };
        self.uplink.next().into_iter().chain(held).min()
    }
}

impl std::fmt::Display for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slow")
    }
}

/// A port that sends, and what came of it.
struct Bench {
    port: Impaired,
    /// The other end, if it is a wire.
    far: Option<WireEnd>,
    pool: Pool,
    now: Nanos,
    arrived: Vec<(Nanos, Frame)>,
    dropped: BTreeMap<&'static str, u64>,
}

impl Bench {
    fn over_wire(words: &str) -> Bench {
        let (near, far) = WireEnd::pair(LinkConfig::default(), Nanos(0));
        Bench::new(Box::new(near), Some(far), words)
    }

    fn over_slow(words: &str) -> Bench {
        let link = Link::new(LinkConfig::default());
        let (arrived, handed) = (Vec::new(), 0);
        Bench::new(
            Box::new(Slow {
                link,
                arrived,
                handed,
            }),
            None,
            words,
        )
    }

    fn new(mut uplink: Box<dyn Uplink>, far: Option<WireEnd>, words: &str) -> Bench {
        let spec = (!words.is_empty()).then(|| Arc::new(words.parse::<NetemSpec>().unwrap()));
        let counters = Counters::default();
        let netem = spec.map(|spec| {
            Netem::new(
                &mut *uplink,
                spec,
                Place::default(),
                Nanos(0),
                counters.clone(),
            )
        });
        Bench {
            port: Impaired {
                netem,
                uplink,
                counters,
            },
            far,
            pool: Pool::new(64),
            now: Nanos(0),
            arrived: Vec::new(),
            dropped: BTreeMap::new(),
        }
    }

    /// Gives the port what it has to do at this time, and takes what has arrived.
    fn look(&mut self, mut frames: Vec<TxFrame>) {
        let dropped = &mut self.dropped;
        let mut lost =
            |reason: DropReason, _: &FrameBuf| *dropped.entry(reason.name()).or_default() += 1;
        self.port.tx_room(self.now, &self.pool, &mut lost);
        if !frames.is_empty() {
            self.port
                .tx_burst(self.now, &mut frames, &self.pool, &mut lost);
            assert!(frames.is_empty(), "all are taken");
        }
        let mut arrivals = Arrivals::default();
        match &mut self.far {
            Some(far) => far.rx_burst(self.now, usize::MAX, &self.pool, &mut arrivals),
            None => self
                .port
                .uplink
                .rx_burst(self.now, usize::MAX, &self.pool, &mut arrivals),
        }
        let now = self.now;
        self.arrived
            .extend(arrivals.frames.into_iter().map(|frame| (now, frame)));
    }

    /// When there is something to do next.
    fn next(&mut self) -> Option<Nanos> {
        let far = self.far.as_mut().and_then(Uplink::next);
        self.port.next().into_iter().chain(far).min()
    }

    /// Lets time pass up to `until`, by what the port says.
    fn pass(&mut self, until: Nanos) {
        while let Some(at) = self.next().filter(|at| *at <= until) {
            let done =
                |bench: &Bench| bench.arrived.len() as u64 + bench.dropped.values().sum::<u64>();
            let before = done(self);
            self.now = self.now.max(at);
            self.look(Vec::new());
            let progress = done(self) > before || self.next().is_none_or(|next| next > self.now);
            assert!(progress, "what is due at {at:?} is done then");
        }
        self.now = until;
    }

    /// Sends `frames` one after the other, each as soon as there is room, and waits for the last of them.
    fn send_all(&mut self, frames: impl Iterator<Item = Frame>) {
        for frame in frames {
            loop {
                let room = self.port.tx_room(self.now, &self.pool, &mut |_, _| {});
                if room.any() {
                    break;
                }
                let at = self.port.tx_room_at().unwrap();
                assert!(at > self.now, "{at:?} has come");
                self.pass(at);
            }
            self.look(vec![sent(frame)]);
        }
        self.pass(self.now + Nanos(10_000_000_000));
    }

    fn statistic(&self, name: &str) -> u64 {
        let all = self.port.counters.statistics();
        all.iter().find(|(n, _)| *n == name).unwrap().1.get()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason.name()).copied().unwrap_or(0)
    }

    /// The numbers of the frames, as they arrived.
    fn numbers(&self) -> Vec<u32> {
        self.arrived
            .iter()
            .map(|(_, frame)| number(frame))
            .collect()
    }
}

fn numbered(n: u32, len: usize) -> Frame {
    let mut data = vec![0; len];
    data[14..18].copy_from_slice(&n.to_be_bytes());
    Box::new(FrameBuf {
        data,
        ..FrameBuf::default()
    })
}

fn number(frame: &Frame) -> u32 {
    u32::from_be_bytes(frame.data[14..18].try_into().unwrap())
}

fn sent(frame: Frame) -> TxFrame {
    let meta = FrameMeta {
        len: frame.len(),
        gso: None,
    };
    let on_wire = OnWire::of(&meta);
    TxFrame { frame, on_wire }
}

/// When frames of 1514 bytes arrive that are sent as fast as they can be.
fn times(words: &str, frames: u32) -> Vec<(Nanos, u32)> {
    let mut bench = Bench::over_wire(words);
    bench.send_all((0..frames).map(|n| numbered(n, 1514)));
    bench
        .arrived
        .iter()
        .map(|(at, frame)| (*at, number(frame)))
        .collect()
}

#[test]
fn without_an_event_frames_arrive_when_they_would_have() {
    let plain = times("", 100);
    assert_eq!(times("loss 0% corrupt 0%", 100), plain);
    // A delay is added, and the link stays as full.
    let delay = Nanos(10_000_000);
    let later: Vec<_> = plain.iter().map(|(at, n)| (*at + delay, *n)).collect();
    assert_eq!(times("delay 10ms", 100), later);
}

#[test]
fn a_lost_frame_has_taken_its_time_and_leaves_the_others_alone() {
    let plain = times("", 2000);
    let left = times("loss 10% seed 3", 2000);
    for (at, n) in &left {
        // Behind one that is lost a frame begins at the full nanosecond, not at the tenth.
        let (undisturbed, _) = plain[*n as usize];
        assert!(undisturbed.0 - at.0 <= 1, "{n}: {undisturbed:?} {at:?}");
    }
    assert!((1740..1860).contains(&left.len()), "{}", left.len());
}

#[test]
fn the_same_seed_does_the_same_and_another_does_not() {
    let words = "delay 50us 20us 10% loss 2% 20% duplicate 3% corrupt 4% reorder 10% 5% seed";
    let first = times(&format!("{words} 1"), 500);
    assert_eq!(times(&format!("{words} 1"), 500), first);
    assert_ne!(times(&format!("{words} 2"), 500), first);
    // Ports differ though they say the same.
    let of_port = |nic| {
        let (mut near, mut far) = WireEnd::pair(LinkConfig::default(), Nanos(0));
        let spec = Arc::new("loss 50%".parse().unwrap());
        let place = Place { nic, port: 0 };
        let mut netem = Netem::new(&mut near, spec, place, Nanos(0), Counters::default());
        let pool = Pool::new(1);
        let mut frames = (0..64).map(|n| sent(numbered(n, 60))).collect();
        netem.tx_burst(&mut near, Nanos(0), &mut frames, &pool, &mut |_, _| {});
        netem.tx_room(&mut near, Nanos(1_000_000), &pool, &mut |_, _| {});
        let mut arrivals = Arrivals::default();
        far.rx_burst(Nanos(2_000_000), 64, &pool, &mut arrivals);
        arrivals.frames.iter().map(number).collect::<Vec<_>>()
    };
    assert_ne!(of_port(0), of_port(1));
}

#[test]
fn another_impairment_leaves_the_numbers_of_the_first_alone() {
    let lost = |words: &str| {
        let mut there: Vec<_> = times(words, 500).into_iter().map(|(_, n)| n).collect();
        there.sort_unstable();
        there
    };
    assert_eq!(
        lost("loss 5% seed 1"),
        lost("delay 1ms 200us loss 5% seed 1")
    );
}

#[test]
fn every_gapth_frame_overtakes() {
    let mut bench = Bench::over_wire("delay 10ms reorder 100% gap 5");
    for n in 0..10 {
        bench.look(vec![sent(numbered(n, 60))]);
        bench.pass(bench.now + Nanos(1000));
    }
    bench.pass(Nanos(1_000_000_000));
    assert_eq!(bench.numbers(), [4, 9, 0, 1, 2, 3, 5, 6, 7, 8]);
    assert_eq!(bench.statistic("netem_reordered"), 2);
}

#[test]
fn jitter_stays_within_its_bounds_and_uses_them() {
    let mut bench = Bench::over_wire("delay 1ms 300us");
    let mut delays = Vec::new();
    for n in 0..300 {
        let begun = bench.now;
        bench.look(vec![sent(numbered(n, 60))]);
        bench.pass(begun + Nanos(2_000_000));
        let (at, _) = bench.arrived.pop().unwrap();
        // 84 byte times and 500 ns of fibre.
        delays.push(at.0 - begun.0 - 568);
    }
    let (least, most) = (*delays.iter().min().unwrap(), *delays.iter().max().unwrap());
    assert!((700_000..710_000).contains(&least), "{least}");
    assert!((1_290_000..=1_300_000).contains(&most), "{most}");
}

#[test]
fn correlated_losses_come_together() {
    // How many are lost between two that arrive, where any are.
    let run = |words| {
        let arrived = times(words, 4000);
        let gaps = arrived.windows(2).filter(|two| two[1].1 > two[0].1 + 1);
        (4000 - arrived.len()) as f64 / gaps.count() as f64
    };
    assert!(run("loss 50% 75%") > 1.5 * run("loss 50%"));
}

#[test]
fn duplicates_arrive_twice_and_the_port_makes_room_for_them() {
    let mut bench = Bench::over_wire("duplicate 100%");
    bench.send_all((0..400).map(|n| numbered(n, 1514)));
    let twice: Vec<_> = (0..400).flat_map(|n| [n, n]).collect();
    assert_eq!(bench.numbers(), twice);
    assert_eq!(bench.statistic("netem_duplicated"), 400);
    assert!(bench.dropped.is_empty(), "{:?}", bench.dropped);
    // The link carries one a 1230.4 ns, so they have waited for it.
    assert!(bench.arrived.last().unwrap().0 >= Nanos(800 * 1230));
}

#[test]
fn one_bit_is_turned_over_and_nothing_is_left_to_be_finished() {
    let mut bench = Bench::over_wire("corrupt 100%");
    for n in 0..50 {
        let mut frame = numbered(n, 200);
        // A checksum from byte 34 on that is partial: zero is right until the field is filled.
        let checksum = PartialChecksum {
            start: 34,
            offset: 6,
        };
        frame.offload = Offload::new(Some(checksum), None);
        let mut whole = frame.data.clone();
        complete(&mut whole, 34, 6).unwrap();
        bench.look(vec![sent(frame)]);
        bench.pass(bench.now + Nanos(10_000));
        let (_, frame) = bench.arrived.pop().unwrap();
        assert!(frame.offload.is_none());
        let turned = whole
            .iter()
            .zip(&frame.data)
            .map(|(a, b)| (a ^ b).count_ones());
        assert_eq!(turned.sum::<u32>(), 1);
    }
    assert_eq!(bench.statistic("netem_corrupted"), 50);
}

/// A TCP super-frame of five segments, its checksum partial.
fn super_frame() -> TxFrame {
    let mut data = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    data.extend([
        0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    data.extend([
        0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 2, 0, 0, 0, 0, 0,
    ]);
    data.extend(vec![0xab; 4 * 1000 + 500]);
    let gso = vf_model::Gso {
        header_len: 54,
        size: 1000,
    };
    let checksum = PartialChecksum {
        start: 34,
        offset: 16,
    };
    let segmentation = vf_packet::Segmentation {
        v6: false,
        ecn: false,
        gso,
    };
    let offload = Offload::new(Some(checksum), Some(segmentation));
    let frame = Box::new(FrameBuf { offload, data });
    let on_wire = OnWire::of(&FrameMeta {
        len: frame.len(),
        gso: Some(gso),
    });
    TxFrame { frame, on_wire }
}

#[test]
fn segments_of_a_super_frame_are_lost_one_by_one() {
    let mut bench = Bench::over_wire("loss 50% seed 5");
    for _ in 0..100 {
        bench.look(vec![super_frame()]);
        bench.pass(bench.now + Nanos(1_000_000));
    }
    let arrived = bench.arrived.len() as u64;
    assert_eq!(arrived + bench.dropped(DropReason::NetemLoss), 500);
    assert!((200..300).contains(&arrived), "{arrived}");
    assert!(
        bench
            .arrived
            .iter()
            .all(|(_, frame)| frame.offload.gso().is_none())
    );
    assert!(
        bench
            .arrived
            .iter()
            .any(|(_, frame)| frame.data.len() == 554)
    );
    // Where all are treated alike it stays whole.
    let mut bench = Bench::over_wire("delay 1ms");
    bench.look(vec![super_frame()]);
    bench.pass(Nanos(10_000_000));
    assert!(bench.arrived[0].1.offload.gso().is_some());
}

#[test]
fn what_is_held_back_is_bounded_in_frames_and_in_memory() {
    for (words, len, fit) in [
        ("delay 1s limit 10", 60, 10),
        // A short frame takes a buffer of 2048 bytes.
        ("delay 1s memory_limit 64kb", 60, 32),
        ("delay 1s memory_limit 100kb", 9000, 12),
    ] {
        let mut bench = Bench::over_wire(words);
        bench.send_all((0..50).map(|n| numbered(n, len)));
        assert_eq!(bench.arrived.len() as u64, fit, "{words}");
        assert_eq!(bench.dropped(DropReason::NetemLimit), 50 - fit, "{words}");
    }
}

#[test]
fn impairments_come_and_go_and_the_link_goes_on_where_it_is() {
    let mut bench = Bench::over_wire("");
    let busy = bench.port.uplink.link().busy_time();
    bench.look((0..10).map(|n| sent(numbered(n, 1514))).collect());
    let spec = Arc::new("delay 50us".parse().unwrap());
    let counters = Counters::default();
    let uplink = &mut *bench.port.uplink;
    bench.port.netem = Some(Netem::new(
        uplink,
        spec,
        Place::default(),
        Nanos(0),
        counters,
    ));
    bench.look((10..20).map(|n| sent(numbered(n, 1514))).collect());
    bench.pass(Nanos(40_000));
    let held = bench.arrived.len();
    assert!(held < 20, "{held}");
    let netem = bench.port.netem.as_mut().unwrap();
    netem.change(None);
    assert!(!netem.is_over());
    bench.look((20..30).map(|n| sent(numbered(n, 1514))).collect());
    bench.pass(Nanos(1_000_000));
    assert_eq!(bench.numbers(), (0..30).collect::<Vec<_>>());
    let mut netem = bench.port.netem.take().unwrap();
    assert!(netem.is_over());
    netem.leave(&mut *bench.port.uplink);
    // Whoever reads the time that the port has spent sending has all of it.
    assert_eq!(busy.until(bench.now), Nanos(30 * 1538 * 8 / 10));
    bench.look(vec![sent(numbered(30, 1514))]);
    assert_eq!(busy.until(Nanos(2_000_000)), Nanos(31 * 1538 * 8 / 10));
}

proptest! {
    /// Whatever is done to them, each frame that was sent or doubled has arrived or is counted, and there is an end to it.
    #[test]
    fn frames_sent_are_delivered_or_counted(
        chances in proptest::array::uniform4(0..60u32),
        correlation in 0..100u32,
        times in (0..200u32, 0..200u32),
        gap in 1..6u32,
        limit in 1..200u32,
        seed in any::<u64>(),
        bursts in proptest::collection::vec((0..100_000u64, proptest::collection::vec((60..1514usize, any::<bool>()), 1..20)), 1..40),
        wire in any::<bool>(),
    ) {
        let [loss, duplicate, corrupt, reorder] = chances;
        let (delay, jitter) = (times.0 + 1, times.1);
        let words = format!(
            "delay {delay}us {jitter}us {correlation}% loss {loss}% {correlation}% duplicate {duplicate}% corrupt {corrupt}% \
             reorder {reorder}% {correlation}% gap {gap} limit {limit} seed {seed}"
        );
        let mut bench = match wire {
            true => Bench::over_wire(&words),
            false => Bench::over_slow(&words),
        };
        let mut given = 0;
        for (gap, frames) in bursts {
            bench.pass(bench.now + Nanos(gap));
            let cut = if jitter > 0 || chances.iter().any(|chance| *chance > 0) { 5 } else { 1 };
            let frames = frames.into_iter().map(|(len, long)| match long {
                true => (cut, super_frame()),
                false => (1, sent(numbered(0, len))),
            });
            let (counts, frames): (Vec<u64>, Vec<_>) = frames.unzip();
            given += counts.iter().sum::<u64>();
            bench.look(frames);
        }
        bench.pass(bench.now + Nanos(1_000_000_000));
        prop_assert_eq!(bench.next(), None);
        let dropped = bench.dropped.values().sum::<u64>();
        let arrived = bench.arrived.len() as u64;
        prop_assert_eq!(given + bench.statistic("netem_duplicated"), arrived + dropped, "{:?}", bench.dropped);
        prop_assert!(bench.statistic("netem_corrupted") <= given + bench.statistic("netem_duplicated"));
    }
}
