//! The check of what a VF sends.

use proptest::collection::vec;
use proptest::prelude::*;
use vf_model::{DropReason, Header, Path, Profile, Source, VfIndex, VfRequest, Vid};

use crate::any::{any_act, any_frame, any_paths, frame, parse};
use crate::host::{Act, Host, meta};
use crate::{BASE, CASES, VFS, cases};

#[test]
fn the_spoof_check_is_of_address_and_vlan_together_and_off_is_off() {
    let tagged = |vid: u8, src: u32| {
        let mut frame = frame(77, src);
        frame.splice(12..12, [0x81, 0, 0, vid]);
        frame
    };
    let acts: Vec<Act> = [
        "vf 0 mac add 02:00:00:00:00:09 vlan 20",
        "vf 0 vlan add 20",
        "vf 0 vlan add 30",
    ]
    .map(|words| parse(words).into())
    .into();
    for path in [Path::Direct, Path::Mediated] {
        let mut host = Host::new(&acts, &[path]);
        let sent = |host: &mut Host, frame: &[u8]| host.send(Source::Vf(VfIndex(0)), frame).drops;
        assert_eq!(sent(&mut host, &tagged(20, 9)), []);
        assert_eq!(sent(&mut host, &tagged(30, 9)), [DropReason::SpoofedMac]);
        assert_eq!(sent(&mut host, &frame(77, 9)), [DropReason::SpoofedMac]);
        assert_eq!(sent(&mut host, &tagged(30, 0)), []);
        assert_eq!(sent(&mut host, &tagged(40, 0)), [DropReason::VlanFiltered]);
        host.act(&parse("vf 0 set spoofchk off").into()).unwrap();
        for frame in [tagged(30, 9), tagged(40, 0), tagged(40, 9), frame(77, 9)] {
            assert_eq!(sent(&mut host, &frame), []);
        }
    }
}

/// ixgbe_set_vf_macvlan_msg ends anti-spoofing for a VF that it gives a filter to, while `ip link` goes on to show it as on.
#[test]
fn a_vf_of_ixgbe_with_further_addresses_may_send_from_any() {
    for (profile, passes) in [(Profile::Ixgbe, true), (Profile::I40e, false)] {
        let mut host = Host::like(profile, &[], &[]);
        let spoofed = |host: &mut Host| host.send(Source::Vf(VfIndex(0)), &frame(1, 99)).drops;
        assert_eq!(spoofed(&mut host), [DropReason::SpoofedMac]);
        let table = VfRequest::MacTable {
            unicast: vec![BASE.offset(50)],
            multicast: Vec::new(),
        };
        host.act(&Act::Driver(VfIndex(0), table)).unwrap();
        assert_eq!(spoofed(&mut host).is_empty(), passes, "{profile}");
        assert!(host.policy.vf(VfIndex(0)).spoofchk, "what is shown");
    }
}

/// Intel's anti-spoofing is of the VLANs that a VF's driver has asked for as well (82599: VLVF; i40e: the VSI's VLAN filters).
#[test]
fn a_driver_that_lists_vlans_sends_in_no_others_where_the_check_knows_its_list() {
    let tagged = |vid: u8| {
        let mut frame = frame(1, 0);
        frame.splice(12..12, [0x81, 0, 0, vid]);
        frame
    };
    let intel = [Profile::Igb, Profile::Ixgbe, Profile::I40e];
    for (profile, paths) in Profile::all().flat_map(|profile| {
        [Path::Direct, Path::Mediated].map(|path| (profile, [path; VFS as usize]))
    }) {
        let mut host = Host::like(profile, &[], &paths);
        let sent = |host: &mut Host, frame: &[u8]| host.send(Source::Vf(VfIndex(0)), frame).drops;
        assert_eq!(sent(&mut host, &tagged(10)), [], "{profile}: no list");
        let add = VfRequest::VlanAdd(Vid::new(20).unwrap());
        host.act(&Act::Driver(VfIndex(0), add)).unwrap();
        let kept: &[_] = match intel.contains(&profile) {
            true => &[DropReason::VlanFiltered],
            false => &[],
        };
        assert_eq!(sent(&mut host, &tagged(10)), kept, "{profile}");
        let (source, asked) = (Source::Vf(VfIndex(0)), tagged(10));
        let steps = host.policy.why(source, &asked, &meta(&asked, 0)).steps;
        let said = steps
            .iter()
            .any(|step| step.to_string().contains("driver has listed others"));
        assert_eq!(said, intel.contains(&profile), "{profile}: {steps:#?}");
        assert_eq!(sent(&mut host, &tagged(20)), [], "{profile}");
        assert_eq!(sent(&mut host, &frame(1, 0)), [], "{profile}: untagged");
        host.act(&parse("vf 0 set spoofchk off").into()).unwrap();
        assert_eq!(sent(&mut host, &tagged(10)), [], "{profile}");
    }
}

proptest! {
    #![proptest_config(cases(CASES))]

    #[test]
    fn spoof_check_is_total(
        acts in vec(any_act(), 0..16),
        paths in any_paths(),
        vf in 0..VFS,
        mut frame in any_frame(),
        src: [u8; 6],
    ) {
        let mut host = Host::new(&acts, &paths);
        host.act(&parse(&format!("vf {vf} set spoofchk on state enable")).into()).unwrap();
        frame[6..12].copy_from_slice(&src);
        let vf = VfIndex(vf);
        let own = host.policy.mac(vf).0 == src
            || host.policy.in_force(vf).unicast.iter().any(|m| m.0 == src)
            || host.policy.filters(vf).macs().iter().any(|(m, _)| m.0 == src);
        prop_assume!(!own);
        let outcome = host.send(Source::Vf(vf), &frame);
        prop_assert!(outcome.vfs.is_empty() && outcome.wire.is_none());
        let header = Header::parse(&frame).unwrap();
        let reserved = header.dst.is_reserved() || header.ethertype == 0x8808;
        let why = if reserved { DropReason::ReservedMulticast } else { DropReason::SpoofedMac };
        prop_assert_eq!(outcome.drops, [why]);
    }
}
