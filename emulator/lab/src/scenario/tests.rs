//! Files that are refused, and short runs of files that are not.

use std::fs::File;
use std::path::Path;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use vf_model::{Nanos, Profile};
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::provenance::Provenance;
use vf_model::duration::Duration;

/// Two NICs with a wire between them and a guest on each.
const PAIR: &str = "\
until = '10ms'
[hypervisor]
cpu = 'model'
[[nic]]
name = 'a'
vfs = 1
[[nic]]
name = 'b'
vfs = 1
[[wire]]
between = ['a', 'b']
[[guest]]
name = 'left'
nic = 'a'
address = '10.0.0.1/24'
[[guest]]
name = 'right'
nic = 'b'
address = '10.0.0.2/24'
";

fn parse(sections: &str) -> Result<ScenarioPlan, LoadError> {
    ScenarioPlan::parse(
        Path::new("test.toml"),
        &format!("{PAIR}{sections}"),
        None,
        None,
    )
}

/// The same of guests that send segments as the wire has them.
fn outcome_of_segments(sections: &str, options: Options) -> ScenarioOutcome {
    let text = PAIR.replace("vfs = 1\n", "vfs = 1\noffloads = 'csum'\n") + sections;
    let plan = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap();
    run(&plan, options, |_| {}).unwrap()
}

fn outcome(sections: &str, options: Options) -> ScenarioOutcome {
    run(&parse(sections).unwrap(), options, |_| {}).unwrap()
}

