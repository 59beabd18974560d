//! Storm control: how many frames of a VF are flooded to others, on either path, and what does not count.

// Helpers of tests, too, may unwrap.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use vf_model::{
    Command, DropReason, FrameMeta, Gso, HypervisorModel, Judge, MacAddr, Nanos, Nic, NicConfig,
    Policy, Profile, Source, Verdict, VfIndex,
};

const BROADCAST: [u8; 6] = [0xff; 6];
const GROUP: [u8; 6] = [0x01, 0, 0x5e, 1, 2, 3];

fn command(words: &str) -> Command {
    Command::parse(&words.split_whitespace().collect::<Vec<_>>()).unwrap()
}

/// What VF 0 has passed of so many frames at a time.
struct Plane {
    direct: Nic,
    mediated: HypervisorModel,
    policy: Policy,
}

impl Plane {
    fn new(words: &[&str]) -> Plane {
        let policy = Policy::new(NicConfig {
            vfs: 4,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: Profile::default(),
        });
        let commands: Vec<_> = words.iter().map(|words| command(words)).collect();
        let policy = policy.with_all(&commands).unwrap();
        let shared = Arc::new(policy.clone());
        Plane {
            direct: Nic::new(Arc::clone(&shared)),
            mediated: HypervisorModel::new(shared),
            policy,
        }
    }

    fn set(&mut self, words: &str) {
        self.policy = self.policy.with(&command(words)).unwrap();
        let shared = Arc::new(self.policy.clone());
        self.direct.adopt(Arc::clone(&shared));
        self.mediated.adopt(shared);
    }

    /// How many of `frames` pass, on both paths alike.
    fn passes(&mut self, now: Nanos, to: [u8; 6], frames: usize) -> usize {
        self.passes_of(now, to, frames, FrameMeta { len: 60, gso: None })
    }

    fn passes_of(&mut self, now: Nanos, to: [u8; 6], frames: usize, meta: FrameMeta) -> usize {
        let mut frame = [to, [2, 0, 0, 0, 0, 0]].concat();
        frame.extend([0x88, 0xb5]);
        frame.resize(60, 0);
        let vf = VfIndex(0);
        let passed = |verdict: &Verdict| verdict.drop != Some(DropReason::StormControl);
        let direct = (0..frames).filter(|_| {
            let source = Source::Vf(vf);
            let again = self.direct.ingress_again(now, source, &frame, &meta);
            again.is_some() || passed(&self.direct.ingress(now, source, &frame, &meta))
        });
        let direct = direct.count();
        let mediated =
            (0..frames).filter(|_| passed(&self.mediated.ingress(now, vf, &frame, &meta)));
        assert_eq!(mediated.count(), direct);
        direct
    }

    fn dropped(&self) -> u64 {
        let vf = VfIndex(0);
        let [direct, mediated] = [self.direct.counters(vf), self.mediated.counters(vf)];
        let of = |drops: &vf_model::Drops| drops.get(DropReason::StormControl);
        assert_eq!(of(&direct.tx_drops), of(&mediated.tx_drops));
        of(&direct.tx_drops)
    }
}

/// One of 64 KiB is 2030 frames for each receiver that takes no super-frames.
#[test]
fn a_super_frame_counts_as_its_segments() {
    let mut plane = Plane::new(&["vf 0 set storm_control 1000"]);
    let size = 100;
    let gso = Some(Gso {
        header_len: 54,
        size,
    });
    let meta = FrameMeta {
        len: 54 + 20 * u32::from(size),
        gso,
    };
    // A hundred at once.
    assert_eq!(plane.passes_of(Nanos(0), BROADCAST, 300, meta), 5);
    // And one that is more than there is room for: then the next has to wait as long as all of it takes.
    let meta = |segments: u32| FrameMeta {
        len: 54 + segments * u32::from(size),
        gso,
    };
    let later = Nanos(1_000_000_000);
    assert_eq!(plane.passes_of(later, BROADCAST, 300, meta(128)), 1);
    let passes = |plane: &mut Plane, after: u64| plane.passes(later + Nanos(after), BROADCAST, 1);
    assert_eq!(passes(&mut plane, 28_000_000), 0);
    assert_eq!(passes(&mut plane, 30_000_000), 1);
    // None that would fill a receiver's ring alone.
    let later = Nanos(2_000_000_000);
    assert_eq!(plane.passes_of(later, BROADCAST, 300, meta(129)), 0);
}

#[test]
fn a_jumbo_frame_counts_as_what_is_copied_of_it() {
    let mut plane = Plane::new(&["vf 0 set storm_control 1000"]);
    let of = |len| FrameMeta { len, gso: None };
    assert_eq!(plane.passes_of(Nanos(0), BROADCAST, 300, of(1518)), 100);
    let later = Nanos(1_000_000_000);
    assert_eq!(plane.passes_of(later, BROADCAST, 300, of(9018)), 17);
}

