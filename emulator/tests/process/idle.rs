//! What an idle emulator costs.

use std::time::{Duration, Instant};

use vf_guest::net::NetConfig;

use crate::emulator::{Emulator, back_to_back, wait_for};
use crate::port::{Port, pass};

const VFS: usize = 64;

/// User and system time of the process so far, in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Fields 14 and 15, counted from behind the name, which may contain anything.
    let fields = stat[stat.rfind(')').unwrap() + 1..].split_whitespace();
    fields
        .skip(11)
        .take(2)
        .map(|f| f.parse::<u64>().unwrap())
        .sum()
}

/// Asserts that two idle seconds cost less than 50 ms of CPU time.
#[track_caller]
fn is_idle(emulator: &Emulator) {
    std::thread::sleep(Duration::from_millis(200)); // what was under way settles
    let before = ticks(emulator.pid());
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks(emulator.pid()) - before;
    assert!(used < 5, "{} ms of CPU time in 2 s", 10 * used);
}

#[test]
fn sixty_four_idle_vfs_cost_nothing() {
    let began = Instant::now();
    let emulator = Emulator::start(&["--vfs", "64"]);
    let took = began.elapsed();
    // It takes some 20 ms; the bound leaves room for a machine that is busy with other tests.
    assert!(took < Duration::from_secs(5), "{took:?} to start");
    let threads = || threads(&emulator).len();
    let at_first = "control, log, state, worker, hypervisor, signals, watchdog";
    wait_for(at_first, || (threads() == 7).then_some(()));
    is_idle(&emulator);

    // The same with a guest on each, half of them mediated, after some traffic.
    let config = NetConfig {
        queue_size: 64,
        ..NetConfig::default()
    };
    let mut ports: Vec<Port> = (0..VFS)
        .map(|i| Port::open_with(&emulator.path(&format!("vf{i}.sock")), &config))
        .collect();
    for i in (0..VFS).step_by(2) {
        crate::control::command(&emulator, &format!("nic0 vf {i} set path mediated"));
    }
    for i in (0..VFS).step_by(8) {
        let (left, right) = ports.split_at_mut(i + 1);
        pass(&mut left[i], &mut right[0]);
    }
    let expected = "control, log, state, worker, hypervisor, signals, and who looks after front ends' descriptors";
    // Those that close what clients have sent stay for a moment.
    wait_for(expected, || (threads() == 7).then_some(()));
    is_idle(&emulator);
    // And it wakes up again.
    let (left, right) = ports.split_at_mut(VFS - 1);
    pass(&mut left[0], &mut right[0]);
}

fn one_frame(from: &mut Port, to: &mut Port) {
    let frame = from.frame(to.mac, 60);
    from.send(&frame);
    to.gets(&frame);
}

#[test]
fn the_first_frame_after_a_while_wakes_the_worker_once() {
    for poll in ["adaptive", "never"] {
        wakes_each_worker_once(poll, 1);
    }
}

#[test]
fn the_first_frame_after_a_while_wakes_the_receivers_worker_once_as_well() {
    for poll in ["adaptive", "never"] {
        wakes_each_worker_once(poll, 2);
    }
}

fn wakes_each_worker_once(poll: &str, workers: usize) {
    let emulator = Emulator::start(&["--poll", poll, "--workers", &workers.to_string()]);
    let wakeups = || -> Vec<u64> {
        let show = emulator.show();
        show.workers().take(workers).map(|w| w.wakeups).collect()
    };
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    pass(&mut a, &mut b);
    let mut seen = Vec::new();
    // On a machine that is busy with other tests a guest may be stopped between its steps, which is a wake-up more.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(200)); // it is asleep
        let before = wakeups();
        std::thread::sleep(Duration::from_millis(200));
        one_frame(&mut a, &mut b);
        std::thread::sleep(Duration::from_millis(200));
        // Whoever asks for the figures wakes nobody.
        let after = wakeups().into_iter().zip(before);
        let woken: Vec<_> = after.map(|(after, before)| after - before).collect();
        if woken == vec![1; workers] {
            return;
        }
        seen.push(woken);
    }
    panic!("{poll}: not woken once, three times: {seen:?}");
}

#[test]
fn a_worker_that_polls_always_does_not_sleep() {
    let emulator = Emulator::start(&["--poll", "always"]);
    let [mut a, mut b] = ["vf0.sock", "vf1.sock"].map(|s| Port::open(&emulator.path(s)));
    one_frame(&mut a, &mut b);
    // Rounds are counted in when they are over, which the guest need not wait for.
    let worker = wait_for("the round is over", || {
        let worker = emulator.show().workers().next().unwrap().clone();
        (worker.frames == 1).then_some(worker)
    });
    assert_eq!((worker.wakeups, worker.copies), (0, 1));
    assert_eq!(
        worker.notified + worker.suppressed,
        2,
        "both ends of a frame"
    );
}

#[test]
fn one_data_plane_thread_for_all_nics_and_a_hypervisor_each() {
    let names = [
        "dp0", "hyp-a", "hyp-b", "log", "signals", "state", "vfnic", "watchdog",
    ];
    has_these_threads(1, &names);
}

#[test]
fn as_many_data_plane_threads_as_a_nic_has_workers() {
    let names = [
        "dp0", "dp1", "hyp-a", "hyp-b", "log", "signals", "state", "vfnic", "watchdog",
    ];
    has_these_threads(2, &names);
}

/// The names of a process' threads, in order, but for those that close what clients have sent, which stay for a moment.
fn threads(emulator: &Emulator) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", emulator.pid())).unwrap();
    // One may have ended meanwhile.
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let mut names: Vec<String> = names.map(|name| name.trim_end().to_owned()).collect();
    names.retain(|name| name != "close");
    names.sort();
    names
}

fn has_these_threads(workers: usize, expected: &[&str]) {
    let emulator = Emulator::with_config(&back_to_back(workers));
    wait_for(&format!("these threads: {expected:?}"), || {
        // A thread gives itself its name.
        (threads(&emulator) == expected).then_some(())
    });
    is_idle(&emulator);
}
