//! What commands make of a policy.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vf_model::{Judge, Nanos, Nic, Path, Policy, Source, VfIndex};

use crate::any::{any_act, any_command, any_traffic, frame, parse};
use crate::host::{Host, meta};
use crate::{CASES, VFS, cases};

#[test]
fn a_limit_goes_on_whatever_else_changes() {
    for path in [Path::Direct, Path::Mediated, Path::Auto] {
        let mut host = Host::new(&[], &[path]);
        let vf = VfIndex(0);
        let ready = |host: &Host| match path {
            Path::Mediated => host.hypervisor.tx_ready_at(vf, host.now),
            _ => host.nic.tx_ready_at(vf, host.now),
        };
        host.act(&parse("vf 0 set max_tx_rate 1").into()).unwrap();
        for _ in 0..10 {
            host.send(Source::Vf(vf), &frame(1, 0));
        }
        let held = ready(&host);
        assert!(held > host.now);
        for words in [
            "vf 0 set trust on",
            "vf 1 set max_tx_rate 5",
            "filter add flow-type ether proto 0x88b5 vf 1",
        ] {
            host.act(&parse(words).into()).unwrap();
            assert_eq!(ready(&host), held, "{words}");
        }
        // Neither another rate nor another path lends it anything, however often they change.
        for rate in [2, 1] {
            host.act(&parse(&format!("vf 0 set max_tx_rate {rate}")).into())
                .unwrap();
            // The last frame takes its time at the new rate: 84 byte times, half as long at twice the rate.
            let sooner = Nanos(84 * 8000 - 84 * 8000 / rate);
            assert_eq!(ready(&host) + sooner, held, "{rate}");
        }
        for other in [Path::Mediated, Path::Direct, Path::Auto, path] {
            host.set_paths(&[other]);
            let ready = match other {
                Path::Mediated => host.hypervisor.tx_ready_at(vf, host.now),
                _ => host.nic.tx_ready_at(vf, host.now),
            };
            assert_eq!(ready, held, "{other}");
        }
        host.act(&parse("vf 0 set max_tx_rate 0").into()).unwrap();
        assert_eq!(ready(&host), host.now, "no limit, nothing held");
    }
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn a_refused_command_changes_nothing(
        acts in vec(any_act(), 0..24),
        traffic in vec(any_traffic(), 1..8),
    ) {
        let mut host = Host::new(&[], &[]);
        let mut accepted = Vec::new();
        for act in acts {
            if host.act(&act).is_ok() {
                accepted.push(act);
            }
        }
        let mut other = Host::new(&accepted, &[]);
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(host.policy.vf(vf), other.policy.vf(vf));
            prop_assert_eq!(host.policy.filters(vf), other.policy.filters(vf));
            prop_assert_eq!(host.policy.asked(vf), other.policy.asked(vf));
            prop_assert_eq!(host.policy.in_force(vf), other.policy.in_force(vf));
        }
        for (source, frame) in traffic {
            let judge = |nic: &mut Nic| nic.ingress(Nanos(0), source, &frame, &meta(&frame, 0));
            prop_assert_eq!(judge(&mut host.nic), judge(&mut other.nic));
        }
    }

    #[test]
    fn a_batch_is_its_commands_one_by_one_or_nothing(
        commands in vec(any_command(), 0..24),
        refused in any::<bool>(),
        traffic in vec(any_traffic(), 1..8),
    ) {
        let fresh = Host::new(&[], &[]).policy;
        let mut one_by_one = fresh.clone();
        let mut accepted = Vec::new();
        let mut first_refused = None;
        for (at, command) in commands.iter().enumerate() {
            match one_by_one.with(command) {
                Ok(policy) => {
                    one_by_one = Arc::new(policy);
                    accepted.push(command.clone());
                }
                Err(why) => first_refused = first_refused.or(Some((at, why))),
            }
        }
        if refused && let Some((at, why)) = first_refused {
            let all = fresh.with_all(&commands).unwrap_err();
            prop_assert_eq!((all.at, all.why), (at, why));
            prop_assert_eq!(fresh.version(), Host::new(&[], &[]).policy.version());
        }
        let batch = Arc::new(fresh.with_all(&accepted).unwrap());
        prop_assert_eq!(batch.version() - fresh.version(), u64::from(!accepted.is_empty()));
        let filters = |policy: &Policy| policy.filter_table().iter().collect::<Vec<_>>();
        prop_assert_eq!(filters(&batch), filters(&one_by_one));
        prop_assert!(filters(&fresh).is_empty(), "what was there before is as it was");
        for vf in (0..VFS).map(VfIndex) {
            prop_assert_eq!(batch.vf(vf), one_by_one.vf(vf));
            prop_assert_eq!(batch.filters(vf), one_by_one.filters(vf));
            prop_assert_eq!(batch.in_force(vf), one_by_one.in_force(vf));
        }
        let [mut one, mut other] = [one_by_one, batch].map(Nic::new);
        for (source, frame) in traffic {
            let judge = |nic: &mut Nic| nic.ingress(Nanos(0), source, &frame, &meta(&frame, 0));
            prop_assert_eq!(judge(&mut one), judge(&mut other));
        }
    }
}
