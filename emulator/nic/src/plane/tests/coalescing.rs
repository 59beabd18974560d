//! Drivers that let their calls be held back.

use super::*;

const US: Nanos = Nanos(1000);

/// Two guests that are called, the second with what its driver has said.
fn bench(path: Path, coalescing: Coalescing) -> Bench {
    let mut bench = Bench::bare(&[path; 2], ENDLESS, None);
    let config = NetConfig {
        notify: Notify::EventFd,
        ..queue_of(256)
    };
    bench.start(0, &config);
    let mut vm = Vm::new(1, &config);
    vm.coalescing = coalescing;
    for index in 0..vm.net.rings() {
        bench.attach(1, vm.vring(index, true));
    }
    bench.vms.push(vm);
    bench
}

impl Bench {
    /// Sends `frames` to the second guest `after` the last; whether it has been called for them at once.
    fn called_for(&mut self, after: Nanos, frames: usize) -> bool {
        self.now += after;
        self.look();
        for _ in 0..frames {
            self.vms[0].send(mac(1));
        }
        self.settle();
        self.is_called(0)
    }

    /// Whether the second guest has been called for a ring since it was last asked.
    fn is_called(&mut self, ring: usize) -> bool {
        self.vms[1].net.calls().nth(ring).unwrap().drain() > 0
    }

    /// The second guest takes all that there is and waits for more.
    fn look(&mut self) {
        self.vms[1].receive();
        self.vms[1].outstanding(0);
        self.vms[1].net.arm(true);
    }

    fn next(&mut self) -> Option<Nanos> {
        let both = [self.worker.next(self.now), self.hypervisor.next(self.now)];
        both.into_iter().flatten().min()
    }
}

#[test]
fn a_call_is_held_back_for_as_long_as_the_driver_says_on_either_path() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = bench(
            path,
            Coalescing {
                max_usecs: 20,
                max_packets: 0,
            },
        );
        assert!(bench.called_for(US, 1), "{path}: a lone packet");
        assert!(!bench.called_for(US, 1), "{path}");
        assert_eq!(
            bench.vms[1].receive(),
            2,
            "{path}: it is there all the same"
        );
        assert!(!bench.called_for(US, 100), "{path}");
        assert_eq!(bench.next(), Some(Nanos(21_000)), "{path}");
        bench.run_until(Nanos(20_999));
        assert!(!bench.is_called(0), "{path}");
        bench.run_until(Nanos(21_000));
        assert!(bench.is_called(0), "{path}");
        assert_eq!(bench.next(), None, "{path}");
    }
}

#[test]
fn enough_packets_cut_the_time_short() {
    for path in [Path::Direct, Path::Mediated] {
        let mut bench = bench(
            path,
            Coalescing {
                max_usecs: 1_000_000,
                max_packets: 8,
            },
        );
        assert!(bench.called_for(US, 1), "{path}");
        assert!(!bench.called_for(US, 7), "{path}");
        assert!(bench.called_for(US, 1), "{path}");
    }
}

#[test]
fn what_a_driver_has_sent_is_held_back_too_and_a_ring_that_goes_is_called_first() {
    let mut bench = bench(
        Path::Direct,
        Coalescing {
            max_usecs: 20,
            max_packets: 0,
        },
    );
    for called in [true, false] {
        bench.look();
        bench.vms[1].send(mac(0));
        bench.settle();
        assert_eq!(bench.is_called(1), called);
    }
    assert!(bench.worker.detach(bench.now, VfIndex(1), 1).is_some());
    assert!(bench.is_called(1), "nobody else would");
}
