//! The calendar's side of the protocol, with guests of a few lines that speak in messages. Starts no kernel.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vf_model::{Command, Nanos};
use vf_nic::config::{Config, Overrides};
use vf_nic::control::{NicCommand, Request, Response, ask};

use super::message::{LEN, Message, Op};
use super::{Settings, Simulation, SimulationError, Summary};

/// Who ran, and when.
type Order = Arc<Mutex<Vec<(u64, u64)>>>;

struct LinuxGuest {
    stream: UnixStream,
    seq: u32,
    id: u64,
    free_until: u64,
}

impl LinuxGuest {
    fn connect(dir: &Path, id: u64) -> LinuxGuest {
        let stream = UnixStream::connect(dir.join("calendar")).unwrap();
        LinuxGuest {
            stream,
            seq: 0,
            id,
            free_until: 0,
        }
    }

    fn say(&mut self, op: Op, time: u64) {
        self.seq += 1;
        let seq = self.seq;
        let message = Message { op, seq, time };
        self.stream.write_all(&message.to_bytes()).unwrap();
    }

    fn hear(&mut self) -> Message {
        let mut bytes = [0; LEN];
        self.stream.read_exact(&mut bytes).unwrap();
        Message::parse(bytes).unwrap()
    }

    fn ask(&mut self, op: Op, time: u64) -> u64 {
        self.say(op, time);
        let answer = self.hear();
        assert_eq!((answer.op, answer.seq), (Op::Ack, self.seq));
        answer.time
    }

    /// Waits until all have come.
    fn start(&mut self) {
        self.ask(Op::Start, self.id);
        self.ask(Op::GetTimeOfDay, 0);
        assert_eq!(self.ask(Op::Get, 0), 0);
    }

    /// When it is run; it has heard then how far it may go by itself.
    fn sleep_until(&mut self, time: u64) -> u64 {
        self.ask(Op::Request, time);
        self.ask(Op::Wait, u64::MAX);
        self.free_until = self.obey(Op::FreeUntil);
        self.obey(Op::Run)
    }

    fn obey(&mut self, op: Op) -> u64 {
        let told = self.hear();
        assert_eq!(told.op, op);
        let answer = Message {
            op: Op::Ack,
            ..told
        };
        self.stream.write_all(&answer.to_bytes()).unwrap();
        told.time
    }
}

/// A guest that starts and runs at these times.
fn sleeper(dir: &Path, id: u64, times: &'static [u64], order: &Order) -> JoinHandle<()> {
    let mut guest = LinuxGuest::connect(dir, id);
    let order = Arc::clone(order);
    std::thread::spawn(move || {
        guest.start();
        order.lock().unwrap().push((id, 0));
        for time in times {
            let now = guest.sleep_until(*time);
            order.lock().unwrap().push((id, now));
        }
    })
}

/// A simulation and the folder of its sockets.
fn simulation(guests: u16, change: impl FnOnce(&mut Settings)) -> (TempDir, Simulation) {
    let dir = tempfile::tempdir().unwrap();
    let over = Overrides {
        socket_dir: Some(dir.path().to_owned()),
        ..Overrides::default()
    };
    let config = Config::load(None, &over).unwrap();
    let mut settings = Settings {
        calendar: dir.path().join("calendar"),
        guests,
        shared: false,
        until: None,
        watchdog: Duration::from_secs(20),
        moderation: Nanos(0),
        digest: true,
    };
    change(&mut settings);
    let simulation = Simulation::start(&config, settings).unwrap();
    (dir, simulation)
}

/// Runs a simulation with guests that are given the folder of its sockets.
fn simulate(
    guests: u16,
    change: impl FnOnce(&mut Settings),
    connect: impl FnOnce(&Path, &Order) -> Vec<JoinHandle<()>>,
) -> (Result<Summary, SimulationError>, Vec<(u64, u64)>) {
    let (dir, simulation) = simulation(guests, change);
    let order = Order::default();
    let guests = connect(dir.path(), &order);
    let outcome = simulation.run();
    assert!(!dir.path().join("calendar").exists());
    for guest in guests {
        // Some break off on purpose.
        let _ = guest.join();
    }
    let order = order.lock().unwrap().clone();
    (outcome, order)
}