#[test]
fn mistakes_are_refused_in_one_line_that_says_where() {
    let job = "[[job]]\nguest = 'left'\nat = '0s'\n";
    let expect = "[[job]]\nguest = 'left'\nat = '0s'\nsend = { to = 'right' }\n[[expect]]\n";
    let event = "[[event]]\nname = 'e'\nat = '1ms'\nnic = 'a'\ndo = 'vf 0 set trust on'\n";
    let frame = "[[frame]]\nname = 'f'\nat = '1ms'\nnic = 'a'\nsend = 'from vf0 dst broadcast'\n";
    for (section, says) in [
        ("[[job", "test.toml: line 20"),
        ("[[jobs]]", "line 20: unknown field `jobs`"),
        ("[[guest]]\nname = 'x'", "line 20: missing field `address`"),
        (
            "[[guest]]\nname = 'left'\nnic = 'a'\naddress = '10.0.0.3/24'",
            "line 20: guest 'left' is there already",
        ),
        (
            "[[guest]]\nname = 'x'\nnic = 'c'\naddress = '10.0.0.3/24'",
            "nic 'c': there are a, b",
        ),
        (
            "[[guest]]\nname = 'x'\naddress = '10.0.0.3/24'",
            "nic: say which",
        ),
        (
            "[[guest]]\nname = 'x'\nnic = 'a'\nvf = 1\naddress = '10.0.0.3/24'",
            "vf = 1",
        ),
        (
            "[[guest]]\nname = 'x'\nnic = 'a'\naddress = '10.0.0.3/24'",
            "'a vf0' is there already",
        ),
        (
            "[[guest]]\nname = 'x y'\nnic = 'a'\naddress = '10.0.0.3/24'",
            "letters",
        ),
        (
            "[[job]]\nguest = 'x'\nat = '0s'",
            "line 20: guest 'x': there are left, right",
        ),
        (
            "[[job]]\nguest = 'left'\nat = 'noon'",
            "line 22: time 'noon'",
        ),
        (
            "[[job]]\nguest = 'left'\nat = '11ms'",
            "at = 11ms: the scenario ends before",
        ),
        (job, "one of run, send and ping"),
        (
            &format!("{job}ping = {{ to = 'right' }}\n[[expect]]\ngoodput = 'left'\nmax = '1G'"),
            "line 24: goodput of left: it is a ping, which has none",
        ),
        (
            &format!("{job}ping = {{ to = 'right' }}\n[[expect]]\nretransmits = 'left'\nmax = 0"),
            "retransmits of left: it is a ping",
        ),
        (
            &format!("{expect}rtt = 'left'\nmax = '1ms'"),
            "line 24: rtt of left: it is a send, which has none: a ping has",
        ),
        (
            &format!("{expect}exit = 'left'"),
            "exit of left: it sends until the scenario ends and has none: give it bytes or for",
        ),
        (
            "[[event]]\nat = '1ms'\nnic = 'a'\ndo = 'link set dev b down'",
            "nic = a: its command says another, behind dev",
        ),
        (
            "[[event]]\nat = '1ms'\ndo = 'bridge link set dev c hwmode vepa'",
            "nic 'c': there are a, b",
        ),
        (
            "[[event]]\nat = '1ms'\nguest = 'left'",
            "an event has do; or vf and ask",
        ),
        (
            "[[event]]\nat = '1ms'\nguest = 'middle'\nfront_end = 'connect'",
            "guest 'middle': there are left, right",
        ),
        (
            "[[event]]\nat = '1ms'\nguest = 'left'\nfront_end = 'sleep'",
            "unknown variant `sleep`, expected `disconnect` or `connect`",
        ),
        (
            &format!("{job}run = 'ls'"),
            "only Linux guests have a shell",
        ),
        (
            &format!("{job}send = {{ to = 'left' }}"),
            "to = left: another guest",
        ),
        (
            &format!("{job}send = {{ to = 'right', bytes = 0 }}"),
            "bytes = 0",
        ),
        (
            &format!("{job}send = {{ to = 'right', bytes = 1, for = '1s' }}"),
            "bytes or for",
        ),
        (
            &format!("{job}send = {{ to = 'right', streams = 65 }}"),
            "streams = 65",
        ),
        (
            &format!("{job}ping = {{ to = 'right', count = 0 }}"),
            "count = 0",
        ),
        (
            &format!("{job}port = 5\nping = {{ to = 'right' }}"),
            "only beside run",
        ),
        (
            "[[event]]\nat = '1ms'\ndo = 'link set down'",
            "nic: say which",
        ),
        (
            "[[event]]\nat = '1ms'\nnic = 'a'\ndo = 'vf 0 set path fast'",
            "path 'fast': direct, mediated or auto",
        ),
        (
            "[[event]]\nat = '1ms'\nnic = 'a'\ndo = 'vf 3 set path direct'",
            "line 20: vf3: the VFs of this NIC are 0 to 0",
        ),
        (
            "[[event]]\nat = '1ms'\nnic = 'a'\ndo = 'vf 0 vlan del 7'",
            "there is no such filter",
        ),
        (expect, "one of goodput"),
        (expect, "bottleneck, reaches, answer"),
        (
            &format!("{expect}goodput = ['left', 'left']\nmin = '1G'"),
            "goodput = \"left\": each job once",
        ),
        (
            &format!("{event}{event}"),
            "line 25: event 'e' is there already: each has a name of its own",
        ),
        (
            &format!("{event}[[expect]]\nanswer = 'e'\nis = ' '"),
            "line 25: is = \"\": a part of the answer",
        ),
        (
            &format!("{expect}goodput = 'x'\nmin = '1G'"),
            "goodput 'x': there are left",
        ),
        (&format!("{expect}goodput = 'left'"), "min, max or both"),
        (
            &format!("{expect}goodput = 'left'\nmin = 'fast'"),
            "a rate such as",
        ),
        (
            &format!("{expect}goodput = 'left'\nmin = 3"),
            "a rate such as",
        ),
        (
            &format!("{expect}goodput = 'left'\nmin = '2G'\nmax = '1G'"),
            "min is above max",
        ),
        (
            &format!("{expect}goodput = 'left'\nmin = '1G'\nfrom = '2ms'\nto = '2ms'"),
            "from = 2ms",
        ),
        (
            &format!("{expect}goodput = 'left'\nretransmits = 'left'\nmax = 0"),
            "one of goodput",
        ),
        (
            &format!("{expect}goodput = 'left'\nnic = 'a'\nmax = 0"),
            "only drops",
        ),
        (
            &format!("{expect}drops = 'bad luck'\nnic = 'a'\nmax = 0"),
            "there are any, runt",
        ),
        (
            &format!("{expect}drops = 'any'\nnic = 'a'\nvf = 1\nmax = 0"),
            "vf = 1",
        ),
        (
            &format!("{expect}bottleneck = 'disk'"),
            "hypervisor, link or neither",
        ),
        (
            &format!("{expect}exit = 'left'\nmax = 0")
                .replace("to = 'right'", "to = 'right', bytes = 1"),
            "not between bounds",
        ),
        (
            &format!("{expect}link_busy = 'a'\nmax = 2"),
            "a share from 0 to 1",
        ),
        (
            "[[event]]\nat = '1ms'\nnic = 'a'\nask = 'mode promisc'",
            "an event has do; or vf and ask",
        ),
        (
            "[[event]]\nat = '1ms'\nnic = 'a'\nvf = 0\nask = 'prmisc'",
            "request 'prmisc': did you mean 'promisc'? reset, mac,",
        ),
        (
            "[[frame]]\nname = 'f'\nat = '1ms'\nnic = 'a'\nsend = 'from wire dst vf0'",
            "from a VF that a [[guest]] is on",
        ),
        (
            "[[frame]]\nname = 'f'\nat = '1ms'\nnic = 'a'\nsend = 'from vf0 to vf0'",
            "word 'to': hex, dst,",
        ),
        (
            &format!("{frame}[[expect]]\nreaches = 'g'\nreceivers = []"),
            "reaches 'g': there are f",
        ),
        (
            &format!("{frame}[[expect]]\nreaches = 'f'\nreceivers = ['x']"),
            "receivers 'x': there are left, right",
        ),
        (
            &format!("{frame}[[expect]]\nreaches = 'f'"),
            "reaches and receivers belong together",
        ),
        (
            "[[expect]]\nanswer = 'e'\nis = 'done'",
            "answer 'e': there are",
        ),
    ] {
        let error = parse(section).unwrap_err().to_string();
        assert!(error.contains(says), "{section:?} gave {error:?}");
        assert!(error.starts_with("test.toml: "), "{error}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

/// A frame is told by its bytes whatever its tags, an event with a name may be refused, and who asks is a driver.
#[test]
fn who_receives_a_frame_and_what_is_answered() {
    let outcome = outcome(
        "[[frame]]\nname = 'to all'\nat = '2ms'\nnic = 'a'\nsend = 'from vf0 dst broadcast'\n\
         [[frame]]\nname = 'again'\nat = '4ms'\nnic = 'a'\nsend = 'from vf0 dst broadcast'\n\
         [[frame]]\nname = 'to nobody'\nat = '5ms'\nnic = 'a'\nsend = 'from vf0 dst 02:00:00:00:00:99'\n\
         [[event]]\nat = '1ms'\nnic = 'a'\ndo = 'vf 0 set vlan 10'\n\
         [[event]]\nat = '1ms'\nnic = 'b'\ndo = 'vf 0 set vlan 10'\n\
         [[event]]\nname = 'no'\nat = '1ms'\nnic = 'b'\ndo = 'vf 0 vlan add 7'\n\
         [[event]]\nname = 'yes'\nat = '3ms'\nnic = 'b'\nvf = 0\nask = 'mode nobcast'\n\
         [[event]]\nat = '3ms'\nnic = 'b'\ndo = 'vf 0 set trust on'\n\
         [[expect]]\nreaches = 'to all'\nreceivers = ['right']\n\
         [[expect]]\nreaches = 'again'\nreceivers = []\n\
         [[expect]]\nreaches = 'to nobody'\nreceivers = ['wire']\n\
         [[expect]]\nanswer = 'no'\nis = 'refused: a VF has a port VLAN'\n\
         [[expect]]\nanswer = 'yes'\nis = 'granted'\n",
        Options::default(),
    );
    let failed: Vec<_> = outcome.failed().map(ToString::to_string).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(
        failed[0].ends_with("again: wire, want nobody"),
        "{failed:?}"
    );
    assert_eq!(outcome.faults, [""; 0]);
    let got: Vec<_> = outcome
        .expectations
        .iter()
        .map(|e| e.got.as_str())
        .collect();
    assert_eq!(got[..3], ["right", "wire", "wire"]);
}

#[test]
fn what_belongs_to_a_wall_clock_is_refused() {
    for (text, says) in [
        ("until = '1s'\n[[nic]]\nname = 'a'\ntap = 't'", "tap"),
        (
            "until = '1s'\n[hypervisor]\ncpu = 'measured'\n[[nic]]\nname = 'a'",
            "cpu = \"measured\": the virtual clock has no machine to measure",
        ),
        (
            "until = '1s'\n[[nic]]\nname = 'a'\nsocket_role = 'client'",
            "sockets",
        ),
        (
            "until = '1s'\n[[nic]]\nname = 'a'\n[[nic.vf]]\nindex = 0\ntap = 'eth0'\nnetns = 'b'",
            "tap, netns: the host's devices",
        ),
        ("until = '0s'\n[[nic]]\nname = 'a'", "until = 0ns"),
        ("until = '1s'\n[[nic]]\nname = 'a'", "no [[guest]]"),
        ("until = '1s'", "no [[nic]]"),
        ("[[nic]]\nname = 'a'", "missing field `until`"),
    ] {
        let error = ScenarioPlan::parse(Path::new("test.toml"), text, None, None).unwrap_err();
        assert!(error.to_string().contains(says), "{text:?} gave {error}");
    }
}

#[test]
fn a_transfer_is_measured_and_ends() {
    let outcome = outcome_of_segments(
        "[[job]]\nguest = 'left'\nat = '1ms'\nsend = { to = 'right', bytes = 5_000_000, streams = 2 }\n\
         [[job]]\nname = 'never'\nguest = 'right'\nat = '2ms'\nsend = { to = 'left', bytes = 1_000_000_000 }\n\
         [[job]]\nname = 'short'\nguest = 'right'\nat = '2ms'\nsend = { to = 'left', for = '3ms' }\n\
         [[expect]]\nexit = 'left'\n[[expect]]\nexit = 'short'\n\
         [[expect]]\ngoodput = 'left'\nfrom = '2ms'\nto = '4ms'\nmin = '7G'\nmax = '9.5G'\n\
         [[expect]]\nlink_busy = 'a'\nfrom = '2ms'\nto = '4ms'\nmin = 0.99\n\
         [[expect]]\nbottleneck = 'link'\nfrom = '2ms'\nto = '4ms'\n\
         [[expect]]\ngoodput = ['left', 'short', 'never']\nfrom = '2ms'\nto = '4ms'\nmin = '9.6G'\n\
         [[expect]]\nretransmits = ['left', 'short']\nmax = 0\n\
         [[expect]]\ndrops = 'any'\nnic = 'a'\nmax = 0\n\
         [[expect]]\nexit = 'never'\n",
        Options::default(),
    );
    assert_eq!(outcome.jobs[0].bytes, 5_000_000);
    let failed: Vec<_> = outcome.failed().map(ToString::to_string).collect();
    assert_eq!(
        failed,
        ["line 67: exit code of never: has not ended, want 0"]
    );
    let text = text(&outcome);
    assert!(
        text.contains("FAIL  exit code of never: has not ended (want 0)"),
        "{text}"
    );
}

#[test]
fn an_echo_takes_as_long_as_its_frames() {
    let ping = |path: &str| {
        outcome(
            &format!(
                "[[event]]\nat = '0s'\nnic = 'b'\ndo = 'vf 0 set path {path}'\n\
                 [[job]]\nguest = 'left'\nat = '1ms'\nping = {{ to = 'right', count = 3 }}\n\
                 [[expect]]\nexit = 'left'\n"
            ),
            Options::default(),
        )
    };
    let direct = ping("direct");
    assert!(direct.failed().next().is_none());
    // 14 + 20 + 64 bytes, FCS, preamble and gap at 10 Gb/s each way, and 500 ns of propagation.
    let once = (98 + 4 + 20) * 8 / 10 + 500;
    assert_eq!(direct.jobs[0].rtt_ns.len(), 3);
    for rtt in &direct.jobs[0].rtt_ns[1..] {
        assert!(
            (2 * once..2 * once + 10).contains(rtt),
            "{rtt}, not {}",
            2 * once
        );
    }
    let mediated = ping("mediated");
    assert!(mediated.jobs[0].rtt_ns[1] > direct.jobs[0].rtt_ns[1]);
}

/// What a guest feels is a part of it, wherever the request waits: in its ring for a rate, or where an impairment holds it back.
#[test]
fn what_waits_in_front_of_the_nic_is_a_part_of_an_echo() {
    for (said, least) in [
        ("netem = 'delay 1ms'", 1_000_000),
        // 100 frames of 1514 bytes at 100 Mb/s are ahead of it.
        ("max_tx_rate = 100", 1_000_000),
    ] {
        // A VF of a is said of behind its own section.
        let text = PAIR
            .replacen(
                "vfs = 1\n",
                &format!("vfs = 1\n[[nic.vf]]\nindex = 0\n{said}\n"),
                1,
            )
            .replace("10ms", "100ms")
            + "[[job]]\nguest = 'left'\nat = '1ms'\nsend = { to = 'right', for = '20ms' }\n\
               [[job]]\nname = 'echoes'\nguest = 'left'\nat = '5ms'\nping = { to = 'right', count = 3, interval = '2ms' }\n\
               [[expect]]\nexit = 'echoes'\n";
        let plan = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap();
        let outcome = run(&plan, Options::default(), |_| {}).unwrap();
        let rtts = &outcome.jobs[1].rtt_ns;
        assert!(
            rtts.len() == 3 && rtts.iter().all(|rtt| *rtt > least),
            "{said}: {rtts:?}"
        );
    }
}

/// Where it is lost does not matter: at its own VF, which the watch of frames does not see, or on the way back.
#[test]
fn echo_requests_without_a_reply_are_told_in_the_report_the_page_and_json() {
    let ping = "[[job]]\nguest = 'left'\nat = '1ms'\nping = { to = 'right', count = 40, interval = '100us' }\n";
    for netem in [
        "vf 0 set netem loss 30% seed 5",
        "vf 0 set netem ingress loss 30% seed 5",
        "link set both loss 15% seed 5",
    ] {
        let event = format!("[[event]]\nat = '1.05ms'\nnic = 'a'\ndo = '{netem}'\n");
        let outcome = outcome(&format!("{ping}{event}"), Options::default());
        let job = &outcome.jobs[0];
        let unanswered = job.unanswered.unwrap();
        assert_eq!(job.rtt_ns.len() as u64 + unanswered, 40, "{netem}");
        assert!((4..25).contains(&unanswered), "{netem}: {unanswered}");
        let said = format!("{unanswered} of 40");
        let report = text(&outcome);
        assert!(
            report.contains(&format!(", {said} echoes unanswered\n")),
            "{report}"
        );
        let made_by = Provenance::here("0", None, false);
        assert!(html(&outcome, &made_by).contains(&format!("<td>{said}</td>")));
        assert_eq!(serde_json::to_value(job).unwrap()["unanswered"], unanswered);
    }
    // Those that come when nobody looks any more, and those that are never asked for.
    let late = ping.replace("'1ms'", "'8.05ms'");
    let whole = outcome(&late, Options::default());
    assert_eq!(
        whole.jobs[0].rtt_ns.len() as u64 + whole.jobs[0].unanswered.unwrap(),
        20
    );
    let send = "[[job]]\nguest = 'left'\nat = '1ms'\nsend = { to = 'right', bytes = 1000 }\n";
    let none = outcome(send, Options::default());
    assert_eq!(none.jobs[0].unanswered, None);
    assert!(!text(&none).contains("echoes"));
}

#[test]
fn a_family_with_fewer_vfs_than_the_file_has_is_refused() {
    let text = PAIR.replacen("vfs = 1", "vfs = 16", 1);
    let of = |profile| ScenarioPlan::parse(Path::new("test.toml"), &text, None, Some(profile));
    let error = of(Profile::Igb).unwrap_err().to_string();
    assert_eq!(
        error,
        "test.toml: a has 16 VFs, and a NIC of profile igb 1 to 7"
    );
    assert!(of(Profile::Ixgbe).is_ok());
}

#[test]
fn a_family_without_the_files_devices_is_refused() {
    let device = "vfs = 1\n[[nic.vf]]\nindex = 0\ndevice = 'sfc'\n";
    let text = PAIR.replacen("vfs = 1\n", device, 1);
    let of = |profile| {
        let kind = Some(GuestKind::Linux);
        ScenarioPlan::parse(Path::new("test.toml"), &text, kind, Some(profile))
    };
    let error = of(Profile::Igb).unwrap_err().to_string();
    assert!(
        error.starts_with("test.toml: a vf0: device sfc: VFs of a NIC of profile igb"),
        "{error}"
    );
    assert!(of(Profile::Ef10).is_ok(), "{:?}", of(Profile::Ef10).err());
}

#[test]
fn every_echo_is_held_to_the_bounds() {
    // The first reply comes soon after that of ARP, and its interrupt is held back; the second takes 1.2 us.
    let outcome = outcome(
        "[[job]]\nguest = 'left'\nat = '1ms'\nping = { to = 'right', count = 2, interval = '3ms' }\n\
         [[expect]]\nrtt = 'left'\nmin = '5us'\n\
         [[expect]]\nrtt = 'left'\nmax = '5us'\n\
         [[expect]]\nrtt = 'left'\nmin = '5us'\nmax = '1s'\n\
         [[expect]]\nrtt = 'left'\nmin = '1us'\nmax = '1s'\n",
        Options::default(),
    );
    let shown = |n: usize| Duration(Nanos(outcome.jobs[0].rtt_ns[n])).to_string();
    let got: Vec<_> = outcome.failed().map(|judged| judged.got.clone()).collect();
    assert_eq!(got, [shown(1), shown(0), shown(1)]);
}

#[test]
fn commands_hold_from_their_time_on() {
    let outcome = outcome(
        "[[job]]\nguest = 'left'\nat = '0s'\nsend = { to = 'right' }\n\
         [[event]]\nat = '6ms'\nnic = 'b'\ndo = 'link set up'\n\
         [[event]]\nat = '4ms'\nnic = 'b'\ndo = 'link set down'\n\
         [[expect]]\ngoodput = 'left'\nfrom = '2ms'\nto = '4ms'\nmin = '7G'\n\
         [[expect]]\ngoodput = 'left'\nfrom = '4.1ms'\nto = '6ms'\nmax = 0\n\
         [[expect]]\ndrops = 'no_carrier'\nnic = 'a'\nvf = 0\nto = '4ms'\nmax = 0\n\
         [[expect]]\ndrops = 'no_carrier'\nnic = 'a'\nvf = 0\nfrom = '4ms'\nmin = 1\n",
        Options::default(),
    );
    let failed: Vec<_> = outcome.failed().collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(outcome.events[0].command, "link set down");
}

#[test]
fn the_same_run_twice_to_the_bit() {
    let sections = "snaplen = 60\n".to_owned()
        + PAIR
        + "[[job]]\nguest = 'left'\nat = '0s'\nsend = { to = 'right' }\n\
           [[event]]\nat = '4ms'\nnic = 'a'\ndo = 'vf 0 set path mediated'\n";
    let once = |sections: &str| {
        let dir = tempfile::tempdir().unwrap();
        let plan = ScenarioPlan::parse(Path::new("test.toml"), sections, None, None).unwrap();
        let options = Options {
            out: Some(dir.path().join("new/folder")),
            ..Options::default()
        };
        let outcome = run(&plan, options, |_| {}).unwrap();
        let read = |capture: &Capture| std::fs::read(&capture.file).unwrap();
        let files: Vec<_> = outcome.captures.iter().map(read).collect();
        (outcome.digest, files)
    };
    let first = once(&sections);
    assert_eq!(first.1.len(), 2);
    assert_eq!(first, once(&sections));
    let other = once(&sections.replace("'4ms'", "'4.000001ms'"));
    assert_ne!(first.0, other.0);
    assert_ne!(first.1, other.1);
}

#[test]
fn tcp_gets_through_a_wire_that_loses_frames_and_a_seed_loses_the_same() {
    let job = "[[job]]\nguest = 'left'\nat = '0s'\nsend = { to = 'right', bytes = 600000 }\n\
               [[expect]]\ndrops = 'netem_loss'\nnic = 'a'\nmin = 1\n";
    let run_with = |netem: &str, start: &str| {
        let wire = format!("between = ['a', 'b']\n{netem}");
        let sections = PAIR
            .replace("between = ['a', 'b']", &wire)
            .replace("'10ms'", "'60s'");
        let text = format!("{start}{sections}{job}");
        let plan = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap();
        run(&plan, Options::default(), |_| {}).unwrap()
    };
    let words = "netem = 'delay 100us 20us loss 2% duplicate 1% corrupt 1% reorder 5% seed 7'";
    let first = run_with(words, "");
    let failed: Vec<_> = first.failed().collect();
    assert!(failed.is_empty(), "{failed:?}");
    let sent = &first.jobs[0];
    assert_eq!((sent.exit, sent.bytes), (Some(0), 600_000));
    assert!(sent.retransmits > 0);
    assert_eq!(run_with(words, "").digest, first.digest);
    let other = words.replace("seed 7", "seed 8");
    assert_ne!(run_with(&other, "").digest, first.digest);
    // Without one of its own it has the scenario's.
    let unseeded = "netem = 'loss 2%'";
    let of = |start| run_with(unseeded, start).digest;
    assert_eq!(
        of("seed = 3\n"),
        run_with("netem = 'loss 2% seed 3'", "seed = 3\n").digest
    );
    // What does nothing changes nothing.
    let job_alone = |netem| run_with(netem, "").digest;
    assert_eq!(job_alone("netem = 'loss 0%'"), job_alone(""));
}

#[test]
fn impairments_that_come_and_go_do_the_same_in_every_run() {
    let run_with = |at: &str| {
        let events = "[[event]]\nat = '500us'\nnic = 'b'\ndo = 'link set flap up 1ms down 1ms'\n\
            [[event]]\nat = '30ms'\nnic = 'b'\ndo = 'link set flap none'\n\
            [[event]]\nat = '31ms'\nnic = 'a'\ndo = 'link set loss 1% seed 7'\n\
            [[event]]\nat = '31ms'\nnic = 'b'\ndo = 'vf 0 set ingress delay 50us 20us distribution normal loss gemodel 1% 30%'\n\
            [[event]]\nat = '32ms'\nnic = 'b'\ndo = 'vf 0 set path mediated'\n\
            [[event]]\nat = '20s'\nnic = 'a'\ndo = 'link set netem none'\n";
        let job = "[[job]]\nguest = 'left'\nat = '0s'\nsend = { to = 'right', bytes = 3000000 }\n\
            [[expect]]\ndrops = 'netem_loss'\nnic = 'a'\nmin = 1\n\
            [[expect]]\ndrops = 'netem_loss'\nnic = 'b'\nvf = 0\nmin = 1\n\
            [[expect]]\ndrops = 'no_carrier'\nnic = 'a'\nmin = 1\n";
        let text =
            format!("{}{job}{events}", PAIR.replace("'10ms'", "'60s'")).replace("seed 7", at);
        let plan = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap();
        let outcome = run(&plan, Options::default(), |_| {}).unwrap();
        let failed: Vec<_> = outcome.failed().collect();
        assert!(failed.is_empty(), "{failed:?}");
        let sent = &outcome.jobs[0];
        assert_eq!((sent.exit, sent.bytes), (Some(0), 3_000_000));
        outcome.digest
    };
    let first = run_with("seed 7");
    assert_eq!(run_with("seed 7"), first);
    assert_ne!(run_with("seed 8"), first);
}

#[test]
fn a_capture_is_read_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        out: Some(dir.path().to_owned()),
        ..Options::default()
    };
    let outcome = outcome_of_segments(
        "[[job]]\nguest = 'left'\nat = '1ms'\nsend = { to = 'right', bytes = 10000 }\n",
        options,
    );
    let capture = &outcome.captures[0];
    assert!(capture.file.ends_with("a-vf0.pcapng"));
    let mut reader = PcapNgReader::new(File::open(&capture.file).unwrap()).unwrap();
    let (mut frames, mut directions, mut last) = (0, [0, 0], 0);
    while let Some(block) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block.unwrap().into_owned() else {
            continue;
        };
        let EnhancedPacketOption::Flags(direction @ (1 | 2)) = packet.options[0] else {
            panic!("{:?}", packet.options);
        };
        directions[direction as usize - 1] += 1;
        assert_eq!(packet.data.len(), 128.min(packet.original_len as usize));
        let at = u64::try_from(packet.timestamp.as_nanos()).unwrap();
        assert!((last.max(1_000_000)..10_000_000).contains(&at), "{at}");
        last = at;
        frames += 1;
    }
    let interface = format!("{:?}", reader.interfaces());
    assert!(interface.contains("IfName(\"a-vf0\")"), "{interface}");
    assert!(interface.contains("NIC a, VF 0, guest left"), "{interface}");
    assert_eq!(frames, capture.frames);
    assert!(directions[0] >= 4 && directions[1] >= 9, "{directions:?}");
}