#[test]
fn a_vf_has_so_many_frames_flooded_and_those_beyond_are_its_drops() {
    let mut plane = Plane::new(&["vf 0 set storm_control 1000"]);
    assert_eq!(plane.passes(Nanos(0), BROADCAST, 300), 100);
    assert_eq!(plane.dropped(), 200);
    // A hundredth of a second is ten frames.
    assert_eq!(plane.passes(Nanos(10_000_000), BROADCAST, 300), 10);
    // Frames to stations are none of them.
    assert_eq!(
        plane.passes(Nanos(10_000_000), [2, 0, 0, 0, 0, 1], 300),
        300
    );
    // What passed before the limit was changed is still held against it.
    plane.set("vf 0 set storm_control 2000");
    assert!(plane.passes(Nanos(10_000_000), BROADCAST, 300) <= 100);
    plane.set("vf 0 set storm_control 0");
    assert_eq!(plane.passes(Nanos(10_000_000), BROADCAST, 300), 300);
}

/// Where one other is left it is the only one who gets it, as what is sent to that one alone.
#[test]
fn a_broadcast_that_one_other_gets_counts() {
    let mut plane = Plane::new(&[
        "link set down",
        "vf 0 set state enable",
        "vf 1 set state enable",
        "vf 2 set state disable",
        "vf 3 set state disable",
        "vf 0 set storm_control 1000",
    ]);
    assert_eq!(plane.passes(Nanos(0), BROADCAST, 300), 100);
    assert_eq!(plane.dropped(), 200);
}

#[test]
fn groups_count_when_somebody_gets_them_unless_one_alone_has_listed_them() {
    let mut plane = Plane::new(&["vf 0 set storm_control 1000"]);
    for vf in 1..4 {
        plane.set(&format!("vf {vf} request reset groups"));
    }
    // Nobody here gets it: it goes to the wire.
    assert_eq!(plane.passes(Nanos(0), GROUP, 300), 300);
    plane.set("vf 1 set trust on");
    plane.set("vf 1 request allmulti on");
    assert_eq!(plane.passes(Nanos(0), GROUP, 300), 100);
    plane.set("vf 2 request multicast 01:00:5e:01:02:03");
    assert_eq!(plane.passes(Nanos(0), GROUP, 300), 300);
    // Who sends makes no group somebody's own by listing it.
    plane.set("vf 0 request multicast 01:00:5e:01:02:03");
    assert_eq!(plane.passes(Nanos(0), GROUP, 300), 300);
    plane.set("vf 2 request reset groups");
    assert_eq!(plane.passes(Nanos(0), GROUP, 300), 0);
    // Drivers of some NICs list groups by hash.
    plane.set("vf 2 request hashes 030");
    assert_eq!(plane.passes(Nanos(0), GROUP, 300), 300);
    // What several list, as all do that of all nodes, is as good as a broadcast.
    plane.set("vf 3 request multicast 01:00:5e:01:02:03");
    assert_eq!(plane.passes(Nanos(0), GROUP, 300), 0);
}

/// Each frame, and each receiver's copy of one, is dropped for one reason.
#[test]
fn what_storm_control_drops_is_too_long_for_nobody_on_either_path() {
    for station in [false, true] {
        let mut plane = Plane::new(&["vf 0 set storm_control 10", "vf 2 set mtu 100"]);
        if station {
            plane.set("vf 2 set path mediated bridge on");
        }
        let meta = FrameMeta {
            len: 200,
            gso: None,
        };
        assert_eq!(plane.passes_of(Nanos(0), BROADCAST, 5, meta), 1);
        assert_eq!(plane.dropped(), 4);
        let unfit = |counters: vf_model::Counters| counters.rx_drops.get(DropReason::MtuExceeded);
        let vf = VfIndex(2);
        let [direct, mediated] = [
            unfit(plane.direct.counters(vf)),
            unfit(plane.mediated.counters(vf)),
        ];
        // A station's is found out when the bridge has said that it is for it.
        assert_eq!((direct, mediated), (u64::from(!station), 1));
    }
}

#[test]
fn nobody_who_behaves_meets_the_limit_that_there_is_unless_set() {
    let mut plane = Plane::new(&[]);
    let mut passed = 0;
    for ms in 0..1000 {
        passed += plane.passes(Nanos(ms * 1_000_000), BROADCAST, 10);
    }
    assert_eq!(passed, 10_000);
    // And a burst of a sending socket besides, that leaves others half of their rings.
    let later = Nanos(2_000_000_000);
    assert_eq!(plane.passes(later, BROADCAST, 1000), 128);
}

