//! What can happen before all guests have come.

use super::*;

/// How it goes if one of two guests does this and the other comes as it should.
fn verdict(spoil: impl FnOnce(&Path)) -> (Result<Summary, String>, Vec<(u64, u64)>) {
    let (outcome, order) = simulate(
        2,
        |_| {},
        |dir, order| {
            spoil(dir);
            vec![sleeper(dir, 2, &[10], order)]
        },
    );
    (outcome.map_err(|error| error.to_string()), order)
}

#[test]
fn who_dies_before_all_have_come_is_named_at_once() {
    let (outcome, order) = verdict(|dir| LinuxGuest::connect(dir, 1).say(Op::Start, 1));
    assert_eq!(
        outcome.unwrap_err(),
        "guest 1 has died before it started, at 0 ns of virtual time"
    );
    assert!(order.is_empty());
}

#[test]
fn who_talks_nonsense_before_all_have_come_is_named_at_once() {
    for len in [LEN, LEN - 1] {
        let (outcome, _) = verdict(|dir| {
            let mut bad = LinuxGuest::connect(dir, 1);
            bad.stream.write_all(&vec![7; len]).unwrap();
        });
        let verdict = outcome.unwrap_err();
        let start = "guest without an ID says what is no message";
        assert!(verdict.starts_with(start), "{verdict}");
    }
}

#[test]
fn who_only_looks_whether_there_is_a_calendar_does_no_harm() {
    let (outcome, order) = simulate(
        1,
        |_| {},
        |dir, order| {
            drop(UnixStream::connect(dir.join("calendar")));
            vec![sleeper(dir, 2, &[10], order)]
        },
    );
    assert!(outcome.unwrap().faults.is_empty());
    assert_eq!(order, [(2, 0), (2, 10)]);
}

#[test]
fn half_a_message_is_none() {
    let (outcome, order) = simulate(
        2,
        |_| {},
        |dir, order| {
            let mut bad = LinuxGuest::connect(dir, 1);
            let bad = std::thread::spawn(move || {
                bad.start();
                bad.stream.write_all(&[0; 3]).unwrap();
            });
            vec![bad, sleeper(dir, 2, &[10], order)]
        },
    );
    let faults = outcome.unwrap().faults;
    assert!(
        faults[0].starts_with("guest 1 says what is no message"),
        "{faults:?}"
    );
    assert_eq!(order, [(2, 0), (2, 10)]);
}
