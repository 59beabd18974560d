//! What `max_tx_rate` and `min_tx_rate` come to end to end: TCP of guests on the virtual clock, on both paths, over the wire and
//! from VF to VF, with frames of several lengths and super-frames, and while rates and paths change.

// All of it is test code.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use vf_lab::scenario::{Options, ScenarioOutcome, ScenarioPlan, run};

/// A limit and what is done to it, on one kind of guest.
#[derive(Clone, Copy, Debug)]
struct Case {
    path: &'static str,
    /// From VF to VF of one NIC, or else over the wire.
    inside: bool,
    mtu: u16,
    offloads: &'static str,
}

impl Case {
    /// Payload of a rate on the wire, where a segment has 40 bytes of headers, and an Ethernet header, FCS, preamble and gap.
    fn goodput(&self, mbps: f64) -> f64 {
        let mtu = f64::from(self.mtu);
        mbps * (mtu - 40.0) / (mtu + 38.0)
    }

    /// The file of a run until this time, of a sender whose VF has these settings, and of these events: `ms` and what is done to the NIC then.
    fn file(&self, until: &str, settings: &str, events: &[(u64, String)]) -> String {
        let Case {
            path,
            inside,
            mtu,
            offloads,
        } = self;
        let (nic, vf) = if *inside { ("a", 1) } else { ("b", 0) };
        let mut file = format!("until = '{until}'\n");
        for name in ["a", "b"] {
            let _ = write!(
                file,
                "[[nic]]\nname = '{name}'\nmtu = 9000\noffloads = '{offloads}'\n"
            );
            if name == "a" {
                let _ = write!(file, "[[nic.vf]]\nindex = 0\npath = '{path}'\n{settings}\n");
                let _ = write!(file, "[[nic.vf]]\nindex = 1\npath = '{path}'\n");
            }
        }
        let _ = write!(
            file,
            "[[wire]]\nbetween = ['a', 'b']\n\
             [[guest]]\nname = 'left'\nnic = 'a'\naddress = '10.0.0.1/24'\nmtu = {mtu}\n\
             [[guest]]\nname = 'right'\nnic = '{nic}'\nvf = {vf}\naddress = '10.0.0.2/24'\nmtu = {mtu}\n\
             [[job]]\nguest = 'left'\nat = '1ms'\nsend = {{ to = 'right' }}\n"
        );
        for (ms, words) in events {
            let _ = write!(
                file,
                "[[event]]\nat = '{ms}ms'\nnic = 'a'\ndo = '{words}'\n"
            );
        }
        file
    }

    /// That `left` has this rate on the wire within 1 % between these times.
    fn expect(&self, from: u64, to: u64, mbps: f64) -> String {
        let goodput = self.goodput(mbps);
        let (min, max) = (goodput * 0.99, goodput * 1.01);
        format!(
            "[[expect]]\ngoodput = 'left'\nfrom = '{from}ms'\nto = '{to}ms'\nmin = '{min:.1}M'\nmax = '{max:.1}M'\n"
        )
    }
}

/// Runs a file, all of whose expectations must come out.
#[track_caller]
fn comes_out(file: &str, what: &impl std::fmt::Debug) -> ScenarioOutcome {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rates.toml");
    std::fs::write(&path, file).unwrap();
    let plan = ScenarioPlan::load(&path, None, None).unwrap();
    let outcome = run(&plan, Options::default(), |_| {}).unwrap();
    let failed: Vec<_> = outcome.failed().map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{what:?}: {failed:?}");
    assert_eq!(outcome.faults, [""; 0], "{what:?}");
    outcome
}

/// Every kind of guest that a limit is tried on.
fn cases() -> impl Iterator<Item = Case> {
    let paths = ["direct", "mediated"].into_iter();
    let inside = paths.flat_map(|path| [(path, false), (path, true)]);
    let guests = [(600, "csum"), (1500, "csum"), (9000, "csum"), (1500, "tso")];
    inside.flat_map(move |(path, inside)| {
        guests.map(|(mtu, offloads)| Case {
            path,
            inside,
            mtu,
            offloads,
        })
    })
}

#[test]
fn a_limit_of_1000_is_met_within_1_percent_over_a_second() {
    for case in cases() {
        let file = case.file("1.1s", "max_tx_rate = 1000", &[]) + &case.expect(100, 1100, 1000.0);
        comes_out(&file, &case);
    }
}

#[test]
fn a_limit_holds_from_its_command_on() {
    for case in cases().filter(|case| case.mtu == 1500) {
        let set = |ms: u64, rate: u64| (ms, format!("vf 0 set max_tx_rate {rate}"));
        // From a low one to a high one, too: what a super-frame has taken at the old rate is not held against the new one for long.
        let events = [set(300, 2000), set(500, 10), set(600, 500)];
        let file = case.file("1s", "max_tx_rate = 1000", &events)
            + &case.expect(100, 300, 1000.0)
            + &case.expect(300, 500, 2000.0)
            + &case.expect(600, 1000, 500.0);
        comes_out(&file, &case);
    }
}