#[test]
fn the_earliest_wish_runs_then_the_lowest_id() {
    let (outcome, order) = simulate(
        3,
        |_| {},
        |dir, order| {
            vec![
                sleeper(dir, 9, &[5, 30], order),
                sleeper(dir, 2, &[5, 7, 7], order),
                sleeper(dir, 4, &[6], order),
            ]
        },
    );
    let summary = outcome.unwrap();
    assert!(summary.faults.is_empty());
    assert_eq!(summary.virtual_time, Nanos(30));
    let expected = [
        (2, 0),
        (4, 0),
        (9, 0),
        (2, 5),
        (9, 5),
        (4, 6),
        (2, 7),
        (2, 7),
        (9, 30),
    ];
    assert_eq!(order, expected);
}

#[test]
fn the_time_may_be_up_before_the_guests() {
    let (outcome, order) = simulate(
        1,
        |settings| settings.until = Some(Nanos(50)),
        |dir, order| vec![sleeper(dir, 1, &[50, 51], order)],
    );
    assert_eq!(outcome.unwrap().virtual_time, Nanos(50));
    assert_eq!(order, [(1, 0), (1, 50)]);
}

#[test]
fn whoever_talks_nonsense_is_named_and_the_others_go_on() {
    for (nonsense, why) in [
        ([7; LEN], "says what is no message"),
        (
            Message {
                op: Op::Update,
                seq: 1,
                time: 1 << 40,
            }
            .to_bytes(),
            "has a time of its own",
        ),
        (
            Message {
                op: Op::Start,
                seq: 1,
                time: 3,
            }
            .to_bytes(),
            "says what it may not say now",
        ),
    ] {
        let (outcome, order) = simulate(
            2,
            |_| {},
            |dir, order| {
                let mut bad = LinuxGuest::connect(dir, 1);
                let bad = std::thread::spawn(move || {
                    bad.start();
                    bad.stream.write_all(&nonsense).unwrap();
                    let _ = bad.stream.read(&mut [0; LEN]);
                });
                vec![bad, sleeper(dir, 2, &[10, 20], order)]
            },
        );
        let summary = outcome.unwrap();
        let [fault] = &summary.faults[..] else {
            panic!("{:?}", summary.faults);
        };
        assert!(fault.starts_with(&format!("guest 1 {why}")), "{fault}");
        assert_eq!(order, [(2, 0), (2, 10), (2, 20)]);
    }
}

#[test]
fn who_dies_asleep_is_named() {
    let (outcome, order) = simulate(
        2,
        |_| {},
        |dir, order| {
            let mut mortal = LinuxGuest::connect(dir, 1);
            let mortal = std::thread::spawn(move || {
                mortal.start();
                mortal.ask(Op::Request, 1000);
                mortal.ask(Op::Wait, 0);
            });
            let mut mourner = LinuxGuest::connect(dir, 2);
            let order = Arc::clone(order);
            vec![std::thread::spawn(move || {
                mourner.start();
                mortal.join().unwrap();
                order.lock().unwrap().push((2, mourner.sleep_until(2000)));
            })]
        },
    );
    let summary = outcome.unwrap();
    assert!(summary.faults[0].starts_with("guest 1 has died"));
    assert_eq!(order.last(), Some(&(2, 2000)));
}

#[test]
fn who_spins_is_named() {
    let (outcome, order) = simulate(
        2,
        |settings| settings.watchdog = Duration::from_secs(1),
        |dir, order| {
            let mut spinner = LinuxGuest::connect(dir, 1);
            let spinner = std::thread::spawn(move || {
                spinner.start();
                // The calendar goes away.
                let _ = spinner.stream.read(&mut [0; LEN]);
            });
            vec![spinner, sleeper(dir, 2, &[10], order)]
        },
    );
    let summary = outcome.unwrap();
    assert_eq!(
        summary.faults,
        ["guest 1 spins: it has run for 1 s without a word, at 0 ns of virtual time"]
    );
    assert_eq!(order, [(2, 0), (2, 10)]);
}

