//! Each driver with random bytes, and with the inputs that are kept. Has no rules of its own.

use std::path::Path;

use proptest::prelude::*;
use vf_fuzz_drivers as drivers;

/// How many random inputs a driver gets; some of them open sockets.
fn cases(name: &str) -> u32 {
    match name {
        "time_travel" => 40,
        "config_file" | "control_words" | "pcidev" | "session" => 200,
        _ => 400,
    }
}

fn random_bytes(name: &str, drive: drivers::Driver) {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(cases(name))
    };
    let inputs = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(any::<u8>(), 0..1500),
    ];
    proptest!(config, |(data in inputs)| drive(&data));
}

macro_rules! drivers {
    ($($name:ident: $drive:path;)*) => {
        $(#[test]
        fn $name() {
            random_bytes(stringify!($name), $drive);
        })*
    };
}

drivers! {
    session: drivers::session::drive;
    split_walk: drivers::rings::drive_split;
    packed_walk: drivers::rings::drive_packed;
    net_header: drivers::net_header::drive;
    judge: drivers::judge::drive;
    control_queue: drivers::control_queue::drive;
    control_words: drivers::control_words::drive;
    config_file: drivers::config_file::drive;
    time_travel: drivers::time_travel::drive;
    vfio_user: drivers::vfio_user::drive;
    pcidev: drivers::pcidev::drive;
}

/// What fuzzers have found: inputs that reach much, and those that once broke a rule.
#[test]
fn kept_inputs() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, drive) in drivers::ALL {
        let folder = kept.join(name);
        let files = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{name}: {why}"));
        let mut count = 0;
        for file in files {
            let path = file.unwrap().path();
            println!("{}", path.display());
            drive(&std::fs::read(path).unwrap());
            count += 1;
        }
        assert!(count > 0, "{name} has no kept inputs");
    }
}