/// What of so many frames to all passes that come from outside, and what the port counts as dropped.
fn from_outside(plane: &mut Plane, now: Nanos, frames: usize, meta: FrameMeta) -> usize {
    let before = plane.direct.wire_counters().rx_drops;
    let mut frame = [BROADCAST, [2, 0, 0, 9, 0, 0]].concat();
    frame.extend([0x88, 0xb5]);
    frame.resize(60, 0);
    let passed = (0..frames).filter(|_| {
        let verdict = plane.direct.ingress(now, Source::Wire, &frame, &meta);
        assert_eq!(verdict.drop.is_none(), !verdict.vfs.is_empty());
        verdict.drop != Some(DropReason::StormControl)
    });
    let passed = passed.count();
    let of = |drops: &vf_model::Drops| drops.get(DropReason::StormControl);
    let dropped = of(&plane.direct.wire_counters().rx_drops) - of(&before);
    assert_eq!(dropped, (frames - passed) as u64);
    passed
}

#[test]
fn the_port_has_a_limit_if_it_is_given_one() {
    let mut plane = Plane::new(&[]);
    let plain = FrameMeta { len: 60, gso: None };
    assert_eq!(from_outside(&mut plane, Nanos(0), 1000, plain), 1000);
    plane.set("link set storm_control 1000");
    assert_eq!(from_outside(&mut plane, Nanos(0), 300, plain), 100);
    assert_eq!(from_outside(&mut plane, Nanos(10_000_000), 300, plain), 10);
    // A VF has one of its own.
    assert_eq!(plane.passes(Nanos(10_000_000), BROADCAST, 300), 128);
    plane.set("link set storm_control 0");
    assert_eq!(from_outside(&mut plane, Nanos(0), 1000, plain), 1000);
}

/// One of 64 KiB is 2030 frames for each of 255 receivers, and comes from somebody who has no limit.
#[test]
fn no_super_frame_of_many_segments_comes_in_for_all() {
    let mut plane = Plane::new(&[]);
    let of = |segments: u32| FrameMeta {
        len: 54 + segments * 32,
        gso: Some(Gso {
            header_len: 54,
            size: 32,
        }),
    };
    assert_eq!(from_outside(&mut plane, Nanos(0), 10, of(128)), 10);
    assert_eq!(from_outside(&mut plane, Nanos(0), 10, of(129)), 0);
    // To a station it is TCP's.
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 9, 0, 0, 8, 0];
    frame.resize(60, 0);
    let verdict = plane
        .direct
        .ingress(Nanos(0), Source::Wire, &frame, &of(2000));
    assert_eq!((verdict.drop, verdict.vfs.len()), (None, 1));
}

/// What `why` says of a frame is what becomes of it when nothing has been flooded of late, on whichever path.
#[test]
fn why_says_how_many_may_be_flooded_and_of_a_frame_that_never_is_that_it_is_dropped() {
    let vf = Source::Vf(VfIndex(0));
    let size = 100;
    let of = |segments: u32| FrameMeta {
        len: 54 + segments * u32::from(size),
        gso: (segments > 1).then_some(Gso {
            header_len: 54,
            size,
        }),
    };
    let limited = "vf 0 set storm_control 1000";
    let unlimited = "vf 0 set storm_control 0";
    let port = "link set storm_control 50";
    for path in ["direct", "mediated"] {
        let path = format!("vf 0 set path {path}");
        for (said, source, to, segments, says) in [
            (
                limited,
                vf,
                BROADCAST,
                1,
                Some("vf0 may have 1000 frames a second flooded, and what is more"),
            ),
            (
                limited,
                vf,
                GROUP,
                3,
                Some("this one counts as 3, and what is more"),
            ),
            (
                limited,
                vf,
                BROADCAST,
                129,
                Some("counts as 129, which is more than may be at once"),
            ),
            (limited, vf, [2, 0, 0, 0, 0, 1], 129, None),
            (unlimited, vf, BROADCAST, 129, None),
            (limited, Source::Wire, BROADCAST, 1, None),
            (
                limited,
                Source::Wire,
                BROADCAST,
                129,
                Some("no limit is set, and this one counts as 129"),
            ),
            (
                port,
                Source::Wire,
                BROADCAST,
                1,
                Some("the port may have 50 frames a second flooded"),
            ),
        ] {
            let mut plane = Plane::new(&[&path, said]);
            let mut frame = [to, [2, 0, 0, 0, 0, 0]].concat();
            if source == Source::Wire {
                frame[11] = 9;
            }
            frame.extend([0x88, 0xb5]);
            frame.resize(60, 0);
            let meta = of(segments);
            let why = plane.policy.why(source, &frame, &meta);
            let mut steps = why.steps.iter().map(ToString::to_string);
            let step = steps.find(|step| step.starts_with("storm_control: "));
            let is_said = match (&step, says) {
                (Some(step), Some(says)) => step.contains(says),
                (step, says) => step.is_none() && says.is_none(),
            };
            assert!(is_said, "{step:?} and not {says:?}");
            let judged = match (source, path.ends_with("mediated")) {
                (Source::Vf(vf), true) => plane.mediated.ingress(Nanos(0), vf, &frame, &meta),
                _ => plane.direct.ingress(Nanos(0), source, &frame, &meta),
            };
            assert_eq!(why.verdict, judged, "{said}: {source:?} {segments}");
        }
    }
}