#[test]
fn who_breaks_the_protocol_of_its_vf_is_named() {
    let (outcome, mut order) = simulate(
        2,
        |_| {},
        |dir, order| {
            let mut bad = LinuxGuest::connect(dir, 1);
            let log = Arc::clone(order);
            let socket = dir.join("vf0.sock");
            let bad = std::thread::spawn(move || {
                bad.start();
                bad.sleep_until(5);
                let mut vf = UnixStream::connect(socket).unwrap();
                vf.write_all(&[0xff; 64]).unwrap();
                // Both are closed.
                assert_eq!(bad.stream.read(&mut [0]).unwrap_or(0), 0);
                assert_eq!(vf.read(&mut [0]).unwrap_or(0), 0);
                log.lock().unwrap().push((1, 5));
            });
            vec![bad, sleeper(dir, 2, &[10, 20], order)]
        },
    );
    let faults = outcome.unwrap().faults;
    assert_eq!(faults.len(), 1);
    let start = "guest 1 breaks the protocol of nic0 vf0: malformed message: ";
    assert!(faults[0].starts_with(start), "{faults:?}");
    assert!(
        faults[0].ends_with(", at 5 ns of virtual time"),
        "{faults:?}"
    );
    order.sort_unstable();
    assert_eq!(order, [(1, 5), (2, 0), (2, 10), (2, 20)]);
}

#[test]
fn the_user_may_stop_it_at_any_time() {
    let (dir, mut simulation) = simulation(1, |_| {});
    let (stop, mut on_stop) = UnixStream::pair().unwrap();
    simulation.stop_on(stop);
    let mut guest = LinuxGuest::connect(dir.path(), 1);
    let guest = std::thread::spawn(move || {
        guest.start();
        assert_eq!(guest.sleep_until(7), 7);
        on_stop.write_all(&[0]).unwrap();
        // The calendar goes away.
        assert_eq!(guest.stream.read(&mut [0]).unwrap_or(0), 0);
    });
    let summary = simulation.run().unwrap();
    guest.join().unwrap();
    assert_eq!((summary.virtual_time, summary.faults), (Nanos(7), vec![]));
}

#[test]
fn who_does_not_come_is_missed_and_ids_are_unique() {
    let (outcome, order) = simulate(
        2,
        |settings| settings.watchdog = Duration::from_secs(1),
        |dir, order| vec![sleeper(dir, 1, &[10], order)],
    );
    let missing = SimulationError::Missing {
        have: 1,
        want: 2,
        seconds: 1,
        missing: String::new(),
    };
    assert_eq!(outcome.unwrap_err().to_string(), missing.to_string());
    assert!(order.is_empty());
    let (outcome, _) = simulate(
        2,
        |_| {},
        |dir, order| vec![sleeper(dir, 3, &[], order), sleeper(dir, 3, &[], order)],
    );
    assert!(matches!(outcome, Err(SimulationError::SameId(3))));
}