/// As a reader of the module `digest` would, who has the files and nothing else.
#[test]
fn the_digest_of_a_vf_comes_out_of_its_capture_again() {
    let dir = tempfile::tempdir().unwrap();
    let sections = "snaplen = 0\n".to_owned()
        + PAIR
        + "[[job]]\nguest = 'left'\nat = '1ms'\nsend = { to = 'right' }\n";
    let plan = ScenarioPlan::parse(Path::new("test.toml"), &sections, None, None).unwrap();
    let options = Options {
        out: Some(dir.path().to_owned()),
        ..Options::default()
    };
    let outcome = run(&plan, options, |_| {}).unwrap();
    assert_eq!(outcome.captures.len(), 2);
    for capture in &outcome.captures {
        let mut reader = PcapNgReader::new(File::open(&capture.file).unwrap()).unwrap();
        let mut records = Vec::new();
        while let Some(block) = reader.next_block() {
            let Block::EnhancedPacket(packet) = block.unwrap().into_owned() else {
                continue;
            };
            let sent = packet.options[0] == EnhancedPacketOption::Flags(2);
            records.extend((packet.timestamp.as_nanos() as u64).to_le_bytes());
            records.push(u8::from(sent));
            records.extend(xxh3_64(&packet.data).to_le_bytes());
        }
        assert!(records.len() > 100 * 17);
        assert_eq!(capture.digest, format!("{:016x}", xxh3_64(&records)));
    }
    assert_ne!(outcome.captures[0].digest, outcome.captures[1].digest);
}

