//! Which policy a frame is judged by: the one that was in force when its sender sent it, or a newer one.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use vf_model::Link;

use super::*;
use crate::uplink::Lost;

/// An address that is nobody's until a command says so.
const LISTED: MacAddr = MacAddr([2, 0, 0, 0, 0xa, 1]);

fn list(policies: &PolicyCell, listed: bool) {
    let verb = if listed { "add" } else { "del" };
    let words = format!("vf 1 mac {verb} {LISTED}");
    let words: Vec<_> = words.split(' ').collect();
    let policy = policies.load().with(&Command::parse(&words).unwrap());
    policies.publish(policy.unwrap());
}

/// A plane's thread may have begun a round just before a command, and find the frame that was sent after it in that round.
#[test]
fn a_frame_that_is_sent_after_a_command_finds_it_in_force() {
    for path in [Path::Direct, Path::Mediated] {
        let bench = Bench::without_uplink(&[path; 2]);
        let (mut worker, mut hypervisor, mut vms) = (bench.worker, bench.hypervisor, bench.vms);
        let (mut receiver, mut sender) = (vms.pop().unwrap(), vms.pop().unwrap());
        let done = AtomicBool::new(false);
        let wrong = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    worker.poll(LATE);
                    hypervisor.poll(LATE);
                }
            });
            let wrong = (0..400).filter(|n| {
                let listed = n % 2 == 0;
                list(&bench.policies, listed);
                sender.send(LISTED);
                while sender.outstanding(0) > 0 {
                    std::thread::yield_now();
                }
                let got = receiver.receive();
                receiver.got.clear();
                got != usize::from(listed)
            });
            let wrong = wrong.count();
            done.store(true, Ordering::Relaxed);
            wrong
        });
        assert_eq!(wrong, 0, "of 400 frames on path {path}");
    }
}

/// A thread that goes to sleep has looked for a policy before it said so, and one that comes in between rings no bell.
#[test]
fn no_plane_sleeps_over_a_new_policy() {
    let mut bench = Bench::without_uplink(&[Path::Direct, Path::Mediated]);
    bench.settle();
    let now = bench.now;
    assert!(!bench.worker.arm(now) && !bench.hypervisor.arm(now));
    bench.command("vf 0 set max_tx_rate 5");
    assert!(bench.worker.arm(now) && bench.hypervisor.arm(now));
    bench.settle();
    assert!(!bench.worker.arm(now) && !bench.hypervisor.arm(now));
}

thread_local! {
    /// The guest that sends in the middle of a round; an uplink may not hold it, as that can change threads.
    static SENDER: RefCell<Option<Vm>> = const { RefCell::new(None) };
}

type Act = Box<dyn FnOnce(&mut Arrivals) + Send>;

/// An uplink that does something in the middle of a round.
struct Meanwhile {
    link: Link,
    act: Option<Act>,
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("meanwhile")
    }
}

impl Uplink for Meanwhile {
    fn tx_room(&mut self, now: Nanos, _: &Pool, _: &mut Lost<'_>) -> TxRoom {
        TxRoom::of(&self.link, usize::MAX, now, now)
    }
    fn tx_room_at(&mut self) -> Option<Nanos> {
        None
    }
    fn tx_burst(&mut self, _: Nanos, frames: &mut Vec<TxFrame>, _: &Pool, _: &mut Lost<'_>) {
        frames.clear();
    }
    fn rx_burst(&mut self, _: Nanos, _: usize, _: &Pool, arrivals: &mut Arrivals) {
        if let Some(act) = self.act.take() {
            act(arrivals);
        }
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

#[test]
fn a_command_in_the_middle_of_a_round_holds_for_what_is_found_behind_it() {
    let mut bench = Bench::without_uplink(&[Path::Direct; 2]);
    SENDER.set(Some(bench.vms.remove(0)));
    let policies = bench.policies.clone();
    let act: Act = Box::new(move |arrivals| {
        list(&policies, true);
        let sent = SENDER.with_borrow_mut(|vm| vm.as_mut().is_some_and(|vm| vm.send(LISTED)));
        assert!(sent);
        arrivals.frames.push(private(frame(LISTED, BEYOND, 0, 60)));
    });
    let uplink = Meanwhile {
        link: Link::new(LinkConfig::default()),
        act: Some(act),
    };
    let (nic_end, _hypervisor_end) = PfEnd::pair();
    let mut plane = DirectPlane::new(
        &bench.policies,
        nic_end,
        Some(Box::new(uplink)),
        Pool::new(64),
    );
    for vf in [VfIndex(0), VfIndex(1)] {
        for ring in 0..2 {
            let vring = bench.worker.detach(bench.now, vf, ring).unwrap();
            plane.attach(vf, vring);
        }
    }
    plane.poll(bench.now);
    assert_eq!(bench.vms[0].receive(), 2, "one of a VF, one of the wire");
}

/// A guest that has a receiver's buffers, too, writes over its frame while it is delivered: those that come after have the same all
/// the same.
#[test]
fn a_mirror_shows_what_the_receiver_got() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = Bench::bare(&[path; 3], ENDLESS, None);
        bench.command("vf 1 set mirror 2");
        let mut vm = Vm::new(0, &queue_of(64));
        // The receive ring of the same guest is VF 1's, and its buffers are where the frame is.
        bench.attach(0, vm.vring(1, true));
        bench.attach(1, vm.vring(0, true));
        let at = vm.net.tx_ring(0).buffer_addr(0);
        let queue = &vm.net.rx_ring(0).queue;
        for index in 0..queue.layout().size {
            let buffer = vf_guest::driver::Desc {
                addr: at + 200,
                len: 1600,
                flags: 2,
                next: 0,
            };
            queue.as_split().unwrap().set_desc(index, buffer);
        }
        bench.vms.push(vm);
        let mut watcher = Vm::new(2, &queue_of(64));
        for index in 0..2 {
            bench.attach(2, watcher.vring(index, true));
        }
        let mut sent = frame(mac(1), mac(0), 0, 1000);
        (18..1000).for_each(|n| sent[n] = n as u8);
        let taken = bench.vms[0].net.send(0, &NetHeader::default(), &sent);
        assert!(taken.unwrap());
        bench.vms[0].net.kick();
        bench.run_until(MS);
        assert_eq!(bench.counters(1).rx_packets, 1, "{path}");
        assert_eq!(watcher.receive(), 1, "{path}");
        assert!(watcher.got[0] == sent, "{path}: another payload");
    }
}