#[test]
fn changing_rates_and_paths_all_the_time_fills_no_bucket() {
    for case in cases().filter(|case| case.mtu == 1500) {
        let at = |n: u64| 100 + 5 * n;
        let paths = ["mediated", "direct"];
        let flips = (0..100).map(|n| (at(n), format!("vf 0 set path {}", paths[n as usize % 2])));
        let flips: Vec<_> = flips.collect();
        let file =
            case.file("600ms", "max_tx_rate = 1000", &flips) + &case.expect(100, 600, 1000.0);
        comes_out(&file, &case);
        let rates = (0..100).map(|n| (at(n), format!("vf 0 set max_tx_rate {}", 990 + n % 2 * 20)));
        let rates: Vec<_> = rates.collect();
        let file =
            case.file("600ms", "max_tx_rate = 1000", &rates) + &case.expect(100, 600, 1000.0);
        comes_out(&file, &case);
    }
}

/// Four guests of NIC a that send as fast as they can, each with its MTU and its VF's settings, to guests of NIC b.
fn overload(mtus: [u16; 4], settings: [&str; 4], offloads: &str) -> String {
    let mut file = "until = '400ms'\n".to_owned();
    for name in ["a", "b"] {
        let _ = write!(
            file,
            "[[nic]]\nname = '{name}'\nvfs = 4\nmtu = 9000\noffloads = '{offloads}'\n"
        );
        if name == "a" {
            for (vf, settings) in settings.iter().enumerate() {
                let _ = write!(file, "[[nic.vf]]\nindex = {vf}\n{settings}\n");
            }
        }
    }
    file += "[[wire]]\nbetween = ['a', 'b']\n";
    for (vf, mtu) in mtus.iter().enumerate() {
        for (nic, net) in [("a", 1), ("b", 2)] {
            let _ = write!(
                file,
                "[[guest]]\nname = '{nic}{vf}'\nnic = '{nic}'\nvf = {vf}\naddress = '10.0.0.{net}{vf}/24'\nmtu = {mtu}\n"
            );
        }
        let _ = write!(
            file,
            "[[job]]\nguest = 'a{vf}'\nat = '1ms'\nsend = {{ to = 'b{vf}' }}\n"
        );
    }
    file
}

/// That a guest has at least 95 % of what its VF is guaranteed.
fn guaranteed(vf: usize, mtu: u16, mbps: f64) -> String {
    let case = Case {
        path: "",
        inside: false,
        mtu,
        offloads: "",
    };
    let min = case.goodput(mbps) * 0.95;
    format!("[[expect]]\ngoodput = 'a{vf}'\nfrom = '100ms'\nmin = '{min:.1}M'\n")
}

const FULL_WIRE: &str = "[[expect]]\nlink_busy = 'a'\nfrom = '100ms'\nmin = 0.99\n";
const FULL_CPU: &str = "[[expect]]\nhypervisor_busy = 'a'\nfrom = '100ms'\nmin = 0.99\n";

#[test]
fn a_guarantee_is_kept_on_a_full_wire_on_the_direct_path() {
    let settings = ["min_tx_rate = 4000", "min_tx_rate = 2000", "", ""];
    for (mtus, offloads) in [
        ([1500; 4], "csum"),
        ([600, 1500, 9000, 9000], "csum"),
        ([1500; 4], "tso"),
    ] {
        let file = overload(mtus, settings, offloads)
            + &guaranteed(0, mtus[0], 4000.0)
            + &guaranteed(1, mtus[1], 2000.0)
            + FULL_WIRE;
        comes_out(&file, &(mtus, offloads));
    }
}

#[test]
fn a_guarantee_is_kept_on_a_full_wire_on_the_mediated_path() {
    // Others on the same path, and one who goes straight: with frames so long that the hypervisor is no bottleneck.
    let mediated = "path = 'mediated'";
    let sure = "path = 'mediated'\nmin_tx_rate = 4000";
    for settings in [
        [sure, mediated, mediated, ""],
        [sure, "", "", ""],
        [sure, mediated, mediated, mediated],
        [sure, mediated, "min_tx_rate = 4000", mediated],
    ] {
        let mut file =
            overload([9000; 4], settings, "csum") + &guaranteed(0, 9000, 4000.0) + FULL_WIRE;
        if settings[2].contains("min") {
            file += &guaranteed(2, 9000, 4000.0);
        }
        comes_out(&file, &settings);
    }
}

#[test]
fn a_guarantee_is_kept_when_the_hypervisor_is_the_bottleneck() {
    let mediated = "path = 'mediated'";
    let settings = [
        "path = 'mediated'\nmin_tx_rate = 2000",
        mediated,
        mediated,
        mediated,
    ];
    for mtus in [[600; 4], [1500, 600, 600, 600]] {
        let file = overload(mtus, settings, "csum") + &guaranteed(0, mtus[0], 2000.0) + FULL_CPU;
        comes_out(&file, &mtus);
    }
}