#[test]
fn shipped_scenarios_are_in_order() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/scenarios");
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let scenarios: Vec<_> = files
        .filter(|file| file.extension().is_some_and(|e| e == "toml"))
        .collect();
    assert!(scenarios.len() >= 6);
    for file in scenarios {
        if let Err(error) = ScenarioPlan::load(&file, None, None) {
            panic!("{error}");
        }
    }
}

#[test]
fn a_hypervisor_of_which_nothing_is_said_takes_time() {
    let text = PAIR.replace("[hypervisor]\ncpu = 'model'\n", "")
        + "[[nic.vf]]\nindex = 0\npath = 'mediated'\n\
           [[job]]\nguest = 'left'\nat = '1ms'\nping = { to = 'right', count = 2, interval = '2ms' }\n\
           [[expect]]\nexit = 'left'\n";
    let plan = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap();
    let outcome = run(&plan, Options::default(), |_| {}).unwrap();
    let rtt = outcome.jobs[0].rtt_ns[1];
    // The wire alone takes 1.2 us, each of the two copies of the hypervisor most of one.
    assert!(rtt > 2500, "{rtt} ns");
}

#[test]
fn a_guest_has_the_address_that_its_vf_was_given() {
    let text = PAIR.to_owned()
        + "[[nic.vf]]\nindex = 0\nmac = '02:00:00:00:00:77'\n\
           [[job]]\nguest = 'left'\nat = '1ms'\nsend = { to = 'right', bytes = 100000 }\n\
           [[expect]]\nexit = 'left'\n[[expect]]\ndrops = 'any'\nnic = 'b'\nmax = 0\n";
    let plan = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap();
    let outcome = run(&plan, Options::default(), |_| {}).unwrap();
    let failed: Vec<_> = outcome.failed().collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Both guests on NIC a, of which these lines are said.
fn inside(said: &str, sections: &str) -> ScenarioOutcome {
    let text = PAIR
        .replacen("vfs = 1\n", &format!("vfs = 2\n{said}"), 1)
        .replace("nic = 'b'\naddress", "nic = 'a'\nvf = 1\naddress")
        + sections;
    let plan = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap();
    let outcome = run(&plan, Options::default(), |_| {}).unwrap();
    let failed: Vec<_> = outcome.failed().map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{said}: {failed:?}");
    outcome
}

#[test]
fn from_vf_to_vf_a_frame_takes_what_the_nics_bus_says() {
    let ping = "[[job]]\nguest = 'left'\nat = '1ms'\nping = { to = 'right', count = 3 }\n[[expect]]\nexit = 'left'\n";
    // 98 bytes at PCIe 3.0 x8, PCIe 2.0 x8 and what is said, and the latency behind that.
    for (said, once) in [
        ("", 98 * 8 / 63 + 1000),
        ("profile = 'ixgbe'\n", 98 * 8 / 32 + 1000),
        (
            "loopback_rate = '1G'\ndma_latency = '10us'\n",
            98 * 8 + 10_000,
        ),
        ("loopback_rate = '1G'\ndma_latency = '0ns'\n", 98 * 8),
    ] {
        let outcome = inside(said, ping);
        let rtts = &outcome.jobs[0].rtt_ns[1..];
        for rtt in rtts {
            assert!(
                (2 * once..2 * once + 5).contains(rtt),
                "{said}: {rtt}, {once}"
            );
        }
    }
    // 1460 of 1514 bytes are payload; the acknowledgements take a little of what is left.
    inside(
        "loopback_rate = '10G'\noffloads = 'csum'\n",
        "[[job]]\nguest = 'left'\nat = '1ms'\nsend = { to = 'right' }\n\
         [[expect]]\ngoodput = 'left'\nfrom = '5ms'\nmin = '9.35G'\nmax = '9.65G'\n\
         [[expect]]\ndrops = 'any'\nnic = 'a'\nmax = 0\n",
    );
    let text = PAIR.replacen("vfs = 1\n", "vfs = 1\nloopback_rate = 'fast'\n", 1);
    let error = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap_err();
    assert!(error.to_string().contains("fast"), "{error}");
}

#[test]
fn a_guest_leaves_to_its_nic_what_the_nic_does() {
    let frames = |offloads: &str| {
        let text = PAIR.replace("vfs = 1\n", &format!("vfs = 1\noffloads = '{offloads}'\n"))
            + "[[job]]\nguest = 'left'\nat = '1ms'\nsend = { to = 'right', bytes = 2_000_000 }\n[[expect]]\nexit = 'left'\n";
        let plan = ScenarioPlan::parse(Path::new("test.toml"), &text, None, None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            out: Some(dir.path().to_owned()),
            ..Options::default()
        };
        let outcome = run(&plan, options, |_| {}).unwrap();
        assert_eq!(outcome.failed().count(), 0, "{offloads}");
        let capture = File::open(&outcome.captures[0].file).unwrap();
        let mut reader = PcapNgReader::new(capture).unwrap();
        let mut longest = 0;
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap().into_owned() {
                longest = longest.max(packet.original_len);
            }
        }
        longest
    };
    assert_eq!(frames("csum"), 1514);
    assert_eq!(frames("none"), 1514);
    assert!(frames("tso") > 30_000);
}