/// A process of so many lines of shell.
fn child(script: &str) -> std::process::Child {
    use std::os::unix::process::CommandExt;
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", script]).process_group(0);
    sh.stdout(std::process::Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_child_is_judged_by_how_it_exits() {
    for (script, fault) in [
        ("exit 0", None),
        (
            "exit 3",
            Some("guest one has died: exit status: 3, at 0 ns"),
        ),
        (
            "kill -9 $$",
            Some("guest one has died: signal: 9 (SIGKILL), at 0 ns"),
        ),
    ] {
        let (dir, mut simulation) = simulation(2, |_| {});
        let order = Order::default();
        let mut guest = LinuxGuest::connect(dir.path(), 1);
        // It says what it has to say through somebody else, until that one ends as well.
        let fifo = dir.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        let process = child(&format!("read x < {}; {script}", fifo.display()));
        simulation.watch_child(1, "one".to_owned(), process);
        let one = std::thread::spawn(move || {
            guest.start();
            std::fs::write(fifo, "").unwrap();
        });
        let two = sleeper(dir.path(), 2, &[10], &order);
        let summary = simulation.run().unwrap();
        one.join().unwrap();
        two.join().unwrap();
        assert_eq!(summary.faults.len(), usize::from(fault.is_some()));
        for (said, expected) in summary.faults.iter().zip(fault) {
            assert!(said.starts_with(expected), "{said}");
        }
        assert_eq!(*order.lock().unwrap(), [(2, 0), (2, 10)]);
    }
}

#[test]
fn a_child_that_does_not_come_is_named_at_once_and_none_is_left() {
    let (_dir, mut simulation) = simulation(2, |_| {});
    let mut stays = child("sleep 1000 & sleep 1000");
    let mut open = stays.stdout.take().unwrap();
    simulation.watch_child(1, "one".to_owned(), stays);
    simulation.watch_child(2, "two".to_owned(), child("exit 134"));
    let started = Instant::now();
    let verdict = simulation.run().unwrap_err().to_string();
    assert_eq!(
        verdict,
        "guest two has ended before it was told to start: exit status: 134"
    );
    assert!(started.elapsed() < Duration::from_secs(10));
    // Closed when the last of the group is gone.
    assert_eq!(open.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_simulation_can_be_stepped_and_commanded() {
    let (dir, mut simulation) = simulation(1, |_| {});
    let order = Order::default();
    let guest = sleeper(dir.path(), 1, &[50, 100], &order);
    let ran = || order.lock().unwrap().len();
    let command = |words: &[&str]| Command::parse(words).unwrap();
    simulation.at(Nanos(60), 0, command(&["link", "set", "down"]));
    simulation.at(Nanos(70), 0, command(&["vf", "9", "set", "trust", "on"]));
    let link_up = |simulation: &Simulation| {
        let host = simulation.world().host(0).borrow();
        host.policy().link_up()
    };
    assert!(simulation.run_until(Nanos(50)).unwrap());
    assert_eq!((ran(), simulation.world().now()), (2, Nanos(50)));
    assert!(simulation.run_until(Nanos(59)).unwrap() && link_up(&simulation));
    assert!(simulation.run_until(Nanos(60)).unwrap() && !link_up(&simulation));
    assert!(!simulation.run_until(Nanos(1000)).unwrap());
    let summary = simulation.finish();
    guest.join().unwrap();
    assert_eq!(summary.virtual_time, Nanos(100));
    assert_eq!(
        summary.faults,
        ["nic0: vf 9 set trust on: vf9: the VFs of this NIC are 0 to 1, at 70 ns of virtual time"]
    );
}

#[test]
fn the_control_socket_speaks_of_virtual_time() {
    let (dir, simulation) = simulation(1, |_| {});
    let ctl = dir.path().join("ctl.sock");
    let over = Arc::new(AtomicBool::new(false));
    let mut guest = LinuxGuest::connect(dir.path(), 1);
    let done = Arc::clone(&over);
    let guest = std::thread::spawn(move || {
        guest.start();
        let mut now = 0;
        while !done.load(Ordering::SeqCst) {
            now = guest.sleep_until(now + 1_000_000_000);
        }
    });
    let client = std::thread::spawn(move || {
        let command = |words: &str| {
            Request::Command(NicCommand {
                nic: None,
                words: words.split(' ').map(str::to_owned).collect(),
            })
        };
        let mut answers = Vec::new();
        for words in [
            "vf 1 set path mediated",
            "link set down",
            "vf 7 set trust on",
        ] {
            answers.push(match ask(&ctl, &command(words)).unwrap() {
                Response::Done(notes) => notes.join(" "),
                Response::Refused(why) => why,
                other => panic!("{other:?}"),
            });
        }
        let Response::Show(show) = ask(&ctl, &Request::Show).unwrap() else {
            panic!("no counters");
        };
        over.store(true, Ordering::SeqCst);
        (answers, show)
    });
    let summary = simulation.run().unwrap();
    guest.join().unwrap();
    let (answers, show) = client.join().unwrap();
    assert_eq!(answers, ["", "", "vf7: the VFs of this NIC are 0 to 1"]);
    assert_eq!(
        show.uptime_s.fract(),
        0.0,
        "the guest wakes at whole seconds"
    );
    let nic = &show.nics[0];
    assert_eq!((nic.link.up, &nic.vfs[1].path[..]), (false, "mediated"));
    // There are no threads, of which nothing is measured.
    assert_eq!(&nic.worker.clock, "none");
    assert_eq!(nic.workers, []);
    assert!(summary.faults.is_empty(), "a client's mistakes are its own");
}

#[test]
fn nobody_sleeps_for_ever() {
    let (outcome, _) = simulate(
        1,
        |_| {},
        |dir, _| {
            let mut guest = LinuxGuest::connect(dir, 8);
            vec![std::thread::spawn(move || {
                guest.start();
                guest.ask(Op::Wait, 0);
                let _ = guest.stream.read(&mut [0; LEN]);
            })]
        },
    );
    let verdict = outcome.unwrap_err().to_string();
    assert!(verdict.starts_with("guest 8 sleeps for ever"), "{verdict}");
}

mod early;
mod messages;
mod shared;
